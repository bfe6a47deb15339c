/* defuse.h: words of others on this terminal.
 *
 * A guest chooses what its agent says of itself, what a command complains of, and a warm interpreter's answer. Where
 * such words stand within a sentence or a table of ours they must not move the cursor, set colours or ring. What a
 * command prints is the user's own wish, and passes as it is. */
#ifndef FORKD_CLI_DEFUSE_H
#define FORKD_CLI_DEFUSE_H

/* Makes a '?' of each control character, in place: C0 without the line end and the tab, DEL, and C1 as UTF-8 has them.
 * Returns `text`. */
char *text_defuse(char *text);

#endif
