/* From logits to tokens, for one sequence. */
#include "engine/generator.h"

#include "engine/logits.h"
#include "model/chat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TOP_LOGPROBS = 1000 };
_Static_assert((int)MAX_TOP_LOGPROBS <= (int)NB_TOP_MOST, "as many as can be found");

const char *nb_finish_name(enum nb_finish finish) {
    static const char *const names[] = {"stop", "length", "caller", "closed"};
    return names[finish];
}

static enum nb_status read_ids(struct nb_generator *g, struct nb_error *err) {
    const struct nb_generate_options *o = &g->options;
    int32_t n_vocab = g->engine->model.config.n_vocab;
    if (o->chat)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: a chat template is for text, not for ids");
    for (size_t i = 0; i < o->n_prompt_ids; i++) {
        if (o->prompt_ids[i] < 0 || o->prompt_ids[i] >= n_vocab)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "prompt: token id %d at %zu is not within the vocabulary of %d",
                           o->prompt_ids[i], i, n_vocab);
        if (!nb_tokens_add(&g->prompt, o->prompt_ids[i]))
            return nb_fail_memory(err, o->n_prompt_ids * sizeof(int32_t), "the prompt");
    }
    return NB_OK;
}

/* The prompt as a message of the user, after a system prompt if there is one. */
static enum nb_status read_message(struct nb_generator *g, struct nb_error *err) {
    const struct nb_generate_options *o = &g->options;
    struct nb_chat chat;
    struct nb_chat_message messages[2];
    size_t n = 0;
    if (o->system)
        messages[n++] = (struct nb_chat_message){
            .role = "system", .content = o->system, .bytes = strlen(o->system)};
    messages[n++] = (struct nb_chat_message){
        .role = "user", .content = o->prompt ? o->prompt : "", .bytes = o->prompt_bytes};
    enum nb_status s = nb_chat_open(g->engine->folder, &chat, err);
    if (s == NB_OK)
        s = nb_chat_encode(&chat, g->engine->tokenizer, messages, n, true, &g->prompt, err);
    return s;
}

static enum nb_status read_text(struct nb_generator *g, struct nb_error *err) {
    const struct nb_generate_options *o = &g->options;
    if (!g->engine->tokenizer)
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "%s: has neither tokenizer.json nor tokenizer.model; give the prompt as token ids",
            g->engine->folder);
    if (o->chat)
        return read_message(g, err);
    if (o->system)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: a system prompt needs a chat template");
    enum nb_status s =
        nb_tokenizer_encode(g->engine->tokenizer, o->prompt ? o->prompt : "", o->prompt_bytes,
                            NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE, &g->prompt, err);
    return s == NB_OK ? s : nb_fail_prefix(err, s, "prompt");
}

static enum nb_status read_prompt(struct nb_generator *g, struct nb_error *err) {
    enum nb_status s = g->options.prompt_ids ? read_ids(g, err) : read_text(g, err);
    if (s != NB_OK)
        return s;
    if (g->prompt.n == 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: is empty");
    if (g->prompt.n > (size_t)g->engine->context)
        return nb_fail(err, NB_ERR_LIMIT, "prompt: %zu tokens, but the context holds %d",
                       g->prompt.n, g->engine->context);
    return NB_OK;
}

/* Room for one more token's log probabilities. */
static enum nb_status grow_logprobs(struct nb_generator *g, struct nb_error *err) {
    if (g->generated.n < g->cap_logprobs)
        return NB_OK;
    size_t cap = g->cap_logprobs ? g->cap_logprobs * 2 : 64;
    size_t top = (size_t)g->options.top_logprobs, tops = cap * (top ? top : 1);
    double *a = realloc(g->logprobs, cap * sizeof *a);
    g->logprobs = a ? a : g->logprobs;
    int32_t *b = realloc(g->top_ids, tops * sizeof *b);
    g->top_ids = b ? b : g->top_ids;
    double *c = realloc(g->top_logprobs, tops * sizeof *c);
    g->top_logprobs = c ? c : g->top_logprobs;
    if (!a || !b || !c)
        return nb_fail_memory(err, tops * sizeof *c, "log probabilities");
    g->cap_logprobs = cap;
    return NB_OK;
}

/* Log probabilities of the token that comes next. */
static enum nb_status note_logprobs(struct nb_generator *g, const float *logits, int32_t id,
                                    struct nb_error *err) {
    if (!g->options.logprobs)
        return NB_OK;
    enum nb_status s = grow_logprobs(g, err);
    if (s != NB_OK)
        return s;
    size_t n_vocab = (size_t)g->engine->model.config.n_vocab, i = g->generated.n;
    size_t top = (size_t)g->options.top_logprobs;
    double normalizer = nb_log_normalizer(logits, n_vocab);
    g->logprobs[i] = logits[id] - normalizer;
    nb_logits_top(logits, n_vocab, top, g->top_ids + i * top);
    for (size_t j = 0; j < top; j++)
        g->top_logprobs[i * top + j] = logits[g->top_ids[i * top + j]] - normalizer;
    return NB_OK;
}

/* Tells the caller of token number i; *go_on is false if the caller has had enough. */
static enum nb_status emit(struct nb_generator *g, size_t i, bool *go_on, struct nb_error *err) {
    int32_t id = g->generated.ids[i];
    size_t before = g->text.len;
    if (g->engine->tokenizer)
        nb_decoder_add(&g->decoder, id, &g->text);
    if (g->text.failed)
        return nb_fail_memory(err, g->text.len, "the text");
    const struct nb_generate_options *o = &g->options;
    size_t top = (size_t)o->top_logprobs;
    if (o->logprobs && o->on_logprobs)
        o->on_logprobs(o->on_token_context, id, g->logprobs[i], g->top_ids + i * top,
                       g->top_logprobs + i * top, top);
    *go_on = !o->on_token ||
             o->on_token(o->on_token_context, id, g->text.data ? g->text.data + before : "",
                         g->text.len - before);
    return NB_OK;
}

/* The context has a position for every token but the last, which is never read. */
static size_t token_limit(const struct nb_generator *g) {
    size_t room = (size_t)g->engine->context - g->prompt.n + 1;
    size_t asked = (size_t)g->options.max_tokens;
    return asked && asked < room ? asked : room;
}

/* Whether the last token completed a stop string: one that ends in the text it added. */
static bool stops(const struct nb_generator *g, size_t text_before) {
    for (size_t i = 0; i < g->options.n_stop; i++) {
        const char *stop = g->options.stop[i];
        size_t n = strlen(stop), from = text_before > n - 1 ? text_before - (n - 1) : 0;
        if (g->text.data && g->text.len > from &&
            memmem(g->text.data + from, g->text.len - from, stop, n))
            return true;
    }
    return false;
}

enum { MAX_REDRAWS = 8 }; /* each may take milliseconds */

/* Whether the next token is one that the grammar allows, or that follows its text. */
static bool held(const struct nb_generator *g) {
    return g->follower.matcher && g->watch.phase != NB_WATCH_FREE;
}

/* A token of a free answer. One that begins what has a grammar in a way that the grammar does not
 * know is not drawn: there are few. */
static int32_t draw_free(struct nb_generator *g, float *logits) {
    int32_t id = nb_sample(&g->sampler, logits);
    while (id >= 0 && logits[id] != -INFINITY && !nb_watch_allows(&g->watch, &g->follower, id)) {
        logits[id] = -INFINITY;
        id = nb_sample(&g->sampler, logits);
    }
    return id;
}

/* The next token. End tokens are out of the question before min_tokens. */
static int32_t draw(struct nb_generator *g, float *logits) {
    const struct nb_config *c = &g->engine->model.config;
    if (g->generated.n < (size_t)g->options.min_tokens) {
        for (int i = 0; i < c->n_eos; i++)
            logits[c->eos[i]] = -INFINITY;
    }
    bool watched = g->follower.matcher && !held(g);
    int32_t id = watched ? draw_free(g, logits) : nb_sample(&g->sampler, logits);
    bool follows = held(g) && nb_watch_awaited(&g->watch) < 0;
    /* What leads nowhere is not drawn: rare, for the mask has seen nearly all of it. */
    for (int i = 0; follows && !nb_follower_viable(&g->follower, id); i++) {
        logits[id] = -INFINITY;
        id = i < MAX_REDRAWS ? nb_sample(&g->sampler, logits) : -1;
        if (id < 0 || logits[id] == -INFINITY) {
            int32_t way = nb_follower_way_out(&g->follower);
            id = way >= 0 ? way : id;
            break;
        }
    }
    if (id >= 0)
        nb_sampler_saw(&g->sampler, id);
    return id;
}

/* Appends what must stand after the grammar's text, if that is whole. */
static enum nb_status add_awaited(struct nb_generator *g, struct nb_error *err) {
    for (int32_t id; (id = nb_watch_awaited(&g->watch)) >= 0;) {
        if (!nb_tokens_add(&g->generated, id))
            return nb_fail_memory(err, (g->generated.n + 1) * sizeof id, "the tokens");
        nb_watch_took_awaited(&g->watch);
    }
    return NB_OK;
}

/* Keeps the token that was drawn, and those that a grammar makes follow. */
static enum nb_status add_drawn(struct nb_generator *g, int32_t id, struct nb_error *err) {
    size_t before = g->generated.n;
    bool jump = !g->options.logprobs && !g->options.draw_all;
    if (!nb_tokens_add(&g->generated, id))
        return nb_fail_memory(err, (g->generated.n + 1) * sizeof id, "the tokens");
    if (!g->follower.matcher)
        return NB_OK;
    enum nb_status s = NB_OK;
    if (nb_watch_awaited(&g->watch) >= 0)
        nb_watch_took_awaited(&g->watch);
    else if (held(g))
        s = nb_follower_take(&g->follower, &g->generated, before, jump, err);
    else
        s = nb_watch_take(&g->watch, &g->follower, id, before, err);
    if (s == NB_OK)
        nb_watch_look(&g->watch, &g->follower);
    if (s == NB_OK && jump)
        s = add_awaited(g, err);
    /* The first of them was drawn, or stands for what was. */
    for (size_t i = before + 1; i < g->generated.n && s == NB_OK; i++)
        nb_sampler_saw(&g->sampler, g->generated.ids[i]);
    return s;
}

/* Finishes an answer that ran out of tokens. */
static enum nb_status close_answer(struct nb_generator *g, struct nb_error *err) {
    size_t before = g->generated.n;
    bool go_on = true;
    enum nb_status s = NB_OK;
    if (!nb_follower_finish(&g->follower, &g->generated))
        return NB_OK;
    g->finish = NB_FINISH_CLOSED;
    nb_watch_look(&g->watch, &g->follower);
    s = add_awaited(g, err);
    for (size_t i = before; i < g->generated.n && s == NB_OK && go_on; i++)
        s = emit(g, i, &go_on, err);
    return s;
}

/* Log probabilities are the model's, not what a mask or min_tokens leaves of them. */
static enum nb_status keep_raw(struct nb_generator *g, const float *logits, struct nb_error *err) {
    size_t bytes = (size_t)g->engine->model.config.n_vocab * sizeof *g->raw;
    if (!g->raw && !(g->raw = malloc(bytes)))
        return nb_fail_memory(err, bytes, "log probabilities");
    memcpy(g->raw, logits, bytes);
    return NB_OK;
}

/* A grammar's mask, before the draw. *ended: only the end may come. */
static enum nb_status mask(struct nb_generator *g, float *logits, bool *ended,
                           struct nb_error *err) {
    int32_t awaited = nb_watch_awaited(&g->watch);
    float kept = awaited >= 0 ? logits[awaited] : 0;
    for (int32_t i = 0; awaited >= 0 && i < g->engine->model.config.n_vocab; i++)
        logits[i] = -INFINITY;
    if (awaited >= 0)
        logits[awaited] = kept;
    return held(g) && awaited < 0 ? nb_follower_mask(&g->follower, logits, ended, err) : NB_OK;
}

/* Whether the grammar's text is whole, and nothing more may come. */
static bool ended_by_grammar(struct nb_generator *g) {
    return g->options.trigger ? g->watch.phase == NB_WATCH_OVER
                              : g->follower.matcher && nb_follower_ended(&g->follower);
}

enum nb_status nb_generator_take(struct nb_generator *g, float *logits, struct nb_error *err) {
    bool ended = false, go_on = true, stopped = false, cut = false;
    size_t first = g->generated.n, limit = token_limit(g);
    int32_t id = -1;
    g->next = NULL;
    g->n_next = 0;
    enum nb_status s = NB_OK;
    bool less = g->follower.matcher /* also where free: some are taken away */
                || g->generated.n < (size_t)g->options.min_tokens;
    if (g->options.logprobs && less)
        s = keep_raw(g, logits, err);
    if (s == NB_OK)
        s = mask(g, logits, &ended, err);
    if (s == NB_OK && !ended)
        id = draw(g, logits);
    if (s != NB_OK)
        return s;
    if (!ended && id < 0)
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "the grammar allows nothing after \"%.200s\": it contradicts itself in a way "
            "that was not seen before",
            g->follower.bytes.data ? g->follower.bytes.data : "");
    if (ended ||
        ((!g->options.ignore_eos || held(g)) && nb_config_is_end(&g->engine->model.config, id))) {
        g->finish = NB_FINISH_STOP;
        g->done = true;
        return NB_OK;
    }
    s = note_logprobs(g, g->raw && less ? g->raw : logits, id, err);
    if (s == NB_OK)
        s = add_drawn(g, id, err);
    for (size_t i = first; i < g->generated.n && s == NB_OK && go_on && !stopped; i++) {
        size_t text_before = g->text.len;
        if (i >= limit && !g->options.close) {
            g->generated.n = i;
            cut = true;
            break;
        }
        s = emit(g, i, &go_on, err);
        stopped = s == NB_OK && stops(g, text_before);
        if (stopped || !go_on)
            g->generated.n = i + 1;
    }
    if (s != NB_OK)
        return s;
    g->done = true;
    if (stopped) {
        g->finish = NB_FINISH_STOP;
    } else if (!go_on) {
        g->finish = NB_FINISH_CALLER;
    } else if (!cut && ended_by_grammar(g)) {
        g->finish = NB_FINISH_STOP;
    } else if (g->generated.n >= limit) {
        g->finish = NB_FINISH_LENGTH;
        if (!g->options.trigger && held(g) && !cut && nb_matcher_can_end(g->follower.matcher))
            g->finish = NB_FINISH_STOP;
        else if (g->watch.phase == NB_WATCH_HELD && held(g) && g->options.close)
            return close_answer(g, err);
    } else {
        g->done = false;
        g->next = g->generated.ids + first;
        g->n_next = g->generated.n - first;
    }
    return NB_OK;
}

static enum nb_status check_options(const struct nb_generator *g, struct nb_error *err) {
    const struct nb_generate_options *o = &g->options;
    if (o->max_tokens < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "max_tokens is %d, expected 0 (no limit) or more",
                       o->max_tokens);
    if (o->min_tokens < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "min_tokens is %d, expected 0 or more", o->min_tokens);
    int32_t n_vocab = g->engine->model.config.n_vocab,
            most = n_vocab < MAX_TOP_LOGPROBS ? n_vocab : MAX_TOP_LOGPROBS;
    if (o->top_logprobs < 0 || o->top_logprobs > most)
        return nb_fail(err, NB_ERR_ARGUMENT, "top_logprobs is %d, expected 0 to %d",
                       o->top_logprobs, most);
    if (o->close && !o->grammar)
        return nb_fail(err, NB_ERR_ARGUMENT, "close: there is no grammar to close an answer by");
    if (o->trigger && !o->grammar)
        return nb_fail(err, NB_ERR_ARGUMENT, "trigger: there is no grammar that it could begin");
    if (o->trigger && o->trigger->text && !o->trigger->text[0])
        return nb_fail(err, NB_ERR_ARGUMENT, "trigger: its text is empty");
    if (o->close && o->logprobs)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "close: what it appends has no log probabilities; ask for one of the two");
    if (o->n_stop && !g->engine->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "stop: %s has no tokenizer, so there is no text",
                       g->engine->folder);
    for (size_t i = 0; i < o->n_stop; i++) {
        if (!o->stop[i] || !o->stop[i][0])
            return nb_fail(err, NB_ERR_ARGUMENT, "stop: string %zu is empty", i);
    }
    return NB_OK;
}

void nb_generator_end_text(struct nb_generator *g, bool tell) {
    if (!g->engine->tokenizer)
        return;
    size_t before = g->text.len;
    nb_decoder_finish(&g->decoder, &g->text);
    const struct nb_generate_options *o = &g->options;
    if (tell && o->on_token && g->text.len > before)
        o->on_token(o->on_token_context, -1, g->text.data + before, g->text.len - before);
}

static enum nb_status start(struct nb_generator *g, struct nb_error *err) {
    enum nb_status s = check_options(g, err);
    if (s == NB_OK)
        s = read_prompt(g, err);
    if (s == NB_OK)
        s = nb_sampler_open(&g->options.sampling, (size_t)g->engine->model.config.n_vocab,
                            &g->sampler, err);
    if (s != NB_OK)
        return s;
    if (g->options.grammar) {
        s = nb_follower_open(g->engine, g->options.grammar, &g->follower, err);
        if (s == NB_OK)
            s = nb_watch_open(g->options.trigger, &g->follower, &g->watch, err);
        if (s != NB_OK)
            return s;
    }
    if (g->engine->tokenizer)
        nb_decoder_start(&g->decoder, g->engine->tokenizer);
    for (size_t i = 0; i < g->prompt.n; i++)
        nb_sampler_saw(&g->sampler, g->prompt.ids[i]);
    g->next = g->prompt.ids;
    g->n_next = g->prompt.n;
    return NB_OK;
}

enum nb_status nb_generator_open(struct nb_engine *engine,
                                 const struct nb_generate_options *options,
                                 struct nb_generator *out, struct nb_error *err) {
    *out = (struct nb_generator){.engine = engine, .options = *options};
    enum nb_status s = start(out, err);
    if (s != NB_OK)
        nb_generator_close(out);
    return s;
}

enum nb_status nb_generator_finish(struct nb_generator *g, struct nb_generation *out,
                                   struct nb_error *err) {
    *out = (struct nb_generation){0};
    nb_buf_add(&g->text, "", 0); /* a NUL, even for no text */
    if (g->text.failed)
        return nb_fail_memory(err, g->text.len, "the text");
    bool text = g->engine->tokenizer != NULL;
    *out = (struct nb_generation){
        .token_ids = g->generated.ids,
        .n_tokens = g->generated.n,
        .n_prompt_tokens = g->prompt.n,
        .text = text ? g->text.data : NULL,
        .text_bytes = g->text.len,
        .finish = g->finish,
        .logprobs = g->logprobs,
        .top_ids = g->top_ids,
        .top_logprobs = g->top_logprobs,
        .n_top = g->logprobs ? (size_t)g->options.top_logprobs : 0,
    };
    g->logprobs = g->top_logprobs = NULL;
    g->top_ids = NULL;
    g->generated = (struct nb_tokens){0};
    if (text)
        g->text = (struct nb_buf){0};
    return NB_OK;
}

void nb_generator_close(struct nb_generator *g) {
    if (g->engine && g->engine->tokenizer)
        nb_buf_free(&g->decoder.pending);
    nb_sampler_close(&g->sampler);
    nb_watch_close(&g->watch);
    nb_follower_close(&g->follower);
    free(g->raw);
    nb_tokens_free(&g->prompt);
    nb_tokens_free(&g->generated);
    nb_buf_free(&g->text);
    free(g->logprobs);
    free(g->top_ids);
    free(g->top_logprobs);
    *g = (struct nb_generator){0};
}

void nb_generation_free(struct nb_generation *generation) {
    free(generation->token_ids);
    free(generation->text);
    free(generation->logprobs);
    free(generation->top_ids);
    free(generation->top_logprobs);
    *generation = (struct nb_generation){0};
}
