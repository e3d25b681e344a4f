"""Sharded work: a table of independent items, made in blocks by any number of processes.

A block is a series of items; its rows are a file that is written atomically and not made again once it exists, so a
killed process loses at most one block. Of N processes, the shards, number I makes the blocks I, I + N, I + 2N, …; a
process that is no shard makes the missing blocks and reads all of them. Files are named by their items, so no bit
depends on N or on which process made what, and a run with another N uses what exists.
"""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from engine.artifacts.files import fsync_directory
from engine.errors import UserError
from engine.launch import drain
from engine.progress import progress

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
_mine: tuple[int, int] | None = None
"""This process's shard number and the number of shards; None if it is no shard."""


class ShardDone(SystemExit):
    """Ends a process that is one shard, successfully: its blocks are made, and another process reads them."""

    def __init__(self) -> None:
        super().__init__(0)


def become(number: int, of: int) -> None:
    """Make this process shard `number` (from 0) of `of`: `table` then makes only that share and ends the process.

    Raises UserError if there is no such shard.
    """
    global _mine  # noqa: PLW0603 - a process is one shard, from its start to its end
    if not 0 <= number < of:
        raise UserError(f"--shard {number} --shards {of}: shards are counted from 0 and there must be more than that.")
    _mine = number, of


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while block := list(islice(iterator, size)):
        yield block


def table(
    folder: Path,
    title: str,
    todo: Iterable[Sequence[T]],
    total: int,
    work: Callable[[Sequence[T]], Iterable[dict[str, Any]]],
    schema: "pl.Schema",
) -> "pl.LazyFrame":
    """Return the rows that `work` makes of each block of `todo`, in order, lazily from the blocks' files.

    Args:
        folder: the folder of one node's block files, in the stage's workspace; the workspace's key determines what the
            items are and how they are cut into blocks.
        title: the title of the progress shown.
        todo: the blocks, which need not be in memory together.
        total: the number of items in all blocks.
        work: makes a block's rows, which may depend only on the block's items.
        schema: the schema of the rows.

    Raises:
        ShardDone: this process is one shard, and its blocks are made.
        Drained: the process was asked to end soon (engine/launch/drain.py) and some of its blocks are left.

    """
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    first = 0
    with drain.heeded(), progress(title, total) as bar:
        for number, block in enumerate(todo):
            path = folder / f"{first:08d}-{first + len(block) - 1:08d}.parquet"
            if _is_mine(number) and not path.exists():
                if drain.end_requested():
                    raise drain.Drained
                _write_whole(path, pl.DataFrame(list(work(block)), schema=schema))
            paths.append(path)
            first += len(block)
            bar.advance(len(block))
    if _mine is not None:
        raise ShardDone
    return pl.scan_parquet(paths) if paths else pl.LazyFrame(schema=schema)


def _is_mine(block: int) -> bool:
    if _mine is None:
        return True
    number, of = _mine
    return block % of == number


def _write_whole(path: Path, frame: "pl.DataFrame") -> None:
    """Write a block's file atomically, even if another process writes the same one."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    frame.write_parquet(partial, compression="zstd")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    fsync_directory(path.parent)
