"""A few samples at a time without the checks that their type already passes.

A call with a plain array, and what was checked before, goes straight to the compiled
kernels; whatever is not plain comes back as None, and takes the way through all checks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import kernels, losses
from ._validation import Array
from .backends import serial_work
from .kernels import arena

if TYPE_CHECKING:
    from .losses import Loss
    from .optimizers import Optimizer
    from .parameters import Parameters

__all__ = ["Quick"]

#: Operations of a gradient in units of a forward pass: forward, BP2 and BP4.
GRADIENT_WORK = 3

#: Samples of a quick call, at least so many and at most, and in between as many as this work
#: allows: with more, the checks, of 3 µs, cost little beside it.
LEAST_ROWS, MOST_ROWS = 16, kernels.catalogue.QUICK_ROWS
QUICK_WORK = 2e6

#: Steps whose scalars are computed together: at first, and at most when one batch of them after the
#: other has been used up.
STEPS_AHEAD, MOST_STEPS_AHEAD = 16, 256


class Quick:
    """Compiled kernels on a few samples of one network.

    Parameters
    ----------
    parameters : Parameters
        Of the network.

    Attributes
    ----------
    forward : callable
        Returns the outputs for a sample or a few, or None if something must be looked at first.
        Takes the samples, the array that receives the outputs or None for a new one, either of
        which may be anything, and :func:`~fastmlp.backends.serial_work`.
    """

    def __init__(self, parameters: Parameters) -> None:
        layout = parameters.layout
        self._parameters = parameters
        self._step_share = layout.exchange / GRADIENT_WORK
        self._module = kernels.load_backend("cython")
        n_rows = min(max(LEAST_ROWS, int(QUICK_WORK / layout.work_per_sample)), MOST_ROWS)
        size = arena.training_workspace_size(layout.table, n_rows, layout.dtype.itemsize, 1)
        workspace = arena.aligned_zeros(size, layout.dtype)
        self._caller = self._module.Caller(
            layout.table,
            layout.settings,
            parameters.arena,
            workspace,
            n_rows,
            layout.work_per_sample,
            layout.work(1),
        )
        self.forward = self._caller.forward
        self._n_out = int(layout.table[-1, kernels.catalogue.CODES["N_OUT"]])
        self._objectives: dict[str, Any] = {}
        self._rule: tuple[Callable[[], Optimizer | None], int, int, int, list[Any]]
        self._rule = (lambda: None), 0, 0, 0, []

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

    def expect(self, optimizer: Optimizer) -> None:
        """Take an optimizer for the steps to come.

        Parameters
        ----------
        optimizer : Optimizer
            It has this network.
        """
        if self._rule[0]() is not optimizer:
            self._keep(optimizer, -1, 0, [])  # prepared when it is called

    def value_and_grad(self, x: Any, y: Any, loss: Any) -> tuple[float, Array] | None:
        """Return the mean loss and its derivatives.

        Parameters
        ----------
        x, y, loss : object
            Samples, targets and name of a loss, or anything else.

        Returns
        -------
        tuple of float and numpy.ndarray of shape (n_elements,), or None
            The loss, and an arena with its derivatives.
        """
        objective = self._objectives.get(loss) if type(loss) is str else None
        return objective and self._caller.value_and_grad(
            x, y, objective, serial_work() / GRADIENT_WORK
        )

    def factors(self, x: Any, y: Any, loss: Any) -> tuple[float, Array, Array] | None:
        """Return the mean loss and the factors of its derivatives.

        Parameters
        ----------
        x, y, loss : object
            As for :meth:`value_and_grad`.

        Returns
        -------
        tuple of float and two numpy.ndarray, or None
            The loss, and a and δ as from the kernel ``network_factors``.
        """
        objective = self._objectives.get(loss) if type(loss) is str else None
        return objective and self._caller.factors(x, y, objective, serial_work() / GRADIENT_WORK)

    def train_step(self, x: Any, y: Any, loss: Any, optimizer: Any) -> float | None:
        """Update the parameters.

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
        objective = self._objectives.get(loss) if type(loss) is str else None
        if objective is None:
            return None
        reference, changes, first, n_steps, kept = self._rule
        owner = reference()
        if owner is None or owner is not optimizer:
            return None
        limit = serial_work() * self._step_share
        n_before = owner.step_count
        index = n_before - first
        if not 0 <= index < n_steps or changes != owner.changes:
            if not self._caller.takes(x, y, objective, limit) or not owner.has_constants:
                return None
            used_up = index == n_steps and changes == owner.changes
            index, kept = 0, self._prepare(owner, 4 * n_steps if used_up else STEPS_AHEAD)
        try:
            value = self._caller.train_step(x, y, objective, kept[0], index, limit)
            if value is not None:
                owner.advance(1)
        except KeyboardInterrupt:  # of a signal that came meanwhile: the step is done
            if owner.step_count == n_before and self._caller.takes(x, y, objective, limit):
                owner.advance(1)
            raise
        return value

    def _prepare(self, optimizer: Optimizer, n_steps: int) -> list[Any]:
        """Return a list with the rule of the steps to come, so many at most."""
        n_steps = min(n_steps, MOST_STEPS_AHEAD)
        steps = optimizer.prepare(self._parameters, n_steps)
        rule = self._module.Rule(steps.row.code, steps.state, steps.coefficients)
        return self._keep(optimizer, optimizer.changes, n_steps, [rule])

    def _keep(self, optimizer: Optimizer, changes: int, n_steps: int, kept: list[Any]) -> list[Any]:
        """Remember a rule, with the optimizer's state in it, as long as there is the optimizer."""
        reference = weakref.ref(optimizer, lambda _: kept.clear())
        self._rule = reference, changes, optimizer.step_count, n_steps, kept
        return kept
