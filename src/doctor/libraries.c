/* Shared libraries of a Python stack: whether the dynamic linker finds what they need, and whether
 * the CUDA code in them is for the target. */
#include "doctor/stack.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/room.h"

#include <dirent.h>
#include <elf.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_THREADS = 256,
    MAX_SYSTEM_FOLDERS = 64,
    MAX_NAMED = 5,
    MAX_FINDINGS = 20, /* of a kind */
};

/* A library: of the stack, or of the system. */
struct library {
    int32_t file;                  /* of the stack; -1: of the system */
    const char *path;              /* full */
    const char *name;              /* the last part of it */
    struct nb_elf_dynamic dynamic; /* strings and lists copied; nothing to read symbols with */
    struct nb_fatbin_list code;
    char *damage;     /* why it could not be read, or NULL */
    bool foreign;     /* for another kind of processor, or no ELF file */
    uint16_t machine; /* that it is for; 0: it is no ELF file of 64 bits */
    bool numpy_1;     /* an extension module that was compiled for NumPy 1, where NumPy 2 is */
    bool used;        /* importing the packages loads it */
    int32_t by;       /* the library that needs it, on the way from an extension module; -1 */
};

struct linker {
    struct nb_stack *s;
    struct nb_findings *f;
    struct nb_arena arena;
    struct library *libraries;
    size_t n, cap;
    struct nb_index nowhere;          /* names of libraries that were told as missing */
    struct nb_index by_path, by_name; /* to libraries; by_name: of the stack only, the first */
    const char *folders[MAX_SYSTEM_FOLDERS]; /* where the system looks */
    size_t n_folders;
    uint16_t machine; /* of this one: EM_X86_64, … */
    bool numpy_2;     /* is installed */
};

/* ---- reading ---- */

static const char *copy(struct nb_arena *arena, const char *text) {
    const char *p = text ? nb_arena_string(arena, text, strlen(text)) : NULL;
    return text && !p ? "" : p;
}

static struct nb_elf_version *copy_versions(struct nb_arena *arena,
                                            const struct nb_elf_version *from, size_t *n) {
    struct nb_elf_version *to = nb_arena_alloc(arena, *n, sizeof *to);
    if (!to) {
        *n = 0;
        return NULL;
    }
    for (size_t i = 0; i < *n; i++)
        to[i] = (struct nb_elf_version){.file = copy(arena, from[i].file),
                                        .name = copy(arena, from[i].name),
                                        .index = from[i].index,
                                        .weak = from[i].weak};
    return to;
}

/* What is kept of a dynamic section: the table of strings, which may be large, is not. */
static void keep_dynamic(const struct nb_elf_dynamic *from, struct nb_arena *arena,
                         struct nb_elf_dynamic *to) {
    *to = (struct nb_elf_dynamic){.soname = copy(arena, from->soname),
                                  .rpath = copy(arena, from->rpath),
                                  .runpath = copy(arena, from->runpath),
                                  .n_wants = from->n_wants,
                                  .n_has = from->n_has};
    to->needed = nb_arena_alloc(arena, from->n_needed, sizeof *to->needed);
    for (size_t i = 0; to->needed && i < from->n_needed; i++)
        to->needed[to->n_needed++] = copy(arena, from->needed[i]);
    to->wants = copy_versions(arena, from->wants, &to->n_wants);
    to->has = copy_versions(arena, from->has, &to->n_has);
}

/* Whether an image was compiled for NumPy 1: what its headers put into an extension module imports
 * the table of functions from numpy.core._multiarray_umath; NumPy 2's try numpy._core first
 * (numpy/core/include/numpy/__multiarray_api.h, _import_array). */
static bool is_for_numpy_1(const struct nb_elf *elf) {
    static const char old[] = "numpy.core._multiarray_umath", new[] = "numpy._core";
    const struct nb_elf_section *s = nb_elf_find(elf, ".rodata");
    return s && nb_elf_holds(elf, s, old, sizeof old) && !nb_elf_holds(elf, s, new, sizeof new - 1);
}

static void read_library(struct library *l, uint16_t machine, bool code, bool numpy_2,
                         struct nb_arena *arena) {
    struct nb_bytes bytes;
    struct nb_error err = {0};
    struct nb_arena scratch = {0};
    struct nb_elf elf;
    struct nb_elf_dynamic dynamic = {0};
    enum nb_status s = nb_bytes_open(l->path, &bytes, &err);
    if (s == NB_OK && !nb_elf_is(&bytes)) {
        /* "libm.so" may be a script of the linker's, which is text. */
        char first = 0;
        nb_bytes_read(&bytes, 0, &first, 1);
        if (bytes.size == 0 || first == 0)
            s = nb_fail(&err, NB_ERR_FORMAT, "%s: empty, or not a library", l->path);
        l->foreign = true;
    } else if (s == NB_OK) {
        s = nb_elf_open(&bytes, 0, bytes.size, l->path, &scratch, &elf, &err);
        l->machine = s == NB_OK ? elf.machine : 0;
        l->foreign = s == NB_ERR_UNSUPPORTED || (s == NB_OK && machine && elf.machine != machine);
        s = s == NB_ERR_UNSUPPORTED ? NB_OK : s;
        if (s == NB_OK && !l->foreign)
            s = nb_elf_dynamic(&elf, l->path, &scratch, &dynamic, &err);
        if (s == NB_OK && !l->foreign && code)
            s = nb_fatbin_read_elf(&elf, l->path, &l->code, &err);
        l->numpy_1 = s == NB_OK && !l->foreign && numpy_2 && is_for_numpy_1(&elf);
    }
    if (s != NB_OK)
        l->damage = nb_arena_string(arena, err.message, strlen(err.message));
    keep_dynamic(&dynamic, arena, &l->dynamic);
    nb_arena_free(&scratch);
    nb_bytes_close(&bytes);
}

struct reading {
    struct linker *linker;
    struct nb_arena arenas[MAX_THREADS];
};

static void read_some(void *context, int thread, size_t begin, size_t end) {
    struct reading *r = context;
    for (size_t i = begin; i < end; i++)
        read_library(&r->linker->libraries[i], r->linker->machine, true, r->linker->numpy_2,
                     &r->arenas[thread]);
}

static int32_t add_library(struct linker *k, int32_t file, const char *path) {
    if (!nb_room(&k->libraries, k->n, &k->cap, sizeof *k->libraries))
        return -1;
    const char *full = nb_arena_string(&k->arena, path, strlen(path));
    if (!full || !nb_index_put(&k->by_path, full, (int32_t)k->n))
        return -1;
    const char *slash = strrchr(full, '/');
    k->libraries[k->n] =
        (struct library){.file = file, .path = full, .name = slash ? slash + 1 : full, .by = -1};
    if (file >= 0 && nb_index_get(&k->by_name, k->libraries[k->n].name) < 0)
        nb_index_put(&k->by_name, k->libraries[k->n].name, (int32_t)k->n);
    return (int32_t)k->n++;
}

static void read_all(struct linker *k, struct nb_pool *pool) {
    char path[PATH_MAX];
    for (size_t i = 0; i < k->s->n_files; i++) {
        if (k->s->files[i].kind == NB_FILE_LIBRARY)
            add_library(k, (int32_t)i, nb_stack_path(k->s, &k->s->files[i], path, sizeof path));
    }
    struct reading *r = calloc(1, sizeof *r);
    if (!r || nb_pool_size(pool) > MAX_THREADS) {
        k->f->failed = true;
        free(r);
        return;
    }
    r->linker = k;
    nb_pool_run(pool, k->n, 4, read_some, r);
    for (int i = 0; i < nb_pool_size(pool); i++)
        nb_arena_join(&k->arena, &r->arenas[i]);
    free(r);
}

/* ---- finding what is needed ---- */

static void add_folder(struct linker *k, const char *path) {
    if (k->n_folders < MAX_SYSTEM_FOLDERS && *path)
        k->folders[k->n_folders++] = copy(&k->arena, path);
}

/* A file of folders, one a line (ldconfig(8)). */
static void read_conf(struct linker *k, const char *path) {
    struct nb_buf text = {0};
    char *save;
    if (nb_read_file(path, 1 << 20, &text, NULL) == NB_OK && text.data) {
        for (char *line = strtok_r(text.data, "\n", &save); line;
             line = strtok_r(NULL, "\n", &save)) {
            line += strspn(line, " \t");
            line[strcspn(line, " \t#")] = 0;
            if (line[0] == '/')
                add_folder(k, line);
        }
    }
    nb_buf_free(&text);
}

static void find_folders(struct linker *k) {
    static const char *const usual[] = {"/lib/x86_64-linux-gnu",
                                        "/usr/lib/x86_64-linux-gnu",
                                        "/lib/aarch64-linux-gnu",
                                        "/usr/lib/aarch64-linux-gnu",
                                        "/lib64",
                                        "/usr/lib64",
                                        "/lib",
                                        "/usr/lib"};
    const char *path = getenv("LD_LIBRARY_PATH");
    char text[PATH_MAX];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(text, sizeof text, "%.*s", (int)n, path);
        add_folder(k, text);
        path += n + (path[n] == ':');
    }
    if (k->s->standard && snprintf(text, sizeof text, "%s/..", k->s->standard) < PATH_MAX)
        add_folder(k, text); /* libpython, beside the folder of its modules */
    DIR *dir = opendir("/etc/ld.so.conf.d");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (nb_path_join(text, sizeof text, "/etc/ld.so.conf.d", e->d_name) &&
            strstr(text, ".conf"))
            read_conf(k, text);
    }
    if (dir)
        closedir(dir);
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
        add_folder(k, usual[i]);
}

/* "/a/b/../c/./d" to "/a/c/d", in place. */
static void collapse(char *path) {
    char *out = path;
    for (const char *in = path; *in;) {
        while (*in == '/')
            in++;
        size_t n = strcspn(in, "/");
        if (n == 2 && in[0] == '.' && in[1] == '.') {
            while (out > path && *--out != '/')
                ;
        } else if (n && !(n == 1 && in[0] == '.')) {
            *out++ = '/';
            memmove(out, in, n);
            out += n;
        }
        in += n;
    }
    *out = 0;
}

/* The library of a full path, read if it is of the system and new; -1 if it is not there. */
static int32_t open_path(struct linker *k, char *path) {
    collapse(path);
    int32_t known = nb_index_get(&k->by_path, path);
    if (known >= 0)
        return known;
    if (access(path, F_OK) != 0)
        return -1;
    int32_t l = add_library(k, -1, path);
    if (l >= 0)
        read_library(&k->libraries[l], 0, false, false, &k->arena);
    return l;
}

/* Looks in the folders of an RPATH or RUNPATH, "$ORIGIN" being the library's own. */
static int32_t find_in_list(struct linker *k, const char *list, const char *owner,
                            const char *name) {
    while (list && *list) {
        size_t n = strcspn(list, ":");
        char path[2 * PATH_MAX];
        const char *origin = strncmp(list, "$ORIGIN", 7) == 0     ? list + 7
                             : strncmp(list, "${ORIGIN}", 9) == 0 ? list + 9
                                                                  : NULL;
        int len =
            origin ? snprintf(path, sizeof path, "%.*s/%.*s/%s", (int)(strrchr(owner, '/') - owner),
                              owner, (int)(list + n - origin), origin, name)
                   : snprintf(path, sizeof path, "%.*s/%s", (int)n, list, name);
        if (len < PATH_MAX && path[0] == '/') {
            int32_t found = open_path(k, path);
            if (found >= 0)
                return found;
        }
        list += n + (list[n] == ':');
    }
    return -1;
}

static int32_t find_in_system(struct linker *k, const char *name) {
    char path[PATH_MAX];
    for (size_t i = 0; i < k->n_folders; i++) {
        if (nb_path_join(path, sizeof path, k->folders[i], name)) {
            int32_t found = open_path(k, path);
            if (found >= 0)
                return found;
        }
    }
    return -1;
}

/* Whether a library lies where torch loads from before it loads itself: nvidia/NAME/lib
 * (torch/__init__.py, _preload_cuda_deps). What is loaded is found by its name. */
static bool is_preloaded(const struct linker *k, int32_t l) {
    const char *path = k->s->files[k->libraries[l].file].path;
    return strncmp(path, "nvidia/", 7) == 0 && strstr(path, "/lib/");
}

/* The library that the dynamic linker takes for a name that `from` needs; -1: none. ld.so(8). */
static int32_t find_needed(struct linker *k, int32_t from, const char *name) {
    struct library l = k->libraries[from]; /* a copy: the list may move */
    int32_t found = -1;
    if (strchr(name, '/'))
        return -1;
    if (!l.dynamic.runpath)
        found = find_in_list(k, l.dynamic.rpath, l.path, name);
    /* An RPATH holds for what is loaded on behalf of a library, too. */
    for (int32_t by = l.by, i = 0; found < 0 && !l.dynamic.runpath && by >= 0 && i < 32; i++) {
        found = find_in_list(k, k->libraries[by].dynamic.rpath, k->libraries[by].path, name);
        by = k->libraries[by].by;
    }
    if (found < 0)
        found = find_in_list(k, l.dynamic.runpath, l.path, name);
    if (found >= 0)
        return found;
    int32_t own = nb_index_get(&k->by_name, name);
    if (own >= 0 && (is_preloaded(k, own) || k->libraries[own].used))
        return own;
    found = find_in_system(k, name);
    return found;
}

/* The driver's own libraries come with the driver, not with the packages. */
static bool is_drivers(const char *name) {
    return strncmp(name, "libcuda.so", 10) == 0 || strncmp(name, "libnvidia-", 10) == 0 ||
           strncmp(name, "libnvcuvid.so", 13) == 0;
}

/* ---- what importing the packages loads ---- */

static const char *dist_of(const struct linker *k, const struct library *l) {
    const struct nb_stack_dist *d =
        l->file < 0 ? NULL : nb_stack_owner(k->s, &k->s->files[l->file]);
    return d ? nb_findings_text(k->f, "%s %s", d->name, d->version_text) : "no package";
}

static const char *label_of(const struct linker *k, const struct library *l) {
    return l->file < 0
               ? l->path
               : nb_findings_text(k->f, "%s (%s)", k->s->files[l->file].path, dist_of(k, l));
}

/* How a library comes to be loaded: "a.so needs b.so, which needs c.so". */
static void add_way(const struct linker *k, int32_t l, struct nb_buf *out) {
    for (int i = 0; l >= 0 && i < 16; i++, l = k->libraries[l].by)
        nb_buf_printf(out, "\nneeded by %s", label_of(k, &k->libraries[l]));
}

static const char *what_brings(const struct linker *k, const char *name) {
    int32_t gone = nb_index_get(&k->s->gone, name);
    if (gone >= 0)
        return nb_findings_text(k->f, "pip install --force-reinstall --no-deps '%s==%s'",
                                k->s->dists[gone].name, k->s->dists[gone].version_text);
    if (strncmp(name, "libc10", 6) == 0 || strncmp(name, "libtorch", 8) == 0)
        return "install the torch that the importer was built for";
    return nb_findings_text(k->f, "install what brings %s%s", name,
                            strncmp(name, "libcu", 5) == 0 || strncmp(name, "libnv", 5) == 0
                                ? ": the nvidia-* package that the importer requires, of the same "
                                  "CUDA version"
                                : "");
}

/* The libraries that one library needs and that are nowhere: in one finding. */
static void report_missing(struct linker *k, int32_t from, const char *const *names, size_t n) {
    struct nb_buf evidence = {0};
    nb_buf_printf(&evidence, "%s: DT_NEEDED", label_of(k, &k->libraries[from]));
    for (size_t i = 0; i < n; i++)
        nb_buf_printf(&evidence, " %s", names[i]);
    const struct nb_elf_dynamic *d = &k->libraries[from].dynamic;
    if (d->runpath || d->rpath)
        nb_buf_printf(&evidence, "\nlooked in its %s %.600s", d->runpath ? "RUNPATH" : "RPATH",
                      d->runpath ? d->runpath : d->rpath);
    for (size_t i = 0; i < n; i++) {
        int32_t elsewhere = nb_index_get(&k->by_name, names[i]);
        int32_t gone = nb_index_get(&k->s->gone, names[i]);
        if (gone >= 0)
            nb_buf_printf(&evidence, "\n%s is in the RECORD of %s %s, but not on the disk",
                          names[i], k->s->dists[gone].name, k->s->dists[gone].version_text);
        if (elsewhere >= 0)
            nb_buf_printf(&evidence, "\nthere is %s, but nothing leads there",
                          label_of(k, &k->libraries[elsewhere]));
    }
    add_way(k, k->libraries[from].by, &evidence);
    const char *more =
        n > 1 ? nb_findings_text(k->f, ", nor are %zu others that it needs", n - 1) : "";
    nb_findings_add(k->f, NB_SEVERITY_ERROR, "library-missing",
                    nb_findings_text(k->f, "%s cannot be loaded: %s is not found%s",
                                     k->s->files[k->libraries[from].file].path, names[0], more),
                    evidence.data, what_brings(k, names[0]));
    nb_buf_free(&evidence);
}

static void report_version(struct linker *k, int32_t from, int32_t to,
                           const struct nb_elf_version *v) {
    bool system = k->libraries[to].file < 0;
    struct nb_buf evidence = {0};
    nb_buf_printf(&evidence, "%s needs version %s of %s\nfound %s, which does not have it",
                  label_of(k, &k->libraries[from]), v->name, v->file,
                  label_of(k, &k->libraries[to]));
    add_way(k, k->libraries[from].by, &evidence);
    nb_findings_add(
        k->f, NB_SEVERITY_ERROR, "library-version",
        nb_findings_text(k->f, "%s: version `%s' not found in %s", k->libraries[from].name, v->name,
                         v->file),
        evidence.data,
        system ? "this system is older than the one that the package was built for: use a newer "
                 "distribution, or an older release of the package"
               : "install releases that were made for each other");
    nb_buf_free(&evidence);
}

static bool has_version(const struct library *l, const char *name) {
    if (!l->dynamic.n_has)
        return true; /* the dynamic linker lets it pass */
    for (size_t i = 0; i < l->dynamic.n_has; i++) {
        if (strcmp(l->dynamic.has[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Marks what a library loads, and reports what is not found. */
static void load(struct linker *k, int32_t first, size_t *missing, size_t *versions) {
    int32_t *queue = malloc(sizeof *queue * 65536);
    size_t n = 0, cap = 65536;
    if (!queue) {
        k->f->failed = true;
        return;
    }
    if (!k->libraries[first].used) {
        k->libraries[first].used = true;
        queue[n++] = first;
    }
    for (size_t at = 0; at < n; at++) {
        const char *nowhere[MAX_NAMED];
        size_t n_nowhere = 0;
        for (size_t i = 0; i < k->libraries[queue[at]].dynamic.n_needed; i++) {
            const char *name = k->libraries[queue[at]].dynamic.needed[i];
            int32_t found = find_needed(k, queue[at], name);
            if (found < 0) {
                if (!is_drivers(name) && k->libraries[queue[at]].file >= 0 &&
                    n_nowhere < MAX_NAMED && nb_index_get(&k->nowhere, name) < 0 &&
                    nb_index_put(&k->nowhere, name, 1))
                    nowhere[n_nowhere++] = name;
                continue;
            }
            for (size_t j = 0; j < k->libraries[queue[at]].dynamic.n_wants; j++) {
                const struct nb_elf_version *v = &k->libraries[queue[at]].dynamic.wants[j];
                if (k->libraries[queue[at]].file >= 0 && !v->weak && strcmp(v->file, name) == 0 &&
                    !has_version(&k->libraries[found], v->name) && (*versions)++ < MAX_FINDINGS)
                    report_version(k, queue[at], found, v);
            }
            if (!k->libraries[found].used && n < cap) {
                k->libraries[found].used = true;
                k->libraries[found].by = queue[at];
                queue[n++] = found;
            }
        }
        if (n_nowhere && (*missing)++ < MAX_FINDINGS)
            report_missing(k, queue[at], nowhere, n_nowhere);
    }
    free(queue);
}

/* ---- symbols ---- */

/* The dynamic symbols of a library, read when they are asked for. */
static bool read_symbols(const struct library *l, bool defined, struct nb_arena *arena,
                         struct nb_elf_symbol **out, size_t *n) {
    struct nb_bytes bytes;
    struct nb_elf elf;
    struct nb_elf_dynamic dynamic;
    if (nb_bytes_open(l->path, &bytes, NULL) != NB_OK)
        return false;
    bool ok = nb_elf_open(&bytes, 0, bytes.size, l->path, arena, &elf, NULL) == NB_OK &&
              nb_elf_dynamic(&elf, l->path, arena, &dynamic, NULL) == NB_OK &&
              nb_elf_symbols(&elf, &dynamic, defined, l->path, arena, out, n, NULL) == NB_OK;
    nb_bytes_close(&bytes);
    return ok && *n;
}

/* Adds the symbols that a library defines to a table. */
static bool index_symbols(const struct library *l, struct nb_arena *arena, struct nb_index *out) {
    struct nb_elf_symbol *symbols;
    size_t n;
    if (!read_symbols(l, true, arena, &symbols, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!nb_index_put(out, symbols[i].name, 1))
            return false;
    }
    return true;
}

static void report_symbols(struct linker *k, int32_t from, const char *in, const char *const *names,
                           size_t n, enum nb_severity severity, const char *fix) {
    struct nb_buf evidence = {0};
    nb_buf_printf(&evidence,
                  "%s\n%zu symbols that it needs are not in %s:", label_of(k, &k->libraries[from]),
                  n, in);
    for (size_t i = 0; i < n && i < MAX_NAMED; i++)
        nb_buf_printf(&evidence, " %s", names[i]);
    nb_findings_add(
        k->f, severity, "library-symbol",
        nb_findings_text(k->f, "%s: undefined symbol: %s", k->libraries[from].name, names[0]),
        evidence.data, fix);
    nb_buf_free(&evidence);
}

/* Symbols with versions name the library that they are of: they must be there. This is how
 * libcusparse and libnvJitLink of different CUDA releases fail: `undefined symbol:
 * __nvJitLinkAddData_12_1`. */
static void check_versioned(struct linker *k, int32_t to) {
    struct nb_arena arena = {0};
    struct nb_index defined = {0};
    bool read = false;
    for (size_t i = 0; i < k->n; i++) {
        struct library *l = &k->libraries[i];
        bool wants = false;
        for (size_t j = 0; l->used && l->file >= 0 && j < l->dynamic.n_wants; j++)
            wants = wants || strcmp(l->dynamic.wants[j].file, k->libraries[to].name) == 0;
        if (!wants || find_needed(k, (int32_t)i, k->libraries[to].name) != to)
            continue;
        struct nb_arena scratch = {0};
        struct nb_elf_symbol *symbols;
        const char *missing[MAX_NAMED];
        size_t n, n_missing = 0;
        if (!read) {
            read = index_symbols(&k->libraries[to], &arena, &defined);
            if (!read)
                break;
        }
        l = &k->libraries[i];
        if (read_symbols(l, false, &scratch, &symbols, &n)) {
            for (size_t j = 0; j < n; j++) {
                if (!symbols[j].weak && symbols[j].version &&
                    strcmp(symbols[j].version->file, k->libraries[to].name) == 0 &&
                    nb_index_get(&defined, symbols[j].name) < 0 && n_missing++ < MAX_NAMED)
                    missing[n_missing - 1] = copy(&k->arena, symbols[j].name);
            }
        }
        if (n_missing)
            report_symbols(
                k, (int32_t)i, label_of(k, &k->libraries[to]), missing, n_missing,
                NB_SEVERITY_ERROR,
                "install both of one CUDA release: the nvidia-* packages that torch pins");
        nb_arena_free(&scratch);
    }
    nb_index_free(&defined);
    nb_arena_free(&arena);
}

/* Whether a C++ symbol is of torch: it names the namespaces c10, at or torch first. */
static bool is_torchs(const char *symbol) {
    if (strncmp(symbol, "_ZN", 3) != 0)
        return false;
    symbol += 3 + strspn(symbol + 3, "KV");
    return strncmp(symbol, "3c10", 4) == 0 || strncmp(symbol, "2at", 3) == 0 ||
           strncmp(symbol, "5torch", 6) == 0;
}

static bool needs_torch(const struct library *l) {
    for (size_t i = 0; i < l->dynamic.n_needed; i++) {
        if (strncmp(l->dynamic.needed[i], "libtorch", 8) == 0 ||
            strncmp(l->dynamic.needed[i], "libc10", 6) == 0)
            return true;
    }
    return false;
}

/* Extensions of other packages that were built for another torch. */
static void check_torch(struct linker *k) {
    static const char folder[] = "torch/lib/";
    struct nb_arena arena = {0};
    struct nb_index defined = {0};
    bool read = false;
    size_t n_libraries = k->n;
    for (size_t i = 0; i < n_libraries; i++) {
        struct library *l = &k->libraries[i];
        if (l->file < 0 || l->foreign || strncmp(k->s->files[l->file].path, "torch/", 6) == 0 ||
            strncmp(k->s->files[l->file].path, "functorch/", 10) == 0 || !needs_torch(l))
            continue;
        for (size_t j = 0; !read && j < n_libraries; j++) {
            const struct library *t = &k->libraries[j];
            if (t->file >= 0 && strncmp(k->s->files[t->file].path, folder, sizeof folder - 1) == 0)
                index_symbols(t, &arena, &defined);
        }
        read = true;
        if (!defined.n)
            break;
        struct nb_arena scratch = {0};
        struct nb_elf_symbol *symbols;
        const char *missing[MAX_NAMED];
        size_t n, n_missing = 0;
        if (read_symbols(l, false, &scratch, &symbols, &n)) {
            for (size_t j = 0; j < n; j++) {
                if (!symbols[j].weak && is_torchs(symbols[j].name) &&
                    nb_index_get(&defined, symbols[j].name) < 0 && n_missing++ < MAX_NAMED)
                    missing[n_missing - 1] = copy(&k->arena, symbols[j].name);
            }
        }
        if (n_missing)
            report_symbols(k, (int32_t)i, "torch's libraries", missing, n_missing,
                           l->used ? NB_SEVERITY_ERROR : NB_SEVERITY_WARNING,
                           "it was built for another torch: install its build for this one, or "
                           "build it here");
        nb_arena_free(&scratch);
    }
    nb_index_free(&defined);
    nb_arena_free(&arena);
}

/* ---- NumPy ---- */

/* Whether a file of the stack is what Python loads as a module. */
static bool is_module(const struct nb_stack *s, int32_t file) {
    const char *path = s->files[file].path, *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
    char key[PATH_MAX];
    snprintf(key, sizeof key, "%.*s", (int)(folder + strcspn(path + folder, ".")), path);
    int32_t m = nb_index_get(&s->by_key, key);
    return m >= 0 && s->modules[m].file == file;
}

/* Extension modules that were compiled for NumPy 1, beside NumPy 2: one finding for each package.
 */
static void check_numpy(struct linker *k) {
    const struct nb_stack_dist *numpy = nb_stack_find(k->s, "numpy");
    for (size_t d = 0; k->numpy_2 && d < k->s->n_dists; d++) {
        const struct nb_stack_dist *dist = &k->s->dists[d];
        struct nb_buf files = {0};
        size_t n = 0, used = 0;
        for (size_t i = 0; dist != numpy && i < k->n; i++) {
            const struct library *l = &k->libraries[i];
            if (l->file < 0 || !l->numpy_1 || !is_module(k->s, l->file) ||
                nb_stack_owner(k->s, &k->s->files[l->file]) != dist)
                continue;
            used += l->used;
            if (n++ < MAX_NAMED)
                nb_buf_printf(&files, "%s%s", files.len ? ", " : "", k->s->files[l->file].path);
        }
        if (n)
            nb_findings_add(
                k->f, used || dist->requested ? NB_SEVERITY_ERROR : NB_SEVERITY_WARNING,
                "numpy-abi",
                nb_findings_text(k->f,
                                 "%s %s was compiled for NumPy 1, but NumPy %s is installed: "
                                 "\"numpy.core.multiarray failed to import\" or \"numpy.dtype size "
                                 "changed\"",
                                 dist->name, dist->version_text, numpy->version_text),
                nb_findings_text(k->f,
                                 "%zu of its extension modules take%s their functions from "
                                 "numpy.core._multiarray_umath and know no numpy._core: %s%s",
                                 n, n == 1 ? "s" : "", files.data, n > MAX_NAMED ? ", …" : ""),
                nb_findings_text(k->f, "pip install 'numpy<2', or a release of %s made for NumPy 2",
                                 dist->name));
        nb_buf_free(&files);
    }
}

/* ---- CUDA ---- */

/* The CUDA version that torch was built for, "12.1", from its version.py. */
static int torch_cuda(const struct linker *k) {
    char path[PATH_MAX], text[32];
    struct nb_buf source = {0};
    int32_t f = -1;
    for (size_t root = 0; root < k->s->n_roots && f < 0; root++) {
        snprintf(path, sizeof path, "%zu/torch/version.py", root);
        f = nb_index_get(&k->s->paths, path);
    }
    int cuda = 0;
    if (f >= 0 &&
        nb_read_file(nb_stack_path(k->s, &k->s->files[f], path, sizeof path), 1 << 20, &source,
                     NULL) == NB_OK &&
        source.data && nb_py_string(source.data, source.len, "cuda", text, sizeof text))
        cuda = nb_cuda_version(text);
    nb_buf_free(&source);
    return cuda;
}

static void judge_driver(struct linker *k, int cuda, const struct nb_gpu_table *table,
                         const struct nb_target *target) {
    const struct nb_stack_dist *torch = nb_stack_find(k->s, "torch");
    if (!torch || !cuda)
        return;
    const char *name = nb_findings_text(k->f, "torch %s is built for CUDA %d.%d",
                                        torch->version_text, cuda / 1000, cuda / 10 % 100);
    const struct nb_cuda_driver *d = nb_cuda_driver(table, cuda);
    if (!target->driver_cuda) {
        nb_findings_add(
            k->f, NB_SEVERITY_GOOD, "torch-cuda",
            d ? nb_findings_text(k->f, "%s, which needs driver %s or later", name, d->minimum)
              : name,
            "torch/version.py", NULL);
    } else if (target->driver_cuda / 1000 < cuda / 1000) {
        nb_findings_add(
            k->f, NB_SEVERITY_ERROR, "driver-too-old",
            nb_findings_text(k->f, "%s, but the driver is of CUDA %d.%d", name,
                             target->driver_cuda / 1000, target->driver_cuda / 10 % 100),
            "torch/version.py; a driver runs programs of its own major version of CUDA and of "
            "older "
            "ones",
            d ? nb_findings_text(k->f, "install driver %s or later, or a torch for CUDA %d",
                                 d->minimum, target->driver_cuda / 1000)
              : "install a newer driver");
    } else {
        nb_findings_add(k->f, NB_SEVERITY_GOOD, "torch-cuda",
                        nb_findings_text(k->f, "%s, and the driver of CUDA %d.%d runs it", name,
                                         target->driver_cuda / 1000,
                                         target->driver_cuda / 10 % 100),
                        "torch/version.py", NULL);
    }
}

/* Whether this bitsandbytes takes a library of another minor version where the exact one is not
 * there, as newer ones do: the highest below, else the lowest above. */
static bool takes_another(const struct linker *k) {
    char path[PATH_MAX];
    struct nb_buf text = {0};
    int32_t f = nb_index_get(&k->s->paths, "0/bitsandbytes/cextension.py");
    bool takes = f >= 0 &&
                 nb_read_file(nb_stack_path(k->s, &k->s->files[f], path, sizeof path), 1 << 20,
                              &text, NULL) == NB_OK &&
                 text.data && strstr(text.data, "higher_same");
    nb_buf_free(&text);
    return takes;
}

/* The version, 121 for 12.1, that stands in for one that is not there; 0: none. */
static int stand_in(const struct linker *k, int wanted) {
    int below = 0, above = 0;
    for (size_t i = 0; i < k->n; i++) {
        int v = 0, end = 0;
        if (k->libraries[i].file < 0 ||
            sscanf(k->libraries[i].name, "libbitsandbytes_cuda%d.so%n", &v, &end) != 1 || !end ||
            v / 10 != wanted / 10)
            continue;
        if (v < wanted && v > below)
            below = v;
        if (v > wanted && (!above || v < above))
            above = v;
    }
    return below ? below : above;
}

/* The library that bitsandbytes chooses for torch's CUDA version: libbitsandbytes_cuda121.so (its
 * cextension.py, get_cuda_bnb_library_path). What importing it loads is then what that library
 * loads. */
static void judge_bitsandbytes(struct linker *k, int cuda, size_t *missing, size_t *versions) {
    const struct nb_stack_dist *d = nb_stack_find(k->s, "bitsandbytes");
    char name[64];
    struct nb_buf has = {0};
    if (!d || !cuda)
        return;
    snprintf(name, sizeof name, "libbitsandbytes_cuda%d%d.so", cuda / 1000, cuda / 10 % 100);
    int32_t l = nb_index_get(&k->by_name, name);
    int other = l < 0 && takes_another(k) ? stand_in(k, cuda / 1000 * 10 + cuda / 10 % 100) : 0;
    if (other) {
        snprintf(name, sizeof name, "libbitsandbytes_cuda%d.so", other);
        l = nb_index_get(&k->by_name, name);
    }
    if (l >= 0) {
        load(k, l, missing, versions);
        return;
    }
    for (size_t i = 0; i < k->n; i++) {
        int v = 0, end = 0;
        if (k->libraries[i].file >= 0 &&
            sscanf(k->libraries[i].name, "libbitsandbytes_cuda%d.so%n", &v, &end) == 1 && end)
            nb_buf_printf(&has, "%s%d.%d", has.len ? ", " : "", v / 10, v % 10);
    }
    nb_findings_add(
        k->f, NB_SEVERITY_ERROR, "library-missing",
        nb_findings_text(k->f,
                         "bitsandbytes %s has no library for CUDA %d.%d, which torch is "
                         "built for",
                         d->version_text, cuda / 1000, cuda / 10 % 100),
        nb_findings_text(k->f, "%s is not there; there are libraries for CUDA %s", name,
                         has.data ? has.data : "none"),
        "install a bitsandbytes that has it, or a torch for one of those versions; "
        "BNB_CUDA_VERSION names another that is there");
    nb_buf_free(&has);
}

/* Libraries with CUDA code: what is loaded counts; of the rest only a package that has nothing at
 * all for the target. */
static void judge_code(struct linker *k, const struct nb_gpu_table *table,
                       const struct nb_target *target) {
    for (size_t d = 0; target->name && d < k->s->n_dists; d++) {
        const struct nb_stack_dist *dist = &k->s->dists[d];
        const struct library *worst = NULL;
        size_t good = 0, bad = 0, unused_good = 0, loaded = 0;
        char first[512] = "";
        for (size_t i = 0; i < k->n; i++) {
            const struct library *l = &k->libraries[i];
            if (l->file < 0 || !l->code.n || nb_stack_owner(k->s, &k->s->files[l->file]) != dist)
                continue;
            struct nb_judgement j =
                nb_fatbin_judge(&l->code, target->capability, target->driver_cuda);
            bool runs = j.verdict == NB_NATIVE || j.verdict == NB_COMPILES;
            const char *label = nb_findings_text(k->f, "%s %s: %s", dist->name, dist->version_text,
                                                 k->s->files[l->file].path);
            loaded += l->used;
            if (l->used && (!runs || j.verdict == NB_COMPILES))
                /* NVIDIA's own libraries keep code in ways of their own: libcufft of CUDA 13 has
                 * one empty cubin in a fatbin, and the rest elsewhere. */
                nb_doctor_judge(label, &l->code, table, target,
                                strncmp(dist->normal, "nvidia-", 7) == 0 ? NB_SEVERITY_NOTE
                                                                         : NB_SEVERITY_ERROR,
                                k->f);
            if (l->used && runs) {
                if (!good++)
                    nb_fatbin_describe(&l->code, first, sizeof first);
            } else if (!l->used) {
                unused_good += runs;
                bad += !runs;
                worst = runs ? worst : l;
            }
        }
        if (good)
            nb_findings_add(k->f, NB_SEVERITY_GOOD, "gpu-code",
                            nb_findings_text(k->f, "%s %s: %zu librar%s code for %s", dist->name,
                                             dist->version_text, good,
                                             good == 1 ? "y has" : "ies have", target->name),
                            first, NULL);
        if (bad && !loaded && !unused_good)
            nb_doctor_judge(nb_findings_text(k->f, "%s %s: %s", dist->name, dist->version_text,
                                             k->s->files[worst->file].path),
                            &worst->code, table, target, NB_SEVERITY_WARNING, k->f);
    }
}

static const char *machine_name(const struct linker *k, uint16_t machine) {
    return machine == EM_X86_64    ? "x86_64"
           : machine == EM_AARCH64 ? "aarch64"
           : machine ? nb_findings_text(k->f, "processor %d of the ELF table", machine)
                     : "another system, or no library at all";
}

/* Extension modules that importing the packages loads and that are for another processor: the first
 * of each package. */
static void report_foreign(struct linker *k, int32_t l, int32_t *last) {
    const struct library *lib = &k->libraries[l];
    const struct nb_stack_dist *d = nb_stack_owner(k->s, &k->s->files[lib->file]);
    int32_t dist = d ? (int32_t)(d - k->s->dists) : -1;
    if (lib->damage || !k->machine || dist == *last)
        return;
    *last = dist;
    nb_findings_add(k->f, NB_SEVERITY_ERROR, "library-foreign",
                    nb_findings_text(k->f, "%s is for %s, and this Python for %s", label_of(k, lib),
                                     machine_name(k, lib->machine), machine_name(k, k->machine)),
                    lib->machine ? "its ELF header says so: \"cannot open shared object file\""
                                 : "it does not begin as an ELF file does: \"invalid ELF header\"",
                    d ? nb_findings_text(k->f,
                                         "on this machine: pip install --force-reinstall --no-deps "
                                         "'%s==%s'",
                                         d->name, d->version_text)
                      : "build it for this machine");
}

static void report_damage(struct linker *k) {
    for (size_t i = 0; i < k->n; i++) {
        const struct library *l = &k->libraries[i];
        if (l->damage && l->file >= 0)
            nb_findings_add(k->f, l->used ? NB_SEVERITY_ERROR : NB_SEVERITY_WARNING,
                            "library-damaged",
                            nb_findings_text(k->f, "%s is damaged", label_of(k, l)), l->damage,
                            "install its package again");
    }
}

void nb_stack_libraries(struct nb_stack *stack, struct nb_pool *pool,
                        const struct nb_gpu_table *table, const struct nb_target *target,
                        struct nb_findings *findings) {
    struct linker *k = calloc(1, sizeof *k);
    if (!k) {
        findings->failed = true;
        return;
    }
    k->s = stack;
    k->f = findings;
    k->machine = strcmp(stack->markers.platform_machine, "x86_64") == 0    ? EM_X86_64
                 : strcmp(stack->markers.platform_machine, "aarch64") == 0 ? EM_AARCH64
                                                                           : 0;
    size_t missing = 0, versions = 0, used = 0, own = 0;
    const struct nb_stack_dist *numpy = nb_stack_find(stack, "numpy");
    k->numpy_2 = numpy && numpy->has_version && numpy->version.release[0] >= 2;
    find_folders(k);
    read_all(k, pool);
    own = k->n;
    int cuda = torch_cuda(k);
    int32_t foreign = -2; /* the package of the last that was told */
    for (size_t i = 0; i < stack->n_modules; i++) {
        char path[PATH_MAX];
        const struct nb_stack_module *m = &stack->modules[i];
        if (!m->reached || !m->library || m->file < 0)
            continue;
        int32_t l = nb_index_get(&k->by_path,
                                 nb_stack_path(stack, &stack->files[m->file], path, sizeof path));
        if (l >= 0 && k->libraries[l].foreign && m->wanted)
            report_foreign(k, l, &foreign);
        else if (l >= 0 && !k->libraries[l].foreign)
            load(k, l, &missing, &versions);
    }
    judge_bitsandbytes(k, cuda, &missing, &versions);
    report_damage(k);
    for (size_t i = 0; i < own; i++) {
        used += k->libraries[i].used;
        if (k->libraries[i].used && is_preloaded(k, (int32_t)i))
            check_versioned(k, (int32_t)i);
    }
    check_torch(k);
    check_numpy(k);
    judge_driver(k, cuda, table, target);
    judge_code(k, table, target);
    if (!missing && !versions)
        nb_findings_add(findings, NB_SEVERITY_GOOD, "libraries",
                        nb_findings_text(findings,
                                         "%zu libraries read; importing the packages loads %zu of "
                                         "them, and all that they need is found",
                                         own, used),
                        NULL, NULL);
    for (size_t i = 0; i < k->n; i++)
        nb_fatbin_free(&k->libraries[i].code);
    free(k->libraries);
    nb_index_free(&k->nowhere);
    nb_index_free(&k->by_path);
    nb_index_free(&k->by_name);
    nb_arena_free(&k->arena);
    free(k);
}
