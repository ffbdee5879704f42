/* Checkpoints and files for tests that break them: small random Mixtrals written into a temporary
 * folder, and a look at the error that follows. */
#ifndef NB_TEST_CHECKPOINT_H
#define NB_TEST_CHECKPOINT_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- files ---- */

/* A fresh folder in the system's place for temporary files. */
struct folder {
    char path[256];
};
void folder_make(struct folder *folder);
void folder_remove(struct folder *folder); /* with the files in it */

/* "FOLDER/name" in one of a few static buffers: good until the eighth call after. */
const char *folder_path(const struct folder *folder, const char *name);
void folder_write(const struct folder *folder, const char *name, const void *bytes, size_t n);
void folder_write_text(const struct folder *folder, const char *name, const char *text);

/* Reads a file of the source tree; the caller frees it. */
char *read_source(const char *name, size_t *n);

/* ---- checkpoints ---- */

struct checkpoint_shape {
    int vocab, layers, width, heads, kv_heads, head_width, experts, top, expert_width, context;
    bool bf16; /* all weights; otherwise those of the layers are NF4, double quantized */
    bool tied;
    uint64_t seed;         /* of the weights: equal seeds give equal checkpoints */
    const char *tokenizer; /* a file of the source tree to be its tokenizer.json, or NULL */
};

/* Two layers, four experts, a vocabulary of 320, 12 kB of weights. */
extern const struct checkpoint_shape checkpoint_tiny;

/* A tensor, to be broken before it is written. */
struct checkpoint_tensor {
    char name[128];
    const char *dtype; /* as it will stand in the header, true or not */
    int n_dims;
    int64_t shape[2];
    uint8_t *data;
    size_t bytes;
    int shard; /* the file it goes to, if there are several */
};

struct checkpoint {
    struct checkpoint_shape shape;
    json_t *config;
    struct checkpoint_tensor *tensors;
    size_t n, cap;
    size_t header_padding; /* spaces after the header: what it takes to misalign the data */
    int shards;            /* files to write, with an index; 0: a single one without */
    json_t *index;         /* what checkpoint_write put into the index, to be broken after it */
    struct folder folder;
};

/* Draws the tensors and makes the folder. */
void checkpoint_make(struct checkpoint *c, const struct checkpoint_shape *shape);

/* Writes config.json, tokenizer.json and tensors, in place of what an earlier call wrote. */
void checkpoint_write(struct checkpoint *c);
void checkpoint_free(struct checkpoint *c);

struct checkpoint_tensor *checkpoint_find(struct checkpoint *c, const char *name);

/* Takes a tensor out, or gives one other contents: a copy of bytes[0..n), shaped [n] U8. */
void checkpoint_drop(struct checkpoint *c, struct checkpoint_tensor *t);
void checkpoint_put(struct checkpoint *c, const char *name, const void *bytes, size_t n);

/* Sets a member to the value that `json` spells, or takes it out for NULL. */
void json_put(json_t *object, const char *key, const char *json);

/* ---- failures ---- */

/* Fails the test unless `got` is `want` and the message of *err holds every piece of `says`, which
 * are separated by '|'. `label` is the case, for the test's own message. */
void expect_failure(const char *label, enum nb_status got, const struct nb_error *err,
                    enum nb_status want, const char *says);

/* ---- random numbers ---- */

uint64_t random_bits(uint64_t *state); /* splitmix64 */
double random_unit(uint64_t *state);   /* [0, 1) */
float random_normal(uint64_t *state);  /* about standard normal, within [-6, 6] */
void random_normals(uint64_t *state, size_t n, float *out);

/* A character of UTF-8 (1 to 4 bytes, from all planes, rich in what a document is made of) into
 * out[0..4]; returns its length. */
size_t random_character(uint64_t *state, char *out);

#endif
