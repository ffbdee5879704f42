#include "model/tokenizer_json.h"

#include "base/utf8.h"

#include <stdio.h>

enum {
    MAX_DEPTH = 8, /* of Sequences in Sequences */
    MAX_ADDED = 1 << 18,
};

static void mark_cut(struct nb_where *w, int n) {
    if (n < 0 || (size_t)n >= sizeof w->text)
        memcpy(w->text + sizeof w->text - 4, "…", 4);
}

struct nb_where nb_where_field(const char *where, const char *key) {
    struct nb_where w;
    mark_cut(&w, snprintf(w.text, sizeof w.text, "%s%s%s", where, *where ? "." : "", key));
    return w;
}

struct nb_where nb_where_element(const char *where, size_t i) {
    struct nb_where w;
    mark_cut(&w, snprintf(w.text, sizeof w.text, "%s[%zu]", where, i));
    return w;
}

struct nb_shown nb_shown_text(const char *text) {
    return nb_show(text, strlen(text));
}

enum nb_status nb_loader_no_memory(struct nb_json_loader *l, const char *where) {
    return nb_fail(l->err, NB_ERR_MEMORY, "%s: out of memory", where);
}

enum nb_status nb_loader_wrong_type(struct nb_json_loader *l, const char *where,
                                    const json_t *found, const char *expected) {
    return nb_fail(l->err, NB_ERR_FORMAT, "%s is %s, expected %s", where, nb_json_type(found),
                   expected);
}

enum nb_status nb_loader_unsupported(struct nb_json_loader *l, const char *where, const char *type,
                                     const char *known) {
    return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s.type is \"%s\"; nibble does %s", where,
                   nb_shown_text(type).text, known);
}

enum nb_status nb_loader_text(struct nb_json_loader *l, const json_t *object, const char *where,
                              const char *key, struct nb_text *out) {
    const char *text = NULL;
    enum nb_status s = nb_json_string(object, key, &text, where, l->err);
    if (s != NB_OK)
        return s;
    if (!text)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s has no %s, expected a string", where, key);
    size_t n = strlen(text);
    *out = (struct nb_text){nb_arena_string(&l->t->arena, text, n), (uint32_t)n};
    return out->p ? NB_OK : nb_loader_no_memory(l, where);
}

/* A component's type, "" if it is not written. */
static enum nb_status get_type(struct nb_json_loader *l, const json_t *object, const char *where,
                               const char **type) {
    *type = "";
    if (!json_is_object(object))
        return nb_loader_wrong_type(l, where, object, "an object or null");
    return nb_json_string(object, "type", type, where, l->err);
}

enum nb_status nb_loader_pattern(struct nb_json_loader *l, const json_t *object, const char *where,
                                 struct nb_text *text, struct nb_regex **regex) {
    struct nb_where at = nb_where_field(where, "pattern");
    const json_t *pattern = json_object_get(object, "pattern");
    if (!json_is_object(pattern))
        return nb_loader_wrong_type(l, at.text, pattern, "an object");
    bool literal = json_object_get(pattern, "String");
    enum nb_status s = nb_loader_text(l, pattern, at.text, literal ? "String" : "Regex", text);
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

static enum nb_status walk_steps(struct nb_json_loader *l, const json_t *object, const char *where,
                                 const char *list, int depth, nb_loader_step step) {
    const char *type;
    enum nb_status s = get_type(l, object, where, &type);
    if (s != NB_OK)
        return s;
    if (strcmp(type, "Sequence") != 0)
        return step(l, object, where, type);
    if (depth == MAX_DEPTH)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d Sequences in each other", where,
                       MAX_DEPTH);
    struct nb_where at = nb_where_field(where, list);
    const json_t *steps = json_object_get(object, list);
    if (!json_is_array(steps))
        return nb_loader_wrong_type(l, at.text, steps, "an array");
    for (size_t i = 0; i < json_array_size(steps) && s == NB_OK; i++)
        s = walk_steps(l, json_array_get(steps, i), nb_where_element(at.text, i).text, list,
                       depth + 1, step);
    return s;
}

enum nb_status nb_loader_each_step(struct nb_json_loader *l, const json_t *object,
                                   const char *where, const char *list, nb_loader_step step) {
    return object && !json_is_null(object) ? walk_steps(l, object, where, list, 0, step) : NB_OK;
}

enum nb_status nb_loader_prepend(struct nb_json_loader *l, const json_t *object, const char *where,
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
                       nb_shown_text(scheme).text);
    return NB_OK;
}

enum nb_status nb_loader_mark(struct nb_json_loader *l, const json_t *object, const char *where,
                              const char *key, struct nb_text *out) {
    uint32_t cp;
    enum nb_status s = nb_loader_text(l, object, where, key, out);
    if (s == NB_OK && (out->n == 0 || nb_utf8_decode(out->p, out->n, &cp) != out->n))
        s = nb_fail(l->err, NB_ERR_FORMAT, "%s.%s is \"%s\", expected one character", where, key,
                    nb_shown_text(out->p).text);
    return s;
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

bool nb_from_alphabet(const struct nb_json_loader *l, const struct nb_text *text,
                      struct nb_buf *out) {
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

/* ---- Tokens ---- */

/* The size that ids of vocab and added_tokens ask for. */
static enum nb_status measure(struct nb_json_loader *l, const json_t *vocab, const json_t *added) {
    json_int_t max = -1;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= NB_BPE_MAX_IDS)
            return nb_fail(l->err, NB_ERR_FORMAT,
                           "model.vocab[\"%s\"] is not a token id, expected 0 to %d",
                           nb_shown_text(key).text, NB_BPE_MAX_IDS - 1);
        max = id > max ? id : max;
    }
    l->n_vocab = (int32_t)max + 1;
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id = -1;
        struct nb_where at = nb_where_element("added_tokens", i);
        const json_t *a = json_array_get(added, i);
        if (!json_is_object(a))
            return nb_loader_wrong_type(l, at.text, a, "an object");
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
static enum nb_status add_token(struct nb_json_loader *l, const char *where, int32_t id,
                                const char *text) {
    struct nb_tokenizer *t = l->t;
    if (t->texts[id].p)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: \"%s\" has id %d, which \"%s\" has too", where,
                       nb_shown_text(text).text, id, nb_shown_text(t->texts[id].p).text);
    size_t n = strlen(text);
    char *copy = nb_arena_string(&t->arena, text, n);
    if (!copy)
        return nb_loader_no_memory(l, where);
    t->texts[id] = (struct nb_text){copy, (uint32_t)n};
    int32_t found = nb_text_map_add(&t->by_text, (uint32_t)id);
    if (found < 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: tokens are made to collide, at \"%s\"", where,
                       nb_shown_text(text).text);
    if (found != id)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s: \"%s\" has ids %d and %d", where,
                       nb_shown_text(text).text, found, id);
    return NB_OK;
}

static enum nb_status load_vocab(struct nb_json_loader *l, const json_t *vocab) {
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

/* word_texts: what the model's tokens stand for. */
static enum nb_status load_words(struct nb_json_loader *l) {
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
            if (!nb_from_alphabet(l, &t->texts[id], &bytes))
                continue;
            *word = (struct nb_text){nb_arena_string(&t->arena, bytes.data, bytes.len),
                                     (uint32_t)bytes.len};
        }
        if (bytes.failed || !word->p)
            s = nb_loader_no_memory(l, "model.vocab");
        else if (nb_text_map_add(&t->words, (uint32_t)id) < 0)
            s = nb_fail(l->err, NB_ERR_FORMAT, "model.vocab: tokens are made to collide, at \"%s\"",
                        nb_shown_text(t->texts[id].p).text);
    }
    nb_buf_free(&bytes);
    return s;
}

static enum nb_status load_added_token(struct nb_json_loader *l, const json_t *object,
                                       const char *where, struct nb_added *a) {
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

static enum nb_status load_added(struct nb_json_loader *l, const json_t *added) {
    struct nb_tokenizer *t = l->t;
    size_t n = json_array_size(added);
    if (n > MAX_ADDED)
        return nb_fail(l->err, NB_ERR_LIMIT, "added_tokens has %zu tokens, expected at most %d", n,
                       MAX_ADDED);
    t->added = nb_arena_alloc(&t->arena, n, sizeof *t->added);
    if (!t->added)
        return nb_loader_no_memory(l, "added_tokens");
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < n && s == NB_OK; i++)
        s = load_added_token(l, json_array_get(added, i), nb_where_element("added_tokens", i).text,
                             &t->added[t->n_added++]);
    return s;
}

/* Enters an added token where it will be looked for: the raw text, or the normalized. */
static enum nb_status plant(struct nb_json_loader *l, size_t i) {
    struct nb_tokenizer *t = l->t;
    const struct nb_added *a = &t->added[i];
    struct nb_buf text = {0}, other = {0};
    nb_buf_add(&text, a->content.p, a->content.n);
    enum nb_status s = NB_OK;
    if (a->normalized)
        s = nb_normalize(t->normalizers, t->n_normalizers, (struct nb_place){true, false}, &text,
                         &other, l->err);
    if (s == NB_OK && text.failed) /* or the token would never be recognised */
        s = nb_loader_no_memory(l, "added_tokens");
    if (s == NB_OK && text.len > NB_ADDED_MAX_BYTES)
        s = nb_fail(l->err, NB_ERR_LIMIT, "added_tokens[%zu] has %zu bytes, expected at most %d", i,
                    text.len, NB_ADDED_MAX_BYTES);
    struct nb_added_tree *tree = a->normalized ? &t->normalized : &t->raw;
    if (s == NB_OK && text.len &&
        !nb_added_tree_add(tree, (struct nb_text){text.data, (uint32_t)text.len}, (int32_t)i,
                           a->special))
        s = nb_loader_no_memory(l, "added_tokens");
    nb_buf_free(&text);
    nb_buf_free(&other);
    return s;
}

static enum nb_status plant_added(struct nb_json_loader *l) {
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
static enum nb_status find_piece(struct nb_json_loader *l, const char *text, size_t n,
                                 int32_t *id) {
    *id = n ? nb_text_map_find(&l->t->by_text, text, n) : -1;
    if (*id >= 0)
        return NB_OK;
    return nb_fail(l->err, NB_ERR_FORMAT, "\"%s\" is not in model.vocab", nb_show(text, n).text);
}

/* The two sides of a merge: "a b", or ["a", "b"]. */
static enum nb_status merge_sides(struct nb_json_loader *l, const json_t *merge,
                                  struct nb_text side[2]) {
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

static enum nb_status load_merge(struct nb_json_loader *l, const json_t *merge, uint32_t rank,
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

static enum nb_status load_merges(struct nb_json_loader *l, const json_t *merges) {
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

static enum nb_status load_fallback(struct nb_json_loader *l) {
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
static enum nb_status load_symbols(struct nb_json_loader *l) {
    struct nb_tokenizer *t = l->t;
    for (int32_t id = 0; id < l->n_vocab; id++) {
        const struct nb_text *text = &t->word_texts[id];
        uint32_t cp;
        if (l->byte_level && text->n == 1)
            t->bpe.byte_symbols[(unsigned char)text->p[0]] = id;
        if (!l->byte_level && text->n && nb_utf8_decode(text->p, text->n, &cp) == text->n &&
            !nb_bpe_set_symbol(&t->bpe, cp, id))
            return nb_loader_no_memory(l, "model.vocab");
    }
    return NB_OK;
}

static bool has_all_bytes(const struct nb_json_loader *l) {
    for (int b = 0; b < 256; b++) {
        if (l->t->bpe.byte_symbols[b] < 0)
            return false;
    }
    return true;
}

/* Fields that change what a BPE model does and that no language model in use sets. */
static enum nb_status refuse_model_options(struct nb_json_loader *l, const json_t *model) {
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
                        nb_shown_text(text).text);
    }
    return s;
}

/* What becomes of characters that are no symbols. */
static enum nb_status load_unknown(struct nb_json_loader *l, const json_t *model) {
    struct nb_bpe *bpe = &l->t->bpe;
    const char *text = NULL;
    enum nb_status s = nb_json_bool(model, "byte_fallback", &bpe->byte_fallback, "model", l->err);
    if (s == NB_OK)
        s = nb_json_bool(model, "fuse_unk", &bpe->fuse_unknown, "model", l->err);
    if (s == NB_OK)
        s = nb_json_string(model, "unk_token", &text, "model", l->err);
    if (s != NB_OK)
        return s;
    if (l->byte_level && has_all_bytes(l)) {
        bpe->byte_fallback =
            false; /* whatever is said: nothing is unknown, no token stands for it */
        return NB_OK;
    }
    if (bpe->byte_fallback && l->byte_level)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED,
                       "model.byte_fallback is true for a ByteLevel vocabulary without some bytes");
    if (bpe->byte_fallback)
        return load_fallback(l);
    if (text)
        s = find_piece(l, text, strlen(text), &bpe->unknown);
    return s == NB_OK ? s : nb_fail_prefix(l->err, s, "model.unk_token");
}

static enum nb_status load_model(struct nb_json_loader *l, const json_t *model,
                                 const json_t *merges) {
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

/* ---- The file ---- */

static enum nb_status load_root(struct nb_json_loader *l, const json_t *root) {
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    const char *type;
    enum nb_status s = get_type(l, model, "model", &type);
    if (s != NB_OK)
        return s;
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    if (strcmp(type, "BPE") != 0 && (*type || !merges))
        return nb_loader_unsupported(l, "model", type, "BPE");
    if (!json_is_object(vocab))
        return nb_loader_wrong_type(l, "model.vocab", vocab, "an object");
    if (!json_is_array(merges))
        return nb_loader_wrong_type(l, "model.merges", merges, "an array");
    if (added && !json_is_null(added) && !json_is_array(added))
        return nb_loader_wrong_type(l, "added_tokens", added, "an array");
    s = measure(l, vocab, added);
    if (s == NB_OK)
        s = nb_tokenizer_allocate(l->t, l->err);
    if (s == NB_OK)
        s = load_vocab(l, vocab);
    if (s == NB_OK)
        s = nb_load_text_steps(l, root);
    if (s == NB_OK)
        s = load_model(l, model, merges);
    if (s == NB_OK)
        s = load_added(l, added);
    if (s == NB_OK)
        s = plant_added(l);
    if (s == NB_OK)
        s = nb_load_processor(l, json_object_get(root, "post_processor"));
    if (s == NB_OK)
        s = nb_load_decoder(l, json_object_get(root, "decoder"));
    return s;
}

enum nb_status nb_tokenizer_load_json(struct nb_tokenizer *t, const char *bytes, size_t n,
                                      const char *name, struct nb_error *err) {
    json_t *root;
    enum nb_status s = nb_json_parse(bytes, n, name, &root, err);
    if (s != NB_OK)
        return s;
    struct nb_json_loader l = {.t = t, .err = err};
    for (uint32_t cp = 0; cp < sizeof l.bytes_of / sizeof *l.bytes_of; cp++)
        l.bytes_of[cp] = (int16_t)alphabet_byte(cp);
    s = load_root(&l, root);
    json_decref(root);
    return s == NB_OK ? NB_OK : nb_fail_prefix(err, s, "%s", name);
}
