"""How long a step takes, and a whole training: played out on the pipeline's own schedule."""

from dataclasses import dataclass
from itertools import pairwise

from engine.model.flops import flops_per_token
from engine.parallel.pipeline_table import Action
from engine.parallel.pipeline_time import Timed, pairs, timeline
from engine.parallel.traffic import OUTPUTS
from engine.scale.calibration import calibrated
from engine.scale.machines import Gpu, machines
from engine.scale.timing import Rates, Work, head_work, layer_work, seconds
from engine.scale.traffic import AFTER, Batch, Message, exchange
from engine.scale.training import Training


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
    moved = max(state.optimizer for state in t.states) if "optimizer" in t.layout.offload else 0.0
    newton_schulz = max(state.newton_schulz for state in t.states) / at.linear
    return Step(times, span, work, max(after), newton_schulz, 2 * moved / t.gpu.host_link)


def _times(training: Training, at: Rates, micro_batches: int) -> list[list[Timed]]:
    """Return when each rank does what, for so many micro-batches.

    The all-to-alls of a forward and a backward that can run at once hide behind each other's products.
    """
    t, actions = training, training.table(micro_batches)
    together: frozenset[Action] = frozenset()
    if at.hidden:
        together = pairs(t.layout.schedule, t.grid.pp, t.layout.vpp, micro_batches)
    hiding = together | {after for of in actions for action, after in pairwise(of) if action in together}
    durations = {
        (kind, stage, beside): _duration(t, kind, stage, at, at.hidden if beside else 0.0)
        for stage in range(len(t.stages))
        for kind in "FBIW"
        for beside in (False, True)
    }
    return timeline(actions, lambda action: durations[action.kind, action.stage, action in hiding], hop(t), together)


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
    recompute = t.layout.recompute
    work = sum((layer_work(t.config, layer, t.sequence_length, recompute) for layer in layers), Work())
    if stage == len(t.stages) - 1:
        work += head_work(t.config)
    own = (work * t.chunk_tokens).seconds(kind, at)
    if kind != "W":
        sparse, each = chunk_exchange(t, stage)
        moved = 2 * sparse * each
        own = max(own + (1 - hidden) * moved, moved)
    return max(own, host_copy(t, stage) if "activations" in t.layout.offload and kind != "W" else 0.0)


def chunk_exchange(training: Training, stage: int) -> tuple[int, float]:
    """Return the MoE layers of a stage, and the seconds of one of the two all-to-alls in each, forward or backward."""
    t = training
    sparse = sum(layer >= t.config.first_k_dense_replace for layer in t.stages[stage])
    messages = exchange(t.config, 1, t.grid.ep, Batch(1, t.chunk_tokens), t.kinds)
    return sparse, sum(seconds_of(t, message) for message in messages) / 4


def host_copy(training: Training, stage: int) -> float:
    """Return the seconds in which a chunk's activations go to the host, or come back."""
    return training.chunk(stage) / training.gpu.host_link


def hop(training: Training) -> float:
    """Return the seconds of a chunk's message from a stage to the next."""
    t = training
    hidden_states = t.chunk_tokens * t.config.hidden_size * t.kinds.types.stream
    return seconds_of(t, Message(OUTPUTS, hidden_states, 2, t.grid.dp * t.grid.ep))


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
