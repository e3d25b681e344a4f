"""The meaning of a job's state for its driver: a pure function of Slurm's report and of what the job has left.

exit.json, which the job's script writes last, decides how the work ended. Slurm's report tells only when to look.
COMPLETING is never an end: a job that is requeued, preempted or loses a node goes through it on its way to the queue.
"""

from dataclasses import dataclass
from enum import StrEnum

from engine.launch.slurm.client import JobStatus

HEALTH = 76
"""Exit code of a script whose nodes were found unfit before the work began."""


class State(StrEnum):
    """The state of a job, for its driver."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDING = "ending"
    SUCCEEDED = "succeeded"
    FAILED_APP = "failed"
    FAILED_INFRA = "lost its machine"
    PREEMPTED_OUT = "was preempted"
    TIMED_OUT = "ran out of time"
    CANCELLED = "was cancelled"
    LOST = "is known to nobody"


UNDER_WAY = {State.QUEUED, State.RUNNING, State.ENDING}
WORTH_ANOTHER = {State.FAILED_INFRA, State.PREEMPTED_OUT, State.TIMED_OUT, State.LOST}
"""Ends that are not the work's fault: another job may continue from its last checkpoint."""
MAY_NEVER_START = {
    "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionDown", "PartitionInactive",
    "ReqNodeNotAvail", "BadConstraints", "DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin",
    "job_requeued_in_held_state", "launch_failed_requeued_held", "AccountNotAllowed", "QOSNotAllowed",
    "InvalidAccount", "InvalidQOS", "AssocGrpNodeLimit", "AssocMaxNodePerJobLimit", "QOSMaxNodePerJobLimit",
}  # fmt: skip
"""Reasons for which a job may wait forever."""

_QUEUED = {
    "PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "REQUEUE_FED",
}  # fmt: skip
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_ENDS = {
    "NODE_FAIL": State.FAILED_INFRA,
    "BOOT_FAIL": State.FAILED_INFRA,
    "PREEMPTED": State.PREEMPTED_OUT,
    "TIMEOUT": State.TIMED_OUT,
    "DEADLINE": State.TIMED_OUT,
    "OUT_OF_MEMORY": State.FAILED_APP,
    "REVOKED": State.LOST,
}


@dataclass(frozen=True)
class Exit:
    """exit.json: how the script of an attempt ended.

    `rc` is the ranks' exit code, `drain` whether they had been asked to end soon, `done` whether their outputs were
    handed over, `failed` whether the reason was in the work itself (not in a rank that was lost).
    """

    job: str
    attempt: int
    rc: int
    drain: bool = False
    done: bool = False
    failed: bool = True


@dataclass(frozen=True)
class JobVerdict:
    """The state of a job, and the reason for it."""

    state: State
    why: str = ""


def judge(status: JobStatus | None, left: Exit | None) -> JobVerdict:
    """Return the state of a job.

    Args:
        status: Slurm's report; None if neither controller nor accounting knows the job.
        left: the exit.json of exactly this job, if it exists.

    """
    if status is None:
        return (
            _by_exit(left) if left else JobVerdict(State.LOST, "neither Slurm nor its run directory knows how it ended")
        )
    name = status.state
    if name in _QUEUED:
        return JobVerdict(State.QUEUED, status.reason or name)
    if name in _RUNNING:
        return JobVerdict(State.RUNNING, "" if name == "RUNNING" else name)
    if name == "COMPLETING":
        return JobVerdict(State.ENDING)
    if left and left.attempt < status.attempt:
        left = None  # it belongs to an earlier attempt
    if name == "COMPLETED":
        return _completed(left)
    if name == "FAILED":
        return _failed(status, left)
    if name == "CANCELLED":
        return _cancelled(status)
    if name in _ENDS:
        return JobVerdict(_ENDS[name], f"Slurm says {name}{_reason(status)}")
    return JobVerdict(State.ENDING, f"Slurm says {name}, which is unknown here")


def _by_exit(left: Exit) -> JobVerdict:
    if left.rc == 0:
        return JobVerdict(State.SUCCEEDED)
    if left.rc == HEALTH or not left.failed:
        return JobVerdict(State.FAILED_INFRA, _code(left.rc))
    return JobVerdict(State.FAILED_APP, _code(left.rc))


def _completed(left: Exit | None) -> JobVerdict:
    if left is None:
        return JobVerdict(State.FAILED_APP, "Slurm calls it a success, but it left no exit.json")
    if left.rc:
        return JobVerdict(State.FAILED_APP, f"Slurm calls it a success, but exit.json says {_code(left.rc)}")
    return JobVerdict(State.SUCCEEDED)


def _failed(status: JobStatus, left: Exit | None) -> JobVerdict:
    if left:
        verdict = _by_exit(left)
        if verdict.state is not State.SUCCEEDED:
            return verdict
        return JobVerdict(State.FAILED_INFRA, f"its work was done, but Slurm says FAILED{_reason(status)}")
    if status.code == HEALTH or status.reason == "JobLaunchFailure":
        return JobVerdict(State.FAILED_INFRA, _code(status.code) + _reason(status))
    how = f"signal {status.signal}" if status.signal and not status.code else _code(status.code)
    return JobVerdict(State.FAILED_APP, how + _reason(status))


def _cancelled(status: JobStatus) -> JobVerdict:
    if status.reason == "DependencyNeverSatisfied":
        return JobVerdict(State.FAILED_APP, "a job that it depended on failed")
    return JobVerdict(State.CANCELLED, f"by user id {status.by}" if status.by else "")


def _code(code: int) -> str:
    return f"exit code {code}"


def _reason(status: JobStatus) -> str:
    return f" ({status.reason})" if status.reason else ""
