"""Networks in files: every bit comes back, and what is not a network is refused."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
from safetensors import numpy as safetensors
from safetensors import safe_open

import fastmlp as fm


@pytest.fixture
def net(dtype):
    return fm.MLP(
        [
            fm.Dense(4, 6, "leaky_relu", alpha=0.25, initializer="he_uniform"),
            fm.Dense(6, 5, "tanh"),
            fm.Dense(5, 3),
        ],
        dtype=dtype,
        seed=0,
    )


@pytest.fixture
def saved(tmp_path):
    """Path of a saved network."""
    path = tmp_path / "net.safetensors"
    fm.MLP.from_sizes([4, 5, 3], seed=0).save(path)
    return path


def test_a_loaded_network_is_the_saved_one(net, tmp_path):
    net.biases[1][...] = np.arange(5)
    net.save(str(tmp_path / "net"))
    loaded = fm.load(tmp_path / "net")
    assert loaded.layers == net.layers
    assert loaded.dtype == net.dtype
    np.testing.assert_array_equal(loaded.get_parameters(), net.get_parameters())
    x = np.random.default_rng(0).normal(size=(9, 4))
    np.testing.assert_array_equal(loaded(x), net(x))
    loaded.fit(x, np.zeros(9, int), epochs=1, verbose=0)


def test_other_readers_find_the_lecture_s_shapes(net, tmp_path):
    net.save(tmp_path / "net")
    with safe_open(tmp_path / "net", framework="numpy") as file:
        assert set(file.keys()) == {
            f"{kind}.{i}" for kind in ("weights", "biases") for i in range(3)
        }
        np.testing.assert_array_equal(file.get_tensor("weights.0"), net.weights[0])
        np.testing.assert_array_equal(file.get_tensor("biases.2"), net.biases[2])
        description = json.loads(file.metadata()["fastmlp"])
    assert description["format"] == 2
    assert description["layers"][0] == {
        "layer": "dense",
        "n_in": 4,
        "n_out": 6,
        "activation": "leaky_relu",
        "initializer": "he_uniform",
        "alpha": 0.25,
        "bias": True,
        "l1": 0.0,
        "l2": 0.0,
        "penalize_bias": False,
    }


def test_a_user_s_initializer_is_not_saved(tmp_path):
    net = fm.MLP.from_sizes([2, 3], initializer=lambda g, n_in, n_out: g.normal(size=(n_out, n_in)))
    net.save(tmp_path / "net")
    assert fm.load(tmp_path / "net").layers[0].initializer is None


def test_a_failed_write_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        fm.MLP.from_sizes([9, 9]).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_saving_replaces_a_file_and_keeps_the_usual_permissions(saved, tmp_path):
    fm.MLP.from_sizes([2, 2], seed=0).save(saved)
    assert fm.load(saved).n_parameters == 6
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fm.load(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."])
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file is not a safetensors file, or is damaged"):
        fm.load(tmp_path / "file")


def test_a_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-4])
    with pytest.raises(ValueError, match="or is damaged"):
        fm.load(saved)


def _rewrite(path, change_description=None, change_tensors=None, key="fastmlp"):
    """Change a file's description or tensors."""
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["fastmlp"])
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    if change_description:
        description = change_description(description)
    if change_tensors:
        tensors = change_tensors(tensors)
    path.write_bytes(safetensors.save(tensors, metadata={key: json.dumps(description)}))


def _with_layer(**changes):
    return lambda d: d | {"layers": [d["layers"][0] | changes, *d["layers"][1:]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": 3}, "newer fastmlp, in format 3; this one reads up to format 2"),
        (lambda d: d | {"format": -1}, "its description of the network is damaged"),
        (lambda d: d | {"format": True}, "its description of the network is damaged"),
        (lambda d: d | {"format": "1"}, "its description of the network is damaged"),
        (lambda d: [], "its description of the network is damaged"),
        (lambda d: d | {"layers": 3}, "its list of layers is damaged"),
        (lambda d: d | {"layers": [{"n_in": 1}]}, "its list of layers is damaged"),
        (lambda d: d | {"layers": []}, "at least one Dense layer"),
        (lambda d: d | {"dtype": "float16"}, "dtype must be 'float32' or 'float64', got 'float16'"),
        (lambda d: d | {"dtype": "float64"}, "tensor weights.0 must be float64"),
        *(
            (lambda d, seed=seed: d | {"mask_seed": seed}, "its seed of dropout's masks is damaged")
            for seed in (-1, True, "1", None, 1.5, 2**63)
        ),
        (_with_layer(activation="relo"), "activation must be one of .*nearest: 'relu'"),
        (_with_layer(n_in=-4), "n_in must be an integer of at least 1, got -4"),
        (_with_layer(n_in=3), r"weights.0 must be float32 of shape \(5, 3\), got .* \(5, 4\)"),
        (_with_layer(n_in=10**12), r"weights.0 must be float32 of shape \(5, 10{12}\)"),
        (_with_layer(n_in=10**30), "too large"),
        (_with_layer(layer="convolution"), "its list of layers is damaged"),
        (_with_layer(layer="dropout"), "its list of layers is damaged"),
        (_with_layer(bias=False), "it must have tensors"),
        (_with_layer(bias="no"), "bias must be True or False"),
        (_with_layer(n_out=6), r"layers\[1\] takes 5 features, but layers\[0\] gives 6"),
        (_with_layer(alpha="x"), "alpha must be None for 'relu'"),
    ],
)
def test_a_wrong_description_is_refused(saved, change, message):
    _rewrite(saved, change_description=change)
    with pytest.raises(ValueError, match=rf"net.safetensors cannot be loaded: .*{message}"):
        fm.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "biases.1"}, "it must have tensors"),
        (lambda t: t | {"extra": np.zeros(1)}, "it must have tensors"),
        (lambda t: t | {"biases.0": np.zeros(5)}, "biases.0 must be float32 .*got float64"),
    ],
)
def test_wrong_tensors_are_refused(saved, change, message):
    _rewrite(saved, change_tensors=change)
    with pytest.raises(ValueError, match=message):
        fm.load(saved)


def test_a_file_of_another_program_is_refused(saved):
    _rewrite(saved, key="other")
    with pytest.raises(ValueError, match="was not written by fastmlp"):
        fm.load(saved)


def test_damaged_json_is_refused(saved):
    content = saved.read_bytes()
    saved.write_bytes(content.replace(b'{\\"format\\"', b'[\\"format\\"'))
    assert saved.read_bytes() != content
    with pytest.raises(ValueError, match="cannot be loaded"):
        fm.load(saved)


def test_deep_json_is_refused(saved):
    tensors = safetensors.load_file(saved)
    deep = "[" * 100_000 + "]" * 100_000
    saved.write_bytes(safetensors.save(tensors, metadata={"fastmlp": deep}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        fm.load(saved)


@pytest.mark.parametrize(("dtype", "itemsize"), [("BF16", 2), ("F8_E4M3", 1), ("F16", 2)])
def test_other_dtypes_are_refused(tmp_path, dtype, itemsize):
    """NumPy has no name for some dtypes of the format, so the file is written by hand."""
    layer = {"n_in": 1, "n_out": 4, "activation": "relu", "initializer": None, "alpha": None}
    description = {"format": 1, "dtype": "float32", "layers": [layer]}
    size = 4 * itemsize
    header = json.dumps(
        {
            "__metadata__": {"fastmlp": json.dumps(description)},
            "weights.0": {"dtype": dtype, "shape": [4, 1], "data_offsets": [0, size]},
            "biases.0": {"dtype": dtype, "shape": [4], "data_offsets": [size, 2 * size]},
        }
    ).encode()
    path = tmp_path / "net"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
    with pytest.raises(ValueError, match=f"weights.0 must be float32 of .*, got {dtype} of shape"):
        fm.load(path)


def test_files_of_the_first_format_are_read(saved):
    expected = fm.load(saved)

    def first_format(description):
        layers = [
            {name: layer[name] for name in ("n_in", "n_out", "activation", "initializer", "alpha")}
            for layer in description["layers"]
        ]
        return description | {"format": 1, "layers": layers}

    _rewrite(saved, change_description=first_format)
    loaded = fm.load(saved)
    assert loaded.layers == expected.layers
    np.testing.assert_array_equal(loaded.get_parameters(), expected.get_parameters())


def test_files_without_a_seed_of_masks_are_read(every_layer, tmp_path):
    every_layer.save(tmp_path / "net")
    assert fm.load(tmp_path / "net").mask_seed == every_layer.mask_seed > 0
    _rewrite(tmp_path / "net", lambda d: {k: v for k, v in d.items() if k != "mask_seed"})
    assert fm.load(tmp_path / "net").mask_seed == 0


def test_every_kind_of_layer_comes_back(every_layer, tmp_path):
    every_layer.save(tmp_path / "net")
    loaded = fm.load(tmp_path / "net")
    assert loaded.layers == every_layer.layers
    x = np.random.default_rng(0).normal(size=(9, every_layer.n_in))
    np.testing.assert_array_equal(loaded(x), every_layer(x))
