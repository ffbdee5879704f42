#include "model/config.h"

#include "base/file.h"
#include "model/json.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Above these no real model lies; products of two of them stay within 64 bits. */
enum { MAX_WIDTH = 1 << 20, MAX_LAYERS = 4096, MAX_CONTEXT = 1 << 28, MAX_CONFIG_BYTES = 16 << 20 };

/* What the architectures differ in. */
static const struct architecture {
    const char *model_type;
    const char *n_experts;    /* field; NULL: dense */
    const char *expert_width; /* field */
    bool qk_norm;
    bool always_normalizes; /* its experts' weights; otherwise norm_topk_prob says */
    double rms_eps, theta;  /* where the config is silent */
    int32_t head_width;     /* likewise; 0: width / heads */
} architectures[] = {
    {"mixtral", "num_local_experts", "intermediate_size", false, true, 1e-5, 1e6, 0},
    {"mistral", NULL, "intermediate_size", false, true, 1e-6, 1e4, 0},
    {"llama", NULL, "intermediate_size", false, true, 1e-6, 1e4, 0},
    {"qwen3", NULL, "intermediate_size", true, true, 1e-6, 1e4, 128},
    {"qwen3_moe", "num_experts", "moe_intermediate_size", true, false, 1e-6, 1e4, 0},
};

/* A required integer field of config.json. */
struct field {
    const char *key;
    int64_t min, max;
    int32_t *out;
};

static enum nb_status read_fields(const json_t *config, const struct field *fields, size_t n,
                                  const char *path, struct nb_error *err) {
    for (size_t i = 0; i < n; i++) {
        int64_t v = fields[i].min - 1;
        enum nb_status s =
            nb_json_int(config, fields[i].key, fields[i].min, fields[i].max, &v, path, err);
        if (s != NB_OK)
            return s;
        if (v < fields[i].min)
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s is missing", path, fields[i].key);
        *fields[i].out = (int32_t)v;
    }
    return NB_OK;
}

static enum nb_status find_architecture(const json_t *config, const struct architecture **out,
                                        const char *path, struct nb_error *err) {
    const char *type = NULL;
    enum nb_status s = nb_json_string(config, "model_type", &type, path, err);
    if (s != NB_OK)
        return s;
    if (!type)
        return nb_fail(err, NB_ERR_FORMAT, "%s: model_type is missing", path);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        *out = &architectures[i];
        if (strcmp(type, (*out)->model_type) == 0)
            return NB_OK;
    }
    return nb_fail(err, NB_ERR_UNSUPPORTED,
                   "%s: model_type is \"%.64s\"; nibble runs mixtral, mistral, llama, qwen3 and "
                   "qwen3_moe",
                   path, type);
}

static enum nb_status read_rope_scaling(const json_t *scaling, struct nb_rope *out,
                                        const char *path, struct nb_error *err) {
    const char *type = "default";
    enum nb_status s = nb_json_string(scaling, "type", &type, path, err);
    if (s == NB_OK)
        s = nb_json_string(scaling, "rope_type", &type, path, err);
    if (s != NB_OK || strcmp(type, "default") == 0)
        return s;
    if (strcmp(type, "llama3") != 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: rope_type is \"%.64s\", expected \"default\" or \"llama3\"", path,
                       type);
    if ((s = nb_json_number(scaling, "factor", 1, 1e6, &out->factor, path, err)) != NB_OK ||
        (s = nb_json_number(scaling, "low_freq_factor", 1e-6, 1e6, &out->low_factor, path, err)) !=
            NB_OK ||
        (s = nb_json_number(scaling, "high_freq_factor", 1e-6, 1e6, &out->high_factor, path,
                            err)) != NB_OK ||
        (s = nb_json_number(scaling, "original_max_position_embeddings", 1, MAX_CONTEXT,
                            &out->original_context, path, err)) != NB_OK)
        return s;
    if (!out->factor || !out->original_context || !(out->high_factor > out->low_factor) ||
        !(out->low_factor > 0))
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: rope_scaling of type llama3 needs factor, low_freq_factor below "
                       "high_freq_factor, and original_max_position_embeddings",
                       path);
    return NB_OK;
}

/* transformers 4 writes rope_theta and rope_scaling; transformers 5 both in rope_parameters. */
static enum nb_status read_rope(const json_t *config, double default_theta, struct nb_rope *out,
                                const char *path, struct nb_error *err) {
    out->theta = default_theta;
    enum nb_status s = nb_json_number(config, "rope_theta", 1, 1e12, &out->theta, path, err);
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; s == NB_OK && i < 2; i++) {
        const json_t *v = json_object_get(config, places[i]);
        if (!v || json_is_null(v))
            continue;
        if (!json_is_object(v))
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %s, expected an object", path, places[i],
                           nb_json_type(v));
        s = nb_json_number(v, "rope_theta", 1, 1e12, &out->theta, path, err);
        if (s == NB_OK)
            s = read_rope_scaling(v, out, path, err);
    }
    return s;
}

/* Fields whose other values would change the arithmetic are refused, not ignored. */
typedef enum nb_status (*check_fn)(const json_t *config, const char *path, struct nb_error *err);

static enum nb_status check_model_type(const json_t *config, const char *path,
                                       struct nb_error *err) {
    const struct architecture *a;
    return find_architecture(config, &a, path, err);
}

static enum nb_status check_activation(const json_t *config, const char *path,
                                       struct nb_error *err) {
    const char *act = "silu";
    enum nb_status s = nb_json_string(config, "hidden_act", &act, path, err);
    if (s == NB_OK && strcmp(act, "silu") != 0)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: hidden_act is \"%.64s\", expected \"silu\"", path,
                    act);
    return s;
}

static enum nb_status refuse(const json_t *config, const char *key, const char *path,
                             struct nb_error *err) {
    bool set = false;
    enum nb_status s = nb_json_bool(config, key, &set, path, err);
    if (s == NB_OK && set)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: %s is true, which nibble does not run", path,
                    key);
    return s;
}

static enum nb_status check_attention_bias(const json_t *config, const char *path,
                                           struct nb_error *err) {
    return refuse(config, "attention_bias", path, err);
}

static enum nb_status check_mlp_bias(const json_t *config, const char *path, struct nb_error *err) {
    return refuse(config, "mlp_bias", path, err);
}

static enum nb_status check_window(const json_t *config, const char *path, struct nb_error *err) {
    return refuse(config, "use_sliding_window", path, err);
}

static enum nb_status check_sparsity(const json_t *config, const char *path, struct nb_error *err) {
    int64_t step = 1;
    enum nb_status s = nb_json_int(config, "decoder_sparse_step", 1, MAX_LAYERS, &step, path, err);
    if (s == NB_OK && (step != 1 || json_array_size(json_object_get(config, "mlp_only_layers"))))
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: decoder_sparse_step or mlp_only_layers ask for layers without experts",
                    path);
    return s;
}

static enum nb_status check_quantization(const json_t *config, const char *path,
                                         struct nb_error *err) {
    const json_t *quantization = json_object_get(config, "quantization_config");
    const char *method = "bitsandbytes";
    bool eight = false;
    enum nb_status s = nb_json_string(quantization, "quant_method", &method, path, err);
    if (s == NB_OK && strcmp(method, "bitsandbytes") != 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: quantization_config: quant_method is \"%.64s\", expected "
                       "\"bitsandbytes\"",
                       path, method);
    if (s == NB_OK)
        s = nb_json_bool(quantization, "load_in_8bit", &eight, path, err);
    if (s == NB_OK && eight)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: quantization_config: load_in_8bit is true; nibble runs bitsandbytes' 4 "
                    "bits, not its 8",
                    path);
    return s;
}

static enum nb_status check_rope(const json_t *config, const char *path, struct nb_error *err) {
    struct nb_rope rope = {0};
    return read_rope(config, 1, &rope, path, err);
}

static enum nb_status check_rope_share(const json_t *config, const char *path,
                                       struct nb_error *err) {
    double share = 1;
    enum nb_status s = nb_json_number(config, "partial_rotary_factor", 0, 1e6, &share, path, err);
    if (s == NB_OK && share != 1)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: partial_rotary_factor is %g; nibble turns whole heads", path, share);
    return s;
}

/* Every check, so that `hear` (may be NULL) hears of each thing that nibble cannot run. The result
 * and *err are the first one's. What is malformed ends it at once. */
static enum nb_status check_supported(const json_t *config, const char *path, nb_reason_fn hear,
                                      void *context, struct nb_error *err) {
    static const check_fn checks[] = {
        check_model_type,     check_quantization, check_activation,
        check_attention_bias, check_mlp_bias,     check_window,
        check_sparsity,       check_rope,         check_rope_share,
    };
    enum nb_status first = NB_OK;
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        struct nb_error reason;
        enum nb_status s = checks[i](config, path, &reason);
        if (s == NB_OK)
            continue;
        if (first == NB_OK && err)
            *err = reason;
        if (first == NB_OK)
            first = s;
        if (hear)
            hear(context, &reason);
        if (s != NB_ERR_UNSUPPORTED)
            break;
    }
    return first;
}

bool nb_config_is_end(const struct nb_config *config, int32_t id) {
    for (int i = 0; i < config->n_eos; i++) {
        if (config->eos[i] == id)
            return true;
    }
    return false;
}

/* Source of the scaling: Llama 3.1's reference code, as transformers has it. */
void nb_rope_frequencies(const struct nb_config *config, float *out) {
    const struct nb_rope *r = &config->rope;
    for (int32_t i = 0; i < config->head_width / 2; i++) {
        double f = 1.0 / pow(r->theta, (double)(2 * i) / (double)config->head_width);
        if (r->factor != 0) {
            double turns = r->original_context * f / (2 * 3.14159265358979323846);
            double smooth = (turns - r->low_factor) / (r->high_factor - r->low_factor);
            smooth = smooth < 0 ? 0 : smooth > 1 ? 1 : smooth;
            f = (1 - smooth) * f / r->factor + smooth * f;
        }
        out[i] = (float)f;
    }
}

/* eos_token_id: one id or a list of them. */
static enum nb_status read_eos(const json_t *object, struct nb_config *out, const char *path,
                               struct nb_error *err) {
    const json_t *eos = json_object_get(object, "eos_token_id");
    if (!eos || json_is_null(eos))
        return NB_OK;
    size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (n > NB_MAX_EOS)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: eos_token_id lists %zu ids, at most %d", path,
                       n, NB_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_is_array(eos) ? json_array_get(eos, i) : eos;
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= out->n_vocab)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: eos_token_id is not a token id below vocab_size, %d", path,
                           out->n_vocab);
        out->eos[i] = (int32_t)id;
    }
    out->n_eos = (int32_t)n;
    return NB_OK;
}

/* The sizes that a Mixture or a dense model has. */
static enum nb_status read_sizes(const json_t *config, const struct architecture *a,
                                 struct nb_config *out, const char *path, struct nb_error *err) {
    const struct field fields[] = {
        {"vocab_size", 1, 1 << 24, &out->n_vocab},
        {"num_hidden_layers", 1, MAX_LAYERS, &out->n_layers},
        {"hidden_size", 1, MAX_WIDTH, &out->width},
        {"num_attention_heads", 1, 65536, &out->n_heads},
        {a->expert_width, 1, MAX_WIDTH, &out->expert_width},
        {"max_position_embeddings", 1, MAX_CONTEXT, &out->context},
    };
    enum nb_status s = read_fields(config, fields, sizeof fields / sizeof *fields, path, err);
    out->dense = !a->n_experts;
    out->n_experts = out->experts_per_token = 1;
    if (s != NB_OK || out->dense)
        return s;
    const struct field experts[] = {
        {a->n_experts, 1, 65536, &out->n_experts},
        {"num_experts_per_tok", 1, NB_MAX_EXPERTS_PER_TOKEN, &out->experts_per_token},
    };
    s = read_fields(config, experts, 2, path, err);
    if (s == NB_OK && out->experts_per_token > out->n_experts)
        s = nb_fail(err, NB_ERR_FORMAT, "%s: num_experts_per_tok, %d, is above %s, %d", path,
                    out->experts_per_token, a->n_experts, out->n_experts);
    return s;
}

static enum nb_status check_heads(const struct nb_config *c, const char *path,
                                  struct nb_error *err) {
    if (c->n_heads % c->n_kv_heads)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: num_attention_heads, %d, is no multiple of num_key_value_heads, %d",
                       path, c->n_heads, c->n_kv_heads);
    if (c->head_width < 2 || c->head_width % 2)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: heads of %d values; rope needs an even number",
                       path, c->head_width);
    if ((int64_t)c->n_heads * c->head_width > MAX_WIDTH)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: %d heads of %d values are more than %d", path,
                       c->n_heads, c->head_width, MAX_WIDTH);
    return NB_OK;
}

static enum nb_status read_config(const json_t *config, struct nb_config *out, const char *path,
                                  nb_reason_fn hear, void *context, struct nb_error *err) {
    const struct architecture *a;
    enum nb_status s = check_supported(config, path, hear, context, err);
    if (s == NB_OK)
        s = find_architecture(config, &a, path, err);
    if (s == NB_OK)
        s = read_sizes(config, a, out, path, err);
    if (s != NB_OK)
        return s;
    snprintf(out->model_type, sizeof out->model_type, "%s", a->model_type);
    out->qk_norm = a->qk_norm;
    out->normalize_experts = a->always_normalizes;
    int64_t kv_heads = out->n_heads, bos = -1, window = 0;
    int64_t head_width = a->head_width ? a->head_width : out->width / out->n_heads;
    double eps = a->rms_eps;
    if ((s = nb_json_int(config, "num_key_value_heads", 1, 65536, &kv_heads, path, err)) != NB_OK ||
        (s = nb_json_int(config, "head_dim", 1, 65536, &head_width, path, err)) != NB_OK ||
        (s = nb_json_int(config, "bos_token_id", 0, out->n_vocab - 1, &bos, path, err)) != NB_OK ||
        (s = nb_json_number(config, "rms_norm_eps", 0, 1, &eps, path, err)) != NB_OK ||
        (s = nb_json_bool(config, "tie_word_embeddings", &out->tied, path, err)) != NB_OK ||
        (s = read_rope(config, a->theta, &out->rope, path, err)) != NB_OK ||
        (s = read_eos(config, out, path, err)) != NB_OK)
        return s;
    /* Only these two attend within a window whenever the field is there; qwen3 asks in another one.
     */
    bool windowed = strcmp(a->model_type, "mixtral") == 0 || strcmp(a->model_type, "mistral") == 0;
    if (windowed)
        s = nb_json_int(config, "sliding_window", 1, MAX_CONTEXT, &window, path, err);
    if (s == NB_OK && !a->always_normalizes)
        s = nb_json_bool(config, "norm_topk_prob", &out->normalize_experts, path, err);
    if (s != NB_OK)
        return s;
    out->n_kv_heads = (int32_t)kv_heads;
    out->head_width = (int32_t)head_width;
    out->bos = (int32_t)bos;
    out->rms_eps = (float)eps;
    out->window = window < out->context ? (int32_t)window : 0;
    return check_heads(out, path, err);
}

enum nb_status nb_config_read(const char *folder, struct nb_config *out, struct nb_error *err) {
    return nb_config_explain(folder, out, NULL, NULL, err);
}

enum nb_status nb_config_explain(const char *folder, struct nb_config *out, nb_reason_fn hear,
                                 void *context, struct nb_error *err) {
    *out = (struct nb_config){0};
    char path[PATH_MAX];
    if (!nb_path_join(path, sizeof path, folder, "config.json"))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", folder);
    struct stat st;
    if (stat(path, &st) != 0 && errno == ENOENT)
        return nb_fail(err, NB_ERR_IO,
                       "%s: cannot open: no such file; a checkpoint is a folder with config.json, "
                       "safetensors and a tokenizer, as Hugging Face lays it out",
                       path);
    json_t *config;
    enum nb_status s = nb_json_read(path, MAX_CONFIG_BYTES, &config, err);
    if (s != NB_OK)
        return s;
    s = read_config(config, out, path, hear, context, err);
    json_decref(config);
    if (s != NB_OK)
        return s;
    if (!nb_path_join(path, sizeof path, folder, "generation_config.json") || !nb_is_file(path))
        return NB_OK;
    s = nb_json_read(path, MAX_CONFIG_BYTES, &config, err);
    if (s != NB_OK)
        return s;
    s = read_eos(config, out, path, err);
    json_decref(config);
    return s;
}
