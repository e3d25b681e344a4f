"""The common style of all plots, and a writer of PNG files whose bytes depend only on the figure.

    fig = figure(6, 3.5)
    ax = axes(fig, title="Loss", xlabel="step", ylabel="nats a token")
    ax.plot(steps, losses, color=COLOURS[0], label="train")
    legend(ax)
    save_png(fig, path)

matplotlib is imported inside the functions, so that commands without plots do not load it, and used through its object
interface, never pyplot: no global state, no display, safe in threads and child processes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f5d8c", "#c8553d", "#5b8e7d", "#8c6bb1", "#d9a441", "#4a4a4a")
"""Colours in the order in which series are drawn; distinguishable without colour vision and in grey print."""
INK, FAINT, GRID = "#22262b", "#6b7280", "#e3e6ea"
DPI = 144


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure of `width` × `height` inches with a layout that cuts nothing off."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(fig)
    return fig


def axes(fig: "Figure", title: str, xlabel: str, ylabel: str, position: tuple[int, int, int] = (1, 1, 1)) -> "Axes":
    """Return axes in the common style at `position` (rows, columns, index from 1); every axis needs a label."""
    ax = fig.add_subplot(*position)
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.set_prop_cycle(color=list(COLOURS))
    ax.set_axisbelow(True)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.tick_params(colors=FAINT, labelsize=8, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GRID)
    return ax


def legend(ax: "Axes", **options: Any) -> None:
    """Add a legend without a box, in small type; `options` go to matplotlib."""
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, **options)


def grouped_bars(
    ax: "Axes",
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> None:
    """Draw bars side by side: a cluster per group, a colour per series; `intervals` (low, high) become whiskers."""
    width = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
        centres = [g + (i - (len(series) - 1) / 2) * width for g in range(len(groups))]
        error = None
        if intervals is not None:
            spans = intervals[name]
            error = [
                [max(v - low, 0.0) for v, (low, _) in zip(values, spans, strict=True)],
                [max(high - v, 0.0) for v, (_, high) in zip(values, spans, strict=True)],
            ]
        ax.bar(
            centres, list(values), width * 0.92, color=COLOURS[i % len(COLOURS)], label=name,
            yerr=error, error_kw={"elinewidth": 1.0, "ecolor": INK, "capsize": 2},
        )  # fmt: skip
    ax.set_xticks(range(len(groups)), list(groups))
    ax.grid(False, axis="x")


def save_png(fig: "Figure", path: Path) -> Path:
    """Write `fig` as PNG at `path` (parents are created) without date or software name: equal figures, equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, format="png", dpi=DPI, metadata={"Software": None})
    return path
