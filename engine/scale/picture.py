"""Pictures of a step: the schedule as text, and a plot of what a rank's computing, network and host link do at once.

    save(training, made, Path("scale.png"))

Lanes are drawn from the planner's own figures: the times of the pipeline (engine/parallel/pipeline_time.py), and the
seconds of each message at the links' rates.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine import plots
from engine.parallel.pipeline_time import Timed
from engine.scale.step import Step, chunk_exchange, hop, host_copy
from engine.scale.training import Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = {"F": "f", "B": "b", "I": "b", "W": "w"}
IDLE, BOTH = "·", "#"
LEGEND = "f forward, b backward, w its part for the weights, # forward and backward at once, · idle"
COLOURS = {"F": plots.COLOURS[0], "B": plots.COLOURS[1], "I": plots.COLOURS[1], "W": plots.COLOURS[4]}
NAMES = {"F": "forward", "B": "backward", "I": "backward for the inputs", "W": "backward for the weights"}

WINDOW = 4
"""Actions, or pairs of them, that are drawn of a rank amid the step."""

Bar = tuple[float, float, str]
"""Start, seconds and colour."""


def text(made: Step, width: int) -> list[str]:
    """Return the beginning and the end of a step's schedule, a line for each pipeline rank."""
    end = max(of[-1].end for of in made.times)
    columns = (width - 12) // 2
    first_backward = min(timed.start for timed in made.times[0] if timed.action.kind in "BI")
    window = min(end / 2, 1.4 * first_backward + 4 * (made.times[0][0].end - made.times[0][0].start))
    lines = []
    for rank, of in enumerate(made.times):
        begins, ends = (_marks(of, start, window, columns) for start in (0.0, end - window))
        lines.append(f"pp {rank:<3} {begins} … {ends}")
    return lines


def _marks(of: Sequence[Timed], start: float, window: float, columns: int) -> str:
    """Return a mark for each of the equal parts of a window: what a rank does in the middle of it."""
    marks = []
    for column in range(columns):
        at = start + window * (column + 0.5) / columns
        kinds = {timed.action.kind for timed in of if timed.start <= at < timed.end}
        mark = BOTH if len(kinds) > 1 else MARKS[kinds.pop()] if kinds else IDLE
        marks.append(mark)
    return "".join(marks)


def save(training: Training, made: Step, path: Path) -> None:
    """Write the plot of a step as PNG: the pipeline's beginning, a rank's lanes amid the step, and the step's end."""
    fig = plots.figure(11, 9)
    _pipeline(plots.axes(fig, "The beginning of a step", "seconds", "pipeline rank", (3, 1, 1)), made)
    _lanes(plots.axes(fig, _title(training), "seconds", "", (3, 1, 2)), training, made)
    _end(plots.axes(fig, "The end of the step", "seconds after the last backward", "", (3, 1, 3)), made)
    plots.save_png(fig, path)


def _title(training: Training) -> str:
    rank = training.grid.pp // 2
    return f"Rank {rank} of {training.grid.pp} amid the step: what computes, and what moves meanwhile"


def _pipeline(ax: "Axes", made: Step) -> None:
    """Draw what each pipeline rank does up to some rounds after the first backward."""
    first_backward = min(timed.start for timed in made.times[0] if timed.action.kind in "BI")
    window = 1.5 * first_backward
    for rank, of in enumerate(made.times):
        own = [timed for timed in of if timed.start < window]
        _draw(ax, rank, list(_bars(own)))
    for kind in sorted({timed.action.kind for of in made.times for timed in of}, key="FBIW".index):
        ax.bar(0, 0, color=COLOURS[kind], label=NAMES[kind])
    ax.set_xlim(0, window)
    ax.set_ylim(len(made.times) - 0.5, -0.5)
    ax.grid(False)
    plots.legend(ax, loc="lower right", bbox_to_anchor=(1, 1), ncols=4)


def _bars(of: Sequence[Timed]) -> Iterator[Bar]:
    """Yield a bar for each action; those that run at once follow each other within their common time."""
    blocks: dict[tuple[float, float], list[Timed]] = {}
    for timed in of:
        blocks.setdefault((timed.start, timed.end), []).append(timed)
    for (start, end), together in blocks.items():
        each = (end - start) / len(together)
        for number, timed in enumerate(together):
            yield start + number * each, each, COLOURS[timed.action.kind]


def _draw(ax: "Axes", row: float, bars: Sequence[Bar], height: float = 0.8) -> None:
    spans, colours = [(start, seconds) for start, seconds, _ in bars], [colour for *_, colour in bars]
    ax.broken_barh(spans, (row - height / 2, height), facecolors=colours, edgecolor="white", linewidth=0.4)


def _lanes(ax: "Axes", training: Training, made: Step) -> None:
    """Draw a rank in the middle of the step: what it computes, and the messages and copies meanwhile."""
    t, of = training, made.times[training.grid.pp // 2]
    middle = next(number for number in range(len(of) // 2, len(of)) if of[number].action.kind == "F")
    own = [
        timed for timed in of[middle:] if timed.end <= of[middle].start + WINDOW * (of[middle].end - of[middle].start)
    ]
    start, end = own[0].start, max(timed.end for timed in own)
    forwards, backwards = ([timed for timed in own if timed.action.kind in kinds] for kinds in ("F", "BI"))
    lanes: dict[str, list[Bar]] = {"computing": list(_bars(own))}
    if t.grid.ep > 1:
        lanes["all-to-alls, forward"] = [bar for timed in forwards for bar in _exchanges(t, timed)]
        lanes["all-to-alls, backward"] = [bar for timed in backwards for bar in _exchanges(t, timed)]
    if t.grid.pp > 1:
        lanes["to the next stage"] = [(timed.end, hop(t), COLOURS["F"]) for timed in forwards]
        lanes["to the stage before"] = [(timed.end, hop(t), COLOURS["B"]) for timed in backwards]
    if "activations" in t.layout.offload:
        copies = {timed: host_copy(t, timed.action.stage) for timed in own}
        lanes["to the host"] = [(timed.end, copies[timed], COLOURS["F"]) for timed in forwards]
        lanes["from the host"] = [(timed.start - copies[timed], copies[timed], COLOURS["B"]) for timed in backwards]
    for row, bars in enumerate(lanes.values()):
        _draw(ax, row, [(at - start, seconds, colour) for at, seconds, colour in bars])
    ax.set_yticks(range(len(lanes)), list(lanes))
    ax.set_xlim(0, end - start)
    ax.invert_yaxis()
    ax.grid(False)


def _exchanges(training: Training, timed: Timed) -> Iterator[Bar]:
    """Yield the all-to-alls of an action, two for each MoE layer, spread over it."""
    sparse, each = chunk_exchange(training, timed.action.stage)
    if timed.action.kind == "W" or not sparse:
        return
    for number in range(2 * sparse):
        at = timed.start + (timed.end - timed.start) * (number + 0.5) / (2 * sparse) - each / 2
        yield at, each, COLOURS[timed.action.kind]


def _end(ax: "Axes", made: Step) -> None:
    """Draw what follows the last backward, one after the other."""
    parts = [
        ("exchange of gradients and weights", made.exchange),
        ("optimizer states from and to the host", made.host),
        ("Newton–Schulz", made.newton_schulz),
    ]
    at = 0.0
    for row, (_, seconds) in enumerate(parts):
        _draw(ax, row, [(at, seconds, plots.COLOURS[row])])
        ax.text(at + seconds, row, f" {seconds:.2f} s", va="center", fontsize=8, color=plots.INK)
        at += seconds
    ax.set_yticks(range(len(parts)), [name for name, _ in parts])
    ax.set_xlim(0, 1.15 * at if at else 1)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
