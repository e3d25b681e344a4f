"""Tests with DeepSpeed, which is optional: `make test-deepspeed` installs it apart from the environment."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.parallel.ranks import PRELOADED, together

REASON = "DeepSpeed is not installed here: make test-deepspeed installs it apart and runs these tests"


@pytest.fixture(scope="session", autouse=True)
def _on_the_cpu() -> Any:
    """DeepSpeed is imported once for all ranks, before they say on which device they work."""
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    yield
    del os.environ["DS_ACCELERATOR"]
    if before is not None:
        os.environ["DS_ACCELERATOR"] = before


def in_ranks(size: int, target: Callable[..., Any], *given: Any) -> list[Any]:
    """What `together` returns, of ranks that have DeepSpeed imported."""
    return together(size, target, *given, seconds=120, preloaded=[*PRELOADED, "deepspeed"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where there is no DeepSpeed."""
    if importlib.util.find_spec("deepspeed") is None:
        for item in items:
            if "tests/deepspeed" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=REASON))
