"""What a rank hands to its driver."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.identity.snapshot import keep_for
from engine.launch import exchange


def test_outputs_come_back(tmp_path: Path) -> None:
    made = tmp_path / "checkpoint"
    made.mkdir()
    table = exchange.Prepared(exchange.place(tmp_path, "train", "rollouts"), {"rows": 2, "columns": {"a": "i64"}})
    table.path.mkdir()
    exchange.write_parameters(tmp_path, "train", {"params:sft": {"lr": 0.1}})
    assert exchange.read_parameters(tmp_path, "train") == {"params:sft": {"lr": 0.1}}
    outputs = {"checkpoint": made, "metrics": {"loss": 1.5}, "rollouts": table}
    exchange.write_outputs(tmp_path, "train", outputs, 1.5, code="0123")
    assert not exchange.has_outputs(tmp_path, "train"), "no driver has made this key from that code"
    with pytest.raises(UserError, match="has run the snapshot 0123 of the code, which is not that of its key"):
        exchange.read_outputs(tmp_path, "train")
    keep_for(tmp_path, Path("0123"))
    back, seconds = exchange.read_outputs(tmp_path, "train")
    assert seconds == 1.5
    assert back["checkpoint"] == made
    assert back["metrics"] == {"loss": 1.5}
    assert back["rollouts"] == table
    assert exchange.has_outputs(tmp_path, "train")
    table.path.rename(tmp_path / "published")
    assert not exchange.has_outputs(tmp_path, "train")


def test_errors_come_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="killed by signal 9"):
        exchange.raise_error(tmp_path, "train", -9)
    with pytest.raises(UserError, match="exit code 3"):
        exchange.raise_error(tmp_path, "train", 3)
    exchange.write_error(tmp_path, "train", "shards are truncated.")
    with pytest.raises(UserError, match="^shards are truncated.$"):
        exchange.raise_error(tmp_path, "train", 1)
    exchange.write_parameters(tmp_path, "train", {})  # a new attempt forgets the old error
    with pytest.raises(UserError, match="exit code 1"):
        exchange.raise_error(tmp_path, "train", 1)


def test_a_ranks_own_sentence_comes_before_torchruns(tmp_path: Path) -> None:
    exchange.write_parameters(tmp_path, "train", {})
    exchange.write_lost(tmp_path, "train", exchange.how_it_ended("rank 1 of 2 of node train", -9))
    with pytest.raises(UserError, match="^rank 1 of 2 of node train was killed by signal 9; run the same command"):
        exchange.raise_error(tmp_path, "train", 1)
    exchange.write_error(tmp_path, "train", "shards are truncated.", rank=1)
    with pytest.raises(UserError, match="^shards are truncated.$"):
        exchange.raise_error(tmp_path, "train", 1)
    exchange.write_parameters(tmp_path, "train", {})
    with pytest.raises(UserError, match="exit code 1"):
        exchange.raise_error(tmp_path, "train", 1)


def test_of_several_ranks_the_lowest_is_heard(tmp_path: Path) -> None:
    for rank in (10, 2):
        exchange.write_error(tmp_path, "train", f"rank {rank} says", rank=rank)
    with pytest.raises(UserError, match="^rank 2 says$"):
        exchange.raise_error(tmp_path, "train", 1)


@pytest.mark.parametrize("status", [1, 2, 3])
def test_no_traceback_is_promised_that_may_not_be_there(status: int) -> None:
    assert "traceback" not in exchange.how_it_ended("node train", status)
