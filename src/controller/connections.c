/* connections.c: see connections.h. */
#include "controller/connections.h"

#include "base/clock.h"

#include <stdlib.h>
#include <sys/socket.h>

void connections_init(struct connections *cs, unsigned secs)
{
    pthread_mutex_init(&cs->lock, NULL);
    list_init(&cs->all);
    cs->secs = secs;
}

void connections_destroy(struct connections *cs)
{
    pthread_mutex_destroy(&cs->lock);
}

static void set_due(struct connections *cs, struct connection *c, uint64_t due_ns)
{
    if (!c)
        return;
    pthread_mutex_lock(&cs->lock);
    c->due_ns = due_ns;
    pthread_mutex_unlock(&cs->lock);
}

void connection_begins(struct connections *cs, struct connection *c)
{
    set_due(cs, c, clock_monotonic_ns() + cs->secs * NS_PER_SEC);
}

void connection_waits(struct connections *cs, struct connection *c)
{
    set_due(cs, c, 0);
}

struct connection *connection_add(struct connections *cs, int fd)
{
    struct connection *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->fd = fd;
    connection_begins(cs, c);
    pthread_mutex_lock(&cs->lock);
    list_append(&cs->all, &c->link);
    pthread_mutex_unlock(&cs->lock);
    return c;
}

void connection_remove(struct connections *cs, struct connection *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&cs->lock);
    list_remove(&c->link);
    pthread_mutex_unlock(&cs->lock);
    free(c);
}

unsigned connections_sweep(struct connections *cs)
{
    unsigned late = 0;
    uint64_t now = clock_monotonic_ns();
    pthread_mutex_lock(&cs->lock);
    list_for_each (n, &cs->all) {
        struct connection *c = list_entry(n, struct connection, link);
        if (!c->due_ns || c->due_ns > now)
            continue;
        shutdown(c->fd, SHUT_RDWR);
        c->due_ns = 0;
        late++;
    }
    pthread_mutex_unlock(&cs->lock);
    return late;
}
