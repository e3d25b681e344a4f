"""End a rank that its cluster has given up, as soon as it sees that its job has begun again elsewhere.

Behind a cut cable, or where slurmd is dead, ranks live on after Slurm has moved their job. They wait for partners that
are gone, and hold the locks that the next attempt waits for.
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
    """Watch in the background; end this process with exit code `code` when a later attempt of its job has begun.

    Does nothing outside of a Slurm job.
    """

    def watch() -> None:
        while not superseded():
            time.sleep(every)
        os._exit(code)  # at once, because an orderly end would wait for ranks that are gone

    if drain.run_directory() and _own_attempt():
        threading.Thread(target=watch, name="fence", daemon=True).start()


def superseded() -> bool:
    """Return whether the run directory records another attempt, or another job, that began after this process's own."""
    directory, own = drain.run_directory(), _own_attempt()
    latest = _latest(directory / ATTEMPTS) if directory and own else None
    return latest is not None and latest != own


def _own_attempt() -> tuple[str, int] | None:
    """Return the job and the attempt of this process, in the form its script writes them."""
    variable = os.environ.get
    job, array = variable("SLURM_JOB_ID"), variable("SLURM_ARRAY_JOB_ID")
    if job is None:
        return None
    return f"{array}_{variable('SLURM_ARRAY_TASK_ID')}" if array else job, int(variable("SLURM_RESTART_COUNT") or 0)


def _latest(path: Path) -> tuple[str, int] | None:
    """Return the attempt that began last, None if none is recorded; a line that is just being written is ignored."""
    try:
        begun = [line for line in read_rows(path) if "begun" in line]
    except FileNotFoundError:
        return None
    return (begun[-1]["job"], begun[-1]["attempt"]) if begun else None
