"""The command: what it prints, with which status it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastmlp as fm
from fastmlp import backends, cli


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Put the globals back after each test."""
    for name in ("_default_backend", "_threads"):
        monkeypatch.setattr(backends, name, getattr(backends, name))


@pytest.fixture
def quick(monkeypatch):
    """Make the demonstration short."""
    monkeypatch.setattr(cli, "SECONDS_PER_TIMING", 0.01)
    monkeypatch.setattr(cli, "SMALL_SIZES", (64, 2, 10))
    monkeypatch.setattr(cli, "COMPARED_EPOCHS", 1)


def table(out):
    """Return the cells of the printed table by the names of its rows."""
    lines = out.splitlines()[2:]
    return {cells[0]: cells[1] for line in lines if len(cells := line.split("  ", 1)) == 2}


@pytest.mark.parametrize(("name", "seed"), [("cython", 0), ("cython", 1), ("numpy", 0)])
def test_demo_classifies_digits_and_reports(name, seed, quick, capsys):
    try:
        fm.kernels.load_backend(name)
    except ImportError:
        pytest.skip(f"backend {name!r} is not installed")
    assert cli.main(["demo", "--backend", name, "--threads", "1", "--seed", str(seed)]) == 0
    captured = capsys.readouterr()
    rows = table(captured.out)
    assert f"backend {name}, 1 threads" in captured.out
    assert float(rows["test accuracy"].split()[0]) >= 97
    assert float(rows["gradient check, worst error"].split()[0]) <= 1e-7
    for row in ("forward", "backward", "training step, Adam", "gradient by differences"):
        assert rows[row].split()[1] in ("µs", "ms", "s"), row
    assert float(rows["differences / backpropagation"].replace(",", "")) > 0
    if name == "numpy":
        assert "not compared" in rows["training run, NumPy baseline"]
    else:
        assert float(rows["largest difference"].split()[0]) < 1e-3
        assert float(rows["NumPy baseline / fastmlp"].split()[0]) > 0
    assert "30/30" in captured.err


def test_info_prints_the_configuration(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    fm.show_config()
    assert printed == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["demo", "--backend", "nunba"], "invalid choice: 'nunba'"),
        (["demo", "--threads", "0"], "n must be an integer of at least 1, got 0"),
        (["demo", "--threads", "x"], "invalid int value: 'x'"),
        (["demo", "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_python_m_fastmlp_is_the_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "fastmlp", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, f"fastmlp {fm.__version__}\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 µs")]
)
def test_durations_have_a_suitable_unit(seconds, text):
    assert cli._duration(seconds) == text
