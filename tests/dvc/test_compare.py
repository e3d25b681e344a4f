"""Experiments and diffs on our stages: the stages that run again, and the changes that DVC shows."""

import json
from pathlib import Path

import pytest

from tests.dvc.conftest import ran
from tests.project import LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow


def test_an_experiment_reruns_its_stage_and_every_diff_shows_it(made: Project, tmp_path: Path) -> None:
    name = f"conf/{PROFILE}/parameters/sft.yml"
    before = made.runs()
    process = made.run("dvc", "exp", "run", "-S", f"{name}:sft.steps=10", "-s", f"{LEDGER}:code", f"{LEDGER}:sft")
    assert ran(process.stdout) == ["code", "sft"]
    assert made.ran_since(before) == ["sft"]
    assert json.loads(made.run("dvc", "params", "diff", "--json").stdout) == {
        name: {"sft.steps": {"old": 8, "new": 10, "diff": 2}}
    }
    metrics = json.loads(made.run("dvc", "metrics", "diff", "--json").stdout)
    assert metrics[f"data/{PROFILE}/sft/metrics.json"]["steps"] == {"old": 8, "new": 10, "diff": 2}
    assert list(metrics) == [f"data/{PROFILE}/sft/metrics.json"]
    made.run("dvc", "plots", "diff", "-o", str(tmp_path / "plots"))
    drawn = {path.name for path in (tmp_path / "plots/static").iterdir()}
    for revision in ("HEAD", "workspace"):
        assert f"{revision}_data_{PROFILE}_sft_sft_history_loss.png" in drawn
    made.run("git", "checkout", "-q", "--", ".")
    made.run("dvc", "checkout", "-f", LEDGER)
    assert ran(made.repro().stdout) == ["code"]
