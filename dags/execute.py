"""Run one stage with the same command as a shell, and copy its output line by line into Dagster's log."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.credentials import masked
from pipelines.stages_file import ROOT

GRACE_SECONDS = 10.0
KEPT_LINES = 40


def stage_command(stage: str, profile: str, force: bool = False) -> list[str]:
    """Return the command that brings one stage up to date in its turn; `force` runs it even if nothing changed."""
    arguments = ["--env", profile, "--stage", stage, *(["--force"] if force else [])]
    return [sys.executable, "-m", "pipelines.commands.repro", *arguments]


def run_logged(command: list[str], say: Callable[[str], None]) -> tuple[int, list[str]]:
    """Run `command` in the repository, and hand each line of its output to `say` as it comes.

    A progress bar that is redrawn in place counts as one line, its last state.
    If this process is interrupted (the run is cancelled in the UI), the command and its children are stopped.

    Returns:
        The exit status and the last lines.

    """
    tail: list[str] = []
    with _stopped_with_us(command) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            if line := masked(raw.decode(errors="replace").rstrip().rpartition("\r")[2]):
                say(line)
                tail = [*tail[-KEPT_LINES + 1 :], line]
        return process.wait(), tail


def cause(tail: list[str]) -> str:
    """Return the line of a failed command's output that gives the cause: our own `error: ` line, else the last one."""
    ours = [line for line in tail if line.startswith("error: ")]
    return ours[-1].removeprefix("error: ") if ours else tail[-1] if tail else "no output"


def track_command(profile: str) -> list[str]:
    """Return the command that imports new run records into MLflow."""
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
    """Ask the whole process group to end; kill it after GRACE_SECONDS."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment() -> dict[str, str]:
    """Return the environment with our own `python`, `kedro` and `dvc` first on the path, and without telemetry."""
    quiet = {
        "KEDRO_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **quiet, "PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
