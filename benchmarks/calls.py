"""Cases of fastmlp alone, in this process, checked against the NumPy reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastmlp as fm

from .measuring import Call, Case, agree
from .problems import GRADIENTS, Problem

__all__ = ["call_case", "fit_case"]


def _network(problem: Problem, activation: str) -> fm.MLP:
    return fm.MLP.from_sizes(problem.sizes, activation, dtype=problem.dtype, seed=0)


def fit_case(
    line: str,
    name: str,
    problem: Problem,
    n_threads: int,
    make: Callable[[], fm.Optimizer] = lambda: fm.SGD(1e-3),
    activation: str | None = None,
    **notes: Any,
) -> Case:
    """Return a case of training steps inside ``fit``.

    Parameters
    ----------
    line, name : str
        As in :class:`~fastmlp.benchmarks.measuring.Case`.
    problem : Problem
        What is trained.
    n_threads : int
        Limit of the threads.
    make : callable
        Returns an optimizer.
    activation : str, optional
        Another one than the problem's.
    **notes
        More about the case.
    """

    def train(net: fm.MLP, optimizer: fm.Optimizer) -> None:
        options = {"epochs": 1, "batch_size": problem.batch_size, "shuffle": False, "verbose": 0}
        net.fit(*data, problem.loss, optimizer, **options)

    def check() -> None:
        reached = []
        for backend in ("cython", "numpy"):
            net = _network(problem, kind)
            with fm.use_backend(backend):
                train(net, make())
            reached.append(net.get_parameters())
        agree(reached[:1], reached[1:], str(problem))

    def open_job() -> Call:
        net, optimizer = _network(problem, kind), make()
        return Call(lambda: train(net, optimizer), check, n_threads, problem.n_batches)

    kind, data = activation or problem.activation, problem.samples()
    return Case(
        line,
        name,
        open_job,
        problem.work(n_threads),
        problem.n_batches,
        notes=_notes(problem, notes),
    )


def call_case(line: str, name: str, problem: Problem, n_threads: int, **notes: Any) -> Case:
    """Return a case of calls of a network: outputs, a gradient, or an SGD step.

    Parameters
    ----------
    line, name : str
        As in :class:`~fastmlp.benchmarks.measuring.Case`.
    problem : Problem
        What is called.
    n_threads : int
        Limit of the threads.
    **notes
        More about the case.
    """

    def call(net: fm.MLP, x: np.ndarray, y: Any, optimizer: fm.Optimizer) -> np.ndarray:
        if problem.job == "forward":
            return net(x)
        if problem.job in GRADIENTS:
            factored = problem.job == "factored"
            return net.value_and_grad(x, y, problem.loss, factored=factored)[1]
        return net.train_step(x, y, problem.loss, optimizer=optimizer)

    def check() -> None:
        found = []
        for backend in ("cython", "numpy"):
            net = _network(problem, problem.activation)
            with fm.use_backend(backend):
                value = call(net, *batch(), fm.SGD(1e-3))
            vector = value.to_vector() if problem.job in GRADIENTS else np.atleast_1d(value)
            found.append(vector if problem.job != "sgd" else net.get_parameters())
        agree(found[:1], found[1:], str(problem))

    def batch() -> tuple[np.ndarray, Any]:
        x, y = problem.batches()[0]
        return (x, int(y)) if problem.single else (x, y)

    def open_job() -> Call:
        net, (x, y), optimizer = _network(problem, problem.activation), batch(), fm.SGD(1e-6)
        return Call(lambda: call(net, x, y, optimizer), check, n_threads)

    return Case(line, name, open_job, problem.work(n_threads), notes=_notes(problem, notes))


def _notes(problem: Problem, notes: dict[str, Any]) -> dict[str, Any]:
    return {"problem": str(problem), "batch_size": problem.batch_size} | notes
