"""The bytes that a rank sends to others in a step, by kind of message.

Kinds have the names under which a run counts them (engine/parallel/traffic.py). Routed rows cross once for each expert
on another rank: 1 − 1/EP of a token's k rows on an even load, out and back, and both again for the gradients. A sum
over n ranks that all need it, as a ring, sends 2·(n − 1)/n of the bytes. Under ZeRO-1 a rank sends each owner its part
of the gradients, and its own part of the weights to all that hold them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from engine.model.config import K2Config
from engine.parallel.layout import Grid, Layout
from engine.parallel.ownership import Ownership
from engine.parallel.traffic import COUNTS, GATES, GRADIENTS, GRADIENTS_BACK, OUTPUTS, ROWS, SUM, WEIGHTS
from engine.scale.holdings import held, part_at
from engine.scale.states import Precision
from engine.scale.weights import Weight

AFTER = (GRADIENTS, WEIGHTS, SUM)
"""The kinds of a step's end, for which a rank waits."""


@dataclass(frozen=True)
class Message:
    """What a rank sends in a step: `bytes` over a group of `size` ranks that are `stride` ranks apart."""

    name: str
    bytes: float
    size: int
    stride: int

    @property
    def span(self) -> int:
        """How many neighbouring ranks the group stretches over."""
        return self.size * self.stride

    @property
    def given(self) -> float:
        """All bytes that a rank gives to an all-to-all, those for itself included."""
        return self.bytes / (1 - 1 / self.size)

    def has_kind(self, *kinds: str) -> bool:
        """Return whether it is of one of these kinds."""
        return self.name.startswith(kinds)


@dataclass(frozen=True)
class Batch:
    """What decides a replica's messages besides the model: micro-batches in a step, and the tokens of each."""

    micro_batches: int
    tokens: int


def traffic(
    config: K2Config, layout: Layout, grid: Grid, stage: int, batch: Batch, kinds: Precision, plan: Ownership | None
) -> list[list[Message]]:
    """Return what each replica at the pp coordinate `stage` sends in a step, ep being the faster.

    `plan` has the owners of the stage's weights under ZeRO-1.
    """
    part = part_at(config, layout, grid, stage)
    own = [weight for weight in held(config, part) if weight.rule != "bias"]
    sparse = sum(layer >= config.first_k_dense_replace for layer in part.layers)
    same = [*exchange(config, sparse, grid.ep, batch, kinds), *_pipeline(config, layout, grid, stage, batch, kinds)]
    out = []
    for replica in range(grid.dp * grid.ep):
        messages = list(same)
        for name, size, stride, stacked in (
            ("dense", grid.dp * grid.ep, 1, False),
            ("experts", grid.dp, grid.ep, True),
        ):
            of = [weight for weight in own if weight.stacked == stacked]
            sums = _after(of, size, kinds, plan, *divmod(replica, grid.ep))
            messages += [Message(f"{kind}, {name}", sent, size, stride) for kind, sent in sums]
        out.append([message for message in messages if message.bytes])
    return out


def exchange(config: K2Config, layers: int, ep: int, batch: Batch, kinds: Precision) -> Iterator[Message]:
    """Yield a rank's all-to-alls of a step in so many MoE layers, on an even load."""
    c, crossing = config, 1 - 1 / ep
    rows = layers * batch.micro_batches * batch.tokens * c.num_experts_per_tok * crossing
    for name in ROWS:
        yield Message(name, 2 * rows * c.hidden_size * kinds.types.operand, ep, 1)
    for name in GATES:
        yield Message(name, rows * 4, ep, 1)
    yield Message(COUNTS, layers * batch.micro_batches * c.n_routed_experts * 8 * crossing, ep, 1)


def _pipeline(
    config: K2Config, layout: Layout, grid: Grid, stage: int, batch: Batch, kinds: Precision
) -> Iterator[Message]:
    """Yield what goes to the stages beside a rank's own: all but the last send on, all but the first send back."""
    count = layout.pp * layout.vpp
    sent = batch.micro_batches * batch.tokens * config.hidden_size * kinds.types.stream
    own, hop = range(stage, count, layout.pp), grid.dp * grid.ep
    if layout.pp > 1:
        yield Message(OUTPUTS, sent * sum(each < count - 1 for each in own), 2, hop)
        yield Message(GRADIENTS_BACK, sent * sum(each > 0 for each in own), 2, hop)


def _after(
    own: list[Weight], size: int, kinds: Precision, plan: Ownership | None, dp: int, ep: int
) -> Iterator[tuple[str, float]]:
    """Yield kinds and bytes of what follows a step's last backward, for weights that `size` ranks hold."""
    numbers = sum(weight.numbers for weight in own)
    if plan is None:
        yield SUM, 2 * (size - 1) / size * numbers * kinds.gradient
        return
    ours = sum(len(plan.rows(weight.name, dp, ep)) * prod(weight.shape[1:]) for weight in own)
    yield GRADIENTS, (numbers - ours) * kinds.gradient
    yield WEIGHTS, ours * (size - 1) * kinds.weight
