"""Being asked to end soon: by signal, by file, and what a process then leaves and ends with."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.launch import drain
from engine.launch.drain import DONE, DRAIN, DRAINED, RUN_DIR


@pytest.fixture(autouse=True)
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is asked once and for all; a test's is to forget it."""
    monkeypatch.setattr(drain, "_signalled", False)
    monkeypatch.setattr(drain, "_last_look", -float("inf"))
    monkeypatch.delenv(RUN_DIR, raising=False)


def test_the_signal_asks_and_is_not_forgotten() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        drain.install()
        assert not drain.asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert drain.asked()
        assert drain.asked()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_file_asks_and_is_looked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    assert not drain.asked()
    (tmp_path / DRAIN).touch()
    assert not drain.asked(), "looked for less than a second ago"
    monkeypatch.setattr(drain, "_last_look", drain._last_look - drain.LOOK_EVERY_SECONDS)
    assert drain.asked()
    (tmp_path / DRAIN).unlink()
    assert drain.asked(), "it cannot be taken back"


def test_a_process_that_was_not_dispatched_looks_for_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DRAIN).touch()
    assert not drain.asked()
    drain.mark_done()
    assert [path.name for path in tmp_path.iterdir()] == [DRAIN]


def test_done_is_said_in_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    drain.mark_done()
    assert [path.name for path in tmp_path.iterdir()] == [DONE]


def test_drained_ends_the_process_with_its_own_exit_code() -> None:
    """Through handlers of errors too: what is drained has not failed."""
    code = """
from engine.launch import drain
try:
    raise drain.Drained
except Exception:
    raise SystemExit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (DRAINED, b"")
