"""Names that others wrote stay in their directory, and what is no file is never sealed, loaded or linked."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from engine.artifacts import manifest
from engine.artifacts.names import BadName, checked_names
from engine.artifacts.store import link, publish_by_hash, publish_links, verify_payload
from engine.errors import UserError
from engine.identity.snapshot import keep_for
from engine.launch import exchange

WHO = {"stage": "sft", "dataset": "weights"}
BAD = [
    "../x",
    "a/../../x",
    "/etc/x",
    "",
    ".",
    "..",
    "a//b",
    "a/",
    "./a",
    "a\\b",
    "C:x",
    "a\0b",
    "a\nb",
    "manifest.json",
]


def sealed(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "a").write_text("one")
    manifest.seal(folder, **WHO, counts={})
    return folder


def rename(folder: Path, name: Any) -> None:
    """Let the manifest call its file by another name."""
    path = folder / manifest.MANIFEST
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "files": {name: content["files"]["a"]}}))


@pytest.mark.parametrize("name", BAD[:-1])
def test_a_name_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        checked_names(["fine", name])


def test_names_of_files_are_taken_and_no_file_is_a_folder() -> None:
    names = ["a", "b/c.parquet", "..a", "b/...", "a b", "é"]
    assert checked_names(names) == names
    for wrong in (["a", "a/b"], [3]):
        with pytest.raises(BadName):
            checked_names(wrong)


@pytest.mark.parametrize("name", BAD)
def test_a_manifest_with_such_a_name_is_refused_wherever_it_is_read(name: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "sft" / "weights", tmp_path / ".store"
    publish_by_hash(sealed(tmp_path / "made"), folder, store)
    (tmp_path / "x").write_text("a host's own file")
    rename(folder, name)
    held = store / str(manifest.content_digest(folder))
    next(store.iterdir()).rename(held)
    rename(held, name)
    for use in (
        lambda: manifest.verify(folder, **WHO),
        lambda: link(folder, store, **WHO),
        lambda: publish_links(held, folder),
    ):
        with pytest.raises(UserError, match=r"manifest\.json: field files: .*not made by this pipeline"):
            use()
    assert (tmp_path / "x").read_text() == "a host's own file"
    assert not (tmp_path / "x").is_symlink()


@pytest.mark.parametrize("files", [[], ["a"], "a", None, {"a": {}}, {"a": 3}, {"a": {"blake2b": 1, "size": "2"}}])
def test_a_manifest_whose_files_are_of_the_wrong_kind_is_refused(files: object, tmp_path: Path) -> None:
    folder = sealed(tmp_path / "weights")
    path = folder / manifest.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "files": files}))
    with pytest.raises(UserError, match=r"manifest\.json"):
        manifest.verify(folder, **WHO)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may be no longer than 107 bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("/etc/hostname"),
        lambda path: path.symlink_to("/etc"),
        lambda path: path.symlink_to("nowhere"),
        os.mkfifo,
        a_socket,
    ],
    ids=["link", "link to a directory", "dangling link", "pipe", "socket"],
)
def test_what_is_no_file_is_neither_sealed_nor_loaded(make: Any, tmp_path: Path) -> None:
    folder, store = tmp_path / "weights", tmp_path / ".store"
    folder.mkdir()
    (folder / "a").write_text("one")
    (folder / "deep").mkdir()
    make(folder / "deep" / "b")
    with pytest.raises(UserError, match="deep/b is a .*, not a file"):
        manifest.seal(folder, **WHO, counts={})
    assert not (folder / manifest.MANIFEST).exists()
    whole = sealed(tmp_path / "whole")
    make(whole / "b")
    with pytest.raises(UserError, match="whole/b is a .*, not a file"):
        manifest.verify(whole, **WHO)
    held = sealed(store / "0")
    (held / "a").unlink()
    make(held / "a")
    with pytest.raises(UserError, match="0/a is a .*, not a file"):
        verify_payload(held, **WHO, files=manifest.read_manifest(held, **WHO)["files"])


def test_a_link_into_dvcs_cache_is_a_file(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "weights")
    cached = tmp_path / "cache" / "files" / "md5" / "0a" / ("b" * 30)
    cached.parent.mkdir(parents=True)
    (folder / "a").rename(cached)
    (folder / "a").symlink_to(cached)
    assert manifest.verify(folder, **WHO)["files"].keys() == {"a"}


def test_a_file_is_not_put_through_a_folder_that_is_a_link(tmp_path: Path) -> None:
    made, folder, store = tmp_path / "made", tmp_path / "sft" / "weights", tmp_path / ".store"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "b").write_text("two")
    manifest.seal(made, **WHO, counts={})
    publish_by_hash(made, folder, store)
    (folder / "deep" / "b").unlink()
    (folder / "deep").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"weights/deep is a link.*: remove the link\."):
        link(folder, store, **WHO)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_rank_hands_over_nothing_from_outside_its_workspace(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    exchange.write_outputs(workspace, "train", {"weights": workspace / "made"}, 1.0, code="0123")
    keep_for(workspace, Path("0123"))
    left = workspace / exchange.FOLDER / "train.outputs.json"
    left.write_text(left.read_text().replace('"made"', '"../made"'))
    with pytest.raises(UserError, match="does not stay in its directory"):
        exchange.read_outputs(workspace, "train")
