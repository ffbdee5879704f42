/* Memory that runs out, at every single allocation in turn, as SQLite tests it: the answer is
 * NB_ERR_MEMORY, but for what can be done without, and nothing is kept. The linker sends nibble's
 * allocations here (--wrap), and jansson is told to allocate here. */
#include "test.h"

#include "checkpoint.h"

#include "base/utf8.h"

#include <stdatomic.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t alignment, size_t n);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t alignment, size_t n);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t n);
void __wrap_free(void *p);

/* ---- allocation ---- */

/* Allocations of nibble itself, and those of jansson for it. */
enum { OURS, JANSSON, N_KINDS };
static atomic_long countdown[N_KINDS]; /* to the one that fails; 0: none */
static atomic_long live;               /* not freed yet */
static atomic_bool counting;

/* Whether this allocation succeeds. */
static bool allow(int kind) {
    return !atomic_load(&counting) || atomic_fetch_sub(&countdown[kind], 1) != 1;
}

static void *count(void *p) {
    if (p && atomic_load(&counting))
        atomic_fetch_add(&live, 1);
    return p;
}

void *__wrap_malloc(size_t n) {
    return allow(OURS) ? count(__real_malloc(n)) : NULL;
}

void *__wrap_calloc(size_t n, size_t size) {
    return allow(OURS) ? count(__real_calloc(n, size)) : NULL;
}

void *__wrap_realloc(void *p, size_t n) {
    if (!allow(OURS))
        return NULL;
    return p ? __real_realloc(p, n) : count(__real_realloc(p, n));
}

void *__wrap_aligned_alloc(size_t alignment, size_t n) {
    return allow(OURS) ? count(__real_aligned_alloc(alignment, n)) : NULL;
}

char *__wrap_strdup(const char *text) {
    return allow(OURS) ? count(__real_strdup(text)) : NULL;
}

char *__wrap_strndup(const char *text, size_t n) {
    return allow(OURS) ? count(__real_strndup(text, n)) : NULL;
}

void __wrap_free(void *p) {
    if (p && atomic_load(&counting))
        atomic_fetch_sub(&live, 1);
    __real_free(p);
}

static void *jansson_malloc(size_t n) {
    return allow(JANSSON) ? count(__real_malloc(n)) : NULL;
}

/* ---- what is done with little memory ---- */

/* The demo tokenizer, cut down to its special tokens, its single characters and the first of its
 * merges. */
static void write_tokenizer(const struct checkpoint *c) {
    size_t n, i;
    char *text = read_source("models/demo/tokenizer.json", &n);
    json_t *whole = json_loadb(text, n, 0, NULL), *value;
    free(text);
    json_t *model = json_object_get(whole, "model"), *kept = json_object(), *merges = json_array();
    const char *key;
    json_object_foreach(json_object_get(model, "vocab"), key, value) {
        uint32_t cp;
        if (json_integer_value(value) < 300 || strncmp(key, "<|", 2) == 0 ||
            !key[nb_utf8_decode(key, strlen(key), &cp)])
            json_object_set_new(kept, key, json_integer((json_int_t)json_object_size(kept)));
    }
    assert_true(json_object_size(kept) <= (size_t)c->shape.vocab);
    json_array_foreach(json_object_get(whole, "added_tokens"), i, value) {
        json_t *id = json_object_get(kept, json_string_value(json_object_get(value, "content")));
        assert_non_null(id);
        json_object_set(value, "id", id);
    }
    json_array_foreach(json_object_get(model, "merges"), i, value) {
        char left[64], right[64], joined[128];
        assert_int_equal(sscanf(json_string_value(value), "%63s %63s", left, right), 2);
        snprintf(joined, sizeof joined, "%s%s", left, right);
        if (json_object_get(kept, left) && json_object_get(kept, right) &&
            json_object_get(kept, joined))
            json_array_append(merges, value);
    }
    assert_true(json_array_size(merges) > 20);
    json_object_set_new(model, "vocab", kept);
    json_object_set_new(model, "merges", merges);
    text = json_dumps(whole, 0);
    folder_write_text(&c->folder, "tokenizer.json", text);
    free(text);
    json_decref(whole);
}

/* A checkpoint that takes every road: two shards, data to be realigned, labels, a document. */
static void make(struct checkpoint *c) {
    struct checkpoint_shape shape = checkpoint_tiny;
    shape.vocab = 1000;
    shape.context = 1024;
    checkpoint_make(c, &shape);
    c->shards = 2;
    c->header_padding = 1;
    for (size_t i = 0; i < c->n; i++)
        c->tensors[i].shard = (int)i % 2;
    checkpoint_write(c);
    write_tokenizer(c);
    folder_write_text(&c->folder, "generation_config.json", "{\"eos_token_id\":[2]}");
    folder_write_text(&c->folder, "tokenizer_config.json",
                      "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}");
    folder_write_text(&c->folder, "chat_template.jinja",
                      "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}"
                      "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
                      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
    folder_write_text(&c->folder, "labels.txt", "letter\nbill: to be paid\n");
    folder_write_text(&c->folder, "classify.txt", "<s>{{company}}{{document}}<|answer|>");
    folder_write_text(&c->folder, "a.txt", "ACME Corp\nTotal  12.50\n");
}

static enum nb_status generate(struct nb_engine *engine, bool chat, struct nb_error *err) {
    static const char *const stop[] = {"a stop that never comes"};
    struct nb_generate_options o = {
        .prompt = "Hello </s> \xF0\x9F\x98\x80",
        .prompt_bytes = 15,
        .chat = chat,
        .system = chat ? "Be brief." : NULL,
        .max_tokens = 20,
        .ignore_eos = true,
        .stop = stop,
        .n_stop = 1,
        .logprobs = true,
        .top_logprobs = 2,
        .sampling = {.temperature = 1, .repetition_penalty = 1.1, .seed = 3},
    };
    struct nb_generation out;
    enum nb_status s = nb_generate(engine, &o, &out, err);
    if (s == NB_OK) {
        assert_int_equal(out.n_tokens, 20);
        assert_non_null(out.text);
        assert_int_equal(strlen(out.text), out.text_bytes);
        nb_generation_free(&out);
    } else {
        assert_null(out.token_ids);
    }
    return s;
}

/* Opens, classifies, generates, closes. */
static enum nb_status whole_life(const struct checkpoint *c, struct nb_error *err) {
    struct nb_engine *engine;
    struct nb_classification result;
    struct nb_options options = {.threads = 2};
    enum nb_status s = nb_engine_open(c->folder.path, &options, &engine, err);
    assert_true((s == NB_OK) == (engine != NULL));
    if (s == NB_OK) {
        s = nb_classify_file(engine, folder_path(&c->folder, "a.txt"), &result, err);
        assert_true((s == NB_OK) == (result.document_type != NULL));
        nb_classification_free(&result);
    }
    if (s == NB_OK)
        s = generate(engine, false, err);
    if (s == NB_OK)
        s = generate(engine, true, err);
    nb_engine_close(engine);
    return s;
}

/* A life in which allocation number n of a kind fails, if it comes to that; false if it does not.
 * Nothing may be left. */
static bool fail_at(const struct checkpoint *c, int kind, long n, enum nb_status *s,
                    struct nb_error *err) {
    *err = (struct nb_error){0};
    atomic_store(&live, 0);
    atomic_store(&countdown[OURS], 0);
    atomic_store(&countdown[JANSSON], 0);
    atomic_store(&countdown[kind], n);
    atomic_store(&counting, true);
    *s = whole_life(c, err);
    atomic_store(&counting, false);
    if (atomic_load(&live) != 0)
        fail_msg("allocation %ld failed: %ld are left: %s", n, atomic_load(&live), err->message);
    return atomic_load(&countdown[kind]) <= 0;
}

static void every_allocation(void **state) {
    (void)state;
    struct checkpoint c;
    enum nb_status s = NB_OK;
    struct nb_error err;
    make(&c);
    long n = 1, n_without = 0;
    for (; fail_at(&c, OURS, n, &s, &err); n += 1 + n / 64) {
        char label[32];
        snprintf(label, sizeof label, "allocation %ld", n);
        /* Grammars do without what only makes them quick, and a search for a short text that has no
         * memory is one that found none. */
        bool searched = s == NB_ERR_UNSUPPORTED && strstr(err.message, "found");
        n_without += s == NB_OK || searched;
        if (s != NB_OK && !searched)
            expect_failure(label, s, &err, NB_ERR_MEMORY, "memory");
    }
    assert_true(n_without < n / 3);
    assert_ok(s, err);
    assert_true(n > 100); /* the linker did send them here */
    checkpoint_free(&c);
}

/* jansson drops characters of a string that it has no memory for, and goes on: what it reads then
 * is some other document, so that an error of format is as good as can be had. */
static void every_allocation_of_jansson(void **state) {
    (void)state;
    struct checkpoint c;
    enum nb_status s = NB_OK;
    struct nb_error err;
    make(&c);
    long n = 1, n_memory = 0;
    for (; fail_at(&c, JANSSON, n, &s, &err); n += 1 + n / 16) {
        if (s != NB_ERR_MEMORY && s != NB_ERR_FORMAT && s != NB_OK)
            fail_msg("allocation %ld: %s", n, err.message);
        n_memory += s == NB_ERR_MEMORY;
    }
    assert_ok(s, err);
    assert_true(n > 500 && n_memory > 50);
    checkpoint_free(&c);
}

int main(void) {
    json_set_alloc_funcs(jansson_malloc, __wrap_free);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation),
        cmocka_unit_test(every_allocation_of_jansson),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
