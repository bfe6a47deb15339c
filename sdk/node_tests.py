#!/usr/bin/env python3
"""node_tests.py [--controller] PROGRAM: builds the packages for Node as package-lock.json has them, and runs one test.

PROGRAM is a compiled file below this directory. With --controller it finds a controller of its own at FORKD_URL, and
must leave nothing there. It is skipped where Node or npm is missing, or npm reaches no registry.
"""

import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PROJECTS = ['typescript', 'typescript/tests', 'mcp', 'mcp/tests']
NODE_LEAST = 18
# What npm says when the network, and not a package, is at fault.
NO_NETWORK = re.compile(r'\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT)\b')


def skip(reason):
    print(f'1..1\nok 1 - with Node # SKIP {reason}')
    raise SystemExit(0)


def require_node():
    for program in ('node', 'npm'):
        if not shutil.which(program):
            skip(f'{program} is not installed (scripts/install-deps)')
    said = subprocess.run(['node', '--version'], stdout=subprocess.PIPE, text=True, check=True).stdout
    if int(said.lstrip('v').split('.')[0]) < NODE_LEAST:
        skip(f'node is {said.strip()}; {NODE_LEAST} is needed')


def run(*command):
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return
    print('\n'.join('# ' + line for line in done.stdout.splitlines()))
    if command[0] == 'npm' and (fault := NO_NETWORK.search(done.stdout)):
        skip(f'npm reaches no registry: {fault[0]}')
    raise SystemExit(f'{" ".join(command)} failed')


def build():
    """Two tests may come here at once, and the second has nothing to do."""
    lock = HERE / 'package-lock.json'
    installed = HERE / 'node_modules/.package-lock.json'
    with open(lock, encoding='utf-8') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
            run('npm', 'ci')
        run('node', 'node_modules/typescript/bin/tsc', '-b', *PROJECTS)


def run_program(program, env=None):
    command = ['node', '--test-reporter=tap', HERE / program]
    return subprocess.run(command, env={**os.environ, **(env or {})}, check=False).returncode


def run_with_controller(program):
    # Only here: it wants to know of a VMM.
    import harness  # pylint: disable=import-outside-toplevel

    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        skip('/dev/kvm cannot be opened')
    controller = harness.Controller(env={'FORKD_SNAPSHOT_WRITER': 'direct'})
    try:
        code = run_program(program, {'FORKD_URL': 'unix:' + controller.socket})
        left = [*controller.ids(), *(one['tag'] for one in controller.get('/v1/snapshots')[1])]
        if left:
            print(f'# left behind: {" ".join(left)}', flush=True)
        if code or left:
            print(''.join(f'# {line}\n' for line in controller.read_log().splitlines()[-20:]), flush=True)
        controller.clear()
        controller.assert_nothing_left()
        return code or len(left)
    finally:
        controller.remove()


def main():
    *options, program = sys.argv[1:]
    require_node()
    build()
    return run_with_controller(program) if '--controller' in options else run_program(program)


if __name__ == '__main__':
    raise SystemExit(main())
