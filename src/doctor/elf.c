#include "doctor/elf.h"

#include "base/checked.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SECTIONS = 1 << 16,
    MAX_SEGMENTS = 1 << 12,
    MAX_STRINGS = 1 << 28, /* libtorch_cpu.so has 20 MB */
    MAX_DYNAMIC = 1 << 12,
    MAX_VERSIONS = 1 << 14,
    MAX_SYMBOLS = 4000000,
};

bool nb_elf_is(const struct nb_bytes *bytes) {
    uint8_t magic[SELFMAG];
    return nb_bytes_read(bytes, 0, magic, sizeof magic) && memcmp(magic, ELFMAG, SELFMAG) == 0;
}

bool nb_elf_read(const struct nb_elf *elf, uint64_t at, void *out, size_t n) {
    return at <= elf->size && n <= elf->size - at &&
           nb_bytes_read(elf->bytes, elf->begin + at, out, n);
}

/* The image's bytes [at, at + n) and a NUL after them, from the arena. */
static char *read_block(const struct nb_elf *elf, uint64_t at, uint64_t n, struct nb_arena *arena) {
    if (n > MAX_STRINGS || at > elf->size || n > elf->size - at)
        return NULL;
    char *block = nb_arena_alloc(arena, (size_t)n + 1, 1);
    if (!block || !nb_elf_read(elf, at, block, (size_t)n))
        return NULL;
    return block;
}

/* A string of a table that ends in NUL; "" for a place outside of it. */
static const char *string_at(const char *strings, uint64_t size, uint64_t at) {
    return strings && at < size ? strings + at : "";
}

static enum nb_status cut_off(const char *name, const char *what, uint64_t at, uint64_t bytes,
                              uint64_t size, struct nb_error *err) {
    return nb_fail(err, NB_ERR_FORMAT,
                   "%s: %s is at %llu, %llu bytes long, but the file ends at %llu: cut off, or not "
                   "what it says",
                   name, what, (unsigned long long)at, (unsigned long long)bytes,
                   (unsigned long long)size);
}

static enum nb_status read_segments(struct nb_elf *elf, const Elf64_Ehdr *h, const char *name,
                                    struct nb_arena *arena, struct nb_error *err) {
    if (!h->e_phnum)
        return NB_OK;
    if (h->e_phentsize != sizeof(Elf64_Phdr) || h->e_phnum > MAX_SEGMENTS)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %u program headers of %u bytes, expected %zu", name,
                       h->e_phnum, h->e_phentsize, sizeof(Elf64_Phdr));
    elf->segments = nb_arena_alloc(arena, h->e_phnum, sizeof *elf->segments);
    if (!elf->segments)
        return nb_fail_memory(err, h->e_phnum * sizeof *elf->segments, name);
    for (size_t i = 0; i < h->e_phnum; i++) {
        Elf64_Phdr p;
        uint64_t at = h->e_phoff + i * sizeof p;
        if (at < h->e_phoff || !nb_elf_read(elf, at, &p, sizeof p))
            return cut_off(name, "a program header", at, sizeof p, elf->size, err);
        elf->segments[i].type = p.p_type;
        elf->segments[i].offset = p.p_offset;
        elf->segments[i].address = p.p_vaddr;
        elf->segments[i].file_size = p.p_filesz;
    }
    elf->n_segments = h->e_phnum;
    return NB_OK;
}

static enum nb_status read_sections(struct nb_elf *elf, const Elf64_Ehdr *h, const char *name,
                                    struct nb_arena *arena, struct nb_error *err) {
    if (!h->e_shoff)
        return NB_OK;
    Elf64_Shdr first;
    if (h->e_shentsize != sizeof first)
        return nb_fail(err, NB_ERR_FORMAT, "%s: section headers of %u bytes, expected %zu", name,
                       h->e_shentsize, sizeof first);
    if (!nb_elf_read(elf, h->e_shoff, &first, sizeof first))
        return cut_off(name, "the section table", h->e_shoff, sizeof first, elf->size, err);
    /* Numbers that do not fit in 16 bits are in the first section's header. */
    uint64_t n = h->e_shnum ? h->e_shnum : first.sh_size;
    uint32_t names = h->e_shstrndx == SHN_XINDEX ? first.sh_link : h->e_shstrndx;
    if (n > MAX_SECTIONS)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %llu sections, expected at most %d", name,
                       (unsigned long long)n, MAX_SECTIONS);
    if (n * sizeof first > elf->size - h->e_shoff)
        return cut_off(name, "the section table", h->e_shoff, n * sizeof first, elf->size, err);
    Elf64_Shdr *headers = nb_arena_alloc(arena, (size_t)n, sizeof *headers);
    elf->sections = nb_arena_alloc(arena, (size_t)n, sizeof *elf->sections);
    if (!headers || !elf->sections)
        return nb_fail_memory(err, (size_t)n * sizeof *headers, name);
    if (!nb_elf_read(elf, h->e_shoff, headers, (size_t)n * sizeof *headers))
        return cut_off(name, "the section table", h->e_shoff, n * sizeof first, elf->size, err);
    const char *strings = NULL;
    uint64_t strings_size = 0;
    if (names < n && headers[names].sh_type == SHT_STRTAB) {
        strings_size = headers[names].sh_size;
        strings = read_block(elf, headers[names].sh_offset, strings_size, arena);
        if (!strings)
            return cut_off(name, "the table of section names", headers[names].sh_offset,
                           strings_size, elf->size, err);
    }
    for (size_t i = 0; i < n; i++)
        elf->sections[i] =
            (struct nb_elf_section){.name = string_at(strings, strings_size, headers[i].sh_name),
                                    .type = headers[i].sh_type,
                                    .flags = headers[i].sh_flags,
                                    .address = headers[i].sh_addr,
                                    .offset = headers[i].sh_offset,
                                    .size = headers[i].sh_size,
                                    .link = headers[i].sh_link,
                                    .info = headers[i].sh_info};
    elf->n_sections = (size_t)n;
    return NB_OK;
}

enum nb_status nb_elf_open(const struct nb_bytes *bytes, uint64_t begin, uint64_t size,
                           const char *name, struct nb_arena *arena, struct nb_elf *out,
                           struct nb_error *err) {
    *out = (struct nb_elf){.bytes = bytes, .begin = begin, .size = size};
    Elf64_Ehdr h;
    if (begin > bytes->size || size > bytes->size - begin)
        return cut_off(name, "the image", begin, size, bytes->size, err);
    if (!nb_elf_read(out, 0, h.e_ident, SELFMAG) || memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
        return nb_fail(err, NB_ERR_FORMAT, "%s: no ELF file: it does not begin with \\x7fELF",
                       name);
    if (!nb_elf_read(out, 0, &h, sizeof h.e_ident))
        return cut_off(name, "the ELF header", 0, sizeof h, size, err);
    if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: ELF class %u with data encoding %u; only 64-bit little-endian files "
                       "are read",
                       name, h.e_ident[EI_CLASS], h.e_ident[EI_DATA]);
    if (!nb_elf_read(out, 0, &h, sizeof h))
        return cut_off(name, "the ELF header", 0, sizeof h, size, err);
    out->type = h.e_type;
    out->machine = h.e_machine;
    enum nb_status s = read_segments(out, &h, name, arena, err);
    return s == NB_OK ? read_sections(out, &h, name, arena, err) : s;
}

const struct nb_elf_section *nb_elf_find(const struct nb_elf *elf, const char *name) {
    for (size_t i = 0; i < elf->n_sections; i++) {
        if (strcmp(elf->sections[i].name, name) == 0)
            return &elf->sections[i];
    }
    return NULL;
}

bool nb_elf_holds(const struct nb_elf *elf, const struct nb_elf_section *section, const char *text,
                  size_t n) {
    enum { CHUNK = 256 << 10, MOST = 256 << 20 };
    uint64_t end = section->size < MOST ? section->size : MOST;
    char *buffer = n && n <= 256 && section->type != SHT_NOBITS ? malloc(CHUNK + 256) : NULL;
    bool found = false;
    size_t kept = 0; /* of the chunk before: the text may begin there */
    for (uint64_t at = 0; buffer && !found && at < end;) {
        size_t take = end - at < CHUNK ? (size_t)(end - at) : CHUNK;
        if (!nb_elf_read(elf, section->offset + at, buffer + kept, take))
            break;
        found = memmem(buffer, kept + take, text, n) != NULL;
        size_t have = kept + take;
        kept = have < n - 1 ? have : n - 1;
        memmove(buffer, buffer + have - kept, kept);
        at += take;
    }
    free(buffer);
    return found;
}

/* Where in the file the byte at an address of memory is; false if no segment has it. */
static bool file_offset(const struct nb_elf *elf, uint64_t address, uint64_t *out) {
    for (size_t i = 0; i < elf->n_segments; i++) {
        const struct nb_elf_segment *s = &elf->segments[i];
        if (s->type == PT_LOAD && address >= s->address && address - s->address < s->file_size) {
            *out = s->offset + (address - s->address);
            return *out >= s->offset;
        }
    }
    return false;
}

/* The values of the tags that matter, as they stand in the file. */
struct tags {
    uint64_t needed[MAX_DYNAMIC];
    size_t n_needed;
    uint64_t strtab, strsz, soname, rpath, runpath, verneed, verneednum, verdef, verdefnum, symtab,
        versym, hash, gnu_hash;
    bool has_soname, has_rpath, has_runpath;
};

static void take_tag(const Elf64_Dyn *d, struct tags *t) {
    switch (d->d_tag) {
    case DT_NEEDED:
        if (t->n_needed < MAX_DYNAMIC)
            t->needed[t->n_needed++] = d->d_un.d_val;
        break;
    case DT_SONAME:
        t->soname = d->d_un.d_val;
        t->has_soname = true;
        break;
    case DT_RPATH:
        t->rpath = d->d_un.d_val;
        t->has_rpath = true;
        break;
    case DT_RUNPATH:
        t->runpath = d->d_un.d_val;
        t->has_runpath = true;
        break;
    case DT_STRTAB:
        t->strtab = d->d_un.d_ptr;
        break;
    case DT_STRSZ:
        t->strsz = d->d_un.d_val;
        break;
    case DT_SYMTAB:
        t->symtab = d->d_un.d_ptr;
        break;
    case DT_VERSYM:
        t->versym = d->d_un.d_ptr;
        break;
    case DT_HASH:
        t->hash = d->d_un.d_ptr;
        break;
    case DT_GNU_HASH:
        t->gnu_hash = d->d_un.d_ptr;
        break;
    case DT_VERNEED:
        t->verneed = d->d_un.d_ptr;
        break;
    case DT_VERNEEDNUM:
        t->verneednum = d->d_un.d_val;
        break;
    case DT_VERDEF:
        t->verdef = d->d_un.d_ptr;
        break;
    case DT_VERDEFNUM:
        t->verdefnum = d->d_un.d_val;
        break;
    default:
        break;
    }
}

static bool read_tags(const struct nb_elf *elf, const struct nb_elf_segment *segment,
                      struct tags *t) {
    uint64_t n = segment->file_size / sizeof(Elf64_Dyn);
    for (uint64_t i = 0; i < n && i < MAX_DYNAMIC; i++) {
        Elf64_Dyn d;
        if (!nb_elf_read(elf, segment->offset + i * sizeof d, &d, sizeof d))
            return false;
        if (d.d_tag == DT_NULL)
            break;
        take_tag(&d, t);
    }
    return true;
}

/* DT_VERNEED: a chain of files, each with a chain of versions. Chains go forward only, so they end.
 */
static bool read_wants(const struct nb_elf *elf, const struct tags *t, struct nb_arena *arena,
                       struct nb_elf_dynamic *out) {
    uint64_t at;
    if (!t->verneed || !file_offset(elf, t->verneed, &at))
        return !t->verneed;
    struct nb_elf_version *list = nb_arena_alloc(arena, MAX_VERSIONS, sizeof *list);
    if (!list)
        return false;
    for (uint64_t i = 0; i < t->verneednum && i < MAX_VERSIONS; i++) {
        Elf64_Verneed need;
        if (!nb_elf_read(elf, at, &need, sizeof need))
            return false;
        uint64_t aux_at = at + need.vn_aux;
        for (unsigned j = 0; j < need.vn_cnt && out->n_wants < MAX_VERSIONS; j++) {
            Elf64_Vernaux aux;
            if (!nb_elf_read(elf, aux_at, &aux, sizeof aux))
                return false;
            list[out->n_wants++] = (struct nb_elf_version){
                .file = string_at(out->strings, out->strings_size, need.vn_file),
                .name = string_at(out->strings, out->strings_size, aux.vna_name),
                .index = aux.vna_other & 0x7FFF,
                .weak = aux.vna_flags & VER_FLG_WEAK};
            if (!aux.vna_next)
                break;
            aux_at += aux.vna_next;
        }
        if (!need.vn_next)
            break;
        at += need.vn_next;
    }
    out->wants = list;
    return true;
}

static bool read_has(const struct nb_elf *elf, const struct tags *t, struct nb_arena *arena,
                     struct nb_elf_dynamic *out) {
    uint64_t at;
    if (!t->verdef || !file_offset(elf, t->verdef, &at))
        return !t->verdef;
    struct nb_elf_version *list = nb_arena_alloc(arena, MAX_VERSIONS, sizeof *list);
    if (!list)
        return false;
    for (uint64_t i = 0; i < t->verdefnum && out->n_has < MAX_VERSIONS; i++) {
        Elf64_Verdef def;
        Elf64_Verdaux aux;
        if (!nb_elf_read(elf, at, &def, sizeof def) ||
            !nb_elf_read(elf, at + def.vd_aux, &aux, sizeof aux))
            return false;
        list[out->n_has++] = (struct nb_elf_version){
            .name = string_at(out->strings, out->strings_size, aux.vda_name),
            .index = def.vd_ndx & 0x7FFF};
        if (!def.vd_next)
            break;
        at += def.vd_next;
    }
    out->has = list;
    return true;
}

/* How many symbols there are: DT_HASH says it; else the section that holds them. */
static uint64_t count_symbols(const struct nb_elf *elf, const struct tags *t, uint64_t symbols_at) {
    uint64_t at;
    uint32_t hash[2];
    if (t->hash && file_offset(elf, t->hash, &at) && nb_elf_read(elf, at, hash, sizeof hash))
        return hash[1];
    for (size_t i = 0; i < elf->n_sections; i++) {
        if (elf->sections[i].type == SHT_DYNSYM && elf->sections[i].offset == symbols_at)
            return elf->sections[i].size / sizeof(Elf64_Sym);
    }
    return 0;
}

static enum nb_status read_dynamic(const struct nb_elf *elf, const struct nb_elf_segment *segment,
                                   struct tags *t, const char *name, struct nb_arena *arena,
                                   struct nb_elf_dynamic *out, struct nb_error *err) {
    uint64_t at;
    if (!read_tags(elf, segment, t))
        return cut_off(name, "the dynamic section", segment->offset, segment->file_size, elf->size,
                       err);
    if (!t->strtab || !file_offset(elf, t->strtab, &at))
        return nb_fail(err, NB_ERR_FORMAT, "%s: the dynamic section names no table of strings",
                       name);
    out->strings = read_block(elf, at, t->strsz, arena);
    if (!out->strings)
        return cut_off(name, "the table of dynamic strings", at, t->strsz, elf->size, err);
    out->strings_size = t->strsz;
    const char *s = out->strings;
    out->soname = t->has_soname ? string_at(s, t->strsz, t->soname) : NULL;
    out->rpath = t->has_rpath ? string_at(s, t->strsz, t->rpath) : NULL;
    out->runpath = t->has_runpath ? string_at(s, t->strsz, t->runpath) : NULL;
    out->needed = nb_arena_alloc(arena, t->n_needed, sizeof *out->needed);
    if (!out->needed)
        return nb_fail_memory(err, t->n_needed * sizeof *out->needed, name);
    for (size_t i = 0; i < t->n_needed; i++)
        out->needed[i] = string_at(s, t->strsz, t->needed[i]);
    out->n_needed = t->n_needed;
    if (!read_wants(elf, t, arena, out) || !read_has(elf, t, arena, out))
        return nb_fail(err, NB_ERR_FORMAT, "%s: the versions of its symbols cannot be read", name);
    if (t->symtab && file_offset(elf, t->symtab, &out->symbols_at))
        out->n_symbols = count_symbols(elf, t, out->symbols_at);
    if (!t->versym || !file_offset(elf, t->versym, &out->versions_at))
        out->versions_at = 0;
    return NB_OK;
}

enum nb_status nb_elf_dynamic(const struct nb_elf *elf, const char *name, struct nb_arena *arena,
                              struct nb_elf_dynamic *out, struct nb_error *err) {
    *out = (struct nb_elf_dynamic){0};
    for (size_t i = 0; i < elf->n_segments; i++) {
        if (elf->segments[i].type != PT_DYNAMIC)
            continue;
        struct tags *t = calloc(1, sizeof *t);
        if (!t)
            return nb_fail_memory(err, sizeof *t, name);
        enum nb_status s = read_dynamic(elf, &elf->segments[i], t, name, arena, out, err);
        free(t);
        return s;
    }
    return NB_OK;
}

/* The versions by their index, [0x8000]; NULL if memory ran out. */
static const struct nb_elf_version **index_versions(const struct nb_elf_version *list, size_t n,
                                                    struct nb_arena *arena) {
    const struct nb_elf_version **by_index = nb_arena_alloc(arena, 0x8000, sizeof *by_index);
    for (size_t i = 0; by_index && i < n; i++)
        by_index[list[i].index] = &list[i];
    return by_index;
}

/* n symbols of the table into *out, as nb_elf_symbols has it. `versions` may be NULL. */
static size_t take_symbols(const struct nb_elf_dynamic *d, bool defined, const Elf64_Sym *symbols,
                           const uint16_t *versions, const struct nb_elf_version **by_index,
                           size_t n, struct nb_elf_symbol *out) {
    size_t taken = 0;
    for (size_t i = 0; i < n; i++) {
        const Elf64_Sym *s = &symbols[i];
        unsigned bind = ELF64_ST_BIND(s->st_info);
        if ((s->st_shndx != SHN_UNDEF) != defined || bind == STB_LOCAL || !s->st_name)
            continue;
        unsigned index = versions ? versions[i] & 0x7FFF : 0;
        out[taken++] =
            (struct nb_elf_symbol){.name = string_at(d->strings, d->strings_size, s->st_name),
                                   .version = index < 2 ? NULL : by_index[index],
                                   .weak = bind == STB_WEAK};
    }
    return taken;
}

enum nb_status nb_elf_symbols(const struct nb_elf *elf, const struct nb_elf_dynamic *dynamic,
                              bool defined, const char *name, struct nb_arena *arena,
                              struct nb_elf_symbol **out, size_t *n, struct nb_error *err) {
    enum { CHUNK = 1024 };
    *out = NULL;
    *n = 0;
    uint64_t total = dynamic->n_symbols;
    if (total > MAX_SYMBOLS)
        return nb_fail(err, NB_ERR_LIMIT, "%s: %llu dynamic symbols, expected at most %d", name,
                       (unsigned long long)total, MAX_SYMBOLS);
    if (total * sizeof(Elf64_Sym) > elf->size)
        return cut_off(name, "the symbol table", dynamic->symbols_at, total * sizeof(Elf64_Sym),
                       elf->size, err);
    struct nb_elf_symbol *list = nb_arena_alloc(arena, (size_t)total, sizeof *list);
    const struct nb_elf_version **by_index =
        index_versions(defined ? dynamic->has : dynamic->wants,
                       defined ? dynamic->n_has : dynamic->n_wants, arena);
    if (!list || !by_index)
        return nb_fail_memory(err, (size_t)total * sizeof *list, name);
    for (uint64_t i = 0; i < total; i += CHUNK) {
        Elf64_Sym symbols[CHUNK];
        uint16_t versions[CHUNK];
        size_t k = total - i < CHUNK ? (size_t)(total - i) : CHUNK;
        bool versioned = dynamic->versions_at != 0;
        if (!nb_elf_read(elf, dynamic->symbols_at + i * sizeof *symbols, symbols,
                         k * sizeof *symbols) ||
            (versioned && !nb_elf_read(elf, dynamic->versions_at + i * sizeof *versions, versions,
                                       k * sizeof *versions)))
            return cut_off(name, "the symbol table", dynamic->symbols_at, total * sizeof(Elf64_Sym),
                           elf->size, err);
        *n += take_symbols(dynamic, defined, symbols, versioned ? versions : NULL, by_index, k,
                           list + *n);
    }
    *out = list;
    return NB_OK;
}

static enum nb_status open_and_call(const struct nb_bytes *bytes, uint64_t begin, uint64_t size,
                                    const char *name, nb_elf_fn fn, void *context,
                                    struct nb_error *err) {
    struct nb_arena arena = {0};
    struct nb_elf elf;
    enum nb_status s = nb_elf_open(bytes, begin, size, name, &arena, &elf, err);
    if (s == NB_OK)
        s = fn(context, &elf, name, err);
    nb_arena_free(&arena);
    return s;
}

/* A member's header in an archive (System V, GNU). */
struct member {
    char name[16], date[12], uid[6], gid[6], mode[8], size[10], end[2];
};

/* "/123" is a place in the table of long names, "//"; each ends in "/\n". */
static void member_name(const struct member *m, const char *long_names, size_t n, char *out,
                        size_t size) {
    char short_name[sizeof m->name + 1] = {0};
    memcpy(short_name, m->name, sizeof m->name);
    if (short_name[0] == '/' && short_name[1] >= '0' && short_name[1] <= '9') {
        size_t at = strtoul(short_name + 1, NULL, 10);
        if (long_names && at < n) {
            snprintf(out, size, "%.*s", (int)strcspn(long_names + at, "/\n"), long_names + at);
            return;
        }
    }
    snprintf(out, size, "%.*s", (int)strcspn(short_name, "/ "), short_name);
}

static enum nb_status each_member(const struct nb_bytes *bytes, const char *name, nb_elf_fn fn,
                                  void *context, struct nb_arena *arena, struct nb_error *err) {
    char *long_names = NULL;
    size_t n_long = 0;
    struct member m;
    for (uint64_t at = 8; at < bytes->size;) {
        if (!nb_bytes_read(bytes, at, &m, sizeof m) || memcmp(m.end, "`\n", 2) != 0)
            return nb_fail(err, NB_ERR_FORMAT, "%s: no header of an archive member at %llu", name,
                           (unsigned long long)at);
        char digits[sizeof m.size + 1] = {0};
        memcpy(digits, m.size, sizeof m.size);
        uint64_t size = strtoull(digits, NULL, 10);
        at += sizeof m;
        if (size > bytes->size - at)
            return cut_off(name, "an archive member", at, size, bytes->size, err);
        uint8_t magic[SELFMAG] = {0};
        if (m.name[0] == '/' && m.name[1] == '/' && size < (1 << 24) && !long_names) {
            long_names = nb_arena_alloc(arena, (size_t)size + 1, 1);
            if (!long_names)
                return nb_fail_memory(err, (size_t)size, name);
            n_long = nb_bytes_read(bytes, at, long_names, (size_t)size) ? (size_t)size : 0;
        } else if (nb_bytes_read(bytes, at, magic, sizeof magic) &&
                   memcmp(magic, ELFMAG, SELFMAG) == 0) {
            char full[512], part[256];
            member_name(&m, long_names, n_long, part, sizeof part);
            snprintf(full, sizeof full, "%.240s(%s)", name, part);
            enum nb_status s = open_and_call(bytes, at, size, full, fn, context, err);
            if (s != NB_OK)
                return s;
        }
        at += size + size % 2;
    }
    return NB_OK;
}

enum nb_status nb_elf_each(const struct nb_bytes *bytes, const char *name, nb_elf_fn fn,
                           void *context, struct nb_error *err) {
    char magic[8] = {0};
    nb_bytes_read(bytes, 0, magic, sizeof magic);
    if (memcmp(magic, "!<arch>\n", 8) != 0)
        return open_and_call(bytes, 0, bytes->size, name, fn, context, err);
    struct nb_arena arena = {0};
    enum nb_status s = each_member(bytes, name, fn, context, &arena, err);
    nb_arena_free(&arena);
    return s;
}
