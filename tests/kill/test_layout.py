"""The graph's own pretrain with experts cut over two ranks: what one process gives, and the same bits after a kill."""

import json
from pathlib import Path

import pytest
import yaml

from tests.kill.pretraining import KEDRO, STAGE, newest
from tests.processes import await_state
from tests.project import PROFILE, Project

pytestmark = pytest.mark.slow

RANKS = 2
EXPERTS = {"launcher": "local", "processes": RANKS, "layout": {"ep": RANKS}}


def losses(project: Project) -> list[float]:
    """The loss of each step of the last pretrain."""
    rows = project.data(STAGE, "pretrain_history", "history.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows]


def test_experts_on_two_ranks_give_what_one_process_does_and_the_same_bits_after_a_kill(
    made: Project, tmp_path: Path
) -> None:
    whole, cut, killed = (made.copied(tmp_path / name) for name in ("whole", "cut", "killed"))
    whole.run(*KEDRO)
    for project in (cut, killed):
        (project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump({"train": EXPERTS}))
    cut.run(*KEDRO)
    assert losses(cut) == pytest.approx(losses(whole), abs=1e-5)
    record = cut.records(STAGE)[-1]
    assert record["training"]["worlds"] == [[0, RANKS, f"ep {RANKS}"]]

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
