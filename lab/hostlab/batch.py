"""A batch: many commands, each in a lab of its own, as many at a time as there
are slots.

Every command gets a freshly restored host, so that none sees what another
left; a restore costs less than cleaning up would. Each is a lab/run of its
own, which the kernel ends with this process.
"""

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time

from .qemu import die_with
from .say import LabError
from .slot import slot_count

STATUS_SKIP = 77
STATUS_TIMED_OUT = 124
OUTPUT_SHOWN = 64 << 10
RETRY_MARK = b"lab: host oopsed, retry"


@dataclasses.dataclass(frozen=True)
class Entry:
    name: str
    seconds: float
    command: str


def batch_parse(lines):
    """Entries of a batch file: NAME, SECONDS and COMMAND, a tab between them."""
    entries = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\n")
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t", 2)
        try:
            name, seconds, command = fields[0], float(fields[1]), fields[2]
        except (IndexError, ValueError):
            raise LabError(f"Line {number} of the batch is not NAME, SECONDS, COMMAND.") from None
        if name in {entry.name for entry in entries}:
            raise LabError(f"Line {number} of the batch has the name {name} once more.")
        entries.append(Entry(name, seconds, command))
    return entries


class Running:
    """One lab/run of the batch, its output in an unnamed file."""

    def __init__(self, entry, lab_run):
        self.entry = entry
        self._output = tempfile.TemporaryFile()
        self._began = time.monotonic()
        starter = os.getpid()
        argv = [*lab_run, "--time", str(entry.seconds), "--", entry.command]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
            preexec_fn=lambda: die_with(starter),
        )
        self.pidfd = os.pidfd_open(self._process.pid)

    def finish(self):
        """The ended command's result, as the results file has it, and its output."""
        status = self._process.wait()
        os.close(self.pidfd)
        self._output.seek(0)
        output = self._output.read()
        self._output.close()
        verdict = {0: "ok", STATUS_SKIP: "SKIP"}.get(status, "FAIL")
        lines = output.decode(errors="replace").strip().splitlines()
        result = {
            "name": self.entry.name, "result": verdict, "status": status,
            "seconds": round(time.monotonic() - self._began, 2),
            "retries": output.count(RETRY_MARK),
            "reason": self._reason(status, lines),
        }
        return result, output

    def _reason(self, status, lines):
        if status == STATUS_TIMED_OUT:
            return f"took longer than {self.entry.seconds:g} s"
        if status == STATUS_SKIP:
            return lines[-1] if lines else "no reason given"
        return f"status {status}" if status else ""

    def stop(self):
        """End it as Ctrl-C would."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def result_show(result, output):
    text = f"{result['result']:4} {result['name']} ({result['seconds']:.1f} s)"
    if result["reason"]:
        text += f": {result['reason']}"
    if result["retries"]:
        text += f" [retries after an oops of the lab: {result['retries']}]"
    print(text)
    if result["result"] == "FAIL":
        for line in output[-OUTPUT_SHOWN:].decode(errors="replace").splitlines():
            print(f"  | {line}")
    sys.stdout.flush()


def batch_run(entries, lab_run, results_file):
    """Run all entries; returns 0 unless one failed.

    lab_run is the lab/run command with the options all entries share;
    results_file, if any, gets one JSON object a line.
    """
    waiting = list(entries)
    counts = {"ok": 0, "FAIL": 0, "SKIP": 0}
    events = selectors.DefaultSelector()
    try:
        while waiting or events.get_map():
            while waiting and len(events.get_map()) < slot_count():
                running = Running(waiting.pop(0), lab_run)
                events.register(running.pidfd, selectors.EVENT_READ, running)
            for key, _ in events.select():
                events.unregister(key.fd)
                result, output = key.data.finish()
                counts[result["result"]] += 1
                result_show(result, output)
                if results_file:
                    print(json.dumps(result), file=results_file, flush=True)
    finally:
        for key in list(events.get_map().values()):
            key.data.stop()
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return 1 if counts["FAIL"] else 0
