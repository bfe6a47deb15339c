/* sink.c: see sink.h. */
#include "sink.h"

#include "base/own.h"

struct sink {
    struct agent *agent;
    struct loop_source source;
    int fd;
    struct list link;
};

static void sink_close(struct sink *sink)
{
    loop_remove(&sink->agent->loop, &sink->source);
    close(sink->fd);
    list_remove(&sink->link);
    sink->agent->sink_count--;
    free(sink);
}

static void sink_readable(struct loop_source *source, uint32_t events)
{
    struct sink *sink = list_entry(source, struct sink, source);
    static char dropped[64 << 10];
    ssize_t n = read(sink->fd, dropped, sizeof dropped);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        sink_close(sink);
}

void sink_adopt(struct agent *agent, int fd)
{
    struct sink *sink = calloc(1, sizeof *sink);
    if (sink) {
        *sink = (struct sink){.agent = agent, .source = {.fd = -1, .fn = sink_readable}, .fd = fd};
        if (loop_add(&agent->loop, &sink->source, fd, EPOLLIN, NULL) == 0) {
            list_append(&agent->sinks, &sink->link);
            if (++agent->sink_count > SINKS_MAX)
                sink_close(list_entry(agent->sinks.next, struct sink, link));
            return;
        }
        free(sink);
    }
    close(fd);
}
