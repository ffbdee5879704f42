/* Work that takes too long for the thread that learns of it: a few threads do it, in the order in
 * which it came. */
#ifndef NB_SERVICE_ERRANDS_H
#define NB_SERVICE_ERRANDS_H

#include "nibble/nibble.h"

/* A part of what is to be worked on; the list's own until it is run. */
struct nb_errand {
    struct nb_errand *next;
};

struct nb_errands;

/* Starts the threads, which call `run` for each errand. */
enum nb_status nb_errands_open(void (*run)(void *context, struct nb_errand *errand), void *context,
                               struct nb_errands **out, struct nb_error *err);

/* From any thread; it is run once. */
void nb_errands_add(struct nb_errands *errands, struct nb_errand *errand);

/* Returns when all that was added has been run; nothing is added from then on. NULL is allowed. */
void nb_errands_close(struct nb_errands *errands);

#endif
