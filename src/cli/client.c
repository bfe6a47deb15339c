/* client.c: see client.h. */
#include "cli/client.h"

#include "base/own.h"
#include "cli/interrupt.h"
#include "cli/private.h"
#include "proto/places.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <string.h>

enum { ANSWER_MAX = 256 << 20, HEALTH_SECS = 5, IDLE_SECS = 60, IDLE_AGAIN_SECS = 15 };

struct client {
    CURL *curl;
    char *name;       /* the controller's URL as it was given */
    char base[256];   /* "http://HOST:PORT", "https://HOST:PORT" */
    char socket[128]; /* "" over TCP */
    int dirfd;        /* through which the socket's path goes */
    char token[4200]; /* the header field, "" without */
    bool is_private, interruptible;
    unsigned patience_secs; /* 0: without end */
    char *detail;
};

struct buffer {
    char *bytes;
    size_t len;
};

static size_t collect(char *data, size_t size, size_t count, void *arg)
{
    struct buffer *b = arg;
    size_t n = size * count;
    char *grown = b->len + n > ANSWER_MAX ? NULL : realloc(b->bytes, b->len + n + 1);
    if (!grown)
        return 0;
    b->bytes = grown;
    memcpy(b->bytes + b->len, data, n);
    b->len += n;
    b->bytes[b->len] = 0;
    return n;
}

/* A socket's path may be longer than an address can hold: it is reached through its directory's descriptor. */
static int set_socket(struct client *c, const char *path, struct err *err)
{
    const char *slash = strrchr(path, '/');
    own_free char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("./");
    c->dirfd = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (c->dirfd < 0)
        return err_set(err, errno, "open the directory of the socket %s", path);
    int n = snprintf(c->socket, sizeof c->socket, "/proc/self/fd/%d/%s", c->dirfd, slash ? slash + 1 : path);
    if ((size_t)n >= 108)
        return err_say(err, EINVAL, "the name of the socket %s is too long", path);
    snprintf(c->base, sizeof c->base, "http://localhost");
    return 0;
}

static int set_url(struct client *c, const char *url, struct err *err)
{
    if (!strncmp(url, "unix:", 5))
        return set_socket(c, url + 5 + (strncmp(url + 5, "//", 2) == 0 ? 2 : 0), err);
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return err_say(err, EINVAL, "%s is none of http://HOST:PORT, https://HOST:PORT and unix:/path", url);
    size_t len = strlen(url);
    while (len && url[len - 1] == '/')
        len--;
    if (len >= sizeof c->base)
        return err_say(err, EINVAL, "the controller's URL is too long");
    snprintf(c->base, sizeof c->base, "%.*s", (int)len, url);
    return 0;
}

/* A client of the controller at this URL, without asking whether it is there. */
static int open_url(const char *url, const char *token, struct client **client, struct err *err)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c || !(c->curl = curl_easy_init())) {
        free(c);
        return err_say(err, ENOMEM, "out of memory");
    }
    c->dirfd = -1;
    c->name = strdup(url);
    int rc = c->name ? set_url(c, url, err) : err_say(err, ENOMEM, "out of memory");
    if (rc == 0 && token && *token &&
        (size_t)snprintf(c->token, sizeof c->token, "Authorization: Bearer %s", token) >= sizeof c->token)
        rc = err_say(err, EINVAL, "the token is too long");
    if (rc < 0)
        client_close(c);
    else
        *client = c;
    return rc;
}

/* Somebody at this address says that all is well; or, of the user's own, is there and says nothing in time: stopped, or
 * busy. */
static bool is_up(const char *url, bool own)
{
    struct err err;
    struct client *c;
    json_t *answer = NULL;
    if (open_url(url, NULL, &c, NULL) < 0)
        return false;
    client_set_patience(c, HEALTH_SECS);
    int rc = client_call(c, "GET", "/healthz", NULL, &answer, &err);
    bool up = rc == 0 ? json_is_true(json_object_get(answer, "ok")) : own && rc == -ETIMEDOUT;
    json_decref(answer);
    client_close(c);
    return up;
}

static int open_own(const char *url, struct client **client, struct err *err)
{
    int rc = open_url(url, NULL, client, err);
    if (rc == 0)
        (*client)->is_private = true;
    return rc;
}

/* `own` is filled where no URL was given; *client stays NULL where then none runs. */
static int find_running(const struct args *args, char own[PRIVATE_URL_MAX], struct client **client, struct err *err)
{
    const char *url = args->url ? args->url : getenv("FORKD_URL");
    const char *token = args->token ? args->token : getenv("FORKD_TOKEN");
    *client = NULL;
    if (url && *url)
        return open_url(url, token, client, err);
    int rc = private_url(own, err);
    if (rc == 0 && is_up(own, true))
        return open_own(own, client, err);
    if (rc == 0 && !place_state_chosen() && is_up("http://" PLACE_ADDRESS, false))
        return open_url("http://" PLACE_ADDRESS, token, client, err);
    return rc;
}

int client_open_running(const struct args *args, struct client **client, struct err *err)
{
    char own[PRIVATE_URL_MAX];
    int rc = find_running(args, own, client, err);
    if (rc == 0 && !*client)
        rc = err_say(err, ENOENT, "no controller runs");
    return rc;
}

int client_open(const struct args *args, struct client **client, struct err *err)
{
    char own[PRIVATE_URL_MAX];
    int rc = find_running(args, own, client, err);
    if (rc < 0 || *client)
        return rc;
    rc = private_start(err);
    return rc < 0 ? rc : open_own(own, client, err);
}

void client_close(struct client *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->curl);
    fd_close(&c->dirfd);
    free(c->detail);
    free(c->name);
    free(c);
}

bool client_is_private(const struct client *c)
{
    return c->is_private;
}

void client_set_patience(struct client *c, unsigned secs)
{
    c->patience_secs = secs;
}

void client_set_interruptible(struct client *c, bool interruptible)
{
    c->interruptible = interruptible;
}

const char *client_detail(const struct client *c)
{
    return c->detail;
}

/* An error's body as it is; of an error of several lines, such as a guest's last words, the body with the first alone.
 * The others become the detail. */
static int refusal_say(struct client *c, long status, const char *body, struct err *err)
{
    json_t *json = json_loads(body, 0, NULL);
    const char *text = json_string_value(json_object_get(json, "error"));
    const char *rest = text ? strchr(text, '\n') : NULL;
    own_free char *first = NULL;
    free(c->detail);
    c->detail = rest ? strdup(rest + 1) : NULL;
    if (rest) {
        json_object_set_new(json, "error", json_stringn(text, (size_t)(rest - text)));
        first = json_dumps(json, JSON_COMPACT);
    }
    json_decref(json);
    return err_say(err, EPROTO, "HTTP %ld: %s", status, first ? first : body);
}

/* Why there is no answer. libcurl's own words over a Unix socket are of a host and a port that nobody named. */
static const char *silence(const struct client *c, CURLcode code, const char *words)
{
    if (*c->socket && code == CURLE_COULDNT_CONNECT)
        return "it does not listen";
    if (*c->socket && (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR))
        return "it ended before it answered";
    return *words ? words : curl_easy_strerror(code);
}

/* libcurl calls it once a second at least; other than 0 ends the request. */
static int give_up(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
    return interrupts_came();
}

/* How long it may take, and what ends it. Over TCP a host that is gone is noticed by its silence. */
static void set_limits(const struct client *c)
{
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT, (long)c->patience_secs);
    curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPIDLE, (long)IDLE_SECS);
    curl_easy_setopt(c->curl, CURLOPT_TCP_KEEPINTVL, (long)IDLE_AGAIN_SECS);
    if (!c->interruptible)
        return;
    curl_easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, give_up);
    curl_easy_setopt(c->curl, CURLOPT_NOPROGRESS, 0L);
}

static int transfer(struct client *c, const char *method, const char *url, const char *body, struct buffer *answer,
                    long *status, struct err *err)
{
    char words[CURL_ERROR_SIZE] = "";
    const char *ca = getenv("FORKD_CA");
    struct curl_slist *fields = curl_slist_append(NULL, "Content-Type: application/json");
    fields = curl_slist_append(fields, "Expect:");
    if (*c->token)
        fields = curl_slist_append(fields, c->token);
    curl_easy_reset(c->curl);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_PATH_AS_IS, 1L); /* ".." is a name that is refused, and no step up */
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "forkd/" FORKD_VERSION);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, answer);
    set_limits(c);
    if (ca && *ca)
        curl_easy_setopt(c->curl, CURLOPT_CAINFO, ca);
    if (*c->socket)
        curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
    if (body)
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body);
    CURLcode code = curl_easy_perform(c->curl);
    curl_slist_free_all(fields);
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, status);
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return err_say(err, EINTR, "interrupted");
    if (code != CURLE_OK)
        return err_say(err, code == CURLE_OPERATION_TIMEDOUT ? ETIMEDOUT : EIO,
                       "the controller at %s cannot be asked: %s", c->name, silence(c, code, words));
    return 0;
}

int client_call(struct client *c, const char *method, const char *path, json_t *body, json_t **answer, struct err *err)
{
    own_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL, *url = NULL;
    struct buffer buffer = {0};
    long status = 0;
    json_decref(body);
    if (answer)
        *answer = NULL;
    if (asprintf(&url, "%s%s", c->base, path) < 0)
        return err_say(err, ENOMEM, "out of memory");
    int rc = transfer(c, method, url, text, &buffer, &status, err);
    own_free char *bytes = buffer.bytes;
    if (rc == 0 && status >= 400)
        rc = refusal_say(c, status, bytes ? bytes : "", err);
    if (rc == 0 && bytes && answer && !(*answer = json_loadb(bytes, buffer.len, 0, NULL)))
        rc = err_say(err, EPROTO, "the answer of the controller is no JSON");
    return rc;
}

int client_call_named(struct client *c, const char *method, const char *path, const char *name, json_t *body,
                      json_t **answer, struct err *err)
{
    const char *star = strchr(path, '*');
    char *escaped = curl_easy_escape(c->curl, name, 0);
    own_free char *whole = NULL;
    int rc = 0;
    if (answer)
        *answer = NULL;
    if (!*name)
        rc = err_say(err, EINVAL, "a name is empty");
    else if (!escaped || asprintf(&whole, "%.*s%s%s", (int)(star - path), path, escaped, star + 1) < 0)
        rc = err_say(err, ENOMEM, "out of memory");
    curl_free(escaped);
    if (rc == 0)
        return client_call(c, method, whole, body, answer, err);
    json_decref(body);
    return rc;
}

int client_call_list(struct client *c, const char *method, const char *path, json_t *body, json_t **list,
                     struct err *err)
{
    int rc = client_call(c, method, path, body, list, err);
    if (rc < 0 || json_is_array(*list))
        return rc;
    json_decref(*list);
    *list = NULL;
    return err_say(err, EPROTO, "the answer of the controller at %s is no list", c->name);
}
