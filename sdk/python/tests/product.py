"""A real controller with real VMs, whose bare-metal guest answers exec and eval as far as it goes."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import forkd
from faces import FACES, raised
from forkd import answers
from harness import KERNEL, case, main


def url(c):
    return 'unix:' + c.socket


def clients(c, **options):
    return [face(url(c), **options) for face in FACES]


def prepare(c):
    """The snapshot `bare`, and a blocking client to look at things with."""
    client = forkd.Controller(url(c))
    client.create_snapshot('bare', KERNEL, mem_size_mib=64)
    return client


def fits(info, kind):
    """All fields that are always there, and none that the type does not know."""
    return kind.__required_keys__ <= set(info) <= kind.__required_keys__ | kind.__optional_keys__


@case()
def health_version_and_metrics(c):
    for client in clients(c):
        assert client.health() == {'ok': True}
        assert client.version()['api'] == 'v1'
        assert '\nforkd_sandboxes_active 0\n' in client.metrics()


@case()
def a_snapshot_is_made_listed_and_deleted(c):
    for client in clients(c):
        made = client.create_snapshot('bare', KERNEL, mem_size_mib=64, ready_cmd='true', warmup=['json'])
        assert made['tag'] == 'bare' and made['bootable'] and fits(made, answers.SnapshotInfo), made
        assert client.list_snapshots() == [made]
        error = raised(forkd.BadRequest, client.create_snapshot, 'bare', KERNEL)
        assert 'HTTP 400: ' in str(error) and 'bare' in error.reason
        assert client.delete_snapshot('bare') is None
        assert client.list_snapshots() == []
        assert 'HTTP 404: snapshot bare not found' in str(raised(forkd.NotFound, client.delete_snapshot, 'bare'))


@case()
def sandboxes_are_spawned_listed_asked_after_and_killed(c):
    prepare(c)
    for client in clients(c):
        made = client.spawn_sandboxes('bare', 3)
        assert len(made) == 3 and all(fits(one, answers.SandboxInfo) for one in made), made
        assert client.list_sandboxes() == sorted(made, key=lambda one: one['id'])
        one = made[0]
        assert client.get_sandbox(one['id']) == one
        assert client.get_sandbox(one['id'], memory=True)['memory_own_kib'] > 0
        assert all(box['memory_pss_kib'] > 0 for box in client.list_sandboxes(memory=True))
        assert client.list_snapshots(memory=True)[0]['memory_image_kib'] > 0
        assert client.kill_sandbox(one['id']) is None
        for call in (client.get_sandbox, client.kill_sandbox, client.ping_sandbox, client.resume_sandbox):
            error = raised(forkd.NotFound, call, one['id'])
            assert f'HTTP 404: sandbox {one["id"]} not found' in str(error)
        for box in made[1:]:
            client.kill_sandbox(box['id'])
        assert client.list_sandboxes() == []
        assert 'none' in raised(forkd.NotFound, client.spawn_sandboxes, 'none').reason
        raised(forkd.BadRequest, client.spawn_sandboxes, 'bare', 0)


@case()
def commands_end_as_they_did(c):
    prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (box,):
            run = lambda *words, **fields: client.exec_command(box['id'], list(words), **fields)
            assert run('echo', 'a', 'b') == {'stdout': 'a b\n', 'stderr': '', 'exit_code': 0}
            assert run('exit', '7')['exit_code'] == 7
            assert run('cat', stdin='in\n')['stdout'] == 'in\n'
            missing = run('none-such')
            assert missing['exit_code'] == 127 and 'none-such' in missing['stderr']
            assert run('spew', '5000', output_limit=10)['stdout_truncated'] is True
            late = run('sleep', '600', timeout_secs=1)
            assert late['exit_code'] == 124 and late['timed_out'] is True
            raised(forkd.BadRequest, client.exec_command, box['id'], [])


@case()
def a_command_may_take_longer_than_the_timeout_of_requests(c):
    prepare(c)
    for client in clients(c, timeout=0.5):
        with client.spawned('bare') as (box,):
            answer = client.exec_command(box['id'], ['sleep', '0.8'], timeout_secs=60)
            assert answer['exit_code'] == 0


@case()
def evals_give_the_value_or_the_error(c):
    prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (box,):
            answer = client.eval_code(box['id'], '6 * 7')
            assert answer == {'result': '42', 'error': None, 'exit_code': 0} and fits(answer, answers.EvalResult)
            answer = client.eval_code(box['id'], 'print()', timeout_secs=5)
            assert answer['result'] is None and answer['error']


@case()
def a_ping_tells_the_guest(c):
    prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (box,):
            pong = client.ping_sandbox(box['id'])
            assert pong['pong'] is True and fits(pong, answers.PingResult), pong


@case()
def a_body_that_is_too_large_is_told_as_such(c):
    for client in clients(c):
        assert raised(forkd.ControllerError, client.eval_code, 'sb-none', 'x' * (4 << 20)).status == 413


@case()
def a_guest_without_a_shell_is_told_when_a_text_is_waited_for(c):
    prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (box,):
            assert 'no sh and grep' in str(raised(forkd.ForkdError, client.wait_for_text, box['id'], '/log', 'x'))


@case()
def spawned_sandboxes_end_with_their_block_whatever_happens_in_it(c):
    looking = prepare(c)
    for client in clients(c):
        with client.spawned('bare', 3) as boxes:
            assert len(looking.list_sandboxes()) == 3
            client.kill_sandbox(boxes[1]['id'])
        assert looking.list_sandboxes() == []
        try:
            with client.spawned('bare', 2):
                raise LookupError('mine')
        except LookupError as error:
            assert str(error) == 'mine'
        assert looking.list_sandboxes() == []


@case()
def a_branch_has_what_its_source_had_at_that_moment(c):
    looking = prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (source,):
            memory = lambda box, *words: client.exec_command(box['id'], ['mem', *words])['stdout'].strip()
            memory(source, 'write', '0x1800000', '0x7')
            made = client.branch_sandbox(source['id'], 'point')
            assert made['tag'] == 'point' and made['branched_from'] == source['id'] and made['status'] == 'ready', made
            assert fits(made, answers.SnapshotInfo) and fits(made['pause_us'], answers.PauseMicroseconds), made
            memory(source, 'write', '0x1800000', '0x8')
            with client.spawned('point', 2) as forks:
                assert [memory(box, 'read', '0x1800000') for box in (*forks, source)] == ['0x7', '0x7', '0x8']
            assert client.get_sandbox(source['id'])['branch_count'] == 1
            assert 'point' in raised(forkd.Conflict, client.branch_sandbox, source['id'], 'point').reason
            client.delete_snapshot('point')
            with client.branched(source['id'], mode='diff', wait=False) as point:
                assert point['bootable'] and point['tag'] in [one['tag'] for one in looking.list_snapshots()]
            assert [one['tag'] for one in looking.list_snapshots()] == ['bare']
        raised(forkd.NotFound, client.branch_sandbox, source['id'])


@case(env={'FORKD_SNAPSHOT_WRITER': 'direct'})
def a_diff_names_its_parent_and_can_be_made_whole(c):
    prepare(c)
    for client in clients(c):
        with client.spawned('bare') as (source,):
            client.exec_command(source['id'], ['mem', 'write', '0x1800000', '0x7'])
            client.branch_sandbox(source['id'], 'point', diff=True)
        told = client.snapshot_info('point')
        assert fits(told, answers.SnapshotInfoDetail) and told['parent_tag'] == 'bare', told
        assert told['ancestors'] == ['bare'] and client.snapshot_info('bare')['dependents'] == ['point'], told
        whole = client.compact_snapshot('point', 'whole')
        assert whole['tag'] == 'whole' and whole['branched_from'] == 'compact:point', whole
        with client.spawned('whole') as (box,):
            assert client.exec_command(box['id'], ['mem', 'read', '0x1800000'])['stdout'] == '0x7\n'
        assert 'point' in raised(forkd.Conflict, client.delete_snapshot, 'bare').reason
        for tag in ('point', 'whole'):
            client.delete_snapshot(tag)
        raised(forkd.NotFound, client.snapshot_info, 'point')


@case()
def a_workspace_is_put_away_and_taken_up_again(c):
    prepare(c)
    for client in clients(c):
        made = client.create_workspace('desk', 'bare')
        assert made['status'] == 'running' and fits(made, answers.WorkspaceInfo), made
        assert client.list_workspaces() == [client.get_workspace('desk')]
        client.exec_command(made['live_sandbox_id'], ['mem', 'write', '0x1800000', '0x7'])
        away = client.suspend_workspace('desk', diff=True)
        assert away['status'] == 'suspended' and client.list_sandboxes() == []
        assert away['current_state_tag'] in [one['tag'] for one in client.list_snapshots()]
        raised(forkd.BadRequest, client.suspend_workspace, 'desk')
        back = client.resume_workspace('desk')
        said = client.exec_command(back['live_sandbox_id'], ['mem', 'read', '0x1800000'])
        assert said['stdout'] == '0x7\n' and back['live_sandbox_id'] != made['live_sandbox_id']
        assert client.delete_workspace('desk') is None
        raised(forkd.NotFound, client.get_workspace, 'desk')
        assert client.list_sandboxes() == [] and len(client.list_snapshots()) == 1


@case()
def a_token_is_asked_for_and_taken(c):
    secret = os.path.join(c.dir, 'token')
    with open(secret, 'w', encoding='utf-8') as file:
        file.write('a-token-of-enough-bytes')
    c.stop()
    c.flags = ['--token-file', secret]
    c.start()
    for face in FACES:
        error = raised(forkd.Unauthorized, face(url(c)).list_sandboxes)
        assert 'HTTP 401: missing bearer token' in str(error) and 'FORKD_TOKEN' in str(error)
        assert 'invalid' in raised(forkd.Unauthorized, face(url(c), 'wrong').list_sandboxes).reason
        assert face(url(c), 'a-token-of-enough-bytes\n').list_sandboxes() == []
        assert face(url(c)).health() == {'ok': True}
    # What cleans up behind the case has no token.
    c.stop()
    c.flags = []
    c.start()


@case()
def a_hundred_at_once_with_asyncio(c):
    prepare(c)

    async def all_of_them():
        client = forkd.AsyncController(url(c))
        async with client.spawned('bare', 100) as boxes:
            return await asyncio.gather(*(client.eval_code(box['id'], f'{i} * 2') for i, box in enumerate(boxes)))

    results = asyncio.run(all_of_them())
    assert [int(one['result']) for one in results] == [2 * i for i in range(100)]


@case()
def threads_share_a_controller(c):
    client = prepare(c)
    with client.spawned('bare', 8) as boxes, ThreadPoolExecutor(8) as pool:
        names = pool.map(lambda box: [client.exec_command(box['id'], ['hostname'])['stdout'] for _ in range(20)], boxes)
        assert all(set(said) == {box['id'] + '\n'} for said, box in zip(names, boxes))


@case()
def a_cancelled_call_leaves_the_controller_well(c):
    prepare(c)

    async def cancel_one():
        client = forkd.AsyncController(url(c))
        async with client.spawned('bare') as (box,):
            slow = asyncio.create_task(client.exec_command(box['id'], ['sleep', '600'], timeout_secs=600))
            await client.ping_sandbox(box['id'])
            slow.cancel()
            try:
                await slow
            except asyncio.CancelledError:
                return await client.eval_code(box['id'], '1 + 1')

    assert asyncio.run(cancel_one())['result'] == '2'


raise SystemExit(main())
