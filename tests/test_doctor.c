/* The doctor: what is read from made files, and what is found. */
#include "test.h"

#include "doctor/doctor.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- ELF files with fatbins, made here ---- */

struct file {
    uint8_t data[16384];
    size_t n;
};

static void put(struct file *f, const void *bytes, size_t n) {
    assert_true(n <= sizeof f->data - f->n);
    memcpy(f->data + f->n, bytes, n);
    f->n += n;
}

/* One entry of a fatbin: a header of header_bytes and a payload of 24 bytes. */
static void put_entry(struct file *f, uint16_t kind, uint32_t arch, uint64_t flags, int ptx,
                      uint32_t header_bytes) {
    struct {
        uint16_t kind, version;
        uint32_t header_bytes;
        uint64_t bytes;
        uint32_t compressed, options;
        uint16_t minor, major;
        uint32_t arch, name, name_bytes;
        uint64_t flags, unknown, uncompressed;
    } e = {.kind = kind,
           .version = 0x101,
           .header_bytes = header_bytes,
           .bytes = 24,
           .minor = (uint16_t)(ptx % 10),
           .major = (uint16_t)(ptx / 10),
           .arch = arch,
           .flags = flags};
    static const uint8_t zeros[256];
    put(f, &e, sizeof e);
    put(f, zeros, header_bytes - sizeof e + 24);
}

/* Begins a fatbin; end_fatbin sets its size. */
static size_t begin_fatbin(struct file *f) {
    size_t at = f->n;
    static const uint8_t header[16] = {0x50, 0xED, 0x55, 0xBA, 1, 0, 16, 0};
    put(f, header, sizeof header);
    return at;
}

static void end_fatbin(struct file *f, size_t at) {
    uint64_t bytes = f->n - at - 16;
    memcpy(f->data + at + 8, &bytes, sizeof bytes);
}

static struct nb_fatbin_list read_list(const struct file *f) {
    struct nb_bytes bytes = nb_bytes_of(f->data, f->n);
    struct nb_fatbin_list list;
    struct nb_error err;
    assert_ok(nb_fatbin_read(&bytes, "made", &list, &err), err);
    return list;
}

static void assert_broken(const struct file *f, enum nb_status status, const char *says) {
    struct nb_bytes bytes = nb_bytes_of(f->data, f->n);
    struct nb_fatbin_list list;
    struct nb_error err = {0};
    assert_int_equal(nb_fatbin_read(&bytes, "made", &list, &err), status);
    if (!strstr(err.message, says))
        fail_msg("\"%s\" does not say \"%s\"", err.message, says);
    nb_fatbin_free(&list);
}

/* An ELF file whose sections are .nv_fatbin and __nv_relfatbin, of the contents given. */
static void make_elf(struct file *f, const struct file *linked, const struct file *relocatable) {
    static const char names[] = "\0.nv_fatbin\0__nv_relfatbin\0.shstrtab";
    Elf64_Ehdr h = {.e_ident = {0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                    .e_type = ET_DYN,
                    .e_machine = EM_X86_64,
                    .e_shentsize = sizeof(Elf64_Shdr),
                    .e_shnum = 4,
                    .e_shstrndx = 3};
    Elf64_Shdr s[4] = {{0}};
    f->n = sizeof h;
    s[1] = (Elf64_Shdr){1, SHT_PROGBITS, .sh_offset = f->n, .sh_size = linked->n};
    put(f, linked->data, linked->n);
    s[2] = (Elf64_Shdr){12, SHT_PROGBITS, .sh_offset = f->n, .sh_size = relocatable->n};
    put(f, relocatable->data, relocatable->n);
    s[3] = (Elf64_Shdr){27, SHT_STRTAB, .sh_offset = f->n, .sh_size = sizeof names};
    put(f, names, sizeof names);
    h.e_shoff = f->n;
    put(f, s, sizeof s);
    memcpy(f->data, &h, sizeof h);
}

/* ---- fatbins ---- */

static void test_fatbin_entries(void **state) {
    (void)state;
    struct file f = {.n = 0};
    size_t at = begin_fatbin(&f);
    put_entry(&f, 2, 75, 0x11, 0, 64);
    put_entry(&f, 2, 90, 0x102011, 0, 112);
    put_entry(&f, 1, 100, 0x208011, 90, 96);
    put_entry(&f, 77, 100, 0, 0, 64); /* a kind that is not known is passed over */
    end_fatbin(&f, at);
    static const uint8_t padding[24];
    put(&f, padding, sizeof padding);
    at = begin_fatbin(&f);
    put_entry(&f, 8, 90, 0x18011, 0, 64);
    end_fatbin(&f, at);

    struct nb_fatbin_list list = read_list(&f);
    char text[128], name[16];
    assert_int_equal(list.n, 4);
    assert_int_equal(list.n_fatbins, 2);
    assert_string_equal(nb_code_name(&list.codes[0], name), "sm_75");
    assert_false(list.codes[0].lz4 || list.codes[0].zstd);
    assert_string_equal(nb_code_name(&list.codes[1], name), "sm_90a");
    assert_true(list.codes[1].lz4 && !list.codes[1].zstd);
    assert_string_equal(nb_code_name(&list.codes[2], name), "compute_100f");
    assert_true(list.codes[2].zstd);
    assert_int_equal(list.codes[2].version_major, 9);
    assert_int_equal(list.codes[3].kind, NB_CODE_LTO);
    assert_int_equal(list.codes[3].fatbin, 1);
    assert_string_equal(nb_fatbin_describe(&list, text, sizeof text),
                        "sm_75, 90a; PTX compute_100f; LTO IR sm_90");
    nb_fatbin_free(&list);
}

static void test_fatbin_sections(void **state) {
    (void)state;
    struct file linked = {.n = 0}, relocatable = {.n = 0}, f = {.n = 0};
    size_t at = begin_fatbin(&linked);
    put_entry(&linked, 2, 80, 0x11, 0, 64);
    end_fatbin(&linked, at);
    at = begin_fatbin(&relocatable);
    put_entry(&relocatable, 2, 90, 0x11, 0, 64);
    put_entry(&relocatable, 1, 80, 0x11, 81, 96);
    end_fatbin(&relocatable, at);
    make_elf(&f, &linked, &relocatable);
    struct nb_fatbin_list list = read_list(&f);
    assert_int_equal(list.n, 3);
    assert_false(list.codes[0].relocatable);
    assert_true(list.codes[1].relocatable && list.codes[2].relocatable);
    /* Relocatable machine code does not run by itself; its PTX is compiled and linked. */
    assert_int_equal(nb_fatbin_judge(&list, 86, 0).verdict, NB_NATIVE);
    struct nb_judgement j = nb_fatbin_judge(&list, 90, 12010);
    assert_int_equal(j.verdict, NB_COMPILES);
    assert_int_equal(j.fatbins, 1);
    assert_int_equal(nb_fatbin_judge(&list, 75, 0).verdict, NB_NOTHING);
    nb_fatbin_free(&list);

    /* An archive of it, with a name that is too long for the header. */
    static const char head[] = "!<arch>\n"
                               "//                                              26        `\n"
                               "a_name_of_more_than_16.o/\n"
                               "/0              0           0     0     644     ";
    char size[16];
    struct file archive = {.n = 0};
    put(&archive, head, sizeof head - 1);
    snprintf(size, sizeof size, "%-10zu`\n", f.n);
    put(&archive, size, 12);
    put(&archive, f.data, f.n);
    list = read_list(&archive);
    assert_int_equal(list.n, 3);
    nb_fatbin_free(&list);
    archive.n -= 100;
    assert_broken(&archive, NB_ERR_FORMAT, "an archive member");
}

static void test_fatbin_broken(void **state) {
    (void)state;
    struct file f = {.n = 0}, nothing = {.n = 0}, elf = {.n = 0};
    size_t at = begin_fatbin(&f);
    put_entry(&f, 2, 75, 0x11, 0, 64);
    end_fatbin(&f, at);
    struct file g = f;
    g.n -= 8;
    assert_broken(&g, NB_ERR_FORMAT, "a fatbin at 0 is 88 bytes long");
    g = f;
    g.data[4] = 9;
    assert_broken(&g, NB_ERR_FORMAT, "version 9");
    g = f;
    g.data[16 + 4] = 3; /* a header shorter than any */
    assert_broken(&g, NB_ERR_FORMAT, "header of 3 bytes");
    g = f;
    g.data[16 + 8] = 200; /* a payload that is longer than the fatbin */
    assert_broken(&g, NB_ERR_FORMAT, "a fatbin entry at 16");
    g = f;
    put(&g, "overwritten here", 16);
    assert_broken(&g, NB_ERR_FORMAT, "where a fatbin");
    make_elf(&elf, &f, &nothing);
    g = elf;
    g.n -= 4;
    assert_broken(&g, NB_ERR_FORMAT, "the section table");
    g = elf;
    g.data[EI_CLASS] = ELFCLASS32;
    assert_broken(&g, NB_ERR_UNSUPPORTED, "64-bit little-endian");
    g = elf;
    g.data[0] = 'x';
    assert_broken(&g, NB_ERR_FORMAT, "does not begin with");
    g.n = 0;
    assert_broken(&g, NB_ERR_FORMAT, "no ELF file");
}

static void test_code_for_gpus(void **state) {
    (void)state;
    struct nb_code c = {.kind = NB_CODE_CUBIN, .arch = 86};
    assert_true(nb_code_runs(&c, 86) && nb_code_runs(&c, 89));
    assert_false(nb_code_runs(&c, 80) || nb_code_runs(&c, 90));
    c = (struct nb_code){.kind = NB_CODE_CUBIN, .arch = 100, .suffix = 'a'};
    assert_true(nb_code_runs(&c, 100));
    assert_false(nb_code_runs(&c, 103));
    c.suffix = 'f';
    assert_true(nb_code_runs(&c, 103));
    assert_false(nb_code_runs(&c, 120));

    c = (struct nb_code){.kind = NB_CODE_PTX, .arch = 80, .version_major = 8, .version_minor = 1};
    assert_true(nb_code_compiles(&c, 120, 12080) && nb_code_compiles(&c, 80, 12010));
    assert_false(nb_code_compiles(&c, 75, 12080));  /* never for an older GPU */
    assert_false(nb_code_compiles(&c, 120, 11080)); /* the driver does not know PTX 8.1 */
    assert_true(nb_code_compiles(&c, 120, 0));
    c.suffix = 'a';
    assert_true(nb_code_compiles(&c, 80, 12010));
    assert_false(nb_code_compiles(&c, 90, 12010));
    c = (struct nb_code){
        .kind = NB_CODE_PTX, .arch = 100, .suffix = 'f', .version_major = 8, .version_minor = 8};
    assert_true(nb_code_compiles(&c, 103, 12090));
    assert_false(nb_code_compiles(&c, 120, 12090));
    assert_int_equal(nb_ptx_cuda_version(8, 5), 12050);
    assert_int_equal(nb_ptx_cuda_version(99, 0), 0);

    struct nb_code one = {.kind = NB_CODE_PTX, .arch = 90, .version_major = 8, .version_minor = 4};
    struct nb_fatbin_list list = {.codes = &one, .n = 1, .n_fatbins = 1};
    struct nb_judgement j = nb_fatbin_judge(&list, 120, 12010);
    assert_int_equal(j.verdict, NB_TOO_NEW);
    assert_int_equal(j.needs_cuda, 12040);
}

/* ---- the table of GPUs ---- */

static void test_gpu_table(void **state) {
    (void)state;
    struct nb_gpu_table t;
    struct nb_error err;
    assert_ok(nb_gpu_table_open(&t, &err), err);
    assert_true(t.n_gpus > 50);
    for (size_t i = 0; i < t.n_gpus; i++) {
        const struct nb_gpu *g;
        assert_non_null(nb_gpu_architecture(&t, t.gpus[i].capability));
        assert_true(strlen(t.gpus[i].source) > 3);
        assert_true(t.gpus[i].memory_bytes >= (uint64_t)4 << 30);
        /* Each is found by its name, and no other has it. */
        assert_ok(nb_gpu_find(&t, t.gpus[i].name, &g, &err), err);
        assert_ptr_equal(g, &t.gpus[i]);
        for (size_t j = 0; j < g->n_aliases; j++) {
            assert_ok(nb_gpu_find(&t, t.gpus[i].aliases[j], &g, &err), err);
            assert_ptr_equal(g, &t.gpus[i]);
        }
    }
    const struct nb_gpu *g;
    static const char *const names[] = {"RTX 5090", "rtx5090", "NVIDIA GeForce RTX 5090", "5090"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_ok(nb_gpu_find(&t, names[i], &g, &err), err);
        assert_int_equal(g->capability, 120);
        assert_int_equal(g->memory_bytes, (uint64_t)32607 << 20);
    }
    assert_ok(nb_gpu_find(&t, "NVIDIA H100 80GB HBM3", &g, &err), err);
    assert_int_equal(g->capability, 90);
    assert_int_equal(nb_gpu_find(&t, "RTX 50900", &g, &err), NB_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "RTX 5090"));
    assert_int_equal(nb_gpu_find(&t, "", &g, &err), NB_ERR_ARGUMENT);
    assert_int_equal(nb_gpu_architecture(&t, 120)->first_cuda, 12080);
    assert_string_equal(nb_cuda_driver(&t, 12040)->driver, "550.54.14");
    /* A CUDA that is newer than the table needs what its major version needs. */
    assert_string_equal(nb_cuda_driver(&t, 13990)->minimum, "580.65.06");
    assert_null(nb_cuda_driver(&t, 14000));
    nb_gpu_table_free(&t);
    static const char *const bad[] = {"[]", "{\"gpus\": [{\"name\": \"x\"}]}",
                                      "{\"gpus\": [{\"name\": 1}]}",
                                      "{\"architectures\": [{\"capability\": 75}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(nb_gpu_table_parse(bad[i], strlen(bad[i]), "made", &t, &err),
                         NB_ERR_FORMAT);
    assert_int_equal(nb_cuda_version("12.4"), 12040);
    assert_int_equal(nb_cuda_version("13"), 13000);
    assert_int_equal(nb_cuda_version("x"), 0);
}

static void test_findings(void **state) {
    (void)state;
    struct nb_findings f;
    nb_findings_init(&f);
    nb_findings_add(&f, NB_SEVERITY_GOOD, "fine", "good", NULL, NULL);
    assert_true(nb_findings_fit(&f));
    nb_findings_add(&f, NB_SEVERITY_ERROR, "import-unsatisfied", "follows", "", "");
    nb_findings_add(&f, NB_SEVERITY_ERROR, "mixed-installation", "cause\x1b[31m", "a\nb", "do");
    nb_findings_sort(&f);
    assert_string_equal(f.list[0].title, "cause?[31m");
    assert_string_equal(f.list[0].evidence, "a\nb");
    assert_string_equal(f.list[2].title, "good");
    assert_false(nb_findings_fit(&f));
    json_t *o = nb_findings_json(&f);
    assert_non_null(o);
    assert_int_equal(json_array_size(json_object_get(o, "findings")), 3);
    json_decref(o);
    nb_findings_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fatbin_entries), cmocka_unit_test(test_fatbin_sections),
        cmocka_unit_test(test_fatbin_broken),  cmocka_unit_test(test_code_for_gpus),
        cmocka_unit_test(test_gpu_table),      cmocka_unit_test(test_findings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
