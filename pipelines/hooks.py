"""What Kedro calls: parameters are checked before any node starts, and the runner learns its profile."""

from dataclasses import dataclass
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, MemoryDataset

from pipelines.parameters import check_parameters

RUN_CONTEXT = "run_context"


@dataclass(frozen=True)
class RunContext:
    """What the runner needs to know of the run besides pipeline and catalog."""

    profile: str
    compute: dict[str, Any]


class RunContextHook:
    """Checks all parameters and puts the run's context into the catalog."""

    def __init__(self) -> None:
        self._context: RunContext | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember the profile; refuse bad parameters by name."""
        profile = str(context.env)
        check_parameters(context.params, profile)
        self._context = RunContext(profile, dict(context.config_loader["compute"]))

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Hand the context to the runner."""
        catalog[RUN_CONTEXT] = MemoryDataset(self._context, copy_mode="assign")
