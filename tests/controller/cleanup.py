"""forkd cleanup: what belongs to nobody is named, and removed when that is said; what belongs to a state never is."""

import glob
import json
import os
import signal
import subprocess

from harness import case, main

FORKD = os.environ['FORKD_TEST_CLI']


def cleanup(c, *flags, status=0):
    # The usual places of this host are not looked into: only what this test made is there.
    env = {**os.environ, 'FORKD_STATE': c.state, 'XDG_STATE_HOME': os.path.join(c.dir, 'nowhere')}
    run = subprocess.run([FORKD, 'cleanup', '--json', *flags], env=env, capture_output=True, text=True, timeout=60,
                         check=False)
    assert run.returncode == status, run
    return [row for row in json.loads(run.stdout) if row['path'].startswith(c.dir)]


def lose_the_state(c):
    for path in glob.glob(c.state + '*'):
        if os.path.isfile(path):
            os.unlink(path)


@case()
def what_belongs_to_a_state_is_never_named(c):
    c.snapshot()
    c.fork(2)
    assert cleanup(c) == []
    c.stop(signal.SIGKILL)
    assert cleanup(c, '-y') == [] and len(c.processes()) == 3
    c.start()
    assert len(c.ids()) == 2


@case()
def a_controller_that_lives_keeps_what_it_has_without_its_file(c):
    c.snapshot()
    c.fork()
    lose_the_state(c)
    assert cleanup(c, '-y') == [] and len(c.processes()) == 2


@case()
def what_a_lost_state_left_is_named_first_and_removed_when_told(c):
    c.snapshot()
    c.fork(2)
    c.stop(signal.SIGKILL)
    lose_the_state(c)
    processes = c.processes()
    for _ in range(2):
        found = cleanup(c)
        told = sorted(row['pid'] for row in found if row['kind'] == 'process')
        assert told == sorted(processes) == sorted(c.processes())
        assert [row['path'] for row in found if row['kind'] == 'directory'] == [c.run]
        assert len(found) == 4 and not any(row['removed'] for row in found) and all(row['why'] for row in found)
    found = cleanup(c, '-y')
    assert len(found) == 4 and all(row['removed'] for row in found)
    assert not c.processes() and not os.path.exists(c.run)
    assert cleanup(c, '-y') == []


@case(start=False)
def a_directory_of_another_program_is_left_alone(c):
    os.mkdir(c.run)
    with open(os.path.join(c.run, 'theirs'), 'w', encoding='utf-8') as file:
        file.write('x')
    assert cleanup(c, '-y') == [] and os.path.exists(os.path.join(c.run, 'theirs'))
    os.unlink(os.path.join(c.run, 'theirs'))
    os.makedirs(os.path.join(c.run, 'sb-one'))
    with open(os.path.join(c.run, 'sb-one', 'theirs'), 'w', encoding='utf-8') as file:
        file.write('x')
    assert [row['removed'] for row in cleanup(c, '-y', status=1)] == [False]
    assert os.path.exists(os.path.join(c.run, 'sb-one', 'theirs'))


@case(start=False)
def links_are_not_followed(c):
    elsewhere = os.path.join(c.dir, 'elsewhere')
    os.makedirs(os.path.join(elsewhere, 'sb-one'))
    with open(os.path.join(elsewhere, 'sb-one', 'ctl'), 'w', encoding='utf-8') as file:
        file.write('x')
    os.symlink(elsewhere, c.run)
    assert cleanup(c, '-y') == []
    os.unlink(c.run)
    os.mkdir(c.run)
    os.symlink(os.path.join(elsewhere, 'sb-one'), os.path.join(c.run, 'sb-one'))
    cleanup(c, '-y', status=1)
    assert os.path.exists(os.path.join(elsewhere, 'sb-one', 'ctl'))


raise SystemExit(main())
