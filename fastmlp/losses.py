"""Losses by name."""

from __future__ import annotations

from . import _validation
from .kernels import catalogue

__all__ = ["LOSSES", "get"]

#: Rows of the catalogue by name.
LOSSES = {row.name: row for row in catalogue.LOSSES}


def get(name: str, output_activation: str) -> catalogue.Loss:
    """Look up the loss of a network.

    Parameters
    ----------
    name : str
        Its name.
    output_activation : str
        Name of the last layer's activation.

    Returns
    -------
    fastmlp.kernels.catalogue.Loss
        Its row of the catalogue.

    Raises
    ------
    TypeError, ValueError
        If there is none of that name, or it would apply the sigmoid a second time.
    """
    loss = _validation.look_up("loss", name, LOSSES)
    if loss.name == "binary_cross_entropy" and output_activation == "sigmoid":
        raise ValueError(
            "loss 'binary_cross_entropy' takes logits and applies the sigmoid itself, but the "
            "last activation is 'sigmoid': use 'identity' there, and fastmlp.sigmoid on outputs"
        )
    return loss
