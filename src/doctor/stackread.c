/* The files of a Python stack, read: hashes and source. */
#include "doctor/stack.h"

#include "base/buf.h"
#include "base/sha256.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_SOURCE_BYTES = 32 << 20,
    CHUNK_BYTES = 1 << 20,
    MAX_READERS = 256, /* threads of a pool */
};

struct reading {
    struct nb_stack *stack;
    bool full;
    int32_t *module_of; /* [n_files]: the module that a file is, or -1 */
    struct reader {
        struct nb_arena arena; /* of what the modules of this thread hold */
        uint8_t *buffer;
        size_t cap;
    } readers[MAX_READERS];
    atomic_bool failed;
};

/* All of a file into the reader's buffer; false if it cannot be read. */
static bool read_whole(struct reader *r, const char *path, uint64_t size, size_t *n) {
    if (size > MAX_SOURCE_BYTES)
        return false;
    if (r->cap < size + 1) {
        size_t cap = (size_t)size + (1 << 18);
        uint8_t *p = realloc(r->buffer, cap);
        if (!p)
            return false;
        r->buffer = p;
        r->cap = cap;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    *n = 0;
    for (ssize_t got; *n < size && (got = read(fd, r->buffer + *n, (size_t)size - *n)) > 0;)
        *n += (size_t)got;
    close(fd);
    return true;
}

/* Whether any record of a file says what its content is. */
static bool is_hashed(const struct nb_stack *s, const struct nb_stack_file *f) {
    for (int32_t i = f->record; i >= 0; i = s->records[i].next) {
        if (s->records[i].has_hash)
            return true;
    }
    return false;
}

/* Sets `matches` of the records of a file, and `changed` if none matches. hash: NULL where only the
 * size is known. Each file is one thread's, and a record is of one file. */
static void compare(struct nb_stack *s, struct nb_stack_file *f, const uint8_t *hash) {
    bool any = f->record < 0;
    for (int32_t i = f->record; i >= 0; i = s->records[i].next) {
        struct nb_stack_record *r = &s->records[i];
        r->matches = (!r->has_size || r->size == f->size) &&
                     (!hash || !r->has_hash || memcmp(r->hash, hash, sizeof r->hash) == 0);
        any = any || r->matches;
    }
    f->changed = !any;
}

/* The hash of a file that is read in pieces. */
static bool hash_file(struct reader *r, const char *path, uint8_t hash[NB_SHA256_BYTES]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct nb_sha256 sum;
    if (r->cap < CHUNK_BYTES) {
        uint8_t *p = realloc(r->buffer, CHUNK_BYTES);
        r->buffer = p ? p : r->buffer;
        r->cap = p ? CHUNK_BYTES : r->cap;
    }
    if (fd < 0 || r->cap < CHUNK_BYTES) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    ssize_t got;
    nb_sha256_begin(&sum);
    while ((got = read(fd, r->buffer, CHUNK_BYTES)) > 0)
        nb_sha256_add(&sum, r->buffer, (size_t)got);
    close(fd);
    nb_sha256_end(&sum, hash);
    return got == 0;
}

static void read_one(struct reading *all, struct reader *r, size_t i) {
    struct nb_stack *s = all->stack;
    struct nb_stack_file *f = &s->files[i];
    char path[PATH_MAX];
    uint8_t hash[NB_SHA256_BYTES];
    bool hashed = is_hashed(s, f), have = false;
    nb_stack_path(s, f, path, sizeof path);
    if (f->kind == NB_FILE_PYTHON) {
        size_t n;
        if (read_whole(r, path, f->size, &n)) {
            int32_t m = all->module_of[i];
            if (hashed)
                nb_sha256(r->buffer, n, hash);
            have = hashed;
            if (m >= 0) {
                struct nb_py_module *source = nb_arena_alloc(&r->arena, 1, sizeof *source);
                if (!source || !nb_py_read((const char *)r->buffer, n, &r->arena, source))
                    atomic_store(&all->failed, true);
                s->modules[m].source = source;
            }
        }
    } else if (all->full && hashed) {
        have = hash_file(r, path, hash);
    }
    compare(s, f, have ? hash : NULL);
}

static void read_some(void *context, int thread, size_t begin, size_t end) {
    struct reading *all = context;
    for (size_t i = begin; i < end; i++)
        read_one(all, &all->readers[thread], i);
}

static void sort_files(struct nb_stack *s);

enum nb_status nb_stack_read(struct nb_stack *stack, struct nb_pool *pool, bool full,
                             struct nb_error *err) {
    struct reading *all = calloc(1, sizeof *all);
    int32_t *module_of = malloc((stack->n_files + 1) * sizeof *module_of);
    if (!all || !module_of || nb_pool_size(pool) > MAX_READERS) {
        free(all);
        free(module_of);
        return nb_fail_memory(err, stack->n_files * sizeof *module_of, "the files of a stack");
    }
    for (size_t i = 0; i < stack->n_files; i++)
        module_of[i] = -1;
    for (size_t i = 0; i < stack->n_modules; i++) {
        if (stack->modules[i].file >= 0 && !stack->modules[i].library)
            module_of[stack->modules[i].file] = (int32_t)i;
    }
    all->stack = stack;
    all->full = full;
    all->module_of = module_of;
    nb_pool_run(pool, stack->n_files, 32, read_some, all);
    for (int i = 0; i < nb_pool_size(pool); i++) {
        nb_arena_join(&stack->arena, &all->readers[i].arena);
        free(all->readers[i].buffer);
    }
    bool failed = atomic_load(&all->failed);
    sort_files(stack);
    free(module_of);
    free(all);
    return failed ? nb_fail_memory(err, 0, "the source of a stack") : NB_OK;
}

/* ---- files that are not as recorded ---- */

/* The folder of a package: "torch/lib/x.so" is in "torch". */
static const char *top_of(const char *path, char *out, size_t size) {
    snprintf(out, size, "%.*s", (int)strcspn(path, "/"), path);
    return out;
}

static void note_file(struct nb_stack_list *list, const struct nb_stack_file *f) {
    bool code = f->kind != NB_FILE_OTHER;
    if (code && list->n_code < NB_STACK_NAMED)
        list->first[list->n_code] = f->path;
    else if (!code && list->n < NB_STACK_NAMED && !list->first[list->n])
        list->first[list->n] = f->path;
    list->n_code += code;
    list->n++;
}

/* A file that several distributions brought is as one of them did. Packages that share a folder may
 * each bring its __init__.py. */
static void note_overwritten(struct nb_stack *s, const struct nb_stack_file *f) {
    const char *slash = strrchr(f->path, '/');
    if (f->kind == NB_FILE_OTHER || f->record < 0 || s->records[f->record].next < 0 || !slash ||
        strcmp(slash, "/__init__.py") == 0)
        return;
    int32_t by = -1;
    for (int32_t r = f->record; r >= 0; r = s->records[r].next)
        by = s->records[r].matches ? s->records[r].dist : by;
    for (int32_t r = f->record; r >= 0; r = s->records[r].next) {
        struct nb_stack_dist *d = &s->dists[s->records[r].dist];
        if (s->records[r].matches || strcmp(d->normal, s->dists[by].normal) == 0)
            continue;
        if (!d->overwritten.n)
            d->overwriter = by;
        note_file(&d->overwritten, f);
    }
}

/* Files that differ from every record of them, and files that no record has in a package whose
 * __init__.py is recorded. */
static void sort_files(struct nb_stack *s) {
    for (size_t i = 0; i < s->n_files; i++) {
        struct nb_stack_file *f = &s->files[i];
        for (int32_t r = f->record; r >= 0; r = s->records[r].next)
            s->dists[s->records[r].dist].n_matching += s->records[r].matches;
        if (f->changed) {
            for (int32_t r = f->record; r >= 0; r = s->records[r].next)
                note_file(&s->dists[s->records[r].dist].changed, f);
            continue;
        }
        note_overwritten(s, f);
        if (f->record >= 0 || f->kind == NB_FILE_OTHER || !strchr(f->path, '/'))
            continue;
        char top[PATH_MAX];
        int32_t m = nb_index_get(&s->by_key, top_of(f->path, top, sizeof top));
        if (m < 0 || s->modules[m].dist < 0 || !s->modules[m].package ||
            !s->dists[s->modules[m].dist].has_record ||
            s->files[s->modules[m].file].root != f->root)
            continue;
        f->stray = true;
        note_file(&s->dists[s->modules[m].dist].stray, f);
    }
}

/* "3 files differ from its RECORD, 2 of them code: a.py, b.py, c.txt" */
static void add_list(struct nb_buf *out, const char *one, const char *many,
                     const struct nb_stack_list *list) {
    if (!list->n)
        return;
    nb_buf_printf(out, "%s%zu file%s %s", out->len ? "\n" : "", list->n, list->n == 1 ? "" : "s",
                  list->n == 1 ? one : many);
    if (list->n_code < list->n)
        nb_buf_printf(out, ", %zu of them code", list->n_code);
    for (size_t i = 0; i < NB_STACK_NAMED && i < list->n; i++)
        nb_buf_printf(out, "%s%s", i ? ", " : ": ", list->first[i] ? list->first[i] : "?");
    if (list->n > NB_STACK_NAMED)
        nb_buf_add_string(out, ", …");
}

/* The version that a package's own source says: version.py, _version.py or __init__.py. */
static bool own_version(const struct nb_stack *s, const struct nb_stack_dist *d, char *out,
                        size_t size, char *where, size_t where_size) {
    static const char *const files[] = {"version.py", "_version.py", "__init__.py"};
    char top[128], key[PATH_MAX], path[PATH_MAX];
    snprintf(top, sizeof top, "%s", d->normal);
    for (char *c = top; *c; c++)
        *c = *c == '-' ? '_' : *c;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct reader r = {0};
        size_t n;
        snprintf(where, where_size, "%s/%s", top, files[i]);
        snprintf(key, sizeof key, "%d/%s", d->root, where);
        int32_t f = nb_index_get(&s->paths, key);
        bool found = f >= 0 &&
                     read_whole(&r, nb_stack_path(s, &s->files[f], path, sizeof path),
                                s->files[f].size, &n) &&
                     (nb_py_string((const char *)r.buffer, n, "__version__", out, size) ||
                      nb_py_string((const char *)r.buffer, n, "version", out, size));
        free(r.buffer);
        struct nb_version v;
        if (found && nb_version_parse(out, strlen(out), &v))
            return true;
    }
    return false;
}

/* Whether the source says another version than the METADATA; local parts ("+cu121") that METADATA
 * lacks do not count. */
static bool other_version(const struct nb_stack *s, const struct nb_stack_dist *d, char *out,
                          size_t size, char *where, size_t where_size) {
    struct nb_version v;
    if (!d->has_version || !own_version(s, d, out, size, where, where_size) ||
        !nb_version_parse(out, strlen(out), &v))
        return false;
    struct nb_version mine = d->version;
    if (!mine.local[0] || !v.local[0])
        mine.local[0] = v.local[0] = 0;
    return nb_version_compare(&mine, &v) != 0;
}

static const char *reinstall(const struct nb_stack_dist *d, struct nb_findings *findings) {
    return nb_findings_text(findings, "pip install --force-reinstall --no-deps '%s==%s'", d->name,
                            d->version_text);
}

/* Extension modules of another Python, or another system, that something here imports. */
static void judge_foreign(const struct nb_stack *s, const struct nb_stack_dist *d,
                          struct nb_findings *findings) {
    if (!d->foreign_message)
        return;
    struct nb_buf evidence = {0};
    nb_buf_add_string(&evidence, d->foreign_message);
    add_list(&evidence, "is for another Python or system", "are for another Python or system",
             &d->foreign);
    nb_buf_printf(&evidence, "\nthis Python loads %s, .abi3.so and .so", s->suffix);
    nb_findings_add(findings, NB_SEVERITY_ERROR, "wrong-python",
                    nb_findings_text(findings,
                                     "%s %s was installed for another Python or system than this, "
                                     "%d.%d on %s",
                                     d->name, d->version_text, s->python / 100, s->python % 100,
                                     s->markers.platform_machine),
                    evidence.data,
                    nb_findings_text(findings,
                                     "with this Python's own pip: pip install "
                                     "--force-reinstall --no-deps '%s==%s'",
                                     d->name, d->version_text));
    nb_buf_free(&evidence);
}

static void judge_damaged(const struct nb_stack_dist *d, struct nb_findings *findings) {
    if (!d->damaged.n)
        return;
    struct nb_buf evidence = {0};
    add_list(&evidence, "is empty, holds NUL bytes or ends in the middle of a statement",
             "are empty, hold NUL bytes or end in the middle of a statement", &d->damaged);
    nb_findings_add(findings, d->damage_felt ? NB_SEVERITY_ERROR : NB_SEVERITY_WARNING,
                    "damaged-file",
                    nb_findings_text(findings, "%s %s: %zu of its modules %s damaged: %s", d->name,
                                     d->version_text, d->damaged.n,
                                     d->damaged.n == 1 ? "is" : "are", d->damaged.first[0]),
                    evidence.data, reinstall(d, findings));
    nb_buf_free(&evidence);
}

static void judge_overwritten(const struct nb_stack *s, const struct nb_stack_dist *d,
                              struct nb_findings *findings) {
    if (!d->overwritten.n_code)
        return;
    const struct nb_stack_dist *by = &s->dists[d->overwriter];
    struct nb_buf evidence = {0};
    add_list(&evidence, "is not as its RECORD says, but as another package brought it",
             "are not as its RECORD says, but as other packages brought them", &d->overwritten);
    nb_findings_add(findings, NB_SEVERITY_WARNING, "overwritten-file",
                    nb_findings_text(findings, "%s %s: %zu of its %zu files are now those of %s %s",
                                     d->name, d->version_text, d->overwritten.n, d->n_recorded,
                                     by->name, by->version_text),
                    evidence.data,
                    nb_findings_text(findings,
                                     "keep one of them: pip uninstall %s %s, then pip install the "
                                     "one that is wanted",
                                     d->name, by->name));
    nb_buf_free(&evidence);
}

/* Imports within a package that its own files cannot satisfy are named with the mixture that they
 * come from; see imports.c. */
static void judge_files(struct nb_stack *s, struct nb_stack_dist *d, struct nb_findings *findings) {
    const struct nb_stack_list *changed = &d->changed, *stray = &d->stray, *missing = &d->missing;
    if (d->editable || d->by_system || (!changed->n && !stray->n && !missing->n))
        return;
    struct nb_buf evidence = {0};
    char said[64] = "", where[160] = "";
    if (d->lost_message)
        nb_buf_add_string(&evidence, d->lost_message);
    if (d->n_lost > 1)
        nb_buf_printf(&evidence, "; %zu imports in all need what is missing", d->n_lost);
    add_list(&evidence, "differs from its RECORD", "differ from its RECORD", changed);
    add_list(&evidence, "is in its folder and in no RECORD", "are in its folder and in no RECORD",
             stray);
    add_list(&evidence, "of its RECORD is missing", "of its RECORD are missing", missing);
    bool other = (changed->n_code || stray->n_code) &&
                 other_version(s, d, said, sizeof said, where, sizeof where);
    if (other)
        nb_buf_printf(&evidence, "\n%s says version %s", where, said);
    const char *fix = nb_findings_text(
        findings,
        "remove %s and install it again: pip uninstall %s until it says that it is not "
        "installed, delete what is left of its folder, pip install %s==%s",
        d->name, d->name, d->name, d->version_text);
    /* Changed code alone may be a patch; with strays, or with another version's name in it, or in
     * number, it is another version. What is damaged is told as that. */
    bool mixed =
        changed->n_code > d->damaged.n && (other || stray->n_code || changed->n_code >= 10);
    if (mixed)
        nb_findings_add(
            findings, NB_SEVERITY_ERROR, "mixed-installation",
            nb_findings_text(findings,
                             "%s %s is mixed with files of %s%s: %zu of its code files are not its "
                             "own",
                             d->name, d->version_text, other ? "version " : "another version",
                             other ? said : "", changed->n_code + stray->n_code),
            evidence.data, fix);
    else if (d->lost_message)
        nb_findings_add(findings, NB_SEVERITY_ERROR, "missing-file",
                        nb_findings_text(findings,
                                         "%s %s: %zu of its %zu files %s, and imports need %s",
                                         d->name, d->version_text, missing->n, d->n_recorded,
                                         missing->n == 1 ? "is missing" : "are missing",
                                         missing->n == 1 ? "it" : "them"),
                        evidence.data, reinstall(d, findings));
    else if (changed->n_code > d->damaged.n)
        nb_findings_add(findings, NB_SEVERITY_WARNING, "changed-file",
                        nb_findings_text(findings, "%s %s: code was changed after it was installed",
                                         d->name, d->version_text),
                        evidence.data, fix);
    else if (missing->n_code)
        nb_findings_add(findings, NB_SEVERITY_WARNING, "missing-file",
                        nb_findings_text(findings, "%s %s: %zu of its %zu files %s missing",
                                         d->name, d->version_text, missing->n, d->n_recorded,
                                         missing->n == 1 ? "is" : "are"),
                        evidence.data, reinstall(d, findings));
    else if (stray->n_code)
        nb_findings_add(findings, NB_SEVERITY_WARNING, "stray-file",
                        nb_findings_text(findings,
                                         "%s %s: code lies in its folder that it did not "
                                         "bring",
                                         d->name, d->version_text),
                        evidence.data,
                        "leftovers of another version, or written by hand: delete them if they "
                        "are not yours");
    else if (!changed->n_code)
        nb_findings_add(findings, NB_SEVERITY_NOTE, "changed-data",
                        nb_findings_text(findings, "%s %s: files that are no code differ", d->name,
                                         d->version_text),
                        evidence.data, NULL);
    nb_buf_free(&evidence);
}

/* Modules that are no Python any more, and extension modules that this Python does not load. */
static void find_damage(struct nb_stack *s) {
    for (size_t i = 0; i < s->n_modules; i++) {
        const struct nb_stack_module *m = &s->modules[i];
        const struct nb_stack_file *f = m->file < 0 ? NULL : &s->files[m->file];
        if (!f || !f->changed || m->library || (f->size && !(m->source && m->source->damaged)))
            continue;
        for (int32_t r = f->record; r >= 0; r = s->records[r].next) {
            struct nb_stack_dist *d = &s->dists[s->records[r].dist];
            note_file(&d->damaged, f);
            d->damage_felt = d->damage_felt || m->wanted;
        }
    }
    for (size_t i = 0; i < s->n_lost; i++) {
        const struct nb_stack_lost *lost = &s->lost[i];
        int32_t there = nb_index_get(&s->by_key, lost->key);
        int32_t owner = lost->file < 0 || (there >= 0 && s->modules[there].file >= 0)
                            ? -1
                            : nb_stack_owner_of_lost(s, lost);
        if (owner >= 0)
            note_file(&s->dists[owner].foreign, &s->files[lost->file]);
    }
}

/* Folders that are nothing to pip: without METADATA, or put aside. */
static void judge_folders(const struct nb_stack *s, struct nb_findings *findings) {
    struct nb_buf names = {0};
    for (size_t i = 0; i < s->n_hollow && i < NB_STACK_NAMED; i++)
        nb_buf_printf(&names, "%s%s", i ? "\n" : "", s->hollow[i]);
    if (s->n_hollow)
        nb_findings_add(
            findings, NB_SEVERITY_WARNING, "metadata-missing",
            nb_findings_text(findings,
                             "%s has no METADATA%s: to pip and importlib.metadata it is "
                             "not installed, whatever lies beside it",
                             s->hollow[0], s->n_hollow > 1 ? ", and others" : ""),
            names.data,
            "an installation that was broken off: delete the folder and install the "
            "package again");
    if (s->n_leftovers)
        nb_findings_add(
            findings, NB_SEVERITY_WARNING, "leftover",
            nb_findings_text(findings, "pip was broken off: it put %s aside, and %s not back%s",
                             s->leftover, "it is", s->n_leftovers > 1 ? " (and others)" : ""),
            NULL, "delete what begins with ~, and install again what is not there");
    nb_buf_free(&names);
}

/* "…/torch-2.8.0.dist-info: 12 of its 900 files are as its RECORD says" */
static void add_twin(const struct nb_stack *s, const struct nb_stack_dist *d, struct nb_buf *out) {
    nb_buf_printf(out, "%s%s/%s", out->len ? "\n" : "", s->roots[d->root], d->folder);
    if (d->has_record)
        nb_buf_printf(out, ": %zu of its %zu files are there as it brought them", d->n_matching,
                      d->n_recorded);
}

/* Two distributions of one name: in one folder, one was installed over the other. Debian leaves
 * egg-info beside dist-info of the same version. */
static void judge_twins(const struct nb_stack *s, struct nb_findings *findings) {
    for (size_t i = 0; i < s->n_dists; i++) {
        const struct nb_stack_dist *a = &s->dists[i], *b = nb_stack_find(s, a->normal);
        if (!b || a == b || ((a->egg || b->egg) && strcmp(a->version_text, b->version_text) == 0))
            continue;
        bool same = a->root == b->root;
        struct nb_buf evidence = {0};
        add_twin(s, b, &evidence);
        add_twin(s, a, &evidence);
        nb_findings_add(
            findings, same ? NB_SEVERITY_ERROR : NB_SEVERITY_NOTE,
            same ? "two-versions" : "shadowed-version",
            same
                ? nb_findings_text(findings,
                                   "%s is installed twice in one folder, as %s and %s: the files "
                                   "of one lie over those of the other",
                                   a->name, b->version_text, a->version_text)
                : nb_findings_text(findings, "%s %s is hidden by %s, which comes first on the path",
                                   a->name, a->version_text, b->version_text),
            evidence.data,
            same ? nb_findings_text(findings,
                                    "delete both folders and the package's own, then pip install "
                                    "the one that is wanted: pip install --force-reinstall does "
                                    "not remove what it does not know of")
                 : NULL);
        nb_buf_free(&evidence);
    }
}

void nb_stack_files(struct nb_stack *s, struct nb_findings *findings) {
    find_damage(s);
    judge_twins(s, findings);
    judge_folders(s, findings);
    size_t without = 0, right = 0, files = 0;
    const char *first = "";
    for (size_t i = 0; i < s->n_dists; i++) {
        struct nb_stack_dist *d = &s->dists[i];
        judge_foreign(s, d, findings);
        judge_damaged(d, findings);
        judge_overwritten(s, d, findings);
        judge_files(s, d, findings);
        if (!d->has_record && !d->by_system && !without++)
            first = d->name;
        bool fine = d->has_record && !d->changed.n && !d->missing.n && !d->stray.n;
        right += fine;
        files += fine ? d->n_recorded : 0;
    }
    nb_findings_add(findings, NB_SEVERITY_GOOD, "files",
                    nb_findings_text(findings,
                                     "%zu of %zu packages are as they were installed: %zu files",
                                     right, s->n_dists, files),
                    NULL, NULL);
    if (without)
        nb_findings_add(findings, NB_SEVERITY_NOTE, "no-record",
                        nb_findings_text(findings,
                                         "%zu packages have no RECORD, so that their files cannot "
                                         "be checked: %s%s",
                                         without, first, without > 1 ? ", …" : ""),
                        NULL, NULL);
    if (s->unreadable)
        nb_findings_add(findings, NB_SEVERITY_WARNING, "unreadable",
                        nb_findings_text(findings, "%zu folders cannot be opened: %s%s",
                                         s->unreadable, s->unreadable_first,
                                         s->unreadable > 1 ? ", …" : ""),
                        NULL, "run as the user whose stack it is");
    if (s->truncated)
        nb_findings_add(findings, NB_SEVERITY_WARNING, "too-large",
                        "there is more than the doctor looks at: 4,000,000 files, 48 folders deep",
                        NULL, NULL);
}
