/* Memory that ends at a page that cannot be touched: one byte too far is a fault. */
#ifndef NB_TEST_GUARDED_H
#define NB_TEST_GUARDED_H

#include "test.h"

#include <sys/mman.h>
#include <unistd.h>

struct guarded {
    uint8_t *map;
    size_t bytes, page;
};

static inline struct guarded guarded_make(size_t bytes) {
    struct guarded g = {.page = (size_t)sysconf(_SC_PAGESIZE)};
    g.bytes = (bytes + g.page - 1) / g.page * g.page;
    g.map =
        mmap(NULL, g.bytes + g.page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + g.bytes, g.page, PROT_NONE), 0);
    return g;
}

/* The last n bytes. */
static inline void *guarded_end(const struct guarded *g, size_t n) {
    return g->map + g->bytes - n;
}

static inline void guarded_free(struct guarded *g) {
    munmap(g->map, g->bytes + g->page);
}

#endif
