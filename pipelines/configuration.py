"""What a run refuses before its first stage, checked in one place for whoever asks: run, plan, why, Dagster, code."""

import os
from typing import Any

from engine.launch.compute import COMPUTE, check_compute, overlaid
from engine.training.position import close_is_enough
from pipelines import graph
from pipelines.parameters import check_parameters
from pipelines.sources import source_settings
from pipelines.stages_file import COMPUTE_CLASSES


def check_configuration(profile: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Check everything that conf/ says of a profile, and return its compute classes.

    What parameters name (files, addresses) is looked at where a stage's key is made, `pipelines.sources`.

    Args:
        profile: whose.
        parameters: those of a run, where its command line may have changed some; else the profile's.

    Raises:
        UserError: a file is malformed; a parameter, a compute class or a setting is unknown, missing or wrong.

    """
    check_parameters(graph.parameters(profile) if parameters is None else parameters, profile)
    source_settings(profile)
    compute = compute_classes(profile)
    check_compute(compute, COMPUTE_CLASSES)
    close_is_enough()
    return compute


def compute_classes(profile: str) -> dict[str, Any]:
    """Return a profile's compute classes as they are written, those of K2_COMPUTE's file in their place."""
    return overlaid(graph.config(profile, "compute"), os.environ.get(COMPUTE))
