"""Every pass keeps all its tensors on one device, and the host reads nothing past the seam; planted defects show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.device import CUDA, working_on
from tests.placement.passes import DEFECTS, PASSES, Inputs

EXPECTED = {
    "planted_buffer": ("engine/model/rope.py", "Expected all tensors to be on the same device"),
    "unseen_read": ("float(logits", "DataDependentOutputException"),
    "unseen_mask": ("logits[logits > 0]", "DynamicOutputShapeException"),
    "unseen_copy": ('.to("cpu", copy=True)', "past to_host"),
    "foreign_indices": ("torch.tensor([1, 2])", "indices from the CPU"),
}
"""What each defect's traceback says: the line, and the fault."""


GROUPS = {
    "training": ("pretrain", "pretrain_in_bf16", "pretrain_saving_memory", "extend", "sft"),
    "reinforcement": ("rl", "rl_in_bf16"),
}
OTHERS = tuple(name for name in PASSES if name not in sum(GROUPS.values(), ()))


def faults(folder: Path, *names: str) -> dict[str, str]:
    """What went wrong in each pass on the fake device, in a process of its own, since it changes torch for good."""
    command = [sys.executable, "-m", "tests.placement", str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("names", [*GROUPS.values(), OTHERS], ids=[*GROUPS, "others"])
def test_every_pass_stays_on_its_device(names, tmp_path):
    shown = faults(tmp_path, *names)
    assert list(shown) == list(names)
    assert not any(shown.values()), "\n".join(shown.values())


def test_a_planted_defect_is_caught_with_its_line(tmp_path):
    assert set(EXPECTED) == set(DEFECTS)
    for name, fault in faults(tmp_path, *DEFECTS).items():
        for part in EXPECTED[name]:
            assert part in fault, name


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_on_a_gpu_computes_what_the_cpu_does(given, name, tmp_path, monkeypatch):
    """Compare loosely: sums round differently, and a sampled token may differ after that."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which working on a GPU sets, put back afterwards
    results = {}
    for kind in ("cpu", CUDA):
        work: Path = tmp_path / kind
        work.mkdir()
        with working_on(kind):
            PASSES[name](given, work)
        results[kind] = first_losses(work)
    assert results[CUDA] == pytest.approx(results["cpu"], rel=1e-2)


def first_losses(work: Path) -> list[float]:
    """The first step's loss of each training in a folder; none of a pass that does not train."""
    histories = sorted(work.rglob("history.jsonl"))
    return [json.loads(history.read_text().splitlines()[0])["loss"] for history in histories]
