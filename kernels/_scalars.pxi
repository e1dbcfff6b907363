# One element at a time: each activation, loss and update, forward and backward, is defined
# here once, as a scalar function without branches that the loops below it apply to a row.
# The compiler inlines and vectorises them. To add one, write its functions and its line in
# each of the two `if` chains.

from libc.math cimport INFINITY, log, log1p
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
    float fast_tanh(float z)
    double fast_tanh(double z)

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


# --- Activations: σ(z), and grad · σ' from y = σ(z) or from z, as the catalogue says -------

cdef inline bint takes_z(int activation) noexcept nogil:
    """Return whether the derivative is taken from z rather than from y."""
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
    return grad * (y * (1 - y))


cdef inline floating tanh_gradient(floating y, floating grad) noexcept nogil:
    return grad * (1 - y * y)


cdef inline floating silu(floating z) noexcept nogil:
    return floored(z) * fast_sigmoid(z)


cdef inline floating silu_gradient(floating z, floating grad) noexcept nogil:
    return grad * fast_sigmoid(z) * (1 + bounded(z) * fast_sigmoid(-z))


cdef inline floating elu(floating z, floating alpha) noexcept nogil:
    return z if z > 0 else alpha * fast_expm1(z)


cdef inline floating elu_gradient(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (1 if y > 0 else y + alpha)


cdef inline floating celu(floating z, floating alpha) noexcept nogil:
    return z if z > 0 else alpha * fast_expm1(z / alpha)


cdef inline floating celu_gradient(floating y, floating grad, floating alpha) noexcept nogil:
    return grad * (1 if y > 0 else y / alpha + 1)


cdef inline floating selu(floating z) noexcept nogil:
    return <floating> SELU_SCALE * elu(z, <floating> SELU_ALPHA)


cdef inline floating selu_gradient(floating y, floating grad) noexcept nogil:
    cdef floating scale = <floating> SELU_SCALE
    return grad * (scale if y > 0 else y + <floating> (SELU_SCALE * SELU_ALPHA))


cdef inline floating gelu(floating z) noexcept nogil:
    return floored(z) * fast_normal_cdf(z)


cdef inline floating gelu_gradient(floating z, floating grad) noexcept nogil:
    cdef floating density = <floating> ONE_OVER_SQRT_2PI * fast_gaussian(z)
    return grad * (fast_normal_cdf(z) + bounded(z) * density)


cdef inline floating gelu_tanh(floating z) noexcept nogil:
    cdef floating u = <floating> SQRT_2_OVER_PI * (z + <floating> GELU_CUBE * (z * z * z))
    return floored(z) * fast_sigmoid(2 * u)


cdef inline floating gelu_tanh_gradient(floating z, floating grad) noexcept nogil:
    cdef floating x = bounded(z)
    cdef floating u = <floating> SQRT_2_OVER_PI * (x + <floating> GELU_CUBE * (x * x * x))
    cdef floating slope = <floating> SQRT_2_OVER_PI * (1 + <floating> (3 * GELU_CUBE) * (x * x))
    return grad * fast_sigmoid(2 * u) * (1 + 2 * x * fast_sigmoid(-2 * u) * slope)


cdef inline floating mish(floating z) noexcept nogil:
    """tanh(log(1 + e)) = n / (n + 2) with e = exp(z) and n = e (e + 2); 1 from z = 20 on."""
    cdef floating e = fast_exp(z if not z > 20 else 20)
    cdef floating n = e * (e + 2)
    return floored(z) * (n / (n + 2))


cdef inline floating mish_gradient(floating z, floating grad) noexcept nogil:
    """With t = n / (n + 2) the derivative's second term is z · 4e (1 + e) / (n + 2)²."""
    cdef floating x = floored(z if not z > 20 else 20)
    cdef floating e = fast_exp(x)
    cdef floating n = e * (e + 2)
    return grad * ((n + 4 * x * (e * ((1 + e) / (n + 2)))) / (n + 2))


cdef inline floating softplus(floating z, floating beta) noexcept nogil:
    cdef floating x = beta * z
    return z if x > 20 else (relu(x) + fast_log1p(fast_exp(-fabs(x)))) / beta


cdef inline floating softplus_gradient(
    floating z, floating grad, floating beta
) noexcept nogil:
    cdef floating x = beta * z
    return grad if x > 20 else grad * fast_sigmoid(x)


cdef inline floating softsign(floating z) noexcept nogil:
    cdef floating size = fabs(z)
    return copysign(1 if size > <floating> LARGE else size / (1 + size), z)


cdef inline floating softsign_gradient(floating y, floating grad) noexcept nogil:
    return grad * ((1 - fabs(y)) * (1 - fabs(y)))


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
    return relu6(z + 3) / 6


cdef inline floating hard_sigmoid_gradient(floating z, floating grad) noexcept nogil:
    return grad / 6 if (z > -3) & (z < 3) else 0


cdef inline floating hard_swish(floating z) noexcept nogil:
    return floored(z) * hard_sigmoid(z)


cdef inline floating hard_swish_gradient(floating z, floating grad) noexcept nogil:
    cdef floating slope = z / 3 + <floating> 0.5
    slope = grad if z >= 3 else grad * slope
    return 0 if z <= -3 else slope


cdef void activate(
    const floating* z, Py_ssize_t n, int activation, floating alpha, floating* out
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
    else:
        for j in range(n):
            out[j] = z[j]


cdef void apply_derivative(
    const floating* y_or_z, Py_ssize_t n, int activation, floating alpha, floating* grad
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


# --- Losses: L of a sample and share · ∂L/∂o ----------------------------------------------
# A target is a row of values, or a label where the row is NULL.

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


cdef inline void softmax(const floating* z, Py_ssize_t n, floating* out) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating highest = row_maximum(z, n), total = sum_exp(z, n, highest)
    for j in range(n):
        out[j] = fast_exp(z[j] - highest) / total


cdef inline floating squared_distance(
    const floating* output, const floating* target, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += (output[j] - target[j]) * (output[j] - target[j])
    return total


cdef inline floating cross_entropy(
    const floating* output, const floating* target, Py_ssize_t label, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0, highest = row_maximum(output, n)
    cdef floating log_sum = <floating> log(sum_exp(output, n, highest))
    if target is NULL:
        return log_sum - (output[label] - highest)
    for j in range(n):  # a class of probability 0 costs nothing, even with logit −inf
        total += 0 if target[j] == 0 else target[j] * (log_sum - (output[j] - highest))
    return total


cdef inline floating binary_cross_entropy(
    const floating* output, const floating* target, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    for j in range(n):
        total += relu(output[j]) - output[j] * target[j]
        total += <floating> log1p(fast_exp(-fabs(output[j])))
    return total / n


cdef inline floating loss_value(
    const floating* output, const floating* target, Py_ssize_t label, Py_ssize_t n, int loss
) noexcept nogil:
    """Return L of one sample."""
    if loss == CROSS_ENTROPY:
        return cross_entropy(output, target, label, n)
    if loss == BINARY_CROSS_ENTROPY:
        return binary_cross_entropy(output, target, n)
    if loss == MSE:
        return squared_distance(output, target, n) / n
    return squared_distance(output, target, n) * <floating> 0.5


cdef inline void cross_entropy_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    floating share,
    floating* out,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef floating total = 0
    softmax(output, n, out)
    if target is NULL:
        for j in range(n):
            out[j] *= share
        out[label] -= share
        return
    for j in range(n):
        total += target[j]
    for j in range(n):
        out[j] = share * (total * out[j] - target[j])


cdef inline void loss_gradient(
    const floating* output,
    const floating* target,
    Py_ssize_t label,
    Py_ssize_t n,
    int loss,
    floating share,
    floating* out,
) noexcept nogil:
    """Write out = share · ∂L/∂o of one sample; a share of 0 gives 0 whatever o holds."""
    cdef Py_ssize_t j
    cdef floating scale = share
    if share == 0:
        for j in range(n):
            out[j] = 0
    elif loss == CROSS_ENTROPY:
        cross_entropy_gradient(output, target, label, n, share, out)
    elif loss == BINARY_CROSS_ENTROPY:
        for j in range(n):
            out[j] = share * ((fast_sigmoid(output[j]) - target[j]) / n)
    else:
        if loss == MSE:
            scale = share * (<floating> 2 / n)
        for j in range(n):
            out[j] = scale * (output[j] - target[j])


# --- Updates: one step of θ, from the coefficients in the order of the catalogue ----------

cdef inline floating sgd(
    floating theta, floating grad, floating learning_rate, floating decay
) noexcept nogil:
    return theta - learning_rate * (grad + decay * theta)


cdef inline floating momentum(
    floating theta,
    floating grad,
    floating* velocity,
    floating learning_rate,
    floating decay,
    floating beta,
) noexcept nogil:
    velocity[0] = beta * velocity[0] - learning_rate * (grad + decay * theta)
    return theta + velocity[0]


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
    first[0] = beta1 * first[0] + rest1 * grad
    second[0] = beta2 * second[0] + rest2 * (grad * grad)
    return theta - step * first[0] / (sqrt(second[0] * inverse2) + eps)


cdef inline void update(
    floating* theta,
    floating* state,
    Py_ssize_t slot,
    const floating* grad,
    Py_ssize_t n,
    int optimizer,
    const floating* c,
) noexcept nogil:
    """Update a row of parameters; their state's rows lie `slot` elements apart."""
    cdef Py_ssize_t j
    cdef floating c0, c1, c2, c3, c4, c5, c7, c8  # copies: for all C knows, θ lies in c
    if optimizer == STORE:
        for j in range(n):
            theta[j] = grad[j]
    elif optimizer == SGD:
        c0, c1 = c[0], c[1]
        for j in range(n):
            theta[j] = sgd(theta[j], grad[j], c0, c1)
    elif optimizer == MOMENTUM:
        c0, c1, c2 = c[0], c[1], c[2]
        for j in range(n):
            theta[j] = momentum(theta[j], grad[j], state + j, c0, c1, c2)
    elif optimizer == ADAM:
        c0, c1, c2, c3, c4, c5 = c[0] / c[5], c[1], c[2], c[3], c[4], 1 / c[6]
        c7, c8 = c[7], c[8]
        for j in range(n):
            theta[j] = adam(
                theta[j], grad[j], state + j, state + slot + j, c0, c1, c2, c3, c4, c5, c7, c8
            )
