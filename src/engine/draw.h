/* A token by its place in the order of probability, without putting tens of thousands in order. */
#ifndef NB_ENGINE_DRAW_H
#define NB_ENGINE_DRAW_H

#include "engine/sampler.h"

/* What is this far below the best, in natural logarithms, would be drawn once in 10^26 times: it
 * never is. */
enum { NB_DRAW_NATS = 60 };

/* The logarithm of a probability over the best one's. */
double nb_draw_nats(float logit, float best, double temperature);

/* Of candidates [n] in order, by their logits and nothing else left out, how many top_k, top_p and
 * min_p leave; their probabilities are set. */
size_t nb_draw_keep(const struct nb_sampling *how, struct nb_candidate *candidates, size_t n);

/* The first of candidates [n], in order, whose probabilities add up to more than `unit`; -1 where n
 * is 0. */
int32_t nb_draw_first(const struct nb_candidate *candidates, size_t n, double unit);

/* Scratch for a vocabulary; NULL where memory is out. */
struct nb_draw *nb_draw_open(size_t n_vocab);
void nb_draw_close(struct nb_draw *draw); /* NULL is allowed */

/* What nb_draw_first finds among all logits [n_vocab] in order of which nb_draw_keep has left some,
 * into *token. candidates [n_vocab] is scratch. False where that hangs on how sums are rounded: a
 * limit lies within some 10^-11 of a candidate's edge. Then they must be put in order. */
bool nb_draw(struct nb_draw *draw, const struct nb_sampling *how, const float *logits,
             size_t n_vocab, struct nb_candidate *candidates, double unit, int32_t *token);

#endif
