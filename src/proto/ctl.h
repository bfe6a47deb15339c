/* ctl.h: the messages between forkd-controller and its VMM processes.
 *
 * Theory of operation. Every VMM process (parent, template, sandbox) has one SEQPACKET socket to the
 * controller. One message is one packet: a fixed header (magic, version, type, request id, descriptor mask),
 * a body packed by hand, and descriptors (SCM_RIGHTS) in the order of `enum ctl_fd`, those whose bit is set
 * in the mask; after them may come *extra* ones, the frozen layers of a disk. The controller asks with a request id of
 * its own choosing; the reply repeats it. Events carry request id 0.
 *
 * The life of a tree:
 *
 *   controller               parent (forkd-vmm)            template (forkd-vmm)        sandbox (fork of it)
 *     BOOT  ----------------->  boots a guest
 *           <---------------- STARTED (OWN_MEMORY)
 *           <---------------- DOORBELL (the agent is up)
 *     (warms the guest up through its vsock)
 *     TEMPLATE -------------->  parks, saves, seals
 *           <---------------- IMAGE (MEMORY, STATE), ends
 *     LOAD (MEMORY, STATE, extra: layers) ---------------->  maps the image
 *           <---------------------------------------------- LOADED (OWN_MEMORY)
 *     SPAWN (CTL, LAYER, VSOCK, LISTEN, CONSOLE, CGROUP) --->  clone3
 *           <---------------------------------------------- SPAWNED (PIDFD)
 *     GO    ------------------------------------------------------------------------->  may run
 *           <------------------------------------------------------------------------- BORN (OWN_MEMORY), runs
 *           <------------------------------------------------------------------------- DOORBELL, ENDED, ...
 *
 * A branch makes a template of a running sandbox. The controller makes a socket pair for the two processes
 * (snap/branch.h), asks the sandbox's last template to fork the new one, and the sandbox to serve it:
 *
 *   controller               last template               sandbox                     new template (fork of the last)
 *     BRANCH (CTL, LISTEN, PEER, OWN_MEMORY) -->  clone3
 *           <---------------- SPAWNED (PIDFD)
 *     STREAM (PEER, LAYER) ----------------------------->  serves
 *           <----------------------------------------------------------------------- BRANCHED (OWN_MEMORY)
 *
 * What a template is, EXPORT tells, for whoever writes it to a disk: EXPORTED has its image, the pages that differ from
 * it, its state and its layers. SETTLE makes a new image of image and pages, while the template goes on forking.
 *
 * forkd-store, a process of the controller's outside of every tree, writes a template to a directory (SAVE, with what
 * EXPORTED brought; PROGRESS now and then; SAVED) or makes an image of a chain of directories (RESTORE; PROGRESS;
 * IMAGE), which a fresh forkd-vmm then LOADs. It does one of these and ends.
 *
 * A sandbox whose control socket closes before GO ends: GO says that the controller has what it takes to end it. BORN
 * is said before it looks for GO, which may be there already. After GO it outlives its controller: a new controller
 * connects to the listening socket the VMM holds (LISTEN), sends ADOPT with the secret given at birth, and
 * the accepted socket becomes the control socket. A parent ends with its controller (it is nobody's yet);
 * a template, like a sandbox, waits to be adopted.
 *
 * HANDED tells a sandbox that its guest has acknowledged who it is. The registry says what a sandbox is to be, the
 * sandbox whether it came to that: so the commit need not wait for the guest, nor its user for the commit. What a
 * controller said before its death is heard before the next one's ADOPT: sockets are served as they became ready.
 *
 * A VMM answers a request it cannot do with FAILED: an errno value and a sentence. Bodies are validated on
 * both sides; the receiver of a malformed message closes the socket. */
#ifndef FORKD_PROTO_CTL_H
#define FORKD_PROTO_CTL_H

#include "base/err.h"
#include "base/pack.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    CTL_MAGIC = 0x6c74636b, /* "kctl" */
    CTL_VERSION = 1,
    CTL_MESSAGE_MAX = 8 * 1024,
    CTL_ID_MAX = 64, /* bytes of a sandbox or template id, terminator included */
    CTL_SECRET_LEN = 32,
    CTL_CMDLINE_MAX = 2048, /* terminator included */
    CTL_TEXT_MAX = 480,
    CTL_ZERO_RANGES_MAX = 128,
    CTL_EXTRA_MAX = 220,
    CTL_META_MAX = 7000, /* of a snapshot's description, terminator included */
};

enum ctl_type {
    CTL_BOOT = 1, /* body: ctl_boot; KERNEL, [INITRD], [BASE], [LAYER], VSOCK, LISTEN, CONSOLE */
    CTL_STARTED,  /* body: ctl_pid; OWN_MEMORY. The guest's CPUs run. */
    CTL_TEMPLATE, /* no body: park, save, seal, hand over, end */
    CTL_IMAGE,    /* body: ctl_image; MEMORY (sealed), STATE; extra, from forkd-store: frozen layers */
    CTL_LOAD,     /* body: ctl_load; MEMORY, STATE, [BASE], LISTEN; extra: frozen layers, oldest first */
    CTL_LOADED,   /* body: ctl_pid; OWN_MEMORY */
    CTL_SPAWN,    /* body: ctl_spawn; CTL, [LAYER] (fresh), VSOCK, LISTEN, CONSOLE, [CGROUP] (directory) */
    CTL_SPAWNED,  /* body: ctl_pid; PIDFD */
    CTL_BORN,     /* body: ctl_pid; OWN_MEMORY. On the sandbox's own socket. */
    CTL_GO,       /* no body, no reply */
    CTL_ADOPT,    /* body: ctl_adopt; on a fresh connection to LISTEN */
    CTL_ADOPTED,  /* body: ctl_adopted; OWN_MEMORY, PIDFD where the VMM can make one */
    CTL_QUIT,     /* no body; the process ends, its socket's end is the reply */
    CTL_RESUME,   /* no body: run on after CTL_STALLED */
    CTL_RESUMED,  /* no body */
    CTL_FAILED,   /* body: ctl_failed */
    CTL_DOORBELL, /* event; body: ctl_doorbell */
    CTL_STALLED,  /* event; body: ctl_failed: the disk is full, the VM waits for RESUME */
    CTL_ENDED,    /* event; body: ctl_ended; the process ends after it */
    CTL_BRANCH,   /* to a template; body: ctl_branch; CTL, LISTEN, PEER, OWN_MEMORY (the source's), [CGROUP] */
    CTL_STREAM,   /* to the source; no body; PEER, [LAYER] (fresh); no reply but FAILED */
    CTL_BRANCHED, /* on the new template's own socket; body: ctl_branched; OWN_MEMORY */
    CTL_EXPORT,   /* to a template; no body */
    CTL_EXPORTED, /* body: ctl_export; MEMORY (sealed), STATE, PAGES, [DIFF], [BASE]; extra: frozen layers, oldest first
                   */
    CTL_SETTLE,   /* to a template; no body: make its private pages part of a new image */
    CTL_SETTLED,  /* body: ctl_settled; it may come after replies to later requests */
    CTL_SAVE,     /* to forkd-store; body: ctl_save; DIR, MEMORY, STATE, [OWN_MEMORY], [PAGES], [DIFF], [BASE],
                     [ORIGIN]; extra: layers */
    CTL_PROGRESS, /* body: ctl_progress; now and then until SAVED, IMAGE or FAILED */
    CTL_SAVED,    /* body: ctl_saved */
    CTL_RESTORE,  /* to forkd-store; no body; [BASE]; extra: the directories of a chain, root first. The reply is IMAGE
                   */
    CTL_HANDED,   /* to a sandbox; no body, no reply: it is its user's */
    CTL_TYPES_END
};

/* Descriptors of a message, in this order. */
enum ctl_fd {
    CTL_FD_KERNEL,  /* read-only */
    CTL_FD_INITRD,  /* read-only */
    CTL_FD_BASE,    /* disk image, read-only; a file or a block device */
    CTL_FD_LAYER,   /* an empty regular file of its own, read-write */
    CTL_FD_VSOCK,   /* listening SOCK_STREAM socket: clients write "CONNECT <port>\n" */
    CTL_FD_LISTEN,  /* listening SOCK_SEQPACKET socket for a later controller */
    CTL_FD_CONSOLE, /* regular file, read-write: the bounded console log */
    CTL_FD_CTL,     /* the sandbox's control socket, SOCK_SEQPACKET */
    CTL_FD_CGROUP,  /* directory of a cgroup v2 */
    CTL_FD_MEMORY,  /* memfd: guest memory, page n at offset n * 4096 */
    CTL_FD_STATE,   /* memfd: the state file */
    CTL_FD_PIDFD,
    CTL_FD_OWN_MEMORY, /* /proc/PID/mem of the sender, or of a branch's source, read-only */
    CTL_FD_PAGES,      /* memfd: a bitmap of RAM's pages, 64-bit words: those not in MEMORY as they are */
    CTL_FD_DIFF,       /* memfd, the same form: pages written since the branch's source was forked */
    CTL_FD_DIR,        /* a snapshot's directory, empty */
    CTL_FD_ORIGIN,     /* the directory of the snapshot that a branch's source was spawned from */
    CTL_FD_PEER,       /* one end of a SOCK_SEQPACKET pair between source and new template of a branch */
    CTL_FDS
};

struct ctl_jail {
    uint32_t uid, gid; /* UINT32_MAX: stay who we are */
};

struct ctl_boot {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    struct ctl_jail jail;
    uint32_t mem_mib, vcpus;
    uint8_t disk_read_only;
    char cmdline[CTL_CMDLINE_MAX];
};

struct ctl_zero_range {
    uint64_t offset, len; /* RAM offsets, whole pages */
};

struct ctl_image {
    uint64_t mem_bytes;   /* length of MEMORY */
    uint64_t state_bytes; /* length of STATE */
    uint64_t data_bytes;  /* memory that is not zero */
    uint32_t zero_count;  /* ranges to map anonymously, sorted, apart from each other */
    struct ctl_zero_range zero[CTL_ZERO_RANGES_MAX];
};

struct ctl_load {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    struct ctl_jail jail;
    struct ctl_image image;
};

struct ctl_spawn {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
};

struct ctl_pid {
    uint32_t pid; /* as the sender sees itself, or its child: the host's pid namespace */
};

struct ctl_adopt {
    uint8_t secret[CTL_SECRET_LEN];
};

enum ctl_role { CTL_ROLE_PARENT = 1, CTL_ROLE_TEMPLATE, CTL_ROLE_SANDBOX };

struct ctl_adopted {
    char id[CTL_ID_MAX];
    uint32_t pid;
    uint8_t role; /* enum ctl_role */
    uint8_t stalled;
    uint8_t handed; /* a sandbox: HANDED came */
};

struct ctl_failed {
    uint32_t code; /* errno value */
    char text[CTL_TEXT_MAX];
};

struct ctl_doorbell {
    uint32_t port;
};

enum ctl_end {
    CTL_END_POWEROFF = 1, /* the guest wrote the ACPI sleep register */
    CTL_END_RESET,        /* the guest asked for a reset: reboot, or panic with panic=1 */
    CTL_END_CRASH,        /* triple fault, or KVM gave up on it */
    CTL_END_QUIT,         /* asked to */
    CTL_END_FAILED        /* the VMM itself failed: text says how */
};

struct ctl_ended {
    uint8_t reason; /* enum ctl_end */
    char text[CTL_TEXT_MAX];
};

struct ctl_branch {
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    uint8_t compare; /* compare all memory of source and branch in the pause: for tests */
};

struct ctl_branched {
    uint32_t pid;
    uint64_t kick_ns, save_ns, log_ns, pages_ns, resume_ns; /* phases of the pause */
    uint32_t rounds;
    uint64_t pages_streamed, pages_in_pause;
    uint64_t pages_differing; /* UINT64_MAX where it was not asked for */
};

struct ctl_export {
    uint64_t ram; /* where RAM is mapped in that process: a page of PAGES is read there, through its OWN_MEMORY */
    uint64_t mem_bytes, state_bytes;
    uint32_t birth_layers; /* layers that the branch's source was forked with: those from here on are the diff's */
};

struct ctl_settled {
    uint64_t pages; /* that were private */
};

/* What else forkd-store must know of a template that it writes; the descriptors are those of EXPORTED. */
struct ctl_save {
    uint64_t ram, state_bytes;
    uint32_t birth_layers;
    uint8_t engine;            /* enum writer_engine of snap/writer.h */
    uint8_t awaited;           /* somebody waits for it: it need not be the last to get a CPU */
    uint64_t bytes_per_second; /* 0: as fast as it goes */
    char meta[CTL_META_MAX];   /* proto/snapshot_meta.h */
};

/* Bytes of pages and blocks. What is zero, or shared, is done without being written. */
struct ctl_progress {
    uint64_t done, total, written; /* written: of a RESTORE 0 */
};

struct ctl_saved {
    char meta[CTL_META_MAX]; /* as it stands in snapshot.json */
};

/* One message, decoded. Descriptors that are absent are -1; those present belong to the receiver. */
struct ctl_message {
    enum ctl_type type;
    uint32_t request;
    int fd[CTL_FDS];
    unsigned extra_count;
    int extra[CTL_EXTRA_MAX];
    union {
        struct ctl_boot boot;
        struct ctl_image image;
        struct ctl_load load;
        struct ctl_spawn spawn;
        struct ctl_pid pid;
        struct ctl_adopt adopt;
        struct ctl_adopted adopted;
        struct ctl_failed failed;
        struct ctl_doorbell doorbell;
        struct ctl_ended ended;
        struct ctl_branch branch;
        struct ctl_branched branched;
        struct ctl_export export;
        struct ctl_settled settled;
        struct ctl_save save;
        struct ctl_progress progress;
        struct ctl_saved saved;
    };
};

/* A message of `type` without body or descriptors. */
void ctl_message_init(struct ctl_message *m, enum ctl_type type, uint32_t request);
/* All that a message has is another's; what is left of it is as of ctl_message_init(). */
void ctl_message_move(struct ctl_message *into, struct ctl_message *from);
/* Closes the descriptors that are still there; steal_fd(&m->fd[...]) takes one out. */
void ctl_message_close(struct ctl_message *m);
/* The name of a type, for messages ("SPAWN"), never NULL. */
const char *ctl_type_name(enum ctl_type type);

/* The inherited socket that a program's `--ctl` names by its number in decimal; -1 where no descriptor has that. */
int ctl_socket_parse(const char *text);

/* Sends a message; its descriptors stay the caller's. Never raises SIGPIPE. */
int ctl_send(int sock, const struct ctl_message *m, struct err *err);
/* The same, waiting for room until a monotonic deadline: -ETIMEDOUT past it. 0: not at all. */
int ctl_send_until(int sock, const struct ctl_message *m, uint64_t deadline_ns, struct err *err);
/* Receives one: 1, or 0 at end of file, or a negative errno (-EAGAIN when the socket is non-blocking and there
 * is none; -EPROTO for a message that is malformed or carries other descriptors than its type may). */
int ctl_recv(int sock, struct ctl_message *m, struct err *err);
/* The same, waiting until a monotonic deadline: -ETIMEDOUT past it. */
int ctl_recv_until(int sock, struct ctl_message *m, uint64_t deadline_ns, struct err *err);

/* FAILED with the error's code and sentence. */
int ctl_send_failed(int sock, uint32_t request, const struct err *why, struct err *err);

#endif
