"""The share of the matrix units' peak that training sustains while a rank has work, from a run whose cost is published.

DeepSeek-V3's pre-training took 2.664M H800-hours for 14.8T tokens. Take away what its report lets us count, the bubble
of DualPipe and the exchange of gradients and weights; what remains did the model's products, and their time at the
peaks is a share of it. All else that takes time (norms, gathers, launches, uneven stages and experts, restarts) is in
that share. It is an interval, since nobody publishes how much faster FP8 made the products.
"""

from dataclasses import dataclass
from functools import cache

from engine.model.config import K2Config
from engine.parallel.layout import Grid, Layout
from engine.parallel.traffic import WEIGHTS
from engine.scale.holdings import held, part_at
from engine.scale.machines import Published, gpu, machines
from engine.scale.states import BFLOAT16
from engine.scale.timing import Rates, Work, head_work, layer_work, seconds
from engine.scale.traffic import Message


@dataclass(frozen=True)
class Calibrated:
    """What follows from the published run: its step's seconds, bubble, exchange, and the share at each FP8 speed-up."""

    step: float
    bubble: float
    exchange: float
    shares: tuple[float, float]


@cache
def calibrated() -> Calibrated:
    """Return the shares (low, high) of the BF16 peak: the faster FP8 was, the lower."""
    run, ranges = machines().calibration, machines().ranges
    tokens = run.batch_size * run.sequence_length
    step = run.gpu_hours * 3600 / run.tokens * tokens / run.gpus
    bubble, exchange = _dualpipe_bubble(run), _exchange(run)
    busy = (step - exchange) / (1 + bubble)
    shares = [_at_peak(run, speedup) * tokens / run.gpus / busy for speedup in ranges.fp8_speedup]
    return Calibrated(step, bubble, exchange, (min(shares), max(shares)))


def _at_peak(run: Published, fp8_speedup: float) -> float:
    """Return the seconds of a token's forward and backward at the peaks."""
    c, kind, length = _model(run), gpu(run.gpu, "calibration.gpu"), run.sequence_length
    blocks = [layer_work(c, layer, length, run.recompute) for layer in range(c.num_hidden_layers)]
    extra = blocks[-1] + Work(2.0 * 2 * c.hidden_size**2)
    work, head = sum(blocks, extra * run.more_layers), head_work(c) * (1 + run.more_layers)
    narrow = Rates(kind.bf16 * fp8_speedup if run.dtype == "fp8" else kind.bf16, kind.bf16, run.hidden)
    wide = Rates(kind.bf16, kind.bf16, run.hidden)
    return sum(work.seconds(pass_, narrow) + head.seconds(pass_, wide) for pass_ in "FB")


def _dualpipe_bubble(run: Published) -> float:
    """Return DualPipe's bubble as a share of the work, in units of a forward: (PP/2 − 1)(F&B + B − 3W)."""
    micro_batches = run.batch_size * run.pp / run.gpus  # a row each
    forward, backward, weights = 1, 2, 1
    idle = (run.pp / 2 - 1) * (forward + backward + backward - 3 * weights)
    return idle / (micro_batches * (forward + backward))


def _exchange(run: Published) -> float:
    """Return the seconds in which gradients and weights go round, in equal parts: AdamW's state can be cut anywhere."""
    config, layout, kind = _model(run), Layout(pp=run.pp, ep=run.ep), gpu(run.gpu, "calibration.gpu")
    grid, longest = Grid.of(layout, run.gpus), 0.0
    for stage in range(grid.pp):
        own = held(config, part_at(config, layout, grid, stage))
        total = 0.0
        for stacked, size, stride in ((False, grid.dp * grid.ep, 1), (True, grid.dp, grid.ep)):
            numbers = sum(weight.numbers for weight in own if weight.stacked == stacked) * (size - 1) / size
            sent = Message(WEIGHTS, numbers * (BFLOAT16.gradient + BFLOAT16.weight), size, stride)
            total += seconds(sent, kind, machines().node.gpus)
        longest = max(longest, total)
    return longest


def _model(run: Published) -> K2Config:
    return K2Config.from_fields(run.model, "engine/scale/efficiencies.yml: calibration.model")
