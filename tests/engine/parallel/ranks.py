"""Real gloo processes for tests."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import Any

PRELOADED = ["engine.training.loop", "engine.training.storage"]
"""torch and its checkpoints are imported once, in a process without threads, of which all others are copies."""


def together(
    size: int,
    target: Callable[..., Any],
    *given: Any,
    dying: int = 0,
    seconds: float = 60,
    preloaded: Sequence[str] = PRELOADED,
) -> list[Any]:
    """Run target(rank, *given) in each of `size` ranks; what they returned, by rank, all but `dying` that end without.

    Raises AssertionError with a rank's traceback where one failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: Any = context.Queue()
    may_leave = context.Event()
    processes = [
        context.Process(target=_rank, args=(rank, size, port, answers, may_leave, target, given))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        replies = sorted((answers.get(timeout=seconds) for _ in range(size - dying)), key=lambda answer: answer[0])
    finally:
        may_leave.set()
        for process in processes:
            process.join(10)
            process.kill()
    for rank, _, failure in replies:
        assert failure is None, f"rank {rank}:\n{failure}"
    return [value for _, value, _ in replies]


def _rank(
    rank: int, size: int, port: int, answers: Any, may_leave: Any, target: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    """Put what the target returns among the answers; leave the group when all ranks have, or others would miss it."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    import torch

    from engine.parallel import data

    torch.set_num_threads(1)
    data.start()
    try:
        answers.put((rank, target(rank, *given), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
    may_leave.wait(60)
    data.stop()
