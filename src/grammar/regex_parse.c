/* The grammar is that of ECMA-262, section 22.2.1 and Annex B.1.2. Captures are not needed, so that
 * all groups are alike; greed does not change what is matched. */
#include "grammar/regex_parse.h"

#include "base/utf8.h"

#include <string.h>

struct parser {
    const char *text;
    size_t n, at;
    bool unicode; /* the u flag */
    uint32_t groups;
    bool named_groups;
    int depth;
    struct nb_arena *arena;
    struct nb_error *err;
    struct nb_cp_set set; /* being built; one at a time */
};

static enum nb_status parse_disjunction(struct parser *p, struct nb_re **out);

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum nb_status try_status = (call);                                                        \
        if (try_status != NB_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

static enum nb_status bad(struct parser *p, size_t at, const char *what) {
    return nb_fail(p->err, NB_ERR_FORMAT, "byte %zu of the pattern: %s", at, what);
}

static bool more(const struct parser *p) {
    return p->at < p->n;
}

/* The byte `ahead` from here, or 0 beyond the end; a NUL in the pattern is not looked for. */
static char peek(const struct parser *p, size_t ahead) {
    return ahead < p->n - p->at ? p->text[p->at + ahead] : 0;
}

static bool take(struct parser *p, char c) {
    if (!more(p) || p->text[p->at] != c)
        return false;
    p->at++;
    return true;
}

static bool take_text(struct parser *p, const char *text) {
    size_t len = strlen(text);
    if (p->n - p->at < len || memcmp(p->text + p->at, text, len) != 0)
        return false;
    p->at += len;
    return true;
}

/* The pattern is UTF-8, checked before. */
static uint32_t take_code_point(struct parser *p) {
    uint32_t cp = 0;
    p->at += nb_utf8_decode(p->text + p->at, p->n - p->at, &cp);
    return cp;
}

static struct nb_re *new_node(struct parser *p, enum nb_re_kind kind, size_t at) {
    struct nb_re *re = nb_arena_alloc(p->arena, 1, sizeof *re);
    if (re) {
        re->kind = kind;
        re->at = (uint32_t)at;
    }
    return re;
}

static enum nb_status no_memory(struct parser *p) {
    return nb_fail_memory(p->err, sizeof(struct nb_re), "a pattern");
}

/* A node of p->set, which is emptied. Surrogates are in no text. */
static enum nb_status set_node(struct parser *p, size_t at, struct nb_re **out) {
    struct nb_re *re = new_node(p, NB_RE_SET, at);
    nb_cp_normalize(&p->set);
    /* One more than there are: the surrogates may cut a range in two. */
    struct nb_cp_range *ranges = nb_arena_alloc(p->arena, (size_t)p->set.n + 1, sizeof *ranges);
    if (!re || !ranges || p->set.failed)
        return no_memory(p);
    for (uint32_t i = 0; i < p->set.n; i++) {
        struct nb_cp_range r = p->set.ranges[i];
        if (r.hi < 0xD800 || r.lo > 0xDFFF) {
            ranges[re->n_ranges++] = r;
            continue;
        }
        if (r.lo < 0xD800)
            ranges[re->n_ranges++] = (struct nb_cp_range){r.lo, 0xD7FF};
        if (r.hi > 0xDFFF)
            ranges[re->n_ranges++] = (struct nb_cp_range){0xE000, r.hi};
    }
    re->ranges = ranges;
    nb_cp_clear(&p->set);
    *out = re;
    return NB_OK;
}

/* ---- Escapes ---- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Exactly `digits` hexadecimal digits; nothing is taken if they are not there. */
static bool take_hex(struct parser *p, int digits, uint32_t *value) {
    uint32_t v = 0;
    for (int i = 0; i < digits; i++) {
        int d = hex_digit(peek(p, (size_t)i));
        if (d < 0)
            return false;
        v = v << 4 | (uint32_t)d;
    }
    p->at += (size_t)digits;
    *value = v;
    return true;
}

/* What follows \u. */
static enum nb_status take_unicode_escape(struct parser *p, size_t start, uint32_t *cp) {
    uint32_t low;
    if (p->unicode && take(p, '{')) {
        uint32_t v = 0;
        size_t digits = 0;
        for (int d; (d = hex_digit(peek(p, 0))) >= 0 && v <= NB_MAX_CODEPOINT; digits++, p->at++)
            v = v << 4 | (uint32_t)d;
        if (!digits || v > NB_MAX_CODEPOINT || !take(p, '}'))
            return bad(p, start, "\\u{…} needs hexadecimal digits up to 10FFFF and a }");
        *cp = v;
        return NB_OK;
    }
    if (!take_hex(p, 4, cp)) {
        if (p->unicode)
            return bad(p, start, "\\u needs four hexadecimal digits, or digits in braces");
        *cp = 'u';
        return NB_OK;
    }
    if (*cp >= 0xD800 && *cp < 0xDC00 && peek(p, 0) == '\\' && peek(p, 1) == 'u') {
        size_t before = p->at;
        p->at += 2;
        if (take_hex(p, 4, &low) && low >= 0xDC00 && low < 0xE000)
            *cp = 0x10000 + ((*cp - 0xD800) << 10) + (low - 0xDC00);
        else
            p->at = before;
    }
    return NB_OK;
}

/* Annex B: \1 to \377 in octal, where they are no reference. */
static uint32_t take_octal(struct parser *p) {
    uint32_t v = 0;
    for (int i = 0; i < 3; i++) {
        char c = peek(p, 0);
        if (c < '0' || c > '7' || v * 8 + (uint32_t)(c - '0') > 0377)
            break;
        v = v * 8 + (uint32_t)(c - '0');
        p->at++;
    }
    return v;
}

static enum nb_status backreference(struct parser *p, size_t start) {
    return nb_fail(p->err, NB_ERR_UNSUPPORTED,
                   "byte %zu of the pattern: a backreference; no automaton can follow it, so write "
                   "out what the group may be",
                   start);
}

/* A digit follows the backslash. */
static enum nb_status take_decimal_escape(struct parser *p, size_t start, bool in_class,
                                          uint32_t *cp) {
    char c = peek(p, 0), after = peek(p, 1);
    if (c == '0' && !(after >= '0' && after <= '9')) {
        p->at++;
        *cp = 0;
        return NB_OK;
    }
    uint32_t number = 0;
    size_t digits = 0;
    for (char d; (d = peek(p, digits)) >= '0' && d <= '9' && number < 100000; digits++)
        number = number * 10 + (uint32_t)(d - '0');
    if (!in_class && c != '0' && number <= p->groups)
        return backreference(p, start);
    if (p->unicode)
        return bad(p, start,
                   c == '0' || in_class ? "a decimal escape; only \\0 is one"
                                        : "a reference to a group that is not there");
    if (c >= '8') {
        p->at++;
        *cp = (uint32_t)c;
    } else {
        *cp = take_octal(p);
    }
    return NB_OK;
}

/* \p{…} and \P{…}; *taken is false where that is, without the u flag, only the letter. */
static enum nb_status take_property(struct parser *p, size_t start, bool *taken) {
    bool negated = peek(p, 0) == 'P';
    const char *close = peek(p, 1) == '{' ? memchr(p->text + p->at, '}', p->n - p->at) : NULL;
    *taken = close != NULL;
    if (!close)
        return p->unicode ? bad(p, start, "\\p needs a property in braces") : NB_OK;
    const char *name = p->text + p->at + 2;
    struct nb_cp_set property = {0};
    struct nb_error err;
    enum nb_status s = nb_cp_add_property(&property, name, (size_t)(close - name), &err);
    if (s == NB_OK) {
        if (negated)
            nb_cp_invert(&property);
        nb_cp_add_set(&p->set, &property);
        p->at = (size_t)(close - p->text) + 1;
    } else if (s == NB_ERR_FORMAT && !p->unicode) {
        *taken = false;
        s = NB_OK;
    } else {
        nb_fail(p->err, s, "byte %zu of the pattern: %s", start, err.message);
    }
    nb_cp_free(&property);
    return s;
}

/* An escape, after its backslash at `start`. *is_class: it was a class, now in p->set; else it is
 * the code point *cp. */
static enum nb_status take_escape(struct parser *p, size_t start, bool in_class, bool *is_class,
                                  uint32_t *cp) {
    *is_class = false;
    if (!more(p))
        return bad(p, start, "a backslash at the end");
    char c = peek(p, 0);
    if (c >= '0' && c <= '9')
        return take_decimal_escape(p, start, in_class, cp);
    switch (c) {
    case 'd':
    case 'D':
    case 's':
    case 'S':
    case 'w':
    case 'W':
        p->at++;
        nb_cp_add_class(&p->set, c);
        *is_class = true;
        return NB_OK;
    case 'p':
    case 'P':
        TRY(take_property(p, start, is_class));
        if (*is_class)
            return NB_OK;
        break;
    case 'f':
    case 'n':
    case 'r':
    case 't':
    case 'v':
        p->at++;
        *cp = c == 'f' ? 0x0C : c == 'n' ? 0x0A : c == 'r' ? 0x0D : c == 't' ? 0x09 : 0x0B;
        return NB_OK;
    case 'c': {
        char letter = peek(p, 1);
        bool alpha = (letter | 0x20) >= 'a' && (letter | 0x20) <= 'z';
        if (!alpha && !p->unicode && in_class &&
            (letter == '_' || (letter >= '0' && letter <= '9')))
            alpha = true;
        if (alpha) {
            p->at += 2;
            *cp = (uint32_t)letter & 0x1F;
            return NB_OK;
        }
        if (p->unicode)
            return bad(p, start, "\\c needs a letter");
        *cp = '\\'; /* and the c is read next, for itself */
        return NB_OK;
    }
    case 'x':
        p->at++;
        if (take_hex(p, 2, cp))
            return NB_OK;
        if (p->unicode)
            return bad(p, start, "\\x needs two hexadecimal digits");
        *cp = 'x';
        return NB_OK;
    case 'u':
        p->at++;
        return take_unicode_escape(p, start, cp);
    case 'k':
        if (!in_class && (p->unicode || p->named_groups))
            return peek(p, 1) == '<' && p->named_groups
                       ? backreference(p, start)
                       : bad(p, start, "\\k needs the name of a group");
        break;
    }
    if (p->unicode && !(c && strchr("^$\\.*+?()[]{}|/", c)) && !(in_class && c == '-'))
        return bad(p, start, "an escape that means nothing");
    *cp = take_code_point(p);
    return NB_OK;
}

/* ---- Classes ---- */

/* One element; a class went into p->set already. */
static enum nb_status take_class_atom(struct parser *p, bool *is_class, uint32_t *cp) {
    size_t start = p->at;
    *is_class = false;
    if (!take(p, '\\')) {
        *cp = take_code_point(p);
        return NB_OK;
    }
    if (take(p, 'b')) {
        *cp = 0x08;
        return NB_OK;
    }
    return take_escape(p, start, true, is_class, cp);
}

/* After the bracket at `start`. */
static enum nb_status parse_class(struct parser *p, size_t start, struct nb_re **out) {
    bool negated = take(p, '^');
    nb_cp_clear(&p->set);
    while (!take(p, ']')) {
        if (!more(p))
            return bad(p, start, "a class whose ] is missing");
        size_t at = p->at;
        bool lo_class, hi_class;
        uint32_t lo = 0, hi = 0;
        TRY(take_class_atom(p, &lo_class, &lo));
        if (peek(p, 0) != '-' || peek(p, 1) == ']' || p->n - p->at < 2) {
            if (!lo_class)
                nb_cp_add(&p->set, lo, lo);
            continue;
        }
        p->at++;
        TRY(take_class_atom(p, &hi_class, &hi));
        if (lo_class || hi_class) {
            if (p->unicode)
                return bad(p, at, "a range that begins or ends in a class");
            nb_cp_add(&p->set, '-', '-');
            if (!lo_class)
                nb_cp_add(&p->set, lo, lo);
            if (!hi_class)
                nb_cp_add(&p->set, hi, hi);
        } else {
            if (lo > hi)
                return bad(p, at, "a range whose end is before its beginning");
            nb_cp_add(&p->set, lo, hi);
        }
    }
    nb_cp_normalize(&p->set);
    if (negated)
        nb_cp_invert(&p->set);
    return set_node(p, start, out);
}

/* ---- Terms ---- */

/* {n}, {n,} or {n,m} here; nothing is taken where it is none. */
static bool take_braces(struct parser *p, uint32_t *min, uint32_t *max) {
    size_t before = p->at;
    uint64_t bound[2] = {0, 0};
    size_t digits[2] = {0, 0};
    int which = 0;
    p->at++;
    for (;; p->at++) {
        char c = peek(p, 0);
        if (c >= '0' && c <= '9') {
            bound[which] = bound[which] * 10 + (uint64_t)(c - '0');
            if (bound[which] > UINT32_MAX - 1)
                bound[which] = UINT32_MAX - 1;
            digits[which]++;
        } else if (c == ',' && which == 0 && digits[0]) {
            which = 1;
        } else {
            break;
        }
    }
    if (!digits[0] || !take(p, '}')) {
        p->at = before;
        return false;
    }
    *min = (uint32_t)bound[0];
    *max = which == 0 ? *min : digits[1] ? (uint32_t)bound[1] : NB_RE_NO_MAX;
    return true;
}

/* Puts a quantifier, if one follows, around *re, which began at `start`. */
static enum nb_status parse_quantifier(struct parser *p, size_t start, struct nb_re **re) {
    uint32_t min, max;
    size_t at = p->at;
    if (take(p, '*'))
        min = 0, max = NB_RE_NO_MAX;
    else if (take(p, '+'))
        min = 1, max = NB_RE_NO_MAX;
    else if (take(p, '?'))
        min = 0, max = 1;
    else if (peek(p, 0) != '{' || !take_braces(p, &min, &max))
        return NB_OK;
    take(p, '?');
    if (min > max)
        return bad(p, at, "a quantifier whose bounds are the wrong way round");
    struct nb_re *repeat = new_node(p, NB_RE_REPEAT, start);
    if (!repeat)
        return no_memory(p);
    repeat->min = min;
    repeat->max = max;
    repeat->child = *re;
    *re = repeat;
    return NB_OK;
}

static bool is_name_byte(char c) {
    return c == '_' || c == '$' || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || (unsigned char)c >= 0x80;
}

/* After "(?<" at `start`: the name and the ">". */
static enum nb_status take_group_name(struct parser *p, size_t start) {
    size_t len = 0;
    while (is_name_byte(peek(p, len)) || peek(p, len) == '\\' || peek(p, len) == '{' ||
           peek(p, len) == '}')
        len++;
    if (!len || peek(p, len) != '>' || (peek(p, 0) >= '0' && peek(p, 0) <= '9'))
        return bad(p, start, "a group whose name is missing or not closed by >");
    p->at += len + 1;
    return NB_OK;
}

/* After the parenthesis at `start`. *assertion: a lookaround. */
static enum nb_status parse_group(struct parser *p, size_t start, struct nb_re **out,
                                  bool *assertion) {
    bool negated = false, behind = false;
    *assertion = false;
    if (take(p, '?')) {
        if (take(p, ':')) {
        } else if (take(p, '=') || (negated = take(p, '!'))) {
            *assertion = true;
        } else if (take_text(p, "<=") || (negated = take_text(p, "<!"))) {
            *assertion = behind = true;
        } else if (take(p, '<')) {
            TRY(take_group_name(p, start));
        } else if (peek(p, 0) && strchr("imsxaLu-", peek(p, 0))) {
            return nb_fail(p->err, NB_ERR_UNSUPPORTED,
                           "byte %zu of the pattern: flags inside a pattern, which ECMA-262's "
                           "patterns for schemas do not have; write [Aa] for both cases",
                           start);
        } else {
            return bad(p, start, "a group that begins with an unknown (?");
        }
    }
    if (++p->depth > NB_RE_MAX_DEPTH)
        return nb_fail(p->err, NB_ERR_LIMIT, "byte %zu of the pattern: more than %d groups deep",
                       start, NB_RE_MAX_DEPTH);
    struct nb_re *child = NULL;
    TRY(parse_disjunction(p, &child));
    p->depth--;
    if (!take(p, ')'))
        return bad(p, start, "a ( that is never closed");
    if (!*assertion) {
        *out = child;
        return NB_OK;
    }
    struct nb_re *look = new_node(p, NB_RE_LOOK, start);
    if (!look)
        return no_memory(p);
    look->negated = negated;
    look->behind = behind;
    look->child = child;
    *out = look;
    return NB_OK;
}

static enum nb_status single(struct parser *p, size_t start, uint32_t cp, struct nb_re **out) {
    nb_cp_clear(&p->set);
    nb_cp_add(&p->set, cp, cp);
    return set_node(p, start, out);
}

static enum nb_status parse_dot(struct parser *p, size_t start, struct nb_re **out) {
    nb_cp_clear(&p->set);
    nb_cp_add(&p->set, 0, 0x09);
    nb_cp_add(&p->set, 0x0B, 0x0C);
    nb_cp_add(&p->set, 0x0E, 0x2027);
    nb_cp_add(&p->set, 0x202A, NB_MAX_CODEPOINT);
    return set_node(p, start, out);
}

/* After a backslash at `start`, outside of a class. */
static enum nb_status parse_atom_escape(struct parser *p, size_t start, struct nb_re **out,
                                        bool *quantifiable) {
    char c = peek(p, 0);
    if (more(p) && (c == 'b' || c == 'B')) {
        p->at++;
        *quantifiable = false;
        *out = new_node(p, NB_RE_WORD, start);
        if (!*out)
            return no_memory(p);
        (*out)->negated = c == 'B';
        return NB_OK;
    }
    bool is_class;
    uint32_t cp = 0;
    nb_cp_clear(&p->set);
    TRY(take_escape(p, start, false, &is_class, &cp));
    return is_class ? set_node(p, start, out) : single(p, start, cp, out);
}

static enum nb_status parse_term(struct parser *p, struct nb_re **out) {
    size_t start = p->at;
    bool quantifiable = true, assertion = false;
    if (take(p, '^') || take(p, '$')) {
        *out = new_node(p, p->text[start] == '^' ? NB_RE_START : NB_RE_END, start);
        if (!*out)
            return no_memory(p);
        quantifiable = false;
    } else if (take(p, '(')) {
        TRY(parse_group(p, start, out, &assertion));
        quantifiable = !assertion || (!p->unicode && !(*out)->behind);
    } else if (take(p, '[')) {
        TRY(parse_class(p, start, out));
    } else if (take(p, '.')) {
        TRY(parse_dot(p, start, out));
    } else if (take(p, '\\')) {
        TRY(parse_atom_escape(p, start, out, &quantifiable));
    } else {
        char c = peek(p, 0);
        uint32_t min, max;
        if (more(p) && strchr("*+?", c) && c)
            return bad(p, start, "a quantifier with nothing before it");
        if (more(p) && c == '{' && !p->unicode && take_braces(p, &min, &max))
            return bad(p, start, "a quantifier with nothing before it");
        if (more(p) && p->unicode && c && strchr("{}]", c))
            return bad(p, start, "a bracket that stands alone and is not escaped");
        TRY(single(p, start, take_code_point(p), out));
    }
    size_t before = p->at;
    TRY(parse_quantifier(p, start, out));
    if (p->at != before && !quantifiable)
        return bad(p, before, "a quantifier after what has no length");
    return NB_OK;
}

static enum nb_status parse_alternative(struct parser *p, struct nb_re **out) {
    struct nb_re *first = NULL, **tail = &first;
    size_t start = p->at;
    while (more(p) && peek(p, 0) != '|' && peek(p, 0) != ')') {
        TRY(parse_term(p, tail));
        tail = &(*tail)->next;
    }
    if (first && !first->next) {
        *out = first;
        return NB_OK;
    }
    *out = new_node(p, first ? NB_RE_CAT : NB_RE_EMPTY, start);
    if (!*out)
        return no_memory(p);
    (*out)->child = first;
    return NB_OK;
}

static enum nb_status parse_disjunction(struct parser *p, struct nb_re **out) {
    struct nb_re *first = NULL, **tail = &first;
    size_t start = p->at;
    do {
        TRY(parse_alternative(p, tail));
        tail = &(*tail)->next;
    } while (take(p, '|'));
    if (!first->next) {
        *out = first;
        return NB_OK;
    }
    *out = new_node(p, NB_RE_ALT, start);
    if (!*out)
        return no_memory(p);
    (*out)->child = first;
    return NB_OK;
}

/* How many groups capture, and whether one has a name: what \1 and \k mean depends on them. */
static void count_groups(struct parser *p) {
    bool in_class = false;
    for (size_t i = 0; i < p->n; i++) {
        char c = p->text[i];
        if (c == '\\') {
            i++;
        } else if (c == '[') {
            in_class = true;
        } else if (c == ']') {
            in_class = false;
        } else if (c == '(' && !in_class) {
            bool special = i + 1 < p->n && p->text[i + 1] == '?';
            bool named = special && i + 3 < p->n && p->text[i + 2] == '<' &&
                         p->text[i + 3] != '=' && p->text[i + 3] != '!';
            p->groups += !special || named;
            p->named_groups |= named;
        }
    }
}

static enum nb_status parse_as(struct parser *p, bool unicode, struct nb_re **out) {
    p->unicode = unicode;
    p->at = 0;
    p->depth = 0;
    TRY(parse_disjunction(p, out));
    return more(p) ? bad(p, p->at, "a ) that closes nothing") : NB_OK;
}

enum nb_status nb_re_parse(const char *pattern, size_t n, struct nb_arena *arena,
                           struct nb_re **out, struct nb_error *err) {
    size_t where;
    if (n > NB_RE_MAX_BYTES)
        return nb_fail(err, NB_ERR_LIMIT, "a pattern of %zu bytes; the limit is %d", n,
                       NB_RE_MAX_BYTES);
    if (!nb_utf8_valid(pattern, n, &where))
        return nb_fail(err, NB_ERR_FORMAT, "byte %zu of the pattern is not UTF-8", where);
    struct parser p = {.text = pattern, .n = n, .arena = arena, .err = err};
    count_groups(&p);
    enum nb_status s = parse_as(&p, true, out);
    if (s == NB_ERR_FORMAT)
        s = parse_as(&p, false, out);
    nb_cp_free(&p.set);
    return s;
}
