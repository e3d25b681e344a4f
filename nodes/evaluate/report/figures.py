"""The report's plots: one function each, named as its file, with its caption.

To add a plot: write a function under `@plot("caption")` that takes `Measured` and returns (title, figure), or None if
there is nothing to draw. It is saved as plots/<its name>.png and shown in the report.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.plots import COLOURS, FAINT, INK, axes, figure, grouped_bars, legend, save_png
from nodes.evaluate.report.comparison import Line, Section
from nodes.evaluate.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A drawn plot: its file name under plots/, and its caption (also its text alternative)."""

    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class Measured:
    """The data of all plots: the comparison table's sections by suite, and the results by checkpoint and suite."""

    sections: Mapping[str, Section]
    results: Results


Draw = Callable[[Measured], "tuple[str, Figure] | None"]
_PLOTS: list[tuple[Draw, str]] = []


def plot(caption: str) -> Callable[[Draw], Draw]:
    """Make a function a plot of the report; plots are shown in the order in which they stand here."""

    def register(draw: Draw) -> Draw:
        _PLOTS.append((draw, caption))
        return draw

    return register


def draw_all(sections: Sequence[Section], results: Results, directory: Path) -> tuple[Plot, ...]:
    """Draw every plot for which there are figures into `directory`."""
    measured = Measured({section.suite.name: section for section in sections}, results)
    drawn = []
    for draw, caption in _PLOTS:
        if (made := draw(measured)) is not None:
            title, fig = made
            save_png(fig, directory / f"{draw.__name__}.png")
            drawn.append(Plot(f"{draw.__name__}.png", title, caption))
    return tuple(drawn)


@plot("Held-out natural text of each domain and of all, every checkpoint; lower is better.")
def bits_per_byte(measured: Measured) -> "tuple[str, Figure] | None":
    """Draw bits per byte by domain and checkpoint."""
    section = measured.sections.get("bits_per_byte")
    if section is None:
        return None
    fig = figure(7.2, 3.2)
    ax = axes(fig, "Bits per byte on held-out natural text", "domain", "bits per byte (lower is better)")
    _bars(ax, [line for line in section.lines if line.sample.unit == "bits/byte"])
    return section.suite.title, fig


@plot("Share of held-out sums answered correctly; whiskers are 95 % intervals.")
def arithmetic(measured: Measured) -> "tuple[str, Figure] | None":
    """Draw the sums answered, by checkpoint."""
    return _shares(measured, "arithmetic")


@plot("Calls and episodes on held-out tool-use tasks; whiskers are 95 % intervals.")
def tools(measured: Measured) -> "tuple[str, Figure] | None":
    """Draw the calls and episodes that succeeded, by checkpoint."""
    return _shares(measured, "tools")


@plot("Questions answered correctly by likelihood; the dashed line is guessing, whiskers are 95 % intervals.")
def quiz(measured: Measured) -> "tuple[str, Figure] | None":
    """Draw the questions answered, by checkpoint."""
    return _shares(measured, "quiz")


@plot("Mean loss by position, same held-out windows for every checkpoint; dashed: the context trained at.")
def lengths(measured: Measured) -> "tuple[str, Figure] | None":
    """Draw the loss by position in long documents, a line a checkpoint."""
    curves = {
        name: by_suite["lengths"].details["curve"]
        for name, by_suite in measured.results.items()
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
    return "Loss by position", fig


def _shares(measured: Measured, suite: str) -> "tuple[str, Figure] | None":
    """Draw the shares of one suite, a cluster a line of its table; a dashed line where guessing is possible."""
    section = measured.sections.get(suite)
    lines = [line for line in section.lines if line.sample.unit == "share"] if section else []
    if section is None or not lines:
        return None
    fig = figure(7.2, 3.2)
    ax = axes(fig, section.suite.title, "measure", "share (higher is better)")
    _bars(ax, lines)
    ax.set_ylim(0, 1)
    chances = {line.sample.chance for line in lines if line.sample.chance is not None}
    for chance in sorted(chances):
        ax.axhline(chance, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    return section.suite.title, fig


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
