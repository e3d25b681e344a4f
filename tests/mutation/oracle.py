"""The stages that an edit concerns, according to a traced run."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.stages_file import load_stages_file
from tests.mutation.mutations import Place, modules
from tests.project import ENVIRONMENT, PROFILE

STAGES = tuple(load_stages_file().stages)


@dataclass(frozen=True)
class Oracle:
    """Stage → the code that it executed, and which module imports which name from where."""

    traces: dict[str, dict[str, Any]]
    importers: dict[tuple[str, str], set[tuple[str, str]]]
    """(module, name) → (path, name there) for each `from module import name`."""

    def concerned(self, place: Place) -> set[str]:
        """Return the stages that executed the function, made an instance of the class or read the constant."""
        return {stage for stage, trace in self.traces.items() if _concerns(trace, place, self.importers)}


def _concerns(trace: dict[str, Any], place: Place, importers: dict[tuple[str, str], set[tuple[str, str]]]) -> bool:
    entered = [tuple(frame) for frame in trace["functions"].get(place.path, [])]
    if place.function is not None:
        return place.function in entered
    if place.kind is not None:
        method = any(name.startswith(f"{place.kind}.") for _, name in entered)
        return method or f"{place.module}.{place.kind}" in trace["classes"]
    if place.constant is not None:
        readers = {(place.path, place.constant), *importers.get((place.module, place.constant), set())}
        return any(name in trace["names"].get(path, []) for path, name in readers)
    return place.module in trace["modules"]


def trace_all(project: Path) -> Oracle:
    """Run every stage of the smoke profile once in a scratch copy, each in a process of its own, and watch."""
    traces = {}
    for stage in STAGES:
        out = project / f"{stage}.trace.json"
        command = [sys.executable, "-m", "tests.mutation.trace", PROFILE, stage, str(out)]
        process = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr[-3000:]
        traces[stage] = json.loads(out.read_text())
    return Oracle(traces, _importers(project))


def kept(folder: Path, project: Path) -> Oracle:
    """Return the oracle from stored traces."""
    return Oracle({stage: json.loads((folder / f"{stage}.json").read_text()) for stage in STAGES}, _importers(project))


def make(project: Path) -> Oracle:
    """Trace all stages, or use the traces in $K2_TRACES."""
    folder = os.environ.get("K2_TRACES")
    return kept(Path(folder), project) if folder else trace_all(project)


def _importers(root: Path) -> dict[tuple[str, str], set[tuple[str, str]]]:
    importers: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for path in modules(root).values():
        for node in ast.walk(ast.parse((root / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    importers.setdefault((node.module, alias.name), set()).add((path, alias.asname or alias.name))
    return importers
