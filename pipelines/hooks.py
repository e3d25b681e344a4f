"""Kedro's hooks: they check parameters before any node starts, and give the runner its profile."""

import time
from dataclasses import dataclass, field
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline.node import Node

from pipelines.configuration import check_configuration

RUN_CONTEXT = "run_context"
WORKSPACE = "workspace"
FRESH, DETACH, DRY_RUN = "K2_FRESH", "K2_DETACH", "K2_DRY_RUN"
"""Variables that carry `--fresh`, `--detach` and `--dry-run` to the runner, since Kedro passes no option of ours on."""


FORCED = "K2_FORCED"
"""The variable that is set for a stage which DVC was told to run whatever was made before."""


@dataclass(frozen=True)
class RunContext:
    """The facts about a run that the runner needs besides pipeline and catalog."""

    profile: str
    compute: dict[str, Any]
    node_seconds: dict[str, float] = field(default_factory=dict)  # in the node functions alone, added as they end


class RunContextHook:
    """Checks all parameters, puts the run's context into the catalog, and times the node functions."""

    def __init__(self) -> None:
        self._context: RunContext | None = None
        self._begun = 0.0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the profile; refuse bad parameters and compute classes by name, before any stage starts."""
        profile = str(context.env)
        self._context = RunContext(profile, check_configuration(profile, context.params))

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, parameters: dict[str, Any]) -> None:
        """Hand the context to the runner, and have parameters copied as plain data.

        Kedro would import pandas to see whether they are data frames, which takes half a second in every stage.
        """
        for name, value in parameters.items():
            catalog[name] = MemoryDataset(value, copy_mode="deepcopy")
        catalog[RUN_CONTEXT] = MemoryDataset(self._context, copy_mode="assign")
        catalog[WORKSPACE] = MemoryDataset(copy_mode="assign")  # the runner puts each stage's own there

    @hook_impl
    def before_node_run(self) -> None:
        """Start the clock: the node's inputs are loaded, its function is called next."""
        self._begun = time.monotonic()

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Stop the clock: the node's function has returned, its outputs are not saved yet."""
        if self._context is not None:
            self._context.node_seconds[node.name] = round(time.monotonic() - self._begun, 3)
