"""The multilayer perceptron: parameters, forward pass, loss and gradient.

Imports at the top of a module point down the list of modules only. :class:`MLP` is the
users' handle on all of them, so ``fit`` and ``save`` import the modules above when they
are called, and hold no code of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import activations, losses
from ._validation import (
    ARGUMENTS,
    Array,
    Batch,
    Seed,
    as_batch,
    as_dtype,
    as_generator,
    as_list,
    as_rows,
    as_samples,
    check_output,
    real_array,
)
from .activations import CustomActivation
from .backends import current_kernels, get_backend, serial_work, threads_for
from .factors import FactoredGradient
from .initializers import Initializer
from .kernels import arena, catalogue
from .layers import Dense, Dropout, Layer
from .losses import Loss
from .parameters import Gradient, Layout, Parameters
from .quick import GRADIENT_WORK, Quick
from .workspaces import Workspaces

if TYPE_CHECKING:
    import os

    from .callbacks import Callback, EpochFunction
    from .history import History
    from .metrics import MetricFunction
    from .optimizers import Optimizer

__all__ = [
    "GRADIENT_WORK",
    "LARGEST_SEED",
    "MLP",
    "KernelArguments",
    "check_batch",
    "check_batch_size",
    "check_dense",
    "check_layers",
    "empty_network",
    "make_batch",
]

KernelArguments = tuple[NDArray[np.int64], NDArray[np.float64], Array]

#: Seeds of masks are drawn below; the steps that are added stay far from overflow.
LARGEST_SEED = 2**62

#: Operations and rows of one call where the samples are cut into blocks: below 100 ms,
#: and a few tens of MB of workspace.
WORK_PER_CALL = 2e8
ROWS_PER_CALL = 16384


class MLP:
    """A multilayer perceptron: dense layers in sequence, F(x) = σ(W … σ(W₁x + b₁) … + b).

    Between them may be other layers: activations, dropout, normalisation. Where these do
    something else in training, it is :meth:`fit`, :meth:`train_step` and what is called with
    ``training=True`` that train; all else is the network in use.

    All parameters lie in one block of memory; `weights` and `biases` are writable views
    of it. Copies and pickles are independent networks. Several threads may call one
    network at a time as long as none of them changes its parameters.

    Parameters
    ----------
    layers : iterable of Layer
        From input to output, at least one :class:`Dense`; each takes what the one before
        gives.
    dtype : {"float32", "float64"}, default="float32"
        Type of parameters and outputs. float32 is twice as fast, and precise enough to
        train; float64 is for checking gradients.
    seed : int or numpy.random.Generator, optional
        Where initial weights come from, and the masks of dropout in :meth:`train_step` and
        with ``training=True``; None takes new ones each time. One seed gives the same
        network in both dtypes, up to rounding.

    Attributes
    ----------
    layers : tuple of Layer
        The layers, with their sizes.
    dtype : numpy.dtype
        Type of parameters and outputs.

    Raises
    ------
    TypeError, ValueError
        If there are no layers, two do not fit, or the dtype is another.
    """

    layers: tuple[Layer, ...]
    dtype: np.dtype[Any]

    def __init__(
        self, layers: Iterable[Layer], *, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self._allocate(check_layers(layers), as_dtype(dtype))
        generator = as_generator(seed)
        for layer, weight in zip(self.layers, self.weights, strict=True):
            weight[...] = layer.draw_weight(generator)
        if self._layout.is_random:
            self._noise = int(generator.integers(LARGEST_SEED))

    @classmethod
    def from_sizes(
        cls,
        sizes: Sequence[int],
        activation: str | CustomActivation = "relu",
        output_activation: str | CustomActivation = "identity",
        initializer: str | Initializer | None = None,
        *,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> MLP:
        """Build a network from the sizes of its layers.

        Parameters
        ----------
        sizes : sequence of int
            Features of the input, units of each hidden layer, and outputs.
        activation : str or CustomActivation, default="relu"
            Activation of the hidden layers.
        output_activation : str or CustomActivation, default="identity"
            Activation of the last layer; the losses for classes take logits, so they
            want the identity. With ``"softmax"`` the outputs are probabilities, for losses
            such as ``"mse"``.
        initializer : str or callable, optional
            As for :class:`Dense`, for all layers.
        dtype : {"float32", "float64"}, default="float32"
            Type of parameters and outputs.
        seed : int or numpy.random.Generator, optional
            Where initial weights come from, as for :class:`MLP`.

        Returns
        -------
        MLP
            The network.

        Raises
        ------
        TypeError, ValueError
            If there are fewer than two sizes, or an argument is not valid.
        """
        sizes = as_list("sizes", sizes, "integers")
        if len(sizes) < 2:
            raise ValueError(f"sizes must have an input and an output size, got {sizes}")
        activations.get(activation)
        activations.get(output_activation, "output_activation")
        names = [activation] * (len(sizes) - 2) + [output_activation]
        layers = [
            Dense(n_in, n_out, name, initializer)
            for (n_in, n_out), name in zip(pairwise(sizes), names, strict=True)
        ]
        return cls(layers, dtype=dtype, seed=seed)

    def _allocate(self, layers: tuple[Layer, ...], dtype: np.dtype[Any]) -> None:
        """Set every attribute; the parameters are 0."""
        self.layers = layers
        self.dtype = dtype
        self._n_in = layers[0].n_in
        self._n_out = layers[-1].n_out
        self._layout = Layout.of(layers, dtype)
        self._parameters = Parameters(self._layout)
        for variance in self._parameters.running_variances:
            variance[...] = 1
        self._noise = 0
        self._workspaces = Workspaces(self._layout)
        self._quick: Quick | None = None  # where compiled kernels have run

    def __getstate__(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "dtype": self.dtype,
            "parameters": self._parameters,
            "noise": self._noise,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A fresh arena: a copied buffer would not start a cache line.
        self._allocate(state["layers"], as_dtype(state["dtype"]))
        self._parameters.assign(state["parameters"])
        self._noise = state["noise"]

    def __repr__(self) -> str:
        dense = (layer.n_out for layer in self.layers if isinstance(layer, Dense))
        sizes = "-".join(str(size) for size in (self.n_in, *dense))
        names = ", ".join(layer.label for layer in self.layers)
        return f"MLP({sizes}; {names}; {self.n_parameters:,} parameters; {self.dtype})"

    # --- Parameters -----------------------------------------------------------------------

    @property
    def n_in(self) -> int:
        """Features of a sample."""
        return self._n_in

    @property
    def n_out(self) -> int:
        """Outputs for a sample."""
        return self._n_out

    @property
    def parameters(self) -> Parameters:
        """Weights, biases and running statistics with their memory and its layout."""
        return self._parameters

    @property
    def weights(self) -> tuple[NDArray[Any], ...]:
        """Writable view of each layer's W, shape (n_out, n_in).

        Of layers that are not dense it is their weights or slopes, shape (n_out,), or (1,)
        if all units share one; of those without any an empty array.
        """
        return self._parameters.weights

    @property
    def biases(self) -> tuple[NDArray[Any], ...]:
        """Writable view of each layer's b, shape (n_out,), empty where there is none."""
        return self._parameters.biases

    @property
    def running_means(self) -> tuple[NDArray[Any], ...]:
        """Writable view of each layer's running mean, empty but for :class:`BatchNorm`."""
        return self._parameters.running_means

    @property
    def running_variances(self) -> tuple[NDArray[Any], ...]:
        """Writable view of each layer's running variance, empty but for :class:`BatchNorm`."""
        return self._parameters.running_variances

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return self._layout.n_parameters

    def get_parameters(self) -> NDArray[Any]:
        """Copy all parameters into one vector.

        Returns
        -------
        numpy.ndarray of shape (n_parameters,)
            W₁ (n_out × n_in, row-major), b₁, W₂, b₂ and so on.
        """
        return self._parameters.to_vector()

    def set_parameters(self, vector: ArrayLike) -> None:
        """Overwrite all parameters, in place.

        Parameters
        ----------
        vector : array_like of shape (n_parameters,)
            In the order of :meth:`get_parameters`.

        Raises
        ------
        TypeError, ValueError
            If it does not hold real numbers or the shape does not fit.
        """
        self._parameters.set_vector(vector)

    def astype(self, dtype: DTypeLike) -> MLP:
        """Copy the network, with parameters of another type.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Type of the copy.

        Returns
        -------
        MLP
            An independent network.

        Raises
        ------
        ValueError
            If the dtype is another.
        """
        net = empty_network(self.layers, dtype, self.mask_seed)
        net.parameters.assign(self._parameters)
        return net

    @property
    def mask_seed(self) -> int:
        """Seed of dropout's next mask in :meth:`train_step` and with ``training=True``."""
        return self._noise

    @property
    def kernel_arguments(self) -> KernelArguments:
        """Layer table, settings and arena: how every network kernel's arguments begin."""
        return self._layout.table, self._layout.settings, self._parameters.arena

    def training_arguments(self, seed: int | None = None) -> KernelArguments:
        """Return the same for the network in training.

        Parameters
        ----------
        seed : int, optional
            Masks of the first step that the kernel runs; the default goes on from the last
            call, as the seed of the network has it.

        Returns
        -------
        tuple
            Layer table, settings and arena.
        """
        if seed is None:
            seed, self._noise = self._noise, self._noise + 1
        table = self._layout.seeded_table(seed)
        return table, self._layout.training_settings, self._parameters.arena

    @property
    def workspaces(self) -> Workspaces:
        """Memory for kernels, of the calling thread."""
        return self._workspaces

    def prepare_quick_calls(
        self, loss: Loss | None = None, optimizer: Optimizer | None = None
    ) -> None:
        """Let calls that are like the last one leave out its checks, where they can.

        Parameters
        ----------
        loss : Loss, optional
            The loss that was checked.
        optimizer : Optimizer, optional
            The optimizer, which has this network.
        """
        if get_backend() != "cython":
            return
        if self._quick is None:
            self._quick = Quick(self._parameters)
        if loss is not None:
            self._quick.remember(loss)
        if optimizer is not None and self._layout.trains_as_used:
            self._quick.expect(optimizer)

    # --- Forward, loss and gradient -------------------------------------------------------

    def forward(self, X: ArrayLike, out: Array | None = None) -> Array:
        """Return the outputs of the last layer, computed in one call of a kernel.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample; there may be none.
        out : numpy.ndarray of shape (n_samples, n_out) or (n_out,), optional
            Receives the outputs: writable, of the network's dtype, with contiguous
            rows, and no part of `X` or of the parameters.

        Returns
        -------
        numpy.ndarray of shape (n_samples, n_out) or (n_out,)
            `out`, or a new array.

        Raises
        ------
        TypeError, ValueError
            If `X` or `out` does not fit.

        Notes
        -----
        Up to three samples leave out weights whose inputs are 0 in all of them, if that is
        faster: where ReLU has switched off half of a wide layer, the next takes half the
        time. The outputs are the same, unless such a weight is infinite or NaN: then 0 times
        it, which is NaN, is left out as well.
        """
        quick = self._quick
        if quick is not None:
            answer = quick.forward(X, out, serial_work())
            if answer is not None:
                return answer
        x, single = as_samples(X, self._n_in, self.dtype)
        shape = (self._n_out,) if single else (len(x), self._n_out)
        if out is None:
            out = np.empty(shape, self.dtype)
        else:
            check_output(out, shape, x, self._parameters.arena)
        self._forward_rows(x, out[np.newaxis] if single else out)
        if quick is None:
            self.prepare_quick_calls()
        return out

    __call__ = forward  # not a call of it, which would take 20 ns of 600

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a subclass's `forward` answer calls of its networks, unless they have their own."""
        super().__init_subclass__(**options)
        nearest = next(base for base in cls.__mro__ if {"forward", "__call__"} & vars(base).keys())
        if "__call__" not in vars(nearest):
            cls.__call__ = cls.forward  # type: ignore[method-assign]

    def _forward_rows(self, x: Array, out: Array) -> None:
        n_threads = threads_for(self._layout.work(len(x)))
        workspace = self._workspaces.forward(len(x), n_threads)
        current_kernels().network_forward(*self.kernel_arguments, x, out, workspace, n_threads)

    def predict(self, X: ArrayLike) -> Array:
        """Return the outputs for any number of samples, block by block.

        Beside the outputs, memory is needed for one block only, also where `X` is
        memory-mapped or of another dtype; Ctrl-C works between blocks.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.

        Returns
        -------
        numpy.ndarray of shape (n_samples, n_out) or (n_out,)
            Outputs of the last layer. For losses on logits these are logits:
            :func:`fastmlp.softmax` and :func:`fastmlp.sigmoid` give probabilities.

        Raises
        ------
        TypeError, ValueError
            If `X` does not fit.
        """
        array = real_array("X", X)
        if array.ndim != 2:
            return self.forward(array)
        as_samples(array[:0], self._n_in, self.dtype)
        out = np.empty((len(array), self._n_out), self.dtype)
        for block in self._blocks(len(array)):
            self._forward_rows(as_rows(array[block], self.dtype), out[block])
        return out

    def _blocks(self, n: int) -> Iterable[slice]:
        """Cut n samples into blocks; not by time, so that sums do not depend on it."""
        rows = int(WORK_PER_CALL / self._layout.work_per_sample)
        block = arena.row_block(self._layout.table, self.dtype.itemsize)
        rows = min(max(rows, block), ROWS_PER_CALL)
        return (slice(start, min(start + rows, n)) for start in range(0, n, rows))

    def loss(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
    ) -> float:
        """Return the mean loss, Σᵢ wᵢ L(F(xᵢ), yᵢ) / Σᵢ wᵢ, with the layers' penalties.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            For ``"cross_entropy"`` an integer label or a row of probabilities for each
            sample, for hinge losses a label or a row of −1 and 1, else a row of numbers,
            one for each output (``"gaussian_nll"``: for every two, ``"pinball"``: for as
            many as quantiles). Where a row is one number, one number for each sample too.
        loss : str or Loss, default="cross_entropy"
            A name of :data:`fastmlp.losses.LOSSES`, or an object such as ``fm.Huber(1.5)``.
        sample_weight : array_like of shape (n_samples,), optional
            Weights w, at least 0; equal if left out. A sample of weight k counts as k
            samples; one of weight 0 is absent, whatever it holds.
        training : bool, default=False
            Whether layers do as in training: dropout with a new mask each time, batch
            normalisation with the statistics of these samples as one batch.

        Returns
        -------
        float
            The mean over the samples.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        objective, batch = make_batch(self, X, y, loss, sample_weight)
        if not training:
            return self.mean_loss(batch, objective)
        check_batch_size(self, len(batch.x))
        return self._batch_loss(batch, objective, self.training_arguments())

    def mean_loss(self, batch: Batch, loss: Loss) -> float:
        """Return the mean loss of samples that have been checked, block by block.

        Parameters
        ----------
        batch : Batch
            From :func:`make_batch`.
        loss : Loss
            From there too.

        Returns
        -------
        float
            The mean over the samples.
        """
        total = weight_sum = 0.0
        for block in self._blocks(len(batch.x)):
            part = batch.part(block)
            value = self._batch_loss(part, loss, self.kernel_arguments)
            weights = part.sample_weight
            weight = weights.sum(dtype=np.float64) if len(batch.sample_weight) else len(part.x)
            total += weight * value
            weight_sum += weight
        return float(total / weight_sum)

    def _batch_loss(self, batch: Batch, loss: Loss, arguments: KernelArguments) -> float:
        n_threads = threads_for(self._layout.work(len(batch.x)))
        workspace = self._workspaces.training(len(batch.x), n_threads)
        return current_kernels().network_loss(
            *arguments, *batch, *loss.arguments(self._n_out), workspace, n_threads
        )

    @overload
    def value_and_grad(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        factored: Literal[False] = False,
    ) -> tuple[float, Gradient]: ...

    @overload
    def value_and_grad(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        factored: Literal[True],
    ) -> tuple[float, FactoredGradient]: ...

    def value_and_grad(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        factored: bool = False,
    ) -> tuple[float, Gradient | FactoredGradient]:
        """Return the mean loss and its gradient, by backpropagation.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, as for :meth:`loss`.
        training : bool, default=False
            Whether layers do as in training, as for :meth:`loss`. Running statistics stay
            as they are.
        factored : bool, default=False
            Whether to keep the gradient of each weight as its factors δ and a, of which it
            is the product Σᵢ δᵢ aᵢᵀ. Of one sample or a few this costs about one more pass
            than the loss, for as many numbers as there are weights are not written.

        Returns
        -------
        value : float
            The mean over the samples.
        grad : Gradient or FactoredGradient
            Its derivatives, as ``grad.weights[l]``, ``grad.biases[l]``,
            ``grad.to_vector()`` and ``grad.norm()``.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        if factored:
            if training:
                raise ValueError("factored takes the network in use, not in training")
            return self._value_and_factors(X, y, loss, sample_weight)
        if self._quick is not None and sample_weight is None and not training:
            answer = self._quick.value_and_grad(X, y, loss)
            if answer is not None:
                return answer[0], Gradient(self._layout, answer[1])
        objective, batch = make_batch(self, X, y, loss, sample_weight)
        if training:
            check_batch_size(self, len(batch.x))
        n_threads = threads_for(GRADIENT_WORK * self._layout.work(len(batch.x)))
        grad = Gradient(self._layout, self._layout.unfilled())
        workspace = self._workspaces.training(len(batch.x), n_threads)
        value = current_kernels().network_gradient(
            *(self.training_arguments() if training else self.kernel_arguments),
            *batch,
            *objective.arguments(self._n_out),
            grad.arena,
            workspace,
            n_threads,
        )
        self.prepare_quick_calls(objective)
        return value, grad

    def _value_and_factors(
        self, X: ArrayLike, y: ArrayLike, loss: str | Loss, sample_weight: ArrayLike | None
    ) -> tuple[float, FactoredGradient]:
        """Return the mean loss and its gradient, factored."""
        check_dense(self, "factored")
        check_unpenalized(self, "factored")
        if self._quick is not None and sample_weight is None:
            answer = self._quick.factors(X, y, loss)
            if answer is not None:
                return answer[0], FactoredGradient(self._layout, *answer[1:])
        objective, batch = make_batch(self, X, y, loss, sample_weight)
        n_samples, table = len(batch.x), self._layout.table
        n_threads = threads_for(GRADIENT_WORK * self._layout.work(n_samples))
        inputs, deltas = (
            np.empty((n_samples, table[:, catalogue.CODES[name]].sum()), self.dtype)
            for name in ("N_IN", "N_OUT")
        )
        value = current_kernels().network_factors(
            *self.kernel_arguments,
            *batch,
            *objective.arguments(self._n_out),
            inputs,
            deltas,
            self._workspaces.training(n_samples, n_threads),
            n_threads,
        )
        self.prepare_quick_calls(objective)
        return value, FactoredGradient(self._layout, inputs, deltas)

    def input_gradient(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
    ) -> Array:
        """Return the derivative of the mean loss by the inputs, ∂L/∂x.

        Row i is that of Σᵢ wᵢ L(F(xᵢ), yᵢ) / Σᵢ wᵢ by xᵢ: of the sample's own loss, times
        its share in the mean. With one sample it is that of its loss.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, as for :meth:`loss`.

        Returns
        -------
        numpy.ndarray of shape (n_samples, n_in) or (n_in,)
            (W¹)ᵀ δ¹ of each sample, 0 where its weight is 0.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        from . import derivatives

        return derivatives.input_gradient(self, X, y, loss, sample_weight)

    def jacobian(self, X: ArrayLike) -> Array:
        """Return the derivatives of the outputs by the inputs, ∂F/∂x.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.

        Returns
        -------
        numpy.ndarray of shape (n_samples, n_out, n_in) or (n_out, n_in)
            Entry [j, k] is ∂Fⱼ/∂xₖ, by backpropagation of every output at once.

        Raises
        ------
        TypeError, ValueError
            If `X` does not fit.
        """
        from . import derivatives

        return derivatives.jacobian(self, X)

    def sample_gradients(
        self, X: ArrayLike, y: ArrayLike, loss: str | Loss = "cross_entropy"
    ) -> Array:
        """Return the gradient of each sample's own loss, one below the other.

        Row i is what :meth:`value_and_grad` gives for sample i alone, penalties left out;
        unless classes have weights, their mean is the gradient of the mean loss.
        :meth:`gradient_norms` has the norms without the n_samples · n_parameters numbers.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.

        Returns
        -------
        numpy.ndarray of shape (n_samples, n_parameters) or (n_parameters,)
            ∂Lᵢ/∂θ, in the order of :meth:`get_parameters`.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        from . import derivatives

        return derivatives.sample_gradients(self, X, y, loss)

    def gradient_norms(
        self, X: ArrayLike, y: ArrayLike, loss: str | Loss = "cross_entropy"
    ) -> Array:
        """Return the norm of the gradient of each sample's own loss, ‖∂Lᵢ/∂θ‖.

        Penalties are left out.

        As a sample's ∂L/∂W is δ aᵀ, this takes one pass forward and one back for the batch
        (Goodfellow, Efficient per-example gradient computations, 2015, arXiv:1510.01799).

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.

        Returns
        -------
        numpy.ndarray of shape (n_samples,) or ()
            Euclidean norms over all weights and biases.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        from . import derivatives

        return derivatives.gradient_norms(self, X, y, loss)

    def hessian_product(
        self,
        X: ArrayLike,
        y: ArrayLike,
        vector: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
    ) -> Gradient:
        """Return the Hessian of the mean loss times a vector, ∂²L/∂θ² · v.

        Exact, without the Hessian, at about the price of three gradients (Pearlmutter, Fast
        exact multiplication by the Hessian, Neural Computation 6, 1994). Piecewise linear
        activations and losses have the second derivative 0, also at their kinks.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        vector : array_like of shape (n_parameters,)
            v, in the order of :meth:`get_parameters`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, as for :meth:`loss`.

        Returns
        -------
        Gradient
            The product, as ``.weights[l]``, ``.biases[l]`` and ``.to_vector()``.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, or the kernels lack the second derivative of an
            activation.
        """
        from . import derivatives

        return derivatives.hessian_product(self, X, y, vector, loss, sample_weight)

    # --- Training -------------------------------------------------------------------------

    def train_step(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        sample_weight: ArrayLike | None = None,
        *,
        optimizer: Optimizer,
    ) -> float:
        """Update the parameters by one step on one batch.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in) or (n_in,)
            Samples, or one sample.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, as for :meth:`loss`.
        optimizer : Optimizer
            Its state belongs to this network from now on.

        Returns
        -------
        float
            The mean loss before the update.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit; then nothing has changed.
        """
        if self._quick is not None and sample_weight is None:
            value = self._quick.train_step(X, y, loss, optimizer)
            if value is not None:
                return value
        from . import training

        return training.step(self, X, y, loss, sample_weight, optimizer)

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        optimizer: Optimizer | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        epochs: int = 10,
        batch_size: int | None = 32,
        drop_last: bool = False,
        shuffle: bool = True,
        validation_data: tuple[ArrayLike, ...] | None = None,
        metrics: Iterable[str | MetricFunction] = (),
        callbacks: Iterable[Callback | EpochFunction] = (),
        verbose: Literal[0, 1, 2] = 1,
        seed: Seed = None,
    ) -> History:
        """Train on batches of one sample, some or all; further calls go on from there.

        Ctrl-C stops between two steps and leaves a usable network. If the loss of an
        epoch is not finite, training stops with a RuntimeWarning.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_in)
            Samples.
        y : array_like
            Targets, as for :meth:`loss`.
        loss : str or Loss, default="cross_entropy"
            The loss, as for :meth:`loss`.
        optimizer : Optimizer, optional
            How to update; the default is ``Adam()``, which needs the least tuning. Its
            state belongs to this network from now on.
        sample_weight : array_like of shape (n_samples,), optional
            Weights, as for :meth:`loss`. A step follows the gradient of Σ wᵢ Lᵢ / Σ wᵢ over
            its batch, and an epoch's loss is that mean over all samples. Samples of weight 0
            are in no batch.
        epochs : int, default=10
            Passes over the samples, at least 1.
        batch_size : int or None, default=32
            Samples of a step, from 1 to all; None or a number above takes all (gradient
            descent). The last batch of an epoch may be smaller.
        drop_last : bool, default=False
            Whether to leave out a last batch that would be smaller; which samples that
            are changes from epoch to epoch if they are shuffled.
        shuffle : bool, default=True
            Whether each epoch visits the samples in a new random order.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Samples to compute the loss and the metrics of after each epoch.
        metrics : iterable of str or callable, default=()
            Names of :data:`fastmlp.metrics.METRICS` or functions ``f(y, output)`` that
            return a number. They cost one more forward pass an epoch over the samples, and
            one over those to validate on. Where samples have weights, a function with an
            argument `sample_weight` gets them.
        callbacks : iterable of Callback or callable, default=()
            What to call meanwhile. A plain function is called after each epoch with
            ``(net, epoch, history)``; training stops if it returns something true.
        verbose : {0, 1, 2}, default=1
            Nothing, a progress bar, or a line for each epoch, on standard error.
        seed : int or numpy.random.Generator, optional
            Where the order of samples and the masks of dropout come from.

        Returns
        -------
        History
            Loss, metrics and seconds of each epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit or the data are not finite; then nothing has
            changed.
        """
        from . import training

        return training.fit(
            self,
            X,
            y,
            loss,
            optimizer,
            sample_weight=sample_weight,
            epochs=epochs,
            batch_size=batch_size,
            drop_last=drop_last,
            shuffle=shuffle,
            validation_data=validation_data,
            metrics=metrics,
            callbacks=callbacks,
            verbose=verbose,
            seed=seed,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write layers and parameters to a safetensors file, all of it or nothing.

        Parameters
        ----------
        path : path-like
            File to write or replace; :func:`fastmlp.load` reads it.
        """
        from . import serialization

        serialization.save(self, path)


def check_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return layers of which each takes what the one before gives.

    Parameters
    ----------
    layers : iterable of Layer
        What came.

    Returns
    -------
    tuple of Layer
        At least one of them dense; all with their sizes.

    Raises
    ------
    TypeError, ValueError
        If there is no dense one, one is something else, or two do not fit.
    """
    came = as_list("layers", layers, "layers")
    checked: list[Layer] = []
    n_features: int | None = None
    for index, layer in enumerate(came):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers must hold layers such as Dense, got {layer!r}")
        if checked and not checked[-1].activation_row.elementwise:
            raise ValueError(
                f"layers[{index - 1}] must not have activation {checked[-1].activation!r}, which "
                "is for the last layer: its outputs sum to 1, so hidden units would compete"
            )
        try:
            checked.append(layer.sized(n_features))
        except ValueError as error:
            below = f", but layers[{index - 1}] gives {n_features}" if index else ""
            raise ValueError(f"layers[{index}] {error}{below}") from None
        n_features = checked[-1].n_out
        if n_features == 1 and not checked[-1].activation_row.elementwise:
            raise ValueError(
                f"layers[{index}] must not have activation {checked[-1].activation!r}, which is "
                "constant for 1 feature: use 'sigmoid'"
            )
    if not any(isinstance(layer, Dense) for layer in checked):
        raise ValueError(f"layers must hold at least one Dense layer, got {came or 'none'}")
    return tuple(checked)


def check_batch_size(net: MLP, n_samples: int) -> None:
    """Refuse a batch in training of which batch normalisation makes nothing.

    Parameters
    ----------
    net : MLP
        The network.
    n_samples : int
        Samples of the batch.

    Raises
    ------
    ValueError
        If there is one sample only, which is its own mean.
    """
    if n_samples == 1 and net.parameters.layout.meets:
        raise ValueError(
            "BatchNorm needs at least 2 samples in each batch of training, got 1: choose another "
            "batch_size, or drop_last=True where only the last batch has one; LayerNorm takes any"
        )


def check_unpenalized(net: MLP, purpose: str) -> None:
    """Refuse a network whose weights add to the loss.

    Parameters
    ----------
    net : MLP
        The network.
    purpose : str
        What knows nothing of penalties.

    Raises
    ------
    ValueError
        If a layer has a penalty.
    """
    if net.parameters.layout.is_penalized:
        raise ValueError(f"{purpose} takes networks without penalties only, got {net.layers}")


def check_dense(net: MLP, purpose: str) -> None:
    """Refuse a network in which other layers than dense ones do something.

    Parameters
    ----------
    net : MLP
        The network.
    purpose : str
        What takes dense layers only.

    Raises
    ------
    ValueError
        If there is another layer; dropout only acts in training.
    """
    for layer in net.layers:
        if not isinstance(layer, (Dense, Dropout)):
            raise ValueError(f"{purpose} takes networks of Dense layers only, got {layer!r}")


def empty_network(layers: Iterable[Layer], dtype: DTypeLike, mask_seed: int = 0) -> MLP:
    """Return a network whose parameters are 0, without drawing initial ones.

    Parameters
    ----------
    layers : iterable of Layer
        From input to output.
    dtype : {"float32", "float64"}
        Type of parameters and outputs.
    mask_seed : int, default=0
        Seed of dropout's next mask.

    Returns
    -------
    MLP
        To be filled with ``set_parameters``.
    """
    net = MLP.__new__(MLP)
    net._allocate(check_layers(layers), as_dtype(dtype))
    net._noise = mask_seed
    return net


def check_batch(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss,
    sample_weight: ArrayLike | None = None,
    arguments: tuple[str, str, str] = ARGUMENTS,
    *,
    finite: bool = False,
) -> tuple[Loss, Batch]:
    """Check a loss and samples for a network.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    loss : str or Loss
        As for :meth:`MLP.loss`.
    sample_weight : array_like, optional
        As for :meth:`MLP.loss`.
    arguments : tuple of str, default=ARGUMENTS
        What the user calls `X`, `y` and `sample_weight`.
    finite : bool, default=False
        Whether `X` and `y` must be finite.

    Returns
    -------
    loss : Loss
        The loss, balanced class weights filled in.
    batch : Batch
        Arrays that the kernels can read, class weights left aside.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    objective = losses.get(loss)
    objective.check_network(net.n_out, str(net.layers[-1].activation))
    batch = as_batch(
        X,
        y,
        sample_weight,
        n_in=net.n_in,
        n_out=net.n_out,
        n_targets=objective.n_targets(net.n_out),
        loss=objective.row,
        dtype=net.dtype,
        arguments=arguments,
        finite=finite,
    )
    return objective.fitted_to(batch), batch


def make_batch(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss,
    sample_weight: ArrayLike | None = None,
) -> tuple[Loss, Batch]:
    """Check a loss and samples for a network, and weigh the samples by class.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    loss : str or Loss
        As for :meth:`MLP.loss`.
    sample_weight : array_like, optional
        As for :meth:`MLP.loss`.

    Returns
    -------
    loss : Loss
        The loss.
    batch : Batch
        Arrays that the kernels can read.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    objective, batch = check_batch(net, X, y, loss, sample_weight)
    return objective, objective.weigh(batch)
