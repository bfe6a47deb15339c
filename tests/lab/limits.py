#!/usr/bin/env python3
# lab-test: limits 400
# lab-warm: tests/lab/warm.py
"""Memory limits by cgroup v2, from birth; and what memory costs."""

import pathlib

from product import api, ApiError, case, controller, leftovers, run, spawned, wait_for

CGROUPS = pathlib.Path("/sys/fs/cgroup")
MIB = 1 << 20


def cgroup_of(child):
    line = pathlib.Path(f"/proc/{child.pid}/cgroup").read_text().strip()
    return CGROUPS / line.removeprefix("0::/")


@case
def a_child_is_in_a_cgroup_of_its_own_with_its_limit():
    with spawned("py", 2, memory_limit_mib=300) as (a, b):
        assert cgroup_of(a) != cgroup_of(b)
        for child in (a, b):
            assert (cgroup_of(child) / "memory.max").read_text().strip() == str(300 * MIB)
            assert (cgroup_of(child) / "cgroup.procs").read_text().split() == [str(child.pid)]
            assert child.info["memory_limit_mib"] == 300


@case
def who_exceeds_its_limit_is_killed_alone_and_that_is_told():
    before = leftovers()
    with spawned("py", 1) as (sibling,), spawned("py", 1, memory_limit_mib=60) as (greedy,):
        try:
            greedy.eval("x = bytearray(200 << 20)")
        except ApiError as error:
            assert error.status in (404, 502), error

        def gone():
            try:
                api("GET", f"/v1/sandboxes/{greedy.id}")
            except ApiError as error:
                return error.status == 404
        wait_for(gone, "the greedy sandbox to be gone")
        assert any(greedy.id in line and "more than its 60 MiB" in line for line in controller.log().splitlines())
        assert sibling.value("1 + 1") == "2"
        with spawned("py", 1) as (later,):
            assert later.value("2 + 2") == "4"
    wait_for(lambda: leftovers() == before, f"nothing to be left: {leftovers()}")


@case
def fresh_memory_is_charged_once():
    with spawned("py", 1, memory_limit_mib=400) as (child,):
        child.value("1")
        current = cgroup_of(child) / "memory.current"
        before = int(current.read_text())
        child.eval("x = bytearray(b'x') * (100 << 20)")
        grown = (int(current.read_text()) - before) / MIB
        assert 95 < grown < 140, f"100 MiB of fresh memory cost {grown:.0f} MiB"


controller.ensure()
run()
