/* registry.c: claims about src/controller/registry.
 *
 * SQLite asks for the disk through fdatasync() and fsync(); this program has its own, which count. */
#include "controller/registry.h"

#include "base/own.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned syncs;

int fdatasync(int fd)
{
    syncs++;
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    syncs++;
    return (int)syscall(SYS_fsync, fd);
}

static char dir[] = "/tmp/forkd-registry-XXXXXX", path[sizeof dir + 16];
static struct registry *registry;
static const struct snapshot_row snapshot = {.id = "tm-1", .tag = "py", .state = ROW_MAKING, .tree = "tm-1"};
static const struct sandbox_row sandbox = {.id = "sb-1", .snapshot_id = "tm-1", .state = ROW_MAKING};
static const struct workspace_row workspace = {
    .name = "w", .id = "ws-1", .state = WORKSPACE_SUSPENDED, .source_tag = "py"};

static void opened(const char *file)
{
    struct err err;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    assert_int_equal(registry_open(path, &registry, &err), 0);
    syncs = 0;
}

/* How often the disk was asked for since the last look. */
static unsigned looked(void)
{
    unsigned seen = syncs;
    syncs = 0;
    return seen;
}

static void snapshots_are_on_the_disk_when_a_function_returns(void **state)
{
    opened("snapshots");
    const struct rest_branch branch = {.source = "sb-1"};
    assert_int_equal(registry_snapshot_add(registry, &snapshot, NULL), 0);
    assert_true(looked() > 0);
    assert_int_equal(registry_snapshot_image(registry, snapshot.id, 4096, NULL), 0);
    assert_true(looked() > 0);
    assert_int_equal(registry_snapshot_set(registry, snapshot.id, ROW_READY, "", NULL), 0);
    assert_true(looked() > 0);
    assert_int_equal(registry_snapshot_ready(registry, snapshot.id, 8192, NULL), 0);
    assert_int_equal(looked(), 1); /* size and state in one */
    assert_int_equal(registry_branch_ready(registry, snapshot.id, &branch, NULL), 0);
    assert_true(looked() > 0);
    assert_int_equal(registry_snapshot_remove(registry, snapshot.id, NULL), 0);
    assert_true(looked() > 0);
    registry_close(registry);
}

static void so_are_workspaces(void **state)
{
    opened("workspaces");
    assert_int_equal(registry_workspace_put(registry, &workspace, NULL), 0);
    assert_true(looked() > 0);
    assert_int_equal(registry_workspace_remove(registry, workspace.name, NULL), 0);
    assert_true(looked() > 0);
    registry_close(registry);
}

static void no_sandbox_waits_for_the_disk(void **state)
{
    opened("sandboxes");
    for (int i = 0; i < 2; i++) {
        /* After a snapshot, which has to wait; so has whoever begins the journal. */
        struct snapshot_row row = snapshot;
        row.id[3] = row.tag[1] = (char)('1' + i);
        assert_int_equal(registry_snapshot_add(registry, &row, NULL), 0);
        assert_true(looked() > 0);
        assert_int_equal(registry_sandboxes_add(registry, &sandbox, 1, NULL), 0);
        assert_int_equal(registry_sandboxes_ready(registry, &sandbox, 1, NULL), 0);
        assert_int_equal(registry_sandbox_remove(registry, sandbox.id, NULL), 0);
        assert_int_equal(looked(), 0);
    }
    registry_close(registry);
}

static void one_that_cannot_be_written_leaves_all_as_it_was(void **state)
{
    struct err err;
    opened("refused");
    assert_int_equal(registry_snapshot_add(registry, &snapshot, NULL), 0);
    looked();
    assert_true(registry_snapshot_add(registry, &snapshot, &err) < 0); /* its id is taken */
    assert_non_null(strstr(err.text, "UNIQUE"));
    looked();
    assert_int_equal(registry_sandboxes_add(registry, &sandbox, 1, NULL), 0);
    assert_int_equal(looked(), 0);
    registry_close(registry);
}

static int count_row(void *arg, const struct snapshot_row *row)
{
    unsigned *count = arg;
    assert_string_equal(row->tag, snapshot.tag);
    assert_int_equal(row->state, ROW_READY);
    ++*count;
    return 0;
}

static void what_was_committed_outlives_the_process(void **state)
{
    unsigned count = 0;
    pid_t pid = fork();
    if (pid == 0) {
        opened("open");
        _exit(registry_snapshot_add(registry, &snapshot, NULL) < 0 ||
              registry_snapshot_set(registry, snapshot.id, ROW_READY, "", NULL) < 0);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    opened("open");
    assert_int_equal(registry_snapshots_each(registry, count_row, &count, NULL), 0);
    assert_int_equal(count, 1);
    registry_close(registry);
}

static void an_open_file_is_one_process_s_alone(void **state)
{
    struct err err;
    struct registry *second = NULL;
    opened("alone");
    assert_true(registry_open(path, &second, &err) < 0);
    assert_null(second);
    assert_non_null(strstr(err.text, "locked"));
    assert_int_equal(registry_snapshot_add(registry, &snapshot, NULL), 0);
    registry_close(registry);
}

static atomic_bool enough;

static int ignore_workspace(void *arg, const struct workspace_row *row)
{
    return 0;
}

static int count_sandbox(void *arg, const struct sandbox_row *row)
{
    unsigned *count = arg;
    assert_int_equal(row->state, ROW_READY);
    ++*count;
    return 0;
}

static void *walk_on(void *arg)
{
    while (!atomic_load(&enough))
        assert_int_equal(registry_workspaces_each(registry, ignore_workspace, NULL, NULL), 0);
    return NULL;
}

/* A walk between the pages of a transaction took its place in the journal back, and the next one wrote over it. */
static void walks_disturb_no_writer_of_another_thread(void **state)
{
    struct err err;
    unsigned count = 0;
    pthread_t walker;
    opened("walked");
    atomic_store(&enough, false);
    assert_int_equal(pthread_create(&walker, NULL, walk_on, NULL), 0);
    for (int i = 0; i < 5000; i++) {
        if (i)
            assert_int_equal(registry_sandbox_remove(registry, sandbox.id, &err), 0);
        assert_int_equal(registry_sandboxes_add(registry, &sandbox, 1, &err), 0);
        assert_int_equal(registry_sandboxes_ready(registry, &sandbox, 1, &err), 0);
    }
    atomic_store(&enough, true);
    assert_int_equal(pthread_join(walker, NULL), 0);
    registry_close(registry);
    opened("walked");
    assert_int_equal(registry_sandboxes_each(registry, count_sandbox, &count, NULL), 0);
    assert_int_equal(count, 1);
    registry_close(registry);
}

static void a_stranger_s_file_is_refused_and_left_alone(void **state)
{
    struct err err;
    char text[] = "{\"snapshots\": {}, \"sandboxes\": {}}", found[sizeof text];
    snprintf(path, sizeof path, "%s/state.json", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(registry_open(path, &registry, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is not a state file of forkd-controller"));
    file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(found, sizeof found, file));
    fclose(file);
    assert_string_equal(found, text);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    static const char *const files[] = {"snapshots", "workspaces", "sandboxes", "refused",
                                        "open",      "alone",      "walked",    "state.json"};
    static const char *const endings[] = {"", "-wal"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (size_t e = 0; e < sizeof endings / sizeof *endings; e++) {
            char name[sizeof path + 8];
            snprintf(name, sizeof name, "%s/%s%s", dir, files[i], endings[e]);
            unlink(name);
        }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(snapshots_are_on_the_disk_when_a_function_returns),
        cmocka_unit_test(so_are_workspaces),
        cmocka_unit_test(no_sandbox_waits_for_the_disk),
        cmocka_unit_test(one_that_cannot_be_written_leaves_all_as_it_was),
        cmocka_unit_test(what_was_committed_outlives_the_process),
        cmocka_unit_test(an_open_file_is_one_process_s_alone),
        cmocka_unit_test(walks_disturb_no_writer_of_another_thread),
        cmocka_unit_test(a_stranger_s_file_is_refused_and_left_alone),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
