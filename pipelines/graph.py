"""The graph as all views see it: each stage's nodes, datasets, parameters and code.

Read from kedro.yml, pipelines and catalog; nothing heavy is imported: no torch, no mlflow, no Great Expectations.
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

JUDGES = frozenset({"pipelines.gates"})  # they refuse a table or let it pass as it is; suites count by the catalog
GIVEN = frozenset({"workspace"})  # made by the runner, not by a stage
MERGE = dict.fromkeys(("parameters", "compute", "promotion", "sources"), "soft")  # the base, overlaid key by key
CONFIG_PATTERNS = {"compute": ["compute*"], "gates": ["gates*"], "promotion": ["promotion*"], "sources": ["sources*"]}
_KEY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")


@dataclass(frozen=True)
class StageGraph:
    """One stage: what it reads and makes."""

    name: str
    pipeline: Pipeline
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]


@cache
def stage_graph(stage: str) -> StageGraph:
    """A stage's pipeline with its outer edges: inputs from other stages, kept outputs, parameters read."""
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
    """A section (catalog, parameters, gates …) of a profile's configuration: base, overlaid. Not to be changed."""
    name = load_stages_file().profile(profile)
    try:
        loader = OmegaConfigLoader(  # one a section: Kedro binds ${globals:} to whichever loader was made last
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
                raise UserError(f"{shown} holds {content!r:.40} where names and values are wanted.") from error
        where = f"conf/base or conf/{name}, section {section}"
        raise UserError(f"{where}: {' '.join(str(error).split())[:300]}: correct it.") from error


def catalog_entries(profile: str | None) -> dict[str, dict[str, Any]]:
    """Dataset → its catalog entry, paths relative to the repository."""
    return config(profile, "catalog")


def parameters(profile: str | None) -> dict[str, Any]:
    """All resolved parameters of a profile."""
    return config(profile, "parameters")


def dataset_path(profile: str | None, dataset: str) -> Path:
    """Where a dataset is kept."""
    entries = catalog_entries(profile)
    if dataset not in entries:
        raise UserError(f"conf/base/catalog.yml has no dataset {dataset!r}: choose one of {', '.join(entries)}.")
    return ROOT / str(entries[dataset]["filepath"])


def tracked_path(profile: str | None, dataset: str) -> Path:
    """What DVC tracks of a dataset: itself, or its manifest alone where its payload is kept by hash."""
    path = dataset_path(profile, dataset)
    return path / MANIFEST if is_by_hash(profile, dataset) else path


def is_by_hash(profile: str | None, dataset: str) -> bool:
    """Whether a dataset's files are kept in data/<profile>/.store under their hash."""
    return catalog_entries(profile).get(dataset, {}).get("payload") == "by_hash"


def node(stage: str, name: str) -> Node:
    """Return a node of a stage by its name."""
    return next(node for node in stage_graph(stage).pipeline.nodes if node.name == name)


def has_gates(node: Node) -> bool:
    """Return whether a table that the node makes is judged before it is published."""
    return any("gate" in catalog_entries(None).get(name, {}) for name in node.outputs)


def dataset(profile: str | None, name: str) -> AbstractDataset[Any, Any]:
    """The dataset object of a catalog entry, as the driver has it."""
    path = dataset_path(profile, name)
    return AbstractDataset.from_config(name, {**catalog_entries(profile)[name], "filepath": str(path)})


def root() -> Path:
    """The repository, in which relative paths of parameters begin."""
    return ROOT


def data_folder(profile: str | None) -> Path:
    """data/<profile>."""
    return ROOT / "data" / load_stages_file().profile(profile)


def work_folder(profile: str | None) -> Path:
    """data/<profile>/.work, where stages that are running work: `<stage>/<stage key>/`, and their locks."""
    return data_folder(profile) / ".work"


def work_folders(profile: str | None, stage: str) -> list[Path]:
    """The workspaces of a stage, named by the keys that they were begun under; beside them lie its locks."""
    return sorted(path for path in (work_folder(profile) / stage).glob("*/") if _KEY.fullmatch(path.name))


def runs_folder(profile: str | None, stage: str) -> Path:
    """data/<profile>/.runs/<stage>, where the stage's run records are, and what is kept beside them."""
    return data_folder(profile) / ".runs" / stage


def payload_store(profile: str | None) -> Path:
    """data/<profile>/.store, where payloads are kept by hash."""
    return data_folder(profile) / store.FOLDER


def dvc_file(profile: str) -> Path:
    """The dvc.yaml of a profile: the default one's stands at the root; each has its own dvc.lock beside it."""
    return ROOT / "dvc.yaml" if profile == load_stages_file().default_profile else ROOT / "conf" / profile / "dvc.yaml"


def ledger(profile: str) -> str:
    """The same as DVC wants it: relative to the repository."""
    return dvc_file(profile).relative_to(ROOT).as_posix()


def digest_of(profile: str | None, dataset: str) -> str | None:
    """The content digest of a published dataset; None if it is not there."""
    path = dataset_path(profile, dataset)
    if path.suffix == ".json":
        return digest_bytes(path.read_bytes()) if path.is_file() else None
    return content_digest(path)


def digests_of(profile: str | None, datasets: Iterable[str]) -> dict[str, str]:
    """Return the content digests of the datasets that are there: where some nodes alone ran, not all are."""
    digests = {name: digest_of(profile, name) for name in datasets}
    return {name: digest for name, digest in digests.items() if digest is not None}


def producer(dataset: str) -> str:
    """The stage that makes a dataset."""
    return str(catalog_entries(None)[dataset]["stage"])


def code_of(stage: str, modules: Library | None = None) -> StageCode:
    """The stage's code as this process runs it, or as the `library` given has it, which serves several stages."""
    if modules is None:
        with library() as own:
            return code_of(stage, own)
    graph = stage_graph(stage)
    catalog = {name: _identity_of(catalog_entries(None)[name]) for name in (*graph.inputs, *graph.outputs)}
    stages_file = load_stages_file()
    wiring = stages_file.stage(stage).pipeline
    return stage_code(modules, entry_points(stage), catalog, JUDGES, stages_file.waived, wiring)


def entry_points(stage: str) -> list[str]:
    """Where a stage's code begins: its pipeline, its parameters' model, the classes and tables of its datasets."""
    graph = stage_graph(stage)
    entries = [catalog_entries(None)[name] for name in (*graph.inputs, *graph.outputs)]
    named = {str(entry[field]) for entry in entries for field in ("type", "table") if field in entry}
    return [
        f"{load_stages_file().stage(stage).pipeline}.create_pipeline",
        f"nodes.{stage}.schema.Parameters",
        *sorted(named),
    ]


@contextmanager
def library() -> Iterator[Library]:
    """The modules of the code that this process runs, taken apart with the help of what earlier runs have kept."""
    known = load_known(ROOT)
    before = len(known)
    yield Library(CODE, known)
    save_known(ROOT, known, before)


def parameter_model(stage: str) -> Any:
    """The pydantic model of a stage's parameters (nodes/<stage>/schema.py)."""
    return importlib.import_module(f"nodes.{stage}.schema").Parameters


def _is_parameter(name: str) -> bool:
    return name.startswith("params:") or name == "parameters"


def _identity_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A catalog entry without its place (which is no identity), with the suite that it names."""
    kept = {name: value for name, value in entry.items() if name not in {"filepath", "payload"}}
    if gate := entry.get("gate"):
        kept["suite"] = config(None, "gates").get(gate)
    return kept
