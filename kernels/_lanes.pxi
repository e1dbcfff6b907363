# The gradient of a part of a batch, with its samples in the lanes of vectors: a row of a matrix is
# a feature, a column a sample. So no lane is left over where a layer has few units, weights are
# read as they lie in both directions, and tiles leave their sums where the next layer finds them.
# What looks at all outputs of a sample, the loss, or sums over samples, BP4, wants rows of samples:
# what it takes is transposed. Vectors are filled up with copies of the last sample, whose δ is 0:
# no activation meets a number that no sample has.

cdef enum:  # matrices with samples in their rows, of which three are needed at once
    INPUT_FORM = 0
    Z_FORM = 0
    OUTPUT_FORM = 1
    DELTA_FORM = 2
    ROW_FORMS = 3


cdef struct Block:  # of samples, and where a thread keeps what belongs to them
    Py_ssize_t n
    Py_ssize_t stride  # from one feature to the next
    Py_ssize_t widest  # output of a layer, padded
    void* lanes  # the inputs, then a of every layer, then z
    void* deltas  # of two layers
    void* rows


cdef inline Py_ssize_t features_below(const Network* net, Py_ssize_t index) noexcept nogil:
    """Return the features of the inputs and of all layers below one."""
    cdef Py_ssize_t below, n = layer_of(net, 0)[N_IN]
    for below in range(index):
        n += layer_of(net, below)[N_OUT]
    return n


cdef inline Block block_of(const Network* net, Py_ssize_t n, floating* workspace) noexcept nogil:
    """Lay out a block of n samples in a workspace."""
    cdef Block block
    cdef Py_ssize_t index, n_in = layer_of(net, 0)[N_IN], widest = 0
    cdef Py_ssize_t n_lanes = 2 * features_below(net, net.n_layers) - n_in
    for index in range(net.n_layers):
        widest = max(widest, layer_of(net, index)[N_OUT])
    block.n, block.stride = n, ceil_divide(n, ROW_MULTIPLE) * ROW_MULTIPLE
    block.widest = padded(widest, workspace)
    block.lanes = workspace
    block.deltas = workspace + n_lanes * block.stride
    block.rows = workspace + (n_lanes + 2 * block.widest) * block.stride
    return block


cdef inline Py_ssize_t block_room(
    const Network* net, Py_ssize_t n, floating* workspace
) noexcept nogil:
    """Return the elements that a block of n samples takes, as arena.parts_size says."""
    cdef Block block = block_of(net, n, workspace)
    cdef Py_ssize_t of_input = padded(layer_of(net, 0)[N_IN], workspace)
    return <floating*> block.rows - workspace + block.stride * max(
        of_input, ROW_FORMS * block.widest
    )


cdef inline Matrix inputs_in_lanes(
    const Network* net, const Block* block, floating* kind
) noexcept nogil:
    return matrix_at(block.lanes, 0, layer_of(net, 0)[N_IN], block.stride, block.stride, kind)


cdef inline Matrix output_in_lanes(
    const Network* net, const Block* block, Py_ssize_t index, bint z, floating* kind
) noexcept nogil:
    """Return the place of a layer's a, or of its z."""
    cdef Py_ssize_t before = features_below(net, index)
    if z:
        before += features_below(net, net.n_layers) - layer_of(net, 0)[N_IN]
    return matrix_at(
        block.lanes, before * block.stride, layer_of(net, index)[N_OUT], block.stride,
        block.stride, kind,
    )


cdef inline Matrix delta_in_lanes(
    const Network* net, const Block* block, Py_ssize_t index, floating* kind
) noexcept nogil:
    """Return the place of a layer's δ, until that of the next but one below is there."""
    return matrix_at(
        block.deltas, index % 2 * block.widest * block.stride, layer_of(net, index)[N_OUT],
        block.stride, block.stride, kind,
    )


cdef inline Matrix rows_of_block(
    const Block* block, int form, Py_ssize_t columns, floating* kind
) noexcept nogil:
    """Return one of the matrices of samples."""
    cdef Py_ssize_t stride = padded(columns, kind)
    return matrix_at(
        block.rows, form * block.stride * block.widest, block.n, columns, stride, kind
    )


# Whole squares are transposed: up to 31 features more than there are, as rows are padded, which
# nobody looks at. In the block they stay before `rows`, for behind what is in lanes there is twice
# `widest`, which is padded; and matrices of rows have room for `stride` samples.

cdef inline void to_rows(Matrix lanes, Matrix rows, floating* kind) noexcept nogil:
    transpose_squares(
        <const floating*> lanes.data, lanes.stride, rows.stride, lanes.stride,
        <floating*> rows.data, rows.stride,
    )


cdef inline void to_lanes(Matrix rows, Matrix lanes, floating* kind) noexcept nogil:
    transpose_squares(
        <const floating*> rows.data, rows.stride, lanes.stride, rows.stride,
        <floating*> lanes.data, lanes.stride,
    )


cdef inline void multiply_in_lanes(
    const floating* start, Py_ssize_t start_step, const floating* a, Py_ssize_t a_row,
    Py_ssize_t a_step, Matrix b, Matrix out,
) noexcept nogil:
    """Compute all tiles of out = start + ab, a being in any order."""
    cdef floating* kind = NULL
    cdef Grid grid = grid_of(out.rows, 1, out.columns, 0, 1, kind)
    cdef Py_ssize_t panel, column
    for panel in range(grid.panels):
        column = start_of(grid, panel, kind)
        multiply_lanes(
            start, start_step, a, a_row, a_step, <const floating*> b.data + column, b.stride,
            b.rows, <floating*> out.data + column, out.stride, out.rows,
            start_of(grid, panel + 1, kind) - column,
        )


cdef void update_from_lanes(
    Matrix x, Matrix delta, const Update* to, floating* kind
) noexcept nogil:
    """Update W with xᵀδ (BP4), and b with Σδ (BP3): x in lanes, δ in rows."""
    cdef floating sums_room[TILE_ROOM]
    cdef floating start[PANEL_WIDTH]
    cdef floating* sums = at_line(sums_room)
    cdef floating* zeros = start_at_zero(start, PANEL_WIDTH)
    cdef Grid grid = grid_of(
        x.rows, ceil_divide(x.rows, INPUT_ROWS), delta.columns, 0, 1, sums
    )
    cdef Py_ssize_t panel, row_tile, row, rows, column, columns
    cdef const floating* deltas
    for panel in range(grid.panels):
        column = start_of(grid, panel, sums)
        columns = start_of(grid, panel + 1, sums) - column
        deltas = <const floating*> delta.data + column
        for row_tile in range(grid.row_tiles):
            row = row_of(grid, row_tile)
            rows = row_of(grid, row_tile + 1) - row
            multiply(
                zeros, <const floating*> x.data + row * x.stride, x.stride, 1, deltas,
                delta.stride, delta.rows, sums, rows, columns,
            )
            update_rows(to, to.weight, to.weight_state, row, column, sums, rows, columns)
        if to.bias.rows:
            sum_rows(deltas, delta.stride, delta.rows, sums, columns)
            update_rows(to, to.bias, to.bias_state, 0, column, sums, 1, columns)


cdef void lanes_up(
    const Network* net, const Data* batch, const Block* block, floating* kind
) noexcept nogil:
    """Take a block forward through all layers, the last one to its z only."""
    cdef Py_ssize_t index, row, top = net.n_layers - 1
    cdef Matrix source = inputs_in_lanes(net, block, kind), z, weight
    cdef Matrix x = rows_of_block(block, INPUT_FORM, source.rows, kind)
    cdef floating* rows = <floating*> x.data
    cdef int64_t activation
    gather_rows(batch, x, kind)
    for row in range(block.n, block.stride):
        copy_row(rows + (block.n - 1) * x.stride, x.columns, rows + row * x.stride)
    to_lanes(x, source, kind)
    for index in range(net.n_layers):
        activation = activation_of(net, index)
        weight = weight_in(layer_of(net, index), net.parameters, kind)
        z = output_in_lanes(net, block, index, takes_z(activation) or index == top, kind)
        multiply_in_lanes(
            <const floating*> bias_in(layer_of(net, index), net.parameters, kind).data, 1,
            <const floating*> weight.data, 1, weight.stride, source, z,
        )
        source = output_in_lanes(net, block, index, False, kind)
        if index < top:
            activate(
                <const floating*> z.data, z.rows * z.stride, activation,
                <floating> alpha_of(net, index), <floating*> source.data,
            )


cdef Matrix loss_in_rows(
    const Network* net, const Data* batch, const Data* whole, const Block* block, floating* losses
) noexcept nogil:
    """Compute the losses of a block and return the δ of its outputs (BP1), in rows."""
    cdef Py_ssize_t top = net.n_layers - 1, n_out = layer_of(net, top)[N_OUT]
    cdef int64_t activation = activation_of(net, top)
    cdef floating alpha = <floating> alpha_of(net, top)
    cdef Matrix z = rows_of_block(block, Z_FORM, n_out, losses), y = z
    cdef Matrix delta = rows_of_block(block, DELTA_FORM, n_out, losses)
    to_rows(output_in_lanes(net, block, top, True, losses), z, losses)
    if activation != IDENTITY:
        y = rows_of_block(block, OUTPUT_FORM, n_out, losses)
        activate_rows(z, activation, alpha, y)
    losses_and_gradients_of_rows(batch, whole, y, losses, delta)
    if activation != IDENTITY:
        differentiate_rows(z if takes_z(activation) else y, delta, activation, alpha, delta)
    return delta


cdef void lanes_down(
    const Network* net, const Block* block, Matrix rows, const Step* step, floating* kind
) noexcept nogil:
    """Carry δ down through all layers (BP2), each of which is updated (BP3, BP4)."""
    cdef floating zero = 0
    cdef Py_ssize_t index
    cdef int64_t activation
    cdef Matrix delta = delta_in_lanes(net, block, net.n_layers - 1, kind), weight, below, known
    cdef Update to
    clear_lines(
        <floating*> rows.data + block.n * rows.stride, (block.stride - block.n) * rows.stride
    )
    to_lanes(rows, delta, kind)
    for index in range(net.n_layers - 1, -1, -1):
        to = update_of(layer_of(net, index), step, kind)
        if index == 0:
            update_from_lanes(inputs_in_lanes(net, block, kind), rows, &to, kind)
            return
        update_from_lanes(output_in_lanes(net, block, index - 1, False, kind), rows, &to, kind)
        activation = activation_of(net, index - 1)
        weight = weight_in(layer_of(net, index), net.parameters, kind)
        below = delta_in_lanes(net, block, index - 1, kind)
        multiply_in_lanes(
            &zero, 0, <const floating*> weight.data, weight.stride, 1, delta, below
        )
        known = output_in_lanes(net, block, index - 1, takes_z(activation), kind)
        apply_derivative(
            <const floating*> known.data, below.rows * below.stride, activation,
            <floating> alpha_of(net, index - 1), <floating*> below.data,
        )
        rows = rows_of_block(block, DELTA_FORM, below.rows, kind)
        to_rows(below, rows, kind)
        delta = below


cdef void gradient_in_lanes(
    const Network* net, const Data* batch, const Share* samples, floating* grad, floating* losses,
    floating* workspace,
) noexcept nogil:
    """Store the gradient of a part of a batch, and the loss of each sample."""
    cdef Step step = storing_step(grad)
    cdef Py_ssize_t n = samples.last - samples.first
    cdef int n_blocks = <int> ceil_divide(n, LANE_SAMPLES), index
    cdef Share share
    cdef Data part
    cdef Block block
    cdef Matrix delta
    for index in range(n_blocks):
        share = share_of_units(n, ROW_MULTIPLE, index, n_blocks)
        share.first += samples.first
        share.last += samples.first
        part = part_of(batch, share.first, share.last, workspace)
        block = block_of(net, part.x.rows, workspace)
        lanes_up(net, &part, &block, workspace)
        delta = loss_in_rows(net, &part, batch, &block, losses + share.first)
        lanes_down(net, &block, delta, &step, workspace)
        step.optimizer = ADD
