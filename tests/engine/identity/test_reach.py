"""What a stage can reach by importing."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.identity.fingerprint import stage_code
from engine.identity.reach import reach


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "app/__init__.py": "",
        "app/entry.py": "from app import near\nfrom lib.deep import thing\n",
        "app/near.py": "import json\nimport polars as pl\n\ndef f():\n    from .late import g\n",
        "app/late.py": "g = 1\n",
        "app/other.py": "unreached = 1\n",
        "app/prompts/hello.md": "hi",
        "lib/__init__.py": "",
        "lib/deep/__init__.py": "from lib.deep.inner import thing\n",
        "lib/deep/inner.py": "thing = 2\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_follows_late_relative_and_package_imports(project: Path) -> None:
    found = reach(project, ["app.entry"])
    assert set(found.modules) == {"app", "app.entry", "app.near", "app.late", "lib", "lib.deep", "lib.deep.inner"}
    assert found.foreign == {"polars"}


def test_code_counts_prompts_and_versions_but_not_the_unreached(project: Path) -> None:
    def code() -> dict[str, dict[str, str]]:
        return stage_code(project, ["app.entry"], {"data": {"type": "t"}}).as_dict()

    before = code()
    assert list(before["files"]) == ["app/prompts/hello.md"]
    assert list(before["distributions"]) == ["polars", "python"]
    (project / "app/other.py").write_text("unreached = 2\n")
    assert code() == before
    (project / "app/late.py").write_text("g = 2\n")
    changed = code()
    assert {name for name in changed["modules"] if changed["modules"][name] != before["modules"][name]} == {"app.late"}
    (project / "app/prompts/hello.md").write_text("hello")
    assert code()["files"] != before["files"]


def test_what_is_left_out_does_not_count(project: Path) -> None:
    assert set(reach(project, ["app.entry"], frozenset({"lib"})).modules) == {
        "app",
        "app.entry",
        "app.near",
        "app.late",
    }


def test_computed_import_is_refused(project: Path) -> None:
    (project / "app/late.py").write_text("import importlib\ng = importlib.import_module(NAME)\n")
    with pytest.raises(UserError, match=r"late\.py, line 2"):
        reach(project, ["app.entry"])


def test_missing_entry_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="app.nothing"):
        reach(project, ["app.nothing"])
