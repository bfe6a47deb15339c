"""Progress, failures, and running other programs.

A failure is an ImageError whose text is one sentence that names the thing. Whatever takes longer than a
second announces itself on standard error, and again every ten seconds with the program's last line.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# Where a program and its package differ in name.
PACKAGE_OF = {'apt-cache': 'apt', 'apt-config': 'apt', 'apt-get': 'apt', 'debugfs': 'e2fsprogs', 'dpkg-deb': 'dpkg',
              'e2fsck': 'e2fsprogs', 'mke2fs': 'e2fsprogs', 'newuidmap': 'uidmap', 'setpriv': 'util-linux',
              'tune2fs': 'e2fsprogs'}
# debugfs and its kin live in sbin, which is not in an ordinary user's PATH.
PATH = os.environ.get('PATH', '/usr/bin:/bin') + ':/usr/sbin:/sbin'
PROGRESS_SECONDS = 10


class ImageError(Exception):
    """A failure told to the user as it is."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def program_require(*names):
    for name in names:
        if not shutil.which(name, path=PATH):
            raise ImageError(f'{name} is missing; install it with: apt-get install {PACKAGE_OF.get(name, name)}')


def _last_lines(log, count):
    log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
    lines = log.read().decode(errors='replace').splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def run(argv, what, env=None, cwd=None, keep_fds=(), announce=None):
    """Runs a program to its end and returns its standard output as text.

    `what` completes "cannot ...". `announce` is said first, and again while the program works. The program
    ends with this process, however that ends; `keep_fds` are inherited, so that a lock outlives a killed
    builder until its programs are gone too.
    """
    program_require(argv[0], 'setpriv')
    full_env = dict(os.environ, PATH=PATH, LC_ALL='C.UTF-8', **(env or {}))
    began = time.monotonic()
    if announce:
        say(f'{announce} ...')
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        child = subprocess.Popen(['setpriv', '--pdeathsig', 'TERM', '--', *argv], stdin=subprocess.DEVNULL,
                                 stdout=out, stderr=log, env=full_env, cwd=cwd, pass_fds=keep_fds)
        try:
            while True:
                try:
                    child.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    last = _last_lines(log, 1) or ['no output yet']
                    say(f'  {time.monotonic() - began:.0f} s: {last[0][:100]}')
        except BaseException:
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
        if child.returncode != 0:
            for line in _last_lines(log, 5):
                say(f'  {argv[0]}: {line}')
            raise ImageError(f'cannot {what}: {argv[0]} ended with status {child.returncode}')
        if announce:
            say(f'{announce}: {time.monotonic() - began:.1f} s')
        out.seek(0)
        return out.read().decode(errors='replace')
