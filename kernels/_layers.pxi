# One dense layer, forward (a = σ(xW + b)) and backward (BP2, BP3 and BP4), as register
# tiles of an output. A thread owns whole output tiles and works through a contiguous run of
# the grid, column panel by column panel, so that it packs a panel at most once.

from libc.stdint cimport int64_t

cdef extern from "tile.hpp" namespace "fastmlp" nogil:
    cdef enum:
        TILE_ROWS
        TILE_SIZE
        WIDE_TILE_SIZE
    # As overloads: Cython does not deduce a template's type from an array.
    Py_ssize_t vector_width(const float* kind)
    Py_ssize_t tile_columns(const float* kind)
    Py_ssize_t wide_tile_columns(const float* kind)
    void multiply(const float* a, Py_ssize_t a_row, Py_ssize_t a_step, const float* b,
                  Py_ssize_t b_step, Py_ssize_t depth, float* c, Py_ssize_t rows,
                  Py_ssize_t columns)
    void multiply_wide(const float* a, const float* b, Py_ssize_t b_step, Py_ssize_t depth,
                       float* c, Py_ssize_t columns)
    void transpose(const float* a, Py_ssize_t a_row, float* c, Py_ssize_t c_row)
    float dot(const float* a, const float* b, Py_ssize_t n)
    Py_ssize_t vector_width(const double* kind)
    Py_ssize_t tile_columns(const double* kind)
    Py_ssize_t wide_tile_columns(const double* kind)
    void multiply(const double* a, Py_ssize_t a_row, Py_ssize_t a_step, const double* b,
                  Py_ssize_t b_step, Py_ssize_t depth, double* c, Py_ssize_t rows,
                  Py_ssize_t columns)
    void multiply_wide(const double* a, const double* b, Py_ssize_t b_step, Py_ssize_t depth,
                       double* c, Py_ssize_t columns)
    void transpose(const double* a, Py_ssize_t a_row, double* c, Py_ssize_t c_row)
    double dot(const double* a, const double* b, Py_ssize_t n)


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


cdef struct Grid:  # a thread's run of output tiles, numbered down the column panels
    Py_ssize_t width  # of a panel
    Py_ssize_t row_tiles
    Py_ssize_t first
    Py_ssize_t last


cdef inline Py_ssize_t ceil_divide(Py_ssize_t n, Py_ssize_t divisor) noexcept nogil:
    return (n + divisor - 1) // divisor


cdef inline Grid grid_of(
    Py_ssize_t row_tiles, Py_ssize_t columns, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Cut an output into tiles, its columns into panels of nearly equal width."""
    cdef Grid grid
    cdef Py_ssize_t vectors = ceil_divide(columns, vector_width(kind))
    cdef Py_ssize_t panels = ceil_divide(columns, tile_columns(kind))
    grid.width = ceil_divide(vectors, max(panels, 1)) * vector_width(kind)
    grid.row_tiles = row_tiles
    grid.first = row_tiles * panels * thread // n_threads
    grid.last = row_tiles * panels * (thread + 1) // n_threads
    return grid


cdef inline Matrix rows_between(
    Matrix matrix, Py_ssize_t first, Py_ssize_t last, floating* kind
) noexcept nogil:
    matrix.data = <floating*> matrix.data + first * matrix.stride
    matrix.rows = last - first
    return matrix


cdef inline Py_ssize_t whole_vectors(Py_ssize_t columns, floating* kind) noexcept nogil:
    """Return the elements that a tile reads of a row in order to have `columns` of them."""
    return ceil_divide(columns, vector_width(kind)) * vector_width(kind)


cdef inline const floating* panel_of(
    Matrix b, Py_ssize_t column, Py_ssize_t columns, floating* panel, Py_ssize_t* step
) noexcept nogil:
    """Return columns of b as a tile reads them: in place, or packed where rows end too soon."""
    cdef Py_ssize_t k, j
    cdef const floating* source = <const floating*> b.data + column
    step[0] = b.stride
    if column + whole_vectors(columns, panel) <= b.readable:
        return source
    step[0] = tile_columns(panel)
    for k in range(b.rows):
        for j in range(columns):
            panel[k * step[0] + j] = source[k * b.stride + j]
        for j in range(columns, step[0]):
            panel[k * step[0] + j] = 0
    return panel


cdef inline void pack_transposed(
    Matrix b, Py_ssize_t row, Py_ssize_t rows, floating* panel
) noexcept nogil:
    """Copy rows of b to the columns of a panel; zeros up to the tile's width."""
    cdef Py_ssize_t k, j, width = tile_columns(panel), square = vector_width(panel)
    cdef Py_ssize_t whole_rows = rows // square, whole_columns = b.columns // square
    cdef const floating* source = <const floating*> b.data + row * b.stride
    for k in range(whole_columns):
        for j in range(whole_rows):
            transpose(
                source + j * square * b.stride + k * square, b.stride,
                panel + k * square * width + j * square, width,
            )
    for k in range(b.columns):
        for j in range(whole_rows * square if k < whole_columns * square else 0, rows):
            panel[k * width + j] = source[j * b.stride + k]
        for j in range(rows, width):
            panel[k * width + j] = 0


cdef void activate_rows(Matrix z, int activation, floating alpha, Matrix out) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(z.rows):
        activate(
            <const floating*> z.data + row * z.stride, z.columns, activation, alpha,
            <floating*> out.data + row * out.stride,
        )


cdef void differentiate_rows(
    Matrix y, Matrix grad, int activation, floating alpha, Matrix out
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(y.rows):
        apply_derivative(
            <const floating*> y.data + row * y.stride,
            <const floating*> grad.data + row * grad.stride, y.columns, activation, alpha,
            <floating*> out.data + row * out.stride,
        )


cdef void softmax_rows(Matrix z, Matrix out, floating* kind) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(z.rows):
        softmax(
            <const floating*> z.data + row * z.stride, z.columns,
            <floating*> out.data + row * out.stride,
        )


cdef void forward_tiles(
    Matrix x,
    Matrix weight,
    Matrix bias,
    int activation,
    floating alpha,
    Matrix out,
    void* workspace,
    int thread,
    int n_threads,
) noexcept nogil:
    """Compute this thread's tiles of a = σ(xW + b)."""
    cdef floating sums[TILE_SIZE]
    cdef Py_ssize_t width = tile_columns(sums)
    cdef Grid grid = grid_of(
        ceil_divide(x.rows, TILE_ROWS), weight.columns, thread, n_threads, sums
    )
    cdef Py_ssize_t tile, column, row, rows, r, j, columns = 0, step = 0, current = -1
    cdef floating* panel = <floating*> workspace + thread * weight.rows * PANEL_WIDTH
    cdef const floating* source = panel
    cdef const floating* biases = <const floating*> bias.data
    cdef floating* sink
    for tile in range(grid.first, grid.last):
        column, row = tile // grid.row_tiles * grid.width, tile % grid.row_tiles * TILE_ROWS
        rows = min(TILE_ROWS, x.rows - row)
        if column != current:
            current, columns = column, min(grid.width, weight.columns - column)
            source = panel_of(weight, column, columns, panel, &step)
        for r in range(rows):
            for j in range(width):
                sums[r * width + j] = biases[column + j] if j < columns else 0
        multiply(
            <const floating*> x.data + row * x.stride, x.stride, 1, source, step, weight.rows,
            sums, rows, columns,
        )
        sink = <floating*> out.data + row * out.stride + column
        for r in range(rows):
            activate(sums + r * width, columns, activation, alpha, sink + r * out.stride)


cdef void backward_input_tiles(
    Matrix delta,
    Matrix weight,
    Matrix y,
    int activation,
    floating alpha,
    Matrix out,
    void* workspace,
    int thread,
    int n_threads,
) noexcept nogil:
    """Compute this thread's tiles of δWᵀ ⊙ σ'(y) (BP2)."""
    cdef floating sums[TILE_SIZE]
    cdef Py_ssize_t width = tile_columns(sums)
    cdef Grid grid = grid_of(
        ceil_divide(delta.rows, TILE_ROWS), weight.rows, thread, n_threads, sums
    )
    cdef Py_ssize_t tile, column, row, rows, r, j, columns = 0, current = -1
    cdef floating* panel = <floating*> workspace + thread * weight.columns * PANEL_WIDTH
    cdef const floating* outputs
    cdef floating* sink
    for tile in range(grid.first, grid.last):
        column, row = tile // grid.row_tiles * grid.width, tile % grid.row_tiles * TILE_ROWS
        rows = min(TILE_ROWS, delta.rows - row)
        if column != current:
            current, columns = column, min(grid.width, weight.rows - column)
            pack_transposed(weight, column, columns, panel)
        for j in range(rows * width):
            sums[j] = 0
        multiply(
            <const floating*> delta.data + row * delta.stride, delta.stride, 1, panel, width,
            weight.columns, sums, rows, columns,
        )
        outputs = <const floating*> y.data + row * y.stride + column
        sink = <floating*> out.data + row * out.stride + column
        for r in range(rows):
            apply_derivative(
                outputs + r * y.stride, sums + r * width, columns, activation, alpha,
                sink + r * out.stride,
            )


cdef void backward_weight_tiles(
    Matrix x, Matrix delta, Update to, void* workspace, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Update this thread's tiles of W with xᵀδ (BP4), and of b with Σδ (BP3).

    ∂W is never in memory as a whole: a tile of it updates its weights and is forgotten.
    The last row tile of a column panel is the bias, whose input is always 1.
    """
    cdef floating sums[TILE_SIZE]
    cdef Py_ssize_t width = tile_columns(sums)
    cdef Grid grid = grid_of(
        ceil_divide(x.columns, TILE_ROWS) + 1, delta.columns, thread, n_threads, sums
    )
    cdef Py_ssize_t tile, column, row, rows, r, j, at, columns = 0, step = 0, current = -1
    cdef floating* panel = <floating*> workspace + thread * delta.rows * PANEL_WIDTH
    cdef const floating* source = panel
    cdef floating one = 1
    for tile in range(grid.first, grid.last):
        column, row = tile // grid.row_tiles * grid.width, tile % grid.row_tiles * TILE_ROWS
        if column != current:
            current, columns = column, min(grid.width, delta.columns - column)
            source = panel_of(delta, column, columns, panel, &step)
        for j in range(TILE_SIZE):
            sums[j] = 0
        if tile % grid.row_tiles == grid.row_tiles - 1:
            multiply(&one, 0, 0, source, step, delta.rows, sums, 1, columns)
            update_row(to, to.bias.data, to.bias_state, column, sums, columns)
            continue
        rows = min(TILE_ROWS, x.columns - row)
        multiply(
            <const floating*> x.data + row, 1, x.stride, source, step, delta.rows, sums, rows,
            columns,
        )
        for r in range(rows):
            at = (row + r) * to.weight.stride + column
            update_row(to, to.weight.data, to.weight_state, at, sums + r * width, columns)


cdef inline void update_row(
    Update to, void* theta, void* state, Py_ssize_t at, const floating* grad, Py_ssize_t n
) noexcept nogil:
    update(
        <floating*> theta + at, <floating*> state + at, to.slot, grad, n, to.optimizer,
        <const floating*> to.coefficients,
    )


cdef void forward_single(
    const floating* x, Matrix weight, Matrix bias, int activation, floating alpha, floating* out
) noexcept nogil:
    """Compute a = σ(xW + b) of one sample, the rows of W swept once per wide column block."""
    cdef floating sums[WIDE_TILE_SIZE]
    cdef Py_ssize_t width = wide_tile_columns(sums)
    cdef Py_ssize_t block, column, columns, k, j
    cdef const floating* source
    for block in range(ceil_divide(weight.columns, width)):
        column = block * width
        columns = min(width, weight.columns - column)
        source = <const floating*> weight.data + column
        for j in range(width):
            sums[j] = (<const floating*> bias.data)[column + j] if j < columns else 0
        if column + whole_vectors(columns, out) <= weight.readable:
            multiply_wide(x, source, weight.stride, weight.rows, sums, columns)
        else:
            for k in range(weight.rows):
                for j in range(columns):
                    sums[j] += x[k] * source[k * weight.stride + j]
        activate(sums, columns, activation, alpha, out + column)


cdef void backward_input_single(
    const floating* delta,
    Matrix weight,
    const floating* y,
    int activation,
    floating alpha,
    floating* out,
) noexcept nogil:
    """Compute δWᵀ ⊙ σ'(y) of one sample (BP2): a dot product with each row of W."""
    cdef Py_ssize_t k
    for k in range(weight.rows):
        out[k] = dot(<const floating*> weight.data + k * weight.stride, delta, weight.columns)
    apply_derivative(y, out, weight.rows, activation, alpha, out)


cdef void backward_weight_single(
    const floating* x, const floating* delta, Update to
) noexcept nogil:
    """Update W with the outer product xδᵀ (BP4) and b with δ (BP3) of one sample."""
    cdef floating grad[WIDE_TILE_SIZE]
    cdef Py_ssize_t width = wide_tile_columns(grad)
    cdef Py_ssize_t k, j, block, column, columns
    for k in range(to.weight.rows):
        for block in range(ceil_divide(to.weight.columns, width)):
            column = block * width
            columns = min(width, to.weight.columns - column)
            for j in range(columns):
                grad[j] = x[k] * delta[column + j]
            update_row(
                to, to.weight.data, to.weight_state, k * to.weight.stride + column, grad, columns
            )
    update_row(to, to.bias.data, to.bias_state, 0, delta, to.bias.columns)
