#include "model/tokenizer_impl.h"

#include "base/file.h"
#include "base/room.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    MAX_FILE_BYTES = 256 << 20,
    MAX_TEXT_BYTES = 1 << 29, /* so that normalization rarely takes it beyond 2^31 */
};

bool nb_tokens_add(struct nb_tokens *tokens, int32_t id) {
    if (!nb_room(&tokens->ids, tokens->n, &tokens->cap, sizeof *tokens->ids))
        return false;
    tokens->ids[tokens->n++] = id;
    return true;
}

void nb_tokens_free(struct nb_tokens *tokens) {
    free(tokens->ids);
    *tokens = (struct nb_tokens){0};
}

/* Whether bytes begin as a JSON object does. A SentencePiece model begins with a line feed (the tag
 * of its first piece) and a length; were that a brace, 123, what follows would still give it away.
 */
static bool is_json(const char *bytes, size_t n) {
    size_t i = 0;
    while (i < n && memchr(" \t\r\n", bytes[i], 4))
        i++;
    if (i == n || bytes[i] != '{')
        return false;
    for (i++; i < n && memchr(" \t\r\n", bytes[i], 4);)
        i++;
    return i == n || bytes[i] == '"' || bytes[i] == '}';
}

enum nb_status nb_tokenizer_allocate(struct nb_tokenizer *t, struct nb_error *err) {
    size_t n = (size_t)t->size;
    t->texts = nb_arena_alloc(&t->arena, n, sizeof *t->texts);
    t->bytes = nb_arena_alloc(&t->arena, n, sizeof *t->bytes);
    t->flags = nb_arena_alloc(&t->arena, n, sizeof *t->flags);
    t->word_texts = nb_arena_alloc(&t->arena, n, sizeof *t->word_texts);
    if (!t->texts || !t->bytes || !t->flags || !t->word_texts ||
        !nb_text_map_init(&t->by_text, t->texts, n) ||
        !nb_text_map_init(&t->words, t->word_texts, n))
        return nb_fail_memory(err, n * 64, "the vocabulary");
    return NB_OK;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int nb_fallback_byte(const char *text, size_t n) {
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

struct nb_shown nb_show(const char *text, size_t n) {
    struct nb_shown s;
    size_t all = n, max = sizeof s.text - 4;
    if (n > max) {
        for (n = max; n && ((unsigned char)text[n] & 0xC0) == 0x80;)
            n--;
    }
    snprintf(s.text, sizeof s.text, "%.*s%s", (int)n, text, n < all ? "…" : "");
    return s;
}

enum nb_status nb_tokenizer_open_bytes(const char *bytes, size_t n, const char *name,
                                       struct nb_tokenizer **out, struct nb_error *err) {
    *out = NULL;
    struct nb_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return nb_fail_memory(err, sizeof *t, name);
    enum nb_status s = is_json(bytes, n) ? nb_tokenizer_load_json(t, bytes, n, name, err)
                                         : nb_tokenizer_load_spm(t, bytes, n, name, err);
    if (s == NB_OK)
        *out = t;
    else
        nb_tokenizer_close(t);
    return s;
}

enum nb_status nb_tokenizer_open(const char *path, struct nb_tokenizer **out,
                                 struct nb_error *err) {
    *out = NULL;
    struct nb_buf bytes = {0};
    enum nb_status s = nb_read_regular_file(path, MAX_FILE_BYTES, &bytes, err);
    if (s == NB_OK)
        s = nb_tokenizer_open_bytes(bytes.data ? bytes.data : "", bytes.len, path, out, err);
    nb_buf_free(&bytes);
    return s;
}

void nb_tokenizer_close(struct nb_tokenizer *t) {
    if (!t)
        return;
    for (size_t i = 0; i < t->n_normalizers; i++)
        nb_regex_free(t->normalizers[i].regex);
    for (size_t i = 0; i < t->n_splitters; i++)
        nb_regex_free(t->splitters[i].regex);
    nb_text_map_free(&t->by_text);
    nb_text_map_free(&t->words);
    nb_bpe_free(&t->bpe);
    nb_added_tree_free(&t->raw);
    nb_added_tree_free(&t->normalized);
    nb_arena_free(&t->arena);
    free(t);
}

int32_t nb_tokenizer_size(const struct nb_tokenizer *t) {
    return t->size;
}

int32_t nb_tokenizer_find(const struct nb_tokenizer *t, const char *text) {
    return nb_text_map_find(&t->by_text, text, strlen(text));
}

const char *nb_tokenizer_bytes(const struct nb_tokenizer *t, int32_t id, size_t *n) {
    if (id < 0 || id >= t->size || !t->texts[id].p || t->flags[id] & NB_TOKEN_SPECIAL) {
        *n = 0;
        return "";
    }
    *n = t->bytes[id].n;
    return t->bytes[id].p;
}

bool nb_tokenizer_is_special(const struct nb_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && t->flags[id] & NB_TOKEN_SPECIAL;
}

/* ---- Encoding ---- */

/* What one call works with. */
struct encoding {
    const struct nb_tokenizer *t;
    unsigned flags;
    struct nb_tokens *out;
    struct nb_buf text, other;      /* normalized */
    struct nb_pieces pieces, spare; /* split */
    struct nb_bpe_scratch scratch;
    struct nb_error *err;
};

static enum nb_status add_id(struct encoding *e, int32_t id) {
    if (nb_tokens_add(e->out, id))
        return NB_OK;
    return nb_fail_memory(e->err, e->out->n * sizeof id, "token ids");
}

static enum nb_status encode_words(struct encoding *e, struct nb_place place, const char *text,
                                   size_t n) {
    const struct nb_tokenizer *t = e->t;
    if (n == 0)
        return NB_OK;
    if (t->n_splitters == 0)
        return nb_bpe_encode(&t->bpe, &e->scratch, text, n, e->out, e->err);
    enum nb_status s =
        nb_split(t->splitters, t->n_splitters, place, text, n, &e->pieces, &e->spare, e->err);
    const struct nb_pieces *p = &e->pieces;
    for (size_t i = 0, begin = 0; i < p->n && s == NB_OK; begin = p->ends[i++])
        s = nb_bpe_encode(&t->bpe, &e->scratch, p->text.data + begin, p->ends[i] - begin, e->out,
                          e->err);
    return s;
}

typedef enum nb_status (*part_fn)(struct encoding *e, struct nb_place place, const char *text,
                                  size_t n);

/* Calls `plain` for each part of text between the added tokens of `tree`, whose ids it appends. */
static enum nb_status around_added(struct encoding *e, const struct nb_added_tree *tree,
                                   struct nb_place place, const char *text, size_t n,
                                   part_fn plain) {
    const struct nb_tokenizer *t = e->t;
    size_t at = 0, taken = 0;
    struct nb_added_match m;
    enum nb_status s = NB_OK;
    while (s == NB_OK &&
           nb_added_find(tree, t->added, text, n, e->flags & NB_ENCODE_SPECIAL, taken, &at, &m)) {
        struct nb_place here = {place.first && taken == 0, place.continues && taken == 0};
        if (taken < m.begin)
            s = plain(e, here, text + taken, m.begin - taken);
        if (s == NB_OK)
            s = add_id(e, t->added[m.token].id);
        taken = m.end;
    }
    struct nb_place here = {place.first && taken == 0, place.continues && taken == 0};
    if (s == NB_OK && taken < n)
        s = plain(e, here, text + taken, n - taken);
    return s;
}

static enum nb_status encode_raw_part(struct encoding *e, struct nb_place place, const char *text,
                                      size_t n) {
    const struct nb_tokenizer *t = e->t;
    if (t->n_normalizers) {
        nb_buf_clear(&e->text);
        nb_buf_add(&e->text, text, n);
        enum nb_status s =
            nb_normalize(t->normalizers, t->n_normalizers, place, &e->text, &e->other, e->err);
        if (s != NB_OK)
            return s;
        text = e->text.data;
        n = e->text.len;
    }
    return around_added(e, &t->normalized, place, text, n, encode_words);
}

static enum nb_status encode_text(struct encoding *e, const char *text, size_t n) {
    const struct nb_tokenizer *t = e->t;
    enum nb_status s = NB_OK;
    bool template = e->flags & NB_ENCODE_TEMPLATE;
    for (size_t i = 0; template && i < t->n_prefix && s == NB_OK; i++)
        s = add_id(e, t->prefix[i]);
    if (s == NB_OK) {
        struct nb_place place = {true, e->flags & NB_ENCODE_CONTINUE};
        s = around_added(e, &t->raw, place, text, n, encode_raw_part);
    }
    for (size_t i = 0; template && i < t->n_suffix && s == NB_OK; i++)
        s = add_id(e, t->suffix[i]);
    return s;
}

enum nb_status nb_tokenizer_encode(const struct nb_tokenizer *t, const char *text, size_t n,
                                   unsigned flags, struct nb_tokens *out, struct nb_error *err) {
    size_t bad = 0, held = out->n;
    if (n > MAX_TEXT_BYTES)
        return nb_fail(err, NB_ERR_LIMIT, "text of %zu bytes: at most %d can be tokenized at once",
                       n, MAX_TEXT_BYTES);
    if (!nb_utf8_valid(text, n, &bad))
        return nb_fail(err, NB_ERR_FORMAT,
                       "text is not UTF-8 at byte %zu (0x%02X); another encoding is converted, for "
                       "example, with: iconv -f WINDOWS-1252 -t UTF-8",
                       bad, (unsigned char)text[bad]);
    struct encoding e = {.t = t, .flags = flags, .out = out, .err = err};
    enum nb_status s = nb_bpe_remember(&e.scratch, n, err);
    if (s == NB_OK)
        s = encode_text(&e, text, n);
    nb_buf_free(&e.text);
    nb_buf_free(&e.other);
    nb_pieces_free(&e.pieces);
    nb_pieces_free(&e.spare);
    nb_bpe_scratch_free(&e.scratch);
    if (s != NB_OK)
        out->n = held;
    return s;
}
