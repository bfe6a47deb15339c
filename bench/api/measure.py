#!/usr/bin/env python3
"""measure.py [--build DIR] [--json] speed|memory: what the HTTP server costs, apart from the virtual machines.

speed    GET of one sandbox, of a list of a hundred and of /healthz with wrk, over TCP on this host, by connections
memory   resident memory of the controller before and after 100 000 requests, most of them wrong in some way

Both need wrk and /dev/kvm; a controller of their own is started, and ended. Wrk runs on the same CPUs.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 4
SANDBOXES = {'speed': 100, 'memory': 5}
# What the memory run sends, in turn: what is served, and what is refused at each stage there is.
MIX = (('GET', '/v1/sandboxes/{id}', ''), ('GET', '/v1/sandboxes/none', ''), ('GET', '/metrics', ''),
       ('POST', '/v1/sandboxes/{id}/ping', ''), ('POST', '/v1/sandboxes', '{"snapshot_tag":"py","n":"x"}'),
       ('POST', '/v1/sandboxes', '{"snapshot_tag":"none"}'), ('POST', '/v1/snapshots', '{"tag":"../x"'),
       ('POST', '/v1/sandboxes/{id}/exec', '[1,2'), ('DELETE', '/v1/snapshots/none', ''), ('GET', '/v1/%2e%2e/x', ''),
       ('PATCH', '/v1/sandboxes', ''), ('GET', '/v1/sandboxes?memory=true', ''))
REQUESTS = 100_000


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Server:
    """A controller on a port, with a snapshot and sandboxes of a bare-metal guest."""

    def __init__(self, build, sandboxes):
        self.sandboxes = sandboxes
        os.environ.update(FORKD_TEST_CONTROLLER=str(build / 'src/controller/forkd-controller'),
                          FORKD_TEST_VMM=str(build / 'src/vmm/forkd-vmm'),
                          FORKD_TEST_KERNEL=str(build / 'tests/kvm/guest-agent'))
        sys.path.insert(0, str(TOP / 'tests/controller'))
        from harness import Controller  # pylint: disable=import-outside-toplevel
        self.url = f'http://127.0.0.1:{free_port()}'
        self.controller = Controller('--kill-on-exit', start=False)
        self.controller.flags += ['--bind', self.url.removeprefix('http://')]

    def ask(self, method, path, body=None):
        run = subprocess.run(['curl', '-sS', '-X', method, '-d', body or '', self.url + path], capture_output=True,
                             check=True)
        return json.loads(run.stdout)

    def __enter__(self):
        self.controller.process = self.controller.spawn()
        while 'listening' not in self.controller.read_log():
            assert self.controller.process.poll() is None, self.controller.read_log()
        self.ask('POST', '/v1/snapshots', json.dumps({'tag': 'py', 'kernel': os.environ['FORKD_TEST_KERNEL']}))
        self.ids = [one['id'] for one in self.ask('POST', '/v1/sandboxes',
                                                  f'{{"snapshot_tag":"py","n":{self.sandboxes}}}')]
        return self

    def __exit__(self, *_):
        self.controller.stop()
        self.controller.remove()

    def state(self):
        """What it holds; a thread is made when work comes and none is idle, up to a limit, and stays."""
        status = pathlib.Path(f'/proc/{self.controller.process.pid}/status').read_text(encoding='utf-8')
        return {name: int(re.search(rf'{key}:\s*(\d+)', status)[1])
                for name, key in (('resident_kib', 'VmRSS'), ('threads', 'Threads'))}


def wrk(url, connections, seconds, script=None):
    command = ['wrk', '-t1', f'-c{connections}', f'-d{seconds}s', '--latency']
    run = subprocess.run(command + (['-s', script] if script else []) + [url], capture_output=True, text=True,
                         check=True)
    units = {'us': 1e-3, 'ms': 1, 's': 1e3}
    value, unit = re.search(r'99%\s+([\d.]+)(us|ms|s)', run.stdout).groups()
    total = int(re.search(r'(\d+) requests in', run.stdout)[1])
    return {'per_second': round(float(re.search(r'Requests/sec:\s+([\d.]+)', run.stdout)[1])),
            'p99_ms': round(float(value) * units[unit], 2), 'requests': total,
            'errors': int((re.search(r'Non-2xx or 3xx responses: (\d+)', run.stdout) or (0, 0))[1])}


def speed(server):
    paths = {'one': '/v1/sandboxes/' + server.ids[0], f'list of {server.sandboxes}': '/v1/sandboxes',
             'healthz': '/healthz'}
    for name, path in paths.items():
        for connections in (1, 4, 16, 64):
            yield {'what': name, 'connections': connections, **wrk(server.url + path, connections, SECONDS)}


def mix_script(server):
    rows = ',\n'.join('{%s}' % ','.join(json.dumps(word.replace('{id}', server.ids[0])) for word in row) for row in MIX)
    return f'''local mix, i = {{{rows}}}, 0
function request()
  i = i % #mix + 1
  return wrk.format(mix[i][1], mix[i][2], nil, mix[i][3])
end
'''


def memory(server):
    with tempfile.NamedTemporaryFile('w', suffix='.lua') as script:
        script.write(mix_script(server))
        script.flush()
        sent = wrk(server.url, 16, 5, script.name)['requests']
        yield {'requests': sent, **server.state()}
        target = sent + REQUESTS
        while sent < target:
            sent += wrk(server.url, 16, 5, script.name)['requests']
            yield {'requests': sent, **server.state()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--build', type=pathlib.Path, default=TOP / 'build')
    parser.add_argument('--json', action='store_true', help='one object a line')
    parser.add_argument('what', choices=('speed', 'memory'))
    args = parser.parse_args()
    with Server(args.build.resolve(), SANDBOXES[args.what]) as server:
        for row in {'speed': speed, 'memory': memory}[args.what](server):
            print(json.dumps(row) if args.json else '  '.join(f'{name} {value}' for name, value in row.items()),
                  flush=True)


main()
