/* branch_options.c: the command line of `vmbench branch`. */
#include "vmbench/branch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char branch_usage[] =
    "       vmbench branch [-n K] [--mem-mib M] [--hot-mib H] [--cold-mib C] [--dirty-mib-s R] [--vcpus V]\n"
    "                      [--engine E] [--root DIR] [--writer W] [--interval-ms I] [--verify] [--json]\n"
    "  -n K             branches in a row, all kept (20)\n"
    "  --mem-mib M      memory of the guest (512)\n"
    "  --hot-mib H      rewritten all the time (64)\n"
    "  --cold-mib C     written before the first branch, then only read (0)\n"
    "  --dirty-mib-s R  how fast the hot ones are rewritten (as fast as the guest can)\n"
    "  --spin S         turns of an empty loop after each page written (0)\n"
    "  --vcpus V        CPUs of the guest (1)\n"
    "  --engine E       stream; stop: no rounds; classic: all memory to a file in the pause (stream)\n"
    "  --root DIR       where branches are written (nowhere)\n"
    "  --writer W       direct, fallocate, buffered, none (direct)\n"
    "  --interval-ms I  from one branch to the next call (1000)\n"
    "  --verify         compare all memory of source and branch in the pause\n"
    "  --json           one object instead of a table\n";

const char *const branch_engine_names[ENGINES] = {
    [ENGINE_STREAM] = "stream", [ENGINE_STOP] = "stop", [ENGINE_CLASSIC] = "classic"};

enum { MIB_MAX = 1 << 20, LOW_MIB = 3072, GUEST_MIB = 40 };

static bool number_parse(const char *s, unsigned *v)
{
    char *end;
    unsigned long n = strtoul(s, &end, 10);
    *v = (unsigned)n;
    return *s && !*end && n <= MIB_MAX;
}

static bool name_parse(const char *s, const char *const *names, unsigned count, unsigned *v)
{
    for (*v = 0; *v < count; ++*v)
        if (!strcmp(s, names[*v]))
            return true;
    return false;
}

static bool writer_parse(const char *s, struct branch_options *o)
{
    o->writes = strcmp(s, "none") != 0;
    for (int engine = 0; engine < WRITER_ENGINES; engine++)
        if (!strcmp(s, writer_engine_name((enum writer_engine)engine))) {
            o->writer = (enum writer_engine)engine;
            return true;
        }
    return !o->writes;
}

static unsigned *number_of(const char *option, struct branch_options *o)
{
    const struct {
        const char *name;
        unsigned *v;
    } numbers[] = {
        {"-n", &o->n},
        {"--mem-mib", &o->mem_mib},
        {"--hot-mib", &o->hot_mib},
        {"--cold-mib", &o->cold_mib},
        {"--dirty-mib-s", &o->dirty_mib_s},
        {"--spin", &o->spin},
        {"--vcpus", &o->vcpus},
        {"--interval-ms", &o->interval_ms},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(option, numbers[i].name))
            return numbers[i].v;
    return NULL;
}

/* An option that has a value. */
static bool value_parse(const char *option, const char *value, struct branch_options *o)
{
    unsigned *number = number_of(option, o), v;
    if (number)
        return number_parse(value, number);
    if (!strcmp(option, "--root")) {
        o->root = value;
        return true;
    }
    if (!strcmp(option, "--engine") && name_parse(value, branch_engine_names, ENGINES, &v)) {
        o->engine = v;
        return true;
    }
    return !strcmp(option, "--writer") && writer_parse(value, o);
}

static int make_sense(struct branch_options *o, struct err *err)
{
    o->writes = o->writes && o->root;
    uint64_t used = (uint64_t)o->hot_mib + o->cold_mib + GUEST_MIB;
    if (!o->n || o->n > BRANCHES_MAX)
        return err_say(err, EINVAL, "-n is from 1 to %d", BRANCHES_MAX);
    if (!o->vcpus || o->vcpus > BOARD_VCPUS_MAX)
        return err_say(err, EINVAL, "--vcpus is from 1 to %d", BOARD_VCPUS_MAX);
    if (used > o->mem_mib || used > LOW_MIB)
        return err_say(err, EINVAL, "hot, cold and %d MiB of the guest's own are more than its %s", GUEST_MIB,
                       used > o->mem_mib ? "memory" : "first region");
    if (o->engine == ENGINE_CLASSIC && !o->writes)
        return err_say(err, EINVAL, "classic writes in the pause: it needs --root, and a --writer");
    if (o->engine == ENGINE_CLASSIC && o->verify)
        return err_say(err, EINVAL, "classic makes no template that --verify could compare");
    return 0;
}

int branch_options_parse(int argc, char **argv, struct branch_options *o, struct err *err)
{
    *o = (struct branch_options){.n = 20,
                                 .mem_mib = 512,
                                 .hot_mib = 64,
                                 .vcpus = 1,
                                 .interval_ms = 1000,
                                 .engine = ENGINE_STREAM,
                                 .writes = true,
                                 .writer = WRITER_DIRECT};
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--json"))
            o->json = true;
        else if (!strcmp(argv[i], "--verify"))
            o->verify = true;
        else if (i + 1 == argc || !value_parse(argv[i], argv[i + 1], o))
            return err_say(err, EINVAL, "%s is no option, or has no value that it could have", argv[i]);
        else
            i++;
    }
    return make_sense(o, err);
}
