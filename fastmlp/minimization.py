"""Full-batch algorithms: minimise the loss of all samples, and say why it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import line_search
from ._validation import check_integer, check_real, look_up
from .line_search import Trial
from .losses import Loss
from .network import MLP, check_batch

__all__ = ["REASONS", "Minimization", "minimize"]

Vector = NDArray[np.float64]

#: Why a minimisation may end.
REASONS = {
    "gradient": "the norm of the gradient fell below the tolerance",
    "max_iterations": "the largest number of iterations was reached",
    "line_search": (
        "no step along the direction lowers the loss: the limit of rounding, or a kink of an "
        "activation or a loss"
    ),
    "diverged": "the loss or its gradient is not finite: take a smaller step or a line search",
}


@dataclass(frozen=True)
class Minimization:
    """What a minimisation did; prints as a summary.

    Parameters
    ----------
    reason : str
        Why it ended, a key of :data:`REASONS`: "gradient", "max_iterations",
        "line_search" or "diverged".
    loss : tuple of float
        Loss at the start and after each iteration.
    gradient_norm : tuple of float
        Euclidean norm ‖∇f‖ there.
    n_loss_evaluations : int
        Losses that were computed; each gradient comes with one.
    n_gradient_evaluations : int
        Gradients that were computed.
    seconds : float
        Duration.
    """

    reason: str
    loss: tuple[float, ...]
    gradient_norm: tuple[float, ...]
    n_loss_evaluations: int
    n_gradient_evaluations: int
    seconds: float

    @property
    def converged(self) -> bool:
        """Whether the gradient became as small as was asked for."""
        return self.reason == "gradient"

    @property
    def n_iterations(self) -> int:
        """Number of iterations."""
        return len(self.loss) - 1

    def __repr__(self) -> str:
        ended = "converged" if self.converged else "not converged"
        return (
            f"Minimization: {ended} after {self.n_iterations:,} iterations, because "
            f"{REASONS[self.reason]}\n"
            f"loss           {self.loss[0]:.6g} → {self.loss[-1]:.6g}\n"
            f"gradient norm  {self.gradient_norm[0]:.3g} → {self.gradient_norm[-1]:.3g}\n"
            f"evaluations    {self.n_loss_evaluations:,} of the loss, "
            f"{self.n_gradient_evaluations:,} of the gradient, in {self.seconds:.3g} s"
        )


def minimize(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    method: Literal["gradient_descent", "lbfgs"] = "gradient_descent",
    *,
    sample_weight: ArrayLike | None = None,
    step: float | Literal["exact", "backtracking", "strong_wolfe"] | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> Minimization:
    """Minimise the loss of all samples, until the gradient is small: ‖∇f‖ < ε.

    Iterations are θ ← θ + αp. Gradient descent goes along p = −∇f by a step α that is

    - a number: the same in every iteration;
    - "exact": the minimum along p, where f is quadratic in θ;
    - "backtracking": the first of α₀, α₀/2, α₀/4 … with Armijo's sufficient decrease
      f(θ + αp) ≤ f(θ) + c₁α∇fᵀp, c₁ = 1e-4;
    - "strong_wolfe": one with that decrease and a slope of at most c₂ = 0.1 times the
      first one, found by cubic interpolation.

    The first α₀ is 1, a later one twice the last step for backtracking, the last step for
    strong Wolfe. L-BFGS (Liu, Nocedal, On the limited memory BFGS method, 1989) takes p
    and α from the last 10 gradients, by ``scipy.optimize``; for networks of up to some
    thousand samples it is often the fastest way to a small gradient.

    All is computed in float64; a float32 network receives the rounded result. Nothing
    random happens. Ctrl-C leaves the parameters with the lowest loss so far.

    Parameters
    ----------
    net : MLP
        The network. In the end it has the last parameters if the gradient is small, else
        those with the lowest loss that was seen.
    X : array_like of shape (n_samples, n_in)
        Samples.
    y : array_like
        Targets, as for :meth:`MLP.loss`.
    loss : str or Loss, default="cross_entropy"
        The loss, as for :meth:`MLP.loss`; f is its mean over the samples.
    method : {"gradient_descent", "lbfgs"}, default="gradient_descent"
        The algorithm; L-BFGS needs scipy.
    sample_weight : array_like of shape (n_samples,), optional
        Weights, at least 0; equal if left out.
    step : float or {"exact", "backtracking", "strong_wolfe"}, optional
        How gradient descent chooses α; the default is backtracking.
    tolerance : float, default=1e-5
        The ε > 0, in units of the loss per unit of a parameter.
    max_iterations : int, default=1000
        Iterations after which to end anyway, at least 1.

    Returns
    -------
    Minimization
        Why it ended, the loss and ‖∇f‖ of each iteration, and what was computed.

    Raises
    ------
    ImportError
        If scipy is needed and not installed.
    TypeError, ValueError
        If an argument is not valid, X or y is not finite, or "exact" is asked for where
        f is not quadratic; then nothing has changed.
    """
    iterate = look_up("method", method, METHODS)
    limits = _Limits(
        check_real("tolerance", tolerance, "(0, inf)"),
        check_integer("max_iterations", max_iterations, minimum=1),
    )
    objective = _Objective(net, X, y, loss, sample_weight)
    run = iterate(objective, step)
    began = perf_counter()
    trace = _Trace(limits)
    try:
        reason = run(trace)
        if reason == "gradient":
            objective.best = objective.last
    finally:
        net.set_parameters(objective.best.theta)
    return Minimization(
        reason,
        tuple(trace.loss),
        tuple(trace.gradient_norm),
        objective.n_values,
        objective.n_gradients,
        perf_counter() - began,
    )


# --- The function, and what is recorded of it ---------------------------------------------


class _Point(NamedTuple):
    """Parameters, the loss there, and its gradient (empty where it is not known)."""

    theta: Vector
    value: float
    grad: Vector


class _Objective:
    """The loss of all samples as a function f of the vector θ of all parameters, counted."""

    def __init__(
        self,
        net: MLP,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss,
        sample_weight: ArrayLike | None,
    ) -> None:
        self.net = net.astype("float64")
        objective, _ = check_batch(self.net, X, y, loss, sample_weight, finite=True)
        self.x = np.asarray(X, np.float64)
        self.y = np.asarray(y)
        self.loss_name = objective.name
        self.options: dict[str, Any] = {"loss": loss, "sample_weight": sample_weight}
        self.n_values = self.n_gradients = 0
        self.best = self.last = _Point(self.net.get_parameters(), np.inf, np.empty(0))

    def value(self, theta: Vector) -> float:
        """Return f(θ)."""
        self.net.set_parameters(theta)
        value = self.net.loss(self.x, self.y, **self.options)
        self.n_values += 1
        self._keep_best(_Point(theta, value, np.empty(0)))
        return value

    def at(self, theta: Vector) -> _Point:
        """Return θ with f(θ) and ∇f(θ), not computed again for the last θ."""
        if not (len(self.last.grad) and np.array_equal(theta, self.last.theta)):
            self.net.set_parameters(theta)
            value, grad = self.net.value_and_grad(self.x, self.y, **self.options)
            self.n_values += 1
            self.n_gradients += 1
            # A copy: what scipy passes is its own to overwrite.
            self.last = _Point(theta.copy(), value, grad.to_vector())
            self._keep_best(self.last)
        return self.last

    def _keep_best(self, point: _Point) -> None:
        if point.value < self.best.value:
            self.best = point

    def curvature(self, direction: Vector) -> float:
        """Return uᵀHu for a direction u, where f is quadratic in θ with Hessian H.

        The outputs are linear in θ and the loss is a square, so with targets 0 the loss
        at u is ½uᵀHu: no difference of nearly equal numbers is taken.
        """
        self.net.set_parameters(direction)
        self.n_values += 1
        return 2 * self.net.loss(self.x, np.zeros_like(self.y), **self.options)


class _Limits(NamedTuple):
    tolerance: float
    max_iterations: int


class _Trace:
    """Loss and gradient norm of each iteration."""

    def __init__(self, limits: _Limits) -> None:
        self.limits = limits
        self.loss: list[float] = []
        self.gradient_norm: list[float] = []

    def add(self, point: _Point) -> str | None:
        """Record a point and return the reason to end there, if there is one."""
        self.loss.append(point.value)
        self.gradient_norm.append(float(np.linalg.norm(point.grad)))
        if not np.isfinite([self.loss[-1], self.gradient_norm[-1]]).all():
            return "diverged"
        if self.gradient_norm[-1] < self.limits.tolerance:
            return "gradient"
        return "max_iterations" if len(self.loss) > self.limits.max_iterations else None


#: A method bound to its function: records iterations and returns the reason it ended.
_Run = Callable[[_Trace], str]


# --- Gradient descent ---------------------------------------------------------------------


class _Rule(Protocol):
    """How gradient descent goes from a point to the next; None if there is no way down."""

    def __call__(self, objective: _Objective, point: _Point) -> _Point | None: ...


class _Constant:
    """θ − α∇f with one α for all iterations."""

    def __init__(self, step: float) -> None:
        self.step = step

    def __call__(self, objective: _Objective, point: _Point) -> _Point:
        return objective.at(point.theta - self.step * point.grad)


def _exact(objective: _Objective, point: _Point) -> _Point:
    """θ − α∇f with α = 1/uᵀHu for u = ∇f/‖∇f‖: the minimum along a line of a quadratic."""
    direction = point.grad / np.linalg.norm(point.grad)
    return objective.at(point.theta - point.grad / objective.curvature(direction))


class _Backtracking:
    """θ − α∇f with Armijo's sufficient decrease; α may double from step to step."""

    def __init__(self) -> None:
        self.step = 0.5

    def __call__(self, objective: _Objective, point: _Point) -> _Point | None:
        step = line_search.backtrack(
            lambda step: objective.value(point.theta - step * point.grad),
            Trial(0.0, point.value, -float(point.grad @ point.grad)),
            2 * self.step,
        )
        if step is None:
            return None
        self.step = step
        return objective.at(point.theta - step * point.grad)


class _StrongWolfe:
    """θ − α∇f with the strong Wolfe conditions; α starts from the last step's."""

    def __init__(self) -> None:
        self.step = 1.0

    def __call__(self, objective: _Objective, point: _Point) -> _Point | None:
        def trial_at(step: float) -> Trial:
            there = objective.at(point.theta - step * point.grad)
            return Trial(step, there.value, -float(there.grad @ point.grad))

        start = Trial(0.0, point.value, -float(point.grad @ point.grad))
        trial = line_search.strong_wolfe(trial_at, start, self.step)
        if trial is None:
            return None
        self.step = trial.step
        return objective.at(point.theta - trial.step * point.grad)


RULES: dict[str, Callable[[], _Rule]] = {
    "exact": lambda: _exact,
    "backtracking": _Backtracking,
    "strong_wolfe": _StrongWolfe,
}


def _gradient_descent(objective: _Objective, step: float | str | None) -> _Run:
    rule = _rule_for(objective, "backtracking" if step is None else step)

    def run(trace: _Trace) -> str:
        point = objective.at(objective.best.theta)
        # A step that is too long ends in inf, which is reported as such.
        with np.errstate(over="ignore", invalid="ignore"):
            while (reason := trace.add(point)) is None:
                following = rule(objective, point)
                if following is None:
                    return "line_search"
                point = following
        return reason

    return run


def _rule_for(objective: _Objective, step: float | str) -> _Rule:
    """Return what a user's `step` means, refusing "exact" where f is not quadratic."""
    if not isinstance(step, str):
        return _Constant(check_real("step", step, "(0, inf)"))
    rule = look_up("step", step, RULES)()
    layers, loss = objective.net.layers, objective.loss_name
    linear = len(layers) == 1 and layers[0].activation == "identity"  # one is always dense
    linear = linear and not objective.net.parameters.layout.is_penalized
    if step == "exact" and not (linear and loss in ("quadratic", "mse")):
        raise ValueError(
            "step 'exact' needs a loss that is quadratic in the parameters, that is one Dense "
            "layer with activation 'identity', no penalty, and the loss 'quadratic' or 'mse', got "
            f"{objective.net!r} with {loss!r}: use 'backtracking' or 'strong_wolfe'"
        )
    return rule


# --- L-BFGS -------------------------------------------------------------------------------


def _lbfgs(objective: _Objective, step: float | str | None) -> _Run:
    if step is not None:
        raise ValueError(f"step must be left out for method 'lbfgs', which finds it, got {step!r}")
    try:
        from scipy import optimize
    except ImportError as error:
        raise ImportError(
            "method 'lbfgs' needs scipy: `pip install \"fastmlp[scipy]\"`, or take "
            "'gradient_descent'"
        ) from error

    def run(trace: _Trace) -> str:
        reason = trace.add(objective.at(objective.best.theta))

        def after_iteration(theta: Vector) -> None:
            nonlocal reason
            reason = trace.add(objective.at(theta))
            if reason:
                raise StopIteration

        if reason is None:
            optimize.minimize(
                lambda theta: objective.at(theta)[1:],
                objective.best.theta,
                jac=True,
                method="L-BFGS-B",
                callback=after_iteration,
                # Only `trace` ends it, or a line search that fails.
                options={"gtol": 0, "ftol": 0, "maxiter": 2**31 - 1, "maxfun": 2**31 - 1},
            )
        return reason or "line_search"

    return run


METHODS: dict[str, Callable[[_Objective, float | str | None], _Run]] = {
    "gradient_descent": _gradient_descent,
    "lbfgs": _lbfgs,
}
