#include "grammar/idna.h"

#include "grammar/codepoints.h"
#include "grammar/idna_tables.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- Punycode: RFC 3492, section 6 ---- */

enum { BASE = 36, T_MIN = 1, T_MAX = 26, SKEW = 38, DAMP = 700, BIAS = 72, FIRST = 0x80 };

static uint32_t adapt(uint32_t delta, uint32_t n_points, bool first) {
    uint32_t k = 0;
    delta = first ? delta / DAMP : delta / 2;
    delta += delta / n_points;
    for (; delta > (BASE - T_MIN) * T_MAX / 2; k += BASE)
        delta /= BASE - T_MIN;
    return k + (BASE - T_MIN + 1) * delta / (delta + SKEW);
}

static uint32_t threshold(uint32_t k, uint32_t bias) {
    return k <= bias + T_MIN ? T_MIN : k >= bias + T_MAX ? T_MAX : k - bias;
}

static int digit_value(char c) {
    return c >= 'a' && c <= 'z' ? c - 'a' : c >= '0' && c <= '9' ? c - '0' + 26 : -1;
}

static char digit(uint32_t value) {
    return (char)(value < 26 ? 'a' + value : '0' + (value - 26));
}

/* text[0..n) as code points; how many, or -1 if it is no Punycode. */
static int decode(const char *text, size_t n, uint32_t points[NB_IDNA_MAX_LABEL]) {
    uint32_t n_points = 0, code = FIRST, at = 0, bias = BIAS;
    size_t i = 0;
    for (size_t k = n; k-- > 0;)
        if (text[k] == '-') {
            for (; i < k; i++)
                points[n_points++] = (uint8_t)text[i];
            i++;
            break;
        }
    while (i < n) {
        uint64_t value = at, weight = 1;
        for (uint32_t k = BASE;; k += BASE) {
            int d = i < n ? digit_value(text[i++]) : -1;
            uint32_t t = threshold(k, bias);
            if (d < 0)
                return -1;
            value += (uint64_t)d * weight;
            if (value > UINT32_MAX)
                return -1;
            if ((uint32_t)d < t)
                break;
            weight *= BASE - t;
        }
        n_points++;
        bias = adapt((uint32_t)value - at, n_points, at == 0);
        uint64_t next = code + value / n_points;
        at = (uint32_t)(value % n_points);
        if (next > NB_MAX_CODEPOINT || (next >= 0xD800 && next <= 0xDFFF))
            return -1;
        code = (uint32_t)next;
        memmove(points + at + 1, points + at, (n_points - 1 - at) * sizeof *points);
        points[at++] = code;
    }
    return (int)n_points;
}

/* The other way, into out[0..cap); how many bytes, or -1 if they are more. */
static int encode(const uint32_t *points, uint32_t n, char *out, uint32_t cap) {
    uint32_t len = 0, done, bias = BIAS, code = FIRST;
    uint64_t delta = 0;
    for (uint32_t i = 0; i < n; i++)
        if (points[i] < FIRST && len < cap)
            out[len++] = (char)points[i];
    done = len;
    uint32_t n_basic = done;
    if (done && len < cap)
        out[len++] = '-';
    while (done < n) {
        uint32_t least = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++)
            if (points[i] >= code && points[i] < least)
                least = points[i];
        delta += (uint64_t)(least - code) * (done + 1);
        code = least;
        for (uint32_t i = 0; i < n; i++) {
            delta += points[i] < code;
            if (points[i] != code)
                continue;
            uint64_t q = delta;
            for (uint32_t k = BASE;; k += BASE) {
                uint32_t t = threshold(k, bias);
                if (len == cap)
                    return -1;
                if (q < t)
                    break;
                out[len++] = digit(t + (uint32_t)((q - t) % (BASE - t)));
                q = (q - t) / (BASE - t);
            }
            out[len++] = digit((uint32_t)q);
            bias = adapt((uint32_t)delta, done + 1, done == n_basic);
            delta = 0;
            done++;
        }
        delta++;
        code++;
    }
    return (int)len;
}

/* ---- Code points: RFC 5892 ---- */

enum property { PVALID, CONTEXT, DISALLOWED };

static bool is_in(const struct nb_cp_range *ranges, size_t n, uint32_t cp) {
    size_t a = 0, b = n;
    while (a < b) {
        size_t mid = (a + b) / 2;
        if (ranges[mid].hi < cp)
            a = mid + 1;
        else
            b = mid;
    }
    return a < n && ranges[a].lo <= cp;
}
#define IS_IN(table, cp) is_in(table, sizeof table / sizeof *table, cp)

/* Section 2.6. */
static bool exception(uint32_t cp, enum property *out) {
    static const struct {
        uint32_t lo, hi;
        enum property property;
    } exceptions[] = {
        {0x00B7, 0x00B7, CONTEXT},    {0x00DF, 0x00DF, PVALID},     {0x0375, 0x0375, CONTEXT},
        {0x03C2, 0x03C2, PVALID},     {0x05F3, 0x05F4, CONTEXT},    {0x0640, 0x0640, DISALLOWED},
        {0x0660, 0x0669, CONTEXT},    {0x06F0, 0x06F9, CONTEXT},    {0x06FD, 0x06FE, PVALID},
        {0x07FA, 0x07FA, DISALLOWED}, {0x0F0B, 0x0F0B, PVALID},     {0x3007, 0x3007, PVALID},
        {0x302E, 0x302F, DISALLOWED}, {0x3031, 0x3035, DISALLOWED}, {0x303B, 0x303B, DISALLOWED},
        {0x30FB, 0x30FB, CONTEXT},
    };
    for (size_t i = 0; i < sizeof exceptions / sizeof *exceptions; i++)
        if (cp >= exceptions[i].lo && cp <= exceptions[i].hi) {
            *out = exceptions[i].property;
            return true;
        }
    return false;
}

/* Whether folding case and compatible characters leaves a code point as it is (section 2.2). */
static bool is_stable(uint32_t cp) {
    uint8_t text[5] = {0}, *folded = NULL;
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)cp, text);
    utf8proc_ssize_t m = utf8proc_map(
        text, n, &folded, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD);
    bool same = m == n && memcmp(folded, text, (size_t)n) == 0;
    free(folded);
    return same;
}

/* Blocks, and the old Hangul Jamo (sections 2.4 and 2.9). */
static bool is_ignorable(uint32_t cp) {
    static const struct nb_cp_range blocks[] = {{0x1100, 0x11FF},   {0x20D0, 0x20FF},
                                                {0xA960, 0xA97C},   {0xD7B0, 0xD7FB},
                                                {0x1D100, 0x1D1FF}, {0x1D200, 0x1D24F}};
    return IS_IN(blocks, cp) || utf8proc_get_property((utf8proc_int32_t)cp)->ignorable;
}

static enum property property_of(uint32_t cp) {
    enum property property;
    if (exception(cp, &property))
        return property;
    if (cp < 0x80)
        return (cp >= 'a' && cp <= 'z') || (cp >= '0' && cp <= '9') || cp == '-' ? PVALID
                                                                                 : DISALLOWED;
    if (cp == 0x200C || cp == 0x200D)
        return CONTEXT;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
        return is_ignorable(cp) || !is_stable(cp) ? DISALLOWED : PVALID;
    default: /* among them what is not assigned */
        return DISALLOWED;
    }
}

/* ---- Rules for characters in their places: RFC 5892, appendix A ---- */

static bool is_transparent(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_MN;
}

static bool after_virama(const uint32_t *p, int at) {
    return at > 0 && utf8proc_get_property((utf8proc_int32_t)p[at - 1])->combining_class == 9;
}

/* Whether a zero width non-joiner parts what would be joined. */
static bool parts_joined(const uint32_t *p, int n, int at) {
    int before = at - 1, after = at + 1;
    while (before >= 0 && is_transparent(p[before]))
        before--;
    while (after < n && is_transparent(p[after]))
        after++;
    return before >= 0 && after < n && IS_IN(joins_left, p[before]) && IS_IN(joins_right, p[after]);
}

static bool any_between(const uint32_t *p, int n, uint32_t lo, uint32_t hi) {
    for (int i = 0; i < n; i++)
        if (p[i] >= lo && p[i] <= hi)
            return true;
    return false;
}

static bool may_stand(const uint32_t *p, int n, int at) {
    uint32_t cp = p[at], before = at > 0 ? p[at - 1] : 0, after = at + 1 < n ? p[at + 1] : 0;
    switch (cp) {
    case 0x200C:
        return after_virama(p, at) || parts_joined(p, n, at);
    case 0x200D:
        return after_virama(p, at);
    case 0x00B7:
        return before == 'l' && after == 'l';
    case 0x0375:
        return IS_IN(greek, after);
    case 0x05F3:
    case 0x05F4:
        return IS_IN(hebrew, before);
    case 0x30FB:
        for (int i = 0; i < n; i++)
            if (IS_IN(kana_or_han, p[i]))
                return true;
        return false;
    default: /* digits that go with Arabic */
        return cp <= 0x0669 ? !any_between(p, n, 0x06F0, 0x06F9)
                            : !any_between(p, n, 0x0660, 0x0669);
    }
}

/* ---- Right to left: RFC 5893, section 2 ---- */

static utf8proc_bidi_class_t bidi_of(uint32_t cp) {
    return (utf8proc_bidi_class_t)utf8proc_get_property((utf8proc_int32_t)cp)->bidi_class;
}

enum {
    L = 1 << UTF8PROC_BIDI_CLASS_L,
    R = 1 << UTF8PROC_BIDI_CLASS_R,
    AL = 1 << UTF8PROC_BIDI_CLASS_AL,
    AN = 1 << UTF8PROC_BIDI_CLASS_AN,
    EN = 1 << UTF8PROC_BIDI_CLASS_EN,
    NSM = 1 << UTF8PROC_BIDI_CLASS_NSM,
    ANYWHERE = EN | NSM | 1 << UTF8PROC_BIDI_CLASS_ES | 1 << UTF8PROC_BIDI_CLASS_CS |
               1 << UTF8PROC_BIDI_CLASS_ET | 1 << UTF8PROC_BIDI_CLASS_ON |
               1 << UTF8PROC_BIDI_CLASS_BN,
};

static bool directions_allowed(const uint32_t *p, int n) {
    uint32_t all = 0, last = 0, first = UINT32_C(1) << bidi_of(p[0]);
    for (int i = 0; i < n; i++) {
        uint32_t class = UINT32_C(1) << bidi_of(p[i]);
        all |= class;
        last = class != NSM ? class : last;
    }
    if (!(all & (R | AL | AN)))
        return true; /* not for such labels */
    if (first == L)
        return !(all & ~(uint32_t)(L | ANYWHERE)) && last & (L | EN);
    return first & (R | AL) && !(all & ~(uint32_t)(R | AL | AN | ANYWHERE)) &&
           last & (R | AL | EN | AN) && (all & (EN | AN)) != (EN | AN);
}

/* ---- Labels: RFC 5891, section 4.2 ---- */

/* Whether composing, as normalization form C does, leaves them as they are. */
static bool is_composed(const uint32_t *p, int n) {
    uint8_t text[4 * NB_IDNA_MAX_LABEL + 1], *composed = NULL;
    utf8proc_ssize_t len = 0;
    for (int i = 0; i < n; i++)
        len += utf8proc_encode_char((utf8proc_int32_t)p[i], text + len);
    utf8proc_ssize_t m = utf8proc_map(text, len, &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    bool same = m == len && memcmp(composed, text, (size_t)len) == 0;
    free(composed);
    return same;
}

static bool is_mark(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

static bool is_u_label(const uint32_t *p, int n) {
    bool ascii = true;
    if (n < 1 || p[0] == '-' || p[n - 1] == '-' || is_mark(p[0]) ||
        (n >= 4 && p[2] == '-' && p[3] == '-'))
        return false;
    for (int i = 0; i < n; i++) {
        enum property property = property_of(p[i]);
        if (property == DISALLOWED || (property == CONTEXT && !may_stand(p, n, i)))
            return false;
        ascii &= p[i] < 0x80;
    }
    return !ascii && is_composed(p, n) && directions_allowed(p, n);
}

bool nb_idna_a_label(const char *label, size_t n) {
    uint32_t points[NB_IDNA_MAX_LABEL];
    char again[NB_IDNA_MAX_LABEL];
    if (n < 5 || n > NB_IDNA_MAX_LABEL || memcmp(label, "xn--", 4) != 0)
        return false;
    int n_points = decode(label + 4, n - 4, points);
    if (n_points < 1 || !is_u_label(points, n_points))
        return false;
    int m = encode(points, (uint32_t)n_points, again, sizeof again);
    return m == (int)n - 4 && memcmp(again, label + 4, (size_t)m) == 0;
}

/* As nb_idna_complete, with `before` letters that are no ASCII before the label and one behind. */
static int complete_with(const char *label, size_t n, uint32_t before, char *out) {
    enum { LETTER = 0xE0 }; /* a with a grave accent */
    uint32_t points[NB_IDNA_MAX_LABEL + 4], n_points = 0;
    char whole[NB_IDNA_MAX_LABEL];
    while (n_points < before)
        points[n_points++] = LETTER;
    for (size_t i = 4; i < n; i++)
        points[n_points++] = (uint8_t)label[i];
    points[n_points++] = LETTER;
    memcpy(whole, "xn--", 4);
    int m = encode(points, n_points, whole + 4, NB_IDNA_MAX_LABEL - 4);
    if (m < 0 || 4 + (size_t)m <= n || memcmp(whole, label, n) != 0 ||
        !nb_idna_a_label(whole, 4 + (size_t)m))
        return -1;
    memcpy(out, whole + n, 4 + (size_t)m - n);
    return 4 + m - (int)n;
}

int nb_idna_complete(const char *label, size_t n, char *out) {
    char text[NB_IDNA_MAX_LABEL];
    if (n < 4 || n > NB_IDNA_MAX_LABEL)
        return -1;
    if (nb_idna_a_label(label, n))
        return 0;
    memcpy(text, label, n);
    for (uint32_t i = 0; n < NB_IDNA_MAX_LABEL && i < 36; i++) {
        text[n] = digit(i);
        if (nb_idna_a_label(text, n + 1)) {
            out[0] = text[n];
            return 1;
        }
    }
    /* One letter, or three lest "--" come to stand in the third and fourth place. */
    int more = complete_with(label, n, 1, out);
    return more >= 0 ? more : complete_with(label, n, 3, out);
}
