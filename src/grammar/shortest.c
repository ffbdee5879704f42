/* A search from a state to the nearest end, byte by byte: A* (Hart, Nilsson and Raphael 1968) over
 * the reader's states, in which texts that leave the same to be asked come together. What is still
 * needed at least, such as the brackets that are open, is the estimate. */
#include "grammar/complete.h"
#include "grammar/grow.h"

#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

enum {
    MOST_BYTES = 1 << 16,
    MOST_NODES = 60 * 1000,
    MOST_STEPS = 4 * 1000 * 1000, /* bytes tried, of 20 ns or more */
};

struct node {
    struct nb_state state;
    uint32_t from, bytes; /* node it was reached from; bytes up to here */
    uint8_t byte;         /* the last of them */
};

struct search {
    struct nb_reader *r;
    struct node *nodes;
    uint32_t n, cap;
    uint32_t *heap; /* nodes, the least bytes in all first */
    uint32_t n_heap, cap_heap;
    uint32_t *slots; /* node + 1, by state */
    uint32_t n_slots;
    uint32_t most; /* bytes; nothing as long is looked for */
    uint64_t steps;
    bool failed;
};

/* Bytes that must come, whatever they are. */
static uint32_t needed(const struct nb_state *s) {
    static const uint8_t word[] = {4, 5, 4}; /* null, false, true */
    uint32_t open = s->top ? s->top->depth : 0;
    switch (s->mode) {
    case NB_MODE_VALUE:
    case NB_MODE_STRING:
        return open + 1;
    case NB_MODE_COLON:
        return open + 2;
    case NB_MODE_IN_KEY:
        return open + 3; /* quote, colon and a value */
    case NB_MODE_KEY:
        return open + 4;
    case NB_MODE_WORD:
        return open + word[s->shape->kind] - s->word;
    default:
        return open;
    }
}

/* By length in all; then the longer one, which is nearer to its end. */
static bool before(const struct search *s, uint32_t a, uint32_t b) {
    const struct node *x = &s->nodes[a], *y = &s->nodes[b];
    uint32_t f = x->bytes + needed(&x->state), g = y->bytes + needed(&y->state);
    return f != g ? f < g : x->bytes > y->bytes;
}

static void swap(uint32_t *a, uint32_t *b) {
    uint32_t kept = *a;
    *a = *b;
    *b = kept;
}

static bool push(struct search *s, uint32_t node) {
    if (!nb_grow(&s->heap, s->n_heap, 1, &s->cap_heap, sizeof *s->heap))
        return false;
    s->heap[s->n_heap++] = node;
    for (uint32_t i = s->n_heap - 1; i && before(s, s->heap[i], s->heap[(i - 1) / 2]);
         i = (i - 1) / 2)
        swap(&s->heap[i], &s->heap[(i - 1) / 2]);
    return true;
}

static uint32_t pop(struct search *s) {
    uint32_t top = s->heap[0], i = 0;
    s->heap[0] = s->heap[--s->n_heap];
    for (;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < s->n_heap; child++)
            if (before(s, s->heap[child], s->heap[least]))
                least = child;
        if (least == i)
            return top;
        swap(&s->heap[i], &s->heap[least]);
        i = least;
    }
}

static uint32_t slot_of(const struct search *s, const struct nb_state *state) {
    uint64_t hash = nb_hash_text((const char *)state, sizeof *state);
    uint32_t at = (uint32_t)(hash >> 32) & (s->n_slots - 1);
    while (s->slots[at] && memcmp(&s->nodes[s->slots[at] - 1].state, state, sizeof *state) != 0)
        at = (at + 1) & (s->n_slots - 1);
    return at;
}

static bool grow_slots(struct search *s) {
    if (2 * (s->n + 1) <= s->n_slots)
        return true;
    uint32_t *old = s->slots;
    s->n_slots = s->n_slots ? 2 * s->n_slots : 1024;
    s->slots = calloc(s->n_slots, sizeof *s->slots);
    if (!s->slots) {
        s->slots = old;
        return false;
    }
    free(old);
    for (uint32_t i = 0; i < s->n; i++)
        s->slots[slot_of(s, &s->nodes[i].state)] = i + 1;
    return true;
}

/* A state that was reached with so many bytes; the first way to it is none longer than others that
 * lead to it later, but for what the estimate leaves open: then it is met again. */
static bool meet(struct search *s, const struct nb_state *state, uint32_t from, uint32_t bytes,
                 uint8_t byte) {
    if (bytes + needed(state) >= s->most)
        return true;
    if (!grow_slots(s))
        return false;
    uint32_t at = slot_of(s, state);
    if (s->slots[at] && s->nodes[s->slots[at] - 1].bytes <= bytes)
        return true;
    if (!nb_grow(&s->nodes, s->n, 1, &s->cap, sizeof *s->nodes))
        return false;
    s->nodes[s->n] = (struct node){*state, from, bytes, byte};
    s->slots[at] = ++s->n;
    return push(s, s->n - 1);
}

static bool is_number_byte(int byte) {
    return (byte >= '0' && byte <= '9') || byte == '.' || byte == '-' || byte == '+' ||
           byte == 'e' || byte == 'E';
}

/* Whether a string or number may end where it is, and what comes then is the same wherever it ends:
 * going on is in vain. */
static bool may_as_well_end(struct search *s, const struct nb_state *at) {
    struct nb_state ended;
    if (at->hashes || (!at->kills && at->shape->n_atoms))
        return false;
    if (at->mode == NB_MODE_NUMBER)
        return nb_state_end_number(s->r, at, &ended);
    return at->lexis == NB_LEX_PLAIN && nb_state_step(s->r, at, &ended, '"');
}

/* Whether a byte is one of those that are tried. Where all characters are alike but that a text
 * must not come twice, as many are as there may be such texts, and one. */
static bool is_tried(const struct nb_state *at, int byte, bool ends) {
    bool text = at->mode == NB_MODE_STRING || at->mode == NB_MODE_IN_KEY;
    if (!text) /* white space never makes a text shorter */
        return byte != ' ' && byte <= '}' &&
               !(ends && at->mode == NB_MODE_NUMBER && is_number_byte(byte));
    if (byte == '"')
        return true;
    if (ends)
        return false;
    if (at->lexis != NB_LEX_PLAIN)
        return true;
    if (at->mode == NB_MODE_STRING ? at->shape->string > NB_STRING_LENGTH
                                   : at->top->shape->family->machine.n != 0)
        return true;
    uint32_t others = at->top ? at->top->count + 1 : 1;
    if (at->mode == NB_MODE_IN_KEY && at->node) {
        const struct nb_trie *keys = &at->top->shape->family->keys;
        if (byte == '\\' || nb_trie_next(keys, at->node, (uint8_t)byte))
            return true;
        others += keys->n;
    }
    return byte >= '0' && (uint32_t)byte < '0' + others && byte != '\\' && byte < 0x7F;
}

static bool spread(struct search *s, uint32_t from) {
    struct nb_state at = s->nodes[from].state, next;
    uint32_t bytes = s->nodes[from].bytes;
    bool ends = (at.mode == NB_MODE_STRING || at.mode == NB_MODE_NUMBER) && may_as_well_end(s, &at);
    for (int byte = 0x20; byte < 256; byte++) {
        if (!is_tried(&at, byte, ends))
            continue;
        s->steps++;
        if (nb_state_step(s->r, &at, &next, (uint8_t)byte) &&
            !meet(s, &next, from, bytes + 1, (uint8_t)byte))
            return false;
        if (s->r->failed || s->r->space->failed)
            return false;
    }
    return true;
}

/* The node where a text may end that is as short as any, or UINT32_MAX. */
static uint32_t look(struct search *s, const struct nb_state *from) {
    if (!meet(s, from, 0, 0, 0))
        return UINT32_MAX;
    while (s->n_heap && s->n < MOST_NODES && s->steps < MOST_STEPS) {
        uint32_t at = pop(s);
        if (nb_state_can_end(s->r, &s->nodes[at].state))
            return at;
        if (!spread(s, at))
            return UINT32_MAX;
    }
    return UINT32_MAX;
}

bool nb_complete_shortest(struct nb_reader *r, const struct nb_state *state, struct nb_buf *out) {
    size_t held = out->len;
    bool found = nb_complete(r, state, out);
    if (state->mode == NB_MODE_RAW)
        return found; /* the automaton's own search has found the shortest */
    struct search s = {.r = r, .most = MOST_BYTES};
    if (found && out->len - held < MOST_BYTES)
        s.most = (uint32_t)(out->len - held);
    uint32_t end = look(&s, state);
    if (end != UINT32_MAX) {
        uint32_t n = s.nodes[end].bytes;
        char *text = malloc(n + 1);
        for (uint32_t i = end, k = n; text && k-- > 0; i = s.nodes[i].from)
            text[k] = (char)s.nodes[i].byte;
        if (text) {
            out->len = held;
            nb_buf_add(out, text, n);
            found = !out->failed;
        }
        free(text);
    }
    free(s.nodes);
    free(s.heap);
    free(s.slots);
    return found;
}
