/* nibble schema bench: masks and verdicts over a file of schemas with instances. */
#ifndef NB_CLI_SCHEMA_BENCH_H
#define NB_CLI_SCHEMA_BENCH_H

#include "base/error.h"

#include <stdbool.h>

struct nb_schema_bench {
    const char *tokenizer; /* a checkpoint's folder, or a tokenizer's file */
    const char *rows;      /* where a line for each schema goes, or NULL */
    bool json;
    /* Each schema is compiled and walked anew so many times, 1 or more; of each time the least is
     * taken, so that what the machine did meanwhile does not count. */
    int rounds;
};

/* Measures and prints. A schema that crashes or takes too long is counted, and the rest goes on. */
enum nb_status nb_schema_bench(const struct nb_schema_bench *how, const char *path,
                               struct nb_error *err);

#endif
