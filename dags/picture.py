"""The README's picture of the graph: docs/img/graph.svg, drawn from kedro.yml, pipelines and catalog.

python -m dags.picture [--check]
"""

import argparse
import sys
from dataclasses import dataclass
from html import escape
from itertools import cycle

from pipelines import graph
from pipelines.stages_file import ROOT, load_stages_file

PATH = ROOT / "docs" / "img" / "graph.svg"
PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#ff9da6")
"""The groups of kedro.yml have these colours, in the order in which they stand there; a ninth has the first again."""
WIDTH, LINE, HEAD, GAP_X, GAP_Y, MARGIN = 150, 15, 26, 46, 18, 16


@dataclass(frozen=True)
class Box:
    """One stage's place in the picture."""

    stage: str
    x: int
    y: int
    lines: tuple[str, ...]

    @property
    def height(self) -> int:
        """The height of the title and of one line for each artifact."""
        return HEAD + LINE * len(self.lines) + 8


def colours() -> dict[str, str]:
    """Return each group's colour."""
    groups = dict.fromkeys(spec.group for spec in load_stages_file().stages.values())
    return dict(zip(groups, cycle(PALETTE)))


def feeders(stage: str) -> list[str]:
    """Return the stages that make the inputs of `stage`."""
    return list(dict.fromkeys(graph.producer(name) for name in graph.stage_graph(stage).inputs))


def place() -> dict[str, Box]:
    """Each stage in the column after the last stage it reads from."""
    depth: dict[str, int] = {}
    heights: dict[int, int] = {}
    boxes: dict[str, Box] = {}
    for stage in load_stages_file().stages:
        column = depth[stage] = max((depth[name] + 1 for name in feeders(stage)), default=0)
        lines = tuple(
            name
            for name in graph.stage_graph(stage).outputs
            if not name.startswith("rejected_") and not name.endswith("_metrics")
        )
        boxes[stage] = Box(stage, MARGIN + column * (WIDTH + GAP_X), heights.get(column, MARGIN), lines)
        heights[column] = boxes[stage].y + boxes[stage].height + GAP_Y
    return boxes


def draw() -> str:
    """Return the picture as SVG text."""
    boxes = place()
    width = max(box.x for box in boxes.values()) + WIDTH + MARGIN
    height = max(box.y + box.height for box in boxes.values()) + MARGIN + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    parts += [_edge(boxes[source], boxes[stage]) for stage in boxes for source in _direct(stage)]
    parts += [_box(box) for box in boxes.values()]
    for index, (group, colour) in enumerate(colours().items()):
        x = MARGIN + index * 120
        parts.append(f'<rect x="{x}" y="{height - 22}" width="10" height="10" rx="2" fill="{colour}"/>')
        parts.append(f'<text x="{x + 15}" y="{height - 13}" fill="#444">{group.replace("_", " ")}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _direct(stage: str) -> list[str]:
    """Feeders, without those that reach `stage` through another feeder anyway: the picture stays readable."""
    direct = feeders(stage)

    def ancestors(name: str) -> set[str]:
        above = set(feeders(name))
        return above.union(*(ancestors(one) for one in above))

    return [name for name in direct if not any(name in ancestors(other) for other in direct)]


def _edge(a: Box, b: Box) -> str:
    x1, y1, x2, y2 = a.x + WIDTH, a.y + HEAD // 2, b.x, b.y + HEAD // 2
    bend = (x2 - x1) // 2 if x2 - x1 < WIDTH else GAP_X
    curve = f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    return f'<path d="{curve}" fill="none" stroke="#999" stroke-width="1.4"/>'


def _box(box: Box) -> str:
    spec = load_stages_file().stage(box.stage)
    colour = colours()[spec.group]
    header = f"M{box.x} {box.y + HEAD}V{box.y + 6}q0 -6 6 -6h{WIDTH - 12}q6 0 6 6V{box.y + HEAD}z"
    lines = "".join(
        f'<text x="{box.x + 10}" y="{box.y + HEAD + 12 + LINE * i}" fill="#333">{escape(line)}</text>'
        for i, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="6" fill="#fafafa" stroke="{colour}"/>'
        f'<path d="{header}" fill="{colour}"/>'
        f'<text x="{box.x + 10}" y="{box.y + 17}" fill="#fff" font-weight="600" font-size="13">{box.stage}</text>'
        f'<text x="{box.x + WIDTH - 10}" y="{box.y + 17}" fill="#fff" text-anchor="end">{spec.compute}</text>{lines}'
    )


def main() -> None:
    """Write or check the picture."""
    parser = argparse.ArgumentParser(description="Draw the graph.")
    parser.add_argument("--check", action="store_true", help="only compare")
    text = draw()
    if parser.parse_args().check:
        if not PATH.is_file() or PATH.read_text(encoding="utf-8") != text:
            sys.exit(f"error: {PATH.relative_to(ROOT)} is not what the graph says: run `make views`.")
    else:
        PATH.parent.mkdir(parents=True, exist_ok=True)
        PATH.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
