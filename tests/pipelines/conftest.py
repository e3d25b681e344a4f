"""A fixture for all tests of the wiring."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def variables() -> Iterator[None]:
    """Restore the variables that the wiring sets in its process for MLflow and Great Expectations."""
    with mock.patch.dict(os.environ):
        yield
