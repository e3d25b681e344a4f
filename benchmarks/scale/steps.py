"""Steps of a profile's pre-training on random tokens, under the layout and on the device of this process."""

from dataclasses import dataclass

import torch

from engine.device import device
from engine.model.config import K2Config
from engine.model.model import K2Model
from engine.parallel.mesh import mesh
from engine.training.batches import own, pieces
from engine.training.language import language_modelling, make_optimizer
from engine.training.numerics import settle
from engine.training.state import TrainState
from engine.training.step import backward, move
from nodes.pretrain.schema import Parameters
from nodes.pretrain.train import configuration
from pipelines import graph

VOCABULARY = 4096
"""The laptop profile's."""


@dataclass(frozen=True)
class Task:
    """What all layouts train: a model, and batches that are cut into `parts` micro-batches."""

    settings: Parameters
    config: K2Config
    parts: int


def task(profile: str, vocabulary: int = VOCABULARY, layers: int | None = None, parts: int | None = None) -> Task:
    """Return a profile's pre-training, with another number of layers or of micro-batches if they are given."""
    values = graph.parameters(profile)["pretrain"]
    if layers is not None:
        values = values | {"model": values["model"] | {"num_hidden_layers": layers}}
    settings = Parameters.model_validate(values)
    return Task(settings, configuration(settings, vocabulary), parts or settings.micro_batches)


class Steps:
    """A training state, and the steps that it makes, as the training loop does; always on the same batch."""

    def __init__(self, given: Task) -> None:
        self.settings, rows = given.settings, mesh().rows
        settle(self.settings.threads or 1)
        self.parts = pieces(given.parts, rows.size)
        with device():
            self.model = K2Model(given.config, self.settings.seed, part=mesh().part(given.config)).train()
        self.state = TrainState(
            self.model, make_optimizer(self.model, self.settings.schedule.peak, self.settings.optimizer)
        )
        shape = self.settings.batch_size, self.settings.sequence_length + 1
        ids = torch.randint(0, given.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
        mine = own(len(ids), rows)
        self.batch = {"ids": ids[mine.start : mine.stop]}

    def make(self) -> None:
        """Make a step."""
        p = self.settings
        backward(self.state, self.batch, language_modelling, p.dtype, self.parts, p.optimizer.grad_clip)
        move(self.state, take=True, with_heads=False, bias_rate=p.router_bias_rate)
