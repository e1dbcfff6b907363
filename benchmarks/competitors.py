"""Each library at its strongest: what runs the steps of a problem.

A competitor takes a problem and returns a :class:`Job`. Data are converted before it is
returned; what compiles at the first call is warmed up before anything is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from .problems import Problem

__all__ = ["COMPETITORS", "Competitor", "Job"]

Array = np.ndarray


class Job(NamedTuple):
    """A problem that is ready to run.

    Parameters
    ----------
    run : callable
        Does so many steps.
    predict : callable
        Returns the outputs for rows of samples, with the parameters reached.
    gradient : callable
        Returns the gradient of the last weight for the first batch, in any storage order.
    """

    run: Callable[[int], None]
    predict: Callable[[Array], Array]
    gradient: Callable[[], Array] | None = None


def _visits(batches: list[Any]) -> Callable[[int], Iterator[Any]]:
    """Return the function that gives the batches of the next steps, again and again."""
    endless = cycle(batches)
    return lambda n_steps: islice(endless, n_steps)


# --- fastmlp ------------------------------------------------------------------------------


def fastmlp(problem: Problem, backend: str = "cython") -> Job:
    """Train inside ``fit``; single samples call ``net(x)`` and ``net.train_step``."""
    import fastmlp as fm

    fm.set_backend(backend)
    net = fm.MLP.from_sizes(problem.sizes, problem.activation, dtype=problem.dtype)
    for weight, bias, (W, b) in zip(
        net.weights, net.biases, problem.initial_parameters(), strict=True
    ):
        weight[...], bias[...] = W, b
    x, y = problem.samples()
    batches = problem.split(x, y)
    if problem.single and problem.loss == "cross_entropy":
        batches = [(sample, int(label)) for sample, label in batches]
    visits, loss, rate = _visits(batches), problem.loss, problem.learning_rate
    optimizer = fm.Adam(rate) if problem.job == "adam" else fm.SGD(rate)
    out = net.forward(batches[0][0])

    def forward(n_steps: int) -> None:
        for inputs, _ in visits(n_steps):
            net.forward(inputs, out=out)

    def call(n_steps: int) -> None:
        for sample, _ in visits(n_steps):
            net(sample)

    def gradient(n_steps: int) -> None:
        for inputs, target in visits(n_steps):
            net.value_and_grad(inputs, target, loss)

    def step(n_steps: int) -> None:
        for sample, label in visits(n_steps):
            net.train_step(sample, label, loss, optimizer=optimizer)

    def fit(n_steps: int) -> None:
        epochs = n_steps // problem.n_batches
        if epochs * problem.n_batches != n_steps:
            raise ValueError(f"n_steps must be a multiple of {problem.n_batches}, got {n_steps}")
        options = {"epochs": epochs, "batch_size": problem.batch_size, "verbose": 0}
        net.fit(x, y, loss, optimizer, shuffle=False, **options)

    if problem.trains:
        run = step if problem.single else fit
    else:
        run = {"gradient": gradient, "forward": call if problem.single else forward}[problem.job]
    return Job(run, net.predict, lambda: net.value_and_grad(*batches[0], loss)[1].weights[-1].T)


def fastmlp_numba(problem: Problem) -> Job:
    """Do the same with Numba's kernels."""
    return fastmlp(problem, "numba")


def fastmlp_numpy(problem: Problem) -> Job:
    """Do the same with the kernels of reference, in NumPy."""
    return fastmlp(problem, "numpy")


# --- NumPy --------------------------------------------------------------------------------


def numpy_plain(problem: Problem) -> Job:
    """NumPy as one writes it down first: each expression makes its arrays."""
    layers = [(W.T.copy(), b) for W, b in problem.initial_parameters()]
    batches = [(np.atleast_2d(x), y) for x, y in problem.batches()]
    relu, state = problem.activation == "relu", [[[0.0, 0.0], [0.0, 0.0]] for _ in layers]
    visits, rate, n = _visits(batches), problem.learning_rate, problem.batch_size
    steps = 0

    def forward(x: Array) -> list[Array]:
        values = [x]
        for index, (W, b) in enumerate(layers):
            z = values[-1] @ W + b
            last = index == len(layers) - 1
            values.append(z if last else np.maximum(z, 0) if relu else np.tanh(z))
        return values

    def gradient(x: Array, y: Array) -> list[tuple[Array, Array]]:
        values = forward(x)
        if problem.loss == "quadratic":
            delta = values[-1] - y
        else:
            exponentials = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
            delta = exponentials / exponentials.sum(axis=1, keepdims=True)
            delta[np.arange(n), y] -= 1
        delta = delta / n
        grads = []
        for (W, _), below in zip(layers[::-1], values[-2::-1], strict=True):
            grads.append((below.T @ delta, delta.sum(axis=0)))
            delta = (delta @ W.T) * ((below > 0) if relu else 1 - below**2)
        return grads[::-1]

    def updated(theta: Array, grad: Array, moments: list[Array]) -> Array:
        if problem.job == "sgd":
            return theta - rate * grad
        moments[0] = 0.9 * moments[0] + 0.1 * grad
        moments[1] = 0.999 * moments[1] + 0.001 * grad**2
        mean, square = moments[0] / (1 - 0.9**steps), moments[1] / (1 - 0.999**steps)
        return theta - rate * mean / (np.sqrt(square) + 1e-8)

    def run(n_steps: int) -> None:
        nonlocal steps
        for x, y in visits(n_steps):
            if problem.job == "forward":
                forward(x)
                continue
            grads = gradient(x, y)
            if problem.trains:
                steps += 1
                for index, kept in enumerate(state):
                    pairs = zip(layers[index], grads[index], kept, strict=True)
                    layers[index] = tuple(updated(*pair) for pair in pairs)

    return Job(run, lambda x: forward(x)[-1], lambda: gradient(*batches[0])[-1][0])


def numpy_in_place(problem: Problem) -> Job:
    """NumPy with every array made once, and parameters in one vector for the update."""
    initial = problem.initial_parameters()
    theta = np.concatenate([part.ravel() for W, b in initial for part in (W.T, b)])
    del initial
    adaptive = problem.job == "adam"
    grad = np.zeros_like(theta)
    m, v, scratch = (np.zeros_like(theta if adaptive else theta[:0]) for _ in range(3))

    def layers_of(vector: Array) -> list[tuple[Array, Array]]:
        """Return W (n_in, n_out) and b (n_out,) of each layer as views."""
        views, start = [], 0
        for n_in, n_out in pairwise(problem.sizes):
            middle, stop = start + n_in * n_out, start + (n_in + 1) * n_out
            views.append((vector[start:middle].reshape(n_in, n_out), vector[middle:stop]))
            start = stop
        return views

    layers, grads = layers_of(theta), layers_of(grad)
    n, relu, rate = problem.batch_size, problem.activation == "relu", problem.learning_rate
    values = [np.empty((n, size), problem.dtype) for size in problem.sizes[1:]]
    deltas, slopes = [np.empty_like(a) for a in values], [np.empty_like(a) for a in values]
    batches = [(np.atleast_2d(x), y) for x, y in problem.batches()]
    visits, rows, steps = _visits(batches), np.arange(n), 0
    outer = np.multiply if n == 1 else np.matmul

    def forward(x: Array, outputs: list[Array]) -> Array:
        for index, ((W, b), out) in enumerate(zip(layers, outputs, strict=True)):
            np.matmul(x, W, out=out)
            np.add(out, b, out=out)
            if index < len(layers) - 1:
                np.maximum(out, 0, out=out) if relu else np.tanh(out, out=out)
            x = out
        return x

    def gradient(x: Array, y: Array) -> None:
        output, delta = forward(x, values), deltas[-1]
        if problem.loss == "cross_entropy":
            largest = np.maximum.reduce(output, axis=1, keepdims=True)
            np.subtract(output, largest, out=delta)
            np.exp(delta, out=delta)
            delta /= np.add.reduce(delta, axis=1, keepdims=True)
            delta[rows, y] -= 1
        else:
            np.subtract(output, y, out=delta)
        delta *= 1 / n
        for index in reversed(range(len(layers))):
            below = values[index - 1] if index else x
            outer(below.T, deltas[index], out=grads[index][0])
            np.add.reduce(deltas[index], axis=0, out=grads[index][1])
            if index:
                np.matmul(deltas[index], layers[index][0].T, out=deltas[index - 1])
                slope = slopes[index - 1]
                if relu:
                    np.greater(below, 0, out=slope)
                else:
                    np.subtract(1, np.multiply(below, below, out=slope), out=slope)
                deltas[index - 1] *= slope

    def sgd() -> None:
        np.multiply(grad, rate, out=grad)
        np.subtract(theta, grad, out=theta)

    def adam() -> None:
        nonlocal steps
        steps += 1
        np.multiply(m, 0.9, out=m)
        np.add(m, np.multiply(grad, 0.1, out=scratch), out=m)
        np.multiply(v, 0.999, out=v)
        np.multiply(grad, grad, out=scratch)
        np.add(v, np.multiply(scratch, 0.001, out=scratch), out=v)
        np.multiply(v, 1 / (1 - 0.999**steps), out=scratch)
        np.add(np.sqrt(scratch, out=scratch), 1e-8, out=scratch)
        np.divide(m, scratch, out=scratch)
        np.multiply(scratch, rate / (1 - 0.9**steps), out=scratch)
        np.subtract(theta, scratch, out=theta)

    update = {"sgd": sgd, "adam": adam}.get(problem.job)

    def run(n_steps: int) -> None:
        for x, y in visits(n_steps):
            if problem.job == "forward":
                forward(x, values)
                continue
            gradient(x, y)
            if update:
                update()

    def predict(x: Array) -> Array:
        return forward(x, [np.empty((len(x), size), x.dtype) for size in problem.sizes[1:]])

    def last_gradient() -> Array:
        gradient(*batches[0])
        return grads[-1][0]

    return Job(run, predict, last_gradient)


# --- Peers --------------------------------------------------------------------------------


def sklearn(problem: Problem) -> Job:
    """scikit-learn's ``MLPClassifier``: epochs of ``partial_fit``, or ``predict_proba``."""
    from sklearn.neural_network import MLPClassifier

    if problem.loss != "cross_entropy" or problem.job == "gradient":
        raise ImportError("measured for training and outputs of classifiers only")
    x, y = problem.samples()
    net = MLPClassifier(
        problem.sizes[1:-1],
        activation=problem.activation,
        solver=problem.job if problem.trains else "adam",
        alpha=0.0,
        batch_size=problem.batch_size,
        learning_rate_init=problem.learning_rate,
        momentum=0.0,
        nesterovs_momentum=False,
        shuffle=False,
    )
    # This makes the arrays and the optimizer.
    net.partial_fit(x[:1], y[:1], classes=np.arange(problem.sizes[-1]))
    for coef, intercept, (W, b) in zip(
        net.coefs_, net.intercepts_, problem.initial_parameters(), strict=True
    ):
        coef[...], intercept[...] = W.T, b
    if problem.job == "adam":
        for moment in (*net._optimizer.ms, *net._optimizer.vs):
            moment[...] = 0
        net._optimizer.t = 0
        # It adds epsilon before it corrects the bias: others' 1e-8 is this there.
        kind = type(net._optimizer)
        epsilon = property(lambda self: 1e-8 * sqrt(1 - 0.999**self.t), lambda self, value: None)
        net._optimizer.__class__ = type(kind.__name__, (kind,), {"epsilon": epsilon})

    def train(n_steps: int) -> None:
        for _ in range(n_steps // problem.n_batches):
            net.partial_fit(x, y)

    first = x[: problem.batch_size]

    def forward(n_steps: int) -> None:
        for _ in range(n_steps):
            net.predict_proba(first)

    # Its outputs are probabilities: their logarithms are logits, up to a constant of each row.
    return Job(
        train if problem.trains else forward,
        lambda x: np.log(np.maximum(net.predict_proba(x), np.finfo(x.dtype).tiny)),
    )


def torch(problem: Problem, compiled: bool = False) -> Job:
    """PyTorch, eager, with fused optimizers and batches that are tensors already."""
    import torch as th

    activation = {"relu": th.nn.ReLU, "tanh": th.nn.Tanh}[problem.activation]
    modules: list[th.nn.Module] = []
    for W, b in problem.initial_parameters():
        weight = th.from_numpy(W).clone()  # where PyTorch's own memory begins
        layer = th.nn.utils.skip_init(th.nn.Linear, W.shape[1], W.shape[0], dtype=weight.dtype)
        layer.weight.data, layer.bias.data = weight, th.from_numpy(b).clone()
        modules += [layer, activation()]
    net = th.nn.Sequential(*modules[:-1])
    make = th.optim.Adam if problem.job == "adam" else th.optim.SGD
    optimizer = make(net.parameters(), lr=problem.learning_rate, fused=True)
    batches = [(th.from_numpy(x).clone(), th.as_tensor(y)) for x, y in problem.batches()]
    visits = _visits(batches)

    def loss(x: th.Tensor, y: th.Tensor) -> th.Tensor:
        if problem.loss == "quadratic":
            return th.nn.functional.mse_loss(net(x), y) * (problem.sizes[-1] / 2)
        return th.nn.functional.cross_entropy(net(x), y)

    outputs = th.compile(net, dynamic=False) if compiled else net
    loss = th.compile(loss, dynamic=False) if compiled else loss

    @th.inference_mode()
    def forward(n_steps: int) -> None:
        for x, _ in visits(n_steps):
            outputs(x)

    def train(n_steps: int) -> None:
        for x, y in visits(n_steps):
            optimizer.zero_grad(set_to_none=True)
            loss(x, y).backward()
            if problem.trains:
                optimizer.step()

    def predict(x: Array) -> Array:
        with th.inference_mode():
            return net(th.from_numpy(x)).numpy()

    def gradient() -> Array:
        optimizer.zero_grad(set_to_none=True)
        loss(*batches[0]).backward()
        return net[-1].weight.grad.numpy().T

    return Job(forward if problem.job == "forward" else train, predict, gradient)


def torch_compiled(problem: Problem) -> Job:
    """PyTorch with ``torch.compile`` for the outputs, or for the loss and its gradient."""
    return torch(problem, compiled=True)


def jax(problem: Problem, scanned: bool = False) -> Job:
    """JAX, one compiled function a step, with donated parameters and optimizer state."""
    import jax as jx
    import jax.numpy as jnp

    jx.config.update("jax_enable_x64", problem.dtype == "float64")
    batches = [(jnp.asarray(x), jnp.asarray(y)) for x, y in problem.batches()]
    parameters = [(jnp.asarray(W.T), jnp.asarray(b)) for W, b in problem.initial_parameters()]
    activation = {"relu": jx.nn.relu, "tanh": jnp.tanh}[problem.activation]
    visits, rate, n = _visits(batches), problem.learning_rate, problem.batch_size

    def forward(parameters, x):
        for W, b in parameters[:-1]:
            x = activation(x @ W + b)
        W, b = parameters[-1]
        return x @ W + b

    def loss(parameters, x, y):
        output = forward(parameters, x)
        if problem.loss == "quadratic":
            return 0.5 * jnp.sum((output - y) ** 2) / n
        chosen = jnp.take_along_axis(jx.nn.log_softmax(output), y[..., None], axis=-1)
        return -jnp.mean(chosen)

    def sgd(parameters, state, step, x, y):
        grad = jx.grad(loss)(parameters, x, y)
        return jx.tree.map(lambda p, g: p - rate * g, parameters, grad), state

    def adam(parameters, state, step, x, y):
        grad = jx.grad(loss)(parameters, x, y)
        m = jx.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grad)
        v = jx.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grad)
        c1, c2 = 1 - 0.9**step, 1 - 0.999**step
        parameters = jx.tree.map(
            lambda p, m, v: p - rate * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), parameters, m, v
        )
        return parameters, (m, v)

    rule = sgd if problem.job == "sgd" else adam

    def epoch(parameters, state, step, x, y):
        def update(carried, batch):
            parameters, state, step = carried
            return (*rule(parameters, state, step + 1, *batch), step + 1), None

        return jx.lax.scan(update, (parameters, state, step), (x, y))[0]

    outputs, gradients = jx.jit(forward), jx.jit(jx.value_and_grad(loss))
    update, run_epoch = (jx.jit(each, donate_argnums=(0, 1)) for each in (rule, epoch))
    n_moments = 2 if problem.job == "adam" else 0
    moments = [jx.tree.map(jnp.zeros_like, parameters) for _ in range(n_moments)]
    kept = {"parameters": parameters, "state": tuple(moments), "step": 0.0}

    all_batches = [jnp.stack(arrays) for arrays in zip(*batches, strict=True)] if scanned else []

    def train(n_steps: int) -> None:
        parameters, state, step = kept.values()
        for x, y in visits(0 if scanned else n_steps):
            step += 1
            parameters, state = update(parameters, state, step, x, y)
        for _ in range(n_steps // problem.n_batches if scanned else 0):
            parameters, state, step = run_epoch(parameters, state, step, *all_batches)
        jx.block_until_ready(parameters)
        kept.update(parameters=parameters, state=state, step=step)

    def gradient(n_steps: int) -> None:
        for x, y in visits(n_steps):
            jx.block_until_ready(gradients(kept["parameters"], x, y))

    def run_forward(n_steps: int) -> None:
        for x, _ in visits(n_steps):
            outputs(kept["parameters"], x).block_until_ready()

    return Job(
        {"gradient": gradient, "forward": run_forward}.get(problem.job, train),
        lambda x: np.asarray(outputs(kept["parameters"], x)),
        lambda: np.asarray(gradients(kept["parameters"], *batches[0])[1][-1][0]),
    )


def jax_scan(problem: Problem) -> Job:
    """JAX, one compiled function an epoch."""
    return jax(problem, scanned=True)


def onnxruntime(problem: Problem) -> Job:
    """ONNX Runtime, with bound inputs and outputs: always the first batch."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    if problem.job != "forward":
        raise ImportError("ONNX Runtime runs networks, it does not train them")
    kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[problem.dtype]
    nodes, constants, name = [], [], "x"
    operator = {"relu": "Relu", "tanh": "Tanh"}[problem.activation]
    for index, (W, b) in enumerate(problem.initial_parameters()):
        constants += [
            numpy_helper.from_array(np.ascontiguousarray(W.T), f"W{index}"),
            numpy_helper.from_array(b, f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
        name = f"z{index}"
        if index < len(problem.sizes) - 2:
            nodes.append(helper.make_node(operator, [name], [f"a{index}"]))
            name = f"a{index}"
    x = np.atleast_2d(problem.batches()[0][0])
    out = np.empty((len(x), problem.sizes[-1]), problem.dtype)
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(name, kind, out.shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output(
        name, "cpu", element_type=out.dtype.type, shape=out.shape, buffer_ptr=out.ctypes.data
    )

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            session.run_with_iobinding(binding)

    return Job(run, lambda _: out)


@dataclass(frozen=True)
class Competitor:
    """A library, or a way to use it.

    Parameters
    ----------
    make : callable
        Prepares a problem.
    modules : tuple of str
        What it imports, for the time that this takes.
    peer : bool
        Whether it needs a library of the extra ``peers``.
    """

    make: Callable[[Problem], Job]
    modules: tuple[str, ...]
    peer: bool = True


#: All competitors; the first is the one that others are compared with.
COMPETITORS = {
    "fastmlp": Competitor(fastmlp, ("fastmlp",), peer=False),
    "fastmlp numba": Competitor(fastmlp_numba, ("fastmlp", "numba"), peer=False),
    "fastmlp numpy": Competitor(fastmlp_numpy, ("fastmlp",), peer=False),
    "NumPy in place": Competitor(numpy_in_place, ("numpy",), peer=False),
    "NumPy plain": Competitor(numpy_plain, ("numpy",), peer=False),
    "scikit-learn": Competitor(sklearn, ("sklearn.neural_network",)),
    "PyTorch": Competitor(torch, ("torch",)),
    "PyTorch compiled": Competitor(torch_compiled, ("torch", "torch._dynamo")),
    "JAX": Competitor(jax, ("jax", "jax.numpy")),
    "JAX scan": Competitor(jax_scan, ("jax", "jax.numpy")),
    "ONNX Runtime": Competitor(onnxruntime, ("onnx", "onnxruntime")),
}
