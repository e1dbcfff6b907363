"""Metrics by name: numbers to watch while training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._validation import as_list, look_up
from .history import RESERVED

__all__ = ["METRICS", "MetricFunction", "accuracy", "by_name"]

#: ``f(y, output)`` for targets (n,) or (n, n_out) and outputs (n, n_out).
MetricFunction = Callable[[NDArray[Any], NDArray[Any]], float]


def accuracy(y: NDArray[Any], output: NDArray[Any]) -> float:
    """Return the share of samples whose class the network gets right.

    Parameters
    ----------
    y : numpy.ndarray of shape (n,) or (n, n_out)
        Labels, or rows whose largest entry is the class; for one output a number
        above 1/2 means yes.
    output : numpy.ndarray of shape (n, n_out)
        Logits: the largest is the class; for one output, above 0 means yes.

    Returns
    -------
    float
        From 0 to 1.
    """
    if output.shape[1] == 1:
        return float(np.mean((output[:, 0] > 0) == (y.reshape(-1) > 0.5)))
    labels = y if y.ndim == 1 else y.argmax(axis=1)
    return float(np.mean(output.argmax(axis=1) == labels))


METRICS: dict[str, MetricFunction] = {"accuracy": accuracy}


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
