"""The command of `make repro` and Dagster's buttons, and when it has to wait."""

import fcntl
import os
import subprocess
import sys
import time

import pytest

from engine.artifacts.files import canonical_json, write_atomic
from pipelines import graph
from pipelines.code_files import code_file, stage_file
from pipelines.commands.repro import code_is_current, command


def test_each_profile_has_its_own_ledger() -> None:
    assert command("laptop") == ["dvc", "--wait-for-lock", "repro", "dvc.yaml"]
    assert command("laptop", "sft")[3:] == ["-s", "dvc.yaml:sft"]
    assert command("k2", "sft", force=True)[3:] == ["-f", "-s", "conf/k2/dvc.yaml:sft"]


def test_a_code_file_is_current_only_while_it_matches_the_code(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(graph, "data_folder", lambda profile: tmp_path)
    assert not code_is_current("corpus", "smoke")
    path = code_file("corpus", "smoke")
    write_atomic(path, canonical_json(stage_file("corpus", "smoke")))
    assert code_is_current("corpus", "smoke")
    path.write_text("{}")
    assert not code_is_current("corpus", "smoke")


TAKES = """
import sys
from pathlib import Path
from pipelines import graph
from pipelines.commands import repro
root = Path(sys.argv[1])
graph.data_folder = lambda profile: root
repro.code_is_current = lambda stage, profile: True
repro.command = lambda *words, **more: ["tabnanny", "/dev/null"]  # in the place of DVC: says and does nothing
repro.take_turn("smoke", sys.argv[2] or None)
print("has it", flush=True)
sys.stdin.read()
"""


class Runs:
    """The processes that hold their locks, or wait for them."""

    def __init__(self, root) -> None:
        self.root, self.started = root, []

    def start(self, stage: str):
        words = [sys.executable, "-c", TAKES, str(self.root), stage]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.started.append(process)
        return process

    def holds(self, name: str) -> bool:
        """Return whether a process holds a stage's lock exclusively."""
        lock = os.open(self.root / ".work/.turns" / name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False


@pytest.fixture
def turns(tmp_path):
    started = Runs(tmp_path)
    yield started
    for process in started.started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ("corpus", "tooluse", False),
        ("corpus", "rephrase", True),
        ("rephrase", "corpus", True),
        ("sft", "sft", True),
        ("", "corpus", True),
        ("corpus", "", True),
    ],
)
def test_a_run_waits_for_those_that_it_reads_from_and_that_read_from_it(turns, first, second, waits) -> None:
    earlier = turns.start(first)
    assert earlier.stdout.readline() == "has it\n", earlier.communicate()[1]
    two = turns.start(second)
    if waits:
        assert f" is held by process {earlier.pid}; waiting for it" in two.stderr.readline()
        time.sleep(0.1)
        earlier.kill()
    assert two.stdout.readline() == "has it\n"
    assert turns.holds(second or "evaluate")
