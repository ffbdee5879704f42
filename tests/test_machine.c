/* The doctor's look at a machine: made proc/, sys/ and dev/, a made NVML, a made cache; and the
 * plan. */
#include "folder.h"
#include "test.h"

#include "doctor/machine.h"
#include "doctor/memory.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[64];
static struct nb_machine machine;
static struct nb_findings findings;
static struct nb_gpu_table table;

static void put(const char *path, const char *text) {
    folder_write(root, path, text, strlen(text));
}

static int begin(void **state) {
    (void)state;
    struct nb_error err;
    snprintf(root, sizeof root, "/tmp/nibble-machine-XXXXXX");
    assert_non_null(mkdtemp(root));
    unsetenv("CUDA_VISIBLE_DEVICES");
    put("proc/cpuinfo", "processor\t: 0\nmodel name\t: Made CPU\n");
    put("proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n");
    nb_findings_init(&findings);
    return nb_gpu_table_open(&table, &err) == NB_OK ? 0 : -1;
}

static int end(void **state) {
    (void)state;
    nb_findings_free(&findings);
    nb_gpu_table_free(&table);
    return folder_remove(root);
}

static void look(const char *nvml) {
    nb_findings_free(&findings);
    nb_findings_init(&findings);
    nb_machine_read(root, nvml, &machine);
    nb_doctor_machine(&machine, false, &table, &findings);
    nb_findings_sort(&findings);
}

static const struct nb_finding *find(const char *code, enum nb_severity severity) {
    for (size_t i = 0; i < findings.n; i++) {
        if (strcmp(findings.list[i].code, code) == 0 && findings.list[i].severity == severity)
            return &findings.list[i];
    }
    return NULL;
}

static void add_driver(void) {
    put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  "
                                      "Thu Feb 22 01:44:30 UTC 2024\n");
}

static void add_nodes(void) {
    put("dev/nvidiactl", "");
    put("dev/nvidia0", "");
    put("dev/nvidia-uvm", "");
}

static void test_no_gpu(void **state) {
    (void)state;
    look(NULL);
    assert_non_null(find("gpu-missing", NB_SEVERITY_NOTE));
    assert_true(nb_findings_fit(&findings));
    assert_int_equal(machine.memory_bytes, (uint64_t)16 << 30);
    assert_string_equal(machine.processor, "Made CPU");
    /* A GPU on the bus, and no driver. */
    put("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
    put("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
    put("sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de\n");
    put("sys/bus/pci/devices/0000:01:00.1/class", "0x040300\n"); /* its sound */
    look(NULL);
    assert_int_equal(machine.n_pci, 1);
    assert_non_null(find("driver-missing", NB_SEVERITY_ERROR));
    /* A driver in the kernel, and a container that was not given it. */
    add_driver();
    put(".dockerenv", "");
    look("libnone-of-that-name.so.1");
    assert_string_equal(machine.kernel_driver, "550.54.14");
    const struct nb_finding *f = find("gpu-not-mounted", NB_SEVERITY_ERROR);
    assert_non_null(f);
    assert_non_null(strstr(f->fix, "--gpus all"));
    assert_non_null(strstr(f->evidence, "550.54.14"));
    put("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
                                      "570.86.10  Release Build  (dvs-builder@U16)\n");
    look(NULL);
    assert_string_equal(machine.kernel_driver, "570.86.10");
}

static void test_gpu(void **state) {
    (void)state;
    add_driver();
    look(getenv("NB_TEST_NVML"));
    assert_int_equal(machine.n_gpus, 1);
    assert_int_equal(machine.gpus[0].capability, 120);
    assert_int_equal(machine.gpus[0].ecc, 1);
    assert_int_equal(machine.gpus[0].mig, -1); /* the made library does not say */
    /* No device files: CUDA cannot open what NVML sees. */
    assert_non_null(find("gpu-not-mounted", NB_SEVERITY_ERROR));
    assert_non_null(find("gpu-memory-used", NB_SEVERITY_NOTE));
    /* A driver of CUDA 12.2 is older than Blackwell. */
    const struct nb_finding *f = find("driver-too-old", NB_SEVERITY_ERROR);
    assert_non_null(f);
    assert_non_null(strstr(f->title, "570.26"));
    add_nodes();
    look(getenv("NB_TEST_NVML"));
    assert_null(find("gpu-not-mounted", NB_SEVERITY_ERROR));
    assert_non_null(find("gpu", NB_SEVERITY_GOOD));

    static const struct {
        const char *value;
        enum nb_severity severity;
        bool found;
    } visible[] = {
        {"", NB_SEVERITY_ERROR, true},          {"-1", NB_SEVERITY_ERROR, true},
        {"7", NB_SEVERITY_ERROR, true},         {"0", NB_SEVERITY_ERROR, false},
        {"GPU-0123", NB_SEVERITY_ERROR, false}, {"0,7", NB_SEVERITY_WARNING, true},
        {"GPU-9999", NB_SEVERITY_ERROR, true},
    };
    for (size_t i = 0; i < sizeof visible / sizeof *visible; i++) {
        setenv("CUDA_VISIBLE_DEVICES", visible[i].value, 1);
        look(getenv("NB_TEST_NVML"));
        if ((find("gpu-hidden", visible[i].severity) != NULL) != visible[i].found)
            fail_msg("CUDA_VISIBLE_DEVICES=\"%s\"", visible[i].value);
    }
}

static void test_mismatch(void **state) {
    (void)state;
    add_driver();
    look(getenv("NB_TEST_NVML_FAILS"));
    assert_int_equal(machine.n_gpus, 0);
    const struct nb_finding *f = find("driver-missing", NB_SEVERITY_ERROR);
    assert_non_null(f);
    assert_non_null(strstr(f->title, "different versions"));
    assert_non_null(strstr(f->fix, "reboot"));
    look("libc.so.6"); /* a library that is no NVML */
    assert_false(machine.nvml);
    assert_non_null(strstr(machine.nvml_error, "nvmlInit_v2"));
}

static void test_cgroup(void **state) {
    (void)state;
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/memory.max", "2147483648\n");
    put("sys/fs/cgroup/a/memory.current", "1073741824\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    look(NULL);
    assert_int_equal(machine.memory_limit_bytes, (uint64_t)2 << 30);
    assert_int_equal(machine.memory_used_bytes, (uint64_t)1 << 30);
    assert_true(machine.quota == 0.5);
    assert_non_null(find("memory-limit", NB_SEVERITY_NOTE));
    assert_non_null(strstr(find("processor-quota", NB_SEVERITY_NOTE)->fix, "--threads 1"));
    put("proc/self/cgroup", "4:cpu:/\n5:memory,x:/docker/abc\n");
    put("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n");
    put("sys/fs/cgroup/a/memory.max", "max\n");
    look(NULL);
    assert_int_equal(machine.memory_limit_bytes, 1 << 20);
}

static void test_cache(void **state) {
    (void)state;
    char folder[256];
#define SNAPSHOT "hub/models--org--big/snapshots/0123456789abcdef/"
    put(SNAPSHOT "config.json", "{}");
    put(SNAPSHOT "model.safetensors.index.json",
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\", "
        "\"c\": \"model-1.safetensors\", \"d\": \"../../x\", \"e\": 5}}");
    put(SNAPSHOT "model-1.safetensors", "0123456789");
    put("hub/models--org--one/snapshots/aa/model.safetensors", "x");
    put("hub/models--org--one/snapshots/aa/config.json", "{}");
    put("hub/models--org--bad/snapshots/bb/model.safetensors.index.json", "{");
    put("hub/models--org--none/refs/main", "cc");
    snprintf(folder, sizeof folder, "%s/hub", root);
    nb_doctor_cache(folder, true, &findings);
    const struct nb_finding *f = find("checkpoint-incomplete", NB_SEVERITY_WARNING);
    assert_non_null(f);
    assert_non_null(strstr(f->title, "org/big at 0123456789ab: 1 file is missing, 2 shards"));
    assert_non_null(strstr(f->evidence, "missing: model-2.safetensors"));
    assert_non_null(strstr(find("checkpoint", NB_SEVERITY_GOOD)->title, "org/one"));
    assert_non_null(strstr(find("checkpoint-damaged", NB_SEVERITY_WARNING)->title, "org/bad"));
    assert_non_null(strstr(find("cache", NB_SEVERITY_GOOD)->title, "4 repositories"));
    nb_doctor_cache("/nowhere/at/all", true, &findings);
    assert_non_null(find("cache-unreadable", NB_SEVERITY_WARNING));
}

/* ---- the plan ---- */

static void test_plan(void **state) {
    (void)state;
    struct nb_plan_model m;
    struct nb_plan p, q;
    struct nb_plan_fit fit;
    struct nb_error err;
    struct nb_plan_options o = {.context = 128, .sequences = 3};
    assert_ok(nb_plan_open(test_path("tests/golden/mixtral-tiny-nf4"), &m, &err), err);
    assert_ok(nb_plan_make(&m, &o, &p, &err), err);
    assert_true(m.open && p.weights_known);
    const struct nb_config *c = &m.model.config;
    uint64_t token = 4 * (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * (uint64_t)c->head_width;
    assert_int_equal(p.kv_per_token, token);
    assert_int_equal(p.kv, 3 * 128 * token);
    assert_int_equal(p.weights, p.experts + p.attention + p.head + p.embedding + p.small);
    assert_true(p.total >= p.weights + p.kv + p.workspace + p.step);
    /* Laid out, weights take what the checkpoint does, and padding. */
    uint64_t bytes = nb_model_size(&m.model).bytes;
    assert_true(p.weights > bytes / 2 && p.weights < 2 * bytes);
    o.kv_fp8 = true;
    assert_ok(nb_plan_make(&m, &o, &q, &err), err);
    assert_int_equal(2 * q.kv_per_token, p.kv_per_token);
    o.kv_fp8 = false;

    /* What fits: exactly the plan and the driver's share; a byte less only with smaller batches. */
    assert_ok(nb_plan_fit(&m, &o, p.total + p.driver + NB_PLAN_RESERVED_BYTES, 90, &fit, &err),
              err);
    assert_true(fit.fits && fit.free_bytes == 0 && fit.max_batch_tokens == p.max_batch_tokens);
    assert_ok(nb_plan_fit(&m, &o, p.total + p.driver + NB_PLAN_RESERVED_BYTES - 1, 90, &fit, &err),
              err);
    assert_true(fit.fits && fit.max_batch_tokens < p.max_batch_tokens);
    assert_ok(nb_plan_fit(&m, &o, p.driver + NB_PLAN_RESERVED_BYTES + 1000, 90, &fit, &err), err);
    assert_true(!fit.fits && fit.missing_bytes > 0 && !fit.max_context && !fit.max_sequences);
    assert_ok(nb_plan_fit(&m, &o, (uint64_t)80 << 30, 75, &fit, &err), err);
    assert_true(!fit.fits && fit.too_old);
    assert_ok(nb_plan_fit(&m, &o, (uint64_t)80 << 30, 90, &fit, &err), err);
    assert_int_equal(fit.max_context, c->context);
    /* The largest context and number are just that: one more does not fit. */
    uint64_t tight =
        NB_PLAN_RESERVED_BYTES + p.driver + p.total - p.workspace + ((uint64_t)3 << 20);
    assert_ok(nb_plan_fit(&m, &o, tight, 90, &fit, &err), err);
    if (fit.fits && fit.max_sequences < 512) {
        struct nb_plan_fit next;
        struct nb_plan_options more = o;
        more.sequences = fit.max_sequences;
        assert_ok(nb_plan_fit(&m, &more, tight, 90, &next, &err), err);
        assert_true(next.fits);
        more.sequences++;
        assert_ok(nb_plan_fit(&m, &more, tight, 90, &next, &err), err);
        assert_false(next.fits);
    }
    o.context = c->context + 1;
    assert_int_equal(nb_plan_make(&m, &o, &p, &err), NB_ERR_ARGUMENT);
    o = (struct nb_plan_options){.quantize = "int8"};
    assert_int_equal(nb_plan_make(&m, &o, &p, &err), NB_ERR_ARGUMENT);
    nb_plan_close(&m);
}

/* From its config alone, Mixtral 8x7B takes what its checkpoint measures: 24.52 GB. */
static void test_plan_config(void **state) {
    (void)state;
    struct nb_plan_model m;
    struct nb_plan p;
    struct nb_error err;
    struct nb_plan_options o = {.context = 10000};
    put("config.json",
        "{\"model_type\": \"mixtral\", \"hidden_size\": 4096, \"intermediate_size\": 14336, "
        "\"num_hidden_layers\": 32, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "
        "\"num_local_experts\": 8, \"num_experts_per_tok\": 2, \"vocab_size\": 32000, "
        "\"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-05, \"rope_theta\": 1000000.0, "
        "\"hidden_act\": \"silu\", \"tie_word_embeddings\": false}");
    assert_ok(nb_plan_open(root, &m, &err), err);
    assert_ok(nb_plan_make(&m, &o, &p, &err), err);
    assert_false(p.weights_known);
    assert_true(p.weights > 24500000000u && p.weights < 24600000000u);
    assert_int_equal(p.kv_per_token, 131072);
    assert_int_equal(p.kv, 10000 * (uint64_t)131072);
    nb_plan_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_gpu, begin, end),
        cmocka_unit_test_setup_teardown(test_gpu, begin, end),
        cmocka_unit_test_setup_teardown(test_mismatch, begin, end),
        cmocka_unit_test_setup_teardown(test_cgroup, begin, end),
        cmocka_unit_test_setup_teardown(test_cache, begin, end),
        cmocka_unit_test_setup_teardown(test_plan, begin, end),
        cmocka_unit_test_setup_teardown(test_plan_config, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
