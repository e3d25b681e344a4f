"""Every row of the table: what Slurm says and the job has left → what its driver takes it for."""

import pytest

from engine.launch.slurm.client import JobStatus
from engine.launch.slurm.states import UNDER_WAY, WORTH_ANOTHER, Exit, State, judge

GOOD = Exit("7", 0, 0, done=True, failed=False)
BAD = Exit("7", 0, 1, failed=True)
LOST = Exit("7", 0, 3, failed=False)
UNFIT = Exit("7", 0, 76, failed=False)
DRAINED = Exit("7", 0, 85, drain=True, failed=False)


@pytest.mark.parametrize(
    "word", ["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED"]
)
def test_in_the_queue(word: str) -> None:
    assert judge(JobStatus(word, "Resources"), None).state is State.QUEUED
    assert judge(JobStatus(word, "Resources"), None).why == "Resources"
    assert judge(JobStatus(word, attempt=1), GOOD).state is State.QUEUED, "an earlier attempt's end is not this one's"


@pytest.mark.parametrize("word", ["RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"])
def test_running(word: str) -> None:
    assert judge(JobStatus(word), None).state is State.RUNNING


@pytest.mark.parametrize("left", [None, GOOD, BAD, DRAINED])
def test_completing_is_no_end(left: Exit | None) -> None:
    assert judge(JobStatus("COMPLETING"), left).state is State.ENDING


def test_a_state_that_is_unknown_is_no_end() -> None:
    assert judge(JobStatus("ASTONISHED"), GOOD).state in UNDER_WAY


@pytest.mark.parametrize(
    ("seen", "left", "state"),
    [
        (JobStatus("COMPLETED"), GOOD, State.SUCCEEDED),
        (JobStatus("COMPLETED"), None, State.FAILED_APP),
        (JobStatus("COMPLETED"), BAD, State.FAILED_APP),
        (JobStatus("COMPLETED", attempt=1), GOOD, State.FAILED_APP),  # left by the attempt before
        (JobStatus("FAILED", "NonZeroExitCode", code=1), BAD, State.FAILED_APP),
        (JobStatus("FAILED", "NonZeroExitCode", code=143), LOST, State.FAILED_INFRA),
        (JobStatus("FAILED", "NonZeroExitCode", code=85), DRAINED, State.FAILED_INFRA),
        (JobStatus("FAILED", "NonZeroExitCode", code=76), UNFIT, State.FAILED_INFRA),
        (JobStatus("FAILED", "NonZeroExitCode", code=76), None, State.FAILED_INFRA),
        (JobStatus("FAILED", "NonZeroExitCode", code=7), None, State.FAILED_APP),
        (JobStatus("FAILED", "JobLaunchFailure", signal=9), None, State.FAILED_INFRA),
        (JobStatus("FAILED", "NonZeroExitCode", attempt=1, code=7), LOST, State.FAILED_APP),
        (JobStatus("OUT_OF_MEMORY"), None, State.FAILED_APP),
        (JobStatus("NODE_FAIL", "NodeDown", signal=15), None, State.FAILED_INFRA),
        (JobStatus("BOOT_FAIL"), None, State.FAILED_INFRA),
        (JobStatus("PREEMPTED"), None, State.PREEMPTED_OUT),
        (JobStatus("TIMEOUT", "TimeLimit", signal=15), None, State.TIMED_OUT),
        (JobStatus("DEADLINE"), None, State.TIMED_OUT),
        (JobStatus("CANCELLED", signal=15), None, State.CANCELLED),
        (JobStatus("CANCELLED", "DependencyNeverSatisfied"), None, State.FAILED_APP),
        (JobStatus("REVOKED"), None, State.LOST),
        (None, GOOD, State.SUCCEEDED),
        (None, BAD, State.FAILED_APP),
        (None, LOST, State.FAILED_INFRA),
        (None, UNFIT, State.FAILED_INFRA),
        (None, None, State.LOST),
    ],
)
def test_ends(seen: JobStatus | None, left: Exit | None, state: State) -> None:
    assert judge(seen, left).state is state
    assert state not in UNDER_WAY


def test_the_ranks_exit_code_comes_before_slurms() -> None:
    assert "exit code 7" in judge(JobStatus("FAILED", "NonZeroExitCode", code=143), Exit("7", 0, 7)).why
    assert "exit code 143" in judge(JobStatus("FAILED", "NonZeroExitCode", code=143), None).why


def test_who_cancelled() -> None:
    assert judge(JobStatus("CANCELLED", by="1000"), None).why == "by user id 1000"


def test_only_ends_that_say_nothing_against_the_work_are_worth_another() -> None:
    assert {State.FAILED_INFRA, State.PREEMPTED_OUT, State.TIMED_OUT, State.LOST} == WORTH_ANOTHER
