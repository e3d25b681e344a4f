"""A dvc.lock that DVC would refuse is refused in one sentence with a remedy, wherever it is read."""

import re
import subprocess
from pathlib import Path

import pytest

from engine.errors import UserError
from pipelines import graph, restore, status
from pipelines.commands import mend
from pipelines.ledger import check_ledger, ledger_path, read_ledger
from tests.runs import Runs

PROFILE = "smoke"
LOCK = """schema: '2.0'
stages:
  corpus:
    cmd: exec env K2_PARENT=$PPID kedro run
    deps:
    - path: data/smoke/code/corpus.json
      hash: md5
      md5: 4a749b250a94749b250a94749b250a99
      size: 7512
    outs:
    - path: data/smoke/corpus/documents
      hash: md5
      md5: 0a749b250a94749b250a94749b250a99.dir
      size: 1001
      nfiles: 2
"""
MERGE = f"<<<<<<< HEAD\n{LOCK}=======\n{LOCK}>>>>>>> other\n"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the ledger of a scratch repository."""
    Runs(tmp_path, monkeypatch)
    path = ledger_path(PROFILE)
    assert path == tmp_path / "conf/smoke/dvc.lock"
    path.parent.mkdir(parents=True)
    path.write_text(LOCK)
    return path


def test_a_sound_one_names_what_is_current(lock: Path) -> None:
    assert list(read_ledger(PROFILE)["corpus"]) == ["cmd", "deps", "outs"]
    assert list(restore.missing_outputs(PROFILE)) == [restore.ROOT / "data/smoke/corpus/documents"]
    lock.unlink()
    assert read_ledger(PROFILE) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MERGE, "conf/smoke/dvc.lock, line 1, holds the marks of an unfinished merge"),
        ("", "conf/smoke/dvc.lock is not as DVC writes it: `make mend"),
        (LOCK.partition("cmd")[0], "conf/smoke/dvc.lock, field stages.corpus, is not as DVC writes it"),
        (LOCK.partition("50a94")[0], r"conf/smoke/dvc.lock, field stages.corpus.deps.0.md5, is not as DVC writes it"),
        (LOCK.replace("'2.0'", "'3.0'"), "conf/smoke/dvc.lock, field schema, is not as DVC writes it"),
        (LOCK.replace("cmd: exec", "command: exec"), "conf/smoke/dvc.lock, field stages.corpus.cmd, is not as DVC"),
        (LOCK.replace("size: 1001", "size: '1001'"), "conf/smoke/dvc.lock, field stages.corpus.outs.0.size, is not"),
        (LOCK.replace("4a74", "\x00"), "conf/smoke/dvc.lock is not valid YAML"),
    ],
)
def test_a_damaged_one_is_refused_with_a_remedy_that_heals(lock: Path, text: str, problem: str) -> None:
    lock.write_text(text)
    for ask in (read_ledger, status.stage_status, restore.missing_outputs):
        with pytest.raises(UserError, match=problem) as error:
            ask(PROFILE)
        assert "`make mend PROFILE=smoke` moves it aside and `make repro PROFILE=smoke` writes it anew" in str(
            error.value
        )
    assert [path.name for path in mend.move_aside(PROFILE)] == ["dvc.lock"]
    assert read_ledger(PROFILE) == {}
    assert not list(mend.damaged(PROFILE))


def test_the_remedy_for_a_merge_heals(lock: Path) -> None:
    def git(*words: str) -> None:
        person = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", *person, *words], cwd=graph.root(), capture_output=True, check=words[0] != "merge")

    def commit(size: str) -> None:
        lock.write_text(LOCK.replace("7512", size))
        git("add", "-A")
        git("commit", "-qm", size)

    git("init", "-qb", "main")
    commit("7512")
    git("checkout", "-qb", "other")
    commit("7513")
    git("checkout", "-q", "main")
    commit("7514")
    git("merge", "other")
    with pytest.raises(UserError, match="unfinished merge") as error:
        read_ledger(PROFILE)
    remedy = re.search(r"`git (checkout [^`]*)`", str(error.value))
    assert remedy
    git(*remedy[1].split())
    assert read_ledger(PROFILE)["corpus"]["deps"][0]["size"] == 7513


def test_a_damaged_view_is_refused_before_dvc_reads_it(lock: Path) -> None:
    view = lock.with_suffix(".yaml")
    view.write_text("stages: {}\n")
    check_ledger(PROFILE)
    view.write_text("<<<<<<< HEAD\nstages: {}\n")
    with pytest.raises(UserError, match=r"smoke/dvc.yaml, line 1, holds the marks .*: `make views` writes it anew"):
        check_ledger(PROFILE)


def test_whatever_dvc_refuses_of_a_file_that_was_cut_is_refused() -> None:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import parse_yaml as parsed_by_dvc

    from engine.yaml_file import parse_yaml
    from pipelines.ledger import _stages

    for length in range(len(LOCK)):
        text = LOCK[:length]
        try:
            COMPILED_LOCKFILE_SCHEMA(parsed_by_dvc(text, "dvc.lock"))
        except Exception:
            with pytest.raises(UserError):
                _stages(parse_yaml(text, "dvc.lock"), "dvc.lock")
