"""What a job's state means to whoever waits for it: a pure function of what Slurm says and of what the job has left.

exit.json, which the job's script writes last, is the truth on how the work ended. Slurm's word tells only when to look.
COMPLETING is never an end: a job that is requeued, preempted or loses a node goes through it on its way to the queue.
"""

from dataclasses import dataclass
from enum import StrEnum

from engine.launch.slurm.client import Seen

HEALTH = 76
"""Exit code of a script whose nodes were found unfit before the work began."""


class State(StrEnum):
    """Of a job, for its driver."""

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
"""Ends that say nothing against the work: another job may go on from its last checkpoint."""
MAY_NEVER_START = {
    "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "PartitionDown", "PartitionInactive",
    "ReqNodeNotAvail", "BadConstraints", "DependencyNeverSatisfied", "JobHeldUser", "JobHeldAdmin",
    "job_requeued_in_held_state", "launch_failed_requeued_held", "AccountNotAllowed", "QOSNotAllowed",
    "InvalidAccount", "InvalidQOS", "AssocGrpNodeLimit", "AssocMaxNodePerJobLimit", "QOSMaxNodePerJobLimit",
}  # fmt: skip
"""Reasons for which a job may wait for ever."""

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
    handed over, `failed` whether the reason lay in the work itself (not in a rank that was lost).
    """

    job: str
    attempt: int
    rc: int
    drain: bool = False
    done: bool = False
    failed: bool = True


@dataclass(frozen=True)
class Verdict:
    """A state, and what there is to say on it."""

    state: State
    why: str = ""


def judge(seen: Seen | None, left: Exit | None) -> Verdict:
    """The state of a job.

    Args:
        seen: what Slurm says; None where neither controller nor accounting knows the job.
        left: the exit.json of this very job, if there is one.

    """
    if seen is None:
        return _by_exit(left) if left else Verdict(State.LOST, "neither Slurm nor its run directory knows how it ended")
    name = seen.state
    if name in _QUEUED:
        return Verdict(State.QUEUED, seen.reason or name)
    if name in _RUNNING:
        return Verdict(State.RUNNING, "" if name == "RUNNING" else name)
    if name == "COMPLETING":
        return Verdict(State.ENDING)
    if left and left.attempt < seen.attempt:
        left = None  # an earlier attempt's
    if name == "COMPLETED":
        return _completed(left)
    if name == "FAILED":
        return _failed(seen, left)
    if name == "CANCELLED":
        return _cancelled(seen)
    if name in _ENDS:
        return Verdict(_ENDS[name], f"Slurm says {name}{_reason(seen)}")
    return Verdict(State.ENDING, f"Slurm says {name}, which is unknown here")


def _by_exit(left: Exit) -> Verdict:
    if left.rc == 0:
        return Verdict(State.SUCCEEDED)
    if left.rc == HEALTH or not left.failed:
        return Verdict(State.FAILED_INFRA, _code(left.rc))
    return Verdict(State.FAILED_APP, _code(left.rc))


def _completed(left: Exit | None) -> Verdict:
    if left is None:
        return Verdict(State.FAILED_APP, "Slurm calls it a success, but it left no exit.json")
    if left.rc:
        return Verdict(State.FAILED_APP, f"Slurm calls it a success, but exit.json says {_code(left.rc)}")
    return Verdict(State.SUCCEEDED)


def _failed(seen: Seen, left: Exit | None) -> Verdict:
    if left:
        verdict = _by_exit(left)
        if verdict.state is not State.SUCCEEDED:
            return verdict
        return Verdict(State.FAILED_INFRA, f"its work was done, but Slurm says FAILED{_reason(seen)}")
    if seen.code == HEALTH or seen.reason == "JobLaunchFailure":
        return Verdict(State.FAILED_INFRA, _code(seen.code) + _reason(seen))
    how = f"signal {seen.signal}" if seen.signal and not seen.code else _code(seen.code)
    return Verdict(State.FAILED_APP, how + _reason(seen))


def _cancelled(seen: Seen) -> Verdict:
    if seen.reason == "DependencyNeverSatisfied":
        return Verdict(State.FAILED_APP, "a job that it depended on failed")
    return Verdict(State.CANCELLED, f"by user id {seen.by}" if seen.by else "")


def _code(code: int) -> str:
    return f"exit code {code}"


def _reason(seen: Seen) -> str:
    return f" ({seen.reason})" if seen.reason else ""
