"""A study's results in the repository: a file with every run's figures, and a compressed one with its curves."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_object, write_atomic
from studies.registration import Registration

SCHEMA = 1


def write_results(
    folder: Path,
    registration: Registration,
    runs: Sequence[dict[str, Any]],
    sweeps: dict[str, Any],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write `folder`/<name>.json and its curves; return the content. `origin` is commit, machine, code, data, scale."""
    content = {
        "schema": SCHEMA,
        "study": registration.name,
        "registration": {"digest": registration.digest, "commit": registration.commit},
        **origin,
        "sweeps": sweeps,
        "runs": [{name: value for name, value in run.items() if name != "curves"} for run in runs],
    }
    write_atomic(folder / f"{registration.name}.json", (json.dumps(content, indent=1) + "\n").encode())
    curves = [{**_label(run), "curves": run["curves"]} for run in runs if run["curves"]]
    packed = gzip.compress(json.dumps(curves, separators=(",", ":")).encode(), mtime=0)
    write_atomic(folder / f"{registration.name}.curves.json.gz", packed)
    return content


def read_results(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a study's stored results; None if it has not been run."""
    path = folder / f"{name}.json"
    return read_object(path) if path.is_file() else None


def read_curves(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return arm, seed, budget and curves of each run."""
    return list(json.loads(gzip.decompress((folder / f"{name}.curves.json.gz").read_bytes())))


def _label(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in ("arm", "seed", "budget")}


def confirmatory(results: dict[str, Any], registration: Registration) -> str | None:
    """Return None if git had this registration before each run; otherwise why the runs are only exploratory."""
    if registration.commit is None:
        return "the registration is not committed, or was edited after its commit"
    if results["registration"]["digest"] != registration.digest:
        return "the registration was changed after the runs"
    for run in results["runs"]:
        at_run = run["registration"]
        if at_run["commit"] is None:
            return f"the registration was not committed when {run['arm']}, seed {run['seed']} ran"
        if at_run["digest"] != registration.digest:
            return f"the registration was changed after {run['arm']}, seed {run['seed']} ran"
    return None
