"""The `model:` block: what it may say, and what its null fields become."""

from dataclasses import replace

import pytest
from pydantic import BaseModel, ValidationError

from engine.errors import UserError
from engine.model.parameters import ModelBlock, config_from_parameters, gate_factor
from tests.engine.model.test_size import SHAPE

WHOLE = {**SHAPE, "rope_theta": 50000, "rms_norm_eps": 1e-6, "initializer_range": 0.02}


class Parameters(BaseModel):
    model: ModelBlock


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused():
    with pytest.raises(UserError, match=r"model\.vocab_size is 10"):
        config_from_parameters({"vocab_size": 10}, 11, 64)


def test_parameters_with_an_unknown_or_missing_field_are_refused():
    with pytest.raises(UserError, match=r"parameters: model: field hiden_size is unknown"):
        config_from_parameters({**SHAPE, "hiden_size": 3}, 100, 64)
    with pytest.raises(UserError, match=r"parameters: model: field kv_lora_rank is missing"):
        config_from_parameters({k: v for k, v in SHAPE.items() if k != "kv_lora_rank"}, 100, 64)


def test_a_factor_of_null_is_computed_for_the_experts():
    c = config_from_parameters({**SHAPE, "routed_scaling_factor": None}, 163840, 4096)
    assert c.routed_scaling_factor == pytest.approx(2.827, abs=0.002)
    assert replace(c, routed_scaling_factor=2.827) == config_from_parameters(SHAPE, 163840, 4096)


@pytest.mark.parametrize(("n_experts", "k", "factor"), [(64, 6, 2.446), (384, 8, 2.827)])
def test_gate_factor_gives_moonlights_and_k2s_values(n_experts, k, factor):
    assert gate_factor(n_experts, k) == pytest.approx(factor, abs=0.002)


def test_a_block_in_a_schema_has_every_field_with_its_type():
    block = Parameters.model_validate({"model": WHOLE}).model
    assert block == {**WHOLE, "vocab_size": None}
    assert isinstance(block["rope_theta"], float)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"hiden_size": 3}, "extra_forbidden"),
        ({"max_position_embeddings": 128}, "extra_forbidden"),
        ({"rope_scaling": None}, "extra_forbidden"),
        ({"hidden_size": None}, "model_number"),
        ({"hidden_size": 1.5}, "model_number"),
        ({"hidden_size": 0}, "model_number"),
        ({"rope_theta": "much"}, "model_number"),
        ({"rms_norm_eps": float("nan")}, "model_number"),
    ],
)
def test_a_schema_names_the_field_that_it_refuses(change, kind):
    with pytest.raises(ValidationError) as caught:
        Parameters.model_validate({"model": {**WHOLE, **change}})
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (("model", *change), kind)


def test_a_schema_wants_all_fields_but_the_vocabulary():
    for name in WHOLE:
        with pytest.raises(ValidationError) as caught:
            Parameters.model_validate({"model": {k: v for k, v in WHOLE.items() if k != name}})
        (error,) = caught.value.errors()
        assert (error["loc"], error["type"]) == (("model", name), "missing")


@pytest.mark.parametrize("block", [None, [], "k2"])
def test_a_block_that_is_no_mapping_is_refused(block):
    with pytest.raises(ValidationError, match="give a mapping of vocab_size, hidden_size"):
        Parameters.model_validate({"model": block})
