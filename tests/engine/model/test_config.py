"""A configuration from elsewhere is taken whole or refused in a sentence that names the file and the field."""

import pytest
from transformers import DeepseekV3Config

from engine.errors import UserError
from engine.model.config import K2Config, require_context
from tests.engine.tiny import YARN, config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "architectures is .*Llama"),
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"n_group": 8}, "n_group"),
        ({"scoring_func": "softmax"}, "scoring_func"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers"),
        ({"rope_interleave": False}, "rope_interleave"),
        ({"sliding_window": 512}, "field sliding_window is unknown"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1, but num_attention_heads 2"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ({"num_experts_per_tok": 7}, r"num_experts_per_tok \(7\) exceeds n_routed_experts \(6\)"),
        ({"qk_rope_head_dim": 7}, "qk_rope_head_dim is 7"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "'dynamic' is unknown"),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_scaling lacks original"),
        ({"rope_scaling": {**YARN, "factor": 0.5}}, "factor is 0.5"),
        ({"rope_theta": 1}, "rope_theta is 1;"),
        ({"rope_scaling": {**YARN, "beta_fast": 0}}, r"rope_scaling\.beta_fast is 0; give a positive number"),
        ({"rope_scaling": {**YARN, "mscale": 0}}, r"rope_scaling\.mscale is 0"),
        ({"rope_scaling": {**YARN, "mscale_all_dim": 0.0}}, r"rope_scaling\.mscale_all_dim is 0"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings is 0"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 16.5}}, "16.5; give a whole number"),
        ({"rope_scaling": {**YARN, "rope_type": "linear"}}, "has type 'yarn' and rope_type 'linear'"),
        ({"rope_scaling": {**YARN, "rope_theta": 10}}, "rope_scaling.rope_theta is unknown"),
        ({"rope_scaling": YARN, "max_position_embeddings": 65}, "max_position_embeddings is 65, .* 16 positions by 4"),
        ({"rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}}, "rope_parameters and rope_scaling contr"),
        ({"rope_scaling": YARN, "rope_parameters": {**YARN, "factor": 8}}, "rope_parameters and rope_scaling contr"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "rope_parameters and rope_theta contradict"),
        ({"rope_parameters": {**YARN, "rope_type": "linear"}}, "has type 'yarn' and rope_type 'linear'"),
        ({"rope_parameters": [1]}, "rope_parameters is .1.; give a mapping"),
        ({"qk_head_dim": 17}, "qk_head_dim is 17, but qk_nope_head_dim 8 and qk_rope_head_dim 8"),
        ({"head_dim": 16}, "head_dim is 16, but qk_rope_head_dim 8"),
        ({"sliding_window": 0}, "field sliding_window is unknown"),
        ({"rope_scaling": {**YARN, "beta_fast": "fast"}}, "beta_fast is 'fast'"),
        ({"rope_scaling": {**YARN, "attention_factor": 2}}, "attention_factor is unknown"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": None}, "rope_parameters lacks rope_theta"),
    ],
)
def test_a_foreign_or_contradictory_configuration_is_refused(change, named):
    with pytest.raises(UserError, match=named) as refused:
        K2Config.from_dict({**config().to_dict(), **change}, "there/config.json")
    assert str(refused.value).startswith("there/config.json: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["hidden_size", "q_lora_rank", "rope_theta", "rms_norm_eps"])
def test_a_missing_field_is_named(missing):
    values = config().to_dict()
    del values[missing]
    with pytest.raises(UserError, match=rf"c\.json: field {missing} is missing"):
        K2Config.from_dict(values, "c.json")


@pytest.mark.parametrize("scaling", [None, YARN, {"type": "linear", "factor": 2.0}])
def test_what_transformers_writes_is_read_back(scaling):
    """transformers 5 writes rope_parameters and some fields of its own; what it says of the model is kept."""
    c = config(rope_scaling=scaling, rope_theta=1234.5, q_lora_rank=None)
    written = DeepseekV3Config(**c.to_dict()).to_diff_dict()
    assert "rope_scaling" not in written
    back = K2Config.from_dict(written, "config.json")
    assert back == c


def test_a_configuration_that_says_the_same_twice_is_taken():
    given = {"rope_type": "yarn", **{name: value for name, value in YARN.items() if name != "type"}}
    twice = {"rope_scaling": {**YARN, "rope_type": "yarn"}, "rope_parameters": {**given, "rope_theta": 50000}}
    sums = {"qk_head_dim": 16, "head_dim": 8, "num_key_value_heads": 2, "sliding_window": False, "soft_cap": None}
    assert K2Config.from_dict({**config().to_dict(), **twice, **sums}) == config(rope_scaling=YARN)


def test_k2s_released_configuration_is_taken():
    released = {**config().to_dict(), "model_type": "kimi_k2", "aux_loss_alpha": 0.001, "seq_aux": True, "ep_size": 1}
    assert K2Config.from_dict({**released, "auto_map": {"AutoConfig": "x"}, "head_dim": 8}) == config()


def test_positions_beyond_the_trained_length_are_refused():
    require_context(config(), 64, "sft.max_tokens")
    with pytest.raises(UserError, match=r"sft\.max_tokens is 65, but the checkpoint reads 64 positions without YaRN"):
        require_context(config(), 65, "sft.max_tokens")
    with pytest.raises(UserError, match="with rope_scaling by 4"):
        require_context(config(rope_scaling=YARN), 65, "sft.max_tokens")
