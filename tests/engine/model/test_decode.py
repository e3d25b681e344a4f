"""Decoding with the latent cache is the full forward: batched, ragged, absorbed, rows dropped; at the stated cost."""

import pytest
import torch

from engine.model.cache import LatentCache
from engine.model.model import K2Model
from engine.model.size import cache_size
from tests.engine.model.held import held_bytes
from tests.engine.tiny import DECODED, config

LENGTHS = (9, 1, 6, 4)
NEW = 7
PROMPTS = [torch.randint(0, 61, (n + NEW,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def model_of(changes):
    return K2Model(config(**{"initializer_range": 0.1} | changes), seed=4).eval()


def prompts(model):
    """The prompts, left-padded to the longest, and a cache with room for what follows."""
    longest = max(LENGTHS)
    ids = torch.stack(
        [torch.cat((torch.zeros(longest - n, dtype=torch.int64), row[:n])) for n, row in zip(LENGTHS, PROMPTS)]
    )
    starts = [longest - n for n in LENGTHS]
    return ids, LatentCache(model.config, len(LENGTHS), longest + NEW, starts)


@pytest.mark.parametrize("changes", DECODED.values(), ids=DECODED)
@torch.no_grad()
def test_ragged_rows_decode_to_the_logits_of_their_own_full_forward(changes):
    model = model_of(changes)
    ids, cache = prompts(model)
    parts = [model(ids, cache)[:, -1]]
    for step in range(NEW):
        following = torch.stack([row[n + step] for n, row in zip(LENGTHS, PROMPTS)])
        parts.append(model(following[:, None], cache)[:, -1])
    decoded = torch.stack(parts, 1)
    for b, (n, row) in enumerate(zip(LENGTHS, PROMPTS)):
        full = model(row[None])[0, n - 1 :]
        assert (decoded[b] - full).abs().max() <= 1e-5


@torch.no_grad()
def test_several_tokens_at_once_and_one_by_one_are_the_same():
    model = model_of({})
    row = PROMPTS[0][None]
    full = model(row)
    for cut in (1, 5, row.shape[1] - 1):
        cache = LatentCache(model.config, 1, row.shape[1])
        parts = [model(row[:, :cut], cache), model(row[:, cut:], cache)]
        assert (torch.cat(parts, 1) - full).abs().max() <= 1e-5
        assert cache.length == row.shape[1]


@torch.no_grad()
def test_rows_may_be_dropped_and_repeated_on_the_way():
    model = model_of({})
    ids, cache = prompts(model)
    model(ids, cache)
    kept = torch.tensor([2, 0, 2])
    cache.select(kept)
    following = torch.stack([PROMPTS[b][LENGTHS[b]] for b in kept])
    decoded = model(following[:, None], cache)[:, -1]
    for place, b in enumerate(kept.tolist()):
        full = model(PROMPTS[b][None, : LENGTHS[b] + 1])[0, -1]
        assert (decoded[place] - full).abs().max() <= 1e-5


@torch.no_grad()
def test_the_cache_holds_latents_and_rotary_keys_and_nothing_per_head():
    """Read from the tensors that decoding really wrote; twice the heads take not a byte more."""
    sizes = []
    for heads in (2, 4):
        model = model_of({"num_attention_heads": heads})
        ids, cache = prompts(model)
        model(ids, cache)
        sizes.append(held_bytes(cache))
        c = model.config
        tokens = len(LENGTHS) * (max(LENGTHS) + NEW)
        assert sizes[-1] == (c.kv_lora_rank + c.qk_rope_head_dim) * 4 * c.num_hidden_layers * tokens
        assert sizes[-1] == cache_size(c, itemsize=4).bytes_per_token * tokens
    assert sizes[0] == sizes[1]


@torch.no_grad()
def test_decoding_never_forms_a_head_of_keys_or_values(monkeypatch):
    """The absorbed form: kv_b_proj is read as a weight, never applied to the cached latents."""
    model = model_of({})
    ids, cache = prompts(model)
    model(ids, cache)
    applied = []
    for attention in model.attentions():
        attention.kv_b_proj.register_forward_hook(lambda *_: applied.append(1))
    model(ids[:, -1:], cache)
    assert not applied
    model(ids)
    assert len(applied) == len(model.attentions())


@pytest.mark.parametrize("inside", [False, True], ids=["outside autocast", "inside"])
@torch.no_grad()
def test_large_logits_of_bf16_heads_are_not_rounded_to_bf16(inside):
    """A logit of 100 would be off by up to 0.25, and its share by a quarter."""
    attention = K2Model(config(initializer_range=1.0)).attentions()[0]
    c, random = attention.config, torch.Generator().manual_seed(3)
    shapes = [(2, 3, c.num_attention_heads, width) for width in (c.qk_nope_head_dim, c.qk_rope_head_dim)]
    shapes.append((2, 9, c.kv_lora_rank + c.qk_rope_head_dim))
    given = [(4 * torch.randn(shape, generator=random)).bfloat16() for shape in shapes]
    attention.kv_b_proj.weight.copy_(attention.kv_b_proj.weight.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
        got = attention._attend_absorbed(*given, None)
    expected = attention.double()._attend_absorbed(*(operand.double() for operand in given), None)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=2**-8, atol=1e-3)


def test_maxima_of_training_through_the_cache_are_exact_under_autocast():
    attention = K2Model(config(initializer_range=1.0)).attentions()[0]
    c, random = attention.config, torch.Generator().manual_seed(3)
    q, rotary, stored = (
        torch.randn(shape, generator=random).bfloat16()
        for shape in ((2, 3, 2, c.qk_nope_head_dim), (2, 3, 2, c.qk_rope_head_dim), (2, 9, 24))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention._attend_absorbed(q, rotary, stored, None)
    seen = attention.max_logit_H.double()
    key = attention.kv_b_proj.weight.bfloat16().double().view(2, -1, c.kv_lora_rank)[:, : c.qk_nope_head_dim]
    k_content = torch.einsum("bsr,hnr->bhsn", stored[..., : c.kv_lora_rank].double(), key)
    logits = torch.einsum("bthn,bhsn->bhts", q.double(), k_content)
    logits += torch.einsum("bthd,bsd->bhts", rotary.double(), stored[..., c.kv_lora_rank :].double())
    torch.testing.assert_close(seen, (logits * attention.scale).amax((0, 2, 3)), rtol=1e-6, atol=0)
