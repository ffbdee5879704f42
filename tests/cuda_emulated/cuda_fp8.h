/* In place of CUDA's header: see cuda_runtime.h here. */
#ifndef NB_TEST_EMULATED_CUDA_FP8_H
#define NB_TEST_EMULATED_CUDA_FP8_H

#include "cuda_runtime.h"

/* A sign, 4 bits of exponent less 7, 3 of mantissa; no infinity, all ones is NaN. From f32 to the
 * nearest, ties to even, at most 448. */
struct __nv_fp8_e4m3 {
    uint8_t __x;

    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(float x) {
        uint8_t sign = signbit(x) ? 0x80 : 0;
        float a = fabsf(x);
        if (a != a) {
            __x = 0x7F;
            return;
        }
        if (a >= 448) {
            __x = sign | 0x7E;
            return;
        }
        int exponent;
        frexpf(a, &exponent);
        int scale = (exponent - 1 < -6 ? -6 : exponent - 1) - 3; /* of the last bit */
        int n = (int)nearbyintf(ldexpf(a, -scale));              /* in units of it, at most 16 */
        __x = sign | (uint8_t)(((scale + 9) << 3) + n);
        if (a == 0)
            __x = sign;
    }
    explicit operator float() const {
        int e = __x >> 3 & 15, m = __x & 7;
        float a = (__x & 0x7F) == 0x7F ? NAN
                  : e                  ? ldexpf((float)(8 + m), e - 10)
                                       : ldexpf((float)m, -9);
        return __x & 0x80 ? -a : a;
    }
};

struct __nv_fp8x4_e4m3 {
    uint32_t __x;

    __nv_fp8x4_e4m3() = default;
    explicit __nv_fp8x4_e4m3(float4 v) {
        __x = (uint32_t)__nv_fp8_e4m3(v.x).__x | (uint32_t)__nv_fp8_e4m3(v.y).__x << 8 |
              (uint32_t)__nv_fp8_e4m3(v.z).__x << 16 | (uint32_t)__nv_fp8_e4m3(v.w).__x << 24;
    }
};

#endif
