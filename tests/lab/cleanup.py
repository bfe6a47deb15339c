#!/usr/bin/env python3
# lab-test: cleanup 300
# lab-warm: tests/lab/warm.py
"""forkd cleanup where there are cgroups: what a lost state left is named and removed, down to its groups."""

import json
import os
import pathlib
import subprocess
import time

from product import BUILD, case, controller, run, spawned, STATE, vmm_processes

GROUPS = pathlib.Path("/sys/fs/cgroup/forkd")


def cleanup(*flags):
    env = {**os.environ, "FORKD_STATE": str(STATE / "state.db")}
    out = subprocess.run([BUILD / "forkd", "cleanup", "--json", *flags], env=env, check=True, capture_output=True,
                         text=True)
    return [(row["kind"], row.get("pid") or row["path"], row["removed"]) for row in json.loads(out.stdout)]


def trees():
    return {path.name for path in GROUPS.iterdir() if path.is_dir()}


def grow_old(tree):
    """As if it had been made an hour ago; returns whether this kernel lets one say so."""
    before = time.time() - 3600
    os.utime(GROUPS / tree, (before, before))
    return (GROUPS / tree).stat().st_mtime < before + 1


@case
def what_lives_is_not_named_and_what_is_lost_goes_with_its_groups():
    with spawned("py", 1) as (child,):
        assert child.value("1 + 1") == "2"
        assert all(grow_old(tree) for tree in trees()), "the time of a cgroup cannot be set here"
        assert cleanup() == [], "what belongs to a living controller"
        controller.kill()
        assert cleanup() == [], "what waits for the next controller"
        for path in STATE.glob("state.db*"):
            if path.is_file():
                path.unlink()
        left, groups = vmm_processes(), trees()
        assert left and groups
        found = cleanup("-y")
        assert {what for kind, what, _ in found if kind == "process"} == set(left), (found, left)
        assert [what for kind, what, _ in found if kind == "directory"] == [str(STATE / "state.db.run")], found
        assert all(removed for _, _, removed in found), found
        assert not vmm_processes() and not (STATE / "state.db.run").exists()
        for tree in trees():
            grow_old(tree)
        assert {what for kind, what, removed in cleanup("-y") if kind == "cgroup" and removed} | trees() == groups
        assert not trees() and cleanup() == []
        child.kill = lambda: None  # it is gone


controller.ensure()
run()
