#include "backend/cpu/kernels.h"

#include "base/float16.h"

#include <math.h>

static void widen_bf16(const uint16_t *in, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = nb_bf16_to_f32(in[i]);
}

/* Sixteen sums in turn, added pairwise at the end: closer to the exact sum than a single one, and a
 * compiler can keep them in vectors. */
static float dot(const float *a, const float *b, size_t n) {
    enum { LANES = 16 };
    float sum[LANES] = {0};
    size_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        for (size_t i = 0; i < LANES; i++)
            sum[i] += a[k + i] * b[k + i];
    }
    for (size_t i = 0; k + i < n; i++)
        sum[i] += a[k + i] * b[k + i];
    for (size_t half = LANES / 2; half; half /= 2) {
        for (size_t i = 0; i < half; i++)
            sum[i] += sum[i + half];
    }
    return sum[0];
}

static void products(const float *x, size_t x_stride, int tokens, const float *w, size_t w_stride,
                     int rows, size_t n, float *y, size_t y_stride) {
    for (int t = 0; t < tokens; t++) {
        for (int r = 0; r < rows; r++)
            y[(size_t)t * y_stride + (size_t)r] =
                dot(x + (size_t)t * x_stride, w + (size_t)r * w_stride, n);
    }
}

static void add_scaled(float a, const float *x, size_t n, float *y) {
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void add_weighted(const float *s, size_t s_stride, int tokens, const float *v, int rows,
                         size_t n, float *y, size_t y_stride) {
    for (int t = 0; t < tokens; t++) {
        for (int r = 0; r < rows; r++)
            add_scaled(s[(size_t)t * s_stride + (size_t)r], v + (size_t)r * n, n,
                       y + (size_t)t * y_stride);
    }
}

static void softmax(float *x, size_t n, float scale) {
    float max = x[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf((x[i] - max) * scale);
        sum += x[i];
    }
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}

static void silu_times(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

const struct nb_kernels nb_kernels_plain = {
    .name = "plain",
    .dequantize = nb_dequantize_f32,
    .widen_bf16 = widen_bf16,
    .products = products,
    .add_weighted = add_weighted,
    .softmax = softmax,
    .silu_times = silu_times,
    .add_scaled = add_scaled,
};
