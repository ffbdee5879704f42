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
    STACK_BYTES = 96 * 1024,
    AHEAD = 4096,    /* rounds that a store or a copy may take, less one */
    REMEMBERED = 32, /* words that a lane found to be nothing */
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

enum wait { NONE, COLLECTIVE, PHASE, WORD, FENCE, MEETING, ENDED };
const char *const wait_names[] = {"nothing",         "its warp",   "a barrier's phase",
                                  "a global word",   "its stores", "its block's threads",
                                  "nothing any more"};

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
};

struct warp {
    std::vector<lane> lanes;
    unsigned lag; /* of 256: how many rounds it does nothing in */
    unsigned ended;
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
    std::vector<uint8_t> memory;
    uint8_t *shared;
    std::vector<std::pair<const void *, std::unique_ptr<uint8_t[]>>> statics;
    unsigned meeting[2], n_ended;
    uint64_t last_store; /* the round in which all that was stored is visible */
    std::unordered_map<const void *, pending_store> stores; /* the latest at an address */
};

struct copy {
    block *in;
    uint32_t to, bytes;
    const void *from;
    uint64_t *barrier;
};

struct due {
    std::vector<copy> copies;
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
uint8_t *stacks;
size_t n_stacks;

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

void complete_what_is_due() {
    due &d = due_at(g.round);
    for (const copy &c : d.copies) {
        memcpy(c.in->shared + (c.to - SHARED_BEGIN), c.from, c.bytes);
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
    g.n_waiting_events -= d.copies.size() + d.stores.size();
    d.copies.clear();
    d.stores.clear();
}

/* ---- scheduling ---- */

void enter_fiber() {
#ifdef ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &g.main_stack, &g.main_bytes);
#endif
    g.body(g.argument);
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
    case FENCE:
        return g.round >= l.round;
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
                for (lane &other : w.lanes)
                    if (other.waits == COLLECTIVE) {
                        try_collective(w, other.mask);
                        break;
                    }
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
    const lane *first = nullptr;
    for (unsigned i = 0; i < WARP; i++) {
        const lane &l = w.lanes[i];
        if (!(mask >> i & 1) || w.ended >> i & 1)
            continue;
        if (l.waits != COLLECTIVE)
            return;
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
        } else {
            l.x = all;
        }
        l.waits = NONE;
    }
}

void meet_warp(int kind, uint32_t mask) {
    lane &l = *g.l;
    l.kind = kind;
    l.mask = mask;
    l.waits = COLLECTIVE;
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
        if (l.nothing[i] != p)
            continue;
        l.nothing[i] = nullptr;
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

void launch(index3 blocks, unsigned threads, size_t shared_bytes, bool together,
            void (*body)(const void *), const void *argument) {
    enum { MOST_AT_ONCE = 4096 }; /* threads, of a launch that is not together */
    unsigned n = blocks.x * blocks.y * blocks.z, most = together ? n : MOST_AT_ONCE / threads;
    most = most < 1 ? 1 : most > n ? n : most;
    if (threads % WARP)
        fail("a block of part of a warp");
    if ((size_t)most * threads > n_stacks) {
        if (stacks)
            munmap(stacks, n_stacks * STACK_BYTES);
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
        schedule();
        happens_after(&g);
        end_blocks();
        first += at_once;
    }
}

} // namespace emulator
