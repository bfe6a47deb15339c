/* strv.c: see strv.h. */
#include "strv.h"

#include <stdlib.h>
#include <string.h>

/* Vector and characters share one block: pointers first, then the strings. */
struct builder {
    char **vec;
    size_t count;
    char *next;
};

static bool builder_init(struct builder *b, size_t strings, size_t chars)
{
    b->vec = malloc((strings + 1) * sizeof *b->vec + chars);
    b->count = 0;
    b->next = (char *)(b->vec + strings + 1);
    if (b->vec)
        b->vec[0] = NULL;
    return b->vec;
}

static void builder_set(struct builder *b, size_t i, const char *at, size_t len)
{
    memcpy(b->next, at, len);
    b->next[len] = 0;
    b->vec[i] = b->next;
    b->next += len + 1;
    if (i == b->count)
        b->vec[++b->count] = NULL;
}

/* Adds NAME=value or puts it where NAME is already. */
static void builder_env(struct builder *b, const char *at, size_t len)
{
    const char *eq = memchr(at, '=', len);
    if (!eq || eq == at)
        return;
    size_t name = (size_t)(eq - at) + 1, i = 0;
    while (i < b->count && strncmp(b->vec[i], at, name) != 0)
        i++;
    builder_set(b, i, at, len);
}

char **strv_from_list(struct agent_list list)
{
    struct builder b;
    struct agent_text text;
    if (!builder_init(&b, list.count, list.len))
        return NULL;
    while (agent_list_next(&list, &text))
        builder_set(&b, b.count, text.at, text.len);
    return b.vec;
}

char **strv_env(char *const *base, struct agent_list extra, const char *last)
{
    size_t strings = extra.count + 1, chars = extra.len + (last ? strlen(last) + 1 : 0);
    for (char *const *s = base; *s; s++, strings++)
        chars += strlen(*s) + 1;
    struct builder b;
    struct agent_text text;
    if (!builder_init(&b, strings, chars))
        return NULL;
    for (char *const *s = base; *s; s++)
        builder_set(&b, b.count, *s, strlen(*s));
    while (agent_list_next(&extra, &text))
        builder_env(&b, text.at, text.len);
    if (last)
        builder_env(&b, last, strlen(last));
    return b.vec;
}

const char *strv_env_get(char *const *env, const char *name)
{
    size_t len = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
            return *env + len + 1;
    return NULL;
}
