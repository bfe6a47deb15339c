"""BRANCH: a running sandbox becomes a snapshot; what is refused, what is kept, and what fails without harm."""

import os
import re
import signal
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

from harness import case, main, until

BRANCH_FIELDS = ['tag', 'dir', 'created_at_unix', 'branched_from', 'parent_tag', 'mode', 'pause_ms', 'pause_us', 'rounds',
                 'pages_streamed', 'pages_in_pause', 'ready_ms', 'status', 'bootable']


def ask(c, sandbox, tag=None, **fields):
    return c.post(f'/v1/sandboxes/{sandbox}/branch', {**({'tag': tag} if tag else {}), **fields})


def branch(c, sandbox, tag=None, **fields):
    status, answer = ask(c, sandbox, tag, **fields)
    assert status == 201, (status, answer)
    return answer


def refused(c, sandbox, tag=None, **fields):
    """The status and the sentence, of which there is one."""
    status, answer = ask(c, sandbox, tag, **fields)
    assert status >= 400 and list(answer) == ['error'] and answer['error'], (status, answer)
    return status, answer['error']


def source(c, words='fine', **fields):
    c.snapshot('py', words, **fields)
    return c.fork()[0]['id']


def tags(c):
    return [one['tag'] for one in c.get('/v1/snapshots')[1]]


class new_process:
    """The one VMM process more that there is after a with statement."""

    def __init__(self, c):
        self.c = c

    def __enter__(self):
        self.before = set(self.c.processes())
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.pid, = set(self.c.processes()) - self.before


def kill(c, pid):
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in c.processes(), 'it is dead')


def well(c, sandbox):
    return c.exec(sandbox, 'hostname')[1]['stdout'].strip() == sandbox


def together(count, fn):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(fn, range(count)))


@case()
def a_branch_is_a_snapshot_like_any_other(c):
    one = source(c)
    made = branch(c, one, 'then')
    assert list(made) == BRANCH_FIELDS, made
    assert made['branched_from'] == one and made['parent_tag'] == 'py' and made['mode'] == 'full'
    assert made['status'] == 'ready' and made['bootable'] is True
    assert c.get('/v1/snapshots')[1] == [c.get('/v1/snapshots')[1][0], made]
    child = c.fork(2, 'then')[0]
    assert child['snapshot_tag'] == 'then' and well(c, child['id']) and well(c, one)
    assert branch(c, child['id'], 'later')['parent_tag'] == 'then'
    assert c.delete('/v1/snapshots/then') == (204, None)
    assert tags(c) == ['later', 'py']


@case()
def a_branch_says_what_it_took(c):
    made = branch(c, source(c), 'then')
    pause = made['pause_us']
    assert list(pause) == ['kick', 'save', 'log', 'pages', 'resume', 'total']
    assert pause['total'] == sum(pause[phase] for phase in pause if phase != 'total') > 0
    assert made['pause_ms'] == round(pause['total'] / 1000) and made['ready_ms'] >= made['pause_ms'] - 1


@case()
def a_sandbox_says_how_often_it_was_branched(c):
    one = source(c)
    for count in range(3):
        info = c.get('/v1/sandboxes/' + one)[1]
        assert info['branch_count'] == count and info['has_branched'] is (count > 0), info
        branch(c, one)
    assert c.get('/v1/sandboxes/' + c.fork()[0]['id'])[1]['branch_count'] == 0


@case()
def a_branch_without_a_tag_has_one_that_names_its_source(c):
    one = source(c)
    made = {branch(c, one)['tag'] for _ in range(5)}
    assert len(made) == 5
    for tag in made:
        assert re.fullmatch(f'branch-{one}-[0-9]{{10}}-[0-9a-f]{{4}}', tag) and len(tag) <= 64, tag


@case()
def who_does_not_wait_is_answered_with_202(c):
    status, made = ask(c, source(c), 'then', wait=False)
    assert status == 202 and made['bootable'] is True, (status, made)
    assert len(c.fork(1, 'then')) == 1


@case()
def modes_are_three_and_named_once(c):
    one = source(c)
    for fields, mode in (({}, 'full'), ({'mode': 'full'}, 'full'), ({'mode': 'diff'}, 'diff'), ({'diff': True}, 'diff'),
                         ({'live': True}, 'live'), ({'mode': 'live'}, 'live'), ({'measure_diff': True}, 'full'),
                         ({'diff': True, 'parent_tag': 'py'}, 'diff'), ({'mode': None, 'diff': False}, 'full')):
        assert branch(c, one, **fields)['mode'] == mode, fields
    for fields in ({'mode': 'diff', 'diff': True}, {'mode': 'full', 'live': True}, {'diff': True, 'live': True},
                   {'measure_diff': True, 'diff': True}, {'measure_diff': True, 'mode': 'live'}, {'mode': 'fast'},
                   {'mode': 1}, {'diff': 'yes'}, {'wait': 0}, {'parent_tag': 'py'}, {'parent_tag': 'other', 'diff': True},
                   {'parent_tag': 'py', 'live': True}):
        assert refused(c, one, 'none', **fields)[0] == 400, fields
    assert 'none' not in tags(c)


@case('--branch-concurrency', '1')
def refusals_come_in_their_order(c):
    """Each request is wrong in all ways that come later, too."""
    wrong = {'mode': 'diff', 'diff': True, 'parent_tag': 'x'}
    one = source(c, 'stream=hang:1')
    under_way = threading.Thread(target=ask, args=(c, one, 'slow'))
    under_way.start()
    until(lambda: 'slow' in tags(c), 'a branch is under way')
    assert refused(c, 'sb-nobody', '../x', **wrong)[0] == 400
    status, why = refused(c, 'sb-nobody', 'slow', **wrong)
    assert status == 409 and 'slow' in why, why
    status, why = refused(c, 'sb-nobody', 'py', **wrong)
    assert status == 503 and '1 branches' in why, why
    c.delete('/v1/sandboxes/' + one)
    under_way.join()
    assert refused(c, 'sb-nobody', 'py', **wrong)[0] == 400
    assert refused(c, 'sb-nobody', 'py', parent_tag='x') == (409, 'snapshot py exists already')
    assert refused(c, 'sb-nobody', 'free', parent_tag='x') == (404, 'sandbox sb-nobody not found')
    assert refused(c, c.fork()[0]['id'], 'free', parent_tag='x')[0] == 400
    assert tags(c) == ['py']


@case(start=False)
def a_concurrency_that_is_none_is_refused(c):
    for text in ('0', '-1', 'many', '', '1000'):
        c.flags = ['--branch-concurrency', text]
        process = c.spawn()
        assert process.wait(10) == 2 and 'branch-concurrency' in c.read_log(), text
    c.flags, c.env = [], {'FORKD_BRANCH_CONCURRENCY': '0'}
    assert c.spawn().wait(10) == 2


@case('--branch-concurrency', '20')
def twenty_at_once_of_one_are_all_made(c):
    one = source(c)
    made = together(20, lambda i: branch(c, one, f'b{i:02}'))
    assert [info['tag'] for info in made] == [f'b{i:02}' for i in range(20)]
    assert c.get('/v1/sandboxes/' + one)[1]['branch_count'] == 20
    for tag in ('b00', 'b07', 'b19'):
        assert well(c, c.fork(1, tag)[0]['id'])


@case('--branch-concurrency', '20')
def twenty_at_once_of_twenty_are_all_made(c):
    c.snapshot()
    boxes = [info['id'] for info in c.fork(20)]
    assert len({info['branched_from'] for info in together(20, lambda i: branch(c, boxes[i]))}) == 20


@case('--branch-concurrency', '8')
def of_many_with_one_tag_one_wins(c):
    one = source(c)
    for _ in range(5):
        answers = together(8, lambda _: ask(c, one, 'one')[0])
        assert sorted(answers) == [201] + [409] * 7, answers
        assert c.delete('/v1/snapshots/one')[0] == 204


@case()
def what_a_living_sandbox_branches_from_outlives_its_deletion(c):
    """And not longer than that."""
    one = source(c)
    with new_process(c) as first:
        branch(c, one, 'first')
    c.delete('/v1/snapshots/py')
    c.delete('/v1/snapshots/first')
    assert tags(c) == [] and first.pid in c.processes()
    branch(c, one, 'first')
    until(lambda: first.pid not in c.processes(), 'who is the last template no more, goes')
    c.delete('/v1/snapshots/first')
    assert len(c.processes()) == 3, 'the base, the last template and the sandbox'
    assert c.delete('/v1/sandboxes/' + one)[0] == 204
    c.assert_nothing_left()


@case()
def source_and_branches_die_in_any_order(c):
    one = source(c)
    branch(c, one, 'a')
    child = c.fork(1, 'a')[0]['id']
    branch(c, child, 'b')
    assert c.delete('/v1/sandboxes/' + one)[0] == 204
    c.delete('/v1/snapshots/py')
    grandchild = c.fork(1, 'b')[0]['id']
    c.delete('/v1/snapshots/a')
    assert c.delete('/v1/sandboxes/' + child)[0] == 204
    c.delete('/v1/snapshots/b')
    assert well(c, grandchild)
    branch(c, grandchild, 'c')
    assert well(c, c.fork(1, 'c')[0]['id'])


@case()
def a_line_of_branches_of_branches_works(c):
    one = source(c)
    for depth in range(12):
        branch(c, one, f'b{depth}')
        one = c.fork(1, f'b{depth}')[0]['id']
    assert well(c, one)


def fails(words, status, *sentence):
    """A branch that cannot be made: told, nothing left of it, and the next one is made."""
    def body(c):
        one = source(c, words)
        before = sorted(c.processes()), c.run_directories()
        answer = refused(c, one, 'never')
        assert answer[0] == status and all(part in answer[1] for part in sentence), answer
        assert tags(c) == ['py'] and c.get('/v1/sandboxes/' + one)[1]['branch_count'] == 0
        until(lambda: (sorted(c.processes()), c.run_directories()) == before, 'nothing is left of it')
        assert well(c, one)
        branch(c, one, 'never')
        assert well(c, c.fork(1, 'never')[0]['id'])
    return body


@case()
def a_source_that_refuses_is_quoted(c):
    fails('stream=refused:1', 500, 'the sandbox:', 'bitmaps of written pages')(c)


@case()
def a_new_template_that_fails_is_quoted(c):
    fails('branch=fail:1', 500, 'the pages of the branch', 'Cannot allocate memory')(c)


@case()
def a_new_template_that_dies_is_told(c):
    fails('branch=die:1', 500, 'ended without a word')(c)


@case()
def a_new_template_that_is_killed_is_told(c):
    one = source(c, 'branch=hang:1')
    before = set(c.processes())
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(refused, c, one, 'never')
        made, = until(lambda: set(c.processes()) - before, 'the new template runs')
        kill(c, made)
        status, why = asked.result()
    assert status == 500 and 'ended without a word' in why, why
    assert tags(c) == ['py'] and well(c, one)
    branch(c, one, 'never')


@case()
def a_source_that_is_killed_meanwhile_is_named(c):
    for how in ('killed', 'deleted'):
        one = source(c, 'stream=hang:1')
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(refused, c, one, 'never')
            until(lambda: 'never' in tags(c), 'a branch is under way')
            if how == 'killed':
                kill(c, c.get('/v1/sandboxes/' + one)[1]['pid'])
            else:
                assert c.delete('/v1/sandboxes/' + one)[0] == 204
            status, why = asked.result()
        assert status in (404, 409) and one in why, (status, why)
        assert tags(c) == ['py']
        c.delete('/v1/snapshots/py')
        c.assert_nothing_left()


@case()
def a_last_template_that_was_killed_is_replaced(c):
    one = source(c)
    with new_process(c) as last:
        branch(c, one, 'first')
    kill(c, last.pid)
    branch(c, one, 'second')
    until(lambda: [info['status'] for info in c.get('/v1/snapshots')[1]] == ['failed', 'ready', 'ready'], 'it is told')
    assert well(c, c.fork(1, 'second')[0]['id'])


@case()
def an_earlier_branch_serves_where_base_and_last_were_killed(c):
    one = source(c)
    branch(c, one, 'first')
    with new_process(c) as last:
        branch(c, one, 'second')
    kill(c, c.template())
    kill(c, last.pid)
    branch(c, one, 'third')


@case()
def without_a_living_template_there_is_no_branch_and_no_harm(c):
    one = source(c)
    with new_process(c) as last:
        branch(c, one, 'first')
    kill(c, c.template())
    kill(c, last.pid)
    status, why = refused(c, one, 'second')
    assert status == 500 and one in why, why
    until(lambda: [info['status'] for info in c.get('/v1/snapshots')[1]] == ['failed', 'failed'], 'both are told')
    status, why = refused(c, one, 'second')
    assert status == 500 and one in why and 'py' in why, why
    assert well(c, one) and 'second' not in tags(c)


@case()
def a_template_the_source_does_not_know_is_replaced(c):
    one = source(c, 'branch=strange')
    branch(c, one, 'first')
    branch(c, one, 'second')
    assert f'sandbox {one} cannot be branched from snapshot first' in c.read_log()


@case()
def a_template_killed_while_it_forks_is_no_harm(c):
    one = source(c, 'branch=mute:2')
    branch(c, one, 'first')
    before = set(c.processes())
    with ThreadPoolExecutor(1) as pool:
        other = c.fork()[0]['id']
        asked = pool.submit(refused, c, other, 'never')
        until(lambda: 'BRANCH was heard' in c.read_log(), 'it is asked to fork')
        kill(c, c.template())
        status, why = asked.result()
    assert status == 500 and why, (status, why)
    assert before - set(c.processes()) and well(c, other) and well(c, one)
    branch(c, one, 'second')


def undone(words, ready):
    """The controller dies in the middle: the next one undoes the branch, and the source can be branched."""
    def body(c):
        one = source(c, words)
        thread = threading.Thread(target=quietly, args=(ask, c, one, 'half'))
        thread.start()
        until(lambda: ready(c), 'the branch is that far')
        c.stop(signal.SIGKILL)
        thread.join()
        c.start()
        assert tags(c) == ['py'] and c.ids() == [one] and well(c, one)
        until(lambda: len(c.processes()) == 2, 'the half-made template is gone')
        until(lambda: len(c.run_directories()) == 2, 'and its directory')
        assert c.get('/v1/sandboxes/' + one)[1]['branch_count'] == 0
        branch(c, one, 'half')
        assert well(c, c.fork(1, 'half')[0]['id'])
    return body


def quietly(fn, *args):
    try:
        fn(*args)
    except OSError:
        pass  # the controller was killed under it


@case()
def kill_9_while_the_template_is_asked_is_undone(c):
    undone('branch=mute:1', lambda c: 'BRANCH was heard' in c.read_log())(c)


@case()
def kill_9_while_the_source_serves_is_undone(c):
    undone('stream=hang:1', lambda c: 'STREAM was heard' in c.read_log())(c)


@case()
def branches_survive_kill_9_of_the_controller(c):
    one = source(c)
    branch(c, one, 'first')
    before = branch(c, one, 'second')
    child = c.fork(1, 'first')[0]['id']
    c.stop(signal.SIGKILL)
    c.start()
    assert tags(c) == ['first', 'py', 'second']
    assert c.get('/v1/snapshots')[1][2] == before
    info = c.get('/v1/sandboxes/' + one)[1]
    assert info['branch_count'] == 2 and info['has_branched'] is True
    branch(c, one, 'third')
    branch(c, child, 'fourth')
    assert well(c, c.fork(1, 'second')[0]['id'])


@case()
def a_last_template_that_was_deleted_survives_kill_9_and_goes_with_its_source(c):
    one = source(c)
    branch(c, one, 'first')
    c.delete('/v1/snapshots/first')
    c.delete('/v1/snapshots/py')
    c.stop(signal.SIGKILL)
    c.start()
    assert tags(c) == [] and len(c.processes()) == 3
    branch(c, one, 'second')
    until(lambda: len(c.processes()) == 3, 'who is the last template no more, goes')
    c.delete('/v1/snapshots/second')
    c.delete('/v1/sandboxes/' + one)
    c.assert_nothing_left()


# The schema of version 1, as it was released.
VERSION_1 = {
    'snapshots': 'id TEXT PRIMARY KEY, tag TEXT NOT NULL, state INTEGER NOT NULL, reason TEXT NOT NULL,'
                 ' created INTEGER NOT NULL, secret BLOB NOT NULL, has_disk INTEGER NOT NULL',
    'sandboxes': 'id TEXT PRIMARY KEY, snapshot_id TEXT NOT NULL, state INTEGER NOT NULL, created INTEGER NOT NULL,'
                 ' memory_limit_mib INTEGER NOT NULL, secret BLOB NOT NULL',
}


def take_back_to_version_1(state):
    """Returns the version it was of."""
    with sqlite3.connect(state) as db:
        version = db.execute('PRAGMA user_version').fetchone()[0]
        rows = {}
        for table, columns in VERSION_1.items():
            names = ', '.join(column.split()[0] for column in columns.split(','))
            rows[table] = db.execute(f'SELECT {names} FROM {table}').fetchall()
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            db.execute(f'DROP TABLE {table}')
        for table, columns in VERSION_1.items():
            db.execute(f'CREATE TABLE {table}({columns}) WITHOUT ROWID')
            db.executemany(f'INSERT INTO {table} VALUES({", ".join("?" * (columns.count(",") + 1))})', rows[table])
        db.execute('CREATE UNIQUE INDEX snapshots_tag ON snapshots(tag) WHERE state <> 4')
        db.execute('PRAGMA user_version = 1')
    db.close()
    return version


@case()
def a_state_file_of_version_1_is_brought_up_to_date(c):
    one = source(c)
    c.stop()
    version = take_back_to_version_1(c.state)
    c.start()
    assert c.ids() == [one] and tags(c) == ['py'] and well(c, one)
    branch(c, one, 'first')
    c.stop()
    with sqlite3.connect(c.state) as db:
        assert db.execute('PRAGMA user_version').fetchone()[0] == version
        db.execute('PRAGMA user_version = 99')
    db.close()
    assert c.spawn().wait(10) == 1 and 'version 99' in c.read_log()
    with sqlite3.connect(c.state) as db:
        db.execute(f'PRAGMA user_version = {version}')
    db.close()
    c.start()
    assert tags(c) == ['first', 'py']


@case()
def a_stalled_sandbox_is_not_branched(c):
    one = source(c)
    c.exec(one, 'stall', timeout_secs=1)
    until(lambda: 'stalled' in c.get('/v1/sandboxes/' + one)[1], 'it is stalled')
    status, why = refused(c, one, 'first')
    assert status == 409 and 'stalled' in why
    c.post(f'/v1/sandboxes/{one}/resume')
    branch(c, one, 'first')


if __name__ == '__main__':
    raise SystemExit(main())
