/* berths.c: see berths.h. */
#include "controller/berths.h"

#include "base/log.h"
#include "base/own.h"
#include "controller/agent_client.h"

#include <string.h>

void berths_init(struct berths *b, struct rundir *run, struct registry *registry, struct workers *workers)
{
    *b = (struct berths){.run = run, .registry = registry, .workers = workers};
    pthread_mutex_init(&b->lock, NULL);
}

static int berth_name(struct berth *berth, struct err *err)
{
    struct vmm vmm;
    int rc = vmm_name(&vmm, "sb", err);
    *berth = (struct berth){.seat = SEAT_EMPTY, .call = -1};
    memcpy(berth->id, vmm.id, sizeof berth->id);
    memcpy(berth->secret, vmm.secret, sizeof berth->secret);
    return rc;
}

static int rows_write(struct berths *b, const struct berth *berth, unsigned n, struct err *err)
{
    own_free struct sandbox_row *rows = calloc(n, sizeof *rows);
    if (!rows)
        return err_say(err, ENOMEM, "out of memory");
    for (unsigned i = 0; i < n; i++) {
        rows[i].state = ROW_MAKING;
        memcpy(rows[i].id, berth[i].id, sizeof rows[i].id);
        memcpy(rows[i].secret, berth[i].secret, sizeof rows[i].secret);
    }
    return registry_sandboxes_add(b->registry, rows, n, err);
}

static int berths_make(struct berths *b, struct berth *berth, unsigned n, struct err *err)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < n; i++)
        rc = berth_name(&berth[i], err);
    return rc == 0 && n ? rows_write(b, berth, n, err) : rc;
}

void berth_close(struct berth *berth)
{
    seat_close(&berth->seat);
    fd_close(&berth->call);
}

static void discard(struct berths *b, struct berth *berth)
{
    struct err err;
    berth_close(berth);
    rundir_shelf_remove(b->run, berth->id);
    if (registry_sandbox_remove(b->registry, berth->id, &err) < 0)
        log_error("%s", err.text);
}

void berths_close(struct berths *b)
{
    while (b->ready)
        discard(b, &b->berth[--b->ready]);
    pthread_mutex_destroy(&b->lock);
}

/* --- making them ready --- */

static int shelve(struct berths *b, struct berth *berth, struct err *err)
{
    int rc = rundir_shelve(b->run, berth->id, &berth->seat, err);
    if (rc == 0)
        rc = berth->call = agent_dial(b->run, berth->id, err);
    berth->shelved = rc >= 0;
    return rc;
}

/* The one job that adds some, one at a time. What fails is left for later: who needs a berth then has one made. */
static void refill(struct job *job)
{
    struct berths *b = list_entry(job, struct berths, job);
    struct berth made[BERTHS_READY];
    struct err err;
    pthread_mutex_lock(&b->lock);
    unsigned n = BERTHS_READY - b->ready;
    pthread_mutex_unlock(&b->lock);
    if (berths_make(b, made, n, &err) < 0)
        n = 0;
    for (unsigned i = 0; i < n; i++) {
        if (shelve(b, &made[i], &err) < 0) {
            discard(b, &made[i]);
            continue;
        }
        pthread_mutex_lock(&b->lock);
        b->berth[b->ready++] = made[i];
        pthread_mutex_unlock(&b->lock);
    }
    atomic_store(&b->refilling, false);
}

void berths_refill(struct berths *b)
{
    pthread_mutex_lock(&b->lock);
    bool low = b->ready <= BERTHS_READY / 2;
    pthread_mutex_unlock(&b->lock);
    if (!low || atomic_exchange(&b->refilling, true))
        return;
    b->job.fn = refill;
    if (workers_submit(b->workers, WORKER_HELPER, &b->job, NULL) < 0)
        atomic_store(&b->refilling, false);
}

/* --- giving them out --- */

int berths_take(struct berths *b, struct berth *into, unsigned n, struct err *err)
{
    unsigned taken = 0;
    pthread_mutex_lock(&b->lock);
    while (taken < n && b->ready)
        into[taken++] = b->berth[--b->ready];
    pthread_mutex_unlock(&b->lock);
    int rc = berths_make(b, into + taken, n - taken, err);
    while (rc < 0 && taken)
        discard(b, &into[--taken]);
    return rc;
}

int berth_furnish(struct berths *b, struct berth *berth, bool with_layer, struct err *err)
{
    int rc = berth->shelved ? 0 : rundir_seat(b->run, berth->id, with_layer, &berth->seat, err);
    if (rc == 0 && berth->call < 0)
        rc = berth->call = agent_dial(b->run, berth->id, err);
    return rc < 0 ? rc : 0;
}

int berth_settle(struct berths *b, struct berth *berth, struct err *err)
{
    int rc = berth->shelved ? rundir_unshelve(b->run, berth->id, err) : 0;
    berth->shelved = berth->shelved && rc < 0;
    return rc;
}
