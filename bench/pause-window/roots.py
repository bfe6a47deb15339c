"""Filesystems to write branches to: a directory on each, for the length of a with statement.

ext4 and XFS are images of their own on loop devices, so that each begins empty and none shares its journal with the
host; tmpfs is a mount of its own. On the machine's own filesystem ("host") the page cache of the loop device is not in
the way, which is what the old anomaly needs to show itself as it was: ext4 over ext4 throttles twice.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}


def filesystem_of(path):
    out = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip()
    return "ext4" if out == "ext2/ext3" else out


@contextlib.contextmanager
def mounted(name, scratch, mib):
    """A directory on a filesystem of that name: host, ext4, xfs or tmpfs."""
    place = tempfile.mkdtemp(prefix=f"pause-window-{name}-", dir=scratch)
    if name == "host":
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    image = f"{place}.image"
    try:
        if name == "tmpfs":
            mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", place]
        else:
            with open(image, "wb") as file:
                os.truncate(file.fileno(), mib << 20)
            subprocess.run([*MAKE[name], image], check=True)
            mount = ["mount", "-o", "loop", image, place]
        subprocess.run(mount, check=True)
        try:
            yield place
        finally:
            # A writer of a run that was interrupted may still be at it: it keeps the mount until it ends.
            if subprocess.run(["umount", place], stderr=subprocess.DEVNULL).returncode:
                subprocess.run(["umount", "--lazy", place], check=True)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(image)
        os.rmdir(place)
