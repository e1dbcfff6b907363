# What the processor can do at most with this instruction set; benchmarks compare with it.

from cython.parallel cimport prange

cdef extern from "ceilings.hpp" namespace "fastmlp" nogil:
    Py_ssize_t fma_lanes(const float* kind)
    Py_ssize_t fma_lanes(const double* kind)
    float run_fma(Py_ssize_t steps, float factor)
    double run_fma(Py_ssize_t steps, double factor)
    Py_ssize_t tile_fmas(const float* kind, Py_ssize_t n)
    Py_ssize_t tile_fmas(const double* kind, Py_ssize_t n)
    float run_tile(const float* numbers, Py_ssize_t n, Py_ssize_t steps)
    double run_tile(const double* numbers, Py_ssize_t n, Py_ssize_t steps)
    enum: STREAM_LANES
    float read_stream(const float* data, Py_ssize_t n)
    float update_stream(float* data, Py_ssize_t n, float addend)


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


def multiply_add_tiles(cnp.ndarray numbers, Py_ssize_t steps, int n_threads=1):
    """Multiply and add in the kernels' full tile, in each thread; return the operations done.

    Parameters
    ----------
    numbers : array of float32 or float64, shape (n,)
        What each tile loads, of mean 0 so that sums stay finite: so many that they fit the cache
        that is to feed the tile, from the start of a cache line, contiguous.
    steps : int
        Tiles, one after the other.
    n_threads : int, default=1
        Threads, each of which computes all tiles.

    Returns
    -------
    float
        Additions and multiplications of all threads; timing the call gives the ceiling of code
        that must load what it multiplies.
    """
    cdef const void* start = numbers.data
    cdef Py_ssize_t n = cnp.PyArray_SIZE(numbers), fmas
    cdef double total = 0
    cdef bint single = cnp.PyArray_TYPE(numbers) == cnp.NPY_FLOAT32
    cdef int thread
    for thread in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        if single:
            total += run_tile(<const float*> start, n, steps)
        else:
            total += run_tile(<const double*> start, n, steps)
    fmas = tile_fmas(FLOATS, n) if single else tile_fmas(DOUBLES, n)
    return 2.0 * steps * fmas * n_threads if total == total else 0.0


def stream_memory(cnp.ndarray data, bint write, Py_ssize_t repeats, int n_threads=1):
    """Read, or read and write, an array in slices, one for each thread; return the bytes moved.

    Parameters
    ----------
    data : array of float32, shape (n,)
        A slice's rest that does not fill eight vectors is left out. Written numbers stay the same.
    write : bool
        Whether to write what is read.
    repeats : int
        How often each thread goes through its slice.
    n_threads : int, default=1
        Threads.

    Returns
    -------
    float
        Bytes read and written by all threads; timing the call gives the bandwidth.
    """
    cdef float* start = <float*> writable(data, data).data
    cdef Py_ssize_t share = cnp.PyArray_SIZE(data) // n_threads, repeat
    cdef float addend = 0
    cdef double total = 0
    cdef int thread
    share -= share % STREAM_LANES
    for thread in prange(n_threads, nogil=True, num_threads=n_threads, schedule="static"):
        for repeat in range(repeats if share else 0):
            if write:
                total += update_stream(start + thread * share, share, addend)
            else:
                total += read_stream(start + thread * share, share)
    return (2.0 if write else 1.0) * 4 * share * repeats * n_threads if total == total else 0.0
