#!/usr/bin/env python3
"""What does the process that is branched compute in the pause? A profile, and a flame graph of it."""

import pathlib
import re
import subprocess
import tempfile

import flame
import probe


def events():
    """On a hybrid machine each kind of core counts for itself; where there is no PMU a timer has to do."""
    sources = pathlib.Path("/sys/bus/event_source/devices")
    if (sources / "cpu_core").exists():
        return ["cpu_core/cycles/", "cpu_atom/cycles/"]
    return ["cycles"] if (sources / "cpu").exists() else ["cpu-clock"]


def record(args, path, file):
    line = ["perf", "record", "-q", "-g", "-F", str(args.hz), "-k", "CLOCK_MONOTONIC", "-o", file]
    for event in events():
        line += ["-e", event]
    done = subprocess.run([*line, "--", *probe.workload(args, path)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def samples(file):
    """(pid, nanoseconds, event, stack with the innermost frame first) of each."""
    text = subprocess.run(["perf", "script", "-i", file, "--ns", "-F", "comm,pid,tid,time,event,ip,sym"],
                          capture_output=True, text=True, check=True).stdout
    for block in text.split("\n\n"):
        lines = block.strip("\n").splitlines()
        head = re.match(r"\s*\S.*?\s+(\d+)/(\d+)\s+(\d+)\.(\d+):\s+(\S+):", lines[0]) if lines else None
        if head:
            frames = [line.split(None, 1)[1] for line in lines[1:] if len(line.split(None, 1)) > 1]
            yield int(head[1]), int(head[3]) * 10**9 + int(head[4]), head[5], [f for f in frames if f != "[unknown]"]


def category(frames):
    """What never entered the kernel is the program itself."""
    entered = any(f.startswith(("entry_", "asm_", "do_syscall")) for f in frames)
    return probe.category(frames) if entered else "program"


def main():
    args = probe.arguments(__doc__)
    probe.install("bpftrace", "perf")
    with probe.directory(args) as path, tempfile.NamedTemporaryFile(prefix="perf-") as file:
        with probe.Tracer("", args) as tracer:
            output = record(args, path, file.name)
        everything = list(samples(file.name))
    inside = [(event, frames) for pid, at, event, frames in everything
              if any(pid == p and begin <= at < end for p, begin, end in tracer.pauses)]
    print(f"{args.engine}, {args.writer}, {args.root}: {len(tracer.pauses)} pauses, {tracer.paused_ms():.1f} ms together")
    print(probe.told(output))
    print(f"{len(inside)} samples in the pauses of {len(everything)}, by {', '.join(events())}: "
          f"{probe.shares((category(frames), 1) for _, frames in inside)}")
    tops = {}
    for _, frames in inside:
        top = frames[0] if frames else "of a library without symbols"
        tops[top] = tops.get(top, 0) + 1
    probe.rows("  samples  function", [f"{n:7}  {name}" for name, n in sorted(tops.items(), key=lambda t: -t[1])])
    if args.out and inside:
        title = f"On a processor in the pause: {args.engine}, {args.writer}, {args.root}"
        target = args.out / f"flame-{args.engine}-{args.writer}-{args.root}.svg"
        target.write_text(flame.graph(title, [list(reversed(frames)) for _, frames in inside]))
        print(target.name)


if __name__ == "__main__":
    main()
