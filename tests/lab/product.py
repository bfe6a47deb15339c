"""What the tests of real Linux guests share: a controller of their own, its API, and cases that count.

A test program is a module with functions decorated by @case, and calls run() at its end. Each case prints one line:
ok, FAIL with the reason, or SKIP with it. A controller that `warm` left running is used; otherwise one is started.
"""

import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import traceback

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("FORKD_BUILD_DIR", TOP / "build"))
STATE = pathlib.Path(os.environ.get("FORKD_TEST_STATE", "/var/lib/forkd/test"))
SOCKET = STATE / "sock"
PATIENCE = 120  # seconds; the emulated host is slow, and no claim is about time


class ApiError(Exception):
    def __init__(self, status, text):
        super().__init__(f"HTTP {status}: {text}")
        self.status, self.text = status, text


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(SOCKET))


def api(method, path, body=None):
    connection = UnixConnection("forkd", timeout=PATIENCE)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status >= 400:
        raise ApiError(response.status, json.loads(text)["error"])
    return json.loads(text) if text else None


class Controller:
    """A controller with its state in STATE. One that answers there already is used as it is."""

    def __init__(self):
        self.process = None

    def pid(self):
        return int((STATE / "state.db.run" / "pid").read_text())

    def answers(self):
        try:
            return api("GET", "/healthz") == {"ok": True}
        except OSError:
            return False

    def start(self):
        STATE.mkdir(parents=True, exist_ok=True)
        with open(STATE / "log", "ab") as log:
            self.process = subprocess.Popen(
                [BUILD / "src/controller/forkd-controller", "serve", "--bind", f"unix:{SOCKET}",
                 "--state", STATE / "state.db", "--snapshot-root", STATE / "snapshots",
                 "--audit-log", STATE / "audit.log", "--branch-concurrency", "32"],
                stderr=log, stdin=subprocess.DEVNULL, stdout=log, start_new_session=True)
        wait_for(self.answers, "the controller to answer")

    def ensure(self):
        if not self.answers():
            self.start()

    def kill(self):
        """As `kill -9` does; it is collected if it is a child of this process."""
        pid = self.pid()
        os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()
        wait_for(lambda: not process_lives(pid), "the controller to be gone")

    def log(self):
        return (STATE / "log").read_text(errors="replace")


controller = Controller()


def wait_for(condition, what):
    """Waits for what can only be asked for; says what did not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE} s for {what}")
        time.sleep(0.02)


def process_lives(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def vmm_processes():
    found = set()
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() == "forkd-vmm" and process_lives(int(entry.name)):
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def leftovers():
    """What VMs leave while they live: processes, their directories, their cgroups."""
    groups = pathlib.Path("/sys/fs/cgroup/forkd")
    return {
        "processes": len(vmm_processes()),
        "directories": sorted(path.name for path in (STATE / "state.db.run").iterdir() if path.is_dir()),
        "cgroups": sorted(str(path.relative_to(groups)) for path in groups.glob("*/*") if path.is_dir()),
    }


def snapshot(tag, **fields):
    return api("POST", "/v1/snapshots", {"tag": tag, "image": "python3", "mem_size_mib": 512,
                                         "boot_wait_secs": 60, **fields})


class Sandbox:
    def __init__(self, info):
        self.id, self.info, self.pid = info["id"], info, info["pid"]

    def exec(self, *args, **fields):
        return api("POST", f"/v1/sandboxes/{self.id}/exec", {"args": list(args), "timeout_secs": 60, **fields})

    def sh(self, script, **fields):
        """The output of a shell script that must succeed."""
        answer = self.exec("sh", "-c", script, **fields)
        assert answer["exit_code"] == 0, f"{script!r}: {answer}"
        return answer["stdout"].strip()

    def eval(self, code):
        return api("POST", f"/v1/sandboxes/{self.id}/eval", {"code": code})

    def value(self, code):
        answer = self.eval(code)
        assert answer["error"] is None, answer["error"]
        return answer["result"]

    def kill(self):
        api("DELETE", f"/v1/sandboxes/{self.id}")


class spawned:
    """Sandboxes for the length of a with statement."""

    def __init__(self, tag, n, **fields):
        self.request = {"snapshot_tag": tag, "n": n, **fields}

    def __enter__(self):
        self.all = [Sandbox(info) for info in api("POST", "/v1/sandboxes", self.request)]
        return self.all

    def __exit__(self, *_):
        for sandbox in self.all:
            try:
                sandbox.kill()
            except ApiError as error:
                if error.status != 404:
                    raise


class Skip(Exception):
    pass


cases = []


def case(function):
    cases.append(function)
    return function


def run():
    """Runs the cases and ends the process: status 0 if none failed."""
    wanted = sys.argv[1:]
    failed = 0
    for function in cases:
        name = function.__name__
        if wanted and name not in wanted:
            continue
        try:
            function()
            print(f"ok {name}", flush=True)
        except Skip as reason:
            print(f"SKIP {name}: {reason}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL {name}: {traceback.format_exc().strip()}", flush=True)
    if failed:
        print("the controller's log ends with:\n" + "\n".join(controller.log().splitlines()[-20:]), flush=True)
    sys.exit(1 if failed else 0)
