"""Requests that cannot be meant: each has its status, one sentence, and changes nothing."""

import json
from concurrent.futures import ThreadPoolExecutor

from harness import KERNEL, case, main

HUGE = 10 ** 30
WRONG_JSON = ('{', '[1,2', '{"a":}', '{"a":1}x', '\0', '\xff', '{"a":"\\ud800"}', '{"tag":"x","tag":"y"}',
              '[' * 100000, '"text"', '5',
              'null', '[]', 'true', 'NaN', '{"a":1e999}', '{"a":' + '9' * 400 + '}', "{'a':1}")
NO_TAGS = ('', '.', '..', '../x', 'a/b', '/etc/passwd', '-x', '.x', 'x' * 65, 'a b', 'a\n', 'é', 'a\0b', '..%2f',
           '%2e%2e', '~', 'a;b')
# As parts of a path: encoded and raw.
NO_NAMES = ('..', '.', '%2e%2e', '..%2f..%2fetc', '%2e%2e%2fetc%2fpasswd', 'x' * 150, '%ff', '%c3%28', "'%20or%201=1",
            '%0a', 'a%25b',
            '-rf', '$(id)', 'sb-*', '%E2%80%AE')


def one_sentence(answer):
    assert list(answer) == ['error'] and isinstance(answer['error'], str) and answer['error'].strip(), answer
    assert '\n' not in answer['error'] and len(answer['error']) < 480, answer


def refused(c, method, path, body, statuses=(400,)):
    status, answer = c.call(method, path, body)
    assert status in statuses, (method, path[:80], str(body)[:80], status, answer)
    one_sentence(answer)
    return answer['error']


def world(c):
    return (c.get('/v1/snapshots'), c.get('/v1/sandboxes'), c.get('/v1/workspaces'), len(c.processes()),
            c.run_directories())


class Unchanged:
    """What is listed, what runs and what lies about is the same after a block."""

    def __init__(self, c):
        self.c, self.before = c, world(c)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            assert world(self.c) == self.before


def prepared(c):
    c.snapshot()
    return c.fork()[0]['id']


def bodies(one):
    """The routes that read a body, and one they take."""
    return {'/v1/snapshots': {'tag': 'new', 'kernel': '/none'}, '/v1/sandboxes': {'snapshot_tag': 'py'},
            f'/v1/sandboxes/{one}/exec': {'args': ['true']}, f'/v1/sandboxes/{one}/eval': {'code': '1'},
            f'/v1/sandboxes/{one}/branch': {'tag': 'new'}, '/v1/workspaces': {'name': 'new', 'snapshot_tag': 'py'}}


@case()
def malformed_json_is_400_on_every_route(c):
    one = prepared(c)
    with Unchanged(c):
        for path in bodies(one):
            for text in WRONG_JSON:
                said = refused(c, 'POST', path, text.encode('latin-1'))
                assert 'JSON' in said or 'must' in said or 'missing' in said, (path, text, said)


@case()
def fields_of_the_wrong_type_are_named(c):
    one = prepared(c)
    fields = {'/v1/snapshots': {'tag': 's', 'kernel': 's', 'rootfs': 's', 'image': 's', 'initrd': 's',
                                'ready_cmd': 's', 'rw': 'b',
                                'boot_wait_secs': 'n', 'mem_size_mib': 'n', 'vcpus': 'n', 'warmup': 'l'},
              '/v1/sandboxes': {'snapshot_tag': 's', 'n': 'n', 'memory_limit_mib': 'n', 'prewarm': 'b',
                                'live_fork': 'b',
                                'hugepages': 'b'},
              f'/v1/sandboxes/{one}/exec': {'args': 'l', 'timeout_secs': 'n', 'env': 'o', 'cwd': 's', 'stdin': 's',
                                            'output_limit': 'n'},
              f'/v1/sandboxes/{one}/eval': {'code': 's', 'timeout_secs': 'n'},
              '/v1/workspaces': {'name': 's', 'snapshot_tag': 's', 'memory_limit_mib': 'n'},
              f'/v1/sandboxes/{one}/branch': {'tag': 's', 'mode': 's', 'diff': 'b', 'live': 'b', 'measure_diff': 'b',
                                              'wait': 'b',
                                              'parent_tag': 's'}}
    values = {'s': 'text', 'b': True, 'n': 1, 'l': ['a', 2], 'o': {'a': 'b'}}
    with Unchanged(c):
        for path, kinds in fields.items():
            for name, kind in kinds.items():
                for other, value in values.items():
                    right = other == kind and other != 'l' or (name == 'warmup' and other == 's')
                    if right:
                        continue
                    said = refused(c, 'POST', path, {**bodies(one)[path], name: value})
                    assert name in said, (path, name, value, said)


@case()
def numbers_beyond_their_range_are_refused(c):
    one = prepared(c)
    ranges = {'/v1/snapshots': {'boot_wait_secs': (1, 60), 'mem_size_mib': (16, 65536), 'vcpus': (1, 16)},
              '/v1/sandboxes': {'n': (1, 1000), 'memory_limit_mib': (1, 1 << 30)},
              f'/v1/sandboxes/{one}/exec': {'timeout_secs': (1, 86400), 'output_limit': (0, 16 << 20)},
              f'/v1/sandboxes/{one}/eval': {'timeout_secs': (1, 86400)}}
    with Unchanged(c):
        for path, numbers in ranges.items():
            for name, (low, high) in numbers.items():
                for value in (low - 1, high + 1, -1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) + low, HUGE, -HUGE,
                              low + 0.5, float(low)):
                    if value == low:
                        value = f'{low}.0'  # a float, written as one
                    body = json.dumps({**bodies(one)[path], name: 0}).replace(f'"{name}": 0', f'"{name}": {value}')
                    said = refused(c, 'POST', path, body)
                    assert name in said or 'JSON' in said, (path, name, value, said)


@case()
def tags_that_are_none_are_refused_wherever_one_is_told(c):
    one = prepared(c)
    with Unchanged(c):
        for tag in NO_TAGS:
            refused(c, 'POST', '/v1/snapshots', {'tag': tag, 'kernel': c.kernel()})
            refused(c, 'POST', '/v1/sandboxes', {'snapshot_tag': tag})
            refused(c, 'POST', f'/v1/sandboxes/{one}/branch', {'tag': tag})
            refused(c, 'POST', '/v1/workspaces', {'name': tag, 'snapshot_tag': 'py'})
            refused(c, 'POST', '/v1/workspaces', {'name': 'new', 'snapshot_tag': tag})


@case()
def names_in_paths_lead_nowhere_else(c):
    prepared(c)
    with Unchanged(c):
        for name in NO_NAMES:
            for method, path in (('GET', '/v1/sandboxes/{}'), ('DELETE', '/v1/sandboxes/{}'),
                                 ('POST', '/v1/sandboxes/{}/ping'),
                                 ('POST', '/v1/sandboxes/{}/exec'), ('POST', '/v1/sandboxes/{}/branch'),
                                 ('GET', '/v1/workspaces/{}'), ('DELETE', '/v1/workspaces/{}'),
                                 ('POST', '/v1/workspaces/{}/suspend'), ('DELETE', '/v1/snapshots/{}'),
                                 ('DELETE', '/v1/snapshots/{}?force=true')):
                refused(c, method, path.format(name), '{"args":["true"]}', (400, 404))


@case()
def paths_in_a_body_are_opened_and_not_interpreted(c):
    with Unchanged(c):
        for path in ('/none', '/dev/zero', '/proc/self/mem', '/', '../../etc/passwd', '/etc/shadow\0x', 'x' * 5000, ''):
            refused(c, 'POST', '/v1/snapshots', {'tag': 'x', 'kernel': path}, (400,))
            refused(c, 'POST', '/v1/snapshots', {'tag': 'x', 'kernel': c.kernel(), 'rootfs': path or '/none'}, (400,))
            refused(c, 'POST', '/v1/snapshots', {'tag': 'x', 'image': path or '/none'}, (400,))


@case()
def queries_that_contradict_or_are_malformed(c):
    c.snapshot()
    with Unchanged(c):
        refused(c, 'DELETE', '/v1/snapshots/py?cascade=true&force=true', None)
        for query in ('%', '%zz=1', '&' * 100, 'a=' + 'b' * 5000, '=' * 50, 'memory=%00'):
            assert c.get('/v1/sandboxes?' + query)[0] == 200, query


@case()
def of_clients_that_race_for_one_branch_tag_one_wins(c):
    one = prepared(c)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: c.post(f'/v1/sandboxes/{one}/branch', {'tag': 'same'}), range(6)))
    statuses = sorted(status for status, _ in answers)
    assert statuses.count(201) <= 1 and all(status in (201, 409, 500, 502, 503) for status in statuses), statuses
    tags = [s['tag'] for s in c.get('/v1/snapshots')[1]]
    assert tags.count('same') <= 1
    if KERNEL:
        assert statuses.count(201) == tags.count('same') == 1, answers


raise SystemExit(main())
