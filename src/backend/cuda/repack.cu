/* Weights from a checkpoint's order into the layout of layout.h, and quantizing. None of this is
 * near a limit: 24.5 GB come over the bus at 55 GB/s, and leave here at memory speed.
 */
#include "backend/cuda/repack.h"

#include "backend/cuda/launch.cuh"
#include "backend/cuda/repack_ptx.cuh"
#include "backend/cuda/shared.cuh"
#include "quant/thresholds.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <float.h>

namespace {

enum { THREADS = 256, WARPS = THREADS / 32 };

/* Row of half h, place g, of tile t, as repack.h has it. */
__device__ int64_t row_of(const nb_cuda_repack_job &job, int32_t t, int h, int g) {
    if (job.order == NB_CUDA_GATE_UP)
        return 8 * (int64_t)t + g;
    if (job.order == NB_CUDA_ROTARY) {
        int32_t m = job.head_rows / 16;
        return (int64_t)(t / m) * job.head_rows + h * (job.head_rows / 2) + 8 * (t % m) + g;
    }
    return 16 * (int64_t)t + 8 * h + g;
}

/* Which part half h is of. */
__device__ int part_of(const nb_cuda_repack_job &job, int h) {
    return job.order == NB_CUDA_GATE_UP ? h : 0;
}

/* A warp does a chunk of a tile: lane 4 g + q makes its own 16 bytes of codes from 8 of row g and 8
 * of row g + 8. */
__device__ void pack_codes(const nb_cuda_repack_job &job, int32_t t, int32_t chunk, uint8_t *unit,
                           int lane) {
    const struct nb_cuda_shape &s = job.shape;
    int g = lane / 4, q = lane % 4;
    uint32_t zero = (uint32_t)(job.zero_code << 4 | job.zero_code) * 0x01010101u;
    uint2 half[2];
    for (int h = 0; h < 2; h++) {
        int64_t row = row_of(job, t, h, g);
        half[h] = make_uint2(zero, zero);
        if (row < job.rows && chunk * NB_CUDA_CHUNK < s.columns) {
            const uint8_t *codes = (const uint8_t *)job.weights[part_of(job, h)] +
                                   row * (s.columns / 2) + chunk * (NB_CUDA_CHUNK / 2) + 8 * q;
            half[h] = *(const uint2 *)codes;
        }
    }
    uint4 out = make_uint4(__byte_perm(half[0].x, half[1].x, 0x5140),
                           __byte_perm(half[0].x, half[1].x, 0x7362),
                           __byte_perm(half[0].y, half[1].y, 0x5140),
                           __byte_perm(half[0].y, half[1].y, 0x7362));
    ((uint4 *)(unit + s.code_bytes + (chunk % s.unit_chunks) * NB_CUDA_CHUNK_CODES))[lane] = out;
}

/* Lanes 0 to 15 do the scales of a row each; the warp of a unit's first chunk its nested values. */
__device__ void pack_nested(const nb_cuda_repack_job &job, int32_t t, int32_t chunk, uint8_t *unit,
                            int lane) {
    const struct nb_cuda_shape &s = job.shape;
    int32_t within = chunk % s.unit_chunks;
    if (lane < 16) {
        int64_t row = row_of(job, t, lane / 8, lane % 8);
        uint8_t code = 0;
        if (row < job.rows && chunk * NB_CUDA_CHUNK < s.columns)
            code = job.absmax_code[part_of(job, lane / 8)][row * s.row_blocks +
                                                           chunk / s.block_chunks];
        unit[s.scale_bytes + within * 16 + lane] = code;
    }
    if (within != 0)
        return;
    for (int i = lane; i < 2 * s.n_nested; i += 32) {
        int h = i / s.n_nested, slot = i % s.n_nested;
        int64_t first = row_of(job, t, h, 0) + job.first_row;
        int64_t at = (first * s.row_blocks + chunk / s.block_chunks) / 256 + slot;
        /* Values after the last block of the last row are padding. */
        int64_t end = ((job.first_row + job.rows) * s.row_blocks + 255) / 256;
        float value = 0;
        if (row_of(job, t, h, 0) < job.rows && at < end)
            value = job.nested[part_of(job, h)][at - job.nested_first];
        ((float *)unit)[i] = value;
    }
    if (lane < 2) {
        bool there = row_of(job, t, lane, 0) < job.rows;
        ((float *)unit)[2 * s.n_nested + lane] = there ? job.offset[part_of(job, lane)] : 0;
    }
    /* Padding up to absmax_code. */
    for (int i = 2 * s.n_nested + 2 + lane; i * 4 < (int)s.scale_bytes; i += 32)
        ((float *)unit)[i] = 0;
}

__device__ void pack_absmax(const nb_cuda_repack_job &job, int32_t t, int32_t chunk, uint8_t *unit,
                            int lane) {
    const struct nb_cuda_shape &s = job.shape;
    int half = lane / 16, r = lane % 16, width = NB_CUDA_CHUNK / s.scales_per_chunk;
    if (half >= s.scales_per_chunk)
        return;
    int64_t row = row_of(job, t, r / 8, r % 8), column = chunk * NB_CUDA_CHUNK + half * width;
    float value = 0;
    if (row < job.rows && column < s.columns)
        value = job.absmax[part_of(job, r / 8)]
                          [((job.first_row + row) * s.columns + column) / job.block -
                           job.absmax_first];
    float *out = (float *)(unit + s.scale_bytes);
    out[((chunk % s.unit_chunks) * s.scales_per_chunk + half) * 16 + r] = value;
}

__global__ void __launch_bounds__(THREADS) repack_4bit(const nb_cuda_repack_job job) {
    const struct nb_cuda_shape &s = job.shape;
    int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (warp >= (int64_t)job.n_tiles * s.n_chunks)
        return;
    int32_t t = (int32_t)(warp / s.n_chunks), chunk = (int32_t)(warp % s.n_chunks),
            lane = threadIdx.x % 32;
    uint8_t *unit = job.out + ((int64_t)t * s.n_units + chunk / s.unit_chunks) * s.unit_bytes;
    if (job.weights[0])
        pack_codes(job, t, chunk, unit, lane);
    if (s.kind == NB_CUDA_NESTED && job.absmax_code[0])
        pack_nested(job, t, chunk, unit, lane);
    if (s.kind == NB_CUDA_ABSMAX && job.absmax[0])
        pack_absmax(job, t, chunk, unit, lane);
}

__device__ float load(const float *x) {
    return *x;
}
__device__ float load(const __half *x) {
    return __half2float(*x);
}
__device__ float load(const __nv_bfloat16 *x) {
    return __bfloat162float(*x);
}

/* Rounded as nb_f32_to_bf16 does it; a NaN keeps its sign and first bits. */
__device__ uint32_t to_bf16(float x) {
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return bits >> 16 | 0x40;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) repack_floats(const nb_cuda_repack_job job) {
    const struct nb_cuda_shape &s = job.shape;
    int64_t warp = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (warp >= (int64_t)job.n_tiles * s.n_chunks)
        return;
    int32_t t = (int32_t)(warp / s.n_chunks), chunk = (int32_t)(warp % s.n_chunks),
            lane = threadIdx.x % 32;
    int g = lane / 4, q = lane % 4;
    uint32_t words[16];
    for (int h = 0; h < 2; h++) {
        int64_t row = row_of(job, t, h, g);
        const T *w = (const T *)job.weights[part_of(job, h)] + row * s.columns +
                     chunk * NB_CUDA_CHUNK + 16 * q;
        bool there = row < job.rows && chunk * NB_CUDA_CHUNK < s.columns;
#pragma unroll
        for (int i = 0; i < 8; i++) { /* columns 2 i and 2 i + 1: word 4 (i / 2) + 2 (i % 2) + h */
            uint32_t low = there ? to_bf16(load(w + 2 * i)) : 0,
                     high = there ? to_bf16(load(w + 2 * i + 1)) : 0;
            words[4 * (i / 2) + 2 * (i % 2) + h] = low | high << 16;
        }
    }
    uint8_t *unit = job.out + ((int64_t)t * s.n_units + chunk / s.unit_chunks) * s.unit_bytes;
    uint4 *out = (uint4 *)(unit + (chunk % s.unit_chunks) * 2048 + lane * 64);
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
}

/* ---- quantizing: see src/quant/quantize.c for what is done and why ---- */

struct tables {
    float nf4[15], fp4[7];
    int steps[7];
};

/* |x|, 0 where that is below 2^-126 or x is NaN. */
__device__ float magnitude(float x) {
    x = fabsf(x);
    return x >= FLT_MIN ? x : 0;
}

__device__ uint32_t code_of(const tables &t, int fp4, float x) {
    uint32_t code = 0;
    if (!fp4) {
#pragma unroll
        for (int i = 0; i < 15; i++)
            code += x > t.nf4[i];
        return code;
    }
    code = x < 0 ? 8 : 0;
#pragma unroll
    for (int i = 0; i < 7; i++)
        code += fabsf(x) > t.fp4[i] ? t.steps[i] : 0;
    return code;
}

/* A warp a block: the largest magnitude, then two codes a lane at a time. */
template <typename T>
__global__ void __launch_bounds__(THREADS) quantize(const tables t, int fp4, int64_t block,
                                                    const T *x, int64_t blocks, uint8_t *codes,
                                                    float *absmax) {
    int64_t b = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (b >= blocks)
        return;
    x += b * block;
    float most = 0;
    for (int64_t i = lane; i < block; i += 32)
        most = fmaxf(most, magnitude(load(x + i)));
    for (int step = 16; step; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, step));
    float scale = reciprocal(most);
    for (int64_t i = 2 * lane; i < block; i += 64) {
        uint32_t high = code_of(t, fp4, multiply_flushed(load(x + i), scale)),
                 low = code_of(t, fp4, multiply_flushed(load(x + i + 1), scale));
        codes[(b * block + i) / 2] = (uint8_t)(high << 4 | low);
    }
    if (lane == 0)
        absmax[b] = most;
}

/* A block of threads a nested block. */
__global__ void __launch_bounds__(256) quantize_absmax(const float *absmax, int64_t n, float offset,
                                                       const float *values, uint8_t *codes,
                                                       float *nested) {
    NB_SHARED(float, table, [256]);
    NB_SHARED(float, most_of, [8]);
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    table[threadIdx.x] = values[threadIdx.x];
    float centred = i < n ? __fadd_rn(absmax[i], -offset) : 0;
    float most = magnitude(centred);
    for (int step = 16; step; step /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFF, most, step));
    if (threadIdx.x % 32 == 0)
        most_of[threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < 8; w++)
        most = fmaxf(most, most_of[w]);
    float x = multiply_flushed(centred, reciprocal(most));
    uint32_t low = 0, high = 255;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        float halfway = __fmul_rn(__fadd_rn(table[middle], table[middle + 1]), 0.5f);
        if (x > halfway || (x == halfway && (middle & 1)))
            low = middle + 1;
        else
            high = middle;
    }
    if (i < n)
        codes[i] = (uint8_t)low;
    if (threadIdx.x == 0)
        nested[blockIdx.x] = most;
}

__global__ void __launch_bounds__(256)
    dequantize_absmax(const uint8_t *codes, int64_t n, const float *nested, float offset,
                      const float *values, float *absmax) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n)
        absmax[i] = __fadd_rn(multiply_flushed(values[codes[i]], nested[i / 256]), offset);
}

/* ---- measuring ---- */

__global__ void __launch_bounds__(1024) read_all(const uint4 *p, size_t n, uint32_t *sum) {
    uint32_t seen = 0;
    size_t stride = (size_t)gridDim.x * blockDim.x;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * stride < n; i += 4 * stride) {
        uint4 a[4];
#pragma unroll
        for (int k = 0; k < 4; k++)
            a[k] = load_once(p + i + k * stride);
#pragma unroll
        for (int k = 0; k < 4; k++)
            seen ^= a[k].x ^ a[k].y ^ a[k].z ^ a[k].w;
    }
    for (; i < n; i += stride)
        seen ^= p[i].x ^ p[i].y ^ p[i].z ^ p[i].w;
    if (seen == 0x12345678) /* as good as never */
        atomicXor(sum, seen);
}

unsigned blocks_for(int64_t warps) {
    return (unsigned)((warps + WARPS - 1) / WARPS);
}

} // namespace

cudaError_t nb_cuda_repack_4bit(const struct nb_cuda_repack_job *job, cudaStream_t stream) {
    return nb_start(repack_4bit, blocks_for((int64_t)job->n_tiles * job->shape.n_chunks), THREADS,
                    0, stream, *job);
}

cudaError_t nb_cuda_repack_floats(const struct nb_cuda_repack_job *job, int type,
                                  cudaStream_t stream) {
    unsigned n = blocks_for((int64_t)job->n_tiles * job->shape.n_chunks);
    if (type == 0)
        return nb_start(repack_floats<float>, n, THREADS, 0, stream, *job);
    if (type == 1)
        return nb_start(repack_floats<__half>, n, THREADS, 0, stream, *job);
    return nb_start(repack_floats<__nv_bfloat16>, n, THREADS, 0, stream, *job);
}

cudaError_t nb_cuda_quantize(int fp4, int64_t block, const void *x, int type, int64_t n,
                             uint8_t *codes, float *absmax, cudaStream_t stream) {
    tables t;
    for (int i = 0; i < 15; i++)
        t.nf4[i] = nb_nf4_thresholds[i];
    for (int i = 0; i < 7; i++) {
        t.fp4[i] = nb_fp4_thresholds[i];
        t.steps[i] = nb_fp4_steps[i];
    }
    int64_t blocks = n / block;
    unsigned grid = blocks_for(blocks);
    if (type == 0)
        return nb_start(quantize<float>, grid, THREADS, 0, stream, t, fp4, block, (const float *)x,
                        blocks, codes, absmax);
    if (type == 1)
        return nb_start(quantize<__half>, grid, THREADS, 0, stream, t, fp4, block,
                        (const __half *)x, blocks, codes, absmax);
    return nb_start(quantize<__nv_bfloat16>, grid, THREADS, 0, stream, t, fp4, block,
                    (const __nv_bfloat16 *)x, blocks, codes, absmax);
}

cudaError_t nb_cuda_quantize_absmax(const float *absmax, int64_t n, float offset,
                                    const float *values, uint8_t *codes, float *nested,
                                    cudaStream_t stream) {
    return nb_start(quantize_absmax, (unsigned)((n + 255) / 256), 256, 0, stream, absmax, n, offset,
                    values, codes, nested);
}

cudaError_t nb_cuda_dequantize_absmax(const uint8_t *codes, int64_t n, const float *nested,
                                      float offset, const float *values, float *absmax,
                                      cudaStream_t stream) {
    return nb_start(dequantize_absmax, (unsigned)((n + 255) / 256), 256, 0, stream, codes, n,
                    nested, offset, values, absmax);
}

cudaError_t nb_cuda_read(const void *p, size_t n, uint32_t *sum, int sm_count,
                         cudaStream_t stream) {
    return nb_start(read_all, 2 * sm_count, 1024, 0, stream, (const uint4 *)p, n / 16, sum);
}

cudaError_t nb_cuda_check_image(void) {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, repack_4bit);
}
