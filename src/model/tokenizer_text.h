/* What happens to text before it is encoded: normalizers rewrite it, splitters cut it into pieces
 * that are encoded each on its own. */
#ifndef NB_MODEL_TOKENIZER_TEXT_H
#define NB_MODEL_TOKENIZER_TEXT_H

#include "base/buf.h"
#include "model/tokenizer_map.h"

/* One step of normalization. */
struct nb_normalizer {
    enum nb_normalizer_kind {
        NB_NORMALIZE_PREPEND, /* `content` before text that is not empty */
        NB_NORMALIZE_REPLACE, /* every `pattern` by `content` */
    } kind;
    struct nb_text pattern, content;
};

/* One step of splitting. */
struct nb_splitter {
    enum nb_splitter_kind {
        NB_SPLIT_METASPACE, /* ' ' becomes `replacement`; splits before each, if `split` */
    } kind;
    enum nb_prepend { NB_PREPEND_NEVER, NB_PREPEND_FIRST, NB_PREPEND_ALWAYS } prepend;
    struct nb_text replacement;
    bool split;
};

/* Pieces of text: piece i is text[ends[i - 1], ends[i]), the first from 0. */
struct nb_pieces {
    struct nb_buf text;
    size_t *ends;
    size_t n, cap;
};

void nb_pieces_free(struct nb_pieces *pieces);

/* Where in the whole text a part of it stands. */
struct nb_place {
    bool first;     /* it begins where the whole text begins */
    bool continues; /* and that goes on from text before: put no space in front */
};

/* Normalizes *text in place; `other` is a buffer to work in. */
enum nb_status nb_normalize(const struct nb_normalizer *steps, size_t n_steps,
                            struct nb_place place, struct nb_buf *text, struct nb_buf *other,
                            struct nb_error *err);

/* Cuts text[0..n) into *pieces; `other` is to work in. */
enum nb_status nb_split(const struct nb_splitter *steps, size_t n_steps, struct nb_place place,
                        const char *text, size_t n, struct nb_pieces *pieces,
                        struct nb_pieces *other, struct nb_error *err);

/* Replaces every `pattern` (not empty) in text[0..n) by `content`, onto *out. */
void nb_replace_text(const char *text, size_t n, struct nb_text pattern, struct nb_text content,
                     struct nb_buf *out);

#endif
