#!/usr/bin/env python3
"""Is it memory that the host has to find first? The same run after a rest, and at once again with memory just freed."""

import json
import subprocess
import time

import probe

# A machine that is itself virtual may give free memory back to its host after a while, and gets it page by page.
REST_S = 45


def pauses(args):
    with probe.directory(args) as path:
        done = subprocess.run(probe.workload(args, path), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [branch["pause_us"] / 1000 for branch in json.loads(done.stdout)["branches"]]


def main():
    args = probe.arguments(__doc__)
    time.sleep(REST_S)
    rested, again = pauses(args), pauses(args)
    print(f"{args.engine}, {args.writer}, {args.root}; {args.n} samples each, ms")
    print(f"  after {REST_S} s of rest: " + probe.in_ms(rested))
    print("  at once again:    " + probe.in_ms(again))
    beyond = max(sum(rested) - sum(again), 0)
    print(f"share of the pauses that goes with memory that was not there: {beyond / sum(rested):.0%}")


if __name__ == "__main__":
    main()
