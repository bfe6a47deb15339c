"""The results as files: one CSV for each experiment, one row for each branch."""

import csv
import math
import pathlib
import statistics

# The first five are those of the experiment's first author, so that old and new results can be laid side by side.
COLUMNS = """trial branch_idx pause_ms diff_ms diff_physical_bytes series engine writer root mem_mib hot_mib cold_mib
dirty_mib_s vcpus kick_us save_us log_us pages_us resume_us guest_gap_us rounds pages_streamed pages_in_pause ready_ms
lost_ms bytes park_floor_us copy_floor_us_per_page""".split()
CLIENT_COLUMNS = COLUMNS[:13] + "requests latency_p50_ms latency_p99_ms latency_max_ms guest_gap_ms ready_ms".split()
NUMBERS = {*COLUMNS, *CLIENT_COLUMNS} - {"series", "engine", "writer", "root"}


class Table:
    """A CSV that grows with each branch, so that a run that was interrupted has told what it knew."""

    def __init__(self, path, columns=COLUMNS):
        self.file = open(path, "w", newline="")
        self.writer = csv.DictWriter(self.file, columns, restval="", lineterminator="\n")
        self.writer.writeheader()
        self.trials = 0

    def add(self, rows):
        self.writer.writerows({"trial": self.trials, **row} for row in rows)
        self.file.flush()
        self.trials += 1

    def close(self):
        self.file.close()


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in NUMBERS & row.keys():
            row[name] = float(row[name]) if row[name] else None
    return rows


def trials(rows):
    """Rows by trial, in order."""
    found = {}
    for row in rows:
        found.setdefault(row["trial"], []).append(row)
    return list(found.values())


def percentile(rows, column, percent):
    values = sorted(row[column] for row in rows if row[column] is not None)
    if not values:
        return None
    if percent == 50:
        return statistics.median(values)
    return values[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def results(directory):
    return {path.stem: read(path) for path in sorted(pathlib.Path(directory).glob("*.csv"))}
