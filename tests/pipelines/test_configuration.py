"""Whatever a run refuses before its first stage, plan, why, Dagster's plan, repro and the code stage refuse too."""

import copy
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dags import plan as dagster_plan
from engine.errors import UserError
from pipelines import code_files, configuration, graph, status
from pipelines.configuration import check_configuration
from pipelines.hooks import RunContextHook
from pipelines.stages_file import ROOT
from tests.runs import Runs

PROFILE = "smoke"
ADAMW = {
    **graph.parameters(PROFILE)["pretrain"]["optimizer"], "kind": "adamw", "backend": "deepspeed", "zero_stage": 2,
}  # fmt: skip


class Context:
    """The part of Kedro's context that the hook reads."""

    env = PROFILE

    @property
    def params(self) -> dict[str, Any]:
        return graph.parameters(PROFILE)


ENTRIES: list[Callable[[], object]] = [
    lambda: check_configuration(PROFILE),  # `make repro` and `kedro run` begin with it
    lambda: status.stage_status(PROFILE),  # `make plan` and `make why`
    lambda: dagster_plan.plan(PROFILE),
    lambda: code_files.write_files(PROFILE),
    lambda: RunContextHook().after_context_created(Context()),  # type: ignore[arg-type]
]


def refusal_by_all() -> str:
    sentences = set()
    for ask in ENTRIES:
        with pytest.raises(UserError) as error:
            ask()
        sentences.add(str(error.value))
    assert len(sentences) == 1, sentences
    return sentences.pop()


@pytest.mark.parametrize(
    ("stage", "field", "value", "sentence"),
    [
        ("rl", "iteratons", 3, "the parameter rl.iteratons is unknown; did you mean iterations?"),
        ("rl", "iterations", "three", "the parameter rl.iterations is 'three'"),
        ("rl", "iterations", -3, "the parameter rl.iterations is -3"),
        ("evaluate", "seed", None, "the parameter evaluate.seed is None"),
        ("pretrain", "optimizer", {**ADAMW, "kind": "muon"}, "backend: deepspeed is for kind: adamw"),
        ("sft", "optimizer", ADAMW, "optimizer.zero_stage: 2 sends gradients in the order"),
        ("rl", "optimizer", ADAMW, "optimizer.zero_stage: 2 sends gradients in the order"),
    ],
)
def test_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, field: str, value: object, sentence: str
) -> None:
    Runs(tmp_path, monkeypatch)
    parameters = copy.deepcopy(graph.parameters(PROFILE))
    parameters[stage][field] = value
    monkeypatch.setattr(graph, "parameters", lambda _: parameters)
    assert sentence in refusal_by_all()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return conf/ of a scratch repository, read anew."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for place in ("ROOT", "CODE"):
        monkeypatch.setattr(graph, place, tmp_path)
    monkeypatch.setattr(configuration, "CODE", tmp_path)
    monkeypatch.setattr(graph, "config", functools.cache(graph.config.__wrapped__))
    return tmp_path / "conf"


def test_compute_classes(conf: Path) -> None:
    (conf / "smoke/compute.yml").write_text("cpu: {launcher: local, nodes: 2}\n")
    assert "conf/smoke/compute.yml: class cpu: launcher local has no field nodes" in refusal_by_all()


def test_a_layout_is_refused_by_the_file_that_has_it(conf: Path) -> None:
    (conf / "smoke/compute.yml").write_text("train: {launcher: local, processes: 2, layout: {ep: 4}}\n")
    assert "conf/smoke/compute.yml: class train, field layout: pp 1 times ep 4 must divide" in refusal_by_all()


def test_a_layout_that_would_do_nothing_is_refused(conf: Path) -> None:
    (conf / "smoke/compute.yml").write_text("cpu: {launcher: local, layout: {fp8_storage: true}}\n")
    words = "conf/smoke/compute.yml: class cpu, field layout: no node of this class trains"
    assert words in refusal_by_all()


def test_a_class_of_all_profiles_is_refused_by_their_file(conf: Path) -> None:
    (conf / "base/compute.yml").write_text("cpu: {launcher: ssh}\n")
    assert refusal_by_all().startswith("conf/base/compute.yml: class cpu: the field launcher is 'ssh'")


def test_a_class_of_another_file_is_refused_by_that_one(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = conf / "own.yml"
    own.write_text("cpu: {launcher: slurm}\n")
    monkeypatch.setenv("K2_COMPUTE", str(own))
    assert refusal_by_all().startswith(f"{own}: class cpu: the field time is missing")


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        (
            "smoke/parameters/rl.yml",
            "rl:\n  seed: 1\n  seed: 2\n",
            "smoke/parameters/rl.yml, line 3: the key seed",
        ),
        ("base/compute.yml", "cpu: 1\ncpu: 2\n", "conf/base/compute.yml, line 2: the key cpu occurs twice"),
        ("base/parameters/rl.yml", "rl: [\n", "conf/base/parameters/rl.yml, line 2, is not valid YAML"),
        ("smoke/parameters/rl.yml", "[1, 2]\n", r"conf/smoke/parameters/rl.yml holds [1, 2], not names with values"),
        ("smoke/parameters/rl.yml", "rl: {seed: '${nope}'}\n", "conf/base or conf/smoke, section parameters: "),
        ("smoke/sources.yml", "unversioned: maybe\n", "sources.yml: the field unversioned is"),
    ],
)
def test_files(conf: Path, file: str, text: str, sentence: str) -> None:
    (conf / file).write_text(text)
    with pytest.raises(UserError) as error:
        check_configuration(PROFILE)
    assert sentence in str(error.value)
