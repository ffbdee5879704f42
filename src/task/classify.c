/* Classification: a document to its type and fields. The program writes the frame of a JSON object,
 * token by token, and the model the values between; the type is chosen by comparing the
 * probabilities of all labels. A checkpoint made for this has a token "<|answer|>" that ends the
 * document, and may have a labels.txt; another one is asked in words. */
#include "base/clock.h"
#include "base/file.h"
#include "document/document.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "model/json.h"
#include "task/fields.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* Kept free beside what an answer's parts take, tokenized each on its own: joined they may take
     * more, and so may what a string's last token holds before the quote. */
    SPARE_TOKENS = 32,
    MIN_DOCUMENT_TOKENS = 16,
    MAX_LABELS = 64,
    MAX_LABEL_BYTES = 64,
};

/* The fields in the order of the answer, and the most tokens that the model may write for each. */
enum field { PARTY, DATE, CURRENCY, TOTAL, N_FIELDS };
static const struct {
    const char *key;
    int max_tokens;
} fields[N_FIELDS] = {{"party", 64}, {"date", 16}, {"currency", 8}, {"total", 20}};

static const char answer_token[] = "<|answer|>";
static const char default_labels[] = "receipt\ninvoice\ncredit_note\nother\n";

/* One answer being made. */
struct answer {
    struct nb_engine *engine;
    struct nb_sequence sequence;
    struct nb_buf label_text; /* the labels' text, each ended by a NUL */
    const char *labels[MAX_LABELS];
    int n_labels;
    struct nb_tokens prompt, scratch;
    struct nb_buf frame; /* text that is decided but not yet given to the model */
    bool continues;      /* the frame goes on from text that the model has read */
    float *logits;       /* after the last token that the model has read */
    bool truncated;
};

/* ---- labels ------------------------------------------------------------------------------------
 */

/* Cuts label_text into lines. Labels are lower-case words, joined by underscores. */
static enum nb_status split_labels(struct answer *a, const char *name, struct nb_error *err) {
    char *save = NULL;
    for (char *line = strtok_r(a->label_text.data, "\r\n", &save); line;
         line = strtok_r(NULL, "\r\n", &save)) {
        size_t n = strlen(line);
        if (n > MAX_LABEL_BYTES || strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789_") != n)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: label \"%.64s\" is not 1 to %d characters of a-z, 0-9 and _", name,
                           line, MAX_LABEL_BYTES);
        if (a->n_labels == MAX_LABELS)
            return nb_fail(err, NB_ERR_LIMIT, "%s: more than %d labels", name, MAX_LABELS);
        for (int i = 0; i < a->n_labels; i++) {
            if (strcmp(a->labels[i], line) == 0)
                return nb_fail(err, NB_ERR_FORMAT, "%s: label \"%s\" is there twice", name, line);
        }
        a->labels[a->n_labels++] = line;
    }
    if (a->n_labels == 0)
        return nb_fail(err, NB_ERR_FORMAT, "%s: has no labels", name);
    return NB_OK;
}

static enum nb_status read_labels(struct answer *a, struct nb_error *err) {
    char path[PATH_MAX];
    if (nb_path_join(path, sizeof path, a->engine->folder, "labels.txt") && nb_is_file(path)) {
        enum nb_status s = nb_read_file(path, 64 * 1024, &a->label_text, err);
        if (s != NB_OK)
            return s;
        nb_buf_add(&a->label_text, "", 0);
    } else {
        snprintf(path, sizeof path, "labels");
        nb_buf_add_string(&a->label_text, default_labels);
    }
    if (a->label_text.failed)
        return nb_fail_memory(err, a->label_text.len, path);
    if (strlen(a->label_text.data) != a->label_text.len)
        return nb_fail(err, NB_ERR_FORMAT, "%s: byte %zu is NUL, expected lines of text", path,
                       strlen(a->label_text.data));
    return split_labels(a, path, err);
}

/* ---- the prompt --------------------------------------------------------------------------------
 */

static enum nb_status encode(struct answer *a, const char *text, size_t n, unsigned flags,
                             struct nb_tokens *out, struct nb_error *err) {
    return nb_tokenizer_encode(a->engine->tokenizer, text, n, flags, out, err);
}

/* The same for text that the answer needs: no tokens at all is an error. */
static enum nb_status encode_some(struct answer *a, const char *text, size_t n, unsigned flags,
                                  struct nb_tokens *out, struct nb_error *err) {
    size_t before = out->n;
    enum nb_status s = encode(a, text, n, flags, out, err);
    if (s == NB_OK && out->n == before)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: the tokenizer has no tokens for %.*s",
                    a->engine->folder, (int)n, text);
    return s;
}

/* The most tokens that the answer can take. */
static enum nb_status count_answer(struct answer *a, size_t *n, struct nb_error *err) {
    static const char start[] = "{\"document_type\":\"";
    struct nb_tokens tokens = {0};
    size_t longest = 0;
    enum nb_status s = NB_OK;
    for (int i = 0; i < a->n_labels && s == NB_OK; i++) {
        tokens.n = 0;
        s = encode_some(a, a->labels[i], strlen(a->labels[i]), NB_ENCODE_CONTINUE, &tokens, err);
        longest = tokens.n > longest ? tokens.n : longest;
    }
    tokens.n = 0;
    if (s == NB_OK)
        s = encode_some(a, start, sizeof start - 1, 0, &tokens, err);
    *n = longest + SPARE_TOKENS;
    for (int i = 0; i < N_FIELDS && s == NB_OK; i++) {
        char piece[64];
        int len = snprintf(piece, sizeof piece, "\",\"%s\":\"", fields[i].key);
        s = encode_some(a, piece, (size_t)len, NB_ENCODE_CONTINUE, &tokens, err);
        *n += (size_t)fields[i].max_tokens;
    }
    *n += tokens.n;
    nb_tokens_free(&tokens);
    return s;
}

/* Instructions in words, before the document, for a model that was not made for this task. */
static void write_instructions(const struct answer *a, struct nb_buf *out) {
    nb_buf_add_string(out,
                      "Read the business document below and answer with one line of JSON with the "
                      "keys document_type (one of");
    for (int i = 0; i < a->n_labels; i++)
        nb_buf_printf(out, "%s %s", i ? "," : "", a->labels[i]);
    nb_buf_add_string(out,
                      "), party (the business that issued the document), date (of issue, as "
                      "YYYY-MM-DD), currency (as its ISO 4217 code) and total (the amount to pay, "
                      "as a decimal number in a string). A field that is not in the document is "
                      "null.\n\nDocument:\n");
}

/* Adds the document's tokens: all, or the first two thirds and the last third of those that fit. */
static enum nb_status add_document(struct answer *a, size_t room, struct nb_error *err) {
    const struct nb_tokens *d = &a->scratch;
    size_t head = d->n, tail = 0;
    if (d->n > room) {
        head = room * 2 / 3;
        tail = room - head;
        a->truncated = true;
    }
    for (size_t i = 0; i < head + tail; i++) {
        int32_t id = d->ids[i < head ? i : d->n - tail + (i - head)];
        if (!nb_tokens_add(&a->prompt, id))
            return nb_fail_memory(err, d->n * sizeof id, "the prompt");
    }
    return NB_OK;
}

/* The prompt of a document in normal form: what stands before it, the document, what stands after
 * it. */
static enum nb_status make_prompt(struct answer *a, const char *text, size_t n,
                                  struct nb_error *err) {
    int32_t mark = nb_tokenizer_find(a->engine->tokenizer, answer_token);
    struct nb_buf before = {0};
    struct nb_tokens after = {0};
    if (mark < 0)
        write_instructions(a, &before);
    nb_buf_add(&before, "", 0);
    enum nb_status s =
        before.failed ? nb_fail_memory(err, before.len, "the prompt")
                      : encode(a, before.data, before.len, NB_ENCODE_TEMPLATE, &a->prompt, err);
    if (s == NB_OK)
        s = encode(a, text, n, mark < 0 ? NB_ENCODE_CONTINUE : 0, &a->scratch, err);
    if (s == NB_OK && mark < 0) {
        static const char json[] = "\n\nJSON:\n";
        s = encode(a, json, sizeof json - 1, NB_ENCODE_CONTINUE, &after, err);
    } else if (s == NB_OK && !nb_tokens_add(&after, mark)) {
        s = nb_fail_memory(err, sizeof mark, "the prompt");
    }
    a->continues = mark < 0;
    size_t answer_tokens = 0, context = (size_t)a->engine->context;
    if (s == NB_OK)
        s = count_answer(a, &answer_tokens, err);
    size_t fixed = a->prompt.n + after.n + answer_tokens;
    if (s == NB_OK && context < fixed + MIN_DOCUMENT_TOKENS)
        s = nb_fail(err, NB_ERR_LIMIT,
                    "a context of %zu has no room for a document: instructions and answer take %zu",
                    context, fixed);
    if (s == NB_OK)
        s = add_document(a, context - fixed, err);
    for (size_t i = 0; s == NB_OK && i < after.n; i++) {
        if (!nb_tokens_add(&a->prompt, after.ids[i]))
            s = nb_fail_memory(err, a->prompt.n * sizeof(int32_t), "the prompt");
    }
    nb_tokens_free(&after);
    nb_buf_free(&before);
    return s;
}

/* ---- frame and values --------------------------------------------------------------------------
 */

/* Gives the model what the frame holds; logits after it are then in a->logits. */
static enum nb_status read_frame(struct answer *a, struct nb_error *err) {
    if (a->frame.failed)
        return nb_fail_memory(err, a->frame.len, "the answer");
    a->scratch.n = 0;
    enum nb_status s = encode_some(a, a->frame.data, a->frame.len,
                                   a->continues ? NB_ENCODE_CONTINUE : 0, &a->scratch, err);
    if (s == NB_OK)
        s = nb_sequence_append(&a->sequence, a->scratch.ids, a->scratch.n, 1, &a->logits, err);
    nb_buf_clear(&a->frame);
    a->continues = true;
    return s;
}

/* log P(label and its closing quote | what the model has read); `logits` are those after it. */
static enum nb_status score_label(struct answer *a, const char *label, const float *logits,
                                  double *score, struct nb_error *err) {
    char text[MAX_LABEL_BYTES + 2];
    int n = snprintf(text, sizeof text, "%s\"", label);
    size_t n_vocab = (size_t)a->engine->model.config.n_vocab;
    a->scratch.n = 0;
    enum nb_status s = encode_some(a, text, (size_t)n, NB_ENCODE_CONTINUE, &a->scratch, err);
    if (s != NB_OK)
        return s;
    const int32_t *ids = a->scratch.ids;
    *score = nb_log_probability(logits, n_vocab, ids[0]);
    if (a->scratch.n == 1)
        return NB_OK;
    int32_t start = a->sequence.n;
    float *rows;
    s = nb_sequence_append(&a->sequence, ids, a->scratch.n - 1, a->scratch.n - 1, &rows, err);
    for (size_t i = 1; s == NB_OK && i < a->scratch.n; i++)
        *score += nb_log_probability(rows + (i - 1) * n_vocab, n_vocab, ids[i]);
    nb_sequence_truncate(&a->sequence, start);
    return s;
}

/* The most probable label, and its probability among all of them. */
static enum nb_status choose_label(struct answer *a, int *best, double *confidence,
                                   struct nb_error *err) {
    size_t bytes = (size_t)a->engine->model.config.n_vocab * sizeof(float);
    float *logits = malloc(bytes); /* a step's logits last until the next step */
    if (!logits)
        return nb_fail_memory(err, bytes, "the labels' probabilities");
    memcpy(logits, a->logits, bytes);
    double scores[MAX_LABELS], sum = 0;
    enum nb_status s = NB_OK;
    *best = 0;
    for (int i = 0; i < a->n_labels && s == NB_OK; i++) {
        s = score_label(a, a->labels[i], logits, &scores[i], err);
        if (s == NB_OK && scores[i] > scores[*best])
            *best = i;
    }
    free(logits);
    if (s != NB_OK)
        return s;
    for (int i = 0; i < a->n_labels; i++)
        sum += exp(scores[i] - scores[*best]);
    *confidence = isfinite(sum) ? 1 / sum : 1.0 / a->n_labels;
    return NB_OK;
}

/* Whether the model would rather write null than a string, after a key. */
static enum nb_status prefers_null(struct answer *a, bool *null, struct nb_error *err) {
    a->scratch.n = 0;
    enum nb_status s = encode_some(a, "null", 4, NB_ENCODE_CONTINUE, &a->scratch, err);
    size_t second = a->scratch.n;
    if (s == NB_OK)
        s = encode_some(a, "\"", 1, NB_ENCODE_CONTINUE, &a->scratch, err);
    if (s == NB_OK)
        *null = a->logits[a->scratch.ids[0]] > a->logits[a->scratch.ids[second]];
    return s;
}

static bool ends_answer(const struct answer *a, int32_t id) {
    return nb_config_is_end(&a->engine->model.config, id) ||
           nb_tokenizer_is_special(a->engine->tokenizer, id);
}

/* Lets the model write a string up to its closing quote, at most max_tokens of it, into *raw:
 * JSON's escapes and all. What a last token holds before the quote goes into the frame, the model
 * not having read it. */
static enum nb_status write_string(struct answer *a, int max_tokens, struct nb_buf *raw,
                                   struct nb_error *err) {
    bool escaped = false;
    for (int i = 0; i < max_tokens; i++) {
        struct nb_sampler greedy = {.n_vocab = (size_t)a->engine->model.config.n_vocab};
        int32_t id = nb_sample(&greedy, a->logits);
        if (ends_answer(a, id))
            break;
        size_t n, used = 0;
        const char *bytes = nb_tokenizer_bytes(a->engine->tokenizer, id, &n);
        for (; used < n && (escaped || bytes[used] != '"'); used++)
            escaped = !escaped && bytes[used] == '\\';
        nb_buf_add(raw, bytes, used);
        if (used < n) {
            nb_buf_add(&a->frame, bytes, used);
            break;
        }
        enum nb_status s = nb_sequence_append(&a->sequence, &id, 1, 1, &a->logits, err);
        if (s != NB_OK)
            return s;
    }
    return raw->failed ? nb_fail_memory(err, raw->len, "a value") : NB_OK;
}

/* `"key":` is in the frame. The model's value for it: *out is NULL for null and for what is not
 * valid in that field. */
static enum nb_status write_field(struct answer *a, enum field field, char **out,
                                  struct nb_error *err) {
    bool null = true;
    enum nb_status s = read_frame(a, err);
    if (s == NB_OK)
        s = prefers_null(a, &null, err);
    if (s != NB_OK)
        return s;
    if (null) {
        nb_buf_add_string(&a->frame, "null");
        return NB_OK;
    }
    struct nb_buf raw = {0};
    nb_buf_add_string(&a->frame, "\"");
    s = read_frame(a, err);
    if (s == NB_OK)
        s = write_string(a, fields[field].max_tokens, &raw, err);
    if (s == NB_OK)
        s = nb_field_text(raw.data ? raw.data : "", raw.len, out, err);
    nb_buf_free(&raw);
    if (s != NB_OK)
        return s;
    nb_buf_add_string(&a->frame, "\"");
    static bool (*const valid[N_FIELDS])(const char *) = {nb_field_is_text, nb_field_is_date,
                                                          nb_field_is_currency, nb_field_is_amount};
    if (!valid[field](*out)) {
        free(*out);
        *out = NULL;
    }
    return NB_OK;
}

static enum nb_status write_answer(struct answer *a, struct nb_classification *out,
                                   struct nb_error *err) {
    nb_buf_add_string(&a->frame, "{\"document_type\":\"");
    int label = 0;
    enum nb_status s = read_frame(a, err);
    if (s == NB_OK)
        s = choose_label(a, &label, &out->confidence, err);
    if (s != NB_OK)
        return s;
    out->document_type = strdup(a->labels[label]);
    if (!out->document_type)
        return nb_fail_memory(err, MAX_LABEL_BYTES, "the answer");
    nb_buf_printf(&a->frame, "%s\"", a->labels[label]);
    char **values[N_FIELDS] = {&out->party, &out->date, &out->currency, &out->total};
    for (int i = 0; i < N_FIELDS && s == NB_OK; i++) {
        nb_buf_printf(&a->frame, ",\"%s\":", fields[i].key);
        s = write_field(a, (enum field)i, values[i], err);
    }
    return s;
}

static enum nb_status answer(struct answer *a, const char *text, size_t n,
                             struct nb_classification *out, struct nb_error *err) {
    if (!a->engine->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: has neither tokenizer.json nor tokenizer.model, which text needs",
                       a->engine->folder);
    enum nb_status s = read_labels(a, err);
    if (s == NB_OK)
        s = make_prompt(a, text, n, err);
    if (s == NB_OK)
        s = nb_sequence_open(a->engine, &a->sequence, err);
    if (s == NB_OK)
        s = nb_sequence_append(&a->sequence, a->prompt.ids, a->prompt.n, 0, NULL, err);
    if (s == NB_OK)
        s = write_answer(a, out, err);
    out->truncated = a->truncated;
    out->prompt_tokens = a->prompt.n;
    out->tokens = s == NB_OK ? (size_t)a->sequence.n - a->prompt.n : 0;
    return s;
}

/* Answers for a text in normal form. */
static enum nb_status classify(struct nb_engine *engine, const char *text, size_t n,
                               struct nb_classification *out, struct nb_error *err) {
    *out = (struct nb_classification){0};
    int64_t start = nb_now_us();
    struct answer a = {.engine = engine};
    enum nb_status s = answer(&a, text, n, out, err);
    nb_sequence_close(&a.sequence);
    nb_tokens_free(&a.prompt);
    nb_tokens_free(&a.scratch);
    nb_buf_free(&a.frame);
    nb_buf_free(&a.label_text);
    out->milliseconds = (double)(nb_now_us() - start) / 1000;
    if (s != NB_OK)
        nb_classification_free(out);
    return s;
}

enum nb_status nb_classify_text(struct nb_engine *engine, const char *text, size_t n,
                                struct nb_classification *out, struct nb_error *err) {
    *out = (struct nb_classification){0};
    struct nb_buf normal = {0};
    enum nb_status s = nb_text_normalize(text, n, "document", &normal, err);
    if (s == NB_OK && normal.len == 0)
        s = nb_fail(err, NB_ERR_FORMAT, "document: %s",
                    n ? "holds nothing but spaces" : "is empty");
    if (s == NB_OK)
        s = classify(engine, normal.data, normal.len, out, err);
    nb_buf_free(&normal);
    return s;
}

enum nb_status nb_classify_file(struct nb_engine *engine, const char *path,
                                struct nb_classification *out, struct nb_error *err) {
    *out = (struct nb_classification){0};
    struct nb_buf text = {0};
    enum nb_status s = nb_document_read(path, &text, err);
    if (s == NB_OK && (s = classify(engine, text.data, text.len, out, err)) != NB_OK)
        nb_fail_prefix(err, s, "%s", path);
    nb_buf_free(&text);
    return s;
}

void nb_classification_free(struct nb_classification *c) {
    free(c->document_type);
    free(c->party);
    free(c->date);
    free(c->currency);
    free(c->total);
    *c = (struct nb_classification){0};
}
