"""The pictures of a step: every rank's line of the text, and a plot that is drawn the same each time."""

from dataclasses import replace

import pytest

from engine.parallel.layout import Grid, Layout
from engine.scale import picture
from engine.scale.machines import machines
from engine.scale.states import BFLOAT16
from engine.scale.step import rates, step
from engine.scale.training import Training
from tests.engine.tiny import config


def training(**fields):
    layout = Layout(pp=4, vpp=2, ep=2, zero=1, **fields)
    sizes = config(num_hidden_layers=9)
    return Training(sizes, layout, Grid.of(layout, 8), BFLOAT16, machines().gpus["h800"], 64, 1, 16)


@pytest.mark.parametrize(
    ("schedule", "marks"),
    [("interleaved_1f1b", "fb·"), ("interleaved_1f1b_warmup", "f#·"), ("zero_bubble", "fbw·")],
)
def test_the_text_has_a_line_for_each_rank_with_what_it_does(schedule, marks):
    planned = training(schedule=schedule)
    lines = picture.text(step(planned, rates(planned.gpu)[0]), 90)
    assert len(lines) == 4
    assert all(len(line) <= 90 and line.startswith(f"pp {rank}") for rank, line in enumerate(lines))
    assert all(mark in "".join(lines) for mark in marks)
    begins, ends = lines[-1][7:].split(" … ")
    assert begins.startswith(picture.IDLE), "the last rank waits for the others' forwards first"
    assert ends.endswith(picture.IDLE), "and ends before them"


@pytest.mark.parametrize("offload", [(), ("activations", "optimizer")])
def test_the_plot_is_the_same_each_time(tmp_path, offload):
    planned = training(schedule="interleaved_1f1b_warmup", offload=offload)
    made = step(planned, rates(planned.gpu)[0])
    for name in ("one.png", "other.png"):
        picture.save(planned, made, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_one_rank_alone_is_drawn_too(tmp_path):
    planned = replace(training(), layout=Layout(), grid=Grid())
    picture.save(planned, step(planned, rates(planned.gpu)[0]), tmp_path / "alone.png")
    assert (tmp_path / "alone.png").stat().st_size > 10_000
