"""The layout grid's rows, and what a rank runs for each of them: three real steps of a tiny model.

A row's ranks, over gloo, must compute what one process computes. Whoever adds a switch to the layout adds rows here.

Shapes: N tokens, k experts of a token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.model.model import K2Model
from engine.model.moe import MoE, Router
from engine.optim.muon import Orthogonaliser
from engine.parallel.data import Ranks
from engine.parallel.layout import WHOLE, Layout, Recomputed
from engine.parallel.mesh import laid_out, mesh
from engine.training.batches import own, pieces
from engine.training.language import make_optimizer
from engine.training.memory import saving_memory
from engine.training.padded import GroupLoss, group_of, kinds_of, pack_group, pad
from engine.training.settings import OptimizerSettings
from engine.training.state import TrainState
from engine.training.step import backward, move
from kernels.kept import records
from tests.engine.parallel.mutants import MUTANTS, mutated
from tests.engine.tiny import config


@dataclass(frozen=True)
class Row:
    """A layout on a number of ranks, and what is wrong with the code on purpose ("" for nothing)."""

    ranks: int
    layout: Layout = WHOLE
    mutant: str = ""

    def __str__(self) -> str:
        return f"{self.ranks} ranks, {self.layout}{self.mutant and ', ' + self.mutant}"


EVERYTHING: tuple[Recomputed, ...] = ("norm", "swiglu", "mla_up", "moe_down")
ONE = Row(1)
"""What all others are compared with."""
ROWS = [
    Row(1, Layout(recompute=EVERYTHING)),
    Row(2),
    Row(2, Layout(ep=2)),
    Row(2, Layout(ep=2, recompute=EVERYTHING)),
    Row(4),
    Row(4, Layout(ep=2)),
    Row(4, Layout(ep=4)),
    Row(2, Layout(pp=2)),
    Row(2, Layout(pp=2, vpp=2, schedule="zero_bubble")),
    Row(2, Layout(pp=2, vpp=2, schedule="interleaved_1f1b_warmup", recompute=EVERYTHING)),
    Row(2, Layout(pp=2, vpp=2, offload=("activations", "optimizer"))),
    Row(4, Layout(pp=2)),
    Row(4, Layout(pp=2, vpp=2, ep=2)),
    Row(4, Layout(pp=2, ep=2, schedule="zero_bubble", recompute=EVERYTHING)),
    Row(4, Layout(pp=2, vpp=2, ep=2, schedule="interleaved_1f1b_warmup")),
    Row(4, Layout(pp=2, vpp=2, ep=2, schedule="zero_bubble", recompute=EVERYTHING, offload=("activations",))),
    Row(2, Layout(zero=1)),
    Row(2, Layout(ep=2, zero=1)),
    Row(2, Layout(ep=2, zero=1, recompute=("mla_up",), offload=("optimizer",))),
    Row(4, Layout(ep=2, zero=1)),
    Row(4, Layout(pp=2, ep=2, zero=1)),
]
WRONG = [
    Row(2, WHOLE, "maxima are summed"),
    Row(2, WHOLE, "losses are averaged without weights"),
    Row(2, Layout(ep=2), "dense gradients are not summed along ep"),
    Row(2, Layout(ep=2), "experts' gradients are summed along ep"),
    Row(2, Layout(ep=2), "the norm leaves out other ranks' experts"),
    Row(2, Layout(ep=2), "loads are not summed along ep"),
    Row(2, Layout(pp=2), "the norm leaves out other ranks' experts"),
    Row(2, Layout(pp=2, schedule="zero_bubble"), "gradients set aside are lost"),
    Row(2, Layout(pp=2), "a pipeline's padding counts"),
    Row(2, Layout(zero=1), "an owner keeps its weights to itself"),
    Row(4, Layout(ep=2, zero=1), "an owner keeps its weights to itself"),
]
assert {row.mutant for row in WRONG} == set(MUTANTS)

SIZES = config(num_hidden_layers=4, num_attention_heads=4, n_routed_experts=8)
SEED, STEPS, MICRO_BATCHES, RATE, BIAS_RATE, GRAD_CLIP = 1, 3, 4, 0.02, 0.01, 0.5
OPTIMIZER = OptimizerSettings(
    weight_decay=0.1, momentum=0.95, tau=3.0, adamw_lr_factor=0.5, newton_schulz_dtype="float32", per_head=True
)
"""With a τ that some heads exceed and some do not."""
KINDS = {"many": 11, "few": 2}
"""The rows of each kind in a batch: of the second, most of the ranks and of the micro-batches have none."""


@dataclass
class Record:
    """What a rank has seen and done: the weights after the last step, the steps' figures, the tokens of its replica,
    and by layer the experts of each token.
    """

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    first_expert: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chosen: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)


def run(rank: int, rows: list[tuple[Row, torch.dtype]]) -> list[Record]:
    """Return a rank's record of each row, all in this process."""
    return [train(row, dtype) for row, dtype in rows]


def train(row: Row, dtype: torch.dtype) -> Record:
    """Make the steps of a row as the training loop does."""
    with laid_out(row.layout), mutated(row.mutant):
        model = K2Model(SIZES, SEED, part=mesh().part(SIZES)).to(dtype)
        model.train()
        optimizer = make_optimizer(model, RATE, OPTIMIZER)
        optimizer.orthogonalise = Orthogonaliser(dtype=dtype)
        state, record = TrainState(model, optimizer), Record()
        states = saving_memory(state, row.layout)
        states.send()
        record.first_expert = model.part.experts.start if model.part else 0
        objective, place = GroupLoss(len), mesh().rows
        with choices_seen(model, record):
            for step in range(STEPS):
                batch = batch_of(step, place)
                record.tokens += [token for kind in kinds_of(batch) for token in read(batch, kind)]
                parts = pieces(MICRO_BATCHES, place.size)
                figures = backward(state, batch, objective, "float32", parts, GRAD_CLIP)
                with states.here():
                    record.history.append(figures | move(state, True, True, BIAS_RATE))
        record.weights = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
        return record


def batch_of(step: int, place: Ranks) -> dict[str, Tensor]:
    """Return a replica's rows of a step: texts of very different lengths, of which some tokens are to be predicted."""
    random, batch = np.random.default_rng(step), {}
    for kind, count in KINDS.items():
        lengths = random.integers(2, 14, count)
        rows = [(random.integers(1, 61, n).tolist(), [0, *random.integers(0, 2, n - 2), 1]) for n in lengths]
        total = sum(sum(mask) for _, mask in rows)
        batch |= pack_group(kind, pad([rows[i] for i in own(count, place)]), total)
    return batch


def read(batch: dict[str, Tensor], kind: str) -> list[int]:
    """Return the tokens that a model reads of a kind."""
    group = group_of(batch, kind)
    return group.ids_BT[:, :-1][group.valid_BT[:, 1:]].tolist()


@contextmanager
def choices_seen(model: K2Model, record: Record) -> Iterator[None]:
    """Record the experts of every token that counts, of each layer that this rank holds."""
    hooks = []
    for layer, block in ((block.layer, block.mlp) for block in model.blocks if isinstance(block.mlp, MoE)):
        tokens, of_forward = record.chosen.setdefault(layer, []), {}

        def routed(_: Router, given: Any, out: Any, of_forward: dict[str, Tensor] = of_forward) -> None:
            of_forward["chosen"] = out[0].sort(-1).values

        def done(
            _: nn.Module, given: Any, out: Any, tokens: Any = tokens, of_forward: dict[str, Tensor] = of_forward
        ) -> None:
            if records():
                tokens += map(tuple, of_forward["chosen"][given[1].flatten()].tolist())

        hooks += [block.gate.register_forward_hook(routed), block.register_forward_hook(done)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
