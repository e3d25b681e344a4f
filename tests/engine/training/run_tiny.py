"""A tiny training run as a script, for the kill test: python -m tests.engine.training.run_tiny WORK."""

import hashlib
import itertools
import sys
import time
from pathlib import Path

import torch

from engine.model.model import K2Model
from engine.optim.muonclip import MuonClip
from engine.optim.schedule import Phase, Schedule
from engine.parallel.mesh import mesh
from engine.training.batches import own
from engine.training.loop import LoopSettings, train_loop
from engine.training.readings import Reading
from engine.training.state import TrainState
from tests.engine.tiny import config

STEPS = 24


def falling(lr):
    """A rate that halves over more steps than any test takes."""
    return Schedule(start=lr, phases=(Phase(shape="linear", length=100, end=lr / 2),))


class Made:
    """A source of batches that a function makes whole, equal on every rank, which takes its own rows."""

    def __init__(self, batch_at, rows):
        self.batch_at, self.rows_per_step = batch_at, rows

    def rows(self, step, ranks):
        whole = self.batch_at(step)
        return {name: tensor[list(own(len(tensor), ranks))] for name, tensor in whole.items()}


def batch_at(step):
    return {"ids": torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(step))}


class Objective:
    """The mean next-token loss by a factor, with two figures; as a reading, too."""

    def __init__(self, top=None):
        self.top, self.batches = top, itertools.count()

    def __call__(self, model, batch):
        return self.loss(model(batch["ids"][:, :-1]), batch)

    def readings(self, batch):
        return [Reading(batch["ids"][:, :-1], None, lambda head, hidden: self.loss(head(hidden), batch))]

    def loss(self, logits, batch):
        ids = batch["ids"]
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss = loss * batch["factor"][0]
        top = float(ids.max()) if self.top is None else self.top(next(self.batches))
        return loss, {"twice": 2 * loss, "top_max": top}


def run(
    work,
    after_step=None,
    steps=STEPS,
    lr=0.01,
    threads=1,
    micro_batches=1,
    dtype="float32",
    spoil=None,
    watch=None,
    top=None,
    **guard,
):
    """Train the tiny model; `spoil` multiplies the loss of some steps (from 0), `guard` goes to the settings.

    `top(micro-batch, from 0)` takes the place of the figure top_max.
    """
    spoil = spoil or {}
    model = K2Model(config(), part=mesh().part(config()))
    optimizer = MuonClip(model, lr, tau=0.5, zero=mesh().layout.zero == 1)

    def spoiled(step):
        return batch_at(step) | {"factor": torch.full((4,), spoil.get(step, 1.0))}

    if watch is not None:
        after_step = lambda step, row: watch(step, model)  # noqa: E731

    settings = LoopSettings(steps, 5, threads, dtype, heads_every=4, micro_batches=micro_batches, **guard)
    history = train_loop(
        TrainState(model, optimizer), Made(spoiled, 4), Objective(top), falling(lr), settings, work, "tiny",
        after_step=after_step, bias_rate_at=lambda step: 0.01,
    )  # fmt: skip
    return model, optimizer, history


def digest(model, optimizer, history):
    """Of weights, router biases, optimizer state and history, all bits."""
    out = hashlib.blake2b(history.read_bytes())
    for state in (model.state_dict(), optimizer.state_dict()):
        for name, tensor in sorted(state.items()):
            out.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return out.hexdigest()


if __name__ == "__main__":
    run(Path(sys.argv[1]), after_step=lambda step, row: time.sleep(0.05))  # slow enough to be killed half way
