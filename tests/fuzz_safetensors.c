/* Any bytes as model.safetensors: an error, or tensors that lie within them; and if they make the
 * model that config.json describes, weights that can all be read. */
#include "fuzz.h"

#include "model/model.h"

#include <string.h>

static const char config[] =
    "{\"model_type\":\"mixtral\",\"vocab_size\":2,\"num_hidden_layers\":1,\"hidden_size\":8,"
    "\"num_attention_heads\":1,\"num_key_value_heads\":1,\"head_dim\":2,\"num_local_experts\":1,"
    "\"num_experts_per_tok\":1,\"intermediate_size\":8,\"max_position_embeddings\":16,"
    "\"tie_word_embeddings\":true}";

static void check_tensors(const struct nb_tensors *tensors) {
    for (size_t i = 0; i < tensors->n; i++) {
        const struct nb_tensor *t = &tensors->tensors[i];
        const struct nb_map *map = &tensors->maps[0];
        size_t bytes = nb_dtype_bytes(t->dtype);
        REQUIRE(t->n_dims >= 0 && t->n_dims <= NB_MAX_DIMS);
        for (int d = 0; d < t->n_dims; d++)
            bytes *= (size_t)t->shape[d];
        REQUIRE(bytes == t->bytes);
        REQUIRE(t->data >= map->data + 8 && t->bytes <= map->size);
        REQUIRE((size_t)(t->data - map->data) <= map->size - t->bytes);
        REQUIRE(nb_tensors_find(tensors, t->name) == t);
        REQUIRE(i == 0 || strcmp(t[-1].name, t->name) < 0);
        char shape[16];
        REQUIRE(strlen(nb_shape_text(t, shape, sizeof shape)) < sizeof shape);
    }
}

/* Every weight of a matrix once. */
static void read_matrix(const struct nb_matrix *m) {
    size_t n = (size_t)m->rows * (size_t)m->columns;
    REQUIRE(n <= 64);
    if (m->type == NB_WEIGHT_4BIT) {
        float weights[64];
        struct nb_error err;
        REQUIRE(nb_quant_check(&m->quant, &err) == NB_OK && m->quant.n == n);
        nb_dequantize_f32(&m->quant, 0, n, weights);
    } else {
        const volatile uint8_t *bytes = m->data;
        for (size_t i = 0; i < n * (m->type == NB_WEIGHT_F32 ? 4 : 2); i++)
            (void)bytes[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *folder;
    if (!folder)
        fuzz_add_file("config.json", config);
    folder = fuzz_folder("model.safetensors", data, size);
    struct nb_error err;
    struct nb_tensors tensors;
    if (nb_tensors_open(folder, &tensors, &err) == NB_OK)
        check_tensors(&tensors);
    else
        REQUIRE(err.code != NB_OK && err.message[0] && !tensors.n_files);
    nb_tensors_close(&tensors);

    struct nb_model model;
    if (nb_model_open(folder, &model, &err) == NB_OK) {
        const struct nb_layer *l = &model.layers[0];
        const struct nb_matrix *matrices[] = {&model.embedding,
                                              &model.head,
                                              &l->q,
                                              &l->k,
                                              &l->v,
                                              &l->o,
                                              &l->router,
                                              &l->experts[0].gate,
                                              &l->experts[0].up,
                                              &l->experts[0].down};
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
            read_matrix(matrices[i]);
        nb_model_close(&model);
    }
    return 0;
}
