"""Each stage's code version: a hash of code, parameters and sources, as in the stage key but without the inputs.

Fingerprinting reads every module of the repository, so the versions are cached beside Dagster's own state until a
source, configuration or data file is touched; loading the definitions then only walks through the directories.
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
    """Return the version of one stage's code, parameters and sources, from the parts that a run record holds."""
    return stage_key(code=code, parameters=flat_parameters, inputs={}, sources=sources)


def code_versions(profile: str, cache: Path) -> dict[str, str]:
    """Return stage → code version of the present working tree; empty before the profile's first run.

    Args:
        profile: the profile's name.
        cache: a JSON file that caches the result; a foreign or broken one is ignored.

    """
    if not any((graph.data_folder(profile) / ".runs").glob("*/*.json")):
        return {}  # nothing to compare with, so nothing to compute
    state = f"{working_tree()} {digest_bytes(touched(profile).encode())}"
    if known := _remembered(cache, state):
        return known
    resolved = graph.parameters(profile)
    versions = {stage: _current(stage, resolved, profile) for stage in load_stages_file().stages}
    write_atomic(cache, canonical_json({"state": state, "versions": versions}))
    return versions


def working_tree() -> str:
    """Return a digest of every file that a code version can depend on, by path, size and modification time."""
    return digest_bytes("".join(_stamps()).encode())


def _current(stage: str, resolved: dict[str, Any], profile: str) -> str:
    own = {name: resolved.get(name, {}) for name in graph.stage_graph(stage).parameters}
    return code_version(graph.code_of(stage).as_dict(), flatten(own), stage_sources(stage, own, profile))


def _remembered(cache: Path, state: str) -> dict[str, str] | None:
    try:
        known = json.loads(cache.read_bytes())
        return dict(known["versions"]) if known["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamps() -> Iterator[str]:
    """Yield path, size and modification time of every file that a code version can depend on."""
    waiting = [ROOT / name for name in _WATCHED if (ROOT / name).exists()]
    while waiting:
        path = waiting.pop()
        if path.is_dir():
            waiting += sorted(Path(entry) for entry in os.scandir(path) if entry.name != "__pycache__")
            continue
        stat = path.stat()
        yield f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
