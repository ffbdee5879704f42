/* Regular expressions of tokenizer files. They are written for Oniguruma, as `tokenizers` uses it;
 * PCRE2 runs them once the differences are translated away. */
#ifndef NB_MODEL_TOKENIZER_REGEX_H
#define NB_MODEL_TOKENIZER_REGEX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct nb_regex; /* immutable: any number of threads may search with it */

/* NB_ERR_UNSUPPORTED for what means something else in PCRE2 and is not translated. */
enum nb_status nb_regex_compile(const char *pattern, size_t n, struct nb_regex **out,
                                struct nb_error *err);
void nb_regex_free(struct nb_regex *regex); /* NULL is allowed */

/* A walk over the matches in text[0..n), which is UTF-8; all zero but for `regex`, `text` and `n`
 * to begin with. */
struct nb_regex_walk {
    const struct nb_regex *regex;
    const char *text;
    size_t n;
    size_t begin, end; /* the match that was found */
    size_t from, last; /* where to look next; the end of the last match, plus 1 */
    void *match_data;
    enum nb_status status; /* why the walk ended */
};

/* Finds the next match; false at the end, or if walk->status is not NB_OK. An empty match right
 * behind another match does not count. */
bool nb_regex_next(struct nb_regex_walk *walk, struct nb_error *err);
void nb_regex_walk_end(struct nb_regex_walk *walk);

#endif
