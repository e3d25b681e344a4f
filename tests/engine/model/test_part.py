"""A rank's part of a model: the names and the bits of the whole one, each weight in the parts that should hold it."""

from collections import defaultdict

import pytest
import torch

from engine.model.model import K2Model
from engine.parallel.layout import Grid, Layout, part_of
from tests.engine.tiny import config

LAYOUTS = [(Layout(pp=2), 2), (Layout(ep=3), 3), (Layout(pp=2, vpp=2, ep=2), 8)]


@pytest.mark.parametrize(("layout", "ranks"), LAYOUTS, ids=str)
def test_the_parts_of_all_ranks_are_the_whole_model(layout, ranks):
    sizes = config(num_hidden_layers=5)
    whole = K2Model(sizes, seed=3)
    held = defaultdict(dict)
    grid = Grid.of(layout, ranks)
    for rank in range(ranks):
        part = part_of(layout, grid, rank, sizes.num_hidden_layers, sizes.n_routed_experts)
        for name, tensor in K2Model(sizes, seed=3, part=part).state_dict().items():
            first = part.experts.start if ".experts." in name else 0
            before = held[name].setdefault(first, tensor)
            assert torch.equal(tensor, before), f"{name}: replicas differ"
    assert held.keys() == whole.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        pieces = [held[name][first] for first in sorted(held[name])]
        assert torch.equal(torch.cat(pieces), tensor), name


def test_a_part_holds_the_ends_of_the_model_only_where_they_are_its_own():
    layout, grid = Layout(pp=3), Grid(pp=3)
    names = [set(K2Model(config(), part=part_of(layout, grid, rank, 3, 6)).state_dict()) for rank in range(3)]
    ends = [{name.split(".")[0] for name in of} - {"layers"} for of in names]
    assert ends == [{"embed_tokens"}, set(), {"norm", "lm_head"}]
