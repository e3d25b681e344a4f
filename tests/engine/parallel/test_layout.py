"""Layouts: the arithmetic of ranks and stages, and one sentence for each constraint that a layout breaks."""

import pytest

from engine.errors import UserError
from engine.parallel.layout import (
    DIMENSIONS,
    WHOLE,
    Grid,
    Layout,
    check_layout,
    check_schedule,
    stages,
)

K2 = {"ranks": 256, "layers": 61, "experts": 384}


def test_every_rank_has_its_own_place_and_expert_groups_are_neighbours() -> None:
    grid = Grid.of(Layout(pp=4, ep=2), 16)
    assert grid.sizes == (4, 2, 2)
    places = [grid.coordinates(rank) for rank in range(grid.ranks)]
    assert len({tuple(place.values()) for place in places}) == 16
    assert all((place["pp"] * 2 + place["dp"]) * 2 + place["ep"] == rank for rank, place in enumerate(places))
    assert grid.along(6, ["ep"]) == [6, 7]
    assert grid.along(6, ["dp"]) == [4, 6]
    assert grid.along(6, ["pp"]) == [2, 6, 10, 14]
    assert grid.along(6, []) == [6]
    assert grid.along(6, DIMENSIONS) == list(range(16))


@pytest.mark.parametrize("layers", [16, 27, 32, 61, 64])
@pytest.mark.parametrize("layout", [WHOLE, Layout(4), Layout(16), Layout(8, 2)])
def test_stages_have_all_layers_in_order_and_differ_by_one_at_most(layers: int, layout: Layout) -> None:
    parts = stages(layers, layout)
    assert len(parts) == layout.pp * layout.vpp
    assert [layer for part in parts for layer in part] == list(range(layers))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[-1] == min(sizes), "the stage with the head is never a longer one"


def test_k2_s_61_layers_are_uneven() -> None:
    sizes = [len(stage) for stage in stages(61, Layout(pp=16, vpp=2))]
    assert sizes == [1, 1, *[2] * 29, 1]
    # rank 0 of the pipeline has stages 0 and 16, rank 15 has 15 and 31
    assert [sizes[rank] + sizes[rank + 16] for rank in range(16)] == [3, 3, *[4] * 13, 3]


@pytest.mark.parametrize(
    ("layout", "changes", "words"),
    [
        (
            Layout(16, 2, 16),
            {"ranks": 128},
            "pp 16 times ep 16 must divide the number of ranks, which is 128: use",
        ),
        (Layout(16, 2, 16), {"ranks": 260}, "must divide the number of ranks, which is 260"),
        (Layout(1, 2, 16), {}, r"layout\.vpp: 2 stages a rank interleave a pipeline, and pp is 1"),
        (Layout(16, 4, 16), {}, "pp 16 times vpp 4 are 64 stages, and each needs a layer, but num_hidden_layers is 61"),
        (Layout(schedule="zero_bubble"), {}, r"layout\.schedule: zero_bubble orders a pipeline, and pp is 1: take"),
        (Layout(64, 1, 1), {}, "are 64 stages, .* lower vpp or pp"),
        (Layout(1, 1, 16), {"experts": 40}, r"layout\.ep: 16 must divide the experts .* is 40: .* such as 10"),
    ],
)
def test_a_broken_constraint_is_named(layout: Layout, changes: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_layout(layout, **{**K2, **changes}, field="layout")


@pytest.mark.parametrize("layout", [WHOLE, Layout(16, 2, 16), Layout(16, 3, 16), Layout(1, 1, 8), Layout(2, 1, 128)])
def test_layouts_that_fit_k2(layout: Layout) -> None:
    check_layout(layout, **K2, field="layout")


@pytest.mark.parametrize(
    ("layout", "enough"),
    [
        (Layout(16, 2, 16), 16),
        (Layout(16, 2, 16, "zero_bubble"), 16),
        (Layout(16, 2, 16, "interleaved_1f1b_warmup"), 32),
        (WHOLE, 0),
    ],
)
def test_a_schedule_needs_its_micro_batches(layout: Layout, enough: int) -> None:
    check_schedule(layout, enough, "layout", "micro_batches")
    if enough:
        words = rf"^layout\.schedule: {layout.schedule} over pp 16 needs {enough} .* micro_batches leaves {enough - 1}:"
        with pytest.raises(UserError, match=words):
            check_schedule(layout, enough - 1, "layout", "micro_batches")


def test_words_name_the_sizes_and_what_differs() -> None:
    assert str(WHOLE) == "pp 1, vpp 1, ep 1"
    assert str(Layout(ep=8, recompute=("norm", "swiglu"))) == "pp 1, vpp 1, ep 8, recompute norm+swiglu"
    assert str(Layout(fp8_storage=True)) == "pp 1, vpp 1, ep 1, fp8_storage True"


def test_what_only_saves_memory_divides_nothing() -> None:
    layout = Layout(recompute=("norm", "moe_down"), fp8_storage=True, offload=("activations", "optimizer"))
    assert layout.stated == ""
    assert Layout(ep=2, recompute=("norm",)).stated == "ep 2"
