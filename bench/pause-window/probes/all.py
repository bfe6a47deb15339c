#!/usr/bin/env python3
"""Every probe on the old way and on ours, into text files and flame graphs: all.py [DIRECTORY] [OPTIONS OF PROBES...]"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PROBES = ("syscalls", "offcpu", "futex", "oncpu", "stacks", "filesystem", "tmpfs", "again")
# Ours has so short a pause that a sampling probe needs many of them.
WORKLOADS = {
    "classic-buffered": ["--engine", "classic", "--writer", "buffered"],
    "stream-direct": ["--engine", "stream", "--writer", "direct", "-n", "30", "--cold-mib", "64"],
}


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "results" / "probes")
    out.mkdir(parents=True, exist_ok=True)
    for name, workload in WORKLOADS.items():
        for probe in PROBES:
            line = [str(HERE / f"{probe}.py"), *sys.argv[2:], *workload]
            if probe == "oncpu":
                line += ["--out", str(out)]
            done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            (out / f"{name}-{probe}.txt").write_text(done.stdout)
            print(f"{name} {probe}: {'see ' + str(out) if done.returncode == 0 else done.stdout}", flush=True)


if __name__ == "__main__":
    main()
