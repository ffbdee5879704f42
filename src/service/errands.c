#include "service/errands.h"

#include "base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 2 };

struct nb_errands {
    void (*run)(void *context, struct nb_errand *errand);
    void *context;
    pthread_t threads[THREADS];
    size_t n_threads;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t wake;
    struct nb_errand *first, **last;
    bool closing;
};

static void *work(void *context) {
    struct nb_errands *e = context;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!e->first && !e->closing)
            pthread_cond_wait(&e->wake, &e->lock);
        struct nb_errand *errand = e->first;
        if (errand) {
            e->first = errand->next;
            if (!e->first)
                e->last = &e->first;
        }
        pthread_mutex_unlock(&e->lock);
        if (!errand)
            return NULL;
        e->run(e->context, errand);
    }
}

enum nb_status nb_errands_open(void (*run)(void *context, struct nb_errand *errand), void *context,
                               struct nb_errands **out, struct nb_error *err) {
    *out = NULL;
    struct nb_errands *e = calloc(1, sizeof *e);
    if (!e)
        return nb_fail_memory(err, sizeof *e, "threads for long work");
    e->run = run;
    e->context = context;
    e->last = &e->first;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    for (; e->n_threads < THREADS; e->n_threads++) {
        int failed = pthread_create(&e->threads[e->n_threads], NULL, work, e);
        if (failed) {
            nb_errands_close(e);
            return nb_fail(err, NB_ERR_MEMORY, "cannot start a thread: %s", strerror(failed));
        }
    }
    *out = e;
    return NB_OK;
}

void nb_errands_add(struct nb_errands *e, struct nb_errand *errand) {
    errand->next = NULL;
    pthread_mutex_lock(&e->lock);
    *e->last = errand;
    e->last = &errand->next;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

void nb_errands_close(struct nb_errands *e) {
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
    for (size_t i = 0; i < e->n_threads; i++)
        pthread_join(e->threads[i], NULL);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    free(e);
}
