"""Run a study's units in worker processes of one thread each; finished units are not run again.

A unit's folder holds `run/` while it trains and `result.json` once it is done. Killed at any time, the workers die
with their parent, and the next call resumes from the last checkpoints. At Ctrl-C they write one more first: only the
parent tells a worker, through shared memory, so that none ends while it waits for its next unit.
"""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.errors import UserError
from engine.identity.records import now
from engine.launch import drain
from engine.launch.lifetime import die_with_parent
from engine.progress import progress
from studies.units import Unit

RESULT = "result.json"
WORKERS = 2
POLL_SECONDS = 0.1
Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """The shared settings of a study's units: data, the work folder, and the origin that a result records.

    `code` and `data` are the digests that, with its settings, make a unit's key.
    """

    shards: Path
    work: Path
    code: str
    data: str
    registration: dict[str, Any]

    def folder(self, unit: Unit) -> Path:
        """Return the folder in which a unit trains and keeps its result."""
        return self.work / f"{unit.folder}-{unit.key(self.code, self.data)}"

    def result(self, unit: Unit) -> Result | None:
        """Return a unit's result; None if it is unfinished."""
        path = self.folder(unit) / RESULT
        return read_object(path) if path.is_file() else None


def execute(bench: Bench, units: Sequence[Unit], title: str, workers: int = WORKERS) -> list[Result]:
    """Run the unfinished ones of `units` (each trunk before its branches) and return all results, in the same order.

    Raises Interrupted where Ctrl-C stopped it.
    """
    unfinished = [unit for unit in units if bench.result(unit) is None]
    _drop_outdated(bench, units)
    if unfinished:
        with drain.pausing(), drain.heeded(to_the_end=True):
            _run(bench, unfinished, title, workers)
            if drain.interrupted():
                finished = sum(bench.result(unit) is not None for unit in units)
                raise drain.Interrupted(
                    f"{title} stopped at {finished} of {len(units)} runs; the same command goes on."
                )
    results = [bench.result(unit) for unit in units]
    return [result for result in results if result is not None]


def _drop_outdated(bench: Bench, units: Sequence[Unit]) -> None:
    """Remove the folders of these units under other keys: older settings, code or data."""
    for unit in units:
        for path in bench.work.glob(f"{unit.folder}-{'[0-9a-f]' * 16}"):
            if path != bench.folder(unit):
                shutil.rmtree(path)


def _run(bench: Bench, units: list[Unit], title: str, workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    steps, stop = context.Value("l", 0), context.Event()
    total = sum(unit.steps - unit.leaves for unit in units)
    pool = ProcessPoolExecutor(min(workers, len(units)), context, _begin, (os.getpid(), steps, stop, bench.work))
    with pool, _killed_at_once(), progress(title, total) as bar:
        shown = 0
        for wave in _waves(units):
            with drain.deaf_children():
                waiting: set[Future[None]] = {pool.submit(_train, bench, unit) for unit in wave}
            while waiting:
                ended, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                if (steps_made := min(steps.value, total)) > shown:
                    bar.advance(steps_made - shown)
                    shown = steps_made
                for future in ended:
                    _collect(future, waiting)
                if drain.interrupted() and not stop.is_set():
                    stop.set()
                    waiting = {future for future in waiting if not future.cancel()}
            if stop.is_set():
                break


@contextmanager
def _killed_at_once() -> Iterator[None]:
    """Kill the workers at a second Ctrl-C in the block; otherwise they would run until their units end."""
    try:
        yield
    except KeyboardInterrupt:
        for worker in multiprocessing.active_children():
            worker.kill()
        raise


def _waves(units: list[Unit]) -> list[list[Unit]]:
    """Return units without a trunk, then branches; in each the longest first, so that the workers end together."""
    waves = ([u for u in units if u.trunk is None], [u for u in units if u.trunk is not None])
    return [sorted(wave, key=lambda unit: unit.leaves - unit.steps) for wave in waves if wave]


def _collect(future: "Future[None]", waiting: "set[Future[None]]") -> None:
    """Raise a worker's error, after cancelling the units that have not begun."""
    if error := future.exception():
        for other in waiting:
            other.cancel()
        raise error


_steps: Any = None
_stop: Any = None


def _begin(parent: int, steps: Any, stop: Any, work: Path) -> None:
    """Set up a new worker: die with the parent, leave Ctrl-C to it, write to a log file, share the count of steps."""
    global _steps, _stop
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work.mkdir(parents=True, exist_ok=True)
    sys.stderr = (work / f"worker-{multiprocessing.current_process().name}.log").open("a", buffering=1)
    _steps, _stop = steps, stop


def _tick() -> None:
    """Count a step, and end soon if the parent says so."""
    with _steps.get_lock():
        _steps.value += 1
    if _stop.is_set():
        drain.request()


def _train(bench: Bench, unit: Unit) -> None:
    """Train one unit in a worker and write its result; a diverged run is a result too, a stopped one is not.

    A pool cannot cancel units that it has handed to workers, so each worker looks at `_stop` once more.
    """
    if _stop.is_set():
        return
    from engine.text.shards import TokenShards
    from engine.training.resume import CannotResume
    from studies.train import train_unit

    folder, shards = bench.folder(unit), TokenShards.open(bench.shards)
    folder.mkdir(parents=True, exist_ok=True)
    result: Result = {"arm": unit.arm, "seed": unit.seed, "budget": unit.budget, "steps": unit.steps}
    result |= {"key": unit.key(bench.code, bench.data), "started": now(), "registration": bench.registration}
    try:
        result |= {"failed": None, **train_unit(unit, shards, folder, _trunk(bench, unit), _tick)}
    except CannotResume:  # this is about the work that is there, and no result of the training
        raise
    except UserError as error:
        result |= {"failed": str(error), "figures": {}, "curves": {}}
    except drain.Drained:
        return
    write_atomic(folder / RESULT, canonical_json({**result, "settings": unit.settings.model_dump()}))
    shutil.rmtree(folder / "run", ignore_errors=True)


def _trunk(bench: Bench, unit: Unit) -> Path | None:
    """Return the folder that a branch starts from; None without a trunk. Raises UserError where the trunk failed."""
    if unit.trunk is None:
        return None
    failed = (bench.result(unit.trunk) or {}).get("failed")
    if failed:
        raise UserError(f"the run it branches off failed: {failed}")
    return bench.folder(unit.trunk)
