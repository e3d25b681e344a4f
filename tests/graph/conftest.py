"""The whole smoke graph, made once as the README says, for every test of this folder that needs all of it."""

import pytest

from tests.project import PROFILE, Project

MAKE = "make -o .venv/.ready -o .venv/.testable"
"""`make` that takes the environment as it is: the one that runs the tests."""


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A scratch copy in which `make run` has made every stage, by DVC."""
    scratch = Project(tmp_path_factory.mktemp("project"))
    scratch.run(*MAKE.split(), "run", f"PROFILE={PROFILE}")
    return scratch
