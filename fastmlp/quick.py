"""One sample at a time without the checks that its type already passes.

A call with a plain array, and what was checked before, goes straight to the compiled
kernels; whatever is not plain comes back as None, and takes the way through all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import kernels, losses
from ._validation import Array
from .backends import on_one_compiled_thread
from .kernels import arena

if TYPE_CHECKING:
    from .losses import Loss
    from .optimizers import Optimizer
    from .parameters import Parameters

__all__ = ["Quick"]

#: Operations of a gradient in units of a forward pass: forward, BP2 and BP4.
GRADIENT_WORK = 3

#: Steps whose scalars are computed together.
STEPS_AHEAD = 64


class Quick:
    """Compiled kernels on single samples of one network.

    Parameters
    ----------
    parameters : Parameters
        Of the network.
    """

    def __init__(self, parameters: Parameters) -> None:
        layout = parameters.layout
        self._parameters = parameters
        self._module = kernels.load_backend("cython")
        size = arena.training_workspace_size(layout.table, 1, layout.dtype.itemsize, 1)
        workspace = arena.aligned_zeros(size, layout.dtype)
        self._caller = self._module.Caller(layout.table, layout.alphas, parameters.arena, workspace)
        self._work = layout.work_per_sample
        self._n_out = int(layout.table[-1, kernels.catalogue.CODES["N_OUT"]])
        self._objectives: dict[str, Any] = {}
        self._rule: tuple[Optimizer | None, int, int, Any] = None, 0, 0, None

    def remember(self, loss: Loss) -> None:
        """Take a loss that fits the network, if targets of its kind can be taken unchecked.

        Parameters
        ----------
        loss : Loss
            The loss; one with parameters of its own is left aside.
        """
        if loss.name in self._objectives or loss is not losses.LOSSES[loss.name]:
            return
        n_labels = self._n_out if "labels" in loss.row.target and self._n_out > 1 else 0
        if n_labels or loss.row.target == "values":
            self._objectives[loss.name] = self._module.Objective(
                *loss.arguments(self._n_out), n_labels, loss.n_targets(self._n_out)
            )

    def prepare(self, optimizer: Optimizer) -> None:
        """Take an optimizer that has this network, if its next steps can be told at once.

        Parameters
        ----------
        optimizer : Optimizer
            For the steps to come.
        """
        if optimizer.has_constants:
            steps = optimizer.prepare(self._parameters, STEPS_AHEAD)
            rule = self._module.Rule(steps.row.code, steps.state, steps.coefficients)
            self._rule = optimizer, optimizer.changes, optimizer.step_count, rule

    def forward(self, x: Any, out: Any = None) -> Array | None:
        """Return the outputs for one sample.

        Parameters
        ----------
        x : array_like
            The sample, or anything else.
        out : object, optional
            What receives the outputs.

        Returns
        -------
        numpy.ndarray of shape (n_out,) or None
            `out` or a new array; None if something must be looked at first.
        """
        if not on_one_compiled_thread(self._work):
            return None
        return self._caller.forward(x, out)

    def value_and_grad(self, x: Any, y: Any, loss: Any) -> tuple[float, Array] | None:
        """Return the loss of one sample and its derivatives.

        Parameters
        ----------
        x, y, loss : object
            Sample, target and name of a loss, or anything else.

        Returns
        -------
        tuple of float and numpy.ndarray of shape (n_elements,), or None
            The loss, and an arena with its derivatives.
        """
        if type(loss) is not str or not on_one_compiled_thread(GRADIENT_WORK * self._work):
            return None
        objective = self._objectives.get(loss)
        return objective and self._caller.value_and_grad(x, y, objective)

    def train_step(self, x: Any, y: Any, loss: Any, optimizer: Any) -> float | None:
        """Update the parameters by one sample.

        Parameters
        ----------
        x, y, loss : object
            As for :meth:`value_and_grad`.
        optimizer : object
            An optimizer, or anything else.

        Returns
        -------
        float or None
            The loss before the update.
        """
        if type(loss) is not str or not on_one_compiled_thread(GRADIENT_WORK * self._work):
            return None
        objective = self._objectives.get(loss)
        if objective is None:
            return None
        owner, changes, first, rule = self._rule
        if owner is None or owner is not optimizer or changes != owner.changes:
            return None
        index = owner.step_count - first
        if not 0 <= index < STEPS_AHEAD:
            self.prepare(owner)
            index, rule = 0, self._rule[3]
        value = self._caller.train_step(x, y, objective, rule, index)
        if value is not None:
            owner.advance(1)
        return value
