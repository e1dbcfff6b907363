"""Layers: what a network is made of, before it has parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import activations, initializers
from ._validation import check_finite, check_integer, real_array
from .kernels import arena, catalogue

__all__ = ["Dense"]


@dataclass(frozen=True, repr=False)
class Dense:
    """A fully connected layer: a = σ(W x + b).

    Parameters
    ----------
    n_in : int
        Features that come in.
    n_out : int
        Units, the features that go out.
    activation : str, default="identity"
        Name of σ, one of :data:`fastmlp.activations.ACTIVATIONS`.
    initializer : str or callable, optional
        How to draw W: a name of :data:`fastmlp.initializers.INITIALIZERS` or a function
        ``(generator, n_in, n_out) -> array (n_out, n_in)``. The default suits the
        activation, see :func:`fastmlp.initializers.default`. Biases start at 0.
    alpha : float, optional
        Parameter of σ: the slope of ``"leaky_relu"`` below 0 (default 0.01), α of
        ``"elu"`` and ``"celu"``, β of ``"softplus"`` (default 1). None if σ has none.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    n_in: int
    n_out: int
    activation: str = "identity"
    initializer: str | initializers.Initializer | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "n_in", check_integer("n_in", self.n_in, minimum=1))
        set_field(self, "n_out", check_integer("n_out", self.n_out, minimum=1))
        set_field(self, "alpha", activations.check_alpha(self.activation_row, self.alpha))
        if self.initializer is not None:
            initializers.get(self.initializer)

    @property
    def activation_row(self) -> catalogue.Activation:
        """Row of the activation in the catalogue."""
        return activations.get(self.activation)

    @property
    def shape(self) -> arena.LayerShape:
        """What memory is laid out by."""
        return arena.LayerShape(self.n_in, self.n_out, self.activation_row.code)

    @property
    def settings(self) -> tuple[float, ...]:
        """Row of the table of settings."""
        return (self.alpha or 0.0, 0.0, 0.0, 0.0)

    def draw_weight(self, generator: np.random.Generator) -> NDArray[Any]:
        """Draw an initial weight.

        Parameters
        ----------
        generator : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        numpy.ndarray of shape (n_out, n_in)
            W.

        Raises
        ------
        TypeError, ValueError
            If a user's initialiser returns something else.
        """
        initializer = (
            initializers.default(self.activation_row, self.alpha)
            if self.initializer is None
            else initializers.get(self.initializer)
        )
        weight = real_array("initializer's result", initializer(generator, self.n_in, self.n_out))
        if weight.shape != (self.n_out, self.n_in):
            raise ValueError(
                f"initializer must return an array of shape ({self.n_out}, {self.n_in}), "
                f"got {weight.shape}"
            )
        check_finite("initializer's result", weight)
        return weight

    def __repr__(self) -> str:
        options = [f"activation={self.activation!r}"]
        if self.initializer is not None:
            options.append(f"initializer={self.initializer!r}")
        if self.alpha != self.activation_row.alpha:
            options.append(f"alpha={self.alpha:g}")
        return f"Dense({self.n_in}, {self.n_out}, {', '.join(options)})"
