# The functions of elementary.hpp one by one, whose errors the tests measure.

ELEMENTARY_FUNCTIONS = ("exp", "expm1", "log1p", "normal_cdf", "sigmoid", "tanh")


cdef void apply_elementary(
    int function, const floating* x, Py_ssize_t n, floating* out
) noexcept nogil:
    cdef Py_ssize_t j
    if function == 0:
        for j in range(n):
            out[j] = fast_exp(x[j])
    elif function == 1:
        for j in range(n):
            out[j] = fast_expm1(x[j])
    elif function == 2:
        for j in range(n):
            out[j] = fast_log1p(x[j])
    elif function == 3:
        for j in range(n):
            out[j] = fast_normal_cdf(x[j])
    elif function == 4:
        for j in range(n):
            out[j] = fast_sigmoid(x[j])
    else:
        for j in range(n):
            out[j] = fast_tanh(x[j])


def elementary_function(str name, cnp.ndarray x, cnp.ndarray out):
    """Apply a function of elementary.hpp to every element of a vector.

    Parameters
    ----------
    name : str
        One of ``ELEMENTARY_FUNCTIONS``.
    x : array of shape (n,)
        Arguments.
    out : array of shape (n,)
        Receives the values.
    """
    cdef int function = ELEMENTARY_FUNCTIONS.index(name)
    cdef Matrix source = matrix_of(x, x), sink = writable(out, x)
    if is_single(x):
        apply_elementary(function, <float*> source.data, source.columns, <float*> sink.data)
    else:
        apply_elementary(function, <double*> source.data, source.columns, <double*> sink.data)
