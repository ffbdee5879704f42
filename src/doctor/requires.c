/* Requirements of what is installed, held against what is installed. */
#include "base/buf.h"
#include "base/room.h"
#include "doctor/stack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_QUEUE = 100000 };

/* A distribution's requirements are looked at once plain, and once for each extra that something
 * asks it for. */
struct task {
    int32_t dist;
    const char *extra; /* "" for none */
    int32_t asked_by;  /* the distribution that named the extra; -1: none */
};

/* A package that is not installed, and who requires it. */
struct absent {
    const char *name, *specifiers; /* those that pin a version, or else the first */
    const char *title;             /* who requires it first */
    struct nb_buf evidence;
    size_t n;     /* distributions that do */
    int32_t last; /* of them */
    enum nb_severity severity;
};

struct checker {
    const struct nb_stack *s;
    struct nb_arena arena;
    struct nb_index seen;    /* "dist extra" */
    struct nb_index by_name; /* to absent */
    struct absent *absent;
    size_t n_absent, cap_absent;
    struct task *tasks;
    size_t n_tasks, cap_tasks;
    struct nb_findings *findings;
    size_t n_checked, n_broken;
};

static void add_task(struct checker *c, int32_t dist, const char *extra, int32_t asked_by) {
    char key[256];
    snprintf(key, sizeof key, "%d %.200s", dist, extra);
    if (nb_index_get(&c->seen, key) >= 0 || c->n_tasks == MAX_QUEUE)
        return;
    const char *copy = nb_arena_string(&c->arena, key, strlen(key));
    if (!nb_room(&c->tasks, c->n_tasks, &c->cap_tasks, sizeof *c->tasks))
        return;
    if (copy && nb_index_put(&c->seen, copy, 1))
        c->tasks[c->n_tasks++] = (struct task){dist, strchr(copy, ' ') + 1, asked_by};
}

/* The folder of a package that lacks its METADATA, so that it is not installed; or NULL. */
static const char *find_hollow(const struct nb_stack *s, const char *normal) {
    for (size_t i = 0; i < s->n_hollow && i < NB_STACK_NAMED; i++) {
        char name[128];
        nb_normalize_name(s->hollow[i], strcspn(s->hollow[i], "-"), name, sizeof name);
        if (strcmp(name, normal) == 0)
            return s->hollow[i];
    }
    return NULL;
}

static void add_absent(struct checker *c, int32_t dist, const struct nb_requirement *r,
                       const char *evidence, enum nb_severity severity) {
    const struct nb_stack_dist *d = &c->s->dists[dist];
    int32_t known = nb_index_get(&c->by_name, r->name);
    if (known < 0) {
        const char *name = nb_arena_string(&c->arena, r->name, strlen(r->name));
        if (!name || !nb_room(&c->absent, c->n_absent, &c->cap_absent, sizeof *c->absent) ||
            !nb_index_put(&c->by_name, name, (int32_t)c->n_absent)) {
            c->findings->failed = true;
            return;
        }
        known = (int32_t)c->n_absent++;
        c->absent[known] = (struct absent){
            .name = name,
            .specifiers = r->specifiers,
            .title = nb_findings_text(c->findings, "%s %s requires %s%s, which is not installed",
                                      d->name, d->version_text, r->name, r->specifiers),
            .last = -1,
            .severity = severity};
    }
    struct absent *a = &c->absent[known];
    if (a->last == dist) /* for several of its extras, perhaps */
        return;
    a->last = dist;
    a->severity = severity < a->severity ? severity : a->severity;
    if (strncmp(r->specifiers, "==", 2) == 0 && strncmp(a->specifiers, "==", 2) != 0)
        a->specifiers = r->specifiers;
    if (a->n++ < NB_STACK_NAMED)
        nb_buf_printf(&a->evidence, "%s%s", a->evidence.len ? "\n" : "", evidence);
}

static void report_absent(struct checker *c) {
    for (size_t i = 0; i < c->n_absent; i++) {
        struct absent *a = &c->absent[i];
        const char *hollow = find_hollow(c->s, a->name);
        if (a->n > NB_STACK_NAMED)
            nb_buf_printf(&a->evidence, "\nand %zu more", a->n - NB_STACK_NAMED);
        if (hollow)
            nb_buf_printf(&a->evidence,
                          "\n%s is there, but has no METADATA: an installation that was broken off",
                          hollow);
        const char *title =
            a->n == 1 ? a->title
                      : nb_findings_text(c->findings, "%s; %zu other%s require%s it, too", a->title,
                                         a->n - 1, a->n == 2 ? "" : "s", a->n == 2 ? "s" : "");
        nb_findings_add(
            c->findings, a->severity, "requirement-missing", title, a->evidence.data,
            nb_findings_text(c->findings, "pip install '%s%s'", a->name, a->specifiers));
        nb_buf_free(&a->evidence);
    }
}

static void check(struct checker *c, const struct task *task, const char *text) {
    const struct nb_stack *s = c->s;
    const struct nb_stack_dist *d = &s->dists[task->dist];
    struct nb_requirement r;
    if (!nb_requirement_parse(text, strlen(text), &c->arena, &r))
        return;
    if (!nb_marker_holds(r.marker, &s->markers, task->extra))
        return;
    /* What holds without the extra was checked without it. */
    if (task->extra[0] && nb_marker_holds(r.marker, &s->markers, ""))
        return;
    /* Those who package for a system loosen requirements, and METADATA keeps them. */
    enum nb_severity severity = d->by_system ? NB_SEVERITY_WARNING : NB_SEVERITY_ERROR;
    c->n_checked++;
    const struct nb_stack_dist *found = nb_stack_find(s, r.name);
    const char *evidence =
        nb_findings_text(c->findings, "%s/%s: Requires-Dist: %s%s%s", s->roots[d->root], d->folder,
                         r.text, task->asked_by >= 0 ? "\nits extra is asked for by " : "",
                         task->asked_by >= 0 ? s->dists[task->asked_by].name : "");
    if (!found) {
        c->n_broken++;
        add_absent(c, task->dist, &r, evidence, severity);
        return;
    }
    bool valid = true;
    if (found->has_version && r.specifiers[0] != '@' &&
        !nb_version_matches(&found->version, r.specifiers, strlen(r.specifiers), &valid) && valid) {
        c->n_broken++;
        nb_findings_add(
            c->findings, severity, "requirement-violated",
            nb_findings_text(c->findings, "%s %s requires %s%s, but %s is installed", d->name,
                             d->version_text, r.name, r.specifiers, found->version_text),
            evidence,
            nb_findings_text(c->findings, "pip install '%s%s', or another release of %s", r.name,
                             r.specifiers, d->name));
    }
    for (const char *at = r.extras; *at;) {
        size_t n = strcspn(at, ",");
        char extra[128];
        snprintf(extra, sizeof extra, "%.*s", (int)(n < 127 ? n : 127), at);
        add_task(c, (int32_t)(found - s->dists), extra, task->dist);
        at += n + (at[n] == ',');
    }
}

static void check_python(struct checker *c, const struct nb_stack_dist *d) {
    struct nb_version python;
    const char *text = c->s->markers.python_full_version;
    bool valid = true;
    if (!c->s->python || !d->requires_python[0] || !nb_version_parse(text, strlen(text), &python))
        return;
    if (nb_version_matches(&python, d->requires_python, strlen(d->requires_python), &valid) ||
        !valid)
        return;
    /* Only 3.11 is known, as 3.11.0: ">=3.11.2" can then not be judged. */
    if (strstr(text, ".0") && python.n_release == 3 && python.release[2] == 0) {
        python.release[2] = 999;
        if (nb_version_matches(&python, d->requires_python, strlen(d->requires_python), &valid))
            return;
    }
    c->n_broken++;
    nb_findings_add(
        c->findings, NB_SEVERITY_ERROR, "requirement-violated",
        nb_findings_text(c->findings, "%s %s requires Python %s, but this is %s", d->name,
                         d->version_text, d->requires_python, text),
        nb_findings_text(c->findings, "%s/%s: Requires-Python: %s", c->s->roots[d->root], d->folder,
                         d->requires_python),
        nb_findings_text(c->findings, "install a release of %s for this Python", d->name));
}

void nb_stack_requirements(const struct nb_stack *stack, struct nb_findings *findings) {
    struct checker c = {.s = stack, .findings = findings};
    for (size_t i = 0; i < stack->n_dists; i++) {
        if (nb_stack_find(stack, stack->dists[i].normal) == &stack->dists[i]) {
            add_task(&c, (int32_t)i, "", -1);
            check_python(&c, &stack->dists[i]);
        }
    }
    for (size_t i = 0; i < c.n_tasks; i++) {
        struct task task = c.tasks[i]; /* the list may move */
        const struct nb_stack_dist *d = &stack->dists[task.dist];
        for (size_t j = 0; j < d->n_requires; j++)
            check(&c, &task, d->requires[j]);
    }
    report_absent(&c);
    if (!c.n_broken)
        nb_findings_add(findings, NB_SEVERITY_GOOD, "requirements",
                        nb_findings_text(findings, "all %zu requirements of %zu packages hold",
                                         c.n_checked, stack->n_dists),
                        NULL, NULL);
    nb_index_free(&c.seen);
    nb_index_free(&c.by_name);
    free(c.absent);
    nb_arena_free(&c.arena);
    free(c.tasks);
}
