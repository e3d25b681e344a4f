"""MuonClip: Muon on the weight matrices, AdamW on the rest, QK-Clip after the step (arXiv 2507.20534, section 2.1).

Works on any torch model whose attention layers follow `ClippedAttention`; see docs/muonclip.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from engine.errors import UserError
from engine.optim import adamw
from engine.optim.groups import MuonRule, is_muon, refuse_qk_norm, split
from engine.optim.idle import IdleExperts
from engine.optim.layout import ClippedAttention, find_attentions, refuse_rows
from engine.optim.masters import Masters
from engine.optim.muon import RMS_TARGET, Orthogonaliser, muon_
from engine.optim.owned import OwnedGradients
from engine.optim.qk_clip import ClipPer, qk_clip_, read_maxima
from engine.parallel.figures import of_whole_model
from engine.parallel.gradients import Gradients, SummedGradients
from engine.parallel.mesh import mesh
from engine.parallel.ownership import shape_counts, weight_of
from engine.parallel.placement import COUNT, Placement, in_ranges
from kernels.host import to_host
from kernels.newton_schulz import STEPS, Coefficients


class MuonClip:
    """K2's optimizer. `tau` 0 or inf switches QK-Clip off; `adamw_lr_factor` scales the rate of the AdamW group.

    `step` reads the per-head maxima that the attentions recorded since the last step, over all micro-batches, and
    resets them. Both groups share the rate and λ by default, as in Moonlight. If `is_muon` is never true, it is AdamW
    with QK-Clip. `attentions` None means all modules of the model that follow the protocol. `per_head` orthogonalises
    query and key projections head by head. Weights narrower than fp32 get fp32 masters unless `masters` is False.

    `zero` cuts the optimizer's state over the ranks of the mesh that hold equal weights (ZeRO-1): each moves what it
    owns, and `gradients` must have reduced the gradients before `step`. `counts` is how many matrices of each shape the
    whole model has where this rank holds a part of it (engine/parallel/ownership.py).
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        tau: float = 100.0,
        rms_target: float = RMS_TARGET,
        adamw_lr_factor: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.95),
        ns_steps: int = STEPS,
        ns_dtype: torch.dtype = torch.bfloat16,
        coefficients: Coefficients = "jordan",
        clip_per: ClipPer = "head",
        is_muon: MuonRule = is_muon,
        attentions: Sequence[ClippedAttention] | None = None,
        per_head: bool = False,
        masters: bool = True,
        zero: bool = False,
        counts: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        for name, value, known in (
            ("coefficients", coefficients, get_args(Coefficients)),
            ("clip_per", clip_per, get_args(ClipPer)),
        ):
            if value not in known:
                raise UserError(f"MuonClip: {name} {value!r} is unknown; use {' or '.join(known)}")
        self.model, self.lr, self.weight_decay, self.momentum, self.nesterov = (
            model, lr, weight_decay, momentum, nesterov,
        )  # fmt: skip
        self.tau, self.clip_per, self.adamw_lr_factor = tau, clip_per, adamw_lr_factor
        self.orthogonalise = Orthogonaliser(ns_steps, ns_dtype, coefficients, rms_target)
        self.attentions = find_attentions(model) if attentions is None else list(attentions)
        modules = {id(module): name for name, module in model.named_modules()}
        self.attention_names = [modules.get(id(one), f"layer {n}") for n, one in enumerate(self.attentions)]
        self._check_clipping()
        self.muon, self.rest = split(model, is_muon)
        self._moved = {id(p) for p in (self.muon | self.rest).values()}
        self._check_rows()
        self.heads = head_counts(self.attentions, self.muon) if per_head else {}
        named = self.muon | self.rest
        shared = zero and mesh().rows.size > 1
        self.owned = OwnedGradients(named, self.muon.keys(), self.heads) if shared else None
        self.counts = counts
        own: Mapping[str, Tensor] = named
        if self.owned is not None:
            own, self.heads = self.owned.weights, self.owned.heads
            self.counts = counts or shape_counts(self.owned.ownership.weights.values())
        self.masters = Masters(named, masters, None if self.owned is None else own)
        self.momenta = {
            name: torch.zeros_like(own[name], dtype=torch.promote_types(own[name].dtype, torch.float32))
            for name in self.muon
            if self.owned is None or len(own[name])
        }
        self.adamw = adamw.AdamW([self.masters[name] for name in self.rest], lr, betas, weight_decay)
        self.idle = IdleExperts({name: own[name] for name in self.muon})
        self.max_logits: list[list[float]] = []
        """S_max of the last step, by layer and head."""
        self.steps = self.first_clipped = self.last_clipped = 0
        """The number of steps, and the first and last of them (from 1) in which a head was clipped; 0 for none."""

    @property
    def gradients(self) -> Gradients:
        """What reduces the gradients over the ranks before a step, in the form that this optimizer needs."""
        return SummedGradients(self.model) if self.owned is None else self.owned

    def placement(self, name: str, of_weight: Placement) -> Placement:
        """Return how a tensor of the state lies on the ranks, given how the weight that it belongs to does."""
        kind, _, rest = name.partition("/")
        weight = rest.rpartition("/")[0] if kind == "adamw" else rest
        if self.owned is None or name.endswith(COUNT) or weight not in self.owned.rows:
            return of_weight
        return in_ranges(of_weight, self.owned.ownership.ranges(weight))

    def _own_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of what this rank moves, by weight."""
        if self.owned is not None:
            return self.owned.own
        return {name: p.grad for name, p in (self.muon | self.rest).items() if p.grad is not None}

    @property
    def clips(self) -> bool:
        """Whether QK-Clip is on."""
        return 0 < self.tau < math.inf

    def _check_clipping(self) -> None:
        if not self.clips:
            return
        if not self.attentions:
            raise UserError(
                "MuonClip: no part of the model records attention logits (engine.optim.layout.ClippedAttention); put a "
                "HeadLogits beside the projections, or give tau=0"
            )
        refuse_qk_norm(self.model)

    def _check_rows(self) -> None:
        """Refuse to clip a weight that the optimizer does not update, or that is no longer in the model."""
        if self.clips:
            refuse_rows(self.attentions, self._moved & {id(p) for p in self.model.parameters()})

    def set_lr(self, lr: float) -> None:
        """Set the rate of the following steps, for both groups."""
        self.lr = lr
        self.adamw.lr = lr * self.adamw_lr_factor
        # λ multiplies the common rate, not the AdamW group's own (k2-facts 2.2).
        self.adamw.weight_decay = self.weight_decay / self.adamw_lr_factor if self.adamw_lr_factor else 0.0

    def step(self) -> dict[str, float]:
        """Update all weights, then clip. Returns figures for the history:

        `max_logit` (largest over heads, -inf without attentions), `clipped_heads` of this step, `first_clipped_step`
        and `last_clipped_step` (from 1; 0 for none yet), and `idle_experts` (no token for `IDLE_STEPS` or longer).
        Raises UserError, with nothing changed, if a maximum is NaN or +inf, or if a weight to clip was replaced.
        """
        self._check_rows()
        self.max_logits = read_maxima(self.attentions, self.attention_names)
        self.steps += 1
        gradients = self._own_gradients()
        idle = self.idle.count(gradients)
        if self.owned is not None:
            idle = self.owned.over_dp(idle)
        self._move(gradients)
        largest = max((max(heads) for heads in self.max_logits), default=-math.inf)
        largest, clipped, idle = of_whole_model(largest, self._clip(), idle)
        if clipped:
            self.first_clipped, self.last_clipped = self.first_clipped or self.steps, self.steps
        self.masters.publish_()
        if self.owned is not None:
            self.owned.gather_()
        for attention in self.attentions:
            attention.reset_max_logit()
        return {
            "max_logit": largest,
            "clipped_heads": float(clipped),
            "first_clipped_step": float(self.first_clipped),
            "last_clipped_step": float(self.last_clipped),
            "idle_experts": float(idle),
        }

    def _move(self, gradients: Mapping[str, Tensor]) -> None:
        self.set_lr(self.lr)
        muon_(
            {name: self.masters[name] for name in self.momenta},
            self.momenta,
            {name: gradient for name, gradient in gradients.items() if name in self.momenta},
            self.orthogonalise,
            lr=self.lr,
            decay=self.weight_decay,
            mu=self.momentum,
            nesterov=self.nesterov,
            heads=self.heads,
            counts=self.counts,
        )
        self.masters.take_gradients(self.rest.keys(), gradients)
        self.adamw.step()

    def _clip(self) -> int:
        """Clip the layers that need it; return the number of heads clipped on this rank."""
        if not self.clips:
            return 0
        rows_of = None if self.owned is None else self.owned.rows_of
        counts = [
            qk_clip_(attention, self.tau, self.clip_per, self.masters.of, rows_of)
            for attention, heads in zip(self.attentions, self.max_logits)
            if max(heads) > self.tau
        ]
        return sum(map(int, to_host(*counts)))

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.model.zero_grad(set_to_none=True)
        if self.owned is not None:
            self.owned.own = {}

    def forget(self) -> None:
        """Set momenta and moments to their initial state."""
        for momentum in self.momenta.values():
            momentum.zero_()
        self.adamw.state.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs besides the weights, by weight name.

        `muon/NAME` momenta; `adamw/NAME/…` for weights that have taken a step; `master/NAME` where the weight is
        narrower than fp32; `idle/NAME` steps without a token by expert; `clipped`: steps made, first and last clipped.
        Under ZeRO they are of what this rank owns, but `clipped` and the number of each AdamW weight's steps.
        """
        out = {f"{kind}/{name}": tensor for kind, _, tensors in self._kept() for name, tensor in tensors.items()}
        for name in self.rest:
            for key, value in self.adamw.state.get(self.masters[name], {}).items():
                if _is_kept(value):
                    out[f"adamw/{name}/{key}"] = value
        return out | {"clipped": torch.tensor([self.steps, self.first_clipped, self.last_clipped])}

    @property
    def state_bytes(self) -> int:
        """The bytes of what this rank keeps in floats once every weight has taken a step, but for single numbers."""
        moved = [self.masters[name] for name in self.rest]
        kept = [*self.momenta.values(), *self.masters.copies.values(), *moved, *moved]  # two moments of each
        return sum(tensor.nbytes for tensor in kept if tensor.numel() > 1)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a `state_dict`; an AdamW weight without state in it has none afterwards, as at the start.

        Raises UserError, with nothing changed, naming the first entry that is missing, foreign, or of another shape or
        type.
        """
        moments = self._check_state(state)
        for kind, _, tensors in self._kept():
            for name, tensor in tensors.items():
                tensor.copy_(state[f"{kind}/{name}"])
        self.adamw.state = {
            tensor: {
                key: state.get(f"{prefix}/{key}", tensor).to(tensor.device, copy=True)  # empty where nothing is owned
                for key in adamw.STATE
            }
            for prefix, tensor in moments.items()
        }
        self.steps, self.first_clipped, self.last_clipped = to_host(state["clipped"])[0].tolist()

    def _kept(self) -> tuple[tuple[str, str, dict[str, Tensor]], ...]:
        """Return the kinds of state that every weight has: prefix, wording for messages, and the tensors."""
        kinds = (
            ("muon", "momentum", self.momenta),
            ("master", "fp32 master", self.masters.copies),
            ("idle", "count of idle steps", self.idle.idle_E),
        )
        return tuple(
            (kind, wording, {name: tensor for name, tensor in tensors.items() if _is_kept(tensor)})
            for kind, wording, tensors in kinds
        )

    def _check_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Refuse a state that does not fit this optimizer; return the weights with moments in it, by prefix."""
        expected = {
            f"{kind}/{name}": (f"{wording} of {name}", tensor)
            for kind, wording, tensors in self._kept()
            for name, tensor in tensors.items()
        }
        moments = {f"adamw/{name}": self.masters[name] for name in self.rest}
        moments = {p: tensor for p, tensor in moments.items() if any(f"{p}/{key}" in state for key in adamw.STATE)}
        for prefix, tensor in moments.items():
            shapes = dict(zip(adamw.STATE, (tensor, tensor, torch.zeros((), dtype=torch.float32)), strict=True))
            expected |= {
                f"{prefix}/{key}": (f"{key} of {prefix[6:]}", shape) for key, shape in shapes.items() if _is_kept(shape)
            }
        expected["clipped"] = ("the count of clipped steps", torch.zeros(3, dtype=torch.int64))
        for name, (wording, like) in expected.items():
            if name not in state:
                raise UserError(f"optimizer state: {wording} is missing; start the stage afresh")
            if (state[name].shape, state[name].dtype) != (like.shape, like.dtype):
                raise UserError(
                    f"optimizer state: {wording} is {state[name].dtype} of shape {tuple(state[name].shape)}, but the "
                    f"model asks for {like.dtype} of shape {tuple(like.shape)}; start the stage afresh"
                )
        if foreign := sorted(set(state) - set(expected)):
            raise UserError(f"optimizer state: {foreign[0]} belongs to no weight of this model; start the stage afresh")
        return moments


def head_counts(attentions: Sequence[ClippedAttention], muon: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Return the number of heads of each of Muon's weights that a layout divides completely into heads."""
    heads = {
        id(rows.weight): attention.max_logit_H.numel()
        for attention in attentions
        for rows in attention.clip_rows()
        if rows.per_head * attention.max_logit_H.numel() == rows.weight.shape[0]
    }
    return {name: heads[id(p)] for name, p in muon.items() if id(p) in heads}


def matrix_counts(model: nn.Module, rule: MuonRule, per_head: bool) -> dict[tuple[int, int], int]:
    """Return how many matrices of each shape Muon orthogonalises in a model, which may be on the meta device."""
    muon, _ = split(model, rule)
    heads = head_counts(find_attentions(model), muon) if per_head else {}
    return shape_counts(weight_of(name, tuple(p.shape), True, heads.get(name)) for name, p in muon.items())


def _is_kept(tensor: Tensor) -> bool:
    """Return whether a tensor of the state has a number: under ZeRO a rank may own nothing of a weight."""
    return tensor.numel() > 0
