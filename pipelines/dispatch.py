"""Run a node outside the driver: in processes beside it, or as a Slurm job. The driver publishes the outputs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from kedro.pipeline.node import Node

from engine import device
from engine.errors import UserError
from engine.launch import drain, exchange
from engine.launch.compute import SHORT_SPIN, ComputeClass
from engine.launch.slurm.run import JobFailed, run_job
from engine.launch.slurm.rundir import RunDirectory
from engine.launch.slurm.script import Job, render
from engine.launch.slurm.states import State
from engine.launch.slurm.submit import under_way
from engine.parallel.layout import WHOLE, Layout, check_schedule
from pipelines.stages_file import CODE, ROOT

PARALLEL = "parallel"
"""Tag of the nodes whose training shares its batches among ranks (engine/parallel); all others run in one process."""
SHARDED = "sharded"
"""Tag of the nodes whose items several processes may share (engine/launch/job_array)."""
JOBS = "jobs"
"""Folder of a workspace in which each dispatched node has its run directory."""

ASK_AGAIN_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """One node to run, with its compute class and its workspace.

    `joined` marks the job that joins the parts which the elements of the node's job array have made.
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
        """The node's name."""
        return str(self.node.name)

    @property
    def ranks(self) -> int:
        """The number of ranks: that of its compute class if the node is tagged `parallel`, else one."""
        return self.where.ranks if PARALLEL in self.node.tags else 1

    @property
    def layout(self) -> Layout:
        """How the ranks divide the model: as its compute class says if the node is tagged `parallel`."""
        return self.where.layout if PARALLEL in self.node.tags else WHOLE

    @property
    def shards(self) -> int:
        """The number of elements in its job array; 1 where the node is not sharded."""
        return self.where.array if SHARDED in self.node.tags and not self.joined else 1

    @property
    def jobs(self) -> tuple["Work", ...]:
        """The jobs to submit one after the other: one alone, or a job array and the job that joins its parts."""
        return (self, replace(self, joined=True)) if self.shards > 1 else (self,)

    @property
    def module(self) -> tuple[str, ...]:
        """The module that a rank runs, with its arguments."""
        arguments = {"env": self.profile, "stage": self.stage, "node": self.name, "key": self.key, "code": CODE.name}
        arguments["device"] = self.where.device
        if self.where.strict_kernels:
            arguments["kernels"] = "strict"
        if self.layout != WHOLE:
            arguments["layout"] = json.dumps(asdict(self.layout))
        return ("pipelines.rank", *(f"--{name}={value}" for name, value in arguments.items()))

    @property
    def directory(self) -> RunDirectory:
        """The run directory of the node's job."""
        return RunDirectory(self.workspace / JOBS / self._job_name)

    @property
    def _job_name(self) -> str:
        return f"{self.name}.joined" if self.joined else self.name

    @property
    def job(self) -> Job:
        """The node's Slurm job."""
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


def refuse_schedule(work: Work, place: str, parameters: dict[str, Any]) -> None:
    """Raise UserError if a pipeline has too few micro-batches; `place` is the file and the class, for the message.

    Where `parameters`, the stage's, cut a batch of several kinds of examples, each kind is read on its own.
    """
    if work.layout.pp == 1 or "micro_batches" not in parameters:
        return
    kinds = parameters["batch"] | parameters["natural"] if "batch" in parameters else {}
    readings = sum(size > 0 for name, size in kinds.items() if name not in {"tokens", "weight"}) or 1
    count = -(-parameters["micro_batches"] // (work.ranks // work.layout.pp)) * readings
    check_schedule(work.layout, count, f"{place}, field layout", f"{work.stage}.micro_batches")


def refuse_device(work: Work, place: str) -> None:
    """Raise UserError if the node runs on this machine and its class, at `place`, asks for GPUs that are not here."""
    if work.where.launcher != "slurm":
        device.require(work.where.device, work.ranks, place, several=work.ranks > 1)


def run_ranks(work: Work, parameters: dict[str, Any], lock_file: IO[str], say: Say) -> None:
    """Run the node in a child process that also holds the stage's lock and dies with this process.

    The child is the node's only rank, or torchrun with several.
    """
    exchange.write_parameters(work.workspace, work.name, parameters)
    parent = f"--parent={os.getpid()}"
    if work.ranks == 1:
        command = [*work.module, parent]
    else:
        say(f"node {work.name}  {work.ranks} processes (results' last bits depend on this number)")
        start = [f"--processes={work.ranks}", parent, f"--workspace={work.workspace}", f"--node={work.name}"]
        command = ["engine.launch.torchrun", *start, *work.module, "--world"]
    environment = {**SHORT_SPIN, **os.environ}
    with drain.deaf_children():
        rank = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, pass_fds=(lock_file.fileno(),), env=environment
        )
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
    """Return the exit status of a rank, or of torchrun; after Ctrl-C, send the signal `ask` until it ends.

    The terminal's Ctrl-C reaches the child too, but not a signal to this process alone, nor one before it was ready.
    """
    with drain.heeded(to_the_end=True):
        while True:
            try:
                return rank.wait(ASK_AGAIN_SECONDS)
            except subprocess.TimeoutExpired:
                if drain.interrupted():
                    rank.send_signal(ask)


def run_slurm(work: Work, parameters: dict[str, Any], say: Say, detach: bool) -> None:
    """Run the node as Slurm jobs, or attach to those that already run it.

    Raises:
        UserError: the error that the ranks handed over, or what became of the job.
        Detached: the job goes on without this driver.

    """
    for job in work.jobs:
        _run_job(job, parameters, say, detach)


def _run_job(work: Work, parameters: dict[str, Any], say: Say, detach: bool) -> None:
    directory = work.directory
    earlier = directory.submitted()
    if earlier and earlier.ended == State.SUCCEEDED and work.shards == 1:
        directory.update(published=not exchange.has_outputs(work.workspace, work.name))
    try:
        run_job(
            work.job,
            prepare=lambda: exchange.write_parameters(work.workspace, work.name, parameters),
            left_error=lambda element: exchange.has_error(work.workspace, work.name, element),
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
    """Return the run directories of a workspace's dispatched nodes."""
    return [RunDirectory(path) for path in sorted(workspace.glob(f"{JOBS}/*"))]


def refuse_beside(workspace: Path, stage: str) -> None:
    """Refuse to start while a job works in the workspace of another key: a stage's ranks exclude each other.

    Raises UserError, which names the job.
    """
    for directory in run_directories(workspace):
        for job in under_way(directory):
            raise UserError(
                f"stage {stage}: job {job} still works under another key, in {workspace}: wait for it, or end it with "
                f"`scancel {job}`; its checkpoints stay, and `make work` lists them."
            )


def script_of(work: Work) -> str:
    """Return the scripts that would be submitted, or a comment line where the node needs no job."""
    if work.where.launcher != "slurm":
        return f"# stage {work.stage}, node {work.name}: launcher {work.where.launcher}, no job"
    return "\n".join(render(part.job) for part in work.jobs)
