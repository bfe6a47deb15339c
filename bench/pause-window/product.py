"""The same through forkd-controller: diffs of a sandbox with 0 to 1000 MiB dirtied, and the tmpfs control.

The guest is the bare-metal agent guest, which dirties memory when it is told to and sleeps otherwise. Each root has a
controller of its own, whose first branch is cold: programs, sockets and caches are touched for the first time. It has
number 0 in the CSV, and tables and plots tell it apart.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

DEADLINE = 120
DIRTY_AT = 64 << 20


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.path)


class Controller:
    """A forkd-controller with its snapshots in `root`; it and its sandboxes end with the with statement."""

    def __init__(self, build, root):
        self.dir = tempfile.mkdtemp(prefix="pause-window-")
        self.socket = f"{self.dir}/http"
        line = [f"{build}/src/controller/forkd-controller", "serve", "--bind", f"unix:{self.socket}", "--state",
                f"{self.dir}/state.db", "--snapshot-root", root, "--audit-log", f"{self.dir}/audit.log",
                "--kill-on-exit"]
        self.log = open(f"{self.dir}/log", "w")
        self.process = subprocess.Popen(line, stdout=self.log, stderr=self.log)

    def __enter__(self):
        end = time.monotonic() + DEADLINE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                with open(f"{self.dir}/log") as log:
                    raise RuntimeError(f"forkd-controller did not start: {log.read()}")
            time.sleep(0.02)
        return self

    def answers(self):
        try:
            return self.call("GET", "/healthz") == {"ok": True}
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def call(self, method, path, body=None):
        with contextlib.closing(Connection(self.socket)) as connection:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None


def branches(controller, sandbox, n, dirty_mib, mode):
    for index in range(n):
        if dirty_mib:
            fill = ["mem", "fill", hex(DIRTY_AT), str(dirty_mib << 20), str(index + 1)]
            controller.call("POST", f"/v1/sandboxes/{sandbox}/exec", {"args": fill, "timeout_secs": DEADLINE})
        info = controller.call("POST", f"/v1/sandboxes/{sandbox}/branch", {"mode": mode})
        phases = info.get("pause_us") or {}
        yield {
            "branch_idx": index,
            "pause_ms": round(phases["total"] / 1000, 4) if "total" in phases else info["pause_ms"],
            "diff_ms": info.get("diff_ms"),
            "diff_physical_bytes": info.get("diff_physical_bytes"),
            **{f"{phase}_us": phases.get(phase) for phase in ("kick", "save", "log", "pages", "resume")},
            **{name: info.get(name) for name in ("rounds", "pages_streamed", "pages_in_pause", "ready_ms")},
        }


def rows(build, options, directory):
    """Rows as those of vmbench.rows()."""
    try:
        with Controller(build, directory) as controller:
            kernel = os.path.realpath(f"{build}/tests/kvm/guest-agent")
            controller.call("POST", "/v1/snapshots",
                            {"tag": "bare", "kernel": kernel, "mem_size_mib": options["mem_mib"]})
            sandbox, = controller.call("POST", "/v1/sandboxes", {"snapshot_tag": "bare"})
            constant = {k: v for k, v in options.items() if k not in ("n", "mode")}
            return [{**constant, **row}
                    for row in branches(controller, sandbox["id"], options["n"], options["hot_mib"], options["mode"])]
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        print(f"  {options['series']}: {error}", file=sys.stderr)
        return []


def runs(quick):
    """Through the product: what do diffs cost, with 0 to 1000 MiB dirtied before each?"""
    for root in ("host", "tmpfs") if quick else ("host", "ext4", "xfs", "tmpfs"):
        for mib in (0, 100) if quick else (0, 100, 500, 1000):
            yield {"series": f"{mib} MiB dirtied, {root}", "engine": "product", "writer": "direct", "root": root,
                   "mem_mib": 1536, "hot_mib": mib, "mode": "diff", "n": 4 if quick else 11}
