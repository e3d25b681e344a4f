"""The command of the studies: its list, and its errors for bad input."""

import subprocess
import sys

import pytest

from engine.errors import UserError
from pipelines.commands import study
from pipelines.stages_file import ROOT


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pipelines.commands.study", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_list_names_all_and_loads_nothing_heavy() -> None:
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipelines.commands.study", "--list"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert process.returncode == 0
    assert all(name[:12] in process.stdout for name in study.names(study.REGISTRATIONS))
    assert not any(f" {name}\n" in process.stderr for name in ("torch", "polars", "matplotlib"))


def test_an_unknown_study_is_one_sentence() -> None:
    process = command("muon_vs_adamm")
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr.startswith("error: there is no study 'muon_vs_adamm'")
    assert "muon_vs_adamw" in process.stderr


def test_without_shards_it_names_the_command_that_makes_them() -> None:
    with pytest.raises(UserError, match="STAGE=tokenization"):
        study.inputs("moonlight")


def test_a_pilot_may_not_use_a_studys_seeds() -> None:
    registrations = {name: study.register(study.REGISTRATIONS, name) for name in study.names(study.REGISTRATIONS)}
    with pytest.raises(UserError, match="seeds from 9000 on"):
        study.run(registrations, "rescue", "laptop", [101], 1)


def test_the_code_of_a_run_is_what_its_training_reaches() -> None:
    from engine.identity.library import Library
    from engine.identity.reach import reach

    reached = reach(Library(ROOT), [study.ENTRY]).modules
    assert {"engine.optim.muonclip", "engine.training.loop", "studies.figures"} <= reached.keys()
    assert not any(name.startswith(("studies.report", "studies.verdict", "pipelines")) for name in reached)
