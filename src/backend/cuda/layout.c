#include "backend/cuda/layout.h"

#include "base/float16.h"
#include "model/model.h"
#include "quant/flush.h"

#include <math.h>
#include <string.h>

/* ---- shapes ---- */

static int32_t div_up(int32_t a, int32_t b) {
    return a / b + (a % b != 0);
}

static uint32_t round_up_16(uint32_t n) {
    return (n + 15) & ~15U;
}

/* How many nested values the rows of half a tile and the chunks of a unit need at most. Halves
 * begin at rows that are multiples of 8, wherever in the matrix. */
static int32_t count_nested(const struct nb_cuda_shape *s) {
    int32_t most = 1, chunks = s->columns / NB_CUDA_CHUNK;
    for (int64_t row = 0; row < 8 * NB_NESTED_BLOCK && row < s->rows; row += 8) {
        for (int32_t c = 0; c < chunks; c += s->unit_chunks) {
            int32_t last = c + s->unit_chunks < chunks ? c + s->unit_chunks - 1 : chunks - 1;
            int64_t from = row * s->row_blocks + c / s->block_chunks,
                    to = (row + 7) * s->row_blocks + last / s->block_chunks;
            int32_t n = (int32_t)(to / NB_NESTED_BLOCK - from / NB_NESTED_BLOCK) + 1;
            most = n > most ? n : most;
        }
    }
    return most;
}

bool nb_cuda_shape(enum nb_cuda_kind kind, int32_t rows, int32_t columns, int32_t block,
                   struct nb_cuda_shape *out) {
    if (rows <= 0 || columns <= 0 || rows > INT32_MAX - 16 || columns > INT32_MAX - 4096)
        return false;
    if (kind == NB_CUDA_NESTED && (block < NB_CUDA_CHUNK || columns % block != 0))
        return false;
    if (kind == NB_CUDA_NESTED && (int64_t)rows * (columns / block) > INT32_MAX)
        return false; /* NB_CUDA_SLOT counts blocks in 32 bits */
    if (kind == NB_CUDA_ABSMAX && columns % 32 != 0)
        return false;
    int32_t chunks = div_up(columns, NB_CUDA_CHUNK),
            most = kind == NB_CUDA_BF16 ? NB_CUDA_BF16_UNIT_CHUNKS : NB_CUDA_UNIT_CHUNKS;
    struct nb_cuda_shape s = {
        .kind = kind,
        .rows = rows,
        .columns = columns,
        .n_tiles = div_up(rows, NB_CUDA_TILE),
        .n_units = div_up(chunks, most),
        .block_chunks = 1,
        .scales_per_chunk = 1,
    };
    s.unit_chunks = div_up(chunks, s.n_units);
    s.n_chunks = s.n_units * s.unit_chunks;
    uint32_t n = (uint32_t)s.unit_chunks;
    switch (kind) {
    case NB_CUDA_NESTED:
        s.block_chunks = block / NB_CUDA_CHUNK;
        s.row_blocks = columns / block;
        s.n_nested = count_nested(&s);
        s.scale_bytes = round_up_16((uint32_t)s.n_nested * 2 * 4 + 2 * 4);
        s.code_bytes = s.scale_bytes + n * NB_CUDA_TILE;
        s.unit_bytes = s.code_bytes + n * NB_CUDA_CHUNK_CODES;
        break;
    case NB_CUDA_ABSMAX:
        s.scales_per_chunk = block < NB_CUDA_CHUNK || columns % NB_CUDA_CHUNK != 0 ? 2 : 1;
        s.code_bytes = n * NB_CUDA_TILE * (uint32_t)s.scales_per_chunk * 4;
        s.unit_bytes = s.code_bytes + n * NB_CUDA_CHUNK_CODES;
        break;
    case NB_CUDA_BF16:
        s.unit_bytes = n * NB_CUDA_TILE * NB_CUDA_CHUNK * 2;
        break;
    }
    s.bytes = (uint64_t)s.n_tiles * (uint64_t)s.n_units * s.unit_bytes;
    *out = s;
    return true;
}

/* ---- rows ---- */

/* Of a head of d rows, tile m: rows 8 m … + 7, then d / 2 + 8 m … + 7. */
static int32_t rotary_row(int32_t d, int32_t tile, int i) {
    int32_t tiles = d / NB_CUDA_TILE, head = tile / tiles, m = tile % tiles;
    return head * d + (i < 8 ? 0 : d / 2) + 8 * m + i % 8;
}

int32_t nb_cuda_row(const struct nb_cuda_source *source, int32_t tile, int i, int32_t *part) {
    *part = 0;
    if (source->order == NB_CUDA_GATE_UP) {
        int32_t row = 8 * tile + i % 8;
        *part = i / 8;
        return row < source->parts[0]->rows ? row : -1;
    }
    int32_t row = NB_CUDA_TILE * tile + i; /* in the parts below one another */
    for (int32_t p = 0, begin = 0; p < source->n_parts; p++) {
        int32_t rows = source->parts[p]->rows;
        if (row < begin + rows) {
            *part = p;
            if (source->order == NB_CUDA_ROTARY && p < source->n_rotary)
                return rotary_row(source->head_rows, tile - begin / NB_CUDA_TILE, i);
            return row - begin;
        }
        begin += rows;
    }
    return -1;
}

/* ---- kinds ---- */

/* Whether part p can be NESTED: no half of a tile lies in two parts, and kernels, which count rows
 * through all of the matrix, find nested blocks where they begin in the part. */
static bool is_nested(const struct nb_cuda_source *source, int32_t p, const float *nested_values) {
    const struct nb_matrix *m = source->parts[p];
    const struct nb_quant_view *v = &m->quant;
    if (!v->absmax_code || v->nested_block != NB_NESTED_BLOCK ||
        memcmp(v->nested_values, nested_values, 256 * sizeof *nested_values) != 0)
        return false;
    if (source->order == NB_CUDA_GATE_UP || p == source->n_parts - 1)
        return true;
    return m->rows % 8 == 0 && v->n % (v->block * NB_NESTED_BLOCK) == 0;
}

/* The kind that all sources can have; *block is the smallest of their blocks. */
static enum nb_cuda_kind common_kind(const struct nb_cuda_source *sources, size_t n,
                                     const float *nested_values, size_t *block) {
    enum nb_cuda_kind kind = NB_CUDA_NESTED;
    const struct nb_matrix *first = sources[0].parts[0];
    *block = first->quant.block;
    for (size_t i = 0; i < n; i++) {
        for (int32_t p = 0; p < sources[i].n_parts; p++) {
            const struct nb_matrix *m = sources[i].parts[p];
            if (m->type != NB_WEIGHT_4BIT || m->quant.type != first->quant.type)
                return NB_CUDA_BF16;
            if (!is_nested(&sources[i], p, nested_values) || m->quant.block != first->quant.block)
                kind = NB_CUDA_ABSMAX;
            *block = m->quant.block < *block ? m->quant.block : *block;
        }
    }
    return kind;
}

void nb_cuda_shape_of(const struct nb_cuda_source *sources, size_t n, const float *nested_values,
                      struct nb_cuda_shape *out) {
    size_t block;
    int32_t rows = 0, columns = sources[0].parts[0]->columns;
    enum nb_cuda_kind kind = common_kind(sources, n, nested_values, &block);
    for (int32_t p = 0; p < sources[0].n_parts; p++)
        rows += sources[0].parts[p]->rows;
    for (;; kind++) {
        if (nb_cuda_shape(kind, rows, columns, (int32_t)block, out) || kind == NB_CUDA_BF16)
            return;
    }
}

/* ---- repacking ---- */

/* Byte of a chunk's codes, and which half of it, where a row of the tile has its column: bit 0 of
 * the result is 1 for the low nibble. */
static uint32_t place_of(int i, int column) {
    int g = i % 8, q = column / 16, j = column % 16 / 4, h = column % 4 / 2;
    uint32_t lane = (uint32_t)(4 * g + q), byte = (uint32_t)(4 * j + 2 * h + i / 8);
    return (lane * 16 + byte) * 2 + (uint32_t)(column & 1);
}

/* Which code stands for 0. */
static uint8_t zero_code(enum nb_quant_type type) {
    return type == NB_QUANT_FP4 ? 0 : 7;
}

static uint8_t code_at(const struct nb_quant_view *v, size_t weight) {
    return weight & 1 ? v->codes[weight / 2] & 0xF : v->codes[weight / 2] >> 4;
}

/* A tile being made. */
struct tile {
    const struct nb_cuda_source *source;
    const struct nb_cuda_shape *shape;
    uint8_t *out;    /* n_units * unit_bytes */
    int32_t tile;    /* its number */
    int32_t row[16]; /* -1: padding */
    const struct nb_matrix *matrix[16];
};

static uint8_t *unit_of(const struct tile *t, int32_t chunk, int32_t *within) {
    *within = chunk % t->shape->unit_chunks;
    return t->out + (size_t)(chunk / t->shape->unit_chunks) * t->shape->unit_bytes;
}

static void pack_codes(const struct tile *t, int i) {
    const struct nb_cuda_shape *s = t->shape;
    const struct nb_matrix *m = t->matrix[i];
    uint8_t zero = zero_code(t->source->parts[0]->quant.type);
    for (int32_t column = 0; column < s->n_chunks * NB_CUDA_CHUNK; column++) {
        uint8_t code = zero;
        if (m && column < s->columns)
            code = code_at(&m->quant, (size_t)t->row[i] * (size_t)s->columns + (size_t)column);
        int32_t chunk;
        uint8_t *unit = unit_of(t, column / NB_CUDA_CHUNK, &chunk);
        uint32_t place = place_of(i, column % NB_CUDA_CHUNK);
        unit[s->code_bytes + (uint32_t)chunk * NB_CUDA_CHUNK_CODES + place / 2] |=
            (uint8_t)(place & 1 ? code : code << 4);
    }
}

/* f32 absmax of a row: one or two for each chunk, and 0 beyond the matrix. */
static void pack_absmax(const struct tile *t, int i) {
    const struct nb_cuda_shape *s = t->shape;
    int32_t width = NB_CUDA_CHUNK / s->scales_per_chunk;
    for (int32_t k = 0; t->matrix[i] && k * width < s->columns; k++) {
        const struct nb_quant_view *v = &t->matrix[i]->quant;
        size_t weight = (size_t)t->row[i] * (size_t)s->columns + (size_t)k * (size_t)width;
        float absmax = nb_quant_absmax(v, weight / v->block);
        int32_t chunk;
        uint8_t *unit = unit_of(t, k / s->scales_per_chunk, &chunk);
        size_t at = (size_t)chunk * (size_t)s->scales_per_chunk + (size_t)(k % s->scales_per_chunk);
        memcpy(unit + s->scale_bytes + (at * NB_CUDA_TILE + (size_t)i) * 4, &absmax, 4);
    }
}

/* The nested values of half a tile in the unit that begins with chunk c: as many as there is room
 * for, needed or not, and 0 beyond the matrix. */
static void pack_nested_values(const struct tile *t, int half, int32_t c, uint8_t *unit) {
    const struct nb_cuda_shape *s = t->shape;
    if (!t->matrix[8 * half])
        return;
    const struct nb_quant_view *v = &t->matrix[8 * half]->quant;
    size_t n = nb_quant_nested_blocks(v->n, v->block, v->nested_block),
           first =
               (size_t)(t->row[8 * half] * s->row_blocks + c / s->block_chunks) / NB_NESTED_BLOCK;
    float *nested = (float *)unit + half * s->n_nested;
    for (size_t i = 0; i < (size_t)s->n_nested; i++)
        nested[i] = first + i < n ? v->nested_absmax[first + i] : 0;
    ((float *)unit)[2 * s->n_nested + half] = v->nested_offset;
}

static void pack_nested(const struct tile *t, int i) {
    const struct nb_cuda_shape *s = t->shape;
    for (int32_t c = 0; t->matrix[i] && c < s->columns / NB_CUDA_CHUNK; c++) {
        int32_t chunk;
        uint8_t *unit = unit_of(t, c, &chunk);
        int32_t block = t->row[i] * s->row_blocks + c / s->block_chunks;
        unit[s->scale_bytes + (uint32_t)(chunk * NB_CUDA_TILE + i)] =
            t->matrix[i]->quant.absmax_code[block];
        if (chunk == 0 && i % 8 == 0)
            pack_nested_values(t, i / 8, c, unit);
    }
}

/* Weights [first, first + n) of a matrix as bf16. */
static void to_bf16(const struct nb_matrix *m, size_t first, size_t n, uint16_t *out) {
    if (m->type == NB_WEIGHT_4BIT)
        nb_dequantize_bf16(&m->quant, first, n, out);
    for (size_t i = 0; m->type != NB_WEIGHT_4BIT && i < n; i++) {
        if (m->type == NB_WEIGHT_BF16)
            out[i] = ((const uint16_t *)m->data)[first + i];
        else if (m->type == NB_WEIGHT_F16)
            out[i] = nb_f32_to_bf16(nb_f16_to_f32(((const uint16_t *)m->data)[first + i]));
        else
            out[i] = nb_f32_to_bf16(((const float *)m->data)[first + i]);
    }
}

static void pack_bf16(const struct tile *t, int i) {
    const struct nb_cuda_shape *s = t->shape;
    for (int32_t c = 0; t->matrix[i] && c * NB_CUDA_CHUNK < s->columns; c++) {
        uint16_t weights[NB_CUDA_CHUNK];
        int32_t left = s->columns - c * NB_CUDA_CHUNK, chunk,
                n = left < NB_CUDA_CHUNK ? left : NB_CUDA_CHUNK;
        size_t first = (size_t)t->row[i] * (size_t)s->columns + (size_t)c * (size_t)NB_CUDA_CHUNK;
        to_bf16(t->matrix[i], first, (size_t)n, weights);
        uint16_t *out = (uint16_t *)unit_of(t, c, &chunk);
        for (int32_t k = 0; k < n; k++)
            out[(uint32_t)chunk * NB_CUDA_TILE * NB_CUDA_CHUNK + place_of(i, k)] = weights[k];
    }
}

void nb_cuda_repack(const struct nb_cuda_source *source, const struct nb_cuda_shape *shape,
                    int32_t first, int32_t n, uint8_t *out) {
    size_t bytes = (size_t)shape->n_units * shape->unit_bytes;
    memset(out, 0, bytes * (size_t)n);
    for (int32_t k = 0; k < n; k++) {
        struct tile t = {source, shape, out + bytes * (size_t)k, first + k, {0}, {0}};
        for (int i = 0; i < NB_CUDA_TILE; i++) {
            int32_t part;
            t.row[i] = nb_cuda_row(source, t.tile, i, &part);
            t.matrix[i] = t.row[i] >= 0 ? source->parts[part] : NULL;
            if (shape->kind == NB_CUDA_BF16) {
                pack_bf16(&t, i);
                continue;
            }
            pack_codes(&t, i);
            if (shape->kind == NB_CUDA_NESTED)
                pack_nested(&t, i);
            else
                pack_absmax(&t, i);
        }
    }
}

/* ---- and back ---- */

/* The scale of row i of a tile, `row` of its part, in a chunk and half of it. */
static float scale_at(const struct nb_cuda_shape *s, const uint8_t *unit,
                      const float *nested_values, int i, int32_t row, int32_t c, int column) {
    int32_t chunk = c % s->unit_chunks;
    if (s->kind == NB_CUDA_ABSMAX) {
        int32_t at = chunk * s->scales_per_chunk + column * s->scales_per_chunk / NB_CUDA_CHUNK;
        return ((const float *)(unit + s->scale_bytes))[at * NB_CUDA_TILE + i];
    }
    const float *nested = (const float *)unit + (i / 8) * s->n_nested;
    uint8_t code = unit[s->scale_bytes + (uint32_t)(chunk * NB_CUDA_TILE + i)];
    float product = nb_mul_flushed(nested_values[code],
                                   nested[NB_CUDA_SLOT(s, row, c, row - i % 8, c - chunk)]);
    return product + ((const float *)unit)[2 * s->n_nested + i / 8];
}

void nb_cuda_unpack(const struct nb_cuda_shape *shape, const struct nb_cuda_source *source,
                    const uint8_t *data, const float *values, const float *nested_values,
                    int32_t tile, int i, float *out) {
    int32_t part, row = nb_cuda_row(source, tile, i, &part);
    for (int32_t column = 0; column < shape->columns; column++) {
        int32_t c = column / NB_CUDA_CHUNK, chunk = c % shape->unit_chunks;
        const uint8_t *unit =
            data + ((size_t)tile * (size_t)shape->n_units + (size_t)(c / shape->unit_chunks)) *
                       shape->unit_bytes;
        uint32_t place = place_of(i, column % NB_CUDA_CHUNK);
        if (shape->kind == NB_CUDA_BF16) {
            const uint16_t *w = (const uint16_t *)unit + chunk * NB_CUDA_TILE * NB_CUDA_CHUNK;
            out[column] = nb_bf16_to_f32(w[place]);
            continue;
        }
        uint8_t byte = unit[shape->code_bytes + (uint32_t)chunk * NB_CUDA_CHUNK_CODES + place / 2];
        float scale =
            row < 0 ? 0 : scale_at(shape, unit, nested_values, i, row, c, column % NB_CUDA_CHUNK);
        out[column] = nb_mul_flushed(values[place & 1 ? byte & 0xF : byte >> 4], scale);
    }
}
