#include "doctor/finding.h"

#include "base/buf.h"
#include "base/room.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Causes before what follows from them: a file of another version explains a name that is missing,
 * and a missing package explains its libraries. */
static const char *const order[] = {
    "driver-missing",      "gpu-not-mounted",      "gpu-missing",      "driver-too-old",
    "two-versions",        "mixed-installation",   "wrong-python",     "damaged-file",
    "library-damaged",     "library-foreign",      "overwritten-file", "changed-file",
    "missing-file",        "stray-file",           "metadata-missing", "leftover",
    "requirement-missing", "requirement-violated", "known-trap",       "numpy-abi",
    "import-unsatisfied",  "module-missing",       "library-missing",  "library-version",
    "library-symbol",      "gpu-without-code",     "cuda-unsupported",
};

void nb_findings_init(struct nb_findings *findings) {
    *findings = (struct nb_findings){0};
    pthread_mutex_init(&findings->mutex, NULL);
}

void nb_findings_free(struct nb_findings *findings) {
    nb_arena_free(&findings->arena);
    free(findings->list);
    findings->list = NULL;
    findings->n = findings->cap = 0;
    pthread_mutex_destroy(&findings->mutex);
}

/* A copy that is fit to be printed: UTF-8 without control characters but line ends. */
static char *clean(struct nb_findings *findings, const char *text) {
    size_t n = strlen(text);
    char *copy = nb_arena_string(&findings->arena, text, n);
    if (!copy)
        return NULL;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = nb_utf8_decode(text + i, n - i, &c);
        if (!len || (c < 0x20 && c != '\n') || (c >= 0x7F && c < 0xA0))
            memset(copy + i, '?', len ? len : 1);
        i += len ? len : 1;
    }
    return copy;
}

void nb_findings_add(struct nb_findings *findings, enum nb_severity severity, const char *code,
                     const char *title, const char *evidence, const char *fix) {
    pthread_mutex_lock(&findings->mutex);
    bool room = nb_room(&findings->list, findings->n, &findings->cap, sizeof *findings->list);
    struct nb_finding f = {severity, code, clean(findings, title),
                           clean(findings, evidence ? evidence : ""),
                           clean(findings, fix ? fix : "")};
    if (room && f.title && f.evidence && f.fix)
        findings->list[findings->n++] = f;
    else
        findings->failed = true;
    pthread_mutex_unlock(&findings->mutex);
}

const char *nb_findings_text(struct nb_findings *findings, const char *fmt, ...) {
    va_list args;
    char *text = NULL;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    pthread_mutex_lock(&findings->mutex);
    char *copy = n >= 0 ? nb_arena_string(&findings->arena, text, (size_t)n) : NULL;
    findings->failed = findings->failed || !copy;
    pthread_mutex_unlock(&findings->mutex);
    if (n >= 0)
        free(text);
    return copy ? copy : "";
}

static size_t rank(const char *code) {
    size_t i = 0;
    while (i < sizeof order / sizeof *order && strcmp(order[i], code) != 0)
        i++;
    return i;
}

static bool before(const struct nb_finding *a, const struct nb_finding *b) {
    if (a->severity != b->severity)
        return a->severity < b->severity;
    return rank(a->code) < rank(b->code);
}

void nb_findings_sort(struct nb_findings *findings) {
    /* By insertion: stable, and there are few. */
    for (size_t i = 1; i < findings->n; i++) {
        struct nb_finding f = findings->list[i];
        size_t j = i;
        for (; j > 0 && before(&f, &findings->list[j - 1]); j--)
            findings->list[j] = findings->list[j - 1];
        findings->list[j] = f;
    }
}

bool nb_findings_fit(const struct nb_findings *findings) {
    for (size_t i = 0; i < findings->n; i++) {
        if (findings->list[i].severity == NB_SEVERITY_ERROR)
            return false;
    }
    return !findings->failed;
}

const char *nb_severity_name(enum nb_severity severity) {
    static const char *const names[] = {"error", "warning", "note", "good"};
    return names[severity];
}

json_t *nb_findings_json(const struct nb_findings *findings) {
    json_t *list = json_array();
    for (size_t i = 0; i < findings->n; i++) {
        const struct nb_finding *f = &findings->list[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:s, s:s}", "severity",
                                        nb_severity_name(f->severity), "code", f->code, "title",
                                        f->title, "evidence", f->evidence, "fix", f->fix));
    }
    if (json_array_size(list) != findings->n) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:b, s:o}", "fit", (int)nb_findings_fit(findings), "findings", list);
}
