"""What ``import fastmlp`` loads, and that imports between modules point one way."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp

FOLDER = Path(fastmlp.__file__).parent

#: Each module may import those before it; ``kernels`` imports none of them.
ORDER = (
    "text",
    "_validation",
    "backends",
    "activations",
    "losses",
    "initializers",
    "layers",
    "parameters",
    "factors",
    "workspaces",
    "schedules",
    "optimizers",
    "quick",
    "network",
    "history",
    "metrics",
    "callbacks",
    "pacing",
    "training",
    "rate_search",
    "line_search",
    "minimization",
    "derivatives",
    "trace",
    "gradcheck",
    "serialization",
    "datasets",
    "__init__",
    "cli",
    "__main__",
)

#: The users' handle on training, files and derivatives imports them when it is called, and only
#: the command knows of the benchmarks.
LATE = {"network": {"training", "serialization", "derivatives"}, "cli": {"benchmarks"}}


def run_python(code, cwd):
    """Run Python code in a fresh process and return what it did."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def imported_names(node):
    """Return the modules of fastmlp that an import statement names, "" if none."""
    if isinstance(node, ast.ImportFrom) and node.level:
        return [node.module] if node.module else [alias.name for alias in node.names]
    names = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
    return [name.partition(".")[2] or "__init__" for name in names if name.startswith("fastmlp")]


def imports_of(path):
    """Return the modules that a file imports at its top, and those it imports when called."""
    tree = ast.parse(path.read_text())
    found = {"top": set(), "late": set()}

    def visit(node, place):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)):
                found[place] |= {name.partition(".")[0] for name in imported_names(child)}
            elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
                is_function = isinstance(child, (ast.FunctionDef, ast.Lambda))
                visit(child, "late" if is_function else place)

    visit(tree, "top")
    return found["top"], found["late"]


def test_every_module_has_its_place():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_down(module):
    top, late = imports_of(FOLDER / f"{module}.py")
    below = {*ORDER[: ORDER.index(module)], "kernels"}
    assert top <= below
    assert late <= below | LATE.get(module, set())


def test_kernels_import_nothing_of_the_facade():
    folder = Path(fastmlp.kernels.__file__).parent
    files = {path.stem for path in folder.glob("*.py")}
    assert {"reference", "catalogue", "arena"} <= files
    for path in folder.glob("*.py"):
        top, late = imports_of(path)
        assert not (top | late) & set(ORDER), path.name
        assert not any(
            isinstance(node, ast.ImportFrom) and node.level > 1
            for node in ast.walk(ast.parse(path.read_text()))
        ), path.name


def test_import_loads_nothing_heavy(tmp_path):
    heavy = "numba sklearn matplotlib safetensors tqdm pandas scipy argparse importlib.metadata"
    code = f"import sys, fastmlp; print([n for n in {heavy.split()} if n in sys.modules])"
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_network_loads_nothing_heavy(tmp_path):
    if not fastmlp.kernels.has_compiled_kernels():
        pytest.skip("the default backend is Numba")
    code = (
        "import sys, fastmlp as fm\n"
        "net = fm.MLP.from_sizes([2, 3], seed=0)\n"
        "net.fit([[1, 2]], [0], epochs=1, verbose=0)\n"
        "print('numba' in sys.modules)"
    )
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "False", result.stderr


@pytest.mark.skipif(
    "__editable__" in str(sys.meta_path), reason="an editable install finds the kernels anywhere"
)
def test_import_from_an_unbuilt_checkout_says_what_to_run(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "fastmlp", ignore=shutil.ignore_patterns("kernels"))
    result = run_python("import fastmlp", tmp_path)
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: this is the source folder of fastmlp")
    assert "pip install ." in message
    assert "python -P" in message


def test_public_names_exist_and_are_documented():
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fastmlp.nothing  # noqa: B018


def test_version_is_that_of_the_installation():
    from importlib.metadata import version

    assert fastmlp.__version__ == version("fastmlp")


def test_types_are_published():
    assert (FOLDER / "py.typed").exists()
    assert importlib.util.find_spec("fastmlp.kernels") is not None
