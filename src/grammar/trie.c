#include "grammar/trie.h"

#include <stdlib.h>
#include <string.h>

static int compare_keys(const void *a, const void *b) {
    const struct nb_value_key *x = a, *y = b;
    uint32_t n = x->n < y->n ? x->n : y->n;
    int order = n ? memcmp(x->text, y->text, n) : 0;
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* Nodes for keys[first, end), which share their first `depth` bytes, below node `at`. */
static void fill(struct nb_trie *t, uint32_t at, uint32_t first, uint32_t end, uint32_t depth) {
    /* A loop down a path without branches; recursion only where it branches. */
    for (;;) {
        struct nb_trie_node *node = &t->nodes[at];
        node->first = first;
        node->end = end;
        uint32_t i = first;
        if (t->keys[i].n == depth)
            node->ends = ++i;
        if (i == end)
            return;
        uint32_t *link = &node->child;
        uint32_t last = 0, last_first = 0;
        while (i < end) {
            uint8_t byte = (uint8_t)t->keys[i].text[depth];
            uint32_t j = i + 1;
            while (j < end && (uint8_t)t->keys[j].text[depth] == byte)
                j++;
            uint32_t child = t->n_nodes++;
            t->nodes[child] = (struct nb_trie_node){.byte = byte};
            *link = child;
            link = &t->nodes[child].sibling;
            if (j < end)
                fill(t, child, i, j, depth + 1);
            last = child;
            last_first = i;
            i = j;
        }
        at = last;
        first = last_first;
        depth++;
    }
}

bool nb_trie_build(struct nb_trie *t, const struct nb_value_key *keys, size_t n,
                   struct nb_arena *arena) {
    size_t bytes = 2;
    *t = (struct nb_trie){0};
    t->keys = nb_arena_alloc(arena, n, sizeof *t->keys);
    if (!t->keys)
        return false;
    if (n)
        memcpy(t->keys, keys, n * sizeof *keys);
    qsort(t->keys, n, sizeof *t->keys, compare_keys);
    for (size_t i = 0; i < n; i++) {
        if (t->n && compare_keys(&t->keys[t->n - 1], &t->keys[i]) == 0)
            continue;
        bytes += t->keys[i].n;
        t->keys[t->n++] = t->keys[i];
    }
    t->nodes = nb_arena_alloc(arena, bytes, sizeof *t->nodes);
    if (!t->nodes)
        return false;
    t->n_nodes = 2;
    if (t->n)
        fill(t, NB_TRIE_ROOT, 0, t->n, 0);
    return true;
}

int32_t nb_trie_find(const struct nb_trie *t, const char *key, size_t n) {
    uint32_t node = NB_TRIE_ROOT;
    for (size_t i = 0; i < n && node; i++)
        node = nb_trie_next(t, node, (uint8_t)key[i]);
    return node && t->nodes[node].ends ? (int32_t)t->nodes[node].ends - 1 : -1;
}
