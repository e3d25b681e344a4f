"""Fixtures for the tests of killing, draining and Ctrl-C: the data stages' outputs, and pretrain undisturbed."""

import pytest

from tests.kill.pretraining import Pretraining
from tests.project import PROFILE, Project

DATA_STAGES = "corpus,rephrase,tooluse,tokenization"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A scratch copy in which the data stages have run, to be copied and not to be changed."""
    project = Project(tmp_path_factory.mktemp("made"))
    project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
    project.run("kedro", "run", "--env", PROFILE, "--pipelines", DATA_STAGES)
    return project


@pytest.fixture(scope="session")
def pretraining(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    """The graph's own pretrain with all that it reads."""
    return Pretraining(made.copied(tmp_path_factory.mktemp("pretraining") / "project"))
