/* A list of requirements, judged without installing it. */
#include "doctor/python.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/room.h"
#include "doctor/index.h"
#include "doctor/pep508.h"
#include "doctor/traps.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { MAX_LIST_BYTES = 16 << 20, MAX_LISTS = 32, MAX_PINS = 100000 };

struct pin {
    struct nb_requirement r;
    const char *file;
    int line;
    struct nb_version version; /* of "==2.3.1", or of the wheel that is named */
    bool pinned;
    bool constraint; /* of a -c list: it holds only where something else asks for the package */
};

struct list {
    struct nb_arena arena;
    struct nb_findings *f;
    struct nb_markers markers;
    struct pin *pins;
    size_t n, cap;
    struct nb_index by_name;
    int files;
    bool constraints; /* the list that is being read was named with -c */
    int cuda;         /* of an index such as …/whl/cu121; 0: none was named */
};

/* "==2.3.1" or "===2.3.1", alone and without a star. */
static bool pinned_version(const char *specifiers, struct nb_version *out) {
    size_t equals = strspn(specifiers, "=");
    if (equals < 2 || strchr(specifiers, ',') || strchr(specifiers, '*'))
        return false;
    return nb_version_parse(specifiers + equals, strlen(specifiers + equals), out);
}

/* The name and version of a wheel, "torch-2.3.1%2Bcu121-cp311-cp311-linux_x86_64.whl", at the end
 * of an address or a path (the binary distribution format, "File name convention"). */
static bool wheel_version(const char *text, size_t n, char *name, size_t size,
                          struct nb_version *out) {
    const char *end = memchr(text, '#', n), *from = text;
    end = end ? end : text + n;
    for (const char *p = text; p < end; p++)
        from = *p == '/' ? p + 1 : from;
    const char *dash = memchr(from, '-', (size_t)(end - from));
    const char *next = dash ? memchr(dash + 1, '-', (size_t)(end - dash - 1)) : NULL;
    if (!next || end - next < 4 || strncmp(end - 4, ".whl", 4) != 0)
        return false;
    char version[128];
    size_t used = 0;
    for (const char *p = dash + 1; p < next && used + 1 < sizeof version; p++) {
        bool plus = next - p > 2 && strncasecmp(p, "%2B", 3) == 0;
        version[used++] = plus ? '+' : *p;
        p += plus ? 2 : 0;
    }
    nb_normalize_name(from, (size_t)(dash - from), name, size);
    return nb_version_parse(version, used, out);
}

static void add_pin(struct list *l, const struct nb_requirement *r, const char *file, int line) {
    if (l->n == MAX_PINS)
        return;
    if (!nb_room(&l->pins, l->n, &l->cap, sizeof *l->pins)) {
        l->f->failed = true;
        return;
    }
    struct pin *p = &l->pins[l->n];
    char name[128];
    *p = (struct pin){.r = *r, .file = file, .line = line, .constraint = l->constraints};
    p->pinned = r->specifiers[0] == '@' ? wheel_version(r->specifiers, strlen(r->specifiers), name,
                                                        sizeof name, &p->version)
                                        : pinned_version(r->specifiers, &p->version);
    l->n++;
}

/* "cu121" in the address of an index, or in a local version: 12010. */
static int cuda_of(const char *text) {
    for (const char *at = text; (at = strstr(at, "cu")); at++) {
        size_t n = strspn(at + 2, "0123456789");
        if (n == 3 && !isalnum((unsigned char)at[5]) &&
            (at == text || !isalnum((unsigned char)at[-1])))
            return ((at[2] - '0') * 10 + (at[3] - '0')) * 1000 + (at[4] - '0') * 10;
    }
    return 0;
}

static enum nb_status read_list(struct list *l, const char *path, struct nb_error *err);

/* "-r other.txt" beside the list that names it. */
static enum nb_status read_other(struct list *l, const char *path, const char *name,
                                 struct nb_error *err) {
    char other[PATH_MAX];
    const char *slash = strrchr(path, '/');
    int n = name[0] == '/' || !slash
                ? snprintf(other, sizeof other, "%s", name)
                : snprintf(other, sizeof other, "%.*s/%s", (int)(slash - path), path, name);
    if (n >= (int)sizeof other)
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", path);
    return read_list(l, other, err);
}

static enum nb_status read_line(struct list *l, const char *path, int line, char *text,
                                struct nb_error *err) {
    while (isspace((unsigned char)*text))
        text++;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1]))
        text[--n] = 0;
    /* "-r more.txt", "-rmore.txt", "--requirement=more.txt" */
    static const char *const lists[] = {"--requirement", "--constraint", "-r", "-c"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        size_t k = strlen(lists[i]);
        if (strncmp(text, lists[i], k) != 0 ||
            (i < 2 && !isspace((unsigned char)text[k]) && text[k] != '='))
            continue;
        bool outer = l->constraints;
        l->constraints = outer || i % 2 == 1;
        enum nb_status s = read_other(l, path, text + k + strspn(text + k, " \t="), err);
        l->constraints = outer;
        return s;
    }
    if (text[0] == '-') {
        l->cuda = cuda_of(text) ? cuda_of(text) : l->cuda;
        return NB_OK;
    }
    /* Options of a requirement, "--hash=…", end it. */
    char *options = strstr(text, " --");
    if (options)
        *options = 0;
    struct nb_requirement r;
    if (!text[0])
        return NB_OK;
    if (!nb_requirement_parse(text, strlen(text), &l->arena, &r)) {
        r = (struct nb_requirement){.extras = "", .marker = ""};
        struct nb_version version;
        if (wheel_version(text, n, r.name, sizeof r.name, &version)) {
            r.text = nb_arena_string(&l->arena, text, strlen(text));
            r.specifiers = r.text ? nb_findings_text(l->f, "@ %s", r.text) : NULL;
            const char *copy = nb_arena_string(&l->arena, path, strlen(path));
            if (r.specifiers && copy)
                add_pin(l, &r, copy, line);
        } else if (!strchr(text, '/')) /* other paths and addresses name no version */
            nb_findings_add(l->f, NB_SEVERITY_WARNING, "requirement-unreadable",
                            nb_findings_text(l->f, "%s, line %d: no requirement", path, line), text,
                            "write NAME==VERSION");
        return NB_OK;
    }
    if (nb_marker_holds(r.marker, &l->markers, "")) {
        const char *copy = nb_arena_string(&l->arena, path, strlen(path));
        add_pin(l, &r, copy ? copy : "", line);
    }
    return NB_OK;
}

/* What begins with a byte order mark, to UTF-8 without one, in place: PowerShell's `pip freeze > x`
 * writes UTF-16, and pip reads it. Beyond ASCII only comments matter: '?' will do. */
static void decode(struct nb_buf *text) {
    unsigned char *d = (unsigned char *)text->data;
    bool little = text->len >= 2 && d[0] == 0xFF && d[1] == 0xFE;
    bool big = text->len >= 2 && d[0] == 0xFE && d[1] == 0xFF;
    size_t n = 0;
    if (text->len >= 3 && memcmp(d, "\xEF\xBB\xBF", 3) == 0) {
        n = text->len - 3;
        memmove(d, d + 3, n);
    } else if (little || big) {
        for (size_t i = 2; i + 1 < text->len; i += 2) {
            unsigned c = little ? d[i] | (unsigned)d[i + 1] << 8 : d[i + 1] | (unsigned)d[i] << 8;
            d[n++] = c && c < 0x80 ? (unsigned char)c : '?';
        }
    } else {
        return;
    }
    d[n] = 0;
    text->len = n;
}

static enum nb_status read_list(struct list *l, const char *path, struct nb_error *err) {
    struct nb_buf text = {0};
    if (++l->files > MAX_LISTS)
        return nb_fail(err, NB_ERR_LIMIT, "%s: more than %d lists that name each other", path,
                       MAX_LISTS);
    enum nb_status s = nb_read_file(path, MAX_LIST_BYTES, &text, err);
    int line = 0;
    if (s == NB_OK && text.data)
        decode(&text);
    for (char *at = text.data; s == NB_OK && at && *at;) {
        struct nb_buf whole = {0};
        int first = line + 1;
        bool more = true;
        while (more && *at) { /* a line that ends in a backslash goes on */
            size_t n = strcspn(at, "\n");
            size_t keep = n;
            line++;
            while (keep && (at[keep - 1] == '\r' || at[keep - 1] == ' '))
                keep--;
            more = keep && at[keep - 1] == '\\';
            nb_buf_add(&whole, at, more ? keep - 1 : keep);
            at += n + (at[n] == '\n');
        }
        /* A comment begins the line, or follows a space. */
        char *hash = whole.data;
        while (hash && (hash = strchr(hash, '#')) && hash != whole.data &&
               !isspace((unsigned char)hash[-1]))
            hash++;
        if (hash)
            *hash = 0;
        if (whole.data)
            s = read_line(l, path, first, whole.data, err);
        nb_buf_free(&whole);
    }
    nb_buf_free(&text);
    return s;
}

static const struct nb_version *find_pin(void *context, const char *normal, bool *there) {
    struct list *l = context;
    int32_t i = nb_index_get(&l->by_name, normal);
    *there = i >= 0;
    return i >= 0 && l->pins[i].pinned ? &l->pins[i].version : NULL;
}

/* Whether some version satisfies both. The ends of what specifiers allow are the versions that they
 * name, so it is enough to try those, the ones right after each, and the first and last of all. */
static bool compatible(const struct pin *a, const struct pin *b) {
    const char *const texts[] = {a->r.specifiers, b->r.specifiers};
    char names[64][64];
    size_t n = 0;
    snprintf(names[n++], sizeof *names, "0");
    snprintf(names[n++], sizeof *names, "999999");
    for (size_t i = 0; i < 2; i++) {
        for (const char *at = texts[i]; *at;) {
            at += strcspn(at, "0123456789");
            size_t length = strcspn(at, ", *;)");
            if (!length || length > 40 || n + 3 > 64)
                break;
            char text[48];
            struct nb_version v;
            while (length && at[length - 1] == '.')
                length--;
            snprintf(text, sizeof text, "%.*s", (int)length, at);
            if (!nb_version_parse(text, strlen(text), &v))
                return true; /* nothing can be said */
            snprintf(names[n++], sizeof *names, "%s", text);
            size_t used = 0;
            for (int k = 0; k < v.n_release && used < 40; k++) /* 2.4 to 2.5, and to 2.4.0.1 */
                used +=
                    (size_t)snprintf(names[n] + used, sizeof *names - used, "%s%llu", k ? "." : "",
                                     (unsigned long long)v.release[k] + (k + 1 == v.n_release));
            n++;
            snprintf(names[n++], sizeof *names, "%.48s.0.1", text);
            at += strcspn(at, ",");
        }
    }
    for (size_t i = 0; i < n; i++) {
        struct nb_version v;
        bool all = nb_version_parse(names[i], strlen(names[i]), &v);
        for (size_t j = 0; j < 2 && all; j++) {
            bool valid = true;
            all = nb_version_matches(&v, texts[j], strlen(texts[j]), &valid);
            if (!valid)
                return true;
        }
        if (all)
            return true;
    }
    return false;
}

/* A package that is named twice must have a version that both allow. */
static void check_pair(struct list *l, const struct pin *q, const struct pin *p) {
    const struct pin *fixed = p->pinned ? p : q, *other = p->pinned ? q : p;
    bool url = other->r.specifiers[0] == '@', valid = true, fine = true;
    if (!p->r.specifiers[0] || !q->r.specifiers[0])
        return;
    if (fixed->pinned && other->pinned && url)
        fine = nb_version_compare(&fixed->version, &other->version) == 0;
    else if (fixed->pinned && !url)
        fine = nb_version_matches(&fixed->version, other->r.specifiers, strlen(other->r.specifiers),
                                  &valid) ||
               !valid;
    else if (!url)
        fine = compatible(p, q);
    if (!fine)
        nb_findings_add(l->f, NB_SEVERITY_ERROR, "requirement-violated",
                        nb_findings_text(l->f, "%s is asked for as %s and as %s", p->r.name,
                                         q->r.specifiers, p->r.specifiers),
                        nb_findings_text(l->f, "%s, line %d: %s\n%s, line %d: %s", q->file, q->line,
                                         q->r.text, p->file, p->line, p->r.text),
                        "keep one of them");
}

/* Constraints come last: they count only where something else asks for the package. */
static void check_conflicts(struct list *l) {
    for (size_t i = 0; i < 2 * l->n; i++) {
        const struct pin *p = &l->pins[i % l->n];
        int32_t known = nb_index_get(&l->by_name, p->r.name);
        if (p->constraint != (i >= l->n))
            continue;
        if (known >= 0)
            check_pair(l, &l->pins[known], p);
        if (known < 0 ? !p->constraint : !l->pins[known].pinned && p->pinned)
            nb_index_put(&l->by_name, p->r.name, (int32_t)(i % l->n));
    }
}

/* The build of torch that is asked for, by its local version or the index, against the target. */
static void check_cuda(struct list *l, const struct nb_gpu_table *table,
                       const struct nb_target *target) {
    bool there;
    const struct nb_version *torch = find_pin(l, "torch", &there);
    int cuda = torch && torch->local[0] ? cuda_of(torch->local) : l->cuda;
    if (!there || !cuda)
        return;
    const struct pin *p = &l->pins[nb_index_get(&l->by_name, "torch")];
    const struct nb_gpu_architecture *a = nb_gpu_architecture(table, target->capability);
    const struct nb_cuda_driver *d = nb_cuda_driver(table, cuda);
    const char *evidence = nb_findings_text(l->f, "%s, line %d: %s: CUDA %d.%d", p->file, p->line,
                                            p->r.text, cuda / 1000, cuda / 10 % 100);
    if (target->name && a && cuda < a->first_cuda)
        nb_findings_add(
            l->f, NB_SEVERITY_ERROR, "gpu-without-code",
            nb_findings_text(l->f,
                             "torch for CUDA %d.%d has no machine code for %s: CUDA %d.%d is the "
                             "first that compiles for compute capability %d.%d",
                             cuda / 1000, cuda / 10 % 100, target->name, a->first_cuda / 1000,
                             a->first_cuda / 10 % 100, target->capability / 10,
                             target->capability % 10),
            nb_findings_text(l->f, "%s\n%s", evidence, a->source),
            nb_findings_text(l->f, "ask for a build for CUDA %d.%d or later: +cu%d%d",
                             a->first_cuda / 1000, a->first_cuda / 10 % 100, a->first_cuda / 1000,
                             a->first_cuda / 10 % 100));
    if (target->driver_cuda && target->driver_cuda / 1000 < cuda / 1000)
        nb_findings_add(l->f, NB_SEVERITY_ERROR, "driver-too-old",
                        nb_findings_text(l->f,
                                         "torch for CUDA %d.%d does not run on a driver of "
                                         "CUDA %d.%d",
                                         cuda / 1000, cuda / 10 % 100, target->driver_cuda / 1000,
                                         target->driver_cuda / 10 % 100),
                        evidence,
                        d ? nb_findings_text(l->f, "install driver %s or later", d->minimum)
                          : "install a newer driver");
}

enum nb_status nb_doctor_requirements(const char *path, const struct nb_python_options *options,
                                      const struct nb_gpu_table *table,
                                      const struct nb_target *target, struct nb_findings *findings,
                                      struct nb_error *err) {
    struct list l = {.f = findings};
    struct utsname u;
    size_t loose = 0, named = 0;
    snprintf(l.markers.python_version, sizeof l.markers.python_version, "3.11");
    snprintf(l.markers.python_full_version, sizeof l.markers.python_full_version, "3.11.0");
    if (uname(&u) == 0)
        snprintf(l.markers.platform_machine, sizeof l.markers.platform_machine, "%.31s", u.machine);
    enum nb_status s = read_list(&l, path, err);
    if (s == NB_OK) {
        check_conflicts(&l);
        check_cuda(&l, table, target);
        s = nb_doctor_traps(options->traps, find_pin, &l, 0, target, findings, err);
    }
    for (size_t i = 0; i < l.n; i++) {
        bool first = nb_index_get(&l.by_name, l.pins[i].r.name) == (int32_t)i;
        loose += first && !l.pins[i].pinned;
        named += !l.pins[i].constraint;
    }
    if (s == NB_OK)
        nb_findings_add(
            findings, NB_SEVERITY_GOOD, "requirements",
            nb_findings_text(findings,
                             "%s: %zu requirements read, %zu packages not pinned; as for "
                             "Python %s on Linux, %s",
                             path, named, loose, l.markers.python_version,
                             l.markers.platform_machine),
            NULL, NULL);
    if (s == NB_OK && loose)
        nb_findings_add(findings, NB_SEVERITY_NOTE, "requirement-loose",
                        nb_findings_text(findings,
                                         "%zu requirement%s no one version: what is installed "
                                         "depends on the day",
                                         loose, loose == 1 ? " names" : "s name"),
                        NULL, "pin them: pip freeze");
    nb_index_free(&l.by_name);
    nb_arena_free(&l.arena);
    free(l.pins);
    return s;
}
