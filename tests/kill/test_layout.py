"""The graph's own pretrain cut over two ranks: what one process gives, and the same bits after a kill."""

import json
from pathlib import Path

import pytest
import yaml

from tests.kill.pretraining import KEDRO, STAGE, newest
from tests.processes import await_state
from tests.project import PROFILE, Project

pytestmark = pytest.mark.slow

RANKS = 2
LAYOUTS = [{"ep": RANKS, "zero": 1}, {"pp": RANKS}]


def losses(project: Project) -> list[float]:
    """The loss of each step of the last pretrain."""
    rows = project.data(STAGE, "pretrain_history", "history.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


@pytest.fixture(scope="module")
def of_one(made: Project, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process."""
    whole = made.copied(tmp_path_factory.mktemp("one") / "whole")
    whole.run(*KEDRO)
    return losses(whole)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_two_ranks_give_what_one_process_does_and_the_same_bits_after_a_kill(
    layout: dict[str, int], of_one: list[float], made: Project, tmp_path: Path
) -> None:
    cut, killed = (made.copied(tmp_path / name) for name in ("cut", "killed"))
    for project in (cut, killed):
        train = {"launcher": "local", "processes": RANKS, "layout": layout}
        (project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump({"train": train}))
        own = project.path / f"conf/{PROFILE}/parameters/pretrain.yml"
        parameters = yaml.safe_load(own.read_text())
        parameters[STAGE]["micro_batches"] = RANKS  # which a pipeline needs, and others on each rank
        own.write_text(yaml.safe_dump(parameters))
    cut.run(*KEDRO)
    assert losses(cut) == pytest.approx(of_one, abs=1e-5)
    record = cut.records(STAGE)[-1]
    words = ", ".join(f"{name} {value}" for name, value in layout.items())
    assert record["training"]["worlds"] == [[0, RANKS, words]]

    process = killed.start(*KEDRO)
    workspace = killed.data(".work", STAGE, record["key"])
    await_state(lambda: newest(workspace) > 0, process.poll)
    process.kill()
    process.wait()
    killed.run(*KEDRO)
    again = killed.records(STAGE)[-1]
    assert again["training"]["resumed_at"] > 0
    assert again["training"]["state_digest"] == record["training"]["state_digest"]
    assert killed.digests(STAGE) == cut.digests(STAGE)
