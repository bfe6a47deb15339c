"""IDENTITY: what a fork is given before anybody gets it, and what of its parent it must not keep.

Usage: test_identity.py AGENT SAME_PID_LIBRARY
"""
import json
import os
import stat
import time
import unittest

from agentlib import *

SAME_PID = os.path.abspath(sys.argv.pop(2))


class Steps(Case):
    def setUp(self):
        for name in os.listdir(self.hooks()):
            os.unlink(os.path.join(self.hooks(), name))
        if os.path.exists(self.path("effects")):
            os.unlink(self.path("effects"))

    def path(self, name):
        return os.path.join(self.agent.root, name)

    def hooks(self):
        return self.path("etc/forkd/fork.d")

    def identify(self, **options):
        a = self.agent.ask(identity_frame(**options))
        self.assertEqual(a.kind, IDENTIFIED)
        return a

    def test_kernel_clock_and_name_in_this_order(self):
        a = self.identify(hostname="fork-7", entropy=b"x" * 256, realtime_ns=1234567890123456789)
        self.assertEqual((a.ok, a.error), (1, ""))
        self.assertEqual(self.agent.file("effects"), b"entropy 256\nclock 1234567890123456789\nhostname fork-7\n")
        self.assertEqual(self.agent.file("etc/hostname"), b"fork-7\n")

    def test_the_new_name_takes_the_olds_place_in_hosts(self):
        for name, text in (("hostname", "forkd\n"), ("hosts", "127.0.0.1\tlocalhost forkdx\n127.0.1.1  forkd\n# forkd.\n")):
            with open(self.path("etc/" + name), "w") as f:
                f.write(text)
        self.identify(hostname="one")
        self.assertEqual(self.agent.file("etc/hosts"), b"127.0.0.1\tlocalhost forkdx\n127.0.1.1  one\n# forkd.\n")
        self.identify(hostname="a-longer-name")
        self.assertIn(b"127.0.1.1  a-longer-name\n", self.agent.file("etc/hosts"))
        os.unlink(self.path("etc/hosts"))

    def test_no_time_leaves_the_clock_alone(self):
        self.identify(realtime_ns=0)
        self.assertNotIn(b"clock", self.agent.file("effects"))

    def test_id_and_token_are_in_files_the_token_for_root_alone(self):
        self.identify(id="sb_A-1", token=b"to\0ken")
        self.assertEqual(self.agent.file("run/forkd/id"), b"sb_A-1")
        self.assertEqual(self.agent.file("run/forkd/token"), b"to\0ken")
        self.assertEqual(stat.S_IMODE(os.stat(self.path("run/forkd/token")).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("run/forkd/id")).st_mode), 0o644)
        # A fork of a fork gets another, and nothing of the first is left.
        self.identify(id="sb_B", token=b"x")
        self.assertEqual((self.agent.file("run/forkd/id"), self.agent.file("run/forkd/token")), (b"sb_B", b"x"))
        self.assertEqual(sorted(os.listdir(self.path("run/forkd"))), ["id", "token"])

    def test_a_link_in_place_of_the_token_is_not_followed(self):
        self.identify()
        os.unlink(self.path("run/forkd/token"))
        os.symlink(self.path("elsewhere"), self.path("run/forkd/token"))
        os.symlink(self.path("elsewhere"), self.path("run/forkd/token.new"))
        self.assertEqual(self.identify().ok, 1)
        self.assertFalse(os.path.exists(self.path("elsewhere")))
        self.assertFalse(os.path.islink(self.path("run/forkd/token")))

    def test_names_that_are_none_are_refused_before_anything_is_done(self):
        for bad in (dict(hostname="a b"), dict(hostname="a\n"), dict(hostname="ä"), dict(id="../x"), dict(id="a/b"),
                    dict(id="a.b")):
            a = self.identify(**bad)
            self.assertEqual(a.ok, 0)
            self.assertIn("not allowed", a.error)
        self.assertFalse(os.path.exists(self.path("effects")))

    def test_its_environment_is_that_of_all_that_is_started_later(self):
        self.agent.eval("1")
        self.identify(env=["FORK_PARAM=one two", "LANG=xx"])
        self.assertEqual(self.agent.sh("echo $FORK_PARAM:$LANG").stdout, b"one two:xx\n")
        self.assertEqual(self.agent.eval("import os; os.environ['FORK_PARAM']").result, "'one two'")
        self.identify(env=["FORK_PARAM=2"])
        self.assertEqual(self.agent.sh("echo $FORK_PARAM:$LANG").stdout, b"2:xx\n")

    def test_hooks_run_in_the_order_of_their_names_and_know_who_they_are(self):
        for name in ("20-second", "10-first", "9-third"):
            self.agent.hook(name, "#!/bin/sh\necho %s $FORKD_ID $FORKD_HOSTNAME $(cat $FORKD_TOKEN_FILE) >> %s\n" %
                            (name, self.path("log")))
        self.assertEqual(self.identify(hostname="h", id="i", token=b"t").ok, 1)
        self.assertEqual(self.agent.file("log").decode().splitlines(),
                         ["10-first i h t", "20-second i h t", "9-third i h t"])

    def test_what_is_no_hook_is_left_alone(self):
        touch = "#!/bin/sh\ntouch %s\n" % self.path("touched")
        self.agent.hook("10-not-executable", touch, 0o644)
        self.agent.hook("20-backup~", touch)
        self.agent.hook("30-old.dpkg-old", touch)
        self.agent.hook(".hidden", touch)
        os.mkdir(os.path.join(self.hooks(), "40-directory"))
        try:
            self.assertEqual(self.identify().ok, 1)
        finally:
            os.rmdir(os.path.join(self.hooks(), "40-directory"))
        self.assertFalse(os.path.exists(self.path("touched")))

    def test_a_hook_that_fails_fails_the_identity_with_its_last_words(self):
        self.agent.hook("10-good", "#!/bin/sh\necho fine >&2\n")
        self.agent.hook("20-bad", "#!/bin/sh\necho first >&2\necho no database >&2\necho >&2\nexit 3\n")
        self.agent.hook("30-never", "#!/bin/sh\ntouch %s\n" % self.path("touched"))
        a = self.identify()
        self.assertEqual(a.ok, 0)
        self.assertTrue(a.error.endswith("/20-bad failed with exit status 3: no database"), a.error)
        self.assertFalse(os.path.exists(self.path("touched")))

    def test_a_hook_that_cannot_start_or_is_killed_is_named(self):
        self.agent.hook("10-script", "#!/no/such/interpreter\n")
        self.assertIn("10-script cannot start", self.identify().error)
        self.agent.hook("10-script", "#!/bin/sh\nkill -9 $$\n")
        self.assertIn("10-script was killed by signal 9", self.identify().error)

    def test_a_hook_that_leaves_a_daemon_behind_is_not_waited_for(self):
        self.agent.hook("10-daemon", "#!/bin/sh\nsleep 1000 & echo $! > %s\n" % self.path("pid"))
        self.assertEqual(self.identify().ok, 1)
        os.kill(int(self.agent.file("pid")), 9)

    def test_it_is_acknowledged_when_the_hooks_are_done_and_one_at_a_time(self):
        os.mkfifo(self.path("gate"))
        self.agent.hook("10-slow", "#!/bin/sh\nread x < %s\n" % self.path("gate"))
        with Conn(self.agent.path) as c:
            c.send(identity_frame())
            with open_gate(self.path("gate")) as gate:
                a = self.agent.ask(identity_frame())
                self.assertEqual((a.kind, a.why), (REFUSED, BUSY))
                c.sock.settimeout(0.2)
                with self.assertRaises(TimeoutError):
                    c.frame()
                c.sock.settimeout(PATIENCE)
                gate.write("go\n")
            self.assertEqual(c.answer().ok, 1)
        os.unlink(self.path("gate"))

    def test_an_identity_nobody_waits_for_is_finished(self):
        self.agent.hook("10-last", "#!/bin/sh\ntouch %s\n" % self.path("finished"))
        with Conn(self.agent.path) as c:
            c.send(identity_frame(id="left"))
        wait_until(lambda: os.path.exists(self.path("finished")), "the hook has run")
        wait_until(lambda: self.agent.ask(identity_frame()).kind == IDENTIFIED, "the next one is taken on")


class Interpreter(Case):
    def test_it_reseeds_while_an_evaluation_runs(self):
        """The fork of a machine in the middle of an evaluation: it goes on, with other random numbers."""
        self.agent.eval("import random; random.seed(1); a = random.getstate()")
        with Conn(self.agent.path) as c:
            c.send(eval_frame("import random, time\nprint('up')\n"
                              "while random.getstate() == a: time.sleep(0.01)\n'reseeded'", 1000 * PATIENCE))
            wait_until(lambda: self.agent.ask(identity_frame()).ok, "it is told")
            self.assertEqual(c.answer().result, "'reseeded'")

    def test_it_reseeds_inside_a_blocking_call(self):
        self.agent.eval("import random; random.seed(1); a = random.getstate()")
        with Conn(self.agent.path) as c:
            c.send(eval_frame("import subprocess\nsubprocess.run(['sleep', '1'])\nrandom.getstate() != a"))
            began = time.monotonic()
            self.assertEqual(self.agent.ask(identity_frame()).ok, 1)
            self.assertEqual(c.answer().result, "True")
        self.assertLess(time.monotonic() - began, PATIENCE)

    def test_a_reseed_that_fails_fails_the_identity(self):
        self.agent.eval("import random\nkept = random.seed\n"
                        "def broken(*a): raise OSError('no dice')\nrandom.seed = broken")
        a = self.agent.ask(identity_frame())
        self.assertEqual(a.ok, 0)
        self.assertIn("no dice", a.error)
        self.agent.eval("random.seed = kept")
        self.assertEqual(self.agent.ask(identity_frame()).ok, 1)

    def test_an_interpreter_that_dies_meanwhile_is_no_obstacle(self):
        with Conn(self.agent.path) as c:
            c.send(eval_frame("import os, signal, time\nsignal.signal(60, lambda *a: os._exit(1))\n"
                              "open(%r, 'w').close()\ntime.sleep(1000)" % (self.agent.root + "/ready")))
            wait_until(lambda: os.path.exists(self.agent.root + "/ready"), "the code is that far")
            self.assertEqual(self.agent.ask(identity_frame()).ok, 1)
            self.assertEqual(c.answer().code, 1)

    def test_an_environment_too_large_for_it_fails_the_identity_in_words(self):
        self.agent.eval("1")
        a = self.agent.ask(identity_frame(env=["A=" + "x" * 100000]))
        self.assertEqual(a.ok, 0)
        self.assertIn("environment", a.error)


# Run in the warm interpreter: clones it twice as the fork of a machine does (no fork handler of Python's runs, the pid
# seems to stay, each clone has a control socket of its own at the old number), has each take an identity if asked, and
# returns what the two then draw.
CLONES = r"""
import ctypes, json, os, random, signal, socket, ssl, tempfile
import numpy
numpy.random.random()
random.random(), ssl.RAND_bytes(8), next(tempfile._get_candidate_names())
def draw():
    return {"random": random.random(), "ssl": ssl.RAND_bytes(8).hex(), "numpy": numpy.random.random(),
            "tempfile": next(tempfile._get_candidate_names()), "env": os.environ.get("WHO")}
def clones(identities):
    rows = []
    for identity in identities:
        r, w = os.pipe()
        if ctypes.CDLL(None).fork() == 0:
            try:
                if identity:
                    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    os.dup2(theirs.fileno(), 4)
                    os.set_blocking(4, False)
                    ours.send(identity)
                    signal.raise_signal(60)
                    ok = ours.recv(4096)
                    assert ok[5] == 0x85 and ok[6] == 1, ok
                os.write(w, json.dumps(draw()).encode())
            except BaseException as e:
                os.write(w, json.dumps({"error": repr(e)}).encode())
            os._exit(0)
        os.close(w)
        rows.append(json.loads(open(r).read()))
    return rows
import os; os.getpid()
"""

FAKE_NUMPY = """
__version__ = '9.8.7'
from . import random
"""
FAKE_NUMPY_RANDOM = """
import random as _random
_state = _random.Random(1)
def seed(): _state.seed()
def random(): return _state.random()
"""


class Clones(Case):
    """Two clones of one warm interpreter, with the real numpy where there is one."""

    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        python = os.path.join(cls.tmp.name, "python")
        with open(python, "w") as f:
            f.write("#!/bin/sh\nLD_PRELOAD='%s' exec '%s' \"$@\"\n" % (SAME_PID, sys.executable))
        os.chmod(python, 0o755)
        try:
            import numpy  # noqa: F401
        except ImportError:
            os.mkdir(cls.tmp.name + "/numpy")
            for name, text in (("__init__", FAKE_NUMPY), ("random", FAKE_NUMPY_RANDOM)):
                with open("%s/numpy/%s.py" % (cls.tmp.name, name), "w") as f:
                    f.write(text)
        cls.agent = Agent(Case.program, "--python", python, env=dict(os.environ, PYTHONPATH=cls.tmp.name))

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.tmp.cleanup()

    def clones(self, identities):
        a = self.agent.eval("json.dumps(clones(%r))" % (identities,))
        self.assertIsNone(a.error)
        rows = json.loads(a.result.strip("'"))
        self.assertNotIn("error", rows[0])
        return rows

    def test_what_clones_share_is_theirs_alone_after_an_identity(self):
        a = self.agent.eval(CLONES)
        self.assertIsNone(a.error)
        self.assertEqual(a.result, "4242", "the clones would notice by their pid")
        # Without an identity they draw the same: else this would show nothing.
        one, two = self.clones([None, None])
        self.assertEqual(one, two)
        one, two = self.clones([identity_frame(env=["WHO=1"]), identity_frame(env=["WHO=2"])])
        for source in one:
            self.assertNotEqual(one[source], two[source], source)


if __name__ == "__main__":
    main()
