"""The plots of the report, each from the lines of one or more groups."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .results import Results

__all__ = ["PLOTS", "as_svg"]

#: Widely told apart without colours as well.
MARKERS = "osD^vP*XhdpH"

#: Each name keeps its colour in all plots.
COLOURS: dict[str, str] = {
    "fastmlp": "C3",
    "fastmlp numba": "C1",
    "fastmlp numpy": "C5",
    "NumPy in place": "C0",
    "NumPy plain": "C9",
    "scikit-learn": "C6",
    "PyTorch": "C2",
    "PyTorch compiled": "C8",
    "JAX": "C4",
    "ONNX Runtime": "C7",
    "JAX scan": "navy",
}

#: Groups whose lines are drawn against other libraries.
CONTESTS = ("single", "training", "forward")


def as_svg(figure: Figure) -> str:
    """Return a figure as an SVG element that can stand in a page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    str
        From ``<svg`` on.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _figure(n_panels: int = 1, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    width = 7.5 if n_panels == 1 else 11.0
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, n_panels, squeeze=False)[0]
    for each in axes:
        each.grid(True, which="major", linewidth=0.4, alpha=0.6)
        each.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _plain(axis: Any, ticks: Iterable[float] | None = None) -> None:
    """Write the numbers of a logarithmic axis out."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter("")
    if ticks is not None:
        axis.set_ticks(list(ticks))
        axis.set_ticks([], minor=True)


def cost(results: Results) -> Figure | None:
    """Plot what a gradient costs in forward passes, over widths."""
    lines = results.group("cost")
    kinds = list(dict.fromkeys(line.rows[0].extra["samples"] for line in lines))
    if not kinds:
        return None
    figure, panels = _figure(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        chosen = [line for line in lines if line.rows[0].extra["samples"] == kind]
        widths = [line.rows[0].extra["width"] for line in chosen]
        for name, marker in zip([row.name for row in chosen[0].rows[1:]], "osD", strict=False):
            ratios = [line.ratio(line.row(name)) for line in chosen]
            axes.plot(widths, ratios, marker=marker, label=name)
        axes.axhline(2, color="black", linestyle="--", label="the lecture: two forward passes")
        axes.set_xscale("log", base=2)
        _plain(axes.xaxis, widths)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="width of the layers", title=kind)
    panels[0].set_ylabel("(forward + backward) / forward")
    panels[0].legend(loc="best", fontsize="small")
    return figure


def differences(results: Results) -> Figure | None:
    """Plot the seconds of a gradient over the parameters, by all methods."""
    lines = results.group("differences")
    if not lines:
        return None
    figure, (left, right) = _figure(2)
    colours = {"backpropagation": "C3", "fair differences": "C0", "naive differences": "C7"}
    for name, colour in colours.items():
        chosen = [line for line in lines if line.row(name)]
        rows = [line.row(name) for line in chosen]
        n = np.array([row.extra["n_parameters"] for row in rows])
        seconds = np.array([row.median for row in rows])
        guessed = np.array([row.extra.get("extrapolated", False) for row in rows])
        _measured(left, n, seconds, guessed, name, colour)
        if name != "backpropagation":
            ratio = np.array([line.ratio(line.row(name)) for line in chosen])
            slope = np.polyfit(np.log(n), np.log(ratio), 1)[0] if len(n) > 1 else np.nan
            _measured(right, n, ratio, guessed, f"{name}: as parameters^{slope:.2f}", colour)
    left.set(ylabel="seconds a gradient")
    right.set(ylabel="time / time of backpropagation")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="weights and biases")
        axes.legend(fontsize="small")
    return figure


def _measured(axes: Axes, x: Any, y: Any, guessed: Any, name: str, colour: str) -> None:
    """Plot filled what was measured and hollow what was extrapolated."""
    axes.plot(x, y, color=colour, linestyle=":" if guessed.any() else "-", linewidth=1)
    axes.plot(x[~guessed], y[~guessed], "o", color=colour, label=name)
    if guessed.any():
        style = {"color": colour, "markerfacecolor": "white", "label": "extrapolated"}
        axes.plot(x[guessed], y[guessed], "o", **style)


def batches(results: Results) -> Figure | None:
    """Plot the time per sample over batch sizes, for everyone."""
    lines = results.group("batches")
    sweeps = list(dict.fromkeys(line.rows[0].extra["sweep"] for line in lines))
    if not sweeps:
        return None
    figure, panels = _figure(len(sweeps))
    names: dict[str, Any] = {}
    for axes, sweep in zip(panels, sweeps, strict=True):
        chosen = [line for line in lines if line.rows[0].extra["sweep"] == sweep]
        for name, colour in COLOURS.items():
            rows = [row for line in chosen if (row := line.row(name))]
            n = [row.extra["batch_size"] for row in rows]
            seconds = [1e6 * row.median / row.extra["batch_size"] for row in rows]
            marker = MARKERS[list(COLOURS).index(name)]
            (drawn,) = axes.plot(n, seconds, marker=marker, color=colour, markersize=5)
            if rows:
                names.setdefault(name, drawn)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        _plain(axes.xaxis, [2**p for p in range(0, 9, 2 if len(sweeps) > 2 else 1)])
        _plain(axes.yaxis)
        axes.set(xlabel="batch size", title=sweep)
        axes.title.set_fontsize("medium")
    panels[0].set_ylabel("µs per sample")
    figure.legend(names.values(), names, loc="outside lower center", ncols=5, fontsize="small")
    return figure


def _name(axes: Axes, text: str, at: tuple, offset: tuple, **style: Any) -> None:
    """Write the name of a line beside a point of it."""
    axes.annotate(text, at, offset, textcoords="offset points", fontsize="x-small", **style)


def roofline(results: Results) -> Figure | None:
    """Plot the operations a second over the operations per byte, under the ceilings."""
    rows = [
        (line.group, row)
        for line in results.lines
        for row in line.rows
        if row.extra["own"]
        and row.extra.get("flops")
        and (row.extra["threads"], row.extra["dtype"]) == (1, "float32")
        and row.name not in {"numba", "fastmlp numba", "fastmlp numpy"}
    ]
    ceilings = results.machine.get("ceilings")
    if not rows or not ceilings:
        return None
    figure, (axes,) = _figure(height=5)
    intensity = np.geomspace(0.1, 1000, 200)
    peak = ceilings["1"]["registers"]["float32"] / 1e9
    fed = ceilings["1"]["L1"]["float32"] / 1e9
    for index, (level, rates) in enumerate(ceilings["1"]["memory"].items()):
        rate = rates["read"] / 1e9
        bound = np.minimum(peak, intensity * rate)
        axes.plot(intensity, bound, color="black", linewidth=0.7)
        # Neighbours may be as fast as each other: their names stand on two sides of the lines.
        style = {"va": "center", "ha": "right"} if index % 2 == 0 else {"va": "top", "ha": "left"}
        offset = (-4, 0) if index % 2 == 0 else (4, 0)
        _name(axes, f"{level}: {rate:.0f} GB/s", (0.1, 0.1 * rate), offset, **style)
    slope = ceilings["1"]["memory"]["L1"]["read"] / 1e9
    axes.plot([fed / slope, 1000], [fed, fed], color="black", linewidth=0.7, linestyle="--")
    for text, rate, side in (("in registers", peak, "bottom"), ("fed from L1", fed, "top")):
        name, offset = f"multiply-adds {text}: {rate:.0f} GF/s", (0, 2 if side == "bottom" else -3)
        _name(axes, name, (1000, rate), offset, va=side, ha="right")
    groups = list(dict.fromkeys(group for group, _ in rows))
    for index, group in enumerate(groups):
        mine = [row for name, row in rows if name == group]
        x = [row.extra["flops"] / row.extra["bytes"] for row in mine]
        y = [row.extra["flops"] / row.median / 1e9 for row in mine]
        axes.plot(x, y, MARKERS[index], markersize=4, alpha=0.6, label=group, color=f"C{index}")
    axes.set(xscale="log", yscale="log", xlim=(0.03, 1300))
    axes.set(xlabel="operations per byte that must move", ylabel="10⁹ operations a second")
    axes.set_title("fastmlp on one thread, float32; slopes are read bandwidths", fontsize="medium")
    axes.legend(fontsize="small", loc="lower right")
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    return figure


def threads(results: Results) -> Figure | None:
    """Plot what more threads gain over the size of a step."""
    lines = [line for line in results.group("threads") if len(line.rows) > 1]
    if not lines:
        return None
    figure, (axes,) = _figure()
    for index, name in enumerate(row.name for row in lines[0].rows[1:]):
        pairs = [(line, row) for line in lines if (row := line.row(name))]
        flops = [row.extra["flops"] for _, row in pairs]
        gains = [1 / line.ratio(row) for line, row in pairs]
        axes.plot(flops, gains, MARKERS[index], markersize=4, alpha=0.7, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="operations of a step or forward pass")
    axes.set(ylabel="time on one thread / time on at most …")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    return figure


def peers(results: Results) -> Figure | None:
    """Plot how many times as long as fastmlp others take, line by line."""
    chosen = [line for line in results.lines if line.group in CONTESTS]
    chosen = [line for line in chosen if line.rows[0].name == "fastmlp" and len(line.rows) > 1]
    if not chosen:
        return None
    figure, (axes,) = _figure(height=1.4 + 0.26 * len(chosen))
    figure.set_figwidth(10)
    names = [name for name in COLOURS if any(line.row(name) for line in chosen)]
    for name in names:
        found = [(row, at) for at, line in enumerate(chosen) if (row := line.row(name))]
        ratios = [chosen[at].ratio(row) for row, at in found]
        marker = MARKERS[list(COLOURS).index(name)]
        places = [at for _, at in found]
        axes.plot(ratios, places, marker, color=COLOURS[name], label=name, markersize=6)
    axes.set_yticks(range(len(chosen)), [line.name for line in chosen], fontsize="small")
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set(xscale="log", xlabel="time / time of fastmlp")
    _plain(axes.xaxis)
    figure.legend(loc="outside upper center", ncols=5, fontsize="small")
    return figure


#: Name, heading and function of each plot, in the order of the report.
PLOTS: dict[str, tuple[str, Callable[[Results], Figure | None]]] = {
    "peers": ("Other libraries, times as long as fastmlp takes", peers),
    "batches": ("Time per sample over batch sizes", batches),
    "cost": ("What a gradient costs in forward passes", cost),
    "differences": ("Backpropagation and finite differences", differences),
    "roofline": ("What is reached of what the processor can do", roofline),
    "threads": ("What threads gain", threads),
}
