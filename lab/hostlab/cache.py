"""The lab's cache: things that are made once, whole or not at all.

Theory of operation
    The cache is a directory of directories, one per kind of thing; a thing's
    name is a hash of everything that went into it, so it never needs to be
    brought up to date. A maker works in a directory beside the final name and
    renames it when all is there; a lock per kind keeps two makers apart. Using
    a thing sets its modification time; only the newest few of a kind are kept.
    Unlinking a thing somebody uses is harmless: QEMU holds its files open.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil


def cache_root():
    """Directory of the cache; made when missing."""
    path = os.environ.get("FORKD_LAB_CACHE")
    if not path:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        path = os.path.join(base, "forkd", "lab")
    root = pathlib.Path(path).absolute()
    root.mkdir(parents=True, exist_ok=True)
    return root


def key_of(*parts):
    """A name for something made of these parts (anything JSON can say)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@contextlib.contextmanager
def cache_lock(name, waiting=None):
    """Hold the lock of that name; call waiting() once if another has it."""
    path = cache_root() / "locks" / name
    path.parent.mkdir(exist_ok=True)
    with open(path, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def entry_find(kind, key):
    """The finished thing of that name, marked as used; None if there is none."""
    path = cache_root() / kind / key
    try:
        os.utime(path)
    except FileNotFoundError:
        return None
    return path


def entry_remove(path):
    """Take a thing away at once: it is out of sight before it is deleted."""
    doomed = path.with_name(f".doomed-{path.name}-{os.getpid()}")
    try:
        os.rename(path, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def entry_make(kind, key, keep):
    """A directory to make a thing in; it gets its name when the body succeeds.

    Call with the lock of that kind held. Of the kind's things the newest
    `keep` remain; what a killed maker left behind goes too.
    """
    folder = cache_root() / kind
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
    work = folder / f".making-{key}"
    work.mkdir()
    try:
        yield work
        entry_remove(folder / key)
        os.rename(work, folder / key)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    entries = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in entries[keep:]:
        entry_remove(path)
