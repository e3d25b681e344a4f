"""One process's step beside the same stage's before the trainer was rebuilt (devices, shards, batches: one design)."""

import argparse
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.report import Row
from benchmarks.trainer.turns import Setting, compare
from engine.errors import UserError

ROOT = Path(__file__).parents[2]
BEFORE = "2d98186"
"""The last commit of the trainer before."""
MOST = 1.05


def rows(inputs: Path, arguments: argparse.Namespace) -> list[Row]:
    """Return a row: CPU seconds of a step now over those of the commit before, both in one thread."""
    with TemporaryDirectory() as folder:
        checkout(Path(folder))
        now, before = (Setting(path, arguments.profile, threads=1) for path in (ROOT, Path(folder)))
        ratio, seconds = compare(now, before, inputs, arguments.pairs, arguments.steps, "cpu")
    low, high = ratio.ends
    case = f"a step in one process, ratio {ratio.value:.3f} [{low:.3f}, {high:.3f}] over {arguments.pairs} pairs"
    target = f"interval's end at most {MOST}"
    return [Row(case, seconds["one"], "CPU s", f"commit {BEFORE}", seconds["other"], target, high <= MOST)]


def checkout(folder: Path) -> None:
    """Write the files of the commit before into `folder`. Raises UserError if this clone lacks it."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise UserError(
            f"{ROOT}: git has no commit {BEFORE}, the baseline ({archive.stderr.decode().strip()}): fetch the whole "
            "history, as with `git fetch --unshallow`."
        )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
