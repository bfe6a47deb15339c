"""The packages know what the API's own description (openapi.json) tells: every request, and every field.

It is the Python package's requests that are walked, with all their arguments given; its answers are compared as types.
Of the TypeScript package the wire's types are read, which its compiler holds against its methods.
"""

import json
import os
import re
import typing

from forkd import calls
from harness import case, main

with open(os.environ['FORKD_OPENAPI'], encoding='utf-8') as file:
    API = json.load(file)
with open(os.environ['FORKD_TYPESCRIPT_TYPES'], encoding='utf-8') as file:
    TYPESCRIPT = file.read()

# Clients of API v1 have always had these, which are refused so far.
EXTRA = {'per_child_netns', 'tap'}
# A second word for a mode.
OTHERWISE = {'live'}
# The description itself.
NOT_CALLED = {('GET', '/openapi.json')}

GIVEN = {'tag': 'NAME', 'name': 'NAME', 'sandbox_id': 'NAME', 'args': ['true'], 'env': {'A': 'b'}, 'warmup': ['json'],
         'wait': False}
BY_TYPE = {bool: True, int: 1, typing.Optional[int]: 1, str: 'x', typing.Optional[str]: 'x'}

# What the schemas are called in types.ts.
INTERFACES = {'Health': 'HealthInfo', 'Version': 'VersionInfo', 'Pause': 'PauseMicroseconds',
              'ExecAnswer': 'ExecResult', 'EvalAnswer': 'EvalResult', 'PingAnswer': 'PingResult', 'Exec': 'ExecOptions',
              'SnapshotCreate': 'SnapshotOptions', 'Spawn': 'SpawnOptions', 'Branch': 'BranchOptions',
              'WorkspaceCreate': 'WorkspaceOptions'}
WITHOUT = {'Error', 'Eval', 'SnapshotCompact', 'WorkspaceSuspend'}


def resolved(thing):
    while '$ref' in thing:
        found = API
        for part in thing['$ref'].removeprefix('#/').split('/'):
            found = found[part]
        thing = found
    return thing


def schema_of(content):
    return next(iter(content.values()))['schema'] if content else None


def operations():
    """{(method, path with NAME): its description}"""
    return {(method.upper(), re.sub(r'\{\w+\}', 'NAME', path)): operation
            for path, methods in API['paths'].items() for method, operation in methods.items()}


def requests():
    """{(method, path): (function, Call)} with every argument given."""
    found = {}
    for function in vars(calls).values():
        hints = typing.get_type_hints(function) if callable(function) and hasattr(function, '__code__') else {}
        if typing.get_origin(hints.pop('return', None)) is not calls.Call:
            continue
        call = function(**{name: GIVEN[name] if name in GIVEN else BY_TYPE[kind] for name, kind in hints.items()})
        found[call.method, call.path.partition('?')[0]] = function, call
    return found


def same(ours, described, where):
    """Two sets of names; an error names those that only one has."""
    missing, unknown = sorted(described - ours), sorted(ours - described)
    assert not missing and not unknown, f'{where}: without {missing}; with {unknown}, which the API has not'


@case(start=False)
def every_request_has_its_method(_):
    same(set(requests()), set(operations()) - NOT_CALLED, 'calls.py')


@case(start=False)
def every_field_and_parameter_of_a_request_has_its_argument(_):
    described = operations()
    for key, (function, call) in requests().items():
        body = schema_of(described[key].get('requestBody', {}).get('content'))
        known = set(resolved(body)['properties']) if body else set()
        same(set(call.body or ()) - EXTRA, known - OTHERWISE, f'calls.py, {function.__name__}')
        asked = {pair.split('=')[0] for pair in call.path.partition('?')[2].split('&') if pair}
        parameters = map(resolved, described[key].get('parameters', ()))
        queried = {one['name'] for one in parameters if one['in'] == 'query'}
        same(asked, queried, f'calls.py, {function.__name__}')


@case(start=False)
def every_field_of_an_answer_is_in_its_type(_):
    described = operations()
    for key, (function, _call) in requests().items():
        answer = typing.get_args(typing.get_type_hints(function)['return'])[0]
        success = next(one for status, one in described[key]['responses'].items() if status.startswith('2'))
        schema = schema_of(success.get('content'))
        if answer in (str, type(None)):
            continue
        if schema.get('type') == 'array':
            assert typing.get_origin(answer) is list, function.__name__
            answer, schema = typing.get_args(answer)[0], schema['items']
        schema = resolved(schema)
        where = f'answers.py, {answer.__name__}'
        same(answer.__required_keys__ | answer.__optional_keys__, set(schema['properties']), where)
        same(answer.__required_keys__, set(schema['required']), f'{where}, always there')


@case(start=False)
def typescript_has_the_same_fields(_):
    for name, schema in API['components']['schemas'].items():
        if name in WITHOUT:
            continue
        interface = INTERFACES.get(name, name)
        body = re.search(rf'^export interface {interface} \{{\n(.*?)^\}}$', TYPESCRIPT, re.M | re.S)
        assert body, f'{interface} is not there'
        fields = dict(re.findall(r'^  (\w+)(\??):', body[1], re.M))
        same(set(fields) - EXTRA, set(schema['properties']) - OTHERWISE, f'types.ts, {interface}')
        always = {field for field, mark in fields.items() if not mark}
        same(always, set(schema['required']), f'types.ts, {interface}, always there')


raise SystemExit(main())
