"""The report's plots. Each function draws one PNG and returns its description, or None if it has no data."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.plots import COLOURS, FAINT, INK, axes, figure, grouped_bars, legend, save_png
from nodes.evaluate.report.comparison import Line, Section
from nodes.evaluate.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its file name under plots/, and its caption (also its text alternative)."""

    file: str
    title: str
    caption: str


def draw_all(sections: Sequence[Section], results: Results, directory: Path) -> tuple[Plot, ...]:
    """Draw every plot for which there are figures into `directory`."""
    by_name = {section.suite.name: section for section in sections}
    drawn = [
        _bits_by_domain(by_name["bits_per_byte"], directory) if "bits_per_byte" in by_name else None,
        *(_shares(by_name[name], directory, caption) for name, caption in SHARE_PLOTS.items() if name in by_name),
        _length_curves(results, directory),
    ]
    return tuple(plot for plot in drawn if plot is not None)


SHARE_PLOTS = {
    "arithmetic": "Share of held-out sums answered correctly; whiskers are 95 % intervals.",
    "tools": "Calls and episodes on held-out tool-use tasks; whiskers are 95 % intervals.",
    "quiz": "Questions answered correctly by likelihood; the dashed line is guessing, whiskers are 95 % intervals.",
}


def _bits_by_domain(section: Section, directory: Path) -> Plot:
    lines = [line for line in section.lines if line.sample.unit == "bits/byte"]
    fig = figure(7.2, 3.2)
    ax = axes(fig, "Bits per byte on held-out natural text", "domain", "bits per byte (lower is better)")
    _bars(ax, lines)
    save_png(fig, directory / "bits_per_byte.png")
    caption = "Held-out natural text of each domain and of all, every checkpoint; lower is better."
    return Plot("bits_per_byte.png", section.suite.title, caption)


def _shares(section: Section, directory: Path, caption: str) -> Plot | None:
    lines = [line for line in section.lines if line.sample.unit == "share"]
    if not lines:
        return None
    fig = figure(7.2, 3.2)
    ax = axes(fig, section.suite.title, "measure", "share (higher is better)")
    _bars(ax, lines)
    ax.set_ylim(0, 1)
    chances = {line.sample.chance for line in lines if line.sample.chance is not None}
    for chance in sorted(chances):
        ax.axhline(chance, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    file = f"{section.suite.name}.png"
    save_png(fig, directory / file)
    return Plot(file, section.suite.title, caption)


def _bars(ax: "Axes", lines: Sequence[Line]) -> None:
    """Draw a cluster per line and a colour per checkpoint; missing figures leave gaps, missing intervals nothing."""
    checkpoints = list(lines[0].cells)
    values = {name: [_value(line.cells[name]) for line in lines] for name in checkpoints}
    spans = {name: [_span(line.cells[name]) for line in lines] for name in checkpoints}
    grouped_bars(ax, [_short(line.label) for line in lines], values, spans)
    legend(ax, ncols=len(checkpoints), loc="lower right", bbox_to_anchor=(1, 1))


def _value(row: Row | None) -> float:
    return 0.0 if row is None else row.value


def _span(row: Row | None) -> tuple[float, float]:
    if row is None or row.low is None or row.high is None:
        return (_value(row), _value(row))
    return (row.low, row.high)


def _short(label: str) -> str:
    """Return a label for the axis, broken so that neighbours do not touch."""
    return textwrap.fill(label, 14)


def _length_curves(results: Results, directory: Path) -> Plot | None:
    curves = {
        name: by_suite["lengths"].details["curve"]
        for name, by_suite in results.items()
        if "lengths" in by_suite and by_suite["lengths"].details.get("curve")
    }
    if not curves:
        return None
    fig = figure(7.2, 3.2)
    ax = axes(fig, "Loss by position in long documents", "position (tokens)", "nats a token")
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(curve["positions"], curve["nats"], color=colour, label=name, linewidth=1.6, marker="o", markersize=3)
    trained = {c["trained_length"] for c in curves.values()}
    for length in sorted(trained):
        ax.axvline(length, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        ax.annotate(f"trained to {length}", (length, 1), xycoords=("data", "axes fraction"), xytext=(4, -10),
                    textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    legend(ax)
    save_png(fig, directory / "lengths.png")
    caption = "Mean loss by position, same held-out windows for every checkpoint; dashed: the context trained at."
    return Plot("lengths.png", "Loss by position", caption)
