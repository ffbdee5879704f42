/* Reads a SentencePiece tokenizer.model: a protocol buffer, sentencepiece_model.proto's ModelProto.
 * SentencePiece's BPE merges the neighbours whose joined text is the piece of the best score, so
 * every way to cut a piece in two becomes a merge of that piece's rank. */
#include "model/tokenizer_impl.h"

#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_PIECE_BYTES = 512 }; /* to cut a piece everywhere takes the square of it */

enum piece_type {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6,
};

struct piece {
    struct nb_text text; /* in the file's bytes */
    float score;
    int type;
    uint32_t rank; /* among the pieces that merges make */
};

struct loader {
    struct nb_tokenizer *t;
    struct nb_error *err;
    struct piece *pieces; /* [t->size] */
    uint64_t model_type;  /* 1 unigram, 2 BPE, 3 words, 4 characters */
    uint64_t byte_fallback, space_as_suffix;
    uint64_t dummy_prefix, squeeze, escape;
    struct nb_text charsmap, denormalizer, unknown_surface, begin_piece;
    struct piece **ranked; /* the pieces that merges make, best first */
    size_t n_ranked, n_merges;
};

/* ---- Protocol buffers ---- */

struct reader {
    const char *p, *end;
    bool bad;
};

struct record {
    uint32_t field;
    unsigned wire;        /* 0: a number, 2: bytes, 5: 32 bits, 1: 64 bits */
    uint64_t number;      /* of wires 0, 1 and 5 */
    struct nb_text bytes; /* of wire 2 */
};

static uint64_t read_varint(struct reader *r) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->p == r->end)
            break;
        unsigned char byte = (unsigned char)*r->p++;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (!(byte & 0x80))
            return value;
    }
    r->bad = true;
    return 0;
}

static uint64_t read_fixed(struct reader *r, unsigned bytes) {
    uint64_t value = 0;
    if ((size_t)(r->end - r->p) < bytes) {
        r->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)(unsigned char)*r->p++ << 8 * i;
    return value;
}

/* The next record of a message; false at its end, or with r->bad set. */
static bool read_record(struct reader *r, struct record *out) {
    if (r->p == r->end || r->bad)
        return false;
    uint64_t tag = read_varint(r);
    *out = (struct record){.field = (uint32_t)(tag >> 3), .wire = tag & 7};
    if (out->wire == 0) {
        out->number = read_varint(r);
    } else if (out->wire == 1 || out->wire == 5) {
        out->number = read_fixed(r, out->wire == 1 ? 8 : 4);
    } else if (out->wire == 2) {
        uint64_t n = read_varint(r);
        r->bad = r->bad || n > (uint64_t)(r->end - r->p);
        if (!r->bad) {
            out->bytes = (struct nb_text){r->p, (uint32_t)n};
            r->p += n;
        }
    } else {
        r->bad = true; /* groups: no message here has any */
    }
    return !r->bad;
}

/* Where a field of a message goes: a number to *number, bytes to *bytes. */
struct field {
    uint32_t number;
    uint64_t *value;
    struct nb_text *bytes;
};

static enum nb_status read_message(struct loader *l, struct nb_text message, const char *name,
                                   const struct field *fields, size_t n) {
    struct reader r = {message.p, message.p + message.n, false};
    struct record rec;
    while (read_record(&r, &rec)) {
        for (size_t i = 0; i < n; i++) {
            if (fields[i].number != rec.field)
                continue;
            if (rec.wire != (fields[i].bytes ? 2u : 0u))
                return nb_fail(l->err, NB_ERR_FORMAT, "%s: field %u has another type", name,
                               rec.field);
            if (fields[i].bytes)
                *fields[i].bytes = rec.bytes;
            else
                *fields[i].value = rec.number;
        }
    }
    return r.bad ? nb_fail(l->err, NB_ERR_FORMAT, "%s is cut or damaged", name) : NB_OK;
}

/* ---- The messages ---- */

static enum nb_status read_piece(struct loader *l, struct nb_text message, int32_t id) {
    struct piece *piece = &l->pieces[id];
    struct reader r = {message.p, message.p + message.n, false};
    struct record rec;
    piece->type = TYPE_NORMAL;
    while (read_record(&r, &rec)) {
        if (rec.field == 1 && rec.wire == 2) {
            piece->text = rec.bytes;
        } else if (rec.field == 2 && rec.wire == 5) {
            uint32_t bits = (uint32_t)rec.number;
            memcpy(&piece->score, &bits, sizeof bits);
        } else if (rec.field == 3 && rec.wire == 0) {
            piece->type = rec.number > TYPE_BYTE ? 0 : (int)rec.number;
        } else if (rec.field <= 3) {
            r.bad = true;
        }
    }
    if (r.bad || piece->type == 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "pieces[%d] is damaged", id);
    struct nb_text text = piece->text;
    if (text.n == 0 || text.n > MAX_PIECE_BYTES || memchr(text.p, 0, text.n) ||
        !nb_utf8_valid(text.p, text.n, NULL))
        return nb_fail(l->err, NB_ERR_FORMAT,
                       "pieces[%d].piece is not UTF-8 of 1 to %d bytes without NUL", id,
                       MAX_PIECE_BYTES);
    if (!isfinite(piece->score))
        return nb_fail(l->err, NB_ERR_FORMAT, "pieces[%d].score is not a number", id);
    return NB_OK;
}

static enum nb_status read_trainer(struct loader *l, struct nb_text message) {
    const struct field fields[] = {
        {3, &l->model_type, NULL},     {24, &l->space_as_suffix, NULL},
        {35, &l->byte_fallback, NULL}, {44, NULL, &l->unknown_surface},
        {46, NULL, &l->begin_piece},
    };
    return read_message(l, message, "trainer_spec", fields, sizeof fields / sizeof *fields);
}

static enum nb_status read_normalizer(struct loader *l, struct nb_text message) {
    const struct field fields[] = {
        {2, NULL, &l->charsmap},
        {3, &l->dummy_prefix, NULL},
        {4, &l->squeeze, NULL},
        {5, &l->escape, NULL},
    };
    return read_message(l, message, "normalizer_spec", fields, sizeof fields / sizeof *fields);
}

static enum nb_status count_pieces(struct loader *l, struct nb_text file) {
    struct reader r = {file.p, file.p + file.n, false};
    struct record rec;
    int32_t n = 0;
    while (read_record(&r, &rec))
        n += rec.field == 1 && rec.wire == 2 && n < NB_BPE_MAX_IDS;
    if (r.bad || n == 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "neither a tokenizer.json nor a SentencePiece model");
    if (n >= NB_BPE_MAX_IDS / 4)
        return nb_fail(l->err, NB_ERR_LIMIT, "pieces: expected fewer than %d", NB_BPE_MAX_IDS / 4);
    l->t->size = n;
    l->pieces = calloc((size_t)n, sizeof *l->pieces);
    l->ranked = calloc((size_t)n, sizeof *l->ranked);
    return l->pieces && l->ranked ? NB_OK : nb_fail_memory(l->err, (size_t)n * 40, "pieces");
}

static enum nb_status read_file(struct loader *l, struct nb_text file) {
    struct reader r = {file.p, file.p + file.n, false};
    struct record rec;
    int32_t id = 0;
    const struct field denormalizer[] = {{2, NULL, &l->denormalizer}};
    enum nb_status s = count_pieces(l, file);
    while (s == NB_OK && read_record(&r, &rec)) {
        if (rec.wire != 2)
            continue;
        if (rec.field == 1)
            s = read_piece(l, rec.bytes, id++);
        else if (rec.field == 2)
            s = read_trainer(l, rec.bytes);
        else if (rec.field == 3)
            s = read_normalizer(l, rec.bytes);
        else if (rec.field == 5)
            s = read_message(l, rec.bytes, "denormalizer_spec", denormalizer, 1);
    }
    return s;
}

static enum nb_status refuse_options(struct loader *l) {
    if (l->model_type != 2)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED,
                       "trainer_spec.model_type is %llu; nibble does 2, BPE",
                       (unsigned long long)l->model_type);
    if (l->space_as_suffix)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED,
                       "trainer_spec.treat_whitespace_as_suffix is "
                       "true; nibble does false");
    if (l->denormalizer.n)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED,
                       "denormalizer_spec.precompiled_charsmap is not empty; nibble does none");
    return NB_OK;
}

/* ---- The vocabulary ---- */

/* Whether merges work on a piece of this type. */
static bool merges_type(int type) {
    return type == TYPE_NORMAL;
}

static enum nb_status load_piece(struct loader *l, int32_t id) {
    struct nb_tokenizer *t = l->t;
    const struct piece *piece = &l->pieces[id];
    char *copy = nb_arena_string(&t->arena, piece->text.p, piece->text.n);
    if (!copy)
        return nb_fail_memory(l->err, piece->text.n, "a piece");
    t->texts[id] = (struct nb_text){copy, piece->text.n};
    if (nb_text_map_add(&t->by_text, (uint32_t)id) != id)
        return nb_fail(l->err, NB_ERR_FORMAT, "pieces[%d].piece: \"%s\" is there twice", id,
                       nb_show(copy, piece->text.n).text);
    if (piece->type == TYPE_UNUSED)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED, "pieces[%d].type is UNUSED; nibble does none",
                       id);
    if (merges_type(piece->type)) {
        t->word_texts[id] = t->texts[id];
        if (nb_text_map_add(&t->words, (uint32_t)id) < 0)
            return nb_fail(l->err, NB_ERR_FORMAT, "pieces are made to collide");
    }
    if (piece->type == TYPE_CONTROL)
        t->flags[id] |= NB_TOKEN_SPECIAL;
    return NB_OK;
}

static enum nb_status load_vocabulary(struct loader *l) {
    enum nb_status s = nb_tokenizer_allocate(l->t, l->err);
    for (int32_t id = 0; id < l->t->size && s == NB_OK; id++)
        s = load_piece(l, id);
    return s;
}

/* Control symbols are looked for in the text itself, user-defined ones once it is normalized. */
static enum nb_status load_added(struct loader *l) {
    struct nb_tokenizer *t = l->t;
    t->added = nb_arena_alloc(&t->arena, (size_t)t->size, sizeof *t->added);
    if (!t->added)
        return nb_fail_memory(l->err, (size_t)t->size * sizeof *t->added, "symbols");
    for (int32_t id = 0; id < t->size; id++) {
        int type = l->pieces[id].type;
        if (type != TYPE_CONTROL && type != TYPE_USER_DEFINED)
            continue;
        bool control = type == TYPE_CONTROL;
        if (t->texts[id].n > NB_ADDED_MAX_BYTES)
            return nb_fail(l->err, NB_ERR_LIMIT,
                           "pieces[%d] is a symbol of %u bytes, expected at "
                           "most %d",
                           id, t->texts[id].n, NB_ADDED_MAX_BYTES);
        t->added[t->n_added] = (struct nb_added){
            .content = t->texts[id], .id = id, .special = control, .normalized = !control};
        if (!nb_added_tree_add(control ? &t->raw : &t->normalized, t->texts[id],
                               (int32_t)t->n_added++, control))
            return nb_fail_memory(l->err, 64, "symbols");
    }
    return NB_OK;
}

/* ---- Merges ---- */

static size_t character_length(const struct nb_text *text, size_t at) {
    uint32_t cp;
    return nb_utf8_decode(text->p + at, text->n - at, &cp);
}

/* The symbol for text[0..n), a piece or a single character, or -1. */
static int32_t find_side(const struct loader *l, const char *text, size_t n) {
    int32_t id = nb_text_map_find(&l->t->words, text, n);
    uint32_t cp;
    if (id < 0 && nb_utf8_decode(text, n, &cp) == n)
        id = nb_bpe_symbol(&l->t->bpe, cp);
    return id;
}

/* Visits each way to cut a piece in two parts that can be neighbours: counts them, or adds them as
 * merges. */
static enum nb_status cut_piece(struct loader *l, const struct piece *piece, bool add,
                                size_t *count) {
    const struct nb_text *text = &piece->text;
    int32_t id = (int32_t)(piece - l->pieces);
    for (size_t at = character_length(text, 0); at < text->n; at += character_length(text, at)) {
        int32_t left = find_side(l, text->p, at);
        int32_t right = find_side(l, text->p + at, text->n - at);
        if (left < 0 || right < 0)
            continue;
        ++*count;
        if (add && !nb_bpe_add_merge(&l->t->bpe, left, right, id, piece->rank))
            return nb_fail(l->err, NB_ERR_FORMAT, "pieces are made to collide");
    }
    return NB_OK;
}

static int by_score(const void *a, const void *b) {
    const struct piece *x = *(struct piece *const *)a, *y = *(struct piece *const *)b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Sorts the pieces that merges make, and counts the merges. */
static enum nb_status rank_pieces(struct loader *l) {
    for (int32_t id = 0; id < l->t->size; id++) {
        size_t cuts = 0;
        if (merges_type(l->pieces[id].type))
            cut_piece(l, &l->pieces[id], false, &cuts);
        if (cuts)
            l->ranked[l->n_ranked++] = &l->pieces[id];
        l->n_merges += cuts;
    }
    if (l->n_merges > NB_BPE_MAX_MERGES)
        return nb_fail(l->err, NB_ERR_LIMIT, "pieces make %zu merges, expected at most %d",
                       l->n_merges, NB_BPE_MAX_MERGES);
    if (l->n_ranked)
        qsort(l->ranked, l->n_ranked, sizeof *l->ranked, by_score);
    for (size_t i = 1; i < l->n_ranked; i++)
        l->ranked[i]->rank =
            l->ranked[i - 1]->rank + (l->ranked[i]->score < l->ranked[i - 1]->score);
    return NB_OK;
}

/* Gives every character that is part of a piece and no piece itself a virtual symbol: SentencePiece
 * merges such characters too. */
static bool add_virtuals(struct nb_bpe *bpe, const struct nb_text *text) {
    uint32_t cp;
    for (size_t at = 0; at < text->n; at += nb_utf8_decode(text->p + at, text->n - at, &cp)) {
        nb_utf8_decode(text->p + at, text->n - at, &cp);
        if (nb_bpe_symbol(bpe, cp) < 0 && !nb_bpe_add_virtual(bpe, cp))
            return false;
    }
    return true;
}

/* Pieces of one character are symbols. */
static enum nb_status load_symbols(struct loader *l) {
    const struct nb_text *texts = l->t->word_texts;
    bool fits = true;
    uint32_t cp;
    for (int32_t id = 0; id < l->t->size && fits; id++) {
        if (texts[id].n && nb_utf8_decode(texts[id].p, texts[id].n, &cp) == texts[id].n)
            fits = nb_bpe_set_symbol(&l->t->bpe, cp, id);
    }
    for (int32_t id = 0; id < l->t->size && fits; id++)
        fits = add_virtuals(&l->t->bpe, &texts[id]);
    return fits ? NB_OK : nb_fail_memory(l->err, 1024, "symbols");
}

static enum nb_status load_unknown(struct loader *l) {
    struct nb_bpe *bpe = &l->t->bpe;
    bpe->byte_fallback = l->byte_fallback;
    bpe->fuse_unknown = true;
    for (int32_t id = 0; id < l->t->size; id++) {
        const struct nb_text *text = &l->t->texts[id];
        int byte = l->pieces[id].type == TYPE_BYTE ? nb_fallback_byte(text->p, text->n) : -1;
        if (byte >= 0)
            bpe->fallback[byte] = id;
        else if (l->pieces[id].type == TYPE_BYTE)
            return nb_fail(l->err, NB_ERR_FORMAT, "pieces[%d] is \"%s\", expected <0x00> to <0xFF>",
                           id, nb_show(text->p, text->n).text);
        if (l->pieces[id].type == TYPE_UNKNOWN)
            bpe->unknown = id;
    }
    for (int b = 0; b < 256 && bpe->byte_fallback; b++) {
        if (bpe->fallback[b] < 0)
            return nb_fail(l->err, NB_ERR_FORMAT,
                           "trainer_spec.byte_fallback is true, but no piece is <0x%02X>",
                           (unsigned)b);
    }
    if (bpe->unknown < 0)
        return nb_fail(l->err, NB_ERR_FORMAT, "no piece is of type UNKNOWN");
    if (bpe->byte_fallback)
        bpe->unknown = -1;
    return NB_OK;
}

static enum nb_status load_model(struct loader *l) {
    struct nb_bpe *bpe = &l->t->bpe;
    nb_bpe_init(bpe, (size_t)l->t->size);
    enum nb_status s = load_symbols(l);
    if (s == NB_OK)
        s = rank_pieces(l);
    if (s == NB_OK)
        s = nb_bpe_make_room(bpe, l->n_merges, l->err);
    for (size_t i = 0, count = 0; i < l->n_ranked && s == NB_OK; i++)
        s = cut_piece(l, l->ranked[i], true, &count);
    if (s == NB_OK)
        s = load_unknown(l);
    if (s == NB_OK)
        s = nb_bpe_finish(bpe, &l->t->words, l->err);
    return s;
}

/* ---- Normalization, decoding ---- */

static enum nb_status load_charsmap(struct loader *l, struct nb_spm_rules *rules) {
    struct nb_text map = l->charsmap;
    if (map.n == 0)
        return NB_OK;
    struct reader r = {map.p, map.p + map.n, false};
    uint64_t units_bytes = read_fixed(&r, 4);
    const char *copy = nb_arena_string(&l->t->arena, map.p, map.n);
    if (r.bad || units_bytes >= map.n - 4 || units_bytes % 4)
        return nb_fail(l->err, NB_ERR_FORMAT, "normalizer_spec.precompiled_charsmap is damaged");
    if (!copy)
        return nb_fail_memory(l->err, map.n, "the character map");
    rules->units = (struct nb_text){copy + 4, (uint32_t)units_bytes};
    rules->strings = (struct nb_text){copy + 4 + units_bytes, map.n - 4 - (uint32_t)units_bytes};
    if (!nb_utf8_valid(rules->strings.p, rules->strings.n, NULL))
        return nb_fail(l->err, NB_ERR_FORMAT,
                       "normalizer_spec.precompiled_charsmap has values that are not UTF-8");
    return NB_OK;
}

static enum nb_status load_normalizer(struct loader *l) {
    struct nb_tokenizer *t = l->t;
    t->normalizers = nb_arena_alloc(&t->arena, 1, sizeof *t->normalizers);
    if (!t->normalizers)
        return nb_fail_memory(l->err, sizeof *t->normalizers, "the normalizer");
    t->n_normalizers = 1;
    struct nb_normalizer *step = &t->normalizers[0];
    step->kind = NB_NORMALIZE_SPM;
    step->spm.dummy_prefix = l->dummy_prefix;
    step->spm.squeeze = l->squeeze;
    step->spm.escape = l->escape;
    step->spm.symbols = t->normalized.n ? &t->normalized : NULL;
    return load_charsmap(l, &step->spm);
}

static enum nb_status load_decoder(struct loader *l) {
    static const struct nb_text mark = {"\xE2\x96\x81", 3}, space = {" ", 1};
    struct nb_tokenizer *t = l->t;
    struct nb_buf text = {0};
    t->decoding.kind = NB_DECODE_PIECES;
    t->decoding.squeezed = l->squeeze;
    if (l->dummy_prefix || l->squeeze)
        t->decoding.mark = mark;
    for (int32_t id = 0; id < t->size; id++) {
        int type = l->pieces[id].type;
        char byte = (char)nb_fallback_byte(t->texts[id].p, t->texts[id].n);
        nb_buf_clear(&text);
        if (type == TYPE_BYTE)
            nb_buf_add(&text, &byte, 1);
        else if (type == TYPE_UNKNOWN)
            nb_buf_add(&text, l->unknown_surface.p, l->unknown_surface.n);
        else
            nb_replace_text(t->texts[id].p, t->texts[id].n, mark, space, SIZE_MAX, &text);
        t->flags[id] |= type == TYPE_BYTE ? NB_TOKEN_BYTE : 0;
        t->bytes[id].p = nb_arena_string(&t->arena, text.data ? text.data : "", text.len);
        t->bytes[id].n = (uint32_t)text.len;
        if (text.failed || !t->bytes[id].p)
            break;
    }
    bool failed = text.failed || !t->bytes[t->size - 1].p;
    nb_buf_free(&text);
    return failed ? nb_fail_memory(l->err, (size_t)t->size, "decoded pieces") : NB_OK;
}

static enum nb_status load_template(struct loader *l) {
    struct nb_tokenizer *t = l->t;
    int32_t id = nb_text_map_find(&t->by_text, l->begin_piece.p, l->begin_piece.n);
    if (id < 0 || l->pieces[id].type != TYPE_CONTROL)
        return NB_OK;
    t->prefix = nb_arena_alloc(&t->arena, 1, sizeof *t->prefix);
    if (!t->prefix)
        return nb_fail_memory(l->err, sizeof *t->prefix, "the template");
    t->prefix[t->n_prefix++] = id;
    return NB_OK;
}

static enum nb_status load(struct loader *l, struct nb_text file) {
    enum nb_status s = read_file(l, file);
    if (s == NB_OK)
        s = refuse_options(l);
    if (s == NB_OK && !nb_utf8_valid(l->unknown_surface.p, l->unknown_surface.n, NULL))
        s = nb_fail(l->err, NB_ERR_FORMAT, "trainer_spec.unk_surface is not UTF-8");
    if (s == NB_OK)
        s = load_vocabulary(l);
    if (s == NB_OK)
        s = load_model(l);
    if (s == NB_OK)
        s = load_added(l);
    if (s == NB_OK)
        s = load_normalizer(l);
    if (s == NB_OK)
        s = load_decoder(l);
    if (s == NB_OK)
        s = load_template(l);
    return s;
}

enum nb_status nb_tokenizer_load_spm(struct nb_tokenizer *t, const char *bytes, size_t n,
                                     const char *name, struct nb_error *err) {
    struct loader l = {
        .t = t,
        .err = err,
        .model_type = 1,
        .dummy_prefix = 1,
        .squeeze = 1,
        .escape = 1,
        .unknown_surface = {" \xE2\x81\x87 ", 5},
        .begin_piece = {"<s>", 3},
    };
    enum nb_status s = load(&l, (struct nb_text){bytes, (uint32_t)n});
    free(l.pieces);
    free(l.ranked);
    return s == NB_OK ? NB_OK : nb_fail_prefix(err, s, "%s", name);
}
