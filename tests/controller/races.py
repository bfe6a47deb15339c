"""Many clients at once; afterwards nothing is left that is not listed."""

import random
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until


def together(count, fn):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(fn, range(count)))


@case()
def of_two_clients_with_one_tag_one_wins(c):
    for _ in range(5):
        body = {'tag': 'one', 'kernel': c.kernel()}
        answers = together(4, lambda _: c.post('/v1/snapshots', body))
        assert sorted(status for status, _ in answers) == [201, 400, 400, 400], answers
        assert c.delete('/v1/snapshots/one')[0] == 204
        c.assert_nothing_left()


@case()
def of_eight_kills_of_one_sandbox_one_is_the_one(c):
    c.snapshot()
    for _ in range(10):
        one = c.fork()[0]['id']
        statuses = together(8, lambda _: c.delete('/v1/sandboxes/' + one)[0])
        assert sorted(statuses) == [204] + [404] * 7, statuses


@case()
def two_hundred_spawns_and_kills_from_eight_clients_leave_nothing(c):
    c.snapshot()

    def client(number):
        rng = random.Random(number)
        mine = []
        for _ in range(25):
            mine += [one['id'] for one in c.fork()]
            if rng.random() < 0.7:
                assert c.delete('/v1/sandboxes/' + mine.pop(rng.randrange(len(mine))))[0] == 204
        for one in mine:
            assert c.exec(one, 'hostname')[1]['stdout'].strip() == one
            assert c.delete('/v1/sandboxes/' + one)[0] == 204

    together(8, client)
    assert c.ids() == []
    until(lambda: len(c.processes()) == 1, 'only the template is left')
    until(lambda: len(c.run_directories()) == 1, 'only its directory is left')


@case()
def a_hundred_in_one_request_all_answer(c):
    c.snapshot()
    made = c.fork(100)
    names = together(8, lambda i: [c.exec(one['id'], 'hostname')[1]['stdout'].strip() for one in made[i::8]])
    assert sorted(sum(names, [])) == sorted(one['id'] for one in made)


@case()
def a_snapshot_deleted_under_spawns_serves_or_refuses_them(c):
    for _ in range(5):
        c.snapshot()

        def act(number):
            return c.delete('/v1/snapshots/py')[0] if number == 3 else c.post('/v1/sandboxes',
                                                                              {'snapshot_tag': 'py', 'n': 3})[0]
        statuses = together(6, act)
        assert statuses[3] == 204 and set(statuses) <= {201, 204, 404}, statuses
        for one in c.ids():
            assert c.delete('/v1/sandboxes/' + one)[0] == 204
        c.assert_nothing_left()


@case()
def slow_commands_do_not_hold_up_others(c):
    c.snapshot()
    ids = [one['id'] for one in c.fork(4)]
    with ThreadPoolExecutor(40) as pool:
        naps = [pool.submit(c.exec, ids[i % 4], 'nap') for i in range(40)]
        assert c.get('/healthz')[0] == 200
        assert len(c.fork()) == 1
        assert all(nap.result()[0] == 200 for nap in naps)


raise SystemExit(main())
