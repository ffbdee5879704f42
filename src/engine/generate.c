/* Generation of one sequence: prefill, then a token at a time. */
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "model/chat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *nb_finish_name(enum nb_finish finish) {
    static const char *const names[] = {"stop", "length", "caller"};
    return names[finish];
}

/* Everything that a generation holds while it goes on. */
struct run {
    struct nb_engine *engine;
    const struct nb_generate_options *options;
    struct nb_sequence sequence;
    struct nb_sampler sampler;
    struct nb_tokens prompt, generated;
    struct nb_buf text;
    struct nb_decoder decoder;
    enum nb_finish finish;
    double prefill_ms, decode_ms;

    double *logprobs; /* [cap_logprobs], and its tops [cap_logprobs, options->top_logprobs] */
    int32_t *top_ids;
    double *top_logprobs;
    size_t cap_logprobs;
};

static enum nb_status read_ids(struct run *r, struct nb_error *err) {
    const struct nb_generate_options *o = r->options;
    int32_t n_vocab = r->engine->model.config.n_vocab;
    if (o->chat)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: a chat template is for text, not for ids");
    for (size_t i = 0; i < o->n_prompt_ids; i++) {
        if (o->prompt_ids[i] < 0 || o->prompt_ids[i] >= n_vocab)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "prompt: token id %d at %zu is not within the vocabulary of %d",
                           o->prompt_ids[i], i, n_vocab);
        if (!nb_tokens_add(&r->prompt, o->prompt_ids[i]))
            return nb_fail_memory(err, o->n_prompt_ids * sizeof(int32_t), "the prompt");
    }
    return NB_OK;
}

/* The prompt as a message of the user, after a system prompt if there is one. */
static enum nb_status read_message(struct run *r, struct nb_error *err) {
    const struct nb_generate_options *o = r->options;
    struct nb_chat chat;
    struct nb_chat_message messages[2];
    size_t n = 0;
    if (o->system)
        messages[n++] = (struct nb_chat_message){"system", o->system, strlen(o->system)};
    messages[n++] = (struct nb_chat_message){"user", o->prompt ? o->prompt : "", o->prompt_bytes};
    enum nb_status s = nb_chat_open(r->engine->folder, &chat, err);
    if (s == NB_OK)
        s = nb_chat_encode(&chat, r->engine->tokenizer, messages, n, true, &r->prompt, err);
    return s;
}

static enum nb_status read_text(struct run *r, struct nb_error *err) {
    const struct nb_generate_options *o = r->options;
    if (!r->engine->tokenizer)
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "%s: has neither tokenizer.json nor tokenizer.model; give the prompt as token ids",
            r->engine->folder);
    if (o->chat)
        return read_message(r, err);
    if (o->system)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: a system prompt needs a chat template");
    enum nb_status s =
        nb_tokenizer_encode(r->engine->tokenizer, o->prompt ? o->prompt : "", o->prompt_bytes,
                            NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE, &r->prompt, err);
    return s == NB_OK ? s : nb_fail_prefix(err, s, "prompt");
}

static enum nb_status read_prompt(struct run *r, struct nb_error *err) {
    enum nb_status s = r->options->prompt_ids ? read_ids(r, err) : read_text(r, err);
    if (s != NB_OK)
        return s;
    if (r->prompt.n == 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: is empty");
    if (r->prompt.n > (size_t)r->engine->context)
        return nb_fail(err, NB_ERR_LIMIT, "prompt: %zu tokens, but the context holds %d",
                       r->prompt.n, r->engine->context);
    return NB_OK;
}

/* The n most probable tokens, most probable first, ties to the lower id; n is small. */
static void find_top(const float *logits, size_t n_vocab, size_t n, int32_t *ids) {
    size_t found = 0;
    for (size_t i = 0; n && i < n_vocab; i++) {
        if (found == n && !(logits[i] > logits[ids[n - 1]]))
            continue;
        size_t at = found < n ? found++ : n - 1;
        for (; at > 0 && logits[i] > logits[ids[at - 1]]; at--)
            ids[at] = ids[at - 1];
        ids[at] = (int32_t)i;
    }
}

/* Room for one more token's log probabilities. */
static enum nb_status grow_logprobs(struct run *r, struct nb_error *err) {
    if (r->generated.n < r->cap_logprobs)
        return NB_OK;
    size_t cap = r->cap_logprobs ? r->cap_logprobs * 2 : 64;
    size_t top = (size_t)r->options->top_logprobs, tops = cap * (top ? top : 1);
    double *a = realloc(r->logprobs, cap * sizeof *a);
    r->logprobs = a ? a : r->logprobs;
    int32_t *b = realloc(r->top_ids, tops * sizeof *b);
    r->top_ids = b ? b : r->top_ids;
    double *c = realloc(r->top_logprobs, tops * sizeof *c);
    r->top_logprobs = c ? c : r->top_logprobs;
    if (!a || !b || !c)
        return nb_fail_memory(err, tops * sizeof *c, "log probabilities");
    r->cap_logprobs = cap;
    return NB_OK;
}

/* Log probabilities of the token that comes next. */
static enum nb_status note_logprobs(struct run *r, const float *logits, int32_t id,
                                    struct nb_error *err) {
    if (!r->options->logprobs)
        return NB_OK;
    enum nb_status s = grow_logprobs(r, err);
    if (s != NB_OK)
        return s;
    size_t n_vocab = (size_t)r->engine->model.config.n_vocab, i = r->generated.n;
    size_t top = (size_t)r->options->top_logprobs;
    double normalizer = nb_log_normalizer(logits, n_vocab);
    r->logprobs[i] = logits[id] - normalizer;
    find_top(logits, n_vocab, top, r->top_ids + i * top);
    for (size_t j = 0; j < top; j++)
        r->top_logprobs[i * top + j] = logits[r->top_ids[i * top + j]] - normalizer;
    return NB_OK;
}

/* Keeps a token and tells the caller; *go_on is false if the caller has had enough. */
static enum nb_status emit(struct run *r, int32_t id, bool *go_on, struct nb_error *err) {
    size_t before = r->text.len;
    if (!nb_tokens_add(&r->generated, id))
        return nb_fail_memory(err, (r->generated.n + 1) * sizeof id, "the tokens");
    if (r->engine->tokenizer)
        nb_decoder_add(&r->decoder, id, &r->text);
    if (r->text.failed)
        return nb_fail_memory(err, r->text.len, "the text");
    const struct nb_generate_options *o = r->options;
    *go_on = !o->on_token ||
             o->on_token(o->on_token_context, id, r->text.data ? r->text.data + before : "",
                         r->text.len - before);
    return NB_OK;
}

/* The context has a position for every token but the last, which is never read. */
static size_t token_limit(const struct run *r) {
    size_t room = (size_t)r->engine->context - r->prompt.n + 1;
    size_t asked = (size_t)r->options->max_tokens;
    return asked && asked < room ? asked : room;
}

/* Whether the last token completed a stop string: one that ends in the text it added. */
static bool stops(const struct run *r, size_t text_before) {
    for (size_t i = 0; i < r->options->n_stop; i++) {
        const char *stop = r->options->stop[i];
        size_t n = strlen(stop), from = text_before > n - 1 ? text_before - (n - 1) : 0;
        if (r->text.data && r->text.len > from &&
            memmem(r->text.data + from, r->text.len - from, stop, n))
            return true;
    }
    return false;
}

/* The next token. End tokens are out of the question before min_tokens. */
static int32_t draw(struct run *r, float *logits) {
    const struct nb_config *c = &r->engine->model.config;
    if (r->generated.n < (size_t)r->options->min_tokens) {
        for (int i = 0; i < c->n_eos; i++)
            logits[c->eos[i]] = -INFINITY;
    }
    int32_t id = nb_sample(&r->sampler, logits);
    nb_sampler_saw(&r->sampler, id);
    return id;
}

static enum nb_status decode(struct run *r, float *logits, struct nb_error *err) {
    size_t limit = token_limit(r);
    r->finish = NB_FINISH_LENGTH;
    for (;;) {
        int32_t id = draw(r, logits);
        if (!r->options->ignore_eos && nb_config_is_end(&r->engine->model.config, id)) {
            r->finish = NB_FINISH_STOP;
            return NB_OK;
        }
        bool go_on = true;
        size_t text_before = r->text.len;
        enum nb_status s = note_logprobs(r, logits, id, err);
        if (s == NB_OK)
            s = emit(r, id, &go_on, err);
        if (s != NB_OK)
            return s;
        if (stops(r, text_before)) {
            r->finish = NB_FINISH_STOP;
            return NB_OK;
        }
        if (!go_on) {
            r->finish = NB_FINISH_CALLER;
            return NB_OK;
        }
        if (r->generated.n >= limit)
            return NB_OK;
        s = nb_sequence_append(&r->sequence, &id, 1, 1, &logits, err);
        if (s != NB_OK)
            return s;
    }
}

static enum nb_status check_options(const struct run *r, struct nb_error *err) {
    const struct nb_generate_options *o = r->options;
    if (o->max_tokens < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "max_tokens is %d, expected 0 (no limit) or more",
                       o->max_tokens);
    if (o->min_tokens < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "min_tokens is %d, expected 0 or more", o->min_tokens);
    int32_t most = r->engine->model.config.n_vocab < 1000 ? r->engine->model.config.n_vocab : 1000;
    if (o->top_logprobs < 0 || o->top_logprobs > most)
        return nb_fail(err, NB_ERR_ARGUMENT, "top_logprobs is %d, expected 0 to %d",
                       o->top_logprobs, most);
    if (o->n_stop && !r->engine->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "stop: %s has no tokenizer, so there is no text",
                       r->engine->folder);
    for (size_t i = 0; i < o->n_stop; i++) {
        if (!o->stop[i] || !o->stop[i][0])
            return nb_fail(err, NB_ERR_ARGUMENT, "stop: string %zu is empty", i);
    }
    return NB_OK;
}

/* Text that waited for the end of a run of byte tokens. */
static void finish_text(struct run *r, bool tell) {
    if (!r->engine->tokenizer)
        return;
    size_t before = r->text.len;
    nb_decoder_finish(&r->decoder, &r->text);
    const struct nb_generate_options *o = r->options;
    if (tell && o->on_token && r->text.len > before)
        o->on_token(o->on_token_context, -1, r->text.data + before, r->text.len - before);
}

static enum nb_status run(struct run *r, struct nb_error *err) {
    enum nb_status s = check_options(r, err);
    if (s == NB_OK)
        s = read_prompt(r, err);
    if (s == NB_OK)
        s = nb_sampler_open(&r->options->sampling, (size_t)r->engine->model.config.n_vocab,
                            &r->sampler, err);
    if (s == NB_OK)
        s = nb_sequence_open(r->engine, &r->sequence, err);
    if (s != NB_OK)
        return s;
    if (r->engine->tokenizer)
        nb_decoder_start(&r->decoder, r->engine->tokenizer);
    for (size_t i = 0; i < r->prompt.n; i++)
        nb_sampler_saw(&r->sampler, r->prompt.ids[i]);
    float *logits;
    int64_t start = nb_now_us();
    s = nb_sequence_append(&r->sequence, r->prompt.ids, r->prompt.n, 1, &logits, err);
    int64_t middle = nb_now_us();
    if (s == NB_OK)
        s = decode(r, logits, err);
    finish_text(r, s == NB_OK);
    r->prefill_ms = (double)(middle - start) / 1000;
    r->decode_ms = (double)(nb_now_us() - middle) / 1000;
    return s;
}

enum nb_status nb_generate(struct nb_engine *engine, const struct nb_generate_options *options,
                           struct nb_generation *out, struct nb_error *err) {
    *out = (struct nb_generation){0};
    struct run r = {.engine = engine, .options = options};
    enum nb_status s = run(&r, err);
    nb_sequence_close(&r.sequence);
    nb_sampler_close(&r.sampler);
    nb_buf_add(&r.text, "", 0); /* a NUL, even for no text */
    if (s == NB_OK && r.text.failed)
        s = nb_fail_memory(err, r.text.len, "the text");
    if (s == NB_OK) {
        *out = (struct nb_generation){
            .token_ids = r.generated.ids,
            .n_tokens = r.generated.n,
            .n_prompt_tokens = r.prompt.n,
            .text = engine->tokenizer ? r.text.data : NULL,
            .text_bytes = r.text.len,
            .finish = r.finish,
            .prefill_ms = r.prefill_ms,
            .decode_ms = r.decode_ms,
            .logprobs = r.logprobs,
            .top_ids = r.top_ids,
            .top_logprobs = r.top_logprobs,
            .n_top = r.logprobs ? (size_t)options->top_logprobs : 0,
        };
        r.logprobs = r.top_logprobs = NULL;
        r.top_ids = NULL;
        r.generated = (struct nb_tokens){0};
        if (engine->tokenizer)
            r.text = (struct nb_buf){0};
    }
    nb_tokens_free(&r.prompt);
    nb_tokens_free(&r.generated);
    nb_buf_free(&r.text);
    free(r.logprobs);
    free(r.top_ids);
    free(r.top_logprobs);
    return s;
}

void nb_generation_free(struct nb_generation *generation) {
    free(generation->token_ids);
    free(generation->text);
    free(generation->logprobs);
    free(generation->top_ids);
    free(generation->top_logprobs);
    *generation = (struct nb_generation){0};
}
