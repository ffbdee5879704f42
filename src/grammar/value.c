#include "grammar/value.h"

#include "base/utf8.h"
#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

struct reader {
    const char *text, *at, *end, *name;
    struct nb_arena *arena;
    struct nb_error *err;
    struct entry {
        struct nb_value value;
        struct nb_value_key key;
    } * stack; /* of the values that are read and not yet in a container */
    size_t n, cap;
};

static enum nb_status fail(struct reader *r, const char *what) {
    size_t line = 1, column = 1;
    for (const char *c = r->text; c < r->at; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    return nb_fail(r->err, NB_ERR_FORMAT, "%s: not valid JSON: line %zu, column %zu: %s", r->name,
                   line, column, what);
}

static enum nb_status no_memory(struct reader *r) {
    return nb_fail_memory(r->err, (size_t)(r->end - r->text), r->name);
}

static void skip_space(struct reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits after \u. */
static bool read_hex(struct reader *r, uint32_t *out) {
    if (r->end - r->at < 4)
        return false;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(r->at[i]);
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint32_t)digit;
    }
    r->at += 4;
    return true;
}

static size_t put_utf8(char *out, uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

/* After a backslash; writes at most 4 bytes, fewer than the escape has. */
static enum nb_status read_escape(struct reader *r, char **out) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = r->at < r->end ? *r->at : 0;
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        r->at++;
        *(*out)++ = to[known - from];
        return NB_OK;
    }
    uint32_t cp, low;
    if (c != 'u')
        return fail(r, "no such escape");
    r->at++;
    if (!read_hex(r, &cp))
        return fail(r, "expected four hexadecimal digits");
    if (cp >= 0xD800 && cp < 0xE000) {
        if (cp >= 0xDC00 || r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u')
            return fail(r, "half of a surrogate pair");
        r->at += 2;
        if (!read_hex(r, &low) || low < 0xDC00 || low >= 0xE000)
            return fail(r, "half of a surrogate pair");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    }
    *out += put_utf8(*out, cp);
    return NB_OK;
}

static enum nb_status read_string(struct reader *r, const char **text, uint32_t *n) {
    const char *start = ++r->at, *c = start;
    while (c < r->end && *c != '"')
        c += *c == '\\' && r->end - c > 1 ? 2 : 1;
    if (c >= r->end)
        return fail(r, "a string without its end");
    char *copy = nb_arena_alloc(r->arena, (size_t)(c - start) + 1, 1), *to = copy;
    if (!copy)
        return no_memory(r);
    while (*r->at != '"') {
        unsigned char byte = (unsigned char)*r->at;
        if (byte == '\\') {
            r->at++;
            enum nb_status s = read_escape(r, &to);
            if (s != NB_OK)
                return s;
        } else if (byte < 0x20) {
            return fail(r, "a control character in a string");
        } else if (byte < 0x80) {
            *to++ = *r->at++;
        } else {
            uint32_t cp;
            size_t len = nb_utf8_decode(r->at, (size_t)(r->end - r->at), &cp);
            if (!len)
                return fail(r, "not UTF-8");
            memcpy(to, r->at, len);
            to += len;
            r->at += len;
        }
    }
    r->at++;
    *text = copy;
    *n = (uint32_t)(to - copy);
    return NB_OK;
}

static const char *digits(const char *c, const char *end) {
    while (c < end && *c >= '0' && *c <= '9')
        c++;
    return c;
}

static enum nb_status read_number(struct reader *r, struct nb_value *out) {
    const char *start = r->at, *c = start, *from;
    if (*c == '-')
        c++;
    from = c;
    c = digits(c, r->end);
    bool good = c > from && (*from != '0' || c == from + 1);
    if (good && c < r->end && *c == '.') {
        from = ++c;
        c = digits(c, r->end);
        good = c > from;
    }
    if (good && c < r->end && (*c == 'e' || *c == 'E')) {
        c++;
        if (c < r->end && (*c == '+' || *c == '-'))
            c++;
        from = c;
        c = digits(c, r->end);
        good = c > from;
    }
    if (!good)
        return fail(r, "no number");
    *out = (struct nb_value){.kind = NB_VALUE_NUMBER, .n = (uint32_t)(c - start)};
    out->text = nb_arena_string(r->arena, start, out->n);
    r->at = c;
    return out->text ? NB_OK : no_memory(r);
}

static enum nb_status push(struct reader *r, const struct entry *entry) {
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        struct entry *more = realloc(r->stack, cap * sizeof *more);
        if (!more)
            return no_memory(r);
        r->stack = more;
        r->cap = cap;
    }
    r->stack[r->n++] = *entry;
    return NB_OK;
}

/* Finds the slot of a key: its member's, or the free one where it belongs. */
static uint32_t *find_slot(const struct nb_value *object, const char *key, size_t n) {
    uint32_t mask = object->n_slots - 1;
    for (uint32_t i = (uint32_t)(nb_hash_text(key, n) >> 32) & mask;; i = (i + 1) & mask) {
        uint32_t *slot = &object->slots[i];
        if (!*slot)
            return slot;
        const struct nb_value_key *k = &object->keys[*slot - 1];
        if (k->n == n && memcmp(k->text, key, n) == 0)
            return slot;
    }
}

static enum nb_status same_key(struct reader *r, const struct nb_value_key *key) {
    return nb_fail(r->err, NB_ERR_FORMAT, "%s: two members \"%.100s\" in one object", r->name,
                   key->text);
}

/* An index for large objects; small ones are searched. Both find keys that are there twice. */
static enum nb_status index_keys(struct reader *r, struct nb_value *object) {
    if (object->n <= 8) {
        for (uint32_t i = 1; i < object->n; i++) {
            for (uint32_t j = 0; j < i; j++) {
                if (object->keys[i].n == object->keys[j].n &&
                    memcmp(object->keys[i].text, object->keys[j].text, object->keys[i].n) == 0)
                    return same_key(r, &object->keys[i]);
            }
        }
        return NB_OK;
    }
    uint32_t n_slots = 32;
    while (n_slots < object->n * 2)
        n_slots *= 2;
    object->slots = nb_arena_alloc(r->arena, n_slots, sizeof *object->slots);
    if (!object->slots)
        return no_memory(r);
    object->n_slots = n_slots;
    for (uint32_t i = 0; i < object->n; i++) {
        uint32_t *slot = find_slot(object, object->keys[i].text, object->keys[i].n);
        if (*slot)
            return same_key(r, &object->keys[i]);
        *slot = i + 1;
    }
    return NB_OK;
}

/* Moves what is on the stack from `from` on into a container. */
static enum nb_status close_container(struct reader *r, size_t from, struct nb_value *out) {
    out->n = (uint32_t)(r->n - from);
    out->items = nb_arena_alloc(r->arena, out->n, sizeof *out->items);
    if (!out->items)
        return no_memory(r);
    for (uint32_t i = 0; i < out->n; i++)
        out->items[i] = r->stack[from + i].value;
    if (out->kind == NB_VALUE_OBJECT) {
        out->keys = nb_arena_alloc(r->arena, out->n, sizeof *out->keys);
        if (!out->keys)
            return no_memory(r);
        for (uint32_t i = 0; i < out->n; i++)
            out->keys[i] = r->stack[from + i].key;
    }
    r->n = from;
    return out->kind == NB_VALUE_OBJECT ? index_keys(r, out) : NB_OK;
}

static enum nb_status read_value(struct reader *r, int depth, struct nb_value *out);

static enum nb_status read_key(struct reader *r, struct nb_value_key *key) {
    skip_space(r);
    if (r->at >= r->end || *r->at != '"')
        return fail(r, "expected a member's name");
    enum nb_status s = read_string(r, &key->text, &key->n);
    skip_space(r);
    if (s == NB_OK && (r->at >= r->end || *r->at != ':'))
        return fail(r, "expected ':'");
    r->at++;
    return s;
}

static enum nb_status read_container(struct reader *r, int depth, struct nb_value *out) {
    size_t from = r->n;
    char close = *r->at == '{' ? '}' : ']';
    out->kind = close == '}' ? NB_VALUE_OBJECT : NB_VALUE_ARRAY;
    if (depth >= NB_VALUE_MAX_DEPTH)
        return nb_fail(r->err, NB_ERR_LIMIT, "%s: deeper than %d", r->name, NB_VALUE_MAX_DEPTH);
    r->at++;
    skip_space(r);
    if (r->at < r->end && *r->at == close) {
        r->at++;
        return close_container(r, from, out);
    }
    for (;;) {
        struct entry entry = {0};
        enum nb_status s = close == '}' ? read_key(r, &entry.key) : NB_OK;
        if (s == NB_OK)
            s = read_value(r, depth + 1, &entry.value);
        if (s == NB_OK)
            s = push(r, &entry);
        if (s != NB_OK)
            return s;
        skip_space(r);
        char c = r->at < r->end ? *r->at : 0;
        if (c != ',' && c != close)
            return fail(r, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        r->at++;
        if (c == close)
            return close_container(r, from, out);
    }
}

static enum nb_status read_word(struct reader *r, const char *word, enum nb_value_kind kind,
                                struct nb_value *out) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0)
        return fail(r, "expected a value");
    r->at += n;
    out->kind = kind;
    return NB_OK;
}

static enum nb_status read_value(struct reader *r, int depth, struct nb_value *out) {
    *out = (struct nb_value){0};
    skip_space(r);
    if (r->at >= r->end)
        return fail(r, "expected a value, found the end");
    switch (*r->at) {
    case '{':
    case '[':
        return read_container(r, depth, out);
    case '"':
        out->kind = NB_VALUE_STRING;
        return read_string(r, &out->text, &out->n);
    case 't':
        return read_word(r, "true", NB_VALUE_TRUE, out);
    case 'f':
        return read_word(r, "false", NB_VALUE_FALSE, out);
    case 'n':
        return read_word(r, "null", NB_VALUE_NULL, out);
    default:
        if (*r->at == '-' || (*r->at >= '0' && *r->at <= '9'))
            return read_number(r, out);
        return fail(r, "expected a value");
    }
}

enum nb_status nb_value_parse(const char *text, size_t n, const char *name, struct nb_arena *arena,
                              struct nb_value *out, struct nb_error *err) {
    struct reader r = {text, text, text + n, name, arena, err};
    if (n > NB_VALUE_MAX_BYTES)
        return nb_fail(err, NB_ERR_LIMIT, "%s: %zu bytes, expected at most %d", name, n,
                       NB_VALUE_MAX_BYTES);
    enum nb_status s = read_value(&r, 0, out);
    skip_space(&r);
    if (s == NB_OK && r.at < r.end)
        s = fail(&r, "something after the end");
    free(r.stack);
    return s;
}

const struct nb_value *nb_value_find(const struct nb_value *object, const char *key, size_t n) {
    if (!object || object->kind != NB_VALUE_OBJECT)
        return NULL;
    if (object->slots) {
        uint32_t slot = *find_slot(object, key, n);
        return slot ? &object->items[slot - 1] : NULL;
    }
    for (uint32_t i = 0; i < object->n; i++) {
        if (object->keys[i].n == n && memcmp(object->keys[i].text, key, n) == 0)
            return &object->items[i];
    }
    return NULL;
}

const struct nb_value *nb_value_get(const struct nb_value *object, const char *key) {
    return nb_value_find(object, key, strlen(key));
}

const char *nb_value_kind_name(enum nb_value_kind kind) {
    static const char *const names[] = {"null",     "false",    "true",     "a number",
                                        "a string", "an array", "an object"};
    return names[kind];
}
