/* How the CUDA backend holds a matrix in device memory. Pure C: the planner and the tests use it
 * without a GPU, kernels include it.
 *
 * A matrix W [rows, columns] is cut into tiles of 16 rows, and a tile's columns into chunks of 64,
 * which is one bitsandbytes block (or a part of one) of each of the 16 rows. A chunk's codes are
 * 512 bytes, 16 for each lane of a warp, and are the A operands of four mma.m16n8k16: byte b of
 * 32-bit word j of lane l holds the two weights of register a[b] of step j,
 *
 *     row    = g + 8 * (b & 1)             g = l / 4, q = l % 4
 *     column = 16 q + 4 j + 2 (b >> 1) + i   i = 0: high nibble, 1: low nibble, as the checkpoint
 * has it
 *
 * so that the B operands of a lane for the whole chunk are 16 neighbours of x, [16 q, 16 q + 16),
 * in their natural order. (An mma's own k index, 8 h + 2 q + i in step j, stands for column 16 q +
 * 4 j + 2 h + i: NB_CUDA_K_OF below. Operands that the tensor cores read from shared memory are
 * stored permuted by it.)
 *
 * Chunks are grouped in units, what a kernel streams at a time: a unit is 16 rows by
 * `unit_chunks` chunks, self-contained and a multiple of 16 bytes:
 *
 *     NF4 / FP4, double quantized:  f32 nested[2][n_nested]  nested absmax, of rows 0-7 and 8-15
 *                                   f32 offset[2]            the mean, of rows 0-7 and 8-15
 *                                   padding to 16 bytes
 *                                   u8  absmax_code[unit_chunks][16]
 *                                   u8  codes[unit_chunks][512]
 *     NF4 / FP4, absmax in f32:     f32 absmax[unit_chunks][scales_per_chunk][16]: with two, the
 *                                   first is of columns 0-31 of the chunk, the second of 32-63
 *                                   u8  codes[unit_chunks][512]
 *     bf16:                         u16 w[unit_chunks][32 lanes][32]: 32-bit word 4 j + b of a
 *                                   lane is a[b] of step j, i = 0 in its low half
 *
 * The scale of row r, chunk c (counted in the row) is absmax(r, c): with double quantization
 * nested_values[absmax_code] * nested[half][slot] + offset[half], each operation rounded,
 * half = r in tile / 8, slot = NB_CUDA_SLOT. Units of a tile follow one another, then comes the
 * next tile. Rows and columns beyond the matrix hold codes that stand for zero.
 *
 * The rows of a tile need not be neighbours in the checkpoint: `order` says which they are, so that
 * what belongs together (a gate and its up, the two of a rotary pair) is in rows g and g + 8, which
 * are in one lane's accumulators.
 */
#ifndef NB_BACKEND_CUDA_LAYOUT_H
#define NB_BACKEND_CUDA_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    NB_CUDA_TILE = 16,         /* rows */
    NB_CUDA_CHUNK = 64,        /* columns */
    NB_CUDA_CHUNK_CODES = 512, /* bytes */
    NB_CUDA_UNIT_CHUNKS = 32,  /* at most, of 4-bit units; bf16 units have at most 8 */
    NB_CUDA_BF16_UNIT_CHUNKS = 8,
};

enum nb_cuda_kind {
    NB_CUDA_NESTED, /* 4 bits, absmax in 8-bit codes */
    NB_CUDA_ABSMAX, /* 4 bits, absmax in f32 */
    NB_CUDA_BF16,
};

enum nb_cuda_order {
    NB_CUDA_NATURAL, /* tile t: rows 16 t … 16 t + 15 */
    NB_CUDA_GATE_UP, /* tile t: rows 8 t … 8 t + 7 of gate, then the same of up: 2 F rows in all */
    NB_CUDA_ROTARY, /* of each head of d rows, tile m: rows 8 m … + 7, then d / 2 + 8 m … + 7 */
};

/* The shape of a matrix in this layout; nb_cuda_shape computes it. */
struct nb_cuda_shape {
    enum nb_cuda_kind kind;
    int32_t rows, columns;     /* of the matrix; in GATE_UP rows counts both */
    int32_t n_tiles, n_chunks; /* n_chunks: with padding, n_units * unit_chunks */
    int32_t n_units;           /* of a tile */
    int32_t unit_chunks;
    int32_t block_chunks;     /* chunks that share one absmax code: block / 64, at least 1 */
    int32_t scales_per_chunk; /* 1, or 2 where blocks are of 32 (NB_CUDA_ABSMAX alone) */
    int32_t row_blocks;       /* absmax values of a row in the checkpoint: columns / block */
    int32_t n_nested;         /* of NB_CUDA_NESTED: values for each half of a unit */
    uint32_t scale_bytes;     /* offset in a unit of absmax_code (NESTED) or absmax (ABSMAX) */
    uint32_t code_bytes;      /* offset in a unit of codes or w */
    uint32_t unit_bytes;
    uint64_t bytes; /* n_tiles * n_units * unit_bytes */
};

/* The nested value of row r (of its tensor) and chunk c of it, within its half of the unit whose
 * first row (of that half, in the tensor) is r0 and whose first chunk is c0. NB_NESTED_BLOCK is
 * 256. */
#define NB_CUDA_SLOT(s, r, c, r0, c0)                                                              \
    (((r) * (s)->row_blocks + (c) / (s)->block_chunks) / 256 -                                     \
     ((r0) * (s)->row_blocks + (c0) / (s)->block_chunks) / 256)

/* The column, in a chunk, that k index kk (0..15) of step j stands for. */
#define NB_CUDA_K_OF(j, kk) (16 * ((kk) / 2 % 4) + 4 * (j) + 2 * ((kk) / 8) + (kk) % 2)

/* The shape of a matrix of that kind; `block` (of NESTED and ABSMAX) is how many weights share an
 * absmax, a power of two from 32 on. false where the kind cannot hold it: NESTED wants blocks of 64
 * and more that divide the columns, ABSMAX columns that are a multiple of 32; nothing may overflow.
 *
 * Units have as few chunks of padding as can be: n_units is the number of chunks over the most that
 * a unit may have, rounded up, and unit_chunks their number over n_units, rounded up. */
bool nb_cuda_shape(enum nb_cuda_kind kind, int32_t rows, int32_t columns, int32_t block,
                   struct nb_cuda_shape *out);

/* ---- what a matrix is made of, and making it on the host ---- */

struct nb_matrix;

/* One matrix of this layout from one to three of a model, below one another. */
struct nb_cuda_source {
    const struct nb_matrix *parts[3]; /* alike in columns */
    int32_t n_parts;
    enum nb_cuda_order order; /* GATE_UP: of two parts with as many rows each. ROTARY: of the first
                               * n_rotary parts, whose heads have head_rows rows, a multiple of 16;
                               * the other parts are NATURAL */
    int32_t n_rotary, head_rows;
};

/* The row that row i (0 to 15) of a tile is, and the part that it is in, in *part; -1 if it is
 * padding. Half a tile never lies in two parts unless a part's rows are no multiple of 8. */
int32_t nb_cuda_row(const struct nb_cuda_source *source, int32_t tile, int i, int32_t *part);

/* The shape for n sources that differ in nothing but their weights, experts for example: the kind
 * that keeps most of what they have, NESTED, then ABSMAX, then BF16 (of floats, and where 4-bit
 * blocks do not meet chunks). Parts below one another are NESTED only if all but the last end where
 * a nested block does, so that NB_CUDA_SLOT may count rows through the whole matrix. nested_values:
 * [256], what NESTED has its codes mean. */
void nb_cuda_shape_of(const struct nb_cuda_source *sources, size_t n, const float *nested_values,
                      struct nb_cuda_shape *out);

/* Tiles [first, first + n) of a source whose shape is `shape`, plainly: out [n * n_units *
 * unit_bytes]. The reference of the kernels that do this when a model is loaded. */
void nb_cuda_repack(const struct nb_cuda_source *source, const struct nb_cuda_shape *shape,
                    int32_t first, int32_t n, uint8_t *out);

/* Row i of a tile as f32 [columns], from all of a matrix in this layout; values: [16], of the type
 * of its codes. */
void nb_cuda_unpack(const struct nb_cuda_shape *shape, const struct nb_cuda_source *source,
                    const uint8_t *data, const float *values, const float *nested_values,
                    int32_t tile, int i, float *out);

#ifdef __cplusplus
}
#endif

#endif
