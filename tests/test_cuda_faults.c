/* The CUDA backend where CUDA fails, and what it takes of memory: on an emulated GPU
 * (cuda_emulated/runtime.h), on which each call in turn can be made to fail. */
#include "test.h"

#include "backend/cuda/load.h"
#include "checkpoint.h"
#include "doctor/memory.h"
#include "engine/engine.h"

#include <math.h>

static const struct {
    const char *name;
    unsigned kind;
    cudaError_t code;
} kinds[] = {
    {"asking", EMULATED_ASK, cudaErrorUnknown},
    {"cudaMalloc", EMULATED_MALLOC, cudaErrorMemoryAllocation},
    {"cudaHostAlloc", EMULATED_HOST_ALLOC, cudaErrorMemoryAllocation},
    {"streams and events", EMULATED_STREAM_CREATE, cudaErrorMemoryAllocation},
    {"copies", EMULATED_COPY, cudaErrorInvalidValue},
    {"launches", EMULATED_LAUNCH, cudaErrorInvalidConfiguration},
    {"waiting", EMULATED_WAIT, cudaErrorECCUncorrectable},
    {"what was begun", EMULATED_EXECUTION, cudaErrorIllegalAddress},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void nothing_is_left(const char *after) {
    struct emulated_use u = emulated_use();
    if (u.allocations || u.host_allocations || u.streams || u.events)
        fail_msg("%s: %zu allocations on the GPU, %zu pinned, %zu streams and %zu events are left",
                 after, u.allocations, u.host_allocations, u.streams, u.events);
}

static enum nb_status try_open(const char *checkpoint, const struct nb_options *options,
                               struct nb_engine **out, struct nb_error *err) {
    struct nb_options o = *options;
    o.backend = "cuda";
    o.threads = o.threads ? o.threads : 2;
    o.context = o.context ? o.context : 64;
    return nb_engine_open(test_path(checkpoint), &o, out, err);
}

static struct nb_engine *open_gpu(const char *checkpoint, const struct nb_options *options) {
    struct nb_engine *engine;
    struct nb_error err;
    assert_ok(try_open(checkpoint, options, &engine, &err), err);
    return engine;
}

/* That an error is what CUDA said. */
static void check_error(const char *label, enum nb_status s, const struct nb_error *err,
                        cudaError_t code) {
    bool memory = code == cudaErrorMemoryAllocation;
    if (s == NB_OK)
        fail_msg("%s: no error", label);
    expect_failure(label, s, err, memory ? NB_ERR_MEMORY : NB_ERR_IO, "cuda: ");
    if (!strstr(err->message, cudaGetErrorName(code)))
        fail_msg("%s: the message lacks %s: %s", label, cudaGetErrorName(code), err->message);
}

static const char nf4[] = "tests/golden/mixtral-tiny-nf4",
                  bf16[] = "tests/golden/mixtral-tiny-bf16";

/* ---- opening ---- */

/* Each call of opening and loading fails in turn: that is the error, nothing is left, and what
 * comes next works; or, where the GPU is lost, does again in a new process. */
static void opening_fails(const char *checkpoint, unsigned kind, cudaError_t code, bool lost,
                          const char *name) {
    enum { MOST = 40 }; /* of a kind */
    struct nb_options options = {.sequences = 1};
    emulated_fault(kind, 0, code, false);
    nb_engine_close(open_gpu(checkpoint, &options));
    uint64_t calls = emulated_calls(), step = calls / MOST + 1;
    assert_true(calls > 0);
    for (uint64_t at = 1; at <= calls; at += step) {
        char label[160];
        struct nb_engine *engine;
        struct nb_error err;
        snprintf(label, sizeof label, "%s, %s: call %llu of %llu%s", checkpoint, name,
                 (unsigned long long)at, (unsigned long long)calls, lost ? ", lost" : "");
        emulated_fault(kind, at, code, lost);
        enum nb_status s = try_open(checkpoint, &options, &engine, &err);
        /* How often threads wait depends on how they run, and closing waits, too. */
        if (s == NB_OK && at + 16 > calls) {
            nb_engine_close(engine);
        } else {
            check_error(label, s, &err, code);
            assert_null(engine);
        }
        nothing_is_left(label);
        if (lost || kind == EMULATED_EXECUTION)
            emulated_restart();
    }
    emulated_fault(0, 0, cudaSuccess, false);
    nb_engine_close(open_gpu(checkpoint, &options));
    nothing_is_left(name);
}

static void every_call_of_opening(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        for (int lost = 0; lost < 2; lost++) {
            opening_fails(nf4, kinds[i].kind, kinds[i].code, lost, kinds[i].name);
            opening_fails(bf16, kinds[i].kind, kinds[i].code, lost, kinds[i].name);
        }
    }
}

/* ---- steps ---- */

enum { VOCABULARY = 320, BEFORE = 3, AFTER = 6 };

static const int32_t prompt[BEFORE + AFTER] = {1, 5, 9, 200, 31, 77, 3, 4, 300};

/* Calls of a step fail in turn. Want of memory passes: the step can be made again, and is what
 * it would have been. Anything else is for good: every call is an error from then on that says what
 * was first, and closing works. */
static void step_fails(unsigned kind, cudaError_t code, bool lost, size_t n, const char *name) {
    enum { MOST = 10 }; /* of a kind */
    const struct nb_options options = {.sequences = 2};
    struct nb_engine *engine = open_gpu(nf4, &options);
    struct nb_error err;
    struct nb_sequence q;
    float *logits, want[VOCABULARY];
    uint64_t calls = 1;
    for (uint64_t at = 0; at <= calls; at += at && at < calls ? calls / MOST + 1 : 1) {
        char label[160];
        snprintf(label, sizeof label, "a step of %zu tokens, %s: call %llu of %llu", n, name,
                 (unsigned long long)at, (unsigned long long)calls);
        assert_ok(nb_sequence_open(engine, &q, &err), err);
        assert_ok(nb_sequence_append(&q, prompt, BEFORE, 1, NULL, &err), err);
        emulated_fault(kind, at, code, lost);
        enum nb_status s = nb_sequence_append(&q, prompt + BEFORE, n, 1, &logits, &err);
        if (at == 0) { /* none fails */
            assert_ok(s, err);
            calls = emulated_calls();
            memcpy(want, logits, sizeof want);
            nb_sequence_close(&q);
            continue;
        }
        check_error(label, s, &err, code);
        assert_int_equal(q.n, BEFORE);
        if (code == cudaErrorMemoryAllocation && !lost && kind != EMULATED_EXECUTION) {
            assert_ok(nb_sequence_append(&q, prompt + BEFORE, n, 1, &logits, &err), err);
            assert_memory_equal(logits, want, sizeof want);
            nb_sequence_close(&q);
            continue;
        }
        expect_failure(label, nb_sequence_append(&q, prompt + BEFORE, n, 1, &logits, &err), &err,
                       NB_ERR_IO, "failed before|start again");
        if (!strstr(err.message, cudaGetErrorName(code)))
            fail_msg("%s: the message lacks %s: %s", label, cudaGetErrorName(code), err.message);
        nb_sequence_close(&q);
        nb_engine_close(engine);
        nothing_is_left(label);
        emulated_restart();
        engine = open_gpu(nf4, &options);
    }
    nb_engine_close(engine);
    nothing_is_left(name);
}

static void every_call_of_a_step(void **state) {
    (void)state;
    static const unsigned of[] = {EMULATED_COPY, EMULATED_LAUNCH, EMULATED_WAIT,
                                  EMULATED_EXECUTION};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        char name[32];
        snprintf(name, sizeof name, "kind %u", of[i]);
        step_fails(of[i], cudaErrorLaunchFailure, true, 1, name);
        step_fails(of[i], cudaErrorInvalidValue, false, AFTER, name);
        if (of[i] != EMULATED_EXECUTION) /* which is never for want of memory */
            step_fails(of[i], cudaErrorMemoryAllocation, false, AFTER, name);
    }
}

/* Logits of more tokens than there is memory for are an error of that step, where the host has no
 * more pinned memory; of fewer they are not. */
static void memory_for_logits(void **state) {
    (void)state;
    enum { TOKENS = NB_CUDA_LOGIT_ROWS + 8 };
    const struct nb_options options = {.sequences = 1, .context = 256};
    struct nb_engine *engine = open_gpu(nf4, &options);
    struct nb_error err;
    struct nb_sequence q;
    int32_t ids[TOKENS];
    float *logits, *few = malloc(TOKENS * VOCABULARY * sizeof *few);
    assert_non_null(few);
    for (int i = 0; i < TOKENS; i++)
        ids[i] = i * 3 + 1;
    static const unsigned of[] = {EMULATED_HOST_ALLOC, EMULATED_COPY}; /* and its mapping */
    for (int i = 0; i < 2; i++) {
        assert_ok(nb_sequence_open(engine, &q, &err), err);
        size_t before = emulated_use().host_bytes;
        emulated_fault(of[i], 1, cudaErrorMemoryAllocation, false);
        enum nb_status s = nb_sequence_append(&q, ids, TOKENS, TOKENS, &logits, &err);
        expect_failure("too many rows", s, &err, NB_ERR_MEMORY, "out of memory|fewer");
        assert_int_equal(emulated_use().host_bytes, before);
        assert_int_equal(q.n, 0);
        assert_ok(nb_sequence_append(&q, ids, TOKENS, NB_CUDA_LOGIT_ROWS, &logits, &err), err);
        memcpy(few, logits, NB_CUDA_LOGIT_ROWS * VOCABULARY * sizeof *few);
        nb_sequence_close(&q);
    }
    emulated_fault(0, 0, cudaSuccess, false);
    assert_ok(nb_sequence_open(engine, &q, &err), err);
    assert_ok(nb_sequence_append(&q, ids, TOKENS, TOKENS, &logits, &err), err);
    assert_memory_equal(logits + (TOKENS - NB_CUDA_LOGIT_ROWS) * VOCABULARY, few,
                        NB_CUDA_LOGIT_ROWS * VOCABULARY * sizeof *few);
    nb_sequence_close(&q);
    nb_engine_close(engine);
    nothing_is_left("rows of logits");
    free(few);
}

/* The measure of memory, and copies of pages. */
static void every_other_call(void **state) {
    (void)state;
    const struct nb_options options = {.sequences = 2};
    for (int i = 0; i < N_KINDS; i++) {
        for (int what = 0; what < 2; what++) {
            uint64_t calls = 1;
            for (uint64_t at = 0; at <= calls; at++) {
                struct nb_engine *engine = open_gpu(nf4, &options);
                const struct nb_backend_ops *ops = engine->backend->ops;
                struct nb_error err;
                uint64_t bytes;
                double seconds;
                char label[96];
                snprintf(label, sizeof label, "%s, %s: call %llu", what ? "kv_copy" : "read_memory",
                         kinds[i].name, (unsigned long long)at);
                emulated_fault(kinds[i].kind, at, kinds[i].code, false);
                enum nb_status s = what ? ops->kv_copy(engine->backend, 0, 1, &err)
                                        : ops->read_memory(engine->backend, &bytes, &seconds, &err);
                if (at == 0) {
                    assert_ok(s, err);
                    calls = emulated_calls();
                } else if (!what || kinds[i].kind != EMULATED_EXECUTION) {
                    check_error(label, s, &err, kinds[i].code);
                }
                nb_engine_close(engine);
                nothing_is_left(label);
                emulated_restart();
            }
        }
    }
}

/* ---- what there is no GPU for ---- */

static void no_gpu(void **state) {
    (void)state;
    static const struct {
        struct emulated_gpu gpu;
        const char *says;
    } cases[] = {
        {{90, 4, 1 << 30, 0, 1, 0}, "no CUDA driver|--backend cpu"},
        {{90, 4, 1 << 30, 0, 1, 12040}, "the driver is for CUDA 12.4|needs 13.0"},
        {{90, 4, 1 << 30, 0, 0, 13000}, "no GPU|CUDA_VISIBLE_DEVICES"},
        {{75, 4, 1 << 30, 0, 1, 13000}, "compute capability 7.5|-Dcuda-archs=75"},
    };
    const struct emulated_gpu before = emulated_gpu;
    const struct nb_options options = {.sequences = 1};
    struct nb_engine *engine;
    struct nb_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        emulated_gpu = cases[i].gpu;
        expect_failure(cases[i].says, try_open(nf4, &options, &engine, &err), &err,
                       NB_ERR_UNSUPPORTED, cases[i].says);
        nothing_is_left(cases[i].says);
        /* Where none is asked for, the CPU does. */
        const struct nb_options any = {.context = 64, .threads = 2};
        struct nb_device device;
        assert_ok(nb_engine_open(test_path(nf4), &any, &engine, &err), err);
        nb_engine_device(engine, &device);
        assert_string_equal(device.backend, "cpu");
        nb_engine_close(engine);
    }
    emulated_gpu = before;
}

/* ---- memory ---- */

static uint64_t aligned(uint64_t n) {
    return (n + NB_CUDA_ALIGN - 1) / NB_CUDA_ALIGN * NB_CUDA_ALIGN;
}

/* The scratch of the kernels there are, for the engine's batches. */
static uint64_t scratch_of(const struct nb_engine *engine, const struct nb_options *o,
                           const struct nb_quantize_options *quantize) {
    struct nb_cuda_model m;
    struct nb_arena arena = {0};
    struct nb_error err;
    assert_ok(nb_cuda_describe(&engine->model, quantize, &arena, &m, &err), err);
    m.kv_fp8 = o->kv_type && strcmp(o->kv_type, "fp8") == 0;
    const struct nb_cuda_limits l = {.max_tokens = (int32_t)engine->max_batch_tokens,
                                     .max_sequences = NB_CUDA_MAX_SEQUENCES,
                                     .context = engine->context,
                                     .sm_count = emulated_gpu.sm_count,
                                     .compute_capability = emulated_gpu.capability};
    uint64_t bytes = 0;
#ifdef NB_CUDA_HAS_DECODE
    bytes += nb_cuda_decode_supports(&m, &l) ? aligned(nb_cuda_decode_workspace(&m, &l)) : 0;
#endif
#ifdef NB_CUDA_HAS_BATCH
    if (nb_cuda_batch_supports(&m, &l))
        bytes += aligned(nb_cuda_batch_workspace(&m, &l));
    else
#endif
        bytes += aligned(nb_cuda_plain_workspace(&m, &l));
    nb_arena_free(&arena);
    return bytes > (uint64_t)48 << 20 ? bytes : (uint64_t)48 << 20;
}

/* What was taken is what `nibble plan` says, but for scratch, which it estimates from above; and
 * nothing more was there while it was loaded. Pinned: the inputs of a step, rows of logits. */
static void compare_plan(const char *checkpoint, const struct nb_options *options) {
    emulated_peak();
    struct nb_engine *engine = open_gpu(checkpoint, options);
    struct emulated_use use = emulated_use();
    struct nb_device device;
    struct nb_error err;
    nb_engine_device(engine, &device);
    assert_int_equal(device.used_bytes, use.device_bytes);
    assert_int_equal(emulated_peak(), use.device_bytes);
    const struct nb_plan_options o = {.context = engine->context,
                                      .sequences = options->sequences,
                                      .kv_fp8 =
                                          options->kv_type && strcmp(options->kv_type, "fp8") == 0,
                                      .quantize = options->quantize};
    struct nb_plan_model model;
    struct nb_plan plan;
    struct nb_plan_fit fit;
    assert_ok(nb_plan_open(test_path(checkpoint), &model, &err), err);
    assert_ok(nb_plan_make(&model, &o, &plan, &err), err);
    uint64_t scratch =
        scratch_of(engine, options, engine->quantized ? &nb_quantize_defaults : NULL);
    /* Batches may be smaller than the plan's, where memory is short: input takes as much less. */
    uint64_t tables = (uint64_t)NB_CUDA_MAX_SEQUENCES * ((uint64_t)(engine->context + 15) / 16) * 4,
             inputs = aligned(16 * (uint64_t)engine->max_batch_tokens + tables),
             logits = aligned((uint64_t)NB_CUDA_LOGIT_ROWS * VOCABULARY * 4),
             want = plan.weights + plan.kv + scratch + inputs + logits;
    if (use.device_bytes != want)
        fail_msg("%s, context %d: %zu bytes were taken, planned were %llu (weights %llu, keys and "
                 "values %llu, scratch %llu)",
                 checkpoint, engine->context, use.device_bytes, (unsigned long long)want,
                 (unsigned long long)plan.weights, (unsigned long long)plan.kv,
                 (unsigned long long)scratch);
    assert_int_equal(plan.step, aligned(16 * (uint64_t)plan.max_batch_tokens + tables) + logits);
    assert_true(scratch <= plan.workspace);
    assert_int_equal(use.host_bytes, inputs + (uint64_t)NB_CUDA_LOGIT_ROWS * VOCABULARY * 4);
    assert_int_equal(use.allocations, 1);
    /* A GPU of exactly what was taken, the driver's part aside, is one that it fits. */
    uint64_t most = plan.total + NB_PLAN_CONTEXT_BYTES + NB_PLAN_RESERVED_BYTES;
    assert_ok(nb_plan_fit(&model, &o, most, 90, &fit, &err), err);
    assert_true(fit.fits && fit.max_context >= engine->context);
    nb_plan_close(&model);
    nb_engine_close(engine);
    nothing_is_left(checkpoint);
}

static void taken_as_planned(void **state) {
    (void)state;
    static const int32_t contexts[] = {16, 100, 256, 512};
    for (int i = 0; i < 4; i++) {
        for (int how = 0; how < 3; how++) {
            const struct nb_options options = {.context = contexts[i],
                                               .sequences = 1 + how * 7,
                                               .kv_type = how == 1 ? "fp8" : NULL,
                                               .quantize = how == 2 ? "none" : NULL};
            compare_plan(nf4, &options);
            compare_plan(bf16, &options);
        }
    }
}

/* The number after `what` in a message; 0 where it is not there. */
static long number_after(const char *message, const char *what) {
    const char *at = strstr(message, what);
    return at ? strtol(at + strlen(what), NULL, 10) : 0;
}

/* Every limit either is kept, or is refused before anything is taken, and what the refusal advises
 * works. */
static void limits_of_memory(void **state) {
    (void)state;
    const struct nb_options plain = {.sequences = 64, .context = 512};
    struct nb_engine *engine = open_gpu(nf4, &plain);
    uint64_t all = emulated_use().device_bytes, least = 0;
    int advised[3] = {0}, refused = 0;
    nb_engine_close(engine);
    for (uint64_t limit = all + (1 << 16); limit > (uint64_t)40 << 20; limit -= all / 97) {
        struct nb_options o = plain;
        struct nb_error err;
        o.memory_limit = limit;
        emulated_peak();
        enum nb_status s = try_open(nf4, &o, &engine, &err);
        if (s == NB_OK) {
            assert_true(emulated_peak() <= limit && !refused);
            least = emulated_use().device_bytes;
            nb_engine_close(engine);
            continue;
        }
        refused++;
        expect_failure("a limit", s, &err, NB_ERR_MEMORY, "the model takes|are there");
        assert_int_equal(emulated_peak(), 0);
        nothing_is_left("a limit");
        long context = number_after(err.message, "--context ");
        bool fp8 = strstr(err.message, "it fits with --kv-type fp8") != NULL,
             either = strstr(err.message, "or with --context") != NULL;
        if (!context && !fp8) {
            assert_non_null(strstr(err.message, "no context fits"));
            advised[2]++;
            continue;
        }
        if (fp8)
            o.kv_type = "fp8";
        if (context && !either)
            o.context = (int32_t)context;
        advised[context != 0 && !either]++;
        assert_ok(try_open(nf4, &o, &engine, &err), err);
        assert_true(emulated_use().device_bytes <= limit);
        nb_engine_close(engine);
        if (either) { /* the other advice */
            o = plain;
            o.memory_limit = limit;
            o.context = (int32_t)context;
            assert_ok(try_open(nf4, &o, &engine, &err), err);
            assert_true(emulated_use().device_bytes <= limit);
            nb_engine_close(engine);
        }
    }
    assert_true(least && advised[0] && advised[1] && advised[2]);
    /* To the byte: the least that it takes, and one less. */
    struct nb_options o = plain;
    struct nb_error err;
    uint64_t low = 1, high = least;
    while (low < high) {
        o.memory_limit = low + (high - low) / 2;
        if (try_open(nf4, &o, &engine, &err) == NB_OK) {
            high = emulated_use().device_bytes;
            assert_true(high <= o.memory_limit);
            nb_engine_close(engine);
        } else {
            low = o.memory_limit + 1;
        }
    }
    o.memory_limit = high;
    engine = open_gpu(nf4, &o);
    assert_int_equal(emulated_use().device_bytes, high);
    nb_engine_close(engine);
}

/* Memory that others have taken counts as there not being any. */
static void memory_of_others(void **state) {
    (void)state;
    const struct emulated_gpu before = emulated_gpu;
    const struct nb_options options = {.sequences = 1};
    struct nb_engine *engine;
    struct nb_error err;
    emulated_gpu.taken_bytes = emulated_gpu.memory_bytes - ((size_t)150 << 20);
    expect_failure("memory that is taken", try_open(nf4, &options, &engine, &err), &err,
                   NB_ERR_MEMORY, "Emulated GPU|the model takes|0.02 GiB are there");
    nothing_is_left("memory that is taken");
    emulated_gpu = before;
}

int main(int argc, char **argv) {
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_gpu),
        cmocka_unit_test(taken_as_planned),
        cmocka_unit_test(limits_of_memory),
        cmocka_unit_test(memory_of_others),
        cmocka_unit_test(memory_for_logits),
        cmocka_unit_test(every_other_call),
        cmocka_unit_test(every_call_of_a_step),
        cmocka_unit_test(every_call_of_opening),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
