"""The smoke graph, run once by DVC and committed with its ledger, for every test of this folder."""

import re
from pathlib import Path

import pytest

from tests.project import LEDGER, Project

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@t")


def commit(project: Project, message: str) -> None:
    """Commit everything and the ledger, as a user does who wants to come back to a state."""
    ledger = LEDGER.replace("dvc.yaml", "dvc.lock")
    project.run("git", "add", "-A")
    project.run("git", "add", "-f", ledger)
    project.run("git", *IDENTITY, "commit", "-qm", message)


def ran(output: str) -> list[str]:
    """Return the stages that DVC says it ran."""
    return re.findall(r"Running stage '(?:.*:)?(\w+)'", output)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole smoke graph."""
    project = Project(Path(tmp_path_factory.mktemp("made")))
    project.repro()
    commit(project, "as made")
    return project
