"""Train and run multilayer perceptrons on the CPU, fast.

>>> import fastmlp as fm
>>> X_train, y_train, X_test, y_test = fm.datasets.load_digits()
>>> net = fm.MLP.from_sizes([64, 128, 10], activation="relu", seed=0)
>>> history = net.fit(X_train, y_train, epochs=20, seed=0, verbose=0)
>>> probabilities = fm.softmax(net.predict(X_test))
"""

from importlib.util import find_spec

if find_spec(f"{__name__}.kernels") is None:
    raise ImportError(
        "this is the source folder of fastmlp, whose kernels are not built here. Run "
        "`pip install .` and start Python in another folder or with `python -P`; or, to "
        "work on fastmlp itself, run `pip install -e .`"
    )

from . import datasets, kernels, schedules
from .activations import CustomActivation, sigmoid, softmax
from .backends import (
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
    show_config,
    use_backend,
)
from .callbacks import Callback, EarlyStopping, ReduceOnPlateau
from .gradcheck import check_gradient, finite_difference_gradient
from .history import History
from .layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, PReLU
from .losses import BinaryCrossEntropy, CrossEntropy, Huber, Pinball
from .minimization import Minimization, minimize
from .network import MLP
from .optimizers import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    ParameterAverage,
    RMSprop,
)
from .rate_search import LearningRateRange, find_learning_rate
from .serialization import load
from .trace import backprop_trace

__all__ = [
    "MLP",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchNorm",
    "BinaryCrossEntropy",
    "Callback",
    "CrossEntropy",
    "CustomActivation",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "History",
    "Huber",
    "LayerNorm",
    "LearningRateRange",
    "Lion",
    "Minimization",
    "NAdam",
    "PReLU",
    "ParameterAverage",
    "Pinball",
    "RMSprop",
    "ReduceOnPlateau",
    "backprop_trace",
    "check_gradient",
    "datasets",
    "find_learning_rate",
    "finite_difference_gradient",
    "get_backend",
    "get_num_threads",
    "kernels",
    "load",
    "minimize",
    "schedules",
    "set_backend",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "softmax",
    "use_backend",
]


def __getattr__(name: str) -> str:
    """Look the version up when it is asked for: importlib.metadata is slow to import."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
