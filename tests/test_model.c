/* Checkpoints that lie: config.json, tensors and quant_state that contradict each other or
 * themselves. And such as only look odd: data at odd addresses, many shards, any shape. */
#include "test.h"

#include "checkpoint.h"

#include "base/buf.h"
#include "engine/engine.h"

/* One layer of two experts: small enough to break each of its tensors in turn. */
static const struct checkpoint_shape small = {
    .vocab = 20,
    .layers = 1,
    .width = 16,
    .heads = 2,
    .kv_heads = 1,
    .head_width = 8,
    .experts = 2,
    .top = 1,
    .expert_width = 24,
    .context = 32,
    .seed = 3,
};

/* Opens what the checkpoint is now, which must fail so. */
static void expect_refusal(struct checkpoint *c, const char *label, enum nb_status want,
                           const char *says) {
    struct nb_model model;
    struct nb_error err = {0};
    checkpoint_write(c);
    enum nb_status s = nb_model_open(c->folder.path, &model, &err);
    if (s == NB_OK)
        nb_model_close(&model);
    expect_failure(label, s, &err, want, says);
    assert_null(model.arena.head); /* nothing is left open */
    assert_int_equal(model.tensors.n_files, 0);
}

static void expect_opens(struct checkpoint *c, const char *label) {
    struct nb_model model;
    struct nb_error err;
    checkpoint_write(c);
    if (nb_model_open(c->folder.path, &model, &err) != NB_OK)
        fail_msg("%s: %s", label, err.message);
    nb_model_close(&model);
}

/* ---- config.json ---- */

/* Fields that must be there; one more of each contradicts the tensors that are named. */
static const struct {
    const char *key, *one_more, *says;
} required[] = {
    {"vocab_size", "21", "tensor model.embed_tokens.weight has shape [20, 16], expected [21, 16]"},
    {"num_hidden_layers", "2", "tensor model.layers.1.self_attn.q_proj.weight is missing"},
    {"hidden_size", "17", "tensor model.embed_tokens.weight has shape [20, 16], expected [20, 17]"},
    {"num_attention_heads", "3", "q_proj.weight: the quantized shape is [16, 16], expected [24,"},
    {"num_local_experts", "3", "block_sparse_moe.gate.weight: the quantized shape is [2, 16], exp"},
    {"num_experts_per_tok", "3", "num_experts_per_tok, 3, is above num_local_experts, 2"},
    {"intermediate_size", "25", "experts.0.w1.weight: the quantized shape is [24, 16], expected ["},
    {"max_position_embeddings", NULL, NULL}, /* says nothing about tensors */
};

static void required_fields(void **state) {
    (void)state;
    static const struct {
        const char *json, *says;
    } bad[] = {
        {NULL, "is missing"},
        {"null", "is missing"},
        {"\"4\"", "is a string, expected an integer"},
        {"[4]", "is an array, expected an integer"},
        {"{}", "is an object, expected an integer"},
        {"true", "is a boolean, expected an integer"},
        {"4.0", "is a number, expected an integer"},
        {"0", "is 0, expected 1 to"},
        {"-1", "is -1, expected 1 to"},
        {"2147483648", "is 2147483648, expected 1 to"},
        {"4294967297", "is 4294967297, expected 1 to"},
        {"9223372036854775807", "is 9223372036854775807, expected 1 to"},
        {"-9223372036854775808", "is -9223372036854775808, expected 1 to"},
    };
    struct checkpoint c;
    checkpoint_make(&c, &small);
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        const char *key = required[i].key;
        json_t *right = json_incref(json_object_get(c.config, key));
        for (size_t j = 0; j < sizeof bad / sizeof *bad; j++) {
            char says[256];
            snprintf(says, sizeof says, "config.json: %s %s", key, bad[j].says);
            json_put(c.config, key, bad[j].json);
            expect_refusal(&c, key, NB_ERR_FORMAT, says);
        }
        if (required[i].one_more) {
            json_put(c.config, key, required[i].one_more);
            expect_refusal(&c, key, NB_ERR_FORMAT, required[i].says);
        }
        json_object_set_new(c.config, key, right);
    }
    expect_opens(&c, "as it was");
    checkpoint_free(&c);
}

#define LLAMA3(low, high)                                                                          \
    "{\"rope_type\":\"llama3\",\"factor\":8,\"original_max_position_embeddings\":8192,"            \
    "\"low_freq_factor\":" low ",\"high_freq_factor\":" high "}"

/* Other fields, each set alone. */
static const struct {
    const char *key, *json;
    enum nb_status status; /* NB_OK: it opens */
    const char *says;
} fields[] = {
    {"model_type", NULL, NB_ERR_FORMAT, "config.json: model_type is missing"},
    {"model_type", "7", NB_ERR_FORMAT, "config.json: model_type is an integer"},
    {"model_type", "\"gpt2\"", NB_ERR_UNSUPPORTED, "model_type is \"gpt2\"|mixtral"},
    {"model_type", "\"llama\"", NB_ERR_FORMAT, "model.layers.0.mlp.gate_proj.weight is missing"},
    {"model_type", "\"qwen3_moe\"", NB_ERR_FORMAT, "moe_intermediate_size is missing"},
    {"vocab_size", "16777217", NB_ERR_FORMAT, "vocab_size is 16777217, expected 1 to 16777216"},
    {"hidden_size", "1048576", NB_ERR_FORMAT, "expected [20, 1048576] from config.json"},
    {"num_hidden_layers", "4096", NB_ERR_FORMAT, "model.layers.1.self_attn.q_proj.weight is miss"},
    {"num_key_value_heads", "0", NB_ERR_FORMAT, "num_key_value_heads is 0"},
    {"num_key_value_heads", "2", NB_ERR_FORMAT, "k_proj.weight: the quantized shape is [8, 16]"},
    {"num_key_value_heads", "3", NB_ERR_FORMAT, "num_attention_heads, 2, is no multiple of|3"},
    {"num_key_value_heads", "\"1\"", NB_ERR_FORMAT, "num_key_value_heads is a string"},
    {"head_dim", "0", NB_ERR_FORMAT, "head_dim is 0"},
    {"head_dim", "7", NB_ERR_UNSUPPORTED, "heads of 7 values; rope needs an even number"},
    {"head_dim", "65536", NB_ERR_FORMAT,
     "q_proj.weight: the quantized shape is [16, 16], expected"},
    {"head_dim", "1e1", NB_ERR_FORMAT, "head_dim is a number"},
    {"head_dim", "null", NB_OK, ""}, /* hidden_size / num_attention_heads */
    {"num_experts_per_tok", "17", NB_ERR_FORMAT, "num_experts_per_tok is 17, expected 1 to 16"},
    {"hidden_act", "\"gelu\"", NB_ERR_UNSUPPORTED, "hidden_act is \"gelu\", expected \"silu\""},
    {"hidden_act", "[]", NB_ERR_FORMAT, "hidden_act is an array"},
    {"rms_norm_eps", "-1", NB_ERR_FORMAT, "rms_norm_eps is -1"},
    {"rms_norm_eps", "\"1e-5\"", NB_ERR_FORMAT, "rms_norm_eps is a string"},
    {"rope_theta", "0", NB_ERR_FORMAT, "rope_theta is 0"},
    {"rope_theta", "1e300", NB_ERR_FORMAT, "rope_theta is 1e+300"},
    {"rope_scaling", "7", NB_ERR_FORMAT, "rope_scaling is an integer, expected an object"},
    {"rope_scaling", "{\"type\":\"linear\"}", NB_ERR_UNSUPPORTED, "rope_type is \"linear\""},
    {"rope_scaling", "{\"rope_type\":\"llama3\"}", NB_ERR_FORMAT, "needs factor, low_freq_factor"},
    {"rope_scaling", LLAMA3("4", "1"), NB_ERR_FORMAT, "low_freq_factor below"},
    {"rope_scaling", LLAMA3("1", "4"), NB_OK, ""},
    {"attention_bias", "true", NB_ERR_UNSUPPORTED, "attention_bias is true"},
    {"attention_bias", "0", NB_ERR_FORMAT, "attention_bias is an integer"},
    {"attention_bias", "false", NB_OK, ""},
    {"rope_scaling", "null", NB_OK, ""},
    {"rope_parameters", "3", NB_ERR_FORMAT, "rope_parameters is an integer, expected an object"},
    {"rope_parameters", "{\"rope_type\":\"yarn\"}", NB_ERR_UNSUPPORTED, "rope_type is \"yarn\""},
    {"rope_parameters", "{\"rope_theta\":true}", NB_ERR_FORMAT, "rope_theta is a boolean"},
    {"rope_parameters", "{\"rope_theta\":1e4,\"rope_type\":\"default\"}", NB_OK, ""},
    {"sliding_window", "0", NB_ERR_FORMAT, "sliding_window is 0"},
    {"sliding_window", "31", NB_OK, ""},
    {"sliding_window", "false", NB_ERR_FORMAT, "sliding_window is a boolean"},
    {"tie_word_embeddings", "1", NB_ERR_FORMAT, "tie_word_embeddings is an integer"},
    {"tie_word_embeddings", "true", NB_OK, ""}, /* lm_head is there and not looked at */
    {"bos_token_id", "20", NB_ERR_FORMAT, "bos_token_id is 20, expected 0 to 19"},
    {"bos_token_id", NULL, NB_OK, ""},
    {"eos_token_id", "20", NB_ERR_FORMAT, "eos_token_id is not a token id below vocab_size, 20"},
    {"eos_token_id", "-1", NB_ERR_FORMAT, "eos_token_id"},
    {"eos_token_id", "\"2\"", NB_ERR_FORMAT, "eos_token_id"},
    {"eos_token_id", "[2,[3]]", NB_ERR_FORMAT, "eos_token_id"},
    {"eos_token_id", "[1,2,3,4,5,6,7,8,9]", NB_ERR_UNSUPPORTED, "eos_token_id lists 9 ids, at m"},
    {"eos_token_id", "[1,2,3,4,5,6,7,8]", NB_OK, ""},
    {"eos_token_id", "[]", NB_OK, ""},
    {"what nobody knows", "[[[]]]", NB_OK, ""},
};

static void other_fields(void **state) {
    (void)state;
    struct checkpoint c;
    checkpoint_make(&c, &small);
    json_t *right = c.config;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        c.config = json_deep_copy(right);
        json_put(c.config, fields[i].key, fields[i].json);
        if (fields[i].status == NB_OK)
            expect_opens(&c, fields[i].key);
        else
            expect_refusal(&c, fields[i].key, fields[i].status, fields[i].says);
        json_decref(c.config);
    }
    c.config = right;
    checkpoint_free(&c);
}

/* Both files of JSON as no program would write them. */
static void broken_json(void **state) {
    (void)state;
    enum { DEPTH = 100000, HUGE_BYTES = 17 << 20 };
    struct nb_buf deep = {0}, huge = {0};
    nb_buf_add_string(&deep, "{\"model_type\":");
    for (int i = 0; i < DEPTH; i++)
        nb_buf_add_string(&deep, "[");
    for (int i = 0; i < HUGE_BYTES / 16; i++)
        nb_buf_add_string(&huge, "                ");
    assert_false(deep.failed || huge.failed);
    const struct {
        const char *text, *says;
        enum nb_status status;
    } bad[] = {
        {"", ": not valid JSON", NB_ERR_FORMAT},
        {"{", ": not valid JSON: line 1", NB_ERR_FORMAT},
        {"\"mixtral\"", ": not valid JSON", NB_ERR_FORMAT},
        {"[]", ": found an array, expected a JSON object", NB_ERR_FORMAT},
        {"{\"a\":1,\n\"a\":1}", ": not valid JSON: line 2|duplicate", NB_ERR_FORMAT},
        {"{\"a\":NaN}", ": not valid JSON", NB_ERR_FORMAT},
        {"{\"a\":1e999}", ": not valid JSON", NB_ERR_FORMAT},
        {"{\"\xC3\x28\":1}", ": not valid JSON", NB_ERR_FORMAT},
        {"{\"a\":\"\\ud800\"}", ": not valid JSON", NB_ERR_FORMAT},
        {"{} {}", ": not valid JSON", NB_ERR_FORMAT},
        {deep.data, ": not valid JSON|depth", NB_ERR_FORMAT},
        {huge.data, ": longer than the limit", NB_ERR_LIMIT},
    };
    static const char *const files[] = {"generation_config.json", "config.json"};
    struct checkpoint c;
    checkpoint_make(&c, &small);
    checkpoint_write(&c);
    for (int f = 0; f < 2; f++) {
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            struct nb_config config;
            struct nb_error err = {0};
            char says[128];
            snprintf(says, sizeof says, "/%s%s", files[f], bad[i].says);
            folder_write_text(&c.folder, files[f], bad[i].text);
            expect_failure(bad[i].says, nb_config_read(c.folder.path, &config, &err), &err,
                           bad[i].status, says);
        }
        folder_write_text(&c.folder, files[f], "{\"eos_token_id\":[3,20]}");
    }
    struct nb_config config;
    struct nb_error err;
    checkpoint_write(&c); /* config.json is right again, generation_config.json still wrong */
    expect_failure("end tokens", nb_config_read(c.folder.path, &config, &err), &err, NB_ERR_FORMAT,
                   "generation_config.json: eos_token_id");
    folder_write_text(&c.folder, files[0], "{\"eos_token_id\":[3,4]}");
    assert_ok(nb_config_read(c.folder.path, &config, &err), err);
    assert_int_equal(config.n_eos, 2);
    assert_int_equal(config.eos[1], 4);
    nb_buf_free(&deep);
    nb_buf_free(&huge);
    checkpoint_free(&c);
}

/* ---- tensors ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_state(const struct checkpoint_tensor *t) {
    return ends_with(t->name, ".quant_state.bitsandbytes__nf4");
}

/* Codes are bytes of any dtype: bitsandbytes' quant_storage. */
static bool is_codes(const struct checkpoint_tensor *t) {
    return strcmp(t->dtype, "U8") == 0 && ends_with(t->name, ".weight");
}

/* Ways to break a tensor. They say how opening must then fail. */
static enum nb_status drop_tensor(struct checkpoint *c, size_t i, char *says, size_t size) {
    struct checkpoint_tensor *t = &c->tensors[i];
    bool state = is_state(t);
    int weight = (int)(strstr(t->name, ".weight") - t->name) + 7;
    if (!state)
        snprintf(says, size, "tensor %s is missing", t->name);
    else
        snprintf(says, size, "tensor %.*s is U8, expected|quant_state", weight, t->name);
    checkpoint_drop(c, t);
    return state ? NB_ERR_UNSUPPORTED : NB_ERR_FORMAT;
}

static enum nb_status change_dtype(struct checkpoint *c, size_t i, char *says, size_t size) {
    struct checkpoint_tensor *t = &c->tensors[i];
    if (is_codes(t) || is_state(t))
        return NB_OK;
    t->dtype = strcmp(t->dtype, "F32") == 0 ? "I32" : strcmp(t->dtype, "U8") == 0 ? "I8" : "I16";
    snprintf(says, size, "model.safetensors: tensor %s is %s, expected", t->name, t->dtype);
    return NB_ERR_UNSUPPORTED;
}

/* One row more or less. */
static enum nb_status resize(struct checkpoint *c, size_t i, int by, char *says, size_t size) {
    struct checkpoint_tensor *t = &c->tensors[i];
    if (is_state(t))
        return NB_OK;
    size_t row = t->bytes / (size_t)t->shape[0], bytes = by < 0 ? t->bytes - row : t->bytes + row;
    t->data = realloc(t->data, bytes + 1);
    assert_non_null(t->data);
    if (by > 0)
        memset(t->data + t->bytes, 0, row);
    t->shape[0] += by;
    t->bytes = bytes;
    snprintf(says, size, "model.safetensors: tensor %s has|expected", t->name);
    return NB_ERR_FORMAT;
}

static enum nb_status add_row(struct checkpoint *c, size_t i, char *says, size_t size) {
    return resize(c, i, 1, says, size);
}

static enum nb_status drop_row(struct checkpoint *c, size_t i, char *says, size_t size) {
    return resize(c, i, -1, says, size);
}

static enum nb_status swap_shape(struct checkpoint *c, size_t i, char *says, size_t size) {
    struct checkpoint_tensor *t = &c->tensors[i];
    if (t->n_dims != 2 || is_codes(t))
        return NB_OK;
    int64_t rows = t->shape[0];
    t->shape[0] = t->shape[1];
    t->shape[1] = rows;
    snprintf(says, size, "tensor %s has shape [%d, %d], expected [%d, %d]", t->name,
             (int)t->shape[0], (int)t->shape[1], (int)t->shape[1], (int)t->shape[0]);
    return NB_ERR_FORMAT;
}

/* Breaks every tensor of a checkpoint in turn. */
static void break_each(enum nb_status (*break_one)(struct checkpoint *, size_t, char *, size_t),
                       size_t at_least) {
    size_t broken = 0, n = 1;
    for (size_t i = 0; i < n; i++) {
        struct checkpoint c;
        char says[256], label[160];
        checkpoint_make(&c, &small);
        n = c.n;
        snprintf(label, sizeof label, "%s", c.tensors[i].name);
        enum nb_status want = break_one(&c, i, says, sizeof says);
        if (want == NB_OK)
            expect_opens(&c, label);
        else
            expect_refusal(&c, label, want, says);
        broken += want != NB_OK;
        checkpoint_free(&c);
    }
    assert_true(broken >= at_least);
}

/* Of 11 quantized matrices, 3 norms, embedding and head. */
static void tensors_missing(void **state) {
    (void)state;
    break_each(drop_tensor, 71);
}

static void tensors_of_wrong_dtype(void **state) {
    (void)state;
    break_each(change_dtype, 49);
}

static void tensors_of_wrong_shape(void **state) {
    (void)state;
    break_each(add_row, 60);
    break_each(drop_row, 60);
    break_each(swap_shape, 2);
}

/* ---- quant_state ---- */

#define QUANTIZED "model.layers.0.self_attn.o_proj.weight"
#define STATE     QUANTIZED ".quant_state.bitsandbytes__nf4"

static const struct {
    const char *key, *json;
    enum nb_status status;
    const char *says;
} states[] = {
    {"quant_type", NULL, NB_ERR_FORMAT, "quant_type is \"\", expected \"nf4\""},
    {"quant_type", "\"fp4\"", NB_ERR_FORMAT, "quant_type is \"fp4\", expected \"nf4\""},
    {"quant_type", "4", NB_ERR_FORMAT, "quant_type is an integer, expected a string"},
    {"blocksize", NULL, NB_ERR_FORMAT, "blocksize is missing"},
    {"blocksize", "0", NB_ERR_FORMAT, "blocksize is 0"},
    {"blocksize", "-64", NB_ERR_FORMAT, "blocksize is -64"},
    {"blocksize", "3", NB_ERR_UNSUPPORTED, "blocksize is 3, expected a power of two"},
    {"blocksize", "16", NB_ERR_UNSUPPORTED, "blocksize is 16, expected a power of two from 32"},
    {"blocksize", "8192", NB_ERR_UNSUPPORTED, "blocksize is 8192, expected a power of two"},
    {"blocksize", "1099511627776", NB_ERR_FORMAT, "blocksize is 1099511627776"},
    {"blocksize", "64.0", NB_ERR_FORMAT, "blocksize is a number, expected an integer"},
    {"blocksize", "\"64\"", NB_ERR_FORMAT, "blocksize is a string"},
    {"shape", NULL, NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "\"16x16\"", NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "[256]", NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "[16, 16, 1]", NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "[16, 16.0]", NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "[16, null]", NB_ERR_FORMAT, "shape is not two sizes"},
    {"shape", "[8, 32]", NB_ERR_FORMAT, "quantized shape is [8, 32], expected [16, 16]"},
    {"shape", "[-16, -16]", NB_ERR_FORMAT, "quantized shape is [-16, -16], expected [16, 16]"},
    {"shape", "[4294967312, 16]", NB_ERR_FORMAT, "shape is [4294967312, 16], expected [16, 16]"},
    {"nested_blocksize", "0", NB_ERR_FORMAT, "nested_blocksize is 0"},
    {"nested_blocksize", "-1", NB_ERR_FORMAT, "nested_blocksize is -1"},
    {"nested_blocksize", "3", NB_ERR_UNSUPPORTED, "nested_blocksize is 3, expected a power of"},
    {"nested_blocksize", "null", NB_ERR_FORMAT, "nested_blocksize is null"},
    {"nested_blocksize", "1099511627776", NB_ERR_FORMAT, "nested_blocksize is 1099511627776"},
    {"nested_offset", "\"0\"", NB_ERR_FORMAT, "nested_offset is a string"},
    {"nested_offset", "1e39", NB_ERR_FORMAT, "nested_offset is 1e+39"},
    {"nested_offset", "-1e39", NB_ERR_FORMAT, "nested_offset is -1e+39"},
    {"dtype", "7", NB_OK, ""}, /* what weights were before: not needed */
    {"blocksize", "32", NB_ERR_FORMAT, "o_proj.weight.absmax has shape [4], expected 8 values"},
    {"blocksize", "128", NB_ERR_FORMAT, "o_proj.weight.absmax has shape [4], expected 2 values"},
    {"nested_blocksize", "2", NB_ERR_FORMAT, ".nested_absmax has shape [1], expected 2 values"},
    {"nested_blocksize", NULL, NB_ERR_UNSUPPORTED, "o_proj.weight.absmax is U8, expected F32"},
    {"nested_offset", NULL, NB_ERR_FORMAT, "nested_offset is missing"},
};

static void quant_states(void **state) {
    (void)state;
    struct checkpoint c;
    checkpoint_make(&c, &small);
    const struct checkpoint_tensor *t = checkpoint_find(&c, STATE);
    json_t *right = json_loadb((const char *)t->data, t->bytes, 0, NULL);
    assert_non_null(right);
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        json_t *wrong = json_deep_copy(right);
        json_put(wrong, states[i].key, states[i].json);
        char *text = json_dumps(wrong, 0);
        checkpoint_put(&c, STATE, text, strlen(text));
        if (states[i].status == NB_OK) {
            expect_opens(&c, text);
        } else {
            expect_refusal(&c, text, states[i].status, states[i].says);
            expect_refusal(&c, text, states[i].status, "model.safetensors: tensor " QUANTIZED);
        }
        free(text);
        json_decref(wrong);
    }
    json_decref(right);
    checkpoint_free(&c);
}

/* quant_states that are no JSON objects. */
static void quant_states_of_garbage(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *says;
    } bad[] = {
        {"", 0, "not valid JSON"},
        {"{}", 1, "not valid JSON"},
        {"\0\0\0\0", 4, "not valid JSON"},
        {"{\"nested_offset\": NaN}", 22, "not valid JSON"},
        {"{\"nested_offset\": 1e400}", 24, "not valid JSON"},
        {"{\"quant_type\": \"nf4\", \"quant_type\": \"nf4\"}", 42, "duplicate"},
        {"[\"nf4\"]", 7, "found an array"},
        {"\x80\x04\x95pickle", 9, "not valid JSON"},
    };
    struct checkpoint c;
    checkpoint_make(&c, &small);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char says[256];
        snprintf(says, sizeof says, "model.safetensors: tensor " STATE ": |%s", bad[i].says);
        checkpoint_put(&c, STATE, bad[i].text, bad[i].n);
        expect_refusal(&c, bad[i].text, NB_ERR_FORMAT, says);
    }
    checkpoint_free(&c);
}

/* ---- what only looks odd ---- */

static const int32_t prompt[] = {1,  17, 250, 3,  3,  90, 319, 0,   41,  42, 43, 44,
                                 45, 46, 47,  48, 49, 5,  6,   300, 301, 7,  8};
enum { N_PROMPT = sizeof prompt / sizeof *prompt };

/* Logits of the whole prompt; the caller frees them. */
static float *logits_of(struct checkpoint *c) {
    struct nb_engine *engine;
    struct nb_error err;
    struct nb_sequence sequence;
    float *logits;
    struct nb_options options = {.threads = 1, .cpu = "plain", .context = 64};
    checkpoint_write(c);
    assert_ok(nb_engine_open(c->folder.path, &options, &engine, &err), err);
    assert_ok(nb_sequence_open(engine, &sequence, &err), err);
    assert_ok(nb_sequence_append(&sequence, prompt, N_PROMPT, N_PROMPT, &logits, &err), err);
    size_t bytes = (size_t)N_PROMPT * (size_t)c->shape.vocab * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, logits, bytes);
    nb_sequence_close(&sequence);
    nb_engine_close(engine);
    return copy;
}

/* Tensors at addresses that do not suit their dtype, and in several files, are the same tensors. */
static void layout_of_files(void **state) {
    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct checkpoint_shape shape = checkpoint_tiny;
        shape.bf16 = bf16;
        struct checkpoint c;
        checkpoint_make(&c, &shape);
        float *want = logits_of(&c);
        size_t bytes = (size_t)N_PROMPT * (size_t)shape.vocab * sizeof(float);
        float size = 0;
        for (size_t i = 0; i < bytes / sizeof(float); i++)
            size += want[i] * want[i];
        assert_true(size > 1 && size < 1e9f); /* numbers, not all the same */
        for (c.header_padding = 1; c.header_padding < 9; c.header_padding++) {
            float *got = logits_of(&c);
            assert_memory_equal(got, want, bytes);
            free(got);
        }
        c.header_padding = 0;
        for (c.shards = 1; c.shards < 6; c.shards += 2) {
            for (size_t i = 0; i < c.n; i++)
                c.tensors[i].shard = (int)(i * 7 % (size_t)c.shards);
            float *got = logits_of(&c);
            assert_memory_equal(got, want, bytes);
            free(got);
        }
        free(want);
        checkpoint_free(&c);
    }
}

/* Shapes that are no round numbers: rows that end within a block of NF4, or within a byte. */
static void odd_shapes(void **state) {
    (void)state;
    static const struct checkpoint_shape shapes[] = {
        {320, 1, 3, 1, 1, 2, 1, 1, 1, 64, .seed = 5},
        {320, 3, 7, 3, 1, 6, 5, 3, 11, 64, .seed = 6},
        {321, 2, 65, 4, 4, 10, 3, 3, 67, 100, .seed = 7, .tied = true},
        {320, 1, 33, 6, 2, 34, 16, 16, 129, 65, .seed = 8, .tied = true},
    };
    for (size_t i = 0; i < 2 * sizeof shapes / sizeof *shapes; i++) {
        struct checkpoint_shape shape = shapes[i / 2];
        shape.bf16 = i % 2;
        struct checkpoint c;
        checkpoint_make(&c, &shape);
        float *logits = logits_of(&c);
        for (size_t k = 0; k < (size_t)N_PROMPT * (size_t)shape.vocab; k++)
            assert_true(logits[k] > -1e3f && logits[k] < 1e3f);
        free(logits);
        checkpoint_free(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(required_fields),
        cmocka_unit_test(other_fields),
        cmocka_unit_test(broken_json),
        cmocka_unit_test(tensors_missing),
        cmocka_unit_test(tensors_of_wrong_dtype),
        cmocka_unit_test(tensors_of_wrong_shape),
        cmocka_unit_test(quant_states),
        cmocka_unit_test(quant_states_of_garbage),
        cmocka_unit_test(layout_of_files),
        cmocka_unit_test(odd_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
