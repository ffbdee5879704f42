#include "engine/pages.h"

#include <stdlib.h>
#include <string.h>

struct nb_page {
    uint32_t users;
    int32_t next, previous; /* in the list of free or of unused pages */
    int32_t chain;          /* next in its bucket */
    nb_prefix prefix;       /* 0: not published */
    nb_prefix before;
    int32_t tokens[NB_PAGE_TOKENS];
};

enum nb_status nb_pages_open(size_t n_pages, struct nb_pages *out, struct nb_error *err) {
    *out = (struct nb_pages){.n_pages = n_pages, .free = -1, .oldest = -1, .newest = -1};
    out->n_buckets = 1;
    while (out->n_buckets < n_pages)
        out->n_buckets *= 2;
    out->page = calloc(n_pages ? n_pages : 1, sizeof *out->page);
    out->buckets = calloc(out->n_buckets, sizeof *out->buckets);
    if (!out->page || !out->buckets) {
        nb_pages_close(out);
        return nb_fail_memory(err, n_pages * sizeof *out->page, "the table of KV pages");
    }
    for (size_t i = 0; i < out->n_buckets; i++)
        out->buckets[i] = -1;
    for (size_t i = n_pages; i-- > 0;) { /* page 0 is taken first */
        out->page[i].next = out->free;
        out->free = (int32_t)i;
    }
    out->n_free = n_pages;
    return NB_OK;
}

void nb_pages_close(struct nb_pages *pages) {
    free(pages->page);
    free(pages->buckets);
    *pages = (struct nb_pages){0};
}

size_t nb_pages_available(const struct nb_pages *pages) {
    return pages->n_free + pages->n_unused;
}

/* ---- the list of unused pages, oldest first ---- */

static void add_unused(struct nb_pages *p, int32_t i) {
    p->page[i].previous = p->newest;
    p->page[i].next = -1;
    if (p->newest >= 0)
        p->page[p->newest].next = i;
    else
        p->oldest = i;
    p->newest = i;
    p->n_unused++;
}

static void remove_unused(struct nb_pages *p, int32_t i) {
    int32_t before = p->page[i].previous, after = p->page[i].next;
    if (before >= 0)
        p->page[before].next = after;
    else
        p->oldest = after;
    if (after >= 0)
        p->page[after].previous = before;
    else
        p->newest = before;
    p->n_unused--;
}

/* ---- published pages by what they hold ---- */

/* FNV-1a over 64-bit words, its high bits folded in. */
static size_t bucket_of(const struct nb_pages *p, nb_prefix before, const int32_t *tokens) {
    uint64_t h = 0xcbf29ce484222325u ^ before;
    h *= 0x100000001b3u;
    for (int i = 0; i < NB_PAGE_TOKENS; i++)
        h = (h ^ (uint32_t)tokens[i]) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32) & (p->n_buckets - 1);
}

static int32_t lookup(const struct nb_pages *p, nb_prefix before, const int32_t *tokens) {
    int32_t i = p->buckets[bucket_of(p, before, tokens)];
    while (i >= 0 && (p->page[i].before != before ||
                      memcmp(p->page[i].tokens, tokens, sizeof p->page[i].tokens) != 0))
        i = p->page[i].chain;
    return i;
}

static void unpublish(struct nb_pages *p, int32_t i) {
    int32_t *at = &p->buckets[bucket_of(p, p->page[i].before, p->page[i].tokens)];
    while (*at != i)
        at = &p->page[*at].chain;
    *at = p->page[i].chain;
    p->page[i].prefix = 0;
}

/* ---- the contract ---- */

int32_t nb_pages_take(struct nb_pages *p) {
    int32_t i = p->free;
    if (i >= 0) {
        p->free = p->page[i].next;
        p->n_free--;
    } else if (p->oldest >= 0) {
        i = p->oldest;
        remove_unused(p, i);
        unpublish(p, i);
    } else {
        return -1;
    }
    p->page[i].users = 1;
    return i;
}

void nb_pages_share(struct nb_pages *p, int32_t i) {
    if (p->page[i].users++ == 0)
        remove_unused(p, i);
}

void nb_pages_release(struct nb_pages *p, int32_t i) {
    if (--p->page[i].users > 0)
        return;
    if (p->page[i].prefix) {
        add_unused(p, i);
        return;
    }
    p->page[i].next = p->free;
    p->free = i;
    p->n_free++;
}

bool nb_pages_writable(const struct nb_pages *p, int32_t i) {
    return p->page[i].users == 1 && !p->page[i].prefix;
}

int32_t nb_pages_find(struct nb_pages *p, nb_prefix before, const int32_t *tokens,
                      nb_prefix *prefix) {
    int32_t i = lookup(p, before, tokens);
    if (i >= 0) {
        nb_pages_share(p, i);
        *prefix = p->page[i].prefix;
    }
    return i;
}

nb_prefix nb_pages_publish(struct nb_pages *p, int32_t i, nb_prefix before, const int32_t *tokens) {
    if (p->page[i].prefix)
        return p->page[i].prefix;
    int32_t same = lookup(p, before, tokens);
    if (same >= 0)
        return p->page[same].prefix;
    struct nb_page *page = &p->page[i];
    page->prefix = ++p->last;
    page->before = before;
    memcpy(page->tokens, tokens, sizeof page->tokens);
    size_t bucket = bucket_of(p, before, tokens);
    page->chain = p->buckets[bucket];
    p->buckets[bucket] = i;
    return page->prefix;
}
