/* help.c: see help.h. */
#include "cli/help.h"

#include <jansson.h>
#include <string.h>
#include <sys/ioctl.h>

enum { LINE = 100, LINE_LEAST = 40, OPTION_COLUMN = 24, INDENT = 2 };

static const struct {
    const char *name, *what;
} environment[] = {
    {"FORKD_URL", "the controller, where --daemon-url does not name it"},
    {"FORKD_TOKEN", "its token, where --daemon-token is not given"},
    {"FORKD_CA", "certificates (PEM) to trust of a controller that speaks https, instead of the system's"},
    {"FORKD_TAG", "the snapshot, where --tag is not given"},
    {"FORKD_KERNEL", "the kernel of forkd snapshot, where neither --kernel nor --image is given"},
    {"FORKD_ROOTFS", "its root file system, likewise"},
    {"FORKD_STATE", "the state of the controller of your own: a file, or a directory with state.db in it, which is "
                    "there or ends in a slash"},
    {"FORKD_SNAPSHOT_ROOT", "where it keeps snapshots"},
    {"FORKD_IMAGES", "the directory of guest images"},
    {"FORKD_HOME", "where forkd looks for its own programs first"},
    {"FORKD_VMM", "the program forkd-vmm"},
};

enum { ENVIRONMENT = sizeof environment / sizeof *environment };

/* Where a line is broken: at the terminal's edge, and no later than is good to read. */
static unsigned line_width(FILE *to)
{
    struct winsize size;
    if (ioctl(fileno(to), TIOCGWINSZ, &size) < 0 || !size.ws_col || size.ws_col > LINE)
        return LINE;
    return size.ws_col > LINE_LEAST ? size.ws_col : LINE_LEAST;
}

/* Prints words from `column` on, broken before the line's end and continued at `indent`. Line breaks in the text are
 * spaces, and an empty line stays one. */
static void text_wrap(FILE *to, const char *text, unsigned column, unsigned indent)
{
    const unsigned wide = line_width(to);
    for (bool first = true; *text; first = false) {
        size_t space = strspn(text, " \n"), len = strcspn(text + space, " \n");
        const char *paragraph = strchr(text, '\n');
        bool breaks = paragraph && paragraph < text + space && strchr(paragraph + 1, '\n') &&
                      strchr(paragraph + 1, '\n') < text + space;
        if (!len)
            break;
        if (breaks || (!first && column + 1 + len > wide)) {
            fprintf(to, "%s\n%*s", breaks ? "\n" : "", (int)indent, "");
            column = indent;
        } else if (!first) {
            fputc(' ', to);
            column++;
        }
        fwrite(text + space, 1, len, to);
        column += (unsigned)len;
        text += space + len;
    }
    fputc('\n', to);
}

static void option_print(const struct arg *flag)
{
    char left[96];
    bool is_letter = flag->letter && flag->name[0] == flag->letter && !flag->name[1];
    int n = is_letter      ? snprintf(left, sizeof left, "-%c", flag->letter)
            : flag->letter ? snprintf(left, sizeof left, "-%c, --%s", flag->letter, flag->name)
                           : snprintf(left, sizeof left, "--%s", flag->name);
    if (flag->value)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", flag->value);
    unsigned column = INDENT + (unsigned)n;
    printf("%*s%s", INDENT, "", left);
    if (column + 2 > INDENT + OPTION_COLUMN)
        printf("\n%*s", INDENT + OPTION_COLUMN, "");
    else
        printf("%*s", (int)(INDENT + OPTION_COLUMN - column), "");
    text_wrap(stdout, flag->help, INDENT + OPTION_COLUMN, INDENT + OPTION_COLUMN);
}

static void options_print(const struct arg *flags)
{
    for (const struct arg *flag = flags; flag && flag->name; flag++)
        if (flag->help)
            option_print(flag);
}

void help_verb(const struct verb *verb)
{
    const char *lead = "usage:";
    for (const char *form = verb->usage;; lead = "      ") {
        size_t len = strcspn(form, "\n");
        printf("%s forkd %s%s%.*s\n", lead, verb->name, len ? " " : "", (int)len, form);
        if (!form[len])
            break;
        form += len + 1;
    }
    putchar('\n');
    text_wrap(stdout, verb->about, 0, 0);
    putchar('\n');
    options_print(verb->flags);
    options_print(args_common);
}

void help_program(const struct verb *const *verbs, FILE *to)
{
    int width = 0;
    for (const struct verb *const *verb = verbs; *verb; verb++)
        width = (int)strlen((*verb)->name) > width ? (int)strlen((*verb)->name) : width;
    fputs("forkd: forks microVMs\n\nusage: forkd VERB [options]\n\n", to);
    for (; *verbs; verbs++)
        fprintf(to, "  %-*s  %s\n", width, (*verbs)->name, (*verbs)->what);
    fputs("\nEvery verb knows --help, --json, --daemon-url URL (FORKD_URL) and --daemon-token TOKEN (FORKD_TOKEN).\n"
          "Without a URL a controller of your own is used, and started if need be; `forkd stop` ends it.\n"
          "forkd(1) has all of it on one page, the environment included.\n",
          to);
}

static json_t *options_json(const struct arg *flags)
{
    json_t *list = json_array();
    for (const struct arg *flag = flags; flag && flag->name; flag++) {
        char letter[] = {flag->letter, 0};
        if (flag->help)
            json_array_append_new(list, json_pack("{s:s, s:s*, s:s*, s:b, s:s}", "name", flag->name, "letter",
                                                  flag->letter ? letter : NULL, "value", flag->value, "repeats",
                                                  flag->kind == ARG_TEXTS, "help", flag->help));
    }
    return list;
}

static json_t *forms_json(const char *usage)
{
    json_t *list = json_array();
    for (;;) {
        size_t len = strcspn(usage, "\n");
        json_array_append_new(list, json_stringn(usage, len));
        if (!usage[len])
            return list;
        usage += len + 1;
    }
}

void help_program_json(const struct verb *const *verbs, FILE *to)
{
    json_t *list = json_array(), *variables = json_array();
    for (; *verbs; verbs++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s, s:o}", "name", (*verbs)->name, "what",
                                              (*verbs)->what, "usage", forms_json((*verbs)->usage), "about",
                                              (*verbs)->about, "options", options_json((*verbs)->flags)));
    for (size_t i = 0; i < ENVIRONMENT; i++)
        json_array_append_new(variables,
                              json_pack("{s:s, s:s}", "name", environment[i].name, "what", environment[i].what));
    json_t *program = json_pack("{s:s, s:o, s:o, s:o}", "version", FORKD_VERSION, "verbs", list, "common_options",
                                options_json(args_common), "environment", variables);
    json_dumpf(program, to, JSON_COMPACT);
    fputc('\n', to);
    json_decref(program);
}
