"""Each library on one sample a call, at its strongest: outputs, gradient, or an SGD step.

As in :mod:`competitors`, a competitor returns ``run(n_calls)`` and ``result()``; the latter
gives the outputs for the first sample, or for a gradient the one of the last weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice

import competitors
import numpy as np
from competitors import Job, torch_network
from problems import Problem

__all__ = ["SINGLES"]


def _visits(x: np.ndarray, y: np.ndarray) -> Callable[[int], Iterator[tuple]]:
    """Return the function that gives the samples of the next calls, again and again."""
    endless = cycle(list(zip(x, y, strict=True)))
    return lambda n_calls: islice(endless, n_calls)


def fastmlp(problem: Problem) -> Job:
    """fastmlp: ``net(x)``, ``net.value_and_grad`` and ``net.train_step``."""
    import fastmlp as fm

    fm.set_backend("cython")
    net = fm.MLP.from_sizes(problem.sizes, problem.activation, dtype=problem.dtype)
    for weight, bias, (W, b) in zip(
        net.weights, net.biases, problem.initial_parameters(), strict=True
    ):
        weight[...], bias[...] = W, b
    x, y = problem.samples()
    visits, optimizer = _visits(x, y.tolist()), fm.SGD(problem.learning_rate)

    def forward(n_calls: int) -> None:
        for sample, _ in visits(n_calls):
            net(sample)

    def gradient(n_calls: int) -> None:
        for sample, label in visits(n_calls):
            net.value_and_grad(sample, label)

    def train(n_calls: int) -> None:
        for sample, label in visits(n_calls):
            net.train_step(sample, label, optimizer=optimizer)

    if problem.gradient:
        return gradient, lambda: net.value_and_grad(x[0], int(y[0]))[1].weights[-1]
    return train if problem.optimizer else forward, lambda: net(x[0])[None]


def numpy(problem: Problem) -> Job:
    """NumPy with arrays allocated once, written for one sample."""
    if problem.activation != "relu":
        raise ImportError("written for ReLU only")
    layers = [(np.ascontiguousarray(W), b.copy()) for W, b in problem.initial_parameters()]
    outputs = [np.empty(n, problem.dtype) for n in problem.sizes[1:]]
    deltas = [np.empty(n, problem.dtype) for n in problem.sizes[1:]]
    grads = [np.empty_like(W) for W, _ in layers]
    x, y = problem.samples()
    visits, rate = _visits(x, y.tolist()), problem.learning_rate

    def forward(sample: np.ndarray) -> np.ndarray:
        for index, ((W, b), out) in enumerate(zip(layers, outputs, strict=True)):
            np.matmul(W, sample, out=out)
            np.add(out, b, out=out)
            if index < len(layers) - 1:
                np.maximum(out, 0, out=out)
            sample = out
        return sample

    def gradient(sample: np.ndarray, label: int) -> None:
        output = forward(sample)
        np.exp(output - output.max(), out=deltas[-1])
        deltas[-1] /= deltas[-1].sum()
        deltas[-1][label] -= 1
        for index in reversed(range(len(layers))):
            below = outputs[index - 1] if index else sample
            np.multiply(deltas[index][:, None], below, out=grads[index])
            if index:
                np.matmul(deltas[index], layers[index][0], out=deltas[index - 1])
                np.multiply(deltas[index - 1], below > 0, out=deltas[index - 1])

    def run(n_calls: int) -> None:
        for sample, label in visits(n_calls):
            if problem.optimizer is None:
                forward(sample)
                continue
            gradient(sample, label)
            if problem.gradient:
                continue
            for (W, b), grad, delta in zip(layers, grads, deltas, strict=True):
                np.multiply(grad, rate, out=grad)
                np.subtract(W, grad, out=W)
                b -= rate * delta

    def result() -> np.ndarray:
        if problem.gradient:
            gradient(x[0], int(y[0]))
            return grads[-1]
        return forward(x[0])[None]

    return run, result


def torch(problem: Problem) -> Job:
    """PyTorch, eager, with a fused optimizer and tensors made before."""
    import torch as th

    x, y = (th.from_numpy(array) for array in problem.samples())
    net = torch_network(problem)
    optimizer = th.optim.SGD(net.parameters(), lr=problem.learning_rate, fused=True)
    visits, loss = _visits(x, y), th.nn.functional.cross_entropy

    @th.inference_mode()
    def forward(n_calls: int) -> None:
        for sample, _ in visits(n_calls):
            net(sample)

    def train(n_calls: int) -> None:
        for sample, label in visits(n_calls):
            optimizer.zero_grad(set_to_none=True)
            loss(net(sample), label).backward()
            if not problem.gradient:
                optimizer.step()

    def result() -> np.ndarray:
        if problem.gradient:
            optimizer.zero_grad(set_to_none=True)
            loss(net(x[0]), y[0]).backward()
            return net[-1].weight.grad.numpy()
        with th.inference_mode():
            return net(x[0]).numpy()[None]

    return train if problem.optimizer else forward, result


def jax(problem: Problem) -> Job:
    """JAX, one compiled function a call, parameters donated to the step."""
    import jax as jx
    import jax.numpy as jnp

    jx.config.update("jax_enable_x64", problem.dtype == "float64")
    x, y = (list(map(jnp.asarray, array)) for array in problem.samples())
    parameters = [(jnp.asarray(W), jnp.asarray(b)) for W, b in problem.initial_parameters()]
    activation = {"relu": jx.nn.relu, "tanh": jnp.tanh}[problem.activation]
    visits, rate = _visits(x, y), problem.learning_rate

    def forward(parameters, sample):
        for W, b in parameters[:-1]:
            sample = activation(W @ sample + b)
        W, b = parameters[-1]
        return W @ sample + b

    def loss(parameters, sample, label):
        return -jx.nn.log_softmax(forward(parameters, sample))[label]

    def step(parameters, sample, label):
        grad = jx.grad(loss)(parameters, sample, label)
        return jx.tree.map(lambda p, g: p - rate * g, parameters, grad)

    outputs, gradients = jx.jit(forward), jx.jit(jx.value_and_grad(loss))
    update = jx.jit(step, donate_argnums=0)
    kept = {"parameters": parameters}

    def run(n_calls: int) -> None:
        parameters = kept["parameters"]
        for sample, label in visits(n_calls):
            if problem.gradient:
                jx.block_until_ready(gradients(parameters, sample, label))
            elif problem.optimizer:
                parameters = update(parameters, sample, label)
            else:
                outputs(parameters, sample).block_until_ready()
        jx.block_until_ready(parameters)
        kept["parameters"] = parameters

    def result() -> np.ndarray:
        if problem.gradient:
            return np.asarray(gradients(kept["parameters"], x[0], y[0])[1][-1][0])
        return np.asarray(outputs(kept["parameters"], x[0]))[None]

    return run, result


#: As :data:`competitors.COMPETITORS`; ONNX Runtime's bound call is the same for one sample.
SINGLES: dict[str, Callable[[Problem], Job]] = {
    **{function.__name__: function for function in (fastmlp, numpy, torch, jax)},
    "onnxruntime": competitors.onnxruntime,
}
