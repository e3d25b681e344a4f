"""Two commands at once on one ledger: ours wait, DVC's own may fail, and the ledger stays whole."""

import re
import subprocess

import pytest
import yaml

from tests.dvc.conftest import ran
from tests.project import ENVIRONMENT, LEDGER, PROFILE, Project

pytestmark = pytest.mark.slow


def at_once(project: Project, *commands: list[str]) -> list[tuple[int, str]]:
    """Start all commands, wait for all, and return the exit status and output of each."""
    started = [
        subprocess.Popen(
            words, cwd=project.path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for words in commands
    ]
    outputs = [process.communicate(timeout=600)[0] for process in started]
    return [(process.returncode, text) for process, text in zip(started, outputs, strict=True)]


def assert_whole(project: Project) -> None:
    """dvc.lock parses, names every stage, and leaves nothing to run."""
    lock = yaml.safe_load((project.path / LEDGER.replace("dvc.yaml", "dvc.lock")).read_text())
    assert len(lock["stages"]) == 10
    assert ran(project.repro().stdout) == ["code"]


@pytest.mark.parametrize(("stages", "waits"), [(("corpus", "tooluse"), False), (("corpus", "rephrase"), True)])
def test_ours_wait_where_one_reads_what_the_other_makes(made: Project, stages: tuple[str, ...], waits: bool) -> None:
    before = made.runs()
    words = ["python", "-m", "pipelines.commands.repro", "--env", PROFILE, "--force", "--stage"]
    results = at_once(made, *([*words, stage] for stage in stages))
    assert [status for status, _ in results] == [0, 0], results
    waits_of_each = [re.findall(r"(\w+) of \S+ is held by process.*; waiting for it", text) for _, text in results]
    assert any("corpus" in names for names in waits_of_each) == waits, results
    assert made.ran_since(before) == list(stages)
    assert_whole(made)


def test_two_of_dvcs_own_leave_the_ledger_whole(made: Project) -> None:
    results = at_once(made, *(["dvc", "repro", "-f", "-s", f"{LEDGER}:{stage}"] for stage in ("corpus", "tooluse")))
    assert all(status == 0 or "lock" in text or "busy" in text for status, text in results), results
    assert_whole(made)
