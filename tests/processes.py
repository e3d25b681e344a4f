"""Whether processes of a test are gone."""

import time
from pathlib import Path


def is_alive(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(process: int) -> None:
    """Return when a process is gone; pytest's own timeout ends a wait for one that stays."""
    while is_alive(process):
        time.sleep(0.02)
