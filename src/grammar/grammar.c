#include "grammar/grammar.h"

#include "grammar/complete.h"
#include "grammar/mask.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct nb_grammar {
    int references; /* atomic */
    struct nb_schema schema;
    struct nb_space space;
    struct nb_lazy *raw; /* instead of a schema */
    uint32_t raw_start;
    unsigned flags;
    const struct nb_vocabulary *vocabulary;
    /* The automaton grows while it is followed: one matcher at a time. */
    pthread_mutex_t lock;
};

struct nb_matcher {
    struct nb_grammar *grammar;
    struct nb_reader reader;
    struct nb_masker masker;
    struct nb_state state;

    /* What was accepted, and texts that were found to finish it: `text` from byte `from` of the
     * path on. Looking for one anew, further along, may find none: it is a search that gives up. */
    struct nb_buf path;
    struct way {
        struct nb_buf text;
        size_t from;
    } found, kept; /* the last one, and one before it that the path went along */
};

static enum nb_status new_grammar(const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                  struct nb_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return nb_fail_memory(err, sizeof **out, "a grammar");
    (*out)->references = 1;
    (*out)->vocabulary = vocabulary;
    pthread_mutex_init(&(*out)->lock, NULL);
    return NB_OK;
}

enum nb_status nb_grammar_schema(const char *text, size_t n,
                                 const struct nb_grammar_options *options,
                                 const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                 struct nb_error *err) {
    static const struct nb_grammar_options defaults;
    const struct nb_grammar_options *o = options ? options : &defaults;
    struct nb_schema_options reading = {.lenient = o->lenient,
                                        .written_integers = o->written_integers,
                                        .formats_annotate = o->formats_annotate,
                                        .doubt = o->doubt,
                                        .load = o->load,
                                        .load_context = o->load_context};
    enum nb_status s = new_grammar(vocabulary, out, err);
    if (s != NB_OK)
        return s;
    struct nb_grammar *g = *out;
    g->flags = (o->flexible ? NB_READ_FLEXIBLE : 0u) | (o->any_order ? NB_READ_ANY_ORDER : 0u);
    s = nb_schema_read(text, n, o->name ? o->name : "schema", &reading, &g->schema, err);
    if (s == NB_OK)
        s = nb_space_open(&g->schema, &g->space, err);
    if (s != NB_OK) {
        nb_grammar_release(g);
        *out = NULL;
    }
    return s;
}

enum nb_status nb_grammar_regex(const char *pattern, size_t n,
                                const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                struct nb_error *err) {
    enum nb_status s = new_grammar(vocabulary, out, err);
    nb_lazy_expr e;
    if (s == NB_OK)
        s = nb_lazy_open(NULL, &(*out)->raw, err);
    if (s == NB_OK)
        s = nb_lazy_regex((*out)->raw, pattern, n, NB_REGEX_WHOLE, &e, err);
    if (s == NB_OK)
        s = nb_lazy_start((*out)->raw, e, &(*out)->raw_start, err);
    if (s == NB_OK && !(*out)->raw_start)
        s = nb_fail(err, NB_ERR_ARGUMENT, "the pattern \"%.200s\" matches nothing", pattern);
    if (s != NB_OK) {
        nb_grammar_release(*out);
        *out = NULL;
    }
    return s;
}

enum nb_status nb_grammar_choice(const char *const *labels, size_t n,
                                 const struct nb_vocabulary *vocabulary, struct nb_grammar **out,
                                 struct nb_error *err) {
    enum nb_status s = new_grammar(vocabulary, out, err);
    nb_lazy_expr all = 0, e;
    if (s == NB_OK)
        s = nb_lazy_open(NULL, &(*out)->raw, err);
    if (s == NB_OK && n == 0)
        s = nb_fail(err, NB_ERR_ARGUMENT, "no labels to choose from");
    for (size_t i = 0; i < n && s == NB_OK; i++) {
        if (!labels[i][0])
            s = nb_fail(err, NB_ERR_ARGUMENT, "label %zu is empty", i);
        if (s == NB_OK)
            s = nb_lazy_literal((*out)->raw, labels[i], strlen(labels[i]), i ? &e : &all, err);
        if (s == NB_OK && i)
            s = nb_lazy_or((*out)->raw, all, e, &all, err);
    }
    if (s == NB_OK)
        s = nb_lazy_start((*out)->raw, all, &(*out)->raw_start, err);
    if (s != NB_OK) {
        nb_grammar_release(*out);
        *out = NULL;
    }
    return s;
}

struct nb_grammar *nb_grammar_retain(struct nb_grammar *g) {
    __atomic_add_fetch(&g->references, 1, __ATOMIC_RELAXED);
    return g;
}

void nb_grammar_release(struct nb_grammar *g) {
    if (!g || __atomic_sub_fetch(&g->references, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    nb_lazy_close(g->raw);
    nb_space_close(&g->space);
    nb_schema_free(&g->schema);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static void start(struct nb_grammar *g, struct nb_reader *r, unsigned flags,
                  struct nb_state *state) {
    *r = (struct nb_reader){.space = &g->space, .flags = flags, .raw = g->raw};
    if (g->raw)
        *state = (struct nb_state){.mode = NB_MODE_RAW, .at = g->raw_start};
    else
        nb_state_start(r, state);
}

/* Why the automaton stopped growing, if it did. */
static enum nb_status check(struct nb_grammar *g, struct nb_reader *r, struct nb_error *err) {
    enum nb_status s = r->failed ? r->failed : g->space.failed;
    if (s == NB_OK && g->raw)
        s = g->raw->failed;
    if (s == NB_OK)
        return s;
    if (s == NB_ERR_MEMORY)
        return nb_fail_memory(err, g->space.arena.allocated_bytes, "a grammar");
    return nb_fail(err, s, "the schema needs an automaton of more than its limits allow (%zu MB)",
                   g->space.max_bytes >> 20);
}

enum nb_status nb_grammar_check(struct nb_grammar *g, const char *name, struct nb_error *err) {
    struct nb_reader r;
    struct nb_state state;
    struct nb_buf text = {0};
    pthread_mutex_lock(&g->lock);
    start(g, &r, g->flags, &state);
    bool found = nb_complete(&r, &state, &text);
    enum nb_status s = check(g, &r, err);
    nb_reader_free(&r);
    pthread_mutex_unlock(&g->lock);
    nb_buf_free(&text);
    if (s == NB_OK && !found)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: #: no value was found that fulfils it: it contradicts itself, or is too "
                    "hard to find one for",
                    name ? name : "schema");
    return s;
}

size_t nb_grammar_bytes(struct nb_grammar *g) {
    pthread_mutex_lock(&g->lock);
    size_t bytes = sizeof *g + g->schema.arena.allocated_bytes + g->space.arena.allocated_bytes +
                   g->space.masks.allocated_bytes;
    pthread_mutex_unlock(&g->lock);
    return bytes;
}

const char *nb_grammar_doubts(const struct nb_grammar *g) {
    return g->schema.doubts.data ? g->schema.doubts.data : "";
}

const char *nb_grammar_notes(const struct nb_grammar *g) {
    return g->schema.notes.data ? g->schema.notes.data : "";
}

enum nb_status nb_grammar_validate(struct nb_grammar *g, const char *text, size_t n, bool *valid,
                                   size_t *where, struct nb_error *err) {
    struct nb_reader r;
    struct nb_state state[2];
    pthread_mutex_lock(&g->lock);
    start(g, &r, NB_READ_FLEXIBLE | NB_READ_ANY_ORDER | NB_READ_ANY_SPELLING | NB_READ_ONCE,
          &state[0]);
    size_t i = 0;
    while (i < n && nb_state_step(&r, &state[i % 2], &state[(i + 1) % 2], (uint8_t)text[i]))
        i++;
    *where = i;
    *valid = i == n && nb_state_can_end(&r, &state[i % 2]);
    enum nb_status s = check(g, &r, err);
    if (s == NB_OK && r.inexact)
        s = nb_fail(err, NB_ERR_LIMIT,
                    "the number that ends at byte %zu has more than %d digits, or too large an "
                    "exponent, to tell whether it is as the schema asks",
                    i, NB_DECIMAL_DIGITS);
    nb_reader_free(&r);
    pthread_mutex_unlock(&g->lock);
    return s;
}

/* ---- matchers ---- */

enum nb_status nb_matcher_open(struct nb_grammar *g, struct nb_matcher **out,
                               struct nb_error *err) {
    struct nb_matcher *m = *out = calloc(1, sizeof *m);
    if (!m)
        return nb_fail_memory(err, sizeof *m, "a matcher");
    m->grammar = nb_grammar_retain(g);
    start(g, &m->reader, g->flags, &m->state);
    m->masker = (struct nb_masker){.reader = &m->reader, .vocabulary = g->vocabulary};
    return NB_OK;
}

void nb_matcher_close(struct nb_matcher *m) {
    if (!m)
        return;
    nb_masker_free(&m->masker);
    nb_reader_free(&m->reader);
    nb_grammar_release(m->grammar);
    nb_buf_free(&m->path);
    nb_buf_free(&m->found.text);
    nb_buf_free(&m->kept.text);
    free(m);
}

enum nb_status nb_matcher_mask(struct nb_matcher *m, const uint64_t **bits, struct nb_error *err) {
    pthread_mutex_lock(&m->grammar->lock);
    *bits = nb_mask(&m->masker, &m->state);
    enum nb_status s = *bits ? NB_OK : check(m->grammar, &m->reader, err);
    pthread_mutex_unlock(&m->grammar->lock);
    return s;
}

enum nb_status nb_matcher_mask_plain(struct nb_matcher *m, uint64_t *bits, struct nb_error *err) {
    pthread_mutex_lock(&m->grammar->lock);
    memset(bits, 0, m->grammar->vocabulary->n_words * sizeof *bits);
    nb_mask_plain(&m->masker, &m->state, bits);
    enum nb_status s = check(m->grammar, &m->reader, err);
    pthread_mutex_unlock(&m->grammar->lock);
    return s;
}

bool nb_matcher_accept_bytes(struct nb_matcher *m, const char *bytes, size_t n) {
    struct nb_state state[2] = {m->state};
    pthread_mutex_lock(&m->grammar->lock);
    size_t i = 0;
    while (i < n &&
           nb_state_step(&m->reader, &state[i % 2], &state[(i + 1) % 2], (uint8_t)bytes[i]))
        i++;
    pthread_mutex_unlock(&m->grammar->lock);
    if (i == n) {
        m->state = state[i % 2];
        nb_buf_add(&m->path, bytes, n);
    }
    return i == n;
}

bool nb_matcher_accept(struct nb_matcher *m, int32_t token) {
    const struct nb_vocabulary *v = m->grammar->vocabulary;
    for (size_t i = 0; i < v->n_ends; i++) {
        if (v->ends[i] == token)
            return nb_matcher_can_end(m);
    }
    size_t n;
    const char *bytes = nb_tokenizer_bytes(v->tokenizer, token, &n);
    if (!n || nb_tokenizer_is_special(v->tokenizer, token))
        return false;
    return nb_matcher_accept_bytes(m, bytes, n);
}

bool nb_matcher_can_end(struct nb_matcher *m) {
    pthread_mutex_lock(&m->grammar->lock);
    bool can = nb_state_can_end(&m->reader, &m->state);
    pthread_mutex_unlock(&m->grammar->lock);
    return can;
}

enum nb_status nb_matcher_forced(struct nb_matcher *m, size_t most, struct nb_buf *out,
                                 struct nb_error *err) {
    struct nb_state at = m->state, next, only;
    pthread_mutex_lock(&m->grammar->lock);
    for (size_t i = 0; i < most && !nb_state_can_end(&m->reader, &at); i++) {
        int n = 0;
        uint8_t byte = 0;
        for (int b = 0; b < 256 && n < 2; b++) {
            if (nb_state_step(&m->reader, &at, &next, (uint8_t)b)) {
                n++;
                byte = (uint8_t)b;
                only = next;
            }
        }
        if (n != 1)
            break;
        nb_buf_add(out, &byte, 1);
        at = only;
    }
    enum nb_status s = check(m->grammar, &m->reader, err);
    pthread_mutex_unlock(&m->grammar->lock);
    if (s == NB_OK && out->failed)
        return nb_fail_memory(err, out->len, "forced text");
    return s;
}

/* Whether nothing asked of the open values hangs on another: then the steps so far looked far
 * enough. */
static bool is_simple(const struct nb_state *s) {
    for (const struct nb_frame *f = s->top; f; f = f->parent) {
        if (!f->shape->conjunction || !f->kills || f->shape->unique)
            return false;
    }
    if (s->mode == NB_MODE_STRING || s->mode == NB_MODE_NUMBER)
        return s->kills && (s->shape->conjunction || s->mode == NB_MODE_STRING);
    /* The value that comes may be one that cannot be. */
    return s->mode != NB_MODE_COLON && s->mode != NB_MODE_VALUE;
}

/* How many bytes of a way the path went along, if it did not leave it; else SIZE_MAX. */
static size_t gone_along(const struct nb_matcher *m, const struct way *way) {
    size_t n = m->path.len - way->from;
    bool along = way->text.len && !way->text.failed && !m->path.failed &&
                 way->from <= m->path.len && n <= way->text.len &&
                 (!n || memcmp(m->path.data + way->from, way->text.data, n) == 0);
    return along ? n : SIZE_MAX;
}

static void keep_way(struct nb_matcher *m, const char *bytes, size_t n, const struct nb_buf *rest) {
    if (gone_along(m, &m->found) != SIZE_MAX) {
        struct way swap = m->kept;
        m->kept = m->found;
        m->found = swap;
    }
    nb_buf_clear(&m->found.text);
    m->found.from = m->path.len;
    nb_buf_add(&m->found.text, bytes, n);
    if (rest->len)
        nb_buf_add(&m->found.text, rest->data, rest->len);
}

bool nb_matcher_viable(struct nb_matcher *m, int32_t token) {
    size_t n, i = 0;
    const char *bytes = nb_tokenizer_bytes(m->grammar->vocabulary->tokenizer, token, &n);
    struct nb_state state[2] = {m->state};
    struct nb_buf rest = {0};
    pthread_mutex_lock(&m->grammar->lock);
    while (i < n &&
           nb_state_step(&m->reader, &state[i % 2], &state[(i + 1) % 2], (uint8_t)bytes[i]))
        i++;
    const struct nb_state *end = &state[i % 2];
    bool viable =
        i == n && (end->mode == NB_MODE_RAW || end->mode == NB_MODE_DONE || is_simple(end));
    if (i == n && !viable && nb_complete(&m->reader, end, &rest)) {
        viable = true;
        keep_way(m, bytes, n, &rest);
    }
    pthread_mutex_unlock(&m->grammar->lock);
    nb_buf_free(&rest);
    return viable;
}

bool nb_matcher_finish(struct nb_matcher *m, struct nb_buf *out) {
    pthread_mutex_lock(&m->grammar->lock);
    bool found = nb_complete(&m->reader, &m->state, out);
    for (int i = 0; i < 2 && !found; i++) {
        const struct way *way = i ? &m->kept : &m->found;
        size_t n = gone_along(m, way);
        found = n != SIZE_MAX;
        if (found)
            nb_buf_add(out, way->text.data + n, way->text.len - n);
    }
    pthread_mutex_unlock(&m->grammar->lock);
    return found;
}

bool nb_matcher_finish_shortest(struct nb_matcher *m, struct nb_buf *out) {
    pthread_mutex_lock(&m->grammar->lock);
    bool found = nb_complete_shortest(&m->reader, &m->state, out);
    pthread_mutex_unlock(&m->grammar->lock);
    return found;
}

enum nb_status nb_matcher_check(struct nb_matcher *m, struct nb_error *err) {
    pthread_mutex_lock(&m->grammar->lock);
    enum nb_status s = check(m->grammar, &m->reader, err);
    pthread_mutex_unlock(&m->grammar->lock);
    return s;
}

struct nb_matcher_mark nb_matcher_mark(const struct nb_matcher *m) {
    return (struct nb_matcher_mark){m->state, m->path.len};
}

void nb_matcher_reset(struct nb_matcher *m, const struct nb_matcher_mark *mark) {
    m->state = mark->state;
    m->path.len = mark->bytes;
}
