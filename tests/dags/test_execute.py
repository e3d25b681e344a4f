"""Running a command for Dagster: every line is heard, and nothing is left behind when the run is cancelled."""

import os
import subprocess
import sys
import time

import pytest
import yaml

from dags import execute
from dags.execute import bring_up_to_date, cause, code_is_current, run_logged, stage_command
from engine.artifacts.files import canonical_json, write_atomic
from pipelines.code import code_file, stage_file


def test_lines_arrive_in_order_with_the_exit_status():
    heard: list[str] = []
    script = "import sys; print('one'); print('two', file=sys.stderr); print('50 %\\r99 %\\rdone'); sys.exit(3)"
    status, tail = run_logged([sys.executable, "-u", "-c", script], heard.append)
    assert status == 3
    assert heard == tail == ["one", "two", "done"], "of a bar its last state"


def test_a_cancelled_run_stops_the_command_and_its_children(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo ready; wait"

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(["bash", "-c", script], interrupt)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (["x", "error: the disk is full", "ERROR: failed"], "the disk is full"),
        (["x", "ERROR: lock"], "ERROR: lock"),
        ([], "no output"),
    ],
)
def test_the_cause_is_our_own_sentence_if_there_is_one(tail, sentence):
    assert cause(tail) == sentence


def test_each_profile_has_its_own_ledger():
    assert stage_command("sft", "laptop")[2:] == ["dvc", "repro", "-s", "dvc.yaml:code", "dvc.yaml:sft"]
    assert stage_command("sft", "k2", force=True)[4:7] == ["-f", "-s", "conf/k2/dvc.yaml:code"]


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """A real DVC repository whose stage `slow` reads and whose stage `code` writes the same file."""
    stages = {
        "code": {"cmd": "echo x > code.txt", "outs": [{"code.txt": {"persist": True}}], "always_changed": True},
        "slow": {"cmd": "touch begun && sleep 8 && echo y > slow.txt", "deps": ["code.txt"], "outs": ["slow.txt"]},
        "quick": {"cmd": "echo z > quick.txt", "deps": ["code.txt"], "outs": ["quick.txt"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "RETRY_SECONDS", 0.5)
    slow = subprocess.Popen([*dvc, "repro", "-q", "code", "slow"], cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        assert slow.poll() is None
        time.sleep(0.1)
    yield tmp_path
    assert slow.wait(60) == 0


@pytest.mark.parametrize("current", [True, False])
def test_a_stage_beside_another_waits_only_if_it_must(ledger, monkeypatch, current):
    monkeypatch.setattr(execute, "code_is_current", lambda *_: current)
    heard: list[str] = []
    status, _ = bring_up_to_date("quick", "laptop", False, heard.append)
    assert status == 0, heard
    assert (ledger / "quick.txt").exists()
    assert (ledger / "slow.txt").exists() != current
    assert sum("another dvc process is at work" in line for line in heard) == 1


def test_code_is_current_only_as_long_as_its_file_says_what_stands(runs, monkeypatch):
    assert not code_is_current("corpus", "smoke")
    path = code_file("corpus", "smoke")
    write_atomic(path, canonical_json(stage_file("corpus", "smoke")))
    assert code_is_current("corpus", "smoke")
    path.write_text("{}")
    assert not code_is_current("corpus", "smoke")
