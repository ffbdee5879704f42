/* A pool of threads that share loops: the only threads that compute. */
#ifndef NB_BASE_POOL_H
#define NB_BASE_POOL_H

#include "base/error.h"

struct nb_pool;

/* Does items [begin, end) of a loop. `thread` is 0 to nb_pool_size - 1, for per-thread scratch. */
typedef void (*nb_pool_fn)(void *context, int thread, size_t begin, size_t end);

/* n_threads counts the caller's own: 1 starts none, 0 means one for each processor that the process
 * may run on. */
enum nb_status nb_pool_create(int n_threads, struct nb_pool **out, struct nb_error *err);

/* Joins the threads. NULL is allowed. */
void nb_pool_free(struct nb_pool *pool);

int nb_pool_size(const struct nb_pool *pool);

/* Runs fn over [0, n) in pieces of `grain` items (the last may be shorter), on all threads and the
 * caller's, and returns when all are done. One caller at a time; fn must not call it again. */
void nb_pool_run(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn, void *context);

/* The same, where neighbouring pieces are better done by one thread, as when a loop streams through
 * memory: each has a share of its own that it does in order, and takes pieces from the end of
 * another's when its own is done. nb_pool_run hands pieces out in order, to whoever is free. */
void nb_pool_run_shares(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn, void *context);

#endif
