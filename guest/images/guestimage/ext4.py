"""Making, marking, reading and changing an ext4 image without mounting it (mke2fs -d, debugfs).

The mark: an image that holds forkd's agent has the volume label "forkd-agent-N", N being the LAYOUT of what
agent_add() lays out. It can be read from the superblock alone (see docs/guest-images.md), which is how the
controller tells such an image from others. Invariant: the label is written last, after the files were read
back, so an image with the label has the files.
"""

import glob
import os
import re
import shutil
import stat
import struct
import tempfile
import uuid

from .agent import GUEST_AGENT
from .debian import EPOCH
from .report import ImageError, run

LAYOUT = 1
LABEL_STEM = 'forkd-agent-'
LABEL = LABEL_STEM + str(LAYOUT)

BLOCK = 4096
MIB = 1 << 20
FEATURES = ('none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,'
            'dir_nlink,extra_isize,metadata_csum')
# Directories that the agent or the kernel needs, and their modes.
FOLDERS = {'/dev': 0o755, '/etc': 0o755, '/etc/forkd': 0o755, '/etc/forkd/fork.d': 0o755, '/proc': 0o755,
           '/root': 0o700, '/run': 0o755, '/sys': 0o755, '/tmp': 0o1777, '/usr': 0o755, '/usr/lib': 0o755,
           '/usr/lib/forkd': 0o755}
# Files that belong to one machine: what the building machine left in them is replaced.
IDENTITY = {'/etc/hostname': 'forkd\n', '/etc/hosts': '127.0.0.1 localhost\n::1 localhost ip6-localhost\n',
            '/etc/machine-id': '', '/etc/resolv.conf': ''}
LEFTOVERS = ('/var/lib/apt/lists/*', '/var/cache/apt/*', '/var/cache/ldconfig/*', '/var/cache/debconf/*-old',
             '/var/lib/dpkg/*-old', '/var/log/*.log', '/var/log/apt/*', '/tmp/*')
# So that the same input gives the same image.
TIME = {'E2FSPROGS_FAKE_TIME': EPOCH}


class Superblock:
    """The fields of interest (Documentation/filesystems/ext4/super.rst)."""

    def __init__(self, path):
        self.path = path
        try:
            with open(path, 'rb') as file:
                file.seek(1024)
                raw = file.read(1024)
        except OSError as error:
            raise ImageError(f'cannot read {path}: {error.strerror}') from None
        if len(raw) < 1024 or raw[0x38:0x3a] != b'\x53\xef':
            raise ImageError(f'{path} is not an ext4 filesystem')
        incompat, = struct.unpack_from('<I', raw, 0x60)
        self.needs_recovery = bool(incompat & 0x4)
        low, = struct.unpack_from('<I', raw, 0x0c)
        high, = struct.unpack_from('<I', raw, 0x158)
        log_block_size, = struct.unpack_from('<I', raw, 0x18)
        self.free_bytes = (low | (high << 32 if incompat & 0x80 else 0)) << (10 + min(log_block_size, 6))
        inodes, = struct.unpack_from('<I', raw, 0x00)
        free_inodes, = struct.unpack_from('<I', raw, 0x10)
        self.used_inodes = inodes - free_inodes
        self.label = raw[0x78:0x88].split(b'\0', 1)[0].decode(errors='replace')


def _debugfs(image, command):
    return run(['debugfs', '-R', command, os.path.abspath(image)], f'read {image}')


def _exists(image, path):
    return 'Inode: ' in _debugfs(image, f'stat {path}')


def agent_require(image):
    """Raises the sentence that says how to add the agent, unless the image holds it and carries the mark."""
    label = Superblock(image).label
    if not _exists(image, GUEST_AGENT):
        raise ImageError(f'{image} has no forkd agent ({GUEST_AGENT}); add it with: forkd images add-agent {image}')
    if label != LABEL:
        raise ImageError(f'{image} has a forkd agent without its mark (the volume label {LABEL}); add both with: '
                         f'forkd images add-agent {image}')


def _readback(image, agent, work):
    for path, mode, data in agent.files:
        copy = os.path.join(work, 'readback')
        open(copy, 'wb').close()
        run(['debugfs', '-R', f'dump {path} readback', image], f'read {path} from {image}', cwd=work)
        with open(copy, 'rb') as file:
            if file.read() != data or f'Mode:  {mode:04o}' not in _debugfs(image, f'stat {path}'):
                raise ImageError(f'{image} did not take {path}')


def agent_add(image, agent):
    """Puts the agent's files into an image that nobody else uses, and marks it. On failure the image is lost."""
    image = os.path.abspath(image)
    superblock = Superblock(image)
    if superblock.needs_recovery:
        raise ImageError(f'{image} was not unmounted cleanly; repair it with: e2fsck -fy {image}')
    need = sum(len(data) + BLOCK for _, _, data in agent.files) + BLOCK * len(FOLDERS)
    if superblock.free_bytes < need:
        raise ImageError(f'{image} has no room for the agent: {superblock.free_bytes >> 10} KiB free, {need >> 10} '
                         'needed')
    with tempfile.TemporaryDirectory(dir=os.path.dirname(image)) as work:
        commands = []
        for path, mode in FOLDERS.items():
            if not _exists(image, path):
                commands += [f'mkdir {path}', f'set_inode_field {path} mode 0{stat.S_IFDIR | mode:o}']
        for number, (path, mode, data) in enumerate(agent.files):
            with open(os.path.join(work, str(number)), 'wb') as file:
                file.write(data)
            if _exists(image, path):
                commands.append(f'rm {path}')
            commands += [f'write {number} {path}', f'set_inode_field {path} mode 0{stat.S_IFREG | mode:o}',
                         f'set_inode_field {path} uid 0', f'set_inode_field {path} gid 0']
        with open(os.path.join(work, 'commands'), 'w', encoding='utf-8') as file:
            file.write('\n'.join(commands) + '\n')
        run(['debugfs', '-w', '-f', 'commands', image], f'write to {image}', cwd=work, env=TIME)
        _readback(image, agent, work)
    run(['tune2fs', '-L', LABEL, image], f'label {image}', env=TIME)
    run(['e2fsck', '-fn', image], f'check {image}', env=TIME)


def _remove_matches(tree, patterns):
    for pattern in patterns:
        for path in glob.glob(glob.escape(tree) + pattern, recursive=True):
            # ** goes through links, and an absolute link leads to the building machine's own files.
            if f'{os.path.realpath(os.path.dirname(path))}/'.startswith(f'{tree}/'):
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.unlink(path)


def _sources_without_credentials(tree):
    """The guest's apt gets the machine's sources, but not what the machine says to be let in."""
    sources = {}
    for path in sorted(glob.glob(glob.escape(tree) + '/etc/apt/sources.list.d/*.list')):
        with open(path, encoding='utf-8') as file:
            sources[path[len(tree):]] = re.sub(r'://[^/\s]*@', '://', file.read())
    return sources


def _tree_tidy(tree, remove):
    """Everything new is made before anything is removed: fakeroot would take the inode of a removed file, used
    again, for that file. A rename replaces a link where writing would follow it, out of the tree.
    """
    for path, mode in FOLDERS.items():
        os.makedirs(tree + path, exist_ok=True)
        os.chmod(tree + path, mode)
    replaced = {**IDENTITY, **_sources_without_credentials(tree)}
    for path, text in replaced.items():
        with open(tree + path + '.forkd', 'x', encoding='utf-8') as file:
            file.write(text)
        os.chmod(tree + path + '.forkd', 0o644)
    for path in replaced:
        os.rename(tree + path + '.forkd', tree + path)
    _remove_matches(tree, [*LEFTOVERS, *remove])
    _times_clamp(tree)


def _times_clamp(tree):
    """No modification later than EPOCH: what was changed here must not tell when."""
    epoch = int(EPOCH)
    for folder, folders, files in os.walk(tree, topdown=False):
        for path in [os.path.join(folder, name) for name in files + folders] + [folder]:
            if os.lstat(path).st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)


def _tree_measure(tree):
    """(bytes in whole blocks, inodes); a file with several names counts once."""
    total, seen = 0, set()
    for folder, _, files in os.walk(tree):
        total += BLOCK
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += -(-status.st_size // BLOCK) * BLOCK
    return total, len(seen) + sum(len(folders) for _, folders, _ in os.walk(tree)) + 1


def _times_settle(image, work):
    """mke2fs takes the times of access and change from the tree, where nobody can set them: sets them here.

    In a filesystem just made the inodes in use are the lowest ones; 11 is the first that is not reserved.
    """
    with open(os.path.join(work, 'times'), 'w', encoding='ascii') as file:
        for inode in range(11, Superblock(image).used_inodes + 1):
            file.write(''.join(f'set_inode_field <{inode}> {field} @{EPOCH}\n' for field in ('atime', 'ctime')))
    run(['debugfs', '-w', '-f', os.path.join(work, 'times'), image], f'write to {image}', env=TIME)


def ext4_make(tar, image, conf, key, work, keep_fds):
    """Makes the image from a tar archive of the root. The same archive and key give the same bytes."""
    tree = os.path.realpath(work) + '/root'
    os.mkdir(tree)
    # Whoever is not root keeps owners in a file of fakeroot's.
    owners = os.path.join(work, 'owners')
    save, load = ([], []) if os.geteuid() == 0 else (['fakeroot', '-s', owners, '--'], ['fakeroot', '-i', owners, '--'])
    run([*save, 'tar', '--extract', '--file', tar, '--directory', tree, '--numeric-owner', '--exclude=./dev/*'],
        f'unpack {tar}', keep_fds=keep_fds)
    _tree_tidy(tree, conf.remove)
    content, inodes = _tree_measure(tree)
    # Room for a journal of 4 MiB and for inode tables (256 bytes each), then the promised free space.
    inodes += 1024 + conf.free_mib * 64
    size = content + content // 50 + inodes * 256 + 8 * MIB + conf.free_mib * MIB
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, key))
    run([*load, 'mke2fs', '-q', '-F', '-t', 'ext4', '-O', FEATURES, '-b', str(BLOCK), '-I', '256', '-N', str(inodes),
         '-m', '0', '-J', 'size=4', '-U', identity, '-E',
         f'lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,hash_seed={identity}', '-d', tree, image,
         f'{-(-size // MIB)}M'],
        f'make {image}', env=TIME, keep_fds=keep_fds, announce=f'{conf.name}: making the root filesystem')
    shutil.rmtree(tree)
    _times_settle(image, work)
