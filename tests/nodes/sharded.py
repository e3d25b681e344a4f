"""What every sharded node must hold: the same bits from any number of shards, and after SIGKILL in the middle."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from engine.launch import job_array
from tests.processes import await_state
from tests.shards import one_shard

Node = Callable[..., tuple[Any, ...]]
SECONDS = 100


def assert_shards_do_not_matter(
    node: Node, given: tuple[Any, ...], root: Path, blocks: str, size: tuple[str, int] | None = None
) -> None:
    """Run `node(*given, workspace)` whole, by 3 and by 7 shards, and killed and gone on with; compare all outputs.

    `blocks` is a glob of the blocks' files below the workspace. `size` names a number of items a block
    ("module.NAME") and a small value for it, so that there are several.
    """
    with small_blocks(size):
        expected = contents(run(node, given, root / "whole"))
        made = files(root / "whole", blocks)
        assert len(made) > 3, "too few blocks to tell"
        for of in (3, 7):
            for number in reversed(range(of)):
                with pytest.raises(job_array.ShardDone), one_shard(number, of):
                    run(node, given, root / f"{of}")
            assert files(root / f"{of}", blocks) == made
            assert contents(run(node, given, root / f"{of}")) == expected
        kept = kill_in_the_middle(node, given, root / "killed", blocks, size, len(made))
        assert kept.items() <= made.items()
        assert contents(run(node, given, root / "killed")) == expected
        assert files(root / "killed", blocks) == made


def kill_in_the_middle(
    node: Node, given: tuple[Any, ...], workspace: Path, blocks: str, size: tuple[str, int] | None, total: int
) -> dict[str, bytes]:
    """SIGKILL a process that runs the node when a block is there; the blocks that it leaves, which are not all."""
    process = multiprocessing.get_context("forkserver").Process(target=run_slowly, args=(node, given, workspace, size))
    process.start()
    await_state(lambda: files(workspace, blocks), lambda: process.exitcode)
    process.kill()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    kept = files(workspace, blocks)
    assert 0 < len(kept) < total
    return kept


def run_slowly(node: Node, given: tuple[Any, ...], workspace: Path, size: tuple[str, int] | None) -> None:
    """The node in a process of its own, which rests behind every block so as to be hit."""
    write = job_array._write_whole

    def write_and_rest(path: Path, frame: pl.DataFrame) -> None:
        write(path, frame)
        time.sleep(0.2)

    job_array._write_whole = write_and_rest
    with small_blocks(size):
        run(node, given, workspace)


def run(node: Node, given: tuple[Any, ...], workspace: Path) -> tuple[Any, ...]:
    workspace.mkdir(exist_ok=True)
    return node(*given, workspace)


@contextmanager
def small_blocks(size: tuple[str, int] | None) -> Iterator[None]:
    """Another number of items a block."""
    if size is None:
        yield
        return
    module, _, name = size[0].rpartition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module(module), name, size[1])
        yield


def files(workspace: Path, blocks: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(workspace.glob(blocks))}


def contents(outputs: tuple[Any, ...]) -> list[Any]:
    """All that a node returned, to be compared."""
    return [content(output) for output in outputs]


def content(output: Any) -> Any:
    if isinstance(output, pl.DataFrame | pl.LazyFrame):
        frame = output.lazy().collect()
        return frame.schema, frame.rows()
    if isinstance(output, Path):
        return files(output, "*")
    return output
