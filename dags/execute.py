"""Running one stage the way everybody runs it: `dvc repro -s code STAGE`, its output line by line in Dagster's log."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.artifacts.files import canonical_json
from pipelines import graph
from pipelines.code import code_file, stage_file
from pipelines.manifest import ROOT

GRACE_SECONDS = 10.0
KEPT_LINES = 40
RETRY_SECONDS = 5.0
BUSY = re.compile(r"' is busy, it is being blocked by|Unable to acquire lock")
"""What DVC says, and exits, when another DVC process holds the repository or a path."""


def stage_command(stage: str, profile: str, force: bool = False, code: bool = True) -> list[str]:
    """The command that brings one stage up to date.

    Args:
        stage: which.
        profile: whose.
        force: run it even if nothing changed.
        code: refresh the code files first.

    """
    file = graph.ledger(profile)
    targets = [f"{file}:code", f"{file}:{stage}"] if code else [f"{file}:{stage}"]
    return [sys.executable, "-m", "dvc", "repro", *(["-f"] if force else []), "-s", *targets]


def bring_up_to_date(stage: str, profile: str, force: bool, say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run a stage's command; while another DVC process holds what it needs, wait for that one.

    A stage that runs holds every code file it reads, so that the stage `code` cannot run beside it. Where this
    stage's own code file is what it should be, there is nothing to refresh, and the two run at the same time.

    Returns:
        The exit status and the last lines.

    """
    told = False
    while True:
        code = not told or not code_is_current(stage, profile)
        status, tail = run_logged(stage_command(stage, profile, force, code), say)
        if not status or not any(BUSY.search(line) for line in tail):
            return status, tail
        if not told:
            say("another dvc process is at work on this profile: trying again until it lets go")
        if told or not code_is_current(stage, profile):
            time.sleep(RETRY_SECONDS)
        told = True


def code_is_current(stage: str, profile: str) -> bool:
    """Whether a stage's code file says what stands in the working tree and the configuration now."""
    path = code_file(stage, profile)
    return path.is_file() and path.read_bytes() == canonical_json(stage_file(stage, profile))


def run_logged(command: list[str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run `command` in the repository, handing each line of its output to `say` as it comes.

    A bar that is redrawn in place counts as one line, its last state: a log of a thousand bars is none.
    If this process is interrupted (the run is cancelled in the UI), the command and its children are stopped.

    Returns:
        The exit status and the last lines.

    """
    tail: list[str] = []
    with _stopped_with_us(command) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            if line := raw.decode(errors="replace").rstrip().rpartition("\r")[2]:
                say(line)
                tail = [*tail[-KEPT_LINES + 1 :], line]
        return process.wait(), tail


def cause(tail: list[str]) -> str:
    """The sentence in a failed command's output that a reader needs: ours, if there is one, else the last line."""
    ours = [line for line in tail if line.startswith("error: ")]
    return ours[-1].removeprefix("error: ") if ours else tail[-1] if tail else "no output"


def track_command(profile: str) -> list[str]:
    """The command that imports new run records into MLflow."""
    return [sys.executable, "-m", "pipelines.track", "--env", profile]


@contextmanager
def _stopped_with_us(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask the whole process group to end; make it, if it does not."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment() -> dict[str, str]:
    """The environment with our own `python`, `kedro` and `dvc` first on the path, and nobody phoning home."""
    quiet = {
        "KEDRO_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **quiet, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
