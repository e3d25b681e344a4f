"""The files and packages that a stage reads from outside the graph: part of its code file, its key and its record."""

from typing import Any

from engine.checked import checked
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
        stage: the stage's name.
        parameters: those that the stage reads, its own under its name.
        profile: the profile, whose sources.yml says whether a remote file without an identity is refused.

    Raises:
        UserError: a file is missing or cannot be read, or a remote file has no identity where the profile wants one.

    """
    name = load_stages_file().profile(profile)
    digests = Digests(graph.root() / STORE)
    read = identities(stage_parameters(stage, parameters.get(stage, {}), name), stage, graph.root(), digests)
    digests.save()
    for field, files in read.items():
        for file, identity in files.items():
            if identity == UNVERSIONED:
                _unversioned(field, file, name)
    waived = {
        LIBRARY if distribution == PYTHON else f"package {distribution}" for distribution in load_stages_file().waived
    }
    counted = {field: {k: v for k, v in files.items() if k not in waived} for field, files in read.items()}
    return {field: files for field, files in counted.items() if files}


def check_sources(profile: str) -> None:
    """Refuse, before DVC starts anything, a source that a stage could not read; raises as `stage_sources` does."""
    for stage in load_stages_file().stages:
        stage_sources(stage, graph.parameters(profile), profile)


def changed(old: Identities, new: Identities) -> str:
    """Return the name of the first file or package whose identity differs."""
    pairs = [{(name, value) for files in sources.values() for name, value in files.items()} for sources in (old, new)]
    return min(name for name, _ in pairs[0] ^ pairs[1])


def touched(profile: str | None) -> str:
    """Return paths, sizes and times of the local files that parameters name, which a watcher compares."""
    lines = []
    for stage in load_stages_file().stages:
        parameters = graph.parameters(profile).get(stage, {})
        try:
            model = stage_parameters(stage, parameters, load_stages_file().profile(profile))
        except UserError:
            continue  # the plan shows this error
        lines += [line for source in named(model, stage) for line in located.stamps(source, graph.root())]
    return "".join(lines)


def _unversioned(field: str, file: str, profile: str) -> None:
    """Refuse a remote file without an identity, or warn about it, as the profile says."""
    if source_settings(profile).unversioned == "refuse":
        raise UserError(
            f"{field}: the store of {file} states no ETag, version or checksum, so an edit would go unnoticed: "
            f"add `revision:` beside it, a word that you change with the file (conf/{profile}/sources.yml requires it)."
        )
    warn(
        f"{field}: the store of {file} states no ETag, version or checksum, so an edit would go unnoticed: add "
        "`revision:` beside it."
    )


def source_settings(profile: str) -> SourceSettings:
    """Return the checked settings of conf/<profile>/sources.yml."""
    return checked(SourceSettings, graph.config(profile, SECTION), f"conf/base or conf/{profile}/sources.yml")
