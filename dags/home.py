"""Which profile Dagster looks at, and where its own state stands."""

import os
from pathlib import Path

from pipelines.manifest import ROOT, load_manifest

PROFILE_VARIABLE = "K2_PROFILE"


def chosen_profile() -> str:
    """The profile that K2_PROFILE names; the default one without it."""
    return load_manifest().profile(os.environ.get(PROFILE_VARIABLE) or None)


def dagster_home(profile: str) -> Path:
    """Dagster's folder for one profile (events of one profile never mix with another's); not in git."""
    return ROOT / ".dagster" / profile
