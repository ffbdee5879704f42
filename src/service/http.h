/* HTTP/1.1 on libmicrohttpd: requests whole, answers whole or as server-sent events, from any
 * thread.
 *
 * A handler is called on one of the server's threads once a request's body is there. It answers at
 * once or keeps the exchange and answers later from another thread; no thread waits meanwhile. A
 * client that goes away while its answer is awaited is noticed within a fraction of a second.
 */
#ifndef NB_SERVICE_HTTP_H
#define NB_SERVICE_HTTP_H

#include "service/exchange.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_http; /* a server */

struct nb_http_options {
    const char *host; /* an address; NULL: 127.0.0.1 */
    uint16_t port;    /* 0: any that is free, see nb_http_port */
    size_t max_body_bytes;
    unsigned max_connections;
    unsigned idle_timeout_s; /* a connection that says nothing, or does not read, is closed; so is
                              * one whose head, or whose body, is not there after as long, or which
                              * has not taken an answer that long after its end */
    unsigned threads;
    const char *allow_origin; /* CORS: an origin or "*"; NULL: none */

    /* Looks at a request of which the head is there: false if it has answered by that alone; then
     * the body is not kept, and `handle` does not see the request. May be NULL. */
    bool (*admit)(void *context, struct nb_exchange *exchange);
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

/* Waits until every request that a handler has taken is answered and its answer sent: true, or
 * false after timeout_ms. */
bool nb_http_drain(struct nb_http *http, double timeout_ms);

/* Ends what is left, and frees. Every exchange must have been released, or be released soon: it
 * waits. NULL is allowed. */
void nb_http_close(struct nb_http *http);

#endif
