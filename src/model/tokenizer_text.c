#include "model/tokenizer_text.h"

#include <stdlib.h>

void nb_pieces_free(struct nb_pieces *pieces) {
    nb_buf_free(&pieces->text);
    free(pieces->ends);
    *pieces = (struct nb_pieces){0};
}

static void swap_bufs(struct nb_buf *a, struct nb_buf *b) {
    struct nb_buf t = *a;
    *a = *b;
    *b = t;
}

void nb_replace_text(const char *text, size_t n, struct nb_text pattern, struct nb_text content,
                     struct nb_buf *out) {
    while (n) {
        const char *found = memmem(text, n, pattern.p, pattern.n);
        size_t before = found ? (size_t)(found - text) : n;
        nb_buf_add(out, text, before);
        if (!found)
            return;
        nb_buf_add(out, content.p, content.n);
        text += before + pattern.n;
        n -= before + pattern.n;
    }
}

static void normalize_step(const struct nb_normalizer *step, struct nb_place place,
                           const struct nb_buf *text, struct nb_buf *out) {
    switch (step->kind) {
    case NB_NORMALIZE_PREPEND:
        if (text->len && !place.continues)
            nb_buf_add(out, step->content.p, step->content.n);
        nb_buf_add(out, text->data, text->len);
        break;
    case NB_NORMALIZE_REPLACE:
        nb_replace_text(text->data, text->len, step->pattern, step->content, out);
        break;
    }
}

enum nb_status nb_normalize(const struct nb_normalizer *steps, size_t n_steps,
                            struct nb_place place, struct nb_buf *text, struct nb_buf *other,
                            struct nb_error *err) {
    for (size_t i = 0; i < n_steps && !text->failed; i++) {
        nb_buf_clear(other);
        normalize_step(&steps[i], place, text, other);
        swap_bufs(text, other);
    }
    return text->failed ? nb_fail_memory(err, text->len, "normalized text") : NB_OK;
}

static void end_piece(struct nb_pieces *pieces) {
    if (pieces->text.len == (pieces->n ? pieces->ends[pieces->n - 1] : 0))
        return; /* empty pieces are dropped */
    if (pieces->n == pieces->cap) {
        size_t cap = pieces->cap ? 2 * pieces->cap : 64;
        size_t *ends = realloc(pieces->ends, cap * sizeof *ends);
        if (!ends) {
            pieces->text.failed = true;
            return;
        }
        pieces->ends = ends;
        pieces->cap = cap;
    }
    pieces->ends[pieces->n++] = pieces->text.len;
}

static bool begins_with(const char *text, size_t n, struct nb_text with) {
    return n >= with.n && memcmp(text, with.p, with.n) == 0;
}

static void split_metaspace(const struct nb_splitter *step, struct nb_place place, const char *text,
                            size_t n, struct nb_pieces *out) {
    struct nb_text mark = step->replacement;
    bool marked = n && (text[0] == ' ' || begins_with(text, n, mark));
    bool prepend =
        step->prepend == NB_PREPEND_ALWAYS || (step->prepend == NB_PREPEND_FIRST && place.first);
    if (!marked && prepend && !place.continues)
        nb_buf_add(&out->text, mark.p, mark.n);
    for (size_t i = 0; i < n;) {
        size_t length = text[i] == ' ' ? 1 : begins_with(text + i, n - i, mark) ? mark.n : 0;
        if (length) {
            if (step->split)
                end_piece(out);
            nb_buf_add(&out->text, mark.p, mark.n);
            i += length;
            continue;
        }
        size_t plain = i + 1;
        while (plain < n && text[plain] != ' ' && text[plain] != mark.p[0])
            plain++;
        nb_buf_add(&out->text, text + i, plain - i);
        i = plain;
    }
    end_piece(out);
}

static void split_step(const struct nb_splitter *step, struct nb_place place, const char *text,
                       size_t n, struct nb_pieces *out) {
    switch (step->kind) {
    case NB_SPLIT_METASPACE:
        split_metaspace(step, place, text, n, out);
        break;
    }
}

static void clear_pieces(struct nb_pieces *pieces) {
    nb_buf_clear(&pieces->text);
    pieces->n = 0;
}

enum nb_status nb_split(const struct nb_splitter *steps, size_t n_steps, struct nb_place place,
                        const char *text, size_t n, struct nb_pieces *pieces,
                        struct nb_pieces *other, struct nb_error *err) {
    clear_pieces(pieces);
    nb_buf_add(&pieces->text, text, n);
    end_piece(pieces);
    for (size_t i = 0; i < n_steps && !pieces->text.failed; i++) {
        clear_pieces(other);
        for (size_t k = 0, begin = 0; k < pieces->n; begin = pieces->ends[k++]) {
            struct nb_place here = {place.first && k == 0, place.continues && k == 0};
            split_step(&steps[i], here, pieces->text.data + begin, pieces->ends[k] - begin, other);
        }
        struct nb_pieces t = *pieces;
        *pieces = *other;
        *other = t;
    }
    return pieces->text.failed ? nb_fail_memory(err, n, "pieces of text") : NB_OK;
}
