/* vmm_client.h: the controller's side of proto/ctl.h.
 *
 * Theory of operation. A `struct vmm` is the controller's hold on one VMM process: its control socket, a pidfd
 * and a read-only descriptor of its memory. Requests are made by one thread at a time and wait for their reply;
 * events that come in between are noted. Processes are killed through the pidfd and in no other way.
 *
 * Invariants.
 * 1. Every wait has a deadline.
 * 2. A failed request leaves a sentence that says what the VMM said, or how it ended, not just that it did. */
#ifndef FORKD_CONTROLLER_VMM_CLIENT_H
#define FORKD_CONTROLLER_VMM_CLIENT_H

#include "controller/rundir.h"
#include "proto/ctl.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

struct vmm {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    _Atomic pid_t pid;      /* 0: none; who buries it sets that while others still name it */
    int pidfd, ctl, memory; /* -1: none */
    bool rung;              /* a DOORBELL came */
    bool stalled;           /* it was when it was adopted */
    bool handed;            /* a sandbox that was adopted: it was its user's already */
    atomic_uint requests;   /* numbers given out */
    uint32_t settle;        /* the number of the SETTLE under way; 0: none */
    struct {
        int code; /* -EAGAIN: no answer yet */
        uint64_t pages;
        char text[CTL_TEXT_MAX];
    } settled; /* what came of it */
};

#define VMM_EMPTY                                                                                                      \
    {                                                                                                                  \
        .pidfd = -1, .ctl = -1, .memory = -1                                                                           \
    }

/* A fresh id with this prefix ("sb" gives "sb-" and 24 characters of [a-z0-9]) and a fresh secret. */
int vmm_name(struct vmm *vmm, const char *prefix, struct err *err);

/* A program of forkd's: $VARIABLE, or `name` beside this program, in ../libexec/forkd, or where the build puts it,
 * ../FOLDER. */
int program_find(const char *variable, const char *name, const char *folder, char *path, size_t cap, struct err *err);
/* The program that is started: $FORKD_VMM, or forkd-vmm beside this program, in ../libexec/forkd, or where the
 * build puts it. */
int vmm_program(char *path, size_t cap, struct err *err);

/* Starts a forkd-vmm that waits for BOOT or LOAD; it is born in `cgroup` (-1: none). Its command line, and that of all
 * it forks, names the run directory that it belongs to, which is how `forkd cleanup` knows whose it is
 * (NULL: it forks nothing, and ends with us). */
int vmm_start(const char *program, const char *run_path, int cgroup, struct vmm *vmm, struct err *err);

struct vmm_boot {
    int kernel, initrd, base; /* -1: none */
    const struct seat *seat;
    uint32_t mem_mib, vcpus;
    bool disk_read_only;
    const char *cmdline;
    struct ctl_jail who;
};

/* Who the processes of a tree are, by its template's id: a uid of the tree's own where the controller is root, ours
 * otherwise. The same id gives the same uid, so that a later controller knows it, too. */
struct ctl_jail vmm_tree_owner(const char *template_id);
/* Lets the tree's processes be made in this cgroup by one of them. */
int vmm_tree_delegate(int cgroup, const char *template_id, struct err *err);

/* BOOT and STARTED. */
int vmm_boot(struct vmm *vmm, const struct vmm_boot *boot, struct err *err);
/* Waits for the DOORBELL. -ETIMEDOUT without it. */
int vmm_wait_doorbell(struct vmm *vmm, uint64_t deadline_ns, struct err *err);

struct vmm_image {
    struct ctl_image image;
    int memory, state; /* -1: none */
};

/* TEMPLATE and IMAGE; the parent ends. The descriptors are the caller's. */
int vmm_freeze(struct vmm *vmm, struct vmm_image *image, struct err *err);
/* LOAD and LOADED, of a VMM that has its tree's id. The layers are frozen ones, read-only, oldest first. */
int vmm_load(struct vmm *vmm, const struct vmm_image *image, struct ctl_jail who, int base, const int *layers,
             unsigned layer_count, int listen, struct err *err);
/* EXPORT and EXPORTED: what a template is, for whoever writes it. The message is the caller's. The caller serialises
 * calls on one template. */
int vmm_export(struct vmm *template, struct ctl_message *exported, struct err *err);

/* SPAWN of `child` (named before) and SPAWNED: we have its pid, pidfd and control socket, all it takes to end it. The
 * caller serialises calls on one template. */
int vmm_spawn(struct vmm *template, struct vmm *child, const struct seat *seat, int cgroup, struct err *err);
/* BRANCH of `made` (named before), a fork of the template `last`, and SPAWNED: it has its pid, pidfd and control
 * socket, and reads its source's memory through `memory` as the source tells it through `peer`. The caller serialises
 * calls on one template. */
int vmm_branch(struct vmm *last, struct vmm *made, int listen, int peer, int memory, int cgroup, struct err *err);
/* STREAM, to the source, with the other end and a fresh layer (-1: it has no disk). FAILED, if it comes, is for whoever
 * reads its socket, and has that number. */
int vmm_stream(struct vmm *source, uint32_t number, int peer, int layer, struct err *err);
/* A number for a request whose answer somebody else hears. */
uint32_t vmm_number(struct vmm *vmm);
/* BRANCHED, of what vmm_branch() made: it is a template. */
int vmm_await_branched(struct vmm *made, struct ctl_branched *report, struct err *err);

/* GO: it runs its guest as soon as it can. Does not wait for it. */
int vmm_go(struct vmm *child, struct err *err);
/* BORN, which a child says before its guest runs: we have its memory. */
int vmm_await_birth(struct vmm *child, struct err *err);

/* SETTLE, to a template. Its answer comes between others; the caller serialises calls on one template. */
int vmm_settle(struct vmm *template, struct err *err);
/* What came of it: 0 with the number of pages, -EAGAIN if nothing yet, or why it failed. */
int vmm_settled(struct vmm *template, uint64_t *pages, struct err *err);

/* HANDED: the guest has acknowledged who it is. Does not wait. */
int vmm_hand_over(struct vmm *child, struct err *err);

/* Takes over a living VMM by its id and secret through its listening socket. -ECONNREFUSED or -ENOENT: it is dead;
 * -ETIMEDOUT: it does not answer within `secs`. */
int vmm_adopt(const struct rundir *run, struct vmm *vmm, unsigned secs, struct err *err);

/* Asks a stalled sandbox to run on: RESUMED or FAILED is for whoever reads its socket. */
int vmm_resume(struct vmm *vmm, struct err *err);

/* The reason a VMM gave for its end, from what still lies in its socket: 0 with a sentence, or -ENOENT. */
int vmm_last_words(struct vmm *vmm, struct err *err);
/* Puts the last words in front of an error that was only their consequence. */
void vmm_explain(struct vmm *vmm, struct err *err);

/* How a guest ended: the name of the reason, and what the VMM has to say beyond it. */
void vmm_end_say(const struct ctl_ended *ended, char *text, size_t cap);

/* Sends SIGKILL through the pidfd; does not wait. */
void vmm_kill(const struct vmm *vmm);
/* Kills it and waits for its end; the descriptors are closed. Safe on an empty one. */
void vmm_destroy(struct vmm *vmm);
/* Closes the descriptors; the process lives on. */
void vmm_release(struct vmm *vmm);

#endif
