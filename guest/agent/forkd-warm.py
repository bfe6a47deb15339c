"""forkd-warm: the warm interpreter of a sandbox. Started by forkd-agent, which see (warm.h).

Descriptor 3 carries requests and answers as frames (proto/agent.h), 4 the identity of a fork, one message each.
What is printed goes through the agent's pipes at 1 and 2. Names live in __main__ from one request to the next.

As little as possible is imported: a start should be quick, and what a sandbox's code imports is its own affair.
"""
import sys
import os
import _ast
import _signal

WORK, CONTROL = 3, 4
RESEED_SIGNAL = 60
VERSION = 1
EVAL, WARM, IDENTITY, SETTLE = 0x03, 0x04, 0x05, 0x06
PONG, EVALUATED, WARMED, IDENTIFIED, SETTLED = 0x81, 0x83, 0x84, 0x85, 0x86
TEXT_MAX = 192 << 10
REASON_MAX = 8 << 10
SOURCES_MAX = 64

PID = os.getpid()
armed = False  # whether an interrupt means the code that runs now
sources = {}  # file name -> code of the last evaluations, for tracebacks
told = None


def u32(n):
    return (n & 0xFFFFFFFF).to_bytes(4, "little")


def blob(data):
    return u32(len(data)) + data


def frame(kind, body=b""):
    return u32(len(body) + 2) + bytes((VERSION, kind)) + body


def text(s, most):
    """UTF-8 without zero bytes, and whether it was cut."""
    data = s.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")
    if len(data) <= most:
        return data, False
    return data[:most].decode("utf-8", "ignore").encode(), True


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, n):
        if self.at + n > len(self.data):
            raise ValueError("short frame")
        self.at += n
        return self.data[self.at - n:self.at]

    def u32(self):
        return int.from_bytes(self.bytes(4), "little")

    def blob(self):
        return self.bytes(self.u32())

    def str(self):
        return self.blob().decode("utf-8", "surrogateescape")

    def list(self):
        return [self.str() for _ in range(self.u32())]


def read_all(n):
    data = b""
    while len(data) < n:
        piece = os.read(WORK, n - len(data))
        if not piece:
            os._exit(0)  # the agent is gone
        data += piece
    return data


def write_all(data):
    view = memoryview(data)
    while view:
        view = view[os.write(WORK, view):]


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    if fflush:
        try:
            _ctypes.call_function(fflush, (None,))
        except Exception:
            pass


def tell():
    """A PONG when what a ping says about this interpreter has changed."""
    global told
    numpy = getattr(sys.modules.get("numpy"), "__version__", "")
    numpy = numpy.encode("ascii", "replace")[:63] if isinstance(numpy, str) else b""
    if numpy != told:
        told = numpy
        version = "%d.%d.%d" % sys.version_info[:3]
        write_all(frame(PONG, blob(version.encode()) + u32(PID) + blob(b"python") + b"\0" + blob(numpy) + blob(b"") +
                        bytes(8)))


def traceback_of(error):
    """As the interpreter would print it, without the frames of this file."""
    import linecache
    import traceback
    for name, code in sources.items():
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    whole = traceback.TracebackException.from_exception(error)
    rest = [whole]
    while rest:
        t = rest.pop()
        t.stack = traceback.StackSummary.from_list(f for f in t.stack if f.filename != __file__)
        rest += [c for c in (t.__cause__, t.__context__, *(getattr(t, "exceptions", None) or ())) if c]
    return "".join(whole.format())


def run(code, name):
    """Runs code in __main__. Returns (whether it ends with an expression, the value of that)."""
    if len(sources) >= SOURCES_MAX:
        del sources[next(iter(sources))]
    sources[name] = code
    space = main.__dict__
    tree = compile(code, name, "exec", 0x400, True)  # 0x400: PyCF_ONLY_AST
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
    exec(compile(tree, name, "exec", 0, True), space)
    if last is None:
        return False, None
    return True, eval(compile(_ast.Expression(last.value), name, "eval", 0, True), space)


def exit_status(code):
    """As the interpreter would end: a code that is no number is said on stderr."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    try:
        print(code, file=sys.stderr)
    except Exception:
        pass
    return 1


def guarded(work):
    """Calls work() with interrupts meant for it. Returns (value, error text or None, exit code)."""
    global armed
    value, error, status = None, None, 0
    handle_signals()  # the code before may have taken them
    try:
        try:
            armed = True
            value = work()
        finally:
            armed = False
    except SystemExit as e:
        armed = False
        status = exit_status(e.code)
        error = "SystemExit: %s" % (e.code,) if status else None
    except BaseException as e:
        armed, status = False, 1
        try:
            error = traceback_of(e)
        except BaseException as again:
            error = "%s (and its traceback cannot be made: %s)" % (type(e).__name__, type(again).__name__)
    if os.getpid() != PID:
        flush()
        os._exit(0)  # a child that the code has forked and let run on: the answer is its parent's
    return value, error, status


count = 0


def evaluate(code):
    global count
    count += 1
    name = "<eval %d>" % count

    def work():
        has, value = run(code, name)
        return repr(value) if has else None

    result, error, status = guarded(work)
    flush()
    r, r_cut = text(result or "", TEXT_MAX)
    e, e_cut = text(error or "", TEXT_MAX)
    tell()
    write_all(frame(EVALUATED, bytes((result is not None,)) + blob(r) + bytes((error is not None,)) + blob(e) +
                    blob(b"") + blob(b"") + u32(status) + bytes((r_cut, e_cut, 0, 0, 0))))


def warm(modules, code):
    def work():
        for module in modules:
            __import__(module)
            top = module.partition(".")[0]
            main.__dict__[top] = sys.modules[top]
        run(code, "<warm>")

    _, error, status = guarded(work)
    flush()
    e = text((error or "")[-REASON_MAX // 4:], REASON_MAX)[0]  # the end of a traceback says most
    tell()
    write_all(frame(WARMED, bytes((not e,)) + blob(e)))


def settle():
    """Before the machine becomes a template: what a fork would write or fetch for nothing is done with now."""
    import gc
    import linecache  # noqa: F401: the first error of a fork is as quick as the second
    import traceback  # noqa: F401
    gc.collect()
    gc.freeze()  # later collections do not write to what is there now, so that forks go on sharing it
    if malloc_trim:
        _ctypes.call_function(malloc_trim, (0,))
    write_all(frame(SETTLED))


def reseed(entropy):
    """Two forks of one interpreter would go on with equal states; what is not loaded draws afresh when it is."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "_ssl" in modules:
        modules["_ssl"].RAND_add(entropy + os.urandom(64), 0.0)
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "torch" in modules:
        modules["torch"].seed()
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None


def identify(signum, stack):
    """Takes the identities that wait on the control socket, between two bytecodes of whatever runs."""
    global armed
    saved, armed = armed, False
    try:
        while True:
            try:
                message = os.read(CONTROL, 64 << 10)
            except BlockingIOError:
                return
            if not message:
                return
            error = ""
            try:
                r = Reader(message[6:])
                entropy = r.blob()
                r.bytes(8), r.str(), r.str(), r.blob()
                for item in r.list():
                    name, _, value = item.partition("=")
                    if name:
                        os.environ[name] = value
                reseed(entropy)
            except BaseException as e:
                error = "%s: %s" % (type(e).__name__, e)
            e = text(error, 300)[0]
            os.write(CONTROL, frame(IDENTIFIED, bytes((not e,)) + blob(e)))
    finally:
        armed = saved


def interrupt(signum, stack):
    if armed:
        raise KeyboardInterrupt


def handle_signals():
    _signal.signal(_signal.SIGINT, interrupt)
    _signal.signal(RESEED_SIGNAL, identify)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT, RESEED_SIGNAL))


def serve():
    tell()
    while True:
        head = read_all(6)
        body = Reader(read_all(int.from_bytes(head[:4], "little") - 2))
        if head[5] == EVAL:
            evaluate(body.str())
        elif head[5] == WARM:
            warm(body.list(), body.str())
        elif head[5] == SETTLE:
            settle()


try:
    import _ctypes
    libc = _ctypes.dlopen(None, 0)
    fflush = _ctypes.dlsym(libc, "fflush")
    try:
        malloc_trim = _ctypes.dlsym(libc, "malloc_trim")
    except OSError:
        malloc_trim = None
except Exception:
    fflush = malloc_trim = None

for fd in (WORK, CONTROL):
    os.set_inheritable(fd, False)
os.set_blocking(CONTROL, False)
for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=False)
main = type(sys)("__main__")
main.__dict__["__builtins__"] = __builtins__
sys.modules["__main__"] = main
sys.path[0] = ""
sys.argv = [""]
handle_signals()
serve()
