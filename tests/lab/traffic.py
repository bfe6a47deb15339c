#!/usr/bin/env python3
# lab-test: traffic 900
"""A template made in the middle of disk and vsock traffic: every fork of it goes on with both, and its filesystem is
sound. The traffic is what ready_cmd leaves running in the parent."""

from disk_loop import DISK_LOOP, fsck, rounds
from product import case, controller, run, snapshot, spawned, wait_for

@case
def ten_forks_in_the_middle_of_disk_and_vsock_traffic_all_go_on():
    snapshot("busy", ready_cmd=DISK_LOOP, warmup=[])
    with spawned("busy", 10) as children:
        began = {child.id: rounds(child) for child in children}
        for child in children:
            # Large answers over vsock while the disk loop runs.
            assert len(child.sh("head -c 400000 /dev/zero | tr '\\0' x", output_limit=1 << 20)) == 400000
        for child in children:
            wait_for(lambda: rounds(child) >= began[child.id] + 2, f"{child.id} to go on with its disk")
            assert child.exec("test", "-e", "/run/torn")["exit_code"] == 1, "what was read is not what was written"
        # All of them first: ten busy guests share one emulated CPU.
        for child in children:
            child.sh("kill $(cat /run/disk-loop.pid)")
        for child in children:
            fsck(child)


controller.ensure()
run()
