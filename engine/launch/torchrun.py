"""torchrun as a child that dies with its parent, has its ranks do so too, and says in one sentence what went wrong.

    python -m engine.launch.torchrun --processes 2 --parent 123 --workspace DIR --node NAME MODULE [ARGUMENT…]

runs `python -m MODULE ARGUMENT… --parent=<this process>` as ranks on this machine, which find each other through
torchrun's environment. When one fails the others are stopped.
"""

import argparse
import logging
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from engine.launch import exchange
from engine.launch.lifetime import die_with_parent

LOST = 3
"""Exit code of a rank that ends because another one is gone: never the first cause."""


def main() -> None:
    """Start the ranks and wait for them; exit 1, one sentence handed to the driver, where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    die_with_parent(asked.parent)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine; the host's own name need not resolve
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the stage's own number of threads is set later
    failed = run(asked.processes, [*asked.command, f"--parent={os.getpid()}"])
    if failed:
        exchange.write_lost(asked.workspace, asked.node, cause(failed, asked.processes, asked.node))
        sys.exit(1)


def run(processes: int, command: list[str]) -> dict[int, Any]:
    """`python -m COMMAND` in `processes` ranks; what failed, rank → torch's ProcessFailure.

    This is torchrun --standalone without its command line, whose abbreviations would catch our own options.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the sentence says it; tracebacks stay
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", *command)
    except ChildFailedError as error:
        return dict(error.failures)
    return {}


def cause(failed: dict[int, Any], processes: int, node: str) -> str:
    """The sentence on the rank that failed first: not one that only lost another."""
    first = [rank for rank, failure in failed.items() if failure.exitcode != LOST] or list(failed)
    rank = min(first, key=lambda rank: (failed[rank].exitcode >= 0, failed[rank].timestamp))
    return exchange.how_it_ended(f"rank {rank} of {processes} of node {node}", failed[rank].exitcode)


if __name__ == "__main__":
    main()
