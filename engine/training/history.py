"""Write the history of a training run as a directory for the report: its rows, and the most important plots."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_rows
from engine.plots import COLOURS, axes, figure, legend, save_png
from engine.training.journal import HISTORY

Row = Mapping[str, Any]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a history.jsonl, in order of steps."""
    return read_rows(path)


def write_history(history: Path, directory: Path, title: str, baselines: Mapping[str, float] | None = None) -> Path:
    """Write history.jsonl, loss.png, max_logit.png and expert_load.png into an emptied `directory`.

    `baselines`, name → nats per token, are drawn as horizontal lines in the loss plot. Only the first rank draws, since
    the others' directories are not kept.
    """
    from engine.parallel.data import ranks

    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copyfile(history, directory / HISTORY)
    if not ranks().first:
        return directory
    rows = read_history(history)
    _draw_loss(rows, directory / "loss.png", title, baselines or {})
    _draw_logits(rows, directory / "max_logit.png", title)
    if "expert_load_max" in rows[0]:
        _draw_load(rows, directory / "expert_load.png", title)
    return directory


def curve(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Return the steps whose rows have a figure, and its values; rows lack figures that were not finite."""
    having = [row for row in rows if name in row]
    return [row["step"] for row in having], [row[name] for row in having]


def mean_of(rows: Sequence[Row], **figures: str) -> dict[str, float]:
    """Return metric → mean of a figure over the rows that have it, without metrics whose figure no row has."""
    values_of = {metric: curve(rows, name)[1] for metric, name in figures.items()}
    return {metric: sum(values) / len(values) for metric, values in values_of.items() if values}


def mishaps(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many steps were spikes, and how many were skipped."""
    return {
        "spikes": sum(bool(row["spike"]) for row in rows),
        "steps_skipped": sum(bool(row.get("skipped")) for row in rows),
    }


def _draw_loss(rows: Sequence[Row], path: Path, title: str, baselines: Mapping[str, float]) -> None:
    fig = figure(7.2, 4.8)
    ax = axes(fig, f"{title}: loss", "step", "nats a token", (2, 1, 1))
    ax.plot(*curve(rows, "loss"), color=COLOURS[0], linewidth=0.7, alpha=0.55, label="training batch")
    steps, losses = curve(rows, "validation_loss")
    if steps:
        ax.plot(steps, losses, color=COLOURS[1], linewidth=1.6, label="validation, natural text")
    for index, (name, value) in enumerate(baselines.items()):
        ax.axhline(value, color=COLOURS[2 + index], linewidth=1, linestyle=(0, (4, 3)), label=name)
    legend(ax, ncols=2)
    rate = axes(fig, "Learning rate", "step", "Muon's rate", (2, 1, 2))
    rate.plot(*curve(rows, "lr"), color=COLOURS[0], linewidth=1.3)
    save_png(fig, path)


def _draw_logits(rows: Sequence[Row], path: Path, title: str) -> None:
    fig = figure(7.2, 3.4)
    ax = axes(fig, f"{title}: largest attention logit", "step", "softmax input, by head")
    with_heads = [row for row in rows if "max_logit_heads" in row]
    steps = [row["step"] for row in with_heads]
    for layer in range(len(with_heads[0]["max_logit_heads"]) if with_heads else 0):
        colour = COLOURS[layer % len(COLOURS)]
        for head in range(len(with_heads[0]["max_logit_heads"][layer])):
            values = [row["max_logit_heads"][layer][head] for row in with_heads]
            label = f"layer {layer}" if head == 0 and layer < len(COLOURS) else None
            ax.plot(steps, values, color=colour, linewidth=0.8, alpha=0.8, label=label)
    ax.plot(*curve(rows, "max_logit"), color=COLOURS[5], linewidth=0.5, alpha=0.5, label="largest")
    legend(ax, ncols=2)
    save_png(fig, path)


def _draw_load(rows: Sequence[Row], path: Path, title: str) -> None:
    fig = figure(7.2, 3.0)
    ax = axes(fig, f"{title}: load of the busiest expert over the mean", "step", "max / mean")
    ax.plot(*curve(rows, "expert_load_max"), color=COLOURS[1], linewidth=0.8, label="worst layer")
    ax.plot(*curve(rows, "expert_load_mean"), color=COLOURS[0], linewidth=1.2, label="mean over layers")
    legend(ax)
    save_png(fig, path)
