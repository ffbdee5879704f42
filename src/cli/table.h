/* Tables for people: columns aligned by the width that text takes on a terminal, cut or left out
 * where it is too narrow, coloured where colours are wanted. */
#ifndef NB_CLI_TABLE_H
#define NB_CLI_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct nb_column {
    const char *head;
    bool right;     /* aligned */
    bool cut_left;  /* a cell that is cut loses its beginning, not its end */
    size_t shrinks; /* columns that it may be cut to; 0: it is not cut */
    int leaves;     /* it is left out before those with a greater number; 0: never */
};

enum nb_style { NB_PLAIN, NB_BOLD, NB_DIM, NB_GREEN, NB_YELLOW, NB_RED };

struct nb_cell {
    char *text; /* owned by the table; NULL: "-", dim */
    enum nb_style style;
    char *below; /* in a row's first cell: a line under the row, or NULL */
};

struct nb_table {
    const struct nb_column *columns; /* [n_columns], at most 16 */
    size_t n_columns;
    struct nb_cell *cells; /* [n_rows, n_columns] */
    size_t n_rows, cap_rows;
};

/* A row of empty cells, or NULL if memory ran out. */
struct nb_cell *nb_table_row(struct nb_table *table);

/* Prints it to standard output. width: the most columns a line should take; 0: any. */
void nb_table_print(const struct nb_table *table, size_t width, bool color);
void nb_table_free(struct nb_table *table);

/* Whether standard output is a terminal that colours are wanted on (NO_COLOR, TERM), and how many
 * columns it has: 0 if it is none, or does not say. */
bool nb_cli_color(void);
size_t nb_cli_width(void);

#endif
