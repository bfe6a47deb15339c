#!/bin/bash
# Building an image from Debian packages: complete, cached by content, atomic, alone.
. "$(dirname "$0")/harness.sh"
need mmdebstrap mke2fs debugfs e2fsck dumpe2fs apt-get python3 readelf cpio
ls /var/lib/apt/lists/*Release >/dev/null 2>&1 || skip "apt has no package lists (apt-get update)"
[ "$(id -u)" = 0 ] || need fakeroot newuidmap

agent=$work/agent store=$work/images
agent_make "$agent"
cat >"$work/tiny.conf" <<'CONF'
release  = bookworm
packages = bash     # and what is essential
free_mib = 64
CONF
build() { "$images/build" "$work/tiny.conf" -o "$store" --agent-dir "$agent"; }
content() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["content"])' "$store/tiny/image.json"; }
leftovers() { find "$store" -maxdepth 1 -name '.tiny.????????' ! -name "$(readlink "$store/tiny")"; }

# Killed in the middle: nothing is half-made, the next build sweeps.
build >"$work/killed" 2>&1 &
builder=$!
while ! grep -q installing "$work/killed" && kill -0 $builder; do sleep 0.1; done
kill -9 $builder
wait $builder 2>/dev/null
claim "a killed builder leaves no image" test ! -e "$store/tiny"

if ! build >"$work/first" 2>&1; then
	grep -q 'apt has no package lists\|cannot install\|cannot fetch' "$work/first" &&
		skip "Debian's packages cannot be had here: $(tail -n 1 "$work/first")"
fi
claim "an image is built" test -e "$store/tiny/image.json"
claim "nothing of the killed builder is left" test -z "$(leftovers)"
claim "the root filesystem is clean" e2fsck -fn "$store/tiny/rootfs.ext4"
claim "it has the agent" "$images/check" "$store/tiny/rootfs.ext4"
claim "it has at least the free space promised" test "$(dumpe2fs -h "$store/tiny/rootfs.ext4" 2>/dev/null |
	awk '/^Free blocks/ { print ($3 >= 64 * 256) }')" = 1
claim "it is sparse" test $(($(stat -c %b "$store/tiny/rootfs.ext4") * 512)) -lt \
	$(($(stat -c %s "$store/tiny/rootfs.ext4") - 50000000))
claim "the building machine's name and name servers are not in it" test -z \
	"$(debugfs -R 'cat /etc/resolv.conf' "$store/tiny/rootfs.ext4" 2>/dev/null)$(
	debugfs -R 'cat /etc/hostname' "$store/tiny/rootfs.ext4" 2>/dev/null | grep -vx forkd)"
claim "vmlinux is an ELF file for x86-64" grep -q X86-64 <(readelf -h "$store/tiny/vmlinux")
claim "vmlinuz is a bzImage" test "$(dd if="$store/tiny/vmlinuz" bs=1 skip=514 count=4 2>/dev/null)" = HdrS
mkdir "$work/initrd"
(cd "$work/initrd" && cpio -idm --quiet --no-absolute-filenames <"$store/tiny/initrd" 2>/dev/null)
claim "the initrd's init is forkd-initrd" cmp "$work/initrd/init" "$agent/forkd-initrd"
claim "every module of its order is there, and no other" diff <(sort "$work/initrd/modules/order") \
	<(cd "$work/initrd/modules" && ls ./*.ko | sed 's,^\./,,' | sort)
claim "it can mount the root and reach the host" test "$(grep -cxE \
	'virtio_mmio.ko|virtio_blk.ko|ext4.ko|vmw_vsock_virtio_transport.ko|virtio-rng.ko' "$work/initrd/modules/order")" = 5

before=$(content)
claim "a second build has nothing to do" grep -q 'up to date' <(build 2>&1)

echo 'changed = True' >>"$agent/forkd-warm.py"
mkdir "$store/.kernel.old" && touch "$store/.kernel.old/vmlinux"
build >"$work/second" 2>&1
claim "a kernel that no image uses is removed, the used one stays" test "$(echo "$store"/.kernel.*/vmlinux)" = \
	"$(find "$store" -samefile "$store/tiny/vmlinux" -path '*.kernel.*')"
claim "another agent does not install the packages again" grep -q 'keeping its packages' "$work/second"
claim "and is in the image" grep -q changed <(debugfs -R 'cat /usr/lib/forkd/forkd-warm.py' "$store/tiny/rootfs.ext4" 2>/dev/null)
claim "which has another content" test "$(content)" != "$before"
claim "and is clean" e2fsck -fn "$store/tiny/rootfs.ext4"
sed -i '$d' "$agent/forkd-warm.py"

build >/dev/null 2>&1 &
first=$!
build >"$work/other" 2>&1
other=$?
wait $first
claim "two builders at once both succeed" test $((other + $?)) = 0
claim "and leave one image" test -z "$(leftovers)"

truncate -s -1 "$(realpath "$store/tiny/rootfs.ext4")"
build >"$work/mended" 2>&1
claim "a damaged image is built anew" e2fsck -fn "$store/tiny/rootfs.ext4"
claim "from the same packages and agent, to the same bytes" test "$(content)" = "$before"

echo 'colour = red' >"$work/bad.conf"
claim "an unknown key is named" refuses 1 "bad.conf:1: colour is not a key" "$images/build" "$work/bad.conf" -o "$store" --agent-dir "$agent"
printf 'release = bookworm\npackages = no-such-package-anywhere\n' >"$work/bad.conf"
claim "an unknown package is named" refuses 1 "no-such-package-anywhere" "$images/build" "$work/bad.conf" -o "$store" --agent-dir "$agent"
printf 'release = nosuchrelease\npackages = bash\n' >"$work/bad.conf"
claim "an unknown release is named" refuses 1 "nosuchrelease" "$images/build" "$work/bad.conf" -o "$store" --agent-dir "$agent"
printf 'release = bookworm\npackages = bash\nremove = /../etc\n' >"$work/bad.conf"
claim "nothing outside the image can be removed" refuses 1 "remove = /../etc" "$images/build" "$work/bad.conf" -o "$store" --agent-dir "$agent"
claim "an unknown image is named, and the known ones" refuses 1 "there is no image called nothere" "$images/build" nothere -o "$store" --agent-dir "$agent"
claim "a missing agent is named" refuses 1 "forkd-agent is missing" "$images/build" minimal -o "$store" --agent-dir "$work"
claim "failures leave nothing" test -z "$(find "$store" -maxdepth 1 -name '.bad.????????' -o -name bad)"

# Makes the image on a disk of that size and shows what it left there.
build_small() {
	unshare --mount sh -c 'mkdir -p "$2" && mount -t tmpfs -o "size=$1" small "$2" && "$3" "$4" -o "$2" --agent-dir "$5"
		status=$?; find "$2" -name ".tiny.????????" -o -name tiny; exit $status' sh "$1" "$work/small" "$images/build" \
		"$work/tiny.conf" "$agent"
}
if [ "$(id -u)" = 0 ] && unshare --mount true; then
	claim "a disk that is too small is named, with what is needed" refuses 1 "$work/small has " \
		build_small 40m
	claim "and nothing is left on it" test -z "$(grep "^$work/small" "$work/refusal")"
fi
finish
