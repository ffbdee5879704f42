#include "doctor/pep508.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

void nb_normalize_name(const char *text, size_t n, char *out, size_t size) {
    size_t k = 0;
    for (size_t i = 0; i < n && k + 1 < size; i++) {
        bool separator = text[i] == '-' || text[i] == '_' || text[i] == '.';
        if (!separator)
            out[k++] = (char)tolower((unsigned char)text[i]);
        else if (k && out[k - 1] != '-')
            out[k++] = '-';
    }
    out[k] = 0;
}

struct text {
    const char *at, *end;
};

static void skip_spaces(struct text *t) {
    while (t->at < t->end && isspace((unsigned char)*t->at))
        t->at++;
}

static struct text trim(const char *at, const char *end) {
    struct text t = {at, end};
    skip_spaces(&t);
    while (t.end > t.at && isspace((unsigned char)t.end[-1]))
        t.end--;
    return t;
}

static bool is_name(char c) {
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

static const char *copy(struct nb_arena *arena, struct text t) {
    return nb_arena_string(arena, t.at, (size_t)(t.end - t.at));
}

/* "[a, B_c]" as "a,b-c". */
static bool take_extras(struct text *t, struct nb_arena *arena, const char **out) {
    *out = "";
    skip_spaces(t);
    if (t->at == t->end || *t->at != '[')
        return true;
    const char *close = memchr(t->at, ']', (size_t)(t->end - t->at));
    if (!close)
        return false;
    char *list = nb_arena_alloc(arena, (size_t)(close - t->at) + 2, 1);
    if (!list)
        return false;
    size_t used = 0;
    for (const char *p = t->at + 1; p < close;) {
        const char *comma = memchr(p, ',', (size_t)(close - p));
        struct text one = trim(p, comma ? comma : close);
        char name[128];
        nb_normalize_name(one.at, (size_t)(one.end - one.at), name, sizeof name);
        size_t n = strlen(name);
        if (n && n <= (size_t)(one.end - one.at)) {
            if (used)
                list[used++] = ',';
            memcpy(list + used, name, n);
            used += n;
        }
        p = comma ? comma + 1 : close;
    }
    *out = list;
    t->at = close + 1;
    return true;
}

bool nb_requirement_parse(const char *text, size_t n, struct nb_arena *arena,
                          struct nb_requirement *out) {
    struct text t = trim(text, text + n);
    *out = (struct nb_requirement){.text = copy(arena, t)};
    const char *name = t.at;
    while (t.at < t.end && is_name(*t.at))
        t.at++;
    if (t.at == name || !isalnum((unsigned char)*name) || !isalnum((unsigned char)t.at[-1]))
        return false;
    nb_normalize_name(name, (size_t)(t.at - name), out->name, sizeof out->name);
    if (!take_extras(&t, arena, &out->extras))
        return false;
    skip_spaces(&t);
    /* A URL ends at a space before the ";" of the marker, since it may hold one itself. */
    bool url = t.at < t.end && *t.at == '@';
    const char *semicolon = NULL;
    for (const char *p = t.at; p < t.end && !semicolon; p++) {
        if (*p == ';' && (!url || (p > t.at && isspace((unsigned char)p[-1]))))
            semicolon = p;
    }
    struct text specifiers = trim(t.at, semicolon ? semicolon : t.end);
    if (specifiers.end - specifiers.at >= 2 && *specifiers.at == '(' && specifiers.end[-1] == ')')
        specifiers = trim(specifiers.at + 1, specifiers.end - 1);
    if (specifiers.at < specifiers.end && !strchr("<>=!~@", *specifiers.at))
        return false;
    out->specifiers = copy(arena, specifiers);
    out->marker = semicolon ? copy(arena, trim(semicolon + 1, t.end)) : "";
    return out->text && out->specifiers && out->marker;
}

/* ---- markers: a grammar of or, and, parentheses and comparisons ---- */

enum { MAX_DEPTH = 64, MAX_VALUE = 256 };

struct marker {
    struct text t;
    const struct nb_markers *environment;
    const char *extra;
    bool broken;
    int depth;
};

struct value {
    char text[MAX_VALUE];
    bool is_extra;
};

static bool take_keyword(struct marker *m, const char *word) {
    skip_spaces(&m->t);
    size_t n = strlen(word);
    if ((size_t)(m->t.end - m->t.at) < n || memcmp(m->t.at, word, n) != 0)
        return false;
    if (isalpha((unsigned char)word[0]) && m->t.at + n < m->t.end &&
        (isalnum((unsigned char)m->t.at[n]) || m->t.at[n] == '_'))
        return false;
    m->t.at += n;
    return true;
}

static const char *variable(const struct marker *m, const char *name) {
    const struct nb_markers *e = m->environment;
    const struct {
        const char *name, *value;
    } table[] = {
        {"python_version", e->python_version},
        {"python_full_version", e->python_full_version},
        {"implementation_version", e->python_full_version},
        {"os_name", "posix"},
        {"os.name", "posix"},
        {"sys_platform", "linux"},
        {"sys.platform", "linux"},
        {"platform_system", "Linux"},
        {"platform_machine", e->platform_machine},
        {"platform.machine", e->platform_machine},
        {"platform_python_implementation", "CPython"},
        {"platform.python_implementation", "CPython"},
        {"python_implementation", "CPython"},
        {"implementation_name", "cpython"},
        {"platform_release", e->platform_release},
        {"platform_version", e->platform_version},
        {"extra", m->extra},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, name) == 0)
            return table[i].value;
    }
    return NULL;
}

static void take_value(struct marker *m, struct value *v) {
    skip_spaces(&m->t);
    v->text[0] = 0;
    v->is_extra = false;
    if (m->t.at == m->t.end) {
        m->broken = true;
        return;
    }
    char quote = *m->t.at;
    const char *from = m->t.at;
    size_t n;
    if (quote == '"' || quote == '\'') {
        const char *close = memchr(from + 1, quote, (size_t)(m->t.end - from - 1));
        n = close ? (size_t)(close - from - 1) : 0;
        if (!close || n >= MAX_VALUE) {
            m->broken = true;
            return;
        }
        memcpy(v->text, from + 1, n);
        v->text[n] = 0;
        m->t.at = close + 1;
        return;
    }
    while (m->t.at < m->t.end &&
           (isalnum((unsigned char)*m->t.at) || *m->t.at == '_' || *m->t.at == '.'))
        m->t.at++;
    n = (size_t)(m->t.at - from);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), from);
    const char *value = variable(m, name);
    m->broken = m->broken || !value;
    v->is_extra = strcmp(name, "extra") == 0;
    snprintf(v->text, sizeof v->text, "%s", value ? value : "");
}

static bool compare(const char *op, struct value *a, struct value *b) {
    if (a->is_extra || b->is_extra) {
        char x[MAX_VALUE], y[MAX_VALUE];
        nb_normalize_name(a->text, strlen(a->text), x, sizeof x);
        nb_normalize_name(b->text, strlen(b->text), y, sizeof y);
        return (strcmp(x, y) == 0) == (strcmp(op, "!=") != 0);
    }
    if (strcmp(op, "in") == 0)
        return strstr(b->text, a->text) != NULL;
    if (strcmp(op, "not in") == 0)
        return strstr(b->text, a->text) == NULL;
    struct nb_version v;
    char specifier[MAX_VALUE + 4];
    bool valid;
    snprintf(specifier, sizeof specifier, "%s%s", op, b->text);
    if (nb_version_parse(a->text, strlen(a->text), &v)) {
        bool result = nb_version_matches(&v, specifier, strlen(specifier), &valid);
        if (valid)
            return result;
    }
    int d = strcmp(a->text, b->text);
    return strcmp(op, "==") == 0 || strcmp(op, "===") == 0 ? d == 0
           : strcmp(op, "!=") == 0                         ? d != 0
           : strcmp(op, "<") == 0                          ? d < 0
           : strcmp(op, "<=") == 0                         ? d <= 0
           : strcmp(op, ">") == 0                          ? d > 0
           : strcmp(op, ">=") == 0                         ? d >= 0
                                                           : false;
}

static bool either(struct marker *m);

static bool comparison(struct marker *m) {
    static const char *const operators[] = {"===", "~=", "==", "!=", "<=", ">=", "<", ">", "in"};
    struct value a, b;
    if (take_keyword(m, "(")) {
        if (++m->depth > MAX_DEPTH) {
            m->broken = true;
            return false;
        }
        bool result = either(m);
        m->depth--;
        m->broken = m->broken || !take_keyword(m, ")");
        return result;
    }
    take_value(m, &a);
    const char *op = NULL;
    for (size_t i = 0; i < sizeof operators / sizeof *operators && !op; i++) {
        if (take_keyword(m, operators[i]))
            op = operators[i];
    }
    if (!op && take_keyword(m, "not") && take_keyword(m, "in"))
        op = "not in";
    take_value(m, &b);
    m->broken = m->broken || !op;
    return !m->broken && compare(op, &a, &b);
}

static bool both(struct marker *m) {
    bool result = comparison(m);
    while (!m->broken && take_keyword(m, "and")) {
        bool next = comparison(m);
        result = result && next;
    }
    return result;
}

static bool either(struct marker *m) {
    bool result = both(m);
    while (!m->broken && take_keyword(m, "or")) {
        bool next = both(m);
        result = result || next;
    }
    return result;
}

bool nb_marker_holds(const char *marker, const struct nb_markers *markers, const char *extra) {
    struct marker m = {
        .t = {marker, marker + strlen(marker)}, .environment = markers, .extra = extra};
    if (!*marker)
        return true;
    bool result = either(&m);
    skip_spaces(&m.t);
    return result && !m.broken && m.t.at == m.t.end;
}
