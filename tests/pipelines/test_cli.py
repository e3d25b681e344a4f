"""A stage that DVC starts dies with it, even with a DVC that died before the stage could look."""

import os
import subprocess
import sys
from typing import Any

import pytest
from kedro.framework.cli.project import run as kedro_run

from engine.errors import UserError
from engine.identity import snapshot
from pipelines import cli

RUN = """
from pipelines import cli
cli.kedro_run.callback = lambda **given: print("ran")
cli._run(**cli._own_run().make_context("run", ["--env", "smoke"]).params)
"""


def options(*words: str) -> dict[str, Any]:
    """Return the options that `kedro run` parses from these arguments."""
    return cli._own_run().make_context("run", list(words)).params


def run(**environment: str) -> "subprocess.CompletedProcess[str]":
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "K2_"))}
    return subprocess.run(
        [sys.executable, "-c", RUN], env={**outer, **environment}, capture_output=True, text=True, check=False
    )


def test_a_stage_whose_dvc_is_gone_ends_at_once() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = run(DVC_STAGE="sft", K2_PARENT=str(ended.pid))
    assert process.returncode == 1
    assert f"the process {ended.pid} that started this one is gone" in process.stderr
    assert "ran" not in process.stdout


@pytest.mark.parametrize("parent", [os.getpid(), ""], ids=["told", "a shell without PPID"])
def test_a_stage_whose_dvc_lives_runs(parent: object) -> None:
    assert run(DVC_STAGE="sft", K2_PARENT=str(parent)).stdout == "ran\n"


def test_a_shells_own_run_asks_for_no_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(K2_PARENT="1").stdout == "ran\n"
    parents: list[int] = []
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(cli, "die_with_parent", parents.append)
    monkeypatch.setattr(kedro_run, "callback", lambda **options: None)
    for variable in cli.OWN.values():
        monkeypatch.setenv(variable, "")  # set by the run, and as before afterwards
    monkeypatch.setattr(snapshot, "enter", lambda root: None)  # this process goes on with the modules that it has
    cli._run(**options("--env", "smoke"))
    assert parents == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "trian_sft"], r"no.* nodes named \['trian_sft'\]; there are the nodes build_corpus, .*train_sft"),
        (
            ["--pipelines", "corpus", "--tags", "train"],
            "no nodes after .*; there are the nodes build_corpus and",
        ),
        (["--to-outputs", "nowhere"], r"datasets named \['nowhere'\]"),
        (["--namespaces", "none"], "namespaces"),
        (["--runner", "Runer"], "--runner Runer: .*Runer.*leave it out"),
        (["--runner", "nowhere.Runner"], "--runner nowhere.Runner: No module named"),
    ],
)
def test_a_selection_of_what_is_not_there_is_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        cli.check_selection(options("--env", "smoke", *words))
    assert "\n" not in str(caught.value)


def test_a_selection_of_what_is_there_is_taken() -> None:
    cli.check_selection(options("--env", "smoke", "--pipelines", "sft", "--nodes", "train_sft", "--tags", "sft"))
