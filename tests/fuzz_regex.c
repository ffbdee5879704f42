/* Any bytes as a pattern: an error that says so, or an automaton whose states that are not dead can
 * all be finished. The first byte says how the pattern is read, and whether it is combined with a
 * length; what follows the first NUL is a text. */
#include "fuzz.h"

#include "base/utf8.h"
#include "grammar/automaton.h"

#include <string.h>

static const struct nb_automaton_limits limits = {.max_states = 2000, .max_work = 300000};

/* Whoever is at a live state can finish, and the text that is said to finish does. */
static void check_alive(struct nb_lazy *lazy, uint32_t state, char *text, size_t n, size_t cap) {
    struct nb_error err;
    char *end;
    size_t more;
    if (nb_lazy_shortest(lazy, state, &end, &more, &err) != NB_OK) {
        REQUIRE(lazy->failed != NB_OK || err.code == NB_ERR_LIMIT);
        return;
    }
    uint32_t to = state;
    for (size_t i = 0; i < more; i++)
        to = nb_lazy_next(lazy, to, (uint8_t)end[i]);
    REQUIRE(lazy->failed != NB_OK || lazy->accepts[to]);
    if (n + more < cap) {
        memcpy(text + n, end, more);
        REQUIRE(nb_utf8_valid(text, n + more, NULL));
    }
    free(end);
}

static void check_table(struct nb_lazy *lazy, uint32_t start, const char *text, size_t n) {
    struct nb_arena arena = {0};
    struct nb_automaton table, inverse, again;
    struct nb_error err;
    if (nb_lazy_table(lazy, start, &arena, &table, &err) != NB_OK) {
        REQUIRE(err.code == NB_ERR_LIMIT && err.message[0]);
        nb_arena_free(&arena);
        return;
    }
    uint32_t a = start, b = table.start;
    for (size_t i = 0; i < n && lazy->failed == NB_OK; i++) {
        REQUIRE((a == 0) == (b == 0) && lazy->accepts[a] == table.accepts[b]);
        a = nb_lazy_next(lazy, a, (uint8_t)text[i]);
        b = nb_automaton_next(&table, b, (uint8_t)text[i]);
    }
    if (table.n_states < 200 &&
        nb_automaton_not(&table, &limits, &arena, &inverse, &err) == NB_OK &&
        nb_automaton_not(&inverse, &limits, &arena, &again, &err) == NB_OK)
        REQUIRE(nb_automaton_equal(&table, &again));
    nb_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1 || size > 400)
        return 0;
    uint8_t flags = data[0];
    const char *pattern = (const char *)data + 1;
    size_t n = size - 1;
    const char *nul = memchr(pattern, 0, n);
    const char *text = nul ? nul + 1 : pattern;
    size_t text_n = nul ? n - (size_t)(nul + 1 - pattern) : n,
           pattern_n = nul ? (size_t)(nul - pattern) : n;
    struct nb_lazy *lazy;
    nb_lazy_expr expr, length;
    struct nb_error err = {0};
    REQUIRE(nb_lazy_open(&limits, &lazy, &err) == NB_OK);
    enum nb_status s = nb_lazy_regex(lazy, pattern, pattern_n,
                                     flags & 1 ? NB_REGEX_WHOLE : NB_REGEX_SEARCH, &expr, &err);
    if (s == NB_OK && flags & 2)
        s = nb_lazy_not(lazy, expr, &expr, &err);
    if (s == NB_OK && flags & 4) {
        s = nb_lazy_length(lazy, flags >> 3 & 3, flags >> 5, &length, &err);
        if (s == NB_OK)
            s = nb_lazy_and(lazy, expr, length, &expr, &err);
    }
    uint32_t start = 0;
    if (s == NB_OK)
        s = nb_lazy_start(lazy, expr, &start, &err);
    if (s != NB_OK) {
        REQUIRE(err.code == s && err.message[0] && s != NB_ERR_INTERNAL && s != NB_ERR_MEMORY);
    } else {
        char walked[1024];
        uint32_t state = start;
        size_t i = 0;
        for (; i < text_n && state; i++) {
            if (i < 8)
                check_alive(lazy, state, walked, i, sizeof walked);
            walked[i] = text[i];
            state = nb_lazy_next(lazy, state, (uint8_t)text[i]);
        }
        if (lazy->accepts[state])
            REQUIRE(nb_utf8_valid(text, text_n, NULL));
        if (state)
            check_alive(lazy, state, walked, i, sizeof walked);
        check_table(lazy, start, text, text_n);
    }
    nb_lazy_close(lazy);
    return 0;
}
