"""Measure `dvc repro` with nothing to do over the smoke graph, and the fingerprints' share of it."""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.control.clock import measure
from benchmarks.report import Row
from engine.errors import UserError
from pipelines.stages_file import load_stages_file
from tests.project import ENVIRONMENT, LEDGER, Project

MOST_SECONDS, MOST_FINGERPRINTS = 5.0, 0.5
FINGERPRINTS = """
import time
from pipelines import graph
from pipelines.stages_file import load_stages_file
graph.catalog_entries(None), graph.config(None, "gates")
begun = time.perf_counter()
with graph.library() as modules:  # one for all stages, as the stage `code` has it
    for stage in load_stages_file().stages:
        graph.code_of(stage, modules)
print(time.perf_counter() - begun)
"""


def rows(repeats: int) -> list[Row]:
    """Return a row for the whole no-op, and one for its fingerprints without start-up."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        project.repro()
        ran = project.runs()
        whole = statistics.median(
            measure(["dvc", "repro", LEDGER], project.path, ENVIRONMENT)[0] for _ in range(repeats)
        )
        if project.ran_since(ran):
            raise UserError(f"`dvc repro` ran {', '.join(project.ran_since(ran))} again: it was no no-op.")
        share = statistics.median(_fingerprints(project) for _ in range(repeats))
    stages = len(load_stages_file().stages)
    case = f"`dvc repro` with nothing to do, {stages} stages"
    return [
        Row(case, whole, "s", "limit", MOST_SECONDS, "at most 5 s", whole <= MOST_SECONDS),
        Row("  of it fingerprints", share, "s", "the whole", whole, "at most 0.5 s", share <= MOST_FINGERPRINTS),
    ]


def _fingerprints(project: Project) -> float:
    command = [sys.executable, "-c", FINGERPRINTS]
    process = subprocess.run(command, cwd=project.path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return float(process.stdout)
