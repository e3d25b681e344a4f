"""The checks of conf/ before a run's first stage, in one place for run, plan, why, Dagster and the code stage."""

import os
from typing import Any

from engine.launch.compute import COMPUTE, check_compute, check_layouts, overlaid
from engine.training.position import close_is_enough
from pipelines import graph
from pipelines.parameters import check_parameters
from pipelines.sources import source_settings
from pipelines.stages_file import COMPUTE_CLASSES


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
    check_compute(compute, COMPUTE_CLASSES)
    model = parameters["pretrain"]["model"]  # which all training stages continue
    check_layouts(compute, COMPUTE_CLASSES, model["num_hidden_layers"], model["n_routed_experts"])
    close_is_enough()
    return compute


def compute_classes(profile: str) -> dict[str, Any]:
    """Return a profile's compute classes as written, overlaid by those of the file that K2_COMPUTE names."""
    return overlaid(graph.config(profile, "compute"), os.environ.get(COMPUTE))
