"""A test that leaves something behind is failed, and what it left is put back."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.leaks import Surroundings, refuse


@pytest.fixture
def before() -> Iterator[Surroundings]:
    made = Surroundings()
    yield made
    made.restore()


def test_nothing_left_behind_is_no_refusal(before: Surroundings) -> None:
    refuse(before)


def test_a_signal_a_variable_and_a_directory_are_named_and_put_back(before: Surroundings, tmp_path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["K2_LEFT"] = "1"
    os.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"SIGTERM.*K2_LEFT.*working directory"):
        refuse(before)
    refuse(before)


def test_a_thread_and_a_child_are_named(before: Surroundings, monkeypatch) -> None:
    monkeypatch.setattr("tests.leaks.GRACE_SECONDS", 0.0)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    child = subprocess.Popen(["sleep", "600"])
    try:
        with pytest.raises(pytest.fail.Exception, match=rf"thread forgotten; child process {child.pid}"):
            refuse(before)
    finally:
        stop.set()
        thread.join()
        child.kill()
        child.wait()
