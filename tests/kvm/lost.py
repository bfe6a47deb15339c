"""Sandboxes whose templates were killed: they are branched from what lies on the disk, as if nothing had been."""

import contextlib
import os
import pathlib
import re
import signal
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until

WRITTEN = {'FORKD_SNAPSHOT_WRITER': 'direct'}
PAGES_OF_32_MIB = 8192
AT, BEYOND = '0x2000000', '0x4000000'


def branch(c, sandbox, tag, **fields):
    status, answer = c.post(f'/v1/sandboxes/{sandbox}/branch', {'tag': tag, **fields})
    assert status == 201 and answer['status'] == 'ready', (status, answer)
    return answer


def says(c, sandbox, *words):
    status, answer = c.exec(sandbox, *words)
    assert status == 200 and answer['exit_code'] == 0, (words, answer)
    return answer['stdout'].strip()


def fill(c, sandbox, value, size='32m', at=AT):
    says(c, sandbox, 'mem', 'fill', at, size, str(value))


def check(c, sandbox, value, size='32m', at=AT):
    says(c, sandbox, 'mem', 'check', at, size, str(value))


def write(c, sandbox, block, value):
    says(c, sandbox, 'blk', 'write', str(block), str(value))


def blocks(c, sandbox, *which):
    return [int(says(c, sandbox, 'blk', 'read', str(block)).split()[-1], 16) for block in which]


def read(info):
    return info['pages_streamed'] + info['pages_in_pause']


def disk(c):
    """What the controller takes for a root file system with an agent: the guest here has none, and reads blocks."""
    path = os.path.join(c.dir, 'rootfs')
    with open(path, 'wb') as file:
        file.truncate(16 << 20)
        file.seek(1024 + 0x38)
        file.write(struct.pack('<H', 0xef53))
        file.seek(1024 + 0x78)
        file.write(b'forkd-agent-1'.ljust(16, b'\0'))
    return path


def source(c):
    c.snapshot('py', mem_size_mib=128, rootfs=disk(c))
    return c.fork()[0]['id']


def templates(c):
    boxes = {info['pid'] for info in c.get('/v1/sandboxes')[1]}
    return [pid for pid in c.processes() if pid not in boxes]


def strike(c):
    """All templates, at once."""
    struck = templates(c)
    assert struck
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    return struck


def has_ended(pid):
    try:
        return pathlib.Path('/proc', str(pid), 'stat').read_text(encoding='utf-8').rsplit(')', 1)[1].split()[0] in 'ZX'
    except OSError:
        return True


def lose(c):
    """The same; whether the controller has noticed is another matter."""
    struck = strike(c)
    until(lambda: all(map(has_ended, struck)), 'all of them are dead')


def loads(c):
    return c.read_log().count('was loaded')


def die_all(c):
    """The end of the host, as far as forkd can tell."""
    c.stop(signal.SIGKILL)
    for pid in c.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not c.processes(), 'all are dead')


@case(env=WRITTEN)
def a_sandbox_whose_template_was_killed_is_branched(c):
    one = source(c)
    fill(c, one, 1)
    write(c, one, 5, 0x11)
    lose(c)
    made = branch(c, one, 'first')
    assert loads(c) == 1 and PAGES_OF_32_MIB <= read(made) < 2 * PAGES_OF_32_MIB, made
    fill(c, one, 2, '4m')
    write(c, one, 5, 0x22)
    write(c, one, 6, 0x22)
    # It is a last template like any other: the next branch begins there.
    made = branch(c, one, 'second')
    assert loads(c) == 1 and read(made) < PAGES_OF_32_MIB / 4, made
    first, second = [c.fork(1, tag)[0]['id'] for tag in ('first', 'second')]
    check(c, first, 1)
    check(c, second, 2, '4m')
    check(c, second, 1, '28m', '0x2400000')
    assert (blocks(c, first, 5, 6), blocks(c, second, 5, 6)) == ([0x11, 0], [0x22, 0x22])
    write(c, second, 5, 0x33)
    assert blocks(c, one, 5, 6) == [0x22, 0x22]
    check(c, one, 2, '4m')


@case(env=WRITTEN)
def the_newest_of_its_branches_is_loaded_and_little_is_read(c):
    one = source(c)
    fill(c, one, 1)
    write(c, one, 5, 0x11)
    branch(c, one, 'first', mode='diff')
    fill(c, one, 2, '2m')
    write(c, one, 6, 0x22)
    branch(c, one, 'second')
    fill(c, one, 3, '1m')
    write(c, one, 5, 0x33)
    lose(c)
    made = branch(c, one, 'third')
    assert 'snapshot second was loaded' in c.read_log() and loads(c) == 1
    assert read(made) < PAGES_OF_32_MIB / 8, made
    # Without that one the first serves, which lacks more; then the one it was spawned from.
    for victims, tag in ((('second', 'third'), 'first'), (('first', 'fourth-second'), 'py')):
        for victim in victims:
            assert c.delete(f'/v1/snapshots/{victim}')[0] == 204
        lose(c)
        branch(c, one, f'fourth-{"second" if tag == "first" else "py"}')
        assert f'snapshot {tag} was loaded' in c.read_log()
    child = c.fork(1, 'fourth-py')[0]['id']
    check(c, child, 3, '1m')
    check(c, child, 2, '1m', '0x2100000')
    check(c, child, 1, '30m', '0x2200000')
    assert blocks(c, child, 5, 6) == [0x33, 0x22]


@case(env=WRITTEN)
def so_is_every_sandbox_of_a_deep_tree_and_what_it_became_is_on_the_disk(c):
    boxes = [source(c)]
    for depth in range(4):
        fill(c, boxes[-1], depth + 1, f'{8 - depth}m')
        write(c, boxes[-1], depth, depth + 1)
        branch(c, boxes[-1], f'b{depth}', mode='diff' if depth % 2 else 'full')
        boxes.append(c.fork(1, f'b{depth}')[0]['id'])
    for depth, box in enumerate(boxes):
        fill(c, box, 0x40 + depth, '1m', BEYOND)
        write(c, box, 9, 0x40 + depth)
        lose(c)
        branch(c, box, f'again{depth}', mode='diff' if depth < 3 else 'full')

    def all_is_right():
        for depth in range(5):
            child = c.fork(1, f'again{depth}')[0]['id']
            check(c, child, 0x40 + depth, '1m', BEYOND)
            newest = min(depth + 1, 4)
            check(c, child, newest, f'{9 - newest}m')
            want = [n + 1 if n < newest else 0 for n in range(4)] + [0x40 + depth]
            assert blocks(c, child, 0, 1, 2, 3, 9) == want, (depth, want)

    all_is_right()
    die_all(c)
    c.start()
    assert all(info['bootable'] and info['status'] == 'ready' for info in c.get('/v1/snapshots')[1])
    all_is_right()


@case(env=WRITTEN)
def a_diff_of_such_a_branch_holds_what_was_written_since_the_spawn(c):
    one = source(c)
    fill(c, one, 1, '4m')
    plain = branch(c, one, 'plain', mode='diff')
    write(c, one, 5, 0x11)
    lose(c)
    made = branch(c, one, 'made', mode='diff')
    assert made['parent_tag'] == 'py' and 'warning' not in made, made
    assert made['diff_physical_bytes'] < plain['diff_physical_bytes'] + (1 << 20), (plain, made)
    # Now without 'plain', from the snapshot it was spawned from.
    assert c.delete('/v1/snapshots/plain')[0] == 204 and c.delete('/v1/snapshots/made')[0] == 204
    lose(c)
    made = branch(c, one, 'made', mode='diff')
    assert made['diff_physical_bytes'] < plain['diff_physical_bytes'] + (1 << 20), (plain, made)
    assert c.post('/v1/snapshots/made/compact', {'to': 'whole'})[0] == 200
    die_all(c)
    c.start()
    for tag in ('made', 'whole'):
        child = c.fork(1, tag)[0]['id']
        check(c, child, 1, '4m')
        check(c, child, 0, '16m', BEYOND)
        assert blocks(c, child, 5, 6) == [0x11, 0]


@case(env=WRITTEN)
def a_sandbox_that_outlived_controller_and_templates_is_branched(c):
    one = source(c)
    fill(c, one, 1)
    write(c, one, 5, 0x11)
    branch(c, one, 'first')
    fill(c, one, 2, '1m')
    box = c.get('/v1/sandboxes/' + one)[1]['pid']
    c.stop(signal.SIGKILL)
    for pid in c.processes():
        if pid != box:
            os.kill(pid, signal.SIGKILL)
    until(lambda: c.processes() == [box], 'the templates are dead')
    c.start()
    assert c.ids() == [one]
    made = branch(c, one, 'second')
    assert 'snapshot first was loaded' in c.read_log() and read(made) < PAGES_OF_32_MIB / 8, made
    c.stop(signal.SIGKILL)
    c.start()
    made = branch(c, one, 'third')
    assert read(made) < PAGES_OF_32_MIB / 8, made
    child = c.fork(1, 'third')[0]['id']
    check(c, child, 2, '1m')
    check(c, child, 1, '31m', '0x2100000')
    assert blocks(c, child, 5) == [0x11]


@case(env=WRITTEN)
def old_and_new_sandboxes_of_a_template_that_came_back_are_branched_alike(c):
    """Its old ones have the memory of another process, and layers that are other files."""
    old = source(c)
    fill(c, old, 1)
    write(c, old, 5, 0x11)
    lose(c)
    new = c.fork()[0]['id']
    fill(c, new, 2)
    write(c, new, 5, 0x22)
    for turn in range(3):
        for box, value in ((old, 0x11), (new, 0x22)):
            made = branch(c, box, f'{box}-{turn}')
            assert not turn or read(made) < PAGES_OF_32_MIB / 8, made
            child = c.fork(1, f'{box}-{turn}')[0]['id']
            check(c, child, value & 3)
            assert blocks(c, child, 5) == [value]
    assert loads(c) == 1


@case('--branch-concurrency', '6', env=WRITTEN)
def many_at_once_load_it_once(c):
    boxes = [source(c)] + [one['id'] for one in c.fork(5)]
    for number, box in enumerate(boxes):
        fill(c, box, number + 1, '2m')
    lose(c)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda box: branch(c, box, 'of-' + box), boxes))
    assert loads(c) == 1
    for number, box in enumerate(boxes):
        check(c, c.fork(1, 'of-' + box)[0]['id'], number + 1, '2m')


@case(env=WRITTEN)
def a_template_that_dies_while_it_is_asked_comes_back(c):
    """Nobody waits until the controller has noticed."""
    one = source(c)
    for turn in range(8):
        fill(c, one, turn + 1, '1m')
        strike(c)
        branch(c, one, f'b{turn}', mode='diff')
        check(c, c.fork(1, f'b{turn}')[0]['id'], turn + 1, '1m')


@case(env=WRITTEN)
def a_spawn_comes_too_early_for_none_that_is_dead(c):
    c.snapshot('py', mem_size_mib=128)
    for turn in range(8):
        lose(c)
        c.fork()
        assert loads(c) == turn + 1


@case(env=WRITTEN)
def a_spawn_that_meets_a_template_on_its_way_out_is_served_from_the_disk(c):
    """Its socket is closed before anybody can hear that the process ended."""
    c.snapshot('py', mem_size_mib=128)
    for turn in range(24):
        strike(c)
        box = c.fork(1 + turn % 3)[0]['id']
        assert loads(c) == turn + 1
        says(c, box, 'hostname')
        for one in c.ids():
            assert c.delete('/v1/sandboxes/' + one)[0] == 204


@case(env=WRITTEN)
def so_is_what_makes_a_whole_of_it(c):
    c.snapshot('py', mem_size_mib=128)
    for turn in range(8):
        strike(c)
        status, answer = c.post('/v1/snapshots/py/compact', {'to': f'whole{turn}'})
        assert status == 200 and loads(c) == turn + 1, (status, answer)


@case(env=WRITTEN)
def a_spawn_from_templates_that_keep_dying_is_served_or_refused(c):
    c.snapshot('py', mem_size_mib=128)
    over = threading.Event()

    def killer():
        killed = 0
        while not over.wait(0.001):
            living = re.findall(r'snapshot py .*: template .*, process (\d+)', c.read_log())[killed:]
            killed += len(living)
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(killer)
        try:
            answers = [c.post('/v1/sandboxes', {'snapshot_tag': 'py'}) for _ in range(40)]
        finally:
            over.set()
        killing.result()
    refused = [(status, answer) for status, answer in answers if status != 201]
    assert all(status in (409, 503) and 'snapshot py' in answer['error'] for status, answer in refused), refused
    assert len(c.ids()) == len(answers) - len(refused)
    c.fork()


@case()
def and_one_that_is_on_no_disk_is_refused_with_the_reason(c):
    for _ in range(16):
        c.snapshot('py', mem_size_mib=128)
        strike(c)
        status, answer = c.post('/v1/sandboxes', {'snapshot_tag': 'py', 'n': 2})
        assert (status, answer['error']) == (409, 'snapshot py is not bootable: its template process ended without a '
                                                  'word'), (status, answer)
        assert not c.ids()
        c.clear()


@case(env=WRITTEN)
def what_cannot_be_loaded_says_why_and_the_sandbox_runs_on(c):
    one = source(c)
    fill(c, one, 1)
    lose(c)
    path = pathlib.Path(c.root, 'py', 'memory.map')
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    status, answer = c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'none'})
    assert status == 409 and one in answer['error'] and 'snapshot py is not bootable' in answer['error'], answer
    check(c, one, 1)
    path.write_bytes(whole)
    branch(c, one, 'now')
    check(c, c.fork(1, 'now')[0]['id'], 1)
    # And what is on no disk.
    for tag in ('now', 'py'):
        assert c.delete(f'/v1/snapshots/{tag}?force=true')[0] == 204
    assert os.listdir(c.root) == []
    lose(c)
    status, answer = c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'none'})
    assert status == 500 and f'no template that sandbox {one} could be branched from is alive, or on the disk' in \
        answer['error'], answer
    check(c, one, 1)


if __name__ == '__main__':
    raise SystemExit(main())
