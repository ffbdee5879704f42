#include "service/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/errands.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    WATCH_MS = 200,           /* how often clients that wait are looked at */
    STREAM_BLOCK = 16 * 1024, /* bytes at a time */
    HEADER_BYTES = 16 * 1024, /* memory of a connection: its request line and headers fit in it */
    MAX_EXTRA_BYTES =
        1 << 20, /* of a body that is too long, read and thrown away for a polite answer */
    SHORT_BYTES = 16 * 1024, /* bodies that take no time: handled where they were read */
};

/* A connection, for as long as it is open. Under http->lock. */
struct connection {
    struct connection *next, *previous;
    int fd;
    bool answering;   /* a whole request is with a handler, or its answer on its way */
    bool closed;      /* by the client, as the last look saw it */
    int64_t since_us; /* else: when it was opened, a head was there, or the last answer was sent */
};

/* An exchange as this file knows it. It has two owners: the connection, until it is over, and the
 * handler. */
struct exchange {
    struct nb_exchange public;
    struct nb_http *http;
    struct MHD_Connection *connection;
    int fd;

    /* The connection's own. */
    struct nb_buf body;
    bool unwanted;   /* answered by its head: */
    size_t unkept;   /* bytes of the body that were not kept, */
    size_t excess;   /* and of one that is too long */
    int refused;     /* a status to answer with, before any handler */
    const char *why; /* for a refusal */
    bool dispatched;
    bool copied;           /* the headers are in: */
    struct nb_buf headers; /* "Name\0value\0" of each */

    /* Under the exchange's lock. */
    bool suspended, queued;
    int64_t ended_us; /* when the answer was there to its end */
    size_t sent;      /* of public.out, by a stream */
    uint64_t bytes;   /* in all */

    struct exchange *next, *previous; /* of all that are with a handler; under http->lock */
    bool listed;
    struct nb_errand errand; /* that the handler's work is, where the body is long */
};

struct nb_http {
    struct nb_http_options options;
    struct MHD_Daemon *daemon;
    MHD_socket quiesced; /* it listened; MHD's threads may look at it until they end */
    atomic_size_t connections;
    uint16_t port;
    pthread_t watcher;
    bool watching;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool stop;
    struct exchange *exchanges; /* with a handler */
    struct connection *open;
    struct nb_errands *errands; /* the handling of long bodies */
};

/* ---- exchanges ---- */

static void free_exchange(struct nb_exchange *exchange) {
    struct exchange *x = (struct exchange *)exchange;
    nb_buf_free(&x->body);
    nb_buf_free(&x->headers);
    nb_exchange_close(exchange);
    free(x);
}

static const char *header(const struct nb_exchange *exchange, const char *name) {
    const struct exchange *x = (const struct exchange *)exchange;
    if (!x->copied)
        return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
    const char *at = x->headers.data, *end = at + x->headers.len;
    while (at < end) {
        const char *value = at + strlen(at) + 1;
        if (strcasecmp(at, name) == 0)
            return value;
        at = value + strlen(value) + 1;
    }
    return NULL;
}

static enum MHD_Result copy_header(void *context, enum MHD_ValueKind kind, const char *name,
                                   const char *value) {
    struct nb_buf *out = context;
    (void)kind;
    nb_buf_add(out, name, strlen(name) + 1);
    nb_buf_add(out, value ? value : "", value ? strlen(value) + 1 : 1);
    return MHD_YES;
}

/* Under the exchange's lock: lets the connection go on if it waits. */
static void resume(struct nb_exchange *exchange) {
    struct exchange *x = (struct exchange *)exchange;
    if (exchange->ended && !x->ended_us)
        x->ended_us = nb_now_us();
    if (x->suspended && !exchange->over) {
        x->suspended = false;
        MHD_resume_connection(x->connection);
    }
}

static const struct nb_transport transport = {header, resume, free_exchange};

static void set_peer(struct exchange *x) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr)
        getnameinfo(info->client_addr, sizeof(struct sockaddr_storage), x->public.peer,
                    sizeof x->public.peer, NULL, 0, NI_NUMERICHOST);
    info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    x->fd = info ? info->connect_fd : -1;
}

static struct exchange *make_exchange(struct nb_http *http, struct MHD_Connection *connection,
                                      const char *method, const char *path) {
    struct exchange *x = calloc(1, sizeof *x);
    if (!x || !nb_exchange_open(&x->public, &transport, method, path)) {
        free(x);
        return NULL;
    }
    x->http = http;
    x->connection = connection;
    nb_exchange_set_id(&x->public, header(&x->public, "X-Request-Id"));
    set_peer(x);
    return x;
}

static void list(struct exchange *x) {
    pthread_mutex_lock(&x->http->lock);
    x->next = x->http->exchanges;
    if (x->next)
        x->next->previous = x;
    x->http->exchanges = x;
    x->listed = true;
    pthread_mutex_unlock(&x->http->lock);
}

static void unlist(struct exchange *x) {
    pthread_mutex_lock(&x->http->lock);
    if (x->listed) {
        if (x->previous)
            x->previous->next = x->next;
        else
            x->http->exchanges = x->next;
        if (x->next)
            x->next->previous = x->previous;
        x->listed = false;
    }
    pthread_mutex_unlock(&x->http->lock);
}

/* ---- answers ---- */

/* More of a stream, for the connection. */
static ssize_t read_stream(void *context, uint64_t position, char *out, size_t max) {
    (void)position;
    struct exchange *x = context;
    pthread_mutex_lock(&x->public.lock);
    ssize_t n = 0;
    if (x->sent < x->public.out.len) {
        size_t left = x->public.out.len - x->sent;
        n = (ssize_t)(left < max ? left : max);
        memcpy(out, x->public.out.data + x->sent, (size_t)n);
        x->sent += (size_t)n;
        x->bytes += (uint64_t)n;
        if (x->sent == x->public.out.len) {
            nb_buf_clear(&x->public.out);
            x->sent = 0;
        }
    } else if (x->public.out.failed) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (x->public.ended || x->public.gone) {
        n = x->public.gone ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->public.lock);
    return n;
}

static void free_stream(void *context) {
    nb_exchange_release(&((struct exchange *)context)->public);
}

static void add_headers(struct MHD_Response *response, const struct exchange *x) {
    MHD_add_response_header(response, "Content-Type", x->public.type);
    MHD_add_response_header(response, "X-Request-Id", x->public.id);
    if (x->public.streaming)
        MHD_add_response_header(response, "Cache-Control", "no-store");
    const char *origin = x->http->options.allow_origin;
    if (origin) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
        MHD_add_response_header(response, "Access-Control-Allow-Headers",
                                "Authorization, Content-Type, X-API-Key, X-Request-Id");
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(response, "Access-Control-Expose-Headers",
                                "X-Request-Id, Retry-After");
    }
    char line[sizeof x->public.headers];
    snprintf(line, sizeof line, "%s", x->public.headers);
    char *rest = line, *one;
    while ((one = strtok_r(rest, "\r\n", &rest))) {
        char *colon = strchr(one, ':');
        if (!colon)
            continue;
        *colon = 0;
        MHD_add_response_header(response, one, colon + 1 + strspn(colon + 1, " "));
    }
}

/* Hands an answer, which is there, to the connection. Without the lock: MHD has locks of its own,
 * one of which it holds while it calls read_stream. */
static enum MHD_Result queue_answer(struct exchange *x) {
    struct MHD_Response *response;
    if (x->public.streaming) {
        nb_exchange_retain(&x->public);
        response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, x,
                                                     free_stream);
        if (!response)
            nb_exchange_release(&x->public);
    } else {
        x->bytes = x->public.out.len;
        response = MHD_create_response_from_buffer(
            x->public.out.len, x->public.out.data ? x->public.out.data : "", MHD_RESPMEM_MUST_COPY);
    }
    if (!response)
        return MHD_NO;
    add_headers(response, x);
    enum MHD_Result done = MHD_queue_response(x->connection, (unsigned)x->public.status, response);
    MHD_destroy_response(response);
    return done;
}

static enum MHD_Result refuse(struct exchange *x, int status, const char *why) {
    struct nb_buf body = {0};
    if (x->http->options.refuse)
        x->http->options.refuse(x->http->options.context, x->public.path, status, why, &body);
    nb_exchange_answer(&x->public, status, "application/json", body.data ? body.data : "", body.len,
                       NULL);
    nb_buf_free(&body);
    x->queued = true;
    return queue_answer(x);
}

/* Says that a connection's request got further. */
static void note(struct nb_http *http, struct MHD_Connection *connection, bool answering) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *c = info ? info->socket_context : NULL;
    if (!c)
        return;
    pthread_mutex_lock(&http->lock);
    c->answering = answering;
    c->since_us = nb_now_us();
    pthread_mutex_unlock(&http->lock);
}

/* ---- requests ---- */

/* What can be said before the body comes. */
static void check_head(struct exchange *x) {
    const char *length = nb_exchange_header(&x->public, "Content-Length");
    if (!length)
        return;
    if (nb_exchange_header(&x->public, "Transfer-Encoding")) {
        /* Who stands between may have read it by the other one: RFC 9112, 6.3. */
        x->refused = 400;
        x->why = "Content-Length and Transfer-Encoding: expected one of them";
        return;
    }
    char *end;
    errno = 0;
    unsigned long long n = strtoull(length, &end, 10);
    if (*length < '0' || *length > '9' || *end || errno) {
        x->refused = 400;
        x->why = "Content-Length is no number";
    } else if (n > x->http->options.max_body_bytes) {
        x->refused = 413;
        x->why = "the body is longer than the limit";
    }
}

/* A part of the body. */
static enum MHD_Result take_body(struct exchange *x, const char *data, size_t *n) {
    size_t bytes = *n;
    *n = 0;
    if (bytes > x->http->options.max_body_bytes - x->body.len - x->unkept || x->excess) {
        x->excess += bytes;
        if (!x->refused) {
            x->refused = 413;
            x->why = "the body is longer than the limit";
        }
        return x->excess > MAX_EXTRA_BYTES ? MHD_NO : MHD_YES;
    }
    if (x->unwanted) {
        x->unkept += bytes;
        return MHD_YES;
    }
    nb_buf_add(&x->body, data, bytes);
    if (x->body.failed) {
        nb_buf_free(&x->body);
        x->refused = 507;
        x->why = "out of memory";
        x->excess = 1;
    }
    return MHD_YES;
}

/* Queues the answer, if it is there and was not queued, or waits for it. */
static enum MHD_Result go_on(struct exchange *x) {
    pthread_mutex_lock(&x->public.lock);
    bool gone = x->public.gone, queue = x->public.status && !x->queued && !gone;
    if (!gone && !x->public.status) {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    x->queued |= queue;
    pthread_mutex_unlock(&x->public.lock);
    if (gone)
        return MHD_NO;
    return queue ? queue_answer(x) : MHD_YES;
}

/* Reading a long prompt takes as long as many tokens of other clients' streams, which this thread
 * sends, too: it is left to a thread for that. The connection may be gone by then, and its headers
 * with it. False if memory ran out. */
static bool hand_over(struct exchange *x) {
    struct nb_http *http = x->http;
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, copy_header, &x->headers);
    if (x->headers.failed)
        return false;
    x->copied = true;
    nb_errands_add(http->errands, &x->errand);
    return true;
}

static void handle_long(void *context, struct nb_errand *errand) {
    struct nb_http *http = context;
    struct exchange *x = (struct exchange *)((char *)errand - offsetof(struct exchange, errand));
    http->options.handle(http->options.context, &x->public);
}

/* The request is whole: gives it to the handler, and waits, without a thread, unless it is answered
 * already. */
static enum MHD_Result dispatch(struct exchange *x) {
    x->dispatched = true;
    if (x->unwanted)
        return go_on(x);
    if (x->refused)
        return refuse(x, x->refused, x->why);
    x->public.body = x->body.data ? x->body.data : "";
    x->public.body_bytes = x->body.len;
    list(x);
    nb_exchange_retain(&x->public);
    if (x->body.len <= SHORT_BYTES || !hand_over(x))
        x->http->options.handle(x->http->options.context, &x->public);
    return go_on(x);
}

/* MHD calls it when the head is there, for each part of the body, when the body is whole, and after
 * each resume before an answer is queued. */
static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **connection_context) {
    (void)version;
    struct nb_http *http = context;
    struct exchange *x = *connection_context;
    if (!x) {
        x = make_exchange(http, connection, method, url);
        *connection_context = x;
        if (!x)
            return MHD_NO;
        note(http, connection, false);
        check_head(x);
        /* A body that is too long is refused before it is sent. */
        if (x->refused)
            return refuse(x, x->refused, x->why);
        x->unwanted =
            http->options.admit && !http->options.admit(http->options.context, &x->public);
        /* Who sends a body without asking first does not listen before it is sent. */
        return x->unwanted && nb_exchange_header(&x->public, "Expect") ? go_on(x) : MHD_YES;
    }
    if (*n)
        return take_body(x, data, n);
    if (!x->dispatched) {
        note(http, connection, true);
        return dispatch(x);
    }
    return go_on(x);
}

static void on_completed(void *context, struct MHD_Connection *connection,
                         void **connection_context, enum MHD_RequestTerminationCode code) {
    struct nb_http *http = context;
    struct exchange *x = *connection_context;
    if (!x)
        return;
    note(http, connection, false);
    *connection_context = NULL;
    pthread_mutex_lock(&x->public.lock);
    x->public.over = true;
    pthread_mutex_unlock(&x->public.lock);
    unlist(x);
    bool whole = code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    if (!whole && x->dispatched)
        nb_exchange_tell_gone(&x->public);
    if (http->options.log)
        http->options.log(http->options.context, &x->public, whole ? x->public.status : 0,
                          whole ? x->bytes : 0);
    nb_exchange_release(&x->public);
}

/* ---- clients that go away ---- */

/* The next exchange after `x` (or the first), kept; x is released. Under http->lock. */
static size_t waiting(struct nb_http *http, struct exchange **out, size_t max) {
    size_t n = 0;
    for (struct exchange *x = http->exchanges; x && n < max; x = x->next) {
        if (x->fd < 0)
            continue;
        nb_exchange_retain(&x->public);
        out[n++] = x;
    }
    return n;
}

static int64_t patience_us(const struct nb_http *http) {
    return (int64_t)http->options.idle_timeout_s * 1000000;
}

/* Under http->lock: closes connections whose next request does not come. MHD closes those that say
 * nothing; but not those that say little at a time, and those that were closed by the client in the
 * middle of a head only in the end. */
static void close_idle(struct nb_http *http, struct pollfd *fds, size_t max) {
    int64_t now = nb_now_us(), patience = patience_us(http);
    size_t n = 0;
    for (struct connection *c = http->open; c && n < max; c = c->next)
        fds[n++] = (struct pollfd){.fd = c->answering ? -1 : c->fd, .events = POLLRDHUP};
    if (n)
        poll(fds, n, 0);
    n = 0;
    for (struct connection *c = http->open; c && n < max; c = c->next, n++) {
        bool closed = fds[n].revents & (POLLRDHUP | POLLHUP | POLLERR);
        /* What was sent before the end is read first: until the next look. */
        if (!c->answering && ((closed && c->closed) || now - c->since_us > patience))
            shutdown(c->fd, SHUT_RDWR);
        c->closed = closed;
    }
}

static void look(struct nb_http *http, struct exchange **kept, struct pollfd *fds, size_t max) {
    int64_t now = nb_now_us(), patience = patience_us(http);
    pthread_mutex_lock(&http->lock);
    close_idle(http, fds, max);
    size_t n = waiting(http, kept, max);
    pthread_mutex_unlock(&http->lock);
    for (size_t i = 0; i < n; i++)
        fds[i] = (struct pollfd){.fd = kept[i]->fd, .events = POLLRDHUP};
    if (n)
        poll(fds, n, 0);
    for (size_t i = 0; i < n; i++) {
        struct exchange *x = kept[i];
        pthread_mutex_lock(&x->public.lock);
        bool gone =
            !x->public.over && x->suspended && fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR);
        /* An answer that is whole must be taken: a client may read as slowly as it likes until
         * then, for the answer may be slow, too. */
        if (!x->public.over && x->ended_us && now - x->ended_us > patience)
            shutdown(x->fd, SHUT_RDWR);
        pthread_mutex_unlock(&x->public.lock);
        if (gone) {
            nb_exchange_tell_gone(&x->public);
            pthread_mutex_lock(&x->public.lock);
            resume(&x->public); /* so that the connection is closed */
            pthread_mutex_unlock(&x->public.lock);
        }
        nb_exchange_release(&x->public);
    }
}

/* A connection that waits is not read from, so MHD does not see it close: this thread does. */
static void *watch(void *context) {
    struct nb_http *http = context;
    size_t max = http->options.max_connections;
    struct exchange **kept = calloc(max, sizeof(struct exchange *));
    struct pollfd *fds = calloc(max, sizeof *fds);
    pthread_mutex_lock(&http->lock);
    while (!http->stop && kept && fds) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WATCH_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&http->wake, &http->lock, &until);
        pthread_mutex_unlock(&http->lock);
        look(http, kept, fds, max);
        pthread_mutex_lock(&http->lock);
    }
    pthread_mutex_unlock(&http->lock);
    free(kept);
    free(fds);
    return NULL;
}

/* ---- the server ---- */

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct nb_http *http = context;
    struct connection *c = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        atomic_fetch_add(&http->connections, 1);
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        c = info ? calloc(1, sizeof *c) : NULL; /* without, nobody watches it */
        *socket_context = c;
        if (!c)
            return;
        c->fd = info->connect_fd;
        c->since_us = nb_now_us();
        pthread_mutex_lock(&http->lock);
        c->next = http->open;
        if (c->next)
            c->next->previous = c;
        http->open = c;
        pthread_mutex_unlock(&http->lock);
        return;
    }
    atomic_fetch_sub(&http->connections, 1);
    if (!c)
        return;
    /* Before MHD closes the socket, so that its number is nobody else's while it is in the list. */
    pthread_mutex_lock(&http->lock);
    if (c->previous)
        c->previous->next = c->next;
    else
        http->open = c->next;
    if (c->next)
        c->next->previous = c->previous;
    pthread_mutex_unlock(&http->lock);
    *socket_context = NULL;
    free(c);
}

static void on_mhd_message(void *context, const char *format, va_list arguments) {
    (void)context;
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    text[strcspn(text, "\r\n")] = 0;
    nb_log(NB_LOG_DEBUG, "http: %s", text);
}

static enum nb_status resolve(const char *host, uint16_t port, struct sockaddr_storage *out,
                              struct nb_error *err) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV},
                    *found;
    int failed = getaddrinfo(host, service, &hints, &found);
    if (failed)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "host \"%.64s\": %s; expected an address such as 127.0.0.1, 0.0.0.0 or ::",
                       host, gai_strerror(failed));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return NB_OK;
}

/* Of an error of listening. */
static const char *what_to_do(int why) {
    switch (why) {
    case EADDRINUSE:
        return ": another program listens there; end it, or choose another --port (0: a free one)";
    case EADDRNOTAVAIL:
        return ": this machine has no such address; --host 0.0.0.0 is all that it has";
    case EACCES:
        return ": ports below 1024 need the capability CAP_NET_BIND_SERVICE; choose a higher "
               "--port";
    default:
        return "";
    }
}

static enum nb_status start(struct nb_http *http, struct nb_error *err) {
    const struct nb_http_options *o = &http->options;
    struct sockaddr_storage address;
    enum nb_status s = resolve(o->host, o->port, &address, err);
    if (s != NB_OK)
        return s;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                     MHD_USE_ITC | (address.ss_family == AF_INET6 ? MHD_USE_DUAL_STACK : 0);
    errno = 0;
    http->daemon = MHD_start_daemon(
        flags, o->port, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_message,
        NULL, MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&address, MHD_OPTION_CONNECTION_LIMIT,
        o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, o->idle_timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_THREAD_POOL_SIZE, o->threads, MHD_OPTION_END);
    if (!http->daemon) {
        int why = errno;
        return nb_fail(err, NB_ERR_IO, "cannot listen on %s port %u: %s%s", o->host, o->port,
                       why ? strerror(why) : "libmicrohttpd refused", what_to_do(why));
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    http->port = info && info->port ? info->port : o->port;
    return NB_OK;
}

enum nb_status nb_http_open(const struct nb_http_options *options, struct nb_http **out,
                            struct nb_error *err) {
    *out = NULL;
    struct nb_http *http = calloc(1, sizeof *http);
    if (!http)
        return nb_fail_memory(err, sizeof *http, "the HTTP server");
    http->options = *options;
    http->quiesced = MHD_INVALID_SOCKET;
    if (!http->options.host)
        http->options.host = "127.0.0.1";
    if (http->options.threads < 2)
        http->options.threads = 0; /* MHD's word for a single one */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&http->lock, NULL);
    pthread_cond_init(&http->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int failed = pthread_create(&http->watcher, NULL, watch, http);
    http->watching = !failed;
    enum nb_status s =
        failed ? nb_fail(err, NB_ERR_MEMORY, "cannot start a thread: %s", strerror(failed)) : NB_OK;
    *out = http; /* before a handler may want it */
    if (s == NB_OK)
        s = nb_errands_open(handle_long, http, &http->errands, err);
    if (s == NB_OK)
        s = start(http, err);
    if (s != NB_OK) {
        nb_http_close(http);
        *out = NULL;
    }
    return s;
}

uint16_t nb_http_port(const struct nb_http *http) {
    return http->port;
}

size_t nb_http_connections(struct nb_http *http) {
    return atomic_load(&http->connections);
}

void nb_http_quiesce(struct nb_http *http) {
    http->quiesced = MHD_quiesce_daemon(http->daemon);
    if (http->quiesced != MHD_INVALID_SOCKET)
        shutdown(http->quiesced, SHUT_RDWR);
}

bool nb_http_drain(struct nb_http *http, double timeout_ms) {
    int64_t until = nb_now_us() + (int64_t)(timeout_ms * 1000);
    for (;;) {
        pthread_mutex_lock(&http->lock);
        bool done = !http->exchanges;
        pthread_mutex_unlock(&http->lock);
        if (done || nb_now_us() >= until)
            return done;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

void nb_http_close(struct nb_http *http) {
    if (!http)
        return;
    pthread_mutex_lock(&http->lock);
    http->stop = true;
    pthread_cond_signal(&http->wake);
    pthread_mutex_unlock(&http->lock);
    if (http->watching)
        pthread_join(http->watcher, NULL);
    if (http->daemon) {
        /* MHD may not be stopped while a connection is suspended. */
        pthread_mutex_lock(&http->lock);
        for (struct exchange *x = http->exchanges; x; x = x->next) {
            pthread_mutex_lock(&x->public.lock);
            x->public.gone = true;
            resume(&x->public);
            pthread_mutex_unlock(&x->public.lock);
        }
        pthread_mutex_unlock(&http->lock);
        MHD_stop_daemon(http->daemon);
    }
    if (http->quiesced != MHD_INVALID_SOCKET)
        close(http->quiesced);
    /* What was handed over is handled; nobody hears of it any more. */
    nb_errands_close(http->errands);
    pthread_mutex_destroy(&http->lock);
    pthread_cond_destroy(&http->wake);
    free(http);
}
