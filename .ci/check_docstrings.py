"""Check the docstrings of every public name of the installed package with numpydoc."""

import importlib
import inspect
import pkgutil
import sys

from numpydoc.validate import validate

import fastmlp

# No examples, extended summaries or "See Also" are asked for, nor a first line on the second
# line, nor a description under the type of what is returned where one line has said it.
IGNORED = {"ES01", "EX01", "GL01", "RT03", "SA01", "YD01"}
# The compiled backends take their docstrings from the reference; __main__ runs the program.
SKIPPED = ("__main__", "_cython", "_numba", "_processor", "numba_backend")


def public_names(package):
    """Yield the full name of each public function, class and method."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if info.name.rpartition(".")[2].startswith(SKIPPED):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not callable(value) or value.__module__ != info.name:
                continue
            yield f"{info.name}.{name}"
            if inspect.isclass(value):
                methods = inspect.getmembers(value, inspect.isroutine)
                yield from (
                    f"{info.name}.{name}.{method}"
                    for method, _ in methods
                    if not method.startswith("_") and method in vars(value)
                )


problems = [
    f"{name}: {code} {message}"
    for name in public_names(fastmlp)
    for code, message in validate(name)["errors"]
    if code not in IGNORED
]
sys.exit("\n".join(problems))
