"""The graph's own pretrain stage as a job on two nodes: a scratch repository, what it must end in, hands to disturb it.

Training is stopped (SIGSTOP) while something is done to it, so that a fault always hits in the middle of a short run.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from engine.launch.lifetime import lock
from tests.cluster.daemon import holds
from tests.cluster.harness import ASK_SECONDS, Cluster
from tests.project import ENVIRONMENT, PROFILE, Project

STAGE, NODE = "pretrain", "train_pretrain"
UPSTREAM = ("corpus", "rephrase", "tooluse", "tokenization")
STEPS, EVERY = 40, 4  # a checkpoint after every so many steps
MIDDLE = 14  # the step from which on a fault hits
PATIENCE = 400.0  # seconds, on a machine that does other things as well
SLURM: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("compute.yml").read_text())["train"]
ARRAY = {"launcher": "slurm", "partition": "h800", "time": "00:30:00", "mem": "2G", "array": 3}


def command(*stages: str) -> tuple[str, ...]:
    """The command that runs stages, stale or not."""
    return ("kedro", "run", "--env", PROFILE, "--pipelines", ",".join(stages or (STAGE,)))


def prepare(root: Path) -> Path:
    """A scratch repository with all that pretrain reads, and an undisturbed run's end; made once for all workers.

    The undisturbed run is one of two local processes: what a stage ends in does not depend on who launched it.
    """
    folder, end = root / "project", root / "end.json"
    with lock(root / "lock", "the preparation", patience=900):
        if end.exists():
            return root
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        project = Project(folder)
        path = folder / f"conf/{PROFILE}/parameters/{STAGE}.yml"
        parameters = yaml.safe_load(path.read_text())
        parameters[STAGE]["checkpoint_every"] = EVERY
        path.write_text(yaml.safe_dump(parameters))
        (folder / f"conf/{PROFILE}/compute.yml").write_text("train: {launcher: local, processes: 2}\n")
        project.run("python", "-m", "pipelines.commands.code", "--env", PROFILE)
        project.run(*command(*UPSTREAM, STAGE))
        end.write_text(json.dumps(_end(project)))
    return root


def _end(project: Project) -> dict[str, Any]:
    """Return the end of a run: outputs (weights and history among them) by digest, and all of its final state."""
    record = project.records(STAGE)[-1]
    assert record["outcome"] == "success", record["error"]
    return {"outputs": project.digests(STAGE), "state": record["training"]["state_digest"]}


@dataclass
class Driver:
    """A `kedro run` in the background, and its output."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def output(self) -> str:
        """Return all of the driver's output."""
        return self.log.read_text(errors="replace")

    def wait(self) -> int:
        """Wait for the driver and return its exit code."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Send SIGKILL, as if the submit host were gone."""
        self.process.kill()
        self.process.wait()


class Training:
    """The stage in a repository of its own, on a cluster."""

    def __init__(self, path: Path, prepared: Path, cluster: Cluster) -> None:
        shutil.copytree(prepared / "project", path, symlinks=True)
        self.project, self.cluster = Project.__new__(Project), cluster
        self.project.path, self.project.environment = path, {"SLURM_CONF": str(cluster.layout.conf)}
        self.undisturbed = json.loads((prepared / "end.json").read_text())
        self._drivers: list[Driver] = []
        self._before: set[str] = set()

    # ---- beginning and end

    def reset(self, **changes: Any) -> None:
        """Remove every run and all work, and change the compute class by `changes`."""
        for driver in self._drivers:
            driver.kill()
        self._drivers = []
        for name in (".work", ".runs"):
            shutil.rmtree(self.project.data(name, STAGE), ignore_errors=True)
        shutil.rmtree(self.project.data(STAGE), ignore_errors=True)
        self.use(**changes)
        self._before = set(self.jobs())

    def use(self, **changes: Any) -> None:
        """Change the compute class of training."""
        compute = {"train": {**SLURM, **changes}, "llm": ARRAY}
        (self.project.path / f"conf/{PROFILE}/compute.yml").write_text(yaml.safe_dump(compute))

    def start(self, *stages: str, path: Path | None = None) -> Driver:
        """Start a driver, of pretrain or of other stages; with commands in `path` found before all others."""
        return self.start_command(command(*stages), {"PATH": f"{path}:{ENVIRONMENT['PATH']}"} if path else {})

    def start_command(self, words: Sequence[str], environment: dict[str, str]) -> Driver:
        """Start whatever command reaches the stage, with more in its environment."""
        log = self.project.path / f"driver-{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=self.project.path,
                env={**ENVIRONMENT, **self.project.environment, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._drivers.append(Driver(process, log))
        return self._drivers[-1]

    def check_end(
        self, driver: Driver, jobs: int = 1, attempts: int | None = 1, first: int | None = None
    ) -> dict[str, Any]:
        """The driver ends well, in the undisturbed run's bits, no step lost or doubled; the run record.

        `jobs` and `attempts` is how many it took, `first` the step of the checkpoint that the last one went on from.
        """
        assert driver.wait() == 0, driver.output()[-6000:]
        assert self.end() == self.undisturbed
        history = self.project.data(STAGE, "pretrain_history", "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in history] == list(range(1, STEPS + 1))
        record = dict(self.project.records(STAGE)[-1])
        assert attempts in (None, record["jobs"][NODE]["attempts"]), (record["jobs"], driver.output()[-6000:])
        self.check_jobs(jobs)
        if first is not None:
            assert record["training"]["resumed_at"] == first
        return record

    def end(self) -> dict[str, Any]:
        """Return the end of the last run."""
        return _end(self.project)

    def check_jobs(self, number: int) -> None:
        """So many jobs were submitted since the last reset, and no two for one key."""
        mine = {job: key for job, key in self.jobs().items() if job not in self._before}
        assert len(mine) == number, mine
        assert len(set(mine.values())) == number, f"two jobs have one key: {mine}"
        assert all(key.startswith("k-") for key in mine.values()), mine

    def jobs(self) -> dict[str, str]:
        """Return all jobs that were ever submitted from here, id → key."""
        lines = self.cluster.command("squeue", "-h", "-t", "all", "-o", "%F|%k|%Z").splitlines()
        rows = [line.split("|") for line in lines]
        return {job: key for job, key, folder in rows if folder == str(self.project.path)}

    # ---- the middle

    @property
    def workspace(self) -> Path:
        """The workspace of the stage's latest key."""
        begun = {path.parent: json.loads(path.read_bytes())["started"] for path in self._begun()}
        return max(begun, key=lambda path: str(begun[path]))

    def _begun(self) -> Iterator[Path]:
        return self.project.data(".work", STAGE).glob("*/begun.json")

    @property
    def directory(self) -> Path:
        """The node's run directory."""
        return self.workspace / "jobs" / NODE

    @property
    def job(self) -> str:
        """The id of the last submitted job, "" where its driver has not written it."""
        return str(json.loads((self.directory / "job.json").read_bytes())["id"])

    def step(self) -> int:
        """The last step in the history."""
        try:
            lines = (self.workspace / "history.jsonl").read_text().splitlines()
        except (FileNotFoundError, ValueError):
            return 0
        return int(json.loads(lines[-1])["step"]) if lines and lines[-1].endswith("}") else 0

    def checkpoint(self) -> int:
        """The step of the newest checkpoint."""
        return max((int(path.name) for path in self.workspace.glob("checkpoints/0*")), default=0)

    def ranks(self, word: str = "pipelines.rank") -> list[psutil.Process]:
        """The ranks started from here that run now; or those of them with `word` in their command."""
        processes = []
        for process in self.cluster.job_processes():
            try:
                words = process.cmdline()
                if {"pipelines.rank", word} <= set(words) and "engine.launch.torchrun" not in words:
                    processes += [process] * (process.cwd() == str(self.project.path))
            except psutil.NoSuchProcess:
                continue
        return processes

    def wait_for(
        self, condition: Callable[[], bool], what: str, driver: Driver | None = None, every: float = 0.05
    ) -> None:
        """Wait until `condition` holds; fail at once where the driver has ended."""
        begun = time.monotonic()

        def either() -> bool:
            return condition() or (driver is not None and driver.process.poll() is not None)

        assert holds(either, PATIENCE, every), (
            f"{what}: not in {PATIENCE:.0f} s\n{driver.output()[-6000:] if driver else ''}"
        )
        assert condition(), (
            f"{what}: the driver ended after {time.monotonic() - begun:.0f} s\n{driver.output()[-6000:]}"
        )

    def stop_in_the_middle(self, driver: Driver, step: int = MIDDLE, number: int = 2) -> list[psutil.Process]:
        """Let it train to a checkpoint at or after a step, and stop its ranks soon after, wherever they are.

        But not while they write the next one: whether that counts would depend on which of them is told to go on.
        """
        self.wait_for(lambda: self.step() >= step and self.checkpoint() >= step, f"a checkpoint after {step}", driver)
        ranks = self.ranks()
        assert len(ranks) == number, ranks

        def stopped_between_checkpoints() -> bool:
            for rank in ranks:
                rank.send_signal(signal.SIGSTOP)
            assert holds(lambda: all(rank.status() == psutil.STATUS_STOPPED for rank in ranks), PATIENCE), ranks
            if not any(self.workspace.glob("checkpoints/.*.partial")):
                return True
            self.go_on(ranks)
            return False

        assert holds(stopped_between_checkpoints, PATIENCE)
        assert self.checkpoint() < STEPS - EVERY, "too late to disturb it"
        return ranks

    def go_on(self, ranks: list[psutil.Process]) -> None:
        """Let stopped ranks go on, those that there still are."""
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(signal.SIGCONT)

    def wait_for_attempt(self, number: int, driver: Driver) -> None:
        """Wait until Slurm has taken the job from its nodes for the `number`th time."""
        job = self.job

        def restarted() -> bool:
            return self.cluster.job(job)["Restarts"] == str(number)

        self.wait_for(restarted, f"restart {number}", driver, ASK_SECONDS)


@contextlib.contextmanager
def small_disc(folder: Path) -> Iterator[Path]:
    """A folder's content on a file system of its own, of 64 MB, for as long as the block lasts."""
    original = folder.rename(folder.with_name(f"{folder.name}.kept"))
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    try:
        shutil.copytree(original, folder, symlinks=True, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
        original.rename(folder)


def fill(ballast: Path) -> None:
    """Write a file until its file system is full."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
