"""The environment is the one that the lock names, and its known traps are shut."""

import importlib.metadata
import sqlite3
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent


def pins(name: str) -> list[tuple[str, str]]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [line.partition("#")[0].strip() for line in lines]
    return [(package, version) for package, _, version in (line.partition("==") for line in pinned if line)]


@pytest.mark.parametrize(("package", "version"), [*pins("run.txt"), *pins("test.txt"), *pins("no-deps.txt")])
def test_installed_as_locked(package: str, version: str) -> None:
    assert importlib.metadata.version(package).partition("+")[0] == version


def test_the_three_pins_that_no_resolver_finds() -> None:
    """Without them Dagster's parser dies on any string selection, while `pip check` stays green."""
    import dagster as dg

    assert dg.AssetSelection.from_string("group:pretraining") is not None
    assert OmegaConf.create({"a": 1, "b": "${a}"}).b == 1


def test_elements_are_the_ones_we_read() -> None:
    """mendeleev is installed without its requirements, for this file alone."""
    files = importlib.metadata.files("mendeleev") or []
    database = next(file.locate() for file in files if file.name == "elements.db")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        assert connection.execute("select count(*) from elements").fetchone() == (118,)
