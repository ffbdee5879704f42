#include "grammar/mask.h"

#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

enum { MANY_STATES = 4096 }; /* of one mask */
enum { MOST_FEW = 32, N_KEPT = 256, N_SLOTS = 1024, N_COUNTED = NB_MAX_COUNTED };

static void set_token(uint64_t *bits, int32_t token) {
    bits[token / 64] |= UINT64_C(1) << token % 64;
}

static void set_entries(const struct nb_token_trie *t, uint32_t entry, uint64_t *bits) {
    for (; entry; entry = t->same[entry - 1])
        set_token(bits, t->token[entry - 1]);
}

/* ---- the general walk ---- */

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

/* Bytes that may come where there are few: how many, or -1. */
static int few_bytes(const struct nb_reader *r, const struct nb_trie *trie, uint32_t node,
                     uint8_t out[MOST_FEW]) {
    int n = 0;
    bool escapes = false;
    (void)r;
    for (uint32_t c = trie->nodes[node].child; c; c = trie->nodes[c].sibling) {
        uint8_t byte = trie->nodes[c].byte;
        if (n == MOST_FEW - 2)
            return -1;
        if (byte < 0x20 || byte == '"' || byte == '\\')
            escapes = true;
        else
            out[n++] = byte;
    }
    if (escapes)
        out[n++] = '\\';
    if (trie->nodes[node].ends)
        out[n++] = '"';
    return n;
}

static int candidates(struct nb_masker *m, const struct nb_state *s, uint8_t out[MOST_FEW]) {
    static const char values[] = "\"{[-0123456789tfn";
    static const char white[] = " \n\r\t";
    int n = 0;
    switch (s->mode) {
    case NB_MODE_STRING:
        if (s->lexis != NB_LEX_PLAIN || s->shape->string != NB_STRING_SET || !s->kills)
            return -1;
        return few_bytes(m->reader, &s->shape->set, s->at, out);
    case NB_MODE_IN_KEY:
        if (s->lexis != NB_LEX_PLAIN)
            return -1;
        if (s->top != m->others_of) {
            m->others_of = s->top;
            m->others = nb_others_possible(m->reader, s->top);
        }
        return m->others ? -1 : few_bytes(m->reader, &s->top->shape->family->keys, s->node, out);
    case NB_MODE_VALUE:
    case NB_MODE_ITEM:
        memcpy(out, values, sizeof values - 1);
        n = sizeof values - 1;
        if (s->mode == NB_MODE_ITEM)
            out[n++] = ']';
        break;
    case NB_MODE_MEMBER:
        out[n++] = '}';
        /* fall through */
    case NB_MODE_KEY:
        out[n++] = '"';
        break;
    case NB_MODE_COLON:
        out[n++] = ':';
        break;
    case NB_MODE_AFTER:
        out[n++] = ',';
        out[n++] = s->top->shape->kind == NB_VALUE_ARRAY ? ']' : '}';
        break;
    case NB_MODE_DONE:
        break;
    default:
        return -1;
    }
    if (m->reader->flags & NB_READ_FLEXIBLE) {
        memcpy(out + n, white, sizeof white - 1);
        n += sizeof white - 1;
    }
    return n;
}

static uint32_t find_child(const struct nb_token_trie *t, uint32_t node, uint8_t byte) {
    if (node == 0)
        return t->of_root[byte];
    const struct nb_token_node *at = &t->nodes[node];
    const uint8_t *bytes = t->byte + at->first;
    const uint8_t *found = memchr(bytes, byte, at->n_children);
    return found ? at->first + (uint32_t)(found - bytes) : 0;
}

static void walk(struct nb_masker *m, const struct nb_token_trie *t, uint32_t node, uint32_t depth,
                 uint64_t *bits);

/* A token of so many bytes is set that leads to where a way of `more` characters leads out. */
static void note_way_out(struct nb_way_out *way, uint32_t bytes, uint32_t more, bool stretches) {
    uint64_t all = more == UINT32_MAX ? UINT64_MAX : (uint64_t)bytes + more;
    way->characters = all > way->characters ? all : way->characters;
    way->stretches &= stretches;
}

static void try_child(struct nb_masker *m, const struct nb_token_trie *t, uint32_t child,
                      uint32_t depth, uint64_t *bits) {
    struct nb_state *path = m->path;
    if (!nb_state_step(m->reader, &path[depth], &path[depth + 1], t->byte[child]))
        return;
    if (t->nodes[child].entry) {
        set_entries(t, t->nodes[child].entry, bits);
        if (m->way_out) {
            bool stretches;
            uint32_t more = nb_string_way_out(m->reader, &path[depth + 1], &stretches);
            note_way_out(m->way_out, depth + 1u, more, stretches);
        }
    }
    if (t->nodes[child].n_children)
        walk(m, t, child, depth + 1, bits);
}

/* Sets the tokens below a node that can be read from path[depth]. */
static void walk(struct nb_masker *m, const struct nb_token_trie *t, uint32_t node, uint32_t depth,
                 uint64_t *bits) {
    const struct nb_state *from = &m->path[depth];
    const struct nb_token_node *at = &t->nodes[node];
    uint8_t few[MOST_FEW];
    int n = at->n_children > 2 ? candidates(m, from, few) : -1;
    if (n >= 0) {
        for (int i = 0; i < n; i++) {
            uint32_t child = find_child(t, node, few[i]);
            if (child)
                try_child(m, t, child, depth, bits);
        }
        return;
    }
    bool text =
        from->mode == NB_MODE_STRING || from->mode == NB_MODE_IN_KEY || from->mode == NB_MODE_RAW;
    uint8_t classes = text ? 0xFF : may_come(m->reader, from);
    for (uint32_t child = at->first; child < at->first + at->n_children; child++) {
        if (text || byte_class[t->byte[child]] & classes)
            try_child(m, t, child, depth, bits);
    }
}

static void walk_all(struct nb_masker *m, const struct nb_token_trie *t,
                     const struct nb_state *state, uint64_t *bits) {
    m->path[0] = *state;
    m->others_of = NULL;
    walk(m, t, 0, 0, bits);
}

/* ---- strings ---- */

/* Tokens that end a string or key whose text counts for nothing but its length, and have `least`
 * to `most` characters before the quote: path[depth] is behind the quote and `node` bytes more. */
static void walk_endings(struct nb_masker *m, uint32_t node, uint32_t depth, uint64_t least,
                         uint64_t most, uint64_t *bits) {
    const struct nb_token_trie *t = &m->vocabulary->endings;
    const struct nb_token_node *at = &t->nodes[node];
    for (uint32_t e = at->entry; e; e = t->same[e - 1]) {
        if (t->before[e - 1] >= least && t->before[e - 1] <= most)
            set_token(bits, t->token[e - 1]);
    }
    uint8_t few[MOST_FEW];
    int n = at->n_children > 2 ? candidates(m, &m->path[depth], few) : -1;
    for (int i = 0; i < (n >= 0 ? n : at->n_children); i++) {
        uint32_t child = n >= 0 ? find_child(t, node, few[i]) : at->first + (uint32_t)i;
        if (child && nb_state_step(m->reader, &m->path[depth], &m->path[depth + 1], t->byte[child]))
            walk_endings(m, child, depth + 1, least, most, bits);
    }
}

/* The string is closed at once, with as many characters as it takes; the tokens are held to
 * theirs. */
static void end_anywhere(struct nb_masker *m, const struct nb_state *s, uint64_t least,
                         uint64_t most, uint64_t *bits) {
    struct nb_state closing = *s;
    if (s->mode == NB_MODE_STRING && s->shape->string == NB_STRING_LENGTH)
        closing.length = (uint32_t)(s->shape->min < UINT32_MAX ? s->shape->min : UINT32_MAX);
    m->others_of = NULL;
    if (nb_state_step(m->reader, &closing, &m->path[0], '"'))
        walk_endings(m, 0, 0, least, most, bits);
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
        end_anywhere(m, s, least, most, bits);
}

/* What is walked along the tokens of a text: an automaton, several of them in lockstep, or those of
 * an object's keys. */
struct text_walk {
    struct nb_masker *m;
    const struct nb_state *base;  /* the string or key that the walk is in; NULL: no JSON */
    const struct nb_state *named; /* keys: the same, where it may be one that is known by name */
    struct nb_lazy *lazy;         /* or else… */
    struct nb_machine *machine;
    const struct nb_shape *keys; /* of the object whose keys they are, or NULL */
    uint64_t *bits;
    /* What was found out of the machine's states: 1 no dead end, 2 one, 0 not asked yet. What stays
     * alive of a string's roots is all that matters, wherever the walk came from. */
    uint8_t *verdicts;
    uint32_t n_verdicts;
    /* Keys: how many are taken, at most. Where as many are left or fewer, what came before this
     * token matters; `left` is the least that are left otherwise. */
    uint64_t taken, left;
};

/* Whether a state of the machine, met for the first time, is no dead end. */
static bool judge_text(struct text_walk *w, uint32_t to) {
    struct nb_reader *r = w->m->reader;
    if (r->space->failed)
        return false;
    if (w->keys && w->base->top->kills && !w->taken)
        return nb_shape_other_alive(r->space, (struct nb_shape *)(uintptr_t)w->keys, to);
    if (to >= w->n_verdicts) {
        uint32_t n = to + to / 2 + 64;
        uint8_t *more = realloc(w->verdicts, n);
        if (!more) {
            r->failed = NB_ERR_MEMORY;
            return false;
        }
        memset(more + w->n_verdicts, 0, n - w->n_verdicts);
        w->verdicts = more;
        w->n_verdicts = n;
    }
    bool alive = w->keys ? nb_others_begin(r, w->base->top, to) : nb_string_alive(r, w->base, to);
    w->verdicts[to] = alive ? 1 : 2;
    if (alive && w->taken) {
        uint64_t left = nb_others_left(r, w->base->top, to, 2 * w->taken + 2);
        w->left = left < w->left ? left : w->left;
        if (left <= w->taken)
            w->verdicts[to] = 3;
    }
    return w->verdicts[to] == 1;
}

/* The next state; false if it is a dead end. The automata accept nothing but UTF-8, so that bytes
 * of characters need no other care. */
static inline bool text_next(struct text_walk *w, uint32_t from, uint8_t byte, uint32_t *to) {
    if (w->lazy) {
        *to = nb_lazy_next(w->lazy, from, byte);
        return *to;
    }
    *to = nb_machine_next(w->m->reader->space, w->machine, from, byte);
    if (*to < w->n_verdicts && w->verdicts[*to])
        return w->verdicts[*to] == 1;
    return judge_text(w, *to);
}

/* The tokens from step `at` on, below which what was read before counts: from the beginning. */
static void walk_tight(struct text_walk *w, uint32_t at) {
    const struct nb_token_path *path = &w->m->vocabulary->path;
    const struct nb_token_step *step = &path->steps[at];
    struct nb_state *states = w->m->path;
    states[0] = *w->named;
    /* The bytes before it are those of the nearest steps before it that are less deep. */
    uint32_t above[1024], n = step->depth;
    for (uint32_t i = at; n > 0 && step->depth <= 1024; i--) {
        if (path->steps[i].depth + 1u == n)
            above[--n] = i;
    }
    for (uint32_t k = 0; k < step->depth; k++) {
        if (!nb_state_step(w->m->reader, &states[k], &states[k + 1], path->steps[above[k]].byte))
            return;
    }
    try_child(w->m, &w->m->vocabulary->tokens, step->node, step->depth, w->bits);
}

/* Sets the tokens that can be read from `state`; of strings and keys those that do not end them. */
static void walk_text(struct text_walk *w, uint32_t state) {
    const struct nb_token_trie *t = &w->m->vocabulary->tokens;
    const struct nb_token_path *path = &w->m->vocabulary->path;
    uint32_t *states = w->m->text_path;
    struct nb_lazy_mark mark = {0};
    if (w->lazy)
        mark = nb_lazy_mark(w->lazy);
    states[0] = state;
    for (uint32_t i = 0; i < path->n;) {
        const struct nb_token_step *step = &path->steps[i];
        uint32_t to;
        if (w->base && (step->byte < 0x20 || step->byte == '"' || step->byte == '\\')) {
            if (step->byte == '\\') {
                struct nb_state *here = &w->m->path[step->depth];
                *here = *w->base;
                here->at = states[step->depth];
                try_child(w->m, t, step->node, step->depth, w->bits);
            }
            i = step->end; /* tokens that end it are found elsewhere */
            continue;
        }
        if (!text_next(w, states[step->depth], step->byte, &to)) {
            if (w->taken && to < w->n_verdicts && w->verdicts[to] == 3)
                walk_tight(w, i);
            i = step->end;
            continue;
        }
        states[step->depth + 1] = to;
        for (uint32_t e = step->first; e < step[1].first; e++)
            set_token(w->bits, t->token[e]);
        if (w->m->way_out && step->first < step[1].first) {
            bool stretches = false;
            uint32_t more = w->lazy->n_states > mark.n_states + MANY_STATES / 4
                                ? UINT32_MAX
                                : nb_lazy_way_out(w->lazy, to, &stretches);
            note_way_out(w->m->way_out, step->depth + 1u, more, stretches);
        }
        i++;
    }
    /* Where nearly every token leads to a state of its own, most are never seen again. */
    if (w->lazy && w->lazy->n_states > mark.n_states + MANY_STATES)
        nb_lazy_forget(w->lazy, &mark);
    free(w->verdicts);
    w->verdicts = NULL;
    w->n_verdicts = 0;
    /* Where it does not matter any more what a text is, it must still be one. */
    for (uint32_t i = 0; i < w->m->vocabulary->n_words && w->base; i++)
        w->bits[i] &= w->m->vocabulary->inside[i];
}

static uint32_t inside_slot(const struct nb_space *space, const void *key, uint32_t state) {
    uint64_t h = nb_fold_u64((uintptr_t)key ^ UINT64_C(0x9E3779B97F4A7C15),
                             state + UINT64_C(0xD6E8FEB86659FD93));
    uint32_t at = (uint32_t)h & (space->n_inside_slots - 1);
    while (space->inside[at].key &&
           (space->inside[at].key != key || space->inside[at].state != state))
        at = (at + 1) & (space->n_inside_slots - 1);
    return at;
}

static bool grow_inside(struct nb_space *space) {
    if (space->n_inside * 2 < space->n_inside_slots)
        return true;
    uint32_t n = space->n_inside_slots;
    struct nb_inside *old = space->inside;
    struct nb_inside *more = calloc(n ? n * 2 : 32, sizeof *more);
    if (!more)
        return false;
    space->inside = more;
    space->n_inside_slots = n ? n * 2 : 32;
    for (uint32_t i = 0; i < n; i++) {
        if (old[i].key)
            space->inside[inside_slot(space, old[i].key, old[i].state)] = old[i];
    }
    free(old);
    return true;
}

/* What is kept under `key` for a state; NULL if nothing is. */
static struct nb_inside *find_inside(struct nb_space *space, const void *key, uint32_t state) {
    if (!space->n_inside_slots)
        return NULL;
    struct nb_inside *found = &space->inside[inside_slot(space, key, state)];
    return found->key ? found : NULL;
}

/* Keeps a mask, where there is room for one more. */
static void keep_inside(struct nb_masker *m, const void *key, uint32_t state, const uint64_t *bits,
                        uint64_t left, bool stretches) {
    struct nb_space *space = m->reader->space;
    uint32_t n_words = m->vocabulary->n_words;
    if (space->masks.allocated_bytes > space->max_mask_bytes || !grow_inside(space))
        return;
    uint64_t *copy = nb_arena_alloc(&space->masks, n_words, sizeof *copy);
    if (!copy)
        return;
    memcpy(copy, bits, n_words * sizeof *copy);
    space->inside[inside_slot(space, key, state)] =
        (struct nb_inside){key, state, stretches, left, copy};
    space->n_inside++;
}

/* The same tokens as from `state`, as far as its characters are counted and are so many that any of
 * these tokens leaves enough of them: then one mask does for as long as that is so. */
static bool uncounted_mask(struct text_walk *w, uint32_t state, uint64_t *bits) {
    struct nb_masker *m = w->m;
    const void *key = &w->lazy->impl;
    size_t bytes = m->vocabulary->n_words * sizeof *bits;
    uint32_t other;
    uint64_t least, most;
    if (!nb_lazy_uncounted(w->lazy, state, &other, &least, &most) ||
        most < (uint64_t)m->vocabulary->most_characters)
        return false;
    const struct nb_inside *kept = find_inside(m->reader->space, key, other);
    if (kept) {
        memcpy(bits, kept->bits, bytes);
        return most >= kept->left && (!least || kept->stretches);
    }
    struct nb_way_out way = {0, true};
    struct nb_state base = *w->base;
    struct text_walk far = *w;
    base.at = other;
    far.base = &base;
    far.bits = bits;
    memset(bits, 0, bytes);
    m->way_out = &way;
    walk_text(&far, other);
    m->way_out = NULL;
    keep_inside(m, key, other, bits, way.characters, way.stretches);
    return most >= way.characters && (!least || way.stretches);
}

/* The tokens that stay inside the text of a walk from `state`, in bits; they are kept under `key`.
 */
static void inside_mask(struct text_walk *w, const void *key, uint32_t state, uint64_t *bits) {
    struct nb_masker *m = w->m;
    size_t bytes = m->vocabulary->n_words * sizeof *bits;
    const struct nb_inside *kept = find_inside(m->reader->space, key, state);
    if (kept) {
        memcpy(bits, kept->bits, bytes);
    } else if (w->lazy && nb_lazy_accepts_all(w->lazy, state)) {
        memcpy(bits, m->vocabulary->plain, bytes);
    } else if (!uncounted_mask(w, state, bits)) {
        memset(bits, 0, bytes);
        w->bits = bits;
        walk_text(w, state);
        keep_inside(m, key, state, bits, 0, false);
    }
}

static void limited_string(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    const struct nb_shape *shape = s->shape;
    bool fulfilled = true, failed = s->lost;
    if (!s->kills && !s->lost && shape->string == NB_STRING_LAZY)
        nb_string_ends(m->reader, s, &fulfilled, &failed);
    if (shape->string == NB_STRING_LAZY && !fulfilled) {
        walk_all(m, &v->tokens, s, bits); /* what it must not be is rare */
        return;
    }
    if (failed || (shape->string == NB_STRING_LAZY && shape->language->begins_anyhow)) {
        /* Whatever it becomes, it can be closed. */
        memcpy(bits, v->plain, v->n_words * sizeof *bits);
    } else if (shape->string == NB_STRING_LAZY) {
        struct text_walk w = {.m = m, .base = s, .lazy = shape->language->lazy};
        inside_mask(&w, w.lazy, s->at, bits);
    } else {
        /* What follows from a root that is false depends on what is around: not kept. */
        struct text_walk w = {.m = m, .base = s, .machine = &s->shape->machine, .bits = bits};
        walk_text(&w, s->at);
    }
    walk_all(m, &v->closers, s, bits);
}

/* ---- keys ---- */

/* Below a node of the closers that stands where a key ends that is known by name: what was said of
 * these tokens is said anew. */
static void clear_below(const struct nb_token_trie *t, uint32_t node, uint64_t *bits) {
    const struct nb_token_node *at = &t->nodes[node];
    for (uint32_t e = at->entry; e; e = t->same[e - 1])
        bits[t->token[e - 1] / 64] &= ~(UINT64_C(1) << t->token[e - 1] % 64);
    for (uint32_t child = at->first; child < at->first + at->n_children; child++)
        clear_below(t, child, bits);
}

/* Corrects what was set for keys of any text where it is a key that is known by name. */
static void walk_named(struct nb_masker *m, uint32_t node, uint32_t depth, uint64_t *bits) {
    const struct nb_token_trie *t = &m->vocabulary->closers;
    const struct nb_state *from = &m->path[depth];
    const struct nb_trie *keys = &from->top->shape->family->keys;
    const struct nb_trie_node *at = &keys->nodes[from->node];
    if (at->ends) {
        uint32_t quote = find_child(t, node, '"');
        if (quote) {
            clear_below(t, quote, bits);
            try_child(m, t, quote, depth, bits);
        }
    }
    for (uint32_t c = at->child; c; c = keys->nodes[c].sibling) {
        uint8_t byte = keys->nodes[c].byte;
        uint32_t child = byte == '"' || byte == '\\' ? 0 : find_child(t, node, byte);
        if (child && nb_state_step(m->reader, from, &m->path[depth + 1], byte))
            walk_named(m, child, depth + 1, bits);
    }
}

/* Whether a key below a node of the trie has characters that are escaped. */
static bool escapes_below(const struct nb_trie *t, uint32_t node) {
    const struct nb_trie_node *at = &t->nodes[node];
    for (uint32_t rank = at->first; node && rank < at->end; rank++) {
        for (uint32_t i = 0; i < t->keys[rank].n; i++) {
            uint8_t b = (uint8_t)t->keys[rank].text[i];
            if (b < 0x20 || b == '"' || b == '\\')
                return true;
        }
    }
    return false;
}

/* Tokens that stay within keys that are known by name. */
static void walk_inside_named(struct nb_masker *m, uint32_t node, uint32_t depth, uint64_t *bits) {
    const struct nb_token_trie *t = &m->vocabulary->tokens;
    const struct nb_state *from = &m->path[depth];
    const struct nb_trie *keys = &from->top->shape->family->keys;
    for (uint32_t c = keys->nodes[from->node].child; c; c = keys->nodes[c].sibling) {
        uint32_t child = find_child(t, node, keys->nodes[c].byte);
        if (!child || !nb_state_step(m->reader, from, &m->path[depth + 1], keys->nodes[c].byte))
            continue;
        set_entries(t, t->nodes[child].entry, bits);
        if (t->nodes[child].n_children)
            walk_inside_named(m, child, depth + 1, bits);
    }
}

/* Tokens that stay inside keys that no atom names. */
static void inside_others(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    struct nb_space *space = m->reader->space;
    struct nb_shape *shape = s->top->shape;
    struct nb_state base = *s;
    struct text_walk w = {.m = m,
                          .base = &base,
                          .named = s,
                          .machine = &shape->family->machine,
                          .keys = shape,
                          .bits = bits,
                          .taken = nb_others_taken(s->top),
                          .left = UINT64_MAX};
    base.node = 0;
    m->others_of = NULL;
    memset(bits, 0, v->n_words * sizeof *bits);
    if (w.machine->n && !nb_others_begin(m->reader, s->top, s->at))
        return;
    if (!w.machine->n || nb_shape_others_free(space, shape, s->at)) {
        memcpy(bits, v->plain, v->n_words * sizeof *bits);
        return;
    }
    /* Kept are masks of those that do not depend on what is around, nor on what keys came before.
     */
    struct nb_inside *kept = s->top->kills ? find_inside(space, shape, s->at) : NULL;
    if (kept && (!w.taken || kept->left > w.taken)) {
        memcpy(bits, kept->bits, v->n_words * sizeof *bits);
        return;
    }
    walk_text(&w, s->at);
    if (!s->top->kills || (w.taken && w.left <= w.taken))
        return; /* what came before was looked at, and not everything else */
    if (kept)
        kept->left = w.left;
    else
        keep_inside(m, shape, s->at, bits, w.taken ? w.left : 0, false);
}

static void key(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    const struct nb_frame *top = s->top;
    const struct nb_family *f = top->shape->family;
    bool escapes = escapes_below(&f->keys, s->node);
    if (!nb_others_possible(m->reader, top) || escapes) {
        walk_all(m, &v->tokens, s, bits);
        return;
    }
    inside_others(m, s, bits);
    m->path[0] = *s;
    m->others_of = NULL;
    if (f->machine.n && s->node)
        walk_inside_named(m, 0, 0, bits);
    if (f->machine.n || top->seen || top->hashes) {
        walk_all(m, &v->closers, s, bits); /* what came before the quote matters */
        return;
    }
    struct nb_state other = *s;
    other.node = 0;
    end_anywhere(m, &other, 0, UINT64_MAX, bits);
    m->path[0] = *s;
    m->others_of = NULL;
    if (s->node)
        walk_named(m, 0, 0, bits);
}

/* ---- masks ---- */

static void compute(struct nb_masker *m, const struct nb_state *s, uint64_t *bits) {
    const struct nb_vocabulary *v = m->vocabulary;
    bool plain = s->lexis == NB_LEX_PLAIN;
    if (s->mode == NB_MODE_STRING && plain && s->shape->string <= NB_STRING_LENGTH)
        free_string(m, s, bits);
    else if (s->mode == NB_MODE_STRING && plain && s->shape->string != NB_STRING_SET)
        limited_string(m, s, bits);
    else if (s->mode == NB_MODE_IN_KEY && plain)
        key(m, s, bits);
    else if (s->mode == NB_MODE_RAW)
        walk_text(&(struct text_walk){.m = m, .lazy = m->reader->raw, .bits = bits}, s->at);
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
    uint32_t depth = v->tokens.max_depth; /* closers and endings are no longer */
    m->path = calloc((size_t)depth + 2, sizeof *m->path);
    m->text_path = calloc((size_t)depth + 2, sizeof *m->text_path);
    m->slots = calloc(N_SLOTS, sizeof *m->slots);
    m->kept = calloc(N_KEPT, sizeof *m->kept);
    return m->path && m->text_path && m->slots && m->kept;
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
    free(m->text_path);
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
