"""Run one process of a node: with the same node and catalog entries as the driver, but without publishing.

    python -m pipelines.rank --env laptop --stage pretrain --node train_base --key 0123456789abcdef --code HASH

It runs from the snapshot of the code that has this hash, or not at all. It loads the node's inputs, runs it in the
stage's workspace, has its tables judged by their gates and hands its outputs to the driver (engine/launch/exchange).
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter

from engine import device
from engine.artifacts import sums
from engine.artifacts.files import read_object
from engine.errors import UserError
from engine.identity.records import BEGUN
from engine.launch import drain, exchange, fence, job_array
from engine.launch.lifetime import die_with_parent, lock
from engine.launch.torchrun import LOST
from engine.parallel.layout import WHOLE, Layout
from engine.parallel.mesh import laid_out
from engine.progress import silence
from pipelines import gates, graph, truth
from pipelines.configuration import class_name
from pipelines.datasets import TableDataset
from pipelines.errors import refused_by_system, report_errors, user_error
from pipelines.stages_file import CODE, load_stages_file

JOB_PATIENCE_SECONDS = 60.0
"""How long a job's rank waits for the one of the attempt before, which may still be ending on another machine."""
RANKS = ".ranks"
"""Folder of a workspace with the folders of the ranks other than the first."""


def main() -> None:
    """Run one node; hand an error that the user can put right to the driver and exit 1.

    When it is asked to end soon (engine/launch/drain), it keeps its progress and exits with DRAINED.
    """
    drain.install()
    fence.end_when_superseded(LOST)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name in ("env", "stage", "node", "key", "code"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--device", choices=device.KINDS, default=device.CPU)
    parser.add_argument("--kernels", choices=("any", "strict"), default="any", help="as compute.yml's strict_kernels")
    parser.add_argument("--layout", type=TypeAdapter(Layout).validate_json, default=WHOLE, help="as JSON")
    parser.add_argument("--parent", type=int, default=None, help="die when this process does")
    parser.add_argument("--world", action="store_true", help="one of several ranks, as torchrun's environment says")
    parser.add_argument("--shard", type=int, default=None, help="make this shard alone (from 0), hand over nothing")
    parser.add_argument("--shards", type=int, default=1, help="of so many")
    arguments = parser.parse_args()
    if arguments.parent is not None or drain.run_directory():
        die_with_parent(arguments.parent or os.getppid())
    with report_errors():
        workspace = graph.work_folder(load_stages_file().profile(arguments.env)) / arguments.stage / arguments.key
        if not workspace.is_dir():
            raise UserError(
                f"{workspace} is missing: a rank is started by the driver, "
                f"use `kedro run --env {arguments.env} --pipelines {arguments.stage}`."
            )
    rank = int(os.environ["RANK"]) if arguments.world else arguments.shard or 0
    with hand_over_errors(workspace, arguments.node, rank):
        check_place(arguments.code)
        gpu = int(os.environ["LOCAL_RANK"]) if arguments.world else 0  # torchrun sets it for its ranks alone
        name = class_name(arguments.stage, graph.node(arguments.stage, arguments.node))
        place = f"conf/{arguments.env}/compute.yml: class {name}"  # the driver's refusal, before, knows a class's file
        device.require(arguments.device, gpu + 1, place, several=arguments.world)
        if arguments.shard is not None:
            job_array.become(arguments.shard, arguments.shards)
        with device.working_on(arguments.device, gpu, strict=arguments.kernels == "strict"):
            if arguments.world:
                run_in_world(arguments.env, arguments.stage, arguments.node, workspace, rank, arguments.layout)
            else:
                # A driver's own child needs no lock: it holds the stage's with it.
                label = f"rank {rank} of stage {arguments.stage} of profile {arguments.env}"
                locked = rank_lock(workspace, rank, label) if drain.run_directory() else nullcontext()
                with locked, laid_out(arguments.layout):
                    run_alone(arguments.env, arguments.stage, arguments.node, workspace, workspace)


def check_place(code: str) -> None:
    """Refuse to run code other than the snapshot called `code`."""
    if CODE.name != code:
        raise UserError(
            f"a rank of the code's snapshot {code} imports from {CODE}: the job's script sets "
            "PYTHONPATH, so make sure that the container does not change it."
        )


@contextmanager
def hand_over_errors(workspace: Path, node: str, rank: int) -> Iterator[None]:
    """Hand the sentence of an error that the user can put right to the driver, which prints it, and exit 1."""
    try:
        yield
    except Exception as error:
        known = user_error(error) or refused_by_system(error)
        if known is None:
            raise
        try:
            exchange.write_error(workspace, node, str(known), rank)
        except OSError as unwritable:  # the disc is full, but the log may still take the sentence
            print(f"error: {known} (it cannot be handed over: {unwritable.strerror})", file=sys.stderr, flush=True)
        sys.exit(1)


def rank_lock(workspace: Path, rank: int, name: str) -> IO[str]:
    """Return a rank's lock, taken on the shared file system, so that two attempts never work at once."""
    patience = {"patience": JOB_PATIENCE_SECONDS} if drain.run_directory() else {}
    return lock(workspace.parent / f"lock.{rank}", name, **patience)


def run_in_world(profile: str, stage: str, node: str, workspace: Path, rank: int, layout: Layout = WHOLE) -> None:
    """Run the node as one of torchrun's ranks: all run the whole node, and the first one's outputs are kept.

    Each of the others works in a folder of its own. A rank holds a lock until its process is gone, so that a rank of
    the next attempt never works beside one of the last.
    """
    from engine.parallel import data

    own = workspace / RANKS / str(rank) if rank else workspace
    own.mkdir(parents=True, exist_ok=True)
    if rank:
        silence()
        logging.getLogger("kedro").setLevel(logging.CRITICAL)
    with rank_lock(workspace, rank, f"rank {rank} of stage {stage} of profile {profile}"):
        try:
            data.start()
            with laid_out(layout):
                run_alone(profile, stage, node, workspace, own, rank)
        except data.RankLost as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(LOST)  # at once: an orderly end would wait for the lost rank
        data.stop()


def run_alone(profile: str, stage: str, node: str, workspace: Path, own: Path, rank: int = 0) -> None:
    """Run the node in the folder `own` and hand its outputs to the driver, which reads them in `workspace`."""
    parts = read_object(workspace / BEGUN)["parts"]
    truth.check_run(profile, stage, parts)
    try:
        if rank == 0 and graph.has_gates(graph.node(stage, node)):
            gates.start()
        outputs, seconds = run_node(profile, stage, node, workspace, own)
        if rank == 0:
            ready = {name: _prepared(profile, node, name, value, workspace) for name, value in outputs.items()}
            truth.check_run(profile, stage, parts)
            exchange.write_outputs(workspace, node, ready, seconds, CODE.name)
            drain.mark_done()
    finally:
        gates.stop()


def _prepared(profile: str, node: str, name: str, value: Any, workspace: Path) -> Any:
    """Return an output ready to publish: a table written, checked and judged, a payload by hash hashed."""
    dataset = graph.dataset(profile, name)
    if isinstance(dataset, TableDataset):
        return dataset.prepare(value, exchange.place(workspace, node, name))
    if isinstance(value, Path) and graph.is_by_hash(profile, name):
        sums.remember(value)
    return value


def run_node(profile: str, stage: str, name: str, workspace: Path, own: Path) -> tuple[dict[str, Any], float]:
    """Load a node's inputs and run it in the folder `own`; return its outputs by dataset name and its seconds."""
    node = graph.node(stage, name)
    parameters = exchange.read_parameters(workspace, name)
    inputs = {key: _load(profile, key, parameters, own) for key in node.inputs}
    begun = time.monotonic()
    return dict(node.run(inputs)), round(time.monotonic() - begun, 3)


def _load(profile: str, name: str, parameters: dict[str, Any], workspace: Path) -> Any:
    if name == "workspace":
        return workspace
    return parameters[name] if name in parameters else graph.dataset(profile, name).load()


if __name__ == "__main__":
    main()
