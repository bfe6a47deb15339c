"""Clients that are slow, hasty, many or gone: each gets what it asked for, or is dropped, and no other one suffers."""

import contextlib
import json
import resource
import socket

from harness import DEADLINE, case, main, until


def connects(sock, path):
    with contextlib.suppress(BlockingIOError):
        sock.connect(path)
        return True
    return False


@contextlib.contextmanager
def talk(c):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE)
        until(lambda: connects(sock, c.socket), 'there is room in the queue of the socket')
        yield sock


def request(method, path, body=b'', fields=b''):
    head = b'%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n' % (method, path.encode(), fields, len(body))
    return head + body


def read_answers(sock, count):
    """Statuses and bodies of `count` answers that come one after the other."""
    file, answers = sock.makefile('rb'), []
    for _ in range(count):
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline()) not in (b'\r\n', b''):
            name, value = line.split(b':', 1)
            if name.lower() == b'content-length':
                length = int(value)
        answers.append((status, file.read(length)))
    return answers


def is_hung_up(sock):
    with contextlib.suppress(ConnectionError):
        while sock.recv(65536):
            pass
    return True


@case()
def pipelined_requests_are_answered_in_order(c):
    c.snapshot()
    one = c.fork()[0]['id']
    turn = [(request(b'GET', '/healthz'), 200),
            (request(b'POST', f'/v1/sandboxes/{one}/exec', b'{"args":["echo","%d"]}'), 200),
            (request(b'GET', '/none'), 404), (request(b'POST', '/v1/sandboxes', b'{'), 400),
            (request(b'PUT', '/version'), 405),
            (request(b'POST', f'/v1/sandboxes/{one}/ping'), 200), (request(b'GET', f'/v1/sandboxes/{one}'), 200)]
    with talk(c) as sock:
        sock.sendall(b''.join(data for data, _ in turn * 12))
        answers = read_answers(sock, 12 * len(turn))
    assert [status for status, _ in answers] == [status for _, status in turn] * 12
    assert all(json.loads(body) for _, body in answers)


@case()
def a_strange_method_is_quoted_without_what_a_terminal_acts_on(c):
    for method, quoted in ((b'G\x1b[31mT', b'G??31mT'), (b'x' * 100, b'x' * 15), (b'\xff', b'?')):
        with talk(c) as sock:
            sock.sendall(request(method, '/healthz'))
            (status, body), = read_answers(sock, 1)
        assert status == 405 and body.startswith(b'{"error":"method %s is not allowed' % quoted), (method, status, body)


@case()
def a_body_in_pieces_or_in_chunks_is_one_body(c):
    body = b'{"snapshot_tag":"none"}'
    whole = request(b'POST', '/v1/sandboxes', body)
    chunks = b''.join(b'%x\r\n%s\r\n' % (len(body[i:i + 5]), body[i:i + 5])
                      for i in range(0, len(body), 5)) + b'0\r\n\r\n'
    chunked = b'POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n' + chunks
    for data in (whole, chunked):
        with talk(c) as sock:
            for i in range(len(data)):
                sock.sendall(data[i:i + 1])
            assert read_answers(sock, 1) == [(404, b'{"error":"snapshot none not found"}')]


@case()
def a_client_that_asks_first_is_told_to_go_on(c):
    body = b'{"snapshot_tag":"none"}'
    with talk(c) as sock:
        sock.sendall(request(b'POST', '/v1/sandboxes', body, b'Expect: 100-continue\r\n')[:-len(body)])
        assert read_answers(sock, 1) == [(100, b'')]
        sock.sendall(body)
        assert read_answers(sock, 1)[0][0] == 404


@case()
def a_body_without_end_is_cut_off(c):
    chunk = b'10000\r\n' + b'x' * 0x10000 + b'\r\n'
    with talk(c) as sock:
        sock.sendall(b'POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                sock.sendall(chunk)
            raise AssertionError('64 MiB were read')
    assert c.get('/healthz')[0] == 200


# libmicrohttpd may see the end of a stream that came with its last bytes only when its patience is over.
@case('--request-timeout', '2')
def a_body_cut_short_changes_nothing(c):
    c.snapshot()
    one = c.fork()[0]['id']
    whole = request(b'POST', '/v1/sandboxes', b'{"snapshot_tag":"py","n":5}')
    kill = b'DELETE /v1/sandboxes/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123' % one.encode()
    for data in (whole[:-1], whole[:-20], kill):
        with talk(c) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            assert is_hung_up(sock)
    assert c.ids() == [one]


@case()
def long_bodies_of_many_clients_are_bounded_together(c):
    body = b' ' * (2 << 20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(talk(c)) for _ in range(80)]
        for sock in clients:
            sock.sendall(request(b'POST', '/v1/sandboxes', body)[:-1])
        assert c.call('POST', '/v1/sandboxes', b' ' * 10000)[0] == 400, 'a short one is taken'
        statuses = []
        for sock in clients:
            sock.sendall(b' ')
            statuses.append(read_answers(sock, 1)[0][0])
    assert set(statuses) == {400, 503} and statuses.count(400) >= 50, statuses
    assert c.call('POST', '/v1/sandboxes', body)[0] == 400


@case('--request-timeout', '1')
def whoever_sends_a_byte_now_and_then_is_dropped(c):
    for data in (b'GET /healthz HTTP/1.1\r\nX: ' + b'y' * 100, request(b'POST', '/v1/sandboxes', b' ' * 1000)):
        with talk(c) as sock:
            sock.settimeout(0.2)
            sent = 0

            def dropped():
                nonlocal sent
                try:
                    # All but the last: it never becomes a request.
                    sock.sendall(data[sent:sent + 1] if sent < len(data) - 1 else b'')
                    sent += 1
                    return sock.recv(1) == b''
                except TimeoutError:
                    return False
                except ConnectionError:
                    return True
            sock.sendall(data[:20])
            sent = 20
            until(dropped, 'the slow client is hung up on')
            assert c.get('/healthz')[0] == 200
    assert 'hung up on 1 clients' in c.read_log()


@case('--request-timeout', '1')
def whoever_does_not_take_an_answer_is_dropped(c):
    c.snapshot()
    one = c.fork()[0]['id']
    with talk(c) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({'args': ['cat'], 'stdin': 'x' * 1_000_000}).encode()
        sock.sendall(request(b'POST', f'/v1/sandboxes/{one}/exec', body))
        until(lambda: is_closed(sock), 'the client is hung up on')
    assert c.exec(one, 'echo', 'well')[1]['stdout'] == 'well\n'


def is_closed(sock):
    """Whether the other side is gone, found without taking anything."""
    try:
        sock.send(b'', socket.MSG_DONTWAIT)
    except OSError:
        return True
    return False


@case('--request-timeout', '1')
def a_command_may_run_for_longer_than_a_request_takes(c):
    c.snapshot()
    one = c.fork()[0]['id']
    with talk(c) as sock:
        naps = 20  # of 0.2 s each, one after the other on this connection
        for _ in range(naps):
            sock.sendall(request(b'POST', f'/v1/sandboxes/{one}/exec', b'{"args":["nap"]}'))
            assert read_answers(sock, 1)[0][0] == 200


@case()
def idle_clients_over_the_limit_wait_and_are_served(c):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(talk(c)) for _ in range(1100)]
        idle[-1].sendall(request(b'GET', '/healthz'))
        for sock in idle[:-1]:
            sock.close()
        assert read_answers(idle[-1], 1)[0][0] == 200
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@case()
def a_thousand_sandboxes_are_listed_in_one_answer(c):
    c.snapshot()
    made = c.fork(1000)
    status, listed = c.get('/v1/sandboxes')
    assert status == 200 and len(listed) == 1000
    assert [one['id'] for one in listed] == sorted(one['id'] for one in made)
    assert all(one['snapshot_tag'] == 'py' for one in listed)


raise SystemExit(main())
