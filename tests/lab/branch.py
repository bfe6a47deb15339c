#!/usr/bin/env python3
# lab-test: branch 900
# lab-warm: tests/lab/warm.py
"""BRANCH of running Debian guests: memory, processes and disk of one instant, and the source goes on."""

import json
import os
import pathlib
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

from disk_loop import DISK_LOOP, fsck, rounds
from product import (api, ApiError, BUILD, case, controller, leftovers, run, Sandbox, SOCKET, spawned, vmm_processes,
                     wait_for)

CGROUPS = pathlib.Path("/sys/fs/cgroup/forkd")
MIB = 1 << 20
FIXED_MIB = 3  # of a template: page tables, what the interpreter writes besides, the kernel's own


class branched:
    """Branches of a sandbox for the length of a with statement: SnapshotInfo of each."""

    def __init__(self, source, *tags, **fields):
        self.source, self.tags, self.fields, self.made = source, tags, fields, []

    def __enter__(self):
        for tag in self.tags:
            self.made.append(api("POST", f"/v1/sandboxes/{self.source.id}/branch", {"tag": tag, **self.fields}))
        return self.made

    def __exit__(self, *_):
        for one in self.made:
            api("DELETE", f"/v1/snapshots/{one['tag']}")


def leaf(name):
    """The cgroup of that name, in whichever tree."""
    found, = CGROUPS.glob(f"*/{name}")
    return found


def charged_mib(group):
    return int((group / "memory.current").read_text()) / MIB


@case
def what_was_written_and_not_synced_is_in_the_branch_and_later_deletions_are_not():
    with spawned("py", 1) as (source,):
        source.value("globals().__setitem__('mine', 'then')")
        source.sh("seq 1 50000 > /root/file; echo unsynced > /root/other")
        with branched(source, "then") as (info,):
            source.sh("rm /root/file; echo later > /root/other; sync")
            source.value("globals().__setitem__('mine', 'later')")
            assert info["branched_from"] == source.id and info["parent_tag"] == "py" and info["bootable"]
            with spawned("then", 2) as (a, b):
                for child in (a, b):
                    assert child.value("mine") == "'then'"
                    assert child.sh("wc -l < /root/file; cat /root/other").split() == ["50000", "unsynced"]
                    assert child.sh("hostname") == child.id
                a.sh("echo a > /root/other; sync")
                assert b.sh("cat /root/other") == "unsynced"
                fsck(a)
        assert source.value("mine") == "'later'" and source.sh("cat /root/other") == "later"
        assert source.exec("test", "-e", "/root/file")["exit_code"] == 1
        fsck(source)


@case
def an_exec_of_the_source_does_not_notice():
    with spawned("py", 1) as (source,), ThreadPoolExecutor(1) as pool:
        script = "echo begun; echo $$ > /run/waiter; while [ ! -e /run/go ]; do sleep 0.05; done; echo done"
        call = pool.submit(source.exec, "sh", "-c", script)
        wait_for(lambda: source.exec("test", "-s", "/run/waiter")["exit_code"] == 0, "the command to run")
        with branched(source, "meanwhile"), spawned("meanwhile", 1) as (child,):
            # Its process is in the fork as well, and goes on; nobody hears it.
            assert child.sh("kill -0 $(cat /run/waiter) && echo there") == "there"
            source.sh("touch /run/go")
            answer = call.result()
            assert answer == {"stdout": "begun\ndone\n", "stderr": "", "exit_code": 0}, answer
            child.sh("touch /run/go; while kill -0 $(cat /run/waiter) 2>/dev/null; do sleep 0.05; done")


@case
def a_branch_amid_disk_and_vsock_traffic_and_its_source_both_go_on():
    stop = threading.Event()

    def talk(sandbox):
        answers = 0
        while not stop.is_set():
            out = sandbox.sh("head -c 300000 /dev/zero | tr '\\0' x", output_limit=MIB)
            assert len(out) == 300000
            answers += 1
        return answers

    with spawned("py", 1) as (source,), ThreadPoolExecutor(1) as pool:
        source.sh(DISK_LOOP)
        talking = pool.submit(talk, source)
        try:
            with branched(source, "amid-1", "amid-2", "amid-3"), spawned("amid-1", 1) as (a,), \
                    spawned("amid-3", 1) as (b,):
                stop.set()
                assert talking.result() > 0
                for one in (source, a, b):
                    began = rounds(one)
                    wait_for(lambda: rounds(one) >= began + 2, f"{one.id} to go on with its disk")
                    assert one.exec("test", "-e", "/run/torn")["exit_code"] == 1, "what was read is not what was written"
                for one in (source, a, b):
                    one.sh("kill $(cat /run/disk-loop.pid)")
                    fsck(one)
        finally:
            stop.set()


@case
def a_branch_of_a_branch_of_a_branch_has_what_each_had():
    boxes, made = [], []
    try:
        tag = "py"
        for depth in range(4):
            box, = (Sandbox(info) for info in api("POST", "/v1/sandboxes", {"snapshot_tag": tag}))
            boxes.append(box)
            assert box.sh("cat /root/line 2>/dev/null; true").split() == [str(i) for i in range(depth)]
            assert box.sh("hostname") == box.id
            box.sh(f"echo {depth} >> /root/line")
            if depth == 3:
                break
            tag = f"depth-{depth}"
            made.append(api("POST", f"/v1/sandboxes/{box.id}/branch", {"tag": tag}))
        # The ancestors go, in any order; the last lives on nothing of theirs.
        for box in boxes[:3]:
            box.kill()
        for one in (1, 0, 2):
            api("DELETE", f"/v1/snapshots/{made[one]['tag']}")
        made.clear()
        assert boxes[3].sh("cat /root/line").split() == ["0", "1", "2", "3"]
        fsck(boxes[3])
        boxes[3].kill()
    finally:
        for one in made:
            api("DELETE", f"/v1/snapshots/{one['tag']}")


@case
def ten_branches_are_not_charged_to_their_source():
    """Its limit is for what it holds itself: the branches' copies are theirs."""
    before = leftovers()
    tags = [f"kept-{i}" for i in range(10)]
    with spawned("py", 1, memory_limit_mib=160) as (source,):
        source.eval("x = bytearray(40 << 20)")
        templates = set()
        made = []
        for i, tag in enumerate(tags):
            source.eval(f"x[::4096] = bytes([{i + 1}]) * len(x[::4096])")
            known = {path.name for path in CGROUPS.glob("*/tm-*")}
            made.append(api("POST", f"/v1/sandboxes/{source.id}/branch", {"tag": tag}))
            new, = {path.name for path in CGROUPS.glob("*/tm-*")} - known
            templates.add(new)
        held = [charged_mib(leaf(name)) for name in templates]
        print(f"ten branches that differ by 40 MiB hold {min(held):.1f} to {max(held):.1f} MiB each")
        assert all(0.85 * 40 < one < 1.15 * 40 + FIXED_MIB for one in held), held
        assert charged_mib(leaf(source.id)) < 160
        assert source.value("x[4096]") == "10" and source.value("x[0]") == "10"
        for i in (0, 9):
            with spawned(tags[i], 1) as (child,):
                assert child.value("x[4096]") == str(i + 1)
        for one in made:
            api("DELETE", f"/v1/snapshots/{one['tag']}")
    wait_for(lambda: leftovers() == before, f"nothing to be left: {leftovers()}")


@case
def a_workspace_goes_on_where_it_was():
    made = api("POST", "/v1/workspaces", {"name": "dev", "snapshot_tag": "py"})
    box = Sandbox(api("GET", f"/v1/sandboxes/{made['live_sandbox_id']}"))
    box.value("globals().__setitem__('mine', [1])")
    box.sh("echo unsynced > /root/file; sleep 1000 >/dev/null 2>&1 & echo $! > /run/sleeper")
    for turn in range(2):
        assert api("POST", "/v1/workspaces/dev/suspend", {})["status"] == "suspended"
        assert box.id not in [one["id"] for one in api("GET", "/v1/sandboxes")]
        back = api("POST", "/v1/workspaces/dev/resume", {})
        box = Sandbox(api("GET", f"/v1/sandboxes/{back['live_sandbox_id']}"))
        assert box.value("mine.append(1) or len(mine)") == str(turn + 2)
        assert box.sh("cat /root/file; kill -0 $(cat /run/sleeper) && hostname").split() == ["unsynced", box.id]
    fsck(box)
    api("DELETE", "/v1/workspaces/dev")
    assert [one["tag"] for one in api("GET", "/v1/snapshots")] == ["py"]


@case
def branch_n_10_answers_with_ten_that_have_memory_and_files_of_that_instant():
    env = {**os.environ, "FORKD_URL": f"unix:{SOCKET}"}
    with spawned("py", 1) as (source,):
        source.value("globals().__setitem__('mine', 41)")
        source.sh("echo here > /root/where")
        done = subprocess.run([BUILD / "forkd", "branch", source.id, "--tag", "ten", "-n", "10", "--json"], env=env,
                              capture_output=True, text=True)
        assert done.returncode == 0, done
        answer = json.loads(done.stdout)
        assert answer["snapshot"]["tag"] == "ten" and len(answer["sandboxes"]) == 10, answer
        for info in answer["sandboxes"]:
            child = Sandbox(info)
            assert child.value("mine + 1") == "42" and child.sh("cat /root/where") == "here"
            assert child.sh("hostname") == child.id
            child.kill()
        api("DELETE", "/v1/snapshots/ten")


@case
def twenty_branches_of_one_at_once_are_all_made():
    with spawned("py", 1) as (source,), ThreadPoolExecutor(20) as pool:
        source.value("globals().__setitem__('mine', 7)")
        made = list(pool.map(lambda i: api("POST", f"/v1/sandboxes/{source.id}/branch", {"tag": f"at-once-{i}"}),
                             range(20)))
        assert api("GET", f"/v1/sandboxes/{source.id}")["branch_count"] == 20
        for tag in ("at-once-0", "at-once-19"):
            with spawned(tag, 1) as (child,):
                assert child.value("mine") == "7"
        for one in made:
            api("DELETE", f"/v1/snapshots/{one['tag']}")
        assert source.value("mine") == "7"


@case
def a_sandbox_whose_templates_were_killed_is_branched_from_what_is_on_the_disk():
    with spawned("py", 1) as (source,):
        source.value("globals().__setitem__('mine', 'then')")
        source.sh("seq 1 20000 > /root/file")
        dead = vmm_processes() - {source.pid}
        assert dead
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        with branched(source, "lost", "next") as (info, later):
            assert later["pages_streamed"] + later["pages_in_pause"] < info["pages_streamed"], (info, later)
            source.sh("rm /root/file")
            for tag in ("lost", "next"):
                with spawned(tag, 1) as (child,):
                    assert child.value("mine") == "'then'"
                    assert child.sh("wc -l < /root/file").split() == ["20000"]
                    assert charged_mib(leaf(child.id)) > 0
        assert source.value("1 + 1") == "2"


@case
def a_branch_of_what_is_not_there_is_refused():
    try:
        api("POST", "/v1/sandboxes/sb-nobody/branch", {})
        raise AssertionError("it was branched")
    except ApiError as error:
        assert error.status == 404 and "sb-nobody" in error.text, error


controller.ensure()
run()
