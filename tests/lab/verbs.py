#!/usr/bin/env python3
# lab-test: verbs 300
# lab-warm: tests/lab/warm.py
"""forkd cp, top and bench with real Linux guests."""

import hashlib
import json
import os
import pathlib
import subprocess
import tempfile

from product import BUILD, SOCKET, api, case, run, spawned

ENV = {**os.environ, "FORKD_URL": f"unix:{SOCKET}"}
BLOCK = 384 << 10


def forkd(*args, status=0):
    done = subprocess.run([BUILD / "forkd", *args], env=ENV, capture_output=True, text=True)
    assert done.returncode == status, f"forkd {args}: {done}"
    return done


def told(*args):
    return json.loads(forkd(*args, "--json").stdout)


def there(id, command):
    return forkd("exec", id, "--", "sh", "-c", command).stdout.split()


@case
def cp_brings_files_there_and_back_whole():
    with tempfile.TemporaryDirectory() as folder, spawned("py", 1) as (box,):
        one, back = pathlib.Path(folder, "one"), pathlib.Path(folder, "back")
        for size in (0, 1, BLOCK, BLOCK + 2):
            one.write_bytes(os.urandom(size))
            one.chmod(0o640)
            forkd("cp", one, f"{box.id}:/tmp/there")
            said = there(box.id, "sha256sum < /tmp/there; stat -c %a /tmp/there; ls /tmp")
            assert said[0] == hashlib.sha256(one.read_bytes()).hexdigest() and said[2] == "640", (size, said)
            assert not any("forkd-cp" in word for word in said), said
            forkd("cp", f"{box.id}:/tmp/there", back)
            assert back.read_bytes() == one.read_bytes() and back.stat().st_mode & 0o777 == 0o640, size


@case
def cp_keeps_the_name_where_a_directory_is_named():
    with tempfile.TemporaryDirectory() as folder, spawned("py", 1) as (box,):
        one, into = pathlib.Path(folder, "one"), pathlib.Path(folder, "in")
        one.write_text("words\n")
        into.mkdir()
        forkd("cp", one, f"{box.id}:/tmp/")
        forkd("cp", f"{box.id}:/tmp/one", into)
        assert (into / "one").read_text() == "words\n"


@case
def cp_that_fails_says_why_and_leaves_nothing():
    with tempfile.TemporaryDirectory() as folder, spawned("py", 1) as (box,):
        one = pathlib.Path(folder, "one")
        one.write_text("words\n")
        assert "is no file" in forkd("cp", f"{box.id}:/tmp", one, status=1).stderr
        assert "is no file" in forkd("cp", f"{box.id}:/none", one, status=1).stderr
        assert "forkd: /none/such in " in forkd("cp", one, f"{box.id}:/none/such", status=1).stderr
        assert "No such file" in forkd("cp", one.parent / "none", f"{box.id}:/tmp/x", status=1).stderr
        assert os.listdir(folder) == ["one"] and one.read_text() == "words\n"


@case
def top_sees_who_is_busy():
    with spawned("py", 2) as (busy, idle):
        forkd("exec", busy.id, "--", "sh", "-c", "while :; do :; done > /dev/null 2>&1 &")
        picture = {one["id"]: one for one in told("top", "--once", "--interval", "3")}
        assert picture[busy.id]["cpu_percent"] > 20 + picture[idle.id]["cpu_percent"], picture
        assert list(picture) == [busy.id, idle.id], picture
        assert picture[idle.id]["memory_own_kib"] > 0, picture


@case
def bench_measures_and_leaves_nothing():
    before = api("GET", "/v1/sandboxes")
    series = told("bench", "--tag", "py", "-n", "2")
    assert [one["times"] for one in series] == [2, 2, 2, 1], series
    assert api("GET", "/v1/sandboxes") == before


run()
