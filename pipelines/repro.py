"""`dvc repro` in turn: what is stale of a profile, or one stage, after whoever else works on the same ledger.

    python -m pipelines.repro --env laptop [--stage sft] [--force]

DVC lets a second `dvc repro` fail ("is busy") while the first one runs a stage. The ledger stays whole then, but nobody
wants to type it again: so every entry of ours waits its turn here. This process becomes DVC, and the turn ends with it.
"""

import argparse
import fcntl
import os
import sys
from typing import NoReturn

from pipelines import graph
from pipelines.errors import report_errors
from pipelines.manifest import ROOT, load_manifest


def command(profile: str, stage: str | None = None, force: bool = False) -> list[str]:
    """The words after `python -m` that bring a profile, or one stage of it, up to date."""
    file = graph.ledger(profile)
    targets = ["-s", f"{file}:code", f"{file}:{stage}"] if stage else [file]
    return ["dvc", "--wait-for-lock", "repro", *(["-f"] if force else []), *targets]


def take_turn(profile: str) -> int:
    """Wait until nobody else works on the profile's ledger; the open lock, which is inherited over exec."""
    path = graph.data_folder(profile) / ".work" / "ledger.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(held, 32).decode() or "unknown"
        print(f"process {owner} works on {graph.ledger(profile)}; waiting for it", file=sys.stderr, flush=True)
        fcntl.flock(held, fcntl.LOCK_EX)
    os.truncate(held, 0)
    os.pwrite(held, str(os.getpid()).encode(), 0)
    os.set_inheritable(held, True)
    return held


def main() -> NoReturn:
    """Wait, then become `dvc repro`."""
    parser = argparse.ArgumentParser(description="dvc repro, after whoever else works on the ledger.")
    parser.add_argument("--env", default=None, help="profile")
    parser.add_argument("--stage", default=None, help="only this one")
    parser.add_argument("--force", action="store_true", help="run it even if nothing changed")
    asked = parser.parse_args()
    with report_errors():
        profile = load_manifest().profile(asked.env)
        if asked.stage:
            load_manifest().stage(asked.stage)
        take_turn(profile)
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", *command(profile, asked.stage, asked.force)])


if __name__ == "__main__":
    main()
