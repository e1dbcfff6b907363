# One sample through one network with next to nothing between Python and the arithmetic: the
# arrays of the network are taken apart once, and a call only looks whether its own arrays are
# plain. What is not plain is answered by None, and goes the way through all checks.

cdef class Objective:
    """What one sample is compared with: a loss, and the targets that need no further check.

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
    layers, alphas, parameters : arrays
        The network, as network kernels take it.
    workspace : array of shape (training_workspace_size(...),)
        For one sample and one thread.
    """

    cdef Network net
    cdef tuple arrays  # keeps the memory of `net` and `workspace`
    cdef cnp.ndarray parameters
    cdef Matrix workspace
    cdef Py_ssize_t n_in
    cdef Py_ssize_t n_out
    cdef int kind  # NumPy's number of the dtype
    cdef bint busy  # while another thread computes in the workspace

    def __init__(
        self,
        cnp.ndarray layers,
        cnp.ndarray alphas,
        cnp.ndarray parameters,
        cnp.ndarray workspace,
    ):
        self.net = network_of(layers, alphas, parameters, parameters)
        self.arrays, self.parameters = (layers, alphas, workspace), parameters
        self.workspace = writable(workspace, parameters)
        self.n_in = layer_of(&self.net, 0)[N_IN]
        self.n_out = layer_of(&self.net, self.net.n_layers - 1)[N_OUT]
        self.kind = cnp.PyArray_TYPE(parameters)
        self.busy = False

    cdef bint is_plain(self, object array, Py_ssize_t n):
        """Return whether an object is a vector that a kernel can read as it is."""
        return (
            cnp.PyArray_CheckExact(array)
            and cnp.PyArray_TYPE(array) == self.kind
            and cnp.PyArray_NDIM(array) == 1
            and cnp.PyArray_DIM(array, 0) == n
            and cnp.PyArray_ISCARRAY_RO(array)
        )

    cdef bint is_plain_output(self, object out, cnp.ndarray x):
        """Return whether outputs can be written to an object, which has no part of the inputs."""
        return (
            self.is_plain(out, self.n_out)
            and cnp.PyArray_ISWRITEABLE(out)
            and are_apart(out, x)
            and are_apart(out, self.parameters)
        )

    cdef bint describe(
        self, object x, object y, Objective objective, int64_t* label, Data* data
    ) except -1:
        """Describe one sample; return whether it is plain."""
        if self.busy or not self.is_plain(x, self.n_in):
            return False
        data.x = matrix_of(x, self.parameters)
        data.target = data.x
        data.labels = data.order = NULL
        data.sample_weight = NULL
        data.loss, data.share = objective.loss, 1
        if objective.n_labels:
            if type(y) is not int or not 0 <= y < objective.n_labels:
                return False
            label[0] = y
            data.labels = label
        elif self.is_plain(y, objective.n_targets):
            data.target = matrix_of(y, self.parameters)
        else:
            return False
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

    def forward(self, x, out=None):
        """Return the outputs for one sample, or None."""
        cdef cnp.npy_intp n_out = self.n_out
        cdef Matrix source, sink
        if self.busy or not self.is_plain(x, self.n_in):
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(1, &n_out, self.kind, 0)
        elif not self.is_plain_output(out, x):
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

    def value_and_grad(self, x, y, Objective objective not None):
        """Return the loss of one sample and an arena with its derivatives, or None."""
        cdef int64_t label
        cdef Data data
        cdef Step step
        cdef cnp.ndarray grad
        if not self.describe(x, y, objective, &label, &data):
            return None
        grad = aligned_like(self.parameters)
        if self.kind == cnp.NPY_FLOAT32:
            clear_arena_padding(&self.net, <float*> cnp.PyArray_DATA(grad))
        else:
            clear_arena_padding(&self.net, <double*> cnp.PyArray_DATA(grad))
        step = storing_step(cnp.PyArray_DATA(grad))
        return self.run(&data, &step), grad

    def train_step(self, x, y, Objective objective not None, Rule rule not None, Py_ssize_t index):
        """Update the parameters by one sample; return the loss before, or None."""
        cdef int64_t label
        cdef Data data
        cdef Step step
        cdef float singles[MAX_COEFFICIENTS]
        cdef Py_ssize_t j, n = cnp.PyArray_DIM(rule.coefficients, 1)
        cdef const double* coefficients
        if not self.describe(x, y, objective, &label, &data):
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
    cdef cnp.npy_intp itemsize = cnp.PyArray_ITEMSIZE(block)
    cdef size_t skipped = -<size_t> cnp.PyArray_DATA(block) % CACHE_LINE
    cdef cnp.ndarray view = cnp.PyArray_SimpleNewFromData(
        1, &n, cnp.PyArray_TYPE(vector), <char*> cnp.PyArray_DATA(block) + skipped
    )
    cnp.set_array_base(view, block)
    return view
