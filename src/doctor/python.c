/* The audit of a Python stack. */
#include "doctor/python.h"

#include "base/buf.h"
#include "doctor/stack.h"
#include "doctor/traps.h"

#include <stdio.h>
#include <string.h>

static void introduce(const struct nb_stack *s, struct nb_findings *findings) {
    struct nb_buf roots = {0};
    for (size_t i = 0; i < s->n_roots; i++)
        nb_buf_printf(&roots, "%s%s", i ? "\n" : "", s->roots[i]);
    nb_findings_add(
        findings, NB_SEVERITY_GOOD, "stack",
        nb_findings_text(findings, "Python %s: %zu packages, %zu files, %.2f GB in %s%s",
                         s->python ? s->markers.python_full_version : "?", s->n_dists, s->n_files,
                         (double)s->bytes / 1e9, s->roots[0], s->n_roots > 1 ? " and on" : ""),
        roots.data, NULL);
    nb_buf_free(&roots);
}

static const struct nb_version *find_package(void *context, const char *normal, bool *there) {
    const struct nb_stack_dist *d = nb_stack_find(context, normal);
    *there = d != NULL;
    return d && d->has_version ? &d->version : NULL;
}

enum nb_status nb_doctor_python(const char *what, const struct nb_python_options *options,
                                const struct nb_gpu_table *table, const struct nb_target *target,
                                struct nb_findings *findings, struct nb_error *err) {
    struct nb_stack stack;
    struct nb_pool *pool;
    enum nb_status s = nb_pool_create(options->threads, &pool, err);
    if (s != NB_OK)
        return s;
    s = nb_stack_open(what, &stack, err);
    if (s == NB_OK)
        s = nb_stack_read(&stack, pool, options->full, err);
    if (s == NB_OK) {
        introduce(&stack, findings);
        nb_stack_requirements(&stack, findings);
        /* First, for a file of --traps may be wrong, and the rest takes seconds. */
        s = nb_doctor_traps(options->traps, find_package, &stack, stack.python, target, findings,
                            err);
    }
    if (s == NB_OK) {
        nb_stack_imports(&stack, findings);
        nb_stack_files(&stack, findings);
        nb_stack_libraries(&stack, pool, table, target, findings);
    }
    nb_stack_free(&stack);
    nb_pool_free(pool);
    return s;
}
