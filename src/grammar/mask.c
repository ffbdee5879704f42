#include "grammar/mask.h"

#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

enum { N_KEPT = 256, N_SLOTS = 1024, N_COUNTED = NB_MAX_COUNTED };

static void set_token(uint64_t *bits, int32_t token) {
    bits[token / 64] |= UINT64_C(1) << token % 64;
}

static void set_entries(const struct nb_token_trie *t, uint32_t entry, uint64_t *bits) {
    for (; entry; entry = t->same[entry - 1])
        set_token(bits, t->token[entry - 1]);
}

/* ---- the general walk -------------------------------------------------------------------------
 */

/* Bytes that can come at all in a mode outside strings, a bit for each class. */
enum {
    WHITE = 1,
    OPEN_VALUE = 2,
    QUOTE = 4,
    COLON = 8,
    COMMA = 16,
    CLOSE_ARRAY = 32,
    CLOSE_OBJECT = 64,
    OTHER = 128
};

static const uint8_t byte_class[256] = {
    [' '] = WHITE,
    ['\n'] = WHITE,
    ['\r'] = WHITE,
    ['\t'] = WHITE,
    ['"'] = QUOTE | OPEN_VALUE,
    ['{'] = OPEN_VALUE,
    ['['] = OPEN_VALUE,
    ['-'] = OPEN_VALUE | OTHER,
    ['0'] = OPEN_VALUE | OTHER,
    ['1'] = OPEN_VALUE | OTHER,
    ['2'] = OPEN_VALUE | OTHER,
    ['3'] = OPEN_VALUE | OTHER,
    ['4'] = OPEN_VALUE | OTHER,
    ['5'] = OPEN_VALUE | OTHER,
    ['6'] = OPEN_VALUE | OTHER,
    ['7'] = OPEN_VALUE | OTHER,
    ['8'] = OPEN_VALUE | OTHER,
    ['9'] = OPEN_VALUE | OTHER,
    ['t'] = OPEN_VALUE | OTHER,
    ['f'] = OPEN_VALUE | OTHER,
    ['n'] = OPEN_VALUE | OTHER,
    [':'] = COLON,
    [','] = COMMA,
    [']'] = CLOSE_ARRAY,
    ['}'] = CLOSE_OBJECT,
    ['.'] = OTHER,
    ['e'] = OTHER,
    ['E'] = OTHER,
    ['+'] = OTHER,
    ['a'] = OTHER,
    ['l'] = OTHER,
    ['r'] = OTHER,
    ['s'] = OTHER,
    ['u'] = OTHER,
};

static uint8_t may_come(const struct nb_reader *r, const struct nb_state *s) {
    uint8_t white = r->flags & NB_READ_FLEXIBLE ? WHITE : 0;
    switch (s->mode) {
    case NB_MODE_VALUE:
        return OPEN_VALUE | white;
    case NB_MODE_ITEM:
        return OPEN_VALUE | CLOSE_ARRAY | white;
    case NB_MODE_MEMBER:
        return QUOTE | CLOSE_OBJECT | white;
    case NB_MODE_KEY:
        return QUOTE | white;
    case NB_MODE_COLON:
        return COLON | white;
    case NB_MODE_AFTER:
        return COMMA | white | (s->top->shape->kind == NB_VALUE_ARRAY ? CLOSE_ARRAY : CLOSE_OBJECT);
    case NB_MODE_DONE:
        return white;
    case NB_MODE_NUMBER:
        return OTHER | COMMA | CLOSE_ARRAY | CLOSE_OBJECT | white;
    case NB_MODE_WORD:
        return OTHER;
    default:
        return 0;
    }
}

/* Sets the tokens of nodes (first, end) that can be read from path[depth of first]. */
static void walk(struct nb_masker *m, const struct nb_token_trie *t, uint32_t first, uint32_t end,
                 uint64_t *bits) {
    struct nb_state *path = m->path;
    for (uint32_t i = first; i < end;) {
        uint16_t depth = t->depth[i];
        const struct nb_state *from = &path[depth - 1];
        uint8_t byte = t->byte[i];
        if (from->mode != NB_MODE_STRING && from->mode != NB_MODE_IN_KEY &&
            from->mode != NB_MODE_RAW && !(byte_class[byte] & may_come(m->reader, from))) {
            i = t->end[i];
            continue;
        }
        if (!nb_state_step(m->reader, from, &path[depth], byte)) {
            i = t->end[i];
            continue;
        }
        if (t->entry[i])
            set_entries(t, t->entry[i], bits);
        i++;
    }
}

static void walk_all(struct nb_masker *m, const struct nb_token_trie *t,
                     const struct nb_state *state, uint64_t *bits) {
    m->path[0] = *state;
    walk(m, t, 1, t->n, bits);
}

/* ---- strings ----------------------------------------------------------------------------------
 */

/* Tokens that end a string whose characters count for nothing else than their number. */
static void walk_endings(struct nb_masker *m, const struct nb_state *state, uint64_t least,
                         uint64_t most, uint64_t *bits) {
    const struct nb_token_trie *t = &m->vocabulary->endings;
    struct nb_state *path = m->path, inside = *state;
    inside.length = 0;
    /* The string is closed here with as many characters as it takes; tokens are held to theirs. */
    const struct nb_shape *shape = state->shape;
    inside.length = shape->string == NB_STRING_LENGTH
                        ? (uint32_t)(shape->min < UINT32_MAX ? shape->min : UINT32_MAX)
                        : 0;
    if (!nb_state_step(m->reader, &inside, &path[0], '"'))
        return;
    for (uint32_t i = 0; i < t->n;) {
        uint16_t depth = t->depth[i];
        if (i) {
            const struct nb_state *from = &path[depth - 1];
            uint8_t byte = t->byte[i];
            if ((from->mode != NB_MODE_STRING && from->mode != NB_MODE_IN_KEY &&
                 !(byte_class[byte] & may_come(m->reader, from))) ||
                !nb_state_step(m->reader, from, &path[depth], byte)) {
                i = t->end[i];
                continue;
            }
        }
        for (uint32_t e = t->entry[i]; e; e = t->same[e - 1]) {
            if (t->before[e - 1] >= least && t->before[e - 1] <= most)
                set_token(bits, t->token[e - 1]);
        }
        i++;
    }
}

static void free_string(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    const struct nb_shape *shape = s->shape;
    uint64_t least = 0, most = UINT64_MAX;
    if (shape->string == NB_STRING_LENGTH && !s->lost) {
        least = shape->min > s->length ? shape->min - s->length : 0;
        most = shape->max == UINT64_MAX ? UINT64_MAX : shape->max - s->length;
    }
    const uint64_t *inside = v->inside;
    if (most < (uint64_t)v->most_characters) {
        if (most >= N_COUNTED) {
            walk_all(m, &v->tokens, s, bits);
            return;
        }
        inside = v->shorter + most * v->n_words;
    }
    memcpy(bits, inside, v->n_words * sizeof *bits);
    if (s->hashes || s->lost || !s->kills)
        walk_all(m, &v->closers, s, bits); /* what came before the quote matters */
    else
        walk_endings(m, s, least, most, bits);
}

/* Tokens that stay inside the strings of a language. */
static void walk_language(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_token_trie *t = &m->vocabulary->tokens;
    struct nb_lazy *lazy = s->shape->language->lazy;
    struct nb_state *path = m->path;
    path[0] = *s;
    for (uint32_t i = 1; i < t->n;) {
        uint16_t depth = t->depth[i];
        const struct nb_state *from = &path[depth - 1];
        uint8_t byte = t->byte[i];
        bool good = false;
        if (byte == '"' && from->lexis == NB_LEX_PLAIN) {
            good = false; /* those that end it are found elsewhere */
        } else if (byte >= 0x20 && byte < 0x80 && byte != '\\' && from->lexis == NB_LEX_PLAIN) {
            uint32_t to = nb_lazy_next(lazy, from->at, byte);
            good = to != 0;
            if (good) {
                path[depth] = *from;
                path[depth].at = to;
            }
        } else {
            good = nb_state_step(m->reader, from, &path[depth], byte);
        }
        if (!good) {
            i = t->end[i];
            continue;
        }
        if (t->entry[i])
            set_entries(t, t->entry[i], bits);
        i++;
    }
}

/* The same, found or kept. NULL where it cannot be kept. */
static const uint64_t *language_mask(struct nb_masker *m, const struct nb_state *s) {
    struct nb_language *l = s->shape->language;
    if (nb_lazy_accepts_all(l->lazy, s->at))
        return m->vocabulary->plain;
    if (l->n_masks * 2 >= l->n_slots) {
        uint32_t n = l->n_slots ? l->n_slots * 2 : 32;
        struct nb_language_mask *more = calloc(n, sizeof *more);
        if (!more)
            return NULL;
        for (uint32_t i = 0; i < l->n_slots; i++) {
            uint32_t at = l->masks[i].state * 0x9E3779B1u >> 8 & (n - 1);
            while (l->masks[i].state && more[at].state)
                at = (at + 1) & (n - 1);
            if (l->masks[i].state)
                more[at] = l->masks[i];
        }
        free(l->masks);
        l->masks = more;
        l->n_slots = n;
    }
    uint32_t at = (s->at + 1) * 0x9E3779B1u >> 8 & (l->n_slots - 1);
    for (; l->masks[at].state; at = (at + 1) & (l->n_slots - 1)) {
        if (l->masks[at].state == s->at + 1)
            return l->masks[at].bits;
    }
    struct nb_space *space = m->reader->space;
    if (space->masks.allocated_bytes > space->max_mask_bytes)
        return NULL;
    uint64_t *bits = nb_arena_alloc(&space->masks, m->vocabulary->n_words, sizeof *bits);
    if (!bits)
        return NULL;
    walk_language(m, s, bits);
    l->masks[at] = (struct nb_language_mask){s->at + 1, bits};
    l->n_masks++;
    return bits;
}

static void limited_string(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    const uint64_t *inside = s->kills ? language_mask(m, s) : NULL;
    if (!inside) {
        walk_all(m, &v->tokens, s, bits);
        return;
    }
    memcpy(bits, inside, v->n_words * sizeof *bits);
    walk_all(m, &v->closers, s, bits);
}

/* ---- keys -------------------------------------------------------------------------------------
 */

static void key(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    const struct nb_frame *top = s->top;
    bool free_keys = !top->shape->family->machine.n && nb_others_possible(m->reader, top);
    if (!free_keys) {
        walk_all(m, &v->tokens, s, bits);
        return;
    }
    memcpy(bits, v->plain, v->n_words * sizeof *bits);
    walk_all(m, &v->closers, s, bits);
}

/* ---- masks ------------------------------------------------------------------------------------
 */

static void compute(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    bool plain = s->lexis == NB_LEX_PLAIN;
    if (s->mode == NB_MODE_STRING && plain && s->shape->string <= NB_STRING_LENGTH)
        free_string(m, s, bits);
    else if (s->mode == NB_MODE_STRING && plain && s->shape->string == NB_STRING_LAZY)
        limited_string(m, s, bits);
    else if (s->mode == NB_MODE_IN_KEY && plain)
        key(m, s, bits);
    else
        walk_all(m, &v->tokens, s, bits);
    if (nb_state_can_end(m->reader, s)) {
        for (size_t i = 0; i < v->n_ends; i++)
            set_token(bits, v->ends[i]);
    }
}

static bool prepare(struct nb_masker *m) {
    if (m->kept)
        return true;
    const struct nb_vocabulary *v = m->vocabulary;
    uint32_t depth = v->tokens.max_depth;
    m->path = calloc((size_t)depth + 2, sizeof *m->path);
    m->slots = calloc(N_SLOTS, sizeof *m->slots);
    m->kept = calloc(N_KEPT, sizeof *m->kept);
    return m->path && m->slots && m->kept;
}

static uint32_t hash_state(const struct nb_state *s) {
    return (uint32_t)(nb_hash_text((const char *)s, sizeof *s) >> 40) & (N_SLOTS - 1);
}

/* Takes a mask out of the table, closing the gap that it leaves. */
static void forget(struct nb_masker *m, uint32_t slot) {
    m->slots[slot] = 0;
    for (uint32_t i = (slot + 1) & (N_SLOTS - 1); m->slots[i]; i = (i + 1) & (N_SLOTS - 1)) {
        uint32_t kept = m->slots[i];
        uint32_t home = hash_state(&m->kept[kept - 1].state);
        if (((i - home) & (N_SLOTS - 1)) >= ((i - slot) & (N_SLOTS - 1))) {
            m->slots[slot] = kept;
            m->kept[kept - 1].slot = slot;
            m->slots[i] = 0;
            slot = i;
        }
    }
}

const uint64_t *nb_mask(struct nb_masker *m, const struct nb_state *state) {
    uint32_t n_words = m->vocabulary->n_words;
    if (!prepare(m)) {
        m->reader->failed = NB_ERR_MEMORY;
        return NULL;
    }
    uint32_t at = hash_state(state);
    for (; m->slots[at]; at = (at + 1) & (N_SLOTS - 1)) {
        const struct nb_kept_mask *k = &m->kept[m->slots[at] - 1];
        if (memcmp(&k->state, state, sizeof *state) == 0)
            return k->bits;
    }
    struct nb_kept_mask *k = &m->kept[m->next];
    if (!k->bits)
        k->bits = malloc(n_words * sizeof *k->bits);
    else
        forget(m, k->slot);
    if (!k->bits) {
        m->reader->failed = NB_ERR_MEMORY;
        return NULL;
    }
    memset(k->bits, 0, n_words * sizeof *k->bits);
    compute(m, state, k->bits);
    at = hash_state(state);
    while (m->slots[at])
        at = (at + 1) & (N_SLOTS - 1);
    m->slots[at] = m->next + 1;
    k->slot = at;
    k->state = *state;
    m->next = (m->next + 1) % N_KEPT;
    if (m->reader->failed || m->reader->space->failed)
        return NULL;
    return k->bits;
}

void nb_masker_free(struct nb_masker *m) {
    for (uint32_t i = 0; m->kept && i < N_KEPT; i++)
        free(m->kept[i].bits);
    free(m->kept);
    free(m->slots);
    free(m->path);
    *m = (struct nb_masker){0};
}

bool nb_mask_plain(struct nb_masker *m, const struct nb_state *state, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    for (int32_t id = 0; id < v->size; id++) {
        size_t n;
        const char *p = nb_tokenizer_bytes(v->tokenizer, id, &n);
        struct nb_state s = *state, next;
        bool good = n > 0 && !nb_tokenizer_is_special(v->tokenizer, id);
        for (size_t i = 0; i < n && good; i++) {
            good = nb_state_step(m->reader, &s, &next, (uint8_t)p[i]);
            s = next;
        }
        if (good)
            set_token(bits, id);
    }
    if (nb_state_can_end(m->reader, state)) {
        for (size_t i = 0; i < v->n_ends; i++)
            set_token(bits, v->ends[i]);
    }
    return !m->reader->failed && !m->reader->space->failed;
}
