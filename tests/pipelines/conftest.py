"""What holds for the tests of the wiring."""

import os
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True)
def variables() -> Iterator[None]:
    """The wiring sets variables of its process for MLflow and Great Expectations; here they end with the test."""
    with mock.patch.dict(os.environ):
        yield
