"""The process that judges beside a stage gives this process's own verdicts, and does not outlive it."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from engine.errors import UserError
from pipelines.gates import beside, validation
from pipelines.gates.suites import Suite
from tests.processes import wait_until_gone

SUITE = Suite(
    "t", "id", expectations=[{"type": "expect_column_values_to_be_between", "column": "rows", "min_value": 1}]
)


@pytest.fixture
def started() -> Iterator[None]:
    beside.start()
    yield
    beside.stop()


@pytest.mark.usefixtures("started")
def test_it_answers_as_this_process_would() -> None:
    for rows in (0, 3, float("nan")):
        assert beside.validate("t", {"rows": rows}, SUITE) == validation.validate("t", {"rows": rows}, SUITE)
    wrong = Suite("t", "id", expectations=[{"type": "expect_wonders", "column": "rows"}])
    with pytest.raises(UserError, match="conf/base/gates.yml: suite t"):
        beside.validate("t", {"rows": 1}, wrong)


def test_it_prints_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    beside.start()
    beside.validate("t", {"rows": 1}, SUITE)
    beside.stop()
    assert "Warning" not in capfd.readouterr().err


@pytest.mark.usefixtures("started")
def test_a_killed_judge_is_reported_in_one_sentence() -> None:
    assert beside._started is not None
    beside._started.kill()
    beside._started.wait()
    with pytest.raises(UserError, match="ended with status -9, so nothing was published"):
        beside.validate("t", {"rows": 1}, SUITE)


def test_it_dies_with_the_process_that_started_it() -> None:
    code = (
        "from pipelines.gates import beside; beside.start(); print(beside._started.pid, flush=True); "
        "import signal; signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until_gone(child)
