"""Whether a training fits its GPUs and hosts; if not, what is too large and which switch makes it smaller."""

from collections.abc import Sequence
from dataclasses import replace

from engine.errors import UserError
from engine.scale.activations import RECOMPUTE
from engine.scale.machines import machines
from engine.scale.memory import Memory
from engine.scale.training import Training

GB = 1e9


def fullest(ranks: Sequence[Memory]) -> Memory:
    """Return the rank with the most bytes on its GPU."""
    return max(ranks, key=lambda one: one.total)


def host_bytes(training: Training, ranks: Sequence[Memory]) -> float:
    """Return the bytes that are moved to the host of the node that gets the most."""
    gpus = machines().node.gpus
    return max(sum(one.host for one in ranks[first : first + gpus]) for first in range(0, len(ranks), gpus))


def refuse_what_does_not_fit(training: Training, ranks: Sequence[Memory], field: str) -> None:
    """Raise UserError if a rank or a host is too small, naming the largest part and what would make it smaller."""
    one, room = fullest(ranks), training.gpu.memory
    if one.total > room:
        parts = {
            "activations": one.activations,
            "optimizer states": max(one.optimizer, one.visiting),
            "weights and gradients": one.weights + one.gradients,
            "the head and its gradient": one.head,
            "a layer at work": one.working,
        }
        name = max(parts, key=lambda part: parts[part])
        rest = ", ".join(f"{part} {size / GB:,.1f}" for part, size in parts.items() if part != name and size)
        raise UserError(
            f"{field}: rank {one.rank} needs {one.total / GB:,.1f} GB of {room / GB:,.1f}: {name} take "
            f"{parts[name] / GB:,.1f} ({rest}); {_remedy(training, name)}."
        )
    host = host_bytes(training, ranks)
    if host > machines().node.memory:
        raise UserError(
            f"{field}.offload: a node's host would get {host / GB:,.0f} GB of {machines().node.memory / GB:,.0f}: "
            "recompute more (recompute, fp8_storage), or take more GPUs."
        )


def _unused(training: Training) -> list[str]:
    """Return what could be recomputed besides, and would save something."""
    on, now = training.layout, training.activations(training.layout)
    trials = {name: replace(on, recompute=(*on.recompute, name)) for name in RECOMPUTE if name not in on.recompute}
    return [name for name, layout in trials.items() if max(training.activations(layout)) < max(now)]


def _remedy(training: Training, part: str) -> str:
    """Return what would make a part smaller."""
    on, t = training.layout, training
    if part in {"activations", "a layer at work", "the head and its gradient"}:
        if missing := _unused(training):
            return f"recompute more (recompute: [{', '.join([*on.recompute, *missing])}])"
        if not on.fp8_storage:
            return "store them in 8 bits (fp8_storage: true)"
        if "activations" not in on.offload:
            return "move them to the host (offload: [activations])"
        return f"raise pretrain.micro_batches, which leaves {t.rows} rows a micro-batch"
    if part == "optimizer states":
        if not on.zero and t.grid.dp * t.grid.ep > 1:
            return "share them among the replicas (zero: 1)"
        return "move them to the host (offload: [optimizer])" if "optimizer" not in on.offload else "take more GPUs"
    return "cut the model further: raise pp or ep, and the number of GPUs"
