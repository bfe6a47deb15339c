#!/usr/bin/env python3
"""What do ext4, its journal, writeback, its throttle and the block layer do while a guest stands still?"""

import probe

# By what they belong to; each is counted inside and outside of pauses, whichever process or worker causes it.
TRACEPOINTS = {
    "ext4": "ext4:ext4_da_write_begin ext4:ext4_da_reserve_space ext4:ext4_writepages ext4:ext4_mballoc_prealloc "
            "ext4:ext4_mb_bitmap_load ext4:ext4_mb_buddy_bitmap_load ext4:ext4_free_blocks ext4:ext4_fallocate_enter "
            "ext4:ext4_sync_file_enter ext4:ext4_ext_map_blocks_enter",
    "jbd2": "jbd2:jbd2_handle_start jbd2:jbd2_start_commit jbd2:jbd2_end_commit jbd2:jbd2_lock_buffer_stall",
    "writeback": "writeback:balance_dirty_pages writeback:writeback_start writeback:writeback_single_inode "
                 "writeback:folio_wait_writeback",
    "block": "block:block_rq_issue block:block_rq_complete wbt:wbt_lat wbt:wbt_step wbt:wbt_timer",
}
# Numbers beside the counts: how long writers were made to sleep, how much went to the disk.
SUMS = {
    "writeback:balance_dirty_pages": ("throttled for, ms", "args->pause"),
    "block:block_rq_issue": ("to the disk, KiB", "args->bytes / 1024"),
}


def exists(tracepoint):
    system, name = tracepoint.split(":")
    return (probe.pathlib.Path("/sys/kernel/tracing/events") / system / name).exists()


def program(tracepoints):
    parts = []
    for name in tracepoints:
        add = f' @sum["{name}", @pausing] = sum({SUMS[name][1]});' if name in SUMS else ""
        parts.append(f'tracepoint:{name} {{ @n["{name}", @pausing] = count();{add} }}')
    return "\n".join(parts)


def main():
    args = probe.arguments(__doc__)
    tracepoints = [t for group in TRACEPOINTS.values() for t in group.split() if exists(t)]
    tracer = probe.trace(program(tracepoints), args)
    counts, sums = tracer.maps.get("@n", {}), tracer.maps.get("@sum", {})
    inside = {t: counts.get(f"{t},1", 0) for t in tracepoints}
    outside = {t: counts.get(f"{t},0", 0) for t in tracepoints}
    in_groups = [(g, inside[t]) for g, names in TRACEPOINTS.items() for t in names.split() if t in inside]
    print(f"{sum(inside.values())} events in the pauses: {probe.shares(in_groups)}; {sum(outside.values())} at other times")
    rows = [f"{t:36} {inside[t]:9} {outside[t]:9}" for t in tracepoints if inside[t] + outside[t]]
    rows += [f"{label + ' (' + t.split(':')[1] + ')':36.36} {sums.get(f'{t},1', 0):9} {sums.get(f'{t},0', 0):9}"
             for t, (label, _) in SUMS.items() if t in tracepoints]
    probe.rows("  tracepoint                         in pauses otherwise", rows, 40)


if __name__ == "__main__":
    main()
