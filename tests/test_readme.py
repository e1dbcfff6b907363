"""The README's Python runs as it stands, and its lists are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp as fm
from fastmlp.initializers import INITIALIZERS
from fastmlp.kernels import catalogue
from fastmlp.metrics import METRICS
from fastmlp.optimizers import Optimizer

README = (Path(__file__).parents[1] / "README.md").read_text()


def classes(module, base):
    """Return the names of the public subclasses of a class in a module."""
    public = {name: getattr(module, name) for name in module.__all__}
    return [n for n, kind in public.items() if isinstance(kind, type) and base in kind.mro()[1:]]


#: What the table of what there is must list, and no more.
LISTS = {
    "activations": [row.name for row in (*catalogue.ACTIVATIONS, *catalogue.OUTPUT_ACTIVATIONS)],
    "losses": [row.name for row in catalogue.LOSSES],
    "initialisers": INITIALIZERS,
    "optimizers": classes(fm, Optimizer),
    "metrics": METRICS,
    "schedules": classes(fm.schedules, fm.schedules.Schedule),
}


def test_every_block_runs_after_the_others(tmp_path):
    pytest.importorskip("scipy")
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == README.count("```python")
    result = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[0]) > 0.95  # the accuracy that comes first


@pytest.mark.parametrize("kind", LISTS)
def test_the_list_is_complete(kind):
    line = re.search(rf"^\| {kind} \|(.*)\|$", README, re.MULTILINE)[1]
    assert sorted(re.findall(r"`(\w+)`", line)) == sorted(LISTS[kind])
