"""A command that runs for Dagster: every line is logged, and nothing is left behind when the run is cancelled."""

import sys

import pytest

from dags.execute import cause, run_logged, stage_command
from tests.processes import wait_until_gone


def test_lines_arrive_in_order_with_the_exit_status():
    heard: list[str] = []
    script = "import sys; print('one'); print('two', file=sys.stderr); print('50 %\\r99 %\\rdone'); sys.exit(3)"
    status, tail = run_logged([sys.executable, "-u", "-c", script], heard.append)
    assert status == 3
    assert heard == tail == ["one", "two", "done"], "of a bar its last state"


def test_a_cancelled_run_stops_the_command_and_its_children(tmp_path):
    script = f"sleep 60 & echo $! > {tmp_path}/child; echo ready; wait"

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_logged(["bash", "-c", script], interrupt)
    child = int((tmp_path / "child").read_text())
    wait_until_gone(child)


@pytest.mark.parametrize(
    ("tail", "sentence"),
    [
        (["x", "error: the disk is full", "ERROR: failed"], "the disk is full"),
        (["x", "ERROR: lock"], "ERROR: lock"),
        ([], "no output"),
    ],
)
def test_the_cause_is_our_own_sentence_if_there_is_one(tail, sentence):
    assert cause(tail) == sentence


def test_a_stage_runs_in_its_turn():
    want = ["pipelines.commands.repro", "--env", "k2", "--stage", "sft", "--force"]
    assert stage_command("sft", "k2", force=True)[2:] == want
