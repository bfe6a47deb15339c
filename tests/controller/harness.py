"""Runs forkd-controller against a VMM on a Unix socket in a directory of its own, and counts what is left.

A test file is a set of functions marked @case; main() runs them one after the other and reports in TAP. A case
gets a fresh Controller unless it asks for none, and fails if anything is left after it: a process, a directory.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback

CONTROLLER = os.environ['FORKD_TEST_CONTROLLER']
VMM = os.environ['FORKD_TEST_VMM']
# With the real VMM: a bare-metal guest that speaks the agent's protocol.
KERNEL = os.environ.get('FORKD_TEST_KERNEL')
DEADLINE = 60.0
CASES = []


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__('localhost', timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.path)


class Skip(Exception):
    """This host cannot run the case."""


def until(condition, what):
    """Waits for a condition that another process makes true; `what` says it, or is a function that says what is so instead."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f'never: {what() if callable(what) else what}'
        time.sleep(0.005)
    return value


class Controller:
    def __init__(self, *flags, env=None, start=True):
        self.born = time.time()
        self.dir = tempfile.mkdtemp(prefix='forkd-test-')
        # The program's own path in this directory tells this test's processes from all others.
        self.vmm = os.path.join(self.dir, 'forkd-vmm')
        os.symlink(os.path.realpath(VMM), self.vmm)
        self.socket = os.path.join(self.dir, 'http')
        self.state = os.path.join(self.dir, 'state.db')
        self.run = self.state + '.run'
        self.log = os.path.join(self.dir, 'log')
        self.audit = os.path.join(self.dir, 'audit.log')
        self.flags = list(flags)
        # Most tests are not about snapshots on a disk; those that are ask for it.
        self.root = os.path.join(self.dir, 'snapshots')
        self.env = {'FORKD_SNAPSHOT_ROOT': self.root, 'FORKD_SNAPSHOT_WRITER': 'none', **(env or {})}
        self.process = None
        if start:
            self.start()

    def spawn(self):
        env = dict(os.environ, FORKD_VMM=self.vmm, FORKD_IMAGES=os.path.join(self.dir, 'images'), **self.env)
        with open(self.log, 'ab') as log:
            return subprocess.Popen([CONTROLLER, 'serve', '--bind', 'unix:' + self.socket, '--state', self.state,
                                     '--audit-log', self.audit, *self.flags], env=env, stderr=log,
                                    stdin=subprocess.DEVNULL)

    def start(self):
        self.process = self.spawn()
        until(self.answers, 'the controller answers')

    def answers(self):
        assert self.process.poll() is None, 'the controller ended: ' + self.read_log()
        with contextlib.suppress(OSError):
            return self.get('/healthz')[0] == 200
        return False

    def read_log(self):
        with open(self.log, encoding='utf-8', errors='replace') as log:
            return log.read()

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(DEADLINE)
        code = self.process.returncode if self.process else None
        self.process = None
        return code

    def raw(self, method, path, body=None, headers=None):
        connection = Connection(self.socket)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read(), response
        finally:
            connection.close()

    def call(self, method, path, body=None, headers=None):
        text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        status, answer, _ = self.raw(method, path, text, headers)
        return status, json.loads(answer) if answer else None

    def get(self, path):
        return self.call('GET', path)

    def post(self, path, body=None):
        return self.call('POST', path, body)

    def delete(self, path):
        return self.call('DELETE', path)

    # What a test is made of.

    def kernel(self, words='fine'):
        if words == 'fine' and KERNEL:
            return KERNEL
        path = os.path.join(self.dir, 'kernel-' + words.replace('=', '-').replace(':', '-').replace(' ', '-'))
        with open(path, 'w', encoding='utf-8') as file:
            file.write(words + '\n')
        return path

    def snapshot(self, tag='py', words='fine', **fields):
        status, answer = self.post('/v1/snapshots', {'tag': tag, 'kernel': self.kernel(words), **fields})
        assert status == 201, (status, answer)
        return answer

    def fork(self, n=1, tag='py', **fields):
        status, answer = self.post('/v1/sandboxes', {'snapshot_tag': tag, 'n': n, **fields})
        assert status == 201, (status, answer)
        return answer

    def ids(self):
        return [one['id'] for one in self.get('/v1/sandboxes')[1]]

    def exec(self, sandbox, *args, **fields):
        return self.post(f'/v1/sandboxes/{sandbox}/exec', {'args': list(args), **fields})

    # What is left.

    def processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError):
                with open(f'/proc/{pid}/cmdline', 'rb') as file:
                    if file.read().startswith(self.vmm.encode() + b'\0'):
                        found.append(int(pid))
        return found

    @contextlib.contextmanager
    def registry(self):
        """A connection to a copy of the state file: the controller keeps the file to itself."""
        with tempfile.TemporaryDirectory(prefix='forkd-test-') as copy:
            for name in (self.state, self.state + '-wal'):
                if os.path.exists(name):
                    shutil.copy(name, copy)
            with contextlib.closing(sqlite3.connect(os.path.join(copy, os.path.basename(self.state)))) as db:
                yield db

    def run_directories(self):
        return sorted(name for name in os.listdir(self.run) if name not in ('pid', '.ready')) if os.path.isdir(self.run) else []

    def template(self):
        """The pid of the one template: a forkd-vmm whose parent is the controller."""
        for pid in self.processes():
            with open(f'/proc/{pid}/stat', encoding='utf-8') as file:
                if int(file.read().rsplit(')', 1)[1].split()[1]) == self.process.pid:
                    return pid
        raise AssertionError('there is no template')

    def clear(self):
        for one in self.ids():
            self.delete(f'/v1/sandboxes/{one}')
        for one in self.get('/v1/snapshots')[1]:
            if one['status'] != 'writing':
                self.delete(f'/v1/snapshots/{one["tag"]}?force=true')

    def assert_nothing_left(self):
        until(lambda: not self.processes(), 'no VMM process is left')
        until(lambda: not self.run_directories(), 'no run directory is left')

    def remove(self):
        self.stop(signal.SIGKILL)
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)


def case(*flags, start=True, env=None):
    def mark(fn):
        CASES.append((fn, flags, start, env))
        return fn
    return mark


def run_case(fn, flags, start, env):
    controller = Controller(*flags, start=start, env=env)
    try:
        fn(controller)
        if controller.process:
            controller.clear()
            controller.assert_nothing_left()
            assert controller.stop() == 0, 'the controller ended with an error: ' + controller.read_log()
        return None
    except Skip as reason:
        return reason
    except Exception:  # pylint: disable=broad-except
        return traceback.format_exc() + '\n' + (controller.read_log() if os.path.exists(controller.log) else '')
    finally:
        controller.remove()


def main():
    # Ended over time: cleaned up all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = sys.argv[1:]
    cases = [one for one in CASES if not wanted or one[0].__name__ in wanted]
    if KERNEL and not os.access('/dev/kvm', os.R_OK | os.W_OK):
        print('1..1\nok 1 - with the real VMM # SKIP /dev/kvm cannot be opened')
        return 0
    print(f'1..{len(cases)}')
    bad = 0
    for number, one in enumerate(cases, 1):
        problem = run_case(*one)
        if isinstance(problem, Skip):
            print(f'ok {number} - {one[0].__name__} # SKIP {problem}', flush=True)
            continue
        bad += problem is not None
        print(f'{"not " if problem else ""}ok {number} - {one[0].__name__}', flush=True)
        for line in (problem or '').splitlines():
            print('#  ' + line, flush=True)
    return 1 if bad else 0
