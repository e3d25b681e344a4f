"""One process's lasting connection to MLflow, which imports a profile's new records and points in repeated passes."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from pipelines import graph
from pipelines.stages_file import ROOT
from pipelines.track.importer import Importer, read_all_records
from pipelines.track.live import Follower, Running, in_progress
from pipelines.track.promotion import AliasVerdict, promote
from pipelines.track.store import SQLITE, Store, client, one_at_a_time
from pipelines.track.versions import Record

PROBE_SECONDS = 3.0
LONGEST = 300
"""The most characters kept of a message from MLflow."""
NO_DATABASE = ("file is not a database", "malformed", "Can't locate revision")
"""SQLite's words for a file that is no database or a damaged one, and alembic's for another program's database."""
_Look = tuple[frozenset[Path], frozenset[tuple[Path, int]]]


class Away(Exception):
    """The tracking server is down or refuses; the message gives the reason."""


class Session:
    """Imports a profile's records and running stages into the MLflow at `uri`, again and again.

    Attributes:
        written: how many stage runs have been imported completely so far.
        points: how many points of running stages have been imported.
        restored: the name of the profile's experiment if it had been deleted and was restored; else "".

    """

    def __init__(self, profile: str, uri: str) -> None:
        self.profile, self.uri = profile, uri
        self.written = self.points = 0
        self.restored = ""
        self._store: Store | None = None
        self._follower: Follower | None = None
        self._seen: _Look | None = None

    def take_up(self) -> None:
        """Import what is new since the last pass; the package mlflow is loaded only once there is something.

        Raises:
            Away: the server is down or refuses. The next pass continues from what MLflow has then.

        """
        running = in_progress(self.profile)  # before the records: see Follower.follow
        look = self._look(running)
        if look == self._seen or not any(look):
            return
        self._reach(running, read_all_records(self.profile))
        self._seen = look

    def require_usable(self) -> None:
        """Open the store, to fail before its pages are served.

        Raises:
            Away: the store cannot be used.

        """
        self._reach([], [])

    def promote(self) -> list[AliasVerdict]:
        """Register all checkpoints, and judge those that no gate has judged yet."""
        if self._store is None:  # no records at all
            return []
        try:
            with one_at_a_time(self.profile):
                return promote(self._store, read_all_records(self.profile))
        except refusals() as error:
            raise Away(reason(error, self.uri)) from error

    def _reach(self, running: list[Running], records: list[Record]) -> None:
        try:
            _require_listening(self.uri)
            with one_at_a_time(self.profile) as others_wrote:
                self._bring(running, records, others_wrote)
        except OSError as error:
            self._store = None  # its cached runs may be half written
            raise Away(str(error)) from error

    def _bring(self, running: list[Running], records: list[Record], others_wrote: bool) -> None:
        try:
            if self._store is None:
                self._store = Store(client(self.uri), self.profile)
                self.restored = self._store.restored
                self._follower = Follower(self._store)
            elif others_wrote:
                self._store.refresh()
            assert self._follower is not None
            self.written += Importer(self._store).import_all(records)
            self.points += self._follower.follow(running, records)
        except refusals() as error:
            raise OSError(reason(error, self.uri)) from error

    def _look(self, running: list[Running]) -> _Look:
        """Return what is known without reading files: the records' paths and the sizes of running stages' histories."""
        records = frozenset((graph.data_folder(self.profile) / ".runs").glob("*/*.json"))
        sizes = {(stage.history, stage.history.stat().st_size) for stage in running if stage.history.exists()}
        return records, frozenset(sizes)


def default_uri() -> str:
    """Return the address of the SQLite file that all profiles share."""
    return f"{SQLITE}{ROOT / 'data' / 'mlflow.db'}"


def refusals() -> tuple[type[Exception], ...]:
    """Return the errors that MLflow raises for an unreachable, damaged, foreign, read-only or driverless store."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, ImportError, OSError


def reason(error: Exception, uri: str) -> str:
    """Return an error's first line, with the remedy for a local database that is damaged."""
    line = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0][:LONGEST]
    if uri.startswith(SQLITE) and any(words in line for words in NO_DATABASE):
        path = uri.removeprefix(SQLITE)
        return f"{line}: `mv {path} {path}.damaged`, and the next import fills a new one from the run records"
    return line


def _require_listening(uri: str) -> None:
    """Detect a dead server within moments, before MLflow is imported and retries.

    Raises:
        OSError: no server answers, or `uri` is malformed.

    """
    try:
        parts = urlsplit(uri)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:  # a malformed host or port
        raise OSError(f"that is no address: {error}") from error
    if parts.scheme in ("http", "https"):
        socket.create_connection((parts.hostname or "127.0.0.1", port), PROBE_SECONDS).close()
