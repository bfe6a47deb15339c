#!/usr/bin/env python3
"""Completion in real shells: tags and ids come from the controller that runs, and none is started for it."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import DEADLINE, Skip, case, main

FORKD = os.environ['FORKD_TEST_CLI']
BASH, ZSH = os.environ['FORKD_TEST_BASH'], os.environ['FORKD_TEST_ZSH']


def environment(c, **more):
    env = {name: value for name, value in os.environ.items() if not name.startswith('FORKD_')}
    return {**env, 'PATH': os.path.dirname(FORKD) + ':' + env['PATH'], 'FORKD_URL': 'unix:' + c.socket,
            'TERM': 'dumb', **more}


def bash(c, line, **more):
    script = ('source "$0"; compopt() { :; }; COMP_LINE=$1 COMP_POINT=${#1}; _forkd; printf "%s\\n" "${COMPREPLY[@]}"')
    run = subprocess.run(['bash', '--norc', '-c', script, BASH, line], env=environment(c, **more), capture_output=True,
                         text=True, timeout=DEADLINE, check=True)
    assert not run.stderr, run.stderr
    return run.stdout.split()


class Zsh:
    """An interactive zsh on a terminal of its own."""

    def __init__(self, c):
        if not shutil.which('zsh'):
            raise Skip('zsh is not installed')
        functions = os.path.join(c.dir, 'functions')
        os.mkdir(functions)
        shutil.copy(ZSH, os.path.join(functions, '_forkd'))
        env = environment(c, FPATH_OWN=functions)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe('zsh', ['zsh', '-f', '-i'], env)
            finally:
                os._exit(127)
        self.said = ''
        # Keys are for the line editor, not for the terminal: they are typed once it says that it reads.
        self.type('unsetopt prompt_cr prompt_sp; PS1=; fpath=($FPATH_OWN $fpath); autoload -Uz compinit; '
                  'compinit -D -u\n'
                  'show() { print -r -- "<li""ne $BUFFER>" }; zle -N show; bindkey "^Xs" show\n'
                  'zle-line-init() { print -r -- "<rea""dy>" }; zle -N zle-line-init\n')
        self.wait('<ready>')

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self, pattern):
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.said)):
            left = end - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f'{pattern} never came: {self.said!r}'
            try:
                self.said += os.read(self.fd, 65536).decode(errors='replace')
            except OSError:  # EIO: it ended
                raise AssertionError(f'zsh ended: {self.said!r}') from None
        self.said = self.said[found.end():]
        return found

    def completes(self, line, expected):
        """The line and a tab make `expected`, as a widget that shows the line says."""
        self.type(line + '\t\x18s\x15')
        shown = self.wait('<line (.*?)>')[1]
        assert shown.rstrip() == expected, shown

    def close(self):
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@case()
def bash_offers_the_tags_and_ids_that_there_are(c):
    c.snapshot('py-one')
    c.snapshot('py-two')
    box = c.fork(1, 'py-one')[0]['id']
    assert bash(c, 'forkd spawn --tag ') == ['py-one', 'py-two']
    assert bash(c, 'forkd spawn --tag=py-t') == ['py-two']
    assert bash(c, 'forkd rmi py-one py-') == ['py-one', 'py-two']
    assert bash(c, f'forkd exec {box[:4]}') == [box]
    assert bash(c, 'forkd kill ' + box + ' ') == [box]
    assert bash(c, f'forkd eval --daemon-url unix:{c.socket} ', FORKD_URL='unix:/nowhere') == [box]


@case(start=False)
def without_a_controller_nothing_is_offered_and_none_is_started(c):
    assert bash(c, 'forkd spawn --tag ') == []
    state = os.path.join(c.dir, 'own')
    os.mkdir(state)
    assert bash(c, 'forkd spawn --tag ', FORKD_URL='', FORKD_STATE=state) == []
    assert os.listdir(state) == []


@case()
def zsh_offers_the_tags_and_ids_that_there_are(c):
    c.snapshot('py-one')
    box = c.fork(1, 'py-one')[0]['id']
    zsh = Zsh(c)
    try:
        zsh.completes('forkd spa', 'forkd spawn')
        zsh.completes('forkd spawn --memory', 'forkd spawn --memory-limit-mib=')
        zsh.completes('forkd spawn --tag py', 'forkd spawn --tag py-one')
        zsh.completes(f'forkd ping {box[:5]}', f'forkd ping {box}')
    finally:
        zsh.close()


raise SystemExit(main())
