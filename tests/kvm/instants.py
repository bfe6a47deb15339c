"""Controllers that are killed at any instant, and crowds: afterwards registry, processes, directories and snapshots agree."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until
from ledger import assert_agreement, rows

INSTANTS = int(os.environ.get('FORKD_TEST_INSTANTS', '200'))
CLIENTS, CROWD = 8, 1000
TAGS_MOST, BOXES_MOST = 6, 12


def act(c, rng, stop):
    """A client that does what users do, and bears whatever becomes of the controller."""
    while not stop.is_set():
        try:
            tags = [info['tag'] for info in c.get('/v1/snapshots')[1] if info['bootable']]
            ids = c.ids()
            deed = rng.random()
            if not ids or (deed < 0.4 and len(ids) < BOXES_MOST):
                c.post('/v1/sandboxes', {'snapshot_tag': rng.choice(tags), 'n': rng.randint(1, 3)})
            elif deed < 0.65 and len(tags) < TAGS_MOST:
                c.post(f'/v1/sandboxes/{rng.choice(ids)}/branch', {'mode': rng.choice(('full', 'diff')),
                                                                    'wait': rng.random() < 0.5})
            elif deed < 0.9 or len(tags) < 2:
                c.delete('/v1/sandboxes/' + rng.choice(ids))
            else:
                c.delete(f'/v1/snapshots/{rng.choice([tag for tag in tags if tag != "py"])}?cascade=true')
        except (OSError, ValueError, IndexError):
            pass  # it was killed, or another client was quicker


@case(env={'FORKD_SNAPSHOT_WRITER': 'direct'})
def kill_9_at_two_hundred_instants_of_a_load_leaves_all_in_agreement(c):
    c.snapshot('py', mem_size_mib=32)
    rng = random.Random(20)
    for instant in range(INSTANTS):
        stop = threading.Event()
        clients = [threading.Thread(target=act, args=(c, random.Random(rng.random()), stop)) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(rng.uniform(0, 0.25))  # an instant, whichever it is
        c.stop(signal.SIGKILL)
        stop.set()
        for client in clients:
            client.join()
        c.start()
        assert_agreement(c)
        if instant % 20 == 0:
            for one in c.ids():
                assert c.exec(one, 'hostname')[1]['stdout'].strip() == one
            for info in c.get('/v1/snapshots')[1]:
                assert c.delete('/v1/sandboxes/' + c.fork(1, info['tag'])[0]['id'])[0] == 204
    for one in c.ids():
        c.delete('/v1/sandboxes/' + one)
    until(lambda: not rows(c)[0], 'no sandbox is left in the registry')


@case('--branch-concurrency', str(CLIENTS))
def a_thousand_sandboxes_of_eight_clients_leave_nothing(c):
    c.snapshot('py', mem_size_mib=32)

    def client(number):
        rng = random.Random(number)
        mine = []
        while len(mine) < CROWD // CLIENTS:
            mine += [one['id'] for one in c.fork(min(25, CROWD // CLIENTS - len(mine)))]
        for _ in range(3):
            box, tag = rng.choice(mine), f'of-{number}'
            assert c.post(f'/v1/sandboxes/{box}/branch', {'tag': tag})[0] == 201
            child = c.fork(1, tag)[0]['id']
            assert c.exec(child, 'hostname')[1]['stdout'].strip() == child
            assert c.delete('/v1/sandboxes/' + child)[0] == 204
            assert c.delete('/v1/snapshots/' + tag)[0] == 204
            assert set(mine) <= set(c.ids())
        return mine

    with ThreadPoolExecutor(CLIENTS) as pool:
        mine = list(pool.map(client, range(CLIENTS)))
        assert len(c.ids()) == CROWD
        assert_agreement(c)
        for names in pool.map(lambda ids: [c.exec(one, 'hostname')[1]['stdout'].strip() for one in ids[::10]], mine):
            assert names
        statuses = pool.map(lambda ids: [c.delete('/v1/sandboxes/' + one)[0] for one in ids], mine)
        assert {status for some in statuses for status in some} == {204}
    assert c.ids() == []
    assert_agreement(c)
    until(lambda: len(c.processes()) == 1, 'only the template is left')


if __name__ == '__main__':
    raise SystemExit(main())
