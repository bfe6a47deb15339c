"""Whom forkd-controller lets in, to do what, and what it writes down of them."""

import hashlib
import json
import os
import signal

from harness import case, main, until
from refusals import refuses

TOKEN = 'a-token-of-some-length'


def token_file(c, text):
    path = os.path.join(c.dir, 'token')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    return path


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def start_with(c, text):
    c.flags = ['--token-file', token_file(c, text)]
    c.start()


def ask(c, token, method, path, body=None):
    return c.call(method, path, body, {'Authorization': 'Bearer ' + token})


def last_line(c):
    with open(c.audit, encoding='utf-8') as file:
        return json.loads(file.read().splitlines()[-1])


@case(start=False)
def weak_and_malformed_tokens_are_refused_by_their_line(c):
    good = 'ci:' + digest('x' * 20)
    for text, words in (('short', 'line 1: the token is shorter than 16 bytes'),
                        ('# mine\n\nREPLACE_ME_WITH_SOMETHING', 'line 3: the token is a placeholder'),
                        ('CHANGE_ME_CHANGE_ME admin', 'line 1: the token is a placeholder'),
                        ('two-words-of-a-token owner', 'read, run or admin'),
                        (TOKEN + ' run more', 'more than a token and its right'),
                        (good + '\nci:' + digest('y' * 20), 'line 2: the name ci is taken by another line'),
                        (good + '\n' + 'x' * 20, 'line 2: this is the token of ci as well'),
                        ('x' * 5000, 'longer than 4096 bytes'), ('\n# nobody\n', 'holds no token'),
                        ('', 'holds no token'),
                        (''.join(f'token-number-{i:08d}\n' for i in range(300)), 'more than 256 tokens'),
                        (TOKEN + '\0', 'is no text'), ('\n' * 300000, 'is longer than')):
        refuses(c, '--token-file', token_file(c, text), words=words)
    refuses(c, '--token-file', '/none', words='/none')


@case(start=False)
def a_token_is_asked_for_everywhere_but_at_healthz(c):
    start_with(c, TOKEN + '\n')
    assert c.get('/healthz')[0] == 200
    assert c.get('/version') == (401, {'error': 'missing bearer token'})
    assert c.get('/none') == (401, {'error': 'missing bearer token'})
    for wrong in ('x', TOKEN[:-1], TOKEN + 'x', TOKEN + ' x', TOKEN.upper(), digest(TOKEN), '', 'x' * 8000):
        assert ask(c, wrong, 'GET', '/version') == (401, {'error': 'invalid bearer token'})
    assert c.call('GET', '/version', None, {'Authorization': 'Basic ' + TOKEN})[0] == 401
    assert c.call('GET', '/version', None, {'Authorization': 'bearer ' + TOKEN})[0] == 200
    assert ask(c, TOKEN, 'GET', '/version')[0] == 200
    assert ask(c, TOKEN, 'GET', '/none')[0] == 404
    assert c.stop() == 0


@case(start=False)
def a_file_of_one_token_gives_every_right(c):
    start_with(c, '  ' + TOKEN + ' \r\n\n')
    assert ask(c, TOKEN, 'DELETE', '/v1/snapshots/none')[0] == 404
    assert last_line(c)['token_id'] == 'line-1'
    assert c.stop() == 0


@case(start=False)
def each_right_opens_what_it_includes_and_no_more(c):
    tokens = {'watcher': 'read', 'worker': 'run', 'keeper': 'admin'}
    start_with(c, '# three\n' + ''.join(f'{name}:{digest(name * 4).upper()}\t{right}\n'
                                        for name, right in tokens.items()))
    asked = (('GET', '/version', 'read'), ('GET', '/v1/snapshots', 'read'), ('GET', '/v1/sandboxes', 'read'),
             ('GET', '/v1/sandboxes/x', 'read'), ('POST', '/v1/sandboxes', 'run'), ('DELETE', '/v1/sandboxes/x', 'run'),
             ('POST', '/v1/sandboxes/x/exec', 'run'), ('POST', '/v1/sandboxes/x/eval', 'run'),
             ('POST', '/v1/sandboxes/x/ping', 'run'), ('POST', '/v1/sandboxes/x/branch', 'run'),
             ('POST', '/v1/sandboxes/x/resume', 'run'),
             ('POST', '/v1/snapshots', 'admin'), ('DELETE', '/v1/snapshots/x', 'admin'))
    order = ['read', 'run', 'admin']
    for name, right in tokens.items():
        for method, path, needed in asked:
            status, answer = ask(c, name * 4, method, path)
            if order.index(right) < order.index(needed):
                why = f'the token {name} has the right to {right}; this needs {needed}'
                assert (status, answer) == (403, {'error': why})
            else:
                assert status not in (401, 403), (name, method, path, answer)
            assert last_line(c)['token_id'] == name and last_line(c)['status'] == status
    assert ask(c, 'keeper' * 4, 'DELETE', '/v1/snapshots/x')[0] == 404
    assert c.stop() == 0


@case(start=False)
def a_refused_token_has_no_name_in_the_audit_log(c):
    start_with(c, TOKEN)
    ask(c, 'another-token-of-length', 'GET', '/version')
    assert last_line(c)['token_id'] is None and last_line(c)['status'] == 401
    assert TOKEN not in open(c.audit, encoding='utf-8').read()
    assert c.stop() == 0


@case(start=False)
def sighup_reads_the_tokens_anew_and_keeps_the_old_ones_when_they_are_bad(c):
    start_with(c, TOKEN)
    token_file(c, 'the-one-that-comes-after run')
    c.process.send_signal(signal.SIGHUP)
    until(lambda: ask(c, 'the-one-that-comes-after', 'GET', '/version')[0] == 200, 'the new token is taken')
    assert ask(c, TOKEN, 'GET', '/version')[0] == 401
    assert ask(c, 'the-one-that-comes-after', 'DELETE', '/v1/snapshots/x')[0] == 403
    token_file(c, 'bad')
    c.process.send_signal(signal.SIGHUP)
    until(lambda: 'the tokens of before stay in force' in c.read_log(), 'the bad file is told')
    assert ask(c, 'the-one-that-comes-after', 'GET', '/version')[0] == 200
    assert c.stop() == 0


@case(start=False)
def a_token_file_that_all_may_read_is_warned_of(c):
    c.flags = ['--token-file', token_file(c, TOKEN)]
    os.chmod(c.flags[1], 0o644)
    c.start()
    assert 'everybody on this host may read the token file' in c.read_log()
    assert c.stop() == 0


raise SystemExit(main())
