"""Write run records of outputs that no run here has made, since the plan and the recall go by records.

Records stay on the machine that made them, so a clone has none of what `dvc pull` brought. A stage gets one, with the
outcome `pulled`, if and only if its entry in dvc.lock agrees with what is here: its outputs, what it reads from other
stages, and its code file, which holds code, parameters and sources. DVC would not run such a stage either.

What only the record of the run says (how long it took, a warning about the past of its training) stays where it ran.
"""

import hashlib
from pathlib import Path
from typing import Any

from engine.artifacts.files import read_object
from engine.identity import records
from engine.identity.key import flatten, stage_key
from engine.launch.lifetime import is_locked
from engine.remedy import command, make_again
from pipelines import graph
from pipelines.code_files import code_file
from pipelines.ledger import ledger_path, read_ledger
from pipelines.restore import changed_outputs
from pipelines.stages_file import CODE, load_stages_file
from pipelines.standing import harm_of

Record = dict[str, Any]


def take_in_pulled(profile: str) -> list[str]:
    """Write the record of every stage whose outputs DVC has brought; return these stages.

    The code files must be those of the present code (`code_files.write_files`). DVC is asked only where a record is
    lacking, so a repository in which all was run pays nothing.
    """
    ledger = read_ledger(profile)
    candidates = {stage: entry for stage, entry in ledger.items() if _may_be_pulled(profile, stage, ledger)}
    if not candidates:
        return []
    files = {stage: set(_paths(entry, "outs")) | set(_paths(entry, "deps")) for stage, entry in candidates.items()}
    outputs = {path for name, entry in ledger.items() if name != "code" for path in _paths(entry, "outs")}
    changed = changed_outputs(set().union(*files.values()) & outputs)
    return [stage for stage in candidates if not files[stage] & changed and _take_in(profile, stage)]


def record_without_run(
    stage: str, profile: str, parts: dict[str, Any], outcome: str, origin: dict[str, str], metrics: dict[str, Any]
) -> Record:
    """Return a run record of the present outputs as the runner writes it, without its times.

    Args:
        stage: the stage's name.
        profile: the profile's name.
        parts: the parts of the stage's key.
        outcome: how the outputs came here.
        origin: where they came from.
        metrics: the stage's headline metrics.

    """
    return {
        "stage": stage,
        "profile": profile,
        "key": stage_key(**parts),
        "parts": {**parts, "parameters": flatten(parts["parameters"])},
        "outputs": {name: graph.digest_of(profile, name) for name in graph.stage_graph(stage).outputs},
        "outcome": outcome,
        "origin": origin,
        "error": None,
        "attempt": 1,
        "node_seconds": {},
        "metrics": metrics,
        "jobs": {},
        **records.provenance(CODE),
    }


def _may_be_pulled(profile: str, stage: str, ledger: dict[str, Any]) -> bool:
    """Return whether a stage has all its files and no record of them, and dvc.lock's entry is of its present inputs."""
    if stage not in load_stages_file().stages or is_locked(graph.work_folder(profile) / stage / "lock"):
        return False
    outline = graph.stage_graph(stage)
    outputs = graph.digests_of(profile, outline.outputs)
    if len(outputs) < len(outline.outputs) or not _is_of_present_inputs(profile, outline, ledger):
        return False
    known = records.read_records(graph.runs_folder(profile, stage), stage_key(**_parts(profile, stage)))
    return not any(run["outcome"] in records.GOOD and run["outputs"] == outputs for run in known)


def _is_of_present_inputs(profile: str, outline: graph.StageGraph, ledger: dict[str, Any]) -> bool:
    """Return whether dvc.lock's entry of a stage has its present datasets, code file, and the inputs' present entries.

    Whether the inputs are what their own entries say is for DVC to answer, as it is of the outputs.
    """
    entry, code = ledger[outline.name], code_file(outline.name, profile)
    read, made = _paths(entry, "deps"), _paths(entry, "outs")
    inputs = {graph.tracked_path(profile, name) for name in outline.inputs}
    if set(read) != {code, *inputs} or set(made) != {graph.tracked_path(profile, name) for name in outline.outputs}:
        return False
    published = {path: md5 for other in ledger.values() for path, md5 in _paths(other, "outs").items()}
    present = code.is_file() and hashlib.md5(code.read_bytes(), usedforsecurity=False).hexdigest() == read[code]
    return present and all(path.exists() and published.get(path) == read[path] for path in inputs)


def _take_in(profile: str, stage: str) -> bool:
    """Write the record of a stage whose files are those of dvc.lock; return False where an output is damaged."""
    metrics_file = graph.dataset_path(profile, f"{stage}_metrics")
    metrics = read_object(metrics_file, make_again(stage, profile, force=True))
    origin = {"pulled": ledger_path(profile).relative_to(graph.root()).as_posix()}
    record = record_without_run(stage, profile, _parts(profile, stage), records.PULLED, origin, metrics)
    moment = records.now()
    record |= {"started": moment, "finished": moment, "seconds": 0.0}
    if harm_of(profile, record, read=True):  # of which `restore.settle` has warned
        return False
    records.write_record(graph.runs_folder(profile, stage), record)
    return True


def _parts(profile: str, stage: str) -> dict[str, Any]:
    """Return the parts of the stage's key, by its code file and the digests of its inputs."""
    content = read_object(code_file(stage, profile), f"run `{command('repro', profile)}`")
    return {**content, "inputs": graph.digests_of(profile, graph.stage_graph(stage).inputs)}


def _paths(entry: dict[str, Any], kind: str) -> dict[Path, str]:
    """Return the files and folders of an entry of dvc.lock, `deps` or `outs`, each with its MD5."""
    return {graph.root() / str(item["path"]): str(item.get("md5", "")) for item in entry.get(kind, [])}
