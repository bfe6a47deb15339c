#!/usr/bin/env python3
"""What does the process that is branched wait for in the pause, by kernel stack of where it gave up the processor?"""

import probe

# A thread that could have gone on and was made to wait has state 0 (preempted: bit 8 of the kernel's report).
PROGRAM = """
tracepoint:sched:sched_switch /@in[pid]/ {
    @left[tid] = nsecs; @where[tid] = kstack(14); @runnable[tid] = args->prev_state == 0 || args->prev_state >= 256;
}
tracepoint:sched:sched_switch /@left[args->next_pid]/ {
    $t = args->next_pid;
    if (@runnable[$t]) { @processor_ns = sum(nsecs - @left[$t]); @processor_times = count(); }
    else { @ns[@where[$t]] = sum(nsecs - @left[$t]); @times[@where[$t]] = count(); }
    delete(@left[$t]); delete(@where[$t]); delete(@runnable[$t]);
}
"""


def main():
    args = probe.arguments(__doc__)
    tracer = probe.trace(PROGRAM, args)
    ns, times = tracer.maps.get("@ns", {}), tracer.maps.get("@times", {})
    found = [(probe.category(probe.frames_of(stack)), t, times[stack], probe.frames_of(stack))
             for stack, t in ns.items()]
    processor = tracer.maps.get("@processor_ns", 0)
    if processor:
        found.append(("processor", processor, tracer.maps["@processor_times"], ["could run, and waited for a processor"]))
    found.sort(key=lambda row: -row[1])
    print(f"{sum(row[2] for row in found)} samples (times it stood aside); time: "
          f"{probe.shares((row[0], row[1]) for row in found)}")
    print(f"without threads that have nothing to do (vCPUs stand still in a pause): "
          f"{probe.shares((row[0], row[1]) for row in found if row[0] != 'idle')}")
    probe.rows("  category        ms   times  stack, innermost first",
               [f"{name:10} {t / 1e6:9.2f} {count:7}  {' < '.join(frames[:7])}" for name, t, count, frames in found])


if __name__ == "__main__":
    main()
