/* A library that answers as NVML does, for one GPU, or fails to begin: tests/test_machine.c. */
#include <string.h>

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int code);
int nvmlSystemGetDriverVersion(char *out, unsigned size);
int nvmlSystemGetCudaDriverVersion_v2(int *out);
int nvmlDeviceGetCount_v2(unsigned *out);
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out);
int nvmlDeviceGetName(void *device, char *out, unsigned size);
int nvmlDeviceGetUUID(void *device, char *out, unsigned size);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long out[3]);
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor);
int nvmlDeviceGetEccMode(void *device, int *current, int *pending);

#ifdef FAILS
int nvmlInit_v2(void) {
    return 18;
}
#else
int nvmlInit_v2(void) {
    return 0;
}
#endif

int nvmlShutdown(void) {
    return 0;
}

const char *nvmlErrorString(int code) {
    return code == 18 ? "Driver/library version mismatch" : "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    strncpy(out, "535.104.05", size);
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = 12020;
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    *out = 1;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **out) {
    *out = (void *)1;
    return i != 0;
}

int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    strncpy(out, "NVIDIA GeForce RTX 5090", size);
    return device != (void *)1;
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    strncpy(out, "GPU-0123", size);
    return device != (void *)1;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long out[3]) {
    out[0] = (unsigned long long)32607 << 20;
    out[1] = out[0] / 2;
    out[2] = out[0] / 2;
    return device != (void *)1;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = 12;
    *minor = 0;
    return device != (void *)1;
}

int nvmlDeviceGetEccMode(void *device, int *current, int *pending) {
    *current = *pending = 1;
    return device != (void *)1;
}
