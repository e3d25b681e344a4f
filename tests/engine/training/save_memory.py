"""Measure the memory of a save: prints the state's bytes, and by how much the save raised the process's peak."""

import json
import re
import tempfile
from pathlib import Path

import torch

from engine.parallel.layout import Grid
from engine.parallel.placement import REPLICATED
from engine.training.resume import CheckpointStore

SIZE, COUNT = 5_000_000, 12


class Plain:
    """Tensors that a rank holds whole."""

    step = 1

    def __init__(self) -> None:
        self._tensors = {f"model:{number}": torch.full((SIZE,), float(number)) for number in range(COUNT)}

    def tensors(self):
        return self._tensors

    def placement(self, name):
        return REPLICATED

    def load(self, step, tensors, where):
        raise NotImplementedError


def resident(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def main() -> None:
    import engine.training.storage  # noqa: F401 - loaded at the first save, and no part of what a save holds

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "history.jsonl").touch()
        store = CheckpointStore(work / "checkpoints", work / "history.jsonl", {}, Grid())
        store.latest()
        state = Plain()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        with store:
            store.save(state)
        peak = resident("VmHWM")
        print(json.dumps({"state": COUNT * SIZE * 4, "save": peak - before}))


if __name__ == "__main__":
    main()
