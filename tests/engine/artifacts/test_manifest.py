"""What a consumer refuses, and that each refusal names the file and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.artifacts import manifest
from engine.errors import UserError


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    directory = tmp_path / "shards"
    (directory / "sub").mkdir(parents=True)
    (directory / "a.bin").write_bytes(bytes(1000))
    (directory / "sub" / "b.bin").write_bytes(b"tokens")
    manifest.seal(directory, stage="tokenization", dataset="shards", counts={"tokens": 7})
    return directory


def edit(directory: Path, **fields: object) -> None:
    path = directory / manifest.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_sealed_verifies_and_digest_follows_content(sealed: Path) -> None:
    assert manifest.verify(sealed, stage="tokenization", dataset="shards")["counts"] == {"tokens": 7}
    before = manifest.content_digest(sealed)
    manifest.seal(sealed, stage="tokenization", dataset="shards", counts={"tokens": 7})
    assert manifest.content_digest(sealed) == before
    (sealed / "a.bin").write_bytes(b"other")
    manifest.seal(sealed, stage="tokenization", dataset="shards", counts={"tokens": 7})
    assert manifest.content_digest(sealed) != before


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), ["manifest.json", "partial"]),
        (lambda d: (d / "manifest.json").write_text("{"), ["manifest.json", "not JSON"]),
        (lambda d: (d / "manifest.json").write_text("[]"), ["manifest.json", "not an object"]),
        (lambda d: edit(d, schema=0), ["manifest.json", "schema", "0"]),
        (lambda d: edit(d, stage="pretrain"), ["manifest.json", "pretrain/shards"]),
        (lambda d: (d / "a.bin").write_bytes(bytes(999)), ["a.bin", "truncated", "999"]),
        (lambda d: (d / "a.bin").write_bytes(bytes(1001)), ["a.bin", "longer"]),
        (lambda d: (d / "a.bin").write_bytes(b"1" + bytes(999)), ["a.bin", "hash"]),
        (lambda d: (d / "sub" / "b.bin").unlink(), ["b.bin", "missing"]),
        (lambda d: (d / "foreign.txt").write_text("?"), ["foreign.txt", "remove"]),
    ],
)
def test_refusals(sealed: Path, harm: Callable[[Path], object], words: list[str]) -> None:
    harm(sealed)
    with pytest.raises(UserError) as caught:
        manifest.verify(sealed, stage="tokenization", dataset="shards")
    for word in [*words, "make repro STAGE=tokenization"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        manifest.verify(tmp_path / "nowhere", stage="s", dataset="d")
    with pytest.raises(UserError, match="empty"):
        manifest.seal(tmp_path, stage="s", dataset="d", counts={})
