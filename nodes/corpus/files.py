"""Readers of anybody's files: Parquet, JSONL and text at a path, a glob, or a URL that fsspec opens."""

from collections.abc import Iterator
from typing import Any

import fsspec

from engine.errors import UserError
from nodes.corpus.document import Origin, RawDocument
from nodes.corpus.readers.file import File, first_line
from nodes.corpus.readers.jsonl import read_jsonl
from nodes.corpus.readers.parquet import read_parquet
from nodes.corpus.readers.text import read_text
from nodes.corpus.schema import FileSource


def file_origin(source: FileSource) -> Origin:
    """A file source is named by its path as the parameters write it; its content is its version."""
    return Origin(f"{source.kind} at {source.path}", "by content")


def read_files(name: str, source: FileSource) -> Iterator[RawDocument]:
    """Every document of every file that the source's path matches, in the order of the file names.

    Raises UserError for a path that matches nothing, cannot be reached or holds no text; for a column or field that
    is not there; for bytes that are not UTF-8.
    """
    where = f"corpus.sources.{name}"
    read = {"parquet": read_parquet, "jsonl": read_jsonl, "text": read_text}[source.kind]
    empty = True
    for path, file_system in _matches(where, source.path):
        for document in read(File(where, path, file_system), source):
            empty = False
            yield document
    if empty:
        raise UserError(f"{where}.path: {source.path} holds no documents; point it at a file with text in it")


def _matches(where: str, path: str) -> list[tuple[str, Any]]:
    try:
        file_system, inside = fsspec.core.url_to_fs(path)
        found = sorted(file_system.glob(inside)) if _is_glob(inside) else [inside]
        found = [one for one in found if file_system.exists(one)]
    except UserError:
        raise
    except Exception as error:  # fsspec's back ends raise what they like: name resolution, TLS, HTTP, import
        raise UserError(
            f"{where}.path: {path} cannot be reached ({type(error).__name__}: {first_line(error)}); check the "
            "address, the network and, for hf:// or s3://, that its fsspec package is installed"
        ) from None
    if not found:
        raise UserError(f"{where}.path: there is no file at {path}; correct the path or take the source out")
    return [(one, file_system) for one in found]


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")
