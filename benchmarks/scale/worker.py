"""A rank that makes steps under a layout on demand: so many for a number, one that is counted for the word `count`.

    python -m benchmarks.scale.worker PROFILE LAYOUT

Orders come to the first rank, a line each on standard input; LAYOUT is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.scale.cases import LAYERS, PARTS
from benchmarks.scale.steps import Steps, task
from engine.parallel import data
from engine.parallel.layout import Layout, stages
from engine.parallel.mesh import laid_out, mesh
from engine.parallel.traffic import counted_traffic
from tests.engine.model.live import Live

COUNT = "count"


@dataclass
class Peaks:
    """What a step reached: the most bytes that waited for backwards, looked at whenever a stage's forward ended, those
    of the stages' messages that were there beside them at most, and those of all gradients.
    """

    kept: int = 0
    messages: int = 0
    gradients: int = 0


STATES = ("muon", "adamw")
"""What the names of the optimizer's tensors for weights begin with."""


def counted(steps: Steps) -> dict[str, Any]:
    """Return the bytes of one step of this rank: what it gave, sent, held for its backwards, and holds."""
    with watched(steps) as peaks, counted_traffic() as traffic:
        steps.make()
    state = {name: t for name, t in steps.state.optimizer.state_dict().items() if name.split("/")[0] in STATES}
    return {
        "given": dict(traffic.given),
        "crossed": dict(traffic.crossed),
        "kept": peaks.kept,
        "messages": peaks.messages,
        "gradients": peaks.gradients,
        "weights": sum(tensor.nbytes for tensor in steps.model.state_dict().values()),
        "optimizer": sum(tensor.nbytes for name, tensor in state.items() if not name.endswith("/step")),
    }


@contextmanager
def watched(steps: Steps) -> Iterator[Peaks]:
    """Yield what a step in this context reaches."""
    peaks, model = Peaks(), steps.model
    ends = {str(layers[-1]) for layers in stages(model.config.num_hidden_layers, mesh().layout)} & model.layers.keys()
    with Live() as live, stage_messages() as messages:

        def forward_ends(_: nn.Module, given: Any, out: Tensor) -> None:
            weights = [*model.parameters(), *model.buffers()]
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            moving = sum(size for ref, size in messages.values() if not ref.expired())
            peaks.messages = max(peaks.messages, moving)
            peaks.kept = max(peaks.kept, live.bytes([*weights, *gradients, out]) - moving)

        def gradient_is_there(weight: Tensor) -> None:
            seen[id(weight)] = weight.grad.nbytes if weight.grad is not None else 0
            peaks.gradients = sum(seen.values())

        seen: dict[int, int] = {}
        hooks = [model.layers[name].register_forward_hook(forward_ends) for name in ends]
        hooks += [weight.register_post_accumulate_grad_hook(gradient_is_there) for weight in model.parameters()]
        try:
            yield peaks
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def stage_messages() -> Iterator[dict[int, tuple[StorageWeakRef, int]]]:
    """Yield the storages, with their bytes, of what stages send each other and get in this context.

    gloo holds them to the end of a step, and NCCL until they have gone: they are no part of what waits for backwards.
    """
    seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def noted(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return tensor

    send, receive = dist.isend, dist.P2POp
    vars(dist)["isend"] = lambda tensor, *given, **named: send(noted(tensor), *given, **named)
    vars(dist)["P2POp"] = lambda op, tensor, *given, **named: receive(op, noted(tensor), *given, **named)
    try:
        yield seen
    finally:
        vars(dist).update(isend=send, P2POp=receive)


def timed(steps: Steps, count: int) -> dict[str, float]:
    """Return this rank's wall and CPU seconds of so many steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        steps.make()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main(profile: str, layout: Layout) -> None:
    """Follow orders until there are no more."""
    if "RANK" in os.environ:
        data.start()
    given = task(profile, layers=LAYERS, parts=PARTS)
    given = replace(given, settings=given.settings.model_copy(update={"threads": 1}))
    first = data.ranks().first
    with laid_out(layout):
        steps = Steps(given)
        while order := data.from_first(sys.stdin.readline().strip() if first else ""):
            reply = data.from_all(counted(steps)) if order == COUNT else timed(steps, int(order))
            if first:
                print(json.dumps(reply), flush=True)
    data.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], TypeAdapter(Layout).validate_json(sys.argv[2]))
