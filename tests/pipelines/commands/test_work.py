"""Unfinished work stays under its key, is listed, and is removed by a stated rule alone."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.artifacts.files import canonical_json, write_atomic
from engine.identity.key import flatten
from engine.identity.records import BEGUN
from engine.launch.heartbeat import HEARTBEAT
from engine.launch.lifetime import lock
from engine.training.sealed import seal
from pipelines import graph, status
from pipelines.commands import clean, work
from pipelines.hooks import FRESH, RunContext
from pipelines.runner import StageRun
from pipelines.stages_file import load_stages_file
from tests.runs import Runs

PROFILE, STAGE = "smoke", "corpus"
DAY = 86400.0


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Return a scratch repository whose stages all have the same small code."""
    made = Runs(tmp_path, monkeypatch)
    code = {"definitions": {"f": "1"}, "files": {}, "catalog": {}, "distributions": {}}
    parts = {stage: {"code": code, "parameters": {stage: {"rate": 2}}} for stage in load_stages_file().stages}
    monkeypatch.setattr(status, "stage_file", lambda stage, *_: parts[stage])
    return made


def leave(name: str, *, step: int = 0, days: float = 0.0, started: int = 0, **changes: Any) -> Path:
    """Leave work of the stage under the key `name` (its last letter repeated), touched `days` ago."""
    parts = {"code": {"definitions": {"f": "1"}, "files": {}, "catalog": {}, "distributions": {}}, "inputs": {}}
    parameters = flatten({STAGE: {"rate": 2, **changes}})
    workspace = graph.work_folder(PROFILE) / STAGE / (name if len(name) == 16 else name * 16)
    begun = {"parts": {**parts, "parameters": parameters}, "started": f"2026-01-01T00:{started:02d}:00.000000+00:00"}
    write_atomic(workspace / BEGUN, canonical_json(begun))
    if step:
        checkpoint = workspace / "training/checkpoints" / f"{step:08d}"
        checkpoint.mkdir(parents=True)
        seal(checkpoint, {"step": step}, {})
        write_atomic(workspace / "training" / HEARTBEAT, canonical_json({"step": step, "steps": 1200}))
    for path in (*workspace.rglob("*"), workspace):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return workspace


def today() -> str:
    key = status.stage_status(PROFILE)[STAGE].key
    assert key is not None
    return key


def shown(monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(width=100, record=True, highlight=False, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    monkeypatch.setattr(work, "screen", lambda: console)
    work.show(PROFILE, work.unfinished(PROFILE))
    text = console.export_text()
    console.file.close()
    assert all(len(line) <= 100 for line in text.splitlines())
    return text


def test_the_table_shows_stage_key_step_size_age_and_difference(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no unfinished work" in shown(monkeypatch)
    leave("a", step=66, days=3, rate=1, width=7)
    leave(today(), days=0.1)
    write_atomic(leave("b") / "rows" / "00000000-00000009.parquet", b"x" * 2_000_000)
    text = shown(monkeypatch)
    a, mine, b = (next(row for row in text.splitlines() if key in row) for key in ("a" * 16, today(), "b" * 16))
    for word in (STAGE, "66/1,200", "3 days", "parameter"):
        assert word in a
    assert "corpus.rate: 1 → 2, and 1 more" in " ".join(text.replace("│", " ").split())
    assert "2 h 24 min" in mine
    assert "the same command" in mine
    assert "1 blocks" in b
    assert "2.0" in b
    with lock(graph.work_folder(PROFILE) / STAGE / "lock", "it"):
        assert shown(monkeypatch).count("at work") == 1


def test_gc_removes_the_published_and_the_old_and_keeps_the_newest_and_todays(runs: Runs) -> None:
    expected = [leave("1", days=40), leave(today(), days=60)]
    old, young = leave("2", days=50), leave("3", days=45)
    published, forced = leave("4", started=1), leave("5", started=9, days=44)
    for key in ("4", "5"):
        runs.add(STAGE, 5, key=key * 16)
    removed, refused = work.collect(PROFILE, days=47)
    assert not refused
    assert {unfinished.path: why for unfinished, why in removed} == {
        published: "published 2026-01-01 00:05",
        old: "untouched for 50 days",
    }
    assert all(path.exists() for path in (*expected, young, forced))
    work.collect(PROFILE, days=1)
    assert all(path.exists() for path in expected), "the newest of a stage, and today's"
    assert not young.exists()
    assert not forced.exists(), "an old one"


def test_gc_touches_nothing_of_a_stage_that_runs(runs: Runs) -> None:
    old = leave("2", days=50)
    leave("1")
    with lock(graph.work_folder(PROFILE) / STAGE / "lock", "it"):
        removed, refused = work.collect(PROFILE, days=1)
    assert not removed
    assert "stage corpus of profile smoke is already running" in refused[0]
    assert old.exists()


HOLDER = """
import sys, time
from pathlib import Path
from engine.launch.lifetime import lock
held = lock(Path(sys.argv[1]), "it")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ["lock", "lock.0", "lock.17"])
def test_gc_touches_nothing_beside_a_process_that_works(runs: Runs, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is a driver, or a job's rank that works on after its driver has left and Slurm has forgotten it."""
    published, old = leave("4", days=3, started=1), leave("2", days=50)
    leave("1")
    runs.add(STAGE, 5, key="4" * 16)
    path = graph.work_folder(PROFILE) / STAGE / name
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            removed, refused = work.collect(PROFILE, days=1)
            assert "at work" in shown(monkeypatch)
        finally:
            holder.kill()
    assert removed == []
    assert len(refused) == 1
    assert f"{path} is held by process {holder.pid}): wait for it or stop it." in refused[0]
    assert published.exists()
    assert old.exists()
    removed, refused = work.collect(PROFILE, days=1)
    assert {unfinished.path for unfinished, _ in removed} == {published, old}, (
        "the same locks lie there, and nobody holds them"
    )
    assert not refused


def test_another_key_keeps_its_work_and_fresh_drops_its_own_alone(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    other, own = leave("1", step=66), leave("2", step=3)
    run = StageRun(STAGE, [], None, RunContext(PROFILE, {}), None, None)
    monkeypatch.delenv(FRESH, raising=False)
    assert run._workspace(own) == own
    assert (own / BEGUN).exists()
    monkeypatch.setenv(FRESH, "1")
    assert not list(run._workspace(own).iterdir())
    assert (other / "training/checkpoints/00000066/meta.json").exists()


def test_clean_leaves_a_forced_run_that_can_go_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "ROOT", runs.root)
    finished, forced = leave("4", started=1), leave("5", started=9)
    for key in ("4", "5"):
        runs.add(STAGE, 5, key=key * 16)
    assert clean.finished_work() == [finished]
    assert forced.exists()


def test_the_plan_calls_unfinished_work_of_todays_key_interrupted(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed without a record as well; not while a process is at it, nor where the outputs are what they should be."""
    leave("1", step=5)
    assert status.stage_status(PROFILE)[STAGE].state == "missing"
    leave(today(), step=66)
    now = status.stage_status(PROFILE)
    assert (now[STAGE].state, now[STAGE].reason) == ("interrupted", "stopped at 66 of 1,200; the same command goes on")
    with lock(graph.work_folder(PROFILE) / STAGE / "lock", "it"):
        assert status.stage_status(PROFILE)[STAGE].state == "missing"
    record = runs.add(STAGE, 1, outcome="failed", key=today())
    assert status.stage_status(PROFILE)[STAGE].state == "failed"
    content = {name: value for name, value in record.items() if name != "path"}
    write_atomic(record["path"], canonical_json({**content, "outcome": "interrupted", "error": "stopped"}))
    assert status.stage_status(PROFILE)[STAGE].state == "interrupted"
    runs.add(STAGE, 2, key=today())
    assert status.stage_status(PROFILE)[STAGE].state == "fresh"


def test_a_node_run_alone_leaves_the_work_of_the_others(runs: Runs, tmp_path: Path) -> None:
    nodes = graph.stage_graph("sft").pipeline.nodes
    assert len(nodes) > 1
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    StageRun("sft", nodes[:1], None, RunContext(PROFILE, {}), None, None)._drop(workspace)
    assert workspace.is_dir()
    StageRun("sft", nodes, None, RunContext(PROFILE, {}), None, None)._drop(workspace)
    assert not workspace.exists()
