"""Logits, gradients and chosen experts are those of transformers' DeepseekV3ForCausalLM on the same random weights.

The oracle runs as it ships in fp32, with its readable (eager) attention and experts. In fp64 it would still normalise,
route and take its softmax in fp32, so there its own code runs with `torch.float32` meaning fp64.
"""

import types

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as oracle_code

from engine.model.model import K2Model
from engine.model.rope import inverse_frequencies, rotation_magnitude
from tests.engine.tiny import config

MARGIN = 1e-6
YARN = {
    "type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 1.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
SHORT = {**YARN, "original_max_position_embeddings": 16, "factor": 4.0}
SHAPES = {
    "plain": {},
    "no q-LoRA": {"q_lora_rank": None},
    "dense only": {"first_k_dense_replace": 3},
    "no dense layer": {"first_k_dense_replace": 0},
    "one expert of four": {"n_routed_experts": 4, "num_experts_per_tok": 1, "routed_scaling_factor": 1.0},
    "eight experts of sixteen": {"n_routed_experts": 16, "num_experts_per_tok": 8, "routed_scaling_factor": 2.827},
    "all experts": {"num_experts_per_tok": 6},
    "two shared experts": {"n_shared_experts": 2},
    "v wider than q and k": {"qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 16},
    "K2's head": {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_attention_heads": 1},
    "YaRN as K2": {"rope_scaling": YARN, "qk_rope_head_dim": 64},
    "YaRN, wide ramp": {"rope_scaling": {**SHORT, "beta_fast": 32.0}, "qk_rope_head_dim": 64},
    "YaRN, unequal mscales": {"rope_scaling": {**SHORT, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "linear scaling": {"rope_scaling": {"type": "linear", "factor": 4.0}},
}
IDS = torch.randint(0, 61, (2, 48), generator=torch.Generator().manual_seed(0))


def pair(changes, dtype):
    """Our model and the oracle on the same random weights, gains and router biases not at their start."""
    ours = K2Model(config(**{"initializer_range": 0.1} | changes), seed=5)
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=random), alpha=0.3 if "norm" in name else 0.1)
    settings = DeepseekV3Config(**ours.config.to_dict(), attn_implementation="eager", experts_implementation="eager")
    theirs = DeepseekV3ForCausalLM(settings)
    weights = {name if name.startswith("lm_head") else f"model.{name}": t for name, t in ours.state_dict().items()}
    assert theirs.load_state_dict(weights) == ([], [])
    return ours.to(dtype).eval(), theirs.to(dtype).eval()


class Wide(types.ModuleType):
    """torch, but that its float32 is fp64."""

    def __getattr__(self, name):
        return torch.float64 if name in {"float32", "float"} else getattr(torch, name)


def watch_routers(ours, theirs):
    """Lists that fill with each router's chosen experts, and the oracle's margin between chosen and not."""
    chosen, expected = [], []
    for router in ours.routers().values():
        router.register_forward_hook(lambda _m, _i, out: chosen.append(out[0]))

    def see(module, _inputs, out):
        logits, _, indices = out
        ranked = (logits.sigmoid() + module.e_score_correction_bias).sort(-1, descending=True).values
        k = module.top_k
        clear = ranked[:, k - 1] - ranked[:, k] > MARGIN if k < ranked.shape[1] else torch.ones(len(ranked)).bool()
        expected.append((indices, clear))

    for module in theirs.modules():
        if isinstance(module, oracle_code.DeepseekV3TopkRouter):
            module.register_forward_hook(see)
    return chosen, expected


def compare(changes, dtype, atol, monkeypatch):
    ours, theirs = pair(changes, dtype)
    chosen, expected = watch_routers(ours, theirs)
    if dtype == torch.float64:
        monkeypatch.setattr(oracle_code, "torch", Wide("torch"))
    with torch.no_grad():
        a, b = ours(IDS), theirs(IDS).logits
    assert a.dtype == b.dtype == dtype
    assert b.std() > 0.1
    assert (a - b).abs().max() <= atol
    assert len(chosen) == len(expected) == 3 - min(3, ours.config.first_k_dense_replace)
    for ids, (theirs_ids, clear) in zip(chosen, expected, strict=True):
        assert clear.float().mean() > 0.9
        assert torch.equal(ids[clear].sort(-1).values, theirs_ids[clear].sort(-1).values)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_logits_and_experts_equal_the_oracle_in_fp32(changes, monkeypatch):
    compare(changes, torch.float32, 1e-5, monkeypatch)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_logits_and_experts_equal_the_oracle_in_fp64(changes, monkeypatch):
    compare(changes, torch.float64, 1e-10, monkeypatch)


def gradients(model, logits):
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    return {name.removeprefix("model."): p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["plain", "no q-LoRA", "eight experts of sixteen", "dense only", "YaRN, wide ramp"])
def test_gradients_equal_the_oracles(name):
    ours, theirs = pair(SHAPES[name], torch.float32)
    a, b = gradients(ours, ours(IDS)), gradients(theirs, theirs(IDS).logits)
    assert a.keys() == b.keys()
    for weight, gradient in b.items():
        assert gradient.norm() > 0, weight
        assert (a[weight] - gradient).norm() <= 1e-4 * gradient.norm(), weight


@pytest.mark.parametrize("name", [name for name, changes in SHAPES.items() if "rope_scaling" in changes or not changes])
def test_rotary_frequencies_have_the_oracles_bits(name):
    c = config(**SHAPES[name])
    rotary = oracle_code.DeepseekV3RotaryEmbedding(DeepseekV3Config(**c.to_dict()))
    assert torch.equal(inverse_frequencies(c), rotary.inv_freq)
    assert rotation_magnitude(c) == pytest.approx(rotary.attention_scaling, rel=1e-12)
