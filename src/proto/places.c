/* places.c: see places.h. */
#include "proto/places.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void data_directory(char *path, size_t cap, const char *name)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (geteuid() == 0)
        snprintf(path, cap, "/var/lib/forkd/%s", name);
    else if (data && *data)
        snprintf(path, cap, "%s/forkd/%s", data, name);
    else
        snprintf(path, cap, "%s/.local/share/forkd/%s", home ? home : "", name);
}

void place_images(char *path, size_t cap)
{
    const char *chosen = getenv("FORKD_IMAGES");
    if (chosen && *chosen)
        snprintf(path, cap, "%s", chosen);
    else
        data_directory(path, cap, "images");
}

void place_snapshots(char *path, size_t cap)
{
    data_directory(path, cap, "snapshots");
}

const char *place_state_chosen(void)
{
    const char *chosen = getenv("FORKD_STATE");
    return chosen && *chosen ? chosen : NULL;
}

int place_state(const char *named, char *file, size_t cap, struct err *err)
{
    struct stat st;
    size_t len = strlen(named);
    bool directory = (len && named[len - 1] == '/') || (stat(named, &st) == 0 && S_ISDIR(st.st_mode));
    while (len && named[len - 1] == '/')
        len--;
    int n = snprintf(file, cap, "%.*s%s", (int)len, named, directory ? "/state.db" : "");
    return (size_t)n < cap ? 0 : err_say(err, ENAMETOOLONG, "the path of the state is longer than %zu bytes", cap - 1);
}

int place_own_state(char *file, size_t cap, struct err *err)
{
    char dir[PATH_MAX];
    const char *chosen = place_state_chosen(), *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (!chosen) {
        if (geteuid() == 0)
            snprintf(dir, sizeof dir, "/var/lib/forkd/private/");
        else if (state && *state)
            snprintf(dir, sizeof dir, "%s/forkd/", state);
        else if (home && *home)
            snprintf(dir, sizeof dir, "%s/.local/state/forkd/", home);
        else
            return err_say(err, EINVAL, "neither HOME nor FORKD_STATE is set");
    }
    return place_state(chosen ? chosen : dir, file, cap, err);
}
