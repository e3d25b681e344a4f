"""How long an asynchronous save holds the training up, beside the time between two saves of the laptop's pretraining.

The training is held up while `save` copies the state (and waits for the save before), and while its steps share the
cores with the thread that writes.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.muonclip.models import batch, laptop_config, ours
from benchmarks.report import Row
from engine.optim.muonclip import MuonClip
from engine.parallel.layout import Grid
from engine.training.resume import CheckpointStore
from engine.training.state import TrainState

LENGTH, SIZE = 128, 16
BESIDE = 12
"""Steps timed after each save: until long after it is on disk."""
TARGET = 0.05


def rows(repeats: int) -> list[Row]:
    """Return the stall of a save as a part of the time between saves, the median of `repeats` saves after a first."""
    from pipelines import graph

    every = int(graph.parameters("laptop")["pretrain"]["checkpoint_every"])
    model = ours(laptop_config(LENGTH))
    state, ids = TrainState(model, MuonClip(model, 1e-3)), batch(SIZE, LENGTH)
    for _ in range(3):
        _step(state, ids)
    quiet = median(_step(state, ids) for _ in range(2 * BESIDE))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "history.jsonl").touch()
        with CheckpointStore(work / "checkpoints", work / "history.jsonl", {}, Grid()) as store:
            first, *later = [_stall(store, state, ids, quiet) for _ in range(1 + repeats)]
    between, stall = every * quiet, median(later)
    met = stall <= TARGET * between
    return [
        Row("stall of an asynchronous save", stall, "s", "between saves", between, f"<= {TARGET:.0%} of it", met),
        Row("stall of a process's first save", first, "s", "between saves", between),
    ]


def _step(state: TrainState, ids: torch.Tensor) -> float:
    """Make a training step; return its seconds."""
    start = time.perf_counter()
    logits = state.model(ids[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    return time.perf_counter() - start


def _stall(store: CheckpointStore, state: TrainState, ids: torch.Tensor, quiet: float) -> float:
    """Return by how much a save makes itself and the steps beside it take longer than quiet steps, in seconds."""
    start = time.perf_counter()
    store.save(state)
    for _ in range(BESIDE):
        _step(state, ids)
    return time.perf_counter() - start - BESIDE * quiet
