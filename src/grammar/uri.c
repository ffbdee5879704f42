#include "grammar/uri.h"

#include <string.h>

struct part {
    const char *p;
    size_t n;
    bool there;
};

struct uri {
    struct part scheme, authority, path, query, fragment;
};

static bool is_scheme_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '-' || c == '.';
}

static void split(const char *text, struct uri *out) {
    *out = (struct uri){0};
    size_t n = 0;
    while (is_scheme_char(text[n]))
        n++;
    if (n && text[n] == ':') {
        out->scheme = (struct part){text, n, true};
        text += n + 1;
    }
    if (text[0] == '/' && text[1] == '/') {
        text += 2;
        n = strcspn(text, "/?#");
        out->authority = (struct part){text, n, true};
        text += n;
    }
    n = strcspn(text, "?#");
    out->path = (struct part){text, n, true};
    text += n;
    if (*text == '?') {
        n = strcspn(++text, "#");
        out->query = (struct part){text, n, true};
        text += n;
    }
    if (*text == '#')
        out->fragment = (struct part){text + 1, strlen(text + 1), true};
}

/* Appends a path without its "." and ".." segments; what stands before `from` in *out stays. */
static void add_path(struct nb_buf *out, const char *path, size_t n, size_t from) {
    const char *end = path + n;
    while (path < end) {
        const char *slash =
            memchr(path + (*path == '/'), '/', (size_t)(end - path - (*path == '/')));
        const char *next = slash ? slash : end, *name = path + (*path == '/');
        size_t len = (size_t)(next - name);
        bool dots = len == 2 && name[0] == '.' && name[1] == '.';
        if (dots) {
            while (out->len > from && out->data[out->len - 1] != '/')
                out->len--;
            if (out->len > from)
                out->len--;
        }
        if (dots || (len == 1 && name[0] == '.')) {
            if (next == end)
                nb_buf_add(out, "/", 1);
        } else {
            nb_buf_add(out, path, (size_t)(next - path));
        }
        path = next;
    }
}

static void add_part(struct nb_buf *out, const char *before, struct part part, const char *after) {
    if (!part.there)
        return;
    nb_buf_add_string(out, before);
    nb_buf_add(out, part.p, part.n);
    nb_buf_add_string(out, after);
}

void nb_uri_resolve(const char *base, const char *reference, struct nb_buf *out) {
    struct uri b, r;
    split(base, &b);
    split(reference, &r);
    bool own = r.scheme.there || r.authority.there, rooted = r.path.n && r.path.p[0] == '/';
    struct part query = r.query;
    add_part(out, "", r.scheme.there ? r.scheme : b.scheme, ":");
    add_part(out, "//", own ? r.authority : b.authority, "");
    size_t from = out->len;
    if (own || rooted) {
        if (rooted)
            add_path(out, r.path.p, r.path.n, from);
        else
            nb_buf_add(out, r.path.p, r.path.n);
    } else if (!r.path.n) {
        nb_buf_add(out, b.path.p, b.path.n);
        query = r.query.there ? r.query : b.query;
    } else {
        struct nb_buf merged = {0};
        size_t keep = b.path.n;
        while (keep && b.path.p[keep - 1] != '/')
            keep--;
        if (b.authority.there && !b.path.n)
            nb_buf_add(&merged, "/", 1);
        nb_buf_add(&merged, b.path.p, keep);
        nb_buf_add(&merged, r.path.p, r.path.n);
        if (merged.failed)
            out->failed = true;
        else
            add_path(out, merged.data, merged.len, from);
        nb_buf_free(&merged);
    }
    add_part(out, "?", query, "");
    add_part(out, "#", r.fragment, "");
    nb_buf_add(out, "", 0);
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool nb_uri_decode(char *text, size_t *n) {
    size_t to = 0;
    for (size_t i = 0; i < *n; i++) {
        if (text[i] != '%') {
            text[to++] = text[i];
            continue;
        }
        int high = i + 2 < *n ? hex_digit(text[i + 1]) : -1;
        int low = i + 2 < *n ? hex_digit(text[i + 2]) : -1;
        if (high < 0 || low < 0)
            return false;
        text[to++] = (char)(high << 4 | low);
        i += 2;
    }
    *n = to;
    text[to] = 0;
    return true;
}
