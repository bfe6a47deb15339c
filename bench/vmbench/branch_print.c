/* branch_print.c: the results of branch.c for people and for programs. */
#include "vmbench/branch.h"

#include "base/clock.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static double pause_us(const struct branch_report *r)
{
    return (double)(r->kick_ns + r->save_ns + r->log_ns + r->pages_ns + r->resume_ns) / NS_PER_US;
}

static double tenths(double v)
{
    return (double)(long)(v * 10 + (v < 0 ? -0.5 : 0.5)) / 10;
}

static json_t *sample_json(const struct branch_options *o, const struct branch_sample *s)
{
    const struct branch_report *r = &s->report;
    json_t *phases =
        json_pack("{s:f,s:f,s:f,s:f,s:f}", "kick", tenths((double)r->kick_ns / NS_PER_US), "save",
                  tenths((double)r->save_ns / NS_PER_US), "log", tenths((double)r->log_ns / NS_PER_US), "pages",
                  tenths((double)r->pages_ns / NS_PER_US), "resume", tenths((double)r->resume_ns / NS_PER_US));
    json_t *j = json_pack("{s:f,s:o,s:f,s:i,s:I,s:I,s:f,s:f}", "pause_us", tenths(pause_us(r)), "phases", phases,
                          "guest_gap_us", tenths(s->guest_gap_us), "rounds", (int)r->rounds, "pages_streamed",
                          (json_int_t)r->pages_streamed, "pages_in_pause", (json_int_t)r->pages_in_pause, "ready_ms",
                          tenths(s->ready_ms), "lost_ms", tenths(s->lost_ms));
    if (o->writes) {
        json_object_set_new(j, "durable_ms", json_real(tenths(s->durable_ms)));
        json_object_set_new(j, "bytes", json_integer((json_int_t)s->bytes));
        json_object_set_new(j, "disk_bytes", json_integer((json_int_t)s->disk_bytes));
    }
    if (o->verify)
        json_object_set_new(j, "differing_pages", json_integer(r->pages_differing));
    return j;
}

static void print_json(const struct branch_options *o, const struct branch_result *r)
{
    json_t *branches = json_array();
    for (unsigned i = 0; i < r->done; i++)
        json_array_append_new(branches, sample_json(o, &r->sample[i]));
    json_t *j = json_pack("{s:f,s:f,s:f,s:o}", "park_floor_us", tenths(r->park_floor_us), "copy_floor_us_per_page",
                          tenths(r->copy_floor_us_per_page), "page_writes_per_s", tenths(r->page_writes_per_s),
                          "branches", branches);
    json_dumpf(j, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(j);
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_line(const char *what, const struct branch_result *r, double (*of)(const struct branch_sample *s))
{
    double v[BRANCHES_MAX];
    if (!r->done)
        return;
    for (unsigned i = 0; i < r->done; i++)
        v[i] = of(&r->sample[i]);
    qsort(v, r->done, sizeof *v, order);
    printf("  %-28s %9.1f %9.1f %9.1f\n", what, v[r->done / 2], v[r->done * 9 / 10], v[r->done - 1]);
}

static double pause_of(const struct branch_sample *s)
{
    return pause_us(&s->report);
}

static double gap_of(const struct branch_sample *s)
{
    return s->guest_gap_us;
}

static double ready_of(const struct branch_sample *s)
{
    return s->ready_ms;
}

static double lost_of(const struct branch_sample *s)
{
    return s->lost_ms;
}

static double durable_of(const struct branch_sample *s)
{
    return s->durable_ms;
}

static double mib_of(const struct branch_sample *s)
{
    return (double)s->bytes / (1 << 20);
}

static double streamed_of(const struct branch_sample *s)
{
    return (double)s->report.pages_streamed;
}

static double paused_of(const struct branch_sample *s)
{
    return (double)s->report.pages_in_pause;
}

static double differing_of(const struct branch_sample *s)
{
    return (double)s->report.pages_differing;
}

void branch_print(const struct branch_options *o, const struct branch_result *r)
{
    if (o->json) {
        print_json(o, r);
        return;
    }
    printf(
        "%u branches in a row, all kept, by %s, of a guest of %u MiB, %u hot and %u cold, %.0f page writes a second\n",
        r->done, branch_engine_names[o->engine], o->mem_mib, o->hot_mib, o->cold_mib, r->page_writes_per_s);
    if (o->writes)
        printf("written to %s by %s\n", o->root, writer_engine_name(o->writer));
    putchar('\n');
    printf("floors: park, save and resume %.0f us; reading a page %.2f us\n\n", r->park_floor_us,
           r->copy_floor_us_per_page);
    printf("  %-28s %9s %9s %9s\n", "", "median", "p90", "max");
    print_line("pause, us", r, pause_of);
    print_line("longest step of the guest, us", r, gap_of);
    print_line("until it can be forked, ms", r, ready_of);
    print_line("lost in the second after, ms", r, lost_of);
    print_line("pages streamed", r, streamed_of);
    print_line("pages in the pause", r, paused_of);
    if (o->writes) {
        print_line("until it is on disk, ms", r, durable_of);
        print_line("written, MiB", r, mib_of);
    }
    if (o->verify)
        print_line("pages that differ", r, differing_of);
}
