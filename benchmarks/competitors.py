"""Each library at its strongest: a function that makes a run of steps of a problem.

A competitor takes a problem and returns two functions: ``run(n_steps)`` does so many
steps, or forward passes, and ``result()`` returns the outputs for the first batch with the
parameters reached, by which equal work is checked. Data are converted, and code is
compiled, before they are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
from problems import Problem

__all__ = ["COMPETITORS", "Job", "torch_network"]

Job = tuple[Callable[[int], None], Callable[[], np.ndarray]]


class _Cycle:
    """The indices of batches, visited in order again and again."""

    def __init__(self, n_batches: int) -> None:
        self.endless = cycle(range(n_batches))

    def next(self, n_steps: int) -> Iterator[int]:
        """Return the indices of the next steps."""
        return islice(self.endless, n_steps)


def _fastmlp(problem: Problem, backend: str) -> Job:
    import fastmlp as fm

    fm.set_backend(backend)
    net = fm.MLP.from_sizes(problem.sizes, problem.activation, dtype=problem.dtype)
    for weight, bias, (W, b) in zip(
        net.weights, net.biases, problem.initial_parameters(), strict=True
    ):
        weight[...], bias[...] = W, b
    x, y = problem.samples()
    first = x[: problem.batch_size]
    if problem.optimizer is None:
        out = net.forward(first)

        def run(n_steps: int) -> None:
            for _ in range(n_steps):
                net.forward(first, out=out)

        return run, lambda: out
    rate = problem.learning_rate
    optimizer = fm.Adam(rate) if problem.optimizer == "adam" else fm.SGD(rate)

    def train(n_steps: int) -> None:
        if n_steps % problem.n_batches:
            raise ValueError(f"n_steps must be a multiple of {problem.n_batches}, got {n_steps}")
        net.fit(
            x,
            y,
            problem.loss,
            optimizer,
            epochs=n_steps // problem.n_batches,
            batch_size=problem.batch_size,
            shuffle=False,
            verbose=0,
        )

    return train, lambda: net.forward(first)


def fastmlp(problem: Problem) -> Job:
    """fastmlp with its compiled kernels; training is timed inside ``fit``."""  # noqa: D403
    return _fastmlp(problem, "cython")


def numba(problem: Problem) -> Job:
    """fastmlp with its Numba kernels."""  # noqa: D403
    return _fastmlp(problem, "numba")


def numpy(problem: Problem) -> Job:
    """fastmlp with its NumPy reference, the baseline."""  # noqa: D403
    return _fastmlp(problem, "numpy")


def torch_network(problem: Problem) -> Any:
    """Build a problem's network in PyTorch."""
    import torch as th

    activation = {"relu": th.nn.ReLU, "tanh": th.nn.Tanh}[problem.activation]
    modules: list[th.nn.Module] = []
    for W, b in problem.initial_parameters():
        weight = th.from_numpy(W)
        layer = th.nn.utils.skip_init(th.nn.Linear, W.shape[1], W.shape[0], dtype=weight.dtype)
        layer.weight.data, layer.bias.data = weight, th.from_numpy(b)
        modules += [layer, activation()]
    return th.nn.Sequential(*modules[:-1])


def torch(problem: Problem) -> Job:
    """PyTorch, eager, with fused optimizers and batches that are views of one tensor."""
    import torch as th

    x, y = (th.from_numpy(array) for array in problem.samples())
    net = torch_network(problem)
    batches = list(zip(x.split(problem.batch_size), y.split(problem.batch_size), strict=True))
    first = batches[0][0]

    @th.inference_mode()
    def forward(n_steps: int) -> None:
        for _ in range(n_steps):
            net(first)

    def result() -> np.ndarray:
        with th.inference_mode():
            return net(first).numpy()

    if problem.optimizer is None:
        return forward, result
    make = {"adam": th.optim.Adam, "sgd": th.optim.SGD}[problem.optimizer]
    optimizer = make(net.parameters(), lr=problem.learning_rate, fused=True)
    n_out = problem.sizes[-1]

    def quadratic(output: th.Tensor, target: th.Tensor) -> th.Tensor:
        return th.nn.functional.mse_loss(output, target) * (n_out / 2)

    losses = {"cross_entropy": th.nn.functional.cross_entropy, "quadratic": quadratic}
    loss, visits = losses[problem.loss], _Cycle(problem.n_batches)

    def train(n_steps: int) -> None:
        for index in visits.next(n_steps):
            inputs, target = batches[index]
            optimizer.zero_grad(set_to_none=True)
            loss(net(inputs), target).backward()
            optimizer.step()

    return train, result


def jax(problem: Problem) -> Job:
    """JAX, one compiled step with donated parameters and optimizer state."""
    import jax as jx
    import jax.numpy as jnp

    jx.config.update("jax_enable_x64", problem.dtype == "float64")
    x, y = problem.samples()
    n, rate = problem.batch_size, problem.learning_rate
    batches = [(jnp.asarray(x[i : i + n]), jnp.asarray(y[i : i + n])) for i in range(0, len(x), n)]
    parameters = [(jnp.asarray(W.T), jnp.asarray(b)) for W, b in problem.initial_parameters()]
    activation = {"relu": jx.nn.relu, "tanh": jnp.tanh}[problem.activation]

    def forward(parameters, x):
        for W, b in parameters[:-1]:
            x = activation(x @ W + b)
        W, b = parameters[-1]
        return x @ W + b

    def mean_loss(parameters, x, y):
        output = forward(parameters, x)
        if problem.loss == "quadratic":
            return 0.5 * jnp.sum((output - y) ** 2) / len(x)
        return -jnp.mean(jnp.take_along_axis(jx.nn.log_softmax(output), y[:, None], axis=1))

    def sgd(parameters, state, step, x, y):
        grad = jx.grad(mean_loss)(parameters, x, y)
        return jx.tree.map(lambda p, g: p - rate * g, parameters, grad), state

    def adam(parameters, state, step, x, y):
        grad = jx.grad(mean_loss)(parameters, x, y)
        m = jx.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], grad)
        v = jx.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], grad)
        c1, c2 = 1 - 0.9**step, 1 - 0.999**step
        parameters = jx.tree.map(
            lambda p, m, v: p - rate * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), parameters, m, v
        )
        return parameters, (m, v)

    compiled = jx.jit(forward)
    if problem.optimizer is None:
        first = batches[0][0]

        def run(n_steps: int) -> None:
            for _ in range(n_steps):
                compiled(parameters, first).block_until_ready()

        return run, lambda: np.asarray(compiled(parameters, first))
    step_function = jx.jit({"sgd": sgd, "adam": adam}[problem.optimizer], donate_argnums=(0, 1))
    zeros = [jx.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
    kept = {"parameters": parameters, "state": tuple(zeros), "step": 0.0}
    visits = _Cycle(problem.n_batches)

    def train(n_steps: int) -> None:
        parameters, state, step = kept["parameters"], kept["state"], kept["step"]
        for index in visits.next(n_steps):
            step += 1
            parameters, state = step_function(parameters, state, step, *batches[index])
        jx.block_until_ready(parameters)
        kept.update(parameters=parameters, state=state, step=step)

    return train, lambda: np.asarray(compiled(kept["parameters"], batches[0][0]))


def onnxruntime(problem: Problem) -> Job:
    """ONNX Runtime, forward only, with bound inputs and outputs."""
    import os

    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    if problem.optimizer is not None:
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
    shape = [problem.batch_size, problem.sizes[0]]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, [shape[0], problem.sizes[-1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = problem.samples()[0][: problem.batch_size]
    out = np.empty((problem.batch_size, problem.sizes[-1]), problem.dtype)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output(
        name, "cpu", element_type=out.dtype.type, shape=out.shape, buffer_ptr=out.ctypes.data
    )

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            session.run_with_iobinding(binding)

    return run, lambda: out


def sklearn(problem: Problem) -> Job:
    """scikit-learn's ``MLPClassifier`` by ``partial_fit``, forward by ``predict_proba``."""
    from sklearn.neural_network import MLPClassifier

    if problem.loss != "cross_entropy":
        raise ImportError("measured for classifiers only")
    x, y = problem.samples()
    n = problem.batch_size
    classes = np.arange(problem.sizes[-1])
    net = MLPClassifier(
        problem.sizes[1:-1],
        activation=problem.activation,
        solver=problem.optimizer or "adam",
        alpha=0.0,
        batch_size=n,
        learning_rate_init=problem.learning_rate,
        momentum=0.0,
        nesterovs_momentum=False,
    )
    net.partial_fit(x[:n], y[:n], classes=classes)  # makes the arrays and the optimizer
    for coef, intercept, (W, b) in zip(
        net.coefs_, net.intercepts_, problem.initial_parameters(), strict=True
    ):
        coef[...], intercept[...] = W.T, b
    if problem.optimizer == "adam":
        for moment in (*net._optimizer.ms, *net._optimizer.vs):
            moment[...] = 0
        net._optimizer.t = 0
    visits = _Cycle(problem.n_batches)

    def train(n_steps: int) -> None:
        for index in visits.next(n_steps):
            batch = slice(index * n, (index + 1) * n)
            net.partial_fit(x[batch], y[batch])

    def forward(n_steps: int) -> None:
        for _ in range(n_steps):
            net.predict_proba(x[:n])

    # Its outputs are probabilities: their logarithms are logits, up to a constant of each row.
    return (
        forward if problem.optimizer is None else train,
        lambda: np.log(net.predict_proba(x[:n])),
    )


#: All competitors by name; the first is the one that the others are compared with.
COMPETITORS: dict[str, Callable[[Problem], Job]] = {
    function.__name__: function
    for function in (fastmlp, numba, numpy, torch, jax, onnxruntime, sklearn)
}
