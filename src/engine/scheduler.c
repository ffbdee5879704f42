#include "engine/scheduler.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/generator.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    DEFAULT_RUNNING = 64,
    DEFAULT_WAITING = 1024,
    SPARE = 1,        /* pages that stay free for each that runs when another begins, */
    SPARE_AGAIN = 4,  /* or begins again after it gave its own back */
    LEAST_CHUNK = 16, /* prompt tokens that a step takes at least, whoever waits */
    PATIENCE = 2,     /* a step may take this much longer for prompts than for answers alone, */
    LEAST_PATIENCE_US = 10000, /* or this long, if that is more */
    SCORED_ROWS = 32,          /* rows of logits that a step takes of a request for scores */
    WORTH_WAITING = 64,        /* tokens of a prompt that another is about to have read */
};

/* When something is over, done or not. */
struct limit {
    uint64_t id;       /* by which it is cancelled */
    bool cancelled;    /* under the lock */
    double timeout_ms; /* 0: none */
    int64_t deadline;  /* microseconds, of that */
};

/* A request on its way. */
struct item {
    struct item *next; /* of those that wait */
    struct limit limit;
    struct nb_request request;
    struct nb_generator generator;
    struct nb_sequence sequence; /* open while it runs */
    struct nb_tokens tokens; /* all that belong into the sequence: the prompt, and what was drawn */
    size_t chunk;            /* of them in this step */
    size_t scored_from;      /* of a request for scores: the first token that gets one */
    bool begun;              /* has been in a step, so that it goes on before others begin */
    int64_t submitted;       /* microseconds */
    size_t cached_tokens;
    int64_t first_step, first_token;
};

/* Something to be run between steps. */
struct call {
    struct call *next;
    struct limit limit;
    void (*fn)(void *context);
    void *context;
};

struct nb_scheduler {
    struct nb_engine *engine;
    size_t max_running, max_waiting;
    bool no_prefix_cache;
    pthread_t thread;

    pthread_mutex_t lock;       /* of all that follows, to the next comment */
    pthread_cond_t wake;        /* for the thread: there is something to do */
    pthread_cond_t idle;        /* for others: nothing is left */
    struct item *first, **last; /* of those that wait */
    size_t n_waiting, n_running;
    struct call *calls, **last_call;
    size_t n_calls; /* the one that runs now among them */
    struct call
        *call; /* that one, which may hold pages, too; NULL: none. Set by the thread alone */
    uint64_t last_id;
    bool started, stop, draining;
    struct nb_scheduler_stats stats;

    /* The thread's own; `running` and the items' ids are read by others under the lock. */
    struct item **running;      /* [max_running], in the order they began */
    struct nb_step_part *parts; /* [max_running] */
    struct item **in_step;      /* [max_running] the item of each part */
    double decode_us;           /* a step without prompts takes, lately */
    double prompt_token_us;     /* a token of a prompt adds, lately */
};

static struct timespec after_ms(double ms) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    double s = ms / 1000;
    t.tv_sec += (time_t)s;
    t.tv_nsec += (long)((s - (double)(time_t)s) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* ---- the end of a request ---- */

static void free_item(struct item *item) {
    nb_sequence_close(&item->sequence);
    nb_generator_close(&item->generator);
    nb_tokens_free(&item->tokens);
    free(item);
}

/* Tells the request's owner, and frees the item, which is in no list any more. */
static void answer(struct nb_scheduler *s, struct item *item, enum nb_status status,
                   struct nb_error *err) {
    if (item->sequence.engine && !s->no_prefix_cache && status == NB_OK)
        nb_sequence_publish(&item->sequence, item->tokens.ids);
    nb_sequence_close(&item->sequence);
    struct nb_generation generation = {0};
    nb_generator_end_text(&item->generator, status == NB_OK);
    if (status == NB_OK)
        status = nb_generator_finish(&item->generator, &generation, err);
    int64_t now = nb_now_us();
    double first_step = item->first_step ? (double)(item->first_step - item->submitted) / 1000 : 0,
           first_token =
               item->first_token ? (double)(item->first_token - item->submitted) / 1000 : 0;
    generation.prefill_ms = item->first_token ? first_token - first_step : 0;
    generation.decode_ms = item->first_token ? (double)(now - item->first_token) / 1000 : 0;
    struct nb_answer a = {
        .status = status,
        .error = status == NB_OK ? NULL : err,
        .generation = &generation,
        .cached_tokens = item->cached_tokens,
        .waiting_ms = first_step,
        .first_token_ms = first_token,
        .total_ms = (double)(now - item->submitted) / 1000,
    };
    item->request.on_done(item->request.context, &a);
    nb_generation_free(&generation);
    free_item(item);
}

/* Under the lock. */
static void remove_running(struct nb_scheduler *s, size_t i) {
    memmove(s->running + i, s->running + i + 1, (s->n_running - i - 1) * sizeof *s->running);
    s->n_running--;
}

static void end_running(struct nb_scheduler *s, size_t i, enum nb_status status,
                        struct nb_error *err) {
    pthread_mutex_lock(&s->lock);
    struct item *item = s->running[i];
    remove_running(s, i);
    pthread_mutex_unlock(&s->lock);
    answer(s, item, status, err);
}

/* ---- who runs ---- */

/* Tokens that are to be appended to the sequence. The last one that gets a score is not: nothing
 * comes after it. */
static size_t left(const struct item *item) {
    return item->tokens.n - (item->request.n_scores ? 1 : 0) - (size_t)item->sequence.n;
}

/* Whether the beginning of a prompt is being read now, as another's, so that waiting for that
 * spares reading it twice. */
static bool is_being_read(const struct nb_scheduler *s, const struct item *item) {
    if (s->no_prefix_cache || item->begun)
        return false;
    for (size_t i = 0; i < s->n_running; i++) {
        const struct item *other = s->running[i];
        if (other->first_token || left(other) < 2)
            continue;
        size_t most = item->tokens.n - 1 < other->tokens.n ? item->tokens.n - 1 : other->tokens.n;
        size_t n = 0;
        while (n < most && item->tokens.ids[n] == other->tokens.ids[n])
            n++;
        n -= n % NB_PAGE_TOKENS;
        if (n >= (size_t)other->sequence.n + WORTH_WAITING)
            return true;
    }
    return false;
}

/* Under the lock: the item that goes next, as the address of the pointer to it. One that has begun
 * and had to give its pages back, first; then of the client with the fewest running; then the
 * oldest. */
static struct item **choose(struct nb_scheduler *s) {
    struct item **best = NULL;
    size_t best_running = 0;
    for (struct item **at = &s->first; *at; at = &(*at)->next) {
        if ((*at)->begun)
            return at;
        size_t n = 0;
        for (size_t i = 0; i < s->n_running; i++)
            n += s->running[i]->request.client == (*at)->request.client;
        if (best && n >= best_running)
            continue;
        if (is_being_read(s, *at))
            continue;
        best = at;
        best_running = n;
        if (n == 0)
            break;
    }
    return best;
}

/* Under the lock: takes an item off the list of those that wait. */
static struct item *unlink_item(struct nb_scheduler *s, struct item **at) {
    struct item *item = *at;
    *at = item->next;
    if (s->last == &item->next)
        s->last = at;
    s->n_waiting--;
    return item;
}

/* Under the lock: puts an item back at the head of those that wait. */
static void put_back(struct nb_scheduler *s, struct item *item) {
    item->next = s->first;
    s->first = item;
    if (s->last == &s->first)
        s->last = &item->next;
    s->n_waiting++;
}

/* Under the lock: opens the sequence of an item that is to run. NB_ERR_LIMIT if its pages are not
 * to be had now. */
static enum nb_status begin(struct nb_scheduler *s, struct item *item, struct nb_error *err) {
    enum nb_status status = nb_sequence_open(s->engine, &item->sequence, err);
    if (status != NB_OK)
        return status;
    int32_t cached = 0;
    if (!s->no_prefix_cache)
        cached = nb_sequence_reuse(&item->sequence, item->tokens.ids,
                                   item->request.n_scores ? item->scored_from : item->tokens.n);
    size_t need = nb_sequence_pages_for(&item->sequence, item->tokens.n - (size_t)cached),
           available = nb_pages_available(&s->engine->pages),
           spare = s->n_running * (item->begun ? SPARE_AGAIN : SPARE);
    if (need + spare > available) {
        nb_sequence_close(&item->sequence);
        return nb_fail(err, NB_ERR_LIMIT,
                       "%zu pages of KV memory are wanted for %zu tokens, %zu of %zu are free",
                       need, item->tokens.n, available, s->engine->pages.n_pages);
    }
    if (!item->begun) {
        item->begun = true;
        item->cached_tokens = (size_t)cached;
        item->first_step = nb_now_us();
        s->stats.prompt_tokens += item->tokens.n;
        s->stats.cached_tokens += (size_t)cached;
    }
    return NB_OK;
}

/* Lets those that wait begin, as far as there is room. */
static void admit(struct nb_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    while (s->n_running < s->max_running) {
        struct item **at = choose(s);
        if (!at)
            break;
        struct item *item = unlink_item(s, at);
        struct nb_error err;
        enum nb_status status = begin(s, item, &err);
        if (status == NB_OK) {
            s->running[s->n_running++] = item;
        } else if (status == NB_ERR_LIMIT && (s->n_running || s->call)) {
            put_back(s, item);
            break;
        } else {
            pthread_mutex_unlock(&s->lock);
            answer(s, item, status, &err);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static struct limit limit_from(int64_t now, double timeout_ms) {
    return (struct limit){.timeout_ms = timeout_ms,
                          .deadline = timeout_ms > 0 ? now + (int64_t)(timeout_ms * 1000) : 0};
}

/* Under the lock: whether what has this limit is to end now. */
static bool is_over(const struct nb_scheduler *s, const struct limit *limit, int64_t now) {
    return limit->cancelled || s->stop || (limit->deadline && now > limit->deadline);
}

/* Why, where it was not cancelled. */
static enum nb_status ended_early(const struct limit *limit, bool stop, struct nb_error *err) {
    return stop ? nb_fail(err, NB_ERR_STOPPED, "the program is stopping")
                : nb_fail(err, NB_ERR_STOPPED, "the answer took longer than %.0f ms",
                          limit->timeout_ms);
}

/* Ends what was cancelled or took too long. */
static void end_cancelled(struct nb_scheduler *s) {
    int64_t now = nb_now_us();
    struct item *ended = NULL;
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    for (struct item **at = &s->first; *at;) {
        if (!is_over(s, &(*at)->limit, now)) {
            at = &(*at)->next;
            continue;
        }
        struct item *item = unlink_item(s, at);
        item->next = ended;
        ended = item;
    }
    for (size_t i = s->n_running; i-- > 0;) {
        if (!is_over(s, &s->running[i]->limit, now))
            continue;
        s->running[i]->next = ended;
        ended = s->running[i];
        remove_running(s, i);
    }
    pthread_mutex_unlock(&s->lock);
    while (ended) {
        struct item *item = ended;
        ended = item->next;
        struct nb_error err;
        enum nb_status status = NB_OK;
        item->generator.finish = NB_FINISH_CALLER;
        if (!item->limit.cancelled)
            status = ended_early(&item->limit, stop, &err);
        answer(s, item, status, &err);
    }
}

/* ---- a step ---- */

/* How many tokens of prompts this step takes: all that fit into a batch if nobody is answering,
 * else as many as do not keep those who are waiting long. */
static size_t prompt_budget(const struct nb_scheduler *s, size_t answering) {
    size_t most = s->engine->max_batch_tokens;
    most = most > answering + LEAST_CHUNK ? most - answering : LEAST_CHUNK;
    if (!answering || s->prompt_token_us <= 0)
        return most;
    double patience = s->decode_us * (PATIENCE - 1);
    if (patience < LEAST_PATIENCE_US)
        patience = LEAST_PATIENCE_US;
    double n = patience / s->prompt_token_us;
    return n < LEAST_CHUNK ? LEAST_CHUNK : n > (double)most ? most : (size_t)n;
}

/* How many tokens of an item a step may take. */
static size_t most_chunk(const struct item *item) {
    size_t n = (size_t)item->sequence.n, all = left(item);
    if (!item->request.n_scores)
        return all;
    size_t plain = item->scored_from - 1 > n ? item->scored_from - 1 - n : 0;
    return all < plain + SCORED_ROWS ? all : plain + SCORED_ROWS;
}

/* Rows of logits that an item's chunk is asked for: those after its last tokens. */
static size_t wanted_rows(const struct item *item) {
    if (!item->request.n_scores)
        return item->chunk == left(item);
    size_t n = (size_t)item->sequence.n, end = n + item->chunk, first = item->scored_from - 1;
    return end <= first ? 0 : first > n ? end - first : item->chunk;
}

/* Sets every item's chunk. Prompts share the budget evenly; what short ones leave goes to the
 * first. */
static void set_chunks(struct nb_scheduler *s) {
    size_t answering = 0, prompts = 0;
    for (size_t i = 0; i < s->n_running; i++) {
        struct item *item = s->running[i];
        item->chunk = left(item) == 1;
        answering += item->chunk;
        prompts += !item->chunk;
    }
    size_t budget = prompt_budget(s, answering);
    while (prompts && budget) {
        size_t share = budget / prompts ? budget / prompts : 1;
        prompts = 0;
        for (size_t i = 0; i < s->n_running && budget; i++) {
            struct item *item = s->running[i];
            size_t more = most_chunk(item) - item->chunk;
            if (!more)
                continue;
            more = more < share ? more : share;
            more = more < budget ? more : budget;
            item->chunk += more;
            budget -= more;
            prompts += most_chunk(item) > item->chunk;
        }
    }
}

/* Takes the pages of whoever began last, and lets it wait. */
static void preempt(struct nb_scheduler *s) {
    struct item *item = s->running[s->n_running - 1];
    if (!s->no_prefix_cache)
        nb_sequence_publish(&item->sequence, item->tokens.ids);
    nb_sequence_close(&item->sequence);
    pthread_mutex_lock(&s->lock);
    remove_running(s, s->n_running - 1);
    put_back(s, item);
    s->stats.preemptions++;
    pthread_mutex_unlock(&s->lock);
}

/* Preempts until the pages of this step are to be had; the last only for a call's sake. */
static void make_room(struct nb_scheduler *s) {
    for (;;) {
        size_t need = 0;
        for (size_t i = 0; i < s->n_running; i++) {
            const struct item *item = s->running[i];
            need += item->chunk ? nb_sequence_pages_for(&item->sequence, item->chunk) : 0;
        }
        if (need <= nb_pages_available(&s->engine->pages) || s->n_running < (s->call ? 1 : 2))
            return;
        preempt(s);
    }
}

static size_t make_parts(struct nb_scheduler *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_running; i++) {
        struct item *item = s->running[i];
        if (!item->chunk)
            continue;
        s->in_step[n] = item;
        s->parts[n++] = (struct nb_step_part){
            .sequence = &item->sequence,
            .tokens = item->tokens.ids + item->sequence.n,
            .n = item->chunk,
            .n_logits = wanted_rows(item),
        };
    }
    return n;
}

/* Remembers how long steps take. */
static void note_time(struct nb_scheduler *s, size_t n_parts, double us) {
    enum { MEMORY = 8 };
    size_t prompt = 0, answering = 0;
    for (size_t i = 0; i < n_parts; i++) {
        if (s->parts[i].n > 1)
            prompt += s->parts[i].n;
        else
            answering++;
    }
    double *which = &s->decode_us, value = us;
    if (prompt >= LEAST_CHUNK) {
        which = &s->prompt_token_us;
        value = (us - (answering ? s->decode_us : 0)) / (double)prompt;
        value = value > 0 ? value : 0;
    } else if (prompt) {
        which = NULL;
    }
    if (which)
        *which = *which > 0 ? *which + (value - *which) / MEMORY : value;
    pthread_mutex_lock(&s->lock);
    s->stats.steps++;
    s->stats.step_us += (uint64_t)us;
    s->stats.batch_tokens += prompt + answering;
    pthread_mutex_unlock(&s->lock);
}

static size_t index_of(const struct nb_scheduler *s, const struct item *item) {
    size_t i = 0;
    while (s->running[i] != item)
        i++;
    return i;
}

/* A token from the logits of an item, and what follows from it. */
static void take(struct nb_scheduler *s, struct item *item, float *logits) {
    struct nb_error err;
    if (!item->first_token) {
        item->first_token = nb_now_us();
        if (!s->no_prefix_cache)
            nb_sequence_publish(&item->sequence, item->tokens.ids);
    }
    size_t before = item->generator.generated.n;
    enum nb_status status = nb_generator_take(&item->generator, logits, &err);
    pthread_mutex_lock(&s->lock);
    s->stats.generated_tokens += item->generator.generated.n - before;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < item->generator.n_next && status == NB_OK; i++) {
        if (!nb_tokens_add(&item->tokens, item->generator.next[i]))
            status = nb_fail_memory(&err, item->tokens.n * sizeof(int32_t), "the tokens");
    }
    if (status != NB_OK || item->generator.done)
        end_running(s, index_of(s, item), status, &err);
}

/* Scores from rows [n_rows] of logits after the last of an item's tokens that were appended. */
static void take_scores(struct nb_scheduler *s, struct item *item, const float *logits,
                        size_t n_rows) {
    size_t n_vocab = (size_t)s->engine->model.config.n_vocab;
    size_t next = (size_t)item->sequence.n + 1 - n_rows; /* the token that the first row is about */
    if (!item->first_token)
        item->first_token = nb_now_us();
    for (size_t i = 0; i < n_rows; i++)
        item->request.scores[next + i - item->scored_from] =
            nb_log_probability(logits + i * n_vocab, n_vocab, item->tokens.ids[next + i]);
    if (left(item))
        return;
    struct nb_error err;
    item->generator.finish = NB_FINISH_STOP;
    end_running(s, index_of(s, item), NB_OK, &err);
}

/* Lets others begin with what has been read of a long prompt. */
static void publish_progress(struct nb_scheduler *s, struct item *item) {
    pthread_mutex_lock(&s->lock);
    bool waited_for = s->n_waiting > 0;
    pthread_mutex_unlock(&s->lock);
    if (waited_for && !s->no_prefix_cache)
        nb_sequence_publish(&item->sequence, item->tokens.ids);
}

static void step(struct nb_scheduler *s) {
    set_chunks(s);
    make_room(s);
    size_t n = make_parts(s);
    if (!n)
        return;
    struct nb_error err;
    float *logits;
    int64_t start = nb_now_us();
    enum nb_status status = nb_engine_step(s->engine, s->parts, n, &logits, &err);
    note_time(s, n, (double)(nb_now_us() - start));
    for (size_t i = 0; i < n; i++) {
        struct item *item = s->in_step[i];
        if (status != NB_OK) {
            end_running(s, index_of(s, item), status, &err);
            continue;
        }
        size_t rows = s->parts[i].n_logits;
        if (!item->first_token && s->parts[i].n > 1)
            publish_progress(s, item);
        if (rows && item->request.n_scores)
            take_scores(s, item, logits, rows);
        else if (rows)
            take(s, item, logits);
        if (rows) /* a step without any has no logits */
            logits += rows * (size_t)s->engine->model.config.n_vocab;
    }
}

/* ---- the thread ---- */

static void advance(struct nb_scheduler *s) {
    end_cancelled(s);
    admit(s);
    if (s->n_running)
        step(s);
}

/* Steps of requests between those of a call: see nb_engine. */
static enum nb_status meanwhile(void *context, size_t pages, struct nb_error *err) {
    struct nb_scheduler *s = context;
    const struct limit *limit = &s->call->limit;
    advance(s);
    while (s->n_running && nb_pages_available(&s->engine->pages) < pages)
        preempt(s);
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop, cancelled = limit->cancelled, over = is_over(s, limit, nb_now_us());
    pthread_mutex_unlock(&s->lock);
    if (over && cancelled)
        return nb_fail(err, NB_ERR_STOPPED, "it was cancelled");
    return over ? ended_early(limit, stop, err) : NB_OK;
}

/* One at a time: those that keep coming must not keep requests waiting. */
static void run_call(struct nb_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    struct call *call = s->calls;
    if (call) {
        s->calls = call->next;
        if (!s->calls)
            s->last_call = &s->calls;
    }
    s->call = call;
    pthread_mutex_unlock(&s->lock);
    if (!call)
        return;
    s->engine->meanwhile = meanwhile;
    s->engine->meanwhile_context = s;
    call->fn(call->context);
    s->engine->meanwhile = NULL;
    pthread_mutex_lock(&s->lock);
    s->call = NULL;
    s->n_calls--;
    pthread_mutex_unlock(&s->lock);
    free(call);
}

/* Waits for something to do; false when the scheduler is to end. */
static bool wait_for_work(struct nb_scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->stats.pages_free = s->engine->pages.n_free;
    s->stats.pages_cached = s->engine->pages.n_unused;
    while (!s->stop && !s->first && !s->n_running && !s->calls) {
        pthread_cond_broadcast(&s->idle);
        pthread_cond_wait(&s->wake, &s->lock);
    }
    bool go_on = !s->stop || s->first || s->n_running || s->calls;
    pthread_mutex_unlock(&s->lock);
    return go_on;
}

static void *run(void *context) {
    struct nb_scheduler *s = context;
    while (wait_for_work(s)) {
        run_call(s);
        advance(s);
    }
    return NULL;
}

/* ---- the contract ---- */

enum nb_status nb_scheduler_open(struct nb_engine *engine,
                                 const struct nb_scheduler_options *options,
                                 struct nb_scheduler **out, struct nb_error *err) {
    static const struct nb_scheduler_options defaults = {0};
    *out = NULL;
    if (!options)
        options = &defaults;
    struct nb_scheduler *s = calloc(1, sizeof *s);
    if (!s)
        return nb_fail_memory(err, sizeof *s, "the scheduler");
    s->engine = engine;
    s->max_running = options->max_running ? options->max_running : DEFAULT_RUNNING;
    s->max_waiting = options->max_waiting ? options->max_waiting : DEFAULT_WAITING;
    s->no_prefix_cache = options->no_prefix_cache;
    s->last = &s->first;
    s->last_call = &s->calls;
    s->stats.pages = s->stats.pages_free = engine->pages.n_pages;
    s->running = calloc(s->max_running, sizeof(struct item *));
    s->in_step = calloc(s->max_running, sizeof(struct item *));
    s->parts = calloc(s->max_running, sizeof *s->parts);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_cond_init(&s->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    enum nb_status status = NB_OK;
    if (!s->running || !s->in_step || !s->parts)
        status = nb_fail_memory(err, s->max_running * sizeof *s->parts, "the scheduler");
    int failed = status == NB_OK ? pthread_create(&s->thread, NULL, run, s) : 0;
    if (failed)
        status = nb_fail(err, NB_ERR_MEMORY, "cannot start the scheduler's thread: %s",
                         strerror(failed));
    if (status != NB_OK) {
        nb_scheduler_close(s);
        return status;
    }
    s->started = true;
    *out = s;
    return NB_OK;
}

void nb_scheduler_stop(struct nb_scheduler *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = s->draining = true;
    bool join = s->started;
    s->started = false;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (join)
        pthread_join(s->thread, NULL);
}

void nb_scheduler_close(struct nb_scheduler *s) {
    if (!s)
        return;
    nb_scheduler_stop(s);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    free(s->running);
    free(s->in_step);
    free(s->parts);
    free(s);
}

/* The item of a request: all that can be done on the caller's thread. */
static enum nb_status make_item(struct nb_scheduler *s, const struct nb_request *request,
                                struct item **out, struct nb_error *err) {
    struct item *item = calloc(1, sizeof *item);
    if (!item)
        return nb_fail_memory(err, sizeof *item, "a request");
    item->request = *request;
    item->submitted = nb_now_us();
    item->limit = limit_from(item->submitted, request->timeout_ms);
    enum nb_status status = nb_generator_open(s->engine, &request->options, &item->generator, err);
    if (status != NB_OK) {
        free(item);
        return status;
    }
    for (size_t i = 0; i < item->generator.n_next && status == NB_OK; i++) {
        if (!nb_tokens_add(&item->tokens, item->generator.next[i]))
            status = nb_fail_memory(err, item->generator.n_next * sizeof(int32_t), "a prompt");
    }
    if (status == NB_OK && request->n_scores >= item->tokens.n)
        status = nb_fail(err, NB_ERR_ARGUMENT,
                         "prompt: %zu tokens, all of which are to be scored: at least one must "
                         "stand before them",
                         item->tokens.n);
    item->scored_from = item->tokens.n - request->n_scores;
    size_t pages = nb_div_up(item->tokens.n, NB_PAGE_TOKENS);
    if (status == NB_OK && pages > s->engine->pages.n_pages)
        status = nb_fail(err, NB_ERR_LIMIT,
                         "prompt: %zu tokens take %zu pages of KV memory, but there are %zu",
                         item->tokens.n, pages, s->engine->pages.n_pages);
    if (status != NB_OK) {
        free_item(item);
        return status;
    }
    *out = item;
    return NB_OK;
}

/* Under the lock: whether one more may, where n wait. */
static enum nb_status may_wait(const struct nb_scheduler *s, size_t n, struct nb_error *err) {
    if (s->draining)
        return nb_fail(err, NB_ERR_STOPPED, "the program is stopping and takes no more requests");
    if (n >= s->max_waiting)
        return nb_fail(err, NB_ERR_BUSY, "%zu requests are waiting already; try again later", n);
    return NB_OK;
}

enum nb_status nb_scheduler_submit(struct nb_scheduler *s, const struct nb_request *request,
                                   uint64_t *id, struct nb_error *err) {
    struct item *item = NULL;
    enum nb_status status = make_item(s, request, &item, err);
    if (status != NB_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    status = may_wait(s, s->n_waiting, err);
    if (status == NB_OK) {
        item->limit.id = ++s->last_id;
        if (id)
            *id = item->limit.id;
        *s->last = item;
        s->last = &item->next;
        s->n_waiting++;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (status != NB_OK)
        free_item(item);
    return status;
}

static void cancel(struct limit *limit, uint64_t id) {
    limit->cancelled |= limit->id == id;
}

void nb_scheduler_cancel(struct nb_scheduler *s, uint64_t id) {
    pthread_mutex_lock(&s->lock);
    for (struct item *item = s->first; item; item = item->next)
        cancel(&item->limit, id);
    for (size_t i = 0; i < s->n_running; i++)
        cancel(&s->running[i]->limit, id);
    for (struct call *call = s->calls; call; call = call->next)
        cancel(&call->limit, id);
    if (s->call)
        cancel(&s->call->limit, id);
    pthread_mutex_unlock(&s->lock);
}

enum nb_status nb_scheduler_post(struct nb_scheduler *s, void (*fn)(void *context), void *context,
                                 double timeout_ms, uint64_t *id, struct nb_error *err) {
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return nb_fail_memory(err, sizeof *call, "a request");
    *call =
        (struct call){.fn = fn, .context = context, .limit = limit_from(nb_now_us(), timeout_ms)};
    pthread_mutex_lock(&s->lock);
    enum nb_status status = may_wait(s, s->n_calls, err);
    if (status == NB_OK) {
        call->limit.id = ++s->last_id;
        if (id)
            *id = call->limit.id;
        *s->last_call = call;
        s->last_call = &call->next;
        s->n_calls++;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (status != NB_OK)
        free(call);
    return status;
}

bool nb_scheduler_drain(struct nb_scheduler *s, double timeout_ms) {
    struct timespec until = after_ms(timeout_ms);
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    int timed_out = 0;
    while ((s->first || s->n_running || s->n_calls) && timed_out != ETIMEDOUT)
        timed_out = pthread_cond_timedwait(&s->idle, &s->lock, &until);
    bool done = !s->first && !s->n_running && !s->n_calls;
    pthread_mutex_unlock(&s->lock);
    return done;
}

void nb_scheduler_stats(struct nb_scheduler *s, struct nb_scheduler_stats *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->stats;
    out->running = s->n_running;
    out->waiting = s->n_waiting;
    pthread_mutex_unlock(&s->lock);
}
