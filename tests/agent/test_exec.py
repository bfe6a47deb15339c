"""EXEC: what a command gets, how its output comes back, and how it ends."""
import os
import signal

from agentlib import *


class Given(Case):
    """Arguments, environment, directory, input."""

    def test_arguments_arrive_as_they_are(self):
        args = ["", "a b", "$HOME", "ü\n", "*", "-n"]
        a = self.agent.run("printf", "%s\\0", *args)
        self.assertEqual(a.stdout.decode().split("\0")[:-1], args)

    def test_environment_is_added_and_replaces(self):
        a = self.agent.sh("echo $A:$HOME:$LANG:$PATH", env=["A=1", "HOME=/x", "noequals", "=y"])
        first, home, lang, path = a.stdout.decode().strip().split(":", 3)
        self.assertEqual((first, home), ("1", "/x"))
        self.assertTrue(lang and path)

    def test_the_program_is_found_in_the_path_it_is_given(self):
        with tempfile.TemporaryDirectory() as d:
            with open(d + "/hello-there", "w") as f:
                f.write("#!/bin/sh\necho found")
            os.chmod(d + "/hello-there", 0o755)
            self.assertEqual(self.agent.run("hello-there").code, 127)
            self.assertEqual(self.agent.run("hello-there", env=["PATH=/nonesuch:" + d]).stdout, b"found\n")
            self.assertEqual(self.agent.run("./hello-there", cwd=d).stdout, b"found\n")

    def test_a_command_runs_in_the_directory_asked_for(self):
        self.assertEqual(self.agent.run("pwd").stdout, b"/\n")
        self.assertEqual(self.agent.run("pwd", cwd="/usr").stdout, b"/usr\n")
        a = self.agent.run("pwd", cwd="/nonesuch")
        self.assertEqual((a.how, a.code), (CANNOT_START, 126))
        self.assertIn("/nonesuch", a.reason)

    def test_input_from_the_request(self):
        self.assertEqual(self.agent.run("cat", stdin=b"in\0put").stdout, b"in\0put")
        self.assertEqual(self.agent.run("cat").stdout, b"")

    def test_input_in_frames_until_an_empty_one(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["cat"], stdin=b"a", stream=True))
            self.assertEqual(c.frame(), (STDOUT, b"a"))
            c.send(frame(STDIN, b"b"))
            self.assertEqual(c.frame(), (STDOUT, b"b"))
            c.send(frame(STDIN))
            self.assertEqual(c.answer().code, 0)

    def test_input_ends_when_the_client_half_closes(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["wc", "-c"], stream=True) + frame(STDIN, b"four"))
            c.half_close()
            self.assertEqual(c.answer().stdout.strip(), b"4")

    def test_much_input_waits_for_its_reader(self):
        piece, count = b"x" * 500000, 20
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", "echo up; wc -c"], stream=True))
            self.assertEqual(c.frame(), (STDOUT, b"up\n"))
            for _ in range(count):
                c.send(frame(STDIN, piece))
            c.send(frame(STDIN))
            self.assertEqual(c.answer().stdout.strip(), b"%d" % (len(piece) * count))

    def test_input_nobody_reads_is_no_error(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["true"], stdin=bytes(900000)))
            self.assertEqual(c.answer().code, 0)

    def test_nothing_of_the_agent_is_inherited(self):
        a = self.agent.run(sys.executable, "-c",
                           "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1]);"
                           "print(open('/proc/self/status').read().split('SigBlk:')[1].split()[0])")
        fds, blocked = a.stdout.decode().splitlines()
        self.assertEqual(fds, "[0, 1, 2]")
        self.assertEqual(int(blocked, 16), 0)
        # 32 and 33 are the C library's own: it does not let them be reset
        a = self.agent.sh("grep SigIgn /proc/self/status")
        self.assertEqual(int(a.stdout.split()[1], 16) & 0x7FFFFFFF, 0)


class Ended(Case):
    """How it ended, and what is said about it."""

    def test_streams_are_apart_and_the_code_is_its_own(self):
        a = self.agent.sh("echo out; echo err >&2; exit 7")
        self.assertEqual((a.how, a.code, a.stdout, a.stderr, a.reason), (EXITED, 7, b"out\n", b"err\n", ""))
        self.assertEqual((a.stdout_total, a.stderr_total, a.stdout_cut, a.stderr_cut), (4, 4, 0, 0))

    def test_a_signal_is_minus_its_number(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
            a = self.agent.sh("kill -%d $$" % number)
            self.assertEqual((a.how, a.code), (SIGNALLED, -number))
            self.assertIn(str(int(number)), a.reason)

    def test_what_is_not_found_is_127_with_the_reason_on_stderr(self):
        for name in ("no-such-program", "/no/such/program", ""):
            a = self.agent.run(name)
            self.assertEqual((a.how, a.code), (NOT_FOUND, 127))
            self.assertIn(name.encode(), a.stderr)
            self.assertTrue(a.reason)

    def test_what_cannot_be_run_is_126_with_the_reason(self):
        for name in ("/etc/passwd", "/usr"):
            a = self.agent.run(name)
            self.assertEqual((a.how, a.code), (CANNOT_START, 126))
            self.assertIn(b"Permission denied", a.stderr)
        a = self.agent.run("true", *(["x" * 1000] * 900), env=["A=" + "y" * 100000])
        self.assertIn(a.code, (0, 126))

    def test_nothing_stays_behind_as_a_zombie(self):
        for _ in range(5):
            self.agent.sh("(sleep 0 &) & exit 0")

        def zombies():
            found = 0
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open("/proc/%s/stat" % pid) as f:
                        state, parent = f.read().rpartition(")")[2].split()[:2]
                    found += state == "Z" and int(parent) == self.agent.process.pid
                except OSError:
                    pass
            return found

        wait_until(lambda: zombies() == 0, "all children are reaped")


class Output(Case):
    def test_all_of_a_large_output_comes(self):
        a = self.agent.run("head", "-c", "20000000", "/dev/zero", limit=1 << 30)
        self.assertEqual((len(a.stdout), a.stdout_cut), (20000000, 0))

    def test_output_past_the_limit_is_dropped_counted_and_told(self):
        a = self.agent.sh("head -c 100000 /dev/zero; printf abc >&2", limit=1000)
        self.assertEqual((len(a.stdout), a.stdout_total, a.stdout_cut), (1000, 100000, 1))
        self.assertEqual((a.stderr, a.stderr_total, a.stderr_cut), (b"abc", 3, 0))

    def test_a_limit_that_is_just_met_cuts_nothing(self):
        a = self.agent.sh("printf abc", limit=3)
        self.assertEqual((a.stdout, a.stdout_cut), (b"abc", 0))

    def test_no_output_may_be_wanted(self):
        a = self.agent.sh("echo hi", limit=0)
        self.assertEqual((a.stdout, a.stdout_total, a.stdout_cut), (b"", 3, 1))

    def test_it_comes_while_the_command_runs(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", "echo one; read x; echo two"], stream=True))
            self.assertEqual(c.frame(), (STDOUT, b"one\n"))
            c.send(frame(STDIN, b"\n"))
            self.assertEqual(c.frame(), (STDOUT, b"two\n"))


class Places(Case):
    """Commands that say something through files."""

    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.addCleanup(self.tmp.cleanup)

    def path(self, name):
        return os.path.join(self.tmp.name, name)

    def pid_in(self, name):
        def there():
            with contextlib.suppress(OSError, ValueError):
                with open(self.path(name)) as f:
                    self.found = int(f.read())
                    return True
        wait_until(there, "a process has said its pid")
        return self.found

    def fifo(self, name):
        os.mkfifo(self.path(name))
        return self.path(name)

    def open_fifo(self, path):
        """Writes a line once there is a reader."""
        with open_gate(path) as f:
            f.write("go\n")


class LeftBehind(Places):
    """Children in the background, and clients that go away."""

    def test_a_child_that_holds_the_pipes_holds_up_nothing(self):
        a = self.agent.sh("sleep 1000 & echo $!")
        self.assertEqual(a.code, 0)
        os.kill(int(a.stdout), signal.SIGKILL)

    def test_a_child_that_goes_on_writing_is_neither_waited_for_nor_killed(self):
        gate = self.fifo("gate")
        a = self.agent.sh("{ read x < %s; echo late; echo late >&2; touch %s; } & echo now" % (gate, self.path("done")))
        self.assertEqual((a.stdout, a.stderr), (b"now\n", b""))
        self.open_fifo(gate)
        wait_until(lambda: os.path.exists(self.path("done")), "it has written and gone on")

    def test_a_child_that_writes_without_end_is_not_read_to_its_end(self):
        a = self.agent.sh("yes & echo $!", limit=1 << 30)
        self.assertEqual(a.code, 0)
        pid = int(next(line for line in a.stdout.split() if line != b"y"))
        self.assertTrue(is_alive(pid))
        os.kill(pid, signal.SIGKILL)

    def test_a_command_goes_on_when_its_client_hangs_up(self):
        gate = self.fifo("gate")
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", "echo up; read x < %s; head -c 3000000 /dev/zero; touch %s" %
                               (gate, self.path("done"))]))
            self.assertEqual(c.frame(), (STDOUT, b"up\n"))
        self.open_fifo(gate)
        wait_until(lambda: os.path.exists(self.path("done")), "the command has gone on to its end")

    def test_a_command_held_up_by_its_client_goes_on_when_that_hangs_up(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", "head -c 9000000 /dev/zero; touch %s" % self.path("done")], limit=1 << 30))
            c.frame()
            self.assertFalse(os.path.exists(self.path("done")))
        wait_until(lambda: os.path.exists(self.path("done")), "the command has gone on to its end")

    def test_the_time_limit_holds_after_a_hang_up(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", "echo $$ > %s; sleep 1000" % self.path("pid")], timeout_ms=3000))
            pid = self.pid_in("pid")
        wait_until(lambda: not is_alive(pid), "it is killed")


class OverTime(Places):
    def test_what_it_printed_till_then_comes_with_124(self):
        a = self.agent.sh("echo before; echo too >&2; sleep 1000", timeout_ms=2000)
        self.assertEqual((a.how, a.code, a.stdout, a.stderr), (TIMED_OUT, 124, b"before\n", b"too\n"))
        self.assertIn("time limit", a.reason)

    def test_a_command_that_is_quick_enough_is_not_touched(self):
        a = self.agent.sh("exit 3", timeout_ms=60000)
        self.assertEqual((a.how, a.code), (EXITED, 3))

    def test_a_command_that_ignores_signals_is_killed_all_the_same(self):
        a = self.agent.sh("trap '' TERM INT HUP; echo up; while :; do sleep 1; done", timeout_ms=2000)
        self.assertEqual((a.how, a.stdout), (TIMED_OUT, b"up\n"))

    def killed(self, shell):
        """Runs a command that outlives its time; the process it names must be gone with it."""
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["sh", "-c", shell.replace("PID", self.path("pid"))], timeout_ms=3000))
            pid = self.pid_in("pid")
            self.assertTrue(is_alive(pid))
            self.assertEqual(c.answer().code, 124)
        wait_until(lambda: not is_alive(pid), "the process is killed")

    def test_children_are_killed(self):
        self.killed("sleep 1000 & echo $! > PID; wait")

    def test_children_in_a_process_group_of_their_own_are_killed(self):
        self.killed("set -m; sleep 1000 & echo $! > PID; wait")

    def test_children_in_a_session_of_their_own_are_killed(self):
        self.killed("setsid sh -c 'echo $$ > PID; exec sleep 1000' & sleep 1000")

    def test_orphans_in_a_session_of_their_own_are_killed(self):
        self.killed("(setsid sh -c 'echo $$ > PID; exec sleep 1000' &) ; sleep 1000")

    def test_others_are_left_alone(self):
        with Conn(self.agent.path) as c:
            c.send(exec_frame(["cat"], stream=True))
            self.assertEqual(self.agent.run("sleep", "1000", timeout_ms=200).code, 124)
            c.send(frame(STDIN, b"still here"))
            self.assertEqual(c.frame(), (STDOUT, b"still here"))


if __name__ == "__main__":
    main()
