/* What the doctor found: worst first, causes before what follows from them. */
#ifndef NB_DOCTOR_FINDING_H
#define NB_DOCTOR_FINDING_H

#include "base/arena.h"
#include "base/error.h"

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

enum nb_severity {
    NB_SEVERITY_ERROR,   /* it will not work */
    NB_SEVERITY_WARNING, /* it may not work, or not as expected */
    NB_SEVERITY_NOTE,    /* worth knowing */
    NB_SEVERITY_GOOD,    /* looked at, and found right */
};

struct nb_finding {
    enum nb_severity severity;
    const char *code;     /* "gpu-without-code": the kind, for machines; static */
    const char *title;    /* what is wrong, one sentence */
    const char *evidence; /* files, versions, bytes, symbols; lines end in \n but the last; or "" */
    const char *fix;      /* what to do; or "" */
};

/* Begin with nb_findings_init. Adding is safe from several threads at a time. */
struct nb_findings {
    struct nb_arena arena; /* of all strings */
    struct nb_finding *list;
    size_t n, cap;
    bool failed; /* memory ran out: the list is not whole */
    pthread_mutex_t mutex;
};

void nb_findings_init(struct nb_findings *findings);
void nb_findings_free(struct nb_findings *findings);

/* Copies title, evidence and fix; `code` must be static. evidence and fix may be NULL. Control
 * characters, which names from files may hold to play with a terminal, become '?'. */
void nb_findings_add(struct nb_findings *findings, enum nb_severity severity, const char *code,
                     const char *title, const char *evidence, const char *fix);

/* Text of the findings' arena, made as printf does; "" if memory ran out. */
const char *nb_findings_text(struct nb_findings *findings, const char *fmt, ...) NB_PRINTF(2, 3);

/* Worst first; within a severity by the order of causes, then as they were added. */
void nb_findings_sort(struct nb_findings *findings);

/* Whether there is no error among them. */
bool nb_findings_fit(const struct nb_findings *findings);

/* "error", "warning", "note", "good" */
const char *nb_severity_name(enum nb_severity severity);

/* {"fit": …, "findings": [{"severity", "code", "title", "evidence", "fix"}, …]}, a new reference;
 * NULL if memory ran out. */
json_t *nb_findings_json(const struct nb_findings *findings);

#endif
