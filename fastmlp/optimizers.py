"""Optimizers: hyperparameters, step count and state; the arithmetic is in the kernels."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ._validation import Array, check_real
from .kernels import arena, catalogue
from .parameters import Parameters

__all__ = ["SGD", "Adam", "Optimizer", "check_optimizer"]

ROWS = {row.name: row for row in catalogue.OPTIMIZERS}


class Optimizer(ABC):
    """What optimizers share: an update rule, checked hyperparameters, and a state.

    Hyperparameters may be changed between steps. The state (velocities, moments) belongs
    to the first network that is trained; a copy or pickle of an optimizer has the
    hyperparameters only.

    Parameters
    ----------
    **hyperparameters : float
        Value of each name in `intervals`.

    Attributes
    ----------
    step_count : int
        Updates so far.
    """

    #: Valid interval of each hyperparameter, in the order of the constructor.
    intervals: ClassVar[dict[str, str]] = {}

    step_count: int

    def __init__(self, **hyperparameters: float) -> None:
        for name, value in hyperparameters.items():
            setattr(self, name, value)
        self.reset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.intervals:
            value = check_real(name, value, self.intervals[name])
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in self.intervals}

    def __setstate__(self, hyperparameters: dict[str, float]) -> None:
        Optimizer.__init__(self, **hyperparameters)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self.__getstate__().items())
        return f"{type(self).__name__}({values})"

    @property
    @abstractmethod
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""

    def reset(self) -> None:
        """Forget the network, its state and the step count."""
        self.step_count = 0
        self._owner: weakref.ref[Parameters] | None = None
        self._state: Array = np.empty((0, 0))

    def bind(self, parameters: Parameters) -> Array:
        """Return the state for a network's parameters, allocated at the first call.

        Parameters
        ----------
        parameters : Parameters
            Of the network to be trained.

        Returns
        -------
        numpy.ndarray of shape (n_state, n_elements)
            What the update rule remembers, laid out as the parameters are.

        Raises
        ------
        ValueError
            If the state belongs to another network.
        """
        if self._owner is None:
            self._owner = weakref.ref(parameters)
        elif self._owner() is not parameters:
            raise ValueError(
                f"optimizer {self!r} has the state of another network: create a new one "
                "for each network, or call its reset()"
            )
        layout = parameters.layout
        shape = len(self.row.state), layout.n_elements
        if self._state.shape != shape:
            self._state = arena.aligned_zeros(shape[0] * shape[1], layout.dtype).reshape(shape)
        return self._state

    def coefficients(self, n_steps: int) -> NDArray[np.float64]:
        """Return the scalars of the next steps, in the order that the kernels read them.

        Parameters
        ----------
        n_steps : int
            Number of steps.

        Returns
        -------
        numpy.ndarray of float64, shape (n_steps, n_coefficients)
            One row a step.
        """
        steps = self.step_count + np.arange(1.0, n_steps + 1)
        names = self.row.coefficients
        table = np.empty((n_steps, len(names)))
        for column, name in enumerate(names):
            table[:, column] = self._coefficient(name, steps)
        return table

    def _coefficient(self, name: str, steps: NDArray[np.float64]) -> Any:
        """Return a scalar for all steps, or one for each; the first step is 1."""
        return getattr(self, name)


class SGD(Optimizer):
    """Stochastic gradient descent, with heavy-ball momentum if asked for.

    For each parameter θ with gradient g, learning rate α, momentum β, weight decay λ::

        g ← g + λθ
        v ← βv − αg
        θ ← θ + v

    Polyak, Some methods of speeding up the convergence of iteration methods, 1964,
    equation 9. Without momentum no velocity is stored. The learning rate is inside the
    velocity, so a change of it acts gradually (PyTorch keeps it outside).

    Parameters
    ----------
    learning_rate : float
        The α > 0 of a step; there is no default that suits most tasks.
    momentum : float, default=0.0
        The β in [0, 1): the share of the velocity that a step keeps.
    weight_decay : float, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    intervals: ClassVar[dict[str, str]] = {
        "learning_rate": "(0, inf)",
        "momentum": "[0, 1)",
        "weight_decay": "[0, inf)",
    }
    learning_rate: float
    momentum: float
    weight_decay: float

    def __init__(
        self, learning_rate: float, momentum: float = 0.0, *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["momentum" if self.momentum else "sgd"]


class Adam(Optimizer):
    """Adam: steps of about the learning rate, whatever the scale of the gradient.

    For each parameter θ with gradient g, at step t = 1, 2 …::

        g ← g + λθ
        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²
        θ ← θ − α m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)

    Kingma, Ba: Adam, a method for stochastic optimization, ICLR 2015, algorithm 1, whose
    defaults these are. The weight decay λ is not in the paper; it goes through the
    moments, as in PyTorch's ``Adam`` (not ``AdamW``).

    Parameters
    ----------
    learning_rate : float, default=1e-3
        The α > 0, about the largest change of a parameter in a step.
    beta1 : float, default=0.9
        The β₁ in [0, 1), memory of the mean.
    beta2 : float, default=0.999
        The β₂ in [0, 1), memory of the mean square.
    eps : float, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    intervals: ClassVar[dict[str, str]] = {
        "learning_rate": "(0, inf)",
        "beta1": "[0, 1)",
        "beta2": "[0, 1)",
        "eps": "(0, inf)",
        "weight_decay": "[0, inf)",
    }
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    def __init__(
        self,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
        )

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["adam"]

    def _coefficient(self, name: str, steps: NDArray[np.float64]) -> Any:
        if name == "correction1":
            return 1 - self.beta1**steps
        if name == "correction2":
            return 1 - self.beta2**steps
        if name == "rest1":
            return 1 - self.beta1
        if name == "rest2":
            return 1 - self.beta2
        return super()._coefficient(name, steps)


def check_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return what a user gave as the optimizer.

    Parameters
    ----------
    optimizer : Optimizer
        What came.

    Returns
    -------
    Optimizer
        The same.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an object such as Adam(), got {optimizer!r}")
    return optimizer
