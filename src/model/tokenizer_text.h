/* What happens to text before it is encoded: normalizers rewrite it, splitters cut it into pieces
 * that are encoded each on its own. */
#ifndef NB_MODEL_TOKENIZER_TEXT_H
#define NB_MODEL_TOKENIZER_TEXT_H

#include "base/buf.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_map.h"
#include "model/tokenizer_regex.h"

/* One step of normalization. */
struct nb_normalizer {
    enum nb_normalizer_kind {
        NB_NORMALIZE_PREPEND, /* `content` before text that is not empty */
        NB_NORMALIZE_REPLACE, /* every `pattern`, or match of `regex`, by `content` */
        NB_NORMALIZE_NFC,
        NB_NORMALIZE_NFD,
        NB_NORMALIZE_NFKC,
        NB_NORMALIZE_NFKD,
        NB_NORMALIZE_LOWERCASE,
        NB_NORMALIZE_STRIP,         /* white space at the ends */
        NB_NORMALIZE_STRIP_ACCENTS, /* all marks */
        NB_NORMALIZE_NMT,           /* control characters go, odd spaces become ' ' */
        NB_NORMALIZE_SPM,           /* what a SentencePiece model asks for */
    } kind;
    struct nb_text pattern, content;
    struct nb_regex *regex;
    bool left, right; /* which ends STRIP strips */
    struct nb_spm_rules {
        bool dummy_prefix;             /* a space in front */
        bool squeeze;                  /* runs of spaces become one, those at the ends go */
        bool escape;                   /* spaces become "▁" */
        struct nb_text units, strings; /* of the character map: a double array, and its values */
        const struct nb_added_tree *symbols; /* user-defined symbols, which stay as they are */
    } spm;
};

/* One step of splitting. */
struct nb_splitter {
    enum nb_splitter_kind {
        NB_SPLIT_METASPACE,    /* ' ' becomes `mark`; splits before each, if `split` */
        NB_SPLIT_MATCHES,      /* at what `find` finds */
        NB_SPLIT_PREFIX_SPACE, /* none: puts ' ' before text that does not begin with one */
    } kind;
    enum nb_prepend { NB_PREPEND_NEVER, NB_PREPEND_FIRST, NB_PREPEND_ALWAYS } prepend;
    struct nb_text mark;
    bool split;

    enum nb_find {
        NB_FIND_TEXT,        /* every `mark` */
        NB_FIND_REGEX,       /* every match of `regex` */
        NB_FIND_NUMERIC,     /* every numeric character */
        NB_FIND_PUNCTUATION, /* every punctuation character */
        NB_FIND_WHITE_SPACE, /* every white space character */
    } find;
    struct nb_regex *regex;
    bool invert; /* what lies between them counts as found */
    enum nb_split_behavior {
        NB_SPLIT_REMOVED,
        NB_SPLIT_ISOLATED,
        NB_SPLIT_MERGED_WITH_PREVIOUS,
        NB_SPLIT_MERGED_WITH_NEXT,
        NB_SPLIT_CONTIGUOUS,
    } behavior;
};

/* Pieces of text: piece i is text[ends[i - 1], ends[i]), the first from 0. */
struct nb_pieces {
    struct nb_buf text;
    size_t *ends;
    size_t n, cap;
    bool cut; /* something was removed in front of the first */
};

void nb_pieces_free(struct nb_pieces *pieces);

/* Where in the whole text a part of it stands. */
struct nb_place {
    bool first;     /* it begins where the whole text begins */
    bool continues; /* and that goes on from text before: put no space in front */
};

/* Normalizes *text, which is UTF-8, in place; `other` is a buffer to work in. NB_ERR_LIMIT if it
 * grows out of all proportion. */
enum nb_status nb_normalize(const struct nb_normalizer *steps, size_t n_steps,
                            struct nb_place place, struct nb_buf *text, struct nb_buf *other,
                            struct nb_error *err);

/* Cuts text[0..n) into *pieces; `other` is to work in. */
enum nb_status nb_split(const struct nb_splitter *steps, size_t n_steps, struct nb_place place,
                        const char *text, size_t n, struct nb_pieces *pieces,
                        struct nb_pieces *other, struct nb_error *err);

/* Normalizes text[0..n), which is not empty, onto *out as SentencePiece does. */
void nb_spm_normalize(const struct nb_spm_rules *rules, struct nb_place place, const char *text,
                      size_t n, struct nb_buf *out);

/* Replaces every `pattern` (not empty) in text[0..n) by `content`, onto *out. Stops once that is
 * longer than `most` bytes: a file may ask for more than there is memory. */
void nb_replace_text(const char *text, size_t n, struct nb_text pattern, struct nb_text content,
                     size_t most, struct nb_buf *out);

#endif
