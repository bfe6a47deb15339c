"""RUN_READY: readiness is waited for, not slept for."""
import os

from agentlib import *


class Ready(Case):
    def test_a_command_that_succeeds_at_once(self):
        a = self.agent.ask(ready_frame("true", 1000 * PATIENCE))
        self.assertEqual((a.kind, a.how, a.code), (EXIT, EXITED, 0))

    def test_it_is_run_until_it_succeeds(self):
        path = os.path.join(self.agent.root, "up")
        runs = os.path.join(self.agent.root, "runs")
        with Conn(self.agent.path) as c:
            c.send(ready_frame("echo >> %s; test -e %s" % (runs, path), 1000 * PATIENCE))
            wait_until(lambda: os.path.exists(runs) and os.path.getsize(runs) >= 3, "it was tried some times")
            open(path, "w").close()
            self.assertEqual(c.answer().code, 0)

    def test_over_time_says_what_the_last_run_said(self):
        a = self.agent.ask(ready_frame("echo starting >&2; echo no port yet >&2; exit 1", 2000))
        self.assertEqual((a.how, a.code), (TIMED_OUT, 124))
        self.assertIn("no port yet", a.reason)

    def test_a_run_that_hangs_is_killed_when_the_time_is_over(self):
        pid = os.path.join(self.agent.root, "pid")
        a = self.agent.ask(ready_frame("echo $$ > %s; exec sleep 1000" % pid, 2000))
        self.assertEqual(a.how, TIMED_OUT)
        wait_until(lambda: not is_alive(int(self.agent.file("pid"))), "it is killed")

    def test_nobody_waits_any_more(self):
        runs = os.path.join(self.agent.root, "abandoned")
        for command in ("echo $$ >> %s; exit 1", "echo $$ >> %s; exec sleep 1000"):
            with contextlib.suppress(OSError):
                os.unlink(runs)
            with Conn(self.agent.path) as c:
                c.send(ready_frame(command % runs))
                wait_until(lambda: os.path.exists(runs) and os.path.getsize(runs), "it was tried")
            wait_until(lambda: not is_alive(int(self.agent.file("abandoned").split()[-1])), "the run is over")
        self.assert_alive()


if __name__ == "__main__":
    main()
