#include "engine/draw.h"

#include "engine/logits.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

struct nb_draw {
    struct nb_buckets buckets;
    uint16_t *of; /* [n_vocab] bucket of each token */
    int32_t *ids; /* [n_vocab] some of them */
    uint64_t *keys, *other;
};

/* ---- of candidates in order ---- */

double nb_draw_nats(float logit, float best, double temperature) {
    return ((double)logit - (double)best) / temperature;
}

size_t nb_draw_keep(const struct nb_sampling *how, struct nb_candidate *c, size_t n) {
    if (how->top_k && (size_t)how->top_k < n) {
        size_t last = (size_t)how->top_k;
        while (last < n && c[last].logit == c[last - 1].logit) /* ties with the last one stay */
            last++;
        n = last;
    }
    double sum = 0, kept = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].p = exp(nb_draw_nats(c[i].logit, c[0].logit, how->temperature));
    size_t keep = 0;
    while (keep < n && (keep == 0 || how->top_p >= 1 || kept < how->top_p * sum))
        kept += c[keep++].p;
    while (keep > 1 && c[keep - 1].p < how->min_p * c[0].p)
        kept -= c[--keep].p;
    for (size_t i = 0; i < keep; i++)
        c[i].p /= kept;
    return keep;
}

int32_t nb_draw_first(const struct nb_candidate *c, size_t n, double unit) {
    for (size_t i = 0; i + 1 < n; i++) {
        unit -= c[i].p;
        if (unit < 0)
            return c[i].token;
    }
    return n ? c[n - 1].token : -1;
}

/* ---- scratch ---- */

struct nb_draw *nb_draw_open(size_t n_vocab) {
    struct nb_draw *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->of = calloc(n_vocab, sizeof *d->of);
    d->ids = calloc(n_vocab, sizeof *d->ids);
    d->keys = calloc(n_vocab, sizeof *d->keys);
    d->other = calloc(n_vocab, sizeof *d->other);
    if (d->of && d->ids && d->keys && d->other)
        return d;
    nb_draw_close(d);
    return NULL;
}

void nb_draw_close(struct nb_draw *d) {
    if (!d)
        return;
    free(d->of);
    free(d->ids);
    free(d->keys);
    free(d->other);
    free(d);
}

/* ---- of the k largest ---- */

/* The k largest and what equals the last of them are all that there is: in order. */
static int32_t draw_of_top(struct nb_draw *d, const struct nb_sampling *how, const float *logits,
                           size_t n_vocab, struct nb_candidate *c, double unit) {
    size_t n = nb_logits_top(logits, n_vocab, (size_t)how->top_k, d->ids), above = 0, found = 0;
    float best = logits[d->ids[0]], last = logits[d->ids[n - 1]];
    while (above < n && logits[d->ids[above]] > last)
        above++;
    if (last > -INFINITY)
        n = above + nb_logits_equal(logits, n_vocab, last, d->ids + above);
    for (size_t i = 0; i < n; i++) {
        float logit = logits[d->ids[i]];
        if (nb_draw_nats(logit, best, how->temperature) > -NB_DRAW_NATS)
            c[found++] = (struct nb_candidate){.logit = logit, .token = d->ids[i]};
    }
    return nb_draw_first(c, nb_draw_keep(how, c, found), unit);
}

/* ---- of all ---- */

/* Candidates in order are divided into buckets (nb_logits_buckets), so that a place among them is
 * found by the sums of whole buckets, and in the one where it is by putting that in order. */
struct search {
    struct nb_draw *draw;
    const struct nb_sampling *how;
    const float *logits;
    size_t n_vocab;
    struct nb_candidate *c; /* of one bucket */
    double rounding;        /* two sums that differ by less may be equal */
    double unseen;          /* probability that is in no bucket, at most */
};

/* The first candidates: whole buckets, and some of the next. */
struct cut {
    size_t bucket, within;
    double mass; /* the sum of their probabilities over the best's */
};

/* The candidates of a bucket into s->c, in order; how many. */
static size_t look_into(struct search *s, size_t bucket) {
    struct nb_draw *d = s->draw;
    float best = (float)d->buckets.best;
    size_t n = nb_logits_in_bucket(d->of, s->n_vocab, (uint16_t)bucket, d->ids);
    for (size_t i = 0; i < n; i++)
        d->keys[i] = nb_logits_key(s->logits[d->ids[i]], d->ids[i]);
    nb_logits_sort(d->keys, d->other, n);
    for (size_t i = 0; i < n; i++) {
        int32_t token = (int32_t)(uint32_t)d->keys[i];
        float logit = s->logits[token];
        s->c[i] = (struct nb_candidate){.logit = logit, .token = token};
        s->c[i].p = i && logit == s->c[i - 1].logit
                        ? s->c[i - 1].p
                        : exp(nb_draw_nats(logit, best, s->how->temperature));
    }
    return n;
}

/* The probabilities of whole buckets before one. */
static double mass_before(const struct search *s, size_t bucket) {
    double sum = 0;
    for (size_t b = 0; b < bucket; b++)
        sum += s->draw->buckets.mass[b];
    return sum;
}

/* The first candidates of *cut, up to the one with which their sum is above `mass`; its token.
 * False where that is not certain. */
static bool reach(struct search *s, double mass, struct cut *cut, int32_t *token) {
    double doubt = s->rounding + s->unseen, sum = 0, least = mass - doubt, most = mass + doubt;
    for (size_t b = 0; b <= cut->bucket && b < NB_BUCKETS; b++) {
        double next = b == cut->bucket ? cut->mass : sum + s->draw->buckets.mass[b];
        if (next <= least) {
            sum = next;
            continue;
        }
        size_t n = look_into(s, b);
        n = b == cut->bucket ? cut->within : n;
        for (size_t i = 0; i < n; i++) {
            if (sum > least && sum > 0)
                return false;
            sum += s->c[i].p;
            if (sum > most) {
                *cut = (struct cut){b, i + 1, sum};
                s->unseen = 0;
                *token = s->c[i].token;
                return true;
            }
        }
        return false;
    }
    return false;
}

/* Leaves of everything the k most probable ones, and what equals the last of them. */
static void cut_top_k(struct search *s, struct cut *cut) {
    const struct nb_buckets *b = &s->draw->buckets;
    size_t k = (size_t)s->how->top_k, before = 0, at = 0;
    while (at < NB_BUCKETS && before + b->counts[at] < k)
        before += b->counts[at++];
    if (at == NB_BUCKETS) /* some of what is unseen is left, too, or all */
        return;
    size_t n = look_into(s, at), last = k - before;
    while (last < n && s->c[last].logit == s->c[last - 1].logit)
        last++;
    *cut = (struct cut){at, last, mass_before(s, at)};
    for (size_t i = 0; i < last; i++)
        cut->mass += s->c[i].p;
    s->unseen = 0;
}

/* Leaves of *cut what is at least min_p as probable as the best. False where it is not certain in
 * which bucket that ends. */
static bool cut_min_p(struct search *s, struct cut *cut) {
    double nats = s->draw->buckets.nats, place = -log(s->how->min_p) / nats,
           around = 1e-6 + 1e-14 / nats, first = fmax(place - around, 0);
    if (first >= (double)cut->bucket + 1 || first >= NB_BUCKETS)
        return true;
    if (floor(first) != floor(place + around))
        return false;
    size_t at = (size_t)first, within = 0;
    size_t n = look_into(s, at);
    n = at == cut->bucket ? cut->within : n;
    double mass = mass_before(s, at);
    while (within < n && s->c[within].p >= s->how->min_p)
        mass += s->c[within++].p;
    *cut = (struct cut){at, within, mass};
    s->unseen = 0;
    return true;
}

/* Divides what is at most `nats` below the best into buckets: all of it if there is nothing
 * else. */
static void divide(struct search *s, float most, float least, double nats) {
    struct nb_buckets *b = &s->draw->buckets;
    double across = (double)most - (double)least, t = s->how->temperature;
    b->best = most;
    s->unseen = 0;
    if (across > 0 && across / t < nats) {
        b->per_logit = (NB_BUCKETS - 1) / across;
        b->nats = across / t / (NB_BUCKETS - 1);
    } else {
        b->nats = nats / NB_BUCKETS;
        b->per_logit = fmin(1 / (b->nats * t), DBL_MAX);
        if (across > 0 && nats < NB_DRAW_NATS)
            s->unseen = (double)s->n_vocab * exp(-nats);
    }
    nb_logits_buckets(s->logits, s->n_vocab, s->how->top_k > 0, b, s->draw->of);
}

static bool draw_of_all(struct search *s, double unit, int32_t *token) {
    const struct nb_sampling *how = s->how;
    struct cut cut = {NB_BUCKETS, 0, mass_before(s, NB_BUCKETS)};
    /* Sums of n numbers differ by n half units of the last place, whatever their order. */
    s->rounding = cut.mass * (4e-12 + (double)s->n_vocab * 0x1p-50);
    if (how->top_k)
        cut_top_k(s, &cut);
    if (how->top_p < 1 && !reach(s, how->top_p * cut.mass, &cut, token))
        return false;
    if (how->min_p > 0 && !cut_min_p(s, &cut))
        return false;
    return reach(s, unit * cut.mass, &cut, token);
}

bool nb_draw(struct nb_draw *d, const struct nb_sampling *how, const float *logits, size_t n_vocab,
             struct nb_candidate *candidates, double unit, int32_t *token) {
    float most, least;
    if (how->top_k && how->top_k <= NB_TOP_MOST) {
        *token = draw_of_top(d, how, logits, n_vocab, candidates, unit);
        return true;
    }
    nb_logits_range(logits, n_vocab, &most, &least);
    *token = -1;
    if (!isfinite(most))
        return true;
    struct search s = {d, how, logits, n_vocab, candidates, 0, 0};
    /* All that is further below than this has a thousandth of the best one's probability: a draw
     * seldom hangs on it, and of a language model's logits it is nearly all. */
    divide(&s, most, least, fmin(7 + log((double)n_vocab), NB_DRAW_NATS));
    bool all = s.unseen == 0;
    if (draw_of_all(&s, unit, token))
        return true;
    if (all)
        return false;
    divide(&s, most, least, NB_DRAW_NATS);
    return draw_of_all(&s, unit, token);
}
