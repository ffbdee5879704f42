#include "grammar/walk.h"

#include "grammar/grow.h"

#include <stdlib.h>

enum { MOST_BYTES = 512 };

struct step {
    uint32_t state, from; /* from: the step before, itself for the first */
    uint16_t n;           /* bytes so far */
    uint8_t byte, tail;   /* tail: bytes of a character that are missing */
};

struct walking {
    const struct nb_walk *walk;
    struct step *steps;
    uint32_t n, cap;
    uint32_t (*met)[2]; /* [n_met] by state: how often, and in the middle of a character */
    uint32_t n_met;
};

static bool add_step(struct walking *w, struct step step) {
    if (step.state >= w->n_met) {
        uint32_t n = nb_grown(w->n_met, (uint64_t)step.state + 1, 64);
        if (!n || !nb_resize(&w->met, n, sizeof *w->met))
            return false;
        memset(w->met + w->n_met, 0, (n - w->n_met) * sizeof *w->met);
        w->n_met = n;
    }
    uint32_t *met = &w->met[step.state][step.tail > 0];
    if (*met >= w->walk->most_each || w->n >= w->walk->most)
        return true;
    if (!nb_grow(&w->steps, w->n, 1, &w->cap, sizeof *w->steps))
        return false;
    ++*met;
    w->steps[w->n++] = step;
    return true;
}

/* Bytes of a character that are missing after its first one; 255 where none begins so. */
static uint8_t tail_of(uint8_t byte) {
    if (byte < 0x80)
        return 0;
    return byte < 0xC2 || byte > 0xF4 ? 255 : byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
}

/* Whether a byte goes on with a character after its first one: RFC 3629's table, whose second bytes
 * are narrower after some. */
static bool goes_on(uint8_t before, uint8_t byte) {
    uint8_t low = before == 0xE0 ? 0xA0 : before == 0xF0 ? 0x90 : 0x80;
    uint8_t high = before == 0xED ? 0x9F : before == 0xF4 ? 0x8F : 0xBF;
    return byte >= low && byte <= high;
}

static bool expand(struct walking *w, uint32_t at) {
    /* Letters and digits first, for they are the nicest to read; control characters last. */
    static const uint8_t order[][2] = {{'a', 'z'}, {'0', '9'}, {'A', 'Z'},  {' ', '/'},
                                       {':', '@'}, {'[', '`'}, {'{', 0xFF}, {0, 0x1F}};
    struct step s = w->steps[at];
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        for (unsigned byte = order[i][0]; byte <= order[i][1]; byte++) {
            uint8_t tail = s.tail ? s.tail - 1 : tail_of((uint8_t)byte);
            if (s.tail ? !goes_on(s.byte, (uint8_t)byte) : tail == 255)
                continue;
            uint32_t to = w->walk->next(w->walk->context, s.state, (uint8_t)byte);
            struct step step = {to, at, (uint16_t)(s.n + 1), (uint8_t)byte, tail};
            if (to != NB_WALK_DEAD && !add_step(w, step))
                return false;
        }
    }
    return true;
}

bool nb_walk_strings(const struct nb_walk *walk, uint32_t start) {
    struct walking w = {.walk = walk};
    bool taken = false, good = add_step(&w, (struct step){.state = start});
    for (uint32_t i = 0; i < w.n && good && !taken; i++) {
        struct step s = w.steps[i];
        char text[MOST_BYTES];
        uint32_t at = i;
        for (uint16_t k = s.n; k > 0; k--, at = w.steps[at].from)
            text[k - 1] = (char)w.steps[at].byte;
        if (!s.tail)
            taken = walk->take(walk->context, s.state, text, s.n);
        good = taken || s.n == MOST_BYTES || expand(&w, i);
    }
    free(w.steps);
    free(w.met);
    return taken;
}
