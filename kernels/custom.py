"""User-defined activations: scalar functions of Python, compiled for the kernels of all backends.

Numba compiles a function and its derivative to loops over a row, as C functions for
float32 and for float64. Their addresses stand in a table whose own address is the code
of the activation: so kernels find it without knowing of it, and call it for a row at a
time, without the GIL. Numba is imported when something is to be compiled.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .catalogue import CODES, CUSTOM_COLUMNS

__all__ = ["Compiled", "apply", "compile_activation", "is_custom", "takes_z"]

#: A function of one number, for instance of z.
Scalar = Callable[[float], float]

_ROW_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_void_p)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled activation.

    Parameters
    ----------
    table : numpy.ndarray of int64
        Addresses by :data:`~fastmlp.kernels.catalogue.CUSTOM_COLUMNS`.
    functions : tuple
        What the addresses belong to.
    """

    table: NDArray[np.int64]
    functions: tuple[Any, ...]

    @property
    def code(self) -> int:
        """What kernels take for the activation."""
        return self.table.ctypes.data


@functools.cache  # which keeps the functions: no network's table may outlive them
def compile_activation(
    function: Scalar, derivative: Scalar, second_derivative: Scalar | None, takes_z: bool
) -> Compiled:
    """Compile an activation; the same functions are compiled once.

    Parameters
    ----------
    function : callable
        σ of one number.
    derivative : callable
        σ' of one number, y or z.
    second_derivative : callable or None
        σ'' of the same.
    takes_z : bool
        Whether the derivative is of z.

    Returns
    -------
    Compiled
        The activation.

    Raises
    ------
    numba.core.errors.NumbaError
        If Numba cannot compile one of them.
    """
    table = np.zeros(len(CUSTOM_COLUMNS), np.int64)
    table[CODES["CUSTOM_TAKES_Z"]] = takes_z
    functions = []
    for column, scalar in (
        ("CUSTOM_FORWARD", function),
        ("CUSTOM_GRADIENT", derivative),
        ("CUSTOM_CURVATURE", second_derivative),
    ):
        if scalar is None:
            continue
        for offset, dtype in enumerate(("float32", "float64")):
            functions.append(_row_function(scalar, dtype, multiplies=column != "CUSTOM_FORWARD"))
            table[CODES[column] + offset] = functions[-1].address
    return Compiled(table, tuple(functions))


def _row_function(function: Scalar, dtype: str, multiplies: bool) -> Any:
    """Compile the C function that stores a function of a row, or multiplies another row by it."""
    import numba

    compiled = numba.extending.is_jitted(function)
    scalar: Any = function if compiled else numba.njit(function, error_model="numpy")

    def store(source: Any, n: Any, sink: Any) -> None:
        known, out = numba.carray(source, n), numba.carray(sink, n)
        for j in range(n):
            out[j] = scalar(known[j])

    def multiply(source: Any, n: Any, sink: Any) -> None:
        known, grad = numba.carray(source, n), numba.carray(sink, n)
        for j in range(n):
            grad[j] *= scalar(known[j])

    pointer = numba.types.CPointer(getattr(numba.types, dtype))
    signature = numba.types.void(pointer, numba.types.intp, pointer)
    return numba.cfunc(signature, error_model="numpy")(multiply if multiplies else store)


def is_custom(activation: int) -> bool:
    """Return whether a code is that of a user-defined activation.

    Parameters
    ----------
    activation : int
        The code.

    Returns
    -------
    bool
        False for those of the catalogue.
    """
    return activation >= CODES["FIRST_CUSTOM"]


def _cell(activation: int, column: int) -> int:
    table = (ctypes.c_int64 * len(CUSTOM_COLUMNS)).from_address(int(activation))
    return table[column]


def takes_z(activation: int) -> bool:
    """Return whether an activation's derivative is taken from z rather than from y.

    Parameters
    ----------
    activation : int
        Code of any activation.

    Returns
    -------
    bool
        As the catalogue says, or the user.
    """
    if is_custom(activation):
        return bool(_cell(activation, CODES["CUSTOM_TAKES_Z"]))
    return bool(CODES["TAKES_Z"] >> int(activation) & 1)


def apply(activation: int, column: str, source: NDArray[Any], sink: NDArray[Any]) -> None:
    """Run a function of a user-defined activation.

    Parameters
    ----------
    activation : int
        Its code.
    column : {"CUSTOM_FORWARD", "CUSTOM_GRADIENT", "CUSTOM_CURVATURE"}
        Which one: σ is stored, σ' and σ'' are multiplied with what is there.
    source : array
        z or y.
    sink : array
        Contiguous, of the dtype and the size of `source`.
    """
    known = np.ascontiguousarray(source)
    address = _cell(activation, CODES[column] + (known.itemsize == 8))
    _ROW_FUNCTION(address)(known.ctypes.data, known.size, sink.ctypes.data)
