#!/usr/bin/env python3
# lab-test: sizes 600
"""Templates of other shapes: two and four CPUs, memory beyond the hole below 4 GiB, the compressed kernel, tiny memory."""

import os
import pathlib

from product import api, case, controller, run, snapshot, spawned


def fork_and_ask(tag, **fields):
    snapshot(tag, **fields)
    with spawned(tag, 2) as children:
        for child in children:
            yield child
    api("DELETE", f"/v1/snapshots/{tag}")


@case
def a_template_of_two_cpus_forks():
    for child in fork_and_ask("two", vcpus=2, warmup=["threading"]):
        assert child.sh("nproc") == "2"
        # Both CPUs run: a thread on each takes a step, and both come back.
        assert child.sh("taskset -c 0 echo a; taskset -c 1 echo b").split() == ["a", "b"]


@case
def a_template_of_four_cpus_forks():
    for child in fork_and_ask("four", vcpus=4, warmup=[]):
        assert child.sh("nproc") == "4"
        assert child.sh("for cpu in 0 1 2 3; do taskset -c $cpu echo $cpu; done").split() == ["0", "1", "2", "3"]


@case
def a_template_of_5_gib_forks_and_both_sides_of_the_hole_are_there():
    for child in fork_and_ask("large", mem_size_mib=5120, warmup=[]):
        total = int(child.sh("awk '/MemTotal/{print $2}' /proc/meminfo"))
        assert total > 4.8 * 1024 * 1024, total
        assert "100000000-" in child.sh("cat /proc/iomem"), "no memory above 4 GiB"


@case
def a_guest_that_waits_for_no_python_boots_in_little_memory():
    for child in fork_and_ask("small", mem_size_mib=160, warmup=[]):
        assert child.sh("echo here") == "here"


@case
def the_compressed_kernel_boots_as_the_uncompressed_one_does():
    image = pathlib.Path(os.environ.get("FORKD_IMAGES", "/var/lib/forkd/images")) / "python3"
    api("POST", "/v1/snapshots", {"tag": "bzimage", "kernel": str(image / "vmlinuz"), "rootfs": str(image / "rootfs.ext4"),
                                  "mem_size_mib": 256, "boot_wait_secs": 60})
    with spawned("bzimage", 1) as (child,):
        assert child.sh("uname -r").startswith("6."), child.sh("uname -r")
    api("DELETE", "/v1/snapshots/bzimage")


controller.ensure()
run()
