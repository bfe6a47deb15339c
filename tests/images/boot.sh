#!/bin/bash
# The image python3 boots in an ordinary emulated machine, by either kernel file, up to numpy in Python.
# FORKD_AGENT_DIR holds the built agent; FORKD_IMAGES is where the image is kept for the next run.
. "$(dirname "$0")/harness.sh"
need qemu-system-x86_64 mmdebstrap mke2fs debugfs e2fsck apt-get python3
ls /var/lib/apt/lists/*Release >/dev/null 2>&1 || skip "apt has no package lists (apt-get update)"
[ "$(id -u)" = 0 ] || need fakeroot newuidmap
[ -x "${FORKD_AGENT_DIR:?}/forkd-initrd" ] || skip "forkd-initrd is not built"

store=${FORKD_IMAGES:-$work/images}
if ! "$images/build" python3 -o "$store" --agent-dir "$FORKD_AGENT_DIR" 2>"$work/build"; then
	grep -q 'apt has no package lists\|cannot install\|cannot fetch' "$work/build" &&
		skip "Debian's packages cannot be had here: $(tail -n 1 "$work/build")"
fi
image=$store/python3
claim "the image is built" test -e "$image/image.json"

# What runs as process 1 in place of the agent, which needs forkd's own host side.
cat >"$work/boot-check" <<'INIT'
#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "shell: $((6 * 7)) as process $$ of $(uname -r)"
python3 -c 'import numpy; print("numpy:", numpy.arange(10).sum())'
grep -q '^vmw_vsock_virtio_transport ' /proc/modules && echo "vsock: loaded"
grep -q virtio_rng /sys/class/misc/hw_random/rng_available && echo "rng: present"
echo "tainted: $(cat /proc/sys/kernel/tainted)"
sync; written=$(awk '{ print $7 }' /sys/block/vda/stat)
ls -lR /etc >/dev/null; cat /usr/bin/* >/dev/null; sync
[ "$written" = "$(awk '{ print $7 }' /sys/block/vda/stat)" ] && echo "reading: writes nothing"
[ -s /etc/machine-id ] || echo "machine-id: empty"
mount -o remount,ro / && echo "root: at rest"
echo b >/proc/sysrq-trigger
INIT

# Under load the guest cannot measure its TSC with the emulated PIT, and microvm has no other clock to measure it
# with: the kernel then waits for ever. QEMU's software emulation hands out the host's TSC, so it is told the frequency.
tsc_khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)

# boot KERNEL: boots a copy of the image and leaves its console in $work/console.
boot() {
	cp --sparse=always "$image/rootfs.ext4" "$work/rootfs.ext4" && chmod 644 "$work/rootfs.ext4"
	(cd "$work" && debugfs -w -f /dev/stdin rootfs.ext4 >/dev/null 2>&1 <<-'COMMANDS'
		write boot-check /boot-check
		set_inode_field /boot-check mode 0100755
	COMMANDS
	)
	timeout 150 qemu-system-x86_64 -M microvm,acpi=on,rtc=on -accel tcg -cpu EPYC,-cx16 -m 256 -nodefaults \
		-no-user-config -display none -no-reboot -serial stdio -global virtio-mmio.force-legacy=false \
		-kernel "$image/$1" -initrd "$image/initrd" \
		-append "console=ttyS0 quiet reboot=k panic=-1 mitigations=off random.trust_cpu=on ${tsc_khz:+tsc_early_khz=$tsc_khz} forkd.init=/boot-check" \
		-drive "if=none,id=root,format=raw,file=$work/rootfs.ext4" -device virtio-blk-device,drive=root \
		-device virtio-rng-device 2>"$work/qemu" </dev/null | tr -d '\r' >"$work/console"
}
says() { grep -qE -- "$1" "$work/console" || { grep -v "TCG doesn't support" "$work/qemu"; cat "$work/console"; return 1; }; }

for kernel in vmlinux vmlinuz; do
	boot $kernel
	claim "$kernel boots to a shell as process 1" says '^shell: 42 as process 1 of 6\.'
	claim "$kernel: Python computes with numpy" says '^numpy: 45$'
	claim "$kernel: vsock is loaded" says '^vsock: loaded$'
	claim "$kernel: the kernel has a source of randomness" says '^rng: present$'
	claim "$kernel: the modules are those that Debian signed" says '^tainted: 0$'
	claim "$kernel: the guest has no machine-id of its builder" says '^machine-id: empty$'
	claim "$kernel: reading files writes nothing to the disk" says '^reading: writes nothing$'
	claim "$kernel: nothing on the way complained" test -z "$(grep -E 'forkd:|does not load|not found|No such|Traceback' "$work/console")"
	claim "$kernel: the root filesystem comes to rest" says '^root: at rest$'
	claim "$kernel: and is clean afterwards" e2fsck -fn "$work/rootfs.ext4"
done
finish
