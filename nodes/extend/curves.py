"""Loss by position at the extended length: what each way of scaling the rotary frequencies is worth.

Shapes: N windows, T targets, U buckets of neighbouring positions.
"""

from collections.abc import Mapping
from pathlib import Path

from engine.model.model import K2Model
from engine.plots import COLOURS, FAINT, axes, figure, legend, save_png
from engine.text.shards import EvalWindows
from engine.training.language import token_nats

Curve = list[float]


def curve(model: K2Model, windows: EvalWindows, buckets: int, dtype: str) -> Curve:
    """Mean nats a token of each of `buckets` equal stretches of the windows, (U,)."""
    nats_NT = token_nats(model, windows.tokens, dtype=dtype).double()
    return [float(value) for value in nats_NT.mean(0).view(buckets, -1).mean(1)]


def ends(length: int, buckets: int) -> list[int]:
    """The last position of each bucket."""
    return [length // buckets * (i + 1) for i in range(buckets)]


def beyond(values: Curve, length: int, trained: int) -> float:
    """Mean over the buckets that lie wholly past the trained length: where scaling must show its worth."""
    width = length // len(values)
    past = [value for i, value in enumerate(values) if i * width >= trained]
    return sum(past) / len(past)


def within(values: Curve, length: int, trained: int) -> float:
    """Mean over the buckets inside the trained length: what scaling costs there."""
    width = length // len(values)
    inside = [value for i, value in enumerate(values) if (i + 1) * width <= trained]
    return sum(inside) / len(inside) if inside else values[0]


def draw(curves: Mapping[str, Curve], length: int, trained: int, path: Path) -> None:
    """One line a scaling over the positions; dashed: the length trained at."""
    fig = figure(7.2, 3.6)
    ax = axes(fig, "Loss by position, natural text", "position (tokens)", "nats a token")
    titles = {"none": "no scaling", "linear": "linear interpolation", "yarn": "YaRN"}
    for colour, (name, values) in zip((COLOURS[1], COLOURS[4], COLOURS[0]), curves.items()):
        ax.plot(ends(length, len(values)), values, color=colour, label=titles[name], linewidth=1.6)
    ax.axvline(trained, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"trained to {trained}")
    legend(ax)
    save_png(fig, path)
