/* Generation of one sequence: prefill, then a token at a time. */
#include "base/clock.h"
#include "engine/generator.h"

/* The prompt, then token after token. */
static enum nb_status run(struct nb_generator *g, struct nb_sequence *sequence, double *prefill_ms,
                          double *decode_ms, struct nb_error *err) {
    int64_t start = nb_now_us(), middle = 0;
    enum nb_status s = NB_OK;
    while (s == NB_OK && !g->done) {
        float *logits;
        s = nb_sequence_append(sequence, g->next, g->n_next, 1, &logits, err);
        if (!middle)
            middle = nb_now_us();
        if (s == NB_OK)
            s = nb_generator_take(g, logits, err);
    }
    nb_generator_end_text(g, s == NB_OK);
    *prefill_ms = (double)(middle - start) / 1000;
    *decode_ms = (double)(nb_now_us() - middle) / 1000;
    return s;
}

enum nb_status nb_generate(struct nb_engine *engine, const struct nb_generate_options *options,
                           struct nb_generation *out, struct nb_error *err) {
    *out = (struct nb_generation){0};
    struct nb_generator g;
    enum nb_status s = nb_generator_open(engine, options, &g, err);
    if (s != NB_OK)
        return s;
    struct nb_sequence sequence;
    double prefill_ms = 0, decode_ms = 0;
    s = nb_sequence_open(engine, &sequence, err);
    if (s == NB_OK)
        s = run(&g, &sequence, &prefill_ms, &decode_ms, err);
    nb_sequence_close(&sequence);
    if (s == NB_OK)
        s = nb_generator_finish(&g, out, err);
    out->prefill_ms = prefill_ms;
    out->decode_ms = decode_ms;
    nb_generator_close(&g);
    return s;
}
