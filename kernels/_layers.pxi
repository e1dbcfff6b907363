# One dense layer, forward (a = σ(xW + b)) and backward (BP2, BP3 and BP4), as register
# tiles of an output. A thread owns whole output tiles and works through a contiguous run of
# the grid, column panel by column panel, so that it packs a panel at most once.

from libc.stdint cimport int64_t

cdef extern from "tile.hpp" namespace "fastmlp" nogil:
    cdef enum:
        TILE_ROWS
        TILE_SIZE
        BAND_VECTORS
        STACKED_ROWS
        WIDE_TILE_ROWS
        WIDE_TILE_SIZE
    # As overloads: Cython does not deduce a template's type from an array.
    Py_ssize_t vector_width(const float* kind)
    Py_ssize_t tile_columns(const float* kind)
    Py_ssize_t wide_tile_columns(const float* kind)
    Py_ssize_t few_columns(const float* kind, Py_ssize_t rows)
    bint is_far(const float* kind, Py_ssize_t step)
    void fetch(const float* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t columns)
    void copy_tile(const float* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t columns, float* c,
                   Py_ssize_t c_row)
    void pack(const float* b, Py_ssize_t b_step, Py_ssize_t depth, Py_ssize_t columns,
              float* panel, Py_ssize_t width)
    void multiply(const float* start, const float* a, Py_ssize_t a_row, Py_ssize_t a_step,
                  const float* b, Py_ssize_t b_step, Py_ssize_t depth, float* c,
                  Py_ssize_t rows, Py_ssize_t columns)
    void multiply_on(bint goes_on, const float* start, const float* a, Py_ssize_t a_row,
                     const float* b, Py_ssize_t b_step, Py_ssize_t depth, float* c,
                     Py_ssize_t rows, Py_ssize_t columns, const float* next,
                     Py_ssize_t next_step)
    void multiply_lanes(const float* start, Py_ssize_t start_step, const float* a,
                        Py_ssize_t a_row, Py_ssize_t a_step, const float* b, Py_ssize_t b_step,
                        Py_ssize_t depth, float* c, Py_ssize_t c_row, Py_ssize_t rows,
                        Py_ssize_t columns)
    void sum_rows(const float* b, Py_ssize_t b_step, Py_ssize_t depth, float* c,
                  Py_ssize_t columns)
    void transpose(const float* a, Py_ssize_t a_row, float* c, Py_ssize_t c_row)
    float dot(const float* a, const float* b, Py_ssize_t n)
    Py_ssize_t vector_width(const double* kind)
    Py_ssize_t tile_columns(const double* kind)
    Py_ssize_t wide_tile_columns(const double* kind)
    Py_ssize_t few_columns(const double* kind, Py_ssize_t rows)
    bint is_far(const double* kind, Py_ssize_t step)
    void fetch(const double* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t columns)
    void copy_tile(const double* a, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t columns,
                   double* c, Py_ssize_t c_row)
    void pack(const double* b, Py_ssize_t b_step, Py_ssize_t depth, Py_ssize_t columns,
              double* panel, Py_ssize_t width)
    void multiply(const double* start, const double* a, Py_ssize_t a_row, Py_ssize_t a_step,
                  const double* b, Py_ssize_t b_step, Py_ssize_t depth, double* c,
                  Py_ssize_t rows, Py_ssize_t columns)
    void multiply_on(bint goes_on, const double* start, const double* a, Py_ssize_t a_row,
                     const double* b, Py_ssize_t b_step, Py_ssize_t depth, double* c,
                     Py_ssize_t rows, Py_ssize_t columns, const double* next,
                     Py_ssize_t next_step)
    void multiply_lanes(const double* start, Py_ssize_t start_step, const double* a,
                        Py_ssize_t a_row, Py_ssize_t a_step, const double* b, Py_ssize_t b_step,
                        Py_ssize_t depth, double* c, Py_ssize_t c_row, Py_ssize_t rows,
                        Py_ssize_t columns)
    void sum_rows(const double* b, Py_ssize_t b_step, Py_ssize_t depth, double* c,
                  Py_ssize_t columns)
    void transpose(const double* a, Py_ssize_t a_row, double* c, Py_ssize_t c_row)
    double dot(const double* a, const double* b, Py_ssize_t n)

cdef extern from "sweep.hpp" namespace "fastmlp" nogil:
    cdef enum:
        NEAR_BYTES
    void multiply_few(const float* start, const float* a, Py_ssize_t a_row, const float* b,
                      Py_ssize_t b_step, Py_ssize_t depth, float* c, Py_ssize_t rows,
                      Py_ssize_t columns)
    void multiply_listed_tile(const float* a, const float* b, Py_ssize_t b_step,
                              const Py_ssize_t* list, Py_ssize_t n, Py_ssize_t columns, float* c)
    void multiply_listed(const float* a, Py_ssize_t a_row, const float* b, Py_ssize_t b_step,
                         const Py_ssize_t* list, Py_ssize_t n, Py_ssize_t columns, float* c,
                         Py_ssize_t c_row, Py_ssize_t rows)
    Py_ssize_t count_rows(const float* x, Py_ssize_t x_row, Py_ssize_t samples, Py_ssize_t n)
    Py_ssize_t list_rows(const float* x, Py_ssize_t x_row, Py_ssize_t samples, Py_ssize_t first,
                         Py_ssize_t n, Py_ssize_t* list)
    void dot_rows(const float* w, Py_ssize_t w_row, const Py_ssize_t* list, Py_ssize_t rows,
                  const float* d, Py_ssize_t columns, bint padded, float* out)
    void dot_descending_rows(float* w, Py_ssize_t w_row, const Py_ssize_t* list, Py_ssize_t rows,
                             const float* d, Py_ssize_t columns, bint padded, float* out,
                             const float* x, float learning_rate, float decay)
    void store_outer(const float* x, Py_ssize_t x_row, const float* d, Py_ssize_t d_row,
                     Py_ssize_t n, const Py_ssize_t* list, Py_ssize_t rows, Py_ssize_t columns,
                     float* out, Py_ssize_t out_row)
    void sgd_outer(const float* x, Py_ssize_t x_row, const float* d, Py_ssize_t d_row,
                   Py_ssize_t n, const Py_ssize_t* list, Py_ssize_t rows, Py_ssize_t columns,
                   float* theta, Py_ssize_t theta_row, float learning_rate, float decay)
    bint all_finite(const float* d, Py_ssize_t n)
    void multiply_few(const double* start, const double* a, Py_ssize_t a_row, const double* b,
                      Py_ssize_t b_step, Py_ssize_t depth, double* c, Py_ssize_t rows,
                      Py_ssize_t columns)
    void multiply_listed_tile(const double* a, const double* b, Py_ssize_t b_step,
                              const Py_ssize_t* list, Py_ssize_t n, Py_ssize_t columns, double* c)
    void multiply_listed(const double* a, Py_ssize_t a_row, const double* b, Py_ssize_t b_step,
                         const Py_ssize_t* list, Py_ssize_t n, Py_ssize_t columns, double* c,
                         Py_ssize_t c_row, Py_ssize_t rows)
    Py_ssize_t count_rows(const double* x, Py_ssize_t x_row, Py_ssize_t samples, Py_ssize_t n)
    Py_ssize_t list_rows(const double* x, Py_ssize_t x_row, Py_ssize_t samples, Py_ssize_t first,
                         Py_ssize_t n, Py_ssize_t* list)
    void dot_rows(const double* w, Py_ssize_t w_row, const Py_ssize_t* list, Py_ssize_t rows,
                  const double* d, Py_ssize_t columns, bint padded, double* out)
    void dot_descending_rows(double* w, Py_ssize_t w_row, const Py_ssize_t* list, Py_ssize_t rows,
                             const double* d, Py_ssize_t columns, bint padded, double* out,
                             const double* x, double learning_rate, double decay)
    void store_outer(const double* x, Py_ssize_t x_row, const double* d, Py_ssize_t d_row,
                     Py_ssize_t n, const Py_ssize_t* list, Py_ssize_t rows, Py_ssize_t columns,
                     double* out, Py_ssize_t out_row)
    void sgd_outer(const double* x, Py_ssize_t x_row, const double* d, Py_ssize_t d_row,
                   Py_ssize_t n, const Py_ssize_t* list, Py_ssize_t rows, Py_ssize_t columns,
                   double* theta, Py_ssize_t theta_row, double learning_rate, double decay)
    bint all_finite(const double* d, Py_ssize_t n)


cdef enum:
    TILE_ROOM = TILE_SIZE + CACHE_LINE / 4 - 1  # to start at a cache line
    PANEL_ROOM = PANEL_WIDTH + ROW_MULTIPLE  # of a packed panel and a tile of inputs, a step
    PACKING_TILES = 4  # that read a panel in turn repay that it is packed …
    PACKING_ROWS = 8  # … or pairs in the rows of W, if it is near enough as it lies
    FETCHED_BYTES = 1 << 20  # of a weight that is fetched while the panel before is in use
    DEPTH_PART = 512  # products of such a weight that all tiles take in before they go on
    INPUT_ROWS = STACKED_ROWS  # of W that BP4 takes at once, of ROW_MULTIPLE at most
    INPUT_PANELS = 2  # of δ that repay that these inputs are packed
    SWEPT_BYTES = 1 << 21  # of a weight of which a few samples leave out all rows that they can …
    LISTED_BYTES = 1 << 15  # … or one sample does, where a fifth of the rows or more is left out
    SWEPT_INPUTS = 1024  # of which those that are not 0 are listed at a time
    LISTED_ROWS = 64  # rows of a weight that a few samples take at a time


cdef struct Matrix:  # of floats or doubles, as the call says; a vector is one row
    void* data
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t stride  # elements from one row to the next
    Py_ssize_t readable  # columns that exist in every row, padding included


cdef struct Update:  # what becomes of the gradient of a layer
    Matrix weight
    Matrix bias
    void* weight_state
    void* bias_state
    Py_ssize_t slot
    int optimizer
    const void* coefficients
    bint averages  # whether the parameters have an average:
    Py_ssize_t average  # its distance from the state
    double averaging  # the share of its distance from θ by which it moves


cdef struct Listed:  # rows of a weight, of `rows` from `first` on
    Py_ssize_t first
    Py_ssize_t rows
    Py_ssize_t n
    Py_ssize_t list[LISTED_ROWS]


cdef struct Grid:  # a thread's run of the tiles of an output
    Py_ssize_t rows
    Py_ssize_t row_tiles  # of nearly equal numbers of rows
    Py_ssize_t columns
    Py_ssize_t panels  # of columns, of nearly equal numbers of vectors
    Py_ssize_t first
    Py_ssize_t last


cdef inline Py_ssize_t ceil_divide(Py_ssize_t n, Py_ssize_t divisor) noexcept nogil:
    return (n + divisor - 1) // divisor


cdef inline Grid grid_of(
    Py_ssize_t rows, Py_ssize_t row_tiles, Py_ssize_t columns, int thread, int n_threads,
    floating* kind,
) noexcept nogil:
    """Cut an output into tiles and give a thread its share."""
    cdef Grid grid
    grid.rows, grid.row_tiles, grid.columns = rows, row_tiles, columns
    grid.panels = ceil_divide(columns, tile_columns(kind))
    grid.first = row_tiles * grid.panels * thread // n_threads
    grid.last = row_tiles * grid.panels * (thread + 1) // n_threads
    return grid


cdef inline Grid band_grid_of(
    Py_ssize_t rows, Py_ssize_t columns, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Cut an output into tiles, or bands of tiles where panels are narrow."""
    cdef Py_ssize_t vectors = ceil_divide(columns, vector_width(kind))
    cdef Py_ssize_t panels = max(1, ceil_divide(columns, tile_columns(kind)))
    cdef Py_ssize_t of_panel = max(1, ceil_divide(vectors, panels))
    cdef Py_ssize_t tile_rows = TILE_ROWS * max(1, BAND_VECTORS // of_panel)
    return grid_of(rows, ceil_divide(rows, tile_rows), columns, thread, n_threads, kind)


cdef inline Py_ssize_t row_of(Grid grid, Py_ssize_t row_tile) noexcept nogil:
    """Return the first row of a tile, or the end of the last."""
    return grid.rows * row_tile // grid.row_tiles


cdef inline Py_ssize_t start_of(Grid grid, Py_ssize_t panel, floating* kind) noexcept nogil:
    """Return the first column of a panel, or the end of the last."""
    cdef Py_ssize_t vectors = ceil_divide(grid.columns, vector_width(kind))
    return min(vectors * panel // grid.panels * vector_width(kind), grid.columns)


cdef inline Matrix rows_between(
    Matrix matrix, Py_ssize_t first, Py_ssize_t last, floating* kind
) noexcept nogil:
    matrix.data = <floating*> matrix.data + first * matrix.stride
    matrix.rows = last - first
    return matrix


cdef inline Matrix columns_between(
    Matrix matrix, Py_ssize_t first, Py_ssize_t last, floating* kind
) noexcept nogil:
    matrix.data = <floating*> matrix.data + first
    matrix.columns = last - first
    matrix.readable -= first
    return matrix


cdef inline floating* panel_at(
    void* workspace, int thread, Py_ssize_t depth, floating* kind
) noexcept nogil:
    """Return a thread's panel, for contractions of some depth, in a workspace of panels."""
    return <floating*> workspace + thread * depth * PANEL_ROOM


cdef inline bint takes_columns(Py_ssize_t n, Py_ssize_t columns, int n_threads) noexcept nogil:
    """Return whether threads take columns of a product of n rows, not rows.

    What another thread has changed is slow to read. By rows each thread reads all of W, by
    columns all inputs; and where the update goes by columns as well, its part of W stays near.
    """
    return n_threads > 1 and columns > n


cdef inline Py_ssize_t whole_vectors(Py_ssize_t columns, floating* kind) noexcept nogil:
    """Return the elements that a tile reads of a row in order to have `columns` of them."""
    return ceil_divide(columns, vector_width(kind)) * vector_width(kind)


cdef inline const floating* panel_of(
    Matrix b, Py_ssize_t column, Py_ssize_t columns, Py_ssize_t row_tiles, floating* panel,
    Py_ssize_t* step,
) noexcept nogil:
    """Return columns of b as tiles read them: in place, or packed.

    They are packed where rows end too soon, and where several tiles repay it.
    """
    cdef bint in_place = column + whole_vectors(columns, panel) <= b.readable
    if in_place and (row_tiles < PACKING_TILES or not is_far(panel, b.stride)):
        step[0] = b.stride
        return <const floating*> b.data + column
    step[0] = tile_columns(panel)
    pack(<const floating*> b.data + column, b.stride, b.rows, columns, panel, step[0])
    return panel


cdef inline void transpose_squares(
    const floating* source, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t columns,
    floating* out, Py_ssize_t out_stride,
) noexcept nogil:
    """Copy rows to columns, in whole squares of a vector's width."""
    cdef Py_ssize_t k, j, square = vector_width(out)
    for k in range(columns // square):
        for j in range(rows // square):
            transpose(
                source + j * square * stride + k * square, stride,
                out + k * square * out_stride + j * square, out_stride,
            )


cdef inline void pack_transposed(
    Matrix b, Py_ssize_t row, Py_ssize_t rows, floating* panel
) noexcept nogil:
    """Copy rows of b to the columns of a panel; zeros up to the tile's width."""
    cdef Py_ssize_t k, j, width = tile_columns(panel), square = vector_width(panel)
    cdef Py_ssize_t whole_rows = rows // square, whole_columns = b.columns // square
    cdef const floating* source = <const floating*> b.data + row * b.stride
    transpose_squares(source, b.stride, rows, b.columns, panel, width)
    for k in range(b.columns):
        for j in range(whole_rows * square if k < whole_columns * square else 0, rows):
            panel[k * width + j] = source[j * b.stride + k]
        for j in range(rows, width):
            panel[k * width + j] = 0


cdef void activate_rows(Matrix z, int64_t activation, floating alpha, Matrix out) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(z.rows):
        activate(
            <const floating*> z.data + row * z.stride, z.columns, activation, alpha,
            <floating*> out.data + row * out.stride,
        )


cdef inline void copy_row(const floating* source, Py_ssize_t n, floating* sink) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        sink[j] = source[j]


cdef void differentiate_rows(
    Matrix y_or_z, Matrix grad, int64_t activation, floating alpha, Matrix out
) noexcept nogil:
    cdef Py_ssize_t row
    cdef floating* sink
    for row in range(out.rows):
        sink = <floating*> out.data + row * out.stride
        copy_row(<const floating*> grad.data + row * grad.stride, out.columns, sink)
        apply_derivative(
            <const floating*> y_or_z.data + row * y_or_z.stride, out.columns, activation, alpha,
            sink,
        )


cdef void softmax_rows(Matrix z, Matrix out, floating* kind) noexcept nogil:
    cdef Py_ssize_t row
    cdef const floating* logits
    for row in range(z.rows):
        logits = <const floating*> z.data + row * z.stride
        softmax(
            logits, z.columns, z.columns, row_maximum(logits, z.columns),
            <floating*> out.data + row * out.stride,
        )


cdef inline Py_ssize_t columns_at(
    Matrix matrix, Py_ssize_t column, Py_ssize_t columns, floating* kind
) noexcept nogil:
    """Return `columns`, or whole vectors of them where the rows are long enough."""
    cdef Py_ssize_t whole = whole_vectors(columns, kind)
    return whole if column + whole <= matrix.readable else columns


cdef inline void take_tile(
    Matrix source, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t column, Py_ssize_t columns,
    floating* tile,
) noexcept nogil:
    """Copy part of a matrix to a tile, whose rows are whole vectors."""
    copy_tile(
        <const floating*> source.data + row * source.stride + column, source.stride, rows,
        columns_at(source, column, columns, tile), tile, whole_vectors(columns, tile),
    )


cdef inline void put_tile(
    floating* tile, Matrix out, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t column,
    Py_ssize_t columns,
) noexcept nogil:
    """Copy a tile to its place in a matrix; padding there takes what is beside it."""
    copy_tile(
        tile, whole_vectors(columns, tile), rows, columns_at(out, column, columns, tile),
        <floating*> out.data + row * out.stride + column, out.stride,
    )


cdef inline bint lies_in_tiles(Matrix matrix, Grid grid, floating* kind) noexcept nogil:
    """Return whether a matrix is, as it lies, a tile upon a tile."""
    cdef Py_ssize_t tile_row = whole_vectors(grid.columns, kind)
    return grid.panels == 1 and matrix.stride == tile_row and matrix.readable == tile_row


cdef inline bint is_far_away(Matrix weight, Grid grid, floating* kind) noexcept nogil:
    """Return whether a weight comes from afar, to be used by many tiles."""
    cdef Py_ssize_t size = weight.rows * weight.stride * sizeof(floating)
    return size >= FETCHED_BYTES and grid.row_tiles >= PACKING_TILES


cdef void forward_tiles_far(
    Matrix x, Matrix weight, Matrix bias, int64_t activation, floating alpha, Matrix out,
    floating* panel, Grid grid,
) noexcept nogil:
    """Compute tiles of a = σ(xW + b) as forward_tiles does, W being beyond the second cache.

    While tiles use one panel, they ask for the next. A long contraction goes in parts, so that
    the inputs which every panel meets stay near; in between the sums wait in `out`, and go on
    to the same bits.
    """
    cdef floating sums_room[TILE_ROOM]
    cdef floating outputs_room[TILE_ROOM]
    cdef floating start[PANEL_WIDTH]
    cdef floating* sums = at_line(sums_room)
    cdef floating* outputs = at_line(outputs_room)
    cdef Py_ssize_t width = tile_columns(sums), fetching = width // vector_width(sums)
    cdef Py_ssize_t parts = ceil_divide(weight.rows, DEPTH_PART), part, first, last
    cdef Py_ssize_t tile, row_tile, row, rows, column, columns, j
    cdef const floating* next
    for part in range(parts):
        first, last = weight.rows * part // parts, weight.rows * (part + 1) // parts
        for tile in range(grid.first, grid.last):
            row_tile = tile % grid.row_tiles
            if row_tile == 0 or tile == grid.first:
                column = start_of(grid, tile // grid.row_tiles, sums)
                columns = start_of(grid, tile // grid.row_tiles + 1, sums) - column
                pack(
                    <const floating*> weight.data + first * weight.stride + column, weight.stride,
                    last - first, columns, panel, width,
                )
                for j in range(width):
                    start[j] = (<const floating*> bias.data)[column + j] if j < columns else 0
            row = row_of(grid, row_tile)
            rows = row_of(grid, row_tile + 1) - row
            next = <const floating*> weight.data + first * weight.stride
            j = column + columns + row_tile * vector_width(sums)
            if row_tile < fetching and j < weight.columns:
                next += j
            if part:
                take_tile(out, row, rows, column, columns, sums)
            multiply_on(
                part > 0, start, <const floating*> x.data + row * x.stride + first, x.stride, panel,
                width, last - first, sums, rows, columns, next,
                weight.stride if row_tile < fetching else 0,
            )
            if part < parts - 1:
                put_tile(sums, out, row, rows, column, columns)
                continue
            activate(sums, rows * whole_vectors(columns, sums), activation, alpha, outputs)
            put_tile(outputs, out, row, rows, column, columns)


cdef void forward_tiles(
    Matrix x,
    Matrix weight,
    Matrix bias,
    int64_t activation,
    floating alpha,
    Matrix out,
    floating* panel,
    int thread,
    int n_threads,
) noexcept nogil:
    """Compute this thread's tiles of a = σ(xW + b); the panel is its own."""
    cdef floating sums_room[TILE_ROOM]
    cdef floating outputs_room[TILE_ROOM]
    cdef floating start[PANEL_WIDTH]
    cdef floating* sums = at_line(sums_room)
    cdef floating* outputs = at_line(outputs_room)
    cdef Py_ssize_t width = tile_columns(sums)
    cdef Grid grid = band_grid_of(x.rows, weight.columns, thread, n_threads, sums)
    cdef Py_ssize_t tile, panel_index, j, row, rows, row_tile = 0, column = 0, columns = 0, step = 0
    cdef bint in_place = lies_in_tiles(out, grid, sums)
    cdef const floating* source = panel
    if is_far_away(weight, grid, sums):
        forward_tiles_far(x, weight, bias, activation, alpha, out, panel, grid)
        return
    for tile in range(grid.first, grid.last):
        if row_tile == grid.row_tiles or tile == grid.first:
            panel_index, row_tile = tile // grid.row_tiles, tile % grid.row_tiles
            column = start_of(grid, panel_index, sums)
            columns = start_of(grid, panel_index + 1, sums) - column
            source = panel_of(weight, column, columns, grid.row_tiles, panel, &step)
            for j in range(width):
                start[j] = (<const floating*> bias.data)[column + j] if j < columns else 0
        row = row_of(grid, row_tile)
        rows = row_of(grid, row_tile + 1) - row
        multiply(
            start, <const floating*> x.data + row * x.stride, x.stride, 1, source, step,
            weight.rows, sums, rows, columns,
        )
        if in_place:
            outputs = <floating*> out.data + row * out.stride
        activate(sums, rows * whole_vectors(columns, sums), activation, alpha, outputs)
        if not in_place:
            put_tile(outputs, out, row, rows, column, columns)
        row_tile += 1


cdef void backward_input_tiles(
    Matrix delta,
    Matrix weight,
    Matrix y_or_z,
    int64_t activation,
    floating alpha,
    Matrix out,
    floating* panel,
    int thread,
    int n_threads,
) noexcept nogil:
    """Compute this thread's tiles of δWᵀ ⊙ σ' (BP2); the panel is its own. out may be y_or_z.

    Where W lies far away, the tiles of one panel ask for the rows of the next.
    """
    cdef floating sums_room[TILE_ROOM]
    cdef floating known_room[TILE_ROOM]
    cdef floating start[PANEL_WIDTH]
    cdef floating* sums = at_line(sums_room)
    cdef Py_ssize_t width = tile_columns(sums)
    cdef Grid grid = band_grid_of(delta.rows, weight.rows, thread, n_threads, sums)
    cdef floating* zeros = start_at_zero(start, PANEL_WIDTH)
    cdef floating* known = start_at_zero(at_line(known_room), TILE_SIZE)
    cdef Py_ssize_t tile, panel_index, row, rows, row_tile = 0, column = 0, columns = 0
    cdef Py_ssize_t line = vector_width(sums), asked = 0, end = 0
    cdef bint far_away = is_far_away(weight, grid, sums)
    cdef bint known_in_place = lies_in_tiles(y_or_z, grid, sums)
    cdef bint in_place = out.data != y_or_z.data and lies_in_tiles(out, grid, sums)
    for tile in range(grid.first, grid.last):
        if row_tile == grid.row_tiles or tile == grid.first:
            panel_index, row_tile = tile // grid.row_tiles, tile % grid.row_tiles
            column = start_of(grid, panel_index, sums)
            columns = start_of(grid, panel_index + 1, sums) - column
            pack_transposed(weight, column, columns, panel)
            asked = (column + columns) * weight.stride
            end = asked
            if far_away and (panel_index + 1) * grid.row_tiles < grid.last:
                end = start_of(grid, panel_index + 2, sums) * weight.stride
        row = row_of(grid, row_tile)
        rows = row_of(grid, row_tile + 1) - row
        if in_place:
            sums = <floating*> out.data + row * out.stride
        if asked < end:
            multiply_on(
                False, zeros, <const floating*> delta.data + row * delta.stride, delta.stride,
                panel, width, weight.columns, sums, rows, columns,
                <const floating*> weight.data + asked, line,
            )
            asked += weight.columns * line
        else:
            multiply(
                zeros, <const floating*> delta.data + row * delta.stride, delta.stride, 1, panel,
                width, weight.columns, sums, rows, columns,
            )
        if known_in_place:
            known = <floating*> y_or_z.data + row * y_or_z.stride
        else:
            take_tile(y_or_z, row, rows, column, columns, known)
        apply_derivative(known, rows * whole_vectors(columns, sums), activation, alpha, sums)
        if not in_place:
            put_tile(sums, out, row, rows, column, columns)
        row_tile += 1


cdef void backward_weight_tiles(
    Matrix x, Matrix delta, Update to, void* workspace, Py_ssize_t room, int thread,
    int n_threads, floating* kind,
) noexcept nogil:
    """Update this thread's tiles of W with xᵀδ (BP4), and of b with Σδ (BP3).

    ∂W is never in memory as a whole: a tile of it updates its weights and is forgotten.
    The tiles go along the rows of W, as memory does, through a block of panels of δ: those
    that fit into the thread's `room` are packed at once if there are enough rows to repay
    it; where threads take columns, a block is no more than the share of one. The last row is
    the bias, whose input is always 1.
    """
    cdef floating sums_room[TILE_ROOM]
    cdef floating start[PANEL_WIDTH]
    cdef floating* sums = at_line(sums_room)
    cdef floating* zeros = start_at_zero(start, PANEL_WIDTH)
    cdef Py_ssize_t n = delta.rows
    cdef Grid grid = grid_of(
        x.columns + 1, ceil_divide(x.columns, INPUT_ROWS) + 1, delta.columns, thread, n_threads,
        sums,
    )
    cdef floating* inputs = <floating*> workspace + thread * room
    cdef floating* block = inputs + n * ROW_MULTIPLE
    cdef Py_ssize_t block_panels = max(1, (room // max(1, n) - ROW_MULTIPLE) // PANEL_WIDTH)
    if takes_columns(n, delta.columns, n_threads):
        block_panels = min(block_panels, ceil_divide(grid.panels, n_threads))
    cdef bint in_place = grid.row_tiles < PACKING_ROWS and (
        whole_vectors(delta.columns, sums) <= delta.readable
    )
    cdef Py_ssize_t tile, index, rows, column, columns, first = 0, panels = 0, panel = 0, row = 0
    cdef Py_ssize_t packed_first = -1, packed_row = -1, source_step, delta_step
    cdef const floating* source
    cdef const floating* deltas
    for tile in range(grid.first, grid.last):
        panel += 1
        if panel == panels:
            panel, row = 0, row + INPUT_ROWS
        if row == grid.row_tiles * INPUT_ROWS or tile == grid.first:
            first = tile // (grid.row_tiles * block_panels) * block_panels
            panels = min(block_panels, grid.panels - first)
            index = tile - first * grid.row_tiles
            panel, row = index % panels, index // panels * INPUT_ROWS
        column = start_of(grid, first + panel, sums)
        columns = start_of(grid, first + panel + 1, sums) - column
        deltas, delta_step = <const floating*> delta.data + column, delta.stride
        if not in_place:
            if first != packed_first:
                packed_first = first
                pack_block(delta, grid, first, panels, block)
            deltas, delta_step = block + panel * n * tile_columns(sums), tile_columns(sums)
        if row >= x.columns:
            if to.bias.rows == 0:
                continue
            sum_rows(deltas, delta_step, n, sums, columns)
            update_rows(&to, to.bias, to.bias_state, 0, column, sums, 1, columns)
            continue
        rows = min(INPUT_ROWS, x.columns - row)
        source, source_step = <const floating*> x.data + row, x.stride
        if panels >= INPUT_PANELS:
            if row != packed_row:
                packed_row = row
                pack(source, source_step, n, rows, inputs, INPUT_ROWS)
            source, source_step = inputs, INPUT_ROWS
        fetch(
            <floating*> to.weight.data + row * to.weight.stride + column, to.weight.stride, rows,
            columns,
        )
        multiply(zeros, source, 1, source_step, deltas, delta_step, n, sums, rows, columns)
        update_rows(&to, to.weight, to.weight_state, row, column, sums, rows, columns)


cdef inline void pack_block(
    Matrix b, Grid grid, Py_ssize_t first, Py_ssize_t panels, floating* block
) noexcept nogil:
    """Pack some panels of b one after another."""
    cdef Py_ssize_t panel, column, width = tile_columns(block)
    for panel in range(panels):
        column = start_of(grid, first + panel, block)
        pack(
            <const floating*> b.data + column, b.stride, b.rows,
            start_of(grid, first + panel + 1, block) - column,
            block + panel * b.rows * width, width,
        )


cdef inline floating* at_line(floating* buffer) noexcept nogil:
    """Return the first place in a buffer on the stack at which a cache line starts."""
    return <floating*> (<size_t> buffer + CACHE_LINE - 1 & -<size_t> CACHE_LINE)


cdef inline floating* start_at_zero(floating* start, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        start[j] = 0
    return start


cdef inline void update_rows(
    const Update* to, Matrix theta, void* state, Py_ssize_t row, Py_ssize_t column,
    const floating* grad, Py_ssize_t rows, Py_ssize_t columns,
) noexcept nogil:
    """Update a tile of weights, or of a bias, with a tile of gradients of whole vectors."""
    cdef Py_ssize_t at = row * theta.stride + column, width = vector_width(grad), r
    cdef floating* places = <floating*> theta.data + at
    cdef floating* memory = <floating*> state + at
    cdef const floating* c = <const floating*> to.coefficients
    if columns % width == 0:  # the compiler then knows that nothing is left over
        update(
            places, memory, to.slot, theta.stride, grad, columns, rows, columns // width * width,
            to.optimizer, c,
        )
    else:
        update(
            places, memory, to.slot, theta.stride, grad, whole_vectors(columns, places), rows,
            columns, to.optimizer, c,
        )
    if to.averages:
        for r in range(rows):
            move_average(
                memory + to.average + r * theta.stride, places + r * theta.stride, columns,
                <floating> to.averaging,
            )


cdef void forward_few(
    Matrix x, Matrix weight, Matrix bias, int64_t activation, floating alpha, Matrix out
) noexcept nogil:
    """Compute a = σ(xW + b) of WIDE_TILE_ROWS samples at most; rows of W are read at most once."""
    cdef floating sums[WIDE_TILE_SIZE]
    cdef floating start[WIDE_TILE_SIZE]
    cdef Py_ssize_t width = few_columns(sums, x.rows), step = weight.stride
    cdef Py_ssize_t n_tiles = ceil_divide(weight.columns, width), tile, end = 0
    cdef Py_ssize_t column, columns, r, k, j
    cdef const floating* rows = <const floating*> x.data
    cdef const floating* source
    cdef const floating* begin
    if x.rows == 0:
        return
    if is_swept(x, weight, sums) and (
        whole_vectors(weight.columns, sums) <= min(weight.readable, out.readable)
    ):
        forward_swept(x, weight, bias, activation, alpha, out)
        return
    for tile in range(n_tiles):
        column = end
        end = end_of_tile(weight.columns, tile, n_tiles, sums)
        columns = end - column
        source = <const floating*> weight.data + column
        begin = <const floating*> bias.data + column
        if column + whole_vectors(columns, sums) > bias.readable:
            for j in range(width):
                start[j] = begin[j] if j < columns else 0
            begin = start
        if column + whole_vectors(columns, sums) <= weight.readable:
            multiply_few(
                begin, rows, x.stride, source, step, weight.rows, sums, x.rows, columns
            )
        else:
            for r in range(x.rows):
                for j in range(columns):
                    sums[r * width + j] = begin[j]
                for k in range(weight.rows):
                    for j in range(columns):
                        sums[r * width + j] += rows[r * x.stride + k] * source[k * step + j]
        for r in range(x.rows):
            activate(
                sums + r * width, columns, activation, alpha,
                <floating*> out.data + r * out.stride + column,
            )


cdef inline Py_ssize_t end_of_tile(
    Py_ssize_t columns, Py_ssize_t tile, Py_ssize_t n_tiles, floating* kind
) noexcept nogil:
    """Return where a tile of a few rows ends, of nearly equal widths: few sums are slow."""
    if tile + 1 == n_tiles:  # a division less
        return columns
    return ceil_divide(columns, vector_width(kind)) * (tile + 1) // n_tiles * vector_width(kind)


cdef inline bint is_swept(Matrix x, Matrix weight, floating* kind) noexcept nogil:
    """Return whether a few samples take W without the rows whose inputs are all 0."""
    cdef Py_ssize_t size = weight.rows * weight.stride * sizeof(floating), n, least = LISTED_BYTES
    if x.rows > 1:
        least = NEAR_BYTES << 2 * (x.rows - 2)
    if size < least or size >= SWEPT_BYTES:
        return size >= SWEPT_BYTES
    n = count_rows(<const floating*> x.data, x.stride, x.rows, weight.rows)
    return 5 * n <= 4 * weight.rows


cdef void forward_swept(
    Matrix x, Matrix weight, Matrix bias, int64_t activation, floating alpha, Matrix out
) noexcept nogil:
    """Compute a = σ(xW + b) of a few samples with the sums in `out`, to a whole vector.

    Rows of W whose inputs are 0 are left out: units that ReLU has switched off, dropout's, and
    what is 0 in the data. From near, one sample takes them by tiles; from far, whole rows come
    faster.
    """
    cdef Py_ssize_t list[SWEPT_INPUTS]
    cdef Py_ssize_t block, first, n, r, tile, column, end
    cdef Py_ssize_t size = weight.rows * weight.stride * sizeof(floating)
    cdef const floating* inputs = <const floating*> x.data
    cdef const floating* weights = <const floating*> weight.data
    cdef floating* sums = <floating*> out.data
    cdef Py_ssize_t n_tiles = ceil_divide(weight.columns, few_columns(sums, 1))
    for r in range(x.rows):
        copy_row(<const floating*> bias.data, weight.columns, sums + r * out.stride)
    for block in range(ceil_divide(weight.rows, SWEPT_INPUTS)):
        first = block * SWEPT_INPUTS
        n = min(SWEPT_INPUTS, weight.rows - first)
        n = list_rows(inputs, x.stride, x.rows, first, n, list)
        if x.rows == 1 and size <= NEAR_BYTES:
            end = 0
            for tile in range(n_tiles):
                column = end
                end = end_of_tile(weight.columns, tile, n_tiles, sums)
                multiply_listed_tile(
                    inputs, weights + column, weight.stride, list, n, end - column, sums + column
                )
        else:
            multiply_listed(
                inputs, x.stride, weights, weight.stride, list, n, weight.columns, sums,
                out.stride, x.rows,
            )
    for r in range(x.rows):
        activate(
            sums + r * out.stride, weight.columns, activation, alpha, sums + r * out.stride
        )


cdef inline bint is_off_at_zero(int64_t activation) noexcept nogil:
    """Return whether an output of 0 tells that no δ passes, whatever comes from above."""
    return activation == RELU or activation == RELU6


cdef inline void list_where_on(
    Matrix x, Py_ssize_t first, Py_ssize_t rows, bint all_of_them, Listed* out, floating* kind
) noexcept nogil:
    """List LISTED_ROWS rows of W at most: those whose input is not 0 in a sample, or all."""
    cdef Py_ssize_t r
    out.first, out.rows, out.n = first, rows, rows
    if all_of_them:
        for r in range(rows):
            out.list[r] = first + r
    else:
        out.n = list_rows(
            <const floating*> x.data, x.stride, x.rows, first, rows, out.list
        )


cdef inline void backward_rows(
    Matrix delta, Matrix weight, Matrix y_or_z, const Listed* on, int64_t activation,
    floating alpha, Matrix out, const floating* x, const floating* sgd,
) noexcept nogil:
    """Compute δWᵀ ⊙ σ' where units are on, and 0 in the rows between.

    With the coefficients of SGD, and the one sample's inputs x, these rows make their step.
    out may be y_or_z, so the products wait until it has been read.
    """
    cdef floating grad[LISTED_ROWS]
    cdef floating dots[TILE_SIZE]
    cdef Py_ssize_t group, listed, row, r, width = vector_width(grad)
    cdef bint is_padded = whole_vectors(weight.columns, grad) <= min(
        weight.readable, delta.readable
    )
    for row in range(delta.rows):
        for r in range(on.rows if on.n < on.rows else 0):
            grad[r] = 0  # σ' leaves it out, but must find a number
        for group in range(ceil_divide(on.n, width)):
            listed = min(width, on.n - group * width)
            if sgd is not NULL:
                dot_descending_rows(
                    <floating*> weight.data, weight.stride, on.list + group * width, listed,
                    <const floating*> delta.data, weight.columns, is_padded, dots, x, sgd[0],
                    sgd[1],
                )
            else:
                dot_rows(
                    <const floating*> weight.data, weight.stride, on.list + group * width, listed,
                    <const floating*> delta.data + row * delta.stride, weight.columns, is_padded,
                    dots,
                )
            for r in range(listed):
                grad[on.list[group * width + r] - on.first] = dots[r]
        apply_derivative(
            <const floating*> y_or_z.data + row * y_or_z.stride + on.first, on.rows, activation,
            alpha, grad,
        )
        copy_row(grad, on.rows, <floating*> out.data + row * out.stride + on.first)


cdef void backward_input_few(
    Matrix delta, Matrix weight, Matrix y_or_z, int64_t activation, floating alpha, Matrix out
) noexcept nogil:
    """Compute δWᵀ ⊙ σ' of a few samples (BP2), by dot products with the rows of W.

    Where both are readable beyond the columns of `weight`, there must be zeros in it and
    finite numbers in δ. out may be y_or_z.
    """
    cdef Py_ssize_t block, first
    cdef Listed on
    for block in range(ceil_divide(weight.rows, LISTED_ROWS)):
        first = block * LISTED_ROWS
        list_where_on(
            y_or_z, first, min(LISTED_ROWS, weight.rows - first),
            not is_off_at_zero(activation), &on, &alpha,
        )
        backward_rows(
            delta, weight, y_or_z, &on, activation, alpha, out, <const floating*> NULL,
            <const floating*> NULL,
        )


cdef void backward_weight_few(
    Matrix x, Matrix delta, Update to, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Update this thread's rows of W with xᵀδ (BP4), and b with Σδ (BP3), of a few samples.

    Where a batch is small, tiles are all beginning and end; here W is swept row by row.
    """
    cdef floating grad[WIDE_TILE_SIZE]
    cdef Py_ssize_t first = to.weight.rows * thread // n_threads
    cdef Py_ssize_t last = to.weight.rows * (thread + 1) // n_threads
    cdef Py_ssize_t block, start
    cdef bint skip = is_skippable(&to, delta, kind)
    cdef Listed rows
    for block in range(ceil_divide(last - first, LISTED_ROWS)):
        start = first + block * LISTED_ROWS
        list_where_on(x, start, min(LISTED_ROWS, last - start), not skip, &rows, kind)
        update_outer(x, delta, &to, &rows, kind)
    if thread == 0 and to.bias.rows:
        update_outer_row(NULL, 0, delta, &to, to.bias, to.bias_state, 0, grad)


cdef void backward_single(
    Matrix x, Matrix delta, Update to, Matrix weight, Matrix y_or_z, int64_t activation,
    floating alpha, Matrix below,
) noexcept nogil:
    """Carry δ of one sample below a layer (BP2) and update the layer (BP3, BP4), in one sweep.

    Padding is as for backward_input_few. `below` may be y_or_z.
    """
    cdef Py_ssize_t block, first, rows
    cdef bint skip = is_skippable(&to, delta, &alpha), is_off = is_off_at_zero(activation)
    cdef bint descends = to.optimizer == SGD and not to.averages and to.weight.data == weight.data
    cdef const floating* inputs = <const floating*> x.data
    cdef const floating* none = NULL
    cdef Listed on, seen
    cdef const Listed* changed = &on
    for block in range(ceil_divide(weight.rows, LISTED_ROWS)):
        first = block * LISTED_ROWS
        rows = min(LISTED_ROWS, weight.rows - first)
        list_where_on(y_or_z, first, rows, not is_off, &on, &alpha)
        if skip != is_off:  # one list has all rows; else both have, or x is y and lists the same
            list_where_on(x, first, rows, not skip, &seen, &alpha)
            changed = &seen
        if descends and changed.n == on.n:
            backward_rows(
                delta, weight, y_or_z, &on, activation, alpha, below, inputs,
                <const floating*> to.coefficients,
            )
        else:
            backward_rows(delta, weight, y_or_z, &on, activation, alpha, below, none, none)
            update_outer(x, delta, &to, changed, &alpha)
    if to.bias.rows:
        update_rows(
            &to, to.bias, to.bias_state, 0, 0, <const floating*> delta.data, 1, to.bias.columns
        )


cdef inline bint is_skippable(const Update* to, Matrix delta, floating* kind) noexcept nogil:
    """Return whether an input of 0 leaves its weights as they are, whatever δ of one sample."""
    return (
        delta.rows == 1 and to.optimizer == SGD and (<const floating*> to.coefficients)[1] == 0
        and not to.averages  # which move even so
        and all_finite(<const floating*> delta.data, delta.columns)
    )


cdef inline void update_outer(
    Matrix x, Matrix delta, const Update* to, const Listed* rows, floating* kind
) noexcept nogil:
    """Update some rows of W with xᵀδ (BP4)."""
    cdef floating grad[WIDE_TILE_SIZE]
    cdef const floating* source = <const floating*> x.data
    cdef const floating* deltas = <const floating*> delta.data
    cdef floating* theta = <floating*> to.weight.data
    cdef const floating* c = <const floating*> to.coefficients
    cdef Py_ssize_t k, stride = to.weight.stride
    if to.optimizer == STORE and not to.averages:
        store_outer(
            source, x.stride, deltas, delta.stride, x.rows, rows.list, rows.n, delta.columns,
            theta, stride,
        )
        return
    if to.optimizer == SGD and not to.averages:
        sgd_outer(
            source, x.stride, deltas, delta.stride, x.rows, rows.list, rows.n, delta.columns,
            theta, stride, c[0], c[1],
        )
        return
    for k in range(rows.n):
        update_outer_row(
            source + rows.list[k], x.stride, delta, to, to.weight, to.weight_state, rows.list[k],
            grad,
        )


cdef inline void update_outer_row(
    const floating* x, Py_ssize_t x_row, Matrix delta, const Update* to, Matrix theta,
    void* state, Py_ssize_t place, floating* grad,
) noexcept nogil:
    """Update a row of W, or of b where x is NULL for an input of 1, block by block."""
    cdef Py_ssize_t block, column, columns, row, j, width = wide_tile_columns(grad)
    cdef const floating* source
    cdef floating factor
    for block in range(ceil_divide(delta.columns, width)):
        column = block * width
        columns = min(width, delta.columns - column)
        for row in range(delta.rows):
            source = <const floating*> delta.data + row * delta.stride + column
            factor = x[row * x_row] if x is not NULL else 1
            for j in range(columns):
                grad[j] = factor * source[j] + (grad[j] if row else 0)
        update_rows(to, theta, state, place, column, grad, 1, columns)
