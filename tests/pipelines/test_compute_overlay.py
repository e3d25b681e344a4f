"""K2_COMPUTE sends a profile's heavy nodes elsewhere; a file that is no compute.yml is refused by name."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.launch.compute import compute_class, overlaid
from tests.project import ROOT

HERE = {"cpu": {"launcher": "inplace"}, "train": {"launcher": "local"}}


def test_the_file_of_make_cluster_takes_the_place_of_training() -> None:
    classes = overlaid(HERE, str(ROOT / "tests/cluster/compute.yml"))
    assert compute_class(classes, "cpu").launcher == "inplace"
    train = compute_class(classes, "train")
    assert (train.launcher, train.nodes, train.ranks, train.gres_type) == ("slurm", 2, 2, "h800")


@pytest.mark.parametrize("content", [None, "a: [", "just words"])
def test_what_is_no_such_file_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    if content:
        path.write_text(content)
    with pytest.raises(UserError, match=r"K2_COMPUTE=.*mine\.yml"):
        overlaid(HERE, str(path))
