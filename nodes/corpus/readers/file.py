"""One file of a source: opens and unpacks its bytes, and states its faults in one sentence each."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from engine.errors import UserError

MOST_BYTES = 1 << 26
"""The longest document that is read; a longer one is not of the stated kind, or must be cut first."""
_BUFFER = 1 << 20


def _arrow(codec: str) -> Callable[[IO[bytes]], Any]:
    return lambda stream: pa.CompressedInputStream(stream, codec)


_PACKED: dict[str, tuple[str, Callable[[IO[bytes]], Any]]] = {
    ".gz": ("gzip", gzip.open),
    ".bz2": ("bzip2", bz2.open),
    ".xz": ("xz", lzma.open),
    ".lzma": ("lzma", lzma.open),
    ".zst": ("zstandard", _arrow("zstd")),
    ".lz4": ("lz4", _arrow("lz4")),
}
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
_DAMAGED = (gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class File:
    """One file that a source's path matches.

    Attributes:
        where: the source in the parameters, corpus.sources.<name>.
        path: the file's path in `file_system`.
        file_system: the fsspec file system that opens the file.

    """

    where: str
    path: str
    file_system: Any

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.path.rsplit("/", 1)[-1]

    def refusal(self, problem: str, remedy: str, at: str = "", field: str = "path") -> UserError:
        """Return the error for a fault: `corpus.sources.mine.path: a.jsonl line 3 is not JSON; repair it`."""
        place = f"{self.path} {at}" if at else self.path
        return UserError(f"{self.where}.{field}: {place} {problem}; {remedy}")

    @contextmanager
    def opened(self, unpack: bool = True) -> Iterator[IO[bytes]]:
        """Open the file's bytes; unpack those of a packed file (.gz, .bz2, .xz, .zst, .lz4).

        Raises UserError if the file cannot be opened or is an archive.
        """
        packing = self._packing() if unpack else None
        with self.reading():
            packed = self.file_system.open(self.path, "rb")
        with packed:
            if not unpack:
                yield packed
                return
            with self.reading():  # buffered, since readline of fsspec's own files is slow and has no limit
                unpacked = io.BufferedReader(_PACKED[packing][1](packed) if packing else packed, _BUFFER)
            with unpacked:
                yield unpacked

    @contextmanager
    def reading(self, at: str = "") -> Iterator[None]:
        """Turn any error of the libraries that read the file into a refusal that says where it happened.

        fsspec's back ends, the decompressors and Arrow raise errors of any type, so only their calls belong here.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise self.refusal(*self._describe(error), at=at) from None

    def _packing(self) -> str | None:
        name = self.name.partition("?")[0].lower()
        if archive := next((end for end in _ARCHIVES if name.endswith(end) or f"{end}." in name), None):
            raise self.refusal(
                f"is an archive of files ({archive})", "unpack it, or name a file in it (zip://notes.jsonl::notes.zip)"
            )
        return next((end for end in _PACKED if name.endswith(end)), None)

    def _describe(self, error: Exception) -> tuple[str, str]:
        """Return the problem and the remedy of a library's exception."""
        packing = self._packing()
        kind = _PACKED[packing][0] if packing else ""
        of_data = isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None)
        if kind and isinstance(error, EOFError):
            return f"ends in the middle of its {kind} data", "the file was cut short: copy it again"
        if kind and of_data:
            return f"is not sound {kind} data ({first_line(error)})", f"copy it again, or rename it if it is not {kind}"
        return f"cannot be read ({first_line(error)})", "repair the file, its permissions or the way to it"


def first_line(error: Exception) -> str:
    """Return an exception's message, cut to one line; its type if the message is empty."""
    words = str(error).strip().splitlines()
    return words[0][:200] if words else type(error).__name__


def decoded(file: File, raw: bytes, offset: int = 0) -> str:
    """Return the text of UTF-8 bytes that are at `offset` of the (unpacked) file.

    Raises UserError if the bytes are not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise file.refusal(
            f"is not UTF-8 at byte {offset + error.start}", "convert the file (iconv -t UTF-8) or take it out"
        ) from None
