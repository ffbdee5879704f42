/* Runs a grid's threads on one CPU thread, each a fiber, in an order that a seed decides: what a
 * GPU may do and seldom does, happens here in every run. For kernels written on a few primitives
 * (decode_ptx.cuh, ptx.cuh, wgmma.cuh); no part of the product.
 *
 *   - Warps run in random order, until nothing in them can go on or for a while; some lag far
 *     behind the rest for long times, blocks likewise. A warp's lanes run one after the other, from
 *     a random one, and wait for one another only where the kernel says so.
 *   - A store to global memory by store_word becomes visible to other threads at a random time, out
 *     of order except at one address; a fence waits for all that the block stored before it.
 *   - A bulk copy destroys what was at its target when it is begun, and is complete at a random
 *     time. That a thread's read comes before a copy, only its own reads_before_copies() ensures.
 *   - Copies of 16 bytes by a thread, and of boxes by tensor maps, likewise: who does not wait
 * reads what was destroyed. Products of warpgroups are done at a random time after they are begun;
 * the registers that they add to hold no numbers until then, and shared memory that threads wrote
 * is not there for them before a fence. Warps of a warpgroup do not wait for one another.
 *   - Shared memory begins as garbage that the seed decides.
 *
 * So a kernel that is right gives the same bits with every seed. What can be found by looking is an
 * error at once: collectives in which lanes differ, addresses beyond shared memory, barriers that
 * get too many arrivals, copies to where a read may still be under way, a grid in which nothing can
 * go on. Built with the thread sanitizer, it reports data races of threads, too.
 */
#ifndef NB_TEST_EMULATOR_H
#define NB_TEST_EMULATOR_H

#include <functional>
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
 * order, and others when those have ended. `before`: null, or what runs a launch that this one need
 * not wait for until its threads say so: it is called when those that have begun have come that
 * far. Returns whether a thread said that the launch after may begin. */
bool launch(index3 blocks, unsigned threads, size_t shared_bytes, bool together,
            void (*body)(const void *), const void *argument,
            const std::function<void()> &before = nullptr);

[[noreturn]] void fail(const char *what);

/* ---- what threads call ---- */

enum { SYNC, ANY, MAX, MIN, SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, MMA, GATHER };
void warp_sync(uint32_t mask);
uint32_t warp_exchange(int kind, uint32_t mask, uint32_t x, uint32_t from);
void warp_gather(uint32_t x, uint32_t (&all)[32]); /* by all lanes: x of each */
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

/* Barrier `which` of the block, for `threads` threads of it; 0: all that have not ended. */
void block_meet(int which, unsigned threads);

/* Launches that overlap (griddepcontrol). */
void start_launch_after();
void wait_for_launch_before();

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
bool barrier_test(uint64_t *b, uint32_t parity);
void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint64_t *b);
void reads_before_copies(); /* fence.proxy.async */

/* Copies by a thread of 16 bytes, zeros after the first `bytes` (cp.async): what was at the target
 * is destroyed, and what comes is there at a random time, at the latest when the thread waits. */
void copy_16(uint32_t to, const void *from, uint32_t bytes);
void copy_commit();
void copy_wait(unsigned groups); /* until at most so many committed groups are under way */
void copy_wait_all();
void barrier_arrive_copied(uint64_t *b); /* an arrival when all that the thread copies is there */

/* A box of memory in up to 4 dimensions, for bulk copies: sizes and the box's in elements, strides
 * in bytes, that of dimension 0 being an element. */
struct box_map {
    uint64_t magic;
    const uint8_t *base;
    unsigned rank, element_bytes;
    bool swizzled; /* by 128 bytes */
    uint64_t size[4], stride[4];
    uint32_t box[4];
};
const uint64_t BOX_MAP_MAGIC = 0x6E6962626C656D61;
void copy_box(uint32_t to, const box_map &map, const int32_t (&at)[4], uint64_t *b);
void fence_async(); /* what threads wrote before is seen by products in shared memory */

/* Products of a warpgroup (wgmma): d [64, 8 blocks] in the threads' registers, bf16 operands. They
 * are done at a random time, in order, at the latest when the warp waits; until then d holds
 * garbage, and neither it nor a may be written. b: a descriptor, of [8 blocks, 16] or, `across`,
 * [16, 8 blocks]; a: four registers, or else a descriptor of [64, 16]. */
struct product {
    float *d;
    unsigned blocks;
    const uint32_t *a;
    uint64_t a_at, b_at;
    bool across, add;
};
void product_fence();
void product_begin(const product &p);
void product_commit();
void product_wait(unsigned groups);

/* A flag that says what its writer knows to be written; who finds 0 waits until it is not. */
void store_release(int32_t *p, int32_t v);
int32_t load_acquire(const int32_t *p);
int32_t atomic_add(int32_t *p, int32_t v);

/* Global memory that is written while others read it. A word of all ones is one that is waited for:
 * who loads it again and again goes on when it is something else. */
uint32_t load_word(const void *p);
void store_word(void *p, uint32_t v);
void fence();

} // namespace emulator

#endif
