"""The command line: what it prints, its exit statuses, the controller of one's own."""

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until

FORKD = os.environ['FORKD_TEST_CLI']


def command(c, own):
    env = {**os.environ, **c.env, 'FORKD_VMM': c.vmm, 'FORKD_HOME': os.path.dirname(os.environ['FORKD_TEST_CONTROLLER'])}
    env.pop('FORKD_URL', None)
    env.update({'FORKD_STATE': c.state} if own else {'FORKD_URL': 'unix:' + c.socket})
    return env


def forkd(c, *args, status=0, own=False, stdin=''):
    run = subprocess.run([FORKD, *args], env=command(c, own), capture_output=True, text=True, timeout=60, input=stdin,
                         check=False)
    assert run.returncode == status, (args, run.returncode, run.stdout, run.stderr)
    return run


def told(c, *args, **options):
    return json.loads(forkd(c, *args, '--json', **options).stdout)


@case()
def a_whole_life_through_the_cli(c):
    assert 'snapshot py is ready' in forkd(c, 'snapshot', '--tag', 'py', '--kernel', c.kernel(),
                                           '--warmup', 'numpy').stdout
    made = told(c, 'spawn', '--tag', 'py', '-n', '3')
    one = made[0]['id']
    assert [box['id'] for box in told(c, 'ls')] == sorted(box['id'] for box in made)
    assert one in forkd(c, 'ls').stdout
    assert forkd(c, 'exec', one, '--', 'echo', 'a', '-n').stdout == 'a -n\n'
    assert forkd(c, 'exec', one, 'echo', '--all').stdout == '--all\n'
    assert forkd(c, 'eval', one, '1+1').stdout == '2\n'
    assert 'numpy 1.24.2' in forkd(c, 'ping', one).stdout
    assert told(c, 'kill', one) == [one]
    assert len(told(c, 'kill', '--tag', 'py')) == 2
    assert told(c, 'images')['snapshots'][0]['tag'] == 'py'
    assert 'deleted py' in forkd(c, 'rmi', 'py').stdout


@case()
def a_branch_says_its_pause_and_forks_its_children(c):
    c.snapshot()
    one = c.fork()[0]['id']
    said = forkd(c, 'branch', one, '--tag', 'then').stdout
    assert re.search(fr'snapshot then is a branch of {one}: paused for \d+\.\d\d ms', said), said
    assert 'forkd spawn --tag then' in said
    answer = told(c, 'branch', one, '-n', '3')
    assert answer['snapshot']['branched_from'] == one
    assert [box['snapshot_tag'] for box in answer['sandboxes']] == 3 * [answer['snapshot']['tag']]
    assert told(c, 'branch', one, '--tag', 'diff', '--diff', '--no-wait')['mode'] == 'diff'
    assert told(c, 'snapshot', '--from-sandbox', one, '--tag', 'same')['branched_from'] == one
    assert 'HTTP 409: {"error":"snapshot then exists already"}' in forkd(c, 'branch', one, '-t', 'then', status=1).stderr
    assert 'HTTP 404' in forkd(c, 'branch', 'sb-nobody', status=1).stderr
    for wrong in (['branch'], ['branch', one, 'other'], ['branch', one, '--diff', '--live'],
                  ['snapshot', '--from-sandbox', one, '--image', 'x'],
                  ['snapshot', '--from-sandbox', one, '--vcpus', '2'], ['snapshot', '--from-sandbox', one, '--rw'],
                  ['snapshot', '--from-sandbox', one, '--warmup', 'm'], ['snapshot', '--tag', 'x', '--no-wait']):
        forkd(c, *wrong, status=2)


@case()
def the_tree_shows_who_came_from_whom(c):
    c.snapshot()
    a, b = (box['id'] for box in c.fork(2))
    for source, tag in ((a, 'a1'), (a, 'a2'), (b, 'b1')):
        forkd(c, 'branch', source, '--tag', tag)
    child = c.fork(1, 'a1')[0]['id']

    def tree():
        """Pairs of depth and name, in the order of lines."""
        lines = forkd(c, 'tree').stdout.splitlines()[1:]
        return [(len(re.match('[│├└─ ]*', line)[0]) // 3, line.lstrip('│├└─ ').split('  ')[0]) for line in lines]

    below = {a: [(1, a), (2, 'a1'), (3, child), (2, 'a2')], b: [(1, b), (2, 'b1')]}
    assert tree() == [(0, 'py')] + [line for one in sorted([a, b]) for line in below[one]]
    c.delete('/v1/sandboxes/' + b)
    c.delete('/v1/snapshots/a1')
    assert tree() == [(0, f'{child} (of a deleted snapshot a1)'), (0, 'py'), (1, a), (2, 'a2'),
                      (1, f'b1 (of {b}, which is gone)')]
    told_tree = told(c, 'tree')
    assert [one['tag'] for one in told_tree['snapshots']] == ['a2', 'b1', 'py']
    assert all(one['memory_own_kib'] is not None for one in told_tree['snapshots'] + told_tree['sandboxes'])


@case()
def a_snapshot_says_what_it_is(c):
    c.snapshot()
    one = c.fork()[0]['id']
    forkd(c, 'branch', one, '--tag', 'then')
    said = forkd(c, 'snapshot-info', 'then').stdout
    for part in ('snapshot       then\n', f'branched from  {one}\n', 'a child of     py\n', 'pages read     '):
        assert part in said, said
    assert told(c, 'snapshot-info', 'then')['branched_from'] == one
    assert 'branched' not in forkd(c, 'snapshot-info', 'py').stdout
    assert re.search('^on disk +nothing', said, re.M) and ' KiB' not in said, said  # it is written to none here
    assert 'HTTP 404' in forkd(c, 'snapshot-info', 'none', status=1).stderr
    forkd(c, 'snapshot-info', status=2)


@case()
def a_workspace_is_put_away_and_taken_up(c):
    c.snapshot()
    box = told(c, 'workspace', 'create', 'dev', '--tag', 'py')['live_sandbox_id']
    assert box in forkd(c, 'workspace').stdout and 'running' in forkd(c, 'workspace', 'list').stdout
    assert 'workspace dev is suspended as ws-dev-state' in forkd(c, 'workspace', 'suspend', 'dev').stdout
    assert 'HTTP 400' in forkd(c, 'workspace', 'suspend', 'dev', status=1).stderr
    assert 'workspace dev runs in sb-' in forkd(c, 'workspace', 'resume', 'dev').stdout
    assert 'deleted workspace dev' in forkd(c, 'workspace', 'delete', 'dev').stdout
    assert told(c, 'workspace') == []
    for wrong in (['create', 'dev'], ['create'], ['suspend'], ['list', 'dev'], ['burn', 'dev'], ['resume', 'a', 'b']):
        forkd(c, 'workspace', *wrong, status=2)


@case()
def exec_returns_the_commands_code_and_streams(c):
    c.snapshot()
    one = c.fork()[0]['id']
    forkd(c, 'exec', one, '--', 'exit', '7', status=7)
    forkd(c, 'exec', one, '--', 'signal', status=137)
    missing = forkd(c, 'exec', one, '--', 'none-such', status=127)
    assert missing.stdout == '' and missing.stderr == 'none-such: not found'
    assert 'ran out of time' in forkd(c, 'exec', one, 'slow', status=124).stderr
    assert forkd(c, 'exec', one, '--stdin', 'cat', stdin='é\n').stdout == 'é\n'
    answer = forkd(c, 'exec', one, '--env', 'A=b', '--cwd', '/tmp', 'env')
    assert answer.stdout == 'A=b\n' and answer.stderr == '/tmp'
    failed = forkd(c, 'eval', one, 'raise', status=1)
    assert failed.stdout == '' and failed.stderr == 'Traceback: raised\n'


@case()
def errors_of_the_controller_are_told_as_they_are(c):
    run = forkd(c, 'spawn', '--tag', 'none', status=1)
    assert run.stderr == 'forkd: HTTP 404: {"error":"snapshot none not found"}\n' and run.stdout == ''
    forkd(c, 'exec', 'sb-none', 'true', status=1)
    forkd(c, 'kill', 'sb-none', status=1)
    panic = forkd(c, 'snapshot', '--tag', 'x', '--kernel', c.kernel('boot=panic'), status=1).stderr
    assert panic == (
        'forkd: HTTP 500: {"error":"the guest ended while it booted: the guest asked for a reset (a reboot or a panic)"}\n'
        'The console ends with:\nLinux version fake\nKernel panic - not syncing: VFS: Unable to mount root fs\n'), panic


@case(start=False)
def wrong_usage_is_2(c):
    for args in ([], ['none'], ['ls', 'x'], ['spawn'], ['spawn', '--tag'], ['spawn', '--tag', 'a', '-n', 'x'],
                 ['spawn', '--none'], ['exec', 'id'], ['eval', 'id'], ['kill'], ['kill', 'id', '--all'], ['ping'],
                 ['rmi'], ['rmi', 'a', '--cascade', '--force'], ['snapshot', '--kernel', 'k'], ['images', 'none'],
                 ['spawn', '--tag', 'a', '--settle-secs', '1'], ['quickstart', '-n', '0'], ['doctor', 'x'],
                 ['snapshot', '--tag', 'a', '--warmup', 'm', '--warmup-code', 'c']):
        run = forkd(c, *args, status=2)
        assert run.stderr and run.stdout == '', args


@case(start=False)
def a_name_that_is_empty_and_a_number_that_is_none_are_named(c):
    for option in ('tag', 'kernel', 'rootfs', 'initrd', 'image'):
        run = forkd(c, 'snapshot', '--tag', 'a', f'--{option}', '', status=2)
        assert run.stderr == f'forkd: --{option} needs a value; see forkd snapshot --help\n', run.stderr
    for verb, option in (('snapshot', '--mem-size-mib'), ('snapshot', '--vcpus'), ('spawn', '-n')):
        for value in ('many', '1.5', '-1', '', '1' + 20 * '0'):
            said = forkd(c, verb, '--tag', 'a', option, value, status=2).stderr
            assert said.startswith(f'forkd: {option} ') and value in said and said.count('\n') == 1, said


@case()
def a_number_that_is_nought_is_not_left_out(c):
    for field in ('mem-size-mib', 'vcpus', 'boot-wait-secs'):
        said = forkd(c, 'snapshot', '--tag', 'a', '--kernel', c.kernel(), f'--{field}', '0', status=1).stderr
        assert 'HTTP 400' in said and field.replace('-', '_') in said, said
    c.snapshot()
    assert 'memory_limit_mib' in forkd(c, 'spawn', '--tag', 'py', '--memory-limit-mib', '0', status=1).stderr
    one = c.fork()[0]['id']
    for verb in ('exec', 'eval'):
        assert 'timeout_secs' in forkd(c, verb, one, '--timeout-secs', '0', '--', '1', status=1).stderr


@case(start=False)
def every_verb_has_help(c):
    verbs = re.findall(r'^  ([a-z-]+)  +\S', forkd(c, '--help').stdout, re.M)
    assert len(verbs) >= 14, verbs
    for verb in verbs:
        assert forkd(c, verb, '--help').stdout.startswith('usage: forkd '), verb
    assert forkd(c, '--version').stdout.startswith('forkd ')


@case(start=False)
def what_cannot_be_written_is_no_success(c):
    """But who stopped reading (head) is told nothing more."""
    for words in (['--help'], ['version'], ['help', '--json']):
        with open('/dev/full', 'wb') as full:
            run = subprocess.run([FORKD, *words], env=command(c, False), stdout=full, stderr=subprocess.PIPE, check=False)
        assert (run.returncode, run.stderr) == (1, b'forkd: write the output: No space left on device\n'), run
        read_end, write_end = os.pipe()
        os.close(read_end)
        run = subprocess.run([FORKD, *words], env=command(c, False), stdout=write_end, stderr=subprocess.PIPE, check=False)
        os.close(write_end)
        assert (run.returncode, run.stderr) == (128 + signal.SIGPIPE, b''), run


@case(start=False)
def a_controller_that_is_not_there_is_named(c):
    assert forkd(c, 'ls', status=1).stderr == \
        f'forkd: the controller at unix:{c.socket} cannot be asked: it does not listen\n'
    assert 'is none of' in forkd(c, 'ls', '--daemon-url', 'ftp://x', status=1).stderr


@case()
def fork_in_the_foreground_kills_its_children_when_told_to(c):
    c.snapshot()
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        run = subprocess.Popen([FORKD, 'fork', '--tag', 'py', '-n', '2', '--settle-secs', '3600'],
                               env=command(c, False), stdout=subprocess.PIPE)
        until(lambda: len(c.ids()) == 2, 'the children are there')
        run.send_signal(how)
        assert run.wait(60) == 0
        run.stdout.close()
        assert c.ids() == []


@case()
def fork_in_the_foreground_ends_by_itself(c):
    c.snapshot()
    forkd(c, 'fork', '--tag', 'py', '--settle-secs', '1')
    assert c.ids() == []


@case()
def kill_9_of_the_cli_harms_nobody(c):
    c.snapshot()
    run = subprocess.Popen([FORKD, 'fork', '--tag', 'py', '--settle-secs', '3600'], env=command(c, False),
                           stdout=subprocess.DEVNULL)
    one = until(c.ids, 'the child is there')[0]
    run.kill()
    run.wait(60)
    assert c.exec(one, 'echo', 'alive')[0] == 200


def own_controllers(c):
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as file:
                words = file.read().split(b'\0')
        except OSError:
            continue
        if b'serve' in words and c.state.encode() in words:
            found.append(int(pid))
    return found


def own(fn):
    """A case about the controller of one's own, which is stopped whatever comes of it."""
    def run(c):
        try:
            fn(c)
        finally:
            forkd(c, 'stop', own=True)
            assert own_controllers(c) == []
            c.assert_nothing_left()
            assert not os.path.exists(c.state + '.run/pid')
    run.__name__ = fn.__name__
    return case(start=False)(run)


@own
def a_controller_is_started_when_none_runs(c):
    assert own_controllers(c) == []
    forkd(c, 'snapshot', '--tag', 'py', '--kernel', c.kernel(), own=True)
    first = own_controllers(c)
    assert len(first) == 1
    assert len(told(c, 'spawn', '--tag', 'py', '-n', '2', own=True)) == 2
    assert own_controllers(c) == first
    forkd(c, 'rmi', 'py', own=True)  # its template stays, hidden, and must go with the rest


@own
def of_many_commands_at_once_one_starts_it(c):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: forkd(c, 'ls', own=True), range(8)))
    assert len(own_controllers(c)) == 1


@own
def after_its_death_the_next_one_takes_over(c):
    forkd(c, 'snapshot', '--tag', 'py', '--kernel', c.kernel(), own=True)
    one = told(c, 'spawn', '--tag', 'py', own=True)[0]['id']
    os.kill(own_controllers(c)[0], signal.SIGKILL)
    assert forkd(c, 'exec', one, 'echo', 'alive', own=True).stdout == 'alive\n'
    forkd(c, 'stop', '--keep', own=True)
    assert own_controllers(c) == [] and len(c.processes()) == 2
    assert [box['id'] for box in told(c, 'ls', own=True)] == [one]


@case(start=False)
def a_state_is_named_by_its_file_or_by_its_directory(c):
    """By command line and controller alike, and by what clears up."""
    os.mkdir(os.path.join(c.dir, 'there'))
    for named, means in (('there', 'there/state.db'), ('new/', 'new/state.db'), ('my.db', 'my.db'), ('[x]', '[x]')):
        c.state, file = os.path.join(c.dir, named), os.path.join(c.dir, means)
        try:
            forkd(c, 'ls', own=True)
            assert os.path.isfile(file) and os.path.isdir(file + '.run')
            assert told(c, 'where', own=True)['controller'] == f'unix:{os.path.dirname(file)}/controller.sock'
        finally:
            forkd(c, 'stop', own=True)
        os.unlink(file)
        os.makedirs(file + '.run', exist_ok=True)
        left = [row['path'] for row in told(c, 'cleanup', own=True)]
        assert file + '.run' in left, left


@own
def stop_ends_who_listens_and_no_process_that_is_written_down(c):
    forkd(c, 'ls', own=True)
    bystander = subprocess.Popen(['sleep', '1000'])
    try:
        with open(c.state + '.run/pid', 'w', encoding='utf-8') as file:
            file.write(f'{bystander.pid}\n')
        forkd(c, 'stop', own=True)
        assert bystander.poll() is None and own_controllers(c) == []
    finally:
        bystander.kill()
        bystander.wait()


@own
def a_controller_that_cannot_start_says_why(c):
    with open(c.state, 'w', encoding='utf-8') as file:
        file.write('{}' * 20)
    assert 'is not a state file of forkd-controller' in forkd(c, 'ls', status=1, own=True).stderr
    os.unlink(c.state)


raise SystemExit(main())
