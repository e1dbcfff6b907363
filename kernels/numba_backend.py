"""The ``numba`` backend: kernels compiled when they are first called, then kept on disk.

:mod:`~fastmlp.kernels._numba_kernels` is loaded twice: for one thread, and, with the first
call that asks for more, for several. Each kernel is compiled once for float32 and once for
float64; arrays of other types, and read-only outputs, are a ``TypeError``. ``@njit`` code
may call the functions of this module; they run in its own thread.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numba.extending
import numpy as np
from numba.np.numpy_support import as_dtype

from . import reference

__all__ = list(reference.__all__)

_SOURCE = Path(__file__).with_name("_numba_kernels.py")

# Numba looks only at the file of a kernel: an old cache would survive new codes, say.
_OTHER_FILES = ("arena.py", "catalogue.py", "elementary.py")
_COMPILED_FILES = (_SOURCE, *map(_SOURCE.with_name, _OTHER_FILES))


@functools.cache
def _load_kernels(kind: str) -> ModuleType:
    """Load the kernels as a module whose name, part of the cache's, tells the sources."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in _COMPILED_FILES)).hexdigest()
    name = f"{__package__}._numba_{kind}_{digest[:12]}"
    loader = SourceFileLoader(name, str(_SOURCE))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(_SOURCE)))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


_compile_lock = threading.Lock()

_parallel_allowed = True
_parallel_lock = threading.Lock()


def _forbid_parallel() -> None:
    """Stay with one thread in a forked child: OpenMP would end the process."""
    global _parallel_allowed
    _parallel_allowed = False


os.register_at_fork(after_in_child=_forbid_parallel)


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Have Numba use `n_threads`, or as many as it has."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    # This layer aborts the process on calls from two threads at once.
    exclusive = numba.threading_layer() == "workqueue"
    try:
        with _parallel_lock if exclusive else contextlib.nullcontext():
            yield
    finally:
        numba.set_num_threads(before)


@functools.cache
def _compiled(kind: str, name: str, dtype: np.dtype) -> Callable[..., Any]:
    """Return a kernel that is compiled for a dtype, and refuses others."""
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} takes arrays of float32 or float64, got {dtype}")
    with _compile_lock:
        return _load_kernels(kind).compile_kernel(name, numba.from_dtype(dtype))


def _public(name: str) -> Callable[..., Any]:
    """Make the function that runs a kernel, with the signature of the reference."""
    signature = inspect.signature(getattr(reference, name))
    parameters = signature.parameters.values()
    takes_threads = "n_threads" in signature.parameters
    n_parameters = len(parameters)
    telling = [parameter.annotation for parameter in parameters].index("Array")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) < n_parameters:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        dtype = args[telling].dtype
        if takes_threads and args[-1] > 1 and _parallel_allowed:
            with _threads(args[-1]):
                return _compiled("parallel", name, dtype)(*args)
        return _compiled("serial", name, dtype)(*args)

    @numba.extending.overload(kernel, strict=False)
    def call_from_compiled_code(*args: Any) -> Callable[..., Any]:
        compiled = _compiled("serial", name, as_dtype(args[telling].dtype))
        if len(args) < n_parameters:
            return lambda *args: compiled(*args, 1)
        return lambda *args: compiled(*args)

    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = inspect.getdoc(getattr(reference, name))
    kernel.__dict__["__signature__"] = signature
    return kernel


globals().update({name: _public(name) for name in reference.__all__})
