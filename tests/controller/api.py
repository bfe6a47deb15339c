"""The API as docs/api.md tells it: fields, statuses, words."""

import json
import os
import signal

from harness import Skip, case, main, until

SANDBOX_FIELDS = ['id', 'snapshot_tag', 'netns', 'guest_addr', 'created_at_unix', 'pid', 'memory_limit_mib',
                  'last_branch_memory_path', 'has_branched', 'branch_count']


@case()
def healthz_and_version_are_compact(c):
    assert c.raw('GET', '/healthz')[1] == b'{"ok":true}'
    version = c.get('/version')[1]
    assert list(version) == ['version', 'api'] and version['api'] == 'v1'


@case()
def a_snapshot_is_made_listed_and_deleted(c):
    made = c.snapshot()
    assert list(made) == ['tag', 'dir', 'created_at_unix', 'status', 'bootable'], made
    assert made['status'] == 'ready' and made['bootable'] is True
    assert c.get('/v1/snapshots')[1] == [made]
    assert c.delete('/v1/snapshots/py') == (204, None)
    assert c.get('/v1/snapshots') == (200, [])
    assert c.delete('/v1/snapshots/py')[0] == 404


@case()
def snapshots_are_listed_by_tag(c):
    for tag in ('b', 'a', 'c'):
        c.snapshot(tag)
    assert [one['tag'] for one in c.get('/v1/snapshots')[1]] == ['a', 'b', 'c']


@case()
def sandboxes_have_all_fields_in_order(c):
    c.snapshot()
    made = c.fork(3)
    assert len(made) == 3
    for one in made:
        assert list(one) == SANDBOX_FIELDS, one
        assert one['snapshot_tag'] == 'py' and one['guest_addr'] == '10.42.0.2:8888' and one['pid'] in c.processes()
        assert one['netns'] is None and one['memory_limit_mib'] is None and one['has_branched'] is False
        assert c.get('/v1/sandboxes/' + one['id']) == (200, one)
    listed = c.get('/v1/sandboxes')[1]
    assert listed == sorted(made, key=lambda one: one['id'])


@case()
def ids_are_long_random_and_short_enough_for_a_tag(c):
    c.snapshot()
    ids = [one['id'] for _ in range(4) for one in c.fork(50)]
    assert len(set(ids)) == 200
    for one in ids:
        prefix, random = one.split('-')
        assert prefix == 'sb' and len(random) >= 16 and random.isalnum() and len(one) <= 41
    # 32 letters, each place its own: of 200 draws fewer than 26 different ones come once in 10^13 times.
    for place in zip(*(one.removeprefix('sb-') for one in ids)):
        assert len(set(place)) >= 26, place


@case()
def a_deleted_sandbox_is_gone_when_the_answer_comes(c):
    c.snapshot()
    one = c.fork()[0]
    assert c.delete('/v1/sandboxes/' + one['id']) == (204, None)
    assert one['pid'] not in c.processes()
    assert one['id'] not in c.run_directories()
    status, answer = c.delete('/v1/sandboxes/' + one['id'])
    assert status == 404 and answer == {'error': f'sandbox {one["id"]} not found'}


@case()
def ping_answers_with_five_fields(c):
    c.snapshot(warmup=['numpy'])
    one = c.fork()[0]['id']
    status, answer = c.post(f'/v1/sandboxes/{one}/ping')
    assert status == 200
    assert answer == {'pong': True, 'numpy_version': '1.24.2', 'pid': 42, 'agent_lang': 'c+python',
                      'warmup_ready': True}


@case()
def exec_answers_with_output_and_code(c):
    c.snapshot()
    one = c.fork()[0]['id']
    assert c.exec(one, 'echo', 'a', 'b') == (200, {'stdout': 'a b\n', 'stderr': '', 'exit_code': 0})
    assert c.exec(one, 'exit', '7') == (200, {'stdout': '', 'stderr': '', 'exit_code': 7})
    assert c.exec(one, 'signal')[1]['exit_code'] == -9
    assert c.exec(one, 'slow')[1] == {'stdout': 'so far', 'stderr': '', 'exit_code': 124, 'timed_out': True}
    assert c.exec(one, 'none-such')[1] == {'stdout': '', 'stderr': 'none-such: not found', 'exit_code': 127}
    assert c.exec(one, 'cat', stdin='in\n')[1]['stdout'] == 'in\n'
    assert c.exec(one, 'env', env={'A': 'b'}, cwd='/tmp')[1] == {'stdout': 'A=b\n', 'stderr': '/tmp', 'exit_code': 0}


@case()
def output_that_is_no_text_is_still_json(c):
    c.snapshot()
    one = c.fork()[0]['id']
    assert c.exec(one, 'bytes')[1]['stdout'] == '�\0é'


@case()
def output_over_the_limit_is_cut_and_says_so(c):
    c.snapshot()
    one = c.fork()[0]['id']
    answer = c.exec(one, 'flood', output_limit=1000)[1]
    assert answer == {'stdout': 'x' * 1000, 'stderr': '', 'exit_code': 0, 'stdout_truncated': True}


@case()
def eval_answers_with_three_fields(c):
    c.snapshot()
    one = c.fork()[0]['id']
    eval_path = f'/v1/sandboxes/{one}/eval'
    assert c.post(eval_path, {'code': '1+1'}) == (200, {'result': '2', 'error': None, 'exit_code': 0})
    assert c.post(eval_path, {'code': 'raise'})[1] == {'result': None, 'error': 'Traceback: raised', 'exit_code': 1}
    assert c.post(eval_path, {'code': 'x = 1'})[1] == {'result': None, 'error': None, 'exit_code': 0,
                                                       'stdout': 'said\n'}


@case()
def every_fork_has_a_name_and_entropy_of_its_own(c):
    c.snapshot()
    made = c.fork(4)
    assert [c.exec(one['id'], 'hostname')[1]['stdout'] for one in made] == [one['id'] for one in made]
    assert len({c.exec(one['id'], 'entropy')[1]['stdout'] for one in made}) == 4


@case()
def unknown_sandboxes_are_404_everywhere(c):
    want = (404, {'error': 'sandbox sb-none not found'})
    assert c.get('/v1/sandboxes/sb-none') == want
    assert c.delete('/v1/sandboxes/sb-none') == want
    assert c.post('/v1/sandboxes/sb-none/ping') == want
    assert c.exec('sb-none', 'true') == want
    assert c.post('/v1/sandboxes/sb-none/eval', {'code': '1'}) == want


@case()
def unknown_paths_and_methods_are_told_in_json(c):
    for path in ('/', '/v1', '/v1/none', '/v1/sandboxes/a/b', '/v1/sandboxes/a/exec/b', '/v1/a/b/c/d/e/f'):
        status, answer = c.get(path)
        assert status in (404, 405, 400) and list(answer) == ['error'], (path, status, answer)
    status, text, response = c.raw('PUT', '/v1/sandboxes')
    assert status == 405 and 'error' in json.loads(text)
    assert response.getheader('Allow') == 'GET, POST'
    assert c.call('PATCH', '/healthz')[0] == 405


@case()
def any_content_type_will_do_and_none(c):
    for headers in ({}, {'Content-Type': 'text/plain'}, {'Content-Type': 'application/json'}):
        body = json.dumps({'tag': 'x', 'kernel': '/none'})
        status, answer = c.call('POST', '/v1/snapshots', body, headers)
        assert status == 400 and answer['error'] == 'kernel /none: No such file or directory', answer
    assert c.call('POST', '/v1/snapshots', '{}', {'Content-Encoding': 'gzip'})[0] == 415
    assert c.call('GET', '/v1/sandboxes', '{}', {'Content-Type': 'application/json'})[0] == 200


@case()
def a_body_over_the_limit_is_413(c):
    assert c.call('POST', '/v1/snapshots', b'x' * (3 << 20))[0] == 413


@case()
def unknown_fields_are_ignored(c):
    c.snapshot(future=1)
    assert len(c.fork(prewarm=True, live_fork=True, hugepages=False, future={})) == 1


@case()
def a_spawn_of_what_is_not_there_is_404(c):
    assert c.post('/v1/sandboxes', {'snapshot_tag': 'none'}) == (404, {'error': 'snapshot none not found'})


@case()
def memory_of_its_own_is_told_when_asked_for(c):
    c.snapshot()
    one = c.fork()[0]['id']
    told = c.get(f'/v1/sandboxes/{one}?memory=true')[1]
    assert told['memory_own_kib'] > 0 and told['memory_pss_kib'] > 0
    assert 'memory_own_kib' not in c.get(f'/v1/sandboxes/{one}')[1]


def cgroup_of(pid):
    with open(f'/proc/{pid}/cgroup', encoding='utf-8') as file:
        path = next(line.split(':', 2)[2].strip() for line in file if line.startswith('0::'))
    with open('/proc/self/mountinfo', encoding='utf-8') as file:
        mount = next(line.split()[4] for line in file if ' - cgroup2 ' in line)
    return mount + path


@case()
def a_memory_limit_is_that_of_the_childs_own_cgroup(c):
    c.snapshot()
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py', 'n': 2, 'memory_limit_mib': 64})
    if status == 500 and 'memory_limit_mib cannot be kept on this host' in answer['error']:
        raise Skip(answer['error'])
    assert status == 201, answer
    leaves = [cgroup_of(one['pid']) for one in answer]
    for one, leaf in zip(answer, leaves):
        assert one['memory_limit_mib'] == 64 and os.path.basename(leaf) == one['id']
        with open(leaf + '/memory.max', encoding='utf-8') as file:
            assert int(file.read()) == 64 << 20
        assert c.get(f'/v1/sandboxes/{one["id"]}?memory=true')[1]['memory_charged_kib'] > 0
    assert c.delete('/v1/sandboxes/' + answer[0]['id'])[0] == 204
    assert not os.path.exists(leaves[0]) and os.path.exists(leaves[1])
    os.kill(answer[1]['pid'], signal.SIGKILL)
    until(lambda: not os.path.exists(leaves[1]), 'the leaf of the dead is gone')
    assert c.delete('/v1/snapshots/py')[0] == 204
    assert not os.path.exists(os.path.dirname(leaves[0]))


@case()
def every_request_leaves_one_audit_line(c):
    c.get('/healthz')
    c.call('GET', '/v1/sandboxes?memory=true', None, {'User-Agent': 'tester'})
    with open(c.audit, encoding='utf-8') as file:
        last = json.loads(file.read().splitlines()[-1])
    assert list(last) == ['ts', 'method', 'path', 'status', 'latency_us', 'ua', 'remote', 'token_id']
    assert last['path'] == '/v1/sandboxes' and last['status'] == 200 and last['ua'] == 'tester'
    assert last['ts'].endswith('Z') and last['remote'] == 'unix'


raise SystemExit(main())
