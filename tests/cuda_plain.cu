/* The plain CUDA pass against sums in double on the host, on small random models of every kind:
 * weights read back by nb_cuda_unpack, KV memory as it was and as the pass left it. TAP.
 */
#include "cuda_random.h"

extern "C" {
#include "backend/backend.h"
}

#include <cuda_fp8.h>

#include <algorithm>
#include <math.h>

typedef std::vector<double> row;

/* ---- what is on the device, on the host ---- */

template <class T> static std::vector<T> download(const void *from, size_t n) {
    std::vector<T> out(n);
    CUDA_CHECK(cudaMemcpy(out.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
}

/* Matrices of one kind, one below another, as rows of f32 in the checkpoint's order. */
struct host_matrix {
    int32_t rows, columns;
    std::vector<float> w; /* [n * rows, columns] */

    host_matrix(const struct nb_cuda_model &m, const struct nb_cuda_matrix &from,
                struct nb_cuda_source source, size_t n)
        : rows(from.shape.rows), columns(from.shape.columns), w(n * rows * columns) {
        std::vector<uint8_t> data = download<uint8_t>(from.data, n * from.shape.bytes);
        std::vector<float> values = download<float>(m.values, 32),
                           nested = download<float>(m.nested_values, 256);
        std::vector<float> out(columns);
        for (size_t e = 0; e < n; e++) {
            for (int32_t i = 0; i < 16 * from.shape.n_tiles; i++) {
                int32_t part, at = nb_cuda_row(&source, i / 16, i % 16, &part);
                if (at < 0)
                    continue;
                for (int32_t p = 0; p < part; p++)
                    at += source.parts[p]->rows;
                nb_cuda_unpack(&from.shape, &source, &data[e * from.shape.bytes],
                               &values[16 * from.values], nested.data(), i / 16, i % 16,
                               out.data());
                std::copy(out.begin(), out.end(), w.begin() + (e * rows + at) * columns);
            }
        }
    }

    /* rows of matrix e times x */
    row times(const row &x, size_t e = 0) const {
        row y(rows);
        for (int32_t r = 0; r < rows; r++) {
            for (int32_t c = 0; c < columns; c++)
                y[r] += (double)w[(e * rows + r) * columns + c] * x[c];
        }
        return y;
    }
};

static row norm(const row &x, const std::vector<float> &w, double eps) {
    double sum = 0;
    for (double v : x)
        sum += v * v;
    row y(x.size());
    for (size_t i = 0; i < x.size(); i++)
        y[i] = x[i] / sqrt(sum / (double)x.size() + eps) * w[i];
    return y;
}

/* ---- the pass on the host ---- */

struct host_step {
    std::vector<int32_t> token, position, sequence, pages, logits_of;
};

struct host_kv {
    const struct nb_cuda_model &m;
    std::vector<uint8_t> bytes; /* as it was before the pass */

    float at(size_t i) const {
        if (m.kv_fp8)
            return (float)((const __nv_fp8_e4m3 *)bytes.data())[i];
        return __bfloat162float(((const __nv_bfloat16 *)bytes.data())[i]);
    }
    void set(size_t i, float x) {
        if (m.kv_fp8)
            ((__nv_fp8_e4m3 *)bytes.data())[i] = __nv_fp8_e4m3(x);
        else
            ((__nv_bfloat16 *)bytes.data())[i] = __float2bfloat16_rn(x);
    }
};

static void attend(const struct nb_cuda_model &m, const struct nb_cuda_layer &l, int32_t layer,
                   const host_step &s, int32_t max_pages, host_kv *kv, std::vector<row> *x) {
    int32_t d = m.head_width, H = m.n_heads, G = m.n_kv_heads;
    struct nb_matrix q = {}, k = {}, all = {};
    q.rows = H * d, k.rows = G * d, all.rows = m.width;
    struct nb_cuda_source qkv_source = {{&q, &k, &k}, 3, NB_CUDA_ROTARY, d % 16 ? 0 : 2, d};
    host_matrix qkv(m, l.qkv, qkv_source, 1), o(m, l.o, {{&all}, 1, NB_CUDA_NATURAL, 0, 0}, 1);
    std::vector<float> weight = download<float>(l.attention_norm, m.width), norms[2],
                       frequencies = download<float>(m.frequencies, d / 2);
    if (m.qk_norm)
        norms[0] = download<float>(l.q_norm, d), norms[1] = download<float>(l.k_norm, d);
    auto key = [&](int32_t sequence, int32_t p, int32_t g) {
        int32_t page = s.pages[sequence * max_pages + p / NB_PAGE_TOKENS];
        return ((size_t)layer * m.n_pages + page) * m.page_stride +
               (size_t)(g * NB_PAGE_TOKENS + p % NB_PAGE_TOKENS) * d;
    };
    std::vector<row> queries;
    for (size_t t = 0; t < s.token.size(); t++) {
        row y = qkv.times(norm((*x)[t], weight, m.rms_eps));
        for (int32_t h = 0; h < H + G; h++) {
            row head(y.begin() + h * d, y.begin() + (h + 1) * d);
            if (m.qk_norm)
                head = norm(head, norms[h >= H], m.rms_eps);
            for (int32_t i = 0; i < d / 2; i++) {
                double angle = (float)s.position[t] * frequencies[i], a = head[i],
                       b = head[i + d / 2];
                y[h * d + i] = a * cos(angle) - b * sin(angle);
                y[h * d + i + d / 2] = b * cos(angle) + a * sin(angle);
            }
        }
        for (int32_t i = 0; i < G * d; i++) {
            size_t at = key(s.sequence[t], s.position[t], i / d) + i % d;
            kv->set(at, (float)y[H * d + i]);
            kv->set(at + (size_t)G * NB_PAGE_TOKENS * d, (float)y[(H + G) * d + i]);
        }
        queries.push_back(y);
    }
    for (size_t t = 0; t < s.token.size(); t++) {
        row out(H * d);
        int32_t last = s.position[t], first = m.window ? std::max(0, last - m.window + 1) : 0;
        for (int32_t h = 0; h < H; h++) {
            row score;
            for (int32_t p = first; p <= last; p++) {
                double dot = 0;
                for (int32_t i = 0; i < d; i++)
                    dot += queries[t][h * d + i] * kv->at(key(s.sequence[t], p, h / (H / G)) + i);
                score.push_back(dot / sqrt(d));
            }
            double max = *std::max_element(score.begin(), score.end()), sum = 0;
            for (double &v : score)
                sum += v = exp(v - max);
            for (int32_t p = first; p <= last; p++) {
                size_t value = key(s.sequence[t], p, h / (H / G)) + (size_t)G * 16 * d;
                for (int32_t i = 0; i < d; i++)
                    out[h * d + i] += score[p - first] / sum * kv->at(value + i);
            }
        }
        row y = o.times(out);
        for (int32_t i = 0; i < m.width; i++)
            (*x)[t][i] += y[i];
    }
}

/* The smallest gap between an expert that was taken and one that was not goes to *gap: where it is
 * within rounding, either choice is right. */
static void run_experts(const struct nb_cuda_model &m, const struct nb_cuda_layer &l,
                        std::vector<row> *x, double *gap) {
    int32_t F = m.expert_width, E = m.n_experts, K = m.experts_per_token;
    struct nb_matrix part = {}, all = {};
    part.rows = F, all.rows = m.width;
    host_matrix gate_up(m, l.gate_up, {{&part, &part}, 2, NB_CUDA_GATE_UP, 0, 0}, E),
        down(m, l.down, {{&all}, 1, NB_CUDA_NATURAL, 0, 0}, E);
    std::vector<float> weight = download<float>(l.expert_norm, m.width), router;
    if (!m.dense)
        router = download<float>(l.router, (size_t)E * m.width);
    for (row &token : *x) {
        row h = norm(token, weight, m.rms_eps), logits(E);
        for (size_t i = 0; i < router.size(); i++)
            logits[i / m.width] += router[i] * h[i % m.width];
        std::vector<int32_t> order(E);
        for (int32_t e = 0; e < E; e++)
            order[e] = e;
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
        if (K < E)
            *gap = std::min(*gap, logits[order[K - 1]] - logits[order[K]]);
        double sum = 0;
        for (int32_t i = 0; i < (m.normalize_experts ? K : E); i++)
            sum += exp(logits[order[i]]);
        for (int32_t i = 0; i < K; i++) {
            row y = gate_up.times(h, order[i]), inner(F);
            for (int32_t f = 0; f < F; f++)
                inner[f] = y[f] / (1 + exp(-y[f])) * y[F + f];
            y = down.times(inner, order[i]);
            for (int32_t k = 0; k < m.width; k++)
                token[k] += exp(logits[order[i]]) / sum * y[k];
        }
    }
}

static std::vector<float> forward(const struct cuda_random_model &random,
                                  const struct nb_cuda_step &step, int32_t n_sequences, host_kv *kv,
                                  double *gap) {
    const struct nb_cuda_model &m = random.model;
    host_step s = {download<int32_t>(step.token, step.n_tokens),
                   download<int32_t>(step.position, step.n_tokens),
                   download<int32_t>(step.sequence, step.n_tokens),
                   download<int32_t>(step.pages, (size_t)n_sequences * step.max_pages),
                   download<int32_t>(step.logits_of, step.n_logits)};
    struct nb_matrix vocabulary = {};
    vocabulary.rows = m.n_vocab;
    host_matrix head(m, m.head, {{&vocabulary}, 1, NB_CUDA_NATURAL, 0, 0}, 1);
    std::vector<row> x;
    std::vector<__nv_bfloat16> embedding;
    if (!m.tied)
        embedding = download<__nv_bfloat16>(m.embedding, (size_t)m.n_vocab * m.width);
    for (int32_t token : s.token) {
        row e;
        for (int32_t i = 0; i < m.width; i++) {
            size_t at = (size_t)token * m.width + i;
            e.push_back(m.tied ? head.w[at] : __bfloat162float(embedding[at]));
        }
        x.push_back(e);
    }
    for (int32_t i = 0; i < m.n_layers; i++) {
        attend(m, m.host_layers[i], i, s, step.max_pages, kv, &x);
        run_experts(m, m.host_layers[i], &x, gap);
    }
    std::vector<float> logits, weight = download<float>(m.norm, m.width);
    for (int32_t i : s.logits_of) {
        row y = head.times(norm(x[i], weight, m.rms_eps));
        logits.insert(logits.end(), y.begin(), y.end());
    }
    return logits;
}

/* ---- the test ---- */

int main() {
    typedef cuda_random_chunk chunk;
    static const std::vector<chunk> chunks = {
        {0, 19, chunk::LOGITS_ALL},  {37, 1, chunk::LOGITS_LAST}, {15, 1, chunk::LOGITS_LAST},
        {150, 5, chunk::LOGITS_ALL}, {16, 1, chunk::LOGITS_LAST}, {3, 2, chunk::LOGITS_NONE}};
    int failed = 0;
    printf("1..%d\n", cuda_n_small);
    for (int i = 0; i < cuda_n_small; i++) {
        struct cuda_random_model m;
        struct cuda_random_step s;
        cuda_random_make(&cuda_small[i], cuda_random_pages(chunks) + 3, 64, 8, 7, &m);
        cuda_random_step_make(&m, chunks, 11, &s);
        size_t kv_bytes = (size_t)m.model.n_layers * m.model.n_pages * m.model.page_stride *
                          (m.model.kv_fp8 ? 1 : 2);
        host_kv kv = {m.model, download<uint8_t>(m.model.kv, kv_bytes)};
        void *work;
        CUDA_CHECK(cudaMalloc(&work, nb_cuda_plain_workspace(&m.model, &m.limits)));
        CUDA_CHECK(nb_cuda_plain_forward(&m.model, &s.step, work, &m.limits, 0));
        CUDA_CHECK(cudaDeviceSynchronize());
        double gap = 1e9;
        std::vector<float> want = forward(m, s.step, (int32_t)chunks.size(), &kv, &gap),
                           got = cuda_logits(&m, &s);
        std::vector<uint8_t> left = download<uint8_t>(m.model.kv, kv_bytes);
        host_kv after = {m.model, left};
        double worst_kv = 0; /* rounding to nearest may fall either way: one part in 128, or 8 */
        for (size_t k = 0; k < kv_bytes / (m.model.kv_fp8 ? 1 : 2); k++)
            worst_kv = std::max(worst_kv, fabs((double)after.at(k) - kv.at(k)) /
                                              std::max(1e-2, fabs((double)kv.at(k))));
        struct cuda_difference d = cuda_compare(got, want, m.model.n_vocab);
        /* A bf16 or fp8 value of KV memory that rounds to the other side moves sums a little. */
        bool ok = d.finite && d.worst_error < (m.model.kv_fp8 ? 3e-3 : 3e-4) &&
                  worst_kv < (m.model.kv_fp8 ? 0.13 : 0.01);
        failed += !ok;
        printf("%s %d - %s\n# error %.2e, worst row %.2e, KL %.1e, KV %.1e, router gap %.1e\n",
               ok ? "ok" : "not ok", i + 1, cuda_small[i].name, d.error, d.worst_error, d.max_kl,
               worst_kv, gap);
        CUDA_CHECK(cudaFree(work));
        cuda_random_step_free(&s);
        cuda_random_free(&m);
    }
    return failed != 0;
}
