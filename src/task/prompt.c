#include "task/prompt.h"

#include <string.h>

enum {
    MIN_DOCUMENT_TOKENS = 16,
    MAX_TOKEN_BYTES = 32, /* of a document, on average: more than any language's */
    MAX_CUTS = 32,
};

/* ---- templates ---- */

/* A part of a template: text, or a place. */
struct part {
    const char *text; /* without braces */
    size_t n;
    bool place;
};

/* The next part of text[*at..n), and *at after it; false at the end. */
static bool next_part(const char *text, size_t n, size_t *at, struct part *out) {
    const char *from = text + *at, *open = memmem(from, n - *at, "{{", 2);
    if (*at == n)
        return false;
    if (!open)
        open = text + n;
    if (open > from) {
        *out = (struct part){from, (size_t)(open - from), false};
        *at += out->n;
        return true;
    }
    const char *close = memmem(open, n - *at, "}}", 2);
    if (!close) {
        *out = (struct part){from, n - *at, false};
        *at = n;
        return true;
    }
    *out = (struct part){open + 2, (size_t)(close - open) - 2, true};
    *at = (size_t)(close - text) + 2;
    return true;
}

static bool is(const struct part *p, const char *name) {
    return p->n == strlen(name) && memcmp(p->text, name, p->n) == 0;
}

static enum nb_status check(const char *text, size_t n, const char *name, struct nb_error *err) {
    static const char *const places[] = {"company",      "document_types", "actions",
                                         "instructions", "schema",         "document"};
    size_t at = 0, documents = 0;
    bool known = true;
    struct part p = {0};
    while (known && next_part(text, n, &at, &p)) {
        known = !p.place;
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            known |= is(&p, places[i]);
        documents += p.place && is(&p, "document");
    }
    if (!known)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: {{%.*s}}: no such place; expected company, document_types, actions, "
                       "instructions, schema or document",
                       name, (int)(p.n < 64 ? p.n : 64), p.text);
    if (documents != 1)
        return nb_fail(err, NB_ERR_FORMAT, "%s: has %zu places for {{document}}, expected one",
                       name, documents);
    return NB_OK;
}

/* The text of a place. A trained form has nothing where nothing was said. */
static void write_value(const struct part *p, const struct nb_prompt_values *v, bool trained,
                        bool descriptions, struct nb_buf *out) {
    const char *before = trained ? "" : "- ", *none = trained ? "" : "(not said)";
    if (is(p, "company"))
        nb_buf_add_string(out, v->company ? v->company : none);
    else if (is(p, "instructions"))
        nb_buf_add_string(out, v->instructions ? v->instructions : "");
    else if (is(p, "schema"))
        nb_buf_add_string(out, v->schema ? v->schema : "");
    else if (is(p, "actions") && !v->actions->n)
        nb_buf_add_string(out, trained ? "" : "(none)");
    else
        nb_names_write(is(p, "actions") ? v->actions : v->document_types, before, descriptions,
                       out);
}

/* ---- opening ---- */

/* The tokens of a trained form. */
static enum nb_status fill_trained(struct nb_prompt *out, const char *text, size_t n,
                                   const struct nb_prompt_values *values, bool descriptions,
                                   struct nb_error *err) {
    const struct nb_tokenizer *t = out->engine->tokenizer;
    struct nb_tokens *to = &out->before;
    size_t at = 0;
    struct part p;
    enum nb_status s = NB_OK;
    out->before.n = out->after.n = 0;
    while (s == NB_OK && next_part(text, n, &at, &p)) {
        struct nb_buf value = {0};
        if (p.place && is(&p, "document")) {
            to = &out->after;
            continue;
        }
        if (p.place)
            write_value(&p, values, true, descriptions, &value);
        const char *piece = p.place ? (value.data ? value.data : "") : p.text;
        unsigned flags = NB_ENCODE_CONTINUE | (p.place ? 0 : NB_ENCODE_SPECIAL);
        s = value.failed ? nb_fail_memory(err, value.len, "the prompt")
                         : nb_tokenizer_encode(t, piece, p.place ? value.len : p.n, flags, to, err);
        nb_buf_free(&value);
    }
    out->fixed = out->before.n;
    out->frame = out->before.n + out->after.n;
    return s;
}

/* Adds text without a third line feed in a row: a place that holds nothing leaves no gap. */
static void add_text(struct nb_buf *out, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bool gap = text[i] == '\n' && out->len >= 2 && out->data[out->len - 1] == '\n' &&
                   out->data[out->len - 2] == '\n';
        if (!gap)
            nb_buf_add(out, text + i, 1);
    }
}

static enum nb_status encode(const struct nb_prompt *p, const struct nb_buf *text,
                             struct nb_tokens *out, struct nb_error *err) {
    if (text->failed)
        return nb_fail_memory(err, text->len, "the prompt");
    const char *data = text->data ? text->data : "";
    if (p->form == NB_PROMPT_PLAIN)
        return nb_tokenizer_encode(p->engine->tokenizer, data, text->len, NB_ENCODE_TEMPLATE, out,
                                   err);
    struct nb_chat_message message = {"user", data, text->len};
    return nb_chat_encode(&p->chat, p->engine->tokenizer, &message, 1, true, out, err);
}

/* The prompt with a document as it stands. */
static enum nb_status encode_with(const struct nb_prompt *p, const char *a, size_t n_a,
                                  const char *b, size_t n_b, struct nb_tokens *out,
                                  struct nb_error *err) {
    struct nb_buf text = {0};
    nb_buf_add(&text, p->head.data, p->head.len);
    nb_buf_add(&text, a, n_a);
    if (n_b)
        nb_buf_add_string(&text, "\n[...]\n");
    nb_buf_add(&text, b, n_b);
    nb_buf_add(&text, p->tail.data, p->tail.len);
    enum nb_status s = encode(p, &text, out, err);
    nb_buf_free(&text);
    return s;
}

/* What two prompts have in common is what all have; but for the document, how long they are. */
static enum nb_status measure(struct nb_prompt *p, struct nb_error *err) {
    struct nb_tokens a = {0}, b = {0};
    enum nb_status s = encode_with(p, "A", 1, NULL, 0, &a, err);
    if (s == NB_OK)
        s = encode_with(p, "7", 1, NULL, 0, &b, err);
    while (s == NB_OK && p->fixed < a.n && p->fixed < b.n && a.ids[p->fixed] == b.ids[p->fixed])
        p->fixed++;
    p->frame = a.n;
    nb_tokens_free(&a);
    nb_tokens_free(&b);
    return s;
}

static enum nb_status fill_text(struct nb_prompt *out, const char *text, size_t n,
                                const struct nb_prompt_values *values, struct nb_error *err) {
    struct nb_buf *to = &out->head;
    size_t at = 0;
    struct part p;
    while (next_part(text, n, &at, &p)) {
        struct nb_buf value = {0};
        if (p.place && is(&p, "document")) {
            to = &out->tail;
            continue;
        }
        if (p.place)
            write_value(&p, values, false, true, &value);
        else
            nb_buf_add(&value, p.text, p.n);
        add_text(to, value.data, value.len);
        to->failed |= value.failed;
        nb_buf_free(&value);
    }
    if (out->form == NB_PROMPT_CHAT) { /* a message ends with its last word */
        while (out->tail.len && strchr(" \n", out->tail.data[out->tail.len - 1]))
            out->tail.data[--out->tail.len] = 0;
    }
    return out->head.failed || out->tail.failed ? nb_fail_memory(err, n, "the prompt")
                                                : measure(out, err);
}

enum nb_status nb_prompt_open(struct nb_engine *engine, enum nb_prompt_form form,
                              const struct nb_chat *chat, const char *text, size_t n,
                              const char *name, const struct nb_prompt_values *values, size_t most,
                              struct nb_prompt *out, struct nb_error *err) {
    *out = (struct nb_prompt){.engine = engine, .form = form};
    if (chat)
        out->chat = *chat;
    enum nb_status s = check(text, n, name, err);
    if (s != NB_OK)
        return s;
    if (form != NB_PROMPT_TRAINED)
        return fill_text(out, text, n, values, err);
    while (n && text[n - 1] == '\n') /* a file's last line end is none of the template's */
        n--;
    s = fill_trained(out, text, n, values, true, err);
    if (s == NB_OK && out->fixed > most)
        s = fill_trained(out, text, n, values, false, err);
    return s;
}

void nb_prompt_close(struct nb_prompt *prompt) {
    nb_tokens_free(&prompt->before);
    nb_tokens_free(&prompt->after);
    nb_buf_free(&prompt->head);
    nb_buf_free(&prompt->tail);
    *prompt = (struct nb_prompt){0};
}

/* ---- documents ---- */

static enum nb_status add_ids(struct nb_tokens *out, const int32_t *ids, size_t n,
                              struct nb_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!nb_tokens_add(out, ids[i]))
            return nb_fail_memory(err, (out->n + 1) * sizeof *ids, "the prompt");
    }
    return NB_OK;
}

/* The first `head` bytes of a text and the last `tail`, whole characters both. */
static void cut(const char *text, size_t n, size_t *head, size_t *tail) {
    while (*head && (text[*head] & 0xC0) == 0x80)
        --*head;
    while (*tail && (text[n - *tail] & 0xC0) == 0x80)
        --*tail;
}

/* Of tokens that are too many, the first two thirds and the last third of those that fit. */
static enum nb_status make_trained(const struct nb_prompt *p, const char *document, size_t n,
                                   size_t room, struct nb_tokens *out, bool *truncated,
                                   struct nb_error *err) {
    struct nb_tokens ids = {0}, end = {0};
    size_t most = room * MAX_TOKEN_BYTES, head = n, tail = 0;
    if (n > 2 * most) { /* what can't fit need not be tokenized */
        head = tail = most;
        cut(document, n, &head, &tail);
        *truncated = true;
    }
    const struct nb_tokenizer *t = p->engine->tokenizer;
    enum nb_status s = nb_tokenizer_encode(t, document, head, NB_ENCODE_CONTINUE, &ids, err);
    if (s == NB_OK && tail)
        s = nb_tokenizer_encode(t, document + n - tail, tail, NB_ENCODE_CONTINUE, &end, err);
    if (s == NB_OK)
        s = add_ids(&ids, end.ids, end.n, err);
    size_t first = ids.n, last = 0;
    if (ids.n > room) {
        first = room * 2 / 3;
        last = room - first;
        *truncated = true;
    }
    if (s == NB_OK)
        s = add_ids(out, p->before.ids, p->before.n, err);
    if (s == NB_OK)
        s = add_ids(out, ids.ids, first, err);
    if (s == NB_OK && last)
        s = add_ids(out, ids.ids + ids.n - last, last, err);
    if (s == NB_OK)
        s = add_ids(out, p->after.ids, p->after.n, err);
    nb_tokens_free(&ids);
    nb_tokens_free(&end);
    return s;
}

/* The same of the text: as much as fits is found by trying. */
static enum nb_status make_text(const struct nb_prompt *p, const char *document, size_t n,
                                size_t room, struct nb_tokens *out, bool *truncated,
                                struct nb_error *err) {
    size_t keep = n, before = out->n, most = room * MAX_TOKEN_BYTES;
    if (keep > most)
        keep = most;
    for (int i = 0; i < MAX_CUTS; i++) {
        size_t head = keep < n ? keep * 2 / 3 : n, tail = keep < n ? keep - head : 0;
        out->n = before;
        cut(document, n, &head, &tail);
        enum nb_status s = encode_with(p, document, head, document + n - tail, tail, out, err);
        size_t total = out->n - before;
        if (s != NB_OK || total <= room + p->frame) {
            *truncated = keep < n;
            return s;
        }
        size_t of_document = total - p->frame;
        keep = (size_t)((double)keep * 0.97 * (double)room / (double)of_document);
    }
    return nb_fail(err, NB_ERR_LIMIT, "the document could not be cut to %zu tokens", room);
}

enum nb_status nb_prompt_make(const struct nb_prompt *p, const char *document, size_t n,
                              size_t room, struct nb_tokens *out, bool *truncated,
                              struct nb_error *err) {
    *truncated = false;
    if (room < p->frame + MIN_DOCUMENT_TOKENS)
        return nb_fail(err, NB_ERR_LIMIT,
                       "a context of %d has no room for a document: instructions take %zu tokens "
                       "of it, and the answer needs %zu",
                       p->engine->context, p->frame,
                       room < (size_t)p->engine->context ? (size_t)p->engine->context - room : 0);
    room -= p->frame;
    return p->form == NB_PROMPT_TRAINED ? make_trained(p, document, n, room, out, truncated, err)
                                        : make_text(p, document, n, room, out, truncated, err);
}
