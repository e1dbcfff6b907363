"""Training: epochs, the order of samples, and what is recorded of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import (
    Batch,
    Seed,
    as_generator,
    check_finite,
    check_integer,
    real_array,
)
from .backends import current_kernels, threads_for
from .callbacks import Callback, EpochFunction, as_callbacks, progress
from .history import History
from .kernels import catalogue
from .metrics import MetricFunction, by_name
from .network import GRADIENT_WORK, MLP, make_batch
from .optimizers import Adam, Optimizer, check_optimizer
from .pacing import Pace

__all__ = ["fit", "step"]


@dataclass(frozen=True)
class _Plan:
    """What stays the same from epoch to epoch.

    `data` are the samples to train on under "", those to validate on under "val_".
    """

    net: MLP
    data: Mapping[str, Batch]
    loss: catalogue.Loss
    metrics: Mapping[str, MetricFunction]
    optimizer: Optimizer
    batch_size: int
    generator: np.random.Generator | None


def fit(  # numpydoc ignore=PR01,RT01
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str,
    optimizer: Optimizer | None,
    *,
    epochs: int,
    batch_size: int,
    shuffle: bool,
    validation_data: tuple[ArrayLike, ArrayLike] | None,
    metrics: Iterable[str | MetricFunction],
    callbacks: Iterable[Callback | EpochFunction],
    verbose: int,
    seed: Seed,
) -> History:
    """Train a network; :meth:`fastmlp.MLP.fit` describes the arguments."""
    epochs = check_integer("epochs", epochs, minimum=1)
    listeners = [*as_callbacks(callbacks), *progress(verbose, epochs)]
    row, data = _checked_data(net, X, y, validation_data, loss)
    generator = as_generator(seed)
    plan = _Plan(
        net,
        data,
        row,
        by_name(metrics),
        check_optimizer(Adam() if optimizer is None else optimizer),
        min(check_integer("batch_size", batch_size, minimum=1), len(data[""].x)),
        generator if shuffle else None,
    )
    return _run(plan, epochs, listeners)


def _checked_data(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    validation_data: tuple[ArrayLike, ArrayLike] | None,
    loss: str,
) -> tuple[catalogue.Loss, dict[str, Batch]]:
    """Return the row of a loss, and the samples to train and to validate on."""
    row, batch = _checked_batch(net, X, y, loss, ("X", "y"))
    data = {"": batch}
    if validation_data is not None:
        came = type(validation_data).__name__
        if not isinstance(validation_data, (tuple, list)):
            raise TypeError(f"validation_data must be a pair (X, y), got {came}")
        if len(validation_data) != 2:
            raise ValueError(
                f"validation_data must be a pair (X, y), got a {came} of {len(validation_data)}"
            )
        arguments = ("validation_data[0]", "validation_data[1]")
        _, data["val_"] = _checked_batch(net, *validation_data, loss, arguments)
    return row, data


def _checked_batch(
    net: MLP, X: ArrayLike, y: ArrayLike, loss: str, arguments: tuple[str, str]
) -> tuple[catalogue.Loss, Batch]:
    """Return the row of a loss, and samples that are rows of finite numbers."""
    array = real_array(arguments[0], X)
    if array.ndim != 2:
        expected = f"(n_samples, {net.n_in})"
        raise ValueError(f"{arguments[0]} must have shape {expected}, got {array.shape}")
    row, batch = make_batch(net, array, y, loss, arguments=arguments)
    check_finite(arguments[0], batch.x)
    check_finite(arguments[1], batch.target)
    # Kernels index by labels that are checked only here: 8 bytes a sample keep a callback
    # that changes y from sending them out of bounds.
    return row, batch._replace(labels=batch.labels.copy())


def _run(plan: _Plan, epochs: int, listeners: Sequence[Callback]) -> History:
    """Train for a number of epochs, or until a listener says stop or the loss diverges."""
    names = [prefix + name for prefix in plan.data for name in ("loss", *plan.metrics)]
    history = History([*names, "seconds"])
    pace = Pace()
    for listener in listeners:
        listener.on_train_begin(plan.net, history)
    try:
        plan.optimizer.bind(plan.net.parameters)
        for epoch in range(epochs):
            began = perf_counter()
            losses = _run_epoch(plan, pace)
            seconds = perf_counter() - began
            mean = _mean_over_samples(losses, len(plan.data[""].x), plan.batch_size)
            values = {"loss": mean, "seconds": seconds} | _evaluate(plan)
            history.append(values, n_steps=len(losses))
            answers = [listener.on_epoch_end(plan.net, epoch, history) for listener in listeners]
            if any(answers) or _has_diverged(history):
                break
    finally:
        for listener in listeners:
            listener.on_train_end(plan.net, history)
    return history


def _run_epoch(plan: _Plan, pace: Pace) -> np.ndarray:
    """Visit every sample once and return the loss of each batch."""
    data, size = plan.data[""], plan.batch_size
    n_samples = len(data.x)
    order = plan.generator.permutation(n_samples) if plan.generator else np.arange(n_samples)
    losses = np.empty(-(-n_samples // size))
    for steps in pace.slices(len(losses)):
        visits = order[steps.start * size : steps.stop * size]
        _run_steps(plan.net, data, visits, size, plan.loss, plan.optimizer, losses[steps])
    return losses


def _run_steps(
    net: MLP,
    batch: Batch,
    visits: NDArray[np.int64],
    batch_size: int,
    loss: catalogue.Loss,
    optimizer: Optimizer,
    losses: NDArray[np.float64],
) -> None:
    """Update a network by mini-batch steps, in one call of a kernel."""
    n_steps = len(losses)
    rule = check_optimizer(optimizer).prepare(net.parameters, n_steps)
    n_threads = threads_for(GRADIENT_WORK * batch_size * net.parameters.layout.work_per_sample)
    current_kernels().network_train(
        *net.kernel_arguments,
        rule.state,
        batch.x,
        batch.target,
        batch.labels,
        visits,
        batch_size,
        loss.code,
        rule.row.code,
        rule.coefficients,
        rule.averaging,
        rule.clip_value,
        rule.clip_norm,
        net.workspaces.gradient() if rule.clips else np.empty(0, net.dtype),
        losses,
        net.workspaces.training(batch_size, n_threads),
        n_threads,
    )
    optimizer.advance(n_steps)


def step(  # numpydoc ignore=PR01,RT01
    net: MLP, X: ArrayLike, y: ArrayLike, loss: str, optimizer: Optimizer
) -> float:
    """Update a network once; :meth:`fastmlp.MLP.train_step` describes the arguments."""
    row, batch = make_batch(net, X, y, loss)
    n_samples, losses = len(batch.x), np.empty(1)
    _run_steps(net, batch, np.arange(n_samples), n_samples, row, optimizer, losses)
    return float(losses[0])


def _mean_over_samples(losses: np.ndarray, n_samples: int, batch_size: int) -> float:
    """Return the mean of batch losses, the last batch counted by its size."""
    sizes = np.full(len(losses), batch_size)
    sizes[-1] = n_samples - batch_size * (len(losses) - 1)
    return float(np.average(losses, weights=sizes))


def _evaluate(plan: _Plan) -> dict[str, float]:
    """Return the metrics of all data and the loss of validation data."""
    values = {}
    for prefix, data in plan.data.items():
        if prefix:
            values[f"{prefix}loss"] = plan.net.mean_loss(data, plan.loss)
        if plan.metrics:
            output = plan.net.predict(data.x)
            y = (data.labels if len(data.labels) else data.target).view()
            y.flags.writeable = False  # a metric must not change what kernels index by
            values |= {prefix + name: float(f(y, output)) for name, f in plan.metrics.items()}
    return values


def _has_diverged(history: History) -> bool:
    """Warn if the last epoch's loss is not finite."""
    if np.isfinite(history.loss[-1]):
        return False
    warnings.warn(
        f"training diverged: the loss of epoch {history.n_epochs - 1} is {history.loss[-1]}; "
        "lower the learning rate or scale the data",
        RuntimeWarning,
        stacklevel=5,
    )
    return True
