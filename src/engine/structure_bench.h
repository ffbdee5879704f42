/* What following a schema costs, and what it saves. */
#ifndef NB_ENGINE_STRUCTURE_BENCH_H
#define NB_ENGINE_STRUCTURE_BENCH_H

#include "nibble/nibble.h"

enum {
    NB_STRUCTURE_BENCH_PROMPT = 32,  /* tokens */
    NB_STRUCTURE_BENCH_TOKENS = 128, /* of an answer, at most */
};

/* Milliseconds a token, at the best and in the median of the rounds. */
struct nb_structure_time {
    double best, median;
};

struct nb_structure_bench {
    int rounds;
    size_t tokens; /* of the answers that follow the schema with jumps, in all rounds */
    struct nb_structure_time free; /* as many tokens of anything at all, drawn likewise */
    struct nb_structure_time each; /* under the schema, every token drawn */
    struct nb_structure_time jump; /* what must come being appended, as it is done in earnest */
    /* The medians of the rounds' ratios: how much longer a token takes if each is drawn under the
     * schema (0.01 is 1 %), and how many times as many tokens a second there are with jumps. */
    double loss, gain;
};

/* Generates at batch 1, for at least so many seconds and five rounds: in each from one prompt of
 * random tokens an answer that follows the schema (by nb_generate, at temperature 0.7), one that
 * does so token by token, and as many tokens of free text, one directly after the other, so that
 * what slows the machine slows all three. Times are of decoding, without the prompt's and the first
 * token's. */
enum nb_status nb_structure_bench_run(struct nb_engine *engine,
                                      const struct nb_structure *structure, double seconds,
                                      struct nb_structure_bench *out, struct nb_error *err);

#endif
