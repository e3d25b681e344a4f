"""What is used of Kedro, MLflow and DVC beyond their public interfaces is where the named versions have it."""

import argparse
import subprocess
from pathlib import Path
from string import ascii_letters

import kedro.framework.project
import pytest
from kedro.io import AbstractDataset, DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from engine.errors import UserError
from pipelines import cli, dvc_cache, internals
from pipelines.dvc_cache import DvcCache


def moved(distribution: str, where: str, consequence: str) -> str:
    return f"{distribution} has moved: write {where} anew, since {consequence}."


class Kept(AbstractDataset[int, int]):
    """A dataset that outlives a run, made or not made yet."""

    def __init__(self, made: bool) -> None:
        self.made = made

    def load(self) -> int:
        return 1

    def save(self, data: int) -> None:
        raise NotImplementedError

    def _exists(self) -> bool:
        return self.made

    def _describe(self) -> dict[str, bool]:
        return {"made": self.made}


def test_kedro_s_registry_knows_what_was_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = type(kedro.framework.project.pipelines)()
    monkeypatch.setattr(kedro.framework.project, "pipelines", fresh)
    assert internals.requested_pipelines() == []
    fresh.set_requested(["sft"])
    sentence = moved("Kedro 1.7.0", "requested_pipelines", "`kedro run --pipelines sft` would build all stages")
    assert internals.requested_pipelines() == ["sft"], sentence


def test_kedro_s_runners_leave_out_what_is_made() -> None:
    sentence = moved("Kedro 1.7.0", "without_made", "`kedro run --only-missing-outputs` would end in a traceback")
    assert hasattr(SequentialRunner, "_filter_pipeline_for_missing_outputs"), sentence
    first, second = Node(abs, "a", "b", name="first"), Node(abs, "b", "c", name="second")
    catalog = DataCatalog({"a": Kept(True), "b": Kept(True), "c": Kept(False)})
    left = internals.without_made(SequentialRunner(), Pipeline([first, second]), catalog)
    assert [node.name for node in left.nodes] == ["second"], sentence


def test_mlflow_tries_a_database_as_often_as_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    sentence = moved("MLflow 3.17.2", "try_database", "a database that cannot be opened would hold an import for 100 s")
    assert "MAX_RETRY_COUNT" in utils.create_sqlalchemy_engine_with_retry.__code__.co_names, sentence
    monkeypatch.setattr(utils, "MAX_RETRY_COUNT", utils.MAX_RETRY_COUNT)
    internals.try_database(2)
    assert utils.MAX_RETRY_COUNT == 2


@pytest.mark.parametrize("command", [("repro",), ("exp", "run")])
def test_dvc_s_option_letters_are_those_that_the_stage_looks_for(command: tuple[str, ...]) -> None:
    """Before `f` only letters without a value may stand, or `-nf` would be taken for a name and a force."""
    from dvc.cli.parser import get_main_parser

    parser = get_main_parser()
    for word in command:
        choices = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction)).choices
        parser = choices[word]
    letters = {o[1] for action in parser._actions if action.nargs == 0 for o in action.option_strings if len(o) == 2}
    known = {letter for letter in ascii_letters if cli.FORCE.fullmatch(f"-{letter}f")}
    sentence = moved("DVC 3.67.1", "is_forced", f"`dvc {' '.join(command)}` takes the letters {sorted(letters)}")
    assert letters == known, sentence


def test_dvc_keeps_a_directory_where_its_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "rows").write_text("rows")
    for words in (("init", "-q", "--no-scm"), ("add", "-q", "out")):
        subprocess.run(["dvc", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(dvc_cache, "ROOT", tmp_path)
    sentence = moved("DVC 3.67.1", "DvcCache", "`dvc checkout` might write outside an output")
    assert DvcCache().has(out / "deep" / "rows"), sentence
    (listing,) = DvcCache().root.glob("*/*.dir")
    md5 = f"{listing.parent.name}{listing.name}"
    assert f"md5: {md5}" in (tmp_path / "out.dvc").read_text(), sentence
    DvcCache().refuse_foreign(md5)
    listing.chmod(0o644)
    listing.write_text(listing.read_text().replace("deep/rows", "../rows"))
    with pytest.raises(UserError, match="lists no files of one directory"):
        DvcCache().refuse_foreign(md5)
