"""Submit exactly one job per key, even if the driver dies between sbatch and the writing of its id.

The key is written before sbatch and becomes the job's comment. A driver that finds a submission without an id asks the
controller for the job with that comment; an id is trusted only if the comment agrees, since Slurm reuses the ids of
jobs that it has forgotten.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from engine.artifacts.files import write_atomic
from engine.errors import UserError
from engine.launch.slurm import client
from engine.launch.slurm.interrupts import Detached, Interrupts
from engine.launch.slurm.rundir import RunDirectory, Submitted
from engine.launch.slurm.script import Job, render
from engine.launch.slurm.states import UNDER_WAY, State, judge

T = TypeVar("T")
AGAIN_SECONDS = 5.0
REFUSED = "was refused"
"""The end of a submission that sbatch refused."""


def left_by_earlier_driver(
    directory: RunDirectory, say: Callable[[str], None], interrupts: Interrupts
) -> Submitted | None:
    """Return the submission that an earlier driver left and whose end nobody has handled; None if there is none."""
    left = directory.submitted()
    if left is None or left.published or left.ended not in {None, State.SUCCEEDED}:
        return None
    if left.id:
        return left
    ids = _reached(lambda: client.find(left.key), say, interrupts)
    if not ids:
        return None
    say(f"job {ids[0]} was submitted by a driver that ended before it could write the id down")
    for other in ids[1:]:
        client.cancel(other)
    return directory.write(replace(left, id=ids[0]))


def submit(job: Job, directory: RunDirectory, say: Callable[[str], None], interrupts: Interrupts) -> Submitted:
    """Submit the job under a new key and return the submission.

    Raises:
        Refused: Slurm refused the job; the message is Slurm's.
        Detached: the controller does not answer and the driver was told to leave.
        UserError: there is no sbatch.

    """
    write_atomic(directory.script, render(job).encode())
    begun = directory.begin(job.elements, job.shards)
    try:
        number = _reached(lambda: _submit_unless_found(directory, begun.key), say, interrupts)
    except client.Refused:
        directory.update(ended=REFUSED)  # Slurm keeps some refused jobs for a while, under their key
        raise
    return directory.write(replace(begun, id=number))


def _submit_unless_found(directory: RunDirectory, key: str) -> str:
    """Submit; if the controller accepted the job without answering, the next call finds it."""
    ids = client.find(key)
    return ids[0] if ids else client.sbatch(directory.script, key)


def _reached(ask: Callable[[], T], say: Callable[[str], None], interrupts: Interrupts) -> T:
    """Ask until the controller answers."""
    announced = False
    while True:
        try:
            return ask()
        except client.Unreachable as error:
            if not announced:
                say(f"Slurm's controller does not answer ({error}): trying until it does")
                announced = True
        _wait(interrupts)


def _wait(interrupts: Interrupts) -> None:
    """Wait until the controller is asked again; raises Detached if the driver was told to leave."""
    for _ in range(int(AGAIN_SECONDS * 10)):
        if interrupts.presses or interrupts.terminated:
            raise Detached(
                "Slurm's controller did not answer, so it is not known whether it took the job: run the same command "
                "again, which looks for it before it submits one."
            )
        time.sleep(0.1)


def under_way(directory: RunDirectory) -> list[str]:
    """Return the jobs of a run directory that wait, run or are ending, according to the controller.

    Raises UserError if the controller does not answer, since there may be such a job.
    """
    left = directory.submitted()
    if left is None or left.ended:
        return []
    try:
        ids = [left.id] if left.id else client.find(left.key)
        return [job for job in ids if any(_lives(status, left.key) for status in client.show(job) or [])]
    except client.Unreachable as error:
        raise UserError(
            f"{directory.path} may belong to a job that still runs, and Slurm's controller does not answer ({error}): "
            "run the same command again when it does."
        ) from error


def cancel_all(directories: list[RunDirectory], say: Callable[[str], None]) -> None:
    """Cancel the jobs under way in these run directories and wait until they have ended."""
    for directory in directories:
        for job in under_way(directory):
            say(f"job {job} is being cancelled: its work is dropped")
            client.cancel(job)
        while under_way(directory):
            time.sleep(0.5)


def _lives(status: client.JobStatus, key: str) -> bool:
    return status.comment == key and judge(status, None).state in UNDER_WAY
