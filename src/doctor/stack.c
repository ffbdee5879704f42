#include "doctor/stack.h"

#include "base/file.h"
#include "base/room.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

enum {
    MAX_FILES = 4000000,
    MAX_DEPTH = 48,
    MAX_LINKS = 1024, /* to folders, that are followed */
    MAX_METADATA_BYTES = 16 << 20,
    MAX_RECORD_BYTES = 256 << 20,
};

const char *nb_stack_path(const struct nb_stack *stack, const struct nb_stack_file *file, char *out,
                          size_t size) {
    snprintf(out, size, "%s/%s", stack->roots[file->root], file->path);
    return out;
}

const struct nb_stack_dist *nb_stack_find(const struct nb_stack *stack, const char *normal) {
    int32_t i = nb_index_get(&stack->by_name, normal);
    return i < 0 ? NULL : &stack->dists[i];
}

const struct nb_stack_dist *nb_stack_owner(const struct nb_stack *stack,
                                           const struct nb_stack_file *file) {
    return file->record < 0 ? NULL : &stack->dists[stack->records[file->record].dist];
}

int32_t nb_stack_owner_of_lost(const struct nb_stack *stack, const struct nb_stack_lost *lost) {
    char top[PATH_MAX];
    if (lost->file < 0)
        return lost->dist;
    if (stack->files[lost->file].record >= 0)
        return stack->records[stack->files[lost->file].record].dist;
    snprintf(top, sizeof top, "%.*s", (int)strcspn(lost->key, "/"), lost->key);
    int32_t m = nb_index_get(&stack->by_key, top);
    return m < 0 ? -1 : stack->modules[m].dist;
}

/* ---- where it is ---- */

static enum nb_status add_root(struct nb_stack *s, const char *path, struct nb_error *err) {
    char real[PATH_MAX];
    if (!realpath(path, real))
        return NB_OK;
    for (size_t i = 0; i < s->n_roots; i++) {
        if (strcmp(s->roots[i], real) == 0)
            return NB_OK;
    }
    if (s->n_roots == NB_STACK_ROOTS)
        return NB_OK;
    s->roots[s->n_roots] = nb_arena_string(&s->arena, real, strlen(real));
    return s->roots[s->n_roots++] ? NB_OK : nb_fail_memory(err, strlen(real), path);
}

/* 311 of ".../lib/python3.11/…", 0 if the path does not say. */
static int version_of_path(const char *path) {
    int major = 0, minor = 0;
    for (const char *at = path; (at = strstr(at, "/python")); at++) {
        if (sscanf(at, "/python%d.%d", &major, &minor) == 2 && major >= 2 && major < 10 &&
            minor >= 0 && minor < 100)
            return major * 100 + minor;
    }
    return 0;
}

/* Whether a folder holds what pip installs. */
static bool has_packages(const char *folder) {
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        found = (n > 10 && strcmp(e->d_name + n - 10, ".dist-info") == 0) ||
                (n > 9 && strcmp(e->d_name + n - 9, ".egg-info") == 0);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* The whole version of an installation, "3.11.7", from its header where that is there. */
static void read_patchlevel(struct nb_stack *s, const char *prefix, const char *name) {
    char path[PATH_MAX], *out = s->markers.python_full_version;
    struct nb_buf text = {0};
    if (!out[0] &&
        snprintf(path, sizeof path, "%s/include/%.200s/patchlevel.h", prefix, name) < PATH_MAX &&
        nb_is_file(path) && nb_read_file(path, 1 << 16, &text, NULL) == NB_OK && text.data) {
        const char *at = strstr(text.data, "PY_VERSION ");
        at = at ? strchr(at, '"') : NULL;
        if (at)
            snprintf(out, sizeof s->markers.python_full_version, "%.*s",
                     (int)strspn(at + 1, "0123456789."), at + 1);
    }
    nb_buf_free(&text);
}

/* The folders of packages of an installation: prefix/lib/python3.11/site-packages and Debian's. */
static enum nb_status add_prefix(struct nb_stack *s, const char *prefix, int python,
                                 struct nb_error *err) {
    static const char *const libs[] = {"local/lib", "lib", "lib64"};
    enum nb_status status = NB_OK;
    for (size_t i = 0; i < sizeof libs / sizeof *libs && status == NB_OK; i++) {
        char lib[PATH_MAX], path[PATH_MAX];
        if (snprintf(lib, sizeof lib, "%s/%s", prefix, libs[i]) >= (int)sizeof lib)
            continue;
        DIR *dir = opendir(lib);
        for (struct dirent *e; dir && status == NB_OK && (e = readdir(dir));) {
            int major, minor, end = 0;
            if (sscanf(e->d_name, "python%d.%d%n", &major, &minor, &end) != 2)
                continue;
            bool threaded = e->d_name[end] == 't'; /* python3.13t, free-threaded (PEP 703) */
            if (e->d_name[end + threaded] || (python && major * 100 + minor != python))
                continue;
            static const char *const names[] = {"site-packages", "dist-packages"};
            for (size_t j = 0; j < 2 && status == NB_OK; j++) {
                snprintf(path, sizeof path, "%.2000s/%.200s/%s", lib, e->d_name, names[j]);
                if (nb_is_folder(path)) {
                    status = add_root(s, path, err);
                    s->threaded = s->python ? s->threaded : threaded;
                    s->python = s->python ? s->python : major * 100 + minor;
                }
            }
            snprintf(path, sizeof path, "%.2000s/%.200s", lib, e->d_name);
            char os[PATH_MAX];
            if (!s->standard && nb_path_join(os, sizeof os, path, "os.py") && nb_is_file(os)) {
                s->standard = nb_arena_string(&s->arena, path, strlen(path));
                read_patchlevel(s, prefix, e->d_name);
            }
        }
        if (dir)
            closedir(dir);
        snprintf(path, sizeof path, "%.2000s/python3/dist-packages", lib);
        if (status == NB_OK && nb_is_folder(path))
            status = add_root(s, path, err);
    }
    return status;
}

/* A line "key = value" of pyvenv.cfg. */
static bool config_value(const char *text, const char *key, char *out, size_t size) {
    for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        size_t n = strlen(key);
        if (strncmp(at, key, n) != 0)
            continue;
        at += n + strspn(at + n, " \t");
        if (*at != '=')
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
        return true;
    }
    return false;
}

/* Puts the roots from `first` on before those from `to` on. */
static void move_roots(struct nb_stack *s, size_t first, size_t to) {
    for (size_t i = first; i < s->n_roots; i++, to++) {
        const char *moved = s->roots[i];
        memmove(&s->roots[to + 1], &s->roots[to], (i - to) * sizeof *s->roots);
        s->roots[to] = moved;
    }
}

/* Folders of packages that come before an installation's, for the user who runs this: PYTHONPATH's,
 * and what pip install --user made (site module; PYTHONUSERBASE, PYTHONNOUSERSITE). `own` is how
 * many roots the environment itself has, which come before the user's. */
static enum nb_status add_users(struct nb_stack *s, size_t own, bool user, struct nb_error *err) {
    const char *base = getenv("PYTHONUSERBASE"), *home = getenv("HOME"),
               *no = getenv("PYTHONNOUSERSITE");
    char path[PATH_MAX];
    enum nb_status status = NB_OK;
    size_t first = s->n_roots;
    for (const char *at = getenv("PYTHONPATH"); at && *at && status == NB_OK;) {
        size_t length = strcspn(at, ":");
        if (length && snprintf(path, sizeof path, "%.*s", (int)length, at) < PATH_MAX &&
            nb_is_folder(path) && has_packages(path))
            status = add_root(s, path, err);
        at += length + (at[length] == ':');
    }
    move_roots(s, first, 0);
    own += s->n_roots - first;
    first = s->n_roots;
    int n = base && *base   ? snprintf(path, sizeof path, "%s", base)
            : home && *home ? snprintf(path, sizeof path, "%s/.local", home)
                            : PATH_MAX;
    size_t used = n > 0 && n < PATH_MAX ? (size_t)n : sizeof path;
    if (user && !(no && *no) && s->python && used < sizeof path &&
        snprintf(path + used, sizeof path - used, "/lib/python%d.%d%s/site-packages",
                 s->python / 100, s->python % 100,
                 s->threaded ? "t" : "") < (int)(sizeof path - used) &&
        nb_is_folder(path))
        status = add_root(s, path, err);
    move_roots(s, first, own);
    return status;
}

/* An environment (PEP 405): its own packages, and those of its base where it says so. */
static enum nb_status add_environment(struct nb_stack *s, const char *folder,
                                      struct nb_error *err) {
    char path[PATH_MAX], value[PATH_MAX];
    struct nb_buf text = {0};
    enum nb_status status = add_prefix(s, folder, 0, err);
    if (status == NB_OK && nb_path_join(path, sizeof path, folder, "pyvenv.cfg") &&
        nb_is_file(path) && nb_read_file(path, 1 << 16, &text, NULL) == NB_OK && text.data) {
        if (config_value(text.data, "version", value, sizeof value) ||
            config_value(text.data, "version_info", value, sizeof value))
            snprintf(s->markers.python_full_version, sizeof s->markers.python_full_version, "%.*s",
                     (int)strspn(value, "0123456789."), value);
        bool system =
            config_value(text.data, "include-system-site-packages", value, sizeof value) &&
            strcasecmp(value, "true") == 0;
        if (config_value(text.data, "home", value, sizeof value)) {
            char *slash = strrchr(value, '/');
            size_t own = s->n_roots;
            if (slash)
                *slash = 0;
            status = add_prefix(s, value, s->python, err);
            if (!system)
                s->n_roots = own;
            if (status == NB_OK)
                status = add_users(s, own, system, err);
        }
    }
    nb_buf_free(&text);
    return status;
}

/* A pyenv shim is a script; the version that it would run is in a file (pyenv's documentation,
 * "Understanding Python version selection"). */
static bool follow_shim(const char *program, char *out, size_t size) {
    const char *shims = strstr(program, "/shims/");
    if (!shims)
        return false;
    char path[PATH_MAX];
    struct nb_buf text = {0};
    const char *named = getenv("PYENV_VERSION");
    snprintf(path, sizeof path, "%.*s/version", (int)(shims - program), program);
    bool ok = (named && *named) || (nb_read_file(path, 4096, &text, NULL) == NB_OK && text.data);
    const char *version = named && *named ? named : text.data;
    if (ok)
        ok = snprintf(out, size, "%.*s/versions/%.*s/bin/%s", (int)(shims - program), program,
                      (int)strcspn(version, "\n: "), version, shims + 7) < (int)size;
    nb_buf_free(&text);
    return ok;
}

static bool find_in_path(const char *name, char *out, size_t size) {
    const char *at = getenv("PATH");
    while (at && *at) {
        size_t n = strcspn(at, ":");
        if (snprintf(out, size, "%.*s/%s", (int)n, at, name) < (int)size &&
            access(out, X_OK) == 0 && nb_is_file(out))
            return true;
        at += n + (at[n] == ':');
    }
    return false;
}

/* The packages of an interpreter: of the environment that it lies in, or else of its installation.
 */
static enum nb_status add_program(struct nb_stack *s, const char *what, struct nb_error *err) {
    char program[PATH_MAX], folder[PATH_MAX], path[PATH_MAX], real[PATH_MAX];
    if (strchr(what, '/')
            ? snprintf(program, sizeof program, "%s", what) >= PATH_MAX || !nb_is_file(program)
            : !find_in_path(what, program, sizeof program))
        return nb_fail(err, NB_ERR_IO, "%s: no such folder, and no such program in PATH", what);
    if (follow_shim(program, real, sizeof real))
        snprintf(program, sizeof program, "%s", real);
    for (int i = 0; i < 8; i++) { /* links: bin/python -> python3 -> /usr/bin/python3.11 */
        snprintf(folder, sizeof folder, "%s", program);
        for (int up = 0; up < 2 && strrchr(folder, '/'); up++)
            *strrchr(folder, '/') = 0;
        if (!folder[0])
            snprintf(folder, sizeof folder, "/");
        if (nb_path_join(path, sizeof path, folder, "pyvenv.cfg") && nb_is_file(path))
            return add_environment(s, folder, err);
        ssize_t n = readlink(program, real, sizeof real - 1);
        if (n <= 0)
            break;
        real[n] = 0;
        if (real[0] == '/')
            snprintf(program, sizeof program, "%s", real);
        else
            snprintf(strrchr(program, '/') + 1, 256, "%.255s", real);
    }
    int major = 0, minor = 0;
    const char *name = strrchr(program, '/');
    if (name)
        sscanf(name, "/python%d.%d", &major, &minor);
    enum nb_status status = add_prefix(s, folder, major ? major * 100 + minor : 0, err);
    if (status == NB_OK && s->n_roots)
        status = add_users(s, 0, true, err);
    return status;
}

/* Names of the modules that a finder of an editable installation has: setuptools writes them into
 * __editable___NAME_finder.py as MAPPING = {'module': '/its/folder', …}. False if it is not of that
 * form. */
static bool read_finder(struct nb_stack *s, size_t root, const char *line) {
    const char *name = line + 7 + strspn(line + 7, " \t");
    char path[PATH_MAX];
    struct nb_buf text = {0};
    bool ok = snprintf(path, sizeof path, "%s/%.*s.py", s->roots[root], (int)strcspn(name, "; \t"),
                       name) < PATH_MAX &&
              nb_read_file(path, 1 << 20, &text, NULL) == NB_OK && text.data;
    const char *at = ok ? strstr(text.data, "\nMAPPING") : NULL;
    const char *spaces = ok ? strstr(text.data, "\nNAMESPACES") : NULL;
    const char *end = at ? strchr(at + 1, '\n') : NULL;
    at = at ? strstr(at, "= {") : NULL;
    spaces = spaces ? strchr(spaces, '=') : NULL;
    ok = at && end && at < end && spaces && strncmp(spaces, "= {}\n", 5) == 0;
    for (at = ok ? at + 3 : NULL; ok && at < end && *at != '}';) {
        /* 'module': '/its/folder', */
        char quote = *at;
        const char *close = quote == '\'' || quote == '"' ? strchr(at + 1, quote) : NULL;
        ok = close && close < end && close[1] == ':';
        if (!ok)
            break;
        const char *module = nb_arena_string(&s->arena, at + 1, strcspn(at + 1, ".'\""));
        ok = module && nb_index_put(&s->found, module, 1);
        at = close + 2 + strspn(close + 2, " ");
        close = *at == '\'' || *at == '"' ? strchr(at + 1, *at) : NULL;
        ok = ok && close && close < end;
        at = ok ? close + 1 + strspn(close + 1, ", ") : end;
    }
    nb_buf_free(&text);
    return ok;
}

/* Folders that .pth files of a root add (site module): lines that are paths. Lines that are code
 * are not run; they may find modules in their own way. */
static void read_pth(struct nb_stack *s, size_t root, const char *name) {
    char path[PATH_MAX];
    struct nb_buf text = {0};
    if (nb_path_join(path, sizeof path, s->roots[root], name) &&
        nb_read_file(path, 1 << 16, &text, NULL) == NB_OK && text.data) {
        char *save;
        for (char *line = strtok_r(text.data, "\r\n", &save); line;
             line = strtok_r(NULL, "\r\n", &save)) {
            if (strncmp(line, "import ", 7) == 0 || strncmp(line, "import\t", 7) == 0) {
                /* setuptools' finders, and those of scikit-build-core and meson-python */
                if (strstr(line, "editable") && !read_finder(s, root, line))
                    s->finders = true;
            } else if (line[0] && line[0] != '#') {
                bool absolute = line[0] == '/';
                size_t known = s->n_roots;
                if (absolute ? nb_is_folder(line)
                             : nb_path_join(path, sizeof path, s->roots[root], line) &&
                                   nb_is_folder(path))
                    if (add_root(s, absolute ? line : path, NULL) == NB_OK && s->n_roots > known)
                        s->linked[s->n_roots - 1] = true;
            }
        }
    }
    nb_buf_free(&text);
}

static void set_markers(struct nb_stack *s) {
    struct nb_markers *m = &s->markers;
    struct utsname u;
    snprintf(m->python_version, sizeof m->python_version, "%d.%d", s->python / 100,
             s->python % 100);
    if (!m->python_full_version[0])
        snprintf(m->python_full_version, sizeof m->python_full_version, "%d.%d.0", s->python / 100,
                 s->python % 100);
    if (uname(&u) == 0) {
        snprintf(m->platform_machine, sizeof m->platform_machine, "%.31s", u.machine);
        snprintf(m->platform_release, sizeof m->platform_release, "%.95s", u.release);
        snprintf(m->platform_version, sizeof m->platform_version, "%.127s", u.version);
    }
}

static enum nb_status locate(struct nb_stack *s, const char *what, struct nb_error *err) {
    enum nb_status status;
    if (!nb_is_folder(what)) {
        status = add_program(s, what, err);
    } else if (has_packages(what)) {
        status = add_root(s, what, err);
        s->python = s->n_roots ? version_of_path(s->roots[0]) : 0;
    } else {
        status = add_environment(s, what, err);
    }
    if (status == NB_OK && !s->n_roots)
        status = nb_fail(err, NB_ERR_IO,
                         "%s: no Python packages there: expected a folder with *.dist-info, an "
                         "environment with lib/python3.*/site-packages, or a program such as "
                         "python3",
                         what);
    /* The libraries of a bare folder of packages: the interpreter's own, where the path says. */
    if (status == NB_OK && !s->standard && s->python) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/../os.py", s->roots[0]);
        if (nb_is_file(path)) {
            snprintf(path, sizeof path, "%s/..", s->roots[0]);
            s->standard = nb_arena_string(&s->arena, path, strlen(path));
        }
    }
    set_markers(s);
    return status;
}

/* ---- files ---- */

static enum nb_file_kind kind_of(const char *name) {
    size_t n = strlen(name);
    if (n > 3 && strcmp(name + n - 3, ".py") == 0)
        return NB_FILE_PYTHON;
    for (const char *so = name; (so = strstr(so, ".so")); so++) {
        if (so[3] == 0 || so[3] == '.')
            return NB_FILE_LIBRARY;
    }
    return NB_FILE_OTHER;
}

/* "0/torch/__init__.py": what the table of paths knows a file by. */
static const char *path_key(size_t root, const char *path, char *out, size_t size) {
    if (snprintf(out, size, "%zu/%s", root, path) >= (int)size)
        out[0] = 0;
    return out;
}

static bool add_file(struct nb_stack *s, size_t root, const char *path, uint64_t size,
                     const char *name) {
    char key[PATH_MAX];
    if (!nb_room(&s->files, s->n_files, &s->cap_files, sizeof *s->files))
        return false;
    path_key(root, path, key, sizeof key);
    const char *copy = nb_arena_string(&s->arena, key, strlen(key));
    if (!copy || !nb_index_put(&s->paths, copy, (int32_t)s->n_files))
        return false;
    s->files[s->n_files++] = (struct nb_stack_file){.path = strchr(copy, '/') + 1,
                                                    .size = size,
                                                    .record = -1,
                                                    .root = (uint8_t)root,
                                                    .kind = (uint8_t)kind_of(name)};
    s->bytes += size;
    return true;
}

static bool add_module(struct nb_stack *s, const char *key, size_t n, int32_t file, bool package,
                       bool library) {
    char text[PATH_MAX];
    snprintf(text, sizeof text, "%.*s", (int)n, key);
    int32_t at = nb_index_get(&s->by_key, text);
    if (at < 0) {
        if (!nb_room(&s->modules, s->n_modules, &s->cap_modules, sizeof *s->modules))
            return false;
        at = (int32_t)s->n_modules;
        s->modules[at] = (struct nb_stack_module){
            .key = nb_arena_string(&s->arena, text, n), .file = -1, .dist = -1, .from = -1};
        if (!s->modules[at].key || !nb_index_put(&s->by_key, s->modules[at].key, at))
            return false;
        s->n_modules++;
    }
    /* A package comes before a module of its name, a library before a source (importlib's order of
     * suffixes), and a root before those after it. */
    struct nb_stack_module *m = &s->modules[at];
    if (file >= 0 && (m->file < 0 || (s->files[m->file].root == s->files[file].root &&
                                      !m->package && (package || library)))) {
        m->file = file;
        m->package = package;
        m->library = library;
    }
    return true;
}

/* The suffix of this Python's extension modules: as its own have it, or else as CPython names them
 * on this system (PEP 3149). "" if its version is not known. */
static void find_suffix(struct nb_stack *s) {
    char path[PATH_MAX];
    DIR *dir = s->standard && snprintf(path, sizeof path, "%s/lib-dynload", s->standard) < PATH_MAX
                   ? opendir(path)
                   : NULL;
    for (struct dirent *e; dir && !s->suffix[0] && (e = readdir(dir));) {
        const char *tag = strstr(e->d_name, ".cpython-");
        if (tag && strlen(tag) < sizeof s->suffix)
            snprintf(s->suffix, sizeof s->suffix, "%s", tag);
    }
    if (dir)
        closedir(dir);
    /* An installation for another processor, such as a mounted image, is judged for that. */
    int at = 0, length = 0;
    if (sscanf(s->suffix, ".cpython-%*[0-9a-z]-%n%*[a-z0-9_]%n", &at, &length) == 0 &&
        length > at && strncmp(s->suffix + length, "-linux", 6) == 0)
        snprintf(s->markers.platform_machine, sizeof s->markers.platform_machine, "%.*s",
                 length - at, s->suffix + at);
    if (!s->suffix[0] && s->python && s->markers.platform_machine[0])
        snprintf(s->suffix, sizeof s->suffix, ".cpython-%d%d%s%s-%s-linux-gnu.so", s->python / 100,
                 s->python % 100, s->threaded ? "t" : "", s->python < 308 ? "m" : "",
                 s->markers.platform_machine);
}

/* Whether this Python loads a library as an extension module: by what follows its first dot. Others
 * are of no module (".so.2"), or for another Python or system. *other: that it is one of those. */
static bool is_extension(const struct nb_stack *s, const char *name, bool *other) {
    const char *tag = name + strcspn(name, ".");
    size_t n = strlen(tag);
    *other = false;
    if (n < 3 || strcmp(tag + n - 3, ".so") != 0)
        return false;
    *other = (strncmp(tag, ".cpython-", 9) == 0 || strncmp(tag, ".pypy", 5) == 0) && s->suffix[0] &&
             strcmp(tag, s->suffix) != 0;
    return !*other;
}

/* The key of the module that a path would be: "a/b" of a/b.py, a/b/__init__.py or a/b.….so; false
 * if it is none. */
static bool key_of(const struct nb_stack *s, const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    bool other;
    size_t n = kind_of(name) == NB_FILE_PYTHON ? strcmp(name, "__init__.py") == 0
                                                     ? (slash ? (size_t)(slash - path) : 0)
                                                     : strlen(path) - 3
               : is_extension(s, name, &other) ? (size_t)(name - path) + strcspn(name, ".")
                                               : 0;
    return n && snprintf(out, size, "%.*s", (int)n, path) < (int)size;
}

static bool add_lost(struct nb_stack *s, const char *key, int32_t dist, int32_t file) {
    if (nb_index_get(&s->by_lost, key) >= 0)
        return true;
    const char *copy = nb_arena_string(&s->arena, key, strlen(key));
    if (!copy || !nb_room(&s->lost, s->n_lost, &s->cap_lost, sizeof *s->lost) ||
        !nb_index_put(&s->by_lost, copy, (int32_t)s->n_lost))
        return false;
    s->lost[s->n_lost++] = (struct nb_stack_lost){copy, dist, file};
    return true;
}

/* The module that a file is, if it is one. */
static bool add_module_of(struct nb_stack *s, int32_t file) {
    const char *path = s->files[file].path, *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (s->files[file].kind == NB_FILE_PYTHON) {
        if (strcmp(name, "__init__.py") == 0)
            return name == path ||
                   add_module(s, path, (size_t)(name - path) - 1, file, true, false);
        return add_module(s, path, strlen(path) - 3, file, false, false);
    }
    /* "_C.cpython-311-x86_64-linux-gnu.so", "_C.abi3.so", "_C.so"; not "libtorch.so.2" */
    bool other = false;
    size_t n = (size_t)(name - path) + strcspn(name, ".");
    if (s->files[file].kind == NB_FILE_LIBRARY && is_extension(s, name, &other))
        return add_module(s, path, n, file, false, true);
    char key[PATH_MAX];
    return !other || snprintf(key, sizeof key, "%.*s", (int)n, path) >= PATH_MAX ||
           add_lost(s, key, -1, file);
}

/* Whether a link to a folder is to be followed: each folder once, however many lead there, so that
 * there are no loops. */
static bool follow_link(struct nb_stack *s, const struct stat *st) {
    for (size_t i = 0; i < s->n_places; i++) {
        if (s->places[i].device == st->st_dev && s->places[i].inode == st->st_ino)
            return false;
    }
    if (!s->places)
        s->places = malloc(MAX_LINKS * sizeof *s->places);
    if (!s->places || s->n_places == MAX_LINKS) {
        s->truncated = true;
        return false;
    }
    s->places[s->n_places++] = (struct nb_stack_place){st->st_dev, st->st_ino};
    return true;
}

/* Folders in which no module of their parent is: another environment, inside a project whose folder
 * is on the path; what tools keep. */
static bool is_apart(const struct nb_stack *s, size_t root, int parent, const char *name) {
    char config[NAME_MAX + 16];
    if (strcmp(name, "__pycache__") == 0)
        return true;
    if (!s->linked[root])
        return false;
    snprintf(config, sizeof config, "%.255s/pyvenv.cfg", name);
    return name[0] == '.' || strcmp(name, "node_modules") == 0 ||
           faccessat(parent, config, F_OK, 0) == 0;
}

/* Walks a folder of a root. `path` is from the root, "" for the root itself. */
static bool walk(struct nb_stack *s, size_t root, int parent, const char *name, const char *path,
                 int depth, bool link) {
    int fd = openat(parent, name,
                    O_RDONLY | O_DIRECTORY | O_CLOEXEC | (depth && !link ? O_NOFOLLOW : 0));
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool ok = true;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        if (!s->unreadable++)
            s->unreadable_first = nb_arena_string(&s->arena, path, strlen(path));
        return true;
    }
    for (struct dirent *e; ok && (e = readdir(dir));) {
        char child[PATH_MAX];
        struct stat st;
        if (e->d_name[0] == '.' && (!e->d_name[1] || (e->d_name[1] == '.' && !e->d_name[2])))
            continue;
        if (snprintf(child, sizeof child, "%s%s%s", path, *path ? "/" : "", e->d_name) >=
                PATH_MAX - 8 ||
            fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        bool linked = S_ISLNK(st.st_mode);
        if (linked &&
            (fstatat(fd, e->d_name, &st, 0) != 0 || (S_ISDIR(st.st_mode) && !follow_link(s, &st))))
            continue;
        if (S_ISDIR(st.st_mode)) {
            if (is_apart(s, root, fd, e->d_name))
                continue;
            if (depth == MAX_DEPTH) {
                s->truncated = true;
                continue;
            }
            ok =
                (strchr(e->d_name, '.') || add_module(s, child, strlen(child), -1, false, false)) &&
                walk(s, root, fd, e->d_name, child, depth + 1, linked);
        } else if (S_ISREG(st.st_mode)) {
            if (s->n_files == MAX_FILES) {
                s->truncated = true;
                break;
            }
            ok = add_file(s, root, child, (uint64_t)st.st_size, e->d_name) &&
                 add_module_of(s, (int32_t)s->n_files - 1);
        }
    }
    closedir(dir);
    return ok;
}

/* ---- what is installed ---- */

/* The value of a header of METADATA (RFC 822 style, up to the first empty line); *at goes on. */
static bool next_header(const char **at, const char *end, const char *key, const char **value,
                        size_t *n) {
    size_t len = strlen(key);
    while (*at < end) {
        const char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        *at = stop < end ? stop + 1 : end;
        if (stop == line || (stop == line + 1 && *line == '\r')) {
            *at = end; /* the description follows */
            return false;
        }
        if ((size_t)(stop - line) > len && line[len] == ':' && strncasecmp(line, key, len) == 0) {
            line += len + 1;
            while (line < stop && isspace((unsigned char)*line))
                line++;
            while (stop > line && isspace((unsigned char)stop[-1]))
                stop--;
            *value = line;
            *n = (size_t)(stop - line);
            return true;
        }
    }
    return false;
}

static const char *header(struct nb_stack *s, const struct nb_buf *text, const char *key) {
    const char *at = text->data, *value;
    size_t n;
    if (!at || !next_header(&at, text->data + text->len, key, &value, &n))
        return NULL;
    return nb_arena_string(&s->arena, value, n);
}

static bool read_requires(struct nb_stack *s, const struct nb_buf *text, struct nb_stack_dist *d) {
    const char *end = text->data + text->len, *value;
    size_t n, count = 0;
    for (const char *at = text->data; next_header(&at, end, "Requires-Dist", &value, &n);)
        count++;
    d->requires = nb_arena_alloc(&s->arena, count, sizeof *d->requires);
    if (!d->requires)
        return false;
    for (const char *at = text->data; next_header(&at, end, "Requires-Dist", &value, &n);) {
        d->requires[d->n_requires] = nb_arena_string(&s->arena, value, n);
        if (!d->requires[d->n_requires++])
            return false;
    }
    return true;
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Whether a distribution came with the system: Debian strips libraries after their RECORD was
 * written, and dpkg --verify knows what they should be. What is installed there by pip lies in
 * /usr/local (Debian Python Policy, "Module Path"). */
static bool kept_by_system(const struct nb_stack *s, const struct nb_stack_dist *d) {
    return ends_in(s->roots[d->root], "/lib/python3/dist-packages");
}

static bool add_requires(struct nb_stack *s, struct nb_stack_dist *d, size_t *cap,
                         const char *text) {
    const char *copy = nb_arena_string(&s->arena, text, strlen(text));
    if (!copy)
        return false;
    if (d->n_requires == *cap) {
        const char **larger = nb_arena_alloc(&s->arena, *cap ? 2 * *cap : 16, sizeof *larger);
        if (!larger)
            return false;
        if (d->n_requires)
            memcpy(larger, d->requires, d->n_requires * sizeof *larger);
        d->requires = larger;
        *cap = *cap ? 2 * *cap : 16;
    }
    d->requires[d->n_requires++] = copy;
    return true;
}

/* The requirements of egg-info, which its PKG-INFO may not have: requires.txt, a line each, those
 * after "[extra:marker]" under that condition (setuptools, "The Internal Structure of Python
 * Eggs"). */
static bool read_egg_requires(struct nb_stack *s, struct nb_stack_dist *d) {
    char path[PATH_MAX], condition[600] = "", line[2400];
    struct nb_buf text = {0};
    bool ok = true;
    size_t cap = 0;
    if (snprintf(path, sizeof path, "%s/%s/requires.txt", s->roots[d->root], d->folder) >=
            PATH_MAX ||
        !nb_is_file(path) || nb_read_file(path, MAX_METADATA_BYTES, &text, NULL) != NB_OK ||
        !text.data) {
        nb_buf_free(&text);
        return true;
    }
    char *save;
    for (char *at = strtok_r(text.data, "\r\n", &save); at && ok;
         at = strtok_r(NULL, "\r\n", &save)) {
        at += strspn(at, " \t");
        if (at[0] == '[') {
            int extra = (int)strcspn(at + 1, ":]");
            const char *marker = at[1 + extra] == ':' ? at + 2 + extra : "";
            const char *close = strrchr(marker, ']');
            int n = close ? (int)(close - marker) : 0;
            snprintf(condition, sizeof condition, "%s%.*s%s%s", n ? "(" : "", n, marker,
                     n ? ")" : "", n && extra ? " and " : "");
            if (extra)
                snprintf(condition + strlen(condition), sizeof condition - strlen(condition),
                         "extra == \"%.*s\"", extra, at + 1);
        } else if (at[0] && at[0] != '#') {
            snprintf(line, sizeof line, "%.1600s%s%s", at, condition[0] ? " ; " : "", condition);
            ok = add_requires(s, d, &cap, line);
        }
    }
    nb_buf_free(&text);
    return ok;
}

/* One distribution, from its METADATA or PKG-INFO. What cannot be read is passed over: the folder
 * is then reported by the files that it lacks. */
static bool add_dist(struct nb_stack *s, size_t root, const char *folder, const char *metadata,
                     bool egg) {
    char path[PATH_MAX], key[PATH_MAX];
    struct nb_buf text = {0};
    if (snprintf(path, sizeof path, "%s/%s", s->roots[root], metadata) >= (int)sizeof path ||
        nb_read_file(path, MAX_METADATA_BYTES, &text, NULL) != NB_OK || !text.data) {
        nb_buf_free(&text);
        return true;
    }
    bool ok = nb_room(&s->dists, s->n_dists, &s->cap_dists, sizeof *s->dists);
    if (ok) {
        struct nb_stack_dist *d = &s->dists[s->n_dists];
        *d = (struct nb_stack_dist){.name = header(s, &text, "Name"),
                                    .version_text = header(s, &text, "Version"),
                                    .folder = nb_arena_string(&s->arena, folder, strlen(folder)),
                                    .root = (uint8_t)root,
                                    .egg = egg,
                                    .requires_python = header(s, &text, "Requires-Python")};
        d->requires_python = d->requires_python ? d->requires_python : "";
        if (d->name && d->folder) {
            d->version_text = d->version_text ? d->version_text : "";
            nb_normalize_name(d->name, strlen(d->name), d->normal, sizeof d->normal);
            d->has_version =
                nb_version_parse(d->version_text, strlen(d->version_text), &d->version);
            snprintf(path, sizeof path, "%s/direct_url.json", folder);
            struct nb_buf url = {0};
            if (nb_index_get(&s->paths, path_key(root, path, key, sizeof key)) >= 0 &&
                nb_path_join(key, sizeof key, s->roots[root], path) &&
                nb_read_file(key, 1 << 16, &url, NULL) == NB_OK && url.data)
                d->editable = strstr(url.data, "\"editable\": true") != NULL;
            nb_buf_free(&url);
            d->by_system = kept_by_system(s, d);
            ok =
                read_requires(s, &text, d) &&
                (!egg || d->n_requires || strcmp(folder, metadata) == 0 || read_egg_requires(s, d));
            snprintf(path, sizeof path, "%s/REQUESTED", folder);
            d->requested = nb_index_get(&s->paths, path_key(root, path, key, sizeof key)) >= 0;
            s->n_dists++;
        }
    }
    nb_buf_free(&text);
    return ok;
}

/* Once all are there: the list of distributions moves while it grows, and the table of names points
 * into it. */
static bool index_names(struct nb_stack *s) {
    nb_index_free(&s->by_name);
    for (size_t i = 0; i < s->n_dists; i++) {
        if (nb_index_get(&s->by_name, s->dists[i].normal) < 0 &&
            !nb_index_put(&s->by_name, s->dists[i].normal, (int32_t)i))
            return false;
    }
    return true;
}

/* Distributions are told by their files, which the walk has found: X.dist-info/METADATA,
 * X.egg-info/PKG-INFO, or X.egg-info itself. */
static bool find_dists(struct nb_stack *s) {
    for (size_t i = 0; i < s->n_files; i++) {
        const char *path = s->files[i].path, *slash = strchr(path, '/');
        char folder[PATH_MAX];
        snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : (int)strlen(path),
                 path);
        bool wheel = slash && ends_in(folder, ".dist-info") && strcmp(slash, "/METADATA") == 0;
        bool egg = (ends_in(folder, ".egg-info") && (!slash || strcmp(slash, "/PKG-INFO") == 0)) ||
                   strcmp(path, "EGG-INFO/PKG-INFO") == 0; /* the root is an egg itself */
        /* What pip puts aside while it works begins with "~", and stays if it is broken off. */
        if ((wheel || egg) && folder[0] == '~') {
            if (!s->n_leftovers++)
                s->leftover = nb_arena_string(&s->arena, folder, strlen(folder));
            continue;
        }
        if ((wheel || egg) && !add_dist(s, s->files[i].root, folder, path, egg))
            return false;
    }
    return index_names(s);
}

/* ---- records ---- */

static void note(struct nb_stack_list *list, const char *path, bool code) {
    if (code) {
        if (list->n_code < NB_STACK_NAMED)
            list->first[list->n_code] = path;
        list->n_code++;
    } else if (list->n < NB_STACK_NAMED && !list->first[list->n]) {
        list->first[list->n] = path;
    }
    list->n++;
}

/* Base64 in the alphabet for URLs, without padding, of 32 bytes. */
static bool decode_hash(const char *text, size_t n, uint8_t out[32]) {
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    int have = 0;
    size_t k = 0;
    for (size_t i = 0; i < n && k < 32; i++) {
        const char *at = text[i] ? strchr(alphabet, text[i]) : NULL;
        if (!at)
            return false;
        bits = bits << 6 | (uint32_t)(at - alphabet);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[k++] = (uint8_t)(bits >> have);
        }
    }
    return k == 32;
}

/* One field of a line of CSV (RFC 4180) into out; returns where the next begins. */
static const char *take_field(const char *at, const char *end, char *out, size_t size) {
    size_t n = 0;
    if (at < end && *at == '"') {
        for (at++; at < end; at++) {
            if (*at == '"' && (at + 1 == end || at[1] != '"'))
                break;
            at += *at == '"';
            if (at < end && n + 1 < size)
                out[n++] = *at;
        }
        while (at < end && *at != ',')
            at++;
    } else {
        for (; at < end && *at != ','; at++) {
            if (n + 1 < size)
                out[n++] = *at;
        }
    }
    out[n] = 0;
    return at < end ? at + 1 : end;
}

static bool add_record(struct nb_stack *s, int32_t dist, const char *line, const char *end) {
    char path[PATH_MAX], hash[128], size[32], key[PATH_MAX + 8];
    struct nb_stack_dist *d = &s->dists[dist];
    if (end > line && end[-1] == '\r')
        end--;
    line = take_field(line, end, path, sizeof path);
    line = take_field(line, end, hash, sizeof hash);
    take_field(line, end, size, sizeof size);
    if (!path[0] || path[0] == '/' || strstr(path, "../") || ends_in(path, ".pyc") ||
        strstr(path, "__pycache__/"))
        return true; /* scripts lie outside; what Python compiled may go */
    d->n_recorded++;
    int32_t file = nb_index_get(&s->paths, path_key(d->root, path, key, sizeof key));
    if (file < 0) {
        bool code = kind_of(path) != NB_FILE_OTHER;
        const char *copy = nb_arena_string(&s->arena, path, strlen(path));
        note(&d->missing, copy ? copy : "", code);
        if (copy && kind_of(path) == NB_FILE_LIBRARY &&
            !nb_index_put(&s->gone, strrchr(copy, '/') ? strrchr(copy, '/') + 1 : copy, dist))
            return false;
        return copy && (!key_of(s, path, key, sizeof key) || add_lost(s, key, dist, -1));
    }
    if (!nb_room(&s->records, s->n_records, &s->cap_records, sizeof *s->records))
        return false;
    struct nb_stack_record r = {.dist = dist, .next = s->files[file].record};
    r.has_size = isdigit((unsigned char)size[0]);
    r.size = strtoull(size, NULL, 10);
    r.has_hash =
        strncmp(hash, "sha256=", 7) == 0 && decode_hash(hash + 7, strlen(hash + 7), r.hash);
    s->files[file].record = (int32_t)s->n_records;
    s->records[s->n_records++] = r;
    return true;
}

/* Without a RECORD, top_level.txt says which modules are a distribution's. */
static void claim_tops(struct nb_stack *s, int32_t dist) {
    const struct nb_stack_dist *d = &s->dists[dist];
    char path[PATH_MAX];
    struct nb_buf text = {0};
    char *save;
    if (snprintf(path, sizeof path, "%s/%s/top_level.txt", s->roots[d->root], d->folder) <
            PATH_MAX &&
        nb_is_file(path) && nb_read_file(path, 1 << 20, &text, NULL) == NB_OK && text.data) {
        for (char *at = strtok_r(text.data, "\r\n ", &save); at;
             at = strtok_r(NULL, "\r\n ", &save)) {
            int32_t m = nb_index_get(&s->by_key, at);
            if (m >= 0 && s->modules[m].dist < 0 && s->modules[m].file >= 0 &&
                s->files[s->modules[m].file].root == d->root)
                s->modules[m].dist = dist;
        }
    }
    nb_buf_free(&text);
}

static bool read_records(struct nb_stack *s) {
    for (size_t i = 0; i < s->n_dists; i++) {
        char path[PATH_MAX], full[PATH_MAX], key[PATH_MAX + 8];
        struct nb_buf text = {0};
        snprintf(path, sizeof path, "%s/RECORD", s->dists[i].folder);
        int32_t file = nb_index_get(&s->paths, path_key(s->dists[i].root, path, key, sizeof key));
        if (file < 0 || nb_read_file(nb_stack_path(s, &s->files[file], full, sizeof full),
                                     MAX_RECORD_BYTES, &text, NULL) != NB_OK) {
            nb_buf_free(&text);
            continue;
        }
        s->dists[i].has_record = true;
        const char *at = text.data, *end = at ? at + text.len : NULL;
        bool ok = true;
        while (ok && at && at < end) {
            const char *stop = memchr(at, '\n', (size_t)(end - at));
            stop = stop ? stop : end;
            ok = add_record(s, (int32_t)i, at, stop);
            at = stop + 1;
        }
        nb_buf_free(&text);
        if (!ok)
            return false;
    }
    for (size_t i = 0; i < s->n_modules; i++) {
        struct nb_stack_module *m = &s->modules[i];
        if (m->file >= 0 && s->files[m->file].record >= 0)
            m->dist = s->records[s->files[m->file].record].dist;
    }
    for (size_t i = 0; i < s->n_dists; i++) {
        if (s->dists[i].egg)
            claim_tops(s, (int32_t)i);
    }
    /* What nobody recorded belongs to the package that it lies in. */
    for (size_t i = 0; i < s->n_modules; i++) {
        struct nb_stack_module *m = &s->modules[i];
        char top[PATH_MAX];
        snprintf(top, sizeof top, "%.*s", (int)strcspn(m->key, "/"), m->key);
        int32_t package = m->file >= 0 && m->dist < 0 ? nb_index_get(&s->by_key, top) : -1;
        if (package >= 0 && s->modules[package].package)
            m->dist = s->modules[package].dist;
    }
    return true;
}

/* Notes a folder X.dist-info that has no METADATA: to pip nothing is installed there. */
static bool check_hollow(struct nb_stack *s, size_t root, const char *name) {
    char path[PATH_MAX];
    if (name[0] == '~' ||
        snprintf(path, sizeof path, "%s/%s/METADATA", s->roots[root], name) >= PATH_MAX ||
        nb_is_file(path))
        return true;
    if (s->n_hollow++ >= NB_STACK_NAMED)
        return true;
    s->hollow[s->n_hollow - 1] = nb_arena_string(&s->arena, name, strlen(name));
    return s->hollow[s->n_hollow - 1] != NULL;
}

/* Whether a package may be spread over several folders of the path though it has an __init__.py: it
 * says so itself (pkgutil.extend_path, pkg_resources.declare_namespace). */
static bool is_spread(const struct nb_stack *s, const struct nb_stack_module *m) {
    char path[PATH_MAX];
    struct nb_buf text = {0};
    bool spread = nb_read_file(nb_stack_path(s, &s->files[m->file], path, sizeof path), 1 << 20,
                               &text, NULL) == NB_OK &&
                  text.data &&
                  (strstr(text.data, "extend_path") || strstr(text.data, "declare_namespace") ||
                   strstr(text.data, "__path__"));
    nb_buf_free(&text);
    return spread;
}

/* A package hides what folders further on the path have of that name: Python takes all of a package
 * from where its __init__.py is. */
static void hide_modules(struct nb_stack *s) {
    for (size_t i = 0; s->n_roots > 1 && i < s->n_modules; i++) {
        struct nb_stack_module *m = &s->modules[i];
        char key[PATH_MAX];
        for (size_t n = strcspn(m->key, "/"); m->file >= 0 && m->key[n];
             n += 1 + strcspn(m->key + n + 1, "/")) {
            snprintf(key, sizeof key, "%.*s", (int)n, m->key);
            int32_t p = nb_index_get(&s->by_key, key);
            const struct nb_stack_module *package = p < 0 ? NULL : &s->modules[p];
            if (!package || package->file < 0 ||
                s->files[package->file].root >= s->files[m->file].root || is_spread(s, package))
                continue;
            m->file = -1;
            m->package = m->library = false;
            m->hidden = true;
        }
    }
}

enum nb_status nb_stack_open(const char *what, struct nb_stack *out, struct nb_error *err) {
    *out = (struct nb_stack){0};
    enum nb_status status = locate(out, what, err);
    bool ok = status == NB_OK;
    find_suffix(out);
    for (size_t i = 0; ok && i < out->n_roots; i++) {
        DIR *dir = opendir(out->roots[i]);
        for (struct dirent *e; dir && (e = readdir(dir));) {
            if (ends_in(e->d_name, ".pth"))
                read_pth(out, i, e->d_name);
            if (ends_in(e->d_name, ".dist-info"))
                ok = ok && check_hollow(out, i, e->d_name);
        }
        if (dir)
            closedir(dir);
        ok = ok && walk(out, i, AT_FDCWD, out->roots[i], "", 0, false);
    }
    if (ok)
        hide_modules(out);
    ok = ok && find_dists(out) && read_records(out);
    return status != NB_OK ? status : ok ? NB_OK : nb_fail_memory(err, out->n_files * 64, what);
}

void nb_stack_free(struct nb_stack *stack) {
    nb_arena_free(&stack->arena);
    free(stack->files);
    free(stack->records);
    free(stack->dists);
    free(stack->modules);
    free(stack->lost);
    free(stack->places);
    nb_index_free(&stack->found);
    nb_index_free(&stack->gone);
    nb_index_free(&stack->by_lost);
    nb_index_free(&stack->paths);
    nb_index_free(&stack->by_key);
    nb_index_free(&stack->by_name);
    *stack = (struct nb_stack){0};
}
