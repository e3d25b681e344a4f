"""Parameters are refused by name before any node starts."""

import copy
from typing import Any

import pytest

from engine.errors import UserError
from pipelines import graph
from pipelines.parameters import check_parameters
from pipelines.stages_file import load_stages_file


@pytest.fixture
def smoke_parameters() -> dict[str, Any]:
    return copy.deepcopy(graph.parameters("laptop"))


@pytest.mark.parametrize("profile", load_stages_file().profiles)
def test_every_profile_is_good(profile: str) -> None:
    check_parameters(graph.parameters(profile), profile)


def test_unknown_stage(smoke_parameters: dict[str, Any]) -> None:
    smoke_parameters["pretrian"] = {}
    with pytest.raises(UserError, match="top-level key 'pretrian' is no stage"):
        check_parameters(smoke_parameters, "laptop")


@pytest.mark.parametrize("stage", load_stages_file().stages)
def test_unknown_key_is_named_with_its_stage(smoke_parameters: dict[str, Any], stage: str) -> None:
    smoke_parameters[stage]["nonsense"] = 1
    with pytest.raises(UserError, match=rf"the parameter {stage}\.nonsense is unknown"):
        check_parameters(smoke_parameters, "laptop")


def test_close_key_is_suggested(smoke_parameters: dict[str, Any]) -> None:
    smoke_parameters["rl"]["sede"] = smoke_parameters["rl"].pop("seed")
    with pytest.raises(UserError, match=r"rl\.(sede|seed)"):
        check_parameters(smoke_parameters, "laptop")


@pytest.mark.parametrize(
    ("block", "unknown", "suggestion"),
    [
        (("pretrain", "model"), "hiden_size", "hidden_size"),
        (("pretrain", "schedule"), "phase", "phases"),
        (("corpus", "quality", "web"), "min_byte", "min_bytes"),
    ],
)
def test_a_key_inside_a_block_is_held_against_those_beside_it(
    smoke_parameters: dict[str, Any], block: tuple[str, ...], unknown: str, suggestion: str
) -> None:
    inside = smoke_parameters
    for name in block:
        inside = inside[name]
    inside[unknown] = 1
    with pytest.raises(
        UserError, match=rf"the parameter {'.'.join(block)}\.{unknown} is unknown; did you mean {suggestion}\?"
    ):
        check_parameters(smoke_parameters, "laptop")


@pytest.mark.parametrize("stage", load_stages_file().stages)
def test_wrong_kind_names_the_field(smoke_parameters: dict[str, Any], stage: str) -> None:
    smoke_parameters[stage]["seed"] = "many"
    with pytest.raises(UserError, match=rf"{stage}\.seed.*'many'"):
        check_parameters(smoke_parameters, "laptop")


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        ({"base_url": "localhost:8000/v1", "model": "m"}, "base_url is not an address like http"),
        ({"model": "m"}, "openai.*base_url"),
    ],
)
def test_a_language_model_that_cannot_be_reached_is_refused_before_a_run(
    smoke_parameters: dict[str, Any], llm: dict[str, Any], words: str
) -> None:
    smoke_parameters["rephrase"]["model"] |= {"llm": {"provider": "openai", **llm}}
    with pytest.raises(UserError, match=rf"the parameter rephrase\.model\.llm: .*{words}"):
        check_parameters(smoke_parameters, "laptop")


@pytest.mark.parametrize("address", ["https://me:hunter2@host/v1", "https://host/v1?api_key=hunter2"])
def test_an_address_with_a_password_is_refused_since_keys_and_records_hold_parameters(
    smoke_parameters: dict[str, Any], address: str
) -> None:
    smoke_parameters["rephrase"]["model"] = {"llm": {"provider": "openai", "base_url": address, "model": "m"}}
    with pytest.raises(UserError, match=r"rephrase\.model\.llm\.base_url holds a password or key") as caught:
        check_parameters(smoke_parameters, "laptop")
    assert "hunter2" not in str(caught.value)
