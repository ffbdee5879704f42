#include "service/client.h"

#include "base/buf.h"
#include "base/clock.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { CONNECT_S = 10, LONGEST_POLL_MS = 60000 };

struct nb_transfer {
    struct nb_client *client;
    CURL *easy;
    CURLU *url;
    struct curl_slist *headers, *resolve;
    struct nb_buf body; /* of the answer */
    size_t max_bytes;
    bool too_long;
    const struct nb_guard *guard;
    char *host; /* of the URL, as libcurl understands it */
    uint16_t port;
    const char *refused; /* why, if the guard did; NULL once it has let an address pass */
    bool passed;         /* it has */
    char error[CURL_ERROR_SIZE];
    void (*on_done)(void *context, const struct nb_client_answer *answer);
    void *context;
    struct nb_transfer *next, *previous; /* of the client's */
};

struct nb_client {
    CURLM *multi;
    pthread_t thread;
    struct nb_transfer *transfers;
    struct nb_timer *timers; /* by due_us */

    pthread_mutex_t lock; /* of what follows */
    struct nb_post *posts, **last;
    bool stop;
};

/* ---- transfers ---- */

static size_t on_body(char *data, size_t one, size_t n, void *context) {
    (void)one;
    struct nb_transfer *t = context;
    if (n > t->max_bytes - t->body.len) {
        t->too_long = true;
        return 0;
    }
    nb_buf_add(&t->body, data, n);
    return t->body.failed ? 0 : n;
}

/* libcurl is about to connect to this address: the last moment to look at it, and the only one at
 * which it is certain. */
static curl_socket_t on_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address) {
    (void)purpose;
    struct nb_transfer *t = context;
    if (t->guard) {
        const char *why = nb_guard_refuses(t->guard, t->host, t->port, &address->addr);
        /* Of a name's several addresses one that may be reached is enough. */
        t->passed |= !why;
        t->refused = t->passed ? NULL : why;
        if (why)
            return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static void free_transfer(struct nb_transfer *t) {
    curl_easy_cleanup(t->easy);
    curl_url_cleanup(t->url);
    curl_slist_free_all(t->headers);
    curl_slist_free_all(t->resolve);
    nb_buf_free(&t->body);
    curl_free(t->host);
    free(t);
}

/* Understands the URL once, for the guard and for the transfer. */
static enum nb_status set_url(struct nb_transfer *t, const char *url, struct nb_error *err) {
    t->url = curl_url();
    char *port = NULL, *scheme = NULL, *user = NULL;
    CURLUcode code = t->url ? curl_url_set(t->url, CURLUPART_URL, url, 0) : CURLUE_OUT_OF_MEMORY;
    if (!code)
        code = curl_url_get(t->url, CURLUPART_HOST, &t->host, 0);
    if (!code)
        code = curl_url_get(t->url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
    if (!code)
        code = curl_url_get(t->url, CURLUPART_SCHEME, &scheme, 0);
    if (port)
        t->port = (uint16_t)strtoul(port, NULL, 10);
    bool http = scheme && (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);
    bool named = !code && curl_url_get(t->url, CURLUPART_USER, &user, 0) == CURLUE_OK;
    curl_free(port);
    curl_free(scheme);
    curl_free(user);
    /* URLs may hold keys: messages do not repeat them. */
    if (code)
        return nb_fail(err, NB_ERR_ARGUMENT, "the URL cannot be read: %s", curl_url_strerror(code));
    if (!http)
        return nb_fail(err, NB_ERR_ARGUMENT, "the URL must begin with http:// or https://");
    if (named && t->guard)
        return nb_fail(err, NB_ERR_ARGUMENT, "the URL must not hold a user's name");
    return NB_OK;
}

static bool add_line(struct curl_slist **list, const char *line) {
    struct curl_slist *grown = curl_slist_append(*list, line);
    if (grown)
        *list = grown;
    return grown != NULL;
}

static bool set_lists(struct nb_transfer *t, const struct nb_client_request *r) {
    bool fine = add_line(&t->headers, "Expect:");
    for (int i = 0; i < NB_CLIENT_HEADERS && r->headers[i] && fine; i++)
        fine = add_line(&t->headers, r->headers[i]);
    for (int i = 0; r->resolve && r->resolve[i] && fine; i++)
        fine = add_line(&t->resolve, r->resolve[i]);
    return fine;
}

static void set_options(struct nb_transfer *t, const struct nb_client_request *r) {
    CURL *e = t->easy;
    curl_easy_setopt(e, CURLOPT_PRIVATE, t);
    curl_easy_setopt(e, CURLOPT_CURLU, t->url);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(r->timeout_s * 1000));
    curl_easy_setopt(e, CURLOPT_USERAGENT, "nibble/" NB_VERSION);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(e, CURLOPT_RESOLVE, t->resolve);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, t);
    if (r->body) {
        curl_easy_setopt(e, CURLOPT_POST, 1L);
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_bytes);
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, r->body);
    }
    if (r->guard) {
        /* A connection that another request made was not looked at for this one. */
        curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
        curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    }
}

struct nb_transfer *nb_client_begin(struct nb_client *client, const struct nb_client_request *r,
                                    struct nb_error *err) {
    struct nb_transfer *t = calloc(1, sizeof *t);
    if (!t) {
        nb_fail_memory(err, sizeof *t, "a request");
        return NULL;
    }
    t->client = client;
    t->max_bytes = r->max_bytes;
    t->guard = r->guard;
    t->on_done = r->on_done;
    t->context = r->context;
    enum nb_status s = set_url(t, r->url, err);
    t->easy = curl_easy_init();
    if (s == NB_OK && (!t->easy || !set_lists(t, r)))
        s = nb_fail_memory(err, sizeof *t, "a request");
    if (s == NB_OK) {
        set_options(t, r);
        if (curl_multi_add_handle(client->multi, t->easy) != CURLM_OK)
            s = nb_fail_memory(err, sizeof *t, "a request");
    }
    if (s != NB_OK) {
        free_transfer(t);
        return NULL;
    }
    t->next = client->transfers;
    if (t->next)
        t->next->previous = t;
    client->transfers = t;
    return t;
}

static void unlist(struct nb_transfer *t) {
    curl_multi_remove_handle(t->client->multi, t->easy);
    if (t->previous)
        t->previous->next = t->next;
    else
        t->client->transfers = t->next;
    if (t->next)
        t->next->previous = t->previous;
}

void nb_transfer_cancel(struct nb_transfer *t) {
    if (!t)
        return;
    unlist(t);
    free_transfer(t);
}

bool nb_transfer_answering(const struct nb_transfer *t) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    return status != 0;
}

static void finish(struct nb_transfer *t, CURLcode code) {
    long status = 0;
    curl_off_t retry_after = 0;
    const char *type = NULL;
    char error[CURL_ERROR_SIZE + 64] = "", kind[64] = "";
    unlist(t);
    if (t->too_long)
        snprintf(error, sizeof error, "the answer is longer than %zu bytes", t->max_bytes);
    else if (code && t->refused)
        snprintf(error, sizeof error, "the address is not allowed: %s", t->refused);
    else if (code)
        snprintf(error, sizeof error, "%s", t->error[0] ? t->error : curl_easy_strerror(code));
    if (!code) {
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &retry_after);
        curl_easy_getinfo(t->easy, CURLINFO_CONTENT_TYPE, &type);
    }
    snprintf(kind, sizeof kind, "%s", type ? type : "");
    kind[strcspn(kind, "; ")] = 0;
    struct nb_client_answer answer = {
        .status = (int)status,
        .type = kind,
        .body = t->body.data && !code ? t->body.data : "",
        .n = code ? 0 : t->body.len,
        .retry_after_s = (double)retry_after,
        .refused = code && t->refused,
        .error = error,
    };
    t->on_done(t->context, &answer);
    free_transfer(t);
}

/* ---- timers ---- */

void nb_timer_clear(struct nb_client *client, struct nb_timer *timer) {
    if (!timer->set)
        return;
    struct nb_timer **at = &client->timers;
    while (*at != timer)
        at = &(*at)->next;
    *at = timer->next;
    timer->set = false;
}

void nb_timer_set(struct nb_client *client, struct nb_timer *timer, double seconds) {
    nb_timer_clear(client, timer);
    timer->due_us = nb_now_us() + (int64_t)(seconds * 1e6);
    timer->set = true;
    struct nb_timer **at = &client->timers;
    while (*at && (*at)->due_us <= timer->due_us)
        at = &(*at)->next;
    timer->next = *at;
    *at = timer;
}

double nb_backoff_s(unsigned failures, double base_s, double max_s) {
    double pause = base_s;
    for (unsigned i = 1; i < failures && pause < max_s; i++)
        pause *= 2;
    uint32_t random = 0;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
        random = (uint32_t)nb_now_us() * 2654435761u;
    return (pause < max_s ? pause : max_s) * (0.5 + 0.5 * (double)random / 4294967296.0);
}

/* ---- the loop ---- */

bool nb_client_post(struct nb_client *client, struct nb_post *post) {
    pthread_mutex_lock(&client->lock);
    bool add = !post->queued && !client->stop;
    if (add) {
        post->queued = true;
        post->next = NULL;
        *client->last = post;
        client->last = &post->next;
    }
    pthread_mutex_unlock(&client->lock);
    if (add)
        curl_multi_wakeup(client->multi);
    return add;
}

static struct nb_post *take_post(struct nb_client *client, bool *stop) {
    pthread_mutex_lock(&client->lock);
    struct nb_post *post = client->posts;
    if (post) {
        client->posts = post->next;
        if (!client->posts)
            client->last = &client->posts;
        post->queued = false;
    }
    *stop = client->stop;
    pthread_mutex_unlock(&client->lock);
    return post;
}

/* Runs the timers that are due; milliseconds until the next. */
static int run_timers(struct nb_client *client) {
    while (client->timers && client->timers->due_us <= nb_now_us()) {
        struct nb_timer *timer = client->timers;
        nb_timer_clear(client, timer);
        timer->fn(timer->context);
    }
    if (!client->timers)
        return LONGEST_POLL_MS;
    int64_t ms = (client->timers->due_us - nb_now_us()) / 1000 + 1;
    return ms < 0 ? 0 : ms < LONGEST_POLL_MS ? (int)ms : LONGEST_POLL_MS;
}

static void *loop(void *context) {
    struct nb_client *client = context;
    for (bool stop = false; !stop;) {
        for (struct nb_post *post; (post = take_post(client, &stop));)
            post->fn(post->context);
        if (stop)
            break;
        int wait_ms = run_timers(client), running, left;
        curl_multi_perform(client->multi, &running);
        bool finished = false;
        for (CURLMsg *m; (m = curl_multi_info_read(client->multi, &left));) {
            struct nb_transfer *t;
            CURLcode code = m->data.result;
            if (m->msg != CURLMSG_DONE)
                continue;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
            finish(t, code);
            finished = true;
        }
        /* Callbacks may have begun transfers and set timers: those are looked at first. */
        if (!finished)
            curl_multi_poll(client->multi, NULL, 0, wait_ms, NULL);
    }
    return NULL;
}

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

enum nb_status nb_client_open(struct nb_client **out, struct nb_error *err) {
    pthread_once(&curl_once, init_curl);
    *out = NULL;
    struct nb_client *client = calloc(1, sizeof *client);
    CURLM *multi = curl_multi_init();
    if (!client || !multi) {
        free(client);
        curl_multi_cleanup(multi);
        return nb_fail_memory(err, sizeof *client, "the HTTP client");
    }
    client->multi = multi;
    client->last = &client->posts;
    pthread_mutex_init(&client->lock, NULL);
    int failed = pthread_create(&client->thread, NULL, loop, client);
    if (failed) {
        pthread_mutex_destroy(&client->lock);
        curl_multi_cleanup(multi);
        free(client);
        return nb_fail(err, NB_ERR_MEMORY, "cannot start a thread: %s", strerror(failed));
    }
    *out = client;
    return NB_OK;
}

void nb_client_stop(struct nb_client *client) {
    pthread_mutex_lock(&client->lock);
    bool running = !client->stop;
    client->stop = true;
    pthread_mutex_unlock(&client->lock);
    if (!running)
        return;
    curl_multi_wakeup(client->multi);
    pthread_join(client->thread, NULL);
}

void nb_client_close(struct nb_client *client) {
    if (!client)
        return;
    nb_client_stop(client);
    while (client->transfers)
        nb_transfer_cancel(client->transfers);
    curl_multi_cleanup(client->multi);
    pthread_mutex_destroy(&client->lock);
    free(client);
}
