"""Snapshots on the disk: what was told to be durable comes back, whoever died; what failed says why and loads never."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, Skip, until

WRITTEN = {'FORKD_SNAPSHOT_WRITER': 'direct'}
AT = '0x2000000'


def branch(c, sandbox, tag, **fields):
    status, answer = c.post(f'/v1/sandboxes/{sandbox}/branch', {'tag': tag, **fields})
    assert status == 201 and answer['status'] == 'ready', (status, answer)
    return answer


def fill(c, sandbox, value, size='4m'):
    status, answer = c.exec(sandbox, 'mem', 'fill', AT, size, str(value))
    assert status == 200 and answer['exit_code'] == 0, answer


def check(c, sandbox, value, size='4m'):
    status, answer = c.exec(sandbox, 'mem', 'check', AT, size, str(value))
    assert status == 200 and answer['exit_code'] == 0, answer


def snapshots(c):
    return {one['tag']: one for one in c.get('/v1/snapshots')[1]}


def die_all(c):
    """The end of the host, as far as forkd can tell."""
    c.stop(signal.SIGKILL)
    for pid in c.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not c.processes(), 'all are dead')


def writers(c):
    return [pid for pid in filter(str.isdigit, os.listdir('/proc')) if is_writer(c, pid)]


def is_writer(c, pid):
    try:
        argv = pathlib.Path('/proc', pid, 'cmdline').read_bytes()
        parent = int(pathlib.Path('/proc', pid, 'stat').read_text().rsplit(')', 1)[1].split()[1])
    except OSError:
        return False
    return b'forkd-store' in argv and parent == c.process.pid


def tells_of_the_tree(c):
    """py <- b <- c, and a by itself."""
    info = {tag: c.get(f'/v1/snapshots/{tag}/info')[1] for tag in ('py', 'a', 'b', 'c')}
    assert [info[tag]['ancestors'] for tag in ('py', 'a', 'b', 'c')] == [[], [], ['py'], ['py', 'b']]
    assert [info[tag]['dependents'] for tag in ('py', 'a', 'b', 'c')] == [['b'], [], ['c'], []]
    assert [info[tag]['chain_depth'] for tag in ('py', 'a', 'b', 'c')] == [0, 0, 1, 2]
    assert info['c']['parent_content_hash'] == info['b']['content_hash'] != info['py']['content_hash']
    assert 'parent_content_hash' not in info['a'] and info['a']['parent_tag'] == 'py'
    for one in info.values():
        assert one['memory_logical_bytes'] == 128 << 20 and one['vmstate_bytes'] > 4096, one
        assert 0 < one['memory_physical_bytes'] < 16 << 20, one


@case(env=WRITTEN)
def a_tree_comes_back_after_the_end_of_the_host(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1)
    branch(c, one, 'a')
    fill(c, one, 2)
    info = branch(c, one, 'b', mode='diff')
    assert info['diff_physical_bytes'] < 16 << 20 and info['diff_logical_bytes'] == 128 << 20, info
    two = c.fork(1, 'b')[0]['id']
    fill(c, two, 3, '2m')
    made = branch(c, two, 'c', mode='diff')
    tells_of_the_tree(c)
    assert made['parent_tag'] == 'b' and sorted(os.listdir(c.root)) == ['a', 'b', 'c', 'py']
    die_all(c)
    c.start()
    assert {tag: (s['status'], s['bootable']) for tag, s in snapshots(c).items()} == \
        dict.fromkeys(('a', 'b', 'c', 'py'), ('ready', True))
    assert snapshots(c)['c'] == made, (snapshots(c)['c'], made)
    tells_of_the_tree(c)
    assert not c.processes(), 'nothing is loaded before it is needed'
    check(c, c.fork(1, 'a')[0]['id'], 1)
    check(c, c.fork(2, 'b')[1]['id'], 2)
    last = c.fork(1, 'c')[0]['id']
    check(c, last, 3, '2m')
    # And it goes on: a branch of a loaded one, and what was loaded is adopted by the next controller.
    fill(c, last, 4)
    branch(c, last, 'd', mode='diff')
    c.stop(signal.SIGKILL)
    c.start()
    check(c, last, 4)
    check(c, c.fork(1, 'd')[0]['id'], 4)
    c.fork(1, 'py')


@case(env=WRITTEN)
def a_template_that_died_is_loaded_once_for_all_who_come(c):
    c.snapshot('py', mem_size_mib=128)
    child = c.fork()[0]['id']
    fill(c, child, 5)
    template = c.template()
    os.kill(template, signal.SIGKILL)
    until(lambda: template not in c.processes(), 'it is dead')
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: c.fork(), range(8)))
    assert len(made) == 8
    assert c.read_log().count('was loaded') == 1, c.read_log()
    check(c, child, 5)  # its sandboxes do not care
    # Its children still belong to it.
    c.stop(signal.SIGKILL)
    c.start()
    assert len(c.ids()) == 9


@case(env=WRITTEN)
def where_a_workspace_s_state_lies_is_told(c):
    c.snapshot('py', mem_size_mib=32)
    status, made = c.post('/v1/workspaces', {'name': 'w', 'snapshot_tag': 'py'})
    assert status == 201 and 'last_branch_memory_path' not in made, made
    status, suspended = c.post('/v1/workspaces/w/suspend')
    assert status == 200 and suspended['last_branch_memory_path'] == f'{c.root}/ws-w-state/memory.bin', suspended
    assert os.path.getsize(suspended['last_branch_memory_path']) == 32 << 20
    assert c.delete('/v1/workspaces/w')[0] == 204


@case(env=WRITTEN)
def how_far_a_load_is_is_told(c):
    c.snapshot('py', mem_size_mib=768, ready_cmd=f'mem fill {AT} 640m 5')
    told = []
    for times in range(1, 4):
        os.kill(c.template(), signal.SIGKILL)
        until(lambda: c.read_log().count('the next spawn loads it') == times, 'its death was noticed')  # pylint: disable=W0640
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(c.fork)
            while not call.done():
                told.append(c.get('/v1/snapshots/py/info')[1])
        c.delete('/v1/sandboxes/' + call.result()[0]['id'])
        assert 'stage' not in c.get('/v1/snapshots/py/info')[1]
    seen = [one['percent'] for one in told if one.get('stage') == 'load']
    assert any(0 < percent < 100 for percent in seen), seen
    assert not any('written_bytes' in one for one in told)


@case(env=WRITTEN)
def it_can_be_forked_before_it_is_written(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1)
    status, answer = c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'now', 'wait': False})
    assert status == 202 and answer['status'] in ('writing', 'ready') and answer['bootable'], answer
    check(c, c.fork(1, 'now')[0]['id'], 1)
    until(lambda: snapshots(c)['now']['status'] == 'ready', 'it is written')


@case('--snapshot-write-mib-s', '1', env=WRITTEN)
def what_was_not_written_is_by_the_next_controller(c):
    status, _ = c.post('/v1/sandboxes/none/branch', {})
    assert status == 404
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: c.post('/v1/snapshots', {'tag': 'py', 'kernel': c.kernel(), 'mem_size_mib': 128,
                                                               'ready_cmd': f'mem fill {AT} 16m 5'}))
        until(lambda: snapshots(c).get('py', {}).get('bootable'), 'it can be forked')
        one = c.fork()[0]['id']
        fill(c, one, 1, '32m')
        c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'slow', 'wait': False})
        assert snapshots(c)['slow']['status'] == 'writing'
        until(lambda: writers(c), 'a writer is at work')
        until(lambda: any(s.get('written_bytes') and 0 < s['percent'] <= 100 and s['stage'] == 'write'
                          for s in snapshots(c).values()), 'how far it is is told')
        c.stop(signal.SIGKILL)
        assert isinstance(call.exception(), Exception)
    c.flags = []
    c.start()
    until(lambda: {s['status'] for s in snapshots(c).values()} == {'ready'}, 'all is written')
    assert not any({'stage', 'percent', 'written_bytes'} & set(s) for s in snapshots(c).values())
    assert sorted(os.listdir(c.root)) == ['py', 'slow']
    check(c, c.fork(1, 'slow')[0]['id'], 1, '32m')


@case('--snapshot-write-mib-s', '1', env=WRITTEN)
def a_controller_that_ends_does_not_wait_for_the_disk_for_long(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1, '64m')
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'slow'}))
        until(lambda: writers(c), 'a writer is at work')
        assert c.stop() == 0
        status, answer = call.result()
    assert status == 500 and 'can be forked' in answer['error'], answer
    c.flags = []
    c.start()
    until(lambda: snapshots(c)['slow']['status'] == 'ready', 'the next one has written it')


@case('--snapshot-write-mib-s', '1', env=WRITTEN)
def a_killed_writer_is_told_and_leaves_nothing(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1, '32m')
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'cut'}))
        until(lambda: [pid for pid in writers(c)], 'the writer is at work')
        os.kill(int(writers(c)[0]), signal.SIGKILL)
        status, answer = call.result()
    assert status == 500 and 'can be forked, but it could not be written' in answer['error'], answer
    info = snapshots(c)['cut']
    assert info['status'] == 'failed' and info['bootable'] and 'ended' in info['warning'], info
    assert sorted(os.listdir(c.root)) == ['py']
    check(c, c.fork(1, 'cut')[0]['id'], 1, '32m')
    check(c, one, 1, '32m')


def memory_of(pid):
    """What a process has in memory, how much of it is no file's, and its page tables, in KiB."""
    rollup = pathlib.Path('/proc', str(pid), 'smaps_rollup').read_text(encoding='utf-8')
    status = pathlib.Path('/proc', str(pid), 'status').read_text(encoding='utf-8')
    fields = dict(line.split(':', 1) for line in (rollup + status).splitlines() if ':' in line)
    return {name: int(fields[name].split()[0]) for name in ('Rss', 'Anonymous', 'VmPTE')}


@case('--snapshot-write-mib-s', '4', env=WRITTEN)
def writing_takes_and_unshares_nothing_of_the_template(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1, '16m')
    others = set(c.processes())
    c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'w', 'wait': False})
    template, = set(c.processes()) - others
    child = c.fork(1, 'w')[0]['id']
    writer, = until(lambda: writers(c), 'a writer is at work')
    before = memory_of(template)
    assert memory_of(writer)['Rss'] < 64 << 10
    until(lambda: snapshots(c)['w']['status'] == 'ready', 'it is written')
    assert memory_of(template) == before, (before, memory_of(template))
    check(c, child, 1, '16m')


@case(env=WRITTEN)
def a_parent_goes_only_with_its_diffs(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    branch(c, one, 'a', mode='diff')
    two = c.fork(1, 'a')[0]['id']
    branch(c, two, 'b', mode='live')
    status, answer = c.delete('/v1/snapshots/a')
    assert (status, answer) == (409, {'error': 'snapshot a is the parent of b; delete them too (cascade), or force it'})
    status, answer = c.delete('/v1/snapshots/py?cascade=true&force=true')
    assert status == 400, answer
    # Forced: its diff lives on in memory, and not on the disk.
    assert c.delete('/v1/snapshots/a?force=true')[0] == 204
    assert sorted(os.listdir(c.root)) == ['b', 'py']
    c.fork(1, 'b')
    die_all(c)
    c.start()
    assert not snapshots(c)['b']['bootable'] and snapshots(c)['py']['bootable'], snapshots(c)
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'b'})
    assert status == 409, answer
    assert answer['error'] == f'snapshot b is not bootable: b is a diff to a, and {c.root}/a/memory.bin is missing', answer
    branch(c, c.fork()[0]['id'], 'd', mode='diff')
    assert c.delete('/v1/snapshots/py?cascade=true')[0] == 204
    assert os.listdir(c.root) == ['b']
    assert c.delete('/v1/snapshots/b')[0] == 204
    assert os.listdir(c.root) == [] and not snapshots(c)


@case(env=WRITTEN)
def a_compacted_snapshot_needs_no_other(c):
    c.snapshot('py')
    one = c.fork()[0]['id']
    fill(c, one, 1)
    branch(c, one, 'a', mode='diff')
    two = c.fork(1, 'a')[0]['id']
    fill(c, two, 2, '1m')
    branch(c, two, 'b', mode='diff')
    for sandbox in (one, two):
        c.delete('/v1/sandboxes/' + sandbox)
    status, whole = c.post('/v1/snapshots/b/compact', {'to': 'whole'})
    assert (status, whole['status'], whole['bootable'], whole['branched_from']) == (200, 'ready', True, 'compact:b'), whole
    assert c.post('/v1/snapshots/b/compact', {'to': 'whole'})[0] == 409
    assert c.post('/v1/snapshots/b/compact', {'to': 'a'})[0] == 409
    assert c.delete('/v1/snapshots/py?cascade=true')[0] == 204
    assert snapshots(c) == {'whole': whole}
    die_all(c)
    c.start()
    assert snapshots(c) == {'whole': whole}, snapshots(c)
    last = c.fork(1, 'whole')[0]['id']
    check(c, last, 2, '1m')
    assert c.exec(last, 'mem', 'check', '0x2100000', '3m', '1')[1]['exit_code'] == 0
    # Adopted, it is still what it was.
    c.stop(signal.SIGKILL)
    c.start()
    assert snapshots(c) == {'whole': whole}, snapshots(c)


@case('--snapshot-write-mib-s', '1', env=WRITTEN)
def a_compaction_whose_writer_is_killed_leaves_nothing(c):
    c.snapshot('py')
    one = c.fork()[0]['id']
    fill(c, one, 1)
    branch(c, one, 'a')
    assert not writers(c)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(c.post, '/v1/snapshots/a/compact', {'to': 'whole'})
        until(lambda: writers(c), 'it is being written')
        assert snapshots(c)['whole']['status'] == 'writing'
        assert c.delete('/v1/snapshots/whole')[0] == 409
        os.kill(int(writers(c)[0]), signal.SIGKILL)
        status, answer = asked.result()
    assert status == 500 and 'error' in answer, (status, answer)
    assert 'whole' not in snapshots(c) and 'whole' not in os.listdir(c.root)
    assert c.delete('/v1/snapshots/a')[0] == 204


@case(env=WRITTEN)
def damage_is_refused_and_named(c):
    c.snapshot('py', mem_size_mib=128)
    die_all(c)
    path = os.path.join(c.root, 'py', 'memory.bin')
    with open(path, 'r+b') as file:
        where = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        file.seek(where)
        byte = file.read(1)
        file.seek(where)
        file.write(bytes([byte[0] ^ 4]))
    c.start()
    status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py'})
    assert status == 409 and 'snapshot py is not bootable: snapshot py: memory.bin is damaged in blocks' in \
        answer['error'], answer
    c.stop()
    with open(os.path.join(c.root, 'py', 'snapshot.json'), 'r+b') as file:
        file.write(b'[')
    c.start()
    info = snapshots(c)['py']
    assert info['status'] == 'failed' and not info['bootable'] and 'snapshot.json is damaged' in info['warning'], info
    assert c.delete('/v1/snapshots/py')[0] == 204
    assert os.listdir(c.root) == []


@case(env=WRITTEN)
def what_was_left_half_written_goes_at_start(c):
    c.stop()
    os.makedirs(os.path.join(c.root, '.writing-tm-x'))
    os.makedirs(os.path.join(c.root, '.removing-old'))
    pathlib.Path(c.root, '.writing-tm-x', 'memory.bin').write_bytes(b'x' * 4096)
    pathlib.Path(c.root, 'README').write_text('not a snapshot', encoding='utf-8')
    c.start()
    assert os.listdir(c.root) == ['README']
    info = snapshots(c)
    assert 'README' not in info or info['README']['status'] == 'failed'


@case(env=WRITTEN)
def two_controllers_do_not_share_a_root(c):
    state = os.path.join(c.dir, 'other.db')
    done = subprocess.run([os.environ['FORKD_TEST_CONTROLLER'], 'serve', '--bind', 'unix:' + c.dir + '/other', '--state',
                           state, '--audit-log', c.audit, '--snapshot-root', c.root],
                          env={**os.environ, 'FORKD_VMM': c.vmm}, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and 'another controller keeps its snapshots in' in done.stderr, done.stderr


@case(env={'FORKD_SNAPSHOT_WRITER': 'direct', 'FORKD_SNAPSHOT_ROOT': '/proc/forkd-cannot-be-made'})
def a_root_that_cannot_be_is_named_and_costs_nothing_else(c):
    status, answer = c.post('/v1/snapshots', {'tag': 'py', 'kernel': c.kernel(), 'mem_size_mib': 128})
    assert status == 500 and '/proc/forkd-cannot-be-made' in answer['error'], answer
    info = snapshots(c)['py']
    assert info['status'] == 'failed' and info['bootable'], info
    check_lives = c.fork()[0]['id']
    fill(c, check_lives, 1)


@case(env=WRITTEN)
def a_full_disk_is_named_and_the_source_runs_on(c):
    if os.geteuid() != 0:
        raise Skip('mounting a tmpfs needs root')
    c.snapshot('py', mem_size_mib=128)
    c.stop()
    small = os.path.join(c.dir, 'small')
    os.mkdir(small)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'small', small], check=True)
    try:
        c.env['FORKD_SNAPSHOT_ROOT'] = small
        c.start()
        one = c.fork()[0]['id']
        fill(c, one, 1, '32m')
        status, answer = c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'big'})
        assert status == 500 and small in answer['error'] and 'is full' in answer['error'], answer
        assert 'big' not in os.listdir(small)
        check(c, one, 1, '32m')
        check(c, c.fork(1, 'big')[0]['id'], 1, '32m')
        # A diff of little fits.
        two = c.fork(1, 'py')[0]['id']
        status, answer = c.post(f'/v1/sandboxes/{two}/branch', {'tag': 'small', 'mode': 'diff'})
        assert status == 201, answer
        c.clear()
        c.assert_nothing_left()
        c.stop()
    finally:
        c.stop(signal.SIGKILL)
        subprocess.run(['umount', '-l', small], check=True)


@case(env=WRITTEN)
def on_xfs_a_whole_branch_shares_what_it_did_not_change(c):
    if os.geteuid() != 0 or not shutil.which('mkfs.xfs'):
        raise Skip('an XFS of its own needs root and mkfs.xfs')
    c.stop()
    image, where = os.path.join(c.dir, 'xfs'), os.path.join(c.dir, 'mnt')
    os.mkdir(where)
    with open(image, 'wb') as file:
        file.truncate(320 << 20)
    subprocess.run(['mkfs.xfs', '-q', image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(['mount', '-o', 'loop', image, where], check=True)
    try:
        c.env['FORKD_SNAPSHOT_ROOT'] = where
        c.start()
        c.snapshot('py', mem_size_mib=128)
        one = c.fork()[0]['id']
        fill(c, one, 1, '16m')
        branch(c, one, 'a', mode='diff')
        two = c.fork(1, 'a')[0]['id']
        branch(c, two, 'b')  # its source's own snapshot is a diff
        branch(c, one, 'w')
        text = {tag: json.loads(pathlib.Path(where, tag, 'snapshot.json').read_text(encoding='utf-8')) for tag in 'bw'}
        assert text['b']['shared_bytes'] == 0 < text['w']['shared_bytes'] < text['w']['logical_bytes'], text
        assert c.delete('/v1/snapshots/py?cascade=true')[0] == 204
        die_all(c)
        c.start()
        for tag in 'bw':
            check(c, c.fork(1, tag)[0]['id'], 1, '16m')
        c.clear()
        c.assert_nothing_left()
        c.stop()
    finally:
        c.stop(signal.SIGKILL)
        for pid in c.processes():
            os.kill(pid, signal.SIGKILL)
        subprocess.run(['umount', '-l', where], check=True)


@case(env=WRITTEN)
def a_deletion_ends_the_writing(c):
    c.flags = ['--snapshot-write-mib-s', '1']
    c.stop()
    c.start()
    c.env['FORKD_SNAPSHOT_WRITER'] = 'direct'
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1, '64m')
    c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'gone', 'wait': False})
    until(lambda: writers(c), 'a writer is at work')
    began = time.monotonic()
    assert c.delete('/v1/snapshots/gone')[0] == 204
    assert time.monotonic() - began < 30, 'it did not wait for the writing'
    assert os.listdir(c.root) == ['py'] and not writers(c)


@case(env=WRITTEN)
def what_a_diff_would_hold_is_measured(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    fill(c, one, 1, '4m')
    made = branch(c, one, 'whole', measure_diff=True)
    assert made['mode'] == 'full' and 4 << 20 <= made['diff_physical_bytes'] < 12 << 20, made
    assert made['diff_logical_bytes'] == 128 << 20 and 'diff_ms' in made, made
    assert 'diff_ms' not in branch(c, one, 'other')
    die_all(c)
    c.start()
    assert snapshots(c)['whole'] == made


@case(env=WRITTEN)
def the_description_is_for_people_too(c):
    c.snapshot('py', mem_size_mib=128)
    one = c.fork()[0]['id']
    branch(c, one, 'a', mode='diff')
    with open(os.path.join(c.root, 'a', 'snapshot.json'), encoding='utf-8') as file:
        text = json.load(file)
    assert text['tag'] == 'a' and text['parent']['tag'] == 'py' and text['branched_from'] == one, text
    with open(os.path.join(c.root, 'py', 'snapshot.json'), encoding='utf-8') as file:
        assert json.load(file)['content_hash'] == text['parent']['content_hash']


if __name__ == '__main__':
    raise SystemExit(main())
