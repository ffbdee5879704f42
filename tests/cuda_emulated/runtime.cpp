/* What a host sees of the emulated GPU. A stream is a list of what was asked for; whoever calls
 * does what is due, one at a time, for the emulator's state is one. */
#include "cuda_runtime.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

static int default_capability() {
    const char *p = getenv("NB_EMULATED_GPU");
    return p ? atoi(p) : 90;
}
struct emulated_gpu emulated_gpu = {default_capability(), 16, (size_t)256 << 20, 0, 1, 13000};

struct emulated_stream {
    struct item {
        std::function<void()> what;
        bool is_kernel;
    };
    std::deque<item> work;
};

struct emulated_event {
    bool timing;
    emulated_stream *in; /* of the last record; null: none yet */
    uint64_t recorded, reached;
    std::chrono::steady_clock::time_point when;
};

namespace {

enum { PAGE = 4096, GARBAGE_BYTES = 4 << 20 };

/* Of the device, or of the host and pinned. */
struct allocation {
    uint8_t *p, *device; /* of the host: as the device addresses it, if it is mapped */
    size_t bytes;
    uint8_t *pages, *device_pages; /* all that was mapped, with a page that cannot be touched */
    size_t page_bytes;
};

std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> locked;
std::map<const void *, allocation> device_memory, host_memory;
std::vector<emulated_stream *> streams;
std::vector<emulated_event *> events;
std::map<const void *, int> shared_limits;
size_t device_bytes, peak_bytes;
int inside; /* device memory can be touched while this is above 0 */

struct {
    unsigned kinds;
    uint64_t at, n;
    cudaError_t code;
    bool lost;
} fault;
cudaError_t lost; /* what the device said when it was lost */
thread_local cudaError_t last_error;

uint64_t random_state = 1;
unsigned random_below(unsigned n) {
    uint64_t z = random_state += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (unsigned)((z >> 32) * n >> 32);
}

[[noreturn]] void forbidden(const char *what) {
    printf("Bail out! emulated CUDA: %s\n", what);
    fflush(stdout);
    abort();
}

cudaError_t done_with(cudaError_t code) {
    if (code != cudaSuccess)
        last_error = code;
    return code;
}

bool is_faulty(unsigned kind) {
    return fault.kinds & kind && ++fault.n == fault.at;
}

/* ---- what was asked for is done ---- */

void protect(int access) {
    for (auto &a : device_memory)
        mprotect(a.second.pages, a.second.page_bytes - PAGE, access);
    for (auto &a : host_memory) {
        if (a.second.device_pages)
            mprotect(a.second.device_pages, a.second.page_bytes - PAGE, access);
    }
}

struct on_device {
    on_device() {
        if (inside++ == 0)
            protect(PROT_READ | PROT_WRITE);
    }
    ~on_device() {
        if (--inside == 0)
            protect(PROT_NONE);
    }
};

/* A kernel that is due and says when the next may begin: it is run when something must wait for it,
 * so that the one after it can have begun before. */
struct {
    const emulated_stream *in;
    std::function<void()> run;
} late;

void run_late() {
    if (!late.run)
        return;
    on_device here;
    auto run = std::move(late.run);
    late.run = nullptr;
    if (lost == cudaSuccess)
        run();
}

bool may_execute() {
    if (lost != cudaSuccess)
        return false;
    if (is_faulty(EMULATED_EXECUTION)) {
        lost = fault.code;
        late.run = nullptr;
        return false;
    }
    return true;
}

void execute(const std::function<void()> &what) {
    run_late();
    if (!may_execute())
        return;
    on_device here;
    what();
}

typedef std::function<bool(const std::function<void()> &before)> kernel_run;

/* Kernels that say when the next one may begin, as they have been seen to. */
std::vector<const void *> that_say_so;

void execute_kernel(const emulated_stream *stream, const void *kernel, bool overlaps,
                    const kernel_run &run) {
    auto says_so = [=] {
        return std::find(that_say_so.begin(), that_say_so.end(), kernel) != that_say_so.end();
    };
    auto run_and_see = [=](const std::function<void()> &before) {
        if (run(before) && !says_so())
            that_say_so.push_back(kernel);
    };
    on_device here;
    if (late.run && late.in == stream && overlaps && random_below(2)) {
        if (!may_execute())
            return;
        auto before = std::move(late.run);
        late.run = nullptr;
        run_and_see(before);
        return;
    }
    run_late();
    if (!may_execute())
        return;
    if (says_so())
        late = {stream, [=] { run_and_see(nullptr); }};
    else
        run_and_see(nullptr);
}

void do_next(emulated_stream *s) {
    auto next = std::move(s->work.front());
    s->work.pop_front();
    if (next.is_kernel)
        next.what();
    else
        execute(next.what);
}

void drain(emulated_stream *s) {
    on_device here;
    while (!s->work.empty())
        do_next(s);
    run_late();
}

/* The device goes on by itself now and then. */
void pass_time() {
    if (streams.empty() || random_below(16))
        return;
    on_device here;
    for (unsigned n = random_below(32); n; n--) {
        emulated_stream *s = streams[random_below((unsigned)streams.size())];
        if (!s->work.empty())
            do_next(s);
    }
}

/* What each call begins with: an error if the device is lost, or if this one is to fail. */
cudaError_t begin(unsigned kind) {
    pass_time();
    if (kind != EMULATED_LAUNCH)
        run_late();
    if (lost != cudaSuccess)
        return lost;
    if (!is_faulty(kind))
        return cudaSuccess;
    if (fault.lost)
        lost = fault.code;
    return fault.code;
}

#define BEGIN(kind)                                                                                \
    locked hold(lock);                                                                             \
    do {                                                                                           \
        cudaError_t code_ = begin(kind);                                                           \
        if (code_ != cudaSuccess)                                                                  \
            return done_with(code_);                                                               \
    } while (0)

void put(emulated_stream *s, std::function<void()> what) {
    if (s)
        s->work.push_back({std::move(what), false});
    else
        execute(what);
}

void check(emulated_stream *s) {
    if (s && std::find(streams.begin(), streams.end(), s) == streams.end())
        forbidden("a stream that there is not");
}

void check(emulated_event *e) {
    if (std::find(events.begin(), events.end(), e) == events.end())
        forbidden("an event that there is not");
}

/* ---- memory ---- */

/* Pages that begin as garbage, each copied when it is written to. */
int garbage_file() {
    static int file = -1;
    if (file >= 0)
        return file;
    file = memfd_create("garbage", MFD_CLOEXEC);
    std::vector<uint32_t> words(GARBAGE_BYTES / 4);
    for (uint32_t &w : words)
        w = random_below(2) ? 0x7FC12345U : random_below(~0U);
    if (file < 0 || write(file, words.data(), GARBAGE_BYTES) != GARBAGE_BYTES)
        forbidden("no memory for garbage");
    return file;
}

size_t pages_of(size_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

uint8_t *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        forbidden("no address space");
    return (uint8_t *)p;
}

/* As near to the page that cannot be touched as the alignment of CUDA's allocations lets it. */
uint8_t *place(uint8_t *pages, size_t page_bytes, size_t bytes) {
    return pages + (page_bytes - PAGE) - (bytes + 255) / 256 * 256;
}

allocation map_device(size_t bytes) {
    allocation a = {};
    a.bytes = bytes;
    a.page_bytes = pages_of(bytes) + PAGE;
    a.pages = reserve(a.page_bytes);
    for (size_t at = 0; at < a.page_bytes - PAGE; at += GARBAGE_BYTES) {
        size_t n = std::min((size_t)GARBAGE_BYTES, a.page_bytes - PAGE - at);
        if (mmap(a.pages + at, n, inside ? PROT_READ | PROT_WRITE : PROT_NONE,
                 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, garbage_file(), 0) == MAP_FAILED)
            forbidden("no memory");
    }
    a.p = place(a.pages, a.page_bytes, bytes);
    return a;
}

allocation map_host(size_t bytes, bool mapped) {
    allocation a = {};
    a.bytes = bytes;
    a.page_bytes = pages_of(bytes) + PAGE;
    a.pages = reserve(a.page_bytes);
    int file = memfd_create("pinned", MFD_CLOEXEC), writable = PROT_READ | PROT_WRITE;
    if (file < 0 || ftruncate(file, (off_t)a.page_bytes) != 0 ||
        mmap(a.pages, a.page_bytes - PAGE, writable, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
        forbidden("no memory");
    if (mapped) {
        a.device_pages = reserve(a.page_bytes);
        if (mmap(a.device_pages, a.page_bytes - PAGE, inside ? writable : PROT_NONE,
                 MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
            forbidden("no memory");
        a.device = place(a.device_pages, a.page_bytes, bytes);
    }
    close(file);
    a.p = place(a.pages, a.page_bytes, bytes);
    memset(a.p, 0xA5, bytes);
    return a;
}

void unmap(const allocation &a) {
    munmap(a.pages, a.page_bytes);
    if (a.device_pages)
        munmap(a.device_pages, a.page_bytes);
}

const allocation *find(const std::map<const void *, allocation> &in, const void *p) {
    auto i = in.upper_bound(p);
    if (i == in.begin())
        return nullptr;
    const allocation &a = (--i)->second;
    return (const uint8_t *)p < a.p + a.bytes ? &a : nullptr;
}

enum where { PAGEABLE, PINNED, DEVICE };

/* Where [p, p + n) is: all of it in one piece of the device's or of pinned memory, or in neither.
 */
where where_is(const void *p, size_t n) {
    const allocation *d = find(device_memory, p), *h = find(host_memory, p), *a = d ? d : h;
    if (a && (const uint8_t *)p + n > a->p + a->bytes)
        forbidden("a copy beyond an allocation");
    for (auto &m : host_memory) {
        if (m.second.device && (size_t)((const uint8_t *)p - m.second.device) < m.second.bytes)
            return DEVICE;
    }
    return d ? DEVICE : h ? PINNED : PAGEABLE;
}

void check_kind(where to, where from, cudaMemcpyKind kind) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice,
         from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault &&
        ((to == DEVICE) != to_device || (from == DEVICE) != from_device))
        forbidden("a copy that says another direction than its addresses do");
}

} // namespace

/* ---- of the device ---- */

extern "C" {

#define NAMES(NAME)                                                                                \
    NAME(cudaSuccess, "no error")                                                                  \
    NAME(cudaErrorInvalidValue, "invalid argument")                                                \
    NAME(cudaErrorMemoryAllocation, "out of memory")                                               \
    NAME(cudaErrorInvalidConfiguration, "invalid configuration argument")                          \
    NAME(cudaErrorStubLibrary, "CUDA driver is a stub library")                                    \
    NAME(cudaErrorInsufficientDriver, "CUDA driver version is insufficient")                       \
    NAME(cudaErrorDevicesUnavailable, "device(s) is/are busy or unavailable")                      \
    NAME(cudaErrorInvalidDeviceFunction, "invalid device function")                                \
    NAME(cudaErrorNoDevice, "no CUDA-capable device is detected")                                  \
    NAME(cudaErrorInvalidDevice, "invalid device ordinal")                                         \
    NAME(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution")            \
    NAME(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered")                         \
    NAME(cudaErrorInvalidPtx, "a PTX JIT compilation failed")                                      \
    NAME(cudaErrorUnsupportedPtxVersion, "the provided PTX needs a newer driver")                  \
    NAME(cudaErrorInvalidResourceHandle, "invalid resource handle")                                \
    NAME(cudaErrorNotReady, "device not ready")                                                    \
    NAME(cudaErrorIllegalAddress, "an illegal memory access was encountered")                      \
    NAME(cudaErrorLaunchFailure, "unspecified launch failure")                                     \
    NAME(cudaErrorCooperativeLaunchTooLarge, "too many blocks in cooperative launch")              \
    NAME(cudaErrorNotSupported, "operation not supported")                                         \
    NAME(cudaErrorSystemDriverMismatch, "driver and runtime do not match")                         \
    NAME(cudaErrorCompatNotSupportedOnDevice, "forward compatibility is not supported")            \
    NAME(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorName(cudaError_t code) {
#define NAME(c, text)                                                                              \
    if (code == c)                                                                                 \
        return #c;
    NAMES(NAME)
#undef NAME
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t code) {
#define NAME(c, text)                                                                              \
    if (code == c)                                                                                 \
        return text;
    NAMES(NAME)
#undef NAME
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void) {
    locked hold(lock);
    cudaError_t code = lost != cudaSuccess ? lost : last_error;
    last_error = cudaSuccess;
    return code;
}

cudaError_t cudaGetDeviceCount(int *n) {
    BEGIN(EMULATED_ASK);
    if (emulated_gpu.driver < CUDART_VERSION / 1000 * 1000)
        return done_with(cudaErrorInsufficientDriver);
    *n = emulated_gpu.devices;
    return *n ? cudaSuccess : done_with(cudaErrorNoDevice);
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = emulated_gpu.driver;
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
    return cudaSetDevice(device);
}

cudaError_t cudaSetDevice(int device) {
    BEGIN(EMULATED_ASK);
    return device >= 0 && device < emulated_gpu.devices ? cudaSuccess
                                                        : done_with(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int) {
    BEGIN(EMULATED_ASK);
    *out = {"Emulated GPU", emulated_gpu.memory_bytes, emulated_gpu.capability / 10,
            emulated_gpu.capability % 10, emulated_gpu.sm_count};
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    BEGIN(EMULATED_WAIT);
    for (emulated_stream *s : streams)
        drain(s);
    return done_with(lost);
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **out, size_t bytes) {
    BEGIN(EMULATED_MALLOC);
    *out = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (bytes > emulated_gpu.memory_bytes - emulated_gpu.taken_bytes - device_bytes)
        return done_with(cudaErrorMemoryAllocation);
    allocation a = map_device(bytes);
    device_memory[a.p] = a;
    device_bytes += bytes;
    peak_bytes = std::max(peak_bytes, device_bytes);
    *out = a.p;
    return cudaSuccess;
}

/* Waits for all that was begun, as CUDA's does. */
static cudaError_t release(std::map<const void *, allocation> &memory, void *p, const char *what) {
    locked hold(lock);
    run_late();
    if (!p)
        return done_with(lost);
    for (emulated_stream *s : streams)
        drain(s);
    auto i = memory.find(p);
    if (i == memory.end())
        forbidden(what);
    if (&memory == &device_memory)
        device_bytes -= i->second.bytes;
    unmap(i->second);
    memory.erase(i);
    return done_with(lost);
}

cudaError_t cudaFree(void *p) {
    return release(device_memory, p, "cudaFree of what is not there");
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
    BEGIN(EMULATED_HOST_ALLOC);
    *out = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    allocation a = map_host(bytes, flags & cudaHostAllocMapped);
    host_memory[a.p] = a;
    *out = a.p;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    return release(host_memory, p, "cudaFreeHost of what is not there");
}

cudaError_t cudaHostGetDevicePointer(void **out, void *host, unsigned) {
    BEGIN(EMULATED_COPY);
    const allocation *a = find(host_memory, host);
    if (!a || !a->device)
        return done_with(cudaErrorInvalidValue);
    *out = a->device + ((uint8_t *)host - a->p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all) {
    BEGIN(EMULATED_ASK);
    *all = emulated_gpu.memory_bytes;
    *free_bytes = emulated_gpu.memory_bytes - emulated_gpu.taken_bytes - device_bytes;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
    BEGIN(EMULATED_COPY);
    check(stream);
    if (n && where_is(p, n) == PINNED)
        forbidden("a memset of the host's memory");
    put(stream, [=] { memset(p, value, n); });
    return cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t n) {
    return cudaMemsetAsync(p, value, n, nullptr);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return cudaMemcpy2DAsync(to, n, from, n, n, 1, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind) {
    cudaError_t code = cudaMemcpy2DAsync(to, n, from, n, n, 1, kind, nullptr);
    return code != cudaSuccess ? code : done_with(lost);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream) {
    BEGIN(EMULATED_COPY);
    check(stream);
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (width > to_pitch || width > from_pitch)
        return done_with(cudaErrorInvalidValue);
    where target = where_is(to, (height - 1) * to_pitch + width),
          source = where_is(from, (height - 1) * from_pitch + width);
    check_kind(target, source, kind);
    auto copy = [=] {
        for (size_t i = 0; i < height; i++)
            memcpy((uint8_t *)to + i * to_pitch, (const uint8_t *)from + i * from_pitch, width);
    };
    if (source == PAGEABLE || target == PAGEABLE) { /* CUDA's own staging: done when it returns */
        if (stream)
            drain(stream);
        execute(copy);
        return done_with(lost);
    }
    if (target == PINNED && stream) {
        for (size_t i = 0; i < height; i++)
            memset((uint8_t *)to + i * to_pitch, 0xA5, width);
    }
    put(stream, copy);
    return cudaSuccess;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    BEGIN(EMULATED_STREAM_CREATE);
    if (flags != cudaStreamNonBlocking)
        forbidden("a stream that waits for the null stream: not emulated");
    *out = new emulated_stream;
    streams.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    BEGIN(EMULATED_WAIT);
    check(stream);
    if (stream)
        drain(stream);
    return done_with(lost);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    locked hold(lock);
    check(stream);
    drain(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    for (emulated_event *e : events)
        e->in = e->in == stream ? nullptr : e->in;
    delete stream;
    return done_with(lost);
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    BEGIN(EMULATED_STREAM_CREATE);
    *out = new emulated_event();
    (*out)->timing = !(flags & cudaEventDisableTiming);
    events.push_back(*out);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    BEGIN(EMULATED_WAIT);
    check(event);
    check(stream);
    uint64_t number = ++event->recorded;
    event->in = stream;
    put(stream, [=] {
        if (std::find(events.begin(), events.end(), event) == events.end())
            return;
        event->reached = number;
        event->when = std::chrono::steady_clock::now();
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    BEGIN(EMULATED_WAIT);
    check(event);
    while (event->in && event->reached < event->recorded && !event->in->work.empty())
        do_next(event->in);
    return done_with(lost);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    BEGIN(EMULATED_WAIT);
    check(from);
    check(to);
    if (!from->timing || !to->timing || !from->recorded || !to->recorded)
        return done_with(cudaErrorInvalidResourceHandle);
    if (from->reached < from->recorded || to->reached < to->recorded)
        return done_with(cudaErrorNotReady);
    *ms = std::chrono::duration<float, std::milli>(to->when - from->when).count();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    locked hold(lock);
    check(event);
    events.erase(std::find(events.begin(), events.end(), event));
    delete event;
    return done_with(lost);
}

/* ---- what tests ask and change ---- */

void emulated_fault(unsigned kinds, uint64_t at, cudaError_t code, bool is_lost) {
    locked hold(lock);
    fault = {kinds, at, 0, code, is_lost};
}

uint64_t emulated_calls(void) {
    locked hold(lock);
    return fault.n;
}

struct emulated_use emulated_use(void) {
    locked hold(lock);
    struct emulated_use use = {};
    use.allocations = device_memory.size();
    use.device_bytes = device_bytes;
    use.host_allocations = host_memory.size();
    for (auto &a : host_memory)
        use.host_bytes += a.second.bytes;
    use.streams = streams.size();
    use.events = events.size();
    return use;
}

size_t emulated_peak(void) {
    locked hold(lock);
    size_t peak = peak_bytes;
    peak_bytes = device_bytes;
    return peak;
}

void emulated_restart(void) {
    locked hold(lock);
    lost = cudaSuccess;
    last_error = cudaSuccess;
    fault = {};
}

} /* extern "C" */

/* ---- launching ---- */

namespace emulator {

enum { MOST_SHARED = 227 * 1024, MOST_WITHOUT_ASKING = 48 * 1024 };

cudaError_t set_shared_limit(const void *kernel, int bytes) {
    BEGIN(EMULATED_LAUNCH);
    if (bytes < 0 || bytes > MOST_SHARED)
        return done_with(cudaErrorInvalidValue);
    shared_limits[kernel] = bytes;
    return cudaSuccess;
}

cudaError_t attributes_of(cudaFuncAttributes *out, int arch) {
    BEGIN(EMULATED_ASK);
    if (emulated_gpu.capability < arch)
        return done_with(cudaErrorNoKernelImageForDevice);
    *out = {arch, arch, 128, 1024};
    return cudaSuccess;
}

cudaError_t start(const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, bool together,
                  bool overlaps, cudaStream_t stream, std::function<void()> body) {
    BEGIN(EMULATED_LAUNCH);
    check(stream);
    auto limit = shared_limits.find(kernel);
    size_t most =
        limit == shared_limits.end() ? (size_t)MOST_WITHOUT_ASKING : (size_t)limit->second;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 ||
        grid.z > 65535 || block.x == 0 || block.x > 1024)
        return done_with(cudaErrorInvalidConfiguration);
    if (block.y != 1 || block.z != 1)
        forbidden("threads in two dimensions: not emulated");
    if (shared_bytes > std::max(most, (size_t)MOST_WITHOUT_ASKING))
        return done_with(cudaErrorInvalidValue);
    /* No more blocks than there are multiprocessors: each has one, and all go on. */
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    together = together || blocks <= (uint64_t)emulated_gpu.sm_count;
    kernel_run run = [=](const std::function<void()> &before) {
        return launch(
            {grid.x, grid.y, grid.z}, block.x, shared_bytes, together,
            [](const void *f) { (*(const std::function<void()> *)f)(); }, &body, before);
    };
    if (stream)
        stream->work.push_back({[=] { execute_kernel(stream, kernel, overlaps, run); }, true});
    else
        execute_kernel(stream, kernel, overlaps, run);
    return cudaSuccess;
}

} // namespace emulator
