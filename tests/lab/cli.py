#!/usr/bin/env python3
# lab-test: cli 400
"""The command line as a person uses it: the controller of one's own, real Linux guests, nothing left at the end."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

import product
from product import BUILD, STATE, case, leftovers, run, wait_for

# The controller of one's own keeps its state where product.leftovers() looks.
ENV = {name: value for name, value in os.environ.items() if name not in ("FORKD_URL", "FORKD_TAG", "N")}
ENV["FORKD_STATE"] = str(STATE)
NOTHING = {"processes": 0, "directories": [], "cgroups": []}


def forkd(*args, status=0, stdin=""):
    done = subprocess.run([BUILD / "forkd", *args], env=ENV, capture_output=True, text=True, input=stdin)
    assert done.returncode == status, f"forkd {' '.join(args)}: {done}"
    return done


def told(*args):
    return json.loads(forkd(*args, "--json").stdout)


def ids():
    return [box["id"] for box in told("ls")]


def controllers():
    """The processes that serve, whoever started them."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[0].endswith(b"forkd-controller") and product.process_lives(int(entry.name)):
            found.append(int(entry.name))
    return found


def template():
    """The snapshot `cli`, made by the first case that needs it."""
    if "cli" not in [one["tag"] for one in told("images")["snapshots"]]:
        said = forkd("snapshot", "--tag", "cli", "--image", "python3", "--mem-size-mib", "256", "--boot-wait-secs", "60",
                     "--warmup", "numpy").stdout
        assert "snapshot cli is ready" in said and "forkd spawn --tag cli" in said, said


class children:
    """N children of `cli` for the length of a with statement: their ids, as spawn told them."""

    def __init__(self, n):
        self.n = n

    def __enter__(self):
        template()
        return [box["id"] for box in told("spawn", "--tag", "cli", "-n", str(self.n))]

    def __exit__(self, *_):
        forkd("kill", "--all")


@case
def the_first_command_starts_one_controller_and_the_next_ones_use_it():
    assert controllers() == []
    assert ids() == []
    first = controllers()
    assert len(first) == 1
    template()
    assert controllers() == first


@case
def spawned_sandboxes_are_listed_and_killed_by_name_by_tag_and_all():
    with children(4) as made:
        assert ids() == sorted(made)
        table = forkd("ls").stdout.splitlines()
        assert table[0].split()[0] == "ID" and len(table) == 5, table
        assert all(any(line.startswith(id) for line in table) for id in made), table
        assert told("kill", made[0]) == [made[0]]
        assert ids() == sorted(made[1:])
        assert "HTTP 404" in forkd("kill", made[0], status=1).stderr
        assert forkd("kill", "--tag", "cli").stdout == "killed 3\n"
        assert ids() == []
        forkd("spawn", "--tag", "cli", "-n", "2")
        assert forkd("kill", "--all").stdout == "killed 2\n"
        assert ids() == []


@case
def exec_gives_the_commands_streams_and_its_status():
    with children(1) as (id,):
        both = forkd("exec", id, "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
        assert (both.stdout, both.stderr) == ("out\n", "err\n"), both
        forkd("exec", id, "--", "sh", "-c", "kill -9 $$", status=137)
        assert "no-such-program" in forkd("exec", id, "no-such-program", status=127).stderr
        forkd("exec", id, "--timeout-secs", "1", "--", "sleep", "1000", status=124)
        assert forkd("exec", id, "--stdin", "--", "tr", "a-z", "A-Z", stdin="shout\n").stdout == "SHOUT\n"
        assert forkd("exec", id, "--env", "A=b c", "--cwd", "/tmp", "--", "sh", "-c", "echo $A; pwd").stdout == \
            "b c\n/tmp\n"
        assert forkd("exec", id, "hostname").stdout.strip() == id


@case
def eval_gives_value_output_and_traceback():
    with children(2) as (a, b):
        assert forkd("eval", a, "int(numpy.arange(10).sum())").stdout == "45\n"
        assert forkd("eval", a, "print('said')").stdout.startswith("said\n")
        failed = forkd("eval", a, "1/0", status=1)
        assert failed.stdout == "" and "ZeroDivisionError" in failed.stderr, failed
        forkd("eval", a, "mine = 1")
        assert forkd("eval", a, "mine").stdout == "1\n"
        assert "NameError" in forkd("eval", b, "mine", status=1).stderr, "a sibling sees what one child set"


@case
def resume_is_for_those_that_stand_still():
    with children(1) as (id,):
        assert "is not stalled" in forkd("resume", id, status=1).stderr


@case
def ping_says_that_the_interpreter_is_warm():
    with children(2) as made:
        lines = forkd("ping", *made).stdout.splitlines()
        assert len(lines) == 2, lines
        for id, line in zip(made, lines):
            assert re.search(rf"^{id} is well: .*, warm interpreter, numpy \d", line), line
        assert "HTTP 404" in forkd("ping", "sb-nobody", status=1).stderr


@case
def fork_in_the_foreground_ends_its_children_on_sigterm():
    template()
    before = leftovers()
    foreground = subprocess.Popen([BUILD / "forkd", "fork", "--tag", "cli", "-n", "2", "--settle-secs", "3600"], env=ENV,
                                  stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(ids()) == 2 or foreground.poll() is not None, "the children of forkd fork")
    made = ids()
    assert foreground.poll() is None, "forkd fork --settle-secs ended by itself"
    assert forkd("eval", made[0], "6 * 7").stdout == "42\n"
    foreground.send_signal(signal.SIGTERM)
    said = foreground.communicate(timeout=product.PATIENCE)[0]
    assert foreground.returncode == 0 and all(id in said for id in made), (foreground.returncode, said)
    assert ids() == []
    assert leftovers() == before, f"{leftovers()} instead of {before}"


@case
def fork_in_the_foreground_ends_its_children_when_the_time_is_over():
    template()
    began = time.monotonic()
    forkd("fork", "--tag", "cli", "--settle-secs", "2")
    assert time.monotonic() - began >= 2
    assert ids() == []


@case
def a_deleted_snapshot_is_gone_and_its_children_go_on():
    with children(1) as (id,):
        assert forkd("rmi", "cli").stdout == "deleted cli\n"
        assert told("images")["snapshots"] == []
        assert "HTTP 404" in forkd("spawn", "--tag", "cli", status=1).stderr
        assert "HTTP 404" in forkd("rmi", "cli", status=1).stderr
        assert forkd("eval", id, "1 + 1").stdout == "2\n"
        assert len(product.vmm_processes()) == 2, "the template stays for its child"
    wait_for(lambda: product.vmm_processes() == set(), "the template to go after its last child")
    # What is left are the places made beforehand for the next sandboxes.
    wait_for(lambda: leftovers() == {**NOTHING, "directories": [".ready"]}, "the directory and cgroup to go")


@case
def quickstart_ends_with_all_children_having_answered_and_keeps_its_template():
    for _ in range(2):
        done = forkd("quickstart", "-n", "10")
        lines = done.stdout.splitlines()
        assert lines[-1] == "10 of 10 children answered", done
        rows = [line.split() for line in lines if line.startswith("sb-")]
        assert len(rows) == 10 and len({row[0] for row in rows}) == 10, done
        # The shell of each says its own name; what each draws at random is its own, too.
        assert all(row[1] == row[0] for row in rows), done
        assert len({tuple(row[2:6]) for row in rows}) == 10, done
        assert ids() == [], "quickstart left children"
        kept = [one["tag"] for one in told("images")["snapshots"]]
        assert len(kept) == 1 and kept[0].startswith("quickstart-"), kept
    assert "booting a parent" not in done.stderr, "the second run booted a parent again"


@case
def a_child_that_cannot_answer_is_counted():
    done = forkd("quickstart", "-n", "2", "--code", "1/0", status=1)
    assert done.stdout.splitlines()[-1] == "0 of 2 children answered" and "ZeroDivisionError" in done.stdout, done
    assert ids() == []


def tags():
    return sorted(one["tag"] for one in told("images")["snapshots"] if one["bootable"])


@case
def stop_leaves_nothing():
    with children(2) as made:
        assert ids() == sorted(made)
        kept = tags()
        assert forkd("stop").stdout == "everything ended\n"
        assert controllers() == []
        assert leftovers() == NOTHING, leftovers()
        sockets = [path for path in STATE.rglob("*") if path.is_socket()]
        assert sockets == [], sockets
        # What comes next has the snapshots that are on the disk, and nothing else.
        assert ids() == [] and tags() == kept != [], (ids(), tags(), kept)
    forkd("stop")
    assert controllers() == []


STATE.mkdir(parents=True, exist_ok=True)
(STATE / "log").symlink_to("controller.log")  # what run() shows when a case failed
run()
