"""The command line of lab/run."""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys

from . import image, qemu, say
from .batch import batch_parse, batch_run
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
    parser.add_argument("--batch", metavar="FILE",
                        help="run the commands of FILE (- is stdin), each in a lab of its own, two"
                             " at a time; a line is NAME, SECONDS, COMMAND with tabs between;"
                             " status 77 is a skip, the last line of output its reason")
    parser.add_argument("--results", metavar="FILE",
                        help="with --batch: write a JSON object a line for each command")
    parser.add_argument("--setup", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--refresh", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


def tree_top():
    return str(pathlib.Path(__file__).resolve().parents[2])


def options_check(parser, options):
    """The parser's error for whatever cannot be meant."""
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if bool(options.command) == bool(options.batch):
        parser.error("a COMMAND or a --batch is needed")
    if options.results and not options.batch:
        parser.error("--results goes with --batch")
    if len(options.payload) > len(qemu.DELIVERIES) - 1:
        parser.error(f"at most {len(qemu.DELIVERIES) - 1} payloads")
    for path in options.payload:
        if not os.path.exists(path):
            parser.error(f"--payload {path}: there is no such file")
    for pair in options.env:
        if pair.find("=") < 1:
            parser.error(f"--env {pair}: NAME=VALUE is needed")
    if not 512 <= options.mem <= 65536:
        parser.error("--mem: 512 to 65536 MiB")
    if options.build and not os.path.isdir(options.build):
        parser.error(f"--build {options.build}: there is no such directory")


def request_make(options):
    """What Session shall do, from checked options."""
    top = tree_top()
    build = os.path.abspath(options.build or os.path.join(top, "build"))
    cwd = os.getcwd()
    return Request(
        command=options.command, top=top, build=build if os.path.isdir(build) else None,
        seconds=options.time, mem_mib=options.mem, fresh=options.fresh, warm=options.warm,
        cwd=cwd if os.path.commonpath([cwd, top]) == top else top,
        payloads=tuple(os.path.abspath(path) for path in options.payload),
        out=tuple(os.path.abspath(path) for path in options.out),
        env=dict(pair.split("=", 1) for pair in options.env),
    )


def batch_command(options):
    """lab/run with the options that all commands of a batch share."""
    words = [sys.executable, os.path.join(tree_top(), "lab", "run"), "--quiet"]
    for name in ("build", "warm"):
        if value := getattr(options, name):
            words += [f"--{name}", value]
    for name in ("payload", "out", "env"):
        for value in getattr(options, name):
            words += [f"--{name}", value]
    return [*words, "--mem", str(options.mem), *(["--fresh"] if options.fresh else [])]


def batch(options):
    # The first restore makes whatever is missing, and shows that it does.
    shown = [word for word in batch_command(options) if word != "--quiet"]
    if status := subprocess.run([*shown, "true"], stdin=subprocess.DEVNULL, check=False).returncode:
        raise say.LabError(f"The lab could not be prepared (status {status}).")
    with contextlib.ExitStack() as files:
        lines = sys.stdin
        if options.batch != "-":
            lines = files.enter_context(open(options.batch, encoding="utf-8"))
        entries = batch_parse(lines)
        results = files.enter_context(open(options.results, "w")) if options.results else None
        return batch_run(entries, batch_command(options), results)


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
            options.command = ["true"]  # makes the saved host, too
        options_check(parser, options)
        if options.batch:
            return batch(options)
        return Session(request_make(options)).run()
    except BrokenPipeError:
        # What is still buffered for a reader that left must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (say.LabError, OSError, subprocess.CalledProcessError) as failure:
        say.say(str(failure))
        return STATUS_LAB_FAILED
