#!/usr/bin/env python3
# lab-test: bad-input 900
# lab-warm: tests/lab/warm.py
"""What people and hosts get wrong: one clear sentence that names the thing, the right status, nothing left behind."""

import concurrent.futures
import errno
import hashlib
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
def a_root_filesystem_of_rubbish_is_told_with_the_consoles_last_lines():
    # A superblock that is right, and behind it nothing that is: the guest finds that out.
    path = SCRATCH / "rubbish.ext4"
    SCRATCH.mkdir(exist_ok=True)
    with (IMAGE / "rootfs.ext4").open("rb") as whole, path.open("wb") as broken:
        broken.write(whole.read(1 << 16))
        broken.write(os.urandom(8 << 20))
        broken.truncate(os.fstat(whole.fileno()).st_size)
    said = refused(500, "the guest ended while it booted", "EXT4-fs", rootfs=str(path))
    assert len(said.splitlines()) > 2, said


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
    refused(400, "not yet", kernel=None, image="python3", mem_size_mib=512, boot_wait_secs=30,
            ready_cmd="echo not yet >&2; exit 3")


@case
def an_import_that_fails_is_told_with_its_traceback():
    refused(400, "no_such_module", kernel=None, image="python3", mem_size_mib=512, warmup=["no_such_module"])


class full_disk:
    """The state's filesystem without a free block for the length of a with statement, or until make_space()."""

    def __enter__(self):
        self.filler = STATE / "filler"
        descriptor, offset = os.open(self.filler, os.O_WRONLY | os.O_CREAT), 0
        try:
            # Allocated, not written: the disk is some gigabytes. The last blocks one by one.
            for size in (1 << 28, 1 << 20, 1 << 12):
                try:
                    while True:
                        os.posix_fallocate(descriptor, offset, size)
                        offset += size
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
        finally:
            os.close(descriptor)
        return self

    def make_space(self):
        self.filler.unlink(missing_ok=True)

    def __exit__(self, *_):
        self.make_space()


@case
def a_full_disk_is_named_and_what_runs_lives():
    with spawned("py", 1) as (running,):
        with full_disk():
            for path, body in (("/v1/sandboxes", {"snapshot_tag": "py"}),
                               ("/v1/snapshots", {"tag": "full", "image": "python3"})):
                try:
                    api("POST", path, body)
                    raise AssertionError(f"{path} on a full disk")
                except ApiError as error:
                    assert error.status == 500 and str(STATE) in error.text, error
                    assert "full" in error.text or "No space" in error.text, error
        assert product.process_lives(running.pid)
        assert [info["tag"] for info in api("GET", "/v1/snapshots")] == ["py"]
    with spawned("py", 1) as (after,):
        assert after.value("2 + 2") == "4"


@case
def a_guest_that_finds_no_space_stands_still_and_goes_on_when_there_is_some():
    # More than the filesystem's last blocks, and all of it in the command's own answer: nothing may be lost.
    write = "yes forkd | head -c 24000000 > /root/large && sync && md5sum < /root/large && dmesg | grep -c 'I/O error'"
    with spawned("py", 1) as (writer,), concurrent.futures.ThreadPoolExecutor() as pool:
        with full_disk() as disk:
            answer = pool.submit(writer.exec, "sh", "-c", write, timeout_secs=product.PATIENCE - 10)
            try:
                wait_for(lambda: "stalled" in api("GET", f"/v1/sandboxes/{writer.id}") or answer.done(), "the stall")
                assert not answer.done(), f"a full disk, and the guest has written: {answer.result()}"
                assert "No space left" in api("GET", f"/v1/sandboxes/{writer.id}")["stalled"]
                try:
                    writer.value("1")
                    raise AssertionError("a guest that stands still answers")
                except ApiError as error:
                    assert error.status == 409 and writer.id in error.text and "No space left" in error.text, error
            finally:
                disk.make_space()
                api("POST", f"/v1/sandboxes/{writer.id}/resume")
        said = answer.result()
        digest = hashlib.md5((b"forkd\n" * 4000000)[:24000000]).hexdigest()
        assert said["stdout"].split() == [digest, "-", "0"], said
        assert "stalled" not in api("GET", f"/v1/sandboxes/{writer.id}")


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
def a_dev_kvm_that_is_none_is_named():
    subprocess.run(["mount", "--bind", "/dev/null", "/dev/kvm"], check=True)
    try:
        refused(500, "/dev/kvm")
    finally:
        subprocess.run(["umount", "/dev/kvm"], check=True)


@case
def who_may_not_open_dev_kvm_is_told_so():
    own = pathlib.Path("/tmp/nobody")
    own.mkdir(mode=0o755)
    os.chown(own, 65534, 65534)
    mode = os.stat("/dev/kvm").st_mode & 0o777
    env = {**os.environ, "FORKD_STATE": str(own / "state.db"), "HOME": str(own),
           "FORKD_IMAGES": str(IMAGE.parent)}
    env.pop("FORKD_URL", None)

    def as_nobody(*args):
        return subprocess.run([BUILD / "forkd", *args], env=env, user=65534, group=65534, extra_groups=[],
                              capture_output=True, text=True)
    os.chmod("/dev/kvm", 0o600)
    try:
        told = as_nobody("snapshot", "--tag", "bad", "--image", "python3")
        assert told.returncode == 1 and "no permission on /dev/kvm" in told.stderr, told
        assert as_nobody("images", "--json").stdout.startswith('{"snapshots":[]'), as_nobody("images", "--json")
    finally:
        os.chmod("/dev/kvm", mode)
        assert as_nobody("stop").returncode == 0


controller.ensure()
run()
