"""Networks in files: safetensors with JSON metadata, never pickle.

A file holds tensors ``weights.0`` (n_out, n_in), ``biases.0`` (n_out,), ``weights.1`` …,
numbered by layers, ``running_means.2`` and ``running_variances.2`` where layer 2 keeps them,
and, under the metadata key ``fastmlp``, a JSON object with the format's version, the
dtype, the layers and, where there is dropout, the seed of its next mask; format 1 knew dense
layers with a bias only. Any reader of safetensors can read the tensors.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ._validation import as_dtype, as_list
from .activations import CustomActivation, get
from .layers import LAYERS, Layer
from .network import LARGEST_SEED, MLP, check_layers, empty_network
from .parameters import Layout, Parameters

__all__ = ["load", "save"]

FORMAT = 2

#: What the first format had no words for.
FIRST_FORMAT = {"layer": "dense", "bias": True, "l1": 0.0, "l2": 0.0, "penalize_bias": False}
METADATA_KEY = "fastmlp"
DTYPE_NAMES = {"F32": "float32", "F64": "float64"}


def save(net: MLP, path: str | os.PathLike[str]) -> None:
    """Write a network to a file, which is replaced at once or not at all.

    An initialiser that is a function of the user's is not saved, and of an activation of
    the user's only the name.

    Parameters
    ----------
    net : MLP
        The network.
    path : path-like
        File to write or replace.
    """
    from safetensors import numpy as safetensors

    description = {
        "format": FORMAT,
        "dtype": net.dtype.name,
        "layers": [_describe(layer) for layer in net.layers],
    }
    if net.parameters.layout.is_random:
        description["mask_seed"] = net.mask_seed
    content = safetensors.save(
        {name: np.ascontiguousarray(tensor) for name, tensor in _tensors(net.parameters).items()},
        metadata={METADATA_KEY: json.dumps(description)},
    )
    _replace(Path(path), content)


def load(path: str | os.PathLike[str], *, activations: Iterable[CustomActivation] = ()) -> MLP:
    """Read a network that was written by :meth:`MLP.save`.

    Parameters
    ----------
    path : path-like
        The file. No code in it is run.
    activations : iterable of CustomActivation, default=()
        The user's own, which the file has by name only.

    Returns
    -------
    MLP
        The network, with the same parameters to the bit.

    Raises
    ------
    TypeError
        If `activations` holds something else.
    ValueError
        If the file is not a network of fastmlp, is damaged, was written by a newer
        version, or has an activation that is neither known nor given.
    """
    from safetensors import SafetensorError, safe_open

    own = _by_name(activations)
    path = Path(path)
    with path.open("rb"):  # a clear OSError where there is no file, or none to read
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            layers, dtype, mask_seed = _described_network(file.metadata() or {}, own)
            # Before memory is taken, which the file cannot ask for beyond its own size.
            _check_tensors(file, layers, dtype)
            net = empty_network(layers, dtype, mask_seed)
            for name, view in _tensors(net.parameters).items():
                view[...] = file.get_tensor(name)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from None
    except (OverflowError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from None
    return net


def _describe(layer: Layer) -> dict[str, Any]:
    """Return a layer's name and arguments as JSON can hold them."""
    (name,) = (name for name, kind in LAYERS.items() if type(layer) is kind)
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}  # type: ignore
    if "activation" in values:
        values["activation"] = str(values["activation"])
    if callable(values.get("initializer")):
        values["initializer"] = None
    return {"layer": name} | values


def _described_layer(
    description: dict[str, Any], version: int, own: Mapping[str, CustomActivation]
) -> Layer:
    """Return the layer of a description."""
    if version == 1:
        description = FIRST_FORMAT | description
    arguments = dict(description)
    kind = LAYERS.get(arguments.pop("layer", None))
    if kind is None or set(arguments) != {field.name for field in fields(kind)}:  # type: ignore
        raise ValueError("its list of layers is damaged")
    if "activation" in arguments:
        arguments["activation"] = _activation_of(arguments["activation"], own)
    return kind(**arguments)


def _by_name(activations: Iterable[CustomActivation]) -> dict[str, CustomActivation]:
    """Return the user's activations by name."""
    own = as_list("activations", activations, "objects of CustomActivation")
    for activation in own:
        if not isinstance(activation, CustomActivation):
            raise TypeError(f"activations must hold CustomActivation, got {activation!r}")
    return {activation.name: activation for activation in own}


def _activation_of(name: Any, own: Mapping[str, CustomActivation]) -> str | CustomActivation:
    """Return the activation of a name: the name, or the user's activation."""
    if isinstance(name, str) and name in own:
        return own[name]
    try:
        get(name)
    except ValueError as error:
        raise ValueError(
            f"{error}; if it is a CustomActivation, make it and pass it: fastmlp.load(path, "
            "activations=[…])"
        ) from None
    return name


def _tensors(parameters: Parameters) -> dict[str, np.ndarray]:
    """Return views of a network's parameters by their names in a file."""
    kinds = "weights", "biases", "running_means", "running_variances"
    return {
        f"{kind}.{layer}": view
        for kind in kinds
        for layer, view in enumerate(getattr(parameters, kind))
        if view.size
    }


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside the path and move it there when it is on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _described_network(
    metadata: Mapping[str, str], own: Mapping[str, CustomActivation]
) -> tuple[tuple[Layer, ...], np.dtype[Any], int]:
    """Return the layers, the dtype and the seed of masks that a file's metadata describe."""
    if METADATA_KEY not in metadata:
        raise ValueError("it is a safetensors file, but was not written by fastmlp")
    description = json.loads(metadata[METADATA_KEY])
    version = description.get("format") if isinstance(description, dict) else None
    if type(version) is not int or version < 1:
        raise ValueError("its description of the network is damaged")
    if version > FORMAT:
        raise ValueError(
            f"it was written by a newer fastmlp, in format {version}; "
            f"this one reads up to format {FORMAT}"
        )
    layers = description.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError("its list of layers is damaged")
    dtype = as_dtype(str(description.get("dtype")))
    mask_seed = description.get("mask_seed", 0)
    if type(mask_seed) is not int or not 0 <= mask_seed < 1.5 * LARGEST_SEED:  # steps add to it
        raise ValueError("its seed of dropout's masks is damaged")
    described = check_layers(_described_layer(layer, version, own) for layer in layers)
    return described, dtype, mask_seed


def _check_tensors(file: Any, layers: tuple[Layer, ...], dtype: np.dtype[Any]) -> None:
    """Refuse tensors that are not those of the layers, by the header of an open file."""
    layout = Layout.of(layers, dtype)
    elements = np.broadcast_to(np.zeros((), dtype), layout.n_elements)  # one stands for all
    tensors = _tensors(Parameters(layout, elements))
    expected = {name: list(view.shape) for name, view in tensors.items()}
    if set(file.keys()) != set(expected):
        raise ValueError(
            f"it must have tensors {', '.join(expected)}, got {', '.join(file.keys())}"
        )
    for name, shape in expected.items():
        tensor = file.get_slice(name)
        came = DTYPE_NAMES.get(tensor.get_dtype(), tensor.get_dtype()), tensor.get_shape()
        if came != (dtype.name, shape):
            raise ValueError(
                f"tensor {name} must be {dtype} of shape {tuple(shape)}, got {came[0]} of "
                f"shape {tuple(came[1])}"
            )
