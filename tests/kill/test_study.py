"""SIGKILL in the middle of a study, run again: finished units are kept, the others end in the same bits."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from studies.registration import register
from studies.run import run_study
from tests.nodes import text
from tests.project import ENVIRONMENT, ROOT
from tests.studies import run_toy
from tests.studies.toy import register_at, study

pytestmark = pytest.mark.slow


def test_killed_and_resumed(tmp_path) -> None:
    shards = text.make(tmp_path / "text")[1]
    conf = register_at(tmp_path / "repository", study(budgets={"1x": 40, "2x": 80}))
    want = run_study(register(conf, "toy"), shards, tmp_path / "undisturbed", ("code", "data")).runs
    work = tmp_path / "killed"
    for least in (4, 20):
        kill_after(least, conf, shards, work)
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("result.json")}
    runs = run_study(register(conf, "toy"), shards, work, ("code", "data")).runs
    assert [bits(run) for run in runs] == [bits(run) for run in want]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def bits(run: dict) -> tuple:
    return run["arm"], run["seed"], run["budget"], run["failed"], run["figures"].get("weights"), str(run["curves"])


def kill_after(least: int, conf, shards, work) -> None:
    """Start the study in a process of its own and kill it once `least` units are done; no worker may live on."""
    words = [sys.executable, run_toy.__file__, str(conf), str(shards), str(work)]
    process = subprocess.Popen(words, cwd=ROOT, env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 240
    while sum("result.json" in files for _, _, files in os.walk(work)) < least:  # folders come and go under it
        assert process.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
