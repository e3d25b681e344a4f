"""Read a user's files: Parquet, JSONL and text at a path, a glob, or a URL that fsspec opens."""

from collections.abc import Iterator
from pathlib import Path

from engine.errors import UserError
from engine.identity.digests import STORE, Digests
from engine.identity.located import Source, matches
from engine.identity.sources import in_words, of_source
from nodes.corpus.document import Origin, RawDocument
from nodes.corpus.readers.file import File
from nodes.corpus.readers.jsonl import read_jsonl
from nodes.corpus.readers.parquet import read_parquet
from nodes.corpus.readers.text import read_text
from nodes.corpus.sources import FileSource


def file_origin(name: str, source: FileSource) -> Origin:
    """Return where a file source comes from: its path as written in the parameters, and its content's version.

    The version is the identity in the stage's key: a digest, what the store reports, or the revision.
    """
    identities = of_source(_located(name, source), Path(), Digests(STORE))
    return Origin(f"{source.kind} at {source.path}", in_words(identities))


def read_files(name: str, source: FileSource) -> Iterator[RawDocument]:
    """Yield every document of every file that the source's path matches, in the order of the file names.

    Raises UserError if a path matches nothing, cannot be reached or holds no text; if a column or field is missing; if
    bytes are not UTF-8.
    """
    where = f"corpus.sources.{name}"
    read = {"parquet": read_parquet, "jsonl": read_jsonl, "text": read_text}[source.kind]
    empty = True
    for match in matches(_located(name, source)):
        for document in read(File(where, match.path, match.file_system), source):
            empty = False
            yield document
    if empty:
        raise UserError(f"{where}.path: {source.path} holds no documents; point it at a file with text in it")


def _located(name: str, source: FileSource) -> Source:
    return Source(f"corpus.sources.{name}.path", source.path, source.revision)
