"""SIGKILL of a rank while others are in a collective with it: all end, the rank is named, the end is the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch import exchange
from engine.parallel.layout import Layout
from tests.engine.parallel.ranks import together
from tests.kill.standing import KEPT, marker, train
from tests.processes import PATIENCE_SECONDS, await_state, is_alive
from tests.project import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

NODE, VICTIM, SECONDS = "train", 1, 60


@dataclass(frozen=True)
class Place:
    """A collective of a layout, by its name in torch.distributed, and the number of the call at which a rank dies."""

    words: str
    ranks: int
    layout: Layout
    collective: str
    call: int


PLACES = [
    Place("in the forward's all-to-all", 4, Layout(ep=2), "all_to_all_single", 1),
    Place("in the backward's all-to-all", 4, Layout(ep=2), "all_to_all_single", 9),
    Place("in a pipeline's message to the next stage", 3, Layout(pp=3, schedule="zero_bubble"), "isend", 0),
    Place("in a pipeline's message to the stage before", 2, Layout(pp=2), "isend", 2),
    Place("in the reduction to owners", 2, Layout(zero=1), "reduce_scatter", 0),
    Place("in the gather from owners", 2, Layout(zero=1), "all_to_all_single", 0),
]


@pytest.fixture(scope="module")
def ends() -> dict[Layout, tuple[str, bytes]]:
    """What the undisturbed training of a layout ends in, for those that have run."""
    return {}


def end(work: Path) -> tuple[str, bytes]:
    return json.loads((work / "training.json").read_text())["state_digest"], (work / "history.jsonl").read_bytes()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.words)
def test_a_rank_dies_in_a_collective(place: Place, ends: dict[Layout, tuple[str, bytes]], tmp_path: Path) -> None:
    if place.layout not in ends:
        together(place.ranks, train, tmp_path / "straight", place.layout)
        ends[place.layout] = end(tmp_path / "straight")
    work = tmp_path / "killed"
    work.mkdir()
    launcher = start(place, work)
    try:
        process = await_state(lambda: standing(work), launcher.poll)
        os.kill(process, signal.SIGKILL)
        begun = time.monotonic()
        assert launcher.wait(PATIENCE_SECONDS) == 1
        assert time.monotonic() - begun < SECONDS
    finally:
        launcher.kill()
        launcher.wait()
    assert not any(is_alive(int(path.read_text())) for path in work.glob("at.*"))
    with pytest.raises(UserError, match=rf"^rank {VICTIM} of {place.ranks} of node {NODE} was killed by signal 9; "):
        exchange.raise_error(work, NODE, 1)
    together(place.ranks, train, work, place.layout)
    assert end(work) == ends[place.layout]
    assert json.loads((work / "training.json").read_text())["resumed_at"] == KEPT


def start(place: Place, work: Path) -> "subprocess.Popen[bytes]":
    """Start the ranks under torchrun, as a driver does."""
    exchange.write_parameters(work, NODE, {})
    options = [f"--processes={place.ranks}", f"--parent={os.getpid()}", f"--workspace={work}", f"--node={NODE}"]
    command = ["tests.kill.standing", str(work), json.dumps(asdict(place.layout)), f"--victim={VICTIM}"]
    command += [f"--collective={place.collective}", f"--call={place.call}"]
    return subprocess.Popen(
        [sys.executable, "-m", "engine.launch.torchrun", *options, *command], cwd=ROOT, env=ENVIRONMENT
    )


def standing(work: Path) -> int | None:
    """The victim's process once it stands still and all that it is to meet are at the collective; None before."""
    victim, other = (marker(work, rank) for rank in (VICTIM, VICTIM - 1))
    process = victim.read_text() if victim.exists() and other.exists() and other.read_text() else ""
    if not process:
        return None
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return int(process) if state == "T" else None
