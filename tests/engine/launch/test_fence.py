"""A rank ends when its run directory tells of a later attempt, and never for any other reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.launch.drain import RUN_DIR
from engine.launch.fence import ATTEMPTS, superseded

CODE = 3
RANK = f"""
import time
from engine.launch.fence import end_when_superseded
end_when_superseded({CODE}, every=0.05)
print("ready", flush=True)
time.sleep(60)
"""


def begin(directory: Path, job: str, attempt: int, ended: bool = False) -> None:
    """What a job's script says at the beginning, or at the end, of an attempt."""
    with (directory / ATTEMPTS).open("a") as file:
        file.write(json.dumps({"job": job, "attempt": attempt, "ended" if ended else "begun": 1}) + "\n")


def surroundings(directory: Path, **more: str) -> dict[str, str]:
    """Those of a rank in the second attempt of job 7."""
    return {RUN_DIR: str(directory), "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", **more}


def test_a_process_ends_when_the_next_attempt_begins(tmp_path: Path) -> None:
    begin(tmp_path, "7", 0)
    begin(tmp_path, "7", 1)
    environment = {**os.environ, **surroundings(tmp_path)}
    rank = subprocess.Popen([sys.executable, "-c", RANK], env=environment, stdout=subprocess.PIPE, text=True)
    assert rank.stdout
    assert rank.stdout.readline() == "ready\n"
    begin(tmp_path, "7", 0, ended=True)
    with pytest.raises(subprocess.TimeoutExpired):
        rank.wait(0.5)
    begin(tmp_path, "7", 2)
    assert rank.wait(60) == CODE


@pytest.mark.parametrize(
    ("job", "attempt", "more", "want"),
    [
        ("7", 1, {}, False),
        ("7", 2, {}, True),
        ("8", 0, {}, True),
        ("7_2", 1, {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, False),
        ("9_2", 0, {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, True),
    ],
)
def test_what_began_last_counts(
    job: str, attempt: int, more: dict[str, str], want: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in surroundings(tmp_path, **more).items():
        monkeypatch.setenv(name, value)
    assert not superseded(), "nothing is told yet"
    begin(tmp_path, job, attempt)
    assert superseded() is want
    with (tmp_path / ATTEMPTS).open("a") as file:
        file.write('{"job": "99", "att')  # just being written
    assert superseded() is want


def test_outside_of_a_job_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, "8", 0)
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not superseded()
