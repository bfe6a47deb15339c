"""The directory of built images.

  NAME             a symbolic link to the image's present content
  .NAME.XXXXXXXX   that content, or one being made, or one left by a killed builder
  .NAME.lock       held by the builder of NAME
  .NAME.plan       what apt answered for the package lists it was asked with
  .kernel.PACKAGE_VERSION   a kernel's folder, as long as an image has hard links to its files

Invariants: NAME leads to a complete image or does not exist; a file of an image is never changed once NAME
leads to it (a new build makes new files and moves the link); only who holds the lock makes or removes
folders of NAME.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile

from .report import ImageError, say

FILES = ('rootfs.ext4', 'vmlinux', 'vmlinuz', 'initrd', 'image.json')


def default_folder():
    if os.environ.get('FORKD_IMAGES'):
        return os.environ['FORKD_IMAGES']
    if os.geteuid() == 0:
        return '/var/lib/forkd/images'
    data = os.environ.get('XDG_DATA_HOME') or os.path.expanduser('~/.local/share')
    return os.path.join(data, 'forkd/images')


def write_atomically(path, text):
    with open(path + '.new', 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + '.new', path)


class Store:
    """The images in one directory."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise ImageError(f'cannot create {self.folder}: {error.strerror}') from None

    def path(self, entry):
        return os.path.join(self.folder, entry)

    @contextlib.contextmanager
    def lock(self, name):
        """Yields the descriptor of the lock, for programs that must not outlive it."""
        with open(self.path(f'.{name}.lock'), 'w', encoding='utf-8') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f'{name}: waiting for another builder')
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def current(self, name):
        """The content of image.json of an image that is whole, else None."""
        try:
            with open(self.path(f'{name}/image.json'), encoding='utf-8') as file:
                image = json.load(file)
            whole = all(os.path.getsize(self.path(f'{name}/{one["path"]}')) == one['bytes']
                        for one in image['files'].values())
            return image if whole else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def plan_load(self, name):
        try:
            with open(self.path(f'.{name}.plan'), encoding='utf-8') as file:
                plan = json.load(file)
            return plan if isinstance(plan, dict) else {}
        except (OSError, ValueError):
            return {}

    def plan_save(self, name, plan):
        write_atomically(self.path(f'.{name}.plan'), json.dumps(plan, indent=2) + '\n')

    def sweep(self, name):
        """Removes what killed builders and earlier contents of NAME left. Only under the lock."""
        link = self.path(name)
        present = os.readlink(link) if os.path.islink(link) else None
        pattern = re.compile(re.escape(f'.{name}.') + '[a-z0-9_]{8}')
        for entry in os.listdir(self.folder):
            if pattern.fullmatch(entry) and entry != present and os.path.isdir(self.path(entry)):
                shutil.rmtree(self.path(entry))

    def sweep_kernels(self):
        """Removes kernels that no image links any more. Only under the lock of kernels."""
        for entry in os.listdir(self.folder):
            vmlinux = self.path(f'{entry}/vmlinux')
            if entry.startswith('.kernel.') and os.path.exists(vmlinux) and os.stat(vmlinux).st_nlink == 1:
                shutil.rmtree(self.path(entry))

    @contextlib.contextmanager
    def work(self, name):
        """Yields a new folder of NAME; it is removed unless publish() made it the image."""
        folder = tempfile.mkdtemp(prefix=f'.{name}.', dir=self.folder)
        try:
            yield folder
        finally:
            link = self.path(name)
            if not (os.path.islink(link) and os.readlink(link) == os.path.basename(folder)):
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, name, folder):
        """Makes the folder, which holds FILES and nothing else that is kept, the image NAME."""
        link, new = self.path(name), self.path(f'.{name}.link')
        if os.path.lexists(link) and not os.path.islink(link):
            raise ImageError(f'{link} is in the way: it is not an image made here')
        for entry in os.listdir(folder):
            path = os.path.join(folder, entry)
            if entry not in FILES:
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
                continue
            os.chmod(path, 0o444)
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
        os.chmod(folder, 0o755)
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(os.path.basename(folder), new)
        os.rename(new, link)
        self.sweep(name)
