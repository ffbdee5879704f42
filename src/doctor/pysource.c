#include "doctor/pysource.h"
#include "base/room.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A module is read a logical line at a time: the tokens up to a line end outside of parentheses.
 * What a line stands in is known from its indentation and the headers above it. Grammar: The Python
 * Language Reference, "Lexical analysis" and "Compound statements". */

enum {
    MAX_TOKENS = 4096, /* of a logical line; the rest of a longer one (a table of data) is passed
                          over */
    MAX_BLOCKS = 128,
    MAX_NAMES = 1 << 20,
};

enum token_kind { TOKEN_NAME, TOKEN_OPERATOR, TOKEN_STRING, TOKEN_NUMBER };

struct token {
    const char *at;
    uint32_t n;
    uint8_t kind;
    int16_t depth; /* of parentheses, before the token */
};

struct block {
    int indent;    /* of its header */
    bool function; /* or class: its body binds no names of the module */
    bool conditional, typing, tried;
};

struct reader {
    const char *at, *end;
    int line;
    struct token tokens[MAX_TOKENS];
    size_t n_tokens;
    int first_line; /* of the logical line */
    struct block blocks[MAX_BLOCKS];
    size_t n_blocks;
    bool raised; /* a raise at the level of the module: nothing after it runs */
    struct nb_arena *arena;
    struct nb_py_module *out;
    uint64_t *names;
    size_t n_names, cap_names;
    struct nb_py_import *imports;
    size_t n_imports, cap_imports;
    bool failed; /* memory ran out */
};

uint64_t nb_py_hash(const char *name, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)name[i]) * 0x100000001b3u;
    return h;
}

static bool is_identifier(unsigned char c) {
    return isalnum(c) || c == '_' || c >= 0x80;
}

static bool is_word(const struct token *t, const char *word) {
    return t->kind == TOKEN_NAME && t->n == strlen(word) && memcmp(t->at, word, t->n) == 0;
}

static bool is_operator(const struct token *t, const char *text) {
    return t->kind == TOKEN_OPERATOR && t->n == strlen(text) && memcmp(t->at, text, t->n) == 0;
}

/* ---- tokens ---- */

/* Passes over a string whose opening quote is next. */
static void skip_string(struct reader *r, bool raw) {
    (void)raw; /* a backslash keeps a quote from ending a raw string, too */
    char quote = *r->at;
    bool triple = r->end - r->at >= 3 && r->at[1] == quote && r->at[2] == quote;
    r->at += triple ? 3 : 1;
    while (r->at < r->end) {
        if (*r->at == '\\' && r->end - r->at > 1) {
            r->line += r->at[1] == '\n';
            r->at += 2;
        } else if (*r->at == quote && !triple) {
            r->at++;
            return;
        } else if (*r->at == quote && r->end - r->at >= 3 && r->at[1] == quote &&
                   r->at[2] == quote) {
            r->at += 3;
            return;
        } else if (*r->at == '\n' && !triple) {
            return; /* not closed: the line ends it */
        } else {
            r->line += *r->at == '\n';
            r->at++;
        }
    }
    r->out->damaged = r->out->damaged || triple;
}

static void add_token(struct reader *r, const char *from, enum token_kind kind, int depth) {
    if (r->n_tokens < MAX_TOKENS)
        r->tokens[r->n_tokens++] = (struct token){from, (uint32_t)(r->at - from), (uint8_t)kind,
                                                  (int16_t)(depth > INT16_MAX ? INT16_MAX : depth)};
}

/* A name, or a string with a prefix. */
static void take_word(struct reader *r, int depth) {
    const char *from = r->at;
    while (r->at < r->end && is_identifier((unsigned char)*r->at))
        r->at++;
    size_t n = (size_t)(r->at - from);
    if (n <= 2 && r->at < r->end && (*r->at == '"' || *r->at == '\'') &&
        strspn(from, "rRbBuUfFtT") >= n) {
        skip_string(r, true);
        add_token(r, from, TOKEN_STRING, depth);
    } else {
        add_token(r, from, isdigit((unsigned char)*from) ? TOKEN_NUMBER : TOKEN_NAME, depth);
    }
}

/* An operator: of those of several characters only the ones that matter. */
static void take_operator(struct reader *r, int *depth) {
    static const char *const two[] = {
        "==", "!=", "<=", ">=", ":=", "->", "+=", "-=", "*=", "/=", "|=", "&=", "^=", "%=", "@="};
    const char *from = r->at;
    char c = *r->at;
    int before = *depth;
    if (c == '(' || c == '[' || c == '{')
        ++*depth;
    else if ((c == ')' || c == ']' || c == '}') && *depth)
        before = --*depth;
    r->at++;
    for (size_t i = 0; i < sizeof two / sizeof *two && r->at < r->end; i++) {
        if (from[0] == two[i][0] && from[1] == two[i][1]) {
            r->at++;
            break;
        }
    }
    add_token(r, from, TOKEN_OPERATOR, before);
}

/* Reads the next logical line that is not empty; *indent is its indentation (a tab goes to the next
 * multiple of 8). False at the end. */
static bool next_line(struct reader *r, int *indent) {
    int depth = 0;
    bool begun = false;
    r->n_tokens = 0;
    *indent = 0;
    while (r->at < r->end) {
        char c = *r->at;
        if (c == '\n') {
            r->at++;
            r->line++;
            if (begun && depth == 0)
                return true;
            *indent = begun ? *indent : 0;
        } else if (c == ' ' || c == '\t' || c == '\f' || c == '\r') {
            if (!begun)
                *indent = c == '\t' ? (*indent / 8 + 1) * 8 : c == ' ' ? *indent + 1 : *indent;
            r->at++;
        } else if (c == '#') {
            const char *stop = memchr(r->at, '\n', (size_t)(r->end - r->at));
            r->at = stop ? stop : r->end;
        } else if (c == '\\' && r->end - r->at > 1 && (r->at[1] == '\n' || r->at[1] == '\r')) {
            r->at += r->at[1] == '\r' && r->end - r->at > 2 ? 3 : 2;
            r->line++;
        } else {
            if (!begun)
                r->first_line = r->line;
            begun = true;
            if (c == '"' || c == '\'') {
                const char *from = r->at;
                skip_string(r, false);
                add_token(r, from, TOKEN_STRING, depth);
            } else if (is_identifier((unsigned char)c)) {
                take_word(r, depth);
            } else {
                take_operator(r, &depth);
            }
        }
    }
    r->out->damaged = r->out->damaged || depth > 0;
    return begun;
}

/* ---- names and imports ---- */

static void add_name(struct reader *r, const char *name, size_t n) {
    bool room = r->n_names < MAX_NAMES;
    if (room && !nb_room(&r->names, r->n_names, &r->cap_names, sizeof *r->names)) {
        r->failed = true;
        room = false;
    }
    if (!room) {
        r->out->dynamic = true;
        return;
    }
    r->names[r->n_names++] = nb_py_hash(name, n);
}

static void add_import(struct reader *r, const struct nb_py_import *import) {
    if (!nb_room(&r->imports, r->n_imports, &r->cap_imports, sizeof *r->imports)) {
        r->failed = true;
        return;
    }
    r->imports[r->n_imports++] = *import;
}

/* What a statement stands in. */
struct place {
    bool function, conditional, typing, tried;
};

/* The dotted name that begins at token *i, without spaces, in the arena; *i goes past it. */
static const char *take_dotted(struct reader *r, const struct token *t, size_t n, size_t *i) {
    char name[256];
    size_t used = 0;
    while (*i < n && (t[*i].kind == TOKEN_NAME || is_operator(&t[*i], "."))) {
        if (t[*i].kind == TOKEN_NAME && (is_word(&t[*i], "import") || is_word(&t[*i], "as")))
            break;
        if (used + t[*i].n >= sizeof name)
            break;
        memcpy(name + used, t[*i].at, t[*i].n);
        used += t[*i].n;
        ++*i;
    }
    const char *copy = nb_arena_string(r->arena, name, used);
    r->failed = r->failed || !copy;
    return copy ? copy : "";
}

/* import a.b as c, d */
static void read_import(struct reader *r, const struct token *t, size_t n, struct place place) {
    for (size_t i = 1; i < n;) {
        const char *module = take_dotted(r, t, n, &i);
        struct nb_py_import import = {.module = module,
                                      .line = r->first_line,
                                      .conditional = place.conditional,
                                      .typing = place.typing,
                                      .tried = place.tried};
        if (i < n && is_word(&t[i], "as")) {
            if (i + 1 < n)
                add_name(r, t[i + 1].at, t[i + 1].n);
            i += 2;
        } else {
            add_name(r, module, strcspn(module, "."));
        }
        if (*module)
            add_import(r, &import);
        while (i < n && !is_operator(&t[i], ","))
            i++;
        i++;
    }
}

/* from .a.b import (c as d, e) */
static void read_from(struct reader *r, const struct token *t, size_t n, struct place place) {
    size_t i = 1;
    struct nb_py_import import = {.line = r->first_line,
                                  .conditional = place.conditional,
                                  .typing = place.typing,
                                  .tried = place.tried};
    while (i < n && is_operator(&t[i], "."))
        import.level++, i++;
    import.module = take_dotted(r, t, n, &i);
    if (i >= n || !is_word(&t[i], "import"))
        return;
    for (i++; i < n; i++) {
        bool star = is_operator(&t[i], "*");
        if (!star && t[i].kind != TOKEN_NAME)
            continue;
        import.name = nb_arena_string(r->arena, t[i].at, t[i].n);
        if (!import.name) {
            r->failed = true;
            return;
        }
        add_import(r, &import);
        /* `from sys import modules`: it puts modules in the place of others, its own may be one. */
        if (strcmp(import.module, "sys") == 0 && is_word(&t[i], "modules"))
            r->out->dynamic = true;
        if (i + 2 < n && is_word(&t[i + 1], "as"))
            i += 2;
        if (!star)
            add_name(r, t[i].at, t[i].n);
    }
}

/* Whether the line binds what is left of an "=": an assignment, with or without a type. */
static size_t last_assignment(const struct token *t, size_t n) {
    size_t last = 0;
    for (size_t i = 1; i < n; i++) {
        if (t[i].depth == 0 && (is_operator(&t[i], "=") || (i == 1 && is_operator(&t[i], ":"))))
            last = i;
    }
    return last;
}

static bool mentions(const struct token *t, size_t n, const char *word) {
    for (size_t i = 0; i < n; i++) {
        if (is_word(&t[i], word))
            return true;
    }
    return false;
}

/* Names that a statement at the level of the module may bind. */
static void read_names(struct reader *r, const struct token *t, size_t n) {
    static const char *const binders[] = {"for", "with", "async", "except", "case", "type"};
    if (is_word(&t[0], "def") || is_word(&t[0], "class")) {
        if (n > 1)
            add_name(r, t[1].at, t[1].n);
        return;
    }
    if (is_word(&t[0], "async") && n > 2 && is_word(&t[1], "def")) {
        add_name(r, t[2].at, t[2].n);
        return;
    }
    size_t stop = last_assignment(t, n);
    for (size_t i = 0; i < sizeof binders / sizeof *binders; i++) {
        if (is_word(&t[0], binders[i]))
            stop = n;
    }
    for (size_t i = 0; i < n; i++) {
        bool walrus = i + 1 < n && is_operator(&t[i + 1], ":=");
        if (t[i].kind == TOKEN_NAME && (i < stop || walrus))
            add_name(r, t[i].at, t[i].n);
    }
}

/* Signs that a module has more names than its text binds. */
static void read_signs(struct reader *r, const struct token *t, size_t n, bool function) {
    for (size_t i = 0; i < n; i++) {
        if (t[i].kind != TOKEN_NAME)
            continue;
        bool called = i + 1 < n && is_operator(&t[i + 1], "(");
        if (called &&
            (is_word(&t[i], "globals") || is_word(&t[i], "exec") || is_word(&t[i], "locals") ||
             is_word(&t[i], "vars")) &&
            !(i && is_operator(&t[i - 1], ".")) && !(i && is_word(&t[i - 1], "def")))
            r->out->dynamic = true;
        /* enum's ways of putting members into the module */
        if ((is_word(&t[i], "_convert_") || is_word(&t[i], "global_enum")) &&
            !(i && is_word(&t[i - 1], "def")))
            r->out->dynamic = true;
        if ((!function && is_word(&t[i], "__getattr__")) || is_word(&t[i], "meta_path"))
            r->out->lazy = true;
        if (is_word(&t[i], "sys") && i + 2 < n && is_word(&t[i + 2], "modules") &&
            mentions(t + i, n - i, "__name__"))
            r->out->lazy = true;
        if (function && i == 0 && is_word(&t[0], "global")) {
            for (size_t j = 1; j < n; j++) {
                if (t[j].kind == TOKEN_NAME)
                    add_name(r, t[j].at, t[j].n);
            }
        }
    }
}

/* ---- blocks ---- */

static struct place where(const struct reader *r) {
    struct place p = {.conditional = r->raised, .tried = r->raised};
    for (size_t i = 0; i < r->n_blocks; i++) {
        p.function = p.function || r->blocks[i].function;
        p.conditional = p.conditional || r->blocks[i].conditional;
        p.typing = p.typing || r->blocks[i].typing;
        p.tried = p.tried || r->blocks[i].tried;
    }
    return p;
}

/* Whether tokens begin a compound statement, and which block it opens. */
static bool opens_block(const struct token *t, size_t n, struct block *b) {
    static const char *const conditions[] = {"if",      "elif", "else",  "try",   "except",
                                             "finally", "for",  "while", "match", "case"};
    *b = (struct block){0};
    size_t first = n > 1 && is_word(&t[0], "async") ? 1 : 0;
    if (is_word(&t[first], "def") || is_word(&t[first], "class")) {
        b->function = true;
        return true;
    }
    if (is_word(&t[first], "with")) {
        b->conditional = b->tried = mentions(t, n, "suppress");
        return true;
    }
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++) {
        if (!is_word(&t[first], conditions[i]))
            continue;
        b->conditional = true;
        b->tried = strcmp(conditions[i], "try") == 0 || strcmp(conditions[i], "except") == 0;
        b->typing = strcmp(conditions[i], "if") == 0 && mentions(t, n, "TYPE_CHECKING") &&
                    !mentions(t, n, "not") && !mentions(t, n, "or");
        return true;
    }
    return false;
}

/* The colon that ends the header of a compound statement; n if there is none (`match` and `case`
 * are ordinary names, too). */
static size_t find_colon(const struct token *t, size_t n) {
    size_t lambdas = 0;
    for (size_t i = 1; i < n; i++) {
        if (t[i].depth != t[0].depth)
            continue;
        if (is_word(&t[i], "lambda"))
            lambdas++;
        else if (is_operator(&t[i], ":") && !lambdas)
            return i;
        else if (is_operator(&t[i], ":"))
            lambdas--;
        else if (is_operator(&t[i], "="))
            return n;
    }
    return n;
}

/* A simple statement. */
static void read_simple(struct reader *r, const struct token *t, size_t n, struct place place) {
    if (!n)
        return;
    read_signs(r, t, n, place.function);
    if (place.function)
        return;
    if (is_word(&t[0], "import"))
        read_import(r, t, n, place);
    else if (is_word(&t[0], "from"))
        read_from(r, t, n, place);
    else
        read_names(r, t, n);
    if (is_word(&t[0], "raise") && !place.conditional)
        r->raised = true;
}

/* Statements on one line, with ";" between them. */
static void read_simples(struct reader *r, const struct token *t, size_t n, struct place place) {
    size_t from = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i == n || (is_operator(&t[i], ";") && t[i].depth == 0)) {
            read_simple(r, t + from, i - from, place);
            from = i + 1;
        }
    }
}

static void read_line(struct reader *r, int indent) {
    const struct token *t = r->tokens;
    size_t n = r->n_tokens;
    while (r->n_blocks && r->blocks[r->n_blocks - 1].indent >= indent)
        r->n_blocks--;
    if (!n)
        return;
    struct block block;
    struct place place = where(r);
    size_t colon = opens_block(t, n, &block) ? find_colon(t, n) : n;
    if (colon == n) {
        read_simples(r, t, n, place);
        return;
    }
    block.indent = indent;
    read_signs(r, t, colon, place.function);
    if (!place.function)
        read_names(r, t, colon);
    if (r->n_blocks < MAX_BLOCKS)
        r->blocks[r->n_blocks++] = block;
    else
        r->out->dynamic = true; /* nested beyond reason: nothing can be said */
    read_simples(r, t + colon + 1, n - colon - 1, where(r));
}

static int compare_hashes(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* What was gathered, into the arena. */
static bool keep(struct reader *r) {
    struct nb_py_module *m = r->out;
    if (r->n_names)
        qsort(r->names, r->n_names, sizeof *r->names, compare_hashes);
    m->names = nb_arena_alloc(r->arena, r->n_names, sizeof *m->names);
    m->imports = nb_arena_alloc(r->arena, r->n_imports, sizeof *m->imports);
    if (!m->names || !m->imports)
        return false;
    for (size_t i = 0; i < r->n_names; i++) {
        if (!i || r->names[i] != r->names[i - 1])
            m->names[m->n_names++] = r->names[i];
    }
    if (r->n_imports)
        memcpy(m->imports, r->imports, r->n_imports * sizeof *m->imports);
    m->n_imports = r->n_imports;
    return true;
}

bool nb_py_read(const char *text, size_t n, struct nb_arena *arena, struct nb_py_module *out) {
    *out = (struct nb_py_module){.damaged = n && memchr(text, 0, n)};
    struct reader *r = calloc(1, sizeof *r);
    if (!r)
        return false;
    r->at = text;
    r->end = text + n;
    r->line = 1;
    r->arena = arena;
    r->out = out;
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        r->at += 3;
    int indent;
    while (next_line(r, &indent))
        read_line(r, indent);
    bool ok = keep(r) && !r->failed;
    free(r->names);
    free(r->imports);
    free(r);
    return ok;
}

bool nb_py_has(const struct nb_py_module *module, uint64_t hash) {
    return module->n_names &&
           bsearch(&hash, module->names, module->n_names, sizeof hash, compare_hashes);
}

bool nb_py_string(const char *text, size_t n, const char *name, char *out, size_t size) {
    size_t len = strlen(name);
    for (const char *at = text, *end = text + n; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        if ((size_t)(stop - at) > len && memcmp(at, name, len) == 0 &&
            !is_identifier((unsigned char)at[len])) {
            const char *equals = memchr(at, '=', (size_t)(stop - at));
            const char *quote = equals;
            while (quote && ++quote < stop && (*quote == ' ' || *quote == '('))
                ;
            if (quote && quote < stop && (*quote == '\'' || *quote == '"')) {
                const char *close = memchr(quote + 1, *quote, (size_t)(stop - quote - 1));
                if (close) {
                    snprintf(out, size, "%.*s", (int)(close - quote - 1), quote + 1);
                    return true;
                }
            }
        }
        at = stop + 1;
    }
    return false;
}
