/* table.h: aligned columns for people. */
#ifndef FORKD_CLI_TABLE_H
#define FORKD_CLI_TABLE_H

#include <stdbool.h>

enum { TABLE_COLUMNS = 8 };

struct table;

/* Headings, NULL-terminated, at most TABLE_COLUMNS; one that begins with '>' is of a column set right. */
struct table *table_new(const char *const *headings);
/* One text for each column, copied; control characters become '?'. */
void table_row(struct table *table, const char *const *cells);
/* Prints to stdout and frees. */
void table_print(struct table *table);

#endif
