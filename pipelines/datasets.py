"""Kedro's datasets over engine/artifacts: published whole, verified when loaded, gated where the catalog says so."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset
from kedro.utils import load_obj

from engine.artifacts import files, kept, manifest, store, sums
from engine.errors import UserError
from engine.launch.exchange import Prepared
from engine.remedy import make_again

if TYPE_CHECKING:
    import polars as pl

    from engine.artifacts.schema import TableSchema
    from engine.artifacts.tables import Table


BY_HASH = "by_hash"
PAYLOADS = ("inline", BY_HASH)
"""Where a directory's files are kept: in it, or in data/<profile>/.store under their hash, with links in it."""


_before_publishing: ContextVar[Callable[[], None] | None] = ContextVar("before_publishing", default=None)


@contextmanager
def publishing_after(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` before each output is moved into place: if it raises, the output is not published.

    Only then is it known what the output was made of: a table's rows, and so its sources, are read while it is saved.
    """
    token = _before_publishing.set(check)
    try:
        yield
    finally:
        _before_publishing.reset(token)


def _check_before_publishing() -> None:
    if check := _before_publishing.get():
        check()


class SealedDirectory:
    """A directory with a manifest, published and verified in one way wherever its files are kept."""

    def __init__(self, path: Path, stage: str, payload: str) -> None:
        if payload not in PAYLOADS:
            raise UserError(f"conf/…/globals.yml: payload is {payload!r}; choose one of {', '.join(PAYLOADS)}.")
        self.path, self.stage, self.payload = path, stage, payload
        self.store = path.parent.parent / store.FOLDER

    def verify(self) -> None:
        """Refuse a directory that is not whole; a payload by hash is read once and then only looked up."""
        if self.payload == BY_HASH:
            name = self.path.name
            payload = store.link(self.path, self.store, stage=self.stage, dataset=name)
            listed = manifest.read_manifest(self.path, stage=self.stage, dataset=name)["files"]
            store.verify_payload(payload, stage=self.stage, dataset=name, files=listed)
        else:
            manifest.verify(self.path, stage=self.stage, dataset=self.path.name)

    def publish(self, source: Path, counts: dict[str, Any]) -> None:
        """Seal `source` and move it into place; the version that it takes the place of is kept in the store."""
        _check_before_publishing()
        by_hash = self.payload == BY_HASH
        digests = sums.remember(source) if by_hash else None
        manifest.seal(source, stage=self.stage, dataset=self.path.name, counts=counts, digests=digests)
        if by_hash:
            store.publish_by_hash(source, self.path, self.store)
        else:
            kept.keep_replaced(self.path, self.store, stage=self.stage, dataset=self.path.name)
            files.publish(source, self.path)


class DirectoryDataset(AbstractDataset[Path, Path]):
    """A directory of files. Saving takes the directory that a node made in its workspace, seals it and moves it."""

    def __init__(self, *, filepath: str, stage: str, payload: str = "inline") -> None:
        self._path = Path(filepath)
        self._stage = stage
        self._dataset = self._path.name
        self._sealed = SealedDirectory(self._path, stage, payload)

    def load(self) -> Path:
        """Return the directory's path, after each file was checked against the manifest."""
        self._sealed.verify()
        return self._path

    def save(self, data: Path) -> None:
        """Publish the directory `data` by moving it; it must lie on the same file system."""
        if not isinstance(data, Path) or not data.is_dir():
            raise UserError(
                f"{self._dataset}: stage {self._stage} returned {data!r}, but must return the path of a directory."
            )
        self._sealed.publish(data, {})

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "stage": self._stage}

    def _exists(self) -> bool:
        return (self._path / manifest.MANIFEST).is_file()


class TableDataset(AbstractDataset["Table | Prepared", "pl.LazyFrame"]):
    """A table: Parquet files of a declared schema in a sealed directory.

    Args:
        filepath: the directory.
        stage: the stage that makes it.
        table: its schema, as a dotted path into nodes/<stage>/schema.py.
        gate: the suite in gates.yml that judges it before it is published.
        may_be_empty: whether a table without rows is allowed (tables of rejects).
        payload: inline or by_hash (conf/<profile>/globals.yml).

    """

    def __init__(
        self,
        *,
        filepath: str,
        stage: str,
        table: str,
        gate: str | None = None,
        may_be_empty: bool = False,
        payload: str = "inline",
    ) -> None:
        self._path = Path(filepath)
        self._stage, self._table, self._gate, self._may_be_empty = stage, table, gate, may_be_empty
        self._dataset = self._path.name
        self._sealed = SealedDirectory(self._path, stage, payload)

    @property
    def schema(self) -> "TableSchema":
        """The declared schema of the table."""
        schema: TableSchema = load_obj(self._table)
        return schema

    def load(self) -> "pl.LazyFrame":
        """Return the table as a lazy frame, after each file was checked against the manifest."""
        from engine.artifacts import tables

        self._sealed.verify()
        return tables.scan(self._path, self.schema)

    def save(self, data: "Table | Prepared") -> None:
        """Publish the table; prepare it first unless a rank has already done so."""
        partial = self._path.with_name(f".{self._dataset}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            prepared = data if isinstance(data, Prepared) else self.prepare(data, partial)
            self._sealed.publish(prepared.path, prepared.counts)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def prepare(self, data: "Table", directory: Path) -> Prepared:
        """Write, check and judge the table in `directory`; a refused table is moved to data/<profile>/.rejected/."""
        from engine.artifacts import tables

        rows = tables.write(data, directory, self.schema, name=self._dataset)
        if not rows and not self._may_be_empty:
            raise UserError(f"{self._dataset}: stage {self._stage} made no rows; look at its sources and parameters.")
        self._judge(directory)
        if self._sealed.payload == BY_HASH:
            sums.remember(directory)  # hashed where it was written, so that publishing reads none of it
        return Prepared(directory, {"rows": rows, "columns": self.schema})

    def _judge(self, partial: Path) -> None:
        if self._gate is None:
            return
        from engine.artifacts import tables
        from pipelines import gates

        profile = self._path.parent.parent
        try:
            gates.check(self._gate, tables.scan(partial, self.schema), profile / ".runs" / self._stage / "gates")
        except gates.GateRefused:
            refused = profile / ".rejected" / self._dataset
            shutil.rmtree(refused, ignore_errors=True)
            refused.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(refused)
            raise

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "stage": self._stage, "table": self._table, "gate": self._gate}

    def _exists(self) -> bool:
        return (self._path / manifest.MANIFEST).is_file()


class MetricsDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """Headline metrics in one flat JSON object, name → number or text."""

    def __init__(self, *, filepath: str, stage: str) -> None:
        self._path = Path(filepath)
        self._stage = stage

    def load(self) -> dict[str, Any]:
        """Return the metrics; refuse by name a number that is not finite, which this class never writes."""
        remedy = make_again(self._stage, self._path)
        try:
            data = files.read_object(self._path, remedy)
        except FileNotFoundError as error:
            raise UserError(f"{self._path} is missing: {remedy}.") from error
        self._check(data, remedy)
        return data

    def save(self, data: dict[str, Any]) -> None:
        """Write the metrics; refuse by name a number that is not finite."""
        self._check(data, f"stage {self._stage} must give a finite number")
        _check_before_publishing()
        files.write_atomic(self._path, files.canonical_json(data))

    def _check(self, data: dict[str, Any], remedy: str) -> None:
        for name, value in data.items():
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                raise UserError(f"{self._path}: the metric {name} is {value!r}, not a finite number: {remedy}.")

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path), "stage": self._stage}

    def _exists(self) -> bool:
        return self._path.is_file()
