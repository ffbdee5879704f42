#include "test.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/float16.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/utf8.h"

#include <math.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static void error_messages(void **state) {
    (void)state;
    struct nb_error err;
    assert_int_equal(nb_fail(&err, NB_ERR_FORMAT, "byte %d", 7), NB_ERR_FORMAT);
    assert_string_equal(err.message, "byte 7");
    assert_int_equal(nb_fail_prefix(&err, NB_ERR_FORMAT, "file %s", "a"), NB_ERR_FORMAT);
    assert_string_equal(err.message, "file a: byte 7");
    assert_int_equal(nb_fail(NULL, NB_ERR_IO, "ignored"), NB_ERR_IO);

    char long_text[3000];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    nb_fail(&err, NB_ERR_IO, "%s", long_text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    assert_string_equal(err.message + strlen(err.message) - 3, "…");
    nb_fail_prefix(&err, NB_ERR_IO, "%s", "prefix");
    assert_string_equal(err.message + strlen(err.message) - 3, "…");
    for (int s = NB_OK; s <= NB_ERR_INTERNAL; s++)
        assert_string_not_equal(nb_status_name((enum nb_status)s), "unknown");
}

static void checked_arithmetic(void **state) {
    (void)state;
    size_t r;
    assert_true(nb_mul_size(3, 4, &r) && r == 12);
    assert_false(nb_mul_size(SIZE_MAX / 2, 3, &r));
    assert_true(nb_add_size(SIZE_MAX - 1, 1, &r) && r == SIZE_MAX);
    assert_false(nb_add_size(SIZE_MAX, 1, &r));
    assert_int_equal(nb_div_up(9, 4), 3);
    assert_int_equal(nb_div_up(8, 4), 2);
    assert_int_equal(nb_div_up(0, 4), 0);
    assert_true(nb_div_up(SIZE_MAX, 2) == SIZE_MAX / 2 + 1);
    assert_true(nb_round_up(17, 16, &r) && r == 32);
    assert_false(nb_round_up(SIZE_MAX, 16, &r));
}

static void arena(void **state) {
    (void)state;
    struct nb_arena a = {0};
    for (size_t n = 0; n < 3000; n += 7) {
        unsigned char *p = nb_arena_alloc(&a, n, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xAB, n);
    }
    assert_non_null(nb_arena_alloc(&a, 1, 1 << 20));
    assert_null(nb_arena_alloc(&a, SIZE_MAX / 2, 3));
    assert_null(nb_arena_alloc(&a, SIZE_MAX, 1));
    assert_string_equal(nb_arena_string(&a, "abcdef", 3), "abc");
    nb_arena_free(&a);
    assert_null(a.head);
}

static void buffer(void **state) {
    (void)state;
    struct nb_buf b = {0};
    for (int i = 0; i < 1000; i++)
        nb_buf_printf(&b, "%d,", i);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    assert_int_equal(b.data[b.len], 0);
    nb_buf_clear(&b);
    nb_buf_add_utf8(&b, 'a');
    nb_buf_add_utf8(&b, 0xE9);
    nb_buf_add_utf8(&b, 0x20AC);
    nb_buf_add_utf8(&b, 0x1F600);
    assert_string_equal(b.data, "aé€😀");
    nb_buf_add(&b, "x", SIZE_MAX - 2); /* cannot fit: nothing is read */
    assert_true(b.failed);
    nb_buf_free(&b);
}

static void utf8(void **state) {
    (void)state;
    uint32_t cp = 0;
    assert_int_equal(nb_utf8_decode("€", 3, &cp), 3);
    assert_int_equal(cp, 0x20AC);
    static const char *const bad[] = {
        "\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80",    "\xED\xA0\x80", "\xF4\x90\x80\x80",
        "\xFF", "\xE2\x82", "\xC3(",    "\xF8\x88\x80\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(nb_utf8_decode(bad[i], strlen(bad[i]), &cp), 0);
    /* Every code point there and back. */
    struct nb_buf b = {0};
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF)
            continue;
        nb_buf_clear(&b);
        nb_buf_add_utf8(&b, c);
        uint32_t back = 0;
        assert_int_equal(nb_utf8_decode(b.data, b.len, &back), b.len);
        assert_int_equal(back, c);
    }
    nb_buf_free(&b);
    size_t at = 0;
    assert_true(nb_utf8_valid("0123456789é0123456789", 22, &at));
    assert_false(nb_utf8_valid("0123456789\xE9"
                               "0123456789",
                               21, &at));
    assert_int_equal(at, 10);
    assert_true(nb_utf8_valid("", 0, NULL));
}

static void files(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_map map;
    char name[] = "/tmp/nibble-test-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_ok(nb_map_open(name, &map, &err), err);
    assert_int_equal(map.size, 0);
    nb_map_close(&map);
    assert_true(nb_write_all(fd, "hello", 5));
    close(fd);
    assert_false(nb_write_all(fd, "hello", 5));
    assert_ok(nb_map_open(name, &map, &err), err);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    nb_map_close(&map);
    struct nb_buf b = {0};
    assert_ok(nb_read_file(name, 5, &b, &err), err);
    assert_string_equal(b.data, "hello");
    assert_int_equal(nb_read_file(name, 4, &b, &err), NB_ERR_LIMIT);
    assert_non_null(strstr(err.message, name));
    nb_buf_free(&b);
    unlink(name);
    assert_int_equal(nb_map_open(name, &map, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "No such file"));
    assert_int_equal(nb_map_open("/tmp", &map, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "folder"));
    assert_int_equal(nb_read_file("/tmp", 10, &b, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "folder"));
    assert_int_equal(mkfifo(name, 0600), 0); /* without a writer: opening it must not wait */
    assert_int_equal(nb_read_regular_file(name, 10, &b, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "not a regular file"));
    unlink(name);
    char path[8];
    assert_true(nb_path_join(path, sizeof path, "ab/", "c"));
    assert_string_equal(path, "ab/c");
    assert_false(nb_path_join(path, sizeof path, "abcdef", "gh"));
}

struct loop {
    atomic_int times[1000];
    atomic_bool bad_thread;
    int n_threads;
};

static void visit(void *context, int thread, size_t begin, size_t end) {
    struct loop *l = context;
    if (thread < 0 || thread >= l->n_threads)
        atomic_store(&l->bad_thread, true);
    for (size_t i = begin; i < end; i++)
        atomic_fetch_add(&l->times[i], 1);
}

static void pool(void **state) {
    (void)state;
    struct nb_error err;
    for (int n_threads = 0; n_threads <= 5; n_threads++) {
        struct nb_pool *p;
        assert_ok(nb_pool_create(n_threads, &p, &err), err);
        static struct loop l;
        memset(&l, 0, sizeof l);
        l.n_threads = nb_pool_size(p);
        assert_true(n_threads == 0 ? l.n_threads >= 1 : l.n_threads == n_threads);
        int rounds = 0;
        for (size_t n = 0; n <= 1000; n += 37, rounds++) {
            memset(l.times, 0, sizeof l.times);
            nb_pool_run(p, n, 1 + n % 11, visit, &l);
            nb_pool_run_shares(p, n, 1 + n % 13, visit, &l);
            for (size_t i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&l.times[i]), i < n ? 2 : 0);
            if (rounds % 9 == 0)
                usleep(3000); /* let them fall asleep */
        }
        assert_false(atomic_load(&l.bad_thread));
        nb_pool_free(p);
    }
    struct nb_pool *p;
    assert_int_equal(nb_pool_create(-1, &p, &err), NB_ERR_ARGUMENT);
    nb_pool_free(NULL);
}

static void half_floats(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = nb_f16_to_f32((uint16_t)h), b = nb_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(nb_f16_to_f32(nb_f32_to_f16(f))));
        else
            assert_int_equal(nb_f32_to_f16(f), h);
        if (isnan(b))
            assert_true(isnan(nb_bf16_to_f32(nb_f32_to_bf16(b))));
        else
            assert_int_equal(nb_f32_to_bf16(b), h);
    }
    assert_int_equal(nb_f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(nb_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(nb_f32_to_f16(0x1p-25f), 0);            /* halfway: to even */
    assert_int_equal(nb_f32_to_f16(0x1.8p-24f), 2);          /* halfway: to even */
    assert_int_equal(nb_f32_to_bf16(0x1.01p0f), 0x3F80);     /* halfway: to even */
    assert_int_equal(nb_f32_to_bf16(0x1.03p0f), 0x3F82);     /* halfway: to even */
    assert_int_equal(nb_f32_to_bf16(0x1.010002p0f), 0x3F81); /* just above */
    assert_int_equal(nb_f32_to_f16(0x1.002p0f), 0x3C00);     /* halfway: to even */
    assert_int_equal(nb_f32_to_f16(0x1.006p0f), 0x3C02);     /* halfway: to even */
}

static void keep(void *context, enum nb_log_level level, const char *message) {
    (void)level;
    nb_buf_add_string(context, message);
}

static void logging(void **state) {
    (void)state;
    struct nb_buf b = {0};
    nb_log(NB_LOG_ERROR, "nobody listens");
    nb_log_set(NB_LOG_WARN, keep, &b);
    nb_log(NB_LOG_WARN, "a%d", 1);
    nb_log(NB_LOG_INFO, "b");
    nb_log_set(NB_LOG_WARN, NULL, NULL);
    assert_string_equal(b.data, "a1");
    assert_string_equal(nb_log_level_name(NB_LOG_DEBUG), "debug");
    nb_buf_free(&b);
}

/* As much as this process is known to be able to take, and no more than there is. */
static void memory(void **state) {
    (void)state;
    uint64_t all = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
             available = nb_memory_available();
    assert_in_range(available, 16 << 20, all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_messages), cmocka_unit_test(checked_arithmetic),
        cmocka_unit_test(arena),          cmocka_unit_test(buffer),
        cmocka_unit_test(utf8),           cmocka_unit_test(files),
        cmocka_unit_test(pool),           cmocka_unit_test(half_floats),
        cmocka_unit_test(logging),        cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
