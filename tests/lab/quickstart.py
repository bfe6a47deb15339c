#!/usr/bin/env python3
# lab-test: quickstart 600
"""The command line as a person uses it, from nothing: quick start, every verb on real guests, nothing left at the end.
The controller is the one the first command starts."""

import json
import os
import pathlib
import signal
import subprocess

import product
from product import BUILD, STATE, case, run, vmm_processes, wait_for

OWN = pathlib.Path("/var/lib/forkd/own")
ENV = {**os.environ, "FORKD_STATE": str(OWN / "state.db"), "FORKD_IN_LAB": "1"}


def forkd(*args, status=0, **options):
    done = subprocess.run([BUILD / "forkd", *args], env=ENV, capture_output=True, text=True, **options)
    assert done.returncode == status, (args, done)
    return done.stdout


def told(*args):
    return json.loads(forkd(*args, "--json"))


def tag():
    """The snapshot that the quick start keeps."""
    return next(one["tag"] for one in told("images")["snapshots"])


class spawned:
    def __init__(self, n):
        self.n = n

    def __enter__(self):
        self.ids = [box["id"] for box in told("spawn", "--tag", tag(), "-n", str(self.n))]
        return self.ids

    def __exit__(self, *_):
        forkd("kill", "--all")


@case
def the_quick_start_ends_with_ten_answers():
    lines = forkd("quickstart", "-n", "10").splitlines()
    assert lines[-1] == "10 of 10 children answered", lines
    assert sum(line.startswith("sb-") for line in lines) == 10, lines
    assert told("ls") == []


@case
def a_second_run_finds_the_template():
    before = vmm_processes()
    assert forkd("quickstart", "-n", "2").splitlines()[-1] == "2 of 2 children answered"
    assert vmm_processes() == before and len(before) == 1, (before, vmm_processes())


@case
def commands_give_their_output_and_their_status():
    with spawned(2) as (one, other):
        assert sorted(box["id"] for box in told("ls")) == sorted([one, other])
        assert forkd("exec", one, "--", "sh", "-c", "hostname; exit 7", status=7) == f"{one}\n"
        assert forkd("exec", one, "--", "sh", "-c", "kill -9 $$", status=137) == ""
        forkd("exec", one, "--", "no-such-command", status=127)
        forkd("exec", one, "--timeout-secs", "1", "--", "sleep", "1000", status=124)
        assert forkd("exec", one, "--stdin", "--", "cat", input="to and fro") == "to and fro"
        assert forkd("eval", other, "int(numpy.arange(5).sum())") == "10\n"
        forkd("eval", other, "1 / 0", status=1)
        assert f"{other} is well" in forkd("ping", other) and "numpy" in forkd("ping", other)
        forkd("resume", other, status=1)
        assert told("kill", one) == [one]
        forkd("exec", one, "--", "true", status=1)
        assert [box["id"] for box in told("ls")] == [other]


@case
def a_fork_in_the_foreground_ends_with_its_children():
    process = subprocess.Popen([BUILD / "forkd", "fork", "--tag", tag(), "-n", "2", "--settle-secs", "3600"], env=ENV,
                               stdout=subprocess.DEVNULL)
    wait_for(lambda: len(told("ls")) == 2, "two children")
    process.send_signal(signal.SIGTERM)
    assert process.wait(product.PATIENCE) == 0
    assert told("ls") == []


@case
def a_snapshot_of_ones_own_is_made_and_deleted():
    forkd("snapshot", "--tag", "mine", "--image", "python3", "--mem-size-mib", "256", "--boot-wait-secs", "60",
          "--ready-cmd", "echo made > /root/mine")
    forkd("snapshot", "--tag", "mine", "--image", "python3", status=1)
    child = told("spawn", "--tag", "mine")[0]["id"]
    assert forkd("exec", child, "cat", "/root/mine") == "made\n"
    forkd("rmi", "mine")
    assert forkd("exec", child, "cat", "/root/mine") == "made\n", "a sandbox outlives its snapshot"
    forkd("kill", child)
    assert [one["tag"] for one in told("images")["snapshots"]] == [tag()] and tag() != "mine"
    wait_for(lambda: len(vmm_processes()) == 1, "the deleted template to go with its last child")


@case
def after_stop_nothing_is_left():
    forkd("spawn", "--tag", tag(), "-n", "2")
    forkd("stop")
    names = [path.read_text().strip() for path in pathlib.Path("/proc").glob("[0-9]*/comm")]
    assert not [name for name in names if name.startswith("forkd")], names
    assert [str(path) for path in pathlib.Path("/sys/fs/cgroup/forkd").glob("*/")] == []
    assert [path.name for path in OWN.rglob("sb-*")] == []


assert not STATE.exists(), "this begins with nothing"
OWN.mkdir()
run()
