"""The kernel: a Debian kernel package, fetched and taken apart, never installed.

The folder of a kernel holds `vmlinuz` (the bzImage as Debian ships it), `vmlinux` (the ELF file inside it),
the modules of WANTED with all that they need, and `order`, their file names in the order to load them.
Images of one kernel share its files.
"""

import glob
import lzma
import os
import re
import struct
import subprocess
import zlib

from .debian import apt_options
from .report import ImageError, program_require, run

# What a guest needs to find its devices, mount an ext4 root, speak vsock and seed its random numbers.
WANTED = ('virtio_mmio', 'virtio_blk', 'crc32c_generic', 'ext4', 'vmw_vsock_virtio_transport', 'virtio-rng')

# setup header of a bzImage: Documentation/arch/x86/boot.rst
SETUP_SECTS, MAGIC, PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x1f1, 0x202, 0x248, 0x24c


def _pipe(argv, data):
    program_require(argv[0])
    # The payload is followed by its size, which these programs take for a broken second frame: not an error.
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout


UNPACK = {
    b'\xfd7zXZ\0': lambda data: lzma.LZMADecompressor().decompress(data),
    b'\x1f\x8b': lambda data: zlib.decompressobj(31).decompress(data),
    b'\x28\xb5\x2f\xfd': lambda data: _pipe(['zstd', '-dcq'], data),
    b'\x02\x21\x4c\x18': lambda data: _pipe(['lz4', '-dcq'], data),
}


def vmlinux_extract(vmlinuz):
    """The ELF file inside a bzImage; both as bytes."""
    if len(vmlinuz) < 0x250 or vmlinuz[MAGIC:MAGIC + 4] != b'HdrS':
        raise ImageError('the kernel is not a bzImage (no setup header)')
    start = ((vmlinuz[SETUP_SECTS] or 4) + 1) * 512 + struct.unpack_from('<I', vmlinuz, PAYLOAD_OFFSET)[0]
    payload = vmlinuz[start:start + struct.unpack_from('<I', vmlinuz, PAYLOAD_LENGTH)[0]]
    for magic, unpack in UNPACK.items():
        if payload.startswith(magic):
            elf = unpack(payload)
            if elf[:4] == b'\x7fELF':
                return elf
    raise ImageError('the kernel inside the bzImage cannot be unpacked (it is not xz, gzip, zstd or lz4)')


def _canonical(name):
    return name.replace('-', '_')


def _depends(path):
    """The modules that a module needs, from its .modinfo strings."""
    with open(path, 'rb') as file:
        found = re.search(rb'\0depends=([^\0]*)\0', file.read())
    return [name for name in (found.group(1).decode() if found else '').split(',') if name]


def modules_order(folder):
    """Paths of WANTED and of what they need, each after its needs; what is built in is left out."""
    files = {_canonical(os.path.basename(path)[:-3]): path
             for path in glob.glob(folder + '/kernel/**/*.ko', recursive=True)}
    with open(folder + '/modules.builtin', encoding='ascii') as file:
        builtin = {_canonical(os.path.basename(line.strip())[:-3]) for line in file}
    order = []

    def visit(name):
        path = files.get(_canonical(name))
        if path in order or _canonical(name) in builtin:
            return
        if not path:
            raise ImageError(f'the kernel has no module {name}')
        for need in _depends(path):
            visit(need)
        order.append(path)

    for name in WANTED:
        visit(name)
    return order


def kernel_fetch(plan, sources, work, keep_fds):
    """Fetches the kernel package and lays its folder out in `work`; returns that folder."""
    package, version = plan.kernel_package, plan.kernel_version
    run(['apt-get', *apt_options(sources), '-o', 'APT::Sandbox::User=root', 'download', f'{package}={version}'],
        f'fetch {package} {version} (if apt-get update was long ago, run it and try again)', cwd=work,
        keep_fds=keep_fds, announce=f'fetching {package} {version}')
    debs = glob.glob(work + '/linux-image-*.deb')
    if len(debs) != 1:
        raise ImageError(f'fetching {package} gave {len(debs)} files instead of one')
    tree, folder = work + '/tree', work + '/kernel'
    run(['dpkg-deb', '--extract', debs[0], tree], f'unpack {package}', keep_fds=keep_fds,
        announce=f'unpacking {package}')
    release = package[len('linux-image-'):]
    os.mkdir(folder)
    os.rename(f'{tree}/boot/vmlinuz-{release}', folder + '/vmlinuz')
    with open(folder + '/vmlinuz', 'rb') as file:
        elf = vmlinux_extract(file.read())
    with open(folder + '/vmlinux', 'wb') as file:
        file.write(elf)
    order = modules_order(f'{tree}/lib/modules/{release}')
    for path in order:
        os.rename(path, os.path.join(folder, os.path.basename(path)))
    with open(folder + '/order', 'w', encoding='ascii') as file:
        file.write(''.join(os.path.basename(path) + '\n' for path in order))
    return folder


def modules_load(folder):
    """The modules of a kernel's folder as (file name, content), in load order."""
    with open(folder + '/order', encoding='ascii') as file:
        names = file.read().split()
    modules = []
    for name in names:
        with open(os.path.join(folder, name), 'rb') as file:
            modules.append((name, file.read()))
    return modules
