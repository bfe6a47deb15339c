/* cgroup.c: claims about src/sys/cgroup. Those about limits need a host with cgroup v2's memory controller. */
#include "sys/cgroup.h"
#include "base/own.h"
#include "skip.h"
#include "sys/clone.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

struct tree {
    int base, tree, leaf;
    struct err err; /* why there is none, if base is negative */
};

static int make_tree(void **state)
{
    static struct tree t;
    t = (struct tree){.tree = -1, .leaf = -1};
    *state = &t;
    t.base = cgroup_base_open(&t.err);
    if (t.base < 0)
        return 0;
    int rc = cgroup_create(t.base, "unit-test", &t.tree, NULL);
    rc = rc ? rc : cgroup_enable_memory(t.tree, NULL);
    return rc ? rc : cgroup_create(t.tree, "leaf", &t.leaf, NULL);
}

static int remove_tree(void **state)
{
    struct tree *t = *state;
    int rc = cgroup_remove(t->tree, "leaf", NULL);
    rc = rc ? rc : cgroup_remove(t->base, "unit-test", NULL);
    fd_close(&t->leaf);
    fd_close(&t->tree);
    fd_close(&t->base);
    return rc;
}

static struct tree *tree_here(void **state)
{
    struct tree *t = *state;
    if (t->base < 0)
        skip_because("%s", t->err.text);
    return t;
}

static void no_cgroup_is_no_failure(void **state)
{
    int made = 5;
    uint64_t bytes = 5;
    bool populated = true;
    assert_int_equal(cgroup_create(-1, "x", &made, NULL), 0);
    assert_int_equal(made, -1);
    assert_int_equal(cgroup_set_memory_max(-1, 1, NULL), 0);
    assert_int_equal(cgroup_memory_current(-1, &bytes, NULL), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(cgroup_is_populated(-1, &populated, NULL), 0);
    assert_false(populated);
    assert_int_equal(cgroup_kill(-1, NULL), 0);
    assert_int_equal(cgroup_remove(-1, "x", NULL), 0);
}

static void a_host_without_memory_cgroups_is_told_why(void **state)
{
    struct err err = {0};
    own_fd int base = cgroup_base_open(&err);
    if (base >= 0)
        skip_because("this host has a cgroup v2 with the memory controller");
    assert_int_equal(base, -ENOTSUP);
    assert_non_null(strstr(err.text, "cgroup"));
}

static pid_t spawn_waiting(int leaf)
{
    struct clone_spec spec = {.cgroup_fd = leaf};
    pid_t pid = clone_fork(&spec, NULL, NULL);
    if (pid == 0)
        for (;;)
            pause();
    assert_true(pid > 0);
    return pid;
}

static void a_child_is_born_in_its_cgroup_and_killed_through_it(void **state)
{
    struct tree *t = tree_here(state);
    bool populated;
    pid_t pid = spawn_waiting(t->leaf);
    assert_int_equal(cgroup_is_populated(t->leaf, &populated, NULL), 0);
    assert_true(populated);
    assert_int_equal(cgroup_remove(t->tree, "leaf", NULL), -EBUSY);
    assert_int_equal(cgroup_kill(t->leaf, NULL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(cgroup_is_populated(t->leaf, &populated, NULL), 0);
    assert_false(populated);
}

static void the_limit_kills_what_exceeds_it_and_counts(void **state)
{
    struct tree *t = tree_here(state);
    enum { LIMIT = 16 << 20 };
    assert_int_equal(cgroup_set_memory_max(t->leaf, LIMIT, NULL), 0);
    struct clone_spec spec = {.cgroup_fd = t->leaf};
    pid_t pid = clone_fork(&spec, NULL, NULL);
    if (pid == 0) {
        char *p = mmap(NULL, 4 * LIMIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(p, 1, 4 * LIMIT);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    uint64_t kills;
    assert_int_equal(cgroup_oom_kills(t->leaf, &kills, NULL), 0);
    assert_true(kills > 0);
}

static void a_delegated_tree_lets_its_uid_fork_into_a_leaf(void **state)
{
    struct tree *t = tree_here(state);
    if (geteuid() != 0)
        skip_because("only root gives a cgroup to another uid");
    enum { OTHER = 65533 };
    own_fd int home = -1;
    assert_int_equal(cgroup_create(t->tree, "template", &home, NULL), 0);
    pid_t template = fork();
    if (template == 0) {
        struct clone_spec spec = {.cgroup_fd = home};
        pid_t inside = clone_fork(&spec, NULL, NULL);
        if (inside == 0) {
            if (cgroup_delegate(t->tree, OTHER, OTHER, NULL) || cgroup_delegate(t->leaf, OTHER, OTHER, NULL))
                _exit(3);
            if (setgid(OTHER) || setuid(OTHER))
                _exit(2);
            spec.cgroup_fd = t->leaf;
            pid_t child = clone_fork(&spec, NULL, NULL);
            if (child == 0)
                _exit(0);
            _exit(child < 0 || waitpid(child, NULL, 0) != child);
        }
        int status = -1;
        waitpid(inside, &status, 0);
        _exit(WEXITSTATUS(status));
    }
    int status;
    assert_int_equal(waitpid(template, &status, 0), template);
    assert_int_equal(cgroup_remove(t->tree, "template", NULL), 0);
    assert_int_equal(status, 0);
}

int main(void)
{
#define test(claim) cmocka_unit_test_setup_teardown(claim, make_tree, remove_tree)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_cgroup_is_no_failure),
        cmocka_unit_test(a_host_without_memory_cgroups_is_told_why),
        test(a_child_is_born_in_its_cgroup_and_killed_through_it),
        test(the_limit_kills_what_exceeds_it_and_counts),
        test(a_delegated_tree_lets_its_uid_fork_into_a_leaf),
    };
    return cmocka_run_group_tests_name("cgroup", tests, NULL, NULL);
}
