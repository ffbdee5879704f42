/* Which pages of KV memory are free, which are in use, and which hold a prefix worth keeping.
 *
 * A page that holds NB_PAGE_TOKENS positions can be published under what it holds: its tokens, and
 * all that came before them. A sequence that begins alike shares it instead of computing it again.
 * Published pages that nobody uses any more stay until their memory is wanted, least recently used
 * first. Keys are compared whole, never by hash alone: no prompt meets another's memory by chance.
 */
#ifndef NB_ENGINE_PAGES_H
#define NB_ENGINE_PAGES_H

#include "backend/backend.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a published page holds: a number for its tokens and all before them. Numbers are not used
 * twice; 0 stands for "nothing before". */
typedef uint64_t nb_prefix;

struct nb_page;

struct nb_pages {
    struct nb_page *page; /* [n_pages] */
    size_t n_pages;
    size_t n_free;          /* that hold nothing */
    size_t n_unused;        /* published, and nobody's: taken when no free one is left */
    int32_t free;           /* list of free pages, -1 at its end */
    int32_t oldest, newest; /* of the unused ones */
    int32_t *buckets;       /* [n_buckets] of published pages, by hash */
    size_t n_buckets;       /* a power of two */
    nb_prefix last;         /* number given last */
};

enum nb_status nb_pages_open(size_t n_pages, struct nb_pages *out, struct nb_error *err);
void nb_pages_close(struct nb_pages *pages); /* all zero is allowed */

/* Pages that can be taken now. */
size_t nb_pages_available(const struct nb_pages *pages);

/* A page for its caller alone; -1 if all are in use. */
int32_t nb_pages_take(struct nb_pages *pages);

/* One user more, one user less. */
void nb_pages_share(struct nb_pages *pages, int32_t page);
void nb_pages_release(struct nb_pages *pages, int32_t page);

/* Whether its caller, a user of it, may write to it: it is published to nobody and has no other
 * user. */
bool nb_pages_writable(const struct nb_pages *pages, int32_t page);

/* The page that holds tokens [NB_PAGE_TOKENS] after `before`, shared with the caller, or -1. */
int32_t nb_pages_find(struct nb_pages *pages, nb_prefix before, const int32_t *tokens,
                      nb_prefix *prefix);

/* Makes a full page findable, and gives its number; where another page holds the same already, that
 * one's number, and this page stays its user's own. */
nb_prefix nb_pages_publish(struct nb_pages *pages, int32_t page, nb_prefix before,
                           const int32_t *tokens);

#endif
