/* The large path of the CUDA backend against the plain one, on small random models of every kind
 * and batches of every sort: TAP. With --bench: the time of each part on the shape of Mixtral 8x7B,
 * as JSON lines. --only NAME restricts either to what has NAME in its name.
 */
#include "cuda_random.h"

#include <algorithm>
#include <map>
#include <math.h>
#include <string.h>
#include <string>

/* On an emulated GPU (tests/cuda_emulated): smaller models and batches, no graphs, no measurements.
 */
#ifndef NB_EMULATED
#define NB_EMULATED 0
#endif

/* Events between the parts of a pass, while `marking`. */
struct mark {
    const char *part;
    cudaEvent_t event;
};
static std::vector<mark> marks;
static bool marking;

static void add_mark(const char *part, cudaStream_t stream) {
    if (!marking)
        return;
    mark m = {part, NULL};
    CUDA_CHECK(cudaEventCreate(&m.event));
    CUDA_CHECK(cudaEventRecord(m.event, stream));
    marks.push_back(m);
}

#define NB_CUDA_MARK(part, stream) add_mark(part, stream)
#include "backend/cuda/batch.cu"

typedef cuda_random_chunk chunk;
typedef std::vector<chunk> chunks;

static int number, failed;
static const char *only = "";

static void result(bool ok, const std::string &name) {
    number++;
    failed += !ok;
    printf("%s %d - %s\n", ok ? "ok" : "not ok", number, name.c_str());
}

/* ---- against the plain path ---- */

struct scenario {
    const char *name;
    chunks of;
};

static chunks decode(std::vector<int32_t> past) {
    chunks out;
    for (int32_t p : past)
        out.push_back({p, 1, chunk::LOGITS_LAST});
    return out;
}

#if NB_EMULATED
static std::vector<scenario> scenarios() {
    /* Four rows at least: of fewer, `close` lets a model that has experts choose others. */
    return {
        {"nothing before", decode({0, 0, 1, 0})},
        {"page boundaries", decode({14, 15, 16, 17, 30, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128})},
        {"contexts in parts", decode({700, 300, 500, 20})},
        {"prefill of 150", {{0, 150, chunk::LOGITS_ALL}}},
        {"mixture",
         {{400, 35, chunk::LOGITS_ALL},
          {0, 17, chunk::LOGITS_NONE},
          {400, 1, chunk::LOGITS_LAST},
          {99, 16, chunk::LOGITS_ALL},
          {0, 1, chunk::LOGITS_LAST},
          {100, 7, chunk::LOGITS_ALL}}},
        {"no logits", {{5, 20, chunk::LOGITS_NONE}, {40, 1, chunk::LOGITS_NONE}}}};
}

static const cuda_random_config models[] = {
    /* name, V, L, D, H, G, d, E, K, F, window, context,
     * qk_norm, normalize, dense, tied, kind, head, block, values, fp8 */
    {"mixture",
     48,
     2,
     128,
     4,
     2,
     64,
     8,
     2,
     64,
     0,
     4096,
     false,
     true,
     false,
     false,
     NB_CUDA_NESTED,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"dense, a window, heads of 128",
     40,
     2,
     128,
     2,
     1,
     128,
     1,
     1,
     128,
     100,
     4096,
     true,
     false,
     true,
     false,
     NB_CUDA_ABSMAX,
     NB_CUDA_BF16,
     64,
     NB_QUANT_FP4,
     false},
    {"16 heads a group, 40 experts, tied",
     64,
     1,
     64,
     16,
     1,
     64,
     40,
     4,
     64,
     0,
     4096,
     true,
     false,
     false,
     true,
     NB_CUDA_NESTED,
     NB_CUDA_NESTED,
     64,
     NB_QUANT_NF4,
     false},
    {"KV memory in fp8",
     48,
     1,
     128,
     2,
     1,
     128,
     4,
     1,
     64,
     0,
     4096,
     false,
     true,
     false,
     false,
     NB_CUDA_BF16,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     true},
};
static const int n_models = sizeof models / sizeof *models;
#else
static const cuda_random_config *const models = cuda_small;
static const int n_models = cuda_n_small;

static std::vector<scenario> scenarios() {
    std::vector<scenario> out = {
        {"one token, nothing before", decode({0})},
        {"one token after 32,767", decode({32767})},
        {"page boundaries", decode({14, 15, 16, 17, 30, 31, 32, 33, 47, 48, 63, 64, 65, 127, 128})},
        {"prefill of 1 to 70", {}},
        {"prefill of 777", {{0, 777, chunk::LOGITS_ALL}}},
        {"prefill whose last row alone counts", {{0, 300, chunk::LOGITS_LAST}}},
        {"mixture",
         {{77, 130, chunk::LOGITS_ALL},
          {0, 17, chunk::LOGITS_NONE},
          {4000, 1, chunk::LOGITS_LAST},
          {999, 16, chunk::LOGITS_ALL},
          {0, 1, chunk::LOGITS_LAST},
          {3001, 40, chunk::LOGITS_LAST},
          {100, 7, chunk::LOGITS_ALL},
          {20000, 1, chunk::LOGITS_LAST}}},
        {"no logits", {{5, 90, chunk::LOGITS_NONE}, {40, 1, chunk::LOGITS_NONE}}},
        {"two prefills after prefixes",
         {{8191, 300, chunk::LOGITS_LAST}, {33, 260, chunk::LOGITS_ALL}}},
    };
    for (int32_t n = 1; n <= 70; n += n < 6 ? 1 : 8)
        out[3].of.push_back({n % 5 * 11, n, chunk::LOGITS_ALL});
    std::vector<int32_t> past;
    for (int32_t i = 0; i < 64; i++)
        past.push_back((i * i * 7) % 3000);
    past[9] = 30011;
    out.push_back({"64 sequences", decode(past)});
    return out;
}
#endif

typedef size_t (*workspace_fn)(const struct nb_cuda_model *, const struct nb_cuda_limits *);
typedef cudaError_t (*forward_fn)(const struct nb_cuda_model *, const struct nb_cuda_step *, void *,
                                  const struct nb_cuda_limits *, cudaStream_t);

#if NB_EMULATED
/* KV memory before a step: what `of` says is past, as it is in m; NaN where nothing was written. */
static std::vector<uint8_t> kv_before(const cuda_random_model &m, const cuda_random_step &s,
                                      const chunks &of) {
    const nb_cuda_model &p = m.model;
    size_t element = p.kv_fp8 ? 1 : 2, d = (size_t)p.head_width, row = d * element,
           page_bytes = (size_t)p.page_stride * element;
    std::vector<uint8_t> now((size_t)p.n_layers * (size_t)p.n_pages * page_bytes),
        out(now.size(), 0xFF);
    std::vector<int32_t> pages(of.size() * (size_t)s.step.max_pages);
    CUDA_CHECK(cudaMemcpy(now.data(), p.kv, now.size(), cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(pages.data(), s.step.pages, pages.size() * sizeof(int32_t),
                          cudaMemcpyDeviceToHost));
    for (size_t layer = 0; layer < (size_t)p.n_layers; layer++) {
        for (size_t i = 0; i < of.size(); i++) {
            for (int32_t at = 0; at < of[i].past; at++) {
                int32_t page = pages[i * (size_t)s.step.max_pages + (size_t)at / NB_PAGE_TOKENS];
                size_t from = (layer * (size_t)p.n_pages + (size_t)page) * page_bytes;
                for (size_t head = 0; head < 2 * (size_t)p.n_kv_heads; head++) {
                    size_t k = from + (head * NB_PAGE_TOKENS + (size_t)at % NB_PAGE_TOKENS) * row;
                    memcpy(&out[k], &now[k], row);
                }
            }
        }
    }
    return out;
}
#endif

/* A pass's logits; its workspace holds NaN before. */
static std::vector<float> run(workspace_fn workspace, forward_fn forward,
                              const cuda_random_model &m, const cuda_random_step &s) {
    void *work;
    size_t bytes = workspace(&m.model, &m.limits);
    CUDA_CHECK(cudaMalloc(&work, bytes));
    CUDA_CHECK(cudaMemset(work, 0xFF, bytes));
    CUDA_CHECK(
        cudaMemset(s.logits, 0xFF, (size_t)s.step.n_logits * m.model.n_vocab * sizeof(float)));
    CUDA_CHECK(forward(&m.model, &s.step, work, &m.limits, 0));
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaFree(work));
    return cuda_logits(&m, &s);
}

/* Rounding to bf16 moves router logits, and where two are as close as that another expert is
 * chosen: then a row is far off and right. Few rows may be. */
static bool close(const cuda_random_config &c, const std::vector<float> &got,
                  const std::vector<float> &want, int32_t n_vocab, cuda_difference *d) {
    *d = cuda_compare(got, want, n_vocab);
    int32_t far = 0;
    for (int32_t r = 0; r < d->rows; r++) {
        std::vector<float> a(got.begin() + (size_t)r * n_vocab,
                             got.begin() + (size_t)(r + 1) * n_vocab),
            b(want.begin() + (size_t)r * n_vocab, want.begin() + (size_t)(r + 1) * n_vocab);
        far += cuda_compare(a, b, n_vocab).error > 0.03;
    }
    bool one_way = c.dense || c.n_experts == c.experts_per_token;
    return d->finite && far <= (one_way ? 0 : 1 + d->rows / 12) &&
           (d->rows < 4 || d->median_error < 0.012);
}

static void compare(const cuda_random_config &c, const cuda_random_model &m, const scenario &s,
                    uint64_t seed) {
    std::string name = std::string(c.name) + ": " + s.name;
    if (name.find(only) == std::string::npos)
        return;
    cuda_random_step step;
    cuda_random_step_make(&m, s.of, seed, &step);
    std::vector<float> want = run(nb_cuda_plain_workspace, nb_cuda_plain_forward, m, step);
#if NB_EMULATED
    std::vector<uint8_t> before = kv_before(m, step, s.of), keep(before.size());
    CUDA_CHECK(cudaMemcpy(keep.data(), m.model.kv, keep.size(), cudaMemcpyDeviceToHost));
    CUDA_CHECK(cudaMemcpy(m.model.kv, before.data(), before.size(), cudaMemcpyHostToDevice));
#endif
    std::vector<float> got = run(nb_cuda_batch_workspace, nb_cuda_batch_forward, m, step);
#if NB_EMULATED
    CUDA_CHECK(cudaMemcpy(m.model.kv, before.data(), before.size(), cudaMemcpyHostToDevice));
#endif
    std::vector<float> again = run(nb_cuda_batch_workspace, nb_cuda_batch_forward, m, step);
#if NB_EMULATED
    CUDA_CHECK(cudaMemcpy(m.model.kv, keep.data(), keep.size(), cudaMemcpyHostToDevice));
#endif
    bool ok = true, same = got.size() == again.size() &&
                           memcmp(got.data(), again.data(), got.size() * sizeof(float)) == 0;
    cuda_difference d = {};
    if (!want.empty())
        ok = close(c, got, want, m.model.n_vocab, &d);
    result(ok && same, name);
    printf("# %d rows, median error %.1e, worst %.1e, KL mean %.1e max %.1e, argmax %d%s\n", d.rows,
           d.median_error, d.worst_error, d.mean_kl, d.max_kl, d.same_argmax,
           same ? "" : ", other bits the second time");
    cuda_random_step_free(&step);
}

/* Routers that send every token to expert 0 and none to experts 3 and up: row 2 is minus row 1, the
 * rest are 0. One of 1 and 2 comes first, and of those that tie the lowest. */
static void bend_routers(const cuda_random_model &m) {
    size_t width = (size_t)m.model.width, n = (size_t)m.model.n_experts * width;
    for (const nb_cuda_layer &l : m.layers) {
        std::vector<float> w(n);
        CUDA_CHECK(cudaMemcpy(w.data(), l.router, n * sizeof(float), cudaMemcpyDeviceToHost));
        std::fill(w.begin(), w.begin() + width, 0.0f);
        for (size_t i = 0; i < width; i++)
            w[2 * width + i] = -w[width + i];
        std::fill(w.begin() + 3 * width, w.end(), 0.0f);
        CUDA_CHECK(
            cudaMemcpy((void *)l.router, w.data(), n * sizeof(float), cudaMemcpyHostToDevice));
    }
}

#if !NB_EMULATED
/* All scenarios captured in a graph give what they give without. */
static void capture(const cuda_random_config &c, const cuda_random_model &m, const scenario &s) {
    std::string name = std::string(c.name) + ": " + s.name + ", as a graph";
    if (name.find(only) == std::string::npos)
        return;
    cuda_random_step step;
    cuda_random_step_make(&m, s.of, 5, &step);
    std::vector<float> want = run(nb_cuda_batch_workspace, nb_cuda_batch_forward, m, step);
    void *work;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_CHECK(cudaMalloc(&work, nb_cuda_batch_workspace(&m.model, &m.limits)));
    CUDA_CHECK(cudaStreamCreate(&stream));
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CUDA_CHECK(nb_cuda_batch_forward(&m.model, &step.step, work, &m.limits, stream));
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    bool same = true;
    for (int i = 0; i < 3; i++) {
        CUDA_CHECK(cudaMemset(step.logits, 0xFF, want.size() * sizeof(float)));
        CUDA_CHECK(cudaDeviceSynchronize());
        CUDA_CHECK(cudaGraphLaunch(exec, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
        std::vector<float> got = cuda_logits(&m, &step);
        same = same && memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0;
    }
    result(same, name);
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaStreamDestroy(stream));
    CUDA_CHECK(cudaFree(work));
    cuda_random_step_free(&step);
}

#endif

static void test(bool brief) {
    std::vector<scenario> all = scenarios();
    for (int i = 0; i < n_models; i++) {
        const cuda_random_config &c = models[i];
        int32_t pages = 0, tokens = 0;
        for (const scenario &s : all) {
            int32_t n = 0;
            for (const chunk &k : s.of)
                n += k.n;
            pages = std::max(pages, cuda_random_pages(s.of)), tokens = std::max(tokens, n);
        }
        cuda_random_model m;
        cuda_random_make(&c, pages + 5, tokens, 64, 100 + (uint64_t)i, &m);
        if (!nb_cuda_batch_supports(&m.model, &m.limits)) {
            result(c.head_width % 64 != 0, std::string(c.name) + ": not supported");
            cuda_random_free(&m);
            continue;
        }
        for (size_t k = 0; k < all.size(); k++) {
            const scenario &s = all[k];
            if (NB_EMULATED && i > 0 && (k + (size_t)i) % 2) /* half of them */
                continue;
            if (!brief || strstr(s.name, "mixture") || strstr(s.name, "boundaries"))
                compare(c, m, s, 1000 + (uint64_t)i);
        }
#if !NB_EMULATED
        if (!brief) {
            capture(c, m, all.back());
            capture(c, m, all[6]);
        }
#endif
        if (c.experts_per_token == 2 && !brief) {
            bend_routers(m);
            compare(c, m,
                    {"an expert for all and experts for none, decode",
                     all[NB_EMULATED ? 1 : all.size() - 1].of},
                    3);
            if (!NB_EMULATED)
                compare(c, m, {"an expert for all and experts for none, prefill", all[4].of}, 4);
        }
        cuda_random_free(&m);
    }
}

/* ---- measuring ---- */

#if !NB_EMULATED

/* Best time of a graph of the pass, milliseconds. */
static double time_graph(const cuda_random_model &m, const cuda_random_step &s, void *work,
                         int repeats) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaStreamCreate(&stream));
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CUDA_CHECK(nb_cuda_batch_forward(&m.model, &s.step, work, &m.limits, stream));
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    float best = 1e30f;
    for (int i = 0; i <= repeats; i++) {
        float ms;
        CUDA_CHECK(cudaEventRecord(begin, stream));
        CUDA_CHECK(cudaGraphLaunch(exec, stream));
        CUDA_CHECK(cudaEventRecord(end, stream));
        CUDA_CHECK(cudaStreamSynchronize(stream));
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        best = i ? std::min(best, ms) : best;
    }
    CUDA_CHECK(cudaGraphExecDestroy(exec));
    CUDA_CHECK(cudaGraphDestroy(graph));
    CUDA_CHECK(cudaStreamDestroy(stream));
    return best;
}

/* Time of each part, all layers together, milliseconds: the best of the repeats. Events between
 * kernels add about a microsecond to each. */
static std::map<std::string, double> time_parts(const cuda_random_model &m,
                                                const cuda_random_step &s, void *work,
                                                int repeats) {
    std::map<std::string, double> best;
    for (int r = 0; r <= repeats; r++) {
        std::map<std::string, double> sum;
        marking = true;
        add_mark("", 0);
        CUDA_CHECK(nb_cuda_batch_forward(&m.model, &s.step, work, &m.limits, 0));
        marking = false;
        CUDA_CHECK(cudaDeviceSynchronize());
        for (size_t i = 1; i < marks.size(); i++) {
            float ms;
            CUDA_CHECK(cudaEventElapsedTime(&ms, marks[i - 1].event, marks[i].event));
            sum[marks[i].part] += ms;
        }
        for (const mark &k : marks)
            CUDA_CHECK(cudaEventDestroy(k.event));
        marks.clear();
        for (const auto &p : sum) {
            if (r > 0)
                best[p.first] = best.count(p.first) ? std::min(best[p.first], p.second) : p.second;
        }
    }
    return best;
}

/* What the hardware allows, measured on one H200: bytes read and bf16 products a second. */
static const double READS = 4.65e12, PRODUCTS = 790e12;

/* The least time, milliseconds, that each part of a step could take, all layers together; "" is the
 * whole step. */
static std::map<std::string, double> limits_of(const cuda_random_model &random, const chunks &of) {
    const nb_cuda_model &m = random.model;
    double n = 0, pairs = 0, kv = 0; /* tokens; (query, key) pairs; positions read at least */
    for (const chunk &c : of) {
        n += c.n;
        pairs += (double)c.n * c.past + 0.5 * c.n * (c.n + 1.0);
        kv += c.past + c.n;
    }
    double L = m.n_layers, D = m.width, d = m.head_width, K = m.experts_per_token, E = m.n_experts;
    double rows = (m.n_heads + 2.0 * m.n_kv_heads) * d, width_kv = 2.0 * m.n_kv_heads * d * 2;
    double experts = 0, bytes_experts = 0, flops = 0;
    for (const nb_cuda_layer &l : random.layers) {
        experts += (double)l.gate_up.shape.bytes + (double)l.down.shape.bytes;
        flops += 2 * n * (rows * D + D * m.n_heads * d + 3 * K * m.expert_width * D);
    }
    bytes_experts = experts * E;
    /* How much of the experts n tokens choose, if evenly. */
    double chosen = 1 - pow(1 - K / E, n),
           bytes = random.weight_bytes - (1 - chosen) * bytes_experts;
    double flops_attention = 4 * pairs * m.n_heads * d * L, bytes_attention = kv * width_kv * L;
    std::map<std::string, double> out;
    out[""] = std::max((bytes + bytes_attention) / READS, (flops + flops_attention) / PRODUCTS);
    out["attention"] = std::max(bytes_attention / READS, flops_attention / PRODUCTS);
    out["rotate"] = L * n * (rows * 4 + m.n_heads * d * 2 + width_kv) / READS;
    out["after_attention"] = L * n * D * (4 + 4 + 4 + 2) / READS;
    out["after_experts"] = L * n * D * (4 + 4 * K + 4 + 2) / READS;
    out["gate_up"] = std::max(L * 4 * n * K * m.expert_width * D / PRODUCTS,
                              chosen * bytes_experts * 2 / 3 / READS);
    out["down"] =
        std::max(L * 2 * n * K * m.expert_width * D / PRODUCTS, chosen * bytes_experts / 3 / READS);
    for (auto &p : out)
        p.second *= 1e3;
    return out;
}

static void bench(const cuda_random_config &c) {
    std::vector<scenario> all = {{"prefill 512", {{0, 512, chunk::LOGITS_LAST}}},
                                 {"prefill 2048", {{0, 2048, chunk::LOGITS_LAST}}},
                                 {"prefill 8192", {{0, 8192, chunk::LOGITS_LAST}}},
                                 {"decode 16", decode(std::vector<int32_t>(16, 500))},
                                 {"decode 32", decode(std::vector<int32_t>(32, 500))},
                                 {"decode 64", decode(std::vector<int32_t>(64, 500))},
                                 {"decode 32 at 4096", decode(std::vector<int32_t>(32, 4096))}};
    cuda_random_model m;
    cuda_random_make(&c, 32 * 260, 8192, 64, 1, &m);
    void *work;
    size_t bytes = nb_cuda_batch_workspace(&m.model, &m.limits);
    CUDA_CHECK(cudaMalloc(&work, bytes));
    printf("{\"model\": \"%s\", \"weights_gb\": %.2f, \"workspace_gb\": %.2f}\n", c.name,
           (double)m.weight_bytes / 1e9, (double)bytes / 1e9);
    for (const scenario &s : all) {
        if (std::string(s.name).find(only) == std::string::npos)
            continue;
        cuda_random_step step;
        cuda_random_step_make(&m, s.of, 2, &step);
        int repeats = step.step.n_tokens > 4000 ? 2 : 4;
        double ms = time_graph(m, step, work, repeats);
        std::map<std::string, double> parts = time_parts(m, step, work, repeats),
                                      least = limits_of(m, s.of);
        printf("{\"step\": \"%s\", \"ms\": %.3f, \"tokens_per_s\": %.0f, \"limit_ms\": %.3f, "
               "\"share\": %.2f",
               s.name, ms, step.step.n_tokens / ms * 1e3, least[""], least[""] / ms);
        for (const auto &p : parts) {
            printf(", \"%s_ms\": %.3f", p.first.c_str(), p.second);
            if (least.count(p.first)) /* of what the hardware allows */
                printf(", \"%s_share\": %.2f", p.first.c_str(), least[p.first] / p.second);
        }
        printf("}\n");
        fflush(stdout);
        cuda_random_step_free(&step);
    }
    CUDA_CHECK(cudaFree(work));
    cuda_random_free(&m);
}

#endif

int main(int argc, char **argv) {
#if NB_EMULATED
    emulated_gpu.capability = NB_EMULATED_ARCH, emulated_gpu.sm_count = 4;
#endif
    bool measure = false, brief = false;
    for (int i = 1; i < argc; i++) {
        measure |= strcmp(argv[i], "--bench") == 0;
        brief |= strcmp(argv[i], "--brief") == 0; /* few cases: under compute-sanitizer */
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
    }
#if !NB_EMULATED
    if (measure) {
        bench(cuda_mixtral_8x7b);
        return 0;
    }
#endif
    test(brief);
    printf("1..%d\n", number);
    return failed != 0;
}
