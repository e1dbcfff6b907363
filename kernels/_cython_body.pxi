# The Cython backend: every kernel of reference.py, with the same arguments and meaning.
#
# Each instruction set's module includes this file, so one source is compiled several times.
# The functions here only take the arrays apart, release the GIL, choose float or double and
# start the team; the arithmetic is in the included files. Arguments are NumPy's objects and
# not memoryviews, whose acquisition costs more than a small layer.

cimport numpy as cnp
from cython.parallel cimport parallel, threadid

cdef extern from "team.hpp" namespace "fastmlp" nogil:
    cdef struct Team:
        pass
    Team* call_team(int n_threads)
    int join_team(Team* team)
    void team_barrier(int n_threads)

include "_scalars.pxi"
include "_layers.pxi"
include "_network.pxi"
include "_lanes.pxi"
include "_units.pxi"

cnp.import_array()

cdef float* FLOATS = NULL  # name a type to functions that have no other argument of it
cdef double* DOUBLES = NULL


# --- Taking arrays apart ------------------------------------------------------------------

cdef inline bint is_single(cnp.ndarray array) noexcept:
    return cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32


cdef Matrix matrix_of(cnp.ndarray array, cnp.ndarray like) except *:
    """Describe a vector or matrix of the type of `like`."""
    cdef Matrix matrix
    cdef int last = cnp.PyArray_NDIM(array) - 1
    cdef Py_ssize_t itemsize = cnp.PyArray_ITEMSIZE(array)
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(like):
        raise TypeError(f"expected arrays of one dtype, got {like.dtype} and {array.dtype}")
    if cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT32 and cnp.PyArray_TYPE(array) != cnp.NPY_FLOAT64:
        raise TypeError(f"expected arrays of float32 or float64, got {array.dtype}")
    if (
        cnp.PyArray_STRIDE(array, last) != itemsize
        and cnp.PyArray_DIM(array, last) > 1
        and cnp.PyArray_SIZE(array)
    ):
        raise ValueError("expected arrays with unit stride along the last axis")
    matrix.data = cnp.PyArray_DATA(array)
    matrix.rows = cnp.PyArray_DIM(array, 0) if last else 1
    matrix.columns = matrix.readable = cnp.PyArray_DIM(array, last)
    matrix.stride = cnp.PyArray_STRIDE(array, 0) // itemsize if last else 0
    return matrix


cdef Matrix writable(cnp.ndarray array, cnp.ndarray like) except *:
    """Describe a vector or matrix that the kernel writes to."""
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError("expected a writable array for an output, got a read-only one")
    return matrix_of(array, like)


cdef void* contiguous(cnp.ndarray array, int expected, bint written=False) except? NULL:
    """Return the first element of a contiguous array of a type."""
    if written and not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError("expected a writable array for an output, got a read-only one")
    if cnp.PyArray_TYPE(array) != expected or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        name = "int64" if expected == cnp.NPY_INT64 else "float64"
        raise TypeError(f"expected a contiguous array of {name}, got {array.dtype}")
    return cnp.PyArray_DATA(array)


cdef Network network_of(
    cnp.ndarray layers, cnp.ndarray settings, cnp.ndarray parameters, cnp.ndarray like
) except *:
    cdef Network net
    cdef Py_ssize_t index
    net.n_layers = cnp.PyArray_DIM(layers, 0)
    net.table = <const int64_t*> contiguous(layers, cnp.NPY_INT64)
    net.settings = <const double*> contiguous(settings, cnp.NPY_FLOAT64)
    net.parameters = matrix_of(parameters, like).data
    net.is_dense, net.meets, net.is_penalized = True, False, False
    for index in range(net.n_layers):
        net.is_dense &= kind_of(&net, index) == DENSE
        net.meets |= kind_of(&net, index) == BATCH_NORM_TRAINING
        net.is_penalized |= layer_of(&net, index)[PENALIZED] > 0
    return net


cdef Loss loss_of(int code, cnp.ndarray parameters) except *:
    cdef Loss loss
    cdef const double* values = <const double*> contiguous(parameters, cnp.NPY_FLOAT64)
    loss.code, loss.n_parameters = code, cnp.PyArray_SIZE(parameters)
    loss.parameters = values if loss.n_parameters else NULL
    return loss


cdef Data data_of(
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
) except *:
    """Describe all rows of x, as they lie."""
    cdef Data data
    data.x = matrix_of(x, x)
    data.target = matrix_of(target, x)
    data.labels = NULL
    data.order = NULL
    data.sample_weight = data.statistics = NULL
    data.visit = 0
    data.loss = loss_of(loss, loss_parameters)
    if cnp.PyArray_SIZE(labels):
        data.labels = <const int64_t*> contiguous(labels, cnp.NPY_INT64)
    if sample_weight is not None and cnp.PyArray_SIZE(sample_weight):
        data.sample_weight = matrix_of(sample_weight, x).data
    data.share = share_of_one(&data, FLOATS) if is_single(x) else share_of_one(&data, DOUBLES)
    return data


# --- Layer kernels ------------------------------------------------------------------------

def activation_forward(cnp.ndarray z, int64_t activation, double alpha, cnp.ndarray out):
    """Apply an activation to every element: a = σ(z)."""
    cdef Matrix source = matrix_of(z, z), sink = writable(out, z)
    cdef bint single = is_single(z)
    with nogil:
        if single:
            activate_rows(source, activation, <float> alpha, sink)
        else:
            activate_rows(source, activation, alpha, sink)


def activation_backward(
    cnp.ndarray y_or_z, cnp.ndarray grad, int64_t activation, double alpha, cnp.ndarray out
):
    """Multiply a gradient by the activation's derivative: grad ⊙ σ' (the right of BP1, BP2)."""
    cdef Matrix known = matrix_of(y_or_z, y_or_z), source = matrix_of(grad, y_or_z)
    cdef Matrix sink = writable(out, y_or_z)
    cdef bint single = is_single(y_or_z)
    with nogil:
        if single:
            differentiate_rows(known, source, activation, <float> alpha, sink)
        else:
            differentiate_rows(known, source, activation, alpha, sink)


def softmax_forward(cnp.ndarray z, cnp.ndarray out):
    """Turn logits into probabilities: exp(zⱼ) / Σₖ exp(zₖ) in each row."""
    cdef Matrix source = matrix_of(z, z), sink = writable(out, z)
    cdef bint single = is_single(z)
    with nogil:
        if single:
            softmax_rows(source, sink, FLOATS)
        else:
            softmax_rows(source, sink, DOUBLES)


def dense_forward(
    cnp.ndarray x,
    cnp.ndarray weight,
    cnp.ndarray bias,
    int64_t activation,
    double alpha,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Run one dense layer on a batch: a = σ(x·weight + bias)."""
    cdef Matrix source = matrix_of(x, x), w = matrix_of(weight, x), b = matrix_of(bias, x)
    cdef Matrix sink = writable(out, x)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    cdef Team* team = call_team(n_threads)
    with nogil, parallel(num_threads=n_threads):
        if single:
            forward_tiles(
                source, w, b, activation, <float> alpha, sink,
                panel_at(scratch, threadid(), w.rows, FLOATS), threadid(), join_team(team),
            )
        else:
            forward_tiles(
                source, w, b, activation, alpha, sink,
                panel_at(scratch, threadid(), w.rows, DOUBLES), threadid(), join_team(team),
            )


def dense_forward_single(
    cnp.ndarray x,
    cnp.ndarray weight,
    cnp.ndarray bias,
    int64_t activation,
    double alpha,
    cnp.ndarray out,
):
    """Run one dense layer on one sample: a = σ(x·weight + bias)."""
    cdef Matrix source = matrix_of(x, x), sink = writable(out, x)
    cdef Matrix w = matrix_of(weight, x), b = matrix_of(bias, x)
    cdef bint single = is_single(x)
    with nogil:
        if single:
            forward_few(source, w, b, activation, <float> alpha, sink)
        else:
            forward_few(source, w, b, activation, alpha, sink)


def dense_backward_input(
    cnp.ndarray delta,
    cnp.ndarray weight,
    cnp.ndarray y_or_z,
    int64_t activation,
    double alpha,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Carry δ down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    cdef Matrix source = matrix_of(delta, delta), w = matrix_of(weight, delta)
    cdef Matrix known = matrix_of(y_or_z, delta), sink = writable(out, delta)
    cdef void* scratch = writable(workspace, delta).data
    cdef bint single = is_single(delta)
    cdef Team* team = call_team(n_threads)
    with nogil, parallel(num_threads=n_threads):
        if single:
            backward_input_tiles(
                source, w, known, activation, <float> alpha, sink,
                panel_at(scratch, threadid(), w.columns, FLOATS), threadid(), join_team(team),
            )
        else:
            backward_input_tiles(
                source, w, known, activation, alpha, sink,
                panel_at(scratch, threadid(), w.columns, DOUBLES), threadid(), join_team(team),
            )


def dense_backward_input_single(
    cnp.ndarray delta,
    cnp.ndarray weight,
    cnp.ndarray y_or_z,
    int64_t activation,
    double alpha,
    cnp.ndarray out,
):
    """Carry δ of one sample down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    cdef Matrix source = matrix_of(delta, delta), w = matrix_of(weight, delta)
    cdef Matrix known = matrix_of(y_or_z, delta), sink = writable(out, delta)
    cdef bint single = is_single(delta)
    with nogil:
        if single:
            backward_input_few(source, w, known, activation, <float> alpha, sink)
        else:
            backward_input_few(source, w, known, activation, alpha, sink)


cdef Update storing(cnp.ndarray grad_weight, cnp.ndarray grad_bias, cnp.ndarray like) except *:
    """Describe the update that writes the gradient to arrays."""
    cdef Update to
    to.weight = writable(grad_weight, like)
    to.bias = writable(grad_bias, like)
    to.weight_state, to.bias_state = to.weight.data, to.bias.data
    to.slot, to.optimizer = 0, STORE
    to.coefficients = NULL
    to.averages, to.average, to.averaging = False, 0, 0
    return to


def dense_backward_weight(
    cnp.ndarray x,
    cnp.ndarray delta,
    cnp.ndarray grad_weight,
    cnp.ndarray grad_bias,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Sum a batch's gradient of one layer: xᵀ·δ (BP4) and Σᵢ δᵢ (BP3)."""
    cdef Matrix inputs = matrix_of(x, x), deltas = matrix_of(delta, x)
    cdef Update to = storing(grad_weight, grad_bias, x)
    cdef Matrix scratch = writable(workspace, x)
    cdef bint single = is_single(x)
    cdef Py_ssize_t room = scratch.columns // n_threads // ROW_MULTIPLE * ROW_MULTIPLE
    cdef Team* team = call_team(n_threads)
    with nogil, parallel(num_threads=n_threads):
        if single:
            backward_weight_tiles(
                inputs, deltas, to, scratch.data, room, threadid(), join_team(team), FLOATS
            )
        else:
            backward_weight_tiles(
                inputs, deltas, to, scratch.data, room, threadid(), join_team(team), DOUBLES
            )


def dense_backward_weight_single(
    cnp.ndarray x, cnp.ndarray delta, cnp.ndarray grad_weight, cnp.ndarray grad_bias
):
    """Form one sample's gradient of one layer: x δᵀ (BP4) and δ (BP3)."""
    cdef Matrix inputs = matrix_of(x, x), deltas = matrix_of(delta, x)
    cdef Update to = storing(grad_weight, grad_bias, x)
    cdef bint single = is_single(x)
    with nogil:
        if single:
            backward_weight_few(inputs, deltas, to, 0, 1, FLOATS)
        else:
            backward_weight_few(inputs, deltas, to, 0, 1, DOUBLES)


def loss_forward(
    cnp.ndarray output,
    cnp.ndarray target,
    cnp.ndarray labels,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
):
    """Compute the loss of each sample."""
    cdef Data data = data_of(output, target, labels, None, loss, loss_parameters)
    cdef void* sink = writable(out, output).data
    cdef bint single = is_single(output)
    with nogil:
        if single:
            losses_of_rows(&data, data.x, <float*> sink)
        else:
            losses_of_rows(&data, data.x, <double*> sink)


def loss_backward(
    cnp.ndarray output,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray out,
):
    """Differentiate the batch's mean loss by the outputs: wᵢ/Σw · ∂Lᵢ/∂oᵢ."""
    cdef Data data = data_of(output, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix sink = writable(out, output)
    cdef bint single = is_single(output)
    with nogil:
        if single:
            loss_gradients_of_rows(&data, data.x, sink, FLOATS)
        else:
            loss_gradients_of_rows(&data, data.x, sink, DOUBLES)


cdef void update_span(
    Matrix parameters, Matrix grad, Matrix state, int optimizer, const double* coefficients,
    Py_ssize_t n_coefficients, int thread, int n_threads, floating* kind,
) noexcept nogil:
    """Update this thread's span of a vector of parameters."""
    cdef floating of_step[MAX_COEFFICIENTS]
    cdef Py_ssize_t n = parameters.columns, j
    cdef Py_ssize_t first = n * thread // n_threads, last = n * (thread + 1) // n_threads
    for j in range(n_coefficients):
        of_step[j] = <floating> coefficients[j]
    update(
        <floating*> parameters.data + first, <floating*> state.data + first, state.stride, 0,
        <const floating*> grad.data + first, 0, 1, last - first, optimizer, of_step,
    )


def optimizer_step(
    cnp.ndarray parameters,
    cnp.ndarray grad,
    cnp.ndarray state,
    int optimizer,
    cnp.ndarray coefficients,
    int n_threads=1,
):
    """Update parameters in place by one step of an optimizer."""
    cdef Matrix theta = writable(parameters, parameters), gradient = matrix_of(grad, parameters)
    cdef Matrix memory = writable(state, parameters)
    cdef const double* c = <const double*> contiguous(coefficients, cnp.NPY_FLOAT64)
    cdef Py_ssize_t n = cnp.PyArray_DIM(coefficients, 0)
    cdef bint single = is_single(parameters)
    cdef Team* team = call_team(n_threads)
    with nogil, parallel(num_threads=n_threads):
        if single:
            update_span(
                theta, gradient, memory, optimizer, c, n, threadid(), join_team(team), FLOATS
            )
        else:
            update_span(
                theta, gradient, memory, optimizer, c, n, threadid(), join_team(team), DOUBLES
            )


# --- Network kernels ----------------------------------------------------------------------

def network_forward(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray out,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Run the whole network forward: aˡ = σ(Wˡaˡ⁻¹ + bˡ) for every layer."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Matrix source = matrix_of(x, x), sink = writable(out, x)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    with nogil:
        if single:
            forward_team(&net, source, sink, <float*> scratch, n_threads)
        else:
            forward_team(&net, source, sink, <double*> scratch, n_threads)


def network_loss(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Return the mean loss of a batch, Σᵢ wᵢ Lᵢ / Σw: the empirical risk."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    cdef double mean
    with nogil:
        if single:
            mean = batch_loss(&net, &data, <float*> scratch, n_threads)
        else:
            mean = batch_loss(&net, &data, <double*> scratch, n_threads)
    return mean


def network_gradient(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    int loss,
    cnp.ndarray loss_parameters,
    cnp.ndarray grad,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Return the mean loss of a batch and store its gradient: backpropagation, BP1–BP4."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix scratch = writable(workspace, x)
    cdef bint single = is_single(x)
    cdef double mean = 0
    cdef Step step = storing_step(writable(grad, x).data)
    step.mean, step.workspace_size = &mean, scratch.columns
    with nogil:
        if single:
            step_team(&net, &data, &step, <float*> scratch.data, n_threads)
        else:
            step_team(&net, &data, &step, <double*> scratch.data, n_threads)
    return mean


def network_difference_gradient(
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
    """Estimate ∂L/∂θ by finite differences, one or two forward passes for each weight."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix theta = writable(parameters, x)
    cdef const int64_t* elements = <const int64_t*> contiguous(indices, cnp.NPY_INT64)
    cdef Matrix h = matrix_of(steps, x)
    cdef double* estimates = <double*> contiguous(out, cnp.NPY_FLOAT64, True)
    cdef void* scratch = writable(workspace, x).data
    cdef bint single = is_single(x)
    net.parameters = theta.data  # which it moves and puts back
    with nogil:
        if single:
            difference_gradient(
                &net, &data, elements, <float*> h.data, h.columns, central, estimates,
                <float*> scratch,
            )
        else:
            difference_gradient(
                &net, &data, elements, <double*> h.data, h.columns, central, estimates,
                <double*> scratch,
            )


def network_train(
    cnp.ndarray layers,
    cnp.ndarray settings,
    cnp.ndarray parameters,
    cnp.ndarray state,
    cnp.ndarray x,
    cnp.ndarray target,
    cnp.ndarray labels,
    cnp.ndarray sample_weight,
    cnp.ndarray order,
    Py_ssize_t batch_size,
    int loss,
    cnp.ndarray loss_parameters,
    int optimizer,
    cnp.ndarray coefficients,
    cnp.ndarray averaging,
    double clip_value,
    double clip_norm,
    cnp.ndarray grad,
    cnp.ndarray losses,
    cnp.ndarray workspace,
    int n_threads=1,
):
    """Run a sequence of mini-batch steps: gather, forward, loss, backward, update."""
    cdef Network net = network_of(layers, settings, parameters, x)
    cdef Data data = data_of(x, target, labels, sample_weight, loss, loss_parameters)
    cdef Matrix theta = writable(parameters, x), memory = writable(state, x)
    cdef Matrix scratch = writable(workspace, x)
    cdef bint single = is_single(x)
    cdef Matrix stored = writable(grad, x)
    cdef Step step = storing_step(theta.data)
    cdef Run run
    data.order = <const int64_t*> contiguous(order, cnp.NPY_INT64)
    data.statistics = theta.data
    step.state, step.slot, step.optimizer = memory.data, memory.stride, optimizer
    step.averages = cnp.PyArray_SIZE(averaging) > 0
    step.average = (memory.rows - 1) * memory.stride
    step.grad = stored.data if stored.columns else NULL
    step.clip_value, step.clip_norm = clip_value, clip_norm
    step.workspace_size = scratch.columns
    run.n_visits = cnp.PyArray_DIM(order, 0)
    run.batch_size = batch_size
    run.n_coefficients = cnp.PyArray_DIM(coefficients, 1)
    run.coefficients = <const double*> contiguous(coefficients, cnp.NPY_FLOAT64)
    run.averaging = <const double*> contiguous(averaging, cnp.NPY_FLOAT64)
    run.means = <double*> contiguous(losses, cnp.NPY_FLOAT64, True)
    with nogil:
        if single:
            train_team(&net, &data, &step, &run, <float*> scratch.data, n_threads)
        else:
            train_team(&net, &data, &step, &run, <double*> scratch.data, n_threads)


include "_calls.pxi"
include "_derivatives.pxi"
include "_ceilings.pxi"
include "_elementary.pxi"
