# Layers that are not dense: elementwise, dropout, PReLU, normalisation. They take rows of one
# thread to rows of the same width, by blocks of columns. Only the statistics of a batch, and
# sums over its rows, are made by column: there each thread takes blocks of columns of its own.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "units.hpp" namespace "fastmlp" nogil:
    uint64_t mixed(uint64_t bits)
    # As overloads: Cython does not deduce a template's type from an array.
    void row_moments(const float* x, Py_ssize_t n, float eps, float* mean, float* scale)
    void row_slopes(const float* delta, const float* weight, const float* x, Py_ssize_t n,
                    float mean, float scale, float* slope, float* along)
    void drop(uint64_t key, uint32_t threshold, float scale, Py_ssize_t first, const float* x,
              Py_ssize_t n, float* out)
    float row_penalty(const float* weight, Py_ssize_t n, float l1, float l2)
    void add_penalty(const float* weight, Py_ssize_t n, float l1, float l2, float* grad)
    void row_moments(const double* x, Py_ssize_t n, double eps, double* mean, double* scale)
    void row_slopes(const double* delta, const double* weight, const double* x, Py_ssize_t n,
                    double mean, double scale, double* slope, double* along)
    void drop(uint64_t key, uint32_t threshold, double scale, Py_ssize_t first, const double* x,
              Py_ssize_t n, double* out)
    double row_penalty(const double* weight, Py_ssize_t n, double l1, double l2)
    void add_penalty(const double* weight, Py_ssize_t n, double l1, double l2, double* grad)

cdef enum:
    UNIT_BLOCK = 64  # columns at a time
    MOMENTS = 2  # rows of a batch normalisation's statistics, and of each kind of note


cdef inline Py_ssize_t unit_blocks(Py_ssize_t columns) noexcept nogil:
    return ceil_divide(columns, UNIT_BLOCK)


cdef inline int kind_of(const Network* net, Py_ssize_t index) noexcept nogil:
    return <int> layer_of(net, index)[KIND]


cdef inline bint is_norm(int kind) noexcept nogil:
    return kind == LAYER_NORM or kind == BATCH_NORM or kind == BATCH_NORM_TRAINING


# --- What a layer notes of a batch: see arena.notes_size -------------------------------------

cdef inline Py_ssize_t notes_size(
    const int64_t* layer, Py_ssize_t n, floating* kind
) noexcept nogil:
    if not is_norm(<int> layer[KIND]):
        return 0
    return MOMENTS * padded(n, kind) + 2 * MOMENTS * padded(layer[N_OUT], kind)


cdef inline floating* row_notes(const Passage* at, int which, floating* kind) noexcept nogil:
    """Return the means of samples (0) or their 1/√(v + ε) (1)."""
    return <floating*> at.notes + which * padded(at.batch.x.rows, kind)


cdef inline floating* unit_notes(const Passage* at, int which, floating* kind) noexcept nogil:
    """Return the means of units (0), their 1/√(v + ε) (1), the sums of δ (2) and of δ x̂ (3)."""
    cdef Py_ssize_t stride = padded(layer_of(at.net, at.index)[N_OUT], kind)
    return row_notes(at, MOMENTS, kind) + which * stride


# --- Parameters ---------------------------------------------------------------------------

cdef inline const floating* weight_row(const Passage* at, floating* kind) noexcept nogil:
    return <const floating*> at.net.parameters + layer_of(at.net, at.index)[WEIGHT]


cdef inline const floating* bias_row(const Passage* at, floating* kind) noexcept nogil:
    return <const floating*> at.net.parameters + layer_of(at.net, at.index)[BIAS]


cdef inline floating* running(const Passage* at, floating* arena, int which) noexcept nogil:
    """Return the running means (0) or variances (1) of batch normalisation in an arena."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    return arena + layer[BIAS] + (1 + which) * layer[STRIDE]


cdef inline floating norm_eps(const Passage* at, floating* kind) noexcept nogil:
    return <floating> setting_of(at.net, at.index, NORM_EPS)


cdef inline void load_slopes(
    const Passage* at, Py_ssize_t column, Py_ssize_t columns, floating* out
) noexcept nogil:
    """Copy the slopes below 0 of PReLU's units."""
    cdef const floating* weight = weight_row(at, out)
    cdef bint shared = layer_of(at.net, at.index)[WEIGHT_COLUMNS] == 1
    cdef Py_ssize_t j
    for j in range(columns):
        out[j] = weight[0 if shared else column + j]


cdef inline void load_moments(
    const Passage* at, Py_ssize_t column, Py_ssize_t columns, floating* mean, floating* scale
) noexcept nogil:
    """Copy mean and 1/√(v + ε) of some units, of the batch or in memory."""
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef const floating* means
    cdef const floating* others
    cdef floating eps = norm_eps(at, mean)
    cdef Py_ssize_t j
    if layer[KIND] == BATCH_NORM:
        means = running(at, <floating*> at.net.parameters, 0) + column
        others = running(at, <floating*> at.net.parameters, 1) + column
        for j in range(columns):
            mean[j] = means[j]
            scale[j] = 1 / sqrt(others[j] + eps)
        return
    means, others = unit_notes(at, 0, mean) + column, unit_notes(at, 1, mean) + column
    copy_row(means, columns, mean)
    copy_row(others, columns, scale)


# --- Dropout: a mask is a function of the seed, the step, the layer, the row and the unit ------

cdef inline uint64_t mask_key(const Passage* at, Py_ssize_t row) noexcept nogil:
    cdef uint64_t seed = <uint64_t> (layer_of(at.net, at.index)[SEED] + at.visit)
    return mixed(mixed(seed ^ mixed(<uint64_t> (at.index + 1))) + <uint64_t> (at.first + row))


cdef inline void drop_units(
    const Passage* at, Py_ssize_t row, Py_ssize_t column, const floating* x, Py_ssize_t columns,
    floating* out,
) noexcept nogil:
    cdef double rate = setting_of(at.net, at.index, DROP_RATE)
    drop(
        mask_key(at, row), <uint32_t> (rate * 4294967296.0), <floating> (1 / (1 - rate)), column,
        x, columns, out,
    )


# --- Forward ------------------------------------------------------------------------------

cdef void normalise_samples(const Passage* at, Matrix x, Matrix out, floating* kind) noexcept nogil:
    """Normalise each row over its units."""
    cdef const floating* weight = weight_row(at, kind)
    cdef const floating* bias = bias_row(at, kind)
    cdef const floating* source
    cdef floating* sink
    cdef floating mean = 0, scale = 0
    cdef Py_ssize_t row, j
    for row in range(x.rows):
        source = <const floating*> x.data + row * x.stride
        sink = <floating*> out.data + row * out.stride
        row_moments(source, x.columns, norm_eps(at, kind), &mean, &scale)
        for j in range(x.columns):
            sink[j] = (source[j] - mean) * scale * weight[j] + bias[j]
        if at.notes is not NULL:
            row_notes(at, 0, kind)[at.first + row] = mean
            row_notes(at, 1, kind)[at.first + row] = scale


cdef void normalise_units(const Passage* at, Matrix x, Matrix out, floating* kind) noexcept nogil:
    """Normalise each unit by the moments of the batch or those in memory."""
    cdef floating mean[UNIT_BLOCK]
    cdef floating scale[UNIT_BLOCK]
    cdef Py_ssize_t block, column, columns, row, j
    cdef const floating* weight
    cdef const floating* bias
    cdef const floating* source
    cdef floating* sink
    for block in range(unit_blocks(x.columns)):
        column = block * UNIT_BLOCK
        columns = min(UNIT_BLOCK, x.columns - column)
        load_moments(at, column, columns, mean, scale)
        weight, bias = weight_row(at, kind) + column, bias_row(at, kind) + column
        for row in range(x.rows):
            source = <const floating*> x.data + row * x.stride + column
            sink = <floating*> out.data + row * out.stride + column
            for j in range(columns):
                sink[j] = (source[j] - mean[j]) * scale[j] * weight[j] + bias[j]


cdef void rectify_rows(const Passage* at, Matrix x, Matrix out, floating* kind) noexcept nogil:
    """Multiply what is not above 0 by the learned slopes."""
    cdef floating slope[UNIT_BLOCK]
    cdef Py_ssize_t block, column, columns, row, j
    cdef const floating* source
    cdef floating* sink
    for block in range(unit_blocks(x.columns)):
        column = block * UNIT_BLOCK
        columns = min(UNIT_BLOCK, x.columns - column)
        load_slopes(at, column, columns, slope)
        for row in range(x.rows):
            source = <const floating*> x.data + row * x.stride + column
            sink = <floating*> out.data + row * out.stride + column
            for j in range(columns):
                sink[j] = source[j] if source[j] > 0 else source[j] * slope[j]


cdef void forward_units(
    const Passage* at, int64_t activation, Matrix x, Matrix out, floating* kind
) noexcept nogil:
    """Run a layer that is not dense on rows; for IDENTITY its z only."""
    cdef int layer = kind_of(at.net, at.index)
    cdef Py_ssize_t row
    if layer == ELEMENTWISE:
        activate_rows(x, activation, <floating> alpha_of(at.net, at.index), out)
    elif layer == DROPOUT:
        for row in range(x.rows):
            drop_units(
                at, row, 0, <const floating*> x.data + row * x.stride, x.columns,
                <floating*> out.data + row * out.stride,
            )
    elif layer == PRELU:
        rectify_rows(at, x, out, kind)
    elif layer == LAYER_NORM:
        normalise_samples(at, x, out, kind)
    else:
        normalise_units(at, x, out, kind)


# --- Backward, BP2: δ of the layer below ---------------------------------------------------

cdef void slopes_of_norm(
    const Passage* at, Py_ssize_t row, const floating* x, const floating* delta, floating* slopes
) noexcept nogil:
    """Find what the units of a row share: mean, 1/√(v + ε), the means of δw and of δw x̂."""
    slopes[0] = row_notes(at, 0, slopes)[at.first + row]
    slopes[1] = row_notes(at, 1, slopes)[at.first + row]
    row_slopes(
        delta, weight_row(at, slopes), x, layer_of(at.net, at.index)[N_OUT], slopes[0], slopes[1],
        slopes + 2, slopes + 3,
    )


cdef void carry_block(
    const Passage* at, Py_ssize_t row, Py_ssize_t column, Py_ssize_t columns, const floating* x,
    const floating* delta, const floating* slopes, const floating* mean, const floating* scale,
    floating* out,
) noexcept nogil:
    """Compute ∂L/∂x of some units of a row; `x` and `delta` begin at the first of them.

    `slopes` are from slopes_of_norm; `mean` and `scale` from load_moments, or the latter from
    load_slopes.
    """
    cdef int kind = kind_of(at.net, at.index)
    cdef const floating* weight = weight_row(at, out) + column
    cdef const floating* sums
    cdef const floating* along
    cdef floating share
    cdef Py_ssize_t j
    if kind == ELEMENTWISE:
        copy_row(delta, columns, out)
    elif kind == DROPOUT:
        drop_units(at, row, column, delta, columns, out)
    elif kind == PRELU:
        for j in range(columns):
            out[j] = delta[j] if x[j] > 0 else delta[j] * scale[j]
    elif kind == LAYER_NORM:
        for j in range(columns):
            out[j] = slopes[1] * (
                delta[j] * weight[j] - slopes[2] - (x[j] - slopes[0]) * slopes[1] * slopes[3]
            )
    elif kind == BATCH_NORM:
        for j in range(columns):
            out[j] = delta[j] * weight[j] * scale[j]
    else:
        share = <floating> share_of(at.batch, at.first + row, out)
        sums, along = unit_notes(at, 2, out) + column, unit_notes(at, 3, out) + column
        for j in range(columns):
            out[j] = weight[j] * scale[j] * (
                delta[j] - share * (sums[j] + (x[j] - mean[j]) * scale[j] * along[j])
            )


cdef void carry_units(
    const Passage* at, Matrix x, Matrix delta, Matrix y_or_z, int64_t activation, floating alpha,
    Matrix out,
) noexcept nogil:
    """Carry δ of rows below a layer that is not dense, ∂L/∂x ⊙ σ'; out may be y_or_z."""
    cdef floating grad[UNIT_BLOCK]
    cdef floating mean[UNIT_BLOCK]
    cdef floating scale[UNIT_BLOCK]
    cdef floating slopes[4]
    cdef Py_ssize_t block, column, columns, row
    cdef int kind = kind_of(at.net, at.index)
    cdef const floating* source
    cdef const floating* deltas
    for row in range(x.rows):
        source = <const floating*> x.data + row * x.stride
        deltas = <const floating*> delta.data + row * delta.stride
        if kind == LAYER_NORM:
            slopes_of_norm(at, row, source, deltas, slopes)
        for block in range(unit_blocks(x.columns)):
            column = block * UNIT_BLOCK
            columns = min(UNIT_BLOCK, x.columns - column)
            if kind == PRELU:
                load_slopes(at, column, columns, scale)
            elif kind == BATCH_NORM or kind == BATCH_NORM_TRAINING:
                load_moments(at, column, columns, mean, scale)
            carry_block(
                at, row, column, columns, source + column, deltas + column, slopes, mean, scale,
                grad,
            )
            apply_derivative(
                <const floating*> y_or_z.data + row * y_or_z.stride + column, columns, activation,
                alpha, grad,
            )
            copy_row(grad, columns, <floating*> out.data + row * out.stride + column)


# --- Over the rows of a batch: each thread has its blocks of columns --------------------------

cdef void batch_moments(
    const Passage* at, Matrix x, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Compute mean and 1/√(v + ε) of this thread's units over a batch."""
    cdef floating mean[UNIT_BLOCK]
    cdef floating variance[UNIT_BLOCK]
    cdef Py_ssize_t blocks = unit_blocks(x.columns), block, column, columns, row, j
    cdef const floating* source
    cdef floating share, eps = norm_eps(at, kind), distance
    for block in range(blocks * thread // n_threads, blocks * (thread + 1) // n_threads):
        column = block * UNIT_BLOCK
        columns = min(UNIT_BLOCK, x.columns - column)
        for j in range(UNIT_BLOCK):
            mean[j] = variance[j] = 0
        for row in range(x.rows):
            source = <const floating*> x.data + row * x.stride + column
            share = <floating> share_of(at.batch, row, kind)
            for j in range(columns):
                mean[j] += share * source[j]
        for row in range(x.rows):
            source = <const floating*> x.data + row * x.stride + column
            share = <floating> share_of(at.batch, row, kind)
            for j in range(columns):
                distance = source[j] - mean[j]
                variance[j] += share * distance * distance
        update_running(at, column, columns, mean, variance)
        for j in range(columns):
            variance[j] = 1 / sqrt(variance[j] + eps)
        copy_row(mean, columns, unit_notes(at, 0, kind) + column)
        copy_row(variance, columns, unit_notes(at, 1, kind) + column)


cdef void update_running(
    const Passage* at, Py_ssize_t column, Py_ssize_t columns, floating* mean, floating* variance
) noexcept nogil:
    """Move the running moments of some units towards a batch's, where they are to follow."""
    cdef floating* means = running(at, <floating*> at.batch.statistics, 0) + column
    cdef floating* variances = running(at, <floating*> at.batch.statistics, 1) + column
    cdef floating momentum = <floating> setting_of(at.net, at.index, NORM_MOMENTUM), unbias
    cdef double lost = 0, share, total = 0
    cdef Py_ssize_t row, j
    if at.batch.statistics is NULL:
        return
    for row in range(at.batch.x.rows):
        share = share_of(at.batch, row, mean)
        lost += share * share
        total += share
    if total == 0:
        return
    unbias = <floating> (1 / (1 - lost) if lost < 1 else 1)
    for j in range(columns):
        means[j] += momentum * (mean[j] - means[j])
        variances[j] += momentum * (variance[j] * unbias - variances[j])


cdef void sums_over_rows(
    const Passage* at, Matrix x, Matrix delta, Py_ssize_t column, Py_ssize_t columns,
    floating* sums, floating* along,
) noexcept nogil:
    """Sum δ over the rows of a batch, and δ x̂, or for PReLU δ min(x, 0), of some units."""
    cdef floating mean[UNIT_BLOCK]
    cdef floating scale[UNIT_BLOCK]
    cdef int kind = kind_of(at.net, at.index)
    cdef const floating* source
    cdef const floating* deltas
    cdef Py_ssize_t row, j
    for j in range(columns):
        sums[j] = along[j] = mean[j] = 0
        scale[j] = 1
    if kind == BATCH_NORM or kind == BATCH_NORM_TRAINING:
        load_moments(at, column, columns, mean, scale)
    for row in range(x.rows):
        source = <const floating*> x.data + row * x.stride + column
        deltas = <const floating*> delta.data + row * delta.stride + column
        if kind == LAYER_NORM:
            for j in range(columns):
                mean[j] = row_notes(at, 0, sums)[row]
                scale[j] = row_notes(at, 1, sums)[row]
        if kind == PRELU:
            for j in range(columns):
                along[j] += deltas[j] * (0 if source[j] > 0 else source[j])
        else:
            for j in range(columns):
                sums[j] += deltas[j]
                along[j] += deltas[j] * ((source[j] - mean[j]) * scale[j])


cdef void batch_sums(
    const Passage* at, Matrix x, Matrix delta, int thread, int n_threads, floating* kind
) noexcept nogil:
    """Note the sums of δ and of δ x̂ of this thread's units, which BP2 will need."""
    cdef floating sums[UNIT_BLOCK]
    cdef floating along[UNIT_BLOCK]
    cdef Py_ssize_t blocks = unit_blocks(x.columns), block, column, columns
    for block in range(blocks * thread // n_threads, blocks * (thread + 1) // n_threads):
        column = block * UNIT_BLOCK
        columns = min(UNIT_BLOCK, x.columns - column)
        sums_over_rows(at, x, delta, column, columns, sums, along)
        copy_row(sums, columns, unit_notes(at, 2, kind) + column)
        copy_row(along, columns, unit_notes(at, 3, kind) + column)


cdef void update_units(
    const Passage* at, Matrix x, Matrix delta, const Update* to, int thread, int n_threads,
    floating* kind,
) noexcept nogil:
    """Update this thread's weights and biases of a layer that is not dense (BP3, BP4)."""
    cdef floating sums[UNIT_BLOCK]
    cdef floating along[UNIT_BLOCK]
    cdef floating total = 0
    cdef const int64_t* layer = layer_of(at.net, at.index)
    cdef bint shared = layer[WEIGHT_COLUMNS] < x.columns
    cdef Py_ssize_t blocks = unit_blocks(x.columns), block, column, columns, j
    if shared:  # by one thread, all blocks
        n_threads = 1 if thread == 0 else 0
    if layer[WEIGHT_ROWS] == 0 or n_threads == 0:
        return
    for block in range(blocks * thread // n_threads, blocks * (thread + 1) // n_threads):
        column = block * UNIT_BLOCK
        columns = min(UNIT_BLOCK, x.columns - column)
        sums_over_rows(at, x, delta, column, columns, sums, along)
        if shared:
            for j in range(columns):
                total += along[j]
            continue
        update_rows(to, to.weight, to.weight_state, 0, column, along, 1, columns)
        if layer[BIASES]:
            update_rows(to, to.bias, to.bias_state, 0, column, sums, 1, columns)
    if shared:
        update_rows(to, to.weight, to.weight_state, 0, 0, &total, 1, 1)


# --- Penalties ----------------------------------------------------------------------------

cdef double penalty(const Network* net, floating* kind) noexcept nogil:
    """Return what all penalised weights add to the loss."""
    cdef Py_ssize_t index, row
    cdef const int64_t* layer
    cdef double total = 0
    if not net.is_penalized:
        return 0
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        for row in range(layer[PENALIZED]):
            total += row_penalty(
                <const floating*> net.parameters + layer[WEIGHT] + row * layer[STRIDE],
                layer[WEIGHT_COLUMNS], <floating> setting_of(net, index, L1),
                <floating> setting_of(net, index, L2),
            )
    return total


cdef void penalize_part(const Network* net, Py_ssize_t part, floating* grad) noexcept nogil:
    """Add the derivatives of the penalties to a part of a gradient."""
    cdef Py_ssize_t index, row, at, last
    cdef const int64_t* layer
    if not net.is_penalized:
        return
    for index in range(net.n_layers):
        layer = layer_of(net, index)
        last = min(row_of_part(layer, part + 1), layer[PENALIZED])
        for row in range(row_of_part(layer, part), last):
            at = layer[WEIGHT] + row * layer[STRIDE]
            add_penalty(
                <const floating*> net.parameters + at, layer[WEIGHT_COLUMNS],
                <floating> setting_of(net, index, L1), <floating> setting_of(net, index, L2),
                grad + at,
            )
