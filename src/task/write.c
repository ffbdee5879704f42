/* A classification as JSON. */
#include "base/buf.h"
#include "base/utf8.h"
#include "nibble/nibble.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void add_key(struct nb_buf *out, const char *key) {
    nb_buf_printf(out, "%s\"%s\":", out->data[out->len - 1] == '{' ? "" : ",", key);
}

/* A file's name need not be UTF-8, JSON must. */
static void add_text(struct nb_buf *out, const char *text) {
    if (!text) {
        nb_buf_add_string(out, "null");
        return;
    }
    size_t n = strlen(text);
    if (nb_utf8_valid(text, n, NULL)) {
        nb_buf_add_json_string(out, text, n);
        return;
    }
    struct nb_buf clean = {0};
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t len = nb_utf8_decode(text + i, n - i, &c);
        nb_buf_add(&clean, len ? text + i : "?", len ? len : 1);
        i += len ? len : 1;
    }
    nb_buf_add_json_string(out, clean.data, clean.len);
    out->failed |= clean.failed;
    nb_buf_free(&clean);
}

static void add_string(struct nb_buf *out, const char *key, const char *text) {
    add_key(out, key);
    add_text(out, text);
}

static void add_bool(struct nb_buf *out, const char *key, bool value) {
    add_key(out, key);
    nb_buf_add_string(out, value ? "true" : "false");
}

/* With at most so many digits after the point. */
static void add_number(struct nb_buf *out, double value, int digits) {
    char text[64];
    snprintf(text, sizeof text, "%.*f", digits, isfinite(value) ? value : 0);
    size_t n = strlen(text);
    while (strchr(text, '.') && (text[n - 1] == '0' || text[n - 1] == '.')) {
        bool point = text[n - 1] == '.';
        text[--n] = 0;
        if (point)
            break;
    }
    nb_buf_add(out, text, n);
}

static void add_summary(struct nb_buf *out, const struct nb_classification *c) {
    add_string(out, "transaction_direction", c->transaction_direction);
    add_key(out, "primary_party");
    nb_buf_add_string(out, "{");
    add_string(out, "name", c->party);
    add_string(out, "role", c->role);
    nb_buf_add_string(out, "}");
    add_key(out, "extracted_summary");
    nb_buf_add_string(out, "{");
    add_key(out, "total_amount");
    nb_buf_add_string(out, c->total ? c->total : "null");
    add_string(out, "currency", c->currency);
    add_string(out, "document_date", c->date);
    add_string(out, "document_number", c->number);
    nb_buf_add_string(out, "}");
    add_string(out, "reasoning", c->reasoning);
    add_string(out, "selected_action", c->selected_action);
}

static void add_confidences(struct nb_buf *out, const struct nb_classification *c) {
    add_key(out, "confidences");
    nb_buf_add_string(out, "{");
    for (size_t i = 0; i < c->n_confidences; i++) {
        if (i)
            nb_buf_add_string(out, ",");
        add_text(out, c->confidences[i].field);
        nb_buf_add_string(out, ":");
        add_number(out, c->confidences[i].p, 6);
    }
    nb_buf_add_string(out, "}");
}

char *nb_classification_json(const struct nb_classification *c, const char *file,
                             const char *model) {
    struct nb_buf b = {0};
    nb_buf_add_string(&b, "{");
    if (b.failed)
        return NULL;
    if (file)
        add_string(&b, "file", file);
    if (c->document_type) {
        add_string(&b, "document_type", c->document_type);
        add_string(&b, "party", c->party);
        add_string(&b, "date", c->date);
        add_string(&b, "currency", c->currency);
        add_string(&b, "total", c->total);
        add_key(&b, "confidence");
        add_number(&b, c->confidence, 6);
        add_bool(&b, "business_relevant", c->business_relevant);
        add_summary(&b, c);
    } else {
        add_key(&b, "answer");
        nb_buf_add_string(&b, c->answer ? c->answer : "null");
    }
    add_confidences(&b, c);
    add_bool(&b, "truncated", c->truncated);
    if (model)
        add_string(&b, "model", model);
    add_key(&b, "prompt_tokens");
    nb_buf_printf(&b, "%zu", c->prompt_tokens);
    add_key(&b, "cached_tokens");
    nb_buf_printf(&b, "%zu", c->cached_tokens);
    add_key(&b, "tokens");
    nb_buf_printf(&b, "%zu", c->tokens);
    add_key(&b, "milliseconds");
    add_number(&b, c->milliseconds, 3);
    nb_buf_add_string(&b, "}");
    if (b.failed)
        nb_buf_free(&b);
    return b.data;
}
