#!/bin/sh
# lab-test: agent-vsock 400
# The agent's tests again, through the kernel's own vsock: half-closing, hanging up and waiting for a slow reader are
# not told in the same way there as on a Unix socket. The loopback shares its code with the virtio transport.
modprobe vsock_loopback || {
    echo "no vsock loopback in this kernel"
    exit 77
}
export FORKD_TEST_VSOCK=1
status=0
for test in wire exec ready eval "identity build/tests/agent/libsame_pid.so"; do
    set -- $test
    name=$1
    shift
    python3 "tests/agent/test_$name.py" build/guest/agent/forkd-agent "$@" || status=1
done
exit $status
