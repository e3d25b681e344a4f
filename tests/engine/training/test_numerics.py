"""What settles a process for training."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch
from engine.training.numerics import settle
if {settled}:
    settle(1)
def step():
    for tensor in [torch.empty(10_000_000) for _ in range(3)]:
        tensor.fill_(1.0)
for _ in range(8):  # until the heap has a place for each, between what else was freed
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(settled: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(settled=settled)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_settled_process_keeps_the_memory_of_its_last_step() -> None:
    assert faults(settled=True) < faults(settled=False) / 2
