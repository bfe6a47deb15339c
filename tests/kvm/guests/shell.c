/* shell.c: the commands of the test agent.
 *
 *   echo WORDS | true | false | exit N | cat | sleep SECONDS | spin MS
 *   hostname | id | token | env | date             what IDENTITY told
 *   spew BYTES                                     that many bytes on stdout
 *   mem read ADDR | mem write ADDR VALUE           64-bit words of guest memory
 *   mem fill ADDR BYTES VALUE | mem check ADDR BYTES VALUE
 *   blk size | blk read BLOCK | blk write BLOCK VALUE | blk flush       blocks of 4 KiB, one value in each
 *   load SLOTS | load                              disk traffic for good, and how it fares
 *   resets                                         vsock transport resets seen
 *   storm                                          whether the busy CPUs go on, and found all as they left it
 *   poweroff | reset | crash
 *   sh -c LINE                                     one of these */
#include "shell.h"

#include "rt.h"
#include "vsock.h"

#include <string.h>

HOT struct identity identity;

static bool word_is(const struct command *cmd, unsigned i, const char *what)
{
    return i < cmd->count && text_is(cmd->word[i].at, cmd->word[i].len, what);
}

static uint64_t word_number(const struct command *cmd, unsigned i, uint64_t otherwise)
{
    return i < cmd->count ? text_number(cmd->word[i].at, cmd->word[i].len, otherwise) : otherwise;
}

static void complain(struct command *cmd, enum agent_exit_kind kind, int32_t code, const char *what)
{
    cmd->to_stderr = true;
    cmd->kind = kind;
    cmd->code = code;
    if (cmd->count)
        text_add(&cmd->output, cmd->word[0].at, cmd->word[0].len);
    text_str(&cmd->output, what);
}

static void usage(struct command *cmd)
{
    complain(cmd, AGENT_EXITED, 2, ": these arguments make no sense\n");
}

/* --- commands --- */
static void cmd_echo(struct command *cmd)
{
    for (unsigned i = 1; i < cmd->count; i++) {
        if (i > 1)
            text_str(&cmd->output, " ");
        text_add(&cmd->output, cmd->word[i].at, cmd->word[i].len);
    }
    text_str(&cmd->output, "\n");
}

static void cmd_true(struct command *cmd)
{
    (void)cmd;
}

static void cmd_false(struct command *cmd)
{
    cmd->code = 1;
}

static void cmd_exit(struct command *cmd)
{
    cmd->code = (int32_t)(word_number(cmd, 1, 0) & 0xff);
}

static void cmd_cat(struct command *cmd)
{
    cmd->state = COMMAND_COPIES;
}

static void cmd_sleep(struct command *cmd)
{
    /* Seconds, with decimals. */
    uint64_t us = 0, unit = 1000000;
    bool point = false;
    for (size_t i = 0; cmd->count > 1 && i < cmd->word[1].len; i++) {
        char c = cmd->word[1].at[i];
        if (c == '.') {
            point = true;
        } else if (c >= '0' && c <= '9') {
            if (point)
                unit /= 10;
            us = point ? us + (uint64_t)(c - '0') * unit : us * 10 + (uint64_t)(c - '0') * 1000000;
        }
    }
    cmd->wake = rdtsc() + us * (tsc_hz() / 1000000);
    cmd->state = COMMAND_SLEEPS;
}

static void cmd_spin(struct command *cmd)
{
    uint64_t until = rdtsc() + word_number(cmd, 1, 1) * (tsc_hz() / 1000);
    while (rdtsc() < until)
        cpu_relax();
}

static void cmd_hostname(struct command *cmd)
{
    text_add(&cmd->output, identity.hostname, identity.hostname_len);
    text_str(&cmd->output, "\n");
}

static void cmd_id(struct command *cmd)
{
    text_add(&cmd->output, identity.id, identity.id_len);
    text_str(&cmd->output, "\n");
}

static void cmd_token(struct command *cmd)
{
    text_add(&cmd->output, identity.token, identity.token_len);
    text_str(&cmd->output, "\n");
}

static void cmd_env(struct command *cmd)
{
    text_add(&cmd->output, identity.env, identity.env_len);
}

static void cmd_date(struct command *cmd)
{
    uint64_t since = (rdtsc() - identity.at_tsc) / (tsc_hz() / 1000000) * 1000;
    text_dec(&cmd->output, (int64_t)(identity.realtime_ns + since));
    text_str(&cmd->output, "\n");
}

static void cmd_spew(struct command *cmd)
{
    cmd->left = word_number(cmd, 1, 0);
    cmd->state = COMMAND_SPEWS;
}

/* Whether [at, at+len) is RAM of this guest. */
static bool in_memory(uint64_t at, uint64_t len)
{
    uint64_t start, end;
    for (unsigned n = 0; memory_range(n, &start, &end); n++)
        if (at >= start && at <= end && len <= end - at)
            return true;
    return false;
}

static void cmd_mem(struct command *cmd)
{
    uint64_t at = word_number(cmd, 2, UINT64_MAX);
    bool range = word_is(cmd, 1, "fill") || word_is(cmd, 1, "check");
    uint64_t len = range ? word_number(cmd, 3, UINT64_MAX) & ~UINT64_C(7) : 8;
    uint64_t value = word_number(cmd, range ? 4 : 3, 0), bad = 0;
    volatile uint64_t *p = (volatile uint64_t *)at;
    if (at % 8 || !in_memory(at, len)) {
        usage(cmd);
    } else if (word_is(cmd, 1, "read")) {
        text_hex(&cmd->output, *p);
        text_str(&cmd->output, "\n");
    } else if (word_is(cmd, 1, "write")) {
        *p = value;
    } else if (word_is(cmd, 1, "fill")) {
        for (uint64_t i = 0; i < len / 8; i++)
            p[i] = value;
    } else if (word_is(cmd, 1, "check")) {
        for (uint64_t i = 0; i < len / 8; i++)
            bad += p[i] != value;
        text_dec(&cmd->output, (int64_t)bad);
        text_str(&cmd->output, "\n");
        cmd->code = bad != 0;
    } else {
        usage(cmd);
    }
}

static void blk_done(struct blk_slot *slot)
{
    struct command *cmd = slot->owner;
    blk_release(slot);
    if (!cmd) /* its connection is gone */
        return;
    cmd->slot = NULL;
    cmd->state = COMMAND_DONE;
    if (slot->bad) {
        complain(cmd, AGENT_EXITED, 1, ": the device failed the request\n");
    } else if (slot->op == BLK_READ) {
        uint64_t same = 0;
        while (same < BLK_BLOCK / 8 && slot->data[same] == slot->data[0])
            same++;
        text_hex(&cmd->output, slot->data[0]);
        text_str(&cmd->output, same == BLK_BLOCK / 8 ? "\n" : " torn\n");
    }
}

static void cmd_blk(struct command *cmd)
{
    uint64_t block = word_number(cmd, 2, 0), value = word_number(cmd, 3, 0);
    if (word_is(cmd, 1, "size")) {
        text_dec(&cmd->output, (int64_t)blk_blocks());
        text_str(&cmd->output, "\n");
        return;
    }
    enum blk_op op = word_is(cmd, 1, "read") ? BLK_READ : word_is(cmd, 1, "write") ? BLK_WRITE : BLK_FLUSH;
    if (op == BLK_FLUSH && !word_is(cmd, 1, "flush")) {
        usage(cmd);
        return;
    }
    cmd->slot = blk_take(blk_done, cmd);
    if (!cmd->slot) {
        complain(cmd, AGENT_EXITED, 1, ": no disk, or too many requests in flight\n");
        return;
    }
    for (unsigned i = 0; op == BLK_WRITE && i < BLK_BLOCK / 8; i++)
        cmd->slot->data[i] = value;
    cmd->state = COMMAND_ON_DISK;
    blk_submit(cmd->slot, op, block);
}

static void cmd_load(struct command *cmd)
{
    blk_load((unsigned)word_number(cmd, 1, 0));
    struct blk_load load = blk_load_state();
    text_str(&cmd->output, "slots ");
    text_dec(&cmd->output, load.slots);
    text_str(&cmd->output, " slowest ");
    text_dec(&cmd->output, (int64_t)load.slowest);
    text_str(&cmd->output, " total ");
    text_dec(&cmd->output, (int64_t)load.total);
    text_str(&cmd->output, " errors ");
    text_dec(&cmd->output, (int64_t)load.errors);
    text_str(&cmd->output, "\n");
}

static void cmd_resets(struct command *cmd)
{
    text_dec(&cmd->output, vsock_resets);
    text_str(&cmd->output, "\n");
}

static void cmd_poweroff(struct command *cmd)
{
    cmd->state = COMMAND_POWEROFF;
}

static void cmd_reset(struct command *cmd)
{
    cmd->state = COMMAND_RESET;
}

static void cmd_crash(struct command *cmd)
{
    cmd->state = COMMAND_CRASH;
}

static const struct {
    const char *name;
    void (*run)(struct command *cmd);
} commands[] = {
    {"echo", cmd_echo},     {"true", cmd_true},   {"false", cmd_false},       {"exit", cmd_exit},
    {"cat", cmd_cat},       {"sleep", cmd_sleep}, {"spin", cmd_spin},         {"hostname", cmd_hostname},
    {"id", cmd_id},         {"token", cmd_token}, {"env", cmd_env},           {"date", cmd_date},
    {"spew", cmd_spew},     {"mem", cmd_mem},     {"blk", cmd_blk},           {"load", cmd_load},
    {"resets", cmd_resets}, {"storm", cmd_storm}, {"poweroff", cmd_poweroff}, {"reset", cmd_reset},
    {"crash", cmd_crash},
};

static void command_run(struct command *cmd)
{
    if (cmd->count && word_is(cmd, 0, "sh") && word_is(cmd, 1, "-c") && cmd->count == 3) {
        command_start_line(cmd, cmd->word[2]);
        return;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (word_is(cmd, 0, commands[i].name)) {
            commands[i].run(cmd);
            return;
        }
    complain(cmd, AGENT_NOT_FOUND, 127, ": not found\n");
}

static void command_init(struct command *cmd)
{
    memset(cmd, 0, offsetof(struct command, buf));
    cmd->output = (struct text){.at = cmd->buf, .cap = sizeof cmd->buf};
    cmd->count = 0;
}

static void word_add(struct command *cmd, struct agent_text word)
{
    /* The first word may be a path. */
    for (size_t i = word.len; !cmd->count && i > 0; i--)
        if (word.at[i - 1] == '/') {
            word.at += i;
            word.len -= i;
            break;
        }
    if (cmd->count < SHELL_WORDS)
        cmd->word[cmd->count++] = word;
}

void command_start(struct command *cmd, struct agent_list argv)
{
    struct agent_text word;
    command_init(cmd);
    while (agent_list_next(&argv, &word))
        word_add(cmd, word);
    command_run(cmd);
}

void command_start_line(struct command *cmd, struct agent_text line)
{
    command_init(cmd);
    for (size_t at = 0; at < line.len;) {
        while (at < line.len && (line.at[at] == ' ' || line.at[at] == '"' || line.at[at] == '\''))
            at++;
        size_t from = at;
        while (at < line.len && line.at[at] != ' ' && line.at[at] != '"' && line.at[at] != '\'')
            at++;
        if (at > from)
            word_add(cmd, (struct agent_text){line.at + from, at - from});
    }
    command_run(cmd);
}

void command_drop(struct command *cmd)
{
    if (cmd->slot)
        cmd->slot->owner = NULL;
    cmd->slot = NULL;
}

/* --- expressions --- */
struct expression {
    const char *at, *end;
    bool bad;
    unsigned depth;
};

static int64_t sum(struct expression *e);

static char next(struct expression *e)
{
    while (e->at < e->end && (*e->at == ' ' || *e->at == '\n'))
        e->at++;
    return e->at < e->end ? *e->at : 0;
}

static int64_t factor(struct expression *e)
{
    int64_t v = 0;
    char c = next(e);
    if (c == '-') {
        e->at++;
        return (int64_t)(0 - (uint64_t)factor(e));
    }
    if (c == '(' && e->depth++ < 32) {
        e->at++;
        v = sum(e);
        if (next(e) == ')')
            e->at++;
        else
            e->bad = true;
        return v;
    }
    if (c < '0' || c > '9') {
        e->bad = true;
        e->at = e->end;
        return 0;
    }
    while (e->at < e->end && *e->at >= '0' && *e->at <= '9')
        v = (int64_t)((uint64_t)v * 10 + (uint64_t)(*e->at++ - '0'));
    return v;
}

static int64_t product(struct expression *e)
{
    int64_t v = factor(e);
    while (next(e) == '*') {
        e->at++;
        v = (int64_t)((uint64_t)v * (uint64_t)factor(e));
    }
    return v;
}

static int64_t sum(struct expression *e)
{
    int64_t v = product(e);
    for (char c = next(e); c == '+' || c == '-'; c = next(e)) {
        e->at++;
        uint64_t w = (uint64_t)product(e);
        v = (int64_t)((uint64_t)v + (c == '+' ? w : 0 - w));
    }
    return v;
}

bool expression_value(struct agent_text code, int64_t *value)
{
    struct expression e = {.at = code.at, .end = code.at + code.len};
    *value = sum(&e);
    return !e.bad && !next(&e);
}
