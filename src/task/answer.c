#include "task/answer.h"

#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LABELS = 64,
    MAX_DEPTH = 4, /* of objects in objects whose members may be choices */
    MAX_FORCED_BYTES = 4096,
    MAX_COPIES = 64, /* tokens that are tried for one that copies */
    MAX_REDRAWS = 8, /* each may take milliseconds */
};

/* ---- choices of a schema ---- */

static enum nb_status add_label(struct nb_answer_choice *c, const json_t *value,
                                struct nb_error *err) {
    c->labels[c->n] = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!c->labels[c->n])
        return nb_fail_memory(err, 1, "a label");
    c->n++;
    return NB_OK;
}

/* Values of an enum that can be choices: simple ones, no two the same. */
static bool is_simple(const json_t *values) {
    size_t n = json_array_size(values);
    if (n < 2 || n > MAX_LABELS)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(values, i);
        if (json_is_array(v) || json_is_object(v))
            return false;
        for (size_t k = 0; k < i; k++) {
            if (json_equal(v, json_array_get(values, k)))
                return false;
        }
    }
    return true;
}

static bool is_boolean(const json_t *schema) {
    const char *type = json_string_value(json_object_get(schema, "type"));
    return type && strcmp(type, "boolean") == 0 && !json_object_get(schema, "const");
}

/* Adds a member of an object as a choice, if it is one. `path` is its key as JSON, the keys of the
 * objects that it is in before it. */
static enum nb_status add_choice(struct nb_answer_choices *out, const struct nb_buf *path,
                                 const struct nb_buf *name, const json_t *schema,
                                 struct nb_error *err) {
    const json_t *values = json_object_get(schema, "enum");
    bool boolean = !values && is_boolean(schema);
    if (json_object_get(schema, "$ref") || (!boolean && !is_simple(values)) ||
        out->n == NB_ANSWER_MAX_CHOICES)
        return NB_OK;
    size_t n = boolean ? 2 : json_array_size(values);
    struct nb_answer_choice *c = &out->of[out->n++];
    *c = (struct nb_answer_choice){.path = strdup(path->data),
                                   .name = strdup(name->data),
                                   .labels = calloc(n, sizeof *c->labels),
                                   .p = calloc(n, sizeof *c->p),
                                   .chosen = -1};
    if (!c->path || !c->name || !c->labels || !c->p)
        return nb_fail_memory(err, n * sizeof *c->labels, "the labels");
    enum nb_status s = NB_OK;
    if (boolean) {
        s = add_label(c, json_true(), err);
        return s == NB_OK ? add_label(c, json_false(), err) : s;
    }
    for (size_t i = 0; i < n && s == NB_OK; i++)
        s = add_label(c, json_array_get(values, i), err);
    return s;
}

/* The choices among an object's members, and those of the objects in it. */
static enum nb_status find_choices(const json_t *schema, const struct nb_buf *path,
                                   const struct nb_buf *name, int depth,
                                   struct nb_answer_choices *out, struct nb_error *err) {
    json_t *properties = json_object_get(schema, "properties"), *value;
    const char *key;
    enum nb_status s = NB_OK;
    json_object_foreach(properties, key, value) {
        struct nb_buf p = {0}, q = {0};
        const char *type = json_string_value(json_object_get(value, "type"));
        if (s != NB_OK)
            break;
        nb_buf_add(&p, path->data, path->len);
        nb_buf_add_json_string(&p, key, strlen(key));
        if (name->len)
            nb_buf_printf(&q, "%s.", name->data);
        nb_buf_add(&q, key, strlen(key));
        if (p.failed || q.failed)
            s = nb_fail_memory(err, p.len, "the choices");
        else if (type && strcmp(type, "object") == 0 && !json_object_get(value, "$ref") &&
                 depth < MAX_DEPTH)
            s = find_choices(value, &p, &q, depth + 1, out, err);
        else
            s = add_choice(out, &p, &q, value, err);
        nb_buf_free(&p);
        nb_buf_free(&q);
    }
    return s;
}

enum nb_status nb_answer_find_choices(const json_t *schema, struct nb_answer_choices *out,
                                      struct nb_error *err) {
    static const struct nb_buf top = {0};
    *out = (struct nb_answer_choices){0};
    out->of = calloc(NB_ANSWER_MAX_CHOICES, sizeof *out->of);
    if (!out->of)
        return nb_fail_memory(err, NB_ANSWER_MAX_CHOICES * sizeof *out->of, "the choices");
    return find_choices(schema, &top, &top, 1, out, err);
}

void nb_answer_free_choices(struct nb_answer_choices *choices) {
    for (size_t i = 0; i < choices->n; i++) {
        struct nb_answer_choice *c = &choices->of[i];
        for (size_t k = 0; c->labels && k < c->n; k++)
            free(c->labels[k]);
        free(c->labels);
        free(c->path);
        free(c->name);
        free(c->p);
    }
    free(choices->of);
    *choices = (struct nb_answer_choices){0};
}

/* ---- where in the object a text is ---- */

/* Follows JSON byte by byte, as far as is needed to know the keys that lead to a value. */
struct place {
    int depth;
    bool in_string, escaped;
    struct level {
        bool object, value;  /* the text is within the value of a member */
        size_t key, n;       /* where its key stands in the text, with its quotes */
    } levels[MAX_DEPTH + 1]; /* deeper ones are not noted */
};

/* Goes on by byte number `at`. True if it is the colon after a key. */
static bool follow(struct place *p, char c, size_t at) {
    struct level *l = &p->levels[p->depth <= MAX_DEPTH ? p->depth : 0];
    if (p->in_string) {
        p->in_string = p->escaped || c != '"';
        p->escaped = !p->escaped && c == '\\';
        if (!p->in_string && !l->value)
            l->n = at + 1 - l->key;
        return false;
    }
    switch (c) {
    case '"':
        p->in_string = true;
        if (!l->value)
            l->key = at;
        return false;
    case '{':
    case '[':
        if (++p->depth <= MAX_DEPTH)
            p->levels[p->depth] = (struct level){.object = c == '{'};
        return false;
    case '}':
    case ']':
        p->depth--;
        return false;
    case ',':
        l->value = false;
        return false;
    case ':':
        l->value = true;
        return p->depth <= MAX_DEPTH && l->object;
    default:
        return false;
    }
}

/* ---- an answer being made ---- */

struct run {
    struct nb_sequence *sequence;
    const struct nb_answer_options *how;
    struct nb_follower follower;
    struct place place;
    struct nb_answer_choice *choice; /* whose value comes next, or NULL */
    bool copied; /* the value being written, from `value` on in the text, has the document's words,
                  */
    bool date;   /* or is a date, with a day of its */
    size_t value;
    struct nb_buf *text; /* the answer begins at `begin` */
    size_t begin;
    struct nb_tokens queue; /* decided, and not yet given to the model: */
    size_t queued;          /* the text up to here; what follows it has no tokens yet */
    bool fresh;             /* no text of the answer has tokens yet, and it is its own text */
    size_t drawn, fed;      /* tokens */
    float *logits;          /* [n_vocab] after all of the queue */
};

static enum nb_status no_memory(const struct run *r, struct nb_error *err) {
    return nb_fail_memory(err, r->text->len, "the answer");
}

/* Whether the keys before here are those of a path. */
static bool is_here(const struct run *r, const char *path) {
    size_t left = strlen(path);
    for (int d = 1; d <= r->place.depth; d++) {
        const struct level *l = &r->place.levels[d];
        if (!l->object || !l->value || l->n > left ||
            memcmp(path, r->text->data + l->key, l->n) != 0)
            return false;
        path += l->n;
        left -= l->n;
    }
    return left == 0;
}

/* The text has come to a value. */
static void enter_value(struct run *r, size_t at) {
    for (size_t i = 0; i < r->how->choices->n && !r->choice; i++) {
        if (is_here(r, r->how->choices->of[i].path))
            r->choice = &r->how->choices->of[i];
    }
    r->value = at;
    r->copied = false;
    for (size_t i = 0; i < r->how->n_copied; i++)
        r->copied |= is_here(r, r->how->copied[i]);
    r->date = r->how->date && is_here(r, r->how->date);
}

/* Goes on by bytes that the grammar allows, up to where a choice begins. *used: how many. */
static enum nb_status take(struct run *r, const char *bytes, size_t n, size_t *used,
                           struct nb_error *err) {
    size_t k = 0, before = r->text->len;
    nb_buf_add(r->text, bytes, n);
    if (r->text->failed)
        return no_memory(r, err);
    while (k < n && !r->choice) {
        size_t at = before + k;
        if (follow(&r->place, bytes[k++], at))
            enter_value(r, at + 1);
    }
    r->text->len = before + k;
    r->text->data[r->text->len] = 0;
    *used = k;
    if (!nb_matcher_accept_bytes(r->follower.matcher, bytes, k))
        return nb_fail(err, NB_ERR_INTERNAL, "the grammar does not allow \"%.*s\" after \"%.200s\"",
                       (int)k, bytes, r->text->data + r->begin);
    return NB_OK;
}

/* The tokens of a text. What begins or ends within a character, after byte tokens of the model's,
 * is no text of its own: then token by token. */
static enum nb_status encode(struct run *r, const char *text, size_t n, struct nb_tokens *out,
                             struct nb_error *err) {
    enum nb_status s = nb_tokenizer_encode(r->sequence->engine->tokenizer, text, n,
                                           r->fresh ? 0 : NB_ENCODE_CONTINUE, out, err);
    return s == NB_ERR_FORMAT ? nb_vocabulary_spell(r->follower.vocabulary, text, n, out, err) : s;
}

static enum nb_status append(struct run *r, const int32_t *ids, size_t n, size_t n_logits,
                             float **logits, struct nb_error *err) {
    return nb_sequence_append(r->sequence, ids, n, n_logits, logits, err);
}

/* Gives the model all that is decided. */
static enum nb_status feed(struct run *r, struct nb_error *err) {
    enum nb_status s = NB_OK;
    if (r->queued < r->text->len) {
        s = encode(r, r->text->data + r->queued, r->text->len - r->queued, &r->queue, err);
        r->fresh = false;
        r->queued = r->text->len;
    }
    if (s == NB_OK && r->queue.n) {
        s = append(r, r->queue.ids, r->queue.n, 1, &r->logits, err);
        r->fed += r->queue.n;
        r->queue.n = 0;
    }
    return s;
}

/* ---- choices ---- */

/* Whether a label may come, and the answer can be finished after it; the byte that must follow a
 * number, which is not whole without it. */
static bool may_come(struct run *r, const char *label, char *after) {
    struct nb_matcher *m = r->follower.matcher;
    struct nb_matcher_mark mark = nb_matcher_mark(m);
    struct nb_buf rest = {0};
    bool good = nb_matcher_accept_bytes(m, label, strlen(label)) && nb_matcher_finish(m, &rest);
    bool number = strchr("-0123456789", label[0]) != NULL;
    *after = good && number && rest.len ? rest.data[0] : 0;
    nb_matcher_reset(m, &mark);
    nb_buf_free(&rest);
    return good;
}

/* The tokens of a label as it stands after what the model has read: the queue, the text that has no
 * tokens yet, the label. */
static enum nb_status tokenize_label(struct run *r, const char *label, char after,
                                     struct nb_tokens *out, struct nb_error *err) {
    struct nb_buf text = {0};
    out->n = 0;
    for (size_t i = 0; i < r->queue.n; i++) {
        if (!nb_tokens_add(out, r->queue.ids[i]))
            return no_memory(r, err);
    }
    nb_buf_add(&text, r->text->data + r->queued, r->text->len - r->queued);
    nb_buf_add_string(&text, label);
    if (after)
        nb_buf_add(&text, &after, 1);
    enum nb_status s = text.failed ? no_memory(r, err) : encode(r, text.data, text.len, out, err);
    nb_buf_free(&text);
    return s;
}

/* log P(tokens[from..n) | what the model has read); logits are those before tokens[from]. The
 * sequence is left as it was. */
static enum nb_status score(struct run *r, const struct nb_tokens *tokens, size_t from,
                            const float *logits, double *out, struct nb_error *err) {
    size_t n_vocab = (size_t)r->sequence->engine->model.config.n_vocab, n = tokens->n - from;
    const int32_t *ids = tokens->ids + from;
    *out = nb_log_probability(logits, n_vocab, ids[0]);
    if (n == 1)
        return NB_OK;
    int32_t start = r->sequence->n;
    float *rows;
    enum nb_status s = append(r, ids, n - 1, n - 1, &rows, err);
    for (size_t i = 1; s == NB_OK && i < n; i++)
        *out += nb_log_probability(rows + (i - 1) * n_vocab, n_vocab, ids[i]);
    nb_sequence_truncate(r->sequence, start);
    return s;
}

/* How many tokens all labels begin with, each having one more at least. */
static size_t common(const struct nb_tokens *labels, const bool *may, size_t n) {
    const struct nb_tokens *first = NULL;
    size_t c = 0;
    for (size_t i = 0; i < n; i++) {
        if (!may[i])
            continue;
        size_t most = first && c < labels[i].n - 1 ? c : labels[i].n - 1, k = 0;
        while (first && k < most && labels[i].ids[k] == first->ids[k])
            k++;
        c = first ? k : most;
        first = first ? first : &labels[i];
    }
    return c;
}

/* log P of every label that may come into c->p. What the labels have in common is then read by the
 * model; *n_read is how many tokens that are. */
static enum nb_status score_labels(struct run *r, struct nb_answer_choice *c,
                                   const struct nb_tokens *labels, const bool *may, size_t *n_read,
                                   struct nb_error *err) {
    size_t bytes = (size_t)r->sequence->engine->model.config.n_vocab * sizeof(float);
    float *logits = malloc(bytes); /* a step's logits last until the next step */
    if (!logits)
        return nb_fail_memory(err, bytes, "the labels' probabilities");
    enum nb_status s = NB_OK;
    *n_read = common(labels, may, c->n);
    for (size_t i = 0; i < c->n && s == NB_OK; i++) {
        if (may[i]) {
            if (*n_read)
                s = append(r, labels[i].ids, *n_read, 1, &r->logits, err);
            break;
        }
    }
    if (s == NB_OK)
        memcpy(logits, r->logits, bytes);
    r->fed += *n_read;
    for (size_t i = 0; i < c->n && s == NB_OK; i++) {
        if (may[i])
            s = score(r, &labels[i], *n_read, logits, &c->p[i], err);
    }
    free(logits);
    return s;
}

/* From log probabilities to probabilities among the labels that may come; the best one. */
static void normalize(struct nb_answer_choice *c, const bool *may) {
    double best = -INFINITY, sum = 0;
    c->chosen = -1;
    for (size_t i = 0; i < c->n; i++) {
        if (may[i] && (c->chosen < 0 || c->p[i] > best)) {
            best = c->p[i];
            c->chosen = (int)i;
        }
    }
    for (size_t i = 0; i < c->n; i++)
        sum += c->p[i] = !may[i] ? 0 : isfinite(best) ? exp(c->p[i] - best) : 1;
    for (size_t i = 0; i < c->n; i++)
        c->p[i] /= sum;
}

/* Of the chosen label's tokens the model has read n_read, those since `start`; the others wait.
 * They were scored with what ends a number, which is not decided yet. */
static enum nb_status queue_label(struct run *r, const char *label, struct nb_tokens *tokens,
                                  int32_t start, size_t n_read, struct nb_error *err) {
    struct nb_tokens whole = {0};
    enum nb_status s = tokenize_label(r, label, 0, &whole, err);
    if (s == NB_OK &&
        (whole.n < n_read || memcmp(whole.ids, tokens->ids, n_read * sizeof *whole.ids) != 0)) {
        nb_sequence_truncate(r->sequence, start);
        r->fed -= n_read;
        n_read = 0;
    }
    r->queue.n = 0;
    r->fresh = false;
    for (size_t i = n_read; i < whole.n && s == NB_OK; i++) {
        if (!nb_tokens_add(&r->queue, whole.ids[i]))
            s = no_memory(r, err);
    }
    nb_tokens_free(&whole);
    return s;
}

/* The text has come to the value of r->choice. */
static enum nb_status choose(struct run *r, struct nb_error *err) {
    struct nb_answer_choice *c = r->choice;
    struct nb_tokens labels[MAX_LABELS] = {0};
    bool may[MAX_LABELS] = {false};
    size_t n_may = 0, n_read = 0, used;
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < c->n && s == NB_OK; i++) {
        char after;
        may[i] = may_come(r, c->labels[i], &after);
        n_may += may[i];
        c->p[i] = 0;
        if (may[i])
            s = tokenize_label(r, c->labels[i], after, &labels[i], err);
        if (s == NB_OK && may[i] && !labels[i].n)
            s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: the tokenizer has no tokens for %s",
                        r->sequence->engine->folder, c->labels[i]);
    }
    r->choice = NULL;
    int32_t start = r->sequence->n;
    if (s == NB_OK && n_may > 1)
        s = score_labels(r, c, labels, may, &n_read, err);
    if (s == NB_OK && n_may)
        normalize(c, may);
    if (s == NB_OK && n_may > 1)
        s = queue_label(r, c->labels[c->chosen], &labels[c->chosen], start, n_read, err);
    if (s == NB_OK && n_may)
        s = take(r, c->labels[c->chosen], strlen(c->labels[c->chosen]), &used, err);
    if (s == NB_OK && n_may > 1)
        r->queued = r->text->len;
    for (size_t i = 0; i < c->n; i++)
        nb_tokens_free(&labels[i]);
    return s; /* none may come: the grammar has something else to say there */
}

/* ---- what is not chosen ---- */

static bool in_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c & 0x80;
}

/* Whether the document has the word, or, unless `whole`, one that begins with it. */
static bool has_word(const char *word, size_t n, bool whole, const char *document,
                     size_t n_document) {
    const char *at = document, *end = document + n_document;
    while ((at = memmem(at, (size_t)(end - at), word, n))) {
        bool begins = at == document || !in_word(at[-1]);
        if (begins && (!whole || at + n == end || !in_word(at[n])))
            return true;
        at++;
    }
    return false;
}

bool nb_answer_is_copied(const char *text, size_t n, bool whole, const char *document,
                         size_t n_document) {
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && in_word(text[i]))
            i++;
        if (i > from && !has_word(text + from, i - from, whole || i < n, document, n_document))
            return false;
        i += i < n && !in_word(text[i]);
    }
    return true;
}

/* The digits at p: how many, up to what is no digit. */
static size_t digits_at(const char *p, const char *end) {
    size_t n = 0;
    while (p + n < end && p[n] >= '0' && p[n] <= '9')
        n++;
    return n;
}

static int number_of(const char *p, size_t digits) {
    int x = 0;
    for (size_t i = 0; i < digits; i++)
        x = x * 10 + (p[i] - '0');
    return x;
}

/* A set of days, bit d for day d. */
static uint32_t day_set(int number) {
    return number >= 1 && number <= 31 ? 1U << number : 0;
}

/* The days that stand from begin to end as numbers of one or two digits. */
static uint32_t days_between(const char *begin, const char *end) {
    uint32_t days = 0;
    for (const char *p = begin; p < end;) {
        size_t n = digits_at(p, end);
        if (n == 1 || n == 2)
            days |= day_set(number_of(p, n));
        p += n ? n : 1;
    }
    return days;
}

/* The days of six or eight digits as dates of that year: 140324, 240314, 14032024, 03142024,
 * 20240314. */
static uint32_t days_of_digits(const char *p, size_t n, int year) {
    uint32_t days = 0;
    if (n == 6 && number_of(p + 4, 2) == year % 100)
        days |= day_set(number_of(p, 2));
    if (n == 6 && number_of(p, 2) == year % 100)
        days |= day_set(number_of(p + 4, 2));
    if (n == 8 && number_of(p + 4, 4) == year)
        days |= day_set(number_of(p, 2)) | day_set(number_of(p + 2, 2));
    if (n == 8 && number_of(p, 4) == year)
        days |= day_set(number_of(p + 6, 2));
    return days;
}

/* The days that the document has near the year, of two digits or four, on its line. */
static uint32_t days_near(int year, const char *document, size_t n) {
    enum { NEAR = 24 }; /* bytes: "14. September des Jahres 2024" */
    const char *end = document + n;
    uint32_t days = 0;
    for (const char *p = document; p < end;) {
        size_t digits = digits_at(p, end);
        const char *from = p, *to = p + digits;
        days |= days_of_digits(p, digits, year);
        if ((digits == 4 && number_of(p, 4) == year) ||
            (digits == 2 && number_of(p, 2) == year % 100)) {
            while (from > document && p - from < NEAR && from[-1] != '\n')
                from--;
            while (to < end && to - p < NEAR && *to != '\n')
                to++;
            days |= days_between(from, p) | days_between(p + digits, to);
        }
        p += digits ? digits : 1;
    }
    return days;
}

bool nb_answer_has_day(const char *text, size_t n, const char *document, size_t n_document) {
    enum { DAY = 8 }; /* where it begins */
    if (n <= DAY || digits_at(text, text + n) != 4)
        return true;
    uint32_t days = days_near(number_of(text, 4), document, n_document);
    for (int day = 1; day <= 31; day++) {
        if (days >> day & 1 && text[DAY] == '0' + day / 10 &&
            (n == DAY + 1 || text[DAY + 1] == '0' + day % 10))
            return true;
    }
    return false;
}

/* Whether the value being written may go on by a token, its words being the document's. Values with
 * escapes are let through. */
static bool is_copied(const struct run *r, int32_t id) {
    char value[1024];
    size_t n, old = r->text->len - r->value;
    const char *bytes = nb_tokenizer_bytes(r->sequence->engine->tokenizer, id, &n);
    if (!r->place.in_string || old + n > sizeof value)
        return true;
    memcpy(value, r->text->data + r->value, old);
    memcpy(value + old, bytes, n);
    const char *inside = memchr(value, '"', old);
    if (!inside || memchr(value, '\\', old + n))
        return true;
    inside++;
    size_t left = old + n - (size_t)(inside - value);
    const char *quote = memchr(inside, '"', left);
    if (r->date)
        return nb_answer_has_day(inside, quote ? (size_t)(quote - inside) : left, r->how->document,
                                 r->how->n_document);
    return nb_answer_is_copied(inside, quote ? (size_t)(quote - inside) : left, quote != NULL,
                               r->how->document, r->how->n_document);
}

/* The most probable token of `logits` that copies, or where none of the first ones does, *id. */
static int32_t copy_of(struct run *r, const struct nb_sampler *how, int32_t id) {
    int32_t skipped[MAX_COPIES];
    float kept[MAX_COPIES];
    struct nb_sampler greedy = *how;
    int32_t found = id;
    int n = 0;
    while (n < MAX_COPIES && r->logits[found] > -INFINITY && !is_copied(r, found)) {
        skipped[n] = found;
        kept[n++] = r->logits[found];
        r->logits[found] = -INFINITY;
        found = nb_sample(&greedy, r->logits);
    }
    bool good = r->logits[found] > -INFINITY && is_copied(r, found);
    while (n--)
        r->logits[skipped[n]] = kept[n];
    return good ? found : id;
}

/* The most probable token that leads somewhere; -1 if only the end may come. */
static enum nb_status draw(struct run *r, int32_t *id, struct nb_error *err) {
    struct nb_sampler greedy = {.n_vocab = (size_t)r->sequence->engine->model.config.n_vocab};
    bool only_end;
    *id = -1;
    enum nb_status s = nb_follower_mask(&r->follower, r->logits, &only_end, err);
    if (s != NB_OK || only_end)
        return s;
    *id = nb_sample(&greedy, r->logits);
    if (r->copied || r->date)
        *id = copy_of(r, &greedy, *id);
    for (int i = 0; r->logits[*id] == -INFINITY || isnan(r->logits[*id]) ||
                    !nb_follower_viable(&r->follower, *id);
         i++) {
        r->logits[*id] = -INFINITY;
        *id = nb_sample(&greedy, r->logits);
        if (i < MAX_REDRAWS && r->logits[*id] > -INFINITY)
            continue;
        *id = nb_follower_way_out(&r->follower);
        if (*id < 0)
            s = nb_fail(err, NB_ERR_UNSUPPORTED,
                        "the grammar allows nothing after \"%.200s\": it contradicts itself in a "
                        "way that was not seen before",
                        r->text->data ? r->text->data + r->begin : "");
        break;
    }
    return s;
}

/* A token of the model's, or the end. */
static enum nb_status draw_token(struct run *r, bool *ended, struct nb_error *err) {
    const struct nb_engine *e = r->sequence->engine;
    int32_t id;
    enum nb_status s = feed(r, err);
    if (s == NB_OK)
        s = draw(r, &id, err);
    if (s != NB_OK)
        return s;
    *ended = id < 0 || nb_config_is_end(&e->model.config, id);
    if (*ended)
        return NB_OK;
    size_t n, used;
    const char *bytes = nb_tokenizer_bytes(e->tokenizer, id, &n);
    s = take(r, bytes, n, &used, err);
    r->drawn++;
    if (s == NB_OK && used == n) { /* else the model reads what was taken of it, tokenized anew */
        if (!nb_tokens_add(&r->queue, id))
            s = no_memory(r, err);
        r->queued = r->text->len;
        r->fresh = false;
    }
    return s;
}

/* Whether the answer must be brought to an end. */
static bool is_long(const struct run *r) {
    size_t context = (size_t)r->sequence->engine->context, n = (size_t)r->sequence->n;
    size_t waiting = r->queue.n + r->text->len - r->queued; /* at most a token a byte */
    return r->drawn >= r->how->max_tokens || n + waiting + r->how->reserve + 1 >= context;
}

/* Text that is forced, or in an answer that is too long the short way to its end. */
static enum nb_status go_on(struct run *r, size_t *n, struct nb_error *err) {
    struct nb_buf bytes = {0};
    struct nb_matcher *m = r->follower.matcher;
    enum nb_status s = NB_OK;
    if (!is_long(r))
        s = nb_matcher_forced(m, MAX_FORCED_BYTES, &bytes, err);
    else if (!nb_matcher_finish(m, &bytes) && (s = nb_matcher_check(m, err)) == NB_OK)
        s = nb_fail(err, NB_ERR_LIMIT, "the answer did not come to an end: \"%.200s\"",
                    r->text->data ? r->text->data + r->begin : "");
    *n = bytes.len;
    size_t used;
    if (s == NB_OK && bytes.len)
        s = take(r, bytes.data, bytes.len, &used, err);
    nb_buf_free(&bytes);
    return s;
}

static enum nb_status write_answer(struct run *r, struct nb_error *err) {
    bool ended = false;
    enum nb_status s = NB_OK;
    while (s == NB_OK && !ended) {
        size_t n = 0;
        if (r->choice) {
            s = choose(r, err);
            continue;
        }
        if (nb_follower_ended(&r->follower))
            break;
        s = go_on(r, &n, err);
        if (s != NB_OK || n)
            continue;
        if (is_long(r))
            break; /* nothing is missing at its end */
        s = draw_token(r, &ended, err);
    }
    return s;
}

enum nb_status nb_answer_make(struct nb_sequence *sequence, const int32_t *prompt, size_t n,
                              const struct nb_answer_options *options, struct nb_buf *text,
                              size_t *n_tokens, struct nb_error *err) {
    struct run r = {.sequence = sequence,
                    .how = options,
                    .text = text,
                    .begin = text->len,
                    .queued = text->len,
                    .fresh = options->fresh};
    for (size_t i = 0; i < options->choices->n; i++)
        options->choices->of[i].chosen = -1;
    enum nb_status s = nb_follower_open(sequence->engine, options->grammar, &r.follower, err);
    if (s == NB_OK)
        s = append(&r, prompt, n, 1, &r.logits, err);
    if (s == NB_OK)
        s = write_answer(&r, err);
    if (s == NB_OK && text->failed)
        s = no_memory(&r, err);
    *n_tokens = r.fed + r.queue.n;
    if (s == NB_OK && r.queued < text->len) { /* the end, which the model need not read */
        size_t before = r.queue.n;
        s = encode(&r, text->data + r.queued, text->len - r.queued, &r.queue, err);
        *n_tokens += r.queue.n - before;
    }
    nb_follower_close(&r.follower);
    nb_tokens_free(&r.queue);
    return s;
}

enum nb_status nb_answer_reserve(struct nb_engine *engine, const struct nb_answer_options *options,
                                 size_t *n, struct nb_error *err) {
    enum { SPARE = 16 };
    struct nb_matcher *m = NULL;
    struct nb_buf shortest = {0};
    struct nb_tokens tokens = {0};
    *n = SPARE;
    enum nb_status s = nb_matcher_open(options->grammar, &m, err);
    if (s == NB_OK && !nb_matcher_finish(m, &shortest) && (s = nb_matcher_check(m, err)) == NB_OK)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "no answer that fulfils the schema was found");
    if (s == NB_OK)
        s = nb_tokenizer_encode(engine->tokenizer, shortest.data ? shortest.data : "", shortest.len,
                                0, &tokens, err);
    *n += tokens.n;
    for (size_t i = 0; i < options->choices->n && s == NB_OK; i++) {
        const struct nb_answer_choice *c = &options->choices->of[i];
        size_t longest = 0;
        for (size_t k = 0; k < c->n && s == NB_OK; k++) {
            tokens.n = 0;
            s = nb_tokenizer_encode(engine->tokenizer, c->labels[k], strlen(c->labels[k]),
                                    NB_ENCODE_CONTINUE, &tokens, err);
            longest = tokens.n > longest ? tokens.n : longest;
        }
        *n += longest;
    }
    nb_tokens_free(&tokens);
    nb_buf_free(&shortest);
    nb_matcher_close(m);
    return s;
}
