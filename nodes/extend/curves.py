"""Loss by position at the extended length, to compare the ways of scaling the rotary frequencies.

Shapes: N windows, T targets, U buckets of neighbouring positions.
"""

from collections.abc import Mapping
from pathlib import Path

from engine.model.model import K2Model
from engine.plots import COLOURS, FAINT, axes, figure, legend, save_png
from engine.text.shards import EvalWindows
from engine.training.language import token_nats
from kernels.host import to_host

Curve = list[float]


def curve(model: K2Model, windows: EvalWindows, buckets: int, dtype: str) -> Curve:
    """Return the mean nats per token in each of `buckets` equal parts of the windows, (U,)."""
    nats_NT = token_nats(model, windows.tokens, dtype=dtype).double()
    (values,) = to_host(nats_NT.mean(0).view(buckets, -1).mean(1))
    return [float(value) for value in values]


def ends(length: int, buckets: int) -> list[int]:
    """Return the last position of each bucket."""
    return [length // buckets * (i + 1) for i in range(buckets)]


def beyond(values: Curve, length: int, trained: int) -> float:
    """Return the mean over the buckets entirely past the trained length, where scaling must help."""
    width = length // len(values)
    past = [value for i, value in enumerate(values) if i * width >= trained]
    return sum(past) / len(past)


def within(values: Curve, length: int, trained: int) -> float:
    """Return the mean over the buckets inside the trained length, which shows what scaling costs there."""
    width = length // len(values)
    inside = [value for i, value in enumerate(values) if (i + 1) * width <= trained]
    return sum(inside) / len(inside) if inside else values[0]


def draw(curves: Mapping[str, Curve], length: int, trained: int, path: Path) -> None:
    """Draw one line per scaling over the positions; the dashed line is the trained length."""
    fig = figure(7.2, 3.6)
    ax = axes(fig, "Loss by position, natural text", "position (tokens)", "nats a token")
    titles = {"none": "no scaling", "linear": "linear interpolation", "yarn": "YaRN"}
    for colour, (name, values) in zip((COLOURS[1], COLOURS[4], COLOURS[0]), curves.items()):
        ax.plot(ends(length, len(values)), values, color=colour, label=titles[name], linewidth=1.6)
    ax.axvline(trained, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), label=f"trained to {trained}")
    legend(ax)
    save_png(fig, path)
