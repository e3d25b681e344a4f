"""The graph that all views share: each stage's nodes, datasets, parameters and code.

It is read from kedro.yml, pipelines and catalog without heavy imports: no torch, mlflow or Great Expectations.
"""

import importlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.io import AbstractDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from engine.artifacts import store
from engine.artifacts.files import digest_bytes
from engine.artifacts.manifest import MANIFEST, content_digest
from engine.errors import UserError
from engine.identity.fingerprint import StageCode, stage_code
from engine.identity.key import KEY_LENGTH
from engine.identity.library import Library, load_known, save_known
from engine.yaml_file import read_yaml
from pipelines.pipeline_registry import stage_pipeline
from pipelines.stages_file import CODE, ROOT, load_stages_file

JUDGES = frozenset({"pipelines.gates"})  # they change no table; the catalog names their suites
GIVEN = frozenset({"workspace"})  # inputs that the runner makes, not a stage
MERGE = dict.fromkeys(
    ("parameters", "compute", "promotion", "sources"), "soft"
)  # sections overlaid on the base key by key
CONFIG_PATTERNS = {"compute": ["compute*"], "gates": ["gates*"], "promotion": ["promotion*"], "sources": ["sources*"]}
_KEY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True)
class StageGraph:
    """One stage's pipeline, inputs, outputs and parameters."""

    name: str
    pipeline: Pipeline
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]


@cache
def stage_graph(stage: str) -> StageGraph:
    """Return a stage's pipeline with its inputs from other stages, its published outputs and its parameters."""
    pipeline = stage_pipeline(stage)
    free = pipeline.inputs()
    return StageGraph(
        name=stage,
        pipeline=pipeline,
        inputs=tuple(sorted(name for name in free if not _is_parameter(name) and name not in GIVEN)),
        outputs=tuple(name for node in pipeline.nodes for name in node.outputs if name in catalog_entries(None)),
        parameters=tuple(sorted(name.removeprefix("params:") for name in free if _is_parameter(name))),
    )


@cache
def config(profile: str | None, section: str) -> dict[str, Any]:
    """Return a section (catalog, parameters, gates …) of a profile's configuration, overlaid on the base; read-only."""
    name = load_stages_file().profile(profile)
    try:
        loader = OmegaConfigLoader(  # one for each section: Kedro binds ${globals:} to the loader made last
            conf_source=str(CODE / "conf"),
            base_env="base",
            env=name,
            default_run_env=name,
            config_patterns=CONFIG_PATTERNS,
            merge_strategy=MERGE,
        )
        return dict(loader[section])
    except Exception as error:  # what YAML, OmegaConf and Kedro raise has no common base, and often names no file
        for path in sorted(path for env in ("base", name) for path in (CODE / "conf" / env).rglob("*.yml")):
            shown = path.relative_to(CODE).as_posix()
            if not isinstance(content := read_yaml(path, shown), dict | None):
                raise UserError(f"{shown} holds {content!r:.40}, not names with values.") from error
        where = f"conf/base or conf/{name}, section {section}"
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}: correct it.") from error


@cache
def catalog_entries(profile: str | None) -> dict[str, dict[str, Any]]:
    """Return the catalog, dataset → entry, with paths relative to the repository, in the order of the stages."""
    order = {stage: place for place, stage in enumerate(load_stages_file().stages)}
    entries = config(profile, "catalog")
    for dataset, entry in entries.items():
        if entry.get("stage") not in order:
            raise UserError(
                f"conf/base/catalog, dataset {dataset}: stage is {entry.get('stage')!r}, which is not in kedro.yml: "
                f"name one of {', '.join(order)}."
            )
    return dict(sorted(entries.items(), key=lambda item: order[item[1]["stage"]]))


def parameters(profile: str | None) -> dict[str, Any]:
    """Return all resolved parameters of a profile."""
    return config(profile, "parameters")


def dataset_path(profile: str | None, dataset: str) -> Path:
    """Return the path of a dataset."""
    entries = catalog_entries(profile)
    if dataset not in entries:
        raise UserError(f"conf/base/catalog has no dataset {dataset!r}: choose one of {', '.join(entries)}.")
    return ROOT / str(entries[dataset]["filepath"])


def tracked_path(profile: str | None, dataset: str) -> Path:
    """Return the path that DVC tracks: the dataset's own, or its manifest's where the payload is kept by hash."""
    path = dataset_path(profile, dataset)
    return path / MANIFEST if is_by_hash(profile, dataset) else path


def is_by_hash(profile: str | None, dataset: str) -> bool:
    """Return whether a dataset's files are kept in data/<profile>/.store under their hash."""
    return catalog_entries(profile).get(dataset, {}).get("payload") == "by_hash"


def node(stage: str, name: str) -> Node:
    """Return a node of a stage by its name."""
    return next(node for node in stage_graph(stage).pipeline.nodes if node.name == name)


def has_gates(node: Node) -> bool:
    """Return whether a table that the node makes is judged before it is published."""
    return any("gate" in catalog_entries(None).get(name, {}) for name in node.outputs)


def dataset(profile: str | None, name: str) -> AbstractDataset[Any, Any]:
    """Return the dataset object of a catalog entry, as the driver has it."""
    path = dataset_path(profile, name)
    return AbstractDataset.from_config(name, {**catalog_entries(profile)[name], "filepath": str(path)})


def root() -> Path:
    """Return the repository's path, to which paths in parameters are relative."""
    return ROOT


def data_folder(profile: str | None) -> Path:
    """Return data/<profile>."""
    return ROOT / "data" / load_stages_file().profile(profile)


def work_folder(profile: str | None) -> Path:
    """Return data/<profile>/.work, with the workspaces of running stages, `<stage>/<stage key>/`, and their locks."""
    return data_folder(profile) / ".work"


def work_folders(profile: str | None, stage: str) -> list[Path]:
    """Return the workspaces of a stage, each named by its key; the stage's locks lie beside them."""
    return sorted(path for path in (work_folder(profile) / stage).glob("*/") if _KEY.fullmatch(path.name))


def runs_folder(profile: str | None, stage: str) -> Path:
    """Return data/<profile>/.runs/<stage>, with the stage's run records and the files kept beside them."""
    return data_folder(profile) / ".runs" / stage


def payload_store(profile: str | None) -> Path:
    """Return data/<profile>/.store, which keeps payloads by hash."""
    return data_folder(profile) / store.FOLDER


def dvc_file(profile: str) -> Path:
    """Return the path of a profile's dvc.yaml, the default one's at the root; each has its own dvc.lock beside it."""
    return ROOT / "dvc.yaml" if profile == load_stages_file().default_profile else ROOT / "conf" / profile / "dvc.yaml"


def ledger(profile: str) -> str:
    """Return the path of a profile's dvc.yaml relative to the repository, as DVC wants it."""
    return dvc_file(profile).relative_to(ROOT).as_posix()


def digest_of(profile: str | None, dataset: str) -> str | None:
    """Return the content digest of a published dataset; None if it is missing."""
    path = dataset_path(profile, dataset)
    if path.suffix == ".json":
        return digest_bytes(path.read_bytes()) if path.is_file() else None
    return content_digest(path)


def digests_of(profile: str | None, datasets: Iterable[str]) -> dict[str, str]:
    """Return the content digests of the datasets that exist: after a run of some nodes only, not all do."""
    digests = {name: digest_of(profile, name) for name in datasets}
    return {name: digest for name, digest in digests.items() if digest is not None}


def producer(dataset: str) -> str:
    """Return the stage that makes a dataset."""
    return str(catalog_entries(None)[dataset]["stage"])


def code_of(stage: str, modules: Library | None = None) -> StageCode:
    """Return the stage's code as this process runs it; one library of `modules` serves several stages."""
    if modules is None:
        with library() as own:
            return code_of(stage, own)
    graph = stage_graph(stage)
    catalog = {name: _identity_of(catalog_entries(None)[name]) for name in (*graph.inputs, *graph.outputs)}
    stages_file = load_stages_file()
    wiring = stages_file.module(stage)
    return stage_code(modules, entry_points(stage), catalog, JUDGES, stages_file.waived, wiring)


def entry_points(stage: str) -> list[str]:
    """Return the entry points of a stage's code: pipeline, parameters' model, classes and tables of its datasets."""
    graph = stage_graph(stage)
    entries = [catalog_entries(None)[name] for name in (*graph.inputs, *graph.outputs)]
    classes = {str(entry[field]) for entry in entries for field in ("type", "table") if field in entry}
    return [
        f"{load_stages_file().module(stage)}.create_pipeline",
        f"nodes.{stage}.schema.Parameters",
        *sorted(classes),
    ]


@contextmanager
def library() -> Iterator[Library]:
    """Yield the parsed modules of the code that this process runs, from the cache of earlier runs where possible."""
    known = load_known(ROOT)
    before = len(known)
    yield Library(CODE, known)
    save_known(ROOT, known, before)


def parameter_model(stage: str) -> Any:
    """Return the pydantic model of a stage's parameters (nodes/<stage>/schema.py)."""
    return importlib.import_module(f"nodes.{stage}.schema").Parameters


def _is_parameter(name: str) -> bool:
    return name.startswith("params:") or name == "parameters"


def _identity_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a catalog entry without its path (no part of its identity), with the suite that it names."""
    identity = {name: value for name, value in entry.items() if name not in {"filepath", "payload"}}
    if gate := entry.get("gate"):
        identity["suite"] = config(None, "gates").get(gate)
    return identity
