/* Byte-pair encoding: a piece of normalized text becomes symbols, then the adjacent pair of the
 * lowest rank merges, the leftmost first, until no pair merges.
 *
 * Two roads lead to the same ids. nb_bpe_encode_plain does what the line above says and defines the
 * result. nb_bpe_encode cuts the text where no merge can ever reach across, knows most of what
 * remains by heart, and merges the rest with better data structures.
 */
#ifndef NB_MODEL_TOKENIZER_BPE_H
#define NB_MODEL_TOKENIZER_BPE_H

#include "base/error.h"
#include "model/tokenizer.h"
#include "model/tokenizer_map.h"

enum {
    NB_BPE_ID_BITS = 21,   /* token ids are below 2^21 */
    NB_BPE_RANK_BITS = 22, /* merges are fewer than 2^22 */
    NB_BPE_MAX_IDS = 1 << NB_BPE_ID_BITS,
    NB_BPE_MAX_MERGES = (1 << NB_BPE_RANK_BITS) - 1,
    NB_BPE_NO_RANK = 0x7FFFFFFF, /* the pair does not merge */
    NB_BPE_PAGES = 0x110000 >> 8,
};

struct nb_bpe {
    /* What a character is before merging: pages[cp >> 8][cp & 255] is its symbol or -1, a page NULL
     * if all of it is -1. Byte-level models have bytes for characters: byte_symbols[byte]. */
    bool byte_level;
    int32_t *pages[NB_BPE_PAGES];
    int32_t byte_symbols[256];

    /* What a character without a symbol becomes: the tokens of its bytes, or the unknown token (one
     * for a run of them if fuse_unknown), or nothing if that is -1. */
    bool byte_fallback, fuse_unknown;
    bool drops; /* the last case can happen */
    int32_t fallback[256];
    int32_t unknown;

    /* SentencePiece merges characters that are no tokens: they have virtual symbols, n_ids + i for
     * virtuals[i], which become what such characters become if no merge took them. */
    uint32_t *virtuals;
    size_t n_virtuals, virtuals_cap;
    size_t n_ids;

    bool ignore_merges; /* a whole piece of text that is a token is that token */

    /* left << 43 | right << 22 | rank, open addressing; all ones is free. merged[i] is what
     * pairs[i] merges into. */
    uint64_t *pairs;
    int32_t *merged;
    unsigned pairs_shift;
    size_t pairs_mask;
    uint64_t *bits; /* one of them is set for each pair; by chance, for a few others */
    unsigned bits_shift;

    /* Whether a pair of neighbouring characters occurs within some token that merges can make; with
     * false alarms. Where it does not, text may be cut. */
    uint64_t *joints;
    unsigned joints_shift;
    bool uncuttable; /* merges of unknown or fallback tokens: characters say nothing about them */

    /* Tokens by the text that they stand for (raw bytes if byte_level). Owned by the tokenizer. */
    const struct nb_text_map *words;
    uint8_t *whole;    /* [id] 1: the token's own text encodes to just this token */
    uint32_t max_word; /* bytes of the longest text of them */
};

/* An encoder for tokens 0 to n_ids - 1, without symbols and merges. */
void nb_bpe_init(struct nb_bpe *bpe, size_t n_ids);
void nb_bpe_free(struct nb_bpe *bpe); /* also if it is all zero */

/* Makes room for max_merges merges, once. */
enum nb_status nb_bpe_make_room(struct nb_bpe *bpe, size_t max_merges, struct nb_error *err);

/* Gives character cp the symbol `id`; false if memory ran out. */
bool nb_bpe_set_symbol(struct nb_bpe *bpe, uint32_t cp, int32_t id);

/* Gives cp a virtual symbol; false if memory ran out. */
bool nb_bpe_add_virtual(struct nb_bpe *bpe, uint32_t cp);

/* The symbol of cp, or -1. */
int32_t nb_bpe_symbol(const struct nb_bpe *bpe, uint32_t cp);

/* The pair merges into `result` with this rank, below NB_BPE_MAX_MERGES, in place of one it had
 * before. Of equal ranks, the leftmost pair merges first. False if the table was made to collide.
 */
bool nb_bpe_add_merge(struct nb_bpe *bpe, int32_t left, int32_t right, int32_t result,
                      uint32_t rank);

/* To be called once symbols and merges are in. words->texts[0..n_ids) are the tokens' texts. */
enum nb_status nb_bpe_finish(struct nb_bpe *bpe, const struct nb_text_map *words,
                             struct nb_error *err);

/* What a short stretch of text became the last time; a cache line. */
struct nb_bpe_memo {
    struct nb_short_text begin,
        end;          /* its first and last 16 bytes; of less than 17, all and none */
    uint8_t n, n_ids; /* n 0: nothing */
    int32_t ids[7];
};

/* Memory that encoding uses again from one piece of text to the next, all with one nb_bpe. All zero
 * to begin with. */
struct nb_bpe_scratch {
    struct nb_bpe_memo
        *memos; /* [1 << memo_bits], or NULL: each for the stretches of some hashes */
    unsigned memo_bits;
    int32_t *symbols;
    uint32_t *previous, *next;
    uint64_t *heap;
    size_t cap, heap_cap;
    struct nb_buf text;
};

/* Lets encoding remember words, which pays for texts of some length: of about n bytes in all. */
enum nb_status nb_bpe_remember(struct nb_bpe_scratch *scratch, size_t n, struct nb_error *err);
void nb_bpe_scratch_free(struct nb_bpe_scratch *scratch);

/* Appends the ids of text[0..n), which is UTF-8; NB_ERR_LIMIT from 2^31 bytes on. */
enum nb_status nb_bpe_encode(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                             const char *text, size_t n, struct nb_tokens *out,
                             struct nb_error *err);

/* The same, by the definition; its time grows with the square of n. */
enum nb_status nb_bpe_encode_plain(const struct nb_bpe *bpe, const char *text, size_t n,
                                   struct nb_tokens *out, struct nb_error *err);

#endif
