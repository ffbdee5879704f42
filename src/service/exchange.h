/* A request and its answer, from wherever it came: a connection, a queue.
 *
 * A handler gets the request whole, and answers at once or later, from any thread, whole or as a
 * stream. Who brought the request hears of each addition and takes it away.
 */
#ifndef NB_SERVICE_EXCHANGE_H
#define NB_SERVICE_EXCHANGE_H

#include "base/buf.h"
#include "base/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_exchange;

/* What a transport does. */
struct nb_transport {
    /* The value of a header, or NULL. */
    const char *(*header)(const struct nb_exchange *exchange, const char *name);
    /* Under the lock: there is more to send. */
    void (*changed)(struct nb_exchange *exchange);
    /* The last reference is gone: frees what is the transport's own, and the exchange. */
    void (*free)(struct nb_exchange *exchange);
};

struct nb_exchange {
    /* The request; stays as long as the exchange. */
    char method[16];
    char *path;       /* without the query; owned */
    const char *body; /* [body_bytes], ends in NUL */
    size_t body_bytes;
    char id[40];   /* the client's own where it is harmless, or one of ours */
    char peer[64]; /* the client's address */
    int64_t begun_us;

    void *context; /* the handler's own */
    /* Paths of this machine that no error may show, up to a NULL; or NULL. The handler's own. */
    const char *const *private_paths;

    const struct nb_transport *transport;
    atomic_int references;
    pthread_mutex_t lock; /* of what follows */
    struct nb_buf out;    /* of the answer, that was not sent yet */
    int status;           /* of the answer; 0: none yet */
    bool streaming;
    bool ended; /* nothing more comes */
    bool over;  /* nobody takes the answer any more: it was sent, or the client went */
    bool gone;  /* the client went before its answer ended */
    char type[64], headers[256];
    void (*on_gone)(struct nb_exchange *exchange);
};

/* ---- for handlers ---- */

/* The value of a header, or NULL. On the handler's thread only. */
const char *nb_exchange_header(const struct nb_exchange *exchange, const char *name);

/* An answer, once: a status, a content type, a body, which is copied, and more headers ("Name:
 * value\r\n" each, or NULL). After the client has gone it does nothing. */
void nb_exchange_answer(struct nb_exchange *exchange, int status, const char *type,
                        const void *body, size_t n, const char *headers);

/* Or a stream: it begins, more is written, it ends. `write` is false once the client is gone. */
void nb_exchange_stream(struct nb_exchange *exchange, int status, const char *type);
bool nb_exchange_write(struct nb_exchange *exchange, const void *bytes, size_t n);
void nb_exchange_end(struct nb_exchange *exchange);

/* Has on_gone called, once, on some thread, if the client goes away before the answer ends; at once
 * if it has gone already. NULL: no more; after that it does not run, also not on another thread.
 * on_gone must not call functions of this page. */
void nb_exchange_watch(struct nb_exchange *exchange, void (*on_gone)(struct nb_exchange *exchange));

/* A handler is called with one reference of its own, and releases it when it is done. */
void nb_exchange_retain(struct nb_exchange *exchange);
void nb_exchange_release(struct nb_exchange *exchange);

/* ---- for transports ---- */

/* The first reference is the caller's. False if memory ran out. */
bool nb_exchange_open(struct nb_exchange *exchange, const struct nb_transport *transport,
                      const char *method, const char *path);

/* Frees what nb_exchange_open and the answer took, for a transport's `free`. */
void nb_exchange_close(struct nb_exchange *exchange);

/* The client's id if it is of letters, digits and "-_." only, so that it can stand in a log; else,
 * and for NULL, a random one. */
void nb_exchange_set_id(struct nb_exchange *exchange, const char *given);

/* The client went away: tells the handler, once, unless its answer has ended. */
void nb_exchange_tell_gone(struct nb_exchange *exchange);

#endif
