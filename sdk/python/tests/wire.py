"""Against servers that say what a test tells them to: what is sent, and what becomes of bad answers and of none."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.error

import forkd
from faces import FACES, raised
from forkd.address import own_socket
from harness import Skip, case, main

CREATED = b'HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}'


class Server:
    """Answers each connection with the same bytes, and keeps what it was sent. None: it never answers. Without `reads`
    it answers when it has a request's head, and takes no more."""

    def __init__(self, answer, listener=None, reads=True):
        self.answer, self.reads, self.requests = answer, reads, []
        self.listener = listener or socket.create_server(('127.0.0.1', 0))
        self.over = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def url(self):
        return f'http://127.0.0.1:{self.listener.getsockname()[1]}'

    def serve(self):
        while not self.over.is_set():
            try:
                connection = self.listener.accept()[0]
            except OSError:
                continue
            with connection, contextlib.suppress(OSError):
                self.requests.append(read_request(connection) if self.reads else connection.recv(1000))
                if self.answer is not None:
                    connection.sendall(self.answer)
                if not self.reads:
                    connection.shutdown(socket.SHUT_RDWR)
                if self.answer is None or not self.reads:
                    self.over.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        # Wakes it from accept(), which closing the descriptor would not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def read_request(connection):
    """(request line, {field: value}, body)"""
    data = b''
    while b'\r\n\r\n' not in data and (piece := connection.recv(65536)):
        data += piece
    head, _, body = data.partition(b'\r\n\r\n')
    line, *fields = head.decode().split('\r\n')
    fields = dict(field.split(': ', 1) for field in fields)
    while len(body) < int(fields.get('Content-Length', 0)) and (piece := connection.recv(65536)):
        body += piece
    return line, fields, body


def sent(face, method, *args, **kwargs):
    """(request line, body) of what a call sends."""
    with Server(CREATED) as server:
        getattr(face(server.url, 'a token'), method)(*args, **kwargs)
    (line, fields, body), = server.requests
    assert fields['Authorization'] == 'Bearer a token' and fields['Connection'] == 'close', fields
    return line.removesuffix(' HTTP/1.1'), json.loads(body) if body else None


@case(start=False)
def each_call_sends_what_clients_of_api_v1_send(_):
    wanted = [
        (('list_snapshots',), {}, 'GET /v1/snapshots', None),
        (('delete_snapshot', 'a'), {}, 'DELETE /v1/snapshots/a', None),
        (('spawn_sandboxes', 'py'), {}, 'POST /v1/sandboxes',
         {'snapshot_tag': 'py', 'n': 1, 'per_child_netns': False}),
        (('spawn_sandboxes', 'py', 3, False, 64, True), {}, 'POST /v1/sandboxes',
         {'snapshot_tag': 'py', 'n': 3, 'per_child_netns': False, 'memory_limit_mib': 64, 'prewarm': True}),
        (('branch_sandbox', 'sb-1'), {}, 'POST /v1/sandboxes/sb-1/branch', {}),
        (('branch_sandbox', 'sb-1', 't', True), {}, 'POST /v1/sandboxes/sb-1/branch', {'tag': 't', 'diff': True}),
        (('exec_command', 'sb-1', ['true']), {}, 'POST /v1/sandboxes/sb-1/exec',
         {'args': ['true'], 'timeout_secs': 30}),
        (('eval_code', 'sb-1', '1'), {}, 'POST /v1/sandboxes/sb-1/eval', {'code': '1'}),
        (('ping_sandbox', 'sb-1'), {}, 'POST /v1/sandboxes/sb-1/ping', None),
        (('kill_sandbox', 'sb-1'), {}, 'DELETE /v1/sandboxes/sb-1', None),
    ]
    for face in FACES:
        for call, named, line, body in wanted:
            assert sent(face, *call, **named) == (line, body), call


@case(start=False)
def each_argument_goes_into_its_field(_):
    wanted = [
        (('create_snapshot', 'a', '/k', '/r', True, 'tap0', 20),
         {'initrd': '/i', 'mem_size_mib': 64, 'vcpus': 2, 'ready_cmd': 'true', 'warmup': ('json',)},
         'POST /v1/snapshots',
         {'tag': 'a', 'kernel': '/k', 'rootfs': '/r', 'rw': True, 'tap': 'tap0', 'boot_wait_secs': 20, 'initrd': '/i',
          'mem_size_mib': 64, 'vcpus': 2, 'ready_cmd': 'true', 'warmup': ['json']}),
        (('create_snapshot', 'a'), {'image': 'python3', 'warmup': 'import json'}, 'POST /v1/snapshots',
         {'tag': 'a', 'rw': False, 'boot_wait_secs': 10, 'image': 'python3', 'warmup': 'import json'}),
        (('compact_snapshot', 'a', 'b'), {}, 'POST /v1/snapshots/a/compact', {'to': 'b'}),
        (('delete_snapshot', 'a'), {'cascade': True}, 'DELETE /v1/snapshots/a?cascade=true', None),
        (('delete_snapshot', 'a'), {'force': True}, 'DELETE /v1/snapshots/a?force=true', None),
        (('spawn_sandboxes', 'py'), {'live_fork': True, 'hugepages': True}, 'POST /v1/sandboxes',
         {'snapshot_tag': 'py', 'n': 1, 'per_child_netns': False, 'live_fork': True, 'hugepages': True}),
        (('branch_sandbox', 'sb-1'), {'mode': 'diff', 'wait': False, 'parent_tag': 'py'},
         'POST /v1/sandboxes/sb-1/branch', {'mode': 'diff', 'wait': False, 'parent_tag': 'py'}),
        (('branch_sandbox', 'sb-1'), {'measure_diff': True}, 'POST /v1/sandboxes/sb-1/branch', {'measure_diff': True}),
        (('exec_command', 'sb-1', ('env',), 5), {'env': {'A': 'b'}, 'cwd': '/tmp', 'stdin': 'in', 'output_limit': 9},
         'POST /v1/sandboxes/sb-1/exec',
         {'args': ['env'], 'timeout_secs': 5, 'env': {'A': 'b'}, 'cwd': '/tmp', 'stdin': 'in', 'output_limit': 9}),
        (('eval_code', 'sb-1', '1'), {'timeout_secs': 3}, 'POST /v1/sandboxes/sb-1/eval',
         {'code': '1', 'timeout_secs': 3}),
        (('create_workspace', 'w', 'py', False, 64), {}, 'POST /v1/workspaces',
         {'name': 'w', 'snapshot_tag': 'py', 'per_child_netns': False, 'memory_limit_mib': 64}),
        (('suspend_workspace', 'w'), {'diff': True}, 'POST /v1/workspaces/w/suspend', {'diff': True}),
        (('suspend_workspace', 'w'), {}, 'POST /v1/workspaces/w/suspend', {}),
        (('resume_workspace', 'w'), {}, 'POST /v1/workspaces/w/resume', None),
        (('delete_workspace', 'w'), {}, 'DELETE /v1/workspaces/w', None),
        (('list_sandboxes',), {'memory': True}, 'GET /v1/sandboxes?memory=true', None),
        (('get_sandbox', 'sb-1'), {'memory': True}, 'GET /v1/sandboxes/sb-1?memory=true', None),
        (('resume_sandbox', 'sb-1'), {}, 'POST /v1/sandboxes/sb-1/resume', None),
        (('get_sandbox', '../x?y#z'), {}, 'GET /v1/sandboxes/..%2Fx%3Fy%23z', None),
        (('health',), {}, 'GET /healthz', None),
        (('version',), {}, 'GET /version', None),
        (('metrics',), {}, 'GET /metrics', None),
    ]
    for face in FACES:
        for call, named, line, body in wanted:
            assert sent(face, *call, **named) == (line, body), call


@case(start=False)
def each_status_has_its_class_and_keeps_the_words(_):
    classes = {400: forkd.BadRequest, 401: forkd.Unauthorized, 403: forkd.Forbidden, 404: forkd.NotFound,
               409: forkd.Conflict, 500: forkd.ControllerError, 502: forkd.GuestFailed, 503: forkd.Unavailable}
    for face in FACES:
        for status, kind in classes.items():
            body = b'{"error":"snapshot py is in use by sb-1"}'
            answer = b'HTTP/1.1 %d Some Words\r\nContent-Length: %d\r\n\r\n%s' % (status, len(body), body)
            with Server(answer) as server:
                error = raised(kind, face(server.url).delete_snapshot, 'py')
                assert f'HTTP {status}: snapshot py is in use by sb-1' in str(error), error
                assert error.status == status and error.body == {'error': 'snapshot py is in use by sb-1'}
                assert error.reason == 'snapshot py is in use by sb-1'
                assert error.url == server.url + '/v1/snapshots/py'


@case(start=False)
def an_error_that_is_no_json_is_kept_as_it_is(_):
    for face in FACES:
        for body in (b'<html>gone</html>', b'', b'\xff'):
            answer = b'HTTP/1.1 502 x\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)
            with Server(answer) as server:
                error = raised(forkd.GuestFailed, face(server.url).list_sandboxes)
                assert error.body == (body.decode(errors='replace') or {}), error


@case(start=False)
def bad_answers_are_told_as_such(_):
    bad = [b'SSH-2.0-OpenSSH_9\r\n', b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]',
           b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes',
           b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n']
    for face in FACES:
        for answer in bad:
            with Server(answer) as server:
                assert server.url in str(raised(forkd.BadAnswer, face(server.url).list_sandboxes))


@case(start=False)
def an_answer_in_chunks_is_put_together(_):
    answer = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[{}]\r\n0\r\n\r\n'
    for face in FACES:
        with Server(answer) as server:
            assert face(server.url).list_sandboxes() == [{}]


@case(start=False)
def a_body_refused_before_it_is_read_is_told_in_the_controllers_words(c):
    answer = b'HTTP/1.1 413 x\r\nContent-Length: 19\r\n\r\n{"error":"too big"}'
    for number, face in enumerate(FACES):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path := os.path.join(c.dir, str(number)))
        listener.listen()
        with Server(answer, listener, reads=False):
            error = raised(forkd.ControllerError, face('unix:' + path).eval_code, 'sb-1', 'x' * (4 << 20))
            assert error.reason == 'too big'


@case(start=False)
def no_answer_in_time_is_an_error_of_its_own(_):
    for face in FACES:
        with Server(None) as server:
            error = raised(forkd.TimedOut, face(server.url, timeout=0.1).list_sandboxes)
            assert isinstance(error, TimeoutError) and isinstance(error, forkd.Unreachable)
            assert 'no answer to GET within 0.1 s' in str(error) and server.url in str(error)


@case(start=False)
def a_command_is_waited_for_as_long_as_it_may_take(_):
    for face in FACES:
        with Server(None) as server:
            error = raised(forkd.TimedOut, face(server.url, timeout=0.1).exec_command, 'sb-1', ['true'], 1)
            assert 'within 1.1 s' in str(error), error


@case(start=False)
def a_closed_connection_is_no_answer(_):
    for face in FACES:
        with Server(b'') as server:
            assert 'closed' in str(raised(forkd.Unreachable, face(server.url).list_sandboxes))


@case(start=False)
def nobody_there_is_told_with_the_url_and_what_to_do(c):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    open(os.path.join(c.dir, 'controller.sock'), 'w', encoding='utf-8').close()
    os.environ['FORKD_STATE'] = c.dir
    try:
        for face in FACES:
            for url in (f'http://127.0.0.1:{port}', 'unix:' + os.path.join(c.dir, 'none')):
                error = raised(forkd.Unreachable, face(url).list_sandboxes)
                assert isinstance(error, urllib.error.URLError) and isinstance(error, OSError)
                assert url in str(error) and 'no controller listens there' in str(error), error
                assert f'unix:{c.dir}/controller.sock' in str(error) and 'FORKD_URL' in str(error), error
    finally:
        del os.environ['FORKD_STATE']


@case(start=False)
def the_socket_of_ones_own_lies_beside_the_state(c):
    os.mkdir(os.path.join(c.dir, 'there'))
    for name in ('controller.sock', 'there/controller.sock'):
        open(os.path.join(c.dir, name), 'w', encoding='utf-8').close()
    try:
        for named, socket_name in (('there', 'there/'), ('there/', 'there/'), ('there/my.db', 'there/'), ('my.db', ''),
                                   ('none/', None)):
            os.environ['FORKD_STATE'] = os.path.join(c.dir, named)
            wanted = None if socket_name is None else os.path.join(c.dir, socket_name + 'controller.sock')
            found = own_socket()
            assert found == wanted or os.path.samefile(found, wanted), (named, found)
    finally:
        del os.environ['FORKD_STATE']


@case(start=False)
def urls_are_read_as_written_or_refused(_):
    for face in FACES:
        assert face('http://10.0.0.1/').base_url == 'http://10.0.0.1'
        assert face('unix:///run/forkd.sock').base_url == 'unix:///run/forkd.sock'
        for url in ('ftp://x', 'localhost:8889', 'unix:', 'http://', 'http://x:port'):
            try:
                face(url)
            except ValueError:
                continue
            raise AssertionError(f'{url} was taken')


@case(start=False)
def the_environment_names_controller_and_token(_):
    os.environ.update(FORKD_URL='http://127.0.0.9:1/', FORKD_TOKEN='from a file\n')
    try:
        for face in FACES:
            assert face().base_url == 'http://127.0.0.9:1' and face().token == 'from a file'
            assert face('http://x', 'other').base_url == 'http://x' and face('http://x', 'other').token == 'other'
            assert face(token='').token is None
    finally:
        del os.environ['FORKD_URL'], os.environ['FORKD_TOKEN']
    assert forkd.Controller().base_url == 'http://127.0.0.1:8889'


@case(start=False)
def a_token_smuggles_no_header(_):
    for face in FACES:
        for token in ('a\r\nX-Evil: 1', 'a\nb', '\u20ac'):
            try:
                face('http://x', token)
            except ValueError:
                continue
            raise AssertionError(f'{token!r} was taken')


@case(start=False)
def a_proxys_path_goes_before_that_of_the_request(_):
    for face in FACES:
        with Server(CREATED) as server:
            face(server.url + '/forkd/').version()
        assert server.requests[0][0] == 'GET /forkd/version HTTP/1.1'


@case(start=False)
def a_socket_with_a_path_longer_than_an_address_is_reached(c):
    directory = os.path.join(c.dir, 'd' * 120)
    os.mkdir(directory)
    before = os.getcwd()
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(directory)
    try:
        listener.bind('http')
    finally:
        os.chdir(before)
    listener.listen()
    with Server(CREATED, listener) as server:
        for face in FACES:
            assert face('unix:' + os.path.join(directory, 'http')).version() == {}
        assert server.requests[0][1]['Host'] == 'localhost'


@case(start=False)
def https_is_believed_only_with_a_certificate(c):
    if not shutil.which('openssl'):
        raise Skip('openssl, which makes the certificate, is not installed')
    key, certificate = os.path.join(c.dir, 'key'), os.path.join(c.dir, 'certificate')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', certificate,
                    '-days', '2', '-subj', '/CN=forkd', '-addext', 'subjectAltName=IP:127.0.0.1'],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = context.wrap_socket(socket.create_server(('127.0.0.1', 0)), server_side=True)
    with Server(CREATED, listener) as server:
        url = server.url.replace('http:', 'https:')
        trust = ssl.create_default_context(cafile=certificate)
        for face in FACES:
            assert face(url, ssl_context=trust).version() == {}
            assert 'certificate' in str(raised(forkd.Unreachable, face(url).version)).lower()


@case(start=False)
def a_command_in_one_string_is_refused_before_it_is_sent(_):
    for face in FACES:
        try:
            face('http://x').exec_command('sb-1', 'true')
        except TypeError as error:
            assert 'list of words' in str(error)
        else:
            raise AssertionError('it was taken')


raise SystemExit(main())
