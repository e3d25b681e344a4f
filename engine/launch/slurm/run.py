"""Do a node's work as Slurm jobs: attach or submit, watch, and submit again if the machine failed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.errors import UserError
from engine.launch import exchange
from engine.launch.drain import Interrupted
from engine.launch.slurm.interrupts import Interrupts
from engine.launch.slurm.rundir import RunDirectory, Submitted
from engine.launch.slurm.script import Job
from engine.launch.slurm.states import WORTH_ANOTHER, JobVerdict, State
from engine.launch.slurm.submit import left_by_earlier_driver, submit
from engine.launch.slurm.watch import Ends, Watch

Say = Callable[[str], None]


class JobFailed(UserError):
    """A job ended without success; `element` is the failed element of an array."""

    def __init__(self, sentence: str, element: int | None = None) -> None:
        super().__init__(sentence)
        self.element = element


def run_job(
    job: Job,
    prepare: Callable[[], None],
    left_error: Callable[[int | None], bool],
    say: Say,
    detach: bool = False,
) -> None:
    """Make Slurm do the job, and return when all of it has succeeded.

    If a job's end is not the work's fault, it is submitted again (of an array, only the failed elements), at most
    `requeue_budget` times in a row without a new checkpoint; after a time limit only if there is a new checkpoint.

    Args:
        job: the work; the run directory's last submission is attached to if its end has not been handled.
        prepare: writes what the ranks read, before each submission.
        left_error: whether an element (None: the job) has left an error that another try would meet again.
        say: prints a line for the user.
        detach: leave the job to itself once it is submitted.

    Raises:
        JobFailed: the job failed, or the budget is spent.
        Detached: the driver was told to leave; the job continues.
        Interrupted: Ctrl-C cancelled the job.
        UserError: Slurm refused it, there is no Slurm, or the run directory cannot be written.

    """
    directory = RunDirectory(job.directory)
    if warning := directory.prepare():
        say(f"warning: {warning}")
    with Interrupts() as interrupts:
        attached = left_by_earlier_driver(directory, say, interrupts)
        if attached is None:
            directory.update(spent=0)
        while True:
            if attached is None:
                prepare()
            mine = attached or submit(job, directory, say, interrupts)
            if mine.ended:
                return
            watch = Watch(mine, directory, job.where, say, interrupts, again=attached is not None)
            say(_where(mine, directory, again=attached is not None))
            if detach:
                raise watch.detached("--detach")
            ends = watch.run()
            left = {element: end for element, end in ends.items() if end.state is not State.SUCCEEDED}
            if not left:
                directory.update(ended=str(State.SUCCEEDED))
                return
            job = _another(job, mine, directory, left, left_error, watch.cancelled)
            say(f"job {mine.id} {_first(left).state} ({_first(left).why}): another continues from its checkpoint")
            attached = None


def _another(
    job: Job,
    ended: Submitted,
    directory: RunDirectory,
    left: Ends,
    left_error: Callable[[int | None], bool],
    by_us: bool,
) -> Job:
    """Return the job that continues after this one; raises JobFailed if there is to be none."""
    mark = newest_progress(job.workspace)
    moved = mark != ended.mark
    spent = 0 if moved else ended.spent + 1
    excluded = directory.bad_nodes()
    directory.update(ended=str(_first(left).state), spent=spent, mark=mark, excluded=excluded)
    name = f"job {ended.id}"
    if by_us:
        raise Interrupted(f"{name} was cancelled by Ctrl-C; the same command goes on from its last checkpoint.")
    for element, end in left.items():
        mine = name if element is None else f"job {ended.id}_{element}"
        again = end.state in WORTH_ANOTHER or (element is not None and end.state is State.FAILED_APP)
        if not again or left_error(element):
            raise JobFailed(_sentence(mine, end, directory.log(ended.id, element)), element)
        if end.state is State.TIMED_OUT and not moved:
            raise JobFailed(
                f"{mine} ran out of time without a new checkpoint, as another would: give it more time, or have it "
                f"checkpoint more often; its log is {directory.log(ended.id, element)}.",
                element,
            )
        if spent > job.where.requeue_budget:
            raise JobFailed(
                f"{mine} {end.state} ({end.why}), {spent} times in a row without a new checkpoint (requeue_budget: "
                f"{job.where.requeue_budget}); its log is {directory.log(ended.id, element)}.",
                element,
            )
    elements = tuple(element for element in left if element is not None)
    return replace(job, elements=elements, exclude=excluded)


def newest_progress(workspace: Path) -> str:
    """Return the newest of the checkpoints and finished blocks in a workspace; a newer one means that work was done.

    Tables that are being handed over do not count, since every attempt writes them anew.
    """
    paths = [path for pattern in ("**/checkpoints/*/meta.json", "**/*.parquet") for path in workspace.glob(pattern)]
    paths = [path for path in paths if exchange.FOLDER not in path.relative_to(workspace).parts]
    stamps = [(path.stat().st_mtime_ns, str(path.relative_to(workspace))) for path in paths if path.exists()]
    return str(max(stamps)) if stamps else ""


def _first(left: Ends) -> JobVerdict:
    return next(iter(left.values()))


def _sentence(name: str, end: JobVerdict, log: Path) -> str:
    why = f" ({end.why})" if end.why else ""
    return f"{name} {end.state}{why}; the same command goes on from its last checkpoint; its log is {log}."


def _where(job: Submitted, directory: RunDirectory, again: bool) -> str:
    array = f", elements {','.join(map(str, job.elements))}" if job.elements else ""
    return f"job {job.id}{array} {'attached to again' if again else 'submitted'}; run directory {directory.path}"
