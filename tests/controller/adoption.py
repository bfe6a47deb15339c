"""A controller's death stops no sandbox: the next one takes over what lives and removes what does not."""

import contextlib
import os
import random
import signal
import threading
import time

from harness import case, main, until


def restart(c, how=signal.SIGKILL):
    c.stop(how)
    c.start()


def assert_consistent(c):
    """What lives is what is listed, and nothing else has a process or a directory."""
    listed = {one['id']: one['pid'] for one in c.get('/v1/sandboxes')[1]}
    snapshots = len([s for s in c.get('/v1/snapshots')[1] if s['status'] == 'ready'])
    until(lambda: len(c.processes()) == len(listed) + snapshots, 'there are as many processes as are listed')
    assert set(listed.values()) <= set(c.processes())
    until(lambda: len(c.run_directories()) == len(listed) + snapshots, 'there are as many directories')
    for one in listed:
        assert c.exec(one, 'echo', 'well')[1]['stdout'] == 'well\n'


def survives(c, how):
    c.snapshot()
    before = c.fork(5, memory_limit_mib=None)
    restart(c, how)
    assert c.get('/v1/sandboxes')[1] == sorted(before, key=lambda one: one['id'])
    assert_consistent(c)
    assert c.delete('/v1/sandboxes/' + before[0]['id'])[0] == 204
    assert before[0]['pid'] not in c.processes()
    assert len(c.fork(2)) == 2
    assert_consistent(c)


@case()
def sandboxes_survive_kill_9_of_the_controller(c):
    survives(c, signal.SIGKILL)


@case()
def sandboxes_survive_sigterm(c):
    survives(c, signal.SIGTERM)


@case()
def adopted_sandboxes_are_still_watched(c):
    c.snapshot()
    one, other = c.fork(2)
    restart(c)
    os.kill(one['pid'], signal.SIGKILL)
    until(lambda: c.ids() == [other['id']], 'its death is noticed')


@case()
def three_controllers_in_a_row(c):
    c.snapshot()
    ids = [one['id'] for one in c.fork(3)]
    for _ in range(3):
        restart(c)
        assert c.ids() == sorted(ids)
        assert_consistent(c)


@case()
def what_died_meanwhile_is_reaped_and_told(c):
    c.snapshot()
    one, other = c.fork(2)
    c.stop(signal.SIGKILL)
    os.kill(one['pid'], signal.SIGKILL)
    until(lambda: one['pid'] not in c.processes(), 'it is dead')
    c.start()
    assert c.ids() == [other['id']]
    assert f'sandbox {one["id"]} is gone' in c.read_log()
    assert_consistent(c)


@case()
def a_template_that_died_meanwhile_is_failed_with_the_reason(c):
    c.snapshot()
    one = c.fork()[0]
    template = c.template()
    c.stop(signal.SIGKILL)
    os.kill(template, signal.SIGKILL)
    until(lambda: template not in c.processes(), 'it is dead')
    c.start()
    snapshot = c.get('/v1/snapshots')[1][0]
    assert snapshot['status'] == 'failed' and snapshot['warning'] and not snapshot['bootable'], snapshot
    assert c.exec(one['id'], 'echo', 'alive')[1]['stdout'] == 'alive\n'
    restart(c)
    assert c.get('/v1/snapshots')[1][0]['status'] == 'failed'
    assert c.delete('/v1/snapshots/py')[0] == 204


@case()
def what_lives_and_does_not_answer_is_not_forgotten(c):
    """A host may be too busy for an answer in time, and a VMM in the middle of something."""
    c.snapshot()
    one, other = c.fork(2)
    template = c.template()
    c.stop(signal.SIGKILL)
    for pid in (one['pid'], template):
        os.kill(pid, signal.SIGSTOP)
    c.start()
    try:
        assert c.ids() == [other['id']]
        status = c.get('/v1/snapshots')[1][0]
        assert status['status'] == 'failed' and 'answer' in status['warning'], status
    finally:
        for pid in (one['pid'], template):
            os.kill(pid, signal.SIGCONT)
    restart(c)
    assert c.ids() == sorted([one['id'], other['id']])
    assert len(c.fork(1)) == 1
    assert_consistent(c)


@case()
def a_deleted_snapshot_with_children_stays_deleted(c):
    c.snapshot()
    one = c.fork()[0]
    c.delete('/v1/snapshots/py')
    restart(c)
    assert c.get('/v1/snapshots') == (200, [])
    assert c.exec(one['id'], 'echo', 'alive')[0] == 200
    c.snapshot()
    assert c.delete('/v1/sandboxes/' + one['id'])[0] == 204
    assert_consistent(c)


@case()
def a_snapshot_half_made_is_undone(c):
    request = threading.Thread(target=lambda: quietly(c.snapshot, 'half', 'boot=silent', boot_wait_secs=60))
    request.start()
    until(c.processes, 'the parent runs')
    assert c.get('/v1/snapshots')[1][0]['status'] == 'writing'
    assert c.delete('/v1/snapshots/half')[0] == 409
    assert c.post('/v1/sandboxes', {'snapshot_tag': 'half'})[0] == 409
    restart(c)
    request.join()
    assert c.get('/v1/snapshots') == (200, [])
    c.assert_nothing_left()
    c.snapshot('half')


def quietly(fn, *args, **fields):
    try:
        fn(*args, **fields)
    except Exception:  # pylint: disable=broad-except
        pass  # the controller was killed under it


@case()
def kill_9_in_the_middle_of_spawns_leaves_nothing_unknown(c):
    c.snapshot()
    rng = random.Random(6)
    for _ in range(12):
        clients = [threading.Thread(target=lambda: quietly(c.fork, 6)) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(rng.uniform(0, 0.04))  # a moment somewhere in the middle, whichever
        restart(c)
        for client in clients:
            client.join()
        assert_consistent(c)


def rows_ready(c):
    with c.registry() as db:
        return db.execute('SELECT count(*) FROM sandboxes WHERE state = 2').fetchone()[0]


@case()
def a_sandbox_that_was_not_handed_out_is_undone(c):
    """Its row says that it is ready; that its guest knows who it is, its VMM was never told."""
    c.snapshot(words='identity=silent:2')
    one = c.fork()[0]['id']
    client = threading.Thread(target=quietly, args=(c.fork,))
    client.start()
    until(lambda: rows_ready(c) == 2, 'the second row is ready')
    restart(c)
    client.join()
    assert c.ids() == [one]
    assert '1 half-made' in c.read_log()
    assert_consistent(c)


@case()
def directories_without_a_row_are_removed(c):
    c.snapshot()
    c.stop()
    os.mkdir(os.path.join(c.run, 'sb-litter'))
    with open(os.path.join(c.run, 'sb-litter', 'console.log'), 'w', encoding='utf-8'):
        pass
    c.start()
    assert 'sb-litter' not in c.run_directories()
    assert_consistent(c)


@case('--kill-on-exit')
def kill_on_exit_leaves_nothing(c):
    c.snapshot()
    c.fork(3)
    c.delete('/v1/snapshots/py')
    c.snapshot('other')
    assert c.stop() == 0
    c.assert_nothing_left()
    c.start()


raise SystemExit(main())
