/* Runs the tokenizer for scripts and by hand:
 *
 *   tokenizer_tool ids TOKENIZER [FLAGS]    texts on standard input, each after its length (32
 * bits, this machine's order); ids on standard output likewise tokenizer_tool decode TOKENIZER the
 * other way round tokenizer_tool bench TOKENIZER TEXT [PART_BYTES]   MB/s of one thread
 *
 * FLAGS is a sum of nb_encode_flags. tools/golden/tokenizer_compare.py is the script. */
#include "base/clock.h"
#include "base/file.h"
#include "model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool read_block(struct nb_buf *block, size_t unit) {
    uint32_t n;
    if (fread(&n, sizeof n, 1, stdin) != 1)
        return false;
    nb_buf_clear(block);
    static char chunk[1 << 16];
    for (size_t left = n * unit; left;) {
        size_t got = fread(chunk, 1, left < sizeof chunk ? left : sizeof chunk, stdin);
        if (!got)
            return false;
        nb_buf_add(block, chunk, got);
        left -= got;
    }
    return true;
}

static void write_block(const void *data, size_t n, size_t unit) {
    uint32_t count = (uint32_t)n;
    fwrite(&count, sizeof count, 1, stdout);
    fwrite(data, unit, n, stdout);
    fflush(stdout);
}

static enum nb_status encode_blocks(const struct nb_tokenizer *t, unsigned flags,
                                    struct nb_error *err) {
    struct nb_buf text = {0};
    struct nb_tokens ids = {0};
    enum nb_status s = NB_OK;
    while (s == NB_OK && read_block(&text, 1)) {
        ids.n = 0;
        s = nb_tokenizer_encode(t, text.data, text.len, flags, &ids, err);
        write_block(ids.ids, ids.n, sizeof *ids.ids);
    }
    nb_buf_free(&text);
    nb_tokens_free(&ids);
    return s;
}

static enum nb_status decode_blocks(const struct nb_tokenizer *t, struct nb_error *err) {
    struct nb_buf ids = {0}, text = {0};
    enum nb_status s = NB_OK;
    while (s == NB_OK && read_block(&ids, sizeof(int32_t))) {
        nb_buf_clear(&text);
        s = nb_tokenizer_decode(t, (const int32_t *)(void *)ids.data, ids.len / sizeof(int32_t),
                                &text, err);
        write_block(text.data, text.len, 1);
    }
    nb_buf_free(&text);
    nb_buf_free(&ids);
    return s;
}

/* The end of a part of about `bytes` bytes from `begin`, between characters. */
static size_t part_end(const struct nb_buf *text, size_t begin, size_t bytes) {
    if (bytes >= text->len - begin)
        return text->len;
    size_t end = begin + bytes;
    while (end < text->len && ((unsigned char)text->data[end] & 0xC0) == 0x80)
        end++;
    return end;
}

static double thread_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static enum nb_status bench(const struct nb_tokenizer *t, const char *path, size_t part_bytes,
                            struct nb_error *err) {
    struct nb_buf text = {0};
    struct nb_tokens ids = {0};
    enum nb_status s = nb_read_file(path, 1u << 30, &text, err);
    double best_us = 1e30; /* of this thread's processor time: other programs may be running */
    for (int round = 0; round < 5 && s == NB_OK; round++) {
        double start = thread_us();
        size_t tokens = 0;
        for (size_t at = 0; at < text.len && s == NB_OK;) {
            size_t end = part_end(&text, at, part_bytes);
            ids.n = 0;
            s = nb_tokenizer_encode(t, text.data + at, end - at, 0, &ids, err);
            tokens += ids.n;
            at = end;
        }
        double us = thread_us() - start;
        best_us = us < best_us ? us : best_us;
        if (round == 4)
            printf("%zu bytes, %zu tokens, best of 5: %.1f MB/s\n", text.len, tokens,
                   (double)text.len / best_us);
    }
    nb_buf_free(&text);
    nb_tokens_free(&ids);
    return s;
}

int main(int argc, char **argv) {
    struct nb_tokenizer *t = NULL;
    struct nb_error err = {.message = "usage: tokenizer_tool ids|decode|bench TOKENIZER …"};
    enum nb_status s = NB_ERR_ARGUMENT;
    int64_t start = nb_now_us();
    if (argc >= 3)
        s = nb_tokenizer_open(argv[2], &t, &err);
    if (s == NB_OK && strcmp(argv[1], "ids") == 0) {
        s = encode_blocks(t, argc > 3 ? (unsigned)atoi(argv[3]) : 0, &err);
    } else if (s == NB_OK && strcmp(argv[1], "decode") == 0) {
        s = decode_blocks(t, &err);
    } else if (s == NB_OK && strcmp(argv[1], "bench") == 0 && argc >= 4) {
        printf("opened in %.1f ms\n", (double)(nb_now_us() - start) / 1000);
        s = bench(t, argv[3], argc > 4 ? strtoull(argv[4], NULL, 10) : SIZE_MAX, &err);
    }
    nb_tokenizer_close(t);
    if (s != NB_OK)
        fprintf(stderr, "%s\n", err.message);
    return s != NB_OK;
}
