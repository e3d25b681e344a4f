"""What an entry can reach."""

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.identity.fingerprint import stage_code
from engine.identity.library import Library
from engine.identity.reach import reach

FILES = {
    "app/__init__.py": "",
    "app/entry.py": "from app import near\nfrom lib.deep import thing\n\ndef main():\n    return near.f() + thing\n",
    "app/near.py": (
        "import json\nimport polars as pl\n\ndef f():\n    from .late import g\n    return g()\n"
        "\ndef unused():\n    return 0\n"
    ),
    "app/late.py": "LIMIT = 1\nOTHER = 2\n\ndef g():\n    return LIMIT\n",
    "app/other.py": "unreached = 1\n",
    "app/prompts/hello.md": "hi",
    "lib/__init__.py": "",
    "lib/deep/__init__.py": "from lib.deep.inner import thing\n",
    "lib/deep/inner.py": "thing = 2\nelse_ = 3\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path, FILES)


def reached(root: Path, *entries: str, leave_out: frozenset[str] = frozenset()) -> set[str]:
    return set(reach(Library(root), list(entries), leave_out).definitions)


def test_follows_late_relative_and_package_imports_to_single_definitions(project: Path) -> None:
    reach_of_entry = reach(Library(project), ["app.entry"])
    assert set(reach_of_entry.definitions) == {
        "app.entry.main",
        "app.near.f",
        "app.late.g",
        "app.late.LIMIT",
        "lib.deep.inner.thing",
    }
    assert reach_of_entry.reexports == {"lib.deep.thing": "lib.deep.inner.thing"}
    assert set(reach_of_entry.modules) == {
        "app",
        "app.entry",
        "app.near",
        "app.late",
        "lib",
        "lib.deep",
        "lib.deep.inner",
    }
    assert reach_of_entry.foreign == {"polars"}


def test_code_counts_prompts_and_versions_but_not_the_unreached(project: Path) -> None:
    def code(waived: frozenset[str] = frozenset()) -> dict[str, dict[str, str]]:
        return stage_code(Library(project), ["app.entry"], {"data": {"type": "t"}}, waived=waived).as_dict()

    before = code()
    assert list(before["files"]) == ["app/prompts/hello.md"]
    assert list(before["distributions"]) == ["polars", "python"]
    assert list(code(frozenset({"polars"}))["distributions"]) == ["python"]
    (project / "app/other.py").write_text("unreached = 2\n")
    (project / "app/late.py").write_text(FILES["app/late.py"].replace("OTHER = 2", "OTHER = 3\n\ndef new():\n    pass"))
    (project / "app/near.py").write_text(FILES["app/near.py"].replace("return 0", "return 1"))
    assert code() == before
    (project / "app/late.py").write_text("LIMIT = 2\n\ndef g():\n    return LIMIT\n")
    now = code()
    changed = {name for name, value in now["definitions"].items() if before["definitions"][name] != value}
    assert changed == {"app.late.LIMIT"}
    (project / "app/prompts/hello.md").write_text("hello")
    assert code()["files"] != before["files"]


def test_what_is_left_out_does_not_count(project: Path) -> None:
    assert not any(name.startswith("lib") for name in reached(project, "app.entry", leave_out=frozenset({"lib"})))


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("import lib.deep.inner as i\nX = i.thing", {"thing"}),
        ("import lib.deep.inner\nX = lib.deep.inner.thing", {"thing"}),
        ("import lib.deep.inner as i\ndef f(name):\n    return getattr(i, name)", {"thing", "else_"}),
        ("from lib.deep.inner import *", {"thing", "else_"}),
        ("from lib.deep import inner\nX = [inner]", {"thing", "else_"}),
        ("COMMAND = ['python', '-m', 'lib.deep.inner']", {"thing", "else_"}),
        ("WHERE = 'lib.deep.inner.thing'", {"thing"}),
        ("from lib.deep.inner import absent\nX = absent", {"thing", "else_"}),
        ("from lib.deep.inner import else_ as e\ndef f():\n    return globals()['e']", {"else_"}),
        ("try:\n    from lib.deep.inner import thing\nexcept ImportError:\n    thing = 0\nX = thing", {"thing"}),
    ],
)
def test_uses(project: Path, source: str, want: set[str]) -> None:
    write(project, {"app/entry.py": source + "\n"})
    names = {name.removeprefix("lib.deep.inner.") for name in reached(project, "app.entry") if "inner" in name}
    assert names == want


@pytest.mark.parametrize(
    "source",
    [
        "print('side effect')",
        "import os\nos.environ['A'] = 'b'",
        "TABLE = make()",
        "@register\ndef f():\n    pass",
        "def f(x=make()):\n    pass",
        "class A:\n    @register\n    def f(self):\n        pass",
        "class A(Base, metaclass=Meta):\n    pass",
        "for name in ('a', 'b'):\n    pass",
        "if __name__ == '__main__':\n    main()",
    ],
)
def test_what_a_module_does_when_it_is_imported_counts_for_whoever_imports_it(project: Path, source: str) -> None:
    write(project, {"lib/deep/inner.py": f"thing = 2\n{source}\n"})
    assert {name for name in reached(project, "app.entry") if "inner" in name} - {"lib.deep.inner.thing"}


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    x: int = 1\n    def f(self):\n        return make()",
        "from functools import cache\n@cache\ndef f():\n    return make()",
        "PATTERN = re.compile('x')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "KEY = lambda x: make()",
    ],
)
def test_what_only_binds_a_name_counts_for_who_uses_it(project: Path, source: str) -> None:
    write(project, {"lib/deep/inner.py": f"import re\nthing = 2\n{source}\n"})
    reach_of_entry = reach(Library(project), ["app.entry"])
    assert {name for name in reach_of_entry.definitions if "inner" in name} == {"lib.deep.inner.thing"}
    assert reach_of_entry.foreign == {"polars"}


def test_classes_that_are_found_by_themselves_count(project: Path) -> None:
    inner = "class Base:\n    pass\nclass Hidden(Base):\n    pass\nthing = Base\n"
    write(project, {"lib/deep/inner.py": inner})
    assert "lib.deep.inner.Hidden" not in reached(project, "app.entry")
    write(project, {"lib/deep/inner.py": inner.replace("thing = Base", "thing = [Base.__subclasses__]")})
    assert "lib.deep.inner.Hidden" in reached(project, "app.entry")


def test_swapped_imports_and_reexports_count(project: Path) -> None:
    def hashes() -> dict[str, str]:
        return stage_code(Library(project), ["app.entry"], {}).definitions

    both = "from lib.deep.inner import {} as a, {} as b\ndef f():\n    return a - b\n"
    write(project, {"app/entry.py": both.format("thing", "else_")})
    before = hashes()
    write(project, {"app/entry.py": both.format("else_", "thing")})
    assert hashes() != before
    write(project, {"app/entry.py": "import lib.deep as d\ndef f():\n    return d.a - d.b\n"})
    write(project, {"lib/deep/__init__.py": "from lib.deep.inner import thing as a, else_ as b"})
    before = hashes()
    write(project, {"lib/deep/__init__.py": "from lib.deep.inner import thing as b, else_ as a"})
    assert hashes() != before


def test_annotations_count_where_they_may_be_read(project: Path) -> None:
    called = "from app.near import f\ndef g():\n    return f(1)\n"
    inner = "LIMIT: {} = 1\n\ndef f(x: int):\n    return h(x)\n\ndef h(x: {}) -> {}:\n    return x + LIMIT\n"
    before = annotated(project, called, inner.format("int", "int", "int"))
    assert before == annotated(project, called, inner.format("str", "'str'", "object"))
    for reader in ("from typing import get_type_hints\n", "import sys\nseen = sys.modules[__name__].__annotations__\n"):
        before = annotated(project, called, reader + inner.format("int", "int", "int"))
        for changed in (("str", "int", "int"), ("int", "str", "int"), ("int", "int", "str")):
            assert annotated(project, called, reader + inner.format(*changed)) != before


@pytest.mark.parametrize("model", ["Model", "'Model'", "Model | None", "Optional['Model']", "pydantic.BaseModel", "m"])
def test_a_model_among_the_annotations_of_a_nodes_function_counts(project: Path, model: str) -> None:
    """Kedro would make an instance of it, so what else is annotated may decide whether it can."""
    node = (
        "import pydantic\nfrom typing import Optional\nclass Model:\n    x: int\nm = Model\n"
        "def f(x: {}, y: {} = 1):\n    pass\n"
    )
    plain = annotated(project, WIRED, node.format("int", "int"))
    named = annotated(project, WIRED, node.format(model, "int"))
    assert plain["app.near.f"] != named["app.near.f"]
    assert named["app.near.f"] != annotated(project, WIRED, node.format(model, "'unknown'"))["app.near.f"]


@pytest.mark.parametrize("name", ["Model", "*"])
def test_the_model_itself_counts_too(project: Path, name: str) -> None:
    digests = []
    for kind in ("int", "str"):
        write(project, {"app/late.py": f"class Model:\n    x: {kind}\n"})
        near = f"from app.late import {name}\ndef f(x: Model):\n    pass\n"
        digests.append(annotated(project, WIRED, near)["app.late.Model"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    "other", ["", ": str", ": dict[str, Any]", ": 'pl.LazyFrame'", ": Path | None", ": Iterator[int]"]
)
def test_what_kedro_cannot_make_a_model_of_is_no_change_of_a_nodes_function(project: Path, other: str) -> None:
    """The names are those of tests/pipelines/test_graph.py, which asks Kedro itself."""
    node = (
        "from typing import TYPE_CHECKING, Any\nfrom pathlib import Path\nfrom collections.abc import Iterator\n"
        "if TYPE_CHECKING:\n    import polars as pl\n\ndef f(x{}):\n    pass\n"
    )
    assert annotated(project, WIRED, node.format(": int")) == annotated(project, WIRED, node.format(other))


WIRED = "from app.near import f\nNODES = [f]\n"


def annotated(project: Path, entry: str, near: str) -> dict[str, str]:
    """The hashes of the definitions that the wiring `entry` reaches, beside which `near` is the one module."""
    write(project, {"app/entry.py": entry, "app/near.py": near})
    return stage_code(Library(project), ["app.entry"], {}, wiring="app.entry").definitions


def test_computed_import_is_refused(project: Path) -> None:
    (project / "app/late.py").write_text("import importlib\ng = importlib.import_module(NAME)\n")
    with pytest.raises(UserError, match=r"late\.py, line 2"):
        reach(Library(project), ["app.entry"])


@pytest.mark.parametrize("entry", ["app.nothing.at.all", "nowhere"])
def test_missing_entry_is_named(project: Path, entry: str) -> None:
    with pytest.raises(UserError, match=entry):
        reach(Library(project), [entry])


def test_what_is_no_python_is_named(project: Path) -> None:
    (project / "app/late.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"late\.py is not valid Python"):
        reach(Library(project), ["app.entry"])
