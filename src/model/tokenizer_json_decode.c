/* tokenizer.json: the post-processor, which puts tokens around a text, and the decoder. */
#include "model/tokenizer_json.h"

enum { MAX_TEMPLATE_IDS = 1024 };

/* ---- The post-processor ---- */

struct template {
    int32_t ids[2][MAX_TEMPLATE_IDS]; /* before the text, and after */
    size_t n[2];
    bool has_text;
};

/* Appends special_tokens[name].ids. */
static enum nb_status add_template_ids(struct nb_json_loader *l, const json_t *specials,
                                       const char *name, struct template *out) {
    struct nb_where at = nb_where_field("post_processor.special_tokens", nb_shown_text(name).text);
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return nb_loader_wrong_type(l, nb_where_field(at.text, "ids").text, ids, "an array");
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

static enum nb_status template_part(struct nb_json_loader *l, const json_t *part, const char *where,
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
static enum nb_status wrap(struct nb_json_loader *l, const struct template *part) {
    struct nb_tokenizer *t = l->t;
    int32_t *prefix = nb_arena_alloc(&t->arena, part->n[0] + t->n_prefix, sizeof *prefix);
    int32_t *suffix = nb_arena_alloc(&t->arena, part->n[1] + t->n_suffix, sizeof *suffix);
    if (!prefix || !suffix)
        return nb_loader_no_memory(l, "post_processor");
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
static enum nb_status named_id(struct nb_json_loader *l, const json_t *object, const char *where,
                               const char *key, int32_t *out) {
    const json_t *pair = json_object_get(object, key), *id = json_array_get(pair, 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= l->t->size)
        return nb_fail(l->err, NB_ERR_FORMAT, "%s is not [text, id] of a token",
                       nb_where_field(where, key).text);
    *out = (int32_t)json_integer_value(id);
    return NB_OK;
}

static enum nb_status bert_processor(struct nb_json_loader *l, const json_t *object,
                                     const char *where) {
    struct template parts = {.n = {1, 1}};
    enum nb_status s = named_id(l, object, where, "cls", &parts.ids[0][0]);
    if (s == NB_OK)
        s = named_id(l, object, where, "sep", &parts.ids[1][0]);
    return s == NB_OK ? wrap(l, &parts) : s;
}

static enum nb_status processor_step(struct nb_json_loader *l, const json_t *object,
                                     const char *where, const char *type) {
    if (strcmp(type, "ByteLevel") == 0)
        return NB_OK; /* it moves offsets, not ids */
    if (strcmp(type, "RobertaProcessing") == 0 || strcmp(type, "BertProcessing") == 0)
        return bert_processor(l, object, where);
    if (strcmp(type, "TemplateProcessing") != 0)
        return nb_loader_unsupported(l, where, type,
                                     "TemplateProcessing, RobertaProcessing, BertProcessing, "
                                     "ByteLevel and Sequence");
    struct nb_where at = nb_where_field(where, "single");
    const json_t *single = json_object_get(object, "single");
    if (!json_is_array(single))
        return nb_loader_wrong_type(l, at.text, single, "an array");
    struct template parts = {0};
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < json_array_size(single) && s == NB_OK; i++)
        s = template_part(l, json_array_get(single, i), nb_where_element(at.text, i).text,
                          json_object_get(object, "special_tokens"), &parts);
    if (s == NB_OK && !parts.has_text)
        s = nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s has no Sequence \"A\"", at.text);
    return s == NB_OK ? wrap(l, &parts) : s;
}

enum nb_status nb_load_processor(struct nb_json_loader *l, const json_t *processor) {
    return nb_loader_each_step(l, processor, "post_processor", "processors", processor_step);
}

/* ---- The decoder ---- */

/* How far a chain of decoders has come: token by token, then bytes joined, then the whole text. */
enum stage { STAGE_TOKENS, STAGE_BYTES, STAGE_FUSED, STAGE_STRIPPED };

struct decoder_chain {
    struct nb_json_loader l; /* first, so that a step can have both */
    enum stage stage;
    bool byte_fallback;
    bool byte_level;
    struct {
        struct nb_text pattern, content;
    } replace[NB_LOADER_MAX_STEPS];
    size_t n_replace;
};

static enum nb_status misplaced(struct nb_json_loader *l, const char *where, const char *type) {
    return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s: nibble does no %s at this place of a decoder",
                   where, type);
}

static enum nb_status add_replace(struct decoder_chain *c, const char *where,
                                  struct nb_text pattern, struct nb_text content) {
    if (c->n_replace == NB_LOADER_MAX_STEPS)
        return nb_fail(c->l.err, NB_ERR_LIMIT, "%s: more than %d steps", where,
                       NB_LOADER_MAX_STEPS);
    c->replace[c->n_replace].pattern = pattern;
    c->replace[c->n_replace++].content = content;
    return NB_OK;
}

static enum nb_status decode_strip(struct nb_json_loader *l, const json_t *object,
                                   const char *where) {
    struct nb_decoding *d = &l->t->decoding;
    int64_t start = 0, stop = 0;
    enum nb_status s = nb_loader_mark(l, object, where, "content", &d->strip);
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
    enum nb_status s = nb_loader_mark(&c->l, object, where, "replacement", &mark);
    if (s == NB_OK)
        s = nb_loader_prepend(&c->l, object, where, &prepend);
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
    enum nb_status s = nb_loader_pattern(&c->l, object, where, &pattern, &regex);
    if (regex) {
        nb_regex_free(regex);
        return nb_fail(c->l.err, NB_ERR_UNSUPPORTED, "%s.pattern is a Regex; nibble does a String",
                       where);
    }
    if (s == NB_OK)
        s = nb_loader_text(&c->l, object, where, "content", &content);
    return s == NB_OK ? add_replace(c, where, pattern, content) : s;
}

static enum nb_status decoder_step(struct nb_json_loader *l, const json_t *object,
                                   const char *where, const char *type) {
    struct decoder_chain *c = (struct decoder_chain *)l;
    enum stage stage = c->stage;
    if (strcmp(type, "Replace") == 0)
        return stage > STAGE_TOKENS || l->t->decoding.mark.n ? misplaced(l, where, type)
                                                             : decode_replace(c, object, where);
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
    return nb_loader_unsupported(l, where, type,
                                 "ByteLevel, Replace, Metaspace, ByteFallback, Fuse, Strip and "
                                 "Sequence");
}

/* bytes[id] and its flag, by the steps of the chain that look at one token. */
static enum nb_status decode_token(const struct decoder_chain *c, int32_t id, struct nb_buf *text,
                                   struct nb_buf *other) {
    struct nb_tokenizer *t = c->l.t;
    size_t most = 16 * (size_t)t->texts[id].n + 64;
    t->bytes[id] = t->texts[id];
    for (size_t i = 0; i < c->n_replace; i++) {
        nb_buf_clear(other);
        nb_replace_text(t->bytes[id].p, t->bytes[id].n, c->replace[i].pattern,
                        c->replace[i].content, most, other);
        if (other->len > most)
            return nb_fail(c->l.err, NB_ERR_LIMIT, "decoder makes more than %zu bytes of \"%s\"",
                           most, nb_shown_text(t->texts[id].p).text);
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
    if (c->byte_level && nb_from_alphabet(&c->l, &t->bytes[id], other))
        t->bytes[id] = (struct nb_text){other->data ? other->data : "", (uint32_t)other->len};
    if (t->bytes[id].p != t->texts[id].p)
        t->bytes[id].p = nb_arena_string(&t->arena, t->bytes[id].p, t->bytes[id].n);
    if (!t->bytes[id].p || text->failed || other->failed)
        return nb_fail(c->l.err, NB_ERR_MEMORY, "decoder: out of memory");
    return NB_OK;
}

enum nb_status nb_load_decoder(struct nb_json_loader *l, const json_t *decoder) {
    struct nb_tokenizer *t = l->t;
    struct decoder_chain c = {.l = *l};
    t->decoding.spaced = !decoder || json_is_null(decoder);
    enum nb_status s = nb_loader_each_step(&c.l, decoder, "decoder", "decoders", decoder_step);
    struct nb_buf text = {0}, other = {0};
    for (int32_t id = 0; id < t->size && s == NB_OK; id++) {
        if (t->texts[id].p)
            s = decode_token(&c, id, &text, &other);
    }
    nb_buf_free(&text);
    nb_buf_free(&other);
    return s;
}
