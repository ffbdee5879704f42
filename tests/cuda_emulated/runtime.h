/* The host's side of CUDA on an emulated GPU: what nibble uses of the runtime, for C and C++.
 *
 * What CUDA leaves open is decided at random (emulator::seed), what it forbids ends the test:
 *
 *   - Copies and kernels on a stream are done in order, and late: when something waits for them, or
 *     now and then at another call. What a copy to the host writes to is garbage until then, and
 *     what one from pinned memory reads is what is there then.
 *   - Device memory begins as garbage. The host cannot touch it, nor what follows it: that is a
 *     fault of the process. Mapped memory of the host has another address for the device.
 *   - A kernel that need not wait for the one before it begins before that has done anything, now
 *     and then, if that one says that it may.
 *   - The null stream waits for no other, and what is put there is done at once.
 *   - Calls can be made to fail (emulated_fault below), once or, as when a GPU falls off the bus,
 *     from then on.
 */
#ifndef NB_TEST_EMULATED_RUNTIME_H
#define NB_TEST_EMULATED_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CUDART_VERSION 13000

typedef enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorStubLibrary = 34,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorECCUncorrectable = 214,
    cudaErrorInvalidPtx = 218,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorCooperativeLaunchTooLarge = 720,
    cudaErrorNotSupported = 801,
    cudaErrorSystemDriverMismatch = 803,
    cudaErrorCompatNotSupportedOnDevice = 804,
    cudaErrorUnknown = 999,
} cudaError_t;

typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

enum {
    cudaStreamNonBlocking = 1,
    cudaEventDisableTiming = 2,
    cudaHostAllocMapped = 2,
    cudaDeviceScheduleSpin = 1,
    cudaDeviceMapHost = 8,
    cudaInitDeviceFlagsAreValid = 1,
};

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

struct cudaFuncAttributes {
    int ptxVersion, binaryVersion; /* 90 for 9.0: what the kernels were compiled for */
    int numRegs, maxThreadsPerBlock;
};

const char *cudaGetErrorName(cudaError_t code);
const char *cudaGetErrorString(cudaError_t code);
cudaError_t cudaGetLastError(void);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaInitDevice(int device, unsigned device_flags, unsigned flags);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device);
cudaError_t cudaDeviceSynchronize(void);

cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned flags);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all);

cudaError_t cudaMemset(void *p, int value, size_t n);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaEventDestroy(cudaEvent_t event);

/* ---- what tests ask and change ---- */

/* The GPU, for what comes from then on. */
struct emulated_gpu {
    int capability; /* 90 for 9.0 */
    int sm_count;
    size_t memory_bytes;
    size_t taken_bytes; /* by others */
    int devices;        /* 0: none */
    int driver;         /* 13000 for 13.0; 0: none */
};
extern struct emulated_gpu emulated_gpu;

/* Which calls can be made to fail. Those that free are not among them, but fail once the GPU is
 * lost, and free what is the host's. */
enum {
    EMULATED_ASK = 1,           /* for devices, properties, memory */
    EMULATED_MALLOC = 2,        /* cudaMalloc */
    EMULATED_HOST_ALLOC = 4,    /* cudaHostAlloc */
    EMULATED_STREAM_CREATE = 8, /* and events */
    EMULATED_COPY = 16,         /* copies and memsets that are begun; the mapping of memory */
    EMULATED_LAUNCH = 32,
    EMULATED_WAIT = 64,      /* for a stream, an event, the device; recording an event */
    EMULATED_EXECUTION = 128 /* of a copy or a kernel: the device is lost, whatever `lost` says */
};

/* The call number `at`, from 1, of those in `kinds` fails with `code`; if it is `lost`, so does all
 * that comes after, with the same. 0: none does. Counting begins when this is set. */
void emulated_fault(unsigned kinds, uint64_t at, cudaError_t code, bool lost);

/* How many calls of `kinds` there were since emulated_fault was called. */
uint64_t emulated_calls(void);

/* What there is now: all 0 once everything was given back. */
struct emulated_use {
    size_t allocations, device_bytes, host_allocations, host_bytes, streams, events;
};
struct emulated_use emulated_use(void);

/* The largest device_bytes since the last call. */
size_t emulated_peak(void);

/* A process that begins anew: a lost device is there again. Frees nothing. */
void emulated_restart(void);

#ifdef __cplusplus
} /* extern "C" */

template <class T> cudaError_t cudaMalloc(T **out, size_t bytes) {
    return cudaMalloc((void **)out, bytes);
}
inline cudaError_t cudaGetDevice(int *out) {
    *out = 0;
    return cudaSuccess;
}

/* ---- launching ---- */

#include <functional>
#include <tuple>
#include <utility>

enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum { cudaLaunchAttributeProgrammaticStreamSerialization = 6 };

struct cudaLaunchAttribute {
    int id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

namespace emulator {

cudaError_t set_shared_limit(const void *kernel, int bytes);
cudaError_t attributes_of(cudaFuncAttributes *out, int arch);
cudaError_t start(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, bool together,
                  bool overlaps, cudaStream_t stream, std::function<void()> body);

} // namespace emulator

template <class T> cudaError_t cudaFuncSetAttribute(T *kernel, int, int bytes) {
    return emulator::set_shared_limit((const void *)kernel, bytes);
}

template <class T> cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, T *) {
    cudaError_t code = emulator::attributes_of(out, __CUDA_ARCH__ / 10);
    /* Of with_wgmma in gemm.cu: no other kernel is asked for it. */
    out->maxThreadsPerBlock = NB_EMULATED_ARCH == 90 ? 64 : 32;
    return code;
}

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(P...), A &&...a) {
    std::tuple<P...> arguments(std::forward<A>(a)...);
    bool overlaps = false;
    for (unsigned i = 0; i < c->numAttrs; i++)
        overlaps = overlaps || c->attrs[i].val.programmaticStreamSerializationAllowed;
    return emulator::start((const void *)kernel, c->gridDim, c->blockDim, c->dynamicSmemBytes,
                           false, overlaps, c->stream, [=] { std::apply(kernel, arguments); });
}

/* Of a kernel of one argument. */
template <class P>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(P), dim3 grid, dim3 block, void **arguments,
                                        size_t shared_bytes, cudaStream_t stream) {
    std::decay_t<P> argument = *(const std::decay_t<P> *)arguments[0];
    return emulator::start((const void *)kernel, grid, block, shared_bytes, true, false, stream,
                           [=] { kernel(argument); });
}

#endif

#endif
