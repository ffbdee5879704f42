#include "service/exchange.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

bool nb_exchange_open(struct nb_exchange *x, const struct nb_transport *transport,
                      const char *method, const char *path) {
    x->path = strdup(path);
    if (!x->path)
        return false;
    snprintf(x->method, sizeof x->method, "%s", method);
    x->transport = transport;
    x->body = "";
    x->begun_us = nb_now_us();
    atomic_init(&x->references, 1);
    pthread_mutex_init(&x->lock, NULL);
    return true;
}

void nb_exchange_close(struct nb_exchange *x) {
    free(x->path);
    nb_buf_free(&x->out);
    pthread_mutex_destroy(&x->lock);
}

void nb_exchange_set_id(struct nb_exchange *x, const char *given) {
    size_t n = given ? strlen(given) : 0;
    if (n && n < sizeof x->id &&
        strspn(given, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n) {
        memcpy(x->id, given, n + 1);
        return;
    }
    uint64_t r[2] = {0};
    if (getrandom(r, sizeof r, 0) != sizeof r)
        r[0] = (uint64_t)nb_now_us();
    snprintf(x->id, sizeof x->id, "%016llx%08llx", (unsigned long long)r[0],
             (unsigned long long)(r[1] & 0xffffffff));
}

void nb_exchange_retain(struct nb_exchange *x) {
    atomic_fetch_add(&x->references, 1);
}

void nb_exchange_release(struct nb_exchange *x) {
    if (atomic_fetch_sub(&x->references, 1) == 1)
        x->transport->free(x);
}

const char *nb_exchange_header(const struct nb_exchange *x, const char *name) {
    return x->transport->header(x, name);
}

/* Under the lock: the head of an answer; false if there is one already, or nobody to take it. */
static bool begin(struct nb_exchange *x, int status, const char *type, const char *headers) {
    if (x->status || x->over)
        return false;
    x->status = status;
    snprintf(x->type, sizeof x->type, "%s", type);
    snprintf(x->headers, sizeof x->headers, "%s", headers ? headers : "");
    return true;
}

void nb_exchange_answer(struct nb_exchange *x, int status, const char *type, const void *body,
                        size_t n, const char *headers) {
    pthread_mutex_lock(&x->lock);
    if (begin(x, status, type, headers)) {
        nb_buf_add(&x->out, body, n);
        if (x->out.failed) { /* no room for a copy: say at least that */
            nb_buf_free(&x->out);
            x->status = 507;
        }
        x->ended = true;
        x->transport->changed(x);
    }
    pthread_mutex_unlock(&x->lock);
}

void nb_exchange_stream(struct nb_exchange *x, int status, const char *type) {
    pthread_mutex_lock(&x->lock);
    if (begin(x, status, type, NULL)) {
        x->streaming = true;
        x->transport->changed(x);
    }
    pthread_mutex_unlock(&x->lock);
}

bool nb_exchange_write(struct nb_exchange *x, const void *bytes, size_t n) {
    pthread_mutex_lock(&x->lock);
    bool there = !x->over && !x->gone;
    if (there) {
        nb_buf_add(&x->out, bytes, n);
        x->transport->changed(x);
    }
    pthread_mutex_unlock(&x->lock);
    return there;
}

void nb_exchange_end(struct nb_exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->ended = true;
    x->transport->changed(x);
    pthread_mutex_unlock(&x->lock);
}

void nb_exchange_watch(struct nb_exchange *x, void (*on_gone)(struct nb_exchange *exchange)) {
    pthread_mutex_lock(&x->lock);
    x->on_gone = on_gone;
    if (on_gone && x->gone)
        on_gone(x);
    pthread_mutex_unlock(&x->lock);
}

void nb_exchange_tell_gone(struct nb_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool tell = !x->gone && !x->ended && x->on_gone;
    x->gone = true;
    if (tell)
        x->on_gone(x);
    pthread_mutex_unlock(&x->lock);
}
