"""One run of `vmbench branch`: branches of one guest in a row, all kept, as rows of a table."""

import json
import subprocess
import sys

OPTIONS = {
    "n": "-n",
    "mem_mib": "--mem-mib",
    "hot_mib": "--hot-mib",
    "cold_mib": "--cold-mib",
    "dirty_mib_s": "--dirty-mib-s",
    "vcpus": "--vcpus",
    "engine": "--engine",
    "writer": "--writer",
    "interval_ms": "--interval-ms",
}


def command(build, options, directory=None):
    line = [f"{build}/bench/vmbench", "branch", "--json"]
    for name, value in options.items():
        if name in OPTIONS and value is not None:
            line += [OPTIONS[name], str(value)]
    return line + (["--root", directory] if directory else [])


def rows(build, options, directory=None):
    """The rows, or none with the reason on stderr: what one run cannot do must not end the others."""
    line = command(build, options, directory)
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        print(f"  {' '.join(line)}: {done.stderr.strip()}", file=sys.stderr)
        return []
    found = json.loads(done.stdout)
    constant = {k: v for k, v in options.items() if k not in ("n", "interval_ms")}
    constant.update({k: found[k] for k in ("park_floor_us", "copy_floor_us_per_page")})
    return [{**constant, **row(i, branch)} for i, branch in enumerate(found["branches"])]


def row(index, branch):
    phases = {f"{phase}_us": us for phase, us in branch["phases"].items()}
    same = "guest_gap_us rounds pages_streamed pages_in_pause ready_ms lost_ms bytes".split()
    return {
        "branch_idx": index,
        "pause_ms": round(branch["pause_us"] / 1000, 4),
        "diff_ms": branch.get("durable_ms", ""),
        "diff_physical_bytes": branch.get("disk_bytes", ""),
        **phases,
        **{name: branch[name] for name in same if name in branch},
    }
