"""The wiring: one Kedro pipeline a stage, and the faces that run, gate, track and explain it."""

import getpass
import os
import warnings
from pathlib import Path

# OmegaConf 2.4 (pinned: earlier ones break Dagster's parser) renamed what Kedro 1.7 calls; nothing a user can act on.
warnings.filterwarnings("ignore", message=r"\s*register_new_resolver\(\) is deprecated")


def name_and_home() -> dict[str, str]:
    """Return variables for a user whom the machine does not know, such as a number that a container was started with.

    DVC, Great Expectations and torch ask for name and home, and stop where there is neither.
    """
    given: dict[str, str] = {}
    try:
        Path.home()
    except RuntimeError:
        given["HOME"] = str(Path(__file__).resolve().parent.parent / ".cache" / "home")
    try:
        getpass.getuser()
    except (KeyError, OSError):
        given["USER"] = f"uid{os.getuid()}"
    return given


os.environ |= name_and_home()
