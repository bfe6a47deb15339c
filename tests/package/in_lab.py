#!/usr/bin/env python3
"""Part of deb.py, in the lab: a Debian with forkd installed, its systemd, cgroup v2 with a memory controller. Argument: its
root, read-only. TAP."""

import os
import pathlib
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import debian
from deb import UNIT, answers, boxes, forkd, told
from debian import Debian, judge, until

debian.DEADLINE = 900.0  # of an emulated host, beside other tests
LIMIT_MIB = 32
SPACE = pathlib.Path("/var/lib/forkd/debian")  # of the lab, a disk


def writable(root):
    """An overlay over what came in."""
    for name in ("upper", "work", "root"):
        (SPACE / name).mkdir(parents=True)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                    f"lowerdir={root},upperdir={SPACE}/upper,workdir={SPACE}/work", SPACE / "root"], check=True)
    return SPACE / "root"


def the_service_starts(machine):
    until(lambda: machine("systemctl", "is-active", UNIT, check=False).stdout.strip() == "active", "the service is up")
    until(lambda: forkd(machine, "ls", check=False).startswith("ID"), "it answers")


def sandboxes_live_in_cgroups_of_their_own_with_their_limit(machine):
    forkd(machine, "snapshot", "--tag", "bare", "--kernel", "/root/guest", "--mem-size-mib", "128")
    made = told(machine, "spawn", "--tag", "bare", "-n", "2", "--memory-limit-mib", str(LIMIT_MIB))
    answers(machine, [one["id"] for one in made])
    for one in made:
        limit = machine("sh", "-c", f"cat /sys/fs/cgroup/forkd/*/{one['id']}/memory.max").stdout
        assert int(limit) == LIMIT_MIB << 20, limit
    assert "jail without" not in machine("journalctl", "--no-pager", "--boot", "--unit", UNIT).stdout


def a_restart_keeps_them(machine):
    before = boxes(machine)
    machine("systemctl", "restart", UNIT)
    assert boxes(machine) == before and len(before) == 2
    answers(machine, before)


def one_that_passes_its_limit_ends_alone(machine):
    greedy, other = boxes(machine)
    forkd(machine, "exec", greedy, "mem", "fill", "0x2000000", "64m", "1", check=False)
    until(lambda: list(boxes(machine)) == [other], "the greedy one is gone")
    answers(machine, [other])
    assert greedy in machine("journalctl", "--no-pager", "--boot", "--unit", UNIT).stdout


def all_that_it_had_can_be_ended(machine):
    machine("systemctl", "kill", "--kill-who=main", "--signal=USR1", UNIT)
    until(lambda: machine("systemctl", "is-active", UNIT, check=False).stdout.strip() == "inactive", "it ended")
    left = machine("sh", "-c", "ls -d /sys/fs/cgroup/forkd/*/ 2>/dev/null | grep -c /tm-", check=False).stdout
    assert left.strip() == "0", left


CLAIMS = [the_service_starts, sandboxes_live_in_cgroups_of_their_own_with_their_limit, a_restart_keeps_them,
          one_that_passes_its_limit_ends_alone, all_that_it_had_can_be_ended]

if __name__ == "__main__":
    sys.exit(judge(CLAIMS, Debian(writable(sys.argv[1]))))
