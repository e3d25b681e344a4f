"""A remote's listing in DVC's cache is checked out only if its files stay in their directory."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import UserError
from pipelines import dvc_cache
from pipelines.dvc_cache import DvcCache

A, B, LISTING = "a" * 32, "b" * 32, f"{'c' * 32}.dir"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=path, check=True)
    return path


@pytest.fixture
def lay(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DvcCache]:
    """Lay a listing into the cache of a repository: relpath and MD5 of each file."""
    monkeypatch.setattr(dvc_cache, "ROOT", repository)

    def put(*files: tuple[str, str]) -> DvcCache:
        cache = DvcCache()
        contents = {
            A: b"seal",
            B: b"content",
            LISTING: json.dumps([{"relpath": n, "md5": m} for n, m in files]).encode(),
        }
        for md5, data in contents.items():
            cache.object(md5).parent.mkdir(parents=True, exist_ok=True)
            cache.object(md5).write_bytes(data)
        return cache

    return put


def test_a_listing_of_one_directory_is_taken(lay: Callable[..., DvcCache]) -> None:
    lay(("manifest.json", A), ("deep/b", B)).refuse_foreign(LISTING)


@pytest.mark.parametrize("file", [("../evil", B), ("/tmp/evil", B), ("evil", "../" * 9 + "etc/hostname"), ("evil", "")])
def test_a_listing_that_leads_out_is_refused(lay: Callable[..., DvcCache], file: tuple[str, str]) -> None:
    cache = lay(("manifest.json", A), file)
    with pytest.raises(UserError, match=r"\.dir in DVC's cache lists no files of one directory .*: remove it"):
        cache.refuse_foreign(LISTING)
