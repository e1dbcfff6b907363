"""Networks in files: safetensors with JSON metadata, never pickle.

A file holds tensors ``weights.0`` (n_out, n_in), ``biases.0`` (n_out,), ``weights.1`` …
and, under the metadata key ``fastmlp``, a JSON object with the format's version, the
dtype and the layers. Any reader of safetensors can read the tensors.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .layers import Dense
from .network import MLP, empty_network

__all__ = ["load", "save"]

FORMAT = 1
METADATA_KEY = "fastmlp"
FIELDS = ("n_in", "n_out", "activation", "initializer", "alpha")


def save(net: MLP, path: str | os.PathLike[str]) -> None:
    """Write a network to a file, which is replaced at once or not at all.

    An initialiser that is a function of the user's is not saved.

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
    content = safetensors.save(
        {name: np.ascontiguousarray(tensor) for name, tensor in _tensors(net).items()},
        metadata={METADATA_KEY: json.dumps(description)},
    )
    _replace(Path(path), content)


def load(path: str | os.PathLike[str]) -> MLP:
    """Read a network that was written by :meth:`MLP.save`.

    Parameters
    ----------
    path : path-like
        The file. No code in it is run.

    Returns
    -------
    MLP
        The network, with the same parameters to the bit.

    Raises
    ------
    ValueError
        If the file is not a network of fastmlp, is damaged, or was written by a newer
        version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with path.open("rb"):  # a clear OSError where there is no file, or none to read
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from None
    try:
        net = _network_of(metadata)
        _fill(net, tensors)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from None
    return net


def _describe(layer: Dense) -> dict[str, Any]:
    """Return a layer's arguments as JSON can hold them."""
    values = {name: getattr(layer, name) for name in FIELDS}
    if callable(values["initializer"]):
        values["initializer"] = None
    return values


def _tensors(net: MLP) -> dict[str, np.ndarray]:
    """Return views of a network's parameters by their names in a file."""
    parts = {"weights": net.weights, "biases": net.biases}
    return {
        f"{kind}.{layer}": view for kind, views in parts.items() for layer, view in enumerate(views)
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


def _network_of(metadata: Mapping[str, str]) -> MLP:
    """Build the network that a file's metadata describe, with parameters of 0."""
    if METADATA_KEY not in metadata:
        raise ValueError("it is a safetensors file, but was not written by fastmlp")
    description = json.loads(metadata[METADATA_KEY])
    if not isinstance(description, dict) or not isinstance(description.get("format"), int):
        raise ValueError("its description of the network is damaged")
    if description["format"] > FORMAT:
        raise ValueError(
            f"it was written by a newer fastmlp, in format {description['format']}; "
            f"this one reads up to format {FORMAT}"
        )
    layers = description.get("layers")
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict) and set(layer) == set(FIELDS) for layer in layers
    ):
        raise ValueError("its list of layers is damaged")
    return empty_network([Dense(**layer) for layer in layers], str(description.get("dtype")))


def _fill(net: MLP, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy tensors into a network that has parameters of the same names and shapes."""
    views = _tensors(net)
    if set(tensors) != set(views):
        raise ValueError(f"it must have tensors {', '.join(views)}, got {', '.join(tensors)}")
    for name, view in views.items():
        tensor = tensors[name]
        if tensor.shape != view.shape or tensor.dtype != view.dtype:
            raise ValueError(
                f"tensor {name} must be {view.dtype} of shape {view.shape}, got "
                f"{tensor.dtype} of shape {tensor.shape}"
            )
        view[...] = tensor
