#include "doctor/fatbin.h"
#include "base/room.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC = 0xBA55ED50u,
    HEADER_BYTES = 16,
    MIN_ENTRY_BYTES = 64,
    MAX_ENTRY_BYTES = 1 << 20, /* options and names follow the header */
    MAX_CODES = 4000000,
    MAX_FATBINS = 1000000,
    MAX_PADDING_BYTES = 1 << 20, /* between two fatbins; a few bytes in all files seen */
    FLAG_LZ4 = 0x2000,
    FLAG_ZSTD = 0x8000,
    FLAG_ARCH_SPECIFIC = 0x100000,
    FLAG_FAMILY_SPECIFIC = 0x200000,
};

struct header {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;
};

struct entry {
    uint16_t kind, version;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t compressed_bytes, options_at;
    uint16_t minor, major;
    uint32_t arch, name_at, name_bytes;
    uint64_t flags;
    uint64_t unknown, uncompressed_bytes;
};
_Static_assert(sizeof(struct header) == HEADER_BYTES, "as it lies in files");
_Static_assert(sizeof(struct entry) == MIN_ENTRY_BYTES, "as it lies in files");

static enum nb_status add(struct nb_fatbin_list *list, const struct nb_code *code, const char *name,
                          struct nb_error *err) {
    if (list->n == MAX_CODES)
        return nb_fail(err, NB_ERR_LIMIT, "%s: more than %d pieces of CUDA code", name, MAX_CODES);
    if (!nb_room(&list->codes, list->n, &list->cap, sizeof *list->codes))
        return nb_fail_memory(err, 2 * list->cap * sizeof *list->codes, name);
    list->codes[list->n++] = *code;
    return NB_OK;
}

/* A range of the file, and what it is. */
struct range {
    const struct nb_bytes *bytes;
    uint64_t begin, end;
    bool relocatable;
    const char *name;
};

static enum nb_status leads_out(const struct range *r, const char *what, uint64_t at,
                                uint64_t bytes, struct nb_error *err) {
    return nb_fail(err, NB_ERR_FORMAT,
                   "%s: %s at %llu is %llu bytes long, but its section ends at %llu: the CUDA code "
                   "is cut off or overwritten; install the file again",
                   r->name, what, (unsigned long long)at, (unsigned long long)bytes,
                   (unsigned long long)r->end);
}

static enum nb_status read_entry(const struct range *r, uint64_t at, uint64_t end,
                                 struct nb_fatbin_list *out, uint64_t *next, struct nb_error *err) {
    struct entry e;
    if (end - at < sizeof e || !nb_bytes_read(r->bytes, at, &e, sizeof e))
        return leads_out(r, "a fatbin entry", at, sizeof e, err);
    if (e.header_bytes < MIN_ENTRY_BYTES || e.header_bytes > MAX_ENTRY_BYTES)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: the fatbin entry at %llu has a header of %u bytes, expected %d or "
                       "somewhat more",
                       r->name, (unsigned long long)at, e.header_bytes, MIN_ENTRY_BYTES);
    if (e.header_bytes > end - at || e.bytes > end - at - e.header_bytes)
        return leads_out(r, "a fatbin entry", at, e.bytes, err);
    *next = at + e.header_bytes + e.bytes;
    if (e.kind != NB_CODE_PTX && e.kind != NB_CODE_CUBIN && e.kind != NB_CODE_LTO)
        return NB_OK;
    struct nb_code code = {.kind = (enum nb_code_kind)e.kind,
                           .arch = e.arch > UINT16_MAX ? UINT16_MAX : (uint16_t)e.arch,
                           .suffix = e.flags & FLAG_ARCH_SPECIFIC     ? 'a'
                                     : e.flags & FLAG_FAMILY_SPECIFIC ? 'f'
                                                                      : 0,
                           .version_major = e.major,
                           .version_minor = e.minor,
                           .relocatable = r->relocatable,
                           .lz4 = e.flags & FLAG_LZ4,
                           .zstd = e.flags & FLAG_ZSTD,
                           .bytes = e.bytes,
                           .fatbin = out->n_fatbins};
    return add(out, &code, r->name, err);
}

/* One fatbin, whose header was read; *next is where it ends. */
static enum nb_status read_fatbin(const struct range *r, uint64_t at, const struct header *h,
                                  struct nb_fatbin_list *out, uint64_t *next,
                                  struct nb_error *err) {
    if (h->version != 1 || h->header_bytes < HEADER_BYTES || h->header_bytes > r->end - at)
        return nb_fail(
            err, NB_ERR_FORMAT,
            "%s: the fatbin at %llu is of version %u with a header of %u bytes, expected "
            "version 1 with %d",
            r->name, (unsigned long long)at, h->version, h->header_bytes, HEADER_BYTES);
    uint64_t begin = at + h->header_bytes;
    if (h->bytes > r->end - begin)
        return leads_out(r, "a fatbin", at, h->bytes, err);
    uint64_t end = begin + h->bytes;
    enum nb_status s = NB_OK;
    for (uint64_t e = begin; s == NB_OK && e < end;)
        s = read_entry(r, e, end, out, &e, err);
    out->n_fatbins++;
    *next = end;
    return s;
}

/* All the fatbins of a section, one after another at multiples of 8 bytes, zeros between them. */
static enum nb_status read_range(const struct range *r, struct nb_fatbin_list *out,
                                 struct nb_error *err) {
    uint64_t at = r->begin, padding = 0;
    while (r->end - at >= HEADER_BYTES) {
        struct header h;
        if (!nb_bytes_read(r->bytes, at, &h, sizeof h))
            return leads_out(r, "a fatbin", at, sizeof h, err);
        if (padding > MAX_PADDING_BYTES || out->n_fatbins == MAX_FATBINS)
            return nb_fail(err, NB_ERR_LIMIT,
                           "%s: more than %d fatbins, or more than %d bytes of nothing before %llu",
                           r->name, MAX_FATBINS, MAX_PADDING_BYTES, (unsigned long long)at);
        if (h.magic == 0) {
            at += 8;
            padding += 8;
            continue;
        }
        padding = 0;
        if (h.magic != MAGIC)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: found %08x at %llu, where a fatbin (%08x) was expected: the CUDA "
                           "code is overwritten; install the file again",
                           r->name, h.magic, (unsigned long long)at, MAGIC);
        enum nb_status s = read_fatbin(r, at, &h, out, &at, err);
        if (s != NB_OK)
            return s;
        uint64_t off = (at - r->begin) % 8;
        at += off ? 8 - off : 0;
        if (at > r->end)
            break;
    }
    return NB_OK;
}

enum nb_status nb_fatbin_read_elf(const struct nb_elf *elf, const char *name,
                                  struct nb_fatbin_list *out, struct nb_error *err) {
    uint64_t budget = elf->size; /* sections that overlap must not multiply the work */
    for (size_t i = 0; i < elf->n_sections; i++) {
        const struct nb_elf_section *s = &elf->sections[i];
        out->hip = out->hip || strcmp(s->name, ".hip_fatbin") == 0;
        bool relocatable = strcmp(s->name, "__nv_relfatbin") == 0;
        if ((!relocatable && strcmp(s->name, ".nv_fatbin") != 0) || s->type == SHT_NOBITS)
            continue;
        if (s->offset > elf->size || s->size > elf->size - s->offset)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: section %s is at %llu, %llu bytes long, but the file ends at %llu: "
                           "cut off; install it again",
                           name, s->name, (unsigned long long)s->offset,
                           (unsigned long long)s->size, (unsigned long long)elf->size);
        if (s->size > budget)
            return nb_fail(err, NB_ERR_FORMAT, "%s: its CUDA sections overlap", name);
        budget -= s->size;
        struct range r = {elf->bytes, elf->begin + s->offset, elf->begin + s->offset + s->size,
                          relocatable, name};
        enum nb_status status = read_range(&r, out, err);
        if (status != NB_OK)
            return status;
    }
    return NB_OK;
}

static enum nb_status read_image(void *context, const struct nb_elf *elf, const char *name,
                                 struct nb_error *err) {
    return nb_fatbin_read_elf(elf, name, context, err);
}

enum nb_status nb_fatbin_read(const struct nb_bytes *bytes, const char *name,
                              struct nb_fatbin_list *out, struct nb_error *err) {
    *out = (struct nb_fatbin_list){0};
    struct header h = {0};
    nb_bytes_read(bytes, 0, &h, sizeof h);
    if (h.magic == MAGIC) {
        struct range r = {bytes, 0, bytes->size, false, name};
        return read_range(&r, out, err);
    }
    return nb_elf_each(bytes, name, read_image, out, err);
}

void nb_fatbin_free(struct nb_fatbin_list *list) {
    free(list->codes);
    *list = (struct nb_fatbin_list){0};
}

const char *nb_code_name(const struct nb_code *code, char *out) {
    char suffix[2] = {code->suffix, 0};
    snprintf(out, 16, "%s_%u%s", code->kind == NB_CODE_PTX ? "compute" : "sm", code->arch, suffix);
    return out;
}

bool nb_code_runs(const struct nb_code *code, int capability) {
    int major = code->arch / 10, minor = code->arch % 10;
    if (code->kind != NB_CODE_CUBIN || major != capability / 10)
        return false;
    return code->suffix == 'a' ? minor == capability % 10 : minor <= capability % 10;
}

int nb_ptx_cuda_version(int major, int minor) {
    static const struct {
        int ptx, cuda;
    } table[] = {
        {50, 8000},  {60, 9000},  {61, 9010},  {62, 9020},  {63, 10000}, {64, 10010}, {65, 10020},
        {70, 11000}, {71, 11010}, {72, 11020}, {73, 11030}, {74, 11040}, {75, 11050}, {76, 11060},
        {77, 11070}, {78, 11080}, {80, 12000}, {81, 12010}, {82, 12020}, {83, 12030}, {84, 12040},
        {85, 12050}, {86, 12070}, {87, 12080}, {88, 12090}, {90, 13000}, {91, 13010}, {92, 13020},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].ptx >= 10 * major + minor)
            return table[i].cuda;
    }
    return 0;
}

/* Whether the PTX is for this GPU, whatever the driver. */
static bool fits(const struct nb_code *code, int capability) {
    if (code->kind != NB_CODE_PTX || code->arch > capability)
        return false;
    if (code->suffix == 'a')
        return code->arch == capability;
    return code->suffix != 'f' || code->arch / 10 == capability / 10;
}

/* Whether a driver knows the version of the language. What is newer than the table needs a driver
 * newer than the table. */
static bool known(const struct nb_code *code, int driver_cuda) {
    int needs = nb_ptx_cuda_version(code->version_major, code->version_minor);
    return !driver_cuda || (needs && needs <= driver_cuda);
}

bool nb_code_compiles(const struct nb_code *code, int capability, int driver_cuda) {
    return fits(code, capability) && known(code, driver_cuda);
}

/* What a GPU finds in one fatbin. */
struct found {
    bool native, ptx, too_new;
};

/* Codes whose linking is still to come: machine code in __nv_relfatbin does not run by itself, but
 * the driver compiles and links its PTX (nvcc manual, "JIT linking"). They stand for the linked
 * fatbin, so they are taken together as one. */
static void judge_code(const struct nb_code *c, int capability, int driver_cuda, struct found *f,
                       struct nb_judgement *j) {
    if (!c->relocatable && nb_code_runs(c, capability)) {
        f->native = true;
        if (j->verdict != NB_NATIVE || c->arch > j->best.arch)
            j->best = *c;
        j->verdict = NB_NATIVE;
    } else if (nb_code_compiles(c, capability, driver_cuda)) {
        f->ptx = true;
        if (j->verdict != NB_NATIVE) {
            j->best = *c;
            j->verdict = NB_COMPILES;
        }
    } else if (fits(c, capability)) {
        f->too_new = true;
        if (j->verdict != NB_NATIVE && j->verdict != NB_COMPILES) {
            j->verdict = NB_TOO_NEW;
            j->best = *c;
            j->needs_cuda = nb_ptx_cuda_version(c->version_major, c->version_minor);
        }
    }
}

struct nb_judgement nb_fatbin_judge(const struct nb_fatbin_list *list, int capability,
                                    int driver_cuda) {
    struct nb_judgement j = {.verdict = list->n ? NB_NOTHING : NB_NO_CODE};
    bool linked = false; /* is there code that needs no linking? */
    for (size_t i = 0; i < list->n; i++)
        linked = linked || !list->codes[i].relocatable;
    for (size_t i = 0; i < list->n;) {
        struct found f = {0};
        uint32_t fatbin = list->codes[i].fatbin;
        bool counts = !linked || !list->codes[i].relocatable;
        for (; i < list->n && list->codes[i].fatbin == fatbin; i++)
            judge_code(&list->codes[i], capability, driver_cuda, &f, &j);
        j.fatbins += counts;
        j.native += counts && f.native;
        j.compiled += counts && !f.native && f.ptx;
    }
    return j;
}

static int compare_codes(const struct nb_code *a, const struct nb_code *b) {
    static const int rank[] = {[NB_CODE_CUBIN] = 0, [NB_CODE_PTX] = 1, [NB_CODE_LTO] = 2};
    int keys[][2] = {{rank[a->kind], rank[b->kind]},
                     {a->arch, b->arch},
                     {a->suffix, b->suffix},
                     {a->version_major, b->version_major},
                     {a->version_minor, b->version_minor},
                     {a->relocatable, b->relocatable}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    }
    return 0;
}

static int compare(const void *a, const void *b) {
    return compare_codes(a, b);
}

enum nb_status nb_fatbin_count(const struct nb_fatbin_list *list, struct nb_code_count **out,
                               size_t *n, struct nb_error *err) {
    *out = NULL;
    *n = 0;
    struct nb_code *sorted = malloc((list->n + 1) * sizeof *sorted);
    struct nb_code_count *counts = malloc((list->n + 1) * sizeof *counts);
    if (!sorted || !counts) {
        free(sorted);
        free(counts);
        return nb_fail_memory(err, list->n * sizeof *counts, "the CUDA code of a library");
    }
    if (list->n)
        memcpy(sorted, list->codes, list->n * sizeof *sorted);
    qsort(sorted, list->n, sizeof *sorted, compare);
    for (size_t i = 0; i < list->n; i++) {
        if (*n && compare_codes(&counts[*n - 1].code, &sorted[i]) == 0) {
            counts[*n - 1].n++;
            counts[*n - 1].code.bytes += sorted[i].bytes;
        } else {
            counts[(*n)++] = (struct nb_code_count){sorted[i], 1};
        }
    }
    free(sorted);
    *out = counts;
    return NB_OK;
}

const char *nb_fatbin_describe(const struct nb_fatbin_list *list, char *out, size_t size) {
    struct nb_code_count *counts;
    size_t n, used = 0;
    out[0] = 0;
    if (nb_fatbin_count(list, &counts, &n, NULL) != NB_OK)
        return out;
    char last[16] = "";
    enum nb_code_kind kind = 0; /* of the last one */
    for (size_t i = 0; i < n && used < size; i++) {
        const struct nb_code *c = &counts[i].code;
        char name[16];
        nb_code_name(c, name);
        if (c->kind == kind && strcmp(name, last) == 0)
            continue;
        const char *lead = c->kind == kind ? ", " : !kind ? "" : "; ";
        const char *title = c->kind == kind            ? ""
                            : c->kind == NB_CODE_CUBIN ? "sm_"
                            : c->kind == NB_CODE_PTX   ? "PTX compute_"
                                                       : "LTO IR sm_";
        int k = snprintf(out + used, size - used, "%s%s%s", lead, title, strchr(name, '_') + 1);
        used += k > 0 ? (size_t)k : 0;
        kind = c->kind;
        snprintf(last, sizeof last, "%s", name);
    }
    free(counts);
    if (!n)
        snprintf(out, size, "none");
    return out;
}
