/* Scoring labels: each as the whole answer. */
#include "engine/generator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* log P(tokens | what the sequence holds); logits are those after it. The sequence is left as it
 * was. */
static enum nb_status score(struct nb_sequence *sequence, const struct nb_tokens *tokens,
                            const float *logits, double *out, struct nb_error *err) {
    size_t n_vocab = (size_t)sequence->engine->model.config.n_vocab;
    *out = nb_log_probability(logits, n_vocab, tokens->ids[0]);
    if (tokens->n == 1)
        return NB_OK;
    int32_t start = sequence->n;
    float *rows;
    enum nb_status s =
        nb_sequence_append(sequence, tokens->ids, tokens->n - 1, tokens->n - 1, &rows, err);
    for (size_t i = 1; s == NB_OK && i < tokens->n; i++)
        *out += nb_log_probability(rows + (i - 1) * n_vocab, n_vocab, tokens->ids[i]);
    nb_sequence_truncate(sequence, start);
    return s;
}

static enum nb_status score_all(struct nb_engine *engine, struct nb_sequence *sequence,
                                const float *after_prompt, const char *const *labels, size_t n,
                                double *scores, struct nb_error *err) {
    const struct nb_config *c = &engine->model.config;
    size_t bytes = (size_t)c->n_vocab * sizeof(float);
    float *logits = malloc(bytes); /* a step's logits last until the next step */
    struct nb_tokens tokens = {0};
    enum nb_status s = logits ? NB_OK : nb_fail_memory(err, bytes, "the labels' probabilities");
    if (s == NB_OK)
        memcpy(logits, after_prompt, bytes);
    for (size_t i = 0; i < n && s == NB_OK; i++) {
        tokens.n = 0;
        s = nb_tokenizer_encode(engine->tokenizer, labels[i], strlen(labels[i]), NB_ENCODE_CONTINUE,
                                &tokens, err);
        if (s == NB_OK && !tokens.n)
            s = nb_fail(err, NB_ERR_ARGUMENT, "label %zu is empty", i);
        if (s == NB_OK && c->n_eos && !nb_tokens_add(&tokens, c->eos[0]))
            s = nb_fail_memory(err, tokens.n * sizeof(int32_t), "a label");
        if (s == NB_OK)
            s = score(sequence, &tokens, logits, &scores[i], err);
    }
    nb_tokens_free(&tokens);
    free(logits);
    return s;
}

enum nb_status nb_choose(struct nb_engine *engine, const struct nb_generate_options *options,
                         const char *const *labels, size_t n, double *p, size_t *n_prompt_tokens,
                         struct nb_error *err) {
    struct nb_generate_options prompt = {.prompt = options->prompt,
                                         .prompt_bytes = options->prompt_bytes,
                                         .prompt_ids = options->prompt_ids,
                                         .n_prompt_ids = options->n_prompt_ids,
                                         .chat = options->chat,
                                         .system = options->system};
    struct nb_generator g;
    struct nb_sequence sequence = {0};
    if (!n)
        return nb_fail(err, NB_ERR_ARGUMENT, "no labels to choose from");
    if (!engine->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: has no tokenizer, so labels have no tokens",
                       engine->folder);
    enum nb_status s = nb_generator_open(engine, &prompt, &g, err);
    if (s != NB_OK)
        return s;
    float *logits;
    s = nb_sequence_open(engine, &sequence, err);
    if (s == NB_OK)
        s = nb_sequence_append(&sequence, g.prompt.ids, g.prompt.n, 1, &logits, err);
    if (s == NB_OK)
        s = score_all(engine, &sequence, logits, labels, n, p, err);
    if (n_prompt_tokens)
        *n_prompt_tokens = g.prompt.n;
    nb_sequence_close(&sequence);
    nb_generator_close(&g);
    if (s != NB_OK)
        return s;
    double best = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        best = p[i] > best ? p[i] : best;
    for (size_t i = 0; i < n; i++)
        sum += p[i] = isfinite(best) ? exp(p[i] - best) : 1;
    for (size_t i = 0; i < n; i++)
        p[i] /= sum;
    return NB_OK;
}
