/* auth.h: who may ask for what.
 *
 * Theory of operation. A token file names the clients of this controller, one a line; empty lines and lines that
 * begin with '#' are skipped:
 *
 *     TOKEN [RIGHT]              the token itself: 16 bytes and more without a space; its name is line-N
 *     NAME:SHA256HEX [RIGHT]     the SHA-256 of a token; NAME is 1 to 64 of A-Z a-z 0-9 . _ -
 *
 * RIGHT is read, run or admin, each of which includes the ones before it; a line without one is an admin's, so that
 * a file with nothing but one token is what it always was. What is kept of either line is its digest: a token that
 * comes with a request is hashed, and compared with every digest in a time that depends on none of them.
 *
 * Invariants.
 * 1. A file is taken wholly or not at all: one bad line, and the tokens of before stay in force.
 * 2. No two lines have one name or one token: a name in the audit log means one line. */
#ifndef FORKD_CONTROLLER_AUTH_H
#define FORKD_CONTROLLER_AUTH_H

#include "base/err.h"

enum { AUTH_NAME_MAX = 64, AUTH_TOKEN_MIN = 16, AUTH_TOKEN_MAX = 4096, AUTH_TOKENS_MAX = 256 };

/* Ordered: each includes those before it. RIGHT_NONE is what nobody needs a token for. */
enum right { RIGHT_NONE, RIGHT_READ, RIGHT_RUN, RIGHT_ADMIN };

struct auth;

struct auth_who {
    char name[AUTH_NAME_MAX + 1]; /* "" where no token is asked for, or none was accepted */
    enum right right;
};

/* Reads the token file. A NULL path: no token is asked for; *auth becomes NULL, which every function here takes. */
int auth_open(const char *path, struct auth **auth, struct err *err);
void auth_close(struct auth *auth);
/* Reads the file anew; if it is bad, the tokens of before stay. */
int auth_reload(struct auth *auth, struct err *err);

/* Who sends this Authorization field (NULL: none came). 0, or -EACCES with the sentence for a 401. Any thread. */
int auth_check(struct auth *auth, const char *field, struct auth_who *who, struct err *err);

/* "read", "run", "admin"; "none". */
const char *right_name(enum right right);

#endif
