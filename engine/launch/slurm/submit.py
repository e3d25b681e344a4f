"""Exactly one job for one key, also where the driver dies between sbatch and the writing of its id.

The key is written before sbatch and travels as the job's comment. A driver that finds a key and no id asks the
controller for the job of that comment; an id is trusted only where the comment agrees, since Slurm gives the ids of
jobs that it forgot to others.
"""

import time
from collections.abc import Callable

from engine.artifacts.files import write_atomic
from engine.errors import UserError
from engine.launch.slurm import client
from engine.launch.slurm.interrupts import Detached, Interrupts
from engine.launch.slurm.rundir import RunDirectory, Submitted
from engine.launch.slurm.script import Job, render
from engine.launch.slurm.states import UNDER_WAY, State, judge

AGAIN_SECONDS = 5.0


def found(directory: RunDirectory, say: Callable[[str], None], interrupts: Interrupts) -> Submitted | None:
    """The submission that an earlier driver left and whose end none has dealt with; None if there is none."""
    key, job = directory.key(), directory.submitted()
    if key is None:
        return None
    if job and job.key == key:
        return job if job.ended is None or (job.ended == State.SUCCEEDED and not job.published) else None
    ids = _reached(lambda: client.find(key), say, interrupts)
    if not ids:
        return None
    _cancel_all_but(ids)
    say(f"job {ids[0]} was submitted by a driver that died before it could write the id down")
    return directory.write(_next(job, ids[0], key))


def submit(job: Job, directory: RunDirectory, say: Callable[[str], None], interrupts: Interrupts) -> Submitted:
    """Submit the job under a new key, or under the key of a submission that never reached Slurm."""
    before = directory.submitted()
    key = directory.key()
    if key is None or (before and before.key == key):
        key = directory.new_key()
    write_atomic(directory.script, render(job).encode())
    number = _reached(lambda: _submit_or_find(directory, key), say, interrupts)
    return directory.write(_next(before, number, key, job))


def _submit_or_find(directory: RunDirectory, key: str) -> str:
    """Submit; where the controller does not answer, the next call looks whether it took the job all the same."""
    ids = client.find(key)
    return ids[0] if ids else client.sbatch(directory.script, key)


def _next(before: Submitted | None, number: str, key: str, job: Job | None = None) -> Submitted:
    """The submission after `before`."""
    if before is None:
        return Submitted(number, key, time.time(), job.elements if job else (), job.shards if job else 1)
    elements, shards = (job.elements, job.shards) if job else (before.elements, before.shards)
    previous = (*before.previous, before.id)
    return Submitted(
        number, key, time.time(), elements, shards, None, False, before.spent, before.mark, previous, before.excluded
    )


def _reached(
    ask: Callable[[], "str | list[str]"], say: Callable[[str], None], interrupts: Interrupts
) -> "str | list[str]":
    """Ask until the controller answers."""
    told = False
    while True:
        try:
            return ask()
        except client.Unreachable as error:
            if not told:
                say(f"Slurm's controller does not answer ({error}): trying until it does")
                told = True
        for _ in range(int(AGAIN_SECONDS * 10)):
            if interrupts.presses or interrupts.terminated:
                raise Detached(
                    "Slurm's controller did not answer, so it is not known whether it took the job: run the same "
                    "command again, which looks for it before it submits one."
                )
            time.sleep(0.1)


def _cancel_all_but(ids: list[str]) -> None:
    for other in ids[1:]:
        client.cancel(other)


def under_way(directory: RunDirectory) -> list[str]:
    """The jobs of a run directory that wait, run or end just now, as the controller says.

    Raises UserError where it does not answer: then there may be one.
    """
    key, job = directory.key(), directory.submitted()
    if key is None or (job and job.key == key and job.ended):
        return []
    try:
        ids = [job.id] if job and job.key == key else client.find(key)
        return [one for one in ids if any(_lives(seen, key) for seen in client.show(one) or [])]
    except client.Unreachable as error:
        raise UserError(
            f"{directory.path} may belong to a job that still runs, and Slurm's controller does not answer ({error}): "
            "run the same command again when it does."
        ) from error


def cancel_all(directories: list[RunDirectory], say: Callable[[str], None]) -> None:
    """Cancel what is under way in these run directories and wait until it has ended."""
    for directory in directories:
        for job in under_way(directory):
            say(f"job {job} is being cancelled: its work is dropped")
            client.cancel(job)
        while under_way(directory):
            time.sleep(0.5)


def _lives(seen: client.Seen, key: str) -> bool:
    return seen.comment == key and judge(seen, None).state in UNDER_WAY
