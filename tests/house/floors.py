#!/usr/bin/env python3
"""Claims about scripts/check-floors: the house passes, and each kind of violation is seen. Prints TAP."""
import pathlib
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]


def run_check(top):
    return subprocess.run([TOP / "scripts/check-floors", top], stdout=subprocess.PIPE, text=True, check=False)


def header(folder, name, body=""):
    guard = f"FORKD_{folder}_{name}_H".upper()
    return f"#ifndef {guard}\n#define {guard}\n{body}\n#endif\n"


def check_files(files):
    with tempfile.TemporaryDirectory() as top:
        for path, text in files.items():
            file = pathlib.Path(top, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return run_check(top)


def violation_is_seen(path, text, expected):
    done = check_files({path: text})
    return done.returncode == 1 and expected in done.stdout


def ring(includer):
    """Modules a, b and c of src/dev: a includes b, b includes c, and `includer` includes a."""
    files = {"src/dev/a.h": header("dev", "a", '#include "dev/b.h"'), "src/dev/b.h": header("dev", "b"),
             "src/dev/b.c": '#include "dev/c.h"\n', "src/dev/c.h": header("dev", "c"), "src/dev/c.c": ""}
    name, head = includer
    return {**files, f"src/dev/{name}": head + '#include "dev/a.h"\n'}


def circle_is_seen(includer):
    done = check_files(ring(includer))
    return done.returncode == 1 and "src/dev: modules include each other in a circle: a -> b -> c -> a" in done.stdout


CLAIMS = {
    "this house has no violation": lambda: run_check(TOP).returncode == 0,
    "a higher floor is not included": lambda: violation_is_seen(
        "src/mem/a.c", '#include "dev/virtio.h"\n', "mem (floor 2) may not include dev (floor 3)"),
    "a neighbour on the same floor is not included": lambda: violation_is_seen(
        "src/dev/a.c", '#include "arch/cpuid.h"\n', "dev (floor 3) may not include arch (floor 3)"),
    "the controller does not look into a VMM": lambda: violation_is_seen(
        "src/controller/a.c", '#include "mem/gmem.h"\n', "may not include mem"),
    "an include names its folder": lambda: violation_is_seen(
        "src/mem/a.c", '#include "gmem.h"\n', "does not start with a folder"),
    "a folder is on a floor": lambda: violation_is_seen("src/attic/a.c", "\n", "is on no floor"),
    "modules of a folder include each other in no circle": lambda: circle_is_seen(("c.c", "")),
    "a source without a header counts with the one it names": lambda: circle_is_seen(
        ("d.c", "/* d.c: see c.h. */\n")),
    "one above the others is no circle": lambda: check_files(ring(("main.c", "/* main.c */\n"))).returncode == 0,
    "a header is guarded by its name": lambda: violation_is_seen(
        "src/mem/a.h", header("mem", "b"), "is not guarded by FORKD_MEM_A_H"),
    "a file is not too long": lambda: violation_is_seen("src/mem/a.c", "\n" * 801, "801 lines"),
    "a file is called after something": lambda: violation_is_seen("src/mem/utils.c", "\n", "says nothing"),
}


def main():
    print(f"1..{len(CLAIMS)}")
    for number, (name, holds) in enumerate(CLAIMS.items(), 1):
        print(f"{'ok' if holds() else 'not ok'} {number} - {name}")
    print(run_check(TOP).stdout, end="")


if __name__ == "__main__":
    sys.exit(main())
