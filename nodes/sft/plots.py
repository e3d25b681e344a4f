"""The plot of a fine-tuning run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.plots import COLOURS, axes, figure, legend, save_png
from engine.training.history import curve


def draw_history(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the training loss by kind of example over the steps."""
    fig = figure(7, 3.8)
    ax = axes(fig, title="Fine-tuning: loss on assistant tokens", xlabel="step", ylabel="nats a token")
    kinds = sorted({name for row in rows for name in row if name.startswith("loss_")})
    for colour, name in zip(COLOURS, kinds):
        ax.plot(*curve(rows, name), color=colour, label=name[5:], linewidth=1.3)
    legend(ax)
    return save_png(fig, path)
