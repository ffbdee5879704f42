/* The products of gemm.h against sums in double of the same weights, read from the layout one by
 * one: every kind, order, epilogue and kernel, groups of any mix of sizes. TAP.
 *
 * cuda_gemm [SEED | --brief]; cuda_gemm --bench [SHAPE [ROWS [KERNEL]]]: Mixtral 8x7B's products,
 * in GB/s of weights and TFLOP/s, and the limits of the GPU, measured in the same run.
 */
#include "cuda_random.h"

#include "backend/cuda/gemm.h"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/wgmma.cuh"
#include "quant/quant.h"

#include <algorithm>
#include <math.h>
#include <string.h>
#include <string>
#include <time.h>

/* On an emulated GPU (tests/cuda_emulated): small shapes, no measurements. */
#ifndef NB_EMULATED
#define NB_EMULATED 0
#endif

static uint64_t seed_of_run = 1;

static uint64_t random_bits() {
    return cuda_random_bits(&seed_of_run);
}

static int random_below(int n) {
    return (int)(random_bits() % (uint64_t)n);
}

template <class T> static T *allocate(size_t n) {
    T *p;
    CUDA_CHECK(cudaMalloc(&p, n * sizeof(T) + 16));
    return p;
}

template <class T> static T *upload(const std::vector<T> &v) {
    T *p = allocate<T>(v.size());
    CUDA_CHECK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

/* ---- matrices ---- */

__device__ static uint32_t hash(uint64_t seed, uint64_t i) {
    uint64_t z = seed + i * 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (uint32_t)(z >> 32);
}

/* In (-1, 1) */
__device__ static float random_float(uint64_t seed, uint64_t i) {
    return (float)(int32_t)hash(seed, i) * (1.0f / 2147483648.0f);
}

enum order { NATURAL, GATE_UP, ROTARY };

struct matrix {
    nb_cuda_matrix w;
    enum order order;
    int32_t head_rows, rotary_rows, groups;
    int32_t zero; /* code of 0 */
};

/* The row of the matrix that row i of a tile is; -1 in padding. */
__device__ static int32_t row_at(const matrix &m, int32_t tile, int32_t i) {
    const struct nb_cuda_shape &s = m.w.shape;
    if (m.order == GATE_UP) {
        int32_t row = 8 * tile + i % 8;
        return row < s.rows / 2 ? row + i / 8 * (s.rows / 2) : -1;
    }
    int32_t row = 16 * tile + i;
    if (m.order == ROTARY && row < m.rotary_rows) {
        int32_t tiles = m.head_rows / 16;
        return tile / tiles * m.head_rows + i / 8 * (m.head_rows / 2) + tile % tiles * 8 + i % 8;
    }
    return row < s.rows ? row : -1;
}

/* Random units, a block each: codes, scales near 1, padding of zeros. */
__global__ static void fill_units(matrix m, uint8_t *data, uint64_t seed) {
    const struct nb_cuda_shape &s = m.w.shape;
    int32_t of_matrix = blockIdx.x % (s.n_tiles * s.n_units), tile = of_matrix / s.n_units,
            c0 = of_matrix % s.n_units * s.unit_chunks;
    uint8_t *unit = data + (size_t)blockIdx.x * s.unit_bytes;
    seed += (uint64_t)blockIdx.x << 32;
    for (uint32_t at = 4 * threadIdx.x; at < s.unit_bytes; at += 4 * blockDim.x) {
        uint32_t word = hash(seed, at);
        if (s.kind == NB_CUDA_BF16) {
            int32_t in = at / 4 % 512, lane = in / 16, b = in % 4, j = in / 4 % 4;
            int32_t column = (c0 + at / 2048) * 64 + 16 * (lane % 4) + 4 * j + 2 * (b / 2);
            float x = random_float(seed, at), y = random_float(seed, at + 1);
            bool inside = row_at(m, tile, lane / 4 + 8 * (b & 1)) >= 0;
            __nv_bfloat162 pair = __floats2bfloat162_rn(inside && column < s.columns ? x : 0,
                                                        inside && column + 1 < s.columns ? y : 0);
            word = *(uint32_t *)&pair;
        } else if (at >= s.code_bytes) {
            for (int32_t k = 0; k < 8; k++) {
                int32_t byte = (at - s.code_bytes) % 512 + k / 2, lane = byte / 16, b = byte % 4;
                int32_t column = (c0 + (at - s.code_bytes) / 512) * 64 + 16 * (lane % 4) +
                                 byte / 4 % 4 * 4 + 2 * (b / 2) + k % 2;
                if (column >= s.columns || row_at(m, tile, lane / 4 + 8 * (b & 1)) < 0) {
                    int32_t shift = 8 * (k / 2) + (k % 2 ? 0 : 4);
                    word = (word & ~(15u << shift)) | (uint32_t)m.zero << shift;
                }
            }
        } else if (s.kind == NB_CUDA_NESTED && at < s.scale_bytes) {
            bool mean = at >= 8u * s.n_nested;
            word = __float_as_uint(mean ? 1.0f + 0.1f * random_float(seed, at)
                                        : 0.5f + 0.3f * random_float(seed, at));
            if (at >= 8u * s.n_nested + 8)
                word = 0xFFFFFFFF; /* what pads a unit's head is not read */
        } else if (s.kind == NB_CUDA_ABSMAX) {
            word = __float_as_uint(1.0f + 0.5f * random_float(seed, at));
        }
        *(uint32_t *)(unit + at) = word;
    }
}

/* Weights of matrix e as f32 [rows, columns], in the checkpoint's order. A block a tile. */
__global__ static void read_matrix(matrix m, int32_t e, const float *values, const float *nested,
                                   float *out) {
    const struct nb_cuda_shape &s = m.w.shape;
    int32_t tile = blockIdx.x;
    for (int32_t at = threadIdx.x; at < 16 * s.columns; at += blockDim.x) {
        int32_t i = at / s.columns, column = at % s.columns, row = row_at(m, tile, i);
        if (row < 0)
            continue;
        int32_t c = column / 64, u = c / s.unit_chunks, chunk = c % s.unit_chunks, k = column % 64;
        const uint8_t *unit =
            m.w.data + (size_t)e * s.bytes + ((size_t)tile * s.n_units + u) * s.unit_bytes;
        int32_t byte = (i % 8 * 4 + k / 16) * 16 + k % 16 / 4 * 4 + k % 4 / 2 * 2 + i / 8;
        float w;
        if (s.kind == NB_CUDA_BF16) {
            w = __bfloat162float(((const __nv_bfloat16 *)unit)[chunk * 1024 + 2 * byte + k % 2]);
        } else {
            uint8_t codes = unit[s.code_bytes + chunk * 512 + byte];
            float scale;
            if (s.kind == NB_CUDA_ABSMAX) {
                int32_t half = s.scales_per_chunk == 2 ? k / 32 : 0;
                scale = ((const float *)unit)[(chunk * s.scales_per_chunk + half) * 16 + i];
            } else {
                int32_t of = m.order == GATE_UP ? row % (s.rows / 2) : row, r0 = of - i % 8;
                int32_t slot = NB_CUDA_SLOT(&s, of, c, r0, u * s.unit_chunks);
                const float *head = (const float *)unit;
                scale =
                    nested[unit[s.scale_bytes + chunk * 16 + i]] * head[i / 8 * s.n_nested + slot] +
                    head[2 * s.n_nested + i / 8];
            }
            w = values[k % 2 ? codes & 15 : codes >> 4] * scale;
        }
        out[(size_t)row * s.columns + column] = w;
    }
}

static matrix make_matrix(enum nb_cuda_kind kind, enum order order, int32_t rows, int32_t columns,
                          int32_t block, int32_t groups, int32_t head_rows, int32_t rotary_rows) {
    matrix m = {};
    if (!nb_cuda_shape(kind, rows, columns, block, &m.w.shape)) {
        fprintf(stderr, "no shape for %d by %d\n", rows, columns);
        exit(1);
    }
    m.w.values = random_below(2);
    const float *values = m.w.values == NB_QUANT_FP4 ? nb_fp4_values : nb_nf4_values;
    while (values[m.zero] != 0)
        m.zero++;
    m.order = order, m.groups = groups, m.head_rows = head_rows, m.rotary_rows = rotary_rows;
    uint8_t *data = allocate<uint8_t>(m.w.shape.bytes * groups);
    m.w.data = data;
    CUDA_CHECK(nb_start(fill_units, m.w.shape.n_tiles * m.w.shape.n_units * groups, 256, 0, 0, m,
                        data, random_bits()));
    return m;
}

/* ---- what every product needs ---- */

static nb_cuda_model model;
static nb_cuda_limits limits;
static void *workspace;
static size_t workspace_bytes;

static void make_context() {
    std::vector<float> values, nested;
    values.insert(values.end(), nb_nf4_values, nb_nf4_values + 16); /* NB_QUANT_NF4 is 0 */
    values.insert(values.end(), nb_fp4_values, nb_fp4_values + 16);
    for (int i = 0; i < 256; i++)
        nested.push_back((float)(i - 127) / 128.0f);
    model.values = upload(values), model.nested_values = upload(nested);
    int device;
    cudaDeviceProp p;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaGetDeviceProperties(&p, device));
    limits.sm_count = p.multiProcessorCount, limits.compute_capability = 10 * p.major + p.minor;
    /* As much as any product here may want: one of max_tokens * experts_per_token rows. */
    model.width = 14336, model.experts_per_token = 2, limits.max_tokens = NB_EMULATED ? 256 : 8192;
    workspace_bytes = nb_cuda_gemm_workspace(&model, &limits);
    workspace = allocate<uint8_t>(workspace_bytes);
    CUDA_CHECK(cudaMemset(workspace, 0xFF, workspace_bytes));
    CUDA_CHECK(cudaMemset(workspace, 0, NB_CUDA_GEMM_FLAGS));
}

/* x [n, columns rounded up to 64], random, permuted, padded with zeros. */
__global__ static void fill_x(__nv_bfloat16 *x, int32_t columns, uint64_t seed) {
    int32_t stride = (columns + 63) / 64 * 64;
    for (int32_t at = threadIdx.x; at < stride; at += blockDim.x) {
        int32_t column = at / 64 * 64 + NB_CUDA_K_OF(at % 64 / 16, at % 16);
        float v = random_float(seed + blockIdx.x * 0x1234567ull, column);
        x[(size_t)blockIdx.x * stride + at] = __float2bfloat16(column < columns ? v : 0);
    }
}

static __nv_bfloat16 *make_x(int32_t n, int32_t columns) {
    __nv_bfloat16 *x = allocate<__nv_bfloat16>((size_t)n * ((columns + 63) / 64 * 64));
    if (n)
        CUDA_CHECK(nb_start(fill_x, n, 256, 0, 0, x, columns, random_bits()));
    return x;
}

/* ---- the reference ---- */

/* sum[i, row] = W x, and size[i, row] = sqrt of the sum of squares of what is added, for rows of y
 * [first, first + n). A block 32 rows of W and a row of y, 8 threads a row. */
__global__ static void reference(const float *w, const __nv_bfloat16 *x, const int32_t *gather,
                                 int32_t rows, int32_t columns, int32_t first, double *sum,
                                 double *size) {
    int32_t row = blockIdx.x * 32 + threadIdx.x / 8, i = first + blockIdx.y;
    const __nv_bfloat16 *in = x + (size_t)(gather ? gather[i] : i) * ((columns + 63) / 64 * 64);
    double s = 0, q = 0;
    if (row < rows) {
        for (int32_t c = threadIdx.x % 8; c < columns; c += 8) {
            int32_t k =
                c % 64; /* the place of column 16 a + 4 j + 2 h + i is 16 j + 8 h + 2 a + i */
            int32_t place = c - k + 16 * (k / 4 % 4) + 8 * (k / 2 % 2) + 2 * (k / 16) + k % 2;
            double v = (double)w[(size_t)row * columns + c] * (double)__bfloat162float(in[place]);
            s += v, q += v * v;
        }
    }
    for (int d = 4; d; d /= 2)
        s += __shfl_down_sync(~0u, s, d), q += __shfl_down_sync(~0u, q, d);
    if (row < rows && threadIdx.x % 8 == 0) {
        sum[(size_t)i * rows + row] = s;
        size[(size_t)i * rows + row] = sqrt(q);
    }
}

struct problem {
    std::string name;
    matrix m;
    enum nb_cuda_epilogue epilogue;
    std::vector<int32_t> begin; /* [groups + 1]; of one group and `whole`, NULL on the device */
    bool whole, gathered;
    int32_t n_x;

    __nv_bfloat16 *x;
    int32_t *gather, *device_begin;
    uint8_t *y;
    size_t y_bytes, y_row; /* elements of a row */
    struct nb_cuda_gemm g;
};

static void prepare(problem &p) {
    const struct nb_cuda_shape &s = p.m.w.shape;
    int32_t n = p.begin.back();
    p.n_x = p.gathered ? std::max(1, n / 2) : n;
    p.x = make_x(p.n_x, s.columns);
    std::vector<int32_t> gather;
    for (int32_t i = 0; i < n; i++)
        gather.push_back(random_below(p.n_x));
    p.gather = p.gathered ? upload(gather) : nullptr;
    p.device_begin = p.whole ? nullptr : upload(p.begin);
    p.y_row = p.epilogue == NB_CUDA_SILU ? (s.rows / 2 + 63) / 64 * 64 : s.rows;
    p.y_bytes = (size_t)n * p.y_row * (p.epilogue == NB_CUDA_STORE_F32 ? 4 : 2);
    p.y = allocate<uint8_t>(p.y_bytes + 256);
    p.g = {};
    p.g.w = p.m.w, p.g.n_groups = p.m.groups, p.g.begin = p.device_begin, p.g.n = n, p.g.x = p.x;
    p.g.gather = p.gather, p.g.epilogue = p.epilogue, p.g.y = p.y;
    if (p.m.order == ROTARY)
        p.g.head_rows = p.m.head_rows, p.g.rotary_rows = p.m.rotary_rows;
}

static void release(problem &p) {
    CUDA_CHECK(cudaFree(p.x));
    CUDA_CHECK(cudaFree(p.gather));
    CUDA_CHECK(cudaFree(p.device_begin));
    CUDA_CHECK(cudaFree(p.y));
    CUDA_CHECK(cudaFree((void *)p.m.w.data));
}

static float bf16_at(const uint8_t *p, size_t i) {
    uint16_t bits;
    memcpy(&bits, p + 2 * i, 2);
    uint32_t wide = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &wide, 4);
    return f;
}

static size_t place_in_row(size_t c) {
    return c / 64 * 64 + 16 * (c / 4 % 4) + 8 * (c / 2 % 2) + 2 * (c % 64 / 16) + c % 2;
}

struct expected {
    std::vector<double> sum, size;
};

static expected expect(const problem &p) {
    const struct nb_cuda_shape &s = p.m.w.shape;
    int32_t n = p.begin.back();
    size_t all = (size_t)n * s.rows;
    float *w = allocate<float>((size_t)s.rows * s.columns);
    double *sum = allocate<double>(all), *size = allocate<double>(all);
    for (int32_t e = 0; e < p.m.groups; e++) {
        int32_t of_group = p.begin[e + 1] - p.begin[e];
        if (of_group == 0)
            continue;
        CUDA_CHECK(nb_start(read_matrix, s.n_tiles, 256, 0, 0, p.m, e,
                            model.values + 16 * p.m.w.values, model.nested_values, w));
        CUDA_CHECK(nb_start(reference, dim3((s.rows + 31) / 32, of_group), 256, 0, 0, w, p.x,
                            p.gather, s.rows, s.columns, p.begin[e], sum, size));
    }
    expected out;
    out.sum.resize(all), out.size.resize(all);
    CUDA_CHECK(cudaMemcpy(out.sum.data(), sum, all * 8, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(out.size.data(), size, all * 8, cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaFree(w));
    CUDA_CHECK(cudaFree(sum));
    CUDA_CHECK(cudaFree(size));
    return out;
}

/* The largest error in units of what is allowed. A weight may be off by 2^-9 of itself (bf16 codes,
 * or a bf16 weight), so a sum by some 2^-9 of `size`, 8 times for the largest of millions; a bf16
 * result by 2^-9 of itself more. */
static double worst_error(const problem &p, const expected &e, const std::vector<uint8_t> &y) {
    const struct nb_cuda_shape &s = p.m.w.shape;
    const double unit = 1.0 / 512;
    size_t n = (size_t)p.begin.back(), rows = (size_t)s.rows;
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < p.y_row; c++) {
            double want, allowed, got;
            if (p.epilogue == NB_CUDA_SILU) {
                got = bf16_at(y.data(), i * p.y_row + place_in_row(c));
                if (c >= rows / 2) {
                    worst = std::max(worst, got == 0 ? 0.0 : 1e9);
                    continue;
                }
                size_t gate = i * rows + c, up = gate + rows / 2;
                double x = e.sum[gate], silu = x / (1 + exp(-x));
                want = silu * e.sum[up];
                allowed = 8 * unit *
                              (1.1 * e.size[gate] * fabs(e.sum[up]) +
                               e.size[up] * (fabs(silu) + 8 * unit * e.size[gate])) +
                          unit * fabs(want) * 1.1;
            } else {
                size_t at = i * p.y_row + c;
                if (p.epilogue == NB_CUDA_STORE_F32) {
                    float f;
                    memcpy(&f, &y[4 * at], 4);
                    got = f;
                } else {
                    got = bf16_at(y.data(), at);
                }
                want = e.sum[at];
                allowed = 8 * unit * e.size[at] +
                          (p.epilogue == NB_CUDA_STORE_F32 ? 0 : 1.1 * unit * fabs(want));
            }
            double error = fabs(got - want) / (allowed + 1e-30);
            worst = error <= worst ? worst : isnan(error) ? 1e9 : error;
        }
    }
    return worst;
}

static std::vector<uint8_t> run(const problem &p, enum nb_cuda_gemm_kernel kernel,
                                cudaError_t *error) {
    CUDA_CHECK(cudaMemset(p.y, 0xFF, p.y_bytes + 256));
    *error = nb_cuda_gemm_by(kernel, &p.g, &model, &limits, workspace, 0);
    if (*error == cudaErrorNotSupported)
        return {};
    CUDA_CHECK(*error);
    CUDA_CHECK(cudaDeviceSynchronize());
    std::vector<uint8_t> y(p.y_bytes + 256);
    CUDA_CHECK(cudaMemcpy(y.data(), p.y, y.size(), cudaMemcpyDeviceToHost));
    return y;
}

static int n_tests, n_failed;

/* The same product with its sums left in parts, where blocks have any, by the two kernels that may:
 * added in order as parts.* says they are the product, where there is no room for them y is whole.
 */
static void check_parts(problem &p, const expected &e) {
    static const char *kernels[] = {"any", "plain", "stream"};
    size_t n = (size_t)p.begin.back(), rows = p.y_row, bytes = p.y_bytes, room = 20 * n;
    uint8_t *keep = p.y;
    p.y = allocate<uint8_t>(room * rows * 4 + 256);
    p.g.y = p.y;
    for (int k = NB_CUDA_GEMM_PLAIN; k <= NB_CUDA_GEMM_STREAM; k++) {
        struct nb_cuda_parts parts;
        cudaError_t error;
        p.g.parts = &parts;
        int32_t most = 1;
        double worst = 0;
        bool good = true;
        for (int32_t has_room = 0; has_room < 2; has_room++) {
            p.g.room = (int32_t)(has_room ? room : 2 * n - 1);
            p.y_bytes = room * rows * 4;
            std::vector<uint8_t> all = run(p, (enum nb_cuda_gemm_kernel)k, &error);
            if (error == cudaErrorNotSupported)
                break;
            good = good && run(p, (enum nb_cuda_gemm_kernel)k, &error) == all;
            std::vector<float> part(room * rows), sum(n * rows);
            memcpy(part.data(), all.data(), part.size() * 4);
            for (size_t i = 0; i < n; i++) {
                for (size_t c = 0; c < rows; c++) {
                    int32_t of = 1;
                    if (parts.block_steps) {
                        int32_t tile = (int32_t)c / parts.tile_rows * parts.tiles +
                                       (int32_t)i / parts.tile_tokens,
                                first = tile * parts.steps;
                        of = (first + parts.steps - 1) / parts.block_steps -
                             first / parts.block_steps + 1;
                    }
                    most = std::max(most, of);
                    for (int32_t j = 0; j < of; j++)
                        sum[i * rows + c] += part[(size_t)j * parts.stride + i * rows + c];
                }
            }
            good = good && (has_room || most == 1);
            p.y_bytes = bytes;
            std::vector<uint8_t> y(bytes);
            memcpy(y.data(), sum.data(), bytes);
            worst = std::max(worst, worst_error(p, e, y));
        }
        p.y_bytes = bytes;
        if (error == cudaErrorNotSupported) {
            printf("ok %d - %s, %s, in parts # SKIP no wgmma here\n", ++n_tests, p.name.c_str(),
                   kernels[k]);
            continue;
        }
        good = good && worst <= 1;
        n_failed += !good;
        printf("%s %d - %s, %s, in up to %d parts: %.3f of the allowed error\n",
               good ? "ok" : "not ok", ++n_tests, p.name.c_str(), kernels[k], most, worst);
    }
    p.g.parts = nullptr;
    CUDA_CHECK(cudaFree(p.y));
    p.y = keep, p.g.y = keep;
}

/* Groups of the same sizes by choices in random order, that the product puts in order itself,
 * against the same order made here: the same bits, and the slots. */
static void check_choices(problem &p) {
    static const char *kernels[] = {"any", "plain", "stream"};
    int32_t n = p.begin.back(), of_x = p.gathered ? 2 : 0;
    std::vector<int32_t> choice, slot, gather, after(p.begin.begin(), p.begin.end() - 1);
    for (int32_t e = 0; e < p.m.groups; e++)
        choice.insert(choice.end(), p.begin[e + 1] - p.begin[e], e);
    for (int32_t i = n - 1; i > 0; i--)
        std::swap(choice[i], choice[random_below(i + 1)]);
    gather.resize(n);
    for (int32_t i = 0; i < n; i++) {
        slot.push_back(after[choice[i]]++);
        gather[slot[i]] = of_x ? std::min(i / of_x, p.n_x - 1) : slot[i];
    }
    if (of_x && (n + 1) / of_x > p.n_x) /* x has no row for the last */
        return;
    struct nb_cuda_gemm keep = p.g;
    int32_t *device_choice = upload(choice), *device_gather = upload(gather),
            *device_slot = allocate<int32_t>(n);
    for (int k = NB_CUDA_GEMM_PLAIN; k <= NB_CUDA_GEMM_STREAM; k++) {
        cudaError_t error;
        p.g = keep, p.g.gather = device_gather;
        std::vector<uint8_t> want = run(p, (enum nb_cuda_gemm_kernel)k, &error);
        if (error == cudaErrorNotSupported) {
            printf("ok %d - %s, %s, choices # SKIP no wgmma here\n", ++n_tests, p.name.c_str(),
                   kernels[k]);
            continue;
        }
        p.g.begin = p.g.gather = NULL;
        p.g.choice = device_choice, p.g.choices_of_x = of_x, p.g.slot = device_slot;
        CUDA_CHECK(cudaMemset(device_slot, 0xFF, n * sizeof(int32_t)));
        bool good = run(p, (enum nb_cuda_gemm_kernel)k, &error) == want;
        std::vector<int32_t> got(n);
        CUDA_CHECK(
            cudaMemcpy(got.data(), device_slot, n * sizeof(int32_t), cudaMemcpyDeviceToHost));
        good = good && got == slot;
        n_failed += !good;
        printf("%s %d - %s, %s, choices\n", good ? "ok" : "not ok", ++n_tests, p.name.c_str(),
               kernels[k]);
    }
    p.g = keep;
    CUDA_CHECK(cudaFree(device_choice));
    CUDA_CHECK(cudaFree(device_gather));
    CUDA_CHECK(cudaFree(device_slot));
}

static void check(problem &p) {
    static const char *kernels[] = {"any", "plain", "stream", "wide"};
    prepare(p);
    expected e = expect(p);
    for (int k = NB_CUDA_GEMM_ANY; k <= NB_CUDA_GEMM_WIDE; k++) {
        if (NB_EMULATED && k == NB_CUDA_GEMM_ANY && n_tests) /* one of the others */
            continue;
        cudaError_t error;
        std::vector<uint8_t> y = run(p, (enum nb_cuda_gemm_kernel)k, &error);
        if (error == cudaErrorNotSupported) {
            printf("ok %d - %s, %s # SKIP no wgmma here\n", ++n_tests, p.name.c_str(), kernels[k]);
            continue;
        }
        double worst = worst_error(p, e, y);
        bool same = run(p, (enum nb_cuda_gemm_kernel)k, &error) == y, beyond = true;
        for (size_t i = p.y_bytes; i < y.size(); i++)
            beyond &= y[i] == 0xFF;
        std::vector<int32_t> flags(NB_CUDA_GEMM_FLAGS / 4);
        CUDA_CHECK(cudaMemcpy(flags.data(), workspace, NB_CUDA_GEMM_FLAGS, cudaMemcpyDeviceToHost));
        bool zero = std::all_of(flags.begin(), flags.end(), [](int32_t f) { return f == 0; });
        bool good = worst <= 1 && same && beyond && zero;
        n_failed += !good;
        printf("%s %d - %s, %s: %.3f of the allowed error%s%s%s\n", good ? "ok" : "not ok",
               ++n_tests, p.name.c_str(), kernels[k], worst, same ? "" : ", other bits again",
               beyond ? "" : ", wrote beyond y", zero ? "" : ", left flags");
    }
    if (p.whole && p.m.groups == 1 && p.epilogue == NB_CUDA_STORE_F32 && p.begin.back() > 0)
        check_parts(p, e);
    if (!p.whole && p.m.groups > 1 && p.begin.back() > 0 && p.begin.back() <= NB_CUDA_GEMM_CHOICES)
        check_choices(p);
    fflush(stdout);
    release(p);
}

/* Sizes of groups to their beginnings. */
static std::vector<int32_t> begins(const std::vector<int32_t> &sizes) {
    std::vector<int32_t> out = {0};
    for (int32_t n : sizes)
        out.push_back(out.back() + n);
    return out;
}

/* n rows over groups as a router with random scores deals them. */
static std::vector<int32_t> deal(int32_t n, int32_t groups) {
    std::vector<int32_t> sizes(groups, 0);
    for (int32_t i = 0; i < n; i++)
        sizes[random_below(groups)]++;
    return sizes;
}

static void test(bool brief) {
    static const char *kinds[] = {"nested", "absmax", "bf16"};
    struct {
        enum nb_cuda_kind kind;
        int32_t block;
    } const forms[] = {{NB_CUDA_NESTED, 64},
                       {NB_CUDA_NESTED, 128},
                       {NB_CUDA_ABSMAX, 64},
                       {NB_CUDA_ABSMAX, 32},
                       {NB_CUDA_BF16, 64}};
    struct shape {
        const char *name;
        enum order order;
        int32_t rows, columns, head_rows, rotary_rows;
        enum nb_cuda_epilogue epilogue;
    };
#if NB_EMULATED
    const shape shapes[] = {
        {"natural f32", NATURAL, 250, 512, 0, 0, NB_CUDA_STORE_F32},
        {"natural bf16", NATURAL, 67, 1152, 0, 0, NB_CUDA_STORE_BF16},
        {"rotary f32", ROTARY, 192, 256, 64, 128, NB_CUDA_STORE_F32},
        {"gate and up, padded", GATE_UP, 2 * 72, 256, 0, 0, NB_CUDA_SILU},
        {"nested blocks end in rows", NATURAL, 300, 768, 0, 0, NB_CUDA_STORE_F32},
        {"tiny", NATURAL, 24, 128, 0, 0, NB_CUDA_STORE_F32},
    };
#else
    const shape shapes[] = {
        {"natural f32", NATURAL, 1000, 1024, 0, 0, NB_CUDA_STORE_F32},
        {"natural bf16", NATURAL, 515, 4224, 0, 0, NB_CUDA_STORE_BF16},
        {"rotary f32", ROTARY, 768, 512, 64, 640, NB_CUDA_STORE_F32},
        {"rotary bf16", ROTARY, 768, 2048, 128, 512, NB_CUDA_STORE_BF16},
        {"gate and up", GATE_UP, 704, 896, 0, 0, NB_CUDA_SILU},
        {"gate and up, padded", GATE_UP, 2 * 72, 2176, 0, 0, NB_CUDA_SILU},
        {"tiny", NATURAL, 24, 128, 0, 0, NB_CUDA_STORE_F32},
        {"long", NATURAL, 96, 14336, 0, 0, NB_CUDA_STORE_F32},
    };
#endif
    int number = 0, n_mixes = 0;
    for (auto form : forms) {
        for (auto s : shapes) {
            if (brief && number++ % 3)
                continue;
            if (form.block == 32 && s.order == NATURAL && s.rows == 24)
                s.columns = 96; /* half a chunk */
#if NB_EMULATED
            std::vector<std::vector<int32_t>> mixes = {
                {1 + random_below(8)}, {9 + random_below(40)}, {0, 1, 0, 17, 35, 0}, deal(20, 40)};
#else
            std::vector<std::vector<int32_t>> mixes = {
                {1 + random_below(8)},
                {9 + random_below(56)},
                {65 + random_below(300)},
                {0, 1, 0, 17, 40, 0},
                {300 + random_below(100), 0, 2, 33},
                deal(64, 8),
                deal(100, 128),
            };
#endif
            if (form.kind == NB_CUDA_NESTED && form.block == 64 && s.rows == 1000)
                mixes.push_back(deal(3000, 8));
            for (const std::vector<int32_t> &sizes : mixes) {
                int mix = n_mixes++; /* emulated: each with every other form and shape */
                if (NB_EMULATED && (mix + mix / 4) % 2)
                    continue;
                problem p;
                p.whole = sizes.size() == 1, p.gathered = random_below(2) || s.order == GATE_UP;
                p.begin = begins(sizes);
                p.m = make_matrix(form.kind, s.order, s.rows, s.columns, form.block,
                                  (int32_t)sizes.size(), s.head_rows, s.rotary_rows);
                p.epilogue = s.epilogue;
                char name[200];
                snprintf(name, sizeof name, "%s/%d %s %dx%d, %d rows in %zu groups%s",
                         kinds[form.kind], form.block, s.name, s.rows, s.columns, p.begin.back(),
                         sizes.size(), p.gathered ? ", gathered" : "");
                p.name = name;
                check(p);
            }
        }
    }
}

/* ---- measurements ---- */

#if !NB_EMULATED

__global__ static void read_all(const uint4 *from, size_t n, uint32_t *out) {
    uint32_t sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x, i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __ldcs(from + i + k * step);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678)
        *out = sum;
}

/* Warpgroups multiply random bf16, A in registers: what wgmma gives where nothing else takes time
 * but the power it needs. */
template <int BLOCKS>
__global__ void __launch_bounds__(BLOCKS > 8 ? 256 : 512, 1) peak(int n, float *out) {
#if defined(__CUDA_ARCH__) && NB_WGMMA
    extern __shared__ __align__(1024) uint8_t shared[];
    for (int i = threadIdx.x; i < 8192; i += blockDim.x) {
        float a = random_float(1, i), b = random_float(2, i);
        ((__nv_bfloat162 *)shared)[i] = __floats2bfloat162_rn(a, b);
    }
    uint32_t a[16];
    for (int i = 0; i < 16; i++) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(random_float(3, threadIdx.x * 16 + i),
                                                    random_float(4, threadIdx.x * 16 + i));
        a[i] = *(uint32_t *)&pair;
    }
    float d[BLOCKS][4] = {};
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    for (int i = 0; i < n; i++) {
        wgmma_fence();
        for (int k = 0; k < 4; k++)
            wgmma<BLOCKS>(d, a + 4 * k, wgmma_descriptor(at, k), 1);
        wgmma_commit();
        wgmma_wait<0>();
    }
    float sum = 0;
    for (int i = 0; i < BLOCKS; i++)
        sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum == 12345.0f)
        *out = sum;
#else
    (void)n, (void)out;
#endif
}

/* Microseconds of a call of f, the best of three times `n` calls. */
template <class F> static double time_of(int n, F f) {
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    double best = 1e30;
    for (int k = 0; k < 4; k++) {
        CUDA_CHECK(cudaEventRecord(begin));
        for (int i = 0; i < n; i++)
            f(i);
        CUDA_CHECK(cudaEventRecord(end));
        CUDA_CHECK(cudaEventSynchronize(end));
        float ms;
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (k > 0)
            best = std::min(best, 1e3 * ms / n);
    }
    CUDA_CHECK(cudaEventDestroy(begin));
    CUDA_CHECK(cudaEventDestroy(end));
    return best;
}

/* TFLOP/s of wgmma with 8 BLOCKS columns and that many threads a block. */
template <int BLOCKS> static double peak_of(int threads, float *out) {
    CUDA_CHECK(
        cudaFuncSetAttribute(peak<BLOCKS>, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
    int loops = 200000 / BLOCKS;
    double us =
        time_of(2, [&](int) { peak<BLOCKS><<<limits.sm_count, threads, 200 << 10>>>(loops, out); });
    CUDA_CHECK(cudaGetLastError());
    return 2.0 * limits.sm_count * threads / 128 * 64 * 8 * BLOCKS * 64 * loops / us * 1e-6;
}

/* Of all shapes, row counts and kernels, or of those that are named. */
static void bench(const char *only_shape, int only_rows, const char *only_kernel) {
    size_t bytes = (size_t)4 << 30;
    uint8_t *memory = allocate<uint8_t>(bytes);
    CUDA_CHECK(cudaMemset(memory, 0x5A, bytes));
    float *out = allocate<float>(1);
    double read = 0, flops = 0;
    for (int blocks = 2; blocks <= 8; blocks *= 2) {
        double us = time_of(3, [&](int) {
            read_all<<<limits.sm_count * blocks, 512>>>((uint4 *)memory, bytes / 16,
                                                        (uint32_t *)out);
        });
        read = std::max(read, (double)bytes / us * 1e-3);
    }
    CUDA_CHECK(cudaFree(memory));
    flops = peak_of<32>(256, out);
    printf("read %.0f GB/s, bf16 %.0f TFLOP/s; 16 warps, products of 8, 16, 32, 64 columns: %.0f, "
           "%.0f, %.0f, %.0f\n",
           read, flops, peak_of<1>(512, out), peak_of<2>(512, out), peak_of<4>(512, out),
           peak_of<8>(512, out));
    struct {
        const char *name;
        enum nb_cuda_kind kind;
        enum order order;
        int32_t rows, columns, groups, copies;
        enum nb_cuda_epilogue epilogue;
    } const shapes[] = {
        {"qkv", NB_CUDA_NESTED, ROTARY, 6144, 4096, 1, 20, NB_CUDA_STORE_F32},
        {"o", NB_CUDA_NESTED, NATURAL, 4096, 4096, 1, 24, NB_CUDA_STORE_F32},
        {"gate_up", NB_CUDA_NESTED, GATE_UP, 28672, 4096, 8, 1, NB_CUDA_SILU},
        {"down", NB_CUDA_NESTED, NATURAL, 4096, 14336, 8, 1, NB_CUDA_STORE_F32},
        {"head", NB_CUDA_BF16, NATURAL, 32000, 4096, 1, 1, NB_CUDA_STORE_F32},
    };
    printf("%-8s %6s %-7s %9s %7s %5s %8s %5s\n", "", "rows", "kernel", "us", "GB/s", "%",
           "TFLOP/s", "%");
    for (auto s : shapes) {
        if (only_shape && strcmp(s.name, only_shape) != 0)
            continue;
        problem p;
        p.m = make_matrix(s.kind, s.order, s.rows, s.columns, 64, s.groups * s.copies, 128,
                          s.order == ROTARY ? 5120 : 0);
        p.epilogue = s.epilogue, p.whole = s.groups == 1, p.gathered = s.order == GATE_UP;
        std::vector<int32_t> sizes = {16, 32, 64, 128, 256, 512, 1024, 4096, 16384};
        if (s.groups == 1 && s.kind != NB_CUDA_BF16)
            sizes = {9, 16, 32, 64, 128, 512, 2048, 8192};
        if (s.kind == NB_CUDA_BF16)
            sizes = {1, 8, 32, 64};
        for (int32_t n : sizes) {
            if (only_rows && n != only_rows)
                continue;
            uint64_t keep = seed_of_run;
            seed_of_run = 77 + (uint64_t)n;
            p.begin = begins(s.groups == 1 ? std::vector<int32_t>{n} : deal(n, s.groups));
            seed_of_run = keep;
            p.m.groups = s.groups;
            prepare(p);
            for (int k = NB_CUDA_GEMM_PLAIN; k <= NB_CUDA_GEMM_WIDE; k++) {
                static const char *kernels[] = {"any", "plain", "stream", "wide"};
                if (only_kernel ? strcmp(kernels[k], only_kernel) != 0
                                : (k == NB_CUDA_GEMM_PLAIN && n > 512) ||
                                      (k == NB_CUDA_GEMM_STREAM && n > 1024))
                    continue;
                cudaError_t error = cudaSuccess;
                double work = 2.0 * n * s.rows * s.columns;
                double weights = 0;
                for (int32_t e = 0; e < s.groups; e++)
                    weights += p.begin[e + 1] > p.begin[e] ? (double)s.groups : 0;
                weights = weights / s.groups * (double)p.m.w.shape.bytes;
                int calls = (int)std::max(3.0, std::min(40.0, 4e12 / work));
                double t = time_of(calls, [&](int i) {
                    struct nb_cuda_gemm g = p.g;
                    g.w.data += (size_t)(i % s.copies) * p.m.w.shape.bytes;
                    cudaError_t now = nb_cuda_gemm_by((enum nb_cuda_gemm_kernel)k, &g, &model,
                                                      &limits, workspace, 0);
                    error = now != cudaSuccess ? now : error;
                });
                if (error == cudaErrorNotSupported)
                    continue;
                CUDA_CHECK(error);
                printf("%-8s %6d %-7s %9.1f %7.0f %5.1f %8.1f %5.1f\n", s.name, n, kernels[k], t,
                       weights / t * 1e-3, 100 * weights / t * 1e-3 / read, work / t * 1e-6,
                       100 * work / t * 1e-6 / flops);
                fflush(stdout);
            }
            CUDA_CHECK(cudaFree(p.x));
            CUDA_CHECK(cudaFree(p.gather));
            CUDA_CHECK(cudaFree(p.device_begin));
            CUDA_CHECK(cudaFree(p.y));
        }
        CUDA_CHECK(cudaFree((void *)p.m.w.data));
    }
}

#endif

int main(int argc, char **argv) {
#if NB_EMULATED
    emulated_gpu.capability = NB_EMULATED_ARCH, emulated_gpu.sm_count = 3;
#endif
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("1..0 # SKIP no GPU\n");
        return 0;
    }
    bool measure = argc > 1 && strcmp(argv[1], "--bench") == 0;
    bool brief = argc > 1 && strcmp(argv[1], "--brief") == 0; /* few cases: under sanitizers */
    if (argc > 1 && !measure && !brief)
        seed_of_run = strtoull(argv[1], nullptr, 0);
    else if (!measure && !NB_EMULATED)
        seed_of_run = (uint64_t)time(nullptr);
    make_context();
#if !NB_EMULATED
    if (measure) {
        bench(argc > 2 ? argv[2] : nullptr, argc > 3 ? atoi(argv[3]) : 0,
              argc > 4 ? argv[4] : nullptr);
        return 0;
    }
#endif
    printf("# seed %llu\n", (unsigned long long)seed_of_run);
    test(brief);
    printf("1..%d\n", n_tests);
    return n_failed != 0;
}
