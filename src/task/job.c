#include "task/job.h"

#include "base/utf8.h"
#include "model/json.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_LABELS = 64,
    MAX_ACTIONS = 63, /* and null */
    MAX_LABEL_BYTES = 64,
    MAX_ACTION_BYTES = 120,
    MAX_DESCRIPTION_BYTES = 1000,
    MAX_COMPANY_BYTES = 200,
    MAX_INSTRUCTIONS_BYTES = 64 * 1024,
};

/* text[0..n) with every run of white space as one space, none at the ends, into *out: NULL for an
 * empty one. Control characters are an error. */
static enum nb_status clean(const char *text, size_t n, size_t most, const char *name,
                            const char *what, char **out, struct nb_error *err) {
    struct nb_buf b = {0};
    *out = NULL;
    size_t bad;
    if (!nb_utf8_valid(text, n, &bad))
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s: byte %zu of it, 0x%02X, is not UTF-8", name,
                       what, bad, (unsigned char)text[bad]);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
        if (!space && (c < 0x20 || c == 0x7F)) {
            nb_buf_free(&b);
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s: has the control character 0x%02X", name,
                           what, c);
        }
        if (!space)
            nb_buf_add(&b, text + i, 1);
        else if (b.len && b.data[b.len - 1] != ' ')
            nb_buf_add(&b, " ", 1);
    }
    if (b.len && b.data[b.len - 1] == ' ')
        b.data[--b.len] = 0;
    if (b.failed) {
        nb_buf_free(&b);
        return nb_fail_memory(err, n, name);
    }
    if (b.len > most) {
        nb_buf_free(&b);
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s: longer than %zu bytes: \"%.64s…\"", name, what,
                       most, text);
    }
    *out = b.data;
    return NB_OK;
}

/* Adds a name; `where` says which for messages, "line 3". */
static enum nb_status add(struct nb_names *names, size_t max, size_t max_bytes, const char *text,
                          size_t n, const char *description, size_t n_description, const char *name,
                          const char *where, struct nb_error *err) {
    if (names->n == max)
        return nb_fail(err, NB_ERR_LIMIT, "%s: %s: more than %zu names", name, where, max);
    struct nb_named *grown = realloc(names->of, (names->n + 1) * sizeof *grown);
    if (!grown)
        return nb_fail_memory(err, (names->n + 1) * sizeof *grown, name);
    names->of = grown;
    struct nb_named *item = &grown[names->n];
    *item = (struct nb_named){0};
    enum nb_status s = clean(text, n, max_bytes, name, where, &item->name, err);
    if (s == NB_OK && !item->name)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s: the name is empty", name, where);
    if (s == NB_OK)
        names->n++;
    if (s == NB_OK && description)
        s = clean(description, n_description, MAX_DESCRIPTION_BYTES, name, where,
                  &item->description, err);
    for (size_t i = 0; s == NB_OK && i + 1 < names->n; i++) {
        if (strcmp(names->of[i].name, item->name) == 0)
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s: \"%s\" is there twice", name, where,
                           item->name);
    }
    return s;
}

/* One of a JSON list of names. */
static enum nb_status add_json(struct nb_names *names, size_t max, size_t max_bytes,
                               const json_t *item, const char *name, const char *where,
                               struct nb_error *err) {
    const char *text = NULL, *description = NULL, *key;
    json_t *value;
    if (json_is_string(item))
        return add(names, max, max_bytes, json_string_value(item), json_string_length(item), NULL,
                   0, name, where, err);
    if (!json_is_object(item))
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: %s is %s, expected a name, or {\"name\", \"description\"}", name, where,
                       nb_json_type(item));
    size_t n = 0, n_description = 0;
    json_object_foreach((json_t *)(uintptr_t)item, key, value) {
        bool is_name = strcmp(key, "name") == 0;
        if (!is_name && strcmp(key, "description") != 0)
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s.%.64s: expected name and description only",
                           name, where, key);
        if (!json_is_string(value) && (is_name || !json_is_null(value)))
            return nb_fail(err, NB_ERR_FORMAT, "%s: %s.%s is %s, expected a string", name, where,
                           key, nb_json_type(value));
        *(is_name ? &text : &description) = json_string_value(value);
        *(is_name ? &n : &n_description) = json_string_length(value);
    }
    if (!text)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s.name is missing", name, where);
    return add(names, max, max_bytes, text, n, description, n_description, name, where, err);
}

static enum nb_status add_list(struct nb_names *names, size_t max, size_t max_bytes,
                               const json_t *list, const char *name, const char *what,
                               struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < json_array_size(list) && s == NB_OK; i++) {
        char where[64];
        snprintf(where, sizeof where, "%s[%zu]", what, i);
        s = add_json(names, max, max_bytes, json_array_get(list, i), name, where, err);
    }
    return s;
}

void nb_names_free(struct nb_names *names) {
    for (size_t i = 0; i < names->n; i++) {
        free(names->of[i].name);
        free(names->of[i].description);
    }
    free(names->of);
    *names = (struct nb_names){0};
}

/* ---- document types ---- */

static enum nb_status read_lines(const char *text, size_t n, const char *name, struct nb_names *out,
                                 struct nb_error *err) {
    enum nb_status s = NB_OK;
    int line = 0;
    for (size_t i = 0; i < n && s == NB_OK;) {
        const char *end = memchr(text + i, '\n', n - i);
        size_t next = end ? (size_t)(end - text) + 1 : n, len = (end ? next - 1 : n) - i;
        char where[32];
        snprintf(where, sizeof where, "line %d", ++line);
        while (len && strchr(" \t\r", text[i]))
            i++, len--;
        while (len && strchr(" \t\r", text[i + len - 1]))
            len--;
        const char *colon = len ? memchr(text + i, ':', len) : NULL;
        size_t n_name = colon ? (size_t)(colon - text) - i : len;
        if (len && text[i] != '#')
            s = add(out, MAX_LABELS, MAX_LABEL_BYTES, text + i, n_name, colon ? colon + 1 : NULL,
                    colon ? len - n_name - 1 : 0, name, where, err);
        i = next;
    }
    return s;
}

/* A list of JSON is no object, which is what nb_json_parse reads: it is put into one. */
static enum nb_status read_json_list(const char *text, size_t n, const char *name,
                                     struct nb_names *out, struct nb_error *err) {
    json_error_t e = {0};
    json_t *list = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!list)
        return nb_json_no_memory(&e)
                   ? nb_fail_memory(err, n, name)
                   : nb_fail(err, NB_ERR_FORMAT, "%s: not valid JSON: %s (line %d, column %d)",
                             name, e.text, e.line, e.column);
    enum nb_status s = add_list(out, MAX_LABELS, MAX_LABEL_BYTES, list, name, "labels", err);
    json_decref(list);
    return s;
}

enum nb_status nb_labels_read(const char *text, size_t n, const char *name, struct nb_names *out,
                              struct nb_error *err) {
    *out = (struct nb_names){0};
    const char *nul = n ? memchr(text, 0, n) : NULL;
    if (nul)
        return nb_fail(err, NB_ERR_FORMAT, "%s: byte %zu is NUL, expected lines of text", name,
                       (size_t)(nul - text));
    size_t from = 0;
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) /* a byte order mark */
        from = 3;
    while (from < n && strchr(" \t\r\n", text[from]))
        from++;
    enum nb_status s = from < n && text[from] == '['
                           ? read_json_list(text + from, n - from, name, out, err)
                           : read_lines(text, n, name, out, err);
    if (s == NB_OK && out->n == 0)
        s = nb_fail(err, NB_ERR_FORMAT,
                    "%s: has no labels, expected a line each: NAME or "
                    "NAME: DESCRIPTION",
                    name);
    if (s == NB_OK && out->n == 1)
        s = nb_fail(err, NB_ERR_FORMAT,
                    "%s: has the one label \"%s\", expected at least two to choose from", name,
                    out->of[0].name);
    return s;
}

/* ---- context ---- */

static enum nb_status read_string(const json_t *value, size_t most, const char *name,
                                  const char *key, char **out, struct nb_error *err) {
    if (!json_is_string(value))
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %s, expected a string", name, key,
                       nb_json_type(value));
    return clean(json_string_value(value), json_string_length(value), most, name, key, out, err);
}

/* Instructions keep their lines. */
static enum nb_status read_instructions(const json_t *value, const char *name, char **out,
                                        struct nb_error *err) {
    if (!json_is_string(value))
        return nb_fail(err, NB_ERR_FORMAT, "%s: instructions is %s, expected a string", name,
                       nb_json_type(value));
    if (json_string_length(value) > MAX_INSTRUCTIONS_BYTES)
        return nb_fail(err, NB_ERR_LIMIT, "%s: instructions: %zu bytes, at most %d are allowed",
                       name, json_string_length(value), MAX_INSTRUCTIONS_BYTES);
    *out = strdup(json_string_value(value));
    return *out ? NB_OK : nb_fail_memory(err, json_string_length(value), name);
}

enum nb_status nb_context_read(const char *text, size_t n, const char *name, struct nb_context *out,
                               bool *actions, struct nb_error *err) {
    *out = (struct nb_context){0};
    *actions = false;
    json_t *object, *value;
    const char *key;
    enum nb_status s = nb_json_parse(text, n, name, &object, err);
    if (s != NB_OK)
        return s;
    json_object_foreach(object, key, value) {
        if (json_is_null(value) || s != NB_OK)
            continue;
        if (strcmp(key, "company") == 0) {
            s = read_string(value, MAX_COMPANY_BYTES, name, key, &out->company, err);
        } else if (strcmp(key, "instructions") == 0) {
            s = read_instructions(value, name, &out->instructions, err);
        } else if (strcmp(key, "actions") == 0) {
            *actions = true;
            s = json_is_array(value)
                    ? add_list(&out->actions, MAX_ACTIONS, MAX_ACTION_BYTES, value, name, key, err)
                    : nb_fail(err, NB_ERR_FORMAT, "%s: actions is %s, expected a list", name,
                              nb_json_type(value));
        } else {
            s = nb_fail(err, NB_ERR_FORMAT,
                        "%s: %.64s: no such key; expected company, actions and instructions", name,
                        key);
        }
    }
    json_decref(object);
    return s;
}

void nb_context_free(struct nb_context *context) {
    free(context->company);
    free(context->instructions);
    nb_names_free(&context->actions);
    *context = (struct nb_context){0};
}

void nb_names_write(const struct nb_names *names, const char *before, bool descriptions,
                    struct nb_buf *out) {
    for (size_t i = 0; i < names->n; i++) {
        const struct nb_named *item = &names->of[i];
        nb_buf_printf(out, "%s%s%s", i ? "\n" : "", before, item->name);
        if (descriptions && item->description)
            nb_buf_printf(out, ": %s", item->description);
    }
}
