"""SIGKILL at 20 points of a save, and of either of two ranks: the one before stays whole, the end is the same bits."""

import json
import multiprocessing
import signal
import socket

import pytest

from engine.launch.torchrun import LOST
from engine.training.sealed import checkpoints, read, verify
from tests.engine.parallel.ranks import PRELOADED
from tests.engine.training.dying import STEPS, train, train_in_ranks
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


NEVER = -1
POINTS_OF_TWO = [(0, "mkdir", 0), (0, "write", 1), (0, "rename", 0), (0, "rmdir", 0), (1, "write", 1), (1, "fsync", 0)]
"""The rank that dies, the call at which it does, and at the how manieth of these."""


def in_two_children(work, victim, die_at, events=None):
    """The exit codes of two ranks that train."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = (2, port, work, victim, die_at, events)
    ranks = [context.Process(target=train_in_ranks, args=(rank, *given)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        rank.kill()
    return [rank.exitcode for rank in ranks]


def end(work):
    return json.loads((work / "training.json").read_text())["state_digest"], (work / "history.jsonl").read_bytes()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The end of a run of two ranks that nothing stops, and the calls of each one's last save."""
    folder = tmp_path_factory.mktemp("two")
    assert in_two_children(folder / "work", 0, NEVER, folder) == [0, 0]
    return end(folder / "work"), [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "name", "count"), POINTS_OF_TWO)
def test_of_two_ranks_one_dies_and_the_other_does_not_seal_what_is_not_whole(two, victim, name, count, tmp_path):
    """What the other one wrote of the checkpoint, it takes away with the next save."""
    straight, calls = two
    point = [number for number, call in enumerate(calls[victim]) if call == name][count]
    codes = in_two_children(tmp_path, victim, point)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == LOST
    before = tmp_path / "checkpoints" / f"{STEPS - 5:08d}"
    verify(before)
    assert read(before, tmp_path / "history.jsonl").step == STEPS - 5
    visible = checkpoints(before.parent)[-1].name == f"{STEPS:08d}"
    assert visible == (victim == 0 and point > calls[0].index("rename"))
    assert in_two_children(tmp_path, 0, NEVER) == [0, 0]
    assert end(tmp_path) == straight
    assert json.loads((tmp_path / "training.json").read_text())["resumed_at"] == (STEPS if visible else STEPS - 5)
    assert not list(before.parent.glob(".*"))
