# One element at a time: each activation, loss and update, forward and backward, is defined
# here once, as a scalar function without branches that the loops below it apply to a row.
# The compiler inlines and vectorises them. To add one, write its functions and its line in
# each of the two `if` chains. Beside a float, 1 would be Cython's 1.0 and the whole expression
# double: hence <floating> 1.

from libc.math cimport INFINITY, log, log1p
from libc.stdint cimport int64_t
from cython cimport floating

cdef extern from "elementary.hpp" namespace "fastmlp" nogil:
    float fast_exp(float z)
    double fast_exp(double z)
    float fast_expm1(float z)
    double fast_expm1(double z)
    float fast_log1p(float z)
    double fast_log1p(double z)
    float fast_gaussian(float z)
    double fast_gaussian(double z)
    float fast_normal_cdf(float z)
    double fast_normal_cdf(double z)
    float fast_sigmoid(float z)
    double fast_sigmoid(double z)
    float floored(float z)
    double floored(double z)
    float bounded(float z)
    double bounded(double z)
    float significant(float value)
    double significant(double value)
    float fading(float mean)
    double fading(double mean)
    float lasting(float square)
    double lasting(double square)
    float fast_tanh(float z)
    double fast_tanh(double z)

cdef extern from "sweep.hpp" namespace "fastmlp" nogil:
    float sgd(float theta, float grad, float learning_rate, float decay)
    double sgd(double theta, double grad, double learning_rate, double decay)

cdef extern from "<cmath>" namespace "std" nogil:
    float fabs(float z)
    double fabs(double z)
    float sqrt(float z)
    double sqrt(double z)
    float copysign(float z, float sign)
    double copysign(double z, double sign)

include "_codes.pxi"

cdef enum:
    STORE = -1  # the update that writes the gradient itself
    ADD = -2  # … and that adds it to what is there
    MAX_COEFFICIENTS = 16

cdef extern from *:
    """
    static constexpr double SELU_SCALE = 1.0507009873554804934193349852946;
    static constexpr double SELU_ALPHA = 1.6732632423543772848170429916717;
    static constexpr double SQRT_2_OVER_PI = 0.79788456080286535587989211986876;
    static constexpr double ONE_OVER_SQRT_2PI = 0.39894228040143267793994605993438;
    static constexpr double GELU_CUBE = 0.044715;
    static constexpr double LARGE = 0x1p60;  // beside which 1 is nothing
    """
    const double SELU_SCALE, SELU_ALPHA, SQRT_2_OVER_PI, ONE_OVER_SQRT_2PI, GELU_CUBE, LARGE


# --- User-defined activations: compiled functions of rows, see custom.py -------------------

ctypedef void (*RowFunction)(const void* source, Py_ssize_t n, void* sink) noexcept nogil


cdef inline void apply_custom(
    int64_t activation, int column, const floating* source, Py_ssize_t n, floating* sink
) noexcept nogil:
    """Store σ of a row, or multiply a row by σ' or σ'', as the column says."""
    cdef const int64_t* table = <const int64_t*> <size_t> activation
    if sizeof(floating) == sizeof(double):
        column += 1
    (<RowFunction> <size_t> table[column])(source, n, sink)


# --- Activations: σ(z), and grad · σ' from y = σ(z) or from z, as the catalogue says -------

cdef inline bint takes_z(int64_t activation) noexcept nogil:
    """Return whether the derivative is taken from z rather than from y."""
    if activation >= FIRST_CUSTOM:
        return (<const int64_t*> <size_t> activation)[CUSTOM_TAKES_Z] != 0
    return TAKES_Z >> activation & 1


cdef inline floating relu(floating z) noexcept nogil:
    return 0 if z < 0 else z  # NaN stays


cdef inline floating relu_gradient(floating y, floating grad) noexcept nogil:
    return grad if y > 0 else 0


cdef inline floating leaky_relu(floating z, floating alpha) noexcept nogil:
    return z if z > 0 else alpha * z


cdef inline floating leaky_relu_gradient(
    floating y, floating grad, floating alpha
) noexcept nogil:
    return grad if y > 0 else alpha * grad


cdef inline floating sigmoid_gradient(floating y, floating grad) noexcept nogil:
    return grad * (y * (<floating> 1 - y))


cdef inline floating tanh_gradient(floating y, floating grad) noexcept nogil:
    return grad * (<floating> 1 - y * y)


cdef inline floating silu(floating z) noexcept nogil:
    return floored(z) * fast_sigmoid(z)


cdef inline floating silu_gradient(floating z, floating grad) noexcept nogil:
    return grad * fast_sigmoid(z) * (<floating> 1 + bounded(z) * fast_sigmoid(-z))


cdef inline floating elu(floating z, floating alpha) noexcept nogil:
    return z if z > 0 else alpha * fast_expm1(z)


cdef inline floating elu_gradient(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (1 if y > 0 else y + alpha)


cdef inline floating celu(floating z, floating alpha) noexcept nogil:
    return z if z > 0 else alpha * fast_expm1(z / alpha)


cdef inline floating celu_gradient(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (1 if y > 0 else y / alpha + <floating> 1)


cdef inline floating selu(floating z) noexcept nogil:
    return <floating> SELU_SCALE * elu(z, <floating> SELU_ALPHA)


cdef inline floating selu_gradient(floating y, floating grad) noexcept nogil:
    cdef floating scale = <floating> SELU_SCALE
    return grad * (scale if y > 0 else y + <floating> (SELU_SCALE * SELU_ALPHA))


cdef inline floating gelu(floating z) noexcept nogil:
    return significant(floored(z) * fast_normal_cdf(z))


cdef inline floating gelu_gradient(floating z, floating grad) noexcept nogil:
    cdef floating density = <floating> ONE_OVER_SQRT_2PI * fast_gaussian(z)
    return grad * significant(fast_normal_cdf(z) + bounded(z) * density)


cdef inline floating gelu_tanh(floating z) noexcept nogil:
    cdef floating u = <floating> SQRT_2_OVER_PI * (z + <floating> GELU_CUBE * (z * z * z))
    return significant(floored(z) * fast_sigmoid(<floating> 2 * u))


cdef inline floating gelu_tanh_gradient(floating z, floating grad) noexcept nogil:
    cdef floating x = bounded(z)
    cdef floating v = <floating> (2 * SQRT_2_OVER_PI) * (x + <floating> GELU_CUBE * (x * x * x))
    cdef floating slope = <floating> (2 * SQRT_2_OVER_PI)  # v'(z)
    slope = slope + slope * <floating> (3 * GELU_CUBE) * (x * x)
    slope = fast_sigmoid(v) * (<floating> 1 + x * fast_sigmoid(-v) * slope)
    return grad * significant(slope)


cdef inline floating mish(floating z) noexcept nogil:
    """tanh(log(1 + e)) = n / (n + 2) with e = exp(z) and n = e (e + 2); 1 from z = 20 on."""
    cdef floating e = fast_exp(z if not z > 20 else 20)
    cdef floating two = 2, n = e * (e + two)
    return floored(z) * (n / (n + two))


cdef inline floating mish_gradient(floating z, floating grad) noexcept nogil:
    """With t = n / (n + 2) the derivative's second term is z · 4e (1 + e) / (n + 2)²."""
    cdef floating x = floored(z if not z > 20 else 20)
    cdef floating e = fast_exp(x)
    cdef floating one = 1, two = 2, n = e * (e + two)
    return grad * ((n + two * two * x * (e * ((one + e) / (n + two)))) / (n + two))


cdef inline floating far_from_20(floating x) noexcept nogil:
    # Beyond 20 softplus counts as linear. To choose among arguments, not among results, keeps
    # its loops free of branches (measured: 4.7 → 0.6 ns an element).
    return 1000 if x > 20 else x


cdef inline floating softplus(floating z, floating beta) noexcept nogil:
    return relu(z) + fast_log1p(fast_exp(-fabs(far_from_20(beta * z)))) / beta


cdef inline floating softplus_gradient(
    floating z, floating grad, floating beta
) noexcept nogil:
    return grad * fast_sigmoid(far_from_20(beta * z))


cdef inline floating softsign(floating z) noexcept nogil:
    cdef floating size = fabs(z)
    return copysign(1 if size > <floating> LARGE else size / (<floating> 1 + size), z)


cdef inline floating softsign_gradient(floating y, floating grad) noexcept nogil:
    cdef floating rest = <floating> 1 - fabs(y)
    return grad * (rest * rest)


cdef inline floating relu6(floating z) noexcept nogil:
    return 6 if z > 6 else relu(z)


cdef inline floating relu6_gradient(floating y, floating grad) noexcept nogil:
    return grad if (y > 0) & (y < 6) else 0


cdef inline floating hard_tanh(floating z) noexcept nogil:
    z = -1 if z < -1 else z
    return 1 if z > 1 else z


cdef inline floating hard_tanh_gradient(floating y, floating grad) noexcept nogil:
    return grad if (y > -1) & (y < 1) else 0


cdef inline floating hard_sigmoid(floating z) noexcept nogil:
    return relu6(z + <floating> 3) / <floating> 6


cdef inline floating hard_sigmoid_gradient(floating z, floating grad) noexcept nogil:
    return grad / <floating> 6 if (z > -3) & (z < 3) else 0


cdef inline floating hard_swish(floating z) noexcept nogil:
    return floored(z) * hard_sigmoid(z)


cdef inline floating hard_swish_gradient(floating z, floating grad) noexcept nogil:
    cdef floating slope = z / <floating> 3 + <floating> 0.5
    slope = grad if z >= 3 else grad * slope
    return 0 if z <= -3 else slope


cdef inline void softmax_gradient(
    const floating* y, Py_ssize_t n, floating* grad
) noexcept nogil:
    """Multiply a row of grad by ∂yⱼ/∂zₖ = yⱼ (1 − yⱼ) if j = k else −yⱼ yₖ."""
    cdef Py_ssize_t j
    cdef floating mean = 0
    for j in range(n):
        mean += y[j] * grad[j]
    for j in range(n):
        grad[j] = y[j] * (grad[j] - mean)


cdef inline int64_t part_in_tiles(int64_t activation) noexcept nogil:
    """Return σ, or IDENTITY where σ takes whole rows, which a tile does not have."""
    return IDENTITY if activation == SOFTMAX else activation


cdef void activate(
    const floating* z, Py_ssize_t n, int64_t activation, floating alpha, floating* out
) noexcept nogil:
    """Write out = σ(z) for a row; out may be z."""
    cdef Py_ssize_t j
    if activation == RELU:
        for j in range(n):
            out[j] = relu(z[j])
    elif activation == LEAKY_RELU:
        for j in range(n):
            out[j] = leaky_relu(z[j], alpha)
    elif activation == SIGMOID:
        for j in range(n):
            out[j] = fast_sigmoid(z[j])
    elif activation == TANH:
        for j in range(n):
            out[j] = fast_tanh(z[j])
    elif activation == SILU:
        for j in range(n):
            out[j] = silu(z[j])
    elif activation == ELU:
        for j in range(n):
            out[j] = elu(z[j], alpha)
    elif activation == CELU:
        for j in range(n):
            out[j] = celu(z[j], alpha)
    elif activation == SELU:
        for j in range(n):
            out[j] = selu(z[j])
    elif activation == GELU:
        for j in range(n):
            out[j] = gelu(z[j])
    elif activation == GELU_TANH:
        for j in range(n):
            out[j] = gelu_tanh(z[j])
    elif activation == MISH:
        for j in range(n):
            out[j] = mish(z[j])
    elif activation == SOFTPLUS:
        for j in range(n):
            out[j] = softplus(z[j], alpha)
    elif activation == SOFTSIGN:
        for j in range(n):
            out[j] = softsign(z[j])
    elif activation == RELU6:
        for j in range(n):
            out[j] = relu6(z[j])
    elif activation == HARD_TANH:
        for j in range(n):
            out[j] = hard_tanh(z[j])
    elif activation == HARD_SIGMOID:
        for j in range(n):
            out[j] = hard_sigmoid(z[j])
    elif activation == HARD_SWISH:
        for j in range(n):
            out[j] = hard_swish(z[j])
    elif activation == SOFTMAX:
        softmax(z, n, n, row_maximum(z, n), out)
    elif activation >= FIRST_CUSTOM:
        apply_custom(activation, CUSTOM_FORWARD, z, n, out)
    else:
        for j in range(n):
            out[j] = z[j]


cdef void apply_derivative(
    const floating* y_or_z, Py_ssize_t n, int64_t activation, floating alpha, floating* grad
) noexcept nogil:
    """Multiply a row of grad by σ', in place: the compiler then has two arrays to tell apart."""
    cdef Py_ssize_t j
    if activation == RELU:
        for j in range(n):
            grad[j] = relu_gradient(y_or_z[j], grad[j])
    elif activation == LEAKY_RELU:
        for j in range(n):
            grad[j] = leaky_relu_gradient(y_or_z[j], grad[j], alpha)
    elif activation == SIGMOID:
        for j in range(n):
            grad[j] = sigmoid_gradient(y_or_z[j], grad[j])
    elif activation == TANH:
        for j in range(n):
            grad[j] = tanh_gradient(y_or_z[j], grad[j])
    elif activation == SILU:
        for j in range(n):
            grad[j] = silu_gradient(y_or_z[j], grad[j])
    elif activation == ELU:
        for j in range(n):
            grad[j] = elu_gradient(y_or_z[j], grad[j], alpha)
    elif activation == CELU:
        for j in range(n):
            grad[j] = celu_gradient(y_or_z[j], grad[j], alpha)
    elif activation == SELU:
        for j in range(n):
            grad[j] = selu_gradient(y_or_z[j], grad[j])
    elif activation == GELU:
        for j in range(n):
            grad[j] = gelu_gradient(y_or_z[j], grad[j])
    elif activation == GELU_TANH:
        for j in range(n):
            grad[j] = gelu_tanh_gradient(y_or_z[j], grad[j])
    elif activation == MISH:
        for j in range(n):
            grad[j] = mish_gradient(y_or_z[j], grad[j])
    elif activation == SOFTPLUS:
        for j in range(n):
            grad[j] = softplus_gradient(y_or_z[j], grad[j], alpha)
    elif activation == SOFTSIGN:
        for j in range(n):
            grad[j] = softsign_gradient(y_or_z[j], grad[j])
    elif activation == RELU6:
        for j in range(n):
            grad[j] = relu6_gradient(y_or_z[j], grad[j])
    elif activation == HARD_TANH:
        for j in range(n):
            grad[j] = hard_tanh_gradient(y_or_z[j], grad[j])
    elif activation == HARD_SIGMOID:
        for j in range(n):
            grad[j] = hard_sigmoid_gradient(y_or_z[j], grad[j])
    elif activation == HARD_SWISH:
        for j in range(n):
            grad[j] = hard_swish_gradient(y_or_z[j], grad[j])
    elif activation == SOFTMAX:
        softmax_gradient(y_or_z, n, grad)
    elif activation >= FIRST_CUSTOM:
        apply_custom(activation, CUSTOM_GRADIENT, y_or_z, n, grad)


cdef inline floating sigmoid_curvature(floating y, floating grad) noexcept nogil:
    cdef floating one = 1
    return grad * (y * (one - y)) * (one - (y + y))


cdef inline floating tanh_curvature(floating y, floating grad) noexcept nogil:
    return <floating> -2 * y * (grad * (<floating> 1 - y * y))


cdef inline floating silu_curvature(floating z, floating grad) noexcept nogil:
    cdef floating s = fast_sigmoid(z), rest = fast_sigmoid(-z)
    return grad * s * rest * (2 + bounded(z) * (rest - s))


cdef inline floating elu_curvature(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (0 if y > 0 else y + alpha)


cdef inline floating celu_curvature(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (0 if y > 0 else (y / alpha + 1) / alpha)


cdef inline floating selu_curvature(floating y, floating grad) noexcept nogil:
    return grad * (0 if y > 0 else y + <floating> (SELU_SCALE * SELU_ALPHA))


cdef inline floating gelu_curvature(floating z, floating grad) noexcept nogil:
    cdef floating x = bounded(z)
    return grad * (<floating> ONE_OVER_SQRT_2PI * fast_gaussian(z)) * (2 - x * x)


cdef inline floating gelu_tanh_curvature(floating z, floating grad) noexcept nogil:
    cdef floating x = bounded(z)
    cdef floating u = <floating> SQRT_2_OVER_PI * (x + <floating> GELU_CUBE * (x * x * x))
    cdef floating slope = <floating> SQRT_2_OVER_PI * (1 + <floating> (3 * GELU_CUBE) * (x * x))
    cdef floating bend = <floating> (6 * SQRT_2_OVER_PI * GELU_CUBE) * x
    cdef floating s = fast_sigmoid(2 * u), rest = fast_sigmoid(-2 * u)
    return grad * s * rest * (4 * slope + x * (4 * slope * slope * (rest - s) + 2 * bend))


cdef inline floating mish_curvature(floating z, floating grad) noexcept nogil:
    """With t = n / (n + 2) and s = e / (1 + e); from z = 40 on it is next to nothing."""
    cdef floating x = floored(z if not z > 40 else 40)
    cdef floating e = fast_exp(x)
    cdef floating n = e * (e + 2)
    cdef floating w = 4 * e * ((1 + e) / (n + 2)) / (n + 2)
    return grad * w * (2 + x * ((1 - 2 * e * (n / (n + 2))) / (1 + e)))


cdef inline floating softplus_curvature(
    floating z, floating grad, floating beta
) noexcept nogil:
    cdef floating x = beta * z
    return grad * (0 if x > 20 else beta * (fast_sigmoid(x) * fast_sigmoid(-x)))


cdef inline floating softsign_curvature(floating y, floating grad) noexcept nogil:
    cdef floating rest = 1 - fabs(y)
    return -2 * grad * sign(y) * (rest * rest * rest)


cdef inline floating hard_swish_curvature(floating z, floating grad) noexcept nogil:
    return grad / 3 if (z > -3) & (z < 3) else 0 * grad


cdef void apply_second_derivative(
    const floating* y_or_z, Py_ssize_t n, int64_t activation, floating alpha, floating* grad
) noexcept nogil:
    """Multiply a row of grad by σ'', in place."""
    cdef Py_ssize_t j
    if activation == SIGMOID:
        for j in range(n):
            grad[j] = sigmoid_curvature(y_or_z[j], grad[j])
    elif activation == TANH:
        for j in range(n):
            grad[j] = tanh_curvature(y_or_z[j], grad[j])
    elif activation == SILU:
        for j in range(n):
            grad[j] = silu_curvature(y_or_z[j], grad[j])
    elif activation == ELU:
        for j in range(n):
            grad[j] = elu_curvature(y_or_z[j], grad[j], alpha)
    elif activation == CELU:
        for j in range(n):
            grad[j] = celu_curvature(y_or_z[j], grad[j], alpha)
    elif activation == SELU:
        for j in range(n):
            grad[j] = selu_curvature(y_or_z[j], grad[j])
    elif activation == GELU:
        for j in range(n):
            grad[j] = gelu_curvature(y_or_z[j], grad[j])
    elif activation == GELU_TANH:
        for j in range(n):
            grad[j] = gelu_tanh_curvature(y_or_z[j], grad[j])
    elif activation == MISH:
        for j in range(n):
            grad[j] = mish_curvature(y_or_z[j], grad[j])
    elif activation == SOFTPLUS:
        for j in range(n):
            grad[j] = softplus_curvature(y_or_z[j], grad[j], alpha)
    elif activation == SOFTSIGN:
        for j in range(n):
            grad[j] = softsign_curvature(y_or_z[j], grad[j])
    elif activation == HARD_SWISH:
        for j in range(n):
            grad[j] = hard_swish_curvature(y_or_z[j], grad[j])
    elif activation >= FIRST_CUSTOM:
        apply_custom(activation, CUSTOM_CURVATURE, y_or_z, n, grad)
    else:  # piecewise linear
        for j in range(n):
            grad[j] = 0 * grad[j]


# --- Losses: L of a sample and share · ∂L/∂o ----------------------------------------------
# A target is a row of values, or a label where the row is NULL.

cdef struct Loss:
    int code
    const double* parameters  # in the order of the catalogue; NULL for none
    Py_ssize_t n_parameters


cdef inline floating row_maximum(const floating* row, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating highest = -INFINITY
    for j in range(n):
        highest = row[j] if row[j] > highest else highest
    return highest


cdef inline floating sum_exp(
    const floating* row, Py_ssize_t n, floating highest
) noexcept nogil:
    """Return Σ exp(oⱼ − highest): the softmax's denominator, which cannot overflow."""
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += fast_exp(row[j] - highest)
    return total


cdef inline floating softmax(
    const floating* z, Py_ssize_t n, Py_ssize_t room, floating highest, floating* out
) noexcept nogil:
    """Write the probabilities of n logits, and return their denominator Σ exp(zⱼ − highest).

    Both rows have `room` elements: whole vectors of them take less time than some.
    """
    cdef Py_ssize_t j
    cdef floating total = 0
    if room % ROW_MULTIPLE == 0:
        for j in range(room // ROW_MULTIPLE * ROW_MULTIPLE):
            out[j] = fast_exp(z[j] - highest)
    else:
        for j in range(n):
            out[j] = fast_exp(z[j] - highest)
    for j in range(n):
        total += out[j]
    for j in range(n):
        out[j] /= total
    return total


cdef inline floating sign(floating d) noexcept nogil:
    return 1 if d > 0 else (-1 if d < 0 else d)  # 0 and NaN stay


cdef inline floating huber(floating d, floating delta) noexcept nogil:
    cdef floating distance = fabs(d)
    cdef floating cut = distance if distance < delta else delta
    return cut * (distance - <floating> 0.5 * cut)


cdef inline floating huber_gradient(floating d, floating delta) noexcept nogil:
    return -delta if d < -delta else (delta if d > delta else d)


cdef inline floating pinball(floating above, floating tau) noexcept nogil:
    return tau * above if above > 0 else (tau - 1) * above


cdef inline floating pinball_gradient(floating above, floating tau) noexcept nogil:
    return -tau if above > 0 else (1 - tau if above < 0 else above)


cdef inline floating hinge(floating margin, bint squared) noexcept nogil:
    return relu(margin) * (relu(margin) if squared else 1)


cdef inline floating hinge_gradient(floating margin, bint squared) noexcept nogil:
    return 2 * relu(margin) if squared else (0 if margin <= 0 else 1)


cdef inline floating squared_distance(
    const floating* output, const floating* target, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += (output[j] - target[j]) * (output[j] - target[j])
    return total


cdef inline floating absolute_distance(
    const floating* output, const floating* target, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += fabs(output[j] - target[j])
    return total


cdef inline floating huber_distance(
    const floating* output, const floating* target, Py_ssize_t n, floating delta
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += huber(output[j] - target[j], delta)
    return total


cdef inline floating cross_entropy(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    floating smoothing,
    floating highest,
    floating denominator,
) noexcept nogil:
    """Return the loss of logits from their maximum and the denominator of their softmax."""
    cdef Py_ssize_t j
    cdef floating total = 0, t
    cdef floating log_sum = <floating> log(denominator)
    cdef floating kept = 1 - smoothing, floor = smoothing / n
    if target is NULL:
        if smoothing != 0:
            for j in range(n):
                total += log_sum - (output[j] - highest)
            total *= floor
        return total + kept * (log_sum - (output[label] - highest))
    for j in range(n):  # a class of probability 0 costs nothing, even with logit −inf
        t = kept * target[j] + floor
        total += 0 if t == 0 else t * (log_sum - (output[j] - highest))
    return total


cdef inline void cross_entropy_gradient(
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    floating smoothing,
    floating share,
    floating* out,
) noexcept nogil:
    """Make the gradient of probabilities, in their place."""
    cdef Py_ssize_t j
    cdef floating total = 0, kept = 1 - smoothing, floor = smoothing / n
    if target is NULL:
        for j in range(n):
            out[j] = share * significant(out[j] - floor)
        out[label] -= share * kept
        return
    for j in range(n):
        total += kept * target[j] + floor
    for j in range(n):
        out[j] = share * significant(total * out[j] - (kept * target[j] + floor))


cdef inline floating binary_cross_entropy(
    const floating* output, const floating* target, Py_ssize_t n, const double* positive
) noexcept nogil:
    """Return −Σ (p t log σ(o) + (1 − t) log(1 − σ(o))); p is 1 where `positive` is NULL."""
    cdef Py_ssize_t j
    cdef floating total = 0, small, p = 1
    for j in range(n):
        if positive is not NULL:
            p = <floating> positive[j]
        small = <floating> log1p(fast_exp(-fabs(output[j])))
        total += p * target[j] * (relu(-output[j]) + small)
        total += (1 - target[j]) * (relu(output[j]) + small)
    return total


cdef inline void binary_cross_entropy_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t n,
    const double* positive,
    floating share,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating p, slope  # which in the middle of an expression would be double
    if positive is NULL:
        for j in range(n):
            out[j] = share * significant(fast_sigmoid(output[j]) - target[j])
        return
    for j in range(n):
        p = <floating> positive[j]
        slope = (1 + (p - 1) * target[j]) * fast_sigmoid(output[j]) - p * target[j]
        out[j] = share * significant(slope)


cdef inline floating poisson(
    const floating* output, const floating* target, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += fast_exp(output[j]) - target[j] * output[j]
    return total


cdef inline floating gaussian_nll(
    const floating* output, const floating* target, Py_ssize_t k
) noexcept nogil:
    """Return Σ (log v + (m − t)²/v) of k means m, which k log-variances follow."""
    cdef Py_ssize_t j
    cdef floating total = 0, residual
    for j in range(k):
        residual = (output[j] - target[j]) * fast_exp(-output[k + j] / 2)
        total += output[k + j] + residual * residual
    return total


cdef inline void gaussian_nll_gradient(
    const floating* output, const floating* target, Py_ssize_t k, floating share, floating* out
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating residual, precision
    for j in range(k):
        precision = fast_exp(-output[k + j] / 2)
        residual = (output[j] - target[j]) * precision
        out[j] = share * (residual * precision)
        out[k + j] = share / 2 * (1 - residual * residual)


cdef inline floating pinball_distance(
    const floating* output, const floating* target, Py_ssize_t n, const Loss* loss
) noexcept nogil:
    cdef Py_ssize_t i, j, k = n // loss.n_parameters
    cdef floating total = 0
    for i in range(loss.n_parameters):
        for j in range(k):
            total += pinball(target[j] - output[i * k + j], <floating> loss.parameters[i])
    return total


cdef inline void pinball_distance_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t n,
    const Loss* loss,
    floating share,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t i, j, k = n // loss.n_parameters
    cdef floating tau
    for i in range(loss.n_parameters):
        tau = <floating> loss.parameters[i]
        for j in range(k):
            out[i * k + j] = share * pinball_gradient(target[j] - output[i * k + j], tau)


cdef inline floating hinges(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    bint squared,
) noexcept nogil:
    """Sum hinges of margins 1 − t o, or 1 + o − o_label for the other outputs."""
    cdef Py_ssize_t j
    cdef floating total = 0
    if target is not NULL:
        for j in range(n):
            total += hinge(1 - target[j] * output[j], squared)
        return total
    for j in range(n):
        total += 0 if j == label else hinge(1 + (output[j] - output[label]), squared)
    return total


cdef inline void hinges_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    bint squared,
    floating share,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    if target is not NULL:
        for j in range(n):
            out[j] = -target[j] * share * hinge_gradient(1 - target[j] * output[j], squared)
        return
    for j in range(n):
        out[j] = share * hinge_gradient(1 + (output[j] - output[label]), squared)
        total += 0 if j == label else out[j]
    out[label] = -total


cdef inline floating loss_value(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    const Loss* loss,
) noexcept nogil:
    """Return L of one sample."""
    cdef floating highest
    if loss.code == CROSS_ENTROPY:
        highest = row_maximum(output, n)
        return cross_entropy(
            output, target, label, n, <floating> loss.parameters[0], highest,
            sum_exp(output, n, highest),
        )
    if loss.code == BINARY_CROSS_ENTROPY:
        return binary_cross_entropy(output, target, n, loss.parameters) / n
    if loss.code == MSE:
        return squared_distance(output, target, n) / n
    if loss.code == MAE:
        return absolute_distance(output, target, n) / n
    if loss.code == HUBER:
        return huber_distance(output, target, n, <floating> loss.parameters[0]) / n
    if loss.code == POISSON:
        return poisson(output, target, n) / n
    if loss.code == GAUSSIAN_NLL:
        return gaussian_nll(output, target, n // 2) / n
    if loss.code == PINBALL:
        return pinball_distance(output, target, n, loss) / n
    if loss.code == HINGE or loss.code == SQUARED_HINGE:
        return hinges(output, target, label, n, loss.code == SQUARED_HINGE) / n
    return squared_distance(output, target, n) * <floating> 0.5


cdef inline void loss_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    const Loss* loss,
    floating share,
    floating* out,
) noexcept nogil:
    """Write out = share · ∂L/∂o of one sample; a share of 0 gives 0 whatever o holds."""
    cdef Py_ssize_t j
    cdef floating delta, of_one = share / n  # of one output in the mean
    if share == 0:
        for j in range(n):
            out[j] = 0
    elif loss.code == CROSS_ENTROPY:
        delta = <floating> loss.parameters[0]
        softmax(output, n, n, row_maximum(output, n), out)
        cross_entropy_gradient(target, label, n, delta, share, out)
    elif loss.code == BINARY_CROSS_ENTROPY:
        binary_cross_entropy_gradient(output, target, n, loss.parameters, of_one, out)
    elif loss.code == MAE:
        for j in range(n):
            out[j] = of_one * sign(output[j] - target[j])
    elif loss.code == HUBER:
        delta = <floating> loss.parameters[0]
        for j in range(n):
            out[j] = of_one * huber_gradient(output[j] - target[j], delta)
    elif loss.code == POISSON:
        for j in range(n):
            out[j] = of_one * (fast_exp(output[j]) - target[j])
    elif loss.code == GAUSSIAN_NLL:
        gaussian_nll_gradient(output, target, n // 2, 2 * of_one, out)
    elif loss.code == PINBALL:
        pinball_distance_gradient(output, target, n, loss, of_one, out)
    elif loss.code == HINGE or loss.code == SQUARED_HINGE:
        hinges_gradient(output, target, label, n, loss.code == SQUARED_HINGE, of_one, out)
    else:
        delta = 2 * of_one if loss.code == MSE else share
        for j in range(n):
            out[j] = delta * (output[j] - target[j])


cdef inline floating loss_and_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    Py_ssize_t room,
    const Loss* loss,
    floating share,
    floating* out,
) noexcept nogil:
    """Return L of one sample and write share · ∂L/∂o; `room` is as for softmax."""
    cdef floating highest, denominator, smoothing
    if loss.code != CROSS_ENTROPY or share == 0:
        loss_gradient(output, target, label, n, loss, share, out)
        return loss_value(output, target, label, n, loss)
    smoothing = <floating> loss.parameters[0]
    highest = row_maximum(output, n)
    denominator = softmax(output, n, room, highest, out)
    cross_entropy_gradient(target, label, n, smoothing, share, out)
    return cross_entropy(output, target, label, n, smoothing, highest, denominator)


# A row of a few logits is all beginning and end. Several such rows lie side by side: element j
# of all of them, then element j + 1.

cdef enum:
    ROWS_AT_ONCE = ROW_MULTIPLE
    FEW_CLASSES = 32


cdef void cross_entropies_and_gradients(
    const floating* output,
    Py_ssize_t output_row,
    const Py_ssize_t* labels,
    const floating* shares,
    Py_ssize_t rows,
    Py_ssize_t n,
    floating smoothing,
    floating* losses,
    floating* out,
    Py_ssize_t out_row,
) noexcept nogil:
    """Do what loss_and_gradient does, for ROWS_AT_ONCE samples at most, of few classes."""
    cdef floating p[FEW_CLASSES * ROWS_AT_ONCE]
    cdef floating highest[ROWS_AT_ONCE]
    cdef floating total[ROWS_AT_ONCE]
    cdef floating share[ROWS_AT_ONCE]
    cdef floating* column
    cdef floating floor = smoothing / n
    cdef Py_ssize_t i, j
    for i in range(ROWS_AT_ONCE):
        highest[i], total[i] = -INFINITY, 0
        share[i] = shares[i] if i < rows else 0
        for j in range(n):
            p[j * ROWS_AT_ONCE + i] = output[i * output_row + j] if i < rows else 0
    for j in range(n):
        column = p + j * ROWS_AT_ONCE
        for i in range(ROWS_AT_ONCE):
            highest[i] = column[i] if column[i] > highest[i] else highest[i]
    for j in range(n):
        column = p + j * ROWS_AT_ONCE
        for i in range(ROWS_AT_ONCE):
            column[i] = fast_exp(column[i] - highest[i])
            total[i] += column[i]
    for j in range(n):
        column = p + j * ROWS_AT_ONCE
        for i in range(ROWS_AT_ONCE):
            column[i] = share[i] * significant(column[i] / total[i] - floor)
    for i in range(rows):
        p[labels[i] * ROWS_AT_ONCE + i] -= share[i] * (1 - smoothing)
        for j in range(n):
            out[i * out_row + j] = p[j * ROWS_AT_ONCE + i] if share[i] != 0 else 0
        losses[i] = cross_entropy(
            output + i * output_row, NULL, labels[i], n, smoothing, highest[i], total[i]
        )


cdef inline void cross_entropy_curvature(
    const floating* output,
    const floating* target,
    Py_ssize_t n,
    floating smoothing,
    floating share,
    const floating* r,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0, mean = 0
    softmax(output, n, n, row_maximum(output, n), out)
    for j in range(n):
        mean += out[j] * r[j]
    if target is NULL:
        total = 1
    else:
        for j in range(n):
            total += (1 - smoothing) * target[j] + smoothing / n
    for j in range(n):
        out[j] = share * (total * out[j] * (r[j] - mean))


cdef inline void binary_cross_entropy_curvature(
    const floating* output,
    const floating* target,
    Py_ssize_t n,
    const double* positive,
    floating share,
    const floating* r,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating s, weight = 1
    for j in range(n):
        if positive is not NULL:
            weight = 1 + (<floating> positive[j] - 1) * target[j]
        s = fast_sigmoid(output[j])
        out[j] = share * (weight * (s * (1 - s) * r[j]))


cdef inline void gaussian_nll_curvature(
    const floating* output,
    const floating* target,
    Py_ssize_t k,
    floating share,
    const floating* r,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating residual, precision, scaled
    for j in range(k):
        precision = fast_exp(-output[k + j] / 2)
        residual = (output[j] - target[j]) * precision
        scaled = precision * r[j]
        out[j] = share * (precision * (scaled - residual * r[k + j]))
        out[k + j] = share * (residual * (<floating> 0.5 * residual * r[k + j] - scaled))


cdef inline void squared_hinges_curvature(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    floating share,
    const floating* r,
    floating* out,
) noexcept nogil:
    """Carry on to the outputs how r moves the margins 1 − t o, or 1 + o − o_label, above 0."""
    cdef Py_ssize_t j
    cdef floating total = 0
    if target is not NULL:
        for j in range(n):
            out[j] = 1 - target[j] * output[j]
            out[j] = share * (2 * target[j] * target[j] * r[j]) if out[j] > 0 else 0
        return
    for j in range(n):
        out[j] = 1 + (output[j] - output[label])
        out[j] = share * (2 * (r[j] - r[label])) if out[j] > 0 else 0
        total += 0 if j == label else out[j]
    out[label] = -total


cdef inline void loss_curvature(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    const Loss* loss,
    floating share,
    const floating* r,
    floating* out,
) noexcept nogil:
    """Write out = share · ∂²L/∂o² · r of one sample; a share of 0 gives 0."""
    cdef Py_ssize_t j
    cdef floating scale, of_one = share / n  # of one output in the mean
    if share == 0:
        for j in range(n):
            out[j] = 0
    elif loss.code == CROSS_ENTROPY:
        scale = <floating> loss.parameters[0]
        cross_entropy_curvature(output, target, n, scale, share, r, out)
    elif loss.code == BINARY_CROSS_ENTROPY:
        binary_cross_entropy_curvature(output, target, n, loss.parameters, of_one, r, out)
    elif loss.code == HUBER:
        scale = <floating> loss.parameters[0]
        for j in range(n):
            out[j] = of_one * r[j] if fabs(output[j] - target[j]) < scale else 0 * r[j]
    elif loss.code == POISSON:
        for j in range(n):
            out[j] = of_one * (fast_exp(output[j]) * r[j])
    elif loss.code == GAUSSIAN_NLL:
        gaussian_nll_curvature(output, target, n // 2, 2 * of_one, r, out)
    elif loss.code == SQUARED_HINGE:
        squared_hinges_curvature(output, target, label, n, of_one, r, out)
    else:  # squares, or piecewise linear
        scale = share if loss.code == QUADRATIC else (2 * of_one if loss.code == MSE else 0)
        for j in range(n):
            out[j] = scale * r[j]


# --- Updates: one step of θ, from the coefficients in the order of the catalogue ----------

cdef inline floating momentum(
    floating theta,
    floating grad,
    floating* velocity,
    floating learning_rate,
    floating decay,
    floating beta,
) noexcept nogil:
    velocity[0] = fading(beta * velocity[0] - learning_rate * (grad + decay * theta))
    return theta + velocity[0]


cdef inline floating mean_square_of(
    floating before, floating grad, floating beta, floating rest
) noexcept nogil:
    """Return β · before + rest · g²; fused, a g² that is subnormal is not rounded by itself."""
    return lasting(rest * grad * grad + beta * before)


cdef inline floating adam(
    floating theta,
    floating grad,
    floating* first,
    floating* second,
    floating step,
    floating decay,
    floating beta1,
    floating beta2,
    floating eps,
    floating inverse2,
    floating rest1,
    floating rest2,
) noexcept nogil:
    """Return the new θ; step is α/c₁ and inverse2 is 1/c₂."""
    grad += decay * theta
    first[0] = fading(beta1 * first[0] + rest1 * grad)
    second[0] = mean_square_of(second[0], grad, beta2, rest2)
    return theta - step * first[0] / (sqrt(second[0] * inverse2) + eps)


cdef inline floating kept(floating theta, floating shrinkage) noexcept nogil:
    return theta - shrinkage * theta


cdef inline floating ema_momentum(
    floating theta,
    floating grad,
    floating* mean,
    floating learning_rate,
    floating decay,
    floating beta,
    floating rest,
) noexcept nogil:
    mean[0] = fading(beta * mean[0] + rest * (grad + decay * theta))
    return theta - learning_rate * mean[0]


cdef inline floating nesterov(
    floating theta,
    floating grad,
    floating* lookahead,
    floating learning_rate,
    floating decay,
    floating next_beta,
) noexcept nogil:
    """Return the new look-ahead θ, which is `lookahead` away from the iterate."""
    cdef floating change = learning_rate * (grad + decay * theta)
    lookahead[0] = fading(next_beta * (lookahead[0] - change))
    return theta + (lookahead[0] - change)


cdef inline floating adagrad(
    floating theta,
    floating grad,
    floating* square_sum,
    floating learning_rate,
    floating decay,
    floating eps,
) noexcept nogil:
    grad += decay * theta
    square_sum[0] += grad * grad
    return theta - learning_rate * grad / (sqrt(square_sum[0]) + eps)


cdef inline floating rmsprop(
    floating theta,
    floating grad,
    floating* mean_square,
    floating learning_rate,
    floating decay,
    floating beta,
    floating rest,
    floating eps,
) noexcept nogil:
    grad += decay * theta
    mean_square[0] = mean_square_of(mean_square[0], grad, beta, rest)
    return theta - learning_rate * grad / (sqrt(mean_square[0]) + eps)


cdef inline floating rmsprop_momentum(
    floating theta,
    floating grad,
    floating* mean_square,
    floating* velocity,
    floating learning_rate,
    floating decay,
    floating beta,
    floating rest,
    floating eps,
    floating momentum_beta,
) noexcept nogil:
    grad += decay * theta
    mean_square[0] = mean_square_of(mean_square[0], grad, beta, rest)
    velocity[0] = fading(momentum_beta * velocity[0] + grad / (sqrt(mean_square[0]) + eps))
    return theta - learning_rate * velocity[0]


cdef inline floating centered_rmsprop(
    floating theta,
    floating grad,
    floating* mean_square,
    floating* velocity,
    floating* mean,
    floating learning_rate,
    floating decay,
    floating beta,
    floating rest,
    floating eps,
    floating momentum_beta,
) noexcept nogil:
    cdef floating variance, square
    grad += decay * theta
    mean_square[0] = mean_square_of(mean_square[0], grad, beta, rest)
    mean[0] = fading(beta * mean[0] + rest * grad)
    square = mean[0] * mean[0]
    variance = mean_square[0] - square if square < mean_square[0] else 0
    velocity[0] = fading(momentum_beta * velocity[0] + grad / (sqrt(variance) + eps))
    return theta - learning_rate * velocity[0]


cdef inline floating adamax(
    floating theta,
    floating grad,
    floating* first,
    floating* largest,
    floating corrected_rate,
    floating decay,
    floating beta1,
    floating rest1,
    floating beta2,
    floating eps,
) noexcept nogil:
    cdef floating faded = beta2 * largest[0], size
    grad += decay * theta
    size = fabs(grad) + eps
    first[0] = fading(beta1 * first[0] + rest1 * grad)
    largest[0] = faded if faded > size else size
    return theta - corrected_rate * first[0] / largest[0]


cdef inline floating nadam(
    floating theta,
    floating grad,
    floating* first,
    floating* second,
    floating gradient_rate,
    floating moment_rate,
    floating decay,
    floating beta1,
    floating rest1,
    floating beta2,
    floating rest2,
    floating inverse2,
    floating eps,
) noexcept nogil:
    """Return the new θ; inverse2 is 1/c₂."""
    cdef floating change
    grad += decay * theta
    first[0] = fading(beta1 * first[0] + rest1 * grad)
    second[0] = mean_square_of(second[0], grad, beta2, rest2)
    change = gradient_rate * grad + moment_rate * first[0]
    return theta - change / (sqrt(second[0] * inverse2) + eps)


cdef inline floating lion(
    floating theta,
    floating grad,
    floating* mean,
    floating learning_rate,
    floating beta1,
    floating rest1,
    floating beta2,
    floating rest2,
) noexcept nogil:
    cdef floating direction = sign(beta1 * mean[0] + rest1 * grad)
    mean[0] = fading(beta2 * mean[0] + rest2 * grad)
    return theta - learning_rate * direction


cdef void update_called(
    floating* theta,
    floating* state,
    Py_ssize_t slot,
    const floating* grad,
    Py_ssize_t n,
    int optimizer,
    const floating* c,
) noexcept nogil:
    """Update a row by one of the rules that are not copied to where `update` is used.

    With all of them `update` would be too long to be inlined there: 2 % of a step of SGD.
    """
    cdef Py_ssize_t j
    cdef floating c0, c1, c2, c3, c4, c5, c6, c7, c8, c9
    cdef floating* more = state + slot
    if optimizer == EMA_MOMENTUM:
        c0, c1, c2, c3, c4 = c[0], c[1], c[2], c[3], c[4]
        for j in range(n):
            theta[j] = ema_momentum(kept(theta[j], c4), grad[j], state + j, c0, c1, c2, c3)
    elif optimizer == NESTEROV:
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        for j in range(n):
            theta[j] = nesterov(kept(theta[j], c3), grad[j], state + j, c0, c1, c2)
    elif optimizer == ADAGRAD:
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        for j in range(n):
            theta[j] = adagrad(kept(theta[j], c3), grad[j], state + j, c0, c1, c2)
    elif optimizer == RMSPROP:
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        for j in range(n):
            theta[j] = rmsprop(kept(theta[j], c5), grad[j], state + j, c0, c1, c2, c3, c4)
    elif optimizer == RMSPROP_MOMENTUM:
        c0, c1, c2, c3, c4, c5, c6 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
        for j in range(n):
            theta[j] = rmsprop_momentum(
                kept(theta[j], c6), grad[j], state + j, more + j, c0, c1, c2, c3, c4, c5
            )
    elif optimizer == CENTERED_RMSPROP:
        c0, c1, c2, c3, c4, c5, c6 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
        for j in range(n):
            theta[j] = centered_rmsprop(
                kept(theta[j], c6), grad[j], state + j, more + j, more + slot + j,
                c0, c1, c2, c3, c4, c5,
            )
    elif optimizer == ADAMAX:
        c0, c1, c2, c3, c4, c5, c6 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
        for j in range(n):
            theta[j] = adamax(
                kept(theta[j], c6), grad[j], state + j, more + j, c0, c1, c2, c3, c4, c5
            )
    elif optimizer == NADAM:
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        c6, c7, c8, c9 = c[6], 1 / c[7], c[8], c[9]
        for j in range(n):
            theta[j] = nadam(
                kept(theta[j], c9), grad[j], state + j, more + j, c0, c1, c2, c3, c4, c5, c6, c7, c8
            )
    elif optimizer == LION:
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        for j in range(n):
            theta[j] = lion(kept(theta[j], c5), grad[j], state + j, c0, c1, c2, c3, c4)


cdef inline void update(
    floating* theta,
    floating* state,
    Py_ssize_t slot,
    Py_ssize_t theta_row,
    const floating* grad,
    Py_ssize_t grad_row,
    Py_ssize_t rows,
    Py_ssize_t columns,
    int optimizer,
    const floating* c,
) noexcept nogil:
    """Update rows of parameters, as far apart in their state, whose parts lie `slot` apart."""
    cdef Py_ssize_t r, j
    # Copies: for all C knows, θ lies in c.
    cdef floating c0, c1, c2, c3, c4, c5, c7, c8, c9
    cdef floating* row
    cdef floating* memory
    cdef floating* more
    cdef const floating* g
    if optimizer == STORE:
        for r in range(rows):
            row, g = theta + r * theta_row, grad + r * grad_row
            for j in range(columns):
                row[j] = g[j]
    elif optimizer == ADD:
        for r in range(rows):
            row, g = theta + r * theta_row, grad + r * grad_row
            for j in range(columns):
                row[j] += g[j]
    elif optimizer == SGD:
        c0, c1 = c[0], c[1]
        for r in range(rows):
            row, g = theta + r * theta_row, grad + r * grad_row
            for j in range(columns):
                row[j] = sgd(row[j], g[j], c0, c1)
    elif optimizer == MOMENTUM:
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        for r in range(rows):
            row, g = theta + r * theta_row, grad + r * grad_row
            memory = state + r * theta_row
            for j in range(columns):
                row[j] = momentum(kept(row[j], c3), g[j], memory + j, c0, c1, c2)
    elif optimizer == ADAM:
        c0, c1, c2, c3, c4, c5 = c[0] / c[5], c[1], c[2], c[3], c[4], 1 / c[6]
        c7, c8, c9 = c[7], c[8], c[9]
        for r in range(rows):
            row, g = theta + r * theta_row, grad + r * grad_row
            memory = state + r * theta_row
            more = memory + slot
            for j in range(columns):
                row[j] = adam(
                    kept(row[j], c9), g[j], memory + j, more + j, c0, c1, c2, c3, c4, c5, c7, c8
                )
    else:
        for r in range(rows):
            update_called(
                theta + r * theta_row, state + r * theta_row, slot, grad + r * grad_row, columns,
                optimizer, c,
            )


cdef inline void move_average(
    floating* average, const floating* theta, Py_ssize_t n, floating share
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        average[j] += share * (theta[j] - average[j])


# --- Clipping of a stored gradient ---------------------------------------------------------

cdef inline double clip_row(floating* grad, Py_ssize_t n, floating limit) noexcept nogil:
    """Limit each entry of a row, and return the sum of their squares."""
    cdef double sums[16]  # in the lanes of vectors; float32 would overflow beyond 1e19
    cdef double total = 0
    cdef Py_ssize_t j, lane
    for j in range(n):
        grad[j] = limit if grad[j] > limit else (-limit if grad[j] < -limit else grad[j])
    for lane in range(16):
        sums[lane] = 0
    for j in range(0, n - 15, 16):
        for lane in range(16):
            sums[lane] += <double> grad[j + lane] * grad[j + lane]
    for lane in range(16):
        total += sums[lane]
    for j in range(n // 16 * 16, n):
        total += <double> grad[j] * grad[j]
    return total
