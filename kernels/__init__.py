"""All arithmetic on samples and weights: one contract, three backends.

:mod:`~fastmlp.kernels.reference` says what every kernel means; the ``numba`` and
``cython`` backends have the same functions. The Cython backend is compiled once for
each instruction set and the best one that the processor has is loaded; the
environment variable ``FASTMLP_ISA=base|v3|v4`` asks for another.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from types import ModuleType

__all__ = [
    "BACKENDS",
    "has_compiled_kernels",
    "has_openmp",
    "instruction_set",
    "instruction_sets",
    "load_backend",
]

#: Names of the backends, fastest first.
BACKENDS = ("cython", "numba", "numpy")

ISA_VARIABLE = "FASTMLP_ISA"


@cache
def has_compiled_kernels() -> bool:
    """Return whether this installation has the compiled extension.

    Returns
    -------
    bool
        False where it was built as pure Python.
    """
    return importlib.util.find_spec(f"{__name__}._processor") is not None


@cache
def load_backend(name: str) -> ModuleType:
    """Import a backend and return the module of its kernels.

    Parameters
    ----------
    name : {"cython", "numba", "numpy"}
        Name of the backend.

    Returns
    -------
    module
        Has every kernel of :mod:`fastmlp.kernels.reference`.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If the backend is not part of this installation, or ``FASTMLP_ISA`` asks for an
        instruction set that the processor or the installation lacks.
    """
    if name == "numpy":
        return importlib.import_module(f"{__name__}.reference")
    if name == "numba":
        return importlib.import_module(f"{__name__}.numba_backend")
    if name != "cython":
        raise ValueError(f"name must be one of {', '.join(BACKENDS)}, got {name!r}")
    if not has_compiled_kernels():
        raise ImportError(
            "this installation of fastmlp has no compiled kernels; install it again where "
            "a C++ compiler is present, or use the backends 'numba' and 'numpy'"
        )
    return importlib.import_module(f"{__name__}._cython_{instruction_set()}")


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that the processor has.

    Returns
    -------
    tuple of str
        From "base" to the widest.
    """
    return importlib.import_module(f"{__name__}._processor").instruction_sets()


def has_openmp() -> bool:
    """Return whether the compiled kernels can use more than one thread.

    Returns
    -------
    bool
        False where the compiler had no OpenMP.
    """
    return importlib.import_module(f"{__name__}._processor").openmp()


@cache
def instruction_set() -> str:
    """Return the instruction set of the Cython backend: ``FASTMLP_ISA``, else the widest.

    Returns
    -------
    {"base", "v3", "v4"}
        On x86-64, v3 has AVX2 and FMA, v4 has AVX-512; base is any processor's.

    Raises
    ------
    ImportError
        If ``FASTMLP_ISA`` is none of those that this processor has.
    """
    available = instruction_sets()
    wanted = os.environ.get(ISA_VARIABLE) or available[-1]
    if wanted not in available:
        raise ImportError(
            f"{ISA_VARIABLE} must be one of {', '.join(available)} on this processor, "
            f"got {wanted!r}"
        )
    return wanted
