#!/usr/bin/env python3
"""Which system calls does the process that is branched make in the pause, and how long do they take?"""

import re

import probe

# A vCPU enters KVM_RUN at the end of one pause and leaves it at the beginning of the next: that is no part of either.
PROGRAM = """
tracepoint:raw_syscalls:sys_enter /@in[pid]/ { @entered[tid] = nsecs; @call[tid] = args->id; }
tracepoint:raw_syscalls:sys_exit /@entered[tid]/ {
    if (@in[pid] && @entered[tid] > @in[pid]) {
        @calls[@call[tid]] = count(); @ns[@call[tid]] = sum(nsecs - @entered[tid]);
    }
    delete(@entered[tid]); delete(@call[tid]);
}
"""

GROUPS = {
    "memory": "mmap munmap madvise mprotect brk mremap memfd_create",
    "KVM": "ioctl",
    "idle": "futex epoll_wait epoll_pwait poll ppoll recvmsg pause nanosleep clock_nanosleep",
}


def names():
    with open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") as file:
        return {number: name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", file.read())}


def group(name, filesystem):
    for found, calls in GROUPS.items():
        if name in calls.split():
            return found
    files = ("write", "read", "open", "fallocate", "ftruncate", "fsync", "fdatasync", "close", "fcntl", "lseek")
    return filesystem if any(part in name for part in files) else "other"


def main():
    args = probe.arguments(__doc__)
    tracer = probe.trace(PROGRAM, args)
    filesystem = probe.roots.filesystem_of(args.scratch) if args.root == "host" else args.root
    known, calls, ns = names(), tracer.maps.get("@calls", {}), tracer.maps.get("@ns", {})
    found = sorted(((known.get(n, n), calls[n], ns[n]) for n in calls), key=lambda row: -row[2])
    print(f"{sum(calls.values())} calls; time: {probe.shares((group(n, filesystem), t) for n, _, t in found)}")
    print(f"without waiting for others: "
          f"{probe.shares((g, t) for n, _, t in found if (g := group(n, filesystem)) != 'idle')}")
    probe.rows("  call               count    ms together    us each",
               [f"{name:16} {count:7} {t / 1e6:14.2f} {t / 1e3 / count:10.1f}" for name, count, t in found])


if __name__ == "__main__":
    main()
