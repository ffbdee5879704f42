/* Versions of Python packages and what is asked of them: PEP 440 (now the packaging specification
 * "Version specifiers"). */
#ifndef NB_DOCTOR_PEP440_H
#define NB_DOCTOR_PEP440_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NB_VERSION_PARTS = 12, NB_VERSION_LOCAL = 64 };

/* "1!2.3.1rc2.post1.dev4+cu121" */
struct nb_version {
    uint64_t epoch;
    uint64_t release[NB_VERSION_PARTS]; /* [n_release] */
    int n_release;
    char pre; /* 'a', 'b', 'r' for rc; 0: none */
    uint64_t pre_number;
    bool has_post, has_dev;
    uint64_t post, dev;
    char local[NB_VERSION_LOCAL]; /* "cu121", lower case, parts separated by dots; "" for none */
};

/* False if text[0..n) is no version. */
bool nb_version_parse(const char *text, size_t n, struct nb_version *out);

/* Below 0, 0, above 0, in the order of releases. */
int nb_version_compare(const struct nb_version *a, const struct nb_version *b);

/* Whether a version is what text[0..n) asks for: ">=2.0,!=2.1.*,<3". Releases before the final one
 * count, as for pip's check of what is installed. *valid (may be NULL) is false where the text is
 * no list of specifiers; the result is then true, as nothing can be said. */
bool nb_version_matches(const struct nb_version *version, const char *text, size_t n, bool *valid);

#endif
