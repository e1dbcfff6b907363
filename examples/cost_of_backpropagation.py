"""The lecture's claims: what a gradient costs, and how exact a finite difference can be.

Backpropagation costs about two more forward passes, finite differences one or two forward
passes for each weight. This measures both for networks of growing width, and a fair
opponent too: differences that compute again only what a weight changes. Where moving all
weights would take long, a random sample of them is moved; the cost of all is extrapolated
from those and marked with ≈. Then it shows the error of differences against their step, and
that of complex steps, which rounding does not touch.

    python examples/cost_of_backpropagation.py [WIDTH ...] [--plot FILE]

`--plot` draws both, what is extrapolated with hollow markers; it needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

import fastmlp as fm

#: Networks WIDTH-WIDTH-WIDTH-10 of about 10², 10³ … 10⁷ weights and biases.
WIDTHS = (5, 19, 68, 221, 705, 2233)

#: The network for digits of 28 × 28 pixels, measured in any case.
DIGITS = (784, 256, 128, 10)

#: So large that a call's own 10 µs do not count.
BATCH_SIZE = 256

#: All weights are moved as long as that takes no more seconds.
PATIENCE = 2.0

STEPS = 10.0 ** np.arange(-1, -15, -1)
SCHEMES = ("forward", "central", "complex")


@dataclass(frozen=True)
class Cost:
    """Seconds that the gradients of a network take, and which of them are extrapolated."""

    sizes: tuple[int, ...]
    n_parameters: int
    forward: float
    backpropagation: float
    naive: float
    naive_extrapolated: bool
    fair: float
    fair_extrapolated: bool


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Return the median duration of a call, after one to warm up."""
    call()
    durations = []
    for _ in range(repeats):
        began = perf_counter()
        call()
        durations.append(perf_counter() - began)
    return median(durations)


def samples(sizes: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a random batch for a network."""
    X = rng.normal(size=(BATCH_SIZE, sizes[0])).astype("float32")
    return X, rng.integers(sizes[-1], size=BATCH_SIZE)


def cost_of_differences(
    net: fm.MLP, X: np.ndarray, y: np.ndarray, method: str, rng: np.random.Generator
) -> tuple[float, int]:
    """Return the seconds that moving all weights takes, and how many were moved to know it."""
    n_moved, taken = 0, 0.0
    while taken < PATIENCE / 8 and n_moved < net.n_parameters:
        n_before, before = n_moved, taken
        n_moved = min(max(16, 4 * n_moved), net.n_parameters)
        entries = rng.permutation(net.n_parameters)[:n_moved]

        def move(entries: np.ndarray = entries) -> None:
            fm.finite_difference_gradient(net, X, y, method=method, entries=entries)

        taken = seconds(move, 3)
    if n_moved == net.n_parameters:
        return taken, n_moved
    # What does not depend on the number of weights cancels.
    return (taken - before) / (n_moved - n_before) * net.n_parameters, n_moved


def measure(sizes: tuple[int, ...]) -> Cost:
    """Measure what the gradients of a network cost."""
    rng = np.random.default_rng(0)
    net = fm.MLP.from_sizes(sizes, activation="tanh", seed=0)
    X, y = samples(sizes, rng)
    forward = seconds(lambda: net(X))
    gradient = seconds(lambda: net.value_and_grad(X, y))
    naive, n_naive = cost_of_differences(net, X, y, "naive", rng)
    fair, n_fair = cost_of_differences(net, X, y, "fair", rng)
    n = net.n_parameters
    return Cost(sizes, n, forward, gradient, naive, n_naive < n, fair, n_fair < n)


def print_cost(cost: Cost) -> None:
    """Print a line of the table."""
    naive_mark, fair_mark = (
        "≈" if extrapolated else " "
        for extrapolated in (cost.naive_extrapolated, cost.fair_extrapolated)
    )
    print(
        f"{'-'.join(map(str, cost.sizes)):>18} {cost.n_parameters:10,}"
        f" {cost.forward * 1e3:9.3f} ms {cost.backpropagation / cost.forward:8.2f}"
        f" {naive_mark}{cost.naive / cost.backpropagation:14,.0f}"
        f" {fair_mark}{cost.fair / cost.backpropagation:12,.0f} {cost.naive / cost.fair:9.1f}",
        flush=True,
    )


def compare_costs(widths: tuple[int, ...]) -> list[Cost]:
    """Print a line for each width, and how the cost grows."""
    print(
        f"{'network':>18} {'parameters':>10} {'forward':>12} {'gradient':>8}"
        f" {'naive':>15} {'fair':>13} {'naive':>9}"
    )
    print(
        f"{'':>18} {'':>10} {'':>12} {'/ fwd':>8} {'/ gradient':>15} {'/ gradient':>13}"
        f" {'/ fair':>9}"
    )
    costs = []
    for width in widths:
        costs.append(measure((width, width, width, 10)))
        print_cost(costs[-1])
    if widths == WIDTHS:
        print_cost(measure(DIGITS))
    if len(set(widths)) > 1:
        grown = [(cost.n_parameters, cost.naive / cost.backpropagation) for cost in costs]
        slope = np.polyfit(*np.log(grown).T, 1)[0]
        print(f"naive / gradient grows as parameters^{slope:.3f} (central differences, one thread)")
    return costs


def compare_errors() -> np.ndarray:
    """Print the error of differences against their step, in float64, and return it."""
    X, y, _, _ = fm.datasets.load_digits()
    X, y = X[:32], y[:32]
    net = fm.MLP.from_sizes([64, 32, 10], "tanh", dtype="float64", seed=0)
    exact = net.value_and_grad(X, y)[1].to_vector()
    size = np.sqrt(np.mean(exact**2))
    entries = np.random.default_rng(0).choice(len(exact), 300, replace=False)
    print(f"{'step':>7}", *(f"{scheme:>9}" for scheme in SCHEMES), end="")
    print("  largest error / root mean square")
    table = []
    for step in STEPS:
        errors = []
        for scheme in SCHEMES:
            estimate = fm.finite_difference_gradient(
                net, X, y, scheme=scheme, step=step, entries=entries
            ).to_vector()
            errors.append(np.abs(estimate - exact)[entries].max() / size)
        bars = "".join(f" {'*' * max(0, round(np.log10(error) + 16)):<17}" for error in errors)
        print(f"{step:7.0e}", *(f"{error:9.1e}" for error in errors), bars.rstrip())
        table.append(errors)
    return np.array(table)


def plot(costs: list[Cost], errors: np.ndarray, path: str) -> None:
    """Draw seconds against parameters, and errors against steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    n_parameters = [cost.n_parameters for cost in costs]
    for name, colour, marker in (
        ("naive", "C3", "o"),
        ("fair", "C1", "s"),
        ("backpropagation", "C0", "D"),
    ):
        durations = [getattr(cost, name) for cost in costs]
        hollow = [getattr(cost, f"{name}_extrapolated", False) for cost in costs]
        label = name if name == "backpropagation" else f"{name} differences"
        left.loglog(n_parameters, durations, color=colour, lw=1)
        for x, duration, empty in zip(n_parameters, durations, hollow, strict=True):
            face = "white" if empty else colour
            left.plot(x, duration, marker, color=colour, markerfacecolor=face)
        left.plot([], [], f"{marker}-", color=colour, label=label)
    left.plot([], [], "o", color="grey", markerfacecolor="white", label="from a sample of weights")
    left.set(xlabel="weights and biases", ylabel="seconds for a gradient")
    left.set_title(f"What a gradient costs (batch {BATCH_SIZE}, one thread)")
    for scheme, column, marker in zip(SCHEMES, errors.T, "osD", strict=True):
        right.loglog(STEPS, column, f"{marker}-", label=scheme)
    right.set(xlabel="step h", ylabel="largest error / root mean square")
    right.set_title("Truncation to the right, rounding to the left")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("widths", metavar="WIDTH", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--plot", metavar="FILE", help="an image, such as cost.png")
    arguments = parser.parse_args()
    fm.set_num_threads(1)
    costs = compare_costs(tuple(arguments.widths))
    print()
    errors = compare_errors()
    if arguments.plot:
        plot(costs, errors, arguments.plot)


if __name__ == "__main__":
    main()
