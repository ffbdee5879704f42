/* A JSON Schema validator for tests: written from the specification as plainly as it goes,
 * recursive, slow, and with nothing in common with src/grammar, which it judges. Numbers are exact
 * decimals. Patterns are PCRE2's, which differ from ECMA-262's where tests keep away from. Of
 * formats it knows date, time, date-time, ipv4, ipv6 and uuid; others are annotations to it. */
#ifndef NB_TEST_VALIDATOR_H
#define NB_TEST_VALIDATOR_H

#include <stdbool.h>
#include <stddef.h>

/* A JSON document. Text is UTF-8; numbers are as written. */
struct doc {
    enum doc_kind {
        DOC_NULL,
        DOC_FALSE,
        DOC_TRUE,
        DOC_NUMBER,
        DOC_STRING,
        DOC_ARRAY,
        DOC_OBJECT
    } kind;
    char *text; /* strings, decoded, and numbers */
    size_t n;   /* bytes of text; items; members */
    struct doc **items;
    char **keys; /* of members, whose values are items; NUL ends them */
    size_t *key_n;
};

/* NULL where the text is no JSON, or has a key twice, or is nested more than 2,000 deep. */
struct doc *doc_read(const char *text, size_t n);
/* Writes it again, compact, numbers as they were: malloc'd, ends in NUL. */
char *doc_write(const struct doc *doc);
void doc_free(struct doc *json);
bool doc_equal(const struct doc *a, const struct doc *b);
const struct doc *doc_get(const struct doc *object, const char *key);

enum verdict { VALID, INVALID, UNDECIDED };

/* Draft 7 and 2020-12, by "$schema" (2020-12 where there is none). UNDECIDED: a keyword or a
 * reference that this validator does not know, or a loop that takes nothing. */
enum verdict doc_validate(const struct doc *schema, const struct doc *value);

#endif
