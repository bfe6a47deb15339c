#!/usr/bin/env python3
"""Where does the process that is branched stand in the kernel? Asked of /proc, where there is no tracing to be had."""

import collections
import os
import subprocess
import time

import probe

STEP_S = 0.01


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(p) for p in file.read().split()]


def runs_a_guest(pid):
    """Whether it has a vCPU open."""
    try:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any("kvm-vcpu" in link for link in links)


def source_of(main):
    """The fork that runs the guest; the workload's first process boots it, and has no vCPU any more then."""
    while main.poll() is None:
        for pid in children(main.pid):
            if runs_a_guest(pid):
                return pid
        time.sleep(STEP_S)
    raise SystemExit(main.stderr.read())


def stack_of(pid):
    """Of the thread that parks the guest and saves it."""
    with open(f"/proc/{pid}/task/{pid}/stack") as file:
        return tuple(line.split()[1].split("+")[0] for line in file if len(line.split()) > 1)


def main():
    args = probe.arguments(__doc__)
    found = collections.Counter()
    with probe.directory(args) as path:
        command = probe.workload(args, path)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as main_process:
            source = source_of(main_process)
            while main_process.poll() is None:
                try:
                    found[stack_of(source)] += 1
                except OSError:
                    break
                time.sleep(STEP_S)
            print(f"{args.engine}, {args.writer}, {args.root}")
            print(probe.told(main_process.stdout.read()))
    samples = [(probe.category(stack) if stack else "on a processor", n, stack) for stack, n in found.most_common()]
    busy = [s for s in samples if s[0] != "idle"]
    print(f"{sum(found.values())} samples: {probe.shares(s[:2] for s in samples)}")
    print(f"{sum(s[1] for s in busy)} of them in a branch: {probe.shares(s[:2] for s in busy)}")
    probe.rows("  category    samples  stack, innermost first",
               [f"{name:14} {n:7}  {' < '.join(stack[:7])}" for name, n, stack in busy])


if __name__ == "__main__":
    main()
