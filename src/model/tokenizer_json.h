/* Between the files that read a tokenizer.json: tokenizer_json.c reads the vocabulary, the model
 * and the added tokens, tokenizer_json_text.c what is done to text, tokenizer_json_decode.c how ids
 * become text. `where` is the field being read, as messages name it; the name of the file goes
 * before it at the end. */
#ifndef NB_MODEL_TOKENIZER_JSON_H
#define NB_MODEL_TOKENIZER_JSON_H

#include "model/json.h"
#include "model/tokenizer_impl.h"

enum { NB_LOADER_MAX_STEPS = 64 }; /* of normalizers, splitters and decoders */

struct nb_json_loader {
    struct nb_tokenizer *t;
    struct nb_error *err;
    int32_t n_vocab;         /* one more than the highest id of model.vocab */
    bool byte_level;         /* the vocabulary is written in ByteLevel's alphabet */
    int16_t bytes_of[0x144]; /* that alphabet: the byte of a character, or -1 */
};

/* The name of a field within another, or of an element of an array. */
struct nb_where {
    char text[160];
};

struct nb_where nb_where_field(const char *where, const char *key);
struct nb_where nb_where_element(const char *where, size_t i);

/* nb_show of a string that ends in NUL. */
struct nb_shown nb_shown_text(const char *text);

enum nb_status nb_loader_no_memory(struct nb_json_loader *l, const char *where);
enum nb_status nb_loader_wrong_type(struct nb_json_loader *l, const char *where,
                                    const json_t *found, const char *expected);
enum nb_status nb_loader_unsupported(struct nb_json_loader *l, const char *where, const char *type,
                                     const char *known);

/* object's string `key`, copied; absent or null is an error. */
enum nb_status nb_loader_text(struct nb_json_loader *l, const json_t *object, const char *where,
                              const char *key, struct nb_text *out);

/* The same, for a string of one character. */
enum nb_status nb_loader_mark(struct nb_json_loader *l, const json_t *object, const char *where,
                              const char *key, struct nb_text *out);

/* {"String": …} or {"Regex": …} of a Replace or a Split: *text or *regex. */
enum nb_status nb_loader_pattern(struct nb_json_loader *l, const json_t *object, const char *where,
                                 struct nb_text *text, struct nb_regex **regex);

/* A Metaspace's prepend_scheme, or its older form add_prefix_space. */
enum nb_status nb_loader_prepend(struct nb_json_loader *l, const json_t *object, const char *where,
                                 enum nb_prepend *out);

/* Calls `step` for a component, or for each of a Sequence's, whose list is called `list`; nothing
 * where the component is absent or null. */
typedef enum nb_status (*nb_loader_step)(struct nb_json_loader *l, const json_t *object,
                                         const char *where, const char *type);
enum nb_status nb_loader_each_step(struct nb_json_loader *l, const json_t *object,
                                   const char *where, const char *list, nb_loader_step step);

/* The bytes that `text`, in ByteLevel's alphabet, stands for; false if it has other characters. */
bool nb_from_alphabet(const struct nb_json_loader *l, const struct nb_text *text,
                      struct nb_buf *out);

enum nb_status nb_load_text_steps(struct nb_json_loader *l, const json_t *root);
enum nb_status nb_load_processor(struct nb_json_loader *l, const json_t *processor);
enum nb_status nb_load_decoder(struct nb_json_loader *l, const json_t *decoder);

#endif
