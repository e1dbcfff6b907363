"""The command: what it prints, with which status it ends."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import backends, cli
from fastmlp.text import duration


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


@pytest.fixture
def saved(tmp_path):
    """Return the paths of a saved network and of data for it."""
    rng = np.random.default_rng(0)
    paths = tmp_path / "net.safetensors", tmp_path / "data.npz"
    fm.MLP.from_sizes([4, 5, 3], "tanh", seed=0).save(paths[0])
    arrays = {"X": rng.normal(size=(40, 4)), "y": rng.integers(3, size=40)}
    np.savez(paths[1], **arrays, sample_weight=rng.random(40))
    return [str(path) for path in paths]


def test_gradcheck_prints_the_table(saved, capsys):
    assert cli.main(["gradcheck", *saved]) == 0
    data = np.load(saved[1])
    first = [data[name][:32] for name in ("X", "y", "sample_weight")]
    net = fm.load(saved[0])
    check = fm.check_gradient(net, *first[:2], sample_weight=first[2])
    assert capsys.readouterr().out == f"{net}\n{check}\n"


def test_gradcheck_takes_options(saved, capsys):
    options = {"samples": 7, "entries": 2, "seed": 5, "loss": "mse", "backend": "numpy"}
    rng = np.random.default_rng(0)
    np.savez(saved[1], X=rng.normal(size=(9, 4)), y=rng.normal(size=(9, 3)))
    given = [f"--{name}={value}" for name, value in options.items()]
    assert cli.main(["gradcheck", *saved, *given]) == 0
    assert "10 entries compared" in capsys.readouterr().out
    assert backends.get_backend() == "numpy"


def test_gradcheck_fails_with_status_1(saved, capsys, monkeypatch):
    right = fm.MLP.input_gradient
    monkeypatch.setattr(fm.MLP, "input_gradient", lambda *args: (1 + 1e-9) * right(*args))
    assert cli.main(["gradcheck", *saved]) == 0
    assert cli.main(["gradcheck", *saved, "--tolerance", "1e-10"]) == 1
    assert "Gradient check failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "{data}"], "No such file or directory: 'missing'"),
        (["{net}", "{net}"], "net.safetensors must be an NPZ file of plain arrays"),
        (["{net}", "{other}"], "other.npz must hold arrays X and y, got z"),
        (["{net}", "{data}", "--loss", "hinges"], "loss must be one of"),
        (["{net}", "{data}", "--entries", "0"], "entries_per_part must be an integer of at least"),
        (["{net}", "{data}", "--samples", "0"], "samples must be an integer of at least 1, got 0"),
    ],
)
def test_gradcheck_refuses_what_does_not_fit(saved, tmp_path, arguments, message, capsys):
    np.savez(tmp_path / "other.npz", z=1)
    paths = {"net": saved[0], "data": saved[1], "other": tmp_path / "other.npz"}
    with pytest.raises(SystemExit) as end:
        cli.main(["gradcheck", *(argument.format(**paths) for argument in arguments)])
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
    assert duration(seconds) == text
