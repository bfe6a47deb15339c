/* restore.c: RESTORE; see roles.h. Somebody waits for it, so it is not idle. */
#include "snap/chain_load.h"
#include "store/roles.h"

#include <string.h>

static void describe(const struct image *image, struct ctl_image *into)
{
    into->mem_bytes = image->size;
    into->data_bytes = image->data_bytes;
    into->zero_count = image->zero_count;
    for (unsigned i = 0; i < image->zero_count; i++)
        into->zero[i] = (struct ctl_zero_range){image->zero[i].offset, image->zero[i].len};
}
_Static_assert((int)IMAGE_ZERO_MAX <= (int)CTL_ZERO_RANGES_MAX, "an image's ranges fit a message");
_Static_assert((int)CHAIN_MAX <= (int)CTL_EXTRA_MAX, "a chain's directories and layers fit a message");

struct loader {
    int sock;
    uint32_t request;
};

/* That nobody wants it any more is found out at its end. */
static void tell_progress(void *owner, uint64_t done, uint64_t total)
{
    const struct loader *loader = owner;
    store_tell(loader->sock, loader->request, done, total, 0, NULL);
}

static int run(struct loader *loader, struct ctl_message *m, struct chain_image *image, struct err *err)
{
    struct chain chain;
    int rc = chain_open(&chain, m->extra, m->extra_count, err);
    if (rc < 0)
        return rc;
    chain.progress = tell_progress;
    chain.owner = loader;
    rc = store_confine(err);
    if (rc == 0)
        rc = chain_load(&chain, m->fd[CTL_FD_BASE], image, err);
    chain_close(&chain);
    return rc;
}

int store_restore(int sock, struct ctl_message *m)
{
    struct chain_image image = {.memory = -1, .state = -1};
    struct loader loader = {.sock = sock, .request = m->request};
    struct ctl_message reply;
    struct err err = {0};
    ctl_message_init(&reply, CTL_IMAGE, m->request);
    int rc = run(&loader, m, &image, &err);
    ctl_message_close(m);
    if (rc < 0) {
        ctl_send_failed(sock, reply.request, &err, NULL);
        return 1;
    }
    describe(&image.image, &reply.image);
    reply.image.state_bytes = image.state_bytes;
    reply.fd[CTL_FD_MEMORY] = image.memory;
    reply.fd[CTL_FD_STATE] = image.state;
    reply.extra_count = image.layer_count;
    memcpy(reply.extra, image.layer, image.layer_count * sizeof *image.layer);
    rc = ctl_send(sock, &reply, NULL);
    chain_image_close(&image);
    return rc < 0 ? 1 : 0;
}
