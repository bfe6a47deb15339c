/* places.c: see places.h. */
#include "proto/places.h"

#include <stdio.h>
#include <stdlib.h>
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
