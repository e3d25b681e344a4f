"""Kedro's registry: one pipeline a stage, as kedro.yml lists them, and all of them as the default."""

import importlib

from kedro.pipeline import Pipeline

from pipelines.internals import requested_pipelines
from pipelines.stages_file import load_stages_file


def register_pipelines() -> dict[str, Pipeline]:
    """The pipelines that were asked for by name, or all of them, each node tagged with its stage."""
    requested = requested_pipelines()
    everything = not requested or "__default__" in requested
    names = [name for name in load_stages_file().stages if everything or name in requested]
    found = {name: stage_pipeline(name) for name in names}
    if everything:
        found["__default__"] = sum(found.values(), Pipeline([]))
    return found


def stage_pipeline(stage: str) -> Pipeline:
    """One stage's pipeline."""
    module = importlib.import_module(load_stages_file().stage(stage).pipeline)
    return Pipeline(module.create_pipeline(), tags=[stage])
