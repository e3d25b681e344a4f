"""The runner: each stage under its key, in its workspace, on its machine, with a record of what happened.

For each stage of the pipeline it was given: read the inputs' digests, make the stage key, take the stage's lock,
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
from engine.remedy import completed, make_again
from engine.training.journal import HISTORY, TIMING, TRAINING, left_by_training
from engine.training.position import position, sentences
from pipelines import code_files, dispatch, gates, graph, truth
from pipelines.datasets import publishing_after
from pipelines.errors import refused_by_system, user_error
from pipelines.hooks import DETACH, DRY_RUN, FRESH, RUN_CONTEXT, WORKSPACE, RunContext
from pipelines.internals import without_made
from pipelines.recall import made_before, recall
from pipelines.stages_file import CODE, COMPUTE_CLASSES, ROOT, load_stages_file


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
        what = f"stage {self.stage} of profile {profile}"
        with lock(place / "lock", what) as held:
            parts = self._key_parts()
            key = stage_key(**parts)
            made = made_before(profile, self.stage, key, place / key)
            if made.is_done:
                say(f"stage {self.stage}  fresh under key {key} since {made.then}, nothing to do")
                return
            workspace = self._workspace(place / key)
            self.catalog.save(WORKSPACE, workspace)
            snapshot.keep_for(workspace, CODE)
            say(f"stage {self.stage}  profile {profile}  key {key}")
            begun = {"started": records.now(), "attempt": self._attempt(workspace), **records.provenance(CODE)}
            self._say_begun(workspace, {"key": key, "parts": parts, **begun})
            if kept := position(workspace):
                say(f"stage {self.stage}  resumed from {kept}")
            clock = time.monotonic()
            try:
                earlier = recall(profile, made, workspace, say)
                for node in self.nodes if earlier is None else ():
                    self._run_node(node, parts, workspace, held)
            except (KeyboardInterrupt, drain.Drained) as error:
                pause = self._pause(workspace)
                self._record(folder, key, parts, begun, clock, workspace, pause)
                raise pause from error
            except BaseException as error:
                self._record(folder, key, parts, begun, clock, workspace, error)
                raise
            self._record(folder, key, parts, begun, clock, workspace, None, earlier)
            self._drop(workspace)
            say(f"stage {self.stage}  done in {time.monotonic() - clock:.1f} s")

    @property
    def _is_whole(self) -> bool:
        """Whether all nodes of the stage are run, and not some alone that the user has named."""
        return {node.name for node in self.nodes} == {
            node.name for node in graph.stage_graph(self.stage).pipeline.nodes
        }

    def _drop(self, workspace: Path) -> None:
        """Remove the workspace of a stage that is done; what other nodes have left in it stays for them."""
        if self._is_whole:
            shutil.rmtree(workspace)

    def _pause(self, workspace: Path) -> Interrupted:
        """The sentence on a stage that Ctrl-C stopped."""
        where = f" at {kept}" if (kept := position(workspace)) else ""
        return Interrupted(f"stage {self.stage} stopped{where}; the same command goes on.")

    def show(self) -> None:
        """Print what would be submitted, for the key that the stage would have; write and submit nothing."""
        try:
            key = stage_key(**self._key_parts())
        except UserError as error:
            key = "0" * 16
            say(f"stage {self.stage}: its key is not known yet ({error})")
        workspace = graph.work_folder(self.context.profile) / self.stage / key
        for node in self.nodes:
            print(dispatch.script_of(self._work(node, workspace)))

    def _key_parts(self) -> dict[str, Any]:
        """What the stage key is made of, from what the stage is about to load."""
        outline = graph.stage_graph(self.stage)
        inputs: dict[str, str] = {}
        for name in outline.inputs:
            found = graph.digest_of(self.context.profile, name)
            if found is None:
                raise UserError(
                    f"stage {self.stage} needs {name}, which is not there: "
                    f"{make_again(graph.producer(name), self.context.profile)}."
                )
            inputs[name] = found
        parameters = {name: self.catalog.load(f"params:{name}") for name in outline.parameters}
        now = code_files.current(self.stage, self.context.profile, parameters)
        return {**now, "parameters": parameters, "inputs": inputs}

    def _workspace(self, workspace: Path) -> Path:
        """The stage's own place for work in progress, begun anew with --fresh; work under other keys stays."""
        for other in graph.work_folders(self.context.profile, self.stage):
            if other != workspace:
                dispatch.refuse_beside(other, self.stage)
        if os.environ.get(FRESH) and workspace.exists():
            cancel_all(dispatch.run_directories(workspace), say)
            shutil.rmtree(workspace)
        workspace.mkdir(parents=True, exist_ok=True)
        return workspace

    def _say_begun(self, workspace: Path, begun: dict[str, Any]) -> None:
        """Leave in the workspace what the record will say, for whoever follows the stage while it runs."""
        parts = {**begun["parts"], "parameters": flatten(begun["parts"]["parameters"])}
        told = {"stage": self.stage, "profile": self.context.profile, **begun, "parts": parts}
        write_atomic(workspace / records.BEGUN, canonical_json(told))

    def _attempt(self, workspace: Path) -> int:
        """How often this key has been started, this time included."""
        counter = workspace / ".attempts"
        with counter.open("a") as file:
            file.write(".")
        return counter.stat().st_size

    def _run_node(self, node: Node, parts: dict[str, Any], workspace: Path, held: IO[str]) -> None:
        """Run a node where its class says, unless Ctrl-C came while the one before it ended.

        What comes of it is published only if it was made of the key's `parts`.
        """
        if drain.interrupted():
            raise drain.Drained
        job = self._work(node, workspace)
        given = {name: self.catalog.load(name) for name in node.inputs if name.startswith("params:")}
        if job.where.launcher == "slurm":
            dispatch.run_slurm(job, given, say, detach=bool(os.environ.get(DETACH)))
        elif job.where.launcher == "local":
            dispatch.run_ranks(job, given, held, say)
        here = job.where.launcher == "inplace"
        with publishing_after(
            partial(truth.check if here else truth.check_read, self.context.profile, self.stage, parts)
        ):
            if here:
                Task(node, self.catalog, is_async=False, hook_manager=self.hook_manager, run_id=self.run_id).execute()
            else:
                self._publish(node, workspace)

    def _publish(self, node: Node, workspace: Path) -> None:
        """Save what a rank has handed over."""
        outputs, self.context.node_seconds[node.name] = exchange.read_outputs(workspace, node.name)
        for name, value in outputs.items():
            self.catalog.save(name, value)

    def _work(self, node: Node, workspace: Path) -> dispatch.Work:
        return dispatch.Work(
            self.context.profile, self.stage, node, workspace.name, workspace, self._compute_class(node)
        )

    def _compute_class(self, node: Node) -> ComputeClass:
        """The settings of the node's own compute class (a tag), else of its stage's."""
        own = [name for name in COMPUTE_CLASSES if name in node.tags]
        return compute_class(self.context.compute, own[0] if own else load_stages_file().stage(self.stage).compute)

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
        """Append the run record, with what is worth keeping of the workspace beside it.

        `earlier` is the record of the run whose outputs were brought back in place of running.
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
            **self._training(workspace),
            "node_seconds": {node.name: seconds.get(node.name, 0.0) for node in self.nodes},
            "metrics": self._metrics() if outcome == "success" else {},
            **(records.recalled(earlier) if earlier else {}),
        }
        runs = folder / ".runs" / self.stage
        kept = records.record_path(runs, record).with_suffix("")
        self._keep(earlier["path"].with_suffix("") if earlier else workspace, kept)
        # last: who sees the record sees what lies beside it
        records.write_record(runs, {**record, "jobs": self._jobs(workspace, kept)})

    def _jobs(self, workspace: Path, kept: Path) -> dict[str, Any]:
        """What became of the nodes' Slurm jobs, by run directory; their logs are those that were `kept`."""
        directories = [one.directory for node in self.nodes for one in self._work(node, workspace).jobs]
        told = {directory.path.name: directory.record() for directory in directories}
        logs = (kept / dispatch.JOBS).relative_to(ROOT)
        return {name: {**job, "log": str(logs / name / job["log"])} for name, job in told.items() if job}

    def _keep(self, workspace: Path, folder: Path) -> None:
        """Copy what is worth keeping of a workspace that is about to go: history, clocks, the jobs' small files."""
        found = [(left, Path(name)) for name in (HISTORY, TIMING) if (left := left_by_training(workspace, name))]
        of_jobs = [file for name in KEPT for file in workspace.glob(f"{dispatch.JOBS}/*/**/{name}")]
        found += [(file, file.relative_to(workspace)) for file in of_jobs]
        for file, name in found:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / name)

    def _training(self, workspace: Path) -> dict[str, Any]:
        """What a training node tells of its end: steps, ranks, numerics, digest of the final state.

        Where its past makes the end another than an undisturbed run's there is a `warning`, and the `origin` of work
        that was adopted from another key; also while the training is not over.
        """
        left = left_by_training(workspace, TRAINING)
        training = read_object(left) if left else None
        kept = position(workspace)
        past = training.get("past", []) if training else kept.past if kept else ()
        told = {"warning": sentences(past)} if past else {}
        return {"training": training, **told, **records.adopted_work(past)}

    def _metrics(self) -> dict[str, Any]:
        return read_object(graph.dataset_path(self.context.profile, f"{self.stage}_metrics"))


def say(line: str) -> None:
    """One line for whoever watches."""
    print(line, file=sys.stderr, flush=True)


def _outcome(error: BaseException | None) -> str:
    """The outcome of a stage that did not come to its end, "" for one that did."""
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
