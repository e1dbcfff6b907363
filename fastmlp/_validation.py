"""Checks of what users pass in: the only home of shapes, dtypes and finiteness.

Every error names the argument, what was expected and what came. Arrays are copied
only where the kernels cannot read them as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .kernels.catalogue import Loss

__all__ = [
    "ARGUMENTS",
    "Array",
    "Batch",
    "Seed",
    "as_batch",
    "as_dtype",
    "as_generator",
    "as_indices",
    "as_list",
    "as_rows",
    "as_samples",
    "as_vector",
    "check_finite",
    "check_integer",
    "check_option",
    "check_output",
    "check_real",
    "for_kernels",
    "look_up",
    "real_array",
]

Row = TypeVar("Row")
Array = NDArray[np.floating]
Seed = int | np.random.Generator | None

DTYPES = (np.dtype("float32"), np.dtype("float64"))
NO_LABELS = np.empty(0, np.int64)

#: What the arguments of most methods are called.
ARGUMENTS = ("X", "y", "sample_weight")

#: Largest |Σⱼ tⱼ − 1| of a row of probabilities: room for rows computed in float16.
PROBABILITY_TOLERANCE = 1e-3


class Batch(NamedTuple):
    """Samples as the network kernels take them, in the order of their arguments.

    Parameters
    ----------
    x : numpy.ndarray of shape (n_samples, n_in)
        Inputs.
    target : numpy.ndarray of shape (n_samples, n_out) or (0, n_out)
        Values or probabilities; no rows if there are labels.
    labels : numpy.ndarray of int64, shape (n_samples,) or (0,)
        Classes, or empty.
    sample_weight : numpy.ndarray of shape (n_samples,) or (0,)
        Weights, or empty for equal ones.
    """

    x: Array
    target: Array
    labels: NDArray[np.int64]
    sample_weight: Array

    def part(self, rows: slice) -> Batch:
        """Return some of the samples.

        Parameters
        ----------
        rows : slice
            Which ones.

        Returns
        -------
        Batch
            Views; what is empty stays empty.
        """
        return Batch(self.x[rows], self.target[rows], self.labels[rows], self.sample_weight[rows])


# --- Scalars and names --------------------------------------------------------------------


def look_up(argument: str, name: object, table: Mapping[str, Row]) -> Row:
    """Return the row of a table that has the name a user gave.

    Parameters
    ----------
    argument : str
        What the user calls it.
    name : object
        What came.
    table : mapping of str
        Rows by name.

    Returns
    -------
    object
        The row.

    Raises
    ------
    TypeError
        If `name` is not a string.
    ValueError
        If the table has no such name; the message has the nearest ones.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    names = ", ".join(map(repr, table))
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be one of {names}, got {_describe(name)}")
    from difflib import get_close_matches

    nearest = get_close_matches(name.lower(), table, cutoff=0.5)
    hint = f" (nearest: {', '.join(map(repr, nearest))})" if nearest else ""
    raise ValueError(f"{argument} must be one of {names}, got {name!r}{hint}")


def as_list(argument: str, value: Iterable[Row], items: str) -> list[Row]:
    """Return the items of a list, or of anything else that is no string and has items.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : iterable
        What came.
    items : str
        What the items are, in the plural.

    Returns
    -------
    list
        The items.

    Raises
    ------
    TypeError
        If it has none, such as None or a single item.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be a list of {items}, got {_describe(value)}")
    return list(value)


def check_integer(argument: str, value: object, minimum: int) -> int:
    """Return an integer that is at least `minimum`.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : object
        What came.
    minimum : int
        Smallest valid value.

    Returns
    -------
    int
        The value.

    Raises
    ------
    TypeError
        If the value is not an integer.
    ValueError
        If it is too small.
    """
    expected = f"{argument} must be an integer of at least {minimum}, got {_describe(value)}"
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(expected)
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(expected) from None
    if number < minimum:
        raise ValueError(expected)
    return number


def check_real(argument: str, value: object, interval: str) -> float:
    """Return a real number that lies in an interval.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : object
        What came.
    interval : str
        Two bounds in brackets, round where the bound is left out: ``"[0, inf)"``.

    Returns
    -------
    float
        The value.

    Raises
    ------
    TypeError
        If the value is not a real number.
    ValueError
        If it lies outside the interval, or is NaN.
    """
    expected = f"{argument} must be a number in {interval}, got {_describe(value)}"
    if np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":  # type: ignore[arg-type]
        raise TypeError(expected)
    number = float(value)  # type: ignore[arg-type]
    low, high = map(float, interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise ValueError(expected)
    return number


def check_option(argument: str, value: object, options: tuple[Any, ...]) -> Any:
    """Return a value that is one of some options.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : object
        What came.
    options : tuple
        Values of one type.

    Returns
    -------
    object
        The value.

    Raises
    ------
    TypeError
        If the value has another type.
    ValueError
        If it is none of the options.
    """
    if type(value) is type(options[0]) and value in options:
        return value
    expected = " or ".join(map(repr, options))
    error = ValueError if type(value) is type(options[0]) else TypeError
    raise error(f"{argument} must be {expected}, got {_describe(value)}")


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a network: float32 or float64.

    Parameters
    ----------
    dtype : str or type or numpy.dtype
        What came.

    Returns
    -------
    numpy.dtype
        One of the two.

    Raises
    ------
    ValueError
        If it is another.
    """
    for known in DTYPES:
        if dtype is not None and dtype in (known, known.name, known.type):
            return known
    raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}")


def as_generator(seed: Seed) -> np.random.Generator:
    """Return a source of random numbers.

    Parameters
    ----------
    seed : int or numpy.random.Generator or None
        What came: a seed, a generator to go on with, or None for new numbers each time.

    Returns
    -------
    numpy.random.Generator
        The source.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if seed is not None and not isinstance(seed, np.random.Generator):
        seed = check_integer("seed", seed, minimum=0)
    return np.random.default_rng(seed)


def _describe(value: object) -> str:
    """Show a value that was refused, or its type where the value would be long."""
    text = repr(value)
    return text if len(text) <= 60 else f"an object of type {type(value).__name__}"


# --- Arrays -------------------------------------------------------------------------------


def real_array(argument: str, value: ArrayLike) -> NDArray[Any]:
    """Return an array of bools, integers or floats, not copied if it is one.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : array_like
        What came.

    Returns
    -------
    numpy.ndarray
        The array, of its own dtype.

    Raises
    ------
    TypeError
        If it holds complex numbers, text or objects.
    ValueError
        If its rows differ in length.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{argument} must be an array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold real numbers, got dtype {array.dtype}")
    return array


def as_rows(array: NDArray[Any], dtype: np.dtype[Any]) -> Array:
    """Return a 2-D array in a dtype and with a unit stride along its rows.

    Parameters
    ----------
    array : numpy.ndarray of shape (n, n_columns)
        Real numbers.
    dtype : numpy.dtype
        The dtype that the kernels want.

    Returns
    -------
    numpy.ndarray of shape (n, n_columns)
        The array itself where the kernels can read it, else a copy.
    """
    if array.dtype == dtype and _has_plain_rows(array):
        return array
    return for_kernels(array, dtype)


def for_kernels(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array as kernels read it; np.ascontiguousarray would not align it.

    Parameters
    ----------
    array : numpy.ndarray
        Real numbers.
    dtype : numpy.dtype
        The dtype that the kernels want.

    Returns
    -------
    numpy.ndarray
        The array itself where it is contiguous, aligned and of that dtype, else a copy.
    """
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _has_plain_rows(array: NDArray[Any]) -> bool:
    """Return whether the entries of a row are neighbours, and rows whole entries apart."""
    return array.flags.aligned and (
        array.flags.c_contiguous
        or (array.strides[-1] == array.itemsize and array.strides[0] % array.itemsize == 0)
    )


def as_samples(
    X: ArrayLike, n_in: int, dtype: np.dtype[Any], argument: str = "X"
) -> tuple[Array, bool]:
    """Return inputs as rows that the kernels can read.

    Parameters
    ----------
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples, or one sample.
    n_in : int
        Features that the network takes.
    dtype : numpy.dtype
        Dtype of the network.
    argument : str, default="X"
        What the user calls it.

    Returns
    -------
    x : numpy.ndarray of shape (n_samples, n_in)
        The samples.
    single : bool
        Whether one sample came.

    Raises
    ------
    TypeError, ValueError
        If it does not hold real numbers or the shape does not fit.
    """
    # Most calls of a network in a loop end here.
    if type(X) is np.ndarray and X.dtype == dtype and X.flags.c_contiguous and X.flags.aligned:
        if X.shape[1:] == (n_in,):
            return X, False
        if X.shape == (n_in,):
            return X[np.newaxis], True
    array = real_array(argument, X)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{argument} must have shape (n_samples, {n_in}) or ({n_in},), got {array.shape}"
        )
    if array.shape[-1] != n_in:
        raise ValueError(f"{argument} has {array.shape[-1]} features, but the network takes {n_in}")
    return as_rows(np.atleast_2d(array), dtype), array.ndim == 1


def as_vector(argument: str, value: ArrayLike, n: int, dtype: np.dtype[Any]) -> Array:
    """Return a contiguous, aligned vector of a given length and dtype.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : array_like of shape (n,)
        What came.
    n : int
        Length that is expected.
    dtype : numpy.dtype
        Dtype that is wanted.

    Returns
    -------
    numpy.ndarray of shape (n,)
        The vector, not copied if it already is one.

    Raises
    ------
    TypeError, ValueError
        If it does not hold real numbers or the shape does not fit.
    """
    array = real_array(argument, value)
    if array.shape != (n,):
        raise ValueError(f"{argument} must have shape ({n},), got {array.shape}")
    return for_kernels(array, dtype)


def as_indices(argument: str, value: ArrayLike, n: int) -> NDArray[np.int64]:
    """Return indices of a vector.

    Parameters
    ----------
    argument : str
        What the user calls it.
    value : array_like of int
        What came.
    n : int
        Length of the vector.

    Returns
    -------
    numpy.ndarray of int64, 1-D
        Indices from 0 to n − 1.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If there is not one axis, or one is out of range.
    """
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{argument} must have shape (n,), got {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{argument} must hold integers, got {array.dtype}")
    wrong = array[(array < 0) | (array >= n)]
    if wrong.size:
        raise ValueError(f"{argument} must be from 0 to {n - 1}, got {wrong[0]}")
    return array.astype(np.int64)


def check_finite(argument: str, array: Array) -> None:
    """Refuse NaN and ±inf, naming the first row and column.

    Parameters
    ----------
    argument : str
        What the user calls it.
    array : numpy.ndarray
        Numbers, in the dtype that will be used.

    Raises
    ------
    ValueError
        If an entry is not finite.
    """
    # NaN is both the largest and the smallest. Two such passes are faster than one sum, and
    # neither makes an array of flags.
    with np.errstate(invalid="ignore"):
        if np.isfinite(array.max(initial=0)) and np.isfinite(array.min(initial=0)):
            return
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = tuple(bad[0])
        raise ValueError(
            f"{argument} must be finite in {array.dtype}, but "
            f"{argument}[{', '.join(map(str, index))}] is {array[index]}"
        )


def check_output(out: Array, shape: tuple[int, ...], x: Array, parameters: Array) -> None:
    """Refuse a caller's buffer that the kernels cannot fill.

    Parameters
    ----------
    out : numpy.ndarray
        What came.
    shape : tuple of int
        Shape that is expected.
    x : numpy.ndarray
        The input, whose dtype is expected and which must not overlap.
    parameters : numpy.ndarray
        The network's memory, which must not overlap either.

    Raises
    ------
    TypeError
        If it is not an array of that dtype.
    ValueError
        If the shape differs, or it is read-only, not aligned, has strided rows, or
        overlaps `x` or `parameters`.
    """
    if not isinstance(out, np.ndarray) or out.dtype != x.dtype:
        raise TypeError(
            f"out must be an array of {x.dtype}, got {getattr(out, 'dtype', type(out).__name__)}"
        )
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if not out.flags.aligned:
        raise ValueError(f"out must start at a multiple of {out.itemsize} bytes, as np.empty does")
    if not _has_plain_rows(out):
        raise ValueError(f"out must have contiguous rows, got strides {out.strides}")
    if np.shares_memory(out, x):
        raise ValueError("out must not overlap X")
    if np.may_share_memory(out, parameters):
        raise ValueError("out must not overlap the network's parameters")


# --- Samples with their targets -----------------------------------------------------------


def as_batch(
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    *,
    n_in: int,
    n_out: int,
    n_targets: int,
    loss: Loss,
    dtype: np.dtype[Any],
    arguments: tuple[str, str, str] = ARGUMENTS,
    finite: bool = False,
) -> Batch:
    """Return inputs and targets as the network kernels take them.

    Samples of weight 0 are left out: whatever they hold, they are absent.

    Parameters
    ----------
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Inputs, or one input.
    y : array_like
        What the loss compares with: a row of `n_targets` numbers or a label for each
        sample; for one number a row also one number a sample.
    sample_weight : array_like of shape (n_samples,) or None
        Weights, or None for equal ones.
    n_in, n_out : int
        Sizes of the network.
    n_targets : int
        Numbers that the loss compares with the outputs of a sample.
    loss : Loss
        Row of the loss.
    dtype : numpy.dtype
        Dtype of the network.
    arguments : tuple of str, default=ARGUMENTS
        What the user calls `X`, `y` and `sample_weight`.
    finite : bool, default=False
        Whether `X` and `y` must be finite.

    Returns
    -------
    Batch
        Arrays that the kernels can read.

    Raises
    ------
    TypeError, ValueError
        If anything does not fit; nothing has been modified.
    """
    x, single = as_samples(X, n_in, dtype, arguments[0])
    if not len(x):
        raise ValueError(f"{arguments[0]} is empty: at least one sample is needed")
    array = real_array(arguments[1], y)
    if single:
        array = array[np.newaxis]
    if not array.ndim or len(array) != len(x):
        came = f"{len(array)} samples" if array.ndim else "no axis of samples"
        raise ValueError(f"{arguments[1]} has {came}, but {arguments[0]} has {len(x)} samples")
    weight = _as_sample_weight(sample_weight, len(x), dtype, arguments[2])
    x_name, y_name, weight_name = arguments
    if len(weight) and not weight.all():
        present = weight > 0
        x, array, weight = x[present], array[present], weight[present]
        x_name, y_name = f"{x_name}[{weight_name} > 0]", f"{y_name}[{weight_name} > 0]"
    target, labels = np.empty((0, n_targets), dtype), NO_LABELS
    if array.ndim == 1 and "labels" in loss.target and n_out > 1:
        labels = _as_labels(array, n_out, loss, y_name)
    else:
        target = _as_target(array, n_targets, loss, dtype, y_name)
    if finite:
        check_finite(x_name, x)
        check_finite(y_name, target)
    return Batch(x, target, labels, weight)


def _as_labels(array: NDArray[Any], n_out: int, loss: Loss, argument: str) -> NDArray[np.int64]:
    """Return one integer in [0, n_out) for each sample."""
    if array.dtype.kind not in "biu":
        kind = loss.target.removeprefix("labels or ")
        raise TypeError(
            f"{argument} must hold integer labels or rows of {n_out} {kind}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    # A copy: kernels index by labels, which another thread or a callback may change meanwhile.
    labels = np.array(array, np.int64, order="C")
    # Seen without sign, a negative label is a huge one: one pass finds both.
    if labels.view(np.uint64).max() >= n_out:
        index = int((labels.view(np.uint64) >= n_out).argmax())
        raise ValueError(
            f"{argument} must hold labels from 0 to {n_out - 1}, the network's outputs, "
            f"but {argument}[{index}] is {array[index]}"
        )
    return labels


def _as_target(
    array: NDArray[Any], n_targets: int, loss: Loss, dtype: np.dtype[Any], argument: str
) -> Array:
    """Return a row of n_targets numbers, such as the loss takes, for each sample."""
    if array.ndim == 1 and n_targets == 1:
        array = array[:, np.newaxis]
    if array.shape[1:] != (n_targets,):
        expected = f"rows of {n_targets} numbers, the network's outputs"
        if loss.outputs_per_target != 1:
            expected = f"rows of {n_targets} numbers, which {loss.name!r} has outputs for"
        if "labels" in loss.target:
            expected = f"integer labels of shape ({len(array)},) or {expected}"
        raise ValueError(f"{argument} must hold {expected}, got shape {array.shape}")
    target = as_rows(array, dtype)
    if loss.target == "counts":
        _check_entries(target, target >= 0, f"{argument} must hold counts of at least 0", argument)
    elif "signs" in loss.target:
        signs = f"{argument} must hold −1 for no and 1 for yes (2 * y - 1 if y is 0 or 1)"
        _check_entries(target, np.abs(target) == 1, signs, argument)
    elif loss.target != "values":
        in_range = (target >= 0) & (target <= 1)
        _check_entries(target, in_range, f"{argument} must hold probabilities", argument)
        if "labels" in loss.target:
            _check_sums(target, argument)
    return target


def _check_entries(target: Array, valid: NDArray[np.bool_], expected: str, argument: str) -> None:
    """Refuse entries that are not valid, naming the first."""
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(f"{expected}, but {argument}[{row}, {column}] is {target[row, column]}")


def _check_sums(target: Array, argument: str) -> None:
    """Refuse rows of probabilities of classes that do not sum to 1."""
    sums = target.sum(axis=1, dtype=np.float64)
    off = np.flatnonzero(np.abs(sums - 1) > PROBABILITY_TOLERANCE)
    if len(off):
        raise ValueError(
            f"{argument} must hold rows of probabilities that sum to 1, but row {off[0]} "
            f"sums to {sums[off[0]]:.6g}"
        )


def _as_sample_weight(
    value: ArrayLike | None, n: int, dtype: np.dtype[Any], argument: str
) -> Array:
    """Return finite weights that are not negative and not all 0, or an empty array."""
    if value is None:
        return np.empty(0, dtype)
    weight = as_vector(argument, value, n, dtype)
    check_finite(argument, weight)
    if (weight < 0).any() or not weight.any():
        raise ValueError(
            f"{argument} must hold weights of at least 0 and not only zeros, got "
            f"{weight.min()} to {weight.max()}"
        )
    return weight
