"""One process of a node: the same node and catalog entries as the driver's, no publishing.

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

from engine.artifacts import sums
from engine.artifacts.files import read_object
from engine.errors import UserError
from engine.identity.records import BEGUN
from engine.launch import drain, exchange, fence, job_array
from engine.launch.lifetime import die_with_parent, lock
from engine.launch.torchrun import LOST
from engine.progress import silence
from pipelines import gates, graph, truth
from pipelines.datasets import TableDataset
from pipelines.errors import refused_by_system, report_errors, user_error
from pipelines.stages_file import CODE, load_stages_file

JOB_PATIENCE_SECONDS = 60.0
"""A job's rank waits longer for one of the attempt before, which another machine may still be ending."""
RANKS = ".ranks"
"""Folder of a workspace in which ranks other than the first work."""


def main() -> None:
    """Run one node; exit 1 with the sentence handed to the driver if the user can put the error right.

    Asked to end soon (engine/launch/drain), it exits with DRAINED instead, its progress kept.
    """
    drain.install()
    fence.end_when_superseded(LOST)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name in ("env", "stage", "node", "key", "code"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--parent", type=int, default=None, help="die when this process does")
    parser.add_argument("--world", action="store_true", help="one of several ranks, as torchrun's environment says")
    parser.add_argument("--shard", type=int, default=None, help="make this shard alone (from 0), hand over nothing")
    parser.add_argument("--shards", type=int, default=1, help="of so many")
    asked = parser.parse_args()
    if asked.parent is not None or drain.run_directory():
        die_with_parent(asked.parent or os.getppid())
    with report_errors():
        workspace = graph.work_folder(load_stages_file().profile(asked.env)) / asked.stage / asked.key
        if not workspace.is_dir():
            raise UserError(
                f"{workspace} is missing: a rank is started by the driver, "
                f"use `kedro run --env {asked.env} --pipelines {asked.stage}`."
            )
    rank = int(os.environ["RANK"]) if asked.world else asked.shard or 0
    with hand_over_errors(workspace, asked.node, rank):
        check_place(asked.code)
        if asked.shard is not None:
            job_array.become(asked.shard, asked.shards)
        if asked.world:
            run_in_world(asked.env, asked.stage, asked.node, workspace, rank)
        else:
            # A driver's own child needs no lock: it holds the stage's with it.
            what = f"rank {rank} of stage {asked.stage} of profile {asked.env}"
            with rank_lock(workspace, rank, what) if drain.run_directory() else nullcontext():
                run_alone(asked.env, asked.stage, asked.node, workspace, workspace)


def check_place(code: str) -> None:
    """Refuse to run other code than the snapshot called `code`."""
    if CODE.name != code:
        raise UserError(
            f"a rank that is to run the snapshot {code} of the code imports from {CODE}: the job's script sets "
            "PYTHONPATH, see that the container does not change it."
        )


@contextmanager
def hand_over_errors(workspace: Path, node: str, rank: int) -> Iterator[None]:
    """Hand the sentence of an error that the user can put right to the driver, which says it, and exit 1."""
    try:
        yield
    except Exception as error:
        found = user_error(error) or refused_by_system(error)
        if found is None:
            raise
        try:
            exchange.write_error(workspace, node, str(found), rank)
        except OSError as unwritable:  # the disc is full: the log may take what the driver cannot be told
            print(f"error: {found} (it cannot be handed over: {unwritable.strerror})", file=sys.stderr, flush=True)
        sys.exit(1)


def rank_lock(workspace: Path, rank: int, what: str) -> IO[str]:
    """A rank's lock, on the file system that all share, so that two attempts never work at once."""
    patience = {"patience": JOB_PATIENCE_SECONDS} if drain.run_directory() else {}
    return lock(workspace.parent / f"lock.{rank}", what, **patience)


def run_in_world(profile: str, stage: str, node: str, workspace: Path, rank: int) -> None:
    """Run the node as number `rank` of torchrun's: all do the whole node, the first one's outputs are kept.

    The others have a folder of their own to work in. Each holds a lock until it is gone, so that a rank of the next
    attempt never works beside one of the last.
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
            run_alone(profile, stage, node, workspace, own, rank)
        except data.RankLost as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(LOST)  # at once: an orderly end would wait for the one that is gone
        data.stop()


def run_alone(profile: str, stage: str, node: str, workspace: Path, own: Path, rank: int = 0) -> None:
    """Run the node in the folder `own` and hand what came of it to the driver, which reads in `workspace`."""
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
    """An output as the driver is to publish it: tables written, checked and judged, payloads by hash hashed, here."""
    dataset = graph.dataset(profile, name)
    if isinstance(dataset, TableDataset):
        return dataset.prepare(value, exchange.place(workspace, node, name))
    if isinstance(value, Path) and graph.is_by_hash(profile, name):
        sums.remember(value)
    return value


def run_node(profile: str, stage: str, name: str, workspace: Path, own: Path) -> tuple[dict[str, Any], float]:
    """Load a node's inputs, run it in the folder `own`, return its outputs by dataset name and the seconds it took."""
    node = graph.node(stage, name)
    given = exchange.read_parameters(workspace, name)
    inputs = {key: _load(profile, key, given, own) for key in node.inputs}
    begun = time.monotonic()
    return dict(node.run(inputs)), round(time.monotonic() - begun, 3)


def _load(profile: str, name: str, given: dict[str, Any], workspace: Path) -> Any:
    if name == "workspace":
        return workspace
    return given[name] if name in given else graph.dataset(profile, name).load()


if __name__ == "__main__":
    main()
