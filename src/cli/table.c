#include "cli/table.h"

#include "base/room.h"
#include "base/utf8.h"
#include "cli/cli.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

enum { MAX_COLUMNS = 16, GAP = 2 };

static const char *const codes[] = {"", "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[31m"};

struct nb_cell *nb_table_row(struct nb_table *table) {
    if (!nb_room(&table->cells, table->n_rows, &table->cap_rows,
                 table->n_columns * sizeof *table->cells))
        return NULL;
    struct nb_cell *row = &table->cells[table->n_rows++ * table->n_columns];
    memset(row, 0, table->n_columns * sizeof *row);
    return row;
}

void nb_table_free(struct nb_table *table) {
    for (size_t i = 0; i < table->n_rows * table->n_columns; i++) {
        free(table->cells[i].text);
        free(table->cells[i].below);
    }
    free(table->cells);
    table->cells = NULL;
    table->n_rows = table->cap_rows = 0;
}

static void pad(size_t n) {
    while (n--)
        putchar(' ');
}

/* The character at text, its bytes and its columns; what is no UTF-8 is a byte and a column. */
static size_t character(const char *text, size_t *columns) {
    uint32_t c = 0;
    size_t n = nb_utf8_decode(text, strlen(text), &c);
    int width = n ? utf8proc_charwidth((utf8proc_int32_t)c) : 1;
    *columns = width > 0 ? (size_t)width : 0;
    return n ? n : 1;
}

/* Text in at most `width` columns, an ellipsis where it was cut; returns the columns it took. */
static size_t print_cut(const char *text, size_t width, bool left) {
    size_t all = nb_text_columns(text), columns;
    if (all <= width) {
        fputs(text, stdout);
        return all;
    }
    if (width == 0)
        return 0;
    size_t taken = 1, skipped = 0;
    if (left) {
        while (all - skipped > width - 1) {
            text += character(text, &columns);
            skipped += columns;
        }
        printf("…%s", text);
        return 1 + all - skipped;
    }
    while (*text) {
        size_t n = character(text, &columns);
        if (taken + columns > width)
            break;
        fwrite(text, 1, n, stdout);
        taken += columns;
        text += n;
    }
    fputs("…", stdout);
    return taken;
}

struct shape {
    size_t width[MAX_COLUMNS];
    bool out[MAX_COLUMNS];
};

static size_t line_width(const struct nb_table *t, const struct shape *s) {
    size_t sum = 0, n = 0;
    for (size_t i = 0; i < t->n_columns; i++) {
        sum += s->out[i] ? 0 : s->width[i];
        n += !s->out[i];
    }
    return sum + GAP * (n ? n - 1 : 0);
}

/* Takes a column off the widest one that can be cut; false if none can. */
static bool shrink(const struct nb_table *t, struct shape *s) {
    size_t widest = t->n_columns;
    for (size_t i = 0; i < t->n_columns; i++) {
        bool can = !s->out[i] && t->columns[i].shrinks && s->width[i] > t->columns[i].shrinks;
        if (can && (widest == t->n_columns || s->width[i] > s->width[widest]))
            widest = i;
    }
    if (widest == t->n_columns)
        return false;
    s->width[widest]--;
    return true;
}

static bool leave_out(const struct nb_table *t, struct shape *s) {
    size_t first = t->n_columns;
    for (size_t i = 0; i < t->n_columns; i++) {
        int order = t->columns[i].leaves;
        if (!s->out[i] && order && (first == t->n_columns || order < t->columns[first].leaves))
            first = i;
    }
    if (first == t->n_columns)
        return false;
    s->out[first] = true;
    return true;
}

static void natural(const struct nb_table *t, struct shape *s) {
    for (size_t i = 0; i < t->n_columns; i++) {
        s->width[i] = nb_text_columns(t->columns[i].head);
        for (size_t r = 0; r < t->n_rows; r++) {
            const char *text = t->cells[r * t->n_columns + i].text;
            size_t w = nb_text_columns(text ? text : "-");
            s->width[i] = w > s->width[i] ? w : s->width[i];
        }
    }
}

/* Cells are cut before columns are left out, and take their full width again where one was. */
static void fit(const struct nb_table *t, size_t width, struct shape *s) {
    for (;;) {
        natural(t, s);
        while (width && line_width(t, s) > width && shrink(t, s))
            ;
        if (!width || line_width(t, s) <= width || !leave_out(t, s))
            return;
    }
}

static void print_cell(const struct nb_column *column, const char *text, enum nb_style style,
                       size_t width, bool last, bool color) {
    size_t w = nb_text_columns(text), space = w < width ? width - w : 0;
    if (column->right)
        pad(space);
    if (color)
        fputs(codes[style], stdout);
    w = print_cut(text, width, column->cut_left);
    if (color && style != NB_PLAIN)
        fputs("\033[0m", stdout);
    if (!column->right && !last)
        pad(width - (w < width ? w : width));
    if (!last)
        pad(GAP);
}

/* A row, or with NULL the head. */
static void print_row(const struct nb_table *t, const struct shape *s, const struct nb_cell *row,
                      bool color) {
    size_t last = 0;
    for (size_t i = 0; i < t->n_columns; i++)
        last = s->out[i] ? last : i;
    for (size_t i = 0; i < t->n_columns; i++) {
        if (s->out[i])
            continue;
        const char *text = row ? row[i].text : t->columns[i].head;
        enum nb_style style = !row ? NB_BOLD : text ? row[i].style : NB_DIM;
        print_cell(&t->columns[i], text ? text : "-", style, s->width[i], i == last, color);
    }
    putchar('\n');
}

void nb_table_print(const struct nb_table *t, size_t width, bool color) {
    struct shape s = {0};
    fit(t, width, &s);
    print_row(t, &s, NULL, color);
    for (size_t r = 0; r < t->n_rows; r++) {
        const struct nb_cell *row = &t->cells[r * t->n_columns];
        print_row(t, &s, row, color);
        if (row->below) {
            pad(GAP);
            fputs(color ? codes[NB_DIM] : "", stdout);
            print_cut(row->below, width > GAP ? width - GAP : SIZE_MAX, false);
            puts(color ? "\033[0m" : "");
        }
    }
}

bool nb_cli_color(void) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

size_t nb_cli_width(void) {
    struct winsize size;
    if (!isatty(STDOUT_FILENO))
        return 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
        return size.ws_col;
    const char *columns = getenv("COLUMNS");
    char *end;
    unsigned long n = columns ? strtoul(columns, &end, 10) : 0;
    return columns && end != columns && !*end && n < 10000 ? n : 0;
}
