#include "grammar/state.h"

#include "grammar/grow.h"
#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

/* ---- frames ---- */

static size_t frame_bytes(uint32_t n_extra) {
    return sizeof(struct nb_frame) + n_extra * sizeof(uint64_t);
}

/* Room for a frame with n_extra, all zero. */
static struct nb_frame *draft(struct nb_reader *r, uint32_t n_extra) {
    size_t bytes = frame_bytes(n_extra);
    if (bytes > r->draft_bytes) {
        struct nb_frame *more = realloc(r->draft, bytes);
        if (!more) {
            r->failed = NB_ERR_MEMORY;
            return NULL;
        }
        r->draft = more;
        r->draft_bytes = bytes;
    }
    memset(r->draft, 0, bytes);
    r->draft->n_extra = n_extra;
    return r->draft;
}

static struct nb_frame *draft_of(struct nb_reader *r, const struct nb_frame *frame) {
    struct nb_frame *d = draft(r, frame->n_extra);
    if (d)
        memcpy(d, frame, frame_bytes(frame->n_extra));
    return d;
}

static uint32_t frame_hash(const struct nb_frame *f) {
    return (uint32_t)(nb_hash_text((const char *)f, frame_bytes(f->n_extra)) >> 32);
}

static bool grow_slots(struct nb_reader *r) {
    if (r->n_frames * 2 < r->n_slots)
        return true;
    uint32_t n = r->n_slots ? r->n_slots * 2 : 64;
    struct nb_frame **slots = calloc(n, sizeof *slots);
    if (!slots) {
        r->failed = NB_ERR_MEMORY;
        return false;
    }
    for (uint32_t i = 0; i < r->n_slots; i++) {
        if (!r->slots[i])
            continue;
        uint32_t at = frame_hash(r->slots[i]) & (n - 1);
        while (slots[at])
            at = (at + 1) & (n - 1);
        slots[at] = r->slots[i];
    }
    free(r->slots);
    r->slots = slots;
    r->n_slots = n;
    return true;
}

/* The draft, for good. */
static const struct nb_frame *keep(struct nb_reader *r) {
    struct nb_frame *d = r->draft;
    size_t bytes = frame_bytes(d->n_extra);
    if (!grow_slots(r))
        return NULL;
    uint32_t at = frame_hash(d) & (r->n_slots - 1);
    for (; r->slots[at]; at = (at + 1) & (r->n_slots - 1)) {
        if (r->slots[at]->n_extra == d->n_extra && memcmp(r->slots[at], d, bytes) == 0)
            return r->slots[at];
    }
    struct nb_frame *f = nb_arena_alloc(&r->arena, 1, bytes);
    if (!f) {
        r->failed = NB_ERR_MEMORY;
        return NULL;
    }
    memcpy(f, d, bytes);
    r->n_frames++;
    return r->slots[at] = f;
}

void nb_reader_free(struct nb_reader *r) {
    nb_arena_free(&r->arena);
    free(r->slots);
    free(r->draft);
    for (uint32_t i = 0; r->outlooks && i < NB_N_OUTLOOKS; i++) {
        free(r->outlooks[i].reaches);
        free(r->outlooks[i].ends);
        free(r->outlooks[i].goes_on);
    }
    free(r->outlooks);
    *r = (struct nb_reader){0};
}

enum { FEW_ROOTS = 512 };

/* ---- what follows from a root that is false ---- */

/* How many items an array can have at most. */
static uint64_t most_items(const struct nb_shape *shape, const struct nb_atom *atom) {
    uint64_t most = atom->max;
    for (uint32_t i = 0; i < shape->n_atoms && shape->conjunction; i++) {
        if (shape->atoms[i]->max < most)
            most = shape->atoms[i]->max;
    }
    return most;
}

static bool item_left(struct nb_reader *r, const struct nb_frame *parent,
                      const struct nb_link *link, const struct nb_shape *shape);

/* The shape of a container once a member's or item's roots in `wrong` are false. Of an array, `top`
 * has not counted that item yet. */
static struct nb_shape *shape_after(struct nb_reader *r, const struct nb_frame *top,
                                    const struct nb_link *link, const uint64_t *wrong) {
    struct nb_shape *shape = top->shape;
    for (uint32_t i = 0; i < link->n_effects && shape; i++) {
        const struct nb_effect *e = &link->effects[i];
        if (!nb_bit(wrong, e->root))
            continue;
        if (e->counter == UINT32_MAX) {
            shape = nb_shape_fail(r->space, shape, e->atom);
        } else {
            /* Not one of those that `contains` asks for: are there places left for them? */
            uint64_t most = most_items(top->shape, e->atom), counted = top->extra[e->counter];
            uint64_t left = most > top->count ? most - top->count - 1 : 0;
            if (counted + left < e->atom->min_contains && most != UINT64_MAX)
                shape = nb_shape_fail(r->space, shape, e->atom);
        }
    }
    return shape;
}

/* Whether it is all over once a container is of another shape. */
static bool shape_dooms(struct nb_reader *r, const struct nb_frame *f,
                        const struct nb_shape *shape) {
    return nb_state_doomed(r, f->parent, f->link, shape->false_roots) ||
           !item_left(r, f->parent, f->link, shape);
}

bool nb_state_doomed(struct nb_reader *r, const struct nb_frame *parent, const struct nb_link *link,
                     const uint64_t *wrong) {
    if (!nb_any_bit(wrong, NB_WORDS(link->site->n_roots)))
        return false;
    if (!parent)
        return !r->verdict;
    if (link->all_kill && parent->kills)
        return true;
    struct nb_shape *shape = shape_after(r, parent, link, wrong);
    return !shape || (shape != parent->shape && shape_dooms(r, parent, shape));
}

/* ---- the end of a value ---- */

/* Of two numbers, one to one in each where the other is fixed: no value takes part in vain. The
 * constants are those of MurmurHash3's 64-bit finalizer (Austin Appleby), which it is but for the
 * first line. */
static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h << 29 | h >> 35) + v + UINT64_C(0x9E3779B97F4A7C15);
    h = (h ^ h >> 33) * UINT64_C(0xFF51AFD7ED558CCD);
    h = (h ^ h >> 33) * UINT64_C(0xC4CEB9FE1A85EC53);
    return h ^ h >> 33;
}

bool nb_seen_has(const struct nb_seen *seen, uint64_t hash) {
    for (uint64_t bits = hash; seen && seen->hash != hash; bits >>= 1)
        seen = seen->child[bits & 1];
    return seen;
}

/* The set with one more that is not in it; NULL if memory ran out. */
static const struct nb_seen *add_seen(struct nb_reader *r, const struct nb_seen *seen,
                                      uint64_t hash) {
    const struct nb_seen *root = seen, **at = &root;
    for (uint64_t bits = hash;; bits >>= 1) {
        struct nb_seen *node = (struct nb_seen *)(uintptr_t)*at;
        if (!node || !(r->flags & NB_READ_ONCE)) {
            struct nb_seen *fresh = nb_arena_alloc(&r->arena, 1, sizeof *fresh);
            if (!fresh) {
                r->failed = NB_ERR_MEMORY;
                return NULL;
            }
            *fresh = node ? *node : (struct nb_seen){.hash = hash};
            *at = fresh;
            if (!node)
                return root;
            node = fresh;
        }
        at = &node->child[bits & 1];
    }
}

/* Counts an item for contains; atoms with too many fail. */
static struct nb_shape *count_contained(struct nb_reader *r, struct nb_frame *f,
                                        struct nb_shape *shape, const struct nb_link *link,
                                        const uint64_t *wrong) {
    for (uint32_t i = 0; i < link->n_effects && shape; i++) {
        const struct nb_effect *e = &link->effects[i];
        if (e->counter == UINT32_MAX || nb_bit(wrong, e->root))
            continue;
        if (++f->extra[e->counter] > e->atom->max_contains)
            shape = nb_shape_fail(r->space, shape, e->atom);
    }
    return shape;
}

/* An item whose value came before. */
static struct nb_shape *fail_unique(struct nb_reader *r, struct nb_shape *shape) {
    struct nb_shape *to = shape;
    for (uint32_t i = 0; i < shape->n_atoms && to; i++) {
        if (shape->atoms[i]->unique)
            to = nb_shape_fail(r->space, to, shape->atoms[i]);
    }
    return to;
}

/* ---- atoms that hold whatever else comes
 *
 * Where they stand below a not, or in a choice of exactly one, that may be the end. */

enum { NO_KEY = UINT32_MAX };

/* Whether an atom about objects can come to hold before the end. */
static bool can_settle(const struct nb_atom *a) {
    return a->kind == NB_ATOM_HAS || (a->kind == NB_ATOM_OBJECT && !a->n_patterns && !a->rest &&
                                      !a->names && a->max == UINT64_MAX);
}

static bool has_key(const struct nb_frame *f, const struct nb_value_key *key, uint32_t open) {
    int32_t rank = nb_trie_find(&f->shape->family->keys, key->text, key->n);
    return rank >= 0 && ((uint32_t)rank == open || nb_bit(f->extra, (uint32_t)rank));
}

/* Whether atom i of the shape holds for certain, with `count` members of which that of key `open`
 * has no value yet. */
static bool settled(const struct nb_frame *f, const struct nb_shape *shape, uint32_t i,
                    uint32_t count, uint32_t open) {
    const struct nb_atom *a = shape->atoms[i];
    const struct nb_family *family = shape->family;
    uint32_t j = shape->in_family[i];
    if (!can_settle(a))
        return false;
    if (a->kind == NB_ATOM_OBJECT && count < a->min)
        return false;
    for (uint32_t w = 0; w < family->n_words; w++) {
        uint64_t here = open / 64 == w ? UINT64_C(1) << open % 64 : 0;
        size_t at = (size_t)j * family->n_words + w;
        if (family->required[at] & ~(f->extra[w] | here))
            return false;
        if (family->named[at] & (~f->extra[w] | here))
            return false;
    }
    for (uint32_t k = 0; k < a->n_dependencies; k++) {
        if (!has_key(f, &a->dependencies[k].needs, open))
            return false;
    }
    return true;
}

/* The shape of an object without the atoms that hold for certain; NULL if memory ran out. */
static struct nb_shape *settle(struct nb_reader *r, const struct nb_frame *f,
                               struct nb_shape *shape, uint32_t count, uint32_t open) {
    struct nb_shape *to = shape;
    for (uint32_t i = 0; i < shape->n_atoms && to && !shape->conjunction; i++) {
        if (settled(f, shape, i, count, open))
            to = nb_shape_hold(r->space, to, shape->atoms[i]);
    }
    return to;
}

/* Whether one more member, whatever its value, makes atoms hold that must not. */
static bool presence_dooms(struct nb_reader *r, const struct nb_frame *f, uint32_t rank) {
    if (f->shape->conjunction)
        return false;
    struct nb_shape *to = settle(r, f, f->shape, f->count + 1, rank);
    return !to || (to != f->shape && nb_state_doomed(r, f->parent, f->link, to->false_roots));
}

/* ---- values that came before ---- */

bool nb_state_once(struct nb_reader *r, const struct nb_state *s) {
    const struct nb_frame *top = s->top;
    if ((r->flags & NB_READ_ANY_SPELLING) || !top || top->shape->kind != NB_VALUE_ARRAY ||
        !top->shape->unique || !top->seen)
        return false;
    struct nb_shape *shape = fail_unique(r, top->shape);
    return !shape || nb_state_doomed(r, top->parent, top->link, shape->false_roots);
}

static uint64_t text_hash(uint64_t hash, uint8_t byte) {
    return mix(hash, byte + UINT64_C(0x100));
}

static uint64_t number_hash(struct nb_decimal v) {
    v = nb_decimal_normal(v);
    uint64_t hash = mix((uint64_t)v.digits, (uint64_t)(v.digits >> 64));
    return mix(mix(hash, (uint32_t)v.exponent), v.negative + UINT64_C(3));
}

static uint64_t word_hash(enum nb_value_kind kind) {
    return mix(kind, 11);
}

uint64_t nb_hash_string(const char *text, size_t n) {
    uint64_t hash = 0;
    for (size_t i = 0; i < n; i++)
        hash = text_hash(hash, (uint8_t)text[i]);
    return hash;
}

/* Of an array or object, from that of what is in it. */
static uint64_t container_hash(uint64_t hash, enum nb_value_kind kind) {
    return mix(hash, kind + UINT64_C(0x51));
}

bool nb_number_repeats(const struct nb_state *s, struct nb_decimal v) {
    return nb_seen_has(s->top->seen, number_hash(v));
}

uint64_t nb_hash_value(const struct nb_value *v) {
    uint64_t h = 0;
    switch (v->kind) {
    case NB_VALUE_NUMBER:
        return number_hash(nb_decimal_parse(v->text, v->n));
    case NB_VALUE_STRING:
        return nb_hash_string(v->text, v->n);
    case NB_VALUE_ARRAY:
        for (uint32_t i = 0; i < v->n; i++)
            h = mix(h, nb_hash_value(&v->items[i]));
        return container_hash(h, v->kind);
    case NB_VALUE_OBJECT:
        for (uint32_t i = 0; i < v->n; i++)
            h += mix(nb_hash_string(v->keys[i].text, v->keys[i].n), nb_hash_value(&v->items[i]));
        return container_hash(h, v->kind);
    default:
        return word_hash(v->kind);
    }
}

/* Whether a value that is one of an enumeration's can still become what `node` asks for. */
static bool is_open(const struct nb_shape *shape, const struct nb_node *node) {
    for (uint32_t i = 0; i < node->n; i++) {
        for (uint32_t k = 0; k < shape->n_atoms && node->nodes[i]->kind == NB_NODE_ATOM; k++) {
            if (shape->atoms[k] == node->nodes[i]->atom)
                return true;
        }
    }
    return false;
}

/* Whether some value that a demand's enumerations allow was not seen. */
static bool some_unseen(const struct nb_shape *shape, const struct nb_node *node,
                        const struct nb_seen *seen) {
    bool left = node->kind != NB_NODE_ENUM;
    for (uint32_t i = 0; i < node->n && node->kind == NB_NODE_AND; i++) {
        if (!some_unseen(shape, node->nodes[i], seen))
            return false;
    }
    for (uint32_t i = 0; i < node->n && !left; i++) {
        const struct nb_value *v = node->nodes[i]->value;
        left = v && v->kind == shape->kind && is_open(shape, node->nodes[i]) &&
               !nb_seen_has(seen, nb_hash_value(v));
    }
    return left;
}

/* Whether an array or object below `parent`, which is of this shape by now, can become one that did
 * not come before, where that is asked and where the values that it can have are listed. */
static bool item_left(struct nb_reader *r, const struct nb_frame *parent,
                      const struct nb_link *link, const struct nb_shape *shape) {
    if (!parent || parent->shape->kind != NB_VALUE_ARRAY || !parent->shape->unique ||
        !parent->seen || link->site->n_roots != 1 || shape->roots[0] == NB_TRUE)
        return true;
    const struct nb_demand *demand = link->site->roots[0];
    bool left = true;
    for (uint32_t i = 0; i < demand->n && left; i++)
        left = some_unseen(shape, demand->nodes[i], parent->seen);
    if (left)
        return true;
    /* Either it is one of those, or it came before. */
    static const uint64_t first[1] = {1};
    const struct nb_shape *after = fail_unique(r, parent->shape);
    bool repeat_dooms =
        !after || nb_state_doomed(r, parent->parent, parent->link, after->false_roots);
    return !repeat_dooms || !nb_state_doomed(r, parent, link, first);
}

/* A value ended, and roots of its link's site in `wrong` are false. */
static bool end_value(struct nb_reader *r, struct nb_state *out, const struct nb_link *link,
                      const uint64_t *wrong, uint64_t hash) {
    const struct nb_frame *top = out->top;
    bool fails = nb_any_bit(wrong, NB_WORDS(link->site->n_roots));
    out->hash = 0;
    out->link = NULL;
    out->shape = NULL;
    if (!top) {
        out->mode = NB_MODE_DONE;
        if (r->verdict)
            memcpy(r->verdict, wrong, NB_WORDS(link->site->n_roots) * sizeof *wrong);
        return !fails || r->verdict;
    }
    if (fails && link->all_kill && top->kills)
        return false;
    out->mode = NB_MODE_AFTER;
    bool array = top->shape->kind == NB_VALUE_ARRAY;
    if (!array && !fails && !top->hashes && top->shape->conjunction)
        return true; /* the key was counted when it ended */
    struct nb_frame *f = draft_of(r, top);
    if (!f)
        return false;
    struct nb_shape *shape = fails ? shape_after(r, top, link, wrong) : top->shape;
    if (array) {
        f->count++;
        if (shape && link->counts)
            shape = count_contained(r, f, shape, link, wrong);
        if (shape && shape->unique) {
            if (nb_seen_has(f->seen, hash))
                shape = fail_unique(r, shape);
            else if (!(f->seen = add_seen(r, f->seen, hash)))
                return false;
        }
        f->hash = top->hashes ? mix(f->hash, hash) : 0;
    } else {
        f->hash += mix(f->key, hash); /* the same in any order */
        f->key = 0;
        if (shape)
            shape = settle(r, f, shape, f->count, NO_KEY);
    }
    if (!shape)
        return false;
    f->shape = shape;
    if (shape != top->shape && shape_dooms(r, top, shape))
        return false;
    if (shape != top->shape) {
        /* Roots that are false and not the end: others may still be. */
        f->kills = top->kills && !nb_any_bit(shape->false_roots, shape->n_words);
    }
    out->top = keep(r);
    return out->top;
}

/* Whether a value for which these roots are false may end here, whatever came before: what
 * end_value says, but for values that came before. */
static bool would_end(struct nb_reader *r, const struct nb_state *s, const struct nb_link *link,
                      const uint64_t *wrong) {
    const struct nb_frame *top = s->top;
    bool fails = nb_any_bit(wrong, NB_WORDS(link->site->n_roots));
    if (!top)
        return !fails || r->verdict;
    if (fails && link->all_kill && top->kills)
        return false;
    bool array = top->shape->kind == NB_VALUE_ARRAY;
    if (!fails && (array ? !link->counts : top->shape->conjunction))
        return true;
    struct nb_shape *shape = fails ? shape_after(r, top, link, wrong) : top->shape;
    if (array && shape && link->counts) {
        struct nb_frame *f = draft_of(r, top);
        shape = f ? count_contained(r, f, shape, link, wrong) : NULL;
    } else if (!array && shape) {
        shape = settle(r, top, shape, top->count, NO_KEY);
    }
    return shape && (shape == top->shape || !shape_dooms(r, top, shape));
}

/* ---- atoms at the end of a container ---- */

static bool object_holds(const struct nb_frame *f, uint32_t in_family, const struct nb_atom *a) {
    const struct nb_family *family = f->shape->family;
    const struct nb_trie *keys = &family->keys;
    if (a->kind == NB_ATOM_OBJECT && (f->count < a->min || f->count > a->max))
        return false;
    const uint64_t *required = family->required + (size_t)in_family * family->n_words;
    for (uint32_t w = 0; w < family->n_words; w++) {
        if (required[w] & ~f->extra[w])
            return false;
    }
    for (uint32_t i = 0; i < a->n_dependencies; i++) {
        const struct nb_dependency *d = &a->dependencies[i];
        if (nb_bit(f->extra, (uint32_t)nb_trie_find(keys, d->key.text, d->key.n)) &&
            !nb_bit(f->extra, (uint32_t)nb_trie_find(keys, d->needs.text, d->needs.n)))
            return false;
    }
    return true;
}

static bool container_holds(const struct nb_frame *f, uint32_t i) {
    const struct nb_atom *a = f->shape->atoms[i];
    uint32_t in_family = f->shape->in_family[i];
    if (f->shape->kind == NB_VALUE_OBJECT)
        return object_holds(f, in_family, a);
    if (f->count < a->min || f->count > a->max)
        return false;
    uint32_t counter = f->shape->family->counter[in_family];
    return counter == UINT32_MAX || f->extra[counter] >= a->min_contains;
}

/* Which roots are false, once space->value says which atoms hold; puts the values back. */
static void judge(struct nb_reader *r, const struct nb_shape *shape, uint64_t *wrong) {
    nb_formula_begin(r->space);
    for (uint32_t i = 0; i < shape->n_roots; i++) {
        if (nb_formula_value(r->space, shape->roots[i]) != NB_TRUE)
            nb_set_bit(wrong, i);
    }
    for (uint32_t i = 0; i < shape->n_atoms; i++)
        r->space->value[shape->atoms[i]->id] = 2;
}

/* Room for a set of roots, zeroed: the buffer, or malloc'd. */
static uint64_t *root_set(struct nb_reader *r, uint32_t n_roots, uint64_t buffer[FEW_ROOTS / 64]) {
    uint64_t *set = buffer;
    if (n_roots > FEW_ROOTS)
        set = calloc(NB_WORDS(n_roots), sizeof *set);
    else
        memset(buffer, 0, NB_WORDS(n_roots) * sizeof *set);
    if (!set)
        r->failed = NB_ERR_MEMORY;
    return set;
}

static bool close_container(struct nb_reader *r, struct nb_state *out) {
    const struct nb_frame *f = out->top;
    struct nb_shape *shape = f->shape;
    uint64_t buffer[FEW_ROOTS / 64], *wrong = root_set(r, shape->n_roots, buffer);
    if (!wrong)
        return false;
    bool good = true;
    if (shape->conjunction && f->kills) {
        for (uint32_t i = 0; i < shape->n_atoms && good; i++)
            good = container_holds(f, i);
    } else {
        for (uint32_t i = 0; i < shape->n_atoms; i++)
            r->space->value[shape->atoms[i]->id] = container_holds(f, i);
        judge(r, shape, wrong);
        good = !nb_state_doomed(r, f->parent, f->link, wrong);
    }
    if (good) {
        uint64_t hash = container_hash(f->hash, shape->kind);
        out->top = f->parent;
        out->hash = 0;
        good = end_value(r, out, f->link, wrong, hash);
    }
    if (wrong != buffer)
        free(wrong);
    return good;
}

/* ---- members ---- */

/* Where branches ask for different members, their order is nobody's: what is asked first may have
 * to come last. */
static bool any_order(const struct nb_reader *r, const struct nb_frame *f) {
    return (r->flags & NB_READ_ANY_ORDER) || !f->shape->conjunction;
}

/* Whether an object whose conjunction fails need not be the end of all. */
static bool may_fail(struct nb_reader *r, const struct nb_frame *f) {
    static const uint64_t first[1] = {1};
    return !f->kills && !nb_state_doomed(r, f->parent, f->link, first);
}

/* In the schema's order: the first place from frame->place on whose member the conjunction asks
 * for. */
static uint32_t next_required(const struct nb_frame *f) {
    const struct nb_family *family = f->shape->family;
    if (!f->shape->conjunction)
        return UINT32_MAX;
    for (uint32_t place = f->place; place < family->keys.n; place++) {
        uint32_t rank = family->by_order[place];
        if (nb_bit(f->shape->required, rank) && !nb_bit(f->extra, rank))
            return place;
    }
    return UINT32_MAX;
}

static bool keys_ready(struct nb_reader *r, const struct nb_frame *f) {
    return f->shape->allowed || nb_shape_keys(r->space, f->shape);
}

/* Members that must come and have not. */
static uint32_t count_missing(const struct nb_frame *f) {
    uint32_t n = 0;
    for (uint32_t w = 0; w < f->shape->family->n_words; w++)
        n += (uint32_t)__builtin_popcountll(f->shape->required[w] & ~f->extra[w]);
    return n;
}

/* Whether with one more member, required or not, the conjunction can get neither too many nor too
 * few. */
static bool counts_fit(struct nb_reader *r, const struct nb_frame *f, bool required,
                       uint32_t place) {
    const struct nb_shape *shape = f->shape;
    const struct nb_family *family = shape->family;
    if (shape->most != UINT32_MAX &&
        f->count + 1 + count_missing(f) - (required ? 1 : 0) > shape->most)
        return false;
    if (shape->least <= f->count + 1 || shape->other_keys)
        return true;
    uint32_t room = 0;
    if (any_order(r, f)) {
        for (uint32_t w = 0; w < family->n_words; w++)
            room += (uint32_t)__builtin_popcountll(shape->allowed[w] & ~f->extra[w]);
        return f->count + room >= shape->least;
    }
    for (uint32_t p = place + 1; p < family->keys.n; p++)
        room += nb_bit(shape->allowed, family->by_order[p]);
    return f->count + 1 + room >= shape->least;
}

static bool counts_allow(struct nb_reader *r, const struct nb_frame *f, bool required,
                         uint32_t place) {
    return !f->shape->conjunction || counts_fit(r, f, required, place) || may_fail(r, f);
}

/* Whether a key that makes a root false is the end of all. */
static bool key_dooms(struct nb_reader *r, const struct nb_frame *f, uint32_t rank) {
    const struct nb_link *link = nb_link_key(r->space, f->shape, rank);
    return !link || nb_state_doomed(r, f, link, link->never) ||
           nb_state_doomed(r, f->parent, f->link, link->after->false_roots);
}

bool nb_member_possible(struct nb_reader *r, const struct nb_frame *f, uint32_t rank) {
    const struct nb_shape *shape = f->shape;
    if (nb_bit(f->extra, rank))
        return false;
    uint32_t place = shape->family->order[rank];
    if (!any_order(r, f) && (place < f->place || (place > next_required(f) && !may_fail(r, f))))
        return false;
    if (!nb_bit(shape->allowed, rank) && (f->kills || key_dooms(r, f, rank)))
        return false;
    if (presence_dooms(r, f, rank))
        return false;
    if (f->parent && f->parent->shape->unique) {
        const struct nb_link *link = nb_link_key(r->space, f->shape, rank);
        if (!link || !item_left(r, f->parent, f->link, link->after))
            return false;
    }
    return counts_allow(r, f, nb_bit(shape->required, rank), place);
}

bool nb_others_possible(struct nb_reader *r, const struct nb_frame *f) {
    if (!f->shape->other_keys &&
        (f->kills || nb_state_doomed(r, f->parent, f->link, f->shape->other_false)))
        return false;
    if (!any_order(r, f) && next_required(f) != UINT32_MAX && !may_fail(r, f))
        return false;
    if (presence_dooms(r, f, NO_KEY))
        return false;
    return counts_allow(r, f, false, f->shape->family->keys.n);
}

/* Whether some key can follow from this node of the trie. */
static bool settles(const struct nb_shape *shape) {
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        if (can_settle(shape->atoms[i]))
            return true;
    }
    return false;
}

static bool named_possible(struct nb_reader *r, const struct nb_frame *f, uint32_t node) {
    const struct nb_shape *shape = f->shape;
    const struct nb_trie_node *n = &shape->family->keys.nodes[node];
    if (!node)
        return false;
    bool all_alike = shape->conjunction ? shape->most == UINT32_MAX && shape->least <= f->count + 1
                                        : !settles(shape);
    all_alike &= !f->parent || !f->parent->shape->unique;
    if (f->kills && any_order(r, f) && all_alike) {
        for (uint32_t w = n->first / 64; w < NB_WORDS(n->end); w++) {
            uint64_t bits = shape->allowed[w] & ~f->extra[w];
            if (w == n->first / 64)
                bits &= ~UINT64_C(0) << n->first % 64;
            if (w == n->end / 64)
                bits &= (UINT64_C(1) << n->end % 64) - 1;
            if (bits)
                return true;
        }
        return false;
    }
    for (uint32_t rank = n->first; rank < n->end; rank++) {
        if (nb_member_possible(r, f, rank))
            return true;
    }
    return false;
}

/* Whether a key that no atom names can be, or (all) is, what the bytes up to `state` begin. */
static bool others_allow(struct nb_reader *r, const struct nb_frame *frame, uint32_t state,
                         bool all) {
    const struct nb_shape *shape = frame->shape;
    uint64_t wrong[FEW_ROOTS / 64] = {0};
    if (!shape->family->machine.n || shape->n_roots > FEW_ROOTS)
        return true;
    nb_shape_other_false(r->space, shape, state, all, wrong);
    if (!nb_any_bit(wrong, shape->n_words))
        return true;
    return !frame->kills && !nb_state_doomed(r, frame->parent, frame->link, wrong);
}

bool nb_others_begin(struct nb_reader *r, const struct nb_frame *frame, uint32_t state) {
    if (frame->kills)
        return !frame->shape->family->machine.n ||
               nb_shape_other_alive(r->space, frame->shape, state);
    return others_allow(r, frame, state, false);
}

/* ---- keys that are left
 *
 * Where patterns leave few keys to choose from, all that begin so may have come before. */

enum { MOST_LEVELS = 64, MOST_AT_A_LEVEL = 64, MOST_TRIED = 20000 };

uint64_t nb_others_taken(const struct nb_frame *frame) {
    return (uint64_t)frame->count + frame->shape->family->keys.n;
}

uint64_t nb_others_left(struct nb_reader *r, const struct nb_frame *frame, uint32_t state,
                        uint64_t want) {
    struct nb_machine *m = &frame->shape->family->machine;
    uint32_t at[2][MOST_AT_A_LEVEL] = {{state}}, n[2] = {1, 0};
    uint64_t ways[2][MOST_AT_A_LEVEL] = {{1}}, whole = 0;
    for (int level = 0; level < MOST_LEVELS; level++) {
        int now = level % 2, then = 1 - now;
        uint64_t begun = 0;
        n[then] = 0;
        for (uint32_t i = 0; i < n[now]; i++) {
            if (others_allow(r, frame, at[now][i], true))
                whole += ways[now][i];
            for (int byte = 0; byte < 256 && whole + begun < want; byte++) {
                uint32_t to = nb_machine_next(r->space, m, at[now][i], (uint8_t)byte), k = 0;
                if (r->space->failed || !nb_others_begin(r, frame, to))
                    continue;
                begun += ways[now][i];
                while (k < n[then] && at[then][k] != to)
                    k++;
                if (k == MOST_AT_A_LEVEL)
                    return want;
                if (k == n[then])
                    ways[then][n[then]++] = 0;
                at[then][k] = to;
                ways[then][k] += ways[now][i];
            }
            if (whole + begun >= want)
                return want;
        }
        if (!n[then])
            return whole;
    }
    return want;
}

/* A walk along all keys that go on from a state. */
struct left {
    struct nb_reader *r;
    const struct nb_frame *frame;
    uint32_t path[MOST_LEVELS]; /* of the machine's states */
    uint32_t n, tried;
};

/* Whether there is one that was not seen; where it is too hard to tell, yes. */
static bool find_left(struct left *l, uint32_t at, uint32_t node, uint64_t hash) {
    struct nb_family *f = l->frame->shape->family;
    if (l->n == MOST_LEVELS || ++l->tried > MOST_TRIED)
        return true;
    for (uint32_t i = 0; i < l->n; i++) {
        if (l->path[i] == at)
            return true; /* around and around: there are any number of them */
    }
    bool named = node && f->keys.nodes[node].ends;
    if (!named && others_allow(l->r, l->frame, at, true) && !nb_seen_has(l->frame->seen, hash))
        return true;
    l->path[l->n++] = at;
    for (int byte = 0; byte < 256; byte++) {
        uint32_t to = nb_machine_next(l->r->space, &f->machine, at, (uint8_t)byte);
        if (!l->r->space->failed && nb_others_begin(l->r, l->frame, to) &&
            find_left(l, to, nb_trie_next(&f->keys, node, (uint8_t)byte),
                      text_hash(hash, (uint8_t)byte)))
            return true;
    }
    l->n--;
    return false;
}

static bool others_left(struct nb_reader *r, const struct nb_state *s) {
    uint64_t taken = nb_others_taken(s->top);
    if (!s->top->shape->family->machine.n || !taken ||
        nb_others_left(r, s->top, s->at, taken + 1) > taken)
        return true;
    struct left l = {.r = r, .frame = s->top};
    return find_left(&l, s->at, s->node, s->hash);
}

static bool key_alive(struct nb_reader *r, const struct nb_state *s) {
    return named_possible(r, s->top, s->node) ||
           (nb_others_possible(r, s->top) && others_allow(r, s->top, s->at, false) &&
            others_left(r, s));
}

static bool begin_key(struct nb_reader *r, const struct nb_state *in, struct nb_state *out) {
    *out = *in;
    if (!keys_ready(r, in->top))
        return false;
    out->mode = NB_MODE_IN_KEY;
    out->node = NB_TRIE_ROOT;
    out->hash = 0;
    out->lexis = NB_LEX_PLAIN;
    struct nb_machine *m = &in->top->shape->family->machine;
    out->at = m->n ? nb_machine_start(r->space, m) : 0;
    return !r->space->failed && key_alive(r, out);
}

/* Whether another member can come at all. */
static bool more_members(struct nb_reader *r, const struct nb_frame *f) {
    struct nb_state key = {.top = f, .node = NB_TRIE_ROOT};
    struct nb_machine *m = &f->shape->family->machine;
    if (!keys_ready(r, f))
        return false;
    key.at = m->n ? nb_machine_start(r->space, m) : 0;
    return !r->space->failed && key_alive(r, &key);
}

/* Atoms that one more member is too many for fail. */
static struct nb_shape *count_member(struct nb_reader *r, struct nb_shape *shape, uint32_t count) {
    struct nb_shape *to = shape;
    for (uint32_t i = 0; i < shape->n_atoms && to; i++) {
        if (shape->atoms[i]->kind == NB_ATOM_OBJECT && shape->atoms[i]->max < count)
            to = nb_shape_fail(r->space, to, shape->atoms[i]);
    }
    return to;
}

static bool end_key(struct nb_reader *r, struct nb_state *out) {
    const struct nb_frame *top = out->top;
    struct nb_shape *shape = top->shape;
    struct nb_trie_node *node = &shape->family->keys.nodes[out->node];
    struct nb_link *link;
    bool named = out->node && node->ends;
    if (named ? !nb_member_possible(r, top, node->ends - 1)
              : !nb_others_possible(r, top) || !others_allow(r, top, out->at, true) ||
                    nb_seen_has(top->seen, out->hash))
        return false;
    link = named ? nb_link_key(r->space, shape, node->ends - 1)
                 : nb_link_other(r->space, shape, out->at);
    struct nb_frame *f = link ? draft_of(r, top) : NULL;
    if (!f)
        return false;
    if (named) {
        nb_set_bit(f->extra, node->ends - 1);
        f->place = shape->family->order[node->ends - 1] + 1;
    } else {
        f->place = shape->family->keys.n;
        if (!(f->seen = add_seen(r, top->seen, out->hash)))
            return false;
    }
    if (any_order(r, top))
        f->place = 0;
    f->count++;
    f->shape = count_member(r, link->after, f->count);
    if (f->shape)
        f->shape = settle(r, f, f->shape, f->count, named ? node->ends - 1 : NO_KEY);
    if (!f->shape)
        return false;
    if (f->shape != shape) {
        if (shape_dooms(r, top, f->shape))
            return false;
        f->kills = top->kills && !nb_any_bit(f->shape->false_roots, f->shape->n_words);
        if (f->shape != link->after || link->after != shape) {
            /* Atoms that failed ask nothing of the member any more. */
            link = named ? nb_link_key(r->space, f->shape, node->ends - 1)
                         : nb_link_other(r->space, f->shape, out->at);
            if (!link || !keys_ready(r, f))
                return false;
        }
    }
    f->key = top->hashes ? out->hash : 0;
    if (link->dead && f->kills)
        return false;
    out->top = keep(r);
    out->link = link;
    out->mode = NB_MODE_COLON;
    out->at = out->node = 0;
    out->hash = 0;
    return out->top;
}

/* ---- strings ---- */

/* A root of an open string is false: the end, or not. */
static bool lose(struct nb_reader *r, const struct nb_state *s, const uint64_t *wrong) {
    return !s->kills && !nb_state_doomed(r, s->top, s->link, wrong);
}

static bool lose_only(struct nb_reader *r, struct nb_state *s) {
    static const uint64_t first[1] = {1};
    s->lost = s->lost || (lose(r, s, first) && would_end(r, s, s->link, first));
    return s->lost;
}

void nb_string_ends(struct nb_reader *r, const struct nb_state *s, bool *fulfilled, bool *failed) {
    static const uint64_t first[1] = {1}, none[1] = {0};
    *fulfilled = would_end(r, s, s->link, none);
    *failed = !s->kills && lose(r, s, first) && would_end(r, s, s->link, first);
}

/* Whether a string of one root at most, at its beginning, may end as one that fulfils it or as one
 * that does not. */
static bool single_alive(struct nb_reader *r, const struct nb_state *s) {
    const struct nb_shape *shape = s->shape;
    if (s->kills || s->lost)
        return true; /* known by other ways */
    if (shape->string == NB_STRING_FREE)
        return would_end(r, s, s->link, shape->false_roots);
    bool fulfilled, failed;
    nb_string_ends(r, s, &fulfilled, &failed);
    return fulfilled || failed;
}

/* The roots of a string's machine that are false where the components in `good` are not. */
static void machine_wrong(const struct nb_shape *shape, const uint64_t *good, uint64_t *wrong) {
    for (uint32_t i = 0; i < shape->n_roots; i++) {
        uint32_t c = shape->component[i];
        if (c == UINT32_MAX ? shape->roots[i] != NB_TRUE : !nb_bit(good, c))
            nb_set_bit(wrong, i);
    }
}

/* Makes room for marks up to n, zeroed where they are new. */
static bool grow_marks(struct nb_reader *r, uint8_t **marks, uint32_t from, uint32_t n) {
    if (!nb_resize(marks, n, 1)) {
        r->failed = NB_ERR_MEMORY;
        return false;
    }
    memset(*marks + from, 0, n - from);
    return true;
}

/* Room for all states and sets that the machine has by now. */
static bool grow_outlook(struct nb_reader *r, struct nb_outlook *o) {
    const struct nb_machine *m = &o->shape->machine;
    if (m->n_states > o->n_states) {
        uint32_t n = m->n_states + m->n_states / 2 + 16;
        if (!grow_marks(r, &o->reaches, o->n_states, n))
            return false;
        o->n_states = n;
    }
    if (m->n_sets > o->n_sets) {
        uint32_t n = m->n_sets + m->n_sets / 2 + 16;
        if (!grow_marks(r, &o->ends, o->n_sets, n) || !grow_marks(r, &o->goes_on, o->n_sets, n))
            return false;
        o->n_sets = n;
    }
    return true;
}

static struct nb_outlook *outlook_of(struct nb_reader *r, const struct nb_state *s) {
    if (!r->outlooks && !(r->outlooks = calloc(NB_N_OUTLOOKS, sizeof *r->outlooks))) {
        r->failed = NB_ERR_MEMORY;
        return NULL;
    }
    uint64_t hash = mix((uintptr_t)s->top, (uintptr_t)s->link ^ (uintptr_t)s->shape);
    struct nb_outlook *o = &r->outlooks[hash >> 40 & (NB_N_OUTLOOKS - 1)];
    if (o->shape != s->shape || o->top != s->top || o->link != s->link ||
        o->verdict != r->verdict) {
        if (o->shape) {
            memset(o->reaches, 0, o->n_states);
            memset(o->ends, 0, o->n_sets);
            memset(o->goes_on, 0, o->n_sets);
        }
        o->shape = s->shape;
        o->top = s->top;
        o->link = s->link;
        o->verdict = r->verdict;
    }
    return grow_outlook(r, o) ? o : NULL;
}

/* Whether a string may end with these components accepting (`ends`), or go on with these alive. */
static bool set_does(struct nb_reader *r, const struct nb_state *s, const uint64_t *set,
                     bool ends) {
    uint64_t buffer[FEW_ROOTS / 64], *wrong = root_set(r, s->shape->n_roots, buffer);
    if (!wrong)
        return false;
    machine_wrong(s->shape, set, wrong);
    bool any = nb_any_bit(wrong, s->shape->n_words), good;
    if (ends)
        good = !(s->kills && any) && would_end(r, s, s->link, wrong);
    else
        good = !any || lose(r, s, wrong);
    if (wrong != buffer)
        free(wrong);
    return good;
}

static bool set_known(struct nb_reader *r, const struct nb_state *s, uint8_t *known, uint32_t set,
                      bool ends) {
    if (!known[set])
        known[set] = set_does(r, s, s->shape->machine.sets[set], ends) ? 1 : 2;
    return known[set] == 1;
}

enum { MOST_REACHED = 64 };

/* Whether some state in which the string may end can be reached, as far as a look at some dozens
 * of states can tell. What is found out of those on the way is kept. */
static bool end_reachable(struct nb_reader *r, const struct nb_state *s, struct nb_outlook *o,
                          uint32_t from) {
    struct nb_machine *m = &s->shape->machine;
    uint32_t met[MOST_REACHED] = {from}, by[MOST_REACHED] = {0}, n = 1;
    for (uint32_t i = 0; i < n; i++) {
        bool found = o->reaches[met[i]] == 1 ||
                     set_known(r, s, o->ends, m->states[met[i]].accepts_set, true);
        if (found) {
            for (uint32_t k = i; k; k = by[k])
                o->reaches[met[k]] = 1;
            return true;
        }
        for (uint32_t class = 0; class < m->lazy->n_classes && !o->reaches[met[i]]; class ++) {
            uint32_t to = nb_machine_next(r->space, m, met[i], m->lazy->byte_of[class]), k = 0;
            if (r->space->failed || !grow_outlook(r, o))
                return false;
            while (k < n && met[k] != to)
                k++;
            if (k < n || o->reaches[to] == 2)
                continue;
            if (n == MOST_REACHED)
                return true;
            met[n] = to;
            by[n++] = i;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        o->reaches[met[i]] = 2;
    return false;
}

bool nb_string_alive(struct nb_reader *r, const struct nb_state *s, uint32_t to) {
    struct nb_outlook *o = outlook_of(r, s);
    if (!o || !set_known(r, s, o->goes_on, s->shape->machine.states[to].alive_set, false))
        return false;
    if (!o->reaches[to])
        o->reaches[to] = end_reachable(r, s, o, to) ? 1 : 2;
    return o->reaches[to] == 1;
}

/* Whether some string of a set that begins with what leads to `node`, whose hash is given, is none
 * of the items of an array so far. */
static bool new_below(const struct nb_trie *set, uint32_t node, uint64_t hash,
                      const struct nb_frame *array) {
    const struct nb_trie_node *at = &set->nodes[node];
    if (at->end - at->first > array->count || (at->ends && !nb_seen_has(array->seen, hash)))
        return true;
    for (uint32_t c = at->child; c; c = set->nodes[c].sibling) {
        if (new_below(set, c, text_hash(hash, set->nodes[c].byte), array))
            return true;
    }
    return false;
}

static bool follow_machine(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    s->at = nb_machine_next(r->space, &s->shape->machine, s->at, byte);
    return !r->space->failed && nb_string_alive(r, s, s->at);
}

/* One byte of a string's or key's decoded text; `first` of a character. */
static bool feed(struct nb_reader *r, struct nb_state *s, uint8_t byte, bool first) {
    if (s->mode == NB_MODE_IN_KEY) {
        struct nb_family *f = s->top->shape->family;
        s->hash = text_hash(s->hash, byte);
        s->node = nb_trie_next(&f->keys, s->node, byte);
        if (f->machine.n)
            s->at = nb_machine_next(r->space, &f->machine, s->at, byte);
        return !r->space->failed;
    }
    struct nb_shape *shape = s->shape;
    if (s->hashes)
        s->hash = text_hash(s->hash, byte);
    switch (shape->string) {
    case NB_STRING_FREE:
        return true;
    case NB_STRING_LENGTH:
        s->length += first;
        return s->length <= shape->max || lose_only(r, s);
    case NB_STRING_SET:
        s->at = nb_trie_next(&shape->set, s->at, byte);
        return s->at ? !s->kills || !nb_state_once(r, s) ||
                           new_below(&shape->set, s->at, s->hash, s->top)
                     : lose_only(r, s);
    case NB_STRING_LAZY:
        s->at = nb_lazy_next(shape->language->lazy, s->at, byte);
        if (shape->language->lazy->failed)
            r->space->failed = shape->language->lazy->failed;
        if (!s->at)
            return lose_only(r, s);
        if (!s->kills && !s->lost && nb_lazy_accepts_all(shape->language->lazy, s->at)) {
            bool fulfilled, failed; /* it cannot become one that does not any more */
            nb_string_ends(r, s, &fulfilled, &failed);
            return fulfilled;
        }
        return true;
    case NB_STRING_MACHINE:
        return follow_machine(r, s, byte);
    }
    return false;
}

static bool feed_code(struct nb_reader *r, struct nb_state *s, uint32_t cp) {
    if (cp < 0x80)
        return feed(r, s, (uint8_t)cp, true);
    if (cp < 0x800)
        return feed(r, s, (uint8_t)(0xC0 | cp >> 6), true) &&
               feed(r, s, (uint8_t)(0x80 | (cp & 0x3F)), false);
    if (cp < 0x10000)
        return feed(r, s, (uint8_t)(0xE0 | cp >> 12), true) &&
               feed(r, s, (uint8_t)(0x80 | (cp >> 6 & 0x3F)), false) &&
               feed(r, s, (uint8_t)(0x80 | (cp & 0x3F)), false);
    return feed(r, s, (uint8_t)(0xF0 | cp >> 18), true) &&
           feed(r, s, (uint8_t)(0x80 | (cp >> 12 & 0x3F)), false) &&
           feed(r, s, (uint8_t)(0x80 | (cp >> 6 & 0x3F)), false) &&
           feed(r, s, (uint8_t)(0x80 | (cp & 0x3F)), false);
}

/* Whether characters have one spelling here. */
static bool one_spelling(const struct nb_reader *r, const struct nb_state *s) {
    return !(r->flags & NB_READ_ANY_SPELLING) &&
           (s->mode == NB_MODE_IN_KEY || s->shape->string > NB_STRING_LENGTH);
}

static bool alive_in_string(struct nb_reader *r, const struct nb_state *s) {
    return s->mode != NB_MODE_IN_KEY || key_alive(r, s);
}

static bool code_alive(struct nb_reader *r, const struct nb_state *s, uint32_t cp) {
    struct nb_state probe = *s;
    return feed_code(r, &probe, cp) && alive_in_string(r, &probe);
}

/* Whether some control character from `low` to `high` that has no short escape can come. */
static bool control_alive(struct nb_reader *r, const struct nb_state *s, uint32_t low,
                          uint32_t high) {
    for (uint32_t cp = low; cp <= high && cp < 0x20; cp++) {
        if ((cp < 8 || cp > 13 || cp == 11) && code_alive(r, s, cp))
            return true;
    }
    return false;
}

/* The shorter way out, if the string goes on with this character. */
static void try_way_out(struct nb_reader *r, const struct nb_state *s, uint32_t cp, uint32_t *least,
                        bool *stretches) {
    struct nb_state probe = *s;
    bool stretch;
    if (!feed_code(r, &probe, cp) || !probe.at)
        return;
    uint32_t way = nb_lazy_way_out(probe.shape->language->lazy, probe.at, &stretch);
    if (way < *least) {
        *least = way + 1;
        *stretches = stretch;
    }
}

uint32_t nb_string_way_out(struct nb_reader *r, const struct nb_state *s, bool *stretches) {
    static const uint8_t escaped[] = "\"\\\b\f\n\r\t";
    uint32_t least = UINT32_MAX;
    *stretches = false;
    switch (s->lexis) {
    case NB_LEX_ESCAPE:
        for (size_t i = 0; i < sizeof escaped - 1; i++)
            try_way_out(r, s, escaped[i], &least, stretches);
        /* fall through */
    case NB_LEX_HEX: {
        unsigned left = s->lexis == NB_LEX_HEX ? 4u - s->digits : 4;
        uint32_t low = s->lexis == NB_LEX_HEX ? (uint32_t)s->code << 4 * left : 0;
        uint32_t high = low | ((1u << 4 * left) - 1);
        for (uint32_t cp = low; cp <= high && cp < 0x20; cp++)
            if (cp < 8 || cp > 13 || cp == 11)
                try_way_out(r, s, cp, &least, stretches);
        return least;
    }
    case NB_LEX_PAIR:
    case NB_LEX_PAIR_U:
        return least;
    default:
        return nb_lazy_way_out(s->shape->language->lazy, s->at, stretches);
    }
}

static bool begin_escape(struct nb_reader *r, struct nb_state *s) {
    static const uint8_t escaped[] = "\"\\\b\f\n\r\t";
    s->lexis = NB_LEX_ESCAPE;
    if (!one_spelling(r, s)) /* any character, if there is room for one */
        return s->mode == NB_MODE_IN_KEY || s->shape->string != NB_STRING_LENGTH ||
               code_alive(r, s, 'a');
    for (size_t i = 0; i < sizeof escaped - 1; i++) {
        if (code_alive(r, s, escaped[i]))
            return true;
    }
    return control_alive(r, s, 0, 0x1F);
}

static bool end_code(struct nb_reader *r, struct nb_state *s, uint32_t cp) {
    s->lexis = NB_LEX_PLAIN;
    s->code = s->high = 0;
    s->digits = 0;
    return feed_code(r, s, cp) && alive_in_string(r, s);
}

static bool escape_letter(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = byte ? strchr(from, byte) : NULL;
    if (byte == 'u') {
        s->lexis = NB_LEX_HEX;
        s->code = 0;
        s->digits = 0;
        return !one_spelling(r, s) || control_alive(r, s, 0, 0x1F);
    }
    if (!known || (byte == '/' && one_spelling(r, s)))
        return false;
    return end_code(r, s, (uint8_t)to[known - from]);
}

static bool escape_digit(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    uint32_t digit = 99;
    if (byte >= '0' && byte <= '9')
        digit = byte - (uint32_t)'0';
    if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
        digit = (byte | 0x20u) - 'a' + 10;
    if (digit == 99)
        return false;
    s->code = (uint16_t)(s->code << 4 | digit);
    s->digits++;
    unsigned left = 4 - s->digits;
    uint32_t low = (uint32_t)s->code << 4 * left, high = low | ((1u << 4 * left) - 1);
    if (one_spelling(r, s) && !control_alive(r, s, low, high))
        return false;
    if (s->high) {
        if (high < 0xDC00 || low > 0xDFFF)
            return false;
        if (left)
            return true;
        return end_code(r, s, 0x10000 + ((uint32_t)(s->high - 0xD800) << 10) + (s->code - 0xDC00u));
    }
    if (low >= 0xDC00 && high <= 0xDFFF)
        return false;
    if (left)
        return true;
    if (s->code >= 0xD800 && s->code <= 0xDBFF) {
        s->high = s->code;
        s->code = 0;
        s->digits = 0;
        s->lexis = NB_LEX_PAIR;
        return true;
    }
    return end_code(r, s, s->code);
}

static bool in_range(uint8_t byte, uint8_t low, uint8_t high) {
    return byte >= low && byte <= high;
}

/* A byte from 0x80 on, or one that must be. */
static bool utf8_byte(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    bool first = s->lexis == NB_LEX_PLAIN;
    switch (s->lexis) {
    case NB_LEX_PLAIN:
        if (in_range(byte, 0xC2, 0xDF))
            s->lexis = NB_LEX_TAIL_1;
        else if (byte == 0xE0)
            s->lexis = NB_LEX_E0;
        else if (byte == 0xED)
            s->lexis = NB_LEX_ED;
        else if (in_range(byte, 0xE1, 0xEF))
            s->lexis = NB_LEX_TAIL_2;
        else if (byte == 0xF0)
            s->lexis = NB_LEX_F0;
        else if (in_range(byte, 0xF1, 0xF3))
            s->lexis = NB_LEX_TAIL_3;
        else if (byte == 0xF4)
            s->lexis = NB_LEX_F4;
        else
            return false;
        break;
    case NB_LEX_E0:
        if (!in_range(byte, 0xA0, 0xBF))
            return false;
        s->lexis = NB_LEX_TAIL_1;
        break;
    case NB_LEX_ED:
        if (!in_range(byte, 0x80, 0x9F))
            return false;
        s->lexis = NB_LEX_TAIL_1;
        break;
    case NB_LEX_F0:
        if (!in_range(byte, 0x90, 0xBF))
            return false;
        s->lexis = NB_LEX_TAIL_2;
        break;
    case NB_LEX_F4:
        if (!in_range(byte, 0x80, 0x8F))
            return false;
        s->lexis = NB_LEX_TAIL_2;
        break;
    default: /* NB_LEX_TAIL_1 to 3 */
        if (!in_range(byte, 0x80, 0xBF))
            return false;
        s->lexis--;
        break;
    }
    return feed(r, s, byte, first) && alive_in_string(r, s);
}

static bool end_string(struct nb_reader *r, struct nb_state *s) {
    struct nb_shape *shape = s->shape;
    uint64_t buffer[FEW_ROOTS / 64] = {0}, *wrong = buffer;
    bool right = true;
    switch (shape->string) {
    case NB_STRING_FREE:
        wrong = shape->false_roots;
        break;
    case NB_STRING_LENGTH:
        right = s->length >= shape->min && s->length <= shape->max;
        break;
    case NB_STRING_SET:
        right = s->at && shape->set.nodes[s->at].ends;
        break;
    case NB_STRING_LAZY:
        right = s->at && shape->language->lazy->accepts[s->at];
        break;
    case NB_STRING_MACHINE:
        wrong = root_set(r, shape->n_roots, buffer);
        if (!wrong)
            return false;
        machine_wrong(shape, shape->machine.states[s->at].accepts, wrong);
        break;
    }
    if (!right)
        wrong[0] = 1;
    bool good = right || !s->kills;
    s->lexis = 0;
    s->at = s->length = 0;
    s->lost = false;
    good = good && end_value(r, s, s->link, wrong, s->hash);
    if (wrong != buffer && wrong != shape->false_roots)
        free(wrong);
    return good;
}

static bool string_byte(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    switch (s->lexis) {
    case NB_LEX_PLAIN:
        if (byte == '"')
            return s->mode == NB_MODE_IN_KEY ? end_key(r, s) : end_string(r, s);
        if (byte == '\\')
            return begin_escape(r, s);
        if (byte < 0x20)
            return false;
        if (byte < 0x80)
            return feed(r, s, byte, true) && alive_in_string(r, s);
        return utf8_byte(r, s, byte);
    case NB_LEX_ESCAPE:
        return escape_letter(r, s, byte);
    case NB_LEX_HEX:
        return escape_digit(r, s, byte);
    case NB_LEX_PAIR:
        s->lexis = NB_LEX_PAIR_U;
        return byte == '\\';
    case NB_LEX_PAIR_U:
        s->lexis = NB_LEX_HEX;
        return byte == 'u';
    default:
        return utf8_byte(r, s, byte);
    }
}

/* ---- numbers ---- */

/* Of texts; those of schemas end at NB_DECIMAL_MAX_EXPONENT, so that a text's number can be
 * compared even if its exponent is cut off, however many zeros it has beside it. */
enum { MOST_EXPONENT = 1000000000 };

struct nb_decimal nb_state_number(const struct nb_state *s) {
    const struct nb_number *n = &s->number;
    int32_t e = n->exponent_negative ? -n->exponent : n->exponent;
    return nb_decimal_normal((struct nb_decimal){.digits = n->digits,
                                                 .exponent = n->scale + e,
                                                 .negative = n->negative && (n->digits || n->more),
                                                 .more = n->more});
}

static void add_digit(struct nb_number *n, uint8_t byte, bool fraction) {
    if (n->n_digits < NB_DECIMAL_DIGITS) {
        n->digits = n->digits * 10 + (unsigned)(byte - '0');
        n->n_digits += n->digits != 0;
        n->scale -= fraction;
    } else {
        n->more |= byte != '0';
        n->scale += !fraction;
    }
    if (!fraction && n->n_whole < 255)
        n->n_whole++;
}

static bool is_digit(uint8_t byte) {
    return byte >= '0' && byte <= '9';
}

/* Phases, by RFC 8259; false where the byte does not go on with a number. */
static bool number_phase(struct nb_state *s, uint8_t byte) {
    struct nb_number *n = &s->number;
    bool digit = is_digit(byte), e = byte == 'e' || byte == 'E';
    switch (s->phase) {
    case NB_NUMBER_MINUS:
        s->phase = byte == '0' ? NB_NUMBER_ZERO : NB_NUMBER_INTEGER;
        if (digit)
            add_digit(n, byte, false);
        return digit;
    case NB_NUMBER_INTEGER:
        if (digit) {
            add_digit(n, byte, false);
            return true;
        }
        /* fall through */
    case NB_NUMBER_ZERO:
        s->phase = e ? NB_NUMBER_E : NB_NUMBER_POINT;
        return e || byte == '.';
    case NB_NUMBER_POINT:
    case NB_NUMBER_FRACTION:
        if (digit)
            add_digit(n, byte, true);
        e &= s->phase == NB_NUMBER_FRACTION;
        s->phase = e ? NB_NUMBER_E : NB_NUMBER_FRACTION;
        return digit || e;
    case NB_NUMBER_E:
        if (byte == '+' || byte == '-') {
            s->phase = NB_NUMBER_SIGN;
            n->exponent_negative = byte == '-';
            return true;
        }
        /* fall through */
    default:
        s->phase = NB_NUMBER_EXPONENT;
        if (digit && n->exponent <= MOST_EXPONENT / 10 - 1)
            n->exponent = n->exponent * 10 + (byte - '0');
        else if (digit)
            n->more |= n->digits != 0;
        n->n_exponent += n->n_exponent < 255;
        return digit;
    }
}

static bool number_complete(const struct nb_state *s) {
    return s->phase == NB_NUMBER_ZERO || s->phase == NB_NUMBER_INTEGER ||
           s->phase == NB_NUMBER_FRACTION || s->phase == NB_NUMBER_EXPONENT;
}

bool nb_number_holds(const struct nb_atom *a, struct nb_decimal v, bool written_whole) {
    if (a->kind == NB_ATOM_NUMBERS) {
        for (uint32_t i = 0; i < a->n; i++) {
            if (nb_decimal_compare(a->numbers[i], v) == 0)
                return true;
        }
        return false;
    }
    if (a->integer && (a->written_integer ? !written_whole : !nb_decimal_is_integer(v)))
        return false;
    if (a->has_least) {
        int c = nb_decimal_compare(v, a->least);
        if (c < 0 || (c == 0 && a->above_least))
            return false;
    }
    if (a->has_most) {
        int c = nb_decimal_compare(v, a->most);
        if (c > 0 || (c == 0 && a->below_most))
            return false;
    }
    return !a->has_multiple || nb_decimal_is_multiple(v, a->multiple_of);
}

bool nb_number_would_do(struct nb_reader *r, const struct nb_state *s, struct nb_decimal v) {
    const struct nb_shape *shape = s->shape;
    uint64_t wrong[FEW_ROOTS / 64] = {0};
    if (shape->n_roots > FEW_ROOTS)
        return true;
    for (uint32_t i = 0; i < shape->n_atoms; i++)
        r->space->value[shape->atoms[i]->id] =
            nb_number_holds(shape->atoms[i], v, nb_decimal_is_integer(v));
    judge(r, shape, wrong);
    return !(s->kills && nb_any_bit(wrong, shape->n_words)) && would_end(r, s, s->link, wrong);
}

/* Whether the digits that were kept tell if an atom holds: it can be compared with any number of a
 * schema, but not divided. */
static bool number_decides(const struct nb_atom *a, struct nb_decimal v, bool written_whole) {
    return !v.more || a->kind == NB_ATOM_NUMBERS ||
           (!a->has_multiple && (!a->integer || written_whole || v.exponent < 0));
}

static bool end_number(struct nb_reader *r, struct nb_state *s) {
    struct nb_shape *shape = s->shape;
    if (!number_complete(s))
        return false;
    uint64_t buffer[FEW_ROOTS / 64], *wrong = root_set(r, shape->n_roots, buffer), hash = 0;
    if (!wrong)
        return false;
    bool good = true;
    struct nb_decimal v = {0};
    if (shape->n_atoms || s->hashes)
        v = nb_state_number(s);
    if (s->hashes) {
        hash = number_hash(v);
        r->inexact |= v.more;
    }
    if (shape->n_atoms) {
        bool whole = s->phase == NB_NUMBER_ZERO || s->phase == NB_NUMBER_INTEGER;
        for (uint32_t i = 0; i < shape->n_atoms; i++) {
            r->space->value[shape->atoms[i]->id] = nb_number_holds(shape->atoms[i], v, whole);
            r->inexact |= !number_decides(shape->atoms[i], v, whole);
        }
        judge(r, shape, wrong);
    } else {
        memcpy(wrong, shape->false_roots, shape->n_words * sizeof *wrong);
    }
    if (s->kills && nb_any_bit(wrong, shape->n_words))
        good = false;
    s->phase = 0;
    s->number = (struct nb_number){0};
    good = good && end_value(r, s, s->link, wrong, hash);
    if (wrong != buffer)
        free(wrong);
    return good;
}

/* Spellings that are not for writing: see NB_READ_ANY_SPELLING. */
static bool number_spelling(const struct nb_state *s) {
    const struct nb_number *n = &s->number;
    if (s->phase >= NB_NUMBER_E)
        return n->n_whole == 1 && n->n_digits == 1 - n->scale && n->exponent <= 300 &&
               n->n_exponent <= 3;
    /* Where a digit must come, there is room for it. */
    if (s->phase == NB_NUMBER_POINT)
        return n->n_digits < NB_MOST_FRACTION_DIGITS;
    return n->n_digits <=
               (s->phase == NB_NUMBER_FRACTION ? NB_MOST_FRACTION_DIGITS : NB_DECIMAL_DIGITS - 1) &&
           n->scale > -60;
}

static bool number_byte(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    if (!number_phase(s, byte))
        return false;
    if (r->flags & NB_READ_ANY_SPELLING)
        return true;
    if (!number_spelling(s) || !nb_number_alive(r, s))
        return false;
    /* Where no digit fits any more, it must do as it is. */
    bool full = s->phase == NB_NUMBER_FRACTION &&
                (s->number.n_digits >= NB_MOST_FRACTION_DIGITS || s->number.scale <= -59);
    return !full || nb_number_would_do(r, s, nb_state_number(s));
}

/* ---- the beginning of a value ---- */

static bool begin_container(struct nb_reader *r, struct nb_state *out, bool object) {
    struct nb_shape *shape = out->shape;
    uint32_t n_extra = object ? shape->family->n_words : shape->family->n_counters;
    struct nb_frame *f = draft(r, n_extra);
    if (!f)
        return false;
    f->parent = out->top;
    f->link = out->link;
    f->shape = shape;
    f->depth = out->top ? out->top->depth + 1 : 1;
    f->kills = out->kills;
    f->hashes = out->hashes;
    if (f->depth > NB_MAX_NESTING)
        return false;
    const struct nb_frame *parent = f->parent;
    const struct nb_frame *kept = keep(r);
    if (!kept || !item_left(r, parent, out->link, shape))
        return false;
    out->top = kept;
    if (object && out->top && shape->conjunction && out->kills) {
        if (!keys_ready(r, out->top))
            return false;
        for (uint32_t w = 0; w < shape->family->n_words; w++) {
            if (shape->required[w] & ~shape->allowed[w])
                return false;
        }
        if (count_missing(out->top) > shape->most)
            return false;
        if (shape->least > 0 && !more_members(r, out->top))
            return false;
    }
    if (!object && shape->conjunction && out->kills) {
        /* Items that must be, and no value can be. */
        uint64_t least = 0, most = UINT64_MAX;
        for (uint32_t i = 0; i < shape->n_atoms; i++) {
            const struct nb_atom *a = shape->atoms[i];
            least = a->min > least ? a->min : least;
            least = a->contains && a->min_contains > least ? a->min_contains : least;
            most = a->max < most ? a->max : most;
        }
        if (least > most)
            return false;
        for (uint64_t i = 0; i < least && i <= shape->family->n_prefix; i++) {
            const struct nb_link *link = nb_link_item(r->space, shape, i);
            if (!link || link->dead)
                return false;
        }
    }
    out->mode = object ? NB_MODE_MEMBER : NB_MODE_ITEM;
    out->link = NULL;
    out->shape = NULL;
    out->kills = out->hashes = false;
    return out->top;
}

static bool begin_value(struct nb_reader *r, const struct nb_state *in, struct nb_state *out,
                        const struct nb_link *link, uint8_t byte) {
    static const uint8_t of_byte[256] = {
        ['n'] = NB_VALUE_NULL + 1,   ['f'] = NB_VALUE_FALSE + 1,  ['t'] = NB_VALUE_TRUE + 1,
        ['"'] = NB_VALUE_STRING + 1, ['['] = NB_VALUE_ARRAY + 1,  ['{'] = NB_VALUE_OBJECT + 1,
        ['-'] = NB_VALUE_NUMBER + 1, ['0'] = NB_VALUE_NUMBER + 1, ['1'] = NB_VALUE_NUMBER + 1,
        ['2'] = NB_VALUE_NUMBER + 1, ['3'] = NB_VALUE_NUMBER + 1, ['4'] = NB_VALUE_NUMBER + 1,
        ['5'] = NB_VALUE_NUMBER + 1, ['6'] = NB_VALUE_NUMBER + 1, ['7'] = NB_VALUE_NUMBER + 1,
        ['8'] = NB_VALUE_NUMBER + 1, ['9'] = NB_VALUE_NUMBER + 1};
    if (!of_byte[byte])
        return false;
    enum nb_value_kind kind = (enum nb_value_kind)(of_byte[byte] - 1);
    struct nb_shape *shape = nb_shape_of(r->space, link->site, kind);
    if (!shape)
        return false;
    bool kills = link->all_kill && (!in->top || in->top->kills);
    if (nb_any_bit(shape->false_roots, shape->n_words)) {
        if (kills || nb_state_doomed(r, in->top, link, shape->false_roots))
            return false;
    }
    *out = *in;
    out->link = link;
    out->shape = shape;
    out->kills = kills;
    out->hashes = in->top && (in->top->hashes || in->top->shape->unique);
    out->hash = 0;
    switch (kind) {
    case NB_VALUE_STRING:
        out->mode = NB_MODE_STRING;
        out->lexis = NB_LEX_PLAIN;
        out->length = 0;
        out->lost = false;
        if (shape->string == NB_STRING_LAZY)
            out->at = shape->language->start;
        else if (shape->string == NB_STRING_MACHINE)
            out->at = nb_machine_start(r->space, &shape->machine);
        else
            out->at = NB_TRIE_ROOT;
        if (shape->string == NB_STRING_SET && shape->set.n && kills && nb_state_once(r, out) &&
            !new_below(&shape->set, NB_TRIE_ROOT, 0, out->top))
            return false;
        if (shape->string == NB_STRING_SET ? !shape->set.n
                                           : shape->string == NB_STRING_LAZY && !out->at)
            return lose_only(r, out);
        if (shape->string == NB_STRING_LENGTH && shape->min > shape->max)
            return lose_only(r, out);
        return shape->string == NB_STRING_MACHINE ? nb_string_alive(r, out, out->at)
                                                  : single_alive(r, out);
    case NB_VALUE_NUMBER:
        out->mode = NB_MODE_NUMBER;
        out->number = (struct nb_number){.negative = byte == '-'};
        out->phase = NB_NUMBER_MINUS;
        if (byte == '-')
            return (r->flags & NB_READ_ANY_SPELLING) || nb_number_alive(r, out);
        return number_byte(r, out, byte);
    case NB_VALUE_ARRAY:
    case NB_VALUE_OBJECT:
        return (shape->n_atoms || would_end(r, out, link, shape->false_roots)) &&
               begin_container(r, out, kind == NB_VALUE_OBJECT);
    default:
        out->mode = NB_MODE_WORD;
        out->word = 1;
        if (!would_end(r, out, link, shape->false_roots))
            return false;
        return !nb_state_once(r, out) || !nb_seen_has(out->top->seen, word_hash(kind));
    }
}

static bool word_byte(struct nb_reader *r, struct nb_state *s, uint8_t byte) {
    static const char *const words[] = {"null", "false", "true"};
    const char *word = words[s->shape->kind];
    if (byte != (uint8_t)word[s->word])
        return false;
    if (word[++s->word])
        return true;
    s->word = 0;
    return end_value(r, s, s->link, s->shape->false_roots, word_hash(s->shape->kind));
}

/* The array as it is once another item comes, and the item's link; NULL if none can. */
static const struct nb_link *next_item(struct nb_reader *r, const struct nb_frame **frame) {
    const struct nb_frame *top = *frame;
    struct nb_shape *shape = top->shape;
    for (uint32_t i = 0; i < top->shape->n_atoms && shape; i++) {
        if (top->shape->atoms[i]->max <= top->count)
            shape = nb_shape_fail(r->space, shape, top->shape->atoms[i]);
    }
    if (!shape)
        return NULL;
    if (shape != top->shape) {
        if (nb_state_doomed(r, top->parent, top->link, shape->false_roots))
            return NULL;
        struct nb_frame *f = draft_of(r, top);
        if (!f)
            return NULL;
        f->shape = shape;
        f->kills = top->kills && !nb_any_bit(shape->false_roots, shape->n_words);
        *frame = top = keep(r);
        if (!top)
            return NULL;
    }
    const struct nb_link *link = nb_link_item(r->space, shape, top->count);
    if (!link || (link->dead && top->kills) || nb_state_doomed(r, top, link, link->never))
        return NULL;
    return link;
}

static bool begin_item(struct nb_reader *r, const struct nb_state *in, struct nb_state *out,
                       uint8_t byte) {
    struct nb_state moved = *in;
    const struct nb_link *link = next_item(r, &moved.top);
    return link && begin_value(r, &moved, out, link, byte);
}

/* Whether an array can go on. */
static bool more_items(struct nb_reader *r, const struct nb_frame *f) {
    return next_item(r, &f) != NULL;
}

static bool after_value(struct nb_reader *r, const struct nb_state *in, struct nb_state *out,
                        uint8_t byte) {
    bool object = in->top->shape->kind == NB_VALUE_OBJECT;
    *out = *in;
    if (byte == ',') {
        out->mode = object ? NB_MODE_KEY : NB_MODE_VALUE;
        return object ? more_members(r, in->top) : more_items(r, in->top);
    }
    return byte == (object ? '}' : ']') && close_container(r, out);
}

static bool is_space(uint8_t byte) {
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

bool nb_state_step(struct nb_reader *r, const struct nb_state *in, struct nb_state *out,
                   uint8_t byte) {
    switch (in->mode) {
    case NB_MODE_STRING:
    case NB_MODE_IN_KEY:
        *out = *in;
        return string_byte(r, out, byte);
    case NB_MODE_WORD:
        *out = *in;
        return word_byte(r, out, byte);
    case NB_MODE_NUMBER: {
        *out = *in;
        if (is_digit(byte) || byte == '.' || byte == 'e' || byte == 'E' || byte == '+' ||
            byte == '-')
            return number_byte(r, out, byte);
        struct nb_state ended = *in;
        return end_number(r, &ended) && nb_state_step(r, &ended, out, byte);
    }
    case NB_MODE_RAW:
        *out = *in;
        out->at = nb_lazy_next(r->raw, in->at, byte);
        return out->at;
    default:
        break;
    }
    if (is_space(byte)) {
        *out = *in;
        return r->flags & NB_READ_FLEXIBLE && in->mode != NB_MODE_DEAD;
    }
    switch (in->mode) {
    case NB_MODE_VALUE:
        if (!in->link)
            return begin_item(r, in, out, byte);
        return begin_value(r, in, out, in->link, byte);
    case NB_MODE_ITEM:
        if (byte == ']') {
            *out = *in;
            return close_container(r, out);
        }
        return more_items(r, in->top) && begin_item(r, in, out, byte);
    case NB_MODE_MEMBER:
        if (byte == '}') {
            *out = *in;
            return close_container(r, out);
        }
        /* fall through */
    case NB_MODE_KEY:
        return byte == '"' && begin_key(r, in, out);
    case NB_MODE_COLON:
        *out = *in;
        out->mode = NB_MODE_VALUE;
        return byte == ':';
    case NB_MODE_AFTER:
        return after_value(r, in, out, byte);
    default:
        return false;
    }
}

void nb_state_start(struct nb_reader *r, struct nb_state *out) {
    *out = (struct nb_state){.mode = NB_MODE_VALUE, .link = &r->space->root};
}

bool nb_state_end_number(struct nb_reader *r, const struct nb_state *in, struct nb_state *out) {
    *out = *in;
    return end_number(r, out);
}

bool nb_state_can_end(struct nb_reader *r, const struct nb_state *s) {
    if (s->mode == NB_MODE_RAW)
        return r->raw->accepts[s->at];
    if (s->mode == NB_MODE_NUMBER && !s->top) {
        struct nb_state ended = *s;
        return end_number(r, &ended);
    }
    return s->mode == NB_MODE_DONE;
}
