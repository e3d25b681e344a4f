"""Tables: the declared schema or a sentence; every way of giving the rows gives the same table."""

from pathlib import Path

import polars as pl
import pytest

from engine.artifacts import tables
from engine.artifacts.schema import TableSchema
from engine.errors import UserError

SCHEMA: TableSchema = {"id": "str", "n": "i64", "tags": "list[str]"}
FRAME = pl.DataFrame({"id": ["a", "b", "c"], "n": [1, 2, 3], "tags": [["x"], [], ["y", "z"]]})


def test_frame_lazy_and_iterator_agree(tmp_path: Path) -> None:
    given: dict[str, tables.Table] = {"frame": FRAME, "lazy": FRAME.lazy(), "iterator": iter([FRAME[:1], FRAME[1:]])}
    for name, data in given.items():
        assert tables.write(data, tmp_path / name, SCHEMA, name=name) == 3
        assert tables.scan(tmp_path / name, SCHEMA).collect().equals(FRAME)


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tables.write(FRAME.lazy(), tmp_path / name, SCHEMA, name=name)
    assert (tmp_path / "one/part-00000.parquet").read_bytes() == (tmp_path / "two/part-00000.parquet").read_bytes()


def test_no_rows_is_a_table(tmp_path: Path) -> None:
    assert tables.write(iter([]), tmp_path / "none", SCHEMA, name="none") == 0
    assert tables.scan(tmp_path / "none", SCHEMA).collect().height == 0


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.drop("n"), ["column n", "missing"]),
        (FRAME.with_columns(pl.col("n").cast(pl.String)), ["column n", "String", "Int64"]),
        (FRAME.with_columns(extra=1), ["extra"]),
        (FRAME.select("n", "id", "tags"), ["order"]),
    ],
)
def test_wrong_schema_is_named(tmp_path: Path, frame: pl.DataFrame, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        tables.write(frame, tmp_path / "t", SCHEMA, name="t")
    for word in words:
        assert word in str(caught.value)
