/* images.h: guest images, for quickstart and doctor as well. */
#ifndef FORKD_CLI_IMAGES_H
#define FORKD_CLI_IMAGES_H

#include <jansson.h>

/* Their descriptions (image.json), sorted by name; the caller's. */
json_t *images_list(void);
/* Makes one, saying so on this terminal; the exit status. */
int images_build(const char *name);

/* Runs a program on this terminal to its end; its exit status, 127 if it cannot be run, 128 + N for signal N. */
int program_run(char *const *argv);

#endif
