# A few samples through one network with next to nothing between Python and the arithmetic: the
# arrays of the network are taken apart once, and a call only looks whether its own arrays are
# plain. What is not plain is answered by None, and goes the way through all checks.

from numpy import int64 as LABEL  # what an array of labels has


cdef class Objective:
    """What samples are compared with: a loss, and the targets that need no further check.

    Parameters
    ----------
    loss : int
        Code of the loss.
    loss_parameters : array of float64
        Its parameters.
    n_labels : int
        Classes of a label, or 0 if targets are values.
    n_targets : int
        Length of a target of values.
    """

    cdef Loss loss
    cdef cnp.ndarray parameters  # keeps the memory of `loss`
    cdef Py_ssize_t n_labels
    cdef Py_ssize_t n_targets

    def __init__(
        self, int loss, cnp.ndarray loss_parameters, Py_ssize_t n_labels, Py_ssize_t n_targets
    ):
        self.loss, self.parameters = loss_of(loss, loss_parameters), loss_parameters
        self.n_labels, self.n_targets = n_labels, n_targets


cdef class Rule:
    """How parameters are updated in the steps to come.

    Parameters
    ----------
    optimizer : int
        Code of the recurrence.
    state : array of shape (n_state, n_elements)
        What it remembers.
    coefficients : array of float64, shape (n_steps, n_coefficients)
        Scalars of each step.
    """

    cdef int optimizer
    cdef cnp.ndarray state
    cdef cnp.ndarray coefficients

    def __init__(self, int optimizer, cnp.ndarray state, cnp.ndarray coefficients):
        contiguous(coefficients, cnp.NPY_FLOAT64)
        self.optimizer, self.state, self.coefficients = optimizer, state, coefficients


cdef class Caller:
    """One network, taken apart.

    Parameters
    ----------
    layers, settings, parameters : arrays
        The network, as network kernels take it.
    workspace : array of shape (training_workspace_size(...),)
        For n_rows samples and one thread.
    n_rows : int
        Most samples of a call, at most QUICK_ROWS.
    work : float
        Floating-point operations of a forward pass on one sample.
    least_work : float
        What a forward pass costs at least, in such operations.
    """

    cdef Network net
    cdef tuple arrays  # keeps the memory of `net` and `workspace`
    cdef cnp.ndarray parameters
    cdef Matrix workspace
    cdef Py_ssize_t n_in
    cdef Py_ssize_t n_out
    cdef Py_ssize_t n_inputs  # of all layers
    cdef Py_ssize_t n_deltas
    cdef Py_ssize_t n_rows
    cdef double work
    cdef double least_work
    cdef int kind  # NumPy's number of the dtype
    cdef bint busy  # while another thread computes in the workspace

    def __init__(
        self,
        cnp.ndarray layers,
        cnp.ndarray settings,
        cnp.ndarray parameters,
        cnp.ndarray workspace,
        Py_ssize_t n_rows,
        double work,
        double least_work,
    ):
        self.net = network_of(layers, settings, parameters, parameters)
        self.arrays, self.parameters = (layers, settings, workspace), parameters
        self.workspace = writable(workspace, parameters)
        self.n_in = layer_of(&self.net, 0)[N_IN]
        self.n_out = layer_of(&self.net, self.net.n_layers - 1)[N_OUT]
        self.n_inputs = layers[:, N_IN].sum()
        self.n_deltas = layers[:, N_OUT].sum()
        self.n_rows = min(n_rows, QUICK_ROWS)
        self.work, self.least_work = work, least_work
        self.kind = cnp.PyArray_TYPE(parameters)
        self.busy = False

    cdef Py_ssize_t rows_of(self, object array, Py_ssize_t n):
        """Return how many vectors an object has that a kernel can read as it is, or 0."""
        cdef int last
        if not (
            cnp.PyArray_CheckExact(array)
            and cnp.PyArray_TYPE(array) == self.kind
            and cnp.PyArray_ISCARRAY_RO(array)
        ):
            return 0
        last = cnp.PyArray_NDIM(array) - 1
        if last < 0 or last > 1 or cnp.PyArray_DIM(array, last) != n:
            return 0
        return cnp.PyArray_DIM(array, 0) if last else 1

    cdef Py_ssize_t samples_of(self, object x, double limit):
        """Return how many samples a call has, or 0 if it is none of these calls.

        `limit` is the most operations of a forward pass that may be needed.
        """
        cdef Py_ssize_t rows = 0 if self.busy else self.rows_of(x, self.n_in)
        if rows > self.n_rows or max(rows * self.work, self.least_work) >= limit:
            return 0
        return rows

    cdef bint is_output(self, object out, cnp.ndarray x):
        """Return whether outputs can be written to an object, which has no part of the inputs."""
        return (
            self.rows_of(out, self.n_out) == self.rows_of(x, self.n_in)
            and cnp.PyArray_NDIM(out) == cnp.PyArray_NDIM(x)
            and cnp.PyArray_ISWRITEABLE(out)
            and are_apart(out, x)
            and are_apart(out, self.parameters)
        )

    cdef bint describe(
        self, object x, object y, Objective objective, double limit, int64_t* labels, Data* data
    ) except -1:
        """Describe samples; return whether all is plain."""
        cdef Py_ssize_t rows = self.samples_of(x, limit)
        if rows == 0:
            return False
        data.x = matrix_of(x, self.parameters)
        data.target = data.x
        data.labels = data.order = NULL
        data.sample_weight = data.statistics = NULL
        data.visit = 0
        data.loss, data.share = objective.loss, 1.0 / rows
        if objective.n_labels:
            data.labels = labels
            return copy_labels(y, cnp.PyArray_NDIM(x) == 1, rows, objective.n_labels, labels)
        if self.rows_of(y, objective.n_targets) != rows:
            return False
        if cnp.PyArray_NDIM(y) != cnp.PyArray_NDIM(x):
            return False
        data.target = matrix_of(y, self.parameters)
        return True

    cdef double run(self, const Data* data, Step* step) except? -1:
        """Run one step, the workspace being free."""
        cdef double mean = 0
        step.mean, step.workspace_size = &mean, self.workspace.columns
        self.busy = True
        with nogil:
            if self.kind == cnp.NPY_FLOAT32:
                step_team(&self.net, data, step, <float*> self.workspace.data, 1)
            else:
                step_team(&self.net, data, step, <double*> self.workspace.data, 1)
        self.busy = False
        return mean

    def takes(self, x, y, Objective objective not None, double limit):
        """Return whether samples are plain."""
        cdef int64_t labels[QUICK_ROWS]
        cdef Data data
        return self.describe(x, y, objective, limit, labels, &data)

    def forward(self, x, out, double limit):
        """Return the outputs, or None."""
        cdef cnp.npy_intp[2] shape
        cdef Matrix source, sink
        cdef Py_ssize_t rows = self.samples_of(x, limit)
        if rows == 0:
            return None
        if out is None:
            shape[0], shape[1] = rows, self.n_out
            if cnp.PyArray_NDIM(x) == 1:
                shape[0] = self.n_out
            out = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), shape, self.kind, 0)
        elif not self.is_output(out, x):
            return None
        source, sink = matrix_of(x, self.parameters), matrix_of(out, self.parameters)
        self.busy = True
        with nogil:
            if self.kind == cnp.NPY_FLOAT32:
                forward_team(&self.net, source, sink, <float*> self.workspace.data, 1)
            else:
                forward_team(&self.net, source, sink, <double*> self.workspace.data, 1)
        self.busy = False
        return out

    def value_and_grad(self, x, y, Objective objective not None, double limit):
        """Return the mean loss and an arena with its derivatives, or None."""
        cdef int64_t labels[QUICK_ROWS]
        cdef Data data
        cdef Step step
        cdef cnp.ndarray grad
        cdef Py_ssize_t n_elements = cnp.PyArray_DIM(self.parameters, 0)
        if not self.describe(x, y, objective, limit, labels, &data):
            return None
        grad = aligned_like(self.parameters)
        if self.kind == cnp.NPY_FLOAT32:
            clear_unfilled(&self.net, n_elements, <float*> cnp.PyArray_DATA(grad))
        else:
            clear_unfilled(&self.net, n_elements, <double*> cnp.PyArray_DATA(grad))
        step = storing_step(cnp.PyArray_DATA(grad))
        return self.run(&data, &step), grad

    def factors(self, x, y, Objective objective not None, double limit):
        """Return the mean loss and the factors of its derivatives, or None."""
        cdef int64_t labels[QUICK_ROWS]
        cdef Data data
        cdef Matrix a, delta
        cdef double mean
        if not self.describe(x, y, objective, limit, labels, &data):
            return None
        inputs = self.empty_rows(data.x.rows, self.n_inputs)
        deltas = self.empty_rows(data.x.rows, self.n_deltas)
        a, delta = matrix_of(inputs, self.parameters), matrix_of(deltas, self.parameters)
        self.busy = True
        with nogil:
            if self.kind == cnp.NPY_FLOAT32:
                mean = factors_team(
                    &self.net, &data, a, delta, <float*> self.workspace.data, 1
                )
            else:
                mean = factors_team(
                    &self.net, &data, a, delta, <double*> self.workspace.data, 1
                )
        self.busy = False
        return mean, inputs, deltas

    cdef cnp.ndarray empty_rows(self, Py_ssize_t rows, Py_ssize_t columns):
        """Return a new matrix, not filled, of the network's type."""
        cdef cnp.npy_intp[2] shape
        shape[0], shape[1] = rows, columns
        return cnp.PyArray_EMPTY(2, shape, self.kind, 0)

    def train_step(
        self, x, y, Objective objective not None, Rule rule not None, Py_ssize_t index, double limit
    ):
        """Update the parameters; return the mean loss before, or None."""
        cdef int64_t labels[QUICK_ROWS]
        cdef Data data
        cdef Step step
        cdef float singles[MAX_COEFFICIENTS]
        cdef Py_ssize_t j, n = cnp.PyArray_DIM(rule.coefficients, 1)
        cdef const double* coefficients
        if not self.describe(x, y, objective, limit, labels, &data):
            return None
        if not are_apart(x, self.parameters):  # samples that the step would change
            return None
        if cnp.PyArray_CheckExact(y) and not are_apart(y, self.parameters):
            return None
        coefficients = <const double*> cnp.PyArray_DATA(rule.coefficients) + index * n
        for j in range(n):
            singles[j] = <float> coefficients[j]
        step = storing_step(self.net.parameters)
        step.state, step.optimizer = cnp.PyArray_DATA(rule.state), rule.optimizer
        step.slot = cnp.PyArray_DIM(rule.state, 1)
        step.coefficients = coefficients
        if self.kind == cnp.NPY_FLOAT32:
            step.coefficients = singles
        return self.run(&data, &step)


cdef bint copy_labels(
    object y, bint single, Py_ssize_t rows, Py_ssize_t n_labels, int64_t* out
) except -1:
    """Copy plain labels, for another thread may change them; return whether they are."""
    cdef Py_ssize_t row
    if single:
        if not (type(y) is int or type(y) is LABEL) or not 0 <= y < n_labels:
            return False
        out[0] = y
        return True
    if not (
        cnp.PyArray_CheckExact(y)
        and cnp.PyArray_TYPE(y) == cnp.NPY_INT64
        and cnp.PyArray_ISCARRAY_RO(y)
        and cnp.PyArray_NDIM(y) == 1
        and cnp.PyArray_DIM(y, 0) == rows
    ):
        return False
    for row in range(rows):
        out[row] = (<const int64_t*> cnp.PyArray_DATA(y))[row]
        if not 0 <= out[row] < n_labels:
            return False
    return True


cdef inline bint are_apart(cnp.ndarray one, cnp.ndarray other):
    """Return whether two contiguous arrays share no memory."""
    cdef char* first = <char*> cnp.PyArray_DATA(one)
    cdef char* second = <char*> cnp.PyArray_DATA(other)
    return (
        first + cnp.PyArray_NBYTES(one) <= second or second + cnp.PyArray_NBYTES(other) <= first
    )


cdef cnp.ndarray aligned_like(cnp.ndarray vector):
    """Return a new vector, not filled, that begins at a cache line."""
    cdef cnp.npy_intp n = cnp.PyArray_DIM(vector, 0), padding = ROW_MULTIPLE
    cdef cnp.npy_intp size = n + padding
    cdef cnp.ndarray block = cnp.PyArray_EMPTY(1, &size, cnp.PyArray_TYPE(vector), 0)
    cdef size_t skipped = -<size_t> cnp.PyArray_DATA(block) % CACHE_LINE
    cdef cnp.ndarray view = cnp.PyArray_SimpleNewFromData(
        1, &n, cnp.PyArray_TYPE(vector), <char*> cnp.PyArray_DATA(block) + skipped
    )
    cnp.set_array_base(view, block)
    return view
