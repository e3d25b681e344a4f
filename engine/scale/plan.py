"""A training as the planner sees it: the bytes of each rank, what it sends, and how long a step takes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from engine.model.config import K2Config
from engine.model.flops import flops_per_token
from engine.parallel.layout import Grid, Layout, stages
from engine.parallel.pipeline_table import Action, Table, table
from engine.parallel.pipeline_time import Timed, pairs, timeline
from engine.scale.activations import (
    NOTHING_SAVED,
    RECOMPUTE,
    RESIDENT,
    Rows,
    Savings,
    chunk_bytes,
    head_bytes,
    most_kept,
)
from engine.scale.calibration import calibrated
from engine.scale.holdings import ownership, part_at
from engine.scale.machines import Gpu, machines
from engine.scale.states import Precision, States, states
from engine.scale.switches import Switches
from engine.scale.timing import Rates, Work, head_work, layer_work, seconds
from engine.scale.traffic import AFTER, OUTPUTS, Batch, Message, exchange, traffic

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
    switches: Switches
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
        return table(self.switches.schedule, self.grid.pp, self.layout.vpp, micro_batches)

    @cached_property
    def states(self) -> list[States]:
        """What each rank keeps from step to step."""
        return states(self.config, self.layout, self.grid, self.kinds, zero=self.switches.zero)

    @cached_property
    def messages(self) -> list[list[Message]]:
        """What each rank sends in a step."""
        t, out = self, []
        for stage in range(t.grid.pp):
            plan = None
            if t.switches.zero:
                plan = ownership(t.config, t.layout, t.grid, stage, masters=t.kinds.masters, zero=True)
            batch = Batch(t.micro_batches, t.chunk_tokens)
            out += traffic(t.config, t.layout, t.grid, stage, batch, t.kinds, plan)
        return out

    def activations(self, savings: Savings) -> list[float]:
        """Return the bytes that each pipeline rank keeps for backwards when it keeps the most, all on the GPU."""
        sizes = {
            index: chunk_bytes(self.config, layers, self.micro, self.kinds, savings)
            for index, layers in enumerate(self.stages)
        }
        return [most_kept(actions, sizes) for actions in self.table(self.played)]


WORKING = 2
"""A layer at work has its tensors and their gradients, whatever it keeps afterwards."""


@dataclass(frozen=True)
class Memory:
    """The bytes of one rank, on its GPU and, where something is moved there, on its host.

    `head`: what a micro-batch keeps around the head; `working`: the layer that is being computed.
    """

    rank: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    working: float
    host: float
    replicated: float

    @property
    def total(self) -> float:
        """All bytes on the GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.head + self.working


def memory(training: Training) -> list[Memory]:
    """Return the bytes of every rank with the layout's switches."""
    t, out = training, []
    kept = t.activations(t.switches.savings)
    resident = [
        RESIDENT * max(_chunk(t, stage) for stage in range(rank, len(t.stages), t.grid.pp)) for rank in range(t.grid.pp)
    ]
    away = t.switches.offload
    for rank, state in enumerate(t.states):
        stage = t.grid.coordinates(rank)["pp"]
        part = part_at(t.config, t.layout, t.grid, stage).layers
        on_gpu = min(kept[stage], resident[stage]) if "activations" in away else kept[stage]
        moved = "optimizer" in away
        out.append(
            Memory(
                rank,
                state.weights,
                state.gradients,
                0.0 if moved else state.optimizer,
                on_gpu,
                head_bytes(t.config, t.chunk_tokens, t.kinds) if stage == t.grid.pp - 1 else 0.0,
                WORKING * max(chunk_bytes(t.config, [layer], t.micro, t.kinds, NOTHING_SAVED) for layer in part),
                (state.optimizer if moved else 0.0) + kept[stage] - on_gpu,
                state.replicated,
            )
        )
    return out


def _chunk(training: Training, stage: int) -> float:
    t = training
    return chunk_bytes(t.config, t.stages[stage], t.micro, t.kinds, t.switches.savings)


@dataclass(frozen=True)
class Step:
    """The seconds of one step: the pipeline and each of its ranks' work, the exchange after it, and the optimizer.

    `times` shows the pipeline for as many micro-batches as were played out.
    """

    times: list[list[Timed]]
    pipeline: float
    work: list[float]
    exchange: float
    newton_schulz: float
    host: float

    @property
    def bubble(self) -> float:
        """The time in which the busiest rank waits, as a share of its work."""
        return self.pipeline / max(self.work) - 1

    @property
    def imbalance(self) -> float:
        """The work of the busiest rank over the mean: what uneven stages and the head cost."""
        return max(self.work) * len(self.work) / sum(self.work)

    @property
    def seconds(self) -> float:
        """All of the step."""
        return self.pipeline + self.exchange + self.newton_schulz + self.host


def rates(gpu: Gpu) -> tuple[Rates, Rates]:
    """Return the rates of the fast end and of the slow end of all intervals."""
    low, high = calibrated().shares
    least, most = machines().ranges.hidden
    return Rates(high * gpu.bf16, high * gpu.bf16, most), Rates(low * gpu.bf16, low * gpu.bf16, least)


def step(training: Training, at: Rates) -> Step:
    """Return the seconds of a step at these rates. The slowest rank decides what all wait for."""
    t = training
    times = _times(t, at, t.played)
    span, work = _span(times), _work(times)
    if rounds := (t.micro_batches - t.played) // t.grid.pp:
        before = _times(t, at, t.played - t.grid.pp)
        span += rounds * (span - _span(before))
        work = [own + rounds * (own - less) for own, less in zip(work, _work(before), strict=True)]
    after = [sum(seconds_of(t, message) for message in own if message.has_kind(*AFTER)) for own in t.messages]
    moved = max(state.optimizer for state in t.states) if "optimizer" in t.switches.offload else 0.0
    newton_schulz = max(state.newton_schulz for state in t.states) / at.linear
    return Step(times, span, work, max(after), newton_schulz, 2 * moved / t.gpu.host_link)


def _times(training: Training, at: Rates, micro_batches: int) -> list[list[Timed]]:
    """Return when each rank does what, for so many micro-batches.

    The all-to-alls of a forward and a backward that can run at once hide behind each other's products.
    """
    t, actions = training, training.table(micro_batches)
    together: frozenset[Action] = frozenset()
    if at.hidden:
        together = pairs(t.switches.schedule, t.grid.pp, t.layout.vpp, micro_batches)
    hiding = together | {after for of in actions for action, after in pairwise(of) if action in together}
    durations = {
        (kind, stage, beside): _duration(t, kind, stage, at, at.hidden if beside else 0.0)
        for stage in range(len(t.stages))
        for kind in "FBIW"
        for beside in (False, True)
    }
    hidden_states = t.chunk_tokens * t.config.hidden_size * t.kinds.types.stream
    hop = seconds_of(t, Message(OUTPUTS, hidden_states, 2, t.grid.dp * t.grid.ep))
    return timeline(actions, lambda action: durations[action.kind, action.stage, action in hiding], hop, together)


def _span(times: list[list[Timed]]) -> float:
    """Return the end of the last action."""
    return max(of[-1].end for of in times)


def _work(times: list[list[Timed]]) -> list[float]:
    """Return how long each rank works; what runs at once has one start and end."""
    return [sum(end - start for start, end in {(timed.start, timed.end) for timed in of}) for of in times]


def _duration(training: Training, kind: str, stage: int, at: Rates, hidden: float) -> float:
    """Return the seconds of one action: its products and the part of its all-to-alls that is not hidden; or its copies
    to or from the host, where they take longer.
    """
    t, layers = training, training.stages[stage]
    recompute = t.switches.savings.recompute
    work = sum((layer_work(t.config, layer, t.sequence_length, recompute) for layer in layers), Work())
    if stage == len(t.stages) - 1:
        work += head_work(t.config)
    own = (work * t.chunk_tokens).seconds(kind, at)
    if kind != "W":
        sparse = sum(layer >= t.config.first_k_dense_replace for layer in layers)
        both_ways = exchange(t.config, sparse, t.grid.ep, Batch(1, t.chunk_tokens), t.kinds)
        own += (1 - hidden) * sum(seconds_of(t, message) for message in both_ways) / 2  # forward, or backward
    copied = _chunk(t, stage) / t.gpu.host_link if "activations" in t.switches.offload and kind != "W" else 0.0
    return max(own, copied)


def seconds_of(training: Training, message: Message) -> float:
    """Return the seconds that a step's messages of a kind take on the training's GPUs."""
    return seconds(message, training.gpu, machines().node.gpus)


@dataclass(frozen=True)
class Run:
    """A whole training at one end of the interval."""

    step: float
    tokens_per_second: float
    days: float
    dollars: float
    mfu: float


def run(training: Training, step_seconds: float, tokens: float) -> Run:
    """Return what `tokens` of training take when a step takes so many seconds."""
    t = training
    speed = t.step_tokens / step_seconds
    flops = flops_per_token(t.config, t.sequence_length).training
    total = tokens / speed
    dollars = total / 3600 * t.grid.ranks * machines().dollars_per_gpu_hour
    return Run(step_seconds, speed, total / 86400, dollars, flops * speed / t.grid.ranks / t.gpu.bf16)


def savings_in_turn(training: Training) -> Iterable[tuple[str, float]]:
    """Yield each switch of activations with the bytes that the fullest pipeline rank keeps with it and those before."""
    savings = Savings()
    yield "none", max(training.activations(savings))
    for name in RECOMPUTE:
        savings = replace(savings, recompute=savings.recompute | {name})
        yield f"recompute {name}", max(training.activations(savings))
    savings = replace(savings, fp8_storage=True)
    yield "fp8_storage", max(training.activations(savings))
    t = replace(training, switches=replace(training.switches, savings=savings, offload=frozenset({"activations"})))
    yield "offload activations", max(one.activations for one in memory(t))
