/* tidy.h: included by scripts/run-tidy before each file but err.c. The analyser does not see into err.c, and would
 * follow paths on which a failure returned 0. */
#include "base/err.h"

#define err_set(...)  ((void)err_set(__VA_ARGS__), -1)
#define err_say(...)  ((void)err_say(__VA_ARGS__), -1)
#define err_wrap(...) ((void)err_wrap(__VA_ARGS__), -1)
