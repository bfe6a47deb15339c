"""Whether what the registry says, what the API lists and what there is agree: processes, directories, snapshots on the
disk. For tests that kill controllers at any moment."""

import contextlib
import os
import sqlite3

from harness import until

READY, HIDDEN = 2, 4  # registry.h


def rows(c):
    """{id: state} of the sandboxes and of the templates that the registry knows; berths lie ready for sandboxes to come and
    name no snapshot."""
    db = sqlite3.connect(f'file:{c.state}?mode=ro', uri=True)
    with contextlib.closing(db):
        boxes = dict(db.execute("SELECT id, state FROM sandboxes WHERE snapshot_id <> ''"))
        templates = dict(db.execute('SELECT id, state FROM snapshots'))
    return boxes, templates


def disagreement(c):
    """The first thing that does not agree, in words; '' where all does."""
    boxes, templates = rows(c)
    listed = {one['id']: one['pid'] for one in c.get('/v1/sandboxes')[1]}
    snapshots = {one['tag']: one for one in c.get('/v1/snapshots')[1]}
    directories = set(c.run_directories())
    alive = set(c.processes())
    if set(boxes) != set(listed):
        return f'sandboxes of the registry {set(boxes) ^ set(listed)}'
    if any(state != READY for state in boxes.values()) or any(state not in (READY, HIDDEN) for state in templates.values()):
        return f'rows that are half made: {boxes} {templates}'
    if not set(listed.values()) <= alive:
        return f'listed and dead: {set(listed.values()) - alive}'
    if directories != set(boxes) | set(templates):
        return f'run directories {directories ^ (set(boxes) | set(templates))}'
    if len(alive) != len(boxes) + len(templates):
        return f'{len(alive)} processes for {len(boxes)} sandboxes and {len(templates)} templates'
    if any(one['status'] == 'writing' for one in snapshots.values()):
        return 'a snapshot is being written'
    on_disk = set(os.listdir(c.root)) if os.path.isdir(c.root) else set()
    if c.env['FORKD_SNAPSHOT_WRITER'] != 'none' and on_disk != set(snapshots):
        return f'on the disk {on_disk ^ set(snapshots)}'
    return ''


def assert_agreement(c):
    until(lambda: not disagreement(c), lambda: f'all agrees: {disagreement(c)}')
