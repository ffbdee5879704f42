#include "grammar/program.h"

#include "grammar/grow.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum nb_status try_status = (call);                                                        \
        if (try_status != NB_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

/* A set of code points as instructions, to be stamped wherever it is needed. Targets below are
 * indices into the stamp, TO_NEXT what follows the set. */
enum { TO_NEXT = UINT32_MAX, NOWHERE = UINT32_MAX - 1 };

struct stamp {
    const struct nb_re *of;
    struct nb_inst *insts;  /* distance: to what follows */
    uint32_t n, cap, entry; /* entry: index, TO_NEXT never, NOWHERE for the empty set */
};

struct compiler {
    struct nb_program *p;
    struct nb_error *err;
    uint32_t pattern;
    uint8_t flags; /* NB_INST_PLAIN, NB_INST_UNIFORM */
    bool behind;   /* within a lookbehind */
    uint64_t trackers;
    struct stamp *stamps;
    size_t n_stamps, cap_stamps;
    /* The lookbehinds that have trackers; copies of one share it. */
    const struct nb_re *tracked[NB_MAX_TRACKERS];
};

/* ---- Growing ---- */

/* Makes room for `more` elements. */
static enum nb_status grow(void *array, uint32_t n, uint32_t more, uint32_t *cap, size_t size,
                           const char *what, struct nb_error *err) {
    if (nb_grow(array, n, more, cap, size))
        return NB_OK;
    return nb_fail_memory(err, ((size_t)n + more) * size, what);
}

void nb_program_free(struct nb_program *program) {
    free(program->insts);
    free(program->copies);
    free(program->sets);
    free(program->switches);
    free(program->set_table);
    free(program->pattern_trackers);
    *program = (struct nb_program){0};
}

static enum nb_status too_large(struct nb_error *err) {
    return nb_fail(err, NB_ERR_LIMIT,
                   "the pattern is too large written out: more than %d steps; make the counts in "
                   "its braces smaller, or use maxLength",
                   NB_MAX_INSTS);
}

static uint32_t hash_set(const struct nb_byte_set *set) {
    uint64_t h = 0;
    for (int i = 0; i < 4; i++)
        h = (h ^ set->bits[i]) * UINT64_C(0x9E3779B97F4A7C15), h ^= h >> 29;
    return (uint32_t)(h >> 16);
}

static enum nb_status grow_set_table(struct nb_program *p, struct nb_error *err) {
    uint32_t size = p->set_table_size ? 2 * p->set_table_size : 128;
    uint32_t *table = calloc(size, sizeof *table);
    if (!table)
        return nb_fail_memory(err, size * sizeof *table, "sets of bytes");
    for (uint32_t i = 0; i < p->n_sets; i++) {
        uint32_t at = hash_set(&p->sets[i]) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i + 1;
    }
    free(p->set_table);
    p->set_table = table;
    p->set_table_size = size;
    return NB_OK;
}

enum nb_status nb_program_set(struct nb_program *p, const struct nb_byte_set *set, uint16_t *out,
                              struct nb_error *err) {
    if (2 * p->n_sets >= p->set_table_size)
        TRY(grow_set_table(p, err));
    uint32_t at = hash_set(set) & (p->set_table_size - 1);
    for (; p->set_table[at]; at = (at + 1) & (p->set_table_size - 1))
        if (!memcmp(&p->sets[p->set_table[at] - 1], set, sizeof *set)) {
            *out = (uint16_t)(p->set_table[at] - 1);
            return NB_OK;
        }
    if (p->n_sets == UINT16_MAX)
        return too_large(err);
    TRY(grow(&p->sets, p->n_sets, 1, &p->cap_sets, sizeof *p->sets, "sets of bytes", err));
    p->sets[p->n_sets++] = *set;
    p->set_table[at] = p->n_sets;
    *out = (uint16_t)(p->n_sets - 1);
    return NB_OK;
}

/* ---- Sets of code points as bytes of UTF-8 ---- */

static enum nb_status stamp_inst(struct compiler *c, struct stamp *stamp, struct nb_inst inst,
                                 uint32_t *at) {
    TRY(grow(&stamp->insts, stamp->n, 1, &stamp->cap, sizeof inst, "a set of characters", c->err));
    stamp->insts[stamp->n] = inst;
    *at = stamp->n++;
    return NB_OK;
}

/* Bytes that lead to the same place. */
struct group {
    uint64_t to; /* wide, so that there is no padding: groups are compared as bytes */
    struct nb_byte_set bytes;
};

struct groups {
    struct group list[64];
    uint32_t n;
};

static void group_add(struct groups *groups, uint32_t to, uint8_t lo, uint8_t hi) {
    uint32_t i = 0;
    while (i < groups->n && groups->list[i].to != to)
        i++;
    if (i == groups->n)
        groups->list[groups->n++] = (struct group){.to = to};
    nb_byte_set_add(&groups->list[i].bytes, lo, hi);
}

/* The number of a switch, of recent ones that are equal the same. */
static enum nb_status find_switch(struct compiler *c, const struct nb_switch *sw, uint16_t *out) {
    struct nb_program *p = c->p;
    for (uint32_t i = p->n_switches; i-- > 0 && i + 256 >= p->n_switches;)
        if (!memcmp(&p->switches[i], sw, sizeof *sw)) {
            *out = (uint16_t)i;
            return NB_OK;
        }
    if (p->n_switches == UINT16_MAX)
        return too_large(c->err);
    TRY(grow(&p->switches, p->n_switches, 1, &p->cap_switches, sizeof *p->switches,
             "a set of characters", c->err));
    p->switches[p->n_switches] = *sw;
    *out = (uint16_t)p->n_switches++;
    return NB_OK;
}

/* An instruction for one of the groups. */
static enum nb_status stamp_groups(struct compiler *c, struct stamp *stamp,
                                   const struct groups *groups, uint32_t *entry) {
    struct nb_switch sw;
    struct nb_inst inst = {.op = NB_OP_CHAR, .x = TO_NEXT};
    uint32_t least = UINT32_MAX;
    for (int byte = 0; byte < 256; byte++)
        sw.to[byte] = NB_SWITCH_NOWHERE;
    for (uint32_t i = 0; i < groups->n; i++) {
        const struct group *group = &groups->list[i];
        /* The classes of bytes come from these sets. */
        TRY(nb_program_set(c->p, &group->bytes, &inst.set, c->err));
        bool whole = group->to == TO_NEXT;
        int32_t to = whole ? NB_SWITCH_WHOLE : (int32_t)group->to - (int32_t)stamp->n;
        uint32_t distance = whole ? 1 : stamp->insts[group->to].distance + 1;
        if (to <= NB_SWITCH_NOWHERE)
            return too_large(c->err);
        least = distance < least ? distance : least;
        for (int w = 0; w < 4; w++)
            for (uint64_t bits = group->bytes.bits[w]; bits; bits &= bits - 1)
                sw.to[64 * w + __builtin_ctzll(bits)] = (int16_t)to;
    }
    *entry = NOWHERE;
    if (!groups->n)
        return NB_OK;
    inst.distance = least;
    if (groups->n == 1) {
        inst.op = NB_OP_BYTE;
        inst.x = (uint32_t)groups->list[0].to;
    } else {
        TRY(find_switch(c, &sw, &inst.set));
    }
    return stamp_inst(c, stamp, inst, entry);
}

/* What is needed while one set is compiled. Continuations are shared where they are equal. */
struct utf8 {
    const struct nb_cp_range *ranges;
    uint32_t n;
    uint32_t lo, hi; /* only these code points: one length of encoding */
    uint32_t full[4];
    struct {
        struct groups groups;
        uint32_t entry;
        int level;
    } * seen;
    uint32_t n_seen, cap_seen;
};

/* The part of [lo, hi] in the set: 0 none, 1 some, 2 all. */
static int coverage(const struct utf8 *u, uint32_t lo, uint32_t hi) {
    uint32_t a = 0, b = u->n;
    while (a < b) {
        uint32_t mid = (a + b) / 2;
        if (u->ranges[mid].hi < lo)
            a = mid + 1;
        else
            b = mid;
    }
    if (a == u->n || u->ranges[a].lo > hi || hi < u->lo || lo > u->hi)
        return 0;
    if (u->ranges[a].lo <= lo && u->ranges[a].hi >= hi && lo >= u->lo && hi <= u->hi)
        return 2;
    /* Some, unless what there is lies outside of [u->lo, u->hi]. */
    for (; a < u->n && u->ranges[a].lo <= hi; a++) {
        uint32_t x = u->ranges[a].lo > lo ? u->ranges[a].lo : lo;
        uint32_t y = u->ranges[a].hi < hi ? u->ranges[a].hi : hi;
        if (x <= u->hi && y >= u->lo)
            return 1;
    }
    return 0;
}

static enum nb_status full_level(struct compiler *c, struct utf8 *u, struct stamp *stamp, int level,
                                 uint32_t *entry) {
    if (u->full[level] == NOWHERE) {
        struct groups groups = {.n = 0};
        uint32_t to = TO_NEXT;
        if (level > 1)
            TRY(full_level(c, u, stamp, level - 1, &to));
        group_add(&groups, to, 0x80, 0xBF);
        TRY(stamp_groups(c, stamp, &groups, &u->full[level]));
    }
    *entry = u->full[level];
    return NB_OK;
}

static enum nb_status shared_groups(struct compiler *c, struct utf8 *u, struct stamp *stamp,
                                    int level, const struct groups *groups, uint32_t *entry) {
    for (uint32_t i = 0; i < u->n_seen; i++)
        if (u->seen[i].level == level && u->seen[i].groups.n == groups->n &&
            !memcmp(u->seen[i].groups.list, groups->list, groups->n * sizeof *groups->list)) {
            *entry = u->seen[i].entry;
            return NB_OK;
        }
    TRY(stamp_groups(c, stamp, groups, entry));
    if (groups->n > 8 || u->n_seen >= 256)
        return NB_OK;
    TRY(grow(&u->seen, u->n_seen, 1, &u->cap_seen, sizeof *u->seen, "a set of characters", c->err));
    u->seen[u->n_seen].groups = *groups;
    u->seen[u->n_seen].entry = *entry;
    u->seen[u->n_seen++].level = level;
    return NB_OK;
}

/* `level` continuation bytes, of code points from `base` on. */
static enum nb_status continuation(struct compiler *c, struct utf8 *u, struct stamp *stamp,
                                   int level, uint32_t base, uint32_t *entry) {
    uint32_t span = UINT32_C(1) << (6 * level);
    int covered = coverage(u, base, base + span - 1);
    if (covered == 0) {
        *entry = NOWHERE;
        return NB_OK;
    }
    if (level == 0) {
        *entry = TO_NEXT;
        return NB_OK;
    }
    if (covered == 2)
        return full_level(c, u, stamp, level, entry);
    struct groups groups = {.n = 0};
    for (uint32_t i = 0; i < 64; i++) {
        uint32_t to;
        TRY(continuation(c, u, stamp, level - 1, base + i * (span / 64), &to));
        if (to != NOWHERE)
            group_add(&groups, to, (uint8_t)(0x80 + i), (uint8_t)(0x80 + i));
    }
    return shared_groups(c, u, stamp, level, &groups, entry);
}

static enum nb_status compile_stamp(struct compiler *c, struct utf8 *u, struct stamp *stamp) {
    static const struct {
        uint8_t first, last, bits;
        uint32_t lo, hi;
        int level;
    } leads[] = {{0xC2, 0xDF, 0x1F, 0x80, 0x7FF, 1},
                 {0xE0, 0xEF, 0x0F, 0x800, 0xFFFF, 2},
                 {0xF0, 0xF4, 0x07, 0x10000, 0x10FFFF, 3}};
    struct groups groups = {.n = 0};
    for (uint32_t i = 0; i < u->n && u->ranges[i].lo < 0x80; i++)
        group_add(&groups, TO_NEXT, (uint8_t)u->ranges[i].lo,
                  u->ranges[i].hi < 0x80 ? (uint8_t)u->ranges[i].hi : 0x7F);
    for (size_t k = 0; k < sizeof leads / sizeof *leads; k++) {
        u->lo = leads[k].lo;
        u->hi = leads[k].hi;
        if (!coverage(u, u->lo, u->hi))
            continue;
        for (uint32_t b = leads[k].first; b <= leads[k].last; b++) {
            uint32_t to;
            TRY(continuation(c, u, stamp, leads[k].level,
                             (b & leads[k].bits) << (6 * leads[k].level), &to));
            if (to != NOWHERE)
                group_add(&groups, to, (uint8_t)b, (uint8_t)b);
        }
    }
    return stamp_groups(c, stamp, &groups, &stamp->entry);
}

static enum nb_status find_stamp(struct compiler *c, const struct nb_re *re,
                                 const struct stamp **out) {
    /* Copies of one node come one after another. */
    for (size_t i = c->n_stamps; i-- > 0 && i + 64 >= c->n_stamps;)
        if (c->stamps[i].of == re) {
            *out = &c->stamps[i];
            return NB_OK;
        }
    uint32_t cap = (uint32_t)c->cap_stamps;
    TRY(grow(&c->stamps, (uint32_t)c->n_stamps, 1, &cap, sizeof *c->stamps, "a pattern", c->err));
    c->cap_stamps = cap;
    struct stamp *stamp = &c->stamps[c->n_stamps++];
    *stamp = (struct stamp){.of = re};
    struct utf8 u = {re->ranges, re->n_ranges, .full = {NOWHERE, NOWHERE, NOWHERE, NOWHERE}};
    enum nb_status s = compile_stamp(c, &u, stamp);
    free(u.seen);
    *out = stamp;
    return s;
}

/* ---- Instructions ---- */

/* Of an instruction to be: what it leads to was written before it, but for bodies of loops, which
 * lead nowhere but back. */
static uint32_t distance(const struct nb_program *p, const struct nb_inst *inst) {
    uint32_t x = inst->x < p->n_insts ? p->insts[inst->x].distance : UINT32_MAX, y;
    switch ((enum nb_op)inst->op) {
    case NB_OP_ACCEPT:
    case NB_OP_ALL:
        return 0;
    case NB_OP_BYTE:
        return x == UINT32_MAX ? x : x + 1;
    case NB_OP_SPLIT:
        y = inst->y < p->n_insts ? p->insts[inst->y].distance : UINT32_MAX;
        return x < y ? x : y;
    default:
        return x;
    }
}

static enum nb_status add_inst(struct compiler *c, struct nb_inst inst, uint32_t *at) {
    struct nb_program *p = c->p;
    if (p->n_insts >= NB_MAX_INSTS)
        return too_large(c->err);
    TRY(grow(&p->insts, p->n_insts, 1, &p->cap_insts, sizeof inst, "a pattern", c->err));
    inst.pattern = c->pattern;
    inst.flags |= c->flags;
    inst.distance = distance(p, &inst);
    p->insts[p->n_insts] = inst;
    *at = p->n_insts++;
    return NB_OK;
}

static uint8_t liveness(const struct compiler *c, uint32_t inst) {
    return c->p->insts[inst].flags & (NB_INST_LIVE | NB_INST_ENDS);
}

static enum nb_status compile(struct compiler *c, const struct nb_re *re, uint32_t next,
                              uint32_t *entry);

static enum nb_status compile_set(struct compiler *c, const struct nb_re *re, uint32_t next,
                                  uint32_t *entry) {
    const struct stamp *stamp;
    TRY(find_stamp(c, re, &stamp));
    struct nb_program *p = c->p;
    uint8_t live = liveness(c, next) & NB_INST_LIVE;
    uint32_t base = p->n_insts, distance = p->insts[next].distance;
    if (stamp->entry == NOWHERE) /* the empty set: a byte of no set */
        return add_inst(c, (struct nb_inst){.op = NB_OP_SPLIT, .x = base, .y = base}, entry);
    if (base + stamp->n > NB_MAX_INSTS)
        return too_large(c->err);
    TRY(grow(&p->insts, base, stamp->n, &p->cap_insts, sizeof *p->insts, "a pattern", c->err));
    for (uint32_t i = 0; i < stamp->n; i++) {
        struct nb_inst inst = stamp->insts[i];
        inst.x = inst.x == TO_NEXT ? next : inst.x + base;
        inst.flags = live | c->flags;
        inst.pattern = c->pattern;
        inst.distance = distance == UINT32_MAX ? distance : inst.distance + distance;
        p->insts[p->n_insts++] = inst;
    }
    *entry = base + stamp->entry;
    return NB_OK;
}

/* x or y, where y is the way out of a loop or an option: x leads there or nowhere. */
static enum nb_status add_split(struct compiler *c, uint32_t x, uint32_t y, uint32_t *at) {
    uint8_t flags = (uint8_t)(liveness(c, y) | (x == UINT32_MAX ? 0 : liveness(c, x)));
    return add_inst(c, (struct nb_inst){.op = NB_OP_SPLIT, .x = x, .y = y, .flags = flags}, at);
}

/* Notes copies of `stride` instructions from `first` on, if that is what the instructions up to the
 * end are (the last one may lack its split); inner ones from number `inner` on are within them. */
static enum nb_status note_copies(struct compiler *c, uint32_t first, uint32_t stride,
                                  uint32_t inner) {
    struct nb_program *p = c->p;
    TRY(grow(&p->copies, p->n_copies, 1, &p->cap_copies, sizeof *p->copies, "a pattern", c->err));
    p->copies[p->n_copies++] = (struct nb_copies){.first = first, .stride = stride};
    for (uint32_t i = inner; i + 1 < p->n_copies; i++) {
        if (!p->copies[i].within)
            p->copies[i].within = p->n_copies;
    }
    for (uint32_t i = first; i < p->n_insts; i++) {
        if (!p->insts[i].copies)
            p->insts[i].copies = p->n_copies;
    }
    return NB_OK;
}

/* A run of instructions that was written for one copy of a repetition's body: what leads to `to`
 * from it leads to what follows the copy. */
struct block {
    uint32_t first, to;
    uint32_t copies; /* nb_copies before it */
};

/* Where an instruction of block `of` leads in block `by`. */
static uint32_t moved(uint32_t target, const struct block *of, const struct block *by,
                      uint32_t stride) {
    if (target == of->to)
        return by->to;
    return target - of->first < stride ? target - of->first + by->first : target;
}

static struct nb_inst moved_inst(const struct compiler *c, uint32_t i, const struct block *of,
                                 const struct block *by, uint32_t stride) {
    struct nb_inst inst = c->p->insts[i];
    inst.x = moved(inst.x, of, by, stride);
    if (inst.op == NB_OP_SPLIT || inst.op == NB_OP_WORD || inst.op == NB_OP_LOOK)
        inst.y = moved(inst.y, of, by, stride);
    if (inst.copies > of->copies)
        inst.copies += by->copies - of->copies;
    return inst;
}

/* Whether block `b` is block `a` but for where it is, as the next one would be then. */
static bool same_blocks(const struct compiler *c, const struct block *a, const struct block *b,
                        uint32_t stride) {
    for (uint32_t i = 0; i < stride; i++) {
        struct nb_inst inst = moved_inst(c, a->first + i, a, b, stride);
        if (memcmp(&inst, &c->p->insts[b->first + i], sizeof inst) != 0)
            return false;
    }
    return true;
}

/* Writes block `of` once more, as `by`. */
static enum nb_status repeat_block(struct compiler *c, const struct block *of,
                                   const struct block *by, uint32_t stride) {
    struct nb_program *p = c->p;
    uint32_t n_inner = by->copies - of->copies;
    if (p->n_insts + stride > NB_MAX_INSTS)
        return too_large(c->err);
    TRY(grow(&p->insts, p->n_insts, stride, &p->cap_insts, sizeof *p->insts, "a pattern", c->err));
    for (uint32_t i = 0; i < stride; i++)
        p->insts[p->n_insts++] = moved_inst(c, of->first + i, of, by, stride);
    TRY(grow(&p->copies, p->n_copies, n_inner, &p->cap_copies, sizeof *p->copies, "a pattern",
             c->err));
    for (uint32_t i = 0; i < n_inner; i++) {
        struct nb_copies inner = p->copies[of->copies + i];
        inner.first += by->first - of->first;
        if (inner.within)
            inner.within += n_inner;
        p->copies[p->n_copies++] = inner;
    }
    return NB_OK;
}

/* Copies that may be, each with the way out before it, and the last one that must be. */
static enum nb_status compile_options(struct compiler *c, const struct nb_re *re, uint32_t next,
                                      uint32_t *mandatory, uint32_t *to) {
    uint32_t first = c->p->n_insts, inner = c->p->n_copies, stride = 0, n = 0, body;
    struct block last = {0};
    bool alike = true, settled = false;
    for (uint32_t i = re->min; i < re->max; i++) {
        struct block block = {c->p->n_insts, *to, c->p->n_copies};
        if (settled) { /* nothing new can come of compiling it again */
            TRY(repeat_block(c, &last, &block, stride));
            *to = c->p->n_insts - 1;
        } else {
            TRY(compile(c, re->child, *to, &body));
            if (c->p->n_insts == block.first)
                return NB_OK; /* the body is empty: more of it changes nothing */
            TRY(add_split(c, body, next, to));
            /* A tracker's program is written where it is first met. */
            alike &= !n || stride == c->p->n_insts - block.first;
            stride = c->p->n_insts - block.first;
            settled = alike && n >= 2 && same_blocks(c, &last, &block, stride);
        }
        last = block;
        n++;
    }
    if (n && *mandatory) {
        uint32_t before = c->p->n_insts;
        TRY(compile(c, re->child, *to, to));
        alike &= c->p->n_insts - before == stride - 1;
        --*mandatory;
        n++;
    }
    return alike && n > 1 ? note_copies(c, first, stride, inner) : NB_OK;
}

static enum nb_status compile_repeat(struct compiler *c, const struct nb_re *re, uint32_t next,
                                     uint32_t *entry) {
    uint32_t to = next, body, mandatory = re->min;
    if (re->max == NB_RE_NO_MAX) {
        TRY(add_split(c, UINT32_MAX, next, &to));
        TRY(compile(c, re->child, to, &body));
        c->p->insts[to].x = body;
        if (mandatory) { /* the loop's body is the last of them */
            to = body;
            mandatory--;
        }
    } else {
        TRY(compile_options(c, re, next, &mandatory, &to));
    }
    for (uint32_t i = 0; i < mandatory; i++) {
        uint32_t before = c->p->n_insts;
        TRY(compile(c, re->child, to, &to));
        if (c->p->n_insts == before)
            break;
    }
    *entry = to;
    return NB_OK;
}

static enum nb_status compile_cat(struct compiler *c, const struct nb_re *re, uint32_t next,
                                  uint32_t *entry) {
    size_t n = 0, i = 0;
    for (const struct nb_re *r = re->child; r; r = r->next)
        n++;
    const struct nb_re **children = malloc((n + 1) * sizeof *children);
    if (!children)
        return nb_fail_memory(c->err, n * sizeof *children, "a pattern");
    for (const struct nb_re *r = re->child; r; r = r->next)
        children[i++] = r;
    enum nb_status s = NB_OK;
    *entry = next;
    while (n-- > 0 && s == NB_OK)
        s = compile(c, children[n], *entry, entry);
    free(children);
    return s;
}

static enum nb_status compile_alt(struct compiler *c, const struct nb_re *re, uint32_t next,
                                  uint32_t *entry) {
    TRY(compile(c, re->child, next, entry));
    for (const struct nb_re *r = re->child->next; r; r = r->next) {
        uint32_t other;
        TRY(compile(c, r, next, &other));
        TRY(add_split(c, other, *entry, entry));
    }
    return NB_OK;
}

/* An instruction that looks around itself, before `next`. */
static enum nb_status add_assertion(struct compiler *c, enum nb_op op, bool negated, uint32_t set,
                                    uint32_t ahead, uint32_t next, uint32_t *entry) {
    struct nb_inst inst = {.op = (uint8_t)op, .x = next, .y = ahead, .set = (uint16_t)set};
    inst.flags = (uint8_t)(liveness(c, next) | (negated ? NB_INST_NOT : 0));
    return add_inst(c, inst, entry);
}

/* What may stand before a program that is to be met anywhere: any characters. */
static enum nb_status add_prefix(struct compiler *c, uint32_t program, uint32_t *entry) {
    static const struct nb_cp_range all[] = {{0, 0xD7FF}, {0xE000, NB_MAX_CODEPOINT}};
    static const struct nb_re any = {.kind = NB_RE_SET, .n_ranges = 2, .ranges = all};
    uint32_t loop = 0, anything;
    TRY(add_split(c, UINT32_MAX, program, &loop));
    TRY(compile_set(c, &any, loop, &anything));
    c->p->insts[loop].x = anything;
    *entry = loop;
    return NB_OK;
}

/* A new tracker of what ends in a match of re. */
static enum nb_status add_tracker(struct compiler *c, const struct nb_re *re, uint32_t *out) {
    struct nb_program *p = c->p;
    uint64_t outer = c->trackers;
    bool behind = c->behind;
    uint32_t end = 0, entry = 0;
    c->trackers = 0;
    c->behind = true;
    TRY(add_inst(c, (struct nb_inst){.op = NB_OP_ACCEPT, .flags = NB_INST_LIVE | NB_INST_ENDS},
                 &end));
    TRY(compile(c, re, end, &entry));
    TRY(add_prefix(c, entry, &entry));
    if (p->n_trackers == NB_MAX_TRACKERS)
        return nb_fail(c->err, NB_ERR_LIMIT, "more than %d lookbehinds", NB_MAX_TRACKERS);
    p->trackers[p->n_trackers] = (struct nb_tracker){entry, c->trackers};
    *out = p->n_trackers++;
    c->behind = behind;
    c->trackers |= outer | UINT64_C(1) << *out;
    return NB_OK;
}

static enum nb_status refuse_in_lookbehind(struct compiler *c, const struct nb_re *re) {
    return nb_fail(c->err, NB_ERR_UNSUPPORTED,
                   "byte %u of the pattern: a lookbehind that looks ahead itself ($, \\b or a "
                   "lookahead within it)",
                   re->at);
}

static enum nb_status compile_word(struct compiler *c, const struct nb_re *re, uint32_t next,
                                   uint32_t *entry) {
    static const struct nb_cp_range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct nb_re set = {.kind = NB_RE_SET, .n_ranges = 4, .ranges = word};
    struct nb_program *p = c->p;
    if (c->behind)
        return refuse_in_lookbehind(c, re);
    if (!p->word_tracker) {
        uint32_t tracker, all;
        TRY(add_tracker(c, &set, &tracker));
        TRY(add_inst(c, (struct nb_inst){.op = NB_OP_ALL, .flags = NB_INST_LIVE | NB_INST_ENDS},
                     &all));
        TRY(compile_set(c, &set, all, &p->word_look));
        p->word_tracker = tracker + 1;
    }
    c->trackers |= UINT64_C(1) << (p->word_tracker - 1);
    return add_assertion(c, NB_OP_WORD, re->negated, p->word_tracker - 1, p->word_look, next,
                         entry);
}

static enum nb_status compile_look(struct compiler *c, const struct nb_re *re, uint32_t next,
                                   uint32_t *entry) {
    uint32_t tracker, all, ahead;
    if (re->behind) {
        for (tracker = 0; tracker < c->p->n_trackers; tracker++)
            if (c->tracked[tracker] == re)
                break;
        if (tracker == c->p->n_trackers) {
            TRY(add_tracker(c, re->child, &tracker));
            c->tracked[tracker] = re;
        }
        c->trackers |= UINT64_C(1) << tracker | c->p->trackers[tracker].needs;
        return add_assertion(c, NB_OP_BEHIND, re->negated, tracker, 0, next, entry);
    }
    if (c->behind)
        return refuse_in_lookbehind(c, re);
    TRY(add_inst(c, (struct nb_inst){.op = NB_OP_ALL, .flags = NB_INST_LIVE | NB_INST_ENDS}, &all));
    TRY(compile(c, re->child, all, &ahead));
    return add_assertion(c, NB_OP_LOOK, re->negated, 0, ahead, next, entry);
}

static enum nb_status compile(struct compiler *c, const struct nb_re *re, uint32_t next,
                              uint32_t *entry) {
    switch (re->kind) {
    case NB_RE_EMPTY:
        *entry = next;
        return NB_OK;
    case NB_RE_SET:
        return compile_set(c, re, next, entry);
    case NB_RE_CAT:
        return compile_cat(c, re, next, entry);
    case NB_RE_ALT:
        return compile_alt(c, re, next, entry);
    case NB_RE_REPEAT:
        return compile_repeat(c, re, next, entry);
    case NB_RE_START: /* never again after the first byte */
        return add_inst(c, (struct nb_inst){.op = NB_OP_START, .x = next}, entry);
    case NB_RE_END: {
        if (c->behind)
            return refuse_in_lookbehind(c, re);
        uint8_t ends = liveness(c, next) & NB_INST_ENDS ? NB_INST_LIVE | NB_INST_ENDS : 0;
        return add_inst(c, (struct nb_inst){.op = NB_OP_END, .x = next, .flags = ends}, entry);
    }
    case NB_RE_WORD:
        return compile_word(c, re, next, entry);
    case NB_RE_LOOK:
        return compile_look(c, re, next, entry);
    }
    return nb_fail(c->err, NB_ERR_INTERNAL, "a pattern's tree has a node of kind %d", re->kind);
}

static bool looks_around(const struct nb_re *re) {
    if (re->kind == NB_RE_WORD || re->kind == NB_RE_LOOK)
        return true;
    for (const struct nb_re *r = re->child; r; r = r->next)
        if (looks_around(r))
            return true;
    return false;
}

static enum nb_status begin(struct compiler *c, struct nb_program *p, struct nb_error *err) {
    *c = (struct compiler){.p = p, .err = err, .pattern = p->n_patterns};
    TRY(grow(&p->pattern_trackers, p->n_patterns, 1, &p->cap_patterns, sizeof *p->pattern_trackers,
             "a pattern", err));
    p->pattern_trackers[p->n_patterns++] = 0;
    return NB_OK;
}

enum nb_status nb_program_open(struct nb_program *p, struct nb_error *err) {
    struct compiler c;
    uint32_t accept;
    *p = (struct nb_program){0};
    enum nb_status s = begin(&c, p, err);
    if (s == NB_OK)
        s = add_inst(&c, (struct nb_inst){.op = NB_OP_ACCEPT, .flags = NB_INST_LIVE | NB_INST_ENDS},
                     &accept);
    if (s != NB_OK)
        nb_program_free(p);
    return s;
}

enum nb_status nb_program_add(struct nb_program *p, const struct nb_re *re, bool search,
                              bool uniform, uint32_t *entry, struct nb_error *err) {
    struct compiler c;
    uint32_t end = 0;
    TRY(begin(&c, p, err));
    if (!looks_around(re))
        c.flags = uniform ? NB_INST_PLAIN | NB_INST_UNIFORM : NB_INST_PLAIN;
    enum nb_op last = search ? NB_OP_ALL : NB_OP_ACCEPT;
    enum nb_status s = add_inst(
        &c, (struct nb_inst){.op = (uint8_t)last, .flags = NB_INST_LIVE | NB_INST_ENDS}, &end);
    if (s == NB_OK)
        s = compile(&c, re, end, entry);
    if (s == NB_OK && search)
        s = add_prefix(&c, *entry, entry);
    p->pattern_trackers[c.pattern] = c.trackers;
    for (size_t i = 0; i < c.n_stamps; i++)
        free(c.stamps[i].insts);
    free(c.stamps);
    return s;
}

enum nb_status nb_program_add_literal(struct nb_program *p, const char *text, size_t n,
                                      uint32_t *entry, struct nb_error *err) {
    struct compiler c;
    TRY(begin(&c, p, err));
    c.flags = NB_INST_PLAIN;
    TRY(add_inst(&c, (struct nb_inst){.op = NB_OP_ACCEPT, .flags = NB_INST_LIVE | NB_INST_ENDS},
                 entry));
    while (n-- > 0) {
        struct nb_inst inst = {.op = NB_OP_BYTE, .x = *entry, .flags = NB_INST_LIVE};
        struct nb_byte_set set = {{0}};
        nb_byte_set_add(&set, (uint8_t)text[n], (uint8_t)text[n]);
        TRY(nb_program_set(p, &set, &inst.set, err));
        TRY(add_inst(&c, inst, entry));
    }
    return NB_OK;
}
