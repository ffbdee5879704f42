/* Reading a schema: keywords of drafts 4 to 2020-12 into formulas. References are followed when
 * they are met, so that only what the root reaches is read. */
#include "grammar/schema.h"

#include "grammar/uri.h"
#include "model/tokenizer_map.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum draft { DRAFT_4, DRAFT_6, DRAFT_7, DRAFT_2019, DRAFT_2020 };

enum keyword {
    K_NONE,
    K_REF,
    K_DYNAMIC_REF,
    K_RECURSIVE_REF,
    K_TYPE,
    K_ENUM,
    K_CONST,
    K_ALL_OF,
    K_ANY_OF,
    K_ONE_OF,
    K_NOT,
    K_IF,
    K_THEN,
    K_ELSE,
    K_PATTERN,
    K_FORMAT,
    K_MIN_LENGTH,
    K_MAX_LENGTH,
    K_MINIMUM,
    K_MAXIMUM,
    K_EXCLUSIVE_MINIMUM,
    K_EXCLUSIVE_MAXIMUM,
    K_MULTIPLE_OF,
    K_ITEMS,
    K_PREFIX_ITEMS,
    K_ADDITIONAL_ITEMS,
    K_CONTAINS,
    K_MIN_CONTAINS,
    K_MAX_CONTAINS,
    K_MIN_ITEMS,
    K_MAX_ITEMS,
    K_UNIQUE_ITEMS,
    K_PROPERTIES,
    K_PATTERN_PROPERTIES,
    K_ADDITIONAL_PROPERTIES,
    K_PROPERTY_NAMES,
    K_REQUIRED,
    K_MIN_PROPERTIES,
    K_MAX_PROPERTIES,
    K_DEPENDENCIES,
    K_DEPENDENT_REQUIRED,
    K_DEPENDENT_SCHEMAS,
    K_UNEVALUATED_ITEMS,
    K_UNEVALUATED_PROPERTIES,
    N_KEYWORDS
};

/* Each keyword, and the first and last draft that has it. */
static const struct keyword_info {
    const char *name;
    enum draft first, last;
} keywords[N_KEYWORDS] = {
    [K_REF] = {"$ref", DRAFT_4, DRAFT_2020},
    [K_DYNAMIC_REF] = {"$dynamicRef", DRAFT_2020, DRAFT_2020},
    [K_RECURSIVE_REF] = {"$recursiveRef", DRAFT_2019, DRAFT_2019},
    [K_TYPE] = {"type", DRAFT_4, DRAFT_2020},
    [K_ENUM] = {"enum", DRAFT_4, DRAFT_2020},
    [K_CONST] = {"const", DRAFT_6, DRAFT_2020},
    [K_ALL_OF] = {"allOf", DRAFT_4, DRAFT_2020},
    [K_ANY_OF] = {"anyOf", DRAFT_4, DRAFT_2020},
    [K_ONE_OF] = {"oneOf", DRAFT_4, DRAFT_2020},
    [K_NOT] = {"not", DRAFT_4, DRAFT_2020},
    [K_IF] = {"if", DRAFT_7, DRAFT_2020},
    [K_THEN] = {"then", DRAFT_7, DRAFT_2020},
    [K_ELSE] = {"else", DRAFT_7, DRAFT_2020},
    [K_PATTERN] = {"pattern", DRAFT_4, DRAFT_2020},
    [K_FORMAT] = {"format", DRAFT_4, DRAFT_2020},
    [K_MIN_LENGTH] = {"minLength", DRAFT_4, DRAFT_2020},
    [K_MAX_LENGTH] = {"maxLength", DRAFT_4, DRAFT_2020},
    [K_MINIMUM] = {"minimum", DRAFT_4, DRAFT_2020},
    [K_MAXIMUM] = {"maximum", DRAFT_4, DRAFT_2020},
    [K_EXCLUSIVE_MINIMUM] = {"exclusiveMinimum", DRAFT_4, DRAFT_2020},
    [K_EXCLUSIVE_MAXIMUM] = {"exclusiveMaximum", DRAFT_4, DRAFT_2020},
    [K_MULTIPLE_OF] = {"multipleOf", DRAFT_4, DRAFT_2020},
    [K_ITEMS] = {"items", DRAFT_4, DRAFT_2020},
    [K_PREFIX_ITEMS] = {"prefixItems", DRAFT_2020, DRAFT_2020},
    [K_ADDITIONAL_ITEMS] = {"additionalItems", DRAFT_4, DRAFT_2019},
    [K_CONTAINS] = {"contains", DRAFT_6, DRAFT_2020},
    [K_MIN_CONTAINS] = {"minContains", DRAFT_2019, DRAFT_2020},
    [K_MAX_CONTAINS] = {"maxContains", DRAFT_2019, DRAFT_2020},
    [K_MIN_ITEMS] = {"minItems", DRAFT_4, DRAFT_2020},
    [K_MAX_ITEMS] = {"maxItems", DRAFT_4, DRAFT_2020},
    [K_UNIQUE_ITEMS] = {"uniqueItems", DRAFT_4, DRAFT_2020},
    [K_PROPERTIES] = {"properties", DRAFT_4, DRAFT_2020},
    [K_PATTERN_PROPERTIES] = {"patternProperties", DRAFT_4, DRAFT_2020},
    [K_ADDITIONAL_PROPERTIES] = {"additionalProperties", DRAFT_4, DRAFT_2020},
    [K_PROPERTY_NAMES] = {"propertyNames", DRAFT_6, DRAFT_2020},
    [K_REQUIRED] = {"required", DRAFT_4, DRAFT_2020},
    [K_MIN_PROPERTIES] = {"minProperties", DRAFT_4, DRAFT_2020},
    [K_MAX_PROPERTIES] = {"maxProperties", DRAFT_4, DRAFT_2020},
    [K_DEPENDENCIES] = {"dependencies", DRAFT_4, DRAFT_2020},
    [K_DEPENDENT_REQUIRED] = {"dependentRequired", DRAFT_2019, DRAFT_2020},
    [K_DEPENDENT_SCHEMAS] = {"dependentSchemas", DRAFT_2019, DRAFT_2020},
    [K_UNEVALUATED_ITEMS] = {"unevaluatedItems", DRAFT_2019, DRAFT_2020},
    [K_UNEVALUATED_PROPERTIES] = {"unevaluatedProperties", DRAFT_2019, DRAFT_2020},
};

/* Where in its document a schema is, for messages. */
struct place {
    const struct place *up;
    const char *key; /* NULL: the item `index` */
    uint32_t key_bytes;
    uint32_t index;
};

/* A schema with a URI of its own: a document, or a part of one with $id. */
struct resource {
    const char *uri; /* without a fragment */
    const struct nb_value *value;
    enum draft draft;
    bool explicit_draft;
    struct resource *next;
};

struct anchor {
    const char *uri; /* of the resource, '#', the name */
    const struct nb_value *value;
    struct resource *resource;
    bool dynamic;
    struct anchor *next;
};

/* Schemas that were read, by where their text is. */
struct known {
    const struct nb_value *value;
    struct nb_node *node;
    const struct place *place; /* where it was met first */
};

struct pending {
    const struct nb_value *value;
    struct nb_node *node;
    struct resource *resource;
    const struct place *place;
};

struct compiler {
    struct nb_schema *schema;
    const struct nb_schema_options *options;
    const char *name;
    struct nb_error *err;
    struct resource *resources;
    struct anchor *anchors;
    struct known *known; /* [n_slots], open addressing */
    size_t n_known, n_slots;
    struct pending *pending; /* schemas that have a node and were not read yet */
    size_t n_pending, cap_pending;
    struct nb_node *anything, *nothing;
};

enum { MAX_DEPTH = 600 };

/* ---- messages ---- */

static size_t format_place(const struct place *place, char *out, size_t size, size_t used) {
    if (!place || !place->up)
        return used;
    used = format_place(place->up, out, size, used);
    if (used + 2 >= size)
        return used;
    if (!place->key) {
        int n = snprintf(out + used, size - used, "/%u", place->index);
        return used + (size_t)n < size ? used + (size_t)n : size - 1;
    }
    out[used++] = '/';
    for (uint32_t i = 0; i < place->key_bytes && used + 3 < size; i++) {
        char c = place->key[i];
        if (c == '~' || c == '/') {
            out[used++] = '~';
            c = c == '~' ? '0' : '1';
        }
        out[used++] = c;
    }
    out[used] = 0;
    return used;
}

struct shown_place {
    char text[400];
};

static struct shown_place show(const struct place *place) {
    struct shown_place s = {"#"};
    format_place(place, s.text, sizeof s.text, 1);
    return s;
}

static enum nb_status fail(struct compiler *c, const struct place *place, const char *fmt, ...)
    NB_PRINTF(3, 4);
static enum nb_status fail(struct compiler *c, const struct place *place, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return nb_fail(c->err, NB_ERR_FORMAT, "%s: %s: %s", c->name, show(place).text, text);
}

static enum nb_status no_memory(struct compiler *c) {
    return nb_fail_memory(c->err, c->schema->arena.allocated_bytes, c->name);
}

/* What is valid and not enforced: an error, or with `lenient` a note. */
static enum nb_status unsupported(struct compiler *c, const struct place *place, const char *fmt,
                                  ...) NB_PRINTF(3, 4);
static enum nb_status unsupported(struct compiler *c, const struct place *place, const char *fmt,
                                  ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!c->options->lenient)
        return nb_fail(c->err, NB_ERR_UNSUPPORTED, "%s: %s: %s", c->name, show(place).text, text);
    nb_buf_printf(&c->schema->notes, "%s: %s\n", show(place).text, text);
    return c->schema->notes.failed ? no_memory(c) : NB_OK;
}

/* ---- nodes ---- */

static struct nb_node *new_node(struct compiler *c, enum nb_node_kind kind, uint32_t n) {
    struct nb_node *node = nb_arena_alloc(&c->schema->arena, 1, sizeof *node);
    if (!node)
        return NULL;
    node->kind = kind;
    node->id = c->schema->n_nodes++;
    node->n = n;
    node->nodes = n ? nb_arena_alloc(&c->schema->arena, n, sizeof *node->nodes) : NULL;
    return n && !node->nodes ? NULL : node;
}

static struct nb_atom *new_atom(struct compiler *c, enum nb_atom_kind kind) {
    struct nb_atom *atom = nb_arena_alloc(&c->schema->arena, 1, sizeof *atom);
    if (!atom)
        return NULL;
    atom->kind = kind;
    atom->id = c->schema->n_atoms++;
    atom->max = atom->max_contains = UINT64_MAX;
    return atom;
}

static struct nb_node *atom_node(struct compiler *c, const struct nb_atom *atom) {
    struct nb_node *node = atom ? new_node(c, NB_NODE_ATOM, 0) : NULL;
    if (node)
        node->atom = atom;
    return node;
}

static struct nb_node *kind_node(struct compiler *c, unsigned kinds) {
    struct nb_node *node = new_node(c, NB_NODE_KIND, 0);
    if (node)
        node->kinds = kinds;
    return node;
}

static struct nb_node *not_node(struct compiler *c, const struct nb_node *of) {
    struct nb_node *node = new_node(c, NB_NODE_NOT, 1);
    if (node)
        node->nodes[0] = of;
    return node;
}

static struct nb_node *pair_node(struct compiler *c, enum nb_node_kind kind,
                                 const struct nb_node *a, const struct nb_node *b) {
    struct nb_node *node = a && b ? new_node(c, kind, 2) : NULL;
    if (node) {
        node->nodes[0] = a;
        node->nodes[1] = b;
    }
    return node;
}

/* ---- documents and references ---- */

static bool draft_of(const struct nb_value *schema, enum draft *out) {
    static const struct {
        const char *part;
        enum draft draft;
    } known[] = {{"/draft-04/", DRAFT_4},
                 {"/draft-06/", DRAFT_6},
                 {"/draft-07/", DRAFT_7},
                 {"/draft/2019-09/", DRAFT_2019},
                 {"/draft/2020-12/", DRAFT_2020}};
    const struct nb_value *named = nb_value_get(schema, "$schema");
    if (!nb_value_is(named, NB_VALUE_STRING) || !strstr(named->text, "json-schema.org/"))
        return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strstr(named->text, known[i].part)) {
            *out = known[i].draft;
            return true;
        }
    }
    return false;
}

/* The $id of a schema (in draft 4, id); in drafts up to 7 one beside a $ref counts for nothing. */
static const struct nb_value *own_id(const struct nb_value *schema, const struct resource *in) {
    if (in->draft <= DRAFT_7 && nb_value_is(nb_value_get(schema, "$ref"), NB_VALUE_STRING))
        return NULL;
    const struct nb_value *id = nb_value_get(schema, in->draft == DRAFT_4 ? "id" : "$id");
    return nb_value_is(id, NB_VALUE_STRING) ? id : NULL;
}

static struct resource *add_resource(struct compiler *c, const char *uri, size_t n,
                                     const struct nb_value *value, enum draft draft) {
    struct resource *r = nb_arena_alloc(&c->schema->arena, 1, sizeof *r);
    if (!r || !(r->uri = nb_arena_string(&c->schema->arena, uri, n)))
        return NULL;
    r->value = value;
    r->draft = draft;
    r->next = c->resources;
    c->resources = r;
    return r;
}

static enum nb_status add_anchor(struct compiler *c, const struct nb_value *value,
                                 struct resource *r, const char *name, bool dynamic) {
    struct nb_buf uri = {0};
    struct anchor *a = nb_arena_alloc(&c->schema->arena, 1, sizeof *a);
    nb_buf_printf(&uri, "%s#%s", r->uri, name);
    if (a && !uri.failed)
        a->uri = nb_arena_string(&c->schema->arena, uri.data, uri.len);
    nb_buf_free(&uri);
    if (!a || !a->uri)
        return no_memory(c);
    a->value = value;
    a->resource = r;
    a->dynamic = dynamic;
    a->next = c->anchors;
    c->anchors = a;
    return NB_OK;
}

/* The resource that a schema is the root of, or `in`. */
static struct resource *resource_at(struct compiler *c, const struct nb_value *value,
                                    struct resource *in) {
    if (value->kind != NB_VALUE_OBJECT || value == in->value || !own_id(value, in))
        return in;
    for (struct resource *r = c->resources; r; r = r->next) {
        if (r->value == value)
            return r;
    }
    return in;
}

/* Members whose values are no schemas, whatever they look like. */
static bool holds_data(const struct nb_value_key *key) {
    static const char *const names[] = {"enum", "const", "default", "examples"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (key->n == strlen(names[i]) && memcmp(key->text, names[i], key->n) == 0)
            return true;
    }
    return false;
}

/* Members whose members are named by the user: `id` there is no keyword. */
static bool holds_named(const struct nb_value_key *key) {
    static const char *const names[] = {
        "properties",   "patternProperties", "definitions",      "$defs",
        "dependencies", "dependentSchemas",  "dependentRequired"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (key->n == strlen(names[i]) && memcmp(key->text, names[i], key->n) == 0)
            return true;
    }
    return false;
}

static enum nb_status scan_ids(struct compiler *c, const struct nb_value *value,
                               struct resource *in);

static enum nb_status scan_own(struct compiler *c, const struct nb_value *value,
                               struct resource **in) {
    const struct nb_value *id = own_id(value, *in);
    enum draft draft = (*in)->draft;
    if (value != (*in)->value && draft_of(value, &draft) && draft != (*in)->draft) {
        struct resource probe = {.draft = draft};
        id = own_id(value, &probe);
    }
    if (id && id->n && value != (*in)->value) {
        const char *hash = memchr(id->text, '#', id->n);
        if (hash == id->text) {
            if (id->n > 1 && (*in)->draft <= DRAFT_7)
                return add_anchor(c, value, *in, id->text + 1, false);
        } else {
            struct nb_buf uri = {0};
            nb_uri_resolve((*in)->uri, id->text, &uri);
            size_t n = uri.failed ? 0 : strcspn(uri.data, "#");
            bool failed = uri.failed;
            struct resource *r = failed ? NULL : add_resource(c, uri.data, n, value, draft);
            nb_buf_free(&uri);
            if (!r)
                return no_memory(c);
            *in = r;
        }
    }
    static const char *const names[] = {"$anchor", "$dynamicAnchor"};
    for (int i = 0; i < 2 && (*in)->draft >= DRAFT_2019; i++) {
        const struct nb_value *name = nb_value_get(value, names[i]);
        if (nb_value_is(name, NB_VALUE_STRING)) {
            enum nb_status s = add_anchor(c, value, *in, name->text, i == 1);
            if (s != NB_OK)
                return s;
        }
    }
    return NB_OK;
}

static enum nb_status scan_ids(struct compiler *c, const struct nb_value *value,
                               struct resource *in) {
    enum nb_status s = NB_OK;
    if (value->kind == NB_VALUE_ARRAY) {
        for (uint32_t i = 0; i < value->n && s == NB_OK; i++)
            s = scan_ids(c, &value->items[i], in);
    }
    if (value->kind != NB_VALUE_OBJECT)
        return s;
    s = scan_own(c, value, &in);
    for (uint32_t i = 0; i < value->n && s == NB_OK; i++) {
        const struct nb_value *v = &value->items[i];
        if (v->kind < NB_VALUE_ARRAY || holds_data(&value->keys[i]))
            continue;
        if (v->kind == NB_VALUE_OBJECT && holds_named(&value->keys[i])) {
            for (uint32_t j = 0; j < v->n && s == NB_OK; j++)
                s = scan_ids(c, &v->items[j], in);
        } else {
            s = scan_ids(c, v, in);
        }
    }
    return s;
}

/* A document becomes a resource, with all that it holds. */
static enum nb_status add_document(struct compiler *c, const char *text, size_t n, const char *name,
                                   const char *uri, enum draft draft, struct resource **out) {
    struct nb_value *value = nb_arena_alloc(&c->schema->arena, 1, sizeof *value);
    if (!value)
        return no_memory(c);
    enum nb_status s = nb_value_parse(text, n, name, &c->schema->arena, value, c->err);
    if (s != NB_OK)
        return s;
    bool named = draft_of(value, &draft);
    struct resource probe = {.draft = draft};
    const struct nb_value *id = own_id(value, &probe);
    struct nb_buf resolved = {0};
    nb_uri_resolve(uri, id ? id->text : "", &resolved);
    if (!resolved.failed)
        *out = add_resource(c, resolved.data, strcspn(resolved.data, "#"), value, draft);
    nb_buf_free(&resolved);
    if (!*out)
        return no_memory(c);
    (*out)->explicit_draft = named;
    /* The place that it was asked for by is a name of it, too. */
    if (strcmp((*out)->uri, uri) != 0 && !add_resource(c, uri, strlen(uri), value, draft))
        return no_memory(c);
    return scan_ids(c, value, *out);
}

/* A $schema of somebody's own is read for one thing: that it does not take assertions away. */
static enum nb_status check_vocabulary(struct compiler *c, const struct nb_value *schema) {
    const struct nb_value *named = nb_value_get(schema, "$schema");
    enum draft draft;
    if (!nb_value_is(named, NB_VALUE_STRING) || draft_of(schema, &draft) || !c->options->load)
        return NB_OK;
    struct nb_buf text = {0};
    struct nb_value meta;
    bool found = false, validates = true;
    enum nb_status s =
        c->options->load(c->options->load_context, named->text, &text, &found, c->err);
    if (s == NB_OK && found)
        s = nb_value_parse(text.data ? text.data : "", text.len, named->text, &c->schema->arena,
                           &meta, c->err);
    if (s == NB_OK && found) {
        const struct nb_value *vocabulary = nb_value_get(&meta, "$vocabulary");
        validates = !nb_value_is(vocabulary, NB_VALUE_OBJECT);
        for (uint32_t i = 0; !validates && i < vocabulary->n; i++)
            validates = strstr(vocabulary->keys[i].text, "/vocab/validation") != NULL;
    }
    nb_buf_free(&text);
    if (s == NB_OK && !validates)
        s = nb_fail(c->err, NB_ERR_UNSUPPORTED,
                    "%s: #: $schema %.200s leaves out the validation vocabulary", c->name,
                    named->text);
    return s;
}

static struct resource *find_resource(struct compiler *c, const char *uri, size_t n) {
    for (struct resource *r = c->resources; r; r = r->next) {
        if (strlen(r->uri) == n && memcmp(r->uri, uri, n) == 0)
            return r;
    }
    return NULL;
}

static enum nb_status load_resource(struct compiler *c, const struct place *place, const char *uri,
                                    enum draft draft, struct resource **out) {
    struct nb_buf text = {0};
    bool found = false;
    enum nb_status s = NB_OK;
    if (c->options->load)
        s = c->options->load(c->options->load_context, uri, &text, &found, c->err);
    if (s == NB_OK && !found)
        s = fail(c, place, "$ref leads to %.200s, which is not at hand", uri);
    if (s == NB_OK)
        s = add_document(c, text.data ? text.data : "", text.len, uri, uri, draft, out);
    nb_buf_free(&text);
    return s;
}

/* Follows a JSON pointer; *resource moves with the $ids on the way. */
static const struct nb_value *follow(struct compiler *c, const char *pointer, size_t n,
                                     const struct nb_value *value, struct resource **resource) {
    const char *end = pointer + n;
    while (pointer < end) {
        char token[1024];
        size_t len = 0;
        for (pointer++; pointer < end && *pointer != '/'; pointer++) {
            char ch = *pointer;
            if (ch == '~' && pointer + 1 < end && (pointer[1] == '0' || pointer[1] == '1'))
                ch = *++pointer == '0' ? '~' : '/';
            if (len == sizeof token - 1)
                return NULL;
            token[len++] = ch;
        }
        token[len] = 0;
        if (value->kind == NB_VALUE_ARRAY) {
            char *stop;
            unsigned long i = strtoul(token, &stop, 10);
            if (!len || *stop || i >= value->n)
                return NULL;
            value = &value->items[i];
        } else {
            value = nb_value_find(value, token, len);
        }
        if (!value)
            return NULL;
        *resource = resource_at(c, value, *resource);
    }
    return value;
}

static enum nb_status resolve(struct compiler *c, const struct place *place, const char *reference,
                              const struct resource *from, const struct nb_value **value,
                              struct resource **resource, const struct anchor **anchor) {
    struct nb_buf uri = {0};
    nb_uri_resolve(from->uri, reference, &uri);
    if (uri.failed)
        return no_memory(c);
    size_t n = strcspn(uri.data, "#");
    char *fragment = uri.data + n + (uri.data[n] == '#');
    size_t n_fragment = uri.len - (size_t)(fragment - uri.data);
    enum nb_status s = NB_OK;
    *value = NULL;
    *anchor = NULL;
    *resource = find_resource(c, uri.data, n);
    if (!*resource) {
        char saved = uri.data[n];
        uri.data[n] = 0;
        s = load_resource(c, place, uri.data, from->draft, resource);
        uri.data[n] = saved;
    }
    if (s == NB_OK && n_fragment && fragment[0] != '/' && fragment[0] != '%') {
        struct nb_buf full = {0};
        nb_buf_printf(&full, "%s#%s", (*resource)->uri, fragment);
        for (const struct anchor *a = c->anchors; a && !full.failed && !*value; a = a->next) {
            if (strcmp(a->uri, full.data) == 0) {
                *value = a->value;
                *resource = resource_at(c, a->value, a->resource);
                *anchor = a;
            }
        }
        nb_buf_free(&full);
    } else if (s == NB_OK && nb_uri_decode(fragment, &n_fragment)) {
        *value = follow(c, fragment, n_fragment, (*resource)->value, resource);
    }
    if (s == NB_OK && !*value)
        s = fail(c, place, "$ref \"%.200s\" leads nowhere", reference);
    nb_buf_free(&uri);
    return s;
}

/* ---- schemas ---- */

static struct known *known_slot(struct compiler *c, const struct nb_value *value) {
    size_t mask = c->n_slots - 1;
    size_t i = ((uintptr_t)value >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20 & mask;
    while (c->known[i].value && c->known[i].value != value)
        i = (i + 1) & mask;
    return &c->known[i];
}

static bool grow_known(struct compiler *c) {
    if (c->n_known * 2 < c->n_slots)
        return true;
    struct known *old = c->known;
    size_t n = c->n_slots, slots = n ? n * 2 : 256;
    struct known *table = calloc(slots, sizeof *table);
    if (!table)
        return false;
    c->known = table;
    c->n_slots = slots;
    for (size_t i = 0; i < n; i++) {
        if (old[i].value)
            *known_slot(c, old[i].value) = old[i];
    }
    free(old);
    return true;
}

static const struct place *enter(struct compiler *c, const struct place *up, const char *key,
                                 uint32_t n) {
    struct place *p = nb_arena_alloc(&c->schema->arena, 1, sizeof *p);
    if (p)
        *p = (struct place){.up = up, .key = key, .key_bytes = n};
    return p;
}

static const struct place *enter_index(struct compiler *c, const struct place *up, uint32_t index) {
    struct place *p = nb_arena_alloc(&c->schema->arena, 1, sizeof *p);
    if (p)
        *p = (struct place){.up = up, .index = index};
    return p;
}

/* The node of a schema, to be filled later. */
static enum nb_status node_of(struct compiler *c, const struct nb_value *value, struct resource *in,
                              const struct place *place, const struct nb_node **out) {
    if (!place)
        return no_memory(c);
    if (value->kind == NB_VALUE_TRUE || value->kind == NB_VALUE_FALSE) {
        *out = value->kind == NB_VALUE_TRUE ? c->anything : c->nothing;
        return NB_OK;
    }
    if (value->kind != NB_VALUE_OBJECT)
        return fail(c, place, "is %s, expected a schema", nb_value_kind_name(value->kind));
    if (value->n == 0) {
        *out = c->anything;
        return NB_OK;
    }
    if (!grow_known(c))
        return no_memory(c);
    struct known *slot = known_slot(c, value);
    if (!slot->value) {
        struct nb_node *node = new_node(c, NB_NODE_AND, 0);
        if (!node)
            return no_memory(c);
        *slot = (struct known){value, node, place};
        c->n_known++;
        if (c->n_pending == c->cap_pending) {
            size_t cap = c->cap_pending ? c->cap_pending * 2 : 64;
            struct pending *more = realloc(c->pending, cap * sizeof *more);
            if (!more)
                return no_memory(c);
            c->pending = more;
            c->cap_pending = cap;
        }
        c->pending[c->n_pending++] =
            (struct pending){value, node, resource_at(c, value, in), place};
    }
    *out = slot->node;
    return NB_OK;
}

/* A schema that is being read. */
struct reading {
    struct compiler *c;
    const struct nb_value *of[N_KEYWORDS]; /* the keywords' values */
    struct resource *resource;
    const struct place *place;
    const struct nb_node *parts[N_KEYWORDS + 8];
    uint32_t n_parts;
};

static enum nb_status add_part(struct reading *r, const struct nb_node *node) {
    if (!node)
        return no_memory(r->c);
    if (node != r->c->anything)
        r->parts[r->n_parts++] = node;
    return NB_OK;
}

static const struct place *at(struct reading *r, enum keyword k) {
    const char *name = keywords[k].name;
    return enter(r->c, r->place, name, (uint32_t)strlen(name));
}

static enum nb_status wrong(struct reading *r, enum keyword k, const char *expected) {
    return fail(r->c, r->place, "%s is %s, expected %s", keywords[k].name,
                nb_value_kind_name(r->of[k]->kind), expected);
}

static enum nb_status sub_schema(struct reading *r, enum keyword k, const struct nb_node **out) {
    return node_of(r->c, r->of[k], r->resource, at(r, k), out);
}

/* A count that is not negative: 3, or 3.0. */
static enum nb_status read_count(struct reading *r, enum keyword k, uint64_t *out) {
    const struct nb_value *v = r->of[k];
    int64_t n;
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_NUMBER)
        return wrong(r, k, "a whole number");
    struct nb_decimal d = nb_decimal_parse(v->text, v->n);
    if (d.negative || !nb_decimal_is_integer(d))
        return fail(r->c, r->place, "%s is %.40s, expected a whole number from 0 on",
                    keywords[k].name, v->text);
    *out = nb_decimal_to_int(d, &n) ? (uint64_t)n : UINT64_MAX - 1;
    return NB_OK;
}

static enum nb_status read_list(struct reading *r, enum keyword k, enum nb_node_kind kind,
                                struct nb_node **out) {
    const struct nb_value *v = r->of[k];
    if (v->kind != NB_VALUE_ARRAY || v->n == 0)
        return fail(r->c, r->place, "%s is %s, expected an array of schemas, not empty",
                    keywords[k].name, v->n ? nb_value_kind_name(v->kind) : "empty");
    struct nb_node *node = new_node(r->c, kind, v->n);
    const struct place *place = at(r, k);
    enum nb_status s = node && place ? NB_OK : no_memory(r->c);
    for (uint32_t i = 0; i < v->n && s == NB_OK; i++)
        s = node_of(r->c, &v->items[i], r->resource, enter_index(r->c, place, i), &node->nodes[i]);
    *out = node;
    return s;
}

/* ---- type, enum, const */

static bool type_bits(const struct nb_value *v, unsigned *kinds, bool *integer) {
    static const struct {
        const char *name;
        unsigned kinds;
    } types[] = {
        {"null", 1u << NB_VALUE_NULL},     {"boolean", 1u << NB_VALUE_FALSE | 1u << NB_VALUE_TRUE},
        {"number", 1u << NB_VALUE_NUMBER}, {"string", 1u << NB_VALUE_STRING},
        {"array", 1u << NB_VALUE_ARRAY},   {"object", 1u << NB_VALUE_OBJECT}};
    if (v->kind != NB_VALUE_STRING)
        return false;
    if (strcmp(v->text, "integer") == 0)
        return *integer = true;
    if (strcmp(v->text, "any") == 0) {
        *kinds = ~0u;
        return true;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(v->text, types[i].name) == 0) {
            *kinds |= types[i].kinds;
            return true;
        }
    }
    return false;
}

/* *integer: numbers must be whole, which is for the number's atom to say. */
static enum nb_status read_type(struct reading *r, bool *integer) {
    const struct nb_value *v = r->of[K_TYPE];
    unsigned kinds = 0;
    if (v->kind == NB_VALUE_ARRAY) {
        for (uint32_t i = 0; i < v->n; i++) {
            if (!type_bits(&v->items[i], &kinds, integer))
                return fail(r->c, r->place, "type names \"%.60s\", which is no type",
                            v->items[i].kind == NB_VALUE_STRING ? v->items[i].text : "?");
        }
    } else if (!type_bits(v, &kinds, integer)) {
        return v->kind == NB_VALUE_STRING
                   ? fail(r->c, r->place, "type names \"%.60s\", which is no type", v->text)
                   : wrong(r, K_TYPE, "a string or an array of them");
    }
    if (kinds & 1u << NB_VALUE_NUMBER)
        *integer = false;
    if (*integer)
        kinds |= 1u << NB_VALUE_NUMBER;
    return add_part(r, kind_node(r->c, kinds));
}

static struct nb_node *value_node(struct compiler *c, const struct nb_value *values, uint32_t n);

static struct nb_node *array_value_node(struct compiler *c, const struct nb_value *v) {
    struct nb_atom *atom = new_atom(c, NB_ATOM_ARRAY);
    if (!atom || !(atom->prefix = nb_arena_alloc(&c->schema->arena, v->n, sizeof *atom->prefix)))
        return NULL;
    atom->n_prefix = v->n;
    atom->min = atom->max = v->n;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!(atom->prefix[i] = value_node(c, &v->items[i], 1)))
            return NULL;
    }
    return pair_node(c, NB_NODE_AND, kind_node(c, 1u << NB_VALUE_ARRAY), atom_node(c, atom));
}

static struct nb_node *object_value_node(struct compiler *c, const struct nb_value *v) {
    struct nb_atom *atom = new_atom(c, NB_ATOM_OBJECT);
    if (!atom || !(atom->values = nb_arena_alloc(&c->schema->arena, v->n, sizeof *atom->values)))
        return NULL;
    atom->n = atom->n_required = v->n;
    atom->keys = atom->required = v->keys;
    atom->rest = c->nothing;
    for (uint32_t i = 0; i < v->n; i++) {
        if (!(atom->values[i] = value_node(c, &v->items[i], 1)))
            return NULL;
    }
    return pair_node(c, NB_NODE_AND, kind_node(c, 1u << NB_VALUE_OBJECT), atom_node(c, atom));
}

/* One of some values; deep ones were bounded when they were parsed. */
static struct nb_node *value_node(struct compiler *c, const struct nb_value *values, uint32_t n) {
    uint32_t of_kind[7] = {0};
    for (uint32_t i = 0; i < n; i++)
        of_kind[values[i].kind]++;
    uint32_t n_nodes = of_kind[NB_VALUE_ARRAY] + of_kind[NB_VALUE_OBJECT];
    struct nb_node *node = new_node(c, NB_NODE_ENUM, n_nodes);
    struct nb_atom *strings = of_kind[NB_VALUE_STRING] ? new_atom(c, NB_ATOM_STRINGS) : NULL;
    struct nb_atom *numbers = of_kind[NB_VALUE_NUMBER] ? new_atom(c, NB_ATOM_NUMBERS) : NULL;
    struct nb_arena *arena = &c->schema->arena;
    if (!node || (of_kind[NB_VALUE_STRING] && !strings) || (of_kind[NB_VALUE_NUMBER] && !numbers))
        return NULL;
    if (strings &&
        !(strings->keys = nb_arena_alloc(arena, of_kind[NB_VALUE_STRING], sizeof *strings->keys)))
        return NULL;
    if (numbers && !(numbers->numbers =
                         nb_arena_alloc(arena, of_kind[NB_VALUE_NUMBER], sizeof *numbers->numbers)))
        return NULL;
    node->strings = strings;
    node->numbers = numbers;
    uint32_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct nb_value *v = &values[i];
        if (v->kind == NB_VALUE_STRING)
            strings->keys[strings->n++] = (struct nb_value_key){v->text, v->n};
        else if (v->kind == NB_VALUE_NUMBER)
            numbers->numbers[numbers->n++] = nb_decimal_parse(v->text, v->n);
        else if (v->kind == NB_VALUE_ARRAY)
            node->nodes[at++] = array_value_node(c, v);
        else if (v->kind == NB_VALUE_OBJECT)
            node->nodes[at++] = object_value_node(c, v);
        else
            node->kinds |= 1u << v->kind;
        if (v->kind < NB_VALUE_ARRAY)
            continue;
        if (!node->nodes[at - 1])
            return NULL;
        ((struct nb_node *)(uintptr_t)node->nodes[at - 1])->value = v;
    }
    return node;
}

/* The first number in a value that cannot be compared exactly, or NULL. */
static const struct nb_value *find_inexact(const struct nb_value *v) {
    if (v->kind == NB_VALUE_NUMBER)
        return nb_decimal_parse(v->text, v->n).more ? v : NULL;
    const struct nb_value *found = NULL;
    for (uint32_t i = 0; i < v->n && v->kind >= NB_VALUE_ARRAY && !found; i++)
        found = find_inexact(&v->items[i]);
    return found;
}

static enum nb_status too_long(struct reading *r, enum keyword k, const struct nb_value *number) {
    return unsupported(r->c, r->place,
                       "%s: %.60s has more than %d digits, or an exponent beyond %d",
                       keywords[k].name, number->text, NB_DECIMAL_DIGITS, NB_DECIMAL_MAX_EXPONENT);
}

static enum nb_status read_value(struct reading *r, enum keyword k, const struct nb_value *values,
                                 uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const struct nb_value *inexact = find_inexact(&values[i]);
        if (inexact)
            return too_long(r, k, inexact);
    }
    return add_part(r, value_node(r->c, values, n));
}

static enum nb_status read_values(struct reading *r) {
    const struct nb_value *v = r->of[K_ENUM];
    if (v && v->kind != NB_VALUE_ARRAY)
        return wrong(r, K_ENUM, "an array");
    enum nb_status s = v ? read_value(r, K_ENUM, v->items, v->n) : NB_OK;
    if (s == NB_OK && r->of[K_CONST])
        s = read_value(r, K_CONST, r->of[K_CONST], 1);
    return s;
}

/* ---- strings */

/* Patterns become automata when they are first met, which may be in the middle of an answer: what
 * is wrong with one is said while the schema is read. *usable is false where `lenient` leaves it
 * out. */
static enum nb_status read_pattern(struct reading *r, enum keyword k, const char *text, uint32_t n,
                                   bool *usable) {
    struct nb_error why;
    enum nb_status s = nb_lazy_regex_check(text, n, NB_REGEX_SEARCH, &why);
    *usable = s == NB_OK;
    int shown = n > 100 ? 100 : (int)n;
    while (shown < (int)n && shown > 0 && (text[shown] & 0xC0) == 0x80)
        shown--; /* whole characters */
    if (s == NB_ERR_UNSUPPORTED || s == NB_ERR_LIMIT)
        return unsupported(r->c, r->place, "%s \"%.*s\": %s", keywords[k].name, shown, text,
                           why.message);
    if (s == NB_ERR_FORMAT)
        return fail(r->c, r->place, "%s \"%.*s\" is no regular expression of ECMA-262: %s",
                    keywords[k].name, shown, text, why.message);
    return s == NB_OK ? s : no_memory(r->c);
}

static enum nb_status read_strings(struct reading *r) {
    const struct nb_value *pattern = r->of[K_PATTERN], *format = r->of[K_FORMAT];
    enum nb_status s = NB_OK;
    bool usable = false;
    if (pattern) {
        if (pattern->kind != NB_VALUE_STRING)
            return wrong(r, K_PATTERN, "a string");
        s = read_pattern(r, K_PATTERN, pattern->text, pattern->n, &usable);
    }
    if (usable) {
        struct nb_atom *atom = new_atom(r->c, NB_ATOM_PATTERN);
        if (atom)
            atom->text = (struct nb_value_key){pattern->text, pattern->n};
        s = add_part(r, atom_node(r->c, atom));
    }
    if (s == NB_OK && format && !r->c->options->formats_annotate) {
        if (format->kind != NB_VALUE_STRING)
            return wrong(r, K_FORMAT, "a string");
        if (nb_format_known(format->text, format->n)) {
            struct nb_atom *atom = new_atom(r->c, NB_ATOM_FORMAT);
            if (atom) {
                atom->text = (struct nb_value_key){format->text, format->n};
                atom->draft =
                    r->resource->draft >= DRAFT_2019 ? NB_FORMAT_2020_12 : NB_FORMAT_DRAFT_7;
            }
            s = add_part(r, atom_node(r->c, atom));
        }
    }
    if (s == NB_OK && (r->of[K_MIN_LENGTH] || r->of[K_MAX_LENGTH])) {
        struct nb_atom *atom = new_atom(r->c, NB_ATOM_LENGTH);
        if (!atom)
            return no_memory(r->c);
        s = read_count(r, K_MIN_LENGTH, &atom->min);
        if (s == NB_OK)
            s = read_count(r, K_MAX_LENGTH, &atom->max);
        if (s == NB_OK && (atom->min > 0 || atom->max != UINT64_MAX))
            s = add_part(r, atom_node(r->c, atom));
    }
    return s;
}

/* ---- numbers */

static enum nb_status read_bound(struct reading *r, enum keyword k, bool *has,
                                 struct nb_decimal *out) {
    const struct nb_value *v = r->of[k];
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_NUMBER)
        return wrong(r, k, "a number");
    struct nb_decimal bound = nb_decimal_parse(v->text, v->n);
    if (bound.more)
        return too_long(r, k, v);
    *has = true;
    *out = bound;
    return NB_OK;
}

/* minimum and exclusiveMinimum, or their mirror, into one bound; in draft 4, and in schemas that
 * do not say their draft, the exclusive one may be a boolean. */
static enum nb_status read_side(struct reading *r, enum keyword plain, enum keyword exclusive,
                                bool *has, bool *open, struct nb_decimal *bound) {
    const struct nb_value *x = r->of[exclusive];
    bool lax = r->resource->draft == DRAFT_4 || !r->resource->explicit_draft, has_open = false;
    struct nb_decimal other = {0};
    enum nb_status s = read_bound(r, plain, has, bound);
    if (s != NB_OK || !x)
        return s;
    if (lax && (x->kind == NB_VALUE_TRUE || x->kind == NB_VALUE_FALSE)) {
        *open = *has && x->kind == NB_VALUE_TRUE;
        return NB_OK;
    }
    s = read_bound(r, exclusive, &has_open, &other);
    if (s != NB_OK)
        return s;
    int order = *has ? nb_decimal_compare(other, *bound) : 0;
    if (exclusive == K_EXCLUSIVE_MAXIMUM)
        order = -order;
    if (has_open && (!*has || order >= 0)) {
        *bound = other;
        *has = *open = true;
    }
    return NB_OK;
}

static enum nb_status read_numbers(struct reading *r, bool integer) {
    if (!integer && !r->of[K_MINIMUM] && !r->of[K_MAXIMUM] && !r->of[K_EXCLUSIVE_MINIMUM] &&
        !r->of[K_EXCLUSIVE_MAXIMUM] && !r->of[K_MULTIPLE_OF])
        return NB_OK;
    struct nb_atom *a = new_atom(r->c, NB_ATOM_NUMBER);
    if (!a)
        return no_memory(r->c);
    a->integer = integer;
    a->written_integer = r->resource->draft == DRAFT_4 || r->c->options->written_integers;
    enum nb_status s =
        read_side(r, K_MINIMUM, K_EXCLUSIVE_MINIMUM, &a->has_least, &a->above_least, &a->least);
    if (s == NB_OK)
        s = read_side(r, K_MAXIMUM, K_EXCLUSIVE_MAXIMUM, &a->has_most, &a->below_most, &a->most);
    if (s == NB_OK)
        s = read_bound(r, K_MULTIPLE_OF, &a->has_multiple, &a->multiple_of);
    if (s == NB_OK && a->has_multiple) {
        if (a->multiple_of.negative || !a->multiple_of.digits)
            return fail(r->c, r->place, "multipleOf is %.40s, expected a number above 0",
                        r->of[K_MULTIPLE_OF]->text);
        if (a->multiple_of.digits > UINT64_C(999999999999999999)) {
            s = unsupported(r->c, r->place, "multipleOf %.60s has more than 18 digits",
                            r->of[K_MULTIPLE_OF]->text);
            a->has_multiple = false;
        }
    }
    return s == NB_OK ? add_part(r, atom_node(r->c, a)) : s;
}

/* ---- arrays */

static enum nb_status read_prefix(struct reading *r, enum keyword k, struct nb_atom *a) {
    const struct nb_value *v = r->of[k];
    const struct place *place = at(r, k);
    if (v->kind != NB_VALUE_ARRAY)
        return wrong(r, k, "an array of schemas");
    a->prefix = nb_arena_alloc(&r->c->schema->arena, v->n, sizeof *a->prefix);
    enum nb_status s = a->prefix && place ? NB_OK : no_memory(r->c);
    a->n_prefix = v->n;
    for (uint32_t i = 0; i < v->n && s == NB_OK; i++)
        s = node_of(r->c, &v->items[i], r->resource, enter_index(r->c, place, i), &a->prefix[i]);
    return s;
}

/* items as an array of schemas is prefixItems' older spelling, which schemas that do not say their
 * draft use, too. */
static enum nb_status read_items(struct reading *r, struct nb_atom *a) {
    const struct nb_value *items = r->of[K_ITEMS];
    bool old = nb_value_is(items, NB_VALUE_ARRAY) &&
               (r->resource->draft < DRAFT_2020 || !r->resource->explicit_draft);
    enum nb_status s = NB_OK;
    if (old) {
        s = read_prefix(r, K_ITEMS, a);
        if (s == NB_OK && r->of[K_ADDITIONAL_ITEMS])
            s = sub_schema(r, K_ADDITIONAL_ITEMS, &a->items);
        return s;
    }
    if (r->of[K_PREFIX_ITEMS])
        s = read_prefix(r, K_PREFIX_ITEMS, a);
    if (s == NB_OK && items)
        s = sub_schema(r, K_ITEMS, &a->items);
    return s;
}

/* Whether any array, or object, does. That is worth knowing where exactly one of several may hold.
 * Names of members are kept whatever is asked of them: for their order. */
static bool is_trivial(const struct compiler *c, const struct nb_atom *a) {
    const struct nb_node *others = a->kind == NB_ATOM_ARRAY ? a->items : a->rest;
    return a->min == 0 && a->max == UINT64_MAX && (!others || others == c->anything) && !a->n &&
           !a->n_prefix && !a->contains && !a->unique && !a->n_patterns && !a->n_required &&
           !a->n_dependencies && !a->names;
}

static enum nb_status read_arrays(struct reading *r) {
    const struct nb_value *unique = r->of[K_UNIQUE_ITEMS];
    if (!r->of[K_ITEMS] && !r->of[K_PREFIX_ITEMS] && !r->of[K_CONTAINS] && !r->of[K_MIN_ITEMS] &&
        !r->of[K_MAX_ITEMS] && !unique)
        return NB_OK;
    struct nb_atom *a = new_atom(r->c, NB_ATOM_ARRAY);
    if (!a)
        return no_memory(r->c);
    enum nb_status s = read_items(r, a);
    if (s == NB_OK)
        s = read_count(r, K_MIN_ITEMS, &a->min);
    if (s == NB_OK)
        s = read_count(r, K_MAX_ITEMS, &a->max);
    if (s == NB_OK && r->of[K_CONTAINS]) {
        a->min_contains = 1;
        s = sub_schema(r, K_CONTAINS, &a->contains);
        if (s == NB_OK)
            s = read_count(r, K_MIN_CONTAINS, &a->min_contains);
        if (s == NB_OK)
            s = read_count(r, K_MAX_CONTAINS, &a->max_contains);
    }
    if (s == NB_OK && unique && unique->kind != NB_VALUE_TRUE && unique->kind != NB_VALUE_FALSE)
        return wrong(r, K_UNIQUE_ITEMS, "true or false");
    a->unique = unique && unique->kind == NB_VALUE_TRUE;
    return s == NB_OK && !is_trivial(r->c, a) ? add_part(r, atom_node(r->c, a)) : s;
}

/* ---- objects */

static enum nb_status read_names(struct reading *r, enum keyword k, const struct nb_value *v,
                                 struct nb_value_key **out, uint32_t *n) {
    if (v->kind != NB_VALUE_ARRAY)
        return fail(r->c, r->place, "%s is %s, expected an array of strings", keywords[k].name,
                    nb_value_kind_name(v->kind));
    *out = nb_arena_alloc(&r->c->schema->arena, v->n, sizeof **out);
    if (!*out)
        return no_memory(r->c);
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->items[i].kind != NB_VALUE_STRING)
            return fail(r->c, r->place, "%s holds %s, expected strings", keywords[k].name,
                        nb_value_kind_name(v->items[i].kind));
        (*out)[i] = (struct nb_value_key){v->items[i].text, v->items[i].n};
    }
    *n = v->n;
    return NB_OK;
}

/* "Has the member `key`, only if it also fulfils `then`." */
static struct nb_node *when_has(struct compiler *c, struct nb_value_key *key,
                                const struct nb_node *then) {
    struct nb_atom *has = new_atom(c, NB_ATOM_HAS);
    if (!has)
        return NULL;
    has->n = 1;
    has->keys = key;
    struct nb_node *node = atom_node(c, has);
    struct nb_node *lacks = node ? not_node(c, node) : NULL;
    struct nb_node *other = kind_node(c, ~(1u << NB_VALUE_OBJECT));
    if (!lacks || !other)
        return NULL;
    struct nb_node *none = pair_node(c, NB_NODE_OR, other, lacks);
    return pair_node(c, NB_NODE_OR, none, then);
}

/* dependencies, dependentRequired and dependentSchemas: lists of names go to the atom, schemas
 * become formulas. */
static enum nb_status read_dependencies(struct reading *r, enum keyword k, struct nb_atom *a) {
    const struct nb_value *v = r->of[k];
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_OBJECT)
        return wrong(r, k, "an object");
    size_t n = a->n_dependencies, n_schemas = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        bool list = v->items[i].kind == NB_VALUE_ARRAY;
        n += list ? v->items[i].n : 0;
        n_schemas += !list;
    }
    struct nb_dependency *all = nb_arena_alloc(&r->c->schema->arena, n, sizeof *all);
    struct nb_node *schemas = new_node(r->c, NB_NODE_AND, (uint32_t)n_schemas);
    const struct place *place = at(r, k);
    if (!all || !schemas || !place)
        return no_memory(r->c);
    if (a->n_dependencies)
        memcpy(all, a->dependencies, a->n_dependencies * sizeof *all);
    a->dependencies = all;
    n_schemas = 0;
    for (uint32_t i = 0; i < v->n; i++) {
        struct nb_value_key *names;
        uint32_t n_names;
        enum nb_status s;
        if (v->items[i].kind == NB_VALUE_ARRAY && k != K_DEPENDENT_SCHEMAS) {
            s = read_names(r, k, &v->items[i], &names, &n_names);
            for (uint32_t j = 0; s == NB_OK && j < n_names; j++)
                all[a->n_dependencies++] = (struct nb_dependency){v->keys[i], names[j]};
        } else if (k == K_DEPENDENT_REQUIRED) {
            return fail(r->c, r->place, "dependentRequired holds %s, expected arrays of strings",
                        nb_value_kind_name(v->items[i].kind));
        } else {
            const struct nb_node *then;
            s = node_of(r->c, &v->items[i], r->resource,
                        enter(r->c, place, v->keys[i].text, v->keys[i].n), &then);
            if (s == NB_OK && !(schemas->nodes[n_schemas++] = when_has(r->c, &v->keys[i], then)))
                s = no_memory(r->c);
        }
        if (s != NB_OK)
            return s;
    }
    return n_schemas ? add_part(r, schemas) : NB_OK;
}

static enum nb_status read_properties(struct reading *r, struct nb_atom *a) {
    const struct nb_value *v = r->of[K_PROPERTIES];
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_OBJECT)
        return wrong(r, K_PROPERTIES, "an object");
    const struct place *place = at(r, K_PROPERTIES);
    a->values = nb_arena_alloc(&r->c->schema->arena, v->n, sizeof *a->values);
    enum nb_status s = a->values && place ? NB_OK : no_memory(r->c);
    a->n = v->n;
    a->keys = v->keys;
    for (uint32_t i = 0; i < v->n && s == NB_OK; i++)
        s = node_of(r->c, &v->items[i], r->resource,
                    enter(r->c, place, v->keys[i].text, v->keys[i].n), &a->values[i]);
    return s;
}

static enum nb_status read_patterns(struct reading *r, struct nb_atom *a) {
    const struct nb_value *v = r->of[K_PATTERN_PROPERTIES];
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_OBJECT)
        return wrong(r, K_PATTERN_PROPERTIES, "an object");
    const struct place *place = at(r, K_PATTERN_PROPERTIES);
    a->patterns = nb_arena_alloc(&r->c->schema->arena, v->n, sizeof *a->patterns);
    enum nb_status s = a->patterns && place ? NB_OK : no_memory(r->c);
    for (uint32_t i = 0; i < v->n && s == NB_OK; i++) {
        struct nb_pattern_member *p = &a->patterns[a->n_patterns];
        bool usable;
        s = read_pattern(r, K_PATTERN_PROPERTIES, v->keys[i].text, v->keys[i].n, &usable);
        if (s != NB_OK || !usable)
            continue;
        p->pattern = v->keys[i];
        s = node_of(r->c, &v->items[i], r->resource,
                    enter(r->c, place, v->keys[i].text, v->keys[i].n), &p->value);
        a->n_patterns++;
    }
    return s;
}

static enum nb_status read_objects(struct reading *r) {
    static const enum keyword about[] = {
        K_PROPERTIES,     K_PATTERN_PROPERTIES, K_ADDITIONAL_PROPERTIES,
        K_PROPERTY_NAMES, K_REQUIRED,           K_MIN_PROPERTIES,
        K_MAX_PROPERTIES, K_DEPENDENCIES,       K_DEPENDENT_REQUIRED};
    bool any = false;
    for (size_t i = 0; i < sizeof about / sizeof *about; i++)
        any |= r->of[about[i]] != NULL;
    struct nb_atom *a = new_atom(r->c, NB_ATOM_OBJECT);
    if (!a)
        return no_memory(r->c);
    enum nb_status s = read_properties(r, a);
    if (s == NB_OK)
        s = read_patterns(r, a);
    if (s == NB_OK && r->of[K_ADDITIONAL_PROPERTIES])
        s = sub_schema(r, K_ADDITIONAL_PROPERTIES, &a->rest);
    if (s == NB_OK && r->of[K_PROPERTY_NAMES])
        s = sub_schema(r, K_PROPERTY_NAMES, &a->names);
    if (s == NB_OK && r->of[K_REQUIRED])
        s = read_names(r, K_REQUIRED, r->of[K_REQUIRED], &a->required, &a->n_required);
    if (s == NB_OK)
        s = read_count(r, K_MIN_PROPERTIES, &a->min);
    if (s == NB_OK)
        s = read_count(r, K_MAX_PROPERTIES, &a->max);
    if (s == NB_OK)
        s = read_dependencies(r, K_DEPENDENCIES, a);
    if (s == NB_OK)
        s = read_dependencies(r, K_DEPENDENT_REQUIRED, a);
    if (s == NB_OK)
        s = read_dependencies(r, K_DEPENDENT_SCHEMAS, a);
    return s == NB_OK && any && !is_trivial(r->c, a) ? add_part(r, atom_node(r->c, a)) : s;
}

/* ---- combinations */

static enum nb_status read_combinations(struct reading *r) {
    static const struct {
        enum keyword keyword;
        enum nb_node_kind kind;
    } lists[] = {{K_ALL_OF, NB_NODE_AND}, {K_ANY_OF, NB_NODE_OR}, {K_ONE_OF, NB_NODE_ONE}};
    enum nb_status s = NB_OK;
    for (int i = 0; i < 3 && s == NB_OK; i++) {
        struct nb_node *node = NULL;
        if (!r->of[lists[i].keyword])
            continue;
        s = read_list(r, lists[i].keyword, lists[i].kind, &node);
        if (s == NB_OK)
            s = add_part(r, node);
    }
    if (s == NB_OK && r->of[K_NOT]) {
        const struct nb_node *of;
        s = sub_schema(r, K_NOT, &of);
        if (s == NB_OK)
            s = add_part(r, not_node(r->c, of));
    }
    return s;
}

/* if, then, else: (if and then) or (not if and else). */
static enum nb_status read_condition(struct reading *r) {
    if (!r->of[K_IF] || (!r->of[K_THEN] && !r->of[K_ELSE]))
        return NB_OK;
    const struct nb_node *condition, *then = r->c->anything, *otherwise = r->c->anything;
    enum nb_status s = sub_schema(r, K_IF, &condition);
    if (s == NB_OK && r->of[K_THEN])
        s = sub_schema(r, K_THEN, &then);
    if (s == NB_OK && r->of[K_ELSE])
        s = sub_schema(r, K_ELSE, &otherwise);
    if (s != NB_OK)
        return s;
    struct nb_node *yes = pair_node(r->c, NB_NODE_AND, condition, then);
    struct nb_node *no = pair_node(r->c, NB_NODE_AND, not_node(r->c, condition), otherwise);
    return add_part(r, pair_node(r->c, NB_NODE_OR, yes, no));
}

static enum nb_status read_reference(struct reading *r, enum keyword k) {
    const struct nb_value *v = r->of[k], *target = NULL;
    struct resource *resource;
    const struct anchor *anchor = NULL;
    const struct nb_node *node;
    if (!v)
        return NB_OK;
    if (v->kind != NB_VALUE_STRING)
        return wrong(r, k, "a string");
    enum nb_status s = resolve(r->c, r->place, v->text, r->resource, &target, &resource, &anchor);
    if (s != NB_OK)
        return s;
    /* A dynamic reference is an ordinary one where there is but one place that it can lead to. */
    if (k == K_DYNAMIC_REF && anchor && anchor->dynamic) {
        const char *name = strrchr(anchor->uri, '#');
        for (const struct anchor *a = r->c->anchors; a; a = a->next) {
            if (a->dynamic && a->value != target && strcmp(strrchr(a->uri, '#'), name) == 0)
                return unsupported(r->c, r->place,
                                   "$dynamicRef \"%.100s\" may lead to several schemas", v->text);
        }
    }
    if (k == K_RECURSIVE_REF) {
        const struct nb_value *recursive = nb_value_get(target, "$recursiveAnchor");
        if (nb_value_is(recursive, NB_VALUE_TRUE))
            return unsupported(r->c, r->place, "$recursiveRef with $recursiveAnchor");
    }
    s = node_of(r->c, target, resource, enter(r->c, r->place, v->text, v->n), &node);
    return s == NB_OK ? add_part(r, node) : s;
}

static enum keyword keyword_of(const struct nb_value_key *key, const struct resource *in) {
    if (key->n < 2 || key->n > 21)
        return K_NONE;
    for (int k = 1; k < N_KEYWORDS; k++) {
        const char *name = keywords[k].name;
        if (name[0] != key->text[0] || name[1] != key->text[1] || strcmp(name, key->text) != 0)
            continue;
        bool has = in->draft >= keywords[k].first && in->draft <= keywords[k].last;
        return has || !in->explicit_draft ? (enum keyword)k : K_NONE;
    }
    return K_NONE;
}

/* ---- unevaluatedItems, unevaluatedProperties
 *
 * Which members or items the rest of a schema has evaluated depends on which of its branches hold.
 * That is decided here, once, by cases: for each choice of branches the formula that they hold, and
 * what they then evaluate. The cases exclude each other, and one of them holds. */

enum { MAX_CASES = 128, MAX_EVALUATED_DEPTH = 40 };

struct cell {
    const struct nb_node *node; /* conditions, and schemas of contains */
    struct nb_value_key key;    /* names, and patterns */
    const struct cell *next;
};

struct evaluated {
    const struct cell *conditions, *keys, *patterns, *contains;
    uint32_t n_prefix;
    bool all;
};

struct cases {
    struct evaluated list[MAX_CASES];
    uint32_t n;
};

/* What is being collected. */
struct collecting {
    struct reading *r;
    bool items;
    int depth, steps;
};

static enum nb_status push_cell(struct compiler *c, const struct cell **list,
                                const struct nb_node *node, const struct nb_value_key *key) {
    struct cell *cell = nb_arena_alloc(&c->schema->arena, 1, sizeof *cell);
    if (!cell)
        return no_memory(c);
    cell->node = node;
    if (key)
        cell->key = *key;
    cell->next = *list;
    *list = cell;
    return NB_OK;
}

static const struct nb_value *keyword_in(const struct nb_value *schema, enum keyword k,
                                         const struct resource *in) {
    bool has = in->draft >= keywords[k].first && in->draft <= keywords[k].last;
    return has || !in->explicit_draft ? nb_value_get(schema, keywords[k].name) : NULL;
}

static enum nb_status collect(struct collecting *g, const struct nb_value *schema,
                              struct resource *in, struct cases *cases);

static bool evaluates_nothing(const struct cases *cases) {
    const struct evaluated *e = cases->list;
    return cases->n == 1 && !e->keys && !e->patterns && !e->contains && !e->n_prefix && !e->all;
}

/* Each case becomes two: `condition` holds, and what `branch` (if there is one) and then `then`
 * evaluate comes to it; or it does not, and what `otherwise` evaluates. */
static enum nb_status collect_branch(struct collecting *g, const struct nb_node *condition,
                                     const struct nb_value *const branches[3], struct resource *in,
                                     struct cases *cases) {
    struct compiler *c = g->r->c;
    struct cases *sides = calloc(3, sizeof *sides); /* a probe; yes; no */
    enum nb_status s = sides ? NB_OK : no_memory(c);
    bool matters = false;
    for (int i = 0; i < 3 && s == NB_OK; i++) {
        if (!branches[i])
            continue;
        sides[0].n = 1;
        sides[0].list[0] = (struct evaluated){0};
        s = collect(g, branches[i], in, &sides[0]);
        matters |= s == NB_OK && !evaluates_nothing(&sides[0]);
    }
    const struct nb_node *fails = s == NB_OK && matters ? not_node(c, condition) : condition;
    if (s == NB_OK && !fails)
        s = no_memory(c);
    if (s == NB_OK && matters) {
        sides[1] = sides[2] = *cases;
        for (uint32_t i = 0; i < cases->n && s == NB_OK; i++) {
            s = push_cell(c, &sides[1].list[i].conditions, condition, NULL);
            if (s == NB_OK)
                s = push_cell(c, &sides[2].list[i].conditions, fails, NULL);
        }
        for (int i = 0; i < 3 && s == NB_OK; i++)
            if (branches[i])
                s = collect(g, branches[i], in, &sides[i < 2 ? 1 : 2]);
        if (s == NB_OK && sides[1].n + sides[2].n > MAX_CASES)
            s = nb_fail(c->err, NB_ERR_UNSUPPORTED,
                        "%s: %s: unevaluated%s depends on too many branches", c->name,
                        show(g->r->place).text, g->items ? "Items" : "Properties");
        if (s == NB_OK) {
            memcpy(cases->list, sides[1].list, sides[1].n * sizeof *cases->list);
            memcpy(cases->list + sides[1].n, sides[2].list, sides[2].n * sizeof *cases->list);
            cases->n = sides[1].n + sides[2].n;
        }
    }
    free(sides);
    return s;
}

static enum nb_status collect_properties(struct collecting *g, const struct nb_value *schema,
                                         struct resource *in, struct cases *cases) {
    const struct nb_value *properties = keyword_in(schema, K_PROPERTIES, in),
                          *patterns = keyword_in(schema, K_PATTERN_PROPERTIES, in);
    bool all = keyword_in(schema, K_ADDITIONAL_PROPERTIES, in) ||
               (g->depth > 1 && keyword_in(schema, K_UNEVALUATED_PROPERTIES, in));
    enum nb_status s = NB_OK;
    for (uint32_t i = 0; i < cases->n; i++) {
        cases->list[i].all |= all;
        for (uint32_t k = 0; nb_value_is(properties, NB_VALUE_OBJECT) && k < properties->n; k++)
            if ((s = push_cell(g->r->c, &cases->list[i].keys, NULL, &properties->keys[k])) != NB_OK)
                return s;
        for (uint32_t k = 0; nb_value_is(patterns, NB_VALUE_OBJECT) && k < patterns->n; k++) {
            const struct nb_value_key *key = &patterns->keys[k];
            if (nb_lazy_regex_check(key->text, key->n, NB_REGEX_SEARCH, NULL) != NB_OK)
                continue; /* left out by `lenient`; without it, an error where it is read */
            if ((s = push_cell(g->r->c, &cases->list[i].patterns, NULL, key)) != NB_OK)
                return s;
        }
    }
    return s;
}

static enum nb_status collect_items(struct collecting *g, const struct nb_value *schema,
                                    struct resource *in, struct cases *cases) {
    const struct nb_value *items = keyword_in(schema, K_ITEMS, in),
                          *prefix = keyword_in(schema, K_PREFIX_ITEMS, in), *contains = NULL;
    bool tuple = nb_value_is(items, NB_VALUE_ARRAY);
    bool all = (items && !tuple) || (tuple && keyword_in(schema, K_ADDITIONAL_ITEMS, in)) ||
               (g->depth > 1 && keyword_in(schema, K_UNEVALUATED_ITEMS, in));
    const struct nb_value *listed = tuple ? items : prefix;
    const struct nb_node *node = NULL;
    enum nb_status s = NB_OK;
    if (in->draft >= DRAFT_2020) /* before, contains evaluates nothing */
        contains = keyword_in(schema, K_CONTAINS, in);
    if (contains)
        s = node_of(g->r->c, contains, in, g->r->place, &node);
    for (uint32_t i = 0; i < cases->n && s == NB_OK; i++) {
        struct evaluated *e = &cases->list[i];
        e->all |= all;
        if (nb_value_is(listed, NB_VALUE_ARRAY) && listed->n > e->n_prefix)
            e->n_prefix = listed->n;
        if (node)
            s = push_cell(g->r->c, &e->contains, node, NULL);
    }
    return s;
}

static enum nb_status collect_reference(struct collecting *g, enum keyword k,
                                        const struct nb_value *schema, struct resource *in,
                                        struct cases *cases) {
    const struct nb_value *v = keyword_in(schema, k, in), *target = NULL;
    const struct anchor *anchor;
    struct resource *resource;
    if (!nb_value_is(v, NB_VALUE_STRING))
        return NB_OK;
    enum nb_status s = resolve(g->r->c, g->r->place, v->text, in, &target, &resource, &anchor);
    return s == NB_OK ? collect(g, target, resource, cases) : s;
}

static enum nb_status collect_lists(struct collecting *g, const struct nb_value *schema,
                                    struct resource *in, struct cases *cases) {
    static const enum keyword lists[] = {K_ALL_OF, K_ANY_OF, K_ONE_OF};
    enum nb_status s = NB_OK;
    for (int k = 0; k < 3 && s == NB_OK; k++) {
        const struct nb_value *list = keyword_in(schema, lists[k], in);
        for (uint32_t i = 0; nb_value_is(list, NB_VALUE_ARRAY) && i < list->n && s == NB_OK; i++) {
            const struct nb_value *const branches[3] = {&list->items[i]};
            const struct nb_node *node;
            if (lists[k] == K_ALL_OF) {
                s = collect(g, &list->items[i], in, cases);
                continue;
            }
            s = node_of(g->r->c, &list->items[i], in, g->r->place, &node);
            if (s == NB_OK)
                s = collect_branch(g, node, branches, in, cases);
        }
    }
    return s;
}

static enum nb_status collect_conditional(struct collecting *g, const struct nb_value *schema,
                                          struct resource *in, struct cases *cases) {
    const struct nb_value *condition = keyword_in(schema, K_IF, in);
    const struct nb_node *node;
    if (!condition)
        return NB_OK;
    const struct nb_value *const branches[3] = {condition, keyword_in(schema, K_THEN, in),
                                                keyword_in(schema, K_ELSE, in)};
    enum nb_status s = node_of(g->r->c, condition, in, g->r->place, &node);
    return s == NB_OK ? collect_branch(g, node, branches, in, cases) : s;
}

static enum nb_status collect_dependent(struct collecting *g, const struct nb_value *schema,
                                        struct resource *in, struct cases *cases) {
    const struct nb_value *dependent = keyword_in(schema, K_DEPENDENT_SCHEMAS, in);
    enum nb_status s = NB_OK;
    for (uint32_t i = 0; nb_value_is(dependent, NB_VALUE_OBJECT) && i < dependent->n && s == NB_OK;
         i++) {
        const struct nb_value *const branches[3] = {&dependent->items[i]};
        struct nb_atom *has = new_atom(g->r->c, NB_ATOM_HAS);
        if (!has)
            return no_memory(g->r->c);
        has->n = 1;
        has->keys = &dependent->keys[i];
        const struct nb_node *node = atom_node(g->r->c, has);
        s = node ? collect_branch(g, node, branches, in, cases) : no_memory(g->r->c);
    }
    return s;
}

/* Adds what a schema that holds evaluates to every case. */
static enum nb_status collect(struct collecting *g, const struct nb_value *schema,
                              struct resource *in, struct cases *cases) {
    if (schema->kind != NB_VALUE_OBJECT)
        return NB_OK;
    if (g->depth >= MAX_EVALUATED_DEPTH || ++g->steps > 5000)
        return nb_fail(g->r->c->err, NB_ERR_UNSUPPORTED,
                       "%s: %s: unevaluated%s depends on too much", g->r->c->name,
                       show(g->r->place).text, g->items ? "Items" : "Properties");
    in = resource_at(g->r->c, schema, in);
    g->depth++;
    enum nb_status s =
        g->items ? collect_items(g, schema, in, cases) : collect_properties(g, schema, in, cases);
    if (s == NB_OK)
        s = collect_reference(g, K_REF, schema, in, cases);
    if (s == NB_OK)
        s = collect_reference(g, K_DYNAMIC_REF, schema, in, cases);
    if (s == NB_OK)
        s = collect_reference(g, K_RECURSIVE_REF, schema, in, cases);
    if (s == NB_OK)
        s = collect_lists(g, schema, in, cases);
    if (s == NB_OK)
        s = collect_conditional(g, schema, in, cases);
    if (s == NB_OK && !g->items)
        s = collect_dependent(g, schema, in, cases);
    g->depth--;
    return s;
}

static uint32_t cells(const struct cell *list) {
    uint32_t n = 0;
    for (; list; list = list->next)
        n++;
    return n;
}

/* "What the case has not evaluated fulfils `rest`." */
static struct nb_node *rest_node(struct collecting *g, const struct evaluated *e,
                                 const struct nb_node *rest) {
    struct compiler *c = g->r->c;
    struct nb_arena *arena = &c->schema->arena;
    struct nb_atom *a = new_atom(c, g->items ? NB_ATOM_ARRAY : NB_ATOM_OBJECT);
    if (!a)
        return NULL;
    if (g->items) {
        a->n_prefix = e->n_prefix;
        a->prefix = nb_arena_alloc(arena, e->n_prefix, sizeof *a->prefix);
        for (uint32_t i = 0; a->prefix && i < e->n_prefix; i++)
            a->prefix[i] = c->anything;
        for (const struct cell *k = e->contains; k && rest; k = k->next)
            rest = pair_node(c, NB_NODE_OR, k->node, rest);
        a->items = rest;
        return a->prefix && rest ? atom_node(c, a) : NULL;
    }
    a->n = cells(e->keys);
    a->n_patterns = cells(e->patterns);
    a->keys = nb_arena_alloc(arena, a->n, sizeof *a->keys);
    a->values = nb_arena_alloc(arena, a->n, sizeof *a->values);
    a->patterns = nb_arena_alloc(arena, a->n_patterns, sizeof *a->patterns);
    if (!a->keys || !a->values || !a->patterns)
        return NULL;
    uint32_t i = a->n; /* the list has the last first */
    for (const struct cell *k = e->keys; k; k = k->next) {
        a->keys[--i] = k->key;
        a->values[i] = c->anything;
    }
    i = a->n_patterns;
    for (const struct cell *k = e->patterns; k; k = k->next) {
        a->patterns[--i].pattern = k->key;
        a->patterns[i].value = c->anything;
    }
    a->rest = rest;
    return atom_node(c, a);
}

/* A case: its conditions hold, and what is left fulfils `rest`. */
static struct nb_node *case_node(struct collecting *g, const struct evaluated *e,
                                 const struct nb_node *rest) {
    struct compiler *c = g->r->c;
    uint32_t n = cells(e->conditions);
    struct nb_node *node = new_node(c, NB_NODE_AND, n + !e->all);
    if (!node)
        return NULL;
    for (const struct cell *k = e->conditions; k; k = k->next)
        node->nodes[--n] = k->node;
    if (!e->all && !(node->nodes[node->n - 1] = rest_node(g, e, rest)))
        return NULL;
    return node;
}

static enum nb_status read_unevaluated(struct reading *r, const struct nb_value *schema) {
    for (int k = K_UNEVALUATED_ITEMS; k <= K_UNEVALUATED_PROPERTIES; k++) {
        if (!r->of[k] || r->of[k]->kind == NB_VALUE_TRUE)
            continue;
        struct collecting g = {.r = r, .items = k == K_UNEVALUATED_ITEMS};
        struct cases *cases = calloc(1, sizeof *cases);
        const struct nb_node *rest = NULL;
        if (!cases)
            return no_memory(r->c);
        cases->n = 1;
        enum nb_status s = sub_schema(r, (enum keyword)k, &rest);
        if (s == NB_OK)
            s = collect(&g, schema, r->resource, cases);
        struct nb_node *any = s == NB_OK ? new_node(r->c, NB_NODE_OR, cases->n) : NULL;
        if (s == NB_OK && !any)
            s = no_memory(r->c);
        for (uint32_t i = 0; i < cases->n && s == NB_OK; i++)
            if (!(any->nodes[i] = case_node(&g, &cases->list[i], rest)))
                s = no_memory(r->c);
        if (s == NB_OK)
            s = add_part(r, cases->n == 1 ? any->nodes[0] : any);
        free(cases);
        if (s == NB_ERR_UNSUPPORTED && r->c->options->lenient)
            s = unsupported(r->c, r->place, "%s", keywords[k].name);
        if (s != NB_OK)
            return s;
    }
    return NB_OK;
}

/* ---- what is perhaps a slip */

/* How many letters must be changed, put in or left out to make b of a, capitals being small ones
 * (Levenshtein's distance, by the usual table of one row); more than 9 letters apart is 9. */
static unsigned slips(const char *a, size_t n, const char *b) {
    enum { MOST = 24 };
    unsigned row[MOST + 1];
    size_t m = strlen(b);
    if (n > MOST || m > MOST)
        return 9;
    for (size_t j = 0; j <= m; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned before = row[0]; /* of the row above, one to the left */
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned above = row[j], least = above < row[j - 1] ? above : row[j - 1];
            unsigned same =
                before + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            row[j] = same < least + 1 ? same : least + 1;
            before = above;
        }
    }
    return row[m];
}

/* Of a key that is no keyword here. Most are names of others' extensions, and pass. */
static void doubt_key(struct compiler *c, const struct place *place,
                      const struct nb_value_key *key) {
    /* Words of the standard that ask nothing of a value. */
    if (key->text[0] == '_' || strncmp(key->text, "x-", 2) == 0)
        return; /* so that nobody takes it for a keyword */
    static const char *const silent[] = {"title",
                                         "description",
                                         "default",
                                         "examples",
                                         "example",
                                         "$comment",
                                         "$schema",
                                         "$id",
                                         "id",
                                         "$anchor",
                                         "$defs",
                                         "definitions",
                                         "$vocabulary",
                                         "deprecated",
                                         "readOnly",
                                         "writeOnly",
                                         "nullable",
                                         "contentEncoding",
                                         "contentMediaType",
                                         "contentSchema",
                                         "$dynamicAnchor",
                                         "$recursiveAnchor"};
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        if (strcmp(silent[i], key->text) == 0)
            return;
    const char *near = NULL;
    unsigned best = 3;
    for (int k = 1; k < N_KEYWORDS; k++) {
        size_t length = strlen(keywords[k].name);
        unsigned distance = slips(key->text, key->n, keywords[k].name);
        if (distance < best && (length > 6 || (length > 3 && distance < 2)))
            best = distance, near = keywords[k].name;
    }
    if (near && strcmp(near, key->text) == 0)
        nb_buf_printf(&c->schema->doubts,
                      "%s: \"%s\" is no keyword of the draft that $schema names, and is ignored\n",
                      show(place).text, near);
    else if (near)
        nb_buf_printf(&c->schema->doubts,
                      "%s: \"%s\" is no keyword, and is ignored; is \"%s\" meant?\n",
                      show(place).text, key->text, near);
}

static void doubt_format(const struct reading *r) {
    const struct nb_value *format = r->of[K_FORMAT];
    if (nb_value_is(format, NB_VALUE_STRING) && !nb_format_known(format->text, format->n))
        nb_buf_printf(&r->c->schema->doubts, "%s: format \"%.*s\" is not enforced\n",
                      show(r->place).text, format->n > 60 ? 60 : (int)format->n, format->text);
}

static enum nb_status read_schema(struct compiler *c, const struct pending *p) {
    struct reading r = {.c = c, .resource = p->resource, .place = p->place};
    for (uint32_t i = 0; i < p->value->n; i++) {
        enum keyword k = keyword_of(&p->value->keys[i], r.resource);
        if (k != K_NONE)
            r.of[k] = &p->value->items[i];
        else if (c->options->doubt)
            doubt_key(c, p->place, &p->value->keys[i]);
    }
    if (c->options->doubt)
        doubt_format(&r);
    if (c->schema->doubts.failed)
        return no_memory(c);
    enum nb_status s = read_reference(&r, K_REF);
    bool integer = false;
    if (s == NB_OK && !(r.of[K_REF] && r.resource->draft <= DRAFT_7)) {
        s = read_reference(&r, K_DYNAMIC_REF);
        if (s == NB_OK)
            s = read_reference(&r, K_RECURSIVE_REF);
        if (s == NB_OK && r.of[K_TYPE])
            s = read_type(&r, &integer);
        if (s == NB_OK)
            s = read_values(&r);
        if (s == NB_OK)
            s = read_strings(&r);
        if (s == NB_OK)
            s = read_numbers(&r, integer);
        if (s == NB_OK)
            s = read_arrays(&r);
        if (s == NB_OK)
            s = read_objects(&r);
        if (s == NB_OK)
            s = read_combinations(&r);
        if (s == NB_OK)
            s = read_condition(&r);
        if (s == NB_OK)
            s = read_unevaluated(&r, p->value);
    }
    if (s != NB_OK)
        return s;
    p->node->nodes = nb_arena_alloc(&c->schema->arena, r.n_parts, sizeof *p->node->nodes);
    if (!p->node->nodes)
        return no_memory(c);
    memcpy(p->node->nodes, r.parts, r.n_parts * sizeof *r.parts);
    p->node->n = r.n_parts;
    return NB_OK;
}

/* ---- references that consume nothing ---- */

/* Nodes that a value goes through without a step into it must not come back to themselves. */
static enum nb_status check_cycles(struct compiler *c, const struct nb_node *node, uint8_t *seen,
                                   int depth) {
    enum { OPEN = 1, DONE = 2 };
    if (seen[node->id] == DONE)
        return NB_OK;
    if (seen[node->id] == OPEN) {
        const struct place *place = NULL;
        for (size_t i = 0; i < c->n_slots && !place; i++)
            place = c->known[i].value && c->known[i].node == node ? c->known[i].place : NULL;
        return fail(c, place, "a $ref leads back to itself without a step into the value");
    }
    if (depth > MAX_DEPTH)
        return nb_fail(c->err, NB_ERR_LIMIT, "%s: $ref, allOf and the like are deeper than %d",
                       c->name, MAX_DEPTH);
    seen[node->id] = OPEN;
    enum nb_status s = NB_OK;
    for (uint32_t i = 0; i < node->n && s == NB_OK; i++)
        s = check_cycles(c, node->nodes[i], seen, depth + 1);
    seen[node->id] = DONE;
    return s;
}

static enum nb_status read_all(struct compiler *c, const char *text, size_t n) {
    struct resource *root = NULL;
    enum nb_status s = add_document(c, text, n, c->name, "", DRAFT_2020, &root);
    c->anything = new_node(c, NB_NODE_AND, 0);
    c->nothing = new_node(c, NB_NODE_OR, 0);
    if (s == NB_OK && (!c->anything || !c->nothing))
        s = no_memory(c);
    if (s == NB_OK)
        s = check_vocabulary(c, root->value);
    if (s == NB_OK) {
        static const struct place none;
        const struct nb_value *value = root->value;
        if (value->kind == NB_VALUE_OBJECT || value->kind == NB_VALUE_TRUE ||
            value->kind == NB_VALUE_FALSE)
            s = node_of(c, value, root, &none, &c->schema->root);
        else
            s = nb_fail(c->err, NB_ERR_FORMAT,
                        "%s: is %s, expected a schema: an object or a "
                        "boolean",
                        c->name, nb_value_kind_name(value->kind));
    }
    while (s == NB_OK && c->n_pending) {
        struct pending next = c->pending[--c->n_pending];
        s = read_schema(c, &next);
    }
    if (s == NB_OK) {
        uint8_t *seen = calloc(c->schema->n_nodes, 1);
        s = seen ? NB_OK : no_memory(c);
        /* From every node: those behind a step into the value, too. */
        for (size_t i = 0; i < c->n_slots && s == NB_OK; i++) {
            if (c->known[i].value)
                s = check_cycles(c, c->known[i].node, seen, 0);
        }
        free(seen);
    }
    return s;
}

enum nb_status nb_schema_read(const char *text, size_t n, const char *name,
                              const struct nb_schema_options *options, struct nb_schema *out,
                              struct nb_error *err) {
    static const struct nb_schema_options defaults;
    *out = (struct nb_schema){0};
    struct compiler c = {
        .schema = out, .options = options ? options : &defaults, .name = name, .err = err};
    enum nb_status s = read_all(&c, text, n);
    free(c.known);
    free(c.pending);
    if (s != NB_OK)
        nb_schema_free(out);
    return s;
}

void nb_schema_free(struct nb_schema *schema) {
    nb_arena_free(&schema->arena);
    nb_buf_free(&schema->notes);
    nb_buf_free(&schema->doubts);
    *schema = (struct nb_schema){0};
}
