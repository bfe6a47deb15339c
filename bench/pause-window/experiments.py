"""What is measured. Each experiment varies one thing; its runs are options of vmbench.py, and go to one CSV.

`root` names a filesystem of roots.py; without one nothing is written. `series` is what a run is called in plots and
tables.
"""

ROOTS = ("host", "ext4", "xfs", "tmpfs")
WRITERS = ("direct", "fallocate", "buffered")
ENGINES = ("stream", "stop", "classic")
LOAD = {"engine": "stream", "hot_mib": 64, "cold_mib": 64, "dirty_mib_s": 400, "vcpus": 1, "interval_ms": 300}


def sizes(quick):
    """Does the pause depend on the size of the guest? A quarter of its memory has contents."""
    for mem in (256, 1024) if quick else (256, 512, 1024, 2048, 4096, 8192):
        cold = min(mem // 4, 2048)
        yield {**LOAD, "series": f"{mem} MiB", "n": 5 if quick else 20, "mem_mib": mem, "cold_mib": cold}


def hot(quick):
    """Does it depend on how much the guest rewrites all the time?"""
    for mib in (0, 16, 256) if quick else (0, 16, 64, 100, 256, 500, 512, 1000):
        yield {**LOAD, "series": f"{mib} MiB hot", "n": 5 if quick else 20, "mem_mib": 2048, "hot_mib": mib}


def rates(quick):
    """Does it depend on how fast it rewrites them? 0: as fast as it can."""
    for rate in (50, 400) if quick else (25, 50, 100, 200, 400, 800, 0):
        series = f"{rate} MiB/s" if rate else "unbounded"
        yield {**LOAD, "series": series, "n": 5 if quick else 20, "mem_mib": 512, "dirty_mib_s": rate}


def vcpus(quick):
    """Does it depend on the number of CPUs to be stopped?"""
    for n in (1, 2) if quick else (1, 2, 3, 4):
        load = {**LOAD, "dirty_mib_s": 100}
        yield {**load, "series": f"{n} vCPU", "n": 5 if quick else 20, "mem_mib": 512, "vcpus": n}


def row_of_20(quick):
    """Does it grow from branch to branch, writers of earlier ones still busy?"""
    for root in ("host", "tmpfs") if quick else ROOTS:
        yield {**LOAD, "series": root, "root": root, "writer": "direct", "n": 5 if quick else 20, "mem_mib": 512,
               "cold_mib": 400}


def row_of_200(quick):
    """The same ten times as long. Little is written of each, for 200 have to lie on the disk at once."""
    for root in ("host",) if quick else ROOTS:
        yield {**LOAD, "series": root, "root": root, "writer": "direct", "n": 20 if quick else 200, "mem_mib": 256,
               "hot_mib": 16, "cold_mib": 8, "dirty_mib_s": 100, "interval_ms": 100}


def engines(quick):
    """What is it that keeps the pause short: the stream, the writer, the filesystem?"""
    for engine in ("stream", "classic") if quick else ENGINES:
        for root in ("host", "tmpfs") if quick else ROOTS:
            for writer in ("direct", "buffered") if quick else WRITERS:
                yield {**LOAD, "series": f"{engine}, {writer}, {root}", "engine": engine, "writer": writer,
                       "root": root, "n": 5 if quick else 10, "mem_mib": 512, "cold_mib": 400, "dirty_mib_s": 100}


EXPERIMENTS = {f.__name__.replace("_", "-"): f for f in (sizes, hot, rates, vcpus, row_of_20, row_of_200, engines)}
