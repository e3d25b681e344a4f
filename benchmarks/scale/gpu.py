"""The h200 profile's steps on this machine's GPU: tokens a second, model FLOPs utilisation and the most bytes, planned
and measured. Without a GPU the rows say so, and have the plan alone.
"""

import argparse
import time
from dataclasses import dataclass
from math import nan

import torch

from benchmarks.report import Row
from benchmarks.scale.steps import Steps, task
from engine.device import CUDA, working_on
from engine.model.flops import flops_per_token
from engine.scale.fit import fullest
from engine.scale.machines import machines
from engine.scale.memory import memory
from engine.scale.step import rates, run, step
from engine.scale.training import Training
from pipelines import graph
from pipelines.commands.scale import planned

PROFILE, KIND = "h200", "h200"
"""The profile, and the kind of GPU that is planned for where there is none."""
UNMEASURED = "unmeasured: no GPU"
WARM_UP = 3
"""Steps before those that are timed: the first ones compile kernels and make the optimizer's state."""


@dataclass(frozen=True)
class Measured:
    """The seconds of a step, and the most bytes that tensors had on the GPU."""

    seconds: float
    peak: float


def rows(arguments: argparse.Namespace) -> list[Row]:
    """Return the measured figures beside the planner's."""
    kind = kind_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else KIND
    training, _ = planned(PROFILE, 1, kind, "", "float32")
    if not torch.cuda.is_available():
        return compared(training, kind, None)
    with working_on(CUDA):
        return compared(training, kind, measured(PROFILE, arguments.steps))


def kind_of(name: str) -> str:
    """Return the planner's kind of a GPU by the name that CUDA has for it."""
    return next((kind for kind in machines().gpus if kind in name.lower()), KIND)


def measured(profile: str, count: int) -> Measured:
    """Return what `count` steps of a profile's pre-training take on the device of this process."""
    steps = Steps(task(profile, graph.parameters(profile)["tokenization"]["vocab_size"]))
    on_gpu = steps.model.device.type == CUDA
    for _ in range(WARM_UP):
        steps.make()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        steps.make()
    if on_gpu:
        torch.cuda.synchronize()
    return Measured((time.perf_counter() - start) / count, torch.cuda.max_memory_allocated() if on_gpu else nan)


def compared(training: Training, kind: str, found: Measured | None) -> list[Row]:
    """Return the rows; None for `found` where nothing was measured."""
    t = training
    fast, slow = (run(t, step(t, at).seconds, t.step_tokens) for at in rates(t.gpu))
    speed = t.step_tokens / found.seconds if found else nan
    flops = flops_per_token(t.config, t.sequence_length).training
    suffix = "" if found else f", {UNMEASURED}"
    what = f"{PROFILE} on one {kind.upper()}"
    return [
        Row(f"{what}: training{suffix}", speed, "tokens/s", "planned, fast end", fast.tokens_per_second),
        Row(f"{what}: training, slow end{suffix}", speed, "tokens/s", "planned, slow end", slow.tokens_per_second),
        Row(f"{what}: model FLOPs utilisation{suffix}", flops * speed / t.gpu.bf16, "", "planned, fast end", fast.mfu),
        Row(f"{what}: most memory{suffix}", found.peak if found else nan, "B", "planned", fullest(memory(t)).total),
    ]
