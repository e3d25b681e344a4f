"""Plot a study: each arm's curve at each budget, as the mean over seeds with their range."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.plots import COLOURS, axes, figure, legend, save_png
from studies.schema import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "validation_loss": "validation loss, nats a token",
    "loss": "training loss, nats a token",
    "max_logit": "largest softmax input",
    "clipped_share": "share of heads clipped",
    "clip_norm": "‖ΔW‖ of clipping, a step",
    "expert_load_mean": "busiest expert over the mean",
}
LOGARITHMIC = ("max_logit", "clip_norm")
STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def draw(study: Study, runs: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """Draw one panel for each budget, with the figure that the study names; return the path."""
    budgets = list(study.budgets)
    fig = figure(4.4 * len(budgets), 3.6)
    for i, budget in enumerate(budgets):
        ax = axes(fig, f"{title}, {budget}", "step", LABELS[study.plot], (1, len(budgets), i + 1))
        if study.plot in LOGARITHMIC:
            ax.set_yscale("log")
        for j, arm in enumerate(study.arms):
            _arm(ax, [r for r in runs if (r["arm"], r["budget"]) == (arm, budget)], arm, study.plot, j)
        legend(ax)
    return save_png(fig, path)


def _arm(ax: "Axes", runs: Sequence[Mapping[str, Any]], arm: str, name: str, index: int) -> None:
    curves = [run["curves"][name] for run in runs if run["curves"].get(name, {}).get("steps")]
    curves = [curve for curve in curves if curve["steps"] == curves[0]["steps"]]
    if not curves:
        return
    columns = list(zip(*(curve["values"] for curve in curves), strict=True))
    colour, steps = COLOURS[index % len(COLOURS)], curves[0]["steps"]
    mean = [sum(column) / len(column) for column in columns]
    ax.plot(steps, mean, color=colour, linestyle=STYLES[index // len(COLOURS)], linewidth=1.4, label=arm)
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
