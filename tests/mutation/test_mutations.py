"""Behaviour changes always make their stages stale; what changes nothing makes nothing stale."""

from pathlib import Path

import pytest

from tests.mutation.evaluate import evaluate, figures, table
from tests.mutation.oracle import STAGES, make
from tests.project import Project

pytestmark = pytest.mark.slow


def test_recall_is_whole_and_precision_high(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(tmp_path).path
    oracle = make(project)
    for stage in STAGES:
        assert len(oracle.traces[stage]["functions"]) > 10, f"{stage} was not watched"
    rows = evaluate(project, oracle)
    result = figures(rows)
    with capsys.disabled():
        print(f"\n{table(rows)}")
    wrong = "\n".join(sentence for row in rows if not row.neutral for sentence in row.wrong)
    assert result["recall"] == 1, wrong
    assert result["precision"] >= 0.95
    assert result["behaviour_mutations"] >= 200
    assert result["neutral_mutations"] >= 200
