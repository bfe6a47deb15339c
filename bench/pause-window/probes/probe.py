"""What the probes have in common: a workload, the pauses of its branches as a window, and categories of stacks.

Theory of operation. A probe starts `vmbench branch` and looks at the process that runs the guest, in the pauses of its
branches alone. bpftrace tells when that is: uprobes on branch_begins(), machine_park() and machine_resume() of vmbench
keep @in[pid] while a pause lasts. Floors park as well, and are left out by branch_begins().
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import roots  # noqa: E402
import vmbench  # noqa: E402

PACKAGES = {"bpftrace": "bpftrace", "perf": "linux-perf", "strace": "strace"}

WINDOW = """
uprobe:VMBENCH:branch_begins { @armed[pid] = 1; }
uprobe:VMBENCH:machine_park /@armed[pid]/ { @in[pid] = nsecs; @pausing = 1; }
uretprobe:VMBENCH:machine_resume /@in[pid]/ {
    printf("pause %d %llu %llu\\n", pid, @in[pid], nsecs);
    delete(@in[pid]); delete(@armed[pid]); @pausing = 0;
}
BEGIN { printf("ready\\n"); }
"""

# The innermost function that says something decides. What only says that somebody waits says nothing.
CATEGORIES = {
    "block": ("blk_", "bio_", "submit_bio", "__submit_bio", "wbt_", "rq_qos", "__rq_qos", "virtblk", "nvme", "loop_",
              "blkdev", "dio_bio", "iomap_dio"),
    "writeback": ("balance_dirty_pages", "wb_", "writeback_", "__writeback"),
    "ext4": ("ext4_", "__ext4_", "jbd2_", "mb_find", "mb_mark"),
    "xfs": ("xfs_", "iomap_"),
    "KVM": ("kvm_", "__kvm_", "pvm_", "vmx_", "svm_", "vcpu_", "tdp_", "shadow_", "x86_emulate", "mmu_", "rmap_",
            "walk_shadow", "gfn_", "emulat", "__do_insn", "x86_decode"),
    "memory": ("shmem_", "alloc_", "__alloc", "clear_page", "handle_mm_fault", "__handle_mm", "do_anonymous",
               "exc_page_fault", "do_user_addr", "folio_", "__folio", "filemap_", "__filemap", "get_page_from",
               "rmqueue", "copy_", "_copy_", "rep_movs", "memcpy", "fault_in", "zap_", "unmap_", "lru_", "mem_cgroup",
               "try_charge", "generic_perform_write", "xas_", "__xa", "truncate_", "wp_page", "__mem_cgroup",
               "free_unref", "mas_", "mt_find", "vm_normal"),
    "processor": ("irqentry_exit", "exit_to_user_mode"),  # could go on, and waits for one
    "idle": ("futex_", "do_futex", "ep_poll", "do_epoll", "do_sys_poll", "do_poll", "unix_stream", "unix_dgram",
             "__skb_wait", "hrtimer_nanosleep", "do_wait", "pipe_read", "sk_wait", "poll_schedule", "do_sys_pause",
             "__do_sys_pause", "kernel_wait", "worker_thread", "kthread"),
}
NEUTRAL = ("rwsem_", "__rwsem", "down_", "__mutex", "mutex_", "__schedule", "schedule", "io_schedule", "_raw_spin",
           "queued_spin", "__cond_resched", "preempt_")


def category(frames):
    """Of a stack, innermost frame first."""
    for frame in frames:
        if frame.startswith(NEUTRAL):
            continue
        for name, prefixes in CATEGORIES.items():
            if frame.startswith(prefixes):
                return name
    return "other"


def install(*programs):
    missing = [PACKAGES[p] for p in programs if not shutil.which(p)]
    if missing:
        subprocess.run(["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing], check=True,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)


def arguments(question, **defaults):
    """The workload: ten branches of 512 MiB by `classic`, through the page cache of the machine's own filesystem."""
    parser = argparse.ArgumentParser(description=question)
    given = {"engine": "classic", "writer": "buffered", "root": "host", "n": 10, "mem_mib": 512, "hot_mib": 64,
             "cold_mib": 400, "dirty_mib_s": 100, "vcpus": 1, "interval_ms": 300, **defaults}
    for name, value in given.items():
        parser.add_argument("-n" if name == "n" else f"--{name.replace('_', '-')}", type=type(value), default=value,
                            dest=name)
    parser.add_argument("--build", default=str(HERE.parents[2] / "build"))
    parser.add_argument("--scratch", default="/var/tmp")
    parser.add_argument("--hz", type=int, default=997, help="samples in a second, where a probe takes samples")
    parser.add_argument("--out", type=pathlib.Path, help="directory for what a probe draws")
    return parser.parse_args()


@contextlib.contextmanager
def directory(args):
    options = vars(args)
    with roots.mounted(args.root, args.scratch, (options["hot_mib"] + options["cold_mib"] + 8) * args.n + 600) as path:
        yield path


def workload(args, path):
    """The command of the workload."""
    return vmbench.command(args.build, vars(args), path)


def in_ms(values):
    return " ".join(f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}" for ms in values)


def told(text):
    """What the workload said of its pauses, as one line."""
    branches = json.loads(text)["branches"]
    return "pauses by the workload's own clock, ms: " + in_ms(b["pause_us"] / 1000 for b in branches)


class Tracer:
    """bpftrace with a program, for the length of a with statement; maps and pauses are there afterwards."""

    def __init__(self, program, args):
        vmbench_path = os.path.realpath(f"{args.build}/bench/vmbench")
        self.program = (WINDOW + program).replace("VMBENCH", vmbench_path)
        self.maps, self.pauses = {}, []

    def __enter__(self):
        self.output = tempfile.TemporaryFile("w+")
        env = {**os.environ, "BPFTRACE_MAP_KEYS_MAX": "20000"}
        self.process = subprocess.Popen(["bpftrace", "-f", "json", "-e", self.program], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=self.output)
        for line in self.process.stdout:
            if "ready" in line:
                return self
        self.output.seek(0)
        raise SystemExit(f"bpftrace: {self.output.read()}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        for line in self.process.communicate()[0].splitlines():
            if not line.strip():
                continue
            event = json.loads(line)
            if event["type"] == "printf":
                if event["data"].startswith("pause"):
                    self.pauses.append(tuple(map(int, event["data"].split()[1:])))
            elif event["type"] == "map":
                self.maps.update(event["data"])
        self.output.close()

    def paused_ms(self):
        return sum(end - begin for _, begin, end in self.pauses) / 1e6


def trace(program, args):
    """Runs the workload under a program."""
    install("bpftrace")
    with directory(args) as path, Tracer(program, args) as tracer:
        done = subprocess.run(workload(args, path), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    print(f"{args.engine}, {args.writer}, {args.root}: {len(tracer.pauses)} pauses, "
          f"{tracer.paused_ms():.1f} ms together")
    print(told(done.stdout))
    return tracer


def frames_of(stack):
    """A stack as bpftrace prints it, innermost first, without offsets."""
    return [line.strip().split("+")[0] for line in stack.splitlines() if line.strip()]


def shares(samples):
    """Of (category, weight) pairs, as one line."""
    sums, total = {}, 0
    for name, weight in samples:
        sums[name] = sums.get(name, 0) + weight
        total += weight
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {weight / total:.0%}" for name, weight in ordered) if total else "nothing"


def rows(head, lines, most=12):
    print(head)
    for line in lines[:most]:
        print(f"  {line}")
    if len(lines) > most:
        print(f"  and {len(lines) - most} more")
