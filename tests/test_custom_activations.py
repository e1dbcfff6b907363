"""Activations of the user's own: the same in every backend, checked when they are made."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import custom
from fastmlp.kernels.catalogue import CODES


def sine(z):
    return math.sin(z)


def cosine(z):
    return math.cos(z)


def tanh(z):
    return np.tanh(z)


def tanh_slope(y):
    return 1 - y * y


def tanh_curvature(y):
    return -2 * y * (1 - y * y)


@pytest.fixture(scope="module")
def of_z():
    """Activation of a user, whose derivative takes z."""
    return fm.CustomActivation("sine", sine, cosine)


@pytest.fixture(scope="module")
def of_y():
    """Another one, whose derivative takes y: one of fastmlp written again."""
    return fm.CustomActivation("own_tanh", tanh, tanh_slope, "y", tanh_curvature)


@pytest.fixture(params=["z", "y"])
def activation(request, of_z, of_y):
    """Each of them."""
    return {"z": of_z, "y": of_y}[request.param]


KERNELS = {"network_forward": 8, "network_gradient": 3, "network_input_gradient": 3}


def with_code(problem, code):
    """Return a problem with another activation in its hidden layers."""
    layers = problem.layers.copy()
    layers[:-1, CODES["ACTIVATION"]] = code
    return problem.replace(layers=layers)


@pytest.mark.parametrize("n_samples", [0, 1, 3, 8, 17, 97])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_network_kernels(compare, make_problem, dtype, activation, n_samples, n_threads):
    problem = make_problem(dtype, (9, 33, 17, 4), ["tanh", "tanh", "identity"], "mse", n_samples)
    problem = with_code(problem, activation.row.code)
    out, grad = np.empty((n_samples, 4), dtype), np.full_like(problem.parameters, np.nan)
    arguments = problem.arguments("network_forward", n_threads, out=out)
    compare("network_forward", arguments, {"out": None}, problem.n_terms)
    arguments = problem.arguments("network_gradient", n_threads, grad=grad)
    compare("network_gradient", arguments, {"return": None, "grad": None}, problem.n_terms)


@numba.njit
def picky(z):
    if not 0 < abs(z) < 100:
        raise ValueError("no sample has this number")
    return np.tanh(z)


@pytest.mark.parametrize("backend", ["cython"], indirect=True)
@pytest.mark.parametrize("n_samples", [17, 97])
def test_functions_meet_only_numbers_of_samples(compare, make_problem, dtype, n_samples):
    compiled = custom.compile_activation(picky, numba.njit(tanh_slope), None, False)
    problem = make_problem(dtype, (9, 32, 16, 4), ["tanh", "tanh", "identity"], "mse", n_samples)
    problem = with_code(problem, compiled.code)
    arguments = problem.arguments("network_gradient", 2, grad=np.zeros_like(problem.parameters))
    compare("network_gradient", arguments, {"return": None, "grad": None}, problem.n_terms)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 100])
def test_layer_kernels(kernels, rng, dtype, activation, n):
    z, grad = rng.normal(size=(2, 3, n)).astype(dtype)
    y, below = np.empty_like(z), np.empty_like(z)
    value, slope = {"sine": (np.sin, np.cos), "own_tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2)}[
        activation.name
    ]
    code, tolerance = activation.row.code, 4 * np.finfo(dtype).eps
    kernels.activation_forward(z, code, 0.0, y)
    np.testing.assert_allclose(y, value(z), rtol=tolerance)
    kernels.activation_backward(z if activation.takes == "z" else y, grad, code, 0.0, below)
    np.testing.assert_allclose(below, grad * slope(z), rtol=tolerance, atol=tolerance)
    kernels.activation_forward(z, code, 0.0, z)
    np.testing.assert_array_equal(z, y)


@pytest.mark.parametrize("edge", [np.inf, -np.inf, np.nan, 0, 1e30])
def test_edges_are_the_functions_own(kernels, dtype, of_y, edge):
    z = np.full((1, 3), edge, dtype)
    kernels.activation_forward(z, of_y.row.code, 0.0, z)
    np.testing.assert_array_equal(z, np.tanh(np.full((1, 3), edge)))


def test_it_equals_the_one_of_fastmlp(backend, dtype, rng, of_y):
    X, y = rng.normal(size=(70, 6)), rng.integers(3, size=70)
    nets = [fm.MLP.from_sizes([6, 40, 3], name, dtype=dtype, seed=0) for name in (of_y, "tanh")]
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == np.float32 else 1e-12}
    vector = rng.normal(size=nets[0].n_parameters)
    pairs = []
    with fm.use_backend(backend):
        for net in nets:
            product = net.hessian_product(X, y, vector).to_vector()
            net.fit(X, y, epochs=3, batch_size=16, seed=0, verbose=0)
            for _ in range(3):
                net.train_step(X[0].astype(dtype), int(y[0]), optimizer=fm.SGD(0.1))
            sums = net.jacobian(X[:4]), net.gradient_norms(X, y), net(X[0].astype(dtype))
            pairs.append((product, net.get_parameters(), *sums))
    for own, theirs in zip(*pairs, strict=True):
        np.testing.assert_allclose(own, theirs, **tolerance)


def test_the_gradient_is_the_derivative(backend, rng, activation):
    net = fm.MLP.from_sizes([4, 5, 6, 3], activation, activation, dtype="float64", seed=rng)
    X, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    with fm.use_backend(backend):
        check = fm.check_gradient(net, X, y, "mse")
        check.assert_ok()
        assert check.n_compared == net.n_parameters + X.size
        fm.check_gradient(net, X[0], y[0], "mse").assert_ok()


def test_threads_make_no_difference(backend, rng, of_z):
    X, y = rng.normal(size=(300, 50)).astype(np.float32), rng.integers(10, size=300)
    ends = []
    for n_threads in (1, 3):
        net = fm.MLP.from_sizes([50, 130, 10], of_z, seed=0)
        with fm.use_backend(backend):
            before = fm.get_num_threads()
            fm.set_num_threads(n_threads, work_per_thread=0)
            net.fit(X, y, epochs=2, batch_size=100, seed=0, verbose=0)
            fm.set_num_threads(before)
        ends.append(net.get_parameters())
    np.testing.assert_array_equal(*ends)


def test_networks_are_called_from_several_threads(of_z, rng):
    X = rng.normal(size=(200, 8)).astype(np.float32)
    net = fm.MLP.from_sizes([8, 100, 4], of_z, seed=0)
    expected, answers = net(X), []
    workers = [threading.Thread(target=lambda: answers.append(net(X))) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for answer in answers:
        np.testing.assert_array_equal(answer, expected)
    assert len(answers) == 8


def test_the_trace_has_it(of_z, rng):
    net = fm.MLP.from_sizes([3, 4, 2], of_z, dtype="float64", seed=0)
    first = fm.backprop_trace(net, rng.normal(size=3), 1).layers[0]
    assert first.activation == "sine"
    np.testing.assert_allclose(first.slope, np.cos(first.z), rtol=1e-14)


# --- Copies and files ---------------------------------------------------------------------


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_work(of_z, rng, copy_of):
    net, X = fm.MLP.from_sizes([3, 9, 2], of_z, seed=0), rng.normal(size=(5, 3))
    twin = copy_of(net)
    np.testing.assert_array_equal(twin(X), net(X))
    assert twin.layers == net.layers


def test_another_process_compiles_it_again(tmp_path, monkeypatch):
    (tmp_path / "waves.py").write_text(
        "import math\ndef sine(z): return math.sin(z)\ndef cosine(z): return math.cos(z)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    waves = importlib.import_module("waves")
    own = fm.CustomActivation("sine", waves.sine, waves.cosine)
    net, X = fm.MLP.from_sizes([3, 9, 2], own, seed=0), np.ones((5, 3))
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    code = "import pickle; print(pickle.load(open('net.pickle', 'rb'))([1.0, 1, 1]).tolist())"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert ran.stdout.strip() == str(net(X)[0].tolist()), ran.stderr


def test_a_file_has_the_name(of_z, rng, tmp_path):
    path, X = tmp_path / "net", rng.normal(size=(5, 3))
    net = fm.MLP.from_sizes([3, 9, 2], of_z, seed=0)
    net.save(path)
    loaded = fm.load(path, activations=[of_z])
    np.testing.assert_array_equal(loaded(X), net(X))
    assert repr(loaded) == repr(net) == "MLP(3-9-2; sine, identity; 56 parameters; float32)"
    with pytest.raises(ValueError, match=r"activation must .*, got 'sine'.*; if .* activations=\["):
        fm.load(path)
    with pytest.raises(TypeError, match="activations must hold CustomActivation, got 'sine'"):
        fm.load(path, activations=["sine"])


def test_functions_stay_when_objects_go(rng):
    net = fm.MLP.from_sizes(
        [3, 9, 2], fm.CustomActivation("double", lambda z: 2 * z, lambda z: 2.0), seed=0
    )
    layout, X = net.parameters.layout, rng.normal(size=(5, 3))
    expected = net(X)
    row = net.layers[0].activation_row
    net.layers = ()
    np.testing.assert_array_equal(net(X), expected)
    assert layout.table[0, CODES["ACTIVATION"]] == row.code
    assert custom.takes_z(row.code)


def test_compiled_functions_are_taken():
    own = fm.CustomActivation("jitted", numba.njit(sine), numba.njit(cosine))
    assert fm.MLP.from_sizes([2, 3, 1], own, seed=0)([1.0, 2.0]).shape == (1,)


def test_the_same_functions_are_compiled_once(of_z):
    assert fm.CustomActivation("again", sine, cosine).row.code == of_z.row.code


# --- What is refused ----------------------------------------------------------------------


def steps(z):
    return math.floor(z)


def text(z):
    return "a"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, sine, cosine), TypeError, "name must be a string, got 3"),
        (("", sine, cosine), ValueError, "name must be a new one, got ''"),
        (("tanh", sine, cosine), ValueError, "name must be a new one, got 'tanh'"),
        (("a", "sin", cosine), TypeError, "function must be a function of one number, got 'sin'"),
        (("a", sine, None), TypeError, "derivative must be a function of one number, got None"),
        (("a", sine, cosine, "x"), ValueError, "takes must be"),
        (("a", sine, cosine, "z", sine), ValueError, "second_derivative of .* is wrong"),
        (("a", text, cosine), TypeError, "'a' must be made of functions .* that Numba compiles"),
        (("a", sine, sine), ValueError, r"derivative of activation 'a' is wrong: at z = .*, where"),
        (("a", sine, cosine, "y"), ValueError, "derivative of activation 'a' is wrong"),
        (("a", tanh, tanh_slope, "y", tanh_slope), ValueError, "second_derivative of .* is wrong"),
        (("a", lambda z: math.log(z), lambda z: 1 / z), ValueError, "function must be finite .*-7"),
        (("a", lambda z: z, lambda z: z / z), ValueError, "derivative must be finite .* z = 0"),
    ],
)
def test_what_is_wrong_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        fm.Dense(2, 3, fm.CustomActivation(*arguments))


def test_the_worst_point_is_named():
    with pytest.raises(ValueError, match=r"at z = 7\.96\d* it is 1, where differences give 2"):
        fm.CustomActivation("late", lambda z: z if z < 7.93 else 2 * z - 7.93, lambda z: 1.0)


def test_a_curvature_that_is_not_given_is_missed(of_z):
    net = fm.MLP.from_sizes([2, 3, 2], of_z, seed=0)
    with pytest.raises(ValueError, match="activation 'sine' has no second derivative"):
        net.hessian_product(np.ones((1, 2)), [1], np.ones(net.n_parameters))
