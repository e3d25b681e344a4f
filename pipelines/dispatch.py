"""A node's work outside the driver: in processes beside it, or as a Slurm job. What comes of it is published here."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from kedro.pipeline.node import Node

from engine.errors import UserError
from engine.launch import drain, exchange
from engine.launch.compute import SHORT_SPIN, ComputeClass
from engine.launch.slurm.run import JobFailed, run_job
from engine.launch.slurm.rundir import RunDirectory
from engine.launch.slurm.script import Job, render
from engine.launch.slurm.states import State
from engine.launch.slurm.submit import under_way
from pipelines.stages_file import CODE, ROOT

PARALLEL = "parallel"
"""Tag of the nodes whose training shares its batches among ranks (engine/parallel); any other runs in one process."""
SHARDED = "sharded"
"""Tag of the nodes whose items several processes may share (engine/launch/job_array)."""
JOBS = "jobs"
"""Folder of a workspace in which each dispatched node has its run directory."""

ASK_AGAIN_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """A node, where it runs and where it works.

    `joined` is the one job that puts together what the elements of the node's job array have made.
    """

    profile: str
    stage: str
    node: Node
    key: str
    workspace: Path
    where: ComputeClass
    joined: bool = False

    @property
    def name(self) -> str:
        """The node's."""
        return str(self.node.name)

    @property
    def ranks(self) -> int:
        """How many ranks run it: those of its class if it is tagged `parallel`, else one."""
        return self.where.ranks if PARALLEL in self.node.tags else 1

    @property
    def shards(self) -> int:
        """In how many elements of a job array it is made; 1 where it is not."""
        return self.where.array if SHARDED in self.node.tags and not self.joined else 1

    @property
    def jobs(self) -> tuple["Work", ...]:
        """It as what is submitted one after the other: a job, or a job array and the job that joins its parts."""
        return (self, replace(self, joined=True)) if self.shards > 1 else (self,)

    @property
    def module(self) -> tuple[str, ...]:
        """What a rank runs."""
        words = {"env": self.profile, "stage": self.stage, "node": self.name, "key": self.key, "code": CODE.name}
        return ("pipelines.rank", *(f"--{name}={value}" for name, value in words.items()))

    @property
    def directory(self) -> RunDirectory:
        """Its run directory."""
        return RunDirectory(self.workspace / JOBS / self._job_name)

    @property
    def _job_name(self) -> str:
        return f"{self.name}.joined" if self.joined else self.name

    @property
    def job(self) -> Job:
        """It as a Slurm job."""
        return Job(
            name=f"k2-{self.profile}-{self.stage}-{self._job_name}",
            directory=self.directory.path,
            root=ROOT,
            code=CODE,
            workspace=self.workspace,
            node=self.name,
            module=self.module,
            where=self.where,
            world=PARALLEL in self.node.tags,
            elements=tuple(range(self.shards)) if self.shards > 1 else (),
            shards=self.shards,
        )


def run_ranks(work: Work, given: dict[str, Any], held: IO[str], say: Say) -> None:
    """Run it in a child process that holds the stage's lock too and dies with this one.

    The child is the node's one rank, or torchrun with several.
    """
    exchange.write_parameters(work.workspace, work.name, given)
    parent = f"--parent={os.getpid()}"
    if work.ranks == 1:
        command = [*work.module, parent]
    else:
        say(f"node {work.name}  {work.ranks} processes: another number of them changes a result's last bits")
        start = [f"--processes={work.ranks}", parent, f"--workspace={work.workspace}", f"--node={work.name}"]
        command = ["engine.launch.torchrun", *start, *work.module, "--world"]
    environment = {**SHORT_SPIN, **os.environ}
    with drain.deaf_children():
        rank = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, pass_fds=(held.fileno(),), env=environment)
    try:
        status = _await(rank, signal.SIGINT if work.ranks == 1 else signal.SIGUSR1)
    except BaseException:
        rank.kill()
        rank.wait()
        raise
    if status == drain.DRAINED or (
        status and drain.interrupted() and not exchange.has_error(work.workspace, work.name)
    ):
        raise drain.Drained
    if status:
        exchange.raise_error(work.workspace, work.name, status)


def _await(rank: "subprocess.Popen[bytes]", ask: signal.Signals) -> int:
    """The status with which a rank, or torchrun, ends; once Ctrl-C has come, `ask` it to end soon until it does.

    The terminal's own Ctrl-C reaches it too, but one sent to this process alone does not, nor one before it was ready.
    """
    with drain.heeded(to_the_end=True):
        while True:
            try:
                return rank.wait(ASK_AGAIN_SECONDS)
            except subprocess.TimeoutExpired:
                if drain.interrupted():
                    rank.send_signal(ask)


def run_slurm(work: Work, given: dict[str, Any], say: Say, detach: bool) -> None:
    """Have Slurm jobs do it, or attach to the ones that do.

    Raises:
        UserError: the ranks' own sentence, or what became of the job.
        Detached: the job goes on without this driver.

    """
    for job in work.jobs:
        _run_job(job, given, say, detach)


def _run_job(work: Work, given: dict[str, Any], say: Say, detach: bool) -> None:
    directory = work.directory
    done = directory.submitted()
    if done and done.ended == State.SUCCEEDED and work.shards == 1:
        directory.update(published=not exchange.has_outputs(work.workspace, work.name))
    try:
        run_job(
            work.job,
            prepare=lambda: exchange.write_parameters(work.workspace, work.name, given),
            said_why=lambda element: exchange.has_error(work.workspace, work.name, element),
            say=say,
            detach=detach,
        )
    except JobFailed as error:
        if exchange.has_error(work.workspace, work.name) or exchange.has_lost(work.workspace, work.name):
            exchange.raise_error(work.workspace, work.name, 1)
        if full := directory.room():
            raise UserError(f"{error} {full}.") from error
        raise error


def run_directories(workspace: Path) -> list[RunDirectory]:
    """The run directories of the nodes of a workspace that were dispatched."""
    return [RunDirectory(path) for path in sorted(workspace.glob(f"{JOBS}/*"))]


def refuse_beside(workspace: Path, stage: str) -> None:
    """See that no job works in the workspace of another key: a stage's ranks exclude each other, whatever their key.

    Raises UserError where one does.
    """
    for directory in run_directories(workspace):
        for job in under_way(directory):
            raise UserError(
                f"stage {stage}: job {job} still works under another key, in {workspace}: wait for it, or end it with "
                f"`scancel {job}`; its checkpoints stay, and `make work` lists them."
            )


def script_of(work: Work) -> str:
    """What would be submitted, or a line where nothing would be."""
    if work.where.launcher != "slurm":
        return f"# stage {work.stage}, node {work.name}: launcher {work.where.launcher}, no job"
    return "\n".join(render(one.job) for one in work.jobs)
