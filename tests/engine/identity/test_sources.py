"""What parameters name, by content: local files, addresses, revisions, packages."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel

from engine.artifacts.files import digest_bytes
from engine.errors import UserError
from engine.identity import located
from engine.identity.difference import Change, differences
from engine.identity.digests import Digests
from engine.identity.key import stage_key
from engine.identity.located import Source, matches
from engine.identity.sources import (
    UNVERSIONED,
    Identities,
    SourcePath,
    identities,
    in_words,
    named,
    of_source,
    package_version,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Data(BaseModel):
    path: SourcePath
    revision: str | None = None


class Wheel(BaseModel):
    packages_read: ClassVar = ("pydantic",)
    seed: int = 0


class Parameters(BaseModel):
    prompts: SourcePath | None = None
    tasks: list[SourcePath] = []
    sources: dict[str, Data] = {}
    wheel: Wheel | None = None
    title: str = "no path"


@pytest.fixture
def identities_of(tmp_path: Path):
    """Identities in a repository at `tmp_path`."""

    def find(parameters: BaseModel) -> Identities:
        return identities(parameters, "toy", tmp_path, Digests(tmp_path / "store.json"))

    return find


def one(tmp_path: Path, path: str, revision: str | None = None) -> dict[str, str]:
    return of_source(Source("toy.path", path, revision), tmp_path, Digests(tmp_path / "store.json"))


def test_a_path_is_found_wherever_the_parameters_hold_it() -> None:
    given = {
        "prompts": "p.txt",
        "tasks": ["a", "b"],
        "sources": {"mine": {"path": "s3://x/y", "revision": "7"}},
        "title": "t",
    }
    assert list(named(Parameters.model_validate(given), "toy")) == [
        Source("toy.prompts", "p.txt"),
        Source("toy.tasks.0", "a"),
        Source("toy.tasks.1", "b"),
        Source("toy.sources.mine.path", "s3://x/y", "7"),
    ]
    assert Parameters.model_validate(given).model_dump() == {**given, "wheel": None}, "a path stays a text"


def test_files_count_by_content_under_their_own_names(tmp_path: Path, identities_of) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.jsonl").write_text("a")
    (tmp_path / "notes" / "b.jsonl").write_text("b")
    (tmp_path / "notes" / "deeper.jsonl").mkdir()
    parameters = Parameters(sources={"mine": Data(path=SourcePath("notes/*.jsonl"))}, wheel=Wheel())
    assert identities_of(parameters) == {
        "toy.sources.mine.path": {"notes/a.jsonl": digest_bytes(b"a"), "notes/b.jsonl": digest_bytes(b"b")},
        "toy.wheel": {"package pydantic": package_version("toy", "pydantic")},
    }
    assert in_words(identities_of(parameters)["toy.sources.mine.path"]).startswith("2 files, together ")


@pytest.mark.parametrize("name", ["part[1].jsonl", "a*b.jsonl", "what?.jsonl", "zip::a.jsonl"])
def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    assert one(tmp_path, name) == {name: digest_bytes(b"x")}
    if "::" not in name:  # in a URL it joins two of them
        assert one(tmp_path, f"file://{tmp_path}/{name}") == {name: digest_bytes(b"x")}


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("gone.jsonl", "toy.path: there is no file at gone.jsonl; correct the path"),
        ("gone/*.jsonl", r"toy.path: there is no file at gone/\*.jsonl"),
        ("gone::a[1].jsonl", r"toy.path: there is no file at gone::a\[1\].jsonl"),
        ("folder", "folder is a directory; name its files, such as folder/*"),
        ("folder/", "folder/ is a directory; name its files, such as folder/*"),
        ("x" * 300, "x cannot be reached .*too long.*; check the path and its permissions$"),
        ("pipe", "pipe is not a regular file"),
        ("nonsense://x", "nonsense://x cannot be reached .*nonsense"),
        ("simplecache::https://x/y", "reads through simplecache"),
        ("http://127.0.0.1:9/a.jsonl", "cannot be reached .*Cannot connect"),
        ("hf://datasets/owner/name@main/a", "the revision 'main' of .* can move; give the commit"),
    ],
)
def test_a_path_that_names_nothing_readable_is_one_sentence(tmp_path: Path, path: str, sentence: str) -> None:
    import os

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=sentence):
        one(tmp_path, path)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with an ETag of each file, as real servers do; what is below `bare/` has none, nor a time."""

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.is_file() and "bare" not in file.parts:
            self.send_header("ETag", f'"{digest_bytes(file.read_bytes())}"')
        super().end_headers()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server of the files in `tmp_path`."""
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_remote_file_counts_by_what_its_store_states(tmp_path: Path, address: str) -> None:
    (tmp_path / "a.jsonl").write_text("a")
    url = f"{address}/a.jsonl"
    assert one(tmp_path, url) == {url: f'ETag "{digest_bytes(b"a")}"'}
    (tmp_path / "a.jsonl").write_text("b")
    assert one(tmp_path, url) == {url: f'ETag "{digest_bytes(b"b")}"'}
    assert [one.path for one in matches(Source("toy.path", f"{url}?signed=yes"))] == [f"{url}?signed=yes"]
    with pytest.raises(UserError, match=f"there is no file at {address}/b.jsonl"):
        one(tmp_path, f"{address}/b.jsonl")


def test_a_store_that_states_nothing_needs_a_revision(tmp_path: Path, address: str) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "a.jsonl").write_text("a")
    url = f"{address}/bare/a.jsonl"
    assert one(tmp_path, url) == {url: UNVERSIONED}
    assert one(tmp_path, url, "second edition") == {url: "revision second edition"}


def test_a_commit_of_the_hub_needs_no_network(tmp_path: Path) -> None:
    path = "hf://datasets/owner/name/data/*.parquet"
    assert one(tmp_path, path, COMMIT) == {path: f"revision {COMMIT}"}
    pinned = f"hf://datasets/owner/name@{COMMIT}/a"
    assert one(tmp_path, pinned) == {pinned: f"revision {COMMIT}"}
    with pytest.raises(UserError, match=f"names {COMMIT} and revision names {COMMIT[::-1]}; keep one"):
        one(tmp_path, pinned, COMMIT[::-1])


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("hf://datasets/owner/name/data/*.parquet", f"hf://datasets/owner/name@{COMMIT}/data/*.parquet"),
        ("hf://owner/name/a.jsonl", f"hf://owner/name@{COMMIT}/a.jsonl"),
        (f"hf://datasets/owner/name@{COMMIT}/a", f"hf://datasets/owner/name@{COMMIT}/a"),
        ("s3://bucket/a", "s3://bucket/a"),
    ],
)
def test_the_hub_is_read_at_the_commit_of_the_key(path: str, read: str) -> None:
    assert located._at_revision(Source("toy.path", path, COMMIT)).path == read


def test_python_s_library_counts_by_content_not_by_patch_level(
    tmp_path: Path, identities_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    for name in ("json/decoder.py", "json/tests/test_it.py", "_sysconfigdata_x.py", "site-packages/other.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text("one")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(library)})

    class OfPython(BaseModel):
        packages_read: ClassVar = ("python",)

    first = identities_of(OfPython())
    assert list(first["toy"]) == ["Python's library"]
    monkeypatch.setattr("platform.python_version", lambda: "3.11.99")
    for name in ("json/tests/test_it.py", "_sysconfigdata_x.py", "site-packages/other.py"):
        (library / name).write_text("two")
    assert identities_of(OfPython()) == first
    (library / "json/decoder.py").write_text("two")
    assert identities_of(OfPython()) != first


def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(UserError, match="corpus.sources.x needs the package not-there-at-all, which is not installed"):
        package_version("corpus.sources.x", "not-there-at-all")


def test_sources_are_part_of_the_key_and_their_changes_have_names() -> None:
    code: dict[str, dict[str, str]] = {kind: {} for kind in ("definitions", "files", "catalog", "distributions")}

    def parts(**sources: dict[str, str]) -> dict:
        return {"code": code, "parameters": {}, "inputs": {}, "sources": sources}

    old = parts(a={"notes/a.jsonl": "0" * 32, "notes/gone.jsonl": "1" * 32, "package mendeleev": "1.0"})
    new = parts(a={"notes/a.jsonl": "2" * 32, "notes/new.jsonl": "3" * 32, "package mendeleev": "1.1"})
    assert stage_key(**old) != stage_key(**new)
    assert stage_key(**parts()) == stage_key(code, {}, {}), "a stage that reads none keeps the key that it had"
    assert [str(change) for change in differences(old, new)] == [
        "source notes/a.jsonl changed",
        "source notes/gone.jsonl is gone",
        "source notes/new.jsonl is new",
        "source package mendeleev: 1.0 → 1.1",
    ]
    without = {name: part for name, part in old.items() if name != "sources"}
    assert Change("source", "notes/a.jsonl", "absent", "2" * 32) in list(differences(without, new))
