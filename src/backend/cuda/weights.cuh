/* Single weights of a matrix in the layout of layout.h, for kernels that need few or are plain. */
#ifndef NB_BACKEND_CUDA_WEIGHTS_CUH
#define NB_BACKEND_CUDA_WEIGHTS_CUH

#include "backend/cuda/device.h"

/* How the rows of a matrix are spread over its tiles; layout.h has the orders. */
struct nb_rows {
    enum nb_cuda_order order;
    int32_t head_rows, rotary_rows; /* of NB_CUDA_ROTARY: d, and how many rows are in that order */
};

/* Where row `row` of a matrix is: its tile and its place there, and its number in its own tensor.
 */
struct nb_place {
    int32_t tile, in_tile, row;
};

__device__ inline nb_place nb_weight_place(const struct nb_cuda_shape &s, nb_rows r, int32_t row) {
    if (r.order == NB_CUDA_GATE_UP) {
        int32_t up = row >= s.rows / 2, i = row - up * (s.rows / 2);
        return {i / 8, i % 8 + 8 * up, i};
    }
    if (r.order == NB_CUDA_ROTARY && row < r.rotary_rows) {
        int32_t head = row / r.head_rows, i = row % r.head_rows, half = r.head_rows / 2;
        int32_t second = i >= half;
        i -= second * half;
        return {head * (r.head_rows / NB_CUDA_TILE) + i / 8, i % 8 + 8 * second, row};
    }
    return {row / NB_CUDA_TILE, row % NB_CUDA_TILE, row};
}

/* absmax of row p, column `column`, in the unit that begins with chunk c0. */
__device__ inline float nb_weight_absmax(const struct nb_cuda_shape &s, const float *nested_values,
                                         const uint8_t *unit, nb_place p, int32_t c0,
                                         int32_t column) {
    int32_t chunk = column / NB_CUDA_CHUNK, c = chunk - c0;
    if (s.kind == NB_CUDA_ABSMAX) {
        int32_t part = s.scales_per_chunk == 2 ? column % NB_CUDA_CHUNK / 32 : 0;
        return ((const float *)(unit +
                                s.scale_bytes))[(c * s.scales_per_chunk + part) * 16 + p.in_tile];
    }
    int32_t half = p.in_tile / 8;
    int32_t slot = NB_CUDA_SLOT(&s, p.row, chunk, p.row - p.in_tile % 8, c0);
    const float *nested = (const float *)unit, *offset = nested + 2 * s.n_nested;
    uint8_t code = unit[s.scale_bytes + c * NB_CUDA_TILE + p.in_tile];
    return __fadd_rn(__fmul_rn(nested_values[code], nested[half * s.n_nested + slot]),
                     offset[half]);
}

/* Weights [row, column] and [row, column + 1] of the matrix at `data`; `column` is even. */
__device__ inline float2 nb_weights(const nb_cuda_model &m, const nb_cuda_matrix &w,
                                    const uint8_t *data, nb_place p, int32_t column) {
    const struct nb_cuda_shape &s = w.shape;
    int32_t chunk = column / NB_CUDA_CHUNK, in_chunk = column % NB_CUDA_CHUNK;
    int32_t unit_index = chunk / s.unit_chunks, c0 = unit_index * s.unit_chunks;
    const uint8_t *unit = data + ((size_t)p.tile * s.n_units + unit_index) * s.unit_bytes;
    int32_t lane = p.in_tile % 8 * 4 + in_chunk / 16, step = in_chunk % 16 / 4;
    int32_t b = p.in_tile / 8 + 2 * (in_chunk % 4 / 2);
    if (s.kind == NB_CUDA_BF16) {
        const __nv_bfloat162 *at = (const __nv_bfloat162 *)(unit + s.code_bytes);
        return __bfloat1622float2(at[((chunk - c0) * 32 + lane) * 16 + 4 * step + b]);
    }
    uint8_t codes =
        unit[s.code_bytes + (chunk - c0) * NB_CUDA_CHUNK_CODES + lane * 16 + 4 * step + b];
    float scale = nb_weight_absmax(s, m.nested_values, unit, p, c0, column);
    const float *values = m.values + 16 * w.values;
    return make_float2(values[codes >> 4] * scale, values[codes & 15] * scale);
}

#endif
