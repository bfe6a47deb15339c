"""What goes into the lab: trees and payloads, each as an uncompressed squashfs.

Theory of operation
    A squashfs holds its files under their absolute paths. The tree (sources and
    one build directory) is named by the content of its files, so an unchanged
    tree is not packed again and a warm host made with it is found again. A
    payload may be hundreds of MiB: it is named by sizes and times instead.
"""

import dataclasses
import hashlib
import os
import pathlib
import stat
import subprocess
import tarfile

from . import cache
from .image import SQUASHFS_FAST
from .say import LabError, progress

LEFT_OUT_DIRS = {".git", "__pycache__", "node_modules", ".cache", "meson-logs"}
LEFT_OUT_SUFFIXES = (".o", ".a", ".pyc", ".gch", ".gcno", ".gcda", ".ninja_log", ".ninja_deps")
TREES_KEPT = 6
PAYLOADS_KEPT = 6
LARGE = 64 << 20


@dataclasses.dataclass(frozen=True)
class Delivery:
    """A packed disk and the paths in it that the host shall show."""

    identity: str
    file: pathlib.Path
    paths: tuple
    writable: bool


def is_build_dir(path):
    return os.path.isdir(os.path.join(path, "meson-private"))


def tree_files(top, build):
    """Paths below top that go in: no objects, and of builds only the wanted one."""
    for folder, names, files in os.walk(top):
        names[:] = sorted(
            name for name in names
            if name not in LEFT_OUT_DIRS and not name.endswith(".p")
            and not (is_build_dir(path := os.path.join(folder, name)) and path != build)
        )
        yield from (os.path.join(folder, name) for name in names)
        for name in sorted(files):
            if not name.endswith(LEFT_OUT_SUFFIXES):
                yield os.path.join(folder, name)


def content_key(path):
    """Type, mode and content of one file."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return [path, status.st_mode, os.readlink(path)]
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return [path, status.st_mode, hashlib.file_digest(file, "sha256").hexdigest()]
    return [path, status.st_mode, ""]


def size_key(path):
    status = os.lstat(path)
    times = [] if stat.S_ISDIR(status.st_mode) else [status.st_size, status.st_mtime_ns]
    return [path, status.st_mode, *times]


def pack_files(files, target):
    size = sum(os.lstat(path).st_size for path in files)
    if size > LARGE:
        progress(f"packing {size >> 20} MiB for the lab")
    packer = subprocess.Popen(
        ["sqfstar", *SQUASHFS_FAST, target],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    with tarfile.open(fileobj=packer.stdin, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        for path in files:
            archive.add(path, recursive=False, filter=owner_reset)
    said = packer.communicate()[0]
    if packer.returncode:
        raise LabError(f"sqfstar: {said.decode(errors='replace').strip()[-500:]}")


def owner_reset(member):
    """Whoever owns the files outside, in the lab it is root; sockets stay out."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def deliver(kind, key, keep, files, paths, writable):
    """The delivery of these files, packed now unless it was before."""
    entry = cache.entry_ensure(
        kind, key, keep, lambda folder: pack_files(files, folder / "disk.sqfs")
    )
    return Delivery(cache.entry_identity(entry), entry / "disk.sqfs", paths, writable)


def tree_deliver(top, build):
    """The source tree and its build directory, writable in the lab."""
    paths = (top,) if build is None or is_below(build, top) else (top, build)
    files = [file for path in paths for file in [path, *tree_files(path, build)]]
    key = cache.key_of([content_key(path) for path in files])
    return deliver("trees", key, TREES_KEPT, files, paths, True)


def payload_deliver(path):
    """A file or directory, read-only in the lab."""
    files = [path]
    for folder, names, others in os.walk(path):
        files += [os.path.join(folder, name) for name in sorted(names + others)]
    key = cache.key_of([size_key(file) for file in files])
    return deliver("payloads", key, PAYLOADS_KEPT, files, (path,), False)


def is_below(path, folder):
    return os.path.commonpath([path, folder]) == folder
