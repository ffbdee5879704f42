/* The CUDA code inside a library: every cubin (machine code) and every PTX (text that the driver
 * compiles), and what of it a GPU can run.
 *
 * A host compiler puts a *fatbin* for each translation unit into the section .nv_fatbin; with
 * relocatable device code (-rdc) each unit's own code goes to __nv_relfatbin, and what nvlink made
 * of all of it to .nv_fatbin. NVIDIA does not document the layout. What is read here, the same from
 * the oldest files seen (CUDA 11.0) to CUDA 13.2, was learnt by compiling known programs with nvcc
 * and comparing the bytes with what `cuobjdump --list-elf --list-ptx` says of them:
 *
 *   header   u32 0xBA55ED50, u16 version 1, u16 bytes of this header (16), u64 bytes of the entries
 *   entry    u16 kind (1 PTX, 2 cubin, 8 LTO IR), u16 0x0101, u32 bytes of this header (64 or
 * more), u64 bytes of the payload, u32 of it compressed, u32, u16 minor and u16 major version (of
 * the PTX language, for PTX), u32 architecture (90: sm_90), u32, u32, u64 flags flags    0x2000
 * LZ4, 0x8000 zstd, 0x100000 architecture-specific ("sm_90a"), 0x200000 family-specific ("sm_100f")
 *
 * All that has to be known is in the headers: nothing is decompressed. */
#ifndef NB_DOCTOR_FATBIN_H
#define NB_DOCTOR_FATBIN_H

#include "doctor/elf.h"

enum nb_code_kind { NB_CODE_PTX = 1, NB_CODE_CUBIN = 2, NB_CODE_LTO = 8 };

/* A piece of code. */
struct nb_code {
    enum nb_code_kind kind;
    uint16_t arch;                         /* 90 for sm_90: 10 * major + minor */
    char suffix;                           /* 'a', 'f' or 0 */
    uint16_t version_major, version_minor; /* of PTX: the language's version */
    bool relocatable;                      /* of __nv_relfatbin: to be linked before it can run */
    bool lz4, zstd;
    uint64_t bytes;  /* as it lies there */
    uint32_t fatbin; /* the number of its fatbin within the file */
};

/* How often each (kind, arch, suffix, version, relocatable) is there. */
struct nb_code_count {
    struct nb_code code; /* .bytes: of all of them */
    uint32_t n;
};

/* The code of a library. */
struct nb_fatbin_list {
    struct nb_code *codes; /* [n], in the order of the file; NULL for none */
    size_t n, cap;
    uint32_t n_fatbins;
    bool hip; /* a .hip_fatbin: code for AMD's GPUs, which is not read */
};

/* Reads all the code in a file: an ELF file, an archive of them, or a bare .fatbin. A file without
 * any is NB_OK with an empty list. NB_ERR_FORMAT where a header leads out of its section: what was
 * found before is in *out even then. The caller frees *out in any case. Takes time in proportion to
 * the number of entries, at most 4,000,000. */
enum nb_status nb_fatbin_read(const struct nb_bytes *bytes, const char *name,
                              struct nb_fatbin_list *out, struct nb_error *err);

/* The same for one image that is open: appends to *out. */
enum nb_status nb_fatbin_read_elf(const struct nb_elf *elf, const char *name,
                                  struct nb_fatbin_list *out, struct nb_error *err);
void nb_fatbin_free(struct nb_fatbin_list *list);

/* "sm_90a" for cubins and LTO IR, "compute_90a" for PTX, into out[0..16). Returns out. */
const char *nb_code_name(const struct nb_code *code, char *out);

/* Whether a cubin runs on a GPU of that compute capability (120 for 12.0): the same major, a minor
 * not above; with "a" that very one; with "f" its family, which is the same major from its minor
 * on. Source: CUDA C++ Programming Guide, "Compute capability", and the nvcc manual, "GPU feature
 * list". */
bool nb_code_runs(const struct nb_code *code, int capability);

/* Whether the driver of a CUDA version (12040 for 12.4; 0: any) can compile this PTX for the GPU.
 */
bool nb_code_compiles(const struct nb_code *code, int capability, int driver_cuda);

/* The CUDA version, 12040, whose driver is the first to know a version of PTX; 0 if it is newer
 * than all that is known here. Source: PTX ISA manual, "Release Notes". */
int nb_ptx_cuda_version(int major, int minor);

/* What a GPU finds in a library. Counted are fatbins: each holds the kernels of one translation
 * unit, built for its own set of architectures. */
enum nb_verdict {
    NB_NO_CODE,  /* nothing to run on any GPU: no fatbin at all */
    NB_NATIVE,   /* machine code in some fatbin, perhaps PTX in others */
    NB_COMPILES, /* PTX only: the driver compiles it at the first use */
    NB_TOO_NEW,  /* PTX that would do, but of a version that the driver does not know */
    NB_NOTHING,  /* code, but none for this GPU */
};
struct nb_judgement {
    enum nb_verdict verdict;
    uint32_t fatbins;          /* with anything that could be run: not those to be linked */
    uint32_t native, compiled; /* of those: with machine code; else with PTX */
    struct nb_code best;       /* the code that decided, where there is one */
    int needs_cuda;            /* NB_TOO_NEW: the first CUDA version whose driver could */
};

/* capability: 120 for 12.0. driver_cuda: 12040 for 12.4, or 0 where no driver is known. */
struct nb_judgement nb_fatbin_judge(const struct nb_fatbin_list *list, int capability,
                                    int driver_cuda);

/* "sm_75, 80, 86, 90, 100, 120; PTX compute_120" into out[0..size): what there is. Returns out. */
const char *nb_fatbin_describe(const struct nb_fatbin_list *list, char *out, size_t size);

/* The distinct codes of a list with their numbers, cubins before PTX, by architecture: *out is the
 * caller's to free. */
enum nb_status nb_fatbin_count(const struct nb_fatbin_list *list, struct nb_code_count **out,
                               size_t *n, struct nb_error *err);

#endif
