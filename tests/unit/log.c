/* log.c: claims about src/base/log: each form as its reader needs it. stderr is the test's own pipe or terminal. */
#include "base/log.h"
#include "base/own.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

/* What one line is, with stderr being `to`, read back from `from`. */
static void line_of(int from, int to, const char *journal, const char *text, char *line, size_t cap)
{
    own_fd int kept = dup(STDERR_FILENO);
    assert_true(kept >= 0 && dup2(to, STDERR_FILENO) == STDERR_FILENO);
    if (journal)
        setenv("JOURNAL_STREAM", journal, 1);
    else
        unsetenv("JOURNAL_STREAM");
    log_init(LOG_INFO, "tester");
    log_debug("is not printed");
    log_warn("%s", text);
    dup2(kept, STDERR_FILENO);
    ssize_t n = read(from, line, cap - 1);
    assert_true(n > 0);
    line[n] = 0;
}

static void journal_of(int fd, char name[64])
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    snprintf(name, 64, "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
}

static void a_pipe_gets_level_component_and_text(void **state)
{
    int ends[2];
    char line[4096];
    assert_int_equal(pipe(ends), 0);
    own_fd int from = ends[0], to = ends[1];
    line_of(from, to, NULL, "all \"is\" well", line, sizeof line);
    assert_string_equal(line, "warning tester: all \"is\" well\n");
    line_of(from, to, "1:1", "another's journal", line, sizeof line);
    assert_string_equal(line, "warning tester: another's journal\n");
}

static void a_journal_gets_a_priority_and_one_json_object(void **state)
{
    int ends[2];
    char line[4096], name[64];
    assert_int_equal(pipe(ends), 0);
    own_fd int from = ends[0], to = ends[1];
    journal_of(to, name);
    line_of(from, to, name, "a \"b\" \\ \n \x01 \xc3\xa9 \xff", line, sizeof line);
    assert_memory_equal(line, "<4>{\"ts\":\"20", 12);
    assert_non_null(strstr(line, "Z\",\"level\":\"warning\",\"component\":\"tester\",\"message\":"
                                 "\"a \\\"b\\\" \\\\ \\u000a \\u0001 \xc3\xa9 ?\"}\n"));
}

static void a_line_that_is_too_long_is_cut_and_still_json(void **state)
{
    int ends[2];
    char line[8192], name[64], longer[4000];
    assert_int_equal(pipe(ends), 0);
    own_fd int from = ends[0], to = ends[1];
    journal_of(to, name);
    memset(longer, '\n', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    line_of(from, to, name, longer, line, sizeof line);
    assert_true(strlen(line) < 2049);
    assert_string_equal(line + strlen(line) - 9, "\\u000a\"}\n");
    line_of(from, to, NULL, longer, line, sizeof line);
    assert_true(strlen(line) < 2049);
}

static void a_terminal_gets_the_time_and_a_coloured_level(void **state)
{
    own_fd int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
        skip();
    own_fd int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    char line[4096];
    assert_true(slave >= 0);
    unsetenv("NO_COLOR");
    line_of(master, slave, NULL, "look", line, sizeof line);
    assert_true(line[2] == ':' && line[5] == ':');
    assert_string_equal(line + 8, " \033[33mwarning:\033[0m look\r\n");
    setenv("NO_COLOR", "1", 1);
    line_of(master, slave, NULL, "look", line, sizeof line);
    assert_string_equal(line + 8, " warning: look\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe_gets_level_component_and_text),
        cmocka_unit_test(a_journal_gets_a_priority_and_one_json_object),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_and_still_json),
        cmocka_unit_test(a_terminal_gets_the_time_and_a_coloured_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
