/* probe.c: see probe.h. */
#include "cli/probe.h"

#include "base/own.h"
#include "cli/private.h"

#include <jansson.h>
#include <string.h>

int probe_host(struct probe *probe, struct err *err)
{
    char path[PATH_MAX], command[PATH_MAX + 32], line[1024] = "";
    *probe = (struct probe){0};
    const char *chosen = getenv("FORKD_VMM");
    if (chosen && *chosen)
        snprintf(path, sizeof path, "%s", chosen);
    else if (program_find("forkd-vmm", path, sizeof path, err) < 0)
        return -err->code;
    if (strchr(path, '\''))
        return err_say(err, EINVAL, "the path %s has a quote in it", path);
    snprintf(command, sizeof command, "'%s' --probe", path);
    FILE *pipe = popen(command, "re");
    if (!pipe)
        return err_set(err, errno, "run %s --probe", path);
    size_t n = fread(line, 1, sizeof line - 1, pipe);
    line[n] = 0;
    pclose(pipe);
    json_t *json = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
    if (!json)
        return err_say(err, EPROTO, "%s --probe said nothing of use", path);
    const char *reason = json_string_value(json_object_get(json, "reason"));
    probe->kvm = json_is_true(json_object_get(json, "kvm"));
    probe->native = json_is_true(json_object_get(json, "native"));
    snprintf(probe->reason, sizeof probe->reason, "%s", reason && !probe->native ? reason : "");
    json_decref(json);
    return 0;
}
