# Other derivatives than the gradient, on the same passes: each thread takes its rows forward,
# through the loss and δ back down with sweep_rows, and goes on from what that leaves in the
# training workspace.

cdef inline Py_ssize_t panel_room(const Network* net, Py_ssize_t n) noexcept nogil:
    """Return the elements that a thread packs into: a panel as deep as any contraction."""
    cdef Py_ssize_t index
    for index in range(net.n_layers):
        n = max(n, max(layer_of(net, index)[N_IN], layer_of(net, index)[N_OUT]))
    return n * PANEL_ROOM


cdef inline floating* panel_of_thread(
    const Network* net, Py_ssize_t n, floating* workspace, int thread
) noexcept nogil:
    """Return the place behind the losses where a thread packs its panels."""
    return notes_in(net, net.n_layers, n, workspace) + thread * panel_room(net, n)


cdef inline void sweep_rows(
    const Network* net, const Data* batch, Py_ssize_t first, Py_ssize_t last,
    floating* workspace, floating* panel,
) noexcept nogil:
    """Take rows forward through all layers, to their losses, and their δ back down."""
    cdef Share share = only_rows(first, last)
    sweep_up(net, batch, &share, workspace, panel)
    sweep_down(net, batch, &share, workspace, panel)


# --- ∂L/∂x --------------------------------------------------------------------------------

cdef void input_gradient(
    const Network* net, const Data* batch, Matrix out, floating* workspace, int thread,
    int n_threads,
) noexcept nogil:
    """Compute this thread's rows of ∂L/∂x."""
    cdef Py_ssize_t n = batch.x.rows
    cdef Py_ssize_t first = n * thread // n_threads, last = n * (thread + 1) // n_threads
    cdef floating* panel = panel_of_thread(net, n, workspace, thread)
    if first == last:
        return
    sweep_rows(net, batch, first, last, workspace, panel)
    cdef Matrix x = rows_between(batch.x, first, last, workspace)
    cdef Passage at = passage_at(net, batch, 0, first, workspace)
    carry_delta(  # no activation made the inputs
        &at, x, rows_between(output_of(net, 0, n, True, workspace), first, last, workspace), x,
        IDENTITY, <floating> 0, rows_between(out, first, last, workspace), panel,
        n <= DOTTED_ROWS,
    )


cdef double input_gradient_team(
    const Network* net, const Data* batch, Matrix out, floating* workspace, int n_threads
) noexcept nogil:
    """Compute ∂L/∂x and return the mean loss."""
    cdef Team* team
    if n_threads == 1:
        input_gradient(net, batch, out, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            input_gradient(net, batch, out, workspace, threadid(), join_team(team))
    return penalty(net, workspace) + mean_loss(batch, losses_in(net, batch.x.rows, workspace))


def network_input_gradient(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Return the mean loss of a batch and store its derivative by the inputs: δ¹·weightᵀ."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix sink = writable(out, x)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    cdef double mean
    with nogil:
        if single:
            mean = input_gradient_team(&net, &data, sink, <float*> scratch, n_threads)
        else:
            mean = input_gradient_team(&net, &data, sink, <double*> scratch, n_threads)
    return mean


# --- ∂o/∂x ---------------------------------------------------------------------------------

cdef void differentiate_repeated(
    Matrix y_or_z, Py_ssize_t repeats, int64_t activation, floating alpha, Matrix delta
) noexcept nogil:
    """Multiply by σ' in place where each row of y or z belongs to several rows of delta."""
    cdef Py_ssize_t row
    cdef floating* grad
    for row in range(delta.rows):
        grad = <floating*> delta.data + row * delta.stride
        apply_derivative(
            <const floating*> y_or_z.data + row // repeats * y_or_z.stride, y_or_z.columns,
            activation, alpha, grad,
        )


cdef void unit_rows(Matrix out, floating* kind) noexcept nogil:
    """Store the rows of the identity, again and again."""
    cdef Py_ssize_t row, j
    cdef floating* sink
    for row in range(out.rows):
        sink = <floating*> out.data + row * out.stride
        for j in range(out.columns):
            sink[j] = 0
        sink[row % out.columns] = 1


cdef Matrix forward_keeping_z(
    const Network* net, Py_ssize_t index, Matrix x, Matrix y_or_z, floating* buffer,
    floating* panel, bint few,
) noexcept nogil:
    """Run a layer, keep what its σ' takes, and return y, in the buffer where z is kept."""
    cdef int64_t activation = activation_of(net, index)
    cdef Matrix y = y_or_z
    cdef Passage at = passage_at(net, NULL, index, 0, panel)
    if takes_z(activation):
        y.data = buffer
        forward_layer(&at, IDENTITY, x, y_or_z, panel, few)
        activate_rows(y_or_z, activation, <floating> alpha_of(net, index), y)
    else:
        forward_layer(&at, activation, x, y, panel, few)
    return y


cdef void jacobian_block(
    const Network* net, Matrix x, Matrix out, floating* workspace, Py_ssize_t buffer_size,
    floating* panel,
) noexcept nogil:
    """Differentiate every output by every input, for some samples.

    The workspace holds what σ' of every layer takes, y or z, then two matrices that take
    turns.
    """
    cdef Py_ssize_t n = x.rows, top = net.n_layers - 1, index, columns
    cdef Py_ssize_t n_out = layer_of(net, top)[N_OUT]
    cdef floating* buffers = workspace + outputs_size(net, net.n_layers, n, workspace)
    cdef Matrix source = x, y, delta, below
    for index in range(net.n_layers):
        columns = layer_of(net, index)[N_OUT]
        y = matrix_at(
            workspace, outputs_size(net, index, n, workspace), n, columns,
            padded(columns, workspace), workspace,
        )
        source = forward_keeping_z(
            net, index, source, y, buffers + index % 2 * buffer_size, panel, n <= WIDE_TILE_ROWS
        )
    delta = matrix_at(buffers, 0, n * n_out, n_out, padded(n_out, workspace), workspace)
    unit_rows(delta, workspace)
    for index in range(top, -1, -1):
        columns = layer_of(net, index)[N_OUT]
        y = matrix_at(
            workspace, outputs_size(net, index, n, workspace), n, columns,
            padded(columns, workspace), workspace,
        )
        differentiate_repeated(
            y, n_out, layer_of(net, index)[ACTIVATION], <floating> alpha_of(net, index), delta
        )
        below = out
        if index:
            columns = layer_of(net, index)[N_IN]
            below = matrix_at(
                buffers, (top - index + 1) % 2 * buffer_size, n * n_out, columns,
                padded(columns, workspace), workspace,
            )
        backward_input_tiles(
            delta, weight_in(layer_of(net, index), net.parameters, panel), below, IDENTITY,
            <floating> 0, below, panel, 0, 1,
        )
        delta = below


cdef void jacobian_blocks(
    const Network* net, Matrix x, Matrix out, floating* workspace, int thread, int n_threads
) noexcept nogil:
    """Differentiate this thread's blocks of samples."""
    cdef Py_ssize_t n_out = layer_of(net, net.n_layers - 1)[N_OUT], widest = 0, index
    cdef Py_ssize_t size = min(x.rows, max(1, ROW_BLOCK // n_out)), block, first, last
    cdef Py_ssize_t buffer_size, outputs = outputs_size(net, net.n_layers, size, workspace)
    for index in range(net.n_layers):
        widest = max(widest, padded(layer_of(net, index)[N_OUT], workspace))
    buffer_size = size * n_out * widest
    workspace += thread * (outputs + 2 * buffer_size + panel_room(net, 0))
    cdef Py_ssize_t n_blocks = ceil_divide(x.rows, max(size, 1))
    for block in range(n_blocks * thread // n_threads, n_blocks * (thread + 1) // n_threads):
        first, last = block * size, min(x.rows, (block + 1) * size)
        jacobian_block(
            net, rows_between(x, first, last, workspace),
            rows_between(out, first * n_out, last * n_out, workspace), workspace, buffer_size,
            workspace + outputs + 2 * buffer_size,
        )


cdef void jacobian_team(
    const Network* net, Matrix x, Matrix out, floating* workspace, int n_threads
) noexcept nogil:
    """Differentiate all samples."""
    cdef Team* team
    if n_threads == 1:
        jacobian_blocks(net, x, out, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            jacobian_blocks(net, x, out, workspace, threadid(), join_team(team))


def network_jacobian(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Differentiate every output by every input: ∂oⱼ/∂xₖ of each sample."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Matrix source = matrix_of(x, x), sink = writable(out, x)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    with nogil:
        if single:
            jacobian_team(&net, source, sink, <float*> scratch, n_threads)
        else:
            jacobian_team(&net, source, sink, <double*> scratch, n_threads)


# --- ∂Lᵢ/∂θ of each sample, and its norm ---------------------------------------------------

cdef void sample_gradients(
    const Network* net, const Data* batch, Matrix out, Matrix scratch, int thread,
    int n_threads, floating* kind,
) noexcept nogil:
    """Store the gradients of this thread's samples, each a batch of its own."""
    cdef Py_ssize_t n = batch.x.rows, row
    cdef Py_ssize_t share = scratch.columns // (n_threads * ROW_MULTIPLE) * ROW_MULTIPLE
    cdef floating* workspace = <floating*> scratch.data + thread * share
    cdef floating* panel = panel_of_thread(net, 1, workspace, 0)
    cdef Share alone = only_rows(0, 1)
    cdef Data one
    cdef Step step
    for row in range(n * thread // n_threads, n * (thread + 1) // n_threads):
        one = part_of(batch, row, row + 1, kind)
        step = storing_step(<floating*> out.data + row * out.stride)
        sweep_up(net, &one, &alone, workspace, panel)
        if net.is_dense:
            sweep_down_single(net, &one, &step, &alone, workspace)
        else:
            sweep_down(net, &one, &alone, workspace, panel)
            update_layers(net, &one, &step, workspace, panel, 0, 0, 1)


cdef void sample_gradients_team(
    const Network* net, const Data* batch, Matrix out, Matrix scratch, int n_threads,
    floating* kind,
) noexcept nogil:
    """Store the gradients of all samples."""
    cdef Team* team
    if n_threads == 1:
        sample_gradients(net, batch, out, scratch, 0, 1, kind)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            sample_gradients(net, batch, out, scratch, threadid(), join_team(team), kind)


def network_sample_gradients(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Store the gradient of each sample's own loss, ∂Lᵢ/∂θ."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, None, loss, loss_parameters)
    cdef Matrix sink = writable(out, x), scratch = writable(workspace, x)
    cdef bint single = is_single(x)
    data.share = 1
    with nogil:
        if single:
            sample_gradients_team(&net, &data, sink, scratch, n_threads, FLOATS)
        else:
            sample_gradients_team(&net, &data, sink, scratch, n_threads, DOUBLES)


cdef inline floating squared_norm(
    const int64_t* layer, Matrix a, Matrix delta, Py_ssize_t row, floating* kind
) noexcept nogil:
    """Return the square of a layer's part of the norm of a sample's gradient, ‖δ‖² (‖a‖² + 1)."""
    cdef const floating* x = <const floating*> a.data + row * a.stride
    cdef const floating* d = <const floating*> delta.data + row * delta.stride
    return dot(d, d, layer[N_OUT]) * (dot(x, x, layer[N_IN]) + (layer[BIASES] > 0))


cdef void gradient_norms(
    const Network* net, const Data* batch, floating* out, floating* workspace, int thread,
    int n_threads,
) noexcept nogil:
    """Compute ‖∂L/∂θ‖ of this thread's samples."""
    cdef Py_ssize_t n = batch.x.rows, row, index
    cdef Py_ssize_t first = n * thread // n_threads, last = n * (thread + 1) // n_threads
    cdef Matrix source
    cdef floating squares
    if first == last:
        return
    sweep_rows(net, batch, first, last, workspace, panel_of_thread(net, n, workspace, thread))
    for row in range(first, last):
        source, squares = batch.x, 0
        for index in range(net.n_layers):
            squares += squared_norm(
                layer_of(net, index), source, output_of(net, index, n, True, workspace), row,
                workspace,
            )
            source = output_of(net, index, n, False, workspace)
        out[row] = sqrt(squares)


cdef void gradient_norms_team(
    const Network* net, const Data* batch, floating* out, floating* workspace, int n_threads
) noexcept nogil:
    """Compute the norms of all samples' gradients."""
    cdef Team* team
    if n_threads == 1:
        gradient_norms(net, batch, out, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            gradient_norms(net, batch, out, workspace, threadid(), join_team(team))


def network_gradient_norms(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Compute the norm of the gradient of each sample's own loss, without the gradient."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, None, loss, loss_parameters)
    cdef void* sink = writable(out, x).data
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    data.share = 1
    with nogil:
        if single:
            gradient_norms_team(&net, &data, <float*> sink, <float*> scratch, n_threads)
        else:
            gradient_norms_team(&net, &data, <double*> sink, <double*> scratch, n_threads)


# --- The factors of ∂L/∂θ -------------------------------------------------------------------

cdef inline void copy_rows(
    Matrix source, Py_ssize_t first, Py_ssize_t last, Matrix out, floating* kind
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(first, last):
        copy_row(
            <const floating*> source.data + row * source.stride, source.columns,
            <floating*> out.data + row * out.stride,
        )


cdef void factors(
    const Network* net, const Data* batch, Matrix inputs, Matrix deltas, floating* workspace,
    int thread, int n_threads,
) noexcept nogil:
    """Store a and δ of this thread's samples, layer beside layer."""
    cdef Py_ssize_t n = batch.x.rows, index
    cdef Py_ssize_t first = n * thread // n_threads, last = n * (thread + 1) // n_threads
    cdef Matrix source = batch.x
    if first == last:
        return
    sweep_rows(net, batch, first, last, workspace, panel_of_thread(net, n, workspace, thread))
    for index in range(net.n_layers):
        copy_rows(source, first, last, inputs, workspace)
        copy_rows(output_of(net, index, n, True, workspace), first, last, deltas, workspace)
        inputs.data = <floating*> inputs.data + layer_of(net, index)[N_IN]
        deltas.data = <floating*> deltas.data + layer_of(net, index)[N_OUT]
        source = output_of(net, index, n, False, workspace)


cdef double factors_team(
    const Network* net, const Data* batch, Matrix inputs, Matrix deltas, floating* workspace,
    int n_threads,
) noexcept nogil:
    """Store a and δ of all samples and return their mean loss."""
    cdef Team* team
    if n_threads == 1:
        factors(net, batch, inputs, deltas, workspace, 0, 1)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            factors(net, batch, inputs, deltas, workspace, threadid(), join_team(team))
    return mean_loss(batch, losses_in(net, batch.x.rows, workspace))


def network_factors(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray inputs,
    cnp.ndarray deltas,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Return the mean loss of a batch and store the factors of its gradient, a and δ."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix a = writable(inputs, x), delta = writable(deltas, x)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    cdef double mean
    with nogil:
        if single:
            mean = factors_team(&net, &data, a, delta, <float*> scratch, n_threads)
        else:
            mean = factors_team(&net, &data, a, delta, <double*> scratch, n_threads)
    return mean


cdef void norms_of_factors(
    const int64_t* table, Py_ssize_t n_layers, Matrix inputs, Matrix deltas, floating* out
) noexcept nogil:
    """Compute the norm of each sample's part of a gradient."""
    cdef Py_ssize_t row, index
    cdef const int64_t* layer
    cdef Matrix a, delta
    cdef floating squares
    for row in range(inputs.rows):
        a, delta, squares = inputs, deltas, 0
        for index in range(n_layers):
            layer = table + index * LAYER_COLUMNS
            squares += squared_norm(layer, a, delta, row, out)
            a.data = <floating*> a.data + layer[N_IN]
            delta.data = <floating*> delta.data + layer[N_OUT]
        out[row] = sqrt(squares)


def factor_norms(cnp.ndarray layers, cnp.ndarray inputs, cnp.ndarray deltas, cnp.ndarray out):
    """Compute the norm of each sample's part of a gradient from its factors."""
    cdef const int64_t* table = <const int64_t*> contiguous(layers, cnp.NPY_INT64)
    cdef Py_ssize_t n_layers = cnp.PyArray_DIM(layers, 0)
    cdef Matrix a = matrix_of(inputs, inputs), delta = matrix_of(deltas, inputs)
    cdef void* sink = writable(out, inputs).data
    cdef bint single = is_single(inputs)
    with nogil:
        if single:
            norms_of_factors(table, n_layers, a, delta, <float*> sink)
        else:
            norms_of_factors(table, n_layers, a, delta, <double*> sink)


# --- Finite differences that compute again only what a weight changes ----------------------
# The training workspace holds z of every layer where training has δ.

cdef void affine_layer(
    const int64_t* layer, void* arena, Matrix x, Matrix out, floating* panel, bint few
) noexcept nogil:
    """Compute z = xW + b, with W and b of any arena."""
    cdef Matrix weight = weight_in(layer, arena, panel), bias = bias_in(layer, arena, panel)
    if few:
        forward_few(x, weight, bias, IDENTITY, <floating> 0, out)
    else:
        forward_tiles(x, weight, bias, IDENTITY, <floating> 0, out, panel, 0, 1)


cdef void store_passes(
    const Network* net, const Data* batch, floating* workspace, floating* panel
) noexcept nogil:
    """Store z and a of every layer."""
    cdef Py_ssize_t n = batch.x.rows, index
    cdef Matrix source = batch.x, z, a
    for index in range(net.n_layers):
        z = output_of(net, index, n, True, workspace)
        a = output_of(net, index, n, False, workspace)
        affine_layer(layer_of(net, index), net.parameters, source, z, panel, n <= WIDE_TILE_ROWS)
        activate_rows(z, layer_of(net, index)[ACTIVATION], <floating> alpha_of(net, index), a)
        source = a


cdef struct Move:  # of a weight or bias, as its unit sees it
    Py_ssize_t layer
    Py_ssize_t unit
    Py_ssize_t source  # which input the weight is for; n_in for the bias


cdef inline Move move_of(const Network* net, int64_t place) noexcept nogil:
    """Find the layer, the unit and the input of an element of the arena."""
    cdef Move move
    cdef const int64_t* layer
    move.layer = 0
    while move.layer + 1 < net.n_layers and layer_of(net, move.layer + 1)[WEIGHT] <= place:
        move.layer += 1
    layer = layer_of(net, move.layer)
    move.source = (place - layer[WEIGHT]) // layer[STRIDE]
    move.unit = (place - layer[WEIGHT]) % layer[STRIDE]
    return move


cdef void moved_unit(
    const Network* net, const Data* batch, Move move, floating change, Py_ssize_t first,
    Py_ssize_t last, floating* workspace, floating* a,
) noexcept nogil:
    """Compute a of the unit whose weight has changed, for some samples; z if σ takes rows."""
    cdef Py_ssize_t n = batch.x.rows, row
    cdef const int64_t* layer = layer_of(net, move.layer)
    cdef Matrix z = output_of(net, move.layer, n, True, workspace), x = batch.x
    cdef const floating* source
    if move.layer:
        x = output_of(net, move.layer - 1, n, False, workspace)
    for row in range(first, last):
        source = <const floating*> x.data + row * x.stride
        a[row - first] = (<const floating*> z.data)[row * z.stride + move.unit]
        a[row - first] += change * (source[move.source] if move.source < x.columns else 1)
    activate(
        a, last - first, part_in_tiles(layer[ACTIVATION]), <floating> alpha_of(net, move.layer), a
    )


cdef Matrix moved_layer_above(
    const Network* net, const Data* batch, Move move, const floating* a, Py_ssize_t first,
    Py_ssize_t last, floating* workspace, floating* buffer,
) noexcept nogil:
    """Compute the first whole layer that a unit's new a changes, from its old z.

    That is the layer above, or the unit's own where it is the last.
    """
    cdef Py_ssize_t n = batch.x.rows, row, j, top = net.n_layers - 1
    cdef Py_ssize_t index = min(move.layer + 1, top)
    cdef const int64_t* layer = layer_of(net, index)
    cdef Matrix old = output_of(net, move.layer, n, False, workspace), z
    cdef Matrix out = matrix_at(
        buffer, 0, last - first, layer[N_OUT], padded(layer[N_OUT], buffer), buffer
    )
    cdef const floating* weight = <const floating*> net.parameters + layer[WEIGHT]
    cdef const floating* source
    cdef floating* sink
    cdef floating change
    cdef bint takes_rows = part_in_tiles(layer[ACTIVATION]) != layer[ACTIVATION]
    z = output_of(net, index, n, move.layer != top or takes_rows, workspace)
    for row in range(first, last):
        source = <const floating*> z.data + row * z.stride
        sink = buffer + (row - first) * out.stride
        if move.layer == top:
            for j in range(out.columns):
                sink[j] = source[j]
            sink[move.unit] = a[row - first]
            if takes_rows:
                activate(sink, out.columns, layer[ACTIVATION], <floating> 0, sink)
            continue
        change = a[row - first] - (<const floating*> old.data)[row * old.stride + move.unit]
        for j in range(out.columns):
            sink[j] = source[j] + change * weight[move.unit * layer[STRIDE] + j]
        activate(sink, out.columns, layer[ACTIVATION], <floating> alpha_of(net, index), sink)
    return out


cdef double moved_loss(
    const Network* net, const Data* batch, Move move, floating change, floating* workspace
) noexcept nogil:
    """Return the mean loss where one weight has changed."""
    cdef floating a[ROW_BLOCK]
    cdef Py_ssize_t n = batch.x.rows, block, first, last, index, columns, widest = 0
    cdef floating* losses = losses_in(net, n, workspace)
    cdef floating* buffers = panel_of_thread(net, n, workspace, 0)
    cdef Matrix source, sink
    cdef Data part
    cdef Passage at
    for index in range(net.n_layers):
        widest = max(widest, layer_of(net, index)[N_OUT])
    cdef Py_ssize_t buffer_size = min(n, ROW_BLOCK) * padded(widest, workspace)
    for block in range(ceil_divide(n, ROW_BLOCK)):
        first, last = block * ROW_BLOCK, min(n, (block + 1) * ROW_BLOCK)
        moved_unit(net, batch, move, change, first, last, workspace, a)
        source = moved_layer_above(net, batch, move, a, first, last, workspace, buffers)
        for index in range(move.layer + 2, net.n_layers):
            columns = layer_of(net, index)[N_OUT]
            sink = matrix_at(
                buffers, (index - move.layer + 1) % 2 * buffer_size, last - first, columns,
                padded(columns, workspace), workspace,
            )
            at = passage_at(net, NULL, index, first, workspace)
            forward_layer(
                &at, activation_of(net, index), source, sink, buffers + 2 * buffer_size,
                n <= WIDE_TILE_ROWS,
            )
            source = sink
        part = part_of(batch, first, last, workspace)
        losses_of_rows(&part, source, losses + first)
    return mean_loss(batch, losses)


cdef void fair_difference_gradient(
    const Network* net,
    const Data* batch,
    const int64_t* indices,
    const floating* steps,
    Py_ssize_t n,
    bint central,
    double* out,
    floating* workspace,
) noexcept nogil:
    """Move each parameter as its unit sees it, and see what the loss does."""
    cdef Py_ssize_t position
    cdef floating here, above, below
    cdef double loss_above, loss_below, loss_here = 0
    cdef Matrix output = output_of(net, net.n_layers - 1, batch.x.rows, False, workspace)
    cdef Move move
    store_passes(net, batch, workspace, panel_of_thread(net, batch.x.rows, workspace, 0))
    if not central:
        losses_of_rows(batch, output, losses_in(net, batch.x.rows, workspace))
        loss_here = mean_loss(batch, losses_in(net, batch.x.rows, workspace))
    for position in range(n):
        move = move_of(net, indices[position])
        here = (<const floating*> net.parameters)[indices[position]]
        above, below, loss_below = here + steps[position], here, loss_here
        loss_above = moved_loss(net, batch, move, above - here, workspace)
        if central:
            below = here - steps[position]
            loss_below = moved_loss(net, batch, move, below - here, workspace)
        out[position] = (loss_above - loss_below) / (<double> above - <double> below)


def network_fair_difference_gradient(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray indices,
    cnp.ndarray steps,
    bint central,
    cnp.ndarray out,
    cnp.ndarray workspace,
):
    """Estimate ∂L/∂θ by finite differences, computing again only what a weight changes."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef const int64_t* elements = <const int64_t*> contiguous(indices, cnp.NPY_INT64)
    cdef Matrix h = matrix_of(steps, x)
    cdef double* estimates = <double*> contiguous(out, cnp.NPY_FLOAT64, True)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    with nogil:
        if single:
            fair_difference_gradient(
                &net, &data, elements, <float*> h.data, h.columns, central, estimates,
                <float*> scratch,
            )
        else:
            fair_difference_gradient(
                &net, &data, elements, <double*> h.data, h.columns, central, estimates,
                <double*> scratch,
            )


# --- Hessian times vector ------------------------------------------------------------------
# R{f} is the derivative of f along the vector. The workspace holds, in this order: R{z},
# R{a}, R{δ} and z of every layer; ∂L/∂a and R{∂L/∂a} of one layer; a row of zeros and one
# for what nobody wants; the training workspace.

cdef enum:
    RATE_OF_Z = 0
    RATE_OF_A = 1
    RATE_OF_DELTA = 2
    Z_ITSELF = 3  # where σ' takes it: in the training workspace δ comes in its place
    N_KEPT = 4


cdef struct Product:  # what the product of a Hessian is made from
    void* vector
    void* out
    void* rates
    Py_ssize_t widest
    void* workspace  # of training


cdef Product product_of(
    const Network* net, Py_ssize_t n, void* vector, void* out, floating* workspace
) noexcept nogil:
    """Divide the workspace."""
    cdef Product product
    cdef Py_ssize_t index, size = N_KEPT * outputs_size(net, net.n_layers, n, workspace)
    product.vector, product.out, product.rates, product.widest = vector, out, workspace, 0
    for index in range(net.n_layers):
        product.widest = max(product.widest, padded(layer_of(net, index)[N_OUT], workspace))
    for index in range(2 * product.widest):
        workspace[size + 2 * n * product.widest + index] = 0
    product.workspace = workspace + size + (2 * n + 2) * product.widest
    return product


cdef inline Matrix rate_of(
    const Network* net, const Product* product, int kind_of_rate, Py_ssize_t index, Py_ssize_t n,
    floating* kind,
) noexcept nogil:
    """Return the place of R{z}, R{a}, R{δ} or z of a layer."""
    cdef Py_ssize_t columns = layer_of(net, index)[N_OUT]
    cdef Py_ssize_t offset = kind_of_rate * outputs_size(net, net.n_layers, n, kind)
    offset += outputs_size(net, index, n, kind)
    return matrix_at(product.rates, offset, n, columns, padded(columns, kind), kind)


cdef inline Matrix buffer_of(
    const Network* net, const Product* product, Py_ssize_t number, Py_ssize_t columns,
    Py_ssize_t n, floating* kind,
) noexcept nogil:
    """Return one of two matrices, as wide as asked for; after them are two rows of zeros."""
    cdef Py_ssize_t offset = N_KEPT * outputs_size(net, net.n_layers, n, kind)
    offset += number * n * product.widest
    return matrix_at(product.rates, offset, n, columns, product.widest, kind)


cdef inline Matrix spare_row(
    const Network* net, const Product* product, Py_ssize_t number, Py_ssize_t columns,
    Py_ssize_t n, floating* kind,
) noexcept nogil:
    """Return the row of zeros, or the one for what nobody wants."""
    cdef Matrix row = buffer_of(net, product, 2, columns, n, kind)
    row.data = <floating*> row.data + number * product.widest
    row.rows = 1
    return row


cdef void add_rows(Matrix source, Matrix to, floating* kind) noexcept nogil:
    cdef Py_ssize_t row, j
    cdef const floating* a
    cdef floating* sink
    for row in range(to.rows):
        a = <const floating*> source.data + row * source.stride
        sink = <floating*> to.data + row * to.stride
        for j in range(to.columns):
            sink[j] += a[j]


cdef void add_bend(
    Matrix y_or_z, Matrix grad, Matrix rate, int64_t activation, floating alpha, Matrix to
) noexcept nogil:
    """Add ∂L/∂a ⊙ σ'' ⊙ R{z}, which overwrites the first."""
    cdef Py_ssize_t row, j
    cdef floating* bend
    cdef const floating* r
    cdef floating* sink
    for row in range(to.rows):
        bend = <floating*> grad.data + row * grad.stride
        r = <const floating*> rate.data + row * rate.stride
        sink = <floating*> to.data + row * to.stride
        apply_second_derivative(
            <const floating*> y_or_z.data + row * y_or_z.stride, to.columns, activation, alpha,
            bend,
        )
        for j in range(to.columns):
            sink[j] += bend[j] * r[j]


cdef void loss_curvatures_of_rows(
    const Data* batch, Matrix output, Matrix r, Matrix out, floating* kind
) noexcept nogil:
    cdef Py_ssize_t row
    for row in range(output.rows):
        loss_curvature(
            <const floating*> output.data + row * output.stride, target_of(batch, row, kind),
            label_of(batch, row), output.columns, &batch.loss,
            <floating> share_of(batch, row, kind), <const floating*> r.data + row * r.stride,
            <floating*> out.data + row * out.stride,
        )


cdef inline Matrix kept_of(
    const Network* net, const Product* product, Py_ssize_t index, Py_ssize_t first,
    Py_ssize_t last, Py_ssize_t n, floating* kind,
) noexcept nogil:
    """Return this thread's rows of what a layer's σ' and σ'' take, y or z."""
    if takes_z(activation_of(net, index)):
        return rows_between(rate_of(net, product, Z_ITSELF, index, n, kind), first, last, kind)
    return rows_between(
        output_of(net, index, n, False, <floating*> product.workspace), first, last, kind
    )


cdef void keep_z(
    const Network* net, const Product* product, Py_ssize_t first, Py_ssize_t last,
    Py_ssize_t n, floating* kind,
) noexcept nogil:
    """Keep z before δ takes its place; in the last layer, where z took that of y, restore y."""
    cdef Py_ssize_t index, row, top = net.n_layers - 1
    cdef Matrix z, kept
    for index in range(net.n_layers):
        if not takes_z(activation_of(net, index)):
            continue
        z = output_of(net, index, n, index < top, <floating*> product.workspace)
        z = rows_between(z, first, last, kind)
        kept = kept_of(net, product, index, first, last, n, kind)
        for row in range(z.rows):
            copy_row(
                <const floating*> z.data + row * z.stride, z.columns,
                <floating*> kept.data + row * kept.stride,
            )
        if index == top:
            activate_rows(kept, activation_of(net, top), <floating> alpha_of(net, top), z)


cdef void rates_forward(
    const Network* net, const Data* batch, const Product* product, Py_ssize_t first,
    Py_ssize_t last, floating* panel,
) noexcept nogil:
    """Compute R{z} = W R{a} + V a + c and R{a} = σ'(z) R{z} of this thread's rows."""
    cdef Py_ssize_t n = batch.x.rows, index, n_out
    cdef floating* workspace = <floating*> product.workspace
    cdef Matrix source = rows_between(batch.x, first, last, panel), rate_of_source = source
    cdef Matrix rate, carried, y
    for index in range(net.n_layers):
        n_out = layer_of(net, index)[N_OUT]
        rate = rows_between(
            rate_of(net, product, RATE_OF_Z, index, n, panel), first, last, panel
        )
        affine_layer(layer_of(net, index), product.vector, source, rate, panel, False)
        if index:
            carried = rows_between(
                buffer_of(net, product, 0, n_out, n, panel), first, last, panel
            )
            forward_tiles(
                rate_of_source, weight_in(layer_of(net, index), net.parameters, panel),
                spare_row(net, product, 0, n_out, n, panel), IDENTITY, <floating> 0, carried,
                panel, 0, 1,
            )
            add_rows(carried, rate, panel)
        y = rows_between(output_of(net, index, n, False, workspace), first, last, panel)
        rate_of_source = rows_between(
            rate_of(net, product, RATE_OF_A, index, n, panel), first, last, panel
        )
        differentiate_rows(
            kept_of(net, product, index, first, last, n, panel), rate, activation_of(net, index),
            <floating> alpha_of(net, index), rate_of_source,
        )
        source = y


cdef void rates_backward(
    const Network* net, const Data* batch, const Product* product, Py_ssize_t first,
    Py_ssize_t last, floating* panel,
) noexcept nogil:
    """Compute R{δ} = R{∂L/∂a} ⊙ σ' + ∂L/∂a ⊙ σ'' ⊙ R{z} of this thread's rows."""
    cdef Py_ssize_t n = batch.x.rows, index, columns = layer_of(net, net.n_layers - 1)[N_OUT]
    cdef floating* workspace = <floating*> product.workspace
    cdef Data part = part_of(batch, first, last, panel)
    cdef Matrix grad, grad_rate, y, known, delta, delta_rate, more
    cdef const int64_t* layer
    cdef floating alpha
    grad = rows_between(buffer_of(net, product, 0, columns, n, panel), first, last, panel)
    grad_rate = rows_between(buffer_of(net, product, 1, columns, n, panel), first, last, panel)
    y = rows_between(
        output_of(net, net.n_layers - 1, n, False, workspace), first, last, panel
    )
    loss_gradients_of_rows(&part, y, grad, panel)
    more = rate_of(net, product, RATE_OF_A, net.n_layers - 1, n, panel)
    loss_curvatures_of_rows(&part, y, rows_between(more, first, last, panel), grad_rate, panel)
    for index in range(net.n_layers - 1, -1, -1):
        layer, alpha = layer_of(net, index), <floating> alpha_of(net, index)
        known = kept_of(net, product, index, first, last, n, panel)
        delta_rate = rate_of(net, product, RATE_OF_DELTA, index, n, panel)
        delta_rate = rows_between(delta_rate, first, last, panel)
        differentiate_rows(known, grad_rate, layer[ACTIVATION], alpha, delta_rate)
        more = rate_of(net, product, RATE_OF_Z, index, n, panel)
        more = rows_between(more, first, last, panel)
        add_bend(known, grad, more, layer[ACTIVATION], alpha, delta_rate)
        if not index:
            return
        delta = rows_between(output_of(net, index, n, True, workspace), first, last, panel)
        grad.columns = grad_rate.columns = layer[N_IN]
        carry_plainly(layer, net.parameters, delta, grad, panel)
        carry_plainly(layer, net.parameters, delta_rate, grad_rate, panel)
        more = rate_of(net, product, RATE_OF_DELTA, index - 1, n, panel)  # not in use yet
        more = rows_between(more, first, last, panel)
        carry_plainly(layer, product.vector, delta, more, panel)
        add_rows(more, grad_rate, panel)


cdef inline void carry_plainly(
    const int64_t* layer, void* arena, Matrix delta, Matrix out, floating* panel
) noexcept nogil:
    """Compute δWᵀ, with W of any arena."""
    backward_input_tiles(
        delta, weight_in(layer, arena, panel), out, IDENTITY, <floating> 0, out, panel, 0, 1
    )


cdef void store_products(
    const Network* net, const Data* batch, const Product* product, void* panels, int thread,
    int n_threads, floating* kind,
) noexcept nogil:
    """Store R{∂L/∂W} = Σ a R{δ} + R{a} δ and R{∂L/∂b} = Σ R{δ} in this thread's tiles."""
    cdef Py_ssize_t index, n = batch.x.rows
    cdef const int64_t* layer
    cdef floating* workspace = <floating*> product.workspace
    cdef Matrix source = batch.x
    cdef Update to
    to.slot, to.coefficients = 0, NULL
    to.averages, to.average, to.averaging = False, 0, 0
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        to.weight = weight_in(layer, product.out, kind)
        to.bias = bias_in(layer, product.out, kind)
        to.weight_state, to.bias_state, to.optimizer = to.weight.data, to.bias.data, STORE
        backward_weight_tiles(
            source, rate_of(net, product, RATE_OF_DELTA, index, n, kind), to, panels,
            panel_room(net, n), thread, n_threads, kind,
        )
        if index:
            to.bias = spare_row(net, product, 1, layer[N_OUT], n, kind)
            to.bias_state, to.optimizer = to.bias.data, ADD
            backward_weight_tiles(
                rate_of(net, product, RATE_OF_A, index - 1, n, kind),
                output_of(net, index, n, True, workspace), to, panels, panel_room(net, n),
                thread, n_threads, kind,
            )
        source = output_of(net, index, n, False, workspace)


cdef void hessian_product(
    const Network* net, const Data* batch, const Product* product, int thread, int n_threads,
    floating* kind,
) noexcept nogil:
    """Run this thread's part of the product."""
    cdef Py_ssize_t n = batch.x.rows
    cdef Py_ssize_t first = n * thread // n_threads, last = n * (thread + 1) // n_threads
    cdef floating* workspace = <floating*> product.workspace
    cdef floating* panel = panel_of_thread(net, n, workspace, thread)
    cdef Share share = only_rows(first, last)
    if first < last:
        sweep_up(net, batch, &share, workspace, panel)
        keep_z(net, product, first, last, n, panel)
        sweep_down(net, batch, &share, workspace, panel)
        rates_forward(net, batch, product, first, last, panel)
        rates_backward(net, batch, product, first, last, panel)
    team_barrier(n_threads)
    store_products(
        net, batch, product, panel_of_thread(net, n, workspace, 0), thread, n_threads, kind
    )


cdef void hessian_product_team(
    const Network* net, const Data* batch, void* vector, void* out, floating* workspace,
    int n_threads,
) noexcept nogil:
    """Multiply the Hessian by a vector."""
    cdef Team* team
    cdef Product product = product_of(net, batch.x.rows, vector, out, workspace)
    if n_threads == 1:
        hessian_product(net, batch, &product, 0, 1, workspace)
    else:
        team = call_team(n_threads)
        with parallel(num_threads=n_threads):
            hessian_product(net, batch, &product, threadid(), join_team(team), workspace)


def network_hessian_product(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray vector,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Multiply the Hessian of the mean loss by a vector: ∂²L/∂θ² · v."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef void* direction = matrix_of(vector, x).data
    cdef void* sink = writable(out, x).data
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    with nogil:
        if single:
            hessian_product_team(
                &net, &data, direction, sink, <float*> scratch, n_threads
            )
        else:
            hessian_product_team(
                &net, &data, direction, sink, <double*> scratch, n_threads
            )
