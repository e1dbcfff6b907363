"""Every example runs, on small arguments, and prints a line for each."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("name", "arguments"), [("cost_of_backpropagation", ["8", "16"])])
def test_example(name, arguments):
    command = [sys.executable, "-P", EXAMPLES / f"{name}.py", *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = printed.splitlines()[1:]
    assert [line.split()[0] for line in lines] == arguments


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"cost_of_backpropagation"}
