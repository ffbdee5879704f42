#include "model/tokenizer_text.h"

#include "base/room.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <utf8proc.h>

void nb_pieces_free(struct nb_pieces *pieces) {
    nb_buf_free(&pieces->text);
    free(pieces->ends);
    *pieces = (struct nb_pieces){0};
}

static bool begins_with(const char *text, size_t n, struct nb_text with) {
    return n >= with.n && memcmp(text, with.p, with.n) == 0;
}

/* The character at text[0..n), n > 0; its length in *length, 1 if it is none. */
static uint32_t character_at(const char *text, size_t n, size_t *length) {
    uint32_t cp = 0xFFFD;
    *length = nb_utf8_decode(text, n, &cp);
    if (!*length)
        *length = 1;
    return cp;
}

/* ---- Normalizers ---- */

/* The usual case, ' ' by "▁". */
static void replace_byte(const char *text, size_t n, char byte, struct nb_text content, size_t most,
                         struct nb_buf *out) {
    char stage[4096];
    size_t used = 0;
    for (size_t i = 0; i < n && out->len <= most; i++) {
        if (used + content.n >= sizeof stage) {
            nb_buf_add(out, stage, used);
            used = 0;
        }
        if (text[i] != byte) {
            stage[used++] = text[i];
        } else if (content.n < sizeof stage) {
            memcpy(stage + used, content.p, content.n);
            used += content.n;
        } else {
            nb_buf_add(out, content.p, content.n);
        }
    }
    nb_buf_add(out, stage, used);
}

void nb_replace_text(const char *text, size_t n, struct nb_text pattern, struct nb_text content,
                     size_t most, struct nb_buf *out) {
    if (pattern.n == 1) {
        replace_byte(text, n, pattern.p[0], content, most, out);
        return;
    }
    while (n && out->len <= most) {
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

static enum nb_status replace_matches(const struct nb_regex *regex, const struct nb_buf *text,
                                      struct nb_text content, size_t most, struct nb_buf *out,
                                      struct nb_error *err) {
    struct nb_regex_walk walk = {.regex = regex, .text = text->data, .n = text->len};
    size_t done = 0;
    while (out->len <= most && nb_regex_next(&walk, err)) {
        nb_buf_add(out, text->data + done, walk.begin - done);
        nb_buf_add(out, content.p, content.n);
        done = walk.end;
    }
    nb_buf_add(out, text->data + done, text->len - done);
    nb_regex_walk_end(&walk);
    return walk.status;
}

static bool is_ascii(const struct nb_buf *text) {
    for (size_t i = 0; i < text->len; i++) {
        if ((unsigned char)text->data[i] >= 0x80)
            return false;
    }
    return true;
}

static void compose(const struct nb_buf *text, int options, struct nb_buf *out) {
    if (is_ascii(text)) { /* none of the forms changes it */
        nb_buf_add(out, text->data, text->len);
        return;
    }
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->len, &mapped,
                     (utf8proc_option_t)(options | UTF8PROC_STABLE));
    if (n >= 0)
        nb_buf_add(out, mapped, (size_t)n);
    else
        out->failed = true;
    free(mapped);
}

static bool is_mark(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

/* What SentencePiece's nmt rules and the normalizer Nmt do to one character: 0 drops it. */
static uint32_t nmt_character(uint32_t cp) {
    if ((cp >= 0x01 && cp <= 0x08) || cp == 0x0B || (cp >= 0x0E && cp <= 0x1F) || cp == 0x7F ||
        cp == 0x8F || cp == 0x9F)
        return 0;
    if (cp == 0x09 || cp == 0x0A || cp == 0x0C || cp == 0x0D || cp == 0x1680 ||
        (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
        cp == 0xFEFF || cp == 0xFFFD)
        return ' ';
    return cp;
}

static void map_characters(enum nb_normalizer_kind kind, const struct nb_buf *text,
                           struct nb_buf *out) {
    size_t length;
    for (size_t i = 0; i < text->len; i += length) {
        uint32_t cp = character_at(text->data + i, text->len - i, &length), to = cp;
        if (kind == NB_NORMALIZE_LOWERCASE) {
            if (cp == 0x130) { /* the one lower case of two characters */
                nb_buf_add_string(out, "i\xCC\x87");
                continue;
            }
            to = (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
        } else if (kind == NB_NORMALIZE_STRIP_ACCENTS) {
            if (is_mark(cp))
                continue;
        } else {
            to = nmt_character(cp);
            if (to == 0 && cp != 0)
                continue;
        }
        if (to == cp)
            nb_buf_add(out, text->data + i, length);
        else
            nb_buf_add_utf8(out, to);
    }
}

static void strip(const struct nb_normalizer *step, const struct nb_buf *text, struct nb_buf *out) {
    size_t begin = 0, end = text->len, length;
    while (step->left && begin < end &&
           nb_is_white_space(character_at(text->data + begin, end - begin, &length)))
        begin += length;
    while (step->right && begin < end) {
        size_t last = end - 1;
        while (last > begin && ((unsigned char)text->data[last] & 0xC0) == 0x80)
            last--;
        if (!nb_is_white_space(character_at(text->data + last, end - last, &length)))
            break;
        end = last;
    }
    nb_buf_add(out, text->data + begin, end - begin);
}

static enum nb_status normalize_step(const struct nb_normalizer *step, struct nb_place place,
                                     const struct nb_buf *text, size_t most, struct nb_buf *out,
                                     struct nb_error *err) {
    switch (step->kind) {
    case NB_NORMALIZE_PREPEND:
        if (text->len && !place.continues)
            nb_buf_add(out, step->content.p, step->content.n);
        nb_buf_add(out, text->data, text->len);
        break;
    case NB_NORMALIZE_REPLACE:
        if (step->regex)
            return replace_matches(step->regex, text, step->content, most, out, err);
        nb_replace_text(text->data, text->len, step->pattern, step->content, most, out);
        break;
    case NB_NORMALIZE_NFC:
        compose(text, UTF8PROC_COMPOSE, out);
        break;
    case NB_NORMALIZE_NFD:
        compose(text, UTF8PROC_DECOMPOSE, out);
        break;
    case NB_NORMALIZE_NFKC:
        compose(text, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, out);
        break;
    case NB_NORMALIZE_NFKD:
        compose(text, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, out);
        break;
    case NB_NORMALIZE_LOWERCASE:
    case NB_NORMALIZE_STRIP_ACCENTS:
    case NB_NORMALIZE_NMT:
        map_characters(step->kind, text, out);
        break;
    case NB_NORMALIZE_STRIP:
        strip(step, text, out);
        break;
    case NB_NORMALIZE_SPM:
        nb_spm_normalize(&step->spm, place, text->data, text->len, out);
        break;
    }
    return NB_OK;
}

enum nb_status nb_normalize(const struct nb_normalizer *steps, size_t n_steps,
                            struct nb_place place, struct nb_buf *text, struct nb_buf *other,
                            struct nb_error *err) {
    /* Compatibility forms grow 18 times at the most, " " to "▁" 3 times. */
    size_t most = 64 * text->len + 4096;
    for (size_t i = 0; i < n_steps && !text->failed && text->len; i++) {
        nb_buf_clear(other);
        enum nb_status s = normalize_step(&steps[i], place, text, most, other, err);
        if (s == NB_OK && other->len > most)
            s = nb_fail(err, NB_ERR_LIMIT, "normalization makes more than %zu bytes of text", most);
        if (s != NB_OK)
            return s;
        struct nb_buf swap = *text;
        *text = *other;
        *other = swap;
    }
    return text->failed ? nb_fail_memory(err, text->len, "normalized text") : NB_OK;
}

/* ---- Splitters ---- */

static void end_piece(struct nb_pieces *pieces) {
    if (pieces->text.len == (pieces->n ? pieces->ends[pieces->n - 1] : 0))
        return; /* empty pieces are dropped */
    if (!nb_room(&pieces->ends, pieces->n, &pieces->cap, sizeof *pieces->ends)) {
        pieces->text.failed = true;
        return;
    }
    pieces->ends[pieces->n++] = pieces->text.len;
}

static void split_metaspace(const struct nb_splitter *step, struct nb_place place, const char *text,
                            size_t n, struct nb_pieces *out) {
    struct nb_text mark = step->mark;
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

static bool is_punctuation(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    bool ascii = cp > 0x20 && cp < 0x7F && !((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z') &&
                 !(cp >= '0' && cp <= '9');
    return ascii || (c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO);
}

static bool is_found(enum nb_find find, uint32_t cp) {
    if (find == NB_FIND_WHITE_SPACE)
        return nb_is_white_space(cp);
    if (find == NB_FIND_PUNCTUATION)
        return is_punctuation(cp);
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

/* The next thing that a splitter finds, from walk->from on, in walk->begin and end. */
static bool find_next(const struct nb_splitter *step, struct nb_regex_walk *w,
                      struct nb_error *err) {
    if (step->find == NB_FIND_REGEX)
        return nb_regex_next(w, err);
    if (step->find == NB_FIND_TEXT) {
        const char *found = memmem(w->text + w->from, w->n - w->from, step->mark.p, step->mark.n);
        w->begin = found ? (size_t)(found - w->text) : w->n;
        w->from = w->end = w->begin + step->mark.n;
        return found;
    }
    for (size_t length; w->from < w->n;) {
        uint32_t cp = character_at(w->text + w->from, w->n - w->from, &length);
        w->begin = w->from;
        w->from = w->end = w->from + length;
        if (is_found(step->find, cp))
            return true;
    }
    return false;
}

/* Adds the next stretch of a text, which was found or lies between, to the pieces; `after_found` is
 * whether the stretch before was found. */
static void add_stretch(enum nb_split_behavior behavior, const char *text, size_t n, bool found,
                        bool after_found, struct nb_pieces *out) {
    bool joins = false; /* the piece before */
    switch (behavior) {
    case NB_SPLIT_REMOVED:
        out->cut |= found && n && !out->text.len;
        n = found ? 0 : n;
        break;
    case NB_SPLIT_ISOLATED:
        break;
    case NB_SPLIT_MERGED_WITH_PREVIOUS:
        joins = found && !after_found;
        break;
    case NB_SPLIT_MERGED_WITH_NEXT:
        joins = !found && after_found;
        break;
    case NB_SPLIT_CONTIGUOUS:
        joins = found == after_found;
        break;
    }
    if (!joins)
        end_piece(out);
    nb_buf_add(&out->text, text, n);
}

static enum nb_status split_matches(const struct nb_splitter *step, const char *text, size_t n,
                                    struct nb_pieces *out, struct nb_error *err) {
    struct nb_regex_walk walk = {.regex = step->regex, .text = text, .n = n};
    size_t done = 0;
    bool after_found = false;
    while (find_next(step, &walk, err)) {
        if (walk.begin > done) {
            add_stretch(step->behavior, text + done, walk.begin - done, step->invert, after_found,
                        out);
            after_found = step->invert;
        }
        add_stretch(step->behavior, text + walk.begin, walk.end - walk.begin, !step->invert,
                    after_found, out);
        after_found = !step->invert;
        done = walk.end;
    }
    if (done < n)
        add_stretch(step->behavior, text + done, n - done, step->invert, after_found, out);
    end_piece(out);
    nb_regex_walk_end(&walk);
    return walk.status;
}

static enum nb_status split_step(const struct nb_splitter *step, struct nb_place place,
                                 const char *text, size_t n, struct nb_pieces *out,
                                 struct nb_error *err) {
    switch (step->kind) {
    case NB_SPLIT_METASPACE:
        split_metaspace(step, place, text, n, out);
        break;
    case NB_SPLIT_MATCHES:
        return split_matches(step, text, n, out, err);
    case NB_SPLIT_PREFIX_SPACE:
        if (!place.continues && text[0] != ' ')
            nb_buf_add(&out->text, " ", 1);
        nb_buf_add(&out->text, text, n);
        end_piece(out);
        break;
    }
    return NB_OK;
}

static void clear_pieces(struct nb_pieces *pieces) {
    nb_buf_clear(&pieces->text);
    pieces->n = 0;
    pieces->cut = false;
}

enum nb_status nb_split(const struct nb_splitter *steps, size_t n_steps, struct nb_place place,
                        const char *text, size_t n, struct nb_pieces *pieces,
                        struct nb_pieces *other, struct nb_error *err) {
    enum nb_status s = NB_OK;
    clear_pieces(pieces);
    nb_buf_add(&pieces->text, text, n);
    end_piece(pieces);
    for (size_t i = 0; i < n_steps && !pieces->text.failed && s == NB_OK; i++) {
        /* Behind what was removed nothing is first. */
        place.first &= !pieces->cut;
        clear_pieces(other);
        for (size_t k = 0, begin = 0; k < pieces->n && s == NB_OK; begin = pieces->ends[k++]) {
            struct nb_place here = {place.first && k == 0, place.continues && k == 0};
            s = split_step(&steps[i], here, pieces->text.data + begin, pieces->ends[k] - begin,
                           other, err);
        }
        struct nb_pieces swap = *pieces;
        *pieces = *other;
        *other = swap;
    }
    if (s == NB_OK && pieces->text.failed)
        s = nb_fail_memory(err, n, "pieces of text");
    return s;
}
