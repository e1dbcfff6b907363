"""Layers: what a network is made of, before it has parameters."""

from __future__ import annotations

from dataclasses import KW_ONLY, MISSING, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import activations, initializers
from ._validation import check_finite, check_integer, check_option, check_real, real_array
from .kernels import arena, catalogue

__all__ = [
    "LAYERS",
    "Activation",
    "BatchNorm",
    "Dense",
    "Dropout",
    "Layer",
    "LayerNorm",
    "PReLU",
]

CODES = catalogue.CODES


class Layer:
    """What all layers have in common.

    A layer is a description; weights, biases and running statistics belong to the network.

    Attributes
    ----------
    n_in, n_out : int
        Features that come in and go out.
    activation : str
        Name of the activation.
    alpha : float or None
        Parameter of the activation.
    """

    #: Kind in the kernels where the network is in use, and in training if it is another there.
    kind: ClassVar[str]
    kind_in_training: ClassVar[str | None] = None

    n_in: int
    n_out: int
    activation: str | activations.CustomActivation
    alpha: float | None

    @property
    def activation_row(self) -> catalogue.Activation:
        """Row of the activation in the catalogue."""
        return activations.get(self.activation)

    @property
    def label(self) -> str:
        """What a network calls the layer in one word or two: by default its activation."""
        return str(self.activation)

    def sized(self, n_features: int | None) -> Layer:
        """Return the layer with its sizes, which follow the layer below.

        Parameters
        ----------
        n_features : int or None
            Features that the layer below gives; None for the first layer.

        Returns
        -------
        Layer
            This one, or a copy.

        Raises
        ------
        ValueError
            If the layer takes another number, or it is not known.
        """
        raise NotImplementedError

    def shape(self, training: bool) -> arena.LayerShape:
        """Return what memory is laid out by.

        Parameters
        ----------
        training : bool
            Whether the network is in training.

        Returns
        -------
        LayerShape
            The same place in memory, in training and not.
        """
        kind = (training and self.kind_in_training) or self.kind
        return arena.LayerShape(
            self.n_in, self.n_out, self.activation_row.code, CODES[kind.upper()]
        )

    def settings(self) -> dict[str, float]:
        """Return the layer's entries in the table of settings, as far as it has any.

        Returns
        -------
        dict
            By column, see :data:`fastmlp.kernels.catalogue.SETTING_COLUMNS`.
        """
        return {} if self.alpha is None else {"ALPHA": self.alpha}

    def draw_weight(self, generator: np.random.Generator) -> NDArray[Any]:
        """Draw an initial weight; biases begin at 0.

        Parameters
        ----------
        generator : numpy.random.Generator
            Source of random numbers.

        Returns
        -------
        numpy.ndarray
            Of the shape of the network's weight.

        Raises
        ------
        TypeError, ValueError
            If a user's initialiser returns something else.
        """
        return np.empty(0)

    def __repr__(self) -> str:
        arguments = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING:
                arguments.append(repr(value))
            elif value != field.default:
                arguments.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(arguments)})"


@dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A fully connected layer: a = σ(W x + b).

    Parameters
    ----------
    n_in : int
        Features that come in.
    n_out : int
        Units, the features that go out.
    activation : str or CustomActivation, default="identity"
        Name of σ, one of :data:`fastmlp.activations.ACTIVATIONS`, or the user's own.
        ``"softmax"`` is for the last layer of a network.
    initializer : str or callable, optional
        How to draw W: a name of :data:`fastmlp.initializers.INITIALIZERS` or a function
        ``(generator, n_in, n_out) -> array (n_out, n_in)``. The default suits the
        activation, see :func:`fastmlp.initializers.default`. Biases start at 0.
    alpha : float, optional
        Parameter of σ: the slope of ``"leaky_relu"`` below 0 (default 0.01), α of
        ``"elu"`` and ``"celu"``, β of ``"softplus"`` (default 1). None if σ has none.
    bias : bool, default=True
        Whether there is a b; without, a = σ(W x), as before a normalisation.
    l1, l2 : float, default=0.0
        Factors of the penalty l1 Σ|w| + ½ l2 Σw² that the layer's weights add to the loss:
        to what is printed as well as to the gradient.
    penalize_bias : bool, default=False
        Whether the penalty counts the biases, too.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    n_in: int
    n_out: int
    activation: str | activations.CustomActivation = "identity"
    initializer: str | initializers.Initializer | None = None
    alpha: float | None = None
    bias: bool = True
    l1: float = 0.0
    l2: float = 0.0
    penalize_bias: bool = False

    kind: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "n_in", check_integer("n_in", self.n_in, minimum=1))
        set_field(self, "n_out", check_integer("n_out", self.n_out, minimum=1))
        set_field(self, "alpha", activations.check_alpha(self.activation_row, self.alpha))
        check_option("bias", self.bias, (True, False))
        set_field(self, "l1", check_real("l1", self.l1, "[0, inf)"))
        set_field(self, "l2", check_real("l2", self.l2, "[0, inf)"))
        check_option("penalize_bias", self.penalize_bias, (True, False))
        if not self.activation_row.elementwise and self.n_out == 1:
            raise ValueError(
                f"n_out must be at least 2 for activation {self.activation!r}, which is constant "
                "for 1 output: use 'sigmoid'"
            )
        if self.initializer is not None:
            initializers.get(self.initializer)

    def sized(self, n_features: int | None) -> Dense:  # numpydoc ignore=PR01,RT01
        """Return the layer itself, if it fits."""
        if n_features not in (None, self.n_in):
            raise ValueError(f"takes {self.n_in} features")
        return self

    def shape(self, training: bool) -> arena.LayerShape:  # numpydoc ignore=PR01,RT01
        """Return what memory is laid out by."""
        n_rows = self.n_in + (self.bias and self.penalize_bias) if self.l1 or self.l2 else 0
        return super().shape(training)._replace(has_bias=self.bias, n_penalized=n_rows)

    def settings(self) -> dict[str, float]:  # numpydoc ignore=RT01
        """Return the entries in the table of settings."""
        return super().settings() | {"L1": self.l1, "L2": self.l2}

    def draw_weight(
        self, generator: np.random.Generator
    ) -> NDArray[Any]:  # numpydoc ignore=PR01,RT01
        """Return an initial weight."""
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
        if not self.bias:
            options.append("bias=False")
        options += [
            f"{name}={getattr(self, name):g}" for name in ("l1", "l2") if getattr(self, name)
        ]
        if self.penalize_bias:
            options.append("penalize_bias=True")
        return f"Dense({self.n_in}, {self.n_out}, {', '.join(options)})"


class _SameSize(Layer):
    """A layer with as many outputs as inputs, whose number the layer below can tell."""

    n_features: int | None

    def __post_init__(self) -> None:
        if self.n_features is not None:
            n_features = check_integer("n_features", self.n_features, minimum=1)
            object.__setattr__(self, "n_features", n_features)

    @property
    def n_in(self) -> int:  # type: ignore[override]
        """Features that come in."""
        if self.n_features is None:
            raise ValueError(f"{self!r} has no n_features before it is part of a network")
        return self.n_features

    n_out = n_in

    def sized(self, n_features: int | None) -> _SameSize:
        if self.n_features is None:
            if n_features is None:
                raise ValueError(f"is the first, so it needs n_features: {self!r}")
            return replace(self, n_features=n_features)  # type: ignore[type-var]
        if n_features not in (None, self.n_features):
            raise ValueError(f"takes {self.n_features} features")
        return self


@dataclass(frozen=True, repr=False)
class Activation(_SameSize):
    """An activation as a layer of its own, a = σ(x): for instance after a normalisation.

    Parameters
    ----------
    activation : str or CustomActivation
        σ, as for :class:`Dense`.
    alpha : float, optional
        Parameter of σ, as for :class:`Dense`.
    n_features : int, optional
        Features; by default those of the layer below.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    activation: str | activations.CustomActivation
    alpha: float | None = None
    n_features: int | None = None

    kind: ClassVar[str] = "elementwise"

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = activations.check_alpha(self.activation_row, self.alpha)
        object.__setattr__(self, "alpha", alpha)


class _WithoutActivation(_SameSize):
    """One of these whose σ is the identity."""

    activation: ClassVar[str] = "identity"  # type: ignore[misc]
    alpha: ClassVar[float | None] = None  # type: ignore[misc]


@dataclass(frozen=True, repr=False)
class Dropout(_WithoutActivation):
    """Set random features to 0 in training, and scale the others by 1 / (1 − rate).

    Only :meth:`MLP.fit`, :meth:`MLP.train_step` and what is called with ``training=True``
    drop features; elsewhere the layer passes on what it gets. What is dropped follows from
    a seed, the step and the place in the batch, never from the number of threads.

    Parameters
    ----------
    rate : float
        Probability of a feature to be dropped, at least 0 and below 1.
    n_features : int, optional
        Features; by default those of the layer below.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.

    Notes
    -----
    N. Srivastava et al., *Dropout: a simple way to prevent neural networks from
    overfitting*, JMLR 15, 2014, in its inverted form.
    """

    rate: float
    n_features: int | None = None

    kind: ClassVar[str] = "elementwise"
    kind_in_training: ClassVar[str] = "dropout"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rate", check_real("rate", self.rate, "[0, 1)"))

    @property
    def label(self) -> str:
        """Name and rate."""
        return f"dropout {self.rate:g}"

    def settings(self) -> dict[str, float]:  # numpydoc ignore=RT01
        """Return the entries in the table of settings."""
        return {"DROP_RATE": self.rate}


@dataclass(frozen=True, repr=False)
class PReLU(_WithoutActivation):
    """A rectifier with learned slopes: a = x if x > 0 else w x.

    Parameters
    ----------
    shared : bool, default=False
        Whether all units have one slope, else each its own.
    initial : float, default=0.25
        Slopes to begin with, as the authors take them.
    n_features : int, optional
        Features; by default those of the layer below.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.

    Notes
    -----
    K. He et al., *Delving deep into rectifiers*, ICCV 2015, arXiv:1502.01852. Its slopes
    are the layer's weight; the authors do not let them decay.
    """

    shared: bool = False
    initial: float = 0.25
    n_features: int | None = None

    kind: ClassVar[str] = "prelu"

    @property
    def label(self) -> str:
        """Name."""
        return "PReLU"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("shared", self.shared, (True, False))
        object.__setattr__(self, "initial", check_real("initial", self.initial, "(-inf, inf)"))

    def shape(self, training: bool) -> arena.LayerShape:  # numpydoc ignore=PR01,RT01
        """Return what memory is laid out by."""
        return super().shape(training)._replace(n_weights=1 if self.shared else self.n_out)

    def draw_weight(
        self, generator: np.random.Generator
    ) -> NDArray[Any]:  # numpydoc ignore=PR01,RT01
        """Return an initial weight."""
        return np.full(1 if self.shared else self.n_out, self.initial)


class _Norm(_WithoutActivation):
    """A normalisation: its weights begin at 1."""

    eps: float

    @property
    def label(self) -> str:
        """Name."""
        return self.kind.replace("_", " ")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", check_real("eps", self.eps, "(0, inf)"))

    def settings(self) -> dict[str, float]:  # numpydoc ignore=RT01
        """Return the entries in the table of settings."""
        return {"NORM_EPS": self.eps}

    def draw_weight(
        self, generator: np.random.Generator
    ) -> NDArray[Any]:  # numpydoc ignore=PR01,RT01
        """Return an initial weight."""
        return np.ones(self.n_out)


@dataclass(frozen=True, repr=False)
class LayerNorm(_Norm):
    """Normalise each sample over its features: a = w (x − m) / √(v + ε) + b.

    m and v are mean and variance of the sample's features; weights w begin at 1, biases b
    at 0.

    Parameters
    ----------
    eps : float, default=1e-5
        ε, which keeps the division away from 0; PyTorch's default.
    n_features : int, optional
        Features; by default those of the layer below.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.

    Notes
    -----
    J. L. Ba, J. R. Kiros, G. E. Hinton, *Layer normalization*, 2016, arXiv:1607.06450.
    """

    _: KW_ONLY
    eps: float = 1e-5
    n_features: int | None = None

    kind: ClassVar[str] = "layer_norm"


@dataclass(frozen=True, repr=False)
class BatchNorm(_Norm):
    """Normalise each feature over the batch: a = w (x − m) / √(v + ε) + b.

    In training m and v are mean and variance of the batch, by the weights of its samples;
    elsewhere those that training has kept a running average of, which begins at 0 and 1.
    Weights w begin at 1, biases b at 0.

    Parameters
    ----------
    momentum : float, default=0.1
        Share of a new batch in the running averages, above 0 and at most 1.
    eps : float, default=1e-5
        ε, which keeps the division away from 0; PyTorch's default, as the momentum.
    n_features : int, optional
        Features; by default those of the layer below.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.

    Notes
    -----
    S. Ioffe, C. Szegedy, *Batch normalization*, ICML 2015, arXiv:1502.03167. The running
    variance is the unbiased one, as there; where samples have weights wᵢ, it counts
    (Σ wᵢ)² / Σ wᵢ² of them (L. Kish, *Survey sampling*, 1965, section 8.2).
    """

    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5
    n_features: int | None = None

    kind: ClassVar[str] = "batch_norm"
    kind_in_training: ClassVar[str] = "batch_norm_training"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", check_real("momentum", self.momentum, "(0, 1]"))

    def settings(self) -> dict[str, float]:  # numpydoc ignore=RT01
        """Return the entries in the table of settings."""
        return super().settings() | {"NORM_MOMENTUM": self.momentum}


#: The layers by the names they have in files.
LAYERS: dict[str, type[Layer]] = {
    "dense": Dense,
    "activation": Activation,
    "dropout": Dropout,
    "prelu": PReLU,
    "layer_norm": LayerNorm,
    "batch_norm": BatchNorm,
}
