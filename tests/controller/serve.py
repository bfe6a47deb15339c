"""How forkd-controller starts, whom it lets in, and how it ends."""

import contextlib
import json
import os
import signal
import socket
import sqlite3

from harness import Connection, case, main, until
from refusals import refuses


@case(start=False)
def a_state_file_of_the_original_is_refused_and_left_alone(c):
    with open(c.state, 'w', encoding='utf-8') as file:
        file.write('{"snapshots":{},"sandboxes":{}}')
    refuses(c, words='is not a state file of forkd-controller and is left as it is')
    with open(c.state, encoding='utf-8') as file:
        assert file.read() == '{"snapshots":{},"sandboxes":{}}'


@case(start=False)
def a_database_of_another_program_is_refused(c):
    with sqlite3.connect(c.state) as db:
        db.execute('CREATE TABLE theirs(x)')
    refuses(c, words='is a database of another program')


@case(start=False)
def a_directory_as_state_means_a_file_in_it(c):
    where = os.path.join(c.dir, 'there')
    os.mkdir(where)
    c.state, keep = where, c.state
    c.run = os.path.join(where, 'state.db.run')
    c.start()
    assert os.path.exists(os.path.join(where, 'state.db'))
    assert not os.path.exists(keep)


@case()
def the_state_file_is_its_owners_alone(c):
    """It holds the secrets by which VMMs know their controller."""
    c.snapshot()
    for name in (c.state, c.state + '-wal'):
        assert os.stat(name).st_mode & 0o777 == 0o600, name


@case()
def two_controllers_on_one_state_refuse(c):
    other = os.path.join(c.dir, 'other')
    refuses(c, '--bind', 'unix:' + other, words='another forkd-controller is running on this state')
    assert c.get('/healthz')[0] == 200


@case()
def a_socket_in_use_is_not_taken_away(c):
    refuses(c, '--state', os.path.join(c.dir, 'second.db'), words='somebody listens there already')
    assert c.get('/healthz')[0] == 200


@case(start=False)
def an_open_bind_needs_a_token(c):
    refuses(c, '--bind', '0.0.0.0:0', words='it needs a --token-file')
    refuses(c, '--bind', '[::]:0', words='it needs a --token-file')


@case(start=False)
def bad_flags_are_usage_errors(c):
    for flags in (['--none'], ['--bind'], ['more'], ['--spawns-at-once', '0']):
        refuses(c, *flags, words='', status=2)
    refuses(c, '--bind', 'nowhere', words='is neither ADDRESS:PORT nor unix:/path')


@case(start=False)
def a_missing_vmm_is_named(c):
    refuses(c, words='FORKD_VMM=/none: No such file or directory', env={'FORKD_VMM': '/none'})


@case()
def one_connection_serves_many_requests(c):
    connection = Connection(c.socket)
    for path, status in (('/healthz', 200), ('/none', 404), ('/v1/sandboxes', 200), ('/v1/sandboxes/x', 404)) * 3:
        connection.request('GET', path)
        response = connection.getresponse()
        assert response.status == status and response.read()
    connection.close()


@case()
def head_is_get_without_a_body(c):
    for path, status in (('/healthz', 200), ('/v1/sandboxes', 200), ('/none', 404)):
        got, body, response = c.raw('HEAD', path)
        assert (got, body) == (status, b''), path
        assert response.getheader('Content-Length') == str(len(c.raw('GET', path)[1])), path


@case()
def rubbish_on_the_socket_harms_nobody(c):
    rubbish = [b'', b'\0' * 100, b'GET\r\n\r\n', b'GET / HTTP/9.9\r\n\r\n', b'\xff' * 5000,
               b'POST /v1/snapshots HTTP/1.1\r\n',
               b'GET /healthz HTTP/1.1\r\nHost: x\r\nX: ' + b'y' * 200000 + b'\r\n\r\n',
               b'POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n',
               b'POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\nx']
    for data in rubbish:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError):
            sock.connect(c.socket)
            sock.sendall(data)
            assert c.get('/healthz') == (200, {'ok': True}), data[:40]


@case()
def a_head_over_the_limit_is_431(c):
    status, answer = c.call('GET', '/healthz', None, {'X': 'y' * 20000})
    assert status == 431 and list(answer) == ['error']


@case()
def a_client_that_hangs_up_leaves_its_spawn_consistent(c):
    c.snapshot()
    body = b'{"snapshot_tag":"py","n":5}'
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(c.socket)
        sock.sendall(b'POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body))
        until(lambda: len(c.processes()) > 1, 'the spawn has begun')
    until(lambda: len(c.ids()) == 5, 'the spawn is done all the same')


@case()
def sighup_reopens_the_audit_log(c):
    os.rename(c.audit, c.audit + '.1')
    c.process.send_signal(signal.SIGHUP)

    def reopened():
        c.get('/healthz')
        return os.path.exists(c.audit) and os.path.getsize(c.audit) > 0
    until(reopened, 'lines go to the new file')


def finishes_what_is_being_done(c, how):
    c.snapshot()
    one = c.fork()[0]['id']
    connection = Connection(c.socket)
    connection.request('POST', f'/v1/sandboxes/{one}/exec', json.dumps({'args': ['nap']}))
    c.get('/healthz')
    c.process.send_signal(how)
    assert connection.getresponse().status == 200
    connection.close()
    assert c.process.wait(60) == 0
    c.process = None
    assert not os.path.exists(c.socket)
    c.start()


@case()
def sigterm_finishes_what_is_being_done(c):
    finishes_what_is_being_done(c, signal.SIGTERM)


@case()
def sigint_finishes_what_is_being_done(c):
    finishes_what_is_being_done(c, signal.SIGINT)


@case()
def nothing_new_is_begun_by_a_controller_that_ends(c):
    body = json.dumps({'tag': 'slow', 'kernel': c.kernel('boot=silent'), 'boot_wait_secs': 8})
    busy, kept = Connection(c.socket), Connection(c.socket)
    kept.request('GET', '/v1/sandboxes')
    assert kept.getresponse().read() == b'[]'
    busy.request('POST', '/v1/snapshots', body)
    until(lambda: c.get('/v1/snapshots')[1], 'the long one has begun')
    c.process.send_signal(signal.SIGTERM)

    def refused():
        # Each answer of a controller that ends closes its connection; the next one is not accepted.
        kept.request('GET', '/v1/sandboxes')
        response = kept.getresponse()
        text = response.read()
        assert (response.status, text) in ((200, b'[]'), (503, b'{"error":"the controller is ending"}')), text
        return response.status == 503 and response.getheader('Connection') == 'close'
    until(refused, 'the kept connection is told')
    assert busy.getresponse().status == 500
    assert c.process.wait(60) == 0
    c.process = None
    c.start()


raise SystemExit(main())
