"""Whether what the registry says, what the API lists and what there is agree: processes, cgroups where the host has any,
directories, snapshots on the disk. For tests that kill controllers at any moment."""

import os
import pathlib

from harness import until

READY, HIDDEN = 2, 4  # registry.h


def rows(c):
    """{id: state} of the sandboxes and of the templates that the registry knows; berths lie ready for sandboxes to come and
    name no snapshot."""
    with c.registry() as db:
        boxes = dict(db.execute("SELECT id, state FROM sandboxes WHERE snapshot_id <> ''"))
        templates = dict(db.execute('SELECT id, state FROM snapshots'))
    return boxes, templates


def cgroups_base():
    """The directory that trees of cgroups are made in (src/sys/cgroup.h); None on a host that has none for us."""
    mounts = [line.split() for line in pathlib.Path('/proc/self/mounts').read_text(encoding='utf-8').splitlines()]
    where = next((pathlib.Path(mount[1]) for mount in mounts if mount[2] == 'cgroup2'), None)
    if where is None or os.geteuid() != 0:
        return None
    controllers = (where / 'cgroup.controllers').read_text(encoding='utf-8').split()
    return where / 'forkd' if 'memory' in controllers else None


def leaves_wanted(c):
    """{tree: leaves} of what the registry knows (src/controller/trees.h)."""
    with c.registry() as db:
        leaves = db.execute("""SELECT tree, CASE tree WHEN id THEN 'template' ELSE id END FROM snapshots
                               UNION ALL SELECT tree, sandboxes.id FROM sandboxes
                                         JOIN snapshots ON snapshots.id = snapshot_id""").fetchall()
    return {tree: {leaf for other, leaf in leaves if other == tree} for tree, _ in leaves}


def leaves_found(c, base, wanted):
    """The same of the trees on this host that were made since this test began, and of those that are wanted."""
    trees = [path for path in base.iterdir() if path.is_dir()] if base.is_dir() else []
    mine = [path for path in trees if path.name in wanted or path.stat().st_mtime >= c.born - 1]
    return {tree.name: {leaf.name for leaf in tree.iterdir() if leaf.is_dir()} for tree in mine}


def cgroups_disagreement(c, listed, alive):
    """Each process is in its own leaf alone, and there is no other leaf."""
    base, wanted = cgroups_base(), leaves_wanted(c)
    if base is None:
        return ''
    found = leaves_found(c, base, wanted)
    if found != wanted:
        return f'cgroups are {found} instead of {wanted}'
    for tree, leaves in wanted.items():
        for leaf in leaves:
            pids = [int(pid) for pid in (base / tree / leaf / 'cgroup.procs').read_text(encoding='utf-8').split()]
            if len(pids) != 1 or pids[0] not in alive or pids[0] != listed.get(leaf, pids[0]):
                return f'in the cgroup {tree}/{leaf} are {pids}'
    return ''


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
    try:
        return cgroups_disagreement(c, listed, alive)
    except FileNotFoundError as gone:
        return f'{gone.filename} went while it was looked at'


def assert_agreement(c):
    until(lambda: not disagreement(c), lambda: f'all agrees: {disagreement(c)}')
