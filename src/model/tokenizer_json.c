/* Reads a Hugging Face tokenizer.json. `where` in these functions is the field being read, as
 * messages name it; the file's name goes before it at the end. */
#include "model/tokenizer_impl.h"

#include "base/utf8.h"
#include "model/json.h"

#include <stdio.h>

enum {
    MAX_DEPTH = 8,  /* of Sequences in Sequences */
    MAX_STEPS = 64, /* of normalizers, splitters and decoders */
    MAX_ADDED = 1 << 18,
    MAX_TEMPLATE_IDS = 1024,
};

struct loader {
    struct nb_tokenizer *t;
    struct nb_error *err;
    int32_t n_vocab;         /* one more than the highest id of model.vocab */
    bool byte_level;         /* the vocabulary is written in ByteLevel's alphabet */
    int16_t bytes_of[0x144]; /* that alphabet: the byte of a character, or -1 */
};

/* The name of a field within another, or of an element of an array. */
struct where {
    char text[160];
};

static void mark_cut(struct where *w, int n) {
    if (n < 0 || (size_t)n >= sizeof w->text)
        memcpy(w->text + sizeof w->text - 4, "…", 4);
}

static struct where field(const char *where, const char *key) {
    struct where w;
    mark_cut(&w, snprintf(w.text, sizeof w.text, "%s%s%s", where, *where ? "." : "", key));
    return w;
}

static struct where element(const char *where, size_t i) {
    struct where w;
    mark_cut(&w, snprintf(w.text, sizeof w.text, "%s[%zu]", where, i));
    return w;
}

static struct nb_shown show(const char *text) {
    return nb_show(text, strlen(text));
}

static enum nb_status out_of_memory(struct loader *l, const char *where) {
    return nb_fail(l->err, NB_ERR_MEMORY, "%s: out of memory", where);
}

static enum nb_status wrong_type(struct loader *l, const char *where, const json_t *found,
                                 const char *expected) {
    return nb_fail(l->err, NB_ERR_FORMAT, "%s is %s, expected %s", where, nb_json_type(found),
                   expected);
}

static enum nb_status unsupported_type(struct loader *l, const char *where, const char *type,
                                       const char *known) {
    return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s.type is \"%s\"; nibble does %s", where,
                   show(type).text, known);
}

/* object's string `key`, copied; absent or null is an error. */
static enum nb_status get_text(struct loader *l, const json_t *object, const char *where,
                               const char *key, struct nb_text *out) {
    const char *text = NULL;
    enum nb_status s = nb_json_string(object, key, &text, where, l->err);
    if (s != NB_OK)
        return s;
    if (!text)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s has no %s, expected a string", where, key);
    size_t n = strlen(text);
    *out = (struct nb_text){nb_arena_string(&l->t->arena, text, n), (uint32_t)n};
    return out->p ? NB_OK : out_of_memory(l, where);
}

/* A component's type, "" if it is not written. */
static enum nb_status get_type(struct loader *l, const json_t *object, const char *where,
                               const char **type) {
    *type = "";
    if (!json_is_object(object))
        return wrong_type(l, where, object, "an object or null");
    return nb_json_string(object, "type", type, where, l->err);
}

/* {"String": …} or {"Regex": …} of a Replace or a Split: *text or *regex. */
static enum nb_status get_pattern(struct loader *l, const json_t *object, const char *where,
                                  struct nb_text *text, struct nb_regex **regex) {
    struct where at = field(where, "pattern");
    const json_t *pattern = json_object_get(object, "pattern");
    if (!json_is_object(pattern))
        return wrong_type(l, at.text, pattern, "an object");
    bool literal = json_object_get(pattern, "String");
    enum nb_status s = get_text(l, pattern, at.text, literal ? "String" : "Regex", text);
    if (s != NB_OK)
        return s;
    if (literal && text->n == 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s.String is empty", at.text);
    if (!literal) {
        s = nb_regex_compile(text->p, text->n, regex, l->err);
        if (s != NB_OK)
            nb_fail_prefix(l->err, s, "%s.Regex", at.text);
    }
    return s;
}

/* Calls `step` for a component, or for each of a Sequence's, whose list is called `list`. */
typedef enum nb_status (*step_fn)(struct loader *l, const json_t *object, const char *where,
                                  const char *type);

static enum nb_status each_step(struct loader *l, const json_t *object, const char *where,
                                const char *list, int depth, step_fn step) {
    const char *type;
    enum nb_status s = get_type(l, object, where, &type);
    if (s != NB_OK)
        return s;
    if (strcmp(type, "Sequence") != 0)
        return step(l, object, where, type);
    if (depth == MAX_DEPTH)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d Sequences in each other", where,
                       MAX_DEPTH);
    struct where at = field(where, list);
    const json_t *steps = json_object_get(object, list);
    if (!json_is_array(steps))
        return wrong_type(l, at.text, steps, "an array");
    for (size_t i = 0; i < json_array_size(steps) && s == NB_OK; i++)
        s = each_step(l, json_array_get(steps, i), element(at.text, i).text, list, depth + 1, step);
    return s;
}

/* ---- Tokens ---- */

/* The size that ids of vocab and added_tokens ask for. */
static enum nb_status measure(struct loader *l, const json_t *vocab, const json_t *added) {
    json_int_t max = -1;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= NB_BPE_MAX_IDS)
            return nb_fail(l->err, NB_ERR_FORMAT,
                           "model.vocab[\"%s\"] is not a token id, expected 0 to %d",
                           show(key).text, NB_BPE_MAX_IDS - 1);
        max = id > max ? id : max;
    }
    l->n_vocab = (int32_t)max + 1;
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id = -1;
        struct where at = element("added_tokens", i);
        const json_t *a = json_array_get(added, i);
        if (!json_is_object(a))
            return wrong_type(l, at.text, a, "an object");
        enum nb_status s = nb_json_int(a, "id", 0, NB_BPE_MAX_IDS - 1, &id, at.text, l->err);
        if (s == NB_OK && id < 0)
            s = nb_fail(l->err, NB_ERR_FORMAT, "%s has no id", at.text);
        if (s != NB_OK)
            return s;
        max = id > max ? id : max;
    }
    l->t->size = (int32_t)max + 1;
    return max < 0 ? nb_fail(l->err, NB_ERR_FORMAT, "model.vocab has no tokens") : NB_OK;
}

/* Gives token `id` its text; the id must be free and the text new. */
static enum nb_status add_token(struct loader *l, const char *where, int32_t id, const char *text) {
    struct nb_tokenizer *t = l->t;
    if (t->texts[id].p)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: \"%s\" has id %d, which \"%s\" has too", where,
                       show(text).text, id, show(t->texts[id].p).text);
    size_t n = strlen(text);
    char *copy = nb_arena_string(&t->arena, text, n);
    if (!copy)
        return out_of_memory(l, where);
    t->texts[id] = (struct nb_text){copy, (uint32_t)n};
    int32_t found = nb_text_map_add(&t->by_text, (uint32_t)id);
    if (found < 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: tokens are made to collide, at \"%s\"", where,
                       show(text).text);
    if (found != id)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: \"%s\" has ids %d and %d", where,
                       show(text).text, found, id);
    return NB_OK;
}

static enum nb_status load_vocab(struct loader *l, const json_t *vocab) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        enum nb_status s = add_token(l, "model.vocab", id, key);
        if (s != NB_OK)
            return s;
    }
    return NB_OK;
}

/* ByteLevel writes a byte that is a visible Latin-1 character as that, and the others as characters
 * from U+0100 on. Returns the byte that cp stands for, or -1. */
static int alphabet_byte(uint32_t cp) {
    int hidden = 0;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        if (cp == (visible ? (uint32_t)b : 0x100u + (uint32_t)hidden))
            return b;
        hidden += !visible;
    }
    return -1;
}

/* The bytes that `text`, in ByteLevel's alphabet, stands for; false if it has other characters. */
static bool from_alphabet(const struct loader *l, const struct nb_text *text, struct nb_buf *out) {
    nb_buf_clear(out);
    for (uint32_t i = 0; i < text->n;) {
        uint32_t cp = 0;
        i += (uint32_t)nb_utf8_decode(text->p + i, text->n - i, &cp);
        int b = cp < sizeof l->bytes_of / sizeof *l->bytes_of ? l->bytes_of[cp] : -1;
        if (b < 0)
            return false;
        char byte = (char)b;
        nb_buf_add(out, &byte, 1);
    }
    return true;
}

/* word_texts: what the model's tokens stand for. */
static enum nb_status load_words(struct loader *l) {
    struct nb_tokenizer *t = l->t;
    struct nb_buf bytes = {0};
    enum nb_status s = NB_OK;
    for (int32_t id = 0; id < l->n_vocab && s == NB_OK; id++) {
        struct nb_text *word = &t->word_texts[id];
        if (!t->texts[id].p || t->texts[id].n == 0)
            continue;
        *word = t->texts[id];
        if (l->byte_level) {
            *word = (struct nb_text){0};
            if (!from_alphabet(l, &t->texts[id], &bytes))
                continue;
            *word = (struct nb_text){nb_arena_string(&t->arena, bytes.data, bytes.len),
                                     (uint32_t)bytes.len};
        }
        if (bytes.failed || !word->p)
            s = out_of_memory(l, "model.vocab");
        else if (nb_text_map_add(&t->words, (uint32_t)id) < 0)
            s = nb_fail(l->err, NB_ERR_FORMAT, "model.vocab: tokens are made to collide, at \"%s\"",
                        show(t->texts[id].p).text);
    }
    nb_buf_free(&bytes);
    return s;
}

static enum nb_status load_added_token(struct loader *l, const json_t *object, const char *where,
                                       struct nb_added *a) {
    struct nb_tokenizer *t = l->t;
    int64_t id = 0;
    const char *content = NULL;
    a->normalized = true;
    enum nb_status s = nb_json_int(object, "id", 0, t->size - 1, &id, where, l->err);
    if (s == NB_OK)
        s = nb_json_string(object, "content", &content, where, l->err);
    if (s == NB_OK && !content)
        s = nb_fail(l->err, NB_ERR_FORMAT, "%s has no content", where);
    if (s == NB_OK)
        s = nb_json_bool(object, "special", &a->special, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "normalized", &a->normalized, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "single_word", &a->single_word, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "lstrip", &a->lstrip, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "rstrip", &a->rstrip, where, l->err);
    if (s != NB_OK)
        return s;
    a->id = (int32_t)id;
    if (!t->texts[id].p || strcmp(t->texts[id].p, content) != 0)
        s = add_token(l, where, a->id, content);
    a->content = t->texts[id];
    if (a->special)
        t->flags[id] |= NB_TOKEN_SPECIAL;
    return s;
}

static enum nb_status load_added(struct loader *l, const json_t *added) {
    struct nb_tokenizer *t = l->t;
    size_t n = json_array_size(added);
    if (n > MAX_ADDED)
        return nb_fail(l->err, NB_ERR_LIMIT, "added_tokens has %zu tokens, expected at most %d", n,
                       MAX_ADDED);
    t->added = nb_arena_alloc(&t->arena, n, sizeof *t->added);
    if (!t->added)
        return out_of_memory(l, "added_tokens");
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < n && s == NB_OK; i++)
        s = load_added_token(l, json_array_get(added, i), element("added_tokens", i).text,
                             &t->added[t->n_added++]);
    return s;
}

/* Enters an added token where it will be looked for: the raw text, or the normalized. */
static enum nb_status plant(struct loader *l, size_t i) {
    struct nb_tokenizer *t = l->t;
    const struct nb_added *a = &t->added[i];
    struct nb_buf text = {0}, other = {0};
    nb_buf_add(&text, a->content.p, a->content.n);
    enum nb_status s = NB_OK;
    if (a->normalized)
        s = nb_normalize(t->normalizers, t->n_normalizers, (struct nb_place){true, false}, &text,
                         &other, l->err);
    if (s == NB_OK && text.len > NB_ADDED_MAX_BYTES)
        s = nb_fail(l->err, NB_ERR_LIMIT, "added_tokens[%zu] has %zu bytes, expected at most %d", i,
                    text.len, NB_ADDED_MAX_BYTES);
    struct nb_added_tree *tree = a->normalized ? &t->normalized : &t->raw;
    if (s == NB_OK && text.len &&
        !nb_added_tree_add(tree, (struct nb_text){text.data, (uint32_t)text.len}, (int32_t)i,
                           a->special))
        s = out_of_memory(l, "added_tokens");
    nb_buf_free(&text);
    nb_buf_free(&other);
    return s;
}

static enum nb_status plant_added(struct loader *l) {
    enum nb_status s = NB_OK;
    /* Special tokens first: where two are spelled alike, the first stays. */
    for (int special = 1; special >= 0; special--) {
        for (size_t i = 0; i < l->t->n_added && s == NB_OK; i++) {
            if (l->t->added[i].special == special)
                s = plant(l, i);
        }
    }
    return s;
}

/* ---- The model ---- */

/* The token of the model that is written text[0..n). */
static enum nb_status find_piece(struct loader *l, const char *text, size_t n, int32_t *id) {
    *id = n ? nb_text_map_find(&l->t->by_text, text, n) : -1;
    if (*id >= 0)
        return NB_OK;
    return nb_fail(l->err, NB_ERR_FORMAT, "\"%s\" is not in model.vocab", nb_show(text, n).text);
}

/* The two sides of a merge: "a b", or ["a", "b"]. */
static enum nb_status merge_sides(struct loader *l, const json_t *merge, struct nb_text side[2]) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (space && !strchr(space + 1, ' ')) {
            side[0] = (struct nb_text){text, (uint32_t)(space - text)};
            side[1] = (struct nb_text){space + 1, (uint32_t)strlen(space + 1)};
            return NB_OK;
        }
    } else if (json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
               json_is_string(json_array_get(merge, 1))) {
        for (size_t i = 0; i < 2; i++) {
            const json_t *s = json_array_get(merge, i);
            side[i] = (struct nb_text){json_string_value(s), (uint32_t)json_string_length(s)};
        }
        return NB_OK;
    }
    return nb_fail(l->err, NB_ERR_FORMAT, "found %s, expected \"a b\" or [\"a\", \"b\"]",
                   nb_json_type(merge));
}

static enum nb_status load_merge(struct loader *l, const json_t *merge, uint32_t rank,
                                 struct nb_buf *whole) {
    struct nb_text side[2];
    int32_t id[2] = {0}, result = 0;
    enum nb_status s = merge_sides(l, merge, side);
    nb_buf_clear(whole);
    for (int i = 0; i < 2 && s == NB_OK; i++) {
        s = find_piece(l, side[i].p, side[i].n, &id[i]);
        nb_buf_add(whole, side[i].p, side[i].n);
    }
    if (s == NB_OK && whole->failed)
        s = nb_fail_memory(l->err, whole->len, "a token");
    if (s == NB_OK)
        s = find_piece(l, whole->data, whole->len, &result);
    if (s == NB_OK && !nb_bpe_add_merge(&l->t->bpe, id[0], id[1], result, rank))
        s = nb_fail(l->err, NB_ERR_FORMAT, "merges are made to collide");
    return s;
}

static enum nb_status load_merges(struct loader *l, const json_t *merges) {
    size_t n = json_array_size(merges);
    if (n > NB_BPE_MAX_MERGES)
        return nb_fail(l->err, NB_ERR_LIMIT, "model.merges has %zu merges, expected at most %d", n,
                       NB_BPE_MAX_MERGES);
    enum nb_status s = nb_bpe_make_room(&l->t->bpe, n, l->err);
    struct nb_buf whole = {0};
    for (size_t i = 0; i < n && s == NB_OK; i++) {
        s = load_merge(l, json_array_get(merges, i), (uint32_t)i, &whole);
        if (s != NB_OK)
            nb_fail_prefix(l->err, s, "model.merges[%zu]", i);
    }
    nb_buf_free(&whole);
    return s;
}

static enum nb_status load_fallback(struct loader *l) {
    struct nb_bpe *bpe = &l->t->bpe;
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        bpe->fallback[b] = nb_text_map_find(&l->t->by_text, text, 6);
        if (bpe->fallback[b] < 0)
            return nb_fail(l->err, NB_ERR_FORMAT,
                           "model.byte_fallback is true, but model.vocab has no \"%s\"", text);
    }
    return NB_OK;
}

/* Tokens of one character, or one byte, are the symbols that merging begins with. */
static enum nb_status load_symbols(struct loader *l) {
    struct nb_tokenizer *t = l->t;
    for (int32_t id = 0; id < l->n_vocab; id++) {
        const struct nb_text *text = &t->word_texts[id];
        uint32_t cp;
        if (l->byte_level && text->n == 1)
            t->bpe.byte_symbols[(unsigned char)text->p[0]] = id;
        if (!l->byte_level && text->n && nb_utf8_decode(text->p, text->n, &cp) == text->n &&
            !nb_bpe_set_symbol(&t->bpe, cp, id))
            return out_of_memory(l, "model.vocab");
    }
    return NB_OK;
}

static bool has_all_bytes(const struct loader *l) {
    for (int b = 0; b < 256; b++) {
        if (l->t->bpe.byte_symbols[b] < 0)
            return false;
    }
    return true;
}

/* Fields that change what a BPE model does and that no language model in use sets. */
static enum nb_status refuse_model_options(struct loader *l, const json_t *model) {
    static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    double dropout = 0;
    enum nb_status s = nb_json_number(model, "dropout", 0, 1, &dropout, "model", l->err);
    if (s == NB_OK && dropout > 0)
        s = nb_fail(l->err, NB_ERR_UNSUPPORTED, "model.dropout is %g; nibble does none", dropout);
    for (size_t i = 0; i < 2 && s == NB_OK; i++) {
        const char *text = "";
        s = nb_json_string(model, keys[i], &text, "model", l->err);
        if (s == NB_OK && *text)
            s = nb_fail(l->err, NB_ERR_UNSUPPORTED, "model.%s is \"%s\"; nibble does none", keys[i],
                        show(text).text);
    }
    return s;
}

/* What becomes of characters that are no symbols. */
static enum nb_status load_unknown(struct loader *l, const json_t *model) {
    struct nb_bpe *bpe = &l->t->bpe;
    const char *text = NULL;
    enum nb_status s = nb_json_bool(model, "byte_fallback", &bpe->byte_fallback, "model", l->err);
    if (s == NB_OK)
        s = nb_json_bool(model, "fuse_unk", &bpe->fuse_unknown, "model", l->err);
    if (s == NB_OK)
        s = nb_json_string(model, "unk_token", &text, "model", l->err);
    if (s != NB_OK || (l->byte_level && has_all_bytes(l)))
        return s;
    if (bpe->byte_fallback && l->byte_level)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED,
                       "model.byte_fallback is true for a ByteLevel vocabulary without some bytes");
    if (bpe->byte_fallback)
        return load_fallback(l);
    if (text)
        s = find_piece(l, text, strlen(text), &bpe->unknown);
    return s == NB_OK ? s : nb_fail_prefix(l->err, s, "model.unk_token");
}

static enum nb_status load_model(struct loader *l, const json_t *model, const json_t *merges) {
    struct nb_bpe *bpe = &l->t->bpe;
    nb_bpe_init(bpe, (size_t)l->t->size);
    bpe->byte_level = l->byte_level;
    enum nb_status s = refuse_model_options(l, model);
    if (s == NB_OK)
        s = load_words(l);
    if (s == NB_OK)
        s = load_merges(l, merges);
    if (s == NB_OK)
        s = nb_json_bool(model, "ignore_merges", &bpe->ignore_merges, "model", l->err);
    if (s == NB_OK)
        s = load_symbols(l);
    if (s == NB_OK)
        s = load_unknown(l, model);
    if (s == NB_OK)
        s = nb_bpe_finish(bpe, &l->t->words, l->err);
    return s;
}

/* ---- Normalizers, splitters ---- */

static const struct {
    const char *type;
    enum nb_normalizer_kind kind;
} simple_normalizers[] = {
    {"NFC", NB_NORMALIZE_NFC},
    {"NFD", NB_NORMALIZE_NFD},
    {"NFKC", NB_NORMALIZE_NFKC},
    {"NFKD", NB_NORMALIZE_NFKD},
    {"Lowercase", NB_NORMALIZE_LOWERCASE},
    {"StripAccents", NB_NORMALIZE_STRIP_ACCENTS},
    {"Nmt", NB_NORMALIZE_NMT},
};

static enum nb_status normalizer_step(struct loader *l, const json_t *object, const char *where,
                                      const char *type) {
    struct nb_tokenizer *t = l->t;
    if (t->n_normalizers == MAX_STEPS)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d steps", where, MAX_STEPS);
    struct nb_normalizer *step = &t->normalizers[t->n_normalizers++];
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < sizeof simple_normalizers / sizeof *simple_normalizers; i++) {
        step->kind = simple_normalizers[i].kind;
        if (strcmp(type, simple_normalizers[i].type) == 0)
            return NB_OK;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NB_NORMALIZE_PREPEND;
        s = get_text(l, object, where, "prepend", &step->content);
    } else if (strcmp(type, "Replace") == 0) {
        step->kind = NB_NORMALIZE_REPLACE;
        s = get_pattern(l, object, where, &step->pattern, &step->regex);
        if (s == NB_OK)
            s = get_text(l, object, where, "content", &step->content);
    } else if (strcmp(type, "Strip") == 0) {
        step->kind = NB_NORMALIZE_STRIP;
        s = nb_json_bool(object, "strip_left", &step->left, where, l->err);
        if (s == NB_OK)
            s = nb_json_bool(object, "strip_right", &step->right, where, l->err);
    } else {
        s = unsupported_type(l, where, type,
                             "Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                             "StripAccents, Nmt and Sequence");
    }
    return s;
}

static enum nb_status get_prepend_scheme(struct loader *l, const json_t *object, const char *where,
                                         enum nb_prepend *out) {
    const char *scheme = "always";
    bool prefix_space = true;
    enum nb_status s = nb_json_string(object, "prepend_scheme", &scheme, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "add_prefix_space", &prefix_space, where, l->err);
    if (s != NB_OK)
        return s;
    if (!prefix_space || strcmp(scheme, "never") == 0)
        *out = NB_PREPEND_NEVER;
    else if (strcmp(scheme, "first") == 0)
        *out = NB_PREPEND_FIRST;
    else if (strcmp(scheme, "always") == 0)
        *out = NB_PREPEND_ALWAYS;
    else
        return nb_fail(l->err, NB_ERR_FORMAT,
                       "%s.prepend_scheme is \"%s\", expected always, first or never", where,
                       show(scheme).text);
    return NB_OK;
}

/* A Metaspace's replacement, which is one character. */
static enum nb_status get_mark(struct loader *l, const json_t *object, const char *where,
                               const char *key, struct nb_text *out) {
    uint32_t cp;
    enum nb_status s = get_text(l, object, where, key, out);
    if (s == NB_OK && (out->n == 0 || nb_utf8_decode(out->p, out->n, &cp) != out->n))
        s = nb_fail(l->err, NB_ERR_FORMAT, "%s.%s is \"%s\", expected one character", where, key,
                    show(out->p).text);
    return s;
}

static enum nb_status get_behavior(struct loader *l, const json_t *object, const char *where,
                                   enum nb_split_behavior *out) {
    static const char *const names[] = {
        [NB_SPLIT_REMOVED] = "Removed",
        [NB_SPLIT_ISOLATED] = "Isolated",
        [NB_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [NB_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [NB_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const char *name = "Isolated";
    enum nb_status s = nb_json_string(object, "behavior", &name, where, l->err);
    for (size_t i = 0; i < sizeof names / sizeof *names && s == NB_OK; i++) {
        *out = (enum nb_split_behavior)i;
        if (strcmp(name, names[i]) == 0)
            return NB_OK;
    }
    return s == NB_OK ? nb_fail(l->err, NB_ERR_FORMAT,
                                "%s.behavior is \"%s\", expected Removed, "
                                "Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                                where, show(name).text)
                      : s;
}

static enum nb_status get_metaspace(struct loader *l, const json_t *object, const char *where,
                                    struct nb_splitter *step) {
    step->kind = NB_SPLIT_METASPACE;
    step->split = true;
    enum nb_status s = get_mark(l, object, where, "replacement", &step->mark);
    if (s == NB_OK)
        s = get_prepend_scheme(l, object, where, &step->prepend);
    if (s == NB_OK)
        s = nb_json_bool(object, "split", &step->split, where, l->err);
    return s;
}

static enum nb_status get_split(struct loader *l, const json_t *object, const char *where,
                                struct nb_splitter *step) {
    enum nb_status s = get_pattern(l, object, where, &step->mark, &step->regex);
    step->find = step->regex ? NB_FIND_REGEX : NB_FIND_TEXT;
    if (s == NB_OK)
        s = get_behavior(l, object, where, &step->behavior);
    if (s == NB_OK)
        s = nb_json_bool(object, "invert", &step->invert, where, l->err);
    return s;
}

static enum nb_status get_digits(struct loader *l, const json_t *object, const char *where,
                                 struct nb_splitter *step) {
    bool each = false;
    step->find = NB_FIND_NUMERIC;
    enum nb_status s = nb_json_bool(object, "individual_digits", &each, where, l->err);
    step->behavior = each ? NB_SPLIT_ISOLATED : NB_SPLIT_CONTIGUOUS;
    return s;
}

/* \w as Rust's regular expressions have it: nb_is_word_character. */
#define RUST_WORD                                                                                  \
    "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}"                       \
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

/* A pattern that is the type's own. */
static enum nb_status own_regex(struct loader *l, const char *pattern, struct nb_splitter *step) {
    step->find = NB_FIND_REGEX;
    return nb_regex_compile(pattern, strlen(pattern), &step->regex, l->err);
}

static enum nb_status new_splitter(struct loader *l, const char *where, struct nb_splitter **out) {
    struct nb_tokenizer *t = l->t;
    if (t->n_splitters == MAX_STEPS)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d steps", where, MAX_STEPS);
    *out = &t->splitters[t->n_splitters++];
    **out = (struct nb_splitter){.kind = NB_SPLIT_MATCHES};
    return NB_OK;
}

static enum nb_status get_byte_level(struct loader *l, const json_t *object, const char *where) {
    struct nb_splitter *step = NULL;
    bool prefix_space = true, use_regex = true;
    enum nb_status s = nb_json_bool(object, "add_prefix_space", &prefix_space, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "use_regex", &use_regex, where, l->err);
    if (s == NB_OK && prefix_space) {
        s = new_splitter(l, where, &step);
        if (s == NB_OK)
            step->kind = NB_SPLIT_PREFIX_SPACE;
    }
    if (s == NB_OK && use_regex) {
        s = new_splitter(l, where, &step);
        if (s != NB_OK)
            return s;
        step->behavior = NB_SPLIT_ISOLATED;
        s = own_regex(l,
                      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                      "\\s+(?!\\S)|\\s+",
                      step);
    }
    l->byte_level = true;
    return s;
}

static enum nb_status splitter_step(struct loader *l, const json_t *object, const char *where,
                                    const char *type) {
    if (l->byte_level)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s: nibble does no %s behind ByteLevel", where,
                       show(type).text);
    if (strcmp(type, "ByteLevel") == 0)
        return get_byte_level(l, object, where);
    struct nb_splitter *step = NULL;
    enum nb_status s = new_splitter(l, where, &step);
    if (s != NB_OK)
        return s;
    if (strcmp(type, "Metaspace") == 0)
        return get_metaspace(l, object, where, step);
    if (strcmp(type, "Split") == 0)
        return get_split(l, object, where, step);
    if (strcmp(type, "Digits") == 0)
        return get_digits(l, object, where, step);
    if (strcmp(type, "Punctuation") == 0) {
        step->find = NB_FIND_PUNCTUATION;
        return get_behavior(l, object, where, &step->behavior);
    }
    step->behavior = NB_SPLIT_REMOVED;
    if (strcmp(type, "WhitespaceSplit") == 0) {
        step->find = NB_FIND_WHITE_SPACE;
        return NB_OK;
    }
    if (strcmp(type, "Whitespace") == 0) {
        step->invert = true;
        return own_regex(l, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", step);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        step->find = NB_FIND_TEXT;
        return get_mark(l, object, where, "delimiter", &step->mark);
    }
    return unsupported_type(l, where, type,
                            "Metaspace, ByteLevel, Split, Digits, Punctuation, Whitespace, "
                            "WhitespaceSplit, CharDelimiterSplit and Sequence");
}

static enum nb_status load_text_steps(struct loader *l, const json_t *root) {
    struct nb_tokenizer *t = l->t;
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *splitter = json_object_get(root, "pre_tokenizer");
    t->normalizers = nb_arena_alloc(&t->arena, MAX_STEPS, sizeof *t->normalizers);
    t->splitters = nb_arena_alloc(&t->arena, MAX_STEPS, sizeof *t->splitters);
    if (!t->normalizers || !t->splitters)
        return out_of_memory(l, "normalizer");
    enum nb_status s = NB_OK;
    if (normalizer && !json_is_null(normalizer))
        s = each_step(l, normalizer, "normalizer", "normalizers", 0, normalizer_step);
    if (s == NB_OK && splitter && !json_is_null(splitter))
        s = each_step(l, splitter, "pre_tokenizer", "pretokenizers", 0, splitter_step);
    return s;
}

/* ---- The post-processor ---- */

struct template {
    int32_t ids[2][MAX_TEMPLATE_IDS]; /* before the text, and after */
    size_t n[2];
    bool has_text;
};

/* Appends special_tokens[name].ids. */
static enum nb_status add_template_ids(struct loader *l, const json_t *specials, const char *name,
                                       struct template *out) {
    struct where at = field("post_processor.special_tokens", show(name).text);
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return wrong_type(l, field(at.text, "ids").text, ids, "an array");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= l->t->size)
            return nb_fail(l->err, NB_ERR_FORMAT, "%s.ids[%zu] is not the id of a token", at.text,
                           i);
        size_t *n = &out->n[out->has_text];
        if (*n == MAX_TEMPLATE_IDS)
            return nb_fail(l->err, NB_ERR_LIMIT, "post_processor adds more than %d tokens",
                           MAX_TEMPLATE_IDS);
        out->ids[out->has_text][(*n)++] = (int32_t)json_integer_value(id);
    }
    return NB_OK;
}

static enum nb_status template_part(struct loader *l, const json_t *part, const char *where,
                                    const json_t *specials, struct template *out) {
    const json_t *special = json_object_get(part, "SpecialToken");
    const json_t *text = json_object_get(part, "Sequence");
    const char *id = NULL;
    enum nb_status s = nb_json_string(special ? special : text, "id", &id, where, l->err);
    if (s != NB_OK)
        return s;
    if (!id)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s is neither a SpecialToken nor a Sequence", where);
    if (special)
        return add_template_ids(l, specials, id, out);
    if (out->has_text || strcmp(id, "A") != 0)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s: nibble does one Sequence \"A\"", where);
    out->has_text = true;
    return NB_OK;
}

/* Puts what `part` adds outside of what processors before it added. */
static enum nb_status wrap(struct loader *l, const struct template *part) {
    struct nb_tokenizer *t = l->t;
    int32_t *prefix = nb_arena_alloc(&t->arena, part->n[0] + t->n_prefix, sizeof *prefix);
    int32_t *suffix = nb_arena_alloc(&t->arena, part->n[1] + t->n_suffix, sizeof *suffix);
    if (!prefix || !suffix)
        return out_of_memory(l, "post_processor");
    memcpy(prefix, part->ids[0], part->n[0] * sizeof *prefix);
    if (t->n_prefix)
        memcpy(prefix + part->n[0], t->prefix, t->n_prefix * sizeof *prefix);
    if (t->n_suffix)
        memcpy(suffix, t->suffix, t->n_suffix * sizeof *suffix);
    memcpy(suffix + t->n_suffix, part->ids[1], part->n[1] * sizeof *suffix);
    t->prefix = prefix;
    t->suffix = suffix;
    t->n_prefix += part->n[0];
    t->n_suffix += part->n[1];
    return NB_OK;
}

/* ["<s>", 0] of a BertProcessing or RobertaProcessing. */
static enum nb_status named_id(struct loader *l, const json_t *object, const char *where,
                               const char *key, int32_t *out) {
    const json_t *pair = json_object_get(object, key), *id = json_array_get(pair, 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= l->t->size)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s is not [text, id] of a token",
                       field(where, key).text);
    *out = (int32_t)json_integer_value(id);
    return NB_OK;
}

static enum nb_status bert_processor(struct loader *l, const json_t *object, const char *where) {
    struct template parts = {.n = {1, 1}};
    enum nb_status s = named_id(l, object, where, "cls", &parts.ids[0][0]);
    if (s == NB_OK)
        s = named_id(l, object, where, "sep", &parts.ids[1][0]);
    return s == NB_OK ? wrap(l, &parts) : s;
}

static enum nb_status processor_step(struct loader *l, const json_t *object, const char *where,
                                     const char *type) {
    if (strcmp(type, "ByteLevel") == 0)
        return NB_OK; /* it moves offsets, not ids */
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return bert_processor(l, object, where);
    if (strcmp(type, "TemplateProcessing") != 0)
        return unsupported_type(l, where, type,
                                "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel "
                                "and Sequence");
    struct where at = field(where, "single");
    const json_t *single = json_object_get(object, "single");
    if (!json_is_array(single))
        return wrong_type(l, at.text, single, "an array");
    struct template parts = {0};
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < json_array_size(single) && s == NB_OK; i++)
        s = template_part(l, json_array_get(single, i), element(at.text, i).text,
                          json_object_get(object, "special_tokens"), &parts);
    if (s == NB_OK && !parts.has_text)
        s = nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s has no Sequence \"A\"", at.text);
    return s == NB_OK ? wrap(l, &parts) : s;
}

/* ---- The decoder ---- */

/* How far a chain of decoders has come: token by token, then bytes joined, then the whole text. */
enum stage { STAGE_TOKENS, STAGE_BYTES, STAGE_FUSED, STAGE_STRIPPED };

struct decoder_chain {
    struct loader l; /* first, so that a step can have both */
    enum stage stage;
    bool byte_fallback;
    bool byte_level;
    struct {
        struct nb_text pattern, content;
    } replace[MAX_STEPS];
    size_t n_replace;
};

static enum nb_status misplaced(struct loader *l, const char *where, const char *type) {
    return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s: nibble does no %s at this place of a decoder",
                   where, type);
}

static enum nb_status add_replace(struct decoder_chain *c, const char *where,
                                  struct nb_text pattern, struct nb_text content) {
    if (c->n_replace == MAX_STEPS)
        return nb_fail(c->l.err, NB_ERR_LIMIT, "%s: more than %d steps", where, MAX_STEPS);
    c->replace[c->n_replace].pattern = pattern;
    c->replace[c->n_replace++].content = content;
    return NB_OK;
}

static enum nb_status decode_strip(struct loader *l, const json_t *object, const char *where) {
    struct nb_decoding *d = &l->t->decoding;
    int64_t start = 0, stop = 0;
    enum nb_status s = get_mark(l, object, where, "content", &d->strip);
    if (s == NB_OK)
        s = nb_json_int(object, "start", 0, INT32_MAX, &start, where, l->err);
    if (s == NB_OK)
        s = nb_json_int(object, "stop", 0, INT32_MAX, &stop, where, l->err);
    if (s == NB_OK && stop)
        s = nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s.stop is %lld; nibble does 0", where,
                    (long long)stop);
    d->strip_max = (size_t)start;
    return s;
}

static enum nb_status decode_metaspace(struct decoder_chain *c, const json_t *object,
                                       const char *where) {
    struct nb_decoding *d = &c->l.t->decoding;
    struct nb_text mark;
    enum nb_prepend prepend = NB_PREPEND_ALWAYS;
    enum nb_status s = get_mark(&c->l, object, where, "replacement", &mark);
    if (s == NB_OK)
        s = get_prepend_scheme(&c->l, object, where, &prepend);
    if (s == NB_OK)
        s = add_replace(c, where, mark, (struct nb_text){" ", 1});
    if (prepend != NB_PREPEND_NEVER)
        d->mark = mark;
    return s;
}

static enum nb_status decode_replace(struct decoder_chain *c, const json_t *object,
                                     const char *where) {
    struct nb_text pattern, content;
    struct nb_regex *regex = NULL;
    enum nb_status s = get_pattern(&c->l, object, where, &pattern, &regex);
    if (regex) {
        nb_regex_free(regex);
        return nb_fail(c->l.err, NB_ERR_UNSUPPORTED, "%s.pattern is a Regex; nibble does a String",
                       where);
    }
    if (s == NB_OK)
        s = get_text(&c->l, object, where, "content", &content);
    return s == NB_OK ? add_replace(c, where, pattern, content) : s;
}

static enum nb_status decoder_step(struct loader *l, const json_t *object, const char *where,
                                   const char *type) {
    struct decoder_chain *c = (struct decoder_chain *)l;
    enum stage stage = c->stage;
    if (strcmp(type, "Replace") == 0)
        return stage > STAGE_TOKENS ? misplaced(l, where, type) : decode_replace(c, object, where);
    if (strcmp(type, "Metaspace") == 0)
        return stage > STAGE_TOKENS || c->n_replace ? misplaced(l, where, type)
                                                    : decode_metaspace(c, object, where);
    if (strcmp(type, "ByteLevel") == 0) {
        c->stage = STAGE_FUSED;
        c->byte_level = true;
        l->t->decoding.kind = NB_DECODE_BYTES;
        return stage > STAGE_TOKENS || l->t->decoding.mark.n ? misplaced(l, where, type) : NB_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        c->stage = STAGE_BYTES;
        c->byte_fallback = true;
        return stage >= STAGE_BYTES ? misplaced(l, where, type) : NB_OK;
    }
    if (strcmp(type, "Fuse") == 0) {
        c->stage = stage > STAGE_FUSED ? stage : STAGE_FUSED;
        return NB_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        c->stage = STAGE_STRIPPED;
        return stage != STAGE_FUSED ? misplaced(l, where, type) : decode_strip(l, object, where);
    }
    return unsupported_type(l, where, type,
                            "ByteLevel, Replace, Metaspace, ByteFallback, Fuse, Strip and "
                            "Sequence");
}

/* bytes[id] and its flag, by the steps of the chain that look at one token. */
static enum nb_status decode_token(const struct decoder_chain *c, int32_t id, struct nb_buf *text,
                                   struct nb_buf *other) {
    struct nb_tokenizer *t = c->l.t;
    t->bytes[id] = t->texts[id];
    for (size_t i = 0; i < c->n_replace; i++) {
        nb_buf_clear(other);
        nb_replace_text(t->bytes[id].p, t->bytes[id].n, c->replace[i].pattern,
                        c->replace[i].content, other);
        struct nb_buf swap = *text;
        *text = *other;
        *other = swap;
        t->bytes[id] = (struct nb_text){text->data ? text->data : "", (uint32_t)text->len};
    }
    int byte = c->byte_fallback ? nb_fallback_byte(t->bytes[id].p, t->bytes[id].n) : -1;
    char raw = (char)byte;
    if (byte >= 0) {
        t->bytes[id] = (struct nb_text){&raw, 1};
        t->flags[id] |= NB_TOKEN_BYTE;
    }
    if (c->byte_level && from_alphabet(&c->l, &t->bytes[id], other))
        t->bytes[id] = (struct nb_text){other->data ? other->data : "", (uint32_t)other->len};
    if (t->bytes[id].p != t->texts[id].p)
        t->bytes[id].p = nb_arena_string(&t->arena, t->bytes[id].p, t->bytes[id].n);
    if (!t->bytes[id].p || text->failed || other->failed)
        return nb_fail(c->l.err, NB_ERR_MEMORY, "decoder: out of memory");
    return NB_OK;
}

static enum nb_status load_decoder(struct loader *l, const json_t *decoder) {
    struct nb_tokenizer *t = l->t;
    struct decoder_chain c = {.l = *l};
    enum nb_status s = NB_OK;
    if (decoder && !json_is_null(decoder))
        s = each_step(&c.l, decoder, "decoder", "decoders", 0, decoder_step);
    else
        t->decoding.spaced = true;
    struct nb_buf text = {0}, other = {0};
    for (int32_t id = 0; id < t->size && s == NB_OK; id++) {
        if (t->texts[id].p)
            s = decode_token(&c, id, &text, &other);
    }
    nb_buf_free(&text);
    nb_buf_free(&other);
    return s;
}

/* ---- The file ---- */

static enum nb_status load_root(struct loader *l, const json_t *root) {
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    const json_t *processor = json_object_get(root, "post_processor");
    const char *type;
    enum nb_status s = get_type(l, model, "model", &type);
    if (s != NB_OK)
        return s;
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    if (strcmp(type, "BPE") != 0 && (*type || !merges))
        return unsupported_type(l, "model", type, "BPE");
    if (!json_is_object(vocab))
        return wrong_type(l, "model.vocab", vocab, "an object");
    if (!json_is_array(merges))
        return wrong_type(l, "model.merges", merges, "an array");
    if (added && !json_is_null(added) && !json_is_array(added))
        return wrong_type(l, "added_tokens", added, "an array");
    s = measure(l, vocab, added);
    if (s == NB_OK)
        s = nb_tokenizer_allocate(l->t, l->err);
    if (s == NB_OK)
        s = load_vocab(l, vocab);
    if (s == NB_OK)
        s = load_text_steps(l, root);
    if (s == NB_OK)
        s = load_model(l, model, merges);
    if (s == NB_OK)
        s = load_added(l, added);
    if (s == NB_OK)
        s = plant_added(l);
    if (s == NB_OK && processor && !json_is_null(processor))
        s = each_step(l, processor, "post_processor", "processors", 0, processor_step);
    if (s == NB_OK)
        s = load_decoder(l, json_object_get(root, "decoder"));
    return s;
}

enum nb_status nb_tokenizer_load_json(struct nb_tokenizer *t, const char *bytes, size_t n,
                                      const char *name, struct nb_error *err) {
    json_t *root;
    enum nb_status s = nb_json_parse(bytes, n, name, &root, err);
    if (s != NB_OK)
        return s;
    struct loader l = {.t = t, .err = err};
    for (uint32_t cp = 0; cp < sizeof l.bytes_of / sizeof *l.bytes_of; cp++)
        l.bytes_of[cp] = (int16_t)alphabet_byte(cp);
    s = load_root(&l, root);
    json_decref(root);
    return s == NB_OK ? NB_OK : nb_fail_prefix(err, s, "%s", name);
}
