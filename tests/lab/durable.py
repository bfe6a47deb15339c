#!/usr/bin/env python3
# lab-test: durable 900
# lab-warm: tests/lab/warm.py
"""Debian guests on the disk: after the end of everything, memory, processes and files of each snapshot are there."""

import os
import signal

from disk_loop import fsck
from product import api, case, controller, run, Sandbox, spawned, STATE, vmm_processes, wait_for


def branch(source, tag, **fields):
    made = api("POST", f"/v1/sandboxes/{source.id}/branch", {"tag": tag, **fields})
    assert made["status"] == "ready" and made["bootable"], made
    return made


def snapshots():
    return {one["tag"]: one for one in api("GET", "/v1/snapshots")}


def end_everything():
    """What is in memory is gone; the next controller has the disk."""
    controller.kill()
    for pid in vmm_processes():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not vmm_processes(), "all VMMs to be dead")
    controller.start()


@case
def a_diff_of_a_diff_comes_back_with_memory_and_files():
    with spawned("py", 1) as (one,):
        one.value("globals().__setitem__('mine', ['one'])")
        one.sh("echo one > /root/one; dd if=/dev/urandom of=/root/big bs=1M count=8 2>/dev/null; "
               "sha256sum /root/big > /root/sum; (while :; do sleep 1; done) & echo $! > /root/pid")
        first = branch(one, "d1", mode="diff")
        assert first["parent_tag"] == "py" and first["diff_physical_bytes"] < 256 << 20, first
    with spawned("d1", 1) as (two,):
        two.value("mine.append('two')")
        two.sh("echo two > /root/two; rm /root/one; truncate -s 4M /root/big")
        branch(two, "d2", mode="diff")
        two.sh("echo later > /root/two")
    with spawned("d2", 1) as (three,):
        whole = branch(three, "w", mode="full")
    end_everything()
    assert {tag: one["status"] for tag, one in snapshots().items()} == \
        dict.fromkeys(("py", "d1", "d2", "w"), "ready"), snapshots()
    assert all(one["bootable"] for one in snapshots().values())
    assert "parent_tag" in whole and not vmm_processes()
    with spawned("d1", 1) as (one,):
        assert one.value("mine") == "['one']" and one.sh("cat /root/one; kill -0 $(cat /root/pid) && echo runs") == \
            "one\nruns"
        one.sh("sha256sum -c /root/sum")
        fsck(one)
    for tag in ("d2", "w"):
        with spawned(tag, 2) as (two, other):
            assert two.value("mine") == "['one', 'two']" and two.sh("cat /root/two; stat -c %s /root/big") == \
                "two\n4194304"
            assert two.exec("test", "-e", "/root/one")["exit_code"] == 1
            assert other.sh("hostname") == other.id
            fsck(two)
    # What was loaded can be branched, and what it was loaded from can be added to.
    with spawned("d2", 1) as (two,):
        two.sh("echo four > /root/four")
        branch(two, "d3", mode="diff")
    with spawned("d3", 1) as (three,):
        assert three.sh("cat /root/two /root/four") == "two\nfour" and three.value("mine") == "['one', 'two']"
        fsck(three)
    for tag in ("w", "d3", "d2", "d1"):
        api("DELETE", f"/v1/snapshots/{tag}")
    assert sorted(path.name for path in (STATE / "snapshots").iterdir()) == ["py"]


@case
def a_loaded_template_is_the_one_that_was_booted():
    end_everything()
    with spawned("py", 2) as boxes:
        for box in boxes:
            assert box.value("1 + 1") == "2" and box.sh("hostname") == box.id
            assert "numpy" in box.value("sorted(__import__('sys').modules)")
    assert isinstance(boxes[0], Sandbox)


controller.ensure()
run()
