/* resume.c: forkd resume. */
#include "cli/cli.h"

static int resume_run(const struct args *args)
{
    if (!args->count)
        return verb_usage("forkd resume needs a sandbox");
    return verb_each(args, "POST", "/v1/sandboxes/*/resume", "", " runs on");
}

const struct verb verb_resume = {
    .name = "resume",
    .what = "let sandboxes run on that waited for disk space",
    .usage = "ID... [--json]",
    .about = "Lets sandboxes run on that stand still because the host's disk was full.",
    .run = resume_run,
};
