/* shell.h: the commands of the test agent. One runs per connection; see shell.c for what there is. */
#ifndef GUEST_SHELL_H
#define GUEST_SHELL_H

#include "blk.h"
#include "proto/agent.h"
#include "text.h"

#include <stdbool.h>
#include <stdint.h>

enum { SHELL_WORDS = 12, SHELL_OUTPUT = 1024, SHELL_NAME_MAX = 64 };

/* What IDENTITY told. */
struct identity {
    char hostname[SHELL_NAME_MAX], id[SHELL_NAME_MAX], token[256], env[1024];
    size_t hostname_len, id_len, token_len, env_len;
    uint64_t realtime_ns, at_tsc;
};

extern struct identity identity;

enum command_state {
    COMMAND_DONE,     /* `exit` says how; what is in `output` goes out first */
    COMMAND_SPEWS,    /* writes `left` bytes */
    COMMAND_COPIES,   /* its input to its output */
    COMMAND_SLEEPS,   /* until the TSC is `wake` */
    COMMAND_ON_DISK,  /* a request is in flight */
    COMMAND_POWEROFF, /* these end the guest when their output is sent */
    COMMAND_RESET,
    COMMAND_CRASH,
};

struct command {
    enum command_state state;
    enum agent_exit_kind kind;
    int32_t code;
    bool to_stderr; /* the output is complaints */
    uint64_t left, wake;
    struct blk_slot *slot;
    char buf[SHELL_OUTPUT];
    struct text output;
    unsigned count;
    struct agent_text word[SHELL_WORDS];
};

/* Begins a command. `words` point into memory that need not outlive the call. */
void command_start(struct command *cmd, struct agent_list argv);
void command_start_line(struct command *cmd, struct agent_text line);
/* Takes back what it has of the disk. */
void command_drop(struct command *cmd);

/* What the other CPUs do, how many CPUs there are for it, and the command that looks at it (storm.h). */
_Noreturn void storm_forever(unsigned cpu);
unsigned storm_cpus(void);
void cmd_storm(struct command *cmd);

/* The value of a sum or product of numbers, with parentheses; false if it is none. */
bool expression_value(struct agent_text code, int64_t *value);

#endif
