/* A tokenizer's tokens as byte strings, for masks: made once for a tokenizer, then shared. */
#ifndef NB_GRAMMAR_VOCABULARY_H
#define NB_GRAMMAR_VOCABULARY_H

#include "model/tokenizer.h"

/* Byte strings as a tree. Node 0 is the root; a node's children stand side by side, by byte. */
struct nb_token_trie {
    uint32_t n;
    uint8_t *byte; /* [n] */
    struct nb_token_node {
        uint32_t first; /* child */
        uint32_t entry; /* + 1; 0: no string ends here */
        uint16_t n_children;
    } * nodes;        /* [n] */
    uint32_t *same;   /* [entries] the next entry with the same string, + 1, or 0 */
    int32_t *token;   /* [entries] */
    uint16_t *before; /* [entries] see nb_vocabulary.endings */
    uint16_t max_depth;
    uint32_t of_root[256]; /* the root's child, by byte; 0: none */
};

/* The same tree as a walk that meets each node before its children would write it down: what comes
 * next is beside it in memory, and a branch is left out by going to its end. The root is not there.
 */
struct nb_token_path {
    uint32_t n;
    struct nb_token_step {
        uint32_t end;   /* the first node behind this one and all below it */
        uint32_t first; /* entries of the tree before it; its own reach to the next node's */
        uint32_t node;  /* in the tree */
        uint16_t depth; /* bytes before this one */
        uint8_t byte;
    } * steps; /* [n + 1]; `first` of the last is how many entries there are */
};

enum { NB_MAX_COUNTED = 64 };

struct nb_vocabulary {
    const struct nb_tokenizer *tokenizer;
    int32_t size;     /* one more than the highest id */
    uint32_t n_words; /* of a mask: a bit for each id, in words of 64 */
    int32_t *ends;    /* [n_ends] tokens that end a text */
    size_t n_ends;

    struct nb_token_trie tokens; /* all but special ones and those without bytes */
    struct nb_token_path path;   /* of `tokens` */

    /* Tokens that, begun within a JSON string between two characters, stay in it; of `plain` the
     * only escapes are those that must be (", \, control characters). */
    uint64_t *inside, *plain;
    uint8_t *characters; /* [size] how many characters a token of `inside` begins */
    uint64_t *shorter;   /* [NB_MAX_COUNTED, n_words] tokens of `inside` with at most so many */
    int32_t most_characters;

    struct nb_token_trie closers; /* tokens with the quote that ends the string */
    /* What follows that quote in them; entry->before is how many characters come before it. */
    struct nb_token_trie endings;
};

/* The tokenizer outlives the vocabulary; ends are copied. */
enum nb_status nb_vocabulary_open(const struct nb_tokenizer *tokenizer, const int32_t *ends,
                                  size_t n_ends, struct nb_vocabulary **out, struct nb_error *err);
/* Appends tokens that make up these bytes, which need be no whole characters: the longest first.
 * NB_ERR_UNSUPPORTED if there is no token for some byte, NB_ERR_MEMORY; then *out is as it was. */
enum nb_status nb_vocabulary_spell(const struct nb_vocabulary *vocabulary, const char *bytes,
                                   size_t n, struct nb_tokens *out, struct nb_error *err);

void nb_vocabulary_close(struct nb_vocabulary *vocabulary); /* NULL is allowed */

#endif
