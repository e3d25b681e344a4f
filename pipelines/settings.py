"""Kedro's settings for this project."""

from pipelines.graph import CONFIG_PATTERNS, MERGE
from pipelines.hooks import RunContextHook
from pipelines.stages_file import load_stages_file

HOOKS = (RunContextHook(),)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": load_stages_file().default_profile,
    "config_patterns": CONFIG_PATTERNS,
    "merge_strategy": MERGE,
}
