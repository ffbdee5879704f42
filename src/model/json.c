#include "model/json.h"

#include "base/file.h"

bool nb_json_no_memory(const json_error_t *e) {
    return !e->text[0] || json_error_code(e) == json_error_out_of_memory;
}

enum nb_status nb_json_parse(const char *text, size_t n, const char *name, json_t **out,
                             struct nb_error *err) {
    json_error_t e = {0};
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!*out) {
        if (nb_json_no_memory(&e))
            return nb_fail_memory(err, n, name);
        return nb_fail(err, NB_ERR_FORMAT, "%s: not valid JSON: line %d, column %d: %s", name,
                       e.line, e.column, e.text);
    }
    if (!json_is_object(*out)) {
        enum nb_status s = nb_fail(err, NB_ERR_FORMAT, "%s: found %s, expected a JSON object", name,
                                   nb_json_type(*out));
        json_decref(*out);
        *out = NULL;
        return s;
    }
    return NB_OK;
}

enum nb_status nb_json_read(const char *path, size_t max_bytes, json_t **out,
                            struct nb_error *err) {
    *out = NULL;
    struct nb_buf text = {0};
    enum nb_status s = nb_read_regular_file(path, max_bytes, &text, err);
    if (s == NB_OK)
        s = nb_json_parse(text.data ? text.data : "", text.len, path, out, err);
    nb_buf_free(&text);
    return s;
}

const char *nb_json_type(const json_t *value) {
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

const json_t *nb_json_member(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

json_t *nb_json_text(const char *text, size_t n) {
    json_t *exact = json_stringn(text, n);
    return exact ? exact : json_string("\xEF\xBF\xBD");
}

static enum nb_status wrong_type(const json_t *v, const char *key, const char *expected,
                                 const char *name, struct nb_error *err) {
    return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %s, expected %s", name, key, nb_json_type(v),
                   expected);
}

enum nb_status nb_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                           int64_t *out, const char *name, struct nb_error *err) {
    const json_t *v = nb_json_member(object, key);
    if (!v)
        return NB_OK;
    if (!json_is_integer(v))
        return wrong_type(v, key, "an integer", name, err);
    int64_t n = json_integer_value(v);
    if (n < min || n > max)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %lld, expected %lld to %lld", name, key,
                       (long long)n, (long long)min, (long long)max);
    *out = n;
    return NB_OK;
}

enum nb_status nb_json_number(const json_t *object, const char *key, double min, double max,
                              double *out, const char *name, struct nb_error *err) {
    const json_t *v = nb_json_member(object, key);
    if (!v)
        return NB_OK;
    if (!json_is_number(v))
        return wrong_type(v, key, "a number", name, err);
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %g, expected %g to %g", name, key, x, min,
                       max);
    *out = x;
    return NB_OK;
}

enum nb_status nb_json_bool(const json_t *object, const char *key, bool *out, const char *name,
                            struct nb_error *err) {
    const json_t *v = nb_json_member(object, key);
    if (!v)
        return NB_OK;
    if (!json_is_boolean(v))
        return wrong_type(v, key, "true or false", name, err);
    *out = json_is_true(v);
    return NB_OK;
}

enum nb_status nb_json_string(const json_t *object, const char *key, const char **out,
                              const char *name, struct nb_error *err) {
    const json_t *v = nb_json_member(object, key);
    if (!v)
        return NB_OK;
    if (!json_is_string(v))
        return wrong_type(v, key, "a string", name, err);
    *out = json_string_value(v);
    return NB_OK;
}
