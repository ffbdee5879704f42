#include "model/tokenizer_bpe.h"
#include "base/room.h"

#include <stdlib.h>

enum {
    SHORT = 64,      /* symbols that are merged in a plain array */
    BITS_LOG = 2,    /* bits[] has 2^BITS_LOG bits for an entry of pairs[] */
    MEMO_BYTES = 32, /* the longest stretch that is remembered */
};

static const uint64_t free_pair = ~UINT64_C(0);

static inline uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << NB_BPE_ID_BITS | (uint32_t)right;
}

static inline size_t pair_slot(const struct nb_bpe *bpe, uint64_t key) {
    return (size_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> bpe->pairs_shift);
}

/* The place of a pair in pairs[], or of a free entry if it does not merge. */
static inline size_t find_pair(const struct nb_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = pair_key(left, right);
    size_t at = pair_slot(bpe, key);
    while (bpe->pairs[at] >> NB_BPE_RANK_BITS != key && bpe->pairs[at] != free_pair)
        at = (at + 1) & bpe->pairs_mask;
    return at;
}

static inline size_t pair_bit(const struct nb_bpe *bpe, uint64_t key) {
    return (size_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> bpe->bits_shift);
}

/* Most pairs do not merge, and most of these a table that fits the cache can tell. */
static inline uint32_t pair_rank(const struct nb_bpe *bpe, int32_t left, int32_t right) {
    size_t bit = pair_bit(bpe, pair_key(left, right));
    if (!(bpe->bits[bit >> 6] >> (bit & 63) & 1))
        return NB_BPE_NO_RANK;
    uint64_t pair = bpe->pairs[find_pair(bpe, left, right)];
    return pair == free_pair ? NB_BPE_NO_RANK : (uint32_t)pair & NB_BPE_MAX_MERGES;
}

/* What a pair that merges becomes. */
static inline int32_t merged_pair(const struct nb_bpe *bpe, int32_t left, int32_t right) {
    return bpe->merged[find_pair(bpe, left, right)];
}

/* UTF-8 that has been checked: the character at p, its length in *n. */
static inline uint32_t character(const char *p, unsigned *n) {
    const unsigned char *s = (const unsigned char *)p;
    if (s[0] < 0x80) {
        *n = 1;
        return s[0];
    }
    if (s[0] < 0xE0) {
        *n = 2;
        return (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
    }
    if (s[0] < 0xF0) {
        *n = 3;
        return (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
    }
    *n = 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
}

/* The next character of text, or its next byte for a byte-level model. */
static inline uint32_t unit(const struct nb_bpe *bpe, const char *p, unsigned *n) {
    if (bpe->byte_level) {
        *n = 1;
        return (unsigned char)*p;
    }
    return character(p, n);
}

static inline int32_t symbol(const struct nb_bpe *bpe, uint32_t u) {
    if (bpe->byte_level)
        return bpe->byte_symbols[u];
    const int32_t *page = bpe->pages[u >> 8];
    return page ? page[u & 255] : -1;
}

static inline size_t joint_bit(const struct nb_bpe *bpe, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 21 | right;
    return (size_t)(key * UINT64_C(0xD6E8FEB86659FD93) >> bpe->joints_shift);
}

static inline bool may_join(const struct nb_bpe *bpe, uint32_t left, uint32_t right) {
    size_t bit = joint_bit(bpe, left, right);
    return bpe->joints[bit >> 6] >> (bit & 63) & 1;
}

/* ---- Building ---- */

void nb_bpe_init(struct nb_bpe *bpe, size_t n_ids) {
    *bpe = (struct nb_bpe){.unknown = -1, .n_ids = n_ids};
    for (int i = 0; i < 256; i++)
        bpe->byte_symbols[i] = bpe->fallback[i] = -1;
}

enum nb_status nb_bpe_make_room(struct nb_bpe *bpe, size_t max_merges, struct nb_error *err) {
    size_t slots = 2;
    bpe->pairs_shift = 63;
    while (slots < 2 * max_merges + 2) { /* at most half full, so that every search ends */
        slots *= 2;
        bpe->pairs_shift--;
    }
    bpe->pairs_mask = slots - 1;
    bpe->bits_shift = bpe->pairs_shift - BITS_LOG;
    bpe->pairs = malloc(slots * sizeof *bpe->pairs);
    bpe->merged = malloc(slots * sizeof *bpe->merged);
    bpe->bits = calloc((slots << BITS_LOG) / 64 + 1, sizeof *bpe->bits);
    if (!bpe->pairs || !bpe->merged || !bpe->bits)
        return nb_fail_memory(err, slots * sizeof *bpe->pairs, "merges");
    memset(bpe->pairs, 0xFF, slots * sizeof *bpe->pairs);
    return NB_OK;
}

void nb_bpe_free(struct nb_bpe *bpe) {
    for (size_t i = 0; i < NB_BPE_PAGES; i++)
        free(bpe->pages[i]);
    free(bpe->pairs);
    free(bpe->merged);
    free(bpe->bits);
    free(bpe->joints);
    free(bpe->whole);
    free(bpe->virtuals);
}

bool nb_bpe_set_symbol(struct nb_bpe *bpe, uint32_t cp, int32_t id) {
    int32_t **page = &bpe->pages[cp >> 8];
    if (!*page) {
        *page = malloc(256 * sizeof **page);
        if (!*page)
            return false;
        memset(*page, 0xFF, 256 * sizeof **page); /* -1 */
    }
    (*page)[cp & 255] = id;
    return true;
}

bool nb_bpe_add_virtual(struct nb_bpe *bpe, uint32_t cp) {
    if (!nb_room(&bpe->virtuals, bpe->n_virtuals, &bpe->virtuals_cap, sizeof *bpe->virtuals))
        return false;
    bpe->virtuals[bpe->n_virtuals] = cp;
    return nb_bpe_set_symbol(bpe, cp, (int32_t)(bpe->n_ids + bpe->n_virtuals++));
}

int32_t nb_bpe_symbol(const struct nb_bpe *bpe, uint32_t cp) {
    return symbol(bpe, cp);
}

bool nb_bpe_add_merge(struct nb_bpe *bpe, int32_t left, int32_t right, int32_t result,
                      uint32_t rank) {
    enum { MAX_RUN = 2000 }; /* as in tokenizer_map.c */
    uint64_t key = pair_key(left, right);
    size_t at = pair_slot(bpe, key);
    for (int run = 0; bpe->pairs[at] != free_pair; run++) {
        if (bpe->pairs[at] >> NB_BPE_RANK_BITS == key)
            break;
        if (run == MAX_RUN)
            return false;
        at = (at + 1) & bpe->pairs_mask;
    }
    bpe->pairs[at] = key << NB_BPE_RANK_BITS | rank;
    bpe->merged[at] = result;
    size_t bit = pair_bit(bpe, key);
    bpe->bits[bit >> 6] |= UINT64_C(1) << (bit & 63);
    return true;
}

/* What is to be known of symbols before encoding is prepared. */
enum { MADE = 1 /* some merge makes it */, ODD = 2 /* stands for characters without a symbol */ };

/* Fills kinds[], one a symbol, and finds out whether merges touch odd ones. */
static void classify(struct nb_bpe *bpe, uint8_t *kinds) {
    if (bpe->unknown >= 0)
        kinds[bpe->unknown] |= ODD;
    for (int i = 0; bpe->byte_fallback && i < 256; i++)
        kinds[bpe->fallback[i]] |= ODD;
    for (size_t i = 0; i <= bpe->pairs_mask; i++) {
        if (bpe->pairs[i] == free_pair)
            continue;
        uint64_t key = bpe->pairs[i] >> NB_BPE_RANK_BITS;
        kinds[bpe->merged[i]] |= MADE;
        uint8_t all = kinds[bpe->merged[i]] | kinds[key >> NB_BPE_ID_BITS] |
                      kinds[key & (NB_BPE_MAX_IDS - 1)];
        bpe->uncuttable |= (all & ODD) != 0;
    }
}

static bool all_bytes(const struct nb_bpe *bpe) {
    for (int i = 0; i < 256; i++) {
        if (bpe->byte_symbols[i] < 0)
            return false;
    }
    return true;
}

static bool is_symbol(const struct nb_bpe *bpe, const struct nb_text *text) {
    if (!text->p || text->n == 0)
        return false;
    unsigned n;
    uint32_t u = unit(bpe, text->p, &n);
    return n == text->n && symbol(bpe, u) >= 0;
}

/* Sets the bits of the neighbours in a token's text; counts them if `set` is false. */
static size_t mark_joints(struct nb_bpe *bpe, const struct nb_text *text, bool set) {
    size_t count = 0;
    uint32_t before = 0;
    for (uint32_t i = 0; i < text->n;) {
        unsigned n;
        uint32_t u = unit(bpe, text->p + i, &n);
        if (i && set) {
            size_t bit = joint_bit(bpe, before, u);
            bpe->joints[bit >> 6] |= UINT64_C(1) << (bit & 63);
        }
        count += i > 0;
        before = u;
        i += n;
    }
    return count;
}

/* joints, from the texts of all tokens that merges make. */
static enum nb_status build_joints(struct nb_bpe *bpe, const struct nb_text *texts,
                                   const uint8_t *kinds, size_t n_ids, struct nb_error *err) {
    size_t count = 0, bits = 1024;
    for (size_t id = 0; id < n_ids; id++)
        count += kinds[id] & MADE ? mark_joints(bpe, &texts[id], false) : 0;
    /* Many neighbours repeat: this leaves a few false alarms in a hundred. */
    for (bpe->joints_shift = 64 - 10; bits < 4 * count && bits < (1u << 24); bits *= 2)
        bpe->joints_shift--;
    bpe->joints = calloc(bits / 64, sizeof *bpe->joints);
    if (!bpe->joints)
        return nb_fail_memory(err, bits / 8, "the joints of tokens");
    for (size_t id = 0; id < n_ids; id++) {
        if (kinds[id] & MADE)
            mark_joints(bpe, &texts[id], true);
    }
    return NB_OK;
}

static enum nb_status encode_text(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                                  const char *text, size_t n, struct nb_tokens *out,
                                  struct nb_error *err);

/* whole[], by encoding every token's text. */
static enum nb_status find_whole_words(struct nb_bpe *bpe, const struct nb_text *texts,
                                       const uint8_t *kinds, size_t n_ids, struct nb_error *err) {
    enum { MAX_WORD = 512 };
    struct nb_bpe_scratch scratch = {0};
    struct nb_tokens ids = {0};
    enum nb_status s = NB_OK;
    bpe->whole = calloc(n_ids + 1, 1);
    if (!bpe->whole)
        return nb_fail_memory(err, n_ids, "tokens");
    for (size_t id = 0; id < n_ids && s == NB_OK; id++) {
        if (!(kinds[id] & MADE) || texts[id].n > MAX_WORD)
            continue;
        ids.n = 0;
        s = encode_text(bpe, &scratch, texts[id].p, texts[id].n, &ids, err);
        if (s == NB_OK && ids.n == 1 && ids.ids[0] == (int32_t)id) {
            bpe->whole[id] = 1;
            bpe->max_word = texts[id].n > bpe->max_word ? texts[id].n : bpe->max_word;
        }
    }
    nb_tokens_free(&ids);
    nb_bpe_scratch_free(&scratch);
    return s;
}

enum nb_status nb_bpe_finish(struct nb_bpe *bpe, const struct nb_text_map *words,
                             struct nb_error *err) {
    size_t n_ids = bpe->n_ids;
    uint8_t *kinds = calloc(n_ids + bpe->n_virtuals + 1, 1);
    if (!kinds)
        return nb_fail_memory(err, n_ids, "tokens");
    classify(bpe, kinds);
    bpe->drops = !bpe->byte_fallback && bpe->unknown < 0 && !(bpe->byte_level && all_bytes(bpe));
    /* Where the unknown token is a character of its own, runs of the two must be told apart. */
    if (bpe->unknown >= 0 && is_symbol(bpe, &words->texts[bpe->unknown]))
        bpe->uncuttable = true;
    enum nb_status s = build_joints(bpe, words->texts, kinds, n_ids, err);
    bpe->words = words;
    if (s == NB_OK && !bpe->uncuttable)
        s = find_whole_words(bpe, words->texts, kinds, n_ids, err);
    free(kinds);
    return s;
}

/* ---- Encoding ---- */

enum nb_status nb_bpe_remember(struct nb_bpe_scratch *scratch, size_t n, struct nb_error *err) {
    enum { LEAST_BYTES = 1024, LEAST_BITS = 6, MOST_BITS = 12 };
    if (n < LEAST_BYTES || scratch->memos)
        return NB_OK;
    scratch->memo_bits = LEAST_BITS;
    while (scratch->memo_bits < MOST_BITS && (size_t)16 << scratch->memo_bits < n)
        scratch->memo_bits++;
    size_t memos = (size_t)1 << scratch->memo_bits;
    scratch->memos = calloc(memos, sizeof *scratch->memos);
    return scratch->memos ? NB_OK : nb_fail_memory(err, memos * sizeof *scratch->memos, "words");
}

void nb_bpe_scratch_free(struct nb_bpe_scratch *scratch) {
    free(scratch->memos);
    free(scratch->symbols);
    free(scratch->previous);
    free(scratch->next);
    free(scratch->heap);
    nb_buf_free(&scratch->text);
    *scratch = (struct nb_bpe_scratch){0};
}

/* The symbols of text, one a byte at the most. Returns how many there are. */
static size_t to_symbols(const struct nb_bpe *bpe, const char *text, size_t n, int32_t *symbols) {
    size_t count = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < n;) {
        unsigned bytes;
        uint32_t u = unit(bpe, text + i, &bytes);
        int32_t id = symbol(bpe, u);
        if (id >= 0) {
            symbols[count++] = id;
        } else if (bpe->byte_fallback) {
            for (unsigned k = 0; k < bytes; k++)
                symbols[count++] = bpe->fallback[(unsigned char)text[i + k]];
        } else if (bpe->unknown >= 0 && !(after_unknown && bpe->fuse_unknown)) {
            symbols[count++] = bpe->unknown;
        }
        after_unknown = id < 0;
        i += bytes;
    }
    return count;
}

/* Merges symbols[0..n), n <= SHORT, in place: ranks[i] is that of symbols i and i + 1. Returns how
 * many are left. */
static size_t merge_short(const struct nb_bpe *bpe, int32_t *symbols, size_t n) {
    int32_t ranks[SHORT];
    for (size_t i = 0; i + 1 < n; i++)
        ranks[i] = (int32_t)pair_rank(bpe, symbols[i], symbols[i + 1]);
    while (n > 1) {
        int32_t least = NB_BPE_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            if (ranks[i] < least) {
                least = ranks[i];
                at = i;
            }
        }
        if (least == NB_BPE_NO_RANK)
            break;
        n--;
        symbols[at] = merged_pair(bpe, symbols[at], symbols[at + 1]);
        memmove(symbols + at + 1, symbols + at + 2, (n - at - 1) * sizeof *symbols);
        memmove(ranks + at, ranks + at + 1, (n - at - 1) * sizeof *ranks);
        if (at > 0)
            ranks[at - 1] = (int32_t)pair_rank(bpe, symbols[at - 1], symbols[at]);
        if (at + 1 < n)
            ranks[at] = (int32_t)pair_rank(bpe, symbols[at], symbols[at + 1]);
    }
    return n;
}

/* A heap of rank << 32 | position, the least on top. */
static void heap_push(uint64_t *heap, size_t *n, uint64_t item) {
    size_t i = (*n)++;
    while (i && heap[(i - 1) / 2] > item) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = item;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0], item = heap[--*n];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < *n; i = c) {
        if (c + 1 < *n && heap[c + 1] < heap[c])
            c++;
        if (heap[c] >= item)
            break;
        heap[i] = heap[c];
    }
    heap[i] = item;
    return top;
}

static void push_pair(const struct nb_bpe *bpe, struct nb_bpe_scratch *s, size_t *n_heap,
                      uint32_t at) {
    uint32_t rank = pair_rank(bpe, s->symbols[at], s->symbols[s->next[at]]);
    if (rank != NB_BPE_NO_RANK)
        heap_push(s->heap, n_heap, (uint64_t)rank << 32 | at);
}

/* Merges scratch->symbols[0..n) in place. A merged-away symbol is -1; symbols that remain are
 * chained by next and previous, the last one's next being n. Returns how many remain.
 * Every merge adds two entries to the heap and removes two pairs, so n + 2n bound it. */
static size_t merge_long(const struct nb_bpe *bpe, struct nb_bpe_scratch *s, size_t n) {
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s->previous[i] = (uint32_t)i - 1;
        s->next[i] = (uint32_t)i + 1;
    }
    for (size_t i = 0; i + 1 < n; i++)
        push_pair(bpe, s, &n_heap, (uint32_t)i);
    while (n_heap) {
        uint64_t top = heap_pop(s->heap, &n_heap);
        uint32_t at = (uint32_t)top, rank = (uint32_t)(top >> 32);
        if (s->symbols[at] < 0 || s->next[at] == n)
            continue;
        uint32_t right = s->next[at];
        if (pair_rank(bpe, s->symbols[at], s->symbols[right]) != rank)
            continue; /* one of the two has merged with another since */
        s->symbols[at] = merged_pair(bpe, s->symbols[at], s->symbols[right]);
        s->symbols[right] = -1;
        s->next[at] = s->next[right];
        if (s->next[at] < n) {
            s->previous[s->next[at]] = at;
            push_pair(bpe, s, &n_heap, at);
        }
        if (at > 0)
            push_pair(bpe, s, &n_heap, s->previous[at]);
    }
    size_t left = 0;
    for (size_t i = 0; i < n; i++) {
        if (s->symbols[i] >= 0)
            s->symbols[left++] = s->symbols[i];
    }
    return left;
}

/* Room for n symbols, and to merge them. */
static enum nb_status reserve(struct nb_bpe_scratch *s, size_t n, struct nb_error *err) {
    if (n > s->cap) {
        size_t cap = n + n / 2 + SHORT;
        void *symbols = realloc(s->symbols, cap * sizeof *s->symbols);
        s->symbols = symbols ? symbols : s->symbols;
        void *previous = realloc(s->previous, cap * sizeof *s->previous);
        s->previous = previous ? previous : s->previous;
        void *next = realloc(s->next, cap * sizeof *s->next);
        s->next = next ? next : s->next;
        void *heap = realloc(s->heap, 3 * cap * sizeof *s->heap);
        s->heap = heap ? heap : s->heap;
        if (!symbols || !previous || !next || !heap)
            return nb_fail_memory(err, cap * 36, "merging");
        s->cap = cap;
    }
    return NB_OK;
}

static enum nb_status append_one(const struct nb_bpe *bpe, int32_t id, size_t begin,
                                 struct nb_tokens *out, struct nb_error *err) {
    if (bpe->fuse_unknown && id == bpe->unknown && out->n > begin &&
        out->ids[out->n - 1] == bpe->unknown && !bpe->uncuttable)
        return NB_OK;
    return nb_tokens_add(out, id) ? NB_OK : nb_fail_memory(err, out->n * sizeof id, "token ids");
}

/* A virtual symbol that no merge took is an unknown character after all. */
static enum nb_status append_virtual(const struct nb_bpe *bpe, int32_t id, size_t begin,
                                     struct nb_tokens *out, struct nb_error *err) {
    if (!bpe->byte_fallback)
        return append_one(bpe, bpe->unknown, begin, out, err);
    struct nb_buf utf8 = {0};
    nb_buf_add_utf8(&utf8, bpe->virtuals[(size_t)id - bpe->n_ids]);
    enum nb_status s = utf8.failed ? nb_fail_memory(err, 4, "a character") : NB_OK;
    for (size_t i = 0; i < utf8.len && s == NB_OK; i++)
        s = append_one(bpe, bpe->fallback[(unsigned char)utf8.data[i]], begin, out, err);
    nb_buf_free(&utf8);
    return s;
}

/* Appends ids to *out, where those of the piece of text begin at `begin`. */
static enum nb_status append(const struct nb_bpe *bpe, const int32_t *ids, size_t n, size_t begin,
                             struct nb_tokens *out, struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < n && s == NB_OK; i++) {
        if ((size_t)ids[i] < bpe->n_ids)
            s = append_one(bpe, ids[i], begin, out, err);
        else
            s = append_virtual(bpe, ids[i], begin, out, err);
    }
    return s;
}

/* Encodes a stretch of text that merges do not leave, and that was not remembered. `begin` is where
 * the ids of the piece of text around it begin: runs of unknown characters fuse across stretches.
 */
static enum nb_status encode_stretch(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                                     const char *text, size_t n, uint64_t hash, size_t begin,
                                     struct nb_tokens *out, struct nb_error *err) {
    if (n <= bpe->max_word) {
        int32_t id = nb_text_map_find_hashed(bpe->words, text, n, hash);
        if (id >= 0 && bpe->whole[id])
            return append(bpe, &id, 1, begin, out, err);
    }
    if (n <= SHORT) {
        int32_t symbols[SHORT];
        size_t count = to_symbols(bpe, text, n, symbols);
        return append(bpe, symbols, merge_short(bpe, symbols, count), begin, out, err);
    }
    enum nb_status s = reserve(scratch, n, err);
    if (s != NB_OK)
        return s;
    size_t count = to_symbols(bpe, text, n, scratch->symbols);
    count = merge_long(bpe, scratch, count);
    return append(bpe, scratch->symbols, count, begin, out, err);
}

/* A memo's key for text[0..n), 0 < n <= MEMO_BYTES. */
static inline struct nb_bpe_memo memo_key(const char *text, size_t n) {
    struct nb_bpe_memo key = {.n = (uint8_t)n};
    if (n <= 16) {
        key.begin = nb_short_text(text, n);
    } else {
        key.begin = nb_short_text(text, 16);
        key.end = nb_short_text(text + n - 16, 16);
    }
    return key;
}

static inline bool same_key(const struct nb_bpe_memo *x, const struct nb_bpe_memo *y) {
    return x->n == y->n && x->begin.a == y->begin.a && x->begin.b == y->begin.b &&
           x->end.a == y->end.a && x->end.b == y->end.b;
}

static enum nb_status recall(const struct nb_bpe_memo *memo, struct nb_tokens *out,
                             struct nb_error *err) {
    bool fits = true;
    for (size_t i = 0; i < memo->n_ids && fits; i++)
        fits = nb_tokens_add(out, memo->ids[i]);
    return fits ? NB_OK : nb_fail_memory(err, out->n * sizeof *out->ids, "token ids");
}

static enum nb_status encode_or_recall(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                                       const char *text, size_t n, size_t begin,
                                       struct nb_tokens *out, struct nb_error *err) {
    uint64_t hash = nb_hash_text(text, n);
    /* Where the unknown token fuses with the one before, ids depend on more than the stretch. */
    bool fuses = bpe->fuse_unknown && bpe->unknown >= 0;
    if (n > MEMO_BYTES || !scratch->memos || fuses)
        return encode_stretch(bpe, scratch, text, n, hash, begin, out, err);
    struct nb_bpe_memo key = memo_key(text, n);
    struct nb_bpe_memo *memo = &scratch->memos[hash >> (64 - scratch->memo_bits)];
    if (same_key(memo, &key))
        return recall(memo, out, err);
    size_t before = out->n;
    enum nb_status s = encode_stretch(bpe, scratch, text, n, hash, begin, out, err);
    size_t made = out->n - before;
    if (s == NB_OK && made > 0 && made <= sizeof key.ids / sizeof *key.ids) {
        *memo = key;
        memo->n_ids = (uint8_t)made;
        memcpy(memo->ids, out->ids + before, made * sizeof *memo->ids);
    }
    return s;
}

/* A copy of text without the characters that become nothing: they must not keep their neighbours
 * from merging. */
static enum nb_status drop_unknown(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                                   const char **text, size_t *n, struct nb_error *err) {
    nb_buf_clear(&scratch->text);
    for (size_t i = 0; i < *n;) {
        unsigned bytes;
        uint32_t u = unit(bpe, *text + i, &bytes);
        if (symbol(bpe, u) >= 0)
            nb_buf_add(&scratch->text, *text + i, bytes);
        i += bytes;
    }
    if (scratch->text.failed)
        return nb_fail_memory(err, *n, "text");
    *text = scratch->text.data;
    *n = scratch->text.len;
    return NB_OK;
}

static enum nb_status encode_text(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                                  const char *text, size_t n, struct nb_tokens *out,
                                  struct nb_error *err) {
    if (bpe->uncuttable)
        return encode_stretch(bpe, scratch, text, n, nb_hash_text(text, n), out->n, out, err);
    enum nb_status s = NB_OK;
    size_t begin = out->n, start = 0;
    uint32_t before = 0;
    for (size_t i = 0; i < n && s == NB_OK;) {
        unsigned bytes;
        uint32_t u = unit(bpe, text + i, &bytes);
        if (i > start && !may_join(bpe, before, u)) {
            s = encode_or_recall(bpe, scratch, text + start, i - start, begin, out, err);
            start = i;
        }
        before = u;
        i += bytes;
    }
    if (s == NB_OK && start < n)
        s = encode_or_recall(bpe, scratch, text + start, n - start, begin, out, err);
    return s;
}

enum nb_status nb_bpe_encode(const struct nb_bpe *bpe, struct nb_bpe_scratch *scratch,
                             const char *text, size_t n, struct nb_tokens *out,
                             struct nb_error *err) {
    if (n > INT32_MAX) /* positions have 32 bits */
        return nb_fail(err, NB_ERR_LIMIT, "normalized text of %zu bytes, expected at most %d", n,
                       INT32_MAX);
    if (bpe->ignore_merges) {
        int32_t id = nb_text_map_find(bpe->words, text, n);
        if (id >= 0)
            return append(bpe, &id, 1, out->n, out, err);
    }
    if (bpe->drops) {
        enum nb_status s = drop_unknown(bpe, scratch, &text, &n, err);
        if (s != NB_OK)
            return s;
    }
    return encode_text(bpe, scratch, text, n, out, err);
}

enum nb_status nb_bpe_encode_plain(const struct nb_bpe *bpe, const char *text, size_t n,
                                   struct nb_tokens *out, struct nb_error *err) {
    if (bpe->ignore_merges) {
        int32_t id = nb_text_map_find(bpe->words, text, n);
        if (id >= 0)
            return nb_tokens_add(out, id) ? NB_OK : nb_fail_memory(err, 4, "token ids");
    }
    int32_t *symbols = malloc((n + 1) * sizeof *symbols);
    if (!symbols)
        return nb_fail_memory(err, n * sizeof *symbols, "symbols");
    size_t count = to_symbols(bpe, text, n, symbols);
    for (;;) {
        uint32_t least = NB_BPE_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            uint32_t rank = pair_rank(bpe, symbols[i], symbols[i + 1]);
            if (rank < least) {
                least = rank;
                at = i;
            }
        }
        if (least == NB_BPE_NO_RANK)
            break;
        symbols[at] = merged_pair(bpe, symbols[at], symbols[at + 1]);
        count--;
        memmove(symbols + at + 1, symbols + at + 2, (count - at - 1) * sizeof *symbols);
    }
    enum nb_status s = append(bpe, symbols, count, out->n, out, err);
    free(symbols);
    return s;
}
