"""What a rank keeps of its micro-batches' forwards until their backwards, with the switches that save some of it.

What one layer keeps of a token is in engine/model/activations.py; here it is added up over a pipeline's chunks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from engine.model.activations import bytes_per_token
from engine.model.config import K2Config
from engine.parallel.layout import Layout, Recomputed
from engine.parallel.pipeline_table import Action
from engine.scale.states import Precision

RECOMPUTE: tuple[Recomputed, ...] = get_args(Recomputed)
"""All that can be computed again in the backward instead of kept (k2-facts 5)."""


@dataclass(frozen=True)
class Rows:
    """The sequences of a micro-batch, the tokens of each, and the parts in which experts are cut."""

    count: int
    length: int
    ep: int
    fused: bool = True


def chunk_bytes(config: K2Config, layers: Iterable[int], rows: Rows, kinds: Precision, saving: Layout) -> float:
    """Return the bytes that a micro-batch leaves behind in a stage of these layers, with the switches of a layout."""
    return (
        rows.count
        * rows.length
        * sum(
            bytes_per_token(
                config,
                layer,
                kinds.types,
                rows.length,
                recompute=saving.recompute,
                fp8=saving.fp8_storage,
                fused=rows.fused,
                ep=rows.ep,
            )
            for layer in layers
        )
    )


def most_kept(actions: Sequence[Action], size: Mapping[int, float]) -> float:
    """Return the most that a pipeline rank keeps at once, where a chunk of stage s keeps `size[s]` up to its last
    backward.
    """
    kept = most = 0.0
    last = "W" if any(action.kind == "W" for action in actions) else "B"
    for action in actions:
        if action.kind == "F":
            kept += size[action.stage]
            most = max(most, kept)
        elif action.kind == last:
            kept -= size[action.stage]
    return most


def head_bytes(config: K2Config, tokens: int, kinds: Precision) -> float:
    """Return the bytes that a micro-batch keeps around the head: the norm's two ends, and both of its gradients.

    The loss forms the gradients of hidden states and head in its forward (kernels/cross_entropy.py).
    """
    D, types = config.hidden_size, kinds.types
    return tokens * D * (2 * types.stream + types.operand) + config.vocab_size * D * kinds.weight
