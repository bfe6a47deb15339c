"""Whether /openapi.json is true: every path, status and field it names is met in a walk over a running controller, and
every route of the controller, and every field of its answers, is in it."""

import contextlib
import json
import os
import re
import signal
import threading

from harness import Connection, case, main, until

TOKENS = 'reader-of-all-things read\nrunner-of-the-things run\nadmin-of-every-thing admin\n'
READER, RUNNER, ADMIN = (line.split()[0] for line in TOKENS.splitlines())
TYPES = {'string': str, 'integer': int, 'number': (int, float), 'boolean': bool, 'null': type(None), 'array': list,
         'object': dict}
# What no walk can make on any host: a field by its schema.
ELSEWHERE = {('SandboxInfo', 'memory_charged_kib'): 'needs a cgroup with a memory controller',
             ('SnapshotInfo', 'memory_charged_kib'): 'needs a cgroup with a memory controller',
             ('WorkspaceInfo', 'last_branch_memory_path'): 'needs snapshots on a disk: tests/kvm/durable.py',
             **dict.fromkeys([(schema, field) for schema in ('SnapshotInfo', 'SnapshotInfoDetail')
                              for field in ('percent', 'written_bytes', 'diff_ms', 'diff_physical_bytes',
                                            'diff_logical_bytes', 'content_hash', 'parent_content_hash')],
                             'needs snapshots on a disk: tests/kvm/durable.py')}
# Likewise a status: snapshots of this walk's processes cannot be written. tests/kvm/durable.py does it.
NOT_HERE = {('compactSnapshot', 200), ('compactSnapshot', 500)}


class Document:
    def __init__(self, tree):
        self.tree, self.met, self.statuses = tree, set(), set()
        self.operations = {one['operationId']: (method, path, one) for path, methods in tree['paths'].items()
                           for method, one in methods.items()}

    def resolve(self, node):
        if '$ref' not in node:
            return node, None
        at = self.tree
        for part in node['$ref'].removeprefix('#/').split('/'):
            at = at[part]
        return at, node['$ref'].rsplit('/', 1)[1]

    def check(self, schema, value, where):
        """A value against a schema; fields that the schema does not name are wrong as well."""
        schema, name = self.resolve(schema)
        kinds = [schema['type']] if isinstance(schema['type'], str) else schema['type']
        # To Python true is a number too.
        fits = [kind for kind in kinds
                if isinstance(value, TYPES[kind]) and (kind == 'boolean') == isinstance(value, bool)]
        assert fits, f'{where} is {value!r} and should be {kinds}'
        assert value in schema.get('enum', [value]), f'{where} is {value!r}'
        if isinstance(value, str):
            assert re.search(schema.get('pattern', ''), value), f'{where} is {value!r}'
        if isinstance(value, list):
            for one in value:
                self.check(schema['items'], one, where + '[]')
        if isinstance(value, dict) and 'properties' in schema:
            missing = set(schema['required']) - set(value)
            assert not missing, f'{where} lacks {missing}'
            for key, one in value.items():
                assert key in schema['properties'], f'{where} has {key}, which is not in the document'
                self.met.add((name, key))
                self.check(schema['properties'][key], one, f'{where}.{key}')

    def answer(self, operation, status, response, body):
        """What came back is what the document says comes back."""
        told = self.operations[operation][2]['responses']
        assert str(status) in told, f'{operation} answered {status}, which is not in the document: {body}'
        self.statuses.add((operation, status))
        content = self.resolve(told[str(status)])[0].get('content')
        if not content:
            assert not body, (operation, status, body)
            return None
        (kind, media), = content.items()
        assert response.getheader('Content-Type') == kind, (operation, status, response.getheader('Content-Type'))
        value = json.loads(body) if kind == 'application/json' else body.decode()
        self.check(media['schema'], value, f'{operation} {status}')
        return value


class Walk:
    def __init__(self, c):
        self.c = c
        status, body, _ = c.raw('GET', '/openapi.json', None, self.bearer(READER))
        assert status == 200
        self.doc = Document(json.loads(body))

    @staticmethod
    def bearer(token):
        return {'Authorization': 'Bearer ' + token}

    def go(self, operation, want, body=None, query='', token=ADMIN, fields=None, over=None, **names):
        method, path, _ = self.doc.operations[operation]
        text = body if isinstance(body, (str, bytes, type(None))) else json.dumps(body)
        headers = {**(self.bearer(token) if token else {}), **(fields or {})}
        url = path.format(**names) + query
        status, answer, response = (over or self.c.raw)(method.upper(), url, text, headers)
        assert status == want, (operation, status, answer)
        return self.doc.answer(operation, status, response, answer)

    def snapshot(self, tag, words='fine', **fields):
        return self.go('createSnapshot', 201, {'tag': tag, 'kernel': self.c.kernel(words), **fields})

    def spawn(self, tag='py', n=1):
        return [one['id'] for one in self.go('spawnSandboxes', 201, {'snapshot_tag': tag, 'n': n})]

    def metrics(self):
        status, text, response = self.c.raw('GET', '/metrics', None, self.bearer(READER))
        self.doc.answer('getMetrics', status, response, text)
        return text.decode()


def with_tokens(c):
    with open(c.dir + '/tokens', 'w', encoding='utf-8') as file:
        file.write(TOKENS)
    c.flags = ['--token-file', c.dir + '/tokens', '--branch-concurrency', '1']
    c.start()
    return Walk(c)


def walk_plain(w):
    w.go('getHealth', 200, token=None)
    w.go('getVersion', 200)
    w.go('getOpenapi', 200)
    w.metrics()


def walk_snapshots(w):
    c = w.c
    w.snapshot('py', warmup=['numpy'], mem_size_mib=64, vcpus=2, rw=True)
    w.go('createSnapshot', 400, {'tag': 'py', 'kernel': c.kernel()})
    w.go('createSnapshot', 500, {'tag': 'bad', 'kernel': c.kernel('boot=panic')})
    slow = {'tag': 'slow', 'kernel': c.kernel('boot=silent'), 'boot_wait_secs': 8}
    silent = threading.Thread(target=w.go, args=('createSnapshot', 500, slow))
    silent.start()
    until(lambda: any(one.get('stage') == 'boot' for one in w.go('listSnapshots', 200)), 'the slow one is being made')
    assert w.go('getSnapshotInfo', 200, tag='slow')['status'] == 'writing'
    w.go('deleteSnapshot', 409, tag='slow')
    w.go('spawnSandboxes', 409, {'snapshot_tag': 'slow'})
    silent.join()
    w.go('compactSnapshot', 400, {}, tag='py')
    w.go('compactSnapshot', 404, {'to': 'whole'}, tag='none')
    w.go('compactSnapshot', 409, {'to': 'whole'}, tag='py')
    w.go('deleteSnapshot', 400, tag='py', query='?cascade=true&force=true')
    w.go('deleteSnapshot', 404, tag='none')
    w.go('getSnapshotInfo', 404, tag='none')
    w.go('getSnapshotInfo', 400, tag='-not-a-tag')
    w.go('listSnapshots', 200, query='?memory=true')


def walk_dead_template(w):
    w.snapshot('dies')
    os.kill(w.c.template(), signal.SIGKILL)
    until(lambda: 'warning' in w.go('listSnapshots', 200)[0], 'its death is told')
    w.go('getSnapshotInfo', 200, tag='dies')
    w.go('deleteSnapshot', 204, tag='dies')


def walk_sandboxes(w):
    c = w.c
    one, other = w.spawn(n=2)
    w.go('spawnSandboxes', 400, {'snapshot_tag': 'py', 'n': 0})
    w.go('spawnSandboxes', 404, {'snapshot_tag': 'none'})
    w.snapshot('fails', 'spawn=fail:1')
    w.go('spawnSandboxes', 500, {'snapshot_tag': 'fails'})
    w.go('listSandboxes', 200, query='?memory=true')
    w.go('getSandbox', 200, id=one, query='?memory=true')
    w.go('pingSandbox', 200, id=one)
    w.go('execCommand', 200, {'args': ['slow']}, id=one)
    w.go('execCommand', 200, {'args': ['flood'], 'output_limit': 10}, id=one)
    w.go('execCommand', 200, {'args': ['env'], 'cwd': '/a/longer/one', 'output_limit': 2}, id=one)
    w.go('execCommand', 400, {'args': []}, id=one)
    w.go('evalCode', 200, {'code': '1+1'}, id=one)
    w.go('evalCode', 200, {'code': 'slow'}, id=one)
    w.go('evalCode', 400, {}, id=one)
    for operation in ('getSandbox', 'killSandbox', 'pingSandbox', 'resumeSandbox'):
        w.go(operation, 404, id='none')
    w.go('execCommand', 404, {'args': ['true']}, id='none')
    w.go('evalCode', 404, {'code': '1'}, id='none')
    walk_stall(w, one)
    c.call('POST', f'/v1/sandboxes/{other}/exec', '{"args":["poweroff"]}', w.bearer(RUNNER))
    w.go('killSandbox', 204, id=one)


def walk_stall(w, one):
    c = w.c
    w.go('resumeSandbox', 409, id=one)
    c.call('POST', f'/v1/sandboxes/{one}/exec', '{"args":["stall"]}', w.bearer(RUNNER))
    until(lambda: 'stalled' in w.go('getSandbox', 200, id=one), 'it is stalled')
    for operation, body in (('pingSandbox', None), ('execCommand', {'args': ['true']}), ('evalCode', {'code': '1'}),
                            ('branchSandbox', {})):
        w.go(operation, 409, body, id=one)
    w.go('resumeSandbox', 200, id=one)


def walk_agent_failures(w):
    """An agent that hangs up instead of answering."""
    w.snapshot('mute', 'ping=hangup')
    one, = w.spawn('mute')
    for operation, body in (('pingSandbox', None), ('execCommand', {'args': ['hangup']}),
                            ('evalCode', {'code': 'hangup'})):
        w.go(operation, 502, body, id=one)
    w.go('killSandbox', 204, id=one)
    w.go('deleteSnapshot', 204, tag='mute')


def walk_branches(w):
    c = w.c
    one, = w.spawn()
    w.go('branchSandbox', 201, {'tag': 'made', 'diff': True}, id=one)
    w.go('getSnapshotInfo', 200, tag='made')
    w.go('branchSandbox', 202, {'wait': False}, id=one)
    w.go('branchSandbox', 400, {'tag': '..'}, id=one)
    w.go('branchSandbox', 404, {}, id='none')
    w.snapshot('breaks', 'branch=fail:1')
    broken, = w.spawn('breaks')
    w.go('branchSandbox', 500, {}, id=broken)
    w.snapshot('hangs', 'stream=hang:1')
    hanging, = w.spawn('hangs')
    under_way = threading.Thread(target=c.call, args=('POST', f'/v1/sandboxes/{hanging}/branch', '{"tag":"never"}',
                                                      w.bearer(ADMIN)))
    under_way.start()
    until(lambda: 'forkd_branches_in_flight 1\n' in w.metrics(), 'a branch is under way')
    w.go('branchSandbox', 503, {}, id=one)
    w.go('killSandbox', 204, id=hanging)
    under_way.join()


def walk_workspaces(w):
    w.go('createWorkspace', 201, {'name': 'a', 'snapshot_tag': 'py'})
    w.go('createWorkspace', 400, {'name': '..', 'snapshot_tag': 'py'})
    w.go('createWorkspace', 404, {'name': 'b', 'snapshot_tag': 'none'})
    w.go('createWorkspace', 409, {'name': 'a', 'snapshot_tag': 'py'})
    w.go('resumeWorkspace', 400, name='a')
    w.go('suspendWorkspace', 200, {}, name='a')
    w.go('suspendWorkspace', 400, {}, name='a')
    w.go('getWorkspace', 200, name='a')
    w.go('resumeWorkspace', 200, name='a')
    w.go('listWorkspaces', 200)
    for operation in ('getWorkspace', 'suspendWorkspace', 'resumeWorkspace', 'deleteWorkspace'):
        w.go(operation, 404, name='none')
    walk_workspaces_that_fail(w)
    walk_workspaces_at_work(w)
    w.go('deleteWorkspace', 204, name='a')


def walk_workspaces_that_fail(w):
    w.snapshot('first', 'spawn=fail:1')
    w.go('createWorkspace', 500, {'name': 'f', 'snapshot_tag': 'first'})
    w.snapshot('second', 'spawn=fail:2 branch=fail:1')
    box = w.go('createWorkspace', 201, {'name': 'f', 'snapshot_tag': 'second'})['live_sandbox_id']
    w.go('suspendWorkspace', 500, {}, name='f')
    w.go('killSandbox', 204, id=box)
    assert w.go('getWorkspace', 200, name='f')['status'] == 'stale'
    w.go('resumeWorkspace', 500, name='f')
    w.go('deleteWorkspace', 204, name='f')


def walk_workspaces_at_work(w):
    c = w.c
    w.snapshot('slow', 'stream=hang:1')
    box = w.go('createWorkspace', 201, {'name': 's', 'snapshot_tag': 'slow'})['live_sandbox_id']
    under_way = threading.Thread(target=c.call, args=('POST', '/v1/workspaces/s/suspend', '', w.bearer(ADMIN)))
    under_way.start()
    until(lambda: 'forkd_branches_in_flight 1\n' in w.metrics(), 'it is being suspended')
    for operation in ('suspendWorkspace', 'resumeWorkspace', 'deleteWorkspace'):
        w.go(operation, 409, name='s')
    w.go('suspendWorkspace', 503, {}, name='a')
    w.go('killSandbox', 204, id=box)
    under_way.join()
    w.go('deleteWorkspace', 204, name='s')


def walk_refusals(w):
    """What every operation answers in the same way."""
    for operation, (_, path, told) in w.doc.operations.items():
        names = dict.fromkeys(re.findall(r'\{(\w+)\}', path), 'none')
        right = told['x-forkd-right']
        if right != 'none':
            w.go(operation, 401, token=None, **names)
            w.go(operation, 401, token='a-token-of-nobody-here', **names)
        if right in ('run', 'admin'):
            w.go(operation, 403, token=READER, **names)
        if right == 'admin':
            w.go(operation, 403, token=RUNNER, **names)
        w.go(operation, 413, b'x' * (3 << 20), **names)
        w.go(operation, 415, '{}', fields={'Content-Encoding': 'gzip'}, **names)
        w.go(operation, 431, fields={'X': 'y' * 20000}, **names)


def keep(c):
    """A connection that is there already, for one more request."""
    connection = Connection(c.socket)

    def ask(*request):
        connection.request(*request)
        response = connection.getresponse()
        return response.status, response.read(), response
    assert ask('GET', '/healthz')[0] == 200
    return ask


def is_ending(c):
    with contextlib.suppress(OSError):
        Connection(c.socket).connect()
        return False
    return True


def walk_ending(w):
    """A controller that ends refuses what it would have to work on."""
    c = w.c
    kept = {name: keep(c) for name, (_, _, one) in w.doc.operations.items() if '503' in one['responses']}
    body = {'tag': 'last', 'kernel': c.kernel('boot=silent'), 'boot_wait_secs': 10}
    last = threading.Thread(target=w.go, args=('createSnapshot', 500, body))
    last.start()
    until(lambda: any(one['tag'] == 'last' for one in w.go('listSnapshots', 200)), 'there is something to be finished')
    c.process.send_signal(signal.SIGTERM)
    until(lambda: is_ending(c), 'nobody is let in any more')
    for operation, ask in kept.items():
        names = dict.fromkeys(re.findall(r'\{(\w+)\}', w.doc.operations[operation][1]), 'none')
        w.go(operation, 503, over=ask, **names)
    last.join()
    assert c.process.wait(60) == 0
    c.process = None


@case(start=False)
def every_status_and_field_is_met(c):
    w = with_tokens(c)
    for part in (walk_plain, walk_dead_template, walk_snapshots, walk_sandboxes, walk_agent_failures, walk_branches,
                 walk_workspaces, walk_refusals):
        part(w)
    fields = {(name, key) for name, schema in w.doc.tree['components']['schemas'].items()
              for key in schema.get('properties', {}) if name not in requests(w.doc)}
    never = {one for one in fields - w.doc.met if one not in ELSEWHERE}
    assert not never, f'in the document and in no answer: {sorted(never)}'
    for one in json.loads(c.raw('GET', '/v1/sandboxes', None, w.bearer(ADMIN))[1]):
        c.raw('DELETE', '/v1/sandboxes/' + one['id'], None, w.bearer(ADMIN))
    for one in json.loads(c.raw('GET', '/v1/snapshots', None, w.bearer(ADMIN))[1]):
        c.raw('DELETE', '/v1/snapshots/' + one['tag'], None, w.bearer(ADMIN))
    c.assert_nothing_left()
    walk_ending(w)
    told = {(name, int(status)) for name, (_, _, one) in w.doc.operations.items() for status in one['responses']}
    never = told - NOT_HERE - w.doc.statuses
    assert not never, f'in the document and not met: {sorted(never)}'


def requests(doc):
    """The schemas of what is sent, by name."""
    found = {}
    for _, path, one in doc.operations.values():
        if 'requestBody' in one:
            (_, media), = one['requestBody']['content'].items()
            schema, name = doc.resolve(media['schema'])
            found[name] = (path, one, schema)
    return found


@case()
def every_field_of_a_request_is_known_with_its_limits(c):
    """A value of another type, or beyond its bounds, is refused by the field's name: so the controller reads it."""
    c.snapshot()
    one = c.fork()[0]['id']
    doc = Document(c.get('/openapi.json')[1])
    needed = {'to': 'new', 'tag': 'new', 'kernel': '/none', 'snapshot_tag': 'py', 'args': ['true'], 'code': '1',
              'name': 'new'}
    for path, _, schema in requests(doc).values():
        url = path.format(id=one, tag='py', name='none')
        base = {key: needed[key] for key in [*schema['required'], 'kernel'] if key in schema['properties']}
        for key, kind in schema['properties'].items():
            wrong = [{}] if kind['type'] != 'object' else [[]]
            wrong += [kind['minimum'] - 1] if 'minimum' in kind else []
            wrong += [kind['maximum'] + 1] if 'maximum' in kind else []
            wrong += ['*'] if 'pattern' in kind or 'enum' in kind else []
            for value in wrong:
                status, answer = c.post(url, {**base, key: value})
                assert status == 400 and key in answer['error'], (url, key, value, status, answer)
        for key in schema['required']:
            status, answer = c.post(url, {name: value for name, value in base.items() if name != key})
            assert status == 400 and key in answer['error'], (url, key, status, answer)


@case()
def every_route_is_in_it_and_no_other(c):
    tree = c.get('/openapi.json')[1]
    told = {(method.upper(), re.sub(r'\{(\w+)\}', r':\1', path))
            for path, methods in tree['paths'].items() for method in methods}
    text = c.raw('GET', '/metrics')[1].decode()
    routes = set(re.findall(r'forkd_request_duration_seconds_count\{method="(\w+)",route="(/[^"]*)"\}', text))
    assert told == routes, (told - routes, routes - told)


@case()
def it_is_openapi(c):
    status, body, response = c.raw('GET', '/openapi.json')
    tree = json.loads(body)
    assert status == 200 and response.getheader('Content-Type') == 'application/json' and b': ' not in body[:100]
    assert tree['openapi'] == '3.1.0' and tree['info']['version'] == c.get('/version')[1]['version']
    doc, used = Document(tree), set()

    def references(node):
        if isinstance(node, dict):
            if '$ref' in node:
                doc.resolve(node)
                used.add(node['$ref'])
            for one in node.values():
                references(one)
        elif isinstance(node, list):
            for one in node:
                references(one)
    references(tree)
    for kind in ('parameters', 'responses', 'schemas'):
        for name in tree['components'][kind]:
            assert f'#/components/{kind}/{name}' in used, f'{kind}/{name} is used by nothing'
    count = sum(len(methods) for methods in tree['paths'].values())
    assert len(doc.operations) == count, 'an operationId is there twice'
    for _, path, one in doc.operations.values():
        given = {doc.resolve(p)[0]['name'] for p in one.get('parameters', []) if doc.resolve(p)[0]['in'] == 'path'}
        assert given == set(re.findall(r'\{(\w+)\}', path)), path
        assert one['summary'] and one['responses']


raise SystemExit(main())
