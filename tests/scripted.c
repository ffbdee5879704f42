#include "test.h"

#include "scripted.h"

#include "base/buf.h"
#include "base/float16.h"

enum {
    WIDTH = 320, /* a dimension a token */
    FIRST_BYTE = 2,
    FIRST_ADDED = FIRST_BYTE + 256,
    INST_END = FIRST_ADDED, /* [/INST] */
    FIRST_PIECE,
};

static const struct checkpoint_shape shape = {
    .vocab = WIDTH,
    .layers = 1,
    .width = WIDTH,
    .heads = 4,
    .kv_heads = 2,
    .head_width = 80,
    .experts = 2,
    .top = 1,
    .expert_width = 64,
    .context = 2048,
    .bf16 = true,
    .seed = 1,
};

/* Bytes by id: first those that close what is open, white space after all that shows. */
static void order_bytes(uint8_t out[256]) {
    static const char first[] = "\"}],:1{[";
    size_t n = 0;
    for (const char *c = first; *c; c++)
        out[n++] = (uint8_t)*c;
    for (int i = 0; i < 256; i++) {
        int b = ('!' + i) % 256;
        if (!memchr(first, b, sizeof first - 1))
            out[n++] = (uint8_t)b;
    }
}

/* The character that stands for a byte in vocabularies of byte-level BPE, as GPT-2 has them. */
static uint32_t letter_of(int byte) {
    uint32_t next = 256;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        if (b == byte)
            return itself ? (uint32_t)b : next;
        next += !itself;
    }
    return 0;
}

static json_t *added(int id, const char *content, bool special) {
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content,
                     "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     special);
}

static void write_tokenizer(const struct checkpoint *c, const char *const *pieces, size_t n) {
    uint8_t bytes[256];
    order_bytes(bytes);
    json_t *vocab = json_object(), *more = json_array();
    for (int i = 0; i < 256; i++) {
        struct nb_buf letter = {0};
        nb_buf_add_utf8(&letter, letter_of(bytes[i]));
        json_object_set_new(vocab, letter.data, json_integer(FIRST_BYTE + i));
        nb_buf_free(&letter);
    }
    json_array_append_new(more, added(0, "</s>", true));
    json_array_append_new(more, added(SCRIPTED_BOS, "<s>", true));
    json_array_append_new(more, added(INST_END, "[/INST]", true));
    for (size_t i = 0; i < n; i++) {
        if (strlen(pieces[i]) > 1)
            json_array_append_new(more, added(FIRST_PIECE + (int)i, pieces[i],
                                              strcmp(pieces[i], "[TOOL_CALLS]") == 0));
    }
    json_t *level = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                              "trim_offsets", 1, "use_regex", 0);
    json_t *all =
        json_pack("{s:s, s:o, s:n, s:O, s:n, s:o, s:{s:s, s:o, s:[]}}", "version", "1.0",
                  "added_tokens", more, "normalizer", "pre_tokenizer", level, "post_processor",
                  "decoder", level, "model", "type", "BPE", "vocab", vocab, "merges");
    assert_non_null(all);
    char *text = json_dumps(all, 0);
    folder_write_text(&c->folder, "tokenizer.json", text);
    free(text);
    json_decref(all);
}

static void fill(struct checkpoint *c, const char *name, float value) {
    struct checkpoint_tensor *t = checkpoint_find(c, name);
    uint16_t h = nb_f32_to_bf16(value);
    for (size_t i = 0; i < t->bytes / 2; i++)
        memcpy(t->data + 2 * i, &h, 2);
}

static void set(struct checkpoint *c, const char *name, int row, int column) {
    uint16_t one = nb_f32_to_bf16(1);
    memcpy(checkpoint_find(c, name)->data + 2 * (row * WIDTH + column), &one, 2);
}

void scripted_make(struct checkpoint *c, const char *const *pieces, size_t n,
                   const char *template) {
    assert_true(FIRST_PIECE + n <= WIDTH);
    checkpoint_make(c, &shape);
    fill(c, "model.embed_tokens.weight", 0);
    fill(c, "lm_head.weight", 0);
    fill(c, "model.norm.weight", 1);
    fill(c, "model.layers.0.self_attn.o_proj.weight", 0);
    for (int e = 0; e < shape.experts; e++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w2.weight", e);
        fill(c, name, 0);
    }
    for (int i = 0; i < WIDTH; i++)
        set(c, "model.embed_tokens.weight", i, i);
    uint8_t bytes[256];
    order_bytes(bytes);
    int starts[3] = {SCRIPTED_BOS, INST_END}, last = -1;
    for (int i = 0; i < 256; i++)
        starts[2] = bytes[i] == '\n' ? FIRST_BYTE + i : starts[2];
    for (size_t i = 0; i < n; i++) {
        int id = FIRST_PIECE + (int)i;
        for (int b = 0; strlen(pieces[i]) == 1 && b < 256; b++)
            id = bytes[b] == (uint8_t)pieces[i][0] ? FIRST_BYTE + b : id;
        for (int s = 0; i == 0 && s < 3; s++)
            set(c, "lm_head.weight", id, starts[s]);
        if (last >= 0)
            set(c, "lm_head.weight", id, last);
        last = id;
    }
    json_put(c->config, "bos_token_id", "1");
    json_put(c->config, "eos_token_id", "0");
    checkpoint_write(c);
    write_tokenizer(c, pieces, n);
    if (template)
        folder_write_text(&c->folder, "chat_template.jinja", template);
}
