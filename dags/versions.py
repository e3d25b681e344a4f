"""Each stage's code version: hash(code fingerprint, parameters, sources), as the stage key has it but without inputs.

Fingerprinting reads every module of the repository, so the answer is kept beside Dagster's own state and holds
for as long as no source, configuration or data file was touched; loading the definitions then costs a directory walk.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, digest_bytes, write_atomic
from engine.identity.key import flatten, stage_key
from engine.identity.sources import Identities
from pipelines import graph
from pipelines.sources import stage_sources, touched
from pipelines.stages_file import ROOT, load_stages_file

VERSIONS = "code_versions.json"
_WATCHED = ("conf", "engine", "kernels", "nodes", "pipelines", "kedro.yml", "requirements")


def code_version(
    code: dict[str, dict[str, str]], flat_parameters: dict[str, Any], sources: Identities | None = None
) -> str:
    """The version of one stage's code, parameters and sources, from the parts that a run record holds."""
    return stage_key(code=code, parameters=flat_parameters, inputs={}, sources=sources)


def code_versions(profile: str, cache: Path) -> dict[str, str]:
    """Stage → code version as the working tree stands now; nothing before the profile's first run.

    Args:
        profile: whose parameters.
        cache: a JSON file to remember the answer in; a foreign or broken one is ignored.

    """
    if not any((graph.data_folder(profile) / ".runs").glob("*/*.json")):
        return {}  # nothing to compare with, so nothing to compute
    state = f"{working_tree()} {digest_bytes(touched(profile).encode())}"
    if known := _remembered(cache, state):
        return known
    resolved = graph.parameters(profile)
    found = {stage: _current(stage, resolved, profile) for stage in load_stages_file().stages}
    write_atomic(cache, canonical_json({"state": state, "versions": found}))
    return found


def working_tree() -> str:
    """A digest of every file that a code version can depend on, by path, size and modification time."""
    return digest_bytes("".join(_stamps()).encode())


def _current(stage: str, resolved: dict[str, Any], profile: str) -> str:
    read = {name: resolved.get(name, {}) for name in graph.stage_graph(stage).parameters}
    return code_version(graph.code_of(stage).as_dict(), flatten(read), stage_sources(stage, read, profile))


def _remembered(cache: Path, state: str) -> dict[str, str] | None:
    try:
        known = json.loads(cache.read_bytes())
        return dict(known["versions"]) if known["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamps() -> Iterator[str]:
    """Path, size and modification time of every file that a code version can depend on."""
    waiting = [ROOT / name for name in _WATCHED if (ROOT / name).exists()]
    while waiting:
        path = waiting.pop()
        if path.is_dir():
            waiting += sorted(Path(entry) for entry in os.scandir(path) if entry.name != "__pycache__")
            continue
        stat = path.stat()
        yield f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
