"""Losses: by name with the usual parameters, or as objects with others.

Wherever a loss is asked for, a name of :data:`LOSSES` will do; ``"huber"`` is
``Huber()``. Classes are for the losses that have parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validation
from ._validation import Batch
from .kernels import catalogue

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Huber",
    "Loss",
    "Pinball",
    "get",
]

ROWS = {row.name: row for row in catalogue.LOSSES}

#: What a logit loss must not follow, for it would be applied twice.
PROBABILITY_ACTIVATIONS = ("sigmoid", "softmax")

ClassWeight = Mapping[int, float] | ArrayLike | Literal["balanced"] | None


@dataclass(frozen=True, eq=False, repr=False)
class Loss:
    """A loss L(o, t) of one sample; a batch's loss is the mean weighted by ``sample_weight``.

    Parameters
    ----------
    row : fastmlp.kernels.catalogue.Loss
        Its row of the catalogue: name, code and equation.
    """

    row: catalogue.Loss

    def __repr__(self) -> str:
        return f"<loss {self.name!r}>"

    @property
    def name(self) -> str:
        """What users write for it."""
        return self.row.name

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        """Parameters that do not depend on the network."""
        return np.empty(0)

    def arguments(self, n_out: int) -> tuple[int, NDArray[np.float64]]:
        """Return code and parameters, as the kernels take them.

        Parameters
        ----------
        n_out : int
            Outputs of the network.

        Returns
        -------
        code : int
            Code of the loss.
        parameters : numpy.ndarray of float64
            In the order of the row.
        """
        return self.row.code, self._values

    def n_targets(self, n_out: int) -> int:
        """Return how many numbers a sample's target has.

        Parameters
        ----------
        n_out : int
            Outputs of the network.

        Returns
        -------
        int
            Fewer than `n_out` where a number belongs to several outputs.

        Raises
        ------
        ValueError
            If the outputs cannot be divided among targets.
        """
        of_one = self.row.outputs_per_target or len(self._values)
        if n_out % of_one:
            raise ValueError(
                f"loss {self.name!r} takes {of_one} outputs for each number of the target, but "
                f"the network has {n_out}: use a multiple of {of_one}"
            )
        return n_out // of_one

    def check_network(self, n_out: int, output_activation: str) -> None:
        """Refuse a network whose outputs the loss cannot mean.

        Parameters
        ----------
        n_out : int
            Outputs of the network.
        output_activation : str
            Name of the last layer's activation.

        Raises
        ------
        ValueError
            If softmax or sigmoid would be applied twice, there are too few outputs, or
            the outputs are probabilities and the loss does not compare them with values.
        """
        if self.row.takes_logits and output_activation in PROBABILITY_ACTIVATIONS:
            applied = "sigmoid" if self.name == "binary_cross_entropy" else "softmax"
            raise ValueError(
                f"loss {self.name!r} takes logits and applies the {applied} itself, but the last "
                f"activation is {output_activation!r}: use 'identity' there, and "
                f"fastmlp.{applied} on outputs"
            )
        if output_activation == "softmax" and not _compares_values(self.row):
            fitting = ", ".join(repr(row.name) for row in ROWS.values() if _compares_values(row))
            raise ValueError(
                f"loss {self.name!r} takes outputs of any size, but those of activation 'softmax' "
                f"are probabilities: use 'identity' there, or one of the losses {fitting}"
            )

    def fitted_to(self, batch: Batch) -> Loss:
        """Return the loss with what it takes from training data filled in.

        Parameters
        ----------
        batch : Batch
            The samples.

        Returns
        -------
        Loss
            The loss itself if it takes nothing from them.
        """
        return self

    def weigh(self, batch: Batch) -> Batch:
        """Return samples with the class weights in their own weights.

        Parameters
        ----------
        batch : Batch
            Samples that have been checked.

        Returns
        -------
        Batch
            The same samples if there are no class weights.
        """
        return batch


def _compares_values(row: catalogue.Loss) -> bool:
    """Return whether a loss is a distance of each output to a number of the target."""
    return row.target == "values" and row.outputs_per_target == 1


@dataclass(frozen=True, eq=False)
class Huber(Loss):
    """Huber's loss: squares near the target, absolute values far from it.

    1/n_out Σⱼ (½ dⱼ² if |dⱼ| < δ else δ (|dⱼ| − ½ δ)) with d = o − t, as in P. J. Huber,
    *Robust estimation of a location parameter* (1964), equation 4.

    Parameters
    ----------
    delta : float, default=1.0
        The distance δ from which on an error counts in proportion, in units of the target.

    Raises
    ------
    TypeError, ValueError
        If `delta` is not a number above 0.
    """

    row: catalogue.Loss = field(init=False, repr=False, default=ROWS["huber"])
    delta: float = 1.0

    def __post_init__(self) -> None:
        _validation.check_real("delta", self.delta, "(0, inf)")

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return np.array([self.delta], np.float64)


@dataclass(frozen=True, eq=False)
class Pinball(Loss):
    """The pinball loss, which is least at quantiles of the target.

    1/n_out Σᵢⱼ max(τᵢ dᵢⱼ, (τᵢ − 1) dᵢⱼ) with dᵢⱼ = tⱼ − oᵢⱼ, as in R. Koenker and G. Bassett,
    *Regression quantiles* (1978). For one number a target the outputs are its quantiles; for
    k numbers, k outputs of the first quantile come first: ``np.split(outputs, m, axis=1)``.

    Parameters
    ----------
    quantiles : sequence of float, default=(0.5,)
        The levels τ; 0.5 is the median, with half the loss of ``"mae"``.

    Raises
    ------
    TypeError, ValueError
        If there are none, or one does not lie between 0 and 1.
    """

    row: catalogue.Loss = field(init=False, repr=False, default=ROWS["pinball"])
    quantiles: Sequence[float] = (0.5,)

    def __post_init__(self) -> None:
        levels = _validation.as_list("quantiles", self.quantiles, "numbers between 0 and 1")
        if not levels:
            raise ValueError("quantiles must hold at least one number between 0 and 1, got none")
        for index, level in enumerate(levels):
            _validation.check_real(f"quantiles[{index}]", level, "(0, 1)")
        object.__setattr__(self, "quantiles", tuple(map(float, levels)))

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return np.array(self.quantiles, np.float64)


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of yes and no, for each output on its own, on logits.

    1/n_out Σⱼ (−pⱼ tⱼ log σ(oⱼ) − (1 − tⱼ) log(1 − σ(oⱼ))).

    Parameters
    ----------
    pos_weight : float or sequence of float, optional
        What a yes counts for against a no, p: one number, or one for each output. It
        does not enter the mean's divisor. 1 if left out.

    Raises
    ------
    TypeError, ValueError
        If a weight is not a number above 0.

    Notes
    -----
    In the gradient, a σ(oⱼ) − tⱼ of almost 0 counts as 0, as for :class:`CrossEntropy`.
    """

    row: catalogue.Loss = field(init=False, repr=False, default=ROWS["binary_cross_entropy"])
    pos_weight: ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.pos_weight is None:
            return
        weights = _validation.real_array("pos_weight", self.pos_weight)
        if weights.ndim > 1 or not weights.size or not (weights > 0).all():
            raise ValueError(
                f"pos_weight must be a number above 0, or one for each output, got {weights}"
            )
        _validation.check_finite("pos_weight", np.atleast_1d(weights))
        object.__setattr__(self, "pos_weight", weights.astype(np.float64))

    def arguments(  # numpydoc ignore=PR01,RT01
        self, n_out: int
    ) -> tuple[int, NDArray[np.float64]]:
        """Return code and parameters, as the kernels take them."""
        if self.pos_weight is None:
            return super().arguments(n_out)
        return self.row.code, np.broadcast_to(self.pos_weight, n_out).copy()

    def check_network(  # numpydoc ignore=PR01
        self, n_out: int, output_activation: str
    ) -> None:
        """Refuse a network whose outputs the loss cannot mean, and parameters for another."""
        super().check_network(n_out, output_activation)
        shape = np.shape(self.pos_weight) if self.pos_weight is not None else ()
        if shape not in ((), (1,), (n_out,)):
            raise ValueError(
                f"pos_weight must be one number or {n_out}, one for each output, got {shape[0]}"
            )


@dataclass(frozen=True, eq=False)
class CrossEntropy(Loss):
    """Cross-entropy of classes, on logits: −Σⱼ t'ⱼ log softmax(o)ⱼ.

    Targets are integer labels, or rows of probabilities. t' = (1 − ε) t + ε/n_out smooths
    them, as in C. Szegedy et al., *Rethinking the Inception architecture* (2016), section 7.

    Parameters
    ----------
    label_smoothing : float, default=0.0
        The share ε that all classes get, at least 0 and below 1.
    class_weight : mapping or array_like or "balanced", optional
        What samples of a class count for, above 0: by class (1 where a class is left out),
        for each class, or such that all classes count the same, n / (n_classes · n_c), by the
        weights of the samples that `fit` trains on or another method is called with. It
        multiplies the weight of a sample. A row of probabilities counts as one sample of
        each class, with the probability times the class weight as its weight.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    In the gradient, a difference p − t' of less than 2⁻⁶⁶ (2⁻⁵⁰⁰ in float64) counts as 0. It
    is nothing beside the others, but products with what it becomes take a hundred times as long.
    """

    row: catalogue.Loss = field(init=False, repr=False, default=ROWS["cross_entropy"])
    label_smoothing: float = 0.0
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        _validation.check_real("label_smoothing", self.label_smoothing, "[0, 1)")
        if isinstance(self.class_weight, str) and self.class_weight != "balanced":
            raise ValueError(
                "class_weight must be 'balanced', a mapping or one number for each class, got "
                f"{self.class_weight!r}"
            )

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return np.array([self.label_smoothing], np.float64)

    def check_network(  # numpydoc ignore=PR01
        self, n_out: int, output_activation: str
    ) -> None:
        """Refuse a network whose outputs the loss cannot mean, and parameters for another."""
        super().check_network(n_out, output_activation)
        if n_out == 1:
            raise ValueError(
                "loss 'cross_entropy' needs an output for each class, but the network has 1 "
                "output: use 'binary_cross_entropy' for yes or no"
            )
        if self.class_weight is not None and not isinstance(self.class_weight, str):
            _by_class(self.class_weight, n_out)

    def fitted_to(self, batch: Batch) -> Loss:  # numpydoc ignore=PR01,RT01
        """Return the loss with the weights that balance the classes of some samples."""
        if not isinstance(self.class_weight, str):
            return self
        return replace(self, class_weight=_balanced(batch))

    def weigh(self, batch: Batch) -> Batch:  # numpydoc ignore=PR01,RT01
        """Return samples with the class weights in their own weights."""
        if self.class_weight is None:
            return batch
        weights, target = _by_class(self.class_weight, batch.target.shape[1]), batch.target
        if len(batch.labels):
            counts_for = weights[batch.labels]
        else:
            rows = weights * target
            counts_for = rows.sum(axis=1)
            target = (rows / counts_for[:, np.newaxis]).astype(target.dtype)
        if len(batch.sample_weight):
            counts_for = counts_for * batch.sample_weight
        return batch._replace(target=target, sample_weight=counts_for.astype(target.dtype))


def _by_class(class_weight: Any, n_classes: int) -> NDArray[np.float64]:
    """Return the weight of each class."""
    if not isinstance(class_weight, Mapping):
        vector = _validation.as_vector("class_weight", class_weight, n_classes, np.dtype(float))
        weights = vector.astype(np.float64)
    else:
        weights, classes = np.ones(n_classes), range(n_classes)
        for label, weight in class_weight.items():
            if label not in classes:
                raise ValueError(
                    f"class_weight must have the classes 0 to {n_classes - 1}, the network's "
                    f"outputs, got {label!r}"
                )
            weight = _validation.check_real(f"class_weight[{label}]", weight, "(0, inf)")
            weights[classes.index(label)] = weight  # True and 1.0 are equal to 1, but no index
    if not ((weights > 0) & np.isfinite(weights)).all():
        raise ValueError(
            f"class_weight must hold numbers above 0, got {weights}: to leave samples out, give "
            "them a sample_weight of 0"
        )
    return weights


def _balanced(batch: Batch) -> NDArray[np.float64]:
    """Return n / (n_classes · n_c) for the classes c that occur, by the samples' weights."""
    weight = np.ones(len(batch.x))
    if len(batch.sample_weight):
        weight = batch.sample_weight.astype(np.float64)
    if len(batch.labels):
        total = np.bincount(batch.labels, weight, batch.target.shape[1]).astype(np.float64)
    else:
        total = weight @ batch.target.astype(np.float64)
    occurs = total > 0
    return np.divide(total.sum() / occurs.sum(), total, where=occurs, out=np.ones(len(total)))


WITH_PARAMETERS = (CrossEntropy, BinaryCrossEntropy, Huber, Pinball)

#: Losses by name, their parameters the usual ones.
LOSSES: dict[str, Loss] = {name: Loss(row) for name, row in ROWS.items()}
LOSSES |= {loss.name: loss for loss in (kind() for kind in WITH_PARAMETERS)}


def get(loss: str | Loss) -> Loss:
    """Return a loss.

    Parameters
    ----------
    loss : str or Loss
        Its name, or the loss itself.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or there is none of that name.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        raise TypeError(f"loss must be an object, got the class: write {loss.__name__}()")
    return _validation.look_up("loss", loss, LOSSES)
