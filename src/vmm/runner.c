/* runner.c: see runner.h. */
#include "vmm/runner.h"

#include "base/log.h"
#include "base/own.h"

#include <string.h>

static const enum ctl_end ctl_ends[] = {
    [MACHINE_POWEROFF] = CTL_END_POWEROFF,
    [MACHINE_RESET] = CTL_END_RESET,
    [MACHINE_CRASH] = CTL_END_CRASH,
    [MACHINE_FAILED] = CTL_END_FAILED,
};

static void on_ended(struct machine *m, enum machine_end why, const char *text)
{
    struct runner *runner = m->hooks.owner;
    struct ctl_message event;
    ctl_message_init(&event, CTL_ENDED, 0);
    event.ended.reason = (uint8_t)ctl_ends[why];
    snprintf(event.ended.text, sizeof event.ended.text, "%s", text);
    control_send(&runner->control, &event);
    runner_stop(runner, why == MACHINE_POWEROFF ? 0 : 1);
}

static void on_doorbell(struct machine *m, uint32_t port)
{
    struct runner *runner = m->hooks.owner;
    struct ctl_message event;
    ctl_message_init(&event, CTL_DOORBELL, 0);
    event.doorbell.port = port;
    control_send(&runner->control, &event);
}

static void on_stalled(struct machine *m, const struct err *why)
{
    struct runner *runner = m->hooks.owner;
    struct ctl_message event;
    log_warn("%s: stopped: %s", runner->control.id, why->text);
    runner->control.stalled = true;
    ctl_message_init(&event, CTL_STALLED, 0);
    event.failed.code = (uint32_t)why->code;
    snprintf(event.failed.text, sizeof event.failed.text, "%s", why->text);
    control_send(&runner->control, &event);
}

struct machine_hooks runner_hooks(struct runner *runner)
{
    return (struct machine_hooks){.owner = runner, .ended = on_ended, .doorbell = on_doorbell, .stalled = on_stalled};
}

static void resume(struct runner *runner, uint32_t request)
{
    struct err err = {0};
    int rc = 0;
    if (runner->control.stalled)
        rc = machine_resume(runner->machine, &err);
    else
        rc = err_say(&err, EINVAL, "%s is not stopped", runner->control.id);
    if (rc < 0) {
        control_send_failed(&runner->control, request, &err);
        return;
    }
    runner->control.stalled = false;
    struct ctl_message reply;
    ctl_message_init(&reply, CTL_RESUMED, request);
    control_send(&runner->control, &reply);
}

void runner_on_request(struct control *control, struct ctl_message *m)
{
    struct runner *runner = control->owner;
    struct err err = {0};
    switch (m->type) {
    case CTL_QUIT:
        runner_stop(runner, 0);
        break;
    case CTL_RESUME:
        resume(runner, m->request);
        break;
    case CTL_HANDED:
        control->handed = true;
        break;
    default:
        if (runner->request) {
            runner->request(runner, m);
            return;
        }
        err_say(&err, EINVAL, "a sandbox cannot do %s", ctl_type_name(m->type));
        control_send_failed(control, m->request, &err);
    }
    ctl_message_close(m);
}

void runner_on_lost(struct control *control)
{
    log_info("%s: the controller went away; waiting for another", control->id);
}

void runner_stop(struct runner *runner, int exit_status)
{
    runner->exit_status = exit_status;
    loop_stop(&runner->loop);
}

int runner_run(struct runner *runner)
{
    struct err err = {0};
    if (loop_run(&runner->loop, &err) < 0) {
        log_error("%s: %s", runner->control.id, err.text);
        runner->exit_status = 1;
    }
    return runner->exit_status;
}
