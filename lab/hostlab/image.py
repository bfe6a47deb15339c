"""The emulated host's image: kernel, initrd, root disk and empty disks.

Theory of operation
    apt resolves the closure of PACKAGES against an empty system, with the
    machine's own sources, and downloads it; the packages are unpacked, not
    installed: no maintainer script runs, and the few things such a script
    would have made are made here. The root becomes an uncompressed squashfs.
    The kernel is Debian's cloud kernel: it has kvm_amd, XFS, nf_tables and
    BTF like the generic one, in a third of the size, and boots faster.

    An image is named by a hash of this file and of the guest's own files. The
    versions that went in are written to `packages.txt` beside it; `lab/setup
    --refresh` makes it anew from the versions apt knows then.
"""

import gzip
import lzma
import os
import pathlib
import shutil
import struct
import subprocess
import sys

from . import cache
from .say import LabError, progress, say

HERE = pathlib.Path(__file__).resolve().parent
HOST_FILES = HERE.parent / "host"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = """
    base-files base-passwd bash bsdextrautils busybox-static coreutils curl
    dash diffutils e2fsprogs findutils gawk gdb-minimal grep gzip hostname
    iproute2 iputils-ping kmod libarchive13 libasan8 libcmocka0 libcurl4
    libjansson4 libmicrohttpd12 libnftables1 libseccomp2 libsqlite3-0
    libubsan1 liburing2 mount nftables openssl procps psmisc python3 sed
    socat sqlite3 strace tar util-linux xfsprogs xz-utils zstd
""".split()
INITRD_MODULES = ["virtio_pci", "virtio_blk", "squashfs", "overlay"]
MERGED = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]
SCRATCH_SIZE = "8G"
SPARE_SIZE = "4G"
IMAGES_KEPT = 2
SQUASHFS_FAST = "-noI -noId -noD -noF -noX -no-xattrs -no-progress -quiet".split()


def run(argv, **options):
    """Run a tool; on failure show what it said."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, **options,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace")[-4000:])
        raise LabError(f"{argv[0]} failed with status {done.returncode}.")
    return done.stdout


def image_key():
    """Hash of all that decides what is in the image, but for package versions."""
    sources = [pathlib.Path(__file__), HERE / "frames.py", *sorted(HOST_FILES.iterdir())]
    return cache.key_of([(path.name, path.read_text()) for path in sources])


def apt_options(folder):
    """apt as the machine has it, but blind to what is installed on it."""
    options = {
        "Dir::State::status": "/dev/null",
        "Dir::State::extended_states": "/dev/null",
        "Dir::Cache::archives": str(folder),
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "root",
        "Dpkg::Use-Pty": "0",
    }
    return [word for item in options.items() for word in ("-o", "=".join(item))]


def kernel_package():
    """The package with the kernel itself, that the one of fixed name points to."""
    text = run(["apt-cache", "depends", "--important", KERNEL]).decode()
    for line in text.splitlines():
        if "Depends: linux-image-" in line:
            return line.split()[-1]
    raise LabError(f"apt knows no {KERNEL}; try apt-get update.")


def packages_download(folder):
    """Download everything; returns (packages of the root, kernel package)."""
    archives = folder / "archives"
    (archives / "partial").mkdir(parents=True)
    apt = ["apt-get", "-qq", "-y", *apt_options(archives)]
    run([*apt, "--download-only", "install", *PACKAGES])
    kernel = folder / "kernel"
    kernel.mkdir()
    run([*apt, "download", kernel_package()], cwd=kernel)
    return sorted(archives.glob("*.deb")), next(kernel.glob("*.deb"))


def package_unpack(package, root):
    """Unpack into a merged-/usr root, whose links tar must follow, not replace."""
    content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    run_tar = subprocess.run(
        ["tar", "-xpf", "-", "--keep-directory-symlink", "-C", root, "--exclude=./usr/share/doc",
         "--exclude=./usr/share/man", "--exclude=./usr/share/locale", "--exclude=./usr/share/info"],
        stdin=content.stdout, check=False,
    )
    if content.wait() or run_tar.returncode:
        raise LabError(f"{package} could not be unpacked.")


def root_unpack(packages, root):
    """The root file system, with what maintainer scripts would have made."""
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        package_unpack(package, root)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    (root / "etc/hosts").write_text("127.0.0.1 localhost lab\n::1 localhost\n")
    (root / "etc/hostname").write_text("lab\n")
    (root / "etc/machine-id").write_text("")
    for name, target in (("awk", "gawk"), ("sh", "dash")):
        link = root / "usr/bin" / name
        if not link.exists():
            link.symlink_to(target)
    for name in ("proc", "sys", "dev", "run", "tmp", "var/tmp", "root", "mnt", "home", "lab"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    run(["ldconfig", "-r", root])
    # Compiled once here instead of in every emulated process.
    run(["chroot", root, "python3", "-m", "compileall", "-q", "/usr/lib/python3.11"])


def payload_decompress(data):
    """The ELF kernel inside a bzImage, whichever compression Debian chose."""
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\xfd7zX":
        return lzma.LZMADecompressor().decompress(data)
    for magic, tool in ((b"\x02\x21\x4c\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "zstd")):
        if data[:4] == magic:
            # The kernel's build appends the size; neither tool knows of it.
            return subprocess.run(
                [tool, "-dcq"], input=data[:-4], stdout=subprocess.PIPE, check=True
            ).stdout
    raise LabError(f"The kernel is packed in an unknown way ({data[:4].hex()}).")


def vmlinux_extract(bzimage, target):
    """QEMU boots an ELF kernel a second faster than it would unpack a bzImage.

    Fields as in Documentation/x86/boot.rst: setup_sects, payload_offset and
    payload_length.
    """
    data = bzimage.read_bytes()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    kernel = payload_decompress(data[start : start + length])
    if kernel[:4] != b"\x7fELF":
        raise LabError(f"{bzimage.name} holds no ELF kernel.")
    target.write_bytes(kernel)


def kernel_unpack(package, folder, root):
    """Kernel and initrd into the image, all modules into the root."""
    unpacked = folder / "kernel-root"
    unpacked.mkdir()
    package_unpack(package, unpacked)
    version = next((unpacked / "lib/modules").iterdir()).name
    vmlinux_extract(unpacked / f"boot/vmlinuz-{version}", folder / "vmlinux")
    modules = root / "usr/lib/modules" / version
    shutil.copytree(unpacked / "lib/modules" / version, modules, symlinks=True)
    run(["depmod", "-b", root, version])
    initrd_make(root, version, folder)
    return version


def modules_needed(root, version):
    """Files of INITRD_MODULES and of what they need, in the order to load."""
    needs = {}
    for line in (root / "usr/lib/modules" / version / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    order = []
    for name in INITRD_MODULES:
        for module in needs:
            if pathlib.Path(module).name.split(".ko")[0] == name:
                order += [*reversed(needs[module]), module]
    return list(dict.fromkeys(order))


def initrd_make(root, version, folder):
    tree = folder / "initrd"
    (tree / "modules").mkdir(parents=True)
    (tree / "bin").mkdir()
    shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
    shutil.copy(HOST_FILES / "initrd-init", tree / "init")
    (tree / "init").chmod(0o755)
    order = modules_needed(root, version)
    for module in order:
        shutil.copy(root / "usr/lib/modules" / version / module, tree / "modules")
    names = "".join(f"{pathlib.Path(module).name}\n" for module in order)
    (tree / "modules/order").write_text(names)
    files = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    with open(folder / "initrd.cpio", "wb") as archive:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
            input=files.encode(), stdout=archive, cwd=tree, check=True,
        )


def disks_make(root, folder):
    for name in ("hostd.py", "host-up"):
        shutil.copy(HOST_FILES / name, root / "lab" / name)
    shutil.copy(HERE / "frames.py", root / "lab/frames.py")
    (root / "lab/host-up").chmod(0o755)
    run(["mksquashfs", root, folder / "root.sqfs", *SQUASHFS_FAST])
    run(["truncate", "-s", SPARE_SIZE, folder / "spare.raw"])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "scratch", "-N", "65536",
         "-E", "lazy_itable_init=0,lazy_journal_init=0",
         folder / "scratch.raw", SCRATCH_SIZE])


def image_build(folder):
    """Make the image in folder."""
    progress("downloading the emulated host's packages")
    packages, kernel = packages_download(folder)
    progress(f"unpacking {len(packages)} packages and the kernel")
    root = folder / "root"
    root.mkdir()
    root_unpack(packages, root)
    version = kernel_unpack(kernel, folder, root)
    progress(f"making the disks (Linux {version})")
    disks_make(root, folder)
    names = "".join(f"{path.name}\n" for path in [*packages, kernel])
    (folder / "packages.txt").write_text(names)
    for name in ("archives", "kernel", "kernel-root", "initrd", "root"):
        shutil.rmtree(folder / name)


def image_ensure(refresh=False):
    """Path of the image; made first if there is none. Needs root only then."""
    key = image_key()
    path = cache.entry_find("images", key)
    if path and not refresh:
        return path
    if os.geteuid() != 0:
        raise LabError("The lab's image is made as root: run lab/setup as root.")
    if path:
        cache.entry_remove(path)
    return cache.entry_ensure(
        "images", key, IMAGES_KEPT, image_build,
        lambda: say("waiting for another lab that makes the image"),
    )


def lab_files_missing():
    """Names of tools the lab needs and the machine lacks."""
    tools = "qemu-system-x86_64 qemu-img mksquashfs sqfstar cpio depmod lz4 zstd mke2fs tar".split()
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [tool for tool in tools if not shutil.which(tool, path=path)]
