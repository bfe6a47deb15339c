#!/usr/bin/env python3
"""Is it the filesystem? The same branches with the files in memory; the first of each, which is cold, told apart.

The two take turns, and the first turn of both does not count: whoever runs first pays for memory that the next one
finds ready (see again.py), and would be blamed for it.
"""

import json
import subprocess

import probe

TURNS = 2


def pauses(args, root):
    args.root = root
    with probe.directory(args) as path:
        done = subprocess.run(probe.workload(args, path), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [branch["pause_us"] / 1000 for branch in json.loads(done.stdout)["branches"]]


def main():
    args = probe.arguments(__doc__.splitlines()[0])
    for _ in range(TURNS):
        found = {root: pauses(args, root) for root in ("host", "tmpfs")}
    filesystem = probe.roots.filesystem_of(args.scratch)
    print(f"{args.engine}, {args.writer}; {args.n} samples each, ms")
    for root, ms in found.items():
        warm = sorted(ms[1:])
        name = filesystem if root == "host" else root
        print(f"  {name:6} cold {ms[0]:8.2f}, then p50 {warm[len(warm) // 2]:8.2f}, max {warm[-1]:8.2f}: "
              + probe.in_ms(ms))
    host, memory = (sum(found[root][1:]) for root in ("host", "tmpfs"))
    beyond = max(host - memory, 0)
    print(f"share of the pauses that goes with {filesystem}: {beyond / host:.0%} (a ratio of sums, without the cold ones)")


if __name__ == "__main__":
    main()
