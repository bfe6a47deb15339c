"""The description of an image: NAME.conf.

Lines of the form KEY = VALUE; a line that begins with white space goes on with the value before it; # begins
a comment. An unknown key is an error, so that a misspelt one is never ignored.

  release   Debian's code name (required)
  packages  what is installed beside Debian's essential packages (required)
  kernel    the kernel's package (linux-image-amd64)
  remove    paths to remove after the installation; * and ** are wildcards
  free_mib  free space in the root filesystem (512)
"""

import hashlib
import os
import re

from .report import ImageError

NAME = re.compile(r'[a-z0-9][a-z0-9._-]{0,63}')
PACKAGE = re.compile(r'[a-z0-9][a-z0-9+.-]*')
KEYS = {'release': None, 'packages': None, 'kernel': 'linux-image-amd64', 'remove': '', 'free_mib': '512'}


class Conf:
    """One image's description; `hash` stands for its content."""

    def __init__(self, name, path, values):
        self.name = name
        self.release = values['release']
        self.kernel = values['kernel']
        self.packages = sorted(set(values['packages'].split()))
        self.remove = values['remove'].split()
        try:
            self.free_mib = int(values['free_mib'])
        except ValueError:
            self.free_mib = -1
        if not 0 <= self.free_mib <= 1 << 20:
            raise ImageError(f'{path}: free_mib = {values["free_mib"]} is not a number of MiB')
        if not PACKAGE.fullmatch(self.release):
            raise ImageError(f'{path}: release = {self.release} is not a code name')
        for package in [self.kernel, *self.packages]:
            if not PACKAGE.fullmatch(package):
                raise ImageError(f'{path}: {package} is not the name of a package')
        for pattern in self.remove:
            if not pattern.startswith('/') or '..' in pattern.split('/') or pattern.strip('/*') == '':
                raise ImageError(f'{path}: remove = {pattern} is not an absolute path inside the image')
        text = repr([self.release, self.kernel, self.packages, self.remove, self.free_mib])
        self.hash = hashlib.sha256(text.encode()).hexdigest()


def _parse(path, lines):
    values, key = {}, None
    for number, raw in enumerate(lines, 1):
        line = raw.split('#', 1)[0].rstrip()
        if not line:
            continue
        if line[0].isspace() and key:
            values[key] += ' ' + line.strip()
            continue
        key, equals, value = (part.strip() for part in line.partition('='))
        if not equals or key not in KEYS:
            raise ImageError(f'{path}:{number}: {key} is not a key of an image; the keys are {", ".join(KEYS)}')
        if key in values:
            raise ImageError(f'{path}:{number}: {key} is given twice')
        values[key] = value
    for name, default in KEYS.items():
        if not values.get(name):
            if default is None:
                raise ImageError(f'{path}: {name} is missing')
            values[name] = default
    return values


def conf_names(folder):
    return sorted(entry[:-5] for entry in os.listdir(folder) if entry.endswith('.conf'))


def conf_load(name, folder):
    """`name` is that of a description in `folder`, or the path of a .conf file anywhere."""
    path = name if name.endswith('.conf') else os.path.join(folder, name + '.conf')
    name = os.path.basename(path)[:-5]
    if not NAME.fullmatch(name):
        raise ImageError(f'{name} is not a good name for an image: small letters, digits, . _ and - only')
    try:
        with open(path, encoding='utf-8') as file:
            lines = file.readlines()
    except FileNotFoundError:
        known = ', '.join(conf_names(folder))
        raise ImageError(f'there is no image called {name} ({path} is missing); there are: {known}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f'cannot read {path}: {error}') from None
    return Conf(name, path, _parse(path, lines))
