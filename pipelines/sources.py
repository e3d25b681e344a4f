"""What a stage reads from outside the graph, as the profile has it: part of its code file, its key and its record."""

from typing import Any

from pydantic import ValidationError

from engine.errors import UserError, warn
from engine.identity import located
from engine.identity.digests import STORE, Digests
from engine.identity.sources import LIBRARY, PYTHON, UNVERSIONED, Identities, SourceSettings, identities, named
from pipelines import graph
from pipelines.parameters import stage_parameters
from pipelines.stages_file import load_stages_file

SECTION = "sources"


def stage_sources(stage: str, parameters: dict[str, Any], profile: str | None) -> Identities:
    """Return the identity of every file and package that a stage's parameters name, by field.

    Args:
        stage: whose.
        parameters: those that it reads, its own under its name.
        profile: whose conf/<profile>/sources.yml says what becomes of a remote file without an identity.

    Raises:
        UserError: a file is not there or cannot be read, a remote one has no identity where one is wanted.

    """
    name = load_stages_file().profile(profile)
    digests = Digests(graph.root() / STORE)
    found = identities(stage_parameters(stage, parameters.get(stage, {}), name), stage, graph.root(), digests)
    digests.save()
    for field, files in found.items():
        for file, identity in files.items():
            if identity == UNVERSIONED:
                _unversioned(field, file, name)
    waived = {LIBRARY if one == PYTHON else f"package {one}" for one in load_stages_file().waived}
    kept = {field: {k: v for k, v in files.items() if k not in waived} for field, files in found.items()}
    return {field: files for field, files in kept.items() if files}


def check_sources(profile: str) -> None:
    """Refuse, before DVC starts anything, what a stage could not read; raises as `stage_sources` does."""
    for stage in load_stages_file().stages:
        stage_sources(stage, graph.parameters(profile), profile)


def changed(old: Identities, new: Identities) -> str:
    """Return the name of the first file or package whose identity differs."""
    pairs = [{(name, value) for files in one.values() for name, value in files.items()} for one in (old, new)]
    return min(name for name, _ in pairs[0] ^ pairs[1])


def touched(profile: str | None) -> str:
    """Return paths, sizes and times of the local files that parameters name: what a watcher compares, unread."""
    found = []
    for stage in load_stages_file().stages:
        given = graph.parameters(profile).get(stage, {})
        try:
            model = stage_parameters(stage, given, load_stages_file().profile(profile))
        except UserError:
            continue  # whoever asks for the plan reads that sentence
        found += [line for source in named(model, stage) for line in located.stamps(source, graph.root())]
    return "".join(found)


def _unversioned(field: str, file: str, profile: str) -> None:
    """Refuse a remote file without an identity, or warn of it, as the profile wants."""
    if source_settings(profile).unversioned == "refuse":
        raise UserError(
            f"{field}: the store of {file} states no ETag, version or checksum, so an edit of it would stay unnoticed: "
            f"add `revision:` beside it, a word that you change with the file (conf/{profile}/sources.yml refuses it)."
        )
    warn(
        f"{field}: the store of {file} states no ETag, version or checksum: an edit of it stays unnoticed; add "
        "`revision:` beside it."
    )


def source_settings(profile: str) -> SourceSettings:
    """Return what conf/<profile>/sources.yml says, checked."""
    try:
        return SourceSettings.model_validate(graph.config(profile, SECTION))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"conf/base or conf/{profile}/sources.yml: the field {field}: {first['msg']}.") from error
