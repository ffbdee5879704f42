/* HTTP/1.1 on libmicrohttpd: requests whole, answers whole or as server-sent events, from any
 * thread.
 *
 * A handler is called on one of the server's threads once a request's body is there. It answers at
 * once or keeps the exchange and answers later from another thread; no thread waits meanwhile. A
 * client that goes away while its answer is awaited is noticed within a fraction of a second.
 */
#ifndef NB_SERVICE_HTTP_H
#define NB_SERVICE_HTTP_H

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_http; /* a server */

/* One request and its answer. What it points to is owned by the server and stays until the last
 * nb_http_release. */
struct nb_exchange {
    char method[16];
    const char *path; /* without the query */
    const char *body; /* [body_bytes], ends in NUL */
    size_t body_bytes;
    char id[40];   /* X-Request-Id of the client where it is harmless, or one of ours */
    char peer[64]; /* the client's address */
    int64_t begun_us;
    void *context; /* the handler's own */
};

/* Has on_gone called, once, on some thread, if the client goes away before the answer ends; at once
 * if it has gone already. NULL: no more; after that it does not run, also not on another thread.
 * on_gone must not call nb_http functions. */
void nb_http_watch(struct nb_exchange *exchange, void (*on_gone)(struct nb_exchange *exchange));

/* The value of a header, or NULL. On the handler's thread only. */
const char *nb_http_header(const struct nb_exchange *exchange, const char *name);

struct nb_http_options {
    const char *host; /* an address; NULL: 127.0.0.1 */
    uint16_t port;    /* 0: any that is free, see nb_http_port */
    size_t max_body_bytes;
    unsigned max_connections;
    unsigned idle_timeout_s; /* a connection that says nothing, or does not read, is closed */
    unsigned threads;
    const char *allow_origin; /* CORS: an origin or "*"; NULL: none */

    /* Answers a request, or keeps it. */
    void (*handle)(void *context, struct nb_exchange *exchange);
    /* A request is over: the status it got, bytes of the answer (0 and 0 if the client went
     * before). May be NULL. */
    void (*log)(void *context, const struct nb_exchange *exchange, int status, uint64_t bytes);
    /* The answer to what the server refuses itself (413, 400): JSON in *out. May be NULL. */
    void (*refuse)(void *context, const char *path, int status, const char *message,
                   struct nb_buf *out);
    void *context;
};

enum nb_status nb_http_open(const struct nb_http_options *options, struct nb_http **out,
                            struct nb_error *err);
uint16_t nb_http_port(const struct nb_http *http);
size_t nb_http_connections(struct nb_http *http);

/* Accepts no more connections; those that are open go on. */
void nb_http_quiesce(struct nb_http *http);

/* Ends what is left, and frees. Every exchange must have been released, or be released soon: it
 * waits. NULL is allowed. */
void nb_http_close(struct nb_http *http);

/* An answer, once: a status, a content type, a body, which is copied, and more headers ("Name:
 * value\r\n" each, or NULL). After the client has gone it does nothing. */
void nb_http_answer(struct nb_exchange *exchange, int status, const char *type, const void *body,
                    size_t n, const char *headers);

/* Or a stream: it begins, more is written, it ends. `write` is false once the client is gone. */
void nb_http_stream(struct nb_exchange *exchange, int status, const char *type);
bool nb_http_write(struct nb_exchange *exchange, const void *bytes, size_t n);
void nb_http_end(struct nb_exchange *exchange);

/* The handler is called with one reference of its own, and releases it when it is done with the
 * exchange. */
void nb_http_retain(struct nb_exchange *exchange);
void nb_http_release(struct nb_exchange *exchange);

#endif
