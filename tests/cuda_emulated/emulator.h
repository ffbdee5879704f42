/* Runs a grid's threads on one CPU thread, each a fiber, in an order that a seed decides: what a
 * GPU may do and seldom does, happens here in every run. For kernels written on a few primitives
 * (decode_ptx.cuh); no part of the product.
 *
 *   - Warps run in random order, until nothing in them can go on or for a while; some lag far
 *     behind the rest for long times, blocks likewise. A warp's lanes run one after the other, from
 *     a random one, and wait for one another only where the kernel says so.
 *   - A store to global memory by store_word becomes visible to other threads at a random time, out
 *     of order except at one address; a fence waits for all that the block stored before it.
 *   - A bulk copy destroys what was at its target when it is begun, and is complete at a random
 *     time. That a thread's read comes before a copy, only its own reads_before_copies() ensures.
 *   - Shared memory begins as garbage that the seed decides.
 *
 * So a kernel that is right gives the same bits with every seed. What can be found by looking is an
 * error at once: collectives in which lanes differ, addresses beyond shared memory, barriers that
 * get too many arrivals, copies to where a read may still be under way, a grid in which nothing can
 * go on. Built with the thread sanitizer, it reports data races of threads, too.
 */
#ifndef NB_TEST_EMULATOR_H
#define NB_TEST_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

namespace emulator {

struct index3 {
    unsigned x, y, z;
};

/* Of the thread that runs. */
struct thread_place {
    index3 thread, block, threads, grid; /* the last two: of a block, and of the grid in blocks */
};
extern thread_place place;

/* Decides the next launches' order of things. */
void seed(uint64_t seed);

/* Runs body(argument) in each thread of a grid of blocks, each of so many threads, and returns when
 * all have ended. All blocks at once if `together` (a cooperative launch); else some, in random
 * order, and others when those have ended. */
void launch(index3 blocks, unsigned threads, size_t shared_bytes, bool together,
            void (*body)(const void *), const void *argument);

[[noreturn]] void fail(const char *what);

/* ---- what threads call ---- */

enum { SYNC, ANY, MAX, MIN, SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, MMA };
void warp_sync(uint32_t mask);
uint32_t warp_exchange(int kind, uint32_t mask, uint32_t x, uint32_t from);
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

/* Barrier `which` of the block, for `threads` threads of it; 0: all that have not ended. */
void block_meet(int which, unsigned threads);

/* Shared memory begins at address SHARED_BASE, as on sm_90. */
uint8_t *shared_memory();
uint32_t shared_address(const void *p);

/* The block's own memory for what `tag`, an address, stands for: __shared__ variables. */
void *shared_static(const void *tag, size_t bytes);
uint8_t *shared_at(uint32_t address, uint32_t bytes);
const uint8_t *shared_read(uint32_t address, uint32_t bytes); /* of what a bulk copy wrote */

/* Barriers in shared memory (mbarrier). */
void barrier_init(uint64_t *b, uint32_t count);
void barrier_arrive(uint64_t *b, uint32_t expected_bytes);
bool barrier_try(uint64_t *b, uint32_t parity); /* waits: true when it returns */
void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint64_t *b);
void reads_before_copies(); /* fence.proxy.async */

/* Global memory that is written while others read it. A word of all ones is one that is waited for:
 * who loads it again and again goes on when it is something else. */
uint32_t load_word(const void *p);
void store_word(void *p, uint32_t v);
void fence();

} // namespace emulator

#endif
