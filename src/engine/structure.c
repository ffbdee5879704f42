#include "engine/structure.h"

#include "engine/logits.h"
#include "model/tokenizer_map.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_KEPT = 64,
    MAX_KEPT_BYTES = 512 << 20,
    MAX_FORCED_BYTES = 4096,
};

struct kept {
    uint64_t hash;
    char *key; /* all that the grammar depends on */
    size_t key_bytes;
    struct nb_grammar *grammar;
    uint64_t used; /* when */
};

struct nb_structures {
    pthread_mutex_t lock;
    struct nb_vocabulary *vocabulary;
    struct kept kept[MAX_KEPT];
    size_t n_kept;
    uint64_t now;
};

enum nb_status nb_structures_open(struct nb_structures **out, struct nb_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return nb_fail_memory(err, sizeof **out, "grammars");
    pthread_mutex_init(&(*out)->lock, NULL);
    return NB_OK;
}

static void drop(struct nb_structures *s, size_t i) {
    nb_grammar_release(s->kept[i].grammar);
    free(s->kept[i].key);
    s->kept[i] = s->kept[--s->n_kept];
}

void nb_structures_close(struct nb_structures *s) {
    if (!s)
        return;
    while (s->n_kept)
        drop(s, 0);
    nb_vocabulary_close(s->vocabulary);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

enum nb_status nb_engine_vocabulary(struct nb_engine *engine, const struct nb_vocabulary **out,
                                    struct nb_error *err) {
    struct nb_structures *s = engine->structures;
    const struct nb_config *c = &engine->model.config;
    if (!engine->tokenizer)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: has no tokenizer, so an answer's structure cannot be enforced",
                       engine->folder);
    pthread_mutex_lock(&s->lock);
    enum nb_status status = NB_OK;
    if (!s->vocabulary)
        status =
            nb_vocabulary_open(engine->tokenizer, c->eos, (size_t)c->n_eos, &s->vocabulary, err);
    *out = s->vocabulary;
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* ---- compiled grammars ---- */

static void make_key(const struct nb_structure *what, struct nb_buf *key) {
    nb_buf_printf(key, "%d%d%d", what->any_order, what->flexible, what->lenient);
    if (what->schema) {
        nb_buf_add(key, "s", 1);
        nb_buf_add(key, what->schema, what->schema_bytes);
    } else if (what->regex) {
        nb_buf_printf(key, "r%s", what->regex);
    }
    for (size_t i = 0; i < what->n_choices; i++)
        nb_buf_printf(key, "c%zu:%s", strlen(what->choices[i]), what->choices[i]);
}

/* A schema that nothing fulfils would leave the model without a token to choose. */
static enum nb_status compile_schema(const struct nb_structure *what,
                                     const struct nb_grammar_options *options,
                                     const struct nb_vocabulary *v, struct nb_grammar **out,
                                     struct nb_error *err) {
    enum nb_status s = nb_grammar_schema(what->schema, what->schema_bytes, options, v, out, err);
    if (s == NB_OK)
        s = nb_grammar_check(*out, what->name, err);
    if (s != NB_OK) {
        nb_grammar_release(*out);
        *out = NULL;
    }
    return s;
}

static enum nb_status compile(const struct nb_structure *what, const struct nb_vocabulary *v,
                              struct nb_grammar **out, struct nb_error *err) {
    struct nb_grammar_options options = {.any_order = what->any_order,
                                         .flexible = what->flexible,
                                         .lenient = what->lenient,
                                         .written_integers = true,
                                         .name = what->name};
    if (what->schema)
        return compile_schema(what, &options, v, out, err);
    if (what->regex)
        return nb_grammar_regex(what->regex, strlen(what->regex), v, out, err);
    return nb_grammar_choice(what->choices, what->n_choices, v, out, err);
}

/* Under the lock: the grammar of a key, retained; NULL if there is none. */
static struct nb_grammar *find(struct nb_structures *s, const struct nb_buf *key, uint64_t hash) {
    for (size_t i = 0; i < s->n_kept; i++) {
        struct kept *k = &s->kept[i];
        if (k->hash == hash && k->key_bytes == key->len &&
            memcmp(k->key, key->data, key->len) == 0) {
            k->used = ++s->now;
            return nb_grammar_retain(k->grammar);
        }
    }
    return NULL;
}

/* Under the lock; takes the key. */
static void keep(struct nb_structures *s, struct nb_buf *key, uint64_t hash,
                 struct nb_grammar *grammar) {
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_kept; i++)
        bytes += nb_grammar_bytes(s->kept[i].grammar);
    while (s->n_kept && (s->n_kept == MAX_KEPT || bytes > MAX_KEPT_BYTES)) {
        size_t oldest = 0;
        for (size_t i = 1; i < s->n_kept; i++)
            oldest = s->kept[i].used < s->kept[oldest].used ? i : oldest;
        bytes -= nb_grammar_bytes(s->kept[oldest].grammar);
        drop(s, oldest);
    }
    s->kept[s->n_kept++] =
        (struct kept){hash, key->data, key->len, nb_grammar_retain(grammar), ++s->now};
    *key = (struct nb_buf){0};
}

enum nb_status nb_grammar_compile(struct nb_engine *engine, const struct nb_structure *what,
                                  struct nb_grammar **out, struct nb_error *err) {
    struct nb_structures *s = engine->structures;
    const struct nb_vocabulary *v;
    struct nb_buf key = {0};
    *out = NULL;
    if ((what->schema != NULL) + (what->regex != NULL) + (what->n_choices > 0) != 1)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "an answer's structure: expected one of schema, regex and choices");
    enum nb_status status = nb_engine_vocabulary(engine, &v, err);
    if (status != NB_OK)
        return status;
    make_key(what, &key);
    if (key.failed) {
        nb_buf_free(&key);
        return nb_fail_memory(err, key.len, "a grammar");
    }
    uint64_t hash = nb_hash_text(key.data, key.len);
    struct nb_grammar *made = NULL;
    pthread_mutex_lock(&s->lock);
    *out = find(s, &key, hash);
    pthread_mutex_unlock(&s->lock);
    if (!*out)
        status = compile(what, v, &made, err);
    if (made) {
        pthread_mutex_lock(&s->lock);
        *out = find(s, &key, hash); /* another thread may have been faster */
        if (!*out) {
            keep(s, &key, hash, made);
            *out = nb_grammar_retain(made);
        }
        pthread_mutex_unlock(&s->lock);
        nb_grammar_release(made);
    }
    nb_buf_free(&key);
    return status;
}

/* ---- following one ---- */

enum nb_status nb_follower_open(struct nb_engine *engine, struct nb_grammar *grammar,
                                struct nb_follower *out, struct nb_error *err) {
    *out = (struct nb_follower){.engine = engine};
    enum nb_status s = nb_engine_vocabulary(engine, &out->vocabulary, err);
    return s == NB_OK ? nb_matcher_open(grammar, &out->matcher, err) : s;
}

void nb_follower_close(struct nb_follower *f) {
    nb_matcher_close(f->matcher);
    nb_buf_free(&f->bytes);
    *f = (struct nb_follower){0};
}

/* The tokens of a mask but the end tokens: how many, two being enough. */
static int count_tokens(const struct nb_vocabulary *v, const uint64_t *bits) {
    int n = 0;
    for (uint32_t w = 0; w < v->n_words && n < 2; w++) {
        uint64_t word = bits[w];
        for (size_t i = 0; word && i < v->n_ends; i++) {
            if ((uint32_t)v->ends[i] / 64 == w)
                word &= ~(UINT64_C(1) << v->ends[i] % 64);
        }
        n += __builtin_popcountll(word);
    }
    return n;
}

enum nb_status nb_follower_mask(struct nb_follower *f, float *logits, bool *only_end,
                                struct nb_error *err) {
    const struct nb_vocabulary *v = f->vocabulary;
    const uint64_t *bits;
    enum nb_status s = nb_matcher_mask(f->matcher, &bits, err);
    if (s != NB_OK)
        return s;
    bool can_end = nb_matcher_can_end(f->matcher);
    *only_end = count_tokens(v, bits) == 0;
    if (*only_end && !can_end)
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "the grammar allows no token after \"%.200s\": the schema contradicts itself "
            "in a way that was not seen before",
            f->bytes.data ? f->bytes.data : "");
    nb_logits_keep(logits, (size_t)f->engine->model.config.n_vocab, bits, v->n_words);
    return NB_OK;
}

static enum nb_status accept(struct nb_follower *f, int32_t token, struct nb_error *err) {
    size_t n;
    const char *bytes = nb_tokenizer_bytes(f->engine->tokenizer, token, &n);
    if (!nb_matcher_accept(f->matcher, token))
        return nb_fail(err, NB_ERR_INTERNAL, "token %d does not fit the grammar", token);
    nb_buf_add(&f->bytes, bytes, n);
    return f->bytes.failed ? nb_fail_memory(err, f->bytes.len, "the answer") : NB_OK;
}

/* Tokens of the grammar's text so far, ids [n_before] and one more, with `forced` after it, from
 * that last one on, where the whole text begins with the tokens before it; else of the last token
 * and what is forced alone. */
static bool tokenize(struct nb_follower *f, const int32_t *ids, size_t n_before,
                     const struct nb_buf *forced, struct nb_tokens *out) {
    struct nb_buf text = {0};
    size_t n_last;
    nb_tokenizer_bytes(f->engine->tokenizer, ids[n_before], &n_last);
    nb_buf_add(&text, f->bytes.data, f->bytes.len);
    nb_buf_add(&text, forced->data, forced->len);
    out->n = 0;
    bool good = !text.failed && nb_tokenizer_encode(f->engine->tokenizer, text.data, text.len,
                                                    NB_ENCODE_CONTINUE, out, NULL) == NB_OK;
    bool same = good && out->n > n_before;
    for (size_t i = 0; same && i < n_before; i++)
        same = out->ids[i] == ids[i];
    if (same) {
        memmove(out->ids, out->ids + n_before, (out->n - n_before) * sizeof *out->ids);
        out->n -= n_before;
    } else if (good) {
        size_t from = f->bytes.len - n_last;
        out->n = 0;
        good = nb_tokenizer_encode(f->engine->tokenizer, text.data + from, text.len - from,
                                   NB_ENCODE_CONTINUE, out, NULL) == NB_OK;
    }
    /* Whatever the tokenizer made of it must be the same text. */
    size_t bytes = 0, want = n_last + forced->len;
    for (size_t i = 0; i < out->n && good; i++) {
        size_t n;
        const char *p = nb_tokenizer_bytes(f->engine->tokenizer, out->ids[i], &n);
        good = n <= want - bytes && memcmp(p, text.data + (text.len - want) + bytes, n) == 0;
        bytes += n;
    }
    nb_buf_free(&text);
    return good && bytes == want && out->n;
}

/* Accepts the tokens one by one; a last one beside which others may come is left for the model. */
static enum nb_status accept_all(struct nb_follower *f, struct nb_tokens *jump,
                                 struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < jump->n && s == NB_OK; i++) {
        const uint64_t *bits;
        if (i && i + 1 == jump->n) {
            s = nb_matcher_mask(f->matcher, &bits, err);
            if (s == NB_OK && count_tokens(f->vocabulary, bits) > 1) {
                jump->n--;
                return NB_OK;
            }
        }
        if (s == NB_OK)
            s = accept(f, jump->ids[i], err);
    }
    return s;
}

enum nb_status nb_follower_take(struct nb_follower *f, struct nb_tokens *tokens, size_t n_before,
                                bool jump, struct nb_error *err) {
    struct nb_matcher_mark mark = nb_matcher_mark(f->matcher);
    struct nb_buf forced = {0};
    struct nb_tokens whole = {0};
    size_t bytes_before = f->bytes.len;
    enum nb_status s = accept(f, tokens->ids[n_before], err);
    if (s == NB_OK && jump)
        s = nb_matcher_forced(f->matcher, MAX_FORCED_BYTES, &forced, err);
    if (s == NB_OK && forced.len &&
        tokenize(f, tokens->ids + f->first, n_before - f->first, &forced, &whole)) {
        nb_matcher_reset(f->matcher, &mark);
        f->bytes.len = bytes_before;
        s = accept_all(f, &whole, err);
        tokens->n = n_before;
        for (size_t i = 0; i < whole.n && s == NB_OK; i++) {
            if (!nb_tokens_add(tokens, whole.ids[i]))
                s = nb_fail_memory(err, tokens->n * sizeof(int32_t), "the tokens");
        }
    }
    nb_buf_free(&forced);
    nb_tokens_free(&whole);
    return s;
}

bool nb_follower_viable(struct nb_follower *f, int32_t token) {
    for (size_t i = 0; i < f->vocabulary->n_ends; i++) {
        if (f->vocabulary->ends[i] == token)
            return nb_matcher_can_end(f->matcher);
    }
    return nb_matcher_viable(f->matcher, token);
}

int32_t nb_follower_way_out(struct nb_follower *f) {
    struct nb_buf rest = {0};
    struct nb_tokens tokens = {0};
    int32_t id = -1;
    if (nb_matcher_finish(f->matcher, &rest) && rest.len &&
        nb_vocabulary_spell(f->vocabulary, rest.data, rest.len, &tokens, NULL) == NB_OK && tokens.n)
        id = tokens.ids[0];
    nb_tokens_free(&tokens);
    nb_buf_free(&rest);
    return id;
}

bool nb_follower_ended(struct nb_follower *f) {
    const uint64_t *bits;
    return nb_matcher_can_end(f->matcher) && nb_matcher_mask(f->matcher, &bits, NULL) == NB_OK &&
           count_tokens(f->vocabulary, bits) == 0;
}

bool nb_follower_finish(struct nb_follower *f, struct nb_tokens *tokens) {
    struct nb_buf rest = {0};
    bool good = nb_matcher_finish_shortest(f->matcher, &rest);
    size_t held = tokens->n;
    if (good && rest.len) {
        /* What begins within a character is no text of its own: then token by token. */
        good = nb_tokenizer_encode(f->engine->tokenizer, rest.data, rest.len, NB_ENCODE_CONTINUE,
                                   tokens, NULL) == NB_OK ||
               nb_vocabulary_spell(f->vocabulary, rest.data, rest.len, tokens, NULL) == NB_OK;
    }
    for (size_t i = held; i < tokens->n && good; i++)
        good = accept(f, tokens->ids[i], NULL) == NB_OK;
    good = good && nb_matcher_can_end(f->matcher);
    if (!good)
        tokens->n = held;
    nb_buf_free(&rest);
    return good;
}
