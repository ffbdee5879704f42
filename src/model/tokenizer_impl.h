/* What a tokenizer is made of. tokenizer_json.c and tokenizer_spm.c fill it in, tokenizer.c encodes
 * with it, tokenizer_decode.c decodes. */
#ifndef NB_MODEL_TOKENIZER_IMPL_H
#define NB_MODEL_TOKENIZER_IMPL_H

#include "base/arena.h"
#include "model/tokenizer.h"
#include "model/tokenizer_added.h"
#include "model/tokenizer_bpe.h"
#include "model/tokenizer_map.h"
#include "model/tokenizer_text.h"

enum nb_token_flags {
    NB_TOKEN_SPECIAL = 1, /* nothing in decoded text */
    NB_TOKEN_BYTE = 2,    /* decodes to one byte, which need not be a character of its own */
};

/* How token ids become text. */
struct nb_decoding {
    enum nb_decoding_kind {
        /* Tokens are text, but for those with NB_TOKEN_BYTE: a run of them is text if all of it is
         * UTF-8, else U+FFFD for each. */
        NB_DECODE_RUNS,
        /* All tokens are bytes; joined, what is not UTF-8 becomes U+FFFD. */
        NB_DECODE_BYTES,
        /* As NB_DECODE_RUNS, but U+FFFD stands for those bytes alone that are no character; and
         * the first token, or each until there is text, loses one `mark` that it begins with. */
        NB_DECODE_PIECES,
    } kind;
    struct nb_text strip; /* a character that is dropped from the start of the text … */
    size_t strip_max;     /* … up to so often */
    struct nb_text mark;  /* dropped wherever it is in the first token, if not empty */
    bool squeezed; /* NB_DECODE_PIECES: each token until there is text, not the first alone */
    bool spaced;   /* a space between any two tokens: there is no decoder */
};

struct nb_tokenizer {
    struct nb_arena arena; /* all strings */
    int32_t size;          /* one more than the highest id */
    struct nb_text *texts; /* [size] tokens as they are written in the vocabulary */
    struct nb_text *bytes; /* [size] what they add to decoded text */
    uint8_t *flags;        /* [size] nb_token_flags */

    struct nb_text_map by_text;

    /* Tokens of the model by the text that they stand for: by_text's texts, without those that are
     * only added; for a byte-level model their raw bytes. */
    struct nb_text *word_texts; /* [size] */
    struct nb_text_map words;
    struct nb_bpe bpe;

    struct nb_added *added;
    size_t n_added;
    struct nb_added_tree raw, normalized; /* of added tokens */

    struct nb_normalizer *normalizers;
    size_t n_normalizers;
    struct nb_splitter *splitters;
    size_t n_splitters;

    int32_t *prefix, *suffix; /* what the post-processor puts around a text */
    size_t n_prefix, n_suffix;

    struct nb_decoding decoding;
};

/* Fills an all-zero tokenizer from a file's bytes; `name` is the file. On failure the tokenizer is
 * to be closed all the same. */
enum nb_status nb_tokenizer_load_json(struct nb_tokenizer *t, const char *bytes, size_t n,
                                      const char *name, struct nb_error *err);
enum nb_status nb_tokenizer_load_spm(struct nb_tokenizer *t, const char *bytes, size_t n,
                                     const char *name, struct nb_error *err);

/* Makes room for t->size tokens. */
enum nb_status nb_tokenizer_allocate(struct nb_tokenizer *t, struct nb_error *err);

/* The byte that a token such as "<0x0A>" stands for, or -1. */
int nb_fallback_byte(const char *text, size_t n);

/* The start of a token's text, cut between characters, for messages. */
struct nb_shown {
    char text[64];
};
struct nb_shown nb_show(const char *text, size_t n);

#endif
