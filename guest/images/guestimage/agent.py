"""The agent's files on the builder's side, and where they go in the guest.

A directory of the agent holds forkd-agent (the guest's init and agent), forkd-initrd (init of the initrd) and
forkd-warm.py (the warm interpreter). The two programs run where no library is, so they must be static.
"""

import hashlib
import os
import struct

from .report import ImageError

GUEST_FOLDER = '/usr/lib/forkd'
GUEST_AGENT = GUEST_FOLDER + '/forkd-agent'
PT_INTERP = 3
EM_X86_64 = 62


class Agent:
    """`files` are (path in the guest, mode, content); `init` is forkd-initrd's content."""

    def __init__(self, files, init):
        self.files = files
        self.init = init
        digest = hashlib.sha256()
        for path, mode, data in [*files, ('/init', 0o755, init)]:
            digest.update(f'{path} {mode:o} {len(data)}\n'.encode() + data)
        self.hash = digest.hexdigest()


def _read(folders, name):
    for folder in folders:
        try:
            with open(os.path.join(folder, name), 'rb') as file:
                return file.read()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ImageError(f'cannot read {os.path.join(folder, name)}: {error.strerror}') from None
    raise ImageError(f'{os.path.join(folders[0], name)} is missing; build forkd first, or name the directory that '
                     'holds it with --agent-dir')


def _require_static(name, data):
    """ELF-64 header and program headers: System V ABI, chapters 4 and 5."""
    if len(data) < 64 or data[:5] != b'\x7fELF\x02' or struct.unpack_from('<H', data, 18)[0] != EM_X86_64:
        raise ImageError(f'{name} is not a program for x86-64')
    offset, = struct.unpack_from('<Q', data, 32)
    size, count = struct.unpack_from('<HH', data, 54)
    for index in range(count):
        at = offset + index * size
        if at + 4 <= len(data) and struct.unpack_from('<I', data, at)[0] == PT_INTERP:
            raise ImageError(f'{name} is not linked statically, so it cannot run in every guest')


def agent_load(folder, source_folder=None):
    """`source_folder` is where forkd-warm.py is when `folder` is a build directory."""
    folders = [folder] + ([source_folder] if source_folder else [])
    agent, init = _read([folder], 'forkd-agent'), _read([folder], 'forkd-initrd')
    _require_static('forkd-agent', agent)
    _require_static('forkd-initrd', init)
    warm = _read(folders, 'forkd-warm.py')
    return Agent([(GUEST_AGENT, 0o755, agent), (GUEST_FOLDER + '/forkd-warm.py', 0o644, warm)], init)
