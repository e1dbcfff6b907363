"""Metrics by name: numbers to watch while training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._validation import as_list, look_up
from .history import RESERVED

__all__ = [
    "DIRECTIONS",
    "METRICS",
    "MetricFunction",
    "accuracy",
    "binary_accuracy",
    "by_name",
    "check_answers",
    "evaluate",
    "mae",
    "mse",
    "r2",
    "rmse",
]

#: ``f(y, output)`` for targets (n,) or (n, n_out) and outputs (n, n_out); ``f(y, output,
#: sample_weight=…)`` where there are weights and it has the argument.
MetricFunction = Callable[..., float]

Array = NDArray[Any]

#: Activations whose outputs are above 0 for some logits below, where the answer is no.
ABOVE_ZERO = ("sigmoid", "hard_sigmoid", "softplus", "softmax")


def accuracy(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the share of samples whose class the network gets right.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Labels, or rows whose largest entry is the class; for one output a number
        above 1/2 means yes.
    output : numpy.ndarray of shape (n, n_out)
        Logits: the largest is the class; for one output, above 0 means yes.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        From 0 to 1.
    """
    if output.shape[1] == 1:
        return binary_accuracy(y, output, sample_weight)
    labels = y if y.ndim == 1 else y.argmax(axis=1)
    return float(np.average(output.argmax(axis=1) == labels, weights=sample_weight))


def binary_accuracy(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the share of answers, yes or no, that the network gets right.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        For each output, a number above 1/2 means yes.
    output : numpy.ndarray of shape (n, n_out)
        Logits: above 0 means yes.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        From 0 to 1, the mean over the outputs.
    """
    right = (output > 0) == (_rows_like(y, output) > 0.5)
    return float(np.average(right.mean(axis=1), weights=sample_weight))


def mae(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the mean absolute error.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Values.
    output : numpy.ndarray of shape (n, n_out)
        Estimates.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        The mean over samples and outputs, in units of `y`.
    """
    distance = np.abs(output - _rows_like(y, output)).mean(axis=1, dtype=np.float64)
    return float(np.average(distance, weights=sample_weight))


def mse(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the mean squared error.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Values.
    output : numpy.ndarray of shape (n, n_out)
        Estimates.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        The mean over samples and outputs, in squared units of `y`.
    """
    distance = np.square(output - _rows_like(y, output)).mean(axis=1, dtype=np.float64)
    return float(np.average(distance, weights=sample_weight))


def rmse(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the root of the mean squared error over samples and outputs.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Values.
    output : numpy.ndarray of shape (n, n_out)
        Estimates.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        In units of `y`.
    """
    return float(np.sqrt(mse(y, output, sample_weight)))


def r2(y: Array, output: Array, sample_weight: Array | None = None) -> float:
    """Return the coefficient of determination, R² = 1 − Σ (o − y)² / Σ (y − ȳ)².

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Values.
    output : numpy.ndarray of shape (n, n_out)
        Estimates.
    sample_weight : numpy.ndarray of shape (n,), optional
        Weights of the samples; equal if left out.

    Returns
    -------
    float
        The mean over the outputs: 1 if all is right, 0 for the mean as estimate. For an
        output whose values are all the same, 1 if all is right, else 0.
    """
    values = _rows_like(y, output).astype(np.float64)
    mean = np.average(values, axis=0, weights=sample_weight)
    residual = np.average(np.square(output - values), axis=0, weights=sample_weight)
    spread = np.average(np.square(values - mean), axis=0, weights=sample_weight)
    ratio = np.divide(residual, spread, where=spread > 0, out=(residual > 0).astype(np.float64))
    return float(np.mean(1 - ratio))


def _rows_like(y: Array, output: Array) -> Array:
    """Return targets as rows of as many numbers as there are outputs."""
    rows = y.reshape(len(y), -1)
    if rows.shape != output.shape:
        raise ValueError(
            f"this metric needs a number for each output, got y of shape {y.shape} for outputs "
            f"of shape {output.shape}: use a function of your own"
        )
    return rows


METRICS: dict[str, MetricFunction] = {
    function.__name__: function for function in (accuracy, binary_accuracy, mae, mse, rmse, r2)
}

#: Whether small or large values are good.
DIRECTIONS = {name: "min" if name in ("mae", "mse", "rmse") else "max" for name in METRICS}


def evaluate(metric: MetricFunction, y: Array, output: Array, sample_weight: Array) -> float:
    """Compute a metric, with the weights if there are any and it takes them.

    Parameters
    ----------
    metric : callable
        The metric.
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Targets.
    output : numpy.ndarray of shape (n, n_out)
        Outputs.
    sample_weight : numpy.ndarray of shape (n,) or (0,)
        Weights, or empty for equal ones.

    Returns
    -------
    float
        The number.
    """
    if len(sample_weight) and _takes_weights(metric):
        return float(metric(y, output, sample_weight=sample_weight))
    return float(metric(y, output))


def _takes_weights(metric: MetricFunction) -> bool:
    try:
        return "sample_weight" in inspect.signature(metric).parameters
    except (TypeError, ValueError):  # compiled functions may have no signature
        return False


def by_name(metrics: Iterable[str | MetricFunction]) -> dict[str, MetricFunction]:
    """Look metrics up.

    Parameters
    ----------
    metrics : iterable of str or callable
        Names or functions.

    Returns
    -------
    dict
        Functions by name.

    Raises
    ------
    TypeError, ValueError
        If they are no list, one is neither callable nor a known name, or its name is taken.
    """
    functions = [
        metric if callable(metric) else look_up("metrics", metric, METRICS)
        for metric in as_list("metrics", metrics, "names or functions")
    ]
    names = [getattr(function, "__name__", type(function).__name__) for function in functions]
    recorded = [*RESERVED, *names, *(f"val_{name}" for name in names)]
    for name in names:
        if recorded.count(name) > 1:
            raise ValueError(
                f"metrics must have different names, but {name!r} would be in the history "
                "twice: metrics of validation data have 'val_' before their names, and "
                f"{', '.join(map(repr, RESERVED))} are taken"
            )
    return dict(zip(names, functions, strict=True))


def check_answers(
    metrics: Mapping[str, MetricFunction], n_out: int, output_activation: str
) -> None:
    """Refuse metrics that would take every output for a yes.

    Parameters
    ----------
    metrics : mapping of callable
        Functions by name.
    n_out : int
        Outputs of the network.
    output_activation : str
        Name of the last layer's activation.

    Raises
    ------
    ValueError
        If a metric takes the outputs for logits, and those of the activation are above 0
        for a no, too.
    """
    if output_activation not in ABOVE_ZERO:
        return
    for name, metric in metrics.items():
        if metric is binary_accuracy or (metric is accuracy and n_out == 1):
            raise ValueError(
                f"metric {name!r} takes outputs above 0 for yes, but the last activation is "
                f"{output_activation!r}, whose outputs are above 0 for no, too: use 'identity' "
                "there and loss 'binary_cross_entropy', whose outputs are logits, or a metric "
                "function of your own"
            )
