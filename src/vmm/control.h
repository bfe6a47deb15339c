/* control.h: the control socket of a VMM process, and how a new controller adopts it.
 *
 * Theory of operation. A VMM answers one controller at a time. When that controller goes away the process goes on
 * and listens on the socket that was bound for it at birth. Whoever connects there is a candidate; one that sends
 * ADOPT with the secret given at birth becomes the controller, its predecessor's socket is closed. A candidate that
 * says anything else is closed. There is one candidate at a time, the newest.
 *
 * Threads: the loop's. */
#ifndef FORKD_VMM_CONTROL_H
#define FORKD_VMM_CONTROL_H

#include "proto/ctl.h"
#include "sys/loop.h"

struct control {
    struct loop *loop;
    enum ctl_role role;
    char id[CTL_ID_MAX];
    uint8_t secret[CTL_SECRET_LEN];
    int own_memory_fd; /* handed to every controller; owned */
    bool stalled;      /* told to a controller that adopts, and so is */
    bool handed;       /* HANDED came */
    struct loop_source sock, listen, candidate;
    void *owner;
    /* A request came; the message is the caller's to close. */
    void (*request)(struct control *control, struct ctl_message *m);
    /* The controller went away. */
    void (*lost)(struct control *control);
};

/* Takes `sock`, `listen_fd` (may be -1) and `own_memory_fd`. Requests are served from the loop. */
int control_init(struct control *control, struct loop *loop, enum ctl_role role, const char *id,
                 const uint8_t secret[CTL_SECRET_LEN], int sock, int listen_fd, int own_memory_fd, struct err *err);
/* Closes everything it took, and wipes the secret: a fork must not know its template's. */
void control_destroy(struct control *control);

/* Sends an event or a reply; without a controller it is dropped. A controller that does not listen is waited for, a
 * little, but not with a DOORBELL: guests ring it, as often as they like. The descriptors stay the caller's. */
void control_send(struct control *control, const struct ctl_message *m);
void control_send_failed(struct control *control, uint32_t request, const struct err *why);
/* A message whose body is a pid, ours, and which carries our own memory (STARTED, LOADED, BORN). */
void control_send_birth(struct control *control, enum ctl_type type, uint32_t request);

#endif
