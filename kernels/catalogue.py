"""What the kernels can compute: one row for each activation, loss and optimizer.

A row is the only home of a name, its code, its defaults and its formula. The
backends look a code up by its constant's name (``RELU``, ``MSE``, ``ADAM`` …): Python
modules read :data:`CODES`, and the build writes the same constants for Cython. Only
the standard library is imported here, so that ``setup.py`` can load this file alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "ACTIVATIONS",
    "CACHE_LINE",
    "CACHE_SET_SPAN",
    "CODES",
    "CUSTOM_COLUMNS",
    "FAR_BYTES",
    "FAR_ROW_BLOCK",
    "FIRST_CUSTOM",
    "LANE_SAMPLES",
    "LAYER_COLUMNS",
    "LAYER_KINDS",
    "LEAST_PARTS",
    "LOSSES",
    "MOST_PARTS",
    "NARROW",
    "NARROW_PART_ROWS",
    "NORM_PARTS",
    "OPTIMIZERS",
    "OUTPUT_ACTIVATIONS",
    "PACKED_BYTES",
    "PANEL_WIDTH",
    "PART_ROWS",
    "ROW_BLOCK",
    "ROW_MULTIPLE",
    "SETTING_COLUMNS",
    "TAKES_Z",
    "Activation",
    "LayerKind",
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
    alpha_range : str
        The interval that α must be in.
    alpha_is_slope : bool
        Whether α is the slope for all z < 0, which the initial variance depends on.
    initializer : str
        The initialiser that suits the activation.
    kinks : tuple of float
        Where σ' or σ'' jumps, so that finite differences across say little.
    aliases : tuple of str
        Other names.
    source : str
        Where the function comes from.
    second_derivative : str or None
        σ''(z), written in y where ``from_output`` is true; None if the kernels lack it.
    elementwise : bool
        Whether each y depends on its own z only; else on the whole row.
    """

    name: str
    code: int
    equation: str
    derivative: str
    from_output: bool = True
    alpha: float | None = None
    alpha_range: str = "[0, inf)"
    alpha_is_slope: bool = False
    initializer: str = "glorot_uniform"
    kinks: tuple[float, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""
    second_derivative: str | None = None
    elementwise: bool = True


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
    target : str
        What the target holds for a sample: "values", "counts" of at least 0,
        "probabilities" of each output, "labels or probabilities" of classes (one integer
        label, or n_out probabilities that sum to 1) or "labels or signs" (one integer
        label, or n_out numbers −1 and 1).
    parameters : tuple of str
        Names of the loss's parameters, in the order of the kernels' ``loss_parameters``;
        a name in the plural stands for several numbers.
    outputs_per_target : int or None
        Outputs that belong to one number of the target; None for one for each parameter.
        They come in blocks: first one output for each number of the target, then the next.
    takes_logits : bool
        Whether the loss applies softmax or sigmoid to the outputs.
    curvature : str
        The product of the Hessian ∂²L/∂o² with a vector r.
    """

    name: str
    code: int
    equation: str
    target: str = "values"
    parameters: tuple[str, ...] = ()
    outputs_per_target: int | None = 1
    takes_logits: bool = False
    curvature: str = field(kw_only=True)


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


@dataclass(frozen=True)
class LayerKind:
    """What a layer computes from its input x, before its activation.

    Parameters
    ----------
    name : str
        Upper-cased it is the name of the code.
    code : int
        What kernels read.
    equation : str
        z, with the layer's weight w and bias b.
    meets : bool
        Whether the outputs for a sample depend on the other samples of the batch.
    source : str
        Where the layer comes from.
    """

    name: str
    code: int
    equation: str
    meets: bool = False
    source: str = ""


# The row of an activation that takes a parameter calls it α, whatever its authors do. To add
# one, append a row and write its two scalar functions, and their lines in the dispatch, in
# each backend. Functions that only a user has are compiled by custom.py.
ACTIVATIONS = (
    Activation("identity", 0, "z", "1", second_derivative="0"),
    Activation(
        "relu",
        1,
        "max(z, 0)",
        "1 if y > 0 else 0",
        initializer="he_normal",
        kinks=(0,),
        source="Nair, Hinton: Rectified linear units improve RBMs, ICML 2010",
        second_derivative="0",
    ),
    Activation(
        "leaky_relu",
        2,
        "z if z > 0 else α z",
        "1 if y > 0 else α",
        alpha=0.01,
        alpha_is_slope=True,
        initializer="he_normal",
        kinks=(0,),
        source="Maas, Hannun, Ng: Rectifier nonlinearities, ICML 2013",
        second_derivative="0",
    ),
    Activation(
        "sigmoid",
        3,
        "1 / (1 + exp(−z))",
        "y (1 − y)",
        second_derivative="y (1 − y) (1 − 2y)",
    ),
    Activation("tanh", 4, "tanh(z)", "1 − y²", second_derivative="−2y (1 − y²)"),
    Activation(
        "silu",
        5,
        "z s with s = 1 / (1 + exp(−z))",
        "s (1 + z (1 − s))",
        from_output=False,
        initializer="he_normal",
        aliases=("swish",),
        source="Elfwing, Uchibe, Doya: Sigmoid-weighted linear units, arXiv:1702.03118",
        second_derivative="s (1 − s) (2 + z (1 − 2s))",
    ),
    Activation(
        "elu",
        6,
        "z if z > 0 else α (exp(z) − 1)",
        "1 if y > 0 else y + α",
        alpha=1.0,
        initializer="he_normal",
        kinks=(0,),
        source="Clevert, Unterthiner, Hochreiter: ELUs, ICLR 2016, arXiv:1511.07289",
        second_derivative="0 if y > 0 else y + α",
    ),
    Activation(
        "celu",
        7,
        "z if z > 0 else α (exp(z/α) − 1)",
        "1 if y > 0 else y/α + 1",
        alpha=1.0,
        alpha_range="(0, inf)",
        initializer="he_normal",
        kinks=(0,),
        source="Barron: Continuously differentiable ELUs, arXiv:1704.07483",
        second_derivative="0 if y > 0 else (y/α + 1) / α",
    ),
    Activation(
        "selu",
        8,
        "λ z if z > 0 else λ a (exp(z) − 1), λ = 1.0507…, a = 1.6732…",
        "λ if y > 0 else y + λ a",
        initializer="lecun_normal",
        kinks=(0,),
        source="Klambauer et al.: Self-normalizing neural networks, arXiv:1706.02515",
        second_derivative="0 if y > 0 else y + λ a",
    ),
    Activation(
        "gelu",
        9,
        "z Φ(z), Φ the standard normal distribution",
        "Φ(z) + z exp(−z²/2) / √(2π)",
        from_output=False,
        initializer="he_normal",
        source="Hendrycks, Gimpel: Gaussian error linear units, arXiv:1606.08415",
        second_derivative="(2 − z²) exp(−z²/2) / √(2π)",
    ),
    Activation(
        "gelu_tanh",
        10,
        "z s(2u), u = √(2/π) (z + 0.044715 z³), s the sigmoid; = ½ z (1 + tanh(u))",
        "s + 2 z s (1 − s) u'(z)",
        from_output=False,
        initializer="he_normal",
        source="Hendrycks, Gimpel: Gaussian error linear units, section 2",
        second_derivative="s (1 − s) (4u' + z (4u'² (1 − 2s) + 2u'')), s of 2u",
    ),
    Activation(
        "mish",
        11,
        "z tanh(log(1 + exp(z)))",
        "t + z (1 − t²) / (1 + exp(−z)) with t = y/z",
        from_output=False,
        initializer="he_normal",
        source="Misra: Mish, BMVC 2020, arXiv:1908.08681",
        second_derivative="w (2 + z ((1 − s) − 2ts)), w = (1 − t²) s, s = 1 / (1 + exp(−z))",
    ),
    Activation(
        "softplus",
        12,
        "log(1 + exp(α z)) / α; z where α z > 20, as in PyTorch, whose β is α",
        "1 / (1 + exp(−α z)); 1 where α z > 20",
        from_output=False,
        alpha=1.0,
        alpha_range="(0, inf)",
        initializer="he_normal",
        source="Dugas et al.: Incorporating second-order functional knowledge, NIPS 2000",
        second_derivative="α s (1 − s), s = 1 / (1 + exp(−α z)); 0 where α z > 20",
    ),
    Activation(
        "softsign",
        13,
        "z / (1 + |z|)",
        "(1 − |y|)²",
        kinks=(0,),
        source="Glorot, Bengio: Training deep feedforward neural networks, AISTATS 2010",
        second_derivative="−2 sign(y) (1 − |y|)³",
    ),
    Activation(
        "relu6",
        14,
        "min(max(z, 0), 6)",
        "1 if 0 < y < 6 else 0",
        initializer="he_normal",
        kinks=(0, 6),
        source="Howard et al.: MobileNets, arXiv:1704.04861",
        second_derivative="0",
    ),
    Activation(
        "hard_tanh",
        15,
        "min(max(z, −1), 1)",
        "1 if −1 < y < 1 else 0",
        kinks=(-1, 1),
        source="Collobert: Large scale machine learning, thesis, Paris VI, 2004",
        second_derivative="0",
    ),
    Activation(
        "hard_sigmoid",
        16,
        "min(max(z + 3, 0), 6) / 6",
        "1/6 if −3 < z < 3 else 0",
        from_output=False,
        kinks=(-3, 3),
        source="Howard et al.: MobileNetV3, ICCV 2019, section 5.2",
        second_derivative="0",
    ),
    Activation(
        "hard_swish",
        17,
        "z min(max(z + 3, 0), 6) / 6",
        "0 if z ≤ −3, 1 if z ≥ 3, else z/3 + ½",
        from_output=False,
        initializer="he_normal",
        kinks=(-3, 3),
        source="Howard et al.: MobileNetV3, ICCV 2019, section 5.2",
        second_derivative="1/3 if −3 < z < 3 else 0",
    ),
)

# For a last layer only: a tile of a hidden layer has no whole rows, and its δ no σ' to multiply
# with. Their codes are the last ones that TAKES_Z has a bit for.
OUTPUT_ACTIVATIONS = (
    Activation(
        "softmax",
        31,
        "exp(zⱼ) / Σₖ exp(zₖ)",
        "∂yⱼ/∂zₖ = yⱼ (1 − yⱼ) if j = k else −yⱼ yₖ",
        source="Bridle: Probabilistic interpretation of feedforward networks, 1990",
        elementwise=False,
    ),
)

#: Bit c is set where the derivative of the activation with code c takes z.
TAKES_Z = sum(1 << row.code for row in ACTIVATIONS if not row.from_output)

LOSSES = (
    Loss("quadratic", 0, "½ Σⱼ (oⱼ − tⱼ)²", curvature="r"),
    Loss("mse", 1, "1/n_out Σⱼ (oⱼ − tⱼ)²", curvature="2/n_out r"),
    Loss(
        "cross_entropy",
        2,
        "−Σⱼ t'ⱼ log softmax(o)ⱼ with t' = (1 − ε) t + ε/n_out",
        "labels or probabilities",
        parameters=("label_smoothing",),
        takes_logits=True,
        curvature="Σⱼ t'ⱼ · s ⊙ (r − s·r), s = softmax(o)",
    ),
    Loss(
        "binary_cross_entropy",
        3,
        "1/n_out Σⱼ (−pⱼ tⱼ log σ(oⱼ) − (1 − tⱼ) log(1 − σ(oⱼ))), pⱼ = 1 if there are none",
        "probabilities",
        parameters=("pos_weights",),
        takes_logits=True,
        curvature="1/n_out (1 + (p − 1) t) ⊙ s ⊙ (1 − s) ⊙ r, s = σ(o)",
    ),
    Loss("mae", 4, "1/n_out Σⱼ |oⱼ − tⱼ|", curvature="0"),
    Loss(
        "huber",
        5,
        "1/n_out Σⱼ (½ dⱼ² if |dⱼ| < δ else δ (|dⱼ| − ½ δ)) with d = o − t",
        parameters=("delta",),
        curvature="1/n_out (rⱼ if |dⱼ| < δ else 0)",
    ),
    Loss("poisson", 6, "1/n_out Σⱼ (exp(oⱼ) − tⱼ oⱼ)", "counts", curvature="1/n_out exp(o) ⊙ r"),
    Loss(
        "gaussian_nll",
        7,
        "1/k Σⱼ ½ (sⱼ + (mⱼ − tⱼ)² exp(−sⱼ)) for k targets and o = (m₁ … mₖ, s₁ … sₖ)",
        outputs_per_target=2,
        curvature="1/k (exp(−s) ⊙ (p − d ⊙ q), exp(−s) ⊙ d ⊙ (½ d ⊙ q − p)), d = m − t, r = (p, q)",
    ),
    Loss(
        "pinball",
        8,
        "1/n_out Σᵢⱼ max(τᵢ dᵢⱼ, (τᵢ − 1) dᵢⱼ) with dᵢⱼ = tⱼ − oᵢⱼ",
        parameters=("quantiles",),
        outputs_per_target=None,
        curvature="0",
    ),
    Loss(
        "hinge",
        9,
        "1/n_out Σⱼ max(1 − tⱼ oⱼ, 0); for a label c, 1/n_out Σⱼ≠c max(1 + oⱼ − o_c, 0)",
        "labels or signs",
        curvature="0",
    ),
    Loss(
        "squared_hinge",
        10,
        "as hinge, each maximum squared",
        "labels or signs",
        curvature="2/n_out Σₖ ∇mₖ (∇mₖ · r) over the margins m > 0",
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

# Only dense and elementwise layers have an activation; that of the others is the identity.
# Dropout and batch normalisation are other layers where a network is in use than where it is
# in training: dropout passes x on, and batch_norm takes its statistics from memory. Tables with
# batch_norm_training are for network_loss, network_gradient, network_difference_gradient and
# network_train; the other kernels take the network in use.
LAYER_KINDS = (
    LayerKind("dense", 0, "W x + b"),
    LayerKind("elementwise", 1, "x"),
    LayerKind(
        "dropout",
        2,
        "x / (1 − r) with probability 1 − r, else 0",
        source="Srivastava et al.: Dropout, JMLR 15, 2014",
    ),
    LayerKind(
        "prelu",
        3,
        "x if x > 0 else w x",
        source="He et al.: Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852",
    ),
    LayerKind(
        "layer_norm",
        4,
        "w (x − m) / √(v + ε) + b, with mean m and variance v of the units",
        source="Ba, Kiros, Hinton: Layer normalization, arXiv:1607.06450",
    ),
    LayerKind(
        "batch_norm",
        5,
        "w (x − m) / √(v + ε) + b, with the running mean m and variance v of each unit",
        source="Ioffe, Szegedy: Batch normalization, ICML 2015, arXiv:1502.03167",
    ),
    LayerKind(
        "batch_norm_training",
        6,
        "w (x − m) / √(v + ε) + b, with mean m and variance v of each unit over the batch",
        meets=True,
        source="Ioffe, Szegedy: Batch normalization, ICML 2015, arXiv:1502.03167",
    ),
)

#: Columns of a network's layer table, one row a layer. WEIGHT and BIAS are offsets of elements
#: in the arena, STRIDE is the distance between two rows of the weight; the bias follows the
#: weight and has BIASES elements, N_OUT or 0. After the bias of batch normalisation come the
#: running mean and variance. PENALIZED rows from WEIGHT on add to the loss: the weight's, and
#: the bias if that is penalised too. From SEED come the masks of dropout.
LAYER_COLUMNS = (
    "N_IN",
    "N_OUT",
    "WEIGHT",
    "STRIDE",
    "BIAS",
    "ACTIVATION",
    "KIND",
    "WEIGHT_ROWS",
    "WEIGHT_COLUMNS",
    "BIASES",
    "PENALIZED",
    "SEED",
)

#: Columns of the table of settings, one row a layer: α of the activation, rate of dropout, ε
#: and momentum of normalisation, and factors of the penalties L1 Σ|w| + ½ L2 Σw²; 0 where a
#: layer has none.
SETTING_COLUMNS = ("ALPHA", "DROP_RATE", "NORM_EPS", "NORM_MOMENTUM", "L1", "L2")

#: Bytes at a multiple of which every arena and workspace begins.
CACHE_LINE = 64

#: Rows are padded to a multiple of so many elements, hence to whole cache lines …
ROW_MULTIPLE = 16

#: … but to no multiple of so many bytes, which all fall into one cache set.
CACHE_SET_SPAN = 4096

#: Columns of the widest register tile, hence of a packed panel.
PANEL_WIDTH = 48

#: Most bytes of panels that are packed for a thread at once: half of a small L2 cache.
PACKED_BYTES = 524288

#: Samples that go through all layers together where only the output is wanted; more where the
#: parameters have FAR_BYTES, as every block reads all of them from beyond the second cache.
ROW_BLOCK, FAR_ROW_BLOCK = 96, 384
FAR_BYTES = 2097152

#: Most samples of a call that may go without the checks.
QUICK_ROWS = 256

#: Parts of a network's gradient whose norms are computed apart, by one thread each; as few as
#: the elements of the smallest workspace of packed panels.
NORM_PARTS = 32

#: Features, or units, of the widest layer of a narrow network.
NARROW = 128

#: Parts of a batch whose gradients are computed apart: MOST_PARTS at most, of NARROW_PART_ROWS
#: samples at least if there are several; or, if the network is not narrow, LEAST_PARTS at least, of
#: PART_ROWS samples at least. They go through the layers in blocks of LANE_SAMPLES at most.
MOST_PARTS, LEAST_PARTS = 32, 4
NARROW_PART_ROWS, PART_ROWS = 48, 128
LANE_SAMPLES = 96

#: Columns of the table of a user-defined activation. FORWARD, GRADIENT and CURVATURE are the
#: addresses of C functions of (source, n, sink) for float32, each followed by that for float64.
CUSTOM_COLUMNS = (
    "CUSTOM_FORWARD",
    "CUSTOM_FORWARD_FLOAT64",
    "CUSTOM_GRADIENT",
    "CUSTOM_GRADIENT_FLOAT64",
    "CUSTOM_CURVATURE",
    "CUSTOM_CURVATURE_FLOAT64",
    "CUSTOM_TAKES_Z",
)

#: From here on the code of an activation is the address of such a table; no memory is below.
FIRST_CUSTOM = 4096

#: Every constant that a kernel may compare with, by name.
CODES: dict[str, int] = {
    **{
        row.name.upper(): row.code
        for row in (*ACTIVATIONS, *OUTPUT_ACTIVATIONS, *LOSSES, *OPTIMIZERS, *LAYER_KINDS)
    },
    **{name: column for column, name in enumerate(LAYER_COLUMNS)},
    **{name: column for column, name in enumerate(SETTING_COLUMNS)},
    **{name: column for column, name in enumerate(CUSTOM_COLUMNS)},
    "FIRST_CUSTOM": FIRST_CUSTOM,
    "TAKES_Z": TAKES_Z,
    "LAYER_COLUMNS": len(LAYER_COLUMNS),
    "SETTING_COLUMNS": len(SETTING_COLUMNS),
    "ROW_MULTIPLE": ROW_MULTIPLE,
    "CACHE_LINE": CACHE_LINE,
    "CACHE_SET_SPAN": CACHE_SET_SPAN,
    "PANEL_WIDTH": PANEL_WIDTH,
    "ROW_BLOCK": ROW_BLOCK,
    "FAR_ROW_BLOCK": FAR_ROW_BLOCK,
    "FAR_BYTES": FAR_BYTES,
    "QUICK_ROWS": QUICK_ROWS,
    "NORM_PARTS": NORM_PARTS,
    "NARROW": NARROW,
    "MOST_PARTS": MOST_PARTS,
    "LEAST_PARTS": LEAST_PARTS,
    "NARROW_PART_ROWS": NARROW_PART_ROWS,
    "PART_ROWS": PART_ROWS,
    "LANE_SAMPLES": LANE_SAMPLES,
}
