/* shop.h: forkd-store at work, as its controller would have it. */
#ifndef FORKD_TESTS_STORE_SHOP_H
#define FORKD_TESTS_STORE_SHOP_H

#include "proto/ctl.h"
#include "snap/writer.h"
#include "template.h"

#include <sys/resource.h>
#include <sys/types.h>

/* The program; set by main(). */
extern const char *shop_program;

struct order {
    const char *root;   /* an existing directory */
    const char *tag;    /* a directory in it, made where it is not there */
    const char *origin; /* the tag of what the template was branched from, or NULL */
    enum writer_engine engine;
    bool awaited;        /* not the last to get a CPU */
    const char *without; /* FORKD_STORE_WITHOUT, or NULL */
    uint64_t bytes_per_second;
    int own_memory; /* instead of the test's own; 0: that */
};

/* A store that was sent SAVE and whose answer is awaited. */
struct save_under_way {
    pid_t pid;
    int sock;
    struct export export;
};

void shop_begin_save(struct template *t, const struct order *order, struct save_under_way *save);
/* Its answer: 0 and the description, or the error. `usage` may be NULL. Progress events are counted in *events, where
 * that is not NULL. */
int shop_end_save(struct save_under_way *save, struct snapshot_meta *meta, struct rusage *usage, unsigned *events,
                  struct err *err);
/* Both. */
int shop_save(struct template *t, const struct order *order, struct snapshot_meta *meta, struct err *err);

/* RESTORE of ROOT/TAG..., root first; tags end with NULL. The message is IMAGE on success, and the caller's. */
int shop_restore(const char *root, const char *const *tags, const char *base_path, struct ctl_message *image,
                 struct err *err);

/* That an image is what the template is now: memory, disk, and the rest of its state. */
void assert_image_equal(struct template *t, struct ctl_message *image);

#endif
