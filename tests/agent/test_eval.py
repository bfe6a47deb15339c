"""EVAL, WARM and SETTLE: the interpreter that keeps its names."""
import os
import signal
import threading
import unittest

from agentlib import *


class Values(Case):
    def value(self, code):
        a = self.agent.eval(code)
        self.assertEqual((a.kind, a.error, a.code), (EVALUATED, None, 0), a.error)
        return a.result

    def test_an_expression_gives_its_repr(self):
        self.assertEqual(self.value("1 + 1"), "2")
        self.assertEqual(self.value("'a' + \"b\""), "'ab'")
        self.assertEqual(self.value("  [1,\n 2]".strip()), "[1, 2]")
        self.assertEqual(self.value("None"), "None")
        self.assertEqual(self.value("'ü\\udc80'"), "'ü\\udc80'")
        self.assertEqual(self.value("'a\\0b'"), "'a\\x00b'")

    def test_statements_have_no_value_unless_the_last_is_an_expression(self):
        self.assertIsNone(self.value("a = 5"))
        self.assertEqual(self.value("b = 6\na * b"), "30")
        self.assertIsNone(self.value("a * b\nc = 7"))
        self.assertIsNone(self.value(""))
        self.assertIsNone(self.value("# nothing"))
        self.assertEqual(self.value("x = 1; x"), "1")

    def test_names_stay_from_one_request_to_the_next(self):
        self.value("import math\ndef area(r):\n    return round(math.pi * r * r, 2)")
        self.assertEqual(self.value("area(2)"), "12.57")
        self.assertEqual(self.value("class C: pass\n__name__"), "'__main__'")
        self.assertEqual(self.value("import pickle\ntype(pickle.loads(pickle.dumps(C()))) is C"), "True")

    def test_a_result_beyond_the_limit_is_cut_and_told(self):
        a = self.agent.eval("'x' * 1000000")
        self.assertEqual((len(a.result), a.result_cut), (EVAL_TEXT_MAX, 1))
        a = self.agent.eval("'ü' * 1000000")
        self.assertEqual((a.result_cut, a.result[:3]), (1, "'üü"))

    def test_a_repr_that_misbehaves_is_the_codes_error(self):
        a = self.agent.eval("class R:\n    def __repr__(self): return 'a\\0b'\nR()")
        self.assertEqual(a.result, "a\\x00b")
        a = self.agent.eval("class R:\n    def __repr__(self): raise ValueError('no repr')\nR()")
        self.assertIn("ValueError: no repr", a.error)

    def test_what_the_interpreter_can_import_and_where_it_is(self):
        self.assertEqual(self.value("import sys, os; sys.path[0], sys.argv, os.getcwd()"), "('', [''], '/')")


class Errors(Case):
    def test_a_traceback_shows_the_codes_own_lines(self):
        self.agent.eval("def f(x):\n    return 1 / x")
        a = self.agent.eval("y = 0\nf(y)")
        self.assertEqual((a.result, a.code, a.timed_out), (None, 1, 0))
        self.assertTrue(a.error.startswith("Traceback (most recent call last):\n  File \"<eval "), a.error)
        self.assertIn("    f(y)\n", a.error)
        self.assertIn("    return 1 / x\n", a.error)
        self.assertTrue(a.error.endswith("ZeroDivisionError: division by zero\n"))
        self.assertNotIn("forkd-warm", a.error)

    def test_a_syntax_error_is_an_error_of_the_code(self):
        a = self.agent.eval("1 +")
        self.assertEqual((a.result, a.code), (None, 1))
        self.assertIn("SyntaxError", a.error)

    def test_exit_does_not_end_the_interpreter(self):
        self.agent.eval("kept = 1; import sys")
        for code, status, said in (("sys.exit()", 0, None), ("sys.exit(0)", 0, None), ("sys.exit(3)", 3, "SystemExit"),
                                   ("sys.exit('bye')", 1, "SystemExit"), ("raise SystemExit", 0, None)):
            a = self.agent.eval(code)
            self.assertEqual(a.code, status, code)
            self.assertEqual(a.error is None, said is None)
        self.assertEqual(self.agent.eval("sys.exit('bye')").stderr, b"bye\n")
        a = self.agent.eval("out, sys.stderr = sys.stderr, None\nsys.exit('bye')")
        self.assertEqual((a.code, self.agent.eval("sys.stderr = out").error), (1, None))
        self.assertEqual(self.agent.eval("kept").result, "1")

    def test_an_interrupt_of_the_codes_own_is_an_error_like_others(self):
        a = self.agent.eval("raise KeyboardInterrupt")
        self.assertEqual((a.code, a.timed_out), (1, 0))
        self.assertIn("KeyboardInterrupt", a.error)

    def test_recursion_without_end_is_an_error_of_the_code(self):
        a = self.agent.eval("def r(): r()\nr()")
        self.assertIn("RecursionError", a.error)

    def test_what_was_evaluated_does_not_leak_into_the_next_error(self):
        self.agent.eval("raise ValueError('first')")
        self.assertNotIn("first", self.agent.eval("raise ValueError('second')").error)


class Printed(Case):
    def test_what_is_printed_comes_back_apart(self):
        a = self.agent.eval("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1")
        self.assertEqual((a.stdout, a.stderr, a.result), (b"out\n", b"err\n", "1"))
        self.assertEqual(self.agent.eval("2").stdout, b"")

    def test_without_a_newline_too(self):
        self.assertEqual(self.agent.eval("print('no end', end='')").stdout, b"no end")

    def test_what_child_processes_print(self):
        a = self.agent.eval("import subprocess, os\nsubprocess.run(['sh', '-c', 'echo one; echo two >&2'])\n"
                            "os.system('echo three')")
        self.assertEqual((a.stdout, a.stderr), (b"one\nthree\n", b"two\n"))

    def test_what_c_code_prints_and_what_is_written_to_the_descriptor(self):
        a = self.agent.eval("import ctypes, os\nctypes.CDLL(None).printf(b'from C\\n')\nos.write(1, b'\\xff\\n')\nNone")
        self.assertEqual(sorted(a.stdout.splitlines()), sorted([b"from C", b"\xff"]))

    def test_beyond_the_limit_it_is_cut_and_told(self):
        a = self.agent.eval("print('x' * 1000000)")
        self.assertEqual((len(a.stdout), a.stdout_cut, a.stderr_cut), (EVAL_TEXT_MAX, 1, 0))
        self.assertEqual(self.agent.eval("print('next')").stdout, b"next\n")

    def test_with_an_error_it_comes_all_the_same(self):
        a = self.agent.eval("print('before')\n1/0")
        self.assertEqual(a.stdout, b"before\n")

    def test_what_a_background_process_prints_later_is_not_the_next_requests(self):
        a = self.agent.eval("import subprocess, os\nr, w = os.pipe()\n"
                            "p = subprocess.Popen(['sh', '-c', 'read x; echo late'], stdin=r)\n1")
        self.assertEqual((a.result, a.stdout), ("1", b""))
        # It is printed and over before the next request begins its own.
        self.agent.run("true")
        os.kill(int(self.agent.eval("os.write(w, b'\\n'); p.wait(); os.getpid()").result), 0)
        self.assertEqual(self.agent.eval("print('mine')").stdout, b"mine\n")

    def test_input_is_at_its_end(self):
        self.assertIn("EOFError", self.agent.eval("input()").error)


class OverTime(Case):
    def test_a_loop_is_interrupted_and_names_stay(self):
        self.agent.eval("kept = 1")
        for loop in ("while True: pass", "import time; time.sleep(1000)",
                     "import subprocess; subprocess.run(['sleep', '1000'])"):
            a = self.agent.eval("print('before')\n" + loop, 1000)
            self.assertEqual((a.code, a.timed_out, a.stdout), (124, 1, b"before\n"))
            self.assertIn("KeyboardInterrupt", a.error)
            self.assertNotIn("forkd-warm", a.error)
        self.assertEqual(self.agent.eval("kept").result, "1")

    def test_one_that_does_not_yield_is_killed_and_the_answer_says_so(self):
        a = self.agent.eval("gone = 1\nprint('before')\nimport signal\n"
                            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass", 1000)
        self.assertEqual((a.code, a.timed_out, a.stdout), (124, 1, b"before\n"))
        self.assertIn("was killed", a.error)
        self.assertIn("NameError", self.agent.eval("gone").error)

    def test_a_handler_that_code_leaves_behind_does_not_take_the_interrupt(self):
        self.agent.eval("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); kept = 1")
        self.assertIn("KeyboardInterrupt", self.agent.eval("while True: pass", 300).error)
        self.assertEqual(self.agent.eval("kept").result, "1")

    def test_one_that_is_quick_enough_is_not_interrupted(self):
        for _ in range(20):
            a = self.agent.eval("sum(range(1000))", 60000)
            self.assertEqual((a.result, a.timed_out), ("499500", 0))

    def test_limits_that_meet_the_end_leave_a_working_interpreter(self):
        """An interrupt that comes just as the code ends hits nothing else."""
        for i in range(40):
            self.agent.eval("import time; time.sleep(0.005)", 4 + i % 4)
            a = self.agent.eval("6 * 7")
            self.assertEqual((a.result, a.error), ("42", None))


class Ends(Case):
    """The interpreter dies, or says what it must not."""

    def test_an_exit_is_told_and_the_next_request_starts_a_new_one(self):
        a = self.agent.eval("print('last words')\nimport os; os._exit(5)")
        self.assertEqual((a.code, a.timed_out, a.stdout), (5, 0, b"last words\n"))
        self.assertIn("exit status 5", a.error)
        self.assertEqual(self.agent.eval("1").result, "1")

    def test_a_crash_is_told(self):
        a = self.agent.eval("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
        self.assertEqual(a.code, -signal.SIGSEGV)
        self.assertIn("signal 11", a.error)

    def test_a_forked_child_that_runs_on_does_not_answer(self):
        a = self.agent.eval("import os\npid = os.fork()\nprint('child' if pid == 0 else 'parent')\n"
                            "pid and os.waitpid(pid, 0)[1]")
        self.assertEqual(a.result, "0")
        self.assertEqual(sorted(a.stdout.split()), [b"child", b"parent"])
        self.assertEqual(self.agent.eval("1").result, "1")

    def test_code_that_writes_to_the_agents_socket(self):
        for junk in ("b'junk junk'", "bytes(2000000)", "(6).to_bytes(4, 'little') + bytes((1, 0x83)) + bytes(4)",
                     "(2).to_bytes(4, 'little') + bytes((1, 0x86))", "(2).to_bytes(4, 'little') + bytes((1, 0x81))"):
            a = self.agent.eval("import os, time; os.write(3, %s); time.sleep(1000)" % junk, 20000)
            self.assertTrue(a.error)
            self.assertEqual(self.agent.eval("1").result, "1")

    def test_code_that_closes_the_agents_sockets(self):
        a = self.agent.eval("import os, time; os.close(3); time.sleep(1000)", 20000)
        self.assertTrue(a.error)
        a = self.agent.eval("import os; os.close(4); os.close(1); 1")
        self.assertEqual(a.result, "1")
        self.agent.eval("os._exit(0)")
        self.assertEqual(self.agent.eval("1").result, "1")

    def test_a_client_that_hangs_up_leaves_the_interpreter_working(self):
        with Conn(self.agent.path) as c:
            c.send(eval_frame("import time; time.sleep(0.2); done = 1"))
        self.assertEqual(self.agent.eval("done").result, "1")


class Queue(Case):
    def test_requests_wait_for_their_turn(self):
        answers = {}

        def ask(i):
            answers[i] = self.agent.eval("import time; time.sleep(0.01); %d" % i).result

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(20)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(answers, {i: str(i) for i in range(20)})

    def test_more_than_can_wait_are_refused(self):
        gate = os.path.join(self.agent.dir.name, "gate")
        os.mkfifo(gate)
        conns = [Conn(self.agent.path) for _ in range(65)]
        conns[0].send(eval_frame("open(%r).read()" % gate))
        wait_until(lambda: self.agent.ask(frame(PING)).lang == "c+python", "the interpreter is up")
        with open_gate(gate):  # it is being read: the request is no longer waiting
            for c in conns[1:]:
                c.send(eval_frame("1"))
            a = self.agent.eval("1", 1)
            self.assertEqual((a.kind, a.why), (REFUSED, BUSY))
        for c in conns:
            with c:
                self.assertEqual(c.answer().kind, EVALUATED)


class Warm(Case):
    def test_warming_up_makes_ready_and_tells_numpys_version(self):
        self.assertEqual(self.agent.ask(frame(PING)).ready, 0)
        a = self.agent.ask(warm_frame(["json", "os.path", "numpy"], "seen = json.dumps([1])"))
        self.assertEqual((a.kind, a.ok, a.error), (WARMED, 1, ""))
        p = self.agent.ask(frame(PING))
        self.assertEqual((p.ready, p.lang, p.numpy), (1, "c+python", "9.8.7"))
        self.assertEqual(p.pid, int(self.agent.eval("import os; os.getpid()").result))
        self.assertEqual(self.agent.eval("seen, os.path.sep, numpy.__version__").result, "('[1]', '/', '9.8.7')")
        self.assertEqual(self.agent.ask(frame(SETTLE)).kind, SETTLED)
        self.assertEqual(self.agent.eval("import gc; gc.get_freeze_count() > 0").result, "True")
        # One that had to be started again is warmed up again.
        self.agent.eval("os._exit(1)")
        self.assertEqual(self.agent.eval("seen").result, "'[1]'")
        self.assertEqual(self.agent.ask(frame(PING)).ready, 1)

    @classmethod
    def setUpClass(cls):
        cls.modules = tempfile.TemporaryDirectory()
        os.mkdir(cls.modules.name + "/numpy")
        with open(cls.modules.name + "/numpy/__init__.py", "w") as f:
            f.write("__version__ = '9.8.7'\n")
        cls.agent_env = dict(os.environ, PYTHONPATH=cls.modules.name)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.modules.cleanup()


class WarmFails(Case):
    def test_what_cannot_be_repeated_is_given_up(self):
        """A warm-up that worked once and ends the interpreter when it is repeated."""
        agent = Agent(Case.program, "--python", sys.executable)
        self.addCleanup(agent.close)
        path = os.path.join(agent.root, "once")
        a = agent.ask(warm_frame([], "import os\nif os.path.exists(%r): os._exit(9)\nopen(%r, 'w').close()" %
                                 (path, path)))
        self.assertEqual(a.ok, 1)
        agent.eval("os._exit(1)")
        for _ in range(2):
            self.assertEqual(agent.eval("1").result, "1")
        self.assertEqual(agent.ask(frame(PING)).ready, 0)
        self.assertEqual(agent.ask(warm_frame(["json"])).ok, 1)
        agent.eval("import os; os._exit(1)")
        self.assertEqual(agent.eval("json.dumps(1)").result, "'1'")

    def test_a_module_that_is_not_there_is_named(self):
        a = self.agent.ask(warm_frame(["no_such_module"]))
        self.assertEqual(a.ok, 0)
        self.assertIn("No module named 'no_such_module'", a.error)
        self.assertEqual(self.agent.ask(frame(PING)).ready, 0)

    def test_a_long_traceback_keeps_its_end(self):
        a = self.agent.ask(warm_frame([], "raise ValueError('x' * 20000 + ' the reason')"))
        self.assertEqual(a.ok, 0)
        self.assertTrue(a.error.endswith("x the reason\n"))

    def test_code_that_fails_gives_its_traceback(self):
        a = self.agent.ask(warm_frame([], "x = 1\nraise ValueError('cold')"))
        self.assertEqual(a.ok, 0)
        self.assertIn("ValueError: cold", a.error)

    def test_code_over_its_time_is_told(self):
        a = self.agent.ask(warm_frame([], "while True: pass", 300))
        self.assertEqual(a.ok, 0)
        self.assertIn("time limit", a.error)

    def test_an_interpreter_that_dies_of_it(self):
        a = self.agent.ask(warm_frame([], "import os; os._exit(3)"))
        self.assertEqual(a.ok, 0)
        self.assertIn("exit status 3", a.error)

    def test_settling_needs_no_interpreter(self):
        agent = Agent(Case.program)
        self.assertEqual(agent.ask(frame(SETTLE)).kind, SETTLED)
        agent.close()


class NoPython(unittest.TestCase):
    def answers(self, *args):
        agent = Agent(Case.program, *args)
        try:
            a = agent.eval("1")
            self.assertTrue(a.error)
            w = agent.ask(warm_frame(["os"]))
            self.assertEqual(w.ok, 0)
            self.assertEqual(agent.ask(frame(PING)).lang, "c")
            return a, w
        finally:
            agent.close()

    def test_a_guest_without_python_says_so(self):
        a, w = self.answers("--python", "no-such-python")
        self.assertEqual((a.code, a.error), (127, "this guest has no python3"))
        self.assertEqual(w.error, a.error)

    def test_an_interpreter_that_does_not_come_up_gives_its_last_words(self):
        a, _ = self.answers("--python", sys.executable, "--helper", "/no/such/helper.py")
        self.assertIn("cannot start", a.error)
        self.assertIn("No such file", a.error)


if __name__ == "__main__":
    main()
