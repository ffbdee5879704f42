/* Many answers at once: requests join and leave a batch at every step.
 *
 * A thread of the scheduler's own runs the steps; it alone uses the engine. A step takes one token
 * of every sequence that is answering and some of the prompts of those that are not yet: as many
 * as keep the step short for the others. Prompts that begin as earlier ones did share their pages;
 * one that begins as another that is being read waits until that is read so far.
 * When pages run out, the sequence that came last gives its own back and waits; what it had is
 * computed again, or found again, later. Of the requests that wait, those of clients with the
 * fewest running go first, then the oldest.
 *
 * Continuous batching: Yu et al., "Orca", 2022; pages: Kwon et al., "PagedAttention", 2023.
 */
#ifndef NB_ENGINE_SCHEDULER_H
#define NB_ENGINE_SCHEDULER_H

#include "nibble/nibble.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_scheduler;

struct nb_scheduler_options {
    size_t max_running;   /* sequences in a step; 0: 64 */
    size_t max_waiting;   /* requests beyond those; 0: 1024 */
    bool no_prefix_cache; /* nothing is shared */
};

/* What became of a request. Times in milliseconds from its submission. */
struct nb_answer {
    enum nb_status status;
    const struct nb_error *error;     /* NULL unless status says so */
    struct nb_generation *generation; /* the callback may take what it holds (and zero it) */
    size_t cached_tokens;             /* of the prompt, that did not have to be computed */
    double waiting_ms;                /* until it first was in a step */
    double first_token_ms;            /* until its first token was drawn; 0 if none was */
    double total_ms;
};

struct nb_request {
    /* options.on_token is called on the scheduler's thread and must not wait for anything. What the
     * options point to, the prompt aside, must stay until on_done. */
    struct nb_generate_options options;
    /* Instead of an answer: the log probabilities of the prompt's last n_scores tokens, each after
     * all that stand before it, into scores [n_scores]; at least one token stands before them. Of
     * the options the prompt counts alone; the generation has no tokens. 0: an answer. */
    size_t n_scores;
    double *scores;
    uint64_t client;   /* whose it is: clients share fairly */
    double timeout_ms; /* 0: none; NB_ERR_STOPPED after it */
    /* Called once, on the scheduler's thread, if nb_scheduler_submit succeeded. */
    void (*on_done)(void *context, struct nb_answer *answer);
    void *context;
};

/* Takes the engine for itself; the caller closes it after the scheduler. */
enum nb_status nb_scheduler_open(struct nb_engine *engine,
                                 const struct nb_scheduler_options *options,
                                 struct nb_scheduler **out, struct nb_error *err);

/* Ends what runs and waits with NB_ERR_STOPPED, and the thread; from then on requests are refused.
 * NULL is allowed, and so is a second time. */
void nb_scheduler_stop(struct nb_scheduler *scheduler);

/* Stops, and frees. NULL is allowed. */
void nb_scheduler_close(struct nb_scheduler *scheduler);

/* Checks a request and tokenizes its prompt on the caller's thread, and queues it. NB_ERR_BUSY if
 * too many wait already, NB_ERR_LIMIT if the prompt never fits; NB_ERR_STOPPED while draining. *id
 * (may be NULL) is for nb_scheduler_cancel; on_done may be called before this returns. */
enum nb_status nb_scheduler_submit(struct nb_scheduler *scheduler, const struct nb_request *request,
                                   uint64_t *id, struct nb_error *err);

/* Ends a request, if it is not over, with what it has: NB_OK and NB_FINISH_CALLER; or what was
 * posted. */
void nb_scheduler_cancel(struct nb_scheduler *scheduler, uint64_t id);

/* Has fn run on the scheduler's thread, once, one such piece of work at a time: for what uses the
 * engine itself. While it appends to sequences of its own (nb_sequence_append), steps of requests
 * go on in between, and those give it pages where they run out; callbacks of requests may thus be
 * called while fn runs. Once it was cancelled (by *id, which is set before fn runs; NULL is
 * allowed), is not over timeout_ms from now (0: no limit), or the scheduler stops, its appends fail
 * with NB_ERR_STOPPED. NB_ERR_STOPPED, and fn will not run, while draining; NB_ERR_BUSY if too much
 * waits already. */
enum nb_status nb_scheduler_post(struct nb_scheduler *scheduler, void (*fn)(void *context),
                                 void *context, double timeout_ms, uint64_t *id,
                                 struct nb_error *err);

/* Takes no more requests, and waits until all are answered: true, or false after timeout_ms. */
bool nb_scheduler_drain(struct nb_scheduler *scheduler, double timeout_ms);

struct nb_scheduler_stats {
    size_t running, waiting;
    size_t pages, pages_free,
        pages_cached; /* in all; holding nothing; holding a prefix that nobody uses now */
    uint64_t steps;
    uint64_t step_us;                                        /* in all of them */
    uint64_t batch_tokens;                                   /* likewise */
    uint64_t prompt_tokens, cached_tokens, generated_tokens; /* of requests begun */
    uint64_t preemptions;
};
void nb_scheduler_stats(struct nb_scheduler *scheduler, struct nb_scheduler_stats *out);

#endif
