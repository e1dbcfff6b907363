"""Check the docstrings of every public name of the installed package with numpydoc."""

import importlib
import inspect
import pkgutil
import sys

from numpydoc.validate import validate

import fastmlp

# Examples, longer summaries and "See Also" are not asked for; some sentences begin with δ.
IGNORED = {"ES01", "EX01", "PR08", "SA01"}
# The compiled backends take their docstrings from the reference; __main__ runs the program.
SKIPPED = ("__main__", "_cython", "_numba", "_processor", "numba_backend")


def public_modules():
    """Yield every module that users may import; an editable install keeps kernels apart."""
    for package in (fastmlp, fastmlp.kernels):
        yield package
        for info in pkgutil.iter_modules(package.__path__):
            if not info.ispkg and not info.name.startswith(SKIPPED):
                yield importlib.import_module(f"{package.__name__}.{info.name}")


def public_names(module):
    """Yield the full name of each function, class and method that a module defines."""
    for name in module.__all__:
        value = getattr(module, name)
        if not callable(value) or value.__module__ != module.__name__:
            continue
        yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if inspect.isroutine(function) and not method.startswith("_"):
                    yield f"{module.__name__}.{name}.{method}"


problems = [
    f"{name}: {code} {message}"
    for module in public_modules()
    for name in public_names(module)
    for code, message in validate(name)["errors"]
    if code not in IGNORED
]
sys.exit("\n".join(problems) or 0)
