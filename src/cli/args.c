/* args.c: see args.h. */
#include "cli/args.h"

#include "base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_MAX = 1 << 30 };

/* -n or --name. */
static const char *dashes(const struct arg *flag)
{
    return flag->name[1] ? "--" : "-";
}

/* A file, a tag, an id or an image without a name is none: most likely a variable of the caller's is not set. */
static bool names_something(const struct arg *flag)
{
    static const char *const kinds[] = {"FILE", "DIR", "IMAGE", "TAG", "ID"};
    for (size_t i = 0; flag->value && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(flag->value, kinds[i]))
            return true;
    return false;
}

static int number_parse(const struct arg *flag, const char *text, struct err *err)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end)
        return err_say(err, EINVAL, "%s%s needs a whole number, not '%s'", dashes(flag), flag->name, text);
    if (errno || n > NUMBER_MAX)
        return err_say(err, EINVAL, "%s%s is at most %d, not %s", dashes(flag), flag->name, NUMBER_MAX, text);
    *(unsigned *)flag->into = (unsigned)n;
    return 0;
}

static int value_take(const struct arg *flag, const char *text, struct err *err)
{
    struct arg_texts *texts = flag->into;
    switch (flag->kind) {
    case ARG_FLAG:
        *(bool *)flag->into = true;
        return 0;
    case ARG_TEXT:
        if (!*text && names_something(flag))
            return err_say(err, EINVAL, "--%s needs a value", flag->name);
        *(const char **)flag->into = text;
        return 0;
    case ARG_NUMBER:
        return number_parse(flag, text, err);
    case ARG_TEXTS:
        if (texts->count == ARG_TEXTS_MAX)
            return err_say(err, EINVAL, "too many --%s", flag->name);
        texts->at[texts->count++] = text;
        return 0;
    }
    return 0;
}

static bool name_matches(const struct arg *flag, const char *word, const char **value)
{
    size_t len = strlen(flag->name);
    if (word[0] == '-' && word[1] == '-' && !strncmp(word + 2, flag->name, len)) {
        *value = word[2 + len] == '=' ? word + 3 + len : NULL;
        return !word[2 + len] || word[2 + len] == '=';
    }
    *value = word[0] == '-' && word[1] && word[2] ? word + 2 : NULL;
    return flag->letter && word[0] == '-' && word[1] == flag->letter;
}

static const struct arg *flag_find(const struct arg *table, const char *word, const char **value)
{
    for (const struct arg *flag = table; flag && flag->name; flag++)
        if (name_matches(flag, word, value))
            return flag;
    return NULL;
}

/* Takes the flag at argv[i]; returns how many words it was. */
static int flag_take(const struct args *args, const struct arg *common, char **argv, int i, struct err *err)
{
    const char *value;
    const struct arg *flag = flag_find(args->verb->flags, argv[i], &value);
    if (!flag)
        flag = flag_find(common, argv[i], &value);
    if (!flag)
        return err_say(err, EINVAL, "forkd %s has no option %s", argv[0], argv[i]);
    if (flag->kind == ARG_FLAG && value)
        return err_say(err, EINVAL, "--%s takes no value", flag->name);
    int words = 1;
    if (flag->kind != ARG_FLAG && !value) {
        value = argv[i + 1];
        words = 2;
    }
    if (flag->kind != ARG_FLAG && !value)
        return err_say(err, EINVAL, "%s%s needs a value", dashes(flag), flag->name);
    int rc = value_take(flag, value, err);
    return rc < 0 ? rc : words;
}

const struct arg args_common[] = {
    {"help", 'h', ARG_FLAG, NULL, NULL, "says what the verb does and which options it has"},
    {"json", 0, ARG_FLAG, NULL, NULL, "print the result as JSON, for programs"},
    {"daemon-url", 0, ARG_TEXT, NULL, "URL",
     "the controller: http://HOST:PORT, https://HOST:PORT or unix:/path (FORKD_URL)"},
    {"daemon-token", 0, ARG_TEXT, NULL, "TOKEN", "what it wants to hear (FORKD_TOKEN)"},
    {0},
};

static bool is_foreign(const struct verb *verb, const char *word)
{
    for (const char *const *name = verb->foreign; name && word && *name; name++)
        if (!strcmp(*name, word))
            return true;
    return false;
}

/* Words go into JSON, where what is no UTF-8 has no place: left out, it would make another command of this one. */
static int words_check(int argc, char *const *argv, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        const uint8_t *at = (const uint8_t *)argv[i];
        size_t left = strlen(argv[i]);
        for (size_t n; left; at += n, left -= n)
            if (!(n = utf8_length(at, left)))
                return err_say(err, EINVAL, "word %d after %s is no UTF-8 text", i, argv[0]);
    }
    return 0;
}

int args_parse(struct args *args, int argc, char **argv, struct err *err)
{
    void *const into[] = {&args->help, &args->json, &args->url, &args->token};
    struct arg common[sizeof args_common / sizeof *args_common];
    bool flags_end = is_foreign(args->verb, argv[1]);
    int rc = flags_end ? 0 : words_check(argc, argv, err);
    if (rc < 0)
        return rc;
    memcpy(common, args_common, sizeof common);
    for (size_t i = 0; i < sizeof into / sizeof *into; i++)
        common[i].into = into[i];
    args->rest = argv + 1;
    args->count = 0;
    for (int i = 1; i < argc;) {
        bool is_flag = argv[i][0] == '-' && argv[i][1] && !flags_end;
        if (is_flag && !strcmp(argv[i], "--")) {
            flags_end = true;
            i++;
            continue;
        }
        if (!is_flag) {
            args->rest[args->count++] = argv[i++];
            flags_end |= args->verb->flags_end_after && (unsigned)args->count > args->verb->flags_end_after;
            continue;
        }
        int words = flag_take(args, common, argv, i, err);
        if (words < 0)
            return words;
        i += words;
    }
    args->rest[args->count] = NULL;
    return 0;
}
