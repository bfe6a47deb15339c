#!/usr/bin/env python3
"""Draws the results: plot.py DIRECTORY makes an SVG beside each CSV."""

import pathlib
import sys

import svg
import table

X_TITLES = {"sizes": "memory of the guest", "hot": "rewritten", "rates": "written in a second",
            "vcpus": "guest"}


def without_unit(names):
    """Names without what all of them end with, and that."""
    units = {name.partition(" ")[2] for name in names}
    return ([name.partition(" ")[0] for name in names], units.pop()) if len(units) == 1 else (names, "")


def over_settings(name, rows):
    """Pause and gap of every branch over the setting that was varied."""
    trials = table.trials(rows)
    names, unit = without_unit([trial[0]["series"] for trial in trials])

    def dots(column, scale=1.0, shift=0.0):
        return [(i + shift, row[column] * scale) for i, trial in enumerate(trials) for row in trial if row[column]]

    floor = [(i, trial[0]["park_floor_us"] / 1000) for i, trial in enumerate(trials)]
    median = [(i, table.percentile(trial, "pause_ms", 50)) for i, trial in enumerate(trials)]
    return svg.chart(f"Pause of a branch: {name}", f"{X_TITLES[name]}, {unit}".rstrip(", "), "ms", [
        svg.Series("pause, median", median),
        svg.Series("park floor", floor, dashed=True),
        svg.Series("pause, each", dots("pause_ms", shift=-0.08), dots=True),
        svg.Series("longest gap in the guest", dots("guest_gap_us", 1 / 1000, 0.08), dots=True),
    ], names)


def over_branches(title, trials):
    """Pause by number of the branch, a line for each run."""
    return svg.chart(title, "branch in the row", "pause, ms",
                     [svg.Series(trial[0]["series"], [(row["branch_idx"], row["pause_ms"]) for row in trial])
                      for trial in trials])


def seen_by_client(rows):
    """Pause, the guest's gap and the slowest answer of every branch, and the same without one."""
    trials = table.trials(rows)
    names = [trial[0]["series"] for trial in trials]

    def dots(column, shift):
        return [(i + shift, row[column]) for i, trial in enumerate(trials) for row in trial if row[column]]

    return svg.chart("A request every 10 ms, in the lab", "", "ms", [
        svg.Series("slowest answer", dots("latency_max_ms", 0.1), dots=True),
        svg.Series("median answer", dots("latency_p50_ms", 0), dots=True),
        svg.Series("longest gap in the guest", dots("guest_gap_ms", -0.1), dots=True),
        svg.Series("pause", dots("pause_ms", -0.2), dots=True),
    ], names)


def charts(name, rows):
    """File names and SVG texts of one experiment."""
    if name in X_TITLES:
        return {name: over_settings(name, rows)}
    if name == "client":
        return {name: seen_by_client(rows)}
    trials = table.trials(rows)
    if name == "engines":
        return {f"engines-{root}": over_branches(f"Ten branches in a row, by engine and writer: {root}", found)
                for root in dict.fromkeys(trial[0]["root"] for trial in trials)
                if (found := shorter([t for t in trials if t[0]["root"] == root], f", {root}"))}
    if name == "product":
        return {f"product-{root}": over_branches(f"Diffs through the controller, dirtied before each: {root}", found)
                for root in dict.fromkeys(trial[0]["root"] for trial in trials)
                if (found := shorter([t for t in trials if t[0]["root"] == root], f" dirtied, {root}"))}
    return {name: over_branches(f"Branches in a row, writers busy: {name}", trials)}


def shorter(trials, ending):
    return [[{**row, "series": row["series"].removesuffix(ending)} for row in trial] for trial in trials]


def draw(directory):
    for name, rows in table.results(directory).items():
        if "pause_ms" not in (rows[0] if rows else {}):
            continue
        for file, text in charts(name, rows).items():
            if text:
                (pathlib.Path(directory) / f"{file}.svg").write_text(text)


if __name__ == "__main__":
    draw(sys.argv[1])
