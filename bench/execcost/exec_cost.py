#!/usr/bin/env python3
"""What `exec true` costs in a Linux guest beside its parts: a byte over vsock and back, and fork, exec and wait in the
guest itself. Prints series and asserts nothing; the parts take turns, so that noise hits all of them.

    lab/run --payload /var/lib/forkd/images --warm tests/lab/warm.py bench/execcost/exec_cost.py
"""

import base64
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/lab"))

import product  # noqa: E402
from product import BUILD, SOCKET, STATE, spawned  # noqa: E402

HERE, THERE, PORT = BUILD / "bench/execcost", "/tmp/execcost", "2000"
ROUNDS, EACH = int(sys.argv[1]) if len(sys.argv) > 1 else 10, "10"


def here(*args):
    return [int(line) for line in subprocess.check_output([HERE, *args], text=True).split()]


def install(guest):
    """Through exec's standard input, which is text."""
    program = base64.b64encode(HERE.read_bytes()).decode()
    guest.sh(f"base64 -d >{THERE} && chmod +x {THERE} && {THERE} echo {PORT}", stdin=program)


def main():
    product.controller.ensure()
    with spawned("py", 1) as (guest,):
        install(guest)
        vsock = str(STATE / "state.db.run" / guest.id / "vsock")
        parts = {
            "a byte there and back": lambda: here("ping", vsock, PORT, EACH),
            "the same with a connection": lambda: here("call", vsock, PORT, EACH),
            "fork, exec and wait": lambda: [int(n) for n in guest.sh(f"{THERE} start {EACH} /bin/true").split()],
            "POST ping": lambda: here("pong", str(SOCKET), guest.id, EACH),
            "POST exec of true": lambda: here("exec", str(SOCKET), guest.id, EACH),
        }
        series = {name: [] for name in parts}
        for _ in range(ROUNDS):
            for name, measure in parts.items():
                series[name] += measure()[1:]  # the first finds everything cold
    median = {name: statistics.median(values) / 1000 for name, values in series.items()}
    for name, values in series.items():
        lowest, highest = (statistics.quantiles(values, n=10)[i] / 1000 for i in (0, -1))
        print(f"{name:28} median {median[name]:8.0f} us   tenth to nine tenths {lowest:8.0f} to {highest:8.0f}")
    started = median["fork, exec and wait"]
    for name in ("a byte there and back", "the same with a connection"):
        floor = median[name] + started
        print(f"exec of true is {median['POST exec of true'] / floor:.2f} times {name} plus fork, exec and wait ({floor:.0f} us)")


main()
