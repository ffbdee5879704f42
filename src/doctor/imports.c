/* Imports that what is installed cannot satisfy, found by reading the source. */
#include "doctor/stack.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/room.h"
#include "model/json.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_STARS = 16,     /* of star imports that lead on */
    MAX_BROKEN = 20000, /* imports that are looked at more closely */
    MAX_ERRORS = 10,    /* that are reported */
    MAX_GREP_BYTES = 32 << 20,
};

enum outcome {
    FOUND,
    UNKNOWN,   /* a library, a finder: nothing can be said */
    NO_TOP,    /* no package of that name at all */
    NO_MODULE, /* the package is there, the module in it is not */
    NO_NAME,   /* the module is there, the name in it is not */
};

struct resolved {
    enum outcome outcome;
    int32_t target;     /* the module that lacks the name or the submodule; -1: none */
    char missing[512];  /* what is missing: "torch.ops", or the name */
    bool lazy, dynamic; /* the target may make names as they are asked for */
    bool own;           /* NO_NAME: Python's own module lacks it */
    int32_t lost;       /* of the stack's list: why the module is not there; -1: it never was */
    int gone;           /* NO_TOP: the Python version that dropped it from its library, or 0 */
    int32_t runs[64];   /* modules that the import runs */
    size_t n_runs;
};

struct broken {
    int32_t module;
    const struct nb_py_import *import;
    struct resolved what;
    bool mentioned; /* what is missing is named somewhere in the target's package */
    int32_t next;   /* another that misses the same word, or -1 */
};

struct checker {
    struct nb_stack *s;
    json_t *standard; /* {"modules": {"abc": {"since": …, "gone": …}, …}} */
    struct broken *broken;
    size_t n_broken;
    struct nb_index own;               /* keys of Python's own modules to own_modules */
    struct nb_py_module **own_modules; /* NULL: none of Python source */
    size_t n_own, cap_own;
};

extern const unsigned char nb_data_stdlib[];
extern const size_t nb_data_stdlib_bytes;

/* ---- which module an import means ---- */

/* Whether the table has a top-level name as one of the standard library of this Python. *gone: the
 * version that no longer has it. */
static bool in_table(const struct checker *c, const char *name, int *gone) {
    const json_t *entry = json_object_get(json_object_get(c->standard, "modules"), name);
    int python = c->s->python;
    *gone = 0;
    if (!entry)
        return false;
    int since = (int)json_integer_value(json_object_get(entry, "since"));
    int until = (int)json_integer_value(json_object_get(entry, "gone"));
    if (python && until && python >= until) {
        *gone = until;
        return false;
    }
    return !(python && since && python < since);
}

/* Whether a key lies in a package that Python never takes from where packages are installed: its
 * own library comes first on the path. So backports of typing, enum or dataclasses do no harm. */
static bool is_hidden(const struct checker *c, const char *key) {
    char top[512];
    int gone;
    snprintf(top, sizeof top, "%.*s", (int)strcspn(key, "/"), key);
    return in_table(c, top, &gone);
}

/* Whether a top-level name that no package has is of the standard library. */
static bool is_standard(const struct checker *c, const char *name, int *gone) {
    bool known = json_object_get(json_object_get(c->standard, "modules"), name);
    *gone = 0;
    if (strcmp(name, "__main__") == 0)
        return true;
    if (!known) {
        /* A newer Python than the table has more; its own folder says. */
        char path[PATH_MAX];
        if (!c->s->standard)
            return false;
        if (snprintf(path, sizeof path, "%s/%s.py", c->s->standard, name) < PATH_MAX &&
            nb_is_file(path))
            return true;
        return snprintf(path, sizeof path, "%s/%s/__init__.py", c->s->standard, name) < PATH_MAX &&
               nb_is_file(path);
    }
    return in_table(c, name, gone);
}

/* "a/b" of the module that an import names: absolute, or from the package of `from`. False where
 * dots lead above the top. */
static bool target_key(const struct checker *c, int32_t from, const struct nb_py_import *import,
                       char *out, size_t size) {
    size_t used = 0;
    if (import->level) {
        const struct nb_stack_module *m = &c->s->modules[from];
        snprintf(out, size, "%s", m->key);
        for (int up = m->package ? 1 : 0; up < import->level; up++) {
            char *slash = strrchr(out, '/');
            if (!slash)
                return false;
            *slash = 0;
        }
        used = strlen(out);
        if (import->module[0] && used + 1 < size)
            out[used++] = '/';
    }
    int n = snprintf(out + used, size - used, "%s", import->module);
    for (char *p = out + used; *p; p++)
        *p = *p == '.' ? '/' : *p;
    /* `import a.__init__` runs the package's own file. */
    size_t length = strlen(out);
    if (length > 9 && strcmp(out + length - 9, "/__init__") == 0)
        out[length - 9] = 0;
    return n >= 0 && (size_t)n < size - used;
}

static void set_missing(struct resolved *r, const char *key) {
    snprintf(r->missing, sizeof r->missing, "%.*s", (int)sizeof r->missing - 1, key);
    for (char *p = r->missing; *p; p++)
        *p = *p == '/' ? '.' : *p;
}

static void add_run(struct resolved *r, int32_t module) {
    if (r->n_runs < sizeof r->runs / sizeof *r->runs)
        r->runs[r->n_runs++] = module;
}

/* What every module has without binding it. */
static bool is_builtin_name(const char *name) {
    static const char *const names[] = {"__name__",     "__file__",   "__doc__",        "__path__",
                                        "__package__",  "__loader__", "__spec__",       "__dict__",
                                        "__builtins__", "__cached__", "__annotations__"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

/* Whether a module has a name: in its own text, or through its star imports. */
static enum outcome find_name(const struct checker *c, int32_t module, uint64_t hash, int depth,
                              struct resolved *r) {
    const struct nb_stack_module *m = &c->s->modules[module];
    if (!m->source || m->source->damaged)
        return UNKNOWN;
    if (nb_py_has(m->source, hash))
        return FOUND;
    r->lazy = r->lazy || m->source->lazy;
    r->dynamic = r->dynamic || m->source->dynamic;
    for (size_t i = 0; i < m->source->n_imports; i++) {
        const struct nb_py_import *import = &m->source->imports[i];
        char key[512];
        if (!import->name || strcmp(import->name, "*") != 0)
            continue;
        if (depth == MAX_STARS || !target_key(c, module, import, key, sizeof key))
            return UNKNOWN;
        int32_t next = !import->level && is_hidden(c, key) ? -1 : nb_index_get(&c->s->by_key, key);
        if (next < 0 || c->s->modules[next].file < 0)
            return UNKNOWN; /* of the standard library, or nowhere: another finding */
        enum outcome o = find_name(c, next, hash, depth + 1, r);
        if (o != NO_NAME)
            return o;
    }
    return NO_NAME;
}

/* ---- Python's own modules ---- */

/* A module of the standard library, "collections/abc", read when it is first asked for; NULL if it
 * is not there as source. */
static const struct nb_py_module *own_module(struct checker *c, const char *key) {
    static const char *const forms[] = {"%s/%s.py", "%s/%s/__init__.py"};
    int32_t known = nb_index_get(&c->own, key);
    if (known >= 0)
        return c->own_modules[known];
    const char *copy = nb_arena_string(&c->s->arena, key, strlen(key));
    if (!c->s->standard || !copy ||
        !nb_room(&c->own_modules, c->n_own, &c->cap_own, sizeof *c->own_modules) ||
        !nb_index_put(&c->own, copy, (int32_t)c->n_own))
        return NULL;
    struct nb_py_module *module = NULL;
    for (size_t i = 0; i < 2 && !module; i++) {
        char path[PATH_MAX];
        struct nb_buf text = {0};
        int n = i ? snprintf(path, sizeof path, forms[1], c->s->standard, key)
                  : snprintf(path, sizeof path, forms[0], c->s->standard, key);
        if (n < PATH_MAX && nb_is_file(path) &&
            nb_read_file(path, MAX_GREP_BYTES, &text, NULL) == NB_OK && text.data) {
            module = nb_arena_alloc(&c->s->arena, 1, sizeof *module);
            if (module && !nb_py_read(text.data, text.len, &c->s->arena, module))
                module = NULL;
        }
        nb_buf_free(&text);
    }
    c->own_modules[c->n_own++] = module;
    return module;
}

/* Whether one of Python's own modules binds a name: as far as its source says. */
static enum outcome own_name(struct checker *c, const char *key, const char *name, int depth) {
    const struct nb_py_module *m = own_module(c, key);
    char sub[1024];
    if (!m || m->damaged || m->lazy || m->dynamic || depth == MAX_STARS)
        return UNKNOWN;
    if (nb_py_has(m, nb_py_hash(name, strlen(name))) || is_builtin_name(name))
        return FOUND;
    for (size_t i = 0; i < m->n_imports; i++) {
        const struct nb_py_import *import = &m->imports[i];
        if (!import->name || strcmp(import->name, "*") != 0)
            continue;
        /* `from .base_events import *` in asyncio, `from _socket import *` */
        int n = import->level == 1 ? snprintf(sub, sizeof sub, "%s/%s", key, import->module)
                                   : snprintf(sub, sizeof sub, "%s", import->module);
        for (char *p = sub; *p; p++)
            *p = *p == '.' ? '/' : *p;
        if (import->level > 1 || n >= (int)sizeof sub)
            return UNKNOWN;
        enum outcome o = own_name(c, sub, name, depth + 1);
        if (o != NO_NAME)
            return o;
    }
    snprintf(sub, sizeof sub, "%s/%s", key, name);
    if (own_module(c, sub))
        return FOUND;
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", c->s->standard, sub) < PATH_MAX &&
                   nb_is_folder(path)
               ? FOUND
               : NO_NAME;
}

/* Whether the package of a module has one of that name somewhere in it: its own copy of another
 * package, whose folder it puts on the path while it is imported (setuptools/_vendor). */
static bool brings(const struct checker *c, int32_t from, const char *name) {
    const char *key = c->s->modules[from].key;
    size_t top = strcspn(key, "/"), n = strlen(name);
    for (size_t i = 0; i < c->s->n_modules; i++) {
        const char *other = c->s->modules[i].key;
        size_t len = strlen(other);
        if (len > top + n && strncmp(other, key, top) == 0 && other[top] == '/' &&
            other[len - n - 1] == '/' && strcmp(other + len - n, name) == 0)
            return true;
    }
    return false;
}

/* The modules on the way to a key, "a", "a/b", "a/b/c". */
static bool walk_key(const struct checker *c, int32_t from, const char *key, struct resolved *r) {
    char part[512];
    for (size_t n = strcspn(key, "/");; n += 1 + strcspn(key + n + 1, "/")) {
        snprintf(part, sizeof part, "%.*s", (int)n, key);
        int32_t m = nb_index_get(&c->s->by_key, part);
        m = m >= 0 && c->s->modules[m].hidden ? -1 : m;
        /* A folder whose __init__.py is missing is no package any more, though Python takes it for
         * one that is spread over several folders. */
        int32_t lost = m < 0 || c->s->modules[m].file < 0 ? nb_index_get(&c->s->by_lost, part) : -1;
        if (lost >= 0) {
            set_missing(r, part);
            r->lost = lost;
            r->outcome = NO_MODULE;
            return false;
        }
        if (m < 0) {
            set_missing(r, part);
            if (r->target >= 0) {
                const struct nb_stack_module *parent = &c->s->modules[r->target];
                const char *last = strrchr(part, '/') + 1;
                /* "import six.moves": an attribute that was put into sys.modules. */
                bool attribute =
                    parent->source && nb_py_has(parent->source, nb_py_hash(last, strlen(last)));
                r->outcome =
                    !parent->source || parent->source->damaged || attribute ? UNKNOWN : NO_MODULE;
                r->lazy = parent->source && parent->source->lazy;
                return false;
            }
            bool known = is_standard(c, part, &r->gone) || c->s->finders ||
                         nb_index_get(&c->s->found, part) >= 0 || brings(c, from, part);
            r->outcome = known ? UNKNOWN : NO_TOP;
            return false;
        }
        r->target = m;
        if (c->s->modules[m].file >= 0)
            add_run(r, m);
        if (!key[n])
            return true;
    }
}

/* Whether a package has the name of a part of it only because it imports that part itself:
 * `from . import part`. */
static bool binds_by_import(const struct checker *c, int32_t package, const char *name) {
    const struct nb_py_module *source = c->s->modules[package].source;
    char key[512];
    for (size_t i = 0; i < source->n_imports; i++) {
        const struct nb_py_import *import = &source->imports[i];
        if (import->name && strcmp(import->name, name) == 0 &&
            target_key(c, package, import, key, sizeof key) &&
            strcmp(key, c->s->modules[package].key) == 0)
            return true;
    }
    return false;
}

static void resolve(struct checker *c, int32_t from, const struct nb_py_import *import,
                    struct resolved *r) {
    char key[512], sub[1024];
    *r = (struct resolved){.outcome = FOUND, .target = -1, .lost = -1};
    if (!target_key(c, from, import, key, sizeof key) || !key[0]) {
        r->outcome = UNKNOWN;
        return;
    }
    if (!import->level && is_hidden(c, key)) {
        r->outcome = UNKNOWN;
        /* Of what a package runs; the rest may be for other Pythons. */
        if (import->name && strcmp(import->name, "*") != 0 && c->s->modules[from].reached &&
            strncmp(key, "distutils", 9) != 0 && /* setuptools has another in its place */
            own_name(c, key, import->name, 0) == NO_NAME) {
            r->outcome = NO_NAME;
            r->own = true;
            snprintf(r->missing, sizeof r->missing, "%s", import->name);
        }
        return;
    }
    if (!walk_key(c, from, key, r) || !import->name || strcmp(import->name, "*") == 0)
        return;
    snprintf(sub, sizeof sub, "%s/%s", key, import->name);
    int32_t submodule = nb_index_get(&c->s->by_key, sub);
    submodule = submodule >= 0 && c->s->modules[submodule].hidden ? -1 : submodule;
    const struct nb_stack_module *m = &c->s->modules[r->target];
    if (m->library || (m->file < 0 && submodule < 0)) {
        r->outcome = UNKNOWN;
        return;
    }
    if (is_builtin_name(import->name))
        return;
    enum outcome o =
        m->file < 0 ? NO_NAME
                    : find_name(c, r->target, nb_py_hash(import->name, strlen(import->name)), 0, r);
    int32_t lost =
        submodule < 0 || c->s->modules[submodule].file < 0 ? nb_index_get(&c->s->by_lost, sub) : -1;
    if (lost >= 0 &&
        (o == NO_NAME || (o == FOUND && binds_by_import(c, r->target, import->name)))) {
        r->lost = lost;
        r->outcome = NO_MODULE;
        set_missing(r, sub);
        return;
    }
    /* `from . import part` in a package's own __init__.py binds the name by running the module. */
    if (o == FOUND && (submodule < 0 || r->target != from))
        return;
    if (submodule >= 0) {
        /* A __getattr__ that is asked for a part of the package mostly imports it. */
        if (c->s->modules[submodule].file >= 0)
            add_run(r, submodule);
        return;
    }
    r->outcome = o;
    snprintf(r->missing, sizeof r->missing, "%s", import->name);
}

/* ---- what importing a package runs ---- */

static bool is_test(const char *key) {
    static const char *const names[] = {"tests",      "test",    "testing",  "conftest", "examples",
                                        "benchmarks", "scripts", "setup",    "docs",     "_vendor",
                                        "benchmark",  "example", "templates"};
    for (const char *at = key; at;) {
        size_t n = strcspn(at, "/");
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (n == strlen(names[i]) && strncmp(at, names[i], n) == 0)
                return true;
        }
        if (strncmp(at, "test_", 5) == 0)
            return true;
        at = at[n] ? at + n + 1 : NULL;
    }
    return false;
}

/* Runs what is in the queue, and what that runs. Breadth first, so that the way to a fault is a
 * short one. */
static void run_queue(struct checker *c, int32_t *queue, size_t n, bool wanted) {
    struct nb_stack *s = c->s;
    for (size_t at = 0; at < n; at++) {
        const struct nb_py_module *source = s->modules[queue[at]].source;
        for (size_t i = 0; source && i < source->n_imports; i++) {
            const struct nb_py_import *import = &source->imports[i];
            struct resolved r;
            if (import->conditional || import->typing)
                continue;
            resolve(c, queue[at], import, &r);
            for (size_t j = 0; j < r.n_runs; j++) {
                struct nb_stack_module *m = &s->modules[r.runs[j]];
                if (m->reached)
                    continue;
                m->reached = true;
                m->wanted = wanted;
                m->from = queue[at];
                m->from_line = import->line;
                queue[n++] = r.runs[j];
            }
        }
    }
}

/* An import under `if` or `else` of another package that is there: such conditions mostly ask
 * whether it is (is_triton_available()), so that it runs. Within a package they ask for other
 * things, such as the system. */
static bool is_optional(const struct nb_stack *s, const struct nb_stack_module *from,
                        const struct nb_py_import *import, const struct resolved *r) {
    return import->conditional && !import->tried && !import->typing && !import->level &&
           r->n_runs && s->modules[r->runs[0]].dist >= 0 &&
           s->modules[r->runs[0]].dist != from->dist;
}

/* Adds what the modules that are wanted import so to the queue. Returns how many. */
static size_t queue_optional(struct checker *c, int32_t *queue) {
    struct nb_stack *s = c->s;
    size_t n = 0;
    for (size_t i = 0; i < s->n_modules; i++) {
        const struct nb_py_module *source = s->modules[i].wanted ? s->modules[i].source : NULL;
        for (size_t j = 0; source && j < source->n_imports; j++) {
            struct resolved r;
            if (!source->imports[j].conditional || source->imports[j].tried)
                continue;
            resolve(c, (int32_t)i, &source->imports[j], &r);
            if (!is_optional(s, &s->modules[i], &source->imports[j], &r) ||
                s->modules[r.runs[0]].reached)
                continue;
            struct nb_stack_module *m = &s->modules[r.runs[0]];
            m->reached = true;
            m->wanted = true;
            m->from = (int32_t)i;
            m->from_line = source->imports[j].line;
            queue[n++] = r.runs[0];
        }
    }
    return n;
}

static bool any_requested(const struct nb_stack *s) {
    for (size_t i = 0; i < s->n_dists; i++) {
        if (s->dists[i].requested)
            return true;
    }
    return false;
}

/* What importing the packages runs: first those that were asked for by name, then those that came
 * with them, of which some are made for what is not here (matplotlib_inline, without matplotlib)
 * and nobody imports. Where none is known to be asked for, all are. */
static void reach(struct checker *c) {
    struct nb_stack *s = c->s;
    int32_t *queue = malloc((s->n_modules + 1) * sizeof *queue);
    bool any = any_requested(s);
    if (!queue)
        return;
    for (int wanted = 1; wanted >= 0; wanted--) {
        size_t n = 0;
        for (size_t i = 0; i < s->n_modules; i++) {
            struct nb_stack_module *m = &s->modules[i];
            if (m->dist < 0 || strchr(m->key, '/') || m->file < 0 || m->reached ||
                is_test(m->key) || is_hidden(c, m->key) ||
                (wanted && any && !s->dists[m->dist].requested))
                continue;
            m->reached = true;
            m->wanted = wanted;
            queue[n++] = (int32_t)i;
        }
        do
            run_queue(c, queue, n, wanted);
        while (wanted && (n = queue_optional(c, queue)) > 0);
    }
    free(queue);
}

/* A module that only uses globals() may have any name; one with __getattr__ has a table of them. */
static bool may_have_any(const struct resolved *r) {
    return r->outcome == NO_NAME && r->dynamic && !r->lazy;
}

static const char *file_of(const struct nb_stack *s, int32_t module) {
    return s->modules[module].file >= 0 ? s->files[s->modules[module].file].path
                                        : s->modules[module].key;
}

/* The way from the top to a module: "torch/__init__.py, line 3 -> …". Returns the top. */
static int32_t describe_way(const struct nb_stack *s, int32_t module, struct nb_buf *out) {
    int32_t way[64];
    size_t n = 0;
    for (int32_t m = module; m >= 0 && n < 64; m = s->modules[m].from)
        way[n++] = m;
    for (size_t i = n; i-- > 1;)
        nb_buf_printf(out, "%s%s, line %d", i + 1 == n ? "\nreached by " : " -> ",
                      file_of(s, way[i]), s->modules[way[i - 1]].from_line);
    return way[n - 1];
}

/* An import of a module that is lost is told with the files of its package (nb_stack_files), for
 * that is the cause: many imports fail for it. */
static void note_lost(struct checker *c, int32_t module, const struct nb_py_import *import,
                      const struct resolved *r) {
    const struct nb_stack_lost *lost = &c->s->lost[r->lost];
    int32_t owner = nb_stack_owner_of_lost(c->s, lost);
    if (owner < 0)
        return;
    struct nb_stack_dist *d = &c->s->dists[owner];
    const char **message = lost->file >= 0 ? &d->foreign_message : &d->lost_message;
    (*(lost->file >= 0 ? &d->n_foreign : &d->n_lost))++;
    if (*message)
        return;
    int32_t top = module;
    for (int i = 0; i < 64 && c->s->modules[top].from >= 0; i++)
        top = c->s->modules[top].from;
    struct nb_buf text = {0};
    nb_buf_printf(&text, "import %s: ", c->s->modules[top].key);
    nb_buf_printf(&text, "ModuleNotFoundError: No module named '%s' (%s, line %d)", r->missing,
                  file_of(c->s, module), import->line);
    *message = text.data ? nb_arena_string(&c->s->arena, text.data, text.len) : NULL;
    nb_buf_free(&text);
}

/* A package that was asked for, whose own __init__.py is missing: nothing may import it here, but
 * whoever asked for it will. */
static void note_lost_tops(struct checker *c) {
    struct nb_stack *s = c->s;
    bool any = any_requested(s);
    for (size_t i = 0; i < s->n_lost; i++) {
        const struct nb_stack_lost *lost = &s->lost[i];
        int32_t there = nb_index_get(&s->by_key, lost->key);
        if (lost->file >= 0 || strchr(lost->key, '/') || is_test(lost->key) ||
            is_hidden(c, lost->key) || (there >= 0 && s->modules[there].file >= 0))
            continue;
        struct nb_stack_dist *d = &s->dists[lost->dist];
        if ((any && !d->requested) || d->n_lost++)
            continue;
        struct nb_buf text = {0};
        nb_buf_printf(&text,
                      there < 0 ? "import %s: ModuleNotFoundError: No module named '%s'"
                                : "import %s: an empty module, for %s/__init__.py is missing",
                      lost->key, lost->key);
        d->lost_message = text.data ? nb_arena_string(&s->arena, text.data, text.len) : NULL;
        nb_buf_free(&text);
    }
}

static void collect(struct checker *c) {
    for (size_t i = 0; i < c->s->n_modules; i++) {
        const struct nb_stack_module *m = &c->s->modules[i];
        if (!m->source || m->dist < 0 || is_hidden(c, m->key))
            continue;
        for (size_t j = 0; j < m->source->n_imports; j++) {
            const struct nb_py_import *import = &m->source->imports[j];
            struct resolved r;
            if (import->conditional || import->typing || c->n_broken == MAX_BROKEN ||
                (!m->reached && is_test(m->key)))
                continue;
            resolve(c, (int32_t)i, import, &r);
            if (r.lost >= 0) {
                if (m->wanted)
                    note_lost(c, (int32_t)i, import, &r);
                continue;
            }
            bool counts = r.outcome == NO_NAME || r.outcome == NO_MODULE ||
                          (r.outcome == NO_TOP && m->reached);
            /* setuptools puts its own copy in the place of distutils. */
            if (r.outcome == NO_TOP && strcmp(r.missing, "distutils") == 0 &&
                nb_stack_find(c->s, "setuptools"))
                counts = false;
            if (!counts || may_have_any(&r))
                continue;
            struct broken *p = realloc(c->broken, (c->n_broken + 1) * sizeof *p);
            if (!p)
                return;
            c->broken = p;
            c->broken[c->n_broken++] =
                (struct broken){.module = (int32_t)i, .import = import, .what = r};
        }
    }
}

/* ---- names that a package makes as they are asked for ---- */

static bool is_word_char(unsigned char c) {
    return isalnum(c) || c == '_';
}

/* Whether a broken import is one of those for which the target's package must be searched. */
static bool needs_search(const struct broken *b) {
    return b->what.outcome == NO_MODULE ||
           (b->what.outcome == NO_NAME && !b->what.own && (b->what.lazy || b->what.dynamic));
}

/* The word that is missing: the last part of a module, or the name. */
static const char *missing_word(const struct broken *b) {
    const char *last = strrchr(b->what.missing, '.');
    return last ? last + 1 : b->what.missing;
}

/* A file names a word that some broken imports miss. A module is put in place by code that names it
 * and sys.modules; a name, by any code of the package but the import itself. */
static void mention(struct checker *c, int32_t first, size_t file, bool places) {
    const char *path = c->s->files[file].path;
    size_t top = strcspn(path, "/");
    for (int32_t i = first; i >= 0; i = c->broken[i].next) {
        struct broken *b = &c->broken[i];
        const char *key = c->s->modules[b->what.target].key;
        if (strncmp(key, path, top) == 0 && (!key[top] || key[top] == '/') &&
            c->s->modules[b->module].file != (int32_t)file &&
            (b->what.outcome == NO_NAME || places))
            b->mentioned = true;
    }
}

/* Looks every word of a file up. */
static void search_file(struct checker *c, const struct nb_index *words, size_t file,
                        const struct nb_buf *text) {
    bool places = memmem(text->data, text->len, "sys.modules", 11) ||
                  memmem(text->data, text->len, "meta_path", 9);
    for (size_t i = 0; i < text->len;) {
        size_t n = 0;
        char word[128];
        while (i + n < text->len && is_word_char((unsigned char)text->data[i + n]))
            n++;
        if (n && n < sizeof word) {
            memcpy(word, text->data + i, n);
            word[n] = 0;
            int32_t first = nb_index_get(words, word);
            if (first >= 0)
                mention(c, first, file, places);
        }
        i += n ? n : 1;
    }
}

/* Reads again the packages that some broken import needs searched. */
static void search(struct checker *c) {
    struct nb_index tops = {0}, words = {0};
    for (size_t i = 0; i < c->n_broken; i++) {
        if (!needs_search(&c->broken[i]) || c->broken[i].what.target < 0)
            continue;
        c->broken[i].next = nb_index_get(&words, missing_word(&c->broken[i]));
        nb_index_put(&words, missing_word(&c->broken[i]), (int32_t)i);
        const char *key = c->s->modules[c->broken[i].what.target].key;
        const char *top = nb_arena_string(&c->s->arena, key, strcspn(key, "/"));
        if (!top || !nb_index_put(&tops, top, 1))
            break;
    }
    for (size_t i = 0; tops.n && i < c->s->n_files; i++) {
        const struct nb_stack_file *f = &c->s->files[i];
        char top[PATH_MAX], path[PATH_MAX];
        struct nb_buf text = {0};
        snprintf(top, sizeof top, "%.*s", (int)strcspn(f->path, "/"), f->path);
        size_t n = strlen(top);
        if (f->kind == NB_FILE_PYTHON && !strchr(f->path, '/') && n > 3)
            top[n - 3] = 0;
        if (f->kind != NB_FILE_PYTHON || nb_index_get(&tops, top) < 0)
            continue;
        if (nb_read_file(nb_stack_path(c->s, f, path, sizeof path), MAX_GREP_BYTES, &text, NULL) ==
                NB_OK &&
            text.data)
            search_file(c, &words, i, &text);
        nb_buf_free(&text);
    }
    nb_index_free(&tops);
    nb_index_free(&words);
}

/* ---- findings ---- */

static const char *dist_text(const struct nb_stack *s, int32_t module, struct nb_findings *f) {
    int32_t d = s->modules[module].dist;
    return d < 0 ? "no known package"
                 : nb_findings_text(f, "%s %s", s->dists[d].name, s->dists[d].version_text);
}

/* "from .mm_common import mm_configs" */
static void statement(const struct nb_py_import *import, char *out, size_t size) {
    char dots[16] = "";
    for (int i = 0; i < import->level && i < 15; i++)
        dots[i] = '.', dots[i + 1] = 0;
    if (import->name)
        snprintf(out, size, "from %s%s import %s", dots, import->module, import->name);
    else
        snprintf(out, size, "import %s", import->module);
}

/* What Python would say. */
static const char *message(const struct nb_stack *s, const struct broken *b,
                           struct nb_findings *f) {
    if (b->what.outcome != NO_NAME)
        return nb_findings_text(f, "ModuleNotFoundError: No module named '%s'", b->what.missing);
    char dotted[512];
    snprintf(dotted, sizeof dotted, "%s",
             b->what.own ? b->import->module : s->modules[b->what.target].key);
    for (char *p = dotted; *p; p++)
        *p = *p == '/' ? '.' : *p;
    return nb_findings_text(f, "ImportError: cannot import name '%s' from '%s'", b->what.missing,
                            dotted);
}

static void describe(const struct nb_stack *s, const struct broken *b, struct nb_findings *f,
                     struct nb_buf *out) {
    char text[1200];
    statement(b->import, text, sizeof text);
    nb_buf_printf(out, "%s%s, line %d (%s): %s", out->len ? "\n" : "", file_of(s, b->module),
                  b->import->line, dist_text(s, b->module, f), text);
    if (b->what.own)
        nb_buf_printf(out, "\nPython %d.%d's own %s binds no %s", s->python / 100, s->python % 100,
                      b->import->module, b->what.missing);
    else if (b->what.outcome == NO_NAME)
        nb_buf_printf(out, "\n%s (%s) binds no %s", file_of(s, b->what.target),
                      dist_text(s, b->what.target, f), b->what.missing);
    if (b->what.gone)
        nb_buf_printf(out, "\nPython %d.%d no longer has it; this is Python %d.%d",
                      b->what.gone / 100, b->what.gone % 100, s->python / 100, s->python % 100);
}

/* Whether a distribution requires another, here and without any extra. */
static bool requires(const struct nb_stack *s, int32_t dist, const char *normal) {
    bool found = false;
    struct nb_arena arena = {0};
    for (size_t i = 0; dist >= 0 && !found && i < s->dists[dist].n_requires; i++) {
        const char *text = s->dists[dist].requires[i];
        struct nb_requirement r;
        found = nb_requirement_parse(text, strlen(text), &arena, &r) &&
                strcmp(r.name, normal) == 0 && nb_marker_holds(r.marker, &s->markers, "");
    }
    nb_arena_free(&arena);
    return found;
}

static const char *what_to_do(const struct nb_stack *s, const struct broken *b,
                              struct nb_findings *f) {
    int32_t mine = s->modules[b->module].dist;
    int32_t theirs = b->what.target < 0 ? -1 : s->modules[b->what.target].dist;
    if (b->what.own)
        return nb_findings_text(f,
                                "install a release of %s for Python %d.%d: this one is for an "
                                "older or a newer one",
                                mine < 0 ? "the importer" : s->dists[mine].name, s->python / 100,
                                s->python % 100);
    if (b->what.outcome == NO_TOP && b->what.gone)
        return nb_findings_text(
            f, "use a %s for this Python, or Python below %d.%d%s",
            mine < 0 ? "release" : s->dists[mine].name, b->what.gone / 100, b->what.gone % 100,
            strcmp(b->what.missing, "distutils") == 0 ? ", or install setuptools, which brings it"
                                                      : "");
    char normal[512];
    nb_normalize_name(b->what.missing, strlen(b->what.missing), normal, sizeof normal);
    if (b->what.outcome == NO_TOP && requires(s, mine, normal))
        return nb_findings_text(f, "install %s, which %s requires", normal, s->dists[mine].name);
    if (b->what.outcome == NO_TOP)
        return nb_findings_text(f,
                                "install the package that has the module %s; %s does not require "
                                "it, but imports it",
                                b->what.missing, mine < 0 ? "the importer" : s->dists[mine].name);
    if (mine >= 0 && mine == theirs)
        return nb_findings_text(f, "its own files do not agree: install %s %s again, from nothing",
                                s->dists[mine].name, s->dists[mine].version_text);
    return nb_findings_text(f, "install releases of %s and %s that were made for each other",
                            mine < 0 ? "the importer" : s->dists[mine].name,
                            theirs < 0 ? "the other" : s->dists[theirs].name);
}

static void report_reached(const struct nb_stack *s, const struct broken *b, bool certain,
                           struct nb_findings *f) {
    struct nb_buf evidence = {0};
    char top[512];
    describe(s, b, f, &evidence);
    int32_t first = describe_way(s, b->module, &evidence);
    snprintf(top, sizeof top, "%s", s->modules[first].key);
    nb_findings_add(
        f, certain && s->modules[b->module].wanted ? NB_SEVERITY_ERROR : NB_SEVERITY_WARNING,
        b->what.outcome == NO_TOP ? "module-missing" : "import-unsatisfied",
        nb_findings_text(f, "import %s %s: %s", top, certain ? "fails" : "may fail",
                         message(s, b, f)),
        evidence.data, what_to_do(s, b, f));
    nb_buf_free(&evidence);
}

/* Whether the files of an import are as their package brought them. */
static bool is_pristine(const struct nb_stack *s, const struct broken *b) {
    int32_t modules[] = {b->module, b->what.target};
    for (size_t i = 0; i < 2; i++) {
        int32_t file = modules[i] < 0 ? -1 : s->modules[modules[i]].file;
        if (file >= 0 && (s->files[file].changed || s->files[file].stray))
            return false;
    }
    return true;
}

/* Imports that nothing reaches at once: together, one finding for each pair of packages. A mixed
 * installation's are errors: they come from it. */
static void report_unreached(const struct checker *c, struct nb_findings *f) {
    const struct nb_stack *s = c->s;
    for (size_t i = 0; i < c->n_broken; i++) {
        struct broken *b = &c->broken[i];
        if (b->mentioned || s->modules[b->module].reached || b->what.target < 0)
            continue;
        int32_t mine = s->modules[b->module].dist, theirs = s->modules[b->what.target].dist;
        bool own = is_pristine(s, b);
        struct nb_buf evidence = {0};
        size_t n = 0;
        for (size_t j = i; j < c->n_broken; j++) {
            struct broken *o = &c->broken[j];
            if (o->mentioned || s->modules[o->module].reached || o->what.target < 0 ||
                s->modules[o->module].dist != mine || s->modules[o->what.target].dist != theirs ||
                is_pristine(s, o) != own)
                continue;
            if (n++ < (own && mine == theirs ? 1 : NB_STACK_NAMED))
                describe(s, o, f, &evidence);
            if (o != b)
                o->mentioned = true; /* told here */
        }
        size_t named = own && mine == theirs ? 1 : NB_STACK_NAMED;
        if (n > named)
            nb_buf_printf(&evidence, "\nand %zu more", n - named);
        /* A release may hold modules that never worked; its own files are then as they were made.
         */
        bool born = own && mine == theirs;
        nb_findings_add(
            f,
            born  ? NB_SEVERITY_NOTE
            : own ? NB_SEVERITY_WARNING
                  : NB_SEVERITY_ERROR,
            "import-unsatisfied",
            nb_findings_text(f, "%zu import%s of %s from %s cannot be satisfied: %s", n,
                             n == 1 ? "" : "s", dist_text(s, b->module, f),
                             mine == theirs ? "itself" : dist_text(s, b->what.target, f),
                             message(s, b, f)),
            evidence.data,
            born ? "its files are as they were released: a fault of that release, felt only where "
                   "those modules are used"
                 : what_to_do(s, b, f));
        nb_buf_free(&evidence);
    }
}

void nb_stack_imports(struct nb_stack *stack, struct nb_findings *f) {
    struct checker c = {.s = stack};
    struct nb_error err;
    if (nb_json_parse((const char *)nb_data_stdlib, nb_data_stdlib_bytes, "stdlib.json",
                      &c.standard, &err) != NB_OK) {
        f->failed = true;
        return;
    }
    size_t reached = 0, errors = 0;
    int32_t last = -1;
    reach(&c);
    note_lost_tops(&c);
    collect(&c);
    search(&c);
    for (size_t i = 0; i < stack->n_modules; i++)
        reached += stack->modules[i].reached;
    for (size_t i = 0; i < c.n_broken; i++) {
        const struct broken *b = &c.broken[i];
        /* After the first import of a module that fails, none follows. */
        if (b->mentioned || !stack->modules[b->module].reached || b->module == last)
            continue;
        last = b->module;
        /* globals() may bring any name: what no file of the package mentions is doubtful only. */
        if (errors++ < MAX_ERRORS)
            report_reached(stack, b, !b->what.dynamic, f);
    }
    report_unreached(&c, f);
    nb_findings_add(f, errors ? NB_SEVERITY_NOTE : NB_SEVERITY_GOOD, "imports",
                    nb_findings_text(f,
                                     "%zu modules read; importing the packages runs %zu of them; "
                                     "%zu of their imports fail",
                                     stack->n_modules, reached, errors),
                    NULL, NULL);
    json_decref(c.standard);
    nb_index_free(&c.own);
    free(c.own_modules);
    free(c.broken);
}
