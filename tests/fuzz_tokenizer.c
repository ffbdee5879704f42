/* libFuzzer: the input is a tokenizer.json or tokenizer.model, 0xFF, and text to encode with it
 * (0xFF is in neither). Loading must give an error or a tokenizer; what that encodes must agree
 * with the plain encoder and decode alike at once and token by token.
 *
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined … tests/fuzz_tokenizer.c
 *
 * tests/golden/tokenizer is a good start for a corpus. */
#include "base/utf8.h"
#include "model/tokenizer_impl.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check(bool good) {
    if (!good)
        abort();
}

static void check_plain(const struct nb_tokenizer *t, const char *text, size_t n) {
    enum { PLAIN_BYTES = 500 }; /* the plain encoder takes the square of it */
    struct nb_bpe_scratch scratch = {0};
    struct nb_tokens fast = {0}, plain = {0};
    struct nb_error err;
    if (n > PLAIN_BYTES || n == 0)
        return;
    check(nb_bpe_encode(&t->bpe, &scratch, text, n, &fast, &err) == NB_OK);
    check(nb_bpe_encode_plain(&t->bpe, text, n, &plain, &err) == NB_OK);
    check(fast.n == plain.n && (!fast.n || !memcmp(fast.ids, plain.ids, fast.n * sizeof(int32_t))));
    nb_bpe_scratch_free(&scratch);
    nb_tokens_free(&fast);
    nb_tokens_free(&plain);
}

static void check_decode(const struct nb_tokenizer *t, const struct nb_tokens *ids) {
    struct nb_buf whole = {0}, joined = {0};
    struct nb_error err;
    struct nb_decoder d;
    check(nb_tokenizer_decode(t, ids->ids, ids->n, &whole, &err) == NB_OK);
    nb_decoder_start(&d, t);
    for (size_t i = 0; i < ids->n; i++)
        nb_decoder_add(&d, ids->ids[i], &joined);
    nb_decoder_finish(&d, &joined);
    check(whole.len == joined.len && (!whole.len || !memcmp(whole.data, joined.data, whole.len)));
    check(nb_utf8_valid(whole.data, whole.len, NULL));
    nb_buf_free(&whole);
    nb_buf_free(&joined);
}

static void use(const struct nb_tokenizer *t, const char *text, size_t n) {
    struct nb_tokens ids = {0};
    struct nb_error err;
    size_t bytes;
    bool valid = nb_utf8_valid(text, n, NULL);
    for (unsigned flags = 0; flags < 8; flags++) {
        size_t held = ids.n;
        enum nb_status s = nb_tokenizer_encode(t, text, n, flags, &ids, &err);
        check(s == NB_OK || ids.n == held);
        check(valid || s == NB_ERR_FORMAT);
    }
    for (size_t i = 0; i < ids.n; i++)
        check(ids.ids[i] >= 0 && ids.ids[i] < nb_tokenizer_size(t));
    for (size_t i = 0; i < n && i < 50; i++) /* ids that no text gives */
        check(nb_tokens_add(&ids, (int32_t)((unsigned char)text[i] * 7u)));
    check_decode(t, &ids);
    if (valid)
        check_plain(t, text, n);
    for (int32_t id = -1; id <= nb_tokenizer_size(t) && id < 1000; id++)
        nb_tokenizer_bytes(t, id, &bytes);
    nb_tokens_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *end = n ? memrchr(data, 0xFF, n) : NULL;
    static const char sample[] = "The <s>quick</s> fox: é漢😀  \t\n▁▁ 12.50 <0x0A> ab abab";
    size_t file = end ? (size_t)(end - data) : n;
    struct nb_tokenizer *t;
    struct nb_error err = {0};
    enum nb_status s = nb_tokenizer_open_bytes(n ? (const char *)data : "", file, "fuzz", &t, &err);
    check((s == NB_OK) == (t != NULL));
    check(s == NB_OK || err.message[0]);
    if (s != NB_OK)
        return 0;
    use(t, sample, sizeof sample - 1);
    if (end)
        use(t, (const char *)end + 1, n - file - 1);
    nb_tokenizer_close(t);
    return 0;
}
