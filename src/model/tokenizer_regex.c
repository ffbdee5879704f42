#include "model/tokenizer_regex.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum {
    MAX_PATTERN_BYTES = 64 * 1024,
    MATCH_LIMIT = 10 * 1000 * 1000, /* PCRE2's own default: steps of backtracking for a match */
    HEAP_LIMIT_KIB = 64 * 1024,
};

struct nb_regex {
    pcre2_code *code;
    pcre2_match_context *context;
};

/* What Oniguruma's classes hold, as members of a bracketed class of PCRE2. */
static const char space_members[] = "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}"
                                    "\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char word_members[] = /* alphabetic, marks, digits, connectors; all Latin-1 numbers */
    "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}\\x{24B6}-\\x{24E9}"
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
static const char digit_members[] = "\\p{Nd}";
static const char hex_members[] = "0-9A-Fa-f";

static const char *class_members(char lower) {
    switch (lower) {
    case 's':
        return space_members;
    case 'w':
        return word_members;
    case 'd':
        return digit_members;
    case 'h':
        return hex_members;
    default:
        return NULL;
    }
}

static enum nb_status refuse(struct nb_error *err, const char *what, size_t at) {
    return nb_fail(err, NB_ERR_UNSUPPORTED, "%s at byte %zu of the pattern is not supported", what,
                   at);
}

/* The escape at pattern[i], a backslash; *used is its length. */
static enum nb_status translate_escape(const char *pattern, size_t n, size_t i, bool in_class,
                                       struct nb_buf *out, size_t *used, struct nb_error *err) {
    if (i + 1 == n)
        return nb_fail(err, NB_ERR_FORMAT, "the pattern ends in a backslash");
    char c = pattern[i + 1], lower = (char)(c | 0x20);
    const char *members = class_members(lower);
    *used = 2;
    if (members && !(c == lower) && in_class)
        return refuse(err, "a negated class within brackets", i);
    if (members) {
        nb_buf_add_string(out, in_class ? "" : c == lower ? "[" : "[^");
        nb_buf_add_string(out, members);
        nb_buf_add_string(out, in_class ? "" : "]");
        return NB_OK;
    }
    if (c >= '0' && c <= '9')
        return refuse(err, "a reference or an octal number", i);
    /* Of the other letters, these mean the same to both. */
    bool letter = lower >= 'a' && lower <= 'z';
    if (letter && !strchr(in_class ? "pPrntfaex" : "pPrntfaexAzZ", c))
        return refuse(err, "an escape", i);
    if ((lower == 'p' || c == 'x') && i + 2 < n && pattern[i + 2] == '{') {
        const char *brace = memchr(pattern + i, '}', n - i);
        if (!brace)
            return nb_fail(err, NB_ERR_FORMAT, "{ at byte %zu of the pattern is not closed", i + 2);
        *used = (size_t)(brace - (pattern + i)) + 1;
    }
    nb_buf_add(out, pattern + i, *used);
    return NB_OK;
}

/* A group's opening: of the flags, only those that mean the same to both may be set. */
static enum nb_status check_group(const char *pattern, size_t n, size_t i, struct nb_error *err) {
    if (i + 1 < n && pattern[i + 1] == '*')
        return refuse(err, "(*", i);
    if (i + 2 >= n || pattern[i + 1] != '?')
        return NB_OK;
    if (memchr(":=!>#", pattern[i + 2], 5))
        return NB_OK;
    if (pattern[i + 2] == '<')
        return i + 3 < n && (pattern[i + 3] == '=' || pattern[i + 3] == '!')
                   ? NB_OK
                   : refuse(err, "a named group", i);
    for (size_t k = i + 2; k < n && pattern[k] != ':' && pattern[k] != ')'; k++) {
        if (pattern[k] != 'i' && pattern[k] != '-')
            return refuse(err, "a group with options other than i", i);
    }
    return NB_OK;
}

/* {,n} is an interval to Oniguruma alone, and what a ? or + behind {m,n} does, differs. */
static enum nb_status check_interval(const char *pattern, size_t n, size_t i,
                                     struct nb_error *err) {
    if (i + 1 == n)
        return NB_OK;
    char next = pattern[i + 1];
    if (pattern[i] == '{' ? next == ',' : next == '?' || next == '+')
        return refuse(err, "an interval of this form", i);
    return NB_OK;
}

static enum nb_status translate_brackets(const char *pattern, size_t n, size_t *at,
                                         struct nb_buf *out, struct nb_error *err) {
    size_t i = *at, begin = *at, used = 1;
    nb_buf_add(out, "[", 1);
    if (++i < n && pattern[i] == '^')
        nb_buf_add(out, &pattern[i++], 1);
    if (i < n && pattern[i] == ']')
        return refuse(err, "] first in brackets", i);
    for (; i < n && pattern[i] != ']'; i += used) {
        used = 1;
        if (pattern[i] == '\\') {
            enum nb_status s = translate_escape(pattern, n, i, true, out, &used, err);
            if (s != NB_OK)
                return s;
            continue;
        }
        if (pattern[i] == '[')
            return refuse(err, "a class within brackets", i);
        if (pattern[i] == '&' && i + 1 < n && pattern[i + 1] == '&')
            return refuse(err, "an intersection", i);
        nb_buf_add(out, pattern + i, 1);
    }
    if (i == n)
        return nb_fail(err, NB_ERR_FORMAT, "[ at byte %zu of the pattern is not closed", begin);
    nb_buf_add(out, "]", 1);
    *at = i + 1;
    return NB_OK;
}

static enum nb_status translate(const char *pattern, size_t n, struct nb_buf *out,
                                struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < n && s == NB_OK;) {
        size_t used = 1;
        if (pattern[i] == '[') {
            s = translate_brackets(pattern, n, &i, out, err);
            continue;
        }
        if (pattern[i] == '\\') {
            s = translate_escape(pattern, n, i, false, out, &used, err);
        } else {
            if (pattern[i] == '(')
                s = check_group(pattern, n, i, err);
            else if (pattern[i] == '{' || pattern[i] == '}')
                s = check_interval(pattern, n, i, err);
            nb_buf_add(out, pattern + i, 1);
        }
        i += used;
    }
    return s;
}

static enum nb_status compile(struct nb_regex *regex, const struct nb_buf *pattern,
                              struct nb_error *err) {
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    regex->context = pcre2_match_context_create(NULL);
    if (!context || !regex->context) {
        pcre2_compile_context_free(context);
        return nb_fail_memory(err, pattern->len, "a pattern");
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_match_limit(regex->context, MATCH_LIMIT);
    pcre2_set_heap_limit(regex->context, HEAP_LIMIT_KIB);
    /* ^ and $ stand at the ends of lines, as Oniguruma has it. */
    regex->code = pcre2_compile((PCRE2_SPTR)(pattern->data ? pattern->data : ""), pattern->len,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &code, &at, context);
    pcre2_compile_context_free(context);
    if (!regex->code) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(code, message, sizeof message);
        return nb_fail(err, NB_ERR_FORMAT, "the pattern does not compile: %s", (char *)message);
    }
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE); /* without it, matching is only slower */
    return NB_OK;
}

enum nb_status nb_regex_compile(const char *pattern, size_t n, struct nb_regex **out,
                                struct nb_error *err) {
    *out = NULL;
    if (n > MAX_PATTERN_BYTES)
        return nb_fail(err, NB_ERR_LIMIT, "a pattern of %zu bytes, expected at most %d", n,
                       MAX_PATTERN_BYTES);
    struct nb_buf translated = {0};
    struct nb_regex *regex = calloc(1, sizeof *regex);
    enum nb_status s = regex ? translate(pattern, n, &translated, err)
                             : nb_fail_memory(err, sizeof *regex, "a pattern");
    if (s == NB_OK && translated.failed)
        s = nb_fail_memory(err, n, "a pattern");
    if (s == NB_OK)
        s = compile(regex, &translated, err);
    nb_buf_free(&translated);
    if (s == NB_OK)
        *out = regex;
    else
        nb_regex_free(regex);
    return s;
}

void nb_regex_free(struct nb_regex *regex) {
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    pcre2_match_context_free(regex->context);
    free(regex);
}

/* Searches from `from`; true if there is a match. */
static bool search(struct nb_regex_walk *w, struct nb_error *err) {
    const struct nb_regex *r = w->regex;
    int rc = pcre2_match(r->code, (PCRE2_SPTR)w->text, w->n, w->from, PCRE2_NO_UTF_CHECK,
                         w->match_data, r->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter's memory is on the heap */
        rc = pcre2_match(r->code, (PCRE2_SPTR)w->text, w->n, w->from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match_data, r->context);
    if (rc >= 0) {
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->match_data);
        w->begin = at[0];
        w->end = at[1];
        return true;
    }
    if (rc != PCRE2_ERROR_NOMATCH) {
        PCRE2_UCHAR message[128];
        pcre2_get_error_message(rc, message, sizeof message);
        w->status = nb_fail(err, NB_ERR_LIMIT, "a pattern of the tokenizer fails at byte %zu: %s",
                            w->from, (char *)message);
    }
    return false;
}

bool nb_regex_next(struct nb_regex_walk *w, struct nb_error *err) {
    if (!w->match_data) {
        w->match_data = pcre2_match_data_create(1, NULL);
        if (!w->match_data) {
            w->status = nb_fail_memory(err, 64, "matching");
            return false;
        }
    }
    while (w->from <= w->n && search(w, err)) {
        if (w->end > w->begin || w->last != w->end + 1) {
            w->from = w->end;
            w->last = w->end + 1;
            return true;
        }
        do /* on to the next character */
            w->from++;
        while (w->from < w->n && ((unsigned char)w->text[w->from] & 0xC0) == 0x80);
    }
    return false;
}

void nb_regex_walk_end(struct nb_regex_walk *w) {
    pcre2_match_data_free(w->match_data);
    w->match_data = NULL;
}
