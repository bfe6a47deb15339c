/* roles.h: what a forkd-store process does, by its first message. */
#ifndef FORKD_STORE_ROLES_H
#define FORKD_STORE_ROLES_H

#include "proto/ctl.h"

/* Each takes the message, answers it, FAILED included, and returns the process's exit status.
 *
 * Both have two stages. In the first, files are opened by the names that snapshot_files.h fixes, in the directories
 * that came with the message; nothing that was read from anywhere is looked at. Then the filter of system calls is
 * installed (store_confine()), in which there is no call that opens a file or changes who one is. Everything that comes
 * from files, a template or the message is read in the second. */
int store_save(int sock, struct ctl_message *m);
int store_restore(int sock, struct ctl_message *m);

int store_confine(struct err *err);

/* How far it is, in bytes. A controller that does not listen is not waited for; one that went away is an error. */
int store_tell(int sock, uint32_t request, uint64_t done, uint64_t total, uint64_t written, struct err *err);

#endif
