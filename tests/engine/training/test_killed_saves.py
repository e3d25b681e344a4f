"""SIGKILL at 20 points of a save: the checkpoint before stays whole, and the run goes on to the same bits."""

import json
import multiprocessing
import signal

import pytest

from engine.training.sealed import checkpoints, read, verify
from tests.engine.parallel.ranks import PRELOADED
from tests.engine.training.dying import STEPS, train
from tests.engine.training.run_tiny import digest, run

POINTS = 20


def in_a_child(*given):
    """The exit code of a process that trains."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    child = context.Process(target=train, args=given)
    child.start()
    child.join()
    return child.exitcode


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    work = tmp_path_factory.mktemp("straight")
    return digest(*run(work, steps=STEPS))


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The calls of a whole save, in order."""
    folder = tmp_path_factory.mktemp("calls")
    assert in_a_child(folder / "work", 0, folder / "calls.json") == 0
    return json.loads((folder / "calls.json").read_text())


@pytest.fixture(scope="module")
def points(calls):
    """Every call that is no write, and four writes from the first to the last."""
    others = [number for number, name in enumerate(calls) if name != "write"]
    assert {"mkdir", "fsync", "rename", "replace", "unlink", "rmdir"} == {calls[number] for number in others}
    writes = [number for number, name in enumerate(calls) if name == "write"]
    return sorted([*others, *(writes[n * (len(writes) - 1) // 3] for n in range(4))])


def test_these_are_all_points(points):
    assert len(points) == POINTS


@pytest.mark.parametrize("number", range(POINTS))
def test_the_checkpoint_before_stays_whole_and_the_run_ends_in_the_same_bits(straight, calls, points, number, tmp_path):
    point, before = points[number], tmp_path / "checkpoints" / f"{STEPS - 5:08d}"
    assert in_a_child(tmp_path, point) == -signal.SIGKILL
    verify(before)
    assert read(before, tmp_path / "history.jsonl").step == STEPS - 5
    visible = checkpoints(before.parent)[-1].name == f"{STEPS:08d}"
    assert visible == (point > calls.index("rename")), f"killed at call {point}, {calls[point]}"
    assert digest(*run(tmp_path, steps=STEPS)) == straight
    summary = json.loads((tmp_path / "training.json").read_text())
    assert summary["resumed_at"] == (STEPS if visible else STEPS - 5)
