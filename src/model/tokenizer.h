/* Text to token ids and back, as the checkpoint's own tokenizer does it. */
#ifndef NB_MODEL_TOKENIZER_H
#define NB_MODEL_TOKENIZER_H

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_tokenizer; /* immutable once open; any number of threads may use it */

/* A growing list of token ids; all zero is an empty one. */
struct nb_tokens {
    int32_t *ids;
    size_t n, cap;
};

/* Appends; false if memory ran out. */
bool nb_tokens_add(struct nb_tokens *tokens, int32_t id);
void nb_tokens_free(struct nb_tokens *tokens);

/* Reads a Hugging Face tokenizer.json whose model is BPE, or a SentencePiece tokenizer.model whose
 * type is BPE; which of them it is, the file's bytes say. What the file asks for and nibble does
 * not do is NB_ERR_UNSUPPORTED, named by its field. Truncation and padding, which a tokenizer.json
 * may ask for, are not done.
 *
 * A tokenizer.model has no list of special tokens and no post-processor. Its control symbols are
 * the special tokens, and NB_ENCODE_TEMPLATE puts its <s> in front, as Llama and Mistral do. */
enum nb_status nb_tokenizer_open(const char *path, struct nb_tokenizer **out, struct nb_error *err);

/* The same from memory, which is not needed afterwards; `name` is the file for messages. */
enum nb_status nb_tokenizer_open_bytes(const char *bytes, size_t n, const char *name,
                                       struct nb_tokenizer **out, struct nb_error *err);
void nb_tokenizer_close(struct nb_tokenizer *tokenizer); /* NULL is allowed */

/* One more than the highest token id. */
int32_t nb_tokenizer_size(const struct nb_tokenizer *tokenizer);

enum nb_encode_flags {
    /* Special tokens written in the text, such as "</s>", become their ids. Never set it for text
     * from outside: without it they are ordinary characters. Added tokens that are not special are
     * always recognised, as `tokenizers` does. */
    NB_ENCODE_SPECIAL = 1,
    /* Adds what the tokenizer's post-processor adds, such as <s> at the start. */
    NB_ENCODE_TEMPLATE = 2,
    /* The text goes on from text already tokenized: no space is put in front (Prepend, Metaspace's
     * and SentencePiece's dummy prefix). */
    NB_ENCODE_CONTINUE = 4,
};

/* Appends the ids of text[0..n), which may hold NUL bytes, to *out. Invalid UTF-8 is NB_ERR_FORMAT.
 * On failure *out holds what it held before. */
enum nb_status nb_tokenizer_encode(const struct nb_tokenizer *tokenizer, const char *text, size_t n,
                                   unsigned flags, struct nb_tokens *out, struct nb_error *err);

/* The id of the token that is written exactly `text` (as in the vocabulary: "<s>", "▁the",
 * "<0x0A>"), or -1. */
int32_t nb_tokenizer_find(const struct nb_tokenizer *tokenizer, const char *text);

/* The bytes that token `id` adds to decoded text, in the middle of a text: "▁the" is " the",
 * "<0x0A>" is a line feed; a special token is nothing. They are owned by the tokenizer and need not
 * be whole UTF-8 characters. An id out of range, or one with no token, gives 0 bytes. */
const char *nb_tokenizer_bytes(const struct nb_tokenizer *tokenizer, int32_t id, size_t *n);
bool nb_tokenizer_is_special(const struct nb_tokenizer *tokenizer, int32_t id);

/* Appends the text of ids[0..n) to *out as `tokenizers` (for a tokenizer.model, `sentencepiece`)
 * decodes it, special tokens skipped: bytes that are no UTF-8 become U+FFFD, and one leading space
 * that encoding put there is dropped. Ids without a token are skipped. */
enum nb_status nb_tokenizer_decode(const struct nb_tokenizer *tokenizer, const int32_t *ids,
                                   size_t n, struct nb_buf *out, struct nb_error *err);

/* Decoding a token at a time: what comes out, joined, equals nb_tokenizer_decode of all ids at
 * once. For a tokenizer.json, whether a run of byte tokens ("<0xE2>") is text is known only at its
 * end, so it comes out there; all else comes out at once, but for the start of a character that is
 * not whole yet. */
struct nb_decoder {
    const struct nb_tokenizer *tokenizer;
    bool started;      /* the next token is not the first one */
    size_t strip_left; /* spaces that the start of the text may still lose */
    struct nb_buf pending;
};

void nb_decoder_start(struct nb_decoder *decoder, const struct nb_tokenizer *tokenizer);
void nb_decoder_add(struct nb_decoder *decoder, int32_t id, struct nb_buf *out);

/* Writes what is left, frees the decoder's memory and makes it ready for another text. Where memory
 * ran out, here or before, out->failed is set. */
void nb_decoder_finish(struct nb_decoder *decoder, struct nb_buf *out);

#endif
