/* Judges documents for scripts: lines on standard input, an answer a line on standard output.
 *
 *   S SCHEMA     compiles it: "ok", or "refused CODE MESSAGE"
 *   D DOCUMENT   "valid", "invalid AT", or "undecided MESSAGE"
 *   W SEED       a text under the masks of the schema, byte for byte, and an end that was found:
 *                "text TEXT"; "none" where the schema has none, "stuck TEXT" where no end was found
 *
 * tools/golden/schema_compare.py is the script. */
#include "grammar/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned draw(uint64_t *state, unsigned n) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (unsigned)(*state >> 33) % n;
}

/* One more byte that may come, of those JSON is made of if there is one. */
static bool write_byte(struct nb_matcher *m, uint64_t *seed, struct nb_buf *text) {
    static const char usual[] = "\"}],:{[0aebntr1ulsf2.5c-9\xC3\xA9"
                                "7E+ \\x/";
    struct nb_matcher_mark mark = nb_matcher_mark(m);
    char may[256];
    unsigned n = 0;
    for (size_t i = 0; usual[i]; i++) {
        if (nb_matcher_accept_bytes(m, usual + i, 1))
            may[n++] = usual[i];
        nb_matcher_reset(m, &mark);
    }
    for (int byte = 0; byte < 256 && !n; byte++) {
        if (nb_matcher_accept_bytes(m, (const char[]){(char)byte}, 1))
            may[n++] = (char)byte;
        nb_matcher_reset(m, &mark);
    }
    if (!n)
        return false;
    char byte = may[draw(seed, n)];
    nb_buf_add(text, &byte, 1);
    return nb_matcher_accept_bytes(m, &byte, 1);
}

static void write_text(struct nb_grammar *g, uint64_t seed) {
    struct nb_matcher *m;
    struct nb_error err;
    struct nb_buf text = {0};
    if (nb_grammar_check(g, NULL, &err) != NB_OK || nb_matcher_open(g, &m, &err) != NB_OK) {
        printf("none\n");
        return;
    }
    draw(&seed, 1);
    for (unsigned n = draw(&seed, 60); n && write_byte(m, &seed, &text); n--)
        ;
    bool ends = nb_matcher_can_end(m) || nb_matcher_finish(m, &text);
    printf("%s %.*s\n", ends ? "text" : "stuck", (int)text.len, text.data ? text.data : "");
    nb_buf_free(&text);
    nb_matcher_close(m);
}

static void judge(struct nb_grammar *g, const char *text, size_t n) {
    struct nb_error err;
    bool valid;
    size_t where;
    if (nb_grammar_validate(g, text, n, &valid, &where, &err) != NB_OK)
        printf("undecided %s\n", err.message);
    else if (valid)
        printf("valid\n");
    else
        printf("invalid %zu\n", where);
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    struct nb_grammar *g = NULL;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 2; fflush(stdout)) {
        struct nb_error err;
        const char *text = line + 2;
        size_t bytes = (size_t)n - 2 - (line[n - 1] == '\n');
        line[2 + bytes] = 0;
        if (*line == 'S') {
            nb_grammar_release(g);
            g = NULL;
            enum nb_status s = nb_grammar_schema(text, bytes, NULL, NULL, &g, &err);
            if (s == NB_OK)
                printf("ok\n");
            else
                printf("refused %d %s\n", (int)s, err.message);
        } else if (!g) {
            printf("refused\n");
        } else if (*line == 'D') {
            judge(g, text, bytes);
        } else {
            write_text(g, strtoull(text, NULL, 10));
        }
    }
    nb_grammar_release(g);
    free(line);
    return 0;
}
