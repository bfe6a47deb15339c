"""A guest whose disk is busy all the time, and what tests of it ask."""

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


def fsck(child):
    """The emergency remount leaves the filesystem clean and read-only, whoever has files open."""
    child.sh("echo u > /proc/sysrq-trigger; while ! grep -q ' / ext4 ro' /proc/mounts; do sleep 0.05; done; "
             "echo 3 > /proc/sys/vm/drop_caches; e2fsck -fn /dev/vda >&2")
