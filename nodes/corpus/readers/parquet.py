"""Read Parquet: one document per row, its text in a column; memory grows neither with the file nor with row groups."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nodes.corpus.document import RawDocument
from nodes.corpus.readers.file import File, first_line
from nodes.corpus.sources import FileSource

_BUFFER = 1 << 20  # bytes read ahead per column, instead of the column's whole part of a row group
_BATCH_BYTES, _BATCH_ROWS = 1 << 20, 64


def read_parquet(file: File, source: FileSource) -> Iterator[RawDocument]:
    """Yield one document per row that has text; null and blank rows are skipped.

    Raises UserError if the file is not valid Parquet, or a column is missing or does not hold text.
    """
    with file.opened(unpack=False) as stream:
        table = _table(file, stream)
        _check(file, table.schema_arrow, "text_column", source.text_column)
        if source.title_column:
            _check(file, table.schema_arrow, "title_column", source.title_column)
        for row, (text, title) in enumerate(_rows(file, table, source.text_column, source.title_column), 1):
            if text and text.strip():
                yield RawDocument(title or f"{file.name} row {row}", text)


def _table(file: File, stream: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise file.refusal(f"is not a Parquet file ({first_line(error)})", "copy it again or take it out") from None


def _check(file: File, schema: pa.Schema, field: str, column: str) -> None:
    """Refuse a column that is missing, occurs twice, or does not hold text."""
    indices = schema.get_all_field_indices(column)
    if not indices:
        raise file.refusal(f"has no column {column!r}", f"it has {', '.join(schema.names)}", field=field)
    if len(indices) > 1:
        raise file.refusal(f"has {len(indices)} columns {column!r}", "rename all but one", field=field)
    kind = schema.field(indices[0]).type
    if not (_is_text(kind) or pa.types.is_null(kind)):
        raise file.refusal(
            f"has no text in the column {column!r}: its type is {kind}",
            "name a column of strings, or write the text into one",
            field=field,
        )


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _rows(file: File, table: pq.ParquetFile, text: str, title: str | None) -> Iterator[tuple[str | None, str | None]]:
    """Yield text and title of every row, read in small batches."""
    columns = [text, *([title] if title else [])]
    row = 0
    batches = table.iter_batches(_batch_rows(table, columns), columns=columns, use_threads=False)
    while True:
        with file.reading(f"row {row + 1}"):
            batch = next(batches, None)
        if batch is None:
            return
        texts = batch.column(text)
        titles = batch.column(title) if title else [None] * len(texts)
        for value, name in zip(texts, titles):
            row += 1
            yield _value(file, row, value), _value(file, row, name)


def _batch_rows(table: pq.ParquetFile, columns: list[str]) -> int:
    """Return how many rows hold about `_BATCH_BYTES` in these columns, by the file's own statistics."""
    metadata = table.metadata
    indices = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path in columns]
    parts = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    size: int = sum(part.column(at).total_uncompressed_size for part in parts for at in indices)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * int(metadata.num_rows) // max(size, 1)))


def _value(file: File, row: int, scalar: Any) -> str | None:
    if scalar is None:
        return None
    try:
        value: str | None = scalar.as_py()
    except UnicodeDecodeError:  # Arrow does not check the bytes of a string column
        raise file.refusal("is not UTF-8", "repair the file or take it out", f"row {row}") from None
    return value
