"""The kernels in Numba; :mod:`~fastmlp.kernels.reference` says what each one means.

:mod:`~fastmlp.kernels.numba_backend` loads this file twice: as a serial module, whose
kernels any ``@njit`` code may call, and as a parallel one. All compiled functions are
here, because Numba's disk cache does not see edits in other files.

Every output element is computed by one thread, in the order of the contraction, however
the work is split: so the bits are the same for any number of threads. Floating point is
strict, with two exceptions: the tile may fuse a product into its sum, and the dot product
of a single sample may be summed in the lanes of a vector.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from . import arena
from .catalogue import CODES, LAYER_COLUMNS

IDENTITY, RELU, LEAKY_RELU = CODES["IDENTITY"], CODES["RELU"], CODES["LEAKY_RELU"]
SIGMOID, TANH = CODES["SIGMOID"], CODES["TANH"]
QUADRATIC, MSE = CODES["QUADRATIC"], CODES["MSE"]
CROSS_ENTROPY, BINARY_CROSS_ENTROPY = CODES["CROSS_ENTROPY"], CODES["BINARY_CROSS_ENTROPY"]
SGD, MOMENTUM, ADAM = CODES["SGD"], CODES["MOMENTUM"], CODES["ADAM"]
N_IN, N_OUT, WEIGHT = CODES["N_IN"], CODES["N_OUT"], CODES["WEIGHT"]
STRIDE, BIAS, ACTIVATION = CODES["STRIDE"], CODES["BIAS"], CODES["ACTIVATION"]
PANEL_WIDTH, ROW_BLOCK = CODES["PANEL_WIDTH"], CODES["ROW_BLOCK"]

#: The update rule θ ← g, with which a gradient is stored rather than applied.
STORE = -1

# float32 constants leave float32 arithmetic in float32, which Python's numbers do not.
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
NO_COEFFICIENTS, NO_PLACE = np.empty(0), np.zeros(len(LAYER_COLUMNS), np.int64)

# A tile of 8 × 2 vectors needs the 32 registers of AVX-512; 4 × 2 fit into 16.
_FEATURES = binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
TILE_ROWS = 8 if VECTOR_BYTES == 64 else 4

#: Rows from which it pays to transpose the weight for BP2.
TRANSPOSE_ROWS = 16

#: Multiply-adds, and updates, that are worth one more thread.
PRODUCTS_OF_A_THREAD = 2**17
UPDATES_OF_A_THREAD = 2**14

_compile = functools.partial(njit, error_model="numpy", nogil=True)
_inner = _compile()
# Inlined before types are inferred: a function of its own costs 0.1 s of compilation.
_inline = _compile(inline="always")
PARALLEL = "_numba_parallel" in __name__
_inner_parallel = _compile(parallel=PARALLEL)

#: One thread, as a type of its own value would be compiled apart from other numbers.
ONE_THREAD = np.int64(1)


def _kernel(function):
    """Compile a public kernel, with the disk cache where a folder is writable."""
    # Numba names cache files by this file and the qualified name, the same in both modules.
    function.__qualname__ = f"{__name__.rpartition('.')[2]}.{function.__name__}"
    dispatcher = _inner(function)
    with contextlib.suppress(RuntimeError):
        dispatcher.enable_caching()
    return dispatcher


row_stride = _inner(arena.row_stride)


# --- Scalar functions: σ and grad · σ', L and ∂L/∂o, the update of one parameter ----------


@_inline
def _identity(z, alpha):
    return z


@_inline
def _identity_gradient(y, grad, alpha):
    return grad


@_inline
def _relu(z, alpha):
    return ZERO if z <= ZERO else z


@_inline
def _relu_gradient(y, grad, alpha):
    return grad if y > ZERO else ZERO


@_inline
def _leaky_relu(z, alpha):
    return z if z > ZERO else alpha * z


@_inline
def _leaky_relu_gradient(y, grad, alpha):
    return grad if y > ZERO else alpha * grad


@_inline
def _sigmoid(z, alpha):
    small = math.exp(-abs(z))
    return (small if z < ZERO else ONE) / (ONE + small)


@_inline
def _sigmoid_gradient(y, grad, alpha):
    return grad * (y * (ONE - y))


@_inline
def _tanh(z, alpha):
    return math.tanh(z)


@_inline
def _tanh_gradient(y, grad, alpha):
    return grad * (ONE - y * y)


class _Row(NamedTuple):
    """What a loss knows of a sample besides one output o and its target t."""

    n_out: float
    log_sum_exp: float
    total_target: float


@_inline
def _half_square(o, t, row):
    return HALF * ((o - t) * (o - t))


@_inline
def _half_square_slope(o, t, row):
    return o - t


@_inline
def _mean_square(o, t, row):
    return (o - t) * (o - t) / row.n_out


@_inline
def _mean_square_slope(o, t, row):
    return TWO / row.n_out * (o - t)


@_inline
def _cross_entropy(o, t, row):
    return t * (row.log_sum_exp - o) if t != ZERO else ZERO


@_inline
def _cross_entropy_slope(o, t, row):
    return row.total_target * math.exp(o - row.log_sum_exp) - t


@_inline
def _binary_cross_entropy(o, t, row):
    return (_relu(o, ZERO) - o * t + math.log1p(math.exp(-abs(o)))) / row.n_out


@_inline
def _binary_cross_entropy_slope(o, t, row):
    return (_sigmoid(o, ZERO) - t) / row.n_out


@_inline
def _sgd(theta, grad, scalars):
    learning_rate, decay = scalars
    return theta - learning_rate * (grad + decay * theta)


@_inline
def _momentum(theta, grad, velocity, scalars):
    learning_rate, decay, momentum = scalars
    velocity = momentum * velocity - learning_rate * (grad + decay * theta)
    return theta + velocity, velocity


@_inline
def _adam(theta, grad, first, second, scalars):
    learning_rate, decay, beta1, beta2, eps, correction1, correction2 = scalars
    grad = grad + decay * theta
    first = beta1 * first + (ONE - beta1) * grad
    second = beta2 * second + (ONE - beta2) * (grad * grad)
    change = learning_rate / correction1 * first / (math.sqrt(second / correction2) + eps)
    return theta - change, first, second


# --- Views: arrays of one type, whatever the layout of the caller's -----------------------


def _view(context, builder, array_type, data, shape, strides):
    """Emit an array that borrows `data`; Numba's own slices count references."""
    array = context.make_array(array_type)(context, builder)
    itemsize = context.get_constant(types.intp, array_type.dtype.bitwidth // 8)
    arrayobj.populate_array(array, data, shape, strides, itemsize, meminfo=None)
    return array._getvalue()


def _geometry(context, builder, array_type, value):
    """Emit the data pointer, the shape and the strides in bytes of an array."""
    array = context.make_array(array_type)(context, builder, value)
    shape, strides = (
        cgutils.unpack_tuple(builder, part, array_type.ndim)
        for part in (array.shape, array.strides)
    )
    return array.data, shape, strides


@intrinsic
def _rows(typing_context, array):
    """Return a matrix as a view with rows any distance apart; a vector as its one row."""
    result = types.Array(array.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        data, shape, strides = _geometry(context, builder, array, args[0])
        if array.ndim == 1:
            shape, strides = [context.get_constant(types.intp, 1), *shape], strides * 2
        return _view(context, builder, result, data, shape, strides)

    return result(array), codegen


@intrinsic
def _row(typing_context, matrix, i):
    """Return row i of a matrix as a vector known to be contiguous."""
    result = types.Array(matrix.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        data, shape, strides = _geometry(context, builder, matrix, args[0])
        start = cgutils.pointer_add(builder, data, builder.mul(args[1], strides[0]))
        itemsize = context.get_constant(types.intp, matrix.dtype.bitwidth // 8)
        return _view(context, builder, result, start, shape[1:], [itemsize])

    return result(matrix, types.intp), codegen


@intrinsic
def _matrix(typing_context, vector, start, n_rows, n_columns, stride):
    """Return a matrix whose first element is `start` and whose rows are `stride` apart."""
    result = types.Array(vector.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        data, _, _ = _geometry(context, builder, vector, args[0])
        itemsize = context.get_constant(types.intp, vector.dtype.bitwidth // 8)
        start, n_rows, n_columns, stride = args[1:]
        data = cgutils.pointer_add(builder, data, builder.mul(start, itemsize))
        strides = [builder.mul(stride, itemsize), itemsize]
        return _view(context, builder, result, data, [n_rows, n_columns], strides)

    return result(vector, *[types.intp] * 4), codegen


@intrinsic
def _stack_tile(typing_context, like):
    """Return a tile, TILE_ROWS × PANEL_WIDTH, on the stack of the calling function."""
    result = types.Array(like.dtype, 2, "A")

    def codegen(context, builder, signature, args):
        element = context.get_data_type(like.dtype)
        data = cgutils.alloca_once(builder, element, size=TILE_ROWS * PANEL_WIDTH)
        itemsize = like.dtype.bitwidth // 8
        shape, strides = (
            [context.get_constant(types.intp, value) for value in pair]
            for pair in ((TILE_ROWS, PANEL_WIDTH), (PANEL_WIDTH * itemsize, itemsize))
        )
        return _view(context, builder, result, data, shape, strides)

    return result(like), codegen


@_inline
def _vector(vector):
    """Return a vector as one type, read-only or not."""
    return _row(_rows(vector), 0)


@_inner
def _fill(vector, value):
    for i in range(vector.size):
        vector[i] = value


# Slices could be assigned, but for each Numba compiles the message of an error.
@_inner
def _copy(vector, out):
    for i in range(out.size):
        out[i] = vector[i]


# --- The register tile: all matrix products are made of it --------------------------------


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
    """Add a·b to n_rows × n_vectors vectors of c, held in registers meanwhile.

    LLVM's vectoriser cannot do this from loops: the arrays might overlap.
    """
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


def _strips(n_rows, n_vectors):
    """Make the function that adds a·b to c in strips of n_rows, from `start` on."""

    @_inner
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


@_compile(fastmath={"reassoc", "contract", "nsz"})
def _dot(u, v):
    total = u.dtype.type(0)
    for k in range(u.size):
        total += u[k] * v[k]
    return total


@_inner
def _multiply_transposed(a, b, c):
    """Store a·bᵀ in c, by dot products of rows."""
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            c[i, j] = _dot(_row(a, i), _row(b, j))


@_inner
def _transpose(a, out):
    for i in range(a.shape[0]):
        row = _row(a, i)
        for j in range(row.size):
            out[j, i] = row[j]


# --- Loops around the scalar functions ----------------------------------------------------


def _for_each(function):
    """Make the loop that applies a scalar function to every element of z."""

    @_inner
    def loop(arguments):
        z, alpha, out = arguments
        for i in range(out.shape[0]):
            z_row, out_row = _row(z, i), _row(out, i)
            for j in range(out_row.size):
                out_row[j] = function(z_row[j], alpha)

    return loop


def _for_each_gradient(function):
    """Make the loop that applies a scalar function to every element of y and grad."""

    @_inner
    def loop(arguments):
        y, grad, alpha, out = arguments
        for i in range(out.shape[0]):
            y_row, grad_row, out_row = _row(y, i), _row(grad, i), _row(out, i)
            for j in range(out_row.size):
                out_row[j] = function(y_row[j], grad_row[j], alpha)

    return loop


@_inner
def _log_sum_exp(row):
    """Return log Σ exp of a row, shifted by its maximum lest it overflow."""
    highest = row.dtype.type(-np.inf)
    for value in row:
        highest = value if value > highest else highest
    total = row.dtype.type(0)
    for value in row:
        total += math.exp(value - highest)
    return highest + math.log(total)


@_inline
def _target_of(target, labels, i, j):
    """Return t: an element of `target`, or of the one-hot row of a label."""
    if labels.size:
        return ONE if labels[i] == j else ZERO
    return target[i, j]


@_inner
def _describe_row(output, target, labels, i, on_logits):
    n_out = output.dtype.type(output.shape[1])
    log_sum_exp = total = output.dtype.type(0)
    if on_logits:
        log_sum_exp = _log_sum_exp(_row(output, i))
        for j in range(output.shape[1]):
            total += _target_of(target, labels, i, j)
    return _Row(n_out, log_sum_exp, total)


def _sum_losses(value, on_logits=False):
    """Make the loop that sums a scalar loss over the outputs of each sample."""

    @_inner
    def loop(arguments):
        output, target, labels, out = arguments
        for i in range(out.size):
            row, logits = _describe_row(output, target, labels, i, on_logits), _row(output, i)
            total = output.dtype.type(0)
            for j in range(logits.size):
                total += value(logits[j], _target_of(target, labels, i, j), row)
            out[i] = total

    return loop


def _share_slopes(slope, on_logits=False):
    """Make the loop that multiplies a scalar ∂L/∂o by the sample's share, wᵢ/Σw."""

    @_inner
    def loop(arguments):
        output, target, labels, sample_weight, out = arguments
        scale = _share_scale(sample_weight, output.shape[0])
        for i in range(out.shape[0]):
            row, logits = _describe_row(output, target, labels, i, on_logits), _row(output, i)
            share, out_row = output.dtype.type(_share(sample_weight, i, scale)), _row(out, i)
            for j in range(logits.size):
                value = slope(logits[j], _target_of(target, labels, i, j), row)
                out_row[j] = share * value if share != ZERO else ZERO

    return loop


@_inline
def _share_scale(sample_weight, n_samples):
    """Return 1 / Σw: 1 / n for no weights, 0 where they sum to 0."""
    total = 0.0 if sample_weight.size else float(n_samples)
    for weight in sample_weight:
        total += weight
    return 1.0 / total if total != 0.0 else 0.0


@_inline
def _share(sample_weight, i, scale):
    return sample_weight[i] * scale if sample_weight.size else scale


@_inline
def _mean(losses, sample_weight):
    """Return Σ wᵢ Lᵢ / Σw, in float64."""
    scale = _share_scale(sample_weight, losses.size)
    total = 0.0
    for i in range(losses.size):
        share = _share(sample_weight, i, scale)
        if share != 0.0:
            total += share * losses[i]
    return total


@_inner
def _update(theta, grad, state, position, optimizer, coefficients):
    """Update a run of parameters whose state begins at `position`."""
    real, c, run = theta.dtype.type, coefficients, slice(position, position + theta.size)
    if optimizer == STORE:
        _copy(grad, theta)
    elif optimizer == SGD:
        scalars = real(c[0]), real(c[1])
        for e in range(theta.size):
            theta[e] = _sgd(theta[e], grad[e], scalars)
    elif optimizer == MOMENTUM:
        scalars = real(c[0]), real(c[1]), real(c[2])
        v = _row(state, 0)[run]
        for e in range(theta.size):
            theta[e], v[e] = _momentum(theta[e], grad[e], v[e], scalars)
    elif optimizer == ADAM:
        scalars = real(c[0]), real(c[1]), real(c[2]), real(c[3]), real(c[4]), real(c[5]), real(c[6])
        m, v = _row(state, 0)[run], _row(state, 1)[run]
        for e in range(theta.size):
            theta[e], m[e], v[e] = _adam(theta[e], grad[e], m[e], v[e], scalars)


# --- Tables: the codes' scalar functions -------------------------------------------------

ACTIVATION_PAIRS = {
    IDENTITY: (_identity, _identity_gradient),
    RELU: (_relu, _relu_gradient),
    LEAKY_RELU: (_leaky_relu, _leaky_relu_gradient),
    SIGMOID: (_sigmoid, _sigmoid_gradient),
    TANH: (_tanh, _tanh_gradient),
}

LOSS_PAIRS = {
    QUADRATIC: (_half_square, _half_square_slope),
    MSE: (_mean_square, _mean_square_slope),
    CROSS_ENTROPY: (_cross_entropy, _cross_entropy_slope),
    BINARY_CROSS_ENTROPY: (_binary_cross_entropy, _binary_cross_entropy_slope),
}


def _branch(code, loop, otherwise):
    """Make the function that calls `loop` for a code, else `otherwise`."""

    @_inline
    def branch(chosen, arguments):
        if chosen == code:
            loop(arguments)
        else:
            otherwise(chosen, arguments)

    return branch


def _dispatch(loops):
    """Make the function that calls the loop of a code with a tuple of arguments."""
    chain = _inline(lambda chosen, arguments: None)
    for code, loop in loops.items():
        chain = _branch(code, loop, chain)
    return chain


_apply = _dispatch({code: _for_each(f) for code, (f, _) in ACTIVATION_PAIRS.items()})
_apply_gradient = _dispatch(
    {code: _for_each_gradient(f) for code, (_, f) in ACTIVATION_PAIRS.items()}
)
_apply_loss = _dispatch(
    {code: _sum_losses(f, code == CROSS_ENTROPY) for code, (f, _) in LOSS_PAIRS.items()}
)
_apply_slope = _dispatch(
    {code: _share_slopes(f, code == CROSS_ENTROPY) for code, (_, f) in LOSS_PAIRS.items()}
)


@_inline
def _activate(z, activation, alpha, out):
    """Apply σ to every element."""
    _apply(activation, (z, z.dtype.type(alpha), out))


@_inline
def _activate_gradient(y, grad, activation, alpha, out):
    """Multiply every element of a gradient by σ'."""
    _apply_gradient(activation, (y, grad, y.dtype.type(alpha), out))


@_inline
def _losses(output, target, labels, loss, out):
    """Compute the loss of each sample."""
    _apply_loss(loss, (output, target, labels, out))


@_inline
def _slopes(output, target, labels, sample_weight, loss, out):
    """Differentiate the mean loss by the outputs; `out` may be `target` itself."""
    _apply_slope(loss, (output, target, labels, sample_weight, out))


# --- Layers: the output is cut into tiles, and thread t takes every n-th from t on --------


def _threaded(run_share):
    """Make the function that has each thread run its share of the work.

    `work` is measured in shares that are worth a thread.
    """

    @_inner_parallel
    def run(n_threads, work, arguments):
        n_useful = max(1, min(n_threads, work))
        if PARALLEL and n_useful > 1:
            for thread in prange(n_useful):
                run_share(thread, n_useful, *arguments)
        else:
            for thread in range(n_useful):
                run_share(thread, n_useful, *arguments)

    return run


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
def _forward_tiles(thread, n_threads, x, weight, bias, activation, alpha, out):
    # With few rows nothing is reused, and short runs of each row would cost time.
    width = PANEL_WIDTH if out.shape[0] >= TILE_ROWS else 8 * PANEL_WIDTH
    for tile in range(thread, _tile_count(out.shape, width), n_threads):
        i, i_end, j, j_end = _tile_bounds(out.shape, width, tile)
        z = out[i:i_end, j:j_end]
        for r in range(i_end - i):
            _copy(bias[j:j_end], _row(z, r))
        _multiply_add(x[i:i_end], weight[:, j:j_end], z)
        _activate(z, activation, alpha, z)


_share_forward = _threaded(_forward_tiles)


@_inline
def _forward(x, weight, bias, activation, alpha, out, n_threads):
    """Run one dense layer: a = σ(x·weight + bias)."""
    work = out.size * weight.shape[0] // PRODUCTS_OF_A_THREAD
    _share_forward(n_threads, work, (x, weight, bias, activation, alpha, out))


@_inner
def _input_tiles(thread, n_threads, delta, weight, y, activation, alpha, out, workspace):
    n_out = weight.shape[1]
    for tile in range(thread, _tile_count(out.shape, PANEL_WIDTH), n_threads):
        i, i_end, j, j_end = _tile_bounds(out.shape, PANEL_WIDTH, tile)
        grad = out[i:i_end, j:j_end]
        if i_end - i < TRANSPOSE_ROWS:
            _multiply_transposed(delta[i:i_end], weight[j:j_end], grad)
        else:
            panel = _matrix(workspace, thread * n_out * PANEL_WIDTH, n_out, j_end - j, PANEL_WIDTH)
            _transpose(weight[j:j_end], panel)
            for r in range(i_end - i):
                _fill(_row(grad, r), ZERO)
            _multiply_add(delta[i:i_end], panel, grad)
        _activate_gradient(y[i:i_end, j:j_end], grad, activation, alpha, grad)


_share_backward_input = _threaded(_input_tiles)


@_inline
def _backward_input(delta, weight, y, activation, alpha, out, workspace, n_threads):
    """Carry δ down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    work = out.size * weight.shape[1] // PRODUCTS_OF_A_THREAD
    arguments = delta, weight, y, activation, alpha, out, workspace
    _share_backward_input(n_threads, work, arguments)


@_inner
def _weight_tiles(thread, n_threads, x, delta, weight, bias, state, place, optimizer, coefficients):
    block = _stack_tile(weight)
    for tile in range(thread, _tile_count(weight.shape, PANEL_WIDTH), n_threads):
        i, i_end, j, j_end = _tile_bounds(weight.shape, PANEL_WIDTH, tile)
        delta_tile = delta[:, j:j_end]
        for first in range(i, i_end, TILE_ROWS):
            last = min(first + TILE_ROWS, i_end)
            grad = block[: last - first, : j_end - j]
            for r in range(last - first):
                _fill(_row(grad, r), ZERO)
            _multiply_add(x[:, first:last].T, delta_tile, grad)
            for r in range(first, last):
                theta, position = _row(weight, r)[j:j_end], place[WEIGHT] + r * place[STRIDE] + j
                _update(theta, _row(grad, r - first), state, position, optimizer, coefficients)
        if i == 0:
            grad_bias = _row(block, 0)[: j_end - j]
            _fill(grad_bias, ZERO)
            for k in range(delta.shape[0]):
                row = _row(delta_tile, k)
                for c in range(row.size):
                    grad_bias[c] += row[c]
            theta, position = bias[j:j_end], place[BIAS] + j
            _update(theta, grad_bias, state, position, optimizer, coefficients)


_share_backward_weight = _threaded(_weight_tiles)


@_inline
def _backward_weight(x, delta, weight, bias, state, place, optimizer, coefficients, n_threads):
    """Apply xᵀ·δ (BP4) to a weight and Σᵢ δᵢ (BP3) to a bias, block by block.

    `place` is the row of the layer table that tells where their state is.
    """
    work = weight.size * x.shape[0] // PRODUCTS_OF_A_THREAD
    arguments = x, delta, weight, bias, state, place, optimizer, coefficients
    _share_backward_weight(n_threads, work, arguments)


# --- Layer kernels ------------------------------------------------------------------------


@_kernel
def activation_forward(z, activation, alpha, out):
    """Apply an activation to every element: a = σ(z)."""
    _activate(_rows(z), activation, alpha, _rows(out))


@_kernel
def activation_backward(y, grad, activation, alpha, out):
    """Multiply a gradient by the activation's derivative: grad ⊙ σ'."""
    _activate_gradient(_rows(y), _rows(grad), activation, alpha, _rows(out))


@_kernel
def softmax_forward(z, out):
    """Turn logits into probabilities: exp(zⱼ) / Σₖ exp(zₖ) in each row."""
    logits, probabilities = _rows(z), _rows(out)
    for i in range(logits.shape[0]):
        row, out_row = _row(logits, i), _row(probabilities, i)
        log_sum_exp = _log_sum_exp(row)
        for j in range(row.size):
            out_row[j] = math.exp(row[j] - log_sum_exp)


@_kernel
def dense_forward(x, weight, bias, activation, alpha, out, workspace, n_threads=1):
    """Run one dense layer on a batch: a = σ(x·weight + bias)."""
    _forward(_rows(x), _rows(weight), _vector(bias), activation, alpha, _rows(out), n_threads)


@_kernel
def dense_forward_single(x, weight, bias, activation, alpha, out):
    """Run one dense layer on one sample: a = σ(x·weight + bias)."""
    _forward(_rows(x), _rows(weight), _vector(bias), activation, alpha, _rows(out), ONE_THREAD)


@_kernel
def dense_backward_input(delta, weight, y, activation, alpha, out, workspace, n_threads=1):
    """Carry δ down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    _backward_input(
        _rows(delta), _rows(weight), _rows(y), activation, alpha, _rows(out), workspace, n_threads
    )


@_kernel
def dense_backward_input_single(delta, weight, y, activation, alpha, out):
    """Carry δ of one sample down one layer: δ·weightᵀ ⊙ σ' (BP2)."""
    grad = _rows(out)
    _multiply_transposed(_rows(delta), _rows(weight), grad)
    _activate_gradient(_rows(y), grad, activation, alpha, grad)


@_kernel
def dense_backward_weight(x, delta, grad_weight, grad_bias, workspace, n_threads=1):
    """Sum a batch's gradient of one layer: xᵀ·δ (BP4) and Σᵢ δᵢ (BP3)."""
    weight, bias = _rows(grad_weight), _vector(grad_bias)
    no_state, place, none = weight[:0], _vector(NO_PLACE), _vector(NO_COEFFICIENTS)
    _backward_weight(_rows(x), _rows(delta), weight, bias, no_state, place, STORE, none, n_threads)


@_kernel
def dense_backward_weight_single(x, delta, grad_weight, grad_bias):
    """Form one sample's gradient of one layer: x δᵀ (BP4) and δ (BP3)."""
    dense_backward_weight(_rows(x), _rows(delta), grad_weight, grad_bias, grad_bias, ONE_THREAD)


@_kernel
def loss_forward(output, target, labels, loss, out):
    """Compute the loss of each sample."""
    _losses(_rows(output), _rows(target), _vector(labels), loss, _vector(out))


@_kernel
def loss_backward(output, target, labels, sample_weight, loss, out):
    """Differentiate the batch's mean loss by the outputs: wᵢ/Σw · ∂Lᵢ/∂oᵢ."""
    weights = _vector(sample_weight)
    _slopes(_rows(output), _rows(target), _vector(labels), weights, loss, _rows(out))


@_inner
def _update_runs(thread, n_threads, parameters, grad, state, optimizer, coefficients):
    n, length = parameters.size, UPDATES_OF_A_THREAD
    for start in range(thread * length, n, n_threads * length):
        theta, slope = parameters[start : start + length], grad[start : start + length]
        _update(theta, slope, state, start, optimizer, coefficients)


_share_updates = _threaded(_update_runs)


@_kernel
def optimizer_step(parameters, grad, state, optimizer, coefficients, n_threads=1):
    """Update parameters in place by one step of an optimizer."""
    theta, slope, scalars = _vector(parameters), _vector(grad), _vector(coefficients)
    work = theta.size // UPDATES_OF_A_THREAD
    _share_updates(n_threads, work, (theta, slope, _rows(state), optimizer, scalars))


# --- Network kernels: the layer kernels in sequence ---------------------------------------


@_inline
def _weight_of(layers, layer, arena):
    """Return the view of a layer's weight, (n_in, n_out)."""
    place = layers[layer]
    return _matrix(arena, place[WEIGHT], place[N_IN], place[N_OUT], place[STRIDE])


@_inline
def _bias_of(layers, layer, arena):
    start = layers[layer, BIAS]
    return arena[start : start + layers[layer, N_OUT]]


# The training workspace: the gathered batch; the activation and δ of each layer; the loss
# of each sample; panels.


@_inline
def _workspace_start(layers, layer, n_rows, itemsize):
    """Return where a layer's activation begins; for n_layers, where the losses do."""
    start = n_rows * row_stride(layers[0, N_IN], itemsize)
    for below in range(layer):
        start += 2 * n_rows * row_stride(layers[below, N_OUT], itemsize)
    return start


@_inline
def _activation_of(layers, layer, n_rows, workspace):
    start = _workspace_start(layers, layer, n_rows, workspace.itemsize)
    n_out = layers[layer, N_OUT]
    return _matrix(workspace, start, n_rows, n_out, row_stride(n_out, workspace.itemsize))


@_inline
def _delta_of(layers, layer, n_rows, workspace):
    n_out = layers[layer, N_OUT]
    stride = row_stride(n_out, workspace.itemsize)
    start = _workspace_start(layers, layer, n_rows, workspace.itemsize) + n_rows * stride
    return _matrix(workspace, start, n_rows, n_out, stride)


@_inline
def _losses_of(layers, n_rows, workspace):
    start = _workspace_start(layers, layers.shape[0], n_rows, workspace.itemsize)
    return workspace[start : start + n_rows]


@_inline
def _panels_of(layers, n_rows, workspace):
    return workspace[
        _workspace_start(layers, layers.shape[0], n_rows, workspace.itemsize) + n_rows :
    ]


@_inline
def _run_layer(layers, alphas, parameters, layer, x, out, n_threads):
    weight, bias = _weight_of(layers, layer, parameters), _bias_of(layers, layer, parameters)
    _forward(x, weight, bias, layers[layer, ACTIVATION], alphas[layer], out, n_threads)


@_inner
def _forward_block(layers, alphas, parameters, x, out, workspace, n_threads):
    """Run a block of rows through all layers; two buffers take turns."""
    n_rows, last = out.shape[0], layers.shape[0] - 1
    widest = 0
    for layer in range(last):
        widest = max(widest, layers[layer, N_OUT])
    stride = row_stride(widest, workspace.itemsize)
    below = x
    for layer in range(last):
        start = layer % 2 * n_rows * stride
        above = _matrix(workspace, start, n_rows, layers[layer, N_OUT], stride)
        _run_layer(layers, alphas, parameters, layer, below, above, n_threads)
        below = above
    _run_layer(layers, alphas, parameters, last, below, out, n_threads)


@_inner
def _forward_blocks(thread, n_threads, layers, alphas, parameters, x, out, workspace, block):
    share = workspace.size // n_threads
    own = workspace[thread * share : (thread + 1) * share]
    for start in range(thread * block, out.shape[0], n_threads * block):
        rows, out_rows = x[start : start + block], out[start : start + block]
        _forward_block(layers, alphas, parameters, rows, out_rows, own, ONE_THREAD)


_share_blocks = _threaded(_forward_blocks)


@_inner
def _forward_network(layers, alphas, parameters, x, out, workspace, n_threads):
    """Share the rows between the threads; if they are few, share each layer."""
    n_rows = out.shape[0]
    if n_rows <= ROW_BLOCK:
        _forward_block(layers, alphas, parameters, x, out, workspace, n_threads)
    else:
        rounds = -(-n_rows // (ROW_BLOCK * n_threads))
        block = -(-n_rows // (rounds * n_threads))
        arguments = layers, alphas, parameters, x, out, workspace, block
        _share_blocks(n_threads, n_threads, arguments)


@_inner
def _risk(layers, alphas, parameters, x, target, labels, sample_weight, loss, workspace, n_threads):
    """Return the mean loss, having stored the activations of all layers."""
    n_rows, below = x.shape[0], x
    for layer in range(layers.shape[0]):
        above = _activation_of(layers, layer, n_rows, workspace)
        _run_layer(layers, alphas, parameters, layer, below, above, n_threads)
        below = above
    losses = _losses_of(layers, n_rows, workspace)
    _losses(below, target, labels, loss, losses)
    return _mean(losses, sample_weight)


@_inner
def _backpropagate(
    layers,
    alphas,
    parameters,
    x,
    target,
    labels,
    sample_weight,
    loss,
    updated,
    state,
    optimizer,
    coefficients,
    workspace,
    n_threads,
):
    """Apply the gradient to the arena `updated`, the activations being in the workspace.

    That arena may be the parameters: a layer's weight changes after its δ went down.
    """
    n_rows, layer = x.shape[0], layers.shape[0] - 1
    panels = _panels_of(layers, n_rows, workspace)
    output = _activation_of(layers, layer, n_rows, workspace)
    delta = _delta_of(layers, layer, n_rows, workspace)
    _slopes(output, target, labels, sample_weight, loss, delta)
    _activate_gradient(output, delta, layers[layer, ACTIVATION], alphas[layer], delta)
    while layer >= 0:
        below, delta_below = x, delta
        if layer > 0:
            below = _activation_of(layers, layer - 1, n_rows, workspace)
            delta_below = _delta_of(layers, layer - 1, n_rows, workspace)
            weight = _weight_of(layers, layer, parameters)
            activation, alpha = layers[layer - 1, ACTIVATION], alphas[layer - 1]
            _backward_input(delta, weight, below, activation, alpha, delta_below, panels, n_threads)
        weight, bias = _weight_of(layers, layer, updated), _bias_of(layers, layer, updated)
        place = _row(layers, layer)
        _backward_weight(
            below, delta, weight, bias, state, place, optimizer, coefficients, n_threads
        )
        delta = delta_below
        layer -= 1


@_kernel
def network_forward(layers, alphas, parameters, x, out, workspace, n_threads=1):
    """Run the whole network forward: aˡ = σ(Wˡaˡ⁻¹ + bˡ) for every layer."""
    _forward_network(
        _rows(layers),
        _vector(alphas),
        _vector(parameters),
        _rows(x),
        _rows(out),
        workspace,
        n_threads,
    )


@_kernel
def network_loss(
    layers, alphas, parameters, x, target, labels, sample_weight, loss, workspace, n_threads=1
):
    """Return the mean loss of a batch, Σᵢ wᵢ Lᵢ / Σw: the empirical risk."""
    return _risk(
        _rows(layers),
        _vector(alphas),
        _vector(parameters),
        _rows(x),
        _rows(target),
        _vector(labels),
        _vector(sample_weight),
        loss,
        workspace,
        n_threads,
    )


@_kernel
def network_gradient(
    layers, alphas, parameters, x, target, labels, sample_weight, loss, grad, workspace, n_threads=1
):
    """Return the mean loss of a batch and store its gradient: backpropagation, BP1–BP4."""
    network = _rows(layers), _vector(alphas), _vector(parameters)
    data = _rows(x), _rows(target), _vector(labels), _vector(sample_weight)
    mean = _risk(*network, *data, loss, workspace, n_threads)
    rule = _vector(grad), _matrix(workspace, 0, 0, 0, 0), STORE, _vector(NO_COEFFICIENTS)
    _backpropagate(*network, *data, loss, *rule, workspace, n_threads)
    return mean


@_kernel
def network_difference_gradient(
    layers,
    alphas,
    parameters,
    x,
    target,
    labels,
    sample_weight,
    loss,
    indices,
    steps,
    central,
    out,
    workspace,
):
    """Estimate ∂L/∂θ by finite differences, one or two forward passes for each weight."""
    network = _rows(layers), _vector(alphas), _vector(parameters)
    data = _rows(x), _rows(target), _vector(labels), _vector(sample_weight)
    here = 0.0 if central else _risk(*network, *data, loss, workspace, ONE_THREAD)
    for position in range(indices.size):
        index, step = indices[position], steps[position]
        value = above = below = parameters[index]
        above = value + step
        parameters[index] = above
        loss_above, loss_below = _risk(*network, *data, loss, workspace, ONE_THREAD), here
        if central:
            below = value - step
            parameters[index] = below
            loss_below = _risk(*network, *data, loss, workspace, ONE_THREAD)
        parameters[index] = value
        out[position] = (loss_above - loss_below) / (np.float64(above) - np.float64(below))


@_inline
def _gather(rows, batch, out):
    for i in range(batch.size):
        _copy(_row(rows, batch[i]), _row(out, i))


@_inline
def _gather_target(target, labels, batch, out):
    """Gather the rows of `target`, or the one-hot rows of `labels`."""
    for i in range(batch.size):
        row = _row(out, i)
        for j in range(row.size):
            row[j] = _target_of(target, labels, batch[i], j)


@_kernel
def network_train(
    layers,
    alphas,
    parameters,
    state,
    x,
    target,
    labels,
    order,
    batch_size,
    loss,
    optimizer,
    coefficients,
    losses,
    workspace,
    n_threads=1,
):
    """Run a sequence of mini-batch steps: gather, forward, loss, backward, update."""
    network = _rows(layers), _vector(alphas), _vector(parameters)
    table, theta, n_in = network[0], network[2], layers[0, N_IN]
    no_labels, no_weights = _vector(labels)[:0], theta[:0]
    for step in range(losses.size):
        batch = _vector(order)[step * batch_size : (step + 1) * batch_size]
        x_batch = _matrix(workspace, 0, batch.size, n_in, row_stride(n_in, workspace.itemsize))
        # δ of the last layer is not needed before the target is, and replaces it.
        target_batch = _delta_of(table, table.shape[0] - 1, batch.size, workspace)
        _gather(_rows(x), batch, x_batch)
        _gather_target(_rows(target), _vector(labels), batch, target_batch)
        data = x_batch, target_batch, no_labels, no_weights
        losses[step] = _risk(*network, *data, loss, workspace, n_threads)
        rule = theta, _rows(state), optimizer, _row(_rows(coefficients), step)
        _backpropagate(*network, *data, loss, *rule, workspace, n_threads)
