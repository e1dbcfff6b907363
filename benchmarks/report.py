"""A run as one HTML page, and as a page of Markdown with plots beside it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .measuring import ENVIRONMENT, LONG
from .plots import PLOTS, as_svg
from .results import DRAW, Pair, Results, behind, contested, draws, table

__all__ = ["write"]


@dataclass(frozen=True)
class Heading:
    """A heading of a level, 1 or more."""

    level: int
    text: str


@dataclass(frozen=True)
class Table:
    """A table; its columns but the first are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """A plot as SVG, with what it shows."""

    name: str
    caption: str
    svg: str


Block = Heading | Table | Plot | str

#: Of multiply-adds, by their names in a survey.
CEILINGS = {"registers": "in registers", "L1": "fed from L1"}


def write(results: Results, folder: Path) -> None:
    """Write ``report.html``, ``RESULTS.md`` and ``plots/*.svg``.

    Parameters
    ----------
    results : Results
        A run.
    folder : pathlib.Path
        Where to; made if it does not exist.
    """
    blocks = list(_blocks(results))
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for block in blocks:
        if isinstance(block, Plot):
            (folder / "plots" / f"{block.name}.svg").write_text(block.svg)
    (folder / "RESULTS.md").write_text("\n\n".join(map(_as_markdown, blocks)) + "\n")
    body = "\n".join(map(_as_html, blocks))
    (folder / "report.html").write_text(PAGE.format(body=body))


# --- Contents -----------------------------------------------------------------------------


def _blocks(results: Results) -> Iterator[Block]:
    """Yield the report: what is lost, the answers, the machine, plots, then every table."""
    yield Heading(1, "Benchmarks")
    asked = results.machine["options"]
    options = "".join(f" --{name}" for name in ("quick", "peers") if asked[name])
    yield f"Measured on {results.date} UTC by `fastmlp bench{options}`."
    yield from _losses(results)
    yield from _answers(results)
    yield from _machine(results)
    yield Heading(2, "Plots")
    for name, (caption, draw) in PLOTS.items():
        figure = draw(results)
        if figure is not None:
            yield Plot(name, caption, as_svg(figure))
    yield Heading(2, "All lines")
    yield (
        "Median of the rounds; spread: the distance of the quartiles as a share of it; ratio: to "
        "the first case in the same round, the median of them, with ≈ if it is a draw; then the "
        "share of the ceiling that binds, multiply-adds in registers or memory traffic, measured "
        "between the rounds; of memory traffic it can pass 100 %, where what is read twice comes "
        "from a nearer cache the second time. Weights that a single sample meets with an input of "
        "0 do not count. In a full run, where a step takes longer than "
        f"{1e3 * LONG:.0f} ms, several processes of each library share the rounds."
    )
    yield (
        "Where memory is measured: the most that the process took beyond what it had after its "
        "imports, the ratio, and how much of it are the data, the parameters, the optimizer's "
        "state and the activations of a batch, which must be held."
    )
    for group, lines in results.groups():
        yield Heading(3, group)
        for line in lines:
            yield line.name
            header, *rows = table(line)
            yield Table(header, rows)


def _losses(results: Results) -> Iterator[Block]:
    yield Heading(2, "Where fastmlp is not the fastest")
    lost, even = behind(results), draws(results)
    yield (
        f"{len(lost)} of the {len(contested(results))} lines on which another library, NumPy or "
        f"another backend does the same work: it is ahead by more than {100 * DRAW:.0f} %, and in "
        "three of four rounds."
    )
    header = ["line", "ahead", "it takes", "fastmlp takes", "ratio", "why"]
    if lost:
        yield Table(header, [[*_pair(each), each.reason] for each in lost])
    yield f"Draws, where somebody is as good and nobody ahead: {len(even)} lines."
    if even:
        yield Table(["line", "as good", *header[2:5]], [_pair(each) for each in even])


def _pair(pair: Pair) -> list[str]:
    first = pair.line.rows[0]
    name = f"{pair.line.group}: {pair.line.name}"
    return [name, pair.rival.name, pair.rival.amount, first.amount, f"{pair.ratio:.2f}"]


def _answers(results: Results) -> Iterator[Block]:
    """Yield what backward, a gradient, differences and backends cost, with numbers."""
    rows = [*_costs(results), *_differences(results), *_backends(results)]
    if rows:
        yield Heading(2, "Answers")
        yield Table(["question", "measured on", "answer"], rows)


def _costs(results: Results) -> Iterator[list[str]]:
    for line in results.group("cost"):
        forward, *others = line.rows
        if forward.extra["width"] in {256, 512, 1024, 2048}:
            costs = [line.ratio(row) for row in others]
            ways = "applied at once", "∂W is stored", "∂W stays factored"
            answers = [f"{cost:.2f} if {way}" for cost, way in zip(costs, ways, strict=False)]
            yield ["a full gradient, in forwards", line.name, ", ".join(answers)]
            for what, needed in (("flops", "operations"), ("bytes", "bytes to move")):
                counts = (f"{row.extra[what] / forward.extra[what]:.2f}" for row in others)
                yield [f"the {needed}, likewise", line.name, ", ".join(counts)]
            backward = ", ".join(f"{cost - 1:.2f}" for cost in costs)
            yield ["backward over forward, likewise", line.name, backward]


def _differences(results: Results) -> Iterator[list[str]]:
    for line in results.group("differences"):
        first, *others = line.rows
        for row in others:
            times = f"{line.ratio(row):,.0f}"
            if row.extra.get("extrapolated"):
                times = f"≈ {float(f'{line.ratio(row):.2g}'):,.0f}"
            answer = f"{times} × backpropagation"
            yield [row.name, f"{first.extra['n_parameters']:,} parameters", answer]


def _backends(results: Results) -> Iterator[list[str]]:
    names = {"numba", "numpy", "fastmlp numba", "fastmlp numpy", "NumPy in place", "NumPy plain"}
    for line in [*results.group("kernels"), *results.group("training")]:
        found = [row for row in line.rows[1:] if row.name in names]
        if found and (line.group == "kernels" or any("fastmlp" in row.name for row in found)):
            ratios = [f"{row.name} {line.ratio(row):.2f}" for row in found]
            yield [f"times as long as {line.rows[0].name}", line.name, ", ".join(ratios)]


def _machine(results: Results) -> Iterator[Block]:
    yield Heading(2, "Machine and versions")
    machine = results.machine
    settings = {"processor": machine["cpu"].get("brand_raw", "unknown")}
    settings |= {"system": machine["platform"]} | machine["fastmlp"] | machine["versions"]
    settings["set where libraries are compared"] = ", ".join(
        f"{name}={value}" for name, value in ENVIRONMENT.items()
    )
    yield Table(["", ""], [[name, str(value)] for name, value in settings.items()])
    rows = []
    for n_threads, found in machine.get("ceilings", {}).items():
        rows += [
            [f"multiply-adds, {CEILINGS[kind]}, {dtype}", n_threads, f"{rate / 1e9:.0f} GF/s"]
            for kind in CEILINGS
            for dtype, rate in found[kind].items()
        ]
        for level, rates in found["memory"].items():
            size = f"{level}, {rates['bytes'] / 2**10:,.0f} KiB"
            for kind in ("read", "read and write"):
                rows.append([f"{kind}, {size}", n_threads, f"{rates[kind] / 1e9:.0f} GB/s"])
    if rows:
        yield Table(["ceiling", "threads", "measured"], rows)
        yield (
            "Multiply-adds in registers are what the processor can do at most, and shares of the "
            "ceiling are shares of that. A product must also load what it multiplies: fed from L1 "
            "are the same multiply-adds in the tile of the kernels, a tile of sums in registers, "
            "on numbers that never leave the first cache. What lies between the two is lost to "
            "every product of matrices: while it loads, the processor may run at a lower clock."
        )


# --- Formats ------------------------------------------------------------------------------


def _as_markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Plot):
        return f"**{block.caption}**\n\n![{block.caption}](plots/{block.name}.svg)"
    if isinstance(block, Table):
        rule = ["---", *["---:"] * (len(block.header) - 1)]
        rows = [block.header, rule, *block.rows]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return block


def _as_html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Plot):
        caption = html.escape(block.caption)
        return f"<figure><figcaption>{caption}</figcaption>{block.svg}</figure>"
    if isinstance(block, Table):
        head = _row(block.header, "th")
        return f"<table>{head}{''.join(_row(row, 'td') for row in block.rows)}</table>"
    return f"<p>{html.escape(block)}</p>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>fastmlp benchmarks</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 0.3em 0 1.2em }}
th, td {{ padding: 0.15em 0.8em; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }}
figure {{ margin: 1.5em 0 }} figcaption {{ font-weight: 600 }}
figure svg {{ max-width: 100%; height: auto }}
</style></head><body>
{body}
</body></html>
"""
