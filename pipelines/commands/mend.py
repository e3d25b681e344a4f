"""`make mend`: move files of a profile that cannot be read to data/<profile>/.damaged/, out of every command's way.

A damaged run record counts as no record: the stage counts as not run under that key, and its outputs stay. In work in
progress, a node's hand-over is made again from its last checkpoint. DVC writes its ledger anew. Nothing is deleted.

    python -m pipelines.commands.mend --env laptop
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.artifacts.files import read_object
from engine.errors import UserError
from engine.identity.records import BEGUN, read_record
from engine.launch import exchange
from engine.remedy import command
from pipelines import dispatch, graph
from pipelines.errors import report_errors
from pipelines.ledger import ledger_path, read_ledger
from pipelines.stages_file import ROOT, load_stages_file

ASIDE = ".damaged"
"""The folder of data/<profile> to which damaged files move, each with the path that it had."""

WATCHED: dict[str, Callable[[Path], object]] = {
    ".runs/*/*.json": read_record,
    ".runs/*/gates/*.json": read_object,
    f".work/*/*/{BEGUN}": read_object,
    f".work/*/*/{exchange.FOLDER}/*.json": read_object,
    f".work/*/*/{dispatch.JOBS}/**/*.json": read_object,
}
"""Files of data/<profile> that are always replaced whole: one that cannot be read is damaged, not half written."""


def damaged(profile: str) -> Iterator[Path]:
    """Yield a profile's dvc.lock and JSON files of run records, gate reports and work in progress that are damaged."""
    folder = graph.data_folder(profile)
    if not _is_sound(ledger_path(profile), lambda _: read_ledger(profile)):
        yield ledger_path(profile)
    for pattern, read in WATCHED.items():
        yield from (path for path in sorted(folder.glob(pattern)) if not _is_sound(path, read))


def _is_sound(path: Path, read: Callable[[Path], object]) -> bool:
    try:
        read(path)
    except FileNotFoundError:  # finished and removed since the listing
        return True
    except UserError:
        return False
    return True


def move_aside(profile: str) -> list[Path]:
    """Move damaged files aside and return their new paths."""
    folder, moved = graph.data_folder(profile), []
    for path in list(damaged(profile)):
        below = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        aside = folder / ASIDE / below
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, aside)
        moved.append(aside)
    return moved


def main() -> None:
    """Move damaged files aside and print their new paths."""
    parser = argparse.ArgumentParser(description="Move files that cannot be read out of the way.")
    parser.add_argument("--env", default=None, help="profile")
    with report_errors():
        profile = load_stages_file().profile(parser.parse_args().env)
        moved = move_aside(profile)
        for path in moved:
            print(f"moved to {path.relative_to(ROOT)}")
        print(f"{len(moved)} damaged files of profile {profile}; `{command('plan', profile)}` shows the effect")


if __name__ == "__main__":
    main()
