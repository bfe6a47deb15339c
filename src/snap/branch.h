/* branch.h: a running sandbox becomes a template while it runs on.
 *
 * Theory of operation. Two processes take part: the *source*, a running sandbox, and the *target*, a fork of the
 * source's last template, made for this branch. They talk over a socket pair of the controller's making and share a
 * memfd of the target's: a bitmap of the pages wanted, and room for the source's state. The target leads:
 *
 *   target                                            source
 *   HELLO (shared memfd, layers, instant) --------->  maps it; the bitmap begins with what that instant lacks
 *   FETCH  -------------------------------------->   adds what was written since; answers FETCHED
 *   reads those pages, and again, while the guest runs, until few are left, they stop shrinking, or ROUNDS_MAX
 *   PARK  --------------------------------------->   parks, saves CPUs and devices; freezes the disk; fetches the
 *                                                     last pages and copies them into the shared stage (stage.h);
 *                                                     runs on; answers PARKED (layers the target lacks) and
 *                                                     RESUMED (the instant)
 *   puts the pages in place, unpacks the state: it is the template
 *   DONE  --------------------------------------->   since the last branch: nothing
 *
 * Layers: the target names those it has by how many they are, the row they are of and how often layers had been merged
 * out of it then (disk/disk.h). Where that is the source's, and it has merged none since, the target has the oldest of
 * the source's and gets the others; else it lets its own go and gets all. The source merges nothing between the save
 * and RESUMED.
 *
 * The target need not be a fork of a process that the source descends from. What it must have is the memory of an
 * instant that the source knows: of its birth, or of one of its branches (vm/dirty.h). A template that was loaded from
 * the disk has its snapshot's instant, which is written with it, and the same memory, byte by byte: so it lacks the
 * same pages. But its RAM is mapped elsewhere, so the source says where its own is; and its layers are other files, of
 * a row of another name. What is read was written in the source's own life and lies in private pages of it: no hole of
 * its image is touched.
 *
 * A guest that writes faster than it can be read is held back in the meantime (throttle.h): FETCH says how much.
 *
 * So in the pause nobody waits for another process. Only where more pages are left than the stage holds, or the target
 * asked to compare all memory, the source stands still after PARKED until the target says RESUME.
 *
 * Phases of the pause, as the source sees them: kick (orders given until all CPUs stand), save (their state, the
 * disk's freeze, devices), log (the last fetch), pages (copied, and read by the target), resume.
 *
 * Invariants.
 * 1. Whatever the target does, the source runs on: where it waits it resumes on RESUME, on the end of the socket, and
 *    after PAUSE_MAX_MS. A source that was stopped because its disk is full stays so.
 * 2. Between the last fetch and RESUME nothing writes to the source's memory but requests in flight, whose pages the
 *    branch reads half written and whose requests it does again.
 * 3. A branch that fails loses nothing: what was fetched stays since the last branch until DONE.
 * 4. Each side takes the other's messages for hostile: the shared memfd is sealed against shrinking, counts and
 *    lengths are checked, the state is verified as a file's would be, and who does not read is not waited for. */
#ifndef FORKD_SNAP_BRANCH_H
#define FORKD_SNAP_BRANCH_H

#include "snap/branch_wire.h"
#include "snap/content.h"
#include "snap/throttle.h"
#include "sys/loop.h"
#include "vm/dirty.h"
#include "vm/machine.h"

enum {
    BRANCH_ROUNDS_MAX = 40,
    BRANCH_FEW_PAGES = 100,     /* left for the pause: some 30 us of copying */
    BRANCH_PAUSE_MAX_MS = 5000, /* a target that says nothing for so long is given up */
};

struct branch_report {
    uint64_t kick_ns, save_ns, log_ns, pages_ns, resume_ns; /* phases of the pause */
    uint32_t rounds;
    uint64_t pages_streamed; /* read while the source ran */
    uint64_t pages_in_pause;
    int64_t pages_differing; /* of all RAM, where asked to compare; else -1 */
};

/* --- source --- */

/* One branch being made of this machine. Embedded in its owner. */
struct branch_source {
    struct machine *machine;
    struct dirty *dirty;
    struct loop_source peer; /* the socket to the target; closed by the branch */
    int layer_fd;            /* the private layer after the freeze, or -1 */
    struct branch_shared shared;
    struct bitmap_summed wanted; /* shared.wanted, with a summary of our own */
    struct throttle throttle;
    unsigned target_layers;
    struct disk_row target_row;
    bool captured; /* the pause is over: DONE is all that may come */
};

/* Serves the target on `peer` from the machine's loop. Takes both descriptors, whatever it returns. One branch at
 * a time: -EBUSY while another is served. */
int branch_source_begin(struct branch_source *b, struct machine *m, struct dirty *dirty, int peer, int layer_fd,
                        struct err *err);
/* Gives a branch up; the target sees the end of its socket. */
void branch_source_end(struct branch_source *b);
void branch_source_init(struct branch_source *b);

/* --- target --- */

/* For tests and benchmarks, which want to see what the product does not do. */
enum branch_how {
    BRANCH_COMPARE = 1,       /* all memory of both is compared in the pause */
    BRANCH_STOP_AND_COPY = 2, /* no rounds: all that differs is read in the pause */
};

/* Brings the plain machine *m, a fork of the last template's, to the source's state: *m is replaced by a machine on
 * the same memory, and `content` (NULL: nobody asks) tells what is its own. `peer` and `memory_fd`, the source's
 * memory, stay the caller's. On failure the process is of no use and must end. */
int branch_target_run(struct machine **m, struct content *content, int peer, int memory_fd, unsigned how,
                      struct branch_report *report, struct err *err);

#endif
