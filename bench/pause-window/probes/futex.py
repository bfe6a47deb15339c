#!/usr/bin/env python3
"""Does the pause wait for a lock: which futexes are waited for in it, by address and by who waits?"""

import probe

# FUTEX_WAIT is command 0, FUTEX_WAIT_BITSET 9; the bits above say private and which clock.
PROGRAM = """
tracepoint:syscalls:sys_enter_futex /@in[pid] && ((args->op & 127) == 0 || (args->op & 127) == 9)/ {
    @since[tid] = nsecs; @word[tid] = args->uaddr;
}
tracepoint:syscalls:sys_exit_futex /@since[tid]/ {
    @times[@word[tid], tid == pid] = count(); @ns[@word[tid], tid == pid] = sum(nsecs - @since[tid]);
    delete(@since[tid]); delete(@word[tid]);
}
"""

# vCPU threads stand still by a futex for as long as the pause lasts; the main thread waits for all of them to have
# stopped. Anything else would be a lock.
KINDS = {1: "main thread, for CPUs to stop", 0: "CPUs and others, for the end of the pause"}


def main():
    args = probe.arguments(__doc__)
    tracer = probe.trace(PROGRAM, args)
    ns, times = tracer.maps.get("@ns", {}), tracer.maps.get("@times", {})
    found = []
    for key, t in ns.items():
        word, main_thread = key.split(",")
        found.append((int(word, 0), KINDS[int(main_thread)], t, times[key]))
    found.sort(key=lambda row: -row[2])
    print(f"{sum(row[3] for row in found)} samples (waits) for {len({row[0] for row in found})} addresses; time: "
          f"{probe.shares((row[1], row[2]) for row in found)}")
    probe.rows("  address                 ms   times  by",
               [f"{word:#018x} {t / 1e6:9.2f} {count:7}  {kind}" for word, kind, t, count in found])


if __name__ == "__main__":
    main()
