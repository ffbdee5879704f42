/* Patterns of ECMA-262 (2024) as trees. */
#ifndef NB_GRAMMAR_REGEX_PARSE_H
#define NB_GRAMMAR_REGEX_PARSE_H

#include "base/arena.h"
#include "grammar/codepoints.h"

enum nb_re_kind {
    NB_RE_EMPTY,  /* matches nothing of the text, anywhere */
    NB_RE_SET,    /* one code point of ranges[0..n_ranges) */
    NB_RE_CAT,    /* children one after another */
    NB_RE_ALT,    /* one of the children */
    NB_RE_REPEAT, /* the child min to max times */
    NB_RE_START,  /* ^ */
    NB_RE_END,    /* $ */
    NB_RE_WORD,   /* \b; negated: \B */
    NB_RE_LOOK,   /* (?=child); negated, behind */
};

#define NB_RE_NO_MAX UINT32_MAX

struct nb_re {
    enum nb_re_kind kind;
    bool negated, behind;
    uint32_t min, max;
    uint32_t n_ranges;
    const struct nb_cp_range *ranges; /* normalized, without surrogates */
    struct nb_re *child;              /* the first */
    struct nb_re *next;               /* of the same parent */
    uint32_t at;                      /* byte of the pattern where it begins */
};

/* Parses pattern[0..n), UTF-8: with the u flag, and where that fails as without it, as Annex B has
 * it. Unlike there, a pair of \u that spells a surrogate pair is the character, and \p{…} with a
 * name that Unicode knows is the property, both ways. The tree is in *arena and its depth is at
 * most 2 NB_RE_MAX_DEPTH. */
enum nb_status nb_re_parse(const char *pattern, size_t n, struct nb_arena *arena,
                           struct nb_re **out, struct nb_error *err);

enum { NB_RE_MAX_DEPTH = 250, NB_RE_MAX_BYTES = 64 * 1024 };

#endif
