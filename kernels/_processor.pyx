"""What this processor and this build can do."""

cdef extern from "processor.hpp" namespace "fastmlp":
    bint has_v3()
    bint has_v4()
    bint has_openmp()


def instruction_sets():
    """Return the instruction sets that the processor has, the widest last."""
    sets = ["base"]
    if has_v3():
        sets.append("v3")
    if has_v4():
        sets.append("v4")
    return tuple(sets)


def openmp():
    """Return whether the kernels were built with OpenMP, that is, with threads."""
    return has_openmp()
