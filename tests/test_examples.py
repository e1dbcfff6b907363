"""Every example runs, on small arguments, and prints lines that begin as they should."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


#: Arguments of each example, and how the lines after the header begin.
RUNS = {
    "convergence_rates": (["2"], ["2", "2"]),
    "cost_of_backpropagation": (["8", "16"], ["8", "16"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_example(name):
    arguments, beginnings = RUNS[name]
    command = [sys.executable, "-P", EXAMPLES / f"{name}.py", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = printed.splitlines()[1 : 1 + len(beginnings)]
    assert [line.split()[0] for line in lines] == beginnings


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)
