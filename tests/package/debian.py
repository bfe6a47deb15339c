"""A Debian 12 of its own: a root made by mmdebstrap, its systemd as pid 1 of new namespaces. As root only."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

DEADLINE = 120.0
PACKAGES = "systemd,systemd-sysv,dbus,init-system-helpers"
HERE = pathlib.Path(__file__).resolve().parent


class Missing(Exception):
    """This host cannot make one; the text says why."""


def run(*command, seconds=600, **options):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=seconds, check=False, **options)


def until(condition, what):
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.05)
    return value


def root_archive(folder):
    """The root file system, made once in this directory."""
    archive = folder / "debian-root.tar"
    if not archive.exists():
        part = folder / f"debian-root.{os.getpid()}.tar"
        made = run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", part)
        if made.returncode:
            part.unlink(missing_ok=True)
            raise Missing(f"mmdebstrap cannot make a Debian 12: {(made.stdout.strip() or '?').splitlines()[-1]}")
        part.rename(archive)
    return archive


def root_make(folder):
    """A root file system of its own, in a new directory of this one; the archive stays there for the next."""
    if os.geteuid() != 0:
        raise Missing("a Debian with its own systemd needs root")
    for program in ("mmdebstrap", "unshare", "nsenter"):
        if not shutil.which(program):
            raise Missing(f"{program} is not installed")
    archive = root_archive(pathlib.Path(folder))
    root = pathlib.Path(tempfile.mkdtemp(prefix="debian-", dir=folder))
    unpacked = run("tar", "-xf", archive, "-C", root, "--exclude=./dev/*")
    assert unpacked.returncode == 0, unpacked.stdout
    return root


class Debian:
    def __init__(self, root):
        """Takes the root over: close() removes it."""
        self.root, self.process = pathlib.Path(root), None
        try:
            self.boot()
        except BaseException:
            print("# " + self.explain().replace("\n", "\n# "))
            self.close()
            raise

    def boot(self):
        self.log = open(self.root / "root" / "console", "wb")
        # Its namespaces' pid 1 goes with unshare, and everything in them with it.
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", HERE / "boot",
             self.root], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until(self.is_up, "systemd is up")

    def explain(self):
        """Why systemd is not up."""
        jobs = self("systemctl", "list-jobs", check=False).stdout if getattr(self, "pid", None) else ""
        return jobs + (self.root / "root" / "console").read_text(errors="replace")[-3000:]

    def is_up(self):
        assert self.process.poll() is None, (self.root / "root" / "console").read_text(errors="replace")[-2000:]
        self.pid = self.child_of(self.process.pid)
        return self.pid and self("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    @staticmethod
    def child_of(pid):
        words = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(words[0]) if words else None

    def __call__(self, *command, check=True, env=None):
        """Runs a command inside."""
        done = run("nsenter", "-t", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--", "env", "-i",
                   "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "HOME=/root", "LC_ALL=C.UTF-8",
                   *(f"{name}={value}" for name, value in (env or {}).items()), *command)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}"
        return done

    def path(self, inside):
        return self.root / inside.lstrip("/")

    def close(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)


def main(claims, build):
    """Runs the claims one after the other on one Debian, since each goes on where the one before ended. TAP."""
    try:
        machine = Debian(root_make(build))
    except Missing as why:
        print(f"1..1\nok 1 - on a Debian 12 of its own # SKIP {why}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return judge(claims, machine)


def judge(claims, machine):
    print(f"1..{len(claims)}")
    bad, skip = 0, None
    try:
        for number, claim in enumerate(claims, 1):
            name = claim.__name__.replace("_", " ")
            try:
                skip = skip or (None if bad else claim(machine))
                print(f"{'not ok' if bad else 'ok'} {number} - {name}" + (f" # SKIP {skip}" if skip else ""), flush=True)
            except (AssertionError, OSError, ValueError, KeyError, subprocess.TimeoutExpired):
                bad = 1
                print(f"not ok {number} - {name}", flush=True)
                print("# " + traceback.format_exc()[-3000:].replace("\n", "\n# "), flush=True)
    finally:
        machine.close()
    return bad
