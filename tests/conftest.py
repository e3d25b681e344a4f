"""What holds for every test."""

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.leaks import watched

# A busy machine is no failure: hypothesis' 200 ms an example is off, pytest's own timeout stays.
settings.register_profile("k2", deadline=None)
settings.load_profile("k2")


def pytest_configure() -> None:
    """A shell ignores Ctrl-C in what it starts in the background, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def surroundings() -> Iterator[None]:
    """Every test leaves signals, environment, working directory, threads and children as it met them."""
    yield from watched()


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """Training flushes denormals to zero, a setting of the whole process, which hypothesis refuses to work under."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)
