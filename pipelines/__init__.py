"""The wiring: one Kedro pipeline for each stage, and the commands that run, gate, track and explain it."""

import getpass
import os
import warnings
from pathlib import Path

# OmegaConf 2.4 (pinned: earlier ones break Dagster's parser) renamed what Kedro 1.7 calls: nothing that concerns users.
warnings.filterwarnings("ignore", message=r"\s*register_new_resolver\(\) is deprecated")


def name_and_home() -> dict[str, str]:
    """Return variables for a user whom the machine does not know, such as a number that a container was started with.

    DVC, Great Expectations and torch ask for name and home, and stop where there is neither.
    """
    variables: dict[str, str] = {}
    try:
        Path.home()
    except RuntimeError:
        variables["HOME"] = str(Path(__file__).resolve().parent.parent / ".cache" / "home")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        variables["USER"] = f"uid{os.getuid()}"
    return variables


os.environ |= name_and_home()
