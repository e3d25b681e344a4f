import gzip
import json
import socket

import fsspec
import polars as pl
import pytest

from engine.errors import UserError
from nodes.corpus.document import RawDocument
from nodes.corpus.files import read_files
from nodes.corpus.sources import FileSource


def source(kind, path, **more):
    return FileSource(kind=kind, path=str(path), domain="web", license="CC0-1.0", max_bytes=10**6, **more)


def read(kind, path, **more):
    return list(read_files("mine", source(kind, path, **more)))


def test_parquet_by_path_and_by_glob(tmp_path):
    for name in ("b", "a"):
        pl.DataFrame({"body": [f"text {name}", None, "more"], "head": ["One", "Two", None]}).write_parquet(
            tmp_path / f"{name}.parquet"
        )
    assert read("parquet", tmp_path / "a.parquet", text_column="body", title_column="head") == [
        RawDocument("One", "text a"),
        RawDocument("a.parquet row 3", "more"),
    ]
    every = read("parquet", tmp_path / "*.parquet", text_column="body")
    assert [document.text for document in every] == ["text a", "more", "text b", "more"]


def test_jsonl_plain_and_compressed(tmp_path):
    lines = '{"text": "first", "name": "A"}\n\n{"text": "zweiter ü"}\n'
    (tmp_path / "x.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    expected = ["first", "zweiter ü"]
    assert [document.text for document in read("jsonl", tmp_path / "x.jsonl")] == expected
    assert [document.text for document in read("jsonl", tmp_path / "y.jsonl.gz")] == expected
    assert read("jsonl", tmp_path / "x.jsonl", title_column="name")[0].title == "A"


def test_text_at_an_fsspec_url():
    with fsspec.open("memory://notes/a.txt", "wb") as stream:
        stream.write(b"some words")
    assert read("text", "memory://notes/*.txt") == [RawDocument("a.txt", "some words")]


def refused(kind, path, **more):
    with pytest.raises(UserError) as error:
        read(kind, path, **more)
    message = str(error.value)
    assert message.startswith("corpus.sources.mine.")
    assert "\n" not in message
    return message


def test_a_missing_path_is_named(tmp_path):
    assert f"no file at {tmp_path}/none.jsonl" in refused("jsonl", tmp_path / "none.jsonl")
    assert "no file at" in refused("text", tmp_path / "*.txt")


def test_an_empty_source_is_named(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "a.jsonl").write_text("\n")
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "a.parquet")
    for kind, name in (("text", "a.txt"), ("jsonl", "a.jsonl"), ("parquet", "a.parquet")):
        assert "holds no documents" in refused(kind, tmp_path / name)


def test_a_parquet_without_the_column_names_column_and_those_it_has(tmp_path):
    pl.DataFrame({"content": ["x"], "id": [1]}).write_parquet(tmp_path / "a.parquet")
    message = refused("parquet", tmp_path / "a.parquet")
    assert "text_column" in message
    assert "no column 'text'" in message
    assert "content, id" in message
    message = refused("parquet", tmp_path / "a.parquet", text_column="content", title_column="headline")
    assert "title_column" in message
    assert "no column 'headline'" in message


def test_what_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_text("hello, this is not one")
    assert "is not a Parquet file" in refused("parquet", tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path, kind):
    good = json.dumps({"text": "ok"}).encode() + b"\n"
    (tmp_path / "a").write_bytes(good + b'{"text": "caf\xe9"}\n')
    message = refused(kind, tmp_path / "a")
    assert str(tmp_path / "a") in message
    assert f"byte {len(good) + 13}" in message


def test_a_jsonl_line_that_is_not_json_or_has_no_text_is_numbered(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "ok"}\n{"text": \n')
    assert "line 2 is not JSON" in refused("jsonl", tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"text": "ok"}\n{"body": "x"}\n')
    assert "line 2 has no text in the field 'text'" in refused("jsonl", tmp_path / "b.jsonl")


def test_an_unreachable_url_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/corpus.jsonl"
        message = refused("jsonl", url)
    assert url in message


def test_an_unknown_protocol_is_named():
    assert "cannot be reached" in refused("text", "nosuch://bucket/a.txt")
