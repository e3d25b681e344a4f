"""torchrun as a child that dies with its parent, makes its ranks do the same, and reports errors in one sentence.

    python -m engine.launch.torchrun --processes 2 --workspace DIR --node NAME [--parent 123] MODULE [ARGUMENT…]

runs `python -m MODULE ARGUMENT… --parent=<this process>` as ranks on this machine, which find each other through
torchrun's environment. If one fails, the others are stopped. With `--nodes N --rendezvous HOST:PORT --id ID` it is one
of N, one on each node of a Slurm job, whose ranks form one process group.
"""

import argparse
import logging
import os
import signal
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from engine.artifacts.files import write_atomic
from engine.launch import drain, exchange, fence
from engine.launch.lifetime import die_with_parent

LOST = 3
"""Exit code of a rank that ends because another one is gone, so it is never the first cause."""
GRACE_SECONDS = 5.0
FAILED = "failed"
"""File in the run directory of a dispatched node: the message on the rank that failed by itself."""


def main() -> None:
    """Start the ranks and wait for them; if one failed, leave a message for the driver and exit with code 1."""
    arguments = _arguments()
    hand_on_interrupts()
    die_with_parent(arguments.parent or os.getppid())
    if arguments.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine; the host's own name need not resolve
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the stage's own number of threads is set later
    failed = run(arguments, [*arguments.command, f"--parent={os.getpid()}"])
    if not failed:
        return
    if fence.superseded():
        sys.exit(LOST)  # without a message, because a later attempt now works there
    codes = {failure.exitcode for failure in failed.values()}
    if drain.DRAINED in codes and codes <= {drain.DRAINED, LOST}:
        sys.exit(drain.DRAINED)
    if codes == {LOST} and arguments.nodes > 1:
        time.sleep(GRACE_SECONDS)  # srun ends all when one ends, so the one that knows the cause should report first
    _report(failed, arguments)
    sys.exit(LOST if codes == {LOST} else 1)


def hand_on_interrupts() -> None:
    """Leave Ctrl-C to the ranks, which get it from the terminal, and pass a driver's SIGUSR1 on to them as Ctrl-C."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for tasks in Path("/proc/self/task").glob("*/children"):
            for rank in tasks.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(rank), signal.SIGINT)

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # inherited by the ranks, which handle it once they can (drain.install)
    signal.signal(signal.SIGUSR1, hand_on)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, required=True, help="on this machine")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent", type=int, default=None)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--rendezvous", default="localhost:0", help="where the nodes meet")
    parser.add_argument("--id", default=None, help="of this attempt, the same on all nodes")
    parser.add_argument("--logs", type=Path, default=None, help="folder for what ranks other than a node's first say")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args()


def run(arguments: argparse.Namespace, command: list[str]) -> dict[int, Any]:
    """Run `python -m COMMAND` in the ranks of this machine; return what failed here, rank → torch's ProcessFailure.

    This is the torchrun of torch 2.13.0 without its command line, whose abbreviations would catch our own options; the
    classes behind it are not documented.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # our message says it; tracebacks are kept
    others = dict.fromkeys(range(1, arguments.processes), Std.ALL) if arguments.logs else Std.NONE
    config = LaunchConfig(
        min_nodes=arguments.nodes,
        max_nodes=arguments.nodes,
        nproc_per_node=arguments.processes,
        run_id=arguments.id or uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=arguments.rendezvous,
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGHUP,SIGQUIT",
        logs_specs=DefaultLogsSpecs(log_dir=str(arguments.logs) if arguments.logs else None, redirects=others),
    )
    try:
        elastic_launch(config, sys.executable)("-m", *command)
    except ChildFailedError as error:
        return dict(error.failures)
    return {}


def _report(failed: dict[int, Any], arguments: argparse.Namespace) -> None:
    """Write the message on what went wrong; if ranks run elsewhere too, only they may know the cause."""
    sentence = cause(failed, arguments.processes * arguments.nodes, arguments.node)
    only_lost = all(failure.exitcode == LOST for failure in failed.values())
    if only_lost and exchange.has_lost(arguments.workspace, arguments.node):
        return
    exchange.write_lost(arguments.workspace, arguments.node, sentence)
    own = any(failure.exitcode > 0 and failure.exitcode != LOST for failure in failed.values())
    if own and (directory := drain.run_directory()):
        write_atomic(directory / FAILED, f"{sentence}\n".encode())


def cause(failed: dict[int, Any], processes: int, node: str) -> str:
    """Return the message on the rank that failed first, preferring ranks that did not only lose another."""
    first = [rank for rank, failure in failed.items() if failure.exitcode != LOST] or list(failed)
    rank = min(first, key=lambda rank: (failed[rank].exitcode >= 0, failed[rank].timestamp))
    return exchange.how_it_ended(f"rank {rank} of {processes} of node {node}", failed[rank].exitcode)


if __name__ == "__main__":
    main()
