"""Gradients and figures of a model that is cut over real gloo ranks, against those of the whole model."""

import math
from typing import Any

import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.figures import of_all_layers, of_whole_model
from engine.parallel.gradients import SummedGradients
from engine.parallel.layout import Layout
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.placement import is_expert
from engine.training.step import _over_ranks
from tests.engine.parallel.ranks import together
from tests.engine.tiny import config

pytestmark = pytest.mark.slow

LAYOUTS = [Layout(ep=2), Layout(pp=2), Layout(pp=2, ep=2)]


def whole_gradients(model: K2Model) -> dict[str, torch.Tensor]:
    """A gradient for each weight of a whole model."""
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(p.shape, generator=generator).double() for name, p in model.named_parameters()}


def reduced(rank: int, layout: Layout) -> tuple[float, list[str]]:
    """The norm of gradients whose sums are the whole model's, and the names of those that are not after clipping."""
    with laid_out(layout):
        whole = whole_gradients(K2Model(config()))
        model = K2Model(config(), part=mesh().part(config())).double()
        assert model.part is not None
        experts, place = model.part.experts, mesh().coordinates()
        for name, parameter in model.named_parameters():
            own = whole[name][experts.start : experts.stop] if is_expert(name) else whole[name]
            number, parts = (place["dp"], mesh().grid.dp) if is_expert(name) else (mesh().rows.rank, mesh().rows.size)
            parameter.grad = own * (2.0 * (number + 1) / (parts * (parts + 1)))  # shares, which add up to one
            whole[name] = own
        gradients = SummedGradients(model)
        gradients.reduce_()
        norm = gradients.norm()
        gradients.clip_(torch.tensor(0.5, dtype=torch.float64))
        odd = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not torch.allclose(parameter.grad, whole[name] / 2, rtol=1e-14)
        ]
        return float(norm), odd


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_each_gradient_is_summed_over_the_ranks_that_saw_other_rows_and_counted_once(layout: Layout) -> None:
    whole = whole_gradients(K2Model(config()))
    expected = math.sqrt(sum(float(gradient.square().sum()) for gradient in whole.values()))
    replies = together(4, reduced, layout)
    assert len({norm for norm, _ in replies}) == 1, "to the bit"
    for norm, odd in replies:
        assert odd == []
        assert norm == pytest.approx(expected, rel=1e-13)


def figures(rank: int, layout: Layout) -> tuple[Any, Any]:
    """Figures of a model: rank r has a maximum of r, r + 1 heads clipped, 10 idle experts; layer l has (l, -l)."""
    with laid_out(layout):
        part = mesh().part(config())
        assert part is not None
        own = {layer: torch.tensor([layer, -layer]) for layer in part.layers if layer >= 1}
        return of_whole_model(float(rank), rank + 1, 10), [
            numbers.tolist() for numbers in of_all_layers(own, range(1, 3), 2)
        ]


def judged(rank: int) -> dict[str, Any]:
    """The figures of a step whose stages have summed them up in other orders."""
    with laid_out(Layout(pp=2)):
        model = K2Model(config(), part=mesh().part(config()))
        return _over_ranks(model, {"loss": math.nextafter(2.0, 2 + mesh().coordinates()["pp"])}, {"top_max": rank})


def test_all_stages_judge_by_the_same_figures() -> None:
    assert together(4, judged) == [{"loss": math.nextafter(4.0, 5), "top_max": 3}] * 4


def test_figures_of_parts_become_those_of_the_whole_model() -> None:
    """On 4 ranks: those along ep clip the same heads of the same layers, and have other experts."""
    layers = [[1, -1], [2, -2]]
    assert together(4, figures, Layout(pp=2)) == [((2, 4, 20), layers), ((3, 6, 20), layers)] * 2
    assert together(4, figures, Layout(ep=2)) == [((rank, rank + 1, 20), layers) for rank in range(4)]
    assert together(4, figures, Layout(pp=2, ep=2)) == [((2, 4, 40), layers), ((3, 6, 40), layers)] * 2
