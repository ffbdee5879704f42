#include "model/config.h"

#include "base/file.h"
#include "model/json.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Above these no real model lies; products of two of them stay within 64 bits. */
enum { MAX_WIDTH = 1 << 20, MAX_LAYERS = 4096, MAX_CONTEXT = 1 << 28, MAX_CONFIG_BYTES = 16 << 20 };

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

static enum nb_status check_model_type(const json_t *config, struct nb_config *out,
                                       const char *path, struct nb_error *err) {
    const char *type = NULL;
    enum nb_status s = nb_json_string(config, "model_type", &type, path, err);
    if (s != NB_OK)
        return s;
    if (!type)
        return nb_fail(err, NB_ERR_FORMAT, "%s: model_type is missing", path);
    if (strcmp(type, "mixtral") != 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: model_type is \"%.64s\"; this version runs \"mixtral\"", path, type);
    snprintf(out->model_type, sizeof out->model_type, "%s", type);
    return NB_OK;
}

/* Fields whose other values would change the arithmetic: refused, not ignored. */
static enum nb_status check_arithmetic(const json_t *config, const char *path,
                                       struct nb_error *err) {
    const char *act = "silu";
    enum nb_status s = nb_json_string(config, "hidden_act", &act, path, err);
    if (s == NB_OK && strcmp(act, "silu") != 0)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: hidden_act is \"%.64s\", expected \"silu\"", path,
                    act);
    const json_t *scaling = json_object_get(config, "rope_scaling");
    if (s == NB_OK && scaling && !json_is_null(scaling))
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: rope_scaling is not supported for mixtral", path);
    return s;
}

/* transformers 4 writes rope_theta; transformers 5 writes rope_parameters.rope_theta. */
static enum nb_status read_rope(const json_t *config, struct nb_config *out, const char *path,
                                struct nb_error *err) {
    out->rope_theta = 1e6; /* MixtralConfig's default */
    const json_t *parameters = json_object_get(config, "rope_parameters");
    if (!parameters || json_is_null(parameters))
        return nb_json_number(config, "rope_theta", 1, 1e12, &out->rope_theta, path, err);
    if (!json_is_object(parameters))
        return nb_fail(err, NB_ERR_FORMAT, "%s: rope_parameters is %s, expected an object", path,
                       nb_json_type(parameters));
    const char *type = "default";
    enum nb_status s = nb_json_string(parameters, "rope_type", &type, path, err);
    if (s == NB_OK && strcmp(type, "default") != 0)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: rope_parameters.rope_type is \"%.64s\", expected \"default\"", path, type);
    if (s == NB_OK)
        s = nb_json_number(parameters, "rope_theta", 1, 1e12, &out->rope_theta, path, err);
    return s;
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

/* Sliding windows matter only to contexts longer than the window. */
static enum nb_status check_window(const json_t *config, const struct nb_config *out,
                                   const char *path, struct nb_error *err) {
    int64_t window = 0;
    enum nb_status s = nb_json_int(config, "sliding_window", 1, MAX_CONTEXT, &window, path, err);
    if (s == NB_OK && window && window < out->context)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: sliding_window is %lld, below max_position_embeddings, %d; this version "
                    "attends to the whole context",
                    path, (long long)window, out->context);
    return s;
}

static enum nb_status read_config(const json_t *config, struct nb_config *out, const char *path,
                                  struct nb_error *err) {
    enum nb_status s = check_model_type(config, out, path, err);
    const struct field fields[] = {
        {"vocab_size", 1, 1 << 24, &out->n_vocab},
        {"num_hidden_layers", 1, MAX_LAYERS, &out->n_layers},
        {"hidden_size", 1, MAX_WIDTH, &out->width},
        {"num_attention_heads", 1, 65536, &out->n_heads},
        {"num_local_experts", 1, 65536, &out->n_experts},
        {"num_experts_per_tok", 1, NB_MAX_EXPERTS_PER_TOKEN, &out->experts_per_token},
        {"intermediate_size", 1, MAX_WIDTH, &out->expert_width},
        {"max_position_embeddings", 1, MAX_CONTEXT, &out->context},
    };
    if (s == NB_OK)
        s = read_fields(config, fields, sizeof fields / sizeof *fields, path, err);
    if (s != NB_OK)
        return s;
    int64_t kv_heads = out->n_heads, head_width = out->width / out->n_heads, bos = -1;
    double eps = 1e-5;
    if ((s = nb_json_int(config, "num_key_value_heads", 1, 65536, &kv_heads, path, err)) != NB_OK ||
        (s = nb_json_int(config, "head_dim", 1, 65536, &head_width, path, err)) != NB_OK ||
        (s = nb_json_int(config, "bos_token_id", 0, out->n_vocab - 1, &bos, path, err)) != NB_OK ||
        (s = nb_json_number(config, "rms_norm_eps", 0, 1, &eps, path, err)) != NB_OK ||
        (s = nb_json_bool(config, "tie_word_embeddings", &out->tied, path, err)) != NB_OK ||
        (s = check_arithmetic(config, path, err)) != NB_OK ||
        (s = read_rope(config, out, path, err)) != NB_OK ||
        (s = read_eos(config, out, path, err)) != NB_OK ||
        (s = check_window(config, out, path, err)) != NB_OK)
        return s;
    out->n_kv_heads = (int32_t)kv_heads;
    out->head_width = (int32_t)head_width;
    out->bos = (int32_t)bos;
    out->rms_eps = (float)eps;
    if (out->n_heads % out->n_kv_heads)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: num_attention_heads, %d, is no multiple of num_key_value_heads, %d",
                       path, out->n_heads, out->n_kv_heads);
    if (out->head_width < 2 || out->head_width % 2)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: heads of %d values; rope needs an even number",
                       path, out->head_width);
    if ((int64_t)out->n_heads * out->head_width > MAX_WIDTH)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: %d heads of %d values are more than %d", path,
                       out->n_heads, out->head_width, MAX_WIDTH);
    if (out->experts_per_token > out->n_experts)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: num_experts_per_tok, %d, is above num_local_experts, %d", path,
                       out->experts_per_token, out->n_experts);
    return NB_OK;
}

enum nb_status nb_config_read(const char *folder, struct nb_config *out, struct nb_error *err) {
    *out = (struct nb_config){0};
    char path[PATH_MAX];
    if (!nb_path_join(path, sizeof path, folder, "config.json"))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", folder);
    json_t *config;
    enum nb_status s = nb_json_read(path, MAX_CONFIG_BYTES, &config, err);
    if (s != NB_OK)
        return s;
    s = read_config(config, out, path, err);
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
