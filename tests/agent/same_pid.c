/* same_pid.c: a getpid that never changes, to preload: the fork of a machine changes no pid, so that code which looks
 * at its pid to notice a fork notices nothing. */
#include <sys/types.h>

pid_t getpid(void);
pid_t getpid(void)
{
    return 4242;
}
