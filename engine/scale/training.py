"""What the planner plans: a model and its batches on so many GPUs, and what follows for ranks and schedule."""

from dataclasses import dataclass
from functools import cached_property

from engine.model.config import K2Config
from engine.parallel.layout import Grid, Layout, stages
from engine.parallel.pipeline_table import Table, table
from engine.scale.activations import Rows, chunk_bytes, most_kept
from engine.scale.holdings import ownership
from engine.scale.machines import Gpu
from engine.scale.states import Precision, States, states
from engine.scale.traffic import Batch, Message, traffic

ROUNDS = 6
"""After so many rounds of pp micro-batches every further round takes the same time."""


@dataclass(frozen=True)
class Training:
    """What is trained, and on what: the model, its batches, the layout of the ranks, and the GPU.

    `micro_batches` is the number that each replica runs in a step, `rows` the sequences of one of them. `fused`:
    attention keeps what it does on a GPU, and not what it does on a CPU.
    """

    config: K2Config
    layout: Layout
    grid: Grid
    kinds: Precision
    gpu: Gpu
    sequence_length: int
    rows: int
    micro_batches: int
    fused: bool = True

    @property
    def micro(self) -> Rows:
        """The rows of a micro-batch."""
        return Rows(self.rows, self.sequence_length, self.grid.ep, self.fused)

    @property
    def chunk_tokens(self) -> int:
        """The tokens of a micro-batch."""
        return self.rows * self.sequence_length

    @property
    def replica_tokens(self) -> int:
        """The tokens of a replica in a step."""
        return self.chunk_tokens * self.micro_batches

    @property
    def step_tokens(self) -> int:
        """The tokens of all replicas in a step."""
        return self.replica_tokens * self.grid.dp * self.grid.ep

    @cached_property
    def stages(self) -> list[range]:
        """The layers of each stage."""
        return stages(self.config.num_hidden_layers, self.layout)

    @property
    def played(self) -> int:
        """The micro-batches of a step that are played out; the rest goes on as the last round of them does."""
        pp = self.grid.pp
        return ROUNDS * pp if self.micro_batches > ROUNDS * pp and self.micro_batches % pp == 0 else self.micro_batches

    def table(self, micro_batches: int) -> Table:
        """Return each pipeline rank's actions for so many micro-batches."""
        return table(self.layout.schedule, self.grid.pp, self.layout.vpp, micro_batches)

    @cached_property
    def states(self) -> list[States]:
        """What each rank keeps from step to step."""
        return states(self.config, self.layout, self.grid, self.kinds, zero=bool(self.layout.zero))

    @cached_property
    def messages(self) -> list[list[Message]]:
        """What each rank sends in a step."""
        t, out = self, []
        for stage in range(t.grid.pp):
            plan = None
            if t.layout.zero:
                plan = ownership(t.config, t.layout, t.grid, stage, masters=t.kinds.masters, zero=True)
            batch = Batch(t.micro_batches, t.chunk_tokens)
            out += traffic(t.config, t.layout, t.grid, stage, batch, t.kinds, plan)
        return out

    def activations(self, saving: Layout) -> list[float]:
        """Return the bytes that each pipeline rank keeps for backwards when it keeps the most, all on the GPU.

        `saving` has the switches that save some of it.
        """
        sizes = {
            index: chunk_bytes(self.config, layers, self.micro, self.kinds, saving)
            for index, layers in enumerate(self.stages)
        }
        return [most_kept(actions, sizes) for actions in self.table(self.played)]

    def chunk(self, stage: int) -> float:
        """Return the bytes that a micro-batch leaves behind in a stage, with the layout's switches."""
        return chunk_bytes(self.config, self.stages[stage], self.micro, self.kinds, self.layout)
