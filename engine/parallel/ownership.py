"""Who owns which part of the optimizer's state under ZeRO-1: pure arithmetic, without torch.

The replicas of a pipeline stage (its dp·ep ranks) hold equal copies of every weight that is no routed expert, and the
dp ranks at one ep coordinate hold equal experts. Each number of a weight gets one owner among the ranks that hold it:
the owner alone keeps its momentum, master or moments, and moves it. Muon moves whole matrices (k2-facts 2.5), so a
matrix, an expert or, where heads are orthogonalised apart, a head has one owner; AdamW's tensors are cut along axis 0.

An owner's part of a weight is always a range of its axis 0, and the ranges follow each other in the order of the ranks:
`offsets` say all. A whole matrix is one range and empty ones.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd, prod
from typing import Literal

from engine.parallel.placement import Ranges, is_expert
from engine.parallel.traffic import GRADIENTS, WEIGHTS
from kernels.newton_schulz_cost import multiplications

GATE_UP = "gate_up_proj"
"""How the name of a stack ends that holds gate rows, then as many up rows: (…, 2F, D)."""

Kind = Literal["matrix", "stack", "rows"]
"""Muon's matrix; a stack of them, be they experts or heads that are orthogonalised apart; AdamW's tensor."""

DENSE_OWNERS = ("dp", "ep")
"""The order in which offsets number the ranks that hold a dense weight, the faster dimension second."""
EXPERT_OWNERS = ("ep", "dp")
"""The same for experts: each ep coordinate holds consecutive experts, and its dp ranks share those out."""

LOT = 64
"""AdamW's tensors are cut between lots of so many numbers: processors compute a few numbers at once, and the rest of a
tensor one by one, which may round otherwise. So a cut does not change which numbers are the rest."""

STATE, WORK = 1.1, 1.15
"""The most that a rank may have of the mean of the optimizer's bytes and of Newton–Schulz's work, where it can be."""


@dataclass(frozen=True)
class Weight:
    """A trained weight as the ranks of a stage hold it: of routed experts those of one ep coordinate.

    `blocks` is how many equal parts of axis 0 may have different owners, `matrices` the shapes that Muon orthogonalises
    in one of them.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    blocks: int = 1
    matrices: tuple[tuple[int, int], ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers one block has."""
        return prod(self.shape) // self.blocks if self.blocks else 0

    @property
    def dimensions(self) -> tuple[str, str]:
        """The mesh's dimensions over which it has owners, in the order in which offsets number the ranks."""
        return EXPERT_OWNERS if is_expert(self.name) else DENSE_OWNERS


def weight_of(name: str, shape: tuple[int, ...], muon: bool, heads: int | None = None) -> Weight:
    """Return the description of a weight that Muon or AdamW moves; `heads`: they are orthogonalised apart.

    >>> weight_of("layers.3.mlp.experts.gate_up_proj", (24, 4096, 7168), muon=True).matrices
    ((2048, 7168), (2048, 7168))
    """
    if not muon:
        return Weight(name, "rows", shape, shape[0])
    if heads is not None:
        return Weight(name, "stack", shape, heads, ((shape[0] // heads, shape[1]),))
    *stack, n, m = shape
    halves = 2 if name.endswith(GATE_UP) else 1
    matrices = ((n // halves, m),) * halves
    return Weight(name, "stack", shape, stack[0], matrices) if stack else Weight(name, "matrix", shape, 1, matrices)


def shape_counts(weights: Iterable[Weight]) -> dict[tuple[int, int], int]:
    """Return how many matrices of each shape Muon orthogonalises."""
    counts: Counter[tuple[int, int]] = Counter()
    for weight in weights:
        for shape in weight.matrices:
            counts[shape] += weight.blocks
    return dict(counts)


@dataclass(frozen=True)
class Load:
    """Bytes of optimizer state, and Newton–Schulz's multiplications in a step."""

    state: float = 0.0
    work: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.state + other.state, self.work + other.work)

    def __mul__(self, factor: float) -> "Load":
        return Load(self.state * factor, self.work * factor)

    def of(self, mean: "Load") -> float:
        """Return the load by the mean: of state or of work, each by its bound, whichever is the larger."""
        return max(self.state / (mean.state or 1) / STATE, self.work / (mean.work or 1) / WORK)


@dataclass(frozen=True)
class Ownership:
    """The owners of one stage's weights on its dp·ep replicas, and what each of these owns (dp slower, ep faster)."""

    dp: int
    ep: int
    weights: dict[str, Weight]
    offsets: dict[str, tuple[int, ...]]
    loads: tuple[Load, ...]

    def shares(self, name: str, ep: int) -> list[range]:
        """Return which rows of a weight each of its owners has, as the ranks at one ep coordinate hold it.

        They are in the order of the ranks: of all replicas, or for experts of the dp ranks.
        """
        first, rows = 0, self.weights[name].shape[0]
        offsets = self.offsets[name]
        if self.weights[name].dimensions == EXPERT_OWNERS:
            first = rows * ep
            offsets = offsets[self.dp * ep : self.dp * (ep + 1) + 1]
        return [range(start - first, end - first) for start, end in pairwise(offsets)]

    def rows(self, name: str, dp: int, ep: int) -> range:
        """Return which rows a rank owns of a weight as it holds it."""
        return self.shares(name, ep)[dp if self.weights[name].dimensions == EXPERT_OWNERS else dp * self.ep + ep]

    def ranges(self, name: str) -> Ranges:
        """Return the ranges of the whole weight that its owners have."""
        return Ranges(self.weights[name].dimensions, self.offsets[name])

    def sent(self, dp: int, ep: int, gradient: int, weight: int) -> dict[str, int]:
        """Return by kind of message the bytes that a rank gives to others in a step where every weight has a gradient.

        It sends to each owner that one's part of the gradients, and its own part of the weights to each other rank that
        holds them. `gradient` and `weight` are the bytes of a number.
        """
        out = {GRADIENTS: 0, WEIGHTS: 0}
        for name, of in self.weights.items():
            ranks = self.dp * (self.ep if of.dimensions == DENSE_OWNERS else 1)
            held, each = prod(of.shape), prod(of.shape[1:])
            owned = len(self.rows(name, dp, ep)) * each
            out[GRADIENTS] += (held - owned) * gradient
            out[WEIGHTS] += owned * (ranks - 1) * weight
        return out

    @property
    def balance(self) -> tuple[float, float]:
        """The largest of the ranks' state and of their work, by the mean."""
        count, total = len(self.loads), sum(self.loads, Load())
        return (
            max(load.state for load in self.loads) * count / (total.state or 1),
            max(load.work for load in self.loads) * count / (total.work or 1),
        )


def owners(weights: Sequence[Weight], dp: int, ep: int, *, masters: bool = True) -> Ownership:
    """Return the owners of a stage's weights on dp·ep replicas: states and work in balance, experts and dense together.

    AdamW's tensors are cut evenly. Of Muon's, the dense matrices come first, the most expensive ahead, each to the rank
    where they add the least; then heads, then each ep coordinate's experts fill its dp ranks up to one level. So a rank
    that owns a large matrix has fewer experts. `masters`: a weight has an fp32 master beside its momenta.

    All ranks of a stage compute the same from the same weights.
    """
    ranks, named = dp * ep, {weight.name: weight for weight in weights}
    block = {weight.name: _load(weight, masters) for weight in weights}
    dense, experts = ([w for w in weights if w.dimensions == order] for order in (DENSE_OWNERS, EXPERT_OWNERS))
    whole, column = (sum((block[w.name] * w.blocks for w in of), Load()) for of in (dense, experts))
    mean = (column * ep + whole) * (1 / ranks)
    loads = [column if dp == 1 else Load()] * ranks
    offsets: dict[str, tuple[int, ...]] = {}

    for weight in (weight for weight in dense if weight.kind == "rows"):
        share = _even(weight, ranks)
        offsets[weight.name] = _offsets(weight, share)
        loads = _added(loads, block[weight.name], share)
    matrices = [weight for weight in dense if weight.kind == "matrix"]
    for weight in sorted(matrices, key=lambda weight: (-block[weight.name].of(mean), weight.name)):
        owner = _least_filled(loads, ep, block[weight.name], Load() if dp == 1 else column, mean)
        loads[owner] += block[weight.name]
        offsets[weight.name] = (0,) * (owner + 1) + (weight.shape[0],) * (ranks - owner)
    shares, loads = _filled([weight for weight in dense if weight.kind == "stack"], block, loads, mean)
    offsets |= {name: _offsets(named[name], share) for name, share in shares.items()}

    taken: dict[str, list[int]] = {weight.name: [] for weight in experts}
    for place in range(ep):
        if dp == 1:
            shares = {weight.name: [weight.blocks] for weight in experts}
        else:
            shares = {w.name: _even(w, dp) for w in experts if w.kind == "rows"}
            for name, share in shares.items():
                loads[place::ep] = _added(loads[place::ep], block[name], share)
            more, loads[place::ep] = _filled([w for w in experts if w.kind != "rows"], block, loads[place::ep], mean)
            shares |= more
        for name, share in shares.items():
            taken[name] += share
    offsets |= {name: _offsets(named[name], share) for name, share in taken.items()}
    return Ownership(dp, ep, named, offsets, tuple(loads))


def _even(weight: Weight, ranks: int) -> list[int]:
    """Return the rows by rank of a tensor that is cut evenly between lots of its numbers."""
    rows, lot = weight.shape[0], LOT // gcd(LOT, prod(weight.shape[1:]))
    cuts = [0, *(rows * rank // ranks // lot * lot for rank in range(1, ranks)), rows]
    return [end - start for start, end in pairwise(cuts)]


def _added(loads: Sequence[Load], block: Load, share: Sequence[int]) -> list[Load]:
    """Return the ranks' loads with so many more blocks each."""
    return [load + block * count for load, count in zip(loads, share, strict=True)]


def _load(weight: Weight, masters: bool) -> Load:
    """Return the load of one block."""
    each = 4 * masters + (8 if weight.kind == "rows" else 4)
    return Load(weight.numbers * each, sum(multiplications(n, m) for n, m in weight.matrices))


def _least_filled(loads: Sequence[Load], ep: int, block: Load, column: Load, mean: Load) -> int:
    """Return the rank that is to own a block: the level of its ep coordinate, or itself, would be the lowest then."""
    dp = len(loads) // ep
    levels = [(sum(loads[place::ep], column) + block) * (1 / dp) for place in range(ep)]

    def level(rank: int) -> tuple[float, float, float]:
        alone, together = (loads[rank] + block).of(mean), levels[rank % ep].of(mean)
        return max(alone, together), together, alone

    return min(range(len(loads)), key=level)


def _filled(
    weights: Sequence[Weight], block: Mapping[str, Load], loads: Sequence[Load], mean: Load
) -> tuple[dict[str, list[int]], list[Load]]:
    """Share out the weights' blocks, in order, so that the largest load is least; return the blocks by rank, and loads.

    Each rank gets consecutive blocks of the weights one after the other, and the ranks follow each other.
    """
    low = max(load.of(mean) for load in loads)
    total = sum((block[weight.name] * weight.blocks for weight in weights), Load())
    high = low + total.of(mean)
    for _ in range(40):
        limit = (low + high) / 2
        low, high = (low, limit) if _filled_to(limit, weights, block, loads, mean) else (limit, high)
    shares = _filled_to(high * (1 + 1e-9), weights, block, loads, mean)
    assert shares is not None  # all blocks fit even on one rank
    out = list(loads)
    for name, share in shares.items():
        out = _added(out, block[name], share)
    return shares, out


def _filled_to(
    limit: float, weights: Sequence[Weight], block: Mapping[str, Load], loads: Sequence[Load], mean: Load
) -> dict[str, list[int]] | None:
    """Return the blocks by rank where each rank is filled up to `limit`, None if not all fit."""
    shares, rank, filled = {}, 0, list(loads)
    for weight in weights:
        share, left, each = [0] * len(loads), weight.blocks, block[weight.name]
        while left:
            fit = min(left, _fitting(filled[rank], each, limit, mean))
            share[rank] += fit
            filled[rank] += each * fit
            left -= fit
            if left and (rank := rank + 1) == len(loads):
                return None
        shares[weight.name] = share
    return shares


def _fitting(load: Load, block: Load, limit: float, mean: Load) -> int:
    """Return how many blocks may join a load that is to stay within `limit`."""
    rooms = [
        (limit * bound * (whole or 1) - used) / each
        for used, each, whole, bound in (
            (load.state, block.state, mean.state, STATE),
            (load.work, block.work, mean.work, WORK),
        )
        if each
    ]
    return max(0, int(min(rooms)))


def _offsets(weight: Weight, share: Sequence[int]) -> tuple[int, ...]:
    """Return the offsets along axis 0 of ranks that own so many blocks each."""
    height = weight.shape[0] // weight.blocks if weight.blocks else 0
    return tuple(accumulate((height * count for count in share), initial=0))
