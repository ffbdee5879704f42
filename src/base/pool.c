#include "base/pool.h"

#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Loops in a forward pass follow each other within microseconds, so a waiting thread looks for the
 * next one for a while before it sleeps: to wake it takes 15 us and more. */
enum { SPIN_US = 50, LOOKS_A_CLOCK = 64, MAX_THREADS = 256 };

/* What is left of a thread's share of a loop, in pieces: the first in the upper 32 bits, the end in
 * the lower. A line of the cache each. */
struct share {
    alignas(64) atomic_uint_least64_t left;
};

struct nb_pool {
    int n_threads; /* the caller's included */
    pthread_t *threads;

    /* The current loop. Written by the caller before `generation` is raised, read after. */
    nb_pool_fn fn;
    void *context;
    size_t n, grain;
    bool shared; /* each thread has a share of its own */
    struct share *shares;

    atomic_uint generation; /* raised once a loop; threads wait for it to change */
    atomic_bool stop;
    atomic_size_t next;  /* the first item that nobody has taken, where there are no shares */
    atomic_uint working; /* threads, the caller's aside, that have not finished the loop */
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

/* Takes a piece from the front of a share, or from its end. */
static bool take(struct share *share, bool front, uint32_t *piece) {
    uint64_t left = atomic_load(&share->left), then;
    do {
        uint32_t begin = (uint32_t)(left >> 32), end = (uint32_t)left;
        if (begin >= end)
            return false;
        *piece = front ? begin : end - 1;
        then = front ? left + ((uint64_t)1 << 32) : left - 1;
    } while (!atomic_compare_exchange_weak(&share->left, &left, then));
    return true;
}

static void do_piece(struct nb_pool *pool, int thread, uint32_t piece) {
    size_t begin = piece * pool->grain, left = pool->n - begin;
    pool->fn(pool->context, thread, begin, begin + (left < pool->grain ? left : pool->grain));
}

/* One's own share, then what the others have not begun. */
static void work_shares(struct nb_pool *pool, int thread) {
    uint32_t piece;
    while (take(&pool->shares[thread], true, &piece))
        do_piece(pool, thread, piece);
    for (int i = 1; i < pool->n_threads; i++) {
        while (take(&pool->shares[(thread + i) % pool->n_threads], false, &piece))
            do_piece(pool, thread, piece);
    }
}

static void work(struct nb_pool *pool, int thread) {
    if (pool->shared) {
        work_shares(pool, thread);
        return;
    }
    for (;;) {
        size_t begin = atomic_fetch_add(&pool->next, pool->grain);
        if (begin >= pool->n)
            return;
        size_t end = pool->n - begin < pool->grain ? pool->n : begin + pool->grain;
        pool->fn(pool->context, thread, begin, end);
    }
}

/* Waits for *at to differ from `value`, or to equal it, for SPIN_US or a little more; returns
 * whether it does. */
static bool spin(const atomic_uint *at, unsigned value, bool equal) {
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < LOOKS_A_CLOCK; i++) {
            if ((atomic_load(at) == value) == equal)
                return true;
            relax();
        }
        int64_t now = nb_now_us();
        if (!end)
            end = now + SPIN_US;
        else if (now >= end)
            return false;
    }
}

static unsigned wait_for_loop(struct nb_pool *pool, unsigned seen) {
    if (spin(&pool->generation, seen, false))
        return atomic_load(&pool->generation);
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

static void run(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn, void *context) {
    pool->fn = fn;
    pool->context = context;
    pool->n = n;
    pool->grain = grain;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->working, (unsigned)pool->n_threads - 1);
    start_generation(pool);
    work(pool, 0);
    if (!spin(&pool->working, 0, true)) {
        while (atomic_load(&pool->working))
            sched_yield();
    }
}

void nb_pool_run(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn, void *context) {
    if (n == 0)
        return;
    if (pool->n_threads == 1 || n <= grain) {
        fn(context, 0, 0, n);
        return;
    }
    pool->shared = false;
    run(pool, n, grain ? grain : 1, fn, context);
}

void nb_pool_run_shares(struct nb_pool *pool, size_t n, size_t grain, nb_pool_fn fn,
                        void *context) {
    grain = grain ? grain : 1;
    size_t pieces = n / grain + (n % grain != 0), threads = (size_t)pool->n_threads;
    if (threads == 1 || pieces <= 1 || pieces > UINT32_MAX) {
        nb_pool_run(pool, n, grain, fn, context);
        return;
    }
    for (size_t t = 0; t < threads; t++) {
        uint64_t begin = pieces * t / threads, end = pieces * (t + 1) / threads;
        atomic_store(&pool->shares[t].left, begin << 32 | end);
    }
    pool->shared = true;
    run(pool, n, grain, fn, context);
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
    struct share *shares = aligned_alloc(alignof(struct share), (size_t)n_threads * sizeof *shares);
    if (!pool || !threads || !shares) {
        free(pool);
        free(threads);
        free(shares);
        return nb_fail_memory(err, sizeof *pool, "the thread pool");
    }
    pool->threads = threads;
    pool->shares = shares;
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
    free(pool->shares);
    free(pool);
}
