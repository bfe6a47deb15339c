#!/usr/bin/env python3
# lab-test: isolation 400
# lab-warm: tests/lab/warm.py
"""What a sandbox can reach: nothing of the host's, nothing of its siblings'."""

import os
import pathlib
import re

from product import api, case, controller, run, spawned, STATE

CONNECT = """
import socket
def attempt(cid, port):
    s = socket.socket(socket.AF_VSOCK)
    s.settimeout(5)
    try:
        s.connect((cid, port))
        return 'open'
    except OSError as error:
        return 'refused'
"""


def status_of(pid):
    return dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":\t" in line)


@case
def ids_cannot_be_guessed():
    ids = set()
    for _ in range(3):
        with spawned("py", 5) as children:
            ids |= {child.id for child in children}
    assert len(ids) == 15
    for id in ids:
        assert re.fullmatch(r"sb-[a-z2-7]{20,38}", id), id
    # Letters at one place differ: no counter, no clock.
    for place in range(3, 20):
        assert len({id[place] for id in ids}) > 3, f"place {place} of {ids}"


@case
def a_guest_reaches_neither_host_nor_siblings():
    with spawned("py", 2) as (a, b):
        a.value(f"exec({CONNECT!r}, globals())")
        for cid in (0, 2, 4, 5):
            for port in (1, 22, 52, 1024):
                assert a.value(f"attempt({cid}, {port})") == "'refused'", (cid, port)
        assert a.sh("ls /sys/class/net") == "lo"


@case
def a_sandbox_process_has_nothing_left_to_give():
    with spawned("py", 2) as children:
        for child in children:
            status = status_of(child.pid)
            assert status["Uid"].split()[0] != "0", status["Uid"]
            assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
            assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"))
            assert os.listdir(f"/proc/{child.pid}/root") == []
        own = os.stat(f"/proc/{os.getpid()}/ns/net").st_ino
        assert all(os.stat(f"/proc/{child.pid}/ns/net").st_ino != own for child in children)


def descriptors(pid):
    """(target, status, writable) of what a process has open; a connection may close while it is looked at."""
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            info = pathlib.Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
            flags = int(re.search(r"flags:\s*(\d+)", info)[1], 8)
            yield os.readlink(entry), os.stat(entry), flags & os.O_ACCMODE != os.O_RDONLY
        except FileNotFoundError:
            pass


@case
def a_sandbox_holds_no_descriptor_of_another():
    def files(child):
        return {(status.st_dev, status.st_ino) for target, status, _ in descriptors(child.pid)
                if target.startswith("/") and not target.startswith("/dev/")}

    def writable(child):
        return {(status.st_dev, status.st_ino) for target, status, writes in descriptors(child.pid)
                if writes and (target.startswith("/var") or "memfd" in target)}
    with spawned("py", 2) as (a, b):
        log = os.stat(STATE / "log")
        shared = writable(a) & writable(b) - {(log.st_dev, log.st_ino)}
        assert writable(a) and not shared, f"both may write {shared}"
        assert len(files(a)) < 12, files(a)


@case
def the_run_directory_is_its_owners_alone():
    with spawned("py", 1) as (child,):
        for path in (STATE / "state.db.run", STATE / "state.db.run" / child.id):
            assert path.stat().st_mode & 0o077 == 0, path


controller.ensure()
run()
