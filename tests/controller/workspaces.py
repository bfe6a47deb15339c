"""Workspaces: a sandbox with a name, suspended to a branch of it and resumed from that."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import KERNEL, case, main, until

FIELDS = ['id', 'name', 'source_snapshot_tag', 'status', 'live_sandbox_id', 'created_at_unix', 'last_active_unix']


def create(c, name='dev', **fields):
    status, answer = c.post('/v1/workspaces', {'name': name, 'snapshot_tag': 'py', **fields})
    assert status == 201, (status, answer)
    return answer


def do(c, deed, name='dev', **fields):
    status, answer = c.post(f'/v1/workspaces/{name}/{deed}', fields or None)
    assert status == 200, (status, answer)
    return answer


def get(c, name='dev'):
    status, answer = c.get('/v1/workspaces/' + name)
    assert status == 200, (status, answer)
    return answer


def tags(c):
    return [one['tag'] for one in c.get('/v1/snapshots')[1]]


def well(c, sandbox):
    return c.exec(sandbox, 'hostname')[1]['stdout'].strip() == sandbox


@case()
def a_workspace_is_created_suspended_resumed_and_deleted(c):
    c.snapshot()
    made = create(c)
    assert list(made) == FIELDS and made['status'] == 'running' and made['id'].startswith('ws-'), made
    assert made == get(c) and c.get('/v1/workspaces')[1] == [made] and c.ids() == [made['live_sandbox_id']]
    away = do(c, 'suspend')
    assert away['status'] == 'suspended' and away['current_state_tag'] == 'ws-dev-state', away
    assert 'live_sandbox_id' not in away and c.ids() == [] and tags(c) == ['py', 'ws-dev-state']
    back = do(c, 'resume')
    assert back['status'] == 'running' and well(c, back['live_sandbox_id']), back
    assert back['live_sandbox_id'] != made['live_sandbox_id'] and back['id'] == made['id']
    assert c.delete('/v1/workspaces/dev') == (204, None)
    assert c.get('/v1/workspaces') == (200, []) and c.ids() == [] and tags(c) == ['py']
    assert c.get('/v1/workspaces/dev')[0] == 404


@case()
def a_state_replaces_the_one_before(c):
    c.snapshot()
    create(c)
    for _ in range(4):
        away = do(c, 'suspend')
        assert tags(c) == ['py', away['current_state_tag']]
        assert well(c, do(c, 'resume')['live_sandbox_id'])
    c.delete('/v1/workspaces/dev')
    assert tags(c) == ['py']


@case()
def what_was_in_memory_comes_back(c):
    if not KERNEL:
        return  # the guest of the other VMM has none
    c.snapshot(mem_size_mib=64)
    box = create(c)['live_sandbox_id']
    for number in range(3):
        c.exec(box, 'mem', 'write', hex(0x1800000 + 4096 * number), hex(100 + number))
        do(c, 'suspend')
        box = do(c, 'resume')['live_sandbox_id']
        for earlier in range(number + 1):
            said = c.exec(box, 'mem', 'read', hex(0x1800000 + 4096 * earlier))[1]['stdout'].strip()
            assert said == hex(100 + earlier), said


@case()
def mistakes_are_told(c):
    c.snapshot()
    for body in ({}, {'name': 'a'}, {'snapshot_tag': 'py'}, {'name': '', 'snapshot_tag': 'py'},
                 {'name': '../x', 'snapshot_tag': 'py'}, {'name': 'x' * 54, 'snapshot_tag': 'py'},
                 {'name': 'a', 'snapshot_tag': '..'}, {'name': 'a', 'snapshot_tag': 'py', 'per_child_netns': True},
                 {'name': 'a', 'snapshot_tag': 'py', 'memory_limit_mib': 0}):
        status, answer = c.post('/v1/workspaces', body)
        assert status == 400 and answer['error'], (body, status, answer)
    assert c.post('/v1/workspaces', {'name': 'a', 'snapshot_tag': 'none'})[0] == 404
    assert c.get('/v1/workspaces') == (200, []) and c.ids() == []
    for method, path in (('GET', 'a'), ('DELETE', 'a'), ('POST', 'a/suspend'), ('POST', 'a/resume')):
        assert c.call(method, '/v1/workspaces/' + path)[0] == 404
    create(c, 'x' * 53)
    create(c)
    assert c.post('/v1/workspaces', {'name': 'dev', 'snapshot_tag': 'py'})[0] == 409
    assert c.post('/v1/workspaces/dev/resume', {})[0] == 400
    assert c.post('/v1/workspaces/dev/suspend', {'diff': 'yes'})[0] == 400
    do(c, 'suspend')
    assert c.post('/v1/workspaces/dev/suspend', {})[0] == 400
    c.delete('/v1/snapshots/ws-dev-state')
    assert c.post('/v1/workspaces/dev/resume', {})[0] == 404
    for one in c.get('/v1/workspaces')[1]:
        assert c.delete('/v1/workspaces/' + one['name'])[0] == 204


@case()
def they_are_listed_by_name(c):
    c.snapshot()
    for name in ('b', 'a', 'c'):
        create(c, name)
    assert [one['name'] for one in c.get('/v1/workspaces')[1]] == ['a', 'b', 'c']


@case()
def one_whose_sandbox_ended_is_stale_and_goes_back_to_its_state(c):
    c.snapshot()
    first = create(c)['live_sandbox_id']
    c.delete('/v1/sandboxes/' + first)
    assert get(c)['status'] == 'stale' and 'live_sandbox_id' not in get(c)
    assert c.post('/v1/workspaces/dev/suspend', {})[0] == 400
    do(c, 'resume')
    do(c, 'suspend')
    box = do(c, 'resume')['live_sandbox_id']
    os.kill(c.get('/v1/sandboxes/' + box)[1]['pid'], signal.SIGKILL)
    until(lambda: get(c)['status'] == 'stale', 'its end is seen')
    box = do(c, 'resume')['live_sandbox_id']
    assert c.get('/v1/sandboxes/' + box)[1]['snapshot_tag'] == 'ws-dev-state'


@case()
def one_thing_is_done_with_it_at_a_time(c):
    c.snapshot()
    create(c)
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: c.post('/v1/workspaces/dev/suspend')[0], range(6)))
    assert statuses[0] == 200 and set(statuses[1:]) <= {400, 409}, statuses
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: c.post('/v1/workspaces', {'name': 'one', 'snapshot_tag': 'py'})[0],
                                   range(6)))
    assert statuses == [201] + [409] * 5, statuses


@case()
def a_suspension_that_fails_leaves_it_running(c):
    if KERNEL:
        return  # its guest does not fail on purpose
    c.snapshot('py', 'stream=refused:1')
    box = create(c)['live_sandbox_id']
    status, answer = c.post('/v1/workspaces/dev/suspend')
    assert status == 500 and 'bitmaps' in answer['error']
    assert get(c)['status'] == 'running' and well(c, box) and tags(c) == ['py']
    assert do(c, 'suspend')['current_state_tag'] == 'ws-dev-state'


@case()
def they_survive_kill_9_of_the_controller(c):
    c.snapshot()
    create(c, 'here')
    create(c, 'away')
    do(c, 'suspend', 'away')
    before = c.get('/v1/workspaces')[1]
    c.stop(signal.SIGKILL)
    c.start()
    assert c.get('/v1/workspaces')[1] == before
    assert well(c, do(c, 'resume', 'away')['live_sandbox_id'])
    assert do(c, 'suspend', 'here')['status'] == 'suspended'


def quietly(fn, *args):
    try:
        fn(*args)
    except (OSError, ValueError, AssertionError):
        pass  # the controller was killed under it


@case()
def kill_9_at_any_moment_leaves_one_sandbox_or_one_state(c):
    """And nothing that nobody knows of."""
    c.snapshot()
    create(c)
    rng = random.Random(3)

    def turn():
        for deed in ('suspend', 'resume', 'suspend', 'resume'):
            c.post('/v1/workspaces/dev/' + deed)

    for _ in range(10):
        thread = threading.Thread(target=quietly, args=(turn,))
        thread.start()
        time.sleep(rng.uniform(0, 0.12))  # a moment somewhere in the middle, whichever
        c.stop(signal.SIGKILL)
        thread.join()
        c.start()
        one = get(c)
        live = [one['live_sandbox_id']] if one['status'] == 'running' else []
        assert one['status'] in ('running', 'suspended') and c.ids() == live, (one, c.ids())
        if one['status'] == 'suspended':
            assert well(c, do(c, 'resume')['live_sandbox_id'])
        else:
            assert well(c, live[0])
        do(c, 'suspend')
        assert c.ids() == [] and tags(c) == ['py', get(c)['current_state_tag']], tags(c)
        do(c, 'resume')
    c.delete('/v1/workspaces/dev')
    assert tags(c) == ['py'] and c.ids() == []


@case()
def one_half_made_is_undone(c):
    """Its first sandbox was never ready."""
    if KERNEL:
        return
    c.snapshot('py', 'template=hang')
    thread = threading.Thread(target=quietly, args=(create, c))
    thread.start()
    until(lambda: c.get('/v1/workspaces')[1], 'it is being made')
    c.stop(signal.SIGKILL)
    thread.join()
    c.start()
    assert c.get('/v1/workspaces') == (200, []) and c.ids() == []


if __name__ == '__main__':
    raise SystemExit(main())
