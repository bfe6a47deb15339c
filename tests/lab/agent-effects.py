#!/usr/bin/env python3
# lab-test: agent-effects 120
"""What the agent does to the machine itself, for real: the lab's host is nobody's and is thrown away afterwards."""
import os
import pathlib
import socket
import stat
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/agent"))
from agentlib import *  # noqa: E402

NEW_YEAR_2030 = 1893456000


class Machine(Agent):
    """An agent without a test root."""

    def __init__(self, program):
        self.dir = tempfile.TemporaryDirectory()
        self.path = self.dir.name + "/sock"
        self.process = subprocess.Popen([program, "--listen", "unix:" + self.path], stdin=subprocess.DEVNULL)
        wait_until(lambda: self.process.poll() is not None or self.listens(), "the agent listens")


class Effects(unittest.TestCase):
    def setUp(self):
        self.agent = Machine(Case.program)
        self.addCleanup(self.agent.close)

    def identify(self, realtime_ns=0, **options):
        a = self.agent.ask(identity_frame(entropy=os.urandom(64), realtime_ns=realtime_ns, **options))
        self.assertEqual((a.kind, a.ok, a.error), (IDENTIFIED, 1, ""))

    def entropy_bits(self):
        return int(pathlib.Path("/proc/sys/kernel/random/entropy_avail").read_text())

    def test_clock_names_and_files(self):
        began = time.monotonic()
        self.identify(hostname="fork-9", id="sb_9", token=b"secret", realtime_ns=NEW_YEAR_2030 * 10**9)
        self.assertGreaterEqual(time.time(), NEW_YEAR_2030)
        self.assertLess(time.time() - NEW_YEAR_2030, time.monotonic() - began + 1)
        self.assertEqual(socket.gethostname(), "fork-9")
        self.assertEqual(pathlib.Path("/etc/hostname").read_text(), "fork-9\n")
        self.assertEqual(pathlib.Path("/run/forkd/id").read_text(), "sb_9")
        self.assertEqual(stat.S_IMODE(os.stat("/run/forkd/token").st_mode), 0o600)
        self.assertEqual(self.agent.ask(frame(PING)).hostname, "fork-9")
        self.assertEqual(self.agent.sh("date +%Y; uname -n").stdout, b"2030\nfork-9\n")

    def test_the_kernel_takes_the_entropy(self):
        """RNDADDENTROPY and RNDRESEEDCRNG are for root alone and refuse what is malformed: acknowledged is done."""
        self.identify()
        self.assertGreaterEqual(self.entropy_bits(), 256)

    def test_settling_is_answered(self):
        self.assertEqual(self.agent.ask(frame(SETTLE)).kind, SETTLED)


if __name__ == "__main__":
    sys.argv.insert(1, str(TOP / "build/guest/agent/forkd-agent"))
    main()
