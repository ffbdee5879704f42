/* A JSON answer under a grammar, whose closed choices are not drawn but scored: where a member is
 * one of a few labels, every label is scored whole, and the most probable one taken. */
#ifndef NB_TASK_ANSWER_H
#define NB_TASK_ANSWER_H

#include "engine/engine.h"
#include "engine/structure.h"
#include "model/json.h"

/* A closed choice: a member of the answer, or of an object in it, and what its value may be. */
struct nb_answer_choice {
    char *path;    /* the keys that lead to it, as JSON: "\"primary_party\"\"role\"" */
    char *name;    /* the same for people: "primary_party.role" */
    char **labels; /* [n] as JSON: "\"invoice\"", "null", "true" */
    size_t n;      /* at least 2 */
    double *p;     /* [n] after nb_answer_make: probabilities that sum to 1, 0 of labels that could
                    * not come */
    int chosen;    /* -1: the member was not in the answer, or was not chosen by score */
};

enum { NB_ANSWER_MAX_CHOICES = 64 };

/* The choices of a schema: members that `properties` has, of the answer and, up to four levels
 * deep, of members that are objects, if they are, without a reference, an enum of 2 to 64 strings,
 * numbers, booleans and nulls, or boolean; the first 64 of them. The caller frees them, after
 * failures, too. */
struct nb_answer_choices {
    struct nb_answer_choice *of; /* [n] */
    size_t n;
};
enum nb_status nb_answer_find_choices(const json_t *schema, struct nb_answer_choices *out,
                                      struct nb_error *err);
void nb_answer_free_choices(struct nb_answer_choices *choices);

struct nb_answer_options {
    struct nb_grammar *grammar;
    struct nb_answer_choices *choices;
    size_t max_tokens; /* drawn ones; then the answer is finished in a short way */
    size_t reserve;    /* positions of the context kept free for that: nb_answer_reserve */
    /* Members, by their path, whose words must be words of the document: a small model copies what
     * it reads, but slips on rare words. NULL: none. */
    const char *const *copied; /* [n_copied] */
    size_t n_copied;
    const char *date; /* likewise a member, YYYY-MM-DD, whose day must stand near the year there */
    const char *document; /* [n_document] */
    size_t n_document;
    bool fresh; /* the answer is a text of its own for the tokenizer: with its leading space,
                 * where it has one; else it goes on from the prompt's text */
};

/* Positions that the shortest answer takes, its labels being the longest ones. */
enum nb_status nb_answer_reserve(struct nb_engine *engine, const struct nb_answer_options *options,
                                 size_t *n, struct nb_error *err);

/* Writes an answer after `prompt` [n], which is not yet in the sequence from sequence->n on.
 * Appends its text, valid JSON, to *text; *n_tokens is how many tokens it took. Greedy: the most
 * probable token that may come, always. Schemas that the grammar cannot be brought to an end of are
 * NB_ERR_UNSUPPORTED. */
enum nb_status nb_answer_make(struct nb_sequence *sequence, const int32_t *prompt, size_t n,
                              const struct nb_answer_options *options, struct nb_buf *text,
                              size_t *n_tokens, struct nb_error *err);

/* Whether every word of text[0..n) is a word of the document; the last one need only begin one,
 * unless `whole`. A word is a run of letters, digits and all that is not ASCII. */
bool nb_answer_is_copied(const char *text, size_t n, bool whole, const char *document,
                         size_t n_document);

/* Whether text[0..n), a date as YYYY-MM-DD or its beginning, has a day that stands in the document
 * near the year, or can still come to one. What is no date yet has. */
bool nb_answer_has_day(const char *text, size_t n, const char *document, size_t n_document);

#endif
