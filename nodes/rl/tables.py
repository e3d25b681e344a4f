"""Rollouts on disk: one file per iteration while training, one table at the end."""

from pathlib import Path
from typing import Any

import polars as pl

from nodes.rl.schema import ROLLOUTS

_TYPES = {"str": pl.String, "i64": pl.Int64, "f64": pl.Float64, "bool": pl.Boolean}


def write_rollouts(rows: list[dict[str, Any]], directory: Path, iteration: int) -> None:
    """Write one iteration's rows; the file appears in one step."""
    directory.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema={name: _TYPES[kind] for name, kind in ROLLOUTS.items()}, orient="row")
    partial = directory / f".{iteration:06d}.partial"
    frame.write_parquet(partial)
    partial.rename(directory / f"{iteration:06d}.parquet")


def forget_rollouts(directory: Path, iteration: int) -> None:
    """Remove the rows of `iteration` and later ones, which are drawn again."""
    for path in directory.glob("*.parquet"):
        if int(path.stem) >= iteration:
            path.unlink()


def read_rollouts(directory: Path) -> pl.LazyFrame:
    """Return all iterations' rows, in order."""
    return pl.scan_parquet(sorted(directory.glob("*.parquet")))
