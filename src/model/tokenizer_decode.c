#include "model/tokenizer_impl.h"

#include "base/utf8.h"

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

static bool begins_with(const char *text, size_t n, struct nb_text with) {
    return with.n && n >= with.n && memcmp(text, with.p, with.n) == 0;
}

void nb_decoder_start(struct nb_decoder *d, const struct nb_tokenizer *tokenizer) {
    *d = (struct nb_decoder){.tokenizer = tokenizer, .strip_left = tokenizer->decoding.strip_max};
}

/* Writes whole characters, without those that the start of the text is stripped of. */
static void emit(struct nb_decoder *d, const char *text, size_t n, struct nb_buf *out) {
    struct nb_text strip = d->tokenizer->decoding.strip;
    while (n && d->strip_left) {
        if (!begins_with(text, n, strip)) {
            d->strip_left = 0;
            break;
        }
        d->strip_left--;
        text += strip.n;
        n -= strip.n;
    }
    d->started |= n > 0;
    nb_buf_add(out, text, n);
}

/* Ends a run of byte tokens, which is text as a whole or not at all. */
static void flush_run(struct nb_decoder *d, struct nb_buf *out) {
    struct nb_buf *run = &d->pending;
    if (run->len && nb_utf8_valid(run->data, run->len, NULL)) {
        emit(d, run->data, run->len, out);
    } else {
        for (size_t i = 0; i < run->len; i++)
            emit(d, replacement, sizeof replacement - 1, out);
    }
    out->failed |= run->failed;
    nb_buf_clear(run);
}

/* How much of text[0..n), which is no character, one U+FFFD stands for: the longest start of a
 * character, or one byte. *cut: the text ends there, and more could make it a character. */
static size_t ill_formed(const unsigned char *s, size_t n, bool *cut) {
    *cut = false;
    size_t length = s[0] >= 0xC2 && s[0] <= 0xDF   ? 2
                    : s[0] >= 0xE0 && s[0] <= 0xEF ? 3
                    : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                                   : 1;
    unsigned char low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
    unsigned char high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
    for (size_t i = 1; i < length; i++) {
        if (i == n) {
            *cut = true;
            return n;
        }
        if (s[i] < low || s[i] > high)
            return i;
        low = 0x80, high = 0xBF;
    }
    return 1;
}

/* Writes what of `pending` is decided; all of it at the `end`. SentencePiece has U+FFFD for every
 * byte that is no character, others for as many as begin one. */
static void flush_bytes(struct nb_decoder *d, bool end, struct nb_buf *out) {
    struct nb_buf *p = &d->pending;
    size_t i = 0;
    while (i < p->len) {
        size_t good = p->len - i;
        nb_utf8_valid(p->data + i, p->len - i, &good);
        emit(d, p->data + i, good, out);
        i += good;
        if (i == p->len)
            break;
        bool cut;
        size_t n = ill_formed((const unsigned char *)p->data + i, p->len - i, &cut);
        if (cut && !end)
            break;
        emit(d, replacement, sizeof replacement - 1, out);
        i += d->tokenizer->decoding.kind == NB_DECODE_PIECES ? 1 : n;
    }
    out->failed |= p->failed;
    size_t left = p->len - i;
    if (left)
        memmove(p->data, p->data + i, left);
    p->len = left;
}

/* The first token without the marks in it. */
static void emit_unmarked(struct nb_decoder *d, struct nb_text text, struct nb_buf *out) {
    struct nb_text mark = d->tokenizer->decoding.mark;
    struct nb_buf kept = {0};
    nb_replace_text(text.p, text.n, mark, (struct nb_text){"", 0}, SIZE_MAX, &kept);
    emit(d, kept.data, kept.len, out);
    out->failed |= kept.failed;
    nb_buf_free(&kept);
}

/* A token of NB_DECODE_PIECES. */
static void add_piece(struct nb_decoder *d, int32_t id, struct nb_buf *out) {
    const struct nb_tokenizer *t = d->tokenizer;
    struct nb_text bytes = t->bytes[id];
    flush_bytes(d, true, out);
    if (t->flags[id] & NB_TOKEN_SPECIAL)
        return;
    if (!d->started && begins_with(t->texts[id].p, t->texts[id].n, t->decoding.mark)) {
        bytes.p++; /* the mark has become a space */
        bytes.n--;
        d->started = !t->decoding.squeezed;
    }
    emit(d, bytes.p, bytes.n, out);
}

/* A token of NB_DECODE_RUNS that is not a byte. */
static void add_text(struct nb_decoder *d, int32_t id, struct nb_buf *out) {
    const struct nb_tokenizer *t = d->tokenizer;
    bool first = !d->started;
    flush_run(d, out);
    d->started = true;
    if (t->decoding.spaced && !first)
        emit(d, " ", 1, out);
    if (t->decoding.mark.n && first)
        emit_unmarked(d, t->texts[id], out);
    else
        emit(d, t->bytes[id].p, t->bytes[id].n, out);
}

void nb_decoder_add(struct nb_decoder *d, int32_t id, struct nb_buf *out) {
    const struct nb_tokenizer *t = d->tokenizer;
    enum nb_decoding_kind kind = t->decoding.kind;
    if (id < 0 || id >= t->size || !t->texts[id].p)
        return;
    if (t->flags[id] & NB_TOKEN_SPECIAL && kind != NB_DECODE_PIECES)
        return;
    if (kind == NB_DECODE_BYTES || t->flags[id] & NB_TOKEN_BYTE) {
        nb_buf_add(&d->pending, t->bytes[id].p, t->bytes[id].n);
        if (kind != NB_DECODE_RUNS)
            flush_bytes(d, false, out);
        else
            d->started = true;
    } else if (kind == NB_DECODE_PIECES) {
        add_piece(d, id, out);
    } else {
        add_text(d, id, out);
    }
}

void nb_decoder_finish(struct nb_decoder *d, struct nb_buf *out) {
    if (d->tokenizer->decoding.kind == NB_DECODE_RUNS)
        flush_run(d, out);
    else
        flush_bytes(d, true, out);
    nb_buf_free(&d->pending);
    nb_decoder_start(d, d->tokenizer);
}

enum nb_status nb_tokenizer_decode(const struct nb_tokenizer *t, const int32_t *ids, size_t n,
                                   struct nb_buf *out, struct nb_error *err) {
    struct nb_decoder d;
    nb_decoder_start(&d, t);
    for (size_t i = 0; i < n; i++)
        nb_decoder_add(&d, ids[i], out);
    nb_decoder_finish(&d, out);
    return out->failed ? nb_fail_memory(err, out->len, "decoded text") : NB_OK;
}
