"""The checks of conf/ before a run's first stage, in one place for run, plan, why, Dagster and the code stage."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from kedro.pipeline.node import Node

from engine.errors import UserError
from engine.launch.compute import COMPUTE, check_compute, check_layouts, compute_class, overlaid
from engine.parallel.layout import WHOLE
from engine.training.position import close_is_enough
from engine.yaml_file import read_yaml
from pipelines import graph
from pipelines.dispatch import PARALLEL
from pipelines.parameters import check_parameters
from pipelines.sources import source_settings
from pipelines.stages_file import CODE, COMPUTE_CLASSES, load_stages_file


def check_configuration(profile: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check all that conf/ says about a profile, and return the profile's compute classes.

    The files and addresses that parameters name are checked where a stage's key is made, in `pipelines.sources`.

    Args:
        profile: the profile's name.
        parameters: those of a run, whose command line may have changed some; None for the profile's own.

    Raises:
        UserError: a file is malformed; a parameter, a compute class or a setting is unknown, missing or wrong.

    """
    parameters = graph.parameters(profile) if parameters is None else parameters
    check_parameters(parameters, profile)
    source_settings(profile)
    compute = compute_classes(profile)
    file_of = partial(_file_of, profile)
    check_compute(compute, COMPUTE_CLASSES, file_of)
    model = parameters["pretrain"]["model"]  # which all training stages continue
    _check_layouts_are_used(compute, file_of)
    check_layouts(compute, COMPUTE_CLASSES, model["num_hidden_layers"], model["n_routed_experts"], file_of)
    close_is_enough()
    return compute


def _check_layouts_are_used(compute: dict[str, Any], file_of: Callable[[str], str]) -> None:
    """Refuse the layout of a class of which no node trains in ranks."""
    nodes = [(stage, node) for stage in load_stages_file().stages for node in graph.stage_graph(stage).pipeline.nodes]
    used = {class_name(stage, node) for stage, node in nodes if PARALLEL in node.tags}
    for name in (name for name in COMPUTE_CLASSES if name not in used):
        if compute_class(compute, name, file_of).layout != WHOLE:
            raise UserError(
                f"{file_of(name)}: class {name}, field layout: no node of this class trains, so it would do nothing; "
                f"take it out, or write it into class {' or '.join(sorted(used))}."
            )


def compute_classes(profile: str) -> dict[str, Any]:
    """Return a profile's compute classes as written, overlaid by those of the file that K2_COMPUTE names."""
    return overlaid(graph.config(profile, "compute"), os.environ.get(COMPUTE))


def class_name(stage: str, node: Node) -> str:
    """Return the compute class of a stage's node: its own (a tag), else its stage's."""
    own = [name for name in COMPUTE_CLASSES if name in node.tags]
    return own[0] if own else load_stages_file().stage(stage).compute


def class_place(profile: str, stage: str, node: Node) -> str:
    """Return where a refusal says that the compute class of a node is: the file, and the class in it."""
    name = class_name(stage, node)
    return f"{_file_of(profile, name)}: class {name}"


def _file_of(profile: str, name: str) -> str:
    """Return the file that has a compute class of a profile: where several have it, the one that counts."""
    replacing = os.environ.get(COMPUTE, "")
    if name in overlaid({}, replacing):
        return replacing
    own = f"conf/{profile}/compute.yml"
    written = read_yaml(CODE / own, own) if (CODE / own).is_file() else {}
    return own if isinstance(written, dict) and name in written else "conf/base/compute.yml"
