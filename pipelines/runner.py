"""The runner: each stage under its key, in its workspace, on its machine, with a record of what happened.

For each stage of a pipeline: read the inputs' digests, make the stage key, take the stage's lock,
run node after node (here or in a rank), let the catalog publish what they return, write the run record.
"""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner, Task

from engine import device
from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.credentials import masked
from engine.errors import UserError
from engine.identity import records, snapshot
from engine.identity.key import flatten, stage_key
from engine.launch import drain, exchange
from engine.launch.compute import ComputeClass, compute_class
from engine.launch.drain import Interrupted
from engine.launch.lifetime import lock
from engine.launch.slurm.interrupts import Detached
from engine.launch.slurm.rundir import KEPT
from engine.launch.slurm.submit import cancel_all
from engine.parallel.mesh import laid_out
from engine.remedy import completed, make_again
from engine.training.journal import HISTORY, TIMING, TRAINING, left_by_training
from engine.training.position import position, sentences
from pipelines import code_files, dispatch, gates, graph, truth
from pipelines.configuration import class_name, class_place
from pipelines.datasets import publishing_after
from pipelines.errors import refused_by_system, user_error
from pipelines.hooks import DETACH, DRY_RUN, FRESH, RUN_CONTEXT, WORKSPACE, RunContext
from pipelines.internals import without_made
from pipelines.recall import DVC, made_before, recall
from pipelines.restore import settle
from pipelines.stages_file import CODE, ROOT, load_stages_file


class StageRunner(SequentialRunner):
    """Runs a pipeline stage by stage, in the order of kedro.yml."""

    def run(
        self,
        pipeline: Pipeline,
        catalog: Any,
        hook_manager: Any = None,
        run_id: str | None = None,
        only_missing_outputs: bool = False,
    ) -> dict[str, Any]:
        """Run every stage that has nodes in `pipeline`; stop at the first that fails."""
        if only_missing_outputs:
            pipeline = without_made(self, pipeline, catalog)
        context: RunContext = catalog.load(RUN_CONTEXT)
        nodes = {name: [node for node in pipeline.nodes if name in node.tags] for name in load_stages_file().stages}
        try:
            with drain.pausing():
                for stage in (name for name in nodes if nodes[name]):
                    if drain.interrupted():
                        raise Interrupted(f"stopped before stage {stage}; the same command goes on.")
                    run = StageRun(stage, nodes[stage], catalog, context, hook_manager, run_id)
                    run.show() if os.environ.get(DRY_RUN) else run.execute()
        finally:
            gates.stop()
        return {}


@dataclass
class StageRun:
    """One execution of one stage."""

    stage: str
    nodes: list[Node]
    catalog: Any
    context: RunContext
    hook_manager: Any
    run_id: str | None

    def execute(self) -> None:
        """Run the stage's nodes under its lock; write the record whether they succeed or fail."""
        profile = self.context.profile
        folder, place = graph.data_folder(profile), graph.work_folder(profile) / self.stage
        label = f"stage {self.stage} of profile {profile}"
        with lock(place / "lock", label) as lock_file:
            parts = self._key_parts()
            key = stage_key(**parts)
            known = made_before(profile, self.stage, key, place / key)
            if known.is_done:
                say(f"stage {self.stage}  fresh under key {key} since {known.then}, nothing to do")
                return
            if known.record is None:  # else it comes back, and only runs if that fails
                for node in self.nodes:
                    work = self._work(node, place / key)
                    dispatch.refuse_schedule(work, self._place(node), self.catalog.load(f"params:{self.stage}"))
                    dispatch.refuse_device(work, self._place(node))
            workspace = self._workspace(place / key)
            self.catalog.save(WORKSPACE, workspace)
            snapshot.keep_for(workspace, CODE)
            say(f"stage {self.stage}  profile {profile}  key {key}")
            provenance = {"started": records.now(), "attempt": self._attempt(workspace), **records.provenance(CODE)}
            self._say_begun(workspace, {"key": key, "parts": parts, **provenance})
            if reached := position(workspace):
                say(f"stage {self.stage}  resumed from {reached}")
            clock = time.monotonic()
            try:
                earlier = recall(profile, known, workspace, say)
                for node in self.nodes if earlier is None else ():
                    self._run_node(node, parts, workspace, lock_file)
            except (KeyboardInterrupt, drain.Drained) as error:
                pause = self._pause(workspace)
                self._record(folder, key, parts, provenance, clock, workspace, pause)
                raise pause from error
            except BaseException as error:
                self._record(folder, key, parts, provenance, clock, workspace, error)
                raise
            self._record(folder, key, parts, provenance, clock, workspace, None, earlier)
            self._drop(workspace)
            if DVC not in os.environ:  # it would copy outputs with a second link when it commits them
                settle(profile, self.stage)
            say(f"stage {self.stage}  done in {time.monotonic() - clock:.1f} s")

    @property
    def _is_whole(self) -> bool:
        """Whether all nodes of the stage run, not only some that the user has named."""
        return {node.name for node in self.nodes} == {
            node.name for node in graph.stage_graph(self.stage).pipeline.nodes
        }

    def _drop(self, workspace: Path) -> None:
        """Remove the workspace if all nodes have run; a run of some nodes leaves it to the others."""
        if self._is_whole:
            shutil.rmtree(workspace)

    def _pause(self, workspace: Path) -> Interrupted:
        """Return the error for a stage that Ctrl-C stopped."""
        where = f" at {reached}" if (reached := position(workspace)) else ""
        return Interrupted(f"stage {self.stage} stopped{where}; the same command goes on.")

    def show(self) -> None:
        """Print the scripts that would be submitted under the stage's present key; write and submit nothing."""
        try:
            key = stage_key(**self._key_parts())
        except UserError as error:
            key = "0" * 16
            say(f"stage {self.stage}: its key is not known yet ({error})")
        workspace = graph.work_folder(self.context.profile) / self.stage / key
        for node in self.nodes:
            print(dispatch.script_of(self._work(node, workspace)))

    def _key_parts(self) -> dict[str, Any]:
        """Return the parts of the stage's key, read from the inputs and parameters that the stage will load."""
        outline = graph.stage_graph(self.stage)
        inputs: dict[str, str] = {}
        for name in outline.inputs:
            digest = graph.digest_of(self.context.profile, name)
            if digest is None:
                raise UserError(
                    f"stage {self.stage} needs {name}, which is not there: "
                    f"{make_again(graph.producer(name), self.context.profile)}."
                )
            inputs[name] = digest
        parameters = {name: self.catalog.load(f"params:{name}") for name in outline.parameters}
        code_and_sources = code_files.current(self.stage, self.context.profile, parameters)
        return {**code_and_sources, "parameters": parameters, "inputs": inputs}

    def _workspace(self, workspace: Path) -> Path:
        """Make the stage's folder for work in progress, empty with --fresh; work under other keys stays."""
        for other in graph.work_folders(self.context.profile, self.stage):
            if other != workspace:
                dispatch.refuse_beside(other, self.stage)
        if os.environ.get(FRESH) and workspace.exists():
            cancel_all(dispatch.run_directories(workspace), say)
            shutil.rmtree(workspace)
        workspace.mkdir(parents=True, exist_ok=True)
        return workspace

    def _say_begun(self, workspace: Path, begun: dict[str, Any]) -> None:
        """Write the record's first fields into the workspace, for programs that follow the stage while it runs."""
        parts = {**begun["parts"], "parameters": flatten(begun["parts"]["parameters"])}
        content = {"stage": self.stage, "profile": self.context.profile, **begun, "parts": parts}
        write_atomic(workspace / records.BEGUN, canonical_json(content))

    def _attempt(self, workspace: Path) -> int:
        """Count this start of the key, and return how many there were."""
        counter = workspace / ".attempts"
        with counter.open("a") as file:
            file.write(".")
        return counter.stat().st_size

    def _run_node(self, node: Node, parts: dict[str, Any], workspace: Path, lock_file: IO[str]) -> None:
        """Run a node where its compute class says, unless Ctrl-C came while the node before it ended.

        The outputs are published only if the key's `parts` are still true.
        """
        if drain.interrupted():
            raise drain.Drained
        job = self._work(node, workspace)
        dispatch.refuse_device(job, self._place(node))
        parameters = {name: self.catalog.load(name) for name in node.inputs if name.startswith("params:")}
        if job.where.launcher == "slurm":
            dispatch.run_slurm(job, parameters, say, detach=bool(os.environ.get(DETACH)))
        elif job.where.launcher == "local":
            dispatch.run_ranks(job, parameters, lock_file, say)
        in_driver = job.where.launcher == "inplace"
        with publishing_after(
            partial(truth.check if in_driver else truth.check_read, self.context.profile, self.stage, parts)
        ):
            if in_driver:
                task = Task(node, self.catalog, is_async=False, hook_manager=self.hook_manager, run_id=self.run_id)
                with device.working_on(job.where.device, strict=job.where.strict_kernels), laid_out(job.layout):
                    task.execute()
            else:
                self._publish(node, workspace)

    def _publish(self, node: Node, workspace: Path) -> None:
        """Save the outputs that a rank has handed over."""
        outputs, self.context.node_seconds[node.name] = exchange.read_outputs(workspace, node.name)
        for name, value in outputs.items():
            self.catalog.save(name, value)

    def _work(self, node: Node, workspace: Path) -> dispatch.Work:
        return dispatch.Work(
            self.context.profile, self.stage, node, workspace.name, workspace, self._compute_class(node)
        )

    def _compute_class(self, node: Node) -> ComputeClass:
        return compute_class(self.context.compute, class_name(self.stage, node))

    def _place(self, node: Node) -> str:
        return class_place(self.context.profile, self.stage, node)

    def _record(
        self,
        folder: Path,
        key: str,
        parts: dict[str, Any],
        begun: dict[str, Any],
        clock: float,
        workspace: Path,
        error: BaseException | None,
        earlier: dict[str, Any] | None = None,
    ) -> None:
        """Append the run record, with the files of the workspace that are worth keeping beside it.

        `earlier` is the record of the run whose outputs were recalled instead of running.
        """
        outline = graph.stage_graph(self.stage)
        profile, seconds = self.context.profile, self.context.node_seconds
        outcome = _outcome(error) or ("success" if self._is_whole else "partial")
        record = {
            "stage": self.stage,
            "profile": profile,
            "key": key,
            "parts": {**parts, "parameters": flatten(parts["parameters"])},
            "outputs": {} if error else graph.digests_of(profile, outline.outputs),
            "outcome": outcome,
            "error": _sentence(error, profile),
            **begun,
            "finished": records.now(),
            "seconds": round(time.monotonic() - clock, 3),
            "world_size": max(self._work(node, workspace).ranks for node in self.nodes),
            "devices": {node.name: self._compute_class(node).device for node in self.nodes},
            **self._training(workspace),
            "node_seconds": {node.name: seconds.get(node.name, 0.0) for node in self.nodes},
            "metrics": self._metrics() if outcome == "success" else {},
            **(records.recalled(earlier) if earlier else {}),
        }
        runs = folder / ".runs" / self.stage
        folder_beside = records.record_path(runs, record).with_suffix("")
        self._keep(earlier["path"].with_suffix("") if earlier else workspace, folder_beside)
        # last, so that the files beside a record are there when the record is
        records.write_record(runs, {**record, "jobs": self._jobs(workspace, folder_beside)})

    def _jobs(self, workspace: Path, kept: Path) -> dict[str, Any]:
        """Return how the nodes' Slurm jobs ended, by run directory; their logs are in the folder `kept`."""
        directories = [work.directory for node in self.nodes for work in self._work(node, workspace).jobs]
        results = {directory.path.name: directory.record() for directory in directories}
        logs = (kept / dispatch.JOBS).relative_to(ROOT)
        return {name: {**job, "log": str(logs / name / job["log"])} for name, job in results.items() if job}

    def _keep(self, workspace: Path, folder: Path) -> None:
        """Copy the files of a workspace that outlive it: a training's history and times, and the jobs' small files."""
        files = [(left, Path(name)) for name in (HISTORY, TIMING) if (left := left_by_training(workspace, name))]
        of_jobs = [file for name in KEPT for file in workspace.glob(f"{dispatch.JOBS}/*/**/{name}")]
        files += [(file, file.relative_to(workspace)) for file in of_jobs]
        for file, name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / name)

    def _training(self, workspace: Path) -> dict[str, Any]:
        """Return a training node's summary: steps, ranks, numerics, digest of the final state.

        A training whose past makes its result differ from an undisturbed run's also has a `warning`, and the `origin`
        of work that was adopted from another key, even while it is unfinished.
        """
        file = left_by_training(workspace, TRAINING)
        training = read_object(file) if file else None
        reached = position(workspace)
        past = training.get("past", []) if training else reached.past if reached else ()
        warning = {"warning": sentences(past)} if past else {}
        return {"training": training, **warning, **records.adopted_work(past)}

    def _metrics(self) -> dict[str, Any]:
        return read_object(graph.dataset_path(self.context.profile, f"{self.stage}_metrics"))


def say(line: str) -> None:
    """Print one line to standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def _outcome(error: BaseException | None) -> str:
    """Return the outcome of a stage that ended with an error; "" for one that succeeded."""
    if error is None:
        return ""
    known = user_error(error)
    if isinstance(known, Interrupted):
        return records.INTERRUPTED
    return records.DETACHED if isinstance(known, Detached) else "failed"


def _sentence(error: BaseException | None, profile: str) -> str | None:
    if error is None:
        return None
    known = user_error(error) or refused_by_system(error)
    return completed(masked(str(known or f"{type(error).__name__}: {error}")), profile)
