"""The command ``fastmlp``: a demonstration, a check of gradients, a report of the set-up."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from . import datasets
from ._validation import check_integer
from .activations import softmax
from .backends import (
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
    show_config,
    use_backend,
)
from .gradcheck import check_gradient, finite_difference_gradient
from .history import History
from .kernels import BACKENDS
from .metrics import accuracy
from .network import MLP
from .optimizers import Adam
from .serialization import load
from .text import aligned_table, duration

__all__ = ["main"]

SIZES = (64, 128, 128, 10)
EPOCHS = 30
BATCH_SIZE = 64
LEARNING_RATE = 3e-3

#: Probability of the right class in the targets. Less than 1 keeps the network from
#: growing its logits without end: test accuracy 98.3 % instead of 97.3 %, mean of 10 seeds.
CONFIDENCE = 0.91

#: Epochs of the run that both backends do; rounding has not grown into another network.
COMPARED_EPOCHS = 5
COMPARED_RUNS = 5

#: Moving every parameter of the classifier would take minutes with the NumPy backend.
SMALL_SIZES = (64, 32, 10)

#: For each comparison; medians of hundreds of calls, where a call is short.
SECONDS_PER_TIMING = 1.0

Table = list[list[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command's arguments; the default is those of the process.

    Returns
    -------
    int
        Exit status.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "info":
        show_config()
        return 0
    try:
        if options.command == "bench":
            return _bench(options)
        if options.backend is not None:
            set_backend(options.backend)
        if options.threads is not None:
            set_num_threads(options.threads)
        check_integer("seed", options.seed, minimum=0)
        if options.command == "gradcheck":
            return _gradcheck(options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    _demo(options.seed)
    return 0


class _Version(argparse.Action):
    """Print the version, looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(parser.prog, version("fastmlp"))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastmlp", description="Train and run multilayer perceptrons on the CPU, fast."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print version, backend, instruction set and threads")
    _add_bench(
        commands.add_parser("bench", help="measure speed, against NumPy and other libraries")
    )
    demo = commands.add_parser("demo", help="train a classifier of digits, then time its parts")
    check = commands.add_parser(
        "gradcheck", help="compare a network's backpropagation with finite differences"
    )
    check.add_argument("model", help="file that MLP.save wrote")
    check.add_argument("data", help="NPZ file with arrays X and y, and sample_weight if wanted")
    check.add_argument("--loss", default="cross_entropy", help="default: cross_entropy")
    check.add_argument(
        "--samples", type=int, metavar="N", default=32, help="first samples to take; default: 32"
    )
    check.add_argument(
        "--entries", type=int, metavar="N", help="entries of each weight and bias; default: all"
    )
    check.add_argument(
        "--tolerance", type=float, metavar="T", default=1e-7, help="relative; default: 1e-7"
    )
    for command in (demo, check):
        command.add_argument("--backend", choices=BACKENDS, help=f"default: {get_backend()}")
        command.add_argument(
            "--threads", type=int, metavar="N", help=f"default: {get_num_threads()}"
        )
        command.add_argument("--seed", type=int, metavar="N", default=0, help="default: 0")
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("groups", metavar="GROUP", nargs="*", help="default: all")
    bench.add_argument("--peers", action="store_true", help="measure other libraries as well")
    bench.add_argument("--quick", action="store_true", help="measure less, in 3 minutes")
    bench.add_argument("--threads", type=int, metavar="N", help="most threads of a step")
    bench.add_argument("--json", metavar="FILE", help="write what pytest-benchmark reads")
    bench.add_argument("--report", metavar="DIR", help="write report.html, RESULTS.md and plots")
    bench.add_argument("--compare", metavar="OLD.json", help="end with 1 if a case became slower")


def _bench(options: argparse.Namespace) -> int:
    """Run the benchmarks, which need the extra ``bench``."""
    try:
        from .benchmarks import command
    except ModuleNotFoundError as error:
        raise ImportError(f'{error}; pip install "fastmlp[bench]" has it') from error
    return command.run(options)


def _gradcheck(options: argparse.Namespace) -> int:
    """Print the comparison of the two gradients and return 0 if they agree, else 1."""
    rows = slice(check_integer("samples", options.samples, minimum=1))
    net = load(options.model)
    data = _read_arrays(options.data)
    weights = data.get("sample_weight")
    result = check_gradient(
        net,
        data["X"][rows],
        data["y"][rows],
        options.loss,
        None if weights is None else weights[rows],
        entries_per_part=options.entries,
        tolerance=options.tolerance,
        seed=options.seed,
    )
    print(f"{net}\n{result}")
    return 0 if result.ok() else 1


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    """Read an NPZ file that has X and y; no code in it is run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (BadZipFile, EOFError, TypeError, ValueError):
        raise ValueError(f"{path} must be an NPZ file of plain arrays") from None
    for name in ("X", "y"):
        if name not in arrays:
            raise ValueError(f"{path} must hold arrays X and y, got {', '.join(arrays) or 'none'}")
        if not arrays[name].ndim:
            raise ValueError(f"{name} in {path} must have an axis of samples, got one number")
    return arrays


def _demo(seed: int) -> None:
    """Train a classifier, then print what it and its parts take."""
    X_train, y_train, X_test, y_test = datasets.load_digits()
    targets = _smoothed(y_train)
    net = MLP.from_sizes(SIZES, seed=seed)
    print(f"{net}\nbackend {get_backend()}, {get_num_threads()} threads, Adam, {EPOCHS} epochs")
    began = perf_counter()
    _train(MLP.from_sizes(SIZES), X_train[:BATCH_SIZE], targets[:BATCH_SIZE], 1, seed)
    warm_up = perf_counter() - began
    history = _train(net, X_train, targets, EPOCHS, seed, verbose=1)
    correct = accuracy(y_test, net.predict(X_test))
    rows = [
        ["warm-up", duration(warm_up), "the first step, on another network"],
        ["training", f"{sum(history.seconds):.3g} s", f"{history.n_steps:,} steps"],
        ["test accuracy", f"{100 * correct:.2f} %", f"{len(y_test)} digits not trained on"],
        *_step_rows(net, X_train[:BATCH_SIZE], targets[:BATCH_SIZE]),
        *_difference_rows(X_train[:BATCH_SIZE], targets[:BATCH_SIZE], seed),
        *_baseline_rows(X_train, targets, X_test, seed),
    ]
    print(aligned_table(rows))


def _smoothed(labels: np.ndarray) -> np.ndarray:
    """Return rows of probabilities that are nearly sure of a label."""
    n_classes = SIZES[-1]
    others = (1 - CONFIDENCE) / (n_classes - 1)
    return np.where(labels[:, None] == np.arange(n_classes), CONFIDENCE, others)


def _train(
    net: MLP, X: np.ndarray, y: np.ndarray, epochs: int, seed: int, verbose: Literal[0, 1] = 0
) -> History:
    """Train as the demonstration does, for a number of epochs."""
    return net.fit(
        X,
        y,
        optimizer=Adam(LEARNING_RATE),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=seed,
        verbose=verbose,
    )


def _step_rows(net: MLP, X: np.ndarray, y: np.ndarray) -> Table:
    """Time the parts of a training step."""
    y = y.astype(net.dtype)
    optimizer = Adam(LEARNING_RATE)
    forward, gradient, step = _seconds(
        lambda: net.forward(X),
        lambda: net.value_and_grad(X, y),
        lambda: net.train_step(X, y, optimizer=optimizer),
    )
    batch = f"batch of {len(X)}"
    return [
        ["forward", duration(forward), batch],
        ["backward", duration(gradient - forward), f"{batch}, gradient less forward"],
        [
            "(forward + backward) / forward",
            f"{gradient / forward:.2f}",
            "by count of operations: below 3",
        ],
        ["training step, Adam", duration(step), batch],
    ]


def _difference_rows(X: np.ndarray, y: np.ndarray, seed: int) -> Table:
    """Check a gradient, and time backpropagation against finite differences."""
    net = MLP.from_sizes(SMALL_SIZES, "tanh", dtype="float64", seed=seed)
    X, y = X.astype(net.dtype), y.astype(net.dtype)
    check = check_gradient(net, X, y)
    backpropagation, differences = _seconds(
        lambda: net.value_and_grad(X, y), lambda: finite_difference_gradient(net, X, y), at_least=3
    )
    small = f"{'-'.join(map(str, SMALL_SIZES))} tanh, float64"
    return [
        ["gradient check, worst error", f"{check.max_relative_error:.1e}", f"relative, {small}"],
        ["gradient by backpropagation", duration(backpropagation), small],
        ["gradient by differences", duration(differences), f"{net.n_parameters:,} parameters"],
        ["differences / backpropagation", f"{differences / backpropagation:,.0f}", ""],
    ]


def _baseline_rows(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, seed: int) -> Table:
    """Do one training run with the backend and with the NumPy baseline."""
    if get_backend() == "numpy":
        return [["training run, NumPy baseline", "", "not compared: it is the backend in use"]]
    seconds, outputs = [], []
    for name in (get_backend(), "numpy"):
        # One after the other: idle threads of a BLAS or of OpenMP spin for a while.
        durations = []
        with use_backend(name):
            for _ in range(COMPARED_RUNS):
                net = MLP.from_sizes(SIZES, seed=seed)
                durations.append(sum(_train(net, X, y, COMPARED_EPOCHS, seed).seconds))
            outputs.append(softmax(net.predict(X_test)))
        seconds.append(median(durations))
    ours, baseline = seconds
    difference = np.abs(outputs[0] - outputs[1]).max()
    run = f"{COMPARED_EPOCHS} epochs, median of {COMPARED_RUNS}"
    return [
        [f"training run, {get_backend()}", duration(ours), run],
        ["training run, NumPy baseline", duration(baseline), run],
        ["NumPy baseline / fastmlp", f"{baseline / ours:.1f}", "same weights, order and steps"],
        ["largest difference", f"{difference:.1e}", "of probabilities, after the run"],
    ]


def _seconds(*calls: Callable[[], object], at_least: int = 20) -> list[float]:
    """Return the median duration of each call, run in turn so that all meet the same noise."""
    durations: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = perf_counter() + SECONDS_PER_TIMING
    while len(durations[0]) < at_least or perf_counter() < end:
        for call, of_call in zip(calls, durations, strict=True):
            began = perf_counter()
            call()
            of_call.append(perf_counter() - began)
    return [median(of_call) for of_call in durations]
