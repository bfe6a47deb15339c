#!/usr/bin/env python3
"""forkd top, where and bench, against a VMM that is none, and progress, against a controller that is none."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import DEADLINE, case, main
from scripted import Scripted

FORKD = os.environ['FORKD_TEST_CLI']


def environment(c, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith('FORKD_')}
    return {**clean, 'FORKD_URL': 'unix:' + c.socket, 'TERM': 'dumb', **more}


def forkd(c, *args, status=0, **env):
    run = subprocess.run([FORKD, *args], env=environment(c, **env), capture_output=True, text=True, timeout=DEADLINE,
                         check=False)
    assert run.returncode == status, (args, run.returncode, run.stdout, run.stderr)
    return run.stdout


def read_until(terminal, pattern):
    said, end = '', time.monotonic() + DEADLINE
    while not re.search(pattern, said):
        assert select.select([terminal], [], [], max(0, end - time.monotonic()))[0], (pattern, said)
        said += os.read(terminal, 65536).decode(errors='replace')


def end_of(pid, terminal):
    """The exit status, once it ended by itself: a terminal that is closed before would end it with SIGHUP."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    return status


@case()
def top_tells_each_sandbox_once(c):
    c.snapshot()
    ids = {one['id'] for one in c.fork(3)}
    picture = json.loads(forkd(c, 'top', '--once', '--interval', '1', '--json'))
    assert {one['id'] for one in picture} == ids
    for one in picture:
        assert one['snapshot_tag'] == 'py' and one['state'] == 'running' and one['age_secs'] >= 0, one
        assert one['cpu_percent'] >= 0 and one['memory_own_kib'] > 0, one
    lines = forkd(c, 'top', '--interval', '1', '--sort', 'memory').splitlines()
    assert lines[0].startswith('3 sandboxes, ') and lines[2].split()[:2] == ['ID', 'SNAPSHOT'], lines
    assert {line.split()[0] for line in lines[3:]} == ids, lines


@case()
def top_without_sandboxes_is_empty(c):
    assert json.loads(forkd(c, 'top', '--once', '--interval', '1', '--json')) == []


@case()
def top_goes_on_a_line_a_picture_until_it_is_told_to_end(c):
    c.snapshot()
    c.fork(1)
    run = subprocess.Popen([FORKD, 'top', '--json', '--interval', '1'], env=environment(c), stdout=subprocess.PIPE, text=True)
    for _ in range(2):
        assert len(json.loads(run.stdout.readline())) == 1
    run.send_signal(signal.SIGTERM)
    assert run.wait(DEADLINE) == 0
    run.stdout.close()


@case()
def top_on_a_terminal_shows_a_screen_of_its_own_until_q(c):
    c.snapshot()
    one = c.fork(1)[0]['id']
    env = environment(c)
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(FORKD, [FORKD, 'top', '--interval', '1'], env)
        finally:
            os._exit(127)
    read_until(terminal, r'\x1b\[\?1049h.*\x1b\[\?7l[^$]*' + one)  # a row wider than the terminal is one row
    os.write(terminal, b'\x1a\x1cq')  # neither ^Z nor ^\ leaves that screen behind
    read_until(terminal, r'\x1b\[\?7h.*\x1b\[\?1049l')
    assert end_of(pid, terminal) == 0


class Making(Scripted):
    """A controller whose requests to make something are answered when `done` is set, and which tells `listed` meanwhile."""

    def __init__(self, path):
        self.done, self.listed = threading.Event(), []
        super().__init__(path)

    def answer(self, method, path, body):
        if method == 'GET':
            return 200, self.listed
        self.done.wait(DEADLINE)
        if path == '/v1/sandboxes':
            return 200, [{'id': 'sb-y', 'snapshot_tag': 'py'}]
        return 200, {'tag': 'py', 'branched_from': 'sb-x', 'pause_us': {'total': 1000}, 'ready_ms': 1}


MADE = {'tag': 'py', 'branched_from': 'sb-x', 'status': 'writing', 'bootable': False}
WRITING = r'writing, 7 MiB \[#{8}-{8}\]  50 %, [0-9]+ s'


def in_columns(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))


def progress_is_shown(c, args, at_first, listed, then=WRITING, last='snapshot py is', columns=200):
    """What a terminal shows of a request that takes long, before and after the controller tells that it writes."""
    path = os.path.join(c.dir, 'scripted')
    server = Making(path)
    env = environment(c, FORKD_URL='unix:' + path)
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(FORKD, [FORKD, *args], env)
        finally:
            os._exit(127)
    in_columns(terminal, columns)
    server.listed = at_first
    try:
        read_until(terminal, listed)
        server.listed = [{**MADE, 'bootable': True, 'stage': 'write', 'percent': 50, 'written_bytes': 7 << 20}]
        read_until(terminal, then)
        server.done.set()
        read_until(terminal, last)
    finally:
        server.done.set()
        status = end_of(pid, terminal)
        server.end()
    assert status == 0


@case(start=False)
def a_snapshot_that_is_made_tells_how_far_it_is(c):
    progress_is_shown(c, ['snapshot', '--tag', 'py', '--kernel', '/k'], [{**MADE, 'stage': 'boot'}],
                      r'making snapshot py: booting, at most 10 s \[#+-+\]  [1-9]0 %, [0-9]+ s')


@case(start=False)
def a_warm_up_has_no_bar_for_nobody_knows_its_end(c):
    progress_is_shown(c, ['snapshot', '--tag', 'py', '--kernel', '/k'], [{**MADE, 'stage': 'warmup'}],
                      'making snapshot py: warming up, [0-9]+ s')


@case(start=False)
def a_narrow_terminal_still_tells_what_goes_on_and_for_how_long(c):
    """The bar goes first, then the words; never the seconds."""
    progress_is_shown(c, ['snapshot', '--tag', 'py', '--kernel', '/k'], [{**MADE, 'stage': 'boot'}],
                      r'. making snapshot py: [0-9]+ s', r'. making snapshot py: writing, 7 MiB, [0-9]+ s', columns=44)


@case(start=False)
def help_is_broken_at_the_edge_of_the_terminal(c):
    for columns in (50, 72):
        begins, begin = os.pipe()
        pid, terminal = pty.fork()
        if pid == 0:
            os.read(begins, 1)
            os.execve(FORKD, [FORKD, 'snapshot', '--help'], environment(c))
        in_columns(terminal, columns)
        os.write(begin, b'!')
        os.close(begin)
        os.close(begins)
        said = b''
        with contextlib.suppress(OSError):
            while more := os.read(terminal, 65536):
                said += more
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0
        lines = said.decode().splitlines()
        assert max(len(line) for line in lines if not re.match('usage|       forkd', line)) <= columns, lines


@case(start=False)
def a_branch_that_is_made_tells_how_far_it_is(c):
    progress_is_shown(c, ['branch', 'sb-x'], [MADE], 'branching sb-x: reading its memory, [0-9]+ s')


@case(start=False)
def a_spawn_that_waits_for_a_load_tells_how_far_it_is(c):
    loading = {**MADE, 'status': 'ready', 'stage': 'load'}
    progress_is_shown(c, ['spawn', '--tag', 'py', '--json'], [{**loading, 'percent': 0}],
                      r'forking 1 from py: loading \[-{16}\]   0 %, [0-9]+ s', last='sb-y')


@case()
def where_tells_the_controller_and_the_places(c):
    images = os.path.join(c.dir, 'images')
    told = json.loads(forkd(c, 'where', '--json', FORKD_IMAGES=images, FORKD_SNAPSHOT_ROOT='/some/where',
                            FORKD_HOME=os.path.dirname(os.environ['FORKD_TEST_CONTROLLER'])))
    assert told['controller'] == 'unix:' + c.socket and told['guest_images'] == images
    assert told['snapshots'] == '/some/where' and told['forkd_controller'].endswith('/forkd-controller')
    assert re.search('^guest_images +', forkd(c, 'where'), re.M)


@case(start=False)
def where_starts_no_controller(c):
    told = json.loads(forkd(c, 'where', '--json', FORKD_URL='', FORKD_STATE=c.state))
    assert told['controller'] is None and not os.path.exists(c.run)


@case()
def bench_measures_and_leaves_nothing(c):
    c.snapshot()
    series = json.loads(forkd(c, 'bench', '--tag', 'py', '-n', '5', '--json'))
    assert [one['what'] for one in series] == ['spawn of one', 'ping', 'kill', 'spawn of 5 at once']
    for one in series:
        assert one['times'] == (1 if 'at once' in one['what'] else 5)
        assert 0 < one['median_ms'] <= one['p90_ms'] <= one['max_ms'], one
    assert c.ids() == []
    assert 'spawn of one' in forkd(c, 'bench', '--tag', 'py', '-n', '2')


@case()
def bench_says_what_went_wrong_and_leaves_nothing(c):
    forkd(c, 'bench', '--tag', 'none', status=1)
    c.snapshot('bad', 'identity=fail:2')
    forkd(c, 'bench', '--tag', 'bad', '-n', '3', status=1)
    assert c.ids() == []


@case()
def every_verb_that_answers_answers_in_json(c):
    """One value a line; what a verb says to people is not among it."""
    c.snapshot()
    one, two = (box['id'] for box in c.fork(2))
    for args in (['ls'], ['tree'], ['images'], ['top', '--once', '--interval', '1'], ['where'], ['version'],
                 ['ping', one], ['ping', one, two], ['exec', one, 'echo', 'a'], ['eval', one, '1+1'],
                 ['spawn', '--tag', 'py'], ['fork', '--tag', 'py', '-n', '2'], ['branch', one, '--tag', 'b'],
                 ['branch', one, '--tag', 'b2', '-n', '2'], ['names', 'tags'], ['names', 'sandboxes'], ['names', 'images'],
                 ['bench', '--tag', 'py', '-n', '1'], ['workspace', 'create', 'w', '--tag', 'py'], ['workspace', 'list'],
                 ['workspace', 'delete', 'w'], ['kill', two], ['kill', '--tag', 'py'], ['kill', '--all'],
                 ['rmi', 'b', 'b2'], ['snapshot', '--tag', 'new', '--kernel', c.kernel()]):
        lines = forkd(c, args[0], '--json', *args[1:]).splitlines()
        assert len(lines) == (2 if args[:1] == ['ping'] and len(args) == 3 else 1), (args, lines)
        for line in lines:
            json.loads(line)


@case()
def what_a_command_changes_becomes_a_snapshot_and_its_sandbox_ends(c):
    c.snapshot()
    made = json.loads(forkd(c, 'snapshot-diff', '--from', 'py', '--tag', 'more', '--exec', 'apt-get install x', '--json'))
    assert (made['tag'], made['mode'], made['parent_tag']) == ('more', 'diff', 'py'), made
    assert 'snapshot again is more and' in forkd(c, 'snapshot-diff', '--from', 'more', '--tag', 'again', '--exec', 'true')
    assert forkd(c, 'snapshot-diff', '--from', 'py', '--tag', 'no', '--exec', 'false', status=1) == ''
    assert [one['tag'] for one in c.get('/v1/snapshots')[1]] == ['again', 'more', 'py'] and c.ids() == []


@case()
def what_the_controller_refuses_is_1_with_a_sentence_and_no_output(c):
    for args in (['ping', 'sb-none'], ['exec', 'sb-none', 'true'], ['eval', 'sb-none', '1'], ['kill', 'sb-none'],
                 ['resume', 'sb-none'], ['branch', 'sb-none'], ['spawn', '--tag', 'none'], ['rmi', 'none'],
                 ['snapshot', '--tag', 'x', '--kernel', '/none'], ['bench', '--tag', 'none'],
                 ['workspace', 'suspend', 'none'], ['workspace', 'delete', 'none'],
                 ['snapshot-compact', '--from', 'none', '--to', 'x'],
                 ['snapshot-diff', '--from', 'none', '--tag', 'x', '--exec', 'true'], ['cp', 'sb-none:/a', c.dir + '/a']):
        run = subprocess.run([FORKD, *args], env=environment(c), capture_output=True, text=True, timeout=DEADLINE,
                             check=False)
        assert run.returncode == 1 and 'forkd: HTTP 4' in run.stderr, (args, run)
        assert run.stdout == '', (args, run)


@case(start=False)
def wrong_usage_is_2(c):
    for args in (['top', 'x'], ['top', '--sort', 'name'], ['top', '--interval', '0'], ['where', 'x'], ['bench'],
                 ['bench', '--tag', 'a', '-n', '0'], ['bench', '--tag', 'a', '-n', '1001'], ['cp'], ['cp', 'a', 'b'],
                 ['cp', 'a/b:/c', 'd'], ['cp', ':/c', 'd'], ['cp', 'id:/a', 'b', 'c'], ['names'], ['names', 'x'],
                 ['names', 'tags', 'x']):
        forkd(c, *args, status=2)


raise SystemExit(main())
