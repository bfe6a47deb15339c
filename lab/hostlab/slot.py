"""Slots: how many labs run at a time on this machine.

A slot is a locked file and a directory for what one run needs on disk. The
lock goes with its holder, however that ends; the next holder empties the
directory, so a killed lab leaves at most its slot's files, and not for long.
"""

import contextlib
import fcntl
import os
import queue
import shutil
import threading

from . import cache
from .say import progress


def slot_count():
    return max(1, int(os.environ.get("FORKD_LAB_SLOTS", "2")))


def slot_try(number):
    """Path and lock of the slot, or None while another run has it."""
    folder = cache.cache_root() / "slots"
    folder.mkdir(exist_ok=True)
    lock = open(folder / f"{number}.lock", "ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return folder / str(number), lock


def slot_wait():
    """Block on all slots at once, a thread each; the first one wins."""
    winners = queue.SimpleQueue()
    taken = threading.Lock()

    def wait(number):
        lock = open(cache.cache_root() / "slots" / f"{number}.lock", "ab")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if taken.acquire(blocking=False):
            winners.put((cache.cache_root() / "slots" / str(number), lock))
        else:
            lock.close()

    for number in range(slot_count()):
        threading.Thread(target=wait, args=(number,), daemon=True).start()
    return winners.get()


@contextlib.contextmanager
def slot_hold():
    """An empty directory of this run's own, for as long as it lasts."""
    for number in range(slot_count()):
        if slot := slot_try(number):
            break
    else:
        progress(f"waiting for a slot ({slot_count()} labs run already)")
        slot = slot_wait()
    folder, lock = slot
    with lock:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
