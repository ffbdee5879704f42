/* Patterns as programs: what a nondeterministic automaton over bytes does, one instruction a state,
 * after Thompson. A program is written from its end to its beginning, so that an instruction knows
 * what follows it; lookarounds stay instructions, and lazy.c decides them. */
#ifndef NB_GRAMMAR_PROGRAM_H
#define NB_GRAMMAR_PROGRAM_H

#include "grammar/regex_parse.h"

enum nb_op {
    NB_OP_BYTE,   /* a byte of set `set`, then x */
    NB_OP_CHAR,   /* a byte of a character, then what switch `set` says */
    NB_OP_SPLIT,  /* x or y */
    NB_OP_START,  /* x, at the beginning of the text */
    NB_OP_END,    /* x, at the end of the text */
    NB_OP_WORD,   /* x, where y (a lookahead for \w) is or is not unlike tracker `set` */
    NB_OP_LOOK,   /* x, where the text ahead matches y, or with NB_INST_NOT does not */
    NB_OP_BEHIND, /* x, where tracker `set` says so, or with NB_INST_NOT says the contrary */
    NB_OP_ACCEPT, /* the text must end here */
    NB_OP_ALL,    /* anything may follow */
};

enum {
    NB_INST_NOT = 1,
    /* After the first byte of the text, an accepting end can be reached from here (LIVE), if
     * lookarounds wish; without another byte (ENDS). */
    NB_INST_LIVE = 2,
    NB_INST_ENDS = 4,
    NB_INST_PLAIN = 8,   /* LIVE is certain: there are no lookarounds */
    NB_INST_UNIFORM = 16 /* of a pattern ^[…]*$: live whatever number of characters is asked for */
};

struct nb_inst {
    uint32_t x, y;
    uint16_t set;
    uint8_t op, flags;
    uint32_t pattern;  /* index of the pattern it is of */
    uint32_t distance; /* bytes to an accepting end, at least; UINT32_MAX: there is none */
    uint32_t copies;   /* the innermost nb_copies that it is in, + 1; 0: none */
};

/* Copies of a repetition's body, as x{2,5} has them, between which the only difference is how many
 * more may follow: the last that must be, and those that may. Copy k is insts[first + k * stride]
 * and what follows; the higher k, the earlier in the text it comes. Whatever is accepted from a
 * place in one copy is accepted from the same place in a higher one, too. */
struct nb_copies {
    uint32_t first, stride;
    uint32_t within; /* the copies around these, + 1; 0: none */
};

struct nb_byte_set {
    uint64_t bits[4];
};

/* Where bytes of a character lead: nowhere; with the whole character, to x; or to an instruction
 * that stands so many after this one (of a negative number: before it). */
struct nb_switch {
    int16_t to[256];
};
enum { NB_SWITCH_NOWHERE = INT16_MIN, NB_SWITCH_WHOLE = INT16_MAX };

/* A lookbehind, or whether the last byte was \w: a program that runs from the beginning of the
 * text and accepts what ends in a match. */
struct nb_tracker {
    uint32_t entry;
    uint64_t needs; /* trackers that its own program asks; lower in number */
};

enum { NB_MAX_TRACKERS = 64, NB_MAX_INSTS = 400 * 1000 };

struct nb_program {
    struct nb_inst *insts;
    uint32_t n_insts, cap_insts;
    struct nb_copies *copies; /* inner ones first */
    uint32_t n_copies, cap_copies;
    struct nb_byte_set *sets; /* bytes that some instruction takes alike */
    uint32_t n_sets, cap_sets;
    struct nb_switch *switches;
    uint32_t n_switches, cap_switches;
    uint32_t *set_table; /* open addressing; index + 1 into sets */
    uint32_t set_table_size;
    struct nb_tracker trackers[NB_MAX_TRACKERS];
    uint32_t n_trackers;
    uint64_t *pattern_trackers; /* [n_patterns] those that a pattern asks */
    uint32_t n_patterns, cap_patterns;
    uint32_t word_tracker, word_look; /* tracker + 1, and its lookahead's program; 0: none yet */
};

/* The instruction that accepts, first of every program. */
enum { NB_PROGRAM_ACCEPT = 0 };

enum nb_status nb_program_open(struct nb_program *program, struct nb_error *err);
void nb_program_free(struct nb_program *program);

/* Appends the program of a tree, to be met anywhere in the text or as the whole of it; *entry is
 * where it begins. `uniform`: the tree is a set, repeated at will. */
enum nb_status nb_program_add(struct nb_program *program, const struct nb_re *re, bool search,
                              bool uniform, uint32_t *entry, struct nb_error *err);
/* The program of one text. */
enum nb_status nb_program_add_literal(struct nb_program *program, const char *text, size_t n,
                                      uint32_t *entry, struct nb_error *err);

/* The number of a set of bytes, which is one for equal sets. */
enum nb_status nb_program_set(struct nb_program *program, const struct nb_byte_set *set,
                              uint16_t *out, struct nb_error *err);

enum { NB_INST_NONE = UINT32_MAX };

/* The instruction after a byte at one that takes bytes; NB_INST_NONE where there is none. */
static inline uint32_t nb_program_next(const struct nb_program *p, uint32_t at, uint8_t byte) {
    const struct nb_inst *inst = &p->insts[at];
    if (inst->op == NB_OP_BYTE)
        return p->sets[inst->set].bits[byte >> 6] >> (byte & 63) & 1 ? inst->x : NB_INST_NONE;
    if (inst->op != NB_OP_CHAR)
        return NB_INST_NONE;
    int16_t to = p->switches[inst->set].to[byte];
    if (to == NB_SWITCH_WHOLE)
        return inst->x;
    return to == NB_SWITCH_NOWHERE ? NB_INST_NONE : at + (uint32_t)(int32_t)to;
}

static inline void nb_byte_set_add(struct nb_byte_set *set, uint8_t lo, uint8_t hi) {
    for (unsigned b = lo; b <= hi; b++)
        set->bits[b >> 6] |= UINT64_C(1) << (b & 63);
}

#endif
