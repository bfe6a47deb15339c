#!/usr/bin/env python3
"""Claims about how the sources are laid out: as .clang-format says, which `make format` sees to. Prints TAP.

Each version of clang-format lays some lines out in its own way: Debian 12's is asked, and no other."""
import pathlib
import re
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("src", "guest", "tests", "bench")
VERSION = 14


def unusable():
    if not shutil.which("clang-format"):
        return "clang-format is not installed (scripts/install-deps)"
    said = subprocess.run(["clang-format", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = int(re.search(r"version (\d+)", said).group(1))
    return None if found == VERSION else f"clang-format is of version {found}; {VERSION} says how sources are laid out"


def complaints(*words, text=None):
    """The lines that are out of place: FILE:LINE of each."""
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *words], input=text, stderr=subprocess.PIPE,
                          text=True, cwd=TOP, check=False)
    found = re.findall(r"^(\S+:\d+):\d+: error:", done.stderr, re.M)
    assert bool(found) == (done.returncode != 0), done.stderr
    return found


def sources():
    files = sorted(path for folder in FOLDERS for path in (TOP / folder).rglob("*.[ch]"))
    assert len(files) > 100, files
    return complaints(*files)


def a_line_out_of_place():
    # The file's name chooses the rules; none of that name need be there.
    found = complaints("--assume-filename=src/base/none.c", text="int a;\nint  b;\n")
    return [] if found == ["src/base/none.c:2"] else [f"instead of line 2: {found}"]


CLAIMS = {"all sources are laid out as .clang-format says": sources, "a line out of place is seen": a_line_out_of_place}


def main():
    why = unusable()
    print(f"1..{len(CLAIMS)}")
    for number, (name, claim) in enumerate(CLAIMS.items(), 1):
        bad = [] if why else claim()
        print(f"{'not ok' if bad else 'ok'} {number} - {name}" + (f" # SKIP {why}" if why else ""))
        for line in bad:
            print(f"# {line}")


if __name__ == "__main__":
    sys.exit(main())
