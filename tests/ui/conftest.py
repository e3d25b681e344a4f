"""One page for all tests: making its data and starting it takes most of the time."""

from collections.abc import Iterator

import pytest

from tests.ui.room import Room


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    opened = Room(tmp_path_factory.mktemp("room"))
    yield opened
    opened.close()
