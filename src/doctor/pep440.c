#include "doctor/pep440.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct cursor {
    const char *at, *end;
};

static bool take_char(struct cursor *c, char wanted) {
    if (c->at == c->end || tolower((unsigned char)*c->at) != wanted)
        return false;
    c->at++;
    return true;
}

static bool is_digit(const struct cursor *c) {
    return c->at < c->end && isdigit((unsigned char)*c->at);
}

/* Numbers too large for 64 bits stay at the largest: dates and hashes are compared, not counted. */
static bool take_number(struct cursor *c, uint64_t *out) {
    if (!is_digit(c))
        return false;
    *out = 0;
    for (; is_digit(c); c->at++) {
        uint64_t digit = (uint64_t)(*c->at - '0');
        *out = *out > (UINT64_MAX - digit) / 10 ? UINT64_MAX : *out * 10 + digit;
    }
    return true;
}

static bool take_word(struct cursor *c, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(c->end - c->at) < n || strncasecmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

static bool is_separator(const struct cursor *c) {
    return c->at < c->end && (*c->at == '.' || *c->at == '-' || *c->at == '_');
}

/* [separator] word [separator] [number], for a, b, rc, post and dev. The longer words come first.
 */
static bool take_suffix(struct cursor *c, const char *const *words, uint64_t *number) {
    struct cursor start = *c;
    if (is_separator(c))
        c->at++;
    for (; *words; words++) {
        if (!take_word(c, *words))
            continue;
        struct cursor after = *c;
        *number = 0;
        if (is_separator(c))
            c->at++;
        if (!take_number(c, number))
            *c = after;
        return true;
    }
    *c = start;
    return false;
}

static bool take_local(struct cursor *c, struct nb_version *v) {
    size_t n = 0;
    for (; c->at < c->end && n + 1 < sizeof v->local; c->at++) {
        char ch = (char)tolower((unsigned char)*c->at);
        if (!isalnum((unsigned char)ch) && !is_separator(c))
            break;
        v->local[n++] = isalnum((unsigned char)ch) ? ch : '.';
    }
    v->local[n] = 0;
    return n > 0 && v->local[n - 1] != '.';
}

static bool take_release(struct cursor *c, struct nb_version *v) {
    do {
        if (v->n_release == NB_VERSION_PARTS || !take_number(c, &v->release[v->n_release]))
            return false;
        v->n_release++;
    } while (c->end - c->at > 1 && *c->at == '.' && isdigit((unsigned char)c->at[1]) && c->at++);
    return true;
}

bool nb_version_parse(const char *text, size_t n, struct nb_version *v) {
    static const char *const alpha[] = {"alpha", "a", NULL}, *const beta[] = {"beta", "b", NULL};
    static const char *const rc[] = {"preview", "pre", "rc", "c", NULL};
    static const char *const post[] = {"post", "rev", "r", NULL}, *const dev[] = {"dev", NULL};
    *v = (struct nb_version){0};
    struct cursor c = {text, text + n};
    while (c.at < c.end && isspace((unsigned char)*c.at))
        c.at++;
    while (c.end > c.at && isspace((unsigned char)c.end[-1]))
        c.end--;
    take_char(&c, 'v');
    struct cursor start = c;
    if (!take_number(&c, &v->epoch) || !take_char(&c, '!')) {
        c = start;
        v->epoch = 0;
    }
    if (!take_release(&c, v))
        return false;
    if (take_suffix(&c, alpha, &v->pre_number))
        v->pre = 'a';
    else if (take_suffix(&c, beta, &v->pre_number))
        v->pre = 'b';
    else if (take_suffix(&c, rc, &v->pre_number))
        v->pre = 'r';
    v->has_post = take_suffix(&c, post, &v->post);
    if (!v->has_post && c.end - c.at > 1 && *c.at == '-' && isdigit((unsigned char)c.at[1])) {
        c.at++; /* "1.0-1" is a post release, too */
        v->has_post = take_number(&c, &v->post);
    }
    v->has_dev = take_suffix(&c, dev, &v->dev);
    if (take_char(&c, '+') && !take_local(&c, v))
        return false;
    return c.at == c.end;
}

static int compare_numbers(uint64_t a, uint64_t b) {
    return (a > b) - (a < b);
}

static int compare_releases(const struct nb_version *a, const struct nb_version *b, int parts) {
    for (int i = 0; i < parts; i++) {
        int d = compare_numbers(i < a->n_release ? a->release[i] : 0,
                                i < b->n_release ? b->release[i] : 0);
        if (d)
            return d;
    }
    return 0;
}

/* Where a version lies among those of its release: 1.0.dev1 < 1.0a1 < 1.0b1 < 1.0rc1 < 1.0. */
static int stage(const struct nb_version *v) {
    if (v->pre)
        return v->pre == 'a' ? 1 : v->pre == 'b' ? 2 : 3;
    return v->has_dev && !v->has_post ? 0 : 4;
}

/* Parts are compared as numbers if they are; numbers come after words. */
static int compare_locals(const char *a, const char *b) {
    while (*a || *b) {
        if (!*a || !*b)
            return *a ? 1 : -1;
        size_t n = strcspn(a, "."), m = strcspn(b, ".");
        bool x = strspn(a, "0123456789") >= n, y = strspn(b, "0123456789") >= m;
        int d = 0;
        if (x && y) {
            struct cursor p = {a, a + n}, q = {b, b + m};
            uint64_t i = 0, j = 0;
            take_number(&p, &i);
            take_number(&q, &j);
            d = compare_numbers(i, j);
        } else if (x != y) {
            d = x ? 1 : -1;
        } else {
            d = strncmp(a, b, n < m ? n : m);
            d = d ? d : (n > m) - (n < m);
        }
        if (d)
            return d;
        a += n + (a[n] == '.');
        b += m + (b[m] == '.');
    }
    return 0;
}

/* Local parts aside. */
static int compare_public(const struct nb_version *a, const struct nb_version *b) {
    int d = compare_numbers(a->epoch, b->epoch);
    d = d ? d : compare_releases(a, b, NB_VERSION_PARTS);
    d = d ? d : stage(a) - stage(b);
    d = d ? d : compare_numbers(a->pre_number, b->pre_number);
    d = d ? d : a->has_post - b->has_post;
    d = d ? d : compare_numbers(a->post, b->post);
    d = d ? d : b->has_dev - a->has_dev; /* a dev release comes before what it is of */
    return d ? d : compare_numbers(a->dev, b->dev);
}

int nb_version_compare(const struct nb_version *a, const struct nb_version *b) {
    int d = compare_public(a, b);
    return d ? d : compare_locals(a->local, b->local);
}

static bool same_release(const struct nb_version *a, const struct nb_version *b) {
    return a->epoch == b->epoch && compare_releases(a, b, NB_VERSION_PARTS) == 0;
}

/* "== 2.1.*": the parts that are written are the first of the release. */
static bool begins_as(const struct nb_version *v, const struct nb_version *prefix) {
    return v->epoch == prefix->epoch && compare_releases(v, prefix, prefix->n_release) == 0;
}

static bool equals(const struct nb_version *v, const struct nb_version *wanted) {
    return wanted->local[0] ? nb_version_compare(v, wanted) == 0 : compare_public(v, wanted) == 0;
}

static bool above(const struct nb_version *v, const struct nb_version *w) {
    if (nb_version_compare(v, w) <= 0)
        return false;
    /* A post release of what is written is not above it; of another release before it, it is. */
    if (v->has_post && !w->has_post && !w->has_dev && same_release(v, w) && v->pre == w->pre &&
        v->pre_number == w->pre_number)
        return false;
    return !(v->local[0] && same_release(v, w) && compare_public(v, w) == 0);
}

static bool below(const struct nb_version *v, const struct nb_version *w) {
    bool early = v->pre || v->has_dev, wanted_early = w->pre || w->has_dev;
    return nb_version_compare(v, w) < 0 &&
           !(early && !wanted_early && !w->has_post && same_release(v, w));
}

/* One clause, "~=2.3". False in *valid if it is none. */
static bool clause(const struct nb_version *v, const char *text, size_t n, bool *valid) {
    static const char *const operators[] = {"===", "~=", "==", "!=", "<=", ">=", "<", ">"};
    size_t which = 0, count = sizeof operators / sizeof *operators;
    while (which < count && (n < strlen(operators[which]) ||
                             memcmp(text, operators[which], strlen(operators[which])) != 0))
        which++;
    if (which == count) {
        *valid = false;
        return true;
    }
    text += strlen(operators[which]);
    n -= strlen(operators[which]);
    while (n && isspace((unsigned char)*text))
        text++, n--;
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    bool wild = (which == 2 || which == 3) && n > 2 && memcmp(text + n - 2, ".*", 2) == 0;
    struct nb_version w;
    if (!nb_version_parse(text, wild ? n - 2 : n, &w)) {
        *valid = *valid && which == 0;
        return true;
    }
    switch (which) {
    case 1: { /* ~= 2.3.1 is >= 2.3.1, == 2.3.* */
        struct nb_version prefix = {.epoch = w.epoch, .n_release = w.n_release - 1};
        memcpy(prefix.release, w.release, sizeof w.release);
        if (prefix.n_release < 1)
            *valid = false;
        return compare_public(v, &w) >= 0 && begins_as(v, &prefix);
    }
    case 0:
        return nb_version_compare(v, &w) == 0;
    case 2:
        return wild ? begins_as(v, &w) : equals(v, &w);
    case 3:
        return wild ? !begins_as(v, &w) : !equals(v, &w);
    case 4:
        return compare_public(v, &w) <= 0;
    case 5:
        return compare_public(v, &w) >= 0;
    case 6:
        return below(v, &w);
    default:
        return above(v, &w);
    }
}

bool nb_version_matches(const struct nb_version *version, const char *text, size_t n, bool *valid) {
    bool fine = true, matches = true;
    const char *end = text + n;
    while (text < end) {
        const char *comma = memchr(text, ',', (size_t)(end - text));
        const char *stop = comma ? comma : end;
        const char *from = text;
        while (from < stop && isspace((unsigned char)*from))
            from++;
        if (from < stop)
            matches = clause(version, from, (size_t)(stop - from), &fine) && matches;
        text = stop + (comma != NULL);
    }
    if (valid)
        *valid = fine;
    return matches || !fine;
}
