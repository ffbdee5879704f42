/* One CPU thread does all: a launch's scheduler and, as fibers, the grid's threads. What a thread
 * calls either returns or leaves it waiting for something that the scheduler can see. */
#include "emulator.h"

#include <math.h>
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER 1
#endif
#endif
#ifdef ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#include <ucontext.h>
#endif

/* With the thread sanitizer a fiber is a thread to it, and is told what orders what: barriers, a
 * warp's and a block's meeting, the end of a copy, words that blocks pass one another. So races in
 * shared memory are found even where no order of things shows them. This file itself is compiled
 * without it (its state belongs to no fiber). */
#ifdef NB_EMULATOR_THREADS
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *at);
void __tsan_release(void *at);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#define THREADS_ONLY(...) __VA_ARGS__
#else
#define THREADS_ONLY(...)
#endif

namespace emulator {

thread_place place;

namespace {

void happens_before(const void *at) {
    (void)at;
    THREADS_ONLY(__tsan_release(const_cast<void *>(at));)
}

void happens_after(const void *at) {
    (void)at;
    THREADS_ONLY(__tsan_acquire(const_cast<void *>(at));)
}

/* The emulator's own memory, while one of these lives. */
struct own_memory {
    own_memory() {
        THREADS_ONLY(AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0);)
    }
    ~own_memory() {
        THREADS_ONLY(AnnotateIgnoreWritesEnd("", 0); AnnotateIgnoreReadsEnd("", 0);)
    }
};

enum {
    WARP = 32,
    SHARED_BEGIN = 1024, /* address of a block's shared memory */
    STACK_BYTES = 96 * 1024 + 11 * 64, /* so that stacks' ends do not share the same cache lines */
    AHEAD = 4096,    /* rounds that a store or a copy may take, less one */
    REMEMBERED = 32, /* words that a lane found to be nothing */
    MANY = 256,      /* so many without a wait: it asks for more words than are remembered */
    UNFENCED = 16
};

/* ---- fibers ---- */

#ifdef __x86_64__
/* Keeps what a function must keep, on the stack. */
extern "C" void emulator_switch(void **from, void *to);
asm(".text\n"
    ".globl emulator_switch\n"
    ".type emulator_switch, @function\n"
    "emulator_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
    "%r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size emulator_switch, . - emulator_switch\n");

struct fiber {
    void *sp;
    void begin(uint8_t *stack, size_t bytes, void (*entry)()) {
        uintptr_t top = ((uintptr_t)stack + bytes) & ~(uintptr_t)63;
        void **p = (void **)top;
        *--p = nullptr; /* where entry would return to */
        *--p = (void *)entry;
        for (int i = 0; i < 6; i++)
            *--p = nullptr;
        sp = p;
    }
    static void go(fiber &from, fiber &to) {
        emulator_switch(&from.sp, to.sp);
    }
};
#else
struct fiber {
    std::unique_ptr<ucontext_t> context;
    fiber() : context(new ucontext_t) {
    }
    void begin(uint8_t *stack, size_t bytes, void (*entry)()) {
        getcontext(context.get());
        context->uc_stack.ss_sp = stack;
        context->uc_stack.ss_size = bytes;
        context->uc_link = nullptr;
        makecontext(context.get(), entry, 0);
    }
    static void go(fiber &from, fiber &to) {
        swapcontext(from.context.get(), to.context.get());
    }
};
#endif

/* ---- a grid ---- */

enum wait { NONE, COLLECTIVE, PHASE, WORD, FLAG, FENCE, MEETING, LAUNCH, ENDED };
const char *const wait_names[] = {
    "nothing",         "its warp",   "a barrier's phase",   "a global word",
    "a flag",          "its stores", "its block's threads", "the launch before",
    "nothing any more"};

struct thread_copy {
    uint32_t to, bytes;
    const void *from;
    uint64_t group, number;
};

struct lane {
    fiber f;
    uint8_t *stack;
    THREADS_ONLY(void *as_thread;)
    unsigned thread;
    wait waits;
    /* What for: */
    const void *at;  /* PHASE: a barrier; WORD: a word */
    uint32_t parity; /* PHASE */
    uint64_t round;  /* FENCE: that must have begun */
    int kind;        /* COLLECTIVE */
    uint32_t mask, x, from, a[4], b[2];
    float c[4];
    const void *nothing[REMEMBERED];
    unsigned n_nothing;
    uint32_t reads[UNFENCED]; /* addresses, the latest since its last reads_before_copies */
    unsigned n_reads;
    uint32_t all[WARP];              /* GATHER */
    std::vector<thread_copy> copies; /* under way */
    uint64_t copy_group, n_copies;   /* of the next */
    product p;
    uint32_t product_a[4];
};

/* A product of a warp, its part of a warpgroup's. */
struct warp_product {
    product p[WARP];
    uint32_t a[WARP][4];
    uint64_t group;
};

/* Sums that products are adding to: in registers there is garbage meanwhile. */
struct held_sums {
    float *d;
    unsigned n, under_way;
    std::vector<float> sums;
    std::vector<uint32_t> garbage;
};

struct warp {
    std::vector<lane> lanes;
    std::vector<warp_product> products; /* under way, in order */
    std::vector<held_sums> held;
    uint64_t product_group, n_products;
    bool fenced;
    unsigned lag;            /* of 256: how many rounds it does nothing in */
    unsigned ended, meeting; /* lanes that have; that wait in a collective */
};

struct pending_store {
    uint32_t *at;
    uint32_t v;
    const lane *by;
    uint64_t round;
};

struct block {
    index3 index;
    unsigned number, lag;
    std::vector<warp> warps;
    std::vector<uint8_t> memory, published;
    uint8_t *shared; /* as threads see it; published: as products do */
    std::vector<std::pair<const void *, std::unique_ptr<uint8_t[]>>> statics;
    unsigned meeting[16], n_ended;
    uint64_t last_store; /* the round in which all that was stored is visible */
    std::unordered_map<const void *, pending_store> stores; /* the latest at an address */
};

struct copy {
    block *in;
    uint32_t to, bytes;
    const void *from;
    uint64_t *barrier;
};

struct box_copy {
    block *in;
    uint32_t to;
    box_map map;
    int32_t at[4];
    uint64_t *barrier;
};

/* Copies of a lane with lower numbers are done, and then it arrives; products of a warp, of lower
 * groups. */
struct event {
    block *in;
    lane *l;
    warp *w;
    uint64_t before;
    uint64_t *barrier;
};

struct due {
    std::vector<copy> copies;
    std::vector<box_copy> boxes;
    std::vector<event> events;
    std::vector<std::pair<block *, pending_store>> stores;
};

struct grid {
    std::vector<block> blocks;
    unsigned threads;
    size_t shared_bytes;
    void (*body)(const void *);
    const void *argument;
    uint64_t round, n_waiting_events;
    std::vector<due> due_in;
    uint64_t phases, words; /* counts of events */
    bool is_first;          /* the launch before has not run: some wait for it */
    bool after_may_begin;
    fiber scheduler;
    block *b;
    warp *w;
    lane *l;
    THREADS_ONLY(void *as_thread;)
#ifdef ADDRESS_SANITIZER
    const void *main_stack;
    size_t main_bytes;
#endif
};

grid g;
uint64_t random_state = 1;
/* A launch's, and those of one that runs while that waits. */
struct {
    uint8_t *p;
    size_t n;
} stacks_of[2];
unsigned depth;

uint64_t random_bits() {
    uint64_t z = random_state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

unsigned random_below(unsigned n) {
    return (unsigned)((random_bits() >> 32) * n >> 32);
}

void to_scheduler() {
#ifdef ADDRESS_SANITIZER
    void *fake;
    __sanitizer_start_switch_fiber(g.l->waits == ENDED ? nullptr : &fake, g.main_stack,
                                   g.main_bytes);
#endif
    THREADS_ONLY(__tsan_switch_to_fiber(g.as_thread, 1);)
    fiber::go(g.l->f, g.scheduler);
#ifdef ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake, &g.main_stack, &g.main_bytes);
#endif
}

void wait_for(wait what) {
    g.l->waits = what;
    to_scheduler();
}

/* ---- barriers in shared memory: the phase, arrivals a phase, arrivals and bytes to come ---- */

struct barrier {
    uint64_t phase : 1, count : 12, left : 13;
    int64_t bytes : 38;
};
static_assert(sizeof(barrier) == 8, "one word");

barrier *as_barrier(const void *b) {
    return (barrier *)const_cast<void *>(b);
}

void complete(barrier *b) {
    if (b->left == 0 && b->bytes == 0) {
        b->phase ^= 1;
        b->left = b->count;
        g.phases++;
    }
}

/* ---- what completes by itself ---- */

/* Mostly soon, at times very late. */
uint64_t delay() {
    unsigned kind = random_below(64);
    return 1 + random_below(kind < 40 ? 2 : kind < 62 ? 16 : kind < 63 ? 200 : AHEAD - 1);
}

due &due_at(uint64_t round) {
    return g.due_in[round % AHEAD];
}

void complete_copies(block &b, lane &l, uint64_t before_number, uint64_t before_group);
void complete_box(const box_copy &c);
void complete_products(block &b, warp &w, uint64_t before_group);

void publish(block &b, uint32_t to, uint32_t bytes) {
    if (!b.published.empty())
        memcpy(&b.published[to - SHARED_BEGIN], b.shared + (to - SHARED_BEGIN), bytes);
}

void complete_what_is_due() {
    due &d = due_at(g.round);
    for (const event &e : d.events) {
        if (e.w)
            complete_products(*e.in, *e.w, e.before);
        else
            complete_copies(*e.in, *e.l, e.before, ~(uint64_t)0);
        if (e.barrier) {
            barrier *b = as_barrier(e.barrier);
            if (b->left == 0)
                fail("one arrival too many at a barrier");
            b->left = b->left - 1;
            complete(b);
        }
    }
    for (const box_copy &c : d.boxes)
        complete_box(c);
    for (const copy &c : d.copies) {
        memcpy(c.in->shared + (c.to - SHARED_BEGIN), c.from, c.bytes);
        publish(*c.in, c.to, c.bytes);
        barrier *b = as_barrier(c.barrier);
        b->bytes = b->bytes - c.bytes;
        complete(b);
    }
    for (auto &s : d.stores) {
        *s.second.at = s.second.v;
        auto i = s.first->stores.find(s.second.at);
        if (i != s.first->stores.end() && i->second.round == g.round)
            s.first->stores.erase(i);
        g.words++;
    }
    g.n_waiting_events -= d.copies.size() + d.boxes.size() + d.events.size() + d.stores.size();
    d.boxes.clear();
    d.events.clear();
    d.copies.clear();
    d.stores.clear();
}

/* ---- scheduling ---- */

void enter_fiber() {
#ifdef ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &g.main_stack, &g.main_bytes);
#endif
    g.body(g.argument);
    if (!g.l->copies.empty())
        fail("a thread ended before what it copied was there");
    if (!g.w->products.empty())
        fail("a warp ended before its products were done");
    happens_before(&g);
    g.l->waits = ENDED;
    to_scheduler();
    abort();
}

bool can_run(const lane &l) {
    switch (l.waits) {
    case NONE:
        return true;
    case PHASE:
        return as_barrier(l.at)->phase != l.parity;
    case WORD:
        return *(const uint32_t *)l.at != ~0U;
    case FLAG:
        return *(const uint32_t *)l.at != 0;
    case FENCE:
        return g.round >= l.round;
    case LAUNCH:
        return !g.is_first;
    default:
        return false;
    }
}

void run(lane &l) {
    l.waits = NONE;
    g.l = &l;
    place.thread = {l.thread, 0, 0};
#ifdef ADDRESS_SANITIZER
    void *fake;
    __sanitizer_start_switch_fiber(&fake, l.stack, STACK_BYTES);
#endif
    THREADS_ONLY(__tsan_switch_to_fiber(l.as_thread, 1);)
    fiber::go(g.scheduler, l.f);
#ifdef ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void try_collective(warp &w, uint32_t mask);

bool run_warp(block &b, warp &w) {
    bool any = false;
    g.b = &b;
    g.w = &w;
    place.block = b.index;
    for (unsigned n = 0; n < 4096; n++) {
        bool now = false;
        unsigned from = random_below(WARP), step = random_below(2) ? 1 : WARP - 1;
        for (unsigned k = 0; k < WARP; k++) {
            lane &l = w.lanes[(from + k * step) % WARP];
            if (!can_run(l))
                continue;
            run(l);
            now = true;
            if (l.waits == ENDED) {
                w.ended |= 1U << (l.thread % WARP);
                b.n_ended++;
                if (w.meeting)
                    try_collective(w, w.lanes[(unsigned)__builtin_ctz(w.meeting)].mask);
            }
        }
        any |= now;
        if (!now || random_below(64) == 0)
            break;
    }
    return any;
}

unsigned random_lag() {
    unsigned kind = random_below(16);
    return kind < 10 ? 0 : kind < 13 ? 128 : kind < 15 ? 240 : 254;
}

std::string describe() {
    std::string s;
    char line[256];
    unsigned shown = 0;
    for (block &b : g.blocks) {
        for (unsigned i = 0; i < b.warps.size(); i++) {
            for (const lane &l : b.warps[i].lanes) {
                if (l.waits == ENDED || shown >= 64)
                    continue;
                snprintf(line, sizeof line, "# block %u warp %u lane %u waits for %s", b.number, i,
                         l.thread % WARP, wait_names[l.waits]);
                s += line;
                if (l.waits == PHASE) {
                    const barrier *p = as_barrier(l.at);
                    snprintf(line, sizeof line,
                             " at %zu, parity %u: phase %u, %u of %u arrivals and %lld bytes left",
                             (size_t)((const uint8_t *)l.at - b.shared), l.parity,
                             (unsigned)p->phase, (unsigned)p->left, (unsigned)p->count,
                             (long long)p->bytes);
                    s += line;
                }
                s += "\n";
                shown++;
                break;
            }
        }
    }
    return s;
}

void schedule() {
    std::vector<std::pair<block *, warp *>> order;
    size_t left = 0;
    for (block &b : g.blocks)
        for (warp &w : b.warps)
            order.push_back({&b, &w});
    left = order.size();
    for (unsigned idle = 0; left; g.round++) {
        complete_what_is_due();
        if (g.round % 256 == 0) {
            for (block &b : g.blocks) {
                b.lag = random_lag();
                for (warp &w : b.warps)
                    w.lag = random_lag();
            }
        }
        bool any = false;
        unsigned from = random_below((unsigned)order.size());
        for (size_t k = 0; k < left; k++) {
            size_t i = (from + k) % left;
            if (k % 16 == 0)
                std::swap(order[i], order[random_below((unsigned)left)]);
            block &b = *order[i].first;
            warp &w = *order[i].second;
            if (w.ended == ~0U || random_below(256) < b.lag || random_below(256) < w.lag)
                continue;
            any |= run_warp(b, w);
        }
        for (size_t i = 0; i < left;) {
            if (order[i].second->ended == ~0U)
                std::swap(order[i], order[--left]);
            else
                i++;
        }
        idle = any || g.n_waiting_events ? 0 : idle + 1;
        if (g.is_first && idle > 200)
            return;
        if (idle > 20000)
            fail("nothing can go on");
    }
}

/* ---- collectives ---- */

float bf16(uint32_t bits) {
    float f;
    bits <<= 16;
    memcpy(&f, &bits, 4);
    return f;
}

/* c [16, 8] += a [16, 16] b [16, 8] of m16n8k16, PTX ISA 9.7.14.5.8. */
void multiply(warp &w) {
    float a[16][16], b[16][8];
    for (unsigned i = 0; i < WARP; i++) {
        const lane &l = w.lanes[i];
        unsigned row = i / 4, k = i % 4 * 2;
        for (unsigned r = 0; r < 4; r++) {
            for (unsigned h = 0; h < 2; h++)
                a[row + r % 2 * 8][k + r / 2 * 8 + h] = bf16(l.a[r] >> 16 * h & 0xFFFF);
        }
        for (unsigned r = 0; r < 2; r++) {
            for (unsigned h = 0; h < 2; h++)
                b[k + r * 8 + h][row] = bf16(l.b[r] >> 16 * h & 0xFFFF);
        }
    }
    float c[16][8] = {};
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned j = 0; j < 8; j++)
                c[i][j] += a[i][k] * b[k][j];
        }
    }
    for (unsigned i = 0; i < WARP; i++) {
        for (unsigned r = 0; r < 4; r++)
            w.lanes[i].c[r] += c[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
    }
}

/* Lets the lanes of mask go on if all of them, but for those that ended, are there. */
void try_collective(warp &w, uint32_t mask) {
    if (mask & ~w.ended & ~w.meeting)
        return;
    const lane *first = nullptr;
    for (unsigned i = 0; i < WARP; i++) {
        const lane &l = w.lanes[i];
        if (!(mask >> i & 1) || w.ended >> i & 1)
            continue;
        if (!first)
            first = &l;
        if (l.kind != first->kind || l.mask != first->mask)
            fail("lanes of a warp meet in different collectives");
    }
    if (!first)
        return;
    int kind = first->kind;
    uint32_t all = kind == MIN ? ~0U : 0, x[WARP];
    for (unsigned i = 0; i < WARP; i++) {
        const lane &l = w.lanes[i];
        x[i] = l.x;
        if (!(mask >> i & 1) || w.ended >> i & 1)
            continue;
        all = kind == ANY   ? all | (l.x != 0)
              : kind == MAX ? (l.x > all ? l.x : all)
              : kind == MIN ? (l.x < all ? l.x : all)
                            : 0;
    }
    if (kind == MMA) {
        if (w.ended || mask != ~0U)
            fail("a product of less than a warp");
        multiply(w);
    }
    for (unsigned i = 0; i < WARP; i++) {
        lane &l = w.lanes[i];
        if (!(mask >> i & 1) || w.ended >> i & 1)
            continue;
        if (kind >= SHUFFLE && kind <= SHUFFLE_DOWN) {
            if (!(mask >> l.from & 1) || w.ended >> l.from & 1)
                fail("a shuffle from a lane that is not there");
            l.x = x[l.from];
        } else if (kind == GATHER) {
            memcpy(l.all, x, sizeof x);
        } else {
            l.x = all;
        }
        w.meeting &= ~(1U << i);
        l.waits = NONE;
    }
}

void meet_warp(int kind, uint32_t mask) {
    lane &l = *g.l;
    l.kind = kind;
    l.mask = mask;
    l.waits = COLLECTIVE;
    g.w->meeting |= 1U << (l.thread % WARP);
    if (!(mask >> (l.thread % WARP) & 1))
        fail("a lane in a collective of others");
    try_collective(*g.w, mask);
    if (l.waits == COLLECTIVE)
        to_scheduler();
}

} // namespace

/* ---- what threads call ---- */

void warp_sync(uint32_t mask) {
    happens_before(g.w);
    meet_warp(SYNC, mask);
    happens_after(g.w);
}

uint32_t warp_exchange(int kind, uint32_t mask, uint32_t x, uint32_t from) {
    g.l->x = x;
    g.l->from = from;
    meet_warp(kind, mask);
    return g.l->x;
}

void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    memcpy(g.l->a, a, sizeof a);
    memcpy(g.l->b, b, sizeof b);
    memcpy(g.l->c, c, sizeof c);
    meet_warp(MMA, ~0U);
    memcpy(c, g.l->c, sizeof c);
}

void warp_gather(uint32_t x, uint32_t (&all)[32]) {
    g.l->x = x;
    meet_warp(GATHER, ~0U);
    memcpy(all, g.l->all, sizeof all);
}

void block_meet(int which, unsigned threads) {
    block &b = *g.b;
    lane &l = *g.l;
    l.waits = MEETING;
    l.kind = which;
    happens_before(&b.meeting[which]);
    if (++b.meeting[which] < (threads ? threads : g.threads - b.n_ended)) {
        to_scheduler();
    } else {
        b.meeting[which] = 0;
        for (warp &w : b.warps) {
            for (lane &other : w.lanes) {
                if (other.waits == MEETING && other.kind == which)
                    other.waits = NONE;
            }
        }
    }
    happens_after(&b.meeting[which]);
}

uint8_t *shared_memory() {
    return g.b->shared;
}

void fill_with_garbage(uint8_t *p, size_t bytes) {
    bool nan = random_below(2);
    for (size_t k = 0; k < bytes; k += 4) {
        uint32_t v = nan ? 0x7FC12345U : (uint32_t)random_bits();
        memcpy(p + k, &v, bytes - k < 4 ? bytes - k : 4);
    }
}

void *shared_static(const void *tag, size_t bytes) {
    own_memory own;
    for (auto &s : g.b->statics) {
        if (s.first == tag)
            return s.second.get();
    }
    std::unique_ptr<uint8_t[]> p(new uint8_t[bytes]);
    fill_with_garbage(p.get(), bytes);
    g.b->statics.emplace_back(tag, std::move(p));
    return g.b->statics.back().second.get();
}

uint32_t shared_address(const void *p) {
    size_t at = (size_t)((const uint8_t *)p - g.b->shared);
    if (at >= g.shared_bytes)
        fail("an address that is not of the block's shared memory");
    return (uint32_t)at + SHARED_BEGIN;
}

uint8_t *shared_at(uint32_t address, uint32_t bytes) {
    if (address < SHARED_BEGIN || address + bytes > SHARED_BEGIN + g.shared_bytes ||
        address % (bytes < 16 ? bytes : 16))
        fail("an address beyond shared memory, or not a multiple of what is accessed");
    return g.b->shared + (address - SHARED_BEGIN);
}

void barrier_init(uint64_t *b, uint32_t count) {
    barrier *p = as_barrier(b);
    p->phase = 0;
    p->count = p->left = count & 4095;
    p->bytes = 0;
}

void barrier_arrive(uint64_t *b, uint32_t expected_bytes) {
    barrier *p = as_barrier(b);
    if (p->left == 0)
        fail("one arrival too many at a barrier");
    happens_before(b);
    p->bytes = p->bytes + expected_bytes;
    p->left = p->left - 1;
    complete(p);
}

bool barrier_try(uint64_t *b, uint32_t parity) {
    if (as_barrier(b)->phase == parity) {
        g.l->at = b;
        g.l->parity = parity;
        wait_for(PHASE);
    }
    happens_after(b);
    return true;
}

bool barrier_test(uint64_t *b, uint32_t parity) {
    if (as_barrier(b)->phase == parity)
        return false;
    happens_after(b);
    return true;
}

const uint8_t *shared_read(uint32_t address, uint32_t bytes) {
    lane &l = *g.l;
    l.reads[l.n_reads++ % UNFENCED] = address;
    return shared_at(address, bytes);
}

void reads_before_copies() {
    g.l->n_reads = 0;
}

void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint64_t *b) {
    if (bytes % 16 || to % 16 || (uintptr_t)from % 16)
        fail("a bulk copy of or to no multiple of 16");
    for (const warp &w : g.b->warps) {
        for (const lane &l : w.lanes) {
            for (unsigned i = 0; i < l.n_reads && i < UNFENCED; i++) {
                if (l.reads[i] - to < bytes)
                    fail("a bulk copy to what a thread read, and did not fence");
            }
        }
    }
    memset(shared_at(to, bytes), 0xA5 ^ (int)(random_bits() & 0x7F), bytes);
    happens_before(b); /* the copy itself is this thread's, as far as others see */
    own_memory own;
    uint64_t round = g.round + delay();
    due_at(round).copies.push_back({g.b, to, bytes, from, b});
    g.n_waiting_events++;
}

uint32_t load_word(const void *p) {
    lane &l = *g.l;
    own_memory own;
    if (!g.b->stores.empty()) { /* a thread sees its own stores */
        auto i = g.b->stores.find(p);
        if (i != g.b->stores.end() && i->second.by == &l)
            return i->second.v;
    }
    const uint32_t *at = (const uint32_t *)p;
    if (*at != ~0U) {
        happens_after(p);
        return *at;
    }
    for (unsigned i = 0; i < REMEMBERED; i++) {
        if (l.nothing[i] != p && l.n_nothing < MANY)
            continue;
        l.nothing[i] = nullptr;
        l.n_nothing = 0;
        l.at = p;
        wait_for(WORD);
        happens_after(p);
        return *at;
    }
    l.nothing[l.n_nothing++ % REMEMBERED] = p;
    return ~0U;
}

void store_word(void *p, uint32_t v) {
    block &b = *g.b;
    own_memory own;
    happens_before(p);
    uint64_t round = g.round + delay();
    auto i = b.stores.find(p);
    if (i != b.stores.end() && i->second.round > round)
        round = i->second.round;
    float f;
    memcpy(&f, &v, 4);
    pending_store s = {(uint32_t *)p, v, g.l, round};
    b.stores[p] = s;
    due_at(round).stores.push_back({&b, s});
    g.n_waiting_events++;
    b.last_store = round > b.last_store ? round : b.last_store;
}

void fence() {
    if (g.b->last_store > g.round) {
        g.l->round = g.b->last_store;
        wait_for(FENCE);
    }
}

void store_release(int32_t *p, int32_t v) {
    block &b = *g.b;
    own_memory own;
    happens_before(p);
    uint64_t round = g.round + delay();
    round = b.last_store > round ? b.last_store : round;
    pending_store s = {(uint32_t *)p, (uint32_t)v, g.l, round};
    b.stores[p] = s;
    due_at(round).stores.push_back({&b, s}); /* behind those before it */
    g.n_waiting_events++;
    b.last_store = round;
}

int32_t load_acquire(const int32_t *p) {
    if (*p == 0) {
        g.l->at = p;
        wait_for(FLAG);
    }
    happens_after(p);
    return *p;
}

int32_t atomic_add(int32_t *p, int32_t v) {
    own_memory own;
    int32_t before = *p; /* a fiber is left only where it waits */
    *p = before + v;
    return before;
}

/* ---- copies by threads ---- */

namespace {

void destroy(uint8_t *p, size_t bytes) {
    memset(p, 0xA5 ^ (int)(random_bits() & 0x7F), bytes);
    if (random_below(2)) /* as f32, and in twos as bf16, no number */
        memset(p, 0xFF, bytes);
}

void complete_copies(block &b, lane &l, uint64_t before_number, uint64_t before_group) {
    size_t kept = 0;
    for (const thread_copy &c : l.copies) {
        if (c.number >= before_number || c.group >= before_group) {
            l.copies[kept++] = c;
            continue;
        }
        uint8_t *to = b.shared + (c.to - SHARED_BEGIN);
        memset(to, 0, 16);
        memcpy(to, c.from, c.bytes);
    }
    l.copies.resize(kept);
}

} // namespace

void copy_16(uint32_t to, const void *from, uint32_t bytes) {
    if (to % 16 || (bytes && (uintptr_t)from % 16) || bytes > 16)
        fail("a copy of 16 bytes of or to no multiple of 16");
    lane &l = *g.l;
    destroy(shared_at(to, 16), 16);
    own_memory own;
    l.copies.push_back({to, bytes, from, l.copy_group, l.n_copies++});
    if (random_below(4) == 0)
        complete_copies(*g.b, l, l.n_copies, ~(uint64_t)0);
}

void copy_commit() {
    lane &l = *g.l;
    own_memory own;
    l.copy_group++;
    if (l.copies.empty())
        return;
    due_at(g.round + delay()).events.push_back({g.b, &l, nullptr, l.n_copies, nullptr});
    g.n_waiting_events++;
}

void copy_wait(unsigned groups) {
    lane &l = *g.l;
    own_memory own;
    complete_copies(*g.b, l, ~(uint64_t)0, l.copy_group > groups ? l.copy_group - groups : 0);
}

void copy_wait_all() {
    own_memory own;
    complete_copies(*g.b, *g.l, ~(uint64_t)0, ~(uint64_t)0);
}

void barrier_arrive_copied(uint64_t *b) {
    happens_before(b);
    own_memory own;
    due_at(g.round + delay()).events.push_back({g.b, g.l, nullptr, g.l->n_copies, b});
    g.n_waiting_events++;
}

/* ---- bulk copies of boxes ---- */

namespace {

uint64_t box_bytes(const box_map &m) {
    uint64_t n = m.element_bytes;
    for (unsigned i = 0; i < m.rank; i++)
        n *= m.box[i];
    return n;
}

/* Where the 128-byte swizzle has an address: bits 4 to 6 are exclusive ored with bits 7 to 9. */
uint32_t swizzle(uint32_t address) {
    return address ^ (address >> 7 & 7) << 4;
}

void complete_box(const box_copy &c) {
    const box_map &m = c.map;
    uint32_t row_bytes = m.box[0] * m.element_bytes;
    uint64_t all = box_bytes(m), at[4] = {};
    std::vector<uint8_t> row(row_bytes);
    for (uint32_t done = 0; done < all; done += row_bytes) {
        bool inside = true;
        uint64_t offset = 0;
        for (unsigned i = 1; i < m.rank; i++) {
            int64_t k = (int64_t)c.at[i] + (int64_t)at[i];
            inside = inside && k >= 0 && (uint64_t)k < m.size[i];
            offset += (uint64_t)k * m.stride[i];
        }
        memset(row.data(), 0, row_bytes);
        for (uint32_t i = 0; inside && i < m.box[0]; i++) {
            int64_t k = (int64_t)c.at[0] + i;
            if (k >= 0 && (uint64_t)k < m.size[0])
                memcpy(&row[i * m.element_bytes], m.base + offset + (uint64_t)k * m.element_bytes,
                       m.element_bytes);
        }
        for (uint32_t i = 0; i < row_bytes; i += 16) {
            uint32_t to = c.to + done + i;
            to = m.swizzled ? swizzle(to) : to;
            memcpy(c.in->shared + (to - SHARED_BEGIN), &row[i], 16);
            publish(*c.in, to, 16);
        }
        for (unsigned i = 1; i < m.rank && ++at[i] == m.box[i]; i++)
            at[i] = 0;
    }
    barrier *b = as_barrier(c.barrier);
    b->bytes = b->bytes - (int64_t)all;
    complete(b);
}

} // namespace

void copy_box(uint32_t to, const box_map &map, const int32_t (&at)[4], uint64_t *b) {
    if (map.magic != BOX_MAP_MAGIC)
        fail("a copy by what is no tensor map");
    if (to % (map.swizzled ? 1024 : 128)) /* of 1,024: else rows are not where products look */
        fail("a box to an address that is no multiple of 128, or of 1,024 under a swizzle");
    uint64_t bytes = box_bytes(map);
    if (to < SHARED_BEGIN || to + bytes > SHARED_BEGIN + g.shared_bytes)
        fail("a box beyond shared memory");
    destroy(g.b->shared + (to - SHARED_BEGIN), bytes);
    happens_before(b);
    own_memory own;
    if (g.b->published.empty())
        g.b->published.resize(g.shared_bytes, 0xFF);
    publish(*g.b, to, (uint32_t)bytes);
    box_copy c = {g.b, to, map, {at[0], at[1], at[2], at[3]}, b};
    due_at(g.round + delay()).boxes.push_back(c);
    g.n_waiting_events++;
}

void fence_async() {
    block &b = *g.b;
    own_memory own;
    b.published.assign(b.shared, b.shared + g.shared_bytes);
}

/* ---- products of warpgroups ---- */

namespace {

/* Eight neighbours of shared memory as products see it, 16 bytes, under the swizzle; what nobody
 * published is no number. */
void read_eight(block &b, uint32_t address, float *out, unsigned step) {
    if (address < SHARED_BEGIN || address + 16 > SHARED_BEGIN + g.shared_bytes)
        fail("an operand of a product beyond shared memory");
    if (b.published.empty())
        b.published.resize(g.shared_bytes, 0xFF);
    const uint8_t *p = &b.published[swizzle(address) - SHARED_BEGIN];
    for (unsigned i = 0; i < 8; i++) {
        uint16_t bits;
        memcpy(&bits, p + 2 * i, 2);
        out[i * step] = bf16(bits);
    }
}

/* A descriptor of PTX ISA 9.7.15.5.1: bits 0 to 13 the address, 16 to 29 the leading offset, 32 to
 * 45 the stride, all in units of 16 bytes; 62 and 63 the swizzle: 1 is that of 128 bytes. */
struct operand {
    uint32_t address, leading, stride;
};

operand operand_of(uint64_t descriptor) {
    if (descriptor >> 62 != 1)
        fail("an operand that is not in the 128-byte swizzle: not emulated");
    if (descriptor & (uint64_t)0x3FFFC000C000C000)
        fail("an operand's descriptor with bits that must be 0");
    operand o = {(uint32_t)(descriptor & 0x3FFF) << 4, (uint32_t)(descriptor >> 16 & 0x3FFF) << 4,
                 (uint32_t)(descriptor >> 32 & 0x3FFF) << 4};
    return o;
}

/* out[n][k] of an operand that has 16 k along its rows of 128 bytes: 8 rows, and `stride` further 8
 * more. */
void read_rows(block &b, const operand &o, unsigned rows, float (*out)[16]) {
    for (unsigned r = 0; r < rows; r++) {
        uint32_t at = o.address + r / 8 * o.stride + r % 8 * 128;
        read_eight(b, at, out[r], 1);
        read_eight(b, at + 16, out[r] + 8, 1);
    }
}

/* The same of one that has n along its rows, 64 of them, and `leading` further 64 more: a row for
 * each k, 8 of them, and `stride` further 8 more. */
void read_across(block &b, const operand &o, unsigned n, float (*out)[16]) {
    for (unsigned r = 0; r < n; r += 8) {
        for (unsigned k = 0; k < 16; k++)
            read_eight(b,
                       o.address + r / 64 * o.leading + r % 64 * 2 + k / 8 * o.stride + k % 8 * 128,
                       &out[r][k], 16);
    }
}

held_sums &hold(warp &w, float *d, unsigned n) {
    for (held_sums &h : w.held) {
        if (h.d == d) {
            if (h.n != n)
                fail("products of different shapes in the same registers");
            if (memcmp(d, h.garbage.data(), n * sizeof *d) != 0)
                fail("registers that a product adds to were written while it was under way");
            return h;
        }
        if (d < h.d + h.n && h.d < d + n)
            fail("products whose registers overlap");
    }
    w.held.push_back({d, n, 0, std::vector<float>(d, d + n), {}});
    held_sums &h = w.held.back();
    for (unsigned i = 0; i < n; i++)
        h.garbage.push_back(0x7FC00000U | (uint32_t)(random_bits() & 0xFFFF));
    memcpy(d, h.garbage.data(), n * sizeof *d);
    return h;
}

void multiply(block &b, warp &w, const warp_product &q, unsigned warp_in_group) {
    const product &first = q.p[0];
    unsigned n = 8 * first.blocks;
    static float x[256][16], a[16][16], c[16][256];
    if (first.across)
        read_across(b, operand_of(first.b_at), n, x);
    else
        read_rows(b, operand_of(first.b_at), n, x);
    if (first.a) {
        for (unsigned i = 0; i < WARP; i++) {
            for (unsigned r = 0; r < 4; r++) {
                for (unsigned h = 0; h < 2; h++)
                    a[i / 4 + r % 2 * 8][i % 4 * 2 + r / 2 * 8 + h] =
                        bf16(q.a[i][r] >> 16 * h & 0xFFFF);
            }
        }
    } else {
        operand o = operand_of(first.a_at);
        o.address += 2 * warp_in_group * o.stride; /* its 16 rows of 64 */
        read_rows(b, o, 16, a);
    }
    static float across[16][256];
    for (unsigned j = 0; j < n; j++)
        for (unsigned k = 0; k < 16; k++)
            across[k][j] = x[j][k];
    for (unsigned i = 0; i < 16; i++) {
        for (unsigned j = 0; j < n; j++)
            c[i][j] = 0;
        for (unsigned k = 0; k < 16; k++)
            for (unsigned j = 0; j < n; j++)
                c[i][j] += a[i][k] * across[k][j];
    }
    for (unsigned i = 0; i < WARP; i++) {
        const product &p = q.p[i];
        size_t at = 0;
        while (w.held[at].d != p.d)
            at++;
        held_sums &h = w.held[at];
        if (memcmp(p.d, h.garbage.data(), h.n * sizeof *p.d) != 0)
            fail("registers that a product adds to were written while it was under way");
        if (p.a && memcmp(p.a, q.a[i], sizeof q.a[i]) != 0)
            fail("registers that a product reads were written while it was under way");
        for (unsigned k = 0; k < h.n; k++) {
            float v = c[i / 4 + k / 2 % 2 * 8][k / 4 * 8 + i % 4 * 2 + k % 2];
            h.sums[k] = p.add ? h.sums[k] + v : v;
        }
        if (--h.under_way == 0) {
            memcpy(p.d, h.sums.data(), h.n * sizeof *p.d);
            w.held.erase(w.held.begin() + (ptrdiff_t)at);
        }
    }
}

void complete_products(block &b, warp &w, uint64_t before_group) {
    size_t done = 0;
    unsigned warp_in_group = w.lanes[0].thread / WARP % 4;
    while (done < w.products.size() && w.products[done].group < before_group)
        multiply(b, w, w.products[done++], warp_in_group);
    w.products.erase(w.products.begin(), w.products.begin() + (ptrdiff_t)done);
}

} // namespace

/* Each begins where all lanes have come. */
void product_fence() {
    meet_warp(SYNC, ~0U);
    g.w->fenced = true;
}

void product_begin(const product &p) {
    g.l->p = p;
    if (p.a)
        memcpy(g.l->product_a, p.a, sizeof g.l->product_a);
    uint32_t all[WARP];
    warp_gather(0, all);
    warp &w = *g.w;
    own_memory own;
    if (++w.n_products % WARP != 1)
        return; /* the first to go on does it for all */
    if (!w.fenced)
        fail("products that do not begin with a fence");
    w.products.emplace_back();
    warp_product &q = w.products.back();
    q.group = w.product_group;
    for (unsigned i = 0; i < WARP; i++) {
        const lane &l = w.lanes[i];
        q.p[i] = l.p;
        memcpy(q.a[i], l.product_a, sizeof q.a[i]);
        if (l.p.b_at != p.b_at || l.p.blocks != p.blocks || l.p.add != p.add ||
            (!p.a && l.p.a_at != p.a_at))
            fail("lanes of a warp begin different products");
        hold(w, l.p.d, 4 * p.blocks).under_way++;
    }
}

void product_commit() {
    meet_warp(SYNC, ~0U);
    warp &w = *g.w;
    own_memory own;
    if (g.l->thread % WARP)
        return;
    w.product_group++;
    w.fenced = false;
    due_at(g.round + delay()).events.push_back({g.b, nullptr, &w, w.product_group, nullptr});
    g.n_waiting_events++;
}

void product_wait(unsigned groups) {
    meet_warp(SYNC, ~0U);
    warp &w = *g.w;
    own_memory own;
    complete_products(*g.b, w, w.product_group > groups ? w.product_group - groups : 0);
}

void fail(const char *what) {
    printf("Bail out! emulator: %s, in round %llu", what, (unsigned long long)g.round);
    if (g.l)
        printf(", thread %u of block %u", g.l->thread, g.b->number);
    printf("\n%s", describe().c_str());
    fflush(stdout);
    _Exit(1);
}

/* ---- launching ---- */

void seed(uint64_t seed) {
    random_state = seed * 0x2545F4914F6CDD1D + 1;
}

namespace {

void make_block(block &b, unsigned number, index3 blocks, uint8_t *stack) {
    b = block();
    b.number = number;
    b.index = {number % blocks.x, number / blocks.x % blocks.y, number / blocks.x / blocks.y};
    b.memory.resize(g.shared_bytes + 1024);
    b.shared = (uint8_t *)(((uintptr_t)b.memory.data() + 1023) & ~(uintptr_t)1023);
    fill_with_garbage(b.shared, g.shared_bytes);
    b.warps.resize(g.threads / WARP);
    for (unsigned t = 0; t < g.threads; t++, stack += STACK_BYTES) {
        warp &w = b.warps[t / WARP];
        if (t % WARP == 0)
            w.lanes.resize(WARP);
        lane &l = w.lanes[t % WARP];
        l.thread = t;
        l.stack = stack;
        THREADS_ONLY(l.as_thread = __tsan_create_fiber(0);)
        l.f.begin(l.stack, STACK_BYTES, enter_fiber);
    }
}

/* What was stored and copied becomes visible; g.blocks go. */
void end_blocks() {
    g.l = nullptr;
    while (g.n_waiting_events) {
        complete_what_is_due();
        g.round++;
    }
#ifdef NB_EMULATOR_THREADS
    for (block &b : g.blocks) {
        for (warp &w : b.warps) {
            for (lane &l : w.lanes)
                __tsan_destroy_fiber(l.as_thread);
        }
    }
#endif
    g.blocks.clear();
}

} // namespace

void start_launch_after() {
    g.after_may_begin = true;
}

void wait_for_launch_before() {
    if (g.is_first)
        wait_for(LAUNCH);
    happens_after(&g);
}

bool launch(index3 blocks, unsigned threads, size_t shared_bytes, bool together,
            void (*body)(const void *), const void *argument, const std::function<void()> &before) {
    enum { MOST_AT_ONCE = 1024 }; /* threads, of a launch that is not together */
    unsigned n = blocks.x * blocks.y * blocks.z, most = together ? n : MOST_AT_ONCE / threads;
    most = most < 1 ? 1 : most > n ? n : most;
    if (threads % WARP)
        fail("a block of part of a warp");
    uint8_t *&stacks = stacks_of[depth].p;
    size_t &n_stacks = stacks_of[depth].n;
    if ((size_t)most * threads > n_stacks) {
        if (stacks) {
#ifdef ADDRESS_SANITIZER
            /* The address sanitizer keeps what it knew of the stacks; other memory comes there. */
            __asan_unpoison_memory_region(stacks, n_stacks * STACK_BYTES);
#endif
            munmap(stacks, n_stacks * STACK_BYTES);
        }
        n_stacks = (size_t)most * threads;
        stacks = (uint8_t *)mmap(nullptr, n_stacks * STACK_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED)
            fail("no memory for stacks");
    }
    own_memory own;
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; i++) {
        order[i] = i;
        std::swap(order[i], order[random_below(i + 1)]);
    }
    g.threads = threads;
    g.shared_bytes = shared_bytes;
    g.body = body;
    g.argument = argument;
    g.round = 1;
    g.due_in.resize(AHEAD);
    g.after_may_begin = false;
    THREADS_ONLY(g.as_thread = __tsan_get_current_fiber();)
    place.grid = blocks;
    place.threads = {threads, 1, 1};
    for (unsigned first = 0; first < n;) {
        unsigned at_once = together ? n : 1 + random_below(most);
        at_once = at_once > n - first ? n - first : at_once;
#ifdef ADDRESS_SANITIZER
        /* A fiber's first function never returned. */
        __asan_unpoison_memory_region(stacks, (size_t)at_once * threads * STACK_BYTES);
#endif
        g.blocks.resize(at_once);
        for (unsigned i = 0; i < at_once; i++)
            make_block(g.blocks[i], order[first + i], blocks,
                       stacks + (size_t)i * threads * STACK_BYTES);
        if (before && first == 0) {
            g.is_first = true;
            schedule();
            g.is_first = false;
            grid mine = grid();
            thread_place my_place = place;
            std::swap(mine, g);
            depth++;
            before();
            depth--;
            std::swap(mine, g);
            place = my_place;
        }
        schedule();
        happens_after(&g);
        end_blocks();
        first += at_once;
    }
    return g.after_may_begin;
}

} // namespace emulator
