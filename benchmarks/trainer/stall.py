"""How long an asynchronous save holds the training up, beside the time between two saves of a profile's pretraining.

The training is held up while `save` copies the state (and waits for the save before), and while its steps share the
cores with the thread that writes. Not measured are the history's fsync before it and, with several ranks, the check
that their states are equal. On busy cores only the CPU time of a save is worth reading: no save can hold the training
up for longer.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.muonclip.models import VOCABULARY, batch, ours
from benchmarks.report import Row
from engine.model.parameters import config_from_parameters
from engine.optim.muonclip import MuonClip
from engine.parallel.layout import Grid
from engine.training.resume import CheckpointStore
from engine.training.state import TrainState

BESIDE = 6
"""Steps timed with and without a save: until long after it is on disk."""
TARGET = 0.05


def rows(inputs: object, arguments: argparse.Namespace) -> list[Row]:
    """Return the stall of a save and its CPU time, medians over `pairs`, and the stall of a process's first save.

    `arguments` are those of `benchmarks.trainer`; its text is not needed.
    """
    from pipelines import graph

    given: dict[str, Any] = graph.parameters(arguments.profile)["pretrain"]
    torch.set_num_threads(given["threads"])
    model = ours(config_from_parameters(given["model"], VOCABULARY, given["sequence_length"]))
    state, ids = TrainState(model, MuonClip(model, 1e-3)), batch(given["batch_size"], given["sequence_length"])
    _seconds(state, ids)
    quiet, stalls, busy = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "history.jsonl").touch()
        with CheckpointStore(work / "checkpoints", work / "history.jsonl", {}, Grid()) as store:
            for _ in range(1 + arguments.pairs):
                quiet.append(_seconds(state, ids))
                stalls.append(_seconds(state, ids, store) - quiet[-1])
                store.wait()
                start = time.process_time()
                store.save(state)
                store.wait()
                busy.append(time.process_time() - start)
    between, stall, cpu = given["checkpoint_every"] * median(quiet) / BESIDE, median(stalls[1:]), median(busy)
    target = f"<= {TARGET:.0%} of it"
    return [
        Row("stall of an asynchronous save", stall, "s", "between saves", between, target, stall <= TARGET * between),
        Row("CPU time of a save", cpu, "s", "between saves", between, target, cpu <= TARGET * between),
        Row("stall of a process's first save", stalls[0], "s", "between saves", between),
    ]


def _seconds(state: TrainState, ids: torch.Tensor, store: CheckpointStore | None = None) -> float:
    """Return the seconds of some training steps, and of beginning a save before them if there is a store."""
    start = time.perf_counter()
    if store is not None:
        store.save(state)
    for _ in range(BESIDE):
        logits = state.model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
    return time.perf_counter() - start
