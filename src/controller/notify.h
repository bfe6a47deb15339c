/* notify.h: the word that a service manager waits for (sd_notify(3)). */
#ifndef FORKD_CONTROLLER_NOTIFY_H
#define FORKD_CONTROLLER_NOTIFY_H

/* Says READY=1 to the socket that NOTIFY_SOCKET names, and takes the variable out of the environment, so that
 * nobody started from here says anything. Where none is named, nothing. What goes wrong is logged. Once, in the main
 * thread. */
void notify_ready(void);

#endif
