"""The command line of lab/run."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys

from . import image, qemu, say
from .session import STATUS_LAB_FAILED, Request, Session

DESCRIPTION = """\
Run COMMAND in an emulated KVM host (QEMU, software emulation of AMD SVM, one
CPU, Debian's kernel with kvm_amd) that has the source tree and the build
directory in it, at the same paths as outside. stdout, stderr and the exit
status are COMMAND's. Nothing COMMAND does there remains, but for --out.
"""
EPILOG = """\
A COMMAND of one word is given to the shell: lab/run 'a | b'.
The lab passes on the variables FORKD_*, N and TERM, and sets FORKD_IN_LAB=1.

In the lab: root; /dev/kvm; cgroup v2 with memory, cpu, pids and io; an ext4
of its own on /var/lib/forkd; an empty 4 GiB disk /dev/lab-spare.

Exit status: COMMAND's; 124 when the time limit passed; 125 when the lab itself
failed; 126 or 127 when COMMAND could not be started.

The cache is $FORKD_LAB_CACHE, or forkd/lab in the user's cache directory.
FORKD_LAB_SLOTS labs run at a time (2 unless set); one more waits.
"""


def parser_make():
    parser = argparse.ArgumentParser(
        prog="lab/run", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--time", type=float, metavar="SECONDS",
                        help="kill COMMAND after so long; exit status 124")
    parser.add_argument("--build", metavar="DIR", help="build directory to bring (build)")
    parser.add_argument("--payload", action="append", default=[], metavar="PATH",
                        help="file or directory to show read-only at the same path; up to four")
    parser.add_argument("--out", action="append", default=[], metavar="DIR",
                        help="copy DIR out of the lab, to the same path, when COMMAND ended")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                        help="set a variable for COMMAND")
    parser.add_argument("--mem", type=int, default=2048, metavar="MIB",
                        help="memory of the emulated host (2048)")
    parser.add_argument("--warm", metavar="SETUP",
                        help="run COMMAND in a host where SETUP (for the shell) ran before; that"
                             " host is saved and found again while tree, payloads, SETUP and"
                             " environment are the same; --time limits each of the two")
    parser.add_argument("--fresh", action="store_true",
                        help="boot, and neither use nor make a saved host")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.add_argument("--setup", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--refresh", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


def tree_top():
    return str(pathlib.Path(__file__).resolve().parents[2])


def request_make(parser, options):
    """A Request from the options, or the parser's error."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("a COMMAND is needed")
    if len(options.payload) > len(qemu.DELIVERIES) - 1:
        parser.error(f"at most {len(qemu.DELIVERIES) - 1} payloads")
    for path in options.payload:
        if not os.path.exists(path):
            parser.error(f"--payload {path}: there is no such file")
    pairs = [pair.partition("=") for pair in options.env]
    if bad := [name for name, sign, _ in pairs if not sign or not name]:
        parser.error(f"--env {bad[0]}: NAME=VALUE is needed")
    if not 512 <= options.mem <= 65536:
        parser.error("--mem: 512 to 65536 MiB")
    top = tree_top()
    build = os.path.abspath(options.build or os.path.join(top, "build"))
    if not os.path.isdir(build):
        if options.build:
            parser.error(f"--build {options.build}: there is no such directory")
        build = None
    cwd = os.getcwd()
    return Request(
        command=command, top=top, build=build, seconds=options.time, mem_mib=options.mem,
        fresh=options.fresh, warm=options.warm,
        cwd=cwd if os.path.commonpath([cwd, top]) == top else top,
        payloads=tuple(os.path.abspath(path) for path in options.payload),
        out=tuple(os.path.abspath(path) for path in options.out),
        env={name: value for name, _, value in pairs},
    )


def end_on_signals():
    """A signal ends this process as an exception, so that everything is undone."""

    def end(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def main(args):
    parser = parser_make()
    options = parser.parse_args(args)
    say.quiet = options.quiet
    end_on_signals()
    try:
        if missing := image.lab_files_missing():
            raise say.LabError(f"Not installed: {' '.join(missing)}. Run lab/setup.")
        if options.setup:
            image.image_ensure(options.refresh)
            return 0
        return Session(request_make(parser, options)).run()
    except (say.LabError, OSError, subprocess.CalledProcessError) as failure:
        say.say(str(failure))
        return STATUS_LAB_FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return STATUS_LAB_FAILED
