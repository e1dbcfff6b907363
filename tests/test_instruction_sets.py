"""The Cython backend comes in variants: each loads, and what the processor lacks is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastmlp import kernels as package

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("backend", ["cython"], indirect=True),
]


@pytest.fixture
def choose(backend, monkeypatch):
    """Return the function that asks for an instruction set and loads the backend anew."""
    caches = (package.instruction_set, package.load_backend)

    def load(wanted):
        monkeypatch.setenv(package.ISA_VARIABLE, wanted)
        for cached in caches:
            cached.cache_clear()
        return package.load_backend("cython")

    yield load
    for cached in caches:
        cached.cache_clear()


def test_base_comes_first_and_the_widest_last():
    available = package.instruction_sets()
    assert available == ("base", "v3", "v4")[: len(available)]


@pytest.mark.parametrize("wanted", ["base", "v3", "v4"])
def test_each_variant_loads_where_the_processor_has_it(choose, wanted):
    if wanted not in package.instruction_sets():
        pytest.skip(f"this processor has no {wanted}")
    assert choose(wanted).__name__ == f"fastmlp.kernels._cython_{wanted}"
    assert package.instruction_set() == wanted


def test_default_is_the_widest(choose):
    assert choose("").__name__.endswith(package.instruction_sets()[-1])


@pytest.mark.parametrize("wanted", ["v4", "avx2", "BASE"])
def test_what_the_processor_lacks_is_refused(choose, monkeypatch, wanted):
    monkeypatch.setattr(package, "instruction_sets", lambda: ("base", "v3"))
    with pytest.raises(ImportError, match=f"FASTMLP_ISA must be one of base, v3 .*'{wanted}'"):
        choose(wanted)


def test_a_fresh_process_refuses_an_unknown_set():
    code = "from fastmlp.kernels import load_backend; load_backend('cython')"
    process = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | {"FASTMLP_ISA": "avx9"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "ImportError: FASTMLP_ISA must be one of base" in process.stderr
    assert "'avx9'" in process.stderr
