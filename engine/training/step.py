"""One step of training: gradients over micro-batches and ranks, the optimizer's move, and the figures of both."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engine.launch import drain
from engine.model.balance import load_floor
from engine.model.model import K2Model
from engine.parallel import data
from engine.parallel.figures import of_all_layers
from engine.parallel.mesh import mesh
from engine.training.batches import Batch, share
from engine.training.even import evened
from engine.training.numerics import autocast
from engine.training.readings import Readable, numbers
from engine.training.state import TrainState
from kernels.host import to_host

Objective = Callable[[K2Model, Batch], tuple[Tensor, dict[str, float | Tensor]]]
"""Returns the mean loss of a micro-batch and figures for the row, the same names for each micro-batch.

It reads nothing but the batch and the model. Both are averaged over the micro-batches of all ranks (figures whose names
end in `_max`: the maximum), so a masked loss must divide by a total of the batch and not by its own mask
(engine/training/batches.py).
"""
Figures = dict[str, Any]
LARGEST = "_max"
"""Figures whose names end in this are reduced by the maximum; all others are averaged."""
TINY = 1e-6
"""Added to a gradient's norm before dividing by it, as torch does."""
ASKED = "asked to end soon"
"""Sent with a step's figures, so that all ranks learn after the same step, in no extra message, if any was asked."""


def backward(
    state: TrainState, batch: Batch, objective: Objective, dtype: str, parts: int, grad_clip: float | None
) -> Figures:
    """Compute gradients of the mean loss over all `parts` micro-batches of all replicas; return loss, figures and norm.

    The figures include ASKED, above 0 if any rank is to end soon, which the loop removes. Largest logits and expert
    loads, which the forwards left in the model, are reduced over the ranks too.
    """
    made = _micro_batches(state.model, batch, objective, dtype, parts)
    state.gradients.reduce_()
    norm = state.gradients.norm()
    if grad_clip is not None:
        state.gradients.clip_((grad_clip / (norm + TINY)).clamp(max=1.0))
    *read, grad_norm = numbers([*made, {"grad_norm": norm}])
    means: dict[str, float] = {}
    largest: dict[str, float] = {ASKED: float(drain.end_requested())}
    for name, figure in (pair for figures in read for pair in figures.items()):
        if name.endswith(LARGEST):
            largest[name] = _larger(largest.get(name, figure), figure)
        else:
            means[name] = means.get(name, 0.0) + figure / parts
    return {**_over_ranks(state.model, means, largest), **grad_norm}


def _micro_batches(
    model: K2Model, batch: Batch, objective: Objective, dtype: str, parts: int
) -> Sequence[Mapping[str, float | Tensor]]:
    """Add the gradients of this rank's micro-batches, of `parts` in all, and return the figures of each.

    The ranks of a pipeline do the same micro-batches together, and have the same figures.
    """
    device = model.device
    micro_batches = share(batch, parts, mesh().rows, device)
    if mesh().grid.pp > 1:
        from engine.parallel import pipeline  # torch's takes seconds to import

        if not isinstance(objective, Readable):
            raise TypeError(f"{objective} has no readings, so a pipeline cannot train on it")
        return pipeline.backward(model, list(map(objective.readings, micro_batches)), dtype, parts)
    objective = evened(objective)
    made: list[dict[str, float | Tensor]] = []
    for micro in micro_batches:
        with autocast(dtype, device.type):
            loss, aux = objective(model, micro)
        (loss / parts).backward()
        figures = {"loss": loss} | aux
        made.append({name: v.detach() if isinstance(v, Tensor) else v for name, v in figures.items()})
    return made


def _larger(a: float, b: float) -> float:
    """Return the larger of two numbers; NaN if one is NaN, which max() would lose."""
    return a if a > b or math.isnan(a) else b


def _over_ranks(model: K2Model, means: Mapping[str, float], largest: Mapping[str, float]) -> Figures:
    """Return the row's figures over all ranks, ordered by name; also reduces maxima and loads in the model."""
    place = mesh()
    if place.grid.ranks == 1:
        return {**means, **largest}
    device = model.device
    sums, tops = (torch.tensor(list(of.values()), dtype=torch.float64, device=device) for of in (means, largest))
    data.sum_([sums, *(router.load_E for router in model.routers().values())], place.replicas)
    data.max_([tops, *(attention.max_logit_H for attention in model.attentions())], place.replicas)
    if place.grid.pp > 1:
        # The stages have the same figures, but in the last bits of sums over their own replicas, and all must judge
        # alike (engine/training/guard.py); one of them may be asked to end.
        data.max_([sums, tops], place.group("pp"))
    values = [value for part in to_host(sums, tops) for value in part.tolist()]
    return dict(zip([*means, *largest], values, strict=True))


def move(state: TrainState, take: bool, with_heads: bool, bias_rate: float) -> Figures:
    """Take or skip the step and return figures for the row; logits, loads and gradients are reset in either case.

    `with_heads` adds each head's maximum logit; `bias_rate` is the router biases' update rate in a step that is taken.
    """
    heads = _heads(state.model) if take and with_heads else {}
    row = state.optimizer.step() if take else _stand_still(state.model)
    balance = _balance(state.model, bias_rate if take else 0.0)
    state.optimizer.zero_grad()
    return row | heads | balance


def _stand_still(model: K2Model) -> Figures:
    """Reset the logits of a skipped step's forwards, as the optimizer would; return the figures it would have given."""
    top = torch.stack([attention.max_logit_H.max() for attention in model.attentions()]).max()
    if mesh().grid.pp > 1:
        data.max_([top], mesh().group("pp"))
    (read,) = to_host(top)
    for attention in model.attentions():
        attention.reset_max_logit()
    largest = 0.0 if read == -math.inf else float(read)  # an empty step has no forward
    return {"skipped": 1.0, "max_logit": largest, "clipped_heads": 0.0}


def _heads(model: K2Model) -> Figures:
    """Return each head's maximum logit, one list per layer, before the optimizer resets them."""
    own = {block.layer: block.self_attn.max_logit_H for block in model.blocks}
    maxima = of_all_layers(own, range(model.config.num_hidden_layers), model.config.num_attention_heads)
    return {"max_logit_heads": [[round(s, 3) for s in max_logit_H.tolist()] for max_logit_H in maxima]}


def _balance(model: K2Model, rate: float) -> Figures:
    """Update every router's bias; return worst and mean of the layers' max/mean load, and the load of pure chance."""
    layers = range(model.config.first_k_dense_replace, model.config.num_hidden_layers)
    if not layers:
        return {}
    own = {
        layer: torch.stack((router.load_E.sum().double(), router.balance_(rate).double()))
        for layer, router in model.routers().items()
    }
    read = [part.tolist() for part in of_all_layers(own, layers, 2)]
    total, loads = read[0][0], [load for _, load in read]
    k, experts = model.config.num_experts_per_tok, model.config.n_routed_experts
    floor = load_floor(int(total) // k, experts, k)
    return {"expert_load_max": max(loads), "expert_load_mean": sum(loads) / len(loads), "expert_load_floor": floor}
