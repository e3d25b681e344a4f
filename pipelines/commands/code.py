"""The `code` stage: write each stage's code file anew where it is out of date (pipelines/code_files.py).

DVC runs it before all others. Under DVC, missing outputs are also restored from DVC's cache, all outputs are kept in
the store, and those that `dvc pull` brought get a run record (pipelines/taken_in.py).

    python -m pipelines.commands.code --env laptop
"""

import argparse
import importlib
import os
import sys

from engine.identity import snapshot
from pipelines.code_files import write_files
from pipelines.errors import report_errors
from pipelines.restore import restore_missing, settle
from pipelines.stages_file import ROOT, load_stages_file
from pipelines.taken_in import take_in_pulled


def main() -> None:
    """Write all code files of a profile, from the snapshot that its stages will run from, where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--env", default=None, help="profile")
    arguments = parser.parse_args()
    with report_errors():
        if snapshot.GIVEN in os.environ:
            snapshot.enter(ROOT)
    importlib.import_module("pipelines.commands.code").refresh(arguments.env)


def refresh(profile: str | None) -> None:
    """Write all code files of a profile, and under DVC restore missing outputs, keep and record all."""
    with report_errors():
        profile = load_stages_file().profile(profile)
        write_files(profile)
        if "DVC_STAGE" in os.environ:
            restore_missing(profile)
            settle(profile)
            if stages := take_in_pulled(profile):
                print(f"run records of what dvc pull brought: {', '.join(stages)}", file=sys.stderr)


if __name__ == "__main__":
    main()
