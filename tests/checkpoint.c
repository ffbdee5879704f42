#include "test.h"

#include "checkpoint.h"

#include "base/buf.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/float16.h"
#include "quant/quant.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

/* ---- files ---- */

void folder_make(struct folder *folder) {
    const char *tmp = getenv("TMPDIR");
    snprintf(folder->path, sizeof folder->path, "%s/nibble-test-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(folder->path));
}

void folder_remove(struct folder *folder) {
    DIR *dir = opendir(folder->path);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] != '.')
            unlink(folder_path(folder, e->d_name));
    }
    closedir(dir);
    assert_int_equal(rmdir(folder->path), 0);
    folder->path[0] = 0;
}

const char *folder_path(const struct folder *folder, const char *name) {
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ % 8];
    assert_true(nb_path_join(path, sizeof paths[0], folder->path, name));
    return path;
}

void folder_write(const struct folder *folder, const char *name, const void *bytes, size_t n) {
    FILE *f = fopen(folder_path(folder, name), "wb");
    assert_non_null(f);
    assert_int_equal(n ? fwrite(bytes, 1, n, f) : 0, n);
    assert_int_equal(fclose(f), 0);
}

void folder_write_text(const struct folder *folder, const char *name, const char *text) {
    folder_write(folder, name, text, strlen(text));
}

char *read_source(const char *name, size_t *n) {
    struct nb_buf text = {0};
    struct nb_error err;
    assert_ok(nb_read_file(test_path(name), (size_t)1 << 30, &text, &err), err);
    *n = text.len;
    return text.data;
}

/* ---- random numbers ---- */

uint64_t random_bits(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

double random_unit(uint64_t *state) {
    return (double)(random_bits(state) >> 11) * 0x1p-53;
}

float random_normal(uint64_t *state) {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += random_unit(state);
    return (float)sum;
}

void random_normals(uint64_t *state, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = random_normal(state);
}

size_t random_character(uint64_t *state, char *out) {
    static const char common[] = "aeinrst 0123456789.,:\"\\{}<|>/-\n\t  ";
    static const uint32_t spaces[] = {0x00,   0x0B,   0x0C,   '\r',   0x1F,   0x7F,
                                      0x85,   0xA0,   0xAD,   0x1680, 0x2000, 0x2009,
                                      0x200B, 0x200D, 0x2028, 0x2029, 0x202F, 0x205F,
                                      0x2060, 0x3000, 0xFEFF, 0x2581, 0x301};
    uint64_t r = random_bits(state), which = r >> 60;
    r &= 0xFFFFFFFF;
    uint32_t cp;
    if (which < 9)
        cp = (unsigned char)common[r % (sizeof common - 1)];
    else if (which < 13)
        cp = spaces[1 + r % (sizeof spaces / sizeof *spaces - 1)];
    else
        cp = 1 + r % (which == 13 ? 0x7FF : which == 14 ? 0xFFFF : 0x10FFFF);
    if (cp >= 0xD800 && cp < 0xE000)
        cp = 0xFFFD;
    struct nb_buf text = {0};
    nb_buf_add_utf8(&text, cp);
    size_t n = text.len;
    memcpy(out, text.data, n);
    nb_buf_free(&text);
    return n;
}

/* ---- drawing a checkpoint ---- */

const struct checkpoint_shape checkpoint_tiny = {
    .vocab = 320,
    .layers = 2,
    .width = 32,
    .heads = 4,
    .kv_heads = 2,
    .head_width = 8,
    .experts = 4,
    .top = 2,
    .expert_width = 48,
    .context = 512,
    .seed = 1,
};

static struct checkpoint_tensor *add(struct checkpoint *c, const char *dtype, size_t bytes,
                                     int n_dims, int64_t d0, int64_t d1, const char *base,
                                     const char *suffix) {
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 64;
        c->tensors = realloc(c->tensors, c->cap * sizeof *c->tensors);
        assert_non_null(c->tensors);
    }
    struct checkpoint_tensor *t = &c->tensors[c->n++];
    *t = (struct checkpoint_tensor){
        .dtype = dtype, .n_dims = n_dims, .shape = {d0, d1}, .bytes = bytes};
    assert_true(snprintf(t->name, sizeof t->name, "%s%s", base, suffix) < (int)sizeof t->name);
    t->data = calloc(1, bytes + 1);
    assert_non_null(t->data);
    return t;
}

/* n values mean + scale * normal in bf16. */
static void draw_bf16(struct checkpoint_tensor *t, uint64_t *random, float mean, float scale) {
    for (size_t i = 0; i < t->bytes / 2; i++) {
        uint16_t h = nb_f32_to_bf16(mean + scale * random_normal(random));
        memcpy(t->data + 2 * i, &h, 2);
    }
}

static void add_norm(struct checkpoint *c, uint64_t *random, const char *name) {
    size_t n = (size_t)c->shape.width;
    draw_bf16(add(c, "BF16", n * 2, 1, (int64_t)n, 0, name, ""), random, 1, 0.1f);
}

static void add_bf16(struct checkpoint *c, uint64_t *random, const char *name, int rows,
                     int columns, float scale) {
    size_t n = (size_t)rows * (size_t)columns;
    draw_bf16(add(c, "BF16", n * 2, 2, rows, columns, name, ""), random, 0, scale);
}

/* A tensor of f32. */
static float *add_f32(struct checkpoint *c, size_t n, const char *base, const char *suffix) {
    return (float *)(void *)add(c, "F32", n * 4, 1, (int64_t)n, 0, base, suffix)->data;
}

static void draw_bytes(struct checkpoint_tensor *t, uint64_t *random) {
    for (size_t i = 0; i < t->bytes; i++)
        t->data[i] = (uint8_t)random_bits(random);
}

/* As bitsandbytes writes a matrix: random codes, absmax within 0.8 to 1.2 times `absmax`. */
static void add_nf4(struct checkpoint *c, uint64_t *random, const char *name, int rows, int columns,
                    float absmax) {
    enum { BLOCK = 64, NESTED = 256 };
    size_t n = (size_t)rows * (size_t)columns, blocks = nb_div_up(n, BLOCK),
           nested = nb_div_up(blocks, NESTED);
    draw_bytes(add(c, "U8", nb_div_up(n, 2), 2, (int64_t)nb_div_up(n, 2), 1, name, ""), random);
    draw_bytes(add(c, "U8", blocks, 1, (int64_t)blocks, 0, name, ".absmax"), random);
    memcpy(add_f32(c, 16, name, ".quant_map"), nb_nf4_values, 16 * sizeof(float));
    float *map = add_f32(c, 256, name, ".nested_quant_map");
    for (int i = 0; i < 256; i++)
        map[i] = (float)(i - 128) / 128;
    float *scales = add_f32(c, nested, name, ".nested_absmax");
    for (size_t i = 0; i < nested; i++)
        scales[i] = absmax * 0.2f;
    char state[256];
    int len = snprintf(state, sizeof state,
                       "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"bfloat16\", "
                       "\"shape\": [%d, %d], \"nested_blocksize\": %d, \"nested_dtype\": "
                       "\"float32\", \"nested_offset\": %.9g}",
                       BLOCK, rows, columns, NESTED, (double)absmax);
    memcpy(add(c, "U8", (size_t)len, 1, len, 0, name, ".quant_state.bitsandbytes__nf4")->data,
           state, (size_t)len);
}

/* A matrix of a layer: outputs of about the size of its inputs. */
static void add_linear(struct checkpoint *c, uint64_t *random, int layer, const char *name,
                       int rows, int columns) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    float scale = 1 / sqrtf((float)columns);
    if (c->shape.bf16)
        add_bf16(c, random, full, rows, columns, scale);
    else
        add_nf4(c, random, full, rows, columns, 1.7f * scale); /* NF4's values deviate by 0.6 */
}

static void add_layer(struct checkpoint *c, uint64_t *random, int layer) {
    const struct checkpoint_shape *s = &c->shape;
    int q = s->heads * s->head_width, kv = s->kv_heads * s->head_width;
    char name[64];
    add_linear(c, random, layer, "self_attn.q_proj", q, s->width);
    add_linear(c, random, layer, "self_attn.k_proj", kv, s->width);
    add_linear(c, random, layer, "self_attn.v_proj", kv, s->width);
    add_linear(c, random, layer, "self_attn.o_proj", s->width, q);
    add_linear(c, random, layer, "block_sparse_moe.gate", s->experts, s->width);
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, norms[i]);
        add_norm(c, random, name);
    }
    for (int e = 0; e < s->experts; e++) {
        for (int w = 1; w <= 3; w++) { /* w2 goes down, the others up */
            snprintf(name, sizeof name, "block_sparse_moe.experts.%d.w%d", e, w);
            add_linear(c, random, layer, name, w == 2 ? s->width : s->expert_width,
                       w == 2 ? s->expert_width : s->width);
        }
    }
}

static json_t *make_config(const struct checkpoint_shape *s) {
    json_t *config = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:i, s:i, s:s}",
        "model_type", "mixtral", "vocab_size", s->vocab, "num_hidden_layers", s->layers,
        "hidden_size", s->width, "num_attention_heads", s->heads, "num_key_value_heads",
        s->kv_heads, "head_dim", s->head_width, "num_local_experts", s->experts,
        "num_experts_per_tok", s->top, "intermediate_size", s->expert_width,
        "max_position_embeddings", s->context, "rms_norm_eps", 1e-5, "rope_theta", 1e4,
        "tie_word_embeddings", s->tied, "bos_token_id", 1, "eos_token_id", 2, "hidden_act", "silu");
    assert_non_null(config);
    return config;
}

void checkpoint_make(struct checkpoint *c, const struct checkpoint_shape *shape) {
    *c = (struct checkpoint){.shape = *shape};
    uint64_t random = shape->seed;
    c->config = make_config(shape);
    add_bf16(c, &random, "model.embed_tokens.weight", shape->vocab, shape->width, 1);
    for (int i = 0; i < shape->layers; i++)
        add_layer(c, &random, i);
    add_norm(c, &random, "model.norm.weight");
    if (!shape->tied)
        add_bf16(c, &random, "lm_head.weight", shape->vocab, shape->width,
                 3 / sqrtf((float)shape->width)); /* logits deviate by 3 */
    folder_make(&c->folder);
}

/* ---- breaking and writing it ---- */

struct checkpoint_tensor *checkpoint_find(struct checkpoint *c, const char *name) {
    for (size_t i = 0; i < c->n; i++) {
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    }
    fail_msg("the test's checkpoint has no tensor %s", name);
    return NULL;
}

void checkpoint_drop(struct checkpoint *c, struct checkpoint_tensor *t) {
    free(t->data);
    *t = c->tensors[--c->n];
}

void checkpoint_put(struct checkpoint *c, const char *name, const void *bytes, size_t n) {
    struct checkpoint_tensor *t = checkpoint_find(c, name);
    free(t->data);
    t->data = malloc(n + 1);
    assert_non_null(t->data);
    memcpy(t->data, bytes, n);
    t->bytes = n;
    t->dtype = "U8";
    t->n_dims = 1;
    t->shape[0] = (int64_t)n;
}

void json_put(json_t *object, const char *key, const char *json) {
    if (!json) {
        json_object_del(object, key);
        return;
    }
    json_error_t e;
    json_t *value = json_loads(json, JSON_DECODE_ANY, &e);
    if (!value || json_object_set_new(object, key, value) != 0)
        fail_msg("the test's own JSON, %s: %s", json, e.text);
}

static void write_json(const struct checkpoint *c, const char *name, const json_t *json) {
    char *text = json_dumps(json, JSON_INDENT(2));
    assert_non_null(text);
    folder_write_text(&c->folder, name, text);
    free(text);
}

/* The tensors of one shard, or all for shards 0, as a safetensors file. */
static void write_tensors(const struct checkpoint *c, const char *file, int shard) {
    json_t *header = json_object();
    struct nb_buf data = {0}, out = {0};
    for (size_t i = 0; i < c->n; i++) {
        const struct checkpoint_tensor *t = &c->tensors[i];
        if (c->shards && t->shard != shard)
            continue;
        json_t *shape = json_array();
        for (int d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer(t->shape[d]));
        json_object_set_new(header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", t->dtype, "shape", shape,
                                      "data_offsets", (json_int_t)data.len,
                                      (json_int_t)(data.len + t->bytes)));
        nb_buf_add(&data, t->data, t->bytes);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    assert_non_null(text);
    uint64_t n = strlen(text) + c->header_padding;
    for (int i = 0; i < 8; i++) {
        uint8_t byte = (uint8_t)(n >> 8 * i);
        nb_buf_add(&out, &byte, 1);
    }
    nb_buf_printf(&out, "%s%*s", text, (int)c->header_padding, "");
    nb_buf_add(&out, data.data, data.len);
    assert_false(data.failed || out.failed);
    folder_write(&c->folder, file, out.data, out.len);
    nb_buf_free(&data);
    nb_buf_free(&out);
    free(text);
    json_decref(header);
}

static void write_shards(struct checkpoint *c) {
    json_t *map = json_object();
    for (int s = 0; s < c->shards; s++) {
        char file[64];
        snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, c->shards);
        write_tensors(c, file, s);
        for (size_t i = 0; i < c->n; i++) {
            if (c->tensors[i].shard == s)
                json_object_set_new(map, c->tensors[i].name, json_string(file));
        }
    }
    json_decref(c->index);
    c->index = json_pack("{s:o}", "weight_map", map);
    write_json(c, "model.safetensors.index.json", c->index);
}

void checkpoint_write(struct checkpoint *c) {
    write_json(c, "config.json", c->config);
    if (c->shape.tokenizer) {
        size_t n;
        char *text = read_source(c->shape.tokenizer, &n);
        folder_write(&c->folder, "tokenizer.json", text, n);
        free(text);
    }
    unlink(folder_path(&c->folder, "model.safetensors"));
    if (c->shards)
        write_shards(c);
    else
        write_tensors(c, "model.safetensors", 0);
}

void checkpoint_free(struct checkpoint *c) {
    for (size_t i = 0; i < c->n; i++)
        free(c->tensors[i].data);
    free(c->tensors);
    json_decref(c->config);
    json_decref(c->index);
    folder_remove(&c->folder);
    *c = (struct checkpoint){0};
}

/* ---- failures ---- */

void expect_failure(const char *label, enum nb_status got, const struct nb_error *err,
                    enum nb_status want, const char *says) {
    if (got != want)
        fail_msg("%s: status %s, expected %s; message: %s", label, nb_status_name(got),
                 nb_status_name(want), got == NB_OK ? "none" : err->message);
    if (err->code != want)
        fail_msg("%s: status %s, but the error says %s", label, nb_status_name(got),
                 nb_status_name(err->code));
    char pieces[512], *save = NULL;
    snprintf(pieces, sizeof pieces, "%s", says);
    for (char *p = strtok_r(pieces, "|", &save); p; p = strtok_r(NULL, "|", &save)) {
        if (!strstr(err->message, p))
            fail_msg("%s: the message lacks \"%s\": %s", label, p, err->message);
    }
}
