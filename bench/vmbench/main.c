/* main.c: vmbench measures what a fork of a template costs: time and memory, beside the floor of the same run.
 *
 * The floor is the least that a virtual machine of that size can cost on this host: the same fork, a KVM VM, its
 * memory, one vCPU, its registers, its first exit. Spawns and floors alternate, so that noise hits both. */
#include "base/clock.h"
#include "vmbench/branch.h"
#include "vmbench/kinds.h"
#include "vmbench/product.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    unsigned n;
    unsigned mem_mib, fill_mib, own_mib;
    bool json, product;
};

struct result {
    unsigned n, answered, answered_one;
    double wall_ms, p50_us, p99_us, floor_us, floor_p99_us, floor_wall_ms;
    /* Of --product: a spawn without a controller, until the controller answered the request, a DELETE. */
    double machine_us, machine_p99_us, request_us, delete_us;
    double fork_us, attach_us, restore_us, start_us, answer_us;
    struct usage usage, floor_usage;
    double first_us, last_us, pss_first, pss_last; /* the first and the last tenth, all kept alive */
};

static int usage(FILE *to)
{
    fputs("usage: vmbench spawn [-n N] [--mem-mib M] [--fill-mib F] [--own-mib P] [--product] [--json]\n"
          "  -n N          children (100)\n"
          "  --mem-mib M   memory of the template (512)\n"
          "  --fill-mib F  of which the guest wrote before it became one (a quarter of it)\n"
          "  --own-mib P   pages that are the template's own, not its image's, as in a branch that did not settle (0)\n"
          "  --product     through a controller: HTTP request to first answer\n"
          "  --json        one object instead of a table\n",
          to);
    fputs(branch_usage, to);
    return to == stdout ? 0 : 2;
}

static bool number_parse(const char *s, unsigned *v)
{
    char *end;
    unsigned long n = strtoul(s, &end, 10);
    *v = (unsigned)n;
    return *s && !*end && n > 0 && n <= 1 << 20;
}

static bool options_parse(int argc, char **argv, struct options *o)
{
    *o = (struct options){.n = 100, .mem_mib = 512};
    if (argc < 2 || strcmp(argv[1], "spawn"))
        return false;
    for (int i = 2; i < argc; i++) {
        unsigned *number = !strcmp(argv[i], "-n")           ? &o->n
                           : !strcmp(argv[i], "--mem-mib")  ? &o->mem_mib
                           : !strcmp(argv[i], "--fill-mib") ? &o->fill_mib
                           : !strcmp(argv[i], "--own-mib")  ? &o->own_mib
                                                            : NULL;
        if (!strcmp(argv[i], "--json"))
            o->json = true;
        else if (!strcmp(argv[i], "--product"))
            o->product = true;
        else if (!number || ++i == argc || !number_parse(argv[i], number))
            return false;
    }
    if (!o->fill_mib)
        o->fill_mib = o->mem_mib / 4;
    return true;
}

static int branch_main(int argc, char **argv)
{
    struct branch_options o;
    static struct branch_result r;
    struct err err = {0};
    if (branch_options_parse(argc, argv, &o, &err) < 0) {
        fprintf(stderr, "vmbench: %s; see vmbench --help\n", err.text);
        return 2;
    }
    if (branch_measure(&o, &r, &err) < 0) {
        fprintf(stderr, "vmbench: %s\n", err.text);
        return 1;
    }
    branch_print(&o, &r);
    return 0;
}

/* One at a time, spawn and floor in turn. */
static int measure_one(struct rig *rig, unsigned n, struct result *r, struct err *err)
{
    struct kind machine = kind_machine(rig), bare = kind_bare(rig);
    struct series spawns, floors;
    int rc = series_open(&spawns, n, err);
    if (rc == 0)
        rc = series_open(&floors, n, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < n; i++) {
        series_one(&floors, &bare, i);
        r->answered_one += (unsigned)series_one(&spawns, &machine, i);
    }
    r->p50_us = series_us(&spawns, ASKED, ANSWERED, 50);
    r->p99_us = series_us(&spawns, ASKED, ANSWERED, 99);
    r->floor_us = series_us(&floors, ASKED, ANSWERED, 50);
    r->floor_p99_us = series_us(&floors, ASKED, ANSWERED, 99);
    r->fork_us = series_fork_us(&spawns, 50);
    r->attach_us = series_us(&spawns, BORN, ATTACHED, 50);
    r->restore_us = series_us(&spawns, ATTACHED, RESTORED, 50);
    r->start_us = series_us(&spawns, RESTORED, STARTED, 50);
    r->answer_us = series_us(&spawns, STARTED, ANSWERED, 50);
    series_close(&spawns);
    series_close(&floors);
    return 0;
}

/* All in one go, and what they use while they live. */
static int measure_all(const struct kind *kind, unsigned n, unsigned *answered, double *wall_ms, struct usage *used,
                       struct err *err)
{
    struct series series;
    uint64_t wall;
    int rc = series_open(&series, n, err);
    if (rc < 0)
        return rc;
    struct host_memory before = host_memory_read();
    *answered = series_all(&series, kind, &wall);
    *wall_ms = (double)wall / NS_PER_MS;
    *used = series_usage(&series, &before);
    series_end(&series);
    series_close(&series);
    return 0;
}

/* One after the other, all kept: does the last cost what the first did? */
static int measure_kept(const struct kind *kind, unsigned n, struct result *r, struct err *err)
{
    struct series series;
    int rc = series_open(&series, n, err);
    if (rc < 0)
        return rc;
    unsigned tenth = n < 10 ? 1 : n / 10;
    struct host_memory none = {0};
    struct series first = series_part(&series, 0, tenth), last = series_part(&series, n - tenth, tenth);
    series_kept(&series, kind);
    r->first_us = series_us(&first, ASKED, ANSWERED, 50);
    r->last_us = series_us(&last, ASKED, ANSWERED, 50);
    r->pss_first = series_usage(&first, &none).pss;
    r->pss_last = series_usage(&last, &none).pss;
    series_end(&series);
    series_close(&series);
    return 0;
}

/* What the controller adds, in turn with what it adds it to. */
struct contest {
    struct series products, machines, floors;
};

static int contest_open(struct contest *c, unsigned n, struct err *err)
{
    int rc = series_open(&c->products, n, err);
    if (rc == 0)
        rc = series_open(&c->machines, n, err);
    return rc < 0 ? rc : series_open(&c->floors, n, err);
}

static void contest_close(struct contest *c)
{
    series_close(&c->products);
    series_close(&c->machines);
    series_close(&c->floors);
}

static void contest_run(struct contest *c, struct product *p, struct rig *rig, unsigned n, struct result *r)
{
    struct kind machine = kind_machine(rig), bare = kind_bare(rig);
    for (unsigned i = 0; i < n; i++) {
        series_one(&c->floors, &bare, i);
        series_one(&c->machines, &machine, i);
        r->answered_one += (unsigned)product_one(p, &c->products, i);
    }
    r->p50_us = series_us(&c->products, ASKED, ANSWERED, 50);
    r->p99_us = series_us(&c->products, ASKED, ANSWERED, 99);
    r->request_us = series_us(&c->products, ASKED, STARTED, 50);
    r->delete_us = series_us(&c->products, ANSWERED, ENDED, 50);
    r->machine_us = series_us(&c->machines, ASKED, ANSWERED, 50);
    r->machine_p99_us = series_us(&c->machines, ASKED, ANSWERED, 99);
    r->floor_us = series_us(&c->floors, ASKED, ANSWERED, 50);
    r->floor_p99_us = series_us(&c->floors, ASKED, ANSWERED, 99);
}

static int measure_product(const struct options *o, struct rig *rig, struct result *r, struct err *err)
{
    struct product p;
    struct contest contest;
    uint64_t wall;
    int rc = product_open(&p, o->mem_mib, o->fill_mib, err);
    if (rc == 0)
        rc = contest_open(&contest, o->n, err);
    if (rc == 0) {
        contest_run(&contest, &p, rig, o->n, r);
        struct host_memory before = host_memory_read();
        r->answered = product_all(&p, &contest.products, &wall);
        r->wall_ms = (double)wall / NS_PER_MS;
        r->usage = series_usage(&contest.products, &before);
        product_end(&p, &contest.products);
        contest_close(&contest);
    }
    product_close(&p);
    return rc;
}

/* What the stream leaves in a branch's template: pages that were written there. */
static void own_pages(const struct rig *rig, unsigned mib)
{
    enum { OWN_FROM = 32 << 20 };
    const struct gmem *gmem = &rig->m->gmem;
    for (uint64_t at = OWN_FROM; at < OWN_FROM + ((uint64_t)mib << 20) && at < gmem->size; at += GMEM_PAGE) {
        volatile uint8_t *page = gmem->base + at;
        *page = *page;
    }
}

static int measure(const struct options *o, struct result *r, struct err *err)
{
    struct rig rig;
    char cmdline[32];
    unsigned bare_answered;
    snprintf(cmdline, sizeof cmdline, "fill=%um", o->fill_mib);
    int rc = rig_ready(&rig, &(struct rig_config){.guest = "answer", .mem_mib = o->mem_mib, .cmdline = cmdline}, err);
    if (rc < 0)
        return rc;
    own_pages(&rig, o->own_mib);
    struct kind machine = kind_machine(&rig), bare = kind_bare(&rig);
    r->n = o->n;
    rc = o->product ? measure_product(o, &rig, r, err) : measure_one(&rig, o->n, r, err);
    if (rc == 0)
        rc = measure_all(&bare, o->n, &bare_answered, &r->floor_wall_ms, &r->floor_usage, err);
    if (rc == 0 && !o->product)
        rc = measure_all(&machine, o->n, &r->answered, &r->wall_ms, &r->usage, err);
    if (rc == 0 && !o->product)
        rc = measure_kept(&machine, o->n, r, err);
    rig_close(&rig);
    return rc;
}

static void print_json(const struct result *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "n", json_integer(r->n));
    json_object_set_new(o, "answered", json_integer(r->answered));
    json_object_set_new(o, "answered_one_at_a_time", json_integer(r->answered_one));
    const struct {
        const char *name;
        double v;
    } reals[] = {
        {"wall_ms", r->wall_ms},
        {"p50_us", r->p50_us},
        {"p99_us", r->p99_us},
        {"floor_us", r->floor_us},
        {"floor_p99_us", r->floor_p99_us},
        {"floor_wall_ms", r->floor_wall_ms},
        {"pss_kib_per_child", r->usage.pss},
        {"pagetable_kib_per_child", r->usage.pagetables},
        {"memavailable_kib_per_child", r->usage.memavailable},
        {"floor_memavailable_kib", r->floor_usage.memavailable},
        {"kernel_kib_per_child", r->usage.kernel},
        {"floor_kernel_kib", r->floor_usage.kernel},
        {"first_tenth_us", r->first_us},
        {"last_tenth_us", r->last_us},
        {"first_tenth_pss_kib", r->pss_first},
        {"last_tenth_pss_kib", r->pss_last},
        {"machine_us", r->machine_us},
        {"machine_p99_us", r->machine_p99_us},
        {"request_us", r->request_us},
        {"delete_us", r->delete_us},
        {"fork_us", r->fork_us},
        {"attach_us", r->attach_us},
        {"restore_us", r->restore_us},
        {"start_us", r->start_us},
        {"answer_us", r->answer_us},
    };
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        json_object_set_new(o, reals[i].name, json_real((double)(long)(reals[i].v * 10 + 0.5) / 10));
    json_dumpf(o, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(o);
}

static void print_table(const struct options *o, const struct result *r)
{
    printf("%u children of a template of %u MiB, %u of them written\n\n", r->n, o->mem_mib, o->fill_mib);
    printf("one at a time                     spawn       floor\n");
    printf("  request to first answer  p50 %8.0f us %8.0f us   %.2f times\n", r->p50_us, r->floor_us,
           r->p50_us / r->floor_us);
    printf("                           p99 %8.0f us %8.0f us\n", r->p99_us, r->floor_p99_us);
    if (o->product)
        printf(
            "  of which %.0f us until the controller said that the guest knows who it is; DELETE %.0f us\n"
            "  without a controller     p50 %8.0f us, %.0f less than that, %.0f less than with the ping; p99 %.0f us\n",
            r->request_us, r->delete_us, r->machine_us, r->request_us - r->machine_us, r->p50_us - r->machine_us,
            r->machine_p99_us);
    else
        printf("  fork %.0f, attach %.0f, restore %.0f, start %.0f, answer %.0f us\n", r->fork_us, r->attach_us,
               r->restore_us, r->start_us, r->answer_us);
    printf("all in one go\n");
    printf("  to the last answer           %8.1f ms %8.1f ms   %u of %u answered\n", r->wall_ms, r->floor_wall_ms,
           r->answered, r->n);
    printf("memory of each that lives\n");
    printf("  Pss                          %8.0f KiB %7.0f KiB\n", r->usage.pss, r->floor_usage.pss);
    printf("  page tables                  %8.0f KiB %7.0f KiB\n", r->usage.pagetables, r->floor_usage.pagetables);
    printf("  off MemAvailable             %8.0f KiB %7.0f KiB   %.0f beyond\n", r->usage.memavailable,
           r->floor_usage.memavailable, r->usage.memavailable - r->floor_usage.memavailable);
    printf("  held by the kernel           %8.0f KiB %7.0f KiB   %.0f beyond\n", r->usage.kernel, r->floor_usage.kernel,
           r->usage.kernel - r->floor_usage.kernel);
    if (!o->product)
        printf("one after the other, all kept: first tenth %.0f us and %.0f KiB, last tenth %.0f us and %.0f KiB\n",
               r->first_us, r->pss_first, r->last_us, r->pss_last);
}

int main(int argc, char **argv)
{
    struct options o;
    struct result r = {0};
    struct err err = {0};
    if (argc >= 2 && (!strcmp(argv[argc - 1], "--help") || !strcmp(argv[1], "help")))
        return usage(stdout);
    if (argc >= 2 && !strcmp(argv[1], "branch"))
        return branch_main(argc, argv);
    if (!options_parse(argc, argv, &o))
        return usage(stderr);
    if (measure(&o, &r, &err) < 0) {
        fprintf(stderr, "vmbench: %s\n", err.text);
        return 1;
    }
    if (o.json)
        print_json(&r);
    else
        print_table(&o, &r);
    return r.answered == r.n && r.answered_one == r.n ? 0 : 1;
}
