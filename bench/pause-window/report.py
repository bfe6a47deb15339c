#!/usr/bin/env python3
"""Puts what was measured into RESULTS.md and PROBE.md: report.py DIRECTORY

What stands between `<!-- table NAME -->` and `<!-- end -->` is replaced by the table of experiment NAME, and after
`<!-- probe NAME -->` by what that probe said. The rest is written by people, who say what it means.
"""

import pathlib
import platform
import re
import sys

import table


def number(value):
    if value is None:
        return ""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def markdown(head, rows):
    lines = [" | ".join(head), " | ".join("---" if i == 0 else "---:" for i in range(len(head)))]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def settings(trials):
    """One line for each setting, of a run that wrote nothing."""
    head = ["", "branches", "pause p50, ms", "p90", "max", "park floor", "gap in the guest p50", "ready p50",
            "pages in the pause p50", "lost afterwards p50, ms"]
    def line(trial):
        p = lambda column, percent=50: table.percentile(trial, column, percent)
        gap = p("guest_gap_us")
        return [trial[0]["series"], str(len(trial)), number(p("pause_ms")), number(p("pause_ms", 90)),
                number(p("pause_ms", 100)), number(trial[0]["park_floor_us"] / 1000),
                number(gap / 1000 if gap is not None else None), number(p("ready_ms")),
                f"{p('pages_in_pause'):.0f}", number(p("lost_ms"))]
    return markdown(head, map(line, trials))


def rows_in_a_row(trials):
    """How the pause develops: thirds of the row, and whether p90 is at most twice the median."""
    head = ["", "branches", "first", "pause p50, ms", "p90", "max", "p50 of the last third", "p90 / p50",
            "on disk p50, ms", "MiB of each"]
    def line(trial):
        p = lambda column, percent=50: table.percentile(trial, column, percent)
        last = table.percentile(trial[-max(len(trial) // 3, 1):], "pause_ms", 50)
        size = p("diff_physical_bytes")
        return [trial[0]["series"], str(len(trial)), number(trial[0]["pause_ms"]), number(p("pause_ms")),
                number(p("pause_ms", 90)), number(p("pause_ms", 100)), number(last),
                f"{p('pause_ms', 90) / p('pause_ms'):.1f}", number(p("diff_ms")),
                number(size / (1 << 20) if size is not None else None)]
    return markdown(head, map(line, trials))


def product(trials):
    """The first branch of each controller is cold and stands apart."""
    head = ["", "cold one, ms", "pause p50, ms", "p90", "max", "ready p50, ms", "diff p50, ms", "diff, MiB"]
    def line(trial):
        warm = trial[1:] or trial
        p = lambda column, percent=50: table.percentile(warm, column, percent)
        size = p("diff_physical_bytes")
        return [trial[0]["series"], number(trial[0]["pause_ms"]), number(p("pause_ms")), number(p("pause_ms", 90)),
                number(p("pause_ms", 100)), number(p("ready_ms")), number(p("diff_ms")),
                number(size / (1 << 20) if size is not None else None)]
    return markdown(head, map(line, trials))


def client(rows):
    head = ["", "requests", "latency p50, ms", "p99", "max", "longest around a branch p50", "gap in the guest p50",
            "pause p50"]
    lines = []
    for trial in table.trials(rows):
        p = lambda column, percent=50: table.percentile(trial, column, percent)
        lines.append([trial[0]["series"], f"{sum(r['requests'] or 0 for r in trial):.0f}", number(p("latency_p50_ms")),
                      number(p("latency_p99_ms")), number(p("latency_max_ms", 100)), number(p("latency_max_ms")),
                      number(p("guest_gap_ms")), number(p("pause_ms"))])
    return markdown(head, lines)


TABLES = {"row-of-20": rows_in_a_row, "row-of-200": rows_in_a_row, "engines": rows_in_a_row, "product": product}


def where():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    return f"{model}, Linux {platform.release()}"


def made(directory, kind, name):
    """The text for a place in a document, or None where nothing was measured."""
    if kind == "probe":
        said = pathlib.Path(directory) / "probes" / f"{name}.txt"
        return f"```\n{said.read_text().rstrip()}\n```" if said.exists() else None
    if name == "where":
        return where()
    path = pathlib.Path(directory) / f"{name}.csv"
    rows = table.read(path) if path.exists() else []
    if not rows:
        return None
    return client(rows) if name == "client" else TABLES.get(name, settings)(table.trials(rows))


def fill(directory, document):
    def replace(match):
        text = made(directory, match[1], match[2])
        return match[0] if text is None else f"<!-- {match[1]} {match[2]} -->\n{text}\n<!-- end -->"
    document = pathlib.Path(document)
    document.write_text(re.sub(r"<!-- (table|probe) ([\w-]+) -->\n.*?<!-- end -->", replace, document.read_text(),
                               flags=re.S))


def fill_all(directory):
    for name in ("RESULTS.md", "PROBE.md"):
        fill(directory, pathlib.Path(__file__).resolve().parent / name)


if __name__ == "__main__":
    fill_all(sys.argv[1])
