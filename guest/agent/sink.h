/* sink.h: read ends of pipes whose writers go on though nobody listens any more.
 *
 * A command has ended but something it started still holds its output, or the host has hung up. Closing the read
 * end would kill the writers with SIGPIPE; so what they write is read and dropped until the last of them is
 * gone. There are at most SINKS_MAX; the oldest is closed to take one more. */
#ifndef FORKD_AGENT_SINK_H
#define FORKD_AGENT_SINK_H

#include "agent.h"

enum { SINKS_MAX = 128 };

/* Takes the descriptor over. */
void sink_adopt(struct agent *agent, int fd);

#endif
