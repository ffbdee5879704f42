/* Pages of KV memory: who has them, and which of them can be shared. */
#include "test.h"

#include "engine/pages.h"

#include <string.h>

static void tokens_of(int32_t *tokens, int32_t seed) {
    for (int i = 0; i < NB_PAGE_TOKENS; i++)
        tokens[i] = seed * 1000 + i;
}

static void test_take_and_release(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pages p;
    assert_ok(nb_pages_open(3, &p, &err), err);
    assert_int_equal(nb_pages_take(&p), 0);
    assert_int_equal(nb_pages_take(&p), 1);
    assert_int_equal(nb_pages_take(&p), 2);
    assert_int_equal(nb_pages_take(&p), -1);
    nb_pages_share(&p, 1);
    assert_false(nb_pages_writable(&p, 1));
    nb_pages_release(&p, 1);
    assert_true(nb_pages_writable(&p, 1));
    assert_int_equal(nb_pages_available(&p), 0);
    nb_pages_release(&p, 1);
    assert_int_equal(nb_pages_available(&p), 1);
    assert_int_equal(nb_pages_take(&p), 1);
    nb_pages_close(&p);
}

static void test_published_pages_are_found_until_memory_is_wanted(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pages p;
    assert_ok(nb_pages_open(3, &p, &err), err);
    int32_t a[NB_PAGE_TOKENS], b[NB_PAGE_TOKENS], c[NB_PAGE_TOKENS];
    tokens_of(a, 1);
    tokens_of(b, 2);
    memcpy(c, b, sizeof c);
    c[NB_PAGE_TOKENS - 1]++;
    int32_t first = nb_pages_take(&p), second = nb_pages_take(&p);
    nb_prefix one = nb_pages_publish(&p, first, 0, a), two = nb_pages_publish(&p, second, one, b),
              got;
    assert_true(one != 0 && two != 0 && one != two);
    assert_int_equal(nb_pages_publish(&p, first, 0, a), one);
    assert_false(nb_pages_writable(&p, first));
    nb_pages_release(&p, second);
    nb_pages_release(&p, first);
    assert_int_equal(nb_pages_available(&p), 3);

    assert_int_equal(nb_pages_find(&p, 0, b, &got), -1); /* b is known after a only */
    assert_int_equal(nb_pages_find(&p, one, c, &got), -1);
    assert_int_equal(nb_pages_find(&p, 0, a, &got), first);
    assert_true(got == one);
    assert_int_equal(nb_pages_find(&p, one, b, &got), second);
    assert_int_equal(nb_pages_available(&p), 1);
    nb_pages_release(&p, second);
    nb_pages_release(&p, first);

    /* The free page goes first, then the one that was released first. */
    int32_t free_page = nb_pages_take(&p);
    assert_true(free_page != first && free_page != second);
    assert_int_equal(nb_pages_take(&p), second);
    assert_int_equal(nb_pages_find(&p, one, b, &got), -1);
    assert_int_equal(nb_pages_find(&p, 0, a, &got), first);
    assert_int_equal(nb_pages_take(&p), -1);
    nb_pages_close(&p);
}

static void test_the_same_content_twice(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pages p;
    assert_ok(nb_pages_open(2, &p, &err), err);
    int32_t a[NB_PAGE_TOKENS];
    tokens_of(a, 1);
    int32_t first = nb_pages_take(&p), second = nb_pages_take(&p);
    nb_prefix one = nb_pages_publish(&p, first, 0, a);
    assert_true(nb_pages_publish(&p, second, 0, a) == one);
    assert_true(nb_pages_writable(&p, second));
    nb_pages_release(&p, second);
    assert_int_equal(p.n_free, 1); /* its content is in the other */
    assert_int_equal(p.n_unused, 0);
    nb_pages_close(&p);
}

/* Random users, against a list of who has what. */
static void test_random_use(void **state) {
    (void)state;
    enum { PAGES = 13, STEPS = 20000, MOST = 64 };
    struct nb_error err;
    struct nb_pages p;
    assert_ok(nb_pages_open(PAGES, &p, &err), err);
    int32_t held[MOST], users[PAGES] = {0};
    size_t n = 0;
    uint64_t random = 1;
    for (int i = 0; i < STEPS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        uint32_t r = (uint32_t)(random >> 33);
        int32_t key[NB_PAGE_TOKENS];
        tokens_of(key, (int32_t)(r >> 8) % 9);
        nb_prefix got;
        int32_t page = -1;
        if (r % 4 == 0 && n < MOST) {
            page = nb_pages_take(&p);
            if (page >= 0)
                assert_int_equal(users[page], 0);
        } else if (r % 4 == 1 && n < MOST) {
            page = nb_pages_find(&p, 0, key, &got);
        } else if (r % 4 == 2 && n) {
            nb_pages_publish(&p, held[(r >> 4) % n], 0, key);
        } else if (n) {
            size_t at = (r >> 4) % n;
            users[held[at]]--;
            nb_pages_release(&p, held[at]);
            held[at] = held[--n];
        }
        if (page >= 0) {
            users[page]++;
            held[n++] = page;
        }
        size_t in_use = 0;
        for (int j = 0; j < PAGES; j++)
            in_use += users[j] > 0;
        assert_int_equal(nb_pages_available(&p), PAGES - in_use);
    }
    nb_pages_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_and_release),
        cmocka_unit_test(test_published_pages_are_found_until_memory_is_wanted),
        cmocka_unit_test(test_the_same_content_twice),
        cmocka_unit_test(test_random_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
