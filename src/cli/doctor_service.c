/* doctor_service.c: what forkd itself brings: a guest image, a controller, a token. */
#include "cli/client.h"
#include "cli/doctor.h"
#include "cli/images.h"
#include "cli/private.h"
#include "cli/sandbox.h"
#include "proto/places.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOKEN_MIN = 16, PATIENCE_SECS = 5 };

static const char token_file_default[] = "/etc/forkd/tokens";

static void check_image(struct finding *f, const struct args *args)
{
    char dir[PATH_MAX];
    const char *kernel = getenv("FORKD_KERNEL");
    json_t *images = images_list();
    place_images(dir, sizeof dir);
    size_t count = json_array_size(images);
    if (kernel && *kernel) {
        looked_at(f, "FORKD_KERNEL, %s,", kernel);
        bool there = access(kernel, R_OK) == 0;
        found(f, there ? PASS : FAIL, there ? "" : "unset FORKD_KERNEL, or let it name a bzImage or ELF vmlinux",
              there ? "can be read" : "cannot be read: %s", strerrordesc_np(errno));
    } else if (count) {
        looked_at(f, "%s", dir);
        found(f, PASS, "", "has %zu guest image%s with kernel: %s%s", count, count > 1 ? "s" : "",
              json_text(json_array_get(images, 0), "name"), count > 1 ? ", ..." : "");
    } else {
        looked_at(f, "%s", dir);
        found(f, WARN, "forkd images build python3", "has no guest image with a kernel yet");
    }
    json_decref(images);
}

static const char mend_service[] = "systemctl start forkd-controller, or let FORKD_URL name the one that runs";
static const char mend_private[] =
    "kill -9 of the process that the file pid in its state's .run directory names; sandboxes live on";

static void told_by(struct client *client, struct finding *f)
{
    json_t *answer = NULL;
    struct err err;
    if (client_call(client, "GET", "/version", NULL, &answer, &err) < 0) {
        bool refused = !strncmp(err.text, "HTTP 401", 8) || !strncmp(err.text, "HTTP 403", 8);
        if (refused)
            found(f, PASS, "", "runs");
        else
            found(f, FAIL, client_is_private(client) ? mend_private : mend_service, "does not answer: %.400s",
                  err.text);
        return;
    }
    const char *version = json_text(answer, "version");
    if (!strcmp(version, FORKD_VERSION))
        found(f, PASS, "", "runs, version %s", version);
    else
        found(f, WARN, "systemctl restart forkd-controller (sandboxes live on)", "runs version %.60s; this is %s",
              version, FORKD_VERSION);
    json_decref(answer);
}

static void check_controller(struct finding *f, const struct args *args)
{
    struct client *client;
    struct err err;
    char path[PATH_MAX];
    const char *url = args->url ? args->url : getenv("FORKD_URL");
    looked_at(f, "the controller%s%.400s", url && *url ? " at " : "", url ? url : "");
    int rc = client_open_running(args, &client, &err);
    if (rc == 0) {
        client_set_patience(client, PATIENCE_SECS);
        told_by(client, f);
        client_close(client);
    } else if (url && *url) {
        found(f, FAIL, mend_service, "cannot be asked: %s", err.text);
    } else if (program_find("forkd-controller", path, sizeof path, &err) == 0) {
        found(f, PASS, "", "does not run; the first command that needs it starts %.400s", path);
    } else {
        found(f, FAIL, "install forkd again, or set FORKD_HOME to where forkd-controller is", "cannot be found: %s",
              err.text);
    }
}

/* What the controller says to a request that needs a right: 0, the status of its refusal, or -1. */
static int asked_with_token(const struct args *args, bool *is_private)
{
    struct client *client;
    struct err err;
    if (client_open_running(args, &client, NULL) < 0)
        return -1;
    client_set_patience(client, PATIENCE_SECS);
    *is_private = client_is_private(client);
    int status = client_call(client, "GET", "/v1/snapshots", NULL, NULL, &err) == 0 ? 0
                 : !strncmp(err.text, "HTTP ", 5)                                   ? atoi(err.text + 5)
                                                                                    : -1;
    client_close(client);
    return status;
}

static bool token_file_is_open(struct finding *f)
{
    const char *file = getenv("FORKD_TOKEN_FILE");
    char path[PATH_MAX];
    struct stat st;
    if (!file || !*file)
        file = host_path(token_file_default, path, sizeof path);
    if (stat(file, &st) < 0 || !(st.st_mode & (S_IROTH | S_IWOTH)))
        return false;
    looked_at(f, "the token file %.400s", file);
    found(f, FAIL, "chmod 600 of that file, and new tokens in it", "can be read by every user of this host");
    return true;
}

static void check_token(struct finding *f, const struct args *args)
{
    const char *token = args->token ? args->token : getenv("FORKD_TOKEN");
    bool given = token && *token, is_private = false;
    if (token_file_is_open(f))
        return;
    looked_at(f, given ? "FORKD_TOKEN" : "the token");
    if (given && strlen(token) < TOKEN_MIN) {
        found(f, FAIL, "export FORKD_TOKEN=TOKEN, as the controller's token file has it", "is shorter than %d bytes",
              TOKEN_MIN);
        return;
    }
    int status = asked_with_token(args, &is_private);
    if (status == 401 || status == 403)
        found(f, FAIL, "export FORKD_TOKEN=TOKEN, as the controller's token file has it",
              given ? "is not one the controller knows" : "is missing: the controller asks for one");
    else if (status < 0)
        found(f, PASS, "", "cannot be tried: no controller answers");
    else if (is_private)
        found(f, PASS, "", "is not needed: only this user can reach the controller's socket");
    else if (given)
        found(f, PASS, "", "is accepted");
    else
        found(f, WARN, "forkd-controller serve --token-file FILE (FORKD_TOKEN_FILE in /etc/forkd/controller.env)",
              "is not asked for: whoever reaches the controller's address may use it");
}

const struct doctor_check doctor_service[] = {
    {"guest-image", check_image}, {"controller", check_controller}, {"token", check_token}, {0}};
