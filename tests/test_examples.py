"""Every example runs, on small arguments, and prints what it promises."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    """Return what an example prints."""
    command = [sys.executable, "-P", EXAMPLES / f"{name}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_cost_of_backpropagation(tmp_path):
    plot = ["--plot", tmp_path / "cost.svg"] if find_spec("matplotlib") else []
    costs, errors = run("cost_of_backpropagation", "4", "8", *plot).split("\n\n")
    lines = costs.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["4-4-4-10", "90"], ["8-8-8-10", "234"]]
    assert float(lines[2].split()[5]) > 10  # naive differences cost more than the gradient
    assert lines[4].startswith("naive / gradient grows as parameters^")
    rows = [list(map(float, line.split()[:4])) for line in errors.splitlines()[1:]]
    step, forward, central, by_complex_steps = zip(*rows, strict=True)
    # Truncation to the left, rounding to the right; the lowest points are at √ε and ∛ε.
    assert step[forward.index(min(forward))] in (1e-7, 1e-8)
    assert step[central.index(min(central))] in (1e-5, 1e-6)
    assert max(by_complex_steps[-6:]) < 1e-14 < min(central) < min(forward)
    if plot:
        text = plot[1].read_text()
        assert all(name in text for name in ("naive differences", "backpropagation", "complex"))
    costs, _ = run("cost_of_backpropagation", "4").split("\n\n")
    assert costs.splitlines()[-1].split()[0] == "4-4-4-10"  # no slope of one width


def test_derivatives_and_pytorch():
    pytest.importorskip("torch", reason="the example compares with PyTorch")
    lines = [line.split() for line in run("derivatives_and_pytorch", "0.1").splitlines()[1:]]
    names = ["jacobian", "sample_gradients", "hessian_product"]
    assert [line[:2] for line in lines] == [[name, n] for n in ("1", "32") for name in names]
    assert max(float(line[-1]) for line in lines) < 1e-10


def test_convergence_rates():
    lines = run("convergence_rates", "2").splitlines()[1:3]
    assert [line.split()[0] for line in lines] == ["2", "2"]


def test_every_example_is_run():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested - {"every_example_is_run"}
