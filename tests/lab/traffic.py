#!/usr/bin/env python3
# lab-test: traffic 900
"""A template made in the middle of disk and vsock traffic: every fork of it goes on with both, and its filesystem is
sound. The traffic is what ready_cmd leaves running in the parent."""

from product import case, controller, run, snapshot, spawned, wait_for

# Writes, syncs, reads back and compares, for ever; counts rounds; dies on the first difference.
DISK_LOOP = r"""
mkdir -p /srv/traffic
cat > /root/disk-loop <<'LOOP'
echo $$ > /run/disk-loop.pid
i=0
while :; do
    i=$((i + 1))
    dd if=/dev/urandom of=/srv/traffic/a bs=64k count=4 2>/dev/null
    sum=$(md5sum < /srv/traffic/a)
    sync; sleep 0.3
    echo 1 > /proc/sys/vm/drop_caches
    [ "$(md5sum < /srv/traffic/a)" = "$sum" ] || { echo torn > /run/torn; exit 1; }
    echo $i > /run/rounds.new && mv /run/rounds.new /run/rounds
done
LOOP
setsid sh /root/disk-loop >/dev/null 2>&1 </dev/null &
while [ ! -e /run/rounds ]; do sleep 0.05; done
"""


def rounds(child):
    return int(child.sh("cat /run/rounds"))


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
            child.sh("echo u > /proc/sysrq-trigger; while ! grep -q ' / ext4 ro' /proc/mounts; do sleep 0.05; done; "
                     "echo 3 > /proc/sys/vm/drop_caches; e2fsck -fn /dev/vda >&2")


controller.ensure()
run()
