"""K2_COMPUTE sends a profile's heavy nodes elsewhere; what is no compute.yml is refused by name."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch.compute import compute_class
from pipelines.hooks import COMPUTE, overlaid

HERE = {"cpu": {"launcher": "inplace"}, "train": {"launcher": "local"}}


def test_without_it_the_profile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMPUTE, raising=False)
    assert overlaid(HERE) == HERE


def test_the_file_of_make_cluster_takes_the_place_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPUTE, "tests/cluster/compute.yml")
    found = overlaid(HERE)
    assert compute_class(found, "cpu").launcher == "inplace"
    train = compute_class(found, "train")
    assert (train.launcher, train.nodes, train.ranks, train.gres_type) == ("slurm", 2, 2, "h800")


@pytest.mark.parametrize("content", [None, "a: [", "just words"])
def test_what_is_no_such_file_is_refused(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yml"
    if content:
        path.write_text(content)
    monkeypatch.setenv(COMPUTE, str(path))
    with pytest.raises(UserError, match=r"K2_COMPUTE names .*mine\.yml"):
        overlaid(HERE)
