/* One HTTP request that the model answers, with one or several choices: from the scheduler's tokens
 * to text without stop strings, for whichever API asked. */
#ifndef NB_SERVICE_ANSWERING_H
#define NB_SERVICE_ANSWERING_H

#include "base/buf.h"
#include "engine/scheduler.h"
#include "model/tokenizer.h"
#include "service/http.h"

#include <jansson.h>
#include <pthread.h>

struct nb_service;
struct nb_answering;

enum { NB_MAX_CHOICES = 16, NB_MAX_STOPS = 16 };

struct nb_choice {
    struct nb_answering *answering;
    int index;
    uint64_t id; /* of the scheduler's */
    struct nb_buf text;
    size_t told;     /* bytes of it, by on_text */
    size_t calls_at; /* where text after answering->calls_token begins; SIZE_MAX: nowhere yet */
    size_t end;      /* where a stop string begins; SIZE_MAX: nowhere yet */
    int64_t last_us; /* of its last token */
    bool over;
    enum nb_status status;
    struct nb_error error;
    struct nb_generation generation; /* once it is over */
    size_t cached_tokens;
    double waiting_ms, first_token_ms, total_ms;
};

/* Made by a route, on the heap; freed by nb_answering_begin's machinery when all is over. */
struct nb_answering {
    struct nb_service *service;
    struct nb_exchange *exchange;
    json_t *body; /* owned; options may point into it */
    struct nb_generate_options options;
    const char *stop[NB_MAX_STOPS];
    size_t n_stop;
    struct nb_buf prompt;        /* where a route made a text */
    struct nb_grammar *grammar;  /* what the answers must be, or NULL; owned */
    struct nb_tokens prompt_ids; /* or ids */
    int n_choices;
    int32_t calls_token; /* a special token to be noticed, which has no text; -1: none */
    uint64_t client;     /* of the API key */
    double timeout_ms;
    void *route_context; /* freed with free() */

    /* Text of a choice that is certain, as it comes (may be NULL). On the scheduler's thread. */
    void (*on_text)(struct nb_answering *answering, struct nb_choice *choice, const char *text,
                    size_t n);
    /* A token's log probabilities, before its text, as nb_generate_options.on_logprobs has them
     * (may be NULL). Likewise. */
    void (*on_logprobs)(struct nb_answering *answering, struct nb_choice *choice, int32_t id,
                        double logprob, const int32_t *top_ids, const double *top_logprobs,
                        size_t n_top);
    /* All choices are over: answers the exchange. On the scheduler's thread; never if
     * nb_answering_begin failed. */
    void (*on_over)(struct nb_answering *answering);

    /* Below: the machinery's own. */
    struct nb_choice choices[NB_MAX_CHOICES];
    pthread_mutex_t lock;
    int pending;
    bool gone;
};

/* All zero but for the defaults, with context_bytes of zeros for the route. client: of
 * nb_auth_enter, which it leaves when it is freed. NULL, and it has left, if memory ran out. */
struct nb_answering *nb_answering_new(struct nb_service *service, struct nb_exchange *exchange,
                                      uint64_t client, size_t context_bytes);

/* Submits it. If that fails it is freed, and the caller answers the exchange. */
enum nb_status nb_answering_begin(struct nb_answering *answering, struct nb_error *err);

/* For a route that gives up before nb_answering_begin. */
void nb_answering_free(struct nb_answering *answering);

/* The text of a choice that is over, without a stop string. */
const char *nb_choice_text(const struct nb_choice *choice, size_t *n);

#endif
