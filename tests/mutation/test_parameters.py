"""Every stage and parameter: another value makes exactly the stage that reads it stale."""

from typing import Any

import pytest

from engine.identity.fingerprint import StageCode
from engine.identity.key import flatten, stage_key
from pipelines import code_files, graph
from pipelines.stages_file import load_stages_file

STAGES = tuple(load_stages_file().stages)


def with_other(parameters: dict[str, Any], dotted: str) -> dict[str, Any]:
    """Return the parameters with another value at a dotted name."""
    first, _, rest = dotted.partition(".")
    value = parameters[first]
    if rest:
        return {**parameters, first: with_other(value, rest)}
    return {**parameters, first: not value if isinstance(value, bool) else [value, "another"]}


@pytest.mark.parametrize("profile", load_stages_file().profiles)
def test_a_parameter_makes_exactly_its_readers_stale(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "code_of", lambda *_: StageCode({}, {}, {}, {}))
    monkeypatch.setattr(code_files, "stage_sources", lambda *_: {})  # other values name no file

    def keys() -> dict[str, str]:
        return {stage: stage_key(**code_files.stage_file(stage, profile), inputs={}) for stage in STAGES}

    resolved = graph.parameters(profile)
    before = keys()
    names = flatten(resolved)
    assert len(names) > 100
    for name in names:
        changed = with_other(resolved, name)
        monkeypatch.setattr(graph, "parameters", lambda _, changed=changed: changed)
        now = keys()
        readers = {
            stage
            for stage in STAGES
            if f"params:{name.partition('.')[0]}" in graph.stage_graph(stage).pipeline.inputs()
        }
        assert {stage for stage in STAGES if now[stage] != before[stage]} == readers, name
        assert len(readers) == 1
