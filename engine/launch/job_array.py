"""Sharded work: a table made of independent items, in blocks, by as many processes as there are.

A block is a run of items; its rows are a file that is written whole or not at all, and a file that is there is not
made again, so a killed process loses at most one block. Of N processes, the shards, number I makes the blocks I, I + N,
I + 2N, …; a process that is no shard makes what is still missing and reads them all. Files are named by their items, so
no bit depends on N or on which process made what, and another N takes up what is there.
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
"""Which shard this process is, of how many; None where it is none."""


class ShardDone(SystemExit):
    """Ends a process that is one shard, successfully: its blocks are made, and reading them is for another."""

    def __init__(self) -> None:
        super().__init__(0)


def become(number: int, of: int) -> None:
    """Make this process shard `number` (from 0) of `of`: `table` then makes that share alone and ends the process.

    Raises UserError where there is no such shard.
    """
    global _mine  # noqa: PLW0603 - a process is one shard, from its start to its end
    if not 0 <= number < of:
        raise UserError(f"--shard {number} --shards {of}: shards are counted from 0 and there must be more than that.")
    _mine = number, of


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Runs of `size` items, the last one shorter."""
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
    """The rows that `work` makes of each block of `todo`, in the order of the items, lazily from the blocks' files.

    Args:
        folder: of the blocks' files, one node's alone, in the stage's workspace: its key tells what the items are and
            how they are cut into blocks.
        title: of the progress that is shown.
        todo: the blocks, which need not be in memory together.
        total: how many items they hold.
        work: a block's rows; they may depend on the block's items alone.
        schema: of the rows.

    Raises:
        ShardDone: this process is one shard, and its blocks are made.
        Drained: it was asked to end soon (engine/launch/drain.py) and some of its blocks are left.

    """
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    first = 0
    with drain.heeded(), progress(title, total) as bar:
        for number, block in enumerate(todo):
            path = folder / f"{first:08d}-{first + len(block) - 1:08d}.parquet"
            if _is_mine(number) and not path.exists():
                if drain.asked():
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
    """Write a block's file so that it is whole or absent, whoever else may be writing the same one."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    frame.write_parquet(partial, compression="zstd")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    fsync_directory(path.parent)
