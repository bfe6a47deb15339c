/* agent.h: what host and guest agent say to each other.
 *
 * Theory of operation
 *
 * The agent listens on virtio-vsock port AGENT_PORT. One connection carries one request: the client sends one
 * request frame (an EXEC may be followed by STDIN frames), the agent sends the answer's frames and closes. The
 * client may half-close as soon as it has sent what it has to send. There is nothing to negotiate and no state
 * between connections, so that a test guest of a hundred lines can answer PING, IDENTITY and RUN_READY.
 *
 *     frame = u32 length of what follows | u8 version | u8 type | body        (little-endian, see base/pack.h)
 *
 *     str  = u32 length | characters, no zero byte among them                 blob = u32 length | bytes
 *     list = u32 count | str ...                                              flag = u8, 0 or 1
 *
 *     request      body                                            answer
 *     PING         -                                               PONG
 *     EXEC         argv list, env list, cwd str, timeout_ms u32,   (STDOUT | STDERR)* EXIT
 *                  output_limit u32, stdin_stream flag, stdin blob
 *     EVAL         code str, timeout_ms u32                        EVALUATED
 *     WARM         modules list, code str, timeout_ms u32          WARMED
 *     IDENTITY     entropy blob, realtime_ns u64, hostname str,    IDENTIFIED
 *                  id str, token blob, env list
 *     SETTLE       -                                               SETTLED
 *     RUN_READY    command str, timeout_ms u32                     EXIT
 *     SHUTDOWN     -                                               STOPPING, then the guest powers off
 *
 *     STDIN, STDOUT, STDERR    the body is the bytes; an empty STDIN is the end of the input
 *     PONG         version str, pid u32, lang str, warmup_ready flag, numpy_version str, hostname str, uptime_ns u64
 *     EXIT         kind u8, code u32, reason str, (cut flag, total u64) of stdout, the same of stderr
 *     EVALUATED    has_result flag, result str, has_error flag, error str, stdout blob, stderr blob,
 *                  exit_code u32, result_cut, error_cut, stdout_cut, stderr_cut, timed_out flags
 *     WARMED, IDENTIFIED    ok flag, error str
 *     REFUSED      kind u8, reason str: in place of any answer
 *
 * A listening agent rings the doorbell once: it connects to port AGENT_DOORBELL_PORT of the host. The VMM notes
 * the attempt and refuses it; the refusal is what the agent expects. That is how a host learns, without asking
 * again and again, when a booting guest can be asked something.
 *
 * Invariants
 * 1. Each side takes what the other says for hostile. A frame that is too long, of another version or badly made
 *    ends the connection; nothing of it is used.
 * 2. There is one encoding of each message: packing what was unpacked gives the same bytes.
 * 3. Nothing here allocates. Unpacked texts and lists point into the frame and live as long as its buffer; they
 *    are not terminated. */
#ifndef FORKD_PROTO_AGENT_H
#define FORKD_PROTO_AGENT_H

#include "base/err.h"
#include "base/pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    AGENT_VERSION = 1,
    AGENT_PORT = 52,            /* the agent listens here in the guest */
    AGENT_DOORBELL_PORT = 1023, /* the agent rings here at the host once it listens */

    AGENT_FRAME_MAX = 1 << 20, /* most that may follow the length field */
    AGENT_FRAME_HEAD = 6,      /* length, version, type */
    AGENT_LIST_MAX = 4096,     /* most entries of a list */
    AGENT_DATA_MAX = 64 << 10, /* most bytes an agent puts into one STDOUT or STDERR frame */

    AGENT_EVAL_TEXT_MAX = 192 << 10, /* most bytes of each text of EVALUATED; four of them fit a frame */
    AGENT_ENTROPY_MIN = 64,
    AGENT_ENTROPY_MAX = 256,
    AGENT_HOSTNAME_MAX = 64, /* Linux' HOST_NAME_MAX */
    AGENT_ID_MAX = 64,
    AGENT_TOKEN_MAX = 4096,
    AGENT_REASON_MAX = 8 << 10, /* most bytes of a reason or of an error that is not EVALUATED's */
};

enum agent_type {
    AGENT_PING = 0x01,
    AGENT_EXEC,
    AGENT_EVAL,
    AGENT_WARM,
    AGENT_IDENTITY,
    AGENT_SETTLE,
    AGENT_RUN_READY,
    AGENT_SHUTDOWN,
    AGENT_STDIN,

    AGENT_PONG = 0x81,
    AGENT_EXIT,
    AGENT_EVALUATED,
    AGENT_WARMED,
    AGENT_IDENTIFIED,
    AGENT_SETTLED,
    AGENT_STOPPING,
    AGENT_STDOUT,
    AGENT_STDERR,
    AGENT_REFUSED,
};

/* How a command ended. `code` of EXIT is what the API calls exit_code. */
enum agent_exit_kind {
    AGENT_EXITED,       /* code: its exit status */
    AGENT_SIGNALLED,    /* code: minus the signal's number */
    AGENT_NOT_FOUND,    /* code: 127; the reason is on stderr as well */
    AGENT_TIMED_OUT,    /* code: 124; it and what it started were killed */
    AGENT_CANNOT_START, /* code: 126; the reason is on stderr as well */
    AGENT_EXIT_KINDS,
};

enum agent_refusal {
    AGENT_MALFORMED, /* the request is no request */
    AGENT_BUSY,      /* too much is going on; the same request may succeed later */
    AGENT_FAILED,    /* the agent could not do it */
    AGENT_REFUSALS,
};

struct agent_frame {
    enum agent_type type;
    const uint8_t *body;
    size_t len;
};

/* Characters in place, not terminated. */
struct agent_text {
    const char *at;
    size_t len;
};

struct agent_blob {
    const uint8_t *at;
    size_t len;
};

/* Strings. To pack: an array that ends with NULL in `strings` (or NULL: the packed form below is copied).
 * Unpacked: `count` strings in packed form, walked by agent_list_next. */
struct agent_list {
    const char *const *strings;
    uint32_t count;
    const uint8_t *at;
    size_t len;
};

struct agent_pong {
    struct agent_text version; /* of the agent */
    uint32_t pid;              /* of the warm interpreter, else of the agent */
    struct agent_text lang;    /* "c+python" when there is an interpreter, else "c" */
    bool warmup_ready;         /* a WARM succeeded and its interpreter lives */
    struct agent_text numpy_version;
    struct agent_text hostname;
    uint64_t uptime_ns;
};

struct agent_exec {
    struct agent_list argv;
    struct agent_list env;    /* NAME=value, added to the agent's environment or replacing there */
    struct agent_text cwd;    /* empty: "/" */
    uint32_t timeout_ms;      /* 0: none */
    uint32_t output_limit;    /* bytes of each stream; what comes after it is counted and dropped */
    bool stdin_stream;        /* STDIN frames follow, after the blob's bytes */
    struct agent_blob stdin_; /* with stdin_stream the beginning of the input, else all of it */
};

struct agent_exit {
    enum agent_exit_kind kind;
    int32_t code;
    struct agent_text reason;
    bool stdout_cut;
    uint64_t stdout_total; /* bytes the command wrote, as far as it was read */
    bool stderr_cut;
    uint64_t stderr_total;
};

struct agent_eval {
    struct agent_text code;
    uint32_t timeout_ms; /* 0: none */
};

struct agent_evaluated {
    bool has_result;
    struct agent_text result; /* repr() of the value, UTF-8 */
    bool has_error;
    struct agent_text error; /* the traceback, UTF-8 */
    struct agent_blob stdout_, stderr_;
    int32_t exit_code; /* 0; 1 after an exception; SystemExit's; 124 over time; minus a signal that ended Python */
    bool result_cut, error_cut, stdout_cut, stderr_cut;
    bool timed_out;
};

struct agent_warm {
    struct agent_list modules;
    struct agent_text code; /* run after the imports, in the namespace of later evals */
    uint32_t timeout_ms;    /* 0: none */
};

/* WARMED and IDENTIFIED. */
struct agent_outcome {
    bool ok;
    struct agent_text error;
};

struct agent_identity {
    struct agent_blob entropy; /* AGENT_ENTROPY_MIN to AGENT_ENTROPY_MAX bytes from the host's generator */
    uint64_t realtime_ns;      /* the wall clock; 0: leave it */
    struct agent_text hostname, id;
    struct agent_blob token;
    struct agent_list env; /* NAME=value, in the environment of what is started from now on */
};

struct agent_run_ready {
    struct agent_text command; /* for sh -c */
    uint32_t timeout_ms;       /* 0: none */
};

struct agent_refused {
    enum agent_refusal kind;
    struct agent_text reason;
};

struct agent_text agent_text_of(const char *s);
struct agent_blob agent_blob_of(const void *bytes, size_t len);

/* Takes the next string off the list; false at its end. */
bool agent_list_next(struct agent_list *list, struct agent_text *text);

/* The name of a frame's type, for messages: "EXEC". */
const char *agent_type_name(unsigned type);

/* Looks for a frame at the front of what has been received. Returns the bytes it takes, 0 while more are needed
 * (then *need, if given, is how many the buffer must hold at least), or -EPROTO when what is there is no frame. */
ssize_t agent_frame_parse(const uint8_t *buf, size_t len, struct agent_frame *frame, size_t *need, struct err *err);

/* Packing: appends one frame. What does not fit, or is against the limits above, leaves p->full set. */
void agent_pack_empty(struct pack *p, enum agent_type type); /* PING, SETTLE, SHUTDOWN, SETTLED, STOPPING */
void agent_pack_data(struct pack *p, enum agent_type type, const void *bytes, size_t len); /* STDIN and the like */
void agent_pack_pong(struct pack *p, const struct agent_pong *m);
void agent_pack_exec(struct pack *p, const struct agent_exec *m);
void agent_pack_exit(struct pack *p, const struct agent_exit *m);
void agent_pack_eval(struct pack *p, const struct agent_eval *m);
void agent_pack_evaluated(struct pack *p, const struct agent_evaluated *m);
void agent_pack_warm(struct pack *p, const struct agent_warm *m);
void agent_pack_outcome(struct pack *p, enum agent_type type, const struct agent_outcome *m);
void agent_pack_identity(struct pack *p, const struct agent_identity *m);
void agent_pack_run_ready(struct pack *p, const struct agent_run_ready *m);
void agent_pack_refused(struct pack *p, const struct agent_refused *m);

/* Unpacking: 0, or -EPROTO with a sentence when the frame is of another type or badly made. */
int agent_unpack_empty(const struct agent_frame *frame, enum agent_type type, struct err *err);
int agent_unpack_pong(const struct agent_frame *frame, struct agent_pong *m, struct err *err);
int agent_unpack_exec(const struct agent_frame *frame, struct agent_exec *m, struct err *err);
int agent_unpack_exit(const struct agent_frame *frame, struct agent_exit *m, struct err *err);
int agent_unpack_eval(const struct agent_frame *frame, struct agent_eval *m, struct err *err);
int agent_unpack_evaluated(const struct agent_frame *frame, struct agent_evaluated *m, struct err *err);
int agent_unpack_warm(const struct agent_frame *frame, struct agent_warm *m, struct err *err);
int agent_unpack_outcome(const struct agent_frame *frame, enum agent_type type, struct agent_outcome *m,
                         struct err *err);
int agent_unpack_identity(const struct agent_frame *frame, struct agent_identity *m, struct err *err);
int agent_unpack_run_ready(const struct agent_frame *frame, struct agent_run_ready *m, struct err *err);
int agent_unpack_refused(const struct agent_frame *frame, struct agent_refused *m, struct err *err);

#endif
