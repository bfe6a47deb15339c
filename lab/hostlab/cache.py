"""The lab's cache: things that are made once, whole or not at all.

Theory of operation
    The cache is a directory of directories, one per kind of thing; a thing's
    name is a hash of everything that went into it, so it never needs to be
    brought up to date. A maker works in a directory beside the final name and
    renames it when all is there; a lock per name keeps two makers apart. Using
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


def entry_identity(path):
    """What tells a thing from one made later under the same name."""
    return (path / "identity").read_text()


def entry_ensure(kind, key, keep, make, waiting=None):
    """The thing of that name; make(folder) makes it in folder if there is none.

    Of the kind's things the newest `keep` remain. Two makers of one thing wait
    for each other: waiting() is called once before that.
    """
    if path := entry_find(kind, key):
        return path
    with cache_lock(f"{kind}-{key}", waiting):
        if path := entry_find(kind, key):
            return path
        folder = cache_root() / kind
        folder.mkdir(exist_ok=True)
        leftovers_remove(kind, folder)
        work = folder / f".making-{key}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            make(work)
            (work / "identity").write_text(os.urandom(12).hex())
            os.rename(work, folder / key)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    entries_limit(folder, keep)
    return folder / key


def leftovers_remove(kind, folder):
    """Delete what killed makers and removers left behind."""
    for path in folder.glob(".doomed-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".making-*"):
        name = f"{kind}-{path.name.removeprefix('.making-')}"
        with open(cache_root() / "locks" / name, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path, ignore_errors=True)


def entries_limit(folder, keep):
    def age(path):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime
        return 0

    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in sorted(entries, key=age, reverse=True)[keep:]:
        entry_remove(path)
