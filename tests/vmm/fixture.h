/* fixture.h: forkd-vmm processes as a controller has them, for tests with bare-metal guests. Everything that fails
 * fails the test it is called from. */
#ifndef TESTS_VMM_FIXTURE_H
#define TESTS_VMM_FIXTURE_H

#include "kvm/client.h"
#include "proto/ctl.h"

#include <stdbool.h>
#include <sys/types.h>

enum { DEADLINE_SECONDS = 30, FIXTURE_UID = 65533 /* of every tree, and its group's */ };

/* The paths of forkd-vmm and of the agent guest. */
extern const char *fixture_vmm, *fixture_guest;

/* Sets them from the arguments of main(). However this process ends from here on, short of SIGKILL, every sandbox and
 * branch that was made ends with it; templates and parents that were started here die with this process in any case.
 * Not 0: the status to end with, where the arguments are not those two or there is no KVM, and that is said. */
int fixture_begin(int argc, char **argv);

/* A listening socket with a name in the abstract namespace, and a connection to it. */
int fixture_listen(int type, const char *name);
int fixture_connect(int listen_fd, int type);
/* An empty file in memory. */
int fixture_file(const char *name);

/* What comes next is of that type; or the end of the socket. */
void fixture_expect(int sock, struct ctl_message *m, enum ctl_type type);
void fixture_expect_end(int sock);

struct vmm {
    pid_t pid;
    int ctl;
};

struct vmm vmm_start(void);
/* 1000 and the signal's number if a signal ended it. */
int vmm_exit_status(pid_t pid);

struct parent {
    struct vmm vmm;
    int vsock, console;
};

struct parent parent_boot(unsigned mem_mib, unsigned vcpus, int kernel_fd);
void parent_close(struct parent *p);

/* What a parent left for its template. */
struct image_fds {
    int memory, state, base, layer; /* base and layer: -1 without a disk */
    struct ctl_image image;
};

/* Boots the guest, with a disk of `disk_mib` if that is not 0, and lets its template consume it. */
struct image_fds image_make(unsigned mem_mib, unsigned vcpus, unsigned disk_mib);
/* The same with all CPUs but the first busy for good (kvm/guests/storm.h), and no disk. */
struct image_fds image_make_stormy(unsigned mem_mib, unsigned vcpus);
void image_close(struct image_fds *image);

struct template
{
    struct vmm vmm;
    int listen_fd;
    int pidfd; /* of a branch, else -1 */
    int own_memory;
    bool disk;
};

struct template template_load(const struct image_fds *image);
/* Ends it and waits for that. */
void template_quit(struct template *t);
/* A second load of the image that the template was loaded from, with the state that would be on the disk: it names the
 * instant. The caller's to quit. */
struct template template_load_again(const struct image_fds *image, const struct template *t);
/* Ends as one whose host is out of memory. */
void template_kill(struct template *t);

struct sandbox {
    int ctl, vsock, listen_fd, console, pidfd;
    pid_t pid;
    int own_memory;
    bool disk;
    struct client_address at;
};

/* Up to BORN. */
struct sandbox sandbox_spawn(struct template *t, const char *name);
/* The same with this private layer, which stays the caller's. */
struct sandbox sandbox_spawn_on(struct template *t, const char *name, int layer);
void sandbox_go(struct sandbox *s);
/* All of it, up to the guest's first answer. */
struct sandbox sandbox_run(struct template *t, const char *name);
/* Waits for its end. */
bool sandbox_ended(const struct sandbox *s);
void sandbox_quit(struct sandbox *s);

void sandbox_ping(const struct sandbox *s);
/* The output of a line of the guest's shell that must succeed, in a static buffer. */
const char *sandbox_run_line(const struct sandbox *s, const char *line);

/* A branch of `s` as a fork of `last`, its last template. *report is what BRANCHED said; only begun, it is yet to come.
 */
struct template sandbox_branch_begin(struct sandbox *s, struct template *last, const char *name, bool compare);
/* Of nothing: the caller is the source, at the other end of *source. */
struct template sandbox_branch_served(struct template *last, const char *name, int *source);
struct template sandbox_branch(struct sandbox *s, struct template *last, const char *name, bool compare,
                               struct ctl_branched *report);

#endif
