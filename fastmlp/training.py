"""Training: epochs, the order of samples, and what is recorded of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import (
    ARGUMENTS,
    Batch,
    Seed,
    as_generator,
    check_integer,
    real_array,
)
from .backends import current_kernels, get_backend, threads_for
from .callbacks import Callback, EpochFunction, as_callbacks, progress
from .history import History
from .losses import Loss
from .metrics import MetricFunction, by_name, check_answers, evaluate
from .network import (
    GRADIENT_WORK,
    LARGEST_SEED,
    MLP,
    check_batch,
    check_batch_size,
    make_batch,
)
from .optimizers import Adam, Optimizer, check_optimizer
from .pacing import Pace
from .parameters import Layout

__all__ = ["fit", "step"]

#: A step in parts, whose threads meet once and not in each layer, pays on several threads from so
#: many times the work of another call on. Measured, on two cores, with Adam: 17-64-64-6 at batch
#: 96 (3e6 operations) takes 61 µs with one thread and 54 with two, at batch 128 78 and 61, at batch
#: 256 144 and 117; 8-32-32-2 at batch 512 (4e6) 114 and 80.
EXCHANGING_PARTS = 0.4


@dataclass(frozen=True)
class _Plan:
    """What stays the same from epoch to epoch.

    `data` are the samples to train on under "", those to validate on under "val_", as they
    came; `weighed` the same with class weights. An epoch visits `n_visits` of the former.
    `noise` is the seed of the first step's masks.
    """

    net: MLP
    data: Mapping[str, Batch]
    weighed: Mapping[str, Batch]
    loss: Loss
    metrics: Mapping[str, MetricFunction]
    optimizer: Optimizer
    batch_size: int
    n_visits: int
    generator: np.random.Generator | None
    noise: int


def fit(  # numpydoc ignore=PR01,RT01
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss,
    optimizer: Optimizer | None,
    *,
    sample_weight: ArrayLike | None,
    epochs: int,
    batch_size: int | None,
    drop_last: bool,
    shuffle: bool,
    validation_data: tuple[ArrayLike, ...] | None,
    metrics: Iterable[str | MetricFunction],
    callbacks: Iterable[Callback | EpochFunction],
    verbose: int,
    seed: Seed,
) -> History:
    """Train a network; :meth:`fastmlp.MLP.fit` describes the arguments."""
    epochs = check_integer("epochs", epochs, minimum=1)
    listeners = [*as_callbacks(callbacks), *progress(verbose, epochs)]
    objective, data = _checked_data(net, (X, y, sample_weight), validation_data, loss)
    generator = as_generator(seed)
    n_samples = len(data[""].x)
    size = n_samples if batch_size is None else check_integer("batch_size", batch_size, minimum=1)
    size = min(size, n_samples)
    n_visits = n_samples - n_samples % size if drop_last else n_samples
    check_batch_size(net, size)
    check_batch_size(net, n_visits % size)
    is_random = net.parameters.layout.is_random
    functions = by_name(metrics)
    check_answers(functions, net.n_out, net.layers[-1].activation_row.name)
    plan = _Plan(
        net,
        data,
        {prefix: objective.weigh(batch) for prefix, batch in data.items()},
        objective,
        functions,
        check_optimizer(Adam() if optimizer is None else optimizer),
        size,
        n_visits,
        generator if shuffle else None,
        int(generator.integers(LARGEST_SEED)) if is_random else 0,
    )
    return _run(plan, epochs, listeners)


def _checked_data(
    net: MLP,
    samples: tuple[ArrayLike, ArrayLike, ArrayLike | None],
    validation_data: tuple[ArrayLike, ...] | None,
    loss: str | Loss,
) -> tuple[Loss, dict[str, Batch]]:
    """Return the loss, and the samples to train and to validate on."""
    objective, batch = _checked_batch(net, *samples, loss, ARGUMENTS)
    data = {"": batch}
    if validation_data is not None:
        expected = "validation_data must be a pair (X, y), or (X, y, sample_weight)"
        came = type(validation_data).__name__
        if not isinstance(validation_data, (tuple, list)):
            raise TypeError(f"{expected}, got {came}")
        if len(validation_data) not in (2, 3):
            raise ValueError(f"{expected}, got a {came} of {len(validation_data)}")
        X, y = validation_data[:2]
        sample_weight = validation_data[2] if len(validation_data) == 3 else None
        arguments = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
        _, data["val_"] = _checked_batch(net, X, y, sample_weight, objective, arguments)
    return objective, data


def _checked_batch(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    loss: str | Loss,
    arguments: tuple[str, str, str],
) -> tuple[Loss, Batch]:
    """Return a loss, and samples that are rows of finite numbers."""
    array = real_array(arguments[0], X)
    if array.ndim != 2:
        expected = f"(n_samples, {net.n_in})"
        raise ValueError(f"{arguments[0]} must have shape {expected}, got {array.shape}")
    objective, batch = check_batch(net, array, y, loss, sample_weight, arguments, finite=True)
    return objective, _apart(batch, net)


def _apart(batch: Batch, net: MLP) -> Batch:
    """Return samples that no step changes: copies of those that lie among the parameters."""
    arena = net.parameters.arena
    parts = batch._asdict().items()
    near = {name: part.copy() for name, part in parts if np.may_share_memory(part, arena)}
    return batch._replace(**near)


def _run(plan: _Plan, epochs: int, listeners: Sequence[Callback]) -> History:
    """Train for a number of epochs, or until a listener says stop or the loss diverges."""
    names = [prefix + name for prefix in plan.data for name in ("loss", *plan.metrics)]
    history = History([*names, "seconds"])
    pace = Pace.of_work(GRADIENT_WORK * plan.net.parameters.layout.work(plan.batch_size))
    for listener in listeners:
        listener.on_train_begin(plan.net, history)
    try:
        plan.optimizer.check_owner(plan.net.parameters)
        for epoch in range(epochs):
            began = perf_counter()
            mean, n_steps = _run_epoch(plan, epoch, pace)
            seconds = perf_counter() - began
            values = {"loss": mean, "seconds": seconds} | _evaluate(plan)
            history.append(values, n_steps=n_steps)
            answers = [listener.on_epoch_end(plan.net, epoch, history) for listener in listeners]
            if any(answers) or _has_diverged(history):
                break
    finally:
        for listener in listeners:
            listener.on_train_end(plan.net, history)
    return history


def _run_epoch(plan: _Plan, epoch: int, pace: Pace) -> tuple[float, int]:
    """Visit every sample at most once; return the mean loss and the number of steps."""
    data, size = plan.weighed[""], plan.batch_size
    n_samples = len(data.x)
    order = plan.generator.permutation(n_samples) if plan.generator else np.arange(n_samples)
    order = order[: plan.n_visits]
    losses = np.empty(-(-len(order) // size))
    for steps in pace.slices(len(losses)):
        visits = order[steps.start * size : steps.stop * size]
        seed = plan.noise + epoch * len(losses) + steps.start
        _run_steps(plan.net, seed, data, visits, size, plan.loss, plan.optimizer, losses[steps])
    return _mean_over_samples(losses, data.sample_weight, order, size), len(losses)


def _threads_for_steps(layout: Layout, batch_size: int, n_steps: int) -> int:
    """Return the threads of a run of steps, by how often they meet in a step."""
    work = GRADIENT_WORK * layout.work(batch_size)
    parts = layout.parts(batch_size) if get_backend() == "cython" else 1
    if parts > 1:
        return threads_for(work / EXCHANGING_PARTS, n_steps, parts)
    return threads_for(work / layout.exchange, n_steps)


def _run_steps(
    net: MLP,
    seed: int | None,
    batch: Batch,
    visits: NDArray[np.int64],
    batch_size: int,
    loss: Loss,
    optimizer: Optimizer,
    losses: NDArray[np.float64],
) -> None:
    """Update a network by mini-batch steps, in one call of a kernel.

    `seed` is that of the first step's masks; None goes on with the network's own.
    """
    n_steps = len(losses)
    rule = check_optimizer(optimizer).prepare(net.parameters, n_steps)
    n_before, layout = optimizer.step_count, net.parameters.layout
    stores = rule.clips or layout.is_penalized
    n_threads = _threads_for_steps(layout, batch_size, n_steps)
    train = current_kernels().network_train
    arguments = (
        *net.training_arguments(seed),
        rule.state,
        *batch,
        visits,
        batch_size,
        *loss.arguments(net.n_out),
        rule.row.code,
        rule.coefficients,
        rule.averaging,
        rule.clip_value,
        rule.clip_norm,
        net.workspaces.gradient() if stores else np.empty(0, net.dtype),
        losses,
        net.workspaces.training(batch_size, n_threads),
        n_threads,
    )
    losses.fill(-np.inf)
    try:
        train(*arguments)
        optimizer.advance(n_steps)
    except KeyboardInterrupt:  # of a signal that came meanwhile: compiled kernels are through
        if optimizer.step_count == n_before:
            optimizer.advance(int((losses != -np.inf).sum()))
        raise


def step(  # numpydoc ignore=PR01,RT01
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss,
    sample_weight: ArrayLike | None,
    optimizer: Optimizer,
) -> float:
    """Update a network once; :meth:`fastmlp.MLP.train_step` describes the arguments."""
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    batch = _apart(batch, net)
    n_samples, losses = len(batch.x), np.empty(1)
    check_batch_size(net, n_samples)
    visits = np.arange(n_samples)
    _run_steps(net, None, batch, visits, n_samples, objective, optimizer, losses)
    net.prepare_quick_calls(objective, optimizer)
    return float(losses[0])


def _mean_over_samples(
    losses: NDArray[np.float64],
    sample_weight: NDArray[np.floating],
    order: NDArray[np.int64],
    batch_size: int,
) -> float:
    """Return the mean of batch losses, each counted by the weights of its samples."""
    if len(sample_weight):
        starts = np.arange(0, len(order), batch_size)
        counts = np.add.reduceat(sample_weight[order], starts, dtype=np.float64)
        return float(losses @ counts / counts.sum())
    n_last = len(order) - batch_size * (len(losses) - 1)
    return float(losses[:-1].sum() * batch_size + losses[-1] * n_last) / len(order)


def _evaluate(plan: _Plan) -> dict[str, float]:
    """Return the metrics of all data and the loss of validation data."""
    values = {}
    for prefix, data in plan.data.items():
        if prefix:
            values[f"{prefix}loss"] = plan.net.mean_loss(plan.weighed[prefix], plan.loss)
        if plan.metrics:
            output = plan.net.predict(data.x)
            y = (data.labels if len(data.labels) else data.target).view()
            y.flags.writeable = False  # a metric must not change what kernels index by
            for name, metric in plan.metrics.items():
                values[prefix + name] = evaluate(metric, y, output, data.sample_weight)
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
