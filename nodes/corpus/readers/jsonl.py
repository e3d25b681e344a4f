"""Read JSONL: one document per line, an object with its text in a field."""

import json
from collections.abc import Iterator
from typing import Any

from nodes.corpus.document import RawDocument
from nodes.corpus.readers.file import MOST_BYTES, File, decoded
from nodes.corpus.sources import FileSource

_BOM = b"\xef\xbb\xbf"
_KINDS = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}


def read_jsonl(file: File, source: FileSource) -> Iterator[RawDocument]:
    """Yield one document per line that is not blank; blank texts are skipped.

    Raises UserError, with the line's number, if a line is not a JSON object with text in the named fields.
    """
    for number, line in _lines(file):
        record = _record(file, number, line)
        text = _text(file, number, record, "text_column", source.text_column)
        if text is None:
            raise _no_text(file, number, "text_column", source.text_column, None)
        title = _text(file, number, record, "title_column", source.title_column) if source.title_column else None
        if text.strip():
            yield RawDocument(title or f"{file.name} row {number}", text)


def _lines(file: File) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank."""
    offset = number = 0
    with file.opened() as stream:
        while True:
            with file.reading(f"line {number + 1}"):
                raw = stream.readline(MOST_BYTES + 1)
            if not raw:
                return
            number += 1
            text = raw.removeprefix(_BOM) if number == 1 else raw
            if text.lstrip()[:1] == b"[":
                raise _is_list(file, number)
            if len(raw) > MOST_BYTES:
                raise file.refusal(
                    f"is longer than {MOST_BYTES >> 20} MiB", "JSONL has a line for each document", f"line {number}"
                )
            line = decoded(file, text, offset + len(raw) - len(text))
            offset += len(raw)
            if line.strip():
                yield number, line


def _is_list(file: File, number: int) -> Exception:
    return file.refusal(
        "is a JSON list", "JSONL has an object on each line (jq -c '.[]' turns a list into lines)", f"line {number}"
    )


def _record(file: File, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error.msg})"
    except RecursionError:
        problem = "is nested too deep to be read"
    except ValueError:  # Python refuses to convert more than 4,300 digits into a number
        problem = "holds a number of thousands of digits"
    else:
        if isinstance(record, dict):
            return record
        problem = f"is {_KINDS.get(type(record), 'null')}, not an object"
    raise file.refusal(problem, "repair or remove that line", f"line {number}")


def _text(file: File, number: int, record: dict[str, Any], field: str, column: str) -> str | None:
    """Return the text in a field of a record, or None if there is none."""
    value = record.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _no_text(file, number, field, column, value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise file.refusal(
            f"holds half a character ({value[error.start]!a}, a surrogate without its other half) in the field "
            f"{column!r}",
            "repair or remove that line",
            f"line {number}",
        ) from None
    return value


def _no_text(file: File, number: int, field: str, column: str, value: Any) -> Exception:
    there = "" if value is None else f" (it is {_KINDS[type(value)]})"
    return file.refusal(
        f"has no text in the field {column!r}{there}", "name the field that holds it", f"line {number}", field
    )
