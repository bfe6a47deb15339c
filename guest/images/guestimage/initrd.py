"""The initrd: an uncompressed cpio archive (format newc) with the modules and the init that mounts the root.

Unpacking it is part of every boot, so it holds nothing else and is not compressed. Its content depends on
the kernel's modules and on forkd-initrd only, byte for byte.

  /init             forkd-initrd
  /modules/NAME.ko  the modules
  /modules/order    their file names, one a line, each after those it needs
  /dev/console      for init's first words
  /dev /proc /sys /newroot   where forkd-initrd mounts
"""

import stat

TRAILER = 'TRAILER!!!'


def _entry(number, name, mode, data=b'', device=(0, 0)):
    name_bytes = name.encode() + b'\0'
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name_bytes), 0)
    header = b'070701' + b''.join(b'%08X' % field for field in fields)
    head = header + name_bytes
    return head + b'\0' * (-len(head) % 4) + data + b'\0' * (-len(data) % 4)


def initrd_make(init, modules, path):
    """Writes the archive. `init` is the program's content, `modules` a list of (file name, content) in load order."""
    directory, regular = stat.S_IFDIR | 0o755, stat.S_IFREG
    entries = [(name, directory, b'', (0, 0)) for name in ('dev', 'modules', 'newroot', 'proc', 'sys')]
    entries.append(('dev/console', stat.S_IFCHR | 0o600, b'', (5, 1)))
    entries.append(('init', regular | 0o755, init, (0, 0)))
    order = ''.join(name + '\n' for name, _ in modules).encode()
    entries.append(('modules/order', regular | 0o644, order, (0, 0)))
    entries += [(f'modules/{name}', regular | 0o644, data, (0, 0)) for name, data in modules]
    with open(path, 'wb') as file:
        for number, entry in enumerate(entries, 1):
            file.write(_entry(number, *entry))
        file.write(_entry(0, TRAILER, 0))
