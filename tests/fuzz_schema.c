/* Bytes make a schema, then choices. Whatever the masks let be written fulfils the schema, by the
 * validator of tests/validator.h, and by the grammar's own; documents that the bytes make as well
 * are judged alike by both. The first byte says whether the bytes are the text of a schema
 * themselves: any at all, which must give a grammar or an error with a message. */
#include "fuzz.h"

#include "grammar/grammar.h"
#include "validator.h"

#include <string.h>

struct choices {
    const uint8_t *at, *end;
};

static unsigned below(struct choices *c, unsigned n) {
    return c->at < c->end ? *c->at++ % n : 0;
}

/* ---- Schemas and documents out of choices ---- */

static void put_schema(struct choices *c, struct nb_buf *out, int depth);

static const char *const keys[] = {"a", "b", "ab", "c"};

static void put_number(struct choices *c, struct nb_buf *out) {
    static const char *const numbers[] = {"0",    "1",  "2",   "-1",  "3",   "0.5",
                                          "-2.5", "10", "1e1", "100", "1.5", "0.25"};
    nb_buf_add_string(out, numbers[below(c, 12)]);
}

static void put_string(struct choices *c, struct nb_buf *out) {
    static const char *const strings[] = {"\"\"",           "\"a\"",  "\"b\"",       "\"ab\"",
                                          "\"ba\"",         "\"é\"",  "\"aab\"",     "\"\\n\"",
                                          "\"2024-02-29\"", "\"bb\"", "\"\\u0061\"", "\"abc\""};
    nb_buf_add_string(out, strings[below(c, 12)]);
}

static void put_value(struct choices *c, struct nb_buf *out, int depth) {
    unsigned kind = below(c, depth > 0 ? 7 : 5), n;
    switch (kind) {
    case 0:
        nb_buf_add_string(out, "null");
        break;
    case 1:
        nb_buf_add_string(out, below(c, 2) ? "true" : "false");
        break;
    case 2:
    case 3:
        put_number(c, out);
        break;
    case 4:
        put_string(c, out);
        break;
    default:
        nb_buf_add_string(out, kind == 5 ? "[" : "{");
        n = below(c, 4);
        for (unsigned i = 0; i < n; i++) {
            nb_buf_add_string(out, i ? "," : "");
            if (kind == 6)
                nb_buf_printf(out, "\"%s\":", keys[(i + below(c, 2)) % 4]);
            put_value(c, out, depth - 1);
        }
        nb_buf_add_string(out, kind == 5 ? "]" : "}");
    }
}

static void put_list(struct choices *c, struct nb_buf *out, int depth) {
    nb_buf_add_string(out, "[");
    for (unsigned i = 0, n = 1 + below(c, 3); i < n; i++) {
        nb_buf_add_string(out, i ? "," : "");
        put_schema(c, out, depth - 1);
    }
    nb_buf_add_string(out, "]");
}

static void put_members(struct choices *c, struct nb_buf *out, int depth) {
    static const char *const patterns[] = {"^a", "b$", "^[ab]+$", "c"};
    bool pattern = below(c, 4) == 0;
    nb_buf_add_string(out, pattern ? "\"patternProperties\":{" : "\"properties\":{");
    for (unsigned i = 0, n = 1 + below(c, 3); i < n; i++) {
        nb_buf_printf(out, "%s\"%s\":", i ? "," : "", pattern ? patterns[i] : keys[i]);
        put_schema(c, out, depth - 1);
    }
    nb_buf_add_string(out, "}");
}

static void put_keyword(struct choices *c, struct nb_buf *out, int depth) {
    static const char *const types[] = {"null",   "boolean", "integer", "number",
                                        "string", "array",   "object"};
    static const char *const counts[] = {"minLength", "maxLength",     "minItems",
                                         "maxItems",  "minProperties", "maxProperties"};
    static const char *const bounds[] = {"minimum", "maximum", "exclusiveMinimum",
                                         "exclusiveMaximum"};
    static const char *const lists[] = {"anyOf", "oneOf", "allOf"};
    static const char *const subs[] = {
        "items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"};
    static const char *const patterns[] = {"^a", "b", "^[a-b]*$", "^(?!ab)", "a$", "^.{2}$"};
    unsigned which = below(c, depth > 0 ? 16 : 8);
    switch (which) {
    case 0:
    case 1:
        nb_buf_printf(out, "\"type\":\"%s\"", types[below(c, 7)]);
        break;
    case 2:
        nb_buf_printf(out, "\"%s\":%u", counts[below(c, 6)], below(c, 4));
        break;
    case 3:
        nb_buf_printf(out, "\"%s\":", bounds[below(c, 4)]);
        put_number(c, out);
        break;
    case 4:
        nb_buf_add_string(out, "\"enum\":[");
        put_value(c, out, 1);
        nb_buf_add_string(out, ",");
        put_value(c, out, 1);
        nb_buf_add_string(out, "]");
        break;
    case 5:
        nb_buf_printf(out, "\"pattern\":\"%s\"", patterns[below(c, 6)]);
        break;
    case 6:
        nb_buf_printf(out, "\"required\":[\"%s\"]", keys[below(c, 4)]);
        break;
    case 7:
        if (below(c, 2))
            nb_buf_add_string(out, "\"uniqueItems\":true");
        else
            nb_buf_printf(out, "\"multipleOf\":%s", below(c, 2) ? "2" : "0.5");
        break;
    case 8:
    case 9:
        nb_buf_printf(out, "\"%s\":", lists[below(c, 3)]);
        put_list(c, out, depth);
        break;
    case 10:
        nb_buf_add_string(out, "\"prefixItems\":");
        put_list(c, out, depth);
        break;
    case 11:
    case 12:
        put_members(c, out, depth);
        break;
    case 13:
        nb_buf_printf(out, "\"dependentRequired\":{\"%s\":[\"%s\"]}", keys[below(c, 4)],
                      keys[below(c, 4)]);
        break;
    default:
        nb_buf_printf(out, "\"%s\":", subs[below(c, 8)]);
        put_schema(c, out, depth - 1);
    }
}

/* Keywords may come twice: then the text is no schema, which is told. */
static void put_schema(struct choices *c, struct nb_buf *out, int depth) {
    unsigned n = below(c, 5);
    if (n == 4) {
        nb_buf_add_string(out, below(c, 4) ? "true" : "false");
        return;
    }
    nb_buf_add_string(out, "{");
    for (unsigned i = 0; i < n; i++) {
        nb_buf_add_string(out, i ? "," : "");
        put_keyword(c, out, depth);
    }
    nb_buf_add_string(out, "}");
}

/* ---- Checks ---- */

static void explain(const char *what, const char *schema, const char *text) {
    fprintf(stderr, "%s\n  schema %s\n  text   %s\n", what, schema, text);
    abort();
}

static void check_document(const char *schema_text, const struct doc *schema,
                           struct nb_grammar *grammar, const char *text, size_t n,
                           bool must_be_valid) {
    struct doc *doc = doc_read(text, n);
    struct nb_error err;
    bool valid = false;
    size_t where;
    if (!doc) {
        if (must_be_valid)
            explain("written under masks, and no JSON", schema_text, text);
        return;
    }
    enum verdict verdict = doc_validate(schema, doc);
    doc_free(doc);
    if (nb_grammar_validate(grammar, text, n, &valid, &where, &err) != NB_OK) {
        REQUIRE(err.code == NB_ERR_LIMIT);
        return;
    }
    if (verdict != UNDECIDED && valid != (verdict == VALID))
        explain(valid ? "accepted, and not valid" : "refused, and valid", schema_text, text);
    if (must_be_valid && !valid)
        explain("written under masks, and not valid", schema_text, text);
}

/* Bytes that may come next, of those that JSON is made of; few, so that texts end. */
static void write_under_masks(struct choices *c, const char *schema_text, const struct doc *schema,
                              struct nb_grammar *grammar) {
    static const char alphabet[] = "\"}],:{[0aebntr1ulsf2.5c-";
    struct nb_matcher *matcher;
    struct nb_error err;
    struct nb_buf text = {0};
    if (nb_matcher_open(grammar, &matcher, &err) != NB_OK)
        return; /* nothing fulfils the schema */
    nb_buf_add_string(&text, "");
    for (int i = 0; i < 200; i++) {
        char allowed[sizeof alphabet];
        unsigned n = 0;
        if (nb_matcher_can_end(matcher) && below(c, 3) == 0) {
            check_document(schema_text, schema, grammar, text.data, text.len, true);
            break;
        }
        struct nb_matcher_mark mark = nb_matcher_mark(matcher);
        for (size_t k = 0; alphabet[k]; k++)
            if (nb_matcher_accept_bytes(matcher, &alphabet[k], 1)) {
                allowed[n++] = alphabet[k];
                nb_matcher_reset(matcher, &mark);
            }
        if (!n && !nb_matcher_can_end(matcher)) {
            /* Another byte may be what is asked for; some byte must be. */
            bool any = false;
            for (int byte = 0; byte < 256 && !any; byte++)
                any = nb_matcher_accept_bytes(matcher, (const char[]){(char)byte}, 1);
            if (!any && text.len) /* at once: nothing fulfils the schema */
                explain("nothing may follow", schema_text, text.data);
            break;
        }
        if (!n)
            continue;
        char byte = allowed[below(c, n)];
        REQUIRE(nb_matcher_accept_bytes(matcher, &byte, 1));
        nb_buf_add(&text, &byte, 1);
    }
    nb_matcher_close(matcher);
    nb_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2 || size > 2000)
        return 0;
    struct choices c = {data + 1, data + size};
    const struct nb_grammar_options options = {.any_order = data[0] & 2, .flexible = data[0] & 4};
    struct nb_grammar *grammar;
    struct nb_error err = {0};
    struct nb_buf text = {0};
    if (data[0] & 1)
        nb_buf_add(&text, data + 1, size - 1);
    else
        put_schema(&c, &text, 3);
    enum nb_status s = nb_grammar_schema(text.data, text.len, &options, NULL, &grammar, &err);
    if (s != NB_OK) {
        REQUIRE(err.code == s && err.message[0] && s != NB_ERR_INTERNAL);
        nb_buf_free(&text);
        return 0;
    }
    struct doc *schema = doc_read(text.data, text.len);
    if (schema && !(data[0] & 1)) {
        for (int i = 0; i < 4; i++) {
            struct nb_buf document = {0};
            put_value(&c, &document, 3);
            check_document(text.data, schema, grammar, document.data, document.len, false);
            nb_buf_free(&document);
        }
        for (int i = 0; i < 3; i++)
            write_under_masks(&c, text.data, schema, grammar);
    }
    doc_free(schema);
    nb_grammar_release(grammar);
    nb_buf_free(&text);
    return 0;
}
