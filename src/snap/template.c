/* template.c: see template.h.
 *
 * SECCOMP: getrandom - names an instant, and a row of layers */
#include "snap/template.h"

#include "base/io.h"
#include "base/own.h"
#include "snap/machine_state.h"
#include "snap/state_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>

int template_state(struct machine *m, int *state_fd, uint64_t *state_len, struct err *err)
{
    size_t bound = machine_state_bound(m);
    own_fd int fd = memfd_create("forkd-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)bound) < 0)
        return err_set(err, errno, "get memory for the machine's state");
    void *buf = mmap(NULL, bound, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (buf == MAP_FAILED)
        return err_set(err, errno, "map memory for the machine's state");
    int64_t len = machine_state_write(m, buf, bound, err);
    munmap(buf, bound);
    if (len < 0)
        return (int)len;
    if (ftruncate(fd, (off_t)len) < 0)
        return err_set(err, errno, "cut the machine's state");
    *state_len = (uint64_t)len;
    *state_fd = steal_fd(&fd);
    return image_seal(*state_fd, err);
}

int template_make(struct machine *m, int memory_fd, struct image *image, int *state_fd, uint64_t *state_len,
                  struct err *err)
{
    void *base = m->gmem.base;
    uint64_t size = m->gmem.size;
    own_fd int state = -1;
    int rc = template_state(m, &state, state_len, err);
    /* The VM goes before the image is settled: nothing can write to it any more. */
    machine_free(m);
    if (rc == 0)
        rc = image_settle(memory_fd, base, size, image, err);
    munmap(base, size);
    if (rc == 0)
        rc = image_seal(memory_fd, err);
    if (rc == 0)
        *state_fd = steal_fd(&state);
    return rc;
}

/* What is loaded has layers of its own, whatever else has the same; and the instant of its snapshot, which is named
 * here if it has none yet. */
static int give_names(struct machine *m, struct err *err)
{
    uint64_t name[2];
    if (getrandom(name, sizeof name, 0) != sizeof name)
        return err_set(err, errno, "getrandom for the names of a template");
    m->disk.row = (struct disk_row){.name = name[0]};
    if (!m->instant.source)
        m->instant = (struct machine_instant){.source = name[1]};
    return 0;
}

static int open_state(const void *state, size_t len, int memory_fd, const struct image *image, struct machine **m,
                      struct err *err)
{
    struct machine_config config;
    int rc = machine_state_config(state, len, &config, err);
    if (rc < 0)
        return rc;
    if (config.mem_bytes != image->size)
        return err_say(err, EINVAL, "the state is of a machine with %llu MiB, the image has %llu MiB",
                       (unsigned long long)(config.mem_bytes >> 20), (unsigned long long)(image->size >> 20));
    void *base;
    rc = image_map(memory_fd, image, &base, err);
    if (rc < 0)
        return rc;
    struct machine *made = machine_new(&config, base, err);
    if (!made) {
        munmap(base, image->size);
        return -err->code;
    }
    rc = machine_state_read(made, state, len, err);
    if (rc == 0)
        rc = give_names(made, err);
    if (rc < 0) {
        machine_free(made);
        munmap(base, image->size);
        return rc;
    }
    *m = made;
    return 0;
}

int template_open(int memory_fd, const struct image *image, int state_fd, uint64_t state_len, struct machine **m,
                  struct err *err)
{
    int rc = image_check(memory_fd, image, err);
    if (rc < 0)
        return rc;
    if (state_len > STATE_FILE_MAX)
        return err_say(err, EINVAL, "a state of %llu bytes is none of ours", (unsigned long long)state_len);
    /* Read, not mapped: what is verified is what is used. */
    own_free void *state = malloc(state_len ? state_len : 1);
    if (!state)
        return err_set(err, ENOMEM, "read the machine's state");
    rc = io_pread_all(state_fd, state, state_len, 0, err);
    if (rc < 0)
        return err_wrap(err, "read the machine's state");
    return open_state(state, state_len, memory_fd, image, m, err);
}
