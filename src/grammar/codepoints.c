#include "grammar/codepoints.h"

#include "base/buf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

void nb_cp_free(struct nb_cp_set *set) {
    free(set->ranges);
    *set = (struct nb_cp_set){0};
}

void nb_cp_clear(struct nb_cp_set *set) {
    set->n = 0;
}

void nb_cp_add(struct nb_cp_set *set, uint32_t lo, uint32_t hi) {
    if (set->n && lo >= set->ranges[set->n - 1].lo && lo <= set->ranges[set->n - 1].hi + 1) {
        if (hi > set->ranges[set->n - 1].hi)
            set->ranges[set->n - 1].hi = hi;
        return;
    }
    if (set->n == set->cap) {
        uint32_t cap = set->cap ? 2 * set->cap : 8;
        struct nb_cp_range *grown = realloc(set->ranges, cap * sizeof *grown);
        if (!grown) {
            set->failed = true;
            return;
        }
        set->ranges = grown;
        set->cap = cap;
    }
    set->ranges[set->n++] = (struct nb_cp_range){lo, hi};
}

void nb_cp_add_set(struct nb_cp_set *set, const struct nb_cp_set *other) {
    set->failed |= other->failed;
    for (uint32_t i = 0; i < other->n; i++)
        nb_cp_add(set, other->ranges[i].lo, other->ranges[i].hi);
}

static int by_lo(const void *a, const void *b) {
    uint32_t x = ((const struct nb_cp_range *)a)->lo, y = ((const struct nb_cp_range *)b)->lo;
    return x < y ? -1 : x > y;
}

void nb_cp_normalize(struct nb_cp_set *set) {
    bool sorted = true;
    for (uint32_t i = 1; i < set->n && sorted; i++)
        sorted = set->ranges[i].lo > set->ranges[i - 1].hi + 1;
    if (sorted)
        return;
    qsort(set->ranges, set->n, sizeof *set->ranges, by_lo);
    uint32_t kept = 0;
    for (uint32_t i = 1; i < set->n; i++) {
        if (set->ranges[i].lo <= set->ranges[kept].hi + 1) {
            if (set->ranges[i].hi > set->ranges[kept].hi)
                set->ranges[kept].hi = set->ranges[i].hi;
        } else {
            set->ranges[++kept] = set->ranges[i];
        }
    }
    set->n = kept + 1;
}

void nb_cp_invert(struct nb_cp_set *set) {
    struct nb_cp_set out = {.failed = set->failed};
    uint32_t next = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        if (set->ranges[i].lo > next)
            nb_cp_add(&out, next, set->ranges[i].lo - 1);
        next = set->ranges[i].hi + 1;
    }
    if (next <= NB_MAX_CODEPOINT)
        nb_cp_add(&out, next, NB_MAX_CODEPOINT);
    nb_cp_free(set);
    *set = out;
}

void nb_cp_intersect(struct nb_cp_set *set, const struct nb_cp_set *other) {
    struct nb_cp_set out = {.failed = set->failed || other->failed};
    for (uint32_t i = 0, j = 0; i < set->n && j < other->n;) {
        struct nb_cp_range a = set->ranges[i], b = other->ranges[j];
        uint32_t lo = a.lo > b.lo ? a.lo : b.lo, hi = a.hi < b.hi ? a.hi : b.hi;
        if (lo <= hi)
            nb_cp_add(&out, lo, hi);
        if (a.hi < b.hi)
            i++;
        else
            j++;
    }
    nb_cp_free(set);
    *set = out;
}

bool nb_cp_has(const struct nb_cp_set *set, uint32_t cp) {
    uint32_t lo = 0, hi = set->n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (cp > set->ranges[mid].hi)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < set->n && cp >= set->ranges[lo].lo;
}

/* ---- \d \w \s ---- */

static void add_lower_class(struct nb_cp_set *set, char letter) {
    switch (letter) {
    case 'd':
        nb_cp_add(set, '0', '9');
        break;
    case 'w':
        nb_cp_add(set, '0', '9');
        nb_cp_add(set, 'A', 'Z');
        nb_cp_add(set, '_', '_');
        nb_cp_add(set, 'a', 'z');
        break;
    default: { /* WhiteSpace and LineTerminator */
        static const struct nb_cp_range space[] = {
            {0x09, 0x0D},     {0x20, 0x20},     {0xA0, 0xA0},     {0x1680, 0x1680},
            {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
            {0x3000, 0x3000}, {0xFEFF, 0xFEFF},
        };
        for (size_t i = 0; i < sizeof space / sizeof *space; i++)
            nb_cp_add(set, space[i].lo, space[i].hi);
    }
    }
}

void nb_cp_add_class(struct nb_cp_set *set, char letter) {
    if (letter >= 'a') {
        add_lower_class(set, letter);
    } else {
        struct nb_cp_set rest = {0};
        add_lower_class(&rest, (char)(letter + 'a' - 'A'));
        nb_cp_invert(&rest);
        nb_cp_add_set(set, &rest);
        nb_cp_free(&rest);
    }
    nb_cp_normalize(set);
}

/* ---- \p{…} ---- */

/* A general category: both spellings, and the members as bits of utf8proc's categories. */
#define BIT(c) (UINT32_C(1) << UTF8PROC_CATEGORY_##c)
static const struct category {
    const char *brief, *name;
    uint32_t bits;
} categories[] = {
    {"L", "Letter", BIT(LU) | BIT(LL) | BIT(LT) | BIT(LM) | BIT(LO)},
    {"LC", "Cased_Letter", BIT(LU) | BIT(LL) | BIT(LT)},
    {"Lu", "Uppercase_Letter", BIT(LU)},
    {"Ll", "Lowercase_Letter", BIT(LL)},
    {"Lt", "Titlecase_Letter", BIT(LT)},
    {"Lm", "Modifier_Letter", BIT(LM)},
    {"Lo", "Other_Letter", BIT(LO)},
    {"M", "Mark", BIT(MN) | BIT(MC) | BIT(ME)},
    {"M", "Combining_Mark", BIT(MN) | BIT(MC) | BIT(ME)},
    {"Mn", "Nonspacing_Mark", BIT(MN)},
    {"Mc", "Spacing_Mark", BIT(MC)},
    {"Me", "Enclosing_Mark", BIT(ME)},
    {"N", "Number", BIT(ND) | BIT(NL) | BIT(NO)},
    {"Nd", "Decimal_Number", BIT(ND)},
    {"Nd", "digit", BIT(ND)},
    {"Nl", "Letter_Number", BIT(NL)},
    {"No", "Other_Number", BIT(NO)},
    {"P", "Punctuation", BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO)},
    {"P", "punct", BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO)},
    {"Pc", "Connector_Punctuation", BIT(PC)},
    {"Pd", "Dash_Punctuation", BIT(PD)},
    {"Ps", "Open_Punctuation", BIT(PS)},
    {"Pe", "Close_Punctuation", BIT(PE)},
    {"Pi", "Initial_Punctuation", BIT(PI)},
    {"Pf", "Final_Punctuation", BIT(PF)},
    {"Po", "Other_Punctuation", BIT(PO)},
    {"S", "Symbol", BIT(SM) | BIT(SC) | BIT(SK) | BIT(SO)},
    {"Sm", "Math_Symbol", BIT(SM)},
    {"Sc", "Currency_Symbol", BIT(SC)},
    {"Sk", "Modifier_Symbol", BIT(SK)},
    {"So", "Other_Symbol", BIT(SO)},
    {"Z", "Separator", BIT(ZS) | BIT(ZL) | BIT(ZP)},
    {"Zs", "Space_Separator", BIT(ZS)},
    {"Zl", "Line_Separator", BIT(ZL)},
    {"Zp", "Paragraph_Separator", BIT(ZP)},
    {"C", "Other", BIT(CC) | BIT(CF) | BIT(CS) | BIT(CO) | BIT(CN)},
    {"Cc", "Control", BIT(CC)},
    {"Cc", "cntrl", BIT(CC)},
    {"Cf", "Format", BIT(CF)},
    {"Cs", "Surrogate", BIT(CS)},
    {"Co", "Private_Use", BIT(CO)},
    {"Cn", "Unassigned", BIT(CN)},
};

/* Binary properties that PCRE2 knows, too (10.40 and later). */
static const char *const binary[] = {
    "Alphabetic",
    "Alpha",
    "ASCII_Hex_Digit",
    "AHex",
    "Bidi_Control",
    "Bidi_C",
    "Bidi_Mirrored",
    "Bidi_M",
    "Case_Ignorable",
    "CI",
    "Cased",
    "Changes_When_Casefolded",
    "CWCF",
    "Changes_When_Casemapped",
    "CWCM",
    "Changes_When_Lowercased",
    "CWL",
    "Changes_When_Titlecased",
    "CWT",
    "Changes_When_Uppercased",
    "CWU",
    "Dash",
    "Default_Ignorable_Code_Point",
    "DI",
    "Deprecated",
    "Dep",
    "Diacritic",
    "Dia",
    "Emoji",
    "Emoji_Component",
    "EComp",
    "Emoji_Modifier",
    "EMod",
    "Emoji_Modifier_Base",
    "EBase",
    "Emoji_Presentation",
    "EPres",
    "Extended_Pictographic",
    "ExtPict",
    "Extender",
    "Ext",
    "Grapheme_Base",
    "Gr_Base",
    "Grapheme_Extend",
    "Gr_Ext",
    "Hex_Digit",
    "Hex",
    "IDS_Binary_Operator",
    "IDSB",
    "IDS_Trinary_Operator",
    "IDST",
    "ID_Continue",
    "IDC",
    "ID_Start",
    "IDS",
    "Ideographic",
    "Ideo",
    "Join_Control",
    "Join_C",
    "Logical_Order_Exception",
    "LOE",
    "Lowercase",
    "Lower",
    "Math",
    "Noncharacter_Code_Point",
    "NChar",
    "Pattern_Syntax",
    "Pat_Syn",
    "Pattern_White_Space",
    "Pat_WS",
    "Quotation_Mark",
    "QMark",
    "Radical",
    "Regional_Indicator",
    "RI",
    "Sentence_Terminal",
    "STerm",
    "Soft_Dotted",
    "SD",
    "Terminal_Punctuation",
    "Term",
    "Unified_Ideograph",
    "UIdeo",
    "Uppercase",
    "Upper",
    "Variation_Selector",
    "VS",
    "White_Space",
    "space",
    "XID_Continue",
    "XIDC",
    "XID_Start",
    "XIDS",
};

/* Where characters are assigned one by one; between and beyond, long stretches are alike. */
static const struct nb_cp_range assigned[] = {{0, 0x323FF}, {0xE0000, 0xE01FF}};

/* The last code point of the stretch of one category that begins at cp, or cp itself. */
static uint32_t stretch(uint32_t cp) {
    if (cp <= assigned[0].hi || (cp >= assigned[1].lo && cp <= assigned[1].hi))
        return cp;
    if ((cp & 0xFFFF) >= 0xFFFE) /* the last two of each plane are no characters */
        return cp;
    return (cp & ~UINT32_C(0xFFFF)) + 0xFFFD;
}

static void add_categories(struct nb_cp_set *set, uint32_t bits) {
    for (uint32_t cp = 0, last; cp <= NB_MAX_CODEPOINT; cp = last + 1) {
        last = stretch(cp);
        if (bits >> utf8proc_category((utf8proc_int32_t)cp) & 1)
            nb_cp_add(set, cp, last);
    }
}

/* Text of all code points of `assigned`, for PCRE2 to look through. */
static void add_subject(struct nb_buf *subject) {
    for (size_t i = 0; i < sizeof assigned / sizeof *assigned; i++)
        for (uint32_t cp = assigned[i].lo; cp <= assigned[i].hi; cp++)
            if (cp < 0xD800 || cp > 0xDFFF)
                nb_buf_add_utf8(subject, cp);
}

static uint32_t decode(const unsigned char *s) {
    if (s[0] < 0x80)
        return s[0];
    if (s[0] < 0xE0)
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    if (s[0] < 0xF0)
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    return (s[0] & 7u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

static void add_matches(struct nb_cp_set *set, const pcre2_code *code, pcre2_match_data *match,
                        const struct nb_buf *subject) {
    size_t at = 0;
    const unsigned char *text = (const unsigned char *)subject->data;
    while (at < subject->len &&
           pcre2_match(code, text, subject->len, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0) {
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(match);
        /* A run may go over the gap of the surrogates, and from one stretch into the next. */
        for (size_t i = span[0]; i < span[1];) {
            uint32_t cp = decode(text + i);
            nb_cp_add(set, cp, cp);
            i += cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
        }
        at = span[1];
    }
}

/* What PCRE2's \p{name} matches. *found is false where PCRE2 knows no such name. */
static enum nb_status add_pcre2(struct nb_cp_set *set, const char *name, bool *found,
                                struct nb_error *err) {
    char pattern[96];
    snprintf(pattern, sizeof pattern, "\\p{%s}+", name);
    int code_number;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF,
                                     &code_number, &offset, NULL);
    *found = code != NULL;
    if (!code)
        return NB_OK;
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
    struct nb_buf subject = {0};
    add_subject(&subject);
    bool failed = !match || subject.failed;
    if (!failed)
        add_matches(set, code, match, &subject);
    nb_buf_free(&subject);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    return failed ? nb_fail_memory(err, 1 << 20, "a Unicode property") : NB_OK;
}

static bool is(const char *text, size_t n, const char *name) {
    return strlen(name) == n && !memcmp(text, name, n);
}

static bool is_script_name(const char *text, size_t n) {
    if (!n || n > 48 || !isupper((unsigned char)text[0]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalpha((unsigned char)text[i]) && text[i] != '_')
            return false;
    return true;
}

static enum nb_status no_property(struct nb_error *err, const char *text, size_t n) {
    return nb_fail(err, NB_ERR_FORMAT,
                   "\\p{%.*s} names no Unicode property; expected a general category such as L or "
                   "Letter, Script=Greek, or a binary property such as Alphabetic",
                   n > 60 ? 60 : (int)n, text);
}

enum nb_status nb_cp_add_property(struct nb_cp_set *set, const char *text, size_t n,
                                  struct nb_error *err) {
    static const struct {
        const char *prefix, *pcre2; /* pcre2: NULL for categories */
    } kinds[] = {
        {"General_Category=", NULL},    {"gc=", NULL},   {"Script=", "sc:"}, {"sc=", "sc:"},
        {"Script_Extensions=", "scx:"}, {"scx=", "scx:"}};
    const char *value = text, *pcre2 = NULL;
    size_t len = n;
    bool lone = true, found = false;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && lone; i++) {
        size_t prefix = strlen(kinds[i].prefix);
        if (n > prefix && !memcmp(text, kinds[i].prefix, prefix)) {
            value = text + prefix, len = n - prefix, pcre2 = kinds[i].pcre2, lone = false;
        }
    }
    for (size_t i = 0; i < sizeof categories / sizeof *categories && !pcre2; i++)
        if (is(value, len, categories[i].brief) || is(value, len, categories[i].name)) {
            add_categories(set, categories[i].bits);
            nb_cp_normalize(set);
            return NB_OK;
        }
    if (lone && (is(text, n, "Any") || is(text, n, "Assigned"))) {
        if (n == 3)
            nb_cp_add(set, 0, NB_MAX_CODEPOINT);
        else
            add_categories(set, ~BIT(CN));
        found = true;
    } else if (lone && is(text, n, "ASCII")) {
        nb_cp_add(set, 0, 0x7F);
        found = true;
    }
    char name[64];
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < sizeof binary / sizeof *binary && lone && !found; i++)
        if (is(text, n, binary[i]))
            s = add_pcre2(set, binary[i], &found, err);
    if (pcre2 && is_script_name(value, len)) {
        snprintf(name, sizeof name, "%s%.*s", pcre2, (int)len, value);
        s = add_pcre2(set, name, &found, err);
    }
    nb_cp_normalize(set);
    return s != NB_OK ? s : found ? NB_OK : no_property(err, text, n);
}
