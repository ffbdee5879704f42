/* ELF files, read without trust: sections, what the dynamic linker reads, and the members of
 * archives (.a). 64-bit little-endian only, as every machine that CUDA runs on is.
 *
 * Format: the System V ABI (gABI, chapters 4 and 5) and, for versions of symbols, the Linux
 * Standard Base, "Symbol Versioning". */
#ifndef NB_DOCTOR_ELF_H
#define NB_DOCTOR_ELF_H

#include "base/arena.h"
#include "doctor/bytes.h"

struct nb_elf_section {
    const char *name; /* "" where the file has no table of names */
    uint32_t type;
    uint64_t flags, address, offset, size; /* offset: from the start of the ELF image */
    uint32_t link, info;
};

/* One ELF image: a file, or a member of an archive. */
struct nb_elf {
    const struct nb_bytes *bytes; /* the caller's */
    uint64_t begin, size;         /* where in *bytes the image lies */
    uint16_t type, machine;
    struct nb_elf_section *sections; /* [n_sections]; 0 where they were stripped */
    size_t n_sections;
    struct nb_elf_segment {
        uint32_t type;
        uint64_t offset, address, file_size;
    } * segments; /* [n_segments] */
    size_t n_segments;
};

/* Whether the bytes begin as an ELF file does. */
bool nb_elf_is(const struct nb_bytes *bytes);

/* Reads the headers of the image at bytes[begin, begin + size). Memory is the arena's. `name` is
 * what messages speak of. NB_ERR_FORMAT for what is no ELF file or is cut off, NB_ERR_UNSUPPORTED
 * for 32 bits and big-endian. */
enum nb_status nb_elf_open(const struct nb_bytes *bytes, uint64_t begin, uint64_t size,
                           const char *name, struct nb_arena *arena, struct nb_elf *out,
                           struct nb_error *err);

/* Bytes of the image; false if they are not all there. */
bool nb_elf_read(const struct nb_elf *elf, uint64_t at, void *out, size_t n);

const struct nb_elf_section *nb_elf_find(const struct nb_elf *elf, const char *name);

/* Whether the bytes of a section, up to 256 MiB of them, hold text[0..n), n at most 256. Each byte
 * is read once, 256 KiB at a time. */
bool nb_elf_holds(const struct nb_elf *elf, const struct nb_elf_section *section, const char *text,
                  size_t n);

/* A version of symbols, "GLIBC_2.34", that is wanted of a library, or that a library has. */
struct nb_elf_version {
    const char *file; /* wanted of: a DT_NEEDED name; NULL for those that a library has */
    const char *name;
    uint16_t index; /* in .gnu.version */
    bool weak;
};

/* A symbol that is wanted from elsewhere. */
struct nb_elf_symbol {
    const char *name;
    const struct nb_elf_version *version; /* NULL: none */
    bool weak;
};

/* What the dynamic linker reads. Memory is the arena's. All zero for an image without PT_DYNAMIC.
 */
struct nb_elf_dynamic {
    const char *soname, *rpath, *runpath; /* NULL where absent */
    const char **needed;                  /* [n_needed] */
    size_t n_needed;
    struct nb_elf_version *wants; /* [n_wants] DT_VERNEED */
    size_t n_wants;
    struct nb_elf_version *has; /* [n_has] DT_VERDEF */
    size_t n_has;

    /* For nb_elf_undefined and nb_elf_defines. */
    char *strings;
    uint64_t strings_size, symbols_at, versions_at, n_symbols; /* *_at: from the image's start */
};
enum nb_status nb_elf_dynamic(const struct nb_elf *elf, const char *name, struct nb_arena *arena,
                              struct nb_elf_dynamic *out, struct nb_error *err);

/* Symbols of the dynamic table: those that are undefined (or those that are defined), with their
 * versions. *out is the arena's. At most 4,000,000 are read. */
enum nb_status nb_elf_symbols(const struct nb_elf *elf, const struct nb_elf_dynamic *dynamic,
                              bool defined, const char *name, struct nb_arena *arena,
                              struct nb_elf_symbol **out, size_t *n, struct nb_error *err);

/* The ELF images of a file: itself, or the members of an archive that are ELF files. Stops at the
 * first status that is not NB_OK. */
typedef enum nb_status (*nb_elf_fn)(void *context, const struct nb_elf *elf, const char *name,
                                    struct nb_error *err);
enum nb_status nb_elf_each(const struct nb_bytes *bytes, const char *name, nb_elf_fn fn,
                           void *context, struct nb_error *err);

#endif
