"""What a gradient costs by backpropagation, and by moving each weight in turn."""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np

import fastmlp as fm
from fastmlp.benchmarks.measuring import Call, Case, Options
from fastmlp.benchmarks.problems import Problem

#: Networks WIDTH-WIDTH-WIDTH-10 of about 10², 10³ … 10⁷ weights and biases.
WIDTHS = (5, 19, 68, 221, 705, 2233)

#: So large that a call's own 10 µs do not count.
BATCH_SIZE = 256

#: Weights are moved evenly over all layers, as many as this many operations allow; the rest is
#: extrapolated from what the last three quarters of them add.
MOST_FLOPS = 1e9


class Task:
    """A network with a batch, made when it is first needed."""

    def __init__(self, width: int) -> None:
        self.sizes = (width, width, width, 10)
        self.problem = Problem(self.sizes, BATCH_SIZE, "forward", "tanh", n_batches=1)
        self.flops = self.problem.work(1).flops
        self.n_parameters = 2 * width * (width + 1) + 10 * (width + 1)

    @cached_property
    def net(self) -> fm.MLP:
        """The network."""
        return fm.MLP.from_sizes(self.sizes, "tanh", seed=0)

    @cached_property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """The batch."""
        return self.problem.samples()

    @property
    def x(self) -> np.ndarray:
        """Inputs."""
        return self.data[0]

    @property
    def y(self) -> np.ndarray:
        """Labels."""
        return self.data[1]

    def backpropagation(self) -> Call:
        """Return the gradient by backpropagation, checked at some weights of each layer."""

        def check() -> None:
            double = self.net.astype("float64")
            fm.check_gradient(double, self.x, self.y, entries_per_part=5).assert_ok()

        return Call(lambda: self.net.value_and_grad(self.x, self.y), check)


class Differences(Call):
    """Finite differences by some of the weights, with the seconds that all would take."""

    def __init__(self, task: Task, method: str) -> None:
        n_all = task.net.n_parameters
        affordable = int(MOST_FLOPS / (2 * task.flops))
        self.n_moved = min(max(16, affordable), n_all)
        self.scale = n_all / self.n_moved
        self.entries = np.linspace(0, n_all - 1, self.n_moved).astype(int)

        def move(net: fm.MLP = task.net, entries: np.ndarray = self.entries) -> np.ndarray:
            options = {"method": method, "entries": entries}
            grad = fm.finite_difference_gradient(net, task.x, task.y, **options)
            return grad.to_vector()[entries]

        def check() -> None:
            double = task.net.astype("float64")
            exact = double.value_and_grad(task.x, task.y)[1].to_vector()[self.entries]
            difference = np.abs(move(double) - exact).max()
            if not difference <= 1e-6 * max(np.abs(exact).max(), 1e-3):
                raise AssertionError(f"{method} differences are off by {difference:.2g}")

        super().__init__(move, check)
        self.some = Call(partial(move, entries=self.entries[::4]), check)

    def prepare(self) -> dict[str, Any]:
        """Check, and say whether all are moved."""
        super().prepare()
        return {"n_moved": self.n_moved, "extrapolated": self.scale > 1}

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of so many gradients."""
        seconds = super().run(n_steps, warm_up)
        if self.scale == 1:
            return seconds
        # What does not depend on the number of weights cancels.
        n_more = self.n_moved - len(self.entries[::4])
        return (seconds - self.some.run(n_steps)) / n_more * self.n_moved * self.scale


def cases(options: Options) -> Iterator[Case]:
    """Return a line for each width; on one thread, central differences."""
    widths = WIDTHS[:-1] if options.quick else WIDTHS
    for width in widths if options.timed else WIDTHS[:1]:
        task = Task(width)
        line = f"{'-'.join(map(str, task.sizes))} tanh, gradient, batch {BATCH_SIZE}; 1 thread"
        notes = {"n_parameters": task.n_parameters}
        yield Case(line, "backpropagation", task.backpropagation, notes=notes)
        for method in ("fair", "naive"):
            opened = partial(Differences, task, method)
            yield Case(line, f"{method} differences", opened, notes=notes)


def test_differences(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a gradient."""
    bench(case)
