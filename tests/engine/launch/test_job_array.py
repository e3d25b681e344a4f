"""Blocks of a table made by one process or several, killed, drained or failing: each once, and always the same rows."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from engine.errors import UserError
from engine.launch import drain, job_array
from engine.launch.drain import DRAIN, DRAINED, RUN_DIR
from tests.processes import await_state
from tests.shards import one_shard

ITEMS, SIZE = 40, 7
SCHEMA = pl.Schema({"item": pl.Int64(), "text": pl.String(), "parts": pl.List(pl.String())})
SECONDS = 100


class Work:
    """Makes 0 to 2 rows an item and writes each item down in a log; `pause` seconds an item, item `bad` fails."""

    def __init__(self, log: Path, pause: float = 0.0, bad: int = -1) -> None:
        self.log, self.pause, self.bad = log, pause, bad

    def __call__(self, block: Sequence[int]) -> Iterator[dict[str, Any]]:
        for item in block:
            with self.log.open("a") as file:
                file.write(f"{item}\n")
            if item == self.bad:
                raise ValueError(item)
            time.sleep(self.pause)
            for part in range(item % 3):
                yield {"item": item, "text": f"{item}.{part}" * 9, "parts": [str(part)] * part}

    def done(self) -> list[int]:
        return sorted(map(int, self.log.read_text().split())) if self.log.exists() else []


def make(folder: Path, work: Work) -> pl.LazyFrame:
    return job_array.table(folder, "items", job_array.blocks(iter(range(ITEMS)), SIZE), ITEMS, work, SCHEMA)


def child(folder: Path, work: Work, shard: tuple[int, int] | None, run_dir: Path | None) -> None:
    drain.install()
    if run_dir:
        os.environ[RUN_DIR] = str(run_dir)
    if shard:
        job_array.become(*shard)
    make(folder, work)


def start(
    folder: Path, work: Work, shard: tuple[int, int] | None = None, run_dir: Path | None = None
) -> ForkServerProcess:
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(folder, work, shard, run_dir))
    process.start()
    return process


def ended(*processes: ForkServerProcess) -> list[int | None]:
    for process in processes:
        process.join(SECONDS)
        process.kill()
    return [process.exitcode for process in processes]


def await_blocks(folder: Path, number: int) -> None:
    await_state(lambda: len(made(folder)) >= number)


def made(folder: Path) -> dict[str, bytes]:
    """The blocks' files."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, dict[str, bytes]]:
    """Rows and files as one undisturbed process makes them."""
    root = tmp_path_factory.mktemp("whole")
    rows = make(root / "blocks", Work(root / "log")).collect()
    assert rows["item"].to_list() == [item for item in range(ITEMS) for _ in range(item % 3)]
    assert rows.schema == SCHEMA
    return rows, made(root / "blocks")


@pytest.mark.parametrize("of", [1, 3, 7])  # of six blocks
def test_any_number_of_shards_makes_the_same_files_each_block_once(
    whole: tuple[pl.DataFrame, dict[str, bytes]], tmp_path: Path, of: int
) -> None:
    work = Work(tmp_path / "log")
    assert ended(*(start(tmp_path / "blocks", work, (number, of)) for number in range(of))) == [0] * of
    assert made(tmp_path / "blocks") == whole[1]
    assert make(tmp_path / "blocks", Work(tmp_path / "none")).collect().equals(whole[0])
    assert work.done() == list(range(ITEMS)), "each item once"
    assert not (tmp_path / "none").exists(), "what is there is not made again"


@pytest.mark.parametrize("blocks", [1, 4])
def test_killed_it_loses_one_block_and_any_other_number_of_shards_goes_on(
    whole: tuple[pl.DataFrame, dict[str, bytes]], tmp_path: Path, blocks: int
) -> None:
    before, after = Work(tmp_path / "before", pause=0.005), Work(tmp_path / "after")
    victim = start(tmp_path / "blocks", before)
    await_blocks(tmp_path / "blocks", blocks)
    victim.kill()
    assert ended(victim) == [-signal.SIGKILL]
    kept = len(made(tmp_path / "blocks"))
    assert ended(start(tmp_path / "blocks", after, (1, 3))) == [0]
    assert make(tmp_path / "blocks", after).collect().equals(whole[0])
    assert made(tmp_path / "blocks") == whole[1]
    assert after.done() == list(range(kept * SIZE, ITEMS)), "the block it died in, and what came after"


def test_before_its_time_limit_it_leaves_a_whole_block_behind(
    whole: tuple[pl.DataFrame, dict[str, bytes]], tmp_path: Path
) -> None:
    work, run_dir, folder = Work(tmp_path / "log", pause=0.005), tmp_path / "run", tmp_path / "blocks"
    by_signal = start(folder, work)
    await_blocks(folder, 2)
    assert by_signal.pid is not None
    os.kill(by_signal.pid, signal.SIGUSR1)
    assert ended(by_signal) == [DRAINED]
    assert work.done() == list(range(len(made(folder)) * SIZE))
    run_dir.mkdir()
    (run_dir / DRAIN).touch()
    assert ended(start(folder, work, run_dir=run_dir)) == [DRAINED], "a file asks as well"
    (run_dir / DRAIN).unlink()
    assert ended(start(folder, work, run_dir=run_dir)) == [0]
    assert work.done() == list(range(ITEMS)), "nothing was begun and not ended"
    (run_dir / DRAIN).touch()
    assert ended(start(folder, work, (0, 2), run_dir)) == [0], "where nothing is left, nothing is put off"
    assert made(folder) == whole[1]


def test_an_item_that_fails_fails_its_own_shard_alone_and_leaves_no_half_block(tmp_path: Path) -> None:
    folder, work = tmp_path / "blocks", Work(tmp_path / "log", bad=20)
    with pytest.raises(ValueError, match="20"), one_shard(0, 2):
        make(folder, work)
    with pytest.raises(job_array.ShardDone), one_shard(1, 2):
        make(folder, work)
    assert [name.split("-")[0] for name in made(folder)] == ["00000000", "00000007", "00000021", "00000035"]
    assert len(list(folder.iterdir())) == 4, "no draft is left"


def test_no_items_make_an_empty_table(tmp_path: Path) -> None:
    rows = job_array.table(tmp_path, "none", iter([]), 0, Work(tmp_path / "log"), SCHEMA).collect()
    assert (rows.height, rows.schema) == (0, SCHEMA)


@pytest.mark.parametrize(("number", "of"), [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_there_is_not_is_refused(number: int, of: int) -> None:
    with pytest.raises(UserError, match=f"--shard {number} --shards {of}: "):
        job_array.become(number, of)
