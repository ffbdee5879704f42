/* Grammars: a JSON Schema, a regular expression or a list of labels, compiled once and shared, and
 * matchers, which follow one text each and say which tokens may come next. */
#ifndef NB_GRAMMAR_GRAMMAR_H
#define NB_GRAMMAR_GRAMMAR_H

#include "base/buf.h"
#include "grammar/schema.h"
#include "grammar/state.h"
#include "grammar/vocabulary.h"

struct nb_grammar; /* counted; any number of threads may use it */

/* All zero is the default of everything. */
struct nb_grammar_options {
    bool any_order; /* members in any order; else in the schema's, those it does not name last */
    bool flexible;  /* white space between JSON's tokens; else none */
    bool
        written_integers; /* integers without a fraction or an exponent, as everybody writes them */
    bool lenient; /* what cannot be enforced is noted (nb_grammar_notes) instead of refused */
    bool formats_annotate;  /* formats are not enforced */
    bool doubt;             /* note what is perhaps a slip, for nb_grammar_doubts */
    const char *name;       /* begins messages; NULL: "schema" */
    nb_schema_load_fn load; /* documents that references name; see nb_schema_options */
    void *load_context;
};

/* Compiles the text of a JSON Schema. The vocabulary, which outlives the grammar, may be NULL: then
 * there are no masks. The caller releases *out. Errors are nb_schema_read's. */
enum nb_status nb_grammar_schema(const char *text, size_t n,
                                 const struct nb_grammar_options *options,
                                 const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                 struct nb_error *err);

/* Texts that as a whole match pattern[0..n), a regular expression of ECMA-262. */
enum nb_status nb_grammar_regex(const char *pattern, size_t n,
                                const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                struct nb_error *err);

/* Texts that are one of the labels, none empty. */
enum nb_status nb_grammar_choice(const char *const *labels, size_t n,
                                 const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                 struct nb_error *err);

/* nb_grammar_release and nb_grammar_notes are public. */

/* What the schema has that is right and says nothing, but looks as if it should: a line each, with
 * its place; "" without the option. The grammar's own. */
const char *nb_grammar_doubts(const struct nb_grammar *grammar);
struct nb_grammar *nb_grammar_retain(struct nb_grammar *grammar);

/* NB_ERR_UNSUPPORTED if no text was found that fulfils it: the schema contradicts itself, or it is
 * too hard to find one. */
enum nb_status nb_grammar_check(struct nb_grammar *grammar, const char *name, struct nb_error *err);

/* Memory that it holds by now; it grows with use, within bounds. */
size_t nb_grammar_bytes(struct nb_grammar *grammar);

/* Whether a JSON text fulfils the schema: white space, order and spelling as they come. *where is
 * the first byte that is one too many, or n where the text ends too early. NB_ERR_LIMIT and
 * NB_ERR_MEMORY where that could not be found out. */
enum nb_status nb_grammar_validate(struct nb_grammar *grammar, const char *text, size_t n,
                                   bool *valid, size_t *where, struct nb_error *err);

/* ---- matchers ---- */

struct nb_matcher; /* one caller at a time */

/* At the beginning of a text. Keeps the grammar. */
enum nb_status nb_matcher_open(struct nb_grammar *grammar, struct nb_matcher **out,
                               struct nb_error *err);
void nb_matcher_close(struct nb_matcher *matcher); /* NULL is allowed */

/* Which tokens may come next, a bit for each id in words of 64 ((vocabulary->size + 63) / 64 of
 * them); end tokens where the text may end. *bits is the matcher's, good until the next call. */
enum nb_status nb_matcher_mask(struct nb_matcher *matcher, const uint64_t **bits,
                               struct nb_error *err);

/* The same, every token on its own: what the mask is held to in tests. bits are the caller's. */
enum nb_status nb_matcher_mask_plain(struct nb_matcher *matcher, uint64_t *bits,
                                     struct nb_error *err);

/* Goes on by a token, or by bytes. False, and nothing changes, if they may not come. A token that
 * ends the text is allowed where the text may end, and changes nothing. */
bool nb_matcher_accept(struct nb_matcher *matcher, int32_t token);
bool nb_matcher_accept_bytes(struct nb_matcher *matcher, const char *bytes, size_t n);

bool nb_matcher_can_end(struct nb_matcher *matcher);

/* Appends the bytes that must come next whatever the text will be: as long as there is one way to
 * go on and the text may not end, at most `most` of them. */
enum nb_status nb_matcher_forced(struct nb_matcher *matcher, size_t most, struct nb_buf *out,
                                 struct nb_error *err);

/* Whether the text can be finished after `token`, which the mask allows: where branches, negations
 * and the like make a mask too generous, a text is looked for, and kept: nb_matcher_finish gives
 * what is left of it if it finds no other. So an answer that takes viable tokens, or where there is
 * none those of that text, ends in no dead end. */
bool nb_matcher_viable(struct nb_matcher *matcher, int32_t token);

/* Appends a short text that brings what has been accepted to an end. False if none was found:
 * nb_matcher_check says whether that was for want of memory. */
bool nb_matcher_finish(struct nb_matcher *matcher, struct nb_buf *out);
/* The shortest, as nb_complete_shortest has it: for an answer's end, not for each token. */
bool nb_matcher_finish_shortest(struct nb_matcher *matcher, struct nb_buf *out);

/* What keeps the matcher from going on, if anything: NB_ERR_MEMORY, NB_ERR_LIMIT. */
enum nb_status nb_matcher_check(struct nb_matcher *matcher, struct nb_error *err);

/* Places to go back to: valid as long as the matcher. */
struct nb_matcher_mark {
    struct nb_state state;
    size_t bytes; /* accepted so far */
};
struct nb_matcher_mark nb_matcher_mark(const struct nb_matcher *matcher);
void nb_matcher_reset(struct nb_matcher *matcher, const struct nb_matcher_mark *mark);

#endif
