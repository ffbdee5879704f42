#include "backend/cpu/kernels.h"

#include "backend/cpu/kernels_x86.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The i-th version, from the plainest to the fastest; NULL past the last, *runs false where this
 * processor lacks the instructions. */
static const struct nb_kernels *version(int i, bool *runs) {
    *runs = true;
    if (i == 0)
        return &nb_kernels_plain;
#if defined(__x86_64__)
    if (i == 1) {
        *runs = nb_kernels_avx2_runs();
        return &nb_kernels_avx2;
    }
    if (i == 2) {
        *runs = nb_kernels_avx512_runs();
        return &nb_kernels_avx512;
    }
#endif
    return NULL;
}

const struct nb_kernels *nb_kernels_find(const char *name) {
    const struct nb_kernels *best = NULL, *k;
    bool runs;
    for (int i = 0; (k = version(i, &runs)); i++) {
        if (runs && (!name || strcmp(name, k->name) == 0))
            best = k;
    }
    return best;
}

const char *nb_kernels_names(char *out, size_t size) {
    const struct nb_kernels *k;
    bool runs;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; (k = version(i, &runs)); i++) {
        if (runs && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", k->name);
    }
    return out;
}

bool nb_fixed_takes(const struct nb_matrix *m) {
    if (m->type != NB_WEIGHT_4BIT || m->quant.block < NB_FIXED_BLOCK ||
        m->columns % NB_FIXED_BLOCK != 0)
        return false;
    float most = 0, least = 0;
    for (int i = 0; i < 16; i++) {
        if (!isfinite(m->quant.values[i]))
            return false;
        most = fmaxf(most, m->quant.values[i]);
        least = fminf(least, m->quant.values[i]);
    }
    return most - least > 1e-30f;
}

bool nb_fixed_packs(const struct nb_matrix *m) {
    return nb_fixed_takes(m) && m->rows % NB_FIXED_ROWS == 0 &&
           m->columns % (2 * NB_FIXED_BLOCK) == 0 &&
           (m->quant.absmax || (m->quant.nested_block & (m->quant.nested_block - 1)) == 0);
}

void nb_fixed_place(const struct nb_matrix *const *m, size_t n, struct nb_layout *layout,
                    struct nb_fixed_packed *out) {
    size_t weights = (size_t)m[0]->rows * (size_t)m[0]->columns, pieces = weights / NB_FIXED_BLOCK,
           strip_bytes = NB_FIXED_ROWS * (size_t)m[0]->columns / 2;
    uint8_t *codes = nb_layout_place(layout, n * weights / 2);
    for (size_t i = 0; i < n; i++) {
        out[i] = (struct nb_fixed_packed){.codes = codes ? codes + i * strip_bytes : NULL,
                                          .stride = n * strip_bytes};
        if (m[i]->quant.absmax) {
            out[i].absmax = nb_layout_place(layout, pieces * sizeof *out[i].absmax);
            continue;
        }
        out[i].absmax_code = nb_layout_place(layout, pieces);
        /* With planes of its own, each strip would find them gone from the first-level cache: that
         * takes an eighth of the speed where memory is fast. */
        bool same =
            i > 0 && !m[0]->quant.absmax &&
            memcmp(m[i]->quant.nested_values, m[0]->quant.nested_values, 256 * sizeof(float)) == 0;
        out[i].planes = same ? out[0].planes : nb_layout_place(layout, 4 * 256);
    }
}

/* Codes of a strip, [32, columns / 2] to [columns / 8, 32, 4]. */
static void pack_codes(const uint8_t *from, size_t row_bytes, uint8_t *to) {
    enum { LINE = 64 }; /* bytes, of which each row's is read whole */
    for (size_t line = 0; line < row_bytes; line += LINE) {
        for (size_t r = 0; r < NB_FIXED_ROWS; r++) {
            for (size_t i = line; i < line + LINE; i += 4)
                memcpy(to + i * NB_FIXED_ROWS + r * 4, from + r * row_bytes + i, 4);
        }
    }
}

void nb_fixed_pack(const struct nb_matrix *m, const struct nb_fixed_packed *to, size_t begin,
                   size_t end) {
    const struct nb_quant_view *view = &m->quant;
    size_t columns = (size_t)m->columns, pieces = columns / NB_FIXED_BLOCK,
           strip_bytes = NB_FIXED_ROWS * columns / 2;
    int shift = __builtin_ctzll(view->block / NB_FIXED_BLOCK);
    for (size_t s = begin; s < end; s++) {
        pack_codes(view->codes + s * strip_bytes, columns / 2,
                   (uint8_t *)to->codes + s * to->stride);
        for (size_t r = 0; r < NB_FIXED_ROWS; r++) {
            for (size_t i = 0; i < pieces; i++) {
                size_t block = ((s * NB_FIXED_ROWS + r) * pieces + i) >> shift;
                size_t at = s * pieces * NB_FIXED_ROWS;
                if (to->absmax)
                    ((float *)to->absmax)[at + i * NB_FIXED_ROWS + r] = view->absmax[block];
                else
                    ((uint8_t *)
                         to->absmax_code)[at + i / 2 * 64 + nb_fixed_packed_place(r, i % 2)] =
                        view->absmax_code[block];
            }
        }
    }
    for (size_t i = 0; to->planes && begin == 0 && i < 256; i++) {
        uint8_t bytes[4];
        memcpy(bytes, &view->nested_values[i], 4);
        for (size_t p = 0; p < 4; p++)
            ((uint8_t *)to->planes)[p * 256 + i] = bytes[p];
    }
}

size_t nb_fixed_nested(const struct nb_fixed_job *job, size_t piece, float *out) {
    const struct nb_quant_view *view = job->w;
    size_t pieces = job->columns / NB_FIXED_BLOCK, least = pieces;
    int pieces_each =
        __builtin_ctzll(view->block / NB_FIXED_BLOCK) + __builtin_ctzll(view->nested_block);
    for (size_t r = 0; r < NB_FIXED_ROWS; r++) {
        size_t first = (job->row + r) * pieces, n = (first + piece) >> pieces_each;
        size_t until = ((n + 1) << pieces_each) - first;
        out[r] = view->nested_absmax[n];
        least = until < least ? until : least;
    }
    return least;
}
