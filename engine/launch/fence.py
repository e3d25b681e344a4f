"""A rank that its cluster has given up ends by itself once it sees that its job has begun anew.

Behind a cut cable, or where slurmd is dead, ranks live on when Slurm has long put their job elsewhere. They wait for
partners that are gone, and hold the locks for which the next attempt waits.
"""

import os
import threading
import time
from pathlib import Path

from engine.artifacts.files import read_rows
from engine.launch import drain

ATTEMPTS = "attempts.jsonl"
EVERY_SECONDS = 1.0


def end_when_superseded(code: int, every: float = EVERY_SECONDS) -> None:
    """In the background: end this process at once with exit code `code` when a later attempt of its job has begun.

    Does nothing outside of a Slurm job.
    """

    def watch() -> None:
        while not superseded():
            time.sleep(every)
        os._exit(code)  # at once: an orderly end would wait for ranks that are gone

    if drain.run_directory() and _own_attempt():
        threading.Thread(target=watch, name="fence", daemon=True).start()


def superseded() -> bool:
    """Whether the run directory tells of another attempt, or another job, that began after this process's own."""
    directory, own = drain.run_directory(), _own_attempt()
    latest = _latest(directory / ATTEMPTS) if directory and own else None
    return latest is not None and latest != own


def _own_attempt() -> tuple[str, int] | None:
    """The job and the attempt that this process belongs to, as its script writes them."""
    told = os.environ.get
    job, array = told("SLURM_JOB_ID"), told("SLURM_ARRAY_JOB_ID")
    if job is None:
        return None
    return f"{array}_{told('SLURM_ARRAY_TASK_ID')}" if array else job, int(told("SLURM_RESTART_COUNT") or 0)


def _latest(path: Path) -> tuple[str, int] | None:
    """The attempt that began last; None where none is told of. A line that is just being written waits."""
    try:
        begun = [line for line in read_rows(path) if "begun" in line]
    except FileNotFoundError:
        return None
    return (begun[-1]["job"], begun[-1]["attempt"]) if begun else None
