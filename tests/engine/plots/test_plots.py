import subprocess
import sys
from pathlib import Path

import pytest

from engine.plots import COLOURS, axes, figure, grouped_bars, legend, save_png


def draw(path: Path) -> bytes:
    fig = figure(4, 2.5)
    ax = axes(fig, "Loss", "step", "nats a token")
    ax.plot([0, 1, 2], [3.0, 2.0, 1.5], label="train")
    legend(ax)
    return save_png(fig, path).read_bytes()


def test_the_same_figure_has_the_same_bytes(tmp_path):
    first, second = draw(tmp_path / "deep/er/a.png"), draw(tmp_path / "b.png")
    assert first == second
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first
    assert b"tEXt" not in first


def test_every_axis_is_labelled_and_coloured_by_the_house():
    ax = axes(figure(3, 2), "T", "x", "y")
    (line,) = ax.plot([0, 1], [0, 1])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("x", "y", "T")
    assert line.get_color() == COLOURS[0]


def test_whiskers_reach_the_interval():
    ax = axes(figure(3, 2), "T", "x", "y")
    grouped_bars(ax, ["a", "b"], {"m": [0.5, 0.2]}, {"m": [(0.4, 0.7), (0.1, 0.2)]})
    segments = ax.collections[0].get_segments()
    assert [tuple(round(float(y), 6) for y in s[:, 1]) for s in segments] == [(0.4, 0.7), (0.1, 0.2)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]


def test_intervals_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError):
        grouped_bars(axes(figure(3, 2), "T", "x", "y"), ["a", "b"], {"m": [0.5, 0.2]}, {"m": [(0.4, 0.7)]})


def test_importing_the_module_imports_no_matplotlib():
    code = "import engine.plots, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
