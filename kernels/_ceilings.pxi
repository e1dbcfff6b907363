# What the processor can do at most with this instruction set; benchmarks compare with it.

from cython.parallel cimport prange

cdef extern from "ceilings.hpp" namespace "fastmlp" nogil:
    Py_ssize_t fma_lanes(const float* kind)
    Py_ssize_t fma_lanes(const double* kind)
    float run_fma(Py_ssize_t steps, float factor)
    double run_fma(Py_ssize_t steps, double factor)


def multiply_add_registers(bint single, Py_ssize_t steps, int n_threads=1):
    """Multiply and add in registers only, in each thread; return the operations done.

    Parameters
    ----------
    single : bool
        In float32, else in float64.
    steps : int
        Rounds of multiply-adds.
    n_threads : int, default=1
        Threads, each of which does all rounds.

    Returns
    -------
    float
        Additions and multiplications of all threads; timing the call gives the ceiling.
    """
    cdef double total = 0, factor = 0.5
    cdef int thread
    for thread in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        if single:
            total += run_fma(steps, <float> factor)
        else:
            total += run_fma(steps, factor)
    lanes = fma_lanes(FLOATS) if single else fma_lanes(DOUBLES)
    return 2.0 * steps * lanes * n_threads if total else 0.0
