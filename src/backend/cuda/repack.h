/* Kernels that turn weights as a checkpoint has them into the layout of layout.h, quantizing them
 * on the way where that is wanted, and one that measures memory. All launch on `stream` and return
 * what the launch returned. Pointers are to device memory unless said otherwise.
 */
#ifndef NB_BACKEND_CUDA_REPACK_H
#define NB_BACKEND_CUDA_REPACK_H

#include "backend/cuda/layout.h"

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tiles of a matrix, and the rows of the checkpoint that they are made of: row r of tile t, in its
 * half h = r / 8, g = r % 8, is row
 *
 *     NATURAL   16 t + r                                    of part 0
 *     GATE_UP    8 t + g                                    of part h
 *     ROTARY    (t / m) d + h d / 2 + 8 (t % m) + g, m = d / 16, of part 0
 *
 * t, and with it the rows, counted from the first that is here, which is row `first_row` of its
 * part. Parts hold rows [0, rows): what is beyond is padding.
 */
struct nb_cuda_repack_job {
    struct nb_cuda_shape shape;
    enum nb_cuda_order order;
    int32_t head_rows; /* d */
    int32_t n_tiles, rows;
    int64_t first_row;
    uint8_t *out;           /* [n_tiles * n_units * unit_bytes] */
    const void *weights[2]; /* of each part: [rows, columns / 2] codes, or floats [rows, columns];
                             * aligned to 16. NULL: leave codes alone */
    int32_t zero_code;      /* which code stands for 0 */

    /* NESTED; absmax_code NULL: leave scales alone */
    const uint8_t *absmax_code[2]; /* [rows, row_blocks] */
    const float *nested[2];        /* from value `nested_first` of the part on */
    int64_t nested_first;
    float offset[2];

    /* ABSMAX; NULL: leave scales alone */
    const float *absmax[2]; /* from block `absmax_first` of the part on */
    int64_t absmax_first;
    int64_t block; /* weights that share one */
};

/* Codes and scales of 4-bit kinds; columns % 64 == 0, and where d matters, d % 16 == 0. */
cudaError_t nb_cuda_repack_4bit(const struct nb_cuda_repack_job *job, cudaStream_t stream);

/* bf16 kinds from floats of element type 0 f32, 1 fp16, 2 bf16 (enum nb_weight_type), rounded to
 * nearest even; columns % 64 == 0. */
cudaError_t nb_cuda_repack_floats(const struct nb_cuda_repack_job *job, int type,
                                  cudaStream_t stream);

/* What nb_quantize_f32, _f16 and _bf16 do: x [n] to codes [n / 2] and absmax [n / block], bit for
 * bit; n a multiple of block, block a power of two from 64 on. fp4: 0 for NF4, 1 for FP4. */
cudaError_t nb_cuda_quantize(int fp4, int64_t block, const void *x, int type, int64_t n,
                             uint8_t *codes, float *absmax, cudaStream_t stream);

/* What nb_quantize_absmax does; values: [256], of nb_dynamic_values, in device memory. */
cudaError_t nb_cuda_quantize_absmax(const float *absmax, int64_t n, float offset,
                                    const float *values, uint8_t *codes, float *nested,
                                    cudaStream_t stream);

/* And back: values[code] * nested + offset, each rounded, as nb_quant_absmax does. */
cudaError_t nb_cuda_dequantize_absmax(const uint8_t *codes, int64_t n, const float *nested,
                                      float offset, const float *values, float *absmax,
                                      cudaStream_t stream);

/* Reads n bytes (a multiple of 16, p aligned to 16) once; *sum is changed so that it is done. */
cudaError_t nb_cuda_read(const void *p, size_t n, uint32_t *sum, int sm_count, cudaStream_t stream);

/* cudaErrorNoKernelImageForDevice or the like where this build has no code for the device. */
cudaError_t nb_cuda_check_image(void);

#ifdef __cplusplus
}
#endif

#endif
