"""What the kernels can compute: one row for each activation, loss and optimizer.

A row is the only home of a name, its code, its defaults and its formula. The
backends look a code up by its constant's name (``RELU``, ``MSE``, ``ADAM`` …): Python
modules read :data:`CODES`, and the build writes the same constants for Cython. Only
the standard library is imported here, so that ``setup.py`` can load this file alone.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACTIVATIONS",
    "CACHE_SET_SPAN",
    "CODES",
    "LAYER_COLUMNS",
    "LOSSES",
    "NORM_PARTS",
    "OPTIMIZERS",
    "PACKED_BYTES",
    "PANEL_WIDTH",
    "ROW_BLOCK",
    "ROW_MULTIPLE",
    "Activation",
    "Loss",
    "Optimizer",
]


@dataclass(frozen=True)
class Activation:
    """An activation function σ: how it is named, computed and initialised.

    Parameters
    ----------
    name : str
        What users write; upper-cased it is the name of the code.
    code : int
        What kernels read.
    equation : str
        y = σ(z).
    derivative : str
        σ'(z), written in y where ``from_output`` is true.
    from_output : bool
        Whether the derivative takes the output y (else the pre-activation z).
    alpha : float or None
        Default of the activation's parameter α; None if it has none.
    initializer : str
        The initialiser that suits the activation.
    """

    name: str
    code: int
    equation: str
    derivative: str
    from_output: bool = True
    alpha: float | None = None
    initializer: str = "glorot_uniform"


@dataclass(frozen=True)
class Loss:
    """A loss of one sample, L(o, t) for network output o and target t.

    Parameters
    ----------
    name : str
        What users write; upper-cased it is the name of the code.
    code : int
        What kernels read.
    equation : str
        Loss of one sample; a batch's loss is the mean weighted by ``sample_weight``.
    target : {"values", "labels or probabilities", "probabilities"}
        What the target holds for a sample: n_out real values, one integer label or
        n_out probabilities, or n_out probabilities.
    """

    name: str
    code: int
    equation: str
    target: str = "values"


@dataclass(frozen=True)
class Optimizer:
    """An update rule for one parameter θ with gradient g.

    Parameters
    ----------
    name : str
        Upper-cased it is the name of the code.
    code : int
        What kernels read.
    equation : str
        The recurrence, after the decay of weights.
    state : tuple of str
        Names of the values kept for each parameter, in the order of the state's rows.
    coefficients : tuple of str
        Names of the scalars of one step, in the order of the coefficients' columns.
    """

    name: str
    code: int
    equation: str
    state: tuple[str, ...]
    coefficients: tuple[str, ...]


ACTIVATIONS = (
    Activation("identity", 0, "z", "1"),
    Activation("relu", 1, "max(z, 0)", "1 if y > 0 else 0", initializer="he_normal"),
    Activation(
        "leaky_relu",
        2,
        "z if z > 0 else α z",
        "1 if y > 0 else α",
        alpha=0.01,
        initializer="he_normal",
    ),
    Activation("sigmoid", 3, "1 / (1 + exp(−z))", "y (1 − y)"),
    Activation("tanh", 4, "tanh(z)", "1 − y²"),
)

LOSSES = (
    Loss("quadratic", 0, "½ Σⱼ (oⱼ − tⱼ)²"),
    Loss("mse", 1, "1/n_out Σⱼ (oⱼ − tⱼ)²"),
    Loss("cross_entropy", 2, "−Σⱼ tⱼ log softmax(o)ⱼ", "labels or probabilities"),
    Loss(
        "binary_cross_entropy",
        3,
        "1/n_out Σⱼ (max(oⱼ, 0) − oⱼ tⱼ + log(1 + exp(−|oⱼ|)))",
        "probabilities",
    ),
)

# Shrinkage is decoupled weight decay, αλ; all begin with g ← g + λθ and θ ← θ − shrinkage θ
# as far as their coefficients have the two. 1 − β comes as "rest", because float32 would round
# it: at β = 0.999 by 5e-5.
OPTIMIZERS = (
    Optimizer(
        "sgd",
        0,
        "θ ← θ − αg",
        state=(),
        coefficients=("learning_rate", "weight_decay"),
    ),
    Optimizer(
        "momentum",
        1,
        "v ← βv − αg; θ ← θ + v",
        state=("velocity",),
        coefficients=("learning_rate", "weight_decay", "momentum", "shrinkage"),
    ),
    Optimizer(
        "adam",
        2,
        "m ← β₁m + r₁g; v ← β₂v + r₂g²; θ ← θ − α/c₁ · m / (√(v/c₂) + ε)",
        state=("first_moment", "second_moment"),
        coefficients=(
            "learning_rate",
            "weight_decay",
            "beta1",
            "beta2",
            "eps",
            "correction1",
            "correction2",
            "rest1",
            "rest2",
            "shrinkage",
        ),
    ),
    Optimizer(
        "ema_momentum",
        3,
        "Δ ← βΔ + rg; θ ← θ − αΔ",
        state=("mean_gradient",),
        coefficients=("learning_rate", "weight_decay", "momentum", "rest", "shrinkage"),
    ),
    Optimizer(
        "nesterov",
        4,
        "u ← β(u − αg) with the β of the next step; θ ← θ − αg + u",
        state=("lookahead",),
        coefficients=("learning_rate", "weight_decay", "next_momentum", "shrinkage"),
    ),
    Optimizer(
        "adagrad",
        5,
        "s ← s + g²; θ ← θ − αg / (√s + ε)",
        state=("square_sum",),
        coefficients=("learning_rate", "weight_decay", "eps", "shrinkage"),
    ),
    Optimizer(
        "rmsprop",
        6,
        "s ← βs + rg²; θ ← θ − αg / (√s + ε)",
        state=("mean_square",),
        coefficients=("learning_rate", "weight_decay", "beta", "rest", "eps", "shrinkage"),
    ),
    Optimizer(
        "rmsprop_momentum",
        7,
        "s ← βs + rg²; v ← μv + g / (√s + ε); θ ← θ − αv",
        state=("mean_square", "velocity"),
        coefficients=(
            "learning_rate",
            "weight_decay",
            "beta",
            "rest",
            "eps",
            "momentum",
            "shrinkage",
        ),
    ),
    Optimizer(
        "centered_rmsprop",
        8,
        "s ← βs + rg²; m ← βm + rg; v ← μv + g / (√max(s − m², 0) + ε); θ ← θ − αv",
        state=("mean_square", "velocity", "mean_gradient"),
        coefficients=(
            "learning_rate",
            "weight_decay",
            "beta",
            "rest",
            "eps",
            "momentum",
            "shrinkage",
        ),
    ),
    Optimizer(
        "adamax",
        9,
        "m ← β₁m + r₁g; u ← max(β₂u, |g| + ε); θ ← θ − (α/c₁) m / u",
        state=("first_moment", "largest_gradient"),
        coefficients=(
            "corrected_rate",  # α/c₁
            "weight_decay",
            "beta1",
            "rest1",
            "beta2",
            "eps",
            "shrinkage",
        ),
    ),
    Optimizer(
        "nadam",
        10,
        "m ← β₁m + r₁g; v ← β₂v + r₂g²; θ ← θ − (α₀g + α₁m) / (√(v/c₂) + ε)",
        state=("first_moment", "second_moment"),
        coefficients=(
            "gradient_rate",  # α₀
            "moment_rate",  # α₁
            "weight_decay",
            "beta1",
            "rest1",
            "beta2",
            "rest2",
            "correction2",
            "eps",
            "shrinkage",
        ),
    ),
    Optimizer(
        "lion",
        11,
        "θ ← θ − α sign(β₁m + r₁g); m ← β₂m + r₂g",
        state=("mean_gradient",),
        coefficients=("learning_rate", "beta1", "rest1", "beta2", "rest2", "shrinkage"),
    ),
)

#: Columns of a network's layer table, one row a dense layer. WEIGHT and BIAS are offsets
#: of elements in the arena, STRIDE is the distance between two rows of the weight.
LAYER_COLUMNS = ("N_IN", "N_OUT", "WEIGHT", "STRIDE", "BIAS", "ACTIVATION")

#: Rows are padded to a multiple of so many elements, hence to whole cache lines …
ROW_MULTIPLE = 16

#: … but to no multiple of so many bytes, which all fall into one cache set.
CACHE_SET_SPAN = 4096

#: Columns of the widest register tile, hence of a packed panel.
PANEL_WIDTH = 48

#: Most bytes of panels that are packed for a thread at once: half of a small L2 cache.
PACKED_BYTES = 524288

#: Samples that go through all layers together where only the output is wanted.
ROW_BLOCK = 96

#: Parts of a network's gradient whose norms are computed apart, by one thread each; as few as
#: the elements of the smallest workspace of packed panels.
NORM_PARTS = 32

#: Every constant that a kernel may compare with, by name.
CODES: dict[str, int] = {
    **{row.name.upper(): row.code for row in (*ACTIVATIONS, *LOSSES, *OPTIMIZERS)},
    **{name: column for column, name in enumerate(LAYER_COLUMNS)},
    "LAYER_COLUMNS": len(LAYER_COLUMNS),
    "ROW_MULTIPLE": ROW_MULTIPLE,
    "CACHE_SET_SPAN": CACHE_SET_SPAN,
    "PANEL_WIDTH": PANEL_WIDTH,
    "ROW_BLOCK": ROW_BLOCK,
    "NORM_PARTS": NORM_PARTS,
}
