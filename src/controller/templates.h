/* templates.h: the process behind a snapshot, from its intent to its burial, and who keeps it.
 *
 * Theory of operation. Whatever makes a template (a boot, a branch, a load from the disk) writes the intent down first,
 * puts the process into its leaf, and has it watched once it is ready. What is forked from it, or is about to be,
 * counts as one of the snapshot's children: a snapshot that was deleted is HIDDEN, and its template ends with the last
 * of them. A template that dies otherwise leaves a snapshot that is STORED or FAILED, which is told; its children live
 * on. */
#ifndef FORKD_CONTROLLER_TEMPLATES_H
#define FORKD_CONTROLLER_TEMPLATES_H

#include "controller/controller.h"

/* Writes down that it is about to be made. */
int snapshot_intend(struct controller *c, const struct snapshot *snapshot, struct err *err);
/* The name of its template's cgroup in the tree's. */
const char *snapshot_leaf(const struct snapshot *snapshot);
/* Of one that is in the fleet. A template that cannot be watched is ended. */
void snapshot_watch(struct controller *c, struct snapshot *snapshot);

/* `count` children, or others who needed it, are no more, or were never born. */
void snapshot_children_left(struct controller *c, struct snapshot *snapshot, unsigned count);
/* The same, and a reference is given back. */
void snapshot_release(struct controller *c, struct snapshot *snapshot, unsigned count);

/* The template is dead. Not while it is watched. */
void snapshot_bury(struct controller *c, struct snapshot *snapshot);
/* Of a template that hung up, with the process `dead`: waits, for 2 seconds at most, until it is buried, and may be
 * loaded again. The socket of a process that is killed closes before anybody can hear that it ended. */
void snapshot_await_burial(struct controller *c, struct snapshot *snapshot, pid_t dead);
/* -REFUSED_BUSY: its template was dead, and so was the next one when it was asked. */
int snapshot_refuse_dying(const char *tag, struct err *err);
/* Takes what is left of a snapshot whose template is dead and that has no children out of everything. */
void snapshot_finish(struct controller *c, struct snapshot *snapshot);

#endif
