/* What the warps of decode.cu share: the step's parameters, a block's shared memory, and the order
 * in which units of weights pass through the ring. decode.cu tells how it all works together.
 */
#ifndef NB_BACKEND_CUDA_DECODE_STATE_CUH
#define NB_BACKEND_CUDA_DECODE_STATE_CUH

#include "backend/backend.h"
#include "backend/cuda/decode_words.cuh"
#include "backend/cuda/device.h"

enum {
    MMA_WARPS = 16,
    MMA_THREADS = MMA_WARPS * 32,
    PRODUCER = MMA_WARPS, /* warp that fills the ring */
    FINISHERS = 2,        /* warps that complete tiles */
    FINISHER = PRODUCER + 1,
    ROUTER = FINISHER + FINISHERS, /* warp that chooses experts */
    THREADS = 32 * (ROUTER + 1),
    MAX_TOKENS = NB_CUDA_DECODE_TOKENS,
    MAX_LAYERS = 128,
    MAX_OWN = 4,       /* tiles of the residual stream that a block holds */
    MAX_LIST = 128,    /* experts that a step may use in a layer */
    MAX_CHOSEN = 16,   /* experts of a token */
    FEW_EXPERTS = 32,  /* see choose_of_few */
    MAX_SCORES = 1024, /* of the router, for all tokens */
    MAX_HEAD = 128,    /* width */
    MAX_GROUP = 8,     /* query heads that share a KV head */
    MAX_SPLITS = 32,   /* of a context */
    MAX_STAGES = 16,
    EXCHANGES = 5, /* see struct exchange */
    SLOTS = 4,     /* tiles whose sums wait for a finisher */
    /* The table lies at this address of shared memory, so that byte permutes can make addresses of
     * entries; what the driver keeps at the beginning is at most SHARED_BASE. */
    TABLE_AT = 65536,
    TABLE_BYTES = 65536,
    SHARED_BASE = 1024,
    ROWS = NB_CUDA_TILE,
};

/* The products of a layer, and the last. */
enum { QKV, O, GATE_UP, DOWN, HEAD, N_PHASES };

/* A matrix, as units of it are read. All layers share it; only where the data is differs. */
struct matrix {
    int32_t kind, n_tiles, n_units, unit_chunks;
    int32_t chunks;     /* with anything in them: columns / 64 */
    int32_t shift;      /* log2 of chunks that share a scale */
    int32_t row_blocks; /* scales of a row */
    int32_t n_nested;   /* nested values of half a unit */
    int32_t aligned;    /* 8 rows begin where a nested block does, wherever they are */
    uint32_t skew;      /* 127 or 0: see skew_of */
    uint32_t scale_bytes, code_bytes, unit_bytes;
    uint64_t bytes;
};

/* How far from the beginning of a stage a unit lies that begins `at` bytes from the matrix's
 * beginning: as far as it begins from a line of 128 bytes in memory. A bulk copy that has to shift
 * lines is slower by a tenth. (An expert begins at a line.) */
__device__ __forceinline__ uint32_t skew_of(const matrix &m, uint32_t at) {
    return at & m.skew;
}

struct layer_pointers {
    const uint8_t *qkv, *o, *gate_up, *down;
    const float *attention_norm, *expert_norm, *router, *q_norm, *k_norm;
};

/* What blocks pass one another, in memory that stays in the L2 cache. There are EXCHANGES of each,
 * NOTHING when a step begins; layer l uses number l % EXCHANGES. The router of layer l knows that
 * all have read what belongs to layer l - 1, and clears its block's share of that. A fence follows
 * a layer later, when nobody waits for it (between stores and a fence lie some 5 us while weights
 * are on their way). What the block's finishers make of layer l + 2's down is after the fence, and
 * all blocks read it in layer l + 3: so layer l + 4 may use the words again. x here is x times the
 * weights of the norm that follows, before it is divided by its root mean square: that is a factor
 * of a token alone and is applied to sums. */
struct exchange {
    __nv_bfloat16 *x_attention; /* [T, D] */
    float *squares_attention;   /* [T, D / 16] sums of x^2, of each tile */
    float *qkv;                 /* [T, (H + 2 G) d] natural order, before norm and rope */
    float *part;                /* of splits: [T, H, S, d] sums of values, [T, H, S, 2] maximum, sum */
    __nv_bfloat16 *attended;    /* [T, H d] */
    __nv_bfloat16 *x_expert;    /* [T, D] */
    float *squares_expert;      /* [T, D / 16] */
    float *scores_of_tile;      /* [D / 16, T, E] what a tile's rows add to the router's logits */
    float *scores;              /* [T, E] */
    __nv_bfloat16 *inner;       /* [T K, F] silu(gate) up, times the expert's weight */
};

struct params {
    struct nb_cuda_model m;
    struct nb_cuda_step s;
    struct matrix matrices[N_PHASES];
    struct exchange exchange;                /* number 0 */
    uint32_t exchange_bytes;                 /* from each to the next */
    int32_t n_splits;                        /* of each context */
    int32_t layers_values;                   /* which table the 4-bit codes are of */
    uint32_t zero;                           /* 0: see when_there */
    uint32_t stage_bytes, n_stages, n_front; /* stages of the ring; those before the table */
    unsigned long long *trace;
    struct layer_pointers layers[MAX_LAYERS];
};

template <class T> __device__ __forceinline__ T *later(T *of_first, uint32_t bytes) {
    return (T *)((uint8_t *)of_first + bytes);
}

__device__ __forceinline__ exchange exchange_of(const params &p, int32_t layer) {
    const exchange &x = p.exchange;
    uint32_t n = (uint32_t)layer % EXCHANGES * p.exchange_bytes;
    return {later(x.x_attention, n),    later(x.squares_attention, n), later(x.qkv, n),
            later(x.part, n),           later(x.attended, n),          later(x.x_expert, n),
            later(x.squares_expert, n), later(x.scores_of_tile, n),    later(x.scores, n),
            later(x.inner, n)};
}

/* Which part of which token's context. */
struct attention_unit {
    int32_t t, head, split;   /* KV head */
    int32_t first, base;      /* positions [first, base) are in pages, the rest of this step */
    int32_t page, n_pages;    /* of the split */
    int32_t n_new, new_first; /* tokens of this step up to t of its sequence, the first in reach */
    int32_t new_page;         /* where t goes */
};

/* A block's shared memory, but for the ring and the table. */
struct __align__(128) shared {
    uint64_t full[MAX_STAGES], empty[MAX_STAGES];
    uint64_t slot_full[SLOTS], slot_free[SLOTS];
    uint64_t list_ready, weights_ready, scored; /* scored: by the finishers, of o */
    float nested_values[256 * 8]; /* eight copies of each: no two rows of lanes meet in a bank */
    __align__(16) float rope[MAX_TOKENS][MAX_HEAD / 2][2]; /* cosine, sine */
    float x[MAX_OWN][ROWS][MAX_TOKENS]; /* the block's rows of the residual stream */
    float scratch[FINISHERS][ROWS][MAX_TOKENS];
    float inverse_rms[FINISHERS + 1][MAX_TOKENS]; /* the last: the router's */
    /* Of the router. `list` are the experts that any token chose, ascending; pair[i][t] is t K + k
     * where expert list[i] is the k-th choice of token t, else -1. */
    __align__(16) float scores[MAX_SCORES];
    float weight[MAX_TOKENS * MAX_CHOSEN]; /* [t K + k] */
    int32_t n_list;
    int32_t n_own[N_PHASES];        /* how many tiles of each phase the block has */
    int32_t share_of[FEW_EXPERTS + 1]; /* and of gate and up of so many experts */
    uint32_t used[MAX_SCORES / MAX_TOKENS / 32];
    uint8_t list[MAX_LIST], chosen[MAX_TOKENS * MAX_CHOSEN];
    int8_t pair[MAX_LIST][MAX_TOKENS];
    int32_t numbers[32];      /* 0, 1, 2, ... */
    int32_t group;            /* query heads of a KV head */
    int32_t to_values;        /* from a page's keys, in elements */
    uint32_t tile[MMA_WARPS]; /* that each warp multiplied so far */
    int32_t position[MAX_TOKENS], sequence[MAX_TOKENS], logits_row[MAX_TOKENS];
    /* Of attention. */
    __align__(16) __nv_bfloat16 q[MAX_GROUP][MAX_HEAD + 8];
    __align__(16) __nv_bfloat16 keys[MAX_TOKENS][MAX_HEAD]; /* of this step */
    __align__(16) __nv_bfloat16 values[MAX_TOKENS][MAX_HEAD];
    struct attention_unit first_unit; /* of the block, in each layer; others are found anew */
    struct attention_unit units[MMA_WARPS];
    __align__(16) float maximum_sum[MMA_WARPS][MAX_GROUP][2];
};

static_assert(sizeof(float) * MMA_WARPS * MMA_WARPS <= sizeof(shared::q), "see attend");
static_assert(sizeof(shared) <= TABLE_AT - SHARED_BASE, "no room before the table");

/* A place in the ring: a stage, its address, and how often the ring was gone around. */
struct ring {
    uint32_t stage, turn, at;
    uint32_t begin; /* where stage 0 is */

    __device__ __forceinline__ void next(const params &p) {
        at += p.stage_bytes;
        if (++stage == p.n_front)
            at = TABLE_AT + TABLE_BYTES;
        if (stage == p.n_stages) {
            stage = 0;
            turn ^= 1;
            at = begin;
        }
    }
};

/* A build with NB_DECODE_TRACE notes when things happen, in ns: NOTES of each block and layer. mma
 * warps (by the first of each block, unless said): 0-6 when they began with q, k and v; attention;
 * o; the list of experts; gate and up; down; and ended; 8-13 when the operands of those were there,
 * 14 when the list was. Attention: 27 keys and values asked for, 28 the last warp has its head of
 * queries and 29 has it ready, 24 all have, 25 attended, 30 all have, 31 stored, 26 all have. The
 * router: 16 scores added up, 17 list made, 18 and 19 experts' weights, 20 and 21 words of the last
 * layer cleared. The producer: 22 it has the list. Finisher f at phase P: 32 + 8 P + 4 f and so on:
 * all warps' sums are there, added up, passed on, and the root mean square is known. */
enum { NOTES = 64 };

#ifdef NB_DECODE_TRACE
__device__ __forceinline__ void note(const params &p, int32_t layer, int32_t i) {
    if (p.trace && layer >= 0 && i < NOTES) {
        unsigned long long now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
        p.trace[((size_t)blockIdx.x * (p.m.n_layers + 1) + layer) * NOTES + i] = now;
    }
}
#else
__device__ __forceinline__ void note(const params &, int32_t, int32_t) {
}
#endif

/* The first rows, in their tensor, of halves of a phase's tiles. */
struct tile_rows {
    int32_t phase, n_tiles; /* n_tiles: of one expert */
    int32_t head_width, rotary_tiles;

    __device__ __forceinline__ int32_t operator()(int32_t tile, int half) const {
        if (phase == GATE_UP)
            return 8 * (tile % n_tiles);
        int32_t tiles = head_width / ROWS;
        if (phase != QKV || tile >= rotary_tiles)
            return ROWS * tile + 8 * half;
        return tile / tiles * head_width + half * (head_width / 2) + 8 * (tile % tiles);
    }
};

__device__ __forceinline__ tile_rows rows_of(const params &p, int32_t phase) {
    return {phase, p.matrices[phase].n_tiles, p.m.head_width,
            (p.m.n_heads + p.m.n_kv_heads) * p.m.head_width / ROWS};
}

/* How many of n things this block has, where thing i goes to block i % gridDim.x. */
__device__ inline int32_t own_share(int32_t n) {
    return ((int32_t)gridDim.x - 1 - (int32_t)blockIdx.x + n) / (int32_t)gridDim.x;
}

__device__ inline int32_t own_index(int32_t i) {
    return (int32_t)blockIdx.x + i * (int32_t)gridDim.x;
}

/* Units of attention go to the last blocks first: these have the fewest tiles, of q, k and v before and of o
 * after it. How many of n a block has, and its i-th. */
__device__ __forceinline__ int32_t attention_share(int32_t n) {
    return ((int32_t)blockIdx.x + n) / (int32_t)gridDim.x;
}

__device__ __forceinline__ int32_t attention_index(int32_t i) {
    return (i + 1) * (int32_t)gridDim.x - 1 - (int32_t)blockIdx.x;
}

__device__ __forceinline__ attention_unit attention_unit_of(const params &p, const shared &sh,
                                                            int32_t index) {
    attention_unit u;
    int32_t G = p.m.n_kv_heads, S = p.n_splits;
    u.split = index % S;
    u.head = index / S % G;
    u.t = index / (S * G);
    int32_t position = sh.position[u.t], window = p.m.window;
    u.first = window && position >= window ? position - window + 1 : 0;
    u.n_new = 0;
    u.new_first = 0;
    u.base = position;
#pragma unroll 1
    for (int32_t t = u.t; t >= 0; t--) {
        if (sh.sequence[t] != sh.sequence[u.t])
            continue;
        u.n_new++;
        u.base = sh.position[t];
    }
    if (u.base < u.first)
        u.new_first = u.first - u.base;
    int32_t from = u.first / NB_PAGE_TOKENS,
            all = u.base > u.first ? (u.base - 1) / NB_PAGE_TOKENS - from + 1 : 0;
    u.page = from + all * u.split / S;
    u.n_pages = from + all * (u.split + 1) / S - u.page;
    u.new_page = __ldg(p.s.pages + (size_t)sh.sequence[u.t] * p.s.max_pages +
                       position / NB_PAGE_TOKENS);
    return u;
}

/* What the block attends to first, if anything: has no pages else. */
__device__ inline void first_unit_of(const params &p, shared &sh) {
    if (attention_share(p.s.n_tokens * p.m.n_kv_heads * p.n_splits) > 0)
        sh.first_unit = attention_unit_of(p, sh, attention_index(0));
    else
        sh.first_unit.n_pages = 0;
}

#endif
