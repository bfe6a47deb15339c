/* table.c: see table.h. */
#include "cli/table.h"

#include "cli/defuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct table {
    unsigned columns, rows;
    bool right[TABLE_COLUMNS];
    char **cells; /* columns * rows */
};

struct table *table_new(const char *const *headings)
{
    struct table *t = calloc(1, sizeof *t);
    const char *cells[TABLE_COLUMNS] = {0};
    if (!t)
        abort();
    for (; headings[t->columns] && t->columns < TABLE_COLUMNS; t->columns++) {
        const char *heading = headings[t->columns];
        t->right[t->columns] = *heading == '>';
        cells[t->columns] = heading + (*heading == '>');
    }
    table_row(t, cells);
    return t;
}

/* A row is one line. */
static char *printable(const char *text)
{
    char *copy = strdup(text);
    for (char *c = copy; c && *c; c++)
        if (*c == '\n' || *c == '\t')
            *c = '?';
    return copy ? text_defuse(copy) : NULL;
}

void table_row(struct table *t, const char *const *cells)
{
    char **grown = reallocarray(t->cells, (size_t)(t->rows + 1) * t->columns, sizeof *grown);
    if (!grown)
        abort();
    t->cells = grown;
    for (unsigned i = 0; i < t->columns; i++) {
        char *cell = printable(cells[i] ? cells[i] : "-");
        if (!cell)
            abort();
        t->cells[t->rows * t->columns + i] = cell;
    }
    t->rows++;
}

/* Characters, not bytes: what continues a UTF-8 sequence takes no place. */
static unsigned width_of(const char *text)
{
    unsigned width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

void table_print(struct table *t)
{
    unsigned width[TABLE_COLUMNS] = {0};
    for (unsigned i = 0; i < t->rows * t->columns; i++) {
        unsigned w = width_of(t->cells[i]);
        if (w > width[i % t->columns])
            width[i % t->columns] = w;
    }
    for (unsigned i = 0; i < t->rows * t->columns; i++) {
        unsigned column = i % t->columns, pad = width[column] - width_of(t->cells[i]);
        bool last = column + 1 == t->columns;
        printf("%*s%s%*s%s", t->right[column] ? (int)pad : 0, "", t->cells[i], t->right[column] || last ? 0 : (int)pad,
               "", last ? "\n" : "  ");
        free(t->cells[i]);
    }
    free(t->cells);
    free(t);
}
