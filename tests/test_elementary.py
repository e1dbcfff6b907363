"""Elementary functions of the compiled backends: errors in ulp, ranges, NaN, ±inf, subnormals.

``FASTMLP_EXHAUSTIVE=1 python -P -m pytest -s tests/test_elementary.py`` also measures every
float32 number, which takes minutes, and prints the worst errors.
"""

from __future__ import annotations

import functools
import math
import os

import numba
import numpy as np
import pytest

pytestmark = [
    pytest.mark.parametrize("backend", ["cython", "numba"], indirect=True),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NaN and ±inf are met on purpose
]


def sigmoid(z):
    return np.where(z < 0, np.exp(z), 1) / (1 + np.exp(-np.abs(z)))


def normal_cdf(z):
    """Return Φ(z) = ½ erfc(x), x = −z/√2, from the C library's erfc and what rounds x."""
    exact = -z / np.sqrt(z.dtype.type(2))
    x = exact.astype(np.float64)
    slope = -np.exp(-(exact**2)) / np.sqrt(np.arctan(z.dtype.type(1)) * 4)
    correction = np.where(np.isfinite(exact), (exact - x) * slope, 0)
    return 0.5 * np.array([math.erfc(value) for value in x], z.dtype) + correction


EVERYWHERE = (-np.inf, np.inf)

#: Each function by NumPy, its domain and its range.
FUNCTIONS = {
    "exp": (np.exp, EVERYWHERE, (0, np.inf)),
    "expm1": (np.expm1, EVERYWHERE, (-1, np.inf)),
    "log1p": (np.log1p, (0, 1), (0, 1)),
    "normal_cdf": (normal_cdf, EVERYWHERE, (0, 1)),
    "sigmoid": (sigmoid, EVERYWHERE, (0, 1)),
    "tanh": (np.tanh, EVERYWHERE, (-1, 1)),
}

#: The largest errors allowed in float32 and float64, in ulp; of Φ far in its tail.
BOUNDS = {"expm1": (3, 4), "log1p": (3, 4), "normal_cdf": (8, 16)}

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def numbers(bits):
    """Return the floats of some bit patterns."""
    return bits.view({4: np.float32, 8: np.float64}[bits.itemsize])


def sampled_numbers(rng, dtype, n_mantissas):
    """Return numbers of every sign and exponent; in each the first, the last and some others."""
    info, unsigned = np.finfo(dtype), np.dtype(f"u{np.dtype(dtype).itemsize}").type
    mantissas = rng.integers(2**info.nmant, size=n_mantissas, dtype=unsigned)
    mantissas[:3] = 0, 1, 2**info.nmant - 1
    exponents = np.arange(2 ** (info.bits - info.nmant), dtype=unsigned)
    return numbers((exponents[:, None] << unsigned(info.nmant) | mantissas).ravel())


def errors_in_ulp(actual, exact):
    """Return |actual − exact| in units of the last place of `exact`; 0 where both are NaN.

    Beyond the largest number the next one, had the exponent room for it, stands for inf.
    """
    info = np.finfo(actual.dtype)
    exponent = np.frexp(exact)[1]
    ulp = np.ldexp(exact.dtype.type(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
    beyond = np.ldexp(exact.dtype.type(1), info.maxexp)
    finite = np.where(np.isinf(actual), np.copysign(beyond, actual), actual)
    error = np.abs(finite - np.clip(exact, -beyond, beyond)) / ulp
    same = (actual == exact) | (np.isnan(actual) & np.isnan(exact))
    return np.where(same, 0, np.where(np.isnan(error), np.inf, error))


@functools.cache
def loop_of_numba(kernels, name):
    """Return a compiled function that applies one of the Numba backend to a vector."""
    function = getattr(kernels._load_kernels("serial"), f"_{name}")

    @numba.njit
    def apply(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return apply


def evaluate(kernels, name, x, out):
    """Apply a function of a backend to every element of a vector."""
    if hasattr(kernels, "elementary_function"):
        kernels.elementary_function(name, x, out)
    else:
        loop_of_numba(kernels, name)(x, out)


def skip_without_wider_numbers(dtype):
    if np.finfo(np.longdouble).nmant <= np.finfo(dtype).nmant:
        pytest.skip("long double is no wider than float64 here")


def worst_error(kernels, name, x):
    """Return the largest error of a function at some numbers, and where it is."""
    function, (first, last), (lowest, highest) = FUNCTIONS[name]
    x = x[~((x < first) | (x > last))]
    wider = np.float64 if x.dtype == np.float32 else np.longdouble
    out = np.empty_like(x)
    evaluate(kernels, name, x, out)
    assert not (out < lowest).any()
    assert not (out > highest).any()
    errors = errors_in_ulp(out, function(x.astype(wider)))
    worst = errors.argmax()
    return errors[worst], x[worst]


def bound(name, dtype):
    return BOUNDS.get(name, (2, 4))[dtype == np.float64]


def check(kernels, name, x):
    error, where = worst_error(kernels, name, x)
    assert error <= bound(name, x.dtype), f"{error} ulp at {where!r}"


@every_function
def test_every_exponent(kernels, rng, dtype, name):
    skip_without_wider_numbers(dtype)
    check(kernels, name, sampled_numbers(rng, dtype, 500 if dtype == np.float32 else 30))


@every_function
def test_where_the_function_bends(kernels, dtype, name):
    skip_without_wider_numbers(dtype)
    x = np.concatenate([np.linspace(-1, 1, 30_001), np.linspace(-30, 30, 30_001)])
    check(kernels, name, x.astype(dtype))


def test_all_functions_are_measured(kernels):
    if hasattr(kernels, "ELEMENTARY_FUNCTIONS"):
        assert set(kernels.ELEMENTARY_FUNCTIONS) == set(FUNCTIONS)


@pytest.mark.skipif(not os.environ.get("FASTMLP_EXHAUSTIVE"), reason="takes minutes")
@every_function
def test_every_float32_number(kernels, name):
    size = 2**18
    starts = range(0, 2**32, size)
    errors = (
        worst_error(kernels, name, numbers(np.arange(start, start + size, dtype=np.uint32)))
        for start in starts
    )
    error, where = max(errors, key=lambda pair: pair[0])
    print(f"\n{name}: at most {error:.4f} ulp, at {float(where).hex()} = {where!r}")  # noqa: T201
    assert error <= bound(name, np.float32)
