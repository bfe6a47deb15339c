#!/usr/bin/env python3
# lab-test: sdk 480
# lab-warm: tests/lab/warm.py
"""The Python package with real Linux guests: commands, the warm interpreter, files; and every example of its README."""

import contextlib
import io
import os
import re
import sys
import time

from product import SOCKET, TOP, case, controller, run

sys.path[:0] = [str(TOP / "sdk/python"), str(TOP / "sdk/python/tests")]
os.environ["FORKD_URL"] = f"unix:{SOCKET}"

from faces import FACES  # noqa: E402  pylint: disable=wrong-import-position

README = TOP / "sdk/python/README.md"


@case
def commands_have_words_environment_directory_and_input():
    for face in FACES:
        client = face()
        with client.spawned("py") as (box,):
            done = client.exec_command(box["id"], ["sh", "-c", "echo $A; pwd; cat; echo err >&2; exit 3"],
                                       env={"A": "b c"}, cwd="/usr", stdin="in\n")
            assert done == {"stdout": "b c\n/usr\nin\n", "stderr": "err\n", "exit_code": 3}, done
            assert client.exec_command(box["id"], ["sh", "-c", "kill -9 $$"])["exit_code"] == -9


@case
def code_runs_in_the_warm_interpreter_and_its_names_last():
    for face in FACES:
        client = face()
        with client.spawned("py") as (box,):
            assert client.eval_code(box["id"], "x = numpy.arange(5)")["error"] is None
            assert client.eval_code(box["id"], "int(x.sum())")["result"] == "10"
            answer = client.eval_code(box["id"], "1 / 0")
            assert answer["result"] is None and "ZeroDivisionError" in answer["error"]


@case
def a_text_is_found_wherever_it_stands_in_a_file_that_comes_later():
    for face in FACES:
        client = face()
        with client.spawned("py") as (box,):
            # Whole when it comes, so that what is seen of it is its end.
            script = "sleep 1; { echo \"it's -READY\"; seq 20000; } > /tmp/log; mv /tmp/log '/tmp/a log'"
            client.exec_command(box["id"], ["sh", "-c", f"{{ {script}; }} >/dev/null 2>&1 &"])
            seen = client.wait_for_text(box["id"], "/tmp/a log", "it's -READY")
            assert seen["found"] and seen["last_excerpt"].endswith("20000\n"), seen
            assert len(seen["last_excerpt"]) == 256
            assert client.wait_for_text(box["id"], "/tmp/a log", "-e", timeout_secs=0.1)["found"] is False


@case
def a_text_that_does_not_come_is_told_in_time():
    for face in FACES:
        client = face()
        with client.spawned("py") as (box,):
            client.exec_command(box["id"], ["sh", "-c", "echo other > /tmp/log"])
            began = time.monotonic()
            seen = client.wait_for_text(box["id"], "/tmp/log", "none", timeout_secs=1)
            assert seen == {"found": False, "elapsed_ms": seen["elapsed_ms"], "last_excerpt": "other\n"}, seen
            assert 1000 <= seen["elapsed_ms"] <= (time.monotonic() - began) * 1000
            assert not client.wait_for_text(box["id"], "/none", "x", timeout_secs=0.1)["last_excerpt"]


@case
def every_example_of_the_readme_runs():
    examples = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    said = []
    for number, example in enumerate(examples):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(example, f"{README}, example {number + 1}", "exec"), {"__name__": "__main__"})
        said.append(out.getvalue())
    assert said[0].split()[:10] == ["0", "1", "3", "6", "10", "15", "21", "28", "36", "45"], said
    assert said[0].split()[-1] == "3", said
    assert said[1] == "3\n", said
    assert said[-1] == "sandbox sb-none not found\n", said
    FACES[0]().delete_snapshot("best")
    assert FACES[0]().list_sandboxes() == []


controller.ensure()
run()
