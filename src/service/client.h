/* HTTP requests to elsewhere, many at once, and timers: an event loop on libcurl with a thread of
 * its own, on which all of this page's callbacks run.
 *
 * Redirects are not followed, proxies are not used, and nothing but http and https is spoken. A
 * request whose URL somebody else gave has a guard: it is made on a connection of its own, to an
 * address that the guard has seen.
 */
#ifndef NB_SERVICE_CLIENT_H
#define NB_SERVICE_CLIENT_H

#include "base/error.h"
#include "service/guard.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_client;
struct nb_transfer; /* a request on its way */

enum { NB_CLIENT_HEADERS = 8 };

/* What came of it. Good until the callback returns. */
struct nb_client_answer {
    int status;       /* 0: none came; `error` says why */
    const char *type; /* of the content, without parameters; "" if unknown */
    const char *body; /* [n], ends in NUL */
    size_t n;
    double retry_after_s; /* as the server asked; 0: it did not */
    bool refused;         /* the guard did not let it go */
    const char *error;    /* "" where a whole answer came */
};

struct nb_client_request {
    const char *url;
    const char *headers[NB_CLIENT_HEADERS]; /* "Name: value", up to a NULL */
    const char *body;                       /* [body_bytes] of a POST; NULL: a GET. Stays the
                                             * caller's, who keeps it until the end */
    size_t body_bytes;
    double timeout_s;
    size_t max_bytes;             /* of an answer; a longer one is an error */
    const struct nb_guard *guard; /* NULL: the URL is the operator's own */
    const char *const *resolve;   /* for tests: "HOST:PORT:ADDRESS" up to a NULL, instead of DNS;
                                   * may be NULL */
    void (*on_done)(void *context, const struct nb_client_answer *answer);
    void *context;
};

/* Starts the thread. */
enum nb_status nb_client_open(struct nb_client **out, struct nb_error *err);

/* Ends the thread, once all that was posted has run: no callback runs any more. From then on the
 * caller's thread is the loop's, for what is to be cancelled and cleared. */
void nb_client_stop(struct nb_client *client);

/* Stops, ends all transfers without a word, and frees. Not from a callback. NULL is allowed. */
void nb_client_close(struct nb_client *client);

/* ---- from any thread ---- */

/* Something to be run on the loop. All zero but fn and context; stays until it has run. */
struct nb_post {
    void (*fn)(void *context);
    void *context;
    struct nb_post *next;
    bool queued;
};

/* Has it run soon: true. False if it will not run for this call: it is posted already, and runs
 * once for both, or the client was stopped. */
bool nb_client_post(struct nb_client *client, struct nb_post *post);

/* ---- on the loop ---- */

/* Begins a request. NULL if memory ran out or the URL cannot be used, and then on_done is not
 * called. */
struct nb_transfer *nb_client_begin(struct nb_client *client,
                                    const struct nb_client_request *request, struct nb_error *err);

/* Ends it; on_done is not called. NULL is allowed. */
void nb_transfer_cancel(struct nb_transfer *transfer);

/* Whether some of an answer has come. */
bool nb_transfer_answering(const struct nb_transfer *transfer);

/* All zero but fn and context. */
struct nb_timer {
    void (*fn)(void *context);
    void *context;
    int64_t due_us;
    struct nb_timer *next;
    bool set;
};

/* Has it run once, in so many seconds; one that is set already is set anew. */
void nb_timer_set(struct nb_client *client, struct nb_timer *timer, double seconds);
void nb_timer_clear(struct nb_client *client, struct nb_timer *timer);

/* The pause before the attempt after `failures` that failed (1 or more): base_s, doubled for each,
 * at most max_s; of that a random part between half and all, so that many who failed together do
 * not come back together. */
double nb_backoff_s(unsigned failures, double base_s, double max_s);

#endif
