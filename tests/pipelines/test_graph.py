"""kedro.yml, pipelines and catalog agree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kedro.pipeline import Node, Pipeline
from kedro.validation.type_extractor import TypeExtractor
from pydantic import BaseModel

from engine.errors import UserError
from engine.identity.library import Library
from engine.identity.reach import reach
from engine.yaml_file import read_yaml
from pipelines import graph
from pipelines.stages_file import COMPUTE_CLASSES, ROOT, load_stages_file

if TYPE_CHECKING:
    import polars as pl

STAGES = tuple(load_stages_file().stages)


@pytest.mark.parametrize("stage", STAGES)
def test_every_output_is_kept_under_its_stage(stage: str) -> None:
    outline = graph.stage_graph(stage)
    outputs = {name for node in outline.pipeline.nodes for name in node.outputs}
    assert outputs == set(outline.outputs), (
        "an output that the catalog does not keep would leave consumers silently stale"
    )
    for name in outline.outputs:
        assert graph.producer(name) == stage
        assert graph.dataset_path("laptop", name).parent == graph.data_folder("laptop") / stage
    assert f"{stage}_metrics" in outline.outputs
    assert outline.parameters == (stage,)


def test_every_dataset_is_made_once_and_before_it_is_read() -> None:
    outputs: list[str] = []
    for stage in STAGES:
        outline = graph.stage_graph(stage)
        assert set(outline.inputs) <= set(outputs), f"{stage} reads what no earlier stage makes"
        outputs += outline.outputs
    assert sorted(outputs) == sorted(graph.catalog_entries(None))


def test_a_stages_artifacts_stand_in_a_file_of_its_name() -> None:
    for stage in STAGES:
        entries = read_yaml(ROOT / "conf" / "base" / "catalog" / f"{stage}.yml", "catalog")
        assert [entry["stage"] for entry in entries.values()] == [stage] * len(entries)
        assert set(entries) == set(graph.stage_graph(stage).outputs)


def test_the_catalog_has_the_order_of_the_stages_however_its_files_are_found(monkeypatch) -> None:
    backwards = dict(reversed(graph.config(None, "catalog").items()))
    monkeypatch.setattr(graph, "config", lambda *_: backwards)
    entries = graph.catalog_entries.__wrapped__(None)
    assert list(dict.fromkeys(entry["stage"] for entry in entries.values())) == list(STAGES)


def test_an_artifact_of_an_unknown_stage_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setattr(graph, "config", lambda *_: {"merged_checkpoint": {"stage": "merge"}})
    with pytest.raises(UserError, match=r"conf/base/catalog, dataset merged_checkpoint: stage is 'merge'.*name one of"):
        graph.catalog_entries.__wrapped__(None)


def test_every_node_has_a_compute_class_and_one_stage() -> None:
    for stage in STAGES:
        for node in graph.stage_graph(stage).pipeline.nodes:
            assert stage in node.tags
            assert len([tag for tag in node.tags if tag in COMPUTE_CLASSES]) <= 1
            assert [tag for tag in node.tags if tag in STAGES] == [stage]


def test_profiles_keep_apart() -> None:
    paths = [
        graph.dataset_path(profile, name)
        for profile in load_stages_file().profiles
        for name in graph.catalog_entries(profile)
    ]
    assert len(set(paths)) == len(paths)


def test_no_stage_imports_what_reads_docstrings_or_annotations() -> None:
    """If a module of ours could read them, an edit of any docstring would make the stage stale."""
    modules = Library(ROOT)
    for stage in STAGES:
        reached = reach(modules, graph.entry_points(stage), graph.JUDGES).modules.values()
        assert not [module.name for module in reached if module.reads_text], stage


class Model(BaseModel):
    """A model that Kedro builds from a parameter annotated with it."""

    rate: float = 1.0


@dataclass
class Settings:
    """A dataclass that Kedro builds from a parameter annotated with it."""

    rate: float = 1.0


def models_of(function: Callable[..., object]) -> dict[str, Any]:
    """Return the models that Kedro would build for the parameters of this function's node."""
    pipeline = Pipeline([Node(function, inputs=["params:x"], outputs="y", name="node")])
    return TypeExtractor({"stage": pipeline}).extract_types_from_pipelines()


def test_of_all_annotations_kedro_acts_on_models_alone() -> None:
    """So a stage's code need not include other annotations (engine/identity/reach.py)."""

    def model(x: Model) -> None: ...
    def perhaps(x: "Model | None") -> None: ...
    def settings(x: Settings) -> None: ...
    def plain(x: dict[str, Any]) -> None: ...
    def text(x: str) -> Path: ...
    def frame(x: "pl.LazyFrame") -> None: ...
    def rows(x: "Path | None") -> Iterator[int]: ...
    def unknown(x: Model, y: "pl.LazyFrame" = None) -> None: ...  # type: ignore[assignment] # read, never called

    assert [models_of(function)["x"] for function in (model, perhaps, settings)] == [Model, Model | None, Settings]
    assert [models_of(function) for function in (plain, text, frame, rows, unknown)] == [{}] * 5


def test_no_node_of_ours_has_a_model_made_of_its_parameters() -> None:
    pipelines = {stage: graph.stage_graph(stage).pipeline for stage in STAGES}
    assert TypeExtractor(pipelines).extract_types_from_pipelines() == {}
