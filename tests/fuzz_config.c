/* Any bytes as config.json: an error, or a config that keeps what config.h promises. */
#include "fuzz.h"

#include "model/config.h"

#include <math.h>
#include <string.h>

static void check(const struct nb_config *c) {
    REQUIRE(memchr(c->model_type, 0, sizeof c->model_type) && c->model_type[0]);
    const int32_t sizes[] = {c->n_vocab,           c->n_layers,   c->width,     c->n_heads,
                             c->n_kv_heads,        c->head_width, c->n_experts, c->expert_width,
                             c->experts_per_token, c->context};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        REQUIRE(sizes[i] > 0);
    REQUIRE(c->n_heads % c->n_kv_heads == 0 && c->head_width % 2 == 0);
    REQUIRE((int64_t)c->n_heads * c->head_width <= INT32_MAX);
    REQUIRE(c->experts_per_token <= c->n_experts);
    REQUIRE(c->experts_per_token <= NB_MAX_EXPERTS_PER_TOKEN);
    REQUIRE(c->rms_eps >= 0 && c->rms_eps <= 1);
    REQUIRE(c->bos >= -1 && c->bos < c->n_vocab);
    REQUIRE(c->n_eos >= 0 && c->n_eos <= NB_MAX_EOS);
    for (int i = 0; i < c->n_eos; i++)
        REQUIRE(c->eos[i] >= 0 && c->eos[i] < c->n_vocab);
    REQUIRE(c->window >= 0 && c->window < c->context);
    if (c->head_width <= 512) {
        float frequencies[256];
        nb_rope_frequencies(c, frequencies);
        for (int i = 0; i < c->head_width / 2; i++)
            REQUIRE(isfinite(frequencies[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_config config;
    struct nb_error err;
    const char *folder = fuzz_folder("config.json", data, size);
    if (nb_config_read(folder, &config, &err) == NB_OK)
        check(&config);
    else
        REQUIRE(err.code != NB_OK && err.message[0]);
    return 0;
}
