/* nibble: 4-bit mixture-of-experts models served from C. The public API.
 *
 * Every function that can fail returns an nb_status and, where `err` is not NULL, writes a message
 * that says what was being done, what was found, what was expected and, if it is known, what to do.
 * Nothing here prints or exits. Strings are UTF-8 and end in NUL unless a length goes with them.
 */
#ifndef NIBBLE_H
#define NIBBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum nb_status {
    NB_OK = 0,
    NB_ERR_ARGUMENT,    /* the caller asked for something that makes no sense */
    NB_ERR_IO,          /* a file could not be opened, mapped or read */
    NB_ERR_FORMAT,      /* bytes from outside are not what their format says */
    NB_ERR_UNSUPPORTED, /* well formed, but nibble cannot run it */
    NB_ERR_MEMORY,      /* memory, on the host or a device, ran out */
    NB_ERR_LIMIT,       /* larger than a limit: the context, a file size */
    NB_ERR_STOPPED,     /* the caller's callback asked to stop */
    NB_ERR_BUSY,        /* as much waits already as may; it may work later */
    NB_ERR_INTERNAL,    /* a defect of nibble */
};

enum { NB_ERROR_MESSAGE_BYTES = 1024 };

struct nb_error {
    enum nb_status code;
    char message[NB_ERROR_MESSAGE_BYTES];
};

/* "0.1.0" */
const char *nb_version(void);

/* What this build has, "cuda (sm_80, …), cpu (plain, avx2, avx512)", into out[0..size): of the CPU,
 * what this machine can run; whether there is a GPU is only known when it is wanted.
 * Returns out. */
const char *nb_backends(char *out, size_t size);

/* ---- a model that is ready to answer ---- */

struct nb_engine; /* one caller at a time */

/* All zero is the default of everything. */
struct nb_options {
    int threads;     /* 0: one for each processor that the process may run on */
    const char *cpu; /* "plain", "avx2", "avx512"; NULL: the best that the processor has */

    /* 4-bit weights: "mapped" are read where the checkpoint maps them; "packed" are copied while
     * the model is loaded, in the order that the CPU reads fastest, which takes their size in
     * memory and reads all of them before the first token; "auto": packed where the processor gains
     * from it and that is at most three quarters of the memory left; NULL: as "auto" where they are
     * at most a gigabyte, else mapped. */
    const char *weights;

    /* "cpu", "cuda"; NULL or "auto": cuda where this build and this machine have it, unless `cpu`
     * says otherwise. */
    const char *backend;
    uint64_t memory_limit; /* bytes of a GPU's memory that may be allocated; 0: all that is free. A
                            * model that takes more is NB_ERR_MEMORY before anything is allocated */
    const char *kv_type;   /* keys and values on a GPU: "bf16", or "fp8" (e4m3), half the memory and
                            * less exact; NULL: bf16 */
    int32_t context;       /* positions of a sequence; 0: the model's, 8192 at most */
    int32_t sequences;     /* how many of that length KV memory is made for; 0: one */

    /* What a checkpoint in bf16, fp16 or fp32 is quantized to while it is loaded, its linear layers
     * but the head: "nf4" or "fp4", in blocks of 64 with double quantization, or "none"; NULL:
     * "nf4". A checkpoint that is quantized stays as it is. */
    const char *quantize;

    /* A folder to keep what `quantize` made in, as a checkpoint; where it is there already, it is
     * opened in place of the one in floats. NULL: nothing is kept. */
    const char *save_quantized;

    /* Hears, while a model is loaded, of bytes done of bytes in all. May be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
};

/* Opens a checkpoint: a folder with config.json, safetensors and, for text, tokenizer.json.
 * `options` may be NULL. The caller closes *out. On failure nothing is left open and *out is NULL.
 */
enum nb_status nb_engine_open(const char *checkpoint, const struct nb_options *options,
                              struct nb_engine **out, struct nb_error *err);
void nb_engine_close(struct nb_engine *engine); /* NULL is allowed */

/* The name of the model: the last part of the checkpoint's path. Owned by the engine. */
const char *nb_engine_name(const struct nb_engine *engine);

/* Without a tokenizer an engine takes and gives token ids only. */
bool nb_engine_has_tokenizer(const struct nb_engine *engine);

/* What an engine computes on. */
struct nb_device {
    char backend[16];      /* "cpu", "cuda" */
    char name[128];        /* "2 threads, avx512", or a GPU's name */
    uint64_t memory_bytes; /* of a GPU; 0 for a CPU */
    uint64_t used_bytes;   /* of it, by the engine */
};
void nb_engine_device(const struct nb_engine *engine, struct nb_device *out);

/* ---- generation ---- */

/* transformers' meaning, in this order: the logits of tokens that the prompt or the answer already
 * holds are divided by repetition_penalty where positive and multiplied where negative; all are
 * divided by temperature; the top_k largest are kept; of those the most probable ones until their
 * probabilities reach top_p; of those the ones at least min_p times as probable as the best; one of
 * them is drawn. */
struct nb_sampling {
    double temperature;        /* 0: the most probable token, always */
    int32_t top_k;             /* 0: all */
    double top_p;              /* 1: all; 0 is taken as 1 */
    double min_p;              /* 0: all */
    double repetition_penalty; /* 1: none; 0 is taken as 1 */
    uint64_t seed;             /* the same seed gives the same tokens */
};

/* What an answer may be, compiled; counted, shared, good for any number of answers. */
struct nb_grammar;

/* Where in an answer its grammar begins to hold: after a token, or after a text, or with an
 * opening. Before that, and where none of them comes, the answer is free. The grammar's text, which
 * must be one that nothing but white space can follow when it may end, such as an object or a list,
 * ends as soon as it is whole. What is pointed to outlives the call. */
struct nb_trigger {
    int32_t token;       /* such as a special one; -1: none */
    const char *text;    /* NULL: none; not empty */
    const char *opening; /* a regular expression (ECMA-262) of what the answer, from its first byte
                          * on, begins with, and the grammar's text likewise; NULL: none */
    const char *end; /* follows the grammar's text, and then the answer is free again; NULL: nothing
                      * follows, and the answer ends */
    bool once;       /* the answer ends after `end`, too */
};

struct nb_generate_options {
    const char *prompt; /* text, prompt_bytes long; special tokens in it become their ids */
    size_t prompt_bytes;
    const int32_t *prompt_ids; /* instead of text, where not NULL: needs no tokenizer */
    size_t n_prompt_ids;

    /* The text is a user's message, put as the checkpoint's chat template puts it; special tokens
     * in it are ordinary text. A template that nibble does not know is NB_ERR_UNSUPPORTED. */
    bool chat;
    const char *system; /* with chat: a system prompt; NULL: none, or the template's own */

    int32_t max_tokens; /* 0: until the context is full */
    int32_t min_tokens; /* no end token is drawn before this many */
    bool ignore_eos;    /* goes on after an end token */
    struct nb_sampling sampling;

    /* Generation ends with the token that completes one of these in the text, which keeps it, as in
     * transformers. Needs a tokenizer. */
    const char *const *stop; /* [n_stop], none empty */
    size_t n_stop;

    /* The answer is a text of this grammar, which outlives the call, and ends where it is whole:
     * see nb_grammar_compile. Text that must come is not drawn token by token but appended (unless
     * logprobs are asked for). With `close`, an answer that reaches max_tokens or the context's end
     * is finished in a short way that the grammar allows, with some tokens more. */
    struct nb_grammar *grammar;
    bool close;
    bool draw_all;                    /* text that must come is drawn token by token, too */
    const struct nb_trigger *trigger; /* the grammar holds from here on only; NULL: all along */

    /* Log probabilities of each token and of the top_logprobs most probable in its place, before
     * any of `sampling` is applied. */
    bool logprobs;
    int32_t top_logprobs;

    /* With logprobs: hears of each token's, before on_token does: the token, its log probability,
     * and ids [n_top] and log probabilities [n_top] of the most probable ones. May be NULL. */
    void (*on_logprobs)(void *context, int32_t id, double logprob, const int32_t *top_ids,
                        const double *top_logprobs, size_t n_top);

    /* Hears of each token, and of the text that it completes (empty while a character is not whole,
     * and without a tokenizer); last, with id -1, of text that only the end completes, where there
     * is some. Returns false to stop. May be NULL. */
    bool (*on_token)(void *context, int32_t id, const char *text, size_t n);
    void *on_token_context; /* and of on_logprobs */
};

enum nb_finish {
    NB_FINISH_STOP,   /* an end token, or a stop string */
    NB_FINISH_LENGTH, /* max_tokens, or the context is full */
    NB_FINISH_CALLER, /* on_token returned false */
    NB_FINISH_CLOSED, /* as NB_FINISH_LENGTH, and the answer was finished by `close` */
};

struct nb_generation {
    int32_t *token_ids; /* [n_tokens], the end token not among them unless ignore_eos */
    size_t n_tokens;
    size_t n_prompt_tokens;
    char *text; /* text_bytes and a NUL; NULL without a tokenizer */
    size_t text_bytes;
    enum nb_finish finish;
    double prefill_ms, decode_ms;

    double *logprobs;     /* [n_tokens]; NULL unless asked for, like those below */
    int32_t *top_ids;     /* [n_tokens, top_logprobs], most probable first */
    double *top_logprobs; /* likewise */
    size_t n_top;         /* top_logprobs */
};

/* The caller frees *out with nb_generation_free, after NB_OK only. */
enum nb_status nb_generate(struct nb_engine *engine, const struct nb_generate_options *options,
                           struct nb_generation *out, struct nb_error *err);
void nb_generation_free(struct nb_generation *generation);
const char *nb_finish_name(enum nb_finish finish); /* "stop", "length", "caller", "closed" */

/* The text of a token as it adds to a text, n bytes, which need not be whole UTF-8 characters; none
 * without a tokenizer or for a special token. Owned by the engine. */
const char *nb_token_text(const struct nb_engine *engine, int32_t id, size_t *n);

/* ---- structured answers ---- */

/* What an answer must be; one of schema, regex and choices. All zero is the default of the rest. */
struct nb_structure {
    const char *schema; /* the text of a JSON Schema, drafts 4 to 2020-12 */
    size_t schema_bytes;
    const char *name;  /* of the schema, for messages; NULL: "schema" */
    const char *regex; /* ECMA-262; the whole answer matches it */
    const char *const *choices;
    size_t n_choices;
    bool any_order; /* members in any order; else in the schema's */
    bool flexible;  /* white space between JSON's tokens; else none */
    bool lenient;   /* what cannot be enforced is noted, see nb_grammar_notes, instead of refused */
};

/* Compiles it for the engine's vocabulary, or finds it compiled: the last ones are kept. Any thread
 * may call it. A schema that cannot be enforced is NB_ERR_UNSUPPORTED, what is no schema
 * NB_ERR_FORMAT; messages name keyword and path. The caller releases *out. */
enum nb_status nb_grammar_compile(struct nb_engine *engine, const struct nb_structure *what,
                                  struct nb_grammar **out, struct nb_error *err);
void nb_grammar_release(struct nb_grammar *grammar); /* NULL is allowed */

/* What is not enforced, a line each: "#/a: multipleOf …"; "" where all is. Owned by the grammar. */
const char *nb_grammar_notes(const struct nb_grammar *grammar);

/* The probability of each of the labels, as a whole answer to the options' prompt, among all of
 * them: every label is scored, with the token that ends it. p [n]. Of the options the prompt counts
 * alone. *n_prompt_tokens may be NULL. */
enum nb_status nb_choose(struct nb_engine *engine, const struct nb_generate_options *options,
                         const char *const *labels, size_t n, double *p, size_t *n_prompt_tokens,
                         struct nb_error *err);

/* ---- documents ---- */

/* A text from a file or a request; `name` begins messages about it. */
struct nb_named_text {
    const char *text; /* NULL: not given, which means the default */
    size_t bytes;
    const char *name;
};

/* What is asked of documents. All zero is the default of everything: the files that `prompts/` and
 * `schemas/` have, which the library carries. */
struct nb_classify_options {
    /* Document types, 2 to 64: a line each, "NAME" or "NAME: DESCRIPTION", or a JSON list. Default:
     * labels.txt of the checkpoint, else prompts/document_types.txt. */
    struct nb_named_text labels;

    /* {"company": ours, "actions": ["NAME" or {"name", "description"}…], "instructions": text},
     * every key optional. Default of the actions: prompts/classify-context.json. */
    struct nb_named_text context;

    /* A JSON Schema that answers fulfil instead of the classification's. */
    struct nb_named_text schema;

    /* Instructions for models that were not trained on a form of their own, with places such as
     * {{document}}. Default: prompts/classify.txt, with a schema prompts/classify-schema.txt. */
    struct nb_named_text prompt;
};

/* How sure a model is of a closed choice: the probability of what it chose among all that could be
 * chosen, each scored whole. */
struct nb_confidence {
    char *field; /* "document_type", "primary_party.role" */
    double p;    /* 0 to 1 */
};

/* What a document is and says. Strings are NULL for what is not there. */
struct nb_classification {
    char *document_type; /* one of the labels; NULL with a schema of the caller's, like all up to
                          * selected_action */
    double confidence;   /* of the type: its probability among the labels, 0 to 1 */
    char *party;         /* the other business */
    char *date;          /* ISO 8601: 2026-11-22 */
    char *currency;      /* ISO 4217: EUR */
    char *total;         /* a decimal number: 1234.50 */
    char *number;        /* the document's own */
    bool business_relevant;
    char *transaction_direction; /* "incoming", "outgoing", "neutral", seen from the own company */
    char *role;                  /* of the party: "customer", "vendor", "employee", "other" */
    char *reasoning;             /* a sentence */
    char *selected_action;       /* one of the actions */

    char *answer; /* what the model answered, JSON: of a caller's schema this is all */
    struct nb_confidence *confidences;
    size_t n_confidences;

    bool truncated; /* the document did not fit into the context: its middle was left out */
    size_t prompt_tokens;
    size_t cached_tokens; /* of them, that an earlier document had computed */
    size_t tokens;        /* of the answer, the frame that the program writes included */
    double milliseconds;
};

/* An engine and what is asked of documents, ready for any number of them: what all their prompts
 * begin with is computed once. One caller at a time, as of the engine, which outlives it. */
struct nb_classifier;

/* Bad options are NB_ERR_FORMAT or NB_ERR_UNSUPPORTED, and the message names the text and the place
 * in it. `options` may be NULL; nothing of it is needed afterwards. */
enum nb_status nb_classifier_open(struct nb_engine *engine,
                                  const struct nb_classify_options *options,
                                  struct nb_classifier **out, struct nb_error *err);
void nb_classifier_close(struct nb_classifier *classifier); /* NULL is allowed */

/* Reads a text file ("-" is standard input) of at most 64 MiB and answers for it. A file that is
 * empty, not UTF-8, or of another format is NB_ERR_FORMAT. The caller frees *out, after NB_OK only.
 */
enum nb_status nb_classifier_file(struct nb_classifier *classifier, const char *path,
                                  struct nb_classification *out, struct nb_error *err);

/* Answers for a text of n bytes of UTF-8. */
enum nb_status nb_classifier_text(struct nb_classifier *classifier, const char *text, size_t n,
                                  struct nb_classification *out, struct nb_error *err);

/* The same with the default options, for a single document. */
enum nb_status nb_classify_file(struct nb_engine *engine, const char *path,
                                struct nb_classification *out, struct nb_error *err);
enum nb_status nb_classify_text(struct nb_engine *engine, const char *text, size_t n,
                                struct nb_classification *out, struct nb_error *err);
void nb_classification_free(struct nb_classification *classification);

/* A classification as one JSON object without line ends, as schemas/classification.json has it, in
 * a string that the caller frees; NULL if memory ran out. file and model may be NULL. */
char *nb_classification_json(const struct nb_classification *classification, const char *file,
                             const char *model);

#ifdef __cplusplus
}
#endif

#endif
