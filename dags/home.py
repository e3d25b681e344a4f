"""Which profile Dagster looks at, and where its own state stands."""

import os
from pathlib import Path

from pipelines.stages_file import ROOT, load_stages_file

PROFILE_VARIABLE = "K2_PROFILE"


def chosen_profile() -> str:
    """The profile that K2_PROFILE names; the default one without it."""
    return load_stages_file().profile(os.environ.get(PROFILE_VARIABLE) or None)


def dagster_home(profile: str) -> Path:
    """Dagster's folder for one profile (events of one profile never mix with another's); not in git."""
    return ROOT / ".dagster" / profile
