"""A rank that cannot begin says so in a sentence, to the driver where it has one."""

import logging
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch import exchange
from engine.launch.lifetime import lock
from engine.parallel import data
from pipelines import rank
from pipelines.stages_file import ROOT


def test_a_rank_without_its_workspace_makes_none_and_ends_with_a_sentence() -> None:
    words = ["--env=smoke", "--stage=sft", "--node=train_sft", "--key=0123456789abcdef", "--code=0123"]
    process = subprocess.run(
        [sys.executable, "-m", "pipelines.rank", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "0123456789abcdef is missing: a rank is started by the driver" in process.stderr
    assert "Traceback" not in process.stderr
    assert not (ROOT / "data/smoke/.work/sft/0123456789abcdef").exists()


def test_a_rank_that_imports_from_elsewhere_than_its_snapshot_refuses(tmp_path: Path) -> None:
    """A container's image that sets PYTHONPATH has this effect: the rank would run the live tree."""
    with pytest.raises(SystemExit), rank.hand_over_errors(tmp_path, "train_sft", 0):
        rank.check_place("0123")
    with pytest.raises(UserError, match=f"^a rank of the code's snapshot 0123 imports from {ROOT}: "):
        exchange.raise_error(tmp_path, "train_sft", 1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_rank_beside_one_that_still_lives_reports_to_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    workspace = tmp_path / "key"
    workspace.mkdir()
    monkeypatch.setattr(rank, "lock", partial(lock, patience=0.1))
    monkeypatch.setattr(rank, "silence", lambda: None)
    kedro = logging.getLogger("kedro")
    monkeypatch.setattr(kedro, "level", kedro.level)  # put back afterwards
    with (
        lock(tmp_path / f"lock.{number}", "the last attempt's"),
        pytest.raises(SystemExit),
        rank.hand_over_errors(workspace, "train_sft", number),
    ):
        rank.run_in_world("smoke", "sft", "train_sft", workspace, number)
    with pytest.raises(UserError, match=f"^rank {number} of stage sft of profile smoke is already running"):
        exchange.raise_error(workspace, "train_sft", 1)


def test_a_rank_that_cannot_join_the_others_has_lost_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def timeout(backend: str) -> None:
        raise RuntimeError("Timed out after 601 seconds waiting for clients. 1/2 clients joined.")

    monkeypatch.setattr(data.dist, "init_process_group", timeout)
    with pytest.raises(data.RankLost, match="rank 0: another rank is gone"):
        data.start()
