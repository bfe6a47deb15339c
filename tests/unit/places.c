/* places.c: claims about what --state and FORKD_STATE mean: a file, or a directory with state.db in it. */
#include "proto/places.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char top[] = "/tmp/places-test-XXXXXX";

static int make_top(void **state)
{
    return mkdtemp(top) && chdir(top) == 0 && mkdir("there", 0700) == 0 ? 0 : -1;
}

static int remove_top(void **state)
{
    return rmdir("there") == 0 && rmdir(top) == 0 ? 0 : -1;
}

static void expect_state(const char *named, const char *file)
{
    char path[PATH_MAX];
    assert_int_equal(place_state(named, path, sizeof path, NULL), 0);
    assert_string_equal(path, file);
}

static void a_directory_means_a_file_in_it(void **state)
{
    expect_state("there", "there/state.db");
    expect_state("there/", "there/state.db");
    expect_state("there//", "there/state.db");
    expect_state("./there", "./there/state.db");
    expect_state("/", "/state.db");
    expect_state(".", "./state.db");
}

static void what_ends_in_a_slash_is_a_directory_that_is_to_be_made(void **state)
{
    expect_state("none/", "none/state.db");
    expect_state("none/at/all///", "none/at/all/state.db");
}

static void all_else_is_the_file(void **state)
{
    expect_state("none", "none");
    expect_state("there/my.db", "there/my.db");
    expect_state("/none/my.db", "/none/my.db");
}

static void a_path_that_does_not_fit_is_refused(void **state)
{
    char path[sizeof "there/state.db" - 1];
    struct err err = {0};
    assert_int_equal(place_state("there", path, sizeof path, &err), -ENAMETOOLONG);
    assert_string_equal(err.text, "the path of the state is longer than 13 bytes");
    assert_int_equal(place_state("none/my.db", path, sizeof path, &err), 0);
}

static void expect_own(const char *chosen, const char *state, const char *home, const char *file)
{
    char path[PATH_MAX];
    setenv("FORKD_STATE", chosen, 1);
    setenv("XDG_STATE_HOME", state, 1);
    setenv("HOME", home, 1);
    assert_int_equal(place_own_state(path, sizeof path, NULL), 0);
    assert_string_equal(path, file);
}

static void of_ones_own_it_is_where_forkd_state_says(void **state)
{
    expect_own("there", "/state", "/home/me", "there/state.db");
    expect_own("my.db", "/state", "/home/me", "my.db");
    assert_string_equal(place_state_chosen(), "my.db");
}

static void else_where_root_or_the_user_has_it(void **state)
{
    char path[PATH_MAX];
    bool is_root = geteuid() == 0;
    static const char of_root[] = "/var/lib/forkd/private/state.db";
    expect_own("", "/state", "/home/me", is_root ? of_root : "/state/forkd/state.db");
    expect_own("", "", "/home/me", is_root ? of_root : "/home/me/.local/state/forkd/state.db");
    assert_null(place_state_chosen());
    unsetenv("HOME");
    assert_int_equal(place_own_state(path, sizeof path, NULL), is_root ? 0 : -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_means_a_file_in_it),
        cmocka_unit_test(what_ends_in_a_slash_is_a_directory_that_is_to_be_made),
        cmocka_unit_test(all_else_is_the_file),
        cmocka_unit_test(a_path_that_does_not_fit_is_refused),
        cmocka_unit_test(of_ones_own_it_is_where_forkd_state_says),
        cmocka_unit_test(else_where_root_or_the_user_has_it),
    };
    return cmocka_run_group_tests(tests, make_top, remove_top);
}
