"""Readers of anybody's files: Parquet, JSONL and text at a path, a glob, or a URL that fsspec opens."""

import json
from collections.abc import Iterator
from typing import Any

import fsspec
import polars as pl

from engine.errors import UserError
from nodes.corpus.document import Origin, RawDocument
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
    read = {"parquet": _parquet, "jsonl": _jsonl, "text": _text}[source.kind]
    empty = True
    for path, file_system in _matches(where, source.path):
        for document in read(where, source, path, file_system):
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
            f"{where}.path: {path} cannot be reached ({type(error).__name__}: {_first_line(error)}); check the "
            "address, the network and, for hf:// or s3://, that its fsspec package is installed"
        ) from None
    if not found:
        raise UserError(f"{where}.path: there is no file at {path}; correct the path or take the source out")
    return [(one, file_system) for one in found]


def _is_glob(path: str) -> bool:
    return any(character in path for character in "*?[")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def _parquet(where: str, source: FileSource, path: str, file_system: Any) -> Iterator[RawDocument]:
    wanted = [source.text_column, *([source.title_column] if source.title_column else [])]
    with file_system.open(path, "rb") as stream:
        try:
            present = pl.read_parquet_schema(stream)
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{where}.path: {path} is not a Parquet file ({_first_line(error)})") from None
        for field, column in zip(("text_column", "title_column"), wanted):
            if column not in present:
                raise UserError(f"{where}.{field}: {path} has no column {column!r}; it has {', '.join(present)}")
        stream.seek(0)
        frame = pl.read_parquet(stream, columns=sorted(set(wanted)))
    for row, values in enumerate(frame.select(wanted).iter_rows()):
        if values[0]:
            yield RawDocument(_title(path, row, values[1] if source.title_column else None), str(values[0]))


def _jsonl(where: str, source: FileSource, path: str, file_system: Any) -> Iterator[RawDocument]:
    offset = 0
    with file_system.open(path, "rb", compression="infer") as stream:
        for row, raw in enumerate(stream):
            line = _utf8(where, path, raw, offset)
            offset += len(raw)
            if line.strip():
                yield _json_document(where, source, path, row, line)


def _json_document(where: str, source: FileSource, path: str, row: int, line: str) -> RawDocument:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}.path: {path} line {row + 1} is not JSON ({error.msg}); repair or remove it") from None
    if not isinstance(record, dict) or not isinstance(record.get(source.text_column), str):
        raise UserError(
            f"{where}.text_column: {path} line {row + 1} has no text in the field {source.text_column!r}; "
            "name the field that holds it"
        )
    title = record.get(source.title_column) if source.title_column else None
    return RawDocument(_title(path, row, title), record[source.text_column])


def _text(where: str, source: FileSource, path: str, file_system: Any) -> Iterator[RawDocument]:
    with file_system.open(path, "rb", compression="infer") as stream:
        text = _utf8(where, path, stream.read(), 0)
    if text.strip():
        yield RawDocument(path.rsplit("/", 1)[-1], text)


def _utf8(where: str, path: str, raw: bytes, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}.path: {path} is not UTF-8 at byte {offset + error.start}; convert the file (iconv -t UTF-8) "
            "or take it out"
        ) from None


def _title(path: str, row: int, title: Any) -> str:
    return str(title) if title else f"{path.rsplit('/', 1)[-1]} row {row + 1}"
