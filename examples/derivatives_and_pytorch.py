"""Derivatives other than the gradient: how fast, beside PyTorch, and how far the two differ.

A network 17-64-64-6 as in a control loop, in float64 on one thread: ∂F/∂x, the gradient of
each sample's own loss, and the Hessian of the loss times a vector, for one sample and for a
batch of 32. Of PyTorch's ways to each the fastest counts; where the samples are several,
vmap takes them together. Needs PyTorch.

    python examples/derivatives_and_pytorch.py [SECONDS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import torch

import fastmlp as fm

SIZES = (17, 64, 64, 6)

#: Of all timings together.
SECONDS = 10.0

N_ROUNDS = 15

Call = Callable[[], object]


def torch_function(net: fm.MLP) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the network as a function of a vector of parameters and of inputs."""
    shapes = [weight.shape for weight in net.weights]

    def forward(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        start = 0
        for number, (n_out, n_in) in enumerate(shapes):
            end = start + n_out * n_in
            z = torch.nn.functional.linear(x, theta[start:end].view(n_out, n_in))
            start, z = end + n_out, z + theta[end : end + n_out]
            x = torch.tanh(z) if number < len(shapes) - 1 else z
        return x

    return forward


def calls(net: fm.MLP, n_samples: int) -> dict[str, tuple[Call, list[Call]]]:
    """Return fastmlp's and PyTorch's ways to each derivative."""
    rng = np.random.default_rng(0)
    axis = (n_samples,) if n_samples > 1 else ()
    X, y = rng.normal(size=(*axis, 17)), rng.normal(size=(*axis, 6))
    v = rng.normal(size=net.n_parameters)
    forward, func = torch_function(net), torch.func
    theta, x, t, direction = map(torch.tensor, (net.get_parameters(), X, y, v))
    theta.requires_grad_()

    def risk(theta: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (forward(theta, x) - t).square().mean()

    def each(function: Callable[..., torch.Tensor], *axes: int | None) -> Callable[..., object]:
        return func.vmap(function, axes) if n_samples > 1 else function

    def differentiated_twice() -> torch.Tensor:
        (grad,) = torch.autograd.grad(risk(theta, x, t), theta, create_graph=True)
        return torch.autograd.grad(grad @ direction, theta)[0]

    def along() -> torch.Tensor:
        at, gradient = theta.detach(), func.grad(risk)
        return func.jvp(lambda theta: gradient(theta, x, t), (at,), (direction,))[1]

    fixed = theta.detach()
    gradients: list[Call] = [lambda: each(func.grad(risk), None, 0, 0)(fixed, x, t)]
    if n_samples == 1:
        gradients.append(lambda: torch.autograd.grad(risk(theta, x, t), theta)[0])
    return {
        "jacobian": (
            lambda: net.jacobian(X),
            [
                lambda: each(func.jacrev(forward, 1), None, 0)(fixed, x),
                lambda: each(func.jacfwd(forward, 1), None, 0)(fixed, x),
            ],
        ),
        "sample_gradients": (lambda: net.sample_gradients(X, y, "mse"), gradients),
        "hessian_product": (
            lambda: net.hessian_product(X, y, v, "mse").to_vector(),
            [differentiated_twice, along],
        ),
    }


def largest_difference(ours: object, theirs: object) -> float:
    """Return max |a − b| / max |b|."""
    other = theirs.detach().numpy()  # type: ignore[attr-defined]
    return float(np.abs(np.asarray(ours) - other).max() / np.abs(other).max())


def medians(functions: list[Call], budget: float) -> list[float]:
    """Return the seconds of each call, from rounds in which they take turns."""
    of_one = budget / len(functions) / N_ROUNDS
    rounds = []
    for number in range(N_ROUNDS + 1):
        durations = []
        for function in functions:
            began, n_calls = perf_counter(), 0
            while n_calls == 0 or perf_counter() - began < of_one:
                function()
                n_calls += 1
            durations.append((perf_counter() - began) / n_calls)
        if number:  # the first one warms up
            rounds.append(durations)
    return [median(durations) for durations in zip(*rounds, strict=True)]


def main() -> None:
    """Print a line for each derivative."""
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    fm.set_num_threads(1)
    torch.set_num_threads(1)
    net = fm.MLP.from_sizes(SIZES, "tanh", dtype="float64", seed=0)
    header = f"{'derivative':>17} {'samples':>7} {'fastmlp':>10} {'PyTorch':>10}"
    print(header, f"{'ratio':>7} {'off by':>8}")
    for n_samples in (1, 32):
        for name, (ours, theirs) in calls(net, n_samples).items():
            error = max(largest_difference(ours(), call()) for call in theirs)
            mine, *others = medians([ours, *theirs], budget / 6)
            print(
                f"{name:>17} {n_samples:7} {mine * 1e6:7.1f} µs {min(others) * 1e6:7.1f} µs"
                f" {min(others) / mine:6.1f}× {error:8.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
