"""forkd-controller over TLS: what it shows, to whom, and what it refuses to start with."""

import json
import os
import signal
import socket
import ssl
import subprocess

from harness import case, main, until
from refusals import refuses

FORKD = os.environ['FORKD_TEST_CLI']


def certificate(c, name):
    """A certificate of localhost that vouches for itself, and its key."""
    cert, key = (os.path.join(c.dir, f'{name}.{what}') for what in ('cert', 'key'))
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                    '-keyout', key,
                    '-out', cert, '-days', '2', '-subj', '/CN=localhost', '-addext',
                    'subjectAltName=DNS:localhost,IP:127.0.0.1'], check=True, capture_output=True, timeout=60)
    return cert, key


def curl(c, ca, path, *flags, scheme='https'):
    run = subprocess.run(['curl', '-sS', '--unix-socket', c.socket, '--cacert', ca, *flags,
                          f'{scheme}://localhost{path}'],
                         capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, run.stdout, run.stderr


def start_with(c, cert, key, *flags):
    c.flags = ['--tls-cert', cert, '--tls-key', key, *flags]
    c.process = c.spawn()
    until(lambda: c.process.poll() is not None or 'listening' in c.read_log(), 'the controller listens')


def shown(c):
    """The certificate a client is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(c.socket)
        with context.wrap_socket(sock) as tls:
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True)), tls.version()


def text(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


@case(start=False)
def one_without_the_other_is_a_usage_error(c):
    cert, key = certificate(c, 'one')
    for flags in (['--tls-cert', cert], ['--tls-key', key]):
        refuses(c, *flags, words='--tls-cert and --tls-key go together', status=2)


@case(start=False)
def files_that_are_no_pair_are_refused(c):
    cert, key = certificate(c, 'one')
    _, other = certificate(c, 'other')
    refuses(c, '--tls-cert', cert, '--tls-key', other, words=f'the certificate {cert} with the key {other}: ')
    refuses(c, '--tls-cert', key, '--tls-key', cert, words='the certificate ')
    refuses(c, '--tls-cert', '/none', '--tls-key', key, words='/none: No such file')


@case(start=False)
def curl_is_served_and_checks_the_certificate(c):
    cert, key = certificate(c, 'one')
    other, _ = certificate(c, 'other')
    start_with(c, cert, key)
    assert curl(c, cert, '/healthz') == (0, '{"ok":true}', '')
    status, out, _ = curl(c, cert, '/v1/snapshots', '-d', json.dumps({'tag': '../x', 'kernel': '/none'}), '-w',
                          '%{http_code}')
    assert status == 0 and out.endswith('400') and '"error"' in out
    assert curl(c, other, '/healthz')[0] == 60
    assert curl(c, cert, '/healthz', scheme='http')[0] != 0
    assert c.stop() == 0


@case(start=False)
def old_versions_of_tls_are_not_spoken(c):
    cert, key = certificate(c, 'one')
    start_with(c, cert, key)
    for flags in (['--tlsv1.2', '--tls-max', '1.2'], ['--tlsv1.3']):
        assert curl(c, cert, '/healthz', *flags)[0] == 0, flags
    assert curl(c, cert, '/healthz', '--tlsv1.0', '--tls-max', '1.1', '--ciphers', 'DEFAULT:@SECLEVEL=0')[0] == 35
    assert c.stop() == 0


@case(start=False)
def sighup_shows_a_renewed_certificate_and_keeps_the_old_one_when_it_is_bad(c):
    cert, key = certificate(c, 'one')
    first = text(cert)
    start_with(c, cert, key)
    assert shown(c) == (first, 'TLSv1.3')
    certificate(c, 'one')
    assert text(cert) != first
    c.process.send_signal(signal.SIGHUP)
    until(lambda: shown(c)[0] == text(cert), 'the new certificate is shown')
    second = text(cert)
    with open(key, 'w', encoding='utf-8') as file:
        file.write('no key')
    c.process.send_signal(signal.SIGHUP)
    until(lambda: 'the certificate of before stays in use' in c.read_log(), 'the bad key is told')
    assert shown(c)[0] == second
    assert c.stop() == 0


@case(start=False)
def rubbish_instead_of_a_handshake_harms_nobody(c):
    cert, key = certificate(c, 'one')
    start_with(c, cert, key)
    held = []
    for data in (b'', b'GET /healthz HTTP/1.1\r\n\r\n', b'\x16\x03\x01\xff\xff' + b'x' * 20000, b'\0' * 5):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(c.socket)
        sock.sendall(data)
        held.append(sock)
        assert curl(c, cert, '/healthz')[0] == 0, data[:10]
    for sock in held:
        sock.close()
    assert c.stop() == 0


@case(start=False)
def the_command_line_speaks_https(c):
    cert, key = certificate(c, 'one')
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    start_with(c, cert, key, '--bind', f'127.0.0.1:{port}')
    env = {**os.environ, 'FORKD_URL': f'https://localhost:{port}'}
    good = subprocess.run([FORKD, 'ls', '--json'], env={**env, 'FORKD_CA': cert}, capture_output=True, text=True,
                          timeout=60,
                          check=False)
    assert (good.returncode, good.stdout) == (0, '[]\n'), good
    with open(c.audit, encoding='utf-8') as file:
        line = json.loads(file.read().splitlines()[-1])
    assert line['remote'] == '127.0.0.1' and line['path'] == '/v1/sandboxes' and line['ua'].startswith('forkd/'), line
    bad = subprocess.run([FORKD, 'ls'], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert bad.returncode == 1 and 'cannot be asked' in bad.stderr and 'certificate' in bad.stderr, bad
    assert c.stop() == 0


raise SystemExit(main())
