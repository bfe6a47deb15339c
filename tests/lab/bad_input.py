#!/usr/bin/env python3
# lab-test: bad-input 600
# lab-warm: tests/lab/warm.py
"""What people and hosts get wrong: one clear sentence that names the thing, the right status, nothing left behind."""

import errno
import os
import pathlib
import subprocess

import product
from product import api, ApiError, BUILD, STATE, case, controller, leftovers, run, spawned, wait_for

IMAGE = pathlib.Path(os.environ.get("FORKD_IMAGES", "/var/lib/forkd/images")) / "python3"
SCRATCH = pathlib.Path("/var/lib/forkd/bad")


def file_with(name, content):
    SCRATCH.mkdir(exist_ok=True)
    path = SCRATCH / name
    path.write_bytes(content)
    return str(path)


def refused(status, *words, **fields):
    """A snapshot that is not made: the status, every word in the sentence, and nothing of it afterwards."""
    before = leftovers()
    tags = [info["tag"] for info in api("GET", "/v1/snapshots")]
    body = {"tag": "bad", "kernel": str(IMAGE / "vmlinux"), "mem_size_mib": 256, "boot_wait_secs": 60, **fields}
    try:
        api("POST", "/v1/snapshots", {name: value for name, value in body.items() if value is not None})
        raise AssertionError(f"taken: {fields}")
    except ApiError as error:
        assert error.status == status, error
        assert all(word in error.text for word in words), f"{words} are not in: {error.text}"
        said = error.text
    assert [info["tag"] for info in api("GET", "/v1/snapshots")] == tags
    wait_for(lambda: leftovers() == before, f"nothing to be left of {fields}: {leftovers()} instead of {before}")
    return said


@case
def a_kernel_that_is_missing_or_none_is_named():
    refused(400, "/no/such/kernel", kernel="/no/such/kernel")
    refused(400, "kernel", kernel=None)
    for name, content in (("text", b"I am no kernel\n" * 999), ("empty", b""), ("cut", (IMAGE / "vmlinux").open("rb").read(99999))):
        path = file_with(name, content)
        refused(400, path, kernel=path)


@case
def a_root_filesystem_that_is_missing_or_broken_is_named():
    refused(400, "/no/such/rootfs", rootfs="/no/such/rootfs")
    path = file_with("noise", os.urandom(1 << 20))
    refused(400, path, rootfs=path)


@case
def a_root_filesystem_without_agent_is_refused_with_what_adds_it():
    path = str(SCRATCH / "bare.ext4")
    SCRATCH.mkdir(exist_ok=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", path, "8M"], check=True, stdout=subprocess.DEVNULL)
    refused(400, path, "/usr/lib/forkd/forkd-agent", "forkd images add-agent", rootfs=path)


@case
def tags_sizes_and_counts_that_cannot_be_are_refused():
    for tag in ("", ".", "..", "a/b", "a b", "x" * 65, "-a", 7, None):
        refused(400, "tag", tag=tag)
    refused(400, "py", tag="py")
    for size in (0, 15, 65537, -1, 1.5, "512"):
        refused(400, "mem_size_mib", mem_size_mib=size)
    for count in (0, 17, -1, "2"):
        refused(400, "vcpus", vcpus=count)
    refused(400, "boot_wait_secs", boot_wait_secs=61)


@case
def a_kernel_that_panics_is_told_with_the_consoles_last_lines():
    said = refused(500, "Kernel panic", "Unable to mount root")
    assert len(said.splitlines()) > 3, said


@case
def a_guest_that_is_never_ready_is_told():
    refused(400, "not yet", kernel=None, image="python3", mem_size_mib=512, ready_cmd="echo not yet >&2; exit 3")


@case
def an_import_that_fails_is_told_with_its_traceback():
    refused(400, "no_such_module", kernel=None, image="python3", mem_size_mib=512, warmup=["no_such_module"])


def fill(path):
    """Writes until the filesystem takes no more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    os.write(descriptor, b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
    finally:
        os.close(descriptor)


@case
def a_full_disk_is_named_and_what_runs_lives():
    with spawned("py", 1) as (running,):
        filler = STATE / "filler"
        try:
            fill(filler)
            for request in (lambda: api("POST", "/v1/sandboxes", {"snapshot_tag": "py"}),
                            lambda: api("POST", "/v1/snapshots", {"tag": "full", "image": "python3"})):
                try:
                    request()
                    raise AssertionError("taken on a full disk")
                except ApiError as error:
                    assert error.status == 500 and ("full" in error.text or "No space" in error.text), error
        finally:
            filler.unlink()
        assert product.process_lives(running.pid)
        assert [info["tag"] for info in api("GET", "/v1/snapshots")] == ["py"]
    with spawned("py", 1) as (after,):
        assert after.value("2 + 2") == "4"


@case
def the_command_line_says_it_and_fails():
    env = {**os.environ, "FORKD_URL": f"unix:{product.SOCKET}"}

    def forkd(*args):
        return subprocess.run([BUILD / "forkd", *args], env=env, capture_output=True, text=True)
    missing = forkd("snapshot", "--tag", "bad", "--kernel", "/no/such/kernel")
    assert missing.returncode == 1 and "HTTP 400" in missing.stderr and "/no/such/kernel" in missing.stderr, missing
    unknown = forkd("exec", "sb-nobody", "--", "true")
    assert unknown.returncode == 1 and "HTTP 404" in unknown.stderr and "sb-nobody" in unknown.stderr, unknown
    assert forkd("spawn").returncode == 2
    assert forkd("no-such-verb").returncode == 2


@case
def a_dev_kvm_that_may_not_be_opened_is_named():
    os.chmod("/dev/kvm", 0)
    subprocess.run(["mount", "--bind", "/dev/null", "/dev/kvm"], check=True)
    try:
        refused(500, "/dev/kvm")
    finally:
        subprocess.run(["umount", "/dev/kvm"], check=True)
        os.chmod("/dev/kvm", 0o666)


controller.ensure()
run()
