"""Kedro's registry: one pipeline for each stage of kedro.yml, and all of them together as the default."""

import importlib

from kedro.pipeline import Pipeline

from pipelines.internals import requested_pipelines
from pipelines.stages_file import load_stages_file


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines that Kedro requests by name, or all of them, with each node tagged by its stage."""
    requested = requested_pipelines()
    everything = not requested or "__default__" in requested
    names = [name for name in load_stages_file().stages if everything or name in requested]
    pipelines = {name: stage_pipeline(name) for name in names}
    if everything:
        pipelines["__default__"] = sum(pipelines.values(), Pipeline([]))
    return pipelines


def stage_pipeline(stage: str) -> Pipeline:
    """Return one stage's pipeline."""
    module = importlib.import_module(load_stages_file().module(stage))
    return Pipeline(module.create_pipeline(), tags=[stage])
