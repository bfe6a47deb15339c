"""A controller that does not start."""

import os
import subprocess

from harness import CONTROLLER


def refuses(c, *flags, words, env=None, status=1):
    """The controller does not start, and says so."""
    full = {**os.environ, 'FORKD_VMM': c.vmm, **(env or {})}
    defaults = ['--bind', 'unix:' + c.socket, '--state', c.state, '--audit-log', c.audit]
    run = subprocess.run([CONTROLLER, 'serve', *defaults, *flags], env=full, capture_output=True, text=True, timeout=60,
                         check=False)
    assert run.returncode == status and words in run.stderr, (run.returncode, run.stderr)
