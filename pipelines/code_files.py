"""A stage's code file, data/<profile>/code/<stage>.json: its fingerprint, its parameters and its sources.

DVC's stage `code` (pipelines/commands/code.py) writes all of them, in under a second and with nothing heavy imported.
Each stage depends on its own file, so DVC's early cutoff runs again exactly the stages whose code or parameters have
changed, or a file that their parameters name.
"""

from pathlib import Path
from typing import Any

from engine.artifacts.files import canonical_json, read_object, write_atomic
from engine.errors import UserError
from engine.identity.library import Library
from engine.remedy import command
from pipelines import graph
from pipelines.configuration import check_configuration
from pipelines.sources import changed, stage_sources
from pipelines.stages_file import load_stages_file


def code_file(stage: str, profile: str | None) -> Path:
    """Return the path of a stage's code file."""
    return graph.data_folder(profile) / "code" / f"{stage}.json"


def current(stage: str, profile: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the stage's present code and sources, after checking that its code file agrees with them.

    Args:
        stage: the stage's name.
        profile: the profile's name.
        parameters: those that the stage is about to run with. Where the command line has changed some, the code file
            says nothing about the files that they name.

    Raises:
        UserError: the code file is missing, or older than the last edit of the code or of a source.

    """
    now = graph.code_of(stage).as_dict()
    path = code_file(stage, profile)
    remedy = f"run `{command('repro', profile, STAGE=stage)}`, which refreshes it first"
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}.")
    written = read_object(path, remedy)
    if written.get("code") != now:
        raise UserError(f"{path} is out of date, the code was edited after it was written: {remedy}.")
    sources, before = stage_sources(stage, parameters, profile), written.get("sources", {})
    if sources != before and written.get("parameters") == parameters:
        raise UserError(f"{path} is out of date, {changed(before, sources)} was edited after it was written: {remedy}.")
    return {"code": now, "sources": sources}


def stage_file(stage: str, profile: str | None, modules: Library | None = None) -> dict[str, Any]:
    """Return the content of a stage's code file; one library of `modules` serves several stages."""
    resolved = graph.parameters(profile)
    own_parameters = {name: resolved.get(name, {}) for name in graph.stage_graph(stage).parameters}
    content = {"code": graph.code_of(stage, modules).as_dict(), "parameters": own_parameters}
    sources = stage_sources(stage, own_parameters, profile)
    return {**content, "sources": sources} if sources else content


def key_parts(stage: str, profile: str) -> dict[str, Any]:
    """Return the parts of the stage's present key. Raises UserError where one of its inputs is missing."""
    inputs = {name: graph.digest_of(profile, name) for name in graph.stage_graph(stage).inputs}
    for name, digest in inputs.items():
        if digest is None:
            repro = command("repro", profile, STAGE=graph.producer(name))
            raise UserError(f"stage {stage} needs {name}, which is missing: run `{repro}` first.")
    return {**stage_file(stage, profile), "inputs": inputs}


def write_files(profile: str) -> None:
    """Write the code files that are out of date, after checking all parameters."""
    check_configuration(profile)
    with graph.library() as modules:
        for stage in load_stages_file().stages:
            data = canonical_json(stage_file(stage, profile, modules))
            path = code_file(stage, profile)
            if not path.is_file() or path.read_bytes() != data:
                write_atomic(path, data)
