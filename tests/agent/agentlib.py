"""The host's side of src/proto/agent.h in Python, and an agent to talk to on a Unix socket.

Standard library only. Every wait has a limit; none of them is a fixed sleep.
"""
import contextlib
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import unittest

VERSION = 1
PING, EXEC, EVAL, WARM, IDENTITY, SETTLE, RUN_READY, SHUTDOWN, STDIN = range(1, 10)
PONG, EXIT, EVALUATED, WARMED, IDENTIFIED, SETTLED, STOPPING, STDOUT, STDERR, REFUSED = range(0x81, 0x8B)
EXITED, SIGNALLED, NOT_FOUND, TIMED_OUT, CANNOT_START = range(5)
MALFORMED, BUSY, FAILED = range(3)
FRAME_MAX = 1 << 20
EVAL_TEXT_MAX = 192 << 10
VMADDR_CID_LOCAL = 1
OVER_VSOCK = bool(os.environ.get("FORKD_TEST_VSOCK"))  # through vsock's loopback, where a kernel has it
PATIENCE = 60  # seconds until a test gives up waiting for what must come


def u32(n):
    return struct.pack("<I", n & 0xFFFFFFFF)


def blob(data):
    if isinstance(data, str):
        data = data.encode()
    return u32(len(data)) + data


def strings(items):
    return u32(len(items)) + b"".join(blob(i) for i in items)


def frame(kind, body=b"", version=VERSION):
    return u32(len(body) + 2) + bytes((version, kind)) + body


def exec_frame(argv, env=(), cwd="", timeout_ms=0, limit=1 << 20, stdin=b"", stream=False):
    return frame(EXEC, strings(argv) + strings(env) + blob(cwd) + u32(timeout_ms) + u32(limit) +
                 bytes((stream,)) + blob(stdin))


def eval_frame(code, timeout_ms=0):
    return frame(EVAL, blob(code) + u32(timeout_ms))


def warm_frame(modules=(), code="", timeout_ms=0):
    return frame(WARM, strings(modules) + blob(code) + u32(timeout_ms))


def identity_frame(hostname="fork-1", id="sb_1", token=b"secret", entropy=b"e" * 64, realtime_ns=1, env=()):
    return frame(IDENTITY, blob(entropy) + struct.pack("<Q", realtime_ns) + blob(hostname) + blob(id) + blob(token) +
                 strings(env))


def ready_frame(command, timeout_ms=0):
    return frame(RUN_READY, blob(command) + u32(timeout_ms))


class Fields:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), "short message"
        self.at += n
        return self.data[self.at - n:self.at]

    def u8(self):
        return self.take(1)[0]

    def i32(self):
        return struct.unpack("<i", self.take(4))[0]

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def blob(self):
        return self.take(self.u32())

    def str(self):
        return self.blob().decode()

    def end(self):
        assert self.at == len(self.data), "bytes left over"


class Answer:
    """What came: STDOUT and STDERR joined, and the last frame with its fields."""

    def __init__(self):
        self.kind, self.stdout, self.stderr = None, bytearray(), bytearray()

    def take(self, kind, body):
        if kind == STDOUT:
            self.stdout += body
            return
        if kind == STDERR:
            self.stderr += body
            return
        assert self.kind is None, "two last frames"
        self.kind, f = kind, Fields(body)
        if kind == PONG:
            self.version, self.pid, self.lang, self.ready = f.str(), f.u32(), f.str(), f.u8()
            self.numpy, self.hostname, self.uptime = f.str(), f.str(), f.u64()
        elif kind == EXIT:
            self.how, self.code, self.reason = f.u8(), f.i32(), f.str()
            self.stdout_cut, self.stdout_total, self.stderr_cut, self.stderr_total = f.u8(), f.u64(), f.u8(), f.u64()
        elif kind == EVALUATED:
            has, result = f.u8(), f.str()
            self.result = result if has else None
            has, error = f.u8(), f.str()
            self.error = error if has else None
            self.stdout, self.stderr, self.code = f.blob(), f.blob(), f.i32()
            self.result_cut, self.error_cut, self.stdout_cut, self.stderr_cut, self.timed_out = f.take(5)
        elif kind in (WARMED, IDENTIFIED):
            self.ok, self.error = f.u8(), f.str()
        elif kind == REFUSED:
            self.why, self.reason = f.u8(), f.str()
        f.end()


class Conn:
    """A connection to a Unix socket, or to (cid, port) over vsock."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX if isinstance(path, str) else socket.AF_VSOCK)
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.data = bytearray()

    def send(self, data):
        self.sock.sendall(data)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def frame(self):
        """The next frame as (type, body), or None at the end."""
        while True:
            if len(self.data) >= 4:
                size = 4 + struct.unpack("<I", self.data[:4])[0]
                assert 6 <= size <= FRAME_MAX + 4
                if len(self.data) >= size:
                    whole = bytes(self.data[:size])
                    del self.data[:size]
                    assert whole[4] == VERSION
                    return whole[5], whole[6:]
            piece = self.sock.recv(1 << 16)
            if not piece:
                assert not self.data, "half a frame"
                return None
            self.data += piece

    def answer(self):
        answer = Answer()
        while (f := self.frame()) is not None:
            answer.take(*f)
        answer.stdout, answer.stderr = bytes(answer.stdout), bytes(answer.stderr)
        return answer

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Agent:
    """A running agent below a test root of its own."""

    def __init__(self, program, *args, env=None):
        self.dir = tempfile.TemporaryDirectory(prefix="forkd-agent-")
        self.root = os.path.join(self.dir.name, "root")
        for sub in ("run", "etc/forkd/fork.d"):
            os.makedirs(os.path.join(self.root, sub))
        self.path = os.path.join(self.dir.name, "sock")
        listen = "unix:" + self.path
        if OVER_VSOCK:
            self.path = (VMADDR_CID_LOCAL, random.SystemRandom().randrange(20000, 1 << 30))
            listen = "vsock:%d" % self.path[1]
        self.process = subprocess.Popen([program, "--listen", listen, "--test-root", self.root, *args],
                                        env=env, stdin=subprocess.DEVNULL)
        wait_until(lambda: self.process.poll() is not None or self.listens(), "the agent listens")
        assert self.process.poll() is None, "the agent ended at once"

    def listens(self):
        with contextlib.suppress(OSError):
            with Conn(self.path):
                return True
        return False

    def ask(self, data):
        with Conn(self.path) as conn:
            conn.send(data)
            return conn.answer()

    def run(self, *argv, **options):
        return self.ask(exec_frame(argv, **options))

    def sh(self, text, **options):
        return self.run("sh", "-c", text, **options)

    def eval(self, code, timeout_ms=0):
        return self.ask(eval_frame(code, timeout_ms))

    def file(self, path):
        with open(os.path.join(self.root, path), "rb") as f:
            return f.read()

    def hook(self, name, text, mode=0o755):
        path = os.path.join(self.root, "etc/forkd/fork.d", name)
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)

    def close(self):
        """Ends it, and returns how it ended."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.dir.cleanup()


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain until " + what
        select.select([], [], [], 0.01)


def open_gate(path):
    """Opens a fifo for writing, as a file, once somebody reads it."""
    fds = []

    def opened():
        with contextlib.suppress(OSError):
            fds.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return bool(fds)

    wait_until(opened, "%s is read" % path)
    return os.fdopen(fds[0], "w")


def is_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Case(unittest.TestCase):
    """A test case with an agent of its own class; `program` is set by main()."""

    program = None
    agent_args = ()
    agent_env = None

    @classmethod
    def setUpClass(cls):
        cls.agent = Agent(Case.program, "--python", sys.executable, *cls.agent_args, env=cls.agent_env)

    @classmethod
    def tearDownClass(cls):
        assert cls.agent.close() == 0, "the agent did not end well"

    def assert_alive(self):
        self.assertEqual(self.agent.ask(frame(PING)).kind, PONG)


class Tap(unittest.TestResult):
    """Test Anything Protocol on stdout as the tests run, tracebacks on stderr."""

    def line(self, word, test, more=""):
        name = getattr(test, "_testMethodName", None) or str(test)
        print("%s %d - %s%s" % (word, self.testsRun or 1, name.removeprefix("test_").replace("_", " "), more), flush=True)

    def addSuccess(self, test):
        self.line("ok", test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.line("ok", test, " # SKIP " + reason)

    def failed(self, test, error):
        self.line("not ok", test)
        traceback.print_exception(*error)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.failed(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self.failed(test, error)


def main():
    """Runs the tests of the calling file: FILE AGENT [MORE THE FILE TAKES] [TEST...]."""
    Case.program = os.path.abspath(sys.argv.pop(1))
    loader, module = unittest.TestLoader(), sys.modules["__main__"]
    tests = loader.loadTestsFromNames(sys.argv[1:], module) if sys.argv[1:] else loader.loadTestsFromModule(module)
    result = tests.run(Tap())
    print("1..%d" % result.testsRun)
    sys.exit(not result.wasSuccessful())
