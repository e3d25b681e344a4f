"""What a rank hands to its driver."""

from pathlib import Path

import polars as pl
import pytest

from engine.errors import UserError
from engine.launch import exchange
from engine.launch.compute import launcher


def test_outputs_come_back(tmp_path: Path) -> None:
    made = tmp_path / "checkpoint"
    made.mkdir()
    frame = pl.DataFrame({"a": [1, 2]})
    exchange.write_parameters(tmp_path, "train", {"params:sft": {"lr": 0.1}})
    assert exchange.read_parameters(tmp_path, "train") == {"params:sft": {"lr": 0.1}}
    exchange.write_outputs(tmp_path, "train", {"checkpoint": made, "metrics": {"loss": 1.5}, "rollouts": frame}, 1.5)
    back, seconds = exchange.read_outputs(tmp_path, "train")
    assert seconds == 1.5
    assert back["checkpoint"] == made
    assert back["metrics"] == {"loss": 1.5}
    assert back["rollouts"].collect().equals(frame)


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


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({}, "no class 'train'"),
        ({"train": {"launcher": "ssh"}}, "'ssh' is unknown"),
        ({"train": {"launcher": "local", "gpus": 8}}, "exactly the field launcher"),
    ],
)
def test_bad_compute_class(compute: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        launcher(compute, "train")
