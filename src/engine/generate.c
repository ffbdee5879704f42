/* Generation of one sequence: prefill, then a token at a time. */
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/sampler.h"

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
};

static enum nb_status read_prompt(struct run *r, struct nb_error *err) {
    const struct nb_generate_options *o = r->options;
    int32_t n_vocab = r->engine->model.config.n_vocab;
    enum nb_status s = NB_OK;
    if (o->prompt_ids) {
        for (size_t i = 0; i < o->n_prompt_ids; i++) {
            if (o->prompt_ids[i] < 0 || o->prompt_ids[i] >= n_vocab)
                return nb_fail(err, NB_ERR_ARGUMENT,
                               "prompt: token id %d at %zu is not within the vocabulary of %d",
                               o->prompt_ids[i], i, n_vocab);
            if (!nb_tokens_add(&r->prompt, o->prompt_ids[i]))
                return nb_fail_memory(err, o->n_prompt_ids * sizeof(int32_t), "the prompt");
        }
    } else if (!r->engine->tokenizer) {
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: has no tokenizer.json; give the prompt as token ids",
                       r->engine->folder);
    } else {
        s = nb_tokenizer_encode(r->engine->tokenizer, o->prompt ? o->prompt : "", o->prompt_bytes,
                                NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE, &r->prompt, err);
        if (s != NB_OK)
            return nb_fail_prefix(err, s, "prompt");
    }
    if (r->prompt.n == 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: is empty");
    if (r->prompt.n > (size_t)r->engine->context)
        return nb_fail(err, NB_ERR_LIMIT, "prompt: %zu tokens, but the context holds %d",
                       r->prompt.n, r->engine->context);
    return NB_OK;
}

static bool is_end(const struct nb_config *config, int32_t id) {
    for (int i = 0; i < config->n_eos; i++) {
        if (config->eos[i] == id)
            return true;
    }
    return false;
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

static enum nb_status decode(struct run *r, const float *logits, struct nb_error *err) {
    size_t limit = token_limit(r);
    r->finish = NB_FINISH_LENGTH;
    for (;;) {
        int32_t id = nb_sample(&r->sampler, logits);
        if (!r->options->ignore_eos && is_end(&r->engine->model.config, id)) {
            r->finish = NB_FINISH_STOP;
            return NB_OK;
        }
        bool go_on = true;
        enum nb_status s = emit(r, id, &go_on, err);
        if (s != NB_OK)
            return s;
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

static enum nb_status run(struct run *r, struct nb_error *err) {
    if (r->options->max_tokens < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "max_tokens is %d, expected 0 (no limit) or more",
                       r->options->max_tokens);
    enum nb_status s = read_prompt(r, err);
    if (s == NB_OK)
        s = nb_sampler_open(&r->options->sampling, (size_t)r->engine->model.config.n_vocab,
                            &r->sampler, err);
    if (s == NB_OK)
        s = nb_sequence_open(r->engine, &r->sequence, err);
    if (s != NB_OK)
        return s;
    if (r->engine->tokenizer)
        nb_decoder_start(&r->decoder, r->engine->tokenizer);
    const float *logits;
    int64_t start = nb_now_us();
    s = nb_sequence_append(&r->sequence, r->prompt.ids, r->prompt.n, 1, &logits, err);
    int64_t middle = nb_now_us();
    if (s == NB_OK)
        s = decode(r, logits, err);
    if (r->engine->tokenizer)
        nb_decoder_finish(&r->decoder, &r->text);
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
    if (s == NB_OK) {
        nb_buf_add(&r.text, "", 0); /* a NUL, even for no text */
        *out = (struct nb_generation){
            .token_ids = r.generated.ids,
            .n_tokens = r.generated.n,
            .n_prompt_tokens = r.prompt.n,
            .text = engine->tokenizer ? r.text.data : NULL,
            .text_bytes = r.text.len,
            .finish = r.finish,
            .prefill_ms = r.prefill_ms,
            .decode_ms = r.decode_ms,
        };
        r.generated = (struct nb_tokens){0};
        if (engine->tokenizer)
            r.text = (struct nb_buf){0};
    }
    nb_tokens_free(&r.prompt);
    nb_tokens_free(&r.generated);
    nb_buf_free(&r.text);
    return s;
}

void nb_generation_free(struct nb_generation *generation) {
    free(generation->token_ids);
    free(generation->text);
    *generation = (struct nb_generation){0};
}
