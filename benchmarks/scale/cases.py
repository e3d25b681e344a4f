"""The layouts that are measured, and what the planner says of each."""

import json
from dataclasses import asdict, dataclass

from engine.model.config import K2Config
from engine.parallel.layout import WHOLE, Grid, Layout
from engine.scale.machines import machines
from engine.scale.states import FLOAT32
from engine.scale.step import step
from engine.scale.timing import Rates
from engine.scale.training import Training

LAYERS, PARTS = 4, 4
"""Layers of the model, two for each stage of a pipeline at least; and micro-batches of a step, over all replicas."""


@dataclass(frozen=True)
class Case:
    """A layout of so many ranks; `timed` where its steps are timed too."""

    name: str
    ranks: int
    layout: Layout
    timed: bool = True

    @property
    def words(self) -> str:
        """The layout as the JSON that a worker reads."""
        return json.dumps(asdict(self.layout))


ONE = Case("one process", 1, WHOLE)
CASES = [
    Case("dp 2", 2, WHOLE),
    Case("dp 2, ZeRO-1", 2, Layout(zero=1)),
    Case("pp 2", 2, Layout(pp=2)),
    Case("pp 2, vpp 2", 2, Layout(pp=2, vpp=2)),
    Case("ep 2", 2, Layout(ep=2)),
    Case("pp 2, ep 2, ZeRO-1", 4, Layout(pp=2, ep=2, zero=1), timed=False),
]


def planned(case: Case, config: K2Config, batch_size: int, length: int) -> Training:
    """Return the planner's training of a case: in fp32, attention as a CPU computes it, links without end."""
    grid = Grid.of(case.layout, case.ranks)
    endless = machines().gpus["h800"].model_copy(update={"cluster_link": 1e30, "node_link": 1e30})
    micro, rows = PARTS // (grid.dp * grid.ep), batch_size // PARTS
    return Training(config, case.layout, grid, FLOAT32, endless, length, rows, micro, fused=False)


def seconds_of_products(training: Training) -> float:
    """Return the seconds of a step in which only products take time, all at one rate: what to expect of a ratio."""
    return step(training, Rates(1e12, 1e12, 0.0)).seconds
