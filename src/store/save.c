/* save.c: SAVE; see roles.h.
 *
 * The writer must be noticed by nobody: it runs when no other process wants a CPU (SCHED_IDLE), its I/O waits for
 * that of others where the scheduler of the disk knows classes, and the message may bound its rate. On a host whose
 * CPUs are all busy SCHED_IDLE comes to three thousandths of one, so a writer that a client waits for is merely nice:
 * it gets a tenth of what a guest gets that wants the same CPU. */
#include "snap/save.h"
#include "snap/chain.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "store/roles.h"

#include <linux/ioprio.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

struct saver {
    int sock;
    uint32_t request;
};

enum { AWAITED_NICE = 10 };

static void become_idle(void)
{
    const struct sched_param none = {0};
    if (sched_setscheduler(0, SCHED_IDLE, &none) < 0)
        log_warn("SCHED_IDLE: %s", strerrordesc_np(errno));
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

static void become_nice(void)
{
    if (setpriority(PRIO_PROCESS, 0, AWAITED_NICE) < 0)
        log_warn("nice: %s", strerrordesc_np(errno));
}

/* FORKD_STORE_WITHOUT=direct,fallocate,reflink: as if the filesystem could do none of it. For tests. */
static unsigned leave_out(void)
{
    const char *list = getenv("FORKD_STORE_WITHOUT");
    if (!list)
        return 0;
    return (strstr(list, "direct") ? WITHOUT_DIRECT : 0) | (strstr(list, "fallocate") ? WITHOUT_FALLOCATE : 0) |
           (strstr(list, "reflink") ? WITHOUT_REFLINK : 0);
}

/* Who went away wants no snapshot. */
static int tell_progress(void *owner, uint64_t done, uint64_t total, uint64_t written, struct err *err)
{
    const struct saver *saver = owner;
    return store_tell(saver->sock, saver->request, done, total, written, err);
}

/* What can be shared with is a gain and no need. */
static bool open_origin(const struct ctl_message *m, struct chain *origin)
{
    struct err err;
    if (m->fd[CTL_FD_ORIGIN] < 0)
        return false;
    if (chain_open(origin, &m->fd[CTL_FD_ORIGIN], 1, &err) == 0)
        return true;
    log_warn("nothing is shared with the snapshot of the branch's source: %s", err.text);
    return false;
}

static int run(struct saver *saver, struct ctl_message *m, struct snapshot_meta *meta, struct err *err)
{
    struct chain origin = {0};
    int fd[SNAPSHOT_FILES];
    const struct save save = {.dir = m->fd[CTL_FD_DIR],
                              .memory = m->fd[CTL_FD_MEMORY],
                              .own_memory = m->fd[CTL_FD_OWN_MEMORY],
                              .pages = m->fd[CTL_FD_PAGES],
                              .diff = m->fd[CTL_FD_DIFF],
                              .origin = open_origin(m, &origin) ? &origin : NULL,
                              .state = m->fd[CTL_FD_STATE],
                              .state_bytes = m->save.state_bytes,
                              .base = m->fd[CTL_FD_BASE],
                              .layers = m->extra,
                              .layer_count = m->extra_count,
                              .ram = m->save.ram,
                              .birth_layers = m->save.birth_layers,
                              .engine = (enum writer_engine)m->save.engine,
                              .without = leave_out(),
                              .bytes_per_second = m->save.bytes_per_second,
                              .progress = tell_progress,
                              .owner = saver};
    if (m->save.awaited)
        become_nice();
    else
        become_idle();
    int rc = save_open(save.dir, save.base >= 0, fd, err);
    if (rc == 0)
        rc = store_confine(err);
    if (rc == 0 && m->save.engine >= WRITER_ENGINES)
        rc = err_say(err, EINVAL, "there is no engine %u", m->save.engine);
    if (rc == 0)
        rc = snapshot_meta_decode(meta, m->save.meta, strlen(m->save.meta), err);
    if (rc == 0)
        rc = save_run(&save, fd, meta, err);
    for (int i = 0; i < SNAPSHOT_FILES; i++)
        fd_close(&fd[i]);
    chain_close(&origin);
    return rc;
}

int store_save(int sock, struct ctl_message *m)
{
    struct saver saver = {.sock = sock, .request = m->request};
    struct snapshot_meta meta = {0};
    struct ctl_message reply;
    struct err err = {0};
    ctl_message_init(&reply, CTL_SAVED, m->request);
    int rc = run(&saver, m, &meta, &err);
    if (rc == 0)
        rc = snapshot_meta_encode(&meta, reply.saved.meta, sizeof reply.saved.meta, &err);
    ctl_message_close(m);
    if (rc < 0)
        ctl_send_failed(sock, saver.request, &err, NULL);
    else
        rc = ctl_send(sock, &reply, NULL);
    return rc < 0 ? 1 : 0;
}
_Static_assert((int)SNAPSHOT_META_MAX <= (int)CTL_META_MAX, "a description fits a message");
