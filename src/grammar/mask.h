/* Token masks: which tokens may come in a state. */
#ifndef NB_GRAMMAR_MASK_H
#define NB_GRAMMAR_MASK_H

#include "grammar/state.h"
#include "grammar/vocabulary.h"

/* How many characters lead from where a walk began through any of its tokens to an end of the
 * string; UINT64_MAX: that is not known. */
struct nb_way_out {
    uint64_t characters;
    bool stretches; /* and so does any greater number */
};

/* Masks of one sequence, the last ones kept. All zero is ready for use. */
struct nb_masker {
    struct nb_reader *reader;
    const struct nb_vocabulary *vocabulary;
    struct nb_state *path; /* [most bytes of a token + 1] states along a token */
    uint32_t *text_path;   /* the same, of an automaton alone */
    /* The last masks, by state; the oldest goes first. */
    struct nb_kept_mask {
        struct nb_state state;
        uint64_t *bits; /* [n_words] */
        uint32_t slot;  /* that points here, + 1 */
    } * kept;
    uint32_t *slots; /* open addressing: kept + 1 */
    uint32_t next;
    struct nb_way_out *way_out;       /* of the tokens that are set, where a walk asks for it */
    const struct nb_frame *others_of; /* whose keys `others` is about, during a walk */
    bool others;
};

/* The tokens that may come after `state`, a bit each, in words of 64; end tokens where the text may
 * end. Owned by the masker until some 250 masks later. NULL: see
 * reader->failed and space->failed. */
const uint64_t *nb_mask(struct nb_masker *masker, const struct nb_state *state);
void nb_masker_free(struct nb_masker *masker);

/* The plain way, every token on its own from `state`: what nb_mask is held to. bits [n_words]. */
bool nb_mask_plain(struct nb_masker *masker, const struct nb_state *state, uint64_t *bits);

#endif
