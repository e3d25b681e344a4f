"""A scratch copy of the repository in which the graph may be run, edited and killed."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROFILE = "smoke"
LEDGER = f"conf/{PROFILE}/dvc.yaml"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "KEDRO_", "K2_"))},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "OMP_NUM_THREADS": "1",
    "SHELL": "/bin/sh",  # what DVC starts a stage in where none is set, as in CI: it stays, where bash would step aside
}


class Project:
    """A copy of the tracked and untracked files of the working tree, in a git repository of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment: dict[str, str] = {}  # beside what every command has
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            source = ROOT / name
            if source.is_file() and not name.endswith("dvc.lock"):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, path / name)
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "copy"],
        ):
            subprocess.run(["git", *words], cwd=path, check=True, capture_output=True)

    def copied(self, path: Path) -> "Project":
        """Return a copy at `path`, with all that was made in this one."""
        shutil.copytree(self.path, path, symlinks=True)
        other = copy.copy(self)
        other.path, other.environment = path, dict(self.environment)
        return other

    def run(self, *command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**ENVIRONMENT, **self.environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
            )
        return done

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in the copy, its output to a log file there."""
        with (self.path / "started.log").open("a") as log:
            return subprocess.Popen(
                command, cwd=self.path, env={**ENVIRONMENT, **self.environment}, stdout=log, stderr=log, text=True
            )

    def rank(self, stage: str, node: str, key: str, **more: object) -> tuple[list[str], dict[str, str]]:
        """What follows `python`, and the environment, where a job's script starts a rank under a driver's key."""
        from engine.identity import snapshot

        (held,) = self.data(".work", stage, key, snapshot.HELD).iterdir()
        words = {"env": PROFILE, "stage": stage, "node": node, "key": key, "code": held.name, **more}
        code = self.path / snapshot.FOLDER / held.name
        command = ["-m", "pipelines.rank", *(f"--{name}={value}" for name, value in words.items())]
        return command, {**ENVIRONMENT, **snapshot.environment(code)}

    def repro(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`dvc repro` on the smoke ledger."""
        return self.run("dvc", "repro", *(words or (LEDGER,)))

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace text that must be there."""
        path = self.path / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    def append(self, name: str, text: str) -> None:
        """Add text at the end of a file that must be there."""
        path = self.path / name
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    def data(self, *parts: str) -> Path:
        """A path below data/smoke."""
        return self.path.joinpath("data", PROFILE, *parts)

    def digests(self, stage: str) -> dict[str, str]:
        """Content of a stage's outputs: file → hash."""
        from engine.artifacts.files import digest_file, files_below

        folder = self.data(stage)
        return {path.relative_to(folder).as_posix(): digest_file(path) for path in files_below(folder)}

    def records(self, stage: str) -> list[dict[str, Any]]:
        """Run records of a stage, oldest first."""
        from engine.identity.records import read_records

        return read_records(self.data(".runs", stage))

    def runs(self) -> dict[str, int]:
        """How often each stage has run."""
        from pipelines.stages_file import load_stages_file

        return {stage: len(self.records(stage)) for stage in load_stages_file().stages}

    def ran_since(self, before: dict[str, int]) -> list[str]:
        """The stages that have run since `before`."""
        return [stage for stage, count in self.runs().items() if count != before[stage]]


def shim(folder: Path, name: str, before: str = "", after: str = "") -> Path:
    """A folder with a command `name` that does something before or after the real one of that name."""
    real = shutil.which(name)
    folder.mkdir()
    (folder / name).write_text(f'#!/bin/sh\n{before}\n"{real}" "$@"\nstatus=$?\n{after}\nexit $status\n')
    os.chmod(folder / name, 0o755)
    return folder
