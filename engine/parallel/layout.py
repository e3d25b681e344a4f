"""How the ranks of a training divide it among themselves: pure arithmetic, without torch.

The mesh has three dimensions. `pp`: the layers are cut into pp·vpp stages in order, of which each rank holds vpp
(interleaved pipeline). `ep`: each rank holds an equal part of every layer's experts. `dp`: the replicas that remain.
Whatever is no expert is equal along dp and ep, and each of these dp·ep ranks sees other rows of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, StrictBool
from pydantic.dataclasses import dataclass as checked_dataclass

from engine.checked import FromOne
from engine.errors import UserError
from engine.parallel.pipeline_table import Schedule

DIMENSIONS = ("pp", "dp", "ep")
"""The mesh's dimensions, the slowest first: the ranks of one expert group are neighbours, mostly on one node."""

SIZES = ("pp", "vpp", "ep")
MEMORY = ("recompute", "fp8_storage", "offload")
"""The fields that divide nothing: they save memory on each rank (docs/cluster.md)."""
RESIDENT = 2
"""With activations offloaded, the most micro-batches on the device: one at work, and one on its way out or back."""
Recomputed = Literal["norm", "swiglu", "mla_up", "moe_down"]
Offloaded = Literal["activations", "optimizer"]


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is there twice; write it once")
    return names


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Layout:
    """The part of the layout that compute.yml states; dp is what the number of ranks leaves over.

    MEMORY changes no output of a forward. `recompute`: the outputs that the backward makes again. `fp8_storage`: the
    inputs of experts and of SwiGLU wait for it in FP8, so gradients differ. `offload`: what waits in the host's memory,
    activations for their backward, the optimizer's state for its step. `zero` 1 divides the optimizer's state among the
    ranks that hold equal weights.
    """

    pp: FromOne = 1
    vpp: FromOne = 1
    ep: FromOne = 1
    schedule: Schedule = "interleaved_1f1b"
    recompute: Annotated[tuple[Recomputed, ...], AfterValidator(_once)] = ()
    fp8_storage: StrictBool = False
    offload: Annotated[tuple[Offloaded, ...], AfterValidator(_once)] = ()
    zero: Literal[0, 1] = 0

    def __str__(self) -> str:
        """Return the sizes, and all else that differs from the default."""
        return self._words([each.name for each in fields(self) if each.name in SIZES or self._differs(each.name)])

    @property
    def cuts(self) -> bool:
        """Whether a rank holds only a part of the model."""
        return self.pp * self.ep > 1

    @property
    def stated(self) -> str:
        """The fields in which it divides a training otherwise than plain data parallelism, as words; "" for none."""
        return self._words([each.name for each in fields(self) if each.name not in MEMORY and self._differs(each.name)])

    def _differs(self, name: str) -> bool:
        return bool(getattr(self, name) != getattr(WHOLE, name))

    def _words(self, names: Sequence[str]) -> str:
        values = {name: getattr(self, name) for name in names}
        return ", ".join(f"{name} {'+'.join(v) if isinstance(v, tuple) else v}" for name, v in values.items())


WHOLE = Layout()
"""Every rank holds the whole model: plain data parallelism."""


@dataclass(frozen=True)
class Grid:
    """The mesh's sizes."""

    pp: int = 1
    dp: int = 1
    ep: int = 1

    @classmethod
    def of(cls, layout: Layout, ranks: int) -> Self:
        """Return the sizes for so many ranks, which `layout` must divide."""
        return cls(layout.pp, ranks // (layout.pp * layout.ep), layout.ep)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The sizes, in the order of DIMENSIONS."""
        return self.pp, self.dp, self.ep

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.pp * self.dp * self.ep

    def coordinates(self, rank: int) -> dict[str, int]:
        """Return a rank's coordinate in each dimension.

        >>> Grid(pp=2, dp=2, ep=2).coordinates(5)
        {'pp': 1, 'dp': 0, 'ep': 1}
        """
        rest, ep = divmod(rank, self.ep)
        pp, dp = divmod(rest, self.dp)
        return {"pp": pp, "dp": dp, "ep": ep}

    def along(self, rank: int, dimensions: Sequence[str]) -> list[int]:
        """Return the ranks, itself included, whose coordinates differ from a rank's in these dimensions only.

        >>> Grid(pp=2, dp=2, ep=2).along(5, ["dp"]), Grid(pp=2, dp=2, ep=2).along(5, ["dp", "ep"])
        ([5, 7], [4, 5, 6, 7])
        """
        own = self.coordinates(rank)
        fixed = [name for name in DIMENSIONS if name not in dimensions]
        others = {other: self.coordinates(other) for other in range(self.ranks)}
        return [other for other, place in others.items() if all(place[name] == own[name] for name in fixed)]


def stages(layers: int, layout: Layout) -> list[range]:
    """Return the layers of each of the pp·vpp pipeline stages; stage s is on the ranks at coordinate s mod pp.

    Sizes differ by at most one. Where they differ, first the last stage, which has the head, and then the first ones,
    which have the embedding and the dense layers, are the shorter ones.

    >>> [len(stage) for stage in stages(61, Layout(pp=16))][:3], len(stages(61, Layout(pp=16))[-1])
    ([3, 3, 4], 3)
    """
    count = layout.pp * layout.vpp
    least, longer = divmod(layers, count)
    short = count - longer
    sizes = [least + (longer > 0 and short - 1 <= stage < count - 1) for stage in range(count)]
    starts = [sum(sizes[:stage]) for stage in range(count + 1)]
    return [range(first, end) for first, end in pairwise(starts)]


def stage_of(layer: int, layers: int, layout: Layout) -> int:
    """Return which pipeline stage a layer is in; 0 for one that a model of so many layers has not."""
    return next((stage for stage, own in enumerate(stages(layers, layout)) if layer in own), 0)


@dataclass(frozen=True)
class Part:
    """What one rank holds of a model: some layers, the ends if they are its own, and a range of each layer's experts.

    `embeds`: the embedding, which comes before the first layer; `heads`: the final norm and the head after the last.
    """

    layers: tuple[int, ...]
    embeds: bool
    heads: bool
    experts: range


def part_of(layout: Layout, grid: Grid, rank: int, layers: int, experts: int) -> Part:
    """Return what a rank holds of a model of so many layers and routed experts a layer, which the layout must divide.

    >>> part_of(Layout(pp=2, vpp=2, ep=2), Grid(pp=2, ep=2), 3, 8, 8)
    Part(layers=(2, 3, 6, 7), embeds=False, heads=True, experts=range(4, 8))
    """
    place, each = grid.coordinates(rank), experts // grid.ep
    own = range(place["pp"], layout.pp * layout.vpp, layout.pp)
    cuts = stages(layers, layout)
    return Part(
        layers=tuple(layer for stage in own for layer in cuts[stage]),
        embeds=place["pp"] == 0,
        heads=place["pp"] == layout.pp - 1,
        experts=range(each * place["ep"], each * (place["ep"] + 1)),
    )


def check_layout(layout: Layout, ranks: int, layers: int, experts: int, field: str) -> None:
    """Refuse a layout that does not fit the number of ranks or the model; the sentence begins with `field`."""
    both = layout.pp * layout.ep
    if ranks % both:
        raise UserError(
            f"{field}: pp {layout.pp} times ep {layout.ep} must divide the number of ranks, which is {ranks}: use a "
            f"multiple of {both} ranks, or another pp or ep."
        )
    if layout.vpp > 1 and layout.pp == 1:
        raise UserError(
            f"{field}.vpp: {layout.vpp} stages a rank interleave a pipeline, and pp is 1: set vpp: 1, or pp above 1."
        )
    if layout.schedule != WHOLE.schedule and layout.pp == 1:
        raise UserError(
            f"{field}.schedule: {layout.schedule} orders a pipeline, and pp is 1: take schedule out, or set pp above 1."
        )
    if layout.pp * layout.vpp > layers:
        raise UserError(
            f"{field}: pp {layout.pp} times vpp {layout.vpp} are {layout.pp * layout.vpp} stages, and each needs a "
            f"layer, but num_hidden_layers is {layers}: lower vpp or pp."
        )
    if experts % layout.ep:
        raise UserError(
            f"{field}.ep: {layout.ep} must divide the experts of a layer, and n_routed_experts is {experts}: choose a "
            f"divisor, such as {max(n for n in range(1, layout.ep) if experts % n == 0)}."
        )


def check_schedule(layout: Layout, micro_batches: int, field: str, parameter: str) -> None:
    """Refuse a pipeline with too few micro-batches a step for its schedule; the sentence begins with `field`.

    `micro_batches` is the number on each replica, which `parameter` sets. With fewer the result would be the same, but
    ranks would stand idle for most of a step, or no forward of the first rank would have a backward to run with.
    """
    needed = layout.pp * (2 if layout.schedule == "interleaved_1f1b_warmup" else 1)
    if layout.pp > 1 and micro_batches < needed:
        raise UserError(
            f"{field}.schedule: {layout.schedule} over pp {layout.pp} needs {needed} micro-batches a step on each "
            f"replica, and {parameter} leaves {micro_batches}: raise {parameter}, or lower pp."
        )
