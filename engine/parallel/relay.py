"""Sampling from a model whose layers lie on several ranks: each new token goes through the ranks one after the other.

A rank waits while the others have their turn, so this is for few tokens; whatever is known beforehand is read in a
pipeline (engine/parallel/pipeline.py).

Shapes: B rows, T new positions, D model channels, V vocabulary.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from engine.model.cache import LatentCache
from engine.model.model import K2Model
from engine.model.rope import rotation
from engine.parallel import data
from engine.parallel.layout import stages
from engine.parallel.mesh import mesh


def next_logits(model: K2Model, ids_BT: Tensor, cache: LatentCache) -> Tensor:
    """Return the logits after the last of the new tokens, (B, V) in fp32, on all ranks; the cache takes the tokens.

    The ranks of a pipeline, each with its part of the model, call this together with the same tokens.
    """
    if mesh().grid.pp == 1:
        logits: Tensor = model.lm_head(model.hidden(ids_BT, cache)[:, -1:])[:, 0].float()
        return logits
    x_BTD = _relayed(model, ids_BT, cache)
    if mesh().coordinates()["pp"] == mesh().grid.pp - 1:
        logits = model.lm_head(model.norm(x_BTD)[:, -1:])[:, 0].float()
    else:
        logits = torch.empty(len(ids_BT), model.config.vocab_size, device=model.device)
    data.together(lambda: dist.broadcast(logits, group=mesh().group("pp"), group_src=mesh().grid.pp - 1))
    return logits


def _relayed(model: K2Model, ids_BT: Tensor, cache: LatentCache) -> Tensor:
    """Return what this rank's last stage gives to the next one, (B, T, D)."""
    pp, rank, group = mesh().grid.pp, mesh().coordinates()["pp"], mesh().group("pp")
    new, gain = ids_BT.shape[1], model.blocks[0].input_layernorm.weight
    positions = torch.arange(cache.length, cache.length + new, device=model.device)
    turn, visible = rotation(positions, model.frequencies_P, model.magnitude), cache.visible(new)
    x_BTD = torch.empty(*ids_BT.shape, len(gain), dtype=gain.dtype, device=gain.device)
    cuts = stages(model.config.num_hidden_layers, mesh().layout)
    for stage in range(rank, len(cuts), pp):
        x_BTD = _received(torch.empty_like(x_BTD), group, (stage - 1) % pp) if stage else model.embed_tokens(ids_BT)
        for layer in cuts[stage]:
            x_BTD = model.layers[str(layer)](x_BTD, turn, cache, visible)
        if stage < len(cuts) - 1:
            _send(x_BTD, group, (stage + 1) % pp)
    cache.length += new
    return x_BTD


def _send(x_BTD: Tensor, group: dist.ProcessGroup | None, target: int) -> None:
    data.together(lambda: dist.send(x_BTD.contiguous(), group=group, group_dst=target))


def _received(buffer: Tensor, group: dist.ProcessGroup | None, source: int) -> Tensor:
    data.together(lambda: dist.recv(buffer, group=group, group_src=source))
    return buffer
