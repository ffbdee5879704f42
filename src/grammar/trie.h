/* A set of byte strings as a tree, walked a byte at a time. */
#ifndef NB_GRAMMAR_TRIE_H
#define NB_GRAMMAR_TRIE_H

#include "base/arena.h"
#include "grammar/value.h"

struct nb_trie {
    /* Node 0 is nowhere, node 1 the root. A node's strings are those of ranks [first, end). */
    struct nb_trie_node {
        uint32_t child, sibling;
        uint32_t first, end;
        uint32_t ends; /* rank + 1 of the string that ends here, or 0 */
        uint8_t byte;
    } * nodes;
    uint32_t n_nodes, cap;
    uint32_t n;                /* strings, each once */
    struct nb_value_key *keys; /* [n] by rank: in the order of their bytes */
};

enum { NB_TRIE_ROOT = 1 };

/* The set of keys[0..n), which may hold one twice; false if memory ran out. The trie keeps the
 * keys' text where it is. */
bool nb_trie_build(struct nb_trie *trie, const struct nb_value_key *keys, size_t n,
                   struct nb_arena *arena);

static inline uint32_t nb_trie_next(const struct nb_trie *trie, uint32_t node, uint8_t byte) {
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte)
        child = trie->nodes[child].sibling;
    return child;
}

/* The rank of a key, or -1. */
int32_t nb_trie_find(const struct nb_trie *trie, const char *key, size_t n);

#endif
