"""The bytes of every rank when it has the most, on its GPU and on its host."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.parallel.layout import RESIDENT, WHOLE
from engine.scale.activations import RECOMPUTE, chunk_bytes, head_bytes
from engine.scale.holdings import part_at
from engine.scale.training import Training

WORKING = 2
"""A layer at work has its tensors and their gradients, whatever it keeps afterwards."""


@dataclass(frozen=True)
class Memory:
    """The bytes of one rank.

    `optimizer` waits on the GPU during forwards and backwards, and `visiting` comes from the host for the optimizer's
    step, when there are no activations. `head`: what a micro-batch keeps around the head; `working`: the layer that is
    being computed; `host`: what waits on the host; `replicated`: weights and gradients that other ranks have too.
    """

    rank: int
    weights: float
    gradients: float
    optimizer: float
    visiting: float
    activations: float
    head: float
    working: float
    host: float
    replicated: float

    @property
    def computing(self) -> float:
        """The most bytes on the GPU in forwards and backwards."""
        waiting = self.weights + self.gradients + self.optimizer
        return waiting + self.activations + self.head + self.working

    @property
    def moving(self) -> float:
        """The bytes on the GPU in the optimizer's step."""
        return self.weights + self.gradients + self.optimizer + self.visiting

    @property
    def total(self) -> float:
        """The most bytes on the GPU."""
        return max(self.computing, self.moving)


def memory(training: Training) -> list[Memory]:
    """Return the bytes of every rank with the layout's switches."""
    t, away = training, training.layout.offload
    kept = t.activations(t.layout)
    out = []
    for rank, state in enumerate(t.states):
        stage = t.grid.coordinates(rank)["pp"]
        own = range(stage, len(t.stages), t.grid.pp)
        resident = RESIDENT * max(map(t.chunk, own)) if "activations" in away else kept[stage]
        on_gpu, moved = min(kept[stage], resident), state.optimizer if "optimizer" in away else 0.0
        layers = part_at(t.config, t.layout, t.grid, stage).layers
        out.append(
            Memory(
                rank=rank,
                weights=state.weights,
                gradients=state.gradients,
                optimizer=state.optimizer - moved,
                visiting=moved,
                activations=on_gpu,
                head=head_bytes(t.config, t.chunk_tokens, t.kinds) if stage == t.grid.pp - 1 else 0.0,
                working=WORKING * max(chunk_bytes(t.config, [layer], t.micro, t.kinds, WHOLE) for layer in layers),
                host=moved + kept[stage] - on_gpu,
                replicated=state.replicated,
            )
        )
    return out


def savings_in_turn(training: Training) -> Iterator[tuple[str, float]]:
    """Yield each switch of activations with the bytes that the fullest pipeline rank keeps with it and those before."""
    layout = replace(training.layout, recompute=(), fp8_storage=False, offload=())
    yield "none", max(training.activations(layout))
    for name in RECOMPUTE:
        layout = replace(layout, recompute=(*layout.recompute, name))
        yield f"recompute {name}", max(training.activations(layout))
    layout = replace(layout, fp8_storage=True)
    yield "fp8_storage", max(training.activations(layout))
    away = replace(training, layout=replace(layout, offload=("activations",)))
    yield "offload activations", max(one.activations for one in memory(away))
