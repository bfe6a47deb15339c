/* generations.c: forks of forks. */
#include "kvm/check.h"

#include "kvm/child.h"

#include "base/own.h"

enum { GENERATIONS = 4 };

/* Each generation's device resets the connections of the life before, and each reset must arrive: a lost one
 * leaves the guest deaf. The first has none to reset.
 * The one that was forked goes on, too. */
static void test_fork_of_a_fork_of_a_fork_answers(void **state)
{
    struct rig rig;
    struct err err = {0};
    struct child line[GENERATIONS];
    must(rig_ready(&rig, &(struct rig_config){.guest = "agent"}, &err));
    must(child_prepare(line, GENERATIONS, &err));
    must(child_start(&line[0], &rig, &err));
    for (unsigned i = 0; i < GENERATIONS; i++) {
        char resets[16];
        snprintf(resets, sizeof resets, "%u\n", i);
        must(client_ping(&line[i].at, &err));
        must(child_says(&line[i], "resets", resets, &err));
        if (i + 1 == GENERATIONS)
            break;
        own_fd int open = client_connect(&line[i].at, AGENT_PORT, &err);
        must(open);
        must(child_branch(&line[i], &err));
        must(client_ping(&line[i].at, &err));
    }
    for (unsigned i = GENERATIONS; i-- > 0;)
        must(child_end(&line[i], &err));
    rig_close(&rig);
}

int main(void)
{
    check_kvm();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fork_of_a_fork_of_a_fork_answers),
    };
    return cmocka_run_group_tests_name("forks of forks", tests, NULL, NULL);
}
