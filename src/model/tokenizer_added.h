/* Added tokens: strings that are recognised in text before anything else is done to it. */
#ifndef NB_MODEL_TOKENIZER_ADDED_H
#define NB_MODEL_TOKENIZER_ADDED_H

#include "model/tokenizer_map.h"

/* The longest string that may be an added token: it bounds the work for a byte of text. */
enum { NB_ADDED_MAX_BYTES = 512 };

struct nb_added {
    struct nb_text content;
    int32_t id;
    bool special;     /* recognised only where the caller allows it */
    bool normalized;  /* looked for in normalized text, in its own normalized form */
    bool single_word; /* only where no word character touches it */
    bool lstrip;      /* takes the white space before it */
    bool rstrip;      /* and after it */
};

/* A tree of bytes. Node 0 is the root; children hang on `child`, their siblings on `sibling`. */
struct nb_added_tree {
    struct nb_added_node {
        uint32_t child, sibling;
        int32_t token; /* the index of the added token that ends here, or -1 */
        unsigned char byte;
    } * nodes;
    uint32_t n;
    size_t cap;
    bool starts[256]; /* bytes that some token begins with */
    bool all_special; /* nothing is to be found unless special tokens are looked for */
};

/* Enters `text`, not empty, as the spelling of token number `token`; a spelling that is there
 * already is kept. False if memory ran out. */
bool nb_added_tree_add(struct nb_added_tree *tree, struct nb_text text, int32_t token,
                       bool special);
void nb_added_tree_free(struct nb_added_tree *tree);

/* The length of the longest token that text[0..n) begins with, or 0. */
size_t nb_added_prefix(const struct nb_added_tree *tree, const char *text, size_t n);

/* What was found: token number `token` at text[begin, end), with the space that it strips. */
struct nb_added_match {
    size_t begin, end;
    int32_t token;
};

/* Finds the leftmost token, the longest there, in text[*at, n), where `taken` is the end of the
 * match before; moves *at behind it. As in `tokenizers`, a token that is found but not wanted
 * (special, or inside a word) still hides others that overlap it. */
bool nb_added_find(const struct nb_added_tree *tree, const struct nb_added *added, const char *text,
                   size_t n, bool special, size_t taken, size_t *at, struct nb_added_match *match);

/* Unicode's White_Space, and \w of regular expressions. */
bool nb_is_white_space(uint32_t cp);
bool nb_is_word_character(uint32_t cp);

#endif
