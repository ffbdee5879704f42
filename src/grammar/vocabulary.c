#include "grammar/vocabulary.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TOKEN_BYTES = 1024 }; /* longer ones are never allowed */

/* A string that goes into a tree. */
struct entry {
    const char *p;
    uint32_t n;
    int32_t token;
    uint16_t before;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    uint32_t n = x->n < y->n ? x->n : y->n;
    int order = n ? memcmp(x->p, y->p, n) : 0;
    if (order)
        return order;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static void free_trie(struct nb_token_trie *t) {
    free(t->byte);
    free(t->nodes);
    free(t->same);
    free(t->token);
    free(t->before);
}

/* The children of `at`, whose strings are entries[first, end) and share `depth` bytes. */
static void fill_trie(struct nb_token_trie *t, const struct entry *entries, uint32_t at,
                      uint32_t first, uint32_t end, uint32_t depth) {
    struct nb_token_node *node = &t->nodes[at];
    for (; first < end && entries[first].n == depth; first++) {
        t->token[first] = entries[first].token;
        t->before[first] = entries[first].before;
        t->same[first] = node->entry;
        node->entry = first + 1;
    }
    t->max_depth = depth > t->max_depth ? (uint16_t)depth : t->max_depth;
    node->first = t->n;
    for (uint32_t i = first; i < end;) {
        uint8_t byte = (uint8_t)entries[i].p[depth];
        while (i < end && (uint8_t)entries[i].p[depth] == byte)
            i++;
        t->byte[t->n++] = byte;
        node->n_children++;
    }
    uint32_t child = node->first;
    for (uint32_t i = first; i < end; child++) {
        uint32_t from = i;
        while (i < end && (uint8_t)entries[i].p[depth] == t->byte[child])
            i++;
        if (at == 0)
            t->of_root[t->byte[child]] = child;
        fill_trie(t, entries, child, from, i, depth + 1);
    }
}

static bool build_trie(struct nb_token_trie *t, struct entry *entries, uint32_t n) {
    size_t bytes = 1;
    qsort(entries, n, sizeof *entries, compare_entries);
    for (uint32_t i = 0; i < n; i++)
        bytes += entries[i].n;
    t->byte = calloc(bytes, 1);
    t->nodes = calloc(bytes, sizeof *t->nodes);
    t->same = calloc((size_t)n + 1, sizeof *t->same);
    t->token = calloc((size_t)n + 1, sizeof *t->token);
    t->before = calloc((size_t)n + 1, sizeof *t->before);
    if (!t->byte || !t->nodes || !t->same || !t->token || !t->before)
        return false;
    t->n = 1;
    fill_trie(t, entries, 0, 0, n, 0);
    return true;
}

/* Writes down what is below a node; the entries stand in the order of the walk as they are. */
static void fill_path(const struct nb_token_trie *t, uint32_t node, uint16_t depth,
                      uint32_t *n_entries, struct nb_token_path *path) {
    const struct nb_token_node *at = &t->nodes[node];
    for (uint32_t child = at->first; child < at->first + at->n_children; child++) {
        struct nb_token_step *step = &path->steps[path->n++];
        *step = (struct nb_token_step){
            .first = *n_entries, .node = child, .depth = depth, .byte = t->byte[child]};
        for (uint32_t e = t->nodes[child].entry; e; e = t->same[e - 1])
            ++*n_entries;
        fill_path(t, child, depth + 1, n_entries, path);
        step->end = path->n;
    }
}

static bool build_path(const struct nb_token_trie *t, struct nb_token_path *path) {
    uint32_t n_entries = 0;
    path->steps = calloc((size_t)t->n + 1, sizeof *path->steps);
    if (!path->steps)
        return false;
    fill_path(t, 0, 0, &n_entries, path);
    path->steps[path->n] = (struct nb_token_step){.end = path->n, .first = n_entries};
    return true;
}

/* How a token reads within a string: the bytes that stay inside, the characters that these begin,
 * and whether only escapes that must be are among them. False if it cannot be there at all. A token
 * may end anywhere, also within a character or an escape. */
static bool read_inside(const char *p, uint32_t n, uint32_t *inside, uint16_t *characters,
                        bool *plain) {
    uint32_t i = 0, tail = 0;
    uint8_t low = 0x80, high = 0xBF;
    *characters = 0;
    *plain = true;
    while (i < n) {
        uint8_t b = (uint8_t)p[i];
        if (tail) {
            if (b < low || b > high)
                return false;
            low = 0x80;
            high = 0xBF;
            tail--;
            i++;
            continue;
        }
        if (b == '"')
            break;
        if (b < 0x20)
            return false;
        ++*characters;
        if (b == '\\') {
            if (i + 1 == n) {
                i++;
                break;
            }
            uint8_t c = (uint8_t)p[i + 1];
            if (!strchr("\"\\/bfnrtu", c) || !c)
                return false;
            i += 2;
            if (c == '/')
                *plain = false;
            if (c == 'u') {
                *plain = false;
                /* Surrogates are for the general walk: rare within one token. */
                for (int k = 0; k < 4 && i < n; k++, i++) {
                    uint8_t h = (uint8_t)p[i] | 0x20;
                    if (!(h >= '0' && h <= '9') && !(h >= 'a' && h <= 'f'))
                        return false;
                    if (k == 0 && h == 'd')
                        return false;
                }
            }
            continue;
        }
        if (b >= 0x80) {
            if (b < 0xC2 || b > 0xF4)
                return false;
            tail = b < 0xE0 ? 1 : b < 0xF0 ? 2 : 3;
            low = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
            high = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
        }
        i++;
    }
    *inside = i;
    return true;
}

static bool fill(struct nb_vocabulary *v) {
    struct entry *all = calloc((size_t)v->size * 3 + 1, sizeof *all);
    if (!all)
        return false;
    struct entry *closers = all + v->size, *endings = closers + v->size;
    uint32_t n = 0, n_closers = 0;
    for (int32_t id = 0; id < v->size; id++) {
        size_t bytes;
        const char *p = nb_tokenizer_bytes(v->tokenizer, id, &bytes);
        uint32_t inside;
        uint16_t characters;
        bool plain;
        if (nb_tokenizer_is_special(v->tokenizer, id) || !bytes || bytes > MAX_TOKEN_BYTES)
            continue;
        all[n++] = (struct entry){p, (uint32_t)bytes, id, 0};
        if (!read_inside(p, (uint32_t)bytes, &inside, &characters, &plain))
            continue;
        if (inside < bytes) {
            closers[n_closers] = all[n - 1];
            endings[n_closers++] =
                (struct entry){p + inside + 1, (uint32_t)bytes - inside - 1, id, characters};
            continue;
        }
        v->inside[id / 64] |= UINT64_C(1) << id % 64;
        if (plain)
            v->plain[id / 64] |= UINT64_C(1) << id % 64;
        v->characters[id] = characters < 255 ? (uint8_t)characters : 255;
        if (characters > v->most_characters)
            v->most_characters = characters;
        for (uint32_t k = characters; k < NB_MAX_COUNTED; k++)
            v->shorter[(size_t)k * v->n_words + (uint32_t)id / 64] |= UINT64_C(1) << id % 64;
    }
    bool good = build_trie(&v->tokens, all, n) && build_path(&v->tokens, &v->path) &&
                build_trie(&v->closers, closers, n_closers) &&
                build_trie(&v->endings, endings, n_closers);
    free(all);
    return good;
}

enum nb_status nb_vocabulary_open(const struct nb_tokenizer *tokenizer, const int32_t *ends,
                                  size_t n_ends, struct nb_vocabulary **out, struct nb_error *err) {
    struct nb_vocabulary *v = *out = calloc(1, sizeof *v);
    int32_t size = nb_tokenizer_size(tokenizer);
    for (size_t i = 0; i < n_ends; i++)
        size = ends[i] >= size ? ends[i] + 1 : size;
    if (v) {
        v->tokenizer = tokenizer;
        v->size = size;
        v->n_words = ((uint32_t)size + 63) / 64;
        v->inside = calloc(v->n_words + 1, sizeof *v->inside);
        v->plain = calloc(v->n_words + 1, sizeof *v->plain);
        v->shorter = calloc((size_t)NB_MAX_COUNTED * v->n_words + 1, sizeof *v->shorter);
        v->characters = calloc((size_t)size + 1, 1);
        v->ends = calloc(n_ends + 1, sizeof *v->ends);
    }
    if (!v || !v->inside || !v->plain || !v->shorter || !v->characters || !v->ends || !fill(v)) {
        nb_vocabulary_close(v);
        *out = NULL;
        return nb_fail_memory(err, (size_t)size * 64, "a vocabulary");
    }
    if (n_ends)
        memcpy(v->ends, ends, n_ends * sizeof *ends);
    v->n_ends = n_ends;
    return NB_OK;
}

enum nb_status nb_vocabulary_spell(const struct nb_vocabulary *v, const char *bytes, size_t n,
                                   struct nb_tokens *out, struct nb_error *err) {
    const struct nb_token_trie *t = &v->tokens;
    size_t held = out->n;
    for (size_t at = 0; at < n;) {
        uint32_t node = 0, entry = 0;
        size_t longest = 0;
        for (size_t i = at; i < n && t->nodes[node].n_children; i++) {
            const struct nb_token_node *here = &t->nodes[node];
            const uint8_t *found =
                memchr(t->byte + here->first, (uint8_t)bytes[i], here->n_children);
            if (!found)
                break;
            node = (uint32_t)(found - t->byte);
            if (t->nodes[node].entry) {
                entry = t->nodes[node].entry;
                longest = i + 1 - at;
            }
        }
        if (!entry || !nb_tokens_add(out, t->token[entry - 1])) {
            out->n = held;
            return entry ? nb_fail_memory(err, (held + n) * sizeof *out->ids, "tokens")
                         : nb_fail(err, NB_ERR_UNSUPPORTED,
                                   "the vocabulary has no token for byte %zu of a text, 0x%02X", at,
                                   (unsigned)(uint8_t)bytes[at]);
        }
        at += longest;
    }
    return NB_OK;
}

void nb_vocabulary_close(struct nb_vocabulary *v) {
    if (!v)
        return;
    free_trie(&v->tokens);
    free(v->path.steps);
    free_trie(&v->closers);
    free_trie(&v->endings);
    free(v->inside);
    free(v->plain);
    free(v->shorter);
    free(v->characters);
    free(v->ends);
    free(v);
}
