#include "validator.h"

#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { MAX_DEPTH = 2000, MAX_STEPS = 5 * 1000 * 1000, MAX_DIGITS = 20000 };

static void *must(void *p) {
    if (!p) {
        fprintf(stderr, "validator: no memory\n");
        abort();
    }
    return p;
}

/* ---- Reading ---- */

struct reader {
    const unsigned char *at, *end;
};

static void skip_space(struct reader *r) {
    while (r->at < r->end && memchr(" \t\r\n", *r->at, 4))
        r->at++;
}

static int hex4(struct reader *r) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        if (r->at == r->end)
            return -1;
        int c = *r->at++, d = c >= '0' && c <= '9'                 ? c - '0'
                              : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                   : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_utf8(char *out, unsigned cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; cp >>= 6)
        out[i] = (char)(0x80 | (cp & 63));
    out[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | cp);
    return n;
}

/* One character of UTF-8 at s; 0 if it is none. */
static size_t get_utf8(const unsigned char *s, size_t left, unsigned *cp) {
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    if (!n || n > left)
        return 0;
    unsigned v = n == 1 ? s[0] : s[0] & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        v = v << 6 | (s[i] & 63);
    }
    *cp = v;
    return v < least[n] || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000) ? 0 : n;
}

/* After the quote. NULL if it is no string. */
static char *read_string(struct reader *r, size_t *n) {
    char *out = must(malloc((size_t)(r->end - r->at) + 8));
    *n = 0;
    while (r->at < r->end && *r->at != '"') {
        unsigned cp;
        if (*r->at != '\\') {
            size_t len = get_utf8(r->at, (size_t)(r->end - r->at), &cp);
            if (!len || *r->at < 0x20)
                break;
            memcpy(out + *n, r->at, len);
            *n += len;
            r->at += len;
            continue;
        }
        if (++r->at == r->end)
            break;
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char *e = memchr(from, *r->at, 8);
        int c = *r->at++;
        if (e) {
            out[(*n)++] = to[e - from];
            continue;
        }
        int hi = c == 'u' ? hex4(r) : -1;
        if (hi < 0 || (hi >= 0xDC00 && hi < 0xE000))
            break;
        cp = (unsigned)hi;
        if (hi >= 0xD800 && hi < 0xDC00) {
            if (r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u')
                break;
            r->at += 2;
            int lo = hex4(r);
            if (lo < 0xDC00 || lo >= 0xE000)
                break;
            cp = 0x10000 + ((unsigned)hi - 0xD800) * 0x400 + ((unsigned)lo - 0xDC00);
        }
        *n += put_utf8(out + *n, cp);
    }
    if (r->at == r->end || *r->at != '"') {
        free(out);
        return NULL;
    }
    r->at++;
    out[*n] = 0;
    return out;
}

static bool digits(struct reader *r) {
    const unsigned char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9')
        r->at++;
    return r->at > from;
}

static bool number(struct reader *r) {
    if (r->at < r->end && *r->at == '-')
        r->at++;
    if (r->at < r->end && *r->at == '0')
        r->at++;
    else if (!digits(r))
        return false;
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!digits(r))
            return false;
    }
    if (r->at < r->end && (*r->at | 32) == 'e') {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-'))
            r->at++;
        return digits(r);
    }
    return true;
}

static struct doc *read_value(struct reader *r, int depth);

static void add_item(struct doc *j, struct doc *item) {
    if ((j->n & (j->n + 1)) == 0 || !j->items)
        j->items = must(realloc(j->items, (2 * j->n + 2) * sizeof *j->items));
    j->items[j->n++] = item;
}

static bool read_items(struct reader *r, struct doc *j, char close, int depth) {
    r->at++;
    skip_space(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return true;
    }
    for (;;) {
        skip_space(r);
        if (close == '}') {
            if (r->at == r->end || *r->at != '"')
                return false;
            r->at++;
            size_t n;
            char *key = read_string(r, &n);
            if (!key)
                return false;
            j->keys = must(realloc(j->keys, (j->n + 1) * sizeof *j->keys));
            j->key_n = must(realloc(j->key_n, (j->n + 1) * sizeof *j->key_n));
            bool twice = false;
            for (size_t i = 0; i < j->n; i++)
                twice |= j->key_n[i] == n && !memcmp(j->keys[i], key, n);
            skip_space(r);
            if (twice || r->at == r->end || *r->at != ':') {
                free(key);
                return false;
            }
            r->at++;
            struct doc *value = read_value(r, depth + 1);
            if (!value) {
                free(key);
                return false;
            }
            j->keys[j->n] = key;
            j->key_n[j->n] = n;
            add_item(j, value);
        } else {
            struct doc *value = read_value(r, depth + 1);
            if (!value)
                return false;
            add_item(j, value);
        }
        skip_space(r);
        if (r->at == r->end || (*r->at != ',' && *r->at != close))
            return false;
        if (*r->at++ == close)
            return true;
    }
}

static bool literal(struct reader *r, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return false;
    r->at += n;
    return true;
}

static struct doc *read_value(struct reader *r, int depth) {
    skip_space(r);
    if (r->at == r->end || depth > MAX_DEPTH)
        return NULL;
    struct doc *j = must(calloc(1, sizeof *j));
    const unsigned char *from = r->at;
    bool ok;
    switch (*r->at) {
    case '{':
        j->kind = DOC_OBJECT;
        ok = read_items(r, j, '}', depth);
        break;
    case '[':
        j->kind = DOC_ARRAY;
        ok = read_items(r, j, ']', depth);
        break;
    case '"':
        j->kind = DOC_STRING;
        r->at++;
        ok = (j->text = read_string(r, &j->n)) != NULL;
        break;
    case 'n':
        ok = literal(r, "null");
        break;
    case 't':
        j->kind = DOC_TRUE;
        ok = literal(r, "true");
        break;
    case 'f':
        j->kind = DOC_FALSE;
        ok = literal(r, "false");
        break;
    default:
        j->kind = DOC_NUMBER;
        ok = number(r);
        j->n = (size_t)(r->at - from);
        j->text = must(malloc(j->n + 1));
        memcpy(j->text, from, j->n);
        j->text[j->n] = 0;
    }
    if (ok)
        return j;
    doc_free(j);
    return NULL;
}

struct doc *doc_read(const char *text, size_t n) {
    struct reader r = {(const unsigned char *)text, (const unsigned char *)text + n};
    struct doc *j = read_value(&r, 0);
    skip_space(&r);
    if (j && r.at == r.end)
        return j;
    doc_free(j);
    return NULL;
}

void doc_free(struct doc *j) {
    if (!j)
        return;
    if (j->kind == DOC_ARRAY || j->kind == DOC_OBJECT)
        for (size_t i = 0; i < j->n; i++) {
            doc_free(j->items[i]);
            if (j->kind == DOC_OBJECT)
                free(j->keys[i]);
        }
    free(j->items);
    free(j->keys);
    free(j->key_n);
    free(j->text);
    free(j);
}

const struct doc *doc_get(const struct doc *object, const char *key) {
    if (!object || object->kind != DOC_OBJECT)
        return NULL;
    for (size_t i = 0; i < object->n; i++)
        if (object->key_n[i] == strlen(key) && !memcmp(object->keys[i], key, object->key_n[i]))
            return object->items[i];
    return NULL;
}

static const struct doc *get_n(const struct doc *object, const char *key, size_t n) {
    for (size_t i = 0; i < object->n; i++)
        if (object->key_n[i] == n && !memcmp(object->keys[i], key, n))
            return object->items[i];
    return NULL;
}

/* ---- Writing ---- */

struct out {
    char *text;
    size_t n, cap;
};

static void put(struct out *out, const char *bytes, size_t n) {
    if (out->cap - out->n < n + 1) {
        out->cap = 2 * out->cap + n + 64;
        out->text = must(realloc(out->text, out->cap));
    }
    memcpy(out->text + out->n, bytes, n);
    out->n += n;
    out->text[out->n] = 0;
}

static void put_string(struct out *out, const char *text, size_t n) {
    put(out, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        char escape[8];
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == '"' || c == '\\')
            put(out, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", c));
        else
            put(out, text + i, 1);
    }
    put(out, "\"", 1);
}

static void put_doc(struct out *out, const struct doc *j) {
    static const char *const words[] = {"null", "false", "true"};
    switch (j->kind) {
    case DOC_NUMBER:
        put(out, j->text, j->n);
        break;
    case DOC_STRING:
        put_string(out, j->text, j->n);
        break;
    case DOC_ARRAY:
    case DOC_OBJECT:
        put(out, j->kind == DOC_ARRAY ? "[" : "{", 1);
        for (size_t i = 0; i < j->n; i++) {
            put(out, ",", i > 0);
            if (j->kind == DOC_OBJECT) {
                put_string(out, j->keys[i], j->key_n[i]);
                put(out, ":", 1);
            }
            put_doc(out, j->items[i]);
        }
        put(out, j->kind == DOC_ARRAY ? "]" : "}", 1);
        break;
    default:
        put(out, words[j->kind], strlen(words[j->kind]));
    }
}

char *doc_write(const struct doc *doc) {
    struct out out = {0};
    put_doc(&out, doc);
    return out.text;
}

/* ---- Numbers: sign, digits without zeros at either end, power of ten of the last ---- */

struct decimal {
    bool negative;
    char *digits; /* "" is zero */
    long exponent;
};

static struct decimal decimal_of(const char *text) {
    struct decimal d = {.digits = must(malloc(strlen(text) + 1))};
    size_t n = 0;
    long after = 0;
    bool point = false;
    for (; *text && (*text | 32) != 'e'; text++) {
        if (*text == '-') {
            d.negative = true;
        } else if (*text == '.') {
            point = true;
        } else {
            if (n || *text != '0')
                d.digits[n++] = *text;
            after += point;
        }
    }
    d.exponent = (*text ? strtol(text + 1, NULL, 10) : 0) - after;
    while (n && d.digits[n - 1] == '0') {
        n--;
        d.exponent++;
    }
    d.digits[n] = 0;
    if (!n) {
        d.negative = false;
        d.exponent = 0;
    }
    return d;
}

/* -1, 0, 1 for magnitudes. */
static int compare_magnitude(const struct decimal *a, const struct decimal *b) {
    size_t na = strlen(a->digits), nb = strlen(b->digits);
    if (!na || !nb)
        return (na > 0) - (nb > 0);
    long top_a = (long)na + a->exponent, top_b = (long)nb + b->exponent;
    if (top_a != top_b)
        return top_a < top_b ? -1 : 1;
    int c = strcmp(a->digits, b->digits);
    return (c > 0) - (c < 0);
}

static int compare_numbers(const struct doc *x, const struct doc *y) {
    struct decimal a = decimal_of(x->text), b = decimal_of(y->text);
    int c = a.negative != b.negative
                ? (a.negative ? -1 : 1)
                : (a.negative ? -compare_magnitude(&a, &b) : compare_magnitude(&a, &b));
    free(a.digits);
    free(b.digits);
    return c;
}

static bool is_integer(const struct doc *x) {
    struct decimal d = decimal_of(x->text);
    bool integer = d.exponent >= 0;
    free(d.digits);
    return integer;
}

/* Whether x / m is whole: long division, digit by digit, of x's digits by m's (at most 18). */
static enum verdict is_multiple(const struct doc *x, const struct doc *m) {
    struct decimal a = decimal_of(x->text), b = decimal_of(m->text);
    enum verdict v = UNDECIDED;
    long shift = a.exponent - b.exponent;
    if (!a.digits[0]) {
        v = VALID;
    } else if (shift < 0) {
        v = INVALID; /* a multiple of m has no digits below m's last */
    } else if (strlen(b.digits) <= 18 && shift < MAX_DIGITS) {
        unsigned __int128 divisor = strtoull(b.digits, NULL, 10), rest = 0;
        for (const char *p = a.digits; *p; p++)
            rest = (rest * 10 + (unsigned)(*p - '0')) % divisor;
        for (long i = 0; i < shift; i++)
            rest = rest * 10 % divisor;
        v = rest ? INVALID : VALID;
    }
    free(a.digits);
    free(b.digits);
    return v;
}

bool doc_equal(const struct doc *a, const struct doc *b) {
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case DOC_NUMBER:
        return compare_numbers(a, b) == 0;
    case DOC_STRING:
        return a->n == b->n && !memcmp(a->text, b->text, a->n);
    case DOC_ARRAY:
        for (size_t i = 0; a->n == b->n && i < a->n; i++)
            if (!doc_equal(a->items[i], b->items[i]))
                return false;
        return a->n == b->n;
    case DOC_OBJECT:
        for (size_t i = 0; a->n == b->n && i < a->n; i++) {
            const struct doc *other = get_n(b, a->keys[i], a->key_n[i]);
            if (!other || !doc_equal(a->items[i], other))
                return false;
        }
        return a->n == b->n;
    default:
        return true;
    }
}

/* ---- Strings ---- */

static size_t code_points(const struct doc *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        n += ((unsigned char)s->text[i] & 0xC0) != 0x80;
    return n;
}

static enum verdict has_match(const struct doc *pattern, const char *text, size_t n) {
    int code;
    PCRE2_SIZE where;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)pattern->text, pattern->n,
                      PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_ALT_BSUX | PCRE2_NEVER_BACKSLASH_C,
                      &code, &where, NULL);
    if (!re)
        return UNDECIDED;
    pcre2_match_data *match = must(pcre2_match_data_create_from_pattern(re, NULL));
    int found = pcre2_match(re, (PCRE2_SPTR)text, n, 0, 0, match, NULL);
    pcre2_match_data_free(match);
    pcre2_code_free(re);
    return found >= 0 ? VALID : found == PCRE2_ERROR_NOMATCH ? INVALID : UNDECIDED;
}

static bool all_digits(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return false;
    return true;
}

static bool is_date(const char *s, size_t n) {
    if (n != 10 || s[4] != '-' || s[7] != '-' || !all_digits(s, 4) || !all_digits(s + 5, 2) ||
        !all_digits(s + 8, 2))
        return false;
    int y = atoi(s), m = atoi(s + 5), d = atoi(s + 8);
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (m < 1 || m > 12)
        return false;
    return d >= 1 && d <= days[m - 1] + (m == 2 && y % 4 == 0 && (y % 100 || y % 400 == 0));
}

static bool is_time(const char *s, size_t n) {
    if (n < 9 || !all_digits(s, 2) || s[2] != ':' || !all_digits(s + 3, 2) || s[5] != ':' ||
        !all_digits(s + 6, 2))
        return false;
    int h = atoi(s), m = atoi(s + 3), sec = atoi(s + 6), ahead = 0;
    size_t i = 8;
    if (s[i] == '.') {
        size_t from = ++i;
        while (i < n && s[i] >= '0' && s[i] <= '9')
            i++;
        if (i == from)
            return false;
    }
    if (i + 1 == n && (s[i] | 32) == 'z') {
    } else if (i + 6 == n && (s[i] == '+' || s[i] == '-') && all_digits(s + i + 1, 2) &&
               s[i + 3] == ':' && all_digits(s + i + 4, 2)) {
        int oh = atoi(s + i + 1), om = atoi(s + i + 4);
        if (oh > 23 || om > 59)
            return false;
        ahead = (s[i] == '-' ? -1 : 1) * (60 * oh + om);
    } else {
        return false;
    }
    if (h > 23 || m > 59 || sec > 60)
        return false;
    return sec < 60 || (60 * h + m - ahead + 2880) % 1440 == 1439;
}

static bool is_uuid(const char *s, size_t n) {
    if (n != 36)
        return false;
    for (size_t i = 0; i < n; i++) {
        bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (hyphen ? s[i] != '-' : !strchr("0123456789abcdefABCDEF", s[i]) || !s[i])
            return false;
    }
    return true;
}

static bool fits_format(const char *format, const struct doc *s) {
    unsigned char address[16];
    const char *t = s->text;
    bool nul = memchr(t, 0, s->n) != NULL;
    if (!strcmp(format, "date"))
        return is_date(t, s->n);
    if (!strcmp(format, "time"))
        return is_time(t, s->n);
    if (!strcmp(format, "date-time"))
        return s->n > 11 && is_date(t, 10) && (t[10] | 32) == 't' && is_time(t + 11, s->n - 11);
    if (!strcmp(format, "ipv4"))
        return !nul && inet_pton(AF_INET, t, address) == 1;
    if (!strcmp(format, "ipv6"))
        return !nul && inet_pton(AF_INET6, t, address) == 1;
    if (!strcmp(format, "uuid"))
        return is_uuid(t, s->n);
    return true;
}

/* ---- Schemas ---- */

struct check {
    const struct doc *root;
    bool draft7;
    long steps;
    int depth;
};

static enum verdict validate(struct check *c, const struct doc *schema, const struct doc *value);

static enum verdict both(enum verdict a, enum verdict b) {
    return a == INVALID || b == INVALID       ? INVALID
           : a == UNDECIDED || b == UNDECIDED ? UNDECIDED
                                              : VALID;
}

static enum verdict either(enum verdict a, enum verdict b) {
    return a == VALID || b == VALID           ? VALID
           : a == UNDECIDED || b == UNDECIDED ? UNDECIDED
                                              : INVALID;
}

static enum verdict inverse(enum verdict a) {
    return a == VALID ? INVALID : a == INVALID ? VALID : UNDECIDED;
}

static enum verdict says(bool valid) {
    return valid ? VALID : INVALID;
}

/* A number keyword's value as a count; -1 if it is not there. */
static long count_of(const struct doc *schema, const char *key) {
    const struct doc *n = doc_get(schema, key);
    return n ? (long)strtod(n->text, NULL) : -1;
}

static bool has_type(const char *type, const struct doc *v) {
    static const char *const names[] = {"null",   "boolean", "boolean", "number",
                                        "string", "array",   "object"};
    return !strcmp(type, names[v->kind]) ||
           (!strcmp(type, "integer") && v->kind == DOC_NUMBER && is_integer(v));
}

static enum verdict check_type(const struct doc *type, const struct doc *v) {
    if (type->kind == DOC_STRING)
        return says(has_type(type->text, v));
    bool any = false;
    for (size_t i = 0; i < type->n; i++)
        any |= has_type(type->items[i]->text, v);
    return says(any);
}

static enum verdict check_number(const struct doc *s, const struct doc *v) {
    enum verdict r = VALID;
    const struct doc *k;
    if ((k = doc_get(s, "minimum")))
        r = both(r, says(compare_numbers(v, k) >= 0));
    if ((k = doc_get(s, "maximum")))
        r = both(r, says(compare_numbers(v, k) <= 0));
    if ((k = doc_get(s, "exclusiveMinimum")))
        r = both(r, says(compare_numbers(v, k) > 0));
    if ((k = doc_get(s, "exclusiveMaximum")))
        r = both(r, says(compare_numbers(v, k) < 0));
    if ((k = doc_get(s, "multipleOf")))
        r = both(r, is_multiple(v, k));
    return r;
}

static enum verdict check_string(const struct doc *s, const struct doc *v) {
    enum verdict r = VALID;
    const struct doc *k;
    long least = count_of(s, "minLength"), most = count_of(s, "maxLength"),
         n = (long)code_points(v);
    r = says(n >= least && (most < 0 || n <= most));
    if ((k = doc_get(s, "pattern")))
        r = both(r, has_match(k, v->text, v->n));
    if ((k = doc_get(s, "format")))
        r = both(r, says(fits_format(k->text, v)));
    return r;
}

static enum verdict check_contains(struct check *c, const struct doc *s, const struct doc *v) {
    const struct doc *contains = doc_get(s, "contains");
    long least = count_of(s, "minContains"), most = count_of(s, "maxContains"), yes = 0,
         perhaps = 0;
    if (!contains)
        return VALID;
    if (c->draft7)
        least = most = -1;
    least = least < 0 ? 1 : least;
    for (size_t i = 0; i < v->n; i++) {
        enum verdict one = validate(c, contains, v->items[i]);
        yes += one == VALID;
        perhaps += one == UNDECIDED;
    }
    if (yes + perhaps < least || (most >= 0 && yes > most))
        return INVALID;
    return perhaps && (yes < least || (most >= 0 && yes + perhaps > most)) ? UNDECIDED : VALID;
}

static enum verdict check_array(struct check *c, const struct doc *s, const struct doc *v) {
    long least = count_of(s, "minItems"), most = count_of(s, "maxItems"), n = (long)v->n;
    enum verdict r = says(n >= least && (most < 0 || n <= most));
    const struct doc *items = doc_get(s, "items"), *prefix = doc_get(s, "prefixItems"),
                     *unique = doc_get(s, "uniqueItems");
    if (c->draft7) {
        prefix = items && items->kind == DOC_ARRAY ? items : NULL;
        items = prefix ? doc_get(s, "additionalItems") : items;
    }
    for (size_t i = 0; i < v->n; i++) {
        const struct doc *of = prefix && i < prefix->n ? prefix->items[i] : items;
        if (of)
            r = both(r, validate(c, of, v->items[i]));
    }
    if (unique && unique->kind == DOC_TRUE)
        for (size_t i = 0; i < v->n; i++)
            for (size_t j = 0; j < i; j++)
                r = both(r, says(!doc_equal(v->items[i], v->items[j])));
    return both(r, check_contains(c, s, v));
}

static enum verdict check_member(struct check *c, const struct doc *s, const char *key,
                                 size_t key_n, const struct doc *v) {
    const struct doc *properties = doc_get(s, "properties"),
                     *patterns = doc_get(s, "patternProperties"),
                     *rest = doc_get(s, "additionalProperties"),
                     *names = doc_get(s, "propertyNames");
    const struct doc *own = properties ? get_n(properties, key, key_n) : NULL;
    enum verdict r = own ? validate(c, own, v) : VALID;
    bool named = own != NULL;
    for (size_t i = 0; patterns && i < patterns->n; i++) {
        struct doc pattern = {.text = patterns->keys[i], .n = patterns->key_n[i]};
        enum verdict match = has_match(&pattern, key, key_n);
        if (match == UNDECIDED)
            return UNDECIDED;
        if (match == VALID) {
            named = true;
            r = both(r, validate(c, patterns->items[i], v));
        }
    }
    if (!named && rest)
        r = both(r, validate(c, rest, v));
    if (names) {
        struct doc name = {.kind = DOC_STRING, .text = (char *)key, .n = key_n};
        r = both(r, validate(c, names, &name));
    }
    return r;
}

static enum verdict require_keys(const struct doc *keys, const struct doc *v) {
    enum verdict r = VALID;
    for (size_t i = 0; keys && i < keys->n; i++)
        r = both(r, says(get_n(v, keys->items[i]->text, keys->items[i]->n) != NULL));
    return r;
}

static enum verdict check_object(struct check *c, const struct doc *s, const struct doc *v) {
    long least = count_of(s, "minProperties"), most = count_of(s, "maxProperties"), n = (long)v->n;
    enum verdict r =
        both(says(n >= least && (most < 0 || n <= most)), require_keys(doc_get(s, "required"), v));
    for (size_t i = 0; i < v->n; i++)
        r = both(r, check_member(c, s, v->keys[i], v->key_n[i], v->items[i]));
    static const char *const dependencies[] = {"dependencies", "dependentRequired",
                                               "dependentSchemas"};
    for (int k = 0; k < 3; k++) {
        const struct doc *d = doc_get(s, dependencies[k]);
        for (size_t i = 0; d && i < d->n; i++)
            if (get_n(v, d->keys[i], d->key_n[i]))
                r = both(r, d->items[i]->kind == DOC_ARRAY ? require_keys(d->items[i], v)
                                                           : validate(c, d->items[i], v));
    }
    return r;
}

static enum verdict check_logic(struct check *c, const struct doc *s, const struct doc *v) {
    const struct doc *all = doc_get(s, "allOf"), *any = doc_get(s, "anyOf"),
                     *one = doc_get(s, "oneOf"), *not = doc_get(s, "not"), *test = doc_get(s, "if"),
                     *branch;
    enum verdict r = VALID, some = INVALID;
    for (size_t i = 0; all && i < all->n; i++)
        r = both(r, validate(c, all->items[i], v));
    for (size_t i = 0; any && i < any->n; i++)
        some = either(some, validate(c, any->items[i], v));
    if (any)
        r = both(r, some);
    if (one) {
        size_t yes = 0, perhaps = 0;
        for (size_t i = 0; i < one->n; i++) {
            enum verdict w = validate(c, one->items[i], v);
            yes += w == VALID;
            perhaps += w == UNDECIDED;
        }
        r = both(r, yes > 1 || yes + perhaps == 0 ? INVALID : perhaps ? UNDECIDED : VALID);
    }
    if (not )
        r = both(r, inverse(validate(c, not, v)));
    if (test) {
        enum verdict w = validate(c, test, v);
        if (w == UNDECIDED)
            return both(r, UNDECIDED);
        branch = doc_get(s, w == VALID ? "then" : "else");
        if (branch)
            r = both(r, validate(c, branch, v));
    }
    return r;
}

/* "#" and JSON pointers within the document. */
static const struct doc *resolve(const struct doc *root, const char *ref) {
    if (*ref++ != '#')
        return NULL;
    const struct doc *at = root;
    while (*ref == '/' && at) {
        char part[256];
        size_t n = 0;
        for (ref++; *ref && *ref != '/' && n + 1 < sizeof part; ref++) {
            int c = *ref;
            if (c == '~') {
                c = *++ref == '0' ? '~' : '/';
            } else if (c == '%') {
                char code[3] = {ref[1], ref[1] ? ref[2] : 0, 0};
                c = (int)strtol(code, NULL, 16);
                ref += strlen(code);
            }
            part[n++] = (char)c;
        }
        part[n] = 0;
        if (at->kind == DOC_ARRAY)
            at = (size_t)atoi(part) < at->n ? at->items[atoi(part)] : NULL;
        else
            at = doc_get(at, part);
    }
    return *ref ? NULL : at;
}

static bool unknown_keyword(const struct doc *s) {
    static const char *const keywords[] = {
        "$dynamicRef", "$recursiveRef", "unevaluatedItems", "unevaluatedProperties", "$id",
        "id",          "$anchor",       "$vocabulary"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (doc_get(s, keywords[i]))
            return true;
    return false;
}

static enum verdict check_schema(struct check *c, const struct doc *s, const struct doc *v) {
    const struct doc *k;
    enum verdict r = VALID;
    if (s->kind == DOC_TRUE || s->kind == DOC_FALSE)
        return says(s->kind == DOC_TRUE);
    if (s->kind != DOC_OBJECT || unknown_keyword(s))
        return UNDECIDED;
    if ((k = doc_get(s, "$ref"))) {
        const struct doc *target = resolve(c->root, k->text);
        r = target ? validate(c, target, v) : UNDECIDED;
        if (c->draft7)
            return r;
    }
    if ((k = doc_get(s, "type")))
        r = both(r, check_type(k, v));
    if ((k = doc_get(s, "const")))
        r = both(r, says(doc_equal(k, v)));
    if ((k = doc_get(s, "enum"))) {
        bool any = false;
        for (size_t i = 0; i < k->n; i++)
            any |= doc_equal(k->items[i], v);
        r = both(r, says(any));
    }
    if (v->kind == DOC_NUMBER)
        r = both(r, check_number(s, v));
    if (v->kind == DOC_STRING)
        r = both(r, check_string(s, v));
    if (v->kind == DOC_ARRAY)
        r = both(r, check_array(c, s, v));
    if (v->kind == DOC_OBJECT)
        r = both(r, check_object(c, s, v));
    return both(r, check_logic(c, s, v));
}

static enum verdict validate(struct check *c, const struct doc *schema, const struct doc *value) {
    if (c->depth >= MAX_DEPTH || ++c->steps > MAX_STEPS)
        return UNDECIDED;
    c->depth++;
    enum verdict r = check_schema(c, schema, value);
    c->depth--;
    return r;
}

enum verdict doc_validate(const struct doc *schema, const struct doc *value) {
    const struct doc *draft = doc_get(schema, "$schema");
    struct check c = {.root = schema, .draft7 = draft && strstr(draft->text, "draft-0")};
    return validate(&c, schema, value);
}
