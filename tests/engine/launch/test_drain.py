"""Being asked to end soon: by signal, by file, and what a process then leaves and ends with."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.launch import drain
from engine.launch.drain import DONE, DRAIN, DRAINED, RUN_DIR


@pytest.fixture(autouse=True)
def never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is asked once and for all; a test's is to forget it."""
    monkeypatch.setattr(drain, "_signalled", False)
    monkeypatch.setattr(drain, "_interrupted", False)
    monkeypatch.setattr(drain, "_last_look", -float("inf"))
    monkeypatch.delenv(RUN_DIR, raising=False)


def test_the_signal_asks_and_is_not_forgotten() -> None:
    with as_a_rank():
        assert not drain.end_requested()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert drain.end_requested()
        assert drain.end_requested()


@contextmanager
def as_a_rank() -> Iterator[None]:
    """Take the signals as a rank does, for a while."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGINT)}
    drain.install()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_ctrl_c_ends_a_rank_at_once_unless_its_work_can_leave() -> None:
    """However often its driver and the terminal send it."""
    with as_a_rank():
        with pytest.raises(drain.Drained):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_asks_work_that_heeds_it() -> None:
    """And what comes behind that work is not begun."""
    reached = []

    def work() -> None:
        with drain.heeded():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(drain.end_requested())

    with as_a_rank(), pytest.raises(drain.Drained):
        work()
    assert reached == [True]


def test_a_driver_pauses_at_the_first_ctrl_c_and_stops_at_the_second(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with drain.pausing():
        with drain.heeded(to_the_end=True):
            os.kill(os.getpid(), signal.SIGINT)
            assert drain.end_requested()
            assert "Ctrl-C again stops at once" in capfd.readouterr().err
        assert drain.interrupted(), "so that no other stage is begun"
        with pytest.raises(KeyboardInterrupt), drain.heeded():
            os.kill(os.getpid(), signal.SIGINT)
    assert not drain.end_requested()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_driver_stops_at_once_where_nothing_heeds(capfd: pytest.CaptureFixture[str]) -> None:
    with drain.pausing(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not capfd.readouterr().err


def test_a_child_is_started_deaf() -> None:
    """One that takes no Ctrl-C yet is not torn down by it with a traceback."""
    words = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"]
    with drain.deaf_children():
        done = subprocess.run(words, capture_output=True, check=False)
    assert done.stdout == b"True\n"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_the_file_asks_and_is_looked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR, str(tmp_path))
    assert not drain.end_requested()
    (tmp_path / DRAIN).touch()
    assert not drain.end_requested(), "looked for less than a second ago"
    monkeypatch.setattr(drain, "_last_look", drain._last_look - drain.LOOK_EVERY_SECONDS)
    assert drain.end_requested()
    (tmp_path / DRAIN).unlink()
    assert drain.end_requested(), "it cannot be taken back"


def test_a_process_that_was_not_dispatched_looks_for_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DRAIN).touch()
    assert not drain.end_requested()
    drain.mark_done()
    assert [path.name for path in tmp_path.iterdir()] == [DRAIN]


def test_the_run_directory_shows_that_a_run_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
