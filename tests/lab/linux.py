#!/usr/bin/env python3
# lab-test: linux 480
# lab-warm: tests/lab/warm.py
"""Forks of a Debian guest with a warm Python: they answer, each is itself, none sees another."""

import json
import time

from product import api, ApiError, case, controller, run, spawned


@case
def ten_children_answer_an_eval_each():
    with spawned("py", 10) as children:
        for i, child in enumerate(children):
            assert child.value(f"int(numpy.arange(1000).sum()) + {i}") == str(499500 + i)


@case
def the_warm_interpreter_is_the_one_of_the_template():
    with spawned("py", 2) as (a, b):
        assert a.value("'numpy' in __import__('sys').modules") == "True"
        assert a.value("__import__('os').getpid()") == b.value("__import__('os').getpid()")


@case
def a_fork_knows_its_name_the_time_and_numbers_of_its_own():
    questions = {
        "hostname": "__import__('socket').gethostname()",
        "random.random": "__import__('random').random()",
        "ssl.RAND_bytes": "__import__('ssl').RAND_bytes(16).hex()",
        "temporary name": "next(__import__('tempfile')._get_candidate_names())",
        "numpy global": "float(numpy.random.random())",
        "uuid4": "str(__import__('uuid').uuid4())",
        "secrets": "__import__('secrets').token_hex(16)",
        "kernel uuid": "open('/proc/sys/kernel/random/uuid').read()",
    }
    with spawned("py", 3) as children:
        for what, code in questions.items():
            answers = [child.value(code) for child in children]
            assert len(set(answers)) == 3, f"{what}: {answers}"
        for child in children:
            before = time.time()
            said = float(child.value("__import__('time').time()"))
            assert before - 2 <= said <= time.time() + 2, f"the fork is {said - before:+.1f} s off"
            assert child.sh("hostname") == child.id


@case
def no_child_sees_the_memory_of_another():
    with spawned("py", 3) as children:
        for i, child in enumerate(children):
            child.value(f"globals().__setitem__('mine', {i})")
        assert [child.value("mine") for child in children] == ["0", "1", "2"]
    with spawned("py", 1) as (after,):
        assert "NameError" in after.eval("mine")["error"]


@case
def each_writes_its_own_disk_and_its_filesystem_is_sound():
    with spawned("py", 3) as children:
        for i, child in enumerate(children):
            child.sh(f"seq {i} 20000 > /root/file && sync && echo {i} >> /etc/forkd/mark && sync")
        for i, child in enumerate(children):
            assert child.sh("head -1 /root/file; wc -l < /root/file; cat /etc/forkd/mark").split() == [
                str(i), str(20001 - i), str(i)]
            # The emergency remount leaves the filesystem clean and read-only, whoever has files open.
            child.sh("echo u > /proc/sysrq-trigger; while ! grep -q ' / ext4 ro' /proc/mounts; do sleep 0.05; done; "
                     "echo 3 > /proc/sys/vm/drop_caches; e2fsck -fn /dev/vda >&2")
    with spawned("py", 1) as (after,):
        assert after.exec("cat", "/root/file")["exit_code"] == 1


@case
def commands_end_as_they_did():
    with spawned("py", 1) as (child,):
        assert child.exec("sh", "-c", "echo out; echo err >&2; exit 3") == {
            "stdout": "out\n", "stderr": "err\n", "exit_code": 3}
        assert child.exec("sh", "-c", "kill -9 $$")["exit_code"] == -9
        missing = child.exec("no-such-command")
        assert missing["exit_code"] == 127 and "no-such-command" in missing["stderr"], missing
        late = child.exec("sh", "-c", "echo begun; sleep 1000", timeout_secs=1)
        assert late["exit_code"] == 124 and late["timed_out"] and late["stdout"] == "begun\n", late
        assert child.exec("cat", stdin="to and fro")["stdout"] == "to and fro"
        assert child.exec("sh", "-c", "echo $A; pwd", env={"A": "b c"}, cwd="/usr")["stdout"] == "b c\n/usr\n"
        assert child.sh("sleep 1000 >/dev/null 2>&1 & echo at once") == "at once"
        try:
            child.exec()
            raise AssertionError("an empty command was taken")
        except ApiError as error:
            assert error.status == 400, error


@case
def evals_give_value_output_and_traceback():
    with spawned("py", 1) as (child,):
        assert child.value("6 * 7") == "42"
        answer = child.eval("x = 5\nprint('said')\nx + 1")
        assert answer["result"] == "6" and answer.get("stdout", "said\n") == "said\n", answer
        answer = child.eval("1 / 0")
        assert answer["result"] is None and "ZeroDivisionError" in answer["error"] and answer["exit_code"] != 0
        assert child.value("x") == "5"


@case
def a_ping_tells_the_guest():
    with spawned("py", 1) as (child,):
        pong = api("POST", f"/v1/sandboxes/{child.id}/ping")
        assert pong["pong"] is True and pong["warmup_ready"] is True and pong["numpy_version"], pong


@case
def a_killed_sandbox_is_gone():
    with spawned("py", 1) as (child,):
        child.kill()
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/ping")):
            try:
                api(method, f"/v1/sandboxes/{child.id}{path}")
                raise AssertionError(f"{method} {path} still answers")
            except ApiError as error:
                assert error.status == 404 and child.id in error.text, error


controller.ensure()
run()
