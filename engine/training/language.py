"""Language modelling for all training stages: the next-token loss, and its measurement on held-out windows.

Shapes: B rows, N windows, T targets of a window.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.device import placed
from engine.model.layers import Linear
from engine.model.model import K2Model
from engine.optim.groups import MuonRule, is_muon
from engine.optim.muonclip import MuonClip, matrix_counts
from engine.parallel.mesh import mesh
from engine.text.shards import EvalWindows
from engine.training.batches import Batch
from engine.training.readings import Figures, Reading, read
from engine.training.settings import OptimizerSettings
from kernels.cross_entropy import linear_cross_entropy
from kernels.host import to_host


@dataclass(frozen=True)
class Loss:
    """The mean loss of some text: nats per token and bits per byte."""

    nats_per_token: float
    bits_per_byte: float


def loss_of(nats: float, tokens: int, n_bytes: int) -> Loss:
    """Return the means from a sum of nats over `tokens` targets that stand for `n_bytes` bytes of text."""
    return Loss(nats / tokens, nats / (math.log(2) * n_bytes))


def next_token_loss(model: K2Model, ids: Tensor) -> Tensor:
    """Return the mean loss in nats of predicting ids[:, 1:] from the tokens before; ids (B, T+1)."""
    hidden = model.hidden(ids[:, :-1])
    return linear_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, ids[:, 1:].flatten())


class LanguageModelling:
    """The objective of pre-training: the mean next-token loss of `ids` (B, T+1), without figures."""

    def __call__(self, model: K2Model, batch: Batch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Return the loss of a batch."""
        return next_token_loss(model, batch["ids"]), {}

    def readings(self, batch: Batch) -> list[Reading]:
        """Return the one reading of a batch."""
        inputs, targets = batch["ids"][:, :-1], batch["ids"][:, 1:]

        def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
            return linear_cross_entropy(hidden_BTD.flatten(0, 1), head.weight, targets.flatten()), {}

        return [Reading(inputs, None, loss)]


language_modelling = LanguageModelling()


def token_nats(model: K2Model, windows: np.ndarray, batch_tokens: int = 8192, dtype: str = "float32") -> Tensor:
    """Return the loss of each target of `windows` (N, T+1) in nats, (N, T), on the model's device; its mode stays."""
    training = model.training
    model.eval()
    rows = max(1, batch_tokens // windows.shape[1])
    parts = [placed(windows[start : start + rows], model.device) for start in range(0, len(windows), rows)]
    nats = read(model, list(map(_nats, parts)), dtype)
    model.train(training)
    return torch.cat(nats)


def _nats(ids: Tensor) -> Reading:
    """Return the reading of windows (B, T+1) that gives the loss of each target, (B, T)."""

    def loss(head: Linear, hidden_BTD: Tensor) -> tuple[Tensor, Figures]:
        logprobs = head(hidden_BTD).float().log_softmax(-1)
        return -logprobs.gather(-1, ids[:, 1:, None])[..., 0], {}

    return Reading(ids[:, :-1], None, loss)


def losses_by_domain(model: K2Model, windows: EvalWindows, dtype: str = "float32") -> dict[str, Loss]:
    """Return the loss on each domain of the windows and, under "", on all of them."""
    (nats_N,) = to_host(token_nats(model, windows.tokens, dtype=dtype).double().sum(1))
    targets = windows.tokens.shape[1] - 1
    names = np.array(windows.domains)
    out = {"": loss_of(float(nats_N.sum()), nats_N.size * targets, int(windows.n_bytes.sum()))}
    for name in sorted(set(windows.domains)):
        of = names == name
        out[name] = loss_of(float(nats_N[of].sum()), int(of.sum()) * targets, int(windows.n_bytes[of].sum()))
    return out


def make_optimizer(model: K2Model, lr: float, settings: OptimizerSettings) -> MuonClip:
    """Return MuonClip as the settings describe it; of `kind` adamw it leaves Muon nothing to move.

    The mesh's layout says whether its state is cut over the ranks (`zero`). Raises UserError if the settings ask for
    DeepSpeed where it is missing or cannot train this model.
    """
    if settings.backend == "deepspeed":
        from engine.optim.deepspeed_adamw import DeepSpeedAdamW

        return DeepSpeedAdamW(
            model,
            lr,
            stage=settings.zero_stage,
            offload=settings.cpu_offload,
            weight_decay=settings.weight_decay,
            tau=settings.tau,
            clip_per=settings.clip_per,
            adamw_lr_factor=settings.adamw_lr_factor,
        )
    rule: MuonRule = is_muon if settings.kind == "muon" else lambda *_: False
    return MuonClip(
        model,
        lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        tau=settings.tau,
        rms_target=settings.rms_target,
        adamw_lr_factor=settings.adamw_lr_factor,
        clip_per=settings.clip_per,
        is_muon=rule,
        ns_dtype=torch.float32 if settings.newton_schulz_dtype == "float32" else torch.bfloat16,
        coefficients=settings.coefficients,
        per_head=settings.per_head,
        zero=mesh().layout.zero == 1,
        counts=_whole_counts(model, rule, settings.per_head),
    )


def _whole_counts(model: K2Model, rule: MuonRule, per_head: bool) -> dict[tuple[int, int], int] | None:
    """Return how many matrices of each shape the whole model has; None if the model is whole."""
    if model.part is None:
        return None
    with torch.device("meta"):
        return matrix_counts(K2Model(model.config, seed=None), rule, per_head)
