/* Classification: a document to what it is and says. The model answers JSON under a schema, the
 * classification's or the caller's; closed choices are scored, label by label, and the rest is
 * written under the schema's grammar. A checkpoint that was made for this has classify.txt, the
 * form it was trained on; another one is asked in words, by prompts/classify.txt. */
#include "base/clock.h"
#include "base/file.h"
#include "document/document.h"
#include "grammar/value.h"
#include "task/answer.h"
#include "task/fields.h"
#include "task/prompt.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const unsigned char nb_data_prompt_classify[], nb_data_prompt_classify_schema[],
    nb_data_classify_context[], nb_data_document_types[], nb_data_schema_classify[];
extern const size_t nb_data_prompt_classify_bytes, nb_data_prompt_classify_schema_bytes,
    nb_data_classify_context_bytes, nb_data_document_types_bytes, nb_data_schema_classify_bytes;

enum {
    ANSWER_TOKENS = 320,    /* of a classification, at most; what is fixed comes on top */
    SCHEMA_TOKENS = 1536,   /* of an answer to a caller's schema */
    UNTRAINED_TOKENS = 384, /* the same of a model that was trained on a form of its own: what it
                             * has not seen by then does not come */
    PREFIX_TOKENS = 1500,   /* before the document, that a trained form has descriptions in */
    MAX_FILE_BYTES = 64 * 1024,
};

struct nb_classifier {
    struct nb_engine *engine;
    bool custom; /* the answer is the caller's schema's */
    struct nb_names types;
    struct nb_context context;
    struct nb_prompt prompt;
    struct nb_answer_choices choices;
    struct nb_answer_options answer;
    size_t room; /* for a prompt */
};

/* ---- what is asked ---- */

/* The options' text, or what the library carries. */
static struct nb_named_text or_default(const struct nb_named_text *given, const unsigned char *data,
                                       size_t n, const char *name) {
    struct nb_named_text text = {(const char *)data, n, name};
    if (!given->text)
        return text;
    text = *given;
    text.name = text.name ? text.name : name;
    return text;
}

/* A file of the checkpoint's folder; *text stays as it is where there is none. */
static enum nb_status read_of_folder(const struct nb_engine *e, const char *name,
                                     struct nb_buf *bytes, char *path, struct nb_named_text *text,
                                     struct nb_error *err) {
    if (!nb_path_join(path, PATH_MAX, e->folder, name) || !nb_is_file(path))
        return NB_OK;
    enum nb_status s = nb_read_regular_file(path, MAX_FILE_BYTES, bytes, err);
    if (s == NB_OK)
        *text = (struct nb_named_text){bytes->data ? bytes->data : "", bytes->len, path};
    return s;
}

static enum nb_status read_types(struct nb_classifier *c, const struct nb_classify_options *o,
                                 struct nb_error *err) {
    char path[PATH_MAX];
    struct nb_buf bytes = {0};
    struct nb_named_text text =
        or_default(&o->labels, nb_data_document_types, nb_data_document_types_bytes, "labels");
    enum nb_status s = NB_OK;
    if (!o->labels.text)
        s = read_of_folder(c->engine, "labels.txt", &bytes, path, &text, err);
    if (s == NB_OK)
        s = nb_labels_read(text.text, text.bytes, text.name, &c->types, err);
    nb_buf_free(&bytes);
    return s;
}

static enum nb_status read_context(struct nb_classifier *c, const struct nb_classify_options *o,
                                   struct nb_error *err) {
    bool actions = false;
    enum nb_status s = NB_OK;
    if (o->context.text)
        s = nb_context_read(o->context.text, o->context.bytes,
                            o->context.name ? o->context.name : "context", &c->context, &actions,
                            err);
    if (s != NB_OK || actions)
        return s;
    struct nb_context usual;
    s = nb_context_read((const char *)nb_data_classify_context, nb_data_classify_context_bytes,
                        "classify-context.json", &usual, &actions, err);
    if (s == NB_OK) {
        c->context.actions = usual.actions;
        usual.actions = (struct nb_names){0};
    }
    nb_context_free(&usual);
    return s;
}

/* ---- the schema ---- */

/* Makes a member of the schema's properties an enum of these names, and null. False if memory ran
 * out. */
static bool set_names(json_t *schema, const char *key, const struct nb_names *names, bool null) {
    json_t *list = json_array(),
           *member = json_object_get(json_object_get(schema, "properties"), key);
    bool good = list && member && json_object_del(member, "type") == 0;
    for (size_t i = 0; i < names->n && good; i++)
        good = json_array_append_new(list, json_string(names->of[i].name)) == 0;
    if (good && null)
        good = json_array_append_new(list, json_null()) == 0;
    return json_object_set_new(member, "enum", list) == 0 && good;
}

/* The schema of a classification with the caller's names in it. */
static enum nb_status make_schema(struct nb_classifier *c, json_t **out, struct nb_error *err) {
    size_t n = nb_data_schema_classify_bytes;
    enum nb_status s =
        nb_json_parse((const char *)nb_data_schema_classify, n, "schemas/classify.json", out, err);
    if (s != NB_OK)
        return s;
    json_object_del(*out, "$schema");
    json_object_del(*out, "$comment");
    json_object_del(*out, "title");
    if (!set_names(*out, "document_type", &c->types, false) ||
        !set_names(*out, "selected_action", &c->context.actions, true))
        return nb_fail_memory(err, n, "the schema");
    return NB_OK;
}

/* A schema need be no object: true is one. */
static enum nb_status parse_schema(const struct nb_named_text *text, json_t **out,
                                   struct nb_error *err) {
    json_error_t e = {0};
    *out = json_loadb(text->text, text->bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (*out || !nb_json_no_memory(&e))
        return NB_OK; /* what jansson does not read, the grammar may, or says why it does not */
    return nb_fail_memory(err, text->bytes, text->name);
}

static enum nb_status compile(struct nb_classifier *c, const struct nb_named_text *schema,
                              struct nb_error *err) {
    struct nb_structure what = {
        .schema = schema->text, .schema_bytes = schema->bytes, .name = schema->name};
    return nb_grammar_compile(c->engine, &what, &c->answer.grammar, err);
}

/* ---- opening ---- */

/* The prompt's template: the checkpoint's own, or the one in words. */
static enum nb_status open_prompt(struct nb_classifier *c, const struct nb_classify_options *o,
                                  const char *schema, struct nb_error *err) {
    struct nb_engine *e = c->engine;
    char path[PATH_MAX];
    struct nb_buf bytes = {0};
    struct nb_chat chat;
    struct nb_prompt_values values = {.company = c->context.company,
                                      .instructions = c->context.instructions,
                                      .schema = schema,
                                      .document_types = &c->types,
                                      .actions = &c->context.actions};
    struct nb_named_text text = {0};
    enum nb_prompt_form form = NB_PROMPT_TRAINED;
    enum nb_status s = NB_OK;
    if (!o->prompt.text)
        s = read_of_folder(e, "classify.txt", &bytes, path, &text, err);
    if (s == NB_OK && !text.text) {
        form = nb_chat_open(e->folder, &chat, err) == NB_OK ? NB_PROMPT_CHAT : NB_PROMPT_PLAIN;
        text = c->custom ? or_default(&o->prompt, nb_data_prompt_classify_schema,
                                      nb_data_prompt_classify_schema_bytes, "classify-schema.txt")
                         : or_default(&o->prompt, nb_data_prompt_classify,
                                      nb_data_prompt_classify_bytes, "classify.txt");
    }
    size_t most = (size_t)e->context * 3 / 8;
    most = most < PREFIX_TOKENS ? most : PREFIX_TOKENS;
    if (s == NB_OK)
        s = nb_prompt_open(e, form, form == NB_PROMPT_CHAT ? &chat : NULL, text.text, text.bytes,
                           text.name, &values, most, &c->prompt, err);
    c->answer.fresh = form == NB_PROMPT_CHAT;
    nb_buf_free(&bytes);
    return s;
}

/* The schema, its grammar, its choices, the prompt. */
static enum nb_status open_answer(struct nb_classifier *c, const struct nb_classify_options *o,
                                  struct nb_error *err) {
    json_t *schema = NULL;
    char *written = NULL;
    struct nb_named_text text = o->schema;
    enum nb_status s;
    if (c->custom) {
        text.name = text.name ? text.name : "schema";
        s = parse_schema(&text, &schema, err);
    } else {
        s = make_schema(c, &schema, err);
        written = s == NB_OK ? json_dumps(schema, JSON_COMPACT) : NULL;
        if (s == NB_OK && !written)
            s = nb_fail_memory(err, 1, "the schema");
        text = (struct nb_named_text){written, written ? strlen(written) : 0, "classify.json"};
    }
    if (s == NB_OK)
        s = compile(c, &text, err);
    if (s == NB_OK)
        s = nb_answer_find_choices(schema, &c->choices, err);
    if (s == NB_OK)
        s = open_prompt(c, o, text.text, err);
    free(written);
    json_decref(schema);
    return s;
}

static enum nb_status open(struct nb_classifier *c, const struct nb_classify_options *o,
                           struct nb_error *err) {
    struct nb_engine *e = c->engine;
    if (!e->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: has neither tokenizer.json nor tokenizer.model, which text needs",
                       e->folder);
    c->custom = o->schema.text != NULL;
    c->answer.choices = &c->choices;
    enum nb_status s = read_types(c, o, err);
    if (s == NB_OK)
        s = read_context(c, o, err);
    if (s == NB_OK)
        s = open_answer(c, o, err);
    if (s == NB_OK)
        s = nb_answer_reserve(e, &c->answer, &c->answer.reserve, err);
    if (s != NB_OK)
        return s;
    /* A short context is shared in halves. */
    size_t context = (size_t)e->context, most = ANSWER_TOKENS;
    if (c->custom)
        most = c->prompt.form == NB_PROMPT_TRAINED ? UNTRAINED_TOKENS : SCHEMA_TOKENS;
    size_t left = context > c->answer.reserve ? context - c->answer.reserve : 0;
    c->answer.max_tokens = most < left / 4 ? most : left / 4;
    c->room = left - c->answer.max_tokens;
    return NB_OK;
}

enum nb_status nb_classifier_open(struct nb_engine *engine,
                                  const struct nb_classify_options *options,
                                  struct nb_classifier **out, struct nb_error *err) {
    static const struct nb_classify_options usual = {0};
    struct nb_classifier *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c)
        return nb_fail_memory(err, sizeof *c, "a classifier");
    c->engine = engine;
    enum nb_status s = open(c, options ? options : &usual, err);
    if (s != NB_OK) {
        nb_classifier_close(c);
        return s;
    }
    *out = c;
    return NB_OK;
}

void nb_classifier_close(struct nb_classifier *c) {
    if (!c)
        return;
    nb_grammar_release(c->answer.grammar);
    nb_answer_free_choices(&c->choices);
    nb_prompt_close(&c->prompt);
    nb_context_free(&c->context);
    nb_names_free(&c->types);
    free(c);
}

/* ---- from the answer to its fields ---- */

static const struct nb_value *member(const struct nb_value *object, const char *a, const char *b) {
    const struct nb_value *v = nb_value_get(object, a);
    return b ? nb_value_get(v, b) : v;
}

/* A string, or a number as it is written; NULL for null and for what `valid` refuses. */
static enum nb_status copy(const struct nb_value *v, bool (*valid)(const char *), char **out,
                           struct nb_error *err) {
    *out = NULL;
    if (!nb_value_is(v, NB_VALUE_STRING) && !nb_value_is(v, NB_VALUE_NUMBER))
        return NB_OK;
    enum nb_status s = nb_field_clean(v->text, v->n, out, err);
    if (s == NB_OK && valid && !valid(*out)) {
        free(*out);
        *out = NULL;
    }
    return s;
}

static enum nb_status read_fields(const struct nb_value *a, struct nb_classification *out,
                                  struct nb_error *err) {
    const struct field {
        const char *object, *key;
        bool (*valid)(const char *);
        char **to;
    } fields[] = {
        {"document_type", NULL, NULL, &out->document_type},
        {"transaction_direction", NULL, NULL, &out->transaction_direction},
        {"primary_party", "name", nb_field_is_text, &out->party},
        {"primary_party", "role", NULL, &out->role},
        {"extracted_summary", "total_amount", nb_field_is_amount, &out->total},
        {"extracted_summary", "currency", nb_field_is_currency, &out->currency},
        {"extracted_summary", "document_date", nb_field_is_date, &out->date},
        {"extracted_summary", "document_number", nb_field_is_text, &out->number},
        {"reasoning", NULL, nb_field_is_text, &out->reasoning},
        {"selected_action", NULL, NULL, &out->selected_action},
    };
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < sizeof fields / sizeof *fields && s == NB_OK; i++) {
        const struct field *f = &fields[i];
        s = copy(member(a, f->object, f->key), f->valid, f->to, err);
    }
    out->business_relevant = nb_value_is(member(a, "business_relevant", NULL), NB_VALUE_TRUE);
    return s;
}

/* Notes how sure the model was of what it chose. */
static enum nb_status read_confidences(const struct nb_classifier *c, struct nb_classification *out,
                                       struct nb_error *err) {
    if (!c->choices.n)
        return NB_OK;
    out->confidences = calloc(c->choices.n, sizeof *out->confidences);
    if (!out->confidences)
        return nb_fail_memory(err, c->choices.n * sizeof *out->confidences, "the answer");
    for (size_t i = 0; i < c->choices.n; i++) {
        const struct nb_answer_choice *choice = &c->choices.of[i];
        if (choice->chosen < 0)
            continue;
        struct nb_confidence *to = &out->confidences[out->n_confidences++];
        *to = (struct nb_confidence){strdup(choice->name), choice->p[choice->chosen]};
        if (!to->field)
            return nb_fail_memory(err, strlen(choice->name), "the answer");
        if (strcmp(to->field, "document_type") == 0)
            out->confidence = to->p;
    }
    return NB_OK;
}

static enum nb_status read_answer(const struct nb_classifier *c, struct nb_buf *text,
                                  struct nb_classification *out, struct nb_error *err) {
    struct nb_arena arena = {0};
    struct nb_value value;
    enum nb_status s = NB_OK;
    if (!c->custom) {
        s = nb_value_parse(text->data, text->len, "the answer", &arena, &value, err);
        if (s == NB_OK)
            s = read_fields(&value, out, err);
    }
    nb_arena_free(&arena);
    if (s == NB_OK)
        s = read_confidences(c, out, err);
    out->answer = text->data;
    *text = (struct nb_buf){0};
    return s;
}

/* ---- documents ---- */

/* Starts a sequence with what every prompt begins with, in pages that others can use, too: always
 * computed alone, so that the same document gives the same numbers whether they are found or not.
 */
static enum nb_status begin(const struct nb_classifier *c, struct nb_sequence *sequence,
                            const struct nb_tokens *prompt, size_t *cached, struct nb_error *err) {
    size_t fixed = c->prompt.fixed / NB_PAGE_TOKENS * NB_PAGE_TOKENS;
    enum nb_status s = nb_sequence_open(c->engine, sequence, err);
    if (s != NB_OK)
        return s;
    *cached = (size_t)nb_sequence_reuse(sequence, prompt->ids, prompt->n);
    if (*cached >= fixed)
        return NB_OK;
    s = nb_sequence_append(sequence, prompt->ids + *cached, fixed - *cached, 0, NULL, err);
    if (s == NB_OK)
        nb_sequence_publish(sequence, prompt->ids);
    return s;
}

static enum nb_status answer(struct nb_classifier *c, const char *text, size_t n,
                             struct nb_classification *out, struct nb_error *err) {
    static const char *const copied[] = {"\"primary_party\"\"name\"",
                                         "\"extracted_summary\"\"document_number\""};
    if (c->prompt.form == NB_PROMPT_TRAINED && !c->custom) {
        c->answer.copied = copied;
        c->answer.n_copied = sizeof copied / sizeof *copied;
        c->answer.date = "\"extracted_summary\"\"document_date\"";
        c->answer.document = text;
        c->answer.n_document = n;
    }
    struct nb_tokens prompt = {0};
    struct nb_sequence sequence = {0};
    struct nb_buf json = {0};
    enum nb_status s = nb_prompt_make(&c->prompt, text, n, c->room, &prompt, &out->truncated, err);
    if (s == NB_OK)
        s = begin(c, &sequence, &prompt, &out->cached_tokens, err);
    if (s == NB_OK)
        s = nb_answer_make(&sequence, prompt.ids + sequence.n, prompt.n - (size_t)sequence.n,
                           &c->answer, &json, &out->tokens, err);
    if (s == NB_OK)
        s = read_answer(c, &json, out, err);
    out->prompt_tokens = prompt.n;
    nb_sequence_close(&sequence);
    nb_tokens_free(&prompt);
    nb_buf_free(&json);
    return s;
}

/* Answers for a text in normal form. */
static enum nb_status classify(struct nb_classifier *c, const char *text, size_t n,
                               struct nb_classification *out, struct nb_error *err) {
    int64_t start = nb_now_us();
    enum nb_status s = answer(c, text, n, out, err);
    out->milliseconds = (double)(nb_now_us() - start) / 1000;
    if (s != NB_OK)
        nb_classification_free(out);
    return s;
}

enum nb_status nb_classifier_text(struct nb_classifier *c, const char *text, size_t n,
                                  struct nb_classification *out, struct nb_error *err) {
    *out = (struct nb_classification){0};
    struct nb_buf normal = {0};
    enum nb_status s = nb_text_normalize(text, n, "document", &normal, err);
    if (s == NB_OK && normal.len == 0)
        s = nb_fail(err, NB_ERR_FORMAT, "document: %s",
                    n ? "holds nothing but spaces" : "is empty");
    if (s == NB_OK)
        s = classify(c, normal.data, normal.len, out, err);
    nb_buf_free(&normal);
    return s;
}

enum nb_status nb_classifier_file(struct nb_classifier *c, const char *path,
                                  struct nb_classification *out, struct nb_error *err) {
    *out = (struct nb_classification){0};
    struct nb_buf text = {0};
    enum nb_status s = nb_document_read(path, &text, err);
    if (s == NB_OK && (s = classify(c, text.data, text.len, out, err)) != NB_OK)
        nb_fail_prefix(err, s, "%s", path);
    nb_buf_free(&text);
    return s;
}

enum nb_status nb_classify_text(struct nb_engine *engine, const char *text, size_t n,
                                struct nb_classification *out, struct nb_error *err) {
    struct nb_classifier *c;
    *out = (struct nb_classification){0};
    enum nb_status s = nb_classifier_open(engine, NULL, &c, err);
    if (s == NB_OK)
        s = nb_classifier_text(c, text, n, out, err);
    nb_classifier_close(c);
    return s;
}

enum nb_status nb_classify_file(struct nb_engine *engine, const char *path,
                                struct nb_classification *out, struct nb_error *err) {
    struct nb_classifier *c;
    *out = (struct nb_classification){0};
    enum nb_status s = nb_classifier_open(engine, NULL, &c, err);
    if (s == NB_OK)
        s = nb_classifier_file(c, path, out, err);
    nb_classifier_close(c);
    return s;
}

void nb_classification_free(struct nb_classification *c) {
    char *const strings[] = {c->document_type, c->party,          c->date,
                             c->currency,      c->total,          c->number,
                             c->role,          c->reasoning,      c->transaction_direction,
                             c->answer,        c->selected_action};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free(strings[i]);
    for (size_t i = 0; i < c->n_confidences; i++)
        free(c->confidences[i].field);
    free(c->confidences);
    *c = (struct nb_classification){0};
}
