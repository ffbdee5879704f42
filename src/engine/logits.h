/* Passes over a row of logits, [n] f32, between two steps of a GPU that take a millisecond or two
 * each: nothing here sorts a row, or calls a function for each logit. NaN counts as minus infinity
 * in all of them. On x86-64 with AVX2 they run in a version of their own, which gives the same
 * bits, nb_logits_exp_sum's last ones aside. */
#ifndef NB_ENGINE_LOGITS_H
#define NB_ENGINE_LOGITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first of the largest; 0 where none is above minus infinity. */
int32_t nb_logits_best(const float *logits, size_t n);

/* The largest, and the least above minus infinity; minus and plus infinity where there is none. */
void nb_logits_range(const float *logits, size_t n, float *most, float *least);

/* The sum of exp(logits[i] - max), where none is above max, and max is finite. Each term is within
 * two units of a double's last place. */
double nb_logits_exp_sum(const float *logits, size_t n, double max);

/* Takes away, as minus infinity, the logits whose bits [n_words] are 0, or beyond the words. */
void nb_logits_keep(float *logits, size_t n, const uint64_t *bits, size_t n_words);

enum { NB_TOP_MOST = 1024 };

/* The k (NB_TOP_MOST at most) largest, largest first, of equal ones the lower id, into ids
 * [min(k, n)]; how many: min(k, n). */
size_t nb_logits_top(const float *logits, size_t n, size_t k, int32_t *ids);

/* The ids, ascending, of logits that equal a value that is a number, into ids [n]; how many. */
size_t nb_logits_equal(const float *logits, size_t n, float value, int32_t *ids);

/* How the probabilities exp((logit - best) / temperature) of a row fall into buckets by their size:
 * bucket b holds logits whose probability is between exp(-b * nats) and exp(-(b + 1) * nats). */
enum { NB_BUCKETS = 2048 };
struct nb_buckets {
    double best;                 /* the largest logit, finite */
    double per_logit;            /* buckets in a difference of 1 */
    double nats;                 /* that a bucket is wide */
    double mass[NB_BUCKETS + 1]; /* out: the sum of its probabilities; the last: of no meaning */
    uint32_t counts[NB_BUCKETS + 1]; /* out, where asked for: how many they are; likewise */
};

/* Fills b->mass, b->counts if `count`, and of[n]: the bucket of each logit, NB_BUCKETS of those
 * below all. best, per_logit and nats, 1 / 32 at most, are the caller's. Masses are right within
 * 1e-12 + n 2^-53 of their size. A logit's bucket is never before that of a larger one. */
void nb_logits_buckets(const float *logits, size_t n, bool count, struct nb_buckets *b,
                       uint16_t *of);

/* The ids, ascending, of what is in a bucket, into ids [n]; how many. */
size_t nb_logits_in_bucket(const uint16_t *of, size_t n, uint16_t bucket, int32_t *ids);

/* Sorts keys [n] by their upper 32 bits, largest first, those that are equal staying in order;
 * other [n] is scratch. */
void nb_logits_sort(uint64_t *keys, uint64_t *other, size_t n);

/* The logit as a number that orders as it does, NaN and minus infinity last: 1 or more, but for
 * those, which are 0; above an id for nb_logits_sort. */
uint64_t nb_logits_key(float logit, int32_t id);

#endif
