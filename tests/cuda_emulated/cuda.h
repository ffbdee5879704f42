/* In place of CUDA's header: tensor maps, and the function of the driver that makes them. */
#ifndef NB_TEST_EMULATED_CUDA_H
#define NB_TEST_EMULATED_CUDA_H

#include "cuda_runtime.h"

typedef uint64_t cuuint64_t;
typedef uint32_t cuuint32_t;

struct alignas(64) CUtensorMap {
    emulator::box_map map;
};

enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE };
enum CUtensorMapDataType {
    CU_TENSOR_MAP_DATA_TYPE_UINT64 = 5,
    CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9
};
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion {
    CU_TENSOR_MAP_L2_PROMOTION_L2_128B = 2,
    CU_TENSOR_MAP_L2_PROMOTION_L2_256B
};
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

/* What the driver's refuses, this refuses (CUDA driver API, "Tensor Map Object Management"). */
inline CUresult cuTensorMapEncodeTiled(CUtensorMap *out, CUtensorMapDataType type, cuuint32_t rank,
                                       void *base, const cuuint64_t *size, const cuuint64_t *stride,
                                       const cuuint32_t *box, const cuuint32_t *step,
                                       CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                       CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    emulator::box_map m = {};
    m.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_UINT64 ? 8 : 2;
    if ((uintptr_t)out % 64 || (uintptr_t)base % 16 || rank < 2 || rank > 4)
        return CUDA_ERROR_INVALID_VALUE;
    uint64_t least = m.element_bytes;
    for (unsigned i = 0; i < rank; i++) {
        if (size[i] == 0 || size[i] > (uint64_t)1 << 32 || box[i] == 0 || box[i] > 256 ||
            step[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        least *= size[i];
        if (i + 1 < rank && (stride[i] % 16 || stride[i] >= (uint64_t)1 << 40 || stride[i] < least))
            return CUDA_ERROR_INVALID_VALUE;
        if (i + 1 < rank)
            least = stride[i];
        m.size[i] = size[i], m.box[i] = box[i], m.stride[i] = i ? stride[i - 1] : m.element_bytes;
    }
    uint64_t row_bytes = (uint64_t)box[0] * m.element_bytes;
    if (row_bytes % 16 || (swizzle == CU_TENSOR_MAP_SWIZZLE_128B && row_bytes > 128))
        return CUDA_ERROR_INVALID_VALUE;
    m.magic = emulator::BOX_MAP_MAGIC, m.base = (const uint8_t *)base, m.rank = rank;
    m.swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    out->map = m;
    return CUDA_SUCCESS;
}

enum cudaDriverEntryPointQueryResult {
    cudaDriverEntryPointSuccess,
    cudaDriverEntryPointSymbolNotFound
};
enum { cudaEnableDefault };

inline cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **out, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult *result) {
    bool known = strcmp(name, "cuTensorMapEncodeTiled") == 0;
    *out = known ? (void *)cuTensorMapEncodeTiled : nullptr;
    *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

#endif
