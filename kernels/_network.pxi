# The whole network, made of the layer kernels: forward, and training steps.
#
# A team of threads executes the same code. Forward, loss and BP2 need only a sample's own
# row, so each thread takes its rows through the layers without meeting the others; the
# update (BP3, BP4) sums over rows, so each thread takes its tiles of every layer's weights.
# Barriers stand where rows and columns meet; two more where a gradient is clipped, which must
# be there as a whole before the first weight changes. A layer that is wider than the batch has
# more weights than inputs: there each thread takes columns, of all rows, forward and in BP2,
# with a barrier before and after, and the weights that it has changed are those that it needs.
# Where the network is narrow, or small against the batch, threads take parts of the batch, with a
# gradient for each, and samples in the lanes of vectors: see _lanes.pxi.

cdef enum:  # samples of a batch, whatever part of it a thread has
    SWEPT_ROWS = 8  # up to which ∂W is made row by row of W, not by tiles
    DOTTED_ROWS = 4  # up to which BP2 takes rows of W as they lie, not transposed
    READ_ROWS = 32  # up to which a forward pass takes as long as reading large weights


cdef struct Network:
    Py_ssize_t n_layers
    const int64_t* table
    const double* settings  # a row for each layer
    void* parameters
    bint is_dense  # and nothing else
    bint is_penalized
    bint meets  # whether a sample's output depends on the others of its batch


cdef struct Data:  # the samples of a call
    Matrix x
    Matrix target
    const int64_t* labels  # NULL where the target's values count
    const int64_t* order  # NULL for the rows as they lie
    const void* sample_weight  # NULL for equal weights
    double share  # of a weight of 1 in the mean: 1 / Σw
    Loss loss
    int64_t visit  # number of the step in the call, on which masks depend
    void* statistics  # arena whose running moments follow the batches, or NULL


cdef struct Passage:  # a layer and rows that pass it
    const Network* net
    Py_ssize_t index
    int64_t visit
    Py_ssize_t first  # of the rows in the batch
    const Data* batch  # as a whole, or NULL where only the output is wanted
    void* notes  # of the layer, or NULL likewise


cdef struct Share:  # of a thread in a batch, or in the rows or columns of a weight
    int thread
    int n_threads
    Py_ssize_t first
    Py_ssize_t last


cdef struct Step:  # what becomes of a batch's gradient, and of its loss
    void* parameters
    void* state
    Py_ssize_t slot
    int optimizer
    const void* coefficients
    bint averages
    Py_ssize_t average
    double averaging
    void* grad  # where it is stored and clipped before the update, or NULL
    double clip_value
    double clip_norm
    double* mean
    Py_ssize_t workspace_size


cdef struct Run:  # a sequence of steps
    Py_ssize_t n_visits
    Py_ssize_t batch_size
    Py_ssize_t n_coefficients
    const double* coefficients
    const double* averaging
    double* means


cdef inline Py_ssize_t padded(Py_ssize_t n, floating* kind) noexcept nogil:
    """Return a row's stride in the workspace, by the rule of arena.row_stride."""
    cdef Py_ssize_t stride = ceil_divide(n, ROW_MULTIPLE) * ROW_MULTIPLE
    if stride and stride * sizeof(floating) % CACHE_SET_SPAN == 0:
        stride += ROW_MULTIPLE
    return stride


cdef inline Matrix matrix_at(
    void* arena, Py_ssize_t offset, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t stride,
    floating* kind,
) noexcept nogil:
    """Return a matrix of padded rows in an arena or a workspace."""
    cdef Matrix matrix
    matrix.data = <floating*> arena + offset
    matrix.rows, matrix.columns, matrix.stride, matrix.readable = rows, columns, stride, stride
    return matrix


cdef inline void clear_padding(Matrix matrix, floating* kind) noexcept nogil:
    """Set what follows the columns to 0: sums of whole vectors take it in."""
    cdef Py_ssize_t row, j
    for row in range(matrix.rows):
        for j in range(matrix.columns, matrix.stride):
            (<floating*> matrix.data)[row * matrix.stride + j] = 0


cdef inline const int64_t* layer_of(const Network* net, Py_ssize_t index) noexcept nogil:
    return net.table + index * LAYER_COLUMNS


cdef inline double setting_of(
    const Network* net, Py_ssize_t index, Py_ssize_t setting
) noexcept nogil:
    return net.settings[index * SETTING_COLUMNS + setting]


cdef inline double alpha_of(const Network* net, Py_ssize_t index) noexcept nogil:
    return setting_of(net, index, ALPHA)


cdef inline Matrix weight_in(const int64_t* layer, void* arena, floating* kind) noexcept nogil:
    return matrix_at(
        arena, layer[WEIGHT], layer[WEIGHT_ROWS], layer[WEIGHT_COLUMNS], layer[STRIDE], kind
    )


cdef inline Matrix bias_in(const int64_t* layer, void* arena, floating* kind) noexcept nogil:
    return matrix_at(arena, layer[BIAS], 1, layer[N_OUT], layer[STRIDE], kind)


cdef inline int64_t activation_of(const Network* net, Py_ssize_t index) noexcept nogil:
    return layer_of(net, index)[ACTIVATION]


cdef inline void forward_layer(
    const Passage* at, int64_t activation, Matrix x, Matrix out, floating* panel, bint few
) noexcept nogil:
    """Run a layer, or for IDENTITY its z only, on rows of one thread."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef Matrix weight = weight_in(layer, at.net.parameters, panel)
    cdef Matrix bias = bias_in(layer, at.net.parameters, panel)
    cdef floating alpha = <floating> alpha_of(at.net, at.index)
    cdef int64_t in_tiles = part_in_tiles(activation)
    if x.rows == 0:
        return
    if layer[KIND] != DENSE:
        forward_units(at, in_tiles, x, out, panel)
    elif few:
        forward_few(x, weight, bias, in_tiles, alpha, out)
    else:
        forward_tiles(x, weight, bias, in_tiles, alpha, out, panel, 0, 1)
    if in_tiles != activation:
        activate_rows(out, activation, alpha, out)


cdef inline Share share_of_units(
    Py_ssize_t n, Py_ssize_t unit, int thread, int n_threads
) noexcept nogil:
    """Return the share of a thread in n, of which whole units are dealt out."""
    cdef Py_ssize_t units = ceil_divide(n, unit)
    cdef Share share
    share.thread, share.n_threads = thread, n_threads
    share.first = min(units * thread // n_threads * unit, n)
    share.last = min(units * (thread + 1) // n_threads * unit, n)
    return share


cdef inline Share share_of_thread(Py_ssize_t n, int thread, int n_threads) noexcept nogil:
    """Return the share of a thread in a batch of n rows."""
    return share_of_units(n, 1, thread, n_threads)


cdef inline Share only_rows(Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Return the share of a thread that meets no other."""
    cdef Share share
    share.thread, share.n_threads, share.first, share.last = 0, 1, first, last
    return share


cdef void forward_share(
    const Passage* at, int64_t activation, Matrix x, Matrix out, const Share* share,
    floating* panel,
) noexcept nogil:
    """Run a layer, or for IDENTITY its z only, on a batch: this thread's rows or columns."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef Matrix rows = rows_between(out, share.first, share.last, panel)
    cdef int64_t in_tiles = part_in_tiles(activation)
    cdef bint few = x.rows <= WIDE_TILE_ROWS
    if layer[KIND] != DENSE or not takes_columns(x.rows, layer[N_OUT], share.n_threads):
        x = rows_between(x, share.first, share.last, panel)
        forward_layer(at, activation, x, rows, panel, few)
        return
    team_barrier(share.n_threads)
    forward_in_columns(at, in_tiles, x, out, share, panel, few)
    team_barrier(share.n_threads)
    if in_tiles != activation:
        activate_rows(rows, activation, <floating> alpha_of(at.net, at.index), rows)


cdef inline void forward_in_columns(
    const Passage* at, int64_t activation, Matrix x, Matrix out, const Share* share,
    floating* panel, bint few,
) noexcept nogil:
    """Compute this thread's columns of a dense layer's output."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef Matrix weight = weight_in(layer, at.net.parameters, panel)
    cdef Matrix bias = bias_in(layer, at.net.parameters, panel)
    cdef floating alpha = <floating> alpha_of(at.net, at.index)
    cdef Share part
    if not few:
        forward_tiles(
            x, weight, bias, activation, alpha, out, panel, share.thread, share.n_threads
        )
        return
    part = share_of_units(
        weight.columns, wide_tile_columns(panel), share.thread, share.n_threads
    )
    forward_few(
        x, columns_between(weight, part.first, part.last, panel),
        columns_between(bias, part.first, part.last, panel), activation, alpha,
        columns_between(out, part.first, part.last, panel),
    )


# --- Forward: blocks of rows go through all layers ----------------------------------------

cdef struct Blocks:  # of rows that go through all layers, and the workspace of a thread
    Py_ssize_t activation_size
    Py_ssize_t widest_row
    Py_ssize_t room  # for two activations and a panel


cdef inline Py_ssize_t row_block_of(const Network* net, floating* kind) noexcept nogil:
    """Return the most samples that go through all layers together, as arena.row_block says."""
    if layer_of(net, net.n_layers - 1)[BIAS] * <Py_ssize_t> sizeof(floating) >= FAR_BYTES:
        return FAR_ROW_BLOCK
    return ROW_BLOCK


cdef inline Blocks blocks_of(const Network* net, Py_ssize_t n, floating* kind) noexcept nogil:
    cdef Py_ssize_t widest = 0, deepest = 0, index
    cdef Blocks blocks
    for index in range(net.n_layers):
        widest = max(widest, layer_of(net, index)[N_OUT])
        deepest = max(deepest, layer_of(net, index)[N_IN])
    blocks.widest_row = padded(widest, kind)
    blocks.activation_size = min(n, row_block_of(net, kind)) * blocks.widest_row
    blocks.room = 2 * blocks.activation_size + deepest * PANEL_ROOM
    return blocks


cdef inline Matrix between_layers(
    const Network* net, Py_ssize_t index, Py_ssize_t n, Py_ssize_t stride, const Blocks* blocks,
    floating* workspace,
) noexcept nogil:
    """Return the place of a layer's output, until that of the next but one is there."""
    return matrix_at(
        workspace, index % 2 * blocks.activation_size, n, layer_of(net, index)[N_OUT], stride,
        workspace,
    )


cdef void forward_blocks(
    const Network* net, Matrix x, Matrix out, floating* workspace, int thread, int n_threads
) noexcept nogil:
    """Run this thread's blocks of rows forward, with two activations in the workspace."""
    cdef Py_ssize_t rows = row_block_of(net, workspace), block, first, last, index, stride
    cdef Py_ssize_t n_own = 1  # without the divisions, which one sample would feel
    if x.rows > rows:
        n_own = ceil_divide(ceil_divide(x.rows, rows), n_threads)
    cdef Py_ssize_t n_blocks = n_own * n_threads
    cdef Blocks blocks = blocks_of(net, x.rows, workspace)
    cdef Matrix source, sink
    cdef Passage at
    workspace += thread * blocks.room
    for block in range(n_own * thread, n_own * (thread + 1)):
        first, last = 0, x.rows
        if n_blocks > 1:
            first, last = x.rows * block // n_blocks, x.rows * (block + 1) // n_blocks
        if first == last:
            continue
        source = rows_between(x, first, last, workspace)
        for index in range(net.n_layers):
            sink = rows_between(out, first, last, workspace)
            if index < net.n_layers - 1:
                stride = padded(layer_of(net, index)[N_OUT], workspace)
                sink = between_layers(net, index, last - first, stride, &blocks, workspace)
            at = passage_at(net, NULL, index, first, workspace)
            forward_layer(
                &at, activation_of(net, index), source, sink,
                workspace + 2 * blocks.activation_size, x.rows <= WIDE_TILE_ROWS,
            )
            source = sink


cdef void forward_columns(
    const Network* net, Matrix x, Matrix out, floating* workspace, int thread, int n_threads
) noexcept nogil:
    """Run a few rows forward, in this thread's columns of every layer that has more of them.

    All weights are read, which is what takes the time, by one thread each. Rows of all layers
    lie alike: a thread that is ahead writes where nobody reads but itself.
    """
    cdef Blocks blocks = blocks_of(net, x.rows, workspace)
    cdef Share share = share_of_thread(x.rows, thread, n_threads)
    cdef floating* panel = workspace + thread * blocks.room + 2 * blocks.activation_size
    cdef Matrix source = x, sink
    cdef Passage at
    cdef Py_ssize_t index
    for index in range(net.n_layers):
        sink = out
        if index < net.n_layers - 1:
            sink = between_layers(net, index, x.rows, blocks.widest_row, &blocks, workspace)
        at = passage_at(net, NULL, index, share.first, workspace)
        forward_share(&at, activation_of(net, index), source, sink, &share, panel)
        source = sink


cdef inline void forward_in_team(
    const Network* net, Matrix x, Matrix out, floating* workspace, int thread, int n_threads
) noexcept nogil:
    cdef Py_ssize_t rows = row_block_of(net, workspace)
    if n_threads > 1 and x.rows <= (rows if rows > ROW_BLOCK else READ_ROWS):
        forward_columns(net, x, out, workspace, thread, n_threads)
    else:
        forward_blocks(net, x, out, workspace, thread, n_threads)


cdef void forward_team(
    const Network* net, Matrix x, Matrix out, floating* workspace, int n_threads
) noexcept nogil:
    """Run all rows forward."""
    cdef Team* team
    if n_threads == 1:
        forward_in_team(net, x, out, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            forward_in_team(net, x, out, workspace, threadid(), join_team(team))


# --- The loss of a batch ------------------------------------------------------------------

cdef inline Py_ssize_t sample_of(const Data* batch, Py_ssize_t row) noexcept nogil:
    return batch.order[row] if batch.order is not NULL else row


cdef inline Py_ssize_t label_of(const Data* batch, Py_ssize_t row) noexcept nogil:
    return batch.labels[sample_of(batch, row)] if batch.labels is not NULL else 0


cdef inline const floating* target_of(
    const Data* batch, Py_ssize_t row, floating* kind
) noexcept nogil:
    if batch.labels is not NULL:
        return NULL
    return <const floating*> batch.target.data + sample_of(batch, row) * batch.target.stride


cdef inline double share_of(const Data* batch, Py_ssize_t row, floating* kind) noexcept nogil:
    """Return a row's part of the mean loss, wᵢ / Σw."""
    if batch.sample_weight is NULL:
        return batch.share
    return (<const floating*> batch.sample_weight)[sample_of(batch, row)] * batch.share


cdef inline double share_of_one(const Data* batch, floating* kind) noexcept nogil:
    """Return 1 / Σw, or 0 where that is no number."""
    cdef double total = 0
    cdef Py_ssize_t row
    if batch.sample_weight is NULL:
        total = <double> batch.x.rows
    else:
        for row in range(batch.x.rows):
            total += (<const floating*> batch.sample_weight)[sample_of(batch, row)]
    return 1 / total if total != 0 else 0


cdef void losses_of_rows(const Data* batch, Matrix output, floating* out) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(output.rows):
        out[row] = loss_value(
            <const floating*> output.data + row * output.stride, target_of(batch, row, out),
            label_of(batch, row), output.columns, &batch.loss,
        )


cdef void loss_gradients_of_rows(
    const Data* batch, Matrix output, Matrix out, floating* kind
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(output.rows):
        loss_gradient(
            <const floating*> output.data + row * output.stride, target_of(batch, row, kind),
            label_of(batch, row), output.columns, &batch.loss,
            <floating> share_of(batch, row, kind), <floating*> out.data + row * out.stride,
        )


cdef void cross_entropies_of_rows(
    const Data* batch, Matrix output, floating* losses, Matrix delta
) noexcept nogil:
    cdef Py_ssize_t labels[ROWS_AT_ONCE]
    cdef floating shares[ROWS_AT_ONCE]
    cdef Py_ssize_t group, first, i, rows
    for group in range(ceil_divide(output.rows, ROWS_AT_ONCE)):
        first = group * ROWS_AT_ONCE
        rows = min(ROWS_AT_ONCE, output.rows - first)
        for i in range(rows):
            labels[i] = label_of(batch, first + i)
            shares[i] = <floating> share_of(batch, first + i, losses)
        cross_entropies_and_gradients(
            <const floating*> output.data + first * output.stride, output.stride, labels, shares,
            rows, output.columns, <floating> batch.loss.parameters[0], losses + first,
            <floating*> delta.data + first * delta.stride, delta.stride,
        )


cdef void squared_errors_of_rows(
    const Data* batch, Matrix output, floating* losses, Matrix delta
) noexcept nogil:
    cdef Py_ssize_t row, j, n = output.columns
    cdef floating total, distance, share, factor
    cdef floating divisor = n if batch.loss.code == MSE else 2
    cdef const floating* o
    cdef const floating* t
    cdef floating* d
    for row in range(output.rows):
        o = <const floating*> output.data + row * output.stride
        t = target_of(batch, row, losses)
        d = <floating*> delta.data + row * delta.stride
        share = <floating> share_of(batch, row, losses)
        factor, total = 2 * share / divisor, 0
        for j in range(n):
            distance = o[j] - t[j]
            total += distance * distance
            d[j] = factor * distance if share != 0 else 0
        losses[row] = total / divisor


cdef void losses_and_gradients_of_rows(
    const Data* batch, const Data* whole, Matrix output, floating* losses, Matrix delta
) noexcept nogil:
    """Compute both at once; they share the softmax. Padding of δ may be written to.

    `batch` is a part of the `whole`, which decides how, for any thread the same.
    """
    cdef Py_ssize_t row, room = min(
        columns_at(output, 0, output.columns, losses), columns_at(delta, 0, delta.columns, losses)
    )
    if (
        whole.x.rows >= ROWS_AT_ONCE and output.columns <= FEW_CLASSES
        and whole.labels is not NULL and whole.loss.code == CROSS_ENTROPY
    ):
        cross_entropies_of_rows(batch, output, losses, delta)
        return
    if whole.loss.code == MSE or whole.loss.code == QUADRATIC:
        squared_errors_of_rows(batch, output, losses, delta)
        return
    for row in range(output.rows):
        losses[row] = loss_and_gradient(
            <const floating*> output.data + row * output.stride, target_of(batch, row, losses),
            label_of(batch, row), output.columns, room, &batch.loss,
            <floating> share_of(batch, row, losses),
            <floating*> delta.data + row * delta.stride,
        )


cdef double mean_loss(const Data* batch, floating* losses) noexcept nogil:
    """Sum the losses of the rows in their order, whoever computed them."""
    cdef Py_ssize_t row
    cdef double total = 0, share
    for row in range(batch.x.rows):
        share = share_of(batch, row, losses)
        if share != 0:
            total += share * losses[row]
    return total


cdef double batch_loss(
    const Network* net, const Data* batch, floating* workspace, int n_threads
) noexcept nogil:
    """Run a batch forward and return its mean loss."""
    cdef double added = penalty(net, workspace)
    if net.meets:
        sweep_team(net, batch, workspace, n_threads)
        return added + mean_loss(batch, losses_in(net, batch.x.rows, workspace))
    cdef Py_ssize_t n = batch.x.rows, n_out = layer_of(net, net.n_layers - 1)[N_OUT]
    cdef Matrix output = matrix_at(workspace, 0, n, n_out, padded(n_out, workspace), workspace)
    cdef floating* losses = workspace + n * output.stride
    cdef floating* scratch = losses + ceil_divide(n, ROW_MULTIPLE) * ROW_MULTIPLE
    forward_team(net, batch.x, output, scratch, n_threads)
    losses_of_rows(batch, output, losses)
    return added + mean_loss(batch, losses)


cdef void difference_gradient(
    const Network* net,
    const Data* batch,
    const int64_t* indices,
    const floating* steps,
    Py_ssize_t n,
    bint central,
    double* out,
    floating* workspace,
) noexcept nogil:
    """Move each parameter, see what the loss does, and put it back."""
    cdef Py_ssize_t position
    cdef floating* theta
    cdef floating here, above, below
    cdef double loss_above, loss_below, loss_here = 0
    if not central:
        loss_here = batch_loss(net, batch, workspace, 1)
    for position in range(n):
        theta = <floating*> net.parameters + indices[position]
        here = theta[0]
        above, below, loss_below = here + steps[position], here, loss_here
        theta[0] = above
        loss_above = batch_loss(net, batch, workspace, 1)
        if central:
            below = here - steps[position]
            theta[0] = below
            loss_below = batch_loss(net, batch, workspace, 1)
        theta[0] = here
        out[position] = (loss_above - loss_below) / (<double> above - <double> below)


cdef void clear_unfilled(
    const Network* net, Py_ssize_t n_elements, floating* arena
) noexcept nogil:
    """Set to 0 what a gradient does not fill: padding, and what it may leave of other layers.

    The last columns of weights as well, for whole lines are written faster than a few numbers.
    """
    cdef Py_ssize_t index, row, first, end
    cdef const int64_t* layer
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        if layer[KIND] != DENSE:
            end = layer_of(net, index + 1)[WEIGHT] if index + 1 < net.n_layers else n_elements
            clear_lines(arena + layer[WEIGHT], end - layer[WEIGHT])
            continue
        for row in range(layer[WEIGHT_ROWS] + 1):
            first = layer[WEIGHT_COLUMNS] if row < layer[WEIGHT_ROWS] else layer[BIASES]
            first -= first % ROW_MULTIPLE
            clear_lines(arena + layer[WEIGHT] + row * layer[STRIDE] + first, layer[STRIDE] - first)


cdef inline void clear_lines(floating* out, Py_ssize_t n) noexcept nogil:
    """Set n elements, a multiple of ROW_MULTIPLE, to 0: without a call, as they are few."""
    cdef Py_ssize_t line, j
    for line in range(n // ROW_MULTIPLE):
        for j in range(ROW_MULTIPLE):
            out[line * ROW_MULTIPLE + j] = 0


# --- A training step: forward, loss, BP1–BP4 and the update -------------------------------
# The workspace holds, in this order: the gathered batch, the outputs of every layer, their
# δ, the loss of each row, what layers note, and the threads' panels; see
# arena.training_workspace_size. A batch that goes in parts has the losses there, a gradient for
# each part, and a block for each thread.

cdef inline Matrix inputs_of(
    const Network* net, const Data* batch, floating* workspace
) noexcept nogil:
    """Return the rows of the batch: as they lie, or where they are gathered."""
    cdef Py_ssize_t n_in = layer_of(net, 0)[N_IN]
    if batch.order is NULL:
        return batch.x
    return matrix_at(workspace, 0, batch.x.rows, n_in, padded(n_in, workspace), workspace)


cdef inline Py_ssize_t outputs_size(
    const Network* net, Py_ssize_t n_layers, Py_ssize_t n, floating* kind
) noexcept nogil:
    """Return the elements of the outputs of the first layers."""
    cdef Py_ssize_t index, columns = 0
    for index in range(n_layers):
        columns += padded(layer_of(net, index)[N_OUT], kind)
    return n * columns


cdef inline Matrix output_of(
    const Network* net, Py_ssize_t index, Py_ssize_t n, bint delta, floating* workspace
) noexcept nogil:
    """Return the place of a layer's output, or of its δ."""
    cdef Py_ssize_t n_out = layer_of(net, index)[N_OUT]
    cdef Py_ssize_t offset = n * padded(layer_of(net, 0)[N_IN], workspace)
    offset += outputs_size(net, index, n, workspace)
    if delta:
        offset += outputs_size(net, net.n_layers, n, workspace)
    return matrix_at(workspace, offset, n, n_out, padded(n_out, workspace), workspace)


cdef inline floating* losses_in(
    const Network* net, Py_ssize_t n, floating* workspace
) noexcept nogil:
    return (
        workspace
        + n * padded(layer_of(net, 0)[N_IN], workspace)
        + 2 * outputs_size(net, net.n_layers, n, workspace)
    )


cdef inline floating* notes_in(
    const Network* net, Py_ssize_t index, Py_ssize_t n, floating* workspace
) noexcept nogil:
    """Return the place of a layer's notes; of the layer after the last, where they end."""
    cdef Py_ssize_t below, offset = ceil_divide(n, ROW_MULTIPLE) * ROW_MULTIPLE
    if not net.is_dense:
        for below in range(index):
            offset += notes_size(layer_of(net, below), n, workspace)
    return losses_in(net, n, workspace) + offset


cdef inline Passage passage_at(
    const Network* net, const Data* batch, Py_ssize_t index, Py_ssize_t first,
    floating* workspace,
) noexcept nogil:
    """Describe rows from `first` on at a layer; without a batch, nothing is noted."""
    cdef Passage at
    at.net, at.batch, at.index, at.first, at.visit, at.notes = net, batch, index, first, 0, NULL
    if batch is not NULL and not net.is_dense:
        at.visit, at.notes = batch.visit, notes_in(net, index, batch.x.rows, workspace)
    return at


cdef inline Matrix input_of(
    const Network* net, const Data* batch, Py_ssize_t index, floating* workspace
) noexcept nogil:
    """Return what a layer takes from a batch."""
    if index == 0:
        return inputs_of(net, batch, workspace)
    return output_of(net, index - 1, batch.x.rows, False, workspace)


cdef inline void gather_rows(const Data* batch, Matrix out, floating* kind) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(out.rows):
        copy_tile(
            <const floating*> batch.x.data + sample_of(batch, row) * batch.x.stride, 0, 1,
            out.columns, <floating*> out.data + row * out.stride, 0,
        )


cdef void carry_delta(
    const Passage* at, Matrix x, Matrix delta, Matrix y_or_z, int64_t activation, floating alpha,
    Matrix out, floating* panel, bint few,
) noexcept nogil:
    """Carry δ of one thread's rows below a layer, ∂L/∂x ⊙ σ' (BP2)."""
    cdef Matrix weight = weight_in(layer_of(at.net, at.index), at.net.parameters, panel)
    if x.rows == 0:
        return
    if kind_of(at.net, at.index) != DENSE:
        carry_units(at, x, delta, y_or_z, activation, alpha, out)
    elif few:
        clear_padding(delta, panel)
        backward_input_few(delta, weight, y_or_z, activation, alpha, out)
    else:
        backward_input_tiles(delta, weight, y_or_z, activation, alpha, out, panel, 0, 1)


cdef inline Data part_of(
    const Data* batch, Py_ssize_t first, Py_ssize_t last, floating* kind
) noexcept nogil:
    """Describe some rows of a batch; the share of each in the mean stays."""
    cdef Data part = batch[0]
    if batch.order is not NULL:
        part.order = batch.order + first
        part.x.rows = last - first
        return part
    part.x = rows_between(batch.x, first, last, kind)
    part.target = rows_between(batch.target, first, last, kind)
    if batch.labels is not NULL:
        part.labels = batch.labels + first
    if batch.sample_weight is not NULL:
        part.sample_weight = <const floating*> batch.sample_weight + first
    return part


cdef void forward_for_gradient(
    const Passage* at, Matrix x, Matrix out, Matrix delta, const Share* share, floating* panel
) noexcept nogil:
    """Run a layer on a batch; where BP2 will want z, it stays in the place of δ until δ comes."""
    cdef int64_t activation = activation_of(at.net, at.index)
    if takes_z(activation):
        forward_share(at, IDENTITY, x, delta, share, panel)
        activate_rows(
            rows_between(delta, share.first, share.last, panel), activation,
            <floating> alpha_of(at.net, at.index),
            rows_between(out, share.first, share.last, panel),
        )
    else:
        forward_share(at, activation, x, out, share, panel)


cdef inline void meet_forward(
    const Passage* at, floating* workspace, const Share* share
) noexcept nogil:
    """Where a layer takes statistics of the batch, wait for all of it and take them."""
    if kind_of(at.net, at.index) != BATCH_NORM_TRAINING:
        return
    team_barrier(share.n_threads)
    batch_moments(
        at, input_of(at.net, at.batch, at.index, workspace), share.thread, share.n_threads,
        workspace,
    )
    team_barrier(share.n_threads)


cdef void sweep_up(
    const Network* net, const Data* batch, const Share* share, floating* workspace,
    floating* panel,
) noexcept nogil:
    """Take a batch forward through all layers, to the losses and first δ of some rows (BP1)."""
    cdef Py_ssize_t n = batch.x.rows, index, top = net.n_layers - 1
    cdef Data part = part_of(batch, share.first, share.last, workspace)
    cdef Matrix source = inputs_of(net, batch, workspace), output, delta
    cdef Passage at
    if batch.order is not NULL:
        gather_rows(&part, rows_between(source, share.first, share.last, workspace), workspace)
    for index in range(top):
        at = passage_at(net, batch, index, share.first, workspace)
        meet_forward(&at, workspace, share)
        output = output_of(net, index, n, False, workspace)
        delta = output_of(net, index, n, True, workspace)
        forward_for_gradient(&at, source, output, delta, share, panel)
        source = output
    at = passage_at(net, batch, top, share.first, workspace)
    meet_forward(&at, workspace, share)
    output = output_of(net, top, n, False, workspace)
    delta = rows_between(
        output_of(net, top, n, True, workspace), share.first, share.last, workspace
    )
    forward_share(&at, activation_of(net, top), source, output, share, panel)
    losses_and_gradients_of_rows(
        &part, batch, rows_between(output, share.first, share.last, workspace),
        losses_in(net, n, workspace) + share.first, delta,
    )
    if takes_z(activation_of(net, top)):  # y has given its loss: z takes its place
        forward_share(&at, IDENTITY, source, output, share, panel)
    if activation_of(net, top) != IDENTITY:
        differentiate_rows(
            rows_between(output, share.first, share.last, workspace), delta,
            activation_of(net, top), <floating> alpha_of(net, top), delta,
        )


cdef inline Matrix known_of(
    const Network* net, Py_ssize_t index, Py_ssize_t n, floating* workspace
) noexcept nogil:
    """Return what the derivative of a layer's activation is taken from, y or z."""
    return output_of(net, index, n, takes_z(activation_of(net, index)), workspace)


cdef inline void meet_backward(
    const Passage* at, floating* workspace, const Share* share
) noexcept nogil:
    """Where a layer took statistics of the batch, wait for all δ and take their sums."""
    cdef Py_ssize_t n = at.batch.x.rows
    if kind_of(at.net, at.index) != BATCH_NORM_TRAINING:
        return
    team_barrier(share.n_threads)
    batch_sums(
        at, input_of(at.net, at.batch, at.index, workspace),
        output_of(at.net, at.index, n, True, workspace), share.thread, share.n_threads, workspace,
    )
    team_barrier(share.n_threads)


cdef void sweep_down(
    const Network* net, const Data* batch, const Share* share, floating* workspace,
    floating* panel,
) noexcept nogil:
    """Carry δ of a batch down to the first layer (BP2)."""
    cdef Py_ssize_t index, top = net.n_layers - 1, n = batch.x.rows
    cdef Matrix delta = output_of(net, top, n, True, workspace), below
    cdef Passage at
    for index in range(top, 0, -1):
        below = output_of(net, index - 1, n, True, workspace)
        at = passage_at(net, batch, index, share.first, workspace)
        meet_backward(&at, workspace, share)
        carry_share(
            &at, output_of(net, index - 1, n, False, workspace), delta,
            known_of(net, index - 1, n, workspace), below, share, panel,
        )
        delta = below


cdef void carry_share(
    const Passage* at, Matrix x, Matrix delta, Matrix y_or_z, Matrix out, const Share* share,
    floating* panel,
) noexcept nogil:
    """Carry δ of a batch below a layer: this thread's rows, or columns of what comes out."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef Matrix weight = weight_in(layer, at.net.parameters, panel)
    cdef int64_t activation = activation_of(at.net, at.index - 1)
    cdef floating alpha = <floating> alpha_of(at.net, at.index - 1)
    cdef Matrix rows = rows_between(delta, share.first, share.last, panel)
    cdef bint few = delta.rows <= DOTTED_ROWS
    cdef Share part
    if layer[KIND] != DENSE or not takes_columns(delta.rows, layer[N_IN], share.n_threads):
        carry_delta(
            at, rows_between(x, share.first, share.last, panel), rows,
            rows_between(y_or_z, share.first, share.last, panel), activation, alpha,
            rows_between(out, share.first, share.last, panel), panel, few,
        )
        return
    if few:
        clear_padding(rows, panel)
    team_barrier(share.n_threads)
    if few:
        part = share_of_units(weight.rows, LISTED_ROWS, share.thread, share.n_threads)
        backward_input_few(
            delta, rows_between(weight, part.first, part.last, panel),
            columns_between(y_or_z, part.first, part.last, panel), activation, alpha,
            columns_between(out, part.first, part.last, panel),
        )
    else:
        backward_input_tiles(
            delta, weight, y_or_z, activation, alpha, out, panel, share.thread, share.n_threads
        )
    team_barrier(share.n_threads)


cdef void sweep_share(
    const Network* net, const Data* batch, floating* workspace, int thread, int n_threads
) noexcept nogil:
    """Take this thread's share of a batch forward to the losses."""
    cdef Py_ssize_t n = batch.x.rows
    cdef floating* panels = notes_in(net, net.n_layers, n, workspace)
    cdef Share share = share_of_thread(n, thread, n_threads)
    sweep_up(net, batch, &share, workspace, panels + thread * panel_room(net, n))


cdef void sweep_team(
    const Network* net, const Data* batch, floating* workspace, int n_threads
) noexcept nogil:
    """Take a batch forward to the losses of its rows."""
    cdef Team* team
    if n_threads == 1:
        sweep_share(net, batch, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            sweep_share(net, batch, workspace, threadid(), join_team(team))


cdef void sweep_down_single(
    const Network* net, const Data* batch, const Step* step, const Share* share,
    floating* workspace,
) noexcept nogil:
    """Carry δ of one sample down (BP2) and update each layer as it passes (BP3, BP4).

    Threads take rows of W, which is all that BP2 needs for the columns of what comes out.
    """
    cdef Py_ssize_t index, first, last
    cdef Matrix delta, weight
    cdef Share part
    cdef Update to
    for index in range(net.n_layers - 1, -1, -1):
        delta = output_of(net, index, 1, True, workspace)
        to = update_of(layer_of(net, index), step, workspace)
        if index and share.first < share.last:
            clear_padding(delta, workspace)
        if share.n_threads > 1:
            team_barrier(share.n_threads)
        if index == 0:
            backward_weight_few(
                inputs_of(net, batch, workspace), delta, to, share.thread, share.n_threads,
                workspace,
            )
            return
        weight = weight_in(layer_of(net, index), net.parameters, workspace)
        part = share_of_units(weight.rows, LISTED_ROWS, share.thread, share.n_threads)
        first, last = part.first, part.last
        to.weight = rows_between(to.weight, first, last, workspace)
        to.weight_state = <floating*> to.weight_state + first * to.weight.stride
        to.bias.rows = share.thread == 0 and to.bias.rows
        backward_single(
            columns_between(output_of(net, index - 1, 1, False, workspace), first, last, workspace),
            delta, to, rows_between(weight, first, last, workspace),
            columns_between(known_of(net, index - 1, 1, workspace), first, last, workspace),
            activation_of(net, index - 1), <floating> alpha_of(net, index - 1),
            columns_between(output_of(net, index - 1, 1, True, workspace), first, last, workspace),
        )


cdef inline Update update_of(
    const int64_t* layer, const Step* step, floating* kind
) noexcept nogil:
    """Describe what becomes of the gradient of a layer."""
    cdef Update to
    to.weight = weight_in(layer, step.parameters, kind)
    to.bias = bias_in(layer, step.parameters, kind)
    to.bias.rows = layer[BIASES] > 0
    to.weight_state = <floating*> step.state + layer[WEIGHT]
    to.bias_state = <floating*> step.state + layer[BIAS]
    to.slot, to.optimizer, to.coefficients = step.slot, step.optimizer, step.coefficients
    to.averages, to.average, to.averaging = step.averages, step.average, step.averaging
    return to


cdef void update_layers(
    const Network* net, const Data* batch, const Step* step, floating* workspace,
    void* panels, Py_ssize_t room, int thread, int n_threads,
) noexcept nogil:
    """Update this thread's tiles of all weights and biases (BP3, BP4)."""
    cdef Py_ssize_t index, n = batch.x.rows
    cdef Matrix source = inputs_of(net, batch, workspace), delta
    cdef Update to
    cdef Passage at
    for index in range(net.n_layers):
        to = update_of(layer_of(net, index), step, workspace)
        delta = output_of(net, index, n, True, workspace)
        if kind_of(net, index) != DENSE:
            at = passage_at(net, batch, index, 0, workspace)
            update_units(&at, source, delta, &to, thread, n_threads, workspace)
        elif n > SWEPT_ROWS or n == 0:
            backward_weight_tiles(
                source, delta, to, panels, room, thread, n_threads, workspace
            )
        else:
            backward_weight_few(source, delta, to, thread, n_threads, workspace)
        source = output_of(net, index, n, False, workspace)


cdef inline Step storing_step(void* grad) noexcept nogil:
    """Describe the step that stores the gradient in an arena."""
    cdef Step step
    step.parameters = step.state = grad
    step.slot, step.optimizer, step.coefficients = 0, STORE, NULL
    step.averages, step.average, step.averaging = False, 0, 0
    step.grad = NULL
    step.mean = NULL
    step.clip_value = step.clip_norm = INFINITY
    step.workspace_size = 0
    return step


# The rows of every layer, the bias being its last one, are cut into NORM_PARTS parts, whatever
# the number of threads. A thread clips and then applies the gradient in its own parts.

cdef inline Py_ssize_t parameter_rows(const int64_t* layer) noexcept nogil:
    """Return the rows of a layer's weight and bias, which follow each other."""
    return layer[WEIGHT_ROWS] + (layer[BIASES] > 0)


cdef inline Py_ssize_t row_of_part(const int64_t* layer, Py_ssize_t part) noexcept nogil:
    return parameter_rows(layer) * part // NORM_PARTS


cdef double square_of_part(
    const Network* net, floating* grad, Py_ssize_t part, floating clip_value
) noexcept nogil:
    """Limit the entries of a part of the gradient and return the square of its norm."""
    cdef Py_ssize_t index, row
    cdef const int64_t* layer
    cdef double total = 0
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        for row in range(row_of_part(layer, part), row_of_part(layer, part + 1)):
            total += clip_row(
                grad + layer[WEIGHT] + row * layer[STRIDE], layer[WEIGHT_COLUMNS], clip_value
            )
    return total


cdef void update_parts(
    const Network* net, const Step* step, Py_ssize_t first, Py_ssize_t last, floating scale
) noexcept nogil:
    """Scale some parts of the stored gradient and update their weights and biases."""
    cdef Py_ssize_t index, begin, rows, row, at, j, columns
    cdef const int64_t* layer
    cdef floating* grad
    cdef Update to
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        to = update_of(layer, step, &scale)
        begin, columns = row_of_part(layer, first), layer[WEIGHT_COLUMNS]
        rows = row_of_part(layer, last) - begin
        grad = <floating*> step.grad + layer[WEIGHT] + begin * layer[STRIDE]
        for row in range(rows if scale != 1 else 0):
            for j in range(columns):
                grad[row * layer[STRIDE] + j] *= scale
        if layer[STRIDE] == whole_vectors(columns, grad):
            update_rows(&to, to.weight, to.weight_state, begin, 0, grad, rows, columns)
            continue
        for row in range(rows):
            at = row * layer[STRIDE]
            update_rows(
                &to, to.weight, to.weight_state, begin + row, 0, grad + at, 1, columns
            )


cdef void update_clipped(
    const Network* net, const Step* step, floating* panel, const Share* own
) noexcept nogil:
    """Clip the stored gradient, and update with it what a thread's own of NORM_PARTS hold.

    The panel, of which all threads need the same, has room for NORM_PARTS numbers of 8 bytes.
    """
    cdef double* squares = <double*> panel
    cdef Py_ssize_t part
    cdef floating limit = <floating> step.clip_value, scale = 1
    cdef double norm, total = 0
    for part in range(own.first, own.last):
        penalize_part(net, part, <floating*> step.grad)
        squares[part] = square_of_part(net, <floating*> step.grad, part, limit)
    team_barrier(own.n_threads)
    for part in range(NORM_PARTS):
        total += squares[part]
    norm = sqrt(total)
    if norm > step.clip_norm:
        scale = <floating> (step.clip_norm / norm)
    update_parts(net, step, own.first, own.last, scale)


# The batch of a narrow network goes in parts, and so does one that is large against the network,
# whatever the number of threads. A thread takes blocks of a part's samples through all layers and
# back while they are in its cache, and adds what they give to the part's gradient. The sums of the
# parts are added in one order, each thread's share of the weights by that thread.

cdef inline Py_ssize_t arena_size(const Network* net) noexcept nogil:
    cdef const int64_t* layer = layer_of(net, net.n_layers - 1)
    return layer[WEIGHT] + parameter_rows(layer) * layer[STRIDE]


cdef inline bint is_narrow(const Network* net) noexcept nogil:
    cdef Py_ssize_t index
    for index in range(net.n_layers):
        if max(layer_of(net, index)[N_IN], layer_of(net, index)[N_OUT]) > NARROW:
            return False
    return True


cdef inline Py_ssize_t parts_of(const Network* net, Py_ssize_t n, floating* kind) noexcept nogil:
    """Return the parts of a batch, or 0 where it is taken as a whole, layer by layer.

    Gradients of parts must fit into half of what outputs take, unless the network is narrow.
    """
    cdef Py_ssize_t parts
    if n < ROW_MULTIPLE or not net.is_dense or net.is_penalized:
        return 0
    if is_narrow(net):
        return max(1, min(n // NARROW_PART_ROWS, MOST_PARTS))
    parts = min(n // PART_ROWS, MOST_PARTS)
    if parts < LEAST_PARTS:
        return 0
    return parts if 2 * parts * arena_size(net) <= n * (losses_in(net, 1, kind) - kind) else 0


cdef void add_gradients(
    const Network* net, const floating* grads, Py_ssize_t n_parts, Py_ssize_t first,
    Py_ssize_t last, floating* out,
) noexcept nogil:
    """Add the gradients of the batch's parts, in some of the NORM_PARTS of the weights.

    `out` may be the first of them.
    """
    cdef Py_ssize_t index, row, at, j, summand, size = arena_size(net)
    cdef const int64_t* layer
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        for row in range(row_of_part(layer, first), row_of_part(layer, last)):
            at = layer[WEIGHT] + row * layer[STRIDE]
            if out != grads:
                copy_row(grads + at, layer[WEIGHT_COLUMNS], out + at)
            for summand in range(1, n_parts):
                for j in range(at, at + layer[WEIGHT_COLUMNS]):
                    out[j] += grads[summand * size + j]


cdef void train_step_in_parts(
    const Network* net, const Data* batch, const Step* step, Py_ssize_t parts,
    floating* workspace, int thread, int n_threads,
) noexcept nogil:
    """Run this thread's part of one step; the workspace holds losses, gradients and blocks."""
    cdef Py_ssize_t part, n = batch.x.rows, size = arena_size(net)
    cdef floating* grads = workspace + ceil_divide(n, ROW_MULTIPLE) * ROW_MULTIPLE
    cdef floating* blocks = grads + parts * size
    cdef Py_ssize_t room = step.workspace_size - (blocks - workspace)
    cdef Py_ssize_t block = block_room(net, min(n, LANE_SAMPLES), blocks)
    cdef int workers = <int> min(n_threads, room // block)
    cdef Step summed = step[0]
    cdef Share own = share_of_thread(NORM_PARTS, thread, n_threads), some, share
    if thread < workers:
        some = share_of_thread(parts, thread, workers)
        for part in range(some.first, some.last):
            share = share_of_units(n, ROW_MULTIPLE, <int> part, <int> parts)
            gradient_in_lanes(
                net, batch, &share, grads + part * size, workspace, blocks + thread * block
            )
    team_barrier(n_threads)
    if step.grad is NULL:
        summed.grad = grads
    if parts > 1 or summed.grad != grads:
        add_gradients(net, grads, parts, own.first, own.last, <floating*> summed.grad)
    if step.grad is NULL:
        update_parts(net, &summed, own.first, own.last, <floating> 1)
    else:
        update_clipped(net, step, blocks, &own)


cdef void train_step_in_layers(
    const Network* net, const Data* batch, const Step* step, floating* workspace, int thread,
    int n_threads,
) noexcept nogil:
    """Run this thread's part of one step, in which each layer is updated as a whole."""
    cdef Py_ssize_t n = batch.x.rows, part
    cdef Share share = share_of_thread(n, thread, n_threads)
    cdef floating* panels = notes_in(net, net.n_layers, n, workspace)
    cdef Py_ssize_t room = (step.workspace_size - (panels - workspace)) // n_threads
    room -= room % ROW_MULTIPLE
    cdef floating* panel = panels + thread * room
    cdef bint single = n == 1 and step.grad is NULL and net.is_dense
    cdef Share own
    cdef Step storing
    sweep_up(net, batch, &share, workspace, panel)
    if single:
        sweep_down_single(net, batch, step, &share, workspace)
    else:
        sweep_down(net, batch, &share, workspace, panel)
    team_barrier(n_threads)
    if step.grad is not NULL:
        storing = storing_step(step.grad)
        update_layers(net, batch, &storing, workspace, panels, room, thread, n_threads)
        team_barrier(n_threads)
        own = share_of_thread(NORM_PARTS, thread, n_threads)
        update_clipped(net, step, panels, &own)
    elif not single:
        update_layers(net, batch, step, workspace, panels, room, thread, n_threads)
    if net.is_penalized and step.optimizer == STORE:
        team_barrier(n_threads)
        own = share_of_thread(NORM_PARTS, thread, n_threads)
        for part in range(own.first, own.last):
            penalize_part(net, part, <floating*> step.parameters)


cdef void train_step(
    const Network* net, const Data* batch, const Step* step, floating* workspace, int thread,
    int n_threads,
) noexcept nogil:
    """Run this thread's part of one step."""
    cdef Py_ssize_t parts = parts_of(net, batch.x.rows, workspace)
    cdef floating* losses = workspace
    cdef double added = penalty(net, workspace) if thread == 0 else 0  # before weights change
    if parts:
        train_step_in_parts(net, batch, step, parts, workspace, thread, n_threads)
    else:
        losses = losses_in(net, batch.x.rows, workspace)
        train_step_in_layers(net, batch, step, workspace, thread, n_threads)
    if thread == 0:
        step.mean[0] = added + mean_loss(batch, losses)
    team_barrier(n_threads)


cdef inline Data batch_at(
    const Data* data, Py_ssize_t start, Py_ssize_t n, floating* kind
) noexcept nogil:
    """Describe the samples of a step: where they lie if they follow each other, else by order."""
    cdef Data batch = data[0]
    cdef Py_ssize_t row = 1
    batch.order += start
    while row < n and batch.order[row] == batch.order[0] + row:
        row += 1
    if row < n:
        batch.x.rows = n
        return batch
    batch.order = NULL
    return part_of(&batch, data.order[start], data.order[start] + n, kind)


cdef void train_steps(
    const Network* net, const Data* data, const Step* to, const Run* run, floating* workspace,
    int thread, int n_threads,
) noexcept nogil:
    """Run this thread's part of all steps."""
    cdef floating coefficients[MAX_COEFFICIENTS]
    cdef Data batch
    cdef Step step = to[0]
    cdef Py_ssize_t index, start, j
    step.coefficients = coefficients
    for index in range(ceil_divide(run.n_visits, run.batch_size)):
        start = index * run.batch_size
        batch = batch_at(data, start, min(run.batch_size, run.n_visits - start), workspace)
        batch.share, batch.visit = share_of_one(&batch, workspace), index
        for j in range(run.n_coefficients):
            coefficients[j] = <floating> run.coefficients[index * run.n_coefficients + j]
        if step.averages:
            step.averaging = run.averaging[index]
        step.mean = run.means + index
        train_step(net, &batch, &step, workspace, thread, n_threads)


cdef void step_team(
    const Network* net, const Data* data, const Step* step, floating* workspace, int n_threads
) noexcept nogil:
    """Run one step."""
    cdef Team* team
    if n_threads == 1:
        train_step(net, data, step, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            train_step(net, data, step, workspace, threadid(), join_team(team))


cdef void train_team(
    const Network* net, const Data* data, const Step* step, const Run* run, floating* workspace,
    int n_threads,
) noexcept nogil:
    """Run all steps."""
    cdef Team* team
    if n_threads == 1:
        train_steps(net, data, step, run, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            train_steps(net, data, step, run, workspace, threadid(), join_team(team))
