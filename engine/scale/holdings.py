"""What each rank holds of the weights, and what it owns of their optimizer state.

Every replica (a rank of dp × ep) holds whole copies of what is no routed expert; routed experts are cut along ep and
equal along dp. Under ZeRO-1 every number has one owner among the ranks that hold it (engine/parallel/ownership.py).
"""

from engine.model.config import K2Config
from engine.parallel.layout import Grid, Layout, Part, part_of
from engine.parallel.ownership import Ownership, owners, weight_of
from engine.scale.weights import Weight, weights


def part_at(config: K2Config, layout: Layout, grid: Grid, stage: int) -> Part:
    """Return what the first replica at the pp coordinate `stage` holds; the others hold as much."""
    first = stage * grid.dp * grid.ep
    return part_of(layout, grid, first, config.num_hidden_layers, config.n_routed_experts)


def held(config: K2Config, part: Part) -> list[Weight]:
    """Return the tensors of a part, with the shapes that its rank holds."""
    return [_cut(weight, len(part.experts)) for weight in weights(config) if _is_held(weight, part)]


def _is_held(weight: Weight, part: Part) -> bool:
    if weight.layer is not None:
        return weight.layer in part.layers
    return part.embeds if weight.block == "input embedding" else part.heads


def _cut(weight: Weight, experts: int) -> Weight:
    if not weight.stacked:
        return weight
    return Weight(weight.name, (experts, *weight.shape[1:]), weight.block, weight.layer, weight.rule, stacked=True)


def ownership(config: K2Config, layout: Layout, grid: Grid, stage: int, *, masters: bool, zero: bool) -> Ownership:
    """Return the owners of what replicas at the pp coordinate `stage` train; without ZeRO a single one, of all."""
    own = held(config, part_at(config, layout, grid, stage))
    trained = [weight_of(weight.name, weight.shape, weight.rule == "muon") for weight in own if weight.rule != "bias"]
    return owners(trained, grid.dp, grid.ep, masters=masters) if zero else owners(trained, 1, 1, masters=masters)
