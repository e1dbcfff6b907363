"""The kernels in Numba; :mod:`~fastmlp.kernels.reference` says what each one means.

:mod:`~fastmlp.kernels.numba_backend` loads this file twice: as a serial module and as a
parallel one. All compiled functions are here, because Numba's disk cache does not see edits
in other files.

Every output element is computed by one thread, in the order of the contraction, however
the work is split: so the bits are the same for any number of threads. Floating point is
strict, with three exceptions: the tile and the polynomials may fuse a product into its sum,
and the dot product of few rows may be summed in the lanes of a vector.

What keeps compilation short: a kernel has one signature for each dtype, and inner functions
see one type of matrix and one of vector, whatever the caller's. Each ``_inner`` function is
optimised together with all that it calls, so calls are not nested deeply; an ``_inline`` one
is copied to where it is called, so it is short or called from few places.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math

import numpy as np
from llvmlite import binding, ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from . import arena
from .catalogue import CODES, LAYER_COLUMNS
from .elementary import FORMATS

IDENTITY, RELU, LEAKY_RELU = CODES["IDENTITY"], CODES["RELU"], CODES["LEAKY_RELU"]
SIGMOID, TANH, SILU = CODES["SIGMOID"], CODES["TANH"], CODES["SILU"]
ELU, CELU, SELU, MISH = CODES["ELU"], CODES["CELU"], CODES["SELU"], CODES["MISH"]
GELU, GELU_TANH, RELU6 = CODES["GELU"], CODES["GELU_TANH"], CODES["RELU6"]
SOFTPLUS, SOFTSIGN, HARD_TANH = CODES["SOFTPLUS"], CODES["SOFTSIGN"], CODES["HARD_TANH"]
HARD_SIGMOID, HARD_SWISH = CODES["HARD_SIGMOID"], CODES["HARD_SWISH"]
SOFTMAX, FIRST_CUSTOM, CUSTOM_TAKES_Z = (
    CODES["SOFTMAX"],
    CODES["FIRST_CUSTOM"],
    CODES["CUSTOM_TAKES_Z"],
)
CUSTOM_FORWARD, CUSTOM_GRADIENT = CODES["CUSTOM_FORWARD"], CODES["CUSTOM_GRADIENT"]
CUSTOM_CURVATURE = CODES["CUSTOM_CURVATURE"]
TAKES_Z = CODES["TAKES_Z"]
QUADRATIC, MSE, MAE = CODES["QUADRATIC"], CODES["MSE"], CODES["MAE"]
CROSS_ENTROPY, BINARY_CROSS_ENTROPY = CODES["CROSS_ENTROPY"], CODES["BINARY_CROSS_ENTROPY"]
HUBER, POISSON, GAUSSIAN_NLL = CODES["HUBER"], CODES["POISSON"], CODES["GAUSSIAN_NLL"]
PINBALL, HINGE, SQUARED_HINGE = CODES["PINBALL"], CODES["HINGE"], CODES["SQUARED_HINGE"]
SGD, MOMENTUM, ADAM = CODES["SGD"], CODES["MOMENTUM"], CODES["ADAM"]
EMA_MOMENTUM, NESTEROV = CODES["EMA_MOMENTUM"], CODES["NESTEROV"]
ADAGRAD, RMSPROP = CODES["ADAGRAD"], CODES["RMSPROP"]
RMSPROP_MOMENTUM, CENTERED_RMSPROP = CODES["RMSPROP_MOMENTUM"], CODES["CENTERED_RMSPROP"]
ADAMAX, NADAM, LION = CODES["ADAMAX"], CODES["NADAM"], CODES["LION"]
NORM_PARTS = CODES["NORM_PARTS"]
N_IN, N_OUT, WEIGHT = CODES["N_IN"], CODES["N_OUT"], CODES["WEIGHT"]
STRIDE, BIAS, ACTIVATION = CODES["STRIDE"], CODES["BIAS"], CODES["ACTIVATION"]
KIND, SEED, BIASES = CODES["KIND"], CODES["SEED"], CODES["BIASES"]
WEIGHT_ROWS, WEIGHT_COLUMNS = CODES["WEIGHT_ROWS"], CODES["WEIGHT_COLUMNS"]
ALPHA, DROP_RATE = CODES["ALPHA"], CODES["DROP_RATE"]
NORM_EPS, NORM_MOMENTUM = CODES["NORM_EPS"], CODES["NORM_MOMENTUM"]
PENALIZED, L1, L2 = CODES["PENALIZED"], CODES["L1"], CODES["L2"]
DENSE, ELEMENTWISE, DROPOUT = CODES["DENSE"], CODES["ELEMENTWISE"], CODES["DROPOUT"]
PRELU, LAYER_NORM = CODES["PRELU"], CODES["LAYER_NORM"]
BATCH_NORM, BATCH_NORM_TRAINING = CODES["BATCH_NORM"], CODES["BATCH_NORM_TRAINING"]
ROW_BLOCK = CODES["ROW_BLOCK"]
ROW_MULTIPLE = CODES["ROW_MULTIPLE"]

#: The update rule θ ← g, with which a gradient is stored rather than applied.
STORE = -1

# float32 constants leave float32 arithmetic in float32, which Python's numbers do not.
THREE, FOUR, SIX = np.float32(3), np.float32(4), np.float32(6)
FAR = np.float32(746)  # exp(−746) is 0 in float64, too
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
FORTY = np.float32(40)

NO_COEFFICIENTS, NO_INDICES = np.empty(0), np.empty(0, np.int64)
NO_PLACE = np.zeros(len(LAYER_COLUMNS), np.int64)

# As types of their own values, literal numbers would be compiled apart from other numbers.
FIRST_THREAD, ONE_THREAD = np.int64(0), np.int64(1)
LINEAR = np.int64(IDENTITY)

#: The first stage of a sweep, see `_sweep_rows`.
GATHERING = np.int64(-1)

# A tile of 8 × 2 vectors needs the 32 registers of AVX-512; 4 × 2 fit into 16.
_FEATURES = binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
TILE_ROWS = 8 if VECTOR_BYTES == 64 else 4

#: Columns of a tile, two vectors of float32; panels of them fit into a workspace's.
TILE_WIDTH = 32

#: Columns of a gradient that wait for their update: short runs of each row cost time.
WIDE_TILE_WIDTH = 8 * TILE_WIDTH

#: Bytes of δ that are to stay in a cache while all rows of ∂W take their products with it.
DELTA_BYTES = 2**20

#: A weight of so many bytes comes from far, and at full speed only if whole rows are read, of
#: which some at a time meet all samples of a block.
SWEPT_BYTES = 2**21
SWEPT_ROWS = 32

#: Rows from which it pays to transpose the weight for BP2.
TRANSPOSE_ROWS = 32

# Constants that float32 would round: `_like` brings them to the dtype at hand.
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848
SQRT_2_OVER_PI, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
ONE_OVER_SQRT_2PI = 1 / math.sqrt(2 * math.pi)

#: Where functions have reached their limit: exp(−z) is nothing beside 1, and 1 beside z.
NEAR_ONE, LARGE = np.float32(20), np.float32(2.0**60)

#: Multiply-adds, or updates, that are worth one more thread: about 20 µs, where starting a
#: team takes 5 µs on an idle machine and some 100 µs on a busy one.
PRODUCTS_OF_A_THREAD = 2**20
UPDATES_OF_A_THREAD = 2**16

#: What a unit costs where its layer meets the batch, in multiply-adds.
PRODUCTS_OF_A_MEETING = 8

#: Parameters that a thread updates in one go.
UPDATE_RUN = 2**12

PARALLEL = "_numba_parallel" in __name__


# --- Compilation --------------------------------------------------------------------------

_compile = functools.partial(njit, error_model="numpy", nogil=True)
_inner = functools.partial(_compile, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_inline = functools.partial(_compile, inline="always")


def _array(n_dimensions, layout, scalar=None, writable=False):
    """Make the function from a kernel's dtype to the type of an array."""
    return lambda dtype: types.Array(scalar or dtype, n_dimensions, layout, not writable)


# What kernels are annotated with. Rows may be any distance apart; arrays of fixed dtype are
# tables made by the caller. A mutable array passes as a read-only one, not the other way.
Matrix, OutMatrix = _array(2, "A"), _array(2, "A", writable=True)
Vector, OutVector = _array(1, "C"), _array(1, "C", writable=True)
IntTable, IntVector = _array(2, "C", types.int64), _array(1, "C", types.int64)
RealTable, RealVector = _array(2, "C", types.float64), _array(1, "C", types.float64)
OutRealVector = _array(1, "C", types.float64, writable=True)
Int, Real, Bool = (lambda _, kind=kind: kind for kind in (types.int64, types.float64, types.bool))


def _kernel(function):
    """Make a public kernel, cached on disk where a folder is writable."""
    # Numba names cache files by this file and the qualified name, the same in both modules.
    function.__qualname__ = f"{__name__.rpartition('.')[2]}.{function.__name__}"
    dispatcher = _compile(function)
    with contextlib.suppress(RuntimeError):
        dispatcher.enable_caching()
    return dispatcher


def compile_kernel(name, dtype):
    """Compile a kernel for a dtype, by its annotations: the only signature of this dtype."""
    kernel = globals()[name]
    parameters = inspect.signature(kernel.py_func, eval_str=True).parameters.values()
    kernel.disable_compile(False)
    kernel.compile(tuple(parameter.annotation(dtype) for parameter in parameters))
    kernel.disable_compile()
    return kernel


row_stride = _inner(arena.row_stride)


# --- exp, log1p, sigmoid, tanh, the normal distribution ------------------------------------
# As in elementary.hpp, where their method is described: LLVM makes vectors of them, but not of
# calls of libm's.

_strict = functools.partial(_inner, forceinline=True)
_elementary = functools.partial(_strict, fastmath={"contract"})


@intrinsic
def _like(typing_context, number, value):
    """Return a value in the dtype of a number: float32 stays among its own."""

    def codegen(context, builder, signature, args):
        return context.cast(builder, args[1], value, number)

    return number(number, value), codegen


def _constant(name, scale=1):
    """Make the function that returns a constant, times `scale`, of a number's format."""

    @intrinsic
    def constant(typing_context, like):
        value = scale * FORMATS[like.name][name]
        return like(like), lambda context, *_: context.get_constant(like, value)

    return constant


def _polynomial(name, k=1):
    """Make the function that evaluates Σⱼ cⱼ kʲ⁺¹ xʲ by Horner's rule."""

    @intrinsic
    def polynomial(typing_context, x):
        series = [c * k ** (j + 1) for j, c in enumerate(FORMATS[x.name][name])]

        def codegen(context, builder, signature, args):
            *lower, total = (context.get_constant(x, c) for c in series)
            for c in reversed(lower):
                product = builder.fmul(total, args[0], flags=("contract",))
                total = builder.fadd(product, c, flags=("contract",))
            return total

        return x(x), codegen

    return polynomial


def _integer_of(kind):
    """Return the type of the integers whose bits are a floating-point type's."""
    return types.int32 if kind == types.float32 else types.int64


@intrinsic
def _difference_of_bits(typing_context, x, y):
    """Return how far apart the bits of two numbers are."""
    result = _integer_of(x)

    def codegen(context, builder, signature, args):
        high, low = (builder.bitcast(arg, context.get_value_type(result)) for arg in args)
        return builder.sub(high, low)

    return result(x, x), codegen


def _power(step):
    """Make the function that returns 2ᵐ, m being n with `step` applied to it."""

    @intrinsic
    def power(typing_context, n, like):
        constants = FORMATS[like.name]

        def codegen(context, builder, signature, args):
            exponent = step(builder, args[0])
            bits = builder.add(exponent, exponent.type(constants["bias"]))
            bits = builder.shl(bits, bits.type(constants["mantissa"]))
            return builder.bitcast(bits, context.get_value_type(like))

        return like(n, like), codegen

    return power


def _half_of(builder, n):
    return builder.ashr(n, n.type(1))


_two_to = _power(lambda builder, n: n)
_two_to_less = _power(lambda builder, n: builder.sub(n, n.type(1)))
_two_to_half = _power(_half_of)
_two_to_rest = _power(lambda builder, n: builder.sub(n, _half_of(builder, n)))


@intrinsic
def _upper_digits(typing_context, x):
    """Return a number without the lower half of its digits."""
    kind, mask = _integer_of(x), FORMATS[x.name]["upper_half"]

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], context.get_value_type(kind))
        return builder.bitcast(builder.and_(bits, bits.type(mask)), args[0].type)

    return x(x), codegen


_to_integer, _lowest, _highest = map(_constant, ("to_integer", "lowest", "highest"))
_tail_centre, _tail_end = map(_constant, ("tail_centre", "tail_end"))
_tanh_is_one, _negligible = map(_constant, ("tanh_is_one", "negligible"))
_least_normal = _constant("least_normal")
_atanh_series, _tail_ratio = map(_polynomial, ("atanh_series", "tail_ratio"))


def _reduction(k):
    """Make the function that splits z = n·ln 2/k + r and returns n and (eᵏʳ − 1)/k."""
    log2_e = _constant("log2_e", k)
    ln2_high, ln2_low = _constant("ln2_high", 1 / k), _constant("ln2_low", 1 / k)
    series = _polynomial("exp_series", k)

    @_elementary
    def reduced_expm1(z):
        shifted = z * log2_e(z) + _to_integer(z)
        rounded = shifted - _to_integer(z)
        r = (z - rounded * ln2_high(z)) - rounded * ln2_low(z)
        return _difference_of_bits(shifted, _to_integer(z)), r + r * r * series(r)

    return reduced_expm1


_reduced_expm1, _reduced_expm1_of_two = _reduction(1), _reduction(2)


@_elementary
def _unbounded_exp(z):
    """Return exp where it neither overflows nor vanishes."""
    n, reduced = _reduced_expm1(z)
    return (ONE + reduced) * _two_to_half(n, z) * _two_to_rest(n, z)


@_elementary
def _exp(z):
    z = _lowest(z) if z < _lowest(z) else z
    return _unbounded_exp(_highest(z) if z > _highest(z) else z)


@_strict
def _significant(value):
    return ZERO if abs(value) < _negligible(value) else value


@_strict
def _fading(mean):
    """Return a mean of gradients, 0 where it has faded to a subnormal number."""
    return ZERO if abs(mean) < _least_normal(mean) else mean


@_strict
def _lasting(square):
    """Return a mean of squares, which does not fade that far either: its root divides."""
    least = FOUR * _least_normal(square)
    return least if least > square else square


@_elementary
def _sigmoid(z):
    """Return s − s·q for z < 0, else 1 − q, with s = exp(−|z|) and q = s / (1 + s)."""
    size = -abs(z)
    small = _unbounded_exp(_lowest(z) if size < _lowest(z) else size)
    larger = small if z < ZERO else ONE
    return larger - larger * (small / (ONE + small))


@_elementary
def _expm1(z):
    z = -FORTY if z < -FORTY else z
    n, reduced = _reduced_expm1(_highest(z) if z > _highest(z) else z)
    half = _two_to_less(n, z)
    return TWO * (reduced * half + (half - HALF))


@_elementary
def _log1p(x):
    """Return log(1 + x) for x from 0 to 1."""
    s = x / (TWO + x)
    square = s * s
    return TWO * (s + s * square * _atanh_series(square))


@_strict  # what squaring has lost is not to be lost in a fused product
def _gaussian(z):
    """Return exp(−z²/2)."""
    size = _tail_end(z) if abs(z) > _tail_end(z) else abs(z)
    high, square = _upper_digits(size), size * size
    lost = (high * high - square) + (size - high) * (size + high)
    return _exp(-HALF * square) * (ONE - HALF * lost)


@_elementary
def _normal_cdf(z):
    size = _tail_end(z) if abs(z) > _tail_end(z) else abs(z)
    v = (size - _tail_centre(z)) / (size + _tail_centre(z))
    tail = _gaussian(z) * _tail_ratio(v)
    return tail if z < ZERO else ONE - tail


@_elementary
def _tanh(z):
    size = abs(z)
    n, reduced = _reduced_expm1_of_two(size)
    power = _two_to(n, z)
    m = reduced * power + (HALF * power - HALF)
    quotient = m / (m + ONE)
    value = m - m * quotient if size < _like(z, 0.35) else quotient
    return math.copysign(ONE if size > _tanh_is_one(z) else value, z)


# --- Scalar functions: σ, grad · σ', parts of losses, the update of one parameter ---------


@_inline
def _relu(z):
    return ZERO if z <= ZERO else z


@_inline
def _relu_gradient(y, grad):
    return grad if y > ZERO else ZERO


@_inline
def _leaky_relu(z, alpha):
    return z if z > ZERO else alpha * z


@_inline
def _leaky_relu_gradient(y, grad, alpha):
    return grad if y > ZERO else alpha * grad


@_inline
def _floored(z):
    """Return z, but no −inf: its product with a vanishing factor is then 0 and not NaN."""
    return -FAR if z < -FAR else z


@_inline
def _bounded(z):
    return FAR if z > FAR else _floored(z)


@_inline
def _sigmoid_gradient(y, grad):
    return grad * (y * (ONE - y))


@_inline
def _tanh_gradient(y, grad):
    return grad * (ONE - y * y)


@_inner
def _sign(d):
    return ONE if d > ZERO else (-ONE if d < ZERO else d)  # 0 and NaN stay


@_inner
def _huber(d, delta):
    distance = abs(d)
    cut = distance if distance < delta else delta
    return cut * (distance - HALF * cut)


@_inner
def _huber_gradient(d, delta):
    return -delta if d < -delta else (delta if d > delta else d)


@_inner
def _pinball(above, tau):
    return tau * above if above > ZERO else (tau - ONE) * above


@_inner
def _pinball_gradient(above, tau):
    return -tau if above > ZERO else (ONE - tau if above < ZERO else above)


@_inner
def _hinge(margin, squared):
    return _relu(margin) * (_relu(margin) if squared else ONE)


@_inner
def _hinge_gradient(margin, squared):
    return TWO * _relu(margin) if squared else (ZERO if margin <= ZERO else ONE)


@_inline
def _silu(z):
    return _floored(z) * _sigmoid(z)


@_inline
def _silu_gradient(z, grad):
    return grad * _sigmoid(z) * (ONE + _bounded(z) * _sigmoid(-z))


@_inline
def _elu(z, alpha):
    return z if z > ZERO else alpha * _expm1(z)


@_inline
def _elu_gradient(y, grad, alpha):
    return grad if y > ZERO else grad * (y + alpha)


@_inline
def _celu(z, alpha):
    return z if z > ZERO else alpha * _expm1(z / alpha)


@_inline
def _celu_gradient(y, grad, alpha):
    return grad if y > ZERO else grad * (y / alpha + ONE)


@_inline
def _selu(z):
    return _like(z, SELU_SCALE) * _elu(z, _like(z, SELU_ALPHA))


@_inline
def _selu_gradient(y, grad):
    below = y + _like(y, SELU_SCALE * SELU_ALPHA)
    return grad * (_like(y, SELU_SCALE) if y > ZERO else below)


@_inline
def _gelu(z):
    return _significant(_floored(z) * _normal_cdf(z))


@_inline
def _gelu_gradient(z, grad):
    x = _bounded(z)
    return grad * _significant(_normal_cdf(z) + x * (_like(z, ONE_OVER_SQRT_2PI) * _gaussian(z)))


@_inline
def _gelu_tanh(z):
    u = _like(z, SQRT_2_OVER_PI) * (z + _like(z, GELU_CUBE) * (z * z * z))
    return _significant(_floored(z) * _sigmoid(TWO * u))


@_inline
def _gelu_tanh_gradient(z, grad):
    x = _bounded(z)
    v = TWO * (_like(z, SQRT_2_OVER_PI) * (x + _like(z, GELU_CUBE) * (x * x * x)))
    slope = _like(z, SQRT_2_OVER_PI) * (ONE + _like(z, 3 * GELU_CUBE) * (x * x))
    return grad * _significant(_sigmoid(v) * (ONE + TWO * x * _sigmoid(-v) * slope))


@_inline
def _mish(z):
    e = _exp(NEAR_ONE if z > NEAR_ONE else z)
    n = e * (e + TWO)
    return _floored(z) * (n / (n + TWO))


@_inline
def _mish_gradient(z, grad):
    x = NEAR_ONE if z > NEAR_ONE else _floored(z)
    e = _exp(x)
    n = e * (e + TWO)
    return grad * ((n + TWO * TWO * x * (e * ((ONE + e) / (n + TWO)))) / (n + TWO))


@_inline
def _softplus(z, beta):
    x = beta * z
    return z if x > NEAR_ONE else (_relu(x) + _log1p(_exp(-abs(x)))) / beta


@_inline
def _softplus_gradient(z, grad, beta):
    x = beta * z
    return grad if x > NEAR_ONE else grad * _sigmoid(x)


@_inline
def _softsign(z):
    return math.copysign(ONE, z) if abs(z) > LARGE else z / (ONE + abs(z))


@_inline
def _softsign_gradient(y, grad):
    return grad * ((ONE - abs(y)) * (ONE - abs(y)))


@_inline
def _relu6(z):
    return SIX if z > SIX else _relu(z)


@_inline
def _relu6_gradient(y, grad):
    return grad if ZERO < y < SIX else ZERO


@_inline
def _hard_tanh(z):
    return ONE if z > ONE else -ONE if z < -ONE else z


@_inline
def _hard_tanh_gradient(y, grad):
    return grad if -ONE < y < ONE else ZERO


@_inline
def _hard_sigmoid(z):
    return _relu6(z + THREE) / SIX


@_inline
def _hard_sigmoid_gradient(z, grad):
    return grad / SIX if -THREE < z < THREE else ZERO


@_inline
def _hard_swish(z):
    return _floored(z) * _hard_sigmoid(z)


@_inline
def _hard_swish_gradient(z, grad):
    return ZERO if z <= -THREE else grad if z >= THREE else grad * (z / THREE + HALF)


@_inline
def _sigmoid_curvature(y, grad):
    return grad * (y * (ONE - y)) * (ONE - TWO * y)


@_inline
def _tanh_curvature(y, grad):
    return -TWO * y * (grad * (ONE - y * y))


@_inline
def _silu_curvature(z, grad):
    s, rest = _sigmoid(z), _sigmoid(-z)
    return grad * s * rest * (TWO + _bounded(z) * (rest - s))


@_inline
def _elu_curvature(y, grad, alpha):
    return grad * (ZERO if y > ZERO else y + alpha)


@_inline
def _celu_curvature(y, grad, alpha):
    return grad * (ZERO if y > ZERO else (y / alpha + ONE) / alpha)


@_inline
def _selu_curvature(y, grad):
    return grad * (ZERO if y > ZERO else y + _like(y, SELU_SCALE * SELU_ALPHA))


@_inline
def _gelu_curvature(z, grad):
    x = _bounded(z)
    return grad * (_like(z, ONE_OVER_SQRT_2PI) * _gaussian(z)) * (TWO - x * x)


@_inline
def _gelu_tanh_curvature(z, grad):
    x = _bounded(z)
    u = _like(z, SQRT_2_OVER_PI) * (x + _like(z, GELU_CUBE) * (x * x * x))
    slope = _like(z, SQRT_2_OVER_PI) * (ONE + _like(z, 3 * GELU_CUBE) * (x * x))
    bend = _like(z, 6 * SQRT_2_OVER_PI * GELU_CUBE) * x
    s, rest = _sigmoid(TWO * u), _sigmoid(-TWO * u)
    steepness = TWO * slope
    inner = steepness * steepness * (rest - s) + TWO * bend
    return grad * s * rest * (TWO * steepness + x * inner)


@_inline
def _mish_curvature(z, grad):
    x = TWO * NEAR_ONE if z > TWO * NEAR_ONE else _floored(z)
    e = _exp(x)
    n = e * (e + TWO)
    w = TWO * TWO * e * ((ONE + e) / (n + TWO)) / (n + TWO)
    return grad * w * (TWO + x * ((ONE - TWO * e * (n / (n + TWO))) / (ONE + e)))


@_inline
def _softplus_curvature(z, grad, beta):
    x = beta * z
    return grad * (ZERO if x > NEAR_ONE else beta * (_sigmoid(x) * _sigmoid(-x)))


@_inline
def _softsign_curvature(y, grad):
    rest = ONE - abs(y)
    return -TWO * grad * _sign(y) * (rest * rest * rest)


@_inline
def _hard_swish_curvature(z, grad):
    return grad / THREE if -THREE < z < THREE else ZERO * grad


@_strict  # also where sums may be taken in any order
def _sgd(theta, grad, scalars):
    learning_rate, decay = scalars
    return theta - learning_rate * (grad + decay * theta)


@_inline
def _kept(theta, shrinkage):
    return theta - shrinkage * theta


@_inline
def _momentum(theta, grad, velocity, scalars):
    learning_rate, decay, momentum, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    velocity = _fading(momentum * velocity - learning_rate * (grad + decay * theta))
    return theta + velocity, velocity


@_inline
def _adam(theta, grad, first, second, rates, of_step):
    learning_rate, decay, beta1, beta2, eps, shrinkage = rates
    correction1, correction2, rest1, rest2 = of_step
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    first = _fading(beta1 * first + rest1 * grad)
    second = _lasting(rest2 * grad * grad + beta2 * second)
    change = learning_rate / correction1 * first / (math.sqrt(second / correction2) + eps)
    return theta - change, first, second


@_inline
def _ema_momentum(theta, grad, mean, scalars):
    learning_rate, decay, momentum, rest, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    mean = _fading(momentum * mean + rest * (grad + decay * theta))
    return theta - learning_rate * mean, mean


@_inline
def _nesterov(theta, grad, lookahead, scalars):
    learning_rate, decay, next_momentum, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    change = learning_rate * (grad + decay * theta)
    lookahead = _fading(next_momentum * (lookahead - change))
    return theta + (lookahead - change), lookahead


@_inline
def _adagrad(theta, grad, square_sum, scalars):
    learning_rate, decay, eps, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    square_sum = square_sum + grad * grad
    return theta - learning_rate * grad / (math.sqrt(square_sum) + eps), square_sum


@_inline
def _rmsprop(theta, grad, mean_square, scalars):
    learning_rate, decay, beta, rest, eps, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    mean_square = _lasting(rest * grad * grad + beta * mean_square)
    return theta - learning_rate * grad / (math.sqrt(mean_square) + eps), mean_square


@_inline
def _rmsprop_momentum(theta, grad, mean_square, velocity, scalars):
    learning_rate, decay, beta, rest, eps, momentum, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    mean_square = _lasting(rest * grad * grad + beta * mean_square)
    velocity = _fading(momentum * velocity + grad / (math.sqrt(mean_square) + eps))
    return theta - learning_rate * velocity, mean_square, velocity


@_inline
def _centered_rmsprop(theta, grad, mean_square, velocity, mean, scalars):
    learning_rate, decay, beta, rest, eps, momentum, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    mean_square = _lasting(rest * grad * grad + beta * mean_square)
    mean = _fading(beta * mean + rest * grad)
    square = mean * mean
    variance = mean_square - square if square < mean_square else ZERO
    velocity = _fading(momentum * velocity + grad / (math.sqrt(variance) + eps))
    return theta - learning_rate * velocity, mean_square, velocity, mean


@_inline
def _adamax(theta, grad, first, largest, scalars):
    corrected_rate, decay, beta1, rest1, beta2, eps, shrinkage = scalars
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    first = _fading(beta1 * first + rest1 * grad)
    faded, size = beta2 * largest, abs(grad) + eps
    largest = faded if faded > size else size
    return theta - corrected_rate * first / largest, first, largest


@_inline
def _nadam(theta, grad, first, second, rates, of_step):
    gradient_rate, moment_rate, decay, shrinkage = rates
    beta1, rest1, beta2, rest2, correction2, eps = of_step
    theta = _kept(theta, shrinkage)
    grad = grad + decay * theta
    first = _fading(beta1 * first + rest1 * grad)
    second = _lasting(rest2 * grad * grad + beta2 * second)
    change = gradient_rate * grad + moment_rate * first
    return theta - change / (math.sqrt(second / correction2) + eps), first, second


@_inline
def _lion(theta, grad, mean, scalars):
    learning_rate, beta1, rest1, beta2, rest2, shrinkage = scalars
    direction = _sign(beta1 * mean + rest1 * grad)
    mean = _fading(beta2 * mean + rest2 * grad)
    return _kept(theta, shrinkage) - learning_rate * direction, mean


# --- What Numba's language lacks, in LLVM's: borrowed views and the register tile ---------
# Numba's own slices count references, are a type for each layout, and take ten times as long
# to compile. Plain loops reach 47 GF/s, because LLVM must assume that the arrays overlap and
# stores each sum in each turn; this tile keeps them in registers and reaches 130 GF/s.
#
# An @intrinsic is a function with two halves: the outer one gives the type of its result,
# `codegen` emits instructions with llvmlite's IRBuilder, whose methods are LLVM's own.


def _geometry(context, builder, array_type, value):
    """Emit the data pointer, the shape and the strides in bytes of an array."""
    array = context.make_array(array_type)(context, builder, value)
    shape, strides = (
        cgutils.unpack_tuple(builder, part, array_type.ndim)
        for part in (array.shape, array.strides)
    )
    return array.data, shape, strides


def _view(context, builder, array_type, data, shape, strides):
    """Emit an array that borrows `data`: whoever owns the memory must outlive it."""
    array = context.make_array(array_type)(context, builder)
    itemsize = context.get_constant(types.intp, array_type.dtype.bitwidth // 8)
    arrayobj.populate_array(array, data, shape, [*strides, itemsize], itemsize, meminfo=None)
    return array._getvalue()


@intrinsic
def _vector(typing_context, array, start, size):
    """Return `size` elements of an array, from `start` on, as a vector."""
    result = types.Array(array.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        data, _, _ = _geometry(context, builder, array, args[0])
        data = builder.gep(data, [args[1]])
        return _view(context, builder, result, data, [args[2]], [])

    return result(array, types.intp, types.intp), codegen


@intrinsic
def _matrix(typing_context, array, start, n_rows, n_columns, stride):
    """Return rows of an array, `stride` elements apart, the first one at `start`."""
    result = types.Array(array.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        data, _, _ = _geometry(context, builder, array, args[0])
        start, n_rows, n_columns, stride = args[1:]
        itemsize = context.get_constant(types.intp, array.dtype.bitwidth // 8)
        data, strides = builder.gep(data, [start]), [builder.mul(stride, itemsize)]
        return _view(context, builder, result, data, [n_rows, n_columns], strides)

    return result(array, *[types.intp] * 4), codegen


@intrinsic
def _as_matrix(typing_context, array):
    """Return a matrix, or a vector as a matrix of one row, as the type that all share."""
    result = types.Array(array.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        data, shape, strides = _geometry(context, builder, array, args[0])
        if array.ndim == 1:
            shape = [context.get_constant(types.intp, 1), *shape]
        return _view(context, builder, result, data, shape, strides[:1])

    return result(array), codegen


@intrinsic
def _row(typing_context, matrix, i):
    """Return row i of a matrix as a vector."""
    result = types.Array(matrix.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        data, shape, strides = _geometry(context, builder, matrix, args[0])
        data = cgutils.pointer_add(builder, data, builder.mul(args[1], strides[0]))
        return _view(context, builder, result, data, shape[1:], [])

    return result(matrix, types.intp), codegen


@intrinsic
def _block(typing_context, matrix, i, i_end, j, j_end):
    """Return the rows from i to i_end, the columns from j to j_end of a matrix."""
    result = types.Array(matrix.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        data, _, strides = _geometry(context, builder, matrix, args[0])
        i, i_end, j, j_end = args[1:]
        row = cgutils.pointer_add(builder, data, builder.mul(i, strides[0]))
        data, shape = builder.gep(row, [j]), [builder.sub(i_end, i), builder.sub(j_end, j)]
        return _view(context, builder, result, data, shape, strides[:1])

    return result(matrix, *[types.intp] * 4), codegen


@intrinsic
def _stack_tile(typing_context, like):
    """Return a tile, TILE_ROWS × WIDE_TILE_WIDTH, on the stack of the calling function."""
    result = types.Array(like.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        element = context.get_data_type(like.dtype)
        data = cgutils.alloca_once(builder, element, size=TILE_ROWS * WIDE_TILE_WIDTH)
        n_rows, n_columns, stride = (
            context.get_constant(types.intp, value)
            for value in (TILE_ROWS, WIDE_TILE_WIDTH, WIDE_TILE_WIDTH * like.dtype.bitwidth // 8)
        )
        return _view(context, builder, result, data, [n_rows, n_columns], [stride])

    return result(like), codegen


def _cell(context, builder, activation, column):
    """Emit the load of a column of the table of a user-defined activation; see custom.py."""
    table = builder.inttoptr(activation, context.get_value_type(types.int64).as_pointer())
    return builder.load(builder.gep(table, [column]))


@intrinsic
def _custom_cell(typing_context, activation, column):
    """Return a column of the table of a user-defined activation."""

    def codegen(context, builder, signature, args):
        return _cell(context, builder, *args)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _apply_custom(typing_context, activation, column, source, sink):
    """Store σ of a row, or multiply a row by σ' or σ'', as the column says."""

    def codegen(context, builder, signature, args):
        column = builder.add(args[1], args[1].type(source.dtype.bitwidth // 64))
        address = _cell(context, builder, args[0], column)
        (known, (n,), _), (out, _, _) = (
            _geometry(context, builder, kind, value)
            for kind, value in zip((source, sink), args[2:], strict=True)
        )
        function = ir.FunctionType(ir.VoidType(), [known.type, n.type, out.type])
        builder.call(builder.inttoptr(address, function.as_pointer()), [known, n, out])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, source, sink), codegen


class _Lanes:
    """Emit loads and stores of vectors of a matrix, masked where a row ends inside them."""

    def __init__(self, context, builder, dtype, n_valid=None):
        self.builder, self.itemsize = builder, dtype.bitwidth // 8
        self.scalar = context.get_data_type(dtype)
        self.count = VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(self.scalar, self.count)
        self.mask = None
        if n_valid is not None:
            lane = ir.Constant(ir.VectorType(n_valid.type, self.count), list(range(self.count)))
            self.mask = builder.icmp_signed("<", lane, self.splat(n_valid))

    def splat(self, value):
        vector = ir.VectorType(value.type, self.count)
        anything = ir.Constant(vector, ir.Undefined)
        first = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        one = self.builder.insert_element(anything, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, anything, first)

    def load(self, pointer):
        if self.mask is None:
            return self.builder.load(pointer, align=self.itemsize)
        zeros = ir.Constant(self.vector, [0.0] * self.count)
        return self._masked("load", self.vector, pointer, self._alignment, self.mask, zeros)

    def store(self, value, pointer):
        if self.mask is None:
            self.builder.store(value, pointer, align=self.itemsize)
        else:
            self._masked("store", ir.VoidType(), value, pointer, self._alignment, self.mask)

    @property
    def _alignment(self):
        return ir.IntType(32)(self.itemsize)

    def _masked(self, verb, result, *args):
        name = f"llvm.masked.{verb}.v{self.count}f{8 * self.itemsize}.p0"
        signature = ir.FunctionType(result, [arg.type for arg in args])
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, args)


@intrinsic(prefer_literal=True)
def _multiply_add_tile(typing_context, a, b, c, row, column, n_rows, n_vectors, masked):
    """Add a·b to n_rows × n_vectors vectors of c, held in registers meanwhile."""
    size = n_rows.literal_value, n_vectors.literal_value
    signature = types.void(a, b, c, types.intp, types.intp, n_rows, n_vectors, masked)

    def codegen(context, builder, signature, args):
        (a_data, (_, depth), a_strides), (b_data, _, b_strides), (c_data, c_shape, c_strides) = (
            _geometry(context, builder, kind, value)
            for kind, value in zip((a, b, c), args, strict=False)
        )
        row, column = args[3:5]
        n_valid = builder.sub(c_shape[1], column) if masked.literal_value else None
        lanes = _Lanes(context, builder, c.dtype, n_valid)
        tile_rows = [builder.add(row, row.type(r)) for r in range(size[0])]
        tile_columns = [builder.add(column, row.type(v * lanes.count)) for v in range(size[1])]

        def pointer(data, strides, i, j, kind):
            offset = builder.add(builder.mul(i, strides[0]), builder.mul(j, strides[1]))
            return cgutils.pointer_add(builder, data, offset, kind.as_pointer())

        places = [
            [pointer(c_data, c_strides, i, j, lanes.vector) for j in tile_columns]
            for i in tile_rows
        ]
        sums = [[cgutils.alloca_once_value(builder, lanes.load(p)) for p in r] for r in places]
        with cgutils.for_range(builder, depth) as loop:
            k = loop.index
            b_row = [
                lanes.load(pointer(b_data, b_strides, k, j, lanes.vector)) for j in tile_columns
            ]
            for i, sums_of_row in zip(tile_rows, sums, strict=True):
                factor = lanes.splat(builder.load(pointer(a_data, a_strides, i, k, lanes.scalar)))
                for b_lanes, total in zip(b_row, sums_of_row, strict=True):
                    product = builder.fmul(factor, b_lanes, flags=("contract",))
                    together = builder.fadd(builder.load(total), product, flags=("contract",))
                    builder.store(together, total)
        for places_of_row, sums_of_row in zip(places, sums, strict=True):
            for place, total in zip(places_of_row, sums_of_row, strict=True):
                lanes.store(builder.load(total), place)
        return context.get_dummy_value()

    return signature, codegen


# --- Matrix products ----------------------------------------------------------------------


def _strips(n_rows, n_vectors):
    """Make the function that adds a·b to c in strips of n_rows, from `start` on."""

    @_inline
    def multiply_add(a, b, c, start):
        n_columns = c.shape[1]
        lanes = VECTOR_BYTES // c.itemsize
        whole = n_columns - n_columns % (n_vectors * lanes)
        end = c.shape[0] - (c.shape[0] - start) % n_rows
        for i in range(start, end, n_rows):
            for j in range(0, whole, n_vectors * lanes):
                _multiply_add_tile(a, b, c, i, j, n_rows, n_vectors, False)
            for j in range(whole, n_columns, lanes):
                _multiply_add_tile(a, b, c, i, j, n_rows, 1, True)
        return end

    return multiply_add


_tall_strips, _pair_strips, _single_strips = _strips(TILE_ROWS, 2), _strips(2, 4), _strips(1, 4)


@_inner
def _multiply_add(a, b, c):
    """Add a·b to c, each element in the order of k: the same bits for any tiling."""
    _single_strips(a, b, c, _pair_strips(a, b, c, _tall_strips(a, b, c, 0)))


@_inner(fastmath={"reassoc", "contract", "nsz"})
def _dot(u, v):
    total = u.dtype.type(0)
    for k in range(u.size):
        total += u[k] * v[k]
    return total


@_inline
def _multiply_transposed(a, b, y, skips, c):
    """Store a·bᵀ in c, by dot products of rows; 0 where y is 0, if it `skips`."""
    for j in range(c.shape[1]):
        for i in range(c.shape[0]):
            c[i, j] = ZERO if skips and y[i, j] == ZERO else _dot(_row(a, i), _row(b, j))


@_inline
def _transpose(a, out):
    for i in range(a.shape[0]):
        row = _row(a, i)
        for j in range(row.size):
            out[j, i] = row[j]


@_inline
def _as_vector(vector):
    """Return a vector, read-only or not, as the type that all share."""
    return _vector(vector, 0, vector.size)


@_inline
def _rows_between(matrix, first, last):
    return _block(matrix, first, last, 0, matrix.shape[1])


@_inline
def _copy(vector, out):
    for i in range(out.size):
        out[i] = vector[i]


@_inline
def _copy_rows(matrix, out):
    for i in range(out.shape[0]):
        _copy(_row(matrix, i), _row(out, i))


@_inline
def _set(vector, value):
    for i in range(vector.size):
        vector[i] = value


@_inline
def _clear(matrix):
    for i in range(matrix.shape[0]):
        _set(_row(matrix, i), ZERO)


# --- Loops around the scalar functions ----------------------------------------------------


@_inner
def _activate(z, activation, alpha):
    """Apply σ to every element, in place: LLVM would take two arrays for overlapping ones."""
    alpha = z.dtype.type(alpha)
    for i in range(z.shape[0]):
        row = _row(z, i)
        if activation == RELU:
            for j in range(row.size):
                row[j] = _relu(row[j])
        elif activation == LEAKY_RELU:
            for j in range(row.size):
                row[j] = _leaky_relu(row[j], alpha)
        elif activation == SIGMOID:
            for j in range(row.size):
                row[j] = _sigmoid(row[j])
        elif activation == TANH:
            for j in range(row.size):
                row[j] = _tanh(row[j])
        elif activation == SILU:
            for j in range(row.size):
                row[j] = _silu(row[j])
        elif activation == ELU:
            for j in range(row.size):
                row[j] = _elu(row[j], alpha)
        elif activation == CELU:
            for j in range(row.size):
                row[j] = _celu(row[j], alpha)
        elif activation == SELU:
            for j in range(row.size):
                row[j] = _selu(row[j])
        elif activation == GELU:
            for j in range(row.size):
                row[j] = _gelu(row[j])
        elif activation == GELU_TANH:
            for j in range(row.size):
                row[j] = _gelu_tanh(row[j])
        elif activation == MISH:
            for j in range(row.size):
                row[j] = _mish(row[j])
        elif activation == SOFTPLUS:
            for j in range(row.size):
                row[j] = _softplus(row[j], alpha)
        elif activation == SOFTSIGN:
            for j in range(row.size):
                row[j] = _softsign(row[j])
        elif activation == RELU6:
            for j in range(row.size):
                row[j] = _relu6(row[j])
        elif activation == HARD_TANH:
            for j in range(row.size):
                row[j] = _hard_tanh(row[j])
        elif activation == HARD_SIGMOID:
            for j in range(row.size):
                row[j] = _hard_sigmoid(row[j])
        elif activation == HARD_SWISH:
            for j in range(row.size):
                row[j] = _hard_swish(row[j])
        elif activation == SOFTMAX:
            _softmax(row, row)
        elif activation >= FIRST_CUSTOM:
            _apply_custom(activation, CUSTOM_FORWARD, row, row)


@_inner
def _softmax_gradient(y, grad):
    """Multiply a row of a gradient by ∂yⱼ/∂zₖ = yⱼ (1 − yⱼ) if j = k else −yⱼ yₖ."""
    mean = grad.dtype.type(0)
    for j in range(grad.size):
        mean += y[j] * grad[j]
    for j in range(grad.size):
        grad[j] = y[j] * (grad[j] - mean)


@_inline
def _part_in_tiles(activation):
    """Return σ, or IDENTITY where σ takes whole rows, which a tile does not have."""
    return LINEAR if activation == SOFTMAX else activation


@_inline
def _takes_z(activation):
    """Return whether the derivative is taken from z rather than from y."""
    if activation >= FIRST_CUSTOM:
        return _custom_cell(activation, CUSTOM_TAKES_Z) != 0
    return TAKES_Z >> activation & 1 == 1


@_inline
def _is_off_at_zero(activation):
    """Return whether an output of 0 tells that no δ passes, whatever comes from above."""
    return activation in (RELU, RELU6)


@_inner
def _apply_derivative(y_or_z, activation, alpha, grad):
    """Multiply every element of a gradient by σ', in place."""
    alpha = grad.dtype.type(alpha)
    for i in range(grad.shape[0]):
        known, grad_row = _row(y_or_z, i), _row(grad, i)
        if activation == RELU:
            for j in range(grad_row.size):
                grad_row[j] = _relu_gradient(known[j], grad_row[j])
        elif activation == LEAKY_RELU:
            for j in range(grad_row.size):
                grad_row[j] = _leaky_relu_gradient(known[j], grad_row[j], alpha)
        elif activation == SIGMOID:
            for j in range(grad_row.size):
                grad_row[j] = _sigmoid_gradient(known[j], grad_row[j])
        elif activation == TANH:
            for j in range(grad_row.size):
                grad_row[j] = _tanh_gradient(known[j], grad_row[j])
        elif activation == SILU:
            for j in range(grad_row.size):
                grad_row[j] = _silu_gradient(known[j], grad_row[j])
        elif activation == ELU:
            for j in range(grad_row.size):
                grad_row[j] = _elu_gradient(known[j], grad_row[j], alpha)
        elif activation == CELU:
            for j in range(grad_row.size):
                grad_row[j] = _celu_gradient(known[j], grad_row[j], alpha)
        elif activation == SELU:
            for j in range(grad_row.size):
                grad_row[j] = _selu_gradient(known[j], grad_row[j])
        elif activation == GELU:
            for j in range(grad_row.size):
                grad_row[j] = _gelu_gradient(known[j], grad_row[j])
        elif activation == GELU_TANH:
            for j in range(grad_row.size):
                grad_row[j] = _gelu_tanh_gradient(known[j], grad_row[j])
        elif activation == MISH:
            for j in range(grad_row.size):
                grad_row[j] = _mish_gradient(known[j], grad_row[j])
        elif activation == SOFTPLUS:
            for j in range(grad_row.size):
                grad_row[j] = _softplus_gradient(known[j], grad_row[j], alpha)
        elif activation == SOFTSIGN:
            for j in range(grad_row.size):
                grad_row[j] = _softsign_gradient(known[j], grad_row[j])
        elif activation == RELU6:
            for j in range(grad_row.size):
                grad_row[j] = _relu6_gradient(known[j], grad_row[j])
        elif activation == HARD_TANH:
            for j in range(grad_row.size):
                grad_row[j] = _hard_tanh_gradient(known[j], grad_row[j])
        elif activation == HARD_SIGMOID:
            for j in range(grad_row.size):
                grad_row[j] = _hard_sigmoid_gradient(known[j], grad_row[j])
        elif activation == HARD_SWISH:
            for j in range(grad_row.size):
                grad_row[j] = _hard_swish_gradient(known[j], grad_row[j])
        elif activation == SOFTMAX:
            _softmax_gradient(known, grad_row)
        elif activation >= FIRST_CUSTOM:
            _apply_custom(activation, CUSTOM_GRADIENT, known, grad_row)


@_inner
def _apply_second_derivative(y_or_z, activation, alpha, grad):
    """Multiply every element of a gradient by σ'', in place."""
    alpha = grad.dtype.type(alpha)
    for i in range(grad.shape[0]):
        known, grad_row = _row(y_or_z, i), _row(grad, i)
        if activation == SIGMOID:
            for j in range(grad_row.size):
                grad_row[j] = _sigmoid_curvature(known[j], grad_row[j])
        elif activation == TANH:
            for j in range(grad_row.size):
                grad_row[j] = _tanh_curvature(known[j], grad_row[j])
        elif activation == SILU:
            for j in range(grad_row.size):
                grad_row[j] = _silu_curvature(known[j], grad_row[j])
        elif activation == ELU:
            for j in range(grad_row.size):
                grad_row[j] = _elu_curvature(known[j], grad_row[j], alpha)
        elif activation == CELU:
            for j in range(grad_row.size):
                grad_row[j] = _celu_curvature(known[j], grad_row[j], alpha)
        elif activation == SELU:
            for j in range(grad_row.size):
                grad_row[j] = _selu_curvature(known[j], grad_row[j])
        elif activation == GELU:
            for j in range(grad_row.size):
                grad_row[j] = _gelu_curvature(known[j], grad_row[j])
        elif activation == GELU_TANH:
            for j in range(grad_row.size):
                grad_row[j] = _gelu_tanh_curvature(known[j], grad_row[j])
        elif activation == MISH:
            for j in range(grad_row.size):
                grad_row[j] = _mish_curvature(known[j], grad_row[j])
        elif activation == SOFTPLUS:
            for j in range(grad_row.size):
                grad_row[j] = _softplus_curvature(known[j], grad_row[j], alpha)
        elif activation == SOFTSIGN:
            for j in range(grad_row.size):
                grad_row[j] = _softsign_curvature(known[j], grad_row[j])
        elif activation == HARD_SWISH:
            for j in range(grad_row.size):
                grad_row[j] = _hard_swish_curvature(known[j], grad_row[j])
        elif activation >= FIRST_CUSTOM:
            _apply_custom(activation, CUSTOM_CURVATURE, known, grad_row)
        else:  # piecewise linear
            for j in range(grad_row.size):
                grad_row[j] = ZERO * grad_row[j]


@_inner
def _maximum_and_sum_exp(logits):
    """Return the highest logit and Σ exp(o − highest), which cannot overflow."""
    highest = logits.dtype.type(-np.inf)
    for o in logits:
        highest = o if o > highest else highest
    total = logits.dtype.type(0)
    for o in logits:
        total += _exp(o - highest)
    return highest, total


@_inner
def _softmax(logits, out):
    """Turn a row of logits into probabilities; `out` may be `logits`."""
    highest, sum_exp = _maximum_and_sum_exp(logits)
    for j in range(out.size):
        out[j] = _exp(logits[j] - highest) / sum_exp


@_inner
def _cross_entropy(o, t, label, smoothing):
    highest, sum_exp = _maximum_and_sum_exp(o)
    log_sum, total = math.log(sum_exp), o.dtype.type(0)
    kept, floor = ONE - smoothing, smoothing / o.dtype.type(o.size)
    if label >= 0:
        if smoothing != ZERO:
            for j in range(o.size):
                total += log_sum - (o[j] - highest)
            total *= floor
        return total + kept * (log_sum - (o[label] - highest))
    for j in range(o.size):  # a class of probability 0 costs nothing, even with logit −inf
        share = kept * t[j] + floor
        total += share * (log_sum - (o[j] - highest)) if share != ZERO else ZERO
    return total


@_inner
def _cross_entropy_gradient(o, t, label, smoothing, share, out):
    kept, floor = ONE - smoothing, smoothing / o.dtype.type(o.size)
    _softmax(o, out)
    if label >= 0:
        for j in range(out.size):
            out[j] = share * _significant(out[j] - floor)
        out[label] -= share * kept
        return
    total = o.dtype.type(0)
    for target in t:
        total += kept * target + floor
    for j in range(out.size):
        out[j] = share * _significant(total * out[j] - (kept * t[j] + floor))


@_inline
def _positive_weight(parameters, j, like):
    """Return the weight of a positive target in output j: 1 if there are none."""
    return like.dtype.type(parameters[j]) if parameters.size else ONE


@_inner
def _binary_cross_entropy(o, t, parameters):
    """Return −Σ (p t log σ(o) + (1 − t) log(1 − σ(o)))."""
    total = o.dtype.type(0)
    for j in range(o.size):
        small = _log1p(_exp(-abs(o[j])))
        total += _positive_weight(parameters, j, o) * t[j] * (_relu(-o[j]) + small)
        total += (ONE - t[j]) * (_relu(o[j]) + small)
    return total


@_inner
def _binary_cross_entropy_gradient(o, t, parameters, share, out):
    for j in range(o.size):
        p = _positive_weight(parameters, j, o)
        out[j] = share * _significant((ONE + (p - ONE) * t[j]) * _sigmoid(o[j]) - p * t[j])


@_inner
def _gaussian_nll(o, t):
    """Return Σ (log v + (m − t)²/v) of k means m, which k log-variances follow."""
    k, total = o.size // 2, o.dtype.type(0)
    for j in range(k):
        residual = (o[j] - t[j]) * _exp(-HALF * o[k + j])
        total += o[k + j] + residual * residual
    return total


@_inner
def _gaussian_nll_gradient(o, t, share, out):
    k = o.size // 2
    for j in range(k):
        precision = _exp(-HALF * o[k + j])
        residual = (o[j] - t[j]) * precision
        out[j] = share * (residual * precision)
        out[k + j] = HALF * share * (ONE - residual * residual)


@_inner
def _pinballs(o, t, quantiles):
    k, total = o.size // quantiles.size, o.dtype.type(0)
    for i in range(quantiles.size):
        tau = o.dtype.type(quantiles[i])
        for j in range(k):
            total += _pinball(t[j] - o[i * k + j], tau)
    return total


@_inner
def _pinballs_gradient(o, t, quantiles, share, out):
    k = o.size // quantiles.size
    for i in range(quantiles.size):
        tau = o.dtype.type(quantiles[i])
        for j in range(k):
            out[i * k + j] = share * _pinball_gradient(t[j] - o[i * k + j], tau)


@_inner
def _hinges(o, t, label, squared):
    """Sum hinges of margins 1 − t o, or 1 + o − o_label for the other outputs."""
    total = o.dtype.type(0)
    if label < 0:
        for j in range(o.size):
            total += _hinge(ONE - t[j] * o[j], squared)
        return total
    for j in range(o.size):
        total += _hinge(ONE + (o[j] - o[label]), squared) if j != label else ZERO
    return total


@_inner
def _hinges_gradient(o, t, label, squared, share, out):
    if label < 0:
        for j in range(o.size):
            out[j] = -t[j] * share * _hinge_gradient(ONE - t[j] * o[j], squared)
        return
    total = o.dtype.type(0)
    for j in range(o.size):
        out[j] = share * _hinge_gradient(ONE + (o[j] - o[label]), squared)
        total += out[j] if j != label else ZERO
    out[label] = -total


@_inner
def _loss(o, t, label, loss, parameters):
    """Return the loss of one sample; a label of −1 says that the row t counts."""
    n_out, total = o.dtype.type(o.size), o.dtype.type(0)
    if loss == CROSS_ENTROPY:
        return _cross_entropy(o, t, label, o.dtype.type(parameters[0]))
    if loss in (QUADRATIC, MSE):
        for j in range(o.size):
            total += (o[j] - t[j]) * (o[j] - t[j])
        return HALF * total if loss == QUADRATIC else total / n_out
    if loss == BINARY_CROSS_ENTROPY:
        total = _binary_cross_entropy(o, t, parameters)
    elif loss == MAE:
        for j in range(o.size):
            total += abs(o[j] - t[j])
    elif loss == HUBER:
        delta = o.dtype.type(parameters[0])
        for j in range(o.size):
            total += _huber(o[j] - t[j], delta)
    elif loss == POISSON:
        for j in range(o.size):
            total += _exp(o[j]) - t[j] * o[j]
    elif loss == GAUSSIAN_NLL:
        total = _gaussian_nll(o, t)
    elif loss == PINBALL:
        total = _pinballs(o, t, parameters)
    elif loss in (HINGE, SQUARED_HINGE):
        total = _hinges(o, t, label, loss == SQUARED_HINGE)
    return total / n_out


@_inner
def _loss_gradient(o, t, label, loss, parameters, share, out):
    """Store share · ∂L/∂o of one sample; a share of 0 gives 0 whatever o holds."""
    of_one = share / o.dtype.type(o.size)  # of one output in the mean
    if share == ZERO:
        _set(out, ZERO)
    elif loss == CROSS_ENTROPY:
        _cross_entropy_gradient(o, t, label, o.dtype.type(parameters[0]), share, out)
    elif loss in (QUADRATIC, MSE):
        scale = share if loss == QUADRATIC else TWO * of_one
        for j in range(out.size):
            out[j] = scale * (o[j] - t[j])
    elif loss == BINARY_CROSS_ENTROPY:
        _binary_cross_entropy_gradient(o, t, parameters, of_one, out)
    elif loss == MAE:
        for j in range(out.size):
            out[j] = of_one * _sign(o[j] - t[j])
    elif loss == HUBER:
        delta = o.dtype.type(parameters[0])
        for j in range(out.size):
            out[j] = of_one * _huber_gradient(o[j] - t[j], delta)
    elif loss == POISSON:
        for j in range(out.size):
            out[j] = of_one * (_exp(o[j]) - t[j])
    elif loss == GAUSSIAN_NLL:
        _gaussian_nll_gradient(o, t, TWO * of_one, out)
    elif loss == PINBALL:
        _pinballs_gradient(o, t, parameters, of_one, out)
    elif loss in (HINGE, SQUARED_HINGE):
        _hinges_gradient(o, t, label, loss == SQUARED_HINGE, of_one, out)


@_inner
def _cross_entropy_curvature(o, t, label, smoothing, share, r, out):
    mean, total = o.dtype.type(0), o.dtype.type(label >= 0)
    _softmax(o, out)
    for j in range(out.size):
        mean += out[j] * r[j]
    if label < 0:
        for target in t:
            total += (ONE - smoothing) * target + smoothing / o.dtype.type(o.size)
    for j in range(out.size):
        out[j] = share * (total * out[j] * (r[j] - mean))


@_inner
def _binary_cross_entropy_curvature(o, t, parameters, share, r, out):
    for j in range(o.size):
        weight, s = ONE + (_positive_weight(parameters, j, o) - ONE) * t[j], _sigmoid(o[j])
        out[j] = share * (weight * (s * (ONE - s) * r[j]))


@_inner
def _gaussian_nll_curvature(o, t, share, r, out):
    k = o.size // 2
    for j in range(k):
        precision = _exp(-HALF * o[k + j])
        residual, scaled = (o[j] - t[j]) * precision, precision * r[j]
        out[j] = share * (precision * (scaled - residual * r[k + j]))
        out[k + j] = share * (residual * (HALF * residual * r[k + j] - scaled))


@_inner
def _squared_hinges_curvature(o, t, label, share, r, out):
    """Carry on to the outputs how r moves the margins 1 − t o, or 1 + o − o_label, above 0."""
    if label < 0:
        for j in range(o.size):
            product = share * (TWO * t[j] * t[j] * r[j])
            out[j] = product if ONE - t[j] * o[j] > ZERO else ZERO
        return
    total = o.dtype.type(0)
    for j in range(o.size):
        product = share * (TWO * (r[j] - r[label]))
        out[j] = product if ONE + (o[j] - o[label]) > ZERO else ZERO
        total += out[j] if j != label else ZERO
    out[label] = -total


@_inner
def _loss_curvature(o, t, label, loss, parameters, share, r, out):
    """Store share · ∂²L/∂o² · r of one sample; a share of 0 gives 0."""
    of_one = share / o.dtype.type(o.size)  # of one output in the mean
    if share == ZERO:
        _set(out, ZERO)
    elif loss == CROSS_ENTROPY:
        _cross_entropy_curvature(o, t, label, o.dtype.type(parameters[0]), share, r, out)
    elif loss == BINARY_CROSS_ENTROPY:
        _binary_cross_entropy_curvature(o, t, parameters, of_one, r, out)
    elif loss == HUBER:
        delta = o.dtype.type(parameters[0])
        for j in range(out.size):
            out[j] = of_one * r[j] if abs(o[j] - t[j]) < delta else ZERO * r[j]
    elif loss == POISSON:
        for j in range(out.size):
            out[j] = of_one * (_exp(o[j]) * r[j])
    elif loss == GAUSSIAN_NLL:
        _gaussian_nll_curvature(o, t, TWO * of_one, r, out)
    elif loss == SQUARED_HINGE:
        _squared_hinges_curvature(o, t, label, of_one, r, out)
    else:  # squares, or piecewise linear
        scale = share if loss == QUADRATIC else TWO * of_one if loss == MSE else ZERO
        for j in range(out.size):
            out[j] = scale * r[j]


@_inline
def _sample_of(order, i):
    """Return the sample in row i of a batch; `order` is empty for the rows as they lie."""
    return order[i] if order.size else i


@_inline
def _target_of(target, labels, order, i):
    """Return row and label of the target in row i of a batch; the label is −1 for none."""
    sample = _sample_of(order, i)
    return _row(target, sample), labels[sample] if labels.size else -1


@_inner
def _losses(first, last, output, target, labels, order, loss, loss_parameters, out):
    """Compute the losses of the rows from `first` to `last` of a batch."""
    for i in range(first, last):
        row, label = _target_of(target, labels, order, i)
        out[i] = _loss(_row(output, i), row, label, loss, loss_parameters)


@_inner
def _loss_gradients(
    first, last, output, target, labels, sample_weight, order, loss, loss_parameters, out
):
    """Differentiate the mean loss by the outputs in the rows from `first` to `last`."""
    scale = _share_scale(sample_weight, order, output.shape[0])
    for i in range(first, last):
        row, label = _target_of(target, labels, order, i)
        share = output.dtype.type(_share(sample_weight, order, i, scale))
        _loss_gradient(_row(output, i), row, label, loss, loss_parameters, share, _row(out, i))


@_inline
def _share_scale(sample_weight, order, n_samples):
    """Return 1 / Σw: 1 / n for no weights, 0 where they sum to 0."""
    total = float(n_samples)
    if sample_weight.size:
        total = 0.0
        for i in range(n_samples):
            total += sample_weight[_sample_of(order, i)]
    return 1.0 / total if total != 0.0 else 0.0


@_inline
def _share(sample_weight, order, i, scale):
    return sample_weight[_sample_of(order, i)] * scale if sample_weight.size else scale


@_inner
def _mean(losses, sample_weight, order):
    """Return Σ wᵢ Lᵢ / Σw, in float64."""
    scale = _share_scale(sample_weight, order, losses.size)
    total = 0.0
    for i in range(losses.size):
        share = _share(sample_weight, order, i, scale)
        if share != 0.0:
            total += share * losses[i]
    return total


@_inner
def _update(theta, grad, state, position, optimizer, coefficients):
    """Update a run of parameters whose state begins at `position`."""
    real, c, n = theta.dtype.type, coefficients, theta.size
    if optimizer == STORE:
        _copy(grad, theta)
    elif optimizer == SGD:
        scalars = real(c[0]), real(c[1])
        for e in range(n):
            theta[e] = _sgd(theta[e], grad[e], scalars)
    elif optimizer == MOMENTUM:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3])
        v = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], v[e] = _momentum(theta[e], grad[e], v[e], scalars)
    elif optimizer == ADAM:
        rates = real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4]), real(c[9])
        of_step = real(c[5]), real(c[6]), real(c[7]), real(c[8])
        m, v = _vector(_row(state, 0), position, n), _vector(_row(state, 1), position, n)
        for e in range(n):
            theta[e], m[e], v[e] = _adam(theta[e], grad[e], m[e], v[e], rates, of_step)
    elif optimizer == EMA_MOMENTUM:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4])
        m = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], m[e] = _ema_momentum(theta[e], grad[e], m[e], scalars)
    elif optimizer == NESTEROV:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3])
        u = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], u[e] = _nesterov(theta[e], grad[e], u[e], scalars)
    elif optimizer == ADAGRAD:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3])
        s = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], s[e] = _adagrad(theta[e], grad[e], s[e], scalars)
    elif optimizer == RMSPROP:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4]), real(c[5])
        s = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], s[e] = _rmsprop(theta[e], grad[e], s[e], scalars)
    elif optimizer == RMSPROP_MOMENTUM:
        scalars = _seven(c, real)
        s, v = _vector(_row(state, 0), position, n), _vector(_row(state, 1), position, n)
        for e in range(n):
            theta[e], s[e], v[e] = _rmsprop_momentum(theta[e], grad[e], s[e], v[e], scalars)
    elif optimizer == CENTERED_RMSPROP:
        scalars = _seven(c, real)
        s, v = _vector(_row(state, 0), position, n), _vector(_row(state, 1), position, n)
        m = _vector(_row(state, 2), position, n)
        for e in range(n):
            theta[e], s[e], v[e], m[e] = _centered_rmsprop(
                theta[e], grad[e], s[e], v[e], m[e], scalars
            )
    elif optimizer == ADAMAX:
        scalars = _seven(c, real)
        m, u = _vector(_row(state, 0), position, n), _vector(_row(state, 1), position, n)
        for e in range(n):
            theta[e], m[e], u[e] = _adamax(theta[e], grad[e], m[e], u[e], scalars)
    elif optimizer == NADAM:
        rates = real(c[0]), real(c[1]), real(c[2]), real(c[9])
        of_step = real(c[3]), real(c[4]), real(c[5]), real(c[6]), real(c[7]), real(c[8])
        m, v = _vector(_row(state, 0), position, n), _vector(_row(state, 1), position, n)
        for e in range(n):
            theta[e], m[e], v[e] = _nadam(theta[e], grad[e], m[e], v[e], rates, of_step)
    elif optimizer == LION:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4]), real(c[5])
        m = _vector(_row(state, 0), position, n)
        for e in range(n):
            theta[e], m[e] = _lion(theta[e], grad[e], m[e], scalars)


@_inline
def _seven(c, real):
    return real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4]), real(c[5]), real(c[6])


@_inner
def _update_rows(parameters, grads, state, start, stride, optimizer, coefficients, averaging):
    """Update rows of parameters, and their average in the last row of the state.

    The state of the first row begins at `start`, that of the next one `stride` further on.
    """
    for r in range(parameters.shape[0]):
        theta, position = _row(parameters, r), start + r * stride
        _update(theta, _row(grads, r), state, position, optimizer, coefficients)
        if averaging.size:
            share = theta.dtype.type(averaging[0])
            average = _vector(_row(state, state.shape[0] - 1), position, theta.size)
            for e in range(theta.size):
                average[e] += share * (theta[e] - average[e])


@_inner
def _clip_row(grad, limit):
    """Limit each entry of a row, and return the sum of their squares."""
    total = 0.0
    for e in range(grad.size):
        g = grad[e]
        g = limit if g > limit else (-limit if g < -limit else g)
        grad[e] = g
        total += np.float64(g) * np.float64(g)
    return total


# --- Layers: the output is cut into tiles, and thread t takes every n-th from t on --------


def _threaded(run_share):
    """Make the function that has each thread run its share of the work.

    It takes the number of threads that the work is worth: for one, no region is opened.
    """
    if not PARALLEL:
        return _inline(lambda n_useful, arguments: run_share(FIRST_THREAD, ONE_THREAD, *arguments))

    @_inner(parallel=True)
    def run(n_useful, arguments):
        if n_useful > 1:
            for thread in prange(n_useful):
                # Unsigned, as prange has it, it would compile the share a second time.
                run_share(np.int64(thread), n_useful, *arguments)
        else:
            run_share(FIRST_THREAD, ONE_THREAD, *arguments)

    return run


@_inline
def _useful_threads(n_threads, products):
    """Return how many threads some multiply-adds are worth."""
    return max(1, min(n_threads, products // PRODUCTS_OF_A_THREAD))


@_inline
def _tile_count(shape, width):
    """Return how many tiles cover a matrix; one also where it has no rows."""
    return max(1, -(-shape[0] // ROW_BLOCK)) * -(-shape[1] // width)


@_inline
def _tile_bounds(shape, width, tile):
    """Return the first and last row, the first and last column of a tile."""
    column, row = divmod(tile, max(1, -(-shape[0] // ROW_BLOCK)))
    i, j = row * ROW_BLOCK, column * width
    return i, min(i + ROW_BLOCK, shape[0]), j, min(j + width, shape[1])


@_inner
def _forward(thread, n_threads, x, weight, bias, activation, alpha, out):
    """Compute a thread's tiles of a = σ(x·weight + bias)."""
    n_in, n_out = weight.shape
    width = -(-n_out // (n_threads * TILE_WIDTH)) * TILE_WIDTH
    is_far = n_in * n_out * weight.itemsize >= SWEPT_BYTES
    depth = SWEPT_ROWS if is_far else max(1, n_in)
    for tile in range(thread, _tile_count(out.shape, width), n_threads):
        i, i_end, j, j_end = _tile_bounds(out.shape, width, tile)
        z = _block(out, i, i_end, j, j_end)
        for r in range(i_end - i):
            _copy(_vector(bias, j, j_end - j), _row(z, r))
        for k in range(0, n_in, depth):
            k_end = min(k + depth, n_in)
            _multiply_add(_block(x, i, i_end, k, k_end), _block(weight, k, k_end, j, j_end), z)
        _activate(z, activation, alpha)


@_inner
def _backward_input(
    thread, n_threads, delta, weight, y_or_z, activation, alpha, out, workspace, n_samples
):
    """Compute a thread's tiles of δ·weightᵀ ⊙ σ' (BP2), which may be some of `n_samples` rows.

    `out` may be `y_or_z`: a strip of the product waits on the stack until that is read.
    """
    n_out, tile_memory = weight.shape[1], _stack_tile(out)
    panel = _matrix(workspace, thread * n_out * TILE_WIDTH, n_out, TILE_WIDTH, TILE_WIDTH)
    for tile in range(thread, _tile_count(out.shape, TILE_WIDTH), n_threads):
        i, i_end, j, j_end = _tile_bounds(out.shape, TILE_WIDTH, tile)
        weight_tile = _rows_between(weight, j, j_end)
        # The whole batch decides, for its rows may be shared between threads.
        transposed = n_samples >= TRANSPOSE_ROWS
        if transposed:
            _transpose(weight_tile, panel)
        for first in range(i, i_end, TILE_ROWS):
            last = min(first + TILE_ROWS, i_end)
            grad = _block(tile_memory, 0, last - first, 0, j_end - j)
            delta_strip = _rows_between(delta, first, last)
            known = _block(y_or_z, first, last, j, j_end)
            if transposed:
                _clear(grad)
                _multiply_add(delta_strip, panel, grad)
            else:
                skips = _is_off_at_zero(activation)
                _multiply_transposed(delta_strip, weight_tile, known, skips, grad)
            _apply_derivative(known, activation, alpha, grad)
            _copy_rows(grad, _block(out, first, last, j, j_end))


@_inner(fastmath={"reassoc"})
def _is_finite(vector):
    """Return whether no element is NaN or infinite."""
    total = vector.dtype.type(0)  # 0, or NaN
    for j in range(vector.size):
        total += vector[j] - vector[j]
    return total == ZERO


@_inline
def _leaves(delta, scalars):
    """Return whether gradient descent leaves weights as they are whose input is 0."""
    return scalars[1] == ZERO and _is_finite(delta)


@_inner
def _update_singly(first, last, x, delta, weight, optimizer, coefficients):
    """Store the rows of x δᵀ of one sample, or take a step of gradient descent with them."""
    real = weight.dtype.type
    scalars, leaves = (real(0), real(0)), False
    if optimizer == SGD:
        scalars = real(coefficients[0]), real(coefficients[1])
        leaves = _leaves(delta, scalars)
    for k in range(first, last):
        factor, theta = x[k], _row(weight, k)
        if optimizer == STORE:
            for j in range(theta.size):
                theta[j] = factor * delta[j]
        elif not (leaves and factor == ZERO):
            for j in range(theta.size):
                theta[j] = _sgd(theta[j], factor * delta[j], scalars)


@_inner
def _update_weight(first, last, x, delta, weight, state, place, optimizer, coefficients, averaging):
    """Apply the rows of xᵀ·δ (BP4) from `first` to before `last` to a weight.

    `place` is the row of the layer table that tells where their state is.
    """
    n_samples, n_columns = delta.shape
    if n_samples == 1 and optimizer <= SGD and averaging.size == 0:
        _update_singly(first, last, _row(x, 0), _row(delta, 0), weight, optimizer, coefficients)
        return
    tile_memory, size = _stack_tile(weight), max(1, n_samples) * WIDE_TILE_WIDTH * x.itemsize
    width = max(1, DELTA_BYTES // size) * WIDE_TILE_WIDTH
    for panel in range(0, n_columns, width):
        for i in range(first, last, TILE_ROWS):
            i_end = min(i + TILE_ROWS, last)
            for j in range(panel, min(panel + width, n_columns), WIDE_TILE_WIDTH):
                j_end = min(j + WIDE_TILE_WIDTH, n_columns)
                theta = grad = _block(weight, i, i_end, j, j_end)
                if optimizer != STORE:
                    grad = _block(tile_memory, 0, i_end - i, 0, j_end - j)
                _clear(grad)
                factors = _block(x, 0, n_samples, i, i_end).T
                _multiply_add(factors, _block(delta, 0, n_samples, j, j_end), grad)
                if optimizer != STORE:
                    start, stride = place[WEIGHT] + i * place[STRIDE] + j, place[STRIDE]
                    rule = optimizer, coefficients, averaging
                    _update_rows(theta, grad, state, start, stride, *rule)


@_inner
def _update_bias(delta, bias, state, place, optimizer, coefficients, averaging):
    """Apply Σᵢ δᵢ (BP3) to a bias."""
    tile_memory = _stack_tile(delta)
    for j in range(0, bias.size, WIDE_TILE_WIDTH):
        j_end = min(j + WIDE_TILE_WIDTH, bias.size)
        grad = _block(tile_memory, 0, 1, 0, j_end - j)
        _clear(grad)
        total = _row(grad, 0)
        for i in range(delta.shape[0]):
            row = _vector(_row(delta, i), j, total.size)
            for c in range(total.size):
                total[c] += row[c]
        theta, rule = _block(_as_matrix(bias), 0, 1, j, j_end), (optimizer, coefficients, averaging)
        _update_rows(theta, grad, state, place[BIAS] + j, 0, *rule)


@_inner
def _backward_weight(
    thread, n_threads, x, delta, weight, bias, state, place, optimizer, coefficients, averaging
):
    """Apply a thread's rows of xᵀ·δ (BP4) to a weight; Σᵢ δᵢ (BP3) to a bias."""
    strips, rule = -(-weight.shape[0] // TILE_ROWS), (optimizer, coefficients, averaging)
    first = strips * thread // n_threads * TILE_ROWS
    last = min(strips * (thread + 1) // n_threads * TILE_ROWS, weight.shape[0])
    _update_weight(first, last, x, delta, weight, state, place, *rule)
    if thread == 0:
        _update_bias(delta, bias, state, place, *rule)


_share_forward = _threaded(_forward)
_share_backward_input = _threaded(_backward_input)
_share_backward_weight = _threaded(_backward_weight)


# --- Layer kernels ------------------------------------------------------------------------


@_kernel
def activation_forward(z: Matrix, activation: Int, alpha: Real, out: OutMatrix):
    """Apply an activation to every element: a = σ(z)."""
    _copy_rows(_as_matrix(z), out)
    _activate(out, activation, alpha)


@_kernel
def activation_backward(y_or_z: Matrix, grad: Matrix, activation: Int, alpha: Real, out: OutMatrix):
    """Multiply a gradient by the activation's derivative: grad ⊙ σ'."""
    _copy_rows(_as_matrix(grad), out)
    _apply_derivative(_as_matrix(y_or_z), activation, alpha, out)


@_kernel
def softmax_forward(z: Matrix, out: OutMatrix):
    """Turn logits into probabilities: exp(zⱼ) / Σₖ exp(zₖ) in each row."""
    for i in range(z.shape[0]):
        _softmax(_row(z, i), _row(out, i))


@_kernel
def dense_forward(
    x: Matrix,
    weight: Matrix,
    bias: Vector,
    activation: Int,
    alpha: Real,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Run one dense layer on a batch: a = σ(x·weight + bias)."""
    n_useful = _useful_threads(n_threads, x.shape[0] * weight.size)
    arguments = _as_matrix(x), _as_matrix(weight), _as_vector(bias), activation, alpha, out
    _share_forward(n_useful, arguments)


@_kernel
def dense_forward_single(
    x: Vector, weight: Matrix, bias: Vector, activation: Int, alpha: Real, out: OutVector
):
    """Run one dense layer on one sample: a = σ(x·weight + bias)."""
    biases = _as_vector(bias)
    _forward(
        FIRST_THREAD,
        ONE_THREAD,
        _as_matrix(x),
        _as_matrix(weight),
        biases,
        activation,
        alpha,
        _as_matrix(out),
    )


@_kernel
def dense_backward_input(
    delta: Matrix,
    weight: Matrix,
    y_or_z: Matrix,
    activation: Int,
    alpha: Real,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Carry δ down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    n_samples = delta.shape[0]
    n_useful = _useful_threads(n_threads, n_samples * weight.size)
    tables = _as_matrix(delta), _as_matrix(weight), _as_matrix(y_or_z)
    arguments = (*tables, activation, alpha, out, workspace, n_samples)
    _share_backward_input(n_useful, arguments)


@_kernel
def dense_backward_input_single(
    delta: Vector, weight: Matrix, y_or_z: Vector, activation: Int, alpha: Real, out: OutVector
):
    """Carry δ of one sample down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    tables = _as_matrix(delta), _as_matrix(weight), _as_matrix(y_or_z)
    rest = activation, alpha, _as_matrix(out), out, ONE_THREAD
    _backward_input(FIRST_THREAD, ONE_THREAD, *tables, *rest)


@_inline
def _store_gradient(x, delta, grad_weight, grad_bias, n_threads):
    """Store xᵀ·δ (BP4) and Σᵢ δᵢ (BP3)."""
    n_useful = _useful_threads(n_threads, x.shape[0] * grad_weight.size)
    no_state, no_place = _block(grad_weight, 0, 0, 0, 0), _as_vector(NO_PLACE)
    rule = no_state, no_place, STORE, _as_vector(NO_COEFFICIENTS), _as_vector(NO_COEFFICIENTS)
    _share_backward_weight(n_useful, (x, delta, grad_weight, grad_bias, *rule))


@_kernel
def dense_backward_weight(
    x: Matrix,
    delta: Matrix,
    grad_weight: OutMatrix,
    grad_bias: OutVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Sum a batch's gradient of one layer: xᵀ·δ (BP4) and Σᵢ δᵢ (BP3)."""
    _store_gradient(_as_matrix(x), _as_matrix(delta), grad_weight, grad_bias, n_threads)


@_kernel
def dense_backward_weight_single(
    x: Vector, delta: Vector, grad_weight: OutMatrix, grad_bias: OutVector
):
    """Form one sample's gradient of one layer: x δᵀ (BP4) and δ (BP3)."""
    _store_gradient(_as_matrix(x), _as_matrix(delta), grad_weight, grad_bias, ONE_THREAD)


@_kernel
def loss_forward(
    output: Matrix,
    target: Matrix,
    labels: IntVector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutVector,
):
    """Compute the loss of each sample."""
    data = _as_matrix(output), _as_matrix(target), _as_vector(labels)
    no_order, parameters = _as_vector(NO_INDICES), _as_vector(loss_parameters)
    _losses(0, out.size, *data, no_order, loss, parameters, out)


@_kernel
def loss_backward(
    output: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutMatrix,
):
    """Differentiate the batch's mean loss by the outputs: wᵢ/Σw · ∂Lᵢ/∂oᵢ."""
    data = _as_matrix(output), _as_matrix(target), _as_vector(labels)
    weights, no_order = _as_vector(sample_weight), _as_vector(NO_INDICES)
    parameters = _as_vector(loss_parameters)
    _loss_gradients(0, out.shape[0], *data, weights, no_order, loss, parameters, out)


@_inner
def _update_runs(thread, n_threads, parameters, grad, state, optimizer, coefficients):
    """Update a thread's runs of parameters."""
    for start in range(thread * UPDATE_RUN, parameters.size, n_threads * UPDATE_RUN):
        length = min(UPDATE_RUN, parameters.size - start)
        theta, slope = _vector(parameters, start, length), _vector(grad, start, length)
        _update(theta, slope, state, start, optimizer, coefficients)


_share_updates = _threaded(_update_runs)


@_kernel
def optimizer_step(
    parameters: OutVector,
    grad: Vector,
    state: OutMatrix,
    optimizer: Int,
    coefficients: RealVector,
    n_threads: Int = 1,
):
    """Update parameters in place by one step of an optimizer."""
    n_useful = max(1, min(n_threads, parameters.size // UPDATES_OF_A_THREAD))
    slope, scalars = _as_vector(grad), _as_vector(coefficients)
    _share_updates(n_useful, (parameters, slope, state, optimizer, scalars))


# --- Network: views of the arena and of the workspace -------------------------------------
# The training workspace holds, in this order: the gathered batch; the activation, the δ and
# the notes of each layer; the loss of each sample; the threads' panels.


@_inline
def _weight_of(layers, layer, arena):
    """Return the view of a dense layer's weight, (n_in, n_out)."""
    place = _row(layers, layer)
    return _matrix(arena, place[WEIGHT], place[N_IN], place[N_OUT], place[STRIDE])


@_inline
def _weights_of(layers, layer, arena):
    """Return the weights of normalisation, one of each unit."""
    return _vector(arena, layers[layer, WEIGHT], layers[layer, N_OUT])


@_inline
def _bias_of(layers, layer, arena):
    return _vector(arena, layers[layer, BIAS], layers[layer, N_OUT])


@_inline
def _running_of(layers, layer, which, arena):
    """Return the running means (0) or variances (1) of batch normalisation."""
    start = layers[layer, BIAS] + (1 + which) * layers[layer, STRIDE]
    return _vector(arena, start, layers[layer, N_OUT])


@_inline
def _notes_size(layers, layer, n_rows, itemsize):
    """Return the elements that a layer notes of a batch: see arena.notes_size."""
    kind = layers[layer, KIND]
    if kind != LAYER_NORM and kind != BATCH_NORM and kind != BATCH_NORM_TRAINING:
        return 0
    return 2 * row_stride(n_rows, itemsize) + 4 * row_stride(layers[layer, N_OUT], itemsize)


@_inner
def _workspace_start(layers, layer, n_rows, itemsize):
    """Return where a layer's activation begins; for n_layers, where the losses do."""
    start = n_rows * row_stride(layers[0, N_IN], itemsize)
    for below in range(layer):
        start += 2 * n_rows * row_stride(layers[below, N_OUT], itemsize)
        start += _notes_size(layers, below, n_rows, itemsize)
    return start


@_inner
def _activation_of(layers, layer, n_rows, workspace):
    """Return the activation of a layer; of layer −1, the batch, as gathered."""
    n_columns, start = layers[0, N_IN], 0
    if layer >= 0:
        n_columns = layers[layer, N_OUT]
        start = _workspace_start(layers, layer, n_rows, workspace.itemsize)
    stride = row_stride(n_columns, workspace.itemsize)
    return _matrix(workspace, start, n_rows, n_columns, stride)


@_inline
def _input_of(layers, layer, inputs, workspace):
    """Return what a layer takes from a batch."""
    return inputs if layer == 0 else _activation_of(layers, layer - 1, inputs.shape[0], workspace)


@_inline
def _delta_of(layers, layer, n_rows, workspace):
    n_out = layers[layer, N_OUT]
    stride = row_stride(n_out, workspace.itemsize)
    start = _workspace_start(layers, layer, n_rows, workspace.itemsize) + n_rows * stride
    return _matrix(workspace, start, n_rows, n_out, stride)


@_inner
def _unit_notes(layers, layer, which, n_rows, workspace):
    """Return the means of units (0), their 1/√(v + ε) (1), the sums of δ (2), of δ x̂ (3)."""
    stride = row_stride(layers[layer, N_OUT], workspace.itemsize)
    start = _workspace_start(layers, layer, n_rows, workspace.itemsize)
    return _vector(workspace, start + (2 * n_rows + which) * stride, layers[layer, N_OUT])


@_inline
def _row_notes(layers, layer, which, n_rows, workspace):
    """Return the means of samples (0), their 1/√(v + ε) (1); or their shares (0)."""
    start = _workspace_start(layers, layer + 1, n_rows, workspace.itemsize)
    return _vector(workspace, start - (2 - which) * row_stride(n_rows, workspace.itemsize), n_rows)


@_inline
def _losses_of(layers, n_rows, workspace):
    start = _workspace_start(layers, layers.shape[0], n_rows, workspace.itemsize)
    return _vector(workspace, start, n_rows)


@_inline
def _panels_of(layers, n_rows, workspace):
    """Return the rest of the workspace, from a cache line on."""
    start = _workspace_start(layers, layers.shape[0], n_rows, workspace.itemsize)
    start += -(-n_rows // ROW_MULTIPLE) * ROW_MULTIPLE
    return _vector(workspace, start, workspace.size - start)


@_inline
def _panel_of(thread, n_threads, layers, n_rows, workspace):
    """Return a thread's part of the panels: more than 60 rows of any layer."""
    panels = _panels_of(layers, n_rows, workspace)
    size = panels.size // (n_threads * ROW_MULTIPLE) * ROW_MULTIPLE
    return _vector(panels, thread * size, size)


# --- Network: layers that are not dense ---------------------------------------------------
# A `passage` says where rows pass a layer: the first of them in the batch, the number of the
# step, the rows of the batch, a workspace with its notes, a panel. Where only the output is
# wanted the batch has 0 rows, and nothing is noted.


@_inline
def _whole(n_rows, workspace, panel):
    """Return the passage of a batch as a whole."""
    return FIRST_THREAD, FIRST_THREAD, n_rows, workspace, panel


@_inline
def _mixed(bits):
    """Scramble 64 bits: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@_inline
def _scrambled(bits):
    """Scramble 32 bits: Wellons, Prospecting for hash functions, 2018, "lowbias32"."""
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


@_inner
def _drop(network, layer, x, start, visit, out):
    """Set inputs to 0 by a mask that is a function of the seed and their place alone."""
    layers, settings, _ = network
    rate, real = settings[layer, DROP_RATE], x.dtype.type
    threshold, scale = np.uint32(rate * 4294967296.0), real(1.0 / (1.0 - rate))
    of_layer = _mixed(np.uint64(layers[layer, SEED] + visit) ^ _mixed(np.uint64(layer + 1)))
    for i in range(out.shape[0]):
        key = _mixed(of_layer + np.uint64(start + i))
        low, high = np.uint32(key), np.uint32(key >> np.uint64(32))
        source, sink = _row(x, i), _row(out, i)
        for j in range(sink.size):
            bits = _scrambled(np.uint32(_scrambled(np.uint32(np.uint32(j) ^ low)) ^ high))
            kept = source[j] * scale
            sink[j] = kept if bits >= threshold else ZERO


@_inner
def _rectify(network, layer, x, values, panel, out):
    """Multiply values by PReLU's slopes where the inputs are not above 0."""
    layers, _, parameters = network
    n_weights, start = layers[layer, WEIGHT_COLUMNS], layers[layer, WEIGHT]
    slopes = _vector(panel, 0, layers[layer, N_OUT])
    for j in range(slopes.size):
        slopes[j] = parameters[start + (j if n_weights == slopes.size else 0)]
    for i in range(out.shape[0]):
        source, value, sink = _row(x, i), _row(values, i), _row(out, i)
        for j in range(sink.size):
            steep, flat = value[j], value[j] * slopes[j]
            sink[j] = steep if source[j] > ZERO else flat


@_inner(fastmath={"reassoc", "contract", "nsz"})
def _row_moments(x, eps):
    """Return the mean of a row, and 1/√(v + ε) with its variance v."""
    n, total, squares = x.dtype.type(x.size), x.dtype.type(0), x.dtype.type(0)
    for j in range(x.size):
        total += x[j]
    mean = total / n
    for j in range(x.size):
        distance = x[j] - mean
        squares += distance * distance
    return mean, ONE / math.sqrt(squares / n + eps)


@_inline
def _normalise_samples(network, layer, x, passage, out):
    """Normalise each row over its units."""
    layers, settings, parameters = network
    first, _, n_rows, workspace, panel = passage
    weight, bias = _weights_of(layers, layer, parameters), _bias_of(layers, layer, parameters)
    eps = x.dtype.type(settings[layer, NORM_EPS])
    means = scales = _vector(panel, 0, 0)
    if n_rows > 0:
        means = _row_notes(layers, layer, 0, n_rows, workspace)
        scales = _row_notes(layers, layer, 1, n_rows, workspace)
    for i in range(out.shape[0]):
        source, sink = _row(x, i), _row(out, i)
        mean, scale = _row_moments(source, eps)
        for j in range(sink.size):
            sink[j] = (source[j] - mean) * scale * weight[j] + bias[j]
        if n_rows > 0:
            means[first + i], scales[first + i] = mean, scale


@_inner
def _moments_of_units(network, layer, passage):
    """Return mean and 1/√(v + ε) of each unit, of the batch or from memory."""
    layers, settings, parameters = network
    _, _, n_rows, workspace, panel = passage
    if layers[layer, KIND] == BATCH_NORM_TRAINING:
        mean = _unit_notes(layers, layer, 0, n_rows, workspace)
        return mean, _unit_notes(layers, layer, 1, n_rows, workspace)
    variance = _running_of(layers, layer, 1, parameters)
    scale, eps = _vector(panel, 0, variance.size), panel.dtype.type(settings[layer, NORM_EPS])
    for j in range(scale.size):
        scale[j] = ONE / math.sqrt(variance[j] + eps)
    return _running_of(layers, layer, 0, parameters), scale


@_inner
def _forward_units(network, layer, x, passage, out):
    """Compute z of rows in a layer that has neither an activation nor a matrix of weights."""
    layers, _, parameters = network
    kind = layers[layer, KIND]
    if kind == DROPOUT:
        _drop(network, layer, x, passage[0], passage[1], out)
    elif kind == PRELU:
        _rectify(network, layer, x, x, passage[4], out)
    elif kind == LAYER_NORM:
        _normalise_samples(network, layer, x, passage, out)
    else:
        mean, scale = _moments_of_units(network, layer, passage)
        weight, bias = _weights_of(layers, layer, parameters), _bias_of(layers, layer, parameters)
        for i in range(out.shape[0]):
            source, sink = _row(x, i), _row(out, i)
            for j in range(sink.size):
                sink[j] = (source[j] - mean[j]) * scale[j] * weight[j] + bias[j]


@_inner(fastmath={"reassoc", "contract", "nsz"})
def _row_slopes(delta, weight, x, mean, scale):
    """Return the means of δw and of δw x̂ over the units of a row."""
    n, slope, along = x.dtype.type(x.size), x.dtype.type(0), x.dtype.type(0)
    for j in range(x.size):
        product = delta[j] * weight[j]
        slope += product
        along += product * ((x[j] - mean) * scale)
    return slope / n, along / n


@_inline
def _carry_norm(network, layer, x, delta, start, passage, out):
    """Compute ∂L/∂x of normalisation for rows of a batch, from row `start` on."""
    layers, _, parameters = network
    _, _, n_rows, workspace, _ = passage
    kind, weight = layers[layer, KIND], _weights_of(layers, layer, parameters)
    of_rows = _row_notes(layers, layer, 0, n_rows, workspace)  # means, or shares
    scales = _row_notes(layers, layer, 1, n_rows, workspace)
    sums, alongs = mean, scale = weight, weight
    if kind != LAYER_NORM:
        mean, scale = _moments_of_units(network, layer, passage)
        sums = _unit_notes(layers, layer, 2, n_rows, workspace)
        alongs = _unit_notes(layers, layer, 3, n_rows, workspace)
    for i in range(out.shape[0]):
        source, slope, sink = _row(x, i), _row(delta, i), _row(out, i)
        if kind == LAYER_NORM:
            m, s = of_rows[start + i], scales[start + i]
            level, along = _row_slopes(slope, weight, source, m, s)
            for j in range(sink.size):
                sink[j] = s * (slope[j] * weight[j] - level - (source[j] - m) * s * along)
        elif kind == BATCH_NORM:
            for j in range(sink.size):
                sink[j] = slope[j] * weight[j] * scale[j]
        else:
            share = of_rows[start + i]
            for j in range(sink.size):
                meeting = share * (sums[j] + (source[j] - mean[j]) * scale[j] * alongs[j])
                sink[j] = weight[j] * scale[j] * (slope[j] - meeting)


@_inner
def _carry_units(network, layer, x, delta, start, passage, out):
    """Compute ∂L/∂x of a layer that is not dense for rows of a batch, from row `start` on."""
    kind = network[0][layer, KIND]
    if kind == ELEMENTWISE:
        _copy_rows(delta, out)
    elif kind == DROPOUT:
        _drop(network, layer, delta, start, passage[1], out)
    elif kind == PRELU:
        _rectify(network, layer, x, delta, passage[4], out)
    else:
        _carry_norm(network, layer, x, delta, start, passage, out)


# Over the rows of a batch, each thread has some units of its own.


@_inline
def _units_of_thread(n_units, thread, n_threads):
    n_blocks = -(-n_units // ROW_MULTIPLE)
    first, last = n_blocks * thread // n_threads, n_blocks * (thread + 1) // n_threads
    return first * ROW_MULTIPLE, min(last * ROW_MULTIPLE, n_units)


@_inner
def _sums_over_rows(network, layer, x, delta, first, last, passage):
    """Return the sums over a batch of δ, and of δ x̂ or for PReLU δ min(x, 0), of some units."""
    _, _, n_rows, workspace, panel = passage
    layers, kind, n_units = network[0], network[0][layer, KIND], last - first
    sums, along = _vector(panel, x.shape[1], n_units), _vector(panel, 2 * x.shape[1], n_units)
    _set(sums, ZERO)
    _set(along, ZERO)
    mean = scale = means = scales = sums
    if kind == LAYER_NORM:
        means = _row_notes(layers, layer, 0, n_rows, workspace)
        scales = _row_notes(layers, layer, 1, n_rows, workspace)
    elif kind != PRELU:
        mean, scale = _moments_of_units(network, layer, passage)
        mean, scale = _vector(mean, first, n_units), _vector(scale, first, n_units)
    for i in range(n_rows):
        source, slope = _vector(_row(x, i), first, n_units), _vector(_row(delta, i), first, n_units)
        if kind == PRELU:
            for j in range(n_units):
                along[j] += slope[j] * (ZERO if source[j] > ZERO else source[j])
        elif kind == LAYER_NORM:
            m, s = means[i], scales[i]
            for j in range(n_units):
                sums[j] += slope[j]
                along[j] += slope[j] * ((source[j] - m) * s)
        else:
            for j in range(n_units):
                sums[j] += slope[j]
                along[j] += slope[j] * ((source[j] - mean[j]) * scale[j])
    return sums, along


@_inline
def _batch_moments(network, layer, x, first, last, follows, workspace):
    """Note mean and 1/√(v + ε) of some units over a batch; running ones may follow."""
    layers, settings, parameters = network
    n_rows, n_units = x.shape[0], last - first
    shares = _row_notes(layers, layer, 0, n_rows, workspace)
    mean = _vector(_unit_notes(layers, layer, 0, n_rows, workspace), first, n_units)
    variance = _vector(_unit_notes(layers, layer, 1, n_rows, workspace), first, n_units)
    _set(mean, ZERO)
    _set(variance, ZERO)
    for i in range(n_rows):
        source, share = _vector(_row(x, i), first, n_units), shares[i]
        for j in range(n_units):
            mean[j] += share * source[j]
    for i in range(n_rows):
        source, share = _vector(_row(x, i), first, n_units), shares[i]
        for j in range(n_units):
            distance = source[j] - mean[j]
            variance[j] += share * distance * distance
    if follows:
        means = _vector(_running_of(layers, layer, 0, parameters), first, n_units)
        variances = _vector(_running_of(layers, layer, 1, parameters), first, n_units)
        _follow(mean, variance, shares, settings[layer, NORM_MOMENTUM], means, variances)
    eps = x.dtype.type(settings[layer, NORM_EPS])
    for j in range(n_units):
        variance[j] = ONE / math.sqrt(variance[j] + eps)


@_inline
def _follow(mean, variance, shares, momentum, means, variances):
    """Move running moments towards those of a batch, unless it has no weight."""
    total, lost, real = 0.0, 0.0, mean.dtype.type
    for i in range(shares.size):
        total += np.float64(shares[i])
        lost += np.float64(shares[i]) * np.float64(shares[i])
    rate, unbias = real(momentum), real(1.0 / (1.0 - lost) if lost < 1.0 else 1.0)
    for j in range(mean.size if total != 0.0 else 0):
        means[j] += rate * (mean[j] - means[j])
        variances[j] += rate * (variance[j] * unbias - variances[j])


@_inner
def _meet_units(
    thread,
    n_threads,
    layers,
    settings,
    parameters,
    layer,
    upwards,
    follows,
    inputs,
    workspace,
):
    """Note the moments of a batch, or on the way back the sums of its δ, of a thread's units."""
    network, n_rows = (layers, settings, parameters), inputs.shape[0]
    first, last = _units_of_thread(layers[layer, N_OUT], thread, n_threads)
    x = _input_of(layers, layer, inputs, workspace)
    if upwards:
        _batch_moments(network, layer, x, first, last, follows, workspace)
        return
    delta = _delta_of(layers, layer, n_rows, workspace)
    panel = _panel_of(thread, n_threads, layers, n_rows, workspace)
    passage = _whole(n_rows, workspace, panel)
    sums, along = _sums_over_rows(network, layer, x, delta, first, last, passage)
    _copy(sums, _vector(_unit_notes(layers, layer, 2, n_rows, workspace), first, sums.size))
    _copy(along, _vector(_unit_notes(layers, layer, 3, n_rows, workspace), first, sums.size))


@_inline
def _unit_gradient(thread, n_threads, network, layer, x, delta, workspace):
    """Return a thread's first unit, and the derivatives by its weights and biases (BP4, BP3)."""
    layers, n_units = network[0], x.shape[1]
    first, last = _units_of_thread(n_units, thread, n_threads)
    shared = layers[layer, WEIGHT_COLUMNS] < n_units
    if shared:  # by one thread, all units
        first, last = 0, n_units if thread == 0 else 0
    if layers[layer, WEIGHT_ROWS] == 0:
        last = first
    panel = _panel_of(thread, n_threads, layers, x.shape[0], workspace)
    passage = _whole(x.shape[0], workspace, panel)
    sums, along = _sums_over_rows(network, layer, x, delta, first, last, passage)
    if shared and last > first:
        for j in range(1, n_units):
            along[0] += along[j]
        along = _vector(along, 0, 1)
    return first, along, sums


# --- Network: the layers in sequence ------------------------------------------------------
# Forward, loss and BP2 need only a sample's own row, so each thread takes its rows through
# all layers; the update (BP3, BP4) sums over rows, so each thread takes its blocks of every
# layer's weight. A forward pass opens one parallel region, a training step two.
#
# A sweep has stages: −1 gathers the batch, ℓ runs layer ℓ forward, the last one to the loss,
# 2 top + 1 − ℓ carries δ below layer ℓ. Where a layer takes statistics of the batch, its
# stages wait for all threads.


@_inline
def _is_plain(layers, layer):
    """Return whether a layer may have an activation: it is dense or elementwise."""
    return layers[layer, KIND] <= ELEMENTWISE


@_inline
def _run_dense(layers, settings, parameters, layer, activation, x, out):
    """Run a dense layer, or for IDENTITY its z only."""
    weight, bias = _weight_of(layers, layer, parameters), _bias_of(layers, layer, parameters)
    in_tiles, alpha = _part_in_tiles(activation), settings[layer, ALPHA]
    _forward(FIRST_THREAD, ONE_THREAD, x, weight, bias, in_tiles, alpha, out)
    if in_tiles != activation:
        _activate(out, activation, alpha)


@_inline
def _run_plain(layers, settings, parameters, layer, activation, x, out):
    """Run a dense or elementwise layer, or for IDENTITY its z only."""
    if layers[layer, KIND] == DENSE:
        _run_dense(layers, settings, parameters, layer, activation, x, out)
    else:
        _copy_rows(x, out)
        _activate(out, activation, settings[layer, ALPHA])


@_inline
def _run_layer(layers, settings, parameters, layer, activation, x, out, passage):
    """Run a layer."""
    if _is_plain(layers, layer):
        _run_plain(layers, settings, parameters, layer, activation, x, out)
    else:
        _forward_units((layers, settings, parameters), layer, x, passage, out)


@_inner
def _forward_blocks(thread, n_threads, layers, settings, parameters, x, out, workspace):
    """Run a thread's blocks of rows through all layers; two buffers take turns."""
    n_samples, last_layer = out.shape[0], layers.shape[0] - 1
    widest = 0
    for layer in range(last_layer + 1):
        widest = max(widest, layers[layer, N_OUT])
    stride = row_stride(widest, workspace.itemsize)
    buffer_size = min(n_samples, ROW_BLOCK) * stride
    panel = _vector(workspace, 2 * n_threads * buffer_size + thread * widest, widest)
    n_blocks = -(-n_samples // (ROW_BLOCK * n_threads)) * n_threads
    for block in range(thread, n_blocks, n_threads):
        first, last = n_samples * block // n_blocks, n_samples * (block + 1) // n_blocks
        below, passage = (
            _rows_between(x, first, last),
            (first, FIRST_THREAD, FIRST_THREAD, workspace, panel),
        )
        for layer in range(last_layer + 1):
            start, n_out = (2 * thread + layer % 2) * buffer_size, layers[layer, N_OUT]
            above = _rows_between(out, first, last)
            if layer < last_layer:
                above = _matrix(workspace, start, last - first, n_out, stride)
            activation = layers[layer, ACTIVATION]
            _run_layer(layers, settings, parameters, layer, activation, below, above, passage)
            below = above


@_inner
def _sweep_rows(
    thread,
    n_threads,
    layers,
    settings,
    parameters,
    x,
    target,
    labels,
    sample_weight,
    order,
    loss,
    loss_parameters,
    inputs,
    visit,
    start,
    stop,
    workspace,
):
    """Take a thread's rows through the stages from `start` to before `stop`."""
    n_rows, top = inputs.shape[0], layers.shape[0] - 1
    first, last = n_rows * thread // n_threads, n_rows * (thread + 1) // n_threads
    panel = _panel_of(thread, n_threads, layers, n_rows, workspace)
    network, passage = (layers, settings, parameters), (first, visit, n_rows, workspace, panel)
    for i in range(first, last if order.size and start < 0 else first):
        _copy(_row(x, order[i]), _row(inputs, i))
    lowest = max(start, 0)
    below = _rows_between(_input_of(layers, min(lowest, top), inputs, workspace), first, last)
    for layer in range(lowest, min(stop, top + 1)):
        output = _activation_of(layers, layer, n_rows, workspace)
        slopes = _delta_of(layers, layer, n_rows, workspace)
        above, delta = _rows_between(output, first, last), _rows_between(slopes, first, last)
        activation, alpha = layers[layer, ACTIVATION], settings[layer, ALPHA]
        if not _is_plain(layers, layer):
            _forward_units(network, layer, below, passage, above)
        elif _takes_z(activation) and layer < top:  # z stays in the place of δ until δ comes
            _run_plain(layers, settings, parameters, layer, LINEAR, below, delta)
            _copy_rows(delta, above)
            _activate(above, activation, alpha)
        else:
            _run_plain(layers, settings, parameters, layer, activation, below, above)
        if layer == top:
            objective = order, loss, loss_parameters
            losses = _losses_of(layers, n_rows, workspace)
            _losses(first, last, output, target, labels, *objective, losses)
            _loss_gradients(first, last, output, target, labels, sample_weight, *objective, slopes)
            if _takes_z(activation):  # y has given its loss: z takes its place
                _run_plain(layers, settings, parameters, top, LINEAR, below, above)
            _apply_derivative(above, activation, alpha, delta)
        below = above
    for stage in range(max(start, top + 1), stop):
        layer = 2 * top + 1 - stage
        delta = _rows_between(_delta_of(layers, layer, n_rows, workspace), first, last)
        out = _rows_between(_delta_of(layers, layer - 1, n_rows, workspace), first, last)
        y = _rows_between(_activation_of(layers, layer - 1, n_rows, workspace), first, last)
        activation, alpha = layers[layer - 1, ACTIVATION], settings[layer - 1, ALPHA]
        known = out if _takes_z(activation) else y
        if layers[layer, KIND] == DENSE:
            weight, rule = _weight_of(layers, layer, parameters), (activation, alpha)
            _backward_input(
                FIRST_THREAD, ONE_THREAD, delta, weight, known, *rule, out, panel, n_rows
            )
        else:  # by strips, since `out` may be `known`
            for i in range(0, last - first, TILE_ROWS):
                i_end, n_units = min(i + TILE_ROWS, last - first), y.shape[1]
                grad = _matrix(panel, n_units, i_end - i, n_units, n_units)
                rows = _rows_between(y, i, i_end), _rows_between(delta, i, i_end)
                _carry_units(network, layer, rows[0], rows[1], first + i, passage, grad)
                _apply_derivative(_rows_between(known, i, i_end), activation, alpha, grad)
                _copy_rows(grad, _rows_between(out, i, i_end))


@_inner
def _update_layers(
    thread,
    n_threads,
    layers,
    settings,
    parameters,
    updated,
    state,
    optimizer,
    coefficients,
    averaging,
    inputs,
    workspace,
):
    """Apply a thread's blocks of the gradient to the arena `updated`."""
    n_rows, below, network = inputs.shape[0], inputs, (layers, settings, parameters)
    for layer in range(layers.shape[0]):
        delta, place = _delta_of(layers, layer, n_rows, workspace), _row(layers, layer)
        rule = optimizer, coefficients, averaging
        if place[KIND] == DENSE:
            weight = _weight_of(layers, layer, updated)
            bias = _vector(updated, place[BIAS], place[BIASES])
            _backward_weight(thread, n_threads, below, delta, weight, bias, state, place, *rule)
        else:
            first, slopes, sums = _unit_gradient(
                thread, n_threads, network, layer, below, delta, workspace
            )
            n_units = slopes.size
            start, grad = place[WEIGHT] + first, _as_matrix(slopes)
            theta = _matrix(updated, start, 1, n_units, n_units)
            _update_rows(theta, grad, state, start, 0, *rule)
            if place[BIASES] > 0:
                start, grad = place[BIAS] + first, _as_matrix(sums)
                theta = _matrix(updated, start, 1, n_units, n_units)
                _update_rows(theta, grad, state, start, 0, *rule)
        below = _activation_of(layers, layer, n_rows, workspace)


@_inner(fastmath={"reassoc", "contract", "nsz"})
def _descend_row(theta, delta, factor, scalars):
    """Return a row of W times δ, and take a step of gradient descent with a row of x δᵀ."""
    total = theta.dtype.type(0)
    for j in range(theta.size):
        total += theta[j] * delta[j]
        theta[j] = _sgd(theta[j], factor * delta[j], scalars)
    return total


@_inner
def _descend(layers, settings, parameters, state, optimizer, coefficients, averaging, x, workspace):
    """Take a step of gradient descent on the way of one sample's δ to the first layer (BP2–BP4).

    W is read once and written once.
    """
    real, rule = parameters.dtype.type, (optimizer, coefficients, averaging)
    scalars = real(coefficients[0]), real(coefficients[1])
    panel = _panels_of(layers, 1, workspace)
    for layer in range(layers.shape[0] - 1, -1, -1):
        deltas, place = _delta_of(layers, layer, 1, workspace), _row(layers, layer)
        weight, delta = _weight_of(layers, layer, parameters), _row(deltas, 0)
        if layer == 0:
            _update_weight(0, weight.shape[0], x, deltas, weight, state, place, *rule)
        else:
            activation, alpha = layers[layer - 1, ACTIVATION], settings[layer - 1, ALPHA]
            y = _activation_of(layers, layer - 1, 1, workspace)
            out = _delta_of(layers, layer - 1, 1, workspace)
            known, inputs = out if _takes_z(activation) else y, _row(y, 0)
            grads = _matrix(panel, 0, 1, inputs.size, inputs.size)  # `out` may be `known`
            grad, leaves = _row(grads, 0), _is_off_at_zero(activation) and _leaves(delta, scalars)
            for k in range(inputs.size):
                grad[k] = ZERO
                if not (leaves and inputs[k] == ZERO):
                    grad[k] = _descend_row(_row(weight, k), delta, inputs[k], scalars)
            _apply_derivative(known, activation, alpha, grads)
            _copy_rows(grads, out)
        _update_bias(deltas, _vector(parameters, place[BIAS], place[BIASES]), state, place, *rule)


# The rows of every layer, the bias being its last one, are cut into NORM_PARTS parts, whatever
# the number of threads. A thread clips, and then applies, the gradient in every n-th of them.


@_inline
def _rows_of_part(layers, layer, part):
    """Return the first and the last row of a layer in a part."""
    n_rows = layers[layer, WEIGHT_ROWS] + (layers[layer, BIASES] > 0)
    return n_rows * part // NORM_PARTS, n_rows * (part + 1) // NORM_PARTS


@_inner
def _clip_parts(thread, n_threads, layers, grad, clip_value, norms):
    """Limit the entries of a thread's parts of the gradient, and compute their norms."""
    limit = grad.dtype.type(clip_value)
    for part in range(thread, NORM_PARTS, n_threads):
        total = 0.0
        for layer in range(layers.shape[0]):
            first, last = _rows_of_part(layers, layer, part)
            for row in range(first, last):
                start = layers[layer, WEIGHT] + row * layers[layer, STRIDE]
                total += _clip_row(_vector(grad, start, layers[layer, WEIGHT_COLUMNS]), limit)
        norms[part] = math.sqrt(total)


@_inner
def _update_parts(
    thread, n_threads, layers, grad, scale, parameters, state, optimizer, coefficients, averaging
):
    """Scale a thread's parts of the gradient and update with them."""
    scale = grad.dtype.type(scale)
    for part in range(thread, NORM_PARTS, n_threads):
        for layer in range(layers.shape[0]):
            (first, last), stride = _rows_of_part(layers, layer, part), layers[layer, STRIDE]
            start = layers[layer, WEIGHT] + first * stride
            shape = last - first, layers[layer, WEIGHT_COLUMNS], stride
            slopes, theta = _matrix(grad, start, *shape), _matrix(parameters, start, *shape)
            for r in range(slopes.shape[0] if scale != ONE else 0):
                slope = _row(slopes, r)
                for e in range(slope.size):
                    slope[e] *= scale
            rule = optimizer, coefficients, averaging
            _update_rows(theta, slopes, state, start, stride, *rule)


_share_blocks = _threaded(_forward_blocks)
_share_sweep = _threaded(_sweep_rows)
_share_meeting = _threaded(_meet_units)
_share_layers = _threaded(_update_layers)
_share_clipping = _threaded(_clip_parts)
_share_clipped = _threaded(_update_parts)


@_inline
def _forward_network(network, x, out, workspace, n_threads):
    n_useful = _useful_threads(n_threads, out.shape[0] * network[2].size)
    _share_blocks(n_useful, (*network, x, out, workspace))


@_inline
def _meet(network, data, order, layer, upwards, follows, inputs, workspace, n_threads):
    """Note what a layer takes from the batch as a whole."""
    layers, sample_weight, n_rows = network[0], data[3], inputs.shape[0]
    if upwards:
        scale = _share_scale(sample_weight, order, n_rows)
        shares = _row_notes(layers, layer, 0, n_rows, workspace)
        for i in range(n_rows):
            shares[i] = _share(sample_weight, order, i, scale)
    work = n_rows * layers[layer, N_OUT] * PRODUCTS_OF_A_MEETING
    n_useful = _useful_threads(n_threads, work)
    _share_meeting(n_useful, (*network, layer, upwards, follows, inputs, workspace))


@_inline
def _sweep(network, data, order, objective, workspace, n_threads, stop, visit, follows):
    """Take a batch through the stages before `stop`; return its inputs."""
    layers, top, stage = network[0], network[0].shape[0] - 1, GATHERING
    inputs = _activation_of(layers, -1, order.size, workspace) if order.size else data[0]
    n_useful = min(n_threads, max(1, inputs.shape[0]))
    while stage < stop:
        start, stage = stage, stage + 1
        while stage < stop and layers[_layer_at(stage, top), KIND] != BATCH_NORM_TRAINING:
            stage += 1
        stages = visit, start, stage, workspace
        _share_sweep(n_useful, (*network, *data, order, *objective, inputs, *stages))
        if stage < stop:
            layer, upwards = _layer_at(stage, top), stage <= top
            _meet(network, data, order, layer, upwards, follows, inputs, workspace, n_threads)
    return inputs


@_inline
def _layer_at(stage, top):
    return stage if stage <= top else 2 * top + 1 - stage


@_inline
def _meets(layers):
    """Return whether a sample's output depends on the others of its batch."""
    meets = False
    for layer in range(layers.shape[0]):
        meets |= layers[layer, KIND] == BATCH_NORM_TRAINING
    return meets


@_inline
def _is_dense(layers):
    """Return whether there is no other layer than dense ones."""
    others = False
    for layer in range(layers.shape[0]):
        others |= layers[layer, KIND] != DENSE
    return not others


@_inner
def _forward_meeting(network, data, workspace):
    """Run a batch forward where layers take statistics of it."""
    (layers, settings, parameters), below = network, data[0]
    n_rows, no_order = below.shape[0], _as_vector(NO_INDICES)
    passage = _whole(n_rows, workspace, _panels_of(layers, n_rows, workspace))
    for layer in range(layers.shape[0]):
        if layers[layer, KIND] == BATCH_NORM_TRAINING:
            _meet(network, data, no_order, layer, True, False, data[0], workspace, ONE_THREAD)
        above, activation = (
            _activation_of(layers, layer, n_rows, workspace),
            layers[layer, ACTIVATION],
        )
        _run_layer(layers, settings, parameters, layer, activation, below, above, passage)
        below = above


@_inline
def _sweep_once(network, data, objective, workspace, n_threads):
    """Compute the losses and the δ of rows as they lie; return these."""
    stop, no_order = 2 * network[0].shape[0] - 1, _as_vector(NO_INDICES)
    visit, follows = FIRST_THREAD, False
    return _sweep(network, data, no_order, objective, workspace, n_threads, stop, visit, follows)


@_inner
def _penalty(network):
    """Return what all penalised weights add to the loss."""
    layers, settings, parameters = network
    total = 0.0
    for layer in range(layers.shape[0]):
        absolute, square = settings[layer, L1], settings[layer, L2] / 2.0
        for row in range(layers[layer, PENALIZED]):
            start = layers[layer, WEIGHT] + row * layers[layer, STRIDE]
            for weight in _vector(parameters, start, layers[layer, WEIGHT_COLUMNS]):
                w = np.float64(weight)
                total += absolute * abs(w) + square * w * w
    return total


@_inner
def _penalize(network, grad):
    """Add the derivatives of the penalties to a gradient."""
    layers, settings, parameters = network
    real = grad.dtype.type
    for layer in range(layers.shape[0]):
        absolute, square = real(settings[layer, L1]), real(settings[layer, L2])
        for row in range(layers[layer, PENALIZED]):
            start = layers[layer, WEIGHT] + row * layers[layer, STRIDE]
            weight = _vector(parameters, start, layers[layer, WEIGHT_COLUMNS])
            slope = _vector(grad, start, weight.size)
            for j in range(weight.size):
                slope[j] += absolute * _sign(weight[j]) + square * weight[j]


@_inner
def _risk(network, data, objective, workspace, n_threads):
    """Return the mean loss of a batch."""
    layers, (x, target, labels, sample_weight) = network[0], data
    n_rows, no_order = x.shape[0], _as_vector(NO_INDICES)
    losses = _losses_of(layers, n_rows, workspace)
    output = _activation_of(layers, layers.shape[0] - 1, n_rows, workspace)
    panels = _panels_of(layers, n_rows, workspace)
    if _meets(layers):
        _forward_meeting(network, data, workspace)
    else:
        _forward_network(network, x, output, panels, n_threads)
    _losses(0, n_rows, output, target, labels, no_order, *objective, losses)
    return _mean(losses, sample_weight, no_order) + _penalty(network)


@_inline
def _storing(grad):
    """Return the rule that stores a gradient in an arena."""
    no_numbers = _as_vector(NO_COEFFICIENTS)
    return grad, _matrix(grad, 0, 0, 0, 0), np.int64(STORE), no_numbers, no_numbers


@_inner
def _clip(layers, clip_value, clip_norm, grad, norms, n_useful):
    """Limit the entries of a gradient; return the factor that limits its norm."""
    _share_clipping(n_useful, (layers, grad, clip_value, norms))
    total = 0.0
    for part in range(NORM_PARTS):
        total += np.float64(norms[part]) * np.float64(norms[part])
    norm = math.sqrt(total)
    return clip_norm / norm if norm > clip_norm else 1.0


# --- Network kernels ----------------------------------------------------------------------


@_inline
def _network(layers, settings, parameters):
    return _as_matrix(layers), _as_matrix(settings), _as_vector(parameters)


@_inline
def _data(x, target, labels, sample_weight):
    weights = _as_vector(sample_weight)
    return _as_matrix(x), _as_matrix(target), _as_vector(labels), weights


@_kernel
def network_forward(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Run the whole network forward: aˡ = σ(Wˡaˡ⁻¹ + bˡ) for every layer."""
    _forward_network(
        _network(layers, settings, parameters), _as_matrix(x), out, workspace, n_threads
    )


@_kernel
def network_loss(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Return the mean loss of a batch, Σᵢ wᵢ Lᵢ / Σw: the empirical risk."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    return _risk(network, data, (loss, _as_vector(loss_parameters)), workspace, n_threads)


@_kernel
def network_gradient(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    grad: OutVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Return the mean loss of a batch and store its gradient: backpropagation, BP1–BP4."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    objective = loss, _as_vector(loss_parameters)
    n_useful = _useful_threads(n_threads, x.shape[0] * parameters.size)
    inputs = _sweep_once(network, data, objective, workspace, n_useful)
    _share_layers(n_useful, (*network, *_storing(grad), inputs, workspace))
    _penalize(network, grad)
    losses = _losses_of(network[0], x.shape[0], workspace)
    return _mean(losses, data[3], _as_vector(NO_INDICES)) + _penalty(network)


@_kernel
def network_difference_gradient(
    layers: IntTable,
    settings: RealTable,
    parameters: OutVector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    indices: IntVector,
    steps: Vector,
    central: Bool,
    out: OutRealVector,
    workspace: OutVector,
):
    """Estimate ∂L/∂θ by finite differences, one or two forward passes for each weight."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    objective = loss, _as_vector(loss_parameters)
    here = 0.0 if central else _risk(network, data, objective, workspace, ONE_THREAD)
    for position in range(indices.size):
        index, step = indices[position], steps[position]
        value = below = parameters[index]
        above = value + step
        parameters[index] = above
        loss_above, loss_below = _risk(network, data, objective, workspace, ONE_THREAD), here
        if central:
            below = value - step
            parameters[index] = below
            loss_below = _risk(network, data, objective, workspace, ONE_THREAD)
        parameters[index] = value
        out[position] = (loss_above - loss_below) / (np.float64(above) - np.float64(below))


@_kernel
def network_train(
    layers: IntTable,
    settings: RealTable,
    parameters: OutVector,
    state: OutMatrix,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    order: IntVector,
    batch_size: Int,
    loss: Int,
    loss_parameters: RealVector,
    optimizer: Int,
    coefficients: RealTable,
    averaging: RealVector,
    clip_value: Real,
    clip_norm: Real,
    grad: OutVector,
    losses: OutRealVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Run a sequence of mini-batch steps: gather, forward, loss, backward, update."""
    network = _network(layers, settings, parameters)
    data, no_averaging = _data(x, target, labels, sample_weight), averaging.size == 0
    objective, top = (loss, _as_vector(loss_parameters)), layers.shape[0] - 1
    descends = optimizer == SGD and no_averaging and not grad.size and _is_dense(layers)
    for step in range(losses.size):
        start = step * batch_size
        batch = _vector(order, start, min(batch_size, order.size - start))
        single = descends and batch.size == 1
        stop = top + 1 if single else 2 * top + 1
        n_useful = _useful_threads(n_threads, batch.size * parameters.size)
        inputs = _sweep(network, data, batch, objective, workspace, n_useful, stop, step, True)
        moves = _vector(averaging, 0, 0) if no_averaging else _vector(averaging, step, 1)
        rule = parameters, state, optimizer, _row(coefficients, step), moves
        losses[step] = _penalty(network)  # before weights change
        if grad.size:
            _share_layers(n_useful, (*network, *_storing(grad), inputs, workspace))
            _penalize(network, grad)
            norms = _panels_of(network[0], batch.size, workspace)
            scale = _clip(network[0], clip_value, clip_norm, grad, norms, n_useful)
            _share_clipped(n_useful, (network[0], grad, scale, *rule))
        elif single:
            _descend(*network[:2], *rule, inputs, workspace)
        else:
            _share_layers(n_useful, (*network, *rule, inputs, workspace))
        losses[step] += _mean(_losses_of(network[0], batch.size, workspace), data[3], batch)


# --- Other derivatives, on the same passes ------------------------------------------------


@_kernel
def network_input_gradient(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Return the mean loss of a batch and store its derivative by the inputs: δ¹·weightᵀ."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    n_rows, objective = x.shape[0], (loss, _as_vector(loss_parameters))
    n_useful = _useful_threads(n_threads, n_rows * parameters.size)
    _sweep_once(network, data, objective, workspace, n_useful)
    delta, panels = _delta_of(layers, 0, n_rows, workspace), _panels_of(layers, n_rows, workspace)
    if layers[0, KIND] == DENSE:
        weight = _as_matrix(_weight_of(layers, 0, parameters))
        n_useful = _useful_threads(n_threads, n_rows * weight.size)
        arguments = delta, weight, data[0], LINEAR, 0.0, out, panels, n_rows
        _share_backward_input(n_useful, arguments)
    else:
        passage = _whole(n_rows, workspace, panels)
        _carry_units(network, 0, data[0], delta, FIRST_THREAD, passage, out)
    losses = _losses_of(layers, n_rows, workspace)
    return _mean(losses, data[3], _as_vector(NO_INDICES)) + _penalty(network)


@_inner
def _jacobian_block(layers, settings, parameters, x, out, workspace):
    """Differentiate every output by every input, for some samples."""
    n_rows, top, itemsize = x.shape[0], layers.shape[0] - 1, workspace.itemsize
    n_out, buffers, widest = layers[top, N_OUT], 0, 0
    for layer in range(top + 1):
        stride = row_stride(layers[layer, N_OUT], itemsize)
        buffers, widest = buffers + n_rows * stride, max(widest, stride)
    n_seeds = n_rows * n_out
    place, below = 0, x
    for layer in range(top + 1):  # what σ' takes, y or z, is kept
        n_units, activation = layers[layer, N_OUT], layers[layer, ACTIVATION]
        stride = row_stride(n_units, itemsize)
        y = known = _matrix(workspace, place, n_rows, n_units, stride)
        if _takes_z(activation):
            y = _matrix(workspace, buffers + layer % 2 * n_seeds * widest, n_rows, n_units, stride)
            _run_dense(layers, settings, parameters, layer, LINEAR, below, known)
            _copy_rows(known, y)
            _activate(y, activation, settings[layer, ALPHA])
        else:
            _run_dense(layers, settings, parameters, layer, activation, below, y)
        place, below = place + n_rows * stride, y
    start = buffers + 2 * n_seeds * widest
    panel = _vector(workspace, start, workspace.size - start)
    delta = _matrix(workspace, buffers, n_seeds, n_out, widest)
    _clear(delta)
    for seed in range(n_seeds):
        delta[seed, seed % n_out] = ONE
    for layer in range(top, -1, -1):
        n_units = layers[layer, N_OUT]
        stride = row_stride(n_units, itemsize)
        place -= n_rows * stride
        for row in range(n_rows):  # the same y or z for each of the sample's rows
            known = _matrix(workspace, place + row * stride, n_out, n_units, 0)
            grad = _rows_between(delta, row * n_out, (row + 1) * n_out)
            _apply_derivative(known, layers[layer, ACTIVATION], settings[layer, ALPHA], grad)
        grad = out
        if layer > 0:
            start = buffers + (top - layer + 1) % 2 * n_seeds * widest
            grad = _matrix(workspace, start, n_seeds, layers[layer, N_IN], widest)
        weight = _weight_of(layers, layer, parameters)
        _backward_input(
            FIRST_THREAD, ONE_THREAD, delta, weight, grad, LINEAR, 0.0, grad, panel, n_seeds
        )
        delta = grad


@_inner
def _jacobian_blocks(thread, n_threads, layers, settings, parameters, x, out, workspace):
    """Differentiate a thread's blocks of samples."""
    n_samples, n_out = x.shape[0], layers[layers.shape[0] - 1, N_OUT]
    size = max(1, ROW_BLOCK // n_out)
    share = workspace.size // (n_threads * ROW_MULTIPLE) * ROW_MULTIPLE
    own = _vector(workspace, thread * share, share)
    for block in range(thread, -(-n_samples // size), n_threads):
        first, last = block * size, min(n_samples, (block + 1) * size)
        jacobians = _rows_between(out, first * n_out, last * n_out)
        _jacobian_block(layers, settings, parameters, _rows_between(x, first, last), jacobians, own)


_share_jacobians = _threaded(_jacobian_blocks)


@_kernel
def network_jacobian(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Differentiate every output by every input: ∂oⱼ/∂xₖ of each sample."""
    n_useful = _useful_threads(n_threads, out.shape[0] * parameters.size)
    network = _network(layers, settings, parameters)
    _share_jacobians(n_useful, (*network, _as_matrix(x), out, workspace))


@_inner
def _sample_gradients(
    thread,
    n_threads,
    layers,
    settings,
    parameters,
    x,
    target,
    labels,
    loss,
    loss_parameters,
    out,
    scratch,
):
    """Store the gradients of a thread's samples, each a batch of its own."""
    share = scratch.size // (n_threads * ROW_MULTIPLE) * ROW_MULTIPLE
    workspace = _vector(scratch, thread * share, share)
    no_order, no_weights = _as_vector(NO_INDICES), _vector(parameters, 0, 0)
    for i in range(thread, x.shape[0], n_threads):
        inputs = _rows_between(x, i, i + 1)
        row = target if labels.size else _rows_between(target, i, i + 1)
        label = _vector(labels, i, 1) if labels.size else labels
        sample = inputs, row, label, no_weights, no_order
        objective, network = (loss, loss_parameters, inputs), (layers, settings, parameters)
        stages = FIRST_THREAD, GATHERING, 2 * layers.shape[0] - 1
        _sweep_rows(FIRST_THREAD, ONE_THREAD, *network, *sample, *objective, *stages, workspace)
        rule = _storing(_row(out, i))
        _update_layers(FIRST_THREAD, ONE_THREAD, *network, *rule, inputs, workspace)


_share_samples = _threaded(_sample_gradients)


@_kernel
def network_sample_gradients(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Store the gradient of each sample's own loss, ∂Lᵢ/∂θ."""
    n_useful = _useful_threads(n_threads, x.shape[0] * parameters.size)
    network, data = _network(layers, settings, parameters), (_as_matrix(x), _as_matrix(target))
    objective = _as_vector(labels), loss, _as_vector(loss_parameters)
    _share_samples(n_useful, (*network, *data, *objective, out, workspace))


@_inline
def _squared_norm(a, delta, n_biases):
    """Return the square of a layer's part of the norm of a sample's gradient."""
    return _dot(delta, delta) * (_dot(a, a) + (ONE if n_biases > 0 else ZERO))


@_kernel
def network_gradient_norms(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Compute the norm of the gradient of each sample's own loss, without the gradient."""
    n_rows, network = x.shape[0], _network(layers, settings, parameters)
    data = _data(x, target, labels, _vector(parameters, 0, 0))
    objective = loss, _as_vector(loss_parameters)
    n_useful = _useful_threads(n_threads, n_rows * parameters.size)
    _sweep_once(network, data, objective, workspace, n_useful)
    for i in range(n_rows):
        a, squares = _row(data[0], i), parameters.dtype.type(0)
        for layer in range(layers.shape[0]):
            delta = _row(_delta_of(layers, layer, n_rows, workspace), i)
            squares += _squared_norm(a, delta, layers[layer, BIASES])
            a = _row(_activation_of(layers, layer, n_rows, workspace), i)
        # Each δ has the 1/n of the mean in it.
        out[i] = math.sqrt(squares) * parameters.dtype.type(n_rows)


@_kernel
def network_factors(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    inputs: OutMatrix,
    deltas: OutMatrix,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Return the mean loss of a batch and store the factors of its gradient, a and δ."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    n_rows, objective = x.shape[0], (loss, _as_vector(loss_parameters))
    n_useful = _useful_threads(n_threads, n_rows * parameters.size)
    a = _sweep_once(network, data, objective, workspace, n_useful)
    first_input = first_delta = 0
    for layer in range(layers.shape[0]):
        n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
        _copy_rows(a, _block(inputs, 0, n_rows, first_input, first_input + n_in))
        delta = _delta_of(layers, layer, n_rows, workspace)
        _copy_rows(delta, _block(deltas, 0, n_rows, first_delta, first_delta + n_out))
        a = _activation_of(layers, layer, n_rows, workspace)
        first_input, first_delta = first_input + n_in, first_delta + n_out
    return _mean(_losses_of(layers, n_rows, workspace), data[3], _as_vector(NO_INDICES))


@_kernel
def factor_norms(layers: IntTable, inputs: Matrix, deltas: Matrix, out: OutVector):
    """Compute the norm of each sample's part of a gradient from its factors."""
    for i in range(inputs.shape[0]):
        squares, first_input, first_delta = out.dtype.type(0), 0, 0
        for layer in range(layers.shape[0]):
            n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
            a = _vector(_row(inputs, i), first_input, n_in)
            delta = _vector(_row(deltas, i), first_delta, n_out)
            squares += _squared_norm(a, delta, layers[layer, BIASES])
            first_input, first_delta = first_input + n_in, first_delta + n_out
        out[i] = math.sqrt(squares)


# --- Finite differences that compute again only what a weight changes ---------------------
# The training workspace holds z of every layer where training has δ.


@_inner
def _store_passes(layers, settings, parameters, x, workspace):
    """Store z and a of every layer."""
    n_rows, below = x.shape[0], x
    for layer in range(layers.shape[0]):
        weight, bias = _weight_of(layers, layer, parameters), _bias_of(layers, layer, parameters)
        z = _delta_of(layers, layer, n_rows, workspace)
        a = _activation_of(layers, layer, n_rows, workspace)
        _forward(FIRST_THREAD, ONE_THREAD, below, weight, bias, LINEAR, 0.0, z)
        _copy_rows(z, a)
        _activate(a, layers[layer, ACTIVATION], settings[layer, ALPHA])
        below = a


@_inner
def _moved_unit(layers, settings, x, move, change, first, last, workspace, a):
    """Compute a of the unit whose weight has changed, for some samples; z if σ takes rows."""
    layer, source, unit = move
    n_rows = x.shape[0]
    z = _delta_of(layers, layer, n_rows, workspace)
    below = _activation_of(layers, layer - 1, n_rows, workspace) if layer > 0 else x
    column = _row(a, 0)
    for i in range(first, last):
        factor = below[i, source] if source < below.shape[1] else ONE
        column[i - first] = z[i, unit] + change * factor
    _activate(a, _part_in_tiles(layers[layer, ACTIVATION]), settings[layer, ALPHA])


@_inner
def _moved_outputs(layers, settings, parameters, n_rows, move, first, last, workspace, a):
    """Run the layers above a unit whose a has changed; two buffers take turns."""
    layer, _, unit = move
    top, column = layers.shape[0] - 1, _row(a, 0)
    index = min(layer + 1, top)
    buffers = _panels_of(layers, n_rows, workspace)
    size = buffers.size // (2 * ROW_MULTIPLE) * ROW_MULTIPLE
    old = _rows_between(_activation_of(layers, layer, n_rows, workspace), first, last)
    n_units, activation = layers[index, N_OUT], layers[index, ACTIVATION]
    out = _matrix(buffers, 0, last - first, n_units, row_stride(n_units, buffers.itemsize))
    if layer == top:
        takes_rows = _part_in_tiles(activation) != activation
        if takes_rows:
            old = _rows_between(_delta_of(layers, layer, n_rows, workspace), first, last)
        for i in range(last - first):
            _copy(_row(old, i), _row(out, i))
            out[i, unit] = column[i]
        if takes_rows:
            _activate(out, activation, 0.0)
        return out
    weight = _row(_weight_of(layers, index, parameters), unit)
    z = _rows_between(_delta_of(layers, index, n_rows, workspace), first, last)
    for i in range(last - first):
        source, sink, change = _row(z, i), _row(out, i), column[i] - old[i, unit]
        for j in range(sink.size):
            sink[j] = source[j] + change * weight[j]
    _activate(out, activation, settings[index, ALPHA])
    for index in range(layer + 2, top + 1):
        n_units = layers[index, N_OUT]
        stride = row_stride(n_units, buffers.itemsize)
        start = (index - layer + 1) % 2 * size
        above = _matrix(buffers, start, last - first, n_units, stride)
        activation = layers[index, ACTIVATION]
        _run_dense(layers, settings, parameters, index, activation, out, above)
        out = above
    return out


@_inner
def _moved_risk(layers, settings, parameters, data, objective, move, change, workspace):
    """Return the mean loss where one weight has changed."""
    x, target, labels, sample_weight = data
    n_rows, no_order = x.shape[0], _as_vector(NO_INDICES)
    losses = _losses_of(layers, n_rows, workspace)
    for first in range(0, n_rows, ROW_BLOCK):
        last = min(n_rows, first + ROW_BLOCK)
        a = _matrix(workspace, 0, 1, last - first, last - first)  # where none is gathered
        _moved_unit(layers, settings, x, move, change, first, last, workspace, a)
        output = _moved_outputs(
            layers, settings, parameters, n_rows, move, first, last, workspace, a
        )
        for i in range(first, last):
            row, label = _target_of(target, labels, no_order, i)
            losses[i] = _loss(_row(output, i - first), row, label, *objective)
    return _mean(losses, sample_weight, no_order)


@_kernel
def network_fair_difference_gradient(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    indices: IntVector,
    steps: Vector,
    central: Bool,
    out: OutRealVector,
    workspace: OutVector,
):
    """Estimate ∂L/∂θ by finite differences, computing again only what a weight changes."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    n_rows, top, here = x.shape[0], layers.shape[0] - 1, 0.0
    objective, no_order = (loss, _as_vector(loss_parameters)), _as_vector(NO_INDICES)
    _store_passes(*network, data[0], workspace)
    if not central:
        output = _activation_of(layers, top, n_rows, workspace)
        losses = _losses_of(layers, n_rows, workspace)
        _losses(0, n_rows, output, *data[1:3], no_order, *objective, losses)
        here = _mean(losses, data[3], no_order)
    for position in range(indices.size):
        index, step, layer = indices[position], steps[position], 0
        while layer < top and layers[layer + 1, WEIGHT] <= index:
            layer += 1
        place = index - layers[layer, WEIGHT]
        move = layer, place // layers[layer, STRIDE], place % layers[layer, STRIDE]
        arguments = data, objective, move
        value = below = parameters[index]
        above, loss_below = value + step, here
        loss_above = _moved_risk(*network, *arguments, above - value, workspace)
        if central:
            below = value - step
            loss_below = _moved_risk(*network, *arguments, below - value, workspace)
        out[position] = (loss_above - loss_below) / (np.float64(above) - np.float64(below))


# --- Hessian times vector -----------------------------------------------------------------
# R{f} is the derivative of f along the vector. The workspace holds, in this order: R{z},
# R{a}, R{δ} and z of every layer; ∂L/∂a and R{∂L/∂a} of one layer; the training workspace.


@_inner
def _outputs_size(layers, n_layers, n_rows, itemsize):
    """Return the elements of the outputs of the first layers."""
    size = 0
    for layer in range(n_layers):
        size += n_rows * row_stride(layers[layer, N_OUT], itemsize)
    return size


@_inner
def _rate_of(layers, kind, layer, n_rows, workspace):
    """Return the place of R{z} (kind 0), R{a} (1), R{δ} (2) or z (3) of a layer."""
    start = kind * _outputs_size(layers, layers.shape[0], n_rows, workspace.itemsize)
    start += _outputs_size(layers, layer, n_rows, workspace.itemsize)
    n_out = layers[layer, N_OUT]
    return _matrix(workspace, start, n_rows, n_out, row_stride(n_out, workspace.itemsize))


@_inline
def _add(matrix, to):
    for i in range(to.shape[0]):
        source, sink = _row(matrix, i), _row(to, i)
        for j in range(sink.size):
            sink[j] += source[j]


@_inline
def _kept_of(layers, layer, n_rows, rates, workspace):
    """Return what a layer's σ' and σ'' take, y or z."""
    if _takes_z(layers[layer, ACTIVATION]):
        return _rate_of(layers, 3, layer, n_rows, rates)
    return _activation_of(layers, layer, n_rows, workspace)


@_inner
def _keep_z(layers, settings, parameters, x, rates, workspace):
    """Compute z again where δ has taken its place; in the last layer, where z took y's, y."""
    n_rows, top, below = x.shape[0], layers.shape[0] - 1, x
    for layer in range(top + 1):
        y, activation = _activation_of(layers, layer, n_rows, workspace), layers[layer, ACTIVATION]
        if _takes_z(activation):
            z = _rate_of(layers, 3, layer, n_rows, rates)
            _run_dense(layers, settings, parameters, layer, LINEAR, below, z)
            if layer == top:
                _copy_rows(z, y)
                _activate(y, activation, settings[layer, ALPHA])
        below = y


@_inner
def _rates_forward(layers, settings, parameters, vector, x, rates, workspace):
    """Compute R{z} = W R{a} + V a + c and R{a} = σ'(z) R{z} of every layer."""
    n_rows, below = x.shape[0], x
    for layer in range(layers.shape[0]):
        step, bias = _weight_of(layers, layer, vector), _bias_of(layers, layer, vector)
        rate = _rate_of(layers, 0, layer, n_rows, rates)
        _forward(FIRST_THREAD, ONE_THREAD, below, step, bias, LINEAR, 0.0, rate)
        if layer > 0:
            weight = _weight_of(layers, layer, parameters)
            _multiply_add(_rate_of(layers, 1, layer - 1, n_rows, rates), weight, rate)
        below = _activation_of(layers, layer, n_rows, workspace)
        known = _kept_of(layers, layer, n_rows, rates, workspace)
        out = _rate_of(layers, 1, layer, n_rows, rates)
        _copy_rows(rate, out)
        _apply_derivative(known, layers[layer, ACTIVATION], settings[layer, ALPHA], out)


@_inline
def _carry(delta, weight, out, panel):
    """Store δ·weightᵀ."""
    n_rows = delta.shape[0]
    _backward_input(FIRST_THREAD, ONE_THREAD, delta, weight, out, LINEAR, 0.0, out, panel, n_rows)


@_inner
def _rates_backward(layers, settings, parameters, vector, grad, grad_rate, rates, workspace):
    """Compute R{δ} = R{∂L/∂a} ⊙ σ' + ∂L/∂a ⊙ σ'' ⊙ R{z}, from these of the last layer down."""
    n_rows = grad.shape[0]
    panel = _panels_of(layers, n_rows, workspace)
    for layer in range(layers.shape[0] - 1, -1, -1):
        n_in, n_out = layers[layer, N_IN], layers[layer, N_OUT]
        known = _kept_of(layers, layer, n_rows, rates, workspace)
        activation, alpha = layers[layer, ACTIVATION], settings[layer, ALPHA]
        top, top_rate = _block(grad, 0, n_rows, 0, n_out), _block(grad_rate, 0, n_rows, 0, n_out)
        delta_rate = _rate_of(layers, 2, layer, n_rows, rates)
        _copy_rows(top_rate, delta_rate)
        _apply_derivative(known, activation, alpha, delta_rate)
        _apply_second_derivative(known, activation, alpha, top)
        rate = _rate_of(layers, 0, layer, n_rows, rates)
        for i in range(n_rows):
            for j in range(n_out):
                delta_rate[i, j] += top[i, j] * rate[i, j]
        if layer == 0:
            return
        delta = _delta_of(layers, layer, n_rows, workspace)
        weight, step = _weight_of(layers, layer, parameters), _weight_of(layers, layer, vector)
        low, low_rate = _block(grad, 0, n_rows, 0, n_in), _block(grad_rate, 0, n_rows, 0, n_in)
        more = _rate_of(layers, 2, layer - 1, n_rows, rates)  # not in use yet
        _carry(delta, weight, low, panel)
        _carry(delta_rate, weight, low_rate, panel)
        _carry(delta, step, more, panel)
        _add(more, low_rate)


@_inner
def _store_products(layers, x, out, rates, workspace):
    """Store R{∂L/∂W} = Σ a R{δ} + R{a} δ and R{∂L/∂b} = Σ R{δ}."""
    n_rows, below = x.shape[0], x
    _, no_state, storing, no_numbers, no_moves = _storing(out)
    rule = no_state, _as_vector(NO_PLACE), storing, no_numbers, no_moves
    for layer in range(layers.shape[0]):
        weight, bias = _weight_of(layers, layer, out), _bias_of(layers, layer, out)
        delta_rate = _rate_of(layers, 2, layer, n_rows, rates)
        _backward_weight(FIRST_THREAD, ONE_THREAD, below, delta_rate, weight, bias, *rule)
        if layer > 0:
            rate = _rate_of(layers, 1, layer - 1, n_rows, rates)
            _multiply_add(rate.T, _delta_of(layers, layer, n_rows, workspace), weight)
        below = _activation_of(layers, layer, n_rows, workspace)


@_kernel
def network_hessian_product(
    layers: IntTable,
    settings: RealTable,
    parameters: Vector,
    vector: Vector,
    x: Matrix,
    target: Matrix,
    labels: IntVector,
    sample_weight: Vector,
    loss: Int,
    loss_parameters: RealVector,
    out: OutVector,
    workspace: OutVector,
    n_threads: Int = 1,
):
    """Multiply the Hessian of the mean loss by a vector: ∂²L/∂θ² · v."""
    network, data = _network(layers, settings, parameters), _data(x, target, labels, sample_weight)
    n_rows, top, direction = x.shape[0], layers.shape[0] - 1, _as_vector(vector)
    size = _outputs_size(layers, top + 1, n_rows, workspace.itemsize)
    widest = 0
    for layer in range(top + 1):
        widest = max(widest, row_stride(layers[layer, N_OUT], workspace.itemsize))
    grad = _matrix(workspace, 4 * size, n_rows, widest, widest)
    grad_rate = _matrix(workspace, 4 * size + n_rows * widest, n_rows, widest, widest)
    start = 4 * size + 2 * n_rows * widest
    training = _vector(workspace, start, workspace.size - start)
    objective, no_order = (loss, _as_vector(loss_parameters)), _as_vector(NO_INDICES)
    n_useful = _useful_threads(n_threads, n_rows * parameters.size)
    _sweep_once(network, data, objective, training, n_useful)
    _keep_z(*network, data[0], workspace, training)
    _rates_forward(*network, direction, data[0], workspace, training)
    output = _activation_of(layers, top, n_rows, training)
    scale = _share_scale(data[3], no_order, n_rows)
    output_rate = _rate_of(layers, 1, top, n_rows, workspace)
    for i in range(n_rows):
        o, r = _row(output, i), _row(output_rate, i)
        row, label = _target_of(data[1], data[2], no_order, i)
        share = parameters.dtype.type(_share(data[3], no_order, i, scale))
        slope, curved = _vector(_row(grad, i), 0, o.size), _vector(_row(grad_rate, i), 0, o.size)
        _loss_gradient(o, row, label, *objective, share, slope)
        _loss_curvature(o, row, label, *objective, share, r, curved)
    _rates_backward(*network, direction, grad, grad_rate, workspace, training)
    _store_products(layers, data[0], out, workspace, training)
