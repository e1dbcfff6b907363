# One element at a time: each activation, loss and update, forward and backward, is defined
# here once, as a scalar function without branches that the loops below it apply to a row.
# The compiler inlines and vectorises them. To add one, write its functions and its line in
# each of the two `if` chains.

from libc.math cimport INFINITY, log, log1p
from cython cimport floating

cdef extern from "elementary.hpp" namespace "fastmlp" nogil:
    float fast_exp(float z)
    double fast_exp(double z)
    float fast_tanh(float z)
    double fast_tanh(double z)

cdef extern from "<cmath>" namespace "std" nogil:
    float fabs(float z)
    double fabs(double z)
    float sqrt(float z)
    double sqrt(double z)

include "_codes.pxi"

cdef enum:
    STORE = -1  # the update that writes the gradient itself
    MAX_COEFFICIENTS = 16
    PACKING_TILES = 4  # tiles that read a panel and so repay that it is packed


# --- Activations: σ(z) and grad · σ'(z) in terms of y = σ(z) ------------------------------

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


cdef inline floating sigmoid(floating z) noexcept nogil:
    cdef floating small = fast_exp(-fabs(z))
    return (small if z < 0 else 1) / (1 + small)


cdef inline floating sigmoid_gradient(floating y, floating grad) noexcept nogil:
    return grad * (y * (1 - y))


cdef inline floating tanh_gradient(floating y, floating grad) noexcept nogil:
    return grad * (1 - y * y)


cdef inline void activate(
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
            out[j] = sigmoid(z[j])
    elif activation == TANH:
        for j in range(n):
            out[j] = fast_tanh(z[j])
    else:
        for j in range(n):
            out[j] = z[j]


cdef inline void apply_derivative(
    const floating* y,
    const floating* grad,
    Py_ssize_t n,
    int activation,
    floating alpha,
    floating* out,
) noexcept nogil:
    """Write out = grad ⊙ σ' for a row; out may be grad."""
    cdef Py_ssize_t j
    if activation == RELU:
        for j in range(n):
            out[j] = relu_gradient(y[j], grad[j])
    elif activation == LEAKY_RELU:
        for j in range(n):
            out[j] = leaky_relu_gradient(y[j], grad[j], alpha)
    elif activation == SIGMOID:
        for j in range(n):
            out[j] = sigmoid_gradient(y[j], grad[j])
    elif activation == TANH:
        for j in range(n):
            out[j] = tanh_gradient(y[j], grad[j])
    else:
        for j in range(n):
            out[j] = grad[j]


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
            out[j] = share * ((sigmoid(output[j]) - target[j]) / n)
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
    mean[0] = beta * mean[0] + rest * (grad + decay * theta)
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
    lookahead[0] = next_beta * (lookahead[0] - change)
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
    mean_square[0] = beta * mean_square[0] + rest * (grad * grad)
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
    mean_square[0] = beta * mean_square[0] + rest * (grad * grad)
    velocity[0] = momentum_beta * velocity[0] + grad / (sqrt(mean_square[0]) + eps)
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
    mean_square[0] = beta * mean_square[0] + rest * (grad * grad)
    mean[0] = beta * mean[0] + rest * grad
    square = mean[0] * mean[0]
    variance = mean_square[0] - square if square < mean_square[0] else 0
    velocity[0] = momentum_beta * velocity[0] + grad / (sqrt(variance) + eps)
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
    first[0] = beta1 * first[0] + rest1 * grad
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
    first[0] = beta1 * first[0] + rest1 * grad
    second[0] = beta2 * second[0] + rest2 * (grad * grad)
    change = gradient_rate * grad + moment_rate * first[0]
    return theta - change / (sqrt(second[0] * inverse2) + eps)


cdef inline floating sign(floating z) noexcept nogil:
    return 1 if z > 0 else (-1 if z < 0 else z)  # NaN stays


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
    mean[0] = beta2 * mean[0] + rest2 * grad
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
    const floating* grad,
    Py_ssize_t n,
    int optimizer,
    const floating* c,
) noexcept nogil:
    """Update a row of parameters; their state's rows lie `slot` elements apart."""
    cdef Py_ssize_t j
    # Copies: for all C knows, θ lies in c.
    cdef floating c0, c1, c2, c3, c4, c5, c7, c8, c9
    if optimizer == STORE:
        for j in range(n):
            theta[j] = grad[j]
    elif optimizer == SGD:
        c0, c1 = c[0], c[1]
        for j in range(n):
            theta[j] = sgd(theta[j], grad[j], c0, c1)
    elif optimizer == MOMENTUM:
        c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
        for j in range(n):
            theta[j] = momentum(kept(theta[j], c3), grad[j], state + j, c0, c1, c2)
    elif optimizer == ADAM:
        c0, c1, c2, c3, c4, c5 = c[0] / c[5], c[1], c[2], c[3], c[4], 1 / c[6]
        c7, c8, c9 = c[7], c[8], c[9]
        for j in range(n):
            theta[j] = adam(
                kept(theta[j], c9), grad[j], state + j, state + slot + j,
                c0, c1, c2, c3, c4, c5, c7, c8,
            )
    else:
        update_called(theta, state, slot, grad, n, optimizer, c)


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
