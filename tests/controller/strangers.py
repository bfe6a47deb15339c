#!/usr/bin/env python3
"""The command line and those it must not trust: guests that lie, controllers that are none, names with anything in them."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import DEADLINE, case, main
from scripted import Scripted

FORKD = os.environ['FORKD_TEST_CLI']


class Said(Scripted):
    """Remembers what it was asked, and answers all of it alike."""

    def __init__(self, path, value, status=200):
        self.value, self.status, self.asked = value, status, []
        super().__init__(path)

    def answer(self, method, path, body):
        self.asked.append((method, path))
        return self.status, self.value


class Hanging(Scripted):
    """Makes a snapshot and a sandbox, and never answers those requests whose text has `word`."""

    def __init__(self, path, word):
        self.word, self.reached, self.freed, self.asked = word, threading.Event(), threading.Event(), []
        super().__init__(path)

    def answer(self, method, path, body):
        self.asked.append((method, path))
        if self.word in path + json.dumps(body):
            self.reached.set()
            self.freed.wait(DEADLINE)
        if path == '/healthz':
            return 200, {'ok': True}
        if method == 'GET' or path == '/v1/sandboxes':
            return 200, [{'id': 'sb-x'}] if method == 'POST' else []
        stat = 'stat -L' in json.dumps(body)
        return 200, {'exit_code': 0, 'stdout': '5 644' if stat else '', 'result': '', 'error': None}

    def end(self):
        self.freed.set()
        super().end()


class Shell(Scripted):
    """Has every sandbox's commands run by this host, but those of which `lies` has an answer."""

    def __init__(self, path, lies=None):
        self.lies = lies or {}
        super().__init__(path)

    def answer(self, method, path, body):
        for word, lie in self.lies.items():
            if word in body['args'][2]:
                return 200, {'stdout': '', 'stderr': '', 'exit_code': 0, **lie}
        run = subprocess.run(body['args'], input=body.get('stdin', ''), capture_output=True, text=True, check=False)
        return 200, {'stdout': run.stdout, 'stderr': run.stderr, 'exit_code': run.returncode}


def environment(server, **more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith('FORKD_')}
    return {**clean, 'FORKD_URL': 'unix:' + server.server_address, **more}


@contextlib.contextmanager
def asking(server):
    """Runs forkd against it: a function of its words."""
    env = environment(server)

    def forkd(*args, status=0):
        run = subprocess.run([FORKD, *args], env=env, capture_output=True, timeout=DEADLINE, check=False,
                             stdin=subprocess.DEVNULL)
        assert run.returncode == status, (args, run)
        return run
    try:
        yield forkd
    finally:
        server.end()


def socket_of(c):
    return os.path.join(c.dir, 'scripted')


@case(start=False)
def a_name_is_one_part_of_a_path_whatever_is_in_it(c):
    server = Said(socket_of(c), {'error': 'x not found'}, 404)
    with asking(server) as forkd:
        for verb in (['kill'], ['exec', 'NAME', 'true'], ['ping'], ['resume'], ['branch'], ['rmi'], ['rmi', '--force'],
                     ['snapshot-info'], ['workspace', 'delete'], ['snapshot-compact', '--to', 'x', '--from']):
            for name in ('../snapshots/py', 'a?force=true', 'a/b', '..', '.', 'a b#c', 'é'):
                words = [name if word == 'NAME' else word for word in verb] + ([] if 'NAME' in verb else [name])
                forkd(*words, status=1)
    for _, path in server.asked:
        parts = path.split('?')[0].split('/')
        assert parts[:2] == ['', 'v1'] and len(parts) in (4, 5) and '#' not in path, path
        assert path.count('?') == path.endswith('?force=true'), path
    assert {path.split('/')[3] for _, path in server.asked} >= {'..%2Fsnapshots%2Fpy', '..', '%C3%A9'}, server.asked


@case(start=False)
def a_name_that_is_empty_asks_for_nothing(c):
    server = Said(socket_of(c), [])
    with asking(server) as forkd:
        for words in (['kill', ''], ['ping', ''], ['rmi', ''], ['snapshot-info', ''], ['exec', '', 'true'], ['branch', '']):
            assert forkd(*words, status=1).stderr == b'forkd: a name is empty\n'
    assert not server.asked


@case(start=False)
def a_word_that_is_no_text_is_refused_and_never_left_out(c):
    server = Said(socket_of(c), {'stdout': '', 'stderr': '', 'exit_code': 0})
    with asking(server) as forkd:
        for words in (['exec', 'sb', '--', 'rm', b'/\xff'], ['exec', 'sb', '--cwd', b'/\xff', 'true'], ['eval', 'sb', b'\xff'],
                      ['snapshot', '--tag', 'a', b'--warmup=\xff']):
            assert b'is no UTF-8' in forkd(*words, status=2).stderr
    assert not server.asked


@case(start=False)
def an_answer_without_an_exit_code_is_no_success(c):
    for value in ({}, [], {'exit_code': '0'}, b''):
        server = Said(socket_of(c), value)
        with asking(server) as forkd:
            for words in (['exec', 'sb', 'true'], ['eval', 'sb', '1'], ['exec', 'sb', '--json', 'true']):
                run = forkd(*words, status=1)
                assert b'has no exit code' in run.stderr and run.stdout == b'', run
        os.unlink(server.server_address)


@case(start=False)
def what_was_evaluated_is_told_in_whole_lines_and_no_empty_ones(c):
    for error, result, said in (('Traceback\n', None, (b'', b'Traceback\n')), ('bad', None, (b'', b'bad\n')),
                                (None, '1', (b'1\n', b'')), (None, '', (b'\n', b''))):
        server = Said(socket_of(c), {'result': result, 'error': error, 'exit_code': 0})
        with asking(server) as forkd:
            run = forkd('eval', 'sb', 'x')
            assert (run.stdout, run.stderr) == said, run
        os.unlink(server.server_address)


@case(start=False)
def an_exit_code_beyond_a_byte_is_no_success(c):
    for code in (256, 1 << 40, -256, -(1 << 40)):
        server = Said(socket_of(c), {'stdout': '', 'stderr': '', 'exit_code': code})
        with asking(server) as forkd:
            forkd('exec', 'sb', 'true', status=255)
        os.unlink(server.server_address)


@case(start=False)
def what_a_guest_says_of_itself_moves_no_cursor(c):
    evil = 'numpy \x1b[2J\x07 \x9b31m é'
    server = Said(socket_of(c), {'pong': True, 'agent_lang': evil, 'numpy_version': evil, 'exit_code': 1, 'stderr': evil})
    with asking(server) as forkd:
        heard = [forkd('ping', 'sb').stdout, forkd('cp', '/etc/passwd', 'sb:/x', status=1).stderr]
    for words in heard:
        assert words.decode().count('numpy ?[2J? ?31m é') >= 1 and b'\x1b' not in words, words


@case(start=False)
def cp_copies_through_a_shell(c):
    one, folder, back = (os.path.join(c.dir, name) for name in ('one', 'folder', 'back'))
    os.mkdir(folder)
    os.mkdir(back)
    text = os.urandom((384 << 10) + 5)
    with open(one, 'wb') as file:
        file.write(text)
    os.chmod(one, 0o640)
    with asking(Shell(socket_of(c))) as forkd:
        for there in ('folder', 'folder/', 'folder/one', 'folder/other'):
            forkd('cp', one, f'sb:{c.dir}/{there}')
        assert sorted(os.listdir(folder)) == ['one', 'other']
        forkd('cp', f'sb:{folder}/other', back)
        forkd('cp', f'sb:{folder}/one', back + '/other')
        told = forkd('cp', f'sb:{folder}/one', back + '/new', '--json')
        assert json.loads(told.stdout) == {'copied_bytes': len(text)}
        assert b'neither a file nor a directory' in forkd('cp', f'sb:{folder}/one', '/dev/null', status=1).stderr
    assert sorted(os.listdir(back)) == ['new', 'other']
    for path in (folder + '/one', folder + '/other', back + '/new', back + '/other'):
        with open(path, 'rb') as file:
            assert file.read() == text and os.stat(path).st_mode & 0o777 == 0o640, path


@case(start=False)
def cp_believes_no_more_bytes_than_it_asked_for(c):
    """A guest that hands back more than the block, or none of it, or no base64."""
    into = os.path.join(c.dir, 'into')
    for told in (base64.b64encode(bytes(589000)).decode(), '', '!!!!', 'QUJD' * 2):
        with asking(Shell(socket_of(c), {'stat -L': {'stdout': '5 644\n'}, 'dd if': {'stdout': told}})) as forkd:
            assert b'changed while it was copied' in forkd('cp', 'sb:/a', into, status=1).stderr
        os.unlink(socket_of(c))
    for told in ('-1 644', '5', 'many 644', f'{1 << 40} 644'):
        with asking(Shell(socket_of(c), {'stat -L': {'stdout': told}})) as forkd:
            assert b'is no file of at most' in forkd('cp', 'sb:/a', into, status=1).stderr
        os.unlink(socket_of(c))
    assert os.listdir(c.dir) == ['forkd-vmm']


@case(start=False)
def cp_says_what_went_wrong_there(c):
    for lie, said in (({'exit_code': 124, 'timed_out': True}, b'ran out of time'), ({'exit_code': 7}, b'ended with status 7'),
                      ({'exit_code': 1, 'stderr': 'w' * 300 + '\nmore'}, b'w' * 200 + b'\n')):
        with asking(Shell(socket_of(c), {'base64 -d': lie})) as forkd:
            assert said in forkd('cp', '/etc/passwd', f'sb:{c.dir}/x', status=1).stderr
        os.unlink(socket_of(c))
        assert os.listdir(c.dir) == ['forkd-vmm']


def interrupted(server, how, *words, **env):
    """Ends forkd by a signal while it waits for an answer; its exit status, and what was asked after the signal."""
    run = subprocess.Popen([FORKD, *words], env=environment(server, **env), stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    assert server.reached.wait(DEADLINE)
    before = len(server.asked)
    run.send_signal(how)
    try:
        return run.wait(DEADLINE), server.asked[before:]
    finally:
        server.end()
        os.unlink(server.server_address)


@case(start=False)
def what_a_verb_made_goes_when_it_is_interrupted(c):
    os.makedirs(os.path.join(c.dir, 'images', 'python3'))
    with open(os.path.join(c.dir, 'images', 'python3', 'image.json'), 'w', encoding='utf-8') as file:
        file.write('{}')
    quickstart = {'FORKD_IMAGES': os.path.join(c.dir, 'images'), 'FORKD_IN_LAB': '1'}
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for word, words, env in (('/ping', ['bench', '--tag', 'py'], {}), ('/eval', ['quickstart'], quickstart),
                                 ('/exec', ['quickstart', '--json'], quickstart),
                                 ('/exec', ['snapshot-diff', '--from', 'py', '--tag', 'a', '--exec', 'x'], {}),
                                 ('/branch', ['snapshot-diff', '--from', 'py', '--tag', 'a', '--exec', 'x'], {})):
            status, asked = interrupted(Hanging(socket_of(c), word), how, *words, **env)
            assert status == -how and asked == [('DELETE', '/v1/sandboxes/sb-x')], (words, how, status, asked)


@case(start=False)
def a_copy_that_is_interrupted_is_not_left_half_made(c):
    into = os.path.join(c.dir, 'into')
    os.mkdir(into)
    assert interrupted(Hanging(socket_of(c), 'dd if='), signal.SIGINT, 'cp', 'sb:/a', into)[0] == -signal.SIGINT
    assert os.listdir(into) == []
    status, asked = interrupted(Hanging(socket_of(c), 'base64 -d'), signal.SIGINT, 'cp', '/etc/passwd', 'sb:/a')
    assert status == -signal.SIGINT and asked == [('POST', '/v1/sandboxes/sb/exec')], (status, asked)


@case(start=False)
def top_ends_though_nobody_answers_it(c):
    assert interrupted(Hanging(socket_of(c), '?memory=true'), signal.SIGINT, 'top', '--once')[0] == 0


@case(start=False)
def who_asks_for_a_program_waits_for_no_controller_that_stands_still(c):
    for word, words, expected in (('/version', ['version'], 0), ('/v1/snapshots', ['names', 'tags'], 1),
                                  ('/version', ['doctor'], 1)):
        server = Hanging(socket_of(c), word)
        run = subprocess.run([FORKD, *words], env=environment(server), capture_output=True, text=True, timeout=DEADLINE,
                             check=False)
        assert server.reached.is_set() and run.returncode == expected, run
        server.end()
        os.unlink(server.server_address)
    assert 'FAIL  controller ' in run.stdout and 'does not answer' in run.stdout, run.stdout


@case(start=False)
def a_list_that_is_none_is_an_error(c):
    server = Said(socket_of(c), {})
    with asking(server) as forkd:
        for words in (['ls'], ['ls', '--json'], ['tree'], ['images'], ['top', '--once'], ['spawn', '--tag', 'py'],
                      ['kill', '--all'], ['names', 'tags'], ['bench', '--tag', 'py']):
            run = forkd(*words, status=1)
            assert b'is no list' in run.stderr and run.stdout == b'', run


raise SystemExit(main())
