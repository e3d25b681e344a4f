"""The profile that Dagster shows, and the folder of its own state."""

import os
from pathlib import Path

from pipelines.stages_file import ROOT, load_stages_file

PROFILE_VARIABLE = "K2_PROFILE"


def chosen_profile() -> str:
    """Return the profile that K2_PROFILE names, or the default one."""
    return load_stages_file().profile(os.environ.get(PROFILE_VARIABLE) or None)


def dagster_home(profile: str) -> Path:
    """Return Dagster's folder for one profile, so that events of profiles never mix; git ignores it."""
    return ROOT / ".dagster" / profile
