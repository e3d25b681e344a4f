"""What the tests of draining and of Ctrl-C share."""

import pytest

from tests.kill.pretraining import Pretraining


@pytest.fixture(scope="session")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    """The graph's own pretrain with all that it reads, made once."""
    return Pretraining(tmp_path_factory.mktemp("pretraining"))
