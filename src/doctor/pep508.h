/* Requirements as packages state them: PEP 508 (now the packaging specification "Dependency
 * specifiers"): NAME[EXTRA, …] SPECIFIERS ; MARKER. */
#ifndef NB_DOCTOR_PEP508_H
#define NB_DOCTOR_PEP508_H

#include "base/arena.h"
#include "doctor/pep440.h"

/* What markers ask about. */
struct nb_markers {
    char python_version[16];      /* "3.11" */
    char python_full_version[32]; /* "3.11.7" */
    char platform_machine[32];    /* "x86_64" */
    char platform_release[96], platform_version[128];
};

struct nb_requirement {
    char name[128];         /* normalized: lower case, runs of -_. as one - */
    const char *extras;     /* "a,b", normalized; "" for none */
    const char *specifiers; /* ">=2.0,<3"; "" for any version; "@ URL" where one is named */
    const char *marker;     /* "" for none */
    const char *text;       /* all of it */
};

/* Takes text[0..n) apart; strings are the arena's. False if it is no requirement, or memory ran
 * out. */
bool nb_requirement_parse(const char *text, size_t n, struct nb_arena *arena,
                          struct nb_requirement *out);

/* Whether a marker holds, for an extra ("" for none). A marker that cannot be read holds not. */
bool nb_marker_holds(const char *marker, const struct nb_markers *markers, const char *extra);

/* "Foo_Bar" to "foo-bar" (PEP 503), of at most size - 1 characters. */
void nb_normalize_name(const char *text, size_t n, char *out, size_t size);

#endif
