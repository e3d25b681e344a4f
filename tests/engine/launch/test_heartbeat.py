"""The heartbeat: whole, current, and rare."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.launch.drain import RUN_DIR
from engine.launch.heartbeat import HEARTBEAT, METRICS, WATCHED, Heartbeat


def test_it_shows_how_far_the_run_is_and_who_runs_it(tmp_path: Path) -> None:
    Heartbeat(tmp_path, 10).beat(3, {})
    state = json.loads((tmp_path / HEARTBEAT).read_text())
    assert (state["step"], state["steps"], state["pid"]) == (3, 10, os.getpid())
    assert abs((datetime.now(UTC) - datetime.fromisoformat(state["time"])).total_seconds()) < 60
    assert [path.name for path in tmp_path.iterdir()] == [HEARTBEAT]


def test_it_beats_at_most_every_few_seconds(tmp_path: Path) -> None:
    heart, eager = Heartbeat(tmp_path, 10, every=1000.0), Heartbeat(tmp_path, 10, every=0.0)
    heart.beat(1, {})
    heart.beat(2, {})
    assert json.loads((tmp_path / HEARTBEAT).read_text())["step"] == 1
    heart.beat(10, {})
    assert json.loads((tmp_path / HEARTBEAT).read_text())["step"] == 10
    eager.beat(3, {})
    eager.beat(4, {})
    assert json.loads((tmp_path / HEARTBEAT).read_text())["step"] == 4


def test_a_dispatched_nodes_heart_also_beats_in_its_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setenv(RUN_DIR, str(run))
    Heartbeat(tmp_path, 10).beat(3, {"loss": 2.5})
    assert json.loads((run / WATCHED).read_text())["step"] == 3
    assert json.loads((run / METRICS).read_text()) == {"step": 3, "steps": 10, "loss": 2.5}
    assert (run / WATCHED).read_bytes() == (tmp_path / HEARTBEAT).read_bytes()
