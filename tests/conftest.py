"""What tests share: backends, dtypes, comparison with the reference, small networks."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

# More threads than most machines have cores; Numba reads it once, when it is imported.
os.environ["NUMBA_NUM_THREADS"] = "7"

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import BACKENDS, arena, load_backend, reference
from fastmlp.kernels.catalogue import ACTIVATIONS, CODES, LOSSES, SETTING_COLUMNS

# --- Backends and dtypes ------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of each backend; one that is not installed is skipped, on CI an error."""
    try:
        load_backend(request.param)
    except ImportError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"backend {request.param!r} does not load: {error}")
    return request.param


@pytest.fixture
def kernels(backend: str) -> ModuleType:
    """Kernels of each backend."""
    return load_backend(backend)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type[np.floating]:
    """Each dtype that the kernels take."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every test."""
    return np.random.default_rng(20)


# --- Comparison with the reference --------------------------------------------------------


#: Arguments that are tables made by the caller, contiguous; the rows of others may lie apart.
TABLES = ("layers", "settings", "coefficients", "averaging", "loss_parameters")


def rounding_bound(
    dtype: np.dtype, n_terms: int, sums: np.ndarray, magnitude: np.ndarray | float
) -> np.ndarray:
    """Return how far two evaluations of each of some sums of products may lie apart.

    A sum of n products, in any order, fused or not, is off by at most n·u·Σ|products|
    with u = eps/2 (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section
    3.1), so two of them are at most n·eps·Σ|products| apart. Eight terms more stand for
    the bias, the factor of the mean and the few ulp of exp, log and tanh. Among subnormal
    numbers a rounding is an absolute error. What is not finite has no bound to offer.
    """
    info = np.finfo(dtype)
    errors = [info.eps * np.nan_to_num(np.abs(size), posinf=0) for size in (sums, magnitude)]
    return (n_terms + 8) * (sum(errors) + info.smallest_subnormal)


def assert_close(
    actual: np.ndarray,
    expected: np.ndarray,
    dtype: np.dtype,
    n_terms: int,
    magnitude: np.ndarray | float | None,
    label: str,
) -> None:
    """Compare with `rounding_bound`; NaN and ±inf must be where they are expected."""
    if magnitude is None:
        magnitude = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    error = np.abs(actual.astype(np.float64) - expected)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    wrong = np.argwhere(~(same | (error <= rounding_bound(dtype, n_terms, expected, magnitude))))
    assert not len(wrong), (
        f"{label}: {len(wrong)} of {actual.size} elements are wrong, the first at "
        f"{wrong[0].tolist()}: {actual[tuple(wrong[0])]}, expected {expected[tuple(wrong[0])]}"
    )


def framed(array: np.ndarray, contiguous: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame of NaN (of 0 for integers) and the view within it that equals `array`.

    The view starts one element after the frame does, so it is not aligned to vectors,
    and its rows lie apart unless it must be contiguous. What reads beyond it gets NaN.
    """
    filling = np.nan if array.dtype.kind == "f" else 0
    shape = (array.size,) if contiguous else array.shape
    frame = np.full([length + 3 for length in shape], filling, array.dtype)
    view = frame[tuple(slice(1, 1 + length) for length in shape)].reshape(array.shape)
    view[...] = array
    return frame, view


@pytest.fixture
def compare(kernels: ModuleType) -> Callable[..., dict[str, Any]]:
    """Return the function that compares a kernel of each backend with the reference."""

    def run(
        name: str, arguments: dict[str, Any], magnitudes: dict[str, Any], n_terms: int
    ) -> dict[str, Any]:
        """Run kernel `name` on framed views and compare its outputs, return those expected.

        The outputs are the keys of `magnitudes`, whose values are Σ|products| of each
        element as far as it exceeds the element, or None for the largest element that is
        expected; "return" is the value returned. The kernel cannot write to other arrays
        but the workspace, and around outputs and workspace nothing may change.
        """
        expected = {
            key: value.copy() if isinstance(value, np.ndarray) else value
            for key, value in arguments.items()
        }
        expected["return"] = getattr(reference, name)(**expected)
        arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
        frames = {key: framed(value, key in TABLES) for key, value in arrays.items()}
        floats = [value.dtype for value in arrays.values() if value.dtype.kind == "f"]
        dtype = min(floats, key=lambda dtype: dtype.itemsize)  # tables are always float64
        before = {key: frame.tobytes() for key, (frame, _) in frames.items()}
        for key, (_, view) in frames.items():
            view.flags.writeable = key in magnitudes or key == "workspace" or not view.size
        actual = arguments | {key: view for key, (_, view) in frames.items()}
        actual["return"] = getattr(kernels, name)(**actual)
        for key, magnitude in magnitudes.items():
            pair = np.asarray(actual[key]), np.asarray(expected[key])
            assert_close(*pair, dtype, n_terms, magnitude, f"{name}, {key}")
        for key, (frame, view) in frames.items():
            if view.flags.writeable:
                view[...] = arguments[key]
            assert frame.tobytes() == before[key], f"{name} wrote to {key} where it must not"
        return expected

    return run


# --- Small networks -----------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A network, a batch and a loss: what the network kernels have in common."""

    layers: np.ndarray
    settings: np.ndarray
    parameters: np.ndarray
    x: np.ndarray
    target: np.ndarray
    labels: np.ndarray
    sample_weight: np.ndarray
    loss: int
    loss_parameters: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the network."""
        return self.parameters.dtype

    @property
    def n_out(self) -> int:
        """Outputs of the network."""
        return int(self.layers[-1, CODES["N_OUT"]])

    @property
    def n_terms(self) -> int:
        """Length of the longest chain of sums in a forward and a backward pass."""
        return int(self.layers[:, [CODES["N_IN"], CODES["N_OUT"]]].sum()) + len(self.x)

    @property
    def used(self) -> np.ndarray:
        """Indices of the arena's elements that are not padding."""
        return np.flatnonzero(_used(self.layers, len(self.parameters)))

    def arguments(self, kernel: str, n_threads: int = 1, **others: Any) -> dict[str, Any]:
        """Return the arguments of a network kernel: fields, a workspace and `others`."""
        forward_only = kernel == "network_forward"
        size = arena.forward_workspace_size if forward_only else arena.training_workspace_size
        n_rows = others.get("batch_size", len(self.x))
        length = size(self.layers, n_rows, self.dtype.itemsize, n_threads)
        workspace = np.full(length, np.nan, self.dtype)
        plain = {
            "averaging": np.empty(0),
            "clip_value": np.inf,
            "clip_norm": np.inf,
            "grad": np.empty(0, self.dtype),
        }
        known = vars(self) | {"workspace": workspace, "n_threads": n_threads} | plain | others
        names = inspect.signature(getattr(reference, kernel)).parameters
        return {name: known[name] for name in names}

    def replace(self, **changes: Any) -> Problem:
        """Return the problem with other values in some fields."""
        return replace(self, **changes)


def _loss_parameters(loss: int, n_out: int, plain: bool = False) -> np.ndarray:
    """Return parameters of a loss that are no defaults, or the plain ones."""
    row = LOSSES[loss]
    if row.name == "cross_entropy":
        return np.array([0.0 if plain else 0.15])
    if row.name == "binary_cross_entropy":
        return np.linspace(0.5, 2, 0 if plain else n_out)
    if row.name == "pinball":
        n_quantiles = next((n for n in range(2, n_out) if n_out % n == 0), n_out)
        return np.linspace(0.1, 0.8, n_quantiles)
    return np.array([0.7] if row.name == "huber" else [])


@pytest.fixture
def loss_parameters() -> Callable[..., np.ndarray]:
    """Return the function that gives parameters of a loss for a number of outputs."""
    return _loss_parameters


def _draw_target(
    rng: np.random.Generator, loss: int, shape: tuple[int, int], n_targets: int | None = None
) -> np.ndarray:
    """Return targets of the kind that the loss takes, for outputs of some shape.

    `n_targets` numbers make a target, or as many as with the parameters of `_loss_parameters`.
    """
    row, (n_samples, n_out) = LOSSES[loss], shape
    if row.target == "counts":
        return rng.poisson(2, size=shape).astype(float)
    if "signs" in row.target:
        return rng.choice([-1.0, 1.0], size=shape)
    if row.target != "values":
        return rng.dirichlet(np.ones(n_out), n_samples)
    if n_targets is None:
        n_targets = n_out // (row.outputs_per_target or len(_loss_parameters(loss, n_out)))
    return rng.normal(size=(n_samples, n_targets))


@pytest.fixture
def draw_target() -> Callable[..., np.ndarray]:
    """Return the function that draws the targets of a loss."""
    return _draw_target


@pytest.fixture(
    params=[
        pytest.param(
            (row.name, as_labels, plain),
            id=f"{row.name}-{'labels' if as_labels else 'rows'}{'-plain' if plain else ''}",
        )
        for row in LOSSES
        for as_labels in (False, True)
        if "labels" in row.target or not as_labels
        for plain in (False, True)
        if row.takes_logits or not plain
    ]
)
def objective(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each loss with each form of its target and parameters, as options of `make_problem`."""
    return dict(zip(("loss", "as_labels", "plain"), request.param, strict=True))


def _used(layers: np.ndarray, n_elements: int) -> np.ndarray:
    mask = np.zeros(n_elements, bool)
    for row in layers:
        weight, bias, stride = (row[CODES[name]] for name in ("WEIGHT", "BIAS", "STRIDE"))
        for start in range(weight, bias, stride):
            mask[start : start + row[CODES["WEIGHT_COLUMNS"]]] = True
        mask[bias : bias + row[CODES["BIASES"]]] = True
    return mask


#: Kinks of each activation by its code.
KINKS = {row.code: row.kinks for row in ACTIVATIONS}


def _distance_to_kinks(problem: Problem) -> float:
    """Return how near to a kink of its layer a number comes; what dropout made 0 stays there."""
    a, smallest = problem.x, np.inf
    shares = reference._sample_shares(problem.sample_weight, len(a), a.dtype)
    for layer in reference._layers_of(problem.layers, problem.settings, problem.parameters):
        z = reference._before_activation(layer, a, shares)
        kinks = (0,) if layer.kind == CODES["PRELU"] else KINKS.get(layer.activation, ())
        for kink in kinks:
            distances = np.abs((a if layer.kind == CODES["PRELU"] else z) - kink)
            smallest = distances[distances > 0].min(initial=smallest)
        a = np.empty_like(z)
        reference.activation_forward(z, layer.activation, layer.settings[CODES["ALPHA"]], a)
    return float(smallest)


def _smallest_distance_of_loss(problem: Problem) -> float:
    """Return the least distance of an output to a kink of the loss or of its derivative."""
    outputs = np.empty((len(problem.x), problem.n_out), problem.dtype)
    reference.network_forward(**problem.arguments("network_forward", out=outputs))
    name, target = LOSSES[problem.loss].name, problem.target
    distances = np.empty(0)
    if name == "mae":
        distances = outputs - target
    elif name == "huber":
        distances = np.abs(outputs - target) - problem.loss_parameters
    elif name == "pinball":
        distances = outputs - np.tile(target, len(problem.loss_parameters))
    elif "hinge" in name and not problem.labels.size:
        distances = 1 - target * outputs
    elif "hinge" in name:
        rows = np.arange(len(outputs))
        distances = 1 + outputs - outputs[rows, problem.labels][:, None]
        distances[rows, problem.labels] = 1
    return float(np.abs(distances).min(initial=np.inf))


def _draw_problem(
    rng: np.random.Generator,
    dtype: type,
    shapes: Sequence[arena.LayerShape],
    loss: str,
    n_samples: int,
    as_labels: bool,
    plain: bool,
) -> Problem:
    layers, n_elements = arena.layer_table(shapes, np.dtype(dtype).itemsize)
    parameters = arena.aligned_zeros(n_elements, dtype)
    used = _used(layers, n_elements)
    # About 1/√n_in in the hidden layers keeps every layer's outputs near 1.
    width = np.mean([shapes[0].n_in, *(shape.n_out for shape in shapes)])
    parameters[used] = rng.normal(size=used.sum()) / np.sqrt(width)
    n_out = shapes[-1].n_out
    target = _draw_target(rng, CODES[loss.upper()], (n_samples, n_out))
    labels = rng.integers(n_out, size=n_samples) if as_labels else np.empty(0, np.int64)
    return Problem(
        layers=layers,
        settings=np.full((len(layers), len(SETTING_COLUMNS)), 0.2),
        parameters=parameters,
        x=rng.normal(size=(n_samples, shapes[0].n_in)).astype(dtype),
        target=target[: 0 if as_labels else n_samples].astype(dtype),
        labels=labels,
        sample_weight=np.empty(0, dtype),
        loss=CODES[loss.upper()],
        loss_parameters=_loss_parameters(CODES[loss.upper()], n_out, plain),
    )


def _draw_rest(problem: Problem, rng: np.random.Generator) -> Problem:
    """Draw what layers that are not dense have: running moments, seeds, settings."""
    for layer in reference._layers_of(problem.layers, problem.settings, problem.parameters):
        if len(layer.statistics):
            layer.statistics[0] = rng.normal(size=layer.statistics.shape[1])
            layer.statistics[1] = rng.uniform(0.5, 2, layer.statistics.shape[1])
        if layer.kind == CODES["DROPOUT"]:
            problem.layers[layer.position, CODES["SEED"]] = rng.integers(2**62)
    problem.settings[:, :4] = [0.2, 0.4, 0.05, 0.3]
    return problem


@pytest.fixture
def make_layers() -> Callable[..., Problem]:
    """Return the function that draws a network of any layers, and a batch."""

    def make(
        dtype: type,
        shapes: Sequence[arena.LayerShape],
        loss: str = "quadratic",
        n_samples: int = 5,
        margin: float | None = None,
    ) -> Problem:
        """Draw until nothing is within `margin` (default 64 eps) of a kink."""
        margin = 64 * np.finfo(dtype).eps if margin is None else margin
        for seed in itertools.count():
            rng = np.random.default_rng(seed)
            problem = _draw_problem(rng, dtype, shapes, loss, n_samples, False, False)
            problem = _draw_rest(problem, rng)
            if min(_distance_to_kinks(problem), _smallest_distance_of_loss(problem)) > margin:
                return problem
        raise AssertionError

    return make


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Return the function that draws a random network and batch."""

    def make(
        dtype: type,
        widths: Sequence[int],
        activations: Sequence[str],
        loss: str = "quadratic",
        n_samples: int = 5,
        as_labels: bool = False,
        plain: bool = False,
        margin: float | None = None,
    ) -> Problem:
        """Draw until nothing is within `margin` (default 64 eps) of a kink."""
        margin = 64 * np.finfo(dtype).eps if margin is None else margin
        if loss == "gaussian_nll":  # a mean and a log-variance for each target
            widths = (*widths[:-1], widths[-1] + widths[-1] % 2)
        shapes = [
            arena.LayerShape(n_in, n_out, CODES[name.upper()])
            for (n_in, n_out), name in zip(itertools.pairwise(widths), activations, strict=True)
        ]
        for seed in itertools.count():
            rng = np.random.default_rng(seed)
            problem = _draw_problem(rng, dtype, shapes, loss, n_samples, as_labels, plain)
            if min(_distance_to_kinks(problem), _smallest_distance_of_loss(problem)) > margin:
                return problem
        raise AssertionError

    return make


@pytest.fixture
def every_layer() -> fm.MLP:
    """Return a network with every kind of layer, after some steps of training."""
    net = fm.MLP(
        [
            fm.BatchNorm(momentum=0.3, n_features=6),
            fm.Dense(6, 20, bias=False),
            fm.BatchNorm(eps=1e-3),
            fm.Activation("leaky_relu", alpha=0.2),
            fm.Dropout(0.25),
            fm.Dense(20, 9),
            fm.PReLU(),
            fm.LayerNorm(eps=1e-4),
            fm.Dense(9, 7, "tanh"),
            fm.PReLU(shared=True, initial=0.1),
            fm.Dense(7, 3),
        ],
        seed=0,
    )
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(40, 6)), rng.integers(3, size=40)
    net.fit(X, y, optimizer=fm.Adam(1e-2), epochs=3, batch_size=10, seed=2, verbose=0)
    return net
