"""The meaning of every kernel, in readable NumPy equations.

This is the ``numpy`` backend: the oracle of the tests and the baseline of the
benchmarks. The Numba and Cython backends have the same functions with the same
arguments and the same results up to rounding, NaN and ±inf included; only a weight whose
input is 0 may be left out, which tells where it is not finite.

Conventions
-----------
Arrays of one call share one dtype, float32 or float64, and have a unit stride along
the last axis; rows may be any distance apart. Arrays said to be int64 or float64 are
contiguous. Shapes are not checked; n_out is at least 1. Inputs are only
read. Outputs and workspaces come from the caller, and an output overlaps no input
unless a docstring says so. Rows are samples: ``x`` is (n_samples, n_in), ``weight`` is
stored (n_in, n_out), so z = x·weight + bias. Kernels named ``…_single`` take one
sample as vectors. ``n_threads`` changes the time, never a bit of the result.

Symbols are the lecture's: z = Wa + b, a = σ(z), δ = ∂L/∂z, and the four equations

- BP1: δᴸ = ∂L/∂aᴸ ⊙ σ'(zᴸ)
- BP2: δˡ = (Wˡ⁺¹)ᵀ δˡ⁺¹ ⊙ σ'(zˡ)
- BP3: ∂L/∂b = Σᵢ δᵢ
- BP4: ∂L/∂W = Σᵢ δᵢ aᵢᵀ
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import custom
from .catalogue import CODES, LAYER_COLUMNS
from .elementary import FORMATS

__all__ = [
    "activation_backward",
    "activation_forward",
    "dense_backward_input",
    "dense_backward_input_single",
    "dense_backward_weight",
    "dense_backward_weight_single",
    "dense_forward",
    "dense_forward_single",
    "factor_norms",
    "loss_backward",
    "loss_forward",
    "network_difference_gradient",
    "network_factors",
    "network_fair_difference_gradient",
    "network_forward",
    "network_gradient",
    "network_gradient_norms",
    "network_hessian_product",
    "network_input_gradient",
    "network_jacobian",
    "network_loss",
    "network_sample_gradients",
    "network_train",
    "optimizer_step",
    "softmax_forward",
]

Array = NDArray[np.floating]
Indices = NDArray[np.int64]


# --- Scalar functions: one for σ and one for grad · σ', one for L and one for ∂L/∂o ------
# The catalogue says whether σ' is taken from y or from z. At z = ±inf functions have their
# limits, 0 · inf included. σ and L take complex numbers, too, for complex steps: NumPy orders
# them by their real parts, then by the imaginary ones, so a piece of σ or of L is the one on
# the side that the step goes to, and each piece is analytic.


def _magnitude(z: Array) -> Array:
    """Return |z|, and of complex numbers ±z, analytic on either side of 0."""
    return np.where(z < 0, -z, z) if np.iscomplexobj(z) else np.abs(z)


def _sigmoid(z: Array) -> Array:
    small = np.exp(-_magnitude(z))
    return np.where(z < 0, small, 1) / (1 + small)


def _bounded(z: Array, highest: float = 746) -> Array:
    """Return z, where exp(−|z|) vanishes a number for which it does, too."""
    return np.clip(z, -746, highest)


def _silu_gradient(z: Array, grad: Array) -> Array:
    return grad * _sigmoid(z) * (1 + _bounded(z) * _sigmoid(-z))


def _elu(z: Array, alpha: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0)))


def _celu(z: Array, alpha: float) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z / alpha, 0)))


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _normal_cdf(z: Array) -> Array:
    """Return Φ in float64; of complex numbers to first order in the imaginary part."""
    x = z.real.astype(np.float64)
    value = 0.5 * _erfc(-x / math.sqrt(2))
    return value + 1j * z.imag * _normal_density(x) if np.iscomplexobj(z) else value


def _normal_density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _significant(values: Array, dtype: np.dtype) -> Array:
    """Return values, 0 for those that are nothing beside the values of other units.

    Where they fall like exp(−z²), values near z = −10 are subnormal numbers of float32, with
    which a product takes a hundred times as long.
    """
    limit = FORMATS[np.finfo(dtype).dtype.name]["negligible"]  # of the parts of complex ones
    return np.where(np.abs(values) < limit, 0, values)


def _gelu(z: Array) -> Array:
    return _significant(_bounded(z, np.inf) * _normal_cdf(z), z.dtype)


def _gelu_gradient(z: Array, grad: Array) -> Array:
    x = _bounded(z.astype(np.float64))
    slope = _significant(_normal_cdf(x) + x * _normal_density(x), z.dtype)
    return grad * slope.astype(z.dtype)


def _gelu_tanh(z: Array) -> Array:
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    return _significant(_bounded(z, np.inf) * _sigmoid(2 * u), z.dtype)


def _gelu_tanh_gradient(z: Array, grad: Array) -> Array:
    z = _bounded(z)
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    slope = _sigmoid(2 * u) * (1 + 2 * z * _sigmoid(-2 * u) * slope)
    return grad * _significant(slope, z.dtype)


def _tanh_of_softplus(z: Array) -> Array:
    # tanh(log(1 + e)) = ((1 + e)² − 1) / ((1 + e)² + 1); from z = 20 on it is 1.
    e = np.exp(np.minimum(z, 20))
    return e * (e + 2) / (e * (e + 2) + 2)


def _mish_gradient(z: Array, grad: Array) -> Array:
    # With e = exp(z) the second term, z (1 − t²) s, is z · 4e (1 + e) / (e (e + 2) + 2)².
    z = _bounded(z, 20)
    e = np.exp(z)
    n = e * (e + 2)
    return grad * ((n + 4 * z * (e * ((1 + e) / (n + 2)))) / (n + 2))


def _softplus(z: Array, beta: float) -> Array:
    x = beta * z
    return np.where(x > 20, z, (np.maximum(x, 0) + np.log1p(np.exp(-_magnitude(x)))) / beta)


def _softsign(z: Array) -> Array:
    z = np.clip(z, -(2.0**60), 2.0**60)  # beside which 1 is nothing
    return z / (1 + _magnitude(z))


def _hard_sigmoid(z: Array) -> Array:
    return np.clip(z + 3, 0, 6) / 6


def _hard_swish_gradient(z: Array, grad: Array) -> Array:
    return np.where(z <= -3, 0, np.where(z >= 3, grad, grad * (z / 3 + 0.5)))


def _softmax_gradient(y: Array, grad: Array) -> Array:
    # ∂yⱼ/∂zₖ is yⱼ (1 − yⱼ) for j = k, else −yⱼ yₖ; it is symmetric.
    return y * (grad - (y * grad).sum(axis=1, keepdims=True))


ACTIVATION_VALUES = {
    CODES["IDENTITY"]: lambda z, alpha: z,
    CODES["RELU"]: lambda z, alpha: np.maximum(z, 0),
    CODES["LEAKY_RELU"]: lambda z, alpha: np.where(z > 0, z, alpha * z),
    CODES["SIGMOID"]: lambda z, alpha: _sigmoid(z),
    CODES["TANH"]: lambda z, alpha: np.tanh(z),
    CODES["SILU"]: lambda z, alpha: _bounded(z, np.inf) * _sigmoid(z),
    CODES["ELU"]: _elu,
    CODES["CELU"]: _celu,
    CODES["SELU"]: lambda z, alpha: SELU_SCALE * _elu(z, SELU_ALPHA),
    CODES["GELU"]: lambda z, alpha: _gelu(z),
    CODES["GELU_TANH"]: lambda z, alpha: _gelu_tanh(z),
    CODES["MISH"]: lambda z, alpha: _bounded(z, np.inf) * _tanh_of_softplus(z),
    CODES["SOFTPLUS"]: _softplus,
    CODES["SOFTSIGN"]: lambda z, alpha: _softsign(z),
    CODES["RELU6"]: lambda z, alpha: np.clip(z, 0, 6),
    CODES["HARD_TANH"]: lambda z, alpha: np.clip(z, -1, 1),
    CODES["HARD_SIGMOID"]: lambda z, alpha: _hard_sigmoid(z),
    CODES["HARD_SWISH"]: lambda z, alpha: _bounded(z, np.inf) * _hard_sigmoid(z),
    CODES["SOFTMAX"]: lambda z, alpha: _softmax(z),
}

ACTIVATION_GRADIENTS = {
    CODES["IDENTITY"]: lambda y, grad, alpha: grad,
    CODES["RELU"]: lambda y, grad, alpha: np.where(y > 0, grad, 0),
    CODES["LEAKY_RELU"]: lambda y, grad, alpha: np.where(y > 0, grad, alpha * grad),
    CODES["SIGMOID"]: lambda y, grad, alpha: grad * (y * (1 - y)),
    CODES["TANH"]: lambda y, grad, alpha: grad * (1 - y * y),
    CODES["SILU"]: lambda z, grad, alpha: _silu_gradient(z, grad),
    CODES["ELU"]: lambda y, grad, alpha: grad * np.where(y > 0, 1, y + alpha),
    CODES["CELU"]: lambda y, grad, alpha: grad * np.where(y > 0, 1, y / alpha + 1),
    CODES["SELU"]: lambda y, grad, alpha: (
        grad * np.where(y > 0, SELU_SCALE, y + SELU_SCALE * SELU_ALPHA)
    ),
    CODES["GELU"]: lambda z, grad, alpha: _gelu_gradient(z, grad),
    CODES["GELU_TANH"]: lambda z, grad, alpha: _gelu_tanh_gradient(z, grad),
    CODES["MISH"]: lambda z, grad, alpha: _mish_gradient(z, grad),
    CODES["SOFTPLUS"]: lambda z, grad, alpha: (
        grad * np.where(alpha * z > 20, 1, _sigmoid(alpha * z))
    ),
    CODES["SOFTSIGN"]: lambda y, grad, alpha: grad * (1 - np.abs(y)) ** 2,
    CODES["RELU6"]: lambda y, grad, alpha: np.where((y > 0) & (y < 6), grad, 0),
    CODES["HARD_TANH"]: lambda y, grad, alpha: np.where((y > -1) & (y < 1), grad, 0),
    CODES["HARD_SIGMOID"]: lambda z, grad, alpha: np.where((z > -3) & (z < 3), grad / 6, 0),
    CODES["HARD_SWISH"]: lambda z, grad, alpha: _hard_swish_gradient(z, grad),
    CODES["SOFTMAX"]: lambda y, grad, alpha: _softmax_gradient(y, grad),
}


def _silu_curvature(z: Array, grad: Array) -> Array:
    s, rest = _sigmoid(z), _sigmoid(-z)
    return grad * s * rest * (2 + _bounded(z) * (rest - s))


def _gelu_curvature(z: Array, grad: Array) -> Array:
    x = _bounded(z)
    return grad * _normal_density(x) * (2 - x * x)


def _gelu_tanh_curvature(z: Array, grad: Array) -> Array:
    z = _bounded(z)
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)
    bend = math.sqrt(2 / math.pi) * 6 * 0.044715 * z
    s, rest = _sigmoid(2 * u), _sigmoid(-2 * u)
    return grad * s * rest * (4 * slope + z * (4 * slope**2 * (rest - s) + 2 * bend))


def _mish_curvature(z: Array, grad: Array) -> Array:
    # With e = exp(z): w = 4e (1 + e) / (n + 2)², t = n / (n + 2), s = e / (1 + e). From
    # z = 40 on it is nothing beside a second derivative of 1.
    z = _bounded(z, 40)
    e = np.exp(z)
    n = e * (e + 2)
    w = 4 * e * ((1 + e) / (n + 2)) / (n + 2)
    return grad * w * (2 + z * ((1 - 2 * e * (n / (n + 2))) / (1 + e)))


def _softplus_curvature(z: Array, grad: Array, beta: float) -> Array:
    x = beta * z
    return grad * np.where(x > 20, 0, beta * (_sigmoid(x) * _sigmoid(-x)))


#: grad ⊙ σ''
ACTIVATION_CURVATURES = {
    CODES["IDENTITY"]: lambda y, grad, alpha: 0 * grad,
    CODES["RELU"]: lambda y, grad, alpha: 0 * grad,
    CODES["LEAKY_RELU"]: lambda y, grad, alpha: 0 * grad,
    CODES["SIGMOID"]: lambda y, grad, alpha: grad * (y * (1 - y)) * (1 - 2 * y),
    CODES["TANH"]: lambda y, grad, alpha: -2 * y * (grad * (1 - y * y)),
    CODES["SILU"]: lambda z, grad, alpha: _silu_curvature(z, grad),
    CODES["ELU"]: lambda y, grad, alpha: grad * np.where(y > 0, 0, y + alpha),
    CODES["CELU"]: lambda y, grad, alpha: grad * np.where(y > 0, 0, (y / alpha + 1) / alpha),
    CODES["SELU"]: lambda y, grad, alpha: grad * np.where(y > 0, 0, y + SELU_SCALE * SELU_ALPHA),
    CODES["GELU"]: lambda z, grad, alpha: _gelu_curvature(z, grad),
    CODES["GELU_TANH"]: lambda z, grad, alpha: _gelu_tanh_curvature(z, grad),
    CODES["MISH"]: lambda z, grad, alpha: _mish_curvature(z, grad),
    CODES["SOFTPLUS"]: _softplus_curvature,
    CODES["SOFTSIGN"]: lambda y, grad, alpha: -2 * grad * np.sign(y) * (1 - np.abs(y)) ** 3,
    CODES["RELU6"]: lambda y, grad, alpha: 0 * grad,
    CODES["HARD_TANH"]: lambda y, grad, alpha: 0 * grad,
    CODES["HARD_SIGMOID"]: lambda z, grad, alpha: 0 * grad,
    CODES["HARD_SWISH"]: lambda z, grad, alpha: np.where((z > -3) & (z < 3), grad / 3, 0 * grad),
}


def _apply_custom(column: str, activation: int, source: Array, grad: Array) -> Array:
    """Return grad ⊙ σ' or σ'' of a user-defined activation, or σ itself for any grad."""
    if np.iscomplexobj(source):  # to first order in the imaginary part
        y = _apply_custom("CUSTOM_FORWARD", activation, source.real, source.real)
        known = source.real if custom.takes_z(activation) else y
        return y + 1j * _apply_custom("CUSTOM_GRADIENT", activation, known, source.imag)
    out = np.array(grad, order="C")
    custom.apply(activation, column, source, out)
    return out


def _shifted(output: Array) -> Array:
    """Subtract each row's maximum, so that exp cannot overflow."""
    return output - output.max(axis=1, keepdims=True, initial=-np.inf)


def _softmax(output: Array) -> Array:
    small = np.exp(_shifted(output))
    return small / small.sum(axis=1, keepdims=True)


def _smoothed(target: Array, parameters: Array) -> Array:
    """Mix rows of probabilities with equal ones."""
    (smoothing,) = parameters
    return (1 - smoothing) * target + smoothing / target.shape[1]


def _cross_entropy(o: Array, target: Array, labels: Indices, parameters: Array) -> Array:
    # A class of probability 0 costs nothing, even where its logit is −inf.
    shifted, t = _shifted(o), _smoothed(target, parameters)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -np.where(t == 0, 0, t * log_softmax).sum(axis=1)


def _cross_entropy_gradient(o: Array, target: Array, labels: Indices, parameters: Array) -> Array:
    # Σⱼ tⱼ = 1 for probabilities; keeping the sum makes the gradient exact for any row.
    t = _smoothed(target, parameters)
    return _significant(t.sum(axis=1, keepdims=True) * _softmax(o) - t, o.dtype)


def _positive_weights(parameters: Array) -> Array | float:
    return parameters if parameters.size else 1


def _binary_cross_entropy(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    # −log σ(o) and −log(1 − σ(o)), neither of which is negative: nothing cancels.
    small = np.log1p(np.exp(-_magnitude(o)))
    yes, no = np.maximum(-o, 0) + small, np.maximum(o, 0) + small
    return (_positive_weights(parameters) * t * yes + (1 - t) * no).mean(axis=1)


def _binary_cross_entropy_gradient(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    positive = _positive_weights(parameters)
    slope = (1 + (positive - 1) * t) * _sigmoid(o) - positive * t
    return _significant(slope, o.dtype) / o.shape[1]


def _huber(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    distance = _magnitude(o - t)
    cut = np.minimum(distance, parameters)
    return (cut * (distance - cut / 2)).mean(axis=1)


def _huber_gradient(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    return np.clip(o - t, -parameters, parameters) / o.shape[1]


def _standardised(o: Array, t: Array) -> tuple[Array, Array, Array]:
    """Return (m − t)/√v, log v and 1/√v of outputs m and log v."""
    mean, log_variance = np.split(o, 2, axis=1)
    precision = np.exp(-log_variance / 2)
    return (mean - t) * precision, log_variance, precision


def _gaussian_nll(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    residual, log_variance, _ = _standardised(o, t)
    return 0.5 * (log_variance + residual * residual).mean(axis=1)


def _gaussian_nll_gradient(o: Array, t: Array, labels: Indices, parameters: Array) -> Array:
    residual, _, precision = _standardised(o, t)
    slopes = residual * precision, 0.5 * (1 - residual * residual)
    return np.concatenate(slopes, axis=1) / t.shape[1]


def _shortfalls(o: Array, t: Array, quantiles: Array) -> Array:
    """Return t − o, shape (n_samples, n_quantiles, n_targets)."""
    return t[:, None] - o.reshape(len(o), quantiles.size, t.shape[1])


def _pinball(o: Array, t: Array, labels: Indices, quantiles: Array) -> Array:
    above = _shortfalls(o, t, quantiles)
    tau = quantiles[:, None]
    return np.maximum(tau * above, (tau - 1) * above).mean(axis=(1, 2))


def _pinball_gradient(o: Array, t: Array, labels: Indices, quantiles: Array) -> Array:
    above = _shortfalls(o, t, quantiles)
    tau = quantiles[:, None]
    # At the kink 0, which lies between the slopes of both sides; NaN stays.
    slope = np.where(above > 0, -tau, np.where(above < 0, 1 - tau, above))
    return slope.reshape(o.shape) / o.shape[1]


def _margins(o: Array, t: Array, labels: Indices) -> Array:
    """Return how far each output is from what a hinge wants, 0 for the label's own."""
    if not labels.size:
        return 1 - t * o
    rows = np.arange(labels.size)
    margins = 1 + (o - o[rows, labels][:, None])
    margins[rows, labels] = 0
    return margins


def _hinge_gradient(slopes: Array, t: Array, labels: Indices) -> Array:
    """Carry derivatives by the margins on to the outputs."""
    slopes = slopes / slopes.shape[1]
    if not labels.size:
        return -t * slopes
    slopes[np.arange(labels.size), labels] = -slopes.sum(axis=1)
    return slopes


#: L(o, t, labels, parameters); t are the labels' one-hot rows where there are labels.
LOSS_VALUES: dict[int, Callable[[Array, Array, Indices, Array], Array]] = {
    CODES["QUADRATIC"]: lambda o, t, labels, p: 0.5 * np.square(o - t).sum(axis=1),
    CODES["MSE"]: lambda o, t, labels, p: np.square(o - t).mean(axis=1),
    CODES["CROSS_ENTROPY"]: _cross_entropy,
    CODES["BINARY_CROSS_ENTROPY"]: _binary_cross_entropy,
    CODES["MAE"]: lambda o, t, labels, p: _magnitude(o - t).mean(axis=1),
    CODES["HUBER"]: _huber,
    CODES["POISSON"]: lambda o, t, labels, p: (np.exp(o) - t * o).mean(axis=1),
    CODES["GAUSSIAN_NLL"]: _gaussian_nll,
    CODES["PINBALL"]: _pinball,
    CODES["HINGE"]: lambda o, t, labels, p: np.maximum(_margins(o, t, labels), 0).mean(axis=1),
    CODES["SQUARED_HINGE"]: lambda o, t, labels, p: np.square(
        np.maximum(_margins(o, t, labels), 0)
    ).mean(axis=1),
}

#: ∂L/∂o, of the same arguments.
LOSS_GRADIENTS: dict[int, Callable[[Array, Array, Indices, Array], Array]] = {
    CODES["QUADRATIC"]: lambda o, t, labels, p: o - t,
    CODES["MSE"]: lambda o, t, labels, p: 2 / o.shape[1] * (o - t),
    CODES["CROSS_ENTROPY"]: _cross_entropy_gradient,
    CODES["BINARY_CROSS_ENTROPY"]: _binary_cross_entropy_gradient,
    CODES["MAE"]: lambda o, t, labels, p: np.sign(o - t) / o.shape[1],
    CODES["HUBER"]: _huber_gradient,
    CODES["POISSON"]: lambda o, t, labels, p: (np.exp(o) - t) / o.shape[1],
    CODES["GAUSSIAN_NLL"]: _gaussian_nll_gradient,
    CODES["PINBALL"]: _pinball_gradient,
    CODES["HINGE"]: lambda o, t, labels, p: _hinge_gradient(
        np.where(_margins(o, t, labels) <= 0, 0, 1).astype(o.dtype), t, labels
    ),
    CODES["SQUARED_HINGE"]: lambda o, t, labels, p: _hinge_gradient(
        2 * np.maximum(_margins(o, t, labels), 0), t, labels
    ),
}


Curvature = Callable[[Array, Array, Indices, Array, Array], Array]


def _cross_entropy_curvature(
    o: Array, target: Array, labels: Indices, parameters: Array, r: Array
) -> Array:
    total = _smoothed(target, parameters).sum(axis=1, keepdims=True)
    s = _softmax(o)
    return total * s * (r - (s * r).sum(axis=1, keepdims=True))


def _binary_cross_entropy_curvature(
    o: Array, t: Array, labels: Indices, parameters: Array, r: Array
) -> Array:
    s = _sigmoid(o)
    return (1 + (_positive_weights(parameters) - 1) * t) * (s * (1 - s) / o.shape[1] * r)


def _gaussian_nll_curvature(
    o: Array, t: Array, labels: Indices, parameters: Array, r: Array
) -> Array:
    residual, _, precision = _standardised(o, t)
    of_mean, of_log_variance = np.split(r, 2, axis=1)
    scaled = precision * of_mean
    products = (
        precision * (scaled - residual * of_log_variance),
        residual * (0.5 * residual * of_log_variance - scaled),
    )
    return np.concatenate(products, axis=1) / t.shape[1]


def _squared_hinge_curvature(
    o: Array, t: Array, labels: Indices, parameters: Array, r: Array
) -> Array:
    # r moves the margins 1 − t o by −t r, and 1 + o − o_label by r − r_label.
    moved = r - r[np.arange(labels.size), labels][:, None] if labels.size else -t * r
    return _hinge_gradient(np.where(_margins(o, t, labels) > 0, 2 * moved, 0), t, labels)


#: ∂²L/∂o² · r of (o, t, labels, parameters, r); t as above.
LOSS_CURVATURES: dict[int, Curvature] = {
    CODES["QUADRATIC"]: lambda o, t, labels, p, r: r,
    CODES["MSE"]: lambda o, t, labels, p, r: 2 / o.shape[1] * r,
    CODES["CROSS_ENTROPY"]: _cross_entropy_curvature,
    CODES["BINARY_CROSS_ENTROPY"]: _binary_cross_entropy_curvature,
    CODES["MAE"]: lambda o, t, labels, p, r: 0 * r,
    CODES["HUBER"]: lambda o, t, labels, p, r: np.where(np.abs(o - t) < p, r / o.shape[1], 0 * r),
    CODES["POISSON"]: lambda o, t, labels, p, r: np.exp(o) / o.shape[1] * r,
    CODES["GAUSSIAN_NLL"]: _gaussian_nll_curvature,
    CODES["PINBALL"]: lambda o, t, labels, p, r: 0 * r,
    CODES["HINGE"]: lambda o, t, labels, p, r: 0 * r,
    CODES["SQUARED_HINGE"]: _squared_hinge_curvature,
}


def _as_values(target: Array, labels: Indices, like: Array) -> Array:
    """Return the target as rows: `target` itself, or one-hot rows of `labels`."""
    if not labels.size:
        return target
    one_hot = np.zeros_like(like)
    one_hot[np.arange(labels.size), labels] = 1
    return one_hot


def _sample_shares(sample_weight: Array, n_samples: int, dtype: np.dtype) -> Array:
    """Return wᵢ / Σw, all equal for an empty `sample_weight`, all 0 where Σw = 0."""
    if not sample_weight.size:
        return np.full(n_samples, 1 / max(n_samples, 1), dtype)
    total = sample_weight.sum(dtype=np.float64)
    share = 1 / total if total != 0 else 0.0
    return (sample_weight * share).astype(dtype)


# --- Layer kernels ------------------------------------------------------------------------


def activation_forward(z: Array, activation: int, alpha: float, out: Array) -> None:
    """Apply an activation to every element: a = σ(z).

    Outputs and slopes of GELU below 2⁻⁶⁶ in float32, 2⁻⁵⁰⁰ in float64, are 0, because
    products with subnormal numbers take long.

    Parameters
    ----------
    z : array of shape (n_samples, n_out)
        Pre-activations.
    activation : int
        Code of σ, from :data:`fastmlp.kernels.catalogue.ACTIVATIONS`, or from
        :mod:`fastmlp.kernels.custom`. Those of ``OUTPUT_ACTIVATIONS`` are for this kernel,
        for :func:`activation_backward` and for the last layer of a network.
    alpha : float
        Parameter of σ; ignored by those that have none.
    out : array of shape (n_samples, n_out)
        Receives a. May be `z` itself.
    """
    if custom.is_custom(activation):
        out[...] = _apply_custom("CUSTOM_FORWARD", activation, z, z)
    else:
        out[...] = ACTIVATION_VALUES[activation](z, z.dtype.type(alpha))


def activation_backward(
    y_or_z: Array, grad: Array, activation: int, alpha: float, out: Array
) -> None:
    """Multiply a gradient by the activation's derivative: grad ⊙ σ' (the right of BP1, BP2).

    Where σ' is exactly 0 for piecewise linear activations the result is 0, whatever
    `grad` holds: a unit that is off passes nothing on.

    Parameters
    ----------
    y_or_z : array of shape (n_samples, n_out)
        Outputs y of the activation, or its inputs z where the catalogue says so.
    grad : array of shape (n_samples, n_out)
        ∂L/∂a.
    activation : int
        Code of σ.
    alpha : float
        Parameter of σ.
    out : array of shape (n_samples, n_out)
        Receives ∂L/∂z. May be `grad` itself.
    """
    if custom.is_custom(activation):
        out[...] = _apply_custom("CUSTOM_GRADIENT", activation, y_or_z, grad)
    else:
        out[...] = ACTIVATION_GRADIENTS[activation](y_or_z, grad, y_or_z.dtype.type(alpha))


def _curvature(y: Array, grad: Array, activation: int, alpha: float) -> Array:
    """Return grad ⊙ σ''."""
    if custom.is_custom(activation):
        return _apply_custom("CUSTOM_CURVATURE", activation, y, grad)
    return ACTIVATION_CURVATURES[activation](y, grad, y.dtype.type(alpha))


def softmax_forward(z: Array, out: Array) -> None:
    """Turn logits into probabilities: exp(zⱼ) / Σₖ exp(zₖ) in each row.

    Parameters
    ----------
    z : array of shape (n_samples, n_out)
        Logits.
    out : array of shape (n_samples, n_out)
        Receives the probabilities. May be `z` itself.
    """
    out[...] = _softmax(z)


def dense_forward(
    x: Array,
    weight: Array,
    bias: Array,
    activation: int,
    alpha: float,
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Run one dense layer on a batch: a = σ(x·weight + bias).

    Parameters
    ----------
    x : array of shape (n_samples, n_in)
        Inputs.
    weight : array of shape (n_in, n_out)
        Weights, stored input by output.
    bias : array of shape (n_out,)
        Biases.
    activation : int
        Code of σ.
    alpha : float
        Parameter of σ.
    out : array of shape (n_samples, n_out)
        Receives a.
    workspace : array of shape (panel_size(n_in, n_threads),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    activation_forward(x @ weight + bias, activation, alpha, out)


def dense_forward_single(
    x: Array, weight: Array, bias: Array, activation: int, alpha: float, out: Array
) -> None:
    """Run one dense layer on one sample: a = σ(x·weight + bias).

    Parameters
    ----------
    x : array of shape (n_in,)
        Input.
    weight : array of shape (n_in, n_out)
        Weights, stored input by output.
    bias : array of shape (n_out,)
        Biases.
    activation : int
        Code of σ.
    alpha : float
        Parameter of σ.
    out : array of shape (n_out,)
        Receives a.
    """
    activation_forward(x @ weight + bias, activation, alpha, out)


def dense_backward_input(
    delta: Array,
    weight: Array,
    y_or_z: Array,
    activation: int,
    alpha: float,
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Carry δ down one layer: δ·weightᵀ ⊙ σ' (BP2).

    Parameters
    ----------
    delta : array of shape (n_samples, n_out)
        δ of this layer.
    weight : array of shape (n_in, n_out)
        Weights of this layer.
    y_or_z : array of shape (n_samples, n_in)
        Outputs y of the layer below, this layer's inputs; or its pre-activations z where
        the catalogue says that σ' takes them.
    activation : int
        Code of σ of the layer below.
    alpha : float
        Parameter of σ.
    out : array of shape (n_samples, n_in)
        Receives δ of the layer below.
    workspace : array of shape (panel_size(n_out, n_threads),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    activation_backward(y_or_z, delta @ weight.T, activation, alpha, out)


def dense_backward_input_single(
    delta: Array, weight: Array, y_or_z: Array, activation: int, alpha: float, out: Array
) -> None:
    """Carry δ of one sample down one layer: δ·weightᵀ ⊙ σ' (BP2).

    Parameters
    ----------
    delta : array of shape (n_out,)
        δ of this layer.
    weight : array of shape (n_in, n_out)
        Weights of this layer.
    y_or_z : array of shape (n_in,)
        Output y of the layer below, or its pre-activation z.
    activation : int
        Code of σ of the layer below.
    alpha : float
        Parameter of σ.
    out : array of shape (n_in,)
        Receives δ of the layer below.
    """
    activation_backward(y_or_z, weight @ delta, activation, alpha, out)


def dense_backward_weight(
    x: Array,
    delta: Array,
    grad_weight: Array,
    grad_bias: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Sum a batch's gradient of one layer: xᵀ·δ (BP4) and Σᵢ δᵢ (BP3).

    Parameters
    ----------
    x : array of shape (n_samples, n_in)
        Inputs of the layer.
    delta : array of shape (n_samples, n_out)
        δ of the layer, with the factors of the mean already in it.
    grad_weight : array of shape (n_in, n_out)
        Receives ∂L/∂W, stored as the weight is.
    grad_bias : array of shape (n_out,)
        Receives ∂L/∂b.
    workspace : array of shape (panel_size(n_samples, n_threads),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    grad_weight[...] = x.T @ delta
    grad_bias[...] = delta.sum(axis=0)


def dense_backward_weight_single(
    x: Array, delta: Array, grad_weight: Array, grad_bias: Array
) -> None:
    """Form one sample's gradient of one layer: x δᵀ (BP4) and δ (BP3).

    Parameters
    ----------
    x : array of shape (n_in,)
        Input of the layer.
    delta : array of shape (n_out,)
        δ of the layer.
    grad_weight : array of shape (n_in, n_out)
        Receives ∂L/∂W, stored as the weight is.
    grad_bias : array of shape (n_out,)
        Receives ∂L/∂b.
    """
    np.multiply(x[:, None], delta[None, :], out=grad_weight)
    grad_bias[...] = delta


def loss_forward(
    output: Array,
    target: Array,
    labels: Indices,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
) -> None:
    """Compute the loss of each sample.

    Parameters
    ----------
    output : array of shape (n_samples, n_out)
        Outputs of the network.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given. n_targets is n_out,
        or less where the loss's row gives a target more than one output.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample in [0, n_out), for losses that take labels; empty if `target`
        counts.
    loss : int
        Code of L, from :data:`fastmlp.kernels.catalogue.LOSSES`.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L, in the order of the loss's row; used in the dtype of the outputs.
        Weights of positive targets are n_out numbers or none.
    out : array of shape (n_samples,)
        Receives L of each sample.
    """
    rows, parameters = _as_values(target, labels, output), loss_parameters.astype(output.dtype)
    out[...] = LOSS_VALUES[loss](output, rows, labels, parameters)


def loss_backward(
    output: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
) -> None:
    """Differentiate the batch's mean loss by the outputs: wᵢ/Σw · ∂Lᵢ/∂oᵢ.

    Parameters
    ----------
    output : array of shape (n_samples, n_out)
        Outputs of the network.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, finite and not negative; empty for equal weights. Where
        they sum to 0 the gradient is 0.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    out : array of shape (n_samples, n_out)
        Receives ∂(mean loss)/∂output.
    """
    share = _sample_shares(sample_weight, len(output), output.dtype)
    rows, parameters = _as_values(target, labels, output), loss_parameters.astype(output.dtype)
    slope = LOSS_GRADIENTS[loss](output, rows, labels, parameters)
    out[...] = np.where(share[:, None] == 0, 0, share[:, None] * slope)


def optimizer_step(
    parameters: Array,
    grad: Array,
    state: Array,
    optimizer: int,
    coefficients: NDArray[np.float64],
    n_threads: int = 1,
) -> None:
    """Update parameters in place by one step of an optimizer.

    Parameters
    ----------
    parameters : array of shape (n,)
        θ, updated in place.
    grad : array of shape (n,)
        ∂L/∂θ.
    state : array of shape (n_state, n)
        What the optimizer remembers of each parameter, updated in place.
    optimizer : int
        Code of the recurrence, from :data:`fastmlp.kernels.catalogue.OPTIMIZERS`.
    coefficients : array of float64, shape (n_coefficients,)
        Scalars of this step, in the order of the optimizer's row; used in the dtype of
        the parameters.
    n_threads : int, default=1
        Threads to share the work.
    """
    _step(parameters, grad, state, optimizer, coefficients)


def _step(
    theta: Array,
    grad: Array,
    state: Iterable[Array],
    optimizer: int,
    coefficients: NDArray[np.float64],
) -> None:
    scalars = coefficients.astype(theta.dtype, copy=False)
    OPTIMIZER_STEPS[optimizer](theta, grad, state, *scalars)


def _decay(theta: Array, grad: Array, weight_decay: float = 0.0, shrinkage: float = 0.0) -> Array:
    """Shrink θ in place, which is decoupled weight decay, and return g + λθ."""
    theta -= shrinkage * theta
    return grad + weight_decay * theta


def _fading(mean: Array) -> Array:
    """Return a mean of gradients, 0 where it has faded to a subnormal number.

    There it would stay for ever, since 0.9 · 4 ulp are rounded to 4 ulp, and each step with
    it would take many times as long.
    """
    return np.where(np.abs(mean) < np.finfo(mean.dtype).tiny, 0, mean)


def _mean_square(before: Array, grad: Array, beta: float, rest: float) -> Array:
    """Return β · before + rest · g², which does not fade that far either: its root divides."""
    square, least = beta * before + rest * grad * grad, 4 * np.finfo(grad.dtype).tiny
    return np.where(square < least, least, square)


def _sgd(theta: Array, grad: Array, state: Array, learning_rate: float, decay: float) -> None:
    theta -= learning_rate * (grad + decay * theta)


def _momentum(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    momentum: float,
    shrinkage: float,
) -> None:
    (velocity,) = state
    grad = _decay(theta, grad, decay, shrinkage)
    velocity[...] = _fading(momentum * velocity - learning_rate * grad)
    theta += velocity


def _adam(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
    correction1: float,
    correction2: float,
    rest1: float,
    rest2: float,
    shrinkage: float,
) -> None:
    first, second = state
    grad = _decay(theta, grad, decay, shrinkage)
    first[...] = _fading(beta1 * first + rest1 * grad)
    second[...] = _mean_square(second, grad, beta2, rest2)
    theta -= learning_rate / correction1 * first / (np.sqrt(second / correction2) + eps)


def _ema_momentum(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    momentum: float,
    rest: float,
    shrinkage: float,
) -> None:
    (mean,) = state
    mean[...] = _fading(momentum * mean + rest * _decay(theta, grad, decay, shrinkage))
    theta -= learning_rate * mean


def _nesterov(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    next_momentum: float,
    shrinkage: float,
) -> None:
    # θ is the look-ahead and u its distance from the iterate, which u − αg is the change of.
    (lookahead,) = state
    change = learning_rate * _decay(theta, grad, decay, shrinkage)
    lookahead[...] = _fading(next_momentum * (lookahead - change))
    theta += lookahead - change


def _adagrad(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    eps: float,
    shrinkage: float,
) -> None:
    (square_sum,) = state
    grad = _decay(theta, grad, decay, shrinkage)
    square_sum += grad * grad
    theta -= learning_rate * grad / (np.sqrt(square_sum) + eps)


def _rmsprop(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    beta: float,
    rest: float,
    eps: float,
    shrinkage: float,
) -> None:
    (mean_square,) = state
    grad = _decay(theta, grad, decay, shrinkage)
    mean_square[...] = _mean_square(mean_square, grad, beta, rest)
    theta -= learning_rate * grad / (np.sqrt(mean_square) + eps)


def _rmsprop_momentum(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    beta: float,
    rest: float,
    eps: float,
    momentum: float,
    shrinkage: float,
) -> None:
    mean_square, velocity = state
    grad = _decay(theta, grad, decay, shrinkage)
    mean_square[...] = _mean_square(mean_square, grad, beta, rest)
    velocity[...] = _fading(momentum * velocity + grad / (np.sqrt(mean_square) + eps))
    theta -= learning_rate * velocity


def _centered_rmsprop(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    decay: float,
    beta: float,
    rest: float,
    eps: float,
    momentum: float,
    shrinkage: float,
) -> None:
    mean_square, velocity, mean = state
    grad = _decay(theta, grad, decay, shrinkage)
    mean_square[...] = _mean_square(mean_square, grad, beta, rest)
    mean[...] = _fading(beta * mean + rest * grad)
    # Rounding may make it negative, an overflow inf − inf; a NaN shows in the velocity.
    variance = np.where(mean * mean < mean_square, mean_square - mean * mean, 0)
    velocity[...] = _fading(momentum * velocity + grad / (np.sqrt(variance) + eps))
    theta -= learning_rate * velocity


def _adamax(
    theta: Array,
    grad: Array,
    state: Array,
    corrected_rate: float,
    decay: float,
    beta1: float,
    rest1: float,
    beta2: float,
    eps: float,
    shrinkage: float,
) -> None:
    first, largest = state
    grad = _decay(theta, grad, decay, shrinkage)
    first[...] = _fading(beta1 * first + rest1 * grad)
    # Not np.maximum: a NaN shows in the first moment.
    faded, size = beta2 * largest, np.abs(grad) + eps
    largest[...] = np.where(faded > size, faded, size)
    theta -= corrected_rate * first / largest


def _nadam(
    theta: Array,
    grad: Array,
    state: Array,
    gradient_rate: float,
    moment_rate: float,
    decay: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    correction2: float,
    eps: float,
    shrinkage: float,
) -> None:
    first, second = state
    grad = _decay(theta, grad, decay, shrinkage)
    first[...] = _fading(beta1 * first + rest1 * grad)
    second[...] = _mean_square(second, grad, beta2, rest2)
    change = gradient_rate * grad + moment_rate * first
    theta -= change / (np.sqrt(second / correction2) + eps)


def _lion(
    theta: Array,
    grad: Array,
    state: Array,
    learning_rate: float,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    shrinkage: float,
) -> None:
    (mean,) = state
    _decay(theta, grad, shrinkage=shrinkage)
    theta -= learning_rate * np.sign(beta1 * mean + rest1 * grad)
    mean[...] = _fading(beta2 * mean + rest2 * grad)


OPTIMIZER_STEPS: dict[int, Callable[..., None]] = {
    CODES["SGD"]: _sgd,
    CODES["MOMENTUM"]: _momentum,
    CODES["ADAM"]: _adam,
    CODES["EMA_MOMENTUM"]: _ema_momentum,
    CODES["NESTEROV"]: _nesterov,
    CODES["ADAGRAD"]: _adagrad,
    CODES["RMSPROP"]: _rmsprop,
    CODES["RMSPROP_MOMENTUM"]: _rmsprop_momentum,
    CODES["CENTERED_RMSPROP"]: _centered_rmsprop,
    CODES["ADAMAX"]: _adamax,
    CODES["NADAM"]: _nadam,
    CODES["LION"]: _lion,
}


# --- Layers that are not dense ------------------------------------------------------------

BATCH_NORMS = CODES["BATCH_NORM"], CODES["BATCH_NORM_TRAINING"]


class _Layer(NamedTuple):
    """A row of the layer table with its settings and parameters.

    `statistics` are the running mean and variance of batch normalisation.
    """

    position: int
    kind: int
    activation: int
    seed: int
    settings: NDArray[np.float64]
    weight: Array
    bias: Array
    statistics: Array

    def setting(self, name: str) -> np.floating:
        """Return a setting as a number of the arena's type."""
        return self.weight.dtype.type(self.settings[CODES[name]])


def _layers_of(layers: Indices, settings: NDArray[np.float64], arena: Array) -> Iterator[_Layer]:
    """Yield the layers with what an arena holds of them."""
    for index, (row, setting) in enumerate(zip(layers, settings, strict=True)):
        place = dict(zip(LAYER_COLUMNS, row.tolist(), strict=True))
        start, stride, n_out = place["WEIGHT"], place["STRIDE"], place["N_OUT"]
        bias = place["BIAS"]
        rows = arena[start:bias].reshape(place["WEIGHT_ROWS"], stride)
        n_moments = 2 if place["KIND"] in BATCH_NORMS else 0
        moments = arena[bias + stride : bias + (1 + n_moments) * stride]
        yield _Layer(
            index,
            place["KIND"],
            place["ACTIVATION"],
            place["SEED"],
            setting,
            rows[:, : place["WEIGHT_COLUMNS"]],
            arena[bias : bias + n_out],
            moments.reshape(n_moments, stride)[:, :n_out],
        )


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _scrambled(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32 bits: Wellons, Prospecting for hash functions, 2018, "lowbias32"."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def _kept(layer: _Layer, shape: tuple[int, ...]) -> NDArray[np.bool]:
    """Return which inputs dropout lets pass, from the seed and their place alone.

    A sample's key comes from the seed, the layer and the row of the batch; a unit's bits are
    its number, scrambled with one half of the key and again with the other.
    """
    rows, units = (np.arange(n) for n in shape)
    seed = np.array([layer.seed], np.int64).view(np.uint64)
    of_layer = _mixed(seed ^ _mixed(np.array([layer.position + 1], np.uint64)))
    keys = _mixed(of_layer + rows.astype(np.uint64))[:, None]
    low, high = keys.astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    bits = _scrambled(_scrambled(units.astype(np.uint32) ^ low) ^ high)
    return bits >= np.uint32(layer.settings[CODES["DROP_RATE"]] * 2.0**32)


def _moments(layer: _Layer, x: Array, shares: Array) -> tuple[Array, Array]:
    """Return mean and variance of each sample, or of each unit over the batch or in memory."""
    if layer.kind == CODES["LAYER_NORM"]:
        mean = x.mean(axis=1, keepdims=True)
        return mean, ((x - mean) ** 2).mean(axis=1, keepdims=True)
    if layer.kind == CODES["BATCH_NORM"]:
        return layer.statistics[0], layer.statistics[1]
    mean = shares @ x
    return mean, shares @ (x - mean) ** 2


def _normalised(layer: _Layer, x: Array, shares: Array) -> tuple[Array, Array]:
    """Return x̂ = (x − m) / √(v + ε), and 1/√(v + ε)."""
    mean, variance = _moments(layer, x, shares)
    scale = 1 / np.sqrt(variance + layer.setting("NORM_EPS"))
    return (x - mean) * scale, scale


def _before_activation(layer: _Layer, x: Array, shares: Array) -> Array:
    """Return z of a layer for a batch; `shares` are the samples' parts of its mean loss."""
    if layer.kind == CODES["DENSE"]:
        return x @ layer.weight + layer.bias
    if layer.kind == CODES["ELEMENTWISE"]:
        return x
    if layer.kind == CODES["DROPOUT"]:
        scale = x.dtype.type(1 / (1 - layer.settings[CODES["DROP_RATE"]]))
        return np.where(_kept(layer, x.shape), x * scale, x.dtype.type(0))
    if layer.kind == CODES["PRELU"]:
        return np.where(x > 0, x, x * layer.weight)
    return _normalised(layer, x, shares)[0] * layer.weight + layer.bias


def _carried(layer: _Layer, x: Array, delta: Array, shares: Array) -> Array:
    """Return ∂L/∂x of a layer from its δ."""
    if layer.kind == CODES["DENSE"]:
        return delta @ layer.weight.T
    if layer.kind == CODES["ELEMENTWISE"]:
        return delta
    if layer.kind == CODES["DROPOUT"]:
        return _before_activation(layer, delta, shares)
    if layer.kind == CODES["PRELU"]:
        return np.where(x > 0, delta, delta * layer.weight)
    standard, scale = _normalised(layer, x, shares)
    slope = delta * layer.weight
    if layer.kind == CODES["LAYER_NORM"]:
        along = (slope * standard).mean(axis=1, keepdims=True)
        slope = slope - slope.mean(axis=1, keepdims=True) - standard * along
    elif layer.kind == CODES["BATCH_NORM_TRAINING"]:
        along = (slope * standard).sum(axis=0)
        slope = slope - shares[:, None] * (slope.sum(axis=0) + standard * along)
    return slope * scale


def _store_gradient(layer: _Layer, x: Array, delta: Array, shares: Array, grad: _Layer) -> None:
    """Store the derivatives of a layer's own parameters, those it has."""
    n_weights = grad.weight.shape[1]
    if layer.kind == CODES["DENSE"]:
        grad.weight[...] = x.T @ delta
    elif layer.kind == CODES["PRELU"]:
        by_unit = (delta * np.minimum(x, 0)).sum(axis=0)
        grad.weight[...] = by_unit if n_weights == len(by_unit) else by_unit.sum()
    elif n_weights:
        standard, _ = _normalised(layer, x, shares)
        grad.weight[...] = (delta * standard).sum(axis=0)


def _penalized(layers: Indices, arena: Array) -> Iterator[tuple[int, Array]]:
    """Yield the penalised rows of each layer that has any, as one matrix, and its index."""
    columns = [CODES[name] for name in ("WEIGHT", "STRIDE", "WEIGHT_COLUMNS", "PENALIZED")]
    for index, (start, stride, n_columns, n_rows) in enumerate(layers[:, columns]):
        if n_rows:
            rows = arena[start : start + n_rows * stride].reshape(n_rows, stride)
            yield index, rows[:, :n_columns]


def _penalty(layers: Indices, settings: NDArray[np.float64], parameters: Array) -> float:
    """Return what the weights add to the loss, L1 Σ|w| + ½ L2 Σw²."""
    l1, l2 = settings[:, CODES["L1"]], settings[:, CODES["L2"]]
    wide = np.result_type(parameters, np.float64)
    return sum(
        l1[index] * _magnitude(rows).sum(dtype=wide).item()
        + l2[index] / 2 * np.square(rows, dtype=wide).sum().item()
        for index, rows in _penalized(layers, parameters)
    )


def _add_penalties(
    layers: Indices, settings: NDArray[np.float64], parameters: Array, grad: Array
) -> None:
    """Add the derivatives of the penalties to a gradient."""
    factors = settings.astype(parameters.dtype)
    for (index, rows), (_, slopes) in zip(
        _penalized(layers, parameters), _penalized(layers, grad), strict=True
    ):
        slopes += factors[index, CODES["L1"]] * np.sign(rows) + factors[index, CODES["L2"]] * rows


def _update_statistics(layer: _Layer, x: Array, shares: Array) -> None:
    """Move running mean and variance towards those of a batch.

    The variance is unbiased, with n_eff = 1 / Σ sᵢ² samples where they have weights: n if
    these are equal (Kish, Survey sampling, 1965, section 8.2).
    """
    mean, variance = _moments(layer, x, shares)
    lost = float((shares.astype(np.float64) ** 2).sum())
    unbiased = variance / x.dtype.type(1 - lost if lost < 1 else 1)
    for running, of_batch in zip(layer.statistics, (mean, unbiased), strict=True):
        running += layer.setting("NORM_MOMENTUM") * (of_batch - running)


# --- Network kernels: the layers in sequence ----------------------------------------------


def _layer_views(layers: Indices, arena: Array) -> Iterator[tuple[Array, Array, int]]:
    """Yield weight (n_in, n_out), bias (n_out,) and activation code of each layer."""
    for layer in _layers_of(layers, np.empty((len(layers), 0)), arena):
        yield layer.weight, layer.bias, layer.activation


def _alphas(settings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the parameter of each layer's activation."""
    return settings[:, CODES["ALPHA"]]


def layer_outputs(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    sample_weight: Array,
) -> list[tuple[Array, Array]]:
    """Return z and a of every layer; of one that is not dense z is what its σ is given.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.

    Returns
    -------
    list of (z, a)
        Both of shape (n_samples, n_out).
    """
    passed = []
    shares = _sample_shares(sample_weight, len(x), x.dtype)
    for layer in _layers_of(layers, settings, parameters):
        z = _before_activation(layer, x, shares)
        x = np.empty_like(z)
        activation_forward(z, layer.activation, layer.settings[CODES["ALPHA"]], x)
        passed.append((z, x))
    return passed


def _activations(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    sample_weight: Array,
) -> tuple[list[Array], list[Array]]:
    """Return x and the output of every layer, and what each layer's σ' takes, y or z."""
    passed = layer_outputs(layers, settings, parameters, x, sample_weight)
    known = [
        z if custom.takes_z(activation) else y
        for (z, y), activation in zip(passed, layers[:, CODES["ACTIVATION"]], strict=True)
    ]
    return [x, *(y for _, y in passed)], known


def network_forward(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Run the whole network forward: aˡ = σ(Wˡaˡ⁻¹ + bˡ) for every layer.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table, from :func:`fastmlp.kernels.arena.layer_table`.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    out : array of shape (n_samples, n_out)
        Receives the outputs of the last layer.
    workspace : array of shape (forward_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    outputs, _ = _activations(layers, settings, parameters, x, np.empty(0, x.dtype))
    out[...] = outputs[-1]


def network_loss(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    workspace: Array,
    n_threads: int = 1,
) -> float:
    """Return the mean loss of a batch, Σᵢ wᵢ Lᵢ / Σw: the empirical risk, and penalties.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.

    Returns
    -------
    float
        The mean, summed in float64 in the order of the samples; 0 for no samples or
        where the weights sum to 0. The penalties are added.
    """
    outputs, _ = _activations(layers, settings, parameters, x, sample_weight)
    mean = _mean_loss(outputs[-1], target, labels, sample_weight, loss, loss_parameters)
    return mean + _penalty(layers, settings, parameters)


def _mean_loss(
    output: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
) -> float:
    each = np.empty(len(output), output.dtype)
    loss_forward(output, target, labels, loss, loss_parameters, each)
    share = _sample_shares(sample_weight.astype(np.float64), len(output), np.dtype(np.float64))
    mean: float = np.where(share == 0, 0, share * each).sum().item()  # complex for complex θ
    return mean


def _deltas(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    passed: tuple[list[Array], list[Array]],
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
) -> list[Array]:
    """Return δ of every layer: BP1 for the last one, BP2 for those below."""
    outputs, known = passed
    shares = _sample_shares(sample_weight, len(outputs[0]), outputs[0].dtype)
    grad = np.empty_like(outputs[-1])
    loss_backward(outputs[-1], target, labels, sample_weight, loss, loss_parameters, grad)
    deltas: list[Array] = []
    for layer in reversed(list(_layers_of(layers, settings, parameters))):
        delta, alpha = np.empty_like(grad), layer.settings[CODES["ALPHA"]]
        activation_backward(known[layer.position], grad, layer.activation, alpha, delta)
        deltas.insert(0, delta)
        if layer.position:
            grad = _carried(layer, outputs[layer.position], delta, shares)
    return deltas


def network_gradient(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    grad: Array,
    workspace: Array,
    n_threads: int = 1,
) -> float:
    """Return the mean loss of a batch and store its gradient: backpropagation, BP1–BP4.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    grad : array of shape (n_elements,)
        Receives the gradient, laid out as the arena; its padding is left alone.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.

    Returns
    -------
    float
        The mean loss, as from :func:`network_loss`.
    """
    passed = _activations(layers, settings, parameters, x, sample_weight)
    deltas = _deltas(
        layers, settings, parameters, passed, target, labels, sample_weight, loss, loss_parameters
    )
    outputs, _ = passed
    shares = _sample_shares(sample_weight, len(x), x.dtype)
    for layer, stored, below, delta in zip(
        _layers_of(layers, settings, parameters),
        _layers_of(layers, settings, grad),
        outputs[:-1],
        deltas,
        strict=True,
    ):
        _store_gradient(layer, below, delta, shares, stored)
        if layers[layer.position, CODES["BIASES"]]:
            stored.bias[...] = delta.sum(axis=0)
    _add_penalties(layers, settings, parameters, grad)
    mean = _mean_loss(outputs[-1], target, labels, sample_weight, loss, loss_parameters)
    return mean + _penalty(layers, settings, parameters)


def network_difference_gradient(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    indices: Indices,
    steps: Array,
    central: bool,
    out: NDArray[np.float64],
    workspace: Array,
) -> None:
    """Estimate ∂L/∂θ by finite differences, one or two forward passes for each weight.

    Central: (L(θ + h) − L(θ − h)) / 2h, error O(h²). Forward: (L(θ + h) − L(θ)) / h,
    error O(h). The divisor is the distance of the two points as rounded.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena; each entry is moved and put back exactly, so pass a copy where others
        may read it meanwhile.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    indices : array of int64, shape (n,)
        Elements of the arena to differentiate by.
    steps : array of shape (n,)
        h of each, not 0.
    central : bool
        Central differences, else forward.
    out : array of float64, shape (n,)
        Receives the estimates.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    """

    def risk() -> float:
        return network_loss(
            layers,
            settings,
            parameters,
            x,
            target,
            labels,
            sample_weight,
            loss,
            loss_parameters,
            workspace,
        )

    here = 0.0 if central else risk()
    for position, (index, step) in enumerate(zip(indices, steps, strict=True)):
        value = parameters[index]
        above = below = value
        above = parameters[index] = value + step
        loss_above, loss_below = risk(), here
        if central:
            below = parameters[index] = value - step
            loss_below = risk()
        parameters[index] = value
        out[position] = (loss_above - loss_below) / (float(above) - float(below))


def network_fair_difference_gradient(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    indices: Indices,
    steps: Array,
    central: bool,
    out: NDArray[np.float64],
    workspace: Array,
) -> None:
    """Estimate ∂L/∂θ by finite differences, computing again only what a weight changes.

    Moving W or b of unit j of layer ℓ changes zⱼ alone in this layer; the pre-activations
    of the layer above change by a multiple of unit j's row of its weight; the layers above
    that one are run again. The estimates are those of
    :func:`network_difference_gradient` up to rounding.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    indices : array of int64, shape (n,)
        Elements of the arena to differentiate by; no padding.
    steps : array of shape (n,)
        h of each, not 0.
    central : bool
        Central differences, else forward.
    out : array of float64, shape (n,)
        Receives the estimates.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    """
    views, alphas = list(_layer_views(layers, parameters)), _alphas(settings)
    outputs, _ = _activations(layers, settings, parameters, x, sample_weight)
    z = [a @ weight + bias for a, (weight, bias, _) in zip(outputs, views, strict=False)]

    def risk_where(layer: int, unit: int, moved: Array) -> float:
        """Return the mean loss where a unit's pre-activation is another."""
        _, _, activation = views[layer]
        output = z[layer].copy()
        output[:, unit] = moved
        activation_forward(output, activation, alphas[layer], output)
        change = output[:, unit] - outputs[layer + 1][:, unit]
        for above in range(layer + 1, len(views)):
            weight, bias, activation = views[above]
            if above == layer + 1:
                output = z[above] + np.outer(change, weight[unit])
            else:
                output = output @ weight + bias
            activation_forward(output, activation, alphas[above], output)
        return _mean_loss(output, target, labels, sample_weight, loss, loss_parameters)

    here = (
        0.0
        if central
        else _mean_loss(outputs[-1], target, labels, sample_weight, loss, loss_parameters)
    )
    for position, (index, step) in enumerate(zip(indices, steps, strict=True)):
        layer = int(np.searchsorted(layers[:, CODES["WEIGHT"]], index, side="right")) - 1
        row, unit = divmod(index - layers[layer, CODES["WEIGHT"]], layers[layer, CODES["STRIDE"]])
        is_bias = row == layers[layer, CODES["N_IN"]]
        x_of_weight = np.ones_like(x[:, 0]) if is_bias else outputs[layer][:, row]
        value = parameters[index]
        above, below = value + step, value - step if central else value
        loss_above = risk_where(layer, unit, z[layer][:, unit] + (above - value) * x_of_weight)
        loss_below = here
        if central:
            loss_below = risk_where(layer, unit, z[layer][:, unit] + (below - value) * x_of_weight)
        out[position] = (loss_above - loss_below) / (float(above) - float(below))


def network_train(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    state: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    order: Indices,
    batch_size: int,
    loss: int,
    loss_parameters: NDArray[np.float64],
    optimizer: int,
    coefficients: NDArray[np.float64],
    averaging: NDArray[np.float64],
    clip_value: float,
    clip_norm: float,
    grad: Array,
    losses: NDArray[np.float64],
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Run a sequence of mini-batch steps: gather, forward, loss, backward, update.

    Step k uses the samples ``order[k * batch_size : (k + 1) * batch_size]``; the last
    batch may be shorter. An update is applied to a gradient while that is in registers;
    only if there is a `grad` is the whole gradient stored, penalties added, clipped, and
    then applied.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena, updated in place.
    state : array of shape (n_state, n_elements) or (n_state + 1, n_elements)
        State of the optimizer, updated in place; with `averaging` its last row is the
        average of the parameters.
    x : array of shape (n_samples, n_in)
        Inputs of all samples.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights. A step's gradient is that of
        Σ wᵢ Lᵢ / Σ wᵢ over its batch; where these sum to 0 it is 0, and the optimizer
        goes on with what it remembers.
    order : array of int64, shape (n_visits,)
        Samples to visit, in order; a sample may occur any number of times.
    batch_size : int
        Samples of a step, at least 1.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    optimizer : int
        Code of the recurrence.
    coefficients : array of float64, shape (n_steps, n_coefficients)
        Scalars of each step, n_steps = ⌈n_visits / batch_size⌉.
    averaging : array of float64, shape (n_steps,) or (0,)
        After the update of a step the average moves by this share of its distance to
        the parameters; empty for no average.
    clip_value : float
        Limit of each |∂L/∂θ|, or inf; first.
    clip_norm : float
        Limit of the gradient's norm, √Σ(∂L/∂θ)², or inf: a longer one, unless it is NaN,
        is scaled to this length. Pascanu, Mikolov, Bengio, On the difficulty of training
        recurrent neural networks, ICML 2013, algorithm 1.
    grad : array of shape (n_elements,) or (0,)
        Receives each step's gradient, clipped, except in the padding; empty if both
        limits are inf and nothing is penalised.
    losses : array of float64, shape (n_steps,)
        Receives the mean loss of each batch, before its update; 0 where the weights of
        the batch sum to 0.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    rule_state = state[: len(state) - 1] if averaging.size else state
    stored = grad if grad.size else np.zeros_like(parameters)
    of_step = layers.copy()
    for step in range(len(losses)):
        batch = order[step * batch_size : (step + 1) * batch_size]
        weights = sample_weight[batch] if sample_weight.size else sample_weight
        of_step[:, CODES["SEED"]] = layers[:, CODES["SEED"]] + step
        losses[step] = network_gradient(
            of_step,
            settings,
            parameters,
            x[batch],
            target[batch] if not labels.size else target,
            labels[batch] if labels.size else labels,
            weights,
            loss,
            loss_parameters,
            stored,
            workspace,
        )
        _note_batch(of_step, settings, parameters, x[batch], weights)
        if grad.size:
            _clip(list(_parts(layers, grad)), clip_value, clip_norm)
        memories = (_parts(layers, row) for row in rule_state)
        for theta, slope, *memory in zip(
            _parts(layers, parameters), _parts(layers, stored), *memories, strict=True
        ):
            _step(theta, slope, memory, optimizer, coefficients[step])
        if averaging.size:
            share = parameters.dtype.type(averaging[step])
            averages = _parts(layers, state[-1])
            for average, theta in zip(averages, _parts(layers, parameters), strict=True):
                average += share * (theta - average)


def _note_batch(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    sample_weight: Array,
) -> None:
    """Let the layers that keep statistics of batches see one, unless it has no weight."""
    shares = _sample_shares(sample_weight, len(x), x.dtype)
    meeting = layers[:, CODES["KIND"]] == CODES["BATCH_NORM_TRAINING"]
    if not shares.any() or not meeting.any():
        return
    outputs, _ = _activations(layers, settings, parameters, x, sample_weight)
    for layer in _layers_of(layers, settings, parameters):
        if meeting[layer.position]:
            _update_statistics(layer, outputs[layer.position], shares)


def _parts(layers: Indices, arena: Array) -> Iterator[Array]:
    """Yield the weight and the bias of each layer, as far as it has them."""
    for (weight, bias, _), n_biases in zip(
        _layer_views(layers, arena), layers[:, CODES["BIASES"]], strict=True
    ):
        yield weight
        yield bias[:n_biases]


def _clip(parts: list[Array], clip_value: float, clip_norm: float) -> None:
    """Limit each entry of a gradient, then its norm."""
    for part in parts:
        np.clip(part, -clip_value, clip_value, out=part)
    norm = math.sqrt(sum(float(np.square(part, dtype=np.float64).sum()) for part in parts))
    if norm > clip_norm:
        for part in parts:
            part *= part.dtype.type(clip_norm / norm)


# --- Other derivatives, on the same passes ------------------------------------------------


def network_complex_difference_gradient(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    indices: Indices,
    steps: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Differentiate by complex steps, Im L(θ + ih) / h, one forward pass for each weight.

    No numbers are subtracted, so h may be so small that the error O(h²) vanishes, and what
    is left is the rounding of L (Squire, Trapp, Using complex variables to estimate
    derivatives of real functions, SIAM Review 40, 1998). L is an analytic function of θ
    but at kinks; there this is the derivative from the right.

    The one kernel that is only here: the others know no complex numbers.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena; computed with in complex128, whatever its dtype.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    indices : array of int64, shape (n,)
        Elements of the arena to differentiate by.
    steps : array of float64, shape (n,)
        h of each, above 0.
    out : array of float64, shape (n,)
        Receives the derivatives.
    """
    moved: Array = parameters.astype(np.complex128)
    for position, (index, step) in enumerate(zip(indices, steps, strict=True)):
        moved.imag[index] = step
        value: complex = network_loss(
            layers,
            settings,
            moved,
            x,
            target,
            labels,
            sample_weight,
            loss,
            loss_parameters,
            moved,
        )
        moved.imag[index] = 0
        out[position] = value.imag / step


def network_input_gradient(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> float:
    """Return the mean loss of a batch and store its derivative by the inputs: δ¹·weightᵀ.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    out : array of shape (n_samples, n_in)
        Receives ∂(mean loss)/∂x.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.

    Returns
    -------
    float
        The mean loss, as from :func:`network_loss`.
    """
    passed = _activations(layers, settings, parameters, x, sample_weight)
    deltas = _deltas(
        layers, settings, parameters, passed, target, labels, sample_weight, loss, loss_parameters
    )
    outputs, _ = passed
    first = next(_layers_of(layers, settings, parameters))
    out[...] = _carried(first, x, deltas[0], _sample_shares(sample_weight, len(x), x.dtype))
    mean = _mean_loss(outputs[-1], target, labels, sample_weight, loss, loss_parameters)
    return mean + _penalty(layers, settings, parameters)


def network_jacobian(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Differentiate every output by every input: ∂oⱼ/∂xₖ of each sample.

    Backpropagation with the rows of the identity in place of ∂L/∂o.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    out : array of shape (n_samples * n_out, n_in)
        Receives the Jacobians, one below the other.
    workspace : array of shape (jacobian_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    _, known = _activations(layers, settings, parameters, x, np.empty(0, x.dtype))
    views = list(_layer_views(layers, parameters))
    n_out = known[-1].shape[1]
    grad = np.tile(np.eye(n_out, dtype=x.dtype), (len(x), 1))
    for (weight, _, activation), alpha, y_or_z in zip(
        reversed(views), reversed(_alphas(settings)), reversed(known), strict=True
    ):
        delta = np.empty_like(grad)
        activation_backward(np.repeat(y_or_z, n_out, axis=0), grad, activation, alpha, delta)
        grad = delta @ weight.T
    out[...] = grad


def network_sample_gradients(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Store the gradient of each sample's own loss, ∂Lᵢ/∂θ, without penalties.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    out : array of shape (n_samples, n_elements)
        Receives the gradients, each laid out as the arena; the padding is left alone.
    workspace : array of shape (sample_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    no_weights, unpenalized = np.empty(0, x.dtype), layers.copy()
    unpenalized[:, CODES["PENALIZED"]] = 0
    for i, grad in enumerate(out):
        one = slice(i, i + 1)
        network_gradient(
            unpenalized,
            settings,
            parameters,
            x[one],
            target[one],
            labels[one],
            no_weights,
            loss,
            loss_parameters,
            grad,
            workspace,
        )


def network_gradient_norms(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Compute the norm of the gradient of each sample's own loss, without the gradient.

    :func:`factor_norms` says how.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    out : array of shape (n_samples,)
        Receives ‖∂Lᵢ/∂θ‖, the Euclidean norm over all weights and biases.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    n_in, n_out = layers[:, CODES["N_IN"]].sum(), layers[:, CODES["N_OUT"]].sum()
    inputs, deltas = np.empty((len(x), n_in), x.dtype), np.empty((len(x), n_out), x.dtype)
    network_factors(
        layers,
        settings,
        parameters,
        x,
        target,
        labels,
        np.empty(0, x.dtype),
        loss,
        loss_parameters,
        inputs,
        deltas,
        workspace,
    )
    factor_norms(layers, inputs, len(x) * deltas, out)


def network_factors(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    inputs: Array,
    deltas: Array,
    workspace: Array,
    n_threads: int = 1,
) -> float:
    """Return the mean loss of a batch and store the factors of its gradient, a and δ.

    ∂L/∂W of a layer is Σᵢ δᵢ aᵢᵀ (BP4), with a the layer's inputs, and ∂L/∂b is Σᵢ δᵢ (BP3):
    what :func:`dense_backward_weight` forms of these factors, which for few samples are much
    smaller. For dense layers only.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    inputs : array of shape (n_samples, Σ n_in)
        Receives the inputs of every layer, side by side: x, a¹, … aᴸ⁻¹.
    deltas : array of shape (n_samples, Σ n_out)
        Receives δ¹, … δᴸ side by side, with the factors of the mean in them.
    workspace : array of shape (training_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.

    Returns
    -------
    float
        The mean loss, as from :func:`network_loss`.
    """
    passed = _activations(layers, settings, parameters, x, sample_weight)
    outputs, _ = passed
    inputs[...] = np.concatenate(outputs[:-1], axis=1)
    deltas[...] = np.concatenate(
        _deltas(
            layers,
            settings,
            parameters,
            passed,
            target,
            labels,
            sample_weight,
            loss,
            loss_parameters,
        ),
        axis=1,
    )
    return _mean_loss(outputs[-1], target, labels, sample_weight, loss, loss_parameters)


def factor_norms(layers: Indices, inputs: Array, deltas: Array, out: Array) -> None:
    """Compute the norm of each sample's part of a gradient from its factors.

    Of one sample ∂L/∂W is δ aᵀ, so ‖∂L/∂W‖² = ‖δ‖² ‖a‖², and ‖∂L/∂b‖² = ‖δ‖² (Goodfellow,
    Efficient per-example gradient computations, 2015, arXiv:1510.01799).

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    inputs : array of shape (n_samples, Σ n_in)
        a of every layer, from :func:`network_factors`.
    deltas : array of shape (n_samples, Σ n_out)
        δ of every layer, from there too.
    out : array of shape (n_samples,)
        Receives √Σ ‖δ‖² (‖a‖² + 1), summed over the layers; without the 1 where a layer has
        no bias.
    """
    ends = layers[:, [CODES["N_IN"], CODES["N_OUT"]]].cumsum(axis=0)[:-1].T
    parts = (
        np.split(matrix, at, axis=1) for matrix, at in zip((inputs, deltas), ends, strict=True)
    )
    squares = sum(
        np.square(delta).sum(axis=1) * (np.square(a).sum(axis=1) + (n_biases > 0))
        for a, delta, n_biases in zip(*parts, layers[:, CODES["BIASES"]], strict=True)
    )
    out[...] = np.sqrt(squares)


def network_hessian_product(
    layers: Indices,
    settings: NDArray[np.float64],
    parameters: Array,
    vector: Array,
    x: Array,
    target: Array,
    labels: Indices,
    sample_weight: Array,
    loss: int,
    loss_parameters: NDArray[np.float64],
    out: Array,
    workspace: Array,
    n_threads: int = 1,
) -> None:
    """Multiply the Hessian of the mean loss by a vector: ∂²L/∂θ² · v.

    R{f} is the derivative of f(θ + tv) by t at t = 0. Applied to each equation of forward
    and backward pass it gives R{∂L/∂θ}, the product, at about the price of two gradients
    and with no error but rounding (Pearlmutter, Fast exact multiplication by the Hessian,
    Neural Computation 6, 1994). With V and c the entries of v for W and b:

    - R{z} = W R{a} + V a + c, R{a} = σ'(z) R{z}
    - R{δ} = R{∂L/∂a} ⊙ σ'(z) + ∂L/∂a ⊙ σ''(z) ⊙ R{z}
    - R{∂L/∂a} = ∂²L/∂o² R{o} at the top, Wᵀ R{δ} + Vᵀ δ below
    - R{∂L/∂b} = Σ R{δ}, R{∂L/∂W} = Σ R{δ} aᵀ + δ R{a}ᵀ

    Where σ' or ∂L/∂o has a kink, its derivative is that of one side, or 0.

    Parameters
    ----------
    layers : array of int64, shape (n_layers, 12)
        The layer table.
    settings : array of float64, shape (n_layers, 6)
        The table of settings.
    parameters : array of shape (n_elements,)
        The arena.
    vector : array of shape (n_elements,)
        v, laid out as the arena.
    x : array of shape (n_samples, n_in)
        Inputs.
    target : array of shape (n_samples, n_targets), or (0, n_targets) with labels
        What the loss compares with; ignored where `labels` are given.
    labels : array of int64, shape (n_samples,) or (0,)
        Class of each sample, or empty.
    sample_weight : array of shape (n_samples,) or (0,)
        Weight of each sample, or empty for equal weights.
    loss : int
        Code of L.
    loss_parameters : array of float64, shape (n_loss_parameters,)
        Parameters of L.
    out : array of shape (n_elements,)
        Receives the product, laid out as the arena; its padding is left alone.
    workspace : array of shape (hessian_workspace_size(...),)
        Overwritten.
    n_threads : int, default=1
        Threads to share the work.
    """
    passed = _activations(layers, settings, parameters, x, sample_weight)
    deltas = _deltas(
        layers, settings, parameters, passed, target, labels, sample_weight, loss, loss_parameters
    )
    outputs, known = passed
    views, directions = (list(_layer_views(layers, arena)) for arena in (parameters, vector))
    activations, alphas = layers[:, CODES["ACTIVATION"]], _alphas(settings)
    rates, z_rates = [np.zeros_like(x)], []  # R{a}, R{z}
    for index, ((weight, _, _), (step, bias_step, _)) in enumerate(
        zip(views, directions, strict=True)
    ):
        z_rates.append(rates[-1] @ weight + outputs[index] @ step + bias_step)
        rate = np.empty_like(z_rates[-1])
        activation_backward(known[index], z_rates[-1], activations[index], alphas[index], rate)
        rates.append(rate)
    grad = np.empty_like(outputs[-1])
    loss_backward(outputs[-1], target, labels, sample_weight, loss, loss_parameters, grad)
    share = _sample_shares(sample_weight, len(x), x.dtype)[:, None]
    values = _as_values(target, labels, outputs[-1])
    curved = LOSS_CURVATURES[loss](
        outputs[-1], values, labels, loss_parameters.astype(x.dtype), rates[-1]
    )
    grad_rate = np.where(share == 0, 0, share * curved)
    products = list(_layer_views(layers, out))
    for index in reversed(range(len(layers))):
        activation, alpha = activations[index], alphas[index]
        delta_rate = np.empty_like(grad_rate)
        activation_backward(known[index], grad_rate, activation, alpha, delta_rate)
        delta_rate += _curvature(known[index], grad, activation, alpha) * z_rates[index]
        weight_product, bias_product, _ = products[index]
        weight_product[...] = outputs[index].T @ delta_rate + rates[index].T @ deltas[index]
        bias_product[...] = delta_rate.sum(axis=0)
        weight, step = views[index][0], directions[index][0]
        grad = deltas[index] @ weight.T
        grad_rate = delta_rate @ weight.T + deltas[index] @ step.T
