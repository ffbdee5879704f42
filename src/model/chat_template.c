#include "model/chat_template.h"

#include "base/arena.h"

#include <string.h>

/* A word of Jinja. Operators are single characters: "==" is two of them. */
struct word {
    enum { NAME, NUMBER, STRING, OPERATOR } kind;
    const char *p;
    size_t n;
};

enum { MAX_WORDS = 256 };

struct reader {
    const char *text;
    size_t n, at;
    bool line_start; /* what was read last ends in a line feed, or nothing was read yet */
    struct word words[MAX_WORDS];
    size_t n_words;
    struct nb_arena strings; /* decoded */
    struct nb_buf literal;   /* text that comes out as it is, not written yet */
    struct nb_buf *out;
};

static bool is_space(char c) {
    return c && strchr(" \t\n\v\f", c);
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c);
}

static char peek(const struct reader *r, size_t ahead) {
    return r->at + ahead < r->n ? r->text[r->at + ahead] : 0;
}

static bool is(const struct word *w, int kind, const char *text) {
    return (int)w->kind == kind && w->n == strlen(text) && memcmp(w->p, text, w->n) == 0;
}

/* ---- Writing ---- */

/* Kinds and lengths go with the bytes, so that no two lists of words are written alike. */
static void write_words(struct reader *r, char what, const struct word *words, size_t n) {
    if (r->literal.len) {
        nb_buf_printf(r->out, "T%zu:", r->literal.len);
        nb_buf_add(r->out, r->literal.data, r->literal.len);
        nb_buf_clear(&r->literal);
    }
    nb_buf_printf(r->out, "%c%zu:", what, n);
    for (size_t i = 0; i < n; i++) {
        nb_buf_printf(r->out, "%c%zu:", "nds."[words[i].kind], words[i].n);
        nb_buf_add(r->out, words[i].p, words[i].n);
    }
}

/* +1 for an opening bracket, -1 for a closing one. */
static int nesting(const struct word *w) {
    if (w->kind != OPERATOR)
        return 0;
    return strchr("([{", *w->p) ? 1 : strchr(")]}", *w->p) ? -1 : 0;
}

/* Whether the words are a sum of strings: a term of it is a string, and no operator binds as
 * loosely as +, or looser. */
static bool is_sum_of_strings(const struct word *words, size_t n) {
    static const char *const loose[] = {"if", "else", "or", "and", "not", "is", "in"};
    bool string = false;
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        const struct word *w = &words[i];
        depth += nesting(w);
        if (depth)
            continue;
        for (size_t j = 0; j < sizeof loose / sizeof *loose; j++) {
            if (is(w, NAME, loose[j]))
                return false;
        }
        if (w->kind == OPERATOR && strchr("-=!<>,", *w->p))
            return false;
        if (w->kind == STRING && (i == 0 || is(w - 1, OPERATOR, "+")) &&
            (i + 1 == n || is(w + 1, OPERATOR, "+")))
            string = true;
    }
    return string;
}

static void write_term(struct reader *r, const struct word *words, size_t n) {
    if (n == 1 && words[0].kind == STRING)
        nb_buf_add(&r->literal, words[0].p, words[0].n);
    else
        write_words(r, 'O', words, n);
}

/* {{ … }} */
static void write_output(struct reader *r) {
    const struct word *words = r->words;
    size_t n = r->n_words;
    if (is_sum_of_strings(words, n)) {
        size_t begin = 0;
        int depth = 0;
        for (size_t i = 0; i < n; i++) {
            depth += nesting(&words[i]);
            if (depth == 0 && is(&words[i], OPERATOR, "+")) {
                write_term(r, words + begin, i - begin);
                begin = i + 1;
            }
        }
        words += begin;
        n -= begin;
    }
    write_term(r, words, n);
}

/* x['role'] to x.role. Only these two names: a dict has no attribute of their names, so that both
 * ways lead to the message's own. */
static void simplify_subscripts(struct reader *r) {
    static const char *const keywords[] = {"if", "elif", "else", "or", "and", "not", "is", "in"};
    size_t n = 0;
    for (size_t i = 0; i < r->n_words; i++) {
        const struct word *w = &r->words[i];
        bool subscript = i > 0 && i + 2 < r->n_words && is(w, OPERATOR, "[") &&
                         (is(w + 1, STRING, "role") || is(w + 1, STRING, "content")) &&
                         is(w + 2, OPERATOR, "]") &&
                         (w[-1].kind == NAME || is(w - 1, OPERATOR, "]"));
        for (size_t j = 0; subscript && j < sizeof keywords / sizeof *keywords; j++)
            subscript = !is(w - 1, NAME, keywords[j]);
        if (subscript) {
            struct word name = {NAME, w[1].p, w[1].n};
            r->words[n++] = (struct word){OPERATOR, ".", 1};
            r->words[n++] = name;
            i += 2;
        } else {
            r->words[n++] = *w;
        }
    }
    r->n_words = n;
}

/* ---- Reading ---- */

/* What a backslash and c stand for; 0 for what is not known here. */
static char meaning(char c) {
    switch (c) {
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case '\\':
    case '\'':
    case '"':
        return c;
    default:
        return 0;
    }
}

/* A string, decoded. */
static bool read_string(struct reader *r, struct word *out) {
    char quote = r->text[r->at++];
    size_t end = r->at, n = 0;
    while (end < r->n && r->text[end] != quote)
        end += r->text[end] == '\\' ? 2 : 1;
    if (end >= r->n)
        return false;
    char *p = nb_arena_alloc(&r->strings, end - r->at, 1);
    if (!p) {
        r->out->failed = true;
        return false;
    }
    while (r->at < end) {
        char c = r->text[r->at++];
        p[n++] = c == '\\' ? meaning(r->text[r->at++]) : c;
        if (!p[n - 1])
            return false;
    }
    *out = (struct word){STRING, p, n};
    r->at++;
    return true;
}

static bool read_word(struct reader *r) {
    struct word *w = &r->words[r->n_words];
    char c = r->text[r->at];
    if (r->n_words++ == MAX_WORDS)
        return false;
    if (c == '\'' || c == '"')
        return read_string(r, w);
    *w = (struct word){is_digit(c) ? NUMBER : is_name(c) ? NAME : OPERATOR, r->text + r->at, 0};
    do
        r->at++;
    while (w->kind != OPERATOR && is_name(peek(r, 0)));
    w->n = (size_t)(r->text + r->at - w->p);
    return w->kind != OPERATOR || (c > ' ' && c < 0x7F);
}

/* Behind a tag: "-" takes white space, a block or comment without sign one line feed. */
static void end_tag(struct reader *r, char sign, bool block) {
    r->line_start = false;
    if (sign == '-') {
        for (; is_space(peek(r, 0)); r->at++)
            r->line_start = peek(r, 0) == '\n';
    } else if (block && sign != '+' && peek(r, 0) == '\n') {
        r->at++;
        r->line_start = true;
    }
}

/* Reads the words of a tag and passes its end; close is '}' or '%'. */
static bool read_tag(struct reader *r, char close) {
    int depth = 0;
    for (r->n_words = 0; r->at < r->n;) {
        char sign = peek(r, 0);
        size_t signs = sign == '-' || (sign == '+' && close == '%') ? 1 : 0;
        if (depth == 0 && peek(r, signs) == close && peek(r, signs + 1) == '}') {
            r->at += signs + 2;
            end_tag(r, signs ? sign : 0, close == '%');
            return true;
        }
        if (is_space(sign)) {
            r->at++;
            continue;
        }
        if (!read_word(r))
            return false;
        depth += nesting(&r->words[r->n_words - 1]);
    }
    return false;
}

static bool read_comment(struct reader *r) {
    for (char sign = 0; r->at + 1 < r->n; sign = r->text[r->at++]) {
        if (peek(r, 0) == '#' && peek(r, 1) == '}') {
            r->at += 2;
            end_tag(r, sign, true);
            return true;
        }
    }
    return false;
}

/* Reads text up to a tag, and its opening. The tag's sign, or where it has none and is no output,
 * its being first in its line, takes white space from the text. Returns '{', '%', '#', or 0 at the
 * end. */
static char read_text(struct reader *r) {
    size_t begin = r->at, end = begin;
    while (end < r->n &&
           !(r->text[end] == '{' && end + 1 < r->n && strchr("{%#", r->text[end + 1])))
        end++;
    r->at = end;
    if (end == r->n) {
        nb_buf_add(&r->literal, r->text + begin, end - begin);
        return 0;
    }
    char tag = peek(r, 1), sign = peek(r, 2);
    r->at += sign == '-' || sign == '+' ? 3 : 2;
    if (sign == '-') {
        while (end > begin && is_space(r->text[end - 1]))
            end--;
    } else if (sign != '+' && tag != '{') {
        size_t line = end;
        while (line > begin && r->text[line - 1] != '\n' && is_space(r->text[line - 1]))
            line--;
        if (line > begin ? r->text[line - 1] == '\n' : r->line_start)
            end = line;
    }
    nb_buf_add(&r->literal, r->text + begin, end - begin);
    return tag;
}

static bool read_template(struct reader *r) {
    for (char tag; (tag = read_text(r));) {
        if (tag == '#') {
            if (!read_comment(r))
                return false;
            continue;
        }
        if (!read_tag(r, tag == '{' ? '}' : '%') || r->n_words == 0 ||
            is(&r->words[0], NAME, "raw"))
            return false;
        simplify_subscripts(r);
        if (tag == '{')
            write_output(r);
        else
            write_words(r, 'S', r->words, r->n_words);
    }
    write_words(r, 'E', NULL, 0);
    return true;
}

enum nb_status nb_chat_template_form(const char *text, size_t n, struct nb_buf *out,
                                     struct nb_error *err) {
    if (n && text[n - 1] == '\n') /* Jinja drops the last line feed */
        n--;
    struct reader r = {.text = text, .n = n, .line_start = true, .out = out};
    bool ok = !memchr(text, '\r', n) && !memchr(text, 0, n) && read_template(&r);
    out->failed |= r.literal.failed;
    nb_buf_free(&r.literal);
    nb_arena_free(&r.strings);
    if (out->failed)
        return nb_fail_memory(err, n, "a chat template");
    return ok ? NB_OK
              : nb_fail(err, NB_ERR_UNSUPPORTED, "chat template: byte %zu of %zu is not understood",
                        r.at, n);
}

enum nb_status nb_chat_template_hash(const char *text, size_t n, uint64_t *out,
                                     struct nb_error *err) {
    struct nb_buf form = {0};
    enum nb_status s = nb_chat_template_form(text, n, &form, err);
    uint64_t hash = 0xCBF29CE484222325;
    for (size_t i = 0; i < form.len; i++)
        hash = (hash ^ (unsigned char)form.data[i]) * 0x100000001B3;
    nb_buf_free(&form);
    *out = s == NB_OK ? hash : 0;
    return s;
}
