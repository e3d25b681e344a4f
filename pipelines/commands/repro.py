"""`make repro`: run `dvc repro` for a profile or one stage, in turn with other processes on the same ledger.

    python -m pipelines.commands.repro --env laptop [--stage sft] [--force]

DVC lets a second `dvc repro` fail ("is busy") if the first one holds a path that it needs. The ledger stays whole, but
the user would have to repeat the command. So every command of ours first waits for locks, taken in one order. A stage
locks itself and the code files, and keeps the stages that it reads from unchanged; unrelated stages run at the same
time. DVC runs as a child of this process and inherits the locks: they are released when both have ended.

Ctrl-C is a pause. The terminal sends it to all processes; the stage leaves a checkpoint, DVC reports a failure, and
this process prints where the stage stopped and exits with code 130.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from engine.artifacts.files import canonical_json
from engine.identity import snapshot
from engine.identity.records import INTERRUPTED, now, read_records
from engine.launch.drain import Interrupted
from engine.launch.lifetime import die_with_parent, holders
from pipelines import graph
from pipelines.code_files import code_file, stage_file
from pipelines.configuration import check_configuration
from pipelines.errors import report_errors
from pipelines.ledger import check_ledger
from pipelines.restore import settle
from pipelines.sources import check_sources
from pipelines.stages_file import ROOT, load_stages_file

CODE = "code"


def command(profile: str, *stages: str, force: bool = False) -> list[str]:
    """Return the arguments of `python -m` that bring a profile, or only the named stages, up to date."""
    file = graph.ledger(profile)
    targets = ["-s", *(f"{file}:{stage}" for stage in stages)] if stages else [file]
    return ["dvc", "--wait-for-lock", "repro", *(["-f"] if force else []), *targets]


def take_turn(profile: str, stage: str | None) -> None:
    """Wait for all locks that this run needs; the code files then are those of the present code."""
    if stage is None:
        for name in (CODE, *load_stages_file().stages):
            _hold(profile, name, fcntl.LOCK_EX)
        return
    _refresh_code(profile, stage)
    read_from = {graph.producer(name) for name in graph.stage_graph(stage).inputs}
    for name in load_stages_file().stages:
        if name in {stage, *read_from}:
            _hold(profile, name, fcntl.LOCK_EX if name == stage else fcntl.LOCK_SH)


def _refresh_code(profile: str, stage: str) -> None:
    """Run DVC's stage `code`; wait while other runs read its files, unless those are up to date already."""
    code = _open(profile, CODE)
    if not _free(code, fcntl.LOCK_EX):
        if code_is_current(stage, profile):
            _take(code, profile, CODE, fcntl.LOCK_SH)
            return
        _take(code, profile, CODE, fcntl.LOCK_EX)
    refresh = subprocess.run([sys.executable, "-m", *command(profile, CODE)], cwd=ROOT, check=False)
    if refresh.returncode:
        sys.exit(refresh.returncode)
    fcntl.flock(code, fcntl.LOCK_SH)


def code_is_current(stage: str, profile: str) -> bool:
    """Return whether a stage's code file agrees with the present working tree and configuration."""
    path = code_file(stage, profile)
    return path.is_file() and path.read_bytes() == canonical_json(stage_file(stage, profile))


def _hold(profile: str, name: str, how: int) -> None:
    _take(_open(profile, name), profile, name, how)


def _take(lock: int, profile: str, name: str, how: int) -> None:
    """Take a lock; print which process holds it before waiting for it."""
    if _free(lock, how):
        return
    turn = f"{name} of {graph.ledger(profile)}"
    print(f"{turn} is held by {holders(_path(profile, name))}; waiting for it", file=sys.stderr, flush=True)
    fcntl.flock(lock, how)


def _free(lock: int, how: int) -> bool:
    """Take a lock if it is free, and return whether it was."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(profile: str, name: str) -> int:
    """Open the lock file of a ledger's stage; it stays open, and locked, in the program that this process becomes."""
    path = _path(profile, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(lock, True)
    return lock


def _path(profile: str, name: str) -> Path:
    return graph.work_folder(profile) / ".turns" / name


def main() -> NoReturn:
    """Wait for the locks, run `dvc repro` and exit with its status."""
    parser = argparse.ArgumentParser(description="dvc repro, beside or after whoever else works on the ledger.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--stage", default=None, help="only this one")
    parser.add_argument("--force", action="store_true", help="run it even if nothing changed")
    arguments = parser.parse_args()
    with report_errors():
        profile = load_stages_file().profile(arguments.env)
        stages = (load_stages_file().stage_name(arguments.stage),) if arguments.stage else ()
        check_configuration(profile)
        check_sources(profile)
        check_ledger(profile)
        os.environ[snapshot.GIVEN] = str(snapshot.take(ROOT))  # later edits take effect in the next command
        take_turn(profile, arguments.stage)
        start = now()
        status, interrupted = run(command(profile, *stages, force=arguments.force))
        settle(profile, *stages)
        pause = stopped(profile, start) if status else ""
        if pause or (status and interrupted):
            raise Interrupted(pause or "stopped by Ctrl-C; the same command goes on.")
    sys.exit(status)


def run(arguments: list[str]) -> tuple[int, bool]:
    """Run `python -m WORDS`, which inherits the locks and dies with this process.

    Returns:
        Its exit status, as a shell gives it, and whether Ctrl-C was pressed meanwhile.

    """
    presses: list[int] = []
    previous_handler = signal.signal(signal.SIGINT, lambda number, frame: presses.append(number))
    parent, child = os.getpid(), os.fork()
    if child == 0:
        die_with_parent(parent)
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    terminate_handler = signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGTERM, terminate_handler)
    signal.signal(signal.SIGINT, previous_handler)
    return (status if status >= 0 else 128 - status), bool(presses)


def stopped(profile: str, since: str) -> str:
    """Return the sentence of the stage that Ctrl-C has stopped since then; "" if there is none."""
    runs = [run for stage in load_stages_file().stages for run in read_records(graph.runs_folder(profile, stage))]
    paused = [run for run in runs if run["outcome"] == INTERRUPTED and str(run["finished"]) >= since]
    return str(max(paused, key=lambda run: str(run["finished"]))["error"]) if paused else ""


if __name__ == "__main__":
    main()
