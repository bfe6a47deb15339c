/* http.c: see http.h. */
#include "controller/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "controller/connections.h"
#include "controller/metrics.h"
#include "controller/routes.h"
#include "controller/tls.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <microhttpd.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>

enum {
    HEAD_MAX = 16 * 1024,          /* request line and header fields */
    CONNECTION_MEMORY = 32 * 1024, /* what libmicrohttpd keeps per connection: more than HEAD_MAX */
    CONNECTIONS_MAX = 1024,
    IDLE_SECS = 60,               /* of silence between requests, and between parts of one */
    DROP_MAX = 4 * REST_BODY_MAX, /* what is read of a body that is refused */
    BODY_SHORT = 64 * 1024,       /* a body up to this is taken whatever others send */
    BODIES_MAX = 128 << 20,       /* of all requests together, while they are worked on too */
};

struct http {
    struct controller *c;
    struct http_config config;
    struct MHD_Daemon *daemon;
    struct connections connections;
    size_t bodies; /* bytes set aside for bodies; libmicrohttpd's thread alone looks at it */
    atomic_bool draining;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    unsigned working;
};

enum request_state { RECEIVING, WORKING, ANSWERED };

struct request {
    struct http *http;
    struct MHD_Connection *connection;
    enum request_state state;
    uint64_t began_ns;
    char *target_text;
    char method[16];
    struct rest_target target;
    struct auth_who who;
    const struct route *route;
    const char *param;
    bool late; /* it came while the controller was ending */
    bool judged, refused, accounted, counted;
    char *user_agent; /* or NULL */
    char allowed[64]; /* of a 405 */
    char *body;
    size_t len, cap;
    uint64_t announced, dropped; /* bytes of body */
    struct reply reply;
    struct job job;
};

static void refuse(struct request *rq, unsigned status, const char *text)
{
    reply_free(&rq->reply);
    reply_error(&rq->reply, status, text);
    rq->refused = true;
}

static const char *header(struct request *rq, const char *name)
{
    return MHD_lookup_connection_value(rq->connection, MHD_HEADER_KIND, name);
}

static struct connection *connection_of(struct request *rq)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(rq->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static void judge_token(struct request *rq)
{
    struct err err;
    if (rq->target.parts == 1 && !strcmp(rq->target.part[0], "healthz"))
        return;
    if (auth_check(rq->http->config.auth, header(rq, MHD_HTTP_HEADER_AUTHORIZATION), &rq->who, &err) < 0)
        refuse(rq, err.code == EACCES ? 401 : 500, err.text);
}

static void judge_route(struct request *rq)
{
    char text[256];
    /* What answers GET answers HEAD: libmicrohttpd leaves the body out. */
    const char *method = strcmp(rq->method, MHD_HTTP_METHOD_HEAD) ? rq->method : MHD_HTTP_METHOD_GET;
    rq->route = route_find(method, &rq->target, &rq->param, rq->allowed, sizeof rq->allowed);
    if (rq->route)
        return;
    if (*rq->allowed) {
        snprintf(text, sizeof text, "method %s is not allowed here; allowed: %s", rq->method, rq->allowed);
        refuse(rq, 405, text);
    } else {
        refuse(rq, 404, "there is nothing under this path");
    }
}

static void judge_right(struct request *rq)
{
    char text[256];
    if (rq->route->right <= rq->who.right)
        return;
    snprintf(text, sizeof text, "the token %s has the right to %s; this needs %s", rq->who.name,
             right_name(rq->who.right), right_name(rq->route->right));
    refuse(rq, 403, text);
}

/* What is begun now would keep this controller from its end. */
static void judge_time(struct request *rq)
{
    if (rq->late && rq->route->pace != ROUTE_QUICK)
        refuse(rq, 503, "the controller is ending");
}

static void judge_body(struct request *rq)
{
    const char *encoding = header(rq, MHD_HTTP_HEADER_CONTENT_ENCODING);
    char text[80];
    if (encoding && strcasecmp(encoding, "identity") != 0) {
        refuse(rq, 415, "an encoded body is not understood; send it as it is");
    } else if (rq->announced > REST_BODY_MAX) {
        snprintf(text, sizeof text, "the body is longer than %d bytes", REST_BODY_MAX);
        refuse(rq, 413, text);
    }
}

/* In this order: who asks, what is asked for, by whom and when it may be, what comes with it. */
static void judge(struct request *rq)
{
    struct err err;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(rq->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *length = header(rq, MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *agent = header(rq, MHD_HTTP_HEADER_USER_AGENT);
    rq->user_agent = agent ? strdup(agent) : NULL;
    rq->judged = true;
    rq->late = atomic_load(&rq->http->draining);
    rq->announced = length ? strtoull(length, NULL, 10) : 0;
    if (info && info->header_size > HEAD_MAX)
        refuse(rq, 431, "the request's head is too long");
    else if (rest_parse_target(rq->target_text, &rq->target, &err) < 0)
        refuse(rq, 400, err.text);
    if (!rq->refused)
        judge_token(rq);
    if (!rq->refused)
        judge_route(rq);
    if (!rq->refused)
        judge_right(rq);
    if (!rq->refused)
        judge_time(rq);
    if (!rq->refused || rq->announced > DROP_MAX)
        judge_body(rq);
}

static void body_drop(struct request *rq)
{
    rq->http->bodies -= rq->cap;
    free(rq->body);
    rq->body = NULL;
    rq->len = rq->cap = 0;
}

/* Room for `len` bytes, if that is not too much with what all others send. */
static bool body_grow(struct request *rq, size_t len)
{
    size_t cap = 2 * len < REST_BODY_MAX ? 2 * len : REST_BODY_MAX, others = rq->http->bodies - rq->cap;
    bool fits = cap <= BODY_SHORT || others + cap <= BODIES_MAX;
    char *grown = fits ? realloc(rq->body, cap) : NULL;
    if (!grown)
        return false;
    rq->body = grown;
    rq->cap = cap;
    rq->http->bodies = others + cap;
    return true;
}

/* False: the client sends without end, hang up. */
static bool receive(struct request *rq, const char *data, size_t len)
{
    if (!rq->refused && rq->len + len > REST_BODY_MAX)
        refuse(rq, 413, "the body is too long");
    else if (!rq->refused && rq->len + len > rq->cap && !body_grow(rq, rq->len + len))
        refuse(rq, 503, "too many long bodies are being received");
    if (rq->refused) {
        body_drop(rq);
        rq->dropped += len;
        return rq->dropped <= DROP_MAX;
    }
    memcpy(rq->body + rq->len, data, len);
    rq->len += len;
    return true;
}

static void run(struct request *rq)
{
    struct call call = {.target = &rq->target, .param = rq->param, .body = rq->body ? rq->body : "", .len = rq->len};
    rq->route->fn(rq->http->c, &call, &rq->reply);
}

static void work(struct job *job)
{
    struct request *rq = list_entry(job, struct request, job);
    run(rq);
    rq->state = ANSWERED;
    MHD_resume_connection(rq->connection);
}

/* Before the answer is sent, so that whoever has the answer finds its line. */
static void account(struct request *rq)
{
    char remote[INET6_ADDRSTRLEN] = "unix";
    const union MHD_ConnectionInfo *info =
        rq->http->config.over_unix ? NULL : MHD_get_connection_info(rq->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr && info->client_addr->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)info->client_addr)->sin_addr, remote, sizeof remote);
    else if (info && info->client_addr && info->client_addr->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)info->client_addr)->sin6_addr, remote, sizeof remote);
    rq->target_text[strcspn(rq->target_text, "?")] = 0;
    rq->accounted = true;
    uint64_t took = clock_monotonic_ns() - rq->began_ns;
    metrics_request(rq->route ? route_number(rq->route) : METRICS_NO_ROUTE, rq->reply.status, took);
    struct audit_line line = {
        .method = rq->method,
        .path = rq->target_text,
        .status = rq->reply.status,
        .latency_us = took / NS_PER_US,
        .ua = rq->user_agent,
        .remote = remote,
        .token_id = *rq->who.name ? rq->who.name : NULL,
    };
    audit_write(rq->http->config.audit, &line);
}

static enum MHD_Result answer(struct request *rq)
{
    enum MHD_ResponseMemoryMode mode = rq->reply.body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT;
    struct MHD_Response *response = MHD_create_response_from_buffer(rq->reply.len, rq->reply.body, mode);
    if (!response)
        return MHD_NO;
    rq->reply.body = NULL;
    rq->state = ANSWERED;
    account(rq);
    connection_begins(&rq->http->connections, connection_of(rq));
    if (rq->reply.len)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                                rq->reply.type ? rq->reply.type : "application/json");
    if (rq->late)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    if (rq->reply.status == 405)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, rq->allowed);
    if (rq->reply.status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    enum MHD_Result rc = MHD_queue_response(rq->connection, rq->reply.status, response);
    MHD_destroy_response(response);
    return rc;
}

/* A request counts from when it is given to a worker until its answer was sent. */
static void count(struct http *http, int by)
{
    pthread_mutex_lock(&http->lock);
    http->working += (unsigned)by;
    pthread_cond_signal(&http->idle);
    pthread_mutex_unlock(&http->lock);
}

/* The body is complete: answer, or have a worker find the answer. */
static enum MHD_Result dispatch(struct request *rq)
{
    struct http *http = rq->http;
    struct err err;
    if (rq->refused)
        return answer(rq);
    if (rq->route->pace == ROUTE_QUICK) {
        run(rq);
        return answer(rq);
    }
    rq->state = WORKING;
    rq->job.fn = work;
    count(http, 1);
    rq->counted = true;
    connection_waits(&http->connections, connection_of(rq));
    MHD_suspend_connection(rq->connection);
    enum worker_kind kind = rq->route->pace == ROUTE_PATIENT ? WORKER_PATIENT : WORKER_ACTING;
    if (workers_submit(http->c->workers, kind, &rq->job, &err) == 0)
        return MHD_YES;
    refuse(rq, 503, err.text);
    rq->state = ANSWERED;
    MHD_resume_connection(rq->connection);
    return MHD_YES;
}

/* It is quoted where it is not allowed. */
static void method_copy(struct request *rq, const char *method)
{
    snprintf(rq->method, sizeof rq->method, "%s", method);
    for (char *c = rq->method; *c; c++)
        if (!isalnum((unsigned char)*c))
            *c = '?';
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *http_version, const char *data, size_t *len, void **context)
{
    struct request *rq = *context;
    if (!rq)
        return MHD_NO;
    if (!rq->judged) {
        rq->connection = connection;
        method_copy(rq, method);
        judge(rq);
        return rq->announced > DROP_MAX ? answer(rq) : MHD_YES;
    }
    if (rq->state == ANSWERED)
        return answer(rq);
    if (*len) {
        bool go_on = receive(rq, data, *len);
        *len = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    return rq->state == RECEIVING ? dispatch(rq) : MHD_YES;
}

/* Called with the request's target before anything else of it is known. */
static void *begin(void *arg, const char *target, struct MHD_Connection *connection)
{
    struct request *rq = calloc(1, sizeof *rq);
    if (!rq || !(rq->target_text = strdup(target))) {
        free(rq);
        return NULL;
    }
    rq->http = arg;
    rq->connection = connection;
    rq->began_ns = clock_monotonic_ns();
    connection_begins(&rq->http->connections, connection_of(rq));
    return rq;
}

static void end(void *arg, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode code)
{
    struct request *rq = *context;
    if (!rq)
        return;
    if (rq->judged && !rq->accounted)
        account(rq);
    if (rq->counted)
        count(rq->http, -1);
    connection_begins(&rq->http->connections, connection_of(rq));
    reply_free(&rq->reply);
    body_drop(rq);
    free(rq->target_text);
    free(rq->user_agent);
    free(rq);
    *context = NULL;
}

static void notice(void *arg, struct MHD_Connection *connection, void **context,
                   enum MHD_ConnectionNotificationCode what)
{
    struct http *http = arg;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (what == MHD_CONNECTION_NOTIFY_CLOSED)
        connection_remove(&http->connections, *context);
    else
        *context = info ? connection_add(&http->connections, info->connect_fd) : NULL;
}

/* Paths are decoded by proto/rest, from the raw target. */
static size_t leave_escapes(void *arg, struct MHD_Connection *connection, char *text)
{
    return strlen(text);
}

static void mhd_log(void *arg, const char *fmt, va_list args)
{
    char text[512];
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("http: %s", text);
}

int http_start(struct controller *c, const struct http_config *config, struct http **http, struct err *err)
{
    struct http *h = calloc(1, sizeof *h);
    if (!h)
        return err_say(err, ENOMEM, "out of memory");
    h->c = c;
    h->config = *config;
    connections_init(&h->connections, config->request_secs);
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->idle, &attr);
    pthread_condattr_destroy(&attr);
    const struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)tls_retrieve},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)tls_priorities},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | MHD_USE_ITC |
                     (config->tls ? MHD_USE_TLS : 0);
    h->daemon = MHD_start_daemon(flags, 0, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
                                 MHD_OPTION_LISTEN_SOCKET, config->listen_fd, MHD_OPTION_URI_LOG_CALLBACK, begin, h,
                                 MHD_OPTION_NOTIFY_COMPLETED, end, h, MHD_OPTION_NOTIFY_CONNECTION, notice, h,
                                 MHD_OPTION_UNESCAPE_CALLBACK, leave_escapes, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                 (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                                 MHD_OPTION_CONNECTION_TIMEOUT,
                                 config->request_secs < IDLE_SECS ? config->request_secs : (unsigned)IDLE_SECS,
                                 MHD_OPTION_ARRAY, config->tls ? tls : &tls[2], MHD_OPTION_END);
    if (!h->daemon) {
        free(h);
        return err_say(err, EIO, "the HTTP server cannot be started");
    }
    *http = h;
    return 0;
}

void http_sweep(struct http *h)
{
    unsigned late = connections_sweep(&h->connections);
    if (late)
        log_info("hung up on %u clients that took longer than %u seconds to send a request or to take its answer", late,
                 h->config.request_secs);
}

unsigned http_drain(struct http *h, unsigned secs)
{
    const struct timespec until = clock_secs_from_now(secs);
    int late = 0;
    atomic_store(&h->draining, true);
    int listening = MHD_quiesce_daemon(h->daemon);
    if (listening >= 0)
        close(listening);
    pthread_mutex_lock(&h->lock);
    while (h->working && !late)
        late = pthread_cond_timedwait(&h->idle, &h->lock, &until);
    unsigned left = h->working;
    pthread_mutex_unlock(&h->lock);
    return left;
}

void http_stop(struct http *h)
{
    if (!h)
        return;
    MHD_stop_daemon(h->daemon);
    connections_destroy(&h->connections);
    pthread_cond_destroy(&h->idle);
    pthread_mutex_destroy(&h->lock);
    free(h);
}
