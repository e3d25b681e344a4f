"""Tables: Parquet (zstd) of a declared schema, written in parts so that memory stays flat in the number of rows."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from engine.artifacts.schema import TableSchema
from engine.errors import UserError

_TYPES: dict[str, pl.DataType] = {
    "str": pl.String(),
    "i64": pl.Int64(),
    "i32": pl.Int32(),
    "f64": pl.Float64(),
    "bool": pl.Boolean(),
    "list[str]": pl.List(pl.String()),
}
ROW_GROUP = 50_000

Table = pl.DataFrame | pl.LazyFrame | Iterator[pl.DataFrame]


def polars_schema(schema: TableSchema) -> pl.Schema:
    """Return the declared schema in Polars' own types."""
    return pl.Schema({name: _TYPES[kind] for name, kind in schema.items()})


def empty(schema: TableSchema) -> pl.DataFrame:
    """Return a table of this schema with no rows."""
    return pl.DataFrame(schema=polars_schema(schema))


def scan(directory: Path, schema: TableSchema) -> pl.LazyFrame:
    """Return a written table as a lazy frame, its columns in the declared order."""
    return pl.scan_parquet(sorted(directory.glob("part-*.parquet"))).select(list(schema))


def write(data: Table, directory: Path, schema: TableSchema, *, name: str) -> int:
    """Write `data` to the new folder `directory`; return the number of rows.

    Raises:
        UserError: columns or types differ from the declared schema; the message names them.

    """
    directory.mkdir(parents=True)
    want = polars_schema(schema)
    if isinstance(data, pl.LazyFrame):
        _check(data.collect_schema(), want, name)
        path = directory / "part-00000.parquet"
        data.sink_parquet(path, compression="zstd", row_group_size=ROW_GROUP, maintain_order=True)
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    parts = iter([data]) if isinstance(data, pl.DataFrame) else data
    rows = -1
    for index, frame in enumerate(parts):
        _check(frame.schema, want, name)
        frame.write_parquet(directory / f"part-{index:05d}.parquet", compression="zstd", row_group_size=ROW_GROUP)
        rows = max(rows, 0) + frame.height
    if rows < 0:  # an iterator that gave nothing: an empty table is still a table
        empty(schema).write_parquet(directory / "part-00000.parquet", compression="zstd")
    return max(rows, 0)


def _check(actual: pl.Schema, want: pl.Schema, name: str) -> None:
    if actual == want:
        return
    for column, kind in want.items():
        if column not in actual:
            raise UserError(f"table {name}: the column {column} ({kind}) is missing.")
        if actual[column] != kind:
            raise UserError(f"table {name}: the column {column} is {actual[column]}, the schema says {kind}.")
    if extra := [column for column in actual if column not in want]:
        raise UserError(f"table {name}: the columns {', '.join(extra)} are not in its schema.")
    raise UserError(f"table {name}: the columns are in the order {list(actual)}, the schema says {list(want)}.")
