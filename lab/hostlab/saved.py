"""Saved hosts: booted once, restored in a fraction of a second.

Theory of operation
    The host's RAM is a file that QEMU maps. A host that will be saved maps it
    shared, so that saving is stopping the CPU and writing the devices' state,
    some 300 KiB (migration with x-ignore-shared). A restored host maps the file
    privately: any number of them run from one file and none changes it.
    Disks are handled alike: a saved host owns qcow2 overlays, and each run puts
    overlays of its own on those.

    Two kinds. The base host is up, with nothing delivered. A warm host also ran
    a SETUP command, with its deliveries mounted and its background processes
    alive; it starts from a copy of the base host's RAM.

Invariants
    1. A saved host's name covers all it was made from: QEMU, the CPU's clock,
       the image, the machine, its memory; for a warm one the base host itself,
       the deliveries, SETUP and its environment.
    2. A host is saved only when held (see Host.hold).
    3. A saved host that cannot be restored is deleted, never tried twice.
"""

import hashlib
import json
import subprocess

from . import cache, qemu
from .host import Host
from .say import LabError

HOSTS_KEPT = 3
WARM_KEPT = 3
BOOT_SECONDS = 180
HOLD_SECONDS = 20
SAVE_SECONDS = 60
RESTORE_SECONDS = 30
DISKS = ("scratch", "spare")


class Machine:
    """The machine of one image and memory size, and how to start hosts of it."""

    def __init__(self, image, mem_mib):
        self._image = image
        self._mem_mib = mem_mib
        self._args = qemu.machine_args(image, mem_mib)
        self.key = cache.key_of(
            qemu.qemu_identity(), cache.entry_identity(image), self._args, qemu.DELIVERIES
        )

    def boot(self, folder, files):
        """Boot a host, not yet greeted. Its RAM and disks are files in folder."""
        ram = qemu.ram_args(folder / "ram", self._mem_mib, shared=True)
        return self._start(ram, self._image, "raw", files, folder)

    def restore(self, saved, folder, files, keep_ram=False):
        """Restore a saved host, not yet greeted. Its writes go to files in folder.

        With keep_ram folder holds a copy of the RAM that this host may change,
        because it is to be saved in its turn.
        """
        state_verify(saved)
        ram = qemu.ram_args((folder if keep_ram else saved) / "ram", self._mem_mib, keep_ram)
        args = [*ram, "-incoming", "defer"]
        host = self._start(args, saved, "qcow2", files, folder)
        try:
            with open(saved / "state", "rb") as state:
                host.monitor.migration_run("migrate-incoming", state, RESTORE_SECONDS)
            host.monitor.command("cont")
        except BaseException:
            host.close()
            raise
        return host

    def _start(self, args, below, suffix, files, folder):
        """below: where the disks are that this host's overlays lie on."""
        disks = {name: folder / f"{name}.qcow2" for name in DISKS}
        for name, path in disks.items():
            path.unlink(missing_ok=True)
            qemu.overlay_create(path, below / f"{name}.{suffix}")
        args = [*self._args, *args, *qemu.disk_args(self._image, disks, files)]
        return Host(qemu.Qemu(args, folder / "qemu.log"))


def host_save(host, folder):
    """Save a held host whose RAM is in folder. The host is of no use afterwards."""
    with open(folder / "state", "wb") as state:
        host.monitor.command("stop")
        host.monitor.migration_run("migrate", state, SAVE_SECONDS)
    host.close()
    seal = {"state": file_digest(folder / "state"), "ram": (folder / "ram").stat().st_size}
    (folder / "seal.json").write_text(json.dumps(seal))


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_verify(saved):
    """Refuse a saved host whose files are not what was written."""
    try:
        seal = json.loads((saved / "seal.json").read_text())
        whole = seal == {
            "state": file_digest(saved / "state"), "ram": (saved / "ram").stat().st_size
        }
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise LabError("Its files are damaged.")


def ram_copy(saved, folder):
    subprocess.run(
        ["cp", "--sparse=always", "--reflink=auto", saved / "ram", folder / "ram"], check=True
    )
