"""What a program can rely on: names, arguments and defaults of API v1's clients, and one interface on both faces."""

import inspect
import os
import pickle
import typing

import forkd
from forkd import answers
from harness import case, main

REQUIRED = object()
# As programs written for the clients of API v1 call them: by position, up to here.
EXPECTED = {
    '__init__': [('base_url', None), ('token', None), ('timeout', 60.0)],
    'list_snapshots': [],
    'delete_snapshot': [('tag', REQUIRED)],
    'spawn_sandboxes': [('snapshot_tag', REQUIRED), ('n', 1), ('per_child_netns', False), ('memory_limit_mib', None),
                        ('prewarm', False)],
    'list_sandboxes': [],
    'get_sandbox': [('sandbox_id', REQUIRED)],
    'kill_sandbox': [('sandbox_id', REQUIRED)],
    'branch_sandbox': [('sandbox_id', REQUIRED), ('tag', None), ('diff', False), ('measure_diff', False)],
    'exec_command': [('sandbox_id', REQUIRED), ('args', REQUIRED), ('timeout_secs', 30)],
    'eval_code': [('sandbox_id', REQUIRED), ('code', REQUIRED)],
    'ping_sandbox': [('sandbox_id', REQUIRED)],
}


def parameters(function):
    return [one for name, one in inspect.signature(function).parameters.items() if name != 'self']


@case(start=False)
def programs_for_api_v1_find_their_arguments(_):
    for name, expected in EXPECTED.items():
        found = parameters(getattr(forkd.Controller, name))
        for (want, default), have in zip(expected, found):
            default = inspect.Parameter.empty if default is REQUIRED else default
            assert (have.name, have.default) == (want, default), (name, have)
            assert have.kind == have.POSITIONAL_OR_KEYWORD, (name, have)
        assert len(found) >= len(expected), name
        assert all(one.default is not inspect.Parameter.empty for one in found[len(expected):]), name


@case(start=False)
def both_faces_have_the_same_methods(_):
    def public(kind):
        return {name: inspect.signature(member) for name, member in vars(kind).items()
                if inspect.isfunction(member) and (name == '__init__' or not name.startswith('_'))}

    blocking, awaited = public(forkd.Controller), public(forkd.AsyncController)
    assert list(blocking) == list(awaited)
    for name, signature in blocking.items():
        assert signature.parameters == awaited[name].parameters, name


@case(start=False)
def errors_carry_status_body_and_url_and_are_runtime_errors(_):
    error = forkd.ControllerError(418, {'error': 'short and stout'}, 'http://x/v1')
    assert isinstance(error, RuntimeError)
    assert (error.status, error.body, error.url) == (418, {'error': 'short and stout'}, 'http://x/v1')
    assert 'HTTP 418: short and stout' in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.body) == (str(error), error.body)
    assert 'HTTP 500: ["odd"]' in str(forkd.ControllerError(500, ['odd'], ''))


@case(start=False)
def types_can_be_asked_for_at_run_time(_):
    for name in ('SandboxInfo', 'SnapshotInfo', 'ExecResult', 'EvalResult', 'PingResult', 'TextResult'):
        assert typing.get_type_hints(getattr(answers, name)), name
    assert os.path.exists(os.path.join(os.path.dirname(forkd.__file__), 'py.typed'))


@case(start=False)
def the_version_is_that_of_forkd(_):
    assert forkd.__version__ == os.environ['FORKD_VERSION']


raise SystemExit(main())
