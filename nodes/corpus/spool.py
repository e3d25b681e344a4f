"""Keep what the stage has read on disk: the documents drawn from a source, then all parts ordered by id.

SQLite keeps both, because its index sorts more than fits in memory. The file is scratch, so nothing is journalled or
synced, and nothing is locked, since some cluster file systems have no locks.
"""

import errno
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import UserError
from nodes.corpus.document import Lowest, RawDocument, draw_rank

BATCH_BYTES, BATCH_ROWS = 1 << 21, 4096
_SCHEMA = (
    "CREATE TABLE drawn (rank REAL, title TEXT, text TEXT, grouped TEXT)",
    "CREATE TABLE parts (id TEXT, source TEXT, title TEXT, parent TEXT, text TEXT, reason TEXT)",
    "CREATE INDEX by_id ON parts (id, source, title, parent)",
)
_IN_ORDER = (
    "SELECT id, source, title, parent, text, reason FROM parts INDEXED BY by_id ORDER BY id, source, title, parent"
)
_SETTINGS = ("page_size=16384", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-16000")

_Row = TypeVar("_Row", bound=tuple[Any, ...])
Part = tuple[str, str, str, str, str, str | None]
"""id, source, title, parent (what the part was cut from or grouped with), text, reason for a refusal."""


class Spool:
    """Documents and parts in a file below `folder`, which is created anew."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder = folder
        self.rows = 0
        with self.writing() as writer:
            for statement in _SCHEMA:
                writer.execute(statement)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a connection; everything is written when the block ends."""
        with closing(self._open("rwc")) as connection, _full_disc(self.folder):
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def draw(
        self, writer: sqlite3.Connection, documents: Iterable[RawDocument], max_bytes: int, seed: int
    ) -> Iterator[list[RawDocument]]:
        """Yield batches of the documents with the lowest hashes whose texts together stay within `max_bytes`.

        Which documents are drawn depends on the set of documents, not on their order; memory depends on neither.
        """
        writer.execute("DELETE FROM drawn")
        lowest = Lowest(max_bytes)
        for document in documents:
            rank = draw_rank(document, seed)
            if not lowest.admits(rank):
                continue
            writer.execute(
                "INSERT INTO drawn VALUES (?, ?, ?, ?)", (rank, document.title, document.text, document.group)
            )
            if lowest.add(rank, len(document.text.encode())):
                writer.execute("DELETE FROM drawn WHERE rank >= ?", (lowest.ceiling,))
        lowest.settle()
        rows = writer.execute("SELECT title, text, grouped FROM drawn WHERE rank < ?", (lowest.ceiling,))
        for batch in _batches(rows, text=1):
            yield [RawDocument(*row) for row in batch]

    def add(self, writer: sqlite3.Connection, parts: Iterable[Part]) -> None:
        """Add parts in any order."""
        self.rows += writer.executemany("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?)", parts).rowcount

    def parts(self) -> Iterator[list[Part]]:
        """Yield batches of all parts, sorted by id, source, title and parent."""
        with closing(self._open("ro")) as connection:
            connection.execute("PRAGMA cache_size=-4000")
            rows = connection.execute(_IN_ORDER)
            yield from _batches(rows, text=4)

    def _open(self, mode: str) -> sqlite3.Connection:
        name = (self.folder / "parts.sqlite").absolute().as_uri()
        return sqlite3.connect(f"{name}?mode={mode}&nolock=1", uri=True, isolation_level=None)


@contextmanager
def _full_disc(folder: Path) -> Iterator[None]:
    """Turn SQLite's error for a full disk into the operating system's, which the commands explain."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, f"No space left on device ({error})", str(folder)) from error
        if error.sqlite_errorcode == sqlite3.SQLITE_IOERR_WRITE:
            raise UserError(
                f"{folder} cannot be written ({error}): check its disk and quota, then run the same command again."
            ) from error
        raise


def _batches(rows: Iterable[_Row], text: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row[text])
        if size >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
