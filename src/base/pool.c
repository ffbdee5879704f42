#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Loops in a forward pass follow each other within microseconds, so a waiting thread looks for the
 * next one for a while before it sleeps. */
enum { SPINS = 2000, MAX_THREADS = 256 };

struct nb_pool {
    int n_threads; /* the caller's included */
    pthread_t *threads;

    /* The current loop. Written by the caller before `generation` is raised, read after. */
    nb_pool_fn fn;
    void *context;
    size_t n, grain;

    atomic_uint generation; /* raised once a loop; threads wait for it to change */
    atomic_bool stop;
    atomic_size_t next;  /* the first item that nobody has taken */
    atomic_int working;  /* threads, the caller's aside, that have not finished the loop */
    atomic_int sleepers; /* threads on the condition variable */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

struct worker {
    struct nb_pool *pool;
    int thread;
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct nb_pool *pool, int thread) {
    for (;;) {
        size_t begin = atomic_fetch_add(&pool->next, pool->grain);
        if (begin >= pool->n)
            return;
        size_t end = pool->n - begin < pool->grain ? pool->n : begin + pool->grain;
        pool->fn(pool->context, thread, begin, end);
    }
}

static unsigned wait_for_loop(struct nb_pool *pool, unsigned seen) {
    for (int i = 0; i < SPINS; i++) {
        unsigned g = atomic_load(&pool->generation);
        if (g != seen)
            return g;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    unsigned g;
    while ((g = atomic_load(&pool->generation)) == seen)
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
    return g;
}

static void *worker_main(void *arg) {
    struct worker w = *(struct worker *)arg;
    free(arg);
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_loop(w.pool, seen);
        if (atomic_load(&w.pool->stop))
            return NULL;
        work(w.pool, w.thread);
        atomic_fetch_sub(&w.pool->working, 1);
    }
}

static void start_generation(struct nb_pool *pool) {
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
}

void nb_pool_run(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn, void *context) {
    if (n == 0)
        return;
    if (pool->n_threads == 1 || n <= grain) {
        fn(context, 0, 0, n);
        return;
    }
    pool->fn = fn;
    pool->context = context;
    pool->n = n;
    pool->grain = grain ? grain : 1;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->working, pool->n_threads - 1);
    start_generation(pool);
    work(pool, 0);
    for (int i = 0; atomic_load(&pool->working); i++) {
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
}

int nb_pool_size(const struct nb_pool *pool) {
    return pool->n_threads;
}

static int processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

enum nb_status nb_pool_create(int n_threads, struct nb_pool **out, struct nb_error *err) {
    *out = NULL;
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return nb_fail(err, NB_ERR_ARGUMENT, "threads: %d is not between 0 and %d", n_threads,
                       MAX_THREADS);
    if (n_threads == 0) {
        n_threads = processors();
        n_threads = n_threads < 1 ? 1 : n_threads > MAX_THREADS ? MAX_THREADS : n_threads;
    }
    struct nb_pool *pool = calloc(1, sizeof *pool);
    pthread_t *threads = calloc((size_t)n_threads, sizeof *threads);
    if (!pool || !threads) {
        free(pool);
        free(threads);
        return nb_fail_memory(err, sizeof *pool, "the thread pool");
    }
    pool->threads = threads;
    pool->n_threads = 1;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = malloc(sizeof *w);
        int rc = -1;
        if (w) {
            *w = (struct worker){pool, i};
            rc = pthread_create(&pool->threads[i], NULL, worker_main, w);
        }
        if (rc != 0) {
            free(w);
            nb_pool_free(pool);
            return nb_fail(err, NB_ERR_MEMORY, "cannot start thread %d of %d: %s", i + 1, n_threads,
                           rc > 0 ? strerror(rc) : "out of memory");
        }
        pool->n_threads = i + 1;
    }
    *out = pool;
    return NB_OK;
}

void nb_pool_free(struct nb_pool *pool) {
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    start_generation(pool);
    for (int i = 1; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->threads);
    free(pool);
}
