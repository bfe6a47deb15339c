"""BRANCH through the controller, with the VMM itself: memory of the instant, little to do for the next one, and a load of
everything at once under which controllers are killed."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until

WRITTEN = {'FORKD_SNAPSHOT_WRITER': 'direct'}
PAGES_OF_32_MIB = 8192
AT = '0x2000000'


def branch(c, sandbox, tag=None, **fields):
    status, answer = c.post(f'/v1/sandboxes/{sandbox}/branch', {**({'tag': tag} if tag else {}), **fields})
    assert status == 201, (status, answer)
    return answer


def fill(c, sandbox, value, size='32m'):
    status, answer = c.exec(sandbox, 'mem', 'fill', AT, size, str(value))
    assert status == 200 and answer['exit_code'] == 0, answer


def check(c, sandbox, value, size='32m'):
    status, answer = c.exec(sandbox, 'mem', 'check', AT, size, str(value))
    assert status == 200 and answer['exit_code'] == 0, answer


def source(c):
    c.snapshot('py', mem_size_mib=128)
    return c.fork()[0]['id']


def read(info):
    return info['pages_streamed'] + info['pages_in_pause']


@case()
def each_branch_has_the_memory_of_its_instant(c):
    one = source(c)
    for value in (1, 2, 3):
        fill(c, one, value)
        branch(c, one, f'b{value}')
    fill(c, one, 9)
    for value in (3, 1, 2):
        for child in c.fork(2, f'b{value}'):
            check(c, child['id'], value)
            fill(c, child['id'], 7)
    check(c, one, 9)


@case()
def the_next_branch_reads_what_was_written_since_and_no_more(c):
    one = source(c)
    fill(c, one, 1)
    assert read(branch(c, one, 'first')) >= PAGES_OF_32_MIB
    assert read(branch(c, one, 'second')) < PAGES_OF_32_MIB / 8
    # So it is with the next controller; and the last template does not need its name.
    c.delete('/v1/snapshots/second')
    c.stop(signal.SIGKILL)
    c.start()
    assert read(branch(c, one, 'third')) < PAGES_OF_32_MIB / 8
    check(c, c.fork(1, 'third')[0]['id'], 1)


@case()
def the_pause_is_for_few_pages_whatever_was_written(c):
    one = source(c)
    fill(c, one, 1, '64m')
    info = branch(c, one)
    assert info['pages_in_pause'] < PAGES_OF_32_MIB / 8 and info['rounds'] > 0, info


@case()
def a_killed_last_template_costs_pages_and_nothing_else(c):
    one = source(c)
    before = set(c.processes())
    fill(c, one, 1)
    branch(c, one, 'first')
    last, = set(c.processes()) - before
    os.kill(last, signal.SIGKILL)
    until(lambda: last not in c.processes(), 'it is dead')
    again = branch(c, one, 'second')
    assert read(again) >= PAGES_OF_32_MIB, again
    check(c, c.fork(1, 'second')[0]['id'], 1)
    assert read(branch(c, one, 'third')) < PAGES_OF_32_MIB / 8


@case()
def a_last_template_that_does_not_answer_is_replaced(c):
    one = source(c)
    before = set(c.processes())
    fill(c, one, 1)
    branch(c, one, 'first')
    last, = set(c.processes()) - before
    os.kill(last, signal.SIGSTOP)
    try:
        branch(c, one, 'second')
    finally:
        os.kill(last, signal.SIGCONT)
    check(c, c.fork(1, 'second')[0]['id'], 1)
    check(c, c.fork(1, 'first')[0]['id'], 1)
    until(lambda: len(c.processes()) == 6, 'the fork it made too late is gone')


@case('--branch-concurrency', '20')
def twenty_at_once_of_one_are_of_instants_in_their_order(c):
    one = source(c)
    fill(c, one, 5)
    with ThreadPoolExecutor(20) as pool:
        made = list(pool.map(lambda i: branch(c, one, f'b{i}'), range(20)))
    assert sorted(read(info) for info in made)[10] < PAGES_OF_32_MIB / 8, 'each is on the last one'
    for tag in ('b0', 'b19'):
        check(c, c.fork(1, tag)[0]['id'], 5)
    check(c, one, 5)


@case()
def a_line_of_thirty_branches_of_branches_works(c):
    one = source(c)
    for depth in range(30):
        fill(c, one, depth + 1, '64k')
        branch(c, one, f'b{depth}')
        parent, one = one, c.fork(1, f'b{depth}')[0]['id']
        assert c.delete('/v1/sandboxes/' + parent)[0] == 204
        check(c, one, depth + 1, '64k')
    for depth in range(30):
        assert c.delete(f'/v1/snapshots/b{depth}')[0] == 204
    check(c, one, 30, '64k')


def snapshot(c, tag):
    return next(one for one in c.get('/v1/snapshots?memory=true')[1] if one['tag'] == tag)


@case()
def a_branch_with_many_pages_and_many_forks_settles_and_stays_what_it_was(c):
    one = source(c)
    fill(c, one, 3, '48m')
    branch(c, one, 'many')
    assert snapshot(c, 'many')['memory_image_kib'] == 0
    early = c.fork(31, 'many')[0]['id']
    later = c.fork(2, 'many')[0]['id']
    until(lambda: snapshot(c, 'many')['memory_image_kib'] >= 48 << 10, 'it has an image of its own')
    until(lambda: 'snapshot many is settled' in c.read_log(), 'the log says so')
    for child in (early, later, c.fork(1, 'many')[0]['id']):
        check(c, child, 3, '48m')
    # It is a source's last template as before, and a base of branches.
    assert read(branch(c, one, 'next')) < PAGES_OF_32_MIB / 8
    check(c, c.fork(1, 'next')[0]['id'], 3, '48m')
    fill(c, later, 4, '1m')
    branch(c, later, 'below')
    check(c, c.fork(1, 'below')[0]['id'], 4, '1m')
    for box in c.ids():
        c.delete('/v1/sandboxes/' + box)


@case()
def a_branch_with_few_pages_stays_as_it_is(c):
    one = source(c)
    fill(c, one, 3, '4m')
    branch(c, one, 'few')
    c.fork(40, 'few')
    assert snapshot(c, 'few')['memory_image_kib'] == 0 and 'settled' not in c.read_log()


@case(env=WRITTEN)
def a_sandbox_says_where_its_last_branch_lies(c):
    one = source(c)
    made = branch(c, one, 'then')
    path = c.get('/v1/sandboxes/' + one)[1]['last_branch_memory_path']
    assert path == made['dir'] + '/memory.bin' and os.path.exists(path), path
    c.delete('/v1/snapshots/then')
    assert c.get('/v1/sandboxes/' + one)[1]['last_branch_memory_path'] is None


@case(env=WRITTEN)
def a_suspended_workspace_outlives_the_host(c):
    c.snapshot('py', mem_size_mib=128)
    status, made = c.post('/v1/workspaces', {'name': 'dev', 'snapshot_tag': 'py'})
    assert status == 201, made
    fill(c, made['live_sandbox_id'], 6)
    assert c.post('/v1/workspaces/dev/suspend', {'diff': True})[0] == 200
    c.stop(signal.SIGKILL)
    for pid in c.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not c.processes(), 'all are dead')
    c.start()
    assert c.get('/v1/workspaces/dev')[1]['status'] == 'suspended'
    status, back = c.post('/v1/workspaces/dev/resume')
    assert status == 200, back
    check(c, back['live_sandbox_id'], 6)
    fill(c, back['live_sandbox_id'], 7)
    assert c.post('/v1/workspaces/dev/suspend')[1]['current_state_tag'] == 'ws-dev-state.2'
    check(c, c.post('/v1/workspaces/dev/resume')[1]['live_sandbox_id'], 7)
    assert c.delete('/v1/workspaces/dev')[0] == 204
    assert os.listdir(c.root) == ['py']


def strike(c, pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@case()
def a_death_at_any_moment_of_a_branch_fails_that_branch_and_nothing_else(c):
    """Of the new template, of the last one, of the source."""
    one = source(c)
    rng = random.Random(11)
    last, failed = [], 0
    for turn in range(18):
        fill(c, one, turn + 1, '24m')
        before, victim = set(c.processes()), ('new', 'last', 'source')[turn % 3]
        box = c.get('/v1/sandboxes/' + one)[1]['pid']
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(c.post, f'/v1/sandboxes/{one}/branch', {'tag': f'b{turn}'})
            time.sleep(rng.uniform(0, 0.03))  # a moment somewhere in the middle, whichever
            strike(c, {'new': set(c.processes()) - before, 'last': last, 'source': [box]}[victim])
            status, answer = asked.result()
        failed += status != 201
        assert status == 201 or answer['error'], (status, answer)
        made = sorted(set(c.processes()) - before)
        if victim == 'source':
            until(lambda dead=one: dead not in c.ids(), 'its end is noticed')
            one, last = c.fork()[0]['id'], []
        elif status == 201 and victim == 'last':
            check(c, c.fork(1, f'b{turn}')[0]['id'], turn + 1, '24m')
        if victim != 'source':
            check(c, one, turn + 1, '24m')
            last = made[-1:] if status == 201 and made else last
    assert failed, 'some were struck in the middle'
    branch(c, one, 'sound')
    until(lambda: all(info['status'] != 'writing' for info in c.get('/v1/snapshots')[1]), 'nothing is half made')
    for box in c.ids():
        c.delete('/v1/sandboxes/' + box)
    for info in c.get('/v1/snapshots')[1]:
        assert c.delete('/v1/snapshots/' + info['tag'])[0] == 204
    c.assert_nothing_left()


def assert_consistent(c):
    """What lives is what is listed, or what a listed sandbox still needs; everything listed works."""
    boxes = c.get('/v1/sandboxes')[1]
    ready = [info for info in c.get('/v1/snapshots')[1] if info['status'] == 'ready']
    until(lambda: len(c.processes()) == len(c.run_directories()), 'every process has its directory')
    assert {info['pid'] for info in boxes} <= set(c.processes())
    assert len(c.processes()) <= 3 * len(boxes) + len(ready)
    assert all(info['status'] != 'writing' for info in c.get('/v1/snapshots')[1])
    for info in boxes:
        assert c.exec(info['id'], 'hostname')[1]['stdout'].strip() == info['id']
    for info in ready:
        child = c.fork(1, info['tag'])[0]['id']
        assert c.delete('/v1/sandboxes/' + child)[0] == 204


def act(c, rng, stop):
    """One client: forks, branches, deletes, whatever is there."""
    while not stop.is_set():
        try:
            tags = [info['tag'] for info in c.get('/v1/snapshots')[1] if info['bootable']]
            ids = c.ids()
            deed = rng.random()
            if deed < 0.35 or not ids:
                c.post('/v1/sandboxes', {'snapshot_tag': rng.choice(tags), 'n': 2})
            elif deed < 0.7 and len(tags) < 12:
                c.post(f'/v1/sandboxes/{rng.choice(ids)}/branch')
            elif deed < 0.9 or len(tags) < 2:
                c.delete('/v1/sandboxes/' + rng.choice(ids))
            else:
                c.delete('/v1/snapshots/' + rng.choice([tag for tag in tags if tag != 'py']))
        except (OSError, ValueError, IndexError):
            if stop.is_set():
                return


@case()
def kill_9_amid_spawns_branches_and_deletions_leaves_nothing_unknown(c):
    c.snapshot('py', mem_size_mib=64)
    rng = random.Random(7)
    for _ in range(8):
        stop = threading.Event()
        clients = [threading.Thread(target=act, args=(c, random.Random(rng.random()), stop)) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(rng.uniform(0.05, 0.5))  # a moment somewhere in the middle, whichever
        c.stop(signal.SIGKILL)
        stop.set()
        for client in clients:
            client.join()
        c.start()
        assert_consistent(c)
    for info in c.get('/v1/sandboxes')[1]:
        c.delete('/v1/sandboxes/' + info['id'])


if __name__ == '__main__':
    raise SystemExit(main())
