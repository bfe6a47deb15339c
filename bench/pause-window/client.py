#!/usr/bin/env python3
"""What does a client of the guest notice? In the lab: a request every 10 ms over vsock, answered by the guest, beside
the guest's own longest gap, while it is branched.

    client.py OUT.csv [BRANCHES]      run by `run`, in the lab, with the warm template `py`
"""

import pathlib
import socket
import statistics
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "lab"))

from product import api, spawned, STATE, wait_for  # noqa: E402

import table  # noqa: E402

ECHO, TICK = 7000, 7001
EVERY_S, AROUND_S, BETWEEN_S = 0.010, 0.3, 1.0
LOADS = {"idle": 0, "writing": 8}


def connect(sandbox, port):
    """Through the Unix socket that stands for the guest's vsock on this host."""
    def attempt():
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(str(STATE / "state.db.run" / sandbox.id / "vsock"))
        connection.sendall(b"CONNECT %d\n" % port)
        answer = b""
        while not answer.endswith(b"\n"):
            byte = connection.recv(1)
            if not byte:
                return None
            answer += byte
        return connection
    found = []
    wait_for(lambda: (made := attempt()) and not found.append(made), f"the guest to listen at {port}")
    return found[0]


class Client(threading.Thread):
    """Asks every 10 ms, or as soon as the last answer is there, for as long as it lives."""

    def __init__(self, connection):
        super().__init__(daemon=True)
        self.connection, self.answers, self.over = connection, [], False

    def run(self):
        due = time.monotonic()
        while not self.over:
            asked = time.monotonic()
            self.connection.sendall(b"?")
            self.connection.recv(1)
            self.answers.append((asked, (time.monotonic() - asked) * 1000))
            due = max(due + EVERY_S, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))

    def between(self, begin, end):
        return [ms for asked, ms in list(self.answers) if begin <= asked < end]


def gap_ms(connection):
    connection.sendall(b"?")
    text = b""
    while not text.endswith(b"\n"):
        text += connection.recv(32)
    return int(text) / 1e6


def watch(client, ticker, action=lambda: None):
    """What client and guest saw from the beginning of an action until shortly after it, and its result."""
    time.sleep(BETWEEN_S)
    gap_ms(ticker)
    begin = time.monotonic()
    result = action()
    time.sleep(AROUND_S)
    latencies = sorted(client.between(begin, time.monotonic()))
    seen = {"guest_gap_ms": round(gap_ms(ticker), 3), "requests": len(latencies)}
    if latencies:
        seen |= {"latency_p50_ms": round(statistics.median(latencies), 3),
                 "latency_p99_ms": round(latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)], 3),
                 "latency_max_ms": round(latencies[-1], 3)}
    return seen, result


def branch(sandbox, client, ticker, tag):
    seen, info = watch(client, ticker, lambda: api("POST", f"/v1/sandboxes/{sandbox.id}/branch",
                                                   {"tag": tag, "wait": False}))
    return {**seen, "pause_ms": round(info["pause_us"]["total"] / 1000, 4), "ready_ms": info["ready_ms"]}


def quiet(client, ticker):
    """The same without a branch: what this host does to latencies by itself."""
    return {**watch(client, ticker)[0], "pause_ms": 0}


def measure(out, name, pages, n):
    with spawned("py", 1) as (sandbox,):
        program = (HERE / "client_guest.py").read_text()
        sandbox.sh(f"cat > /run/client_guest.py <<'END'\n{program}\nEND\n"
                   f"setsid python3 /run/client_guest.py echo {ECHO} >/dev/null 2>&1 </dev/null &\n"
                   f"setsid python3 /run/client_guest.py tick {TICK} {pages} >/dev/null 2>&1 </dev/null &")
        client, ticker = Client(connect(sandbox, ECHO)), connect(sandbox, TICK)
        client.start()
        constant = {"engine": "product", "root": "lab", "mem_mib": 512}
        out.add({**constant, "series": name, "branch_idx": i, **quiet(client, ticker)} for i in range(n))
        tags = [f"client-{pages}-{i}" for i in range(n)]
        out.add([{**constant, "series": f"{name}, branched", "branch_idx": i, **branch(sandbox, client, ticker, tag)}
                 for i, tag in enumerate(tags)])
        client.over = True
        client.join()


def main():
    out = table.Table(sys.argv[1], table.CLIENT_COLUMNS)
    for name, pages in LOADS.items():
        measure(out, name, pages, int(sys.argv[2]) if len(sys.argv) > 2 else 10)
    out.close()


if __name__ == "__main__":
    main()
