"""Every fault of a source's file is one sentence that names the source's field, the file and the place in it."""

import bz2
import gzip
import json
import lzma
import tracemalloc

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from engine.errors import UserError
from nodes.corpus.files import read_files
from nodes.corpus.readers import file as file_module
from nodes.corpus.readers import jsonl, text
from nodes.corpus.sources import FileSource

LINES = b"".join(json.dumps({"text": f"text {n} " + "and more " * 40}).encode() + b"\n" for n in range(400))


def source(kind, path, **more):
    return FileSource(kind=kind, path=str(path), domain="web", license="CC0-1.0", max_bytes=10**6, **more)


def read(kind, path, **more):
    return [document.text for document in read_files("mine", source(kind, path, **more))]


def refused(kind, path, **more):
    with pytest.raises(UserError) as error:
        read(kind, path, **more)
    message = str(error.value)
    assert message.startswith("corpus.sources.mine.")
    assert path.name in message
    assert "\n" not in message
    assert "; " in message
    return message


def zstd(raw):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("end", PACKERS)
def test_packed_lines_and_text_are_read_whole_even_from_several_parts(tmp_path, end):
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    (tmp_path / f"a.jsonl.{end}").write_bytes(PACKERS[end](LINES[:half]) + PACKERS[end](LINES[half:]))
    assert len(read("jsonl", tmp_path / f"a.jsonl.{end}")) == 400
    (tmp_path / f"a.txt.{end}").write_bytes(PACKERS[end](b"some words"))
    assert read("text", tmp_path / f"a.txt.{end}") == ["some words"]


@pytest.mark.parametrize("end", PACKERS)
@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_a_cut_or_foreign_packed_file_is_named_with_the_place(tmp_path, kind, end):
    path = tmp_path / f"a.{end}"
    packed = PACKERS[end](LINES)
    path.write_bytes(packed[: len(packed) // 2])
    message = refused(kind, path)
    assert "cut short" in message or "not sound" in message or "Truncated" in message
    assert kind == "text" or " line " in message
    path.write_bytes(LINES)
    assert f"is not sound {file_module._PACKED[f'.{end}'][0]} data" in refused(kind, path)
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    damaged[-6] ^= 0xFF
    path.write_bytes(damaged)
    refused(kind, path)


@pytest.mark.parametrize("name", ["a.zip", "a.jsonl.zip", "a.tar.gz", "a.tgz"])
def test_an_archive_is_refused_as_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    assert "is an archive of files" in refused("jsonl", tmp_path / name)


BAD_LINES = {
    "bigint": (b'{"m": ' + b"9" * 5000 + b', "text": "x"}', "thousands of digits"),
    "deep": (b'{"text": "x", "m": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
    "surrogate": (b'{"text": "end\\ud83d"}', r"half a character ('\ud83d'"),
    "surrogate in a title": (b'{"text": "x", "title": "\\udc00"}', "'title'"),
    "number for text": (b'{"text": 5}', "it is a number"),
    "list for text": (b'{"text": ["a"]}', "it is a list"),
    "object for title": (b'{"text": "x", "title": {"de": "x"}}', "it is an object"),
    "truth for title": (b'{"text": "x", "title": true}', "it is a truth value"),
    "a bare text": (b'"text"', "is text, not an object"),
    "null": (b"null", "is null, not an object"),
    "cut": (b'{"text": "x', "is not JSON"),
    "a list": (b'[{"text": "x"}]', "is a JSON list"),
    "bare NUL": (b'{"text": "\0"}', "is not JSON"),
}


@pytest.mark.parametrize(("line", "words"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_numbered(tmp_path, line, words):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\r\n \r\n' + line + b'\n{"text": "more"}\n')
    message = refused("jsonl", tmp_path / "a.jsonl", title_column="title")
    assert "a.jsonl line 3 " in message
    assert words in message


def test_a_byte_order_mark_crlf_blank_lines_and_blank_texts_are_no_faults(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": " \\n"}\n{"text": "b"}')
    assert read("jsonl", tmp_path / "a.jsonl") == ["a", "b"]


def test_a_document_without_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    for module in (jsonl, text):
        monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(b" " * ((1 << 20) + 1))
    assert "line 1 is longer than 1 MiB" in refused("jsonl", tmp_path / "a.jsonl")
    assert "more than 1 MiB" in refused("text", tmp_path / "a.txt")


def test_text_with_nul_bytes_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("Wörter".encode("utf-16-le"))
    (tmp_path / "b.txt").write_bytes(b"%PDF\n\0\0")
    assert "byte 0 is NUL" not in refused("text", tmp_path / "a.txt")
    assert "byte 5 is NUL" in refused("text", tmp_path / "b.txt")


def test_lines_are_read_from_any_file_system():
    with fsspec.open("memory://notes/a.jsonl.gz", "wb") as stream:
        stream.write(gzip.compress(LINES))
    assert len(read("jsonl", "memory://notes/a.jsonl.gz")) == 400


TEXTS = ["one", "two", None, "", " \n", "three"]
TEXT_TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "large dictionary": pa.dictionary(pa.int32(), pa.large_string()),
}
OTHERS = {
    "struct": pa.array([{"a": "x"}]),
    "list": pa.array([["x"]]),
    "map": pa.array([[("a", "x")]], pa.map_(pa.string(), pa.string())),
    "binary": pa.array([b"x"]),
    "fixed_size_binary": pa.array([b"x"], pa.binary(1)),
    "int64": pa.array([1]),
    "double": pa.array([1.0]),
    "bool": pa.array([True]),
    "date32": pa.array([0], pa.date32()),
    "timestamp": pa.array([0], pa.timestamp("us")),
    "decimal": pa.array([1], pa.decimal128(5)),
}


@pytest.mark.parametrize("kind", TEXT_TYPES.values(), ids=TEXT_TYPES)
def test_columns_of_text_are_read_in_every_encoding(tmp_path, kind):
    values = pa.array(TEXTS, kind if not pa.types.is_dictionary(kind) else kind.value_type)
    array = values.cast(kind) if pa.types.is_dictionary(kind) else values
    pq.write_table(pa.table({"text": array, "n": range(6), "name": array}), tmp_path / "a.parquet", row_group_size=2)
    documents = list(read_files("mine", source("parquet", tmp_path / "a.parquet", title_column="name")))
    assert [(one.title, one.text) for one in documents] == [(one, one) for one in ("one", "two", "three")]


@pytest.mark.parametrize(("kind", "array"), OTHERS.items(), ids=OTHERS)
def test_a_column_of_anything_else_is_refused_by_type(tmp_path, kind, array):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": array, "text": ["x"]}), path)
    for field, columns in (("text_column", {"text_column": "body"}), ("title_column", {"title_column": "body"})):
        message = refused("parquet", path, **columns)
        assert message.startswith(f"corpus.sources.mine.{field}: {path} has no text in the column 'body'")
        assert kind in message


def test_columns_that_are_there_twice_or_inside_a_struct_are_not_guessed(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, ["text", "text"]), path)
    assert "2 columns 'text'" in refused("parquet", path)
    pq.write_table(pa.table({"doc": pa.array([{"text": "x"}])}), path)
    assert "no column 'doc.text'; it has doc" in refused("parquet", path, text_column="doc.text")


def test_a_title_may_not_be_the_text():
    with pytest.raises(ValidationError, match="title_column must not be the text_column"):
        source("parquet", "a.parquet", title_column="text")


@pytest.mark.parametrize("groups", [0, 1])
def test_a_parquet_without_rows_holds_no_documents(tmp_path, groups):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": pa.array([], pa.string())})
    with pq.ParquetWriter(path, table.schema) as writer:
        if groups:
            writer.write_table(table)
    assert "holds no documents" in refused("parquet", path)


@pytest.mark.parametrize("raw", [b"", b"PAR1", b"PARE" * 3, b"hello, this is not one"])
def test_what_is_no_parquet_is_named(tmp_path, raw):
    (tmp_path / "a.parquet").write_bytes(raw)
    assert "is not a Parquet file" in refused("parquet", tmp_path / "a.parquet")


def test_parquet_that_is_cut_or_flipped_anywhere_is_read_or_refused(tmp_path):
    """A byte in a page without checksum may go unnoticed; no fault may become a traceback or a value of no text."""
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": [f"words {n} é" for n in range(12)]}).write_parquet(path, row_group_size=6)
    whole = path.read_bytes()
    faults = [whole[:cut] for cut in range(0, len(whole), 37)]
    for at in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[at] ^= 0x41
        faults.append(bytes(flipped))
    outcomes = set()
    for raw in faults:
        path.write_bytes(raw)
        try:
            outcomes.update(type(one) for one in read("parquet", path))
        except UserError as error:
            outcomes.add("a.parquet" in str(error))
    assert outcomes == {str, True}


def test_bytes_that_are_not_utf8_in_a_column_of_strings_name_the_row(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    assert "a.parquet row 2 is not UTF-8" in refused("parquet", tmp_path / "a.parquet")


def test_one_huge_row_group_is_read_a_buffer_at_a_time(tmp_path):
    """A row group of 16 MB takes no more memory than one of 2 MB, in Python's heap and in Arrow's."""
    peaks = {}
    for megabytes in (2, 16):
        path = tmp_path / f"{megabytes}.parquet"
        texts = [f"{n} " + "words of it " * 80 for n in range(megabytes * 1024)]
        table = pa.table({"text": texts})
        pq.write_table(table, path, row_group_size=10**9, compression="none", use_dictionary=False)
        assert pq.ParquetFile(path).metadata.num_row_groups == 1
        before = pa.default_memory_pool()
        counted = pa.proxy_memory_pool(before)
        pa.set_memory_pool(counted)
        tracemalloc.start()
        try:
            assert sum(1 for _ in read_files("mine", source("parquet", path))) == len(texts)
            peaks[megabytes] = tracemalloc.get_traced_memory()[1] + counted.max_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(before)
    assert peaks[16] < peaks[2] + (1 << 20)
    assert peaks[16] < 8 << 20
