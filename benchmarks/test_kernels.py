"""The layer kernels, in each backend."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from fastmlp.benchmarks.ceilings import Work
from fastmlp.benchmarks.measuring import Call, Case, Options, agree
from fastmlp.kernels import arena, load_backend
from fastmlp.kernels.catalogue import CODES

BATCH_SIZE, WIDTH = 128, 256
TANH, NO_LABELS = CODES["TANH"], np.empty(0, np.int64)

#: Arrays start at distances of some cache lines within a page.
PAGE_BYTES, SLOT_BYTES = 4096, 320
N_COPIES = 8

#: Names of the arrays that a kernel writes.
Description = tuple[str, dict[str, Any], tuple[str, ...], Work]


def placed(array: np.ndarray, slot: int) -> np.ndarray:
    """Return a copy at the same place within a page of memory each time.

    Whether arrays meet in a cache depends on their addresses, and a process has others each time.
    """
    start = slot * SLOT_BYTES
    room = np.empty(array.nbytes + start + 2 * PAGE_BYTES, np.uint8)
    start += -room.ctypes.data % PAGE_BYTES
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def kernels_of(dtype: str, n: int, width: int) -> Iterator[Description]:
    """Return each kernel's name, arguments, outputs and work."""
    rng, itemsize = np.random.default_rng(0), np.dtype(dtype).itemsize

    def normal(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / 8).astype(dtype)

    def work(flops: float, read: int, written: int) -> Work:
        sizes = {"read": itemsize * read, "written": itemsize * written}
        return Work(flops, footprint=sum(sizes.values()), dtype=dtype, **sizes)

    x, y, delta, weight = normal(n, width), normal(n, width), normal(n, width), normal(width, width)
    bias, out, grad = normal(width), normal(n, width), normal(width, width)
    room = {"workspace": arena.aligned_zeros(arena.panel_size(max(n, width), n_panels=4), dtype)}
    function = {"activation": TANH, "alpha": 0.0, "out": out}
    cells, product_flops = n * width, 2.0 * n * width * width
    layer = work(product_flops, width * width + cells, cells)
    through = work(product_flops, width * width + 2 * cells, cells)
    weights = work(product_flops, 2 * cells, width * width)

    forward = {"x": x, "weight": weight, "bias": bias} | function
    yield "dense_forward", forward | room, ("out",), layer
    back = {"delta": delta, "weight": weight, "y_or_z": y} | function
    yield "dense_backward_input", back | room, ("out",), through
    outer = {"x": x, "delta": delta, "grad_weight": grad, "grad_bias": bias.copy()}
    yield "dense_backward_weight", outer | room, ("grad_weight", "grad_bias"), weights

    row = {"out": out[0]}
    one = work(2.0 * width * width, width * width + width, width)
    yield "dense_forward_single", forward | {"x": x[0]} | row, ("out",), one
    single = back | {"delta": delta[0], "y_or_z": y[0]} | row
    yield "dense_backward_input_single", single, ("out",), one
    yield (
        "dense_backward_weight_single",
        outer | {"x": x[0], "delta": delta[0]},
        ("grad_weight", "grad_bias"),
        work(width * width, 2 * width, width * width),
    )
    cell_work = work(0, cells, cells)
    yield "activation_forward", {"z": x} | function, ("out",), cell_work
    slope = {"y_or_z": np.tanh(x), "grad": delta} | function
    yield "activation_backward", slope, ("out",), work(0, 2 * cells, cells)

    labels = rng.integers(width, size=n)
    loss = {"output": x, "target": x[:0], "labels": labels, "loss": CODES["CROSS_ENTROPY"]}
    loss |= {"loss_parameters": np.zeros(1)}
    yield "loss_forward", loss | {"out": out[:, 0].copy()}, ("out",), work(0, cells, n)
    equal = {"sample_weight": np.empty(0, dtype), "out": out}
    yield "loss_backward", loss | equal, ("out",), cell_work

    theta, n_weights = normal(width * width), width * width
    adam = np.array([1e-6, 0, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.1, 0.001, 0])
    for code, rows, scalars in (("SGD", 0, np.array([1e-6, 0.0])), ("ADAM", 2, adam)):
        step = {"parameters": theta.copy(), "grad": normal(n_weights)}
        step |= {"state": np.zeros((rows, n_weights), dtype), "optimizer": CODES[code]}
        changed = work(0, (2 + rows) * n_weights, (1 + rows) * n_weights)
        yield "optimizer_step", step | {"coefficients": scalars}, ("parameters", "state"), changed


class Kernel(Call):
    """A kernel that is timed on several copies of its arguments in turn.

    How fast it is depends on where in physical memory they lie, which is another place in each
    process; the copies show more places to each run.
    """

    def __init__(
        self,
        function: Callable[..., None],
        arguments: Iterable[dict[str, Any]],
        check: Callable[[], None],
    ) -> None:
        self.calls = cycle([partial(function, **each) for each in arguments])
        super().__init__(next(self.calls), check)

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of so many steps, after some to warm up."""
        self.call = next(self.calls)
        return super().run(n_steps, warm_up)


def kernel_case(backend: str, kernel: Description, line: str, rounds: int) -> Case:
    """Return the case of a kernel in a backend."""
    name, arguments, outputs, work = kernel

    def run(backend: str, values: dict[str, Any]) -> list[np.ndarray]:
        getattr(load_backend(backend), name)(**values)
        return [values[output] for output in outputs]

    def copies() -> dict[str, Any]:
        return {
            name: placed(value, slot) if isinstance(value, np.ndarray) else value
            for slot, (name, value) in enumerate(arguments.items())
        }

    def check() -> None:
        agree(run(backend, copies()), run("numpy", copies()), line)

    def open_job() -> Call:
        function = getattr(load_backend(backend), name)
        return Kernel(function, [copies() for _ in range(N_COPIES)], check)

    flags = {"own": backend != "numpy", "rival": backend != "cython"}
    return Case(line, backend, open_job, work, rounds=rounds, notes={"kernel": name}, **flags)


def cases(options: Options) -> Iterator[Case]:
    """Return a line for each kernel and type, with a case for each backend."""
    n, width = (BATCH_SIZE, WIDTH) if options.timed else (8, 16)
    # A core may be slow for seconds, where another machine shares it: measure for longer.
    rounds = options.rounds * (4 if options.quick else 2)
    # Numba takes a second or more to compile each.
    backends = ("cython", "numpy") if options.small else ("cython", "numba", "numpy")
    for dtype in ("float32",) if options.quick else ("float32", "float64"):
        for kernel in kernels_of(dtype, n, width):
            rule = {CODES["SGD"]: ", SGD", CODES["ADAM"]: ", Adam"}
            suffix = rule.get(kernel[1].get("optimizer"), "")
            line = f"{kernel[0]}{suffix}, {n} × {width} × {width}, {dtype}"
            yield from (kernel_case(backend, kernel, line, rounds) for backend in backends)


def test_kernel(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a kernel."""
    bench(case)
