#!/bin/bash
# An ext4 image made elsewhere: it is refused without agent, gets one without being mounted, and is marked.
. "$(dirname "$0")/harness.sh"
need mke2fs debugfs e2fsck python3 setpriv cmp

agent=$work/agent
agent_make "$agent"
rootfs=$work/rootfs.ext4
add() { "$images/add-agent" "$1" --agent-dir "$agent"; }
label() { dd if="$1" bs=1 skip=1144 count=16 2>/dev/null | tr -d '\0'; }

mkdir -p "$work/tree/usr/lib" "$work/tree/etc"
echo theirs >"$work/tree/etc/hostname"
mke2fs -q -t ext4 -L theirs -d "$work/tree" "$rootfs" 32M || skip "mke2fs cannot make an image here"
cp "$rootfs" "$work/before"

claim "a rootfs without agent is refused with the sentence that says how to add it" refuses 1 \
	"$rootfs has no forkd agent (/usr/lib/forkd/forkd-agent); add it with: forkd images add-agent $rootfs" \
	"$images/check" "$rootfs"
claim "checking changes nothing" cmp "$rootfs" "$work/before"
claim "an agent can be added" add "$rootfs"
claim "the image then passes the check" "$images/check" "$rootfs"
claim "the mark is at byte 1144" test "$(label "$rootfs")" = forkd-agent-1
claim "the filesystem is clean" e2fsck -fn "$rootfs"
debugfs -R "dump /usr/lib/forkd/forkd-agent $work/agent-back" "$rootfs" 2>/dev/null
claim "the agent's file is whole" cmp "$work/agent-back" "$agent/forkd-agent"
claim "the agent can be executed and belongs to root" grep -Eq ' 100755 .* 0 +0 .* forkd-agent$' \
	<(debugfs -R 'ls -l /usr/lib/forkd' "$rootfs" 2>/dev/null)
claim "the hooks' directory and the mount points exist" test "$(for path in /etc/forkd/fork.d /proc /sys /dev /run /tmp; do
	debugfs -R "stat $path" "$rootfs" 2>/dev/null; done | grep -c 'Type: directory')" = 6
claim "what was there stays" grep -q theirs <(debugfs -R 'cat /etc/hostname' "$rootfs" 2>/dev/null)

echo 'changed = True' >>"$agent/forkd-warm.py"
claim "another agent replaces the first" add "$rootfs"
debugfs -R "dump /usr/lib/forkd/forkd-warm.py $work/warm-back" "$rootfs" 2>/dev/null
claim "its file is the new one" cmp "$work/warm-back" "$agent/forkd-warm.py"
claim "the filesystem is clean again" e2fsck -fn "$rootfs"

debugfs -w -R 'rm /usr/lib/forkd/forkd-agent' "$rootfs" 2>/dev/null
claim "a mark without agent is refused" refuses 1 "has no forkd agent" "$images/check" "$rootfs"
cp "$work/before" "$rootfs"
debugfs -w -R 'mkdir /usr/lib/forkd' "$rootfs" 2>/dev/null
(cd "$agent" && debugfs -w -R 'write forkd-agent /usr/lib/forkd/forkd-agent' "$rootfs") >/dev/null 2>&1
claim "an agent without mark is refused" refuses 1 "without its mark" "$images/check" "$rootfs"

head -c 1000000 /dev/zero >"$work/zeros"
claim "what is no ext4 filesystem is refused" refuses 1 "$work/zeros is not an ext4 filesystem" add "$work/zeros"
claim "an empty file is refused" refuses 1 "is not an ext4 filesystem" "$images/check" /dev/null
claim "a missing image is named" refuses 1 "$work/missing: No such file" "$images/check" "$work/missing"
claim "a directory is named" refuses 1 "cannot read $work: Is a directory" "$images/check" "$work"

cp "$work/before" "$work/unclean"
debugfs -w -R 'feature needs_recovery' "$work/unclean" >/dev/null 2>&1
cp "$work/unclean" "$work/unclean-before"
claim "an image that was not unmounted is refused" refuses 1 "was not unmounted cleanly" add "$work/unclean"
claim "and left as it was" cmp "$work/unclean" "$work/unclean-before"

mkdir "$work/big"
head -c 2500000 /dev/urandom >"$work/big/fill"
mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$work/big" "$work/full" 3M
cp "$work/full" "$work/full-before"
claim "an image without room is refused" refuses 1 "$work/full has no room for the agent" add "$work/full"
claim "and left as it was too" cmp "$work/full" "$work/full-before"

cp "$work/before" "$rootfs"
echo 'int main(void) { return 0; }' >"$work/nothing.c"
"${CC:-cc}" -o "$agent/forkd-agent" "$work/nothing.c"
claim "an agent that needs libraries is refused" refuses 1 "forkd-agent is not linked statically" add "$rootfs"
rm "$agent/forkd-agent"
claim "a missing agent is named" refuses 1 "$agent/forkd-agent is missing" add "$rootfs"
claim "nothing is left beside the image" test -z "$(find "$work" -name '.forkd-add-agent*')"
finish
