"""Kedro's settings for this project."""

from pipelines.graph import CONFIG_PATTERNS, MERGE
from pipelines.hooks import RunContextHook
from pipelines.manifest import load_manifest

HOOKS = (RunContextHook(),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": load_manifest().default_profile,
    "config_patterns": CONFIG_PATTERNS,
    "merge_strategy": MERGE,
}
