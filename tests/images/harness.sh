# Sourced by the tests of guest images. Each claim prints ok or FAIL; a test that cannot run exits 77 with its reason.

images=$(cd "$(dirname "$0")/../../guest/images" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8
failures=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

skip() {
	echo "SKIP: $*"
	exit 77
}

need() {
	for program; do
		command -v "$program" >/dev/null || skip "$program is missing"
	done
}

# claim TEXT COMMAND...: the command must succeed.
claim() {
	local text=$1
	shift
	if "$@" >"$work/out" 2>&1; then
		echo "ok: $text"
	else
		echo "FAIL: $text"
		sed 's/^/  /' "$work/out" | tail -n 20
		failures=$((failures + 1))
	fi
}

# refuses STATUS SENTENCE COMMAND...: the command must fail with that status and say the sentence.
refuses() {
	local status=$1 sentence=$2 got=0
	shift 2
	"$@" >"$work/refusal" 2>&1 || got=$?
	grep -qF -- "$sentence" "$work/refusal" && [ "$got" = "$status" ] && return 0
	echo "status $got, and said:"
	cat "$work/refusal"
	return 1
}

finish() {
	[ "$failures" = 0 ] || echo "$failures claims failed"
	exit $((failures > 0))
}

# A directory with an agent that does nothing, to test what is done with the files.
agent_make() {
	need "${CC:-cc}"
	mkdir -p "$1"
	echo 'int main(void) { return 0; }' >"$work/nothing.c"
	"${CC:-cc}" -static -o "$1/forkd-agent" "$work/nothing.c" || skip "no static C library"
	cp "$1/forkd-agent" "$1/forkd-initrd"
	echo 'pass' >"$1/forkd-warm.py"
}
